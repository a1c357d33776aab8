"""Lists a page at a time: every list, both orders, things that go while a client reads, and queries nobody knows."""
import httpx
import pytest


@pytest.fixture(scope="module")
def s(tmp_path_factory):
    from conftest import Server
    tmp = tmp_path_factory.mktemp("paging")
    server = Server("--knowledge", str(tmp / "k.db"), "--history", str(tmp / "h.db"))
    yield server
    assert server.stop() == 0


def upload(s, n):
    return [s.http.post("/v1/files", files={"file": (f"d{i:02}.txt", b"x")}, data={"purpose": "assistants"}).json()["id"] for i in range(n)]


def pages(s, path, limit, order, each=lambda ids: None):
    """All ids, page by page; each: called with those of a page before the next is asked for."""
    seen, after = [], None
    while True:
        j = s.http.get(path, params={"limit": limit, "order": order, **({"after": after} if after else {})}).json()
        ids = [x["id"] for x in j["data"]]
        assert len(ids) <= limit and (not ids or (j["first_id"], j["last_id"]) == (ids[0], ids[-1]))
        seen += ids
        if not j["has_more"]:
            return seen
        after = ids[-1]
        each(ids)


@pytest.fixture(scope="module")
def lists(s):
    """A path of each list and what is in it, oldest first."""
    files = upload(s, 11)
    store = s.http.post("/v1/vector_stores", json={"name": "a"}).json()["id"]
    batch = s.http.post(f"/v1/vector_stores/{store}/file_batches", json={"file_ids": files}).json()["id"]
    more = [s.http.post("/v1/vector_stores", json={"name": str(i)}).json()["id"] for i in range(6)]
    talk = s.http.post("/v1/conversations", json={"items": [{"role": "user", "content": f"m{i}"} for i in range(9)]}).json()["id"]
    items = [x["id"] for x in s.http.get(f"/v1/conversations/{talk}/items").json()["data"]]
    return {"/v1/files": files, "/v1/vector_stores": [store, *more], f"/v1/vector_stores/{store}/files": files, f"/v1/vector_stores/{store}/file_batches/{batch}/files": files,
            f"/v1/conversations/{talk}/items": items}


def test_every_list_in_pages(s, lists):
    for path, ids in lists.items():
        for limit in (1, 4, len(ids), 100):
            assert pages(s, path, limit, "asc") == ids and pages(s, path, limit, "desc") == ids[::-1], (path, limit)


def test_queries_nobody_knows_are_refused(s, lists):
    for path in lists:
        for query, param in (("limits=3", "limits"), ("before=x", "before"), ("limit=0", "limit"), ("limit=-1", "limit"), ("limit=1x", "limit"), ("limit=", "limit"), ("limit=1e3", "limit"), ("limit=99999999999999999999", "limit"),
                             ("order=up", "order"), ("order=", "order"), ("after=", "after"), ("after=nope", "after"), ("after=" + "x" * 300, "after"), ("=1", "")):
            r = s.http.get(path + "?" + query)
            assert r.status_code == 400 and param in r.json()["error"]["message"], (path, query, r.text)
    one = next(iter(lists["/v1/files"]))
    for method, path in (("GET", f"/v1/files/{one}"), ("GET", f"/v1/files/{one}/content"), ("GET", "/v1/models"), ("GET", "/v1/requests?limit=5&after=x"), ("GET", "/metrics"), ("POST", "/v1/plan"), ("POST", "/v1/chat/completions"),
                         ("POST", "/v1/embeddings"), ("POST", "/tokenize"), ("POST", "/v1/conversations"), ("DELETE", "/v1/tenant"), ("GET", "/v1/metrics/history?since=0")):
        r = s.http.request(method, path + ("&" if "?" in path else "?") + "x=1")
        assert r.status_code == 400 and r.json()["error"]["param"] in ("x", "after"), (path, r.text)
    assert s.http.get("/v1/requests?limit=5").status_code == 200 and s.http.get("/v1/metrics/history?since=0&points=5").status_code == 200


@pytest.fixture(params=["sqlite", "postgres"])
def store_server(request, make_server, tmp_path):
    if request.param == "sqlite":
        yield make_server("--knowledge", str(tmp_path / "k.db"))
        return
    import pgserver
    pg = pgserver.get_server(tmp_path / "pg")
    try:
        yield make_server("--knowledge", pg.get_uri())
    finally:
        pg.cleanup()


def test_what_goes_while_it_is_read(store_server):
    """The client deletes the last thing of each page before it asks for the next: every one comes once, in both orders, from files, stores and a store's files."""
    s = store_server
    for order in ("asc", "desc"):
        files = upload(s, 12)
        store = s.http.post("/v1/vector_stores", json={"file_ids": files}).json()["id"]
        turn = (lambda x: x) if order == "asc" else (lambda x: x[::-1])
        assert pages(s, f"/v1/vector_stores/{store}/files", 4, order, lambda ids: s.http.delete(f"/v1/vector_stores/{store}/files/{ids[-1]}").raise_for_status()) == turn(files)
        assert pages(s, "/v1/files", 5, order, lambda ids: s.http.delete(f"/v1/files/{ids[-1]}").raise_for_status()) == turn(files)
        for f in files:
            s.http.delete(f"/v1/files/{f}")
        stores = [store, *(s.http.post("/v1/vector_stores", json={}).json()["id"] for _ in range(5))]
        assert pages(s, "/v1/vector_stores", 2, order, lambda ids: s.http.delete(f"/v1/vector_stores/{ids[-1]}").raise_for_status()) == turn(stores)
        for v in stores:
            s.http.delete(f"/v1/vector_stores/{v}")
    # the last one goes, and another comes: it is behind what was read
    files = upload(s, 3)
    s.http.delete(f"/v1/files/{files[2]}").raise_for_status()
    new = upload(s, 1)
    got = s.http.get("/v1/files", params={"order": "asc", "after": files[2]}).json()["data"]
    assert [f["id"] for f in got] == new
    assert s.http.get("/v1/vector_stores", params={"after": files[0]}).status_code == 400  # a thing of another list
    assert s.http.delete("/v1/tenant").status_code == 200
    assert s.http.get("/v1/files", params={"after": files[2]}).status_code == 400  # nothing is kept of who asked to be forgotten


def test_a_cursor_is_its_tenants(make_server, tmp_path):
    from conftest import write_keys
    s = make_server("--knowledge", str(tmp_path / "k.db"), "--keys", write_keys(tmp_path / "keys", {"k-a": "alice", "k-b": "bob"}))
    a, b = (httpx.Client(base_url=s.url, headers={"Authorization": "Bearer " + k}, timeout=60) for k in ("k-a", "k-b"))
    f = a.post("/v1/files", files={"file": ("x.txt", b"x")}, data={"purpose": "assistants"}).json()["id"]
    assert b.get("/v1/files", params={"after": f}).status_code == 400
    a.delete(f"/v1/files/{f}").raise_for_status()
    assert b.get("/v1/files", params={"after": f}).status_code == 400 and a.get("/v1/files", params={"after": f}).json()["data"] == []
