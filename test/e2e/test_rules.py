"""Rules that prune an answer: what they take back has not left, what is protected stays, and guessing changes nothing."""
import bisect
import io
import json
import pathlib
import shlex
import textwrap
import tokenize

import pytest

from conftest import MODEL, Server, tool
from test_responses import thinking_model


@pytest.fixture(scope="module")
def scripted(quick_model):
    s = Server("--path", "full", "--model", quick_model, binary=tool("script"))
    yield s
    assert s.stop() == 0


def ask(s, said, rules, n=600, **more):
    """The answer's text, its reason and what the receipt says of rules; streamed, guessed ahead and plain are the same."""
    body = {"messages": [{"role": "user", "content": f"[[say]]{said}[[/say]]"}], "temperature": 0, "max_tokens": n, **more}
    got = []
    for own in ({"draft": 0}, {"draft": 6, "draft_fixed": True}):
        r = s.http.post("/v1/chat/completions", json={**body, "sparing": {"control": rules, **own}})
        assert r.status_code == 200, r.text
        j = r.json()
        c = j["choices"][0]
        got.append((c["message"]["content"], c["finish_reason"], {k: v for k, v in j["usage"]["sparing"].get("control", {}).items() if k != "penalised"}, j["usage"]["completion_tokens"]))
    assert got[0] == got[1]
    with s.http.stream("POST", "/v1/chat/completions", json={**body, "stream": True, "sparing": {"control": rules}}) as r:
        lines = [line[6:] for line in r.iter_lines() if line.startswith("data: {")]
    text = "".join(json.loads(line)["choices"][0]["delta"].get("content", "") for line in lines)
    assert text == got[0][0], "what was taken back had not left"
    return got[0][:3]


A, B, C = "The cat sat on the mat that day.", "Nobody saw the dog behind the door.", "All of them were tired and went home."


@pytest.mark.parametrize("said,want,n", [
    (f"{A} {B} {A} {C}", f"{A} {B} {C}", 1),
    (f"{A}\n- {B}\n- {C}\n- {B}\nEnd of it.", f"{A}\n- {B}\n- {C}\nEnd of it.", 1),
    (f"{A} {B} {A.upper()} {C}", f"{A} {B} {C}", 1),
    (f"1. {A}\n2. {B}\n3. {A}\n4. {C}", f"1. {A}\n2. {B}\n4. {C}", 1),
    (f"{A} {B} {A}", f"{A} {B}", 1),  # at the end
    ("Yes it is. No. Yes it is. No. Yes it is.", None, 0),  # too short to be redundant
    ("The book was written by Dr. Smith. The book was written by Dr. Jones.", None, 0),
    (f"```\n{A}\n{A}\n```\n{B}", None, 0), (f"> {A}\n> {A}\n", None, 0), (f'"{A}" and "{A}" and', None, 0), (f"| {A} |\n| {A} |\n", None, 0),
    (f"`{A}`\n`{A}`\n", None, 0), (f'{{"a": "{A}",\n"b": "{A}"}}', None, 0),
])
def test_sentences_said_before_are_taken_back(scripted, said, want, n):
    text, reason, did = ask(scripted, said, ["repeat"])
    assert text == (said if want is None else want) and reason == "stop"
    assert did["pruned"]["sentences"] == n and did["rules"] == ["repeat"] and "ended" not in did
    assert did["pruned"]["bytes"] == len(said) - len(text) and (did["pruned"]["tokens"] > 5 if n else did["pruned"]["tokens"] == 0)


def test_loops_end(scripted):
    said = f"{C} " + f"{A} {B} " * 20
    text, reason, did = ask(scripted, said, ["repeat"])
    assert text == f"{C} {A} {B}" and did["ended"] == "repeat" and did["pruned"]["sentences"] == 3 and reason == "stop"
    text, _, did = ask(scripted, said, ["loop"])
    assert did["ended"] == "loop" and said.startswith(text) and len(text) < len(said) / 4
    text, _, did = ask(scripted, "Zeros: " + "0 " * 200, True)
    assert did["ended"] == "loop" and len(text) < 100 and did["rules"] == ["loop", "repeat", "sentence", "thinking"]
    fenced = "```\n" + "0 " * 200 + "\n```"
    assert ask(scripted, fenced, True)[0] == fenced
    assert ask(scripted, said, [])[0] == said
    least = ask(scripted, "0 " * 120, True, min_tokens=100)
    assert least[2].get("ended") == "loop" and len(least[0]) >= 100


def test_an_answer_ends_with_a_sentence(scripted):
    said = " ".join(f"This is sentence number {i} of the story about the cat." for i in range(60))
    plain, reason, _ = ask(scripted, said, False, n=150)
    assert reason == "length" and not plain.endswith(".")
    text, reason, did = ask(scripted, said, ["sentence"], n=150)
    assert reason == "length" and did["ended"] == "sentence" and text.endswith(".") and plain.startswith(text) and len(text) > 0.8 * len(plain)


CODE = '''import math  # import math

# Define the function area
def area(radius):
    # compute pi times the square; the caller guarantees radius >= 0 because of the form
    result = math.pi * radius ** 2  # set result
    text = "# not a comment"  # text
    # return the result
    return result

# first line of a block
# second line of a block
for item in items:  # loop over items
    print(item)  # every third one is late

class Shop:
    """# in a string
    # return the doc
    """
    count = 0  # TODO count
'''
PRUNED = '''import math

def area(radius):
    # compute pi times the square; the caller guarantees radius >= 0 because of the form
    result = math.pi * radius ** 2
    text = "# not a comment"
    return result

# first line of a block
# second line of a block
for item in items:
    print(item)  # every third one is late

class Shop:
    """# in a string
    # return the doc
    """
    count = 0  # TODO count
'''


def code_of(text):
    """Its tokens, without comments and empty lines."""
    skip, out = (tokenize.COMMENT, tokenize.NL), []
    try:
        for t in tokenize.generate_tokens(io.StringIO(text).readline):
            if t.type not in skip:
                out.append((t.type, t.string))
    except (tokenize.TokenError, IndentationError) as e:  # the text breaks off
        out.append(type(e))
    return out


def test_redundant_comments_are_taken_back(scripted):
    text, _, did = ask(scripted, f"Here it is:\n```python\n{CODE}```\n# import math\nimport math", ["comments"])
    assert text == f"Here it is:\n```python\n{PRUNED}```\n# import math\nimport math", "outside of code nothing is a comment"
    assert code_of(CODE) == code_of(PRUNED) and did["pruned"]["comments"] == 6 and did["pruned"]["sentences"] == 0
    for lang in ("", "text", "markdown"):
        said = f"```{lang}\n{CODE}```\n"
        assert ask(scripted, said, ["comments"])[0] == said, lang
    c = "```c\n#define ADD(a) \\\n    // add a\n    add(a)\n// increment i\ni++;\nchar c = '\"'; // set c\nputs(\"// puts\");\n// add b \\\nadd(b);\n```\n"
    assert ask(scripted, c, ["comments"])[0] == c.replace("// increment i\n", "").replace(" // set c", "")


@pytest.mark.parametrize("module", [bisect, shlex, textwrap], ids=lambda m: m.__name__)
def test_code_of_real_files_stays(scripted, module):
    """A library's file in a fence: whatever goes, the code is the same."""
    text = pathlib.Path(module.__file__).read_text()[:3000].rsplit("\n\n", 1)[0] + "\n"
    got = ask(scripted, f"```python\n{text}```", ["comments"], n=2000)[0]
    assert got.startswith("```python\n") and got.endswith("```")
    assert code_of(got[len("```python\n"):-len("```")] + "\n") == code_of(text + "\n")


def test_dry_makes_repeats_less_likely(make_server):
    s = make_server("-m", str(MODEL))
    body = {"messages": [{"role": "user", "content": "Write a long list of animals with a word about each."}], "temperature": 0, "max_tokens": 120, "ignore_eos": True}
    plain = s.http.post("/v1/chat/completions", json=body).json()
    got = [s.http.post("/v1/chat/completions", json={**body, "sparing": {"control": ["dry"], **own}}).json() for own in ({"draft": 0}, {"draft": 6, "draft_fixed": True})]
    words = [j["choices"][0]["message"]["content"].split() for j in (plain, got[0])]
    distinct = [len({tuple(w[i:i + 4]) for i in range(len(w) - 3)}) / max(1, len(w) - 3) for w in words]
    assert distinct[1] > distinct[0] and got[0]["choices"] == got[1]["choices"]
    assert got[0]["usage"]["sparing"]["control"]["penalised"] > 10 and got[0]["usage"]["sparing"]["control"]["pruned"]["tokens"] == 0


@pytest.fixture(scope="module")
def thinker(tmp_path_factory):
    """A scripted model that marks its thoughts, on a server that ends them at the fourth conclusion that is the same."""
    path = thinking_model(tmp_path_factory.mktemp("think") / MODEL.name)
    s = Server("-m", str(path), "--path", "full", "--thinking-same", "4", binary=tool("script"))
    yield s
    assert s.stop() == 0


LINES = ["6 times 7 is 42.", "So it is 42.", "Checked: 40 + 2 = 42.", "Thus it must be 42.", "The total is 42.", "So the answer is 42."]


@pytest.mark.parametrize("control,same,lines", [(None, 4, 5), ({"thinking_same": 2}, 2, 3), ({"rules": ["loop"], "thinking_same": 3}, 3, 4), (["thinking"], 4, 5),
                                                (True, 4, 5), (False, None, 6), ({"rules": ["loop"]}, None, 6)])
def test_thoughts_end_at_the_same_conclusion(thinker, control, same, lines):
    said = "<think>\n" + "".join(line + "\n" for line in LINES) + "</think>It is 42."
    body = {"messages": [{"role": "user", "content": f"[[say]]{said}[[/say]]"}], "temperature": 0, "max_tokens": 200}
    got = []
    for own in ({"draft": 0}, {"draft": 6, "draft_fixed": True}):
        own.update({} if control is None else {"control": control})
        j = thinker.http.post("/v1/chat/completions", json={**body, "sparing": {"think_tokens": 150, **own}}).json()
        m, sparing = j["choices"][0]["message"], j["usage"]["sparing"]
        got.append((m["reasoning_content"].strip(), sparing.get("control"), sparing["decode"]["thinking"]))
    assert got[0] == got[1], "guesses change nothing"
    thought, did, n = got[0]
    assert thought == "\n".join(LINES[:lines])
    if same is None:
        assert "thinking" not in (did or {})
        return
    assert did["thinking"] == {"same": same, "conclusions": same} and "thinking" in did["rules"]
    assert did["thinking_ended"] == "thinking" and did["thinking_left"] == 150 - n


@pytest.mark.parametrize("value,word", [("1", "a number from 2 to 16"), ("2,x", "'x' begins"), ("17", "'17' begins"), ("other=2", "no model 'other'"), ("=2", "'=2' begins"),
                                        ("2", "marks no thoughts"), (f"{MODEL.stem.lower()}=2", "marks no thoughts")])
def test_the_servers_number_is_checked(make_server, value, word):
    with pytest.raises(RuntimeError, match=word):
        make_server("--thinking-same", value)


def test_forms_and_calls_are_left_alone(server):
    form = {"type": "json_schema", "json_schema": {"name": "x", "schema": {"const": "the same the same the same the same the same the same"}}}
    j = server.chat(max_tokens=60, response_format=form, sparing={"control": True}).json()
    assert "the same the same the same the same the same the same" in j["choices"][0]["message"]["content"]
    assert j["usage"]["sparing"]["ignored"] == ["sparing.control"] and "control" not in j["usage"]["sparing"]
    tools = [{"type": "function", "function": {"name": "look", "parameters": {"type": "object", "properties": {}}}}]
    j = server.chat(max_tokens=4, tools=tools, sparing={"control": True}).json()
    assert j["usage"]["sparing"]["control"]["rules"] == ["thinking"] and j["usage"]["sparing"]["ignored"] == ["sparing.control"]


@pytest.mark.parametrize("body,word", [({"sparing": {"control": "loop"}}, "list of rules"), ({"sparing": {"control": ["lop"]}}, "control[0]"), ({"sparing": {"control": [1]}}, "control[0]"),
                                       ({"sparing": {"control": {"rules": ["lop"]}}}, "control.rules[0]"), ({"sparing": {"control": {"thinking_same": 1}}}, "thinking_same"),
                                       ({"sparing": {"control": {"thinking_same": 2}}}, "marks no thoughts"),
                                       ({"sparing": {"control": ["trial"]}}, "trial: the model"), ({"sparing": {"control": {"trial_sure": 1.5}}}, "trial_sure"),
                                       ({"sparing": {"control": {"trial_tokens": 15}}}, "trial_tokens"), ({"sparing": {"control": {"same": 2}}}, "same"),
                                       ({"sparing": {"control": True}, "logprobs": True}, "log-probabilities")])
def test_requests_are_checked(server, body, word):
    e = server.chat(max_tokens=1, **body)
    assert e.status_code == 400 and word in e.json()["error"]["message"], e.text
