#!/usr/bin/env python3
"""test/soak.py [--requests 30000] [--clients 8]: many mixed requests to one server, good ones, bad ones and abandoned ones. Prints resident
memory as it goes. Exit 1 when an answer has another status than it must have, when the server says 5xx or ends, or when resident
memory grows by more than 1 % in the last third.

The mix is fixed by the request's number, so that two runs ask the same. SPARING_BIN names another build.
"""
import argparse
import collections
import concurrent.futures
import json
import os
import pathlib
import random
import re
import signal
import socket
import subprocess
import sys
import tempfile
import threading
import time

import httpx

ROOT = pathlib.Path(__file__).resolve().parents[1]
BIN = os.environ.get("SPARING_BIN", ROOT / "build/release/sparing")
WORDS = "river lamp stone harbour clock seven orchard velvet signal winter copper thunder".split()
GROWTH = 0.01


def chat(rnd, **kw):
    text = " ".join(rnd.choice(WORDS) for _ in range(rnd.randrange(4, 60)))
    return {"messages": [{"role": "user", "content": text}], "max_tokens": rnd.randrange(1, 5), "temperature": 0, **kw}


def expect(r, *codes):
    if r.status_code not in codes:
        raise AssertionError(f"{r.request.method} {r.request.url.path}: {r.status_code}, not {codes}: {r.text[:300]}")


def plain(http, rnd):
    expect(http.post("/v1/chat/completions", json=chat(rnd)), 200)


def sampled(http, rnd):
    expect(http.post("/v1/chat/completions", json=chat(rnd, n=2, temperature=0.9, seed=rnd.randrange(99), logprobs=True, top_logprobs=2)), 200)


def patterned(http, rnd):
    expect(http.post("/v1/chat/completions", json=chat(rnd, sparing={"regex": "[a-z]{1,4}( [0-9])?"})), 200)


def streamed(http, rnd):
    with http.stream("POST", "/v1/chat/completions", json=chat(rnd, stream=True)) as r:
        expect(r, 200)
        if list(r.iter_lines())[-2:].count("data: [DONE]") != 1:
            raise AssertionError("a stream without its end")


def left(http, rnd):
    with http.stream("POST", "/v1/chat/completions", json=chat(rnd, stream=True) | {"max_tokens": 40}) as r:
        next(r.iter_lines())


def cut_off(http, rnd):
    """A connection that ends in the middle of a request."""
    with socket.create_connection((http.base_url.host, http.base_url.port)) as s:
        s.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Length: 500\r\n\r\n{\"messages\":"[: rnd.randrange(1, 95)])


def raw(http, rnd):
    expect(http.post("/v1/completions", json={"prompt": [rnd.randrange(300, 20000) for _ in range(rnd.randrange(1, 80))], "max_tokens": 2}), 200)


def bad(http, rnd):
    body = rnd.choice(["{", '{"messages":[]}', '{"messages":[{"role":"user","content":"x"}],"temperature":"hot"}', "[" * 100, '{"messages":3}',
                       '{"messages":[{"role":"user","content":"x"}],"sparing":{"regex":"(("}}'])
    expect(http.post("/v1/chat/completions", content=body, headers={"Content-Type": "application/json"}), 400)


def unknown(http, rnd):
    expect(http.get(f"/v1/nothing{rnd.randrange(9)}"), 404)


def embedded(http, rnd):
    expect(http.post("/v1/embeddings", json={"input": [" ".join(rnd.choice(WORDS) for _ in range(9))] * rnd.randrange(1, 4)}), 200)


def tokens(http, rnd):
    expect(http.post("/tokenize", json={"content": "\u00e4 \U0001f600 " + rnd.choice(WORDS)}), 200)


def conversation(http, rnd):
    r = http.post("/v1/conversations", json={})
    expect(r, 200)
    conv = r.json()["id"]
    for _ in range(2):
        expect(http.post("/v1/chat/completions", json=chat(rnd, conversation=conv)), 200)
    expect(http.get(f"/v1/conversations/{conv}/items"), 200)
    expect(http.delete(f"/v1/conversations/{conv}"), 200)


def looks(http, rnd):
    for path in ("/health", "/metrics", "/v1/models", "/"):
        expect(http.get(path), 200)


KINDS = [(plain, 24), (sampled, 6), (patterned, 8), (streamed, 14), (left, 5), (cut_off, 5), (raw, 10), (bad, 10), (unknown, 3), (embedded, 6), (tokens, 5),
         (conversation, 2), (looks, 2)]


class Server:
    def __init__(self, folder):
        self.proc = subprocess.Popen([str(BIN), "serve", "--port", "0", "--kv-bytes", "64M", "--max-queue", "64", "--history", str(folder / "h.db"),
                                      "--cache-dir", str(folder / "pages"), "--cache-bytes", "64M"], cwd=ROOT, stderr=subprocess.PIPE, text=True)
        for line in self.proc.stderr:
            m = re.search(r"ready in \d+ ms on (http://[^ ]+)", line)
            if m:
                self.url = m.group(1)
                break
        else:
            sys.exit(f"soak: the server ended with {self.proc.wait()}")
        threading.Thread(target=lambda: collections.deque(self.proc.stderr, 0), daemon=True).start()

    def rss(self):
        status = pathlib.Path(f"/proc/{self.proc.pid}/status").read_text()
        return int(re.search(r"VmRSS:\s+(\d+) kB", status).group(1))


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("--requests", type=int, default=30000)
    p.add_argument("--clients", type=int, default=8)
    p.add_argument("--no-growth-check", action="store_true", help="for sanitizers, whose own memory grows")
    a = p.parse_args()
    kinds = [fn for fn, weight in KINDS for _ in range(weight)]
    faults, samples, done, lock = [], [], [0], threading.Lock()
    start = time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        server = Server(pathlib.Path(folder))
        every = max(a.requests // 30, 1)
        local = threading.local()

        def one(i):
            if not hasattr(local, "http"):
                local.http = httpx.Client(base_url=server.url, timeout=600)
            rnd = random.Random(i)
            fn = kinds[rnd.randrange(len(kinds))]
            try:
                fn(local.http, rnd)
            except (AssertionError, httpx.HTTPError, OSError) as e:
                with lock:
                    faults.append(f"request {i}, {fn.__name__}: {type(e).__name__}: {e}")
            with lock:
                done[0] += 1
                if done[0] % every == 0 and server.proc.poll() is None:
                    samples.append((done[0], server.rss()))
                    print(f"soak: {done[0]} requests, {samples[-1][1] >> 10} MiB resident, {done[0] / (time.monotonic() - start):.0f} a second", flush=True)

        with concurrent.futures.ThreadPoolExecutor(a.clients) as pool:
            for _ in pool.map(one, range(a.requests)):
                if len(faults) > 20 or server.proc.poll() is not None:
                    pool.shutdown(wait=False, cancel_futures=True)
                    break
        server.proc.send_signal(signal.SIGTERM)
        code = server.proc.wait(timeout=600)
    last = samples[len(samples) * 2 // 3:]
    third = len(last) // 2 or 1
    before, after = (sorted(x[1] for x in part)[len(part) // 2] for part in (last[:third], last[-third:]))
    growth = after / before - 1
    print(json.dumps({"requests": done[0], "faults": len(faults), "exit": code, "seconds": round(time.monotonic() - start), "rss_kib": [s[1] for s in samples],
                      "growth_of_last_third": round(growth, 4)}))
    for f in faults[:20]:
        print(f"soak: {f}")
    return 1 if faults or code != 0 or (growth > GROWTH and not a.no_growth_check) else 0


sys.exit(main())
