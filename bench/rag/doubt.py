"""What deep compute in the middle of an answer gives: right answers and tokens of the default model over questions of the test half, each
question under each variant (paired). Controls: the plain model with the same spend, as votes over whole answers; and passages looked for
before every answer. No clock is read. An answer is right when it holds the pattern of facts.tsv.

usage: doubt.py KNOWLEDGE.db [SPARING [QUESTIONS]]   BELOW: the threshold; ONLY: a variant; SAVE: a file that keeps answers between runs; SHOW"""
import concurrent.futures
import json
import math
import os
import pathlib
import re
import sys

from check import read
from serve import Server

ROOT = pathlib.Path(__file__).parents[2]
N_ANSWER = 64


def variants(store, below):
    search = [{"type": "file_search", "vector_store_ids": [store], "max_num_results": 6}]
    deep = lambda **w: {"sparing": {"path": "full", "uncertain": {"below": below, **w}}}
    return {"plain": {}, "retrieve": deep(retrieve=[store]), "votes": deep(votes=3), "retrieve, votes": deep(retrieve=[store], votes=3),
            "3 whole answers, voted": {"temperature": 0.8, "sparing": {"path": "full", "votes": 3}},
            "passages before all": {"tools": search, "tool_choice": "auto"}}


def ask(server, row, own):
    body = {"messages": [{"role": "user", "content": row[0]}], "max_tokens": N_ANSWER, "temperature": 0, "seed": 7, "sparing": {"path": "full"}, **own}
    j = server.post("/v1/chat/completions", body)
    c, u = j["usage"]["sparing"], j["usage"]
    doubt = c["decode"].get("uncertain", {})
    return {"text": j["choices"][0]["message"]["content"], "tokens": u["completion_tokens"], "prompt": c["prompt_tokens"]["computed"], "flops": c["flops"]["spent"],
            "doubts": len(doubt.get("causes", [])), "did": {k: doubt.get(k, 0) for k in ("retrieved", "voted", "nothing")}, "cause": doubt.get("causes", [])}


def paired(plain, other):
    d = [o["right"] - p["right"] for p, o in zip(plain, other)]
    mean = sum(d) / len(d)
    sd = math.sqrt(sum((x - mean) ** 2 for x in d) / max(1, len(d) - 1) / len(d))
    flips = sum(x > 0 for x in d), sum(x < 0 for x in d)
    return f"{100 * mean:+.1f} points ({100 * (mean - 1.96 * sd):+.1f} to {100 * (mean + 1.96 * sd):+.1f}), wrong to right {flips[0]}, right to wrong {flips[1]}"


def main():
    db, binary = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else str(ROOT / "build/release/sparing")
    rows = read("questions.tsv")[1::2][:int(sys.argv[3]) if len(sys.argv) > 3 else None]
    facts = dict(read("facts.tsv"))
    rows = [r for r in rows if r[0] in facts]
    below = float(os.environ.get("BELOW", "-0.8"))
    with Server(binary, "--knowledge", db, "--max-wait", "0") as server, concurrent.futures.ThreadPoolExecutor(6) as pool:
        store = server.get("/v1/vector_stores")["data"][0]["id"]
        saved = pathlib.Path(os.environ.get("SAVE", ""))
        got, kept = {}, json.loads(saved.read_text()) if saved.is_file() else {}
        for name, own in variants(store, below).items():
            if os.environ.get("ONLY", name) != name and name not in kept:
                continue
            got[name] = kept.get(name, [])[:len(rows)]
            while len(got[name]) < len(rows):
                got[name] += pool.map(lambda r: ask(server, r, own), rows[len(got[name]):][:6])
                if os.environ.get("SAVE"):
                    saved.write_text(json.dumps({**kept, **got}))
            for r, g in zip(rows, got[name]):
                g["right"] = re.search(facts[r[0]], g["text"], re.I) is not None
            g, n = got[name], len(rows)
            print(f"{name:24} {sum(x['right'] for x in g)} of {n} right; {sum(x['tokens'] for x in g) / n:.0f} tokens and {sum(x['prompt'] for x in g) / n:.0f} of prompts computed an answer, "
                  f"{sum(x['flops'] for x in g) / sum(x['flops'] for x in got['plain']):.2f} x plain's arithmetic; unsure {sum(x['doubts'] > 0 for x in g)}, "
                  f"{ {k: sum(x['did'][k] for x in g) for k in ('retrieved', 'voted', 'nothing')} }", flush=True)
            if name != "plain":
                print(f"{'':24} {paired(got['plain'], g)}", flush=True)
        if os.environ.get("SHOW"):
            for i, r in enumerate(rows):
                print(json.dumps([r[0], facts[r[0]], {k: [g[i]["right"], g[i]["text"], g[i]["cause"]] for k, g in got.items()}]))


if __name__ == "__main__":
    main()
