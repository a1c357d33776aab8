#!/usr/bin/env python3
"""Load on a gRPC method, as ghz makes it: so many calls, so many of them at a time, over so many connections. Prints how many ended with which status, calls a second, and the
milliseconds until their first message and until their end. The method's types are asked of the server's reflection.

usage: bench/rpc.py HOST:PORT [--call SERVICE/METHOD] [--data JSON] [-n N] [-c N] [--connections N] [--timeout S] [--key KEY]
In --data, {i} becomes the number of the call."""
import argparse
import collections
import concurrent.futures
import pathlib
import sys
import time

import grpc
from google.protobuf import json_format

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "test/e2e"))
from rpc import Client  # noqa: E402
from stats import pct  # noqa: E402


class Caller:
    def __init__(self, target, key, method):
        self.client = Client(None, key, target=target)
        service, name = method.split("/")
        self.type = self.client.type(self.client.pool.FindServiceByName(service).FindMethodByName(name).input_type.full_name)
        self.method = method

    def call(self, data, timeout):
        """Status, seconds until the first message (None: there was none), seconds until the end."""
        request = json_format.Parse(data, self.type())
        begin, first = time.perf_counter(), None
        try:
            got = self.client.call(self.method, raw=request.SerializeToString(), timeout=timeout)
            for _ in got if hasattr(got, "__next__") else [got]:
                first = first or time.perf_counter() - begin
            status = "OK"
        except grpc.RpcError as e:
            status = e.code().name
        return status, first, time.perf_counter() - begin


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("target")
    p.add_argument("--call", default="grpc.health.v1.Health/Check")
    p.add_argument("--data", default="{}")
    p.add_argument("-n", type=int, default=200)
    p.add_argument("-c", type=int, default=50)
    p.add_argument("--connections", type=int, default=1)
    p.add_argument("--timeout", type=float, default=600)
    p.add_argument("--key")
    a = p.parse_args()
    callers = [Caller(a.target, a.key, a.call) for _ in range(a.connections)]
    begin = time.perf_counter()
    with concurrent.futures.ThreadPoolExecutor(a.c) as pool:
        got = list(pool.map(lambda i: callers[i % len(callers)].call(a.data.replace("{i}", str(i)), a.timeout), range(a.n)))
    seconds = time.perf_counter() - begin
    for c in callers:
        c.client.close()
    print(f"{a.call}: {a.n} calls, {a.c} at a time, {a.connections} connections; {a.n / seconds:.1f} calls/s")
    print("status:", ", ".join(f"{k} {n}" for k, n in sorted(collections.Counter(x[0] for x in got).items())))
    for what, at in (("first message", 1), ("end", 2)):
        ms = [1000 * x[at] for x in got if x[at] is not None]
        if ms:
            print(f"{what}, ms: " + ", ".join(f"p{q} {pct(ms, q):.1f}" for q in (50, 90, 99)) + f", worst {max(ms):.1f}")


if __name__ == "__main__":
    main()
