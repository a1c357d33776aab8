"""What guessing ahead gives: plain decoding against each drafter and all of them, the same answers, time from first to last token.

Free chat (prompts of the intent set), grounded work (questions about a text), copying. Answers that loop are a group of their own, because in a
loop every guess is right. Each variant has a server of its own, so that `earlier` knows only what it was told itself; between rounds all is
forgotten. Variants alternate prompt by prompt, so that what else the machine does hits all of them."""
import argparse
import os
import pathlib
import random
import socket
import statistics
import subprocess
import sys
import tempfile
import time

import httpx

sys.path.insert(0, str(pathlib.Path(__file__).resolve().parents[1] / "test/e2e"))
from conftest import MODEL, ROOT, Server  # noqa: E402

COPY = "Repeat this text word by word, without a word of your own:\n\n"
ASK = ["Quote the sentence of this text that says what may be done.", "Sum this text up in its own words.", "List the conditions that this text names.",
       "Rewrite this text with `you` in the place of `the user`."]


def passages(n):
    """Pieces of the licences, of about 120 words, from line to line."""
    words = (ROOT / "test/data/licences.txt").read_text().split()
    return [" ".join(words[i:i + 120]) for i in range(0, len(words) - 120, 120)][:n]


def prompts(a):
    rng = random.Random(77)
    rows = [line.split("\t") for line in (ROOT / "train/intent/prompts.tsv").read_text().splitlines()[1:]]
    # a draft head is trained on the families marked `train` (scripts/draft-head)
    lines = [r[-1].strip() for r in rows if not a.draft_head or r[1] == "test"]
    text = passages(max(a.grounded, a.copy))
    return ([("free chat", p) for p in rng.sample(lines, a.chat)] +
            [("grounded", f"{text[i % len(text)]}\n\n{ASK[i % len(ASK)]}") for i in range(a.grounded)] +
            [("copying", COPY + text[i % len(text)]) for i in range(a.copy)])


def is_loop(s, text):
    """Of its runs of four tokens, fewer than 80 % are different."""
    tok = s.http.post("/tokenize", json={"content": text}).json()["tokens"]
    runs = [tuple(tok[i:i + 4]) for i in range(len(tok) - 3)]
    return len(set(runs)) < 0.8 * len(runs)


def ask(s, text, a, own):
    r = s.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": text}], "max_tokens": a.tokens, "temperature": a.temperature, "seed": 1,
                                                  "sparing": {"path": "full", **own}}).json()
    return r["choices"][0]["message"]["content"], r["usage"]["sparing"]


def spread(pairs, rng):
    """Times faster over all answers, and the middle 90 % of what it is over answers drawn anew."""
    def gain(p):
        return sum(x for x, _ in p) / sum(y for _, y in p)

    drawn = sorted(gain([rng.choice(pairs) for _ in pairs]) for _ in range(500))
    return f"{gain(pairs):.2f} x ({drawn[25]:.2f}-{drawn[474]:.2f})"


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--chat", type=int, default=100)
    p.add_argument("--grounded", type=int, default=32)
    p.add_argument("--copy", type=int, default=16)
    p.add_argument("--tokens", type=int, default=120)
    p.add_argument("--rounds", type=int, default=3)
    p.add_argument("--temperature", type=float, default=0)
    p.add_argument("--model")
    p.add_argument("--draft-model")
    p.add_argument("--draft-head", help="free chat is then of families that it was not trained on")
    p.add_argument("--only", help="variants beside plain, by commas")
    p.add_argument("--peer", help="llama.cpp's llama-server: measured behind ours, on the same prompts")
    a = p.parse_args()
    variants = {"plain": {"draft": 0}, "lookup": {"drafters": ["lookup"]}, "earlier": {"drafters": ["earlier"]}, "fixed 8": {"drafters": ["lookup"], "draft": 8, "draft_fixed": True},
                "all": {}} | ({"model": {"drafters": ["model"]}} if a.draft_model else {}) | ({"head": {"drafters": ["head"]}} if a.draft_head else {})
    variants = {v: own for v, own in variants.items() if not a.only or v == "plain" or v in a.only.split(",")}
    more = {"model": ["--draft-model", a.draft_model], "head": ["--draft-head", a.draft_head]}
    base = ["--model", a.model or str(MODEL)]
    kept = tempfile.TemporaryDirectory()  # without a place for what they keep, servers refuse to forget
    servers = {v: Server(*base, "--history", f"{kept.name}/{i}.db", *[x for k, args in more.items() if args[1] and v in ("all", k) for x in args]) for i, v in enumerate(variants)}
    rng, rows, asked = random.Random(5), {}, prompts(a)
    ms = {(i, v): [] for i in range(len(asked)) for v in variants}
    for n_round in range(a.rounds):
        for s in servers.values():
            s.http.delete("/v1/tenant").raise_for_status()
        for i, (kind, text) in enumerate(asked):
            said = {}
            for v in rng.sample(list(variants), len(variants)):
                said[v], c = ask(servers[v], text, a, variants[v])
                ms[i, v].append(c["ms"]["decode"])
                if n_round == 0:
                    rows.setdefault((i, v), c["decode"])
            if len(set(said.values())) != 1:
                raise RuntimeError(f"guessing changed the answer to: {text[:80]}")
            if n_round == 0:
                asked[i] = (kind + (", looping" if is_loop(servers["plain"], said["plain"]) else ""), text)
    for kind in sorted({k for k, _ in asked}):
        of = [i for i, (k, _) in enumerate(asked) if k == kind]
        n = sum(rows[i, "plain"]["tokens"] for i in of)
        print(f"{kind}, {len(of)} answers, {n} tokens", flush=True)
        for v in list(variants)[1:]:
            d = [rows[i, v] for i in of]
            right, wrong = sum(x["accepted"] for x in d) / n, sum(x["drafted"] - x["accepted"] for x in d) / n
            pairs = [(statistics.median(ms[i, "plain"]), statistics.median(ms[i, v])) for i in of]
            by = ", ".join(f"{k} {sum(x['drafters'].get(k, {'accepted': 0})['accepted'] for x in d)}" for k in ("lookup", "earlier", "model", "head"))
            print(f"  {v:8} {spread(pairs, rng)}; {sum(x['steps'] for x in d) / n:.2f} steps a token, {right:.2f} guesses right, {wrong:.2f} wrong; right by {by}", flush=True)
    for s in servers.values():
        s.stop()
    if a.peer:
        show_peer(a, asked, {i: (statistics.median(ms[i, "plain"]), rows[i, "plain"]["tokens"]) for i in range(len(asked))})


def show_peer(a, asked, ours):
    """llama.cpp's server, plain and with its own guessing from what was said before: time of a token against ours, plain."""
    for name, own in {"llama.cpp": [], "llama.cpp, ngram-simple": ["--spec-type", "ngram-simple"], "llama.cpp, ngram-map-k": ["--spec-type", "ngram-map-k"]}.items():
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            port = free.getsockname()[1]
        proc = subprocess.Popen([a.peer, "-m", a.model or MODEL, "--port", str(port), "-t", str(os.cpu_count()), "-np", "1", "-c", "4096", "--no-webui", *own],
                                stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        http, got = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600), {}
        while proc.poll() is None:
            try:
                if http.get("/health").status_code == 200:
                    break
            except httpx.HTTPError:
                time.sleep(0.1)
        for i, (kind, text) in enumerate(asked):
            t = http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": text}], "max_tokens": a.tokens, "temperature": a.temperature, "seed": 1}).json()["timings"]
            got.setdefault(kind, []).append((ours[i][0], ours[i][1], t["predicted_ms"], t["predicted_n"]))
        for kind, v in sorted(got.items()):
            mine, theirs = sum(x[0] for x in v) / sum(x[1] for x in v), sum(x[2] for x in v) / sum(x[3] for x in v)
            print(f"{kind}: {name} {1000 / theirs:.1f} tokens/s, our plain decoding {1000 / mine:.1f}: {mine / theirs:.2f} x", flush=True)
        proc.terminate()
        proc.wait()


if __name__ == "__main__":
    main()
