"""Both databases that keep a server's state, each test in a new one."""
import os
import pathlib
import random
import shutil
import sqlite3
import subprocess
import tempfile

import pgserver
import pytest


def run_postgres():
    """A PostgreSQL with pgvector of our own, on a socket in its folder; it runs as another user where we are root."""
    folder = tempfile.mkdtemp(prefix="sparing-pg-")
    os.chmod(folder, 0o755)
    server = pgserver.get_server(os.path.join(folder, "data"), cleanup_mode="delete")
    yield server
    server.cleanup()
    shutil.rmtree(folder, ignore_errors=True)


@pytest.fixture(scope="session")
def postgres():
    yield from run_postgres()


def make_database(server):
    """The URL of a new one."""
    name = f"d{os.getpid()}_{random.randrange(1 << 60)}"
    server.psql(f"CREATE DATABASE {name}")
    return server.get_uri(database=name)


@pytest.fixture(scope="module", params=["sqlite", "postgres"])
def new_db(request, tmp_path_factory):
    """A new place for documents or conversations with each call: a file's path, or a URL."""
    def make():
        if request.param == "sqlite":
            return str(tmp_path_factory.mktemp("db") / "k.db")
        return make_database(request.getfixturevalue("postgres"))

    return make


def is_url(db):
    return db.startswith("postgres")


def select(db, sql):
    if not is_url(db):
        with sqlite3.connect(f"file:{db}?mode=ro", uri=True) as c:
            return sorted(tuple(map(str, row)) for row in c.execute(sql))
    psql = pathlib.Path(pgserver.__file__).parent / "pginstall/bin/psql"
    p = subprocess.run([str(psql), db, "-AtX", "-F", "\x1f", "-R", "\x1e", "-c", sql], capture_output=True, text=True, check=True,
                       env={**os.environ, "PGOPTIONS": "-c search_path=sparing,public"})
    return sorted(tuple(row.split("\x1f")) for row in p.stdout.rstrip("\n").split("\x1e") if row)
