#!/usr/bin/env python3
"""test/freezes.py [NAME…] [--limit-ms 50]: does any input stop the server for the others? Sends each hostile input to one server, while a
process of its own asks for /health again and again on a connection that stays open, and another one reads a stream. Prints for each
input the worst answer of /health, and the stream's median and worst time between tokens beside those without the input.

Exit 1: /health took longer than the limit, or an input was not answered as it must be. The figures are of a quiet machine: this is a part
of `make check` and no test of `make test`, which has no clock. SPARING_BIN names another build.
"""
import argparse
import http.client
import json
import multiprocessing
import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test/e2e"))
import pdfs  # noqa: E402
from conftest import MODEL, Server, wait_until  # noqa: E402
from ggufs import STR, Gguf, one_layer  # noqa: E402
from office import docx, para  # noqa: E402
from test_budgets import BOMBS, DIGITS, FEWER, TEMPLATES  # noqa: E402

TEMPLATE_BOMBS = "cycle", "nested lists", "doubled lists", "doubled text", "output", "searches", "loops"
LEAST_S, PAUSE_S = 1.0, 0.2  # an input is sent again and again for so long, with pauses: many small ones at once are load, and no freeze


def probe(port, take, give):
    """Each number that comes begins a measurement, the next one ends it: the slowest answer in ms, and how many there were."""
    c = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
    while take.recv():
        worst, n = 0.0, 0
        while not take.poll():
            begin = time.perf_counter()
            c.request("GET", "/health")
            r = c.getresponse()
            r.read()
            assert r.status == 200
            worst, n = max(worst, time.perf_counter() - begin), n + 1
            time.sleep(0.001)
        take.recv()
        give.send((1000 * worst, n))


def listen(port, times):
    """Streams answers for ever; puts the time of each token into a queue, which never makes it wait: a pipe that nobody reads during a long
    input fills up, and its pause would be taken for the server's."""
    while True:
        c = http.client.HTTPConnection("127.0.0.1", port, timeout=600)
        body = {"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 1500, "stream": True, "sparing": {"draft": 0, "regex": "[a-z ]{9000}"}}  # each token is a text
        c.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        first = True
        for line in c.getresponse():
            if line.startswith(b"data: {"):
                times.put((time.perf_counter(), first))
                first = False


def gaps(times):
    """Milliseconds between tokens since the last call; none across two answers."""
    out, last = [], None
    while not times.empty():
        at, first = times.get()
        if last and not first:
            out.append(1000 * (at - last))
        last = at
    return out


def post(path, code, **kw):
    def send(s):
        r = s.http.post(path, **kw)
        assert r.status_code == code, f"{r.status_code}: {r.text[:200]}"
    return send


def chat(code, **kw):
    return post("/v1/chat/completions", code, json={"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, **kw})


def raw(path, code, body):
    return post(path, code, content=body, headers={"Content-Type": "application/json"})


def document(name, data, state):
    """Read by the server: it ends in this state."""
    def send(s):
        file = s.http.post("/v1/files", files={"file": (name, data)}, data={"purpose": "assistants"}).json()["id"]
        store = s.http.post("/v1/vector_stores", json={"file_ids": [file]}).json()["id"]
        counts = lambda: s.http.get(f"/v1/vector_stores/{store}").json()["file_counts"]  # noqa: E731
        wait_until(lambda: counts()["in_progress"] == 0, name)
        assert counts()[state] == 1, counts()
    return send


def with_bombs(folder):
    """The default model's first layer; its template is a bomb for who says the bomb's name, and gives back the text otherwise."""
    g = Gguf(one_layer(MODEL, folder / "bombs.gguf"))
    bombs = "".join("{% if messages[0].content == '" + name + "' %}" + TEMPLATES[name][0] + "{% endif %}" for name in TEMPLATE_BOMBS)
    g.keys["tokenizer.chat_template"] = (STR, bombs + "{{ messages[0].content }}")
    return str(g.write(folder / "bombs.gguf"))


def inputs():
    many = [{"role": "user", "content": ""}] * 300_000
    schema = {"type": "object", "properties": {f"{i}" * 40: {"type": "string"} for i in range(2000)}}
    out = {f"pattern {name}": chat(400, sparing={"regex": pattern}) for name, (pattern, _) in BOMBS.items()}
    out |= {
        "schema": chat(400, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}),
        "15 MB of digits in a message": raw("/v1/chat/completions", 400, b'{"messages":[{"role":"user","content":"' + DIGITS + b'"}]}'),
        "15 MB of digits as a number": raw("/v1/chat/completions", 400, b'{"seed":' + DIGITS + b"}"),
        "5 MB of digits as tokens": raw("/tokenize", 200, b'{"content":"' + FEWER + b'"}'),
        "15 MB of open brackets": raw("/v1/plan", 400, b"[" * len(DIGITS)),
        "7 million token ids": raw("/v1/completions", 400, b'{"prompt":[' + b"1," * 7_000_000 + b"1]}"),
        "500,000 parameters": raw("/v1/chat/completions", 400, b"{" + b",".join(b'"k%d":1' % i for i in range(500_000)) + b"}"),
        "300,000 messages": raw("/v1/chat/completions", 400, json.dumps({"messages": many}).encode()),
        "PDF bomb": document("bomb.pdf", pdfs.bomb(256), "completed"),
        "ZIP bomb": document("bomb.docx", docx(para("x" * 4096) * (80 << 10)), "failed"),
        "64 KiB of one line": document("line.txt", b"0123456789abcdef" * (1 << 12), "completed"),
    }
    return out | {f"template {name}": post("/v1/chat/completions", 400, json={"model": "bombs", "messages": [{"role": "user", "content": name}]}) for name in TEMPLATE_BOMBS}


def main():
    p = argparse.ArgumentParser(description=__doc__)
    p.add_argument("names", nargs="*", help="words of an input's name")
    p.add_argument("--limit-ms", type=float, default=50)
    a = p.parse_args()
    bad = []
    with tempfile.TemporaryDirectory() as folder:
        folder = pathlib.Path(folder)
        s = Server("-m", str(MODEL), "-m", with_bombs(folder), "--knowledge", str(folder / "k.db"))
        pipes, times = [multiprocessing.Pipe(False) for _ in range(2)], multiprocessing.Queue()
        workers = [multiprocessing.Process(target=probe, args=(s.port, pipes[0][0], pipes[1][1]), daemon=True),
                   multiprocessing.Process(target=listen, args=(s.port, times), daemon=True)]
        for w in workers:
            w.start()

        def measure(send):
            gaps(times)
            pipes[0][1].send(1)
            begin = time.perf_counter()
            said, n_sent, took = "", 0, 0.0
            while not said and time.perf_counter() - begin < LEAST_S:
                n_sent, sent = n_sent + 1, time.perf_counter()
                try:
                    send(s)
                except AssertionError as e:
                    said = str(e)
                took += time.perf_counter() - sent
                time.sleep(PAUSE_S)
            took /= n_sent
            pipes[0][1].send(1)
            worst, n = pipes[1][0].recv()
            return worst, n, gaps(times), took, said

        wait_until(lambda: not times.empty(), "a stream")
        worst, n, usual, _, _ = measure(lambda s: time.sleep(5))
        print(f"freezes: nothing: /health at most {worst:.1f} ms of {n}; between tokens {statistics.median(usual):.1f} ms, at most {max(usual):.1f} ms", flush=True)
        for name, send in inputs().items():
            if a.names and not any(x in name for x in a.names):
                continue
            worst, n, between, took, said = measure(send)
            median = statistics.median(between) if between else 0
            print(f"freezes: {name} ({took:.2f} s each): /health at most {worst:.1f} ms of {n}; between tokens {median:.1f} ms, at most {max(between, default=0):.1f} ms{'; ' + said if said else ''}", flush=True)
            if said or worst > a.limit_ms:
                bad.append(name)
        for w in workers:
            w.terminate()
        code = s.stop()
    if bad or code:
        print(f"freezes: too slow or answered otherwise: {', '.join(bad) or 'none'}; the server ended with {code}")
    return 1 if bad or code else 0


if __name__ == "__main__":
    sys.exit(main())
