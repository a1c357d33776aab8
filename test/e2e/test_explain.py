"""sparing explain: the words say what the receipt says."""
import json
import re

import pytest

from conftest import quick_file, run


def explain(answer, **kw):
    return run("explain", stdin=json.dumps(answer), **kw)


def test_the_words_are_the_receipts_figures():
    answer = json.loads(run("run", "-m", quick_file(), "--json", "-n", 8, "What is water?").stdout)
    r, out = answer["receipt"], explain(answer).stdout
    assert explain(r).stdout == out
    lines = {l.split()[0]: l for l in out.splitlines()}
    assert list(lines) == ["Path", "Prompt", "Answer", "Attention", "Computing", "Time"]
    assert f"{r['prompt_tokens']['computed']} computed" in lines["Prompt"] and "8 tokens in" in lines["Answer"]
    spent, dense = map(float, re.search(r"([\d.]+) GFLOP; .* would spend ([\d.]+)", lines["Computing"]).groups())
    assert spent == pytest.approx(r["flops"]["spent"] / 1e9, abs=0.006) and dense == pytest.approx(r["flops"]["dense"] / 1e9, abs=0.006)
    assert "every key was read" in lines["Attention"]


def test_what_was_reused_and_saved(server, tmp_path):
    text = "A fact about water. " * 60
    server.chat(text)
    answer = server.chat(text).json()
    r = answer["usage"]["sparing"]
    f = tmp_path / "a.json"
    f.write_text(json.dumps(answer))
    out = run("explain", f).stdout
    assert r["prompt_tokens"]["ram"] > 0 and f"{r['prompt_tokens']['ram']} known in memory" in out
    assert f"{round(100 * (1 - r['flops']['spent'] / r['flops']['dense']))} % saved" in out
    r["attention"].update(epsilon=0.02, max_bound=0.011, kv_bytes={"read": 1e6, "dense": 4e6})
    assert "read 1.0 of 4.0 MB of keys and values; what was left out weighs at most 0.011 of a step (asked: 0.02)" in explain(answer).stdout


@pytest.mark.parametrize("text, says", [("{", "stdin:1: no JSON"), ("[]", "stdin has no receipt"), ('{"usage": {"sparing": 3}}', "stdin has no receipt"), ("", "stdin is empty")])
def test_what_is_no_receipt(text, says):
    p = run("explain", stdin=text, check=False)
    assert p.returncode == 1 and says in p.stderr and "it takes an answer of the API" in p.stderr and p.stdout == ""
    assert run("explain", "/none/at/all.json", check=False).returncode == 1
