#!/usr/bin/env python3
"""What certified attention does to answers: needles, variables and counting, dense against bounded, on the same items.
usage: bench/attention.py [--items N]
Each item is asked with epsilon 0, 0.02 and 0.1, and with prefill_keep 0.15 (and epsilon 0.02). Printed: right answers, the difference to dense in
points, and answers whose text equals the dense one. The counting task (how often does a name occur) is flat attention's test."""
import argparse
import pathlib
import random
import sys

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "test/e2e")]

from memory import NAMES, TEXT, Server, make_item, wilson  # noqa: E402

HOW = {"dense": {"epsilon": 0}, "epsilon 0.02": {"epsilon": 0.02}, "epsilon 0.1": {"epsilon": 0.1},
       "prefill_keep 0.15, epsilon 0.02": {"epsilon": 0.02, "prefill_keep": 0.15}}


def counting(rnd, length, sentences):
    name, n = rnd.choice(NAMES), rnd.randint(2, 6)
    lines = [rnd.choice(sentences) for _ in range(length // 30)]
    for at in sorted(rnd.sample(range(len(lines)), n), reverse=True):
        lines.insert(at, f"{name} came in.")
    digits = ["zero", "one", "two", "three", "four", "five", "six"]
    return "\n".join(lines) + f"\n\nQuestion: how many times did {name} come in?\nAnswer: {name} came in this many times:", digits[n], str(n)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--items", type=int, default=6)
    a = p.parse_args()
    rnd = random.Random(23)
    sentences = [x.strip().replace("\n", " ") + "." for x in TEXT.split(". ") if 40 < len(x) < 220]
    items = []
    for length in (1024, 2048, 3000):
        for _ in range(a.items):
            for kind in ("single", "multi", "track"):
                for depth in (0.1, 0.35, 0.6, 0.85):
                    prompt, answer = make_item(rnd, kind, length, depth, sentences)
                    items.append((kind, prompt, (answer,)))
            for _ in range(3):
                prompt, *answers = counting(rnd, length, sentences)
                items.append(("counting", prompt, answers))
    s = Server("--epsilon-default", "0", "--kv-bytes", "6G")
    said = {}
    for how, own in HOW.items():
        said[how] = [s.prefix(s.tokens(prompt), 8, sparing=own)[0] for _, prompt, _ in items]
    s.stop()
    for kinds in (("single", "multi", "track"), ("counting",)):
        at = [i for i, item in enumerate(items) if item[0] in kinds]
        right = {how: sum(any(x in said[how][i] for x in items[i][2]) for i in at) for how in HOW}
        for how in HOW:
            same = sum(said[how][i] == said["dense"][i] for i in at)
            lost = sum(any(x in said["dense"][i] for x in items[i][2]) and not any(x in said[how][i] for x in items[i][2]) for i in at)
            print(f"{'/'.join(kinds):22} {how:34} {right[how]}/{len(at)} right ({100 * (right[how] - right['dense']) / len(at):+.1f} points), "
                  f"{lost} lost, same text {same}/{len(at)}, kept of dense's {right['dense'] - lost}/{right['dense']} "
                  f"(lower bound {wilson(right['dense'] - lost, max(right['dense'], 1)):.3f})", flush=True)


main()
