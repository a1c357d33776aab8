"""Answers within JSON schemas and grammars: which constructs are taken, that what is drawn is valid, and that forced tokens change nothing."""
import json
import random
import subprocess

import jsonschema
import pytest

from conftest import MODEL, ROOT, tool

TINY = ROOT / "test/golden/data/vocab-gpt2.gguf"


class Sampler:
    """The grammar alone: any token that its mask allows (test/tool/sample.c)."""

    def __init__(self, vocab):
        self.p = subprocess.Popen([tool("sample"), str(vocab)], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)

    def __call__(self, **job):
        self.p.stdin.write(json.dumps(job) + "\n")
        self.p.stdin.flush()
        return json.loads(self.p.stdout.readline())


@pytest.fixture(scope="module", params=[TINY, MODEL], ids=["small", "real"])
def sample(request):
    s = Sampler(request.param)
    yield s
    s.p.stdin.close()
    assert s.p.wait(10) == 0


def problem(schema, text):
    """None, or why a text is not valid under a schema."""
    draft = jsonschema.Draft7Validator if isinstance(schema, dict) and isinstance(schema.get("items"), list) else jsonschema.Draft202012Validator
    try:
        return next((e.message for e in draft(schema, format_checker=draft.FORMAT_CHECKER).iter_errors(json.loads(text))), None)
    except ValueError as e:
        return f"no JSON: {e}"


# --- constructs ----------------------------------------------------------------------------------

def obj(required=(), more=None, **properties):
    s = {"type": "object", "properties": properties, "required": list(required)}
    return s if more is None else {**s, **more}


INT, STR, NIL = {"type": "integer"}, {"type": "string"}, {"type": "null"}
TREE = {"$defs": {"tree": obj(["v", "kids"], v=INT, kids={"type": "array", "items": {"$ref": "#/$defs/tree"}})}, "$ref": "#/$defs/tree"}

# name: schema, texts that are in the language, texts that are not
TAKEN = {
    "$schema": ({"$schema": "http://json-schema.org/draft-07/schema#", **INT}, ["1"], ["1.5"]),
    "$id, $comment": ({"$id": "x", "$comment": "y", **INT}, ["1"], ["a"]),
    "title, description": ({"title": "x", "description": "y", **INT}, ["1"], ["a"]),
    "default": (obj(a={"type": "integer", "default": 1}), ["{}", '{"a": 1}'], ['{"b": 1}']),
    "examples": ({"examples": [1], **INT}, ["7"], []),
    "readOnly, deprecated": ({"readOnly": True, "deprecated": True, "writeOnly": False, **INT}, ["7"], []),
    "$defs and $ref": ({"$defs": {"n": INT}, "type": "array", "items": {"$ref": "#/$defs/n"}}, ["[1,2]", "[]"], ['["a"]']),
    "definitions": ({"definitions": {"a/b": INT}, "$ref": "#/definitions/a~1b"}, ["1"], ['"a"']),
    "$ref recursive": (TREE, ['{"v": 1, "kids": [{"v": 2, "kids": []}]}'], ['{"v": 1, "kids": [{"v": 2}]}']),
    "$ref to the root": (obj(v=INT, next={"$ref": "#"}), ['{"next":{"next":{"v":1}}}', "{}"], ['{"next":1}']),
    "$ref with siblings": ({"$defs": {"a": obj(["x"], x=INT)}, "$ref": "#/$defs/a", "required": ["y"], "properties": {"y": NIL}}, ['{"y":null,"x":1}'], ['{"x":1}', '{"x":1,"y":null}']),
    "optional properties": (obj(["b"], a=INT, b=INT, c=INT), ['{"b":1}', '{"a":1,"b":2,"c":3}', '{"b":2, "c":3}', '{"a": 1, "b": 2}'], ["{}", '{"a":1}', '{"b":1,"a":2}', '{"a":1,"b":2,}', '{,"b":1}', '{"b":1,"b":1}']),
    "type list": ({"type": ["integer", "null"]}, ["1", "null"], ["true"]),
    "nullable": ({"type": "string", "nullable": True}, ["null", '"a"'], ["1"]),
    "anyOf": ({"anyOf": [INT, NIL]}, ["1", "null"], ["true"]),
    "anyOf beside others": ({**obj(a=INT, b=INT), "anyOf": [{"required": ["a"]}, {"required": ["b"]}]}, ['{"a":1}', '{"b":1}', '{"a":1,"b":1}'], ["{}"]),
    "oneOf": ({"oneOf": [obj(["k"], k={"const": "a"}, x=INT), obj(["k"], k={"const": "b"}, y=INT)], "discriminator": {"propertyName": "k"}}, ['{"k":"a","x":1}', '{"k":"b"}'], ['{"k":"a","y":1}']),
    "allOf": ({"allOf": [obj(["a"], a=INT), obj(["b"], b=STR), {"properties": {"a": {"minimum": 5}}}]}, ['{"a":5,"b":""}'], ['{"a":4,"b":""}', '{"a":5}']),
    "allOf of one": ({"allOf": [{"$ref": "#/$defs/n"}], "$defs": {"n": INT}, "description": "x"}, ["1"], ["true"]),
    "enum": ({"enum": ["a\"b", "é", 1, None, 2.5, {"a": [1]}]}, ['"a\\"b"', '"é"', "1", "null", "2.5", '{"a":[1]}'], ['"a"', "2"]),
    "enum of 1,000": ({"enum": [f"value {i}" for i in range(1000)]}, ['"value 0"', '"value 999"'], ['"value 1000"']),
    "enum with type": ({"type": "integer", "enum": ["a", 1, 2]}, ["1"], ['"a"']),
    "const": ({"const": {"a": [1, "x"]}}, ['{"a":[1,"x"]}'], ["{}"]),
    "minLength, maxLength": ({"type": "string", "minLength": 2, "maxLength": 3}, ['"ab"', '"äöü"', '"a\\n"', '"😀\\ud83d\\ude00"'], ['"a"', '"abcd"', '"ä"']),
    "a long maxLength": ({"type": "string", "maxLength": 100000}, ['"ab"'], []),
    "pattern": ({"type": "string", "pattern": "^[a-z]{2}-\\d+$"}, ['"ab-12"'], ['"ab-"', '"xab-1"']),
    "pattern inside": ({"type": "string", "pattern": "b\\d"}, ['"ab1c"'], ['"ab"']),
    "pattern with quotes": ({"type": "string", "pattern": "^\"[^x]\\\\$"}, ['"\\"y\\\\"', '"\\"\\n\\\\"'], ['"\\"x\\\\"']),
    "pattern with length": ({"type": "string", "pattern": "^[a-z]+$", "minLength": 2, "maxLength": 3}, ['"ab"', '"abc"'], ['"a"', '"abcd"']),
    "format": (obj(["d", "u"], d={"type": "string", "format": "date"}, u={"type": "string", "format": "uuid"}), ['{"d":"2024-02-28","u":"123e4567-e89b-12d3-a456-426614174000"}'], ['{"d":"2024-02-30","u":"123e4567-e89b-12d3-a456-426614174000"}']),
    "format of times": ({"type": "array", "prefixItems": [{"type": "string", "format": "date-time"}, {"type": "string", "format": "time"}]}, ['["2024-12-31T23:59:59Z", "01:02:03.5+01:00"]'], ['["2024-12-31", "01:02:03"]']),
    "format of addresses": ({"type": "array", "prefixItems": [{"format": "ipv4"}, {"format": "ipv6"}, {"format": "email"}, {"format": "uri"}]}, ['["127.0.0.1","2001:db8::1","a.b@c.org","https://a.org/x?y=1#z"]'], ['["256.0.0.1"]', '["1.1.1.1","::1::"]']),
    "minimum, maximum": ({"type": "integer", "minimum": -12, "maximum": 345}, ["-12", "0", "345", "99"], ["-13", "346", "1000", "-0"]),
    "safe integers": ({"type": "integer", "minimum": -9007199254740991, "maximum": 9007199254740991}, ["9007199254740991", "-9007199254740991"], ["9007199254740992"]),
    "numbers in bounds": ({"type": "number", "minimum": 0.25, "maximum": 1.5}, ["0.25", "0.3", "1", "1.5", "1.4999", "0.250"], ["0.2", "0.24", "1.51", "2", "-0.5", "0"]),
    "exclusive bounds": ({"type": "number", "exclusiveMinimum": 0, "exclusiveMaximum": 10}, ["0.1", "9.99", "5"], ["0", "10", "0.0", "10.0", "-1"]),
    "negative numbers": ({"type": "number", "exclusiveMaximum": -1.5}, ["-1.51", "-2", "-100"], ["-1.5", "0", "1", "-1"]),
    "multipleOf": ({"type": "integer", "multipleOf": 7}, ["0", "7", "-14", "700"], ["1", "8"]),
    "multipleOf in bounds": ({"type": "integer", "multipleOf": 50, "minimum": 100}, ["100", "150", "1000000"], ["50", "0", "101"]),
    "minItems, maxItems": ({"type": "array", "items": INT, "minItems": 1, "maxItems": 2}, ["[1]", "[1, 2]"], ["[]", "[1,2,3]"]),
    "many items": ({"type": "array", "items": INT, "maxItems": 5000}, ["[1,2]"], []),
    "prefixItems": ({"type": "array", "prefixItems": [INT, STR], "items": NIL, "minItems": 1}, ["[1]", '[1,"a"]', '[1,"a",null]'], ["[]", '["a"]', '[1,"a",1]']),
    "items of a tuple": ({"type": "array", "items": [INT, STR], "additionalItems": False, "minItems": 2}, ['[1,"a"]'], ["[1]", '[1,"a",1]']),
    "additionalProperties": ({"type": "object", "additionalProperties": INT}, ["{}", '{"a":1,"b c":2}'], ['{"a":"b"}']),
    "additionalProperties beside": (obj(["id"], {"additionalProperties": STR}, id=INT), ['{"id":1}', '{"id":1,"x":"y"}', '{"id":1,"ida":"y"}'], ['{"id":"x"}', '{"id":1,"id":"x"}', '{"id":1,"x":1}']),
    "additionalProperties true": (obj(["id"], {"additionalProperties": True}, id=INT), ['{"id":1,"x":[{}]}'], ['{"x":1}']),
    "patternProperties": ({"type": "object", "patternProperties": {"^x-": INT}}, ['{"x-a":1}', "{}"], ['{"y":1}', '{"x-a":"b"}']),
    "propertyNames": ({"type": "object", "propertyNames": {"pattern": "^[a-z]+$"}, "additionalProperties": INT}, ['{"ab":1}'], ['{"A":1}']),
    "propertyNames of a list": ({"type": "object", "propertyNames": {"enum": ["a", "b"]}}, ['{"a":1}'], ['{"c":1}']),
    "minProperties, maxProperties": ({**obj(a=INT, b=INT, c=INT), "minProperties": 1, "maxProperties": 2}, ['{"a":1}', '{"a":1,"c":2}'], ["{}", '{"a":1,"b":2,"c":3}']),
    "free object": ({"type": "object"}, ["{}", '{"a": [1, {"b": null}], "c": "d"}'], ["[]", "1"]),
    "free value": ({}, ["1", "null", "[]", '{"a":{}}', "-1.5e-3"], ["a", "01"]),
    "free array": ({"type": "array"}, ["[]", "[1,[2]]"], ["{}"]),
    "boolean schemas": (obj(a=True, b=False), ["{}", '{"a":[]}'], ['{"b":1}']),
    "required that is no property": (obj(["z"], a=INT), ['{"z":"x"}'], ['{"a":1}']),
    "names and values escaped": (obj(['q"\\\n'], **{'q"\\\n': {"const": "\t"}}), ['{"q\\"\\\\\\n": "\\t"}'], []),
    "enum and const": ({"enum": [1, 2, "a"], "const": 2}, ["2"], ["1"]),
    "enum beside anyOf": ({"enum": [1, 2, "a"], "anyOf": [{"type": "string"}, {"minimum": 2}]}, ["2", '"a"'], ["1"]),
    "propertyNames of properties": ({**obj(abc=INT, d=INT), "propertyNames": {"maxLength": 2}}, ['{"d":1}'], ['{"abc":1}']),
    "propertyNames of no string": ({"type": "object", "propertyNames": {"type": "integer"}}, ["{}"], ['{"a":1}']),
    "no type": ({"properties": {"a": INT}, "required": ["a"]}, ['{"a":1}'], ["{}"]),
}
LOOSE = {
    "not": {"not": INT, "type": ["string", "integer"]}, "if": {"if": INT, "then": {"minimum": 5}, "type": "integer"}, "uniqueItems": {"type": "array", "items": INT, "uniqueItems": True},
    "contentEncoding": {"type": "string", "contentEncoding": "base64"}, "contains": {"type": "array", "contains": INT}, "dependentRequired": {**obj(a=INT, b=INT), "dependentRequired": {"a": ["b"]}},
    "pattern": {"type": "string", "pattern": "^(?!a)"}, "oneOf": {"oneOf": [INT, {"type": "number"}]}, "format": {"type": "string", "format": "colour"}, "multipleOf": {"type": "number", "multipleOf": 0.01},
    "maxLength": {"type": "string", "pattern": "^a+b+$", "maxLength": 5}, "x-mine": {"type": "integer", "x-mine": 1},
    "required": {"enum": [{"a": 1}, {}], "required": ["a"]}, "then": {"$ref": "#/$defs/n", "then": {}, "$defs": {"n": INT}}}
REFUSED = [{"$ref": "http://a.org/b"}, {"$ref": "#/$defs/none"}, {"type": "thing"}, {"type": "object", "properties": []}, {"enum": []}, {"const": 1, "type": "string"}, {"allOf": [INT, STR]}, {"anyOf": []},
           {"type": "integer", "minimum": 2, "maximum": 1}, {"type": "string", "minLength": 2, "maxLength": 1}, {"type": "array", "minItems": 2, "maxItems": 1}, {"type": "array", "items": INT, "minItems": -1},
           obj(["a"], {"additionalProperties": False}), obj(["a"], a={"$ref": "#"}), False, [], "x", {"type": "integer", "minimum": "1"}, {"properties": {"a": 1}}, {"type": "string", "pattern": 1}]


@pytest.mark.parametrize("name", TAKEN)
def test_constructs(sample, name):
    schema, good, bad = TAKEN[name]
    for text in good + bad:
        r = sample(schema=schema, text=text, strict=True, n=0)
        assert r.get("is") == (text in good), (text, r)
    drawn = sample(schema=schema, n=3, tokens=12)
    assert "error" not in drawn and drawn["loose"] == []
    for text in drawn["out"]:
        assert "nullable" in schema or problem(schema, text) is None, text


@pytest.mark.parametrize("name", LOOSE)
def test_what_is_not_enforced_is_named(sample, name):
    assert name in sample(schema=LOOSE[name])["loose"]
    assert name in sample(schema=LOOSE[name], strict=True)["error"]


def ask(server, schema=None, **kw):
    form = {"response_format": {"type": "json_schema", "json_schema": {"name": "x", "schema": schema}}} if schema is not None else {}
    return server.chat("Write JSON.", **{"max_tokens": 24, "temperature": 0, **form, **kw})


@pytest.mark.parametrize("schema", REFUSED, ids=lambda s: json.dumps(s)[:40])
def test_impossible_schemas_are_refused(server, schema):
    r = ask(server, schema)
    assert r.status_code == 400 and r.json()["error"]["param"] == "response_format", r.text


def test_the_receipt_names_what_is_not_enforced(server):
    r = ask(server, {"type": "integer", "not": {"const": 1}, "if": {}, "maximum": 9}).json()
    assert r["usage"]["sparing"]["not_enforced"] == ["not", "if"] and 0 <= abs(int(r["choices"][0]["message"]["content"]))
    assert "not_enforced" not in ask(server, INT | {"maximum": 9}).json()["usage"]["sparing"]
    strict = {"type": "json_schema", "json_schema": {"name": "x", "strict": True, "schema": {"type": "integer", "not": {}}}}
    r = server.chat("x", response_format=strict)
    assert r.status_code == 400 and "not" in r.json()["error"]["message"]


def test_json_object(server):
    for seed in range(3):
        c = server.chat("Give me a JSON object about a cat.", temperature=1, seed=seed, max_tokens=200, response_format={"type": "json_object"}).json()["choices"][0]
        assert c["message"]["content"].startswith("{")
        assert c["finish_reason"] == "length" or isinstance(json.loads(c["message"]["content"]), dict)


FORM = obj(["first name", "family name", "age", "address"], {"additionalProperties": False}, **{"first name": {"enum": ["Ann", "Bob"]}, "family name": {"maxLength": 12, "type": "string"}, "age": {"type": "integer", "minimum": 0, "maximum": 99},
           "address": obj(["street number", "town"], **{"street number": {"type": "integer", "maximum": 9, "minimum": 0}, "town": {"type": "string", "maxLength": 10}})})


@pytest.mark.parametrize("kw", [{}, {"temperature": 1.3, "seed": 5}, {"sparing": {"draft": 0}}, {"temperature": 1, "seed": 2, "n": 3}, {"max_tokens": 13}], ids=str)
def test_forced_tokens_change_nothing(server, kw):
    """Log-probabilities need a forward pass for each token: so it is seen what the same answer is without the fast path."""
    kw = {"max_tokens": 120, **kw}
    fast, slow = ask(server, FORM, **kw).json(), ask(server, FORM, logprobs=True, **kw).json()
    assert [c["message"]["content"] for c in fast["choices"]] == [c["message"]["content"] for c in slow["choices"]]
    a, b = fast["usage"]["sparing"]["decode"], slow["usage"]["sparing"]["decode"]
    assert a["tokens"] == b["tokens"] and a["forced"] > 0 == b["forced"] and a["steps"] + a["accepted"] < b["steps"] + b["accepted"]
    if kw["max_tokens"] > 100:
        for c in fast["choices"]:
            assert c["finish_reason"] == "length" or problem(FORM, c["message"]["content"]) is None, c


def test_a_form_that_leaves_no_choice_takes_one_step(server):
    r = ask(server, {"const": {"only": ["this", "and", "nothing", "else"]}}, max_tokens=64).json()
    decode = r["usage"]["sparing"]["decode"]
    assert json.loads(r["choices"][0]["message"]["content"]) == {"only": ["this", "and", "nothing", "else"]} and decode["forced"] == decode["tokens"] - 1
    assert decode["steps"] <= 1


@pytest.mark.parametrize("kw", [
    {"structured_outputs": {"regex": "[ab]{3}"}}, {"guided_regex": "[ab]{3}"}, {"sparing": {"grammar": 'root ::= [ab]{3}'}}, {"grammar": 'root ::= [ab]{3}'}, {"guided_grammar": 'root ::= [ab]{3}'},
    {"structured_outputs": {"grammar": 'root ::= [ab]{3}'}}, {"structured_outputs": {"choice": ["aab", "bbb"]}}, {"guided_choice": ["aab", "bbb"]}], ids=str)
def test_other_servers_spellings(server, kw):
    text = server.chat("x", max_tokens=8, **kw).json()["choices"][0]["message"]["content"]
    assert len(text) == 3 and set(text) <= {"a", "b"}


def test_other_servers_spellings_of_schemas(server):
    schema = {"type": "integer", "minimum": 10, "maximum": 12}
    for kw in ({"structured_outputs": {"json": schema}}, {"guided_json": schema}, {"guided_json": json.dumps(schema)}, {"json_schema": schema}):
        assert server.chat("x", max_tokens=8, **kw).json()["choices"][0]["message"]["content"] in ("10", "11", "12"), kw
    r = server.http.post("/v1/completions", json={"prompt": "x", "max_tokens": 8, "guided_json": schema}).json()
    assert r["choices"][0]["text"] in ("10", "11", "12")
    for kw in ({"structured_outputs": {}}, {"structured_outputs": {"json": {}, "regex": "a"}}, {"guided_regex": ""}, {"guided_choice": []}, {"guided_json": "{"}, {"guided_regex": "a", "guided_choice": ["b"]}):
        r = server.chat("x", **kw)
        assert r.status_code == 400 and r.json()["error"]["param"] in (*kw, "response_format"), r.text


# --- drawn schemas -------------------------------------------------------------------------------

NAMES = ["id", "name", "a", "ab", "first name", "größe", 'q"', "back\\slash", "x-1", "list", "😀"]


class Maker:
    """Schemas of every construct that can be enforced, at random; no two branches of a oneOf overlap."""

    def __init__(self, seed):
        self.r = random.Random(seed)
        self.defs = {}

    def string(self):
        k = self.r.randrange(6)
        lo = self.r.randrange(4)
        return [{}, {"minLength": lo}, {"maxLength": lo}, {"minLength": lo, "maxLength": lo + self.r.randrange(30)},
                {"pattern": self.r.choice(["^[a-z]+$", "\\d{2,}", "^(ab|c)*$", "^[^\"\\\\]{1,3}$", "^\\w+@\\w+\\.de$", "x|^y$", "^[à-ü]{2}", "^\\s*\\S", "^$"])},
                {"format": self.r.choice(["date", "time", "date-time", "uuid", "email", "hostname", "ipv4", "ipv6", "uri"])}][k] | {"type": "string"}

    def number(self, kind):
        s = {"type": kind}
        lo = self.r.choice([-1e6, -300, -12, -1, 0, 1, 7, 99, 1000, 12345]) if self.r.random() < 0.7 else None
        if kind == "number" and lo is not None and self.r.random() < 0.6:
            lo += self.r.choice([0.5, 0.25, -0.125, 0.001, 0.99])
        span = self.r.choice([0, 1, 9, 77, 1000, 10**7]) + (self.r.choice([0, 0.5, 0.01]) if kind == "number" else 0)
        if lo is not None:
            lo = round(lo, 3)
            s[self.r.choice(["minimum", "exclusiveMinimum"])] = int(lo) if lo == int(lo) else lo
        if self.r.random() < 0.6:
            hi = (lo or 0) + span + (2 if kind == "integer" else 0.75)
            hi = round(hi, 3)
            s[self.r.choice(["maximum", "exclusiveMaximum"])] = int(hi) if hi == int(hi) else hi
        if kind == "integer" and self.r.random() < 0.3:
            s["multipleOf"] = self.r.choice([2, 3, 5, 7, 10, 25, 100])
            s = {k: v for k, v in s.items() if not k.endswith("aximum")}
        return s

    def array(self, depth):
        s = {"type": "array"}
        if self.r.random() < 0.9:
            s["items"] = self.any(depth - 1)
        if self.r.random() < 0.3:
            s["prefixItems"] = [self.any(depth - 1) for _ in range(self.r.randrange(1, 4))]
        lo = self.r.randrange(4)
        if self.r.random() < 0.4:
            s["minItems"] = lo
        if self.r.random() < 0.5:
            s["maxItems"] = lo + self.r.randrange(4)
        if s.get("maxItems", 9) <= 1:
            s["uniqueItems"] = True
        return s

    def object(self, depth):
        names = self.r.sample(NAMES, self.r.randrange(5))
        s = {"type": "object", "properties": {n: self.any(depth - 1) for n in names}}
        if names and self.r.random() < 0.8:
            s["required"] = self.r.sample(names, self.r.randrange(len(names) + 1))
        k = self.r.randrange(8)
        if k == 0:
            s["additionalProperties"] = False
        elif k == 1:
            s["additionalProperties"] = self.any(depth - 1)
        elif k == 2:
            s["additionalProperties"] = True
        elif k == 3:
            s["patternProperties"] = {self.r.choice(["^x-", "^[a-z]{2}$", "\\d"]): self.any(depth - 1)}
        elif k == 4:
            del s["properties"]
            s.pop("required", None)
            s["propertyNames"] = self.r.choice([{"pattern": "^[a-z]{1,4}$"}, {"enum": ["u", "v", "w"]}, {"maxLength": 3}])
            s["maxProperties"] = 1
        if k < 3 and self.r.random() < 0.4 and names:
            s["maxProperties"] = max(len(s.get("required", [])), self.r.randrange(4))
        if k == 0 and self.r.random() < 0.4:
            s["minProperties"] = min(self.r.randrange(3), len(names), s.get("maxProperties", 9))
        return s

    def union(self, depth):
        k = self.r.randrange(4)
        if k == 0:
            return {"anyOf": [self.any(depth - 1) for _ in range(self.r.randrange(1, 4))]}
        if k == 1:
            return {"oneOf": [self.number("integer"), self.string(), self.array(depth - 1), {"type": "null"}][self.r.randrange(3):]}
        if k == 2:
            tag = self.r.choice(NAMES)
            return {"oneOf": [{"type": "object", "properties": {tag: {"const": i}, "v": self.any(depth - 1)}, "required": [tag]} for i in ("a", 1, None)]}
        return {"allOf": [{"type": "object", "properties": {"p": self.any(depth - 1)}, "required": ["p"]}, {"type": "object", "properties": {"q": self.any(depth - 1)}}, {"maxProperties": 2}][:self.r.randrange(1, 4)]}

    def ref(self, depth):
        name = f"d{self.r.randrange(3)}"
        if name not in self.defs:
            self.defs[name] = True  # it may come again inside of itself
            self.defs[name] = {"type": "object", "properties": {"v": self.any(depth - 1), "next": {"anyOf": [{"$ref": f"#/$defs/{name}"}, {"type": "null"}]}}, "required": ["next"]}
        return {"$ref": f"#/$defs/{name}"}

    def any(self, depth):
        k = self.r.randrange(14 if depth > 0 else 8)
        if k < 2:
            return self.string()
        if k < 4:
            return self.number(self.r.choice(["integer", "number"]))
        if k < 5:
            return {"type": self.r.choice(["boolean", "null", ["string", "null"], ["integer", "boolean"]])}
        if k < 6:
            return {"enum": self.r.sample(["a", 'b"', "", 1, 2.5, None, True, ["x"], {"k": 1}, "ü\n"], self.r.randrange(1, 6))}
        if k < 7:
            return self.r.choice([{}, True, {"const": self.r.choice([1, "x", {"a": "ü"}])}])
        if k < 8:
            return {**self.string(), "title": "t", "description": "d", "default": 1, "examples": [1]}
        return [self.array, self.object, self.object, self.object, self.union, self.ref][k - 8](depth)

    def schema(self):
        s = self.any(3)
        return {**s, "$schema": "https://json-schema.org/draft/2020-12/schema", "$defs": self.defs} if isinstance(s, dict) else s


N_DRAWN = {"small": 1000, "real": 100}


def test_what_is_drawn_is_valid(sample, request):
    n = N_DRAWN["small" if "small" in request.node.name else "real"]
    whole = 0
    for seed in range(n):
        schema = Maker(seed).schema()
        r = sample(schema=schema, n=2, tokens=30, seed=seed, strict=True)
        if "nothing can match" in r.get("error", "") and "patternProperties" in json.dumps(schema):
            continue  # a property that must come and a pattern for its name contradict each other
        assert "error" not in r, (schema, r)
        for text in r["out"]:
            assert problem(schema, text) is None, (schema, text)
        whole += len(r["out"])
    assert whole >= 1.95 * n


# --- GBNF ----------------------------------------------------------------------------------------

ARITHMETIC = '''
root  ::= (expr "=" ws term "\\n")+   # from the examples of llama.cpp
expr  ::= term ([-+*/] term)*
term  ::= ident | num | "(" ws expr ")" ws
ident ::= [a-z] [a-z0-9_]* ws
num   ::= [0-9]+ ws
ws    ::= [ \\t\\n]*
'''


@pytest.mark.parametrize("gbnf,good,bad", [
    (ARITHMETIC, ["1+2=3\n", "(a*(b))=c\nx=1\n"], ["1+=3\n", "1=2", ""]),
    ('root ::= "a"\n  | b{2}\nb ::= [^a\\x41\\u00e4]', ["a", "bc", "öx"], ["ba", "b", "Ab", "äb"]),
    ('root ::= root "a" | "b"', ["b", "baaa"], ["a", "ab"]),
    ('root ::= "\\"" . "\\\\" ""\n# end', ['"é\\', '"\n\\'], ['"\\']),
    ('root ::= ( "a" |\n "b" )? x\nx ::=', ["", "a", "b"], ["ab"]),
    ('root ::= "(" root ")" | ""', ["", "(())"], ["(", "())"])])
def test_gbnf(sample, gbnf, good, bad):
    for text in good + bad:
        assert sample(gbnf=gbnf, text=text, n=0).get("is") == (text in good), text


@pytest.mark.parametrize("gbnf,says", [
    ("", "root"), ("a ::= b", "rule b"), ("a ::= \"x\"", "root"), ("root ::= \"x", "line 1"), ("root ::= (\"x\"", "line 1"), ("x", "line 1"), ("root ::= \"a\"\nroot ::= \"b\"", "line 2"),
    ("root ::= * ", "repeat"), ("root ::= \"a\"**", "repeat"), ("root ::= [z-a]", "backwards"), ("root ::= <think>", "tokens"), ("root ::= \"a\"{3,1}", "order"), ("root ::= root", "nothing can match")])
def test_bad_gbnf_is_refused(server, gbnf, says):
    r = server.chat("x", sparing={"grammar": gbnf})
    assert r.status_code == 400 and says in r.json()["error"]["message"], r.text
