"""Prompts without answers, and answers of token ids: what routers and gateways ask."""
import json

import pytest

U = {"role": "user", "content": "Say hi"}


def test_rendered_ids_are_what_is_computed(server):
    r = server.http.post("/v1/chat/completions/render", json={"messages": [U], "temperature": 0, "max_tokens": 5, "seed": 3}).json()
    text = server.http.post("/apply-template", json={"messages": [U]}).json()["prompt"]
    whole = server.chat(U["content"], max_tokens=5).json()
    assert whole["usage"]["prompt_tokens"] == len(r["token_ids"]) and "Say hi" in text
    assert server.http.post("/detokenize", json={"tokens": r["token_ids"]}).json()["content"] == text
    assert server.http.post("/tokenize", json={"content": text, "parse_special": True}).json()["tokens"] == r["token_ids"]
    plain = server.http.post("/v1/completions", json={"prompt": r["token_ids"], "max_tokens": 5, "temperature": 0}).json()
    assert plain["choices"][0]["text"] == whole["choices"][0]["message"]["content"]
    # and it goes into generate as it is
    got = server.http.post("/inference/v1/generate", json={**r, "output_mode": "text"}).json()
    assert got["choices"][0]["text"] == plain["choices"][0]["text"] and got["output_mode"] == "text"


def test_rendered_texts(server):
    r = server.http.post("/v1/completions/render", json={"prompt": ["The sky is", [504, 5667]]}).json()
    assert [p["token_ids"] for p in r] == [server.tokens("The sky is"), [504, 5667]]


@pytest.mark.parametrize("path,body,status", [("/v1/chat/completions/render", {"messages": []}, 400), ("/v1/chat/completions/render", {"messages": [U], "no_such": 1}, 400),
                                              ("/v1/chat/completions/render", {"messages": [U], "model": "x"}, 404), ("/apply-template", {}, 400),
                                              ("/v1/completions/render", {"prompt": [[10**8]]}, 400), ("/v1/completions/render", {"prompt": "word " * 20000}, 400),
                                              ("/v1/completions/render", {}, 400)])
def test_refusals(server, path, body, status):
    assert server.http.post(path, json=body).status_code == status


def generate(server, **body):
    return server.http.post("/inference/v1/generate", json={"token_ids": server.tokens("The capital of France is"), "sampling_params": {"max_tokens": 6, "temperature": 0}, **body})


def test_tokens_in_tokens_out(server):
    j = generate(server).json()
    c = j["choices"][0]
    want = server.http.post("/v1/completions", json={"prompt": "The capital of France is", "max_tokens": 6, "temperature": 0, "logprobs": 1}).json()
    assert server.http.post("/detokenize", json={"tokens": c["token_ids"]}).json()["content"] == want["choices"][0]["text"]
    assert len(c["token_ids"]) == 6 and c["finish_reason"] == "length" and c["logprobs"] is None and "text" not in c and j["output_mode"] == "tokens"
    assert j["usage"]["completion_tokens"] == 6
    p = generate(server, sampling_params={"max_tokens": 6, "temperature": 0, "logprobs": 1}).json()["choices"][0]["logprobs"]
    assert p["token_logprobs"] == want["choices"][0]["logprobs"]["token_logprobs"]
    several = generate(server, sampling_params={"max_tokens": 3, "n": 3, "temperature": 1, "seed": 1}).json()["choices"]
    assert [x["index"] for x in several] == [0, 1, 2] and all(len(x["token_ids"]) <= 3 for x in several)


def test_a_stream_of_tokens(server):
    ids, finish = [], None
    body = {"token_ids": server.tokens("The capital of France is"), "sampling_params": {"max_tokens": 6, "temperature": 0}, "stream": True}
    with server.http.stream("POST", "/inference/v1/generate", json=body) as r:
        for line in r.iter_lines():
            if line.startswith("data: {"):
                c = json.loads(line[6:])["choices"][0]
                ids += c["token_ids"]
                finish = c["finish_reason"] or finish
    assert ids == generate(server).json()["choices"][0]["token_ids"] and finish == "length"


@pytest.mark.parametrize("body,param", [({"token_ids": []}, "token_ids"), ({"token_ids": "x"}, "token_ids"), ({"token_ids": [10**8]}, "prompt"), ({"sampling_params": 1}, "sampling_params"),
                                        ({"sampling_params": {"temperature": 9}}, "sampling_params"), ({"sampling_params": {"no_such": 1}}, "sampling_params"),
                                        ({"sampling_params": {"echo": True}}, "sampling_params"), ({"output_mode": "x"}, "output_mode"), ({"no_such": 1}, "no_such")])
def test_refusals_of_generate(server, body, param):
    r = generate(server, **body)
    assert r.status_code == 400 and r.json()["error"]["param"] == param, r.text


def test_fingerprint(server):
    a, b = server.chat(max_tokens=1).json(), server.http.post("/v1/completions", json={"prompt": "x", "max_tokens": 1}).json()
    assert a["system_fingerprint"] == b["system_fingerprint"] and a["system_fingerprint"].startswith("fp_")
