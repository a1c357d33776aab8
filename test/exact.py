#!/usr/bin/env python3
"""test/exact.py [--answers 10000] [--state build/exact.json]: guesses change no answer. Each request is answered plainly, then with four
mixtures of drafters drawn by its number: which may guess, how many tokens, as many as pay or as many as can be. Text, reasons,
log-probabilities and calls must be the same to the last digit.

Greedy and sampled, log-probabilities, penalties, stops, patterns, JSON, several answers, predictions and tools; batches of eight.
Servers: the default model's first two layers with lookup, prediction, earlier answers, itself as draft model and a draft head of 20
steps; a hybrid model with a block that guesses (mtp); a scripted model that calls tools.

It can be stopped at any time and goes on where it was: the state belongs to one program and one list of requests, another one begins
anew. Exit 1: an answer differed, which is printed, or a drafter was never right.
"""
import argparse
import collections
import concurrent.futures
import hashlib
import json
import pathlib
import random
import signal
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT / "test/e2e"))
from conftest import BIN, Server, quick_file, tool  # noqa: E402
from test_mtp import add_block  # noqa: E402

MIXTURES, CLIENTS, CHUNK = 4, 8, 40
TEXT = (ROOT / "test/data/licences.txt").read_text()
WORDS = "river lamp stone harbour clock seven orchard velvet signal winter copper thunder".split()
TOOLS = [{"type": "function", "function": {"name": "look", "description": "Reads a file.",
          "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}}}]
DRAFTERS = {"quick": ["lookup", "prediction", "earlier", "model", "head"], "mtp": ["lookup", "earlier", "mtp"], "script": ["lookup", "prediction", "earlier"]}


def quick_task(r):
    """What a chat asks for beside its text, and what of it is under sparing."""
    return r.choice([
        ({"temperature": 0}, {}), ({"temperature": 0.8}, {}), ({"temperature": 1.2, "top_p": 0.9, "top_k": 40}, {}),
        ({"temperature": 0, "logprobs": True, "top_logprobs": 2}, {}), ({"temperature": 0.9, "logprobs": True, "top_logprobs": 1}, {}),
        ({"temperature": 0, "stop": [" the", "."]}, {}), ({"temperature": 0.7, "repetition_penalty": 1.3}, {}),
        ({"temperature": 0.5, "frequency_penalty": 0.7, "presence_penalty": 0.3}, {}), ({"temperature": 1, "n": 2}, {}), ({"temperature": 0.6, "n": 3, "logprobs": True}, {}),
        ({"temperature": 0}, {"regex": "[a-z ]{10,30}"}), ({"temperature": 0.9}, {"regex": "(one two three ){6}"}),
        ({"temperature": 0.8, "response_format": {"type": "json_object"}}, {}), ({"temperature": 0, "min_p": 0.1, "logit_bias": {"260": 2}}, {}),
        ({"temperature": 0}, {"control": ["dry", "loop"]})])


def chat(r, text, more, own):
    return "/v1/chat/completions", {"messages": [{"role": "user", "content": text}], "max_tokens": r.randrange(8, 40), "seed": r.randrange(1 << 30),
                                    **more, "sparing": {"path": "full", **own}}


def request(kind, r):
    """The number's request: a path and a body."""
    if kind == "mtp":
        ids = [r.randrange(3, 96) for _ in range(r.randrange(5, 60))]
        more = r.choice([{"temperature": 0}, {"temperature": 0.8}, {"temperature": 1, "logprobs": 2}, {"temperature": 0.9, "n": 2}])
        return "/v1/completions", {"prompt": ids * r.randrange(1, 3), "max_tokens": r.randrange(8, 40), "seed": r.randrange(1 << 30), "ignore_eos": True, **more, "sparing": {}}
    if kind == "script":
        path = f"/{r.choice(WORDS)}/{r.choice(WORDS)}"
        said = r.choice(['<tool_call>\n{"name": "look", "arguments": {"path": "%s"}}\n</tool_call>' % path, f"It lies in {path}, and {path} is the place where it lies.",
                         " ".join(r.choice(WORDS[:3]) for _ in range(20))])
        return chat(r, f"[[say]]{said}[[/say]] {r.randrange(9)}", {"temperature": 0, "tools": TOOLS}, {})
    at = r.randrange(len(TEXT) - 700)
    text = r.choice([f"Tell me a story about the {r.choice(WORDS)} and the {r.choice(WORDS)}.", f"{TEXT[at:at + r.randrange(100, 600)]}\n\nSay it again, please.",
                     f"List {r.randrange(3, 9)} words like {r.choice(WORDS)}."])
    more, own = quick_task(r)
    return chat(r, text, more, own)


def mixture(kind, r, body, plain):
    """The request with guesses."""
    names = r.sample(DRAFTERS[kind], r.randrange(1, len(DRAFTERS[kind]) + 1))
    out = {**body, "sparing": {**body["sparing"], "drafters": names, "draft": r.randrange(1, 16), "draft_fixed": r.random() < 0.7}}
    if "prediction" in names:
        said = plain["choices"][0]["message"].get("content") or ""
        out["prediction"] = {"type": "content", "content": said if r.random() < 0.7 else said[::-1]}
    return out


def choices_of(j):
    """What the client sees of the answers; ids of calls are drawn anew for each."""
    for c in j["choices"]:
        for call in c.get("message", {}).get("tool_calls") or []:
            call.pop("id")
    return j["choices"]


def ask(server, path, body):
    r = server.http.post(path, json=body)
    if r.status_code != 200:
        raise AssertionError(f"{r.status_code}: {r.text[:300]} for {json.dumps(body)[:2000]}")
    return r.json()


def one(servers, i):
    """(answers compared, by drafter {drafted, accepted}, faults)."""
    r = random.Random(i)
    kind = r.choices(list(DRAFTERS), [6, 2, 2])[0]
    path, body = request(kind, r)
    n, counts, faults = 0, collections.Counter(), []
    plain = ask(servers[kind], path, {**body, "sparing": {**body["sparing"], "draft": 0}})
    want = choices_of(plain)
    for _ in range(MIXTURES):
        asked = mixture(kind, r, body, plain)
        got = ask(servers[kind], path, asked)
        n += len(want)
        for name, d in got["usage"]["sparing"]["decode"]["drafters"].items():
            counts.update({f"{name} drafted": d["drafted"], f"{name} accepted": d["accepted"]})
        if choices_of(got) != want:
            faults.append({"request": i, "kind": kind, "asked": asked, "plain": want, "got": got["choices"]})
    return n, counts, faults


def make_head(folder):
    (folder / "texts").write_text(TEXT[:12000])
    subprocess.run([str(BIN), "train", "draft", str(folder / "texts"), "--steps", "20", "--seed", "1", "--draft-tokens", "1024", "-m", quick_file(), "-o", str(folder / "head.gguf")],
                   check=True, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, cwd=ROOT)
    return str(folder / "head.gguf")


def start(folder):
    add_block("fam-qwen35", folder / "mtp.gguf")
    return {"quick": Server("--draft-model", quick_file(), "--draft-head", make_head(folder), "--max-queue", "64"),
            "mtp": Server("-m", str(folder / "mtp.gguf"), "--kv-type", "f16", "--max-queue", "64"),
            "script": Server("--path", "full", "--max-queue", "64", binary=tool("script"))}


def run(a, state, servers):
    begun, before = time.monotonic(), state["answers"]
    with concurrent.futures.ThreadPoolExecutor(CLIENTS) as pool:
        while state["answers"] < a.answers and not state["faults"]:
            for n, counts, faults in pool.map(lambda i: one(servers, i), range(state["next"], state["next"] + CHUNK)):
                state["answers"] += n
                state["faults"] += faults
                for k, v in counts.items():
                    state["tokens"][k] = state["tokens"].get(k, 0) + v
            state["next"] += CHUNK
            a.state.parent.mkdir(parents=True, exist_ok=True)
            fresh = a.state.with_suffix(".new")
            fresh.write_text(json.dumps(state))
            fresh.replace(a.state)
            print(f"exact: {state['answers']} answers, {(state['answers'] - before) / (time.monotonic() - begun):.1f} a second", flush=True)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--answers", type=int, default=10000)
    p.add_argument("--state", type=pathlib.Path, default=ROOT / "build/exact.json")
    a = p.parse_args()
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(1))  # the servers are stopped then
    of = hashlib.sha256(BIN.read_bytes() + pathlib.Path(__file__).read_bytes()).hexdigest()
    state = json.loads(a.state.read_text()) if a.state.exists() else {}
    if state.get("of") != of or state["faults"]:
        state = {"of": of, "next": 0, "answers": 0, "tokens": {}, "faults": []}
    with tempfile.TemporaryDirectory() as folder:
        servers = start(pathlib.Path(folder))
        try:
            run(a, state, servers)
        finally:
            ended = [s.stop() for s in servers.values()]
    print(json.dumps({"answers": state["answers"], "requests": state["next"], "faults": len(state["faults"]), "tokens": dict(sorted(state["tokens"].items()))}))
    for f in state["faults"][:5]:
        print(f"exact: {json.dumps(f)}")
    never = [d for names in DRAFTERS.values() for d in names if not state["tokens"].get(f"{d} accepted")]
    if never:
        print(f"exact: never right: {', '.join(sorted(set(never)))}")
    return 1 if state["faults"] or never or any(ended) else 0


if __name__ == "__main__":
    sys.exit(main())
