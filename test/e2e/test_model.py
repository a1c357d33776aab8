"""Logits against PyTorch on tiny random checkpoints, and against llama.cpp on SmolLM2."""
import json
import subprocess

import numpy as np
import pytest

from conftest import BIN, GOLDEN, LEVELS, MODEL, ROOT, run, tool

TINY = sorted(p.stem for p in GOLDEN.glob("tiny-*.gguf"))


def logits_of(model, texts, kv="f32", *more, n=None):
    """Logits of each text: a model is opened once for all of them. n: how many of each are asked for with rows=."""
    out = subprocess.run([tool("logits"), str(model), kv, *more], input="\n".join(" ".join(map(str, ids)) for ids in texts).encode(),
                         stdout=subprocess.PIPE, check=True).stdout
    n = [n or len(ids) for ids in texts]
    return np.split(np.frombuffer(out, np.float32).reshape(sum(n), -1), np.cumsum(n)[:-1])


def logits(model, ids, kv="f32", *more, n=None):
    return logits_of(model, [ids], kv, *more, n=n)[0]


def log_softmax(x):
    x = x.astype(np.float64) - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def test_there_are_variants():
    assert len(TINY) >= 6


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", TINY)
def test_agrees_with_pytorch(name, level):
    g = json.loads((GOLDEN / f"{name}.json").read_text())
    ours = logits(GOLDEN / f"{name}.gguf", g["ids"], "f32", level)[g["rows"]].astype(np.float64)
    want = np.array(g["logits"])
    nmse = ((ours - want) ** 2).sum() / (want ** 2).sum()
    assert nmse <= 1e-8


@pytest.mark.parametrize("chunk", ["1", "7", "32", "33"])
def test_chunking_changes_no_bit(chunk):
    g = json.loads((GOLDEN / "tiny-gqa-tied.json").read_text())
    path = GOLDEN / "tiny-gqa-tied.gguf"
    assert np.array_equal(logits(path, g["ids"], "f16", "avx512bf16"), logits(path, g["ids"], "f16", "avx512bf16", chunk))


@pytest.mark.parametrize("kv", ["f16", "q8", "q4"])
def test_quantised_chunking_changes_no_bit(kv):
    ids = [t for r in json.loads((GOLDEN / "peer.json").read_text())["rows"][:4] for t in r["ids"]]
    assert len(ids) > 64
    assert np.array_equal(logits(MODEL, ids, kv), logits(MODEL, ids, kv, "avx512bf16", "5"))


def test_hi_planes_bound_the_scores_of_real_keys():
    ids = [t for r in json.loads((GOLDEN / "peer.json").read_text())["rows"][:12] for t in r["ids"]][:1000]
    out = subprocess.run([tool("bounds"), str(MODEL)], input=" ".join(map(str, ids)), capture_output=True, text=True, check=True).stdout
    checks, over, largest = out.split()
    assert int(checks) > 10 ** 6 and int(over) == 0 and 0.1 < float(largest) <= 1.00001


def perplexity(kv, n, text):
    out = subprocess.run([BIN, "perplexity", "-m", MODEL, "-f", text, "-c", str(n), "--kv-type", kv,
                          "--json"], capture_output=True, text=True, check=True).stdout
    return json.loads(out)["perplexity"]


@pytest.mark.golden
@pytest.mark.parametrize("n,n_char,of_q8,of_q4", [(1024, 9600, 5e-3, 3e-2), pytest.param(8192, -1, 1e-3, 1e-2, marks=pytest.mark.long)])
def test_page_formats_keep_perplexity(n, n_char, of_q8, of_q4, tmp_path):
    """Against plain f16 pages; q4 is demoted. Measured at 8,192 tokens: 0.01 % and 0.85 %. A short text is noisier: q8 was 0.31 % better."""
    text = tmp_path / "text"
    text.write_text((ROOT / "test/data/licences.txt").read_text()[:n_char])
    plain = perplexity("f16", n, text)
    assert abs(perplexity("q8", n, text) / plain - 1) <= of_q8
    assert abs(perplexity("q4", n, text) / plain - 1) <= of_q4


def against_peer(which, *flags):
    """Mean KL over the peer's 64 likeliest tokens and the rest as one bucket (a lower bound of the full one, and
    close to it), and top-1 agreement, teacher-forced on the peer's greedy text."""
    rows = json.loads((GOLDEN / "peer.json").read_text())["rows"]
    assert len(rows) == 50
    kl, agree = [], []
    for r, ours in zip(rows, logits_of(MODEL, [r["ids"] for r in rows], "f16", *flags)):
        ours = log_softmax(ours[r["first"]:])
        top, lp = np.array(r[which]["top"]), np.array(r[which]["logprob"])
        q = np.take_along_axis(ours, top, 1)
        rest_p, rest_q = np.maximum(1 - np.exp(lp).sum(1), 1e-9), np.maximum(1 - np.exp(q).sum(1), 1e-9)
        kl += ((np.exp(lp) * (lp - q)).sum(1) + rest_p * np.log(rest_p / rest_q)).tolist()
        agree += (ours.argmax(1) == top[:, 0]).tolist()
    print(f"{which}: KL {np.mean(kl):.2e}, top-1 {np.mean(agree):.4f} of {len(agree)}")
    return np.mean(kl), np.mean(agree)


@pytest.mark.golden
def test_agrees_with_llama_cpp_on_exact_weights():
    kl, top1 = against_peer("f32", "avx512bf16", "4096", "exact")
    assert kl <= 2e-4 and top1 >= 0.99


@pytest.mark.golden
def test_agrees_with_llama_cpp_within_its_own_noise():
    """On Q4_1 both programs round activations to 8 bits; llama.cpp is 2e-3 from itself when the batch changes
    (peer_against_itself in the golden). docs/DECISIONS.md has the measurements."""
    kl, top1 = against_peer("q4_1")
    assert kl <= 5e-3 and top1 >= 0.965


@pytest.mark.golden
@pytest.mark.long
def test_perplexity_as_llama_perplexity():
    want = json.loads((GOLDEN / "peer.json").read_text())["perplexity_512"]
    p = json.loads(run("perplexity", "-m", MODEL, "-f", ROOT / "test/data/licences.txt", "-c", 512, "--json").stdout)
    assert abs(p["perplexity"] / want - 1) <= 0.003
