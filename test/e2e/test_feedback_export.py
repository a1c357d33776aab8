"""Feedback for others: lines of JSON, and events for a collector of OpenTelemetry that is slow, full, or takes half."""
import http.server
import json
import subprocess
import threading

import pytest

from conftest import BIN, Server, write_keys

ANN, BOB = ({"Authorization": f"Bearer {k}"} for k in ("ann", "bob"))


@pytest.fixture(scope="module")
def given(tmp_path_factory):
    """A database in which two tenants said something; path and (tenant, metric, value, answer) of what they said."""
    d = tmp_path_factory.mktemp("given")
    keys = write_keys(d / "keys", {"ann": "ann", "bob": "bob"})
    s = Server("--feedback", d / "f.db", "--keys", keys)
    said = []
    for who, key in (("ann", ANN), ("bob", BOB)):
        r = s.http.post("/v1/chat/completions", headers=key, json={"messages": [{"role": "user", "content": "Say yes."}], "max_tokens": 2})
        answer = r.json()["id"]
        for metric, value, tags in (("thumbs", True, {"comment": "well said"}), ("score", 0.25, {"who": "QA"}), ("comment", "quite \"good\"", None), ("demonstration", "yes", None)):
            body = {"metric_name": metric, "value": value, "inference_id": answer, **({"tags": tags} if tags else {})}
            assert s.http.post("/feedback", headers=key, json=body).status_code == 200
            said.append((who, metric, value, answer))
    assert s.stop() == 0
    return d / "f.db", said


class Collector:
    """Answers with these statuses and bodies, one after the other, then with 200; keeps what it was sent."""

    def __init__(self, *replies):
        self.bodies, replies = [], list(replies)
        outer = self

        class Handler(http.server.BaseHTTPRequestHandler):
            def do_POST(self):
                body = self.rfile.read(int(self.headers["Content-Length"]))
                outer.bodies.append((self.path, self.headers["Content-Type"], json.loads(body)))
                status, text = replies.pop(0) if replies else (200, "{}")
                self.send_response(status)
                self.send_header("Content-Length", str(len(text)))
                self.end_headers()
                self.wfile.write(text.encode())

            def log_message(self, *a):
                pass

        self.server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
        threading.Thread(target=self.server.serve_forever, daemon=True).start()
        self.url = f"http://127.0.0.1:{self.server.server_port}"

    def events(self, i):
        path, kind, body = self.bodies[i]
        assert (path, kind) == ("/v1/logs", "application/json")
        one = body["resourceLogs"][0]
        assert {"key": "service.name", "value": {"stringValue": "sparing"}} in one["resource"]["attributes"]
        out = []
        for e in one["scopeLogs"][0]["logRecords"]:
            assert e["eventName"] == "gen_ai.evaluation.result" and e["timeUnixNano"].isdigit()
            out.append({a["key"]: next(iter(a["value"].values())) for a in e["attributes"]})
        return out


@pytest.fixture
def collector():
    made = []

    def make(*replies):
        made.append(Collector(*replies))
        return made[-1]
    yield make
    for c in made:
        c.server.shutdown()
        c.server.server_close()


def export(path, *args):
    return subprocess.run([str(x) for x in (BIN, "feedback", "export", "--feedback", path, *args)], capture_output=True, text=True)


def test_events_for_a_collector(given, collector):
    path, said = given
    c = collector((503, ""), (429, "slow down"))
    p = export(path, "--otlp", c.url + "/", "--text-of", "zoe,ann")
    assert p.returncode == 0 and p.stdout == "8 sent, 0 of them refused by the collector\n", p.stderr
    assert len(c.bodies) == 3 and c.bodies[0] == c.bodies[1] == c.bodies[2], "what was not taken comes again"
    got = c.events(2)
    for e, (who, metric, value, answer) in zip(got, said, strict=True):
        number = not isinstance(value, str)
        assert (e["gen_ai.evaluation.name"], e["gen_ai.response.id"], e["tenant.id"]) == (metric, answer, who)
        assert e.get("gen_ai.evaluation.score.value") == (float(value) if number else None)
        assert e.get("gen_ai.evaluation.score.label") == ("true" if value is True else None)
        told = {"thumbs": "well said", "score": None}.get(metric, value)
        assert e.get("gen_ai.evaluation.explanation") == (told if who == "ann" else None), "bob did not say that his words may go"
        assert e["log.record.uid"].startswith("fb_")
    assert len({e["log.record.uid"] for e in got}) == 8
    assert export(path, "--otlp", c.url).stdout.startswith("0 sent") and len(c.bodies) == 3, "it has had them"
    other = collector((200, '{"partialSuccess":{"rejectedLogRecords":"3","errorMessage":"no"}}'))
    assert export(path, "--otlp", other.url).stdout == "8 sent, 3 of them refused by the collector\n"
    assert not any("gen_ai.evaluation.explanation" in e for e in other.events(0))


@pytest.mark.parametrize("status", [400, 413])
def test_a_refusal_is_told_and_comes_again_later(given, collector, status):
    path, said = given
    c = collector((status, ""))
    p = export(path, "--otlp", c.url)
    assert p.returncode == 1 and str(status) in p.stderr and len(c.bodies) == 1
    assert export(path, "--otlp", c.url).stdout.startswith("8 sent"), "what was refused is not lost"


def test_lines_of_json(given):
    path, said = given
    rows = [json.loads(x) for x in export(path, "--text-of", "bob").stdout.splitlines()]
    assert [(r["tenant"], r["metric_name"], r["inference_id"]) for r in rows] == [(w, m, a) for w, m, _, a in said]
    assert [r["value"] for r in rows] == [True, 0.25, None, None, True, 0.25, "quite \"good\"", "yes"]
    assert [r["tags"] for r in rows[:2] + rows[4:6]] == [{}, {}, {"comment": "well said"}, {"who": "QA"}]
    assert [json.loads(x) for x in export(path, "--text-of", "*", "--after", str(rows[5]["seq"])).stdout.splitlines()] == rows[6:]


@pytest.mark.parametrize("args, code, word", [(("import",), 2, "say export"), (("export",), 2, "--feedback"), (("export", "--feedback", "/none/f.db"), 6, "cannot be read"),
                                              (("export", "--feedback", "F", "--otlp", "ftp://x"), 2, "http://")])
def test_what_cannot_be_exported(given, args, code, word):
    p = subprocess.run([str(given[0]) if a == "F" else a for a in (str(BIN), "feedback", *args)], capture_output=True, text=True)
    assert p.returncode == code and word in p.stderr, p.stderr
