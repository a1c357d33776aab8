"""Structured against free-text prompts of the same sixty tasks: tokens computed per right answer. Computed are the tokens of prompt and answer
that went through the layers; pages of earlier requests are reused by both. A free answer is right when the first of the possible answers that
it names is the wanted one.

usage: compare.py [SPARING]"""
import pathlib
import re
import sys

ROOT = pathlib.Path(__file__).parents[2]
sys.path.insert(0, str(ROOT / "bench/rag"))
from serve import Server  # noqa: E402
from tasks import GROUPS  # noqa: E402

N_ANSWER = 64


def ask(server, body):
    r = server.post("/v1/chat/completions", {"max_tokens": N_ANSWER, "temperature": 0, **body})
    receipt = r["usage"]["sparing"]
    return r["choices"][0]["message"]["content"], receipt["prompt_tokens"]["computed"], r["usage"]["completion_tokens"]


def is_right(answer, want, output):
    named = [m.group(0).lower() for m in re.finditer("|".join(output.get("choices", [output.get("regex")])), answer, re.I)]
    return bool(named) and named[0] == want.lower()


if __name__ == "__main__":
    binary = sys.argv[1] if len(sys.argv) > 1 else str(ROOT / "build/release/sparing")
    total = {}
    with Server(binary) as server:
        print(f"{'group':10} {'':10} {'right':>6} {'prompt':>7} {'answer':>7} {'per right':>10}")
        for g in GROUPS:
            for way in ("free", "structured"):
                right = prompt = answer = 0
                for context, want in g["what"]:
                    body = {"messages": [{"role": "user", "content": g["free"].format(context)}]} if way == "free" else \
                        {"sparing": {"task": g["task"], "output": g["output"], "context": context}}
                    text, n_prompt, n_answer = ask(server, body)
                    right, prompt, answer = right + is_right(text, want, g["output"]), prompt + n_prompt, answer + n_answer
                print(f"{g['name']:10} {way:10} {right:6} {prompt:7} {answer:7} {(prompt + answer) / max(right, 1):10.1f}")
                total[way] = [a + b for a, b in zip(total.get(way, [0, 0, 0]), (right, prompt, answer))]
    per = {way: (t[1] + t[2]) / max(t[0], 1) for way, t in total.items()}
    for way, t in total.items():
        print(f"{'all':10} {way:10} {t[0]:6} {t[1]:7} {t[2]:7} {per[way]:10.1f}")
    print(f"structured computes {100 * (1 - per['structured'] / per['free']):.1f} % fewer tokens per right answer")
