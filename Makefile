# The front door. Everything real is in CMakeLists.txt and scripts/.
.PHONY: all run test check fuzz bench bench-attention bench-rag bench-serve bench-gen clean
all:
	@[ -f build/release/build.ninja ] || cmake --preset release
	cmake --build --preset release
run:
	@scripts/run
test:
	@scripts/test
check:
	@scripts/check
fuzz:
	@scripts/fuzz
bench:
	@scripts/bench
bench-attention:
	@scripts/bench attention
bench-rag:
	@scripts/bench-rag
bench-serve:
	@scripts/bench serve
bench-gen:
	@scripts/bench gen
clean:
	rm -rf build
