"""Files of other versions are read, or refused with the way out, and stay as they are. Conversations: test_conversations.py."""
import json
import re
import shutil
import sqlite3

import pytest

from conftest import GOLDEN, Server, quick_file, run


@pytest.fixture
def documents(tmp_path):
    (tmp_path / "a.md").write_text("The heron stands in the reeds.\n")
    run("ingest", tmp_path / "a.md", "--knowledge", tmp_path / "k.db")
    return tmp_path / "k.db"


def sql(db, *statement):
    with sqlite3.connect(db) as c:
        return c.execute(*statement).fetchall()


def find(db, check=True):
    return run("search", "heron", "--json", "--knowledge", db, check=check)


def test_documents_from_before_versions_were_kept(documents):
    assert sql(documents, "SELECT value FROM made WHERE what='version'") == [("1",)]
    was = json.loads(find(documents).stdout)["hits"]
    sql(documents, "DELETE FROM made WHERE what='version'")
    assert json.loads(find(documents).stdout)["hits"] == was and len(was) == 1
    assert sql(documents, "SELECT value FROM made WHERE what='version'") == [("1",)]


def test_documents_of_a_newer_version(documents):
    sql(documents, "UPDATE made SET value='2' WHERE what='version'")
    for args in (["search", "heron"], ["collections"], ["ingest", documents.parent / "a.md"], ["run", "-m", quick_file(), "--retrieve", "default", "Hi"]):
        p = run(*args, "--knowledge", documents, check=False)
        assert p.returncode != 0 and "of version 2, and this program knows versions up to 1; use the newer program, or ingest into another file" in p.stderr, (args, p)
    sql(documents, "UPDATE made SET value='1' WHERE what='version'")
    assert len(json.loads(find(documents).stdout)["hits"]) == 1


@pytest.mark.parametrize("option, text, says", [("--intent-model", b"sparing intent 2\n", "intent model: it does not begin with 'sparing intent 1"),
                                                ("--control-policy", b"sparing policy 2\n", "not a policy of this version")])
def test_models_of_another_version_are_refused(tmp_path, option, text, says):
    f = tmp_path / "file.of.another"
    f.write_bytes(text + b"\0" * 4096)
    p = run("serve", "-m", quick_file(), "--port", "0", option, f, check=False)
    assert p.returncode != 0 and says in p.stderr, p


def test_exported_pages_of_another_version_are_refused(tmp_path):
    (tmp_path / "pages").mkdir()
    f = tmp_path / "export"
    f.write_bytes(b"SPKVEXP2" + b"\0" * 100)
    p = run("cache", "import", f, "--cache-dir", tmp_path / "pages", check=False)
    assert p.returncode != 0 and "export" in p.stderr and f.read_bytes()[:8] == b"SPKVEXP2"


# --- files that an early build of 0.1.0 wrote (test/golden/record_old.py) -----------------------------

@pytest.fixture
def old(tmp_path):
    return shutil.copytree(GOLDEN / "old", tmp_path / "old")


def test_old_conversations_are_read_and_go_on(old):
    assert not {"more", "parent"} & {row[1] for row in sql(old / "history.db", "PRAGMA table_info(item)")}
    for n in (4, 6):  # the second server opens what the first one has made of the file
        s = Server("--history", str(old / "history.db"))
        (conv,) = s.http.get("/v1/conversations").json()["data"]
        assert conv["metadata"] == {"topic": "rivers"} and conv["item_count"] == n and conv["title"]
        items = s.http.get(f"/v1/conversations/{conv['id']}/items?order=asc").json()["data"]
        assert [i["role"] for i in items] == ["user", "assistant"] * (n // 2) and items[2]["content"][0]["text"] == "And the rain?"
        (hit,) = s.http.get("/v1/conversations?query=rain").json()["data"]
        assert hit["snippet"]["item"] == items[2]["id"]
        r = s.chat("And snow?", conversation=conv["id"])
        assert r.status_code == 200, r.text
        assert s.stop() == 0


def test_old_documents_are_searched_and_read_again(old):
    db = old / "knowledge.db"
    ask = lambda: json.loads(run("search", "When is the river high?", "--json", "--knowledge", db, "--collection", "papers").stdout)["hits"]  # noqa: E731
    was = ask()
    assert was[0]["text"] == "The river is high in April, when the snow melts." and was[0]["place"] == "The river" and ask() == was
    assert "river | flows into | sea" in run("graph", "river", "--knowledge", db, "--collection", "papers").stdout
    (old / "new.md").write_text("# The lake\n\nThe lake is calm.\n")
    assert "1 added" in (p := run("ingest", old / "new.md", "--knowledge", db, "--collection", "papers")).stdout + p.stderr
    assert ask()[0]["text"] == was[0]["text"]


def test_old_pages_are_kept_until_they_are_given_up(old):
    """Their identity is another one since, so no prompt finds them; their folder is read, and the room that they take is known."""
    status = lambda d: int(re.search(r"(\d+) tokens", run("cache", "status", "--cache-dir", d).stdout).group(1))  # noqa: E731
    assert status(old / "pages") == 160 and "2 runs read, 0 damaged" in run("cache", "verify", "--cache-dir", old / "pages").stdout
    (old / "other").mkdir()
    assert "2 runs imported" in run("cache", "import", old / "pages.export", "--cache-dir", old / "other").stdout
    assert status(old / "other") == 160
    s = Server("--cache-dir", str(old / "pages"))
    r = s.chat("Hello")
    assert r.status_code == 200 and s.stop() == 0
    assert status(old / "pages") >= 160
