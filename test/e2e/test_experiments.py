"""Experiments and feedback: who gets which variant, what a variant sets, what is noted, given, reported and deleted."""
import json
import random
import sqlite3
import subprocess

import pytest

from conftest import BIN, GOLDEN, Server, quick_file, wait_until, write_keys
from test_placement import place, rule, write
from test_serving import Collector, stream

FILE = """
experiments:
  - name: brief
    metric: thumbs
    variants:
      - name: plain
      - name: brief
        set: {system: "Answer in one word.", draft: 0}
  - name: near
    group: attention
    share: 0.4
    variants:
      - {name: exact}
      - name: certified
        set: {epsilon: 0.05}
  - name: far
    group: attention
    share: 0.4
    variants:
      - {name: exact}
      - name: certified
        set: {epsilon: 0.1}
"""
OPERATOR, ANN, BOB = ({"Authorization": f"Bearer {k}"} for k in ("root", "ann", "bob"))


@pytest.fixture(scope="module")
def lab(tmp_path_factory):
    d = tmp_path_factory.mktemp("lab")
    (d / "e.yaml").write_text(FILE)
    keys = write_keys(d / "keys", {"root": "root operator", "ann": "ann", "bob": "bob"})
    s = Server("--experiments", d / "e.yaml", "--feedback", d / "f.db", "--history", d / "h.db", "--keys", keys, "--path", "full")
    s.folder = d
    yield s
    assert s.stop() == 0


def ask(s, text, who=ANN, **kw):
    r = s.http.post("/v1/chat/completions", headers=who, json={"messages": [{"role": "user", "content": text}], "max_tokens": 2, "temperature": 0, **kw})
    assert r.status_code == 200, r.text
    return r.json()


def variants(answer):
    return {e["name"]: e["variant"] for e in answer["usage"]["sparing"].get("experiment", [])}


def noted(s, answer):
    """Notes are made behind the answer; an operation in the same queue waits for them."""
    s.http.get("/v1/feedback", headers=ANN)
    db = sqlite3.connect(f"file:{s.folder / 'f.db'}?mode=ro", uri=True)
    row = db.execute("SELECT tenant, path, failed, n_out, receipt FROM answer WHERE id=?", (answer["id"],)).fetchone()
    db.close()
    return row


def test_a_conversation_keeps_its_variants(lab):
    got = [variants(ask(lab, f"question {i}")) for i in range(40)]
    assert {g["brief"] for g in got} == {"plain", "brief"}
    assert not any("near" in g and "far" in g for g in got), "one group, one experiment"
    assert any("near" in g for g in got) and any("far" in g for g in got) and any("near" not in g and "far" not in g for g in got)
    first = [{"role": "user", "content": "question 3"}]
    for more in ([], [{"role": "assistant", "content": "yes"}, {"role": "user", "content": "and then?"}]):
        r = lab.http.post("/v1/chat/completions", headers=ANN, json={"messages": first + more, "max_tokens": 2}).json()
        assert variants(r) == got[3]
    assert [variants(ask(lab, f"question {i}", BOB)) for i in range(40)] != got, "another tenant is another draw"


def test_a_variant_sets_what_the_request_leaves_open(lab):
    with_text = next(i for i in range(100) if variants(ask(lab, f"set {i}"))["brief"] == "brief")
    without = next(i for i in range(100) if variants(ask(lab, f"set {i}"))["brief"] == "plain" and len(str(i)) == len(str(with_text)))
    a, b = ask(lab, f"set {with_text}"), ask(lab, f"set {without}")
    assert a["usage"]["prompt_tokens"] != b["usage"]["prompt_tokens"]
    own = [{"role": "system", "content": "Say something."}]
    both = [lab.http.post("/v1/chat/completions", headers=ANN, json={"messages": own + [{"role": "user", "content": f"set {i}"}], "max_tokens": 2}).json()
            for i in (with_text, without)]
    assert [variants(r)["brief"] for r in both] == ["brief", "plain"]
    assert both[0]["usage"]["prompt_tokens"] == both[1]["usage"]["prompt_tokens"], "a system message of the request's own stands"
    eps = next(i for i in range(200) if variants(ask(lab, f"eps {i}")).get("far") == "certified")
    said = ask(lab, f"eps {eps}")["usage"]["sparing"]["attention"]["epsilon"], ask(lab, f"eps {eps}", sparing={"epsilon": 0.01})["usage"]["sparing"]["attention"]["epsilon"]
    assert said == (pytest.approx(0.1), pytest.approx(0.01))


def test_answers_are_noted_without_their_words(lab):
    r = ask(lab, "what is a walrus")
    tenant, path, failed, n_out, receipt = noted(lab, r)
    assert (tenant, path, failed) == ("ann", "full", 0) and n_out == r["usage"]["completion_tokens"]
    assert json.loads(receipt)["experiment"] == r["usage"]["sparing"]["experiment"]
    private = ask(lab, "what is a walrus", sparing={"private": True})
    assert noted(lab, private) is None
    assert b"walrus" not in (lab.folder / "f.db").read_bytes()


@pytest.mark.parametrize("path, name, value, about, reply", [
    ("/feedback", "metric_name", "value", "inference_id", "feedback_id"), ("/v1/feedback", "metric_name", "value", "inference_id", "feedback_id"),
    ("/api/public/scores", "name", "value", "traceId", "id"), ("/api/v1/feedback", "key", "score", "run_id", "id")])
def test_feedback_in_three_languages(lab, path, name, value, about, reply):
    r = ask(lab, "feed me")
    for v in (True, 0.25):
        got = lab.http.post(path, headers=ANN, json={name: f"m{path.replace('/', '.')}", value: v, about: r["id"]})
        assert got.status_code == 200 and got.json()[reply].startswith("fb_"), got.text
    rows = [x for x in lab.http.get("/v1/feedback?limit=1000", headers=ANN).json()["data"] if x["metric_name"] == f"m{path.replace('/', '.')}"]
    assert [x["value"] for x in rows] == [True, 0.25] and all(x["inference_id"] == r["id"] for x in rows)
    assert lab.http.post(path, headers=BOB, json={name: "m", value: True, about: r["id"]}).status_code == 404, "another tenant's answer"


def test_a_correction_is_a_demonstration(lab):
    r = ask(lab, "correct me")
    for c in ("It is blue.", {"answer": "It is red."}):
        said = lab.http.post("/api/v1/feedback", headers=ANN, json={"key": "correctness", "correction": c, "run_id": r["id"]})
        assert said.status_code == 200, said.text
    rows = [x for x in lab.http.get("/v1/feedback?limit=1000", headers=ANN).json()["data"] if x["inference_id"] == r["id"]]
    assert [(x["metric_name"], x["value"]) for x in rows] == [("demonstration", "It is blue."), ("demonstration", "It is red.")]
    for bad, word in (({"correction": 3}, "a text, or an object"), ({"correction": {"a": "x", "b": "y"}}, "a text, or an object"), ({"correction": "x", "score": 1}, "each by itself")):
        said = lab.http.post("/api/v1/feedback", headers=ANN, json={"key": "k", "run_id": r["id"], **bad})
        assert said.status_code == 400 and word in said.text, said.text


def test_texts_tags_dry_runs_and_pages(lab):
    r = ask(lab, "texts")
    for body in ({"metric_name": "comment", "value": "too long"}, {"metric_name": "demonstration", "value": "better"},
                 {"metric_name": "thumbs", "value": False, "tags": {"who": "QA"}}):
        assert lab.http.post("/feedback", headers=ANN, json={**body, "inference_id": r["id"]}).status_code == 200
    before = lab.http.get("/v1/feedback?limit=1000", headers=ANN).json()["data"]
    assert lab.http.post("/feedback", headers=ANN, json={"metric_name": "thumbs", "value": True, "inference_id": r["id"], "dryrun": True}).status_code == 200
    assert lab.http.get("/v1/feedback?limit=1000", headers=ANN).json()["data"] == before
    assert [(x["metric_name"], x["value"], x["tags"]) for x in before[-3:]] == [("comment", "too long", {}), ("demonstration", "better", {}), ("thumbs", False, {"who": "QA"})]
    pages, after = [], 0
    while True:
        p = lab.http.get(f"/v1/feedback?limit=2&after={after}", headers=ANN).json()
        pages += p["data"]
        after = p["last"]
        if not p["has_more"]:
            break
    assert pages == before


@pytest.mark.parametrize("body, word", [
    ({"metric_name": "thumbs", "value": "yes", "inference_id": "ID"}, "true, false or a number"), ({"value": 1, "inference_id": "ID"}, "metric's name"),
    ({"metric_name": "a b", "value": 1, "inference_id": "ID"}, "metric's name"), ({"metric_name": "cost", "value": 1, "inference_id": "ID"}, "measures itself"),
    ({"metric_name": "thumbs", "value": 1}, "answer or a conversation"), ({"metric_name": "thumbs", "value": 1, "inference_id": "ID", "episode_id": "c"}, "answer or a conversation"),
    ({"metric_name": "thumbs", "value": 1e300, "inference_id": "ID"}, "too large"), ({"metric_name": "comment", "value": "", "inference_id": "ID"}, "text of at most"),
    ({"metric_name": "thumbs", "value": 1, "inference_id": "ID", "tags": ["a"]}, "tags must be"), ({"metric_name": "thumbs", "value": 1, "inference_id": "ID", "who": 1}, "who")])
def test_feedback_that_says_nothing_clear(lab, body, word):
    answer = ask(lab, "unclear")["id"]
    body = {k: answer if v == "ID" else v for k, v in body.items()}
    r = lab.http.post("/feedback", headers=ANN, json=body)
    assert r.status_code == 400 and word in r.json()["error"]["message"], r.text


def test_the_report_is_the_operators(lab):
    for i in range(30):
        r = ask(lab, f"report {i}")
        lab.http.post("/feedback", headers=ANN, json={"metric_name": "liked", "value": variants(r)["brief"] == "brief", "inference_id": r["id"]})
    assert lab.http.get("/v1/experiments", headers=ANN).status_code == 403
    got = {e["name"]: e for e in lab.http.get("/v1/experiments", headers=OPERATOR).json()["experiments"]}
    plain, brief = got["brief"]["variants"]
    assert not got["brief"]["assignment_broken"] and got["brief"]["metric"] == "thumbs"
    assert plain["metrics"]["liked"]["mean"] < brief["metrics"]["liked"]["mean"]
    assert brief["metrics"]["liked"]["against_control"]["decided"] and brief["metrics"]["liked"]["against_control"]["low"] > 0
    assert not brief["metrics"]["failed"]["against_control"]["decided"]
    assert brief["metrics"]["liked"]["against_control"]["holds_among_all"] and brief["metrics"]["liked"]["against_control"]["log_evidence"] > 3
    assert [k for k, v in brief["metrics"].items() if v["against_control"]["holds_among_all"]] == ["liked"]
    assert brief["metrics"]["ms"]["low"] is None, "times have no bound, and these are too few for one by variance"
    p = subprocess.run([BIN, "experiment", "status", "--experiments", lab.folder / "e.yaml", "--feedback", lab.folder / "f.db", "--json"], capture_output=True, text=True)
    assert p.returncode == 0 and {e["name"] for e in json.loads(p.stdout)["experiments"]} == {"brief", "near", "far"}
    text = subprocess.run([BIN, "experiment", "status", "--experiments", lab.folder / "e.yaml", "--feedback", lab.folder / "f.db"], capture_output=True, text=True).stdout
    assert "brief, decided by thumbs" in text and "decided" in text


def test_what_the_question_explains_is_taken_out(tmp_path):
    """Times that hang on the difficulty of the question tell two variants apart once that is taken out of them."""
    (tmp_path / "e.yaml").write_text("experiments:\n  - {name: quick, variants: [{name: x}, {name: y, set: {draft: 0}}]}\n")
    s = Server("--experiments", tmp_path / "e.yaml", "--feedback", tmp_path / "f.db")
    assert s.stop() == 0
    db, rng = sqlite3.connect(tmp_path / "f.db"), random.Random(3)
    for i in range(600):
        hard, v = rng.random(), "xy"[i % 2]
        for k in range(2):  # what is known before is of a conversation's first answer
            receipt = json.dumps({"difficulty": hard if k == 0 else 0.5}, separators=(",", ":"))
            db.execute("INSERT INTO answer VALUES(?,'t',NULL,?,?,'m','light',0,?,?,'0',1,1,?)",
                       (f"a{i}-{k}", f"u{i}", 1000 + i + k, str(1000 * hard + 100 * rng.random() - (v == "y") * 60), "1", receipt))
            db.execute("INSERT INTO exposure VALUES(?,'quick',?)", (f"a{i}-{k}", v))
    db.commit()

    def against():
        p = subprocess.run([BIN, "experiment", "status", "--experiments", tmp_path / "e.yaml", "--feedback", tmp_path / "f.db", "--json"], capture_output=True, text=True)
        assert p.returncode == 0, p.stderr
        return json.loads(p.stdout)["experiments"][0]["variants"][1]["metrics"]["ms"]["against_control"]

    got = against()
    assert not got["decided"] and got["adjusted"]["decided"] and got["adjusted"]["high"] < 0 and -80 < got["adjusted"]["difference"] < -40
    assert got["adjusted"]["high"] - got["adjusted"]["low"] < 0.3 * (got["high"] - got["low"])
    db.execute("UPDATE answer SET receipt='{}' WHERE id='a7-0'")
    db.commit()
    assert "adjusted" not in against(), "one question was not judged"
    db.close()


def test_requests_are_counted_by_class_and_listed_without_what_has_gone(lab):
    def by_class(name):
        return sum(v for k, v in lab.metrics(headers=OPERATOR).items() if k.startswith(f"sparing_class_{name}_total{{"))

    before = by_class("requests")
    r = ask(lab, "Extract the date: the invoice of 3 May is due.")
    assert variants(r) and by_class("requests") == before + 1
    assert f'class="{r["usage"]["sparing"]["class"]}"' in lab.http.get("/metrics", headers=OPERATOR).text
    listed = lab.http.get("/v1/requests?limit=512", headers=OPERATOR).json()["data"]
    assert listed[0]["receipt"]["class"] == r["usage"]["sparing"]["class"]
    assert not any("experiment" in x["receipt"] for x in listed), "these texts go with their requests"


def test_feedback_goes_with_its_conversation_and_its_tenant(lab):
    conv = lab.http.post("/v1/conversations", headers=BOB, json={}).json()["id"]
    r = ask(lab, "kept", BOB, conversation=conv)
    other = ask(lab, "not of it", BOB)
    for body in ({"inference_id": r["id"]}, {"episode_id": conv}, {"inference_id": other["id"]}):
        assert lab.http.post("/feedback", headers=BOB, json={"metric_name": "thumbs", "value": True, **body}).status_code == 200
    assert lab.http.delete(f"/v1/conversations/{conv}", headers=BOB).status_code == 200
    left = lab.http.get("/v1/feedback", headers=BOB).json()["data"]
    assert [x["inference_id"] for x in left] == [other["id"]]
    assert noted(lab, r) is None and noted(lab, other)
    assert lab.http.delete("/v1/tenant", headers=BOB).json()["feedback"] > 0
    assert lab.http.get("/v1/feedback", headers=BOB).json()["data"] == [] and noted(lab, other) is None


def test_a_server_without_feedback_says_so(server):
    r = server.http.post("/feedback", json={"metric_name": "m", "value": 1, "inference_id": "x"})
    assert r.status_code == 400 and "--feedback" in r.json()["error"]["message"]


@pytest.mark.parametrize("text, word", [
    ("experiments:\n  - name: a\n    variants: [{name: x}]\n", "line: 3"), ("experiments:\n  - name: a\n    variants: [{name: x}, {name: x}]\n", "two variants x"),
    ("experiments:\n  - name: a\n    variants: [{name: x}, {name: y, set: {epsilon: 0.9}}]\n", "epsilon"),
    ("experiments:\n  - name: a\n    variants: [{name: x}, {name: y, set: {speed: 2}}]\n", "speed"),
    ("experiments:\n  - name: a b\n    variants: [{name: x}, {name: y}]\n", "a b"), ("experiments:\n  - name: a\n    share: 2\n    variants: [{name: x}, {name: y}]\n", "share"),
    ("experiments:\n  - name: a\n    variants: [{name: x}, {name: y, set: {control: all}}]\n", "neither off nor safe"),
    ("experiments:\n  - name: a\n    variants: [{name: x}, {name: y, set: {light_tokens: 0}}]\n", "light_tokens"),
    ("experiments:\n  - name: a\n    variants: [{name: x}, {name: y, set: {epsilon_of: {chat: 0.7}}}]\n", "epsilon_of"),
    ("experiments:\n  - name: a\n    variants: [{name: x}, {name: y, set: {epsilon_of: {poems: 0.1}}}]\n", "poems"),
    ("experiments:\n  - name: a\n    metric: regenerated\n    variants: [{name: x}, {name: y}]\n", "counted apart"),
    ("experiments: {}\n", "e.yaml"), ("- [", "e.yaml"),
    ("experiments:\n" + "".join(f"  - name: {n}\n    variants: [{{name: x}}, {{name: y, set: {{draft: 0}}}}]\n" for n in "ab"), "one group"),
    ("experiments:\n" + "".join(f"  - name: {n}\n    group: g\n    share: 0.6\n    variants: [{{name: x}}, {{name: y}}]\n" for n in "ab"), "more than all")])
def test_files_that_mean_nothing(tmp_path, text, word):
    (tmp_path / "e.yaml").write_text(text)
    p = subprocess.run([BIN, "experiment", "list", "--experiments", tmp_path / "e.yaml"], capture_output=True, text=True)
    assert p.returncode == 3 and word in p.stderr and "e.yaml" in p.stderr, p.stderr


def test_variants_side_by_side(tmp_path):
    (tmp_path / "e.yaml").write_text(FILE)
    (tmp_path / "p.jsonl").write_text("".join(json.dumps({"prompt": f"{i}", "check": {"contains": [""]}}) + "\n" for i in range(3)))
    run = [BIN, "experiment", "run", tmp_path / "p.jsonl", "--experiments", tmp_path / "e.yaml", "-m", quick_file(), "-n", "2"]
    p = subprocess.run([*run, "--name", "brief", "--json"], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    plain, brief = json.loads(p.stdout)["variants"]
    assert (plain["prompts"], plain["right"], brief["right"], brief["won"], brief["lost"], brief["verdict"]) == (3, 3, 3, 0, 0, "not decided")
    assert brief["flops"] != plain["flops"], "its system message is not the template's"
    assert subprocess.run([*run], capture_output=True).returncode == 2, "which of three?"
    for line, word in (({"prompt": "x"}, "line 1: its check"), ({"prompt": "x", "check": {"about": 1}}, "line 1: its check"), ({"check": {"equals": "x"}}, "line 1: it has neither")):
        (tmp_path / "p.jsonl").write_text(json.dumps(line))
        p = subprocess.run([*run, "--name", "brief"], capture_output=True, text=True)
        assert p.returncode != 0 and word in p.stderr, p.stderr


# --- the model, the place and the template as variants ---------------------------------------------

def test_a_variant_names_the_model_and_the_template(tmp_path):
    """Of two models, the default one's requests are shared out; who asks for one by its name gets it."""
    tiny = GOLDEN / "fam-llama-head64.gguf"
    (tmp_path / "t.jinja").write_text("{% for m in messages %}{{ m.content }} {% endfor %}{{ style }}")
    (tmp_path / "e.yaml").write_text("experiments:\n  - {name: who, variants: [{name: small}, {name: other, set: {model: fam-gemma3}}]}\n"
                                     "  - {name: how, variants: [{name: plain}, {name: styled, set: {template: '{\"style\": \"in very few words\"}'}}]}\n")
    s = Server("-m", f"{tiny},{GOLDEN / 'fam-gemma3.gguf'}", "--chat-template", tmp_path / "t.jinja", "--experiments", tmp_path / "e.yaml", "--feedback", tmp_path / "f.db",
               "--kv-bytes", "8M")
    seen = {}
    for i in range(24):
        j = ask(s, f"question {10 + i}", {})
        got = variants(j)
        assert j["model"] == ("fam-gemma3" if got["who"] == "other" else "fam-llama-head64"), j
        assert ask(s, f"question {10 + i}", {})["model"] == j["model"], "a conversation stays with its model"
        assert ask(s, f"question {10 + i}", {}, model="fam-gemma3")["model"] == "fam-gemma3"
        seen.setdefault((got["who"], got["how"]), set()).add(j["usage"]["prompt_tokens"])
    assert len(seen) == 4 and all(len(n) == 1 for n in seen.values())
    for who in ("small", "other"):
        assert min(seen[who, "styled"]) > min(seen[who, "plain"])
    assert s.stop() == 0


def test_a_variant_names_the_place(tmp_path):
    """The cheapest place takes what may leave; a variant's place stands before it, where the rules let it."""
    spies = {n: Collector(lambda h, n=n: stream(h, [n])) for n in ("cheap", "dear", "shut")}
    file = write(tmp_path / "p.yaml", [place(n, address=c.url + "/v1", price_in=float(i)) for i, (n, c) in enumerate(spies.items())],
                 [rule(to=["cheap", "dear"], tenants=["*"], classes=["public"])])
    (tmp_path / "e.yaml").write_text("experiments:\n  - {name: where, variants: [{name: x}, {name: y, set: {place: dear}}, {name: z, set: {place: shut}}]}\n")
    s = Server("--placement", file, "--experiments", tmp_path / "e.yaml")
    expected, seen = {"x": "cheap", "y": "dear", "z": "cheap"}, set()
    for i in range(20):
        j = ask(s, f"where {i}", {}, sparing={"path": "upstream", "data_class": "public"})
        v = variants(j)["where"]
        assert j["choices"][0]["message"]["content"] == expected[v] == j["usage"]["sparing"]["placement"]["place"]
        seen.add(v)
    assert seen == set(expected) and not spies["shut"].got
    assert s.stop() == 0
    for c in spies.values():
        c.stop()


@pytest.mark.parametrize("sets, word", [("model: nobody", "there is no model nobody"), ("place: nowhere", "no place nowhere")])
def test_models_and_places_that_are_not_there(tmp_path, sets, word):
    (tmp_path / "e.yaml").write_text(f"experiments:\n  - {{name: e, variants: [{{name: x}}, {{name: y, set: {{{sets}}}}}]}}\n")
    p = subprocess.run([BIN, "serve", "-m", quick_file(), "--port", "0", "--experiments", tmp_path / "e.yaml"], capture_output=True, text=True)
    assert p.returncode != 0 and word in p.stderr, p.stderr
    (tmp_path / "p.jsonl").write_text('{"prompt": "x", "check": {"contains": [""]}}')
    p = subprocess.run([BIN, "experiment", "run", tmp_path / "p.jsonl", "-m", quick_file(), "--experiments", tmp_path / "e.yaml"], capture_output=True, text=True)
    assert p.returncode == 2 and "a server alone can vary" in p.stderr, p.stderr


# --- when it is over -------------------------------------------------------------------------------

def command(d, *words):
    r = subprocess.run([BIN, "experiment", *words, "--experiments", d / "e.yaml", "--feedback", d / "f.db"], capture_output=True, text=True)
    return r.returncode, r.stdout + r.stderr


def test_a_stopped_experiment_stays_stopped(tmp_path):
    (tmp_path / "e.yaml").write_text("experiments:\n  - name: brief\n    variants: [{name: plain}, {name: none, set: {draft: 0}}]\n"
                                     "  - name: other\n    variants: [{name: plain}, {name: light, set: {light_tokens: 9}}]\n")
    args = ("--experiments", tmp_path / "e.yaml", "--feedback", tmp_path / "f.db")
    s = Server(*args)
    assert set(variants(ask(s, "Is it stopped?", {}))) == {"brief", "other"}
    code, said = command(tmp_path, "stop", "brief")
    assert code == 0 and "brief is stopped" in said
    wait_until(lambda: set(variants(ask(s, "Is it stopped?", {}))) == {"other"}, "the experiment to stop")
    s.kill()
    s = Server(*args)
    assert set(variants(ask(s, "Is it stopped?", {}))) == {"other"}  # from its first request on
    report = {e["name"]: e for e in s.http.get("/v1/experiments").json()["experiments"]}
    assert report["brief"]["stopped"] is True and report["other"]["stopped"] is False and sum(v["conversations"] for v in report["brief"]["variants"]) == 1
    assert "; stopped" in next(x for x in command(tmp_path, "list")[1].splitlines() if x.startswith("brief"))
    assert command(tmp_path, "status")[1].count(", stopped") == 1
    assert command(tmp_path, "resume", "brief")[0] == 0
    wait_until(lambda: set(variants(ask(s, "Is it stopped?", {}))) == {"brief", "other"}, "the experiment to go on")
    assert s.stop() == 0


@pytest.mark.parametrize("words,code,said", [(["stop", "nothing"], 2, "there is no experiment nothing"), (["stop"], 2, "stop NAME"), (["resume", "a", "b"], 2, "")])
def test_what_cannot_be_stopped(lab, words, code, said):
    assert command(lab.folder, *words)[0] == code and said in command(lab.folder, *words)[1]
    r = subprocess.run([BIN, "experiment", "stop", "brief", "--experiments", lab.folder / "e.yaml"], capture_output=True, text=True)
    assert r.returncode == 2 and "--feedback" in r.stderr


# --- shares that follow the evidence ----------------------------------------------------------------

ADAPT = "experiments:\n  - name: follow\n    adapt: true\n    metric: liked\n    variants: [{name: long}, {name: none, set: {draft: 0}}, {name: short, set: {light_tokens: 9}}]\n"


def test_shares_follow_the_evidence_until_one_is_proven(tmp_path):
    (tmp_path / "e.yaml").write_text(ADAPT)
    args = ("--experiments", tmp_path / "e.yaml", "--feedback", tmp_path / "f.db")
    s = Server(*args)
    first, asked = {}, 0

    def now():
        return s.http.get("/v1/experiments").json()["experiments"][0]

    def ask_some(n):
        """New conversations; people like one variant, and say so."""
        nonlocal asked
        for asked in range(asked, asked + n):
            r = ask(s, f"follow {asked}", {})
            first[asked] = r["usage"]["sparing"]["experiment"][0]
            said = {"metric_name": "liked", "value": first[asked]["variant"] == "short", "inference_id": r["id"]}
            assert s.http.post("/feedback", json=said).status_code == 200
        asked += 1

    while not now()["adapt"]["decided"]:
        assert asked < 400, now()
        epochs = len(now()["adapt"]["epochs"])
        ask_some(24)
        wait_until(lambda: len(now()["adapt"]["epochs"]) > epochs, "the next epoch")
    got = now()
    last = got["adapt"]["epochs"][-1]
    assert last["best"] == "short" and last["shares"] == [0, 0, 1] and last["log_evidence"] >= got["adapt"]["needed"] > 4
    assert last["means"][2] > max(last["means"][:2]) + 0.5
    assert got["adapt"]["epochs"][0]["shares"] == pytest.approx([1 / 3] * 3) and not got["assignment_broken"]
    for e in got["adapt"]["epochs"][:-1]:
        assert sum(e["shares"]) == pytest.approx(1) and min(e["shares"]) >= 0.25 / 3
    for e in first.values():  # each conversation was drawn by the shares of its epoch
        assert e["share"] == pytest.approx(got["adapt"]["epochs"][e["epoch"]]["shares"]["long none short".split().index(e["variant"])], rel=1e-5)
    assert variants(ask(s, "a new one", {})) == {"follow": "short"}
    old = [i for i in first if first[i]["variant"] != "short"][:3]
    assert [ask(s, f"follow {i}", {})["usage"]["sparing"]["experiment"][0] for i in old] == [first[i] for i in old], "a conversation keeps its variant"
    s.kill()
    s = Server(*args)
    assert [ask(s, f"follow {i}", {})["usage"]["sparing"]["experiment"][0] for i in old] == [first[i] for i in old], "after a restart, too"
    assert "short is proven to be the best" in command(tmp_path, "status")[1] and "adapting" in command(tmp_path, "list")[1]
    assert s.http.delete("/v1/tenant").status_code == 200
    db = sqlite3.connect(tmp_path / "f.db")
    assert db.execute("SELECT count(*) FROM drawn").fetchone() == (0,)
    assert s.stop() == 0
    (tmp_path / "e.yaml").write_text(ADAPT.replace(", {name: short, set: {light_tokens: 9}}", ""))
    p = subprocess.run([BIN, "serve", "-m", quick_file(), "--port", "0", *args], capture_output=True, text=True)
    assert p.returncode != 0 and "another name" in p.stderr, p.stderr


@pytest.mark.parametrize("more, said", [("", "needs a metric"), ("    metric: ms\n", "from 0 to 1"), ("    metric: liked\n    interleave: true\n", "interleave takes"), ("W", "finds the weights")])
def test_what_cannot_adapt(tmp_path, more, said):
    weight = ", weight: 2" if more == "W" else ""
    (tmp_path / "e.yaml").write_text(f"experiments:\n  - name: a\n    adapt: true\n{'    metric: m' + chr(10) if weight else more}    variants: [{{name: x}}, {{name: y, set: {{draft: 0}}{weight}}}]\n")
    r = subprocess.run([BIN, "experiment", "list", "--experiments", tmp_path / "e.yaml"], capture_output=True, text=True)
    assert r.returncode == 3 and said in r.stderr, r.stderr


# --- two ranks of passages -------------------------------------------------------------------------

RANKS = "experiments:\n  - name: ranks\n    interleave: true\n    variants:\n      - {name: words, set: {search: words}}\n      - {name: vectors, set: {search: vectors}}\n"
SAID = "The last quagga died in Amsterdam in 1883."
NOTES = [SAID, "A quagga is a zebra with stripes on its front only.", "Amsterdam has a zoo with animals from Africa.", "The ferry to the island leaves at seven.",
         "In 1883 a volcano broke out between two islands.", "Bread is made of flour, water and salt."]


@pytest.fixture(scope="module")
def ranks(tmp_path_factory):
    d = tmp_path_factory.mktemp("ranks")
    (d / "e.yaml").write_text(RANKS)
    (d / "notes").mkdir()
    for i, text in enumerate(NOTES):
        (d / "notes" / f"{i}.txt").write_text(text)
    subprocess.run([BIN, "ingest", d / "notes", "--knowledge", d / "k.db"], check=True, capture_output=True)
    s = Server("--experiments", d / "e.yaml", "--feedback", d / "f.db", "--knowledge", d / "k.db")
    s.folder = d
    yield s
    assert s.stop() == 0


def rows(s, sql):
    s.http.get("/v1/feedback")
    db = sqlite3.connect(f"file:{s.folder / 'f.db'}?mode=ro", uri=True)
    return db.execute(sql).fetchall()


def test_passages_are_credited_to_the_rank_that_brought_them(ranks):
    store = ranks.http.get("/v1/vector_stores").json()["data"][0]["id"]
    asked = []
    for q in ("When did the last quagga die?", "Where did the last quagga die?", "Did the last quagga die in Amsterdam?"):
        j = ask(ranks, q, {}, max_tokens=40, tools=[{"type": "file_search", "vector_store_ids": [store]}], sparing={"regex": SAID.replace(".", "\\.")})
        assert variants(j) == {"ranks": "interleaved"}
        cited = {a["file_citation"]["passage"] for a in j["choices"][0]["message"]["annotations"]}
        kept = rows(ranks, f"SELECT passage, team, cited FROM credit WHERE answer='{j['id']}' ORDER BY passage")
        assert cited and [k[0] for k in kept] == list(range(1, len(j["retrieved"]) + 1)) and {k[1] for k in kept} <= {1, 2}
        assert {p for p, _, c in kept if c} == cited and abs(sum(1 if t == 1 else -1 for _, t, _ in kept)) <= len(kept)
        asked.append((j, kept))

    def expected(opened):
        """Of all conversations: 1, 0 or 0.5 by which team's passages were used."""
        out = []
        for j, kept in asked:
            by = [sum(1 for p, t, c in kept if t == team and (c or (j["id"], p) in opened)) for team in (1, 2)]
            out.append(1 if by[1] > by[0] else 0 if by[1] < by[0] else 0.5)
        return sum(out) / len(out)

    def report():
        return ranks.http.get("/v1/experiments").json()["experiments"][0]["interleaved"]

    r = report()
    assert (r["conversations"], r["n"], r["first"], r["second"], r["decided"]) == (3, 3, "words", "vectors", False)
    assert r["second_preferred"] == pytest.approx(expected(set())) and r["low"] < r["second_preferred"] < r["high"] or r["second_preferred"] in (0, 1)
    j, kept = asked[0]
    others = [p for p, t, c in kept if not c]
    for p in others:
        assert ranks.http.post("/feedback", json={"metric_name": "opened", "value": p, "inference_id": j["id"]}).status_code == 200
    assert report()["second_preferred"] == pytest.approx(expected({(j["id"], p) for p in others}))
    said = subprocess.run([BIN, "experiment", "status", "--experiments", ranks.folder / "e.yaml", "--feedback", ranks.folder / "f.db"], capture_output=True, text=True).stdout
    assert "words and vectors, interleaved: 3 conversations; of 3 that used passages" in said
    assert ranks.http.delete("/v1/tenant").status_code == 200 and rows(ranks, "SELECT * FROM credit") == []


@pytest.mark.parametrize("variant,said", [("{name: b, set: {search: colours}}", "search is none of"), ("{name: b, set: {search: words, draft: 1}}", "interleave takes two variants"),
                                          ("{name: b, weight: 2}", "interleave takes two variants")])
def test_what_cannot_be_interleaved(tmp_path, variant, said):
    (tmp_path / "e.yaml").write_text(f"experiments:\n  - name: ranks\n    interleave: true\n    variants: [{{name: a}}, {variant}]\n")
    r = subprocess.run([BIN, "experiment", "list", "--experiments", tmp_path / "e.yaml"], capture_output=True, text=True)
    assert r.returncode == 3 and said in r.stderr
