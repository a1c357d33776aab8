"""Recall@10 over postgresql-doc-15, by ranks: the share of questions of which a passage among the first ten holds the labelled words of the
labelled page (chunk), or is of that page (page). Odd lines are the dev half, on which parameters were chosen; even ones the test half.

usage: recall.py KNOWLEDGE.db [SPARING]"""
import json
import pathlib
import subprocess
import sys

from check import read, squeeze

ROOT = pathlib.Path(__file__).parents[2]
RANKS = ("words", "vectors", "plain", "all")


def positions(binary, db, rows, ranks):
    """Of each question the rank of the first hit that holds the words, and of the first of the page; 0: none."""
    p = subprocess.run([binary, "search", "--knowledge", db, "--json", "--limit", "10", "--ranks", ranks, "--models-dir", str(ROOT / "models")],
                       input="".join(r[0] + "\n" for r in rows), capture_output=True, text=True, check=True)
    out = []
    for row, line in zip(rows, p.stdout.splitlines(), strict=True):
        pages = [h["path"].rsplit("/", 1)[1] == row[1] for h in json.loads(line)["hits"]]
        texts = [page and squeeze(row[2]) in squeeze(h["place"] + " " + h["text"]) for page, h in zip(pages, json.loads(line)["hits"])]
        out.append((texts.index(True) + 1 if True in texts else 0, pages.index(True) + 1 if True in pages else 0))
    return out


if __name__ == "__main__":
    db, binary = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else str(ROOT / "build/release/sparing")
    for name in ("questions.tsv", "two_hop.tsv"):
        rows = read(name)
        print(f"{name}: {len(rows)} questions\n{'ranks':10} {'chunk dev':>10} {'test':>6} {'all':>6} {'MRR':>6} {'page dev':>10} {'test':>6} {'all':>6}")
        for ranks in RANKS:
            at = positions(binary, db, rows, ranks)
            share = lambda k, half: sum(p[k] > 0 for p in half) / len(half)
            print(f"{ranks:10} {share(0, at[0::2]):10.3f} {share(0, at[1::2]):6.3f} {share(0, at):6.3f} {sum(1 / p[0] for p in at if p[0]) / len(at):6.3f} "
                  f"{share(1, at[0::2]):10.3f} {share(1, at[1::2]):6.3f} {share(1, at):6.3f}")
