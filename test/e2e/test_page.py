"""The chat page of a real server in Chromium: an answer streams, the receipt shows, nothing else is fetched. test_front.py has the rest."""
import json
import pathlib
import shutil
import subprocess
import tempfile
import time
import urllib.request

import pytest
from playwright.sync_api import expect
from websockets.sync.client import connect

from conftest import MODEL, PATIENCE, run, tool
from fronts import chromium, opened  # noqa: F401

pytestmark = pytest.mark.browser


class Page:
    """Just enough of the DevTools protocol."""

    def __init__(self, url, width, height):
        self.dir = tempfile.mkdtemp()
        self.proc = subprocess.Popen(
            [shutil.which("chromium"), "--headless", "--no-sandbox", "--disable-gpu", "--no-first-run", "--disable-background-networking",
             "--disable-component-update", "--disable-sync", "--remote-debugging-port=0", f"--window-size={width},{height}",
             f"--user-data-dir={self.dir}", "about:blank"], stderr=subprocess.DEVNULL)
        port_file = pathlib.Path(self.dir) / "DevToolsActivePort"
        for _ in range(300):
            if port_file.exists() and port_file.read_text().count("\n"):
                break
            time.sleep(0.1)
        port = port_file.read_text().split("\n")[0]
        target = json.load(urllib.request.urlopen(f"http://127.0.0.1:{port}/json"))[0]
        self.ws = connect(target["webSocketDebuggerUrl"], max_size=None)
        self.n = 0
        self.requests, self.errors = [], []
        for domain in ("Network", "Runtime", "Page", "Log"):
            self.call(domain + ".enable")
        self.call("Emulation.setDeviceMetricsOverride", width=width, height=height, deviceScaleFactor=1, mobile=width < 600)
        self.call("Page.navigate", url=url)

    def call(self, method, **params):
        self.n += 1
        self.ws.send(json.dumps({"id": self.n, "method": method, "params": params}))
        while True:
            m = json.loads(self.ws.recv(timeout=PATIENCE))
            if m.get("method") == "Network.requestWillBeSent":
                self.requests.append(m["params"]["request"]["url"])
            if m.get("method") == "Runtime.exceptionThrown" or (m.get("method") == "Log.entryAdded" and m["params"]["entry"]["level"] == "error"):
                self.errors.append(json.dumps(m["params"]))
            if m.get("id") == self.n:
                assert "error" not in m, m
                return m["result"]

    def eval(self, js):
        r = self.call("Runtime.evaluate", expression=js, returnByValue=True, awaitPromise=True)
        assert "exceptionDetails" not in r, r
        return r["result"].get("value")

    def wait(self, js, seconds=PATIENCE):
        end = time.monotonic() + seconds
        while not self.eval(js):
            assert time.monotonic() < end, js
            time.sleep(0.05)

    def close(self):
        self.ws.close()
        self.proc.terminate()
        self.proc.wait(timeout=PATIENCE)
        shutil.rmtree(self.dir, ignore_errors=True)


SEND = "document.querySelector('#send')"


def ask(page, text):
    page.wait("document.getElementById('ask') && !document.getElementById('stop')")
    page.eval(f"(() => {{ const b = document.getElementById('ask'); b.value = {json.dumps(text)}; b.dispatchEvent(new Event('input', {{bubbles: true}})); document.getElementById('form').requestSubmit(); }})()")


def settings(page, **values):
    """What the page of a browser without a past begins with."""
    page.eval(f"window.isOld = true; localStorage.setItem('sparing.settings', {json.dumps(json.dumps(values))}); location.hash = ''; location.reload()")
    page.wait("!window.isOld")
    ready(page)


def ready(page):
    page.wait("document.readyState === 'complete' && document.querySelector('#model .dot[data-on]') !== null")


@pytest.fixture(params=[(1280, 800), (360, 640)], ids=["desk", "phone"])
def page(request, server):
    p = Page(server.url + "/", *request.param)
    ready(p)
    yield p
    p.close()


def test_ask_stop_and_receipt(page, server):
    settings(page, max_tokens=30)
    ask(page, "Name three <b>colours</b>.")
    page.wait("document.querySelector('details.receipt summary') !== null")
    assert page.eval("document.querySelector('.user .bubble').innerHTML.includes('&lt;b&gt;')")
    assert len(page.eval("document.querySelector('.turn:not(.user) .prose').textContent")) > 5
    assert "tokens/s" in page.eval("document.querySelector('details.receipt').textContent")
    page.eval("document.getElementById('new').click()")
    settings(page, max_tokens=4000)
    ask(page, "Write a very long story.")
    page.wait("document.querySelector('.turn:not(.user) .prose')?.textContent.length > 20")
    page.eval("document.getElementById('stop').click()")
    page.wait(f"{SEND} !== null")
    assert server.wait_metric("sparing_requests_running", 0, PATIENCE)
    assert page.eval("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.requests and all(u.startswith((server.url, "data:")) for u in page.requests)
    assert not [e for e in page.errors if "/v1/conversations?" not in e]  # a server that keeps no conversations has no list of them


def test_sources_are_shown_as_text(tmp_path, make_server):
    s = make_server("-m", str(MODEL), "--knowledge", str(tmp_path / "k.db"))
    f = s.http.post("/v1/files", files={"file": ("quagga.txt", b"The quagga died out in 1883. <img src=x onerror=alert(1)><b>bold</b>\n")},
                    data={"purpose": "assistants"}).json()
    vs = s.http.post("/v1/vector_stores", json={"name": "<i>pets</i>", "file_ids": [f["id"]]}).json()
    end = time.monotonic() + PATIENCE
    while s.http.get(f"/v1/vector_stores/{vs['id']}").json()["status"] != "completed" and time.monotonic() < end:
        time.sleep(0.05)
    run("graph", "add", "quagga", "died out in", "1883 <img src=y>", "--knowledge", str(tmp_path / "k.db"), "--collection", vs["id"])
    page = Page(s.url + "/", 1280, 800)
    try:
        ready(page)
        settings(page, temperature=0, max_tokens=24)
        page.eval("document.querySelector('.composer .pill').click()")
        page.wait("document.querySelector('#panel input[type=checkbox]') !== null")
        page.eval("document.querySelector('#panel input[type=checkbox]').click()")
        page.wait("document.querySelector('.composer .pill').textContent === '<i>pets</i>'")
        ask(page, "When did the quagga die out?")
        page.wait("document.querySelector('.sources li button') !== null")
        page.eval("document.querySelector('.sources li button').click()")
        page.wait("document.querySelector('#panel mark') !== null")
        assert "1883" in page.eval("document.querySelector('#panel mark').textContent")
        assert "<img src=x onerror=alert(1)>" in page.eval("document.querySelector('#panel .passage').textContent")
        assert "quagga – died out in – 1883 <img src=y>" in page.eval("document.querySelector('.facts').textContent")
        assert page.eval("document.querySelectorAll('#app img, .passage b, .pill i').length") == 0
        assert not [e for e in page.errors if "/v1/conversations?" not in e]
    finally:
        page.close()


def test_marks_and_costs(tmp_path, make_server, quick_model):
    """A span that repeats the question comes as a mark, and is shown; each token in the colour of what it cost."""
    s = make_server("--path", "full", "--model", quick_model, binary=tool("script"))
    said = "The übliche text: one two three four five six seven eight nine ten eleven twelve. 😀"
    page = Page(s.url + "/", 1280, 800)
    try:
        ready(page)
        for coloured in (False, True):
            settings(page, costs=coloured)
            ask(page, f"[[say]]{said}[[/say]]")
            page.wait("document.querySelector('details.receipt summary') !== null")
            assert page.eval("document.querySelector('.turn:not(.user) .costs, .turn:not(.user) .prose').textContent") == said
            assert "tokens came as" in page.eval("document.querySelector('details.receipt').textContent")
            shown = page.eval("[...document.querySelectorAll('.costs span')].map((x) => x.className)")
            assert ("cost-reference" in shown) == coloured and set(shown) <= {"cost-reference", "cost-computed", "cost-guessed", "cost-none"}
        assert not [e for e in page.errors if "/v1/conversations?" not in e]
    finally:
        page.close()


def test_a_chat_that_the_server_keeps(tmp_path, make_server, opened):  # noqa: F811
    """What the page asks for is what a real server gives: a reload, versions, a rename, a search and a restart lose nothing."""
    opts = ("-m", str(MODEL), "--history", str(tmp_path / "h.db"), "--port", "0")
    s = make_server(*opts)
    o = opened(s)
    p, ended = o.page, lambda: expect(o.page.get_by_role("button", name="Send", exact=True)).to_be_visible()  # noqa: E731
    p.evaluate("localStorage.setItem('sparing.settings', JSON.stringify({max_tokens: 12, temperature: 0}))")
    p.reload()
    answer = p.locator("article.turn:not(.user)").last
    o.ask("What is the capital of Peru?")
    expect(p.locator("details.receipt > summary")).to_have_count(1)
    ended()
    first = answer.locator(".prose").inner_text()
    assert first.strip()
    p.reload()
    expect(answer.locator(".prose")).to_have_text(first)
    expect(p.locator("details.receipt > summary")).to_have_count(1)
    expect(p.get_by_role("link", name="What is the capital of Peru?")).to_be_visible()
    p.get_by_role("button", name="Answer again; this one is kept").click()
    expect(answer.get_by_text("2 of 2")).to_be_visible()
    ended()
    p.get_by_role("button", name="Edit the question").click()
    p.get_by_role("textbox", name="Edit the question").fill("What is the capital of France?")
    p.get_by_role("button", name="Send as a new version").click()
    expect(p.locator("article.user .bubble")).to_have_text("What is the capital of France?")
    expect(p.locator("details.receipt > summary")).to_have_count(1)
    ended()
    p.get_by_role("button", name="Rename, pin, export or delete: What is the capital of Peru?").click()
    p.get_by_role("menuitem", name="Rename").click()
    p.get_by_role("textbox", name="New title").fill("Capitals")
    p.keyboard.press("Enter")
    expect(p.get_by_role("link", name="Capitals")).to_be_visible()
    rows = s.http.get("/v1/conversations").json()["data"]
    assert [r["title"] for r in rows] == ["Capitals"]
    p.get_by_role("searchbox", name="Search chats").fill("France")
    expect(p.locator(".list mark").first).to_have_text("France")
    p.get_by_role("searchbox", name="Search chats").fill("")
    assert s.stop() == 0
    again = make_server(*opts)
    p.goto(f"{again.url}/#{rows[0]['id']}")
    o.stub = again
    o.asked.clear()
    expect(p.locator("article.user .bubble")).to_have_text("What is the capital of France?")
    p.locator("article.user").get_by_role("button", name="Version before").click()
    expect(p.locator("article.user .bubble")).to_have_text("What is the capital of Peru?")
    expect(answer.get_by_text("2 of 2")).to_be_visible()
    answer.get_by_role("button", name="Version before").click()
    expect(answer.locator(".prose")).to_have_text(first)
