#!/usr/bin/env python3
"""make bench-serve: a mixed open-loop trace against sparing, against sparing without its scheduler, and against llama.cpp's server; routing on
held-out families; fairness; overload. Every row prints its peer from the same run.

The trace: 70 % easy questions (a line; at most 48 tokens back) and 30 % hard ones (600 to 2,400 tokens to read; at most 160 back), each
unlike every other, arriving at random (Poisson), or in bursts of 2 to 10 at the same mean rate. The clients do not wait for each other, so
a server that falls behind is charged for its queue. Load is a share of the capacity that the same program showed with 8 clients that wait
(closed loop) just before. All get the same model, threads, prompts and limits; answers are greedy and end where the model ends them. Most long
ones of the default model loop, which suits guessing ahead: the comparison with ourselves runs a second time with a repetition penalty.

usage: bench/serve.py [--peer DIR] [--only trace,fair,overload,guess,routing,overhead,utilisation] [--against own,peer] [--rounds N] [--seconds S] [--overload S]
  --peer DIR   llama.cpp build with bin/llama-server (see bench/run.py); without it that column is left out"""
import argparse
import asyncio
import hashlib
import json
import math
import os
import pathlib
import random
import re
import socket
import statistics
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "test/e2e"))
import httpx  # noqa: E402

from conftest import BIN, MODEL, Server  # noqa: E402
from stats import pct, spread  # noqa: E402

TEXT = (ROOT / "test/data/licences.txt").read_text()
THREADS = "2"
EASY, HARD, SLOTS = 48, 160, 8
THING = ["tea", "a bicycle", "the moon", "bread", "a kettle", "rain", "a library", "salt", "a lighthouse", "wool", "honey", "a harbour"]
ASK = ["Say hello to {0} number {1}.", "What is {0}? Answer in one sentence. ({1})", "Name a colour that goes with {0}. ({1})",
       "Write a short title about {0} and the number {1}.", "Is {0} bigger than {1} apples? Yes or no.", "Thanks for the note about {0}, {1} times!"]


def question(rng, easy):
    if easy:
        return rng.choice(ASK).format(rng.choice(THING), rng.randrange(100000)), EASY
    n = rng.randrange(2600, 10500)  # characters: 600 to 2,400 tokens
    at = rng.randrange(len(TEXT) - n)
    return f"Text {rng.randrange(100000)}:\n{TEXT[at:at + n]}\n\nExplain step by step what this text allows and what it forbids.", HARD


def make_trace(seed, seconds, rate, bursts):
    rng, at, out = random.Random(seed), 0.0, []
    while True:
        n = rng.randrange(2, 11) if bursts else 1
        at += rng.expovariate(rate / n)
        if at >= seconds:
            return out
        for _ in range(n):
            easy = rng.random() < 0.7
            out.append((at, easy, *question(rng, easy)))


class Done:
    def __init__(self, easy, status=0):
        self.easy, self.status, self.first, self.end, self.tokens, self.prompt, self.path = easy, status, None, None, 0, 0, None


async def ask(port, easy, text, limit, began, tenant=None, extra=None):
    """One streamed chat completion over a connection of its own; times are seconds since it was due."""
    body = {"messages": [{"role": "user", "content": text}], "max_tokens": limit, "temperature": 0, "stream": True,
            "stream_options": {"include_usage": True}, **(extra or {})}
    data, d = json.dumps(body).encode(), Done(easy)
    head = f"POST /v1/chat/completions HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {len(data)}\r\n"
    head += (f"Authorization: Bearer {tenant}\r\n" if tenant else "") + "Connection: close\r\n\r\n"
    try:
        r, w = await asyncio.open_connection("127.0.0.1", port)
        w.write(head.encode() + data)
        await w.drain()
        d.status = int((await r.readline()).split()[1])
        while line := await r.readline():
            if not line.startswith(b"data: {"):
                continue
            if d.first is None and b'"content":"' in line and b'"content":""' not in line:
                d.first = time.perf_counter() - began
            if b'"usage":{' in line:
                u = json.loads(line[6:])["usage"]
                d.tokens, d.prompt, d.path = u["completion_tokens"], u["prompt_tokens"], u.get("sparing", {}).get("path")
            if b'"error"' in line:
                d.status = 500
        w.close()
    except OSError:
        d.status = 599
    d.end = time.perf_counter() - began
    d.first = d.end if d.first is None else d.first
    return d


async def open_loop(port, trace, extra=None):
    t0, tasks = time.perf_counter() + 0.1, []
    for at, easy, text, limit in trace:
        await asyncio.sleep(max(0, t0 + at - time.perf_counter()))
        tasks.append(asyncio.create_task(ask(port, easy, text, limit, t0 + at, extra=extra)))
    return await asyncio.gather(*tasks)


async def closed_loop(port, n_client, seconds, seed, extra=None):
    """Requests a second that n_client clients, each waiting for its answer, get through."""
    rng, end, done = random.Random(seed), time.perf_counter() + seconds, []

    async def client():
        while time.perf_counter() < end:
            easy = rng.random() < 0.7
            done.append(await ask(port, easy, *question(rng, easy), time.perf_counter(), extra=extra))
            if done[-1].status == 429:
                await asyncio.sleep(0.5)

    t = time.perf_counter()
    await asyncio.gather(*[client() for _ in range(n_client)])
    return sum(d.status == 200 for d in done) / (time.perf_counter() - t)


class Peer:
    def __init__(self, build):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        self.proc = subprocess.Popen([f"{build}/bin/llama-server", "-m", str(MODEL), "-c", str(SLOTS * 4096), "-t", THREADS, "-np", str(SLOTS), "--host",
                                      "127.0.0.1", "--port", str(self.port), "--no-webui"], stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL,
                                     env={**os.environ, "LD_LIBRARY_PATH": f"{build}/bin"})
        for _ in range(600):
            try:
                if httpx.get(f"http://127.0.0.1:{self.port}/health").status_code == 200:
                    return
            except httpx.HTTPError:
                pass
            time.sleep(0.1)
        raise RuntimeError("llama-server did not start")

    def stop(self):
        self.proc.terminate()
        self.proc.wait()


class Ours(Server):
    def __init__(self, *args):
        super().__init__("-t", THREADS, "--max-wait", "0", "--max-queue", "5000", *args)

    def stop(self):
        self.proc.terminate()
        self.proc.wait()

    def windows(self):
        return [self.metric(f"sparing_busy_windows{x}_total") for x in ("", "_utilisation", "_utilisation_squares")]


FCFS = ("--schedule", "fcfs", "--chunk", "4096", "--draft", "0")


def cv(a, b):
    n, s, q = (y - x for x, y in zip(a, b))
    return math.sqrt(max(0, q / n - (s / n) ** 2)) / (s / n)


def play(make, trace, extra):
    """mean response, p99, mean first token of easy ones, CV of compute, tokens out."""
    s = make()
    try:
        before = s.windows() if isinstance(s, Ours) else None
        done = asyncio.run(open_loop(s.port, trace, extra))
        bad = [d.status for d in done if d.status != 200]
        if bad:
            raise RuntimeError(f"{len(bad)} requests failed, the first with {bad[0]}")
        return {"mean": statistics.mean(d.end for d in done), "p99": pct([d.end for d in done], 99),
                "easy": statistics.mean(d.first for d in done if d.easy), "hard": statistics.mean(d.end for d in done if not d.easy),
                "cv": cv(before, s.windows()) if before else None, "tokens": sum(d.tokens for d in done), "n": len(done)}
    finally:
        s.stop()


def capacity(make, seconds, extra):
    s = make()
    try:
        asyncio.run(closed_loop(s.port, SLOTS, 3, 1, extra))
        return asyncio.run(closed_loop(s.port, SLOTS, seconds, 2, extra))
    finally:
        s.stop()


def against(a, name, make, extra=None):
    """Rows of both loads and arrivals, ours beside `make`, in alternation."""
    cap = capacity(make, a.seconds, extra)
    print(f"capacity: {cap:.2f} requests/s", flush=True)
    for load in (0.7, 0.9):
        for bursts in (False, True):
            got = {"mean": [], "p99": [], "easy": [], "cv": []}
            for i in range(a.rounds):
                trace, seed = [], 100 + i
                while sum(t[1] for t in trace) < 3 or all(t[1] for t in trace):  # some of both kinds
                    trace = make_trace(seed, a.seconds, load * cap, bursts)
                    seed += 1000
                x, y = play(Ours, trace, extra), play(make, trace, extra)
                for k in got:
                    if y[k] and x[k]:
                        got[k].append(x[k] / y[k] - 1)
                print(f"  {name} load {load} {'bursts' if bursts else 'poisson'} round {i}: ours {json.dumps({k: v and round(v, 3) for k, v in x.items()})}"
                      f" other {json.dumps({k: v and round(v, 3) for k, v in y.items()})}", flush=True)
            row = "; ".join(f"{k} {spread([100 * v for v in got[k]], ' %')}" for k in got if got[k])
            print(f"against {name}, load {load}, {'bursts' if bursts else 'Poisson'}: {row}", flush=True)


def fair(a):
    """Three tenants, 64 clients: a greedy one with 48, two with 8. Service while all three have work waiting."""
    keys = {"greedy": 48, "second": 8, "third": 8}
    with tempfile.TemporaryDirectory() as d:
        f = pathlib.Path(d) / "keys"
        f.write_text("".join(f"{hashlib.sha256(k.encode()).hexdigest()} {k}\n" for k in keys))
        f.chmod(0o600)
        s, seconds, served, log = Ours("--keys", str(f), "--max-run", "8"), a.seconds, dict.fromkeys(keys, 0.0), []

        async def client(tenant, seed, end):
            rng = random.Random(seed)
            while time.perf_counter() < end:
                text, limit = question(rng, rng.random() < 0.7)
                r = await ask(s.port, True, text, limit, time.perf_counter(), tenant=tenant)
                served[tenant] += r.prompt + 4 * r.tokens
                log.append((time.perf_counter(), dict(served)))

        async def all_of_them():
            end = time.perf_counter() + seconds
            await asyncio.gather(*[client(t, 1000 * i + k, end) for i, (t, n) in enumerate(keys.items()) for k in range(n)])
            return end

        end = asyncio.run(all_of_them())
        s.stop()
        log = [x for t, x in log if t < end]
        gaps = [max(x.values()) - min(x.values()) for x in log]
        bound = 2 * max(2500, 4 * 8 * (2500 + HARD))  # Sheng et al., theorem 4.4: a prompt, or all tokens of a batch of 8
        shares = {t: log[-1][t] / sum(log[-1].values()) for t in keys}
        print(f"fairness, 64 clients of 3 tenants, {seconds:.0f} s: largest gap of service {max(gaps):.0f} (bound {bound}); shares "
              + ", ".join(f"{t} {100 * v:.1f} %" for t, v in shares.items()), flush=True)


def overload(a):
    """Ten times the capacity, in requests that arrive at random: useful tokens a second against the peak, health checks, memory."""
    s = Server("-t", THREADS, "--max-wait", "5", "--max-queue", "64", "--kv-bytes", "400M")
    rss = lambda: int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{s.proc.pid}/status").read_text()).group(1)) / 1024  # noqa: E731
    useful = lambda: s.metric("sparing_useful_tokens_total")  # noqa: E731
    t, before = time.perf_counter(), useful()
    rate = asyncio.run(closed_loop(s.port, SLOTS, 40, 5))
    peak, health, memory = (useful() - before) / (time.perf_counter() - t), [], []

    async def watch(end):
        while time.perf_counter() < end:
            t = time.perf_counter()
            r, w = await asyncio.open_connection("127.0.0.1", s.port)
            w.write(b"GET /health HTTP/1.1\r\nHost: 127.0.0.1\r\nConnection: close\r\n\r\n")
            await r.read()
            w.close()
            health.append(time.perf_counter() - t)
            memory.append(rss())
            await asyncio.sleep(0.25)

    async def flood():
        end = time.perf_counter() + a.overload
        done, _ = await asyncio.gather(open_loop(s.port, make_trace(9, a.overload, 10 * rate, False)), watch(end))
        return done

    t, before = time.perf_counter(), useful()
    done = asyncio.run(flood())
    good = (useful() - before) / (time.perf_counter() - t)
    ok, full = [d for d in done if d.status == 200], sum(d.status == 429 for d in done)
    warm = memory[len(memory) // 10:]
    print(f"overload, {a.overload:.0f} s at {10 * rate:.1f} requests/s: {len(ok)} answered, {full} got 429, {len(done) - len(ok) - full} something else; useful tokens "
          f"{good:.0f}/s, {100 * good / peak:.1f} % of the peak; answered within p99 {pct([d.end for d in ok], 99):.2f} s; health p99 {1000 * pct(health, 99):.1f} ms; "
          f"memory {warm[0]:.0f} to {warm[-1]:.0f} MiB, at most {max(warm):.0f}", flush=True)
    s.stop()


def utilisation(a):
    """How much of the machine is at work at a load of 0.9 of each setting's own capacity, and what bounds it: the share of time in steps, and over
    that time the shares of the arithmetic and of the read bandwidth that `sparing bench` measures on this machine. The larger of the two is of the
    resource that limits; it is a lower bound, for a step that waits for one has no use for the other."""
    peak = json.loads(subprocess.run([str(BIN), "bench", "-m", str(MODEL), "-t", THREADS, "--json", "-p", "64", "-n", "0", "--repeat", "1"], check=True,
                                     capture_output=True, text=True).stdout)
    names = ("sparing_busy_seconds_total", "sparing_step_flops_total", "sparing_step_bytes_total")
    for name, make in (("all on", Ours), ("plain (first come, nothing guessed)", lambda: Ours(*FCFS))):
        cap, rows = capacity(make, a.seconds, None), []
        for i in range(a.rounds):
            s = make()
            try:
                asyncio.run(closed_loop(s.port, SLOTS, 3, 1))
                before, began = [s.metric(n) for n in names], time.perf_counter()
                done = asyncio.run(open_loop(s.port, make_trace(300 + i, a.seconds, 0.9 * cap, False), None))
                took = time.perf_counter() - began
                busy, flops, read = (s.metric(n) - x for n, x in zip(names, before))
            finally:
                s.stop()
            if not done or not all(d.status == 200 for d in done):
                raise RuntimeError(f"of {len(done)} requests not all were answered, or none came: ask for more --seconds")
            rows.append((busy / took, flops / 2 / peak["int_mac_s"] / took, read / peak["read_bytes_s"] / took))
        busy, arithmetic, memory = ([100 * r[k] for r in rows] for k in range(3))
        print(f"utilisation at load 0.9, {name} ({cap:.2f} requests/s): time in steps {spread(busy, ' %')}; arithmetic {spread(arithmetic, ' %')}; read bandwidth "
              f"{spread(memory, ' %')}", flush=True)


def loops(s, text):
    """Does the answer say the same over and over? Of its runs of four tokens, fewer than 80 % are different."""
    tok = s.http.post("/tokenize", json={"content": text}).json()["tokens"]
    runs = [tuple(tok[i:i + 4]) for i in range(len(tok) - 3)]
    return len(set(runs)) < 0.8 * len(runs)


def guess(a):
    """One request at a time, with and without tokens guessed ahead, alternating: the same answers, and the time from first to last token."""
    s, rng, rows = Ours(), random.Random(77), {}
    asks = [("about a text", *question(rng, False)) for _ in range(16)]
    asks += [("of the intent set", line.split("\t")[-1].strip(), HARD) for line in rng.sample((ROOT / "train/intent/prompts.tsv").read_text().splitlines()[1:], 32)]
    for kind, text, limit in asks:
        ms, answers = {0: [], 15: []}, set()
        for _ in range(a.rounds):
            for draft in ms:
                r = s.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": text}], "max_tokens": limit, "temperature": 0,
                                                              "sparing": {"draft": draft}}).json()
                ms[draft].append(r["usage"]["sparing"]["ms"]["decode"])
                answers.add(r["choices"][0]["message"]["content"])
        if len(answers) != 1:
            raise RuntimeError(f"guessing changed the answer to: {text[:80]}")
        d = r["usage"]["sparing"]["decode"]
        for group in (kind, f"{kind}, not looping") if not loops(s, answers.pop()) else (kind,):
            rows.setdefault(group, []).append((statistics.median(ms[0]), statistics.median(ms[15]), d))
    s.stop()
    for group, got in rows.items():
        n = sum(d["tokens"] for *_, d in got)
        print(f"guessing ahead, {len(got)} answers {group}: {sum(x for x, *_ in got) / sum(y for _, y, _ in got):.2f} x; {sum(d['steps'] for *_, d in got) / n:.2f} steps a token, "
              f"{sum(d['accepted'] for *_, d in got) / n:.2f} guesses right, {sum(d['drafted'] - d['accepted'] for *_, d in got) / n:.2f} wrong", flush=True)


def routing(a):
    r = json.loads(subprocess.run([str(BIN), "train", "intent", str(ROOT / "train/intent/prompts.tsv"), "--intent-model", str(ROOT / "train/intent/intent.model"), "--json"],
                                  capture_output=True, text=True, check=True).stdout)
    print(f"routing on {r['test']} prompts of {r['held']} held-out families: light or full {r['accuracy']['path']:.3f}, ECE {r['ece']['path']:.3f}; class {r['accuracy']['class']:.3f}; "
          f"need of knowledge {r['accuracy']['need']:.3f}; area under quality over cost {r['area']['model']:.3f}, by length alone {r['area']['length']:.3f}, at random "
          f"{r['area']['random']:.3f}; least distance above length {r['least_gain']['length']:.3f}, above random {r['least_gain']['random']:.3f}", flush=True)


def overhead(a):
    s = Ours()
    rng, intent, whole = random.Random(3), [], []
    for _ in range(200):
        text, limit = question(rng, True)
        t = time.perf_counter()
        c = s.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": text}], "max_tokens": limit, "temperature": 0}).json()["usage"]["sparing"]
        whole.append(1000 * (time.perf_counter() - t))
        intent.append(c["ms"]["intent"])
    t = time.perf_counter()
    n = len(s.http.get("/v1/requests?limit=200").json()["data"])
    receipt = 1000 * (time.perf_counter() - t) / n  # an upper bound: it is sent and parsed too
    long = [s.http.post("/v1/plan", json={"messages": [{"role": "user", "content": TEXT[i:i + 32000]}]}).json()["ms"] for i in range(0, 100000, 1000)]
    short = [s.http.post("/v1/plan", json={"messages": [{"role": "user", "content": TEXT[i:i + 2200]}]}).json()["ms"] for i in range(0, 100000, 1000)]
    s.stop()
    print(f"overhead of a light request: intent and plan {spread(intent, ' ms')}, receipt at most {receipt:.3f} ms, of {statistics.median(whole):.1f} ms: "
          f"{100 * (statistics.median(intent) + receipt) / statistics.median(whole):.2f} %; intent p99 of 500 tokens {pct(short, 99):.3f} ms, of 8,000 {pct(long, 99):.3f} ms", flush=True)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--peer")
    p.add_argument("--only", default="trace,fair,overload,guess,routing,overhead,utilisation")
    p.add_argument("--overload", type=float, default=600, help="seconds of the overload")
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--seconds", type=float, default=40, help="of a trace")
    p.add_argument("--against", default="own,peer", help="of the trace")
    a = p.parse_args()
    for name, row in (("routing", routing), ("overhead", overhead), ("guess", guess), ("fair", fair), ("overload", overload), ("utilisation", utilisation)):
        if name in a.only:
            row(a)
    if "trace" in a.only:
        if "own" in a.against:
            against(a, "own FCFS", lambda: Ours(*FCFS))
            against(a, "own FCFS, with a repetition penalty", lambda: Ours(*FCFS), {"repetition_penalty": 1.1})
        if a.peer and "peer" in a.against:
            against(a, "llama-server", lambda: Peer(a.peer))


if __name__ == "__main__":
    main()
