"""Ollama's protocol, with Ollama's own client."""
import json
import math
import os

import httpx
import ollama
import pytest

from conftest import Server, quick_file, tool, write_keys

MODEL = "SmolLM2-135M-Instruct.Q4_1"
HELLO = [{"role": "user", "content": "Say hello."}]
GREEDY = {"temperature": 0, "num_predict": 12, "top_k": 0, "top_p": 1}


@pytest.fixture(scope="module")
def client(server):
    return ollama.Client(host=server.url)


def test_chat(server, client):
    r = client.chat(model=MODEL, messages=HELLO, options=GREEDY)
    same = server.chat("Say hello.", max_tokens=12).json()
    assert r.message.role == "assistant" and r.message.content == same["choices"][0]["message"]["content"]
    assert r.done and r.done_reason == "length" and r.eval_count == 12
    assert r.prompt_eval_count == same["usage"]["prompt_tokens"]
    assert r.total_duration >= r.eval_duration > 0 and r.created_at.endswith("Z")


def test_a_stream_says_the_same(client):
    whole = client.chat(model=MODEL, messages=HELLO, options=GREEDY)
    parts = list(client.chat(model=MODEL, messages=HELLO, options=GREEDY, stream=True))
    assert "".join(p.message.content for p in parts) == whole.message.content
    assert [p.done for p in parts] == [False] * (len(parts) - 1) + [True] and len(parts) > 2
    assert parts[-1].eval_count == whole.eval_count and parts[-1].done_reason == whole.done_reason


def test_a_stream_is_what_nobody_asks_for(server):
    r = server.http.post("/api/chat", json={"model": MODEL, "messages": HELLO, "options": {"num_predict": 3}})
    assert r.headers["content-type"].startswith("application/x-ndjson")
    lines = [json.loads(line) for line in r.text.splitlines()]
    assert lines[-1]["done"] and len(lines) > 1


def test_generate(client):
    chat = client.chat(model=MODEL, messages=[{"role": "system", "content": "Be kind."}, *HELLO], options=GREEDY)
    r = client.generate(model=MODEL, prompt="Say hello.", system="Be kind.", options=GREEDY)
    assert r.response == chat.message.content and r.done_reason == chat.done_reason
    parts = list(client.generate(model=MODEL, prompt="Say hello.", system="Be kind.", options=GREEDY, stream=True))
    assert "".join(p.response for p in parts) == r.response


def test_raw(server, client):
    r = client.generate(model=MODEL, prompt="The capital of France is", raw=True, options=GREEDY)
    assert r.response == server.prefix("The capital of France is", 12)[0]


def test_an_empty_request_loads(client):
    assert client.generate(model=MODEL).done_reason == "load"
    assert client.chat(model=MODEL, messages=[]).done_reason == "load"
    assert client.generate(model=MODEL, keep_alive=0).done_reason == "unload"
    with pytest.raises(ollama.ResponseError) as e:
        client.generate(model="another")
    assert e.value.status_code == 404


def test_options(client):
    one = client.generate(model=MODEL, prompt="A number:", options={"seed": 7, "num_predict": 8, "num_ctx": 2048, "num_gpu": 1, "mirostat": 0})
    two = client.generate(model=MODEL, prompt="A number:", options={"seed": 7, "num_predict": 8})
    assert one.response == two.response
    assert {"options.num_gpu", "options.mirostat"} <= set(one.model_extra["sparing"]["ignored"]) if one.model_extra else True
    text = client.generate(model=MODEL, prompt="Say hello.", options={**GREEDY, "num_predict": 30}).response
    stop = text[4:7]
    assert client.generate(model=MODEL, prompt="Say hello.", options={**GREEDY, "num_predict": 30, "stop": [stop]}).response == text[:text.index(stop)]


def test_ignored_is_named(server):
    r = server.http.post("/api/generate", json={"model": MODEL, "prompt": "x", "stream": False, "keep_alive": "5m", "options": {"num_predict": 1, "num_thread": 2}})
    assert set(r.json()["sparing"]["ignored"]) == {"keep_alive", "options.num_thread"}


def test_formats(client):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"]}
    r = client.chat(model=MODEL, messages=HELLO, format=schema, options={"temperature": 0, "num_predict": 60})
    assert isinstance(json.loads(r.message.content)["a"], bool)
    r = client.generate(model=MODEL, prompt="Say hello.", format="json", options={"temperature": 0, "num_predict": 4})
    assert r.response.startswith("{")


def test_logprobs(client):
    r = client.chat(model=MODEL, messages=HELLO, options={**GREEDY, "num_predict": 3}, logprobs=True, top_logprobs=2)
    assert len(r.logprobs) == 3 and all(len(t.top_logprobs) == 2 and t.logprob <= 0 for t in r.logprobs)


def test_think(client):
    for think in (True, False, "low"):
        assert client.chat(model=MODEL, messages=HELLO, think=think, options={"num_predict": 2}).done


def test_messages_come_back_whole(client):
    first = client.chat(model=MODEL, messages=HELLO, options=GREEDY).message
    for back in (first, first.model_dump(), first.model_dump(exclude_none=True)):
        assert client.chat(model=MODEL, messages=[*HELLO, back, {"role": "user", "content": "More."}], options={"num_predict": 2}).done
    call = {"role": "assistant", "content": "", "thinking": "Hm.", "tool_calls": [{"function": {"name": "look", "arguments": {"path": "a"}}}]}
    result = {"role": "tool", "content": "text", "tool_name": "look"}
    assert client.chat(model=MODEL, messages=[*HELLO, call, result, {"role": "user", "content": "More."}], options={"num_predict": 2}).done


@pytest.mark.parametrize("path, change, says", [
    ("chat", {"messages": "x"}, "messages"),
    ("chat", {"messages": [{"role": "developer", "content": "x"}]}, "role"),
    ("chat", {"messages": [{"role": "user", "content": "x", "images": ["aGk="]}]}, "vision encoder"),
    ("chat", {"messages": [{"role": "assistant", "tool_calls": [{"function": {"name": "a", "arguments": "{}"}}]}]}, "arguments"),
    ("chat", {"messages": HELLO, "options": {"num_ctx": 1 << 20}}, "num_ctx"),
    ("chat", {"messages": HELLO, "options": {"colour": 1}}, "colour"),
    ("chat", {"messages": HELLO, "format": "xml"}, "format"),
    ("chat", {"messages": HELLO, "colour": 1}, "colour"),
    ("generate", {"prompt": "x", "images": ["aGk="]}, "vision encoder"),
    ("generate", {"prompt": "x", "suffix": "y"}, "suffix"),
    ("generate", {"prompt": "x", "template": "{{ .Prompt }}"}, "template"),
    ("generate", {"prompt": "x", "context": [1]}, "context"),
])
def test_errors_are_strings(server, path, change, says):
    r = server.http.post("/api/" + path, json={"model": MODEL, **change})
    assert r.status_code == 400 and isinstance(r.json()["error"], str) and says in r.json()["error"]


def test_errors_by_status(server, client, make_server, tmp_path):
    for ask in (lambda: client.chat(model="another", messages=HELLO), lambda: client.show("another")):
        with pytest.raises(ollama.ResponseError, match="'another' not found") as e:
            ask()
        assert e.value.status_code == 404
    assert isinstance(server.http.get("/api/chat").json()["error"], str)  # 405
    s = make_server("--keys", write_keys(tmp_path / "keys", {"secret": "a"}))
    assert isinstance(httpx.get(s.url + "/api/tags").json()["error"], str)
    assert httpx.get(s.url + "/api/tags", headers={"Authorization": "Bearer secret"}).status_code == 200


def test_models(server, client):
    m = client.list().models[0]
    assert m.model == MODEL and m.size == os.path.getsize(quick_file()) and len(m.digest) == 64 and m.modified_at
    assert m.details.format == "gguf" and m.details.family == "llama" and m.details.quantization_level == "Q8_0"  # of two layers most is the embedding
    assert m.details.parameter_size.startswith("35.") and m.details.parameter_size.endswith("M")
    assert client.ps().models[0].context_length == 8192
    s = client.show(MODEL + ":latest")
    assert s.modelinfo["llama.context_length"] == 8192 and "completion" in s.capabilities and "im_start" in s.template
    assert server.http.get("/api/version").json().keys() == {"version"}


def test_pull_and_what_changes_models(server, client):
    assert client.pull(MODEL).status == "success" and [p.status for p in client.pull(MODEL, stream=True)] == ["success"]
    with pytest.raises(ollama.ResponseError, match="sparing pull") as e:
        client.pull("another")
    assert e.value.status_code == 501
    for ask in (lambda: client.copy(MODEL, "b"), lambda: client.create(model="b", from_=MODEL)):
        with pytest.raises(ollama.ResponseError) as e:
            ask()
        assert e.value.status_code == 501


def test_embeddings(server):
    s = server
    c = ollama.Client(host=s.url)
    name = next(m.model for m in c.list().models if m.details.family == "encoder")
    openai = s.http.post("/v1/embeddings", json={"input": ["one", "two words"]}).json()
    r = c.embed(model=name, input=["one", "two words"])
    assert [list(v) for v in r.embeddings] == [d["embedding"] for d in openai["data"]]
    assert r.prompt_eval_count == openai["usage"]["prompt_tokens"] and r.total_duration > 0
    assert list(c.embeddings(model=name, prompt="one").embedding) == openai["data"][0]["embedding"]
    long = c.embed(model=name, input="word " * 2000).embeddings[0]
    assert math.isclose(sum(x * x for x in long), 1, rel_tol=1e-3)
    with pytest.raises(ollama.ResponseError):
        c.embed(model=name, input="word " * 2000, truncate=False)
    with pytest.raises(ollama.ResponseError, match="input"):
        c.embed(model=name, input=[])


# --- tools: what the model says is scripted, as in test_tools.py ----------------------------------------------------------

@pytest.fixture(scope="module")
def scripted():
    s = Server("--path", "full", binary=tool("script"))
    yield s
    assert s.stop() == 0


@pytest.fixture(scope="module")
def speaker(scripted):
    return ollama.Client(host=scripted.url)


def get_weather(city: str, days: int = 1) -> str:
    """Weather of a city.

    Args:
        city: its name
        days: how many
    """
    return f"sunny in {city} for {days}"


CLOCK = {"type": "function", "function": {"name": "get_time", "parameters": {"type": "object", "properties": {}}}}
LIMIT = {"temperature": 0, "num_predict": 80}


def weather_call(city, days):
    return f'<tool_call>\n{{"name": "get_weather", "arguments": {{"city": "{city}", "days": {days}}}}}\n</tool_call>'


def says(text, before=""):
    return {"role": "user", "content": f"{before}[[say]]{text}[[/say]]"}


def test_a_tool_loop(speaker):
    """A function of Python's is a tool; the call comes back as the client's object, and its result with the tool's name."""
    messages = [says(weather_call("Paris", 2), "Weather in Paris? ")]
    r = speaker.chat(model=MODEL, messages=messages, tools=[get_weather, CLOCK], options=LIMIT)
    [call] = r.message.tool_calls
    assert r.done and r.done_reason == "stop" and not r.message.content
    assert call.function.name == "get_weather" and call.function.arguments == {"city": "Paris", "days": 2}
    result = {"role": "tool", "tool_name": call.function.name, "content": get_weather(**call.function.arguments) + "[[say]]Sunny it is.[[/say]]"}
    for back in (r.message, r.message.model_dump(), r.message.model_dump(exclude_none=True)):
        again = speaker.chat(model=MODEL, messages=[*messages, back, result], tools=[get_weather, CLOCK], options=LIMIT)
        assert again.message.content == "Sunny it is." and not again.message.tool_calls


def test_a_stream_has_whole_calls(scripted, speaker):
    text = "I look. " + weather_call("Rome", 1) + "\n" + weather_call("Paris", 3)
    parts = list(speaker.chat(model=MODEL, messages=[says(text)], tools=[get_weather], options=LIMIT, stream=True))
    calls = [c.function for p in parts for c in p.message.tool_calls or []]
    assert [(c.name, c.arguments) for c in calls] == [("get_weather", {"city": "Rome", "days": 1}), ("get_weather", {"city": "Paris", "days": 3})]
    assert "".join(p.message.content or "" for p in parts).strip() == "I look." and parts[-1].done
    body = {"model": MODEL, "messages": [says(text)], "tools": [CLOCK, {**CLOCK, "function": {"name": "get_weather"}}], "options": LIMIT}
    lines = [json.loads(line) for line in scripted.http.post("/api/chat", json=body).text.splitlines()]
    ids = [c["id"] for line in lines for c in line["message"].get("tool_calls", [])]
    assert len(ids) == len(set(ids)) == 2 and [line["done"] for line in lines].count(True) == 1


def test_arguments_are_held_to_the_schema(speaker):
    city = {"type": "function", "function": {"name": "get_weather", "parameters": {
        "type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}}, "required": ["city"]}}}
    wrong = '<tool_call>\n{"name": "get_weather", "arguments": {"city": "Berlin"}}\n</tool_call>'
    [call] = speaker.chat(model=MODEL, messages=[says(wrong)], tools=[city], options=LIMIT).message.tool_calls
    assert call.function.arguments["city"] in ("Paris", "Rome")


def test_a_form_or_calls(speaker):
    form = {"type": "object", "properties": {"a": {"type": "integer"}}, "required": ["a"]}
    call = '<tool_call>\n{"name": "%s", "arguments": {}}\n</tool_call>' % CLOCK["function"]["name"]
    for kind in (form, "json"):
        r = speaker.chat(model=MODEL, messages=[says('{"a": 3}')], tools=[CLOCK], format=kind, options=LIMIT).message
        assert r.content == '{"a": 3}' and not r.tool_calls
        r = speaker.chat(model=MODEL, messages=[says(call)], tools=[CLOCK], format=kind, options=LIMIT).message
        assert not r.content and [t.function.name for t in r.tool_calls] == [CLOCK["function"]["name"]]


def test_tools_are_told_of(client, speaker):
    assert "tools" in client.show(MODEL).capabilities
    plain, told = (speaker.chat(model=MODEL, messages=[says("Hm.")], tools=t, options=LIMIT) for t in (None, [CLOCK]))
    assert told.message.content == "Hm." and told.prompt_eval_count > plain.prompt_eval_count + 20


@pytest.mark.parametrize("change, says_so", [
    ({"tools": {}}, "list"), ({"tools": [3]}, "tools[0]"), ({"tools": [{"type": "web_search"}]}, "tools[0]"),
    ({"tools": [CLOCK, CLOCK]}, "tools[1]"), ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0]"),
    ({"tools": [{"type": "function", "function": {}}]}, "name is missing")], ids=str)
def test_what_is_wrong_with_tools(server, change, says_so):
    r = server.http.post("/api/chat", json={"model": MODEL, "messages": HELLO, **change})
    assert r.status_code == 400 and says_so in r.json()["error"], r.text
