"""Calls of tools in an answer: what a template makes of calls is read back, in pieces of any size; what is no call stays text."""
import json
import random
import subprocess

import pytest

from conftest import ROOT, tool

TEMPLATES = sorted((ROOT / "models" / "templates").glob("*.jinja"))
TOOLS = [
    {"type": "function", "function": {"name": "get_weather", "description": "The weather.", "parameters": {"type": "object", "required": ["place"], "properties": {
        "place": {"type": "string", "description": "A town"}, "days": {"type": "integer", "description": "n"}, "at": {"type": "object", "description": "where", "properties": {"lat": {"type": "number", "description": "n"}}, "additionalProperties": {"type": "number"}},
        "tags": {"type": "array", "description": "words", "items": {"type": "string"}}, "rain": {"type": "boolean", "description": "whether"}}}}},
    {"type": "function", "function": {"name": "clock-2", "description": "The time.", "parameters": {"type": "object", "required": [], "properties": {"zone": {"type": "string", "description": "Which"}}}}}]
ARGS = {"place": "Zürich \"Nord\" <b> & {x}: [1], it's\na line \\ two", "days": 3, "rain": True}
DEEP = {"place": "7", "at": {"lat": -47.5, "in": {"x": [1, {"y": False}]}}, "tags": ["a", "b, c", "}"]}


def call(name, arguments, ident="call_0a1b2c3d4e5f6071"):
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": json.dumps(arguments)}}


def lines(name, jobs):
    text = "".join(json.dumps(j) + "\n" for j in jobs)
    out = subprocess.run([tool(name)], input=text, capture_output=True, text=True)
    assert out.returncode == 0, out.stderr
    return [json.loads(line) for line in out.stdout.splitlines()]


def latin(text):
    return text.encode().decode("latin-1")


def pieces_of(text, rng=None):
    """One piece, pieces of a byte, and random ones."""
    data, cuts = latin(text), [0]
    while rng and cuts[-1] < len(data):
        cuts.append(cuts[-1] + rng.randint(1, 9))
    return [data[a:b] for a, b in zip(cuts, cuts[1:])] if rng else list(data)


def parse(answers):
    """answers: (format, think, at, text, tools). Their events, which are the same however an answer is cut."""
    rng, jobs = random.Random(7), []
    for form, think, at, text, tools in answers:
        for pieces in ([latin(text)], pieces_of(text), pieces_of(text, rng), pieces_of(text, rng)):
            jobs.append({"format": form, "think": think, "at": at, "pieces": pieces, "tools": tools})
    got = lines("calls", jobs)
    for i in range(0, len(got), 4):
        for k in range(1, 4):
            assert got[i + k] == got[i], (jobs[i], got[i + k])
    return [[[x.encode("latin-1").decode() if isinstance(x, str) else x for x in e] for e in events] for events in got[::4]]


def calls_of(events):
    """[(name, arguments)], each with all of its events."""
    out = []
    for e in events:
        if e[0] == "call":
            out.append([e[1], ""])
        elif e[0] == "args":
            out[-1][1] += e[1]
        elif e[0] == "end":
            assert e[1], events
            out[-1][1] = json.loads(out[-1][1])
    return [tuple(c) for c in out]


def text_of(events, kind="says"):
    return "".join(e[1] for e in events if e[0] == kind)


def say(role, content, **more):
    return {"role": role, "content": content, **more}


def render(path, talk, **more):
    base = {"template": path.read_text(), "tools": TOOLS}
    return lines("chat", [{**base, "messages": talk, **more}, {**base, "messages": talk[:1], "add_answer": True, **more}])


def answer_of(path, message, **more):
    """What the template makes of an assistant's message behind the start of an answer, and how it is read."""
    whole, start = render(path, [say("user", "Q"), message], **more)
    a, b = whole["out"], start["out"]
    n = next((i for i in range(min(len(a), len(b))) if a[i] != b[i]), min(len(a), len(b)))
    at = start["at"] if n == len(b) else "text"
    if n < len(b):  # the template writes a past answer in another way than it begins a new one
        n = max(a.rfind(c, 0, n) for c in ("user", "Q")) + 1
    return (start["format"], start["think"] or None, at, a[n:], TOOLS)


SPLIT = ("Llama-3.", "Nemotron-Nano-v2", "llama-cpp-deepseek-r1")  # theirs show a text beside a call as a turn of its own
ONE_CALL = ("Llama-3.", "gpt-oss", "GigaChat")  # their templates take one call a message


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_a_template_s_calls_are_read_back(path):
    one = [call("get_weather", ARGS)]
    two = [call("get_weather", DEEP), call("clock-2", {}, "b")]
    plain = [call("get_weather", {"place": "Bern", "days": -2}), call("clock-2", {"zone": "x"}, "b")]
    texts = [say("assistant", "", tool_calls=c if not any(n in path.stem for n in ONE_CALL) else c[:1]) for c in (one, two, plain)]
    answers = [answer_of(path, t) for t in texts]
    if not any(n in path.stem for n in SPLIT):
        answers.append(answer_of(path, {**texts[2], "content": "I look."}))
    got = parse(answers)
    for message, events, answer in zip([*texts, texts[2]], got, answers):
        want = [(c["function"]["name"], json.loads(c["function"]["arguments"])) for c in message["tool_calls"]]
        assert calls_of(events) == want, (answer, events)
    assert len(got) < 4 or "I look." in text_of(got[3]) or "I look." in text_of(got[3], "thinks")


def samples():
    """An answer for each format that a template has."""
    out = {}
    for path in TEMPLATES:
        talk = say("assistant", "I look.", reasoning_content="Hm.", tool_calls=[call("get_weather", ARGS), call("get_weather", DEEP, "c")][: 1 if any(n in path.stem for n in ONE_CALL) else 2])
        answer = answer_of(path, talk)
        out.setdefault(answer[0], answer)
    return out


def check_order(events):
    """A call's name, pieces of its arguments, its end; a mark comes before names."""
    inside, opened = False, False
    for e in events:
        if e[0] == "open":
            opened = True
        elif e[0] == "call":
            assert opened and not inside, events
            inside = True
        elif e[0] in ("args", "end"):
            assert inside, events
            inside = e[0] != "end"
        else:
            assert not inside, events
    assert not inside, events


@pytest.fixture(scope="module")
def formats():
    return samples()


def test_there_is_a_template_for_each_format(formats):
    assert len(formats) >= 30


def test_a_broken_answer_is_text_or_says_so(formats):
    """Cut at any byte, with bytes changed, doubled or left out: no crash, the same events for all pieces, and a call that ends well
    has arguments that are a JSON object."""
    rng, jobs = random.Random(3), []
    for form, think, at, text, tools in formats.values():
        data = text.encode()
        for _ in range(60):
            broken = bytearray(data)
            for _ in range(rng.randint(1, 3)):
                i, j = sorted((rng.randrange(len(broken)), rng.randrange(len(broken))))
                how = rng.randrange(4)
                if how == 0:
                    del broken[i:min(j, i + 9)]
                elif how == 1:
                    broken[i] = rng.choice(b'{}[]"\\<>(),:=|x \n\xff')
                elif how == 2:
                    broken[i:i] = broken[i:j][:40]
                else:
                    del broken[max(j, 1):]
            jobs.append((form, think, at, broken.decode("latin-1").encode("latin-1").decode("utf-8", "ignore"), tools))
        jobs += [(form, think, at, data[:n].decode("utf-8", "ignore"), tools) for n in range(0, len(data), 3)]
    for job, events in zip(jobs, parse(jobs)):
        check_order(events)
        args = ""
        for e in events:
            args = "" if e[0] == "call" else args + e[1] if e[0] == "args" else args
            if e[0] == "end" and e[1]:
                assert isinstance(json.loads(args), dict), (job, events)


@pytest.mark.parametrize("form,text,want", [
    ("hermes", "a <tool_call> is a mark", [["says", "a"], ["open"], ["says", " <tool_call> is a mark"]]),
    ("hermes", "Well.\n\n<tool_call>\n{\"name\": \"f\"", [["says", "Well."], ["open"], ["call", "f", ""], ["end", False]]),
    ("hermes", "Well.\n\n<tool_call>\n{\"name\": \"f", [["says", "Well."], ["open"], ["says", "\n\n<tool_call>\n{\"name\": \"f"]]),
    ("hermes", "<tool_call>{\"arguments\": {\"a\": [1]}, \"name\": \"f\"}", [["open"], ["call", "f", ""], ["args", "{\"a\": [1]}"], ["end", True]]),
    ("hermes", "<tool_call>{\"name\": \"f\", \"arguments\": \"{\\\"a\\\": 1}\"}</tool_call> x", [["open"], ["call", "f", ""], ["args", "{\"a\": 1}"], ["end", True], ["says", "x"]]),
    ("hermes", "<tool_call>{\"name\": \"f\", \"arguments\": {\"a\": 1", [["open"], ["call", "f", ""], ["args", "{\"a\": 1"], ["end", False]]),
    ("hermes", "<tool_call>{\"id\": \"x\", \"function\": {\"name\": \"f\", \"arguments\": {}}}</tool_call>", [["open"], ["call", "f", "x"], ["args", "{}"], ["end", True]]),
    ("hermes", "<tool_call>{\"name\": \"f g\", \"arguments\": {}}", [["open"], ["says", "<tool_call>{\"name\": \"f g\", \"arguments\": {}}"]]),
    ("llama", "{\"answer\": 4}", [["open"], ["says", "{\"answer\": 4}"]]),
    ("llama", " {\"name\": \"f\", \"parameters\": {\"a\": 1}}; {\"name\": \"g\", \"parameters\": {}}", [["open"], ["call", "f", ""], ["args", "{\"a\": 1}"], ["end", True], ["open"], ["call", "g", ""], ["args", "{}"], ["end", True]]),
    ("llama", "so {\"name\": \"f\", \"parameters\": {}}", [["says", "so {\"name\": \"f\", \"parameters\": {}}"]]),
    ("python", "<|tool_call_start|>[f(a=[1, {'x': None}], b=\"q\\\"\\n\", c=-1.5), g()]<|tool_call_end|>", [["open"], ["call", "f", ""], ["args", "{\"a\": [1, {\"x\": null}], \"b\": \"q\\\"\\n\", \"c\": -1.5}"], ["end", True], ["call", "g", ""], ["args", "{}"], ["end", True]]),
    ("glm", "<tool_call>f</tool_call>", [["open"], ["call", "f", ""], ["args", "{}"], ["end", True]]),
    ("qwen-xml", "use <tool_call> here", [["says", "use"], ["open"], ["says", " <tool_call> here"]]),
    (None, "<think>a</think>\n\nb <think>c", [["thinks", "a"], ["says", "b <think>c"]]),
])
def test_an_answer_taken_apart(form, text, want):
    got = parse([(form, ["<think>", "</think>"], "text", text, None)])[0]
    assert got == want


def test_a_form_or_calls():
    """Where an answer is a form or calls, the form's texts may hold any mark: only what the answer begins with counts."""
    one = '<tool_call>\n{"name": "clock-2", "arguments": {}}\n</tool_call>'
    for form in ("hermes", "harmony", "functionary-v3.2", "llama", "deepseek", "cohere"):
        for text in (json.dumps({"a": one}), json.dumps({"a": ">>>clock-2\n{}", "b": "<|end|>"}), json.dumps({"a": '<|python_tag|>{"name": "f"}'})):
            feed = {"format": form, "think": None, "at": "text", "pieces": list(latin(text)), "either": True}
            assert text_of(lines("calls", [feed])[0]) == text and calls_of(lines("calls", [feed])[0]) == []
    feed = {"format": "hermes", "think": ["<think>", "</think>"], "at": "think", "pieces": [f"Hm.\n</think>\n\n{one}\n{one}"], "either": True}
    assert [e[0] for e in lines("calls", [feed])[0]] == ["thinks", *["open", "call", "args", "end"] * 2]


def test_control_tokens_of_no_mark_are_dropped():
    feed = {"format": "gemma", "think": None, "at": "text", "pieces": ["a", "<pad>", "<|tool_call>", "call:f{x:", "<|\"|>", "y", "<|\"|>", "}", "<tool_call|>", "<turn|>"],
            "control": [False, True, True, False, True, False, True, False, True, True]}
    assert lines("calls", [feed])[0] == [["says", "a"], ["open"], ["call", "f", ""], ["args", "{\"x\": \"y\"}"], ["end", True]]


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_a_forced_call_is_written_as_the_template_writes_it(path):
    """The frame that a grammar forces stands in the template's own call, and what it makes is read back."""
    form, think, at, text, tools = answer_of(path, say("assistant", "", tool_calls=[call("clock-2", {"zone": "x"})]))
    frame = lines("calls", [{"frame": form}])[0]
    assert frame["before"].startswith(frame["trigger"]) or form == "functionary-v3.2"
    own = form == "harmony" or "[CALL_ID]" in text or form == "solar"  # here the model's own order or id is not the template's
    assert own or (frame["before"] + "clock-2" + frame["between"]).rstrip() in text, (frame, text)
    if frame["is_json"]:
        rest = "clock-2" + frame["between"] + '{"zone": "x"}' + frame["after"]
        for n in (1, 3):  # a grammar forces one call, or several
            forced = frame["before"] + rest + (frame["again"] + rest) * (n - 1) + frame["close"]
            assert calls_of(parse([(form, think, at, forced, tools)])[0]) == [("clock-2", {"zone": "x"})] * n
        assert own or "R1-Distill" in path.stem or frame["after"].strip() in text, (frame, text)


OPEN = ("Apriel-1.6", "Cohere2MoE", "GLM-4.7", "MiniMax-M2", "Nemotron-3", "Nemotron-Nano-v2", "Qwen3.5", "Spark", "StepFun", "R1-Distill-Llama", "Kimi-K3",
        "ling-3.0", "llama-cpp-deepseek-r1", "Laguna-S-2.1")  # their prompts begin the thoughts of the answer


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_thoughts_are_split(path):
    """What a template writes of thoughts is read back as thoughts, and the prompt's end says whether the answer begins with them."""
    got = render(path, [say("user", "Q"), say("assistant", "Answer.", reasoning_content="Hm,\nso <b> it is.")])
    start = got[1]
    assert start["at"] == ("head" if start["format"] in ("harmony", "muse", "functionary-v3.2") else "think" if any(n in path.stem for n in OPEN) else "text")
    if "Hm,\nso <b> it is." not in got[0]["out"] or not (start["think"] or start["at"] == "head"):
        return
    form, think, at, text, tools = answer_of(path, say("assistant", "Answer.", reasoning_content="Hm,\nso <b> it is."))
    if think and at == "text":
        if think[0] not in text:  # a past answer is written without the mark that the prompt of a new one ends with
            return
        text = text[text.index(think[0]):]
    answer = (form, think, at, text, tools)
    events = parse([answer])[0]
    assert text_of(events, "thinks") == "Hm,\nso <b> it is.", (answer, events)
    assert text_of(events).lstrip().startswith("Answer."), events
