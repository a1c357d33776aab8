"""The tool loops of coding agents: requests in the shape and the size that they send, with words of our own, to a scripted model of one layer.

What is looked at: the call arrives, its result is taken, and the second turn finds at least 95 % of its tokens in the cache. Codex's loop stands in
test_responses.py. Sizes are those that were recorded of the agents' own first requests, in tokens of theirs by length / 4."""
import json

import anthropic
import openai
import pytest

from conftest import MODEL, PATIENCE, ROOT, Server, tool
from ggufs import one_layer

TEXT = (ROOT / "test/data/licences.txt").read_text()
CALL = '<tool_call>\n{"name": "tool_1", "arguments": {"path": "a.c"}}\n</tool_call>'
ASKED = f"Read a.c. [[say]]I look.\n{CALL}[[/say]]"
RESULT, ANSWER = "int a; [[say]]It holds a number.[[/say]]", "It holds a number."


@pytest.fixture(scope="module")
def agents(tmp_path_factory):
    path = one_layer(MODEL, tmp_path_factory.mktemp("agents") / MODEL.name, 32768)
    s = Server("-m", str(path), "--path", "full", binary=tool("script"))
    yield s
    assert s.stop() == 0


def words(at, n_tok):
    """About so many tokens of prose."""
    return (TEXT * 4)[at:at + 4 * n_tok]


def schema(i, more=None):
    return {"$schema": "https://json-schema.org/draft/2020-12/schema", "type": "object", "additionalProperties": False, "required": ["path"], "properties": {
        "path": {"type": "string", "minLength": 1, "description": words(100 * i, 20)}, "limit": {"type": "integer", "exclusiveMinimum": 0, "maximum": 2000, "default": 200},
        "mode": {"type": "string", "enum": ["read", "write"]}, **(more or {})}}


def functions(n, n_tok):
    return [{"type": "function", "function": {"name": f"tool_{i}", "description": words(700 * i, n_tok), "parameters": schema(i)}} for i in range(n)]


def opencode(*more):
    return {"messages": [{"role": "system", "content": words(0, 5000)}, {"role": "user", "content": ASKED}, *more], "tools": functions(10, 150), "tool_choice": "auto",
            "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 200}, {"content": "", "result": RESULT, "tokens": 6000}


def cline(*more):
    return {"messages": [{"role": "system", "content": words(50, 8000)}, {"role": "user", "content": [{"type": "text", "text": ASKED}, {"type": "text", "text": words(9000, 300)}]}, *more],
            "tools": functions(12, 120), "tool_choice": "auto", "stream": True, "stream_options": {"include_usage": True}, "temperature": 0, "max_tokens": 200}, \
        {"content": "I look.", "result": RESULT, "tokens": 8500}


def cont(*more):
    return {"messages": [{"role": "system", "content": words(90, 700)}, {"role": "user", "content": ASKED}, *more], "tools": functions(6, 80), "stream": True,
            "stream_options": {"include_usage": True}, "parallel_tool_calls": False, "max_tokens": 200}, {"content": "I look.", "result": RESULT, "tokens": 1300}


def qwen_code(*more):
    return {"messages": [{"role": "system", "content": words(130, 11000)}, {"role": "user", "content": [{"type": "text", "text": ASKED}]}, *more], "tools": functions(16, 250),
            "stream": True, "stream_options": {"include_usage": True}, "max_tokens": 8000, "metadata": {"session": "1"}}, \
        {"content": None, "result": [{"type": "text", "text": RESULT}], "tokens": 15000}


def run_chat(client, body):
    """Text, calls and usage of a streamed answer, put together as a client does."""
    text, calls, usage = "", {}, None
    for chunk in client.chat.completions.create(model=MODEL.stem, **body):
        usage = chunk.usage or usage
        for c in chunk.choices:
            text += c.delta.content or ""
            for t in c.delta.tool_calls or []:
                if t.id:
                    calls[t.index] = {"id": t.id, "type": "function", "function": {"name": t.function.name, "arguments": ""}}
                calls[t.index]["function"]["arguments"] += t.function.arguments or ""
    return text, list(calls.values()), usage


@pytest.mark.parametrize("agent", [opencode, cline, cont, qwen_code], ids=lambda f: f.__name__)
def test_a_chat_agents_loop(agents, agent):
    client = openai.OpenAI(base_url=agents.url + "/v1", api_key="none", timeout=PATIENCE, max_retries=0)
    body, how = agent()
    text, [call], usage = run_chat(client, {**body, "temperature": 0})
    assert text.strip() == "I look." and call["function"]["name"] == "tool_1" and json.loads(call["function"]["arguments"]) == {"path": "a.c"}
    assert usage.prompt_tokens > how["tokens"]
    back = [{"role": "assistant", "content": how["content"], "tool_calls": [call]}, {"role": "tool", "tool_call_id": call["id"], "content": how["result"]}]
    text, calls, usage = run_chat(client, {**agent(*back)[0], "temperature": 0})
    assert text.strip() == ANSWER and calls == [] and usage.prompt_tokens_details.cached_tokens >= 0.95 * usage.prompt_tokens


def claude_code(nonce, *more):
    """A billing header that differs, blocks with cache_control, a system message in the middle, 24 tools with the words of their schemas."""
    mark = {"cache_control": {"type": "ephemeral"}}
    tools = [{"name": f"tool_{i}", "description": words(700 * i, 300), "input_schema": schema(i, {"also": {"anyOf": [{"type": "string", "format": "uri"}, {"type": "array", "maxItems": 4, "items": {"type": "string"}}]}})}
             for i in range(24)]
    return {"max_tokens": 32000, "thinking": {"type": "adaptive"}, "metadata": {"user_id": "user_1"}, "system": [
        {"type": "text", "text": f"x-anthropic-billing-header: cc_version=2; nonce={nonce};"}, {"type": "text", "text": "You work on code.", **mark}, {"type": "text", "text": words(40, 7000), **mark}],
        "messages": [{"role": "user", "content": [{"type": "text", "text": "<reminder>Today is Monday.</reminder>"}, {"type": "text", "text": ASKED, **mark}]},
                     {"role": "system", "content": "The user reads short answers. " + ASKED[len("Read a.c. "):]}, *more], "tools": tools}


def test_claude_codes_loop(agents):
    client = anthropic.Anthropic(base_url=agents.url, api_key="none", timeout=PATIENCE, max_retries=0)
    more = {"model": MODEL.stem, "extra_body": {"temperature": 0, "context_management": {"edits": []}, "output_config": {"effort": "medium"}}}
    with client.messages.stream(**claude_code("one"), **more) as s:
        first = s.get_final_message()
    [use] = [b for b in first.content if b.type == "tool_use"]
    u = first.usage
    assert first.stop_reason == "tool_use" and (use.name, use.input) == ("tool_1", {"path": "a.c"}) and u.input_tokens + u.cache_read_input_tokens > 15000
    back = [{"role": "assistant", "content": first.content},
            {"role": "user", "content": [{"type": "tool_result", "tool_use_id": use.id, "content": [{"type": "text", "text": RESULT}], "is_error": False, "cache_control": {"type": "ephemeral"}}]}]
    with client.messages.stream(**claude_code("two", *back), **more) as s:
        second = s.get_final_message()
    u = second.usage
    assert "".join(b.text for b in second.content).strip() == ANSWER and u.cache_read_input_tokens >= 0.95 * (u.input_tokens + u.cache_read_input_tokens)
