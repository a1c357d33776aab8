#!/usr/bin/env python3
"""When thoughts may end: the model of train/thinking/make.py thinks about questions it has not seen, and rules say where they would have
stopped it. What each rule does is worked out from the whole thoughts and their log-probabilities; the answer behind a cut is the model's own,
asked for with the thoughts so far. Thresholds are chosen on three families (add, minus, day) and measured on the other three (both, back, tall).
No clock is read.

  rule       the same conclusion so often in a row (3 is what `thinking` does)
  entropy    mean entropy, as far as five likeliest tokens tell it, of the newest sentence below a threshold
  trial      behind each sentence </think> and the words of an answer are tried: its tokens likelier than a threshold, twice the same

usage: thinking.py MODEL.gguf [--questions N] [--prompts FILE] [--served SURE,...]
  --prompts   writes prompts for `sparing train control`, and ends
  --served    the rules `thinking` (twice) and `trial` (with each SURE) as the server does them, against whole thoughts, and what trials compute"""
import argparse
import concurrent.futures
import math
import pathlib
import random
import re
import sys

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "test/e2e"), str(ROOT / "train/thinking")]
import make  # noqa: E402

DEV, TEST = ("add", "minus", "day"), ("both", "back", "tall")
CAP = 400


def questions(n, seed, held=True):
    r = random.Random(seed)
    out = []
    for kind in make.FAMILIES:
        for _ in range(n):
            text, numbers = make.question(r, kind, held)
            out.append((kind, text, make.answer(numbers, kind)))
    return out


def complete(s, prompt, n, logprobs=None):
    j = s.http.post("/v1/completions", json={"prompt": prompt, "max_tokens": n, "temperature": 1, "seed": 3, "logprobs": logprobs}).json()
    return j["choices"][0]


def prompt_of(text):
    return f"<|im_start|>user\n{text}<|im_end|>\n<|im_start|>assistant\n<think>"


def entropy(top):
    p = [math.exp(v) for v in top.values()]
    rest = max(0.0, 1 - sum(p))
    return -sum(x * math.log(x) for x in p if x > 0) - (rest * math.log(rest / 50) if rest > 1e-9 else 0)


def think(s, q):
    """Sentences of the whole thoughts: text, tokens so far, mean entropy, conclusion; and what a trial behind each says."""
    c = complete(s, prompt_of(q[1]), CAP, 5)
    tokens, tops = c["logprobs"]["tokens"], c["logprobs"]["top_logprobs"]
    text, cuts, line, ent = "", [], "", []
    for i, (t, top) in enumerate(zip(tokens, tops)):
        if t == "</think>":
            break
        text, line = text + t, line + t
        ent.append(entropy(top))
        if t.endswith("\n"):
            found = re.search(r"answer is (\w+)", line)
            cuts.append({"text": text, "n": i + 1, "entropy": sum(ent) / len(ent), "says": found and found.group(1)})
            line, ent = "", []
    whole = {"n": len(text) and i, "cuts": cuts, "plain": text}
    for cut in cuts + [whole]:
        a = complete(s, prompt_of(q[1]) + cut.get("text", text) + "</think>", 12, 1)
        lp = a["logprobs"]["token_logprobs"]
        cut["answer"] = (re.search(r"answer is (\w+)", a["text"]) or [None, None])[1]
        cut["sure"] = sum(x for x in lp if x is not None) / max(1, len(lp))
        cut["right"] = cut["answer"] == q[2]
    return whole


def stop_same(cuts, n):
    for i in range(n - 1, len(cuts)):
        if cuts[i]["says"] and all(cuts[k]["says"] == cuts[i]["says"] for k in range(i - n + 1, i)):
            return cuts[i]


def stop_entropy(cuts, below):
    return next((c for c in cuts if c["entropy"] < below), None)


def stop_trial(cuts, above):
    for a, b in zip(cuts, cuts[1:]):
        if b["answer"] and a["answer"] == b["answer"] and b["sure"] > above:
            return b


def score(rows, stop):
    got = [(stop(w["cuts"]) or w) for w in rows]
    d = [g["right"] - w["right"] for g, w in zip(got, rows)]
    mean = sum(d) / len(d)
    sd = math.sqrt(sum((x - mean) ** 2 for x in d) / max(1, len(d) - 1) / len(d))
    return {"n": sum(g["n"] for g in got) / len(got), "right": sum(g["right"] for g in got) / len(got), "mean": mean, "sd": sd,
            "fewer": 1 - sum(g["n"] for g in got) / max(1, sum(w["n"] for w in rows))}


def served(s, asked, sures):
    """Answers under rules of the server: thinking tokens, right ones and tokens of trials, against no rule."""
    def one(q, control):
        j = s.http.post("/v1/completions", json={"prompt": prompt_of(q[1]), "max_tokens": CAP + 12, "temperature": 1, "seed": 3,
                                                 "sparing": {"path": "full", "draft_fixed": True, "draft": 0, "control": control}}).json()
        text, did = j["choices"][0]["text"], j["usage"]["sparing"].get("control", {})
        found = re.search(r"The answer is (\w+)", text)  # thoughts say `So the answer is`
        return {"n": j["usage"]["sparing"]["decode"]["thinking"], "right": bool(found) and found.group(1) == q[2], "tried": did.get("trial", {}).get("tokens", 0)}

    ways = {"no rule": False, "the same twice": {"thinking_same": 2}} | {f"trial, {x}": {"trial_sure": x} for x in sures}
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        rows = {name: list(pool.map(lambda q, c=c: one(q, c), asked)) for name, c in ways.items()}
    for where, kinds in (("dev", DEV), ("test", TEST)):
        of = [i for i, q in enumerate(asked) if q[0] in kinds]
        whole = sum(rows["no rule"][i]["n"] for i in of)
        for name, r in rows.items():
            d = [r[i]["right"] - rows["no rule"][i]["right"] for i in of]
            mean = sum(d) / len(d)
            half = 1.96 * math.sqrt(sum((x - mean) ** 2 for x in d) / max(1, len(d) - 1) / len(d))
            n, tried = sum(r[i]["n"] for i in of), sum(r[i]["tried"] for i in of)
            print(f"{where:4} {name:16} {len(of)} questions, {n / len(of):.0f} tokens thought ({100 * (n / whole - 1):+.1f} %), {tried / len(of):.0f} tried, "
                  f"right {sum(r[i]['right'] for i in of) / len(of):.3f}, {100 * mean:+.1f} points ({100 * (mean - half):+.1f} to {100 * (mean + half):+.1f})")


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("model"), p.add_argument("--questions", type=int, default=60), p.add_argument("--prompts")
    p.add_argument("--served", help="by commas")
    a = p.parse_args()
    if a.prompts:
        rows = [(k, "train" if k in DEV else "test", t, x) for k, t, x in questions(a.questions, 5)]
        pathlib.Path(a.prompts).write_text("".join("\t".join(r) + "\n" for r in rows))
        return
    from conftest import Server
    s = Server("-m", a.model)
    asked = questions(a.questions, 9)
    if a.served:
        served(s, asked, [float(x) for x in a.served.split(",")])
        s.stop()
        return
    with concurrent.futures.ThreadPoolExecutor(6) as pool:
        whole = list(pool.map(lambda q: think(s, q), asked))
    part = {name: [w for q, w in zip(asked, whole) if q[0] in kinds] for name, kinds in (("dev", DEV), ("test", TEST))}
    for name, rows in part.items():
        print(f"{name}: {len(rows)} questions, {sum(w['n'] for w in rows) / len(rows):.0f} tokens thought, right {sum(w['right'] for w in rows) / len(rows):.3f}")
    ways = {f"the same {n} times": lambda c, n=n: stop_same(c, n) for n in (1, 2, 3)}
    for name, stop, grid in (("entropy", stop_entropy, [0.02, 0.05, 0.1, 0.15, 0.2, 0.3, 0.5]), ("trial", stop_trial, [-0.5, -0.2, -0.1, -0.05, -0.02, -0.01])):
        fine = [(score(part["dev"], lambda c: stop(c, x))["fewer"], x) for x in grid if score(part["dev"], lambda c: stop(c, x))["mean"] >= -0.01]
        if fine:
            x = max(fine)[1]
            ways[f"{name}, {x}"] = lambda c, x=x, stop=stop: stop(c, x)
        else:
            print(f"{name}: no threshold loses a point at most on dev")
    for name, stop in ways.items():
        for where, rows in part.items():
            r = score(rows, stop)
            print(f"{name:18} {where:4} thinking tokens -{100 * r['fewer']:.1f} %, right {r['right']:.3f}, {100 * r['mean']:+.1f} points ({100 * (r['mean'] - 1.96 * r['sd']):+.1f} to {100 * (r['mean'] + 1.96 * r['sd']):+.1f})")
    s.stop()


if __name__ == "__main__":
    main()
