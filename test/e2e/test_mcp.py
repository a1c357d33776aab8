"""/mcp: one tool, a search in documents."""
import httpx
import pytest

from conftest import write_keys

TEXT = "The blue whale is the largest animal. It eats krill.\n\nThe Eiffel tower stands in Paris. It is 330 m high.\n"


@pytest.fixture(scope="module")
def kept(tmp_path_factory):
    from conftest import Server
    tmp = tmp_path_factory.mktemp("mcp")
    s = Server("--knowledge", str(tmp / "k.db"), "--keys", write_keys(tmp / "keys", {"a": "alice", "b": "bob"}))
    alice = httpx.Client(base_url=s.url, headers={"Authorization": "Bearer a"}, timeout=600)
    file = alice.post("/v1/files", files={"file": ("facts.txt", TEXT.encode())}, data={"purpose": "assistants"}).json()["id"]
    store = alice.post("/v1/vector_stores", json={"name": "facts", "file_ids": [file]}).json()["id"]
    from conftest import wait_until
    wait_until(lambda: alice.get(f"/v1/vector_stores/{store}").json()["status"] == "completed", "the collection")
    s.alice, s.store = alice, store
    yield s
    assert s.stop() == 0


def ask(client, method, params=None, **kw):
    body = {"jsonrpc": "2.0", "id": 1, "method": method, **({"params": params} if params is not None else {}), **kw}
    return client.post("/mcp", json=body, headers={"Accept": "application/json, text/event-stream"})


def search(client, **arguments):
    return ask(client, "tools/call", {"name": "search", "arguments": arguments}).json()["result"]


def test_a_session(kept):
    r = ask(kept.alice, "initialize", {"protocolVersion": "2025-03-26", "capabilities": {}, "clientInfo": {"name": "x", "version": "1"}})
    assert r.status_code == 200 and r.json()["id"] == 1 and r.json()["result"]["protocolVersion"] == "2025-03-26"
    assert "tools" in r.json()["result"]["capabilities"]
    r = kept.alice.post("/mcp", json={"jsonrpc": "2.0", "method": "notifications/initialized"})
    assert r.status_code == 202 and not r.content
    assert ask(kept.alice, "ping", id="p").json() == {"jsonrpc": "2.0", "id": "p", "result": {}}
    [tool] = ask(kept.alice, "tools/list").json()["result"]["tools"]
    assert tool["name"] == "search" and tool["inputSchema"]["required"] == ["query"]
    assert ask(kept.alice, "initialize", {"protocolVersion": "1999-01-01"}).json()["result"]["protocolVersion"] == "2025-06-18"


@pytest.mark.parametrize("by", ["name", "id"])
def test_search(kept, by):
    r = search(kept.alice, query="How high is the Eiffel tower?", collection="facts" if by == "name" else kept.store, max_results=3)
    assert not r["isError"] and "330 m" in r["content"][0]["text"] and "facts.txt" in r["content"][0]["text"]
    assert r["structuredContent"]["passages"][0]["filename"] == "facts.txt"
    own = kept.alice.post(f"/v1/vector_stores/{kept.store}/search", json={"query": "How high is the Eiffel tower?", "max_num_results": 3}).json()
    assert [p["text"] for p in r["structuredContent"]["passages"]] == [d["content"][0]["text"] for d in own["data"]]


def test_a_tenant_finds_its_own(kept):
    bob = httpx.Client(base_url=kept.url, headers={"Authorization": "Bearer b"}, timeout=600)
    assert search(bob, query="tower", collection="facts")["structuredContent"]["passages"] == []
    assert "330" not in str(search(bob, query="tower", collection=kept.store))
    assert httpx.post(kept.url + "/mcp", json={}).status_code == 401


@pytest.mark.parametrize("arguments, says", [({"collection": "facts"}, "query"), ({"query": "x"}, "collection"), ({"query": "x", "collection": "facts", "colour": 1}, "colour"),
                                             ({"query": "x", "collection": "facts", "max_results": 0}, "max_results")])
def test_what_the_model_got_wrong_is_told_to_it(kept, arguments, says):
    r = search(kept.alice, **arguments)
    assert r["isError"] and says in r["content"][0]["text"]


def test_errors(kept, server):
    code = lambda r: r.json()["error"]["code"]  # noqa: E731
    assert code(ask(kept.alice, "resources/list")) == -32601
    assert code(ask(kept.alice, "tools/call", {"name": "other"})) == -32602
    assert code(kept.alice.post("/mcp", content="{", headers={"Content-Type": "application/json"})) == -32700
    assert code(kept.alice.post("/mcp", json={"id": 1, "method": "ping"})) == -32600
    assert code(kept.alice.post("/mcp", json={"jsonrpc": "2.0", "id": {}, "method": "ping"})) == -32600
    assert kept.alice.get("/mcp").status_code == 405 and kept.alice.delete("/mcp").status_code == 405
    assert server.http.post("/mcp", json={"jsonrpc": "2.0", "id": 1, "method": "ping"}).status_code == 404
