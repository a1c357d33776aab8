"""Rows of the text models with experts; families.py says what a row holds."""
import gguf
import numpy as np
import torch

from families import (HEAD_NORM, MLP, NORMS, PLAIN, QKV, WINDOW, full, granite_keys, llama_keys, no_bias, no_sinks,
                      plain_norm, zero)

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


LATENT = dict(**{**MOE, "num_key_value_heads": 2, "num_hidden_layers": 3, "intermediate_size": 64}, n_routed_experts=8,
              moe_intermediate_size=32, kv_lora_rank=32, qk_nope_head_dim=40, qk_rope_head_dim=16, v_head_dim=24)
LATENT_QKV = {"self_attn.q_proj": "attn_q", "self_attn.q_a_proj": "attn_q_a", "self_attn.q_a_layernorm": "attn_q_a_norm",
              "self_attn.q_b_proj": "attn_q_b", "self_attn.kv_a_proj_with_mqa": "attn_kv_a_mqa",
              "self_attn.kv_a_layernorm": "attn_kv_a_norm", "self_attn.k_b_proj": "attn_k_b", "self_attn.v_b_proj": "attn_v_b",
              "self_attn.o_proj": "attn_output"}
LATENT_GAIN = {"q_b_proj": 2.5, "q_proj": 2.5, "kv_a_proj_with_mqa": 2.0, "kv_b_proj": 2.0}
LATENT_YARN = {"rope_type": "yarn", "rope_theta": 10000.0, "factor": 4.0, "beta_fast": 32.0, "beta_slow": 1.0,
               "original_max_position_embeddings": 64, "mscale": 0.7, "mscale_all_dim": 0.7}


def latent_split(key, t):
    """The matrix of keys and values in two, each [head, rows, columns]; that of keys is transposed."""
    if not key.endswith("kv_b_proj.weight"):
        return router_bias("mlp.gate.e_score_correction_bias")(key, t)
    n = LATENT["qk_nope_head_dim"]
    t = t.reshape(LATENT["num_attention_heads"], n + LATENT["v_head_dim"], -1)
    return [(key.replace("kv_b", "k_b"), t[:, :n].swapaxes(1, 2)), (key.replace("kv_b", "v_b"), t[:, n:])]


def latent_keys(cfg):
    rope = cfg.rope_parameters
    return {"vocab_size": cfg.vocab_size, "attention.head_count_kv": 1, "attention.q_lora_rank": cfg.q_lora_rank,
            "attention.kv_lora_rank": cfg.kv_lora_rank, "attention.value_length": cfg.kv_lora_rank,
            "attention.key_length": cfg.kv_lora_rank + cfg.qk_rope_head_dim,
            "attention.key_length_mla": cfg.qk_nope_head_dim + cfg.qk_rope_head_dim,
            "attention.value_length_mla": cfg.v_head_dim, "rope.dimension_count": cfg.qk_rope_head_dim,
            "rope.scaling.yarn_log_multiplier": 0.1 * rope["mscale_all_dim"] if rope.get("mscale_all_dim") else None,
            "expert_count": cfg.n_routed_experts, "expert_used_count": cfg.num_experts_per_tok,
            "expert_feed_forward_length": cfg.moe_intermediate_size, "expert_shared_count": cfg.n_shared_experts,
            "leading_dense_block_count": getattr(cfg, "first_k_dense_replace", 1),
            "expert_weights_scale": cfg.routed_scaling_factor, "expert_weights_norm": cfg.norm_topk_prob or None,
            "expert_group_count": cfg.n_group, "expert_group_used_count": cfg.topk_group}


def latent(name, what, config, model, rules, **more):
    return dict(name=name, arch="deepseek2", what="latents of 32; " + what, config=config, model=model, gain=LATENT_GAIN,
                split=latent_split, layer={**NORMS, **LATENT_QKV, **MLP, **experts("mlp", "gate"), **SHARED},
                keys=latent_keys,
                rules={"latent norm": plain_norm("kv_a_layernorm"), "shared expert": zero("shared_experts"), **rules}, **more)


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


ROWS = [
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
    latent("deepseek2", "queries in two steps; layer 0 dense; 8 experts in 4 groups, 2 groups a token by their two best, sigmoid + "
           "bias for the choice, normed, times 2.5; YaRN whose factor is of scores, not of cos and sin",
           ("DeepseekV3Config", dict(**{**LATENT, "num_experts_per_tok": 3}, q_lora_rank=24, n_shared_experts=1, n_group=4,
                                     topk_group=2, first_k_dense_replace=1, routed_scaling_factor=2.5, norm_topk_prob=True,
                                     rope_parameters=LATENT_YARN)), "DeepseekV3ForCausalLM",
           {"query norm": plain_norm("q_a_layernorm"), "router bias": zero("correction_bias"),
            "factor": dict(routed_scaling_factor=1.0), "normed": dict(norm_topk_prob=False),
            "groups": dict(n_group=1, topk_group=1),
            "factor of scores": dict(rope_parameters={**LATENT_YARN, "mscale": None, "mscale_all_dim": None}),
            "yarn": dict(rope_parameters=PLAIN)}),
    latent("deepseek2-lite", "queries in one step; layer 0 dense; 8 experts in 4 groups, 2 groups a token by their best, softmax, "
           "times 1.5, not normed; two shared experts",
           ("DeepseekV2Config", dict(**{**LATENT, "num_experts_per_tok": 3}, q_lora_rank=None, n_shared_experts=2, n_group=4, topk_group=2,
                                     topk_method="group_limited_greedy", first_k_dense_replace=1, routed_scaling_factor=1.5,
                                     rope_parameters=PLAIN)), "DeepseekV2ForCausalLM",
           {"groups": dict(topk_method="greedy"), "factor": dict(routed_scaling_factor=1.0)}),
    latent("deepseek2-flash", "GLM-4.7-Flash: no groups; sigmoid + bias for the choice, normed, times 1.8",
           ("Glm4MoeLiteConfig", dict(**LATENT, q_lora_rank=24, n_shared_experts=1, first_k_dense_replace=1,
                                      routed_scaling_factor=1.8, norm_topk_prob=True, rope_parameters=PLAIN)),
           "Glm4MoeLiteForCausalLM",
           {"query norm": plain_norm("q_a_layernorm"), "router bias": zero("correction_bias"),
            "normed": dict(norm_topk_prob=False)}),
    gpt_oss("gpt-oss"),
    gpt_oss("gpt-oss-mxfp4", prepare=mxfp4_experts, raw=mxfp4_raw, peer=False, rules={},
            what="as gpt-oss, experts of MXFP4; PyTorch ran their dequantised values"),
]
