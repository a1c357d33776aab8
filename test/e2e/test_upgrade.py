"""Files of other versions are read, or refused with the way out, and stay as they are. Conversations: test_conversations.py."""
import json
import sqlite3

import pytest

from conftest import quick_file, run


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
