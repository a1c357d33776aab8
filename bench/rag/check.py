"""Is each question's answer there? Prints the questions whose words no chunk of their document holds."""
import pathlib
import re
import sqlite3
import sys

HERE = pathlib.Path(__file__).parent


def squeeze(s):
    return re.sub(r"[\s“”\"]+", "", s).lower()


def read(name):
    rows = [line.split("\t") for line in (HERE / name).read_text().splitlines() if line and not line.startswith("#")]
    assert all(len(r) == len(rows[0]) for r in rows), [r for r in rows if len(r) != len(rows[0])]
    return rows


if __name__ == "__main__":
    db = sqlite3.connect(f"file:{sys.argv[1]}?mode=ro", uri=True)
    text = {}
    for path, place, t in db.execute("SELECT path, place, text FROM chunk JOIN document ON doc=document.seq"):
        text.setdefault(path.rsplit("/", 1)[1], []).append(squeeze(place + " " + t))
    bad = 0
    for name in ("questions.tsv", "two_hop.tsv"):
        if not (HERE / name).exists():
            continue
        for row in read(name):
            for doc, words in zip(row[1::2], row[2::2]):
                if not any(squeeze(words) in t for t in text.get(doc, [])):
                    bad += 1
                    print(f"{name}: {row[0]}: {doc}{' (no such document)' if doc not in text else ''}: {words}")
        print(f"{name}: {len(read(name))} questions")
    sys.exit(bad > 0)
