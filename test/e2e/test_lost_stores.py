"""A database that goes down, and a cache folder that is deleted, while the server uses them."""
import os
import pathlib
import shutil
import signal
import time

import pytest

from conftest import PATIENCE, Server
from databases import run_postgres


def until(check, seconds=30):
    end = time.monotonic() + seconds
    while not check():
        assert time.monotonic() < end
        time.sleep(0.05)


@pytest.fixture
def postgres():
    """One of the test's own, which it may shut down."""
    yield from run_postgres()


def shut_down(postgres):
    pid = int((pathlib.Path(postgres.pgdata) / "postmaster.pid").read_text().split()[0])
    os.kill(pid, signal.SIGINT)  # as its own fast shutdown
    until(lambda: not pathlib.Path(f"/proc/{pid}").exists() or "Z" in pathlib.Path(f"/proc/{pid}/stat").read_text().split(")")[1], 120)


def start_again(postgres):
    def starts():
        try:
            postgres.ensure_postgres_running()
        except AssertionError:  # it is given 10 s, which a busy machine may need
            return False
        return True

    until(starts, 120)


def test_postgres_that_is_down_is_503(make_server, postgres):
    s = make_server("--knowledge", postgres.get_uri())
    f = s.http.post("/v1/files", files={"file": ("quagga.md", b"# Quagga\n\nThe quagga died out in 1883.\n")}, data={"purpose": "assistants"}).json()["id"]
    store = s.http.post("/v1/vector_stores", json={"name": "a", "file_ids": [f]}).json()["id"]
    tool = {"tools": [{"type": "file_search", "vector_store_ids": [store]}]}
    calls = [lambda: s.http.get("/v1/files"), lambda: s.http.get(f"/v1/vector_stores/{store}"), lambda: s.http.post("/v1/vector_stores", json={"name": "b"}), lambda: s.http.delete(f"/v1/files/{f}x"),
             lambda: s.http.post(f"/v1/vector_stores/{store}/search", json={"query": "quagga"}), lambda: s.chat("When did the quagga die out?", **tool), lambda: s.http.get("/v1/files", params={"after": f})]
    assert [c().status_code for c in calls] == [200, 200, 200, 404, 200, 200, 200]
    shut_down(postgres)
    until(lambda: s.http.get("/v1/files").status_code != 200)
    for c in calls:
        r = c()
        assert r.status_code == 503 and r.headers["retry-after"] and "PostgreSQL cannot be reached" in r.json()["error"]["message"] and "/" not in r.json()["error"]["message"], r.text
    stream = s.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}], "stream": True, **tool})
    assert stream.status_code == 503
    assert s.chat("Hello").status_code == 200 and s.http.get("/readyz").status_code == 200  # what needs no documents goes on
    start_again(postgres)
    until(lambda: s.http.get("/v1/files").status_code == 200)
    assert [c().status_code for c in calls] == [200, 200, 200, 404, 200, 200, 200]
    assert s.stop() == 0 and any("PostgreSQL cannot be reached" in l for l in s.log)


def test_conversations_wait_for_postgres(postgres):
    """What needs it is 503 while it is down; the answer that ended meanwhile is kept when it is back."""
    s = Server("--state", postgres.get_uri(), "--state-lease", "3", keeps=True)
    said = {"messages": [{"role": "user", "content": "Hello"}], "max_tokens": 4, "temperature": 0}
    conv = s.http.post("/v1/chat/completions", json={**said, "store": True}).json()["conversation"]["id"]
    calls = [lambda: s.http.get("/v1/conversations"), lambda: s.http.get(f"/v1/conversations/{conv}/items"), lambda: s.http.post("/v1/conversations", json={}),
             lambda: s.chat("Hello", conversation=conv), lambda: s.http.post("/v1/responses", json={"input": "Hello", "max_output_tokens": 4}),
             lambda: s.http.delete("/v1/conversations/conv_nope")]
    assert [c().status_code for c in calls] == [200, 200, 200, 200, 200, 404]
    long = {**said, "max_tokens": 1500, "ignore_eos": True, "stream": True, "conversation": "conv_waits_1", "message_id": "msg_waits_1"}
    with s.http.stream("POST", "/v1/chat/completions", json=long) as r:
        lines = r.iter_lines()
        next(line for line in lines if '"content":' in line and '"content":""' not in line)
        s.proc.send_signal(signal.SIGSTOP)  # so that the answer does not end before PostgreSQL does
        shut_down(postgres)
        s.proc.send_signal(signal.SIGCONT)
        assert any("PostgreSQL cannot be reached" in line for line in lines)
    for c in calls:
        r = c()
        assert r.status_code == 503 and r.headers["retry-after"] and "PostgreSQL cannot be reached" in r.json()["error"]["message"], r.text
    assert s.chat("Hello").status_code == 200 and s.http.get("/readyz").status_code == 200  # what is not kept goes on
    start_again(postgres)
    until(lambda: s.http.get("/v1/conversations").status_code == 200, PATIENCE)
    assert [c().status_code for c in calls] == [200, 200, 200, 200, 200, 404]
    kept = lambda: s.http.get("/v1/conversations/conv_waits_1/items?before=end").json()["data"][-1]
    until(lambda: kept()["state"] == "cut", PATIENCE)
    assert len(kept()["content"][0]["text"]) > 1000 and s.stop() == 0


@pytest.mark.parametrize("loss", ["deleted", "emptied", "replaced", "moved"])
def test_a_cache_folder_that_goes_is_noticed(make_server, tmp_path, loss):
    """The loss is told once, nothing of the folder is used any more, and answers go on."""
    pages = tmp_path / "pages"
    s = make_server("--cache-dir", str(pages), "--cache-fetch", "always", "--kv-bytes", "550K")
    ids = list(range(1000, 1200))
    text, first = s.prefix(ids)
    until(lambda: s.metric('sparing_kv_tokens{tier="ssd"}') >= 192)
    assert s.metric("sparing_kv_folder_gone") == 0
    if loss == "moved":
        pages.rename(tmp_path / "elsewhere")
    elif loss == "emptied":
        for f in pages.iterdir():
            f.unlink()
    else:
        shutil.rmtree(pages)
    if loss == "replaced":
        pages.mkdir(mode=0o700)
    until(lambda: s.metric("sparing_kv_folder_gone") == 1)
    for i in range(3):  # other prompts push the pages out of RAM
        s.prefix(list(range(2000 + 600 * i, 2500 + 600 * i)))
    again, receipt = s.prefix(ids)
    assert again == text and receipt["prompt_tokens"]["ssd"] == 0
    assert not pages.exists() or not [f for f in pages.iterdir() if f.name.startswith("seg-")]
    assert s.stop() == 0
    told = [l for l in s.log if "warm tier is off" in l]
    assert len(told) == 1 and str(pages) in told[0]
