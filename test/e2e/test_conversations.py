"""Conversations as a page keeps them: lists and search, titles and pins, messages as a tree, removal that can be taken back, older files."""
import pathlib
import sqlite3
import time

import pytest

from conftest import Server, run, wait_until, write_keys
from databases import is_url, select


@pytest.fixture(scope="module")
def talk(new_db):
    s = Server("--history", new_db())
    yield s
    assert s.stop() == 0


def new(s, *texts, **kw):
    """A conversation of texts, the user's first."""
    roles = ["user", "assistant"] * len(texts)
    items = [{"role": roles[i], "content": t} for i, t in enumerate(texts)]
    r = s.http.post("/v1/conversations", json={**({"items": items} if items else {}), **kw})
    assert r.status_code == 200, r.text
    return r.json()["id"]


def path(s, conv, **query):
    r = s.http.get(f"/v1/conversations/{conv}/items", params={"before": "end", **query})
    assert r.status_code == 200, r.text
    return r.json()


def texts(page):
    return [m["content"][0]["text"] for m in page["data"]]


def listed(s, **query):
    r = s.http.get("/v1/conversations", params=query)
    assert r.status_code == 200, r.text
    return r.json()


def test_lists_go_by_pin_and_change(make_server, new_db):
    s = make_server("--history", new_db())
    assert listed(s) == {"object": "list", "data": [], "first_id": "", "last_id": "", "has_more": False}
    ids = [new(s, f"Question {i}") for i in range(5)]
    assert {c["id"] for c in listed(s)["data"]} == set(ids)
    assert s.http.patch(f"/v1/conversations/{ids[1]}", json={"pinned": True}).json()["pinned"] is True
    seen, after = [], None
    while True:
        page = listed(s, limit=2, **({"after": after} if after else {}))
        seen += [c["id"] for c in page["data"]]
        assert page["last_id"] == seen[-1] and len(page["data"]) <= 2
        after = page["last_id"]
        if not page["has_more"]:
            break
    assert seen[0] == ids[1] and sorted(seen) == sorted(ids)


def test_a_title_is_what_was_asked_first(talk):
    conv = new(talk, "  What\nis   the height of the highest mountain of the world?", "8,849 m")
    c = talk.http.get(f"/v1/conversations/{conv}").json()
    assert c["title"] == "What is the height of the highest mounta" and c["pinned"] is False and c["live"] is False and c["settings"] == {}
    conv = new(talk, "日本語で書かれた長い質問です。" * 5)
    assert talk.http.get(f"/v1/conversations/{conv}").json()["title"] == ("日本語で書かれた長い質問です。" * 5)[:40]
    assert talk.http.get(f"/v1/conversations/{new(talk)}").json()["title"] == ""
    r = talk.http.patch(f"/v1/conversations/{conv}", json={"title": "Mine", "settings": {"system": "Be brief.", "model": None}})
    assert r.status_code == 200 and r.json()["title"] == "Mine" and r.json()["settings"] == {"system": "Be brief.", "model": None}
    talk.http.post(f"/v1/conversations/{conv}/items", json={"items": [{"role": "user", "content": "Another question"}]})
    assert talk.http.get(f"/v1/conversations/{conv}").json()["title"] == "Mine"


@pytest.mark.parametrize("text, query, marked", [
    ("The ferry to Helgoland leaves at nine.", "helgoland", ["Helgoland"]),
    ("The ferry to Helgoland leaves at nine.", "FERRY helgo", ["ferry", "Helgoland"]),
    ("Die Füße der Österreicher", "fusse osterr", ["Füße", "Österreicher"]),
    ("昨日、東京都庁に行きました。", "東京", ["東京"]),
    ("แมวกินปลาทุกวัน", "ปลา", ["ปลา"]),
    ("call find_all_users(db)", "users", ["users"])])
def test_search_finds_words_of_any_script(talk, text, query, marked):
    conv = new(talk, "Hello", "x " * 400 + text)
    hit = [c for c in listed(talk, query=query)["data"] if c["id"] == conv]
    assert len(hit) == 1, query
    snippet = hit[0]["snippet"]
    assert [snippet["text"][a:b] for a, b in snippet["marks"]] == marked and len(snippet["text"]) < 200
    assert snippet["item"] == path(talk, conv)["last_id"]


def test_search_needs_all_words_and_looks_at_titles(talk):
    a, b = new(talk, "Fruit?", "apples and pears"), new(talk, "Fruit?", "apples only")
    found = lambda q: {c["id"] for c in listed(talk, query=q)["data"]}
    assert {a, b} <= found("apples") and a in found("pears apples") and b not in found("pears apples")
    assert a not in found("app pears") and a in found("pears app")
    talk.http.patch(f"/v1/conversations/{b}", json={"title": "Zwetschgenkuchen"})
    hit = listed(talk, query="zwetschgen")["data"]
    assert [c["id"] for c in hit] == [b] and hit[0]["snippet"] is None
    for syntax in ('"', "apples OR pears", "NEAR(a b)", "conv:x", "*", "'; DROP TABLE item; --", "%", "a" * 4000):
        assert listed(talk, query=syntax)["object"] == "list"
    assert listed(talk, query="!!!")["data"] == []


def test_paths_are_paged_from_the_end(talk):
    conv = new(talk, *[f"m{i}" for i in range(9)])
    page = path(talk, conv, limit=4)
    assert texts(page) == ["m5", "m6", "m7", "m8"] and page["has_more"]
    page = path(talk, conv, limit=4, before=page["first_id"])
    assert texts(page) == ["m1", "m2", "m3", "m4"] and page["has_more"]
    page = path(talk, conv, limit=4, before=page["first_id"])
    assert texts(page) == ["m0"] and not page["has_more"] and page["data"][0]["parent"] is None
    all_of_it = path(talk, conv)["data"]
    for before, m in zip([None] + all_of_it, all_of_it):
        assert m["parent"] == (before and before["id"]) and m["siblings"] == [m["id"]] and m["state"] == "complete"
    r = talk.http.get(f"/v1/conversations/{conv}/items", params={"before": "msg_nope"})
    assert r.status_code == 400 and "msg_nope" in r.json()["error"]["message"]
    r = talk.http.patch(f"/v1/conversations/{conv}", json={"leaf": "msg_nope"})
    assert r.status_code == 409 and r.json()["error"]["code"] == "leaf_not_found"


def test_an_id_of_the_clients_makes_one_conversation(talk):
    a = new(talk, "Once", id="conv_mine_1", title="First")
    b = new(talk, "Twice", id="conv_mine_1")
    assert a == b == "conv_mine_1" and texts(path(talk, a)) == ["Once"]
    assert talk.http.get(f"/v1/conversations/{a}").json()["title"] == "First"


def test_removal_can_be_taken_back_for_a_while(talk):
    conv = new(talk, "Do not lose me", "I will not")
    r = talk.http.delete(f"/v1/conversations/{conv}", params={"grace": 60})
    assert r.json()["deleted"] is True and r.json()["grace_s"] == 60
    assert talk.http.get(f"/v1/conversations/{conv}").status_code == 404
    assert conv not in [c["id"] for c in listed(talk)["data"]] and listed(talk, query="lose")["data"] == []
    r = talk.http.post(f"/v1/conversations/{conv}/restore")
    assert r.status_code == 200 and r.json()["item_count"] == 2
    assert texts(path(talk, conv)) == ["Do not lose me", "I will not"]
    assert talk.http.post(f"/v1/conversations/{conv}/restore").status_code == 404


def test_what_nobody_takes_back_is_gone_from_the_database(make_server, new_db):
    db = new_db()
    s = make_server("--history", db)
    conv, other = new(s, "xylophone secret", "yes"), new(s, "keep me", "quagga secret", "stay")
    message = path(s, other)["data"][1]["id"]
    assert s.http.delete(f"/v1/conversations/{conv}", params={"grace": 1}).status_code == 200
    assert s.http.delete(f"/v1/conversations/{other}/items/{message}", params={"grace": 1}).status_code == 200
    assert texts(path(s, other)) == ["keep me", "stay"]

    def is_gone():
        if is_url(db):
            return select(db, "SELECT 1 FROM item WHERE text LIKE '%xylophone%' OR text LIKE '%quagga%'") == []
        data = b"".join(pathlib.Path(db + end).read_bytes() for end in ("", "-wal"))
        return b"xylophone" not in data and b"quagga" not in data
    wait_until(is_gone, "removed text")
    assert s.http.post(f"/v1/conversations/{conv}/restore").status_code == 404
    assert s.http.post(f"/v1/conversations/{other}/items/{message}/restore").status_code == 404
    left = path(s, other)["data"]
    assert left[1]["parent"] == left[0]["id"] and s.http.get(f"/v1/conversations/{other}").json()["item_count"] == 2


def test_a_message_leaves_its_answers_to_its_parent(talk):
    conv = new(talk, "a", "b", "c", "d")
    first, second, third, _ = (m["id"] for m in path(talk, conv)["data"])
    assert talk.http.delete(f"/v1/conversations/{conv}/items/{second}", params={"grace": 60}).json()["object"] == "conversation.item.deleted"
    assert texts(path(talk, conv)) == ["a", "c", "d"]
    assert talk.http.post(f"/v1/conversations/{conv}/items/{second}/restore").status_code == 200
    assert texts(path(talk, conv)) == ["a", "b", "c", "d"]
    assert talk.http.delete(f"/v1/conversations/{conv}/items/{third}").json()["grace_s"] == 0
    left = path(talk, conv)["data"]
    assert [m["content"][0]["text"] for m in left] == ["a", "b", "d"] and left[2]["parent"] == second
    assert talk.http.delete(f"/v1/conversations/{conv}/items/{third}").status_code == 404
    assert talk.http.post(f"/v1/conversations/{conv}/items", json={"items": [{"role": "user", "content": "e"}]}).status_code == 200
    assert texts(path(talk, conv)) == ["a", "b", "d", "e"] and first == path(talk, conv)["first_id"]


def test_tenants_see_their_own_lists(make_server, new_db, tmp_path):
    keys = write_keys(tmp_path / "keys", {"a-key": "anna", "b-key": "bob"})
    s = make_server("--history", new_db(), "--keys", keys)
    anna, bob = ({"Authorization": "Bearer " + k} for k in ("a-key", "b-key"))
    body = {"id": "conv_of_anna", "items": [{"role": "user", "content": "platypus"}]}
    assert s.http.post("/v1/conversations", json=body, headers=anna).status_code == 200
    assert s.http.get("/v1/conversations", headers=bob).json()["data"] == []
    assert s.http.get("/v1/conversations", params={"query": "platypus"}, headers=bob).json()["data"] == []
    assert len(s.http.get("/v1/conversations", params={"query": "platypus"}, headers=anna).json()["data"]) == 1
    assert s.http.patch("/v1/conversations/conv_of_anna", json={"title": "x"}, headers=bob).status_code == 404
    assert s.http.delete("/v1/conversations/conv_of_anna", params={"grace": 5}, headers=bob).status_code == 404
    r = s.http.post("/v1/conversations", json=body, headers=bob)
    assert r.status_code == 400 and "taken" in r.json()["error"]["message"]


OLD = """
CREATE TABLE conversation(id TEXT PRIMARY KEY, tenant TEXT NOT NULL, created INT NOT NULL, updated INT NOT NULL, metadata TEXT NOT NULL,
 n_item INT NOT NULL DEFAULT 0, frozen TEXT, ice BLOB);
CREATE TABLE item(seq INTEGER PRIMARY KEY, conv TEXT NOT NULL, pos INT NOT NULL, id TEXT NOT NULL, role TEXT NOT NULL, text TEXT NOT NULL,
 created INT NOT NULL, n_tok INT NOT NULL, vec BLOB, UNIQUE(conv, pos));
CREATE TABLE response(id TEXT PRIMARY KEY, conv TEXT NOT NULL, tenant TEXT NOT NULL, pos_end INT NOT NULL);
CREATE VIRTUAL TABLE item_fts USING fts5(conv, text, content='item', content_rowid='seq', tokenize='porter unicode61');
CREATE TRIGGER item_in AFTER INSERT ON item BEGIN INSERT INTO item_fts(rowid, conv, text) VALUES(new.seq, new.conv, new.text); END;
CREATE TRIGGER item_out AFTER DELETE ON item BEGIN
 INSERT INTO item_fts(item_fts, rowid, conv, text) VALUES('delete', old.seq, old.conv, old.text); END;
"""


def test_files_of_the_first_version_are_read(make_server, tmp_path):
    file = tmp_path / "h.db"
    db = sqlite3.connect(file)
    db.executescript(OLD)
    for c in range(3):
        db.execute("INSERT INTO conversation VALUES(?,?,?,?,?,?,NULL,NULL)", (f"conv_old{c}", "default", 100 + c, int(time.time()) - 90 + c, '{"from": "before"}', 20))
        for i in range(20):
            role = ["user", "assistant"][i % 2]
            db.execute("INSERT INTO item(conv, pos, id, role, text, created, n_tok) VALUES(?,?,?,?,?,?,?)",
                       (f"conv_old{c}", i, f"msg_{c}_{i}", role, f"Old {role} words {c}-{i} about marmalade", 100 + i, 9))
    db.execute("INSERT INTO response VALUES('resp_old', 'conv_old0', 'default', 20)")
    db.commit()
    db.close()
    s = make_server("--history", str(file))
    got = s.http.get("/v1/conversations").json()["data"]
    assert [c["id"] for c in got] == ["conv_old2", "conv_old1", "conv_old0"] and got[0]["metadata"] == {"from": "before"}
    items = path(s, "conv_old1")["data"]
    assert [m["id"] for m in items] == [f"msg_1_{i}" for i in range(20)] and items[5]["parent"] == "msg_1_4"
    wait_until(lambda: len(listed(s, query="marmalade")["data"]) == 3, "words of old messages")
    wait_until(lambda: listed(s)["data"][0]["title"] == "Old user words 2-0 about marmalade", "titles of old conversations")
    r = s.chat("And now?", conversation="conv_old2")
    assert r.status_code == 200 and len(path(s, "conv_old2")["data"]) == 22
    r = s.chat("Again?", previous_response_id="resp_old")
    assert r.status_code == 200 and r.json()["conversation"]["id"] == "conv_old0"
    assert s.stop() == 0
    db = sqlite3.connect(file)
    assert db.execute("PRAGMA user_version").fetchone() == (2,) and db.execute("PRAGMA integrity_check").fetchone() == ("ok",)
    db.execute("INSERT INTO item_fts(item_fts) VALUES('integrity-check')")
    db.execute("INSERT INTO words_fts(words_fts) VALUES('integrity-check')")
    db.execute("PRAGMA user_version=3")
    db.commit()
    db.close()
    r = run("serve", "--port", "0", "--history", str(file), check=False)
    assert r.returncode == 6 and "version 3" in r.stderr


# --- out and in, and where they are kept ----------------------------------------------------------

def test_what_goes_out_comes_in_again(make_server, new_db):
    s = make_server("--history", new_db())
    conv = new(s, "What is a fjord?", "A deep inlet.\n\n```c\nint x;\n```", title="Geography", pinned=True, settings={"system": "Be brief."})
    s.http.post("/v1/chat/completions", json={"conversation": conv, "message_id": "msg_branch_1", "parent": None, "messages": [{"role": "user", "content": "Another way"}], "max_tokens": 4})
    other = new(s, "日本語", "はい")
    out = s.http.get("/v1/conversations/export", params={"format": "json"})
    assert out.headers["content-type"] == "application/json" and "conversations.json" in out.headers["content-disposition"]
    j = out.json()
    assert j["object"] == "sparing.conversations" and j["version"] == 1 and {c["id"] for c in j["conversations"]} == {conv, other}
    assert [len(c["items"]) for c in j["conversations"] if c["id"] == conv] == [4]  # with all branches
    t = make_server("--history", new_db())
    r = t.http.post("/v1/conversations/import", json=j)
    assert r.status_code == 200 and r.json()["conversations"] == 2 and r.json()["items"] == 6 and set(r.json()["ids"]) == {conv, other}
    drop = lambda page: [{k: v for k, v in m.items() if k != "created_at"} for m in page["data"]]
    for c in (conv, other):
        assert drop(path(t, c)) == drop(path(s, c))
        a, b = (x.http.get(f"/v1/conversations/{c}").json() for x in (s, t))
        assert all(a[k] == b[k] for k in ("title", "pinned", "settings", "metadata", "leaf", "item_count"))
    assert [c["id"] for c in listed(t, query="fjord")["data"]] == [conv]
    again = t.http.post("/v1/conversations/import", json=j).json()
    assert set(again["ids"]).isdisjoint({conv, other}) and len(listed(t)["data"]) == 4


def test_markdown_is_what_is_read(talk):
    conv = new(talk, "What is a fjord?", "A deep inlet.", title="Geography")
    r = talk.http.get("/v1/conversations/export", params={"format": "md", "id": conv})
    assert r.headers["content-type"] == "text/markdown; charset=utf-8"
    lines = r.text.splitlines()
    assert lines[0] == "# Geography" and lines[2].startswith("## user, 2") and lines[4] == "What is a fjord?" and lines[8] == "A deep inlet."
    assert talk.http.get("/v1/conversations/export", params={"format": "pdf"}).status_code == 400
    assert talk.http.get("/v1/conversations/export", params={"id": "conv_nope"}).status_code == 404


@pytest.mark.parametrize("change, says", [
    ({"version": 2}, "version 1"), ({"conversations": {}}, "version 1"),
    ({"conversations": [{"id": "conv_a", "items": [{"id": "m1", "role": "user", "text": "x"}, {"id": "m1", "role": "user", "text": "y"}]}]}, "items[1].id"),
    ({"conversations": [{"id": "conv_a", "items": [{"id": "m1", "parent": "m2", "role": "user", "text": "x"}]}]}, "items[0].parent"),
    ({"conversations": [{"id": "conv_a", "items": [{"id": "m1", "role": "robot", "text": "x"}]}]}, "items[0].role"),
    ({"conversations": [{"id": "conv_a", "items": [{"id": "m1", "role": "user"}]}]}, "items[0].text"),
    ({"conversations": [{"id": "conv_a", "leaf": "m9", "items": []}]}, "leaf"),
    ({"conversations": [{"id": "../etc", "items": []}]}, "id")])
def test_bad_files_are_named(talk, change, says):
    r = talk.http.post("/v1/conversations/import", json={"object": "sparing.conversations", "version": 1, "conversations": [], **change})
    assert r.status_code == 400 and says in r.json()["error"]["message"], r.text
    assert "conv_a" not in [c["id"] for c in listed(talk, limit=1000)["data"]]


def test_a_server_of_ones_own_keeps_conversations(tmp_path):
    state = {"XDG_STATE_HOME": str(tmp_path / "state")}
    s = Server(env=state, keeps=True)
    new(s, "Kept without being asked to")
    file = tmp_path / "state/sparing/history.db"
    assert file.exists() and file.stat().st_mode & 0o77 == 0 and file.parent.stat().st_mode & 0o77 == 0
    r = s.http.post("/v1/chat/completions", json={"conversation": "conv_thumbs_1", "message_id": "msg_thumbs_1", "messages": [{"role": "user", "content": "Hello"}], "max_tokens": 2})
    said = {"metric_name": "thumb", "value": True, "inference_id": "msg_thumbs_1-a", "tags": {"reason": "short"}}
    assert r.status_code == 200 and s.http.post("/feedback", json=said).status_code == 200
    assert [(f["inference_id"], f["value"], f["tags"]) for f in s.http.get("/v1/feedback").json()["data"]] == [("msg_thumbs_1-a", True, {"reason": "short"})]
    second = Server(env=state, keeps=True)  # the file has its server
    assert any("no conversations are kept" in line for line in second.log)
    assert second.http.get("/v1/conversations").status_code == 400
    assert second.stop() == 0 and s.stop() == 0
    s = Server(env=state, keeps=True)
    assert sorted(c["title"] for c in listed(s)["data"]) == ["Hello", "Kept without being asked to"]
    assert s.stop() == 0
    keys = write_keys(tmp_path / "keys", {"a-key": "anna"})
    s = Server("--keys", keys, env={"XDG_STATE_HOME": str(tmp_path / "other")}, keeps=True)
    assert s.http.get("/v1/conversations", headers={"Authorization": "Bearer a-key"}).status_code == 400 and not (tmp_path / "other").exists()
    assert s.stop() == 0
