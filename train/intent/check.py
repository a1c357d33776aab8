#!/usr/bin/env python3
"""Asks a server the prompts of families whose answers can be checked, on the light path, and prints how many it gets right, and whether the
probability of an answer's first tokens tells right from wrong (what the cascade goes by). usage: train/intent/check.py URL [--tokens N]"""
import argparse
import collections
import concurrent.futures
import json
import pathlib
import re
import urllib.request

HERE = pathlib.Path(__file__).resolve().parent
CAPITAL = {"Norway": "Oslo", "Peru": "Lima", "Kenya": "Nairobi", "Japan": "Tokyo", "Portugal": "Lisbon", "Canada": "Ottawa", "Vietnam": "Hanoi", "Poland": "Warsaw",
           "Chile": "Santiago", "Egypt": "Cairo", "Iceland": "Reykjav", "Hungary": "Budapest"}
SYMBOL = {"iron": "Fe", "gold": "Au", "helium": "He", "sodium": "Na", "carbon": "C", "mercury": "Hg", "copper": "Cu", "tin": "Sn"}
BOOK = {"Don Quixote": "Cervantes", "War and Peace": "Tolstoy", "Middlemarch": "Eliot", "The Trial": "Kafka", "Emma": "Austen", "Moby Dick": "Melville", "Faust": "Goethe",
        "The Odyssey": "Homer", "Dracula": "Stoker", "Ulysses": "Joyce"}


def answer(family, p):
    """A pattern that a right answer holds, or None: it cannot be checked."""
    n = [int(x) for x in re.findall(r"\b\d+\b", p)]
    pick = lambda table: next((v for k, v in table.items() if k in p), None)  # noqa: E731
    if family == "capital":
        return pick(CAPITAL)
    if family == "author":
        return pick(BOOK)
    if family == "chemical" and "symbol" in p:
        v = pick(SYMBOL)
        return rf"\b{v}\b" if v else None
    if family == "sum":
        value = sum(n) if "+" in p or p.startswith("Add") else n[0] - n[1] if "minus" in p else n[0] * n[1] if "*" in p or "mal" in p else n[0] / 4
        return rf"(?<![\d.]){value:g}(?![\d])" if value == int(value) else rf"{value:g}"
    if family == "percent" and "percent of 200" in p:
        return rf"(?<![\d.]){n[0] * 2}(?!\d)"
    if family == "getname":
        m = re.search(r"\b([A-Z][a-z]+) (Berger|Novak|Silva|Jensen|Okoye|Moreau|Tanaka|Weiss)\b", p)
        return m and m.group(1)
    if family == "getmail" and "e-mail" in p:
        return re.search(r"\S+@example\.org", p).group(0)
    if family == "getdate" and "due date" in p:
        return r"3 March|March 3"
    if family == "getprice" and "amount" in p:
        return rf"{n[0]}\.50"
    if family == "classify" and "broke after" in p:
        return r"(?i)negative"
    return None


def ask(url, prompt, tokens):
    body = {"messages": [{"role": "user", "content": prompt}], "max_tokens": tokens, "temperature": 0, "logprobs": True, "top_logprobs": 1, "sparing": {"path": "light"}}
    r = urllib.request.Request(url + "/v1/chat/completions", json.dumps(body).encode(), {"Content-Type": "application/json"})
    c = json.load(urllib.request.urlopen(r))["choices"][0]
    first = [t["top_logprobs"][0]["logprob"] for t in c["logprobs"]["content"][:8]]
    return c["message"]["content"], sum(first) / max(1, len(first))


def main():
    a = argparse.ArgumentParser()
    a.add_argument("url")
    a.add_argument("--tokens", type=int, default=64)
    o = a.parse_args()
    rows = [line.split("\t") for line in (HERE / "prompts.tsv").read_text().splitlines()]
    asked = [(r[0], r[5], answer(r[0], r[5])) for r in rows]
    asked = [x for x in asked if x[2]]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        got = list(pool.map(lambda x: ask(o.url, x[1], o.tokens), asked))
    by, right, wrong = collections.defaultdict(list), [], []
    for (family, _, pattern), (text, sure) in zip(asked, got):
        ok = re.search(pattern, text) is not None
        by[family].append(ok)
        (right if ok else wrong).append(sure)
    for family, v in sorted(by.items()):
        print(f"{family:10} {sum(v):3} of {len(v):3} right")
    pairs = sum((r > w) + (r == w) / 2 for r in right for w in wrong) / max(1, len(right) * len(wrong))
    print(f"{len(right)} right, {len(wrong)} wrong; a right answer is surer than a wrong one in {100 * pairs:.1f} % of pairs")
    for t in (-0.2, -0.3, -0.4, -0.6, -0.8, -1.0, -1.2, -1.6):
        print(f"below {t}: {100 * sum(x < t for x in right) / max(1, len(right)):5.1f} % of the right, {100 * sum(x < t for x in wrong) / max(1, len(wrong)):5.1f} % of the wrong")


if __name__ == "__main__":
    main()
