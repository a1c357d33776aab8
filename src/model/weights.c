/* The one table of weights: loading, packing (weights_put.c), freeing and counting walk it. */
#include "model/weights.h"

#include "base/mem.h"
#include "fmt/grid.h"

#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { N_PREFIX = 5 };

/* Sizes of the hyper-parameters that shapes are made of. */
typedef enum size_of {
    VECTOR,
    N_VOCAB,
    N_EMBD,
    N_Q,
    N_KV,
    N_FF,
    N_HEAD,
    Q_NORM,
    K_NORM,
    N_EXPERT,
    EACH_FF,
    EACH_PAIR,
    EACH_EMBD,
    FF_EXPERT,
    N_POS,
    N_TYPE,
    N_LABEL,
    N_DENSE,
    N_OUT,
    N_HEADS_OUT,
    LOW_Q,
    EACH_LATENT,
    EACH_VALUE,
    D_NOPE,
    D_LATENT,
    N_SIDE,
    ALL_SIDES,
    N_TAP_CHAN,
    N_CONV_IN,
    N_Q_IN,
    N_CHAN,
    N_INNER,
    N_V_HEAD,
    N_V_PAIR,
    D_V,
    ONE,
    EACH_HEAD,
    EACH_GROUP,
    N_EMBD_PAIR,
    SIZES
} size_of;

/* What a layer must have for a weight to be there. */
typedef enum part_of {
    PRE_NORM = 1,
    POST_NORM = 2,
    HEAD_NORM = 4,
    ATTN = 8,
    GLU = 16,
    SINKS = 32,
    EXPERTS = 64,
    OWN_NAME = 128,  /* the second norm has a name of its own */
    LATE_NAME = 256, /* ... or that of what it comes behind */
    SPLIT = 512,     /* gate and up of experts are two tensors */
    PAIR = 1024,     /* ... or one */
    SHARED = 2048,   /* beside experts, a part for all tokens */
    ATTN_NORM = 4096,
    DENSE = 8192,    /* no experts, with a gate or without */
    LAYER_NORM = 16384,
    SUM_NORM = 32768,
    EMBD_NORM = 65536, /* from here on, of the model itself */
    FINAL_NORM = 131072,
    POSITIONS = 262144,
    WIDENED = 524288,
    RANK = 1048576,
    EMBD_NAME = 2097152, /* the final norm is called after the embedding */
    LATENT = 16777216,   /* attention over latents */
    TWO_STEP = 33554432, /* ... whose queries are made in two steps */
    ONE_STEP = 67108864, /* ... or in one */
    HEADS = 134217728,   /* attention of any kind */
    VALUE_NORM = 8388608,
    OWN_KEYS = 268435456, /* keys and values are not those of an earlier layer */
    SIDE = 536870912,     /* each layer adds something of the token; of the model, too */
    BESIDE = 1073741824,  /* experts and a dense part with norms of their own */
    /* Of a layer, in the places of parts of the model. */
    CONV = 65536,        /* a short convolution */
    DELTA = 131072,      /* the delta rule */
    APART = 262144,      /* ... whose alpha and beta are two tensors */
    JOINED = 524288,     /* ... or one */
    SHARED_GATE = 1048576,
    SSM = 2097152,       /* a state space */
    /* no mixing: the norm before the feed-forward part has the name of that before mixing */
    ALONE = 4194304,
} part_of;

/* What it means that a file has no such tensor. */
typedef enum absence {
    MUST,
    MAY,
    ZEROS,
    ONES,
    KEYS,   /* keys stand for values where these are normed; else MUST */
    SLICE,  /* MUST; the layer's rows of a tensor that the model has for all layers */
    IN_FILE /* MUST; it is not brought into the device's layout */
} absence;

typedef struct spec {
    const char *name;   /* tensor, behind "blk.N." in a layer */
    size_t at;          /* offset of its place in sp_layer or sp_model */
    size_of rows, cols; /* rows VECTOR: `cols` floats, kept in f32 */
    unsigned when;      /* parts the layer must have, all of them */
    absence absent;
    /* the tensor that may hold this one and those of the same `fused`, in the table's order; or
     * NULL */
    const char *fused;
} spec;

#define IN(field) offsetof(sp_layer, field)
static const spec in_layer[] = {
    {"attn_norm.weight", IN(attn_norm), VECTOR, N_EMBD, ATTN_NORM, MUST, NULL},
    {"attn_norm.bias", IN(attn_norm_bias), VECTOR, N_EMBD, ATTN_NORM | LAYER_NORM, ZEROS, NULL},
    {"attn_q.weight", IN(qkv[0]), N_Q_IN, N_EMBD, ATTN, MUST, "attn_qkv.weight"},
    {"attn_k.weight", IN(qkv[1]), N_KV, N_EMBD, ATTN | OWN_KEYS, MUST, "attn_qkv.weight"},
    {"attn_v.weight", IN(qkv[2]), N_KV, N_EMBD, ATTN | OWN_KEYS, KEYS, "attn_qkv.weight"},
    {"attn_q.bias", IN(qkv_bias[0]), VECTOR, N_Q_IN, ATTN, MAY, "attn_qkv.bias"},
    {"attn_k.bias", IN(qkv_bias[1]), VECTOR, N_KV, ATTN | OWN_KEYS, MAY, "attn_qkv.bias"},
    {"attn_v.bias", IN(qkv_bias[2]), VECTOR, N_KV, ATTN | OWN_KEYS, MAY, "attn_qkv.bias"},
    {"attn_q_norm.weight", IN(head_norm[0]), VECTOR, Q_NORM, ATTN | HEAD_NORM, MUST, NULL},
    {"attn_k_norm.weight", IN(head_norm[1]), VECTOR, K_NORM, ATTN | HEAD_NORM | OWN_KEYS, MUST,
     NULL},
    {"attn_v_norm.weight", IN(value_norm), VECTOR, K_NORM, ATTN | OWN_KEYS | VALUE_NORM, ONES,
     NULL},
    {"attn_sinks.weight", IN(sinks), VECTOR, N_HEAD, ATTN | SINKS, MUST, NULL},
    {"attn_q.weight", IN(qkv[0]), N_Q, N_EMBD, LATENT | ONE_STEP, MUST, NULL},
    {"attn_q_a.weight", IN(low_q), LOW_Q, N_EMBD, LATENT | TWO_STEP, MUST, NULL},
    {"attn_q_a_norm.weight", IN(low_q_norm), VECTOR, LOW_Q, LATENT | TWO_STEP, MUST, NULL},
    {"attn_q_b.weight", IN(qkv[0]), N_Q, LOW_Q, LATENT | TWO_STEP, MUST, NULL},
    {"attn_kv_a_mqa.weight", IN(qkv[1]), N_KV, N_EMBD, LATENT, MUST, NULL},
    {"attn_kv_a_norm.weight", IN(head_norm[1]), VECTOR, D_LATENT, LATENT, MUST, NULL},
    {"attn_k_b.weight", IN(absorb), EACH_LATENT, D_NOPE, LATENT, MUST, NULL},
    {"attn_v_b.weight", IN(value), EACH_VALUE, D_LATENT, LATENT, MUST, NULL},
    {"attn_output.weight", IN(attn_out), N_EMBD, N_HEADS_OUT, HEADS, MUST, NULL},
    {"attn_output.bias", IN(attn_out_bias), VECTOR, N_EMBD, HEADS, MAY, NULL},
    {"shortconv.in_proj.weight", IN(mix_in), N_CONV_IN, N_EMBD, CONV, MUST, NULL},
    {"shortconv.conv.weight", IN(conv), VECTOR, N_TAP_CHAN, CONV, MUST, NULL},
    {"attn_qkv.weight", IN(mix_in), N_CHAN, N_EMBD, DELTA, MUST, NULL},
    {"attn_gate.weight", IN(mix_gate), N_INNER, N_EMBD, DELTA, MUST, NULL},
    {"ssm_beta.weight", IN(mix_beta), N_V_HEAD, N_EMBD, DELTA | APART, MUST, NULL},
    {"ssm_alpha.weight", IN(mix_alpha), N_V_HEAD, N_EMBD, DELTA | APART, MUST, NULL},
    {"ssm_ba.weight", IN(mix_beta), N_V_PAIR, N_EMBD, DELTA | JOINED, MUST, NULL},
    {"ssm_conv1d.weight", IN(conv), VECTOR, N_TAP_CHAN, DELTA, MUST, NULL},
    {"ssm_dt.bias", IN(mix_dt), VECTOR, N_V_HEAD, DELTA, MUST, NULL},
    {"ssm_a", IN(mix_a), VECTOR, N_V_HEAD, DELTA, MUST, NULL},
    {"ssm_norm.weight", IN(mix_norm), VECTOR, D_V, DELTA, MUST, NULL},
    {"ssm_out.weight", IN(mix_out), N_EMBD, N_INNER, DELTA, MUST, NULL},
    {"ssm_in.weight", IN(mix_gate), N_INNER, N_EMBD, SSM, MUST, "ssm_in.weight"},
    {"ssm_in.weight", IN(mix_in), N_CHAN, N_EMBD, SSM, MUST, "ssm_in.weight"},
    {"ssm_in.weight", IN(mix_step), N_V_HEAD, N_EMBD, SSM, MUST, "ssm_in.weight"},
    {"ssm_conv1d.weight", IN(conv), VECTOR, N_TAP_CHAN, SSM, MUST, NULL},
    {"ssm_conv1d.bias", IN(conv_bias), VECTOR, N_CHAN, SSM, MAY, NULL},
    {"ssm_dt.bias", IN(mix_dt), VECTOR, N_V_HEAD, SSM, MUST, NULL},
    {"ssm_a", IN(mix_a), VECTOR, EACH_HEAD, SSM, MUST, NULL},
    {"ssm_d", IN(mix_skip), VECTOR, EACH_HEAD, SSM, MUST, NULL},
    {"ssm_norm.weight", IN(mix_norm), VECTOR, EACH_GROUP, SSM, MAY, NULL},
    {"ssm_out.weight", IN(mix_out), N_EMBD, N_INNER, SSM, MUST, NULL},
    {"shortconv.out_proj.weight", IN(mix_out), N_EMBD, N_EMBD, CONV, MUST, NULL},
    {"post_attention_norm.weight", IN(attn_post_norm), VECTOR, N_EMBD, POST_NORM, MUST, NULL},
    {"ffn_norm.weight", IN(ffn_norm), VECTOR, N_EMBD, PRE_NORM | OWN_NAME, MUST, NULL},
    {"post_attention_norm.weight", IN(ffn_norm), VECTOR, N_EMBD, PRE_NORM | LATE_NAME, MUST, NULL},
    {"attn_norm.weight", IN(ffn_norm), VECTOR, N_EMBD, PRE_NORM | ALONE, MUST, NULL},
    {"ffn_norm.bias", IN(ffn_norm_bias), VECTOR, N_EMBD, PRE_NORM | LAYER_NORM, ZEROS, NULL},
    {"attn_output_norm.weight", IN(attn_sum_norm[0]), VECTOR, N_EMBD, SUM_NORM, MUST, NULL},
    {"attn_output_norm.bias", IN(attn_sum_norm[1]), VECTOR, N_EMBD, SUM_NORM, ZEROS, NULL},
    {"ffn_gate.weight", IN(glu[0]), N_FF, N_EMBD, GLU | DENSE, MUST, "ffn_up.weight"},
    {"ffn_up.weight", IN(glu[1]), N_FF, N_EMBD, DENSE, MUST, "ffn_up.weight"},
    {"ffn_gate.bias", IN(glu_bias[0]), VECTOR, N_FF, GLU | DENSE, MAY, "ffn_up.bias"},
    {"ffn_up.bias", IN(glu_bias[1]), VECTOR, N_FF, DENSE, MAY, "ffn_up.bias"},
    {"ffn_down.weight", IN(ffn_down), N_EMBD, N_FF, DENSE, MUST, NULL},
    {"ffn_down.bias", IN(ffn_down_bias), VECTOR, N_EMBD, DENSE, MAY, NULL},
    {"ffn_gate_shexp.weight", IN(shared_glu[0]), N_FF, N_EMBD, SHARED | GLU, MUST, NULL},
    {"ffn_up_shexp.weight", IN(shared_glu[1]), N_FF, N_EMBD, SHARED, MUST, NULL},
    {"ffn_down_shexp.weight", IN(shared_down), N_EMBD, N_FF, SHARED, MUST, NULL},
    {"ffn_gate_inp_shexp.weight", IN(shared_gate), ONE, N_EMBD, SHARED | SHARED_GATE, MUST, NULL},
    {"ffn_gate_inp.weight", IN(router), N_EXPERT, N_EMBD, EXPERTS, MUST, NULL},
    {"ffn_gate_inp.bias", IN(router_bias), VECTOR, N_EXPERT, EXPERTS, MAY, NULL},
    {"exp_probs_b.bias", IN(pick_bias), VECTOR, N_EXPERT, EXPERTS, MAY, NULL},
    {"ffn_gate_exps.weight", IN(expert_glu[0]), EACH_FF, N_EMBD, EXPERTS | SPLIT | GLU, MUST, NULL},
    {"ffn_up_exps.weight", IN(expert_glu[1]), EACH_FF, N_EMBD, EXPERTS | SPLIT, MUST, NULL},
    {"ffn_gate_up_exps.weight", IN(expert_pair), EACH_PAIR, N_EMBD, EXPERTS | PAIR, MUST, NULL},
    {"ffn_down_exps.weight", IN(expert_down), EACH_EMBD, FF_EXPERT, EXPERTS, MUST, NULL},
    {"ffn_gate_exps.bias", IN(expert_glu_bias[0]), VECTOR, EACH_FF, EXPERTS | SPLIT | GLU, MAY,
     NULL},
    {"ffn_up_exps.bias", IN(expert_glu_bias[1]), VECTOR, EACH_FF, EXPERTS | SPLIT, MAY, NULL},
    {"ffn_down_exps.bias", IN(expert_down_bias), VECTOR, EACH_EMBD, EXPERTS, MAY, NULL},
    {"post_ffw_norm_1.weight", IN(beside_norm[0]), VECTOR, N_EMBD, BESIDE, MUST, NULL},
    {"pre_ffw_norm_2.weight", IN(beside_norm[1]), VECTOR, N_EMBD, BESIDE, MUST, NULL},
    {"post_ffw_norm_2.weight", IN(beside_norm[2]), VECTOR, N_EMBD, BESIDE, MUST, NULL},
    {"ffn_gate_inp.scale", IN(router_norm), VECTOR, N_EMBD, BESIDE, MUST, NULL},
    {"ffn_down_exps.scale", IN(expert_scale), VECTOR, N_EXPERT, BESIDE, MAY, NULL},
    {"per_layer_model_proj.weight", IN(side_in), N_SIDE, N_EMBD, SIDE, SLICE, NULL},
    {"inp_gate.weight", IN(side_gate), N_SIDE, N_EMBD, SIDE, MUST, NULL},
    {"proj.weight", IN(side_out), N_EMBD, N_SIDE, SIDE, MUST, NULL},
    {"post_norm.weight", IN(side_post_norm), VECTOR, N_EMBD, SIDE, MUST, NULL},
    {"layer_output_scale.weight", IN(out_scale), VECTOR, VECTOR, 0, MAY, NULL},
    {"post_ffw_norm.weight", IN(ffn_post_norm), VECTOR, N_EMBD, POST_NORM, MUST, NULL},
    {"layer_output_norm.weight", IN(ffn_sum_norm[0]), VECTOR, N_EMBD, SUM_NORM, MUST, NULL},
    {"layer_output_norm.bias", IN(ffn_sum_norm[1]), VECTOR, N_EMBD, SUM_NORM, ZEROS, NULL},
};
#undef IN
#define IN(field) offsetof(sp_model, field)
static const spec in_model[] = {
    {"token_embd.weight", IN(embd), N_VOCAB, N_EMBD, 0, MUST, NULL},
    {"position_embd.weight", IN(position), N_POS, N_EMBD, POSITIONS, MUST, NULL},
    {"token_types.weight", IN(type), N_TYPE, N_EMBD, EMBD_NORM, MAY, NULL},
    {"token_embd_norm.weight", IN(embd_norm[0]), VECTOR, N_EMBD, EMBD_NORM, MUST, NULL},
    {"token_embd_norm.bias", IN(embd_norm[1]), VECTOR, N_EMBD, EMBD_NORM, ZEROS, NULL},
    {"output_norm.weight", IN(output_norm), VECTOR, N_EMBD, FINAL_NORM | OWN_NAME, MUST, NULL},
    {"token_embd_norm.weight", IN(output_norm), VECTOR, N_EMBD, FINAL_NORM | EMBD_NAME, MUST, NULL},
    {"output_norm.bias", IN(output_norm_bias), VECTOR, N_EMBD, FINAL_NORM | LAYER_NORM, ZEROS,
     NULL},
    /* absent: tied to the embedding */
    {"output.weight", IN(output), N_VOCAB, N_EMBD, 0, MAY, NULL},
    {"per_layer_token_embd.weight", IN(side_table), N_VOCAB, ALL_SIDES, SIDE, IN_FILE, NULL},
    {"per_layer_proj_norm.weight", IN(side_norm), VECTOR, N_SIDE, SIDE, MUST, NULL},
    {"dense_2.weight", IN(dense[0]), N_DENSE, N_EMBD, WIDENED, MUST, NULL},
    {"dense_3.weight", IN(dense[1]), N_OUT, N_DENSE, WIDENED, MUST, NULL},
    {"cls.weight", IN(cls), N_EMBD, N_EMBD, RANK, MAY, NULL},
    {"cls.bias", IN(cls_bias), VECTOR, N_EMBD, RANK, MAY, NULL},
    {"cls.output.weight", IN(cls_out), N_LABEL, N_EMBD, RANK, MUST, NULL},
    {"cls.output.bias", IN(cls_out_bias), VECTOR, N_LABEL, RANK, MAY, NULL},
};
/* Of a block that guesses, in the place of in_model; behind "blk.N.nextn.". What is absent is the
 * model's own. */
static const spec in_next[] = {
    {"enorm.weight", IN(next_norm[0]), VECTOR, N_EMBD, 0, MUST, NULL},
    {"hnorm.weight", IN(next_norm[1]), VECTOR, N_EMBD, 0, MUST, NULL},
    {"eh_proj.weight", IN(next_in), N_EMBD, N_EMBD_PAIR, 0, MUST, NULL},
    {"shared_head_norm.weight", IN(output_norm), VECTOR, N_EMBD, 0, MAY, NULL},
    {"embed_tokens.weight", IN(embd), N_VOCAB, N_EMBD, 0, MAY, NULL},
    {"shared_head_head.weight", IN(output), N_VOCAB, N_EMBD, 0, MAY, NULL},
};
#undef IN
enum { NEXT_SPECS = sizeof in_next / sizeof in_next[0] };
enum {
    LAYER_SPECS = sizeof in_layer / sizeof in_layer[0],
    MODEL_SPECS = sizeof in_model / sizeof in_model[0]
};

typedef struct loader {
    sp_model *m;
    const sp_gguf *g;
    bool *used; /* [tensors of the file] */
    unsigned parts; /* of the layer, or of the model itself */
    sp_diag *d;
    char name[96];
} loader;

/* Of layer i; of the model itself with i any layer. */
static size_t size_in(const sp_arch *a, size_t i, size_of s)
{
    const sp_arch_latent *t = &a->latent;
    const sp_arch_layer *l = &a->layer[i];
    size_t n_q = a->n_head * (t->n ? t->d_query : l->d_head), n_kv = l->n_head_kv * l->d_head,
           n_expert = a->route.n_expert;
    bool whole = a->head_norm == SP_HEAD_NORM_WHOLE;
    const size_t n[SIZES] = {[VECTOR] = 1,
                             [N_VOCAB] = a->n_vocab,
                             [N_EMBD] = a->n_embd,
                             [N_Q] = n_q,
                             [N_KV] = n_kv,
                             [N_FF] = a->layer[i].n_ff,
                             [N_HEAD] = a->n_head,
                             [N_EXPERT] = n_expert,
                             [EACH_FF] = n_expert * a->n_ff_expert,
                             [EACH_PAIR] = 2 * n_expert * a->n_ff_expert,
                             [EACH_EMBD] = n_expert * a->n_embd,
                             [FF_EXPERT] = a->n_ff_expert,
                             [N_POS] = a->n_pos,
                             [N_TYPE] = a->n_type,
                             [N_LABEL] = a->n_label,
                             [N_DENSE] = a->n_dense,
                             [N_OUT] = a->n_out,
                             [N_HEADS_OUT] = t->n ? a->n_head * t->d_value : n_q,
                             [LOW_Q] = t->n_query,
                             [EACH_LATENT] = a->n_head * t->n,
                             [EACH_VALUE] = a->n_head * t->d_value,
                             [D_NOPE] = t->d_query - a->d_rot,
                             [D_LATENT] = t->n,
                             [N_TAP_CHAN] = a->state.n_tap * a->state.n_chan,
                             [N_CONV_IN] = 3 * a->n_embd,
                             [N_Q_IN] = a->attn_gate ? 2 * n_q : n_q,
                             [N_CHAN] = a->state.n_chan,
                             [N_INNER] = a->state.n_head * a->state.d_v,
                             [N_V_HEAD] = a->state.n_head,
                             [N_V_PAIR] = 2 * a->state.n_head,
                             [D_V] = a->state.d_v,
                             [ONE] = 1,
                             [N_EMBD_PAIR] = 2 * a->n_embd,
                             [EACH_HEAD] = a->state.n_head,
                             [EACH_GROUP] = a->state.n_head * a->state.d_v,
                             [N_SIDE] = a->n_side,
                             [ALL_SIDES] = a->n_layer * a->n_side,
                             [Q_NORM] = whole ? n_q : l->d_head,
                             [K_NORM] = whole ? n_kv : l->d_head};
    return n[s];
}

/* Of all experts of a layer at once: one behind the other. */
static bool is_each(size_of s)
{
    return s == EACH_FF || s == EACH_PAIR || s == EACH_EMBD;
}

/* How many matrices stand behind each other in the third dimension of such a weight; 1: it is
 * one. */
static size_t stack_of(const sp_arch *a, size_of s)
{
    return is_each(s) ? a->route.n_expert : s == EACH_LATENT || s == EACH_VALUE ? a->n_head : 1;
}

static unsigned parts_of(const sp_arch *a, size_t i, bool is_pair)
{
    const sp_arch_layer *l = &a->layer[i];
    const unsigned ffn[] = {
        [SP_FFN_GLU] = GLU | DENSE,
        [SP_FFN_PLAIN] = DENSE,
        [SP_FFN_NONE] = 0,
        [SP_FFN_EXPERTS] = EXPERTS | (is_pair ? PAIR : SPLIT) | (l->n_ff ? SHARED : 0) |
                           (a->plain_experts ? 0 : GLU),
        [SP_FFN_BESIDE] = GLU | DENSE | EXPERTS | (is_pair ? PAIR : SPLIT) | BESIDE};
    const unsigned mix[] = {[SP_MIX_ATTN] = HEADS | (a->latent.n ? LATENT : ATTN),
                            [SP_MIX_CONV] = CONV,
                            [SP_MIX_DELTA] = DELTA | (a->state.joined ? JOINED : APART),
                            [SP_MIX_SSM] = SSM,
                            [SP_MIX_BOTH] = SSM | HEADS | ATTN,
                            [SP_MIX_NONE] = 0};
    unsigned name = l->ffn == SP_FFN_NONE   ? 0
                    : l->mix == SP_MIX_NONE ? ALONE
                    : a->late_name          ? LATE_NAME
                                            : OWN_NAME;
    return (a->pre_norm ? PRE_NORM : 0) |
           (a->pre_norm && !l->is_bare && l->mix != SP_MIX_NONE ? ATTN_NORM : 0) |
           (a->post_norm ? POST_NORM : 0) | (a->head_norm ? HEAD_NORM : 0) |
           (a->sinks ? SINKS : 0) | (a->shared_gate ? SHARED_GATE : 0) |
           (l->is_shared ? 0 : OWN_KEYS) | (a->value_norm ? VALUE_NORM : 0) |
           (a->n_side ? SIDE : 0) | mix[l->mix] | (a->latent.n_query ? TWO_STEP : ONE_STEP) | name |
           (a->layer_norm ? LAYER_NORM : 0) | (a->sum_norm ? SUM_NORM : 0) | ffn[l->ffn];
}

static unsigned parts_of_model(const sp_arch *a)
{
    return (a->embd_norm ? EMBD_NORM : 0) | (a->embd_name ? EMBD_NAME : OWN_NAME) |
           (a->final_norm ? FINAL_NORM : 0) | (a->layer_norm ? LAYER_NORM : 0) |
           (a->learned_pos ? POSITIONS : 0) | (a->n_dense ? WIDENED : 0) | (a->n_side ? SIDE : 0) |
           (a->pooling == SP_POOL_RANK ? RANK : 0);
}

static size_t numbers(const spec *s, const sp_arch *a, size_t i)
{
    return s->rows == VECTOR ? size_in(a, i, s->cols) : size_in(a, i, s->rows);
}

/* Elements of a tensor that one of the weights in it does not share a row with: rows of a matrix,
 * numbers of a vector. */
static bool has_shape(const sp_tensor *t, const spec *s, const sp_arch *a, size_t i, size_t n)
{
    size_t k = size_in(a, i, s->cols), n_expert = a->route.n_expert, n_stack = stack_of(a, s->rows);
    if (n_stack > 1)
        return t->dim[0] == k && t->dim[2] == n_stack && t->dim[3] == 1 && t->dim[1] == n / n_stack;
    if (s->rows == VECTOR && is_each(s->cols))
        return t->dim[0] == n / n_expert && t->dim[1] == n_expert && t->dim[2] == 1 &&
               t->dim[3] == 1;
    if (s->cols == EACH_HEAD || s->cols == EACH_GROUP) {
        size_t n_row = s->cols == EACH_HEAD ? n : a->state.n_head_k;
        return t->dim[0] == n / n_row && t->dim[1] == n_row && t->dim[2] == 1 && t->dim[3] == 1;
    }
    if (s->cols == N_TAP_CHAN)
        return t->dim[0] == a->state.n_tap && t->dim[1] == a->state.n_chan && t->dim[2] == 1 &&
               t->dim[3] == 1;
    return t->dim[2] == 1 && t->dim[3] == 1 &&
           (s->rows == VECTOR ? t->dim[0] == n && t->dim[1] == 1
                              : t->dim[0] == k && t->dim[1] == n);
}

/* Where the weight begins in the tensor that joins several, and how many rows that has. */
static size_t rows_before(const spec *list, size_t n_list, const spec *s, unsigned parts,
                          const sp_arch *a, size_t i, size_t *all)
{
    size_t before = 0;
    *all = 0;
    for (const spec *o = list; o < list + n_list; o++) {
        if (!o->fused || (o->when & ~parts) || strcmp(o->fused, s->fused) != 0)
            continue;
        before += o < s ? numbers(o, a, i) : 0;
        *all += numbers(o, a, i);
    }
    return before;
}

static const sp_tensor *look_up(loader *l, const char *prefix, const char *name)
{
    static const char tail[] = ".weight";
    size_t n = strlen(name), n_tail = sizeof tail - 1;
    snprintf(l->name, sizeof l->name, "%s%s", prefix, name);
    const sp_tensor *t = sp_gguf_tensor_find(l->g, l->name);
    if (t || n <= n_tail || strcmp(name + n - n_tail, tail) != 0)
        return t;
    char *end = l->name + strlen(l->name) - n_tail; /* some converters leave it away */
    *end = '\0';
    t = sp_gguf_tensor_find(l->g, l->name);
    *end = '.';
    return t;
}

static sp_err wrong_shape(loader *l, const spec *s, const sp_tensor *t, size_t k, size_t n)
{
    size_t n_expert = l->m->arch.route.n_expert, n_stack = stack_of(&l->m->arch, s->rows);
    if (n_stack > 1)
        return SP_FAIL(
            l->d, SP_FORMAT, "gguf: tensor %.*s is %llu x %llu x %llu, expected %zu x %zu x %zu",
            (int)t->name.n, t->name.p, (unsigned long long)t->dim[0], (unsigned long long)t->dim[1],
            (unsigned long long)t->dim[2], k, n / n_stack, n_stack);
    if (s->rows == VECTOR && is_each(s->cols))
        return SP_FAIL(l->d, SP_FORMAT, "gguf: tensor %.*s is %llu x %llu, expected %zu x %zu",
                       (int)t->name.n, t->name.p, (unsigned long long)t->dim[0],
                       (unsigned long long)t->dim[1], n / n_expert, n_expert);
    return SP_FAIL(l->d, SP_FORMAT, "gguf: tensor %.*s is %llu x %llu, expected %zu x %zu (for %s)",
                   (int)t->name.n, t->name.p, (unsigned long long)t->dim[0],
                   (unsigned long long)t->dim[1], s->rows == VECTOR ? n : k,
                   s->rows == VECTOR ? 1 : n, s->name);
}

/* *t NULL: absent, and it may be. *first: the row it begins at. */
static sp_err find(const sp_tensor **t, size_t *first, loader *l, const spec *list, size_t n_list,
                   const spec *s, const char *prefix, size_t i)
{
    const sp_arch *a = &l->m->arch;
    size_t n = numbers(s, a, i), all = n, k = size_in(a, i, s->cols);
    *first = 0;
    if (s->absent == SLICE) {
        prefix = "";
        *first = i * n;
        n *= a->n_layer;
    }
    *t = look_up(l, prefix, s->name);
    if (*t && has_shape(*t, s, a, i, n))
        return SP_OK;
    const sp_tensor *joined = s->fused ? look_up(l, prefix, s->fused) : NULL;
    if (joined) {
        *first = rows_before(list, n_list, s, l->parts, a, i, &all);
        *t = joined;
        return has_shape(joined, s, a, i, all) ? SP_OK : wrong_shape(l, s, joined, k, all);
    }
    if (*t)
        return wrong_shape(l, s, *t, k, n);
    look_up(l, prefix, s->name);
    bool may = s->absent == MAY || s->absent == ZEROS || s->absent == ONES ||
               (s->absent == KEYS && a->value_norm);
    return may ? SP_OK : SP_FAIL(l->d, SP_FORMAT, "gguf: tensor %s is missing", l->name);
}

static float number_at(const sp_tensor *t, size_t i)
{
    const uint16_t *half = t->data;
    return t->type == SP_F32   ? ((const float *)t->data)[i]
           : t->type == SP_F16 ? sp_f16_to_f32(half[i])
                               : sp_bf16_to_f32(half[i]);
}

/* k numbers of a vector from number `first` on, as f32 on the device. n_tap > 1: the file has so
 * many neighbours for each channel, and the device a row of all channels for each of them. */
static sp_err put_vector(loader *l, void *to, const sp_tensor *t, size_t first, size_t k,
                         size_t n_tap)
{
    size_t n_chan = k / n_tap;
    float *wide = sp_mem_array(k, sizeof *wide);
    if (!wide)
        return SP_FAIL(l->d, SP_NOMEM, "weights");
    for (size_t i = 0; i < k; i++)
        wide[i % n_tap * n_chan + i / n_tap] = number_at(t, first + i);
    sp_err err = l->m->dev->ops->mem_write(l->m->dev, to, wide, k * sizeof(float));
    sp_mem_free(wide);
    return err;
}

/* The number, or of a stack of matrices the numbers, that the tensor's values are multiplied by;
 * NULL where there is none. A second number is of the input's quantisation, which products here do
 * not need. */
static sp_err find_scale(const float **out, loader *l, const sp_tensor *t, size_t want)
{
    static const char tail[] = ".weight";
    size_t n = t->name.n - (sizeof tail - 1);
    char stem[64];
    *out = NULL;
    if (t->type != SP_NVFP4 || t->name.n < sizeof tail ||
        memcmp(t->name.p + n, tail, sizeof tail - 1) != 0)
        return SP_OK;
    snprintf(stem, sizeof stem, "%.*s", (int)n, t->name.p);
    const sp_tensor *input = look_up(l, stem, ".input_scale"), *scale = look_up(l, stem, ".scale");
    if (input)
        l->used[input - sp_gguf_tensor_at(l->g, 0)] = true;
    if (!scale)
        return SP_OK;
    l->used[scale - sp_gguf_tensor_at(l->g, 0)] = true;
    if (scale->type != SP_F32 || scale->n_bytes != want * sizeof(float))
        return SP_FAIL(l->d, SP_FORMAT, "gguf: tensor %s is not %zu F32", l->name, want);
    *out = scale->data;
    for (size_t i = 0; i < want; i++)
        if (!isfinite((*out)[i]))
            return SP_FAIL(l->d, SP_FORMAT, "gguf: %s[%zu] is not a finite number", l->name, i);
    return SP_OK;
}

static sp_err put_zeros(loader *l, char *at, size_t k)
{
    void *p = NULL;
    if (l->m->dev->ops->mem_new(l->m->dev, &p, k * sizeof(float)) != SP_OK)
        return SP_FAIL(l->d, SP_NOMEM, "weights");
    memcpy(at, &p, sizeof p);
    return SP_OK;
}

static sp_err put_ones(loader *l, char *at, size_t k)
{
    float *p, one = 1;
    SP_TRY(put_zeros(l, at, k));
    memcpy(&p, at, sizeof p);
    for (size_t i = 0; i < k; i++)
        SP_TRY(l->m->dev->ops->mem_write(l->m->dev, p + i, &one, sizeof one));
    return SP_OK;
}

/* Vectors go to the device at once, matrices when all are known: they share one block of memory. */
static sp_err load_one(loader *l, const spec *list, size_t n_list, const spec *s,
                       const char *prefix, size_t i, void *base)
{
    const sp_tensor *t;
    const sp_arch *a = &l->m->arch;
    const sp_dev_ops *ops = l->m->dev->ops;
    size_t first, k = size_in(a, i, s->cols);
    void *p = NULL;
    SP_TRY(find(&t, &first, l, list, n_list, s, prefix, i));
    if (!t)
        return s->absent == ZEROS  ? put_zeros(l, (char *)base + s->at, k)
               : s->absent == ONES ? put_ones(l, (char *)base + s->at, k)
                                   : SP_OK;
    if (list == in_layer && s->at == offsetof(sp_layer, expert_scale) &&
        l->m->layer[i].expert_down.scale)
        return SP_OK; /* they are in the matrix already */
    l->used[t - sp_gguf_tensor_at(l->g, 0)] = true;
    if (s->rows != VECTOR) {
        sp_dev_weight w = {.data = (const char *)t->data + first * sp_type_row_bytes(t->type, k),
                           .type = t->type,
                           .n_row = size_in(a, i, s->rows),
                           .k = k};
        SP_TRY(find_scale(&w.scale, l, t, stack_of(a, s->rows)));
        look_up(l, prefix, s->name);
        memcpy((char *)base + s->at, &w, sizeof w);
        if (s->absent == IN_FILE && a->n_side % sp_type_get(t->type)->blk_elem)
            return SP_FAIL(l->d, SP_UNSUP,
                           "gguf: tensor %s of %s has %zu elements for a layer, which are no whole "
                           "blocks: not supported",
                           l->name, sp_type_name(t->type), a->n_side);
        if (stack_of(a, s->rows) > 1 && sp_pack_is(t->type) && t->dim[1] % (2 * SP_TILE_ROWS))
            return SP_FAIL(l->d, SP_UNSUP,
                           "gguf: tensor %s of %s has %llu rows for each, which is no multiple of "
                           "%d: not supported",
                           l->name, sp_type_name(t->type), (unsigned long long)t->dim[1],
                           2 * SP_TILE_ROWS);
        return SP_OK;
    }
    if (t->type != SP_F32 && t->type != SP_F16 && t->type != SP_BF16)
        return SP_FAIL(l->d, SP_UNSUP, "gguf: tensor %s is %s, expected F32, F16 or BF16", l->name,
                       sp_type_name(t->type));
    if (ops->mem_new(l->m->dev, &p, k * sizeof(float)) != SP_OK)
        return SP_FAIL(l->d, SP_NOMEM, "weights");
    memcpy((char *)base + s->at, &p, sizeof p);
    return put_vector(l, p, t, first, k, s->cols == N_TAP_CHAN ? l->m->arch.state.n_tap : 1);
}

static sp_err load_all(loader *l)
{
    sp_model *m = l->m;
    char prefix[32];
    l->parts = parts_of_model(&m->arch);
    snprintf(prefix, sizeof prefix, "blk.%zu.nextn.", m->arch.first);
    for (size_t k = 0; k < NEXT_SPECS && m->is_next; k++)
        SP_TRY(load_one(l, in_next, NEXT_SPECS, &in_next[k], prefix, 0, m));
    for (size_t k = 0; k < MODEL_SPECS && !m->is_next; k++)
        if ((in_model[k].when & ~l->parts) == 0)
            SP_TRY(load_one(l, in_model, MODEL_SPECS, &in_model[k], "", 0, m));
    for (size_t i = 0; i < m->arch.n_layer; i++) {
        snprintf(prefix, sizeof prefix, "blk.%zu.", m->arch.first + i);
        l->parts = parts_of(&m->arch, i, look_up(l, prefix, "ffn_gate_up_exps.weight"));
        for (size_t k = 0; k < LAYER_SPECS; k++)
            if ((in_layer[k].when & ~l->parts) == 0)
                SP_TRY(load_one(l, in_layer, LAYER_SPECS, &in_layer[k], prefix, i, &m->layer[i]));
    }
    return SP_OK;
}

static bool is_other(const sp_tensor *t, const char *prefix)
{
    size_t n = strlen(prefix);
    return t->name.n >= n && memcmp(t->name.p, prefix, n) == 0;
}

/* Tensors that do not belong to the decoder's trunk: angles, which load_rope reads, layers behind
 * the trunk that guess tokens, and keys of layers that attend those of another, and the towers of
 * models that also see and hear. */
static bool is_beside(const loader *l, const sp_tensor *t)
{
    static const char *const beside[N_PREFIX] = {"rope_freqs.", "rope_factors_", "v.", "a.", "mm."};
    char name[64] = "";
    for (size_t i = 0; i < N_PREFIX; i++)
        if (is_other(t, beside[i]))
            return true;
    memcpy(name, t->name.p, t->name.n < sizeof name ? t->name.n : sizeof name - 1);
    if (!is_other(t, "blk."))
        return false;
    char *rest;
    size_t i = strtoul(name + 4, &rest, 10);
    bool is_kv = strncmp(rest, ".attn_k", 7) == 0 || strncmp(rest, ".attn_v", 7) == 0;
    return i >= l->m->arch.n_layer || (l->m->arch.layer[i].is_shared && is_kv);
}

static sp_err check_unused(const loader *l)
{
    for (size_t i = 0; i < sp_gguf_tensor_count(l->g); i++) {
        const sp_tensor *t = sp_gguf_tensor_at(l->g, i);
        if (!l->used[i] && !is_beside(l, t))
            return SP_FAIL(
                l->d, SP_UNSUP,
                "gguf: tensor %.*s is none that a model of architecture %s is known to have",
                (int)t->name.n, t->name.p, l->m->arch.name);
    }
    return SP_OK;
}

/* Is row j of a matrix, and the first one of its place? A place may have several rows, of which a
 * layer has one: it is walked once. */
static bool is_place(size_t j)
{
    bool is = in_layer[j].rows != VECTOR;
    for (size_t k = 0; k < j && is; k++)
        is = in_layer[k].rows == VECTOR || in_layer[k].at != in_layer[j].at;
    return is;
}

/* The first row of the table that matrix i of the layers is of; and its layer. */
static const spec *matrix_spec(size_t *i_layer, size_t i)
{
    size_t n = 0, k = 0;
    for (size_t j = 0; j < LAYER_SPECS; j++)
        n += is_place(j);
    *i_layer = i / n;
    for (size_t nth = i % n; !is_place(k) || nth--;)
        k++;
    return &in_layer[k];
}

sp_dev_weight *sp_weights_top(sp_model *m, size_t i)
{
    for (const spec *s = in_model; s < in_model + MODEL_SPECS; s++)
        if (s->rows != VECTOR && s->absent != IN_FILE && i-- == 0)
            return (sp_dev_weight *)(void *)((char *)m + s->at);
    return i == 0 ? &m->next_in : NULL;
}

sp_dev_weight *sp_weights_matrix(const sp_model *m, size_t i)
{
    size_t i_layer;
    const spec *s = matrix_spec(&i_layer, i);
    return i_layer < m->arch.n_layer ? (sp_dev_weight *)(void *)((char *)&m->layer[i_layer] + s->at)
                                     : NULL;
}

bool sp_weights_is_experts(size_t i)
{
    size_t i_layer;
    return is_each(matrix_spec(&i_layer, i)->rows);
}

bool sp_weights_may_be_fp8(size_t i)
{
    size_t i_layer;
    const spec *s = matrix_spec(&i_layer, i);
    static const size_of large[] = {N_Q_IN, N_Q,       N_KV,   LOW_Q,   N_EMBD,
                                    N_FF,   N_CONV_IN, N_CHAN, N_INNER};
    for (size_t j = 0; j < sizeof large / sizeof large[0]; j++)
        if (s->rows == large[j] && s->cols != N_SIDE)
            return true;
    return false;
}

/* 0: absent. */
static size_t rows_in(const sp_gguf *g, const char *name)
{
    const sp_tensor *t = sp_gguf_tensor_find(g, name);
    return t ? (size_t)t->dim[1] : 0;
}

sp_err sp_weights_bind(sp_model *m, const sp_gguf *g, sp_diag *d)
{
    loader l = {.m = m, .g = g, .d = d};
    m->arch.n_vocab = rows_in(g, "token_embd.weight");
    m->arch.n_pos = rows_in(g, "position_embd.weight");
    m->arch.n_type = rows_in(g, "token_types.weight");
    m->arch.n_label = rows_in(g, "cls.output.weight");
    if (m->arch.learned_pos && m->arch.n_pos < m->arch.n_ctx)
        m->arch.n_ctx = m->arch.n_pos;
    if (!m->arch.n_vocab)
        return SP_FAIL(d, SP_FORMAT,
                       "gguf: tensor token_embd.weight is missing (a vocabulary-only file?)");
    SP_TRY(sp_arch_fits_device(&m->arch, m->dev, d));
    m->layer = sp_mem_array(m->arch.n_layer, sizeof *m->layer);
    l.used = sp_mem_array(sp_gguf_tensor_count(g), sizeof *l.used);
    sp_err err = m->layer && l.used ? load_all(&l) : SP_FAIL(d, SP_NOMEM, "weights");
    if (err == SP_OK && !m->is_next)
        err = check_unused(&l);
    sp_mem_free(l.used);
    return err;
}

static void free_vectors(sp_dev *dev, const spec *list, size_t n_list, void *base)
{
    for (size_t k = 0; k < n_list; k++) {
        void *p;
        memcpy(&p, (char *)base + list[k].at, sizeof p);
        if (list[k].rows != VECTOR)
            continue;
        dev->ops->mem_free(dev, p);
        memset((char *)base + list[k].at, 0, sizeof p); /* two names may have one place */
    }
}

void sp_weights_free(sp_model *m)
{
    for (size_t i = 0; m->layer && i < m->arch.n_layer; i++)
        free_vectors(m->dev, in_layer, LAYER_SPECS, &m->layer[i]);
    free_vectors(m->dev, in_next, NEXT_SPECS, m);
    free_vectors(m->dev, in_model, MODEL_SPECS, m);
    sp_packed_stop(m->keeper);
    m->dev->ops->mem_free(m->dev, m->packed);
    m->dev->ops->shelf_free(m->dev, m->shelf);
    sp_mem_free(m->layer);
}
