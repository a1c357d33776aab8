"""Who guesses tokens ahead: an answer never depends on it, and earlier answers are guessed from within one tenant only."""
import concurrent.futures
import json
import pathlib

import pytest

from conftest import MODEL, ROOT, quick_file, run, tool, write_keys
from ggufs import Gguf

DRAFTERS = ["lookup", "prediction", "earlier", "model", "head", "mtp"]
QUESTION = "Write a long list of animals with a word about each."


def body(text, n=48, **own):
    """How many guesses a step takes is fixed: a count would depend on the machine's pace."""
    return {"messages": [{"role": "user", "content": text}], "max_tokens": n, "temperature": 0, "ignore_eos": True,
            "sparing": {"path": "full", "draft": 6, "draft_fixed": True, **own}}


def ask(s, asked, **kw):
    r = s.http.post("/v1/chat/completions", json=asked, **kw)
    assert r.status_code == 200, r.text
    return r.json()


def ask_text(s, asked):
    r = s.http.post("/v1/completions", json=asked)
    assert r.status_code == 200, r.text
    return r.json()


def by_drafter(j):
    return j["usage"]["sparing"]["decode"]["drafters"]


def test_earlier_answers_are_one_tenants(tmp_path, make_server):
    s = make_server("--keys", write_keys(tmp_path / "keys", {"ka": "ann", "kb": "bob"}), "--history", str(tmp_path / "h.db"))
    ann, bob = ({"Authorization": f"Bearer {k}"} for k in ("ka", "kb"))
    once = {**body(QUESTION, drafters=["earlier"]), "store": True}
    first = ask(s, once, headers=ann)
    assert by_drafter(first) == {}, "nothing was said before"
    again = ask(s, once, headers=ann)
    assert again["choices"][0]["message"] == first["choices"][0]["message"]
    right = by_drafter(again)["earlier"]
    assert right["accepted"] > 20 and by_drafter(again).keys() == {"earlier"}
    decode = again["usage"]["sparing"]["decode"]
    assert decode["steps"] + decode["accepted"] == 48
    assert by_drafter(ask(s, once, headers=bob)) == {}, "another tenant's answers"
    assert s.http.delete("/v1/tenant", headers=ann).status_code == 200
    assert by_drafter(ask(s, once, headers=ann)) == {}, "deleted with the tenant"
    assert by_drafter(ask(s, once, headers=bob))["earlier"]["accepted"] > 20, "the other one's are still there"
    assert s.stop() == 0


def test_private_and_deleted_answers_are_not_guessed_from(tmp_path, make_server):
    s = make_server("--history", str(tmp_path / "h.db"))
    once = body(QUESTION, drafters=["earlier"])
    hidden = {**once, "sparing": {**once["sparing"], "private": True}}
    ask(s, hidden)
    assert by_drafter(ask(s, hidden)) == {}, "a private answer was kept"
    kept = ask(s, {**once, "store": True})
    assert by_drafter(kept) == {}
    assert by_drafter(ask(s, hidden))["earlier"]["accepted"] > 20, "a private one may guess from those that are kept"
    assert s.http.get("/metrics").text.count("sparing_drafter_tokens_total{") == 2 * len(DRAFTERS)
    assert s.metric('sparing_drafter_tokens_total{drafter="earlier",result="accepted"}') > 20
    assert s.http.delete(f"/v1/conversations/{kept['conversation']['id']}").status_code == 200
    assert by_drafter(ask(s, once)) == {}, "deleted with the conversation"
    off = make_server("--earlier-bytes", "0")
    ask(off, once)
    assert by_drafter(ask(off, once)) == {}
    only = make_server("--drafters", "lookup")
    ask(only, body(QUESTION))
    assert by_drafter(ask(only, body(QUESTION))).keys() <= {"lookup"}


@pytest.fixture(scope="module")
def head(tmp_path_factory):
    """A draft head of the servers' model, hardly trained: what it guesses is rarely right."""
    at = tmp_path_factory.mktemp("head")
    (at / "texts").write_text((ROOT / "test/data/licences.txt").read_text()[:12000])
    made = run("train", "draft", str(at / "texts"), "--steps", "20", "--seed", "1", "--draft-tokens", "1024", "--json", "-m", quick_file(), "-o", str(at / "head.gguf"))
    said = json.loads(made.stdout)
    assert said["steps"] == 20 and said["tokens"] == 1024 and said["train"] > 1000
    assert 1 >= said["right"][0] >= said["right"][1] >= said["right"][2] >= 0
    return at / "head.gguf"


def test_every_drafter_gives_the_plain_answer(make_server, head):
    """Greedy and sampled, log-probabilities, penalties, stops, several answers, patterns; each drafter alone and all of them, alone and in a batch.
    The model is its own draft model here: what it guesses is mostly right."""
    s = make_server("--draft-model", quick_file(), "--draft-head", str(head))
    text = (ROOT / "test/data/licences.txt").read_text()[:600]
    tasks = [{}, {"temperature": 0.8}, {"temperature": 1.2, "top_p": 0.9}, {"logprobs": True, "top_logprobs": 2}, {"stop": [" the", "."]},
             {"repetition_penalty": 1.3}, {"temperature": 1, "n": 2}, {"own": {"regex": "[a-z ]{20,40}"}}, {"response_format": {"type": "json_object"}},
             {"frequency_penalty": 0.7, "temperature": 0.5}, {"own": {"regex": "(one two three ){10}"}, "logprobs": True}]
    asks = []
    for i, more in enumerate(tasks):
        asked = f"Tell me a story about the number {i}." if i % 2 else f"{text}\n\nSay it again, please. {i}"
        asks.append({**body(asked, 32, **more.get("own", {})), "seed": i, "ignore_eos": False, **{k: v for k, v in more.items() if k != "own"}})

    def run(a, **own):
        return ask(s, {**a, "sparing": {**a["sparing"], **own}})

    def same(a, plain, **own):
        got = run(a, **own)
        assert got["choices"] == plain["choices"], (a, own)
        c, was = got["usage"]["sparing"], plain["usage"]["sparing"]
        if a.get("n", 1) == 1:  # the second of two answers takes the first one's prompt only if it comes before that is computed
            assert c["decode"]["steps"] + c["decode"]["accepted"] == was["decode"]["steps"] + was["decode"]["accepted"]
            assert c["flops"]["dense"] == was["flops"]["dense"]
        for d in by_drafter(got).values():
            assert 0 <= d["accepted"] <= d["drafted"]
        return got

    plain = [run(a, draft=0) for a in asks]
    assert all(by_drafter(p) == {} for p in plain)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        mixed = list(pool.map(lambda x: same(*x), zip(asks, plain)))
        paying = list(pool.map(lambda x: same(*x, draft=15, draft_fixed=False), zip(asks, plain)))
    assert len({name for g in mixed for name in by_drafter(g)}) > 1 and len(paying) == len(asks)
    for name in DRAFTERS[:-1]:  # the model's file has no block that guesses. What is guessed surely: the last answer says the same again and again, and each was given before
        got = [same({**a, "prediction": {"type": "content", "content": p["choices"][0]["message"]["content"]}} if name == "prediction" else a, p, drafters=[name])
               for a, p in zip(asks, plain)]
        assert all(by_drafter(g).keys() <= {name} for g in got)
        counted = "drafted" if name == "head" else "accepted"  # it is hardly trained
        assert sum(by_drafter(g).get(name, {counted: 0})[counted] for g in got) > 10, name
    assert s.stop() == 0


def test_certified_steps_take_guesses(make_server):
    """Bit for bit what certified steps of one token give; a guess is a query with a certificate of its own."""
    s = make_server("--draft-model", quick_file(), "-c", "4096")
    ids = s.http.post("/tokenize", json={"content": (ROOT / "test/data/licences.txt").read_text()[:9000]}).json()["tokens"][:1900]
    for temperature in (0, 0.8):
        for eps in (0.05, 0.3):
            asked = {"prompt": ids, "max_tokens": 40, "temperature": temperature, "seed": 5, "logprobs": 1, "ignore_eos": True}
            own = {"epsilon": eps, "draft_fixed": True}
            # twice: a prompt that may leave out attention is the same to the bit only where as much of it was known
            _, plain = (ask_text(s, {**asked, "sparing": {**own, "draft": 0}}) for _ in range(2))
            for more in ({"draft": 6}, {"draft": 3, "drafters": ["lookup"]}, {"draft": 15, "drafters": ["model"]}):
                got = ask_text(s, {**asked, "sparing": {**own, **more}})
                assert got["choices"] == plain["choices"], (temperature, eps, more)
                a, was = got["usage"]["sparing"], plain["usage"]["sparing"]
                assert was["attention"]["kept"] < 1 and a["attention"]["kept"] < 1 and a["attention"]["max_bound"] <= eps
                assert a["decode"]["steps"] + a["decode"]["accepted"] == was["decode"]["steps"]
                assert a["decode"]["drafted"] > 0
    assert s.stop() == 0


def other_vocabulary(path, out):
    """The same model with its tokens under other numbers, all but control tokens: what it says is the same text."""
    g = Gguf(pathlib.Path(path))
    kinds = g.keys["tokenizer.ggml.token_type"][1][1]
    free = [i for i, k in enumerate(kinds) if k == 1]
    new = list(range(len(kinds)))
    for at, i in zip(free, free[7:] + free[:7]):
        new[at] = i
    for name in ("tokens", "token_type", "scores"):
        if f"tokenizer.ggml.{name}" in g.keys:
            kind, (elem, values) = g.keys[f"tokenizer.ggml.{name}"]
            g.keys[f"tokenizer.ggml.{name}"] = (kind, (elem, [values[i] for i in new]))
    for name in ("token_embd.weight", "output.weight"):
        if name in g.tensors:
            dims, kind, raw = g.tensors[name]
            row = len(raw[:len(raw) // dims[1] * dims[1]]) // dims[1]
            g.tensors[name] = (dims, kind, b"".join(raw[i * row:(i + 1) * row] for i in new))
    return g.write(out)


@pytest.mark.parametrize("which", ["permuted", "gemma"])
def test_a_draft_model_of_another_vocabulary(which, make_server, tmp_path):
    """The model itself with other numbers guesses right nearly always; any other one changes no answer."""
    draft = other_vocabulary(quick_file(), tmp_path / "other.gguf") if which == "permuted" else ROOT / "models/test/gemma-3-270m-q4_k_m.gguf"
    s = make_server("--draft-model", str(draft), "--drafters", "model")
    n = 24 if which == "permuted" else 12
    for i, more in enumerate([{}, {"temperature": 0.9, "seed": 3}, {"stop": [" the"]}]):
        for asked in (f"Write a long list of animals. {i}", "Sag es auf Japanisch: 猫と犬。 🙂 Größe"):
            plain, got = (ask(s, {**body(asked, n, draft=k), **more}) for k in (0, 5))
            assert got["choices"] == plain["choices"]
            d = by_drafter(got)["model"]
            assert 0 <= d["accepted"] <= d["drafted"] and d["drafted"] > 0
            if which == "permuted" and not more and asked.startswith("Write"):
                assert d["accepted"] > n / 2, d
    assert s.stop() == 0


def test_a_head_is_one_models(make_server, head, tmp_path):
    with pytest.raises(RuntimeError, match="draft-head.*was trained for"):
        make_server("--model", str(ROOT / "test/golden/data/tiny-mha.gguf"), "--draft-head", str(head))
    (tmp_path / "cut").write_bytes(head.read_bytes()[:100000])
    with pytest.raises(RuntimeError, match="draft-head"):
        make_server("--draft-head", str(tmp_path / "cut"))
    with pytest.raises(RuntimeError, match="sparing-draft-head"):
        make_server("--draft-head", str(MODEL))
    one, two = (run("run", "--draft", n, "--draft-head", str(head), "-m", quick_file(), "-n", "20", "Name three rivers.") for n in ("0", "8"))
    assert one.stdout == two.stdout


@pytest.mark.parametrize("texts,args,code,word", [("", (), 1, "0 tokens to learn from"), ("a few words", (), 1, "are needed"), (None, (), 1, "No such file"),
                                                  ("x", ("--own", "-m", str(ROOT / "test/golden/data/tiny-mha.gguf")), 1, "no chat template")])
def test_training_says_what_is_missing(tmp_path, texts, args, code, word):
    if texts is not None:
        (tmp_path / "texts").write_text(texts)
    r = run("train", "draft", str(tmp_path / "texts"), "--steps", "1", *(args if "-m" in args else ("-m", quick_file(), *args)), check=False)
    assert r.returncode == code and word in r.stderr, r.stderr


def test_a_head_of_own_answers_and_of_one_tenant(tmp_path, make_server, quick_model):
    (tmp_path / "asked").mkdir()
    (tmp_path / "asked" / "a").write_text("\n".join(f"Tell me a story about the number {i}." for i in range(40)))
    args = ("train", "draft", str(tmp_path / "asked"), "--own", "--steps", "20", "--seed", "1", "--draft-tokens", "64", "--json", "-m", quick_model, "--tenant", "ann")
    one, two = (run(*args, "-o", str(tmp_path / n)) for n in ("one", "two"))
    said = [json.loads(r.stdout) for r in (one, two)]
    assert [{k: v for k, v in s.items() if k != "seconds"} for s in said][0] == {k: v for k, v in said[1].items() if k != "seconds"}
    assert said[0]["train"] > 64
    assert (tmp_path / "one").read_bytes() == (tmp_path / "two").read_bytes(), "same seed, same steps, same head"
    s = make_server("--model", quick_model, "--draft-head", str(tmp_path / "one"), "--keys", write_keys(tmp_path / "keys", {"ka": "ann", "kb": "bob"}))
    asked = body("Tell me a story about the number 7.", 32, drafters=["head"])
    ann, bob = (ask(s, asked, headers={"Authorization": f"Bearer {k}"}) for k in ("ka", "kb"))
    assert ann["choices"] == bob["choices"]
    assert by_drafter(bob) == {}, "a head of ann's texts"
    assert by_drafter(ann)["head"]["drafted"] > 0
    assert s.stop() == 0


def test_scripted_answers_with_tools_are_the_same(make_server):
    """What the model says is scripted (test/tool/script.c), so that calls surely come; guessed from earlier answers and from the prompt."""
    s = make_server("--path", "full", binary=tool("script"))
    tools = [{"type": "function", "function": {"name": "look", "description": "Reads a file.", "parameters": {"type": "object", "properties": {"path": {"type": "string"}}, "required": ["path"]}}}]
    said = ['<tool_call>\n{"name": "look", "arguments": {"path": "/etc/hosts"}}\n</tool_call>', "The file has three lines, and the second line is the longest of the three lines.",
            "one two three one two three one two three four", ""]
    for round_ in range(3):
        for i, words in enumerate(said):
            asked = {"messages": [{"role": "user", "content": f"[[say]]{words}[[/say]] {i}"}], "max_tokens": 60, "temperature": 0, "tools": tools}
            got = [ask(s, {**asked, "sparing": own})["choices"][0] for own in ({"draft": 0}, {"draft": 5, "draft_fixed": True}, {"draft": 15})]
            for g in got:
                for c in g["message"].get("tool_calls") or []:
                    c.pop("id")
            assert got[0] == got[1] == got[2], (round_, words)
            if i == 0:
                assert json.loads(got[0]["message"]["tool_calls"][0]["function"]["arguments"]) == {"path": "/etc/hosts"}
    assert s.stop() == 0


@pytest.mark.parametrize("args,word", [(("--draft-model", "none.gguf"), "none.gguf"), (("--draft-model", str(ROOT / "models/vocab/ggml-vocab-qwen2.gguf")), "draft-model"),
                                       (("--drafters", "lookup,guess"), "--drafters lookup,guess: must be one of"), (("--draft-kv-bytes", "1"), "draft-kv-bytes")])
def test_options_are_checked(make_server, args, word):
    with pytest.raises(RuntimeError, match=word):
        make_server(*args)


@pytest.mark.parametrize("own,word", [({"drafters": "lookup"}, "list"), ({"drafters": []}, "one or more"), ({"drafters": ["guess"]}, "none of"), ({"drafters": [1]}, "none of"),
                                      ({"draft_fixed": 1}, "draft_fixed")])
def test_requests_are_checked(server, own, word):
    e = server.chat(max_tokens=1, sparing=own)
    assert e.status_code == 400 and word in e.json()["error"]["message"], e.text
