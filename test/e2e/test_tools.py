"""Function tools in chat, through the openai client. What the model says is scripted (test/tool/script.c): it stands in the prompt."""
import json

import openai
import pytest

from conftest import MODEL, ROOT, Server, tool
from ggufs import Gguf, one_layer

WEATHER = {"type": "function", "function": {"name": "get_weather", "description": "Weather of a city.", "parameters": {
    "type": "object", "properties": {"city": {"type": "string", "enum": ["Paris", "Rome"]}, "days": {"type": "integer"}}, "required": ["city"], "additionalProperties": False}}}
CLOCK = {"type": "function", "function": {"name": "get_time", "description": "The time.", "parameters": {"type": "object", "properties": {}}}}
TOOLS = [WEATHER, CLOCK]


def call(name, arguments):
    return f'<tool_call>\n{{"name": "{name}", "arguments": {json.dumps(arguments)}}}\n</tool_call>'


def say(text, before=""):
    """A message that makes the model say this."""
    return f"{before}[[say]]{text}[[/say]]"


@pytest.fixture(scope="module")
def scripted():
    s = Server("--path", "full", binary=tool("script"))
    yield s
    assert s.stop() == 0


@pytest.fixture(scope="module")
def client(scripted):
    return openai.OpenAI(base_url=scripted.url + "/v1", api_key="none", max_retries=0, timeout=600)


def ask(client, messages, **kw):
    model = client.models.list().data[0].id
    return client.chat.completions.create(model=model, messages=messages, **{"tools": TOOLS, "temperature": 0, "max_tokens": 80, **kw})


def user(text):
    return {"role": "user", "content": text}


PARIS = call("get_weather", {"city": "Paris", "days": 2})


def test_the_script_speaks(client):
    r = ask(client, [user(say("Just this. Ünïcode, too."))], tools=openai.NOT_GIVEN)
    assert r.choices[0].message.content == "Just this. Ünïcode, too." and r.choices[0].finish_reason == "stop"


def test_a_tool_loop(client):
    messages = [user(say(PARIS, "Weather in Paris? "))]
    c = ask(client, messages).choices[0]
    assert c.finish_reason == "tool_calls" and c.message.content is None
    [t] = c.message.tool_calls
    assert t.type == "function" and t.id and t.function.name == "get_weather" and json.loads(t.function.arguments) == {"city": "Paris", "days": 2}
    messages += [c.message, {"role": "tool", "tool_call_id": t.id, "content": say("It is sunny.", "sunny ")}]
    c = ask(client, messages).choices[0]
    assert c.finish_reason == "stop" and c.message.content == "It is sunny." and not c.message.tool_calls


def collect(stream):
    """A stream's deltas put together: text, calls by index, finish reason."""
    text, calls, finish = "", {}, None
    for chunk in stream:
        if not chunk.choices:
            continue
        d = chunk.choices[0].delta
        text += d.content or ""
        for t in d.tool_calls or []:
            if t.id:
                assert t.index not in calls and t.type == "function"
                calls[t.index] = {"id": t.id, "name": t.function.name, "arguments": ""}
            calls[t.index]["arguments"] += t.function.arguments or ""
        finish = chunk.choices[0].finish_reason or finish
    return text, [calls[i] for i in sorted(calls)], finish


def test_a_streamed_tool_loop(client):
    messages = [user(say("I look. " + PARIS, "Weather? "))]
    text, calls, finish = collect(ask(client, messages, stream=True))
    assert text.strip() == "I look." and finish == "tool_calls" and len(calls) == 1
    assert calls[0]["name"] == "get_weather" and json.loads(calls[0]["arguments"]) == {"city": "Paris", "days": 2}
    messages += [{"role": "assistant", "content": text, "tool_calls": [{"id": c["id"], "type": "function", "function": {"name": c["name"], "arguments": c["arguments"]}} for c in calls]},
                 {"role": "tool", "tool_call_id": calls[0]["id"], "content": [{"type": "text", "text": "sunny "}, {"type": "text", "text": say("Sunny it is.")}]}]
    assert collect(ask(client, messages, stream=True)) == ("Sunny it is.", [], "stop")


def test_arguments_stream_in_pieces(client):
    """A delta for a token, not one for the call."""
    stream = ask(client, [user(say(PARIS))], stream=True)
    pieces = [t for ch in stream if ch.choices for t in ch.choices[0].delta.tool_calls or []]
    assert len(pieces) > 4 and pieces[0].function.name == "get_weather" and all(p.index == 0 for p in pieces)


def test_several_calls(client):
    c = ask(client, [user(say(PARIS + "\n" + call("get_time", {})))]).choices[0]
    assert [t.function.name for t in c.message.tool_calls] == ["get_weather", "get_time"] and c.finish_reason == "tool_calls"
    assert len({t.id for t in c.message.tool_calls}) == 2


def test_a_message_comes_back_whole(client):
    """As the SDK's object, as its dump, and with content null or absent."""
    first = user(say(PARIS))
    m = ask(client, [first]).choices[0].message
    results = {"role": "tool", "tool_call_id": m.tool_calls[0].id, "content": say("Done.")}
    for back in (m, m.model_dump(), m.model_dump(exclude_none=True), {k: v for k, v in m.model_dump().items() if k in ("role", "content", "tool_calls")}):
        assert ask(client, [first, back, results]).choices[0].message.content == "Done."


def test_none_tells_of_no_tool(scripted, client):
    with_tools = ask(client, [user(say("Hm."))])
    without = ask(client, [user(say("Hm."))], tool_choice="none")
    assert without.usage.prompt_tokens < with_tools.usage.prompt_tokens - 50 and without.choices[0].message.content == "Hm."
    c = ask(client, [user(say(PARIS))], tool_choice="none").choices[0]
    assert c.finish_reason == "stop" and not c.message.tool_calls and "get_weather" in c.message.content


# --- what must come, and what a grammar holds ---------------------------------------------------------------------------

def arguments(c):
    return [(t.function.name, json.loads(t.function.arguments)) for t in c.message.tool_calls]


def test_a_call_that_must_come(client):
    """The model would rather talk, or call otherwise: the name is one of the tools', arguments are valid, and the prompt begins the call."""
    for choice, names in (("required", {"get_weather", "get_time"}), ({"type": "function", "function": {"name": "get_weather"}}, {"get_weather"})):
        c = ask(client, [user(say("No."))], tool_choice=choice, parallel_tool_calls=False).choices[0]
        [(name, args)] = arguments(c)
        assert name in names and (name == "get_time" or args["city"] in ("Paris", "Rome")) and c.finish_reason == "tool_calls" and not c.message.content


def test_the_one_that_must_come_is_scripted(client):
    """What the model says goes on where the prompt has begun the call."""
    c = ask(client, [user(say('get_weather", "arguments": {"city": "Rome"}}\n</tool_call>'))], tool_choice="required").choices[0]
    assert arguments(c) == [("get_weather", {"city": "Rome"})] and c.finish_reason == "tool_calls"
    two = 'get_time", "arguments": {}}\n</tool_call>\n' + PARIS
    assert arguments(ask(client, [user(say(two))], tool_choice="required").choices[0]) == [("get_time", {}), ("get_weather", {"city": "Paris", "days": 2})]
    assert arguments(ask(client, [user(say(two))], tool_choice="required", parallel_tool_calls=False).choices[0]) == [("get_time", {})]
    named = {"type": "function", "function": {"name": "get_weather"}}
    assert arguments(ask(client, [user(say('{"city": "Rome", "days": 1}}'))], tool_choice=named).choices[0]) == [("get_weather", {"city": "Rome", "days": 1})]


def test_a_call_of_the_models_own_is_held_to_its_schema(client):
    """Berlin is no city of the schema, and the number would have been a text."""
    c = ask(client, [user(say(call("get_weather", {"city": "Berlin", "days": "x"})))], max_tokens=60).choices[0]
    if c.finish_reason == "tool_calls":
        for name, args in arguments(c):
            assert name == "get_weather" and args["city"] in ("Paris", "Rome") and isinstance(args.get("days", 0), int)
    assert c.message.tool_calls[0].function.arguments.startswith(('{"city": "Paris"', '{"city": "Rome"', '{"city":"Paris"', '{"city":"Rome"'))


def test_one_call_at_a_time(client):
    both = say(PARIS + "\n" + call("get_time", {}))
    assert [t.function.name for t in ask(client, [user(both)], parallel_tool_calls=False).choices[0].message.tool_calls] == ["get_weather"]


def test_text_is_free_before_a_call(client):
    c = ask(client, [user(say("<b>Let me {see}.</b> " + PARIS))]).choices[0]
    assert c.message.content.strip() == "<b>Let me {see}.</b>" and len(c.message.tool_calls) == 1


FORM = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": {
    "type": "object", "properties": {"a": {"type": "string", "maxLength": 90}, "city": {"type": "string", "enum": ["Oslo"]}}, "required": ["a"]}}}}


def is_form(c):
    got = json.loads(c.message.content)
    return isinstance(got["a"], str) and set(got) <= {"a", "city"} and not c.message.tool_calls and c.finish_reason == "stop"


def test_a_form_where_a_call_must_come_or_none_can(client):
    named = {"tool_choice": {"type": "function", "function": {"name": "get_weather"}}}
    c = ask(client, [user(say('{"city": "Rome", "days": 1}}'))], **FORM, **named).choices[0]
    assert arguments(c) == [("get_weather", {"city": "Rome", "days": 1})]
    c = ask(client, [user(say('{"a": "b"}'))], **FORM, tool_choice="none").choices[0]
    assert json.loads(c.message.content) == {"a": "b"} and is_form(c)


def test_a_form_or_calls(client):
    """The model answers in the form or calls, and nothing else; in a stream too."""
    c = ask(client, [user(say('{"a": "b", "city": "Oslo"}'))], **FORM).choices[0]
    assert is_form(c) and json.loads(c.message.content) == {"a": "b", "city": "Oslo"}
    for text in (PARIS, "\n" + PARIS):
        c = ask(client, [user(say(text))], **FORM).choices[0]
        assert arguments(c) == [("get_weather", {"city": "Paris", "days": 2})] and c.message.content is None and c.finish_reason == "tool_calls"
    both = [user(say(PARIS + "\n" + call("get_time", {})))]
    assert [n for n, _ in arguments(ask(client, both, **FORM).choices[0])] == ["get_weather", "get_time"]
    assert [n for n, _ in arguments(ask(client, both, **FORM, parallel_tool_calls=False).choices[0])] == ["get_weather"]
    text, calls, finish = collect(ask(client, both, **FORM, stream=True))
    assert text == "" and [t["name"] for t in calls] == ["get_weather", "get_time"] and finish == "tool_calls"
    assert collect(ask(client, [user(say('{"a": "b"}'))], **FORM, stream=True)) == ('{"a": "b"}', [], "stop")
    json_object = {"response_format": {"type": "json_object"}}
    assert ask(client, [user(say('{"x": [1]}'))], **json_object).choices[0].message.content == '{"x": [1]}'
    assert len(arguments(ask(client, [user(say(PARIS))], **json_object).choices[0])) == 1


def test_neither_a_form_nor_a_call_is_not_said(client):
    for text in ("Hello.", "I look. " + PARIS, '{"b": 1}', "<tool_cart>", call("get_weather", {"city": "Berlin"})):
        c = ask(client, [user(say(text))], **FORM, max_tokens=400, parallel_tool_calls=False).choices[0]
        assert all(args["city"] in ("Paris", "Rome") for n, args in arguments(c) if n == "get_weather") if c.message.tool_calls else is_form(c)


def test_a_call_s_text_inside_a_form_is_text(client):
    c = ask(client, [user(say(json.dumps({"a": PARIS[:60]})))], **FORM).choices[0]
    assert is_form(c) and json.loads(c.message.content)["a"] == PARIS[:60]


# Formats with control tokens, which a vocabulary of its own has in the place of tokens that nothing uses: a template's file, calls as it writes them,
# what stands before a form, and how thoughts end.
def deepseek(calls):
    one = "<｜tool▁call▁begin｜>function<｜tool▁sep｜>%s\n```json\n%s\n```<｜tool▁call▁end｜>"
    return "<｜tool▁calls▁begin｜>" + "\n".join(one % (n, json.dumps(a)) for n, a in calls) + "<｜tool▁calls▁end｜>"


def kimi(calls):
    one = "<|tool_call_begin|>functions.%s:0<|tool_call_argument_begin|>%s<|tool_call_end|>"
    return "<|tool_calls_section_begin|>" + "".join(one % (n, json.dumps(a)) for n, a in calls) + "<|tool_calls_section_end|>"


def harmony(calls):
    return "<|channel|>commentary to=functions.%s <|constrain|>json<|message|>%s<|call|>" % (calls[0][0], json.dumps(calls[0][1]))


MARKED = {"deepseek": ("llama-cpp-deepseek-r1", deepseek, "", "Hm.\n</think>\n\n"), "kimi": ("Kimi-K2-Instruct", kimi, "", None),
          "harmony": ("openai-gpt-oss-120b", harmony, "<|channel|>final<|message|>", "<|channel|>analysis<|message|>Hm.<|end|><|start|>assistant")}
MARKS = {"deepseek": ["<think>", "</think>", "<｜User｜>", "<｜Assistant｜>", "<｜tool▁calls▁begin｜>", "<｜tool▁calls▁end｜>", "<｜tool▁call▁begin｜>", "<｜tool▁sep｜>", "<｜tool▁call▁end｜>"],
         "kimi": ["<|tool_calls_section_begin|>", "<|tool_calls_section_end|>", "<|tool_call_begin|>", "<|tool_call_argument_begin|>", "<|tool_call_end|>", "<|im_middle|>"],
         "harmony": ["<|start|>", "<|channel|>", "<|message|>", "<|end|>", "<|call|>", "<|return|>", "<|constrain|>"]}
ROME = [("get_weather", {"city": "Rome", "days": 1})]


@pytest.fixture(scope="module", params=sorted(MARKED))
def marked(request, tmp_path_factory):
    name, template = request.param, MARKED[request.param][0]
    path = one_layer(MODEL, tmp_path_factory.mktemp(name) / f"{name}.gguf")
    g = Gguf(path)
    tokens = g.keys["tokenizer.ggml.tokens"][1][1]
    tokens[3:3 + len(MARKS[name])] = MARKS[name]
    g.write(path)
    s = Server("-m", str(path), "--path", "full", "--chat-template", str(ROOT / f"models/templates/{template}.jinja"), binary=tool("script"))
    s.name, s.write, s.head, s.thought = name, *MARKED[name][1:]
    yield s
    assert s.stop() == 0


@pytest.fixture
def marked_client(marked):
    return openai.OpenAI(base_url=marked.url + "/v1", api_key="none", max_retries=0, timeout=600)


def test_calls_between_control_tokens(marked, marked_client):
    """A call of the model's own, one that is held to its schema, several, and one that must come."""
    before = "</think>" if marked.name == "deepseek" else ""
    c = ask(marked_client, [user(say(before + marked.write(ROME)))]).choices[0]
    assert arguments(c) == ROME and c.finish_reason == "tool_calls"
    two = [("get_time", {}), ("get_weather", {"city": "Berlin"})]
    if marked.name != "harmony":
        c = ask(marked_client, [user(say(before + marked.write(ROME + two[:1])))]).choices[0]
        assert arguments(c) == ROME + two[:1] and c.finish_reason == "tool_calls"
    c = ask(marked_client, [user(say(before + marked.write(two[-1:] if marked.name == "harmony" else two)))], max_tokens=200).choices[0]
    last = c.message.tool_calls[-1].function  # the model may count days for ever
    assert last.name == "get_weather" and last.arguments.startswith(('{"city": "Paris"', '{"city": "Rome"')), last
    c = ask(marked_client, [user(say("No."))], tool_choice="required", parallel_tool_calls=False, max_tokens=200).choices[0]
    assert len(c.message.tool_calls) == 1 and c.message.tool_calls[0].function.name in ("get_weather", "get_time") and c.message.content is None


def test_a_form_or_calls_between_control_tokens(marked, marked_client):
    before = "</think>" if marked.name == "deepseek" else ""
    c = ask(marked_client, [user(say(before + marked.write(ROME)))], **FORM).choices[0]
    assert arguments(c) == ROME and c.message.content is None
    c = ask(marked_client, [user(say(before + marked.head + '{"a": "b"}'))], **FORM).choices[0]
    assert is_form(c) and json.loads(c.message.content) == {"a": "b"}
    for tools in ({}, {"tools": openai.NOT_GIVEN}):
        c = ask(marked_client, [user(say("Hello."))], **FORM, **tools, max_tokens=600, extra_body={"sparing": {"think_tokens": 20}}).choices[0]
        assert c.message.tool_calls or is_form(c)


def test_thoughts_come_before_a_form(marked, marked_client):
    """They are free, and no part of the form."""
    if marked.name != "deepseek":
        return
    c = ask(marked_client, [user(say(marked.thought.rstrip() + '{"a": "b"}'))], **FORM, tools=openai.NOT_GIVEN, extra_body={"sparing": {"think_tokens": 30}}).choices[0]
    assert c.message.reasoning_content.strip() == "Hm." and is_form(c) and json.loads(c.message.content) == {"a": "b"}
    c = ask(marked_client, [user(say(marked.thought + marked.write(ROME)))], **FORM, extra_body={"sparing": {"think_tokens": 30}}).choices[0]
    assert c.message.reasoning_content.strip() == "Hm." and arguments(c) == ROME


def test_strict_refuses_what_it_cannot_hold_to(scripted):
    f = {"name": "f", "parameters": {"type": "object", "properties": {"a": {"not": {"type": "null"}}}}}
    body = {"messages": [user("x")], "max_tokens": 1}
    r = scripted.http.post("/v1/chat/completions", json={**body, "tools": [{"type": "function", "function": {**f, "strict": True}}]})
    assert r.status_code == 400 and "not" in r.json()["error"]["message"] and r.json()["error"]["param"] == "tools"
    r = scripted.http.post("/v1/chat/completions", json={**body, "tools": [{"type": "function", "function": f}]})
    assert r.status_code == 200 and "not" in r.json()["usage"]["sparing"]["not_enforced"]


@pytest.mark.parametrize("body,says", [
    ({"tools": [{"type": "function", "function": {"name": "a b"}}]}, "tools[0]"), ({"tools": [CLOCK, CLOCK]}, "tools[1]"),
    ({"tools": [{"type": "function", "function": {"name": "f", "parameters": 3}}]}, "parameters"), ({"tools": [{"type": "web_search"}]}, "tools[0]"),
    ({"tool_choice": {"type": "function", "function": {"name": "nope"}}}, "nope"), ({"tools": [], "tool_choice": "required"}, "tool_choice"),
    ({"messages": [{"role": "tool", "content": "x"}]}, "tool_call_id"), ({"messages": [{"role": "assistant", "tool_calls": [{"function": {}}]}]}, "tool_calls[0]"),
    ({"messages": [{"role": "user", "content": "x", "tool_calls": [{"id": "a", "function": {"name": "f"}}]}]}, "assistant")], ids=str)
def test_what_is_wrong_is_named(scripted, body, says):
    r = scripted.http.post("/v1/chat/completions", json={"messages": [user("x")], "tools": TOOLS, "max_tokens": 1, **body})
    assert r.status_code == 400 and says in r.json()["error"]["message"], r.text
