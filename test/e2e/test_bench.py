"""The benchmark for users: its rows and its CSV, with a peer and without, and what two of its files differ in. No speed is looked at."""
import csv
import re
import subprocess
import sys

import pytest

from conftest import ROOT, wait_until
from rpc import Client

BENCH = ROOT / "bench"
PEER = """#!{python}
import json, sys
a = dict(zip(sys.argv[1::2], sys.argv[2::2]))
print(json.dumps([{{"n_prompt": int(a["-p"]), "n_gen": int(a["-n"]), "avg_ts": 10.0}}]))
"""


def call(script, *args):
    return subprocess.run([sys.executable, str(BENCH / script), *map(str, args)], capture_output=True, text=True, cwd=ROOT)


def read(path):
    with open(path, newline="") as f:
        return list(csv.DictReader(f))


@pytest.fixture(scope="module")
def alone(tmp_path_factory):
    """What a run without a peer writes and prints."""
    path = tmp_path_factory.mktemp("bench") / "new folder" / "a.csv"
    p = call("quick.py", "--rounds", 1, "--threads", 2, "--rows", "SmolLM2 Q4_1 (prefill 512|decode 128)", "--csv", path)
    assert p.returncode == 0, p.stderr
    return path, p.stdout


def test_rows_without_a_peer(alone):
    path, out = alone
    rows = read(path)
    assert [(r["model"], r["work"]) for r in rows] == [("SmolLM2 Q4_1", "prefill 512"), ("SmolLM2 Q4_1", "decode 128")]
    for r in rows:
        assert 0 < float(r["low"]) <= float(r["tok_s"]) <= float(r["high"]) and r["rounds"] == "1"
        assert all(r[k] for k in ("cpu", "isa", "threads", "cores", "read_gb_s", "commit", "changed", "date", "kernel", "load_before"))
        assert r["ratio"] == r["peer"] == ""
    assert rows[0]["share_of"] == "integer peak" and rows[1]["share_of"] == "read bandwidth"
    assert "| SmolLM2 Q4_1 | decode 128 |" in out and "| - | - |" in out and rows[0]["cpu"] in out


def test_rows_beside_a_peer(tmp_path):
    (tmp_path / "peer/bin").mkdir(parents=True)
    fake = tmp_path / "peer/bin/llama-bench"
    fake.write_text(PEER.format(python=sys.executable))
    fake.chmod(0o755)
    p = call("quick.py", "--rounds", 1, "--rows", "decode 128", "--threads", 1, "--peer", tmp_path / "peer", "--csv", tmp_path / "b.csv")
    assert p.returncode == 0, p.stderr
    row, = read(tmp_path / "b.csv")
    assert row["threads"] == "1" and float(row["peer_tok_s"]) == 10 and row["peer"] == str(tmp_path / "peer")
    assert float(row["ratio"]) == pytest.approx(float(row["tok_s"]) / 10, rel=1e-3)
    assert call("quick.py", "--rows", "no such row").returncode == 2


def changed(path, to, **factors):
    """The file with rates of some works multiplied, and with a peer's ratios where `ratio` is given."""
    rows = read(path)
    for r in rows:
        f = factors.get(r["work"].split()[0], 1)
        for k in ("tok_s", "low", "high"):
            r[k] = float(r[k]) * f
        if "ratio" in factors:
            r |= {"ratio": factors["ratio"], "ratio_low": factors["ratio"], "ratio_high": factors["ratio"], "cpu": "another one"}
    with open(to, "w", newline="") as f:
        w = csv.DictWriter(f, rows[0].keys())
        w.writeheader()
        w.writerows(rows)
    return to


def test_what_two_files_differ_in(alone, tmp_path):
    a = alone[0]
    same = call("compare.py", a, a)
    assert same.returncode == 0 and same.stdout.count("| 1.00 | same |") == 2
    p = call("compare.py", a, changed(a, tmp_path / "b.csv", prefill=1e-3, decode=1e3))
    assert p.returncode == 1 and "| slower |" in p.stdout and "| 1000.00 | faster |" in p.stdout
    x, y = changed(a, tmp_path / "x.csv", ratio=2), changed(a, tmp_path / "y.csv", prefill=1e-3, ratio=3)
    p = call("compare.py", x, y)  # on two machines the ratios to the peer count
    assert p.returncode == 0 and p.stdout.count("| 1.50 | faster |") == 2
    p = call("compare.py", a, x)
    assert p.stdout.startswith("cpu: ") and "another one" in p.stdout and "tok/s" in p.stdout
    (tmp_path / "c.csv").write_text("model,work\nm,w\n")
    p = call("compare.py", a, tmp_path / "c.csv")
    assert p.returncode == 1 and "a row without tok_s" in p.stderr
    (tmp_path / "d.csv").write_text(a.read_text().splitlines()[0] + "\n")
    assert call("compare.py", a, tmp_path / "d.csv").returncode == 2


def test_load_on_a_grpc_method(make_server):
    """bench/rpc.py: what it counts are the calls that it made."""
    s = make_server("--grpc", "127.0.0.1:0", "--max-run", "4", "--max-queue", "4")
    target = Client.target_of(s)
    p = call("rpc.py", target, "-n", 40, "-c", 8, "--connections", 2)
    assert p.returncode == 0 and "40 calls, 8 at a time, 2 connections" in p.stdout and "status: OK 40\n" in p.stdout, p
    before = s.metric('sparing_grpc_calls_total{result="ok"}')
    p = call("rpc.py", target, "--call", "sparing.v1.Generation/Generate", "--data", '{"prompt": {"text": "Ship {i}"}, "max_tokens": 8, "ignore_end": true}', "-n", 30, "-c", 30)
    status = dict(x.split() for x in p.stdout.split("status: ")[1].splitlines()[0].split(", "))
    n_right, n_full = int(status["OK"]), int(status.get("RESOURCE_EXHAUSTED", 0))
    assert n_right >= 4 and n_right + n_full == 30, p.stdout
    wait_until(lambda: s.metric('sparing_grpc_calls_total{result="ok"}') - before >= n_right, "the counted calls")
    first, end = (list(map(float, re.findall(r"(?:p\d+|worst) ([0-9.]+)", x))) for x in p.stdout.splitlines()[2:4])
    assert len(first) == len(end) == 4 and first == sorted(first) and end == sorted(end) and 0 < first[-1] <= end[-1]
