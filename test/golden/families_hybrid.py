"""Rows of the text models some of whose layers carry a state instead of keys; families.py says what a row holds."""
import numpy as np
import torch

from families import HEAD_NORM, MLP, NORMS, PLAIN, QKV, granite_keys, plain_norm, zero
from families_experts import MOE, expert_keys, split_halves

LFM = {"operator_norm": "attn_norm", "ffn_norm": "ffn_norm", **QKV, "self_attn.out_proj": "attn_output",
       "self_attn.q_layernorm": "attn_q_norm", "self_attn.k_layernorm": "attn_k_norm",
       "conv.in_proj": "shortconv.in_proj", "conv.conv": "shortconv.conv", "conv.out_proj": "shortconv.out_proj",
       "feed_forward.w1": "ffn_gate", "feed_forward.w3": "ffn_up", "feed_forward.w2": "ffn_down"}
LFM_TYPES = ["conv", "full_attention", "conv", "conv", "full_attention"]


def flat_conv(key, t):
    """A convolution's weights without the axis of groups."""
    return [(key, t[:, 0])] if ".conv" in key and t.ndim == 3 else [(key, t)]


def lfm_keys(cfg):
    return {"vocab_size": cfg.vocab_size, "shortconv.l_cache": cfg.conv_L_cache,
            "attention.head_count_kv": [cfg.num_key_value_heads if t != "conv" else 0 for t in cfg.layer_types]}


def last_taps_only(model):
    """Each token by itself: a convolution that sees no earlier input."""
    for name, p in model.named_parameters():
        if ".conv" in name and p.dim() == 3:
            p.data[:, :, :-1] = 0


def lfm_moe_split(key, t):
    if key.endswith("feed_forward.expert_bias"):
        return [(key[:-len("expert_bias")] + "exp_probs_b.bias", t)]
    return flat_conv(key, t)


DELTA = {"input_layernorm": "attn_norm", "post_attention_layernorm": "post_attention_norm", **QKV, **HEAD_NORM, **MLP,
         "linear_attn.in_proj_qkv": "attn_qkv", "linear_attn.in_proj_z": "attn_gate", "linear_attn.in_proj_b": "ssm_beta",
         "linear_attn.in_proj_a": "ssm_alpha", "linear_attn.in_proj_ba": "ssm_ba", "linear_attn.conv1d": "ssm_conv1d",
         "linear_attn.dt_bias": "ssm_dt.bias", "linear_attn.A_log": "ssm_a", "linear_attn.norm": "ssm_norm",
         "linear_attn.out_proj": "ssm_out"}
DELTA_MOE = {**DELTA, "mlp.gate": "ffn_gate_inp", "mlp.shared_expert_gate": "ffn_gate_inp_shexp",
             "mlp.experts.gate_proj": "ffn_gate_exps", "mlp.experts.up_proj": "ffn_up_exps", "mlp.experts.down_proj": "ffn_down_exps",
             "mlp.shared_expert.gate_proj": "ffn_gate_shexp", "mlp.shared_expert.up_proj": "ffn_up_shexp",
             "mlp.shared_expert.down_proj": "ffn_down_shexp"}
N_K, N_V, D_K, D_V = 2, 4, 32, 16  # heads of keys and values in layers with the delta rule, and their sizes
DELTA_CONFIG = dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=32, num_hidden_layers=6, rms_norm_eps=1e-6,
                    linear_num_key_heads=N_K, linear_num_value_heads=N_V, linear_key_head_dim=D_K, linear_value_head_dim=D_V)
QWEN35_ROPE = {"rope_type": "default", "rope_theta": 10000.0, "partial_rotary_factor": 0.25, "mrope_section": [2, 1, 1]}
QWEN_MOE = dict(num_experts=8, num_experts_per_tok=2, moe_intermediate_size=32, shared_expert_intermediate_size=48,
                experts_implementation="eager")


def tiled(t, d, axis=0):
    """Heads of values from groups that share a head of keys to turns: llama.cpp's order for qwen35."""
    shape = t.shape
    t = t.reshape(*shape[:axis], N_K, N_V // N_K, d, *shape[axis + 1:])
    return np.ascontiguousarray(t.swapaxes(axis, axis + 1)).reshape(shape)


def delta_split(key, t):
    """The decay's factor and flat convolutions."""
    if key.endswith("A_log"):
        t = -torch.from_numpy(t).exp().numpy()
    return flat_conv(key, t)


def qwen35_split(key, t):
    (key, t), = delta_split(key, t)
    inner = N_V * D_V
    if key.endswith(("in_proj_qkv.weight", "conv1d.weight")):
        t = np.concatenate([t[:-inner], tiled(t[-inner:], D_V)])
    elif key.endswith("in_proj_z.weight"):
        t = tiled(t, D_V)
    elif key.endswith(("in_proj_a.weight", "in_proj_b.weight", "A_log", "dt_bias")):
        t = tiled(t, 1)
    elif key.endswith("linear_attn.out_proj.weight"):
        t = tiled(t, D_V, axis=1)
    return split_halves("gate_up_proj")(key, t)


def qwen3next_split(key, t):
    """Rows of one matrix for queries, keys, values and gates of each head of keys become two matrices."""
    (key, t), = delta_split(key, t)
    if not key.endswith("in_proj_qkvz.weight"):
        return [(key, t)]
    r = N_V // N_K * D_V
    groups = t.reshape(N_K, 2 * D_K + 2 * r, -1)
    q, k, v, z = np.split(groups, [D_K, 2 * D_K, 2 * D_K + r], axis=1)
    flat = [x.reshape(-1, t.shape[1]) for x in (q, k, v, z)]
    stem = key[:-len("in_proj_qkvz.weight")]
    return [(stem + "in_proj_qkv.weight", np.concatenate(flat[:3])), (stem + "in_proj_z.weight", flat[3])]


def delta_keys(cfg):
    d = cfg.head_dim
    return {"rope.dimension_count": int(d * cfg.rope_parameters["partial_rotary_factor"]), "ssm.conv_kernel": cfg.linear_conv_kernel_dim,
            "ssm.state_size": D_K, "ssm.group_count": N_K, "ssm.time_step_rank": N_V, "ssm.inner_size": N_V * D_V,
            "full_attention_interval": 4, "attention.recurrent_layers": [t == "linear_attention" for t in cfg.layer_types],
            **({"rope.dimension_sections": [*cfg.rope_parameters["mrope_section"], 0]} if "mrope_section" in cfg.rope_parameters else {})}


def delta_moe_keys(cfg):
    return {**delta_keys(cfg), "expert_count": cfg.num_experts, "expert_used_count": cfg.num_experts_per_tok,
            "expert_feed_forward_length": cfg.moe_intermediate_size,
            "expert_shared_feed_forward_length": cfg.shared_expert_intermediate_size}


def no_decay(model):
    for name, p in model.named_parameters():
        if name.endswith("A_log"):
            p.data.fill_(-30)


DELTA_RULES = {"convolution": last_taps_only, "decay": no_decay, "partial rope": None, "head norm": plain_norm("q_norm", "k_norm"),
               "time bias": zero("dt_bias"), "gated norm": plain_norm("linear_attn.norm")}


def delta_rules(rope, **more):
    return {**DELTA_RULES, "partial rope": dict(rope_parameters={**rope, "partial_rotary_factor": 1.0, "mrope_section": [6, 5, 5]}), **more}


# State spaces (Mamba-2) ----------------------------------------------------------------------------

N_SSM, N_GROUP, D_SSM, D_STATE = 4, 2, 16, 32  # heads, groups that share B and C, elements of a head, size of a state's column
N_INNER = N_SSM * D_SSM
SSM_CONFIG = dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=16, mamba_n_heads=N_SSM, mamba_n_groups=N_GROUP,
                  mamba_d_state=D_STATE, mamba_d_head=D_SSM, mamba_expand=2, mamba_chunk_size=16)
GRANITE = dict(embedding_multiplier=3.0, residual_multiplier=0.5, logits_scaling=2.5, attention_multiplier=0.125)
SSM_TYPES = ["linear_attention", "full_attention", "linear_attention", "linear_attention"]


def ssm(prefix):
    return {f"{prefix}.in_proj": "ssm_in", f"{prefix}.conv1d": "ssm_conv1d", f"{prefix}.dt_bias": "ssm_dt.bias",
            f"{prefix}.A_log": "ssm_a", f"{prefix}.D": "ssm_d", f"{prefix}.norm": "ssm_norm", f"{prefix}.out_proj": "ssm_out"}


def ssm_split(key, t):
    """Numbers of heads stand in rows, the norm's in groups; the decay's factor; flat convolutions."""
    (key, t), = delta_split(key, t)
    if key.endswith((".A_log", ".D")):
        t = t.reshape(-1, 1)
    elif key.endswith(("mamba.norm.weight", "mixer.norm.weight")):
        t = t.reshape(N_GROUP, -1)
    return [(key, t)]


def ssm_keys(tap):
    return {"ssm.conv_kernel": tap, "ssm.state_size": D_STATE, "ssm.group_count": N_GROUP, "ssm.time_step_rank": N_SSM,
            "ssm.inner_size": N_INNER}


def granite_hybrid_split(key, t):
    (key, t), = ssm_split(key, t)
    return split_halves("input_linear")(key, t)


def granite_hybrid_keys(cfg):
    k = granite_keys(cfg)
    kv = [cfg.num_key_value_heads if t == "full_attention" else 0 for t in cfg.layer_types]
    more = {"expert_shared_feed_forward_length": cfg.shared_intermediate_size, "expert_count": cfg.num_local_experts,
            "expert_used_count": cfg.num_experts_per_tok}
    return {**k, **ssm_keys(cfg.mamba_d_conv), **more, "attention.head_count_kv": kv, "attention.key_length": None,
            "attention.value_length": None, "rope.scaling.finetuned": False, "context_length": 1 << 20}


def no_skip(model):
    for name, p in model.named_parameters():
        if name.endswith(".D"):
            p.data.zero_()


SSM_RULES = {"convolution": last_taps_only, "convolution's bias": zero("conv1d.bias"), "decay": no_decay, "time bias": zero("dt_bias"),
             "skip": no_skip}
FALCON = dict(lm_head_multiplier=0.75, embedding_multiplier=2.0, mlp_multipliers=[0.8, 0.6], key_multiplier=0.7, attention_in_multiplier=1.2,
              attention_out_multiplier=0.9, ssm_multipliers=[0.9, 0.8, 1.1, 1.2, 0.7], ssm_in_multiplier=1.3, ssm_out_multiplier=0.85)


def falcon_split(key, t):
    """The factors of its configuration stand in the weights, as llama.cpp's converter puts them there."""
    (key, t), = ssm_split(key, t)
    f = FALCON
    by = {"down_proj": f["mlp_multipliers"][1], "gate_proj": f["mlp_multipliers"][0],
          "k_proj": f["key_multiplier"] * f["attention_in_multiplier"], "q_proj": f["attention_in_multiplier"],
          "v_proj": f["attention_in_multiplier"], "o_proj": f["attention_out_multiplier"], "out_proj": f["ssm_out_multiplier"],
          "in_proj": f["ssm_in_multiplier"], "lm_head": f["lm_head_multiplier"], "embed_tokens": f["embedding_multiplier"]}
    last = key.split(".")[-2]
    if last == "k_proj":  # one factor after the other, as the converter rounds
        t = t * np.float32(f["key_multiplier"]) * np.float32(f["attention_in_multiplier"])
    elif last in by:
        t = t * np.float32(by[last])
    if last == "in_proj":
        cuts = np.cumsum([N_INNER, N_INNER, N_GROUP * D_STATE, N_GROUP * D_STATE])
        t = np.concatenate([p * np.float32(m) for p, m in zip(np.split(t, cuts), f["ssm_multipliers"])])
    return [(key, t)]


def falcon_row(name, what, norm):
    return dict(name=name, arch="falcon-h1", what=what,
                config=("FalconH1Config", dict(**SSM_CONFIG, **FALCON, mamba_d_ssm=N_INNER, mamba_rms_norm=norm,
                                               mamba_norm_before_gate=False, rope_parameters=PLAIN)),
                model="FalconH1ForCausalLM", split=falcon_split, top={"model.final_layernorm": "output_norm"},
                layer={"input_layernorm": "attn_norm", "pre_ff_layernorm.weight": "ffn_norm", **QKV, **ssm("mamba"),
                       "feed_forward.gate_proj": "ffn_gate", "feed_forward.up_proj": "ffn_up", "feed_forward.down_proj": "ffn_down"},
                keys=lambda c: {"vocab_size": c.vocab_size, **ssm_keys(c.mamba_d_conv)},
                rules={**SSM_RULES, "attention": zero("self_attn.o_proj.weight"), "state space": zero("mamba.out_proj.weight"),
                       **({"grouped norm": plain_norm("mamba.norm")} if norm else {})})


# The least step, 1e-3 in checkpoints, is a clamp in transformers, where neither training nor other readers have one; no file says it.
NEMOTRON = dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1, head_dim=32, mamba_num_heads=N_SSM, mamba_head_dim=D_SSM,
                ssm_state_size=D_STATE, n_groups=N_GROUP, chunk_size=16, time_step_min=1e-9, tie_word_embeddings=False)
NEMOTRON_TYPES = {"-": "mlp", "E": "moe", "M": "linear_attention", "*": "full_attention"}


def nemotron_keys(cfg):
    types = cfg.layers_block_type
    width = cfg.moe_intermediate_size if "moe" in types else cfg.intermediate_size
    k = {"vocab_size": cfg.vocab_size, "block_count": len(types), "attention.layer_norm_epsilon": cfg.layer_norm_epsilon,
         "rope.dimension_count": cfg.hidden_size // cfg.num_attention_heads, **ssm_keys(cfg.conv_kernel), "rope.scaling.finetuned": False,
         "context_length": 1 << 20, "attention.head_count_kv": [cfg.num_key_value_heads if t == "full_attention" else 0 for t in types],
         "feed_forward_length": [width if t in ("mlp", "moe") else 0 for t in types]}
    if "moe" in types:
        k.update({"expert_count": cfg.n_routed_experts, "expert_used_count": cfg.num_experts_per_tok, "expert_feed_forward_length": width,
                  "expert_shared_feed_forward_length": cfg.moe_shared_expert_intermediate_size, "expert_shared_count": cfg.n_shared_experts,
                  "expert_weights_norm": cfg.norm_topk_prob, "expert_weights_scale": float(cfg.routed_scaling_factor),
                  "expert_group_count": cfg.n_group, "expert_group_used_count": cfg.topk_group})
    return k


def nemotron_split(key, t):
    (key, t), = ssm_split(key, t)
    return [(key.replace("e_score_correction_bias", "exp_probs_b.bias"), t)]


def nemotron_row(name, what, pattern, rules, **more):
    return dict(name=name, arch=name.replace("-", "_"), what=what, prefix="backbone.layers.", pairs=True,
                config=("NemotronHConfig", dict(**NEMOTRON, **more, layers_block_type=[NEMOTRON_TYPES[c] for c in pattern],
                                                num_hidden_layers=len(pattern))),
                model="NemotronHForCausalLM", split=nemotron_split, top={"backbone.embeddings": "token_embd", "backbone.norm_f": "output_norm"},
                layer={"norm": "attn_norm", "mixer.q_proj": "attn_q", "mixer.k_proj": "attn_k", "mixer.v_proj": "attn_v",
                       "mixer.o_proj": "attn_output", **ssm("mixer"), "mixer.up_proj": "ffn_up", "mixer.down_proj": "ffn_down",
                       "mixer.gate": "ffn_gate_inp", "mixer.gate.exp_probs_b": "exp_probs_b", "mixer.experts.up_proj": "ffn_up_exps",
                       "mixer.experts.down_proj": "ffn_down_exps", "mixer.shared_experts.up_proj": "ffn_up_shexp",
                       "mixer.shared_experts.down_proj": "ffn_down_shexp"},
                keys=nemotron_keys, rules={**SSM_RULES, "grouped norm": plain_norm("mixer.norm"), **rules})


ROWS = [
    dict(name="lfm2", arch="lfm2", what="short convolutions of 3 in layers 0, 2, 3 between two gates; norm of each head; tied",
         config=("Lfm2Config", dict(hidden_size=32, num_attention_heads=2, num_key_value_heads=1, num_hidden_layers=5,
                                    layer_types=LFM_TYPES, block_auto_adjust_ff_dim=False, norm_eps=1e-5)),
         model="Lfm2ForCausalLM", layer=LFM, top={"model.embedding_norm": "token_embd_norm"}, split=flat_conv, keys=lfm_keys,
         rules={"convolution": last_taps_only, "head norm": plain_norm("layernorm")}),
    dict(name="lfm2moe", arch="lfm2moe",
         what="as lfm2; layer 0 dense; 8 experts, 2 a token, sigmoid + bias for the choice, normed",
         config=("Lfm2MoeConfig", dict(**MOE, num_hidden_layers=5, num_experts=8, moe_intermediate_size=32,
                                       num_dense_layers=1, layer_types=LFM_TYPES, norm_eps=1e-5)),
         model="Lfm2MoeForCausalLM", split=lfm_moe_split, top={"model.embedding_norm": "token_embd_norm"},
         layer={**LFM, "feed_forward.gate": "ffn_gate_inp", "feed_forward.exp_probs_b": "exp_probs_b",
                "feed_forward.experts.w1": "ffn_gate_exps", "feed_forward.experts.w3": "ffn_up_exps",
                "feed_forward.experts.w2": "ffn_down_exps"},
         keys=lambda c: {**lfm_keys(c), **expert_keys(c), "expert_feed_forward_length": c.moe_intermediate_size,
                         "leading_dense_block_count": c.num_dense_layers, "expert_gating_func": 2},
         rules={"convolution": last_taps_only, "router bias": zero("expert_bias"), "normed": dict(norm_topk_prob=False)}),
    dict(name="qwen35", arch="qwen35",
         what="gated delta rule (4 heads of values, 2 of keys) behind a convolution of 4 in all layers but the fourth; attention with a gate "
              "and partial rope; norms + 1",
         config=("Qwen3_5TextConfig", dict(**DELTA_CONFIG, rope_parameters=QWEN35_ROPE)), model="Qwen3_5ForCausalLM", layer=DELTA,
         split=qwen35_split, plus_one=True, peer_flags=["--no-mtp"], keys=delta_keys, rules=delta_rules(QWEN35_ROPE)),
    dict(name="qwen35moe", arch="qwen35moe",
         what="as qwen35; 8 experts, 2 a token, softmax, normed; a shared expert with a gate",
         config=("Qwen3_5MoeTextConfig", dict(**DELTA_CONFIG, **QWEN_MOE, rope_parameters=QWEN35_ROPE)), model="Qwen3_5MoeForCausalLM",
         layer=DELTA_MOE, split=qwen35_split, plus_one=True, peer_flags=["--no-mtp"], keys=delta_moe_keys,
         rules=delta_rules(QWEN35_ROPE, **{"shared gate": zero("shared_expert_gate")})),
    dict(name="qwen3next", arch="qwen3next",
         what="as qwen35moe, with neighbouring heads of values to a head of keys, and alpha and beta in one matrix",
         config=("Qwen3NextConfig", dict(**DELTA_CONFIG, **QWEN_MOE, decoder_sparse_step=1, mlp_only_layers=[],
                                         rope_parameters={**PLAIN, "partial_rotary_factor": 0.25})), model="Qwen3NextForCausalLM",
         layer=DELTA_MOE, split=qwen3next_split, plus_one=True, peer_flags=["--no-mtp"], keys=delta_moe_keys,
         rules=delta_rules(PLAIN, **{"shared gate": zero("shared_expert_gate")})),
    dict(name="granitehybrid", arch="granitehybrid",
         what="state spaces (4 heads in 2 groups) behind a convolution of 4 in all layers but the second; attention without positions; "
              "granite's four scales; tied",
         config=("GraniteMoeHybridConfig", dict(**SSM_CONFIG, **GRANITE, num_hidden_layers=4, layer_types=SSM_TYPES, num_local_experts=0,
                                                shared_intermediate_size=64, tie_word_embeddings=True)),
         model="GraniteMoeHybridForCausalLM", pairs=True, split=granite_hybrid_split,
         layer={**NORMS, **QKV, **ssm("mamba"), "shared_mlp.gate": "ffn_gate", "shared_mlp.up": "ffn_up",
                "shared_mlp.output_linear": "ffn_down"},
         keys=granite_hybrid_keys,
         rules={**SSM_RULES, "grouped norm": plain_norm("mamba.norm"), "residual scale": dict(residual_multiplier=1.0),
                "no positions": dict(position_embedding_type="rope")}),
    dict(name="granitehybrid-moe", arch="granitehybrid", what="as granitehybrid; 8 experts, softmax over the chosen; shared expert without gate",
         config=("GraniteMoeHybridConfig", dict(**SSM_CONFIG, **GRANITE, num_hidden_layers=4, layer_types=SSM_TYPES, num_local_experts=8,
                                                num_experts_per_tok=2, intermediate_size=32, shared_intermediate_size=48,
                                                experts_implementation="eager", tie_word_embeddings=True)),
         model="GraniteMoeHybridForCausalLM", pairs=True, split=granite_hybrid_split,
         layer={**NORMS, **QKV, **ssm("mamba"), "block_sparse_moe.router.layer": "ffn_gate_inp", "block_sparse_moe.gate": "ffn_gate_exps",
                "block_sparse_moe.up": "ffn_up_exps", "block_sparse_moe.output_linear": "ffn_down_exps",
                "shared_mlp.gate": "ffn_gate_shexp", "shared_mlp.up": "ffn_up_shexp", "shared_mlp.output_linear": "ffn_down_shexp"},
         keys=granite_hybrid_keys, rules={**SSM_RULES, "shared expert": zero("shared_mlp")}),
    nemotron_row("nemotron_h", "each layer is a state space, attention without positions or relu^2 without gate; one norm each", "M-M*-",
                 {"attention": zero("mixer.o_proj.weight")}, intermediate_size=64),
    nemotron_row("nemotron_h_moe", "as nemotron_h; 8 experts without gate, 2 a token, sigmoid + bias for the choice, normed, times 1.5; shared "
                 "expert", "MEM*E", {"router bias": zero("correction_bias"), "shared expert": zero("shared_experts"),
                                     "normed": dict(norm_topk_prob=False)},
                 intermediate_size=64, n_routed_experts=8, num_experts_per_tok=2, moe_intermediate_size=32,
                 moe_shared_expert_intermediate_size=48, routed_scaling_factor=1.5, experts_implementation="eager"),
    falcon_row("falcon-h1", "attention and a state space of the same normed stream in every layer, added; factors in the weights; gate without "
               "norm", False),
    falcon_row("falcon-h1-norm", "as falcon-h1, with a norm of each group behind the gate", True),
]
