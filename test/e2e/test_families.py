"""Model families against PyTorch: tiny checkpoints with random weights (test/golden/families.py), longer than their windows."""
import json
import subprocess

import numpy as np
import pytest

from conftest import BIN, GOLDEN, LEVELS
from test_model import logits

DENSE = {"llama": 8, "qwen2": 1, "qwen3": 1, "gemma2": 1, "gemma3": 1, "gemma4": 1, "phi3": 4, "mistral3": 1, "granite": 1, "smollm3": 1,
         "olmo2": 2, "exaone4": 2, "ernie4_5": 1, "hunyuan-dense": 1}  # and how many checkpoints each has at least
EXPERTS = ["fam-deepseek2", "fam-deepseek2-flash", "fam-deepseek2-lite", "fam-ernie4_5-moe", "fam-gemma4-moe", "fam-glm4moe", "fam-gpt-oss",
           "fam-gpt-oss-mxfp4", "fam-granitemoe", "fam-mixtral", "fam-qwen3moe"]
HYBRID = {"lfm2": 1, "lfm2moe": 1, "qwen35": 1, "qwen35moe": 1, "qwen3next": 1, "granitehybrid": 2, "nemotron_h": 1,
          "nemotron_h_moe": 1, "falcon-h1": 2}  # layers with a state in the place of keys
EXACT = {"gpt-oss-mxfp4": ["exact"]}  # packed types meet activations of 8 bits; here their values are compared
WORDS = {"phi3-short": ["ctx=4096"]}  # short factors hold for short contexts only


def golden(path):
    return json.loads(path.read_text())


def is_dense(path):
    return b"expert_count" not in path.with_suffix(".gguf").read_bytes()


HYBRIDS = sorted(p.stem for p in GOLDEN.glob("fam-*.json") if golden(p)["arch"] in HYBRID)
FAMILIES = sorted(p.stem for p in GOLDEN.glob("fam-*.json") if golden(p)["arch"] in DENSE and "logits" in golden(p) and is_dense(p)) + EXPERTS + HYBRIDS


def of(name):
    return GOLDEN / f"{name}.gguf", golden(GOLDEN / f"{name}.json"), WORDS.get(name[4:], [])


def nmse(ours, g):
    want = np.array(g["logits"])
    return ((ours[g["rows"]].astype(np.float64) - want) ** 2).sum() / (want ** 2).sum()


def test_every_family_is_there():
    for arch, n in {**DENSE, **HYBRID}.items():
        assert len([f for f in FAMILIES if of(f)[1]["arch"] == arch]) >= n, arch


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name", FAMILIES)
def test_prefill_agrees_with_pytorch(name, level):
    path, g, words = of(name)
    assert nmse(logits(path, g["ids"], "f32", level, "0", *words, *EXACT.get(name[4:], [])), g) <= 1e-8


@pytest.mark.parametrize("name", FAMILIES)
def test_decoding_agrees_with_pytorch(name):
    path, g, words = of(name)
    assert nmse(logits(path, g["ids"], "f32", LEVELS[-1], "1", *words, *EXACT.get(name[4:], [])), g) <= 1e-8


@pytest.mark.parametrize("kv", ["f16", "q8", "q4"])
@pytest.mark.parametrize("name", FAMILIES)
def test_neither_chunks_nor_company_change_a_bit(name, kv):
    path, g, words = of(name)
    whole = logits(path, g["ids"], kv, LEVELS[-1], "0", *words)
    for how in (["1"], ["33", "threads=2"], ["5", "batch"]):
        assert np.array_equal(whole, logits(path, g["ids"], kv, LEVELS[-1], *how, *words)), how


@pytest.mark.parametrize("name", EXPERTS)
def test_experts_that_stay_in_the_file_give_the_same_bits(name):
    path, g, words = of(name)
    whole = logits(path, g["ids"], "q8", LEVELS[-1], "5", *words)
    room = "experts=14336" if "mxfp4" in name else "experts=512"  # 7 or 8 experts of all layers: packed ones take 2 KiB, F32 is not packed
    assert np.array_equal(whole, logits(path, g["ids"], "q8", LEVELS[-1], "5", room, *words))


def test_memory_for_experts_is_an_option():
    model = GOLDEN / "fam-mixtral.gguf"
    ask = [str(BIN), "bench", "-m", str(model), "--prompt", "32", "--gen", "4", "--repeat", "1", "--expert-bytes"]
    r = subprocess.run([*ask, "1K"], capture_output=True, text=True)
    assert r.returncode == 0 and "MiB of the others from the file" in r.stderr, r.stderr
    r = subprocess.run([*ask, "100"], capture_output=True, text=True)
    assert r.returncode != 0 and "hold 1 experts of 8 that a layer has" in r.stderr, r.stderr
