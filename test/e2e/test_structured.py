"""Structured prompts: parts as JSON and as tags, their budgets, life and epsilon, and `sparing prompt lint`."""
import json
import re

import pytest

from conftest import run

TASK, CONTEXT = "When did the quagga die out?", "The quagga lived in South Africa and died out in 1883."
YEAR = {"regex": "[0-9]{4}", "text": "Answer with the year."}


def ask(server, own, **kw):
    r = server.http.post("/v1/chat/completions", json={"temperature": 0, "max_tokens": 24, "sparing": own, **kw})
    return r.json()


def answer(r):
    return r["choices"][0]["message"]["content"]


def test_json_and_tags_are_one_prompt(server):
    as_json = ask(server, {"task": TASK, "context": CONTEXT, "output": YEAR})
    tags = f"<context>{CONTEXT}</context>\n<output>{json.dumps(YEAR)}</output> <task>\n{TASK}\n</task>"
    as_tags = ask(server, {"structured": True}, messages=[{"role": "user", "content": tags}])
    assert answer(as_json) == answer(as_tags) and re.fullmatch(YEAR["regex"], answer(as_json))
    assert as_json["usage"]["prompt_tokens"] == as_tags["usage"]["prompt_tokens"]
    assert as_tags["usage"]["prompt_tokens_details"]["context_tokens"] == as_json["usage"]["prompt_tokens_details"]["context_tokens"] > 8
    plain = server.chat(f"{TASK}\n\n{YEAR['text']}\n\nContext:\n{CONTEXT}", sparing={"regex": YEAR["regex"]}).json()
    assert plain["usage"]["prompt_tokens"] == as_json["usage"]["prompt_tokens"] and answer(plain) == answer(as_json)


def test_outputs(server):
    assert answer(ask(server, {"task": "Is the sky blue?", "output": {"choices": ["yes", "no"]}})) in ("yes", "no")
    j = json.loads(answer(ask(server, {"task": "Who?", "context": CONTEXT, "output": {"schema": {"type": "object", "properties": {"animal": {"enum": ["quagga", "dodo"]}}, "required": ["animal"]}}})))
    assert j["animal"] in ("quagga", "dodo")
    assert ask(server, {"task": "Count to a hundred.", "output": {"budget": 4}}, max_tokens=None)["usage"]["completion_tokens"] <= 4
    steps = ask(server, {"task": TASK, "steps": ["read", "look for a year"], "context": CONTEXT})["usage"]["prompt_tokens_details"]
    assert steps["steps_tokens"] >= 8
    # messages before the parts stay
    assert ask(server, {"task": "Yes?"}, messages=[{"role": "system", "content": "You are a bird."}])["usage"]["prompt_tokens"] > 10


def test_what_varies_comes_last(server):
    """Requests that differ in their context share the pages of the rest."""
    steps = [f"Step {i}: look at every word of the sentence, one after the other" for i in range(8)]
    first = ask(server, {"task": "Find the year.", "steps": steps, "context": "The dam was built in 1921."})
    second = ask(server, {"task": "Find the year.", "steps": steps, "context": "The mill burned down in 1874."})
    cost = second["usage"]["sparing"]["prompt_tokens"]
    assert cost["ram"] >= 96 and cost["computed"] < 64 and first["usage"]["sparing"]["prompt_tokens"]["computed"] > 130


def test_private_parts_leave_nothing(server):
    secret = "The code of the safe is 4417. " * 12
    cached = lambda life: ask(server, {"task": f"What is the code ({life})?", "context": {"text": secret, "life": life}})["usage"]["sparing"]["prompt_tokens"]["ram"]
    assert cached("keep") < 64 and cached("keep") > 96
    assert cached("none") < 64 and cached("none") < 64


def test_parts_have_their_epsilon(make_server):
    """The strictest one counts for all parts that have one; epsilon 0 keeps a part whole. The default is given: what is tried at start depends on the machine."""
    server = make_server("--epsilon-default", "0.02")
    text = "The sea was calm and the boats lay in the harbour. " * 60
    r = ask(server, {"task": {"text": "What lay in the harbour?", "epsilon": 0}, "context": {"text": text, "epsilon": 0.1}})["usage"]["sparing"]["attention"]
    assert r["epsilon"] == pytest.approx(0.1) and r["max_bound"] <= 0.1
    assert ask(server, {"task": {"text": "What?", "epsilon": 0.02}, "context": {"text": text, "epsilon": 0.1}})["usage"]["sparing"]["attention"]["epsilon"] == pytest.approx(0.02)
    assert ask(server, {"task": "What?", "context": {"text": text, "epsilon": 0}})["usage"]["sparing"]["attention"]["epsilon"] == pytest.approx(0.02)


@pytest.mark.parametrize("own,says", [
    ({"context": "x"}, "needs a task"), ({"task": ""}, "task is empty"), ({"task": 5}, "task must be"), ({"task": "x", "steps": [1]}, "steps[0]"),
    ({"task": {"text": "x", "colour": 1}}, "colour"), ({"task": {"text": "a b c d e f g h", "budget": 3}}, "its budget is 3"), ({"task": {"text": "x", "life": "long"}}, "keep or none"),
    ({"task": "x", "output": {"choices": []}}, "choices"), ({"task": "x", "output": {"choices": ["a"], "regex": "b"}}, "exclude"), ({"task": "x", "output": {"regex": "("}}, ""),
    ({"task": "x", "output": {"schema": {"type": "colour"}}}, "colour"), ({"task": "x", "regex": "a", "output": {"regex": "b"}}, "another parameter"),
    ({"task": "x", "structured": True}, "structured")])
def test_errors_of_fields(server, own, says):
    r = ask(server, own, messages=[{"role": "user", "content": "<task>y</task>"}])
    assert says in r["error"]["message"], r


@pytest.mark.parametrize("text,says", [
    ("<task>x", "byte 0: <task> has no </task>"), ("hello", "byte 0: text outside"), ("<task>x</task> and", "byte 15"), ("<task>x</task><task>y</task>", "second <task>"),
    ("<tusk>x</tusk>", "<tusk>"), ("<task budget=0>x</task>", "budget"), ("<task budget>x</task>", "attribute=value"), ("<task size=5>x</task>", "size"),
    ("<task epsilon=0.9>x</task>", "epsilon"), ("<context>x</context>", "no <task>"), ("<task> </task>", "is empty"), ("<task budget=5", "not closed"),
    ('<task>x</task><output>{"choices": }</output>', "<output>: line 1"), ('<task>x</task><output>{"colour": 1}</output>', "schema, choices, regex"), ("", "")])
def test_errors_of_tags(server, text, says):
    r = ask(server, {"structured": True}, messages=[{"role": "user", "content": text}])
    assert says in r["error"]["message"], r


def test_only_in_chat_and_alone(server):
    r = server.http.post("/v1/completions", json={"prompt": "x", "sparing": {"task": "y"}})
    assert r.status_code == 400 and "task" in r.json()["error"]["message"]
    assert server.http.post("/v1/chat/completions", json={"sparing": {}}).status_code == 400


# --- lint ----------------------------------------------------------------------------------------

def lint(text, check=True):
    p = run("prompt", "lint", "--json", stdin=text, check=check)
    return json.loads(p.stdout) if p.returncode == 0 else p


@pytest.mark.parametrize("text,parts", [
    ("Hello there! Please read the review and decide what its mood is. Answer with one of: positive, negative or neutral.\n\nReview:\nThe battery died.\nI want my money back.\n\nThank you!",
     {"task": "read the review and decide what its mood is.", "output": '{"choices": ["positive", "negative", "neutral"]}', "context": "The battery died.\nI want my money back."}),
    ('"The expedition left Tromso on 3 March 1911 with twelve dogs." Could you please tell me when it left? Reply with only the date.',
     {"task": "tell me when it left?", "output": "Reply with only the date.", "context": "The expedition left Tromso on 3 March 1911 with twelve dogs."}),
    ("Summarise the meeting.\nSteps:\n1. List who spoke.\n2. Say what was decided.\n```\nAnna: we ship on Friday.\n```\n",
     {"task": "Summarise the meeting.", "steps": "List who spoke.\nSay what was decided.", "context": "Anna: we ship on Friday."}),
    ("Is Vienna on the Danube? Please answer yes or no.", {"task": "Is Vienna on the Danube?", "output": '{"choices": ["yes", "no"]}'})])
def test_lint(server, text, parts):
    j = lint(text)
    assert j["prompt"] == "".join(f"<{k}>{parts[k]}</{k}>\n" for k in ("task", "steps", "output", "context") if k in parts)
    assert j["free"]["tokens"] >= j["free"]["next"] > 0 and j["structured"]["tokens"] >= j["structured"]["next"] > 0
    r = ask(server, {"structured": True}, messages=[{"role": "user", "content": j["prompt"]}])
    assert r["usage"]["prompt_tokens"] == j["structured"]["tokens"]
    assert server.chat(text).json()["usage"]["prompt_tokens"] == j["free"]["tokens"]


def test_lint_says_what_it_cannot_do(tmp_path):
    assert "asks for anything" in lint("The sky.", check=False).stderr
    assert run("prompt", check=False).returncode == 2 and run("prompt", "polish", check=False).returncode == 2
    assert run("prompt", "lint", str(tmp_path / "none"), check=False).returncode == 1
