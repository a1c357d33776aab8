/* The table of architectures, and the readers of what only one of them has. */
#include "model/arch_int.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

static bool has_windows(const sp_arch *a)
{
    for (size_t i = 0; i < a->n_layer; i++)
        if (a->layer[i].rope == SP_ROPE_WINDOW)
            return true;
    return false;
}

/* One size trains its queries against the stream's width by head, not the head's; files do not
 * say so. */
static void wide_scale(sp_arch *a, size_t n_layer)
{
    if (a->n_layer == n_layer)
        a->attn_scale = 1.0f / sqrtf((float)(a->n_embd / a->n_head));
}

static sp_err read_caps(sp_arch *a, sp_arch_reader *r, float attn, float logit)
{
    SP_TRY(sp_arch_f(&a->attn_cap, r, "attn_logit_softcapping", attn));
    SP_TRY(sp_arch_f(&a->logit_cap, r, "final_logit_softcapping", logit));
    if (!(a->attn_cap >= 0) || !(a->logit_cap >= 0))
        return SP_FAIL(r->d, SP_FORMAT, "gguf: soft caps %g and %g are out of range",
                       (double)a->attn_cap, (double)a->logit_cap);
    return SP_OK;
}

static sp_err read_gemma2(sp_arch *a, sp_arch_reader *r)
{
    wide_scale(a, 46);
    return read_caps(a, r, 50.0f, 30.0f);
}

static sp_err read_gemma3(sp_arch *a, sp_arch_reader *r)
{
    wide_scale(a, 62);
    return read_caps(a, r, 0, 0);
}

static sp_err read_mistral3(sp_arch *a, sp_arch_reader *r)
{
    SP_TRY(sp_arch_f(&a->temp_scale, r, "attention.temperature_scale", 0));
    if (!(a->temp_scale >= 0))
        return SP_FAIL(r->d, SP_FORMAT, "gguf: key %s is %g", r->key, (double)a->temp_scale);
    return SP_OK;
}

static sp_err read_granite(sp_arch *a, sp_arch_reader *r)
{
    float logits;
    bool turns;
    SP_TRY(sp_arch_factor(&logits, r, "logit_scale", 1.0f));
    a->logit_scale = 1.0f / logits;
    SP_TRY(sp_arch_factor(&a->branch_scale, r, "residual_scale", 1.0f));
    SP_TRY(sp_arch_factor(&a->embd_scale, r, "embedding_scale", 1.0f));
    SP_TRY(sp_arch_bool(&turns, r, "rope.scaling.finetuned", true));
    for (size_t i = 0; i < a->n_layer && !turns; i++)
        a->layer[i].rope = SP_ROPE_OFF;
    return SP_OK;
}

static sp_err read_smollm3(sp_arch *a, sp_arch_reader *r)
{
    (void)r;
    for (size_t i = 3; i < a->n_layer; i += 4)
        a->layer[i].rope = SP_ROPE_OFF;
    return SP_OK;
}

/* Some sizes have norms of their heads, and no key says so. */
static sp_err read_glm4(sp_arch *a, sp_arch_reader *r)
{
    if (sp_gguf_tensor_find(r->g, "blk.0.attn_q_norm.weight"))
        a->head_norm = SP_HEAD_NORM_EACH;
    return SP_OK;
}

/* Where some layers have windows, the others do not know positions. */
static sp_err read_exaone4(sp_arch *a, sp_arch_reader *r)
{
    (void)r;
    for (size_t i = 0; i < a->n_layer && has_windows(a); i++)
        a->layer[i].rope = a->layer[i].rope == SP_ROPE_WINDOW ? SP_ROPE_WINDOW : SP_ROPE_OFF;
    return SP_OK;
}

/* Its gate may have either activation. */
static sp_err read_modern(sp_arch *a, sp_arch_reader *r)
{
    sp_str act = {"gelu", 4};
    sp_err err = sp_gguf_str(&act, r->g, sp_arch_key(r, "hidden_activation"), r->d);
    if (err != SP_OK && err != SP_NOTFOUND)
        return err;
    if (act.n == 4 && memcmp(act.p, "silu", 4) == 0)
        a->act = SP_ACT_SILU;
    else if (act.n != 4 || memcmp(act.p, "gelu", 4) != 0)
        return SP_FAIL(r->d, SP_UNSUP, "gguf: key %s: %.*s is not supported (gelu, silu)", r->key,
                       act.n < 20 ? (int)act.n : 20, act.p);
    return SP_OK;
}

/* Whole texts without pages are read by plain attention only. */
static sp_err refuse_encoder(const sp_arch *a, sp_arch_reader *r)
{
    return a->pooling ? SP_FAIL(r->d, SP_UNSUP, "gguf: %s as an encoder is not supported", a->name)
                      : SP_OK;
}

static sp_err check_latent(const sp_arch *a, sp_arch_reader *r)
{
    const sp_arch_latent *t = &a->latent;
    if (a->n_head_kv != 1 || a->d_head != t->n + a->d_rot || t->d_query <= a->d_rot)
        return SP_FAIL(r->d, SP_UNSUP,
                       "gguf: %zu KV heads of %zu over latents of %zu, queries of %zu, rope over "
                       "%zu: not supported",
                       a->n_head_kv, a->d_head, t->n, t->d_query, a->d_rot);
    return refuse_encoder(a, r);
}

/* With experts, each layer has its feed-forward part beside them. */
static sp_err read_gemma4(sp_arch *a, sp_arch_reader *r)
{
    size_t n_shared;
    a->attn_scale = 1;
    a->value_norm = true;
    SP_TRY(read_caps(a, r, 0, 0));
    SP_TRY(sp_arch_u(&a->n_side, r, "embedding_length_per_layer_input", 0, MAX_EMBD, 0));
    SP_TRY(sp_arch_u(&n_shared, r, "attention.shared_kv_layers", 0, a->n_layer - 1, 0));
    SP_TRY(sp_arch_lay_out_pages(a, n_shared, r));
    SP_TRY(refuse_encoder(a, r));
    for (size_t i = 0; i < a->n_layer && a->route.n_expert; i++) {
        a->layer[i].ffn = SP_FFN_BESIDE;
        SP_TRY(sp_arch_at(&a->layer[i].n_ff, r, "feed_forward_length", i, 1, MAX_FF, SIZE_MAX));
        a->n_ff = a->layer[i].n_ff > a->n_ff ? a->layer[i].n_ff : a->n_ff;
    }
    return SP_OK;
}

/* Under YaRN a file with the multiplier, of which its key has a tenth, wants scores times the
 * square of what YaRN multiplies cos and sin by elsewhere, and cos and sin as they are. Files
 * without the key of the scores are of two kinds: a bias belongs to sigmoids. */
static sp_err read_deepseek2(sp_arch *a, sp_arch_reader *r)
{
    sp_arch_rope *p = &a->rope[SP_ROPE_FULL];
    SP_TRY(check_latent(a, r));
    a->attn_scale = 1.0f / sqrtf((float)a->latent.d_query);
    if (p->scaling == SP_ROPE_YARN && p->log_mul > 0) {
        float grow = 1.0f + p->log_mul * logf(p->factor);
        a->attn_scale *= grow * grow;
        p->log_mul = 1;
    }
    snprintf(r->key, sizeof r->key, "blk.%zu.exp_probs_b.bias", a->n_layer - 1);
    bool has_bias = sp_gguf_tensor_find(r->g, r->key);
    if (has_bias && !sp_gguf_has(r->g, sp_arch_key(r, "expert_gating_func")))
        a->route.score = SP_SCORE_SIGMOID;
    a->route.group_by_one = a->route.score == SP_SCORE_SOFTMAX;
    return SP_OK;
}

/* Two matrices behind the pooled state. */
static sp_err read_dense(sp_arch *a, sp_arch_reader *r)
{
    size_t in, mid;
    SP_TRY(sp_arch_u(&in, r, "dense_2_feat_in", 1, MAX_EMBD, a->n_embd));
    SP_TRY(sp_arch_u(&a->n_dense, r, "dense_2_feat_out", 1, MAX_EMBD, 0));
    SP_TRY(sp_arch_u(&mid, r, "dense_3_feat_in", 1, MAX_EMBD, a->n_dense));
    SP_TRY(sp_arch_u(&a->n_out, r, "dense_3_feat_out", 1, MAX_EMBD, 0));
    if (in != a->n_embd || mid != a->n_dense || !a->n_dense != !a->n_out)
        return SP_FAIL(
            r->d, SP_FORMAT,
            "gguf: dense layers from %zu to %zu and from %zu to %zu do not fit an embedding of %zu",
            in, a->n_dense, mid, a->n_out, a->n_embd);
    return SP_OK;
}

static sp_err read_lfm2(sp_arch *a, sp_arch_reader *r)
{
    a->state.n_chan = a->n_embd;
    return sp_arch_u(&a->state.n_tap, r, "shortconv.l_cache", 2, MAX_TAP, SIZE_MAX);
}

/* Heads of values in groups that share keys, behind a convolution. n_group: where the file does not
 * say how many groups; SIZE_MAX: it must. */
static sp_err read_state(sp_arch *a, sp_arch_reader *r, size_t n_group)
{
    sp_arch_state *s = &a->state;
    size_t n_inner;
    SP_TRY(sp_arch_u(&s->n_tap, r, "ssm.conv_kernel", 2, MAX_TAP, SIZE_MAX));
    SP_TRY(sp_arch_u(&s->d_k, r, "ssm.state_size", 1, 1 << 12, SIZE_MAX));
    SP_TRY(sp_arch_u(&s->n_head_k, r, "ssm.group_count", 1, MAX_HEAD, n_group));
    SP_TRY(sp_arch_u(&s->n_head, r, "ssm.time_step_rank", 1, MAX_HEAD, SIZE_MAX));
    SP_TRY(sp_arch_u(&n_inner, r, "ssm.inner_size", 1, MAX_EMBD, SIZE_MAX));
    s->d_v = n_inner / s->n_head;
    if (n_inner % s->n_head || s->n_head % s->n_head_k || s->d_k % 16 || s->d_v % 16)
        return SP_FAIL(r->d, SP_UNSUP,
                       "gguf: %zu heads of values in %zu elements, %zu groups with keys of %zu: "
                       "not supported",
                       s->n_head, n_inner, s->n_head_k, s->d_k);
    s->n_chan = n_inner + 2 * s->n_head_k * s->d_k;
    return SP_OK;
}

/* The delta rule; its keys are named after those of state spaces. */
static sp_err read_delta(sp_arch *a, sp_arch_reader *r)
{
    a->attn_gate = true;
    return read_state(a, r, SIZE_MAX);
}

static sp_err read_ssm(sp_arch *a, sp_arch_reader *r)
{
    return read_state(a, r, 1);
}

static sp_err read_granite_hybrid(sp_arch *a, sp_arch_reader *r)
{
    SP_TRY(read_granite(a, r));
    return read_ssm(a, r);
}

/* Its attention does not know positions, and its experts have no gate. */
static sp_err read_nemotron(sp_arch *a, sp_arch_reader *r)
{
    for (size_t i = 0; i < a->n_layer; i++)
        a->layer[i].rope = SP_ROPE_OFF;
    a->plain_experts = true;
    return read_ssm(a, r);
}

static const sp_family families[] = {
    {.name = "llama", .is = EXPERTS, .act = SP_ACT_SILU},
    {.name = "qwen2", .is = HALVES, .act = SP_ACT_SILU},
    {.name = "qwen3", .is = HALVES, .act = SP_ACT_SILU, .head_norm = SP_HEAD_NORM_EACH},
    {.name = "gemma2", .is = HALVES | POST_NORM | EMBD_SQRT, .act = SP_ACT_GELU_TANH,
     .full_every = 2, .window = 4096, .read = read_gemma2},
    {.name = "gemma3", .is = HALVES | POST_NORM | EMBD_SQRT | OWN_ROPE | PLAIN_ROPE,
     .act = SP_ACT_GELU_TANH, .head_norm = SP_HEAD_NORM_EACH, .full_every = 6, .read = read_gemma3},
    {.name = "gemma4",
     .is = HALVES | POST_NORM | EMBD_SQRT | OWN_ROPE | PLAIN_ROPE | OWN_HEADS | EXPERTS,
     .act = SP_ACT_GELU_TANH, .head_norm = SP_HEAD_NORM_EACH, .full_every = 6, .read = read_gemma4},
    {.name = "phi3", .is = HALVES, .act = SP_ACT_SILU, .full_every = ALL_LAYERS},
    {.name = "mistral3", .act = SP_ACT_SILU, .read = read_mistral3},
    {.name = "granite", .act = SP_ACT_SILU, .read = read_granite},
    {.name = "smollm3", .act = SP_ACT_SILU, .read = read_smollm3},
    {.name = "olmo2", .is = HALVES | ONLY_POST | PLAIN_ROPE, .act = SP_ACT_SILU,
     .head_norm = SP_HEAD_NORM_WHOLE, .full_every = 4},
    {.name = "exaone4", .is = HALVES | ONLY_POST, .act = SP_ACT_SILU,
     .head_norm = SP_HEAD_NORM_EACH, .full_every = 4, .read = read_exaone4},
    {.name = "ernie4_5", .act = SP_ACT_SILU},
    {.name = "hunyuan-dense", .is = HALVES, .act = SP_ACT_SILU, .head_norm = SP_HEAD_NORM_LAST},
    {.name = "qwen3moe", .is = HALVES | EXPERTS, .act = SP_ACT_SILU,
     .head_norm = SP_HEAD_NORM_EACH},
    {.name = "granitemoe", .is = EXPERTS, .act = SP_ACT_SILU, .read = read_granite},
    {.name = "ernie4_5-moe", .is = EXPERTS, .act = SP_ACT_SILU},
    {.name = "glm4moe", .is = NEXT | HALVES | EXPERTS | AS_SCORED | LATE_NAME, .act = SP_ACT_SILU,
     .score = SP_SCORE_SIGMOID, .read = read_glm4},
    {.name = "lfm2", .is = HALVES | EMBD_NAME, .act = SP_ACT_SILU, .head_norm = SP_HEAD_NORM_EACH,
     .mix = SP_MIX_CONV, .read = read_lfm2},
    {.name = "lfm2moe", .is = HALVES | EXPERTS | EMBD_NAME, .act = SP_ACT_SILU,
     .head_norm = SP_HEAD_NORM_EACH, .score = SP_SCORE_SIGMOID, .mix = SP_MIX_CONV,
     .read = read_lfm2},
    {.name = "qwen35", .is = NEXT | HALVES | LATE_NAME, .act = SP_ACT_SILU,
     .head_norm = SP_HEAD_NORM_EACH, .mix = SP_MIX_DELTA, .read = read_delta},
    {.name = "qwen35moe", .is = NEXT | HALVES | LATE_NAME | EXPERTS | SHARED_GATE,
     .act = SP_ACT_SILU, .head_norm = SP_HEAD_NORM_EACH, .mix = SP_MIX_DELTA, .read = read_delta},
    {.name = "qwen3next", .is = NEXT | HALVES | LATE_NAME | EXPERTS | SHARED_GATE | NEIGHBOURS,
     .act = SP_ACT_SILU, .head_norm = SP_HEAD_NORM_EACH, .mix = SP_MIX_DELTA, .read = read_delta},
    {.name = "granitehybrid", .is = EXPERTS, .act = SP_ACT_SILU, .mix = SP_MIX_SSM,
     .read = read_granite_hybrid},
    {.name = "nemotron_h", .is = NO_GATE | ALONE, .act = SP_ACT_RELU2, .mix = SP_MIX_SSM,
     .read = read_nemotron},
    {.name = "nemotron_h_moe", .is = NO_GATE | ALONE | EXPERTS, .act = SP_ACT_RELU2,
     .score = SP_SCORE_SIGMOID, .mix = SP_MIX_SSM, .read = read_nemotron},
    {.name = "falcon-h1", .is = HALVES, .act = SP_ACT_SILU, .mix = SP_MIX_BOTH, .read = read_ssm},
    {.name = "bert", .is = BOTH_WAYS | LAYER_NORM | SUM_NORM | NO_GATE | NO_ROPE,
     .act = SP_ACT_GELU_ERF},
    {.name = "nomic-bert", .is = BOTH_WAYS | LAYER_NORM | SUM_NORM | HALVES, .act = SP_ACT_SILU},
    {.name = "modern-bert",
     .is = BOTH_WAYS | LAYER_NORM | HALVES | OWN_ROPE | FULL_FIRST | BARE_FIRST,
     .act = SP_ACT_GELU_ERF, .full_every = 3, .read = read_modern},
    {.name = "gemma-embedding",
     .is = BOTH_WAYS | HALVES | POST_NORM | EMBD_SQRT | OWN_ROPE | PLAIN_ROPE,
     .act = SP_ACT_GELU_TANH, .head_norm = SP_HEAD_NORM_EACH, .full_every = 6, .window = 512,
     .read = read_dense},
    {.name = "deepseek2", .is = EXPERTS | AS_SCORED | LATENT, .act = SP_ACT_SILU,
     .read = read_deepseek2},
    {.name = "gpt-oss", .is = HALVES | EXPERTS | LATE_NAME | SINKS | SMOOTH_ROPE,
     .act = SP_ACT_CLAMPED, .score = SP_SCORE_CHOSEN, .full_every = 2},
};

sp_err sp_arch_find_family(const sp_family **out, const sp_gguf *g, sp_diag *d)
{
    char names[512] = "";
    sp_str name;
    sp_err err = sp_gguf_str(&name, g, "general.architecture", d);
    if (err == SP_NOTFOUND)
        return SP_FAIL(d, SP_FORMAT, "gguf: key general.architecture is missing");
    SP_TRY(err);
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        if (strlen(families[i].name) == name.n && memcmp(families[i].name, name.p, name.n) == 0) {
            *out = &families[i];
            return SP_OK;
        }
        size_t n = strlen(names);
        snprintf(names + n, sizeof names - n, i ? ", %s" : "%s", families[i].name);
    }
    return SP_FAIL(d, SP_UNSUP, "gguf: architecture %.*s is not supported (%s)",
                   name.n < 40 ? (int)name.n : 40, name.p, names);
}
