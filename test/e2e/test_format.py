"""Answers within a schema, a pattern, or a list."""
import json
import re

import openai
import pytest

PERSON = {"type": "object", "additionalProperties": False, "required": ["name", "age", "tags", "pet"],
          "properties": {"name": {"type": "string", "maxLength": 20}, "age": {"type": "integer"},
                         "tags": {"type": "array", "items": {"enum": ["red", "green"]}, "maxItems": 3},
                         "pet": {"anyOf": [{"type": "null"}, {"type": "object", "properties": {"legs": {"type": "number"}, "tame": {"type": "boolean"}}, "required": ["legs", "tame"]}]}}}


@pytest.mark.parametrize("temperature", [0, 1, 2])
def test_json_schema_always_holds(server, temperature):
    """Hot sampling too; what the client sees is the schema, or an answer cut off by max_tokens that began it."""
    whole = 0
    for seed in range(6):
        r = server.chat("Describe Ann, who is 31 and owns a dog.", temperature=temperature, seed=seed, max_tokens=90,
                        response_format={"type": "json_schema", "json_schema": {"name": "person", "schema": PERSON, "strict": True}}).json()
        c = r["choices"][0]
        if c["finish_reason"] == "length":
            continue
        whole += 1
        j = json.loads(c["message"]["content"])
        assert list(j) == ["name", "age", "tags", "pet"] and isinstance(j["age"], int) and len(j["name"]) <= 20
        assert len(j["tags"]) <= 3 and set(j["tags"]) <= {"red", "green"}
        assert j["pet"] is None or (list(j["pet"]) == ["legs", "tame"] and isinstance(j["pet"]["tame"], bool))
    assert whole >= 3


def test_choices_and_patterns(server):
    for seed in range(4):
        text = lambda **own: server.chat("Is the sky blue?", temperature=1.5, seed=seed, sparing=own).json()["choices"][0]["message"]["content"]
        assert text(choices=["yes", "no", "perhaps (a+b)"]) in ("yes", "no", "perhaps (a+b)")
        assert re.fullmatch(r"\d{4}-\d{2}-\d{2}", text(regex=r"\d{4}-\d{2}-\d{2}"))
    r = server.chat("Is the sky blue?", sparing={"choices": ["certainly"]}, n=2).json()
    assert [c["message"]["content"] for c in r["choices"]] == ["certainly"] * 2 and r["choices"][0]["finish_reason"] == "stop"


def test_openai_python_parses(server):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    text = "".join(c.choices[0].delta.content or "" for c in client.chat.completions.create(
        model=server.http.get("/v1/models").json()["data"][0]["id"], messages=[{"role": "user", "content": "Rate water from 1 to 5."}], stream=True, temperature=0,
        response_format={"type": "json_schema", "json_schema": {"name": "rate", "schema": {"type": "object", "properties": {"stars": {"enum": [1, 2, 3, 4, 5]}}, "required": ["stars"]}}}))
    assert json.loads(text)["stars"] in (1, 2, 3, 4, 5)


@pytest.mark.parametrize("body,param,says", [
    ({"response_format": {"type": "json_schema"}}, "response_format", "schema is missing"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"type": "string", "pattern": "(?=a)"}, "strict": True}}}, "response_format", "pattern"),
    ({"response_format": {"type": "xml"}}, "response_format", "json_object"),
    ({"response_format": {"type": "json_schema", "json_schema": {"schema": {"$ref": "#/x"}}}}, "response_format", "schema"),
    ({"sparing": {"regex": "a("}}, "sparing", "byte 2"), ({"sparing": {"choices": []}}, "sparing", "choices"), ({"sparing": {"choices": [1]}}, "sparing", "choices[0]"),
    ({"sparing": {"regex": "((a?{500}){500}){500}"}}, "sparing", "steps"), ({"sparing": {"choices": ["a"], "regex": "b"}}, "response_format", "exclude")])
def test_bad_formats_are_named(server, body, param, says):
    e = server.chat("x", **body)
    assert e.status_code == 400 and e.json()["error"]["param"] == param and says in e.json()["error"]["message"], e.text
