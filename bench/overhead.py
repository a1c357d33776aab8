#!/usr/bin/env python3
"""What assignment to experiments, the note of an answer and a rating cost, in processor time, beside a light request.

Two servers of a tiny model answer the same requests in turn: one with --experiments and --feedback, whose answers are rated, and one without either. The
difference of their processor time (all threads, the database's among them) is what a request pays for them. A light request is one of the default model with 40
tokens of answer. Processor time is used because it bears other work on the machine; the median over rounds is printed.

usage: bench/overhead.py [--requests N] [--rounds N]"""
import argparse
import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "test/e2e"))
from conftest import MODEL, Server  # noqa: E402

TINY = ("-m", str(ROOT / "test/golden/data/fam-llama-bias.gguf"), "--chat-template", "chatml")
FILE = """experiments:
  - {name: a, variants: [{name: x}, {name: y, set: {draft: 4}}]}
  - {name: b, metric: thumbs, variants: [{name: x}, {name: y, set: {full_from: 0.6}}]}
"""


def cpu(server):
    """Seconds of processor time of all threads so far."""
    return time.clock_gettime(~server.proc.pid << 3 | 2)


def ask(server, i, n, rate=False):
    body = {"messages": [{"role": "user", "content": f"What is the number {i}?"}], "max_tokens": n, "temperature": 0, "ignore_eos": True, "sparing": {"path": "light"}}
    r = server.http.post("/v1/chat/completions", json=body)
    assert r.status_code == 200, r.text
    if rate:
        r = server.http.post("/feedback", json={"metric_name": "thumbs", "value": True, "inference_id": r.json()["id"]})
        assert r.status_code == 200, r.text


def settle(server):
    """Until what was noted is written: the processor time stands still."""
    last = -1
    while (now := cpu(server)) - last > 0.0005:
        last = now
        time.sleep(0.3)


def spent(server, first, n, tokens, rate=False):
    begin = cpu(server)
    for i in range(n):
        ask(server, first + i, tokens, rate)
    settle(server)
    return (cpu(server) - begin) / n


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--requests", type=int, default=200)
    p.add_argument("--rounds", type=int, default=7)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        path = pathlib.Path(folder)
        (path / "e.yaml").write_text(FILE)
        plain, noted = Server(*TINY), Server(*TINY, "--experiments", str(path / "e.yaml"), "--feedback", str(path / "f.db"))
        whole = Server("-m", str(MODEL))
        for s in (plain, noted, whole):
            spent(s, 0, 3, 8)
        extra = []
        for k in range(a.rounds):
            first = 1000 * (k + 1)
            x, y = spent(plain, first, a.requests, 8), spent(noted, first, a.requests, 8, rate=True)
            extra.append(y - x)
        light = [spent(whole, 10 * k, 3, 40) for k in range(3)]
        for s in (plain, noted, whole):
            assert s.stop() == 0
    one, all_ = statistics.median(extra), statistics.median(light)
    print(f"a light request: {1e3 * all_:.1f} ms of processor time (40 tokens, {MODEL.name})")
    print(f"two experiments, the note and a rating with its own HTTP request: {1e3 * one:.3f} ms ({1e3 * min(extra):.3f} to {1e3 * max(extra):.3f} over {a.rounds} rounds of "
          f"{a.requests}) = {100 * one / all_:.2f} % of it")


if __name__ == "__main__":
    main()
