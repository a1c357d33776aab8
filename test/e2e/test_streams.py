"""Streams that outlive their connection: numbered events, replay, stop, progress, bounds."""
import json

import httpx
import pytest

from conftest import Server, wait_until, write_keys
from test_conversations import path

KEEP = {"X-Sparing-Stream": "keep"}


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    s = Server("--history", str(tmp_path_factory.mktemp("streams") / "h.db"))
    yield s
    assert s.stop() == 0


def body(mid=None, conv="conv_streams", n=40, text="Tell a story about the sea.", **kw):
    b = {"messages": [{"role": "user", "content": text}], "max_tokens": n, "ignore_eos": True, "temperature": 0, "stream": True, **kw}
    return {**b, "conversation": conv, "message_id": mid, "parent": None} if mid else b


def events(lines):
    """(id or None, event or None, data) of each event, comments left out."""
    got = {}
    for line in lines:
        if line.startswith(":"):
            continue
        if line:
            name, _, value = line.partition(": ")
            got[name] = value
        elif got:
            yield got.get("id"), got.get("event"), got.get("data")
            got = {}


def said(all_events):
    return "".join(json.loads(d)["choices"][0]["delta"].get("content") or "" for _, e, d in all_events if not e and d != "[DONE]" and json.loads(d)["choices"])


def whole(s, b, **kw):
    with s.http.stream("POST", "/v1/chat/completions", json=b, headers={**KEEP, **kw}) as r:
        assert r.status_code == 200
        return r.headers["x-sparing-stream-id"], list(events(r.iter_lines()))


def leave_early(s, b, after=4):
    """The id of a stream whose connection is closed after some events, and those."""
    got = []
    with s.http.stream("POST", "/v1/chat/completions", json=b, headers=KEEP) as r:
        assert r.status_code == 200
        for ev in events(r.iter_lines()):
            got.append(ev)
            if sum(e is None for _, e, _ in got) >= after:
                break
        return r.headers["x-sparing-stream-id"], got


def listed(s):
    return {x["id"]: x for x in s.http.get("/v1/streams").json()["data"]}


def replay(s, sid, last=None):
    with s.http.stream("GET", f"/v1/streams/{sid}", headers={"Last-Event-ID": last} if last else {}) as r:
        assert r.status_code == 200 and r.headers["x-sparing-stream-id"] == sid, r.read()
        return list(events(r.iter_lines()))


def test_events_have_numbers_and_the_text_is_the_same(talk):
    plain = talk.http.post("/v1/chat/completions", json=body())
    assert "id: " not in plain.text and "sparing.progress" not in plain.text and "x-sparing-stream-id" not in plain.headers
    sid, got = whole(talk, body())
    told = [e for e in got if e[1] is None]
    assert [i for i, _, _ in told] == [str(n + 1) for n in range(len(told))] and told[-1][2] == "[DONE]"
    assert said(got) == said(events(plain.text.split("\n")))
    assert listed(talk)[sid]["live"] is False and listed(talk)[sid]["last_event"] == len(told)


def test_an_answer_goes_on_without_its_client(talk):
    sid, before = leave_early(talk, body("msg_goes_on_1", n=300))
    last = [i for i, e, _ in before if e is None][-1]
    after = replay(talk, sid, last)
    told = [e for e in before + after if e[1] is None]
    assert [i for i, _, _ in told] == [str(n + 1) for n in range(len(told))] and told[-1][2] == "[DONE]"
    assert [e for e in replay(talk, sid) if e[1] is None] == told
    answer = [m for m in path(talk, "conv_streams", leaf="msg_goes_on_1")["data"]][-1]
    assert answer["content"][0]["text"] == said(told) and answer["state"] == "cut"
    assert listed(talk)[sid]["conversation"] == "conv_streams" and listed(talk)[sid]["answer"] == "msg_goes_on_1-a"


def test_the_same_message_again_reads_along(talk):
    sid, before = leave_early(talk, body("msg_along_01", n=400))
    again, got = whole(talk, body("msg_along_01", n=400))
    assert again == sid and said(got).startswith(said(before)) and got[-1][2] == "[DONE]"
    third, stored = whole(talk, body("msg_along_01", n=400))
    assert said(stored) == said(got) and stored[-1][2] == "[DONE]"


def test_a_stop_keeps_what_was_said(talk):
    sid, before = leave_early(talk, body("msg_stops_01", n=100000))
    r = talk.http.delete(f"/v1/streams/{sid}")
    assert r.status_code == 200 and r.json() == {"id": sid, "object": "stream.stopped", "stopped": True}
    got = replay(talk, sid)
    assert got[-1][2] == "[DONE]" and said(got).startswith(said(before))
    answer = path(talk, "conv_streams", leaf="msg_stops_01")["data"][-1]
    assert answer["state"] == "stopped" and answer["content"][0]["text"] == said(got)
    assert talk.http.delete(f"/v1/streams/{sid}").status_code == 200  # once more does no harm
    assert talk.http.delete("/v1/streams/strm_nope").status_code == 404


def test_what_is_too_old_is_gone(talk):
    sid, got = whole(talk, body(n=1200, logprobs=True, top_logprobs=20))
    assert sum(len(d or "") for _, _, d in got) > 1 << 20
    assert talk.http.get(f"/v1/streams/{sid}").status_code == 410
    r = talk.http.get(f"/v1/streams/{sid}", headers={"Last-Event-ID": "1"})
    assert r.status_code == 410 and r.json()["error"]["code"] == "events_gone"
    last = [i for i, e, _ in got if e is None][-20]
    assert replay(talk, sid, last) == [e for e in got if e[1] is None][-19:]
    for bad in ("x", "-1", "999999999"):
        assert talk.http.get(f"/v1/streams/{sid}", headers={"Last-Event-ID": bad}).status_code == 400
    assert talk.http.get("/v1/streams/strm_nope").status_code == 404


def test_progress_says_what_is_done(talk):
    for i in range(10):  # a prompt may be read between two ticks
        _, got = whole(talk, body(text=f"{i}. " + "The sea is wide and the ships are many. " * 700, n=4))
        stages = [json.loads(d) for _, e, d in got if e == "sparing.progress"]
        assert all(i is None for i, e, _ in got if e == "sparing.progress")
        assert {s["stage"] for s in stages} <= {"queue", "load", "search", "read", "write"}
        reads = [s for s in stages if s["stage"] == "read"]
        assert all(0 < s["done"] <= s["total"] for s in reads)
        assert [s["done"] for s in reads] == sorted(s["done"] for s in reads)
        if reads:
            return
    raise AssertionError("no prompt was seen while it was read")


@pytest.mark.parametrize("headers, kw, says", [({"X-Sparing-Stream": "always"}, {}, "keep"), (KEEP, {"stream": False}, "stream")])
def test_bad_wishes_are_named(talk, headers, kw, says):
    r = talk.http.post("/v1/chat/completions", json=body(**kw), headers=headers)
    assert r.status_code == 400 and says in r.json()["error"]["message"]


def test_errors_before_the_stream_are_ordinary(talk):
    r = talk.http.post("/v1/chat/completions", json=body(temperature=9), headers=KEEP)
    assert r.status_code == 400 and r.json()["error"]["param"] == "temperature"
    with talk.http.stream("POST", "/v1/chat/completions", json={**body("msg_lost_001"), "parent": "msg_unknown"}, headers=KEEP) as r:
        got = list(events(r.iter_lines()))
    assert json.loads(got[-1][2])["error"]["code"] == "parent_not_found"


def test_streams_are_their_tenants(make_server, tmp_path):
    keys = write_keys(tmp_path / "keys", {"a-key": "anna", "b-key": "bob"})
    s = make_server("--history", str(tmp_path / "h.db"), "--keys", keys)
    anna, bob = ({"Authorization": "Bearer " + k} for k in ("a-key", "b-key"))
    with s.http.stream("POST", "/v1/chat/completions", json=body(n=5), headers={**KEEP, **anna}) as r:
        sid = r.headers["x-sparing-stream-id"]
        r.read()
    assert s.http.get(f"/v1/streams/{sid}", headers=bob).status_code == 404 and s.http.get("/v1/streams", headers=bob).json()["data"] == []
    assert s.http.delete(f"/v1/streams/{sid}", headers=bob).status_code == 404
    assert [x["id"] for x in s.http.get("/v1/streams", headers=anna).json()["data"]] == [sid]


def test_a_server_that_ends_gives_up_what_nobody_reads(make_server, tmp_path):
    s = make_server("--history", str(tmp_path / "h.db"), "--drain-s", "1")
    leave_early(s, body("msg_ends_001", n=1000000))
    assert s.stop() == 0
    s = make_server("--history", str(tmp_path / "h.db"))
    answer = path(s, "conv_streams")["data"][-1]
    assert answer["state"] in ("failed", "stopped") and answer["content"][0]["text"]
