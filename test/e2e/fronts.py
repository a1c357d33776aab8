"""Pages in Chromium for the tests of web/: two sizes, two themes, axe, and what is expected of every page."""
import os
import pathlib
import shutil

import axe_playwright_python
import pytest
from playwright.sync_api import expect, sync_playwright

import conftest
from front import Stub

PATIENCE = float(os.environ.get("SPARING_PATIENCE", conftest.PATIENCE))  # shorter, for work on the pages
expect.set_options(timeout=PATIENCE * 1000)
SIZES = {"desk": (1440, 900), "phone": (390, 844)}
AXE = (pathlib.Path(axe_playwright_python.__file__).parent / "axe.min.js").read_text()
SHOTS = os.environ.get("SPARING_SHOTS")  # a folder for pictures; make check sets it


@pytest.fixture(scope="module")
def chromium():
    with sync_playwright() as p:
        b = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
        yield b
        b.close()


def findings(page):
    """What axe finds: [(rule, first element)]. It runs outside of the page's policy on scripts."""
    page.evaluate(AXE + "; undefined")
    r = page.evaluate("axe.run(document, {resultTypes: ['violations']})")
    return [(v["id"], v["nodes"][0]["html"][:200], v["nodes"][0]["failureSummary"]) for v in r["violations"]]


def shot(page, name):
    if SHOTS:
        pathlib.Path(SHOTS).mkdir(parents=True, exist_ok=True)
        page.screenshot(path=f"{SHOTS}/{name}.png")


class Opened:
    """A page with its stub; ends with: nothing was thrown, nothing went elsewhere, nothing is wider than the window."""

    def __init__(self, chromium, stub, size="desk", dark=False, path="/", **more):
        w, h = SIZES[size]
        self.stub, self.errors, self.asked, self.is_closed = stub, [], [], False
        self.context = chromium.new_context(viewport={"width": w, "height": h}, color_scheme="dark" if dark else "light", has_touch=size == "phone", is_mobile=size == "phone",
                                            accept_downloads=True, **{"service_workers": "block", **more})
        self.context.grant_permissions(["clipboard-read", "clipboard-write"], origin=stub.url)
        self.page = self.context.new_page()
        self.page.set_default_timeout(PATIENCE * 1000)
        self.page.on("pageerror", lambda e: self.errors.append(str(e)))
        self.page.on("console", lambda m: self.errors.append(m.text) if m.type == "error" and "Failed to load resource" not in m.text else None)
        self.page.on("request", lambda r: self.asked.append(r.url))
        self.page.goto(stub.url + path)

    def ask(self, text):
        box = self.page.get_by_role("textbox", name="Your question")
        box.fill(text)
        self.page.get_by_role("button", name="Send", exact=True).click()
        self.page.wait_for_function("() => document.getElementById('stop') || document.querySelector('[role=alert]') || !document.getElementById('ask').value")

    def check(self, axe=True):
        assert self.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
        if axe:
            found = findings(self.page)
            assert found == [], found

    def close(self):
        if self.is_closed:
            return
        self.is_closed = True
        self.context.close()
        assert self.errors == [], self.errors
        assert all(u.startswith((self.stub.url, "data:", "blob:")) for u in self.asked)


@pytest.fixture
def stub():
    s = Stub()
    yield s
    s.close()


@pytest.fixture
def opened(chromium):
    """opened(stub, size, dark): a page; each is closed and checked at the end."""
    all_ = []

    def make(*args, **more):
        all_.append(Opened(chromium, *args, **more))
        return all_[-1]
    yield make
    for o in all_:
        o.close()
