"""Chats whose messages have ids of the client's: kept before they are answered, answered once, branches, and what is left of a broken one."""
import json
import threading
import time

import httpx
import pytest

from conftest import Server, wait_until
from test_conversations import listed, path, texts


@pytest.fixture(scope="module")
def talk(tmp_path_factory):
    s = Server("--history", str(tmp_path_factory.mktemp("messages") / "h.db"))
    yield s
    assert s.stop() == 0


def ask(s, conv, mid, text=None, system=None, **kw):
    messages = ([{"role": "system", "content": system}] if system else []) + ([{"role": "user", "content": text}] if text else [])
    body = {"conversation": conv, "message_id": mid, "messages": messages, "max_tokens": 8, "temperature": 0, **kw}
    return s.http.post("/v1/chat/completions", json=body)


def chunks(r):
    return [json.loads(line[6:]) for line in r.text.splitlines() if line.startswith("data: {")]


def said(r):
    return "".join(c["choices"][0]["delta"].get("content") or "" for c in chunks(r) if c["choices"])


def test_a_conversation_grows_by_ids(talk):
    r = ask(talk, "conv_grows_1", "msg_first_1", "What is the sea?", system="Be brief.")
    assert r.status_code == 200 and r.json()["id"] == "msg_first_1-a" and r.json()["conversation"]["id"] == "conv_grows_1"
    r2 = ask(talk, "conv_grows_1", "msg_second_1", "And the sky?", parent="msg_first_1-a")
    a, b, c, d = path(talk, "conv_grows_1")["data"]
    assert [a["id"], b["id"], c["id"], d["id"]] == ["msg_first_1", "msg_first_1-a", "msg_second_1", "msg_second_1-a"]
    assert [m["parent"] for m in (a, b, c, d)] == [None, a["id"], b["id"], c["id"]]
    assert [m["role"] for m in (a, b, c, d)] == ["user", "assistant"] * 2  # the system message is for its answer alone
    assert b["content"][0]["text"] == r.json()["choices"][0]["message"]["content"] and d["content"][0]["text"] == r2.json()["choices"][0]["message"]["content"]
    assert b["state"] == {"length": "cut", "stop": "complete"}[r.json()["choices"][0]["finish_reason"]]
    assert b["model"] and b["receipt"]["path"] and b["error"] is None
    assert [x["title"] for x in listed(talk)["data"] if x["id"] == "conv_grows_1"] == ["What is the sea?"]
    want = talk.http.post("/v1/chat/completions", json={"messages": [{"role": m["role"], "content": m["content"][0]["text"]} for m in (a, b, c)], "max_tokens": 8, "temperature": 0})
    first = talk.http.post("/v1/chat/completions", json={"messages": [{"role": "system", "content": "Be brief."}, {"role": "user", "content": "What is the sea?"}], "max_tokens": 8, "temperature": 0})
    assert want.json()["choices"][0]["message"] == r2.json()["choices"][0]["message"]
    assert first.json()["choices"][0]["message"] == r.json()["choices"][0]["message"]


def test_the_same_message_is_answered_once(talk):
    r = ask(talk, "conv_once_1", "msg_once_1", "Say something.", stream=True)
    assert r.status_code == 200 and r.text.rstrip().endswith("[DONE]")
    n = talk.metric("sparing_requests_total") if "sparing_requests_total" in talk.metrics() else None
    again, whole = ask(talk, "conv_once_1", "msg_once_1", "Say something.", stream=True), ask(talk, "conv_once_1", "msg_once_1", "Say something.")
    assert again.status_code == 200 and said(again) == said(r) and again.text.rstrip().endswith("[DONE]")
    assert again.headers["content-type"] == r.headers["content-type"]
    assert [c["choices"][0]["finish_reason"] for c in chunks(again)][-1] == [c["choices"][0]["finish_reason"] for c in chunks(r) if c["choices"]][-1]
    assert whole.json()["choices"][0]["message"]["content"] == said(r) and whole.json()["id"] == "msg_once_1-a"
    assert len(path(talk, "conv_once_1")["data"]) == 2
    assert n is None or talk.metric("sparing_requests_total") >= n


def test_branches(talk):
    conv = "conv_tree_01"
    ask(talk, conv, "msg_tree_q1", "Name a colour.")
    again = ask(talk, conv, "msg_tree_r1", parent="msg_tree_q1", temperature=1, seed=5)
    assert again.status_code == 200 and again.json()["id"] == "msg_tree_r1"
    page = path(talk, conv)
    assert [m["id"] for m in page["data"]] == ["msg_tree_q1", "msg_tree_r1"]
    assert page["data"][1]["siblings"] == ["msg_tree_q1-a", "msg_tree_r1"] and page["data"][0]["siblings"] == ["msg_tree_q1"]
    ask(talk, conv, "msg_tree_q2", "Another way to ask.", parent=None)
    assert path(talk, conv)["data"][0]["siblings"] == ["msg_tree_q1", "msg_tree_q2"]
    ask(talk, conv, "msg_tree_q3", "Below the first answer.", parent="msg_tree_q1-a")
    assert [m["id"] for m in path(talk, conv)["data"]] == ["msg_tree_q1", "msg_tree_q1-a", "msg_tree_q3", "msg_tree_q3-a"]
    r = talk.http.patch(f"/v1/conversations/{conv}", json={"leaf": "msg_tree_r1"})
    assert r.json()["leaf"] == "msg_tree_r1"
    assert [m["id"] for m in path(talk, conv)["data"]] == ["msg_tree_q1", "msg_tree_r1"]
    assert [m["id"] for m in path(talk, conv, leaf="msg_tree_q1-a")["data"]][-1] == "msg_tree_q3-a"
    r = talk.http.patch(f"/v1/conversations/{conv}", json={"leaf": "msg_tree_q1"})
    assert r.json()["leaf"] == "msg_tree_q3-a"  # the newest below it


def test_an_answer_that_was_cut_goes_on(talk):
    conv, prompt = "conv_goes_on", "Count from one to thirty in words."
    first = ask(talk, conv, "msg_goes_on1", prompt, max_tokens=5).json()["choices"][0]
    assert first["finish_reason"] == "length"
    rest = ask(talk, conv, "msg_goes_on2", parent="msg_goes_on1-a", max_tokens=6)
    assert rest.status_code == 200, rest.text
    whole = path(talk, conv)["data"]
    assert len(whole) == 2 and whole[1]["siblings"] == ["msg_goes_on1-a", "msg_goes_on2"]
    assert whole[1]["content"][0]["text"] == first["message"]["content"] + rest.json()["choices"][0]["message"]["content"]
    want = talk.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": prompt}, {"role": "assistant", "content": first["message"]["content"]}],
                                                        "continue_final_message": True, "max_tokens": 6, "temperature": 0}).json()
    assert want["choices"][0]["message"]["content"] == rest.json()["choices"][0]["message"]["content"]


@pytest.mark.parametrize("body, status, code, says", [
    ({"parent": "msg_unknown_1"}, 409, "parent_not_found", "msg_unknown_1"),
    ({"message_id": "short"}, 400, None, "message_id"),
    ({"message_id": "has spaces in it"}, 400, None, "message_id"),
    ({"message_id": "x" * 38}, 400, None, "message_id"),
    ({"parent": 5}, 400, None, "parent"),
    ({"messages": [{"role": "user", "content": "a"}, {"role": "user", "content": "b"}]}, 400, None, "messages"),
    ({"messages": [{"role": "assistant", "content": "a"}]}, 400, None, "messages"),
    ({"messages": [], "parent": None, "conversation": "conv_nothing"}, 400, None, "no message"),
    ({"n": 2}, 400, None, "n must be 1")])
def test_bad_turns_are_named(talk, body, status, code, says):
    ask(talk, "conv_bad_turn", "msg_bad_turn0", "Hello.")
    r = talk.http.post("/v1/chat/completions", json={"conversation": "conv_bad_turn", "message_id": "msg_bad_turn1", "messages": [{"role": "user", "content": "x"}], "max_tokens": 1, **body})
    assert r.status_code == status and r.json()["error"]["code"] == code and says in r.json()["error"]["message"], r.text
    assert len(path(talk, "conv_bad_turn")["data"]) == 2


def test_without_an_id_there_is_no_parent(talk):
    r = talk.http.post("/v1/chat/completions", json={"conversation": "conv_x", "parent": "msg_x", "messages": [{"role": "user", "content": "x"}]})
    assert r.status_code == 400 and r.json()["error"]["param"] == "parent"


def start(s, conv, mid, **kw):
    """A stream of a long answer, as far as its first words; it is closed by the caller."""
    body = {"conversation": conv, "message_id": mid, "messages": [{"role": "user", "content": "Tell a long story."}], "max_tokens": 4000, "ignore_eos": True, "stream": True, "temperature": 1, "seed": 3, **kw}
    stream = s.http.stream("POST", "/v1/chat/completions", json=body)
    r = stream.__enter__()
    assert r.status_code == 200
    lines = r.iter_lines()
    n = 0
    for line in lines:
        n += line.startswith("data: {")
        if n > 5:
            break
    return stream, lines


def test_a_client_that_leaves_has_what_was_said(talk):
    stream, _ = start(talk, "conv_leaves_1", "msg_leaves_1")
    assert path(talk, "conv_leaves_1")["data"][0]["id"] == "msg_leaves_1"  # before its answer is whole
    assert path(talk, "conv_leaves_1")["data"][1]["state"] == "running" and [c["live"] for c in listed(talk)["data"] if c["id"] == "conv_leaves_1"] == [True]
    again = ask(talk, "conv_leaves_1", "msg_leaves_1", "Tell a long story.")
    assert again.status_code == 409 and again.json()["error"]["code"] == "answer_in_progress"
    stream.__exit__(None, None, None)
    wait_until(lambda: path(talk, "conv_leaves_1")["data"][1]["state"] == "stopped", "the end of the answer")
    got = path(talk, "conv_leaves_1")["data"][1]
    assert got["content"][0]["text"] and got["status"] == "incomplete"
    assert talk.http.get("/v1/conversations/conv_leaves_1").json()["live"] is False


def test_what_a_crash_leaves_has_failed(make_server, tmp_path):
    s = make_server("--history", str(tmp_path / "h.db"))
    stream, lines = start(s, "conv_crash_1", "msg_crash_1")

    def has_draft():
        next(lines)
        return path(s, "conv_crash_1")["data"][1]["content"][0]["text"]
    wait_until(has_draft, "a draft")
    draft = path(s, "conv_crash_1")["data"][1]["content"][0]["text"]
    s.kill()
    stream.gen.close() if hasattr(stream, "gen") else None
    s = make_server("--history", str(tmp_path / "h.db"))
    user, answer = path(s, "conv_crash_1")["data"]
    assert user["content"][0]["text"] == "Tell a long story." and answer["state"] == "failed" and answer["content"][0]["text"].startswith(draft)
    r = ask(s, "conv_crash_1", "msg_crash_2", parent="msg_crash_1-a")
    assert r.status_code == 200
    assert path(s, "conv_crash_1")["data"][1]["content"][0]["text"].startswith(draft)
