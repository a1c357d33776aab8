"""What rules and reference marks save, in tokens and bytes; no clock is read. Rules beside three trivial policies: fewer tokens for all,
DRY alone, the loop detector alone. Free chat is drawn from the intent set; grounded work is that of bench/gen.py; the checkable questions
are train/intent/check.py's, and their right answers say what a rule costs."""
import argparse
import concurrent.futures
import json
import math
import pathlib
import random
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "test/e2e"), str(ROOT / "train/intent"), str(ROOT / "bench"), str(ROOT / "clients")]
from check import answer  # noqa: E402
from conftest import Server  # noqa: E402
from gen import ASK, passages  # noqa: E402
from references import References  # noqa: E402

MARK_TOK = 3  # what a mark counts as, in tokens


def prompts(a):
    rng = random.Random(77)
    rows = [line.split("\t") for line in (ROOT / "train/intent/prompts.tsv").read_text().splitlines()[1:]]
    text = passages(a.grounded)
    checked = [(r[5], answer(r[0], r[5])) for r in rows if answer(r[0], r[5])]
    return {"chat": [(p, None) for p in rng.sample([r[5] for r in rows], a.chat)],
            "grounded": [(f"{text[i % len(text)]}\n\n{ASK[i % len(ASK)]}", None) for i in range(a.grounded)],
            "checkable": rng.sample(checked, min(a.checked, len(checked)))}


def body(text, tokens, own):
    return {"messages": [{"role": "user", "content": text}], "max_tokens": tokens, "temperature": 0, "sparing": {"path": "full", **own}}


def distinct(s, text):
    """Share of its runs of four tokens that are different."""
    tok = s.http.post("/tokenize", json={"content": text}).json()["tokens"]
    runs = [tuple(tok[i:i + 4]) for i in range(len(tok) - 3)]
    return len(set(runs)) / len(runs) if runs else 1


def run(s, asked, tokens, own):
    def one(p):
        j = s.http.post("/v1/chat/completions", json=body(p[0], tokens, own)).json()
        text, c = j["choices"][0]["message"]["content"], j["usage"]["sparing"]
        computed = j["usage"]["completion_tokens"]
        return {"computed": computed, "sent": computed - c.get("control", {"pruned": {"tokens": 0}})["pruned"]["tokens"], "text": text,
                "right": bool(p[1] and re.search(p[1], text)), "distinct": distinct(s, text), "whole": j["choices"][0]["finish_reason"] == "stop"}

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        return list(pool.map(one, asked))


def marks(s, asked, tokens):
    """Tokens and bytes of streams, without and with marks."""
    def one(p):
        out = {}
        for name, own in (("plain", {}), ("marks", {"references": True})):
            messages, said, n_byte = [{"role": "user", "content": p[0]}], "", 0
            whole = References(messages)
            with s.http.stream("POST", "/v1/chat/completions", json={**body(p[0], tokens, own), "stream": True, "stream_options": {"include_usage": True}}) as r:
                for line in r.iter_lines():
                    n_byte += len(line) + 1
                    if line.startswith("data: {"):
                        j = json.loads(line[6:])
                        said += "".join(whole.add(c["delta"]) for c in j["choices"])
                        usage = j.get("usage") or {}
            refs = usage["sparing"].get("references", {"marks": 0, "tokens": 0, "guessed": 0})
            out[name] = (usage["completion_tokens"], refs, n_byte, said)
        if out["plain"][3] != out["marks"][3]:
            raise RuntimeError(f"marks changed the answer to: {p[0][:80]}")
        n, refs = out["plain"][0], out["marks"][1]
        return n, refs["tokens"] - MARK_TOK * refs["marks"], refs["guessed"], refs["tokens"], out["plain"][2], out["marks"][2]

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        rows = list(pool.map(one, asked))
    return [sum(r[i] for r in rows) for i in range(6)]


def paired(plain, other):
    """Right answers less those of plain, in points, with a 95 % interval over pairs."""
    d = [o["right"] - p["right"] for p, o in zip(plain, other)]
    mean = sum(d) / len(d)
    sd = math.sqrt(sum((x - mean) ** 2 for x in d) / max(1, len(d) - 1) / len(d))
    return f"{100 * mean:+.1f} ({100 * (mean - 1.96 * sd):+.1f} to {100 * (mean + 1.96 * sd):+.1f})"


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--chat", type=int, default=60)
    p.add_argument("--grounded", type=int, default=40)
    p.add_argument("--checked", type=int, default=100)
    p.add_argument("--tokens", type=int, default=200)
    p.add_argument("--model")
    a = p.parse_args()
    s = Server(*(["--model", a.model] if a.model else []))
    asked = prompts(a)
    variants = {"plain": (1, {}), "60 % of the tokens": (0.6, {}), "dry": (1, {"control": ["dry"]}), "loop": (1, {"control": ["loop"]}),
                "repeat": (1, {"control": ["repeat"]}), "true": (1, {"control": True}), "true, dry": (1, {"control": ["loop", "repeat", "sentence", "thinking", "dry"]})}
    got = {}
    for name, (share, own) in variants.items():
        got[name] = {kind: run(s, rows, int(a.tokens * share), own) for kind, rows in asked.items()}
        open_text = got[name]["chat"] + got[name]["grounded"]
        plain = got["plain"]["chat"] + got["plain"]["grounded"]
        less = [100 * (1 - sum(x[k] for x in open_text) / sum(x["computed"] for x in plain)) for k in ("computed", "sent")]
        check = got[name]["checkable"]
        short = 100 * (1 - sum(x["sent"] for x in check) / sum(x["computed"] for x in got["plain"]["checkable"]))
        print(f"{name:18} computed -{less[0]:.1f} %, sent -{less[1]:.1f} %; distinct {sum(x['distinct'] for x in open_text) / len(open_text):.3f}, "
              f"whole {sum(x['whole'] for x in open_text)} of {len(open_text)}; checkable: sent -{short:.1f} %, {sum(x['right'] for x in check)} of {len(check)} right, "
              f"{paired(got['plain']['checkable'], check)} points", flush=True)
    for kind in ("chat", "grounded"):
        loops = [i for i, x in enumerate(got["plain"][kind]) if x["distinct"] < 0.8]
        for what, rows in (("", [x for i, x in enumerate(asked[kind]) if i not in loops]), (", looping", [asked[kind][i] for i in loops])):
            if rows:
                n, saved, guessed, tok, wide, narrow = marks(s, rows, a.tokens)
                print(f"marks, {kind}{what}: {len(rows)} answers, {n} tokens, sent -{100 * saved / n:.1f} %, {guessed} of {tok} repeated ones were guessed; bytes of the streams -{100 * (1 - narrow / wide):.1f} %", flush=True)
    s.stop()


if __name__ == "__main__":
    main()
