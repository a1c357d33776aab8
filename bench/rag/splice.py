"""Passages put in place against passages prefilled, and against none: time to first token, and what the answers are worth. Each question of
the test half is asked of a server on a free port: without documents; then with none, one and three of the nearest sentences repeated, three times
each: spliced (the passages' pages are computed), prefilled, spliced again (timed). An answer is right when it holds the pattern of facts.tsv.

usage: splice.py KNOWLEDGE.db [SPARING [QUESTIONS]]"""
import json
import os
import pathlib
import re
import statistics
import sys
import time

from check import read
from serve import Server

ROOT = pathlib.Path(__file__).parents[2]
N_PASSAGE, N_ANSWER = 6, 64


def ask(server, store, question, **own):
    """Answer, receipt, seconds to the first text."""
    body = {"messages": [{"role": "user", "content": question}], "max_tokens": N_ANSWER, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}}
    if store:
        body |= {"tools": [{"type": "file_search", "vector_store_ids": [store], "max_num_results": N_PASSAGE}], "tool_choice": "required",
                 "sparing": own}
    start, first, text, receipt = time.perf_counter(), None, "", None
    for event in server.stream("/v1/chat/completions", body):
        delta = event["choices"][0]["delta"].get("content") if event["choices"] else None
        if delta and first is None:
            first = time.perf_counter() - start
        text += delta or ""
        receipt = event["usage"]["sparing"] if event.get("usage") else receipt
    return text, receipt, first


def words(text):
    return re.findall(r"\w+", text.lower())


def f1(a, b):
    a, b = words(a), words(b)
    common = sum(min(a.count(w), b.count(w)) for w in set(a))
    return 2 * common / (len(a) + len(b)) if common else 0.0


def right(rows, answers):
    facts = dict(read("facts.tsv"))
    return sum(re.search(facts[r[0]], a, re.I) is not None for r, a in zip(rows, answers, strict=True))


def compare(server, store, rows, nearest):
    out = []
    for row in rows:
        cold = ask(server, store, row[0], splice=True, nearest=nearest)
        plain = ask(server, store, row[0], nearest=nearest)
        warm = ask(server, store, row[0], splice=True, nearest=nearest)
        assert cold[0] == warm[0], "the answer depends on what is cached"
        out.append((row, plain, warm))
    tokens = statistics.mean(sum(p[1]["prompt_tokens"].values()) for _, p, _ in out)
    print(f"{len(out)} questions, {nearest} nearest sentences, {tokens:.0f} prompt tokens, of them spliced "
          f"{statistics.mean(w[1]['prompt_tokens']['spliced'] for _, _, w in out):.0f}")
    ratio = [p[2] / w[2] for _, p, w in out]
    prefill = [p[1]["ms"]["prefill"] / w[1]["ms"]["prefill"] for _, p, w in out]
    for name, r in (("first token", ratio), ("prefill", prefill)):
        q = statistics.quantiles(r, n=10)
        print(f"  {name}: prefilled / spliced {statistics.median(r):.2f} (10-90 %: {q[0]:.2f}-{q[8]:.2f})")
    print(f"  ms to the first token: {1e3 * statistics.median(p[2] for _, p, _ in out):.0f} prefilled, {1e3 * statistics.median(w[2] for _, _, w in out):.0f} spliced; "
          f"prefill alone {statistics.median(p[1]['ms']['prefill'] for _, p, _ in out):.0f}, {statistics.median(w[1]['ms']['prefill'] for _, _, w in out):.0f}")
    print(f"  token F1 with the fact: {statistics.mean(f1(p[0], r[2]) for r, p, _ in out):.4f} prefilled, {statistics.mean(f1(w[0], r[2]) for r, _, w in out):.4f} spliced; "
          f"of spliced with prefilled {statistics.mean(f1(p[0], w[0]) for _, p, w in out):.4f}; the same {sum(p[0] == w[0] for _, p, w in out)}")
    print(f"  right of {len(rows)}: {right(rows, [p[0] for _, p, _ in out])} prefilled, {right(rows, [w[0] for _, _, w in out])} spliced", flush=True)
    if os.environ.get("SHOW"):
        for r, p, w in out:
            print(json.dumps([r[0], r[2], p[0], w[0]]))


if __name__ == "__main__":
    db, binary = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else str(ROOT / "build/release/sparing")
    rows = read("questions.tsv")[1::2][:int(sys.argv[3]) if len(sys.argv) > 3 else None]
    with Server(binary, "--knowledge", db) as server:
        store = server.get("/v1/vector_stores")["data"][0]["id"]
        print(f"right of {len(rows)} without documents: {right(rows, [ask(server, None, row[0])[0] for row in rows])}")
        for nearest in (0, 1, 3):
            compare(server, store, rows, nearest)
