/* The table of architectures, and how their hyper-parameters are read. */
#include "model/arch.h"

#include "kv/pool.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_EMBD = 1 << 16, MAX_HEAD = 1024, MAX_EXPERT = 1024, MAX_CTX = 1 << 24, MAX_FF = 1 << 20, MAX_TAP = 64, ALL_LAYERS = SP_MAX_LAYER + 1 };

typedef struct reader {
    const sp_gguf *g;
    const char *arch;
    size_t n_block; /* of the file: the trunk's layers, then those that only guess tokens */
    unsigned asked; /* which of telling[] were read */
    sp_diag *d;
    char key[128];
} reader;

/* Keys that change the arithmetic. Where a file has one that nothing reads, its answers would be wrong without a word. */
static const char *const telling[] = {
    "attention.clamp_kqv", "attention.max_alibi_bias", "attention.temperature_scale", "attention.key_length_swa", "attention.value_length_swa",
    "attention.shared_kv_layers", "attn_logit_softcapping", "final_logit_softcapping", "embedding_scale", "residual_scale", "logit_scale",
    "rope.dimension_count_swa", "use_parallel_residual", "embedding_length_per_layer_input", "full_attention_interval", "ssm.state_size",
    "shortconv.l_cache", "ssm.conv_kernel", "moe_latent_size"};
enum { TELLING = sizeof telling / sizeof telling[0] };

typedef enum trait {
    HALVES = 1,       /* RoPE turns elements d_rot / 2 apart */
    POST_NORM = 2,    /* a norm before each addition to the stream */
    ONLY_POST = 4,    /* ... and none before the branch */
    EMBD_SQRT = 8,    /* embeddings times sqrt(n_embd) */
    OWN_ROPE = 16,    /* layers with a window have a base of their own, 10000 where the file says nothing */
    PLAIN_ROPE = 32,  /* layers with a window do not stretch positions */
    EXPERTS = 64,     /* layers may have experts */
    AS_SCORED = 128,  /* weights of experts are not normed where the file does not say so */
    LATE_NAME = 256,  /* the norm before the feed-forward part is called post_attention_norm */
    SINKS = 512,
    SMOOTH_ROPE = 1024, /* YaRN's bounds are not rounded to whole pairs */
    BOTH_WAYS = 2048,   /* tokens see later ones where the file does not say */
    LAYER_NORM = 4096,  /* not RMS; the stream begins with one */
    SUM_NORM = 8192,    /* a norm after each addition to the stream, and none elsewhere */
    NO_GATE = 16384,    /* down(act(up)) */
    NO_ROPE = 32768,    /* positions are learned */
    FULL_FIRST = 65536, /* of full_every layers the first sees all, not the last */
    BARE_FIRST = 131072, /* the first layer's attention takes the stream without a norm */
    EMBD_NAME = 262144,  /* the final norm is called token_embd_norm */
    LATENT = 524288,     /* attention over latents */
    OWN_HEADS = 1048576, /* heads of layers with a window have other sizes, and layers other numbers of KV heads */
    SHARED_GATE = 2097152, /* the part beside experts has a gate */
    NEIGHBOURS = 4194304, /* heads of values that share a head of keys are neighbours, and their numbers come out of one matrix */
    ALONE = 8388608,      /* a layer either mixes tokens or is a feed-forward part: one that has the width of such a part */
} trait;

/* One architecture. */
typedef struct family {
    const char *name;
    unsigned is; /* traits */
    sp_act act;
    sp_head_norm head_norm;
    sp_score score;  /* of experts, where the file does not say */
    sp_mix mix;      /* of layers that have no heads of keys */
    /* Where the file has a window: all layers but every full_every-th have it. 0: the family has no windows. */
    size_t full_every;
    size_t window; /* where the file does not say */
    sp_err (*read)(sp_arch *a, reader *r); /* what only this family has; or NULL */
} family;

static const char *key_of(reader *r, const char *tail)
{
    for (size_t i = 0; i < TELLING; i++)
        if (strcmp(telling[i], tail) == 0)
            r->asked |= 1u << i;
    snprintf(r->key, sizeof r->key, "%s.%s", r->arch, tail);
    return r->key;
}

/* SP_NOTFOUND becomes the fallback; SIZE_MAX: the key is required. */
static sp_err or_else(size_t *out, reader *r, sp_err err, uint64_t v, size_t fallback)
{
    if (err == SP_NOTFOUND && fallback == SIZE_MAX)
        return SP_FAIL(r->d, SP_FORMAT, "gguf: key %s is missing", r->key);
    if (err == SP_OK || err == SP_NOTFOUND)
        *out = err == SP_OK ? (size_t)v : fallback;
    return err == SP_NOTFOUND ? SP_OK : err;
}

static sp_err get_u(size_t *out, reader *r, const char *tail, uint64_t min, uint64_t max, size_t fallback)
{
    uint64_t v = 0;
    sp_err err = sp_gguf_u64(&v, r->g, key_of(r, tail), min, max, r->d);
    return or_else(out, r, err, v, fallback);
}

/* Of layer i, where the file may give a value for each. */
static sp_err get_at(size_t *out, reader *r, const char *tail, size_t i, uint64_t min, uint64_t max, size_t fallback)
{
    uint64_t v = 0;
    sp_err err = sp_gguf_u64_at(&v, r->g, key_of(r, tail), i, r->n_block, min, max, r->d);
    return or_else(out, r, err, v, fallback);
}

/* The same value for all layers of the trunk, however the file gives it. attending: for those with attention, of which there is one. */
static sp_err get_same_of(size_t *out, reader *r, const char *tail, const sp_arch *a, bool attending, uint64_t max, size_t fallback)
{
    size_t first = 0, v = 0;
    for (size_t i = 0; i < a->n_layer; i++) {
        if (attending && !sp_arch_attends(&a->layer[i]))
            continue;
        SP_TRY(get_at(&v, r, tail, i, 1, max, fallback));
        if (first && v != first)
            return SP_FAIL(r->d, SP_UNSUP, "gguf: key %s differs between layers (%zu, %zu): not supported", r->key, first, v);
        first = v;
    }
    *out = first;
    return SP_OK;
}

static sp_err get_same(size_t *out, reader *r, const char *tail, const sp_arch *a, uint64_t max, size_t fallback)
{
    return get_same_of(out, r, tail, a, false, max, fallback);
}

static sp_err get_f(float *out, reader *r, const char *tail, float fallback)
{
    sp_err err = sp_gguf_f32(out, r->g, key_of(r, tail), r->d);
    if (err == SP_NOTFOUND) {
        *out = fallback;
        return SP_OK;
    }
    return err;
}

/* A factor: absent or 0 is the fallback, as llama.cpp reads it. */
static sp_err get_factor(float *out, reader *r, const char *tail, float fallback)
{
    float v;
    SP_TRY(get_f(&v, r, tail, fallback));
    if (!(v >= 0))
        return SP_FAIL(r->d, SP_FORMAT, "gguf: key %s is %g", r->key, (double)v);
    *out = v > 0 ? v : fallback;
    return SP_OK;
}

static sp_err get_bool(bool *out, reader *r, const char *tail, bool fallback)
{
    sp_err err = sp_gguf_bool(out, r->g, key_of(r, tail), r->d);
    if (err == SP_NOTFOUND) {
        *out = fallback;
        return SP_OK;
    }
    return err;
}

static sp_err read_scaling(sp_arch_rope *p, reader *r)
{
    static const struct { const char *name; sp_rope_scaling is; } kinds[] = {
        {"none", SP_ROPE_NONE}, {"linear", SP_ROPE_LINEAR}, {"yarn", SP_ROPE_YARN}, {"longrope", SP_ROPE_LONG}};
    sp_str kind = {"linear", 6};
    sp_err err = sp_gguf_str(&kind, r->g, key_of(r, "rope.scaling.type"), r->d);
    if (err != SP_OK && err != SP_NOTFOUND)
        return err;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strlen(kinds[i].name) == kind.n && memcmp(kinds[i].name, kind.p, kind.n) == 0) {
            p->scaling = kinds[i].is;
            return SP_OK;
        }
    }
    return SP_FAIL(r->d, SP_UNSUP, "gguf: rope.scaling.type %.*s is not supported", kind.n < 40 ? (int)kind.n : 40, kind.p);
}

static sp_err read_rope(sp_arch *a, const family *f, reader *r)
{
    sp_arch_rope *p = &a->rope[SP_ROPE_FULL], *w = &a->rope[SP_ROPE_WINDOW];
    float old, ext;
    p->d_rot = a->d_rot;
    SP_TRY(read_scaling(p, r));
    SP_TRY(get_f(&p->base, r, "rope.freq_base", 10000.0f));
    SP_TRY(get_f(&old, r, "rope.scale_linear", 0));
    SP_TRY(get_f(&p->factor, r, "rope.scaling.factor", old)); /* the older key counts where the newer is absent; 0 is none */
    p->factor = p->factor == 0 ? 1 : p->factor;
    SP_TRY(get_f(&p->attn, r, "rope.scaling.attn_factor", 1.0f));
    SP_TRY(get_f(&p->beta_fast, r, "rope.scaling.yarn_beta_fast", 32.0f));
    SP_TRY(get_f(&p->beta_slow, r, "rope.scaling.yarn_beta_slow", 1.0f));
    SP_TRY(get_f(&p->log_mul, r, "rope.scaling.yarn_log_multiplier", 0));
    SP_TRY(get_f(&ext, r, "rope.scaling.yarn_ext_factor", 1.0f));
    SP_TRY(get_u(&p->ctx, r, "rope.scaling.original_context_length", 1, MAX_CTX, a->n_ctx));
    p->is_smooth = f->is & SMOOTH_ROPE;
    *w = *p;
    if (f->is & PLAIN_ROPE)
        *w = (sp_arch_rope){.scaling = SP_ROPE_NONE, .is_plain = true, .d_rot = p->d_rot, .factor = 1, .attn = 1, .ctx = p->ctx};
    SP_TRY(get_f(&w->base, r, "rope.freq_base_swa", f->is & OWN_ROPE ? 10000.0f : p->base));
    if (!(p->base >= 1.0f) || !(w->base >= 1.0f) || !(p->factor > 0) || !(p->attn > 0) || !(p->log_mul >= 0) ||
        !(p->beta_slow > 0) || !(p->beta_fast > p->beta_slow))
        return SP_FAIL(r->d, SP_FORMAT, "gguf: rope base %g and %g, factor %g, attn_factor %g, beta %g and %g, multiplier %g: out of range",
                       (double)p->base, (double)w->base, (double)p->factor, (double)p->attn, (double)p->beta_fast, (double)p->beta_slow,
                       (double)p->log_mul);
    if (p->scaling == SP_ROPE_YARN && ext != 1.0f)
        return SP_FAIL(r->d, SP_UNSUP, "gguf: rope.scaling.yarn_ext_factor %g is not supported", (double)ext);
    return SP_OK;
}

/* Which layers see a window only. */
static sp_err read_windows(sp_arch *a, const family *f, reader *r)
{
    size_t window, every = f->full_every, is_window;
    SP_TRY(get_u(&window, r, "attention.sliding_window", 0, UINT32_MAX, f->window));
    if (window == 0 || (window >= a->n_ctx && !f->full_every))
        return SP_OK;
    if (!f->full_every)
        return SP_FAIL(r->d, SP_UNSUP, "gguf: %s with a sliding window (%zu) is not supported", a->name, window);
    static const char pattern[] = "attention.sliding_window_pattern";
    bool each = sp_gguf_is_array(r->g, key_of(r, pattern));
    if (!each)
        SP_TRY(get_u(&every, r, pattern, 1, UINT32_MAX, f->full_every));
    for (size_t i = 0; i < a->n_layer; i++) {
        is_window = i % every != (f->is & FULL_FIRST ? 0 : every - 1);
        if (each)
            SP_TRY(get_at(&is_window, r, pattern, i, 0, 1, SIZE_MAX));
        if (is_window) { /* where the window is no shorter than the context, RoPE still is that of windows */
            a->layer[i].window = window < a->n_ctx ? window : 0;
            a->layer[i].rope = SP_ROPE_WINDOW;
        }
    }
    return SP_OK;
}

/* Heads of each layer: those with a window may have others. */
static sp_err read_own_heads(sp_arch *a, const family *f, reader *r)
{
    size_t d_window = a->d_head, d_value = a->d_head, d_rot = a->d_rot, n_head_kv = 0, d_head = 0;
    if (f->is & OWN_HEADS) {
        SP_TRY(get_u(&d_window, r, "attention.key_length_swa", 1, 1 << 12, a->d_head));
        SP_TRY(get_u(&d_value, r, "attention.value_length_swa", 1, 1 << 12, d_window));
        SP_TRY(get_u(&d_rot, r, "rope.dimension_count_swa", 2, d_window, d_window));
    }
    for (size_t i = 0; i < a->n_layer; i++) {
        sp_arch_layer *l = &a->layer[i];
        l->d_head = l->rope == SP_ROPE_WINDOW ? d_window : a->d_head;
        l->n_head_kv = a->n_head_kv;
        if (f->is & OWN_HEADS)
            SP_TRY(get_at(&l->n_head_kv, r, "attention.head_count_kv", i, 1, MAX_HEAD, a->n_head));
        if (a->n_head % l->n_head_kv || l->d_head % 16 || d_rot % 2 || d_value != d_window)
            return SP_FAIL(r->d, SP_UNSUP, "gguf: layer %zu: %zu heads, %zu KV heads, head of %zu (value %zu), rope over %zu: not supported", i,
                           a->n_head, l->n_head_kv, l->d_head, d_value, d_rot);
        n_head_kv = l->n_head_kv > n_head_kv ? l->n_head_kv : n_head_kv;
        d_head = l->d_head > d_head ? l->d_head : d_head;
    }
    a->rope[SP_ROPE_WINDOW].d_rot = d_rot;
    a->n_head_kv = n_head_kv;
    a->d_head = d_head;
    a->d_rot = d_rot > a->d_rot ? d_rot : a->d_rot;
    return SP_OK;
}

/* Which layers have pages, and what heads are in them. The last n_shared layers attend what the last layer of their kind before
 * them has. */
static sp_err lay_out_pages(sp_arch *a, size_t n_shared, reader *r)
{
    size_t first = a->n_layer - n_shared;
    a->n_page_layer = 0;
    for (size_t i = 0; i < a->n_layer; i++) {
        sp_arch_layer *l = &a->layer[i];
        size_t j = first;
        if (!sp_arch_attends(l))
            continue;
        if (i < first) {
            const sp_kv_heads h = {l->n_head_kv, l->d_head};
            a->has_own_heads |= a->n_page_layer && (h.n_head != a->page_heads[0].n_head || h.d != a->page_heads[0].d);
            l->i_page = a->n_page_layer;
            a->page_heads[a->n_page_layer++] = h;
            continue;
        }
        while (j > 0 && (a->layer[j - 1].rope != l->rope || a->layer[j - 1].n_head_kv != l->n_head_kv))
            j--;
        if (j == 0)
            return SP_FAIL(r->d, SP_FORMAT, "gguf: no layer before layer %zu has keys that it could share", i);
        l->is_shared = true;
        l->i_page = a->layer[j - 1].i_page;
        l->kept = a->layer[j - 1].kept = l->rope == SP_ROPE_WINDOW ? 2 : 1;
    }
    return SP_OK;
}

static bool has_windows(const sp_arch *a)
{
    for (size_t i = 0; i < a->n_layer; i++)
        if (a->layer[i].rope == SP_ROPE_WINDOW)
            return true;
    return false;
}

/* One size trains its queries against the stream's width by head, not the head's; files do not say so. */
static void wide_scale(sp_arch *a, size_t n_layer)
{
    if (a->n_layer == n_layer)
        a->attn_scale = 1.0f / sqrtf((float)(a->n_embd / a->n_head));
}

static sp_err read_caps(sp_arch *a, reader *r, float attn, float logit)
{
    SP_TRY(get_f(&a->attn_cap, r, "attn_logit_softcapping", attn));
    SP_TRY(get_f(&a->logit_cap, r, "final_logit_softcapping", logit));
    if (!(a->attn_cap >= 0) || !(a->logit_cap >= 0))
        return SP_FAIL(r->d, SP_FORMAT, "gguf: soft caps %g and %g are out of range", (double)a->attn_cap, (double)a->logit_cap);
    return SP_OK;
}

static sp_err read_gemma2(sp_arch *a, reader *r)
{
    wide_scale(a, 46);
    return read_caps(a, r, 50.0f, 30.0f);
}

static sp_err read_gemma3(sp_arch *a, reader *r)
{
    wide_scale(a, 62);
    return read_caps(a, r, 0, 0);
}

static sp_err read_mistral3(sp_arch *a, reader *r)
{
    SP_TRY(get_f(&a->temp_scale, r, "attention.temperature_scale", 0));
    if (!(a->temp_scale >= 0))
        return SP_FAIL(r->d, SP_FORMAT, "gguf: key %s is %g", r->key, (double)a->temp_scale);
    return SP_OK;
}

static sp_err read_granite(sp_arch *a, reader *r)
{
    float logits;
    bool turns;
    SP_TRY(get_factor(&logits, r, "logit_scale", 1.0f));
    a->logit_scale = 1.0f / logits;
    SP_TRY(get_factor(&a->branch_scale, r, "residual_scale", 1.0f));
    SP_TRY(get_factor(&a->embd_scale, r, "embedding_scale", 1.0f));
    SP_TRY(get_bool(&turns, r, "rope.scaling.finetuned", true));
    for (size_t i = 0; i < a->n_layer && !turns; i++)
        a->layer[i].rope = SP_ROPE_OFF;
    return SP_OK;
}

static sp_err read_smollm3(sp_arch *a, reader *r)
{
    (void)r;
    for (size_t i = 3; i < a->n_layer; i += 4)
        a->layer[i].rope = SP_ROPE_OFF;
    return SP_OK;
}

/* Some sizes have norms of their heads, and no key says so. */
static sp_err read_glm4(sp_arch *a, reader *r)
{
    if (sp_gguf_tensor_find(r->g, "blk.0.attn_q_norm.weight"))
        a->head_norm = SP_HEAD_NORM_EACH;
    return SP_OK;
}

/* Where some layers have windows, the others do not know positions. */
static sp_err read_exaone4(sp_arch *a, reader *r)
{
    (void)r;
    for (size_t i = 0; i < a->n_layer && has_windows(a); i++)
        a->layer[i].rope = a->layer[i].rope == SP_ROPE_WINDOW ? SP_ROPE_WINDOW : SP_ROPE_OFF;
    return SP_OK;
}

/* Its gate may have either activation. */
static sp_err read_modern(sp_arch *a, reader *r)
{
    sp_str act = {"gelu", 4};
    sp_err err = sp_gguf_str(&act, r->g, key_of(r, "hidden_activation"), r->d);
    if (err != SP_OK && err != SP_NOTFOUND)
        return err;
    if (act.n == 4 && memcmp(act.p, "silu", 4) == 0)
        a->act = SP_ACT_SILU;
    else if (act.n != 4 || memcmp(act.p, "gelu", 4) != 0)
        return SP_FAIL(r->d, SP_UNSUP, "gguf: key %s: %.*s is not supported (gelu, silu)", r->key, act.n < 20 ? (int)act.n : 20, act.p);
    return SP_OK;
}

/* Whole texts without pages are read by plain attention only. */
static sp_err refuse_encoder(const sp_arch *a, reader *r)
{
    return a->pooling ? SP_FAIL(r->d, SP_UNSUP, "gguf: %s as an encoder is not supported", a->name) : SP_OK;
}

static sp_err check_latent(const sp_arch *a, reader *r)
{
    const sp_arch_latent *t = &a->latent;
    if (a->n_head_kv != 1 || a->d_head != t->n + a->d_rot || t->d_query <= a->d_rot)
        return SP_FAIL(r->d, SP_UNSUP, "gguf: %zu KV heads of %zu over latents of %zu, queries of %zu, rope over %zu: not supported", a->n_head_kv,
                       a->d_head, t->n, t->d_query, a->d_rot);
    return refuse_encoder(a, r);
}

/* With experts, each layer has its feed-forward part beside them. */
static sp_err read_gemma4(sp_arch *a, reader *r)
{
    size_t n_shared;
    a->attn_scale = 1;
    a->value_norm = true;
    SP_TRY(read_caps(a, r, 0, 0));
    SP_TRY(get_u(&a->n_side, r, "embedding_length_per_layer_input", 0, MAX_EMBD, 0));
    SP_TRY(get_u(&n_shared, r, "attention.shared_kv_layers", 0, a->n_layer - 1, 0));
    SP_TRY(lay_out_pages(a, n_shared, r));
    SP_TRY(refuse_encoder(a, r));
    for (size_t i = 0; i < a->n_layer && a->route.n_expert; i++) {
        a->layer[i].ffn = SP_FFN_BESIDE;
        SP_TRY(get_at(&a->layer[i].n_ff, r, "feed_forward_length", i, 1, MAX_FF, SIZE_MAX));
        a->n_ff = a->layer[i].n_ff > a->n_ff ? a->layer[i].n_ff : a->n_ff;
    }
    return SP_OK;
}

/* Under YaRN a file with the multiplier, of which its key has a tenth, wants scores times the square of what YaRN multiplies cos and
 * sin by elsewhere, and cos and sin as they are. Files without the key of the scores are of two kinds: a bias belongs to sigmoids. */
static sp_err read_deepseek2(sp_arch *a, reader *r)
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
    if (has_bias && !sp_gguf_has(r->g, key_of(r, "expert_gating_func")))
        a->route.score = SP_SCORE_SIGMOID;
    a->route.group_by_one = a->route.score == SP_SCORE_SOFTMAX;
    return SP_OK;
}

/* Two matrices behind the pooled state. */
static sp_err read_dense(sp_arch *a, reader *r)
{
    size_t in, mid;
    SP_TRY(get_u(&in, r, "dense_2_feat_in", 1, MAX_EMBD, a->n_embd));
    SP_TRY(get_u(&a->n_dense, r, "dense_2_feat_out", 1, MAX_EMBD, 0));
    SP_TRY(get_u(&mid, r, "dense_3_feat_in", 1, MAX_EMBD, a->n_dense));
    SP_TRY(get_u(&a->n_out, r, "dense_3_feat_out", 1, MAX_EMBD, 0));
    if (in != a->n_embd || mid != a->n_dense || !a->n_dense != !a->n_out)
        return SP_FAIL(r->d, SP_FORMAT, "gguf: dense layers from %zu to %zu and from %zu to %zu do not fit an embedding of %zu", in, a->n_dense, mid,
                       a->n_out, a->n_embd);
    return SP_OK;
}

static sp_err read_lfm2(sp_arch *a, reader *r)
{
    a->state.n_chan = a->n_embd;
    return get_u(&a->state.n_tap, r, "shortconv.l_cache", 2, MAX_TAP, SIZE_MAX);
}

/* Keys are named after another kind of recurrent layers. */
static sp_err read_delta(sp_arch *a, reader *r)
{
    sp_arch_state *s = &a->state;
    size_t n_inner;
    SP_TRY(get_u(&s->n_tap, r, "ssm.conv_kernel", 2, MAX_TAP, SIZE_MAX));
    SP_TRY(get_u(&s->d_k, r, "ssm.state_size", 1, 1 << 12, SIZE_MAX));
    SP_TRY(get_u(&s->n_head_k, r, "ssm.group_count", 1, MAX_HEAD, SIZE_MAX));
    SP_TRY(get_u(&s->n_head, r, "ssm.time_step_rank", 1, MAX_HEAD, SIZE_MAX));
    SP_TRY(get_u(&n_inner, r, "ssm.inner_size", 1, MAX_EMBD, SIZE_MAX));
    s->d_v = n_inner / s->n_head;
    if (n_inner % s->n_head || s->n_head % s->n_head_k || s->d_k % 16 || s->d_v % 16)
        return SP_FAIL(r->d, SP_UNSUP, "gguf: %zu heads of values in %zu elements, %zu heads of keys of %zu: not supported", s->n_head, n_inner,
                       s->n_head_k, s->d_k);
    s->n_chan = 2 * s->n_head_k * s->d_k + n_inner;
    a->attn_gate = true;
    return SP_OK;
}

/* A state space behind a convolution. */
static sp_err read_ssm(sp_arch *a, reader *r)
{
    sp_arch_state *s = &a->state;
    size_t n_inner;
    SP_TRY(get_u(&s->n_tap, r, "ssm.conv_kernel", 2, MAX_TAP, SIZE_MAX));
    SP_TRY(get_u(&s->d_k, r, "ssm.state_size", 1, 1 << 12, SIZE_MAX));
    SP_TRY(get_u(&s->n_head_k, r, "ssm.group_count", 1, MAX_HEAD, 1));
    SP_TRY(get_u(&s->n_head, r, "ssm.time_step_rank", 1, MAX_HEAD, SIZE_MAX));
    SP_TRY(get_u(&n_inner, r, "ssm.inner_size", 1, MAX_EMBD, SIZE_MAX));
    s->d_v = n_inner / s->n_head;
    if (n_inner % s->n_head || s->n_head % s->n_head_k || s->d_k % 16 || s->d_v % 16)
        return SP_FAIL(r->d, SP_UNSUP, "gguf: %zu heads of a state space in %zu elements, %zu groups of %zu: not supported", s->n_head,
                       n_inner, s->n_head_k, s->d_k);
    s->n_chan = n_inner + 2 * s->n_head_k * s->d_k;
    return SP_OK;
}

static sp_err read_granite_hybrid(sp_arch *a, reader *r)
{
    SP_TRY(read_granite(a, r));
    return read_ssm(a, r);
}

/* Its attention does not know positions, and its experts have no gate. */
static sp_err read_nemotron(sp_arch *a, reader *r)
{
    for (size_t i = 0; i < a->n_layer; i++)
        a->layer[i].rope = SP_ROPE_OFF;
    a->plain_experts = true;
    return read_ssm(a, r);
}

static const family families[] = {
    {.name = "llama", .is = EXPERTS, .act = SP_ACT_SILU},
    {.name = "qwen2", .is = HALVES, .act = SP_ACT_SILU},
    {.name = "qwen3", .is = HALVES, .act = SP_ACT_SILU, .head_norm = SP_HEAD_NORM_EACH},
    {.name = "gemma2", .is = HALVES | POST_NORM | EMBD_SQRT, .act = SP_ACT_GELU_TANH, .full_every = 2, .window = 4096, .read = read_gemma2},
    {.name = "gemma3", .is = HALVES | POST_NORM | EMBD_SQRT | OWN_ROPE | PLAIN_ROPE, .act = SP_ACT_GELU_TANH,
     .head_norm = SP_HEAD_NORM_EACH, .full_every = 6, .read = read_gemma3},
    {.name = "gemma4", .is = HALVES | POST_NORM | EMBD_SQRT | OWN_ROPE | PLAIN_ROPE | OWN_HEADS | EXPERTS, .act = SP_ACT_GELU_TANH,
     .head_norm = SP_HEAD_NORM_EACH, .full_every = 6, .read = read_gemma4},
    {.name = "phi3", .is = HALVES, .act = SP_ACT_SILU, .full_every = ALL_LAYERS},
    {.name = "mistral3", .act = SP_ACT_SILU, .read = read_mistral3},
    {.name = "granite", .act = SP_ACT_SILU, .read = read_granite},
    {.name = "smollm3", .act = SP_ACT_SILU, .read = read_smollm3},
    {.name = "olmo2", .is = HALVES | ONLY_POST | PLAIN_ROPE, .act = SP_ACT_SILU, .head_norm = SP_HEAD_NORM_WHOLE, .full_every = 4},
    {.name = "exaone4", .is = HALVES | ONLY_POST, .act = SP_ACT_SILU, .head_norm = SP_HEAD_NORM_EACH, .full_every = 4, .read = read_exaone4},
    {.name = "ernie4_5", .act = SP_ACT_SILU},
    {.name = "hunyuan-dense", .is = HALVES, .act = SP_ACT_SILU, .head_norm = SP_HEAD_NORM_LAST},
    {.name = "qwen3moe", .is = HALVES | EXPERTS, .act = SP_ACT_SILU, .head_norm = SP_HEAD_NORM_EACH},
    {.name = "granitemoe", .is = EXPERTS, .act = SP_ACT_SILU, .read = read_granite},
    {.name = "ernie4_5-moe", .is = EXPERTS, .act = SP_ACT_SILU},
    {.name = "glm4moe", .is = HALVES | EXPERTS | AS_SCORED | LATE_NAME, .act = SP_ACT_SILU, .score = SP_SCORE_SIGMOID, .read = read_glm4},
    {.name = "lfm2", .is = HALVES | EMBD_NAME, .act = SP_ACT_SILU, .head_norm = SP_HEAD_NORM_EACH, .mix = SP_MIX_CONV, .read = read_lfm2},
    {.name = "lfm2moe", .is = HALVES | EXPERTS | EMBD_NAME, .act = SP_ACT_SILU, .head_norm = SP_HEAD_NORM_EACH, .score = SP_SCORE_SIGMOID,
     .mix = SP_MIX_CONV, .read = read_lfm2},
    {.name = "qwen35", .is = HALVES | LATE_NAME, .act = SP_ACT_SILU, .head_norm = SP_HEAD_NORM_EACH, .mix = SP_MIX_DELTA, .read = read_delta},
    {.name = "qwen35moe", .is = HALVES | LATE_NAME | EXPERTS | SHARED_GATE, .act = SP_ACT_SILU, .head_norm = SP_HEAD_NORM_EACH,
     .mix = SP_MIX_DELTA, .read = read_delta},
    {.name = "qwen3next", .is = HALVES | LATE_NAME | EXPERTS | SHARED_GATE | NEIGHBOURS, .act = SP_ACT_SILU, .head_norm = SP_HEAD_NORM_EACH,
     .mix = SP_MIX_DELTA, .read = read_delta},
    {.name = "granitehybrid", .is = EXPERTS, .act = SP_ACT_SILU, .mix = SP_MIX_SSM, .read = read_granite_hybrid},
    {.name = "nemotron_h", .is = NO_GATE | ALONE, .act = SP_ACT_RELU2, .mix = SP_MIX_SSM, .read = read_nemotron},
    {.name = "nemotron_h_moe", .is = NO_GATE | ALONE | EXPERTS, .act = SP_ACT_RELU2, .score = SP_SCORE_SIGMOID, .mix = SP_MIX_SSM,
     .read = read_nemotron},
    {.name = "falcon-h1", .is = HALVES, .act = SP_ACT_SILU, .mix = SP_MIX_BOTH, .read = read_ssm},
    {.name = "bert", .is = BOTH_WAYS | LAYER_NORM | SUM_NORM | NO_GATE | NO_ROPE, .act = SP_ACT_GELU_ERF},
    {.name = "nomic-bert", .is = BOTH_WAYS | LAYER_NORM | SUM_NORM | HALVES, .act = SP_ACT_SILU},
    {.name = "modern-bert", .is = BOTH_WAYS | LAYER_NORM | HALVES | OWN_ROPE | FULL_FIRST | BARE_FIRST, .act = SP_ACT_GELU_ERF, .full_every = 3,
     .read = read_modern},
    {.name = "gemma-embedding", .is = BOTH_WAYS | HALVES | POST_NORM | EMBD_SQRT | OWN_ROPE | PLAIN_ROPE, .act = SP_ACT_GELU_TANH,
     .head_norm = SP_HEAD_NORM_EACH, .full_every = 6, .window = 512, .read = read_dense},
    {.name = "deepseek2", .is = EXPERTS | AS_SCORED | LATENT, .act = SP_ACT_SILU, .read = read_deepseek2},
    {.name = "gpt-oss", .is = HALVES | EXPERTS | LATE_NAME | SINKS | SMOOTH_ROPE, .act = SP_ACT_CLAMPED, .score = SP_SCORE_CHOSEN,
     .full_every = 2},
};

static sp_err find_family(const family **out, const sp_gguf *g, sp_diag *d)
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
    return SP_FAIL(d, SP_UNSUP, "gguf: architecture %.*s is not supported (%s)", name.n < 40 ? (int)name.n : 40, name.p, names);
}

/* Sizes of the heads, checked against each other. */
static sp_err read_heads(sp_arch *a, const family *f, reader *r)
{
    size_t d_value, d_window, d_value_window, d_rot_window;
    bool own = f->is & OWN_HEADS; /* then read_own_heads reads the rest */
    SP_TRY(get_same_of(&a->n_head, r, "attention.head_count", a, true, MAX_HEAD, SIZE_MAX));
    if (own)
        a->n_head_kv = a->n_head;
    else
        SP_TRY(get_same_of(&a->n_head_kv, r, "attention.head_count_kv", a, true, MAX_HEAD, a->n_head));
    SP_TRY(get_u(&a->d_head, r, "attention.key_length", 1, 1 << 12, a->n_embd / a->n_head ? a->n_embd / a->n_head : 1));
    SP_TRY(get_u(&d_value, r, "attention.value_length", 1, 1 << 12, a->d_head));
    if (a->latent.n)
        d_value = d_value == a->latent.n ? a->d_head : d_value;
    SP_TRY(get_u(&a->d_rot, r, "rope.dimension_count", 2, a->d_head, a->d_head));
    SP_TRY(get_u(&d_window, r, "attention.key_length_swa", 1, 1 << 12, a->d_head));
    SP_TRY(get_u(&d_value_window, r, "attention.value_length_swa", 1, 1 << 12, a->d_head));
    SP_TRY(get_u(&d_rot_window, r, "rope.dimension_count_swa", 1, 1 << 12, a->d_rot));
    if (!own && (d_window != a->d_head || d_value_window != a->d_head || d_rot_window != a->d_rot))
        return SP_FAIL(r->d, SP_UNSUP, "gguf: heads of %zu (value %zu, rope over %zu) in layers with a window and of %zu (rope over %zu) in others: not supported",
                       d_window, d_value_window, d_rot_window, a->d_head, a->d_rot);
    if (a->n_head % a->n_head_kv || a->d_head % 16 || a->d_rot % 2 || d_value != a->d_head)
        return SP_FAIL(r->d, SP_UNSUP, "gguf: %zu heads, %zu KV heads, head of %zu (value %zu), rope over %zu: not supported", a->n_head,
                       a->n_head_kv, a->d_head, d_value, a->d_rot);
    return get_factor(&a->attn_scale, r, "attention.scale", 1.0f / sqrtf((float)a->d_head));
}

/* Latents and what is made of them. attention.key_length is that of a page's key. */
static sp_err read_latent(sp_arch *a, reader *r)
{
    sp_arch_latent *t = &a->latent;
    if (!sp_gguf_has(r->g, key_of(r, "attention.key_length_mla")))
        return SP_FAIL(r->d, SP_UNSUP, "gguf: key %s is missing: a file of before April 2025, in which the matrices of keys and values are one "
                       "(attn_kv_b); convert the model again", r->key);
    SP_TRY(get_u(&t->n, r, "attention.kv_lora_rank", 16, 1 << 12, SIZE_MAX));
    SP_TRY(get_u(&t->n_query, r, "attention.q_lora_rank", 0, MAX_EMBD, 0));
    SP_TRY(get_u(&t->d_query, r, "attention.key_length_mla", 1, 1 << 12, SIZE_MAX));
    SP_TRY(get_u(&t->d_value, r, "attention.value_length_mla", 1, 1 << 12, SIZE_MAX));
    return SP_OK;
}

/* How tokens come to experts. */
static sp_err read_route(sp_arch *a, const family *f, reader *r)
{
    sp_dev_route *t = &a->route;
    size_t score;
    SP_TRY(get_u(&t->n_expert, r, "expert_count", 0, MAX_EXPERT, 0));
    if (!t->n_expert)
        return SP_OK;
    if (!(f->is & EXPERTS))
        return SP_FAIL(r->d, SP_UNSUP, "gguf: %s with a mixture of experts (%zu) is not supported", a->name, t->n_expert);
    SP_TRY(get_u(&t->n_used, r, "expert_used_count", 1, t->n_expert, SIZE_MAX));
    SP_TRY(get_u(&score, r, "expert_gating_func", 1, SP_SCORES, f->score + 1)); /* the file counts from 1 */
    t->score = (sp_score)(score - 1);
    SP_TRY(get_bool(&t->normed, r, "expert_weights_norm", !(f->is & AS_SCORED)));
    SP_TRY(get_factor(&t->scale, r, "expert_weights_scale", 1.0f));
    SP_TRY(get_u(&t->n_group, r, "expert_group_count", 0, t->n_expert, 1));
    t->n_group = t->n_group ? t->n_group : 1;
    SP_TRY(get_u(&t->n_group_used, r, "expert_group_used_count", 0, t->n_group, t->n_group));
    t->n_group_used = t->n_group_used ? t->n_group_used : t->n_group;
    if (t->n_expert % t->n_group || t->n_used > t->n_expert / t->n_group * t->n_group_used)
        return SP_FAIL(r->d, SP_FORMAT, "gguf: %zu of %zu experts in %zu of %zu groups: cannot be", t->n_used, t->n_expert, t->n_group_used,
                       t->n_group);
    return SP_OK;
}

/* Which layers have experts, and what they have beside them. */
static sp_err read_experts(sp_arch *a, reader *r)
{
    size_t lead, step, n_shared, n_ff, same = SIZE_MAX;
    if (!a->route.n_expert)
        return SP_OK;
    if (!sp_gguf_has(r->g, key_of(r, "expert_feed_forward_length"))) /* some families have one width for both */
        SP_TRY(get_same(&same, r, "feed_forward_length", a, MAX_FF, SIZE_MAX));
    SP_TRY(get_same(&a->n_ff_expert, r, "expert_feed_forward_length", a, MAX_FF, same));
    SP_TRY(get_u(&lead, r, "leading_dense_block_count", 0, UINT32_MAX, 0));
    SP_TRY(get_u(&step, r, "interleave_moe_layer_step", 1, UINT32_MAX, 1));
    SP_TRY(get_u(&n_shared, r, "expert_shared_count", 0, MAX_EXPERT, 0));
    SP_TRY(get_u(&n_ff, r, "expert_shared_feed_forward_length", 0, MAX_FF, n_shared * a->n_ff_expert));
    for (size_t i = 0; i < a->n_layer; i++) {
        if (i < lead || (i + 1) % step)
            continue;
        a->layer[i].ffn = SP_FFN_EXPERTS;
        a->layer[i].n_ff = n_ff;
    }
    return SP_OK;
}

static sp_err read_layers(sp_arch *a, const family *f, reader *r)
{
    size_t n_guess;
    SP_TRY(get_u(&r->n_block, r, "block_count", 1, SP_MAX_LAYER, SIZE_MAX));
    SP_TRY(get_u(&n_guess, r, "nextn_predict_layers", 0, r->n_block - 1, 0));
    a->n_layer = r->n_block - n_guess;
    a->n_next = n_guess;
    SP_TRY(get_u(&a->n_ctx, r, "context_length", 1, MAX_CTX, SIZE_MAX));
    SP_TRY(get_u(&a->n_embd, r, "embedding_length", 1, MAX_EMBD, SIZE_MAX));
    SP_TRY(read_experts(a, r));
    for (size_t i = 0; i < a->n_layer; i++) {
        if (f->is & NO_GATE && a->layer[i].ffn != SP_FFN_EXPERTS)
            a->layer[i].ffn = SP_FFN_PLAIN;
        if (f->is & NO_ROPE)
            a->layer[i].rope = SP_ROPE_OFF;
        a->layer[i].is_bare = f->is & BARE_FIRST && i == 0;
        size_t n_ff = 1;
        if (a->layer[i].ffn != SP_FFN_EXPERTS || f->is & ALONE)
            SP_TRY(get_at(&n_ff, r, "feed_forward_length", i, f->is & ALONE ? 0 : 1, MAX_FF, SIZE_MAX));
        if (n_ff == 0)
            a->layer[i].ffn = SP_FFN_NONE;
        if (a->layer[i].ffn != SP_FFN_EXPERTS)
            a->layer[i].n_ff = n_ff;
        a->n_ff = a->layer[i].n_ff > a->n_ff ? a->layer[i].n_ff : a->n_ff;
    }
    return SP_OK;
}

/* Which layers attend, and which have a state instead: those without heads of keys; of some families those that a list names, or all but
 * every n-th, or all layers have both. */
static sp_err read_mix(sp_arch *a, const family *f, reader *r)
{
    bool listed = sp_gguf_has(r->g, key_of(r, "attention.recurrent_layers")), each = f->mix != SP_MIX_DELTA;
    size_t n_head = 1, last = a->n_layer, every, has_state;
    if (!each)
        SP_TRY(get_u(&every, r, "full_attention_interval", 1, UINT32_MAX, 4));
    for (size_t i = 0; i < a->n_layer; i++) {
        if (!each) {
            has_state = (i + 1) % every != 0;
            if (listed)
                SP_TRY(get_at(&has_state, r, "attention.recurrent_layers", i, 0, 1, SIZE_MAX));
            n_head = !has_state;
        } else if (f->mix != SP_MIX_ATTN) {
            SP_TRY(get_at(&n_head, r, "attention.head_count_kv", i, 0, MAX_HEAD, 1));
        }
        a->layer[i].mix = n_head && f->mix != SP_MIX_BOTH ? SP_MIX_ATTN : f->mix;
        if (f->is & ALONE && a->layer[i].ffn != SP_FFN_NONE)
            a->layer[i].mix = SP_MIX_NONE;
        last = sp_arch_attends(&a->layer[i]) ? i : last;
    }
    return last < a->n_layer ? SP_OK : SP_FAIL(r->d, SP_UNSUP, "gguf: %s without a layer of attention is not supported", a->name);
}

/* Where each layer's state lies in a sequence's. Reads what the family said of them. */
static sp_err lay_out_states(sp_arch *a, reader *r)
{
    sp_arch_state *s = &a->state;
    for (size_t i = 0; i < a->n_layer; i++) {
        if (!sp_arch_has_state(&a->layer[i]))
            continue;
        if (a->both_ways)
            return SP_FAIL(r->d, SP_UNSUP, "gguf: %s that reads texts both ways is not supported", a->name);
        s->n_number = a->layer[i].mix == SP_MIX_DELTA ? 2 * s->n_head : s->n_head;
        a->layer[i].state_at = s->n_bytes;
        s->n_bytes += sp_arch_state_bytes(a);
    }
    return SP_OK;
}

sp_err sp_arch_next(sp_arch *out, const sp_arch *a, sp_diag *d)
{
    static const char *const known[] = {"qwen35", "qwen35moe", "qwen3next", "glm4moe"};
    size_t last = a->n_layer;
    bool is_known = false;
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        is_known = is_known || strcmp(a->name, known[i]) == 0;
    if (!a->n_next || !is_known)
        return SP_FAIL(d, SP_UNSUP, "gguf: %s without a block that guesses tokens", a->name);
    while (a->layer[last - 1].mix != SP_MIX_ATTN) /* there is one: read_mix */
        last--;
    *out = *a;
    out->first = a->n_layer;
    out->n_layer = out->n_page_layer = 1;
    out->layer[0] = a->layer[last - 1];
    out->page_heads[0] = a->page_heads[a->layer[last - 1].i_page];
    out->layer[0].i_page = 0;
    out->has_own_heads = false;
    out->state = (sp_arch_state){0};
    out->n_ff = a->layer[last - 1].n_ff;
    return SP_OK;
}

bool sp_arch_attends(const sp_arch_layer *l)
{
    return l->mix == SP_MIX_ATTN || l->mix == SP_MIX_BOTH;
}

bool sp_arch_has_state(const sp_arch_layer *l)
{
    return l->mix != SP_MIX_ATTN && l->mix != SP_MIX_NONE;
}

size_t sp_arch_state_conv(const sp_arch *a)
{
    return ((a->state.n_tap - 1) * a->state.n_chan * sizeof(float) + 63) / 64 * 64;
}

size_t sp_arch_state_bytes(const sp_arch *a)
{
    const sp_arch_state *s = &a->state;
    return sp_arch_state_conv(a) + s->n_head * s->d_k * s->d_v * sizeof(float);
}

/* Families whose layers are convolutions alone gate what is mixed by two parts of the same
 * matrix. */
size_t sp_arch_kept_mix(const sp_arch *a)
{
    return a->state.n_head ? a->state.n_chan : 3 * a->n_embd;
}

size_t sp_arch_kept_beside(const sp_arch *a)
{
    return a->state.n_number;
}

size_t sp_arch_kept_bytes(const sp_arch *a)
{
    size_t n = a->state.n_bytes ? a->state.n_bytes / sp_arch_state_bytes(a) : 0;
    return n * (SP_KV_GUESS_TOK - 1) * (sp_arch_kept_mix(a) + sp_arch_kept_beside(a)) *
           sizeof(float);
}

/* A key may be there with the value that changes nothing. */
static bool is_nothing(const sp_gguf *g, const char *key)
{
    uint64_t u;
    float f;
    bool b;
    return (sp_gguf_u64(&u, g, key, 0, UINT64_MAX, NULL) == SP_OK && u == 0) || (sp_gguf_f32(&f, g, key, NULL) == SP_OK && f == 0) ||
           (sp_gguf_bool(&b, g, key, NULL) == SP_OK && !b);
}

static sp_err check_telling(reader *r)
{
    for (size_t i = 0; i < TELLING; i++) {
        bool was_asked = r->asked & 1u << i;
        if (!was_asked && sp_gguf_has(r->g, key_of(r, telling[i])) && !is_nothing(r->g, r->key))
            return SP_FAIL(r->d, SP_UNSUP, "gguf: key %s is not supported in this architecture", r->key);
    }
    return SP_OK;
}

/* Which tokens see which, and what becomes of their states. */
static sp_err read_reading(sp_arch *a, const family *f, reader *r)
{
    bool is_causal;
    size_t pooling;
    SP_TRY(get_bool(&is_causal, r, "attention.causal", !(f->is & BOTH_WAYS)));
    SP_TRY(get_u(&pooling, r, "pooling_type", 0, SP_POOLINGS - 1, SP_POOL_NONE));
    a->both_ways = !is_causal;
    a->pooling = a->both_ways && !pooling ? SP_POOL_MEAN : (sp_pooling)pooling;
    return SP_OK;
}

sp_err sp_arch_read(sp_arch *out, const sp_gguf *g, sp_diag *d)
{
    const family *f;
    SP_TRY(find_family(&f, g, d));
    reader r = {.g = g, .arch = f->name, .d = d};
    sp_arch *a = out;
    memset(a, 0, sizeof *a);
    a->name = f->name;
    a->act = f->act;
    a->head_norm = f->head_norm;
    a->rope_halves = f->is & HALVES;
    a->pre_norm = !(f->is & (ONLY_POST | SUM_NORM));
    a->layer_norm = a->embd_norm = f->is & LAYER_NORM;
    a->sum_norm = f->is & SUM_NORM;
    a->final_norm = !a->sum_norm;
    a->learned_pos = f->is & NO_ROPE;
    a->post_norm = f->is & (ONLY_POST | POST_NORM);
    a->branch_scale = a->logit_scale = a->embd_scale = 1;
    a->late_name = f->is & LATE_NAME;
    a->embd_name = f->is & EMBD_NAME;
    a->shared_gate = f->is & SHARED_GATE;
    a->state.neighbours = a->state.joined = f->is & NEIGHBOURS;
    a->sinks = f->is & SINKS;
    SP_TRY(read_route(a, f, &r));
    SP_TRY(read_layers(a, f, &r));
    if (f->is & LATENT)
        SP_TRY(read_latent(a, &r));
    SP_TRY(read_mix(a, f, &r));
    SP_TRY(read_heads(a, f, &r));
    if (f->is & EMBD_SQRT)
        a->embd_scale = sqrtf((float)a->n_embd);
    SP_TRY(get_f(&a->norm_eps, &r, a->layer_norm ? "attention.layer_norm_epsilon" : "attention.layer_norm_rms_epsilon", 1e-5f));
    if (!(a->norm_eps >= 0))
        return SP_FAIL(d, SP_FORMAT, "gguf: key %s is %g", r.key, (double)a->norm_eps);
    SP_TRY(read_reading(a, f, &r));
    SP_TRY(read_rope(a, f, &r));
    SP_TRY(read_windows(a, f, &r));
    SP_TRY(read_own_heads(a, f, &r));
    SP_TRY(lay_out_pages(a, 0, &r));
    if (f->read)
        SP_TRY(f->read(a, &r));
    SP_TRY(lay_out_states(a, &r));
    return check_telling(&r);
}

bool sp_arch_is_encoder(const sp_arch *a)
{
    return a->pooling != SP_POOL_NONE;
}

size_t sp_arch_dim(const sp_arch *a)
{
    return a->n_out ? a->n_out : a->n_embd;
}

const char *sp_pooling_name(sp_pooling p)
{
    static const char *const names[SP_POOLINGS] = {"none", "mean", "cls", "last", "rank"};
    return names[p];
}

/* Pair index at which YaRN's wave makes `turns` turns over the trained context. */
static double yarn_pair(const sp_arch_rope *p, double turns)
{
    const double pi = 3.14159265358979323846;
    return (double)p->d_rot * log((double)p->ctx / (turns * 2 * pi)) / (2 * log((double)p->base));
}

void sp_arch_rope_table(const sp_arch *a, sp_rope_of which, const float *factors, float *freq, float *scale)
{
    const sp_arch_rope *p = &a->rope[which];
    size_t half = p->d_rot / 2;
    double lo = 0, hi = 0;
    *scale = p->attn;
    if (p->scaling == SP_ROPE_YARN) {
        double grow = 0.1 * log((double)p->factor);
        lo = yarn_pair(p, (double)p->beta_fast);
        hi = yarn_pair(p, (double)p->beta_slow);
        lo = fmax(p->is_smooth ? lo : floor(lo), 0);
        hi = fmin(p->is_smooth ? hi : ceil(hi), (double)p->d_rot - 1);
        hi = hi == lo ? lo + 0.001 : hi;
        *scale = p->attn * (float)((1.0 + grow) / (1.0 + (double)p->log_mul * grow));
    }
    for (size_t i = 0; i < half; i++) {
        double f = pow((double)p->base, -2.0 * (double)i / (double)p->d_rot);
        if (factors)
            f /= (double)factors[i];
        double slow = f / (double)p->factor;
        if (p->scaling == SP_ROPE_LINEAR) {
            f = slow;
        } else if (p->scaling == SP_ROPE_YARN) {
            double keep = 1.0 - fmin(fmax(((double)i - lo) / (hi - lo), 0), 1);
            f = slow * (1 - keep) + f * keep;
        }
        freq[i] = (float)f;
    }
}
