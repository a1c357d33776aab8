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

from conftest import MODEL, PATIENCE, run, tool

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


def test_marks_and_costs(tmp_path, make_server, quick_model):
    """A span that repeats the question comes as a mark, and is shown; each token in the colour of what it cost."""
    s = make_server("--path", "full", "--model", quick_model, binary=tool("script"))
    said = "The übliche text: one two three four five six seven eight nine ten eleven twelve. 😀"
    page = Page(s.url + "/", 1280, 800)
    try:
        page.wait("document.readyState === 'complete' && document.getElementById('model')?.textContent.length > 0")
        for coloured in (False, True):
            page.eval(f"document.getElementById('clear').click(); document.getElementById('costs').checked = {json.dumps(coloured)}; document.getElementById('text').value = "
                      + json.dumps(f"[[say]]{said}[[/say]]") + "; document.getElementById('form').requestSubmit()")
            page.wait("document.querySelector('.assistant details summary') !== null")
            assert page.eval("document.querySelector('.assistant .text').textContent") == said
            assert "tokens came as" in page.eval("document.querySelector('.assistant details').textContent")
            shown = page.eval("[...document.querySelectorAll('.assistant .text span')].map((x) => x.className)")
            assert ("reference" in shown) == coloured and set(shown) <= {"reference", "computed", "guessed", ""}
        assert not page.errors
    finally:
        page.close()


# Answers by hand: each request of the page is kept in `sent`, and `say`, `end` and `fail` make its answer.
BY_HAND = """(() => {
  window.sent = []; window.streams = []; window.failing = false;
  const real = window.fetch;
  window.fetch = (url, options) => {
    if (!options || options.method !== 'POST') return real(url, options);
    sent.push({url, key: options.headers.Authorization ?? null, body: JSON.parse(options.body)});
    if (failing) { streams.push(null); return Promise.resolve(new Response(JSON.stringify({error: {message: 'no'}}), {status: 503})); }
    let out;
    const body = new ReadableStream({start(c) { out = c; }});
    options.signal.addEventListener('abort', () => out.error(new DOMException('stopped', 'AbortError')));
    streams.push(out);
    return Promise.resolve(new Response(body, {status: 200}));
  };
  window.put = (i, chunk) => streams[i].enqueue(new TextEncoder().encode('data: ' + JSON.stringify(chunk) + '\\n\\n'));
  window.say = (i, text) => put(i, {choices: [{delta: {content: text}}]});
  window.end = (i) => streams[i].close();
})()"""


def test_every_action_sends_what_it_should(server):
    """What the page asks of the server after each thing a user can do."""
    page = Page(server.url + "/", 1280, 800)
    wait_sent = lambda n: page.wait(f"sent.length === {n}")  # noqa: E731
    user, answer = (lambda t: {"role": "user", "content": t}), (lambda t: {"role": "assistant", "content": t})
    send = lambda t: page.eval(f"document.getElementById('text').value = {json.dumps(t)}; document.getElementById('form').requestSubmit()")  # noqa: E731
    click = lambda i: page.eval(f"document.getElementById('{i}').click()")  # noqa: E731
    idle = lambda: page.wait("!document.getElementById('send').hidden && document.getElementById('stop').hidden")  # noqa: E731
    press = lambda shift: page.eval(f"document.getElementById('text').dispatchEvent(new KeyboardEvent('keydown', {{key: 'Enter', shiftKey: {shift}, bubbles: true, cancelable: true}}))")  # noqa: E731
    said = lambda text: page.wait(f"document.getElementById('log').textContent.includes({json.dumps(text)})")  # noqa: E731

    def last(*messages):
        got = page.eval("sent[sent.length - 1]")
        assert got["url"] == "/v1/chat/completions" and got["body"]["messages"] == list(messages), got
        return got

    try:
        page.wait("document.readyState === 'complete' && document.getElementById('model')?.textContent.length > 0")
        page.eval(BY_HAND)
        send("   ")
        assert page.eval("sent.length") == 0
        page.eval("document.getElementById('temperature').value = 0.5; document.getElementById('tokens').value = 77")
        send(" one ")
        wait_sent(1)
        got = last(user("one"))
        assert got["key"] is None and got["body"] == {"model": MODEL.stem, "messages": [user("one")], "stream": True, "tools": [], "stream_options": {"include_usage": True},
                                                      "temperature": 0.5, "max_tokens": 77, "repetition_penalty": 1.1, "sparing": {"references": True, "costs": False}}
        send("too soon")  # an answer is being written
        assert page.eval("sent.length") == 1
        page.eval("say(0, 'Fir'); say(0, 'st.'); end(0)")
        idle()
        page.eval("document.getElementById('text').value = 'two'")
        press("true")
        assert page.eval("sent.length") == 1
        press("false")
        wait_sent(2)
        last(user("one"), answer("First."), user("two"))
        page.eval("say(1, 'Sec')")
        said("Sec")
        click("stop")
        idle()
        send("three")  # what was written before the stop is part of the conversation
        wait_sent(3)
        last(user("one"), answer("First."), user("two"), answer("Sec"), user("three"))
        click("stop")  # nothing was written: the question did not happen
        idle()
        page.eval("failing = true")
        send("four")
        said("no")
        idle()
        page.eval("failing = false")
        send("five")
        wait_sent(5)
        last(user("one"), answer("First."), user("two"), answer("Sec"), user("five"))
        page.eval("say(4, 'half'); put(4, {error: {message: 'broke'}})")  # in mid-answer
        said("broke")
        idle()
        send("six")
        wait_sent(6)
        last(user("one"), answer("First."), user("two"), answer("Sec"), user("six"))
        page.eval("say(5, 'Old answer.')")
        said("Old answer.")
        click("clear")  # during an answer
        idle()
        assert page.eval("document.getElementById('log').textContent") == ""
        send("new")
        wait_sent(7)
        last(user("new"))
        page.eval("say(6, 'New answer.'); end(6)")
        idle()
        send("again")
        wait_sent(8)
        last(user("new"), answer("New answer."), user("again"))
        page.eval("end(7)")  # an answer without a word
        idle()
        click("clear")  # between answers
        send("last")
        wait_sent(9)
        last(user("last"))
        click("clear")  # before the first word, and at once the next question
        send("at once")
        wait_sent(10)
        last(user("at once"))
        page.eval("say(9, 'Yes.'); end(9)")
        idle()
        page.eval("""(() => { const c = document.getElementById('coll'); c.replaceChildren(new Option('none', ''), new Option('pets', 'vs_1')); c.selectedIndex = 1;
                     document.getElementById('temperature').value = 0; document.getElementById('tokens').value = 5; })()""")
        send("with documents")
        wait_sent(11)
        got = last(user("at once"), answer("Yes."), user("with documents"))["body"]
        assert (got["tools"], got["temperature"], got["max_tokens"]) == ([{"type": "file_search", "vector_store_ids": ["vs_1"]}], 0, 5)
        page.eval("end(10)")
        idle()
        page.eval("document.getElementById('key').value = 'k-2'; document.getElementById('key').dispatchEvent(new Event('change'))")
        assert page.eval("document.getElementById('coll').value") == ""  # a collection of another key's
        send("with a key")
        wait_sent(12)
        got = last(user("at once"), answer("Yes."), user("with a key"))
        assert got["key"] == "Bearer k-2" and got["body"]["tools"] == []
        page.eval("end(11)")
        idle()
        assert not [e for e in page.errors if "503" not in e]
    finally:
        page.close()
