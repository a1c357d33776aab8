"""What a token of an answer costs within a form beside a free one, from the receipts of answers that are asked for in turn: the time of a step, and of
a token. Tokens that a form leaves no choice about have no step of their own, and are computed with the next one; how many those were is printed too.
The first answer in each form computes masks, so it has a column of its own. The free answer's prompt is as long as the form's, which for a tool
has its description: else the keys that each step attends would count as the form's.

usage: mask.py [SPARING] [--rounds N] [--tokens N]"""
import argparse
import pathlib
import statistics
import sys

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench/rag"))
from serve import Server  # noqa: E402

WORDS = [f"{a}{b}{c}" for a in "bdfgklmnpr" for b in "aeiou" for c in "bdfgklmnprstvwxzcjqh"]  # 1,000
PERSON = {"type": "object", "properties": {"name": {"type": "string", "minLength": 12}, "age": {"type": "integer", "minimum": 0, "maximum": 150}, "tags": {
    "type": "array", "items": {"type": "string", "maxLength": 12}, "minItems": 3}, "email": {"type": "string", "format": "email"}}, "required": ["name", "age", "tags", "email"],
    "additionalProperties": False}
TREE = {"type": "object", "properties": {"name": {"type": "string"}, "children": {"type": "array", "items": {"$ref": "#"}}}, "required": ["name", "children"]}
TOOL = {"type": "function", "function": {"name": "write", "parameters": PERSON}}


def schema(s):
    return {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": s}}}


def many(item):
    return schema({"type": "array", "items": item, "minItems": 100})


FORMS = {
    "any JSON object": {"response_format": {"type": "json_object"}},
    "a string": schema({"type": "string", "minLength": 2000}),
    "persons": many(PERSON),
    "a tree": schema(TREE),
    "numbers": many({"type": "number"}),
    "one of 1,000 words": many({"enum": WORDS}),
    "a call of a tool": {"tools": [TOOL], "tool_choice": {"type": "function", "function": {"name": "write"}}},
    "regex: sentences": {"sparing": {"regex": r"([A-Z][a-z]+( [a-z]+){3,12}[.!?] ){40}"}},
    "regex: lines of a log": {"sparing": {"regex": r"(\d{4}-\d{2}-\d{2}T\d{2}:\d{2}:\d{2}Z (INFO|WARN|ERROR) [a-z_]{3,20}: [^\n]{10,60}\n){40}"}},
    "regex: anything but quotes": {"sparing": {"regex": r"[^\"]{2000,}"}},
    "GBNF: sums": {"sparing": {"grammar": 'root ::= (sum "\\n")+\nsum ::= term (("+" | "-") term){3,9}\nterm ::= [0-9]+ | "(" sum ")"'}},
}


def ask(server, form, n, longer=0):
    """Milliseconds of a step, of a token, tokens forced, tokens, and those of the prompt, which is longer by so many words."""
    sparing = {"draft": 0, "path": "full", **form.get("sparing", {})}
    body = {"messages": [{"role": "user", "content": "Write a long list of people." + " people" * longer}], "temperature": 0, "max_tokens": n, "ignore_eos": not form, **form, "sparing": sparing}
    usage = server.post("/v1/chat/completions", body)["usage"]
    r, d = usage["sparing"], usage["sparing"]["decode"]
    return r["ms"]["decode"] / d["steps"], r["ms"]["decode"] / d["tokens"], d["forced"], d["tokens"], usage["prompt_tokens"]


if __name__ == "__main__":
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("binary", nargs="?", default=str(ROOT / "build/release/sparing"))
    ap.add_argument("--rounds", type=int, default=5)
    ap.add_argument("--tokens", type=int, default=192)
    a = ap.parse_args()
    worst = [0, 0]
    with Server(a.binary) as server:
        short = ask(server, {}, a.tokens)[4]
        print(f"{'form':28} {'plain ms':>9} {'step ms':>9} {'first ms':>9} {'a step (spread)':>20} {'a token (spread)':>20} {'forced':>7} {'tokens':>7} {'prompts':>9}")
        for name, form in FORMS.items():
            first, *_, prompt = ask(server, form, a.tokens)
            plain, own = [], []
            for _ in range(a.rounds):
                plain.append(ask(server, {}, a.tokens, prompt - short))
                own.append(ask(server, form, a.tokens))
            ratios = [[o[i] / p[i] for p, o in zip(plain, own)] for i in (0, 1)]
            middle = [statistics.median(r) for r in ratios]
            worst = [max(w, m) for w, m in zip(worst, middle)]
            texts = [f"{m:6.3f} ({min(r):.3f}-{max(r):.3f})" for m, r in zip(middle, ratios)]
            print(f"{name:28} {statistics.median(p[0] for p in plain):9.3f} {statistics.median(o[0] for o in own):9.3f} {first:9.3f} {texts[0]:>20} {texts[1]:>20} "
                  f"{own[-1][2]:7} {own[-1][3]:7} {plain[-1][4]:4} {prompt:4}", flush=True)
    print(f"worst: a step {worst[0]:.3f}, a token {worst[1]:.3f}")
