"""What requests cost: tokens, machine and electricity; what a tenant may spend; what a right answer costs."""
import sqlite3
import subprocess

import grpc
import pytest

import rpc
from conftest import BIN, Server, quick_file, wait_until, write_keys

PRICES = """
currency: EUR
right: right
models:
  - {role: generation, model: "*", in: 100, cached: 10, out: 1000}
machine: {hour: 36, kwh: 0.36, watts: 100, rapl: none}
budgets:
  - {tenant: bob, day: 0.000001, month: 0.000002}
  - {tenant: "*", month: 1000000}
"""
OPERATOR, ANN, BOB = ({"Authorization": f"Bearer {k}"} for k in ("root", "ann", "bob"))
LONG = "The ferry leaves the island at seven in the morning, and it comes back when the sun has set. " * 8


def start(d):
    return Server("--grpc", "127.0.0.1:0", "--prices", d / "p.yaml", "--feedback", d / "f.db", "--keys", d / "keys", "--path", "full")


@pytest.fixture(scope="module")
def shop(tmp_path_factory):
    d = tmp_path_factory.mktemp("shop")
    (d / "p.yaml").write_text(PRICES)
    write_keys(d / "keys", {"root": "root operator", "ann": "ann", "bob": "bob"})
    s = start(d)
    s.folder = d
    yield s
    assert s.stop() == 0


def ask(s, text, who=ANN, **kw):
    return s.http.post("/v1/chat/completions", headers=who, json={"messages": [{"role": "user", "content": text}], "max_tokens": 3, "temperature": 0, **kw})


def costs(s, who=ANN):
    r = s.http.get("/v1/costs", headers=who)
    assert r.status_code == 200, r.text
    return r.json()


def by_prices(usage):
    """What the prices say of a receipt, and the electricity."""
    r = usage["sparing"]
    n, out = usage["prompt_tokens"], usage["completion_tokens"]
    known = n - r["prompt_tokens"]["computed"]
    joules = r["ms"]["machine"] / 1e3 * 100
    return ((n - known) * 100 + known * 10 + out * 1000) / 1e6 + r["ms"]["machine"] / 3.6e6 * 36 + joules / 3.6e6 * 0.36, joules


def test_a_request_costs_its_tokens_the_machine_and_electricity(shop):
    first, again = ask(shop, LONG).json()["usage"], ask(shop, LONG).json()["usage"]
    for usage in (first, again):
        r = usage["sparing"]
        cost, joules = by_prices(usage)
        assert r["ms"]["machine"] > 0 and r["electricity"]["measured"] is False
        assert r["electricity"]["joules"] == pytest.approx(joules, rel=1e-3, abs=1e-3) and r["cost"] == pytest.approx(cost, rel=1e-3)
    known = first["sparing"]["prompt_tokens"]["computed"] - again["sparing"]["prompt_tokens"]["computed"]
    assert known >= 32  # at the price of what is cached


def test_several_answers_pay_for_their_prompt_once(shop):
    u = ask(shop, "Where does the ferry go? " + LONG, n=3).json()["usage"]
    r = u["sparing"]
    least = (r["prompt_tokens"]["computed"] * 100 + u["completion_tokens"] * 1000) / 1e6
    assert least < r["cost"] < least + 3 * u["prompt_tokens"] * 10 / 1e6 + r["ms"]["machine"] / 1e3


def test_who_leaves_pays_for_what_was_computed(shop):
    before = costs(shop)["budgets"][0]["month"]["spent"]
    with shop.http.stream("POST", "/v1/chat/completions", headers=ANN,
                          json={"messages": [{"role": "user", "content": "Count. " + LONG}], "max_tokens": 2000, "stream": True, "temperature": 0}) as r:
        for line in r.iter_lines():
            if '"content":"' in line and '"content":""' not in line:
                break

    def left():
        return [e for e in shop.http.get("/v1/requests", headers=ANN).json()["data"] if e["error"] == "the client left"]

    wait_until(left, "the request to end")
    assert left()[0]["receipt"]["cost"] > 100 * 100 / 1e6  # of its prompt
    assert costs(shop)["budgets"][0]["month"]["spent"] > before + 100 * 100 / 1e6


def test_a_spent_budget_refuses_before_anything_is_computed(shop):
    assert ask(shop, "Hello", BOB).status_code == 200  # nothing was spent before it
    computed = shop.metrics(headers=OPERATOR)["sparing_computed_tokens_total"]
    r = ask(shop, "Hello", BOB)
    assert r.status_code == 429 and r.json()["error"]["code"] == "insufficient_quota" and "for this month" in r.json()["error"]["message"]
    assert 0 < int(r.headers["Retry-After"]) <= 31 * 86400
    r = shop.http.post("/v1/messages", headers=BOB, json={"model": "x", "max_tokens": 2, "messages": [{"role": "user", "content": "Hi"}]})
    assert r.status_code == 429 and r.json()["type"] == "error"
    assert shop.http.post("/v1/embeddings", headers=BOB, json={"input": "x"}).status_code == 429
    assert shop.metrics(headers=OPERATOR)["sparing_computed_tokens_total"] == computed
    assert shop.http.get("/v1/models", headers=BOB).status_code == 200 and shop.http.post("/tokenize", headers=BOB, json={"content": "a"}).status_code == 200
    m = shop.metrics(headers=OPERATOR)
    assert m['sparing_over_budget_total{period="month"}'] == 3 and ask(shop, "Hello").status_code == 200
    mine = costs(shop, BOB)["budgets"]
    assert [b["tenant"] for b in mine] == ["bob"] and mine[0]["month"] == {"spent": pytest.approx(mine[0]["day"]["spent"]), "budget": 2e-6}


def test_a_spent_budget_refuses_calls_over_grpc(shop):
    ann, bob = rpc.Client(shop, "ann"), rpc.Client(shop, "bob")
    before = costs(shop)["budgets"][0]["month"]["spent"]
    assert ann.generate("The ferry", max_tokens=2)[0]
    wait_until(lambda: costs(shop)["budgets"][0]["month"]["spent"] > before, "the call to be paid for")
    assert ask(shop, "Hello", BOB).status_code in (200, 429)  # whichever test ran before, now it is spent
    with pytest.raises(grpc.RpcError) as e:
        bob.generate("The ferry", max_tokens=2)
    assert e.value.code() == grpc.StatusCode.RESOURCE_EXHAUSTED and "budget of tenant bob" in e.value.details()
    ann.close()
    bob.close()


def test_a_right_answer_has_a_price(shop):
    one, two = ask(shop, "Is it far?").json(), ask(shop, "Is it near?").json()

    def rate(answer, value):
        r = shop.http.post("/feedback", headers=ANN, json={"metric_name": "right", "value": value, "inference_id": answer["id"]})
        assert r.status_code == 200, r.text

    rate(one, False)
    rate(one, True)  # the last one counts
    rate(two, False)
    cost = sum(a["usage"]["sparing"]["cost"] for a in (one, two))
    rows = [r for r in costs(shop)["data"] if r["rated"]]
    assert sum(r["rated"] for r in rows) == 2 and sum(r["right"] for r in rows) == 1
    assert sum(r["rated_cost"] for r in rows) == pytest.approx(cost, rel=1e-5)
    assert all((r["cost_per_right"] is None) == (r["right"] == 0) for r in rows)
    assert {r["tenant"] for r in costs(shop)["data"]} == {"ann"} and {r["tenant"] for r in costs(shop, OPERATOR)["data"]} == {"ann", "bob"}
    m = shop.metrics(headers=OPERATOR)
    assert m['sparing_rated_answers_total{right="false"}'] == 2 and m["sparing_rated_cost_total"] == pytest.approx(cost, rel=1e-5)  # by the first rating
    assert shop.http.get("/v1/costs?since=x", headers=ANN).status_code == 400
    assert costs(shop)["currency"] == "EUR" and shop.http.get("/v1/costs?since=4000000000", headers=ANN).json()["data"] == []


def test_what_was_spent_outlives_the_server(shop):
    def written():
        db = sqlite3.connect(f"file:{shop.folder / 'f.db'}?mode=ro", uri=True)
        return dict(db.execute("SELECT tenant, sum(nano) FROM spent GROUP BY tenant")).get("bob", 0)

    wait_until(written, "what was spent to be written")
    shop.kill()
    s = start(shop.folder)
    try:
        assert ask(s, "Hello", BOB).status_code == 429 and ask(s, "Hello").status_code == 200
    finally:
        shop.__dict__.update(s.__dict__ | {"folder": shop.folder})  # the fixture stops it


@pytest.mark.parametrize("text,said", [("models:\n  - role: generation\n    model: a\n    in: -1\n", ":4: models: in"), ("budgets:\n  - {tenant: a}\n", ":2: budgets: tenant"),
                                       ("prices: 3\n", "prices"), ("machine: {kwh: 0.3, rapl: none}\n", ":1: machine: kwh"), ("budgets:\n  - {tenant: a, day: 1}\n", "--feedback")])
def test_wrong_prices_are_refused_with_their_line(tmp_path, text, said):
    (tmp_path / "p.yaml").write_text(text)
    r = subprocess.run([BIN, "serve", "-m", quick_file(), "--port", "0", "--history", "none", "--prices", tmp_path / "p.yaml"], capture_output=True, text=True)
    assert r.returncode in (3, 6) and said in r.stderr, r.stderr


def test_prices_are_said_once(tmp_path):
    (tmp_path / "p.yaml").write_text(PRICES)
    r = subprocess.run([BIN, "serve", "-m", quick_file(), "--port", "0", "--prices", tmp_path / "p.yaml", "--price", "1,2"], capture_output=True, text=True)
    assert r.returncode == 3 and "price: with --prices" in r.stderr
