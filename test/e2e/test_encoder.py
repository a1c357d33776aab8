"""The sentence encoder against `tokenizers` and sentence-transformers, through the API."""
import base64
import json

import numpy as np

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


def test_too_long_is_refused_with_both_numbers(server):
    r = server.http.post("/v1/embeddings", json={"input": "word " * 400})
    assert r.status_code == 400 and "402" in r.json()["error"]["message"] and "256" in r.json()["error"]["message"]
