/* Rotary positions: their keys, and the table of frequencies. */
#include "model/arch_int.h"

#include <math.h>
#include <string.h>

static sp_err read_scaling(sp_arch_rope *p, sp_arch_reader *r)
{
    static const struct {
        const char *name;
        sp_rope_scaling is;
    } kinds[] = {{"none", SP_ROPE_NONE},
                 {"linear", SP_ROPE_LINEAR},
                 {"yarn", SP_ROPE_YARN},
                 {"longrope", SP_ROPE_LONG}};
    sp_str kind = {"linear", 6};
    sp_err err = sp_gguf_str(&kind, r->g, sp_arch_key(r, "rope.scaling.type"), r->d);
    if (err != SP_OK && err != SP_NOTFOUND)
        return err;
    for (size_t i = 0; i < sizeof kinds / sizeof kinds[0]; i++) {
        if (strlen(kinds[i].name) == kind.n && memcmp(kinds[i].name, kind.p, kind.n) == 0) {
            p->scaling = kinds[i].is;
            return SP_OK;
        }
    }
    return SP_FAIL(r->d, SP_UNSUP, "gguf: rope.scaling.type %.*s is not supported",
                   kind.n < 40 ? (int)kind.n : 40, kind.p);
}

sp_err sp_arch_read_rope(sp_arch *a, const sp_family *f, sp_arch_reader *r)
{
    sp_arch_rope *p = &a->rope[SP_ROPE_FULL], *w = &a->rope[SP_ROPE_WINDOW];
    float old, ext;
    p->d_rot = a->d_rot;
    SP_TRY(read_scaling(p, r));
    SP_TRY(sp_arch_f(&p->base, r, "rope.freq_base", 10000.0f));
    SP_TRY(sp_arch_f(&old, r, "rope.scale_linear", 0));
    SP_TRY(sp_arch_f(&p->factor, r, "rope.scaling.factor",
                     old)); /* the older key counts where the newer is absent; 0 is none */
    p->factor = p->factor == 0 ? 1 : p->factor;
    SP_TRY(sp_arch_f(&p->attn, r, "rope.scaling.attn_factor", 1.0f));
    SP_TRY(sp_arch_f(&p->beta_fast, r, "rope.scaling.yarn_beta_fast", 32.0f));
    SP_TRY(sp_arch_f(&p->beta_slow, r, "rope.scaling.yarn_beta_slow", 1.0f));
    SP_TRY(sp_arch_f(&p->log_mul, r, "rope.scaling.yarn_log_multiplier", 0));
    SP_TRY(sp_arch_f(&ext, r, "rope.scaling.yarn_ext_factor", 1.0f));
    SP_TRY(sp_arch_u(&p->ctx, r, "rope.scaling.original_context_length", 1, MAX_CTX, a->n_ctx));
    p->is_smooth = f->is & SMOOTH_ROPE;
    *w = *p;
    if (f->is & PLAIN_ROPE)
        *w = (sp_arch_rope){.scaling = SP_ROPE_NONE,
                            .is_plain = true,
                            .d_rot = p->d_rot,
                            .factor = 1,
                            .attn = 1,
                            .ctx = p->ctx};
    SP_TRY(sp_arch_f(&w->base, r, "rope.freq_base_swa", f->is & OWN_ROPE ? 10000.0f : p->base));
    if (!(p->base >= 1.0f) || !(w->base >= 1.0f) || !(p->factor > 0) || !(p->attn > 0) ||
        !(p->log_mul >= 0) || !(p->beta_slow > 0) || !(p->beta_fast > p->beta_slow))
        return SP_FAIL(r->d, SP_FORMAT,
                       "gguf: rope base %g and %g, factor %g, attn_factor %g, beta %g and %g, "
                       "multiplier %g: out of range",
                       (double)p->base, (double)w->base, (double)p->factor, (double)p->attn,
                       (double)p->beta_fast, (double)p->beta_slow, (double)p->log_mul);
    if (p->scaling == SP_ROPE_YARN && ext != 1.0f)
        return SP_FAIL(r->d, SP_UNSUP, "gguf: rope.scaling.yarn_ext_factor %g is not supported",
                       (double)ext);
    return SP_OK;
}

/* Pair index at which YaRN's wave makes `turns` turns over the trained context. */
static double yarn_pair(const sp_arch_rope *p, double turns)
{
    const double pi = 3.14159265358979323846;
    return (double)p->d_rot * log((double)p->ctx / (turns * 2 * pi)) / (2 * log((double)p->base));
}

void sp_arch_rope_table(const sp_arch *a, sp_rope_of which, const float *factors, float *freq,
                        float *scale)
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
