"""What stands around the answers: names of requests and models, preflights, and what the server says of itself."""
import re
import socket

import anthropic
import openai
import pytest

from conftest import MODEL, PATIENCE

MINE = re.compile(r"req_[0-9a-f]{20}$")
OWN = MODEL.stem


# --- names of requests ---------------------------------------------------------------------------

def raw(server, data):
    with socket.create_connection(("127.0.0.1", server.port)) as c:
        c.settimeout(30)
        c.sendall(data)
        out = b""
        while b"\r\n\r\n" not in out:
            out += c.recv(65536)
    return out.split(b"\r\n\r\n")[0].decode().lower()


@pytest.mark.parametrize("method,path,body", [
    ("GET", "/health", None), ("GET", "/v1/models", None), ("GET", "/nowhere", None), ("PUT", "/v1/models", None), ("POST", "/tokenize", {"content": "a"}),
    ("POST", "/tokenize", {"content": 1}), ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}),
    ("POST", "/v1/chat/completions", {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1, "stream": True}), ("GET", "/", None), ("OPTIONS", "/v1/models", None)])
def test_every_answer_names_its_request(server, method, path, body):
    a, b = (server.http.request(method, path, json=body).headers.get_list("x-request-id") for _ in range(2))
    assert len(a) == len(b) == 1 and MINE.match(a[0]) and MINE.match(b[0]) and a != b
    assert server.http.request(method, path, json=body, headers={"X-Request-Id": "trace.1:2/3=4@x-_"}).headers.get_list("x-request-id") == ["trace.1:2/3=4@x-_"]


@pytest.mark.parametrize("name", ["a b", "x" * 129, "a\"b", "a;b", "ü".encode().decode("latin-1"), ""])
def test_a_name_that_is_no_name_is_replaced(server, name):
    head = f"GET /health HTTP/1.1\r\nHost: localhost\r\nX-Request-Id: {name}\r\n\r\n".encode("latin-1")
    assert re.search(r"\r\nx-request-id: req_[0-9a-f]{20}\r\n", raw(server, head) + "\r\n")


def test_refusals_of_heads_and_bodies_have_one_name(server):
    for data in (b"GET /v1/../x HTTP/1.1\r\nHost: localhost\r\n\r\n", b"POST /v1/vector_stores HTTP/1.1\r\nHost: localhost\r\nContent-Length: 999999999\r\n\r\n",
                 b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nTransfer-Encoding: chunked\r\n\r\nzz\r\n"):
        assert raw(server, data).count("\r\nx-request-id: ") == 1


def test_the_sdk_reads_it(server):
    client = openai.OpenAI(base_url=server.url + "/v1", api_key="none", max_retries=0)
    r = client.chat.completions.create(model=OWN, messages=[{"role": "user", "content": "x"}], max_tokens=1)
    assert MINE.match(r._request_id)
    with pytest.raises(openai.BadRequestError) as e:
        client.chat.completions.create(model=OWN, messages=[])
    assert MINE.match(e.value.request_id)


# --- names of models -----------------------------------------------------------------------------

@pytest.mark.parametrize("name", [OWN, OWN.lower(), OWN.upper(), OWN + ".gguf", OWN + ".GGUF", OWN + ":latest", OWN.lower() + ".gguf:latest"])
def test_spellings_of_a_model(server, name):
    assert server.chat(max_tokens=1, model=name).json()["model"] == OWN
    assert server.http.get("/v1/models/" + name).json()["id"] == OWN


@pytest.mark.parametrize("name", ["nope", OWN + "x", "x" + OWN, OWN[:-1], ".gguf", OWN + ".gguf.gguf", OWN + ":q4", "all-MiniLM-L6-v2"])
def test_other_names(server, name):
    assert server.chat(max_tokens=1, model=name).status_code == 404


def test_aliases(make_server):
    s = make_server("--alias", f"gpt-4o={OWN},text-embedding-3-small=all-MiniLM-L6-v2")
    for name in ("gpt-4o", "GPT-4o", "gpt-4o:latest", OWN):
        assert s.chat(max_tokens=1, model=name).json()["model"] == OWN
    assert s.chat(max_tokens=1, model="text-embedding-3-small").status_code == 404
    assert s.http.post("/v1/embeddings", json={"model": "text-embedding-3-small", "input": "x"}).status_code == 200
    listed = {m["id"]: m["root"] for m in s.http.get("/v1/models").json()["data"]}
    assert listed["gpt-4o"] == OWN and listed["text-embedding-3-small"] == "all-MiniLM-L6-v2"
    assert s.http.get("/v1/models/gpt-4o").json()["root"] == OWN


@pytest.mark.parametrize("alias", ["x", "=x", "x=", "x=nothere"])
def test_bad_aliases(make_server, alias):
    with pytest.raises(RuntimeError, match="alias"):
        make_server("--alias", alias)


def test_slash_at_the_end(server):
    assert server.http.get("/v1/models/").json() == server.http.get("/v1/models").json()
    assert server.http.get("/health/").status_code == 200 and server.http.get("/v1/models//").status_code == 404
    r = server.http.post("/v1/chat/completions/", json={"messages": [{"role": "user", "content": "x"}], "max_tokens": 1})
    assert r.status_code == 200


# --- what the server says of itself --------------------------------------------------------------

def test_models_as_both_apis_list_them(server):
    j = server.http.get("/v1/models").json()
    own = j["data"][0]
    assert own["context_length"] == own["max_model_len"] == 8192 and "chat" in own["capabilities"] and j["data"][1]["capabilities"] == ["embedding"]
    assert j["object"] == "list" and own["object"] == "model" and own["owned_by"]  # OpenAI's
    assert j["has_more"] is False and j["first_id"] == OWN and j["last_id"] == j["data"][-1]["id"]  # Anthropic's
    assert own["type"] == "model" and own["display_name"] == OWN and re.match(r"20\d\d-\d\d-\d\dT\d\d:\d\d:\d\dZ$", own["created_at"])


def test_version_props_slots(server):
    assert re.match(r"\d+\.\d+\.\d+", server.http.get("/version").json()["version"])
    p = server.http.get("/props").json()
    assert p["default_generation_settings"]["n_ctx"] == 8192 and p["model_alias"] == OWN and "{%" in p["chat_template"] and p["modalities"] == {"vision": False, "audio": False}
    slots = server.http.get("/slots").json()
    assert len(slots) == p["total_slots"] and all(s["n_ctx"] == 8192 and s["is_processing"] in (False, True) for s in slots)


@pytest.mark.parametrize("path,lacks", [("/v1/audio/transcriptions", "hears"), ("/v1/audio/speech", "speaks"), ("/v1/images/generations", "draws"),
                                        ("/v1/videos", "videos"), ("/v1/moderations", "moderation")])
def test_what_cannot_be_done_says_what_is_missing(server, path, lacks):
    for kw in ({"json": {"model": "x"}}, {"files": {"file": ("a.wav", b"RIFF")}, "data": {"model": "x"}}):
        e = server.http.post(path, **kw)
        assert e.status_code == 400 and lacks in e.json()["error"]["message"] and e.json()["error"]["code"] == "not_supported"


# --- preflights ----------------------------------------------------------------------------------

def test_what_sdks_send_is_allowed(server):
    sent = ["authorization", "content-type", "x-stainless-lang", "x-stainless-retry-count", "X-Api-Key", "api-key", "anthropic-version", "anthropic-beta", "openai-organization",
            "x-request-id", "x-session-id"]
    h = {"Origin": server.url, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": ",".join(sent) + ",x-evil,x-stainless-, cookie ,a\"b"}
    r = server.http.options("/v1/chat/completions", headers=h)
    allowed = [a.strip().lower() for a in r.headers["access-control-allow-headers"].split(",")]
    assert r.status_code == 204 and sorted(allowed) == sorted(s.lower() for s in sent)
    assert "x-request-id" in server.http.get("/v1/models", headers={"Origin": server.url}).headers["access-control-expose-headers"].lower()
    assert r.headers["access-control-allow-origin"] == server.url
    assert {m.strip() for m in r.headers["access-control-allow-methods"].split(",")} >= {"GET", "POST", "DELETE"}
    long = server.http.options("/v1/models", headers={**h, "Access-Control-Request-Headers": ",".join(f"x-stainless-{i}" for i in range(1000))})
    assert long.status_code == 204 and len(long.headers["access-control-allow-headers"]) < 512


FORBIDDEN = {"host", "connection", "user-agent", "accept", "accept-encoding", "content-length"}  # a browser sets them itself, or asks for no leave


def test_the_headers_of_real_clients_pass_a_preflight(server):
    """What openai's and anthropic's clients send, as it was sent; in a browser they ask for leave of these names."""
    sent = {}

    def note(request):
        sent.setdefault(request.url.path, set()).update(k.lower() for k in request.headers)

    hooks = {"event_hooks": {"request": [note]}, "timeout": PATIENCE}
    with openai.DefaultHttpxClient(**hooks) as http, anthropic.DefaultHttpxClient(**hooks) as http2:
        o = openai.OpenAI(base_url=server.url + "/v1", api_key="none", organization="org", project="p", http_client=http)
        o.chat.completions.create(model=OWN, messages=[{"role": "user", "content": "x"}], max_tokens=1)
        o.chat.completions.with_raw_response.create(model=OWN, messages=[{"role": "user", "content": "x"}], max_tokens=1, extra_headers={"X-Request-Id": "a"})
        o.with_options(timeout=60).responses.create(model=OWN, input="x", max_output_tokens=1)
        o.embeddings.create(model="all-MiniLM-L6-v2", input="x")
        a = anthropic.Anthropic(base_url=server.url, api_key="none", http_client=http2, default_headers={"anthropic-dangerous-direct-browser-access": "true"})
        a.beta.messages.create(model=OWN, messages=[{"role": "user", "content": "x"}], max_tokens=1, betas=["tools-2024-04-04"])
        a.messages.count_tokens(model=OWN, messages=[{"role": "user", "content": "x"}])
    assert set(sent) == {"/v1/chat/completions", "/v1/responses", "/v1/embeddings", "/v1/messages", "/v1/messages/count_tokens"}
    assert "x-stainless-lang" in sent["/v1/responses"] and "openai-organization" in sent["/v1/embeddings"] and "anthropic-beta" in sent["/v1/messages"]
    for path, names in sent.items():
        names -= FORBIDDEN
        r = server.http.options(path, headers={"Origin": server.url, "Access-Control-Request-Method": "POST", "Access-Control-Request-Headers": ",".join(sorted(names))})
        allowed = {x.strip().lower() for x in r.headers["access-control-allow-headers"].split(",")}
        assert r.status_code == 204 and names <= allowed, (path, names - allowed)
        other = server.http.options(path, headers={"Origin": "https://elsewhere.example", "Access-Control-Request-Method": "POST"})
        assert "access-control-allow-origin" not in other.headers
