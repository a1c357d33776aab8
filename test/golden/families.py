"""The model families as data: how a tiny checkpoint is configured and how it becomes GGUF.

A row holds: name, what (the special rules in words), arch (general.architecture), config (the class
of transformers and its arguments beside BASE), model (its class), layer (names of a block's tensors
in the checkpoint and in GGUF), keys (metadata beside the common ones), and rules: for each special
rule a change of the configuration, or a function on the model, that leaves the rule out."""
import json
import math

import gguf
import numpy as np
import torch
from safetensors.numpy import save_file

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
            if row.get("plus_one") and "norm" in base:
                t = t + np.float32(1)
            done.append((name, t))
    more = row.get("more_tensors", lambda cfg: [])(cfg)
    return sorted(done + more, key=lambda x: order(x[0]))


def order(name):
    parts = name.split(".")
    return (parts[0] == "blk", int(parts[1]) if parts[0] == "blk" else 0, name)


# Encoders: the answer is all states, then the pooled vector or the score ---------------------------

N_HIDDEN = 32
BERT_TOP = {"embeddings.word_embeddings": "token_embd", "embeddings.position_embeddings": "position_embd",
            "embeddings.token_type_embeddings": "token_types", "embeddings.LayerNorm": "token_embd_norm"}
BERT_LAYER = {"attention.self.query": "attn_q", "attention.self.key": "attn_k", "attention.self.value": "attn_v",
              "attention.output.dense": "attn_output", "attention.output.LayerNorm": "attn_output_norm",
              "intermediate.dense": "ffn_up", "output.dense": "ffn_down", "output.LayerNorm": "layer_output_norm"}
YES, NO = 40, 41


def encoder(name, arch, config, change, model, pool, what, **more):
    base = dict(hidden_size=N_HIDDEN, num_attention_heads=2, num_hidden_layers=3)
    row = dict(name=name, arch=arch, what=what, config=(config, {**base, **change}), model=model,
               answer=lambda m, ids: states(m, ids, pool), saved=saved_states, tokenizer=wordpiece)
    return {**row, **more}


def mean(hidden):
    return hidden.mean(0)


def last(hidden):
    return hidden[-1]


def states(model, ids, pool):
    """All states of the last layer and, behind them in one vector, the pooled state or the score."""
    if pool is None:
        out = model(ids, output_hidden_states=True)
        return torch.cat([out.hidden_states[-1][0].flatten(), out.logits[0]])
    hidden = model(ids).last_hidden_state[0]
    return torch.cat([hidden.flatten(), pool(hidden)])


def qwen_rank(model, ids):
    out = model(ids, output_hidden_states=True)
    share = out.logits[0, -1, [YES, NO]].softmax(0)[:1]
    return torch.cat([out.hidden_states[-1][0].flatten(), share])


def saved_states(want, keep, exact):
    n = N_HIDDEN * (max(keep) + 1)
    hidden = want[:n].reshape(-1, N_HIDDEN)
    return {"rows": keep, "states": [[exact(x) for x in hidden[k]] for k in keep], "pooled": [exact(x) for x in want[n:]]}


def gemma_dense(cfg):
    rng = np.random.default_rng(20261129)
    return {"dense_2": (rng.standard_normal((64, N_HIDDEN)) / N_HIDDEN ** 0.5).astype(np.float32),
            "dense_3": (rng.standard_normal((N_HIDDEN, 64)) / 64 ** 0.5).astype(np.float32)}


def gemma_pool(hidden):
    for w in gemma_dense(None).values():
        hidden = hidden if hidden.dim() == 1 else hidden.mean(0)
        hidden = torch.from_numpy(w).to(hidden.dtype) @ hidden
    return hidden


def pooling_files(mode):
    """The files by which sentence-transformers says how a model pools."""
    def save(path, model):
        (path / "1_Pooling").mkdir()
        (path / "1_Pooling/config.json").write_text(json.dumps({f"pooling_mode_{mode}" + (
            "_tokens" if mode == "mean" else ""): True}))
        (path / "modules.json").write_text(json.dumps([{"idx": 1, "path": "1_Pooling", "type": "x.Pooling"}]))
    return save


def gemma_files(path, model):
    pooling_files("mean")(path, model)
    mods = json.loads((path / "modules.json").read_text())
    for i, (k, w) in enumerate(gemma_dense(None).items()):
        d = path / f"{i + 2}_Dense"
        d.mkdir()
        (d / "config.json").write_text(json.dumps({"in_features": w.shape[1], "out_features": w.shape[0]}))
        save_file({"linear.weight": w}, d / "model.safetensors")
        mods.append({"idx": i + 2, "path": d.name, "type": "x.Dense"})
    (path / "modules.json").write_text(json.dumps(mods))


def cut_positions(key, t):
    return [(key, t[2:] if key.endswith("position_embeddings.weight") else t)]


def qwen_cls(key, t):
    if key == "model.embed_tokens.weight":
        return [(key, t), ("cls.output.weight", t[[YES, NO]])]
    return [(key, t)]


def wordpiece(cfg):
    """BERT's special tokens, then single characters: at the start of a word (U+2581) and inside of one."""
    chars = [chr(33 + i) for i in range(46)]
    tokens = ["[PAD]", "[UNK]", "[CLS]", "[SEP]", *["\u2581" + c for c in chars], *chars][:cfg.vocab_size]
    return {"tokenizer.ggml.model": "bert", "tokenizer.ggml.pre": "jina-v2-en", "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.token_type": [3] * 4 + [1] * (len(tokens) - 4), "tokenizer.ggml.token_type_count": 2,
            "tokenizer.ggml.padding_token_id": 0, "tokenizer.ggml.unknown_token_id": 1,
            "tokenizer.ggml.cls_token_id": 2, "tokenizer.ggml.seperator_token_id": 3}


def unigram(cfg):
    tokens = ["<s>", "<pad>", "</s>", "<unk>", "\u2581", *[chr(33 + i) for i in range(cfg.vocab_size - 5)]]
    return {"tokenizer.ggml.model": "t5", "tokenizer.ggml.pre": "default", "tokenizer.ggml.tokens": tokens,
            "tokenizer.ggml.scores": [0.0] * 4 + [-float(i) for i in range(1, len(tokens) - 3)],
            "tokenizer.ggml.token_type": [3, 3, 3, 2] + [1] * (len(tokens) - 4),
            "tokenizer.ggml.token_type_count": 2, "tokenizer.ggml.add_space_prefix": True,
            "tokenizer.ggml.remove_extra_whitespaces": True, "tokenizer.ggml.bos_token_id": 0,
            "tokenizer.ggml.eos_token_id": 2, "tokenizer.ggml.unknown_token_id": 3,
            "tokenizer.ggml.padding_token_id": 1, "tokenizer.ggml.seperator_token_id": 2}


# Rows --------------------------------------------------------------------------------------------

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


PHI = {"self_attn.qkv_proj": "attn_qkv", "self_attn.o_proj": "attn_output", "mlp.gate_up_proj": "ffn_up",
       "mlp.down_proj": "ffn_down"}
POST = {"post_attention_layernorm": "post_attention_norm", "post_feedforward_layernorm": "post_ffw_norm"}
OLMO3_ROPE = {"full_attention": {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32.0,
                                 "beta_slow": 1.0, "original_max_position_embeddings": 64},
              "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
MINISTRAL_ROPE = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
                  "original_max_position_embeddings": 32, "max_position_embeddings": 256, "mscale": 1.0,
                  "mscale_all_dim": 1.0, "llama_4_scaling_beta": 0.5}


def longrope(n, part, original=None, swap=False):
    """Rope parameters with n short and n long factors, made by rule; swap exchanges the two."""
    short = [round(1.0 + 0.03 * i, 4) for i in range(n)]
    long = [round(1.0 + 0.5 * i + 0.1 * (i % 3), 4) for i in range(n)]
    r = {"rope_type": "longrope", "rope_theta": 10000.0, "partial_rotary_factor": part,
         "short_factor": long if swap else short, "long_factor": short if swap else long}
    return {**r, "original_max_position_embeddings": original} if original else r


def longrope_tensors(cfg):
    return [(f"rope_factors_{k}.weight", np.array(cfg.rope_parameters[k + "_factor"], np.float32))
            for k in ("long", "short")]


def attention_factor(cfg):
    """What cos and sin are multiplied by under longrope: sqrt(1 + ln(scale) / ln(original))."""
    original = cfg.rope_parameters["original_max_position_embeddings"]
    return math.sqrt(1 + math.log(cfg.max_position_embeddings / original) / math.log(original))


def longrope_keys(cfg):
    return {"rope.scaling.type": "longrope", "rope.scaling.attn_factor": attention_factor(cfg),
            "rope.scaling.original_context_length": cfg.rope_parameters["original_max_position_embeddings"]}


def phi_keys(cfg):
    r = cfg.rope_parameters
    original = r.get("original_max_position_embeddings", cfg.original_max_position_embeddings)
    n_rot = int(r.get("partial_rotary_factor", 1.0) * cfg.hidden_size) // cfg.num_attention_heads
    return {"rope.dimension_count": n_rot, "attention.sliding_window": cfg.sliding_window or 0,
            "rope.scaling.original_context_length": original,
            "rope.scaling.attn_factor": attention_factor(cfg) if "long_factor" in r else None}


def granite_keys(cfg):
    return {**llama_keys(cfg), "attention.scale": float(cfg.attention_multiplier),
            "embedding_scale": float(cfg.embedding_multiplier), "residual_scale": float(cfg.residual_multiplier),
            "logit_scale": float(cfg.logits_scaling)}


def window_keys(cfg):
    return {"attention.sliding_window": cfg.sliding_window,
            "attention.sliding_window_pattern": [t == "sliding_attention" for t in cfg.layer_types]}


def hunyuan_keys(cfg):
    """The converter writes the stretched rope base, and 256 Ki as the context of every such model."""
    r, d = cfg.rope_parameters, cfg.head_dim
    return {"rope.freq_base": r["rope_theta"] * r["alpha"] ** (d / (d - 2)), "context_length": 262144,
            "rope.scaling.type": "none", "rope.scaling.factor": 1.0,
            "rope.scaling.original_context_length": 262144}


MOE = dict(hidden_size=32, intermediate_size=32, num_attention_heads=2, num_key_value_heads=1, num_experts_per_tok=2,
           experts_implementation="eager")
SHARED = {"mlp.shared_experts.gate_proj": "ffn_gate_shexp", "mlp.shared_experts.up_proj": "ffn_up_shexp",
          "mlp.shared_experts.down_proj": "ffn_down_shexp", "exp_probs_b": "exp_probs_b"}


def experts(block, router, gate="gate_proj", up="up_proj", down="down_proj"):
    return {f"{block}.{router}": "ffn_gate_inp", f"{block}.experts.{gate}": "ffn_gate_exps",
            f"{block}.experts.{up}": "ffn_up_exps", f"{block}.experts.{down}": "ffn_down_exps"}


def expert_keys(cfg):
    n = getattr(cfg, "num_local_experts", None) or cfg.num_experts
    return {"expert_count": n, "expert_used_count": cfg.num_experts_per_tok}


def split_halves(*names):
    """Rows of a tensor in two: gate, then up."""
    def split(key, t):
        for n in names:
            if key.endswith(n + ".weight"):
                half = t.shape[-2] // 2
                stem = key[:-len(n + ".weight")]
                return [(stem + "gate.weight", t[..., :half, :]), (stem + "up.weight", t[..., half:, :])]
        return [(key, t)]
    return split


def router_bias(name):
    """The bias of the choice of experts becomes exp_probs_b.bias."""
    def split(key, t):
        return [(key[:-len(name)] + "exp_probs_b.bias", t)] if key.endswith(name) else [(key, t)]
    return split


def ernie_keys(cfg):
    """The width of the shared experts is, for the converter, the dense width over the heads of keys."""
    return {"expert_count": cfg.moe_num_experts, "expert_used_count": cfg.moe_k,
            "expert_feed_forward_length": cfg.moe_intermediate_size,
            "interleave_moe_layer_step": cfg.moe_layer_interval,
            "leading_dense_block_count": cfg.moe_layer_start_index, "expert_shared_count": cfg.moe_num_shared_experts,
            "expert_shared_feed_forward_length": cfg.intermediate_size // cfg.num_key_value_heads}


def glm_keys(cfg):
    return {"rope.dimension_count": int(cfg.head_dim * cfg.rope_parameters["partial_rotary_factor"]),
            "expert_count": cfg.n_routed_experts, "expert_used_count": cfg.num_experts_per_tok,
            "expert_feed_forward_length": cfg.moe_intermediate_size, "expert_shared_count": cfg.n_shared_experts,
            "leading_dense_block_count": cfg.first_k_dense_replace, "expert_gating_func": 2,
            "expert_weights_scale": cfg.routed_scaling_factor, "expert_weights_norm": cfg.norm_topk_prob,
            "expert_group_count": cfg.n_group, "expert_group_used_count": cfg.topk_group,
            "nextn_predict_layers": cfg.num_mtp_layers}


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


def harmony_split(key, t):
    """gpt-oss: gate and up lie in turns along the outputs, and matrices are stored transposed."""
    if key.endswith("self_attn.sinks"):
        return [(key + ".weight", t)]
    if ".mlp.experts." not in key:
        return [(key, t)]
    stem, _, name = key.rpartition(".")
    part = "bias" if name.endswith("_bias") else "weight"
    t = t if part == "bias" else t.swapaxes(-1, -2)
    axis = {"bias": -1, "weight": -2}[part]
    if name.startswith("gate_up"):
        gate, up = (np.take(t, range(i, t.shape[axis], 2), axis) for i in (0, 1))
        return [(f"{stem}.gate.{part}", gate), (f"{stem}.up.{part}", up)]
    return [(f"{stem}.down.{part}", t)]


HARMONY_ROPE = {"rope_type": "yarn", "rope_theta": 150000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
                "truncate": False, "original_max_position_embeddings": 64}


def gpt_oss(name, **more):
    row = dict(
        name=name, arch="gpt-oss",
        what="window 8 in even layers; sinks; biases everywhere; YaRN; 6 experts, 3 a token, softmax over the chosen; "
             "clamped SwiGLU; 'also' holds the answer with rounded YaRN bounds, which is llama.cpp's",
        config=("GptOssConfig", dict(**{**MOE, "num_experts_per_tok": 3}, num_local_experts=6, head_dim=32,
                                     num_hidden_layers=3, sliding_window=WINDOW, rope_parameters=HARMONY_ROPE)),
        model="GptOssForCausalLM", transposed=True, gain={"gate_up_proj": 4.0}, split=harmony_split,
        layer={**NORMS, "post_attention_layernorm": "post_attention_norm", **QKV, "self_attn.sinks": "attn_sinks",
               "mlp.router": "ffn_gate_inp", "mlp.experts.gate": "ffn_gate_exps", "mlp.experts.up": "ffn_up_exps",
               "mlp.experts.down": "ffn_down_exps"},
        keys=lambda c: {**expert_keys(c), "attention.sliding_window": c.sliding_window,
                        "expert_feed_forward_length": c.intermediate_size},
        also={"rounded yarn bounds": dict(rope_parameters={**HARMONY_ROPE, "truncate": True})},
        rules={"window": full(3), "window of 7": dict(sliding_window=7), "window of 9": dict(sliding_window=9),
               "sinks": no_sinks, "clamp": dict(swiglu_limit=1e9), "swiglu": dict(swiglu_alpha=1.0),
               "yarn": dict(rope_parameters={**PLAIN, "rope_theta": 150000.0}),
               "bias": no_bias("_proj"), "router bias": no_bias("router"), "expert bias": zero("_proj_bias")})
    return {**row, **more}


def mxfp4(t):
    return gguf.quants.quantize(np.ascontiguousarray(t, np.float32), gguf.GGMLQuantizationType.MXFP4)


def mxfp4_experts(model):
    """Gives the experts values that MXFP4 can hold: blocks lie along the inputs."""
    for name, p in model.named_parameters():
        if name.endswith(("experts.gate_up_proj", "experts.down_proj")):
            t = p.detach().numpy().swapaxes(-1, -2)
            back = gguf.quants.dequantize(mxfp4(t), gguf.GGMLQuantizationType.MXFP4)
            p.data.copy_(torch.from_numpy(np.ascontiguousarray(back.swapaxes(-1, -2))))


def mxfp4_raw(name, t):
    return gguf.GGMLQuantizationType.MXFP4 if name.endswith("_exps.weight") else None


GEMMA_ROPE = {"full_attention": {"rope_type": "default", "rope_theta": 1000000.0},
              "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}

ROWS = [
    dict(name="qwen2", arch="qwen2", what="biases of q, k and v; NEOX rope; tied",
         config=("Qwen2Config", dict(tie_word_embeddings=True)),
         model="Qwen2ForCausalLM", layer={**NORMS, **QKV, **MLP},
         rules={"bias": no_bias("q_proj", "k_proj", "v_proj")}),
    dict(name="qwen3", arch="qwen3", what="2 heads of 32 with hidden 32; norm of each head before rope",
         config=("Qwen3Config", dict(hidden_size=32, head_dim=32, num_attention_heads=2, num_hidden_layers=3,
                                     num_key_value_heads=1, rope_parameters={"rope_type": "default", "rope_theta": 1e6})),
         model="Qwen3ForCausalLM", layer={**NORMS, **QKV, **HEAD_NORM, **MLP},
         rules={"head norm": plain_norm("q_norm", "k_norm")}),
    dict(name="gemma3", arch="gemma3",
         what="window 8 in layers 0-4 and 6, full in 5; two rope bases; sandwich norms; norm of each "
              "head; tanh GELU; embedding times sqrt(n); final cap",
         config=("Gemma3TextConfig", dict(
             hidden_size=32, intermediate_size=48, num_hidden_layers=7, head_dim=16, num_attention_heads=2,
             num_key_value_heads=1, query_pre_attn_scalar=16, sliding_window=WINDOW,
             final_logit_softcapping=4.0, rope_parameters=GEMMA_ROPE, rms_norm_eps=1e-6)),
         model="Gemma3ForCausalLM", layer={**SANDWICH, **QKV, **HEAD_NORM, **MLP}, plus_one=True,
         keys=lambda c: {"attention.sliding_window": c.sliding_window,
                         "final_logit_softcapping": c.final_logit_softcapping},
         rules={"window": full(7), "window of 7": dict(sliding_window=7), "window of 9": dict(sliding_window=9),
                "final cap": dict(final_logit_softcapping=None),
                "two bases": dict(rope_parameters={k: GEMMA_ROPE["full_attention"] for k in GEMMA_ROPE}),
                "norm + 1": norm_without_one, "gelu": dict(hidden_activation="silu")}),
    dict(name="gemma2", arch="gemma2",
         what="window 8 in even layers; scores capped at 3, logits at 4; sandwich norms; tanh GELU; "
              "embedding times sqrt(n)",
         config=("Gemma2Config", dict(
             hidden_size=32, num_hidden_layers=4, head_dim=32, num_attention_heads=2,
             num_key_value_heads=1, query_pre_attn_scalar=32, sliding_window=WINDOW, attn_logit_softcapping=3.0,
             final_logit_softcapping=4.0, rms_norm_eps=1e-6)),
         model="Gemma2ForCausalLM", layer={**SANDWICH, **QKV, **MLP}, plus_one=True,
         keys=lambda c: {"rope.freq_base": None, "attention.sliding_window": c.sliding_window,
                         "attn_logit_softcapping": c.attn_logit_softcapping,
                         "final_logit_softcapping": c.final_logit_softcapping},
         rules={"window": full(4), "window of 7": dict(sliding_window=7), "window of 9": dict(sliding_window=9),
                "score cap": dict(attn_logit_softcapping=None),
                "final cap": dict(final_logit_softcapping=None), "norm + 1": norm_without_one,
                "odd layers": dict(layer_types=["full_attention", "sliding_attention"] * 2)}),
    dict(name="phi3", arch="phi3", what="one matrix for q, k and v, one for gate and up; NEOX rope",
         config=("Phi3Config", dict()), model="Phi3ForCausalLM", layer={**NORMS, **PHI},
         keys=phi_keys),
    dict(name="phi3-long", arch="phi3",
         what="longrope: 80 tokens are beyond the original context of 64, so the long factors hold for all "
              "positions; 3/4 of a head of 32 is rotated; attention factor",
         config=("Phi3Config", dict(num_attention_heads=2, num_key_value_heads=1,
                                    original_max_position_embeddings=64, rope_parameters=longrope(12, 0.75))),
         model="Phi3ForCausalLM", layer={**NORMS, **PHI}, keys=phi_keys, more_tensors=longrope_tensors,
         rules={"long factors": dict(rope_parameters=longrope(12, 0.75, swap=True)),
                "attention factor": dict(rope_parameters={**longrope(12, 0.75), "attention_factor": 1.0}),
                "partial rope": dict(rope_parameters=longrope(16, 1.0))}),
    dict(name="phi3-short", arch="phi3",
         what="longrope: a context of at most 4096 (original) takes the short factors",
         config=("Phi3Config", dict(num_attention_heads=2, num_key_value_heads=1, max_position_embeddings=131072,
                                    original_max_position_embeddings=4096, rope_parameters=longrope(16, 1.0))),
         model="Phi3ForCausalLM", layer={**NORMS, **PHI}, keys=phi_keys, more_tensors=longrope_tensors,
         rules={"short factors": dict(rope_parameters=longrope(16, 1.0, swap=True)),
                "attention factor": dict(rope_parameters={**longrope(16, 1.0), "attention_factor": 1.0})}),
    dict(name="phi3-window", arch="phi3",
         what="window 8 in every layer, as PyTorch applies it to Phi-3-mini; llama.cpp ignores the key",
         config=("Phi3Config", dict(num_hidden_layers=2, sliding_window=WINDOW)), model="Phi3ForCausalLM",
         layer={**NORMS, **PHI}, keys=phi_keys,
         rules={"window": dict(sliding_window=None), "window of 7": dict(sliding_window=7),
                "window of 9": dict(sliding_window=9)}),
    dict(name="mistral3", arch="mistral3",
         what="heads of 16 with hidden 32; NORM rope with YaRN; q grows with the position beyond 32",
         config=("Ministral3Config", dict(hidden_size=32, num_attention_heads=4, head_dim=16, num_hidden_layers=4,
                                          rope_parameters=MINISTRAL_ROPE)),
         model="Ministral3ForCausalLM", layer={**NORMS, **QKV, **MLP}, pairs=True,
         keys=lambda c: {**llama_keys(c), "rope.scaling.yarn_log_multiplier": 1.0,
                         "attention.temperature_scale": 0.5},
         rules={"temperature": dict(rope_parameters={**MINISTRAL_ROPE, "llama_4_scaling_beta": 0.0}),
                "yarn": dict(rope_parameters={**MINISTRAL_ROPE, **PLAIN})}),
    dict(name="granite", arch="granite",
         what="attention, embedding, residual and logit scales; biases; NORM rope",
         config=("GraniteConfig", dict(embedding_multiplier=3.0, residual_multiplier=0.5, logits_scaling=2.5,
                                       attention_multiplier=0.125, attention_bias=True, tie_word_embeddings=True)),
         model="GraniteForCausalLM", layer={**NORMS, **QKV, **MLP}, pairs=True, keys=granite_keys,
         rules={"attention scale": dict(attention_multiplier=0.25), "embedding scale": dict(embedding_multiplier=1.0),
                "residual scale": dict(residual_multiplier=1.0), "logit scale": dict(logits_scaling=1.0),
                "bias": no_bias("q_proj", "k_proj", "v_proj", "o_proj")}),
    dict(name="smollm3", arch="smollm3", what="no rope in layer 3 of 0-4; NORM rope; tied",
         config=("SmolLM3Config", dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1,
                                       num_hidden_layers=5)),
         model="SmolLM3ForCausalLM", layer={**NORMS, **QKV, **MLP}, pairs=True, keys=llama_keys,
         rules={"no rope": dict(no_rope_layers=[1] * 5)}),
    dict(name="olmo2", arch="olmo2", what="no norms before; norm of q and k as a whole; norms after each branch",
         config=("Olmo2Config", dict(bos_token_id=1, eos_token_id=2)), model="Olmo2ForCausalLM",
         layer={**POST, **QKV, **HEAD_NORM, **MLP},
         rules={"q and k norm": plain_norm("q_norm", "k_norm"), "post norm": plain_norm("post_")}),
    dict(name="olmo3", arch="olmo2",
         what="as olmo2; window 8 in layers 0-2 with plain rope, full layer 3 with YaRN",
         config=("Olmo3Config", dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1,
                                     num_hidden_layers=5, sliding_window=WINDOW, rope_parameters=OLMO3_ROPE)),
         model="Olmo3ForCausalLM", layer={**POST, **QKV, **HEAD_NORM, **MLP}, keys=window_keys,
         rules={"window": full(5), "window of 7": dict(sliding_window=7), "window of 9": dict(sliding_window=9),
                "yarn": dict(rope_parameters={k: OLMO3_ROPE["sliding_attention"] for k in OLMO3_ROPE}),
                "plain rope": dict(rope_parameters={k: OLMO3_ROPE["full_attention"] for k in OLMO3_ROPE})}),
    dict(name="exaone4", arch="exaone4",
         what="no norms before; norm of each head; window 8 in layers 0-2 and 4, full layer 3 without rope; "
              "llama.cpp knows the window by 64 layers only",
         config=("Exaone4Config", dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1,
                                       num_hidden_layers=5, sliding_window=WINDOW)),
         model="Exaone4ForCausalLM", layer={**POST, **QKV, **HEAD_NORM, **MLP},
         keys=lambda c: {"vocab_size": c.vocab_size, **window_keys(c)},
         rules={"window": full(5), "window of 7": dict(sliding_window=7), "window of 9": dict(sliding_window=9),
                "head norm": plain_norm("q_norm", "k_norm")}),
    dict(name="exaone4-full", arch="exaone4", what="no window: rope in every layer",
         config=("Exaone4Config", dict(num_hidden_layers=2, sliding_window=None, tie_word_embeddings=True, **full(2))),
         model="Exaone4ForCausalLM", layer={**POST, **QKV, **HEAD_NORM, **MLP},
         keys=lambda c: {"vocab_size": c.vocab_size}, rules={"head norm": plain_norm("q_norm", "k_norm")}),
    dict(name="ernie4_5", arch="ernie4_5", what="NORM rope without permuted rows; 2 heads of 32 with hidden 32; tied",
         config=("Ernie4_5Config", dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=32)),
         model="Ernie4_5ForCausalLM", layer={**NORMS, **QKV, **MLP}),
    dict(name="hunyuan-dense", arch="hunyuan-dense",
         what="norm of each head after rope; NTK alpha in the rope base",
         config=("HunYuanDenseV1Config", dict(head_dim=16, max_position_embeddings=32768, tie_word_embeddings=True,
                                              rope_parameters={**PLAIN, "rope_type": "dynamic", "alpha": 1000.0,
                                                               "factor": 1.0})),
         model="HunYuanDenseV1ForCausalLM", keys=hunyuan_keys,
         layer={**NORMS, **QKV, **MLP, "self_attn.query_layernorm": "attn_q_norm",
                "self_attn.key_layernorm": "attn_k_norm"},
         rules={"head norm": plain_norm("query_layernorm", "key_layernorm"), "alpha": dict(rope_parameters=PLAIN)}),
    dict(name="llama-bias", arch="llama", what="biases of q, k, v, o, gate, up and down",
         config=("LlamaConfig", dict(attention_bias=True, mlp_bias=True)), model="LlamaForCausalLM",
         layer={**NORMS, **QKV, **MLP}, pairs=True, keys=llama_keys,
         rules={"attention bias": no_bias("_proj"), "mlp bias": no_bias("mlp")}),
    dict(name="llama-scale", arch="llama", peer=False, what="key attention.scale in place of 1/sqrt(head)",
         config=("GraniteConfig", dict(num_hidden_layers=2, attention_multiplier=0.125)), model="GraniteForCausalLM",
         layer={**NORMS, **QKV, **MLP}, pairs=True,
         keys=lambda c: {**llama_keys(c), "attention.scale": c.attention_multiplier},
         rules={"scale": dict(attention_multiplier=0.25)}),
    dict(name="llama-long", arch="llama", peer=False, what="longrope, long factors (80 tokens beyond 64); NORM rope",
         config=("LlamaConfig", dict(num_hidden_layers=2, rope_parameters=longrope(8, 1.0, 64))),
         model="LlamaForCausalLM", layer={**NORMS, **QKV, **MLP}, pairs=True,
         keys=lambda c: {**llama_keys(c), **longrope_keys(c)}, more_tensors=longrope_tensors,
         rules={"long factors": dict(rope_parameters=longrope(8, 1.0, 64, swap=True))}),
    *[dict(name=f"llama-head{d}", arch="llama", what=f"2 heads of {d}, 1 of keys; hidden 32",
           config=("LlamaConfig", dict(hidden_size=32, intermediate_size=32, num_hidden_layers=1, num_attention_heads=2,
                                       num_key_value_heads=1, head_dim=d)),
           model="LlamaForCausalLM", layer={**NORMS, **QKV, **MLP}, pairs=True, keys=llama_keys)
      for d in (64, 96, 112, 128, 192, 256)],
    dict(name="mixtral", arch="llama", what="8 experts, 2 a token, softmax over all and normed; NORM rope",
         config=("MixtralConfig", dict(**MOE, num_local_experts=8)), model="MixtralForCausalLM",
         layer={**NORMS, **QKV, **experts("block_sparse_moe", "gate", "w1", "w3", "w2")}, pairs=True,
         keys=lambda c: {**llama_keys(c), **expert_keys(c)}, rules={"two experts": dict(num_experts_per_tok=3)}),
    dict(name="qwen3moe", arch="qwen3moe", what="8 experts, 2 a token, softmax, normed; norm of each head",
         config=("Qwen3MoeConfig", dict(**MOE, head_dim=32, num_experts=8, moe_intermediate_size=32,
                                        norm_topk_prob=True)),
         model="Qwen3MoeForCausalLM", layer={**NORMS, **QKV, **HEAD_NORM, **experts("mlp", "gate")},
         keys=lambda c: {**expert_keys(c), "expert_feed_forward_length": c.moe_intermediate_size},
         rules={"normed": dict(norm_topk_prob=False), "head norm": plain_norm("q_norm", "k_norm")}),
    dict(name="granitemoe", arch="granitemoe",
         what="granite's four scales; 8 experts, softmax over the chosen; shared expert added without gate",
         config=("GraniteMoeSharedConfig", dict(**MOE, num_local_experts=8, shared_intermediate_size=48,
                                                embedding_multiplier=3.0, residual_multiplier=0.5, logits_scaling=2.5,
                                                attention_multiplier=0.125, tie_word_embeddings=True)),
         model="GraniteMoeSharedForCausalLM", pairs=True, split=split_halves("input_linear"),
         layer={**NORMS, **QKV, "block_sparse_moe.router.layer": "ffn_gate_inp",
                "block_sparse_moe.gate": "ffn_gate_exps", "block_sparse_moe.up": "ffn_up_exps",
                "block_sparse_moe.output_linear": "ffn_down_exps", "shared_mlp.gate": "ffn_gate_shexp",
                "shared_mlp.up": "ffn_up_shexp", "shared_mlp.output_linear": "ffn_down_shexp"},
         keys=lambda c: {**granite_keys(c), **expert_keys(c),
                         "expert_shared_feed_forward_length": c.shared_intermediate_size},
         rules={"residual scale": dict(residual_multiplier=1.0), "shared expert": zero("shared_mlp")}),
    dict(name="ernie4_5-moe", arch="ernie4_5-moe",
         what="layer 0 dense; 8 experts, chosen by softmax + bias, weights without it, normed; shared expert",
         config=("Ernie4_5_MoeConfig", dict(**{**MOE, "intermediate_size": 64}, moe_k=2, moe_num_experts=8,
                                            moe_intermediate_size=32, moe_num_shared_experts=2, head_dim=16)),
         model="Ernie4_5_MoeForCausalLM", split=router_bias("mlp.moe_statics.e_score_correction_bias"),
         layer={**NORMS, **QKV, **MLP, **experts("mlp", "gate"), **SHARED}, keys=ernie_keys,
         rules={"router bias": zero("correction_bias"), "shared expert": zero("shared_experts")}),
    dict(name="glm4moe", arch="glm4moe",
         what="layer 0 dense; half of a head is rotated; biases; norm of each head; 8 experts, sigmoid + bias for the "
              "choice, normed, times 1.5; shared expert",
         config=("Glm4MoeConfig", dict(**{**MOE, "num_hidden_layers": 3, "intermediate_size": 64}, n_routed_experts=8,
                                       moe_intermediate_size=32, head_dim=32, use_qk_norm=True, attention_bias=True,
                                       routed_scaling_factor=1.5, first_k_dense_replace=1, num_mtp_layers=0)),
         model="Glm4MoeForCausalLM", split=router_bias("mlp.gate.e_score_correction_bias"),
         layer={**NORMS, "post_attention_layernorm": "post_attention_norm", **QKV, **HEAD_NORM, **MLP,
                **experts("mlp", "gate"), **SHARED},
         keys=glm_keys,
         rules={"router bias": zero("correction_bias"), "factor": dict(routed_scaling_factor=1.0),
                "normed": dict(norm_topk_prob=False), "bias": no_bias("q_proj", "k_proj", "v_proj"),
                "head norm": plain_norm("q_norm", "k_norm"), "shared expert": zero("shared_experts"),
                "half rope": dict(rope_parameters={**PLAIN, "partial_rotary_factor": 1.0})}),
    gpt_oss("gpt-oss"),
    gpt_oss("gpt-oss-mxfp4", prepare=mxfp4_experts, raw=mxfp4_raw, peer=False, rules={},
            what="as gpt-oss, experts of MXFP4; PyTorch ran their dequantised values"),
    encoder("bert", "bert", "BertConfig", {}, "BertModel", mean,
            "LayerNorm after each branch, learned positions, erf GELU, all biases; mean pooling",
            top=BERT_TOP, prefix="encoder.layer.", layer=BERT_LAYER, skip=("pooler.",), save_more=pooling_files("mean"),
            keys={"attention.causal": False, "pooling_type": 1}, rules={"gelu": dict(hidden_act="gelu_new")},
            least=1e-10),
    encoder("bert-rank", "bert", "XLMRobertaConfig", dict(num_labels=1, pad_token_id=1),
            "XLMRobertaForSequenceClassification", None,
            "XLM-R: positions begin after the padding id (cut off in the file); score = cls.output(tanh(cls(x of the "
            "first token)))", score=True,
            top={**{"roberta." + k: v for k, v in BERT_TOP.items()}, "classifier.dense": "cls",
                 "classifier.out_proj": "cls.output"},
            prefix="roberta.encoder.layer.", layer=BERT_LAYER, split=cut_positions,
            keys={"attention.causal": False, "pooling_type": 4}, peer=False, tokenizer=unigram),
    encoder("nomic-bert", "nomic-bert", "NomicBertConfig", {}, "NomicBertModel", mean,
            "LayerNorm after each branch, NEOX rope, SwiGLU, no biases of matrices; mean pooling", peer=False,
            top={"embeddings.word_embeddings": "token_embd", "embeddings.token_type_embeddings": "token_types",
                 "emb_ln": "token_embd_norm"},
            prefix="encoder.layers.",
            layer={"attn.Wqkv": "attn_qkv", "attn.out_proj": "attn_output", "norm1": "attn_output_norm",
                   "norm2": "layer_output_norm", "mlp.fc11": "ffn_up", "mlp.fc12": "ffn_gate", "mlp.fc2": "ffn_down"},
            keys={"attention.causal": False, "pooling_type": 1, "attention.key_length": None,
                  "attention.value_length": None},
            rules={"rope base": dict(rope_parameters={"rope_type": "default", "rope_theta": 10000.0})}),
    encoder("modern-bert", "modern-bert", "ModernBertConfig",
            dict(num_hidden_layers=4, local_attention=2 * WINDOW, norm_eps=1e-5, layer_norm_eps=1e-5, cls_token_id=1, sep_token_id=2,
                 rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": 160000.0},
                                  "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}),
            "ModernBertModel", mean,
            "LayerNorm without bias before each branch, none in layer 0; GeGLU in one matrix (erf); layers 0 and 3 full "
            "with rope base 160000, 1 and 2 see 8 tokens to each side with 10000; mean pooling",
            top={"embeddings.tok_embeddings": "token_embd", "embeddings.norm": "token_embd_norm",
                 "final_norm": "output_norm"},
            prefix="layers.",
            layer={"attn_norm": "attn_norm", "mlp_norm": "ffn_norm", "attn.Wqkv": "attn_qkv", "attn.Wo": "attn_output",
                   "mlp.Wi": "ffn_up", "mlp.Wo": "ffn_down"},
            save_more=pooling_files("mean"), tokenizer=tokenizer,
            peer_keys_differ={"attention.sliding_window_pattern": "written from a key that transformers 5 drops"},
            keys=lambda c: {"attention.causal": False, "pooling_type": 1, "attention.sliding_window": c.local_attention, "attention.sliding_window_pattern": 3,
                            "rope.scaling.type": "none", "vocab_size": c.vocab_size, "hidden_activation": "gelu",
                            "classifier.pooling_type": 2},
            rules={"window": full(4), "window of 6": dict(local_attention=12), "window of 10": dict(local_attention=20),
                   "two bases": dict(rope_parameters={k: {"rope_type": "default", "rope_theta": 160000.0}
                                                      for k in ("full_attention", "sliding_attention")})}),
    encoder("gemma-embedding", "gemma-embedding", "Gemma3TextConfig",
            dict(num_hidden_layers=7, head_dim=16, num_key_value_heads=1, intermediate_size=48, query_pre_attn_scalar=16,
                 sliding_window=2 * WINDOW, use_bidirectional_attention=True, rope_parameters=GEMMA_ROPE,
                 rms_norm_eps=1e-6),
            "Gemma3TextModel", gemma_pool,
            "gemma3's block without a causal mask; layer 5 full, the others see 8 tokens to each side; mean pooling, "
            "then dense_2 and dense_3",
            top={"embed_tokens": "token_embd", "norm": "output_norm"}, prefix="layers.", plus_one=True,
            layer={**SANDWICH, **QKV, **HEAD_NORM, **MLP}, save_more=gemma_files, tokenizer=tokenizer,
            peer_flags=["--sentence-transformers-dense-modules"],
            more_tensors=lambda cfg: [(k + ".weight", v) for k, v in gemma_dense(cfg).items()],
            keys=lambda c: {"attention.sliding_window": 2 * WINDOW, "pooling_type": 1, "dense_2_feat_in": 32,
                            "dense_2_feat_out": 64, "dense_3_feat_in": 64, "dense_3_feat_out": 32},
            rules={"window": full(7), "window of 7": dict(sliding_window=14), "window of 9": dict(sliding_window=18)}),
    encoder("qwen3-embedding", "qwen3", "Qwen3Config", dict(head_dim=32, num_key_value_heads=1, num_hidden_layers=3),
            "Qwen3Model", last, "qwen3 with the state of the last token after the final norm",
            top={"embed_tokens": "token_embd", "norm": "output_norm"}, prefix="layers.",
            layer={**NORMS, **QKV, **HEAD_NORM, **MLP}, save_more=pooling_files("lasttoken"), tokenizer=tokenizer,
            keys={"pooling_type": 3}),
    encoder("qwen3-rank", "qwen3", "Qwen3Config",
            dict(head_dim=32, num_key_value_heads=1, num_hidden_layers=3, tie_word_embeddings=True),
            "Qwen3ForCausalLM", None, score=True, peer=False, tokenizer=tokenizer,
            what="qwen3 as a reranker: cls.output holds the rows of the tokens 'yes' and 'no', the score is the share of "
                 "'yes' in the softmax of the two at the last token",
            answer=qwen_rank, top={"cls.output": "cls.output"}, layer={**NORMS, **QKV, **HEAD_NORM, **MLP}, split=qwen_cls, keys={"pooling_type": 4}),
]
