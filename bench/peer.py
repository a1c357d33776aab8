#!/usr/bin/env python3
"""sparing and llama.cpp in turn on one file: median of ROUNDS and spread, as ratios.
usage: peer.py PATH_OF_LLAMA_BENCH MODEL.gguf [ROUNDS]"""
import json
import pathlib
import statistics
import subprocess
import sys

OURS = pathlib.Path(__file__).resolve().parent.parent / "build/release/sparing"
CASES = [("prefill 512", 512, 0, 0), ("decode 128", 0, 128, 0), ("decode 32 at depth 2048", 0, 32, 2048)]


def ours(model, p, n, d):
    out = subprocess.run([OURS, "bench", "-m", model, "-t", "2", "-p", str(p), "-n", str(n), "-d", str(d), "-r", "1", "--json"],
                         capture_output=True, text=True, check=True).stdout
    return json.loads(out)["results"][0]["tok_s"]


def peer(binary, model, p, n, d):
    out = subprocess.run([binary, "-m", model, "-t", "2", "-p", str(p), "-n", str(n), "-d", str(d), "-r", "1", "-o", "json"],
                         capture_output=True, text=True, check=True).stdout
    return json.loads(out)[0]["avg_ts"]


def main():
    binary, model, rounds = sys.argv[1], sys.argv[2], int(sys.argv[3]) if len(sys.argv) > 3 else 5
    print("| work | sparing tok/s | llama.cpp tok/s | ratio (spread) |\n|---|---|---|---|")
    for name, p, n, d in CASES:
        a, b = [], []
        for _ in range(rounds):
            a.append(ours(model, p, n, d))
            b.append(peer(binary, model, p, n, d))
        ratios = sorted(x / y for x, y in zip(a, b))
        print(f"| {name} | {statistics.median(a):.0f} | {statistics.median(b):.0f} | "
              f"{statistics.median(ratios):.2f} ({ratios[0]:.2f}-{ratios[-1]:.2f}) |")


main()
