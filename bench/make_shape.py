#!/usr/bin/env python3
"""A random-weight checkpoint with the layers of a published model, for speed only.
usage: make_shape.py OUT.gguf SHAPE [--layers N] [--mtp] [TOKENIZER.gguf]
SHAPE is one of SHAPES below. --mtp adds a block that guesses (families with the delta rule). --layers N keeps the first N layers: a way to fit a large model into memory; what a layer costs stays.
The tokenizer is that of TOKENIZER.gguf (default: the default model), filled up to the shape's vocabulary. Sizes are those of the
published files; weight types are those of their usual file (Q4_K_M, or MXFP4 with Q8_0 for gpt-oss). Blocks are random bytes with
small scales, as in make_checkpoint.py."""
import argparse
import pathlib

import gguf
import numpy as np
from make_checkpoint import T, add_tokenizer, is_better, tensor, write_all

ROOT = pathlib.Path(__file__).resolve().parent.parent
VECTOR = T.F32


def dense(n, ff, base, better):
    return [("ffn_gate", ff, n, base), ("ffn_up", ff, n, base), ("ffn_down", n, ff, better)]


def attention(n, heads, kv, d, base, better):
    return [("attn_q", heads * d, n, base), ("attn_k", kv * d, n, base), ("attn_v", kv * d, n, better), ("attn_output", n, heads * d, base)]


def experts(n, ff, count, kinds):
    return [("ffn_gate_inp", count, n, T.F32), ("ffn_gate_exps", (count, ff), n, kinds[0]), ("ffn_up_exps", (count, ff), n, kinds[0]),
            ("ffn_down_exps", (count, n), ff, kinds[1])]


def norms(n, *names):
    return [(name, 1, n, VECTOR) for name in names]


def qwen3(n, heads, kv, d, ff):
    def layer(i, base, better):
        return norms(n, "attn_norm", "ffn_norm") + norms(d, "attn_q_norm", "attn_k_norm") + attention(n, heads, kv, d, base, better) + dense(n, ff, base, better)
    return layer


def qwen3moe(i, base, better):
    return (norms(2048, "attn_norm", "ffn_norm") + norms(128, "attn_q_norm", "attn_k_norm") + attention(2048, 32, 4, 128, base, better)
            + experts(2048, 768, 128, (base, better)))


def gpt_oss(i, base, better):
    n = 2880
    biases = [("attn_q.bias", 1, 4096, VECTOR), ("attn_k.bias", 1, 512, VECTOR), ("attn_v.bias", 1, 512, VECTOR), ("attn_output.bias", 1, n, VECTOR),
              ("attn_sinks", 1, 64, VECTOR), ("ffn_gate_inp.bias", 1, 32, VECTOR)]
    of_experts = [(f"ffn_{part}_exps.bias", 32, n, VECTOR) for part in ("gate", "up", "down")]
    return (norms(n, "attn_norm", "post_attention_norm") + attention(n, 64, 8, 64, base, base) + biases + experts(n, n, 32, (T.MXFP4, T.MXFP4)) + of_experts)


def delta(n, heads, kv, v_heads, ffn):
    """Gated delta net in three of four layers, attention with a gate in the fourth; heads of 256 there and of 128 here, 16 of keys."""
    channels, inner = 2 * 16 * 128 + v_heads * 128, v_heads * 128

    def layer(i, base, better):
        full = [("attn_q", 2 * heads * 256, n, base), ("attn_k", kv * 256, n, base), ("attn_v", kv * 256, n, better), ("attn_output", n, heads * 256, base)]
        linear = [("attn_qkv", channels, n, base), ("attn_gate", inner, n, base), ("ssm_beta", v_heads, n, T.F32), ("ssm_alpha", v_heads, n, T.F32),
                  ("ssm_conv1d", channels, 4, T.F32), ("ssm_dt.bias", 1, v_heads, VECTOR), ("ssm_a.", 1, v_heads, VECTOR), ("ssm_norm", 1, 128, VECTOR),
                  ("ssm_out", n, inner, base)]
        mix = full + norms(256, "attn_q_norm", "attn_k_norm") if i % 4 == 3 else linear
        return norms(n, "attn_norm", "post_attention_norm") + mix + ffn(base, better)
    return layer


def shared_experts(base, better):
    part = [("ffn_gate_shexp", 512, 2048, base), ("ffn_up_shexp", 512, 2048, base), ("ffn_down_shexp", 2048, 512, better), ("ffn_gate_inp_shexp", 1, 2048, VECTOR)]
    return experts(2048, 512, 256, (base, better)) + part


def gemma4(i, base, better):
    n, d, has_keys = 2560, 512 if i % 6 == 5 else 256, i < 24
    mix = [("attn_q", 8 * d, n, base), ("attn_output", n, 8 * d, base), *norms(d, "attn_q_norm")]
    if has_keys:
        mix += [("attn_k", 2 * d, n, base), ("attn_v", 2 * d, n, better), *norms(d, "attn_k_norm")]
    side = [("inp_gate", 256, n, base), ("proj", n, 256, base), ("layer_output_scale", 1, 1, VECTOR)]
    return norms(n, "attn_norm", "post_attention_norm", "ffn_norm", "post_ffw_norm", "post_norm") + mix + dense(n, 10240, base, better) + side


DELTA_KEYS = {"attention.key_length": 256, "attention.value_length": 256, "rope.dimension_count": 64, "rope.dimension_sections": [11, 11, 10, 0],
              "rope.freq_base": 1e7, "ssm.conv_kernel": 4, "ssm.state_size": 128, "ssm.group_count": 16, "full_attention_interval": 4}
WINDOWS = [i % 6 != 5 for i in range(42)]
# arch, hidden, layers, vocabulary, tied, keys of its own, layer(i, base, better)
SHAPES = {
    "qwen3-0.6b": ("qwen3", 1024, 28, 151936, True, {"feed_forward_length": 3072, "attention.head_count": 16, "attention.head_count_kv": 8,
                   "attention.key_length": 128, "attention.value_length": 128, "rope.freq_base": 1e6}, qwen3(1024, 16, 8, 128, 3072)),
    "qwen3-4b": ("qwen3", 2560, 36, 151936, True, {"feed_forward_length": 9728, "attention.head_count": 32, "attention.head_count_kv": 8,
                 "attention.key_length": 128, "attention.value_length": 128, "rope.freq_base": 1e6}, qwen3(2560, 32, 8, 128, 9728)),
    "qwen3-30b-a3b": ("qwen3moe", 2048, 48, 151936, False, {"feed_forward_length": 6144, "attention.head_count": 32, "attention.head_count_kv": 4,
                      "attention.key_length": 128, "attention.value_length": 128, "rope.freq_base": 1e6, "expert_count": 128,
                      "expert_used_count": 8, "expert_feed_forward_length": 768}, qwen3moe),
    "gpt-oss-20b": ("gpt-oss", 2880, 24, 201088, False, {"feed_forward_length": 2880, "attention.head_count": 64, "attention.head_count_kv": 8,
                    "attention.key_length": 64, "attention.value_length": 64, "rope.freq_base": 150000.0, "rope.scaling.type": "yarn",
                    "rope.scaling.factor": 32.0, "rope.scaling.original_context_length": 4096, "attention.sliding_window": 128,
                    "expert_count": 32, "expert_used_count": 4, "expert_feed_forward_length": 2880}, gpt_oss),
    "qwen3.5-0.8b": ("qwen35", 1024, 24, 248320, True, {**DELTA_KEYS, "feed_forward_length": 3584, "attention.head_count": 8,
                     "attention.head_count_kv": 2, "ssm.time_step_rank": 16, "ssm.inner_size": 2048},
                     delta(1024, 8, 2, 16, lambda base, better: dense(1024, 3584, base, better))),
    "qwen3.5-4b": ("qwen35", 2560, 32, 248320, True, {**DELTA_KEYS, "feed_forward_length": 9216, "attention.head_count": 16,
                   "attention.head_count_kv": 4, "ssm.time_step_rank": 32, "ssm.inner_size": 4096},
                   delta(2560, 16, 4, 32, lambda base, better: dense(2560, 9216, base, better))),
    "qwen3.6-35b-a3b": ("qwen35moe", 2048, 40, 248320, False, {**DELTA_KEYS, "attention.head_count": 16, "attention.head_count_kv": 2,
                        "ssm.time_step_rank": 32, "ssm.inner_size": 4096, "expert_count": 256, "expert_used_count": 8,
                        "expert_feed_forward_length": 512, "expert_shared_feed_forward_length": 512}, delta(2048, 16, 2, 32, shared_experts)),
    "gemma-4-e4b": ("gemma4", 2560, 42, 262144, True, {"feed_forward_length": 10240, "attention.head_count": 8, "attention.head_count_kv": 2,
                    "attention.key_length": 512, "attention.value_length": 512, "attention.key_length_swa": 256, "attention.value_length_swa": 256,
                    "attention.sliding_window": 512, "attention.sliding_window_pattern": WINDOWS, "attention.shared_kv_layers": 18,
                    "embedding_length_per_layer_input": 256, "rope.dimension_count": 512, "rope.dimension_count_swa": 256,
                    "rope.freq_base": 1e6, "rope.freq_base_swa": 1e4, "final_logit_softcapping": 30.0}, gemma4),
}


def add_key(w, key, value):
    add = {bool: w.add_bool, int: w.add_uint32, float: w.add_float32, str: w.add_string, list: w.add_array}
    add[type(value)](key, value)


def main():
    p = argparse.ArgumentParser()
    p.add_argument("out"), p.add_argument("shape", choices=SHAPES), p.add_argument("--layers", type=int), p.add_argument("--mtp", action="store_true")
    p.add_argument("source", nargs="?", default=str(ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    a = p.parse_intermixed_args()
    arch, n, n_layer, n_vocab, tied, keys, layer = SHAPES[a.shape]
    kept = min(a.layers or n_layer, n_layer)
    if arch == "gemma4" and kept != n_layer:
        p.error("layers of gemma-4-e4b share keys with each other: it is not cut")
    w, rng = gguf.GGUFWriter(a.out, arch), np.random.default_rng(1)
    add_key(w, f"{arch}.block_count", kept + a.mtp), add_key(w, f"{arch}.context_length", 32768), add_key(w, f"{arch}.embedding_length", n)
    add_key(w, f"{arch}.attention.layer_norm_rms_epsilon", 1e-6), add_key(w, f"{arch}.vocab_size", n_vocab)
    if a.mtp:
        add_key(w, f"{arch}.nextn_predict_layers", 1)
    for key, value in keys.items():
        add_key(w, f"{arch}.{key}", value)
    add_tokenizer(w, a.source, n_vocab)
    base, better = (T.Q8_0, T.Q8_0) if arch == "gpt-oss" else (T.Q4_K, T.Q6_K)

    def add(name, rows, cols, kind):
        count, rows = rows if isinstance(rows, tuple) else (1, rows)
        if kind == T.F32 and name.endswith(("norm", "scale")):
            values = np.ones((rows, cols), np.float32)
        elif name.endswith("ssm_a."):
            values = np.full((rows, cols), -0.5, np.float32)
        else:
            values = tensor(rng, count * rows, cols, kind)
        shape = [count, rows, values.shape[1]] if count > 1 else values.shape if rows > 1 or kind != T.F32 else values.shape[1:]
        full = name[:-1] if name.endswith(".") else name if name.endswith(".bias") else name + ".weight"
        w.add_tensor(full, values.reshape(shape), raw_dtype=kind)

    add("token_embd", n_vocab, n, better), add("output_norm", 1, n, VECTOR)
    if not tied:
        add("output", n_vocab, n, better)
    if arch == "gemma4":
        add("per_layer_token_embd", n_vocab, kept * 256, T.Q4_0), add("per_layer_model_proj", kept * 256, n, T.BF16), add("per_layer_proj_norm", 1, 256, VECTOR)
        w.add_tensor("rope_freqs.weight", np.array([1.0] * 64 + [1e30] * 192, np.float32))
    for i in range(kept):
        for name, rows, cols, kind in layer(i, base, better if is_better(i, n_layer) else base):
            add(f"blk.{i}.{name}", rows, cols, kind)
    if a.mtp:  # its layer attends, as each fourth does
        for name, rows, cols, kind in layer(3, base, base) + [("nextn.eh_proj", n, 2 * n, base)] + norms(n, "nextn.enorm", "nextn.hnorm", "nextn.shared_head_norm"):
            add(f"blk.{kept}.{name}", rows, cols, kind)
    write_all(w)


if __name__ == "__main__":
    main()
