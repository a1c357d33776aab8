"""Several servers on one PostgreSQL (--state): what one of them keeps, the others have."""
import concurrent.futures
import contextlib
import signal

import pytest

from conftest import MODEL, Server, wait_until, write_keys
from databases import make_database, select
from test_placement import place, write

OURS, OTHERS = {"Authorization": "Bearer k-a"}, {"Authorization": "Bearer k-b"}


@pytest.fixture(scope="module")
def url(postgres):
    return make_database(postgres)


@pytest.fixture(scope="module")
def start(url, tmp_path_factory):
    """Starts a server on the database that all tests here share."""
    keys = write_keys(tmp_path_factory.mktemp("state") / "keys", {"k-a": "a operator", "k-b": "b"})
    return lambda *args: Server("--state", url, "--state-lease", "3", "--keys", keys, *args, keeps=True)


@pytest.fixture(scope="module")
def pair(start):
    both = [start(), start()]
    yield both
    for s in both:
        assert s.stop() == 0


def post(s, path, **kw):
    r = s.http.post(path, headers=OURS, **kw)
    assert r.status_code == 200, r.text
    return r.json()


def get(s, path, who=OURS):
    return s.http.get(path, headers=who)


def put_file(s, text, name="f.txt"):
    return post(s, "/v1/files", files={"file": (name, text)}, data={"purpose": "assistants"})["id"]


def search(s, store, text):
    return [hit["content"][0]["text"] for hit in post(s, f"/v1/vector_stores/{store}/search", json={"query": text})["data"]]


def test_a_file_of_one_is_attached_on_the_other_and_found_on_both(pair):
    one, two = pair
    file = put_file(one, "The lighthouse of Zirkonia was built in 1741.")
    assert get(two, f"/v1/files/{file}/content").text == "The lighthouse of Zirkonia was built in 1741."
    store = post(two, "/v1/vector_stores", json={"name": "shared"})["id"]
    post(two, f"/v1/vector_stores/{store}/files", json={"file_id": file})
    for s in pair:
        wait_until(lambda s=s: get(s, f"/v1/vector_stores/{store}/files/{file}").json()["status"] == "completed", "the document")
        assert any("1741" in hit for hit in search(s, store, "When was the lighthouse built?"))
    assert one.http.delete(f"/v1/files/{file}", headers=OURS).status_code == 200
    assert get(two, f"/v1/files/{file}").status_code == 404 and search(two, store, "lighthouse") == []


def test_tenants_stay_apart_on_every_server(pair):
    one, two = pair
    file, store = put_file(one, "A secret."), post(one, "/v1/vector_stores", json={"name": "mine"})["id"]
    for s in pair:
        assert get(s, f"/v1/files/{file}", OTHERS).status_code == 404 and get(s, f"/v1/vector_stores/{store}", OTHERS).status_code == 404
    assert get(two, f"/v1/files/{file}").status_code == 200


def test_feedback_to_an_answer_of_one_is_taken_by_the_other(pair):
    one, two = pair
    answer = post(one, "/v1/chat/completions", json={"messages": [{"role": "user", "content": "Hi"}], "max_tokens": 4})["id"]
    wait_until(lambda: two.http.post("/feedback", headers=OURS, json={"metric_name": "thumbs", "inference_id": answer, "value": True}).status_code == 200, "the answer's row")
    wait_until(lambda: answer in get(one, "/v1/feedback").text, "the feedback")
    assert two.http.post("/feedback", headers=OTHERS, json={"metric_name": "thumbs", "inference_id": answer, "value": True}).status_code == 404


def test_what_one_began_the_other_finishes_when_it_is_killed(pair, start):
    """A document that was attached and not yet read when its server was killed: encoding its 20 chunks takes seconds, killing does not."""
    one, two = start(), pair[1]
    file = put_file(one, "word and number. " * 1000 + "The quagga died out in 1883.")
    store = post(one, "/v1/vector_stores", json={"name": "big"})["id"]
    post(one, f"/v1/vector_stores/{store}/files", json={"file_id": file})
    one.kill()
    post(two, f"/v1/vector_stores", json={"name": "wakes it"})
    wait_until(lambda: get(two, f"/v1/vector_stores/{store}/files/{file}").json()["status"] == "completed", "the document")
    assert any("1883" in hit for hit in search(two, store, "When did the quagga die out?"))


# --- conversations --------------------------------------------------------------------------------

def messages(s, conv):
    return get(s, f"/v1/conversations/{conv}/items?before=end").json()["data"]


def words(message):
    return message["content"][0]["text"]


def ask(text, **kw):
    return {"messages": [{"role": "user", "content": text}], "temperature": 0, "max_tokens": 4, **kw}


@contextlib.contextmanager
def begun(s, conv, **kw):
    """An answer of a conversation of which the first words have come."""
    body = ask("Tell a long story.", stream=True, ignore_eos=True, conversation=conv, message_id="msg_story_1", **kw)
    with s.http.stream("POST", "/v1/chat/completions", json=body, headers=OURS) as r:
        lines = r.iter_lines()
        next(line for line in lines if '"content":' in line and '"content":""' not in line)
        yield lines


def test_what_one_was_asked_the_other_goes_on_with(pair):
    one, two = pair
    first = post(one, "/v1/chat/completions", json=ask("My name is Ada.", store=True))
    second = post(two, "/v1/chat/completions", json=ask("And yours?", previous_response_id=first["id"]))
    third = post(one, "/v1/chat/completions", json=ask("Good.", conversation=second["conversation"]["id"]))
    assert first["conversation"] == second["conversation"] == third["conversation"]
    conv = first["conversation"]["id"]
    assert [words(m) for m in messages(two, conv)][::2] == ["My name is Ada.", "And yours?", "Good."] and messages(one, conv) == messages(two, conv)
    kept = post(two, "/v1/responses", json={"input": "Hello.", "max_output_tokens": 4})
    wait_until(lambda: get(one, f"/v1/responses/{kept['id']}").json()["output"] == kept["output"], "the response as it was told")
    assert get(two, f"/v1/conversations/{conv}", OTHERS).status_code == 404
    assert one.http.delete(f"/v1/responses/{kept['id']}", headers=OURS).status_code == 200 and get(two, f"/v1/responses/{kept['id']}").status_code == 404


def test_messages_of_both_at_once_are_all_there(pair):
    conv = post(pair[0], "/v1/conversations", json={})["id"]

    def add(i):
        return post(pair[i % 2], f"/v1/conversations/{conv}/items", json={"items": [{"role": "user", "content": f"item {i}"}]})

    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        list(pool.map(add, range(40)))
    got = post(pair[0], "/v1/conversations/import", json=get(pair[1], f"/v1/conversations/export?format=json&id={conv}").json())
    assert got["items"] == 40 and get(pair[1], f"/v1/conversations/{conv}").json()["item_count"] == 40


def test_an_answer_in_the_making_is_told_by_both(pair):
    one, two = pair
    conv = "conv_stopped_1"
    with begun(one, conv, max_tokens=1500) as lines:
        one.proc.send_signal(signal.SIGSTOP)
        answer = messages(two, conv)[-1]
        assert answer["state"] == "running" and answer["id"] == "msg_story_1-a"
        again = two.http.post("/v1/chat/completions", headers=OURS, json=ask("Tell a long story.", conversation=conv, message_id="msg_story_1"))
        assert again.status_code == 409 and again.json()["error"]["code"] == "answer_in_progress"
        wait_until(lambda: messages(two, conv)[-1]["state"] == "failed", "the lease")  # it is not heard of
        one.proc.send_signal(signal.SIGCONT)
        for _ in lines:
            pass
    answer = messages(two, conv)[-1]  # it was alive after all
    assert answer["state"] == "cut" and answer["id"] == "msg_story_1-a" and len(words(answer)) > 1000


def test_an_answer_of_a_server_that_was_killed_goes_on_elsewhere(pair, url, start):
    conv, three = "conv_killed_1", start("-m", str(MODEL))
    with begun(three, conv, max_tokens=8000):
        wait_until(lambda: words(messages(pair[0], conv)[-1]), "a draft")
        three.proc.kill()
    three.kill()
    wait_until(lambda: messages(pair[0], conv)[-1]["state"] == "failed", "the lease")
    before = words(messages(pair[1], conv)[-1])
    more = {"messages": [], "conversation": conv, "message_id": "msg_more_1", "parent": "msg_story_1-a", "max_tokens": 8, "ignore_eos": True}
    post(pair[1], "/v1/chat/completions", json=more)
    answer = messages(pair[0], conv)[-1]
    assert answer["id"] == "msg_more_1" and answer["state"] == "cut"
    assert words(answer).startswith(before) and len(words(answer)) > len(before)
    wait_until(lambda: select(url, "SELECT count(*) FROM item WHERE status='running'") == [("0",)], "the end")


def test_what_one_deletes_leaves_the_pages_of_the_other(pair):
    one, two = pair
    text = "The heron stands in the reeds and waits. " * 30

    def known(conv):
        return post(two, "/v1/chat/completions", json=ask(text, conversation=conv))["usage"]["sparing"]["prompt_tokens"]["ram"]

    conv = post(one, "/v1/conversations", json={})["id"]
    assert known(conv) == 0 and known(post(two, "/v1/conversations", json={})["id"]) > 0
    assert one.http.delete("/v1/tenant", headers=OURS).status_code == 200
    wait_until(lambda: known(post(two, "/v1/conversations", json={})["id"]) == 0, "the pages")


def test_an_option_of_its_own_stands_above_it(url, tmp_path):
    s = Server("--state", url, "--knowledge", str(tmp_path / "k.db"))
    s.http.post("/v1/vector_stores", json={"name": "here"})
    assert (tmp_path / "k.db").exists() and s.stop() == 0
    s = Server("--state", url)
    assert s.http.get("/v1/vector_stores").json()["data"] == [] and s.stop() == 0


def test_what_is_no_address_is_refused(tmp_path):
    with pytest.raises(RuntimeError, match="(?s)ended with 3.*state: 'state.db' is no postgresql://"):
        Server("--state", "state.db")
    file = write(tmp_path / "p.yaml", [place("db", where="private", roles=["traces"], address="postgresql://db.example")])
    with pytest.raises(RuntimeError, match="(?s)ended with 3.*state: the placement file has no place"):
        Server("--state", "postgresql://db.example/x", "--placement", file)
