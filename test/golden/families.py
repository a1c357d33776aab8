"""The model families as data: how a tiny checkpoint is configured and how it becomes GGUF.

A row holds: name, what (the special rules in words), arch (general.architecture), config (the class
of transformers and its arguments beside BASE), model (its class), layer (names of a block's tensors
in the checkpoint and in GGUF), keys (metadata beside the common ones), and rules: for each special
rule a change of the configuration, or a function on the model, that leaves the rule out.

This file holds what the rows share; the rows stand in families_text.py, families_experts.py and
families_encoders.py."""
import numpy as np

BASE = dict(vocab_size=96, hidden_size=64, intermediate_size=64, num_hidden_layers=2,
            num_attention_heads=4, num_key_value_heads=2, max_position_embeddings=256,
            rms_norm_eps=1e-5, pad_token_id=0, bos_token_id=1, eos_token_id=2)
WINDOW = 8
PLAIN = {"rope_type": "default", "rope_theta": 10000.0}

NORMS = {"input_layernorm": "attn_norm", "post_attention_layernorm": "ffn_norm"}
SANDWICH = {"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm",
            "pre_feedforward_layernorm": "ffn_norm", "post_feedforward_layernorm": "post_ffw_norm"}
QKV = {"self_attn.q_proj": "attn_q", "self_attn.k_proj": "attn_k", "self_attn.v_proj": "attn_v",
       "self_attn.o_proj": "attn_output"}
HEAD_NORM = {"self_attn.q_norm": "attn_q_norm", "self_attn.k_norm": "attn_k_norm"}
MLP = {"mlp.gate_proj": "ffn_gate", "mlp.up_proj": "ffn_up", "mlp.down_proj": "ffn_down"}
TOP = {"model.embed_tokens": "token_embd", "model.norm": "output_norm", "lm_head": "output"}


# Answers -----------------------------------------------------------------------------------------

def causal(model, ids):
    return model(ids).logits[0]


def saved(row, want, keep, exact):
    """What of an answer is written: logits of some positions, or states and a pooled vector."""
    if "saved" in row:
        return row["saved"](want, keep, exact)
    return {"rows": keep, "logits": [[exact(x) for x in want[k]] for k in keep]}


# Metadata ----------------------------------------------------------------------------------------

def tokenizer(cfg):
    """A GPT-2 vocabulary of single characters with one merge, so that the file loads."""
    n = cfg.vocab_size
    tokens = ["<unk>", "<s>", "</s>"] + [chr(33 + i) for i in range(n - 4)] + ['!"']
    return {"tokenizer.ggml.model": "gpt2", "tokenizer.ggml.pre": "gpt-2", "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3, 3, 3] + [1] * (n - 3), "tokenizer.ggml.merges": ['! "'],
            "tokenizer.ggml.bos_token_id": 1, "tokenizer.ggml.eos_token_id": 2,
            "tokenizer.ggml.unknown_token_id": 0}


def rope_of(cfg):
    r = getattr(cfg, "rope_parameters", None) or {}
    return r.get("full_attention", r) or {}


def keys_of(row, cfg):
    """The keys that every family has where its configuration has the value, then the row's own."""
    cfg.allow_global_per_layer_attribute_access = True  # where layers differ, the row's keys say how
    k = {"block_count": cfg.num_hidden_layers, "context_length": cfg.max_position_embeddings,
         "embedding_length": cfg.hidden_size, "feed_forward_length": cfg.intermediate_size,
         "attention.head_count": cfg.num_attention_heads}
    for key, attr, kind in (("attention.head_count_kv", "num_key_value_heads", int),
                            ("attention.layer_norm_rms_epsilon", "rms_norm_eps", float),
                            ("attention.layer_norm_epsilon", "layer_norm_eps", float),
                            ("attention.key_length", "head_dim", int),
                            ("attention.value_length", "head_dim", int)):
        if getattr(cfg, attr, None) is not None:
            k[key] = kind(getattr(cfg, attr))
    rope = rope_of(cfg)
    if "rope_theta" in rope:
        k["rope.freq_base"] = float(rope["rope_theta"])
    if rope.get("rope_type") in ("linear", "yarn"):
        k["rope.scaling.type"] = rope["rope_type"]
        k["rope.scaling.factor"] = float(rope["factor"])
    if rope.get("rope_type") == "yarn":
        k["rope.scaling.original_context_length"] = rope["original_max_position_embeddings"]
        for key, attr in (("yarn_beta_fast", "beta_fast"), ("yarn_beta_slow", "beta_slow"),
                          ("yarn_attn_factor", "attention_factor")):
            if rope.get(attr) is not None:
                k["rope.scaling." + key] = float(rope[attr])
    both = getattr(cfg, "rope_parameters", None) or {}
    if (both.get("sliding_attention") or {}).get("rope_theta") is not None:
        k["rope.freq_base_swa"] = float(both["sliding_attention"]["rope_theta"])
    more = row.get("keys", {})
    k.update(more(cfg) if callable(more) else more)
    return {key: v for key, v in k.items() if v is not None}


def llama_keys(cfg):
    """The two keys that the converter writes for the relatives of llama only."""
    d = getattr(cfg, "head_dim", None) or cfg.hidden_size // cfg.num_attention_heads
    return {"vocab_size": cfg.vocab_size, "rope.dimension_count": d}


def granite_keys(cfg):
    return {**llama_keys(cfg), "attention.scale": float(cfg.attention_multiplier),
            "embedding_scale": float(cfg.embedding_multiplier), "residual_scale": float(cfg.residual_multiplier),
            "logit_scale": float(cfg.logits_scaling)}


# Tensors -----------------------------------------------------------------------------------------

def pairs(t, n_head):
    """Rows of a head from split halves (transformers) to adjacent pairs (GGUF's NORM rope)."""
    return t.reshape(n_head, 2, t.shape[0] // n_head // 2, *t.shape[1:]).swapaxes(1, 2).reshape(t.shape)


def gguf_name(key, row):
    """The GGUF name of a checkpoint's tensor; None where the row does not name it."""
    stem, _, part = key.rpartition(".")
    top = {**TOP, **row.get("top", {})}
    if stem in top:
        return f"{top[stem]}.{part}"
    prefix = row.get("prefix", "model.layers.")
    if key.startswith(prefix):
        n, _, rest = key[len(prefix):].partition(".")
        if rest in row["layer"]:  # a tensor without .weight
            return f"blk.{n}.{row['layer'][rest]}"
        stem, _, part = rest.rpartition(".")
        if stem in row["layer"]:
            return f"blk.{n}.{row['layer'][stem]}.{part}"
    return None


def tensors_of(row, cfg, checkpoint):
    heads = {"attn_q": cfg.num_attention_heads, "attn_k": getattr(cfg, "num_key_value_heads", 0)}
    done = []
    for key, t in checkpoint.items():
        if key.startswith(row.get("skip", ("\0",))):
            continue
        for key, t in row.get("split", lambda key, t: [(key, t)])(key, t):
            name = gguf_name(key, row)
            if name is None:
                raise SystemExit(f"{row['name']}: {key} {t.shape} has no name in GGUF")
            base = name.split(".")[-2]
            if row.get("pairs") and base in heads:
                t = pairs(t, heads[base])
            if row.get("plus_one") and "norm" in base and base != "ssm_norm":
                t = t + np.float32(1)
            done.append((name, t))
    more = row.get("more_tensors", lambda cfg: [])(cfg)
    return sorted(done + more, key=lambda x: order(x[0]))


def order(name):
    parts = name.split(".")
    return (parts[0] == "blk", int(parts[1]) if parts[0] == "blk" else 0, name)


# Rules left out ----------------------------------------------------------------------------------

def no_bias(*parts):
    def change(model):
        for name, p in model.named_parameters():
            if name.endswith("bias") and any(x in name for x in parts):
                p.data.zero_()
    return change


def plain_norm(*parts):
    def change(model):
        for name, p in model.named_parameters():
            if name.endswith("norm.weight") and any(x in name for x in parts):
                p.data.fill_(1)
    return change


def norm_without_one(model):
    for name, p in model.named_parameters():
        if name.endswith("norm.weight"):
            p.data.sub_(1)


def full(n):
    return {"layer_types": ["full_attention"] * n}


def zero(part):
    def change(model):
        for name, p in [*model.named_parameters(), *model.named_buffers()]:
            if part in name:
                p.data.zero_()
    return change


def no_sinks(model):
    for name, p in model.named_parameters():
        if name.endswith("sinks"):
            p.data.fill_(-1e9)


GEMMA_ROPE = {"full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
              "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
