"""Tensors of a model's file: what may be missing, joined or left out, and what is refused by name."""
import subprocess

import numpy as np
import pytest

from conftest import GOLDEN, LEVELS, tool
from ggufs import Gguf
from test_model import logits

IDS = [3 + i * 7 % 80 for i in range(40)]
U32, F32, F16, Q8_0, BF16, NVFP4 = 4, 0, 1, 8, 30, 40


def refusal(path):
    p = subprocess.run([tool("logits"), str(path), "f32"], input=b"1 2 3", capture_output=True)
    assert p.returncode == 1, p.stdout[:40]
    return p.stderr.decode()


def changed(tmp_path, name, change):
    g = Gguf(GOLDEN / f"{name}.gguf")
    change(g)
    return g.write(tmp_path / "changed.gguf")


def same(tmp_path, name, change):
    return np.array_equal(logits(GOLDEN / f"{name}.gguf", IDS), logits(changed(tmp_path, name, change), IDS))


def test_a_file_put_together_again_is_the_same_model(tmp_path):
    assert same(tmp_path, "fam-qwen2", lambda g: None)


def join(g, names, into, kind):
    parts = [g.tensors.pop(f"blk.{i}.{n}.{kind}") for i in range(g.keys["qwen2.block_count"][1]) for n in names]
    for i in range(len(parts) // len(names)):
        mine = parts[i * len(names):(i + 1) * len(names)]
        dims = [*mine[0][0][:-1], sum(p[0][-1] for p in mine)]
        size = 4 * int(np.prod(dims))
        raw = b"".join(p[2][:4 * int(np.prod(p[0]))] for p in mine)
        assert len(raw) == size
        g.tensors[f"blk.{i}.{into}.{kind}"] = (dims, F32, raw)


def test_joined_tensors_are_split_by_rows(tmp_path):
    """Queries, keys and values in one, their biases too; gate and up in one."""
    def change(g):
        join(g, ["attn_q", "attn_k", "attn_v"], "attn_qkv", "weight")
        join(g, ["attn_q", "attn_k", "attn_v"], "attn_qkv", "bias")
        join(g, ["ffn_gate", "ffn_up"], "ffn_up", "weight")
    assert same(tmp_path, "fam-qwen2", change)


def pair(g):
    """Gate and up of each expert in one tensor, gate first."""
    for i in range(g.keys["qwen3moe.block_count"][1]):
        (dims, kind, gate), (_, _, up) = (g.tensors.pop(f"blk.{i}.ffn_{n}_exps.weight") for n in ("gate", "up"))
        each = 4 * dims[0] * dims[1]
        raw = b"".join(part[e * each:(e + 1) * each] for e in range(dims[2]) for part in (gate, up))
        g.tensors[f"blk.{i}.ffn_gate_up_exps.weight"] = ([dims[0], 2 * dims[1], dims[2]], kind, raw)


def test_gate_and_up_of_experts_may_be_one_tensor(tmp_path):
    assert same(tmp_path, "fam-qwen3moe", pair)


def narrow(raw, kind):
    f = np.frombuffer(raw, "<f4")
    return f.astype("<f2") if kind == F16 else (f.view("<u4") >> 16).astype("<u2")


def wide(half, kind):
    return half.astype("<f4") if kind == F16 else (half.astype("<u4") << 16).view("<f4")


@pytest.mark.parametrize("kind", [F16, BF16])
def test_norms_and_biases_of_two_bytes_are_widened(tmp_path, kind):
    """The same numbers in both files: once as two bytes, once as the four that they widen to."""
    def change(is_narrow):
        def to(g):
            for name, (dims, t, raw) in list(g.tensors.items()):
                if len(dims) == 1:
                    half = narrow(raw[:4 * dims[0]], kind)
                    g.tensors[name] = (dims, kind, half.tobytes()) if is_narrow else (dims, F32, wide(half, kind).tobytes())
        return to
    (tmp_path / "a").mkdir()
    assert np.array_equal(logits(changed(tmp_path, "fam-qwen2", change(True)), IDS), logits(changed(tmp_path / "a", "fam-qwen2", change(False)), IDS))


FP4 = np.array([0, 1, 2, 3, 4, 6, 8, 12, 0, -1, -2, -3, -4, -6, -8, -12], np.float32)


def nvfp4(rng, n):
    """n random values, 4 scales and 64 nibbles a block, and what they stand for."""
    scale, q = rng.integers(8, 32, (n // 64, 4), np.uint8), rng.integers(0, 256, (n // 64, 4, 8), np.uint8)
    half = np.float32(8 + scale % 8) * np.exp2(np.float32(scale // 8) - 11)
    value = np.concatenate([FP4[q & 15], FP4[q >> 4]], -1) * half[..., None]
    return np.concatenate([scale, q.reshape(-1, 32)], 1).tobytes(), value.astype("<f4").tobytes()


def double(g):
    """Mixtral's checkpoint twice as wide, for blocks of 64: the matrices are random and the norms say everything twice."""
    for k in ("embedding_length", "feed_forward_length", "rope.dimension_count"):
        g.keys[f"llama.{k}"] = (U32, 2 * g.keys[f"llama.{k}"][1])
    for name, (dims, kind, raw) in list(g.tensors.items()):
        if name in ("token_embd.weight", "output.weight") or "gate_inp" in name:
            dims = [2 * dims[0], dims[1]]
        else:
            dims = [2 * d for d in dims[:2]] + dims[2:]
        g.tensors[name] = (dims, kind, raw * (4 * int(np.prod(dims)) // len(raw)))


def scaled(kind, seed=7):
    """Random NVFP4 in every matrix, with a factor for each, of experts for each expert; or the same values as F32."""
    def change(g):
        rng = np.random.default_rng(seed)
        if "llama.expert_count" in g.keys:
            double(g)
        for name, (dims, t, raw) in list(g.tensors.items()):
            if len(dims) < 2 or dims[0] % 64 or "norm" in name or "bias" in name:
                continue
            n = int(np.prod(dims))
            raw, value = nvfp4(rng, n)
            scale = rng.uniform(0.25, 1.5, dims[2] if len(dims) > 2 else 1).astype("<f4")
            value = np.frombuffer(value, "<f4").reshape(len(scale), -1) * scale[:, None]
            g.tensors[name] = (dims, kind, raw if kind == NVFP4 else value.astype("<f4").tobytes())
            if kind == NVFP4:
                stem = name.removesuffix(".weight")
                g.tensors[f"{stem}.scale"] = ([len(scale)], F32, scale.tobytes())
                g.tensors[f"{stem}.input_scale"] = ([1], F32, np.float32(0.5).tobytes())
    return change


@pytest.mark.parametrize("level", LEVELS)
@pytest.mark.parametrize("name,words", [("fam-qwen2", []), ("fam-phi3", []), ("fam-mixtral", []), ("fam-mixtral", ["experts=65536"])])
def test_products_of_nvfp4_have_their_factors(tmp_path, name, words, level):
    """Only activations are rounded, to 8 bits: 1e-3 of the squares at most; without the factors it would be nearly all. All
    experts are used, so that rounding cannot choose others."""
    def change(kind):
        def both(g):
            scaled(kind)(g)
            if "llama.expert_count" in g.keys:
                g.keys["llama.expert_used_count"] = g.keys["llama.expert_count"]
        return both
    (tmp_path / "a").mkdir()
    files = changed(tmp_path, name, change(NVFP4)), changed(tmp_path / "a", name, change(F32))
    assert sum(t[1] == NVFP4 for t in Gguf(files[0]).tensors.values()) > 8
    for how in ("0", "1"):
        ours, plain = (logits(f, IDS, "f32", level, how, *(words if f == files[0] else [])) for f in files)
        assert ((ours - plain) ** 2).sum() < 1e-3 * (plain ** 2).sum() and np.abs(plain).max() > 0.01


@pytest.mark.parametrize("name", ["fam-qwen2", "fam-phi3", "fam-mixtral"])
def test_values_and_factors_of_nvfp4_tensors_are_exact(tmp_path, name):
    """Matrices as f32: bit for bit what numpy makes of them."""
    (tmp_path / "a").mkdir()
    files = changed(tmp_path, name, scaled(NVFP4)), changed(tmp_path / "a", name, scaled(F32))
    for how in ("0", "1"):
        ours, plain = (logits(f, IDS, "f32", "avx2", how, "exact") for f in files)
        assert np.array_equal(ours, plain) and np.abs(plain).max() > 0.01


def test_layers_behind_the_trunk_and_towers_are_left_out(tmp_path):
    def change(g):
        n = g.keys["qwen2.block_count"][1]
        g.keys["qwen2.block_count"] = (U32, n + 1)
        g.keys["qwen2.nextn_predict_layers"] = (U32, 1)
        for name in ("attn_norm.weight", "nextn.eh_proj.weight"):
            g.tensors[f"blk.{n}.{name}"] = ([32], F32, b"\0" * 128)
        g.tensors["v.patch_embd.weight"] = g.tensors["mm.0.weight"] = ([32], F32, b"\0" * 128)
    assert same(tmp_path, "fam-qwen2", change)


def test_an_output_that_repeats_the_embedding_is_the_tied_one(tmp_path):
    assert same(tmp_path, "fam-qwen2", lambda g: g.tensors.update({"output.weight": g.tensors["token_embd.weight"]}))


def drop(name):
    return lambda g: g.tensors.pop(name)


def reshape(name, dims):
    return lambda g: g.tensors.update({name: (dims, *g.tensors[name][1:])})


def add(name, dims=(32,), kind=F32):
    return lambda g: g.tensors.update({name: (list(dims), kind, b"\0" * (4 * int(np.prod(dims))))})


@pytest.mark.parametrize("family,change,says", [
    ("fam-qwen2", drop("token_embd.weight"), "token_embd.weight is missing"),
    ("fam-qwen2", drop("output_norm.weight"), "output_norm.weight is missing"),
    ("fam-qwen2", drop("blk.1.attn_k.weight"), "blk.1.attn_k.weight is missing"),
    ("fam-qwen2", drop("blk.1.ffn_gate.weight"), "blk.1.ffn_up.weight is 64 x 64, expected 64 x 128 (for ffn_gate.weight)"),
    ("fam-qwen3moe", drop("blk.1.ffn_gate_inp.weight"), "blk.1.ffn_gate_inp.weight is missing"),
    ("fam-qwen3moe", drop("blk.1.ffn_up_exps.weight"), "blk.1.ffn_up_exps.weight is missing"),
    ("fam-qwen3moe", reshape("blk.1.ffn_up_exps.weight", [32, 32, 4]), "blk.1.ffn_up_exps.weight is 32 x 32 x 4, expected 32 x 32 x 8"),
    ("fam-qwen3moe", reshape("blk.0.ffn_down_exps.weight", [32, 64, 4]), "blk.0.ffn_down_exps.weight is 32 x 64 x 4, expected 32 x 32 x 8"),
    ("fam-qwen3moe", add("blk.0.ffn_gate_shexp.weight", (32, 32)), "blk.0.ffn_gate_shexp.weight is none"),
    ("fam-qwen3moe", add("blk.0.ffn_gate.weight", (32, 32)), "blk.0.ffn_gate.weight is none"),
    ("fam-granitemoe", drop("blk.0.ffn_up_shexp.weight"), "blk.0.ffn_up_shexp.weight is missing"),
    ("fam-gpt-oss", reshape("blk.0.ffn_up_exps.bias", [32 * 6]), "blk.0.ffn_up_exps.bias is 192 x 1, expected 32 x 6"),
    ("fam-gpt-oss", drop("blk.0.attn_sinks.weight"), "blk.0.attn_sinks.weight is missing"),
    ("fam-gpt-oss", drop("blk.0.post_attention_norm.weight"), "blk.0.post_attention_norm.weight is missing"),
    ("fam-qwen3", drop("blk.0.attn_q_norm.weight"), "blk.0.attn_q_norm.weight is missing"),
    ("fam-gemma2", drop("blk.0.post_ffw_norm.weight"), "blk.0.post_ffw_norm.weight is missing"),
    ("fam-phi3", drop("blk.0.attn_qkv.weight"), "blk.0.attn_q.weight is missing"),
    ("fam-phi3", reshape("blk.0.attn_qkv.weight", [64, 64]), "blk.0.attn_qkv.weight is 64 x 64, expected 64 x 128 (for attn_q.weight)"),
    ("fam-phi3", reshape("blk.0.ffn_up.weight", [64, 64]), "blk.0.ffn_up.weight is 64 x 64, expected 64 x 128 (for ffn_gate.weight)"),
    ("fam-qwen2", add("blk.0.attn_q_norm.weight"), "blk.0.attn_q_norm.weight is none that a model of architecture qwen2"),
    ("fam-qwen2", add("blk.0.attn_q.scale", (1,)), "blk.0.attn_q.scale is none"),
    ("fam-qwen2", lambda g: (scaled(NVFP4)(g), add("blk.0.attn_q.scale", (2,))(g)), "blk.0.attn_q.scale is not 1 F32"),
    ("fam-qwen2", lambda g: (scaled(NVFP4)(g), add("blk.0.attn_q.scale", (1,), F16)(g)), "blk.0.attn_q.scale is not 1 F32"),
    ("fam-mixtral", lambda g: (scaled(NVFP4)(g), add("blk.0.ffn_up_exps.scale", (1,))(g)), "blk.0.ffn_up_exps.scale is not"),
    ("fam-qwen2", lambda g: (scaled(NVFP4)(g), g.tensors.update({"blk.1.attn_k.scale": ([1], F32, np.float32("nan").tobytes())})),
     "blk.1.attn_k.scale[0] is not a finite number"),
    ("fam-qwen2", add("cls.output.weight"), "cls.output.weight is none"),
    ("fam-qwen2", add("blk.0.attn_output.bias", (16,)), "blk.0.attn_output.bias is 16 x 1, expected"),
    ("fam-qwen2", lambda g: g.tensors.update({"output_norm.weight": (g.tensors["output_norm.weight"][0], Q8_0, b"\0" * 68)}), "output_norm.weight is Q8_0, expected F32, F16 or BF16"),
    ("fam-qwen2", add("rope_freqs.weight", (3,)), "rope_freqs.weight is not 8 F32"),
    ("fam-qwen2", add("rope_freqs.weight", (8,)), "rope_freqs.weight[0] is not positive"),
    ("fam-phi3-long", add("rope_factors_long.weight", (2,)), "rope_factors_long.weight is not"),
], ids=lambda v: v.replace(" ", "-") if isinstance(v, str) else "")
def test_bad_tensors_are_named(tmp_path, family, change, says):
    assert says in refusal(changed(tmp_path, family, change))
