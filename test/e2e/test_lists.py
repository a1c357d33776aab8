"""Parameters: those that are honoured, those that are known and harmless, and all others. Messages come back as they were given."""
import openai
import pytest

U = {"role": "user", "content": "Say hi"}


def receipt(r):
    assert r.status_code == 200, r.text
    return r.json()["usage"]["sparing"]


def ignored(r):
    return receipt(r).get("ignored", [])


def text_of(r):
    assert r.status_code == 200, r.text
    return r.json()["choices"][0]["message"]["content"]


# --- known and harmless --------------------------------------------------------------------------

HARMLESS = {"metadata": {"a": "b"}, "service_tier": "auto", "prompt_cache_key": "k", "prompt_cache_retention": "24h", "safety_identifier": "x",
            "verbosity": "medium", "user": "u", "store": True, "cache_prompt": True, "id_slot": 3, "transforms": ["middle-out"],
            "provider": {"order": ["x"]}, "usage": {"include": True}, "cache_control": {"type": "ephemeral"}, "keep_alive": "5m",
            "timings_per_token": True}


def test_harmless_parameters_are_taken_and_named(server):
    plain = text_of(server.chat(max_tokens=4))
    r = server.chat(max_tokens=4, **HARMLESS)
    assert text_of(r) == plain and sorted(ignored(r)) == sorted(HARMLESS)
    for name, value in HARMLESS.items():
        assert ignored(server.chat(max_tokens=1, **{name: value})) == [name]
    assert "ignored" not in receipt(server.chat(max_tokens=1))


def test_a_stream_names_them_too(server):
    with server.http.stream("POST", "/v1/chat/completions", json={"messages": [U], "max_tokens": 2, "stream": True, "metadata": {}, "service_tier": "flex"}) as r:
        lines = [line for line in r.iter_lines() if line.startswith(": receipt")]
    assert '"ignored":["metadata","service_tier"]' in lines[0]


ASKS_FOR_NOTHING = [{"modalities": ["text"]}, {"functions": []}, {"function_call": "none"}, {"length_penalty": 1}, {"length_penalty": 1.0},
                    {"use_beam_search": False}, {"skip_special_tokens": True}, {"typical_p": 1.0}, {"mirostat": 0}, {"xtc_probability": 0.0},
                    {"best_of": 1}, {"echo": False}, {"suffix": ""}, {"stop": ""}, {"stop": [""]}, {"seed": -1}, {"top_p": 0},
                    {"repeat_penalty": 1.0}, {"n": 1.0}, {"add_generation_prompt": True}, {"continue_final_message": False},
                    {"chat_template_kwargs": {}}, {"stream_options": None}, {"stream_options": {"include_usage": True}}, {"store": False}]


@pytest.mark.parametrize("body", ASKS_FOR_NOTHING, ids=str)
def test_values_that_ask_for_nothing(server, body):
    assert ignored(server.chat(max_tokens=1, **body)) == []


@pytest.mark.parametrize("name,value", [("modalities", ["text", "audio"]), ("audio", {"voice": "x"}), ("functions", [{"name": "f"}]),
                                        ("length_penalty", 0.5), ("use_beam_search", True), ("skip_special_tokens", False), ("typical_p", 0.5),
                                        ("mirostat", 2), ("xtc_probability", 0.5), ("dry_multiplier", 0.8), ("web_search_options", {}),
                                        ("chat_template", "x"), ("no_such", 1), ("no_such", False)])
def test_what_would_change_the_answer_is_refused_by_name(server, name, value):
    e = server.chat(max_tokens=1, **{name: value})
    assert e.status_code == 400 and e.json()["error"]["param"] == name and name in e.json()["error"]["message"]


def test_null_means_absent(server):
    names = ["no_such", "temperature", "max_tokens", "stop", "seed", "tools", "response_format", "mirostat", "metadata", "functions", "logprobs"]
    r = server.chat(**{"max_completion_tokens": 1, **{n: None for n in names}})
    assert ignored(r) == []


def test_lenient(make_server):
    s = make_server("--lenient")
    r = s.chat(max_tokens=1, no_such={"a": [1]}, top_k=3)
    assert ignored(r) == ["no_such"]
    assert ignored(s.http.post("/v1/chat/completions", json={"messages": [{**U, "mood": "x"}] * 3, "max_tokens": 1})) == ["messages[].mood"]
    assert s.chat(max_tokens=1, mirostat=2).status_code == 400  # known, and it would change the answer
    assert s.chat(max_tokens=1, temperature=9).status_code == 400
    many = ignored(s.chat(max_tokens=1, **{f"x{i}" * 8: i for i in range(1000)}))
    assert 100 < len(many) < 1000  # what is listed is bounded
    e = s.http.post("/v1/embeddings", json={"input": "a", "no_such": 1})
    assert e.status_code == 200 and e.json()["usage"]["sparing"]["ignored"] == ["no_such"]


# --- other spellings -----------------------------------------------------------------------------

def test_other_spellings(server):
    assert text_of(server.chat(repeat_penalty=1.3)) == text_of(server.chat(repetition_penalty=1.3))
    r = server.http.post("/v1/chat/completions", json={"messages": [U], "n_predict": 3, "temperature": 0, "ignore_eos": True})
    assert r.json()["usage"]["completion_tokens"] == 3
    assert server.chat(max_tokens=2.0, ignore_eos=True).json()["usage"]["completion_tokens"] == 2
    assert server.chat(max_tokens=2.5).status_code == 400
    hot = {"temperature": 2, "max_tokens": 12}
    assert text_of(server.chat(**{**hot, "top_p": 0})) == text_of(server.chat(max_tokens=12))
    assert len({text_of(server.chat(**{**hot, "seed": -1})) for _ in range(4)}) > 1
    r = server.http.post("/v1/chat/completions", json={"messages": [U], "max_tokens": -1, "temperature": 0, "stop": ["e", "i", "a", "o"]})
    assert r.json()["choices"][0]["finish_reason"] == "stop"


# --- messages ------------------------------------------------------------------------------------

@pytest.mark.parametrize("extra,names", [
    ({"name": "ann"}, []), ({"refusal": None, "annotations": []}, ["messages[].annotations"]), ({"audio": None}, []), ({"provider_specific_fields": {"x": [1]}, "thinking_blocks": [{}], "reasoning_details": []}, ["messages[].provider_specific_fields", "messages[].thinking_blocks", "messages[].reasoning_details"]),
    ({"function_call": None, "tool_calls": None}, []), ({"tool_calls": []}, []),
    ({"reasoning_content": "hm"}, []), ({"no_such": None}, [])])
def test_fields_of_messages(server, extra, names):
    r = server.http.post("/v1/chat/completions", json={"messages": [U, {"role": "assistant", "content": "hi", **extra}, U], "max_tokens": 1})
    assert ignored(r) == names


def test_content_of_an_assistant_may_be_missing(server):
    for m in ({"role": "assistant", "content": None}, {"role": "assistant"}, {"role": "assistant", "content": []}):
        assert server.http.post("/v1/chat/completions", json={"messages": [U, m, U], "max_tokens": 1}).status_code == 200


@pytest.mark.parametrize("kind,lacks", [("image_url", "vision"), ("input_image", "vision"), ("input_audio", "speech"), ("file", "vector store")])
def test_what_cannot_be_read_says_what_is_missing(server, kind, lacks):
    e = server.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": [{"type": "text", "text": "x"}, {"type": kind}]}]}).json()["error"]
    assert "messages[0].content[1]" in e["message"] and lacks in e["message"]


@pytest.mark.parametrize("ask", [{}, {"logprobs": True, "top_logprobs": 2}, {"n": 2, "temperature": 1}, {"stop": ["e"]},
                                 {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {"type": "boolean"}}}}], ids=str)
def test_an_answer_comes_back_whole(server, ask):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    first = client.chat.completions.create(model=model, messages=[U], max_tokens=6, **ask)
    for message in (first.choices[0].message, first.choices[0].message.model_dump(), first.choices[0].message.model_dump(exclude_none=True)):
        again = client.chat.completions.create(model=model, messages=[U, message, U], max_tokens=1)
        assert again.choices[0].finish_reason in ("length", "stop")


def test_a_streamed_answer_comes_back_whole(server):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    model = client.models.list().data[0].id
    with client.chat.completions.stream(model=model, messages=[U], max_tokens=6) as s:
        for _ in s:
            pass
        message = s.current_completion_snapshot.choices[0].message
    again = client.chat.completions.create(model=model, messages=[U, message.model_dump(), U], max_tokens=1)
    assert again.usage.prompt_tokens > 10


# --- the description -----------------------------------------------------------------------------

def described(server, path):
    j = server.http.get("/openapi.json").json()
    return j["paths"][path]["post"]["requestBody"]["content"]["application/json"]["schema"]["properties"]


@pytest.mark.parametrize("path,base", [("/v1/chat/completions", {"messages": [U], "max_tokens": 1}), ("/v1/completions", {"prompt": "x", "max_tokens": 1}),
                                       ("/v1/embeddings", {"input": "x"})])
def test_what_is_described_is_accepted(server, path, base):
    """Each value that the description lists, and each parameter that it calls harmless, at once and alone."""
    harmless = {n: {"x": 1} for n, p in described(server, path).items() if "without effect" in p.get("description", "")}
    r = server.http.post(path, json={**base, **harmless})
    assert r.status_code == 200 and sorted(r.json()["usage"]["sparing"]["ignored"]) == sorted(harmless), r.text
    for name, p in described(server, path).items():
        for value in p.get("enum", []):
            r = server.http.post(path, json={**base, name: value})
            took = [name] if name == "reasoning_effort" and value else []  # this model does not think
            assert r.status_code == 200 and r.json()["usage"].get("sparing", {}).get("ignored", []) == took, (name, value, r.text)


def test_refusals_have_a_described_status(server):
    paths = server.http.get("/openapi.json").json()["paths"]
    for path, ops in paths.items():
        if "post" in ops and "{" not in path:
            r = server.http.post(path, content=b"x", headers={"Content-Type": "application/xml"})
            assert str(r.status_code) in ops["post"]["responses"], (path, r.status_code)


# --- the template, and thinking ------------------------------------------------------------------

def rendered(server, messages, **kw):
    return server.http.post("/apply-template", json={"messages": messages, **kw})


def test_an_answer_goes_on_with_the_last_message(server):
    poem = [U, {"role": "assistant", "content": "Roses are red, violets are"}]
    whole, on = rendered(server, poem).json()["prompt"], rendered(server, poem, continue_final_message=True).json()["prompt"]
    assert on.endswith("Roses are red, violets are") and whole.startswith(on) and whole != on
    closed = rendered(server, poem, add_generation_prompt=False).json()["prompt"]
    assert whole.startswith(closed) and closed.startswith(on) and len(on) < len(closed) < len(whole)
    r = server.http.post("/v1/chat/completions", json={"messages": poem, "continue_final_message": True, "add_generation_prompt": False, "max_tokens": 5, "temperature": 0})
    plain = server.http.post("/v1/completions", json={"prompt": on, "max_tokens": 5, "temperature": 0})
    assert text_of(r) == plain.json()["choices"][0]["text"]
    for bad in ({"messages": [U], "continue_final_message": True}, {"messages": poem, "continue_final_message": True, "add_generation_prompt": True}):
        assert server.http.post("/v1/chat/completions", json={"max_tokens": 1, **bad}).status_code == 400


def test_variables_of_the_template(server):
    assert rendered(server, [U], chat_template_kwargs={"x": [1, {"y": None}]}).json() == rendered(server, [U]).json()
    assert rendered(server, [U], chat_template_kwargs=[1]).status_code == 400
    assert rendered(server, [U], chat_template_kwargs={"messages": []}).status_code in (200, 400)


def test_effort_of_a_model_that_does_not_think_is_named(server):
    plain = text_of(server.chat(max_tokens=4))
    for name, value in (("reasoning_effort", "low"), ("reasoning_effort", "none"), ("reasoning", {"effort": "high"}), ("reasoning", {"enabled": False, "summary": "auto"}),
                        ("think", True), ("think", False), ("think", "medium")):
        r = server.chat(max_tokens=4, **{name: value})
        assert ignored(r) == [name] and text_of(r) == plain
    for name, value in (("reasoning_effort", "huge"), ("reasoning", {"effort": "huge"}), ("reasoning", {"no_such": 1}), ("reasoning", {"exclude": True}), ("think", 3),
                        ("include_reasoning", False)):
        e = server.chat(max_tokens=1, **{name: value})
        assert e.status_code == 400 and e.json()["error"]["param"] == name
