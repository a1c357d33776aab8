# The front door. Everything real is in CMakeLists.txt and scripts/.
.PHONY: all install uninstall run test check fuzz bench bench-quick bench-attention bench-rag bench-serve bench-gen clean
all:
	@grep -qs '^SP_LEVELS:STRING=all' build/release/CMakeCache.txt || cmake --preset release -DSP_LEVELS=all
	cmake --build --preset release --target sparing
# make install prefix=/opt/sparing DESTDIR=/tmp/stage
prefix ?= /usr/local
install: all
	cmake --build --preset release --target manual
	DESTDIR=$(DESTDIR) cmake --install build/release --prefix $(prefix) --strip
# What the last install wrote.
uninstall:
	xargs -r -d '\n' rm -f -- < build/release/install_manifest.txt
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
bench-quick:
	@scripts/bench quick
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
