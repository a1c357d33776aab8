#!/usr/bin/env python3
"""Pages handed over between two servers on loopback: how fast, and how much of it is hidden behind the prompt when the ticket comes ahead. The model is one of random weights whose pages have the size of SmolLM2-135M's and
whose arithmetic is a twentieth, so that the transfer is measured and not the prompt.

usage: bench/handover.py [--tokens N] [--times N]"""
import argparse
import json
import multiprocessing
import pathlib
import socket
import statistics
import sys
import tempfile
import time

import numpy as np

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "test/e2e"))
from conftest import MODEL, Server  # noqa: E402
from ggufs import Gguf  # noqa: E402
from rpc import Client  # noqa: E402

WIDE, FF = 192, 64  # three heads of 64, as many as SmolLM2 has for keys and values


def light_model(path):
    g, rng = Gguf(MODEL), np.random.default_rng(1)
    sizes = {"embedding_length": WIDE, "feed_forward_length": FF, "attention.head_count": 3, "attention.head_count_kv": 3}
    g.keys.update({f"llama.{k}": (4, n) for k, n in sizes.items()})
    for name, (dims, _, _) in g.tensors.items():
        if len(dims) == 1:
            g.tensors[name] = ([WIDE], 0, np.ones(WIDE, "<f4").tobytes())
            continue
        dims = [FF if "ffn_down" in name else WIDE, dims[1] if name.startswith("token") else FF if "ffn_gate" in name or "ffn_up" in name else WIDE]
        g.tensors[name] = (dims, 1, (rng.standard_normal(dims[0] * dims[1]) / 14).astype("<f2").tobytes())
    return str(g.write(path))


def ahead(ca, cb, ids, salt):
    """Reason and Generate side by side."""
    stream = ca.call("sparing.v1.Reasoning/ReasonAhead", {"prompt": {"token_ids": ids}, "cache_salt": salt})
    ticket = cb.type("sparing.v1.Ticket").FromString(next(stream).ticket.SerializeToString())
    finish = cb.generate(prompt={"token_ids": ids}, max_tokens=1, ticket=ticket, cache_salt=salt)[1]
    assert finish.cached_tokens == ticket.n_tokens
    list(stream)


def given(server):
    return [server.metric(f'sparing_pages_given_total{{when="{w}"}}') for w in ("ahead", "after")]


def timed(fn):
    begin = time.perf_counter()
    return fn(), time.perf_counter() - begin


def read_all(to, port):
    with socket.create_connection(("127.0.0.1", port)) as s:
        room = bytearray(256 << 10)
        begin, n = time.perf_counter(), 0
        while got := s.recv_into(room):
            n += got
        to.send(n / (time.perf_counter() - begin) / 1e6)


def loopback(n_bytes):
    """MB/s of bytes that nobody looks at: the limit of this machine's network to itself."""
    near, far = multiprocessing.Pipe()
    with socket.create_server(("127.0.0.1", 0)) as s:
        reader = multiprocessing.Process(target=read_all, args=(far, s.getsockname()[1]))
        reader.start()
        with s.accept()[0] as c:
            data = bytes(256 << 10)
            for _ in range(n_bytes // len(data)):
                c.sendall(data)
    rate = near.recv()
    reader.join()
    return rate


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--tokens", type=int, default=7500)
    p.add_argument("--times", type=int, default=5)
    a = p.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        base = ("-m", light_model(pathlib.Path(folder) / "light.gguf"), "--threads", "2", "--grpc", "127.0.0.1:0", "--kv-bytes", "280M")  # so that pages come into memory that was used before
        one = Server(*base, "--role", "reasoning")
        ca = Client(one)
        two = Server(*base, "--role", "generation", "--peers", ca.target)
        cb = Client(two)
        rates, prefills, fetches, hidden, early, handed, own, wire = [], [], [], [], [], [], [], []
        for i in range(a.times):
            ids = [(i * 31 + k * 7919) % 40_000 + 100 for k in range(a.tokens)]
            r, prefill = timed(lambda: ca.call("sparing.v1.Reasoning/Reason", {"prompt": {"token_ids": ids}}))
            busy = time.process_time()
            chunks, direct = timed(lambda: [len(c.data) for c in ca.call("sparing.v1.Pages/Fetch", {"ticket": r.ticket})])
            own.append(1000 * (time.process_time() - busy) / (sum(chunks) / 1e6))
            wire.append(loopback(sum(chunks)))
            ticket = cb.type("sparing.v1.Ticket").FromString(r.ticket.SerializeToString())
            ask = lambda: cb.generate(prompt={"token_ids": ids}, max_tokens=1, ticket=ticket)
            (first, finish), with_pages = timed(ask)
            assert finish.cached_tokens == r.ticket.n_tokens
            receipt = json.loads(finish.receipt)["handed"]
            handed.append(receipt["bytes"] / receipt["ms"] / 1e3)
            known = statistics.median(timed(lambda: cb.generate(prompt={"token_ids": ids}, max_tokens=1))[1] for _ in range(3))
            was = given(one)
            both = timed(lambda: ahead(ca, cb, ids, "ahead"))[1]
            n = [x - y for x, y in zip(given(one), was)]
            early.append(n[0] / sum(n))
            hidden.append(1 - (both - prefill - known) / (with_pages - known))
            prefills.append(prefill)
            fetches.append(sum(chunks) / direct / 1e6)
            rates.append(sum(chunks) / (with_pages - known) / 1e6)
        for c in (ca, cb):
            c.close()
        for s in (one, two):
            assert s.stop() == 0
    print(f"{a.tokens} tokens, {sum(chunks) / 1e6:.1f} MB, {a.times} prompts; the prompt computed: {statistics.median(prefills):.2f} s")
    print(f"a ticket that comes ahead: hidden behind the prompt {' '.join(f'{100 * x:.0f}' for x in hidden)} % of the transfer's time; "
          f"sent before its end {' '.join(f'{100 * x:.0f}' for x in early)} % of the pages")
    print(f"grpcio's own processor time: {statistics.median(own):.2f} ms a MB, so {1000 / statistics.median(own):.0f} MB/s at most")
    for name, got in {"loopback, bytes that nobody looks at": wire, "Fetch into grpcio": fetches, "Fetch by the role that generates, checked and put into its memory": handed, "Generate with a ticket, less what it takes when the pages are there": rates}.items():
        print(f"{name}: {' '.join(f'{x:.0f}' for x in got)}, median {statistics.median(got):.0f} MB/s")


if __name__ == "__main__":
    main()
