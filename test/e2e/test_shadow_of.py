"""In front of an existing server (--shadow-of): its answers are given byte for byte; ours are compared with them afterwards and counted."""
import json
import threading

import pytest

from conftest import PATIENCE, Server, wait_until, write_keys
from test_placement import place, write
from test_serving import Collector, body


class Behind(Collector):
    """The existing server: what it answers is say(handler), which each test sets; it takes GETs, too."""

    def __init__(self):
        super().__init__(lambda h: self.say(h))
        outer = self

        def get(handler):
            outer.got.append((handler.path, dict(handler.headers), None))
            outer.say(handler)
            handler.close_connection = True

        self.httpd.RequestHandlerClass.do_GET = get


def send(h, data, status=200, kind="application/json", **fields):
    h.send_response(status)
    h.send_header("Content-Type", kind)
    h.send_header("Content-Length", str(len(data)))
    for k, v in fields.items():
        h.send_header(k.replace("_", "-"), v)
    h.end_headers()
    h.wfile.write(data)


def whole(text):
    """An answer with spaces and members that we would never write."""
    return json.dumps({"id": "x", "choices": [{"index": 0, "message": {"role": "assistant", "content": text}}], "odd": [1, "ü"]}, indent=3).encode()


def events(h, pieces, hold=None):
    h.send_response(200)
    h.send_header("Content-Type", "text/event-stream")
    h.send_header("Connection", "close")
    h.end_headers()
    for i, p in enumerate(pieces):
        if hold and i:
            assert hold.wait(PATIENCE)
        h.wfile.write(p)
        h.wfile.flush()


def delta(text):
    return b'data:  {"choices": [{"delta": {"content": ' + json.dumps(text).encode() + b'}}]}\r\n\r\n'


@pytest.fixture(scope="module")
def behind():
    b = Behind()
    yield b
    b.stop()


@pytest.fixture(scope="module")
def front(behind):
    s = Server("--shadow-of", behind.url + "/v1", "--upstream-timeout", "3")
    yield s
    assert s.stop() == 0


def report(s, **kw):
    return s.http.get("/v1/shadow", **kw).json()


def settled(s, before, n):
    """Waits until n chats more were dealt with."""
    def total(r):
        return r["all"]["compared"] + r["skipped"] + r["failed"] + r["refused"]
    wait_until(lambda: total(report(s)) >= total(before) + n, "the comparison")
    return report(s)


def test_a_whole_answer_is_given_as_it_is(front, behind):
    data, before = whole("The capital of Peru is Lima."), report(front)
    behind.say = lambda h: send(h, data, X_RateLimit_Remaining="7", OpenAI_Version="2020")
    r = front.http.post("/v1/chat/completions", json=body("What is the capital of Peru?", model="gpt-x"), headers={"Authorization": "Bearer theirs", "X-Custom": "a b"})
    assert r.status_code == 200 and r.content == data and r.headers["x-ratelimit-remaining"] == "7" and r.headers["openai-version"] == "2020"
    path, fields, sent = behind.got[-1]
    assert path == "/v1/chat/completions" and sent == body("What is the capital of Peru?", model="gpt-x")
    assert fields["Authorization"] == "Bearer theirs" and fields["X-Custom"] == "a b"
    after = settled(front, before, 1)
    assert after["passed"] == before["passed"] + 1 and after["all"]["compared"] == before["all"]["compared"] + 1
    assert after["classes"]["fact"]["compared"] >= 1 and 0 <= after["all"]["agreement"] <= 1 and after["of"] == behind.url + "/v1"
    assert front.metric('sparing_front_passed_total{result="whole"}') == after["passed"] and front.metric("sparing_front_compared_total") == after["all"]["compared"]


def test_the_same_answer_agrees(behind):
    """What the model says is learned first, then the server behind says it."""
    plain = Server()
    text = plain.chat("What is the capital of Peru?", max_tokens=8).json()["choices"][0]["message"]["content"]
    assert plain.stop() == 0
    s = Server("--shadow-of", behind.url + "/v1")
    for say, want in ((text, 1), ("zzz yyy", 0)):
        behind.say = lambda h, say=say: send(h, whole(say))
        before = report(s)
        s.chat("What is the capital of Peru?", max_tokens=8)
        after = settled(s, before, 1)
        assert after["all"]["same"] - before["all"]["same"] == want
    assert s.stop() == 0


def test_a_stream_comes_piece_by_piece(front, behind):
    """The second piece leaves only when the first one has been seen here."""
    pieces, hold, before = [delta("Li"), b": odd comment\n\n" + delta("ma"), b"data: [DONE]\n\n"], threading.Event(), report(front)
    behind.say = lambda h: events(h, pieces, hold)
    with front.http.stream("POST", "/v1/chat/completions", json=body("What is the capital of Peru?", stream=True)) as r:
        assert r.status_code == 200 and r.headers["content-type"] == "text/event-stream"
        got = b""
        for part in r.iter_raw():
            got += part
            if got == pieces[0]:
                hold.set()
    assert got == b"".join(pieces)
    after = settled(front, before, 1)
    assert after["all"]["compared"] == before["all"]["compared"] + 1


@pytest.mark.parametrize("status,fields", [(400, {}), (401, {"WWW_Authenticate": "Bearer"}), (404, {}), (429, {"Retry_After": "17"}), (500, {}), (503, {}), (307, {"Location": "http://elsewhere.example/"})])
def test_errors_are_given_as_they_are(front, behind, status, fields):
    data, before = b'{"error": {"message": "in their words"}}', report(front)
    behind.say = lambda h: send(h, data, status, **fields)
    r = front.http.post("/v1/chat/completions", json=body("x"))
    assert r.status_code == status and r.content == data
    assert all(r.headers[k.replace("_", "-")] == v for k, v in fields.items())
    assert report(front)["all"] == before["all"]  # nothing to compare with


def test_other_paths_of_theirs_are_passed_on_and_ours_are_not(front, behind):
    behind.say = lambda h: send(h, b'{"theirs": 1}')
    for path in ("/v1/completions", "/v1/embeddings"):
        assert front.http.post(path, json={"input": "x"}).content == b'{"theirs": 1}'
    assert front.http.get("/v1/models").content == b'{"theirs": 1}'
    assert [x[0] for x in behind.got[-3:]] == ["/v1/completions", "/v1/embeddings", "/v1/models"]
    n = len(behind.got)
    assert front.http.get("/props").status_code == 200 and front.http.post("/tokenize", json={"content": "x"}).json()["tokens"]
    assert len(behind.got) == n


def test_what_this_server_refuses_is_named(front, behind):
    behind.say = lambda h: send(h, whole("fine"))
    before = report(front)
    assert front.http.post("/v1/chat/completions", json=body("x", magic=7)).status_code == 200
    after = settled(front, before, 1)
    assert after["refused"] == before["refused"] + 1 and any(x["param"] == "magic" and x["count"] == 1 for x in after["refusals"]), after["refusals"]


def test_answers_without_text_are_skipped(front, behind):
    for data in (b"{}", b"not JSON", b'{"choices": []}', b'{"choices": [{"message": {"content": null, "tool_calls": []}}]}'):
        behind.say = lambda h, data=data: send(h, data)
        before = report(front)
        assert front.http.post("/v1/chat/completions", json=body("x")).content == data
        after = settled(front, before, 1)
        assert after["skipped"] == before["skipped"] + 1 and after["all"] == before["all"]


def test_no_client_waits_for_a_comparison(behind):
    """While a long comparison runs, all answers of the server behind come through; some chats are not compared then, and that is said."""
    s = Server("--shadow-of", behind.url + "/v1")
    behind.say = lambda h: send(h, whole("word " * 50))
    long = {"messages": [{"role": "user", "content": "Count to a thousand."}], "max_tokens": 2000}
    assert s.http.post("/v1/chat/completions", json=long).status_code == 200
    wait_until(lambda: s.metric("sparing_requests_running") == 1, "the comparison begins")
    seen = 0
    while s.metric("sparing_front_compared_total") == 0 and seen < 400:
        assert s.http.post("/v1/chat/completions", json=long).status_code == 200
        seen += 1
    assert seen >= 2
    s.proc.kill()
    s.kill()


def test_a_server_that_is_gone_is_a_bad_gateway(front, behind):
    dead = Server("--shadow-of", "http://127.0.0.1:9/v1")
    r = dead.http.post("/v1/chat/completions", json=body("x"))
    assert r.status_code == 502 and r.json()["error"]["code"] == "server_behind"
    assert report(dead)["broken"] == 1 and dead.metric('sparing_front_passed_total{result="broken"}') == 1
    assert dead.stop() == 0
    over = threading.Event()
    behind.say = lambda h: over.wait(PATIENCE)  # silence
    r = front.http.post("/v1/chat/completions", json=body("x"))
    over.set()
    assert r.status_code == 504, r.text


def test_a_client_that_leaves_ends_the_call(front, behind):
    gone = threading.Event()

    def say(h):
        try:
            events(h, [delta("x" * 65536)] * 10**5)
        except OSError:
            gone.set()

    behind.say = say
    with front.http.stream("POST", "/v1/chat/completions", json=body("x", stream=True)) as r:
        next(r.iter_raw())
    assert gone.wait(PATIENCE)


def test_a_large_body_and_answer_pass(front, behind):
    data = whole("word " * 400000)
    behind.say = lambda h: send(h, data)
    r = front.http.post("/v1/chat/completions", json=body("y" * 3000000))
    assert r.content == data and behind.got[-1][2]["messages"][0]["content"] == "y" * 3000000


def test_keys_and_places(tmp_path, behind):
    """Behind keys of its own it says its own key there; the report is an operator's; with a placement file the server behind is a place."""
    keys = write_keys(tmp_path / "k", {"ours": "t", "op": "root operator"})
    there = write(tmp_path / "p.yaml", [place("old", where="private", roles=["front"], address=behind.url)])
    s = Server("--shadow-of", behind.url + "/v1", "--keys", keys, "--placement", there, env={"SPARING_SHADOW_KEY": "for-them"})
    behind.say = lambda h: send(h, whole("hello"))
    assert s.http.post("/v1/chat/completions", json=body("x"), headers={"Authorization": "Bearer theirs"}).status_code == 401
    assert s.http.post("/v1/chat/completions", json=body("x"), headers={"Authorization": "Bearer ours"}).status_code == 200
    assert behind.got[-1][1]["Authorization"] == "Bearer for-them" and "ours" not in json.dumps(behind.got[-1])
    assert s.http.get("/v1/shadow", headers={"Authorization": "Bearer ours"}).status_code == 403
    assert report(s, headers={"Authorization": "Bearer op"})["passed"] == 1
    assert s.stop() == 0
    with pytest.raises(RuntimeError, match="shadow-of: the placement file has no place"):
        Server("--shadow-of", behind.url + "/v1", "--placement", write(tmp_path / "q.yaml"))


def test_without_a_server_behind_there_is_no_report(server):
    assert server.http.get("/v1/shadow").status_code == 404
