#!/usr/bin/env python3
"""The chat page in Chromium against a real server: first paint, size, and a key beside 2,000 messages.

  bench/page.py [-m MODEL] [--rounds N]

First paint is Chromium's first-contentful-paint of a visit with an empty cache, and of one more. The size is that of all files which
the page has loaded once an answer with code and a formula was shown, and the one in Chinese; fonts apart. A key counts from its event
to the end of the frame that follows. Needs .venv, Chromium and build/release/sparing; prints JSON as its last line.
"""
import argparse
import json
import os
import pathlib
import shutil
import socket
import statistics
import subprocess
import tempfile
import time
import urllib.request

ROOT = pathlib.Path(__file__).resolve().parents[1]
SHOWN = "Here is code.\n\n```python\ndef f(x):\n    return x\n```\n\nAnd $x^2$.\n"
KEY = """() => {
    const box = document.getElementById('ask');
    window.keys = [];
    box.addEventListener('keydown', (e) => requestAnimationFrame(() => setTimeout(() => window.keys.push(performance.now() - e.timeStamp))));
}"""


def items(n, text):
    return [{"id": f"msg_{i:020d}", "parent": f"msg_{i - 1:020d}" if i else None, "role": ("user", "assistant")[i % 2], "text": text(i), "state": "complete"} for i in range(n)]


def post(base, path, body):
    r = urllib.request.Request(base + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
    urllib.request.urlopen(r).read()


def add_chat(base, key, n, text):
    """A conversation as an export has it."""
    one = {"id": key, "title": f"{n} messages", "items": items(n, text)}
    post(base, "/v1/conversations/import", {"object": "sparing.conversations", "version": 1, "conversations": [one]})


def sizes(page):
    """Bytes of the files that the page has loaded: as they are, and as they came."""
    return page.evaluate("""() => {
        const all = [...performance.getEntriesByType('resource'), ...performance.getEntriesByType('navigation')]
            .filter((r) => !r.name.includes('/v1/') && !r.name.endsWith('.woff2'));
        return [all.reduce((n, r) => n + r.decodedBodySize, 0), all.reduce((n, r) => n + r.encodedBodySize, 0)];
    }""")


def paint(page):
    return page.wait_for_function("() => performance.getEntriesByName('first-contentful-paint')[0]?.startTime").json_value()


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("-m", default=str(ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    a.add_argument("--rounds", type=int, default=9)
    o = a.parse_args()
    from playwright.sync_api import sync_playwright
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    base, tmp = f"http://127.0.0.1:{port}", tempfile.mkdtemp(prefix="page.")
    server = subprocess.Popen([str(ROOT / "build/release/sparing"), "serve", "--port", str(port), "-m", o.m, "--encoder", "none", "--history", f"{tmp}/h.db", "--log-level", "warn"])
    out = {}
    try:
        while True:
            try:
                urllib.request.urlopen(base + "/readyz")
                break
            except OSError:
                time.sleep(0.1)
        add_chat(base, "conv_long00000000", 2000, lambda i: f"Message {i}: **bold** and `code`, some words of an answer.\n\n- a\n- b")
        add_chat(base, "conv_shown0000000", 2, lambda i: ("What?", SHOWN)[i])
        with sync_playwright() as p:
            chromium = p.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"])
            first, again, opened, keys = [], [], [], []
            for _ in range(o.rounds):
                context = chromium.new_context(viewport={"width": 1440, "height": 900}, service_workers="block")
                page = context.new_page()
                page.goto(base)
                first.append(paint(page))
                page.get_by_role("heading", name="What would you like to know?").wait_for()
                page.wait_for_load_state("networkidle")
                out["first_visit_bytes"] = sizes(page)
                page.goto(base + "/manifest.webmanifest")
                page.goto(base)
                again.append(paint(page))
                began = time.monotonic()
                page.goto(base + "/#conv_long00000000")
                page.get_by_text("Message 1999:").wait_for()
                opened.append(1000 * (time.monotonic() - began))
                page.get_by_role("textbox", name="Your question").focus()
                page.evaluate(KEY)
                for n in range(20):
                    page.keyboard.press("x")
                    page.wait_for_function(f"() => window.keys.length > {n}")
                keys += page.evaluate("window.keys")
                context.close()
            context = chromium.new_context(viewport={"width": 1440, "height": 900}, locale="zh-CN", service_workers="block")
            page = context.new_page()
            page.goto(base + "/#conv_shown0000000")
            page.locator(".katex").first.wait_for()
            page.locator(".hl-keyword").first.wait_for()
            page.wait_for_load_state("networkidle")
            out["all_bytes"] = sizes(page)
    finally:
        server.terminate()
        server.wait()
        shutil.rmtree(tmp)
    q = lambda v: {"min": round(min(v), 1), "median": round(statistics.median(v), 1), "max": round(max(v), 1), "n": len(v)}  # noqa: E731
    out |= {"first_paint_ms": q(first), "first_paint_again_ms": q(again), "open_2000_ms": q(opened), "key_ms": q(keys), "load": os.getloadavg()[0]}
    for name, v in out.items():
        print(f"{name:22} {v}")
    print(json.dumps(out))


if __name__ == "__main__":
    main()
