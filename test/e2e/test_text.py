"""Tokenizers and templates against their oracles."""
import json
import random
import resource
import subprocess

import jinja2
import jinja2.sandbox
import pytest

from conftest import GOLDEN, MODEL, run, tool
from test_tokenizers import ids_of


@pytest.mark.parametrize("name,model", [("smollm", MODEL), ("gpt2", GOLDEN / "vocab-gpt2.gguf"), ("llama3", GOLDEN / "vocab-llama3.gguf")])
def test_tokens_equal_the_oracle(name, model):
    rows = json.loads((GOLDEN / f"tok-{name}.json").read_text())["rows"]
    assert len(rows) > 200
    got = ids_of(model, [r["text"].encode() for r in rows])
    bad = [(r["text"], g, r["ids"]) for r, g in zip(rows, got, strict=True) if g != r["ids"]]
    assert not bad, f"{len(bad)} of {len(rows)}: {bad[0]}"


def test_the_command_gives_the_ids():
    r = json.loads((GOLDEN / "tok-smollm.json").read_text())["rows"][7]
    for flags, want in (([], "ids"), (["--special"], "special")):
        assert json.loads(run("tokenize", "-m", MODEL, "--ids", *flags, stdin=r["text"]).stdout) == r[want]


def test_special_tokens_only_where_asked():
    rows = json.loads((GOLDEN / "tok-smollm.json").read_text())["rows"]
    differ = [r for r in rows if r["ids"] != r["special"]]
    assert differ
    assert ids_of(MODEL, [r["text"].encode() for r in differ], "special") == [r["special"] for r in differ]


def test_long_runs_take_linear_time():
    """Processor time, which others on the machine change by less than a factor of two: four times the text costs four times as
    much, and would cost sixteen times as much if the work were quadratic."""
    def seconds(n, c):
        best = 1e9
        for _ in range(2):
            before = resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime
            run("tokenize", "-m", MODEL, "--ids", stdin=c * n)
            best = min(best, resource.getrusage(resource.RUSAGE_CHILDREN).ru_utime - before)
        return best

    for c in ("a", " ", "1", "!", "\n"):
        base = seconds(1, c)  # start-up
        small, large = seconds(1_000_000, c) - base, seconds(4_000_000, c) - base
        assert large <= 8 * max(small, 0.05), (c, small, large)


TEMPLATES = {
    "chatml": "{% for message in messages %}{{'<|im_start|>' + message['role'] + '\n' + message['content'] + '<|im_end|>' + '\n'}}{% endfor %}"
              "{% if add_generation_prompt %}{{ '<|im_start|>assistant\n' }}{% endif %}",
    "llama3": "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = '<|start_header_id|>' + message['role'] + "
              "'<|end_header_id|>\n\n'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = bos_token + content %}"
              "{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}{{ '<|start_header_id|>assistant<|end_header_id|>\n\n' }}{% endif %}",
    "mistral": "{{ bos_token }}{% for message in messages %}{% if (message['role'] == 'user') != (loop.index0 % 2 == 0) %}"
               "{{ raise_exception('Conversation roles must alternate user/assistant/user/assistant/...') }}{% endif %}"
               "{% if message['role'] == 'user' %}{{ '[INST] ' + message['content'] + ' [/INST]' }}{% elif message['role'] == 'assistant' %}"
               "{{ message['content'] + eos_token}}{% else %}{{ raise_exception('Only user and assistant roles are supported!') }}{% endif %}{% endfor %}",
    "llama2": "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set system_message = messages[0]['content'] %}"
              "{% else %}{% set loop_messages = messages %}{% set system_message = false %}{% endif %}{% for message in loop_messages %}"
              "{% if loop.index0 == 0 and system_message != false %}{% set content = '<<SYS>>\n' + system_message + '\n<</SYS>>\n\n' + message['content'] %}"
              "{% else %}{% set content = message['content'] %}{% endif %}{% if message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}"
              "{% elif message['role'] == 'assistant' %}{{ ' ' + content.strip() + ' ' + eos_token }}{% endif %}{% endfor %}",
    "zephyr": "{% for message in messages %}\n{% if message['role'] == 'user' %}\n{{ '<|user|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'system' %}\n"
              "{{ '<|system|>\n' + message['content'] + eos_token }}\n{% elif message['role'] == 'assistant' %}\n{{ '<|assistant|>\n'  + message['content'] + eos_token }}\n"
              "{% endif %}\n{% if loop.last and add_generation_prompt %}\n{{ '<|assistant|>' }}\n{% endif %}\n{% endfor %}",
    "pieces": "{#- note -#}\n  {%- set ns = namespace(n=0, names=[]) %}\n{%- for m in messages if m.role != 'system' -%}\n  {%- set ns.n = ns.n + 1 %}\n"
              "  [{{ loop.index }}/{{ loop.length }} {{ m.role | upper }}: {{ m.content[:5] | trim | replace('e', 'E') }}]{{ ', ' if not loop.last else '' }}\n"
              "{%- endfor %}\n{{ ns.n ~ '/' ~ messages|length }} {{ messages[-1].content.split(' ') | join('_') }} {{ (1 + 2 * 3) // 2 }} {{ -7 % 3 }} {{ 7 / 2 }}\n"
              "{{ messages[::-1][0]['role'] }} {{ none is none }} {{ missing is defined }} {{ missing | default('d') }} {{ 'a' in 'abc' }} {{ 3 not in [1, 2] }}\n"
              "{% for k, v in messages[0].items() %}{{ k }}={{ v | length }};{% endfor %} {{ {'a': [1, 2.5, 'x', true, none]} | tojson }} {{ [1, 'b', none] }}\n"
              "{{ 'x' if false }}{{ not true or 1 == 1 and 'yes' }} {{ range(1, 8, 3) | list }} {{ 'Hello'.startswith('He') }} {{ messages[0].get('zz', 'q') }}\n",
}


def conversations():
    rng = random.Random(7)
    words = ["hello", "the", "é", "中文", "\n", "  ", "it's", "<b>", "\"q\"", "end."]
    for n in range(1, 7):
        roles = ["system"] * (n % 2) + ["user", "assistant"] * 4
        yield [{"role": roles[i], "content": " ".join(rng.choices(words, k=rng.randint(1, 8)))} for i in range(n)]


class TemplateError(Exception):
    pass


def render_jinja2(template, variables):
    env = jinja2.sandbox.ImmutableSandboxedEnvironment(trim_blocks=True, lstrip_blocks=True)

    def raise_exception(message):
        raise TemplateError(message)

    env.globals["raise_exception"] = raise_exception
    env.filters["tojson"] = lambda x: json.dumps(x, ensure_ascii=False)
    return env.from_string(template).render(**variables)


def render_ours(jobs):
    text = "".join(json.dumps({"template": t, "vars": v}) + "\n" for t, v in jobs)
    out = subprocess.run([tool("jinja")], input=text, capture_output=True, text=True, check=True).stdout
    return [json.loads(line) for line in out.splitlines()]


def test_templates_equal_jinja2():
    jobs = [(t, {"messages": m, "add_generation_prompt": add, "bos_token": "<s>", "eos_token": "</s>"})
            for t in TEMPLATES.values() for m in conversations() for add in (True, False)]
    for (template, variables), got in zip(jobs, render_ours(jobs)):
        try:
            want = render_jinja2(template, variables)
        except TemplateError as e:
            assert str(e) in got["error"]
            continue
        assert got.get("out") == want, (template, variables["messages"], got)


@pytest.mark.parametrize("template,word", [
    ("{% macro f() %}", "endmacro"), ("{% break %}", "loop"), ("{{ 'a' | trim(b=1) }}", "trim"), ("{{ messages.__class__.__mro__() }}", "__mro__"), ("{{ cycler('a') }}", "cycler"),
    ("{% include 'x' %}", "include"), ("{{ x | shuffle }}", "shuffle"), ("{{ x is callable }}", "callable"),
    ("{{ " + "(" * 100 + "1" + ")" * 100 + " }}", "nested"), ("{% if x %}", "endif"), ("{{ 'abc }}", "string"),
    ("{{ 1 +", "end"), ("{% for %}{% endfor %}", "name"), ("{% set 3 = 4 %}", "name"), ("{{ a b }}", "unexpected"),
])
def test_what_is_not_supported_is_named(template, word):
    got = render_ours([(template, {"messages": []})])[0]
    assert word in got["error"]


@pytest.mark.parametrize("template", [
    "{% for a in range(99999) %}{% for b in range(99999) %}x{% endfor %}{% endfor %}",
    "{% set ns = namespace(s='aaaaaaaaaaaaaaaa') %}{% for a in range(60) %}{% set ns.s = ns.s + ns.s %}{% endfor %}",
    "{{ 9223372036854775807 + 1 }}", "{{ 1 // 0 }}", "{{ 1 % 0 }}", "{{ missing.x }}", "{{ 'a' - 1 }}", "{{ range(1, 2, 0) }}",
])
def test_hostile_templates_end_with_an_error(template):
    assert "error" in render_ours([(template, {"messages": []})])[0]


def test_dunder_attributes_are_only_keys():
    assert render_ours([("{{ messages.__class__ }}|{{ messages['__class__'] }}", {"messages": {"a": 1}})])[0]["out"] == "|"
