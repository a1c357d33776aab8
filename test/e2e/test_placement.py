"""The placement file: what its rules let leave, on which receipt that stands, and that nothing else reaches another server."""
import json
import random

import pytest
import yaml

from conftest import Server, run, write_keys
from test_serving import HARD, Collector, stream

KEYS = {"key-a": "team-a", "key-b": "team-b"}


def place(name="cloud", **kw):
    return {"name": name, "where": "public", "roles": ["generation"], "address": "http://127.0.0.1:9/v1", "model": "big", **kw}


def rule(name="public questions", **kw):
    return {"name": name, "to": ["cloud"], "tenants": ["team-a"], "classes": ["public"], "parts": ["system", "messages"], **kw}


def write(path, places=(), rules=(), **kw):
    path.write_text(yaml.safe_dump({"places": list(places), "rules": list(rules), **kw}, sort_keys=False))
    return str(path)


class Spy(Collector):
    """Another server that answers, and keeps every byte of what it is told."""

    def __init__(self):
        super().__init__(lambda h: stream(h, ["From afar."]))

    def seen(self):
        return json.dumps(self.got, ensure_ascii=False)


class Placed:
    """A server behind keys with one place, a spy, and what it keeps: a document and conversations."""

    def __init__(self, folder, rules, where="public"):
        self.spy = Spy()
        file = write(folder / "placement.yaml", [place(where=where, address=self.spy.url + "/v1", price_in=2.0, price_out=10.0, latency_ms=100)], rules)
        keys = write_keys(folder / "keys.txt", KEYS)
        self.s = Server("--placement", file, "--keys", keys, "--history", str(folder / "h.db"), "--knowledge", str(folder / "k.db"))

    def post(self, path, key="key-a", headers=None, **kw):
        return self.s.http.post(path, headers={"Authorization": f"Bearer {key}", **(headers or {})}, **kw)

    def chat(self, messages, key="key-a", headers=None, own=None, **kw):
        body = {"messages": messages, "max_tokens": 4, "temperature": 0, "sparing": own or {}, **kw}
        return self.post("/v1/chat/completions", key, headers, json=body)

    def collection(self, text, key="key-a"):
        """A vector store with one document; its id."""
        f = self.post("/v1/files", key, files={"file": ("doc.txt", text)}, data={"purpose": "assistants"}).json()["id"]
        store = self.post("/v1/vector_stores", key, json={"name": "c"}).json()["id"]
        r = self.post(f"/v1/vector_stores/{store}/files", key, json={"file_id": f})
        assert r.status_code == 200, r.text
        end = 0
        while self.s.http.get(f"/v1/vector_stores/{store}/files/{f}", headers={"Authorization": f"Bearer {key}"}).json()["status"] == "in_progress":
            end += 1
            assert end < 10**6
        return store

    def conversation(self, text, key="key-a"):
        items = [{"type": "message", "role": "user", "content": text}, {"type": "message", "role": "assistant", "content": "Noted."}]
        r = self.post("/v1/conversations", key, json={"items": items})
        assert r.status_code == 200, r.text
        return r.json()["id"]

    def stop(self):
        assert self.s.stop() == 0
        self.spy.stop()


@pytest.fixture(scope="module")
def strict(tmp_path_factory):
    p = Placed(tmp_path_factory.mktemp("strict"), [rule()])
    yield p
    p.stop()


def ask(text):
    return [{"role": "user", "content": text}]


AWAY = {"path": "upstream", "data_class": "public"}
TOOL = {"type": "function", "function": {"name": "look_up", "description": "Looks a word up.", "parameters": {"type": "object", "properties": {"word": {"type": "string"}}}}}


# --- rules ---------------------------------------------------------------------------------------


def test_the_receipt_says_where_and_by_which_rule(strict):
    r = strict.chat(ask(HARD), own={"data_class": "public"})  # difficult: it goes by itself
    own = r.json()["usage"]["sparing"]
    assert r.json()["choices"][0]["message"]["content"] == "From afar." and own["path"] == "upstream"
    assert own["placement"] == {"where": "public", "place": "cloud", "rule": "public questions", "why": "a rule lets it leave"}
    assert own["cost"] == pytest.approx((11 * 2 + 3 * 10) * 1e-6)  # the place's price, not --upstream-price
    r = strict.chat(ask(HARD))
    own = r.json()["usage"]["sparing"]
    assert own["path"] == "full" and own["why"] == "difficult, and no placement rule lets it leave"
    assert own["placement"] == {"where": "private", "place": "here", "rule": None, "why": "no rule names the class of its data"}
    plan = strict.post("/v1/plan", json={"messages": ask(HARD), "sparing": {"data_class": "public"}}).json()
    assert plan["path"] == "upstream" and plan["placement"]["rule"] == "public questions"


@pytest.mark.parametrize("own,key,why", [
    ({}, "key-a", "no rule names the class of its data"),
    ({"data_class": "secret"}, "key-a", "no rule names the class of its data"),
    ({"data_class": "*"}, "key-a", "no rule names the class of its data"),
    ({"data_class": "public"}, "key-b", "no rule names its tenant"),
    ({"data_class": "public", "private": True}, "key-a", "the request is private"),
])
def test_what_no_rule_names_stays(strict, own, key, why):
    n = len(strict.spy.got)
    r = strict.chat(ask(HARD), key, own={"path": "upstream", **own})
    assert r.status_code == 400 and why in r.json()["error"]["message"], r.text
    assert len(strict.spy.got) == n


@pytest.mark.parametrize("value", [None, 7, "", "unlabelled", "x" * 64])
def test_a_class_that_is_none_is_refused(strict, value):
    r = strict.chat(ask(HARD), own={"path": "upstream", "data_class": value})
    assert r.status_code == 400 and "data_class" in r.json()["error"]["message"], r.text


def test_parts_that_a_rule_does_not_name_stay(strict):
    store, conv, n = strict.collection("The lighthouse was built in 1741."), strict.conversation("My name is Ada."), len(strict.spy.got)
    for more in ({"tools": [TOOL]}, {"tools": [{"type": "file_search", "vector_store_ids": [store]}]}, {"conversation": conv}, {"store": True}):
        r = strict.chat(ask(HARD), own=AWAY, **more)
        assert r.status_code == 400 and "all of its parts" in r.json()["error"]["message"], (more, r.text)
        assert strict.chat(ask(HARD), own={"data_class": "public"}, **more).json()["usage"]["sparing"]["path"] != "upstream"
    assert len(strict.spy.got) == n


def test_the_cheapest_place_that_may_takes_it(tmp_path):
    spies = [Spy() for _ in range(3)]
    prices, lets = [5.0, 1.0, 0.5], ["dear", "cheap"]  # the third is cheaper still, and no rule leads there
    places = [place(n, address=spy.url + "/v1", price_in=p) for n, spy, p in zip(["dear", "cheap", "open"], spies, prices)]
    s = Server("--placement", write(tmp_path / "p.yaml", places, [rule(to=lets, tenants=["*"], classes=["unlabelled"])]))
    r = s.http.post("/v1/chat/completions", json={"messages": ask(HARD), "max_tokens": 4}).json()
    assert r["usage"]["sparing"]["placement"]["place"] == "cheap"
    assert [len(spy.got) for spy in spies] == [0, 1, 0]
    assert s.metric('sparing_placement_total{place="cheap",result="left"}') == 1
    assert s.stop() == 0
    for spy in spies:
        spy.stop()


# --- bytes ---------------------------------------------------------------------------------------

KINDS = ["system", "messages", "tools", "passages", "history", "metadata", "headers", "file"]
CLOSED = [({}, "key-a"), ({"data_class": "internal"}, "key-a"), ({"data_class": "public", "private": True}, "key-a"), ({"data_class": "public"}, "key-b")]
PATHS = [{}, {"path": "upstream"}, {"path": "upstream", "forbid": ["full"]}, {"path": "upstream", "forbid": ["full", "light"]}]


def generate(p, rnd, kinds, mark):
    """Arguments of a chat that has the mark in each of these kinds of places."""
    text = f"Remember the code word {mark}."
    messages = ([{"role": "system", "content": text}] if "system" in kinds else []) + ask(f"{HARD} {text if 'messages' in kinds else ''}")
    kw, tools, headers = {}, [], {}
    if "tools" in kinds:
        tools.append({"type": "function", "function": {**TOOL["function"], "description": text}})
    if "passages" in kinds or "file" in kinds:
        tools.append({"type": "file_search", "vector_store_ids": [p.store]})
    if "history" in kinds:
        kw["conversation"] = p.conversation(text, p.key)
    if "metadata" in kinds:
        kw["metadata"] = {"note": text}
    if "headers" in kinds:
        headers = {"x-llm-d-inference-fairness-id": mark, "x-request-id": mark, "x-session-id": mark, "Cookie": f"s={mark}"}
    if tools:
        kw["tools"] = tools
    return messages, headers, kw


@pytest.mark.parametrize("n_ask", [150, pytest.param(500, marks=pytest.mark.long)])
def test_requests_with_private_parts_leave_no_byte(tmp_path, n_ask):
    """Each has a mark of its own somewhere, and a reason to stay: it is private, of no class or another, of another tenant, or has a
    part that the rule does not let out. Every tenth is open, and does arrive; of it, too, neither header fields nor metadata leave."""
    p = Placed(tmp_path, [rule()])
    rnd, marks, arrived = random.Random(29), [], 0
    stores = {}
    for key in KEYS:
        mark = f"PRIVATE-doc-{key}"
        stores[key] = p.collection(f"Prove by induction: the code word of the sum of odd numbers is {mark}.", key)
        marks.append(mark)
    for i in range(n_ask):
        mark = f"PRIVATE-{i}-{rnd.randrange(1 << 30)}"
        own, p.key = rnd.choice(CLOSED)
        kinds = rnd.sample(KINDS, rnd.randint(1, 3))
        if i % 3 == 0:  # all else is open: only the part keeps it here
            own, p.key = {"data_class": "public"}, "key-a"
            kinds = rnd.sample(["tools", "passages", "history", "file"], rnd.randint(1, 2)) + ["metadata"]
        if i % 10 == 9:
            own, p.key, kinds = {"data_class": "public"}, "key-a", ["metadata", "headers"]
        p.store = stores[p.key]
        messages, headers, kw = generate(p, rnd, kinds, mark)
        n = len(p.spy.got)
        r = p.chat(messages, p.key, headers, own={**own, **rnd.choice(PATHS)}, stream=rnd.random() < 0.3, **kw)
        assert r.status_code in (200, 400), r.text
        assert (len(p.spy.got) > n) == (i % 10 == 9), (i, kinds, own, p.key, r.text)
        arrived += len(p.spy.got) > n
        marks.append(mark)
    seen = p.spy.seen()
    assert arrived == n_ask // 10 and HARD in seen
    assert [m for m in marks if m in seen] == [] and "PRIVATE" not in seen
    p.stop()


def test_rules_that_are_opened_let_the_same_parts_out(tmp_path):
    """The control of the test above: it would see them."""
    parts = ["system", "messages", "tools", "passages", "history"]
    open_rule = rule("all", tenants=["*"], classes=["unlabelled"], parts=parts, collections=["*"])
    p = Placed(tmp_path, [open_rule], where="private")  # to a public place, collections are named one by one
    spy = p.spy
    p.key, p.store = "key-a", p.collection("Prove by induction: the code word of the sum of odd numbers is MARK-doc.")
    for kind in ["system", "messages", "tools", "passages", "history", "metadata", "headers"]:
        messages, headers, kw = generate(p, random.Random(1), [kind], f"MARK-{kind}")
        n = len(spy.got)
        r = p.chat(messages, headers=headers, own={"path": "upstream"}, **kw)
        assert r.status_code == 200 and r.json()["choices"][0]["message"]["content"] == "From afar.", (kind, r.text)
        assert len(spy.got) == n + 1
        sent = json.dumps(spy.got[n:])
        assert (("MARK-doc" if kind == "passages" else f"MARK-{kind}") in sent) == (kind not in ("metadata", "headers")), (kind, sent)
    p.stop()


def test_one_collection_is_opened_and_the_other_is_not(tmp_path):
    """Collections are named by their ids, so the rules are written when those are known."""
    p = Placed(tmp_path, [])
    ids = [p.collection(f"Prove by induction: the sum of odd numbers is MARK-{i}.") for i in range(2)]
    assert p.s.stop() == 0
    file = write(tmp_path / "p2.yaml", [place(address=p.spy.url + "/v1")], [rule(parts=["messages", "passages"], collections=[ids[0]])])
    p.s = Server("--placement", file, "--keys", str(tmp_path / "keys.txt"), "--knowledge", str(tmp_path / "k.db"))
    for stores, status in (([ids[0]], 200), ([ids[1]], 400), (ids, 400)):
        r = p.chat(ask(HARD), own=AWAY, tools=[{"type": "file_search", "vector_store_ids": stores}])
        assert r.status_code == status, r.text
    assert "MARK-0" in p.spy.seen() and "MARK-1" not in p.spy.seen() and len(p.spy.got) == 1
    p.stop()


def test_a_conversation_that_was_let_out_is_kept_here(tmp_path):
    p = Placed(tmp_path, [rule(parts=["messages", "history"])])
    conv = p.conversation("My cat is called Miezi.")
    r = p.chat(ask(HARD), own=AWAY, conversation=conv)
    assert r.status_code == 200 and "Miezi" in p.spy.seen(), r.text
    items = p.s.http.get(f"/v1/conversations/{conv}/items", headers={"Authorization": "Bearer key-a"}).text
    assert "From afar." in items and HARD in items
    p.spy.stop()  # and where the other server is gone, the answer comes from here, with the same conversation
    r = p.chat(ask(HARD), own=AWAY, conversation=conv)
    assert r.status_code == 200 and r.json()["usage"]["sparing"]["path"] == "full", r.text
    assert r.json()["usage"]["sparing"]["placement"]["place"] == "here"
    assert p.s.stop() == 0


# --- the file ------------------------------------------------------------------------------------


@pytest.mark.parametrize("places,rules,says", [
    ([place(where="somewhere")], [], "where"),
    ([place(where=None)], [], "where"),
    ([{k: v for k, v in place().items() if k != "where"}], [], "where"),
    ([place(roles=[])], [], "roles"),
    ([place(roles=["everything"])], [], "everything"),
    ([place(), place()], [], "two places are named cloud"),
    ([place("here")], [], "'here' is this server"),
    ([place(address="llm.example.com")], [], "http:// or https://"),
    ([place(colour="red")], [], "colour"),
    ([{k: v for k, v in place().items() if k != "model"}], [], "needs its model"),
    ([place(price_in=-1.0)], [], "prices"),
    ([place(price_in=float("nan"))], [], "price_in"),
    ([place()], [rule(to=["moon"])], "no place 'moon'"),
    ([place()], [rule(to=[])], "to is empty"),
    ([place()], [rule(tenants=[])], "tenants is empty"),
    ([place()], [rule(classes=["*"])], "'*' is not a name"),
    ([place()], [rule(classes=[None])], "'null' is not a name"),
    ([place()], [rule(parts=[])], "parts is empty"),
    ([place()], [rule(parts=["passages"])], "belong together"),
    ([place()], [rule(collections=["x"])], "belong together"),
    ([place()], [rule(parts=["passages"], collections=["*"])], "named one by one"),
    ([place()], [rule(parts=["kept"])], "of all tenants"),
    ([place()], [rule(), rule()], "two rules are named"),
    ([place()], [{k: v for k, v in rule().items() if k != "classes"}], "classes"),
])
def test_a_file_that_could_mean_more_than_it_says_is_refused(tmp_path, places, rules, says):
    p = run("policy", "test", write(tmp_path / "p.yaml", places, rules), check=False)
    assert p.returncode == 3 and says in p.stderr, p.stderr


@pytest.mark.parametrize("options,says", [
    (["--upstream", "http://127.0.0.1:9/v1"], "places of that file"),
    (["--otlp", "http://127.0.0.1:4318"], "otlp: the placement file has no place"),
    (["--grpc", "127.0.0.1:0", "--peers", "10.0.0.7:8430"], "peers: the placement file has no place"),
    (["--knowledge", "postgresql://u:geheim@db.example/k"], "knowledge: the placement file has no place with the address postgresql://db.example"),
    (["--feedback", "postgresql://public.example/k"], "public, and no rule"),
    (["--feedback", "postgresql:///k?host=public.example"], "feedback: the placement file has no place"),
    (["--s3", "s3://bucket/x", "--cache-dir", "unused"], "s3: the placement file has no place"),
])
def test_an_outlet_that_the_file_does_not_name_stops_the_start(tmp_path, options, says):
    file = write(tmp_path / "p.yaml", [place("shop", roles=["storage"], address="postgresql://public.example")])
    with pytest.raises(RuntimeError, match="ended with 3") as e:
        Server("--placement", file, *options)
    assert says in str(e.value) and "geheim" not in str(e.value)


def test_outlets_that_the_file_names_are_used(tmp_path):
    file = write(tmp_path / "p.yaml", [place("traces", where="private", roles=["traces"], address="http://127.0.0.1:9")])
    s = Server("--placement", file, "--otlp", "http://127.0.0.1:9/v1")
    assert s.stop() == 0


def test_a_key_comes_from_the_environment(tmp_path):
    spy = Spy()
    file = write(tmp_path / "p.yaml", [place(address=spy.url + "/v1", key_env="CLOUD_KEY")], [rule(tenants=["*"], classes=["unlabelled"])])
    with pytest.raises(RuntimeError, match="CLOUD_KEY"):
        Server("--placement", file)
    s = Server("--placement", file, env={"CLOUD_KEY": "k-1"})
    assert s.http.post("/v1/chat/completions", json={"messages": ask(HARD), "max_tokens": 4}).status_code == 200
    assert spy.got[0][1]["Authorization"] == "Bearer k-1" and spy.got[0][2]["model"] == "big"
    assert s.stop() == 0
    spy.stop()


EXAMPLES = [{"name": "a public question", "tenant": "team-a", "class": "public", "parts": ["messages"], "goes": "cloud", "rule": "public questions"},
            {"name": "of no class", "tenant": "team-a", "parts": ["messages"], "goes": "here"},
            {"name": "with history", "tenant": "team-a", "class": "public", "parts": ["messages", "history"], "goes": "here"},
            {"name": "private", "tenant": "team-a", "class": "public", "private": True, "parts": ["messages"], "goes": "here"}]


def test_policy_test_prints_a_table_and_fails_on_a_mismatch(tmp_path):
    file = write(tmp_path / "p.yaml", [place()], [rule()], examples=EXAMPLES)
    p = run("policy", "test", file)
    lines = p.stdout.splitlines()
    assert len(lines) == 6 and all(x.startswith("ok") for x in lines[1:5]) and lines[5] == "4 of 4 as expected"
    beside = write(tmp_path / "e.yaml", [place()], [rule()], examples=[{**EXAMPLES[1], "goes": "cloud"}])
    p = run("policy", "test", file, beside, check=False)
    assert p.returncode == 1 and "WRONG" in p.stdout and "expected: cloud" in p.stdout and "0 of 1" in p.stdout
    assert run("policy", "test", write(tmp_path / "n.yaml", [place()], [rule()]), check=False).returncode == 3  # nothing to test is no success
    assert run("policy", "show", file, check=False).returncode == 2
