"""How far a format of KV pages moves a model, and models that it moves too far."""
import json
import pathlib

import numpy as np
import pytest

from conftest import MODEL, Server, quick_file, run
from ggufs import Gguf

POSITIONS = 512 - 32  # those of the first page see no other
REFUSAL = r"kv-type fp8 fails: KL [\d.]+ \(<= [\d.]+\), top-1 [\d.]+% \(>= [\d.]+\)"


def certify(model, kind, *more, check=True):
    p = run("certify-format", "-m", model, "--kv-type", kind, "--json", *more, check=False)
    if check:
        assert p.returncode in (0, 1) and p.stdout, p.stderr
        figures = json.loads(p.stdout)
        near = figures["kl"] <= 0.005 + figures["noise_kl"]
        holds = near and figures["top1"] >= 0.97 * figures["noise_top1"]
        assert figures["holds"] == holds and p.returncode == (0 if holds else 1)
        return figures
    return p


@pytest.fixture(scope="module")
def sharp_model(quick_model, tmp_path_factory):
    """Scores so large that the last bits of keys decide which one is attended."""
    g = Gguf(pathlib.Path(quick_model))
    for name, (dims, kind, data) in g.tensors.items():
        if "attn_q" in name or "attn_k" in name:
            g.tensors[name] = (dims, kind, (np.frombuffer(data, "<f2") * 16).tobytes())
    return str(g.write(tmp_path_factory.mktemp("sharp") / "sharp.gguf"))


def test_f16_is_what_it_is_measured_against():
    figures = certify(quick_file(), "f16")
    assert figures["noise_kl"] > 0 and figures["positions"] == POSITIONS
    assert (figures["kl"], figures["top1"], figures["holds"]) == (0, 1, True)


def test_rounding_alone_never_fails():
    """More exact pages than the yardstick's move a model, too; that is the noise, and they hold."""
    f = certify(quick_file(), "f32")
    assert f["holds"] and f["kl"] == f["noise_kl"] > 0 and f["top1"] == f["noise_top1"]


def test_formats_of_fewer_bits_move_a_model_further():
    q8, fp8, q4 = (certify(quick_file(), kind)["kl"] for kind in ("q8", "fp8", "q4"))
    assert 0 < q8 < fp8 and q8 < q4


def test_a_text_of_ones_own(tmp_path):
    (tmp_path / "text").write_text("Water boils at a hundred degrees. " * 30)
    figures = certify(quick_file(), "q8", "-f", tmp_path / "text")
    assert 32 <= figures["positions"] <= 300
    (tmp_path / "short").write_text("Water.")
    p = certify(quick_file(), "q8", "-f", tmp_path / "short", check=False)
    assert p.returncode == 1 and "two pages of 32 are needed" in p.stderr


def test_a_model_that_fp8_moves_too_far_is_refused_with_its_figures(sharp_model):
    assert not certify(sharp_model, "fp8")["holds"]
    with pytest.raises(RuntimeError, match=REFUSAL):
        Server("-m", sharp_model, "--kv-type", "fp8")
    s = Server("-m", sharp_model, "--kv-type", "fp8", "--kv-gate", "warn")
    assert any("fp8 pages move its answers: KL" in line for line in s.log), s.log
    assert s.stop() == 0


def test_a_server_over_fp8_pages(tmp_path):
    """Pages are reused and go through the disk; the text is the same wherever they come from."""
    cache = ["--cache-dir", str(tmp_path), "--cache-fetch", "always", "--kv-gate", "warn"]
    words, said = list(range(1000, 1100)), []
    for _ in range(2):
        s = Server("--kv-type", "fp8", *cache)
        said += [s.exact(words, 6), s.exact(words, 6)]
        assert s.stop() == 0, s.log
    assert [text for text, _ in said] == [said[0][0]] * 4
    assert said[2][1]["prompt_tokens"]["ssd"] == 96, said[2]


@pytest.mark.long
def test_the_default_model_over_fp8():
    assert certify(MODEL, "fp8")["positions"] == POSITIONS
