#!/usr/bin/env python3
"""A random-weight Llama checkpoint of real shape (1.07 B parameters) in one of the GGUF types, for speed only.
usage: make_checkpoint.py OUT.gguf TYPE [--shape 135m|1b|0.6b-d128] [--spread S] [TOKENIZER.gguf]
TYPE: Q4_0, Q8_0, F16, BF16, Q4_K, Q5_K, Q6_K, IQ1_S to IQ3_S, TQ1_0, TQ2_0, MXFP4, NVFP4, or Q4_K_M (Q4_K with Q6_K in half of attn_v and ffn_down and in the output).
Tokenizer and chat template are copied from TOKENIZER.gguf (default: the default model). Blocks are random bytes with
small scales: what they cost to read and multiply does not depend on their values. What attention may leave out does:
--spread S scales queries and keys so that scores have a standard deviation of S nats (3: 98 % of the softmax lies on a sixth of
the keys), with their energy in 32 dimensions of a head: trained heads are neither flat nor isotropic. 135m: SmolLM2's; 0.6b-d128: Qwen3-0.6B's layers, heads and widths, in Llama's arrangement."""
import argparse
import pathlib

import gguf
import numpy as np

SHAPES = {"135m": (576, 30, 9, 3, 64, 1536), "1b": (2048, 16, 32, 8, 64, 8192), "0.6b-d128": (1024, 28, 16, 8, 128, 3072)}
VOCAB, CTX, BUSY = 49152, 32768, 32
T = gguf.GGMLQuantizationType
# bytes of a block, and where its f16 scales lie
SCALES = {T.Q4_0: [0], T.Q4_1: [0, 2], T.Q5_0: [0], T.Q5_1: [0, 2], T.Q8_0: [0], T.Q4_K: [0, 2], T.Q5_K: [0, 2], T.Q6_K: [208],
          T.IQ1_S: [0], T.IQ2_XXS: [0], T.IQ2_XS: [0], T.IQ2_S: [0], T.IQ3_XXS: [0], T.IQ3_S: [0], T.TQ1_0: [52], T.TQ2_0: [64]}
# Scales that are no f16: bytes and their values; of IQ1_M the top halves of four bytes, 0x0800 together.
BYTES = {T.MXFP4: ([0], 117), T.NVFP4: ([0, 1, 2, 3], 10)}


def tensor(rng, rows, cols, kind, scale=1.0):
    if kind == T.F32:
        return rng.standard_normal((rows, cols), np.float32) * np.float32(0.02)
    if kind == T.F16:
        return (rng.standard_normal((rows, cols), np.float32) * np.float32(0.02)).astype(np.float16)
    if kind == T.BF16:
        f = rng.standard_normal((rows, cols), np.float32) * np.float32(0.02)
        return (f.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8).reshape(rows, cols * 2)
    elems, size = gguf.GGML_QUANT_SIZES[kind]
    blocks = rng.integers(0, 256, (rows * cols // elems, size), np.uint8)
    for at, value in [(at, BYTES[kind][1]) for at in BYTES.get(kind, ([],))[0]]:
        blocks[:, at] = value
    for at, half in zip((49, 51, 53, 55), (0, 0, 8, 0)) if kind == T.IQ1_M else ():
        blocks[:, at] = blocks[:, at] & 15 | half << 4
    for at in SCALES.get(kind, ()):
        d = (np.repeat(scale, len(blocks) // np.size(scale)) * rng.uniform(1e-4, 3e-4, len(blocks))).astype(np.float16)
        blocks[:, at:at + 2] = d.view(np.uint8).reshape(-1, 2)
    return blocks.reshape(rows, cols // elems * size)


def add_tokenizer(w, source, n_vocab=0):
    """That of another file, with unused tokens behind its own up to n_vocab."""
    for field in gguf.GGUFReader(source).fields.values():
        if not field.name.startswith("tokenizer."):
            continue
        value = field.contents()
        if field.name in ("tokenizer.ggml.tokens", "tokenizer.ggml.token_type", "tokenizer.ggml.scores"):
            more = max(n_vocab - len(value), 0)
            value += [f"<unused {i}>" for i in range(more)] if field.name.endswith("tokens") else [5 if field.name.endswith("type") else 0.0] * more
        if field.types[0] == gguf.GGUFValueType.ARRAY:
            w.add_array(field.name, value)
        else:
            w.add_key_value(field.name, value, field.types[0])


def is_better(i, n_layer):
    """Has layer i of a Q4_K_M file Q6_K in attn_v and ffn_down? As in llama.cpp's mixture."""
    return i < n_layer // 8 or i >= 7 * n_layer // 8 or i % 3 == 2


def llama_writer(out, shape, ctx, rope, source):
    """A Llama of this shape (as in SHAPES) with the tokenizer of source, as yet without tensors."""
    hidden, layers, heads, kv_heads, head, ffn = shape
    w = gguf.GGUFWriter(out, "llama")
    w.add_block_count(layers), w.add_context_length(ctx), w.add_embedding_length(hidden), w.add_feed_forward_length(ffn)
    w.add_head_count(heads), w.add_head_count_kv(kv_heads), w.add_layer_norm_rms_eps(1e-5), w.add_rope_freq_base(rope)
    w.add_rope_dimension_count(head), w.add_vocab_size(VOCAB)
    w.add_key_length(head), w.add_value_length(head)
    add_tokenizer(w, source)
    return w


def write_all(w):
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def main():
    root = pathlib.Path(__file__).resolve().parent.parent
    p = argparse.ArgumentParser()
    p.add_argument("out"), p.add_argument("type"), p.add_argument("--shape", choices=SHAPES, default="1b")
    p.add_argument("--spread", type=float, default=0)
    p.add_argument("source", nargs="?", default=str(root / "models/SmolLM2-135M-Instruct.Q4_1.gguf"))
    a = p.parse_intermixed_args()
    if a.spread and a.type != "Q4_0":
        p.error("--spread is worked out for Q4_0 only")
    out, name, source = a.out, a.type, a.source
    HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD, FFN = SHAPES[a.shape]
    base = T.Q4_K if name == "Q4_K_M" else T[name]
    better = T.Q6_K if name == "Q4_K_M" else base
    rng = np.random.default_rng(1)
    w = llama_writer(out, SHAPES[a.shape], CTX, 1e5, source)

    def add(key, rows, cols, kind, scale=1.0):
        w.add_tensor(key, tensor(rng, rows, cols, kind, scale), raw_dtype=kind)

    # A Q4_0 weight is d * (0..15 - 8): 9.3e-4 on average, so an element of q or k is that times sqrt(HIDDEN); with equal
    # elements s in BUSY dimensions a score is s^2 sqrt(BUSY / HEAD) wide.
    def sharp(heads):
        if not a.spread:
            return np.ones(heads * HEAD)
        s = (a.spread * (HEAD / BUSY) ** 0.5) ** 0.5 / (9.3e-4 * HIDDEN ** 0.5)
        return np.tile(np.where(np.arange(HEAD) < BUSY, s, s / 8), heads)

    def norm(key):
        w.add_tensor(key, np.ones(HIDDEN, np.float32))

    quiet = 0.1 if a.spread else 1.0  # layers add little, so that tokens stay as different as their embeddings
    add("token_embd.weight", VOCAB, HIDDEN, better, 100.0 if a.spread else 1.0)  # tied: also the output
    norm("output_norm.weight")
    for i in range(LAYERS):
        some = better if is_better(i, LAYERS) else base
        norm(f"blk.{i}.attn_norm.weight"), norm(f"blk.{i}.ffn_norm.weight")
        add(f"blk.{i}.attn_q.weight", HEADS * HEAD, HIDDEN, base, sharp(HEADS))
        add(f"blk.{i}.attn_k.weight", KV_HEADS * HEAD, HIDDEN, base, sharp(KV_HEADS))
        add(f"blk.{i}.attn_v.weight", KV_HEADS * HEAD, HIDDEN, some)
        add(f"blk.{i}.attn_output.weight", HIDDEN, HEADS * HEAD, base, quiet)
        add(f"blk.{i}.ffn_gate.weight", FFN, HIDDEN, base)
        add(f"blk.{i}.ffn_up.weight", FFN, HIDDEN, base)
        add(f"blk.{i}.ffn_down.weight", HIDDEN, FFN, some, quiet)
    write_all(w)


if __name__ == "__main__":
    main()
