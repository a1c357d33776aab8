"""Chat templates that models ship, against jinja2 with what `transformers` adds to it: byte for byte.

The 70 templates are those of llama-cpp-python 0.3.36's source archive, which scripts/fetch-vocabs fetches for the tests."""
import datetime
import json
import subprocess

import jinja2
import jinja2.ext
import jinja2.nodes
import jinja2.sandbox
import pytest

from conftest import MODEL, ROOT, tool

TEMPLATES = sorted((ROOT / "models" / "templates").glob("*.jinja"))


class Refused(Exception):
    pass


class Generation(jinja2.ext.Extension):
    """{% generation %}: its body, in a scope of its own."""
    tags = {"generation"}

    def parse(self, parser):
        line = next(parser.stream).lineno
        body = parser.parse_statements(["name:endgeneration"], drop_needle=True)
        return jinja2.nodes.CallBlock(self.call_method("_say"), [], [], body).set_lineno(line)

    def _say(self, caller):
        return caller()


def oracle():
    env = jinja2.sandbox.SandboxedEnvironment(trim_blocks=True, lstrip_blocks=True, extensions=[Generation, jinja2.ext.loopcontrols])

    def refuse(message):
        raise Refused(message)

    def tojson(x, ensure_ascii=False, indent=None, separators=None, sort_keys=False):
        return json.dumps(x, ensure_ascii=ensure_ascii, indent=indent, separators=separators, sort_keys=sort_keys)

    env.globals["raise_exception"] = refuse
    env.globals["strftime_now"] = lambda form: datetime.datetime.now().strftime(form)
    env.filters["tojson"] = tojson
    env.filters["from_json"] = json.loads
    return env


def ours(jobs):
    text = "".join(json.dumps({"template": t, "vars": v}) + "\n" for t, v in jobs)
    out = subprocess.run([tool("jinja")], input=text, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in out.splitlines()]


WEATHER = {"type": "function", "function": {
    "name": "get_weather", "description": "The weather at a place: \"now\" & later.\nTwo lines; it's <free>.",
    "parameters": {"type": "object", "required": ["place"], "properties": {
        "place": {"type": "string", "description": "A town, such as Zürich"},
        "unit": {"type": "string", "enum": ["celsius", "fahrenheit"], "default": "celsius"},
        "days": {"type": "integer", "description": "How many", "minimum": 1},
        "near": {"type": ["string", "null"]},
        "at": {"type": "object", "properties": {"lat": {"type": "number"}, "lon": {"type": "number"}}, "required": ["lat"]},
        "tags": {"type": "array", "items": {"type": "string"}}}}}}
CLOCK = {"type": "function", "function": {"name": "clock", "description": "Time", "parameters": {"type": "object", "properties": {}}}}
TOOLS = [WEATHER, CLOCK]


def call(name, arguments, ident="abcdefghi"):
    return {"id": ident, "type": "function", "function": {"name": name, "arguments": arguments}}


def say(role, content, **more):
    return {"role": role, "content": content, **more}


ARGS = {"place": "Zürich \"Nord\" <b>", "days": 3, "at": {"lat": 47.4, "lon": -1e-7}, "tags": ["a", "b"], "near": None, "rain": True}
TALK = [say("user", "Hello!"), say("assistant", "Hi, how can I help?"), say("user", "  Tell me\n\na joke.  ")]
CONVERSATIONS = {
    "one turn": dict(messages=[say("user", "What is 2+2?")]),
    "talk": dict(messages=TALK),
    "system": dict(messages=[say("system", "You are terse."), *TALK]),
    "developer": dict(messages=[say("developer", "Be kind."), say("user", "Hello")]),
    "no answer yet": dict(messages=[say("system", "You are terse."), say("user", "x"), say("assistant", "y")], add_generation_prompt=False),
    "tools": dict(messages=[say("system", "Use tools."), say("user", "Weather in Zürich?")], tools=TOOLS),
    "a call": dict(messages=[say("user", "Weather?"), say("assistant", "", tool_calls=[call("get_weather", ARGS)])], tools=TOOLS, add_generation_prompt=False),
    "a call with null content": dict(messages=[say("user", "Weather?"), say("assistant", None, tool_calls=[call("get_weather", ARGS)]),
                                               say("tool", "{\"sun\": 1}", name="get_weather", tool_call_id="abcdefghi")], tools=TOOLS),
    "a call and its result": dict(messages=[say("system", "S"), say("user", "Weather?"), say("assistant", "Let me look.", tool_calls=[call("get_weather", ARGS)]),
                                            say("tool", "Sunny, 20 °C", name="get_weather", tool_call_id="abcdefghi"), say("assistant", "It is sunny."),
                                            say("user", "Thanks")], tools=TOOLS),
    "two calls": dict(messages=[say("user", "Weather and time?"), say("assistant", "", tool_calls=[call("get_weather", {"place": "Bern"}), call("clock", {}, "jklmnopqr")]),
                                say("tool", "rain", name="get_weather", tool_call_id="abcdefghi"), say("tool", "12:00", name="clock", tool_call_id="jklmnopqr")], tools=TOOLS),
    "arguments as text": dict(messages=[say("user", "Weather?"), say("assistant", "", tool_calls=[call("get_weather", json.dumps(ARGS))]),
                                        say("tool", "rain", name="get_weather", tool_call_id="abcdefghi")], tools=TOOLS),
    "calls without tools": dict(messages=[say("user", "W?"), say("assistant", "", tool_calls=[call("clock", {})]), say("tool", "1", tool_call_id="abcdefghi", name="clock")]),
    "thinking on": dict(messages=[say("user", "Why?")], enable_thinking=True, thinking=True, reasoning_effort="high"),
    "thinking off": dict(messages=[say("system", "S"), say("user", "Why?")], enable_thinking=False, thinking=False, reasoning_effort="low"),
    "thoughts in content": dict(messages=[say("user", "a"), say("assistant", "<think>\nhm, so\n</think>\n\nb"), say("user", "c"), say("assistant", "<think>x</think>d"), say("user", "e")]),
    "thoughts beside": dict(messages=[say("user", "a"), say("assistant", "b", reasoning_content="I think\nso", reasoning="I think\nso", thinking="I think\nso"), say("user", "c"),
                                      say("assistant", "", reasoning_content="look it up", tool_calls=[call("clock", {})]), say("tool", "1", tool_call_id="abcdefghi", name="clock")], tools=TOOLS,
                            preserve_thinking=True, keep_reasoning=True, enable_thinking=True),
    "empty turns": dict(messages=[say("system", ""), say("user", ""), say("assistant", ""), say("user", " ")]),
    "empty conversation": dict(messages=[]),
    "parts": dict(messages=[say("system", [{"type": "text", "text": "S"}]), say("user", [{"type": "text", "text": "one "}, {"type": "text", "text": "two"}])]),
    "long": dict(messages=[say("user", "a"), say("assistant", "b"), say("user", "c"), say("assistant", "d"), say("user", "e" * 300)]),
    "one from the user, no answer": dict(messages=[say("user", "a\n\nb ")], add_generation_prompt=False),
    "two from the user": dict(messages=[say("user", "a"), say("user", "b")]),
    "signs": dict(messages=[say("user", "<|im_end|>\n{{ x }} {% if %} 'q' \"d\" \\ \u00a0\u200b🙂 <think> [INST] é\x7f\x01"), say("assistant", "é</think>ö<tool_call>"), say("user", "Ω" * 40)]),
    "unknown role": dict(messages=[say("narrator", "x")]),
    "documents": dict(messages=TALK, documents=[{"title": "T", "text": "some text", "doc_id": 1}, {"title": "U", "text": "more"}], controls=["thinking"],
                      builtin_tools=["browser"], custom_tools=TOOLS, tools_in_user_message=False, date_string="26 Jul 2026", model_identity="I am X.",
                      response_format={"type": "json_schema", "json_schema": {"schema": {"type": "object"}}}),
}


def variables(conversation):
    v = {"add_generation_prompt": True, "bos_token": "<s>", "eos_token": "</s>", **conversation}
    if v.get("tools") or "documents" not in v:  # what one of the templates takes in their stead
        v.setdefault("functions", json.dumps(v.get("tools", [])))
        v.setdefault("datetime", "26 Jul 2026")
    return json.loads(json.dumps(v))


REFUSALS = (Refused, jinja2.exceptions.TemplateError, TypeError, ValueError, AttributeError, KeyError, RecursionError)


def compiled(template, env):
    """What renders the template; one that does not parse refuses every conversation."""
    try:
        return env.from_string(template).render
    except REFUSALS as e:
        refusal = e

    def refuse(**_):
        raise refusal
    return refuse


def check(template, conversations, env):
    """Whether each conversation renders as jinja2 renders it; how many did, and what was refused by both."""
    jobs, render = [(template, variables(c)) for c in conversations.values()], compiled(template, env)
    done = 0
    for name, (_, given), got in zip(conversations, jobs, ours(jobs)):
        try:
            want = render(**given)
        except REFUSALS as e:
            if "generator" in str(e):  # jinja2 cannot write what map gives it as JSON; here it is a list
                continue
            assert "error" in got, (name, "jinja2 refuses:", repr(e), got)
            if isinstance(e, Refused):
                assert str(e)[:100] in got["error"], (name, got)
            continue
        assert got.get("out") == want, (name, got, want)
        done += 1
    return done


@pytest.mark.parametrize("template", [
    "{{ a[1:3] ~ a[::-1] ~ a[-1] }}", "{{ a.split(' ', 1) | join('|') }}{{ a.rsplit(' ', 1) }}", "{{ a | replace('b', '') | upper }}", "{{ a.replace('', '-') }}",
    "{{ [a, 1, 2.5, 1e5 if false else 100000.0, true, none] }}", "{{ {'k': a, 1: (1,), 'e': {}, 'l': []} | tojson(indent=2) }}", "{{ m | tojson(separators=(',', ':'), sort_keys=true) }}",
    "{{ m | tojson(ensure_ascii=true) }}", "{% macro f(x, y=2) %}{{ x }}-{{ y }};{% endmacro %}{{ f(1) }}{{ f(1, y=3) }}{{ f() }}",
    "{% set x = 1 %}{% macro f() %}{{ x }}{% endmacro %}{% set x = 2 %}{{ f() }}", "{% for i in range(9) %}{% if i == 2 %}{% continue %}{% endif %}{% if i == 5 %}{% break %}{% endif %}{{ i }}{{ loop.last }}{% endfor %}",
    "{% for i in [] %}x{% else %}none{% endfor %}{% for k, v in m | dictsort %}{{ k }}={{ v }},{{ loop.previtem is defined }};{% endfor %}",
    "{% set x | trim | upper %}  b {% set a = 'q' %}{{ a }} {% endset %}[{{ x }}]{{ a }}", "{% filter indent(3, first=true) %}a\nb\n\nc{% endfilter %}", "{{ 'a\nb\n' | indent }}|",
    "{% raw %}{{ x }} {% if %}{% endraw %} y", "{{ 1 < 2 < 3 }}{{ 3 > 2 > 2 }}", "{{ l | map(attribute='n') | list }}{{ l | selectattr('n', 'gt', 1) | list | length }}{{ l | rejectattr('z') | list | length }}",
    "{{ l | sort(attribute='n', reverse=true) | map(attribute='n') | join(',') }}{{ ['b', 'A', 'a', 'B'] | unique | list }}{{ ['b', 'A'] | sort }}{{ [3, 1] | min }}{{ [3, 1] | max }}{{ [3, 1] | sum }}",
    "{{ m.items is defined }}{{ m['items'] is defined }}{{ m.zzz is defined }}{{ m.b }}", "{{ 'x{}y{}'.format(1, a) }}{{ '{0}{0}{k}{{'.format(a, k=2) }}", "{{ '<b>' | safe + a + '<&' }}", "{{ '%s' | string ~ a | title }}",
    "{{ '7' | int + '3.9' | int + 'x' | int + ' 4 ' | int(9) }}{{ '2.5' | float }}{{ 'x' | default('y') }}{{ zz | default('y') }}{{ '' | default('y', true) }}", "{{ a is string and a is not none and zz is undefined and zz is iterable }}",
    "{{ '\\u00e9\\x41\\101\\q' 'joined' }}", "{{ 'ab' * 3 }}{{ [1] * 2 }}{{ 7 // 2 }}{{ -7 // 2 }}{{ -7 % 3 }}{{ 7 / 2 }}", "{{ 'b' in a }}{{ 'k' in m }}{{ 2 in [1, 2] }}{{ 2 not in [1] }}{{ 'x' in zz }}",
    "{{ a.find('b') }}{{ a.count('b') }}{{ a.startswith(('x', 'a')) }}{{ ' '.join(['p', 'q']) }}{{ a.removeprefix('a') }}{{ a.splitlines() }}", "  {%- if true %}  x\n  {%+ if true %}y{% endif %}\n {# c #}\n{% endif -%}  \n z",
    "{% set n = namespace(a=1, l=[]) %}{% for i in range(3) %}{% set n.a = n.a + i %}{% set _ = n.l.append(i) %}{% endfor %}{{ n.a }}{{ n.l }}{{ n.l.pop(0) }}{{ n.l.pop() }}{{ n.l }}",
    "{{ {'a': 1}.get('b', 5) }}{{ {'a': 1}.get('b') }}{{ ({'a': 1} | items | list) }}{{ m.keys() | list }}", "{{ [[1, [2, 'it\\'s']], 'q\"\\'', '\\n\\t\\x1b\\u200b'] }}", "{{ 1e-5 if false else 0.00001 }}{{ 12345678901234567.0 }}{{ 0.1 + 0.2 }}",
    "{% generation %}{% set a = 'z' %}{{ a }}{% endgeneration %}{{ a }}", "{{ j | from_json }}{{ (j | from_json).u }}", "{{ raise_exception('no: ' ~ a) }}", "{{ a + 1 }}", "{{ zz.x }}", "{{ zz | tojson }}", "{{ m | length }}{{ zz | length }}{{ 3 | length }}",
])
def test_expressions_equal_jinja2(template):
    given = {"a": "a b\nö c ", "m": {"b": "é<", "a": [1, {"x": None}], "k": 0.5}, "l": [{"n": 1}, {"n": 3, "z": 1}, {"n": 2}],
             "j": "{\"u\": \"\\ud83d\\ude42 \\n\", \"n\": [1, -2.5e3, true, null, {}]}"}
    check(template, {"it": given}, oracle())


@pytest.mark.parametrize("template,own", [
    ("<s>{{ a }}</s>", "<s></s>"), ("{{ '<' ~ a ~ '>' }}", "<>"), ("{{ a[1:] }}|{{ a | upper }}|{{ a.split('|') | join('--') }}", "||----"),
    ("{{ a.replace('|', '[]') }}", "[][]"), ("{{ m | tojson }}", '"' * 8), ("{% for c in a %}{{ c }}.{% endfor %}", "." * 11),
    ("{% set x %}({{ a | trim }}){% endset %}{{ x }}{{ x[0] }}{{ x[1] }}{{ x | replace('(', '((') }}", "()((()"), ("{% macro f(x) %}{{ x }}!{% endmacro %}{{ f(a) }}{{ f('own') }}", "!own!"),
    ("{{ [a, 'b'] | join(',') }}", ",b"), ("{{ a | indent(2, true) }}", "  "), ("{{ '{}-{}'.format(a, 'x') }}", "-x"), ("{{ a ~ 1 }}{{ m.n }}", "1"), ("{{ ('\"' ~ a ~ '\"') | from_json }}", ""),
    ("{{ '<b>' | safe + a }}", "<b>"), ("{{ [a] | string }}", "['']"), ("{{ 'own' if a == '<|im_end|>' }}{{ 'im' in a }}", "ownTrue"),
])
def test_whose_each_byte_is(template, own):
    """The bytes outside the foreign ranges are what the template itself wrote."""
    got = ours([(template, {"a": "<|im_end|>" if "own' if" in template else "<|im_end|>!", "m": {"k": "<|im_end|>", "n": "<|n|>"}})])[0]
    text, at, left = got["out"].encode(), 0, b""
    for begin, end in got["foreign"]:
        assert at <= begin < end <= len(text)
        left += text[at:begin]
        at = end
    assert (left + text[at:]).decode() == own


def test_there_are_seventy():
    assert len(TEMPLATES) == 70


@pytest.mark.parametrize("path", TEMPLATES, ids=lambda p: p.stem)
def test_template_equals_jinja2(path):
    assert check(path.read_text(), CONVERSATIONS, oracle()) >= 8


def test_a_model_without_a_usable_template_completes_text(tmp_path, make_server):
    """A statement that no template may have: the file loads, completions work, chat says why not."""
    path, whole = tmp_path / "odd.gguf", MODEL.read_bytes()
    at = whole.index(b"tokenizer.chat_template")
    word = whole.index(b"{% for ", at)
    path.write_bytes(whole[:word] + b"{% foo " + whole[word + 7:])
    s = make_server("-m", str(path))
    assert s.prefix([1, 2, 3], n=2)[1]
    r = s.chat()
    assert 400 <= r.status_code < 500 or r.status_code == 501, r.text
    assert "statement foo is not supported" in r.json()["error"]["message"]
    assert any("cannot chat" in line for line in s.log)
