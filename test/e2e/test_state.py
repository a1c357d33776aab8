"""Several servers on one PostgreSQL (--state): what one of them keeps, the others have."""
import itertools
import os
import signal

import pytest

from conftest import Server, wait_until, write_keys
from test_knowledge import postgres  # noqa: F401, a fixture
from test_placement import place, write

NUMBER = itertools.count()
OURS, OTHERS = {"Authorization": "Bearer k-a"}, {"Authorization": "Bearer k-b"}


@pytest.fixture
def url(postgres):  # noqa: F811
    name = f"s{os.getpid()}_{next(NUMBER)}"
    postgres.psql(f"CREATE DATABASE {name}")
    return postgres.get_uri(database=name)


@pytest.fixture
def pair(url, tmp_path):
    keys = write_keys(tmp_path / "keys", {"k-a": "a operator", "k-b": "b"})
    both = [Server("--state", url, "--keys", keys) for _ in range(2)]
    yield both
    for s in both:
        if s.proc.poll() is None:
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


def test_what_one_began_the_other_finishes_when_it_is_killed(pair):
    """A document that was attached and not yet read when its server was killed."""
    one, two = pair
    file = put_file(one, "word and number. " * 20000 + "The quagga died out in 1883.")
    store = post(one, "/v1/vector_stores", json={"name": "big"})["id"]
    post(one, f"/v1/vector_stores/{store}/files", json={"file_id": file})
    one.proc.send_signal(signal.SIGKILL)
    one.proc.wait()
    post(two, f"/v1/vector_stores", json={"name": "wakes it"})
    wait_until(lambda: get(two, f"/v1/vector_stores/{store}/files/{file}").json()["status"] == "completed", "the document")
    assert any("1883" in hit for hit in search(two, store, "When did the quagga die out?"))


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
