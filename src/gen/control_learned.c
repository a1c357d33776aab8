/* The learned rule: what is known of the answer goes through a policy (policy.h) at the first end
 * of a sentence behind EVERY tokens, and behind MOST tokens at the latest. What it says is done by
 * the controller that prunes, with its protections (control_rules.c). */
#include "gen/control_int.h"

#include "base/mem.h"
#include "gen/prose.h"

#include <math.h>
#include <string.h>

enum {
    EVERY = 16,
    MOST = 32,
    SEE_EVERY = 4,
    LOOKS = 4,
    NEWEST = 32,
    BACK = 256,
    RUN = 3,
    STEPS = 4096
};

struct sp_learned {
    sp_window_look late[LOOKS]; /* a ring */
    size_t n_late, n_seen, n_last; /* looks, tokens, and tokens at the last decision */
    sp_rng rng;
    sp_buf steps; /* sp_policy_step, where the session traces */
};

sp_err sp_learned_new(sp_learned **out, const sp_session_cfg *cfg)
{
    SP_ASSERT(cfg->policy);
    *out = sp_mem_alloc(sizeof **out);
    if (!*out)
        return SP_NOMEM;
    sp_rng_init(&(*out)->rng, cfg->sample.seed ^ 0x706f6c696379u);
    return SP_OK;
}

void sp_learned_free(sp_learned *l)
{
    if (!l)
        return;
    sp_buf_fini(&l->steps);
    sp_mem_free(l);
}

void sp_learned_see(sp_learned *l, const float *logits, size_t n_vocab)
{
    if (l && l->n_seen++ % SEE_EVERY == 0)
        sp_window_measure(&l->late[l->n_late++ % LOOKS], logits, n_vocab);
}

/* Share of the newest runs of three tokens that stood before. */
static float repeated(const sp_ids *ids)
{
    size_t n = ids->n, n_run = n > NEWEST ? NEWEST : n > RUN ? n - RUN : 0, again = 0;
    for (size_t i = 0; i < n_run; i++) {
        const uint32_t *at = ids->id + n - RUN - i;
        size_t back = n - RUN - i < BACK ? n - RUN - i : BACK;
        bool found = false;
        for (size_t k = 1; k <= back && !found; k++)
            found = memcmp(at - k, at, RUN * sizeof *at) == 0;
        again += found;
    }
    return n_run ? (float)again / (float)n_run : 0;
}

static float cap(double x, double most)
{
    return (float)(x < most ? x : most);
}

static void measure(float x[SP_POLICY_IN], const sp_control *c, const sp_rules_facts *f,
                    size_t n_out, bool at_end)
{
    const sp_learned *l = c->learned;
    size_t n = l->n_late < LOOKS ? l->n_late : LOOKS;
    sp_window_look sum = {0};
    for (size_t i = 0; i < n; i++) {
        sum.entropy += l->late[i].entropy / (float)n;
        sum.margin += l->late[i].margin / (float)n;
        sum.logprob += l->late[i].logprob / (float)n;
    }
    const float known[] = {sum.entropy / 2,
                           cap((double)sum.margin / 5, 2),
                           sum.logprob,
                           (float)n_out / (float)c->cfg->max_tok,
                           (float)log(1 + (double)n_out) / 8,
                           c->thinking,
                           cap((double)c->n_thought / (1 + (double)c->cfg->think_tok), 1),
                           (float)log(1 + (double)c->n_thought) / 8,
                           cap((double)f->n_same, 4) / 2,
                           cap((double)f->n_conclusion, 6) / 3,
                           cap(f->loops, 4) / 2,
                           repeated(f->ids),
                           f->overlap,
                           at_end,
                           cap((double)f->n_again, 3)};
    _Static_assert(sizeof known / sizeof *known + SP_CLASSES == SP_POLICY_IN,
                   "what the policy looks at");
    memcpy(x, known, sizeof known);
    for (size_t k = 0; k < SP_CLASSES; k++)
        x[sizeof known / sizeof *known + k] = c->cfg->judged && c->cfg->cls == k;
}

/* The likeliest act; of a session that traces one that is drawn. */
static sp_policy_act choose(sp_learned *l, const double p[SP_POLICY_ACTS], bool draws)
{
    size_t best = SP_ACT_GO;
    double left = draws ? sp_rng_unit(&l->rng) : 0;
    for (size_t a = 0; a < SP_POLICY_ACTS; a++) {
        if (draws && left >= 0 && p[a] > 0)
            best = a;
        if (!draws && p[a] > p[best])
            best = a;
        left -= p[a];
        if (draws && left < 0)
            break;
    }
    return (sp_policy_act)best;
}

sp_err sp_learned_decide(sp_control *c, const sp_rules_facts *f, size_t n_out, bool at_end,
                         sp_policy_act *act)
{
    sp_learned *l = c->learned;
    sp_policy_step s = {0};
    double p[SP_POLICY_ACTS];
    *act = SP_ACT_GO;
    if (n_out < l->n_last + (at_end ? EVERY : MOST))
        return SP_OK;
    l->n_last = n_out;
    measure(s.x, c, f, n_out, at_end);
    s.may = c->thinking ? 1 << SP_ACT_GO | 1 << SP_ACT_ANSWER
            : f->is_plain
                ? 1 << SP_ACT_GO | 1 << SP_ACT_PENALISE | 1 << SP_ACT_PRUNE | 1 << SP_ACT_STOP
                : 1 << SP_ACT_GO;
    sp_policy_run(c->cfg->policy, p, NULL, s.x, s.may);
    *act = choose(l, p, c->cfg->traces);
    s.act = (uint8_t)*act;
    if (c->cfg->traces && l->steps.len < STEPS * sizeof s)
        sp_buf_put(&l->steps, &s, sizeof s);
    return l->steps.failed ? SP_NOMEM : SP_OK;
}

const sp_buf *sp_control_steps(const sp_control *c)
{
    return c->learned ? &c->learned->steps : NULL;
}
