"""Inputs that would cost time, memory or stack beyond any use: each is refused with 400, the message names the budget, and the server
goes on. No test here depends on speed: a server that works on one of them for ever does not answer the next request."""
import http.client
import json
import select
import socket
import subprocess

import pytest

from conftest import tool

BOMBS = {
    "repeats": ("((((((a?){512}){512}){512}){512}){512}){512}", "steps"),
    "stacked": ("a" + "?" * 60000, "repeats of repeats"),
    "nodes": ("a" * 66000, "nodes"),
    "nested": ("(" * 60000, "nested too deep"),
    "long": ("a" * 270000, "bytes"),
    "backwards": ("a{18446744073709551615}", "numbers up to 1000000")}


@pytest.mark.parametrize("name", BOMBS)
def test_patterns_have_budgets(server, name):
    pattern, says = BOMBS[name]
    for body in ({"sparing": {"regex": pattern}}, {"sparing": {"task": "x", "output": {"regex": pattern}}}):
        r = server.chat("x", **body)
        assert r.status_code == 400 and says in r.json()["error"]["message"], r.text
    assert server.chat("x", max_tokens=1).status_code == 200


def nested(depth):
    s = {"type": "integer"}
    for _ in range(depth):
        s = {"type": "array", "minItems": 1, "items": s}
    return s


CHOICES = [{"properties": {f"p{i}": {"type": "integer"}}} for i in range(16)]


@pytest.mark.parametrize("schema,says", [
    ({"enum": ["x" * 70000]}, "nodes"), ({"enum": ["x" * 300000]}, "bytes"), ({"type": "object", "properties": {f"{i}" * 40: {"type": "string"} for i in range(2000)}}, "bytes"),
    ({"allOf": [{"anyOf": CHOICES}] + [{"anyOf": [{**c, "title": str(i)} for c in CHOICES]} for i in range(4)]}, "anyOf"),
    ({"type": "object", "properties": {"a": {"type": "null"}}, "required": ["b"], "additionalProperties": False}, "nothing can match"), ({"type": "string", "enum": [1, 2]}, "nothing can match"),
    ({"type": "array", "items": {"type": "null"}, "minItems": "2"}, "minItems"), ({"type": "integer", "const": "x"}, "nothing can match"), ({"$ref": "#"}, "nothing can match")])
def test_schemas_have_budgets_and_can_be_met(server, schema, says):
    r = server.chat("x", max_tokens=1, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema, "strict": True}})
    assert r.status_code == 400 and says in r.json()["error"]["message"], r.text
    assert r.json()["error"]["param"] == "response_format"


@pytest.mark.parametrize("name", ['a"b', "a\\b", "tab\there", "a.*b", "\u0001", "é{1}"])
def test_names_in_a_schema_are_json_strings(server, name):
    schema = {"type": "object", "properties": {name: {"enum": [1]}}, "required": [name], "additionalProperties": False}
    c = server.chat("x", max_tokens=60, response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}).json()["choices"][0]
    assert json.loads(c["message"]["content"]) == {name: 1}


@pytest.mark.parametrize("path", ["/v1/chat/completions", "/v1/completions", "/v1/plan", "/v1/embeddings", "/tokenize", "/detokenize", "/v1/files", "/v1/vector_stores", "/v1/conversations"])
def test_an_error_holds_nothing_of_another_request(server, path):
    """Where one request's error names a parameter, the next one's, whose JSON is broken, names none."""
    for i in range(20):
        r = server.http.post(path, content=json.dumps({f"patient_name_{i}": 1}), headers={"Content-Type": "application/json"})
        assert r.status_code >= 400
        for broken in (b"{", b"", b"[", b'{"a":1,"a":1}'):
            e = server.http.post(path, content=broken, headers={"Content-Type": "application/json"})
            if e.status_code == 200:  # an empty body may be whole
                continue
            assert e.json()["error"]["param"] is None and "patient" not in e.text, e.text


def test_a_tiny_temperature_is_greedy(server):
    want = server.chat("Name three colours.", max_tokens=8).json()["choices"][0]["message"]["content"]
    for t in (1e-45, 1e-40, 1e-38, 1e-20):
        assert server.chat("Name three colours.", max_tokens=8, temperature=t, seed=3).json()["choices"][0]["message"]["content"] == want


# --- workers -------------------------------------------------------------------------------------

def begin(server, path, body):
    """Sends a request and does not wait for its answer."""
    c = socket.create_connection(("127.0.0.1", server.port))
    c.sendall(f"POST {path} HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: {len(body)}\r\n\r\n".encode() + body)
    return c


def is_answered(c):
    return bool(select.select([c], [], [], 0)[0])


DIGITS, FEWER = b"1" * 15_000_000, b"1" * 5_000_000


def test_a_large_request_stops_nobody(server):
    """Five million tokens are in work; what comes after them is answered before them, a stream's next tokens too."""
    with server.http.stream("POST", "/v1/chat/completions", json={"messages": [{"role": "user", "content": "Tell me a story."}], "max_tokens": 60, "stream": True, "temperature": 0, "ignore_eos": True}) as st:
        lines = st.iter_lines()
        next(lines)
        c = begin(server, "/tokenize", b'{"content":"' + FEWER + b'"}')
        for _ in range(5):
            assert server.http.get("/health").status_code == 200
        assert len(server.tokens("a few words")) > 2
        assert not is_answered(c)
        n = 0
        for x in lines:
            n += x.startswith("data: {")
            if is_answered(c):
                break
        assert n >= 1
    r = http.client.HTTPResponse(c)
    r.begin()
    assert r.status == 200 and r.read().count(b",") == len(FEWER) - 1
    c.close()


@pytest.mark.parametrize("path,body,says", [
    ("/v1/chat/completions", b'{"messages":[{"role":"user","content":"' + DIGITS + b'"}]}', "bytes"), ("/v1/completions", b'{"prompt":"' + b"1" * 300_000 + b'"}', "tokens"),
    ("/v1/chat/completions", b'{"seed":' + DIGITS + b"}", "integer"), ("/v1/completions", b'{"prompt":[' + b"1," * 7_000_000 + b"1]}", "more than 2000000 values"), ("/v1/completions", b'{"prompt":[' + b"1," * 1_900_000 + b"1]}", "the context holds"),
    ("/v1/chat/completions", b"{" + b",".join(b'"k%d":1' % i for i in range(500_000)) + b"}", "k0"), ("/v1/plan", b"[" * 15_000_000, "nested deeper than 64"),
    ("/v1/chat/completions", b'{"messages":[' + b",".join([b'{"role":"user","content":""}'] * 300_000) + b"]}", "messages"),
    ("/v1/chat/completions", b'{"messages":[{"role":"user","content":"x"}],"sparing":{"choices":["' + b'","'.join([b"a" * 50] * 200_000) + b'"]}}', "bytes")], ids=range(9))
def test_large_bodies_are_refused(server, path, body, says):
    r = server.http.post(path, content=body, headers={"Content-Type": "application/json"})
    assert r.status_code == 400 and says in r.json()["error"]["message"], r.text[:300]


def test_a_client_may_leave_while_a_worker_is_busy(make_server):
    """Its work ends by itself; and a server that is told to stop meanwhile stops."""
    s = make_server()
    for path, body in (("/tokenize", b'{"content":"' + FEWER + b'"}'), ("/v1/chat/completions", b'{"messages":[{"role":"user","content":"' + DIGITS + b'"}]}')):
        for _ in range(3):
            begin(s, path, body).close()
    assert s.http.get("/health").status_code == 200
    assert s.chat("x", max_tokens=1).status_code == 200
    c = begin(s, "/tokenize", b'{"content":"' + FEWER + b'"}')
    assert s.http.get("/health").status_code == 200
    assert s.stop() == 0
    c.close()


# --- templates -----------------------------------------------------------------------------------

def render(template, **variables):
    out = subprocess.run([tool("jinja")], input=json.dumps({"template": template, "vars": variables}) + "\n", capture_output=True, text=True, check=True)
    return json.loads(out.stdout)


NS = "{% set ns = namespace(x=1) %}"
LOOP = "{% for i in range(90000) %}"
BIG = "{% set ns = namespace(x='abcdefghijklmnop') %}{% for i in range(16) %}{% set ns.x = ns.x + ns.x %}{% endfor %}"  # 1 MiB
TEMPLATES = {
    "cycle": (NS + "{% set ns.x = ns %}{{ ns }}", "nested deeper than 64"), "cycle as text": (NS + "{% set ns.x = ns %}{{ ns ~ 'a' }}", "nested deeper than 64"),
    "cycle as JSON": (NS + "{% set ns.x = ns %}{{ ns | tojson }}", "nested deeper than 64"), "cycles compared": (NS + "{% set ns.x = ns %}{% set b = namespace(x=1) %}{% set b.x = b %}{{ ns == b }}", "nested deeper"),
    "nested lists": (NS + LOOP + "{% set ns.x = [ns.x] %}{% endfor %}{{ ns.x }}", "nested deeper than 64"),
    "nested lists compared": (NS + "{% set m = namespace(x=1) %}" + LOOP + "{% set ns.x = [ns.x] %}{% set m.x = [m.x] %}{% endfor %}{{ ns.x == m.x }}", "nested deeper than 64"),
    "nested lists searched": (NS + "{% set m = namespace(x=1) %}" + LOOP + "{% set ns.x = [ns.x] %}{% set m.x = [m.x] %}{% endfor %}{{ ns.x in [m.x] }}", "nested deeper than 64"),
    "doubled lists": (NS + "{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% endfor %}{{ ns.x }}", "steps"),
    "doubled lists compared": (NS + "{% set m = namespace(x=1) %}{% for i in range(60) %}{% set ns.x = [ns.x, ns.x] %}{% set m.x = [m.x, m.x] %}{% endfor %}{{ ns.x == m.x }}", "steps"),
    "doubled text": (NS + "{% set ns.x = 'abcdefgh' %}{% for i in range(60) %}{% set ns.x = ns.x + ns.x %}{% endfor %}", "16777216 bytes"),
    "output": (BIG + "{% for i in range(1000) %}{{ ns.x }}{% endfor %}", "16777216 bytes"),
    "searches": (BIG + LOOP + "{% if 'zz' in ns.x %}a{% endif %}{% endfor %}", "steps"), "comparisons": (BIG + "{% set b = ns.x ~ '' %}" + LOOP + "{% if b == ns.x %}a{% endif %}{% endfor %}", "steps"),
    "strips": (BIG + LOOP + "{% if ns.x.strip(ns.x) %}a{% endif %}{% endfor %}", "steps"), "lengths": (BIG + LOOP + "{% if ns.x | length == 1 %}a{% endif %}{% endfor %}", "steps"),
    "characters": (BIG + LOOP + "{% if ns.x[i] == 'z' %}a{% endif %}{% endfor %}", "steps"), "replacements": (BIG + LOOP + "{% if ns.x.replace('zz', 'y') == 'a' %}a{% endif %}{% endfor %}", "steps|memory"),
    "loops": (LOOP + LOOP + "{% endfor %}{% endfor %}", "steps|memory"), "a long sum": ("{{ 1" + " + 1" * 60000 + " }}", "nested deeper than 512"),
    "a long path": ("{{ a" + ".b" * 60000 + " }}", "nested deeper than 512"), "many filters": ("{{ 'a'" + " | trim" * 20000 + " }}", "nested deeper than 512"),
    "many branches": ("{% if false %}" + "{% elif false %}" * 10000 + "{% endif %}", "nested deeper than 512"), "a large map": ("{{ {" + ",".join(f"'k{i}':1" for i in range(20000)) + "} }}", "steps")}


@pytest.mark.parametrize("name", TEMPLATES)
def test_templates_have_budgets(name):
    template, says = TEMPLATES[name]
    error = render(template).get("error", "")
    assert any(s in error for s in says.split("|")), error


def test_templates_within_budgets():
    """The same operations on what chat templates see: long messages, a few of them."""
    text = "word é " * 40000
    assert render("{{ a[1:] }}", a=text)["out"] == text[1:] and render("{{ a[::-1] }}", a="añb")["out"] == "bña"
    assert render("{{ a[-4:] }}|{{ a[2:5] }}|{{ a[5:2] }}|{{ a[::2] }}", a="abcdéfgh")["out"] == "éfgh|cdé||acég"
    assert render("{% for m in a %}{{ m.strip() | trim }}{% if '</think>' in m %}{{ m.split('</think>')[-1] }}{% endif %}{% endfor %}", a=[text] * 20)["out"] == text.strip() * 20
    assert render("{{ '12345'[1:3] | int }}")["out"] == "23"
    assert render("{{ [1, [2, {'a': 3}]] == [1, [2, {'a': 3}]] }}{{ {'a': 1, 'b': [2]} == {'b': [2], 'a': 1} }}{{ {'a': 1} == {'b': 1} }}")["out"] == "TrueTrueFalse"
