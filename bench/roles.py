#!/usr/bin/env python3
"""Retrieval, reasoning and generation in three processes against all of them in one, over gRPC, on the same trace: the same questions one behind the
other, each about other passages of one text. One process gets Retrieve and Generate; three get Retrieve, ReasonAhead and Generate with its ticket. The
two take turns, so that other work on the machine meets both. Every answer must be the same to the byte.

usage: bench/roles.py [--questions N] [--tokens N] [--threads N]"""
import argparse
import pathlib
import statistics
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "test/e2e"))
from conftest import MODEL, Server, wait_until  # noqa: E402
from rpc import Client  # noqa: E402
from stats import spread  # noqa: E402

TEXT = (ROOT / "test/data/licences.txt").read_text()


def collection(server):
    store = server.http.post("/v1/vector_stores", json={"name": "licences"}).json()["id"]
    f = server.http.post("/v1/files", files={"file": ("licences.txt", TEXT)}, data={"purpose": "assistants"}).json()["id"]
    server.http.post(f"/v1/vector_stores/{store}/files", json={"file_id": f})
    wait_until(lambda: server.http.get(f"/v1/vector_stores/{store}/files/{f}").json()["status"] == "completed", "the text")
    return store


def questions(n):
    words = [w for w in TEXT.split() if len(w) > 6 and w.isalpha()]
    return [f"What is said about {' '.join(words[(i * 97) % (len(words) - 3):][:3])}?" for i in range(n)]


def prompt_of(client, store, question):
    found = client.call("sparing.v1.Retrieval/Retrieve", {"query": question, "collections": [store]}).passages
    return "\n\n".join(p.text for p in found) + f"\n\n{question}\n"


def generate(client, begin, **ask):
    """Text, seconds to the first of it, tokens a second behind that."""
    first, text, finish = None, "", None
    for e in client.call("sparing.v1.Generation/Generate", {"ignore_end": True, **ask}):
        first = first or time.perf_counter()
        text += e.text
        finish = e.finish if e.WhichOneof("event") == "finish" else finish
    return text, first - begin, (finish.completion_tokens - 1) / (time.perf_counter() - first)


def ask_one(one, store, question, salt, n):
    begin = time.perf_counter()
    text = prompt_of(one, store, question)
    return generate(one, begin, prompt={"text": text}, max_tokens=n, cache_salt=salt)


def ask_three(retrieval, reasoning, generation, store, question, salt, n):
    begin = time.perf_counter()
    text = prompt_of(retrieval, store, question)
    reasons = reasoning.call("sparing.v1.Reasoning/ReasonAhead", {"prompt": {"text": text}, "cache_salt": salt})
    r = next(reasons)
    ticket = generation.type("sparing.v1.Ticket").FromString(r.ticket.SerializeToString())
    got = generate(generation, begin, prompt={"token_ids": list(r.token_ids)}, max_tokens=n, cache_salt=salt, ticket=ticket)
    assert len(list(reasons)) == 1
    return got


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--questions", type=int, default=8)
    p.add_argument("--tokens", type=int, default=64)
    p.add_argument("--threads", default="2")
    a = p.parse_args()
    base = ("-m", str(MODEL), "--threads", a.threads, "--grpc", "127.0.0.1:0")
    with tempfile.TemporaryDirectory() as folder:
        whole = Server(*base, "--knowledge", f"{folder}/one.db")
        retrieval = Server(*base, "--role", "retrieval", "--knowledge", f"{folder}/three.db")
        reasoning = Server(*base, "--role", "reasoning")
        generation = Server(*base, "--role", "generation", "--peers", Client.target_of(reasoning))
        servers = (whole, retrieval, reasoning, generation)
        one, *three = clients = [Client(s) for s in servers]
        stores = collection(whole), collection(retrieval)
        rows = {"one": [], "three": []}
        for i, q in enumerate(questions(a.questions + 1)):  # the first one warms up
            x, y = ask_one(one, stores[0], q, f"s{i}", a.tokens), ask_three(*three, stores[1], q, f"s{i}", a.tokens)
            assert x[0] == y[0], (q, x[0], y[0])
            if i:
                rows["one"].append(x[1:])
                rows["three"].append(y[1:])
        for c in clients:
            c.close()
        for s in servers:
            assert s.stop() == 0
    print(f"{a.questions} questions, {a.tokens} tokens each, {a.threads} threads; all answers equal")
    for name, got in rows.items():
        print(f"{name:6} first text {spread([1000 * x[0] for x in got])} ms; tokens/s {spread([x[1] for x in got])}")
    print(f"three - one: first text, median of pairs {1000 * statistics.median(y[0] - x[0] for x, y in zip(rows['one'], rows['three'])):+.1f} ms; "
          f"tokens/s {100 * (statistics.median(y[1] / x[1] for x, y in zip(rows['one'], rows['three'])) - 1):+.1f} %")


if __name__ == "__main__":
    main()
