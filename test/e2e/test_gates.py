"""Who may ask, and with what: every route by key, Host and Origin; heads that a proxy would read otherwise; bodies and connections
that cost nothing before they are let in."""
import concurrent.futures
import hashlib
import itertools
import json
import os
import pathlib
import re
import resource
import signal
import socket
import subprocess
import time

import httpx
import pytest

from conftest import BIN, MODEL, ROOT, Server, write_keys

KEY, OPERATOR = "sk-right-key-of-alice", "sk-key-of-the-operator"

# Every route: a path, a method it takes, a body that is right, and who may.
JSON = {"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}
TENANT = [
    ("POST", "/v1/messages", JSON), ("POST", "/v1/messages/count_tokens", JSON), ("POST", "/v1/chat/completions/control", {"id": "x", "action": "reasoning_end"}),
    ("POST", "/api/chat", {**JSON, "options": {"num_predict": 1}}), ("POST", "/api/generate", {"prompt": "x", "stream": False, "options": {"num_predict": 1}}), ("POST", "/api/embed", {"input": "x"}), ("POST", "/api/embeddings", {"prompt": "x"}),
    ("POST", "/api/show", {"model": "x"}), ("GET", "/api/tags", None), ("GET", "/api/ps", None), ("GET", "/api/version", None),
    ("POST", "/mcp", {"jsonrpc": "2.0", "id": 1, "method": "ping"}),
    ("POST", "/v1/chat/completions", JSON), ("POST", "/v1/completions", {"prompt": "x", "max_tokens": 1}), ("POST", "/v1/plan", JSON), ("GET", "/v1/requests", None),
    ("POST", "/v1/embeddings", {"input": "x"}), *[("POST", p, {"query": "x", "documents": ["x"]}) for p in ("/v1/rerank", "/v2/rerank", "/rerank")], ("POST", "/v1/conversations", {}), ("GET", "/v1/conversations", None), ("PATCH", "/v1/conversations/conv_1", {"title": "x"}), ("GET", "/v1/conversations/export", None),
    ("POST", "/v1/conversations/import", {}), ("GET", "/v1/streams", None), ("GET", "/v1/streams/x", None), ("DELETE", "/v1/streams/x", None),
    ("DELETE", "/v1/conversations/conv_1/items/x", None), ("GET", "/v1/conversations/conv_1", None), ("GET", "/v1/conversations/conv_1/items", None),
    ("DELETE", "/v1/conversations/conv_1", None), ("GET", "/v1/files", None), ("GET", "/v1/files/file-1", None), ("DELETE", "/v1/files/file-1", None),
    ("GET", "/v1/files/file-1/content", None), ("GET", "/v1/vector_stores", None), ("POST", "/v1/vector_stores", {}), ("POST", "/v1/vector_stores/vs_1/search", {"query": "x"}),
    *[("POST", p, {"metric_name": "m", "value": 1, "inference_id": "x"}) for p in ("/feedback", "/v1/feedback")], ("GET", "/v1/feedback", None), ("GET", "/v1/experiments", None), ("GET", "/v1/costs", None), ("GET", "/v1/shadow", None),
    ("POST", "/api/public/scores", {"name": "m", "value": 1, "traceId": "x"}), ("POST", "/api/v1/feedback", {"key": "m", "score": 1, "run_id": "x"}),
    ("DELETE", "/v1/vector_stores/vs_1", None), ("DELETE", "/v1/tenant", None), ("GET", "/v1/models", None),
    ("POST", "/v1/responses", {"input": "x", "max_output_tokens": 1}), ("POST", "/v1/responses/input_tokens", {"input": "x"}), ("GET", "/v1/responses/x", None), ("DELETE", "/v1/responses/x", None),
    ("GET", "/v1/models/x", None),
    ("POST", "/tokenize", {"content": "x"}), ("POST", "/detokenize", {"tokens": [1]}), ("GET", "/metrics", None), ("GET", "/v1/metrics/history", None),
    ("POST", "/v1/chat/completions/render", JSON), ("POST", "/v1/completions/render", {"prompt": "x"}), ("POST", "/apply-template", JSON),
    ("POST", "/inference/v1/generate", {"token_ids": [1], "sampling_params": {"max_tokens": 1}}),
    ("GET", "/version", None), ("GET", "/props", None), ("GET", "/slots", None), ("GET", "/models", None), ("POST", "/models/load", {"model": MODEL.stem}), ("POST", "/models/unload", {"model": MODEL.stem}), ("POST", "/v1/audio/speech", {}), ("POST", "/v1/audio/transcriptions", {}), ("POST", "/v1/audio/translations", {}), ("POST", "/v1/images/generations", {}),
    ("POST", "/v1/videos", {}), ("POST", "/v1/moderations", {})]
OPERATORS = ("/v1/metrics/history", "/v1/experiments", "/v1/shadow", "/slots", "/models/load", "/models/unload")
PROBES = ["/health", "/livez", "/readyz", "/ping"]
PAGES = ["/", "/app/main.js", "/references.js", "/app/chat.css", "/dashboard", "/app/dash.js", "/app/dash.css", "/vendor/uplot.js", "/i18n/zh.json", "/sw.js", "/openapi.json"]


@pytest.fixture(scope="module")
def keyed(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("keyed")
    keys = write_keys(tmp / "keys", {KEY: "alice", OPERATOR: "ops operator"})
    s = Server("--keys", keys, "--history", str(tmp / "h.db"), "--knowledge", str(tmp / "k.db"), "--feedback", str(tmp / "f.db"), "--allow-host", "box.example", "--cors-origin", "https://app.example")
    yield s
    assert s.stop() == 0


def refused(s, cause):
    text = s.http.get("/metrics", headers={"Authorization": "Bearer " + OPERATOR}).text
    return float(re.search(rf'^sparing_refused_total{{cause="{cause}"}} (.*)$', text, re.M).group(1))


def near_misses(key):
    """Keys that are nearly right, as written; then wrong keys whose hash agrees with the right one's in one byte, for each of the 32."""
    yield from ("x", key[:-1], key + "x", key[:-1] + chr(ord(key[-1]) ^ 1), key.upper(), key + " " + key, '"' + key + '"')
    right = hashlib.sha256(key.encode()).digest()
    for i in range(32):
        yield next(k for k in (f"guess-{i}-{n}" for n in itertools.count()) if hashlib.sha256(k.encode()).digest()[i] == right[i])


def wire(port, data, wait=5):
    """What comes back for raw bytes, and whether the server closed."""
    with socket.create_connection(("127.0.0.1", port)) as c:
        c.settimeout(wait)
        c.sendall(data)
        out = b""
        try:
            while got := c.recv(65536):
                out += got
            return out, True
        except TimeoutError:
            return out, False


def statuses(out):
    return [int(m) for m in re.findall(rb"HTTP/1\.1 (\d{3}) ", out)]


# --- keys ----------------------------------------------------------------------------------------

@pytest.mark.parametrize("method,path,body", TENANT)
def test_no_route_without_its_key(keyed, method, path, body):
    """Without a key, with another scheme, and with each near miss: 401 and nothing else."""
    ask = lambda **h: keyed.http.request(method, path, json=body, headers=h).status_code  # noqa: E731
    assert ask() == 401 and ask(Authorization=KEY) == 401 and ask(Authorization="Basic " + KEY) == 401 and ask(Authorization="Bearer") == 401
    for key in near_misses(KEY):
        assert ask(Authorization="Bearer " + key) == 401, key
    if path != "/v1/tenant":
        assert ask(Authorization="Bearer " + KEY) not in (401,) + ((403,) if path not in OPERATORS else ())


@pytest.mark.parametrize("name", ["x-api-key", "X-Api-Key", "api-key"])
def test_keys_as_other_clients_send_them(keyed, name):
    ask = lambda **h: keyed.http.get("/v1/models", headers={k.replace("_", "-"): v for k, v in h.items()}).status_code  # noqa: E731
    assert ask(**{name: KEY}) == 200 and ask(**{name: "Bearer " + KEY}) == 401 and ask(**{name: ""}) == 401
    for key in near_misses(KEY):
        assert ask(**{name: key}) == 401, key
    assert ask(**{name: KEY, "Authorization": "Bearer x"}) == 401 and ask(**{name: "x", "Authorization": "Bearer " + KEY}) == 200  # one key counts


def test_operator_and_tenant(keyed):
    """A tenant sees its own figures; those of all need the operator's role."""
    get = lambda path, key: keyed.http.get(path, headers={"Authorization": "Bearer " + key})  # noqa: E731
    keyed.http.post("/v1/chat/completions", json=JSON, headers={"Authorization": "Bearer " + KEY})
    assert get("/v1/metrics/history", KEY).status_code == 403 and get("/v1/metrics/history", OPERATOR).status_code == 200
    own, all_ = get("/metrics", KEY).text, get("/metrics", OPERATOR).text
    assert 'sparing_tenant_requests_total{result="done"}' in own and "sparing_kv_pages" not in own and "sparing_kv_pages" in all_
    assert float(re.search(r'sparing_tenant_requests_total{result="done"} (.*)', own).group(1)) >= 1
    assert float(re.search(r"^sparing_tenant_answer_tokens_total (.*)", own, re.M).group(1)) >= 1
    assert "tenant" not in get("/v1/requests", KEY).json()["data"][0] and get("/v1/requests", OPERATOR).json()["data"][0]["tenant"] == "alice"


def test_refused_keys_are_counted_and_logged_without_the_key(make_server, tmp_path):
    s = make_server("--keys", write_keys(tmp_path / "keys", {KEY: "alice", OPERATOR: "ops operator"}))
    before = refused(s, "key")
    for _ in range(5):
        assert s.http.get("/v1/models", headers={"Authorization": "Bearer not-the-key"}).status_code == 401
    assert s.http.get("/v1/models").status_code == 401
    assert refused(s, "key") == before + 6
    s.stop()
    lines = [l for l in s.log if "refused a key" in l]
    assert lines and all("127.0.0.1" in l for l in lines) and len(lines) <= 5
    assert not any("not-the-key" in l or KEY in l for l in s.log)


# --- Host and Origin -----------------------------------------------------------------------------

HOSTS_OK = ["localhost", "LOCALHOST", "localhost:{port}", "127.0.0.1", "127.0.0.1:1", "[::1]:{port}", "box.example", "box.example:443", socket.gethostname()]
HOSTS_BAD = ["evil.example", "localhost.evil.example", "xlocalhost", "localhos", "localhost1", "localhost.", "localhost:x", "localhost:80:80", "127.0.0.1.evil.example", "127.0.0.11",
             "127.0.0.2", "10.0.0.1", "[::1", "::1", "[::2]", "box.example.com", "abox.example", "box.exampl", "box-example", ":80", "", "0.0.0.0"]
ORIGINS_OK = [None, "http://localhost:{port}", "https://localhost:{port}", "HTTP://LOCALHOST:{port}", "https://app.example"]
ORIGINS_BAD = ["null", "", "http://localhost", "http://localhost:{port}.evil.example", "http://evil.example", "https://app.example.evil", "http://app.example", "https://app.example:444",
               "https://xapp.example", "localhost:{port}", "ftp://localhost:{port}", "http://localhost:{port}/", "http://evil.example@localhost:{port}", "//localhost:{port}"]


@pytest.mark.parametrize("method,path,body", [*TENANT, *[("GET", p, None) for p in PAGES]])
def test_every_route_by_host(keyed, method, path, body):
    """The key is right, so that only the Host decides; DELETE /v1/tenant goes last and only with wrong ones."""
    ask = lambda host: keyed.http.request(method, path, json=body, headers={"Host": host.format(port=keyed.port), "Authorization": "Bearer " + KEY})  # noqa: E731
    for host in HOSTS_BAD:
        r = ask(host)
        assert r.status_code in (400, 403) and (r.status_code == 400 or "does not answer to that Host" in r.text), (host, r.text)
    for host in HOSTS_OK if path != "/v1/tenant" else []:
        r = ask(host)
        assert r.status_code != 403 or r.json()["error"]["code"] == "operator_only", (host, r.text)


@pytest.mark.parametrize("method,path,body", [*TENANT, *[("GET", p, None) for p in PAGES + PROBES]])
def test_every_route_by_origin(keyed, method, path, body):
    def ask(origin):
        h = {"Host": f"localhost:{keyed.port}", "Authorization": "Bearer " + KEY}
        return keyed.http.request(method, path, json=body, headers=h if origin is None else {**h, "Origin": origin.format(port=keyed.port)})

    for origin in ORIGINS_BAD:
        r = ask(origin)
        assert r.status_code == 403 and "from that Origin are not allowed" in r.text and "access-control-allow-origin" not in r.headers, origin
    for origin in ORIGINS_OK if path != "/v1/tenant" else []:
        r = ask(origin)
        assert r.status_code != 403 or r.json()["error"]["code"] == "operator_only", (origin, r.text)
        assert r.headers.get("access-control-allow-origin") == (origin.format(port=keyed.port) if origin else None)


@pytest.mark.parametrize("path", PROBES)
def test_probes_answer_any_host_and_http_1_0(keyed, path):
    for host in HOSTS_BAD[:8] + ["10.1.2.3:8420"]:
        assert keyed.http.get(path, headers={"Host": host}).status_code == 200, host
    for head in (f"GET {path} HTTP/1.0\r\n\r\n", f"HEAD {path} HTTP/1.0\r\nHost: x\r\n\r\n"):
        out, closed = wire(keyed.port, head.encode())
        assert statuses(out) == [200] and closed
    out, closed = wire(keyed.port, f"GET {path} HTTP/1.0\r\nConnection: keep-alive\r\n\r\n".encode(), 1)
    assert statuses(out) == [200] and b"Connection: keep-alive" in out and not closed


def test_every_route_of_the_description_is_in_this_table(keyed):
    described = set(keyed.http.get("/openapi.json").json()["paths"])
    tried = {re.sub(r"/(conv_1|file-1|vs_1|x)(?=/|$)", "/{}", p) for _, p, _ in TENANT} | set(PROBES) | set(PAGES)
    roots = {p.split("/{")[0] for p in tried}
    assert all(re.sub(r"{[^}]*}", "{}", p).split("/{")[0] in roots for p in described), described


# --- heads ---------------------------------------------------------------------------------------

GET, POST, BODY = b"GET /health HTTP/1.1\r\nHost: localhost\r\n", b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\n", b'{"content":"a"}'
CHUNKS = b"f\r\n" + BODY + b"\r\n0\r\n\r\n"
HEADS = {  # what stands between; the status; the connection is closed and what follows is no second request
    "two lengths": (POST + b"Content-Length: 15\r\nContent-Length: 60\r\n\r\n" + BODY, 400), "the same length twice": (POST + b"Content-Length: 15\r\nContent-Length: 15\r\n\r\n" + BODY, 400),
    "a list of lengths": (POST + b"Content-Length: 15, 15\r\n\r\n" + BODY, 400), "length and chunks": (POST + b"Content-Length: 15\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, 400),
    "chunks and length": (POST + b"Transfer-Encoding: chunked\r\nContent-Length: 15\r\n\r\n" + CHUNKS, 400), "a space before the colon": (POST + b"Content-Length : 15\r\n\r\n" + BODY, 400),
    "a tab before the colon": (POST + b"Content-Length\t: 15\r\n\r\n" + BODY, 400), "a negative length": (POST + b"Content-Length: -5\r\n\r\n", 400), "a signed length": (POST + b"Content-Length: +15\r\n\r\n" + BODY, 400),
    "a hexadecimal length": (POST + b"Content-Length: 0xf\r\n\r\n" + BODY, 400), "a length of 23 digits": (POST + b"Content-Length: 99999999999999999999999\r\n\r\n", 400),
    "an empty length": (POST + b"Content-Length:\r\n\r\n" + BODY, 400), "another coding": (POST + b"Transfer-Encoding: gzip\r\n\r\n" + BODY, 501),
    "a coding under another": (POST + b"Transfer-Encoding: gzip, chunked\r\n\r\n" + CHUNKS, 501), "nearly chunked": (POST + b"Transfer-Encoding: xchunked\r\n\r\n" + CHUNKS, 501),
    "chunked with a tab inside": (POST + b"Transfer-Encoding: chun\tked\r\n\r\n" + CHUNKS, 501), "two codings": (POST + b"Transfer-Encoding: chunked\r\nTransfer-Encoding: identity\r\n\r\n" + CHUNKS, 400),
    "chunks in HTTP/1.0": (b"POST /tokenize HTTP/1.0\r\nTransfer-Encoding: chunked\r\n\r\n" + CHUNKS, 400), "a chunk of no number": (POST + b"Transfer-Encoding: chunked\r\n\r\nzz\r\n" + CHUNKS, 400),
    "a negative chunk": (POST + b"Transfer-Encoding: chunked\r\n\r\n-f\r\n" + CHUNKS, 400), "a chunk with 0x": (POST + b"Transfer-Encoding: chunked\r\n\r\n0xf\r\n" + BODY + b"\r\n0\r\n\r\n", 400),
    "chunks by LF": (POST + b"Transfer-Encoding: chunked\r\n\r\nf\n" + BODY + b"\n0\n\n", 400), "a chunk longer than it says": (POST + b"Transfer-Encoding: chunked\r\n\r\ne\r\n" + CHUNKS[3:], 400),
    "a trailer": (POST + b"Transfer-Encoding: chunked\r\n\r\n" + CHUNKS[:-2] + b"Host: evil\r\n\r\n", 400), "a chunk of 17 digits": (POST + b"Transfer-Encoding: chunked\r\n\r\n00000000000000001\r\na\r\n0\r\n\r\n", 400),
    "a chunk line without end": (POST + b"Transfer-Encoding: chunked\r\n\r\n1;" + b"a" * 200 + b"\r\n", 400),
    "NUL in the path": (b"GET /v1/models%00x HTTP/1.1\r\nHost: localhost\r\n\r\n", 400), "a raw NUL in the path": (b"GET /v1/models\0x HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "NUL in a field": (GET + b"X: a\0b\r\n\r\n", 400), "two Hosts": (GET + b"Host: localhost\r\n\r\n", 400), "no Host": (b"GET /health HTTP/1.1\r\n\r\n", 400), "a list as Host": (b"GET /health HTTP/1.1\r\nHost: localhost, evil\r\n\r\n", 400),
    "a user in Host": (b"GET /health HTTP/1.1\r\nHost: evil@localhost\r\n\r\n", 400), "TRACE": (b"TRACE / HTTP/1.1\r\nHost: localhost\r\n\r\n", 405), "CONNECT": (b"CONNECT a:1 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "bare LF": (b"GET /health HTTP/1.1\nHost: localhost\n\n", 400), "one bare LF": (b"GET /health HTTP/1.1\r\nHost: localhost\nX: y\r\n\r\n", 400), "bare CR": (GET + b"X: a\rb\r\n\r\n", 400),
    "a folded line": (GET + b"X: a\r\n b\r\n\r\n", 400), "a folded length": (POST + b"Content-Length:\r\n 15\r\n\r\n" + BODY, 400), "a line without colon": (GET + b"Xabc\r\n\r\n", 400), "an empty name": (GET + b": a\r\n\r\n", 400),
    "a control character in a name": (GET + b"X\x01: a\r\n\r\n", 400), "a space before the first field": (b"GET /health HTTP/1.1\r\n Host: localhost\r\n\r\n", 400),
    "an absolute target": (b"GET http://evil.example/health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400), "a star": (b"OPTIONS * HTTP/1.1\r\nHost: localhost\r\n\r\n", 400), "two spaces": (b"GET  /health HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "HTTP/2.0": (b"GET /health HTTP/2.0\r\nHost: localhost\r\n\r\n", 505), "HTTP/0.9": (b"GET /health\r\n\r\n", 400), "dots": (b"GET /v1/../v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "encoded dots": (b"GET /v1/%2e%2e/v1/models HTTP/1.1\r\nHost: localhost\r\n\r\n", 400), "an encoded slash": (b"GET /v1%2fmodels HTTP/1.1\r\nHost: localhost\r\n\r\n", 400), "a backslash": (b"GET /v1\\models HTTP/1.1\r\nHost: localhost\r\n\r\n", 400),
    "half an encoding": (b"GET /v1/models%2 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400), "a fragment": (b"GET /v1/models#x HTTP/1.1\r\nHost: localhost\r\n\r\n", 400), "another expectation": (POST + b"Content-Length: 15\r\nExpect: x\r\n\r\n" + BODY, 417),
    "a head of 33 KiB": (GET + b"X: " + b"a" * 33000 + b"\r\n\r\n", 431), "65 fields": (GET + b"X: a\r\n" * 64 + b"\r\n", 431), "two keys": (GET + b"Authorization: Bearer a\r\nAuthorization: Bearer b\r\n\r\n", 400),
    "a query twice": (b"GET /v1/requests?limit=1&limit=2 HTTP/1.1\r\nHost: localhost\r\n\r\n", 400), "TLS": (b"\x16\x03\x01\x02\x00\x01\x00\x01\xfc\x03\x03\r\n\r\n", 400)}


@pytest.mark.parametrize("name", HEADS)
def test_heads_that_can_be_read_in_two_ways(server, name):
    data, status = HEADS[name]
    out, closed = wire(server.port, data + GET + b"\r\n")
    assert statuses(out) in ([status], [405 if name == "CONNECT" else status]) and closed, out[:200]
    assert json.loads(out.split(b"\r\n\r\n", 1)[1])["error"]["message"]


@pytest.mark.parametrize("data,n", [
    (GET + b"\r\n", 1), (b"\r\n" + GET + b"\r\n" + GET + b"\r\n", 2), (POST + b"Content-Length: 15\r\n\r\n" + BODY + GET + b"\r\n", 2), (POST + b"transfer-encoding: Chunked\r\n\r\n" + CHUNKS + GET + b"\r\n", 2),
    (POST + b"Transfer-Encoding: chunked\r\n\r\n5;name=\"v\"\r\n" + BODY[:5] + b"\r\nA\r\n" + BODY[5:] + b"\r\n0\r\n\r\n" + GET + b"\r\n", 2), (GET + b"X: \t a\xc3\xa4 \r\nY:\r\n\r\n", 1),
    (b"GET /v1/%6dodels HTTP/1.1\r\nHost: localhost\r\n\r\n", 1), (POST + b"Content-Length: 18\r\n\r\n\xef\xbb\xbf" + BODY, 1)])
def test_heads_that_are_right(server, data, n):
    out, closed = wire(server.port, data, 1)
    assert statuses(out) == [200] * n and not closed
    for step in (1, 7):  # the same in pieces
        with socket.create_connection(("127.0.0.1", server.port)) as c:
            c.settimeout(20)
            for i in range(0, len(data), step):
                c.sendall(data[i:i + step])
                time.sleep(0.0005)
            got = b""
            while len(statuses(got)) < n or not got.endswith(b"}"):
                got += c.recv(65536)
            assert statuses(got) == [200] * n


@pytest.mark.parametrize("headers,status", [
    ({"Content-Encoding": "gzip"}, 415), ({"Content-Encoding": "identity"}, 200), ({"Content-Type": "application/json"}, 200), ({"Content-Type": "application/json; charset=UTF-8"}, 200),
    ({"Content-Type": "application/json; charset=latin-1"}, 415), ({"Content-Type": "application/xml"}, 415), ({"Content-Type": "multipart/form-data; boundary=x"}, 415), ({"Content-Type": "application/jsonx"}, 415),
    ({"Content-Type": "application/problem+json"}, 200), ({"Content-Type": "application/x-www-form-urlencoded"}, 200), ({}, 200)])
def test_codings_and_types(server, headers, status):
    head = POST + b"".join(f"{k}: {v}\r\n".encode() for k, v in headers.items()) + b"Content-Length: 15\r\nConnection: close\r\n\r\n"
    assert statuses(wire(server.port, head + BODY)[0]) == [status]


def test_methods_without_a_body(server):
    for method, path in (("GET", "/v1/models"), ("GET", "/health"), ("DELETE", "/v1/tenant"), ("OPTIONS", "/v1/models")):
        head = f"{method} {path} HTTP/1.1\r\nHost: localhost\r\n".encode()
        assert statuses(wire(server.port, head + b"Content-Length: 5\r\n\r\nhello" + GET + b"\r\n")[0]) == [400]
        assert statuses(wire(server.port, head + b"Transfer-Encoding: chunked\r\n\r\n0\r\n\r\n" + GET + b"\r\n")[0]) == [400]


# --- what a request may cost before it is let in --------------------------------------------------

def rss(s):
    return int(re.search(r"VmRSS:\s+(\d+)", pathlib.Path(f"/proc/{s.proc.pid}/status").read_text()).group(1)) * 1024


def test_expect_is_answered_behind_the_gate(keyed):
    head = b"POST /tokenize HTTP/1.1\r\nHost: localhost\r\nContent-Length: 15\r\nExpect: 100-continue\r\n"
    assert statuses(wire(keyed.port, head + b"\r\n")[0]) == [401]
    out, closed = wire(keyed.port, head + b"Authorization: Bearer " + KEY.encode() + b"\r\n\r\n", 1)
    assert statuses(out) == [100] and not closed
    large = head.replace(b": 15", b": 99999999") + b"Authorization: Bearer " + KEY.encode() + b"\r\n\r\n"
    assert statuses(wire(keyed.port, large)[0]) == [413]


def test_keyless_bodies_are_never_kept(keyed):
    """30 clients without a key send 12 MiB each: every one gets its 401, and the server does not grow."""
    body, before, peak = b"x" * (12 << 20), rss(keyed), [0]
    head = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body)

    def send(_):
        with socket.create_connection(("127.0.0.1", keyed.port)) as c:
            c.settimeout(60)
            c.sendall(head)
            assert statuses(c.recv(65536)) == [401]  # before a byte of the body has left
            try:
                c.sendall(body)
            except OSError:
                pass
            peak[0] = max(peak[0], rss(keyed))

    with concurrent.futures.ThreadPoolExecutor(30) as pool:
        list(pool.map(send, range(30)))
    assert peak[0] - before < 16 << 20


def test_an_answer_survives_the_body_nobody_wants(server):
    """A client that writes all of a large body before it reads still finds the 413."""
    body = b"x" * (20 << 20)
    with socket.create_connection(("127.0.0.1", server.port)) as c:
        c.settimeout(60)
        try:
            c.sendall(b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: %d\r\n\r\n" % len(body) + body[:6 << 20])
        except OSError:
            pass
        assert statuses(c.recv(65536)) == [413]


def test_bodies_by_route(server):
    for path, cap in (("/v1/vector_stores", 256 << 10), ("/v1/embeddings", 8 << 20), ("/v1/chat/completions", 16 << 20)):
        head = f"POST {path} HTTP/1.1\r\nHost: localhost\r\n".encode()
        assert statuses(wire(server.port, head + b"Content-Length: %d\r\n\r\n" % (cap + 1))[0]) == [413]
        assert statuses(wire(server.port, head + b"Transfer-Encoding: chunked\r\n\r\n%x\r\n" % (cap + 1))[0]) == [413]
        with socket.create_connection(("127.0.0.1", server.port)) as c:  # as much as it may: it is waited for
            c.settimeout(0.5)
            c.sendall(head + b"Content-Length: %d\r\n\r\n" % cap)
            with pytest.raises(TimeoutError):
                c.recv(100)


def test_all_bodies_together_are_bounded(make_server):
    s = make_server("--max-body", "1M", "--max-bodies", "4M")
    half = b"POST /v1/chat/completions HTTP/1.1\r\nHost: localhost\r\nContent-Length: 1000000\r\n\r\n{"
    held = [socket.create_connection(("127.0.0.1", s.port)) for _ in range(4)]
    for c in held:
        c.sendall(half)
    end = time.monotonic() + 20
    while statuses(wire(s.port, half, 0.5)[0]) != [503]:
        assert time.monotonic() < end
    out, _ = wire(s.port, half.replace(b"Content-Length: 1000000", b"Transfer-Encoding: chunked")[:-1] + b"a0000\r\n" + b"x" * 0xa0000)
    assert statuses(out) == [503] and b"Retry-After" in out
    for c in held:
        c.close()
    while statuses(wire(s.port, half, 0.5)[0]) == [503]:  # what leavers held is given back
        assert time.monotonic() < end
    assert s.chat().status_code == 200


def connections(s):
    def target(f):
        try:
            return os.readlink(f)
        except FileNotFoundError:  # closed since the folder was read
            return ""

    return sum(target(f).startswith("socket:") for f in pathlib.Path(f"/proc/{s.proc.pid}/fd").iterdir())


def test_leavers_in_mid_request_are_closed_at_once(make_server):
    s = make_server()
    s.http.close()
    time.sleep(0.3)
    before = connections(s)
    for data in (b"", b"GET /heal", POST + b"Content-Length: 1000\r\n\r\nabc", POST + b"Transfer-Encoding: chunked\r\n\r\n5\r\nab"):
        made = [socket.create_connection(("127.0.0.1", s.port)) for _ in range(10)]
        for c in made:
            c.sendall(data)
        end = time.monotonic() + 20
        while connections(s) < before + 10 and time.monotonic() < end:
            time.sleep(0.01)
        assert connections(s) == before + 10
        for c in made:
            c.close()
        while connections(s) > before and time.monotonic() < end:
            time.sleep(0.01)
        assert connections(s) == before, data


def test_strangers_cannot_take_all_connections(make_server, tmp_path):
    """More connections than there may be, which never ask: who has a key is answered, and the newest strangers push out the oldest."""
    s = make_server("--keys", write_keys(tmp_path / "keys", {KEY: "alice"}), "--max-conn", "40")
    key = {"Authorization": "Bearer " + KEY}
    assert s.http.get("/v1/models", headers=key).status_code == 200
    held = []
    for _ in range(100):
        held.append(socket.create_connection(("127.0.0.1", s.port)))
        held[-1].sendall(b"GET / HTTP/1.1\r\n")
    assert s.http.get("/v1/models", headers=key).status_code == 200  # on the connection it has
    with httpx.Client(base_url=s.url, timeout=30) as other:
        assert other.get("/v1/models", headers=key).status_code == 200
    held[0].settimeout(20)
    try:
        assert held[0].recv(10) == b""
    except ConnectionResetError:
        pass  # closed before its bytes were read
    for c in held:
        c.close()


@pytest.mark.parametrize("hard,conns,warns", [(400, 4096, True), (5000, 4096, False)])
def test_open_files_fit_the_connections(make_server, hard, conns, warns):
    s = make_server("--max-conn", str(conns), limits=(256, hard))
    limits = pathlib.Path(f"/proc/{s.proc.pid}/limits").read_text()
    assert re.search(r"Max open files\s+(\d+)", limits).group(1) == str(min(hard, conns + 256))
    assert any("max-conn is" in l and str(hard) in l for l in s.log) == warns


# --- what is absent or unreadable is not the permissive reading ------------------------------------

@pytest.mark.parametrize("own", [{"private": None}, {"forbid": None}, {"path": None}, {"dense": None}, {"task": {"text": "x", "life": None}}])
def test_null_is_no_permission(server, own):
    messages = {} if "task" in own else {"messages": JSON["messages"]}
    r = server.http.post("/v1/chat/completions", json={**messages, "max_tokens": 1, "sparing": own})
    assert r.status_code == 400 and "null" in r.json()["error"]["message"], r.text


@pytest.mark.parametrize("mode,starts", [(0o600, True), (0o400, True), (0o640, True), (0o644, False), (0o604, False), (0o660, False), (0o666, False), (0o602, False)])
def test_a_key_file_is_nobody_elses(tmp_path, mode, starts):
    keys = pathlib.Path(write_keys(tmp_path / "keys", {KEY: "alice"}))
    keys.chmod(mode)
    if starts:
        assert Server("--keys", str(keys)).stop() == 0
    else:
        with pytest.raises(RuntimeError, match=f"ended with 3.*mode 0{mode:o}"):
            Server("--keys", str(keys))


def line(key, rest):
    return hashlib.sha256(key.encode()).hexdigest() + " " + rest + "\n"


@pytest.mark.parametrize("text", ["", "\n# no key\n", "garbage\n", line(KEY, "alice admin"), line(KEY, "alice operator x"), line(KEY, ""), line(KEY, "al/ice"), line(KEY, "alice OPERATOR"), line(KEY, "a" * 64),
                                  line(KEY, "alice")[1:], "x" + line(KEY, "alice"), hashlib.sha256(KEY.encode()).hexdigest() + "alice\n", line(KEY, "alice") + "\0\n"])
def test_a_key_file_that_is_wrong_starts_nothing(tmp_path, text):
    keys = tmp_path / "keys"
    keys.write_text(text)
    keys.chmod(0o600)
    with pytest.raises(RuntimeError, match="ended with 3"):
        Server("--keys", str(keys))


def test_a_missing_role_is_the_least(make_server, tmp_path):
    s = make_server("--keys", write_keys(tmp_path / "keys", {"k-1": "alice", "k-2": "alice user", "k-3": "alice operator"}))
    ask = lambda k: s.http.get("/v1/metrics/history", headers={"Authorization": "Bearer " + k}).status_code  # noqa: E731
    assert [ask(k) for k in ("k-1", "k-2", "k-3")] == [403, 403, 200]


def test_after_sighup_only_what_can_be_read_is_a_key(make_server, tmp_path):
    keys = tmp_path / "keys"
    s = make_server("--keys", write_keys(keys, {KEY: "alice", "k-2": "bob"}))
    codes = lambda: [s.http.get("/v1/models", headers={"Authorization": "Bearer " + k}).status_code for k in (KEY, "k-2")]  # noqa: E731

    def becomes(want):
        s.proc.send_signal(signal.SIGHUP)
        end = time.monotonic() + 20
        while codes() != want and time.monotonic() < end:
            time.sleep(0.02)
        return codes() == want

    assert codes() == [200, 200]
    good = keys.read_text()
    keys.write_text("")
    assert becomes([401, 401])
    keys.write_text(good)
    assert becomes([200, 200])
    keys.chmod(0o644)
    assert becomes([401, 401])
    keys.chmod(0o600)
    assert becomes([200, 200])
    keys.unlink()
    assert becomes([401, 401])
    keys.write_text(good.replace(" bob", " bob nonsense"))  # one line is wrong: the other holds
    keys.chmod(0o600)
    assert becomes([200, 401])
    assert s.stop() == 0 and sum("keys read again" in l for l in s.log) >= 6
