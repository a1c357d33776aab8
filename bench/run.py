#!/usr/bin/env python3
"""make bench: every row beside llama.cpp, in alternation; median and spread go to docs/BENCHMARKS.md.

What it does, once each: unpacks the llama-cpp-python source package, builds llama.cpp for this machine, for AVX2 and for
AVX-512 without VNNI (build/peer), writes the random-weight checkpoints (build/bench, 30 GB). Then each row runs ROUNDS times, our
program and the peer in turn, same file, same threads; the ratio of a round is taken inside the round.

usage: run.py [--rounds N] [--rows REGEX] [--peer DIR] [--models DIR] [--dry]
  --peer DIR    has native/, avx2/, avx512/, each with bin/llama-bench and bin/llama-batched-bench
  --rows REGEX  only rows whose name matches; the document is left alone then"""
import argparse
import datetime
import json
import os
import pathlib
import re
import statistics
import subprocess
import sys
import tarfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
OURS = ROOT / "build/release/sparing"
SMOL = ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
GEMMA = ROOT / "models/test/gemma-3-270m-q4_k_m.gguf"
# Published shapes with random weights (make_shape.py), and the layers kept so that both programs fit 24 GiB one after the other; 0: all.
SHAPES = {"qwen3-0.6b": 0, "qwen3-4b": 0, "gpt-oss-20b": 6, "qwen3-30b-a3b": 10, "qwen3.5-4b": 0, "qwen3.6-35b-a3b": 8, "gemma-4-e4b": 0}
DOC = ROOT / "docs/BENCHMARKS.md"
THREADS = "2"
PEER = "llama-cpp-python==0.3.36"
BUILDS = {"native": ["-DGGML_NATIVE=ON"],
          "avx2": ["-DGGML_NATIVE=OFF", "-DGGML_AVX=ON", "-DGGML_AVX2=ON", "-DGGML_FMA=ON", "-DGGML_F16C=ON", "-DGGML_BMI2=ON"]}
BUILDS["avx512"] = BUILDS["avx2"] + ["-DGGML_AVX512=ON"]
MASK = {"native": [], "avx2": ["--cpu-mask", "avx2"], "avx512": ["--cpu-mask", "avx512"]}


def rows():
    """(name, model, build, tests, target): a test is (label, prompt, gen, depth, seqs)."""
    smol = [("prefill 512", 512, 0, 0, 1), ("decode 128", 0, 128, 0, 1)]
    big = [("prefill 256", 256, 0, 0, 1), ("decode 32", 0, 32, 0, 1)]
    yield "SmolLM2 Q4_1", SMOL, "native", smol
    yield "SmolLM2 Q4_1", SMOL, "native", [("prefill 7,900", 7900, 0, 0, 1)]
    yield "SmolLM2 Q4_1", SMOL, "native", [("decode 32 at 7,900", 0, 32, 7900, 1)]
    yield "SmolLM2 Q4_1", SMOL, "native", [("16 sequences at 256", 0, 32, 256, 16)]
    for kind in ("Q4_0", "Q4_K_M", "Q8_0", "Q5_K", "Q6_K", "F16", "BF16"):
        yield f"1.07 B {kind}", kind, "native", big
    for kind in ("MXFP4", "NVFP4", "IQ3_S", "IQ3_XXS", "IQ2_S", "IQ2_XS", "IQ2_XXS", "IQ1_M", "IQ1_S", "TQ2_0", "TQ1_0"):
        yield f"1.07 B {kind}", kind, "native", big
    for kind in ("Q4_0", "Q4_K_M", "Q8_0"):
        yield f"1.07 B {kind}", kind, "native", [("8 sequences", 0, 32, 0, 8)]
    yield "Gemma 3 270M Q4_K_M", GEMMA, "native", smol
    for shape, layers in SHAPES.items():
        yield f"{shape}{f', {layers} layers' if layers else ''}", shape, "native", [("prefill 512", 512, 0, 0, 1), ("decode 32", 0, 32, 0, 1)]
    for build in ("avx2", "avx512"):
        yield f"SmolLM2 Q4_1, {build}", SMOL, build, smol
        yield f"Gemma 3 270M Q4_K_M, {build}", GEMMA, build, smol
        yield f"SmolLM2 Q4_1, {build}", SMOL, build, [("decode 32 at 4,096", 0, 32, 4096, 1)]
        for kind in ("Q4_0", "Q4_K_M", "Q8_0", "F16", "BF16", "IQ3_XXS", "IQ2_XXS", "IQ1_S", "NVFP4"):
            yield f"1.07 B {kind}, {build}", kind, build, big


TARGET = {("SmolLM2 Q4_1", "prefill 512"): 5, ("SmolLM2 Q4_1", "decode 128"): 1.7, ("SmolLM2 Q4_1", "prefill 7,900"): 5,
          ("SmolLM2 Q4_1", "decode 32 at 7,900"): 3.5, ("SmolLM2 Q4_1", "16 sequences at 256"): 4.5,
          ("Gemma 3 270M Q4_K_M", "prefill 512"): 2, ("Gemma 3 270M Q4_K_M", "decode 128"): 1.5,
          ("Gemma 3 270M Q4_K_M, avx2", "prefill 512"): 1.3, ("Gemma 3 270M Q4_K_M, avx2", "decode 128"): 1.2,
          ("1.07 B Q4_0", "prefill 256"): 2, ("1.07 B Q4_K_M", "prefill 256"): 2, ("1.07 B Q8_0", "prefill 256"): 2}


def run(*cmd, env=None):
    p = subprocess.run([str(c) for c in cmd], capture_output=True, text=True, env=env)
    if p.returncode:
        sys.exit(f"bench: {' '.join(map(str, cmd))}\n{p.stderr[-2000:]}")
    return p.stdout


def peer_builds(folder, which=tuple(BUILDS)):
    if folder:
        return {b: pathlib.Path(folder) / b for b in BUILDS}
    base = ROOT / "build/peer"
    base.mkdir(parents=True, exist_ok=True)
    if not list(base.glob("llama_cpp_python-*/vendor/llama.cpp")):
        print("bench: fetching", PEER, flush=True)
        run(sys.executable, "-m", "pip", "download", "-q", "--no-deps", "--no-binary", "llama-cpp-python", "-d", base, PEER)
        with tarfile.open(next(base.glob("llama_cpp_python-*.tar.gz"))) as t:
            t.extractall(base, filter="data") if hasattr(tarfile, "data_filter") else t.extractall(base)
    source = next(base.glob("llama_cpp_python-*/vendor/llama.cpp"))
    for name, flags in ((n, BUILDS[n]) for n in which):
        if (base / name / "bin/llama-bench").exists() and (base / name / "bin/llama-batched-bench").exists():
            continue
        print("bench: building llama.cpp,", name, flush=True)
        run("cmake", "-S", source, "-B", base / name, "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DLLAMA_CURL=OFF",
            "-DLLAMA_BUILD_TESTS=OFF", "-DLLAMA_BUILD_EXAMPLES=OFF", "-DLLAMA_BUILD_SERVER=ON", *flags)
        run("cmake", "--build", base / name, "--target", "llama-bench", "llama-batched-bench", "llama-server")
    return {b: base / b for b in BUILDS}


def model_path(model, folder):
    if isinstance(model, pathlib.Path):
        return model
    path = folder / f"{model}.gguf"
    if not path.exists():
        print("bench: writing", path.name, flush=True)
        folder.mkdir(parents=True, exist_ok=True)
        if model in SHAPES:
            run(sys.executable, ROOT / "bench/make_shape.py", path, model, *(["--layers", SHAPES[model]] if SHAPES[model] else []))
        else:
            run(sys.executable, ROOT / "bench/make_checkpoint.py", path, model)
    return path


def ours(model, build, tests, kv_bytes="4G"):
    """Rates of all tests of a row, and the share of read bandwidth, from one process."""
    _, _, _, depth, seqs = tests[0]
    p = ",".join(str(t[1]) for t in tests if t[1]) or "0"
    n = ",".join(str(t[2]) for t in tests if t[2]) or "0"
    out = json.loads(run(OURS, "bench", "-m", model, "-t", THREADS, "-p", p, "-n", n, "-d", depth, "-b", seqs, "-r", 1, "--json",
                         "--kv-bytes", kv_bytes, *MASK[build]))
    return out, {(r["n"] if r["test"] == "prompt" else 0, r["n"] if r["test"] == "gen" else 0): r for r in out["results"]}


def theirs(folder, model, tests):
    env = {**os.environ, "LD_LIBRARY_PATH": str(folder / "bin")}
    _, prompt, gen, depth, seqs = tests[0]
    if seqs > 1:
        out = run(folder / "bin/llama-batched-bench", "-m", model, "-t", THREADS, "-c", seqs * (max(depth, 1) + gen + 8), "-npp", max(depth, 1),
                  "-ntg", gen, "-npl", seqs, "--output-format", "jsonl", env=env)
        last = json.loads([line for line in out.splitlines() if line.startswith("{")][-1])
        return {(0, gen): last["speed_tg"]}
    p = ",".join(str(t[1]) for t in tests if t[1]) or "0"
    n = ",".join(str(t[2]) for t in tests if t[2]) or "0"
    out = json.loads(run(folder / "bin/llama-bench", "-m", model, "-t", THREADS, "-p", p, "-n", n, "-d", depth, "-r", 1, "-o", "json", env=env))
    return {(r["n_prompt"], r["n_gen"]): r["avg_ts"] for r in out}


def spread(values, form):
    v = sorted(values)
    return f"{statistics.median(v):{form}} ({v[0]:{form}}-{v[-1]:{form}})"


def main():
    a = argparse.ArgumentParser()
    a.add_argument("--rounds", type=int, default=5)
    a.add_argument("--rows", default="")
    a.add_argument("--peer", default="")
    a.add_argument("--models", default=str(ROOT / "build/bench"))
    o = a.parse_args()
    builds, lines, machine = peer_builds(o.peer), [], {}
    for name, model, build, tests in rows():
        if not re.search(o.rows, f"{name} {tests[0][0]}"):
            continue
        path, got, peer, share = model_path(model, pathlib.Path(o.models)), {}, {}, {}
        for _ in range(o.rounds):
            machine, mine = ours(path, build, tests)
            other = theirs(builds[build], path, tests)
            for label, p, n, _, _ in tests:
                got.setdefault(label, []).append(mine[(p, n)]["tok_s"])
                peer.setdefault(label, []).append(other[(p, n)])
                share.setdefault(label, []).append(mine[(p, n)]["bandwidth_pct" if n else "int_peak_pct"])
        for label, _, n, _, _ in tests:
            ratio = [x / y for x, y in zip(got[label], peer[label])]
            target = TARGET.get((name, label), 1)
            line = (f"| {name} | {label} | {statistics.median(got[label]):.0f} | {statistics.median(peer[label]):.0f} | {spread(ratio, '.2f')} | "
                    f"{target} | {'yes' if statistics.median(ratio) >= target else '**no**'} | {statistics.median(share[label]):.0f} % of "
                    f"{'read bandwidth' if n else 'integer peak'} |")
            print(line, flush=True)
            lines.append(line)
    if o.rows:
        return
    commit = run("git", "-C", ROOT, "rev-parse", "--short", "HEAD").strip()
    table = [f"{machine['cpu']}, {machine['cores']} cores, L2 {machine['l2_bytes'] >> 10} KiB, L3 {machine['l3_bytes'] >> 20} MiB, "
             f"{machine['isa']}, {THREADS} threads; {datetime.date.today()}, commit {commit}, llama.cpp of {PEER}, median of {o.rounds} rounds",
             "", "| model | work | sparing tok/s | llama.cpp tok/s | ratio (spread) | asked | reached | sparing's share |", "|---|---|---|---|---|---|---|---|", *lines]
    text = DOC.read_text()
    DOC.write_text(re.sub(r"(<!-- bench:begin -->\n).*?(<!-- bench:end -->)", lambda m: m[1] + "\n".join(table) + "\n" + m[2], text, flags=re.S))


if __name__ == "__main__":
    main()
