#include "model/arch.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_LAYER = 512, MAX_EMBD = 1 << 16, MAX_HEAD = 1024, MAX_CTX = 1 << 24, MAX_VOCAB = 1 << 22 };

typedef struct reader {
    const sp_gguf *g;
    const char *arch;
    sp_diag *d;
    char key[128];
} reader;

static const char *key_of(reader *r, const char *tail)
{
    snprintf(r->key, sizeof r->key, "%s.%s", r->arch, tail);
    return r->key;
}

/* fallback 0: the key is required. */
static sp_err get_u(size_t *out, reader *r, const char *tail, uint64_t min, uint64_t max, size_t fallback)
{
    uint64_t v;
    sp_err err = sp_gguf_u64(&v, r->g, key_of(r, tail), min, max, r->d);
    if (err == SP_NOTFOUND && fallback) {
        *out = fallback;
        return SP_OK;
    }
    if (err == SP_NOTFOUND)
        return SP_FAIL(r->d, SP_FORMAT, "gguf: key %s is missing", r->key);
    if (err == SP_OK)
        *out = (size_t)v;
    return err;
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

/* As llama.cpp reads it: the older key scale_linear counts where scaling.factor is absent, and a factor of 0 is none. */
static sp_err read_rope_factor(sp_arch *a, reader *r)
{
    float old;
    SP_TRY(get_f(&old, r, "rope.scale_linear", 0));
    SP_TRY(get_f(&a->rope_factor, r, "rope.scaling.factor", old));
    if (a->rope_factor == 0)
        a->rope_factor = 1;
    return SP_OK;
}

/* A factor without a type scales linearly, also as llama.cpp reads it. */
static sp_err read_rope(sp_arch *a, reader *r)
{
    sp_str kind;
    SP_TRY(get_f(&a->rope_base, r, "rope.freq_base", 10000.0f));
    SP_TRY(read_rope_factor(a, r));
    SP_TRY(get_f(&a->rope_attn, r, "rope.scaling.attn_factor", 1.0f));
    SP_TRY(get_u(&a->rope_ctx, r, "rope.scaling.original_context_length", 1, MAX_CTX, a->n_ctx));
    sp_err err = sp_gguf_str(&kind, r->g, key_of(r, "rope.scaling.type"), r->d);
    if (err != SP_OK && err != SP_NOTFOUND)
        return err;
    if (err == SP_NOTFOUND)
        a->rope_scaling = a->rope_factor == 1 ? SP_ROPE_NONE : SP_ROPE_LINEAR;
    else if (kind.n == 4 && memcmp(kind.p, "none", 4) == 0)
        a->rope_scaling = SP_ROPE_NONE;
    else if (kind.n == 6 && memcmp(kind.p, "linear", 6) == 0)
        a->rope_scaling = SP_ROPE_LINEAR;
    else if (kind.n == 4 && memcmp(kind.p, "yarn", 4) == 0)
        a->rope_scaling = SP_ROPE_YARN;
    else
        return SP_FAIL(r->d, SP_UNSUP, "gguf: rope.scaling.type %.*s is not supported", (int)kind.n, kind.p);
    if (!(a->rope_base >= 1.0f) || !(a->rope_factor > 0) || !(a->rope_attn > 0))
        return SP_FAIL(r->d, SP_FORMAT, "gguf: rope base %g, factor %g, attn_factor %g: out of range",
                       (double)a->rope_base, (double)a->rope_factor, (double)a->rope_attn);
    return SP_OK;
}

sp_err sp_arch_read(sp_arch *out, const sp_gguf *g, sp_diag *d)
{
    static const char *const known[] = {"llama"};
    sp_str name;
    sp_err err = sp_gguf_str(&name, g, "general.architecture", d);
    if (err == SP_NOTFOUND)
        return SP_FAIL(d, SP_FORMAT, "gguf: key general.architecture is missing");
    SP_TRY(err);
    sp_arch a = {0};
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strlen(known[i]) == name.n && memcmp(known[i], name.p, name.n) == 0)
            a.name = known[i];
    if (!a.name)
        return SP_FAIL(d, SP_UNSUP, "gguf: architecture %.*s is not supported (llama is)",
                       name.n < 40 ? (int)name.n : 40, name.p);
    reader r = {.g = g, .arch = a.name, .d = d};
    size_t n_expert; /* absent or 0: a dense model */
    SP_TRY(get_u(&n_expert, &r, "expert_count", 0, UINT32_MAX, SIZE_MAX));
    if (n_expert != SIZE_MAX && n_expert != 0)
        return SP_FAIL(d, SP_UNSUP, "gguf: mixture of experts (%zu) is not supported", n_expert);
    SP_TRY(get_u(&a.n_layer, &r, "block_count", 1, MAX_LAYER, 0));
    SP_TRY(get_u(&a.n_ctx, &r, "context_length", 1, MAX_CTX, 0));
    SP_TRY(get_u(&a.n_embd, &r, "embedding_length", 1, MAX_EMBD, 0));
    SP_TRY(get_u(&a.n_ff, &r, "feed_forward_length", 1, 1 << 20, 0));
    SP_TRY(get_u(&a.n_head, &r, "attention.head_count", 1, MAX_HEAD, 0));
    SP_TRY(get_u(&a.n_head_kv, &r, "attention.head_count_kv", 1, MAX_HEAD, a.n_head));
    SP_TRY(get_u(&a.d_head, &r, "attention.key_length", 1, 1 << 12,
                 a.n_embd / a.n_head ? a.n_embd / a.n_head : 1));
    SP_TRY(get_u(&a.d_rot, &r, "rope.dimension_count", 2, a.d_head, a.d_head));
    SP_TRY(get_f(&a.norm_eps, &r, "attention.layer_norm_rms_epsilon", 1e-5f));
    SP_TRY(read_rope(&a, &r));
    size_t d_value;
    SP_TRY(get_u(&d_value, &r, "attention.value_length", 1, 1 << 12, a.d_head));
    if (a.n_head % a.n_head_kv || a.d_head % 16 || a.d_rot % 2 || d_value != a.d_head ||
        !(a.norm_eps >= 0))
        return SP_FAIL(d, SP_UNSUP,
                       "gguf: %zu heads, %zu KV heads, head of %zu (value %zu), rope over %zu: not supported",
                       a.n_head, a.n_head_kv, a.d_head, d_value, a.d_rot);
    *out = a;
    return SP_OK;
}

/* Pair index at which YaRN's wave makes `turns` turns over the trained context. */
static double yarn_pair(const sp_arch *a, double turns)
{
    const double pi = 3.14159265358979323846;
    return (double)a->d_rot * log((double)a->rope_ctx / (turns * 2 * pi)) / (2 * log((double)a->rope_base));
}

void sp_arch_rope(const sp_arch *a, const float *factors, float *freq, float *scale)
{
    size_t half = a->d_rot / 2;
    double lo = 0, hi = 0;
    *scale = a->rope_attn; /* 1 unless the file says otherwise; it counts for every kind of scaling */
    if (a->rope_scaling == SP_ROPE_YARN) { /* beta_fast 32 and beta_slow 1, as published */
        lo = fmax(floor(yarn_pair(a, 32)), 0);
        hi = fmin(ceil(yarn_pair(a, 1)), (double)a->d_rot - 1);
        hi = hi == lo ? lo + 0.001 : hi;
        *scale = a->rope_attn * (float)(1.0 + 0.1 * log((double)a->rope_factor));
    }
    for (size_t i = 0; i < half; i++) {
        double f = pow((double)a->rope_base, -2.0 * (double)i / (double)a->d_rot);
        if (factors)
            f /= (double)factors[i];
        double slow = f / (double)a->rope_factor;
        if (a->rope_scaling == SP_ROPE_LINEAR) {
            f = slow;
        } else if (a->rope_scaling == SP_ROPE_YARN) {
            double keep = 1.0 - fmin(fmax(((double)i - lo) / (hi - lo), 0), 1);
            f = slow * (1 - keep) + f * keep;
        }
        freq[i] = (float)f;
    }
}
