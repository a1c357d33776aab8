"""Find in a chat: over the text as it is read, in messages that the document and the browser do not have, too."""
import pytest
from playwright.sync_api import expect

from front import Stub
from fronts import chromium, opened, shot, stub  # noqa: F401

pytestmark = pytest.mark.browser
HERE = "() => { const h = CSS.highlights.get('find-here'); return h ? [...h][0].toString() : null; }"
IN_SIGHT = """() => {
    const hit = [...CSS.highlights.get('find-here') ?? []][0]?.getBoundingClientRect(), log = document.getElementById('log').getBoundingClientRect();
    return hit && hit.height > 0 && hit.top >= log.top && hit.bottom <= log.bottom;
}"""


def found(page, count, text=None):
    expect(page.get_by_role("search").get_by_role("status")).to_have_text(count)
    if text is not None:
        page.wait_for_function(f"text => ({HERE})() === text", arg=text)  # hits are drawn after their count
        page.wait_for_function(IN_SIGHT)


def begin(page, words):
    page.keyboard.press("Control+f")
    box = page.get_by_role("searchbox", name="Find in this chat")
    expect(box).to_be_focused()
    box.fill(words)
    return box


@pytest.mark.parametrize("size, dark", [("desk", False), ("phone", True)])
def test_hits_are_counted_and_marked(opened, stub, size, dark):  # noqa: F811
    """Any case, across marks; neither marks nor addresses are text. Enter goes on, Shift+Enter back, and both go round."""
    stub.chat("conv_find0000", "Pumps", [("user", "Is a heat pump loud?"), ("assistant", "A **heat** pump is quiet:\n\n```c\nint heat = pump();\n```\n\nSee [here](https://example.org/heat)."),
                                         ("user", "a+b (c)"), ("assistant", "The HEAT\npump hums. $heat pump$ and `a+b (c)`.")])
    o = opened(stub, size, dark, path="/#conv_find0000")
    page = o.page
    expect(page.get_by_text("hums")).to_be_visible()
    if size == "phone":
        page.get_by_role("button", name="Find in this chat").click()
    box = begin(page, "heat pump")
    found(page, "1 of 3", "heat pump")
    page.wait_for_function("() => CSS.highlights.get('find').size === 3")
    page.keyboard.press("Enter")
    found(page, "2 of 3", "heat pump")
    page.get_by_role("button", name="Next hit").click()
    found(page, "3 of 3", "HEAT\npump")
    o.check()
    shot(page, f"find-{size}")
    page.get_by_role("button", name="Next hit").click()
    found(page, "1 of 3")
    box.press("Shift+Enter")
    found(page, "3 of 3")
    box.fill("heat")
    found(page, "1 of 4")  # the code too, the address not
    box.fill("a+b (c)")
    found(page, "1 of 2", "a+b (c)")
    box.fill("example.org")
    found(page, "Nothing was found.")
    page.wait_for_function("() => !CSS.highlights.has('find')")
    assert page.get_by_role("button", name="Next hit").is_disabled()
    box.press("Escape")
    expect(page.get_by_role("search")).to_have_count(0)
    assert stub.changes() == []


def test_the_whole_chat_is_searched(opened, stub):  # noqa: F811
    """1,500 messages, of which the browser has 60: the others are asked for, few are mounted, and what the reader sees stays in its place."""
    stub.chat("conv_long0000", "A long one", [(("user", "assistant")[i % 2], f"Message {i}: **bold** words.") for i in range(1500)])
    o = opened(stub, path="/#conv_long0000")
    page = o.page
    expect(page.get_by_text("Message 1499:")).to_be_visible()
    stub.sent.clear()
    box = begin(page, "message 7: bold")
    found(page, "1 of 1", "Message 7: bold")
    asked = [s[1].partition("items?")[2] for s in stub.sent]
    assert len(asked) == 2 and all("before=msg_" in a and a.endswith("limit=1000") for a in asked)
    assert page.locator("article.turn").count() <= 200
    box.fill("message 1400:")
    found(page, "1 of 1", "Message 1400:")
    box.fill("bold")
    expect(page.get_by_role("search").get_by_role("status")).to_contain_text("of 1,500")
    page.keyboard.press("Escape")
    page.wait_for_function("() => CSS.highlights.size === 0")
    page.get_by_role("button", name="To the end").click()
    expect(page.get_by_text("Message 1499:")).to_be_visible()


def test_what_is_read_stays_in_its_place(opened, stub):  # noqa: F811
    stub.chat("conv_long0000", "A long one", [(("user", "assistant")[i % 2], f"Message {i}.") for i in range(300)])
    o = opened(stub, path="/#conv_long0000")
    page = o.page
    expect(page.get_by_text("Message 299.")).to_be_visible()
    page.mouse.move(700, 400)
    page.mouse.wheel(0, -300)
    expect(page.get_by_role("button", name="To the end")).to_be_visible()
    page.keyboard.press("Control+f")
    page.wait_for_function("() => !document.querySelector('.findbar [role=status]').textContent")
    assert page.locator("article.turn").count() == 60 and page.get_by_text("Message 240.").count() == 1
    page.keyboard.press("Escape")
    expect(page.get_by_role("textbox", name="Your question")).to_be_focused()


def test_a_search_without_the_server_says_so(opened, stub):  # noqa: F811
    stub.chat("conv_long0000", "A long one", [(("user", "assistant")[i % 2], f"Message {i}.") for i in range(100)])
    o = opened(stub, path="/#conv_long0000")
    page = o.page
    expect(page.get_by_text("Message 99.")).to_be_visible()
    stub.is_down = True
    begin(page, "Message 9")
    expect(page.get_by_role("search").get_by_role("status")).to_contain_text(" of 10 · Only what is loaded is searched: The server cannot be reached.")
    o.errors = [e for e in o.errors if "ERR_" not in e]


def test_an_answer_that_grows_is_searched(opened):  # noqa: F811
    """Where the server keeps nothing, too; what was the hit stays it."""
    stub = Stub(kept=False)  # noqa: F811
    o = opened(stub)
    page = o.page
    stub.scripts.append([("say", "one fish"), ("gate",), ("say", ", two fish")])
    o.ask("Which fish?")
    expect(page.get_by_text("one fish")).to_be_visible()
    begin(page, "fish")
    found(page, "1 of 2", "fish")
    page.keyboard.press("Enter")
    found(page, "2 of 2")
    stub.go()
    found(page, "2 of 3")
    page.wait_for_function("() => CSS.highlights.get('find').size === 3")
    page.keyboard.press("Escape")
    stub.close()


def test_the_second_time_the_keys_are_the_browsers(opened, stub):  # noqa: F811
    o = opened(stub)
    page = o.page
    taken = "(e) => { const k = new KeyboardEvent('keydown', {key: 'f', ctrlKey: true, bubbles: true, cancelable: true}); e.dispatchEvent(k); return k.defaultPrevented; }"
    box = page.get_by_role("textbox", name="Your question")
    expect(box).to_be_focused()
    assert box.evaluate(taken) is False  # there is nothing to search
    o.ask("Hi")
    expect(page.get_by_text("Hello.")).to_be_visible()
    assert box.evaluate(taken) is True
    find = page.get_by_role("searchbox", name="Find in this chat")
    expect(find).to_be_focused()
    assert find.evaluate(taken) is False


def test_a_chat_that_was_found_opens_at_its_hit(opened, stub):  # noqa: F811
    """The list's search names a message: it is brought into sight, however far it lies above the end."""
    stub.chat("conv_long0000", "A long one", [(("user", "assistant")[i % 2], f"Message {i}." + " The quagga." * (i == 31)) for i in range(300)])
    o = opened(stub)
    page = o.page
    page.get_by_role("searchbox", name="Search chats").fill("quagga")
    page.get_by_role("link", name="A long one Message 31").click()  # the list as it was found
    hit = page.locator("#log").get_by_text("Message 31. The quagga.")
    expect(hit).to_be_in_viewport()
    assert page.locator("article.turn").count() <= 200
    expect(page.get_by_role("button", name="To the end")).to_be_visible()
