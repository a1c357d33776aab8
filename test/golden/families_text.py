"""Rows of the dense text models; families.py says what a row holds."""
import math

import numpy as np

from families import (GEMMA_ROPE, HEAD_NORM, MLP, NORMS, PLAIN, QKV, SANDWICH, WINDOW, full, granite_keys,
                      llama_keys, no_bias, norm_without_one, plain_norm, zero)

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


def window_keys(cfg):
    return {"attention.sliding_window": cfg.sliding_window,
            "attention.sliding_window_pattern": [t == "sliding_attention" for t in cfg.layer_types]}


def hunyuan_keys(cfg):
    """The converter writes the stretched rope base, and 256 Ki as the context of every such model."""
    r, d = cfg.rope_parameters, cfg.head_dim
    return {"rope.freq_base": r["rope_theta"] * r["alpha"] ** (d / (d - 2)), "context_length": 262144,
            "rope.scaling.type": "none", "rope.scaling.factor": 1.0,
            "rope.scaling.original_context_length": 262144}


PROPORTIONAL = {"full_attention": {"rope_type": "proportional", "partial_rotary_factor": 0.25, "rope_theta": 1000000.0},
                "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}}
GEMMA4 = {**SANDWICH, **QKV, **HEAD_NORM, **MLP, "layer_scalar": "layer_output_scale.weight", "router.proj": "ffn_gate_inp",
          "router.scale": "ffn_gate_inp.scale", "router.per_expert_scale": "ffn_down_exps.scale",
          "experts.gate_up_proj": "ffn_gate_up_exps.weight", "experts.down_proj": "ffn_down_exps.weight",
          "post_feedforward_layernorm_1": "post_ffw_norm_1", "pre_feedforward_layernorm_2": "pre_ffw_norm_2",
          "post_feedforward_layernorm_2": "post_ffw_norm_2", "per_layer_input_gate": "inp_gate",
          "per_layer_projection": "proj", "post_per_layer_input_norm": "post_norm"}


def ones(part):
    def change(model):
        for name, p in model.named_parameters():
            if part in name:
                p.data.fill_(1)
    return change


def unshared(model):
    """Layers that share keys attend those of the other producer's neighbour: layer 3 in the place of layer 4."""
    a, b = (model.model.layers[i].self_attn for i in (3, 4))
    a.store_full_length_kv, b.store_full_length_kv = True, False


def gemma4_keys(cfg):
    own = cfg.per_layer_config
    full = cfg.layer_types.index("full_attention")
    n_ff, first = cfg.intermediate_size, cfg.num_hidden_layers - cfg.num_kv_shared_layers
    heads = [own[i].num_key_value_heads for i in range(cfg.num_hidden_layers)]
    wide = [n_ff * (1 + (i >= first)) for i in range(cfg.num_hidden_layers)]
    return {"attention.sliding_window": cfg.sliding_window, "final_logit_softcapping": cfg.final_logit_softcapping,
            "attention.sliding_window_pattern": [t == "sliding_attention" for t in cfg.layer_types],
            "attention.shared_kv_layers": cfg.num_kv_shared_layers,
            "embedding_length_per_layer_input": cfg.hidden_size_per_layer_input,
            "attention.key_length": own[full].head_dim, "attention.value_length": own[full].head_dim,
            "attention.key_length_swa": own[0].head_dim, "attention.value_length_swa": own[0].head_dim,
            "rope.dimension_count": own[full].head_dim, "rope.dimension_count_swa": own[0].head_dim,
            "attention.head_count_kv": heads if len(set(heads)) > 1 else heads[0],
            "feed_forward_length": wide if cfg.use_double_wide_mlp else n_ff,
            "expert_count": cfg.num_experts, "expert_used_count": cfg.top_k_experts,
            "expert_feed_forward_length": cfg.moe_intermediate_size}


def gemma4(name, what, config, rules):
    return dict(
        name=name, arch="gemma4",
        what="window 8, heads of 16 in layers with it and of 32 in full ones, of which a quarter turns; norm of each head, of "
             "values without weights; scores times 1; sandwich norms; a factor behind each layer; final cap; " + what,
        config=("Gemma4TextConfig", dict(
            hidden_size=32, intermediate_size=48, head_dim=16, global_head_dim=32, num_attention_heads=2, sliding_window=WINDOW,
            vocab_size_per_layer_input=96, final_logit_softcapping=4.0, rope_parameters=PROPORTIONAL, rms_norm_eps=1e-6,
            tie_word_embeddings=True, **config)),
        model="Gemma4ForCausalLM", layer=GEMMA4, head_norm_gain=0.2,
        top={"model.embed_tokens_per_layer": "per_layer_token_embd", "model.per_layer_model_projection": "per_layer_model_proj",
             "model.per_layer_projection_norm": "per_layer_proj_norm"},
        more_tensors=lambda cfg: [("rope_freqs.weight", np.array([1.0] * 4 + [1e30] * 12, np.float32))],
        keys=gemma4_keys,
        rules={"window of 7": dict(sliding_window=7), "window of 9": dict(sliding_window=9), "layer scale": ones_scalar,
               "final cap": dict(final_logit_softcapping=None), "gelu": dict(hidden_activation="silu"),
               "quarter": dict(rope_parameters={**PROPORTIONAL, "full_attention": {
                   **PROPORTIONAL["full_attention"], "partial_rotary_factor": 0.5}}), **rules})


def ones_scalar(model):
    for name, p in model.named_buffers():
        if "layer_scalar" in name:
            p.data.fill_(1)


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
    gemma4("gemma4", "layers 5 to 8 attend the keys of layers 2 and 4 and are twice as wide; each layer adds of a row for the token",
           dict(num_hidden_layers=9, num_key_value_heads=1, layer_types=["sliding_attention"] * 2 + ["full_attention"]
                + ["sliding_attention"] * 2 + ["full_attention"] + ["sliding_attention"] * 2 + ["full_attention"],
                num_kv_shared_layers=4, use_double_wide_mlp=True, hidden_size_per_layer_input=16),
           {"rows of tokens": zero("embed_tokens_per_layer"), "beginning": zero("per_layer_model_projection"),
            "side": zero("per_layer_projection.weight"), "shared": unshared}),
    gemma4("gemma4-moe", "values of full layers are their keys before the norm; each layer has 8 experts, 2 a token, beside its "
           "dense part",
           dict(num_hidden_layers=4, num_key_value_heads=2, num_global_key_value_heads=1, attention_k_eq_v=True,
                layer_types=["sliding_attention", "full_attention"] * 2, hidden_size_per_layer_input=0, enable_moe_block=True,
                num_experts=8, top_k_experts=2, moe_intermediate_size=32, experts_implementation="eager"),
           {"expert scale": ones("per_expert_scale"), "router scale": ones("router.scale"),
            "norm before experts": ones("pre_feedforward_layernorm_2"), "dense part": zero("post_feedforward_layernorm_1"),
            "experts": zero("post_feedforward_layernorm_2")}),
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
]
