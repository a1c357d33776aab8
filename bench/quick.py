#!/usr/bin/env python3
"""make bench-quick: eight rows in about five minutes, so that a user can check what docs/BENCHMARKS.md says on a machine of their own.

Each row runs --rounds times; the table has the median and the spread. With --peer DIR (a build of llama.cpp, with bin/llama-bench and
bin/llama-batched-bench) or --build-peer (needs the network and some minutes, once) the peer runs in turn with us, same file, same
threads, and the ratio is taken inside a round. The same as CSV, with the machine, the commit and the state of the machine in each row:
bench/compare.py says what two such files differ in.

usage: quick.py [--rounds N] [--threads N] [--rows REGEX] [--peer DIR | --build-peer] [--csv FILE]"""
import argparse
import csv
import datetime
import os
import pathlib
import platform
import re
import statistics

import run

BIG = "Q4_K_M"  # of the 1.07 B shape, written once: 640 MB
ROWS = [("SmolLM2 Q4_1", run.SMOL, ("prefill 512", 512, 0, 0, 1)),
        ("SmolLM2 Q4_1", run.SMOL, ("decode 128", 0, 128, 0, 1)),
        ("SmolLM2 Q4_1", run.SMOL, ("prefill 4,096", 4096, 0, 0, 1)),
        ("SmolLM2 Q4_1", run.SMOL, ("decode 32 at 4,096", 0, 32, 4096, 1)),
        ("SmolLM2 Q4_1", run.SMOL, ("8 sequences at 256", 0, 32, 256, 8)),
        ("1.07 B Q4_K_M", BIG, ("prefill 256", 256, 0, 0, 1)),
        ("1.07 B Q4_K_M", BIG, ("decode 32", 0, 32, 0, 1)),
        ("1.07 B Q4_K_M", BIG, ("8 sequences", 0, 32, 0, 8))]
FIELDS = ["model", "work", "tok_s", "low", "high", "rounds", "share_pct", "share_of", "peer", "peer_tok_s", "ratio", "ratio_low", "ratio_high",
          "date", "commit", "changed", "cpu", "isa", "cores", "threads", "read_gb_s", "int_gmac_s", "kernel", "load_before", "load_after"]


def git(*args):
    """What git says; "unknown" in a tree without it."""
    try:
        return run.run("git", "-C", run.ROOT, *args).strip()
    except (OSError, SystemExit):
        return "unknown"


def measure(model, test, rounds, peer):
    """Our rates, the peer's or [], the last output of ours, and the shares of what bounds the work."""
    mine, other, share, out = [], [], [], {}
    label, prompt, gen, _, _ = test
    for _ in range(rounds):
        out, rates = run.ours(model, "native", [test], kv_bytes="1G")
        mine.append(rates[(prompt, gen)]["tok_s"])
        share.append(rates[(prompt, gen)]["bandwidth_pct" if gen else "int_peak_pct"])
        if peer:
            other.append(run.theirs(peer, model, [test])[(prompt, gen)])
    return mine, other, out, statistics.median(share)


def row_of(name, test, measured, peer, state, load):
    mine, other, out, share = measured
    ratio = [a / b for a, b in zip(mine, other)]
    row = {"model": name, "work": test[0], "tok_s": statistics.median(mine), "low": min(mine), "high": max(mine), "rounds": len(mine),
           "share_pct": share, "share_of": "read bandwidth" if test[2] else "integer peak", "cpu": out["cpu"], "isa": out["isa"],
           "cores": out["cores"], "threads": out["threads"], "read_gb_s": out["read_bytes_s"] / 1e9, "int_gmac_s": out["int_mac_s"] / 1e9,
           "load_before": load, "load_after": os.getloadavg()[0], **state}
    if ratio:
        row |= {"peer": peer, "peer_tok_s": statistics.median(other), "ratio": statistics.median(ratio), "ratio_low": min(ratio), "ratio_high": max(ratio)}
    return {k: f"{v:.4g}" if isinstance(v, float) else v for k, v in row.items()}


def line_of(row):
    their = f"{float(row['peer_tok_s']):.0f} | {float(row['ratio']):.2f} ({float(row['ratio_low']):.2f}-{float(row['ratio_high']):.2f})" if "ratio" in row else "- | -"
    return (f"| {row['model']} | {row['work']} | {float(row['tok_s']):.0f} ({float(row['low']):.0f}-{float(row['high']):.0f}) | {their} | "
            f"{float(row['share_pct']):.0f} % of {row['share_of']} |")


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("--rounds", type=int, default=3)
    a.add_argument("--threads", type=int, default=0, help="0: the physical cores")
    a.add_argument("--rows", default="", help="only rows whose name matches")
    a.add_argument("--peer", default="", help="folder of a built llama.cpp")
    a.add_argument("--build-peer", action="store_true", help=f"build {run.PEER} for this machine")
    a.add_argument("--csv", default=str(run.ROOT / "build/bench-quick.csv"))
    o = a.parse_args()
    rows = [r for r in ROWS if re.search(o.rows, f"{r[0]} {r[2][0]}")]
    if not rows or o.rounds < 1:
        a.error(f"--rows {o.rows}: no row has such a name" if o.rounds > 0 else "--rounds: at least 1")
    peer = pathlib.Path(o.peer) if o.peer else run.peer_builds("", ["native"])["native"] if o.build_peer else None
    state = {"date": datetime.date.today().isoformat(), "commit": git("rev-parse", "--short", "HEAD"),
             "changed": "yes" if git("status", "--porcelain", "-uno") else "no", "kernel": platform.release()}
    run.THREADS = str(o.threads)
    if not o.threads:  # the peer is told the number
        run.THREADS = str(run.ours(run.SMOL, "native", [("one", 1, 0, 0, 1)], kv_bytes="1G")[0]["threads"])
    print("| model | work | sparing tok/s (spread) | llama.cpp tok/s | ratio (spread) | sparing's share |\n|---|---|---|---|---|---|", flush=True)
    done = []
    for name, model, test in rows:
        load = os.getloadavg()[0]
        path = run.model_path(model, run.ROOT / "build/bench")
        done.append(row_of(name, test, measure(path, test, o.rounds, peer), o.peer or run.PEER, state, load))
        print(line_of(done[-1]), flush=True)
    pathlib.Path(o.csv).parent.mkdir(parents=True, exist_ok=True)
    with open(o.csv, "w", newline="") as f:
        out = csv.DictWriter(f, FIELDS)
        out.writeheader()
        out.writerows(done)
    r = done[-1]
    print(f"\n{r['cpu']}, {r['cores']} cores, {r['threads']} threads, {r['isa']}, read bandwidth {r['read_gb_s']} GB/s; commit {r['commit']}"
          f"{' with changes' if r['changed'] == 'yes' else ''}, {r['date']}, load {done[0]['load_before']} before and {r['load_after']} after; {o.csv}")


if __name__ == "__main__":
    main()
