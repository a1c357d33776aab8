"""Encoders and rerankers as GGUF against PyTorch: tiny checkpoints with random weights (test/golden/families_encoders.py)."""
import json
import subprocess

import numpy as np
import pytest

from conftest import GOLDEN, LEVELS, run, tool
from ggufs import Gguf

VECTORS = ["fam-bert", "fam-nomic-bert", "fam-modern-bert", "fam-gemma-embedding", "fam-qwen3-embedding"]
RANKERS = ["fam-bert-rank", "fam-qwen3-rank"]
ENCODERS = VECTORS + RANKERS


def golden(name):
    return json.loads((GOLDEN / f"{name}.json").read_text())


def run_states(name, level=LEVELS[-1], copies=0):
    """The last states, and the vector or score behind them."""
    g = golden(name)
    out = subprocess.run([tool("states"), str(GOLDEN / f"{name}.gguf"), level, str(copies)], input=" ".join(map(str, g["ids"])).encode(),
                         stdout=subprocess.PIPE, check=True).stdout
    x = np.frombuffer(out, np.float32).astype(np.float64)
    n = len(g["ids"]) * len(g["states"][0])
    return x[:n].reshape(len(g["ids"]), -1), x[n:]


def nmse(ours, want):
    want = np.array(want)
    return ((ours - want) ** 2).sum() / (want ** 2).sum()


def unit(x):
    return np.array(x) / np.linalg.norm(x)


def test_every_recorded_encoder_is_here():
    assert sorted(ENCODERS) == sorted(p.stem for p in GOLDEN.glob("fam-*.json") if "states" in golden(p.stem))


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", ENCODERS)
def test_states_and_what_is_made_of_them_agree_with_pytorch(name, level):
    g = golden(name)
    states, pooled = run_states(name, level)
    assert nmse(states[g["rows"]], g["states"]) <= 1e-8
    assert nmse(pooled, unit(g["pooled"]) if name in VECTORS else g["pooled"]) <= 1e-8


@pytest.mark.parametrize("copies", [1, 4])
@pytest.mark.parametrize("name", ENCODERS)
def test_company_changes_no_bit(name, copies):
    assert np.array_equal(run_states(name)[0], run_states(name, copies=copies)[0])


def test_models_says_what_an_encoder_is():
    one = json.loads(run("models", "--json", GOLDEN / "fam-gemma-embedding.gguf").stdout)[0]
    assert one["runs"] and one["context"] == 256 and one["encoder"] == {"kind": "embedding", "pooling": "mean", "dimensions": 32}
    one = json.loads(run("models", "--json", GOLDEN / "fam-qwen3-rank.gguf").stdout)[0]
    assert one["runs"] and one["encoder"]["kind"] == "reranker"
    assert "mean pooling, vectors of 32" in run("models", GOLDEN / "fam-bert.gguf").stdout
    assert "encoder" not in json.loads(run("models", "--json", GOLDEN / "fam-qwen3.gguf").stdout)[0]


def test_an_encoder_is_no_decoder_and_a_decoder_no_encoder():
    r = run("run", "-m", GOLDEN / "fam-bert.gguf", "Hi", check=False)
    assert r.returncode == 4 and "fam-bert.gguf: is an encoder and writes no answers: --encoder takes it" in r.stderr
    r = run("embed", "--encoder", GOLDEN / "fam-qwen3.gguf", "Hi", check=False)
    assert r.returncode == 4 and "fam-qwen3.gguf" in r.stderr and "qwen3.pooling_type is no encoder" in r.stderr


def embedded(path):
    return json.loads(run("embed", "--encoder", path, "!a").stdout)


def states_vector(path, ids):
    out = subprocess.run([tool("states"), str(path)], input=" ".join(map(str, ids)).encode(), stdout=subprocess.PIPE, check=True).stdout
    return np.frombuffer(out, np.float32)[-32:]


def test_the_last_state_is_that_of_the_end_mark(tmp_path):
    """Where the file does not say whether texts end with one; it may say that they do not."""
    path = GOLDEN / "fam-qwen3-embedding.gguf"
    assert np.allclose(embedded(path), states_vector(path, [3, 67, 2]), atol=1e-6)
    g = Gguf(path)
    g.keys["tokenizer.ggml.add_eos_token"] = (7, False)
    assert np.allclose(embedded(g.write(tmp_path / "bare.gguf")), states_vector(path, [3, 67]), atol=1e-6)


def test_embed_takes_a_file_and_a_name():
    by_path = json.loads(run("embed", "--encoder", GOLDEN / "fam-bert.gguf", "Hi there").stdout)
    by_name = json.loads(run("embed", "--models-dir", GOLDEN, "--encoder", "fam-bert", "Hi there").stdout)
    assert len(by_path) == 32 and by_path == by_name and abs(np.linalg.norm(by_path) - 1) < 1e-6
