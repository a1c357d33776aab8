"""The dashboard in Chromium: every number is what /metrics says, and the page works in light, dark and on a phone."""
import math
import re
import time

import pytest

from conftest import PATIENCE, ROOT, run, write_keys
from fronts import SIZES, chromium, findings, shot  # noqa: F401
from test_page import Page

pytestmark = pytest.mark.browser
DASH = "import(document.querySelector('script[type=module]').src)"  # the page's own module


def quantile(m, name, q, labels=""):
    prefix = f'{name}_bucket{{{labels}{"," if labels else ""}le="'
    b = sorted((float(k[len(prefix):-2]), v) for k, v in m.items() if k.startswith(prefix))
    n, lo, below = b[-1][1] if b else 0, 0.0, 0.0
    if not n:
        return None
    for le, count in b:
        if count >= q * n:
            return lo if le == math.inf else lo + (le - lo) * (q * n - below) / (count - below)
        lo, below = le, count


def expected(m):
    """Every figure of the page, from /metrics alone: (card, row) to the number since start; the rows that show gauges: as they are."""
    g = lambda k: m.get(k, 0.0)  # noqa: E731
    ratio = lambda a, b: a / b if b > 0 else None  # noqa: E731
    src = {s: g(f'sparing_prompt_tokens_total{{source="{s}"}}') for s in ("computed", "ram", "ssd", "s3", "spliced")}
    path = {p: g(f'sparing_path_total{{path="{p}"}}') for p in ("light", "full", "upstream")}
    n, total, squares = (g(f"sparing_busy_windows{x}_total") for x in ("", "_utilisation", "_utilisation_squares"))
    found, missed = (g(f'sparing_knowledge_probes_total{{result="{r}"}}') for r in ("found", "missed"))
    right, wrong = (g(f'sparing_draft_tokens_total{{result="{r}"}}') for r in ("accepted", "rejected"))
    spent, dense = (g(f'sparing_flops_total{{kind="{k}"}}') for k in ("spent", "dense"))
    out = {("utilisation", "share"): ratio(g("sparing_useful_tokens_total"), g("sparing_computed_tokens_total")), ("utilisation", "computed"): g("sparing_computed_tokens_total"),
           ("rate", "prompt"): sum(src.values()), ("rate", "answers"): g("sparing_generated_tokens_total"),
           ("compute", "share"): ratio(total, n), ("compute", "cv"): math.sqrt(max(0, squares / n - (total / n) ** 2)) / (total / n) if n > 1 else None,
           ("compute", "busy"): g("sparing_busy_seconds_total"), ("recall", "share"): ratio(found, found + missed), ("recall", "probes"): found + missed,
           ("recall", "p95"): quantile(m, "sparing_knowledge_search_seconds", 0.95), ("tiers", "ram"): quantile(m, "sparing_kv_attach_seconds", 0.95),
           ("tiers", "ssd"): quantile(m, "sparing_kv_load_seconds", 0.95, 'tier="ssd"'), ("tiers", "s3"): quantile(m, "sparing_kv_load_seconds", 0.95, 'tier="s3"'),
           ("tiers", "fetch"): g('sparing_kv_choices_total{choice="fetch"}') + g('sparing_kv_choices_total{choice="fetch_part"}'),
           ("tiers", "recompute"): g('sparing_kv_choices_total{choice="recompute"}'), ("saved", "flops"): 1 - spent / dense, ("saved", "per_token"): ratio(spent, g("sparing_generated_tokens_total")),
           ("saved", "keys"): ratio(g('sparing_attention_keys_total{kind="kept"}'), g('sparing_attention_keys_total{kind="seen"}')), ("saved", "escalated"): g("sparing_escalations_total"),
           ("saved", "guesses"): ratio(right, right + wrong), ("saved", "guessed"): ratio(right, g("sparing_generated_tokens_total")),
           ("saved", "marked"): g("sparing_marked_tokens_total"), ("saved", "pruned"): g("sparing_pruned_tokens_total"), ("saved", "ended"): g("sparing_ended_by_rules_total"),
           ("saved", "mark_bytes"): g('sparing_marked_bytes_total{kind="text"}') - g('sparing_marked_bytes_total{kind="marks"}'),
           ("paths", "cost"): ratio(sum(g(f'sparing_cost_total{{path="{p}"}}') for p in path), sum(path.values())),
           ("paths", "right"): ratio(g("sparing_rated_cost_total"), g('sparing_rated_answers_total{right="true"}')), ("paths", "joules"): g("sparing_electricity_joules_total"),
           ("paths", "agreement"): ratio(g("sparing_shadow_agreement_total"), g("sparing_shadow_samples_total"))}
    for d in ("lookup", "prediction", "earlier", "model", "head", "mtp"):
        right, wrong = (g(f'sparing_drafter_tokens_total{{drafter="{d}",result="{r}"}}') for r in ("accepted", "rejected"))
        out |= {("saved", f"right_{d}"): ratio(right, right + wrong), ("saved", f"drafted_{d}"): right + wrong}
    out |= {("source", s): ratio(v, sum(src.values())) for s, v in src.items()} | {("paths", p): ratio(v, sum(path.values())) for p, v in path.items()}
    for card, name in (("ttft", "time_to_first_token"), ("itl", "inter_token_latency"), ("queue", "queue_time")):
        out |= {(card, f"p{q}"): quantile(m, f"sparing_{name}_seconds", q / 100) for q in (50, 95)}
    gauges = {("queue", "waiting"): g("sparing_requests_waiting"), ("queue", "running"): g("sparing_requests_running"), ("queue", "backlog"): g("sparing_backlog_seconds"),
              ("bytes", "evicted"): g("sparing_kv_evicted_pages"), ("bytes", "runs"): g('sparing_kv_evicted_runs{kind="all"}')}
    gauges |= {("bytes", t): g(f'sparing_kv_bytes{{tier="{t}"}}') for t in ("ram", "ssd", "s3")}
    return out, gauges


@pytest.fixture(scope="module")
def board(tmp_path_factory):
    from conftest import Server
    d = tmp_path_factory.mktemp("board")
    run("ingest", ROOT / "README.md", "--knowledge", d / "k.db")
    s = Server("--knowledge", str(d / "k.db"), "--retrieve", "default", "--probe", "0.5", "--cache-dir", str(d / "c"), "--price", "1,3", "--shadow", "1")
    for t in ("Hello!", "What is the capital of Peru?", "Prove that the square root of 2 is irrational.", "Hello!"):
        assert s.chat(t).status_code == 200
    quote = "Repeat: one two three four five six seven eight nine ten one two three four five six seven eight nine ten"
    assert s.chat(quote, max_tokens=60, ignore_eos=True, stream=True, sparing={"references": True, "control": True, "path": "full"}).status_code == 200
    end = time.monotonic() + PATIENCE
    while time.monotonic() < end and (s.metric('sparing_knowledge_probes_total{result="found"}') < 2 or s.metric("sparing_shadow_samples_total") < 2):
        time.sleep(0.1)
    s.http.close()
    yield s
    assert s.stop() == 0


@pytest.fixture
def fresh(board):
    import httpx
    board.http = httpx.Client(base_url=board.url, timeout=PATIENCE)
    return board


def cells(page):
    return page.eval("""Object.fromEntries([...document.querySelectorAll('.card td[data-now], .card td[data-all]')].flatMap((td) => {
        const all = td.dataset.all !== undefined, key = all ? td.dataset.all : td.dataset.now;
        return key ? [[td.closest('.card').id + ' ' + key + (all ? ' all' : ' now'), [td.dataset.value, td.textContent]]] : [];
    }))""")


def test_every_number_is_what_metrics_say(fresh):
    """Idle but for the probes, whose numbers may move between two looks: those are compared until they agree."""
    with_page = Page(fresh.url + "/dashboard", 1400, 1500)
    try:
        with_page.wait("document.body?.dataset.polls >= 1")
        end = time.monotonic() + PATIENCE
        while True:
            before = fresh.metrics()
            with_page.eval(DASH + ".then((d) => d.poll())")
            shown = cells(with_page)
            want, gauges = expected(before)
            wrong = []
            for (card, key), v in {**want, **gauges}.items():
                value, text = shown.pop(f"{card} {key} {'now' if (card, key) in gauges else 'all'}")
                if (value == "") != (v is None) or (v is not None and not math.isclose(float(value), v, rel_tol=1e-9, abs_tol=1e-12)) or (v is None and text != "–"):
                    wrong.append((card, key, value, v))
            assert not [k for k in shown if k.endswith(" all")], shown  # none that is not checked
            if not wrong or time.monotonic() > end:
                break
        assert not wrong
        assert with_page.eval("document.querySelectorAll('.card').length") == 12
        drawn = 0
        for tab in ("tiers", "documents", "now"):
            with_page.eval(f"document.getElementById('tab-{tab}').click()")
            with_page.wait(f"!document.getElementById('view-{tab}').hidden")
            drawn += with_page.eval(f"document.querySelectorAll('#view-{tab} .card canvas').length")
        assert drawn == 12
        assert with_page.eval("[...document.querySelectorAll('.card p')].every((p) => p.textContent.length > 30)")
        assert not with_page.errors and all(u.startswith((fresh.url, "data:")) for u in with_page.requests)
    finally:
        with_page.close()


def test_requests_open_to_their_receipts(fresh):
    page = Page(fresh.url + "/dashboard", 1400, 1500)
    try:
        page.wait("document.querySelectorAll('#requests tr.row').length === 5")
        rows = fresh.http.get("/v1/requests").json()["data"]
        text = page.eval("[...document.querySelectorAll('#requests tr.row')].map((r) => r.textContent)")
        for e, t in zip(rows, text):
            assert e["receipt"]["path"] in t and e["receipt"]["why"] in t
        page.eval("document.getElementById('tab-requests').click()")
        page.eval("document.querySelector('#requests tr.row button').click()")
        assert rows[0]["id"] in page.eval("document.querySelector('#requests td.receipt').textContent")
        page.eval(DASH + ".then((d) => d.poll())")
        assert page.eval("!document.querySelector('#requests td.receipt').parentNode.hidden")  # still open after the next poll
        ms = [float(re.search(r"([\d.]+) ms", t).group(1)) for t in page.eval("[...document.querySelectorAll('#legend li')].map((l) => l.textContent)")]
        for shown, stage in zip(ms, ("queue", "intent", "retrieval", "prefill", "decode")):
            assert abs(shown - sum(e["receipt"]["ms"][stage] for e in rows) / len(rows)) < 0.006
    finally:
        page.close()


@pytest.mark.parametrize("width,dark", [(390, False), (390, True), (1400, True)])
def test_phone_and_dark(fresh, width, dark):
    page = Page(fresh.url + "/dashboard", width, 900)
    try:
        page.call("Emulation.setEmulatedMedia", features=[{"name": "prefers-color-scheme", "value": "dark" if dark else "light"}])
        page.wait("document.body?.dataset.polls >= 1")
        assert page.eval("document.documentElement.scrollWidth <= window.innerWidth")
        light = page.eval("getComputedStyle(document.documentElement).getPropertyValue('--accent').trim()") == "#17695a"
        assert light != dark and not page.errors
    finally:
        page.close()


def test_ten_hours_of_data(fresh):
    """3,600 rows of ten seconds: the page takes them in, keeps what it draws bounded, and draws."""
    page = Page(fresh.url + "/dashboard", 1400, 1500)
    try:
        page.wait("document.body?.dataset.polls >= 1")
        took = page.eval(DASH + """.then(({past, addHistory, CARDS, draw}) => {
            const n = 3600, t0 = Date.now() / 1000 - 36000, v = Array.from({length: n}, (_, i) => i % 7);
            past.t.length = 0; for (const m of [past.rate, past.gauge, past.p50, past.p95]) m.clear();
            const began = performance.now();
            addHistory({interval: 10, t: v.map((_, i) => t0 + 10 * i), counter: {sparing_computed_tokens_total: v, sparing_useful_tokens_total: v},
                        gauge: {sparing_requests_waiting: v}, p50: {sparing_time_to_first_token_seconds: v.map((x) => x || null)}, p95: {}});
            document.getElementById('span').value = '43200';
            CARDS.forEach(draw);
            return performance.now() - began;
        })""")
        assert took < 5000 and page.eval(DASH + ".then((d) => d.past.t.length)") <= 1600 and not page.errors
        assert page.eval(DASH + ".then((d) => d.CARDS[0].plot.data[0].length)") > 1000
    finally:
        page.close()


def test_page_asks_for_a_key(make_server, tmp_path):
    s = make_server("--keys", write_keys(tmp_path / "keys", {"k-1": "alice", "k-op": "ops operator"}))
    page = Page(s.url + "/dashboard", 1000, 900)
    try:
        page.wait("document.getElementById('keybox')?.hidden === false")
        assert "key is needed" in page.eval("document.getElementById('state').textContent")
        page.eval("document.getElementById('key').value = 'k-1'; document.getElementById('key').dispatchEvent(new Event('change'))")
        page.wait("document.body?.dataset.polls >= 1")
        assert page.eval("document.body.dataset.role") == "user" and "operator's key" in page.eval("document.getElementById('state').textContent")
        page.eval("document.getElementById('key').value = 'k-op'; document.getElementById('key').dispatchEvent(new Event('change'))")
        page.wait("document.body.dataset.role === 'operator'")
    finally:
        page.close()
    assert s.stop() == 0


@pytest.mark.parametrize("dark", [False, True])
def test_a_tenant_sees_its_own_and_axe_finds_nothing(chromium, make_server, tmp_path, dark):  # noqa: F811
    s = make_server("--keys", write_keys(tmp_path / "keys", {"k-1": "alice", "k-2": "bob"}))
    for key, text in (("k-1", "Hello!"), ("k-1", "Again!"), ("k-2", "Not hers")):
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 2}
        assert s.http.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {key}"}).status_code == 200
    context = chromium.new_context(viewport={"width": 1440, "height": 900}, color_scheme="dark" if dark else "light")
    page = context.new_page()
    page.goto(s.url + "/dashboard#requests")
    page.locator("#keybox:not([hidden])").wait_for()
    assert findings(page) == []
    page.get_by_label("API key").fill("k-1")
    page.keyboard.press("Tab")
    page.wait_for_function("() => document.body.dataset.role === 'user' && document.querySelectorAll('#requests tr.row').length === 2")
    assert not page.locator("#tab-tiers").is_visible() and page.locator(".card").count() == 12
    for tab in ("requests", "now", "models"):
        page.locator(f"#tab-{tab}").click()
        assert page.locator(".card:visible").count() == 0  # figures of the whole server
        assert findings(page) == [], tab
        shot(page, f"dashboard-tenant-{tab}-{'dark' if dark else 'light'}")
    context.close()
    assert s.stop() == 0


def test_time_axis_spans_what_is_chosen(fresh):
    """One point, or none, makes no axis of years."""
    page = Page(fresh.url + "/dashboard", 1400, 1500)
    try:
        page.wait("document.body?.dataset.polls >= 1")
        for span in (900, 43200, 3600):
            page.eval(f"document.getElementById('span').value = '{span}'; document.getElementById('span').dispatchEvent(new Event('change'))")
            lo, hi = page.eval(DASH + ".then(({CARDS}) => { const x = CARDS[0].plot.scales.x; return [x.min, x.max]; })")
            assert abs(hi - lo - span) < 1 and abs(hi - time.time()) < 3600
    finally:
        page.close()


def test_requests_are_filtered_by_the_address(fresh):
    page = Page(fresh.url + "/dashboard#requests?path=full", 1400, 900)
    try:
        page.wait("document.body?.dataset.polls >= 1")
        data = fresh.http.get("/v1/requests").json()["data"]
        full = [e["id"] for e in data if e["receipt"]["path"] == "full"]
        assert 0 < len(full) < len(data)
        rows = lambda: page.eval("document.querySelectorAll('#requests tr.row').length")  # noqa: E731
        assert rows() == len(full) and page.eval("document.getElementById('shown').textContent") == f"{len(full)} of the last {len(data)} requests"
        page.eval(f"(() => {{ const b = document.getElementById('by-words'); b.value = '{full[0]}'; b.dispatchEvent(new Event('input')); }})()")
        assert rows() == 1 and page.eval("location.hash") == f"#requests?path=full&words={full[0]}"
        page.eval("(() => { const b = document.getElementById('by-status'); b.value = 'failed'; b.dispatchEvent(new Event('input')); })()")
        assert rows() == 0 and "No request fits" in page.eval("document.getElementById('none').textContent")
    finally:
        page.close()


@pytest.mark.parametrize("size,dark", [("desk", False), ("desk", True), ("phone", False), ("phone", True)])
def test_views_are_clean(chromium, fresh, size, dark):  # noqa: F811
    w, h = SIZES[size]
    context = chromium.new_context(viewport={"width": w, "height": h}, color_scheme="dark" if dark else "light")
    page = context.new_page()
    page.goto(fresh.url + "/dashboard")
    page.wait_for_function("() => document.body.dataset.polls >= 1")
    for tab in ("now", "requests", "models", "tiers", "documents", "experiments"):
        page.locator(f"#tab-{tab}").click()
        page.wait_for_function(f"() => !document.getElementById('view-{tab}').hidden")
        found = findings(page)
        assert found == [], (tab, found)
        assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), tab
        shot(page, f"dashboard-{tab}-{size}-{'dark' if dark else 'light'}")
    assert page.evaluate("[...document.querySelectorAll('table')].every((t) => t.caption && t.querySelector('th[scope]'))")
    context.close()


@pytest.fixture(scope="module")
def trials(tmp_path_factory):
    """A server with an experiment by weights, one that adapts, and a version in force."""
    from conftest import Server
    d = tmp_path_factory.mktemp("trials")
    (d / "versions").mkdir()
    (d / "versions/v1.yaml").write_text('version: 1\nfrom: 0\nmade: 1764547200\nwhy: "round 1: draft 15 to 7"\nset: {draft: 7}\n')
    (d / "versions/current").write_text("1\n")
    (d / "e.yaml").write_text("experiments:\n  - name: brief\n    metric: liked\n    variants: [{name: plain}, {name: short, set: {light_tokens: 9}}]\n"
                              "  - name: follow\n    adapt: true\n    metric: liked\n    variants: [{name: exact}, {name: near, set: {epsilon: 0.02}}]\n")
    s = Server("--experiments", d / "e.yaml", "--feedback", d / "f.db", "--improved", d / "versions")
    for i in range(24):
        r = s.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": f"trial {i}"}], "max_tokens": 1}).json()
        likes = {e["name"]: e["variant"] for e in r["usage"]["sparing"]["experiment"]}["brief"] == "short"
        assert s.http.post("/feedback", json={"metric_name": "liked", "value": likes, "inference_id": r["id"]}).status_code == 200
    end = time.monotonic() + PATIENCE
    while len(s.http.get("/v1/experiments").json()["experiments"][1]["adapt"]["epochs"]) < 2:
        assert time.monotonic() < end
        time.sleep(0.1)
    yield s
    assert s.stop() == 0


@pytest.mark.parametrize("size,dark", [("desk", False), ("phone", True)])
def test_experiments_are_shown(chromium, trials, size, dark):  # noqa: F811
    w, h = SIZES[size]
    context = chromium.new_context(viewport={"width": w, "height": h}, color_scheme="dark" if dark else "light")
    page = context.new_page()
    page.goto(trials.url + "/dashboard#experiments")
    page.wait_for_function("() => document.querySelectorAll('.trial').length === 2")
    report = trials.http.get("/v1/experiments").json()
    assert report["version"] == {"number": 1, "from": 0, "made": 1764547200, "why": "round 1: draft 15 to 7"}
    assert "Version 1" in page.inner_text("#version") and "draft 15 to 7" in page.inner_text("#version")
    brief, follow = report["experiments"]
    rows = page.locator("#trial-brief tbody tr").all_inner_texts()
    assert [r.split("\t")[:2] for r in rows] == [[v["name"] + (" (control)" if i == 0 else ""), str(v["conversations"])] for i, v in enumerate(brief["variants"])]
    assert rows[1].count("decided") and "1 (" in rows[1] and "0 (" in rows[0], rows
    over = brief["variants"][1]["over_time"]
    assert over[-1]["n"] == brief["variants"][1]["conversations"] and over[-1]["low"] > over[0]["low"] and over[-1]["mean"] == 1
    assert "Decided by liked" in page.inner_text("#trial-brief p") and "evidence" in page.inner_text("#trial-follow p")
    last = follow["adapt"]["epochs"][-1]
    assert [r.split("\t")[2] for r in page.locator("#trial-follow tbody tr").all_inner_texts()] == [f"{100 * x:.0f} %" for x in last["shares"]]
    assert page.locator(".trial canvas").count() == 2
    assert page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    assert findings(page) == []
    shot(page, f"experiments-{size}")
    context.close()
