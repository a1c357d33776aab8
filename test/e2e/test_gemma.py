"""A real file of a second family, Gemma 3 270M Q4_K_M (scripts/fetch-models test), by token ids."""
import json

import numpy as np
import pytest

from conftest import GOLDEN, ROOT
from test_model import logits

FILE = ROOT / "models/test/gemma-3-270m-q4_k_m.gguf"


def rows_of(g, ours):
    """Logits that the golden keeps, row by row: PyTorch's and ours."""
    return [(np.array(r["logit"]), ours[r["row"]][r["tok"]].astype(np.float64)) for r in g["rows"]]


@pytest.mark.golden
def test_agrees_with_pytorch_on_exact_weights():
    """640 tokens, beyond the window of 512; measured 8e-12."""
    g = json.loads((GOLDEN / "gemma3-270m.json").read_text())
    pairs = rows_of(g, logits(FILE, g["ids"], "f32", "avx512bf16", "0", "exact"))
    assert len(pairs) == 11
    assert sum(((a - b) ** 2).sum() for a, b in pairs) / sum((a ** 2).sum() for a, _ in pairs) <= 1e-8


@pytest.mark.golden
@pytest.mark.parametrize("kv,chunk", [("f16", "0"), ("q8", "64")])
def test_quantised_products_stay_near(kv, chunk):
    """Activations are rounded to 8 bits: the likeliest token of each row is the same, the logits within 1 %; measured 1.5e-3 and 2.8e-3."""
    g = json.loads((GOLDEN / "gemma3-270m.json").read_text())
    pairs = rows_of(g, logits(FILE, g["ids"], kv, "avx512bf16", chunk))
    assert sum(((a - b) ** 2).sum() for a, b in pairs) / sum((a ** 2).sum() for a, _ in pairs) <= 1e-2
    assert all(a[:64].argmax() == b[:64].argmax() for a, b in pairs)


def test_chunks_change_no_bit():
    g = json.loads((GOLDEN / "gemma3-270m.json").read_text())
    ids = g["ids"][:520]
    assert np.array_equal(logits(FILE, ids, "q8")[-9:], logits(FILE, ids, "q8", "avx512bf16", "37")[-9:])
