"""Records tiny random checkpoints (F32 GGUF) with PyTorch's logits, and reference dequantisation."""
import json
import pathlib

import gguf
import numpy as np
import torch
import transformers
from transformers import LlamaConfig, LlamaForCausalLM

OUT = pathlib.Path(__file__).parent / "data"
SEED = 20261124
BASE = dict(vocab_size=80, hidden_size=64, intermediate_size=96, num_hidden_layers=2, num_attention_heads=4,
            num_key_value_heads=4, max_position_embeddings=256, rms_norm_eps=1e-5, initializer_range=0.25,
            attention_bias=False, mlp_bias=False)
ROPE = {"type": "default", "rope_theta": 10000.0}
VARIANTS = {
    "mha": dict(tie_word_embeddings=False),
    "gqa-tied": dict(num_key_value_heads=2, tie_word_embeddings=True, rope_parameters={"rope_type": "default", "rope_theta": 100000.0}),
    "head32-bias": dict(num_attention_heads=2, num_key_value_heads=1, head_dim=32, attention_bias=True),
    "linear": dict(num_key_value_heads=2, rope_parameters={"rope_type": "linear", "factor": 4.0, "rope_theta": 10000.0}),
    "llama3": dict(num_key_value_heads=1, rope_parameters={"rope_type": "llama3", "factor": 8.0, "low_freq_factor": 1.0,
                   "high_freq_factor": 4.0, "original_max_position_embeddings": 64, "rope_theta": 10000.0}),
    "yarn": dict(num_key_value_heads=2, rope_parameters={"rope_type": "yarn", "factor": 4.0,
                 "original_max_position_embeddings": 64, "rope_theta": 10000.0}),
}


def permute(w, n_head):
    """Rows from split halves (transformers) to adjacent pairs (GGUF llama)."""
    shape = w.shape
    return w.reshape(n_head, 2, shape[0] // n_head // 2, *shape[1:]).swapaxes(1, 2).reshape(shape)


def write_gguf(path, model, cfg, name):
    w = gguf.GGUFWriter(str(path), "llama")
    rope = cfg.rope_parameters
    w.add_context_length(cfg.max_position_embeddings)
    w.add_embedding_length(cfg.hidden_size)
    w.add_block_count(cfg.num_hidden_layers)
    w.add_feed_forward_length(cfg.intermediate_size)
    w.add_head_count(cfg.num_attention_heads)
    w.add_head_count_kv(cfg.num_key_value_heads)
    d = cfg.head_dim
    w.add_key_length(d)
    w.add_value_length(d)
    w.add_rope_dimension_count(d)
    w.add_layer_norm_rms_eps(cfg.rms_norm_eps)
    w.add_rope_freq_base(rope["rope_theta"])
    if rope["rope_type"] == "linear":
        w.add_rope_scaling_type(gguf.RopeScalingType.LINEAR)
        w.add_rope_scaling_factor(rope["factor"])
    if rope["rope_type"] == "yarn":
        w.add_rope_scaling_type(gguf.RopeScalingType.YARN)
        w.add_rope_scaling_factor(rope["factor"])
        w.add_rope_scaling_orig_ctx_len(rope["original_max_position_embeddings"])
    if rope["rope_type"] == "llama3":  # transformers' formula, as the factors GGUF carries
        inv = model.model.rotary_emb.inv_freq.numpy()
        plain = 1.0 / rope["rope_theta"] ** (np.arange(0, d, 2, dtype=np.float64) / d)
        w.add_tensor("rope_freqs.weight", (plain / inv).astype(np.float32))
    vocab = ["<unk>", "<s>", "</s>"] + [chr(33 + i) for i in range(cfg.vocab_size - 4)] + ['!"']
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre("gpt-2")
    w.add_token_list(vocab)
    w.add_token_types([3, 3, 3] + [1] * (cfg.vocab_size - 3))
    w.add_token_merges(['! "'])
    w.add_bos_token_id(1)
    w.add_eos_token_id(2)
    w.add_unk_token_id(0)
    sd = {k: v.detach().numpy() for k, v in model.state_dict().items()}
    w.add_tensor("token_embd.weight", sd["model.embed_tokens.weight"])
    w.add_tensor("output_norm.weight", sd["model.norm.weight"])
    if not cfg.tie_word_embeddings:
        w.add_tensor("output.weight", sd["lm_head.weight"])
    names = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
             "self_attn.o_proj": "attn_output", "mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up",
             "mlp.down_proj": "ffn_down", "input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
    heads = {"attn_q": cfg.num_attention_heads, "attn_k": cfg.num_key_value_heads}
    for i in range(cfg.num_hidden_layers):
        for hf, gg in names.items():
            for part in ("weight", "bias"):
                key = f"model.layers.{i}.{hf}.{part}"
                if key in sd:
                    t = permute(sd[key], heads[gg]) if gg in heads else sd[key]
                    w.add_tensor(f"blk.{i}.{gg}.{part}", np.ascontiguousarray(t, dtype=np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def record_models():
    for i, (name, extra) in enumerate(VARIANTS.items()):
        torch.manual_seed(SEED + i)
        cfg = LlamaConfig(**{**BASE, "rope_parameters": {"rope_type": "default", "rope_theta": 10000.0}, **extra})
        model = LlamaForCausalLM(cfg).eval()
        with torch.no_grad():
            for p in model.parameters():
                if p.dim() == 1:
                    p.add_(torch.randn_like(p) * 0.1)
            rng = np.random.default_rng(SEED + i)
            ids = rng.integers(3, cfg.vocab_size, 150).tolist()
            logits = model(torch.tensor([ids])).logits[0].numpy()
        keep = [0, 1, 31, 32, 33, 63, 64, 100, 149]
        write_gguf(OUT / f"tiny-{name}.gguf", model, cfg, name)
        (OUT / f"tiny-{name}.json").write_text(json.dumps({
            "torch": torch.__version__, "transformers": transformers.__version__, "seed": SEED + i, "ids": ids,
            "rows": keep, "logits": [[float(x) for x in logits[k]] for k in keep]}))
        print(name, logits.std())


def record_dequant():
    rng = np.random.default_rng(SEED)
    out = {"gguf": "0.19 reference dequantisation", "types": {}}
    q = gguf.GGMLQuantizationType
    for t in (q.F16, q.BF16, q.Q8_0, q.Q4_0, q.Q4_1, q.Q5_0, q.Q5_1, q.Q2_K, q.Q3_K, q.Q4_K, q.Q5_K, q.Q6_K, q.IQ4_NL, q.IQ4_XS):
        n_elem, n_byte = gguf.GGML_QUANT_SIZES[t]
        n_blk = 512 // n_elem
        raw = rng.integers(0, 256, (n_blk, n_byte), dtype=np.uint8)
        scale_at = {q.Q4_1: (0, 2), q.Q5_1: (0, 2), q.Q2_K: (80, 82), q.Q3_K: (108,), q.Q4_K: (0, 2), q.Q5_K: (0, 2),
                    q.Q6_K: (208,), q.F16: (), q.BF16: ()}.get(t, (0,))
        for at in scale_at:  # finite scales of both signs
            raw[:, at:at + 2] = (rng.standard_normal(n_blk).astype(np.float16) * np.float16(0.1)).view(np.uint8).reshape(-1, 2)
        if t in (q.F16, q.BF16):
            dt = rng.standard_normal(512).astype(np.float32)
            raw = (dt.astype(np.float16).view(np.uint8) if t == q.F16 else (dt.view(np.uint32) >> 16).astype(np.uint16).view(np.uint8)).reshape(n_blk, n_byte)
        val = gguf.quants.dequantize(raw.reshape(1, -1), t).reshape(-1)
        out["types"][t.name] = {"number": int(t), "bytes": raw.tobytes().hex(), "values": [float(x) for x in val]}
    (OUT / "dequant.json").write_text(json.dumps(out))


record_models()
record_dequant()
