"""Inputs that would cost time, memory or stack beyond any use: each is refused with 400, the message names the budget, and the server
goes on. No test here depends on speed: a server that works on one of them for ever does not answer the next request."""
import json

import pytest

BOMBS = {
    "repeats": ("((((((){512}){512}){512}){512}){512}){512}", "steps to build"),
    "stacked": ("a" + "?" * 60000, "repeats of repeats"),
    "nodes": ("(a{512}){512}", "nodes"),
    "nested": ("(" * 60000, "nested too deep"),
    "long": ("a" * 70000, "bytes"),
    "backwards": ("a{18446744073709551615}", "numbers up to 512")}


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


@pytest.mark.parametrize("schema,says", [
    (nested(20), "65536 bytes"), ({"enum": ["x" * 70000]}, "65536 bytes"), ({"type": "object", "properties": {f"{i}" * 40: {"type": "string"} for i in range(2000)}}, "bytes"),
    ({"type": "object", "properties": {"a": {"type": "null"}}, "required": ["b"]}, "required names b"), ({"type": "string", "enum": [1, 2]}, "enum"),
    ({"type": "array", "items": {"type": "null"}, "minItems": "2"}, "minItems"), ({"type": "integer", "const": "x"}, "const")])
def test_schemas_have_budgets_and_can_be_met(server, schema, says):
    r = server.chat("x", response_format={"type": "json_schema", "json_schema": {"name": "x", "schema": schema}})
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
