/* Reading a file's hyper-parameters: the keys that begin with the architecture's name. */
#include "model/arch_int.h"

#include <stdio.h>
#include <string.h>

/* Keys that change the arithmetic. Where a file has one that nothing reads, its answers would be
 * wrong without a word. */
static const char *const telling[] = {
    "attention.clamp_kqv", "attention.max_alibi_bias", "attention.temperature_scale",
    "attention.key_length_swa", "attention.value_length_swa", "attention.shared_kv_layers",
    "attn_logit_softcapping", "final_logit_softcapping", "embedding_scale", "residual_scale",
    "logit_scale", "rope.dimension_count_swa", "use_parallel_residual",
    "embedding_length_per_layer_input", "full_attention_interval", "ssm.state_size",
    "shortconv.l_cache", "ssm.conv_kernel", "moe_latent_size"};
enum { TELLING = sizeof telling / sizeof telling[0] };

const char *sp_arch_key(sp_arch_reader *r, const char *tail)
{
    for (size_t i = 0; i < TELLING; i++)
        if (strcmp(telling[i], tail) == 0)
            r->asked |= 1u << i;
    snprintf(r->key, sizeof r->key, "%s.%s", r->arch, tail);
    return r->key;
}

/* SP_NOTFOUND becomes the fallback; SIZE_MAX: the key is required. */
static sp_err or_else(size_t *out, sp_arch_reader *r, sp_err err, uint64_t v, size_t fallback)
{
    if (err == SP_NOTFOUND && fallback == SIZE_MAX)
        return SP_FAIL(r->d, SP_FORMAT, "gguf: key %s is missing", r->key);
    if (err == SP_OK || err == SP_NOTFOUND)
        *out = err == SP_OK ? (size_t)v : fallback;
    return err == SP_NOTFOUND ? SP_OK : err;
}

sp_err sp_arch_u(size_t *out, sp_arch_reader *r, const char *tail, uint64_t min, uint64_t max,
                 size_t fallback)
{
    uint64_t v = 0;
    sp_err err = sp_gguf_u64(&v, r->g, sp_arch_key(r, tail), min, max, r->d);
    return or_else(out, r, err, v, fallback);
}

sp_err sp_arch_at(size_t *out, sp_arch_reader *r, const char *tail, size_t i, uint64_t min,
                  uint64_t max, size_t fallback)
{
    uint64_t v = 0;
    sp_err err = sp_gguf_u64_at(&v, r->g, sp_arch_key(r, tail), i, r->n_block, min, max, r->d);
    return or_else(out, r, err, v, fallback);
}

/* attending: for the layers with attention only. */
static sp_err same_of(size_t *out, sp_arch_reader *r, const char *tail, const sp_arch *a,
                      bool attending, uint64_t max, size_t fallback)
{
    size_t first = 0, v = 0;
    for (size_t i = 0; i < a->n_layer; i++) {
        if (attending && !sp_arch_attends(&a->layer[i]))
            continue;
        SP_TRY(sp_arch_at(&v, r, tail, i, 1, max, fallback));
        if (first && v != first)
            return SP_FAIL(r->d, SP_UNSUP,
                           "gguf: key %s differs between layers (%zu, %zu): not supported", r->key,
                           first, v);
        first = v;
    }
    *out = first;
    return SP_OK;
}

sp_err sp_arch_same(size_t *out, sp_arch_reader *r, const char *tail, const sp_arch *a,
                    uint64_t max, size_t fallback)
{
    return same_of(out, r, tail, a, false, max, fallback);
}

sp_err sp_arch_same_attending(size_t *out, sp_arch_reader *r, const char *tail, const sp_arch *a,
                              uint64_t max, size_t fallback)
{
    return same_of(out, r, tail, a, true, max, fallback);
}

sp_err sp_arch_f(float *out, sp_arch_reader *r, const char *tail, float fallback)
{
    sp_err err = sp_gguf_f32(out, r->g, sp_arch_key(r, tail), r->d);
    if (err == SP_NOTFOUND) {
        *out = fallback;
        return SP_OK;
    }
    return err;
}

sp_err sp_arch_factor(float *out, sp_arch_reader *r, const char *tail, float fallback)
{
    float v;
    SP_TRY(sp_arch_f(&v, r, tail, fallback));
    if (!(v >= 0))
        return SP_FAIL(r->d, SP_FORMAT, "gguf: key %s is %g", r->key, (double)v);
    *out = v > 0 ? v : fallback;
    return SP_OK;
}

sp_err sp_arch_bool(bool *out, sp_arch_reader *r, const char *tail, bool fallback)
{
    sp_err err = sp_gguf_bool(out, r->g, sp_arch_key(r, tail), r->d);
    if (err == SP_NOTFOUND) {
        *out = fallback;
        return SP_OK;
    }
    return err;
}

/* A key may be there with the value that changes nothing. */
static bool is_nothing(const sp_gguf *g, const char *key)
{
    uint64_t u;
    float f;
    bool b;
    return (sp_gguf_u64(&u, g, key, 0, UINT64_MAX, NULL) == SP_OK && u == 0) ||
           (sp_gguf_f32(&f, g, key, NULL) == SP_OK && f == 0) ||
           (sp_gguf_bool(&b, g, key, NULL) == SP_OK && !b);
}

sp_err sp_arch_check_keys(sp_arch_reader *r)
{
    for (size_t i = 0; i < TELLING; i++) {
        bool was_asked = r->asked & 1u << i;
        if (!was_asked && sp_gguf_has(r->g, sp_arch_key(r, telling[i])) &&
            !is_nothing(r->g, r->key))
            return SP_FAIL(r->d, SP_UNSUP, "gguf: key %s is not supported in this architecture",
                           r->key);
    }
    return SP_OK;
}
