"""Rows of the text models some of whose layers carry a state instead of keys; families.py says what a row holds."""
import numpy as np
import torch

from families import HEAD_NORM, MLP, PLAIN, QKV, plain_norm, zero
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
]
