"""Conversations as the server gives them to a chat template: what a template cannot take is given to it in another form, and every
text of a request comes through whole."""
import json
import subprocess

import pytest

from conftest import BIN, MODEL, ROOT, tool

TEMPLATES = sorted((ROOT / "models" / "templates").glob("*.jinja"))
TOOLS = [{"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": {
    "type": "object", "required": ["place"], "properties": {"place": {"type": "string", "description": "A town"}, "days": {"type": "integer", "description": "n"}}}}}]


def call(arguments, ident="call_0a1b2c3d4e5f6071"):
    return {"id": ident, "type": "function", "function": {"name": "get_weather", "arguments": json.dumps(arguments)}}


def say(role, content, **more):
    return {"role": role, "content": content, **more}


def render(jobs):
    text = "".join(json.dumps(j) + "\n" for j in jobs)
    out = subprocess.run([tool("chat")], input=text, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def of(path, **ask):
    return {"template": path.read_text(), "add_answer": True, **ask}


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_every_text_comes_through(path):
    """With each of the 70 templates: system, tools, a call with arguments, its result, thoughts, a developer's message."""
    loop = [say("system", "Be terse, Otto."), say("user", "How is it in Bern?"),
            say("assistant", None, tool_calls=[call({"place": "Bern", "days": 3})]), say("tool", "Sunny, 20 degrees", tool_call_id="call_0a1b2c3d4e5f6071")]
    both = [*loop[:2], say("assistant", "I look.", reasoning_content="Ask the tool.", tool_calls=[call({"place": "Bern"})]), loop[3]]
    developer = [say("developer", "Be terse, Otto."), say("user", "Hello")]
    two = [loop[1], say("assistant", "", tool_calls=[call({"place": "Bern"}), call({"place": "Chur"}, "b")]), say("tool", "rain", tool_call_id="b"), say("tool", "snow", tool_call_id="call_0a1b2c3d4e5f6071")]
    got = render([of(path, messages=loop, tools=TOOLS), of(path, messages=both, tools=TOOLS), of(path, messages=developer), of(path, messages=two, tools=TOOLS)])
    for answer in got:
        assert "out" in answer, answer
    for word in ["Be terse, Otto.", "How is it in Bern?", "get_weather", "place", "days", "Bern", "3", "Sunny, 20 degrees", "The weather."]:
        assert word in got[0]["out"], (word, got[0])
    assert "'place'" not in got[0]["out"] and '\\"place\\"' not in got[0]["out"], got[0]
    assert "I look." in got[1]["out"]
    assert "Be terse, Otto." in got[2]["out"]
    for word in ["Bern", "Chur", "rain", "snow"]:
        assert word in got[3]["out"], (word, got[3])


CHATML = "{% for m in messages %}<|im_start|>{{ m.role }}\n{{ m.content | trim }}<|im_end|>\n{% endfor %}{% if add_generation_prompt %}<|im_start|>assistant\n{% endif %}"


def test_a_template_without_tools_gets_them_as_text():
    """Definitions, a call and its results of a template that knows nothing of tools; two results are one turn."""
    talk = [say("user", "How is it?"), say("assistant", "I look.", tool_calls=[call({"place": "Bern"}), call({"place": "Chur"})]), say("tool", "rain"), say("tool", "snow")]
    got = render([{"template": CHATML, "messages": talk, "tools": TOOLS}])[0]["out"]
    head, rest = got.split("<|im_start|>user\nHow is it?<|im_end|>\n")
    assert head.startswith("<|im_start|>system\n") and json.dumps(TOOLS) in head
    one = '<tool_call>\n{"name": "get_weather", "arguments": {"place": "%s"}}\n</tool_call>'
    assert rest == ("<|im_start|>assistant\nI look.\n" + one % "Bern" + "\n" + one % "Chur" + "<|im_end|>\n<|im_start|>user\n<tool_response>\nrain\n</tool_response>\n"
                    "<tool_response>\nsnow\n</tool_response><|im_end|>\n")


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_an_answer_goes_on(path):
    """The prompt ends with the last message's own text, spaces at its end included; a call cannot be gone on with."""
    talk = [say("user", "Say it."), say("assistant", "The answer is ")]
    got, refused = render([of(path, messages=talk, go_on=True), of(path, messages=[talk[0], say("assistant", "", tool_calls=[call({})])], tools=TOOLS, go_on=True)])
    assert got["out"].endswith("The answer is "), got
    assert "go on only with" in refused["error"]


def test_variables_of_a_request():
    template = "{{ enable_thinking }}|{{ thinking }}|{{ reasoning_effort }}|{{ deep }}|{{ bos_token is string }}|{{ messages | length }}"
    asks = [dict(think=True, effort="low"), dict(think=False), dict(kwargs={"deep": {"a": [1]}, "enable_thinking": "x", "messages": [1, 2, 3], "bos_token": 7}), dict(tools={"a": 1}), dict(kwargs=[1])]
    got = render([{"template": template, "messages": [say("user", "a")], **a} for a in asks])
    assert [g.get("out") for g in got[:3]] == ["True|True|low||True|1", "False|False|||True|1", "x|||{'a': [1]}|True|1"]
    assert "tools is not a JSON array" in got[3]["error"]
    assert "chat_template_kwargs is not a JSON object" in got[4]["error"]


@pytest.mark.parametrize("name,want", [
    ("chatml", "<|im_start|>system\nS<|im_end|>\n<|im_start|>user\nQ<|im_end|>\n<|im_start|>assistant\nA<|im_end|>\n<|im_start|>user\nR<|im_end|>\n<|im_start|>assistant\n"),
    ("llama3", "".join(f"<|start_header_id|>{r}<|end_header_id|>\n\n{c}<|eot_id|>" for r, c in [("system", "S"), ("user", "Q"), ("assistant", "A"), ("user", "R")])
     + "<|start_header_id|>assistant<|end_header_id|>\n\n"),
    ("llama2", "[INST] S\n\nQ [/INST] A [INST] R [/INST]"), ("mistral", "[INST] S\n\nQ [/INST] A[INST] R [/INST]"),
    ("gemma", "<start_of_turn>user\nS\n\nQ<end_of_turn>\n<start_of_turn>model\nA<end_of_turn>\n<start_of_turn>user\nR<end_of_turn>\n<start_of_turn>model\n"),
    ("phi3", "<|system|>\nS<|end|>\n<|user|>\nQ<|end|>\n<|assistant|>\nA<|end|>\n<|user|>\nR<|end|>\n<|assistant|>\n"),
    ("zephyr", "<|system|>\nS\n<|user|>\nQ\n<|assistant|>\nA\n<|user|>\nR\n<|assistant|>\n"), ("vicuna", "S\n\nUSER: Q\nASSISTANT: A\nUSER: R\nASSISTANT:"),
    ("alpaca", "S\n\n### Instruction:\nQ\n\n### Response:\nA\n\n### Instruction:\nR\n\n### Response:\n"),
])
def test_templates_by_name(name, want):
    talk = [say("system", "S"), say("user", "Q"), say("assistant", "A"), say("user", "R")]
    assert render([{"named": name, "messages": talk, "add_answer": True}])[0]["out"] == want


def prompt_tokens(s):
    r = s.chat()
    assert r.status_code == 200, r.text
    return r.json()["usage"]["prompt_tokens"]


def test_another_template_is_served(tmp_path, make_server):
    """A file or a name takes the place of the model's own; one that cannot be used or found is refused at the start."""
    path = tmp_path / "t.jinja"
    path.write_text("{{ 'x ' * 100 }}{{ messages[0].content }}")
    own, other, named = (prompt_tokens(make_server(*args)) for args in ((), ("--chat-template", str(path)), ("--chat-template", "chatml")))
    assert other > 100 > own > named
    path.write_text("{% foo %}")
    for value, why in ((str(path), "statement foo is not supported"), ("nosuch", "neither a file nor one of chatml,")):
        out = subprocess.run([BIN, "run", "-m", MODEL, "--chat-template", value, "x"], capture_output=True, text=True)
        assert out.returncode != 0 and "chat-template: " in out.stderr and why in out.stderr, out
