"""/v1/completions as OpenAI had it: lists of log-probabilities, echo, max_tokens 0, best_of; and what ends an answer."""
import json
import math
import pathlib

import openai
import pytest

from conftest import MODEL, quick_file, run, tool
from ggufs import Gguf

TEXT = "The capital of France is"


def ask(server, prompt=TEXT, **kw):
    r = server.http.post("/v1/completions", json={"prompt": prompt, "max_tokens": 6, "temperature": 0, **kw})
    assert r.status_code == 200, r.text
    return r.json()


def one(server, prompt=TEXT, **kw):
    return ask(server, prompt, **kw)["choices"][0]


def refused(server, param, **kw):
    r = server.http.post("/v1/completions", json={"prompt": TEXT, "max_tokens": 4, **kw})
    assert r.status_code == 400 and r.json()["error"]["param"] == param, r.text
    return r.json()["error"]["message"]


# --- log-probabilities ---------------------------------------------------------------------------

def check_lists(choice):
    """The four lists belong together, and to the text."""
    p = choice["logprobs"]
    assert set(p) == {"tokens", "token_logprobs", "top_logprobs", "text_offset"}
    assert len({len(v) for v in p.values()}) == 1
    assert p["text_offset"] == sorted(p["text_offset"])
    for token, lp, top in zip(p["tokens"], p["token_logprobs"], p["top_logprobs"]):
        if lp is None:
            assert top is None
        else:
            assert lp <= 0 and top[token] == lp and max(top.values()) >= lp
    return p


def test_lists_of_an_answer(server):
    c = one(server, logprobs=3)
    p = check_lists(c)
    assert len(p["tokens"]) == 6 and "".join(p["tokens"]) == c["text"] and p["text_offset"][0] == len(TEXT)
    assert all(3 <= len(t) <= 4 for t in p["top_logprobs"])
    for i, token in enumerate(p["tokens"]):
        assert c["text"][p["text_offset"][i] - len(TEXT):].startswith(token)
    assert one(server)["logprobs"] is None
    assert all(list(t) == [k] for t, k in zip(one(server, logprobs=0)["logprobs"]["top_logprobs"], p["tokens"]))


def test_the_sdk_reads_them(server):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    r = client.completions.create(model=client.models.list().data[0].id, prompt=TEXT, max_tokens=4, temperature=0, logprobs=2, echo=True)
    p = r.choices[0].logprobs
    assert r.choices[0].text.startswith(TEXT) and len(p.tokens) == len(p.token_logprobs) == len(p.top_logprobs) == len(p.text_offset) and p.token_logprobs[0] is None


def test_echo_with_log_probabilities(server):
    c = one(server, logprobs=2, echo=True)
    p = check_lists(c)
    n = len(server.tokens(TEXT))
    assert c["text"].startswith(TEXT) and "".join(p["tokens"]) == c["text"] and len(p["tokens"]) == n + 6
    assert p["token_logprobs"][0] is None and None not in p["token_logprobs"][1:] and p["text_offset"][0] == 0
    alone = one(server, logprobs=2)
    assert p["token_logprobs"][n:] == alone["logprobs"]["token_logprobs"] and p["text_offset"][n:] == alone["logprobs"]["text_offset"]
    assert one(server, echo=True)["text"] == c["text"]


def test_max_tokens_0(server):
    j = ask(server, max_tokens=0, echo=True, logprobs=1)
    c = j["choices"][0]
    p = check_lists(c)
    assert c["text"] == TEXT and c["finish_reason"] == "length" and j["usage"]["completion_tokens"] == 0 and len(p["tokens"]) == j["usage"]["prompt_tokens"]
    assert one(server, max_tokens=0)["text"] == "" and one(server, max_tokens=0, echo=True)["text"] == TEXT
    assert server.chat(max_tokens=0).status_code == 400


def test_token_ids_and_several_prompts(server):
    ids = server.tokens(TEXT)
    prompts = [ids, server.tokens("Ünï ☃ and 中文"), [504]]
    j = ask(server, prompts, max_tokens=0, echo=True, logprobs=1)
    assert [c["index"] for c in j["choices"]] == [0, 1, 2]
    for c, one_ in zip(j["choices"], prompts):
        p = check_lists(c)
        assert len(p["tokens"]) == len(one_) and p["token_logprobs"][0] is None
        alone = one(server, one_, max_tokens=0, echo=True, logprobs=1)["logprobs"]
        assert alone["token_logprobs"] == p["token_logprobs"]
    assert j["choices"][1]["text"] == "Ünï ☃ and 中文" and any(t.startswith("bytes:\\x") for t in j["choices"][1]["logprobs"]["tokens"])
    assert j["choices"][0]["logprobs"]["token_logprobs"] == one(server, max_tokens=0, echo=True, logprobs=1)["logprobs"]["token_logprobs"]


def test_prompt_log_probabilities_are_the_models_own(server, tmp_path):
    """What `sparing perplexity` finds for a window, the server says token by token, however long it is, and whatever is cached."""
    text = " ".join(f"The {i} birds flew over the old mill while item {i * i} of the list was read." for i in range(60))
    ids = server.tokens(text)[:512]
    (tmp_path / "t.txt").write_text(server.http.post("/detokenize", json={"tokens": ids}).json()["content"])
    assert server.tokens((tmp_path / "t.txt").read_text()) == ids
    said = json.loads(run("perplexity", "-m", quick_file(), "-f", tmp_path / "t.txt", "--ctx", "256", "--json").stdout)
    for _ in range(2):  # once computed, once known
        found = [one(server, window, max_tokens=0, echo=True, logprobs=1)["logprobs"]["token_logprobs"] for window in (ids[256:], ids[:256])]
        assert math.isclose(math.exp(-sum(sum(lp[129:]) for lp in found) / 254), said["perplexity"], rel_tol=1e-4)
    lp = found[1]
    streamed, n = [], 0
    with server.http.stream("POST", "/v1/completions", json={"prompt": ids[:256], "max_tokens": 2, "echo": True, "logprobs": 1, "stream": True, "temperature": 0}) as r:
        for line in r.iter_lines():
            if line.startswith("data: {"):
                for c in json.loads(line[6:])["choices"]:
                    streamed += c["logprobs"]["token_logprobs"]
                    n += len(c["text"])
    assert streamed[:256] == lp and len(streamed) == 258 and n > 256


def test_multiple_choice_by_log_likelihood(server):
    """As evaluation harnesses do it: of each continuation the sum over its tokens, and whether it is the greedy one."""
    context, choices = "The opposite of hot is", [" cold", " banana", " seventeen"]
    score = {}
    for c in choices:
        prompt = server.tokens(context + c)
        n = len(server.tokens(context))
        p = one(server, prompt, max_tokens=1, echo=True, logprobs=1)["logprobs"]
        score[c] = sum(p["token_logprobs"][n:-1])
        greedy = all(max(t, key=t.get) == k for t, k in zip(p["top_logprobs"][n:-1], p["tokens"][n:-1]))
        said = one(server, context, max_tokens=len(prompt) - n)["text"]
        assert greedy == (said == c)
        # the same from the other side: the continuation forced token by token
        for i in range(n, len(prompt)):
            top = one(server, prompt[:i], max_tokens=1, logprobs=1, logit_bias={str(prompt[i]): 100})["logprobs"]
            assert math.isclose(top["token_logprobs"][0], p["token_logprobs"][i], abs_tol=2e-3)
    assert len(set(score.values())) == 3


# --- best_of, suffix -----------------------------------------------------------------------------

def test_best_of(server):
    hot = {"temperature": 1.5, "seed": 7, "max_tokens": 8}
    all_ = ask(server, n=6, logprobs=0, **hot)["choices"]
    mean = lambda c: sum(c["logprobs"]["token_logprobs"]) / len(c["logprobs"]["token_logprobs"])  # noqa: E731
    best = sorted(all_, key=mean, reverse=True)
    j = ask(server, best_of=6, n=2, logprobs=0, **hot)
    assert [c["text"] for c in j["choices"]] == [c["text"] for c in best[:2]] and [c["index"] for c in j["choices"]] == [0, 1]
    assert j["usage"]["completion_tokens"] == 48  # what was drawn is paid for
    plain = ask(server, best_of=6, **hot)["choices"]
    assert [c["text"] for c in plain] == [best[0]["text"]] and plain[0]["logprobs"] is None
    echo = ask(server, [TEXT, "Once upon a"], best_of=3, n=2, echo=True, logprobs=0, **hot)["choices"]
    assert [c["text"][:11] for c in echo] == [TEXT[:11]] * 2 + ["Once upon a"] * 2 and all(c["logprobs"]["token_logprobs"][0] is None for c in echo)
    assert ask(server, best_of=2, n=2, stream=False)["choices"][1]
    refused(server, "best_of", best_of=1, n=2)
    refused(server, "best_of", best_of=2, stream=True)
    refused(server, "best_of", best_of=17)
    refused(server, "prompt", prompt=[TEXT] * 5, best_of=4)


def test_suffix_needs_a_model_with_marks(server):
    assert "fill" in refused(server, "suffix", suffix=" end")
    assert one(server, suffix="")["text"]


def test_what_stands_behind_the_gap_is_read(make_server, tmp_path):
    """The scripted model says what a text of its prompt tells it: here the text behind the gap does, and it comes between the two."""
    g = Gguf(pathlib.Path(quick_file()))
    g.keys.update({"tokenizer.ggml.fim_pre_token_id": (4, 4), "tokenizer.ggml.fim_suf_token_id": (4, 5), "tokenizer.ggml.fim_mid_token_id": (4, 6)})
    g.write(tmp_path / "fim.gguf")
    s = make_server("-m", tmp_path / "fim.gguf", binary=tool("script"))
    o = openai.OpenAI(base_url=s.url + "/v1", api_key="none")
    for suffix, text in (("[[say]] z = x + y[[/say]]", " z = x + y"), ("[[say]]other[[/say]]", "other")):
        r = o.completions.create(model="fim", prompt="def f(x):[[say]]not this[[/say]]", suffix=suffix, max_tokens=20, temperature=0)
        assert r.choices[0].text == text and r.choices[0].finish_reason == "stop"


def test_suffix(make_server, tmp_path):
    """A model whose file names three marks: both texts stand behind theirs, and marks in a text are text."""
    keys = {"tokenizer.ggml.fim_pre_token_id": 4, "tokenizer.ggml.fim_suf_token_id": 5, "tokenizer.ggml.fim_mid_token_id": 6}
    g = Gguf(MODEL)
    g.keys.update({k: (4, v) for k, v in keys.items()})
    g.write(tmp_path / "fim.gguf")
    s = make_server("-m", tmp_path / "fim.gguf")
    ids = s.tokens
    gap = s.http.post("/v1/completions/render", json={"prompt": "def f(x):", "suffix": "\n return y"}).json()[0]["token_ids"]
    assert gap == [4, *ids("def f(x):"), 5, *ids("\n return y"), 6]
    c = one(s, "def f(x):", suffix="\n return y", logprobs=1)
    assert c["text"] == one(s, gap)["text"] and len(c["logprobs"]["tokens"]) > 0
    assert ask(s, "def f(x):", suffix="\n return y")["usage"]["prompt_tokens"] == len(gap)
    two = s.http.post("/v1/completions/render", json={"prompt": "a<fim>b", "suffix": s.http.post("/detokenize", json={"tokens": [6]}).json()["content"]}).json()[0]["token_ids"]
    assert two.count(6) == 1 and two[-1] == 6  # the text of a mark is no mark
    with s.http.stream("POST", "/v1/completions", json={"prompt": "def f(x):", "suffix": "\n return y", "max_tokens": 6, "temperature": 0, "stream": True}) as r:
        parts = [json.loads(line[6:])["choices"][0]["text"] for line in r.iter_lines() if line.startswith("data: {")]
    assert "".join(parts) == c["text"]
    refused(s, "suffix", suffix="x", echo=True)
    refused(s, "suffix", suffix="x", prompt=[1, 2])


# --- what ends an answer -------------------------------------------------------------------------

def test_stop_is_kept_if_asked(server):
    text = one(server, max_tokens=24)["text"]
    stop = text[8:11]
    cut = text[:text.index(stop)]
    assert one(server, max_tokens=24, stop=stop)["text"] == cut
    assert one(server, max_tokens=24, stop=stop, include_stop_str_in_output=True)["text"] == cut + stop


def test_stop_token_ids_and_min_tokens(server):
    p = one(server, max_tokens=12, logprobs=0)["logprobs"]["tokens"]
    first = server.tokens(p[3])
    assert len(first) == 1
    at = p.index(p[3])
    c = one(server, max_tokens=12, stop_token_ids=first)
    assert c["text"] == "".join(p[:at]) and c["finish_reason"] == "stop"
    assert one(server, max_tokens=12, stop_token_ids=first, include_stop_str_in_output=True)["text"] == "".join(p[:at + 1])
    j = ask(server, max_tokens=12, stop_token_ids=first, min_tokens=at + 3)
    assert j["usage"]["completion_tokens"] >= at + 3
    assert server.chat("Say yes.", max_tokens=40, min_tokens=40).json()["usage"]["completion_tokens"] == 40
    refused(server, "stop_token_ids", stop_token_ids=[10**9])
    refused(server, "stop_token_ids", stop_token_ids="x")
    refused(server, "min_tokens", min_tokens=9)
    assert server.chat(max_tokens=40, min_tokens=4, sparing={"choices": ["a"]}).status_code == 400


def test_truncate_prompt_tokens(server):
    ids = server.tokens("one two three four five six seven eight nine ten")
    j = ask(server, ids, truncate_prompt_tokens=4)
    assert j["usage"]["prompt_tokens"] == 4 and j["choices"][0]["text"] == one(server, ids[-4:])["text"]
    assert ask(server, ids, truncate_prompt_tokens=4000)["usage"]["prompt_tokens"] == len(ids)
    r = server.http.post("/v1/completions", json={"prompt": [504] * 9000, "max_tokens": 2})
    assert r.status_code == 400
    assert ask(server, [504] * 40, truncate_prompt_tokens=-1)["usage"]["prompt_tokens"] == 40


@pytest.mark.parametrize("priority", [-5, 0, 3, 1000])
def test_priority_changes_no_answer(server, priority):
    assert one(server, priority=priority)["text"] == one(server)["text"]


# --- predictions ---------------------------------------------------------------------------------

def test_a_prediction_is_a_guess_and_nothing_else(server):
    """The answer is the same whatever is predicted; what was right, and what was not, is counted.
    How many are guessed is fixed, and nobody else guesses: it would depend on the pace of the machine and on earlier answers otherwise."""
    def chat(**kw):
        own = {"path": "full", "draft": 4, "draft_fixed": True, "drafters": ["prediction"]}
        j = server.chat("Write a long list of animals with a word about each.", max_tokens=60, ignore_eos=True, sparing=own, **kw).json()
        return j["choices"][0]["message"]["content"], j["usage"]["completion_tokens_details"], j["usage"]["sparing"]["decode"]

    text, none, plain = chat()
    assert none["accepted_prediction_tokens"] == none["rejected_prediction_tokens"] == 0
    same, right, fast = chat(prediction={"type": "content", "content": text})
    assert same == text and right["accepted_prediction_tokens"] > 10 and fast["steps"] <= plain["steps"]
    parts = [{"type": "text", "text": text[:40]}, {"type": "text", "text": text[40:]}]
    assert chat(prediction={"type": "content", "content": parts})[0] == text
    for wrong in ("Zebra zoo zinc.", text[::-1], "", "\n" * 9000, "word " * 20000):
        assert chat(prediction={"type": "content", "content": wrong})[0] == text
    for bad in ("x", {"type": "x", "content": "a"}, {"type": "content"}, {"type": "content", "content": [1]}):
        e = server.chat(max_tokens=1, prediction=bad)
        assert e.status_code == 400 and e.json()["error"]["param"] == "prediction"
