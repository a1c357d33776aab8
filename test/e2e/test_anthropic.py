"""Anthropic's /v1/messages, with Anthropic's own client."""
import json
import socket

import anthropic
import pytest

from conftest import tool

MODEL = "SmolLM2-135M-Instruct.Q4_1"
GREEDY = {"extra_body": {"temperature": 0}}  # the client has no parameter for it any more
HELLO = [{"role": "user", "content": "Say hello."}]


@pytest.fixture(scope="module")
def client(server):
    return anthropic.Anthropic(base_url=server.url, api_key="none", max_retries=0)


def ask(server, **kw):
    body = {"model": MODEL, "max_tokens": 8, "temperature": 0, "messages": HELLO, **kw}
    return server.http.post("/v1/messages", json=body)


def words(server, **kw):
    r = ask(server, **kw)
    assert r.status_code == 200, r.text
    return r.json()


def test_whole(server, client):
    m = client.messages.create(model=MODEL, max_tokens=12, messages=HELLO, **GREEDY)
    assert m.id.startswith("msg_") and m.type == "message" and m.role == "assistant"
    assert m.stop_reason == "max_tokens" and m.stop_sequence is None
    assert [b.type for b in m.content] == ["text"]
    same = server.chat("Say hello.", max_tokens=12).json()
    assert m.content[0].text == same["choices"][0]["message"]["content"]
    u = m.usage
    assert u.input_tokens + u.cache_read_input_tokens == same["usage"]["prompt_tokens"]
    assert u.output_tokens == 12
    assert m.usage.sparing["path"] in ("light", "full")


def test_a_last_message_of_the_assistant_is_gone_on_with(server):
    talk = [{"role": "user", "content": "Write a rhyme."}, {"role": "assistant", "content": "Roses are red, violets"}]
    ours = words(server, messages=talk, max_tokens=12)
    chat = server.http.post("/v1/chat/completions", json={"messages": talk, "max_tokens": 12, "temperature": 0, "continue_final_message": True,
                                                          "add_generation_prompt": False}).json()
    assert ours["content"][0]["text"] == chat["choices"][0]["message"]["content"]
    assert ours["usage"]["input_tokens"] + ours["usage"]["cache_read_input_tokens"] == chat["usage"]["prompt_tokens"]


def test_the_stop_sequence_that_ended_it_is_named(server, client):
    text = words(server, max_tokens=24)["content"][0]["text"]
    stop = text[4:7]
    ours = words(server, max_tokens=24, stop_sequences=["never that", stop])
    assert (ours["stop_reason"], ours["stop_sequence"]) == ("stop_sequence", stop)
    assert ours["content"][0]["text"] == text[:text.index(stop)]
    with client.messages.stream(model=MODEL, max_tokens=24, messages=HELLO, stop_sequences=[stop], **GREEDY) as s:
        last = s.get_final_message()
    assert (last.stop_reason, last.stop_sequence) == ("stop_sequence", stop)


def test_stream_says_the_same(client):
    kw = dict(model=MODEL, max_tokens=16, messages=HELLO, **GREEDY)
    whole = client.messages.create(**kw)
    with client.messages.stream(**kw) as s:
        kinds = [e.type for e in s]
        last = s.get_final_message()
    assert [b.model_dump() for b in last.content] == [b.model_dump() for b in whole.content]
    assert last.stop_reason == whole.stop_reason
    assert last.usage.output_tokens == whole.usage.output_tokens
    assert last.usage.input_tokens + last.usage.cache_read_input_tokens == \
        whole.usage.input_tokens + whole.usage.cache_read_input_tokens
    assert kinds[0] == "message_start" and kinds[-1] == "message_stop"
    order = [k for k in kinds if k.startswith("content_block_") or k == "message_delta"]
    assert order[0] == "content_block_start" and order[-2:] == ["content_block_stop", "message_delta"]


def test_raw_events_are_named(server):
    r = ask(server, stream=True)
    assert r.headers["content-type"].startswith("text/event-stream")
    for block in r.text.strip().split("\n\n"):
        if block.startswith(":"):
            continue
        name, data = block.split("\n")
        assert name == "event: " + json.loads(data.removeprefix("data: "))["type"]


def test_system_and_blocks(server):
    long = "Be kind, and " * 40
    plain = words(server, system=f"Be short.\n\n{long}")
    blocks = words(server, system=[{"type": "text", "text": "Be short.", "cache_control": {"type": "ephemeral"}},
                                   {"type": "text", "text": long}],
                   messages=[{"role": "user", "content": [{"type": "text", "text": "Say hello.", "cache_control": {"type": "ephemeral"}}]}])
    assert blocks["content"] == plain["content"]
    assert blocks["usage"]["cache_read_input_tokens"] > 0
    assert "messages[].content[].cache_control" in blocks["usage"]["sparing"]["ignored"]


def test_turns_of_one_side_are_one(server):
    one = words(server, messages=[{"role": "user", "content": "Say hello.\n\nNow."}])
    two = words(server, messages=[{"role": "user", "content": "Say hello."}, {"role": "user", "content": "Now."}])
    assert one["content"] == two["content"]


def test_system_in_the_middle(server):
    r = words(server, messages=[*HELLO, {"role": "system", "content": "Be kind."}, {"role": "user", "content": "Go on."}])
    assert r["role"] == "assistant"


def test_answers_come_back_whole(client):
    first = client.messages.create(model=MODEL, max_tokens=8, messages=HELLO, **GREEDY)
    for back in ({"role": "assistant", "content": first.content}, first.model_dump()):
        again = client.messages.create(model=MODEL, max_tokens=8, messages=[*HELLO, back, {"role": "user", "content": "More."}])
        assert again.usage.output_tokens > 0


def test_history_of_tools(server):
    call = {"type": "tool_use", "id": "toolu_1", "name": "look", "input": {"path": "a"}}
    for result in ("text", [{"type": "text", "text": "one"}, {"type": "text", "text": "two"}], None):
        block = {"type": "tool_result", "tool_use_id": "toolu_1", "content": result, "is_error": result == "text"}
        r = words(server, messages=[*HELLO, {"role": "assistant", "content": [{"type": "thinking", "thinking": "Hm.", "signature": ""}, call]},
                                    {"role": "user", "content": [block, {"type": "text", "text": "Go on."}]}])
        assert r["usage"]["input_tokens"] + r["usage"]["cache_read_input_tokens"] > 10


def test_count_tokens(server, client):
    n = client.messages.count_tokens(model=MODEL, messages=HELLO, system="Be short.").input_tokens
    m = client.messages.create(model=MODEL, max_tokens=1, messages=HELLO, system="Be short.")
    assert n == m.usage.input_tokens + m.usage.cache_read_input_tokens
    assert server.http.post("/v1/messages/count_tokens", json={"messages": []}).json()["error"]["type"] == "invalid_request_error"


def test_parameters_that_clients_send(server):
    r = words(server, metadata={"user_id": "u"}, thinking={"type": "adaptive"}, context_management={"edits": []}, output_config={"effort": "high"},
              service_tier="auto", top_k=5, top_p=0.9)
    ignored = r["usage"]["sparing"]["ignored"]
    assert {"metadata", "context_management", "service_tier"} <= set(ignored)
    for thinking in ({"type": "disabled"}, {"type": "enabled", "budget_tokens": 1024, "display": "omitted"}):
        words(server, thinking=thinking)


def test_format(server):
    schema = {"type": "object", "properties": {"a": {"type": "boolean"}}, "required": ["a"], "additionalProperties": False}
    r = words(server, max_tokens=40, output_config={"format": {"type": "json_schema", "schema": schema}})
    assert set(json.loads(r["content"][0]["text"])) == {"a"}


@pytest.mark.parametrize("change, says", [
    ({"messages": []}, "messages"),
    ({"messages": "x"}, "messages"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "messages.0.role"),
    ({"messages": [{"role": "user", "content": [{"type": "image", "source": {}}]}]}, "vision encoder"),
    ({"messages": [{"role": "user", "content": [{"type": "document", "source": {}}]}]}, "file_search"),
    ({"messages": [{"role": "user", "content": [{"type": "text"}]}]}, "messages.0.content.0: text"),
    ({"messages": [{"role": "user", "content": [{"type": "what"}]}]}, "what"),
    ({"messages": [{"role": "user", "content": [{"type": "tool_result"}]}]}, "tool_use_id"),
    ({"messages": [{"role": "assistant", "content": [{"type": "tool_use", "id": "a", "name": "b", "input": []}]}]}, "input"),
    ({"messages": [{"role": "user", "content": "x", "colour": 1}]}, "colour"),
    ({"system": 5}, "system"),
    ({"system": [{"type": "image"}]}, "system.0"),
    ({"stop_sequences": "x"}, "stop_sequences"),
    ({"thinking": {"type": "some"}}, "thinking.type"),
    ({"max_tokens": 0}, "max_tokens"),
    ({"colour": 1}, "colour"),
])
def test_errors_have_its_shape(server, change, says):
    r = ask(server, **change)
    assert r.status_code == 400
    assert r.json()["type"] == "error" and r.json()["error"]["type"] == "invalid_request_error"
    assert says in r.json()["error"]["message"]


def test_a_thread_is_refused_so_that_clients_go_on_without(server):
    r = ask(server, thread={"type": "create"})
    assert r.status_code == 400 and r.json()["error"]["details"] == {"error_code": "thread_unsupported_request", "unsupported": ["thread"]}


def test_errors_by_status(server, client):
    with pytest.raises(anthropic.NotFoundError) as e:
        client.messages.create(model="another", max_tokens=4, messages=HELLO)
    assert e.value.body["error"]["type"] == "not_found_error"
    with pytest.raises(anthropic.BadRequestError) as e:
        client.messages.create(model=MODEL, max_tokens=4, messages=[{"role": "user", "content": "word " * 9000}])
    assert "tokens" in e.value.body["error"]["message"]
    assert server.http.get("/v1/messages").json()["type"] == "error"  # 405
    assert server.http.post("/v1/messages?alpha=1", json={}).json()["type"] == "error"


@pytest.mark.parametrize("path,shape", [("/v1/messages", lambda j: j["type"] == "error" and j["error"]["type"] == "request_too_large"),
                                        ("/api/show", lambda j: isinstance(j["error"], str)), ("/v1/embeddings", lambda j: j["error"]["code"] == "body_too_large")],
                         ids=["anthropic", "ollama", "openai"])
def test_what_is_refused_by_its_head_has_the_shape_of_its_path(server, path, shape):
    """A body that is too long is refused before it is read."""
    with socket.create_connection(("127.0.0.1", server.port)) as s:
        s.sendall(f"POST {path} HTTP/1.1\r\nHost: 127.0.0.1\r\nContent-Type: application/json\r\nContent-Length: {1 << 40}\r\n\r\n".encode())
        answer = b""
        while more := s.recv(65536):
            answer += more
    head, body = answer.split(b"\r\n\r\n", 1)
    assert b" 413 " in head.splitlines()[0] and shape(json.loads(body))
    assert (b"\r\nRequest-Id:" in head) == (path == "/v1/messages")


def test_head_and_beta(server):
    assert server.http.head("/").status_code == 200
    assert server.http.head("/v1/messages").status_code == 200
    r = server.http.post("/v1/messages?beta=true", json={"max_tokens": 2, "messages": HELLO},
                         headers={"x-api-key": "k", "anthropic-version": "2023-06-01", "anthropic-beta": "a,b"})
    assert r.status_code == 200 and r.headers["request-id"]


def test_keys(make_server, tmp_path):
    from conftest import write_keys
    s = make_server("--keys", write_keys(tmp_path / "keys", {"secret": "a"}))
    with pytest.raises(anthropic.AuthenticationError) as e:
        anthropic.Anthropic(base_url=s.url, api_key="wrong", max_retries=0).messages.create(model=MODEL, max_tokens=2, messages=HELLO)
    assert e.value.body["error"]["type"] == "authentication_error"
    assert anthropic.Anthropic(base_url=s.url, api_key="secret").messages.create(model=MODEL, max_tokens=2, messages=HELLO).content


def agent(nonce, *more):
    """A request as a coding agent makes it: a billing header, a long system prompt, a reminder in the middle."""
    rules = "\n".join(f"{i}. Rule {i}: read the file before it is changed, and say what was changed in one sentence." for i in range(120))
    return {"model": MODEL, "max_tokens": 8, "temperature": 0,
            "system": [{"type": "text", "text": f"x-anthropic-billing-header: version=2; nonce={nonce};"},
                       {"type": "text", "text": "You work on code.", "cache_control": {"type": "ephemeral"}},
                       {"type": "text", "text": rules, "cache_control": {"type": "ephemeral"}}],
            "messages": [{"role": "user", "content": [{"type": "text", "text": "<reminder>Today is Monday.</reminder>"},
                                                      {"type": "text", "text": "Look into the file a.c."}]},
                         {"role": "system", "content": "The user reads short answers."}, *more],
            "metadata": {"user_id": "user_1"}, "thinking": {"type": "adaptive"}, "output_config": {"effort": "medium"}}


def test_second_turn_of_an_agent_is_cached(server):
    first = server.http.post("/v1/messages?beta=true", json=agent("one")).json()
    back = [{"role": "assistant", "content": first["content"]}, {"role": "user", "content": [{"type": "text", "text": "Go on."}]}]
    u = server.http.post("/v1/messages?beta=true", json=agent("two", *back)).json()["usage"]
    total = u["input_tokens"] + u["cache_read_input_tokens"]
    assert total > 2500 and u["cache_read_input_tokens"] >= 0.95 * total


TOOLS = [{"name": "look", "description": "Reads a file.", "input_schema": {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "properties": {"path": {"type": "string"}},
                                                                         "required": ["path"], "additionalProperties": False}, "cache_control": {"type": "ephemeral"}},
         {"type": "web_search_20250305", "name": "web_search"}]


def test_a_tool_loop(make_server):
    """What the model says is scripted (test/tool/script.c)."""
    s = make_server("--path", "full", binary=tool("script"))
    c = anthropic.Anthropic(base_url=s.url, api_key="none", max_retries=0)
    say = '[[say]]<tool_call>\n{"name": "look", "arguments": {"path": "a.c"}}\n</tool_call>[[/say]]'
    first = {"role": "user", "content": say}
    m = c.messages.create(model=MODEL, max_tokens=60, messages=[first], tools=TOOLS, **GREEDY)
    [use] = [b for b in m.content if b.type == "tool_use"]
    assert m.stop_reason == "tool_use" and use.name == "look" and use.input == {"path": "a.c"} and use.id
    assert "tools: web_search_20250305" in m.usage.sparing["ignored"]
    with c.messages.stream(model=MODEL, max_tokens=60, messages=[first], tools=TOOLS, **GREEDY) as stream:
        same = stream.get_final_message()
    assert [(b.name, b.input) for b in same.content if b.type == "tool_use"] == [("look", {"path": "a.c"})] and same.stop_reason == "tool_use"
    result = {"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": "int a; [[say]]It is a.[[/say]]"}]}
    m = c.messages.create(model=MODEL, max_tokens=60, messages=[first, {"role": "assistant", "content": m.content}, {"role": "user", "content": [result]}], tools=TOOLS, **GREEDY)
    assert m.content[0].text == "It is a." and m.stop_reason == "end_turn"
    for bad in ([{"name": "a b"}], [{"name": "a"}, {"name": "a"}], "x"):
        assert s.http.post("/v1/messages", json={"max_tokens": 1, "messages": HELLO, "tools": bad}).json()["error"]["type"] == "invalid_request_error"
