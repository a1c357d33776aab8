"""The chat page against a server that plays scripts: what is on the screen, and exactly what was sent, after each thing a user can do."""
import gzip
import json
import re

import pytest
from playwright.sync_api import expect

from conftest import ROOT
from front import Stub
from fronts import chromium, findings, opened, shot, stub  # noqa: F401

pytestmark = pytest.mark.browser
POST = ("POST", "/v1/chat/completions")


def answer(page, n=-1):
    return page.locator("article.turn:not(.user)").nth(n)


def ended(page):
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_visible()


def body_of(got):
    """The only change was a question; its body without what is the same each time."""
    assert [g[:2] for g in got] == [POST], got
    return {k: v for k, v in got[0][2].items() if k in ("conversation", "parent", "message_id", "messages", "tools", "temperature", "max_tokens", "model")}


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_a_question_and_its_answer(opened, stub, size):  # noqa: F811
    o = opened(stub, size)
    page = o.page
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    o.check()
    shot(page, f"empty-{size}")
    stub.changes()
    stub.scripts.append([("gate",), ("say", "Blue is **calm**. "), ("gate",), ("say", "<b>Red</b> is not."), ("gate",)])
    o.ask("Name <i>two</i> colours.")
    first = page.get_by_role("button", name="Stop", exact=True)
    expect(first).to_be_visible()
    expect(page.get_by_role("status").filter(has_text="Waiting for the first word")).to_be_visible()
    expect(page.get_by_role("textbox", name="Your question")).to_have_value("")  # the server has it
    o.check()
    shot(page, f"waiting-{size}")
    stub.go()
    expect(answer(page).locator("strong")).to_have_text("calm")
    stub.go(2)
    ended(page)
    expect(answer(page)).to_contain_text("<b>Red</b> is not.")  # HTML is text
    expect(page.locator("article.user .bubble")).to_have_text("Name <i>two</i> colours.")
    expect(page.get_by_text("1 second · a third less computing than usual")).to_be_visible()
    got = body_of(stub.changes(1))
    assert re.fullmatch(r"conv_[0-9a-f]{24}", got["conversation"]) and re.fullmatch(r"msg_[0-9a-f]{24}", got["message_id"]) and "parent" not in got
    assert got["messages"] == [{"role": "user", "content": "Name <i>two</i> colours."}] and (got["tools"], got["temperature"], got["max_tokens"], got["model"]) == ([], 0.2, 400, "tiny")
    o.check()
    shot(page, f"answer-{size}")
    page.reload()
    expect(answer(page).locator("strong")).to_have_text("calm")
    assert stub.changes() == []
    o.ask("And a third?")
    ended(page)
    expect(answer(page)).to_contain_text("Hello.")
    again = body_of(stub.changes(1))
    assert again["conversation"] == got["conversation"] and again["parent"] == got["message_id"] + "-a" and again["messages"] == [{"role": "user", "content": "And a third?"}]


def test_new_chat_during_an_answer_does_not_leak(opened, stub):  # noqa: F811
    o = opened(stub)
    page = o.page
    stub.scripts.append([("say", "Old "), ("gate",), ("say", "answer.")])
    o.ask("old")
    expect(answer(page)).to_contain_text("Old")
    old = body_of(stub.changes(1))
    page.get_by_role("button", name="New chat").click()
    expect(page.locator("article.turn")).to_have_count(0)
    expect(page.get_by_role("link", name="old , an answer is being written")).to_be_visible()
    o.ask("new")
    ended(page)
    got = body_of(stub.changes(1))
    assert got["conversation"] != old["conversation"] and "parent" not in got and got["messages"] == [{"role": "user", "content": "new"}]
    expect(page.locator("article.turn")).to_have_count(2)
    stub.go()
    page.get_by_role("link", name="old").click()
    expect(answer(page)).to_contain_text("Old answer.")
    assert stub.changes() == []


def test_what_the_server_does_not_keep_the_page_sends(opened, chromium):  # noqa: F811
    """Without conversations on the server: only what was answered is sent again."""
    s = Stub(kept=False)
    o = opened(s)
    page, user, said = o.page, (lambda t: {"role": "user", "content": t}), (lambda t: {"role": "assistant", "content": t})
    last = lambda: body_of(s.changes(1))["messages"]  # noqa: E731
    expect(page.get_by_text("This server keeps no chats: they end with this page.")).to_be_visible()
    page.get_by_role("textbox", name="Your question").fill("   ")
    expect(page.get_by_role("button", name="Send", exact=True)).to_be_disabled()
    s.scripts.append([("say", "First.")])
    o.ask(" one ")
    ended(page)
    sent = s.changes()
    assert [x[:2] for x in sent] == [POST] and sent[0][2] == {
        "model": "tiny", "messages": [user("one")], "stream": True, "tools": [], "stream_options": {"include_usage": True}, "temperature": 0.2, "max_tokens": 400,
        "repetition_penalty": 1.1, "sparing": {"references": True, "costs": False}}
    s.scripts.append([("say", "Sec"), ("gate",)])
    o.ask("two")
    expect(answer(page)).to_contain_text("Sec")
    assert last() == [user("one"), said("First."), user("two")]
    page.keyboard.press("Escape")  # what was written before the stop belongs to the conversation
    ended(page)
    expect(answer(page)).to_contain_text("You stopped this answer.")
    s.go()
    s.scripts.append([("gate",)])
    o.ask("three")
    expect(page.get_by_role("button", name="Stop", exact=True)).to_be_visible()
    assert last() == [user("one"), said("First."), user("two"), said("Sec"), user("three")]
    page.get_by_role("button", name="Stop", exact=True).click()  # nothing was written: the question is no part of it
    ended(page)
    s.go()
    s.scripts.append([("say", "half"), ("error", {"message": "broke"})])
    o.ask("four")
    expect(answer(page).get_by_role("alert")).to_contain_text("The answer broke off.")
    assert last()[-1] == user("four") and user("three") not in s.sent
    o.ask("five")
    ended(page)
    assert last() == [user("one"), said("First."), user("two"), said("Sec"), user("five")]
    page.get_by_role("button", name="New chat").click()
    o.ask("new")
    ended(page)
    assert last() == [user("new")]
    s.close()


def test_edit_again_versions_and_continue(opened, stub):  # noqa: F811
    o = opened(stub)
    page = o.page
    o.ask("one")
    ended(page)
    first = body_of(stub.changes(1))
    stub.scripts.append([("say", "Another."), ("finish", "length")])
    page.get_by_role("button", name="Answer again; this one is kept").click()
    expect(answer(page)).to_contain_text("Another.")
    ended(page)
    again = body_of(stub.changes(1))
    assert again["messages"] == [] and again["parent"] == first["message_id"] and again["conversation"] == first["conversation"]
    expect(answer(page).get_by_text("2 of 2")).to_be_visible()
    stub.scripts.append([("say", " And more.")])
    answer(page).get_by_role("button", name="Continue").click()
    ended(page)
    expect(answer(page)).to_contain_text("Another. And more.")
    more = body_of(stub.changes(1))
    assert more["messages"] == [] and more["parent"] == again["message_id"]
    expect(answer(page).get_by_text("3 of 3")).to_be_visible()
    answer(page).get_by_role("button", name="Version before").click()
    expect(answer(page).get_by_text("2 of 3")).to_be_visible()
    answer(page).get_by_role("button", name="Version before").click()
    expect(answer(page)).to_contain_text("Hello.")
    assert [s[0] for s in stub.changes(2)] == ["PATCH", "PATCH"] and list(stub.chats.values())[0]["leaf"] == first["message_id"] + "-a"
    answer(page).get_by_role("button", name="Side by side").click()
    dialog = page.get_by_role("dialog", name="Side by side")
    expect(dialog).to_contain_text("Hello.")
    expect(dialog).to_contain_text("Another.")
    o.check()
    shot(page, "compare")
    page.keyboard.press("Escape")
    page.get_by_role("button", name="Edit the question").click()
    box = page.get_by_role("textbox", name="Edit the question")
    box.fill("one, edited")
    stub.changes()
    page.get_by_role("button", name="Send as a new version").click()
    ended(page)
    expect(page.locator("article.user .bubble")).to_have_text("one, edited")
    edited = body_of(stub.changes(1))
    assert edited["parent"] is None and edited["messages"] == [{"role": "user", "content": "one, edited"}] and edited["message_id"] != first["message_id"]
    expect(page.locator("article.user").get_by_text("2 of 2")).to_be_visible()
    o.check()


def test_stop_ends_the_computing(opened, stub):  # noqa: F811
    o = opened(stub)
    page = o.page
    stub.scripts.append([("say", "A long"), ("gate",), ("say", " story")])
    o.ask("tell")
    expect(answer(page)).to_contain_text("A long")
    page.keyboard.press("Escape")
    ended(page)
    expect(answer(page)).to_contain_text("You stopped this answer.")
    sent = stub.changes()
    assert [s[0] for s in sent] == ["POST", "DELETE"] and re.fullmatch(r"/v1/streams/str_\d+", sent[1][1])
    stub.go()
    page.reload()
    expect(answer(page)).to_contain_text("You stopped this answer.")


def test_a_question_is_never_lost(opened, stub):  # noqa: F811
    """The box keeps it through every failure before the server has it, and the same message is not asked twice."""
    o = opened(stub)
    page, box = o.page, o.page.get_by_role("textbox", name="Your question")
    stub.scripts += [[("status", 502, "<h1>Bad gateway</h1>")], [("status", 429, {"error": {"message": "slow down"}}, {"Retry-After": "600"})], [("drop",)],
                     [("lost",), ("say", "Here.")], [("say", "Not this one.")]]
    o.ask("keep me")
    alert = page.get_by_role("alert")
    now = alert.get_by_role("button", name="Try again now")
    for words in ("Something between this page and the server answered 502.", "Too many requests just now.", "The server cannot be reached.", "The server cannot be reached."):
        expect(alert).to_contain_text(words)
        expect(alert).to_contain_text("Your question is still in the box. Trying again in")
        expect(box).to_have_value("keep me")
        expect(page.locator("article.turn")).to_have_count(0)
        if words.startswith("Too many"):
            expect(alert).to_contain_text("600 seconds")
            o.check()
            shot(page, "error")
        n = len(stub.sent)
        now.click()
        page.wait_for_function("() => true")
        while len(stub.sent) == n:
            page.wait_for_timeout(20)
    ended(page)
    expect(answer(page)).to_contain_text("Here.")
    expect(box).to_have_value("")
    ids = {s[2]["message_id"] for s in stub.changes()}
    assert len(ids) == 1 and len(list(stub.chats.values())[0]["items"]) == 2
    stub.scripts[:] = [[("status", 400, {"error": {"message": "this is too long", "param": "messages"}})]]
    o.ask("too long")
    expect(alert).to_contain_text("The server did not accept this. this is too long.")
    expect(box).to_have_value("too long")
    page.reload()
    expect(box).to_have_value("too long")  # a draft of this chat
    page.get_by_role("button", name="New chat").click()
    expect(box).to_have_value("")


def test_a_broken_stream_goes_on(opened, stub):  # noqa: F811
    o = opened(stub)
    page = o.page
    stub.scripts.append([("say", "One, "), ("gate",), ("cut",), ("say", "two, "), ("gate",), ("say", "three.")])
    o.ask("count")
    expect(answer(page)).to_contain_text("One,")
    stub.go()
    alert = answer(page).get_by_role("alert")
    expect(alert).to_contain_text("The connection broke while the answer was written.")
    o.check()
    alert.get_by_role("button", name="Try again now").click()
    expect(answer(page)).to_contain_text("One, two,")
    page.reload()  # and after a reload the page finds the stream by itself
    expect(answer(page)).to_contain_text("One, two,")
    stub.go()
    expect(answer(page)).to_contain_text("One, two, three.")
    ended(page)
    assert [s[0] for s in stub.changes()] == ["POST"]


def test_a_restart_leaves_the_part(opened, stub):  # noqa: F811
    o = opened(stub)
    page = o.page
    stub.scripts.append([("say", "Half"), ("gate",)])
    o.ask("go")
    expect(answer(page)).to_contain_text("Half")
    stub.restart()
    answer(page).get_by_role("button", name="Try again now").click()
    alert = answer(page).get_by_role("alert").filter(has_text="The answer broke off.")
    expect(alert).to_contain_text("Your question and the part above are kept.")
    stub.changes()
    stub.scripts.append([("say", " and the rest.")])
    alert.get_by_role("button", name="Continue").click()
    ended(page)
    expect(answer(page)).to_contain_text("Half and the rest.")
    assert body_of(stub.changes(1))["messages"] == []
    stub.go()


def test_waiting_says_what_happens(opened, stub):  # noqa: F811
    o = opened(stub)
    page = o.page
    stages = [({"stage": "queue", "done": 0, "total": 2, "eta_ms": 4000}, "Waiting for a free place, place 2, about 4 seconds"), ({"stage": "load", "done": 0, "total": 0}, "Loading the model"),
              ({"stage": "read", "done": 729, "total": 1176, "eta_ms": 9000}, "Reading, 729 of 1,176 tokens, about 9 seconds")]
    stub.scripts.append([x for p, _ in stages for x in (("progress", p), ("gate",))] + [("think", "Hm. "), ("think", "So."), ("say", "Done.")])
    o.ask("long")
    for _, words in stages:
        expect(answer(page).get_by_role("status")).to_have_text(words)
        o.check()
        if "Reading" in words:
            shot(page, "reading")
        stub.go()
    ended(page)
    think = answer(page).locator("details.think")
    expect(think).not_to_have_attribute("open", "")
    think.locator("summary").click()
    expect(think).to_contain_text("Hm. So.")


def test_the_list(opened, stub):  # noqa: F811
    stub.chat("conv_tax00000", "Tax letter", [("user", "About the tax"), ("assistant", "The heat pump counts.")])
    stub.chat("conv_cook0000", "Recipe", [("user", "For four"), ("assistant", "Take rice.")])
    o = opened(stub)
    page = o.page
    names = lambda: page.get_by_role("region", name="List of chats").get_by_role("link").all_text_contents()  # noqa: E731
    expect(page.get_by_role("link", name="Recipe")).to_be_visible()
    assert names() == ["Recipe", "Tax letter"]
    menu = lambda title, item: (page.get_by_role("button", name=f"Rename, pin, export or delete: {title}").click(), page.get_by_role("menuitem", name=item, exact=True).click())  # noqa: E731
    stub.changes()
    menu("Tax letter", "Pin")
    expect(page.get_by_role("heading", name="Pinned")).to_be_visible()
    assert stub.changes() == [("PATCH", "/v1/conversations/conv_tax00000", {"pinned": True})] and names() == ["Tax letter", "Recipe"]
    menu("Recipe", "Rename")
    page.get_by_role("textbox", name="New title").fill("Rice for four")
    page.keyboard.press("Enter")
    expect(page.get_by_role("link", name="Rice for four")).to_be_visible()
    assert stub.changes() == [("PATCH", "/v1/conversations/conv_cook0000", {"title": "Rice for four"})]
    o.check()
    shot(page, "list")
    page.get_by_role("searchbox", name="Search chats").fill("heat pump")
    expect(page.locator(".list mark")).to_have_text("heat pump")
    assert stub.changes() == [] and len(names()) == 1
    page.get_by_role("searchbox", name="Search chats").fill("nowhere")
    expect(page.get_by_text("Nothing was found.")).to_be_visible()
    page.get_by_role("searchbox", name="Search chats").fill("")
    expect(page.get_by_role("link", name="Rice for four")).to_be_visible()
    menu("Rice for four", "Delete")
    expect(page.get_by_role("link", name="Rice for four")).to_have_count(0)
    page.get_by_role("button", name="Undo").click()
    expect(page.get_by_role("link", name="Rice for four")).to_be_visible()
    assert [s[:2] for s in stub.changes(2)] == [("DELETE", "/v1/conversations/conv_cook0000?grace=10"), ("POST", "/v1/conversations/conv_cook0000/restore")]
    with page.expect_download() as d:
        menu("Rice for four", "Export as Markdown")
    assert d.value.suggested_filename == "Rice-for-four.md" and open(d.value.path()).read() == "# exported\n"


@pytest.mark.parametrize("size, dark, kept", [("desk", False, True), ("phone", True, True), ("desk", True, False)])
def test_one_message_is_deleted(opened, stub, size, dark, kept):  # noqa: F811
    """It goes from the chat and from what the next question is answered with; Undo puts it back in its place."""
    stub.kept = kept
    o = opened(stub, size, dark)
    page = o.page
    for text in ("one", "two"):
        o.ask(text)
        ended(page)
    said = lambda: [" ".join(x.split()) for x in page.locator("article.turn .bubble, article.turn .prose").all_text_contents()]  # noqa: E731
    expect(page.locator("article.turn")).to_have_count(4)
    was = said()
    asked = [g[2] for g in stub.changes() if g[:2] == POST]
    page.get_by_role("button", name="Delete the answer").first.click()
    expect(page.locator("article.turn")).to_have_count(3)
    assert said() == [was[0], *was[2:]]
    o.check()
    shot(page, f"message-deleted-{size}")
    page.get_by_role("button", name="Undo").click()
    expect(page.locator("article.turn")).to_have_count(4)
    assert said() == was
    if kept:
        at = f"/v1/conversations/{asked[0]['conversation']}/items/{asked[0]['message_id']}-a"
        assert [g[:2] for g in stub.changes(2)] == [("DELETE", at + "?grace=10"), ("POST", at + "/restore")]
    for name in ("Delete the question", "Delete the answer"):
        page.get_by_role("button", name=name).first.click()
        expect(page.get_by_role("status").filter(has_text="The message was deleted.")).to_be_visible()
    expect(page.locator("article.turn")).to_have_count(2)
    assert said() == was[2:]
    stub.changes()
    o.ask("three")
    ended(page)
    got = next(g[2] for g in stub.changes() if g[:2] == POST)
    if kept:
        assert got["parent"] == asked[1]["message_id"] + "-a"
        page.reload()
        expect(page.locator("article.turn")).to_have_count(4)
        assert said()[:2] == was[2:]
    else:
        assert [m["content"] for m in got["messages"]] == ["two", was[3], "three"]


def test_sources_open_at_the_passage(opened, stub):  # noqa: F811
    text = "It died out in 1883. 😀 More."
    passage = {"file_id": "file-1", "chunk_id": "c1", "filename": "quagga.txt", "place": "Quagga › End", "text": "The quagga died out in 1883. <img src=x onerror=alert(1)> It was a zebra."}
    cited = {"file_citation": {"start_index": 0, "end_index": 20, "passage": 1, "quote": "The quagga died out in 1883."}}
    stub.store("<i>pets</i>", files=["file-1"])
    stub.scripts += [[("say", text), ("sources", {"retrieved": [passage], "annotations": [cited], "facts": [{"subject": "quagga", "predicate": "is a", "object": "zebra", "source": ""}]})],
                     [("say", "I do not know."), ("sources", {"note": "nothing fits the question"})]]
    o = opened(stub)
    page = o.page
    page.get_by_role("button", name="No documents").click()
    stub.changes()
    page.get_by_role("checkbox", name="<i>pets</i>").check()
    o.check()
    shot(page, "settings")
    page.get_by_role("button", name="Close the side panel").click()
    o.ask("When?")
    ended(page)
    assert stub.changes(1)[0][2]["tools"] == [{"type": "file_search", "vector_store_ids": ["vs_1"]}]
    expect(answer(page).locator(".prose")).to_have_text("It died out in 1883.1 😀 More.")
    answer(page).get_by_role("button", name="Source 1: Quagga › End").click()
    side = page.get_by_role("complementary", name="Source 1")
    expect(side.locator("mark")).to_have_text("The quagga died out in 1883.")
    expect(side).to_contain_text("<img src=x onerror=alert(1)>")
    expect(answer(page)).to_contain_text("quagga – is a – zebra")
    o.check()
    shot(page, "source")
    side.get_by_role("button", name="Open the whole document").click()
    expect(side).to_contain_text("Before.")
    page.keyboard.press("Escape")
    expect(answer(page).get_by_role("button", name="Source 1: Quagga › End")).to_be_focused()
    o.ask("And the dodo?")
    ended(page)
    expect(answer(page)).to_contain_text("Documents: nothing fits the question.")
    assert page.locator("#app img").count() == 0


def test_files_go_into_the_chat(opened, stub):  # noqa: F811
    o = opened(stub)
    page = o.page
    expect(page.get_by_role("button", name="No documents")).to_be_visible()
    stub.changes()
    page.get_by_label("Files", exact=True).set_input_files([{"name": "a.txt", "mimeType": "text/plain", "buffer": b"The quagga."}])
    expect(page.get_by_role("list", name="Attached")).to_contain_text("3 passages")
    o.check()
    assert [s[:2] for s in stub.changes()] == [("POST", "/v1/vector_stores"), ("POST", "/v1/files"), ("POST", "/v1/vector_stores/vs_1/files")]
    o.ask("What does it say?")
    ended(page)
    sent = stub.changes(2)
    assert sent[0][2]["tools"] == [{"type": "file_search", "vector_store_ids": ["vs_1"]}]
    assert [s[0] for s in sent[1:]] == ["PATCH"] and sent[1][2]["settings"]["files"] == "vs_1"  # known after a reload, too
    page.get_by_role("button", name="Remove a.txt").click()
    expect(page.get_by_role("list", name="Attached")).to_have_count(0)
    assert [s[:2] for s in stub.changes(1)] == [("DELETE", "/v1/files/file-1")]


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_files_are_dropped_and_pasted(opened, stub, size):  # noqa: F811
    o = opened(stub, size)
    page = o.page
    expect(page.get_by_role("button", name="No documents")).to_be_visible()
    stub.changes()
    send = """([kind, name]) => {
        const data = new DataTransfer();
        data.items.add(new File(['The quagga.'], name, {type: 'text/plain'}));
        const at = kind === 'paste' ? document.getElementById('ask') : window;
        at.dispatchEvent(kind === 'paste' ? new ClipboardEvent('paste', {clipboardData: data, bubbles: true, cancelable: true})
                                          : new DragEvent(kind, {dataTransfer: data, bubbles: true, cancelable: true}));
    }"""
    page.evaluate(send, ["dragenter", "a.txt"])
    expect(page.get_by_text("Drop the file: this chat can then be asked about it")).to_be_visible()
    o.check()
    shot(page, f"drop-{size}")
    page.evaluate(send, ["drop", "a.txt"])
    expect(page.get_by_text("Drop the file")).to_have_count(0)
    page.evaluate(send, ["paste", "b.txt"])
    for name in ("a.txt", "b.txt"):
        expect(page.get_by_role("button", name=f"Remove {name}")).to_be_visible()
    expect(page.get_by_role("list", name="Attached").get_by_text("3 passages")).to_have_count(2)
    sent = stub.changes()
    assert sorted(s[1] for s in sent) == ["/v1/files", "/v1/files", "/v1/vector_stores", "/v1/vector_stores/vs_1/files", "/v1/vector_stores/vs_1/files"]  # one collection for both


def test_calls_of_tools_are_shown(opened, stub):  # noqa: F811
    call = {"id": "c1", "type": "function", "function": {"name": "weather", "arguments": '{"city": "<b>Oslo</b>"}'}}
    stub.chat("conv_tools0000", "Tools", [("user", "Rain?"), {"role": "assistant", "content": "", "tool_calls": [call]}])
    o = opened(stub, path="/#conv_tools0000")
    fold = answer(o.page).locator("details.call")
    expect(fold.locator("summary")).to_have_text("Asks for the tool weather")
    expect(fold).not_to_have_attribute("open", "")
    fold.locator("summary").click()
    expect(fold.locator("code")).to_have_text('{"city": "<b>Oslo</b>"}')
    o.check()


@pytest.mark.parametrize("size", ["desk", "phone"])
def test_high_contrast_and_reduced_motion(opened, stub, size):  # noqa: F811
    """What the system asks for is done: firm lines, colours of the system, nothing that moves."""
    o = opened(stub, size, contrast="more", reduced_motion="reduce")
    page = o.page
    stub.scripts.append([("gate",), ("say", "Done.")])
    o.ask("go")
    expect(answer(page).get_by_role("status")).to_be_visible()
    colour = lambda name: page.evaluate(f"getComputedStyle(document.documentElement).getPropertyValue('--{name}').trim()")  # noqa: E731
    assert colour("line") == colour("edge") and colour("muted") == colour("text")
    assert page.evaluate("[...document.querySelectorAll('*')].every((e) => getComputedStyle(e).animationName === 'none')")
    o.check()
    stub.go()
    ended(page)
    page.emulate_media(forced_colors="active")
    o.check()
    shot(page, f"forced-colors-{size}")
    assert page.evaluate("[...document.querySelectorAll('button.icon')].every((b) => getComputedStyle(b).borderTopColor !== getComputedStyle(b).backgroundColor)")


def test_it_can_be_installed(opened, stub):  # noqa: F811
    """The manifest names a page and pictures that are there."""
    o = opened(stub)
    m = o.page.evaluate("async () => (await fetch(document.querySelector('link[rel=manifest]').href)).json()")
    assert m["name"] and m["display"] == "standalone" and m["start_url"] == "/" and m["icons"]
    for icon in m["icons"]:
        assert o.page.evaluate("async (src) => { const i = new Image(); i.src = src; await i.decode(); return i.naturalWidth > 0; }", icon["src"])


def test_how_far_a_file_is_and_how_large_it_may_be(opened, stub):  # noqa: F811
    """The limit is said before a file is sent, and one beyond it is not sent; of one that is read, how many passages are ready."""
    o = opened(stub)
    page = o.page
    expect(page.get_by_role("button", name="Attach a file")).to_have_attribute("title", "Attach a file. Files of up to 1 KB.")
    stub.changes()
    put = lambda name, n: page.get_by_label("Files", exact=True).set_input_files([{"name": name, "mimeType": "text/plain", "buffer": b"x" * n}])  # noqa: E731
    put("large.txt", 1001)
    chips = page.get_by_role("list", name="Attached")
    expect(chips.get_by_role("status")).to_have_text("1 KB. Files of up to 1 KB.")
    assert stub.changes() == []
    page.get_by_role("button", name="Remove large.txt").click()
    stub.indexing = [(0, 0), *[(120, 79)] * 4]
    put("small.txt", 1000)
    expect(chips.get_by_role("status")).to_have_text("41 of 120 passages are ready")
    assert chips.get_by_role("progressbar").get_attribute("value") == "41" and chips.get_by_role("progressbar").get_attribute("max") == "120"
    o.check()
    expect(chips.get_by_role("status")).to_have_text("1 KB, 3 passages")
    page.get_by_role("button", name="Documents", exact=True).click()
    expect(page.get_by_role("complementary", name="Documents").get_by_text("Files of up to 1 KB.")).to_be_visible()


def test_the_list_of_models_says_what_they_need(opened):  # noqa: F811
    s = Stub(models=("small", "huge"))
    s.facts = {"small": {"size": 98_300_000, "fits": True, "status": {"value": "loaded"}}, "huge": {"size": 640_000_000_000, "fits": False, "status": {"value": "unloaded"}}}
    o = opened(s)
    o.page.get_by_role("button", name="Settings of this chat").click()
    options = o.page.get_by_role("combobox", name="Model", exact=True).get_by_role("option").all_text_contents()
    assert options == ["small, 98 MB, 1,000 tokens of memory", "huge, 640 GB, 1,000 tokens of memory, unloaded, too large for this computer"]
    s.close()


def test_code_is_copied_on_plain_http(opened, stub):  # noqa: F811
    """A page that came by http from the LAN has no clipboard of the newer kind."""
    o = opened(stub)
    page = o.page
    page.evaluate("Object.defineProperty(navigator, 'clipboard', {value: undefined})")
    stub.scripts.append([("say", "```python\nx = 1\n```\n")])
    o.ask("code")
    ended(page)
    answer(page).get_by_role("button", name="Copy the code").click()
    expect(answer(page).get_by_text("Copied")).to_be_visible()
    page.get_by_role("textbox", name="Your question").focus()
    page.keyboard.press("Control+v")
    expect(page.get_by_role("textbox", name="Your question")).to_have_value("x = 1")


def test_a_chat_that_is_nearly_full_says_so_once(opened):  # noqa: F811
    s = Stub()
    s.facts = {"tiny": {"context_length": 120}}  # an answer of the stub counts 112 tokens
    o = opened(s)
    page, warning = o.page, "The memory of this chat is nearly full. What is older may no longer be seen."
    o.ask("one")
    expect(page.get_by_role("status").filter(has_text=warning)).to_be_visible()
    expect(page.get_by_role("img", name="Memory of this chat: 93 % used")).to_be_visible()
    o.ask("two")
    ended(page)
    expect(page.get_by_text(warning)).to_have_count(0)
    s.close()


def test_a_chat_as_a_page_to_hand_on(opened, stub, chromium, tmp_path):  # noqa: F811
    """One file: it shows what the chat shows, asks nobody for anything, and runs nothing."""
    sources = {"retrieved": [{"file_id": "f", "chunk_id": "c", "filename": "quagga.txt", "place": "Quagga", "text": "It died out in 1883. The rest is ours."}], "facts": [], "annotations": [
        {"type": "file_citation", "file_citation": {"start_index": 0, "end_index": 4, "passage": 1, "quote": "It died out in 1883."}}]}
    stub.chat("conv_share000", "A <b>chat</b> & more", [("user", "<i>Why</i>?"), {"role": "assistant", "sources": sources, "content": """1883 and $x^2$ ![far](https://example.org/a.png) ![own](/icon.svg) <script>document.title = "ran"</script>

```python
def f(): return 1
```
- [x] done"""}])
    o = opened(stub)
    page = o.page
    page.get_by_role("button", name="Rename, pin, export or delete: A <b>chat</b> & more").click()
    with page.expect_download() as d:
        page.get_by_role("menuitem", name="Export as a page to hand on").click()
    assert d.value.suggested_filename == "A-b-chat-b-more.html"
    file = tmp_path / "chat.html"
    d.value.save_as(file)
    asked = []
    other = chromium.new_context(viewport={"width": 390, "height": 844}).new_page()
    other.on("request", lambda r: asked.append(r.url))
    other.goto(file.as_uri())
    assert asked == [file.as_uri()] and other.title() == "A <b>chat</b> & more"
    expect(other.get_by_role("heading", level=1)).to_have_text("A <b>chat</b> & more")
    expect(other.locator(".bubble")).to_have_text("<i>Why</i>?")
    assert other.locator("math").count() == 1 and other.locator(".katex-html, button, script, img").count() == 0
    expect(other.locator(".hl-keyword").first).to_have_text("def")
    assert other.evaluate("getComputedStyle(document.querySelector('.hl-keyword')).color") == "rgb(138, 62, 168)"
    expect(other.get_by_text("own", exact=False).first).to_be_visible()
    expect(other.get_by_role("checkbox", name="done")).to_be_checked()
    expect(other.get_by_role("link", name="Image at example.org: far")).to_have_attribute("href", "https://example.org/a.png")
    other.get_by_role("link", name="1", exact=True).click()
    expect(other.locator("li:target blockquote")).to_have_text("It died out in 1883.")
    assert "The rest is ours." not in file.read_text()
    assert findings(other) == [] and other.evaluate("document.documentElement.scrollWidth <= window.innerWidth")
    shot(other, "handed-on")
    other.context.close()


def test_settings_are_of_the_chat_that_has_them(opened, stub):  # noqa: F811
    o = opened(stub)
    page = o.page
    page.get_by_role("button", name="Settings of this chat").click()
    stub.changes()
    page.get_by_role("textbox", name="Instructions for every answer of this chat").fill("Be short.")
    page.get_by_role("radio", name="Quick").check()
    page.get_by_role("combobox", name="Longest answer").select_option("1200")
    page.get_by_text("Numbers for engineers").click()
    page.get_by_role("spinbutton", name="epsilon").fill("0.05")
    page.get_by_role("spinbutton", name="top_p").fill("7")  # not within its range: not taken
    page.get_by_role("spinbutton", name="seed").fill("9")
    page.keyboard.press("Tab")
    o.check()
    page.keyboard.press("Escape")
    o.ask("one")
    ended(page)
    sent = stub.changes(2)
    body = sent[0][2]
    assert body["messages"] == [{"role": "system", "content": "Be short."}, {"role": "user", "content": "one"}]
    assert (body["max_tokens"], body["sparing"], body["seed"]) == (1200, {"references": False, "costs": False, "path": "light", "epsilon": 0.05}, 9) and "top_p" not in body
    assert sent[1][:2] == ("PATCH", f"/v1/conversations/{body['conversation']}") and sent[1][2]["settings"]["system"] == "Be short."
    expect(page.get_by_role("button", name="Instructions on")).to_be_visible()
    page.get_by_role("button", name="New chat").click()
    o.ask("two")
    ended(page)
    assert stub.changes(1)[0][2]["messages"] == [{"role": "user", "content": "two"}]  # instructions do not go into the next chat


def test_presets(opened, stub):  # noqa: F811
    o = opened(stub)
    page = o.page
    page.get_by_role("button", name="Settings of this chat").click()
    page.get_by_role("textbox", name="Instructions for every answer of this chat").fill("In verse.")
    page.get_by_role("radio", name="Thorough").check()
    page.get_by_role("button", name="Keep these settings").click()
    page.get_by_role("textbox", name="Name of the preset").fill("Poet")
    page.keyboard.press("Enter")
    expect(page.get_by_text("The preset “Poet” was kept in this browser.")).to_be_visible()
    page.reload()
    page.get_by_role("button", name="Settings of this chat").click()
    expect(page.get_by_role("textbox", name="Instructions for every answer of this chat")).to_have_value("")
    page.get_by_role("radio", name="Quick").check()
    page.get_by_role("combobox", name="Preset", exact=True).select_option("Poet")
    expect(page.get_by_role("textbox", name="Instructions for every answer of this chat")).to_have_value("In verse.")
    expect(page.get_by_role("radio", name="Thorough")).to_be_checked()
    o.ask("rain")
    ended(page)
    body = stub.changes(1)[0][2]
    assert body["messages"][0] == {"role": "system", "content": "In verse."} and body["sparing"]["path"] == "full" and body["reasoning_effort"] == "high"
    page.get_by_role("combobox", name="Delete a preset").select_option("Poet")
    expect(page.get_by_role("combobox", name="Preset", exact=True)).to_contain_text("None yet")


def test_collections(opened, stub):  # noqa: F811
    o = opened(stub)
    page = o.page
    page.get_by_role("button", name="Documents", exact=True).click()
    side = page.get_by_role("complementary", name="Documents")
    expect(side).to_contain_text("There is no collection yet.")
    side.get_by_role("textbox", name="Name of a new collection").fill("Contracts")
    side.get_by_role("button", name="Make").click()
    side.get_by_text("Contracts").click()
    side.get_by_label("Files for Contracts").set_input_files([{"name": "rent.txt", "mimeType": "text/plain", "buffer": b"Three months."}])
    remove = side.get_by_role("button", name="Delete rent.txt")
    expect(remove).to_be_visible()
    o.check()
    shot(page, "documents")
    assert [s[:2] for s in stub.changes(3)] == [("POST", "/v1/vector_stores"), ("POST", "/v1/files"), ("POST", "/v1/vector_stores/vs_1/files")]
    remove.click()
    expect(remove).to_have_count(0)
    assert [s[:2] for s in stub.changes(1)] == [("DELETE", "/v1/files/file-1")]


def test_all_chats_at_once(opened, stub, tmp_path):  # noqa: F811
    stub.chat("conv_one00000", "One", [("user", "a"), ("assistant", "b")])
    stub.chat("conv_two00000", "Two", [("user", "a"), ("assistant", "b")])
    o = opened(stub)
    page = o.page
    page.get_by_role("button", name="Preferences").click()
    with page.expect_download() as d:
        page.get_by_role("button", name="Export as JSON").click()
    text = open(d.value.path()).read()
    assert json.loads(text)["conversations"] == ["conv_one00000", "conv_two00000"]
    stub.changes()
    page.get_by_label("File to import").set_input_files([{"name": "chats.json", "mimeType": "application/json", "buffer": text.encode()}])
    expect(page.get_by_text("2 chats came in.")).to_be_visible()
    assert [s[:2] for s in stub.changes(1)] == [("POST", "/v1/conversations/import")]
    page.get_by_label("File to import").set_input_files([{"name": "x.json", "mimeType": "application/json", "buffer": b"{"}])
    expect(page.get_by_text("This file is no export of chats.")).to_be_visible()
    o.check()
    page.get_by_role("button", name="Delete all chats").click()
    dialog = page.get_by_role("dialog", name="Delete all chats?")
    assert stub.changes() == []
    dialog.get_by_role("button", name="Delete all", exact=True).click()
    expect(dialog).to_have_count(0)
    expect(page.get_by_text("Your chats will be listed here.")).to_be_visible()
    assert sorted(s[1] for s in stub.changes(2)) == ["/v1/conversations/conv_one00000", "/v1/conversations/conv_two00000"] and stub.chats == {}


def test_thumbs(opened, stub):  # noqa: F811
    o = opened(stub)
    page = o.page
    o.ask("one")
    ended(page)
    key = body_of(stub.changes(1))["message_id"] + "-a"
    page.get_by_role("button", name="Bad answer").click()
    expect(page.get_by_role("button", name="Bad answer")).to_have_attribute("aria-pressed", "true")
    page.get_by_role("button", name="Too long").click()
    o.check()
    page.locator("form.why").get_by_role("button", name="Send").click()
    expect(page.get_by_text("Thank you.")).to_be_visible()
    assert stub.changes(2) == [("POST", "/feedback", {"metric_name": "thumbs", "value": False, "inference_id": key}), ("POST", "/feedback", {"metric_name": "comment", "value": "Too long", "inference_id": key})]


def test_a_key_is_asked_for_once(opened):  # noqa: F811
    s = Stub(key="right")
    o = opened(s)
    page = o.page
    dialog = page.get_by_role("dialog", name="This server wants a key")
    dialog.get_by_label("Key", exact=True).fill("wrong")
    dialog.get_by_role("button", name="Go on").click()
    expect(dialog).to_contain_text("This key is not known here.")
    o.check()
    shot(page, "key")
    dialog.get_by_label("Key", exact=True).fill("right")
    dialog.get_by_role("radio", name="on this device").check()
    dialog.get_by_role("button", name="Go on").click()
    expect(dialog).to_have_count(0)
    o.ask("hi")
    ended(page)
    expect(answer(page)).to_contain_text("Hello.")
    other = o.context.new_page()  # kept on the device: another tab has it
    other.goto(s.url)
    expect(other.get_by_role("link", name="hi")).to_be_visible()
    expect(other.get_by_role("dialog")).to_have_count(0)
    s.close()


def test_the_page_opens_without_the_server(opened, stub):  # noqa: F811
    """The worker keeps the shell; the list and the chats that were read come from the page's own copy."""
    stub.chat("conv_tax00000", "Tax letter", [("user", "About the tax"), ("assistant", "The heat pump counts.")])
    o = opened(stub, service_workers="allow")
    page = o.page
    page.get_by_role("link", name="Tax letter").click()
    expect(answer(page)).to_contain_text("The heat pump counts.")
    page.wait_for_function("async () => (await (await caches.open('shell-1')).keys()).length > 25")
    stub.is_down = True
    page.goto(stub.url + "/")
    expect(page.get_by_role("alert")).to_contain_text("The server cannot be reached.")
    page.get_by_role("link", name="Tax letter").click()
    expect(answer(page)).to_contain_text("The heat pump counts.")
    kept = page.evaluate("(async () => (await (await caches.open('shell-1')).keys()).map((r) => new URL(r.url).pathname))()")
    assert not [k for k in kept if k.startswith("/v1")]
    o.errors = [e for e in o.errors if "ERR_" not in e]


@pytest.mark.parametrize("what", ["list", "panel"])
def test_on_a_phone_what_is_below_is_out_of_reach(opened, stub, what):  # noqa: F811
    o = opened(stub, "phone")
    page = o.page
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    opener = page.get_by_role("button", name="Open the list of chats" if what == "list" else "Settings of this chat")
    opener.click()
    expect(page.locator("#main")).to_have_attribute("inert", "")
    o.check()
    shot(page, f"phone-{what}")
    page.keyboard.press("Escape")
    expect(page.locator("#main")).not_to_have_attribute("inert", "")
    expect(opener).to_be_focused()


MARKDOWN = r"""# Title
A [link](https://example.org/x), a [bad one](javascript:alert(1)), ![remote](https://example.org/a.png), `code`, ~~old~~, *it*, a<b & c.

- [x] done
- item
  1. inner

| a | b |
|---|--:|
| 1 | 2 |

```python
def f(x):  # a comment
    return "<script>" + x
```

It costs $5 and $6. But $x^2$ and \(y_1\) are formulas, as is
$$\frac{1}{2}$$

> quoted
"""


@pytest.mark.parametrize("size,dark", [("desk", False), ("desk", True), ("phone", False), ("phone", True)])
def test_markdown_is_shown_and_never_run(opened, stub, size, dark):  # noqa: F811
    o = opened(stub, size, dark)
    page = o.page
    stub.scripts.append([("say", MARKDOWN[i:i + 40]) for i in range(0, len(MARKDOWN), 40)])
    o.ask("show")
    ended(page)
    a = answer(page)
    expect(a.get_by_role("heading", name="Title")).to_be_visible()
    expect(a.get_by_role("link", name="link", exact=True)).to_have_attribute("rel", "noreferrer noopener")
    expect(a.get_by_role("link", name="Image at example.org: remote")).to_be_visible()
    expect(a).to_contain_text("[bad one](javascript:alert(1))")
    expect(a).to_contain_text("It costs $5 and $6. But ")
    expect(a.get_by_role("table")).to_contain_text("1")
    expect(a.locator(".katex")).to_have_count(3)
    expect(a.locator(".hl-keyword").first).to_have_text("def")
    expect(a.get_by_role("checkbox", name="done")).to_be_checked()
    expect(a.locator("li.task")).to_have_text("done")
    assert a.locator("ol").evaluate("(e) => e.start") == 1
    assert page.evaluate("[...document.querySelectorAll('#app script, #app a[href^=javascript], .prose img')].length") == 0
    assert page.evaluate("(() => { try { document.body.innerHTML = '<b>x</b>'; return false; } catch { return true; } })()")  # trusted types
    o.errors = [e for e in o.errors if "TrustedHTML" not in e]
    a.get_by_role("button", name="Copy the code").click()
    expect(a.get_by_text("Copied")).to_be_visible()
    assert page.evaluate("navigator.clipboard.readText()") == 'def f(x):  # a comment\n    return "<script>" + x'
    o.check()
    shot(page, f"markdown-{size}-{'dark' if dark else 'light'}")


def test_keyboard(opened, stub):  # noqa: F811
    o = opened(stub)
    page, box = o.page, o.page.get_by_role("textbox", name="Your question")
    expect(box).to_be_focused()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_contain_text("search the chats")
    o.check()
    page.keyboard.press("Escape")
    expect(page.get_by_role("dialog")).to_have_count(0)
    box.press("a")
    page.keyboard.press("Shift+Enter")
    page.keyboard.type("?")
    expect(box).to_have_value("a\n?")
    assert stub.changes() == []
    page.keyboard.press("Enter")
    ended(page)
    assert body_of(stub.changes(1))["messages"][0]["content"] == "a\n?"
    page.keyboard.press("Control+k")
    expect(page.get_by_role("searchbox", name="Search chats")).to_be_focused()
    page.locator("#log").focus()
    page.keyboard.press("/")
    expect(box).to_be_focused()
    page.keyboard.press("ArrowUp")
    expect(page.get_by_role("textbox", name="Edit the question")).to_be_focused()
    page.keyboard.press("Escape")
    page.keyboard.press("Control+Shift+o")
    expect(page.locator("article.turn")).to_have_count(0)
    expect(box).to_be_focused()
    box.evaluate("(b) => { b.value = 'ni'; b.dispatchEvent(new KeyboardEvent('keydown', {key: 'Enter', isComposing: true, bubbles: true})); }")
    assert stub.changes() == []  # an input method's Enter sends nothing


def test_scrolling_obeys_the_reader(opened, stub):  # noqa: F811
    o = opened(stub)
    page = o.page
    stub.scripts.append([("say", "line\n\n" * 80), ("gate",), ("say", "line\n\n" * 20), ("gate",), ("say", "end")])
    o.ask("long")
    at_end = "() => { const b = document.getElementById('log'); return b.scrollTop > 0 && b.scrollHeight - b.scrollTop - b.clientHeight < 4; }"
    page.wait_for_function(at_end)
    page.mouse.move(700, 400)
    page.mouse.wheel(0, -600)
    expect(page.get_by_role("button", name="To the end")).to_be_visible()
    page.wait_for_function("() => { const b = document.getElementById('log'); return b.scrollHeight - b.scrollTop - b.clientHeight > 300; }")
    before = page.evaluate("document.getElementById('log').scrollTop")
    stub.go()
    expect(answer(page).locator("p")).to_have_count(100)
    assert page.evaluate("document.getElementById('log').scrollTop") == before
    page.get_by_role("button", name="To the end").click()
    stub.go()
    ended(page)
    page.wait_for_function(at_end)


def test_chinese_and_themes(opened, stub):  # noqa: F811
    o = opened(stub, locale="zh-CN")
    page = o.page
    expect(page.get_by_role("heading", name="您想知道什么？")).to_be_visible()
    assert page.evaluate("document.documentElement.lang") == "zh-CN"
    o.check()
    shot(page, "chinese")
    page.get_by_role("button", name="偏好设置").click()
    page.get_by_role("combobox", name="语言").select_option("en")
    page.get_by_role("combobox", name="Appearance").select_option("dark")
    page.keyboard.press("Escape")
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    page.reload()
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    assert page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(21, 24, 23)"
    o.check()


def test_every_text_is_in_the_chinese_table():
    """The table has each text of the code, and no other."""
    table = json.loads((ROOT / "web/i18n/zh.json").read_text())
    code = "\n".join(f.read_text() for f in sorted((ROOT / "web/app").glob("*.js")))
    literal = r"'((?:[^'\\\n]|\\.)+)'"
    used = set(re.findall(r"\bt\(" + literal, code))
    for a, b in re.findall(r"\bmany\([^;]*?, " + literal + ", " + literal, code):
        used |= {a, b}
    assert len(used) > 150
    unquoted = {u.replace("\\'", "'") for u in used}
    assert sorted(unquoted - set(table)) == []
    assert not [k for k, v in table.items() if set(re.findall(r"\{\w+\}", v)) - set(re.findall(r"\{\w+\}", k))]
    assert sorted(k for k in table if k not in unquoted and f"'{k}'" not in code.replace("\\'", "'")) == []


def states(o, stub):  # noqa: F811
    """Brings the page into each of its states and yields the state's name."""
    page, button = o.page, lambda name, **more: o.page.get_by_role("button", name=name, **more)
    close = lambda: page.keyboard.press("Escape")  # noqa: E731
    passage = {"file_id": "file-1", "chunk_id": "c1", "filename": "quagga.txt", "place": "Quagga › End", "text": "The quagga died out in 1883. It was a zebra."}
    sources = {"retrieved": [passage], "annotations": [{"file_citation": {"start_index": 0, "end_index": 11, "passage": 1, "quote": "The quagga died out in 1883."}}],
               "facts": [{"subject": "quagga", "predicate": "is a", "object": "zebra", "source": "quagga.txt"}]}
    expect(page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    yield "empty"
    stub.scripts.append([("gate",), ("progress", {"stage": "read", "done": 729, "total": 1176, "eta_ms": 9000}), ("gate",), ("think", "Hm. "), ("say", "Some words "), ("gate",), ("say", MARKDOWN)])
    o.ask("show me")
    expect(button("Stop", exact=True)).to_be_visible()
    yield "waiting"
    stub.go()
    expect(answer(page).get_by_role("status")).to_contain_text("729")
    yield "reading"
    stub.go()
    expect(answer(page)).to_contain_text("Some words")
    yield "writing"
    stub.go()
    ended(page)
    expect(answer(page).locator(".katex").first).to_be_visible()
    answer(page).locator("details.think summary").click()
    for fold in ("details.receipt > summary", "details.receipt details > summary"):
        answer(page).locator(fold).click()
    yield "answer"
    stub.scripts.append([("say", "1883, a zebra."), ("sources", sources)])
    o.ask("When?")
    ended(page)
    answer(page).get_by_role("button", name="Source 1").first.click()
    expect(page.get_by_role("complementary", name="Source 1")).to_be_visible()
    yield "source"
    close()
    button("Bad answer").last.click()
    expect(page.locator("form.why")).to_be_visible()
    yield "feedback"
    page.locator("form.why").get_by_role("button", name="Close").click()
    stub.scripts.append([("say", "Cut"), ("finish", "length")])
    button("Answer again; this one is kept").last.click()
    expect(answer(page)).to_contain_text("Stopped at the length that is set.")
    yield "cut"
    answer(page).get_by_role("button", name="Side by side").click()
    expect(page.get_by_role("dialog", name="Side by side")).to_be_visible()
    yield "compare"
    close()
    button("Edit the question").last.click()
    yield "edit"
    close()
    button("Find in this chat").click()
    page.get_by_role("searchbox", name="Find in this chat").fill("zebra")
    yield "find"
    close()
    stub.scripts += [[("say", "Half"), ("error", {"message": "broke"})]]
    o.ask("and now?")
    expect(answer(page).get_by_role("alert")).to_contain_text("The answer broke off.")
    yield "broken"
    stub.scripts += [[("status", 429, {"error": {"message": "slow down"}}, {"Retry-After": "600"})]]
    o.ask("once more")
    expect(page.locator(".unsent").get_by_role("alert")).to_be_visible()
    yield "refused"
    page.locator(".unsent").get_by_role("button", name="Edit the question").click()
    stub.indexing = [(120, 79)] * 1000
    page.get_by_label("Files", exact=True).set_input_files([{"name": "a.txt", "mimeType": "text/plain", "buffer": b"The quagga."}, {"name": "large.txt", "mimeType": "text/plain", "buffer": b"x" * 2000}])
    expect(page.get_by_role("list", name="Attached")).to_contain_text("41 of 120")
    yield "files"
    stub.indexing = []
    expect(page.get_by_role("list", name="Attached")).to_contain_text("3 passages")
    button("Settings of this chat").click()
    page.get_by_text("Numbers for engineers").click()
    yield "settings"
    page.get_by_text("Numbers for engineers").scroll_into_view_if_needed()
    yield "numbers"
    close()
    opens = page.get_by_role("button", name="Open the list of chats")
    to_list = lambda: opens.click() if opens.is_visible() else None  # noqa: E731
    to_list()
    yield "list"
    page.get_by_role("button", name="Rename, pin, export or delete: show me").click()
    yield "menu"
    close()
    page.get_by_role("searchbox", name="Search chats").fill("nowhere")
    expect(page.get_by_text("Nothing was found.")).to_be_visible()
    yield "not found"
    page.get_by_role("searchbox", name="Search chats").fill("")
    button("Documents", exact=True).click()
    page.get_by_role("complementary", name="Documents").get_by_text("Files of a chat").click()
    expect(button("Delete a.txt")).to_be_visible()
    yield "documents"
    close()
    to_list()
    button("Preferences").click()
    expect(page.get_by_role("dialog", name="Preferences")).to_be_visible()
    yield "preferences"
    button("Delete all chats").click()
    expect(page.get_by_role("dialog", name="Delete all chats?")).to_be_visible()
    yield "delete all"
    close()
    if opens.is_visible() or page.locator("#side.open").count():
        close()
    page.locator("#log").focus()
    page.keyboard.press("?")
    expect(page.get_by_role("dialog", name="Keyboard")).to_be_visible()
    yield "keyboard"
    close()
    button("Delete the question").first.click()
    expect(button("Undo")).to_be_visible()
    said, dock = page.locator(".toast").bounding_box(), page.locator(".dock").bounding_box()
    assert said["y"] + said["height"] <= dock["y"]  # it covers nothing of the box
    yield "undo"
    o.context.set_offline(True)
    expect(page.get_by_text("This device is offline.").first).to_be_visible()
    yield "offline"
    o.context.set_offline(False)


@pytest.mark.parametrize("size", ["desk", "phone"])
@pytest.mark.parametrize("dark", [False, True])
def test_every_state_is_clean(opened, stub, size, dark):  # noqa: F811
    """axe finds nothing in any state, light and dark, wide and narrow, and nothing is wider than the window."""
    o = opened(stub, size, dark)
    found, n = {}, 0
    for name in states(o, stub):
        n += 1
        assert o.page.evaluate("document.documentElement.scrollWidth <= window.innerWidth"), name
        shot(o.page, f"state-{n:02}-{name.replace(' ', '-')}-{size}-{'dark' if dark else 'light'}")
        if problems := findings(o.page):
            found[name] = problems
    print(f"{n} states")
    assert found == {} and n == 25
    o.errors = [e for e in o.errors if "ERR_" not in e]


def test_axe_sees_a_fault(opened, stub):  # noqa: F811
    """The control of all checks by axe."""
    o = opened(stub)
    expect(o.page.get_by_role("heading", name="What would you like to know?")).to_be_visible()
    assert findings(o.page) == []
    o.page.evaluate("document.querySelector('.lead').style.color = '#ddd'")
    assert "color-contrast" in [f[0] for f in findings(o.page)]


def test_size_and_modules():
    """The page is small, its own modules are short, and nothing comes from elsewhere."""
    files = [f for pattern in ("app/*.js", "app/*.css", "vendor/*.js", "vendor/*.css", "i18n/*.json", "index.html", "sw.js", "references.js") for f in (ROOT / "web").glob(pattern)]
    of_chat = [f for f in files if not f.name.startswith(("dash", "uplot"))]
    assert sum(len(gzip.compress(f.read_bytes(), 9)) for f in of_chat) < 205_000  # as a browser gets them
    assert sum(f.stat().st_size for f in of_chat) < 600_000
    own = {f: f.read_text().splitlines() for f in files if f.parent.name == "app"}
    assert [f.name for f, lines in own.items() if len(lines) >= 400 or any(len(x) > 100 for x in lines) and f.suffix != ".json"] == []
    asked = set(re.findall(r'"/a/@/app/(\w+)\.js"', (ROOT / "web/index.html").read_text()))  # at once, not one behind the other
    assert asked == {f.stem for f in files if f.parent.name == "app" and f.suffix == ".js" and not f.name.startswith("dash")}
    for f in files:
        if f.parent.name != "vendor":
            assert not re.search(r"(?:src|href|import|fetch|url)\W{1,3}https?://", f.read_text()), f
