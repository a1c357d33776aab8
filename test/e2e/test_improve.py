"""Rounds of improvement: what is tried, what is promoted, what the server makes of it, and the way back."""
import atexit
import functools
import json
import pathlib
import shutil
import signal
import sqlite3
import struct
import subprocess
import tempfile

import pytest

from conftest import BIN, ROOT, Server, quick_file, wait_until
from ggufs import Gguf

SCRIPT = BIN.parent / "test/script"
LONG = " ".join(["and"] * 40)


def prompts(path, n, say, check, days=5):
    """Prompts of the first days of December, whose answers are said by the script."""
    lines = [{"at": f"2026-12-{1 + i * days // n:02d}", "prompt": f"[[say]]{say}[[/say]] Question {i}?", "check": check} for i in range(n)]
    path.write_text("".join(json.dumps(x) + "\n" for x in lines))
    return path


def improve(folder, *args, program=SCRIPT, path="light"):
    cmd = [program, "improve", *args, "--improved", folder, "-m", quick_file(), "--objective", "flops", "--path", path, "--threads", "1"]
    return subprocess.run([str(c) for c in cmd], capture_output=True, text=True)


@pytest.fixture(scope="module")
def records(tmp_path_factory):
    """A server that keeps conversations and ratings, whose light answers are cut off; people give better ones. The records are moved to five
    days, as if they had been made on them."""
    d = tmp_path_factory.mktemp("records")
    opts = ("-m", quick_file(), "--path", "light", "--light-tokens", "32")
    s = Server(*opts, "--feedback", d / "f.db", "--history", d / "h.db", binary=SCRIPT)
    ids = []
    for i in range(40):
        conv = s.http.post("/v1/conversations", json={}).json()["id"]
        r = s.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": f"[[say]]{LONG} Paris {i}.[[/say]] Question {i}?"}],
                                                      "conversation": conv, "temperature": 0}).json()
        assert r["usage"]["sparing"]["truncated"] is True and "version" not in r["usage"]["sparing"]
        ids.append(r["id"])
        said = s.http.post("/feedback", json={"metric_name": "demonstration", "value": f"Paris {i}.", "inference_id": r["id"]})
        assert said.status_code == 200, said.text
    for name in ("regenerated", "stopped", "copied"):
        assert s.http.post("/feedback", json={"metric_name": name, "value": True, "inference_id": ids[0]}).status_code == 200
    assert s.stop() == 0
    db = sqlite3.connect(d / "f.db")
    for i, answer in enumerate(ids):
        db.execute("UPDATE answer SET created=created-? WHERE id=?", (86400 * (5 - i // 8), answer))
    db.commit()
    db.close()
    return d, opts


def test_a_round_from_the_servers_own_records(records):
    d, opts = records
    folder = d / "versions"
    args = ("--feedback", d / "f.db", "--history", d / "h.db", "--light-tokens", "32", "--tries", "3", "--slower", "100", "--max-tokens", "128")
    dry = improve(folder, *args, "--dry-run")
    assert dry.returncode == 0, dry.stderr
    assert "would be promoted" in dry.stdout and "light_tokens 32 to 64" in dry.stdout
    assert not list(folder.glob("v*.yaml")) and not list(folder.glob("report*")) and not (folder / "round").exists()
    p = improve(folder, *args, "--json")
    assert p.returncode == 0, p.stderr
    got = json.loads(p.stdout)
    assert got["failures"]["truncated"] == 40 and got["failures"]["bad"] == 40 and got["failures"]["answers"] == 40
    assert got["prompts"] == {"all": 40, "days": 5, "days_held": 2, "records": 40, "left_out": 0}
    best = next(t for t in got["tried"] if t["best"])
    assert best["name"] == "light_tokens 32 to 64" and got["held"]["wins"] and (got["before"], got["after"]) == (0, 1)
    assert got["held"]["difference"]["low"] > 0 and got["held"]["won"] == 16
    report = (folder / "report-1.md").read_text()
    for words in ("Promoted** as version 1", "were ended by a limit of tokens | 40", "regenerated 1", "copied 1", "What will be watched", "improve back"):
        assert words in report, report
    status = subprocess.run([BIN, "improve", "status", "--improved", folder], capture_output=True, text=True)
    assert status.returncode == 0 and "version 1 is in force" in status.stdout and "light_tokens 32 to 64" in status.stdout


def test_the_server_takes_the_version_in_force(records):
    d, opts = records
    folder = d / "served"
    folder.mkdir()
    (folder / "v1.yaml").write_text('version: 1\nfrom: 0\nmade: 1\nset: {light_tokens: 64, epsilon_of: {chat: 0.03}}\n')
    (folder / "current").write_text("1\n")
    s = Server(*opts, "--improved", folder, binary=SCRIPT)
    body = {"messages": [{"role": "user", "content": f"[[say]]{LONG} Paris.[[/say]] Question?"}], "temperature": 0}

    def receipt():
        return s.http.post("/v1/chat/completions", json=body).json()["usage"]["sparing"]

    assert receipt()["version"] == 1 and "truncated" not in receipt()
    said = s.http.post("/v1/chat/completions", json={**body, "max_tokens": 8}).json()["usage"]["sparing"]
    assert said["truncated"] is True, "what the request says stands above the version"
    back = subprocess.run([BIN, "improve", "back", "--improved", folder], capture_output=True, text=True)
    assert back.returncode == 0 and "version 0" in back.stdout, back.stderr
    assert receipt()["version"] == 1, "until it is told"
    s.proc.send_signal(signal.SIGHUP)
    wait_until(lambda: "version" not in receipt(), "the version before")
    assert receipt()["truncated"] is True
    (folder / "current").write_text("7\n")
    s.proc.send_signal(signal.SIGHUP)
    while "stays in force" not in s.proc.stderr.readline():
        pass
    assert "version" not in receipt()
    assert subprocess.run([BIN, "improve", "back", "--improved", folder], capture_output=True).returncode != 0
    assert s.stop() == 0


def test_what_does_not_win_stays_out(tmp_path):
    """Halving the budget is cheaper, and loses the right word, which comes behind it."""
    p = improve(tmp_path / "v", "--prompts", prompts(tmp_path / "p.jsonl", 40, f"{LONG} Rome.", {"contains": ["Rome"]}), "--light-tokens", "64",
                "--tries", "7", "--slower", "100", "--search-most", "20", "--held-most", "20", "--json")
    assert p.returncode == 0, p.stderr
    got = json.loads(p.stdout)
    half = next(t for t in got["tried"] if t["name"] == "light_tokens 64 to 32")
    assert not half["best"] and half["search"]["lost"] == half["search"]["prompts"] and half["search"]["guard"] == "class"
    assert got["held"] is None or not got["held"]["wins"] or got["held"]["quality"] == [1, 1]


def test_floors_stand_above_wins(records):
    d, opts = records
    args = ("--feedback", d / "f.db", "--history", d / "h.db", "--light-tokens", "32", "--tries", "3", "--slower", "100", "--max-tokens", "128")
    p = improve(d / "floor", *args, "--json", "--floor", "1")
    got = json.loads(p.stdout)
    assert got["after"] == 0 and not (d / "floor" / "v1.yaml").exists() and (d / "floor" / "round").read_text().startswith("1 ")


@pytest.mark.parametrize("args, code, word", [
    ((), 2, "nothing to ask again"), (("sideways",), 2, "back or status"), (("--every", "hour"), 2, "month, week, day"),
    (("--feedback", "/none/f.db", "--history", "/none/h.db"), 3, "cannot be read")])
def test_calls_that_mean_nothing(tmp_path, args, code, word):
    p = improve(tmp_path / "v", *args)
    assert p.returncode == code and word in p.stderr, p.stderr


@pytest.mark.parametrize("line, word", [
    ({"prompt": "x", "check": {"equals": "y"}}, "line 1: at is not its day"), ({"at": "2026-12-01", "prompt": "x", "check": {}}, "line 1: its check"),
    ({"at": "2026-12-01", "check": {"like": "y"}}, "line 1: it has neither"), ({"at": "2026-12-01", "prompt": "x", "check": {"like": "y"}}, "prompts of 1 days")])
def test_prompts_that_mean_nothing(tmp_path, line, word):
    (tmp_path / "p.jsonl").write_text(json.dumps(line))
    p = improve(tmp_path / "v", "--prompts", tmp_path / "p.jsonl")
    assert p.returncode in (2, 3) and word in p.stderr, p.stderr


@pytest.mark.parametrize("files, word", [
    ({"current": "x"}, "not the number"), ({"current": "3"}, "v3.yaml"), ({"current": "1", "v1.yaml": "version: 1\nfrom: 0\nmade: 1\nset: {epsilon: 2}\n"}, "epsilon"),
    ({"current": "1", "v1.yaml": "version: 1\nfrom: 0\nmade: 1\nset: {speed: 2}\n"}, "speed"), ({"current": "1", "v1.yaml": "version: 2\nfrom: 0\nmade: 1\nset: {}\n"}, "its version")])
def test_versions_that_mean_nothing(tmp_path, files, word):
    for name, text in files.items():
        (tmp_path / name).write_text(text)
    p = subprocess.run([BIN, "serve", "-m", quick_file(), "--improved", tmp_path, "--port", "0"], capture_output=True, text=True)
    assert p.returncode == 3 and word in p.stderr, p.stderr


# --- a model of intent that is trained on the site's own prompts ------------------------------------

HARD, EASY = "Prove the lemma about groups number", "Say hello to guest number"


def labelled(path, hard):
    """Families of prompts for `train intent`, in which proofs take the path `hard`."""
    rows = []
    for f in range(10):
        for i in range(4):
            rows.append(("maths", hard, f"{HARD} {f}{i}") if f % 2 else ("chat", "light", f"{EASY} {f}{i}"))
            rows[-1] = (f"family{f}", "test" if f > 7 else "train", rows[-1][0], rows[-1][1], "no", rows[-1][2])
    path.write_text("".join("\t".join(r) + "\n" for r in rows))
    return path


def site(path, is_long):
    """Forty prompts of five days, of which the light path cuts those whose answers are long."""
    lines = []
    for i in range(40):
        day, hard = i // 8, i % 2 == 1
        text = " ".join(["and" if hard else "or"] * 40) + " Paris." if is_long(day, hard) else "Paris."
        lines.append({"at": f"2026-12-{1 + day:02d}", "prompt": f"[[say]]{text}[[/say]] {HARD if hard else EASY} {i}", "check": {"contains": ["Paris"]}})
    path.write_text("".join(json.dumps(x) + "\n" for x in lines))
    return path


def trained(tmp_path, start, is_long):
    """A round that begins with a model in which proofs take the path `start`, and learns from labels that say light."""
    model = tmp_path / "first.model"
    p = subprocess.run([BIN, "train", "intent", labelled(tmp_path / "first.tsv", start), "-o", model], capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    args = ("--intent-model", model, "--light-tokens", "32", "--max-tokens", "128", "--slower", "100")
    p = improve(tmp_path / "v", "--prompts", site(tmp_path / "p.jsonl", is_long), *args, "--tries", "1", "--json",
                "--retrain-intent", labelled(tmp_path / "base.tsv", "light"), path="auto")
    assert p.returncode == 0, p.stderr
    return json.loads(p.stdout), args


def test_a_retrained_model_of_intent_is_promoted_and_in_force(tmp_path):
    got, args = trained(tmp_path, "light", lambda day, hard: hard)
    assert [t["name"] for t in got["tried"]] == ["intent 0 to 1"] and got["held"]["wins"] and got["after"] == 1
    assert got["held"]["quality"] == [0.5, 1] and got["held"]["lost"] == 0
    about = (tmp_path / "v/intent-1.yaml").read_text()
    assert "labelled: 40\n" in about and "own: 24\n" in about and "own_full: 12\n" in about and "round: 1\n" in about
    assert "intent: 1" in (tmp_path / "v/v1.yaml").read_text()
    s = Server("-m", quick_file(), *args[:4], "--improved", tmp_path / "v", binary=SCRIPT)

    def receipt():
        body = {"messages": [{"role": "user", "content": f"[[say]]Paris.[[/say]] {HARD} 77"}], "temperature": 0}
        return s.http.post("/v1/chat/completions", json=body).json()["usage"]["sparing"]

    assert (receipt()["path"], receipt()["version"]) == ("full", 1)
    assert subprocess.run([BIN, "improve", "back", "--improved", tmp_path / "v"], capture_output=True).returncode == 0
    s.proc.send_signal(signal.SIGHUP)
    wait_until(lambda: "version" not in receipt(), "the version before")
    assert receipt()["path"] == "light"
    (tmp_path / "v/intent-1.model").write_bytes(b"no model")
    (tmp_path / "v/current").write_text("1\n")
    s.proc.send_signal(signal.SIGHUP)
    while "stays in force" not in s.proc.stderr.readline():
        pass
    assert receipt()["path"] == "light"
    assert s.stop() == 0


def test_a_model_of_intent_that_got_worse_is_not_promoted(tmp_path):
    """On the days that it learns from, greetings are long and proofs short; on those that decide, it is the other way round."""
    got, args = trained(tmp_path, "full", lambda day, hard: hard == (day >= 3))
    tried = got["tried"][0]
    assert tried["name"] == "intent 0 to 1" and tried["best"] and tried["search"]["quality"] == [0.5, 1]
    assert not got["held"]["wins"] and got["held"]["quality"] == [1, 0.5] and got["after"] == 0
    assert not list((tmp_path / "v").glob("v*.yaml")) and not list((tmp_path / "v").glob("intent-*"))


def test_what_cannot_be_retrained(tmp_path):
    args = ("--prompts", site(tmp_path / "p.jsonl", lambda day, hard: hard), "--retrain-intent")
    p = improve(tmp_path / "v", *args, labelled(tmp_path / "b.tsv", "light"))
    assert p.returncode == 2 and "no request is judged" in p.stderr
    (tmp_path / "b.tsv").write_text("family\ttrain\tpoems\tlight\tno\tx\n")
    p = improve(tmp_path / "w", *args, tmp_path / "b.tsv", "--search-most", "2", path="auto")
    assert p.returncode == 3 and "poems" in p.stderr, p.stderr


# --- a policy and a draft head that are trained on the site's own prompts ---------------------------

@functools.cache
def tiny():
    """A model of 96 letters that has a space and a line feed among them."""
    g = Gguf(ROOT / "test/golden/data/fam-llama-bias.gguf")
    kind, (of, tokens) = g.keys["tokenizer.ggml.tokens"]
    g.keys["tokenizer.ggml.tokens"] = (kind, (of, [{"^": "\u0120", "`": "\u010a"}.get(t, t) for t in tokens]))
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sparing-tiny-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return ("-m", str(g.write(folder / "tiny.gguf")), "--chat-template", "chatml")


RIGHT, MORE = "It was Paris, he said.", " And so on and on, and on and on it went for years."


def hand_made(path, model, **bias):
    """A policy whose acts depend on nothing but these biases."""
    n_in, n_mid, acts = 22, 24, ["go", "penalise", "prune", "stop", "answer"]
    w = [0.0] * (n_mid * n_in + n_mid + len(acts) * n_mid) + [float(bias.get(a, 0)) for a in acts]
    path.write_bytes(b"sparing policy 1\n" + json.dumps({"model": model}, separators=(",", ":")).encode() + b"\n" + struct.pack(f"<{len(w)}f", *w))


def own(tmp_path, *args, say=RIGHT + MORE, n=200):
    p = prompts(tmp_path / "p.jsonl", n, say, {"contains": ["Paris"]})
    cmd = [SCRIPT, "improve", "--improved", tmp_path / "v", *tiny(), "--path", "full", "--threads", "1", "--prompts", p, "--tries", "1", "--slower", "100",
           "--max-tokens", "80", "--answer-tokens", "80", "--margin", "0.2", *args]
    return subprocess.run([str(c) for c in cmd], capture_output=True, text=True)


def test_a_policy_of_the_sites_prompts_wins_and_is_taken_back(tmp_path):
    """What is right stands in the first sentence; the policy learns to end there, which costs less."""
    p = own(tmp_path, "--objective", "flops", "--retrain-control", "--rounds", "40", "--minutes", "100", "--heat", "1", "--json")
    assert p.returncode == 0, p.stderr
    got = json.loads(p.stdout)
    assert got["trained"] == {"policy": {"number": 1, "prompts": 120, "rounds": 40}} and [t["name"] for t in got["tried"]] == ["policy 0 to 1"]
    assert got["held"]["wins"] and got["after"] == 1 and got["held"]["quality"] == [1, 1] and got["held"]["cost"][1] < got["held"]["cost"][0]
    assert "policy: 1" in (tmp_path / "v/v1.yaml").read_text() and "prompts: 120\nrounds: 40\n" in (tmp_path / "v/policy-1.yaml").read_text()
    assert "Policy 1 of the rule `learned`, in 40 rounds over 120 prompts" in (tmp_path / "v/report-1.md").read_text()
    s = Server(*tiny(), "--path", "full", "--improved", tmp_path / "v", binary=SCRIPT)
    body = {"messages": [{"role": "user", "content": f"[[say]]{RIGHT}{MORE}[[/say]] Question 77?"}], "temperature": 0, "max_tokens": 80}

    def ask(**more):
        r = s.http.post("/v1/chat/completions", json={**body, **more}).json()
        return r["choices"][0]["message"]["content"], r["usage"]["sparing"]

    text, receipt = ask()
    assert text == RIGHT and receipt["version"] == 1 and receipt["control"]["rules"] == ["learned"] and receipt["control"]["ended"] == "learned"
    assert ask(sparing={"control": False})[0] == RIGHT + MORE, "what the request says stands above the version"
    assert subprocess.run([BIN, "improve", "back", "--improved", tmp_path / "v"], capture_output=True).returncode == 0
    s.proc.send_signal(signal.SIGHUP)
    wait_until(lambda: "version" not in ask()[1], "the version before")
    assert ask()[0] == RIGHT + MORE
    hand_made(tmp_path / "v/policy-1.model", "another", stop=9)
    (tmp_path / "v/current").write_text("1\n")
    s.proc.send_signal(signal.SIGHUP)
    wait_until(lambda: ask()[1].get("version") == 1, "the version again")
    assert ask()[0] == RIGHT + MORE, "a policy of another model does nothing"
    (tmp_path / "v/policy-1.model").write_bytes(b"no policy")
    s.proc.send_signal(signal.SIGHUP)
    while "stays in force" not in s.proc.stderr.readline():
        pass
    assert s.stop() == 0


def test_a_head_of_the_sites_prompts_is_tried_and_not_kept(tmp_path):
    """Guesses change no answer, and a head of one step is right by chance."""
    (tmp_path / "prices.yaml").write_text("machine: {hour: 1}\n")
    p = own(tmp_path, "--prices", tmp_path / "prices.yaml", "--retrain-head", "--steps", "1", "--draft-tokens", "64", "--gain", "0.9", "--json", n=40)
    assert p.returncode == 0, p.stderr
    got = json.loads(p.stdout)
    assert got["trained"]["head"]["number"] == 1 and got["trained"]["head"]["prompts"] == 24 and got["trained"]["head"]["steps"] == 1
    tried = got["tried"][0]
    assert tried["name"] == "head 0 to 1" and tried["search"]["quality"] == [1, 1] and (tried["search"]["won"], tried["search"]["lost"]) == (0, 0)
    assert got["after"] == 0 and not list((tmp_path / "v").glob("head-*"))
    assert "Draft head 1, in 1 steps" in (tmp_path / "v/report-1.md").read_text()


def test_a_version_brings_a_draft_head(tmp_path):
    (tmp_path / "texts").write_text("\n".join(f"Tell me about the river of number {i} and the town." for i in range(60)))
    v = tmp_path / "v"
    v.mkdir()
    made = subprocess.run([str(c) for c in (BIN, "train", "draft", tmp_path / "texts", *tiny()[:2], "--steps", "5", "--seed", "1", "--draft-tokens", "64", "-o", v / "head-1.gguf")], capture_output=True, text=True)
    assert made.returncode == 0, made.stderr
    (v / "v1.yaml").write_text("version: 1\nfrom: 0\nmade: 1\nset: {head: 1}\n")
    (v / "current").write_text("1\n")
    body = {"messages": [{"role": "user", "content": "Tell me about it."}], "temperature": 0, "max_tokens": 24, "ignore_eos": True, "sparing": {"drafters": ["head"], "draft": 4}}
    said = []
    for current in ("1\n", "0\n"):
        (v / "current").write_text(current)
        s = Server(*tiny(), "--path", "full", "--improved", v)
        r = s.http.post("/v1/chat/completions", json=body).json()
        said.append((r["choices"][0]["message"]["content"], "head" in r["usage"]["sparing"]["decode"]["drafters"]))
        assert s.stop() == 0
    assert said[0][0] == said[1][0] and [x[1] for x in said] == [True, False]
    (v / "head-1.gguf").unlink()
    (v / "current").write_text("1\n")
    p = subprocess.run([str(c) for c in (BIN, "serve", *tiny(), "--improved", v, "--port", "0")], capture_output=True, text=True)
    assert p.returncode == 3 and "head-1.gguf" in p.stderr, p.stderr


@pytest.mark.parametrize("args, code, word", [(("--objective", "flops", "--retrain-head"), 2, "saves time, and no flops"),
                                              (("--price", "1,1", "--retrain-head"), 2, "no price of tokens"),
                                              (("--objective", "ms", "--retrain-head", "--steps", "1"), 2, "tokens to learn from")])
def test_a_head_that_could_win_nothing_is_not_trained(tmp_path, args, code, word):
    p = own(tmp_path, *args, say=RIGHT, n=2)
    assert p.returncode == code and word in p.stderr, p.stderr
    assert not list((tmp_path / "v").glob("head-*"))


def test_who_answers_second_finds_no_page_of_the_first(tmp_path):
    """Two variants that set nothing cost the same, though they answer the same prompts one behind the other."""
    p = prompts(tmp_path / "p.jsonl", 3, RIGHT + MORE, {"contains": ["Paris"]})
    (tmp_path / "e.yaml").write_text("experiments:\n  - {name: e, variants: [{name: x}, {name: y}]}\n")
    cmd = [SCRIPT, "experiment", "run", p, "--experiments", tmp_path / "e.yaml", "--name", "e", *tiny(), "--path", "full", "--max-tokens", "80", "--json"]
    got = subprocess.run([str(c) for c in cmd], capture_output=True, text=True)
    assert got.returncode == 0, got.stderr
    x, y = json.loads(got.stdout)["variants"]
    assert x["flops"] == y["flops"] > 0 and x["right"] == y["right"] == 3
