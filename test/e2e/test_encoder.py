"""The sentence encoder against `tokenizers` and sentence-transformers, through the API."""
import base64
import concurrent.futures
import json

import numpy as np
import pytest

from conftest import GOLDEN, run

DATA = json.loads((GOLDEN / "encoder.json").read_text())


def test_cosine_with_sentence_transformers(server):
    rows = [r for r in DATA["sentences"] if r["text"]]
    got = server.http.post("/v1/embeddings", json={"input": [r["text"] for r in rows]}).json()["data"]
    for r, g in zip(rows, got):
        a, b = np.array(r["vector"]), np.array(g["embedding"])
        assert a @ b / np.linalg.norm(a) / np.linalg.norm(b) >= 0.9999, r["text"]
        assert abs(np.linalg.norm(b) - 1) < 1e-5


# Punctuation since Unicode 11 and 14: the oracle's tables are older, utf8proc's are not.
NEWER = {"\u0a76", "\u061d"}


def test_token_counts_equal_tokenizers(server):
    rows = [r for r in DATA["rows"] if not NEWER & set(r["text"])]
    assert len(rows) >= len(DATA["rows"]) - 2
    for r in rows:
        if 0 < len(r["ids"]) <= 256 and r["text"]:
            usage = server.http.post("/v1/embeddings", json={"input": r["text"]}).json()["usage"]
            assert usage["prompt_tokens"] == len(r["ids"]), r["text"]


def test_base64_and_command_line(server):
    text = "The cat sits outside."
    floats = server.http.post("/v1/embeddings", json={"input": text}).json()["data"][0]["embedding"]
    coded = server.http.post("/v1/embeddings", json={"input": text, "encoding_format": "base64"}).json()["data"][0]["embedding"]
    assert np.allclose(np.frombuffer(base64.b64decode(coded), np.float32), floats, atol=1e-7)
    assert np.allclose(json.loads(run("embed", text).stdout), floats, atol=1e-7)


def test_long_texts_are_read_in_windows(server):
    """Of about the same length, each with marks; the vector is their mean, counted by tokens."""
    words = [f"w{i % 10}" for i in range(700)]  # two tokens each
    status, j = embed(server, input=["a", " ".join(words)])
    assert status == 200 and j["usage"]["sparing"]["windows"] == [{"index": 1, "windows": 6}] and j["usage"]["prompt_tokens"] == 3 + 1400 + 2 * 6
    status, j = embed(server, input="a " * 600)
    parts = vectors(server, input=["a " * 200] * 3)
    assert j["usage"]["sparing"]["windows"] == [{"index": 0, "windows": 3}]
    assert np.allclose(j["data"][0]["embedding"], parts.mean(0) / np.linalg.norm(parts.mean(0)), atol=1e-6)
    one, two = vectors(server, input=["b " * 200, "c " * 200])
    mixed = vectors(server, input="b " * 200 + "c " * 200)[0]
    assert np.allclose(mixed, (one + two) / np.linalg.norm(one + two), atol=1e-6)
    status, j = embed(server, input="a " * 20000)
    assert status == 400 and "79 windows of 256" in j["error"]["message"]


def test_too_long_is_refused_with_both_numbers_where_it_is_asked(server):
    status, j = embed(server, input="word " * 400, truncate=False)
    assert status == 400 and "402" in j["error"]["message"] and "256" in j["error"]["message"]


def test_vectors_of_last_tokens_are_not_averaged(make_server):
    s = make_server("--kv-bytes", "64M", "--encoder", str(GOLDEN / "fam-qwen3-embedding.gguf"))
    status, j = embed(s, input="ab" * 200)
    assert status == 400 and "takes at most 256" in j["error"]["message"]


# --- what clients send ---------------------------------------------------------------------------

def embed(server, **body):
    r = server.http.post("/v1/embeddings", json=body)
    return r.status_code, r.json()


def vectors(server, **body):
    status, j = embed(server, **body)
    assert status == 200, j
    assert [d["index"] for d in j["data"]] == list(range(len(j["data"])))
    return np.array([d["embedding"] for d in j["data"]])


def test_many_inputs_are_one_job(server):
    """More than the queue holds, while others ask: all come, in order, and each is what it is alone."""
    texts = [f"item {i} of {i % 7}" for i in range(600)]
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        many = pool.submit(vectors, server, input=texts)
        chats = [pool.submit(server.chat, max_tokens=3) for _ in range(3)]
        one = pool.submit(vectors, server, input="item 500 of 3")
        assert all(c.result().status_code == 200 for c in chats) and np.allclose(many.result()[500], one.result()[0], atol=1e-6)
    assert many.result().shape == (600, 384)
    assert embed(server, input=["x"] * 2049)[0] == 400


def test_token_ids(server):
    """Ids of the encoder's own vocabulary, with its marks; those of another tokenizer are refused with what helps."""
    text = vectors(server, input="hello")
    assert np.allclose(vectors(server, input=[[101, 7592, 102]]), text, atol=1e-6) and np.allclose(vectors(server, input=[101, 7592, 102]), text, atol=1e-6)
    mixed = vectors(server, input=["hello", [101, 7592, 102]])
    assert np.allclose(mixed[0], mixed[1], atol=1e-6)
    for ids in ([[6151]], [6151], [[]], [[101]], [[101, 7592]], [[102, 7592, 101]]):
        status, j = embed(server, input=ids)
        assert status == 400 and "check_embedding_ctx_length=False" in j["error"]["message"] and j["error"]["param"] == "input"
    for ids in ([[101, 30522, 102]], [[101, -1, 102]], [[101, "x", 102]], [[101, 1.5, 102]], [101, "x", 102]):
        status, j = embed(server, input=ids)
        assert status == 400 and "input[0][1] is not a token id from 0 to 30521" in j["error"]["message"]


def test_long_texts_stand_by_their_beginning_when_asked(server):
    long = "word " * 400
    status, j = embed(server, input=["a", long], truncate=False)
    assert status == 400 and "input[1] has 402 tokens" in j["error"]["message"] and "truncate" in j["error"]["message"]
    status, j = embed(server, input=["a", long, "b", long], truncate=True)
    assert status == 200 and j["usage"]["sparing"]["truncated"] == [1, 3] and j["usage"]["prompt_tokens"] == 3 + 256 + 3 + 256
    assert np.allclose(j["data"][1]["embedding"], vectors(server, input="word " * 254)[0], atol=1e-6)
    status, j = embed(server, input=long, truncate_prompt_tokens=10)
    assert status == 200 and j["usage"]["prompt_tokens"] == 10 and np.allclose(j["data"][0]["embedding"], vectors(server, input="word " * 8)[0], atol=1e-6)
    assert embed(server, input=long, truncate_prompt_tokens=-1)[1]["usage"]["prompt_tokens"] == 256
    assert embed(server, input=long, truncate_prompt_tokens=100000)[1]["usage"]["prompt_tokens"] == 256
    assert "sparing" not in embed(server, input="a", truncate=True)[1]["usage"]


@pytest.mark.parametrize("body,param", [({"input": ""}, "input"), ({"input": []}, "input"), ({"input": [1.5]}, "input"), ({"input": {}}, "input"), ({}, "input"),
                                        ({"input": "a", "dimensions": 385}, "dimensions"), ({"input": "a", "encoding_format": "x"}, "encoding_format"),
                                        ({"input": "a", "truncate_prompt_tokens": 2}, "truncate_prompt_tokens"), ({"input": "a", "no_such": 1}, "no_such")])
def test_refusals(server, body, param):
    status, j = embed(server, **body)
    assert status == 400 and j["error"]["param"] == param


def test_fewer_dimensions(server):
    """The first numbers, at the length of a whole vector; the answer says that they are not all."""
    texts = ["A cat sleeps.", "word " * 600]
    whole = vectors(server, input=texts)
    status, j = embed(server, input=texts, dimensions=100)
    assert status == 200 and j["usage"]["sparing"]["dimensions"] == {"told": 100, "whole": 384}
    for d, v in zip(j["data"], whole):
        first = np.array(v[:100])
        assert np.allclose(d["embedding"], first / np.linalg.norm(first), atol=1e-5)
    raw = embed(server, input=texts, dimensions=100, encoding_format="base64")[1]["data"][0]["embedding"]
    assert np.allclose(np.frombuffer(base64.b64decode(raw), np.float32), j["data"][0]["embedding"], atol=1e-6)
    r = server.http.post("/api/embed", json={"model": "all-MiniLM-L6-v2", "input": texts, "dimensions": 100}).json()
    assert np.allclose(r["embeddings"][0], j["data"][0]["embedding"], atol=1e-6) and len(r["embeddings"]) == 2


def test_parameters_without_effect_are_named(server):
    status, j = embed(server, input="a", dimensions=384, user="u", metadata={"a": "b"}, normalize=True)
    assert status == 200 and sorted(j["usage"]["sparing"]["ignored"]) == ["metadata", "user"]
