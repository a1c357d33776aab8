"""Another server that answers in our stead, and does not behave: what it sends is bounded, and what it says is passed on."""
import json
import time

import pytest

from test_serving import HARD, Collector, body, stream

ONLY = {"path": "upstream", "forbid": ["full"]}


@pytest.fixture(scope="module")
def up():
    """What it answers is up.say(handler), which each test sets."""
    c = Collector(lambda h: c.say(h))
    yield c
    c.stop()


@pytest.fixture(scope="module")
def away(up):
    from conftest import Server
    s = Server("--upstream", up.url + "/v1", "--upstream-total", "5", "--upstream-timeout", "3")
    yield s
    assert s.stop() == 0


@pytest.fixture(autouse=True)
def closed_circuit(up, away):
    """A success closes the circuit that an earlier test's failures have opened."""
    up.say = lambda h: stream(h, ["ok"])
    end = time.monotonic() + 60
    while away.http.post("/v1/chat/completions", json=body(HARD, sparing=ONLY)).status_code != 200:
        assert time.monotonic() < end
        time.sleep(0.2)
    up.got.clear()


def ask(s, **kw):
    return s.http.post("/v1/chat/completions", json=body(HARD, sparing=ONLY, **kw))


def raw(h, text, times=1, wait=0):
    h.send_response(200)
    h.send_header("Content-Type", "text/event-stream")
    h.send_header("Connection", "close")
    h.end_headers()
    for _ in range(times):
        h.wfile.write(text)
        h.wfile.flush()
        if wait:
            time.sleep(wait)


def chunk(delta, reason=None):
    return b"data: " + json.dumps({"choices": [{"index": 0, "delta": delta, "finish_reason": reason}]}).encode() + b"\n\n"


def test_tokens_are_bounded(up, away):
    """It streams on after max_tokens: the answer has as many as were asked for, and nobody waits for the rest."""
    up.say = lambda h: raw(h, chunk({"content": "w "}), times=10**7)
    c = ask(away).json()
    assert c["choices"][0]["message"]["content"] == "w " * 24 and c["choices"][0]["finish_reason"] == "length" and c["usage"]["completion_tokens"] == 24
    assert away.metric("sparing_upstream_circuit_open") == 0
    up.say = lambda h: raw(h, chunk({"content": "w "}) * 24 + chunk({}, "stop"))  # just as many is not too many
    assert ask(away).json()["choices"][0]["finish_reason"] == "stop"


@pytest.mark.parametrize("text", [b": keep\n\n" * 1000, chunk({"reasoning_content": "x" * 1000}), chunk({"role": "assistant"}), b"data: " + b"x" * 65536])
def test_bytes_are_bounded(up, away, text):
    up.say = lambda h: raw(h, text, times=10**7)
    r = ask(away)
    assert r.status_code == 502 and "bytes" in r.json()["error"]["message"], r.text


def test_seconds_are_bounded(up, away):
    """A byte now and then is not silence."""
    up.say = lambda h: raw(h, b": keep\n\n", times=600, wait=0.2)
    r = ask(away)
    assert r.status_code == 504 and "in time" in r.json()["error"]["message"], r.text


@pytest.mark.parametrize("theirs,ours", [(400, 400), (413, 400), (422, 400), (401, 502), (403, 502), (404, 502), (500, 502), (502, 502), (429, 503), (503, 503), (504, 504)])
def test_statuses_are_mapped(up, away, theirs, ours):
    up.say = lambda h: h.send_error(theirs)
    r = ask(away)
    assert r.status_code == ours and f"answered with {theirs}" in r.json()["error"]["message"], r.text
    assert ("retry-after" in r.headers) == (ours == 503)


@pytest.mark.parametrize("say,status", [(lambda h: h.send_error(500), 502), (lambda h: h.send_error(429), 503), (lambda h: raw(h, b"data: {\n\n"), 502), (lambda h: None, 502)])
def test_a_stream_that_fails_before_its_first_word_has_that_status(up, away, say, status):
    up.say = say
    r = ask(away, stream=True)
    assert r.status_code == status and r.headers["content-type"] == "application/json" and r.json()["error"]["message"], r.text


def test_words_that_came_are_told_before_the_error(up, away):
    """However soon the error follows them."""
    up.say = lambda h: raw(h, chunk({"content": "half an ans"}) + b"data: {\n\n")
    with away.http.stream("POST", "/v1/chat/completions", json=body(HARD, sparing=ONLY, stream=True)) as st:
        lines = [x for x in st.iter_lines() if x.startswith("data: ")]
    assert st.status_code == 200 and "half an ans" in lines[1] and "error" in json.loads(lines[-1][6:])


@pytest.mark.parametrize("data", [b"data: {\n\n", b"data: []\n\n", b"data: \xff\xfe\n\n", b"data: " + b"[" * 100000 + b"\n\n", b"not a stream at all", b""])
def test_bad_data_is_a_bad_gateway(up, away, data):
    up.say = lambda h: raw(h, data)
    assert ask(away).status_code == 502


def test_an_open_circuit_says_when_to_come_back(up, away):
    up.say = lambda h: h.send_error(500)
    for _ in range(3):
        assert ask(away).status_code == 502
    n = len(up.got)
    r = ask(away)
    assert r.status_code == 503 and int(r.headers["retry-after"]) >= 1 and len(up.got) == n
    r = away.http.post("/v1/chat/completions", json=body(HARD, sparing={"path": "upstream"}))  # here, where that may be
    assert r.status_code == 200 and r.json()["usage"]["sparing"]["path"] == "full" and len(up.got) == n


def test_refused_requests_do_not_open_the_circuit(up, away):
    up.say = lambda h: h.send_error(400)
    for _ in range(5):
        assert ask(away).status_code == 400
    assert away.metric("sparing_upstream_circuit_open") == 0


CALLS = [{"tool_calls": [{"index": 0, "id": "c1", "type": "function", "function": {"name": "look", "arguments": ""}}]},
         {"tool_calls": [{"index": 0, "function": {"arguments": '{"a": '}}]}, {"tool_calls": [{"index": 0, "function": {"arguments": "1}"}}, {"index": 1, "id": "c2", "type": "function", "function": {"name": "go", "arguments": "{}"}}]},
         {"tool_calls": [{"index": -1, "function": {"arguments": "x"}}]}, {"tool_calls": [7]}]


def test_tool_calls_and_the_filter_are_passed_on(up, away):
    up.say = lambda h: raw(h, b"".join(chunk(d) for d in CALLS) + chunk({}, "tool_calls"))
    c = ask(away).json()["choices"][0]
    assert c["finish_reason"] == "tool_calls"
    assert [(t["id"], t["function"]["name"], t["function"]["arguments"]) for t in c["message"]["tool_calls"]] == [("c1", "look", '{"a": 1}'), ("c2", "go", "{}")]
    with away.http.stream("POST", "/v1/chat/completions", json=body(HARD, sparing=ONLY, stream=True)) as st:
        lines = [json.loads(x[6:])["choices"][0] for x in st.iter_lines() if x.startswith("data: {")]
    pieces = [p for x in lines for p in x["delta"].get("tool_calls", [])]  # in this server's own words; what was no piece of a call is left out
    assert [(p["index"], p["id"], p["type"], p["function"]["name"]) for p in pieces if "id" in p] == [(0, "c1", "function", "look"), (1, "c2", "function", "go")]
    assert ["".join(p["function"]["arguments"] for p in pieces if p["index"] == i) for i in (0, 1)] == ['{"a": 1}', "{}"] and {p["index"] for p in pieces} == {0, 1}
    assert lines[-1]["finish_reason"] == "tool_calls"
    up.say = lambda h: raw(h, chunk({"content": "part"}) + chunk({}, "content_filter"))
    c = ask(away).json()["choices"][0]
    assert c["finish_reason"] == "content_filter" and c["message"]["content"] == "part"


def test_every_character_is_taken(up, away):
    text = "a\0b\u2028\U0001f600\\\"\x01"
    up.say = lambda h: raw(h, chunk({"content": text}) + chunk({}, "stop"))
    assert ask(away).json()["choices"][0]["message"]["content"] == text
    up.say = lambda h: raw(h, chunk({"content": "x"}) + chunk({}, "stop") + b'data: {"choices":[],"usage":{"prompt_tokens":-5,"completion_tokens":1e300}}\n\n')
    u = ask(away).json()["usage"]
    assert u["completion_tokens"] == 1 and u["prompt_tokens"] == 0  # counts that cannot be are none
