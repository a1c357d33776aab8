"""What is done in the middle of an answer that becomes unsure: passages are looked for, sentences are voted on. What has left stays."""
import json
import threading

import pytest

from conftest import Server, run, tool

DOC = "# Zirkonia\n\nThe lighthouse of Zirkonia was built in 1741 by Mira Tolvanen.\n\nIts lamp burns oil.\n"
A, B, C = "The harbour is known for its tower.", " The lighthouse of Zirkonia was built in 1900 by sailors.", " The lighthouse of Zirkonia was built in 1741 by Mira Tolvanen."
D = " Many people visit it."
WHEN = {"below": -0.01, "window": 4}


@pytest.fixture(scope="module")
def server(quick_model, tmp_path_factory):
    d = tmp_path_factory.mktemp("deep")
    (d / "z.md").write_text(DOC)
    (d / "plain.txt").write_text("Rivers of Vienna: the Danube.\n")
    run("ingest", str(d), "--knowledge", str(d / "k.db"), "--json")
    s = Server("--path", "full", "--model", quick_model, "--knowledge", str(d / "k.db"), binary=tool("script"))
    s.store = s.http.get("/v1/vector_stores").json()["data"][0]["id"]
    yield s
    assert s.stop() == 0


def body(texts, uncertain, **more):
    said = "[[or]]".join(texts)
    return {"messages": [{"role": "user", "content": f"When was the lighthouse of Zirkonia built? [[say]]{said}[[/say]]"}], "temperature": 0, "max_tokens": 200, "seed": 5,
            "sparing": {"uncertain": uncertain, "draft": 0} if uncertain else {}, **more}


def ask(s, texts, uncertain, **more):
    """Text, reason, what the receipt says of doubts, and the whole choice; a stream gives the same text."""
    r = s.http.post("/v1/chat/completions", json=body(texts, uncertain, **more))
    assert r.status_code == 200, r.text
    j = r.json()
    c = j["choices"][0]
    with s.http.stream("POST", "/v1/chat/completions", json=body(texts, uncertain, stream=True, **more)) as st:
        lines = [json.loads(x[6:]) for x in st.iter_lines() if x.startswith("data: {")]
    assert not any("error" in x for x in lines), lines[-1]
    assert "".join(x["choices"][0]["delta"].get("content") or "" for x in lines if x["choices"]) == c["message"]["content"]
    did = j["usage"]["sparing"]["decode"].get("uncertain")
    return c["message"]["content"], c["finish_reason"], did, j


def test_a_sure_answer_is_left_alone(server):
    text, reason, did, j = ask(server, [A + C + D], {"votes": 3, **WHEN})
    assert (text, reason, did) == (A + C + D, "stop", None)
    plain = server.http.post("/v1/chat/completions", json=body([A + C + D], None)).json()
    assert plain["choices"][0]["message"]["content"] == text and plain["usage"]["completion_tokens"] == j["usage"]["completion_tokens"]


def test_passages_are_looked_for_in_mid_answer(server):
    texts = [A + B + D, A + C + D]
    assert ask(server, texts, None)[0] == A + B + D
    text, reason, did, j = ask(server, texts, {"retrieve": [server.store], **WHEN})
    assert text == A + C + D and reason == "stop"
    assert did["retrieved"] == 1 and did["voted"] == did["nothing"] == did["given_up"] == 0 and did["tokens"] > 0 and did["prompt_tokens"] > 0
    cause = did["causes"][0]
    assert cause["did"] == "retrieved" and cause["logprob"] < -0.01 and cause["entropy"] > 0.01 and cause["at"] > 8
    assert j["usage"]["sparing"]["retrieved"]["chunks"] >= 1
    cited = j["choices"][0]["message"]["annotations"]
    assert any("1741" in x["file_citation"]["quote"] for x in cited), "the passage is cited"


def test_passages_join_those_that_are_there(server):
    """file_search found others before; the doubt looks for more, once."""
    tools = [{"type": "file_search", "vector_store_ids": [server.store], "max_num_results": 1}]
    text, _, did, j = ask(server, [A + B + D, A + C + D], {"retrieve": True, **WHEN}, tools=tools, tool_choice="required")
    assert text in (A + C + D, A + B + D) and j["usage"]["sparing"]["retrieved"]["chunks"] >= 1


def test_where_nothing_is_found_the_answer_goes_on(server, quick_model):
    texts = ["Yes. Quux plim bloor zat." + D, "Yes. Wom plim bloor zat." + D]
    q = body(texts, {"retrieve": [server.store], "below": -0.01, "window": 1})
    q["messages"][0]["content"] = q["messages"][0]["content"].replace("When was the lighthouse of Zirkonia built?", "Hm?")
    j = server.http.post("/v1/chat/completions", json=q).json()
    assert j["choices"][0]["message"]["content"] in texts and j["choices"][0]["finish_reason"] == "stop"
    did = j["usage"]["sparing"]["decode"]["uncertain"]
    assert did["nothing"] + did["retrieved"] == 1


def test_sentences_are_voted_on(server):
    texts = [A + B + D, A + C + D]
    got = {}
    for seed in range(8):
        text, reason, did, j = ask(server, texts, {"votes": 3, **WHEN}, seed=seed)
        assert text in texts and reason == "stop" and did["voted"] == 1 and did["retrieved"] == 0
        assert did["tokens"] > 20, "two sentences of three were drawn for nothing"
        got.setdefault(text, []).append(did["tokens"])
    assert set(got) == set(texts), "the commonest of three counts, not the likeliest"
    assert server.metric('sparing_uncertain_total{did="voted"}') >= 16 and server.metric("sparing_uncertain_tokens_total") > 320


def test_votes_end_where_the_answer_does(server):
    text, reason, did, _ = ask(server, [A + B, A + C], {"votes": 3, **WHEN})
    assert text in (A + B, A + C) and reason == "stop" and did["voted"] == 1
    text, reason, did, j = ask(server, [A + B + D, A + C + D], {"votes": 3, **WHEN}, max_tokens=22)
    assert reason == "length" and text.startswith(A) and len(text) < len(A + B + D)


def test_stop_strings_hold(server):
    text, reason, did, _ = ask(server, [A + B + D, A + C + D], {"votes": 3, **WHEN}, stop=["Many"])
    assert text in (A + B + " ", A + C + " ") and reason == "stop" and did["voted"] == 1


def test_the_budget_holds(server):
    _, _, did, _ = ask(server, [A + B + D, A + C + D], {"votes": 8, "tokens": 63, **WHEN})
    assert did is None, "less than 8 tokens for each vote: nobody looks"
    _, _, did, _ = ask(server, [A + B + D, A + C + D], {"votes": 8, "tokens": 64, **WHEN})
    assert did["voted"] == 1 and did["tokens"] <= 64 + 32


def test_a_client_that_leaves_in_the_middle(server):
    """At any time: while it searches, while votes are drawn."""
    def leave(n):
        with server.http.stream("POST", "/v1/chat/completions", json=body([A + B + D, A + C + D], {"retrieve": [server.store], "votes": 8, **WHEN}, stream=True)) as st:
            for i, _ in enumerate(st.iter_lines()):
                if i >= n:
                    return

    threads = [threading.Thread(target=leave, args=(i % 8,)) for i in range(24)]
    [t.start() for t in threads]
    [t.join() for t in threads]
    assert ask(server, [A], {"votes": 3, **WHEN})[0] == A


@pytest.mark.parametrize("uncertain,more,says", [
    ({}, {}, "must name what is done"), ({"votes": 1}, {}, "votes"), ({"votes": 9}, {}, "votes"), ({"retrieve": "x"}, {}, "retrieve must be"), ({"retrieve": []}, {}, "retrieve must be"),
    ({"retrieve": [7]}, {}, "retrieve[0]"), ({"retrieve": True}, {}, "neither"), ({"votes": 3, "window": 0}, {}, "window"), ({"votes": 3, "odd": 1}, {}, "odd"),
    ({"votes": 3}, {"n": 2}, "several answers"), ({"votes": 3}, {"logprobs": True}, "log-probabilities"), ({"votes": 3}, {"response_format": {"type": "json_object"}}, "form"),
    ({"votes": 3}, {"tools": [{"type": "function", "function": {"name": "f"}}]}, "functions")])
def test_what_is_refused(server, uncertain, more, says):
    r = server.http.post("/v1/chat/completions", json={**body([A], None), "sparing": {"uncertain": uncertain}, **more})
    assert r.status_code == 400 and "sparing.uncertain" in r.json()["error"]["message"] and says in r.json()["error"]["message"], r.text
