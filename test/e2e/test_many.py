"""Several models in one server: brought into memory when they are asked for, sent away when their memory is needed, and never mixed up."""
import concurrent.futures
import http.server
import json
import shutil
import signal
import socket
import threading

import pytest

from conftest import GOLDEN, MODEL, PATIENCE, run, wait_until, write_keys
from ggufs import Gguf
from test_mtp import add_block
from test_page import Page, ask, ready, settings

A, B, C = "fam-llama-head64", "fam-gemma3", "fam-ernie4_5"
PROMPT = "The quick brown fox jumps over the lazy dog. " * 4


@pytest.fixture
def folder(tmp_path):
    """A models folder of three tiny models with random weights."""
    d = tmp_path / "models"
    d.mkdir()
    for name in (A, B, C):
        shutil.copy(GOLDEN / f"{name}.gguf", d)
    return d


def size(folder, name):
    """Bytes that a model takes with its pages, without earlier answers."""
    return json.loads(run("models", name, "--json", "--models-dir", folder).stdout)[0]["ram_bytes"] + (8 << 20)


def listed(s):
    return {m["id"]: m for m in s.http.get("/models").json()["data"]}


def states(s):
    """Of models that answer; encoders are always there."""
    return {k: m["status"]["value"] for k, m in listed(s).items() if "status" in m and "completion" in m["capabilities"]}


def complete(s, model, prompt=PROMPT, n=12, **kw):
    r = s.http.post("/v1/completions", json={"model": model, "prompt": prompt, "max_tokens": n, "temperature": 0, **kw})
    assert r.status_code == 200, r.text
    j = r.json()
    assert j["model"] == model
    return j["choices"][0]["text"], j["usage"]["sparing"]["prompt_tokens"]


def alone(make_server, folder, name, prompt=PROMPT, n=12):
    s = make_server("-m", str(folder / f"{name}.gguf"), "--kv-bytes", "8M")
    out = complete(s, name, prompt, n)[0]
    s.stop()
    return out


def many(make_server, folder, *args, **kw):
    return make_server("--models-dir", str(folder), "--kv-bytes", "8M", "--earlier-bytes", "0", *args, **kw)


# --- on demand ------------------------------------------------------------------------------------


def test_models_of_a_folder_come_when_they_are_asked_for(folder, make_server):
    s = many(make_server, folder)
    assert states(s) == {A: "unloaded", B: "unloaded", C: "unloaded"}  # none is meant by default
    for name in (A, B):
        assert complete(s, name)[0] == alone(make_server, folder, name)
    assert states(s) == {A: "loaded", B: "loaded", C: "unloaded"}
    data = listed(s)
    assert all(data[n]["context_length"] > 0 and "completion" in data[n]["capabilities"] for n in (A, B, C))
    assert data[A]["status"]["bytes"] == size(folder, A) and data[C]["status"]["bytes"] == 0
    assert all((data[n]["size"], data[n]["fits"]) == ((folder / f"{n}.gguf").stat().st_size, True) for n in (A, B, C))
    assert s.http.get("/v1/models").json() == s.http.get("/models").json()
    assert s.http.get(f"/v1/models/{C}").json()["id"] == C
    assert s.metric('sparing_model_moves_total{kind="loaded"}') == 2
    assert s.stop() == 0


def test_unknown_and_missing_names_are_told_with_those_that_there_are(folder, make_server):
    s = many(make_server, folder)
    for body, status, code in (({"model": "gpt-4"}, 404, "model_not_found"), ({}, 400, None)):
        r = s.http.post("/v1/completions", json={"prompt": "a", **body})
        assert r.status_code == status, r.text
        e = r.json()["error"]
        assert e["code"] == code and e["param"] == "model" and all(n in e["message"] for n in (A, B, C))
    assert s.http.post("/v1/messages", json={"model": "x", "max_tokens": 4, "messages": [{"role": "user", "content": "a"}]}).status_code == 404
    assert s.http.post("/api/chat", json={"model": "x", "messages": [{"role": "user", "content": "a"}]}).status_code == 404
    assert s.http.get("/v1/models/x").status_code == 404
    assert set(states(s).values()) == {"unloaded"}
    assert s.stop() == 0


def test_several_are_named_on_the_command_line(folder, make_server):
    first, second = str(folder / f"{A}.gguf"), str(folder / f"{B}.gguf")
    s = make_server("-m", first, "-m", second, "--kv-bytes", "8M", "--alias", f"gpt-4={B}")
    assert states(s) == {A: "loaded", B: "loaded", "gpt-4": "loaded"}
    r = s.http.post("/v1/completions", json={"prompt": "a", "max_tokens": 2})
    assert r.json()["model"] == A  # the first one is meant where none is named
    assert s.http.post("/v1/completions", json={"model": "GPT-4", "prompt": "a", "max_tokens": 2}).json()["model"] == B
    assert s.stop() == 0
    for args, words in ((["-m", first, "-m", str(folder / "none.gguf")], "No such file"), (["-m", first, "-m", second, "--model-name", "x"], "model-name")):
        p = run("serve", "--port", "0", *args, check=False)
        assert p.returncode in (2, 4) and words in p.stderr, p.stderr


def test_tokens_are_of_the_model_that_is_named(folder, make_server):
    s = many(make_server, folder)
    for n in (A, B):
        ids = s.http.post("/tokenize", json={"content": "quick", "model": n}).json()["tokens"]
        assert ids and s.http.post("/detokenize", json={"tokens": ids, "model": n}).json()["content"].strip() == "quick"
    assert states(s) == {A: "loaded", B: "loaded", C: "unloaded"}
    assert s.http.get(f"/props?model={A}").json()["model_alias"] == A
    assert s.http.get(f"/props?model={C}").status_code == 503 and s.http.get("/props?model=x").status_code == 404
    assert s.stop() == 0


# --- memory ---------------------------------------------------------------------------------------


MINI = MODEL.parent / "all-MiniLM-L6-v2"


def embed(s, **kw):
    r = s.http.post("/v1/embeddings", json={"input": "a cat", **kw})
    assert r.status_code == 200, r.text
    return r.json()["data"][0]["embedding"]


def test_an_encoder_that_search_needs_stays(folder, make_server, tmp_path):
    """What it takes is not there for models; the lists say how much it is."""
    search = ["--knowledge", str(tmp_path / "k.db"), "--encoder", str(MINI)]
    s = many(make_server, folder, *search, "--memory", "400M", "-m", str(folder / f"{A}.gguf"))
    row = listed(s)[MINI.name]
    n = row["status"]["bytes"]
    assert row["status"]["value"] == "loaded" and n > 80e6
    [ps] = [m for m in s.http.get("/api/ps").json()["models"] if m["details"]["family"] == "encoder"]
    assert ps["size"] == n and ps["context_length"] == row["context_length"] and ps["expires_at"].startswith("9999")
    held = s.metric("sparing_models_bytes")
    assert held == n + listed(s)[A]["status"]["bytes"]
    r = s.http.post("/models/unload", json={"model": MINI.name})
    assert r.status_code == 400 and "stays" in r.text
    s.stop()
    r = run("serve", "--port", "0", "--models-dir", folder, *search, "--memory", str(n), check=False)
    assert r.returncode != 0 and "encoders take" in r.stderr
    s = many(make_server, folder, *search, "--memory", str(n + size(folder, A) // 2))
    r = s.http.post("/v1/completions", json={"model": A, "prompt": "a", "max_tokens": 1})
    assert r.status_code == 500 and r.json()["error"]["code"] == "model_not_loaded", r.text


ENC, RANK = "fam-bert", "fam-bert-rank"


def test_encoders_come_when_they_are_asked_for(folder, make_server):
    """Those of the folder and those that are named, as models do; a model and an encoder send each other away."""
    for name in (ENC, RANK):
        shutil.copy(GOLDEN / f"{name}.gguf", folder)
    s = many(make_server, folder, "--encoder", str(MINI), "--reranker", RANK, "--alias", f"text-embedding-3-small={MINI.name}")
    was = listed(s)
    state = lambda: {k: m["status"]["value"] for k, m in listed(s).items() if k in (MINI.name, ENC, RANK)}  # noqa: E731
    assert state() == {MINI.name: "loaded", ENC: "unloaded", RANK: "loaded"}  # those that are named, as far as the memory holds them
    assert was[MINI.name]["dimensions"] == 384 and was[ENC]["dimensions"] == 32 and was[RANK]["capabilities"] == ["rerank"]
    want = embed(s)
    small = embed(s, model=ENC)
    assert len(want) == 384 and len(small) == 32 and state()[ENC] == "loaded"
    n = {k: m["status"]["bytes"] for k, m in listed(s).items()}
    assert s.metric("sparing_models_bytes") == sum(n[k] for k in (MINI.name, ENC, RANK))
    for name in (ENC, MINI.name, RANK):
        assert s.http.post("/models/unload", json={"model": name}).status_code == 200
        assert state()[name] == "unloaded" and listed(s)[name]["dimensions" if name != RANK else "capabilities"] == was[name]["dimensions" if name != RANK else "capabilities"]
    assert s.http.get("/api/ps").json()["models"] == [] and s.metric("sparing_models_bytes") == 0
    assert embed(s, model="text-embedding-3-small") == want and state() == {MINI.name: "loaded", ENC: "unloaded", RANK: "unloaded"}
    r = s.http.post("/v1/rerank", json={"query": "cat", "documents": ["a cat", "a car"]})
    assert r.status_code == 200 and r.json()["method"] == "reranker" and state()[RANK] == "loaded", r.text
    r = s.http.post("/models/load", json={"model": ENC})
    assert r.status_code == 200 and state()[ENC] == "loaded"
    assert embed(s, model=ENC) == small
    s.stop()
    s = many(make_server, folder, "--memory", str(max(n[MINI.name], size(folder, A)) + 4096), "--encoder", str(MINI))
    for _ in range(2):
        assert embed(s) == want
        assert complete(s, A)[0]
        assert state()[MINI.name] == "unloaded"
    assert s.stop() == 0


def test_an_encoder_leaves_when_its_time_is_over(folder, make_server):
    shutil.copy(GOLDEN / f"{ENC}.gguf", folder)
    s = many(make_server, folder)
    r = s.http.post("/api/embed", json={"model": ENC, "input": "a cat", "keep_alive": "60m"})
    assert r.status_code == 200, r.text
    [ps] = s.http.get("/api/ps").json()["models"]
    assert ps["name"] == ENC and not ps["expires_at"].startswith("9999") and ps["size"] > 0
    assert s.http.post("/api/embed", json={"model": ENC, "input": "a cat", "keep_alive": "soon"}).status_code == 400
    assert s.http.post("/api/embed", json={"model": ENC, "input": "a cat", "keep_alive": 0}).status_code == 200
    wait_until(lambda: s.http.get("/api/ps").json()["models"] == [], "the encoder left")
    assert s.http.post("/api/generate", json={"model": ENC, "keep_alive": 0}).json()["done_reason"] == "unload"
    assert s.stop() == 0


def test_what_an_encoder_is_not_asked_for(folder, make_server):
    for name in (ENC, RANK):
        shutil.copy(GOLDEN / f"{name}.gguf", folder)
    s = many(make_server, folder)
    chat = {"messages": [{"role": "user", "content": "a"}], "max_tokens": 1}
    for path, body in (("/v1/chat/completions", chat), ("/v1/messages", chat), ("/v1/responses", {"input": "a"}), ("/v1/completions", {"prompt": "a"}),
                       ("/api/chat", chat), ("/tokenize", {"content": "a"})):
        r = s.http.post(path, json={"model": ENC, **body})
        assert r.status_code == 404 and "is an encoder" in r.text, (path, r.text)
    for path in ("/props", "/slots"):
        assert s.http.get(path, params={"model": ENC}).status_code == 400
    for path, body in (("/v1/embeddings", {"input": "a"}), ("/v1/rerank", {"query": "a", "documents": ["a"]})):
        assert s.http.post(path, json=body).status_code == 404  # none is meant by default
        assert s.http.post(path, json={"model": A, **body}).status_code == 404
        assert s.http.post(path, json={"model": "x", **body}).status_code == 404
    r = s.http.post("/v1/embeddings", json={"model": RANK, "input": "a"})
    assert r.status_code == 400 and "makes no vectors" in r.text
    assert set(states(s).values()) == {"unloaded"} and s.http.get("/api/ps").json()["models"] == []
    assert s.stop() == 0


def test_an_encoder_is_not_closed_under_a_request_that_left(folder, make_server):
    """Clients leave in the middle of long texts, and the encoder is told to leave behind each of them."""
    shutil.copy(GOLDEN / f"{ENC}.gguf", folder)
    s = many(make_server, folder, "--memory", "64M")
    small = embed(s, model=ENC)
    for _ in range(12):
        c = socket.create_connection(("127.0.0.1", s.port))
        body = json.dumps({"model": ENC, "input": ["word " * 200] * 64}).encode()
        c.sendall(b"POST /v1/embeddings HTTP/1.1\r\nHost: localhost\r\nContent-Type: application/json\r\nContent-Length: %d\r\n\r\n" % len(body) + body)
        wait_until(lambda: listed(s)[ENC]["status"]["value"] == "loaded", "it came")
        c.close()
        assert s.http.post("/models/unload", json={"model": ENC}).status_code == 200
    assert embed(s, model=ENC) == small
    assert s.stop() == 0


def test_memory_is_a_bound_and_the_least_recent_leaves(folder, make_server):
    room = size(folder, A) + size(folder, B) + (1 << 20)
    s = many(make_server, folder, "--memory", str(room))
    want = {n: complete(s, n)[0] for n in (A, B)}
    assert complete(s, A)[0] == want[A]
    complete(s, C)  # B was used least recently
    assert states(s) == {A: "loaded", B: "unloaded", C: "loaded"}
    assert sum(m["status"]["bytes"] for m in listed(s).values()) <= room
    assert s.metric("sparing_models_bytes") <= room
    assert complete(s, B)[0] == want[B]  # and comes back
    assert states(s)[B] == "loaded"
    assert s.stop() == 0


def test_a_model_whose_weights_are_more_than_the_memory_does_not_fit(folder, make_server):
    least = {n: sum(len(t[2]) for t in Gguf(folder / f"{n}.gguf").tensors.values()) for n in (A, B, C)}
    n = sorted(least.values())
    s = many(make_server, folder, "--memory", str((n[-1] + n[-2]) // 2))
    assert {m: row["fits"] for m, row in listed(s).items() if m in least} == {m: b < n[-1] for m, b in least.items()}
    assert s.stop() == 0


def taken(make_server, folder, model, *args):
    """What a server says that the model takes."""
    s = make_server("--models-dir", str(folder), "--kv-bytes", "8M", *args)
    assert s.http.post("/models/load", json={"model": model}).status_code == 200
    n = listed(s)[model]["status"]["bytes"]
    assert s.metric("sparing_models_bytes") == n
    s.stop()
    return n


def test_memory_counts_all_that_a_model_brings(folder, make_server):
    """States, earlier answers, and the rows of larger steps, beside weights and pages."""
    shutil.copy(GOLDEN / "fam-falcon-h1.gguf", folder)
    plain = taken(make_server, folder, A, "--earlier-bytes", "0")
    assert plain == size(folder, A) and taken(make_server, folder, A, "--earlier-bytes", "4M") == plain + (4 << 20)
    assert taken(make_server, folder, A, "--earlier-bytes", "0", "--chunk", "4096", "--max-run", "256") > plain
    few, many_states = (taken(make_server, folder, "fam-falcon-h1", "--earlier-bytes", "0", "--state-bytes", n) for n in ("4M", "8M"))
    assert many_states == few + (4 << 20) and few == size(folder, "fam-falcon-h1") + (4 << 20)
    add_block("fam-glm4moe", folder / "block.gguf")
    without, block = (taken(make_server, folder, "block", "--earlier-bytes", "0", "--draft-kv-bytes", "2M", *args) for args in (("--drafters", "lookup"), ()))
    assert block == without + (2 << 20)


def test_what_does_not_fit_is_named_with_what_would(folder, make_server):
    need = size(folder, A)
    for args, words in ((["--earlier-bytes", "1G", "--encoder", "none"], ("--draft-model, --draft-kv-bytes, --earlier-bytes", "1024 MiB")),
                        (["--kv-bytes", "1G", "--earlier-bytes", "0", "--encoder", "none"], ("kv-bytes: 1024 MiB for pages beside",)),
                        (["--encoder", MINI], ("the encoder needs", "--encoder none"))):
        p = run("serve", "--port", "0", "-m", folder / f"{A}.gguf", "--history", "none", "--memory", str(need), *args, check=False)
        assert p.returncode == 4 and all(w in p.stderr for w in words), p.stderr
    s = make_server("-m", str(folder / f"{A}.gguf"), "--memory", str(need), "--earlier-bytes", "0", "--encoder", "none")  # a model alone, and pages that were not asked for: they are fewer
    assert complete(s, A)[0] == alone(make_server, folder, A) and 0 < s.metric("sparing_models_bytes") <= need


def test_a_model_that_can_never_fit_is_refused_by_numbers(folder, make_server):
    s = many(make_server, folder, "--memory", str(size(folder, A) // 2))
    r = s.http.post("/v1/completions", json={"model": A, "prompt": "a"})
    assert r.status_code == 500 and r.json()["error"]["code"] == "model_not_loaded"
    assert f"{A}.gguf" in r.json()["error"]["message"] and "MiB" in r.json()["error"]["message"]
    assert states(s)[A] == "failed" and "MiB" in listed(s)[A]["status"]["why"]
    assert s.stop() == 0


def test_a_stream_for_a_model_that_must_wait_pings_and_is_not_lost(folder, make_server):
    """The memory holds one; it is in use by a long answer, so the other waits, is told that it is not forgotten, and gets its answer."""
    shutil.copy(MODEL, folder)
    big = MODEL.stem
    need = json.loads(run("models", big, "--json", "--models-dir", folder).stdout)[0]["ram_bytes"] + (64 << 20)
    s = make_server("--models-dir", str(folder), "--kv-bytes", "64M", "--earlier-bytes", "0", "-m", big, "--memory", str(need + (1 << 20)))
    body = {"model": big, "prompt": PROMPT, "max_tokens": 8000, "temperature": 0, "stream": True, "ignore_eos": True, "sparing": {"draft": 0}}
    lines = []

    def ask():
        with s.http.stream("POST", "/v1/completions", json={"model": A, "prompt": PROMPT, "max_tokens": 12, "temperature": 0, "stream": True}) as r:
            for line in r.iter_lines():
                lines.append(line)

    with s.http.stream("POST", "/v1/completions", json=body) as long:
        it = long.iter_lines()  # held: a dropped iterator would end the stream
        next(it)
        asked = threading.Thread(target=ask)
        asked.start()
        wait_until(lambda: ": ping" in lines or not asked.is_alive())
        assert states(s)[A] == "loading" and states(s)[big] == "leaving"
    asked.join(PATIENCE)  # the long answer's client has left
    assert "data: [DONE]" in lines, lines
    text = "".join(json.loads(x[6:])["choices"][0]["text"] for x in lines if x.startswith("data: {") and json.loads(x[6:])["choices"])
    assert text == alone(make_server, folder, A)
    assert states(s)[big] == "unloaded" and states(s)[A] == "loaded"
    assert s.stop() == 0


def test_a_wait_has_an_end(folder, make_server):
    """While a model cannot come, its request ends with a clear error, and the one that is there goes on."""
    shutil.copy(MODEL, folder)
    big = MODEL.stem
    need = json.loads(run("models", big, "--json", "--models-dir", folder).stdout)[0]["ram_bytes"] + (64 << 20)
    s = make_server("--models-dir", str(folder), "--kv-bytes", "64M", "--earlier-bytes", "0", "-m", big, "--memory", str(need + (1 << 20)), "--load-wait", "1")
    body = {"model": big, "prompt": PROMPT, "max_tokens": 8000, "temperature": 0, "stream": True, "ignore_eos": True, "sparing": {"draft": 0}}
    with s.http.stream("POST", "/v1/completions", json=body) as long:
        it = long.iter_lines()
        next(it)
        r = s.http.post("/v1/completions", json={"model": A, "prompt": "a"})
        assert r.status_code == 504 and r.json()["error"]["code"] == "model_not_loaded" and A in r.json()["error"]["message"], r.text
        r = s.http.post("/models/unload", json={"model": big})
        assert r.status_code == 504 and "in use" in r.json()["error"]["message"]
        wait_until(lambda: states(s)[big] == "loaded")  # nobody waits for it to leave any more
        assert complete(s, big, n=4)[0]
    assert s.stop() == 0


# --- load and unload ------------------------------------------------------------------------------


def test_operators_load_and_unload(folder, make_server, tmp_path):
    keys = write_keys(tmp_path / "keys", {"op": "ann operator", "user": "bob"})
    s = many(make_server, folder, "--keys", keys)
    op, user = ({"Authorization": f"Bearer {k}"} for k in ("op", "user"))
    for path in ("/models/load", "/models/unload"):
        assert s.http.post(path, json={"model": A}, headers=user).status_code == 403
        assert s.http.post(path, json={"model": "x"}, headers=op).status_code == 404
    state = lambda: {m["id"]: m["status"]["value"] for m in s.http.get("/models", headers=user).json()["data"]}[A]  # noqa: E731
    for path, want in (("/models/load", "loaded"), ("/models/load", "loaded"), ("/models/unload", "unloaded"), ("/models/unload", "unloaded"), ("/models/load", "loaded")):
        r = s.http.post(path, json={"model": A}, headers=op)
        assert r.status_code == 200 and r.json() == {"success": True}, r.text
        assert state() == want
    assert s.stop() == 0


def test_unload_waits_for_what_runs(folder, make_server):
    shutil.copy(MODEL, folder)
    big = MODEL.stem
    s = many(make_server, folder, "-m", big)
    body = {"model": big, "prompt": PROMPT, "max_tokens": 120, "temperature": 0, "stream": True, "ignore_eos": True, "sparing": {"draft": 0}}
    with concurrent.futures.ThreadPoolExecutor(1) as pool, s.http.stream("POST", "/v1/completions", json=body) as r:
        it = r.iter_lines()
        next(it)
        gone = pool.submit(lambda: s.http.post("/models/unload", json={"model": big}))
        rest = list(it)
        assert "data: [DONE]" in rest
        assert gone.result(PATIENCE).json() == {"success": True}
    assert states(s)[big] == "unloaded"
    assert complete(s, big, n=4)[0]  # and it is back
    assert s.stop() == 0


def test_one_model_alone_stays(make_server, folder):
    s = make_server("-m", str(folder / f"{A}.gguf"))
    r = s.http.post("/models/unload", json={"model": A})
    assert r.status_code == 400 and "stays" in r.json()["error"]["message"]
    assert "status" not in s.http.get("/v1/models").json()["data"][0]
    assert s.stop() == 0


def test_a_load_that_fails_names_the_file_and_others_go_on(folder, make_server):
    (folder / "broken.gguf").write_bytes((folder / f"{A}.gguf").read_bytes()[:20000])
    (folder / "nothing.gguf").write_bytes(b"GGUF")
    s = many(make_server, folder)
    for name in ("broken", "nothing"):
        r = s.http.post("/v1/completions", json={"model": name, "prompt": "a"})
        assert r.status_code == 500 and r.json()["error"]["code"] == "model_not_loaded" and f"{name}.gguf" in r.json()["error"]["message"], r.text
        assert states(s)[name] == "failed" and f"{name}.gguf" in listed(s)[name]["status"]["why"]
    assert complete(s, A)[0]
    shutil.copy(GOLDEN / f"{B}.gguf", folder / "broken.gguf")  # mended: the next request finds it so
    assert complete(s, "broken")[0] == complete(s, B)[0]
    assert "why" not in listed(s)["broken"]["status"] and listed(s)["broken"]["context_length"] == listed(s)[B]["context_length"]
    assert s.metric('sparing_model_moves_total{kind="failed"}') == 2
    assert s.stop() == 0


def test_models_that_nobody_asks_for_leave_in_time(folder, make_server):
    s = many(make_server, folder, "--keep-alive", "0")
    complete(s, A)
    wait_until(lambda: states(s)[A] == "unloaded")
    assert complete(s, A)[0]
    assert s.stop() == 0


# --- pulling --------------------------------------------------------------------------------------


class Hub(http.server.BaseHTTPRequestHandler):
    """One file, in two halves, the second of which comes when it is let go."""

    def log_message(self, *args):
        pass

    def do_GET(self):
        data = (GOLDEN / f"{B}.gguf").read_bytes()
        self.send_response(200 if self.path.endswith("/new.gguf") else 404)
        self.send_header("Content-Length", str(len(data)) if self.path.endswith("/new.gguf") else "0")
        self.end_headers()
        if self.path.endswith("/new.gguf"):
            self.wfile.write(data[:1000])
            self.server.may_end.wait(PATIENCE)
            self.wfile.write(data[1000:])


@pytest.fixture
def hub():
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Hub)
    server.may_end = threading.Event()
    threading.Thread(target=server.serve_forever, daemon=True).start()
    yield server
    server.may_end.set()
    server.shutdown()


def test_pulled_models_are_served_at_once(folder, make_server, tmp_path, hub):
    keys = write_keys(tmp_path / "keys", {"op": "ann operator", "user": "bob"})
    s = many(make_server, folder, "--keys", keys, "--allow-private")
    op, user = ({"Authorization": f"Bearer {k}"} for k in ("op", "user"))
    url = f"http://127.0.0.1:{hub.server_port}/new.gguf"
    assert s.http.post("/api/pull", json={"model": url}, headers=user).status_code == 403
    assert s.http.post("/api/pull", json={"model": A}, headers=user).json() == {"status": "success"}  # it is here
    lines = []
    with s.http.stream("POST", "/api/pull", json={"model": url}, headers=op) as r:
        assert r.status_code == 200
        for line in r.iter_lines():
            lines.append(json.loads(line))
            if lines[-1].get("completed"):
                hub.may_end.set()
    assert lines[-1] == {"status": "success"} and any(x.get("digest") == "new.gguf" and x["total"] > 1000 for x in lines), lines
    r = s.http.post("/v1/completions", json={"model": "new", "prompt": PROMPT, "max_tokens": 12, "temperature": 0}, headers=op)
    assert r.status_code == 200 and r.json()["choices"][0]["text"] == alone(make_server, folder, B)
    for what, status in ((f"http://127.0.0.1:{hub.server_port}/none.gguf", 404), ("nobody-knows-this", 404), ("hf.co/x", 400), ("/etc/passwd", 400), (f"{folder}/{A}.gguf", 400)):
        r = s.http.post("/api/pull", json={"model": what, "stream": False}, headers=op)
        assert r.status_code == status and r.json()["error"], (what, r.text)
    assert s.stop() == 0


def test_private_addresses_are_not_pulled_from(folder, make_server, hub):
    s = many(make_server, folder)
    for url in (f"http://127.0.0.1:{hub.server_port}/new.gguf", f"https://127.0.0.1:{hub.server_port}/new.gguf"):
        r = s.http.post("/api/pull", json={"model": url, "stream": False})
        assert r.status_code in (400, 502) and "private" in r.json()["error"], r.text
    assert s.stop() == 0
    s = make_server("-m", str(folder / f"{A}.gguf"))
    assert s.http.post("/api/pull", json={"model": "x"}).status_code == 501  # no folder to pull into
    assert s.stop() == 0


# --- together -------------------------------------------------------------------------------------


def test_requests_to_both_at_once_give_what_each_gives_alone(folder, make_server):
    want = {n: [alone(make_server, folder, n, f"{i} {PROMPT}", 24) for i in range(2)] for n in (A, B)}
    s = many(make_server, folder)
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        jobs = [(n, i, pool.submit(complete, s, n, f"{i} {PROMPT}", 24)) for _ in range(4) for n in (A, B) for i in range(2)]
        for n, i, job in jobs:
            assert job.result(PATIENCE)[0] == want[n][i]
    assert s.stop() == 0


def test_metrics_say_of_which_model(folder, make_server):
    s = many(make_server, folder)
    for n, k in ((A, 3), (B, 2)):
        for _ in range(k):
            complete(s, n, n=5)
    for n, k in ((A, 3), (B, 2)):
        assert s.metric('sparing_requests_total{result="finished"}', model=n) == k
        assert s.metric("sparing_generated_tokens_total", model=n) == 5 * k
    assert s.metric('sparing_requests_total{result="finished"}') == 5
    assert s.metric('sparing_kv_pages{state="cached"}', model=A) > 0
    assert s.http.post("/models/unload", json={"model": A}).status_code == 200
    assert s.metric('sparing_kv_pages{state="cached"}', model=A) == 0  # what has left holds nothing
    complete(s, A, n=5)
    assert s.metric('sparing_requests_total{result="finished"}', model=A) == 4  # and goes on counting
    of = f'model="{A}"'
    wait_until(lambda: any(of in k for k in s.http.get("/v1/metrics/history").json()["counter"]))
    assert s.stop() == 0


def test_pages_of_one_model_never_serve_another(folder, make_server, tmp_path):
    """The same weights under two names are one model to the cache; other weights are another, in RAM and on disk."""
    s = many(make_server, folder, "--cache-dir", str(tmp_path / "c"), "--cache-fetch", "always")
    prompt = PROMPT
    first = {n: complete(s, n, prompt) for n in (A, B)}
    for n in (A, B):
        assert first[n][1]["ram"] == 0 and first[n][1]["ssd"] == 0 and first[n][1]["computed"] > 64
        again = complete(s, n, prompt)
        assert again[0] == first[n][0] and again[1]["ram"] > 0
        wait_until(lambda: s.metric('sparing_kv_tokens{tier="ssd"}', model=n) > 0)
        assert s.http.post("/models/unload", json={"model": n}).status_code == 200
    for n in (B, A):
        back = complete(s, n, prompt)
        assert back[0] == first[n][0] and back[1]["ssd"] > 0 and back[1]["ram"] == 0  # its own folder
    assert sorted(p.name for p in (tmp_path / "c").iterdir()) == sorted([A, B])
    assert s.stop() == 0


def test_deleting_a_tenant_reaches_models_that_are_away(folder, make_server, tmp_path):
    s = many(make_server, folder, "--cache-dir", str(tmp_path / "c"), "--cache-fetch", "always", "--history", str(tmp_path / "h.db"))
    prompt = PROMPT
    for n in (A, B):
        complete(s, n, prompt)
        wait_until(lambda: s.metric('sparing_kv_tokens{tier="ssd"}', model=n) > 0)
    assert s.http.post("/models/unload", json={"model": A}).status_code == 200
    r = s.http.delete("/v1/tenant")
    assert r.status_code == 200, r.text
    for n in (A, B):
        assert complete(s, n, prompt)[1]["ssd"] == complete(s, n, "x" + prompt)[1]["ssd"] == 0
    assert s.stop() == 0


# --- what else there is ---------------------------------------------------------------------------


def test_a_conversation_goes_on_with_another_model(folder, make_server, tmp_path):
    s = many(make_server, folder, "--history", str(tmp_path / "h.db"), "--chat-template", "chatml")
    say = lambda n, text, **kw: s.http.post("/v1/responses", json={"model": n, "input": text, "max_output_tokens": 8, "temperature": 0, **kw})  # noqa: E731
    a = say(A, "Hello there.")
    assert a.status_code == 200, a.text
    b = say(B, "And you?", previous_response_id=a.json()["id"])
    assert b.status_code == 200 and b.json()["model"] == B
    assert s.http.get(f"/v1/responses/{a.json()['id']}").json()["model"] == A
    assert s.http.get(f"/v1/responses/{b.json()['id']}").json()["model"] == B
    assert s.stop() == 0


def test_ollama_brings_lists_and_sends_away(folder, make_server):
    s = many(make_server, folder)
    names = lambda path: {m["name"] for m in s.http.get(path).json()["models"]} & {A, B, C}  # noqa: E731
    assert names("/api/tags") == {A, B, C} and names("/api/ps") == set()
    r = s.http.post("/api/generate", json={"model": A})
    assert r.json()["done_reason"] == "load" and names("/api/ps") == {A}
    assert s.http.post("/api/show", json={"model": B}).json()["details"]["family"] == "gemma3"
    r = s.http.post("/api/generate", json={"model": B, "prompt": "a", "stream": False, "keep_alive": "1h", "options": {"num_predict": 4}})
    assert r.status_code == 200 and r.json()["model"] == B, r.text
    ps = {m["name"]: m for m in s.http.get("/api/ps").json()["models"]}
    assert ps[A]["expires_at"].startswith("9999") and not ps[B]["expires_at"].startswith("9999") and ps[B]["size"] > 0
    assert s.http.post("/api/generate", json={"model": B, "prompt": "a", "keep_alive": "soon"}).status_code == 400
    r = s.http.post("/api/generate", json={"model": A, "keep_alive": 0})
    assert r.json()["done_reason"] == "unload"
    wait_until(lambda: names("/api/ps") == {B})
    assert s.stop() == 0


def test_draining_waits_for_all_models(folder, make_server):
    shutil.copy(MODEL, folder)
    s = many(make_server, folder, "-m", MODEL.stem)
    complete(s, A)
    body = {"prompt": PROMPT, "max_tokens": 60, "temperature": 0, "stream": True, "ignore_eos": True, "sparing": {"draft": 0}}
    with s.http.stream("POST", "/v1/completions", json={"model": MODEL.stem, **body}) as one, s.http.stream("POST", "/v1/completions", json={"model": A, **body}) as two:
        its = [one.iter_lines(), two.iter_lines()]
        for it in its:
            next(it)
        s.proc.send_signal(signal.SIGTERM)
        assert all("data: [DONE]" in list(it) for it in its)
    assert s.proc.wait(PATIENCE) == 0


@pytest.mark.browser
def test_pages_let_choose_a_model(folder, make_server):
    s = many(make_server, folder, "--chat-template", "chatml")
    page = Page(s.url + "/", 1280, 800)
    try:
        ready(page)
        settings(page, model=B, max_tokens=4)
        assert page.eval("document.querySelector('#model span:nth-child(2)').textContent") == B
        page.eval("document.getElementById('model').click()")
        page.wait("document.querySelectorAll('#panel [name=model] option').length === 3")
        assert sorted(page.eval("[...document.querySelectorAll('#panel [name=model] option')].map((o) => o.value)")) == sorted([A, B, C])
        ask(page, "Hello")
        page.wait("document.querySelector('details.receipt summary') !== null")
        assert states(s) == {A: "unloaded", B: "loaded", C: "unloaded"}
        assert page.eval("document.querySelector('.turn:not(.user) h2').textContent") == B  # an answer names its model
        assert not [e for e in page.errors if "/v1/conversations?" not in e]
    finally:
        page.close()
    complete(s, A, n=5)
    board = Page(s.url + "/dashboard", 1280, 800)
    try:
        board.wait(f"document.body?.dataset.polls >= 1 && [...document.getElementById('model').options].filter((o) => ['{A}', '{B}'].includes(o.value)).length === 2 && !document.getElementById('modelbox').hidden")
        for chosen in ("", A, B):
            polls = board.eval("document.body.dataset.polls")
            board.eval(f"document.getElementById('model').value = '{chosen}'; document.getElementById('model').dispatchEvent(new Event('change'))")
            board.wait(f"document.body.dataset.polls !== '{polls}'")
            shown = float(board.eval("document.querySelector('#rate td[data-all=answers]').dataset.value"))
            assert shown == s.metric("sparing_generated_tokens_total", model=chosen or None), chosen
        assert not board.errors
    finally:
        board.close()
    assert s.stop() == 0
