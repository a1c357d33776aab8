#!/usr/bin/env python3
"""What two files of bench/quick.py differ in: rows of the same model and work, B over A.

A row is `faster` or `slower` where the spreads of both do not meet, else `same`. Where both files have a peer, the ratios to it are
compared, for these hold on two machines or two days; else the rates are, and a line says if the machines differ.

usage: compare.py A.csv B.csv   ends with 1 where a row is slower, with 2 where the files have no row in common"""
import csv
import sys

SAME = ("cpu", "isa", "threads")


def read(path):
    with open(path, newline="") as f:
        rows = list(csv.DictReader(f))
    for row in rows:
        missing = [k for k in ("model", "work", "tok_s", "low", "high", *SAME) if not row.get(k)]
        if missing:
            sys.exit(f"compare: {path}: a row without {', '.join(missing)}")
    return {(r["model"], r["work"]): r for r in rows}


def numbers(path, row, of_peer):
    """Median, lowest and highest of what is compared."""
    names = ("ratio", "ratio_low", "ratio_high") if of_peer else ("tok_s", "low", "high")
    try:
        return [float(row[n]) for n in names]
    except ValueError:
        sys.exit(f"compare: {path}: {row['model']}, {row['work']}: {', '.join(names)} are no numbers")


def main(a_path, b_path):
    a, b = read(a_path), read(b_path)
    both = [k for k in a if k in b]
    if not both:
        print(f"{a_path} and {b_path} have no row in common")
        return 2
    for name in SAME:
        there, here = {r[name] for r in a.values()}, {r[name] for r in b.values()}
        if there != here:
            print(f"{name}: {', '.join(sorted(there))} and {', '.join(sorted(here))}")
    print("| model | work | of what | A | B | B over A | |\n|---|---|---|---|---|---|---|")
    slower = 0
    for key in both:
        of_peer = bool(a[key].get("ratio") and b[key].get("ratio"))
        x, y = numbers(a_path, a[key], of_peer), numbers(b_path, b[key], of_peer)
        word = "faster" if y[1] > x[2] else "slower" if y[2] < x[1] else "same"
        slower += word == "slower"
        print(f"| {key[0]} | {key[1]} | {'ratio to the peer' if of_peer else 'tok/s'} | {x[0]:.4g} ({x[1]:.4g}-{x[2]:.4g}) | "
              f"{y[0]:.4g} ({y[1]:.4g}-{y[2]:.4g}) | {y[0] / x[0]:.2f} | {word} |")
    for path, own, other in ((a_path, a, b), (b_path, b, a)):
        for key in (k for k in own if k not in other):
            print(f"only in {path}: {key[0]}, {key[1]}")
    return 1 if slower else 0


if __name__ == "__main__":
    if len(sys.argv) != 3:
        sys.exit(__doc__)
    sys.exit(main(*sys.argv[1:]))
