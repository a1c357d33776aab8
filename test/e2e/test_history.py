"""Conversations: turns that go on, what is recalled, what is deleted, and what survives."""
import json
import pathlib
import random
import time

import pytest

from conftest import PATIENCE, ROOT, Server, wait_until, write_keys
from databases import is_url, select
from objects import BUCKET, Store

TEXT = (ROOT / "test/data/licences.txt").read_text()
SENTENCES = [x.strip().replace("\n", " ") for x in TEXT.split(". ") if 30 < len(x) < 200]


@pytest.fixture(scope="module")
def talk(new_db):
    s = Server("--history", new_db())
    yield s
    assert s.stop() == 0


def new(s, **kw):
    r = s.http.post("/v1/conversations", json=kw)
    assert r.status_code == 200, r.text
    return r.json()["id"]


def items(s, conv):
    r = s.http.get(f"/v1/conversations/{conv}/items")
    assert r.status_code == 200, r.text
    return [(i["role"], i["content"][0]["text"]) for i in r.json()["data"]]


def embedded(db):
    wait_until(lambda: select(db, "SELECT count(*) FROM item WHERE vec IS NULL") == [("0",)], "vectors")


def test_a_conversation_is_what_its_messages_would_be(talk):
    """The same prompt as all messages sent at once: same text, and the earlier turn's pages are found again."""
    conv = new(talk, metadata={"topic": "tides"}, items=[{"role": "system", "content": "You answer in one sentence."}])
    first = talk.chat("What are tides, and what makes them come and go each day? " * 3, conversation=conv).json()
    assert first["conversation"]["id"] == conv
    second = talk.chat("And on the moon?", conversation=conv).json()
    messages = [{"role": r, "content": t} for r, t in items(talk, conv)]
    assert [m["role"] for m in messages] == ["system", "user", "assistant", "user", "assistant"]
    r = talk.http.post("/v1/chat/completions", json={"messages": messages[:4], "max_tokens": 16, "temperature": 0}).json()
    assert r["choices"] == second["choices"]
    assert second["usage"]["sparing"]["prompt_tokens"]["ram"] >= 32
    got = talk.http.get(f"/v1/conversations/{conv}").json()
    assert got["item_count"] == 5 and got["metadata"] == {"topic": "tides"} and got["object"] == "conversation"
    talk.http.post(f"/v1/conversations/{conv}", json={"metadata": {"topic": "moon"}})
    assert talk.http.get(f"/v1/conversations/{conv}").json()["metadata"] == {"topic": "moon"}


def test_previous_response_id_goes_on_and_branches(talk):
    a = talk.chat("Name a colour.", store=True).json()
    b = talk.chat("Another one.", previous_response_id=a["id"]).json()
    assert b["conversation"]["id"] == a["conversation"]["id"]
    c = talk.chat("A third way on.", previous_response_id=a["id"]).json()  # not from the end: a branch
    assert c["conversation"]["id"] != a["conversation"]["id"]
    assert [t for _, t in items(talk, a["conversation"]["id"])][2] == "Another one."
    branch = items(talk, c["conversation"]["id"])
    assert [t for _, t in branch][0] == "Name a colour." and [t for _, t in branch][2] == "A third way on." and len(branch) == 4
    r = talk.chat("x", previous_response_id="chatcmpl-none")
    assert r.status_code == 404


def test_streams_are_kept_before_they_end(talk):
    conv = new(talk)
    body = {"messages": [{"role": "user", "content": "Count."}], "max_tokens": 8, "stream": True, "conversation": conv, "temperature": 0}
    text = ""
    with talk.http.stream("POST", "/v1/chat/completions", json=body) as r:
        for line in r.iter_lines():
            if line.startswith("data: {"):
                text += json.loads(line[6:])["choices"][0]["delta"].get("content", "")
            if line == "data: [DONE]":
                assert items(talk, conv) == [("user", "Count."), ("assistant", text)]


def test_a_client_that_leaves_keeps_nothing(talk):
    conv = new(talk)
    body = {"messages": [{"role": "user", "content": "Tell me a long story."}], "max_tokens": 2000, "stream": True, "conversation": conv}
    with talk.http.stream("POST", "/v1/chat/completions", json=body) as r:
        next(r.iter_lines())
    wait_until(lambda: talk.chat("Hello", conversation=conv).status_code == 200)  # the conversation is held until it is noticed
    assert [text for role, text in items(talk, conv) if role == "user"] == ["Hello"]


@pytest.mark.parametrize("path, method, body, status, says", [
    ("/v1/conversations", "DELETE", None, 405, "does not take this method"),
    ("/v1/conversations?limit=0", "GET", None, 400, "limit"),
    ("/v1/conversations?after=nope", "GET", None, 404, "nope"),
    ("/v1/conversations", "POST", {"id": "a b"}, 400, "id"),
    ("/v1/conversations/nope", "PATCH", {}, 400, "nothing is changed"),
    ("/v1/conversations/nope", "PATCH", {"title": ""}, 400, "title"),
    ("/v1/conversations/nope", "PATCH", {"settings": []}, 400, "settings"),
    ("/v1/conversations/nope", "PATCH", {"pinned": "yes"}, 400, "pinned"),
    ("/v1/conversations/nope?grace=61", "DELETE", None, 400, "grace"),
    ("/v1/conversations/nope/restore", "POST", {}, 404, "nope"),
    ("/v1/conversations/nope", "GET", None, 404, "nope"),
    ("/v1/conversations/nope", "DELETE", None, 404, "nope"),
    ("/v1/conversations/nope/items", "GET", None, 404, "nope"),
    ("/v1/conversations/" + "x" * 60, "GET", None, 404, ""),
    ("/v1/conversations", "POST", {"items": []}, 400, "items"),
    ("/v1/conversations", "POST", {"items": [{"role": "robot", "content": "x"}]}, 400, "items[0].role"),
    ("/v1/conversations", "POST", {"items": [{"role": "user", "content": [{"type": "image"}]}]}, 400, "items[0].content[0]"),
    ("/v1/conversations", "POST", {"metadata": {"a": 1}}, 400, "metadata.a"),
    ("/v1/conversations", "POST", {"metadata": {str(i): "x" for i in range(17)}}, 400, "16"),
    ("/v1/conversations", "POST", {"name": "x"}, 400, "name"),
    ("/v1/conversations/nope/search", "POST", {"query": "x"}, 404, "nope"),
    ("/v1/conversations/nope/search", "POST", {"query": "x", "limit": 0}, 400, "limit"),
    ("/v1/conversations/nope/search", "POST", {}, 400, "query"),
    ("/v1/tenant", "GET", None, 405, "does not take this method"),
])
def test_bad_requests_are_named(talk, path, method, body, status, says):
    r = talk.http.request(method, path, json=body)
    assert r.status_code == status and says in r.json()["error"]["message"], r.text


def test_bad_turns_are_named(talk):
    conv = new(talk)
    for kw, status, says in (({"conversation": "nope"}, 404, "nope"), ({"conversation": conv, "n": 2}, 400, "n must be 1"),
                             ({"conversation": conv, "previous_response_id": "x"}, 400, "exclude"), ({"conversation": "x" * 99}, 400, "too long"),
                             ({"conversation": 7}, 400, "conversation")):
        for stream in (False, True):
            r = talk.chat("Hi", stream=stream, **kw)
            assert r.status_code == status and says in r.json()["error"]["message"], r.text
    assert items(talk, conv) == []


def test_without_history_it_says_so(server):
    assert "--history" in server.http.post("/v1/conversations", json={}).json()["error"]["message"]
    assert "--history" in server.chat("Hi", conversation="conv_1").json()["error"]["message"]
    assert "store" in server.chat("Hi", store=True, max_tokens=1).json()["usage"]["sparing"]["ignored"]  # clients send it to every server


def test_words_in_a_query_are_never_syntax(talk):
    conv = new(talk, items=[{"role": "user", "content": 'The "NEAR" thing costs 5* (five) OR AND NOT -1; DROP TABLE item;--'}])
    for q in ('"', "NEAR(a b)", "a AND OR", "text:x", "*", "(((", "'; DROP TABLE item;--", "ж ü 你好", "-", "a" * 4000):
        r = talk.http.post(f"/v1/conversations/{conv}/search", json={"query": q})
        assert r.status_code == 200, (q, r.text)
    assert talk.http.post(f"/v1/conversations/{conv}/search", json={"query": "NEAR"}).json()["data"]
    r = talk.http.post(f"/v1/conversations/{conv}/search", json={"query": "a\u0000b"})
    assert r.status_code == 400 and "U+0000" in r.text


THINGS = [("the password of {n}'s laptop is {v}", "What is the password of {n}'s laptop?"), ("{n} was born in the city of {v}", "In which city was {n} born?"),
          ("{n}'s favourite dish is {v}", "What does {n} like to eat most?"), ("the dog of {n} is called {v}", "What is the name of {n}'s dog?")]
NAMES = "Ada Boris Clara Dmitri Elena Farid Greta Hugo Ines Jonas Katya Liam".split()
VALUES = "amber basil cobalt delta ember fjord grove hazel indigo jasper karst lotus".split()


def test_facts_are_recalled_long_after(tmp_path, make_server):
    """40 facts among 300 turns, far beyond the context: found by the search, and put before the question."""
    s = make_server("--history", str(tmp_path / "h.db"), "--ctx", "1024")
    rnd = random.Random(2)
    where = sorted(rnd.sample(range(280), 40))
    combos = rnd.sample([(n, t) for n in NAMES for t in range(len(THINGS))], 40)
    said, facts = [], []
    for t in range(300):
        if t in where:
            n, k = combos[len(facts)]
            v = rnd.choice(VALUES)
            facts.append((n, k, v))
            said.append({"role": "user", "content": "By the way, " + THINGS[k][0].format(n=n, v=v) + "."})
        else:
            said.append({"role": "user", "content": "Tell me about this: " + rnd.choice(SENTENCES)})
        said.append({"role": "assistant", "content": rnd.choice(SENTENCES)})
    conv = new(s, items=said)
    embedded(str(tmp_path / "h.db"))
    found = 0
    for n, k, v in facts:
        r = s.http.post(f"/v1/conversations/{conv}/search", json={"query": THINGS[k][1].format(n=n)}).json()
        found += any(v in i["content"][0]["text"] and n in i["content"][0]["text"] for i in r["data"])
    assert found >= 39, found
    n, k, v = facts[0]
    r = s.chat(THINGS[k][1].format(n=n), conversation=conv).json()
    assert r["usage"]["sparing"]["retrieved"]["chunks"] >= 1
    assert r["usage"]["prompt_tokens"] <= 1024 - 16
    kept = items(s, conv)
    assert kept[-2] == ("user", THINGS[k][1].format(n=n))  # as it was asked, not as it was sent
    assert len(kept) == 602
    # The window moves in large steps: the next turn finds the last one's pages.
    r = s.chat("Thank you.", conversation=conv).json()
    assert r["usage"]["sparing"]["prompt_tokens"]["ram"] >= 320


def test_acknowledged_turns_survive_kill(tmp_path, new_db, make_server):
    db = new_db()
    s = make_server("--history", db)
    conv = new(s)
    for k in range(5):
        assert s.chat(f"Turn {k}", conversation=conv, max_tokens=2).status_code == 200
    s.kill()
    if is_url(db):
        with pytest.raises(RuntimeError, match="(?s)ended with 6.*PostgreSQL: .*nowhere"):
            Server("--history", f"postgresql:///x?host={tmp_path / 'nowhere'}")
    else:
        assert {f.stat().st_mode & 0o777 for f in pathlib.Path(db).parent.glob("k.db*")} == {0o600}
        with pytest.raises(RuntimeError, match="(?s)ended with 6.*nowhere"):
            Server("--history", str(tmp_path / "nowhere/h.db"))
    s = make_server("--history", db)
    assert [t for r, t in items(s, conv) if r == "user"] == [f"Turn {k}" for k in range(5)]


def files_hold(folder, text):
    return [f.name for f in folder.rglob("*") if f.is_file() and text.encode() in f.read_bytes()]


def test_deleted_is_gone_everywhere(tmp_path, make_server):
    store = Store()
    try:
        opts = ["--history", str(tmp_path / "h.db"), "--cache-dir", str(tmp_path / "pages"), "--s3", f"s3://{BUCKET}/del", "--cold-after", "0",
                "--cache-fetch", "always"]
        s = make_server(*opts, env=store.env)
        gone = new(s, items=[{"role": "system", "content": "xylograph quagmire " * 30}])
        stay = new(s, items=[{"role": "system", "content": "marigold lantern " * 30}])
        for conv in (gone, stay):
            assert s.chat("Hello", conversation=conv, max_tokens=4).status_code == 200
        end = time.monotonic() + PATIENCE
        while len(store.keys("del/")) < 2 and time.monotonic() < end:
            time.sleep(0.1)
        store.proxy.mode = "error"  # half a deletion can be asked for again
        r = s.http.delete(f"/v1/conversations/{gone}")
        store.proxy.mode = "pass"
        assert r.status_code == 502 and s.http.get(f"/v1/conversations/{gone}").status_code == 200
        r = s.http.delete(f"/v1/conversations/{gone}")
        assert r.status_code == 200 and r.json()["pages"] >= 3, r.text
        assert s.http.get(f"/v1/conversations/{gone}").status_code == 404
        assert files_hold(tmp_path, "xylograph") == [] and files_hold(tmp_path, "marigold")
        assert len(store.keys("del/")) == 1
        r = s.chat("Again", conversation=stay).json()
        assert r["usage"]["sparing"]["prompt_tokens"]["ram"] >= 64
        s.kill()
        s = make_server(*opts, env=store.env)
        r = s.chat("Again", conversation=stay).json()  # the other one's pages are where they were
        assert r["usage"]["sparing"]["prompt_tokens"]["ssd"] >= 64
        assert s.http.delete("/v1/tenant").json()["conversations"] == 1
        end = time.monotonic() + PATIENCE  # what was being uploaded meanwhile is taken back
        while store.keys("del/") and time.monotonic() < end:
            time.sleep(0.1)
        assert store.keys("del/") == [] and files_hold(tmp_path, "marigold") == []
    finally:
        store.stop()


@pytest.mark.parametrize("cold", [False, True])
def test_quiet_conversations_freeze_and_come_back(tmp_path, new_db, make_server, cold):
    db = new_db()
    store = Store() if cold else None
    try:
        opts = ["--history", db, "--history-cold-after", "2"]
        if cold:
            opts += ["--cache-dir", str(tmp_path / "pages"), "--s3", f"s3://{BUCKET}/ice"]
        s = make_server(*opts, env=store.env if cold else None)
        conv = new(s, items=[{"role": "user", "content": "The heron ü is \u0000 grey. " * 50}, {"role": "assistant", "content": "Yes."}])
        embedded(db)
        before = items(s, conv)
        wait_until(lambda: select(db, "SELECT 1 FROM conversation WHERE frozen IS NOT NULL"), "ice")
        [(frozen, n)] = select(db, "SELECT '/' || frozen, (SELECT count(*) FROM item) FROM conversation")
        assert n == "0" and (frozen == "/") == (not cold)
        if cold:
            assert len(store.keys("ice/history/")) == 1
        assert items(s, conv) == before
        assert s.http.post(f"/v1/conversations/{conv}/search", json={"query": "heron"}).json()["data"]
        assert s.http.delete(f"/v1/conversations/{conv}").status_code == 200
        if cold:
            assert store.keys("ice/") == []
    finally:
        if store:
            store.stop()


def test_tenants_see_their_own(tmp_path, new_db, make_server):
    keys = write_keys(tmp_path / "keys", {"alice": "alice", "bob": "bob"})
    s = make_server("--history", new_db(), "--keys", keys)
    alice, bob = ({"Authorization": f"Bearer {k}"} for k in ("alice", "bob"))
    conv = s.http.post("/v1/conversations", json={"items": [{"role": "user", "content": "secret"}]}, headers=alice).json()["id"]
    answer = s.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}], "conversation": conv, "max_tokens": 2}, headers=alice).json()["id"]
    for path, method, body in ((f"/v1/conversations/{conv}", "GET", None), (f"/v1/conversations/{conv}/items", "GET", None),
                               (f"/v1/conversations/{conv}", "DELETE", None), (f"/v1/conversations/{conv}/search", "POST", {"query": "secret"}),
                               (f"/v1/conversations/{conv}/items", "POST", {"items": [{"role": "user", "content": "x"}]}),
                               ("/v1/chat/completions", "POST", {"messages": [{"role": "user", "content": "x"}], "conversation": conv}),
                               ("/v1/chat/completions", "POST", {"messages": [{"role": "user", "content": "x"}], "previous_response_id": answer})):
        assert s.http.request(method, path, json=body, headers=bob).status_code == 404, path
    assert s.http.delete("/v1/tenant", headers=bob).json()["conversations"] == 0
    assert s.http.get(f"/v1/conversations/{conv}", headers=alice).json()["item_count"] == 3
