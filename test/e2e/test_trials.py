"""Thoughts that end where two trial answers in a row come to the same (rule `trial`): each trial is what a plain request behind the same thoughts
would draw, and neither guesses nor other answers change where thoughts end."""
import concurrent.futures
import math
import re

import numpy as np
import pytest

from conftest import GOLDEN
from ggufs import Gguf

MODELS = {"tiny-gqa-tied": 0.002, "fam-qwen35": 0.02, "fam-lfm2": 0.02}  # how much of what mixes tokens is left
OPEN, CLOSE, LINE = "#", "$", "%"
MIX = re.compile(r"blk\.\d+\.(attn_output|ssm_out|shortconv\.out_proj)\.weight")


def thinker(name, path):
    """A tiny random model with marks around what it thinks and a token that ends lines. What stands before a token tells it little, so that some of
    its answers are alike. The ids of its letters."""
    g = Gguf(GOLDEN / f"{name}.gguf")
    token, kind = (g.keys[f"tokenizer.ggml.{k}"][1][1] for k in ("tokens", "token_type"))
    id_of = {t: i for i, t in enumerate(token)}
    for old, new in ((OPEN, "<think>"), (CLOSE, "</think>")):
        token[id_of[old]], kind[id_of[old]] = new, 3
    token[id_of[LINE]] = "\u010a"
    for t, (dims, code, raw) in g.tensors.items():
        if MIX.fullmatch(t):
            assert code == 0
            g.tensors[t] = (dims, code, (np.frombuffer(raw, np.float32) * np.float32(MODELS[name])).tobytes())
    g.keys[f"{g.keys['general.architecture'][1]}.context_length"] = (4, 2048)
    g.write(path)
    return id_of


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("trials") / f"{request.param}.gguf"
    return path, thinker(request.param, path)


def ask(s, id_of, seed, **own):
    """An answer that thinks up to 120 tokens, in lines of some ten letters: prompt, thoughts, the rest, receipt."""
    never = [id_of[t] for t in (CLOSE, OPEN, '!"', "<s>", "</s>", "<unk>") if t in id_of]
    prompt = [8 + (seed * 31 + i * i) % 60 for i in range(20 + seed % 40)] + [id_of[OPEN]]
    r = s.http.post("/v1/completions", json={"prompt": prompt, "max_tokens": 140, "temperature": 1, "seed": seed, "ignore_eos": True,
                                             "logit_bias": {**{str(i): -100 for i in never}, str(id_of[LINE]): 2},
                                             "sparing": {"path": "full", "think_tokens": 120, **own}})
    assert r.status_code == 200, r.text
    thoughts, _, rest = r.json()["choices"][0]["text"].partition("</think>")
    return prompt, thoughts, rest, r.json()["usage"]["sparing"]


def came_to(text):
    """What a trial's text comes to: src/gen/trial.h."""
    numbers = re.findall(r"\d(?:[\d.,]*\d)?", text)
    if numbers and re.search(r"answer|therefore|thus|hence|result|total|=|so ", text, re.I):
        return numbers[-1].replace(",", "")
    return re.sub(r"[^A-Za-z0-9\x80-\uffff]", "", text)


def trial(plain, ids):
    """A greedy answer behind ids, as a plain request gives it: what it comes to, and how sure it is."""
    r = plain.http.post("/v1/completions", json={"prompt": ids, "max_tokens": 16, "temperature": 0, "logprobs": 0, "sparing": {"path": "full", "draft": 0}}).json()
    lp, text, n = r["choices"][0]["logprobs"], "", 0
    for t in lp["tokens"]:
        text, n = text + t, n + 1
        if "\n" in text.lstrip(" \n") and came_to(text):
            break
    sure = [x for x in lp["token_logprobs"][:n] if x is not None]
    return came_to(text), math.exp(sum(sure) / len(sure)) if sure else 0


def cut(plain, id_of, prompt, thoughts, least):
    """Where thoughts end, and how many trials were made of them, of which so many came to what the one before did."""
    spell = {**id_of, "\n": id_of[LINE]}
    ends = [m.end() for m in re.finditer(r"[^\n]*\n", thoughts) if re.search(r"[A-Za-z0-9]", m.group())]
    before, n_same = None, 0
    for k, end in enumerate(ends):
        came, sure = trial(plain, prompt + [spell[c] for c in thoughts[:end]] + [id_of[CLOSE]])
        same = came and came == before
        n_same, before = n_same + bool(same), came
        if same and sure >= least and k + 1 < len(ends):
            return thoughts[:ends[k + 1]], k + 1, n_same
    return thoughts, len(ends), n_same


@pytest.mark.parametrize("kv", ["f16", "q8"])
def test_thoughts_end_where_two_trials_agree(make_server, model, kv):
    path, id_of = model
    s, plain = (make_server("-m", str(path), "--kv-type", kv) for _ in range(2))
    ended, same = 0, 0
    for seed in range(8):
        least = (0.01, 0.3)[seed % 2]
        prompt, thoughts, _, receipt = ask(s, id_of, seed, draft=0)
        assert "control" not in receipt and receipt["decode"]["thinking"] == 120
        want, made, n_same = cut(plain, id_of, prompt, thoughts, least)
        own = {"draft_fixed": True, "control": {"trial_sure": least}}
        _, got, rest, receipt = ask(s, id_of, seed, draft=0, **own)
        did = receipt["control"]
        assert got == want, (seed, did)
        assert did["rules"] == ["trial"] and did["trial"]["left_out"] == 0
        if want == thoughts:  # which leave the last trial no time
            assert made - 1 <= did["trial"]["made"] <= made and did["trial"]["same"] <= n_same
        else:
            assert (did["trial"]["made"], did["trial"]["same"]) == (made, n_same)
        assert did["trial"]["made"] <= did["trial"]["tokens"] <= 16 * (did["trial"]["made"] + 1)
        assert did.get("thinking_ended") == ("trial" if want != thoughts else None)
        assert receipt["decode"]["thinking"] == len(want)
        ended, same = ended + (want != thoughts), same + n_same
        for draft in (3, 12):
            _, again, rest_again, r = ask(s, id_of, seed, draft=draft, **own)
            assert (again, rest_again) == (got, rest), "guesses change nothing"
            assert want == thoughts or r["control"] == did
    assert ended and same


def test_beside_others_trials_are_left_out_or_change_nothing(make_server, model):
    """Eight answers at once on a server that gives trials free places only: thoughts end where they end alone, or a trial was left out."""
    path, id_of = model
    s = make_server("-m", str(path), "--kv-type", "f16")
    control = {"trial_sure": 0.01, "trial_tokens": 64}
    alone = [ask(s, id_of, seed, draft=0, draft_fixed=True, control=control) for seed in range(8)]
    assert all(r["control"]["trial"]["tokens"] <= 64 for *_, r in alone)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for (_, thoughts, rest, _), (_, got, got_rest, r) in zip(alone, pool.map(lambda seed: ask(s, id_of, seed, control=control), range(8))):
            assert (got, got_rest) == (thoughts, rest) or r["control"]["trial"]["left_out"], r
    assert s.wait_metric('sparing_kv_pages{state="pinned"}', 0), "trials give their pages back"
