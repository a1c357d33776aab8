"""Follow-up questions: how often a passage that holds the labelled words is among the first six (what goes into a prompt), when the whole question is asked,
when the follow-up is asked alone, and when it is asked behind the questions before it; and how often the passages found would go into the prompt (cosine).

usage: follow_up.py KNOWLEDGE.db [SPARING]"""
import json
import pathlib
import subprocess
import sys

from check import read, squeeze

ROOT = pathlib.Path(__file__).parents[2]
BEARS = 0.35  # src/pipe/passages.c


def found(binary, db, asked, rows):
    p = subprocess.run([binary, "search", "--knowledge", db, "--json", "--limit", "6", "--models-dir", str(ROOT / "models")], input="".join(a + "\n" for a in asked),
                       capture_output=True, text=True, check=True)
    out = []
    for (_, page, words, *_), line in zip(rows, p.stdout.splitlines(), strict=True):
        hits = json.loads(line)["hits"]
        bear = any(h["cosine"] >= BEARS for h in hits)
        out.append(bear and any(h["path"].rsplit("/", 1)[1] == page and squeeze(words) in squeeze(h["place"] + " " + h["text"]) for h in hits))
    return out


if __name__ == "__main__":
    db, binary = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else str(ROOT / "build/release/sparing")
    whole = {r[0]: r for r in read("questions.tsv")}
    follow = read("follow_ups.tsv")
    rows = [whole[f[2]] for f in follow]
    asked = {"whole question": [f[2] for f in follow], "alone": [f[1] for f in follow],
             "in its conversation": ["\t".join(f[0].split(" | ") + [f[1]]) for f in follow]}
    got = {name: found(binary, db, lines, rows) for name, lines in asked.items()}
    print(f"{len(follow)} follow-ups")
    for name, hits in got.items():
        print(f"{name:20} {sum(hits):3} {sum(hits) / len(hits):.3f}  of what the whole question finds: {sum(h for h, w in zip(hits, got['whole question']) if w) / sum(got['whole question']):.3f}")
    for f, a, b in zip(follow, got["in its conversation"], got["whole question"]):
        if b and not a:
            print("  missed:", f[0], "->", f[1])
