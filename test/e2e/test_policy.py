"""The learned rule: policies that were written by hand do what they say, files are checked, and training is the same twice."""
import json
import struct

import pytest

from conftest import Server, run, tool

IN, MID, ACTS = 22, 24, ["go", "penalise", "prune", "stop", "answer"]
A, B, C = "The cat sat on the mat that day and it was very glad of the sun there.", "Nobody saw the old dog behind the green door of the red house.", "All of them were tired."


def policy(model, **bias):
    """A file whose acts depend on nothing but these biases."""
    w = [0.0] * (MID * IN + MID + len(ACTS) * MID) + [float(bias.get(a, 0)) for a in ACTS]
    return b"sparing policy 1\n" + json.dumps({"model": model}, separators=(",", ":")).encode() + b"\n" + struct.pack(f"<{len(w)}f", *w)


def serve(path, model):
    return Server("--path", "full", "--model", model, "--control-policy", str(path), binary=tool("script"))


@pytest.fixture(scope="module")
def name(quick_model):
    s = Server("--model", quick_model)
    yield s.http.get("/v1/models").json()["data"][0]["id"]
    assert s.stop() == 0


def ask(s, said, rules=("learned",), **more):
    body = {"messages": [{"role": "user", "content": f"[[say]]{said}[[/say]]"}], "temperature": 0, "max_tokens": 200, "sparing": {"control": list(rules)}, **more}
    r = s.http.post("/v1/chat/completions", json=body)
    assert r.status_code == 200, r.text
    c = r.json()["choices"][0]
    with s.http.stream("POST", "/v1/chat/completions", json={**body, "stream": True}) as st:
        lines = [json.loads(x[6:]) for x in st.iter_lines() if x.startswith("data: {")]
    assert "".join(x["choices"][0]["delta"].get("content") or "" for x in lines if x["choices"]) == c["message"]["content"]
    return c["message"]["content"], c["finish_reason"], r.json()["usage"]["sparing"]["control"]


def test_what_a_policy_says_is_done(quick_model, name, tmp_path):
    said = f"{A} {B} {A} {C}"
    code = f"```\n{A}\n{A}\n{A}\n```"
    want = {"go": (said, "stop", 0), "stop": (A, "stop", 0), "prune": (f"{A} {B} {C}", "stop", 1), "penalise": (said, "stop", 0)}
    for act, (text, reason, n) in want.items():
        path = tmp_path / act
        path.write_bytes(policy(name, **{act: 9}))
        s = serve(path, quick_model)
        got = ask(s, said)
        assert got[:2] == (text, reason), act
        assert got[2]["pruned"]["sentences"] == n and got[2]["rules"] == ["learned"]
        assert got[2].get("ended") == ("learned" if act == "stop" else None) and (got[2]["penalised"] > 0) == (act == "penalise")
        assert ask(s, code)[0] == code, "code is left alone"
        assert s.stop() == 0


def test_files_are_checked(quick_model, name, tmp_path):
    good = policy(name)
    bad = {"another version": good.replace(b"policy 1", b"policy 9"), "short": good[:-1], "long": good + b"\0", "empty": b"", "no line": good[:40],
           "no number": good[:-4] + struct.pack("<f", float("nan")), "too large": good[:-4] + struct.pack("<f", 1e30),
           "long line": good[:17] + b"x" * 5000 + good[17:]}
    for why, data in bad.items():
        (tmp_path / "p").write_bytes(data)
        p = run("serve", "--port", "0", "--model", quick_model, "--control-policy", str(tmp_path / "p"), check=False)
        assert p.returncode != 0 and "policy" in p.stderr, why
    (tmp_path / "p").write_bytes(policy("another"))
    s = serve(tmp_path / "p", quick_model)
    body = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "sparing": {"control": ["learned"]}}
    r = s.http.post("/v1/chat/completions", json=body)
    assert r.status_code == 400 and "trained on another model" in r.json()["error"]["message"]
    assert s.stop() == 0
    s = Server("--model", quick_model)
    r = s.http.post("/v1/chat/completions", json=body)
    assert r.status_code == 400 and "--control-policy" in r.json()["error"]["message"]
    assert s.stop() == 0


def test_training_is_the_same_twice(quick_model, name, tmp_path):
    rows = [f"f{i % 3}\t{'test' if i % 3 == 2 else 'train'}\tSay the word number {i}.\tnumber" for i in range(9)]
    (tmp_path / "p.tsv").write_text("# prompts\n" + "\n".join(rows) + "\n")
    said = [json.loads(run("train", "control", str(tmp_path / "p.tsv"), "-m", quick_model, "--rounds", "2", "--minutes", "1000", "--answer-tokens", "40", "-o",
                           str(tmp_path / f"out{i}"), "--json").stdout) for i in range(2)]
    assert said[0] == said[1] and said[0]["train"] == 6 and said[0]["test"] == 3 and said[0]["rounds"] == 2
    data = (tmp_path / "out0").read_bytes()
    assert data == (tmp_path / "out1").read_bytes()
    about = json.loads(data.split(b"\n")[1])
    assert about["model"] == name and about["rounds"] == 2 and len(about["curve"]) == 2 and about["held_out"]["plain"]["tokens"] > 0
    again = json.loads(run("train", "control", str(tmp_path / "p.tsv"), "-m", quick_model, "--control-policy", str(tmp_path / "out0"), "--answer-tokens", "40", "--json").stdout)
    assert again["learned"] == said[0]["learned"] and again["plain"] == said[0]["plain"]
    s = Server("--model", quick_model, "--control-policy", str(tmp_path / "out0"))
    r = s.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 40, "sparing": {"control": ["learned"]}})
    assert r.status_code == 200 and r.json()["usage"]["sparing"]["control"]["rules"] == ["learned"]
    assert s.stop() == 0


@pytest.mark.parametrize("text,why", [("a\ttrain\tb\n", "line 1"), ("a\ttrain\tb\tc\nx\tother\tb\tc\n", "line 2"), ("a\ttrain\tb\tc\n", "both kinds"), ("", "both kinds")])
def test_prompts_are_checked(quick_model, tmp_path, text, why):
    (tmp_path / "p.tsv").write_text(text)
    p = run("train", "control", str(tmp_path / "p.tsv"), "-m", quick_model, check=False)
    assert p.returncode != 0 and why in p.stderr
