"""The chat page in Chromium: an answer streams, the receipt shows, nothing else is fetched."""
import json
import pathlib
import shutil
import subprocess
import tempfile
import time
import urllib.request

import pytest
from websockets.sync.client import connect

from conftest import run

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
            m = json.loads(self.ws.recv(timeout=60))
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

    def wait(self, js, seconds=30):
        end = time.monotonic() + seconds
        while not self.eval(js):
            assert time.monotonic() < end, js
            time.sleep(0.05)

    def close(self):
        self.ws.close()
        self.proc.terminate()
        self.proc.wait(timeout=20)
        shutil.rmtree(self.dir, ignore_errors=True)


@pytest.fixture(params=[(1280, 800), (360, 640)], ids=["desk", "phone"])
def page(request, server):
    p = Page(server.url + "/", *request.param)
    p.wait("document.readyState === 'complete' && document.getElementById('model')?.textContent.length > 0")
    yield p
    p.close()


def test_ask_stop_and_receipt(page, server):
    page.eval("document.getElementById('text').value = 'Name three <b>colours</b>.'; document.getElementById('tokens').value = 30;"
              "document.getElementById('form').requestSubmit()")
    page.wait("document.querySelector('.assistant details summary') !== null")
    assert page.eval("document.querySelector('.user .text').innerHTML.includes('&lt;b&gt;')")
    assert len(page.eval("document.querySelector('.assistant .text').textContent")) > 5
    assert "tokens" in page.eval("document.querySelector('.assistant details').textContent")
    page.eval("document.getElementById('text').value = 'Write a very long story.'; document.getElementById('tokens').value = 4000;"
              "document.getElementById('form').requestSubmit()")
    page.wait("document.querySelectorAll('.assistant .text')[1]?.textContent.length > 20")
    page.eval("document.getElementById('stop').click()")
    page.wait("!document.getElementById('send').hidden")
    assert server.wait_metric("sparing_requests_running", 0, 5)
    assert page.eval("document.documentElement.scrollWidth <= window.innerWidth")
    assert page.requests and all(u.startswith((server.url, "data:")) for u in page.requests)
    assert not page.errors


def test_sources_are_shown_as_text(tmp_path, make_server):
    s = make_server("--knowledge", str(tmp_path / "k.db"))
    f = s.http.post("/v1/files", files={"file": ("quagga.md", b"# Quagga\n\nThe quagga died out in 1883. <img src=x onerror=alert(1)><b>bold</b>\n")},
                    data={"purpose": "assistants"}).json()
    vs = s.http.post("/v1/vector_stores", json={"name": "<i>pets</i>", "file_ids": [f["id"]]}).json()
    end = time.monotonic() + 20
    while s.http.get(f"/v1/vector_stores/{vs['id']}").json()["status"] != "completed" and time.monotonic() < end:
        time.sleep(0.05)
    run("graph", "add", "quagga", "died out in", "1883 <img src=y>", "--knowledge", str(tmp_path / "k.db"), "--collection", vs["id"])
    page = Page(s.url + "/", 1280, 800)
    try:
        page.wait("document.readyState === 'complete' && document.querySelectorAll('#coll option').length === 2")
        page.eval("document.getElementById('coll').selectedIndex = 1; document.getElementById('temperature').value = 0;"
                  "document.getElementById('text').value = 'When did the quagga die out?'; document.getElementById('tokens').value = 24;"
                  "document.getElementById('form').requestSubmit()")
        page.wait("document.querySelector('.sources mark') !== null")
        assert "1883" in page.eval("document.querySelector('.sources mark').textContent")
        assert "<img src=x onerror=alert(1)>" in page.eval("document.querySelector('.passage').textContent")
        assert "quagga – died out in – 1883 <img src=y>" in page.eval("document.querySelector('.sources').textContent")
        assert page.eval("document.querySelectorAll('.sources img, .passage b, #coll i').length") == 0
        assert not page.errors
    finally:
        page.close()
