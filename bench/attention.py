#!/usr/bin/env python3
"""Certified attention: speed beside own dense attention and llama.cpp, what it does to the model's text and answers, and its certificates.
usage: bench/attention.py [--peer DIR] [--only decode,shapes,prompts,quality,answers,certificates] [--rounds N] [--items N]
  --peer DIR   llama.cpp build with bin/llama-bench (see bench/run.py)
Texts: licences (test/data), documentation (docs/), code (src/). In each round own dense and certified runs alternate inside one process
(`sparing bench --epsilon 0,E`), then llama-bench runs; shapes (random weights, long contexts) are beside own dense only. answers: needles, variables and counting, each asked dense and bounded."""
import argparse
import json
import pathlib
import random
import subprocess
import sys
import tempfile

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path[:0] = [str(ROOT / "bench"), str(ROOT / "test/e2e")]

from conftest import tool  # noqa: E402
from make_checkpoint import SHAPES  # noqa: E402
from memory import NAMES, TEXT, Server, make_item, wilson  # noqa: E402
from run import OURS, SMOL, THREADS, run, theirs  # noqa: E402
from stats import spread  # noqa: E402

DEPTH = 7900
CERTIFY_DENSE, CERTIFY_TOK = 2048, 1252  # tokens computed densely, then decoded with certificates: 338,040 calls of SmolLM2
HOW = {"dense": {"epsilon": 0}, "epsilon 0.02": {"epsilon": 0.02}, "epsilon 0.1": {"epsilon": 0.1},
       "prefill_keep 0.15, epsilon 0.02": {"epsilon": 0.02, "prefill_keep": 0.15}}


def texts(folder):
    """Three kinds of text as files."""
    made = {"licences": ROOT / "test/data/licences.txt"}
    for name, pattern in (("documentation", "docs/*.md"), ("code", "src/*/*.c")):
        made[name] = pathlib.Path(folder) / f"{name}.txt"
        made[name].write_text("\n".join(f.read_text() for f in sorted(ROOT.glob(pattern))))
    return made


def beside(a, model, prompt, gen, depth, *options):
    """Rounds of own dense, own certified and llama.cpp: their rates' ratios, and our last certified row."""
    own, peer, dense, row = [], [], [], None
    for _ in range(a.rounds):
        out = json.loads(run(OURS, "bench", "-m", model, "-t", THREADS, "-p", prompt, "-n", gen, "-d", depth, "-r", 1, "--json", "--kv-bytes", "10G",
                             *options))["results"]
        row = out[-1]
        own.append(row["tok_s"] / out[0]["tok_s"])
        dense.append(out[0]["tok_s"])
        if a.peer:
            peer.append(row["tok_s"] / theirs(pathlib.Path(a.peer), model, [("", prompt, gen, depth, 1)])[(prompt, gen)])
    return f"{spread(own)} x own dense ({spread(dense, digits=4)} tokens/s), {spread(peer) if peer else 'not run'} x llama.cpp", row


def decode(a):
    for name, file in a.texts.items():
        said, row = beside(a, SMOL, 0, 64, DEPTH, "--epsilon", "0,0.02", "--text", file)
        print(f"decode at {DEPTH}, {name}: {said}; KV bytes {row['kv_bytes']:.3f}, keys {row['kept']:.3f}, loss at most {row['max_loss']:.4f}", flush=True)


def shapes(a):
    for shape in ("0.6b-d128", "1b"):
        path = ROOT / f"build/bench/{shape}-spread.gguf"
        if not path.exists():
            path.parent.mkdir(parents=True, exist_ok=True)
            run(sys.executable, ROOT / "bench/make_checkpoint.py", path, "Q4_0", "--shape", shape, "--spread", 3)
        for depth in (16000, 32000):
            row = json.loads(run(OURS, "bench", "-m", path, "-t", THREADS, "-p", 0, "-n", 32, "-d", depth, "-r", a.rounds, "-c", 32768, "--json",
                                 "--kv-bytes", "10G", "--epsilon", "0,0.02"))["results"][-1]
            low, median, high = row["speedup"]
            print(f"decode at {depth}, shape {shape}: {median:.2f} ({low:.2f}-{high:.2f}) x own dense; "
                  f"KV bytes {row['kv_bytes']:.3f}, keys {row['kept']:.3f}", flush=True)


def prompts(a):
    _, layers, heads, _, head, _ = SHAPES["135m"]
    attention = 4 * head * heads * layers * DEPTH * (DEPTH + 1) / 2  # a multiply-add is 2, of QK and PV
    s = Server("--epsilon-default", "0", "--kv-bytes", "6G")
    ids = s.tokens(TEXT)[:DEPTH]
    cost = {}
    for keep in (None, 0, 0.15):
        own = {"epsilon": 0} if keep is None else {"epsilon": 0.02, "prefill_keep": keep} if keep else {"epsilon": 0.02}
        cost[keep] = s.prefix(ids, 1, sparing=own)[1]["flops"]["spent"]
    s.stop()
    for keep in (0, 0.15):
        said, _ = beside(a, SMOL, DEPTH, 0, 0, "--epsilon", "0,0.02", "--text", a.texts["licences"], "--keep", keep)
        less = cost[None] - cost[keep]
        print(f"prompt of {DEPTH}, licences, epsilon 0.02, prefill_keep {keep or 'off'}: {said}; attention's operations {-100 * less / attention:+.1f} %, "
              f"the stage's {-100 * less / cost[None]:+.1f} %", flush=True)


def quality(a):
    for name, file in a.texts.items():
        print(f"quality, {name}, every position of 8,190:")
        print(run(OURS, "perplexity", "-m", SMOL, "-t", THREADS, "-c", 8190, "-f", file, "--epsilon", "0.01,0.02,0.05,0.1"), end="", flush=True)


def certificates(a):
    s = Server()
    ids = {name: s.tokens(file.read_text())[:CERTIFY_DENSE + CERTIFY_TOK] for name, file in a.texts.items()}
    s.stop()
    for name, those in ids.items():
        p = subprocess.run([tool("certify"), str(SMOL), "0.02", str(CERTIFY_DENSE)], input=" ".join(map(str, those)), capture_output=True, text=True, check=True)
        calls, over, *rest = p.stdout.split()
        print(f"certificates, {name}: {over} of {calls} calls lost more than reported; lost, reported at most {rest[0]}, {rest[1]}; on average {rest[2]}, "
              f"{rest[3]}", flush=True)


def counting(rnd, length, sentences):
    name, n = rnd.choice(NAMES), rnd.randint(2, 6)
    lines = [rnd.choice(sentences) for _ in range(length // 30)]
    for at in sorted(rnd.sample(range(len(lines)), n), reverse=True):
        lines.insert(at, f"{name} came in.")
    digits = ["zero", "one", "two", "three", "four", "five", "six"]
    return "\n".join(lines) + f"\n\nQuestion: how many times did {name} come in?\nAnswer: {name} came in this many times:", digits[n], str(n)


def answers(a):
    rnd = random.Random(23)
    sentences = [x.strip().replace("\n", " ") + "." for x in TEXT.split(". ") if 40 < len(x) < 220]
    items = []
    for length in (1024, 2048, 3000):
        for _ in range(a.items):
            for kind in ("single", "multi", "track"):
                for depth in (0.1, 0.35, 0.6, 0.85):
                    prompt, answer = make_item(rnd, kind, length, depth, sentences)
                    items.append((kind, prompt, (answer,)))
            for _ in range(3):
                prompt, *digits = counting(rnd, length, sentences)
                items.append(("counting", prompt, digits))
    s = Server("--epsilon-default", "0", "--kv-bytes", "6G")
    said = {}
    for how, own in HOW.items():
        said[how] = [s.prefix(s.tokens(prompt), 8, sparing=own)[0] for _, prompt, _ in items]
    s.stop()
    for kinds in (("single", "multi", "track"), ("counting",)):
        at = [i for i, item in enumerate(items) if item[0] in kinds]
        right = {how: sum(any(x in said[how][i] for x in items[i][2]) for i in at) for how in HOW}
        for how in HOW:
            same = sum(said[how][i] == said["dense"][i] for i in at)
            lost = sum(any(x in said["dense"][i] for x in items[i][2]) and not any(x in said[how][i] for x in items[i][2]) for i in at)
            print(f"{'/'.join(kinds):22} {how:34} {right[how]}/{len(at)} right ({100 * (right[how] - right['dense']) / len(at):+.1f} points), "
                  f"{lost} lost, same text {same}/{len(at)}, kept of dense's {right['dense'] - lost}/{right['dense']} "
                  f"(lower bound {wilson(right['dense'] - lost, max(right['dense'], 1)):.3f})", flush=True)


PARTS = {f.__name__: f for f in (decode, shapes, prompts, quality, answers, certificates)}


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peer", default="")
    p.add_argument("--only", default=",".join(PARTS))
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--items", type=int, default=6)
    a = p.parse_args()
    if unknown := set(a.only.split(",")) - set(PARTS):
        p.error(f"--only: {', '.join(sorted(unknown))} is no part; parts: {', '.join(PARTS)}")
    with tempfile.TemporaryDirectory() as folder:
        a.texts = texts(folder)
        for name in a.only.split(","):
            PARTS[name](a)


if __name__ == "__main__":
    main()
