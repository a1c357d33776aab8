#!/usr/bin/env python3
"""What a file's own block for guessing (MTP) is worth where its guesses are right as often as said. test/tool/oracle.c decodes plainly, then the
same answer with K guesses a step: the block is run for each, and what it says is replaced by the known answer with probability P, else by a
wrong token. Shapes of published models with random weights; of each P the best K counts, as the learner would find it.

usage: oracle.py [--only 0.8b,4b,moe] [--tokens N] [--threads T] [--rounds N] [--folder DIR] [--layers N] [--make]
  --make     writes the checkpoints that are missing into DIR (build/bench), and ends: 0.6, 2.6 and 8 GB
  --layers   of the mixture of experts' 40 (16): its block has all 256 experts, and weighs 40 / N as much beside them as in the whole model"""
import argparse
import pathlib
import random
import re
import statistics
import subprocess
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
TRIES = {0.65: (1, 2, 3), 0.75: (2, 3, 4), 0.85: (3, 4, 6)}
# shape, what is asked of each P
ROWS = {"0.8b": ("qwen3.5-0.8b", (1.6, 1.9, 2.2)), "4b": ("qwen3.5-4b", (1.8, 2.1, 2.4)), "moe": ("qwen3.6-35b-a3b", (1.2, 1.35, 1.5))}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--only", default=",".join(ROWS)), p.add_argument("--tokens", type=int, default=64), p.add_argument("--threads", default="2")
    p.add_argument("--folder", type=pathlib.Path, default=ROOT / "build/bench"), p.add_argument("--layers", type=int, default=16)
    p.add_argument("--make", action="store_true"), p.add_argument("--rounds", type=int, default=1)
    a = p.parse_args()
    rng = random.Random(3)
    prompt = " ".join(str(rng.randrange(1000, 40000)) for _ in range(24))
    a.folder.mkdir(parents=True, exist_ok=True)
    for name in a.only.split(","):
        shape, asked = ROWS[name]
        cut = ["--layers", str(a.layers)] if name == "moe" else []
        path = a.folder / f"{shape}{'-' + str(a.layers) if cut else ''}-mtp.gguf"
        if not path.exists():
            subprocess.run([sys.executable, ROOT / "bench/make_shape.py", f"{path}.part", shape, "--mtp", *cut], check=True)
            pathlib.Path(f"{path}.part").rename(path)
        if a.make:
            continue
        cases = [f"{share}:{k}" for share, ks in TRIES.items() for k in ks] * a.rounds
        out = subprocess.run([ROOT / "build/release/test/oracle", path, "q8", str(a.tokens), a.threads, *cases], input=prompt, text=True, stdout=subprocess.PIPE, check=True).stdout
        rows = [tuple(map(float, r)) for r in re.findall(r"P ([\d.]+) K (\d+): ([\d.]+) -> ([\d.]+) tokens/s, ([\d.]+) x, ([\d.]+) tokens/step, block ([\d.]+) %", out)]
        if len(rows) != len(cases):
            raise SystemExit(f"oracle said: {out}")
        print(f"{path.stem}, {a.threads} threads, {a.tokens} tokens; plain {min(r[2] for r in rows):.1f} to {max(r[2] for r in rows):.1f} tokens/s")
        for share, want in zip(TRIES, asked):
            of = [[statistics.median(v) for v in zip(*(r for r in rows if r[:2] == (share, k)))] for k in TRIES[share]]
            best = max(of, key=lambda r: r[4])
            others = ", ".join(f"{r[4]:.2f} x with {r[1]:.0f}" for r in of if r is not best)
            print(f"  P {share}: {best[4]:.2f} x with {best[1]:.0f} guesses ({others}); {best[5]:.2f} tokens a step, block {best[6]:.0f} % of the time; "
                  f"asked {want}{'' if best[4] >= want else ' (missed)'}", flush=True)


if __name__ == "__main__":
    main()
