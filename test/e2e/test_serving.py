"""Which path a request takes and what it says of that; another server for the difficult ones; the scheduler under load; traces."""
import concurrent.futures
import http.server
import json
import re
import shutil
import threading
import time

import pytest

from conftest import MODEL, PATIENCE, ROOT, run, wait_until, write_keys

EASY, HARD = "What is the capital of Peru?", "Prove by induction that the sum of the first n odd numbers is n squared, and explain every step."


def body(text, **kw):
    return {"messages": [{"role": "user", "content": text}], "max_tokens": 24, "temperature": 0, **kw}


def plan(s, text, **own):
    r = s.http.post("/v1/plan", json=body(text, sparing=own))
    return r.json() if r.status_code == 200 else r.json()["error"]


def receipt(r):
    assert r.status_code == 200, r.text
    return r.json()["usage"]["sparing"]


class Collector:
    """An HTTP server on loopback that keeps what it gets, and answers as `answer` says."""

    def __init__(self, answer):
        self.got, outer = [], self

        class Handler(http.server.BaseHTTPRequestHandler):
            protocol_version = "HTTP/1.1"

            def do_POST(self):
                data = self.rfile.read(int(self.headers["Content-Length"]))
                outer.got.append((self.path, dict(self.headers), json.loads(data)))
                try:
                    answer(self)
                except OSError:
                    pass  # the caller gave up
                self.close_connection = True

            def log_message(self, *a):
                pass

        self.httpd = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        self.url = f"http://127.0.0.1:{self.httpd.server_port}"
        threading.Thread(target=self.httpd.serve_forever, daemon=True).start()

    def stop(self):
        self.httpd.shutdown()
        self.httpd.server_close()


def stream(handler, pieces, reason="stop", usage=(11, 3)):
    handler.send_response(200)
    handler.send_header("Content-Type", "text/event-stream")
    handler.send_header("Connection", "close")
    handler.end_headers()
    for p in pieces:
        handler.wfile.write(b"data: " + json.dumps({"choices": [{"index": 0, "delta": {"content": p}, "finish_reason": None}]}).encode() + b"\r\n\r\n")
        handler.wfile.flush()
    if reason:
        handler.wfile.write(b'data: {"choices":[{"index":0,"delta":{},"finish_reason":"%s"}]}\n\n' % reason.encode())
        handler.wfile.write(b'data: {"choices":[],"usage":{"prompt_tokens":%d,"completion_tokens":%d}}\n\ndata: [DONE]\n\n' % usage)


@pytest.fixture
def collector():
    made = []

    def make(answer):
        made.append(Collector(answer))
        return made[-1]

    yield make
    for c in made:
        c.stop()


# --- intent and plan -----------------------------------------------------------------------------


def test_plan_explains_without_running(server):
    before = server.metric("sparing_computed_tokens_total")
    easy, hard = plan(server, EASY), plan(server, HARD)
    assert (easy["path"], easy["class"]) == ("light", "fact") and easy["difficulty"] < 0.5 < hard["difficulty"]
    assert (hard["path"], hard["class"], hard["why"]) == ("full", "maths", "difficult")
    assert easy["need"] > 0.5 > hard["need"] and easy["max_tokens"] == 24
    assert server.metric("sparing_computed_tokens_total") == before
    assert re.search(r"\d+ prompts of \d+ families, \d+ held out, sha256 [0-9a-f]{64}", easy["intent_model"])


def test_answers_name_path_and_why(server):
    r = receipt(server.http.post("/v1/chat/completions", json=body(EASY)))
    assert (r["path"], r["why"], r["class"]) == ("light", "easy", "fact")
    r = receipt(server.http.post("/v1/chat/completions", json=body(EASY, sparing={"path": "full"})))
    assert (r["path"], r["why"]) == ("full", "the request says so")
    r = receipt(server.http.post("/v1/completions", json={"prompt": "Once", "max_tokens": 2}))
    assert (r["path"], r["why"]) == ("full", "a raw prompt") and "class" not in r


def test_caller_forces_and_forbids(server):
    assert plan(server, EASY, forbid=["light"])["path"] == "full"
    assert plan(server, HARD, forbid=["full"])["path"] == "light"
    for own, word in (({"path": "light", "forbid": ["light"]}, "both wanted and forbidden"), ({"forbid": ["light", "full"]}, "every path is forbidden"),
                      ({"path": "upstream"}, "no --upstream"), ({"path": "best"}, "none of auto, light"), ({"forbid": "full"}, "must be a list"),
                      ({"forbid": ["auto"]}, r"forbid\[0\]"), ({"votes": 3}, "temperature 0"), ({"priority": 9}, "priority")):
        e = plan(server, EASY, **own)
        assert e["type"] == "invalid_request_error" and re.search(word, e["message"]), e


def test_light_budget_only_where_nothing_is_said(make_server):
    s = make_server("--light-tokens", "7")
    r = s.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": EASY}], "temperature": 0})
    assert r.json()["usage"]["completion_tokens"] <= 7 and receipt(r)["path"] == "light"
    assert plan(s, EASY)["max_tokens"] == 24 and s.http.post("/v1/plan", json={"messages": [{"role": "user", "content": HARD}]}).json()["max_tokens"] > 1000
    assert s.stop() == 0


def test_intent_is_fast_and_bounded(server):
    text = (ROOT / "test/data/licences.txt").read_text()
    for n in (2500, 40000, 400000):
        assert sorted(plan(server, text[:n])["ms"] for _ in range(20))[10] < 10


def test_train_intent_is_what_is_built_in(tmp_path):
    out = tmp_path / "intent.model"
    made = json.loads(run("train", "intent", ROOT / "train/intent/prompts.tsv", "-o", out, "--json").stdout)
    kept = json.loads(run("train", "intent", ROOT / "train/intent/prompts.tsv", "--intent-model", ROOT / "train/intent/intent.model", "--json").stdout)
    assert made["train"] + made["test"] >= 1500 and made["held"] >= 30
    for r in (made, kept):
        assert r["accuracy"]["path"] >= 0.9 and r["ece"]["path"] <= 0.05
        assert r["least_gain"]["random"] > 0 and r["least_gain"]["length"] > 0
    assert abs(made["accuracy"]["path"] - kept["accuracy"]["path"]) < 0.005  # another compiler rounds otherwise
    assert out.stat().st_size < 1 << 20


def test_prompts_are_what_families_make(tmp_path):
    shutil.copytree(ROOT / "train/intent", tmp_path / "intent")
    import subprocess
    import sys
    subprocess.run([sys.executable, str(tmp_path / "intent/make.py")], check=True, capture_output=True)
    assert (tmp_path / "intent/prompts.tsv").read_text() == (ROOT / "train/intent/prompts.tsv").read_text()


@pytest.mark.parametrize("line,word", [("a\ttrain\tfact\tlight\tyes\t", "column 6"), ("a\ttrain\tfact\tlight", "column 4"), ("a\ttrain\tnews\tlight\tyes\tx", "no class 'news'"),
                                       ("a\tdev\tfact\tlight\tyes\tx", "neither train nor test"), ("a\ttrain\tfact\tsoft\tyes\tx", "neither light nor full")])
def test_train_refuses_bad_lines(tmp_path, line, word):
    f = tmp_path / "p.tsv"
    f.write_text("a\ttrain\tfact\tlight\tyes\tx\n" + line + "\n")
    p = run("train", "intent", f, check=False)
    assert p.returncode == 1 and "line 2" in p.stderr and word in p.stderr


def test_broken_intent_model_is_refused(tmp_path):
    good = (ROOT / "train/intent/intent.model").read_bytes()
    for bad in (b"", good[:-1], b"x" + good, good[:100]):
        f = tmp_path / "m"
        f.write_bytes(bad)
        p = run("serve", "--port", "0", "--intent-model", f, check=False)
        assert p.returncode != 0 and "intent" in p.stderr or not bad


def test_votes_give_the_most_common_answer(server):
    r = server.http.post("/v1/chat/completions", json=body("What is 3 + 4? Only the number.", temperature=0.9, seed=5, sparing={"votes": 5, "path": "full"}))
    c = receipt(r)
    singles = [server.http.post("/v1/chat/completions", json=body("What is 3 + 4? Only the number.", temperature=0.9, seed=5 + i, sparing={"path": "full"})).json()
               ["choices"][0]["message"]["content"] for i in range(5)]
    last = [(re.findall(r"\d+(?:\.\d+)?", t) or [t.split("\n")[-1].lower()])[-1] for t in singles]
    won = max(last, key=last.count)
    text = r.json()["choices"][0]["message"]["content"]
    assert len(r.json()["choices"]) == 1 and c["votes"] == 5 and text == singles[last.index(won)]
    with server.http.stream("POST", "/v1/chat/completions", json=body("What is 3 + 4? Only the number.", temperature=0.9, seed=5, stream=True,
                                                                      sparing={"votes": 5, "path": "full"})) as s:
        chunks = [json.loads(x[6:]) for x in s.iter_lines() if x.startswith("data: {")]
    assert "".join(c["choices"][0]["delta"].get("content", "") for c in chunks if c["choices"]) == text


# --- upstream ------------------------------------------------------------------------------------


def test_difficult_requests_go_upstream_and_private_ones_do_not(make_server, collector):
    up = collector(lambda h: stream(h, ["Be", "cause", " of that."]))
    s = make_server("--upstream", up.url + "/v1", "--upstream-model", "big", "--upstream-price", "2,10", "--price", "1,1", env={"SPARING_UPSTREAM_KEY": "k-secret"})
    r = s.http.post("/v1/chat/completions", json=body(HARD, stop=["END"]), headers={"traceparent": "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"})
    c = receipt(r)
    assert r.json()["choices"][0]["message"]["content"] == "Because of that." and c["path"] == "upstream"
    assert c["prompt_tokens"]["upstream"] == 11 and c["prompt_tokens"]["computed"] == 0 and c["flops"]["spent"] == 0
    assert abs(c["cost"] - (11 * 2 + 3 * 10) / 1e6) < 1e-12 and r.json()["usage"]["completion_tokens"] == 3
    path, headers, sent = up.got[0]
    assert path == "/v1/chat/completions" and headers["Authorization"] == "Bearer k-secret" and headers["traceparent"].startswith("00-" + "ab" * 16)
    assert sent["model"] == "big" and sent["messages"][0]["content"] == HARD and sent["stop"] == ["END"] and sent["max_tokens"] == 24
    with s.http.stream("POST", "/v1/chat/completions", json=body(HARD, stream=True)) as st:
        text = "".join(json.loads(x[6:])["choices"][0]["delta"].get("content", "") for x in st.iter_lines() if x.startswith("data: {"))
    assert text == "Because of that."
    n = len(up.got)
    for own in ({"private": True}, {"forbid": ["upstream"]}, {"path": "full"}, {"regex": "[a-z]+"}):
        assert receipt(s.http.post("/v1/chat/completions", json=body(HARD, sparing=own)))["path"] == "full"
    assert plan(s, HARD, private=True)["why"] == "difficult, and private"
    assert "private" in plan(s, HARD, private=True, path="upstream")["message"]
    assert receipt(s.http.post("/v1/chat/completions", json=body(EASY)))["path"] == "light"
    assert len(up.got) == n  # none of these left
    assert "k-secret" not in "".join(s.log)
    assert s.stop() == 0


def test_upstream_that_fails_falls_back_and_is_left_alone(make_server, collector):
    mode = ["500"]

    def answer(h):
        if mode[0] == "500":
            h.send_error(500)
        elif mode[0] == "cut":
            stream(h, [], reason=None)
        elif mode[0] == "half":
            stream(h, ["half an ans"], reason=None)
        elif mode[0] == "slow":
            time.sleep(3)
        else:
            stream(h, ["ok"])

    up = collector(answer)
    s = make_server("--upstream", up.url + "/v1", "--upstream-timeout", "1")
    for mode[0] in ("500", "cut", "slow"):
        c = receipt(s.http.post("/v1/chat/completions", json=body(HARD)))
        assert (c["path"], c["why"]) == ("full", "the other server failed"), c
    n = len(up.got)
    assert s.metric("sparing_upstream_circuit_open") == 1
    mode[0] = "ok"
    c = receipt(s.http.post("/v1/chat/completions", json=body(HARD)))  # not asked: the circuit is open
    assert c["path"] == "full" and len(up.got) == n
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and receipt(s.http.post("/v1/chat/completions", json=body(HARD)))["path"] != "upstream":
        time.sleep(0.2)
    assert s.metric("sparing_upstream_circuit_open") == 0
    mode[0] = "half"  # some of the answer has gone out: no second one behind it
    with s.http.stream("POST", "/v1/chat/completions", json=body(HARD, stream=True)) as st:
        lines = [x for x in st.iter_lines() if x.startswith("data: ")]
    assert "half an ans" in lines[1] and "mid-answer" in lines[-1] and "[DONE]" not in lines[-1]
    mode[0] = "500"
    r = s.http.post("/v1/chat/completions", json=body(HARD, sparing={"path": "upstream", "forbid": ["full"]}))
    assert r.status_code >= 500 and "upstream answered with 500" in r.json()["error"]["message"]
    assert s.stop() == 0


def test_unsure_light_answer_escalates_once(make_server, collector):
    up = collector(lambda h: stream(h, ["Known", " better."]))
    s = make_server("--upstream", up.url + "/v1", "--full-from", "1")
    texts = [f"What is the atomic number of element {w}?" for w in ("zorblatium", "quux", "nimbium", "flerb", "ostalium", "prandium")]
    got = [s.http.post("/v1/chat/completions", json=body(t)) for t in texts]
    ups = [r for r in got if receipt(r).get("escalated")]
    stays = [r for r in got if not receipt(r).get("escalated")]
    for r in ups:
        c = receipt(r)
        assert c["path"] == "upstream" and c["why"] == "the light answer was not sure" and c["decode"]["steps"] >= 1
        assert r.json()["choices"][0]["message"]["content"] == "Known better."
        assert c["prompt_tokens"]["computed"] + c["prompt_tokens"]["ram"] > 0  # what the light answer cost is told too
    assert len(up.got) == len(ups) == s.metric("sparing_escalations_total")
    for r, t in zip(got, texts):  # forced light: never
        one = s.http.post("/v1/chat/completions", json=body(t, sparing={"path": "light"}))
        assert receipt(one)["path"] == "light" and "escalated" not in receipt(one)
        if r in stays:
            assert one.json()["choices"][0]["message"]["content"] == r.json()["choices"][0]["message"]["content"]
    if ups:
        with s.http.stream("POST", "/v1/chat/completions", json=body(texts[got.index(ups[0])], stream=True)) as st:
            lines = list(st.iter_lines())
        assert ": escalated: the light answer was not sure" in lines
    assert s.stop() == 0


def test_an_uncertain_answer_is_given_up_once(make_server, collector, quick_model):
    """On request, wherever in a whole answer it becomes unsure; a model of random weights always is."""
    up = collector(lambda h: stream(h, ["Known", " better."]))
    s = make_server("--upstream", up.url + "/v1", "--path", "full", "--model", quick_model)
    plain = s.http.post("/v1/chat/completions", json=body("Say it.", max_tokens=40, ignore_eos=False))
    assert receipt(plain)["path"] == "full" and "uncertain" not in receipt(plain)["decode"] and not up.got
    for uncertain in (True, -0.5):
        r = s.http.post("/v1/chat/completions", json=body("Say it.", max_tokens=40, sparing={"uncertain": uncertain}))
        c = receipt(r)
        assert r.json()["choices"][0]["message"]["content"] == "Known better." and c["path"] == "upstream" and c["why"] == "the answer was not sure"
        assert c["decode"]["uncertain"] == {"given_up": 1, "tokens": 16} and c["escalated"]
    assert len(up.got) == 2
    same = s.http.post("/v1/chat/completions", json=body("Say it.", max_tokens=40, sparing={"uncertain": -100})).json()
    assert same["choices"] == plain.json()["choices"], "sure enough"
    kept = s.http.post("/v1/chat/completions", json=body("Say it.", max_tokens=40, sparing={"uncertain": True, "private": True})).json()
    assert kept["choices"] == plain.json()["choices"] and len(up.got) == 2, "it may not leave, and there is nothing better here"
    for bad in ({"sparing": {"uncertain": 1}}, {"sparing": {"uncertain": True}, "n": 2}, {"sparing": {"uncertain": True}, "stream": True}, {"sparing": {"uncertain": "yes"}}):
        e = s.http.post("/v1/chat/completions", json=body("Say it.", **bad))
        assert e.status_code == 400 and "sparing.uncertain" in e.json()["error"]["message"]
    assert s.stop() == 0


def test_passages_never_leave(make_server, collector, tmp_path):
    """A light answer that was begun with passages in its prompt, and is given up: the other server gets the question alone; when it fails, the
    passages are looked for again and stand in the prompt once."""
    mode = ["ok"]
    up = collector(lambda h: stream(h, ["Known."]) if mode[0] == "ok" else h.send_error(500))
    (tmp_path / "d").mkdir()
    words = ("zorblat", "quimsel", "nimbard", "flerbon", "ostalix", "prandiv", "mulgret", "vextol")
    for w in words:
        (tmp_path / "d" / f"{w}.txt").write_text(f"The {w} is a secretmarker of the northern harbour. Nobody has measured the {w} in years.")
    run("ingest", tmp_path / "d", "--knowledge", tmp_path / "k.db")
    s = make_server("--knowledge", str(tmp_path / "k.db"), "--retrieve", "default", "--upstream", up.url + "/v1", "--full-from", "1", "--need-from", "0", "--escalate-below", "0")
    asked, given_up = [f"Who measured the {w}, and what is its atomic number?" for w in words], []
    for t in asked:
        r = s.http.post("/v1/chat/completions", json=body(t))
        if receipt(r).get("escalated"):
            given_up.append(t)
            assert r.json()["retrieved"] == [] and receipt(r)["retrieved"]["chunks"] == 0
    assert given_up and [g[2]["messages"] for g in up.got] == [[{"role": "user", "content": t}] for t in given_up]
    assert "secretmarker" not in json.dumps([g[2] for g in up.got])
    mode[0] = "500"
    r = s.http.post("/v1/chat/completions", json=body(given_up[0]))
    assert (receipt(r)["path"], receipt(r)["why"]) == ("full", "the other server failed") and len(r.json()["retrieved"]) == receipt(r)["retrieved"]["chunks"] > 0
    assert "secretmarker" not in json.dumps([g[2] for g in up.got])
    assert s.stop() == 0


# --- receipts, requests, traces ------------------------------------------------------------------


def test_flops_by_hand(server):
    """SmolLM2-135M, of which the server has 2 layers: 576 wide, 9 heads of 64, 3 of keys and values, 1,536 in the feed-forward layer, 49,152 tokens."""
    ids = list(range(100, 150))
    _, c = server.prefix(ids, 5, ignore_eos=True)
    n = 50 + 4  # the fifth token is chosen, not computed
    per_tok = 2 * 2 * (576 * 576 * 2 + 2 * 576 * 192 + 3 * 576 * 1536)
    attention = 2 * 9 * 64 * 4 * n * (n + 1) / 2
    assert c["flops"]["dense"] == pytest.approx(n * per_tok + attention + 5 * 2 * 576 * 49152, rel=1e-5)


def test_requests_are_listed_to_their_tenant(make_server, tmp_path):
    s = make_server("--keys", write_keys(tmp_path / "keys", {"k-a": "alice", "k-b": "bob", "k-op": "ops operator"}))

    def call(key, method="POST", path="/v1/chat/completions", **kw):
        return s.http.request(method, path, headers={"Authorization": "Bearer " + key}, **kw)

    made = [call("k-a", json=body(EASY)), call("k-a", json=body(HARD))]
    call("k-b", json=body(EASY))
    mine = call("k-a", "GET", "/v1/requests").json()["data"]
    assert [e["id"] for e in mine] == [r.json()["id"] for r in reversed(made)] and all(e["status"] == 200 for e in mine)
    strip = lambda c: {k: v for k, v in c.items() if k != "ms"}  # noqa: E731
    assert strip(mine[0]["receipt"]) == strip(made[1].json()["usage"]["sparing"])
    assert len(call("k-b", "GET", "/v1/requests?limit=1").json()["data"]) == 1 and s.http.get("/v1/requests").status_code == 401
    assert call("k-a", "GET", "/v1/requests?limit=0").status_code == 400
    everybody = call("k-op", "GET", "/v1/requests").json()["data"]
    assert [e["tenant"] for e in everybody] == ["bob", "alice", "alice"] and "tenant" not in mine[0]
    assert "capital" not in call("k-a", "GET", "/v1/requests").text  # no texts
    assert s.stop() == 0


def test_traces_reach_a_collector(make_server, collector):
    def ok(h):
        h.send_response(200)
        h.send_header("Content-Length", "2")
        h.end_headers()
        h.wfile.write(b"{}")

    c = collector(ok)
    s = make_server("--otlp", c.url)
    parent = "00-" + "0af7651916cd43dd8448eb211c80319c" + "-" + "b7ad6b7169203331" + "-01"
    s.http.post("/v1/chat/completions", json=body(EASY), headers={"traceparent": parent})
    for bad in ("00-xyz", parent[:-3], "00-" + "0" * 32 + "-b7ad6b7169203331-01", parent.upper(), "ff" + parent[2:]):
        assert s.http.post("/v1/chat/completions", json=body("hi", max_tokens=1), headers={"traceparent": bad}).status_code == 200
    s.http.post("/v1/chat/completions", json=body(EASY), headers={"traceparent": parent[:-1] + "0"})  # not sampled: not sent
    assert s.stop() == 0
    spans = [x for _, _, j in c.got for r in j["resourceSpans"] for sc in r["scopeSpans"] for x in sc["spans"]]
    roots = [x for x in spans if x["kind"] == 2]
    assert all(p == "/v1/traces" for p, _, _ in c.got) and len(roots) == 6
    mine = [x for x in spans if x["traceId"] == "0af7651916cd43dd8448eb211c80319c"]
    root = next(x for x in mine if x["kind"] == 2)
    assert root["parentSpanId"] == "b7ad6b7169203331" and {x["name"] for x in mine if x["kind"] == 1} >= {"intent", "prefill", "decode"}
    assert all(x["parentSpanId"] == root["spanId"] and int(x["startTimeUnixNano"]) <= int(x["endTimeUnixNano"]) for x in mine if x is not root)
    attributes = values(root)
    assert root["name"] == "chat " + attributes["gen_ai.request.model"] and attributes["gen_ai.response.model"] == attributes["gen_ai.request.model"]
    assert attributes["gen_ai.response.id"].startswith("chatcmpl-") and attributes["gen_ai.response.finish_reasons"]["values"][0]["stringValue"] in ("stop", "length")
    assert int(attributes["gen_ai.request.max_tokens"]) == body(EASY)["max_tokens"] and float(attributes["gen_ai.request.temperature"]) == body(EASY).get("temperature", 1)
    assert float(attributes["gen_ai.request.top_p"]) == 1 and attributes["server.address"] == "127.0.0.1" and int(attributes["server.port"]) == s.port
    assert int(attributes["gen_ai.usage.cache_read.input_tokens"]) == 0 and "error.type" not in attributes
    assert attributes["sparing.path"] == "light" and int(attributes["gen_ai.usage.input_tokens"]) > 10
    assert all(x["parentSpanId"] == "" for x in roots if x is not root)


def values(span):
    return {a["key"]: list(a["value"].values())[0] for a in span["attributes"]}


def test_traces_of_embeddings_and_refusals(make_server, collector):
    def ok(h):
        h.send_response(200)
        h.send_header("Content-Length", "2")
        h.end_headers()
        h.wfile.write(b"{}")

    c = collector(ok)
    s = make_server("--otlp", c.url)
    assert s.http.post("/v1/embeddings", json={"input": ["a", "b"]}).status_code == 200
    assert s.http.post("/v1/embeddings", json={"input": ""}).status_code == 400
    assert s.chat(no_such=1).status_code == 400 and s.chat(model="x").status_code == 404 and s.chat("word " * 9000).status_code == 400
    assert s.http.post("/v1/completions", content=b"{").status_code == 400
    assert s.stop() == 0
    got = [x for _, _, j in c.got for r in j["resourceSpans"] for sc in r["scopeSpans"] for x in sc["spans"]]
    seen = [(x["name"].split()[0], x["status"]["code"], int(values(x)["http.response.status_code"]), values(x).get("error.type")) for x in got]
    assert sorted(seen, key=str) == sorted([("embeddings", 1, 200, None), ("embeddings", 2, 400, "400"), ("chat", 2, 400, "400"), ("chat", 2, 404, "model_not_found"),
                                           ("chat", 2, 400, "context_length_exceeded"), ("text_completion", 2, 400, "400")], key=str)
    first = values(next(x for x in got if x["status"]["code"] == 1))
    assert int(first["gen_ai.usage.input_tokens"]) == 6 and first["gen_ai.request.model"] == "all-MiniLM-L6-v2"
    assert all(x["status"]["message"] for x in got if x["status"]["code"] == 2)


# --- scheduler -----------------------------------------------------------------------------------


def test_short_request_passes_long_ones(make_server):
    """While long prompts are being read, a short request gets its answer before any of them, whoever came first."""
    s = make_server("--kv-bytes", "1G", "-t", "2")
    text = (ROOT / "test/data/licences.txt").read_text()
    order, lock = [], threading.Lock()

    def ask(name, t, n):
        r = s.http.post("/v1/chat/completions", json=body(t, max_tokens=n, sparing={"path": "full"}))
        with lock:
            order.append(name)
        assert r.status_code == 200

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        jobs = [pool.submit(ask, f"long{i}", text[i * 9000:i * 9000 + 12000], 8) for i in range(4)]
        wait_until(lambda: s.metric("sparing_requests_running") >= 4, pause=0.01)
        jobs.append(pool.submit(ask, "short", "Hi!", 4))
        [j.result() for j in jobs]
    assert order[0] == "short"
    assert s.stop() == 0


def test_deadline_and_retry_after(make_server):
    s = make_server("-m", str(MODEL), "--max-run", "1", "--max-queue", "2", "--draft", "0")
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        # The first answer runs until its client leaves, once all has been seen.
        with s.http.stream("POST", "/v1/chat/completions", json=body("Tell me a long story.", max_tokens=7000, ignore_eos=True, stream=True)) as first:
            lines = first.iter_lines()  # kept: who drops it leaves
            next(lines)
            late = s.http.post("/v1/chat/completions", json=body(HARD, sparing={"deadline_ms": 150, "priority": -3}))
            assert late.status_code == 504 and "deadline passed in the queue" in late.json()["error"]["message"]
            others = [pool.submit(s.http.post, "/v1/chat/completions", json=body(HARD + str(i))) for i in range(5)]
            wait_until(lambda: sum(f.done() for f in others) == 3, pause=0.01)  # two wait, the others were told to come again
            full = [f.result() for f in others if f.done()]
            assert all(r.status_code == 429 and 1 <= int(r.headers["Retry-After"]) <= 3600 for r in full)
        assert [f.result().status_code for f in others].count(200) == 2
    assert s.metric("sparing_deadlines_missed_total") == 1 and s.metric('sparing_requests_total{result="refused"}') == len(full)
    running = s.http.post("/v1/chat/completions", json=body("Tell me a long story.", max_tokens=4000, ignore_eos=True, sparing={"deadline_ms": 300}))
    assert running.status_code == 504 and "before the answer was whole" in running.json()["error"]["message"]
    assert s.stop() == 0


def test_order_changes_no_answer(make_server):
    """The same requests under both orders: the same words."""
    texts = [f"{i}. {q}" for i, q in enumerate([EASY, HARD, "Hello!", "List three colours.", "Write a poem about rain."] * 3)]
    got = []
    for args in (("--schedule", "fcfs", "--chunk", "2048"), ("--step-ms", "5")):
        s = make_server(*args)
        with concurrent.futures.ThreadPoolExecutor(15) as pool:
            got.append([r.json()["choices"][0]["message"]["content"] for r in pool.map(lambda t: s.http.post("/v1/chat/completions", json=body(t)), texts)])
        assert s.stop() == 0
    assert got[0] == got[1]


def test_guesses_change_no_answer(make_server):
    """With and without tokens guessed ahead: the same words, log-probabilities and ends, in fewer steps; counted in the receipt and the metrics."""
    s, text = make_server(), (ROOT / "test/data/licences.txt").read_text()[:3000]
    asks = [{"messages": [{"role": "user", "content": f"{text}\n\nWhat may I do? {i}"}], "max_tokens": 100, "temperature": t, "seed": 5, **more}
            for i, (t, more) in enumerate([(0, {}), (0.9, {}), (0, {"logprobs": True, "top_logprobs": 2}), (0, {"stop": [" the"]}), (0, {"repetition_penalty": 1.3}),
                                           (1, {"n": 3}), (0, {"sparing": {"regex": "[a-z ]{20,60}"}}), (0, {"sparing": {"epsilon": 0.02}})])]
    ask = lambda a, draft: s.http.post("/v1/chat/completions", json={**a, "sparing": {**a.get("sparing", {}), "draft": draft, "draft_fixed": True}}).json()  # noqa: E731
    plain = [ask(a, 0) for a in asks]
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        drafted = list(pool.map(lambda a: ask(a, 15), asks))
    for i, (p, d) in enumerate(zip(plain, drafted)):
        # Within epsilon an answer may change: a token of a prompt that stands alone in a step is certified, and which ones do depends on the company.
        assert p["choices"] == d["choices"] or asks[i].get("sparing", {}).get("epsilon"), i
        c, was = d["usage"]["sparing"], p["usage"]["sparing"]
        assert c["decode"]["steps"] + c["decode"]["accepted"] == was["decode"]["steps"] and was["decode"]["drafted"] == 0 <= c["decode"]["accepted"] <= c["decode"]["drafted"]
        assert c["flops"]["dense"] == was["flops"]["dense"]
    assert sum(d["usage"]["sparing"]["decode"]["accepted"] for d in drafted) > 0
    decode = [d["usage"]["sparing"]["decode"] for d in drafted]
    assert s.metric('sparing_draft_tokens_total{result="accepted"}') == sum(d["accepted"] for d in decode)
    assert s.metric('sparing_draft_tokens_total{result="rejected"}') == sum(d["drafted"] - d["accepted"] for d in decode)
    assert s.http.post("/v1/plan", json={**asks[0], "sparing": {"draft": 3}}).json()["draft"] == 3
    assert s.http.post("/v1/chat/completions", json={**asks[0], "sparing": {"draft": 16}}).status_code == 400
    assert s.stop() == 0


def test_options_are_checked():
    for args, word in ((("--schedule", "best"), "work, fcfs"), (("--path", "x"), "auto, light"), (("--price", "1"), "two numbers"), (("--price", "1,x"), "two numbers"),
                       (("--path", "upstream"), "needs --upstream"), (("--upstream", "ftp://x"), "http"), (("--otlp", "x"), "http"), (("--full-from", "2"), "full-from")):
        p = run("serve", "--port", "0", *args, check=False)
        assert p.returncode != 0 and word in p.stderr, (args, p.stderr)


# --- what watches it -----------------------------------------------------------------------------


def test_history_of_metrics(make_server):
    s = make_server()
    assert s.http.get("/v1/metrics/history?since=x").status_code == 400 and s.http.get("/v1/metrics/history?points=0").status_code == 400
    s.http.post("/v1/chat/completions", json=body(EASY))
    of = f'model="{MODEL.stem}"'
    finished = lambda: s.http.get("/v1/metrics/history").json()["counter"].get(f'sparing_requests_total{{{of},result="finished"}}')
    wait_until(lambda: sum(finished() or []) == 1)
    j = s.http.get("/v1/metrics/history").json()
    row = finished().index(1)  # the first, unless the answer took longer than a row
    assert len(j["t"]) > row and 0 < j["p50"][f"sparing_time_to_first_token_seconds{{{of}}}"][row]
    assert s.http.get(f"/v1/metrics/history?since={j['t'][-1]}").json()["t"] == []
    assert s.stop() == 0


def test_no_more_tokens_are_useful_than_were_computed(make_server):
    s = make_server()

    def share(**kw):
        before = [s.metric(f"sparing_{k}_tokens_total") for k in ("useful", "computed")]
        r = s.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "Tell a story."}], "sparing": {"draft": 0}, **kw})
        assert r.status_code == 200
        useful, computed = (s.metric(f"sparing_{k}_tokens_total") - b for k, b in zip(("useful", "computed"), before))
        return useful, computed, r.json()["choices"][0]["finish_reason"]

    useful, computed, why = share(max_tokens=9, ignore_eos=True)
    assert useful == computed > 9 and why == "length"
    useful, computed, why = share(structured_outputs={"choice": ["yes"]})
    assert 0 < useful <= computed and why == "stop"
    useful, computed, why = share(max_tokens=99, ignore_eos=True, stop=["e"])
    assert 0 < useful <= computed


def test_deploy_names_metrics_that_exist(make_server, tmp_path):
    s = make_server("--knowledge", str(tmp_path / "k.db"), "--cache-dir", str(tmp_path / "c"), "--feedback", str(tmp_path / "f.db"), "--shadow", "1", "--upstream", "http://127.0.0.1:9/v1")
    known = set(re.findall(r"^# TYPE (\w+)", s.http.get("/metrics").text, re.M))
    known |= {k + x for k in known for x in ("_bucket", "_sum", "_count")}
    rules = (ROOT / "deploy/sparing.rules.yml").read_text()
    board = (ROOT / "deploy/grafana/sparing.json").read_text()
    for text in (rules, board):
        used = set(re.findall(r"\bsparing_\w+", text))
        assert len(used) > 8 and used <= known, used - known
    assert len(json.loads(board)["panels"]) == 12
    page = "".join(f.read_text() for f in (ROOT / "web/app").glob("dash*.js"))
    shown = set(re.findall(r"sparing_\w+", page))
    assert len(shown) > 20 and shown - known <= {"sparing_busy_windows"}, shown - known
    assert s.stop() == 0


def test_promtool_accepts_the_rules():
    import subprocess
    for args in (["check", "config", str(ROOT / "deploy/prometheus.yml")], ["check", "rules", str(ROOT / "deploy/sparing.rules.yml")]):
        p = subprocess.run(["promtool", *args], capture_output=True, text=True)
        assert p.returncode == 0, p.stdout + p.stderr


def test_shadow_sample_agrees_with_itself(make_server):
    """Without passages the full path gives the same greedy answer: full agreement, and the sample is counted."""
    s = make_server("--shadow", "1")
    for t in ("Hello!", EASY):
        s.http.post("/v1/chat/completions", json=body(t))
    assert s.wait_metric("sparing_shadow_samples_total", 2)
    assert s.metric("sparing_shadow_agreement_total") == 2
    assert s.stop() == 0
