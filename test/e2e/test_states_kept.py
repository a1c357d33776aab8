"""Snapshots of states beyond RAM, on disk and in objects: what test_memory.py asks of pages, asked of them. Kept as they are (f32) they change no
bit of an answer; rounded (i12) they come back as well, and what goes on from them is close."""
import shutil
import time

import pytest

from conftest import PATIENCE, Server, answers_before_kills, run, wait_until, write_keys
from objects import BUCKET, Store
from test_memory import bad_disk, cache
from test_states import ids, roomy, source

WHOLE = ["--kv-type", "f16", "--cache-fetch", "always", "--state-form", "f32"]


@pytest.fixture(scope="module", params=["fam-qwen35", "fam-falcon-h1"])
def model(request, tmp_path_factory):
    return roomy(request.param, tmp_path_factory.mktemp("states"))


@pytest.fixture(scope="module")
def store():
    s = Store()
    yield s
    s.stop()


@pytest.fixture(scope="module")
def plain(model):
    """What a server that reuses nothing says."""
    s = Server("-m", str(model), "--kv-type", "f16", "--reuse=false")
    yield lambda prompt, n=8: s.prefix(prompt, n)[0]
    assert s.stop() == 0


def kept(s, n_tok, n_snap, tier="ssd", **ask):
    """Waits until a tier holds pages of n_tok tokens and as many snapshots."""
    end = time.monotonic() + PATIENCE
    while True:
        m = s.metrics(**ask)
        if m[f'sparing_kv_tokens{{tier="{tier}"}}'] >= n_tok and m[f'sparing_kv_snapshots{{tier="{tier}"}}'] >= n_snap:
            return
        assert time.monotonic() < end, (s.log, m[f'sparing_kv_tokens{{tier="{tier}"}}'], m[f'sparing_kv_snapshots{{tier="{tier}"}}'])
        time.sleep(0.05)


@pytest.mark.parametrize("form", ["f32", "i12"])
def test_an_edited_conversation_after_kill_and_restart(tmp_path, make_server, model, plain, form):
    opts = ["-m", str(model), *WHOLE[:-1], form, *cache(tmp_path)]
    talk, edit = ids(1500, 1), 1200
    s = make_server(*opts)
    text = s.prefix(talk)[0]
    kept(s, 1472, 3)  # behind 512, 1,024 and 1,472 tokens
    s.kill()
    s = make_server(*opts)
    again, receipt = s.prefix(talk)
    assert source(receipt, "ssd") == 1472 and source(receipt, "computed") == 28, receipt
    assert again == text or form == "i12"
    s.kill()
    s = make_server(*opts)
    edited = talk[:edit] + ids(40, 2) + talk[edit + 40:]
    text, receipt = s.prefix(edited)
    assert source(receipt, "computed") <= 512 + len(edited) - edit and source(receipt, "ssd") == 1024, receipt
    assert text == plain(edited) or form == "i12"
    assert s.metric("sparing_kv_mismatches") == 0


def test_the_form_is_an_option_and_forms_do_not_mix(tmp_path, make_server, model, plain):
    prompt = ids(700, 3)
    for form in ("i12", "f32"):
        s = make_server("-m", str(model), *WHOLE[:-1], form, *cache(tmp_path))
        text, receipt = s.prefix(prompt)
        assert source(receipt, "computed") == 700 and text == plain(prompt)  # pages alone are worth nothing
        kept(s, 672, 2 if form == "i12" else 4)
        s.stop()
    p = run("serve", "-m", str(model), "--state-form", "f8", check=False)
    assert p.returncode != 0 and "--state-form f8: must be one of i12, f32" in p.stderr


def test_a_new_machine_finds_snapshots_in_the_bucket(tmp_path, make_server, model, plain, store):
    name = model.stem
    opts = ["-m", str(model), *WHOLE, *cache(tmp_path), "--s3", f"s3://{BUCKET}/{name}", "--cold-after", "0"]
    prompt = ids(1100, 4)
    s = make_server(*opts, env=store.env)
    s.prefix(prompt)
    kept(s, 1088, 3, "s3")
    s.kill()
    shutil.rmtree(tmp_path / "pages")
    s = make_server(*opts, env=store.env)
    kept(s, 1088, 3, "s3")
    text, receipt = s.prefix(prompt)
    assert source(receipt, "s3") == 1088 and text == plain(prompt), receipt


def test_tenants_and_deletion(tmp_path, make_server, model, store):
    keys = write_keys(tmp_path / "keys", {"one": "a operator", "two": "b"})
    opts = ["-m", str(model), *WHOLE, *cache(tmp_path), "--keys", keys, "--history", str(tmp_path / "h.db"),
            "--s3", f"s3://{BUCKET}/del-{model.stem}", "--cold-after", "0"]
    prompt = ids(700, 5)

    def ask(s, who):
        s.http.headers["Authorization"] = f"Bearer {who}"
        return s.prefix(prompt)[1]

    s = make_server(*opts, env=store.env)
    assert source(ask(s, "one"), "computed") == 700 and source(ask(s, "two"), "computed") == 700
    kept(s, 2 * 672, 4, "s3", headers={"Authorization": "Bearer one"})
    s.kill()
    s = make_server(*opts, env=store.env)
    assert source(ask(s, "one"), "ssd") == 672
    before = len(store.keys(f"del-{model.stem}/"))
    s.http.headers["Authorization"] = "Bearer one"
    assert s.http.delete("/v1/tenant").status_code == 200
    assert len(store.keys(f"del-{model.stem}/")) * 2 == before
    s.kill()
    s = make_server(*opts, env=store.env)
    assert source(ask(s, "one"), "computed") == 700 and source(ask(s, "two"), "ssd") == 672


def test_damaged_snapshots_are_seen(tmp_path, make_server, model, plain):
    opts = ["-m", str(model), *WHOLE, *cache(tmp_path)]
    prompt = ids(700, 6)
    s = make_server(*opts)
    s.prefix(prompt)
    kept(s, 672, 2)
    s.stop()
    segment = next((tmp_path / "pages").glob("seg-*"))
    blob = bytearray(segment.read_bytes())
    at, n = 0, 0
    while (at := blob.find(b"SPKVREC1", at + 1)) > 0:
        head, n_page = (int.from_bytes(blob[at + o:at + o + 4], "little") for o in (16, 20))
        if n_page == 1:
            blob[at + head + 100] ^= 4
            n += 1
    assert n >= 2
    segment.write_bytes(blob)
    s = make_server(*opts)
    text, receipt = s.prefix(prompt)
    assert text == plain(prompt) and source(receipt, "ssd") == 0, receipt
    wait_until(lambda: s.metric("sparing_kv_mismatches") > 0, "a mismatch is counted")  # by the thread that writes


@pytest.mark.parametrize("mode", ["enospc", "eio"])
def test_a_disk_that_fails_changes_no_answer(tmp_path, make_server, model, plain, mode):
    opts = ["-m", str(model), *WHOLE, *cache(tmp_path), "--cache-io", "threads"]
    first, other = ids(600, 7), ids(600, 8)
    s = make_server(*opts, env=bad_disk(tmp_path, "ok"))
    assert s.prefix(first)[0] == plain(first)
    kept(s, 576, 2)
    (tmp_path / "mode").write_text(mode)
    assert s.prefix(other)[0] == plain(other)
    s.kill()
    (tmp_path / "mode").write_text("ok")
    s = make_server(*opts, env=bad_disk(tmp_path, "ok"))
    (tmp_path / "mode").write_text(mode)
    text, receipt = s.prefix(first)
    assert text == plain(first) and source(receipt, "ssd") == (0 if mode == "eio" else 576)


@pytest.mark.parametrize("kills", [10, pytest.param(200, marks=pytest.mark.long)])
def test_kill_at_random_points(kills, tmp_path, make_server, model, plain):
    opts = ["-m", str(model), *WHOLE, *cache(tmp_path), "--cache-bytes", "8M"]
    prompts = [ids(600, 20 + i) for i in range(10)]
    hits = sum(source(receipt, "ssd") for _, receipt in answers_before_kills(opts, kills, 2, prompts, lambda s, p: s.prefix(p, 4)))
    s = make_server(*opts)
    for p in prompts:
        text, receipt = s.prefix(p, 4)
        hits += source(receipt, "ssd")
        assert text == plain(p, 4)
    assert s.metric("sparing_kv_mismatches") == 0
    assert hits > 0
