"""Pages beyond RAM: on disk, in objects, through crashes and faults. Whatever happens, a text is the one a server
without any cache gives; what the faults change is only where its pages come from. The model has two layers, so that
a page of 32 tokens takes 25 KiB; tests of folders under load are repeated with all thirty by make check (long)."""
import concurrent.futures
import os
import pathlib
import random
import re
import shutil
import signal
import time

import pytest

from conftest import BIN, GOLDEN, MODEL, PATIENCE, ROOT, Server, answers_before_kills, run, tool, wait_until, write_keys
from objects import BUCKET, Store

TEXT = (ROOT / "test/data/licences.txt").read_text()


@pytest.fixture(scope="module")
def words(server):
    """Token ids of a long text."""
    return server.tokens(TEXT)


@pytest.fixture(scope="module")
def cold_run():
    """What a server that reuses nothing says; model: its options."""
    servers, known = {}, {}

    def ask(ids, n=8, model=()):
        key = (tuple(ids), n, model)
        if key not in known:
            if model not in servers:
                servers[model] = Server("--reuse=false", *model)
            known[key] = servers[model].exact(ids, n)[0]
        return known[key]

    yield ask
    assert [s.stop() for s in servers.values()] == [0] * len(servers)


@pytest.fixture(scope="module")
def store():
    s = Store()
    yield s
    s.stop()


def saved(s, n_tok, tier="ssd", seconds=PATIENCE):
    """Waits until a tier holds n_tok tokens."""
    end = time.monotonic() + seconds
    while s.metric(f'sparing_kv_tokens{{tier="{tier}"}}') < n_tok:
        assert time.monotonic() < end, (s.log, s.metric(f'sparing_kv_tokens{{tier="{tier}"}}'))
        time.sleep(0.05)


def source(receipt):
    tokens = dict(receipt["prompt_tokens"])
    assert tokens.pop("spliced") == 0 and tokens.pop("upstream") == 0
    return tokens


def cache(tmp_path, name="pages"):
    return ["--cache-dir", str(tmp_path / name)]


# --- disk ------------------------------------------------------------------------------------------


@pytest.mark.parametrize("kind", ["q8", "q4", "f16"])
@pytest.mark.parametrize("io", ["uring", "threads"])
def test_a_prompt_survives_kill_and_restart(tmp_path, make_server, words, kind, io):
    ids = words[:1000]
    opts = [*cache(tmp_path), "--kv-type", kind, "--cache-io", io, "--cache-fetch", "always"]
    s = make_server(*opts)
    first, receipt = s.exact(ids)
    assert source(receipt) == {"computed": 1000, "ram": 0, "ssd": 0, "s3": 0}
    saved(s, 992)
    s.kill()
    s = make_server(*opts)
    again, receipt = s.exact(ids)
    assert source(receipt) == {"computed": 1000 - 992, "ram": 0, "ssd": 992, "s3": 0}
    assert again == first
    third, receipt = s.exact(ids)
    assert source(receipt)["ram"] == 992 and third == first
    assert s.metric("sparing_kv_mismatches") == 0
    assert s.metric('sparing_kv_hits_total{source="ssd"}') == 1
    assert s.metric('sparing_kv_read_bytes_total{tier="ssd"}') > 0
    assert s.metric('sparing_kv_load_seconds_count{tier="ssd"}') == 1


def test_logits_after_a_restore_are_the_same_bits(tmp_path, make_server, words):
    ids = words[:500]
    s = make_server(*cache(tmp_path), "--cache-fetch", "always")
    body = {"prompt": ids, "max_tokens": 4, "temperature": 0, "logprobs": 5}
    first = s.http.post("/v1/completions", json=body).json()["choices"]
    saved(s, 480)
    s.kill()
    s = make_server(*cache(tmp_path), "--cache-fetch", "always")
    again = s.http.post("/v1/completions", json=body).json()
    assert again["usage"]["sparing"]["prompt_tokens"]["ssd"] == 480
    assert again["choices"] == first


@pytest.mark.parametrize("kind", ["q8", "f16"])
@pytest.mark.parametrize("name", ["gemma4", "gemma4-moe", "deepseek2"])
def test_layers_of_other_sizes_and_latents_survive_a_restart(tmp_path, make_server, name, kind):
    """Their records have blocks of one layer, of two, or of all, and pages with and without values."""
    ids = [3 + i * i % 90 for i in range(200)]
    body = {"prompt": ids, "max_tokens": 8, "temperature": 0, "logprobs": 5}
    opts = ["-m", str(GOLDEN / f"fam-{name}.gguf"), *cache(tmp_path), "--kv-type", kind, "--cache-fetch", "always"]
    s = make_server(*opts)
    first = s.http.post("/v1/completions", json=body).json()["choices"]
    saved(s, 192)
    s.kill()
    s = make_server(*opts)
    again = s.http.post("/v1/completions", json=body).json()
    assert again["usage"]["sparing"]["prompt_tokens"]["ssd"] == 192
    assert again["choices"] == first
    assert s.metric("sparing_kv_mismatches") == 0


def test_pages_of_another_isa_level_are_not_used(tmp_path, make_server, words):
    s = make_server(*cache(tmp_path), "--cache-fetch", "always", "--cpu-mask", "avx2")
    s.exact(words[:70])
    saved(s, 64)
    s.stop()
    s = make_server(*cache(tmp_path), "--cache-fetch", "always", "--cpu-mask", "scalar")
    assert source(s.exact(words[:70], 1)[1])["ssd"] == 0


def test_both_choices(tmp_path, make_server, words):
    s = make_server(*cache(tmp_path))
    s.exact(words[:2000])
    saved(s, 1984)
    s.stop()
    for how, ssd in (("never", 0), ("always", 1984), ("auto", 1984)):
        s = make_server(*cache(tmp_path), "--cache-fetch", how)
        assert source(s.exact(words[:2000])[1])["ssd"] == ssd
        name = "fetch" if ssd else "recompute"
        assert s.metric(f'sparing_kv_choices_total{{choice="{name}"}}') == 1
        s.stop()


def test_metrics_of_one_name_stand_together(tmp_path, make_server):
    """Several modules count under one name: the text format allows one block of it."""
    s = make_server(*cache(tmp_path), "--history", str(tmp_path / "h.db"))
    lines = s.http.get("/metrics").text.splitlines()
    types = [line for line in lines if line.startswith("# TYPE")]
    assert len(types) == len(set(types))
    labels = [re.search(r'model="[^"]+",(.*)}', line).group(1) for line in lines if line.startswith("sparing_kv_hits_total{")]
    assert labels == ['source="ssd"', 'source="s3"', 'source="ram"']


def test_a_second_server_refuses_the_folder(tmp_path, make_server):
    s = make_server(*cache(tmp_path))
    with pytest.raises(RuntimeError, match=rf"(?s)ended with 6.*in use by process {s.proc.pid}"):
        Server(*cache(tmp_path))
    p = run("cache", "status", *cache(tmp_path), check=False)
    assert p.returncode == 6 and "in use by process" in p.stderr


def test_a_tenant_never_meets_anothers_pages(tmp_path, make_server, words, store):
    keys = write_keys(tmp_path / "keys", {"alice": "alice operator", "bob": "bob"})
    opts = [*cache(tmp_path), "--keys", keys, "--cache-fetch", "always", "--s3", f"s3://{BUCKET}/tenants", "--cold-after", "0"]

    def ask(s, who):
        r = s.http.post("/v1/completions", json={"prompt": words[:300], "max_tokens": 4}, headers={"Authorization": f"Bearer {who}"})
        return r.json()["usage"]["sparing"]["prompt_tokens"]

    def tokens(s, tier):
        return s.metrics(headers={"Authorization": "Bearer alice"})[f'sparing_kv_tokens{{tier="{tier}"}}']

    s = make_server(*opts, env=store.env)
    assert ask(s, "alice")["computed"] == 300
    assert ask(s, "bob")["computed"] == 300
    end = time.monotonic() + PATIENCE
    while tokens(s, "s3") < 2 * 288 and time.monotonic() < end:
        time.sleep(0.1)
    s.kill()
    shutil.rmtree(tmp_path / "pages")
    s = make_server(*opts, env=store.env)
    while tokens(s, "s3") < 2 * 288 and time.monotonic() < end:
        time.sleep(0.1)
    assert ask(s, "alice")["s3"] == 288
    # Alice leaves: nothing of hers is in any tier, all of Bob's is.
    r = s.http.delete("/v1/tenant", headers={"Authorization": "Bearer alice"})
    assert r.status_code == 400 and "--history" in r.text
    s.stop()
    s = make_server(*opts, "--history", str(tmp_path / "h.db"), env=store.env)
    r = s.http.delete("/v1/tenant", headers={"Authorization": "Bearer alice"})
    assert r.status_code == 200 and r.json()["pages"] == 9, r.text
    assert ask(s, "bob")["s3"] + ask(s, "bob")["ram"] >= 288
    assert len(store.keys("tenants/")) == 1
    assert ask(s, "alice")["computed"] == 300


def test_demoted_pages_are_promoted_and_exact(tmp_path, make_server, words, cold_run):
    """More prompts than fit whole: pages drop their lo parts before they go, and read them back."""
    prompts = [words[400 * i: 400 * i + 330] for i in range(12)]
    s = make_server(*cache(tmp_path), "--kv-bytes", "2M", "--cache-fetch", "always")
    for i, ids in enumerate(prompts):
        assert s.exact(ids)[0] == cold_run(ids)
        saved(s, 320 * (i + 1))
    for ids in prompts[:6]:
        s.exact(ids)
    assert s.metric("sparing_kv_demoted_pages") > 0
    ssd = 0
    for _ in range(2):
        for ids in prompts:
            text, receipt = s.exact(ids)
            assert text == cold_run(ids)
            assert receipt["attention"]["demoted_tokens"] == 0
            ssd += source(receipt)["ssd"]
    assert ssd > 1000 and s.metric("sparing_kv_mismatches") == 0


def test_attending_demoted_pages_is_said_in_the_receipt(tmp_path, make_server, words):
    opts = [*cache(tmp_path), "--cache-fetch", "always"]
    s = make_server(*opts)
    s.exact(words[:1000])
    saved(s, 992)
    s.stop()
    s = make_server(*opts, "--kv-demoted", "attend")
    _, receipt = s.exact(words[:1000])
    assert source(receipt)["ssd"] == 992
    assert receipt["attention"]["demoted_tokens"] == 960  # all but the first page, which stays whole
    half = s.metric('sparing_kv_read_bytes_total{tier="ssd"}')
    # What was computed on top of them is nobody else's: a longer prompt finds only the exact part.
    s.exact(words[:1200])
    assert source(s.exact(words[:1200])[1])["ram"] == 992
    s.stop()
    s = make_server(*opts)
    s.exact(words[:1000])
    assert half < 0.6 * s.metric('sparing_kv_read_bytes_total{tier="ssd"}')


# --- a disk that fails -----------------------------------------------------------------------------


def bad_disk(tmp_path, mode):
    (tmp_path / "mode").write_text(mode)
    return {"LD_PRELOAD": str(BIN.parent / "test/libbadio.so"), "BADIO": str(tmp_path / "mode"),
            "ASAN_OPTIONS": "verify_asan_link_order=0"}  # where the binary has it, it comes after


@pytest.mark.parametrize("mode", ["enospc", "eio", "short", "slow"])
def test_a_disk_that_fails_changes_no_answer(tmp_path, make_server, words, cold_run, mode):
    ids, other = words[:600], words[700:1300]
    opts = [*cache(tmp_path), "--cache-io", "threads", "--cache-fetch", "always"]
    s = make_server(*opts, env=bad_disk(tmp_path, "ok"))
    assert s.exact(ids)[0] == cold_run(ids)
    saved(s, 576)
    (tmp_path / "mode").write_text(mode)
    assert s.exact(other)[0] == cold_run(other)  # writing fails or is slow; nobody notices
    if mode in ("enospc", "eio"):
        end = time.monotonic() + PATIENCE
        while s.metric('sparing_kv_write_failures_total{tier="ssd"}') < 1:
            assert time.monotonic() < end
            time.sleep(0.05)
    s.kill()
    (tmp_path / "mode").write_text("ok")
    s = make_server(*opts, env=bad_disk(tmp_path, "ok"))
    (tmp_path / "mode").write_text(mode)
    text, receipt = s.exact(ids)
    assert text == cold_run(ids)
    assert source(receipt)["ssd"] == (0 if mode == "eio" else 576)
    (tmp_path / "mode").write_text("ok")
    time.sleep(2.5)  # a failing disk is tried again after 1, 2, 4 ... seconds
    assert s.exact(other)[0] == cold_run(other)
    saved(s, 576 * (1 if mode == "eio" else 2) - 32, seconds=PATIENCE)


def test_a_slow_disk_is_given_up(tmp_path, make_server, words, cold_run):
    ids = words[:1500]
    opts = [*cache(tmp_path), "--cache-io", "threads"]
    s = make_server(*opts, env=bad_disk(tmp_path, "ok"))
    s.exact(ids)
    saved(s, 1472)
    s.kill()
    s = make_server(*opts, env=bad_disk(tmp_path, "ok"))
    s.exact(words[2000:2600])  # it learns what computing costs
    (tmp_path / "mode").write_text("stuck")
    text, receipt = s.exact(ids)
    (tmp_path / "mode").write_text("ok")
    assert text == cold_run(ids)
    assert source(receipt)["computed"] == 1500
    assert s.wait_metric("sparing_kv_choices_total{choice=\"abandoned\"}", 1)


def test_damaged_bytes_are_seen_and_computed_again(tmp_path, make_server, words, cold_run):
    ids = words[:800]
    opts = [*cache(tmp_path), "--cache-fetch", "always"]
    s = make_server(*opts)
    s.exact(ids)
    saved(s, 768)
    s.stop()
    segment = next((tmp_path / "pages").glob("seg-*"))
    blob = bytearray(segment.read_bytes())
    rnd = random.Random(3)
    for _ in range(20):
        blob[rnd.randrange(20000, len(blob))] ^= 1 << rnd.randrange(8)
    segment.write_bytes(blob)
    s = make_server(*opts)
    text, receipt = s.exact(ids)
    assert text == cold_run(ids)
    wait_until(lambda: s.metric("sparing_kv_mismatches") > 0, "a mismatch is counted")  # by the thread that writes
    saved(s, 768)
    s.stop()
    run("cache", "verify", *cache(tmp_path), check=False)  # a damaged run nobody has read yet is found here
    assert '"damaged":0' in run("cache", "verify", *cache(tmp_path), "--json").stdout


WHOLE = ("-m", str(MODEL))


@pytest.mark.parametrize("kills,room,model", [(20, "4M", ()), pytest.param(200, "64M", WHOLE, marks=pytest.mark.long)])
def test_kill_at_random_points_under_load(kills, room, model, tmp_path, make_server, words, cold_run):
    """Each round asks old and new prompts, is killed in the middle, at some answer and not at some time, and starts again."""
    opts = [*cache(tmp_path), "--cache-fetch", "always", "--cache-bytes", room, "--kv-bytes", room, *model]
    prompts = [words[200 * i: 200 * i + 150] for i in range(40)]
    hits = sum(source(receipt)["ssd"] for _, receipt in answers_before_kills(opts, kills, 1, prompts, lambda s, ids: s.exact(ids, 4)))
    s = make_server(*opts)
    for ids in prompts:
        text, receipt = s.exact(ids, 4)
        hits += source(receipt)["ssd"]
        assert text == cold_run(ids, 4, model)
    assert s.metric("sparing_kv_mismatches") == 0
    assert hits > 25 * kills


# --- objects ---------------------------------------------------------------------------------------


def s3_opts(tmp_path, name):
    return [*cache(tmp_path), "--s3", f"s3://{BUCKET}/{name}", "--cold-after", "0", "--cache-fetch", "always"]


def test_a_new_machine_finds_its_pages_in_the_bucket(tmp_path, make_server, words, store, cold_run):
    ids = words[:1200]
    s = make_server(*s3_opts(tmp_path, "fresh"), env=store.env)
    s.exact(ids)
    saved(s, 1184, "s3")
    s.kill()
    shutil.rmtree(tmp_path / "pages")
    s = make_server(*s3_opts(tmp_path, "fresh"), env=store.env)
    saved(s, 1184, "s3")
    text, receipt = s.exact(ids)
    assert source(receipt)["s3"] == 1184 and text == cold_run(ids)
    saved(s, 1184, "ssd")  # and they are warm again
    assert s.metric('sparing_kv_hits_total{source="s3"}') == 1
    s.stop()
    p = run("cache", "verify", *cache(tmp_path), "--s3", f"s3://{BUCKET}/fresh", "--json", env=store.env)
    assert '"damaged":0,"unread":0' in p.stdout
    assert len(store.keys("fresh/")) == 2
    run("cache", "prune", "--unused", "0", *cache(tmp_path), "--s3", f"s3://{BUCKET}/fresh", env=store.env)
    assert store.keys("fresh/") == []


@pytest.mark.parametrize("mode", ["refuse", "error", "cut", "wrong", "hang"])
def test_a_store_that_fails_changes_no_answer(tmp_path, make_server, words, store, cold_run, mode):
    ids = words[:600]
    opts = s3_opts(tmp_path, mode)
    if mode == "hang":
        opts[-1] = "auto"  # computing overtakes it
    s = make_server(*opts, env=store.env)
    s.exact(ids)
    saved(s, 576, "s3")
    s.kill()
    for f in (tmp_path / "pages").glob("seg-*"):
        f.unlink()
    s = make_server(*opts, env=store.env)
    s.exact(words[1000:1600])
    store.proxy.mode = mode
    try:
        text, receipt = s.exact(ids)
        assert text == cold_run(ids)
        assert source(receipt)["computed"] > 32 or mode == "cut"  # a connection cut in the middle goes on where it was
        assert s.chat().status_code == 200
    finally:
        store.proxy.mode = "pass"
    if mode == "wrong":
        wait_until(lambda: s.metric("sparing_kv_mismatches") > 0, "a mismatch is counted")  # by the thread that writes


def test_the_store_comes_back(tmp_path, make_server, words, store):
    """Gone while pages should be written: they are written when it is back, and nothing waits meanwhile."""
    s = make_server(*s3_opts(tmp_path, "back"), env=store.env)
    store.proxy.mode = "refuse"
    try:
        s.exact(words[:300])
        saved(s, 288)
        time.sleep(1.5)
        assert s.metric('sparing_kv_tokens{tier="s3"}') == 0
        assert s.http.get("/health").status_code == 200
    finally:
        store.proxy.mode = "pass"
    saved(s, 288, "s3")


def test_wrong_credentials_are_named(tmp_path, store):
    env = {**store.env, "AWS_SECRET_ACCESS_KEY": "wrong"}
    s = Server(*s3_opts(tmp_path, "denied"), env=env)
    s.wait_log("SignatureDoesNotMatch")
    s.stop()
    with pytest.raises(RuntimeError, match="no credentials"):
        Server(*s3_opts(tmp_path, "denied"), env={"AWS_SHARED_CREDENTIALS_FILE": "/nonexistent", "HOME": "/nonexistent",
                                                  "AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": ""})


def test_credentials_from_the_profile_file(tmp_path, make_server, words, store):
    (tmp_path / "credentials").write_text(f"[other]\naws_access_key_id = no\naws_secret_access_key = no\n\n[mine]\n"
                                          f"aws_access_key_id = {store.id}\naws_secret_access_key={store.secret}\n")
    (tmp_path / "config").write_text("[profile mine]\nregion = us-east-1\n")
    env = {"AWS_ACCESS_KEY_ID": "", "AWS_SECRET_ACCESS_KEY": "", "AWS_REGION": "", "AWS_PROFILE": "mine",
           "AWS_SHARED_CREDENTIALS_FILE": str(tmp_path / "credentials"), "AWS_CONFIG_FILE": str(tmp_path / "config"),
           "AWS_ENDPOINT_URL_S3": "", "AWS_ENDPOINT_URL": store.proxy.url}
    s = make_server(*s3_opts(tmp_path, "profile"), env=env)
    s.exact(words[:100])
    saved(s, 96, "s3")


def test_old_objects_expire(tmp_path, make_server, words, store):
    s = make_server(*s3_opts(tmp_path, "old"), "--cold-expire", "2", env=store.env)
    s.exact(words[:100])
    saved(s, 96, "s3")
    end = time.monotonic() + PATIENCE
    while store.keys("old/") and time.monotonic() < end:
        time.sleep(0.2)
    assert store.keys("old/") == []


# --- all tiers at once -----------------------------------------------------------------------------


@pytest.mark.parametrize("chats,ram,disk,model", [(32, "2M", "2700K", ()), pytest.param(64, "60M", "80M", WHOLE, marks=pytest.mark.long)])
def test_conversations_with_canaries_through_all_tiers(chats, ram, disk, model, tmp_path, make_server, words, store, cold_run):
    """RAM and SSD hold a fraction; each turn's text is the one of a cold run, so no byte came from elsewhere."""
    rnd = random.Random(5)
    n_chat, chats = chats, []
    for i in range(n_chat):
        secret = [rnd.randrange(1000, 40000) for _ in range(16)]
        chats.append(words[:64] + secret + words[150 * i: 150 * i + 180])
    s = make_server(*cache(tmp_path), *model, "--kv-bytes", ram, "--cache-bytes", disk, "--cache-fetch", "always",
                    "--s3", f"s3://{BUCKET}/canary", "--cold-after", "0", env=store.env)
    seen = {"computed": 0, "ram": 0, "ssd": 0, "s3": 0}
    with concurrent.futures.ThreadPoolExecutor(16) as pool:
        for turn in range(3):
            order = list(range(n_chat))
            rnd.shuffle(order)
            for i, (text, receipt) in zip(order, pool.map(lambda i: s.exact(chats[i], 8), order)):
                assert text == cold_run(chats[i], 8, model), f"conversation {i}, turn {turn}"
                for k in seen:
                    seen[k] += source(receipt)[k]
            for i in range(n_chat):
                chats[i] = chats[i] + words[3000 + 50 * i + turn: 3000 + 50 * i + turn + 40]
            time.sleep(3)  # time for objects to be written
    assert min(seen["ssd"], seen["s3"], seen["ram"]) > 8 * n_chat, seen
    assert s.metric("sparing_kv_mismatches") == 0


# --- the command -----------------------------------------------------------------------------------


def test_cache_command(tmp_path, make_server, words):
    s = make_server(*cache(tmp_path), "--cache-fetch", "always")
    first, _ = s.exact(words[:500])
    saved(s, 480)
    s.stop()
    out = tmp_path / "pages.export"
    assert '"tokens":480' in run("cache", "status", *cache(tmp_path), "--json").stdout
    assert "1 runs" in run("cache", "verify", *cache(tmp_path)).stdout
    run("cache", "export", out, *cache(tmp_path))
    p = run("cache", "export", out, *cache(tmp_path), check=False)
    assert p.returncode == 6 and "File exists" in p.stderr
    run("cache", "import", out, *cache(tmp_path, "other"))
    s = make_server(*cache(tmp_path, "other"), "--cache-fetch", "always")
    text, receipt = s.exact(words[:500])
    assert text == first and source(receipt)["ssd"] == 480
    s.stop()
    blob = bytearray(out.read_bytes())
    blob[len(blob) // 2] ^= 1
    out.write_bytes(blob)
    p = run("cache", "import", out, *cache(tmp_path, "third"), check=False)
    assert p.returncode == 6 and "checksum" in p.stderr
    out.write_bytes(b"no export")
    assert "not an export" in run("cache", "import", out, *cache(tmp_path, "third"), check=False).stderr
    assert run("cache", "prune", *cache(tmp_path), check=False).returncode == 2
    assert "1 runs removed" in run("cache", "prune", "--tenant", "default", *cache(tmp_path)).stdout
    assert '"runs":0' in run("cache", "status", *cache(tmp_path), "--json").stdout
    assert run("cache", "frobnicate", *cache(tmp_path), check=False).returncode == 2
    p = run("cache", "import", tmp_path / "nowhere", *cache(tmp_path), check=False)
    assert p.returncode == 6 and "nowhere" in p.stderr
