#include "gen/policy.h"

#include "base/rng.h"

#include <math.h>
#include <string.h>

static const char MAGIC[] = "sparing policy 1\n";
static const float GO_BIAS = 3; /* at the start every other act has a probability of about 5 % */

static size_t n_weight(void)
{
    return sizeof(sp_policy) / sizeof(float) - SP_POLICY_ORIGIN / sizeof(float);
}

const char *sp_policy_name(sp_policy_act act)
{
    static const char *const name[SP_POLICY_ACTS] = {"go", "penalise", "prune", "stop", "answer"};
    return name[act];
}

static float draw(sp_rng *rng)
{
    return (float)(sp_rng_unit(rng) - 0.5);
}

void sp_policy_start(sp_policy *p, uint64_t seed)
{
    sp_rng rng;
    sp_rng_init(&rng, seed);
    *p = (sp_policy){0};
    for (size_t i = 0; i < SP_POLICY_MID; i++)
        for (size_t k = 0; k < SP_POLICY_IN; k++)
            p->in[i][k] = draw(&rng);
    for (size_t a = 0; a < SP_POLICY_ACTS; a++)
        for (size_t i = 0; i < SP_POLICY_MID; i++)
            p->out[a][i] = 0.2f * draw(&rng);
    p->out_bias[SP_ACT_GO] = GO_BIAS;
}

bool sp_policy_is_for(const sp_policy *p, const char *model)
{
    static const char key[] = "{\"model\":";
    sp_buf name = {0};
    size_t n = sizeof key - 1;
    sp_buf_json_str(&name, model, strlen(model));
    bool same = !name.failed && strncmp(p->origin, key, n) == 0 &&
                strncmp(p->origin + n, name.p, name.len) == 0;
    sp_buf_fini(&name);
    return same;
}

sp_err sp_policy_open(sp_policy *out, const char *p, size_t n, sp_diag *d)
{
    sp_policy x = {0};
    size_t magic = sizeof MAGIC - 1, n_byte = n_weight() * sizeof(float);
    const char *line = p + magic;
    if (n < magic || memcmp(p, MAGIC, magic) != 0)
        return SP_FAIL(d, SP_FORMAT, "not a policy of this version");
    const char *end = memchr(line, '\n', n - magic);
    if (!end || (size_t)(end - line) >= SP_POLICY_ORIGIN)
        return SP_FAIL(d, SP_FORMAT, "policy: its second line has no end, or is too long");
    if (n - (size_t)(end + 1 - p) != n_byte)
        return SP_FAIL(d, SP_FORMAT, "policy: %zu bytes of weights, expected %zu",
                       n - (size_t)(end + 1 - p), n_byte);
    memcpy(&x, end + 1, n_byte);
    memcpy(x.origin, line, (size_t)(end - line));
    const float *w = &x.in[0][0];
    for (size_t i = 0; i < n_weight(); i++)
        if (!isfinite(w[i]) || fabsf(w[i]) > 1e6f)
            return SP_FAIL(d, SP_FORMAT, "policy: weight %zu is out of range", i);
    *out = x;
    return SP_OK;
}

void sp_policy_write(sp_buf *out, const sp_policy *p)
{
    sp_buf_puts(out, MAGIC);
    sp_buf_puts(out, p->origin);
    sp_buf_putc(out, '\n');
    sp_buf_put(out, p, n_weight() * sizeof(float));
}

void sp_policy_run(const sp_policy *p, double prob[SP_POLICY_ACTS], float mid[SP_POLICY_MID],
                   const float x[SP_POLICY_IN], unsigned may)
{
    float h[SP_POLICY_MID];
    double most = -INFINITY, sum = 0;
    for (size_t i = 0; i < SP_POLICY_MID; i++) {
        float z = p->in_bias[i];
        for (size_t k = 0; k < SP_POLICY_IN; k++)
            z += p->in[i][k] * x[k];
        h[i] = tanhf(z);
    }
    for (size_t a = 0; a < SP_POLICY_ACTS; a++) {
        double z = (double)p->out_bias[a];
        for (size_t i = 0; i < SP_POLICY_MID; i++)
            z += (double)(p->out[a][i] * h[i]);
        prob[a] = z;
        most = may & 1u << a && z > most ? z : most;
    }
    for (size_t a = 0; a < SP_POLICY_ACTS; a++) {
        prob[a] = may & 1u << a ? exp(prob[a] - most) : 0;
        sum += prob[a];
    }
    for (size_t a = 0; a < SP_POLICY_ACTS; a++)
        prob[a] /= sum;
    if (mid)
        memcpy(mid, h, sizeof h);
}
