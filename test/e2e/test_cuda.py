"""The CUDA device over threads that are imitated: whole models against PyTorch, bits that depend on
neither chunks nor company, and a server. The operations alone are tested by test_cuda. Nothing here
needs a GPU."""
import json
import os
import pathlib
import subprocess

import numpy as np
import pytest

from conftest import BIN, GOLDEN, Server, run, tool
from ggufs import Gguf
from test_families import DENSE, EXPERTS, HYBRIDS, golden, is_dense, nmse, of
from test_model import logits

HOST = BIN.parent / "src/dev/cuda/libsparing_cuda_host.so"
LIBRARY = pathlib.Path(os.environ.get("SPARING_CUDA_LIBRARY", HOST))  # scripts/gpu
CUDA = f"device=cuda:{LIBRARY}"
FAMILIES = sorted(
    p.stem
    for p in GOLDEN.glob("fam-*.json")
    if golden(p)["arch"] in DENSE and "logits" in golden(p) and is_dense(p)
) + EXPERTS + HYBRIDS

pytestmark = pytest.mark.skipif(not LIBRARY.exists(), reason="there was no C++ compiler")


@pytest.fixture(scope="module")
def quick_cuda(quick_model):
    s = Server("-m", quick_model, "--device", f"cuda:{LIBRARY}")
    yield s
    assert s.stop() == 0, s.log


@pytest.mark.parametrize("name", FAMILIES)
def test_logits_agree_with_pytorch(name):
    path, g, words = of(name)
    ours = logits(path, g["ids"], "f32", "avx512bf16", "0", *words, CUDA)
    # queries, weights of attention and values have 11 bits; Gemma 4 does not scale its scores down
    if name != "fam-deepseek2":
        assert nmse(ours, g) <= (2e-5 if name == "fam-gemma4" else 1e-5)
        return
    # two of its tokens have experts that score alike, of which rounding chooses another
    exact = logits(path, g["ids"], "f32", "avx512bf16", "0", *words)
    rows = ((ours - exact) ** 2).mean(axis=1) / (exact**2).mean()
    assert nmse(exact, g) < 1e-8 and np.median(rows) <= 1e-5, rows
    assert (rows > 1e-3).sum() <= 6, rows


@pytest.mark.parametrize("kv", ["f16", "q8"])
@pytest.mark.parametrize("name", ["fam-llama-head96", "fam-gemma3", "fam-mixtral", "fam-qwen35",
                                  "fam-deepseek2-lite"])
def test_neither_chunks_nor_company_change_a_bit(name, kv):
    path, g, words = of(name)
    ids = g["ids"][:70]
    whole = logits(path, ids, kv, "avx512bf16", "0", *words, CUDA)
    for how in (["33"], ["5", "batch"], ["1"]):  # few tokens: steps, which are graphs
        assert np.array_equal(whole, logits(path, ids, kv, "avx512bf16", *how, *words, CUDA)), how


def as_f16(name, path):
    """The model with the matrices of its layers in F16."""
    g = Gguf(GOLDEN / f"{name}.gguf")
    for key, (dims, kind, data) in g.tensors.items():
        if key.startswith("blk.") and len(dims) == 2 and kind == 0:
            g.tensors[key] = (dims, 1, np.frombuffer(data, "<f4").astype("<f2").tobytes())
    return str(g.write(path))


# the second one is moved by 0.12 where its weights alone are rounded
@pytest.mark.parametrize("name, most", [("fam-llama-bias", 0.02), ("fam-qwen35", 0.25)])
def test_fp8_weights_are_near_and_depend_on_no_company(name, most, tmp_path):
    path, ids = as_f16(name, tmp_path / "f16.gguf"), of(name)[1]["ids"][:70]
    whole = logits(path, ids, "f16", "avx512bf16", "0", CUDA, "fp8")
    exact = logits(path, ids, "f16", "avx512bf16", "0", CUDA)
    error = ((whole - exact) ** 2).mean() / (exact**2).mean()
    assert 1e-6 < error < most, error
    for how in (["33"], ["5", "batch"], ["1"]):
        assert np.array_equal(whole, logits(path, ids, "f16", "avx512bf16", *how, CUDA, "fp8")), how


def test_fp8_weights_are_refused_where_there_are_none(tmp_path):
    (tmp_path / "text").write_text("a")
    small, words = GOLDEN / "tiny-gqa-tied.gguf", ["-f", tmp_path / "text", "--device-weights"]
    for device, says in {f"cuda:{LIBRARY}": "device-weights: the file has no matrix in BF16, F16 or Q8_0",
                         "cpu": "device-weights: device cpu holds none in fp8"}.items():
        p = run("perplexity", "-m", small, "--device", device, *words, "fp8", check=False)
        assert p.returncode != 0 and says in p.stderr, p.stderr


def test_fp8_weights_pass_a_gate(tmp_path):
    """Random weights bear no rounding, and are refused; where layers add little to the stream they hold."""
    (tmp_path / "text").write_text("ab !" * 40)
    sharp = as_f16("tiny-gqa-tied", tmp_path / "sharp.gguf")
    g = Gguf(pathlib.Path(sharp))
    for key, (dims, kind, data) in g.tensors.items():
        if "attn_output" in key or "ffn_down" in key:
            g.tensors[key] = (dims, kind, (np.frombuffer(data, "<f2") / 64).tobytes())
    model = str(g.write(tmp_path / "even.gguf"))
    on = ["--device", f"cuda:{LIBRARY}", "--device-weights", "fp8"]
    figures = []
    for path in (model, sharp):
        p = run("certify-format", "-m", path, *on, "-f", tmp_path / "text", "--json", check=False)
        f = json.loads(p.stdout)
        assert (f["format"], f["of"]) == ("fp8", "weights") and f["kl"] > f["noise_kl"]
        assert p.returncode == (0 if f["holds"] else 1)
        figures.append(f)
    assert figures[0]["holds"] and not figures[1]["holds"], figures
    assert figures[1]["kl"] > 10 * figures[0]["kl"] > 0, figures
    p = run("run", "-m", sharp, *on, "-n", "2", "a", check=False)
    assert p.returncode != 0 and "device-weights fp8 fails: KL" in p.stderr, p.stderr
    p = run("run", "-m", sharp, *on, "-n", "2", "--kv-gate", "warn", "a")
    assert "fp8 weights move its answers: KL" in p.stderr, p.stderr


def test_experts_that_stay_in_the_file_are_refused(tmp_path):
    (tmp_path / "text").write_text("a")
    model = GOLDEN / "fam-mixtral.gguf"
    words = ["--device", f"cuda:{LIBRARY}", "--expert-bytes", "1K", "-f", tmp_path / "text"]
    p = run("perplexity", "-m", model, *words, check=False)
    assert p.returncode != 0
    assert "device cuda does not leave experts in the file yet" in p.stderr, p.stderr


def test_what_is_missing_is_said(tmp_path):
    (tmp_path / "text").write_text("a")
    model = GOLDEN / "tiny-gqa-tied.gguf"
    text = tmp_path / "text"
    says_of = {
        "cuda:/nowhere/lib.so": "device cuda: no library: /nowhere/lib.so",
        "tpu": "device tpu: there are cpu and cuda",
    }
    for device, says in says_of.items():
        p = run("perplexity", "-m", model, "--device", device, "-f", text, check=False)
        assert p.returncode != 0 and says in p.stderr, p.stderr


def test_a_server_answers_from_its_pages(quick_model, tmp_path):
    """Pages of the device go to a folder and come back: the text of a second server is that of the
    first, which computed them."""
    words = list(range(1000, 1100))
    texts = []
    for _ in range(2):
        cache = ["--cache-dir", str(tmp_path), "--cache-fetch", "always"]
        s = Server("-m", quick_model, "--device", f"cuda:{LIBRARY}", *cache)
        texts.append(s.exact(words, 4))
        texts.append(s.exact(words, 4))
        assert s.stop() == 0, s.log
    assert [t for t, _ in texts] == [texts[0][0]] * 4
    assert [r["prompt_tokens"]["ram"] for _, r in texts] == [0, 96, 0, 96], texts
    assert texts[2][1]["prompt_tokens"]["ssd"] == 96, texts


@pytest.mark.parametrize("how", [
    {"temperature": 0},
    {"temperature": 1, "top_k": 20},
    {"temperature": 0.8, "top_p": 0.9},
    {"temperature": 0.7, "min_p": 0.1},
    {"temperature": 0.9},
    {"temperature": 1, "top_k": 20, "frequency_penalty": 1},
    {"temperature": 0, "sparing": {"regex": "[a-c ]{20,40}"}},
], ids=str)
def test_tokens_are_chosen_from_the_best_alone(quick_cuda, how):
    """With log-probabilities the host has all logits; without them mostly the best of them."""
    body = {"prompt": list(range(1000, 1020)), "max_tokens": 20, "seed": 3, "ignore_eos": True, **how}
    texts = []
    for more in ({}, {"logprobs": 2}):
        r = quick_cuda.http.post("/v1/completions", json=body | more)
        assert r.status_code == 200, r.text
        texts.append(r.json()["choices"][0]["text"])
    assert texts[0] == texts[1]


def test_certified_decoding_says_what_it_leaves_out(tmp_path):
    """Epsilon 0 is dense to the bit; what 0.3 loses is certified, and keys were left out for it."""
    (tmp_path / "text").write_text("the quick brown fox jumps over a lazy dog. " * 16)
    model, text = GOLDEN / "tiny-gqa-tied.gguf", tmp_path / "text"
    device = ["--device", f"cuda:{LIBRARY}", "--kv-type", "q8"]
    p = run("perplexity", "-m", model, *device, "-f", text, "--epsilon", "0.3", "--json")
    dense, some = json.loads(p.stdout)
    assert dense["positions"] > 9 * 32 and dense["kl"] == 0 and dense["kept"] == 1
    assert 0 < some["kept"] < 0.6 and 0 < some["mean_loss"] <= some["max_loss"] <= 0.3
    assert 0 < some["kl"] < 0.02


@pytest.mark.skipif(LIBRARY != HOST, reason="a GPU is not lost at will")
def test_a_lost_device_is_told_and_ends_the_server(quick_model, tmp_path):
    """A stream that runs hears of it, later requests are refused, and the exit status is the one
    that makes a unit start the server again."""
    lost = tmp_path / "lost"
    env = {"SPARING_SIMT_LOST": str(lost)}
    s = Server("-m", quick_model, "--device", f"cuda:{LIBRARY}", env=env)
    body = {"prompt": list(range(1000, 1010)), "max_tokens": 400, "stream": True}
    body |= {"temperature": 0, "ignore_eos": True}
    with s.http.stream("POST", "/v1/completions", json=body) as r:
        lines = r.iter_lines()
        while not next(lines).startswith("data:"):
            pass
        lost.touch()
        rest = "".join(lines)
    assert "failed: device" in rest or "the device is lost" in rest, rest
    assert s.proc.wait(60) == 1
    log = s.proc.stderr.read()
    assert "cuda:" in log and "the device is lost: the server ends" in log, log


@pytest.mark.skipif(LIBRARY != HOST, reason="a GPU's memory does not end at will")
def test_a_model_without_memory_on_the_device_is_refused(tmp_path):
    (tmp_path / "text").write_text("a " * 2000)
    words = ["--device", f"cuda:{LIBRARY}", "-f", tmp_path / "text"]
    p = run("perplexity", "-m", GOLDEN / "tiny-gqa-tied.gguf", *words, check=False,
            env={**os.environ, "SPARING_SIMT_FULL": "/"})
    assert p.returncode != 0 and "bytes of memory: out of memory" in p.stderr, p.stderr


def test_the_bench_of_a_device_does_all_shapes():
    bench = [tool("devbench"), f"cuda:{LIBRARY}", "quick"]
    p = subprocess.run(bench, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    rows = [json.loads(line) for line in p.stdout.splitlines()]
    each = ["copy"] + 15 * ["decode"] + ["best"] + 21 * ["product"] + 2 * ["experts"] + 3 * ["prompt"]
    assert [r["what"] for r in rows] == each
    assert all(r["seconds"] > 0 for r in rows)
