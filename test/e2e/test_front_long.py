"""The chat page under faults and at length: no typed text is lost, a chat of 2,000 messages stays quick to type in."""
import hashlib
import json
import random
import re
import threading

import pytest
from playwright.sync_api import expect

from conftest import wait_until
from front import ROOT, WEB, Stub
from fronts import chromium, opened, shot, stub  # noqa: F401

pytestmark = pytest.mark.browser
FAULTS = [[("status", 502, "<h1>no</h1>")], [("status", 429, {"error": {"message": "slow"}}, {"Retry-After": "60"})], [("status", 503, {"error": {"message": "starting"}})], [("status", 400, {"error": {"message": "no"}})],
          [("drop",)], [("lost",), ("say", "Late.")], [("say", "Half"), ("cut",), ("say", " more")], [("say", "Half"), ("error", {"message": "broke"})], [("say", "Slow"), ("gate",), ("say", " end")]]


def sequence(o, stub, rnd, n):  # noqa: F811
    """One run of typing, sending, failing, reloading, switching. Returns what was typed and sent."""
    page, box, typed, is_offline = o.page, o.page.get_by_role("textbox", name="Your question"), [], False
    for i in range(n):
        what = rnd.choice(["ask", "ask", "ask", "type", "reload", "new", "away", "offline", "restart", "stop"])
        if what in ("ask", "type") and box.is_editable() and page.locator("#send").count():
            text = f"q{rnd.randrange(10 ** 9)}"
            box.focus()
            page.keyboard.press("Control+End")
            page.keyboard.insert_text(f" {text}")
            if text not in box.input_value():  # a question before it has just begun to wait: the box takes nothing then
                continue
            typed.append(text)
            if what == "ask":
                stub.scripts[:] = [rnd.choice(FAULTS)] if rnd.random() < 0.7 else []
                page.keyboard.press("Enter")
            page.wait_for_timeout(rnd.choice([0, 350]))  # a draft is kept 300 ms after the last key, or when one leaves
        elif what == "reload" and not is_offline:
            page.reload()
        elif what == "new":
            page.get_by_role("button", name="New chat").click()
        elif what == "away":
            stub.is_down = True
            page.wait_for_timeout(50)
            stub.is_down = False
        elif what == "offline":
            is_offline = not is_offline
            o.context.set_offline(is_offline)
        elif what == "restart":
            stub.restart()
        elif what == "stop":
            page.keyboard.press("Escape")
    o.context.set_offline(False)
    return typed


def said(stub):  # noqa: F811
    """Questions that the server has."""
    return [m["content"][0]["text"] for c in stub.chats.values() for m in c["items"].values() if m["role"] == "user"]


def kept(o, stub):  # noqa: F811
    """All texts that are in a chat of the server, in a draft, or in the box. The page first: what it gives up meanwhile, the server has."""
    here = [o.page.get_by_role("textbox", name="Your question").input_value(), o.page.evaluate("localStorage.getItem('sparing.drafts') ?? ''")]
    return " ".join([*here, *said(stub)])


def run_faults(opened, seeds, n, ran=lambda texts: None):  # noqa: F811
    for seed in seeds:
        s = Stub()
        o = opened(s)
        expect(o.page.locator("#model .dot[data-on]")).to_be_visible()
        typed = sequence(o, s, random.Random(seed), n)
        lost = [t for t in typed if t not in kept(o, s)]
        assert not lost, (seed, lost)
        o.errors = [e for e in o.errors if "ERR_" not in e]
        o.close()
        s.close()
        ran(len(typed))


def test_no_text_is_lost(opened):  # noqa: F811
    run_faults(opened, range(5), 8)


def test_what_was_typed_last_is_kept(opened, stub):  # noqa: F811
    """At once: before the pause after which drafts are kept, on the way to another chat, and before a chat that is opened is read."""
    stub.chat("conv_one00000", "One", [("user", "First?"), ("assistant", "Yes.")])
    o = opened(stub, path="/#conv_one00000")
    page, box = o.page, o.page.get_by_role("textbox", name="Your question")
    expect(page.get_by_text("Yes.")).to_be_visible()
    box.evaluate("""(b) => {
        const type = (text) => { b.value = text; b.dispatchEvent(new Event('input', {bubbles: true})); };
        type('for one');
        document.getElementById('new').click();
        return new Promise((r) => requestAnimationFrame(() => setTimeout(() => { type('for a new one'); r(); })));
    }""")
    page.reload()
    expect(box).to_have_value("for a new one")
    page.get_by_role("link", name="One").click()
    expect(box).to_have_value("for one")
    page.get_by_role("button", name="Edit the question").click()
    page.get_by_role("textbox", name="Edit the question").fill("First of all?")
    page.reload()
    page.get_by_role("button", name="Edit the question").click()
    expect(page.get_by_role("textbox", name="Edit the question")).to_have_value("First of all?")
    page.keyboard.press("Escape")
    stub.changes()
    stub.hold_items = threading.Event()
    page.reload()
    expect(box).to_have_value("for one")
    box.press("Enter")
    page.wait_for_timeout(100)
    assert stub.changes() == []  # behind which message it stands is not known yet
    stub.hold_items.set()
    expect(page.get_by_text("Hello.")).to_be_visible()
    sent = stub.changes(1)[0][2]
    assert sent["conversation"] == "conv_one00000" and sent["parent"] == stub.path(stub.chats["conv_one00000"], sent["message_id"])[1]["id"]


def test_a_late_question_takes_no_other_text(opened, stub):  # noqa: F811
    """It waits for the network while a new chat is typed in. The server gets it then; what was typed stays, over a reload as well."""
    o = opened(stub)
    page, box = o.page, o.page.get_by_role("textbox", name="Your question")
    expect(page.locator("#model .dot[data-on]")).to_be_visible()
    box.fill("The first?")
    o.context.set_offline(True)
    box.press("Enter")
    expect(page.get_by_text("Your question is still in the box.")).to_be_visible()
    page.get_by_role("button", name="New chat").click()
    box.fill("The second?")
    page.wait_for_timeout(400)  # it is a draft now
    o.context.set_offline(False)
    wait_until(lambda: "The first?" in said(stub), "the first question")
    expect(page.get_by_role("link", name="The first?")).to_be_visible()
    page.reload()
    expect(box).to_have_value("The second?")
    o.errors = [e for e in o.errors if "ERR_" not in e]


@pytest.mark.long
def test_no_text_is_lost_in_200_runs(opened):  # noqa: F811
    """Runs are counted in a file, so that a test which was broken off goes on where it was, as long as page and stub are the same."""
    file, page = ROOT / "build/fault-runs.json", hashlib.sha256()
    for f in sorted(f for f in [*WEB.rglob("*"), ROOT / "test/e2e/front.py"] if f.is_file() and "node_modules" not in f.parts):
        page.update(f.read_bytes())
    count = json.loads(file.read_text()) if file.exists() else {}
    if count.get("page") != page.hexdigest():
        count = {"page": page.hexdigest(), "runs": 0, "texts": 0}

    def ran(texts):
        count["runs"] += 1
        count["texts"] += texts
        file.with_suffix(".new").write_text(json.dumps(count))
        file.with_suffix(".new").rename(file)

    run_faults(opened, range(100 + count["runs"], 300), 10, ran)
    print(count)
    assert count["texts"] >= 200
    file.unlink()


def long_chat(stub, n):  # noqa: F811
    return stub.chat("conv_long0000", "A long one", [(("user", "assistant")[i % 2], f"Message {i}: **bold** and `code`, some words of an answer.\n\n- a\n- b") for i in range(n)])


def test_a_long_chat_mounts_its_end(opened, stub):  # noqa: F811
    """Only a window of the messages is in the document; older ones come when one scrolls, without a jump."""
    long_chat(stub, 300)
    o = opened(stub, path="/#conv_long0000")
    page = o.page
    expect(page.get_by_text("Message 299:")).to_be_visible()
    assert page.locator("article.turn").count() == 60 and page.get_by_text("Message 239:").count() == 0
    assert [s[1] for s in stub.sent if "items" in s[1]] == ["/v1/conversations/conv_long0000/items?before=end&limit=60"]
    page.mouse.move(700, 400)
    page.mouse.wheel(0, -100)
    page.locator("#log").evaluate("(b) => { b.scrollTop = 0; }")
    page.wait_for_function("() => document.querySelectorAll('article.turn').length > 60")
    top = page.get_by_text("Message 240:").bounding_box()["y"]
    assert -100 < top < 900  # what was at the top is still in sight
    page.wait_for_function("""() => {
        document.getElementById('log').scrollTop = 0;
        return [...document.querySelectorAll('article.turn')].some((a) => a.textContent.includes('Message 0:'));
    }""", polling=100)
    assert page.locator("article.turn").count() <= 200
    page.get_by_role("button", name="To the end").click()
    expect(page.get_by_text("Message 299:")).to_be_visible()


@pytest.mark.long
def test_typing_beside_2000_messages(opened, stub):  # noqa: F811
    long_chat(stub, 2000)
    o = opened(stub, path="/#conv_long0000")
    page = o.page
    expect(page.get_by_text("Message 1999:")).to_be_visible()
    page.get_by_role("textbox", name="Your question").focus()
    took = page.evaluate("""async () => {
        const box = document.getElementById('ask'), out = [];
        for (let i = 0; i < 30; i++) {
            const t = performance.now();
            box.value += 'x';
            box.dispatchEvent(new Event('input', {bubbles: true}));
            await new Promise((r) => requestAnimationFrame(() => setTimeout(r)));
            out.push(performance.now() - t);
        }
        return out.sort((a, b) => a - b)[15];
    }""")
    print(f"a key: {took:.1f} ms, {page.locator('article.turn').count()} of 2000 messages mounted")
    assert page.locator("article.turn").count() <= 200 and re.fullmatch("x{30}", page.get_by_role("textbox", name="Your question").input_value())
