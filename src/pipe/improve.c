#include "pipe/improve.h"

#include <math.h>
#include <string.h>

enum {
    STOP_AFTER = 20, /* prompts after which a try that is proven worse is dropped */
    SMALL = 50       /* one failure in so many answers is worth a try */
};

/* --- what is tried ---------------------------------------------------------------------------- */

typedef struct list {
    sp_proposal *out;
    size_t n, cap;
    const sp_knobs *now;
} list;

/* Nothing happens where the knob stands at its end already, or the list is full. */
static void add(list *l, sp_knob knob, double to, const char *why)
{
    to = sp_knob_near(knob, to);
    if (l->n == l->cap || fabs(to - l->now->v[knob]) < 1e-9)
        return;
    for (size_t i = 0; i < l->n; i++)
        if (l->out[i].knob == knob && fabs(l->out[i].to - to) < 1e-9)
            return;
    sp_proposal *p = &l->out[l->n++];
    *p = (sp_proposal){knob, l->now->v[knob], to, why, *l->now};
    p->knobs.v[knob] = to;
    p->knobs.set[knob] = true;
}

static void add_trained(list *l, sp_knob knob, unsigned number)
{
    if (number)
        add(l, knob, number, "it was trained on this site's prompts");
}

static void mend(list *l, const sp_failures *f, const sp_improve_has *has)
{
    const sp_knobs *k = l->now;
    size_t least = f->n / SMALL + 1;
    if (f->truncated >= least)
        add(l, SP_KNOB_LIGHT_TOKENS, 2 * k->v[SP_KNOB_LIGHT_TOKENS],
            "answers were ended by their limit of tokens");
    if (f->not_found >= least && has->passages) {
        add(l, SP_KNOB_NEED_FROM, k->v[SP_KNOB_NEED_FROM] - 0.1, "searches found no passage");
        add(l, SP_KNOB_PASSAGES, k->v[SP_KNOB_PASSAGES] + 2, "searches found no passage");
    }
    if (f->unsure + f->escalated >= least && has->judge && has->escalates) {
        add(l, SP_KNOB_FULL_FROM, k->v[SP_KNOB_FULL_FROM] - 0.1,
            "light answers were given up or became unsure");
        add(l, SP_KNOB_ESCALATE, k->v[SP_KNOB_ESCALATE] + 0.2,
            "light answers were given up or became unsure");
    }
    if (f->bad >= least) {
        for (size_t i = 1; i <= 2 && has->judge; i++)
            add(l, SP_KNOB_FULL_FROM, k->v[SP_KNOB_FULL_FROM] - 0.1 * (double)i,
                "people disliked answers");
        add(l, SP_KNOB_EPSILON, 0, "people disliked answers");
        if (has->passages)
            add(l, SP_KNOB_PASSAGES, k->v[SP_KNOB_PASSAGES] + 2, "people disliked answers");
    }
}

/* The class that was asked for most often. */
static sp_class most(const sp_failures *f)
{
    size_t best = 0;
    for (size_t i = 1; i < SP_CLASSES; i++)
        best = f->by_class[i] > f->by_class[best] ? i : best;
    return (sp_class)best;
}

static void save_one(list *l, size_t which, const sp_failures *f, const sp_improve_has *has)
{
    static const char why[] = "it may cost less";
    const sp_knobs *k = l->now;
    sp_knob of = (sp_knob)(SP_KNOB_EPSILON_OF + most(f));
    switch (which) {
    case 0:
        if (has->judge) {
            add(l, SP_KNOB_FULL_FROM, k->v[SP_KNOB_FULL_FROM] + 0.1, why);
            add(l, SP_KNOB_FULL_FROM, k->v[SP_KNOB_FULL_FROM] + 0.2, why);
        }
        break;
    case 1: add(l, SP_KNOB_CONTROL, 1, why); break;
    case 2: add(l, SP_KNOB_DRAFT, k->v[SP_KNOB_DRAFT] / 2, why); break;
    case 3: add(l, SP_KNOB_EPSILON, k->v[SP_KNOB_EPSILON] + 0.02, why); break;
    case 4:
        if (has->passages)
            add(l, SP_KNOB_PASSAGES, k->v[SP_KNOB_PASSAGES] - 2, why);
        break;
    case 5:
        if (has->judge)
            add(l, of, k->v[of] + 0.02, why);
        break;
    case 6: add(l, SP_KNOB_LIGHT_TOKENS, k->v[SP_KNOB_LIGHT_TOKENS] / 2, why); break;
    case 7:
        if (has->escalates)
            add(l, SP_KNOB_ESCALATE, k->v[SP_KNOB_ESCALATE] - 0.4, why);
        break;
    case 8: add(l, SP_KNOB_DRAFT, k->v[SP_KNOB_DRAFT] * 2, why); break;
    case 9:
        if (has->passages && has->judge)
            add(l, SP_KNOB_NEED_FROM, k->v[SP_KNOB_NEED_FROM] + 0.1, why);
        break;
    default: add(l, SP_KNOB_KEEP, k->v[SP_KNOB_KEEP] / 2, why); break;
    }
}

static bool differ(const sp_knobs *a, const sp_knobs *b)
{
    for (size_t i = 0; i < SP_KNOBS; i++)
        if (fabs(a->v[i] - b->v[i]) > 1e-9)
            return true;
    return false;
}

size_t sp_propose(sp_proposal *out, size_t cap, const sp_knobs *now, const sp_knobs *options,
                  const sp_failures *f, const sp_improve_has *has, size_t round)
{
    enum { WAYS = 11 };
    list l = {out, 0, cap, now};
    if (cap && differ(now, options))
        out[l.n++] = (sp_proposal){SP_KNOBS, 0, 0, "what was won may be lost by now", *options};
    add_trained(&l, SP_KNOB_INTENT, has->intent);
    add_trained(&l, SP_KNOB_POLICY, has->policy);
    add_trained(&l, SP_KNOB_HEAD, has->head);
    mend(&l, f, has);
    for (size_t i = 0; i < WAYS; i++)
        save_one(&l, (round + i) % WAYS, f, has);
    return l.n;
}

/* --- the round -------------------------------------------------------------------------------- */

/* Prompts of one part: evenly spread over it, and what the settings in force answered. */
typedef struct part {
    size_t *at; /* [n] */
    size_t n;
    sp_outcome *now; /* [n] */
    sp_pair *pair;   /* [n] room for a try */
} part;

static void fini(part *p)
{
    for (size_t i = 0; i < p->n && p->now; i++)
        sp_buf_fini(&p->now[i].text);
    sp_mem_free(p->at);
    sp_mem_free(p->now);
    sp_mem_free(p->pair);
}

static sp_err open_part(part *p, const sp_improve_cfg *cfg, const sp_knobs *now, size_t from,
                        size_t end, size_t cap, sp_diag *d)
{
    size_t all = end - from;
    p->n = all < cap ? all : cap;
    p->at = sp_mem_array(p->n, sizeof *p->at);
    p->now = sp_mem_array(p->n, sizeof *p->now);
    p->pair = sp_mem_array(p->n, sizeof *p->pair);
    if (!p->at || !p->now || !p->pair)
        return SP_FAIL(d, SP_NOMEM, "improve");
    for (size_t i = 0; i < p->n; i++) {
        p->at[i] = from + i * all / p->n;
        SP_TRY(cfg->answer(cfg->arg, &p->now[i], p->at[i], now, d));
    }
    return SP_OK;
}

/* A verdict as the two qualities: of judged answers, one that failed is worse than one that did
 * not. */
static sp_err judge(sp_pair *p, const sp_improve_cfg *cfg, size_t at, const sp_outcome *a,
                    const sp_outcome *b, sp_diag *d)
{
    int is = (int)a->failed - (int)b->failed;
    if (!a->failed && !b->failed)
        SP_TRY(cfg->judge(cfg->arg, &is, at, a, b, d));
    p->judged = true;
    p->quality[0] = 0.5 * (1 - is);
    p->quality[1] = 0.5 * (1 + is);
    return SP_OK;
}

static sp_err pair_of(sp_pair *out, const sp_improve_cfg *cfg, size_t at, const sp_outcome *a,
                      const sp_outcome *b, sp_diag *d)
{
    *out = (sp_pair){.quality = {a->failed ? 0 : a->quality, b->failed ? 0 : b->quality},
                     .cost = {a->cost, b->cost},
                     .ms = {a->ms, b->ms},
                     .failed = {a->failed, b->failed},
                     .cls = a->cls % SP_DECIDE_CLASSES};
    return a->judged || b->judged ? judge(out, cfg, at, a, b, d) : SP_OK;
}

/* drops: a try that is proven worse need not go on. */
static sp_err try_one(sp_decision *out, part *p, const sp_improve_cfg *cfg, const sp_knobs *k,
                      bool drops, sp_diag *d)
{
    for (size_t i = 0; i < p->n; i++) {
        sp_outcome o = {0};
        SP_TRY(cfg->answer(cfg->arg, &o, p->at[i], k, d));
        sp_err err = pair_of(&p->pair[i], cfg, p->at[i], &p->now[i], &o, d);
        sp_buf_fini(&o.text);
        SP_TRY(err);
        if (!drops || (i + 1) % STOP_AFTER)
            continue;
        sp_decide(out, &cfg->decide, p->pair, i + 1);
        if (out->worse)
            return SP_OK;
    }
    sp_decide(out, &cfg->decide, p->pair, p->n);
    return SP_OK;
}

static sp_err search(sp_round *out, part *p, const sp_improve_cfg *cfg, sp_diag *d)
{
    out->best = out->n_tried;
    for (size_t i = 0; i < out->n_tried; i++) {
        sp_tried *t = &out->tried[i];
        SP_TRY(try_one(&t->search, p, cfg, &t->what.knobs, true, d));
        bool hopes = t->search.lost == SP_GUARD_NONE && t->search.log_now > 0;
        if (hopes &&
            (out->best == out->n_tried || t->search.log_now > out->tried[out->best].search.log_now))
            out->best = i;
    }
    return SP_OK;
}

sp_err sp_improve(sp_round *out, const sp_improve_cfg *cfg, const sp_knobs *now,
                  const sp_knobs *options, const sp_failures *f, size_t n_early, size_t n,
                  sp_diag *d)
{
    part early = {0}, held = {0};
    size_t tries = cfg->tries < SP_IMPROVE_TRIES ? cfg->tries : SP_IMPROVE_TRIES;
    sp_proposal what[SP_IMPROVE_TRIES];
    *out = (sp_round){0};
    if (!n_early || n_early >= n || !cfg->cap_search || !cfg->cap_held)
        return SP_FAIL(d, SP_INVAL,
                       "there are no prompts to try with, or none that were held out for the "
                       "decision");
    out->n_tried = sp_propose(what, tries, now, options, f, &cfg->has, cfg->round);
    for (size_t i = 0; i < out->n_tried; i++)
        out->tried[i].what = what[i];
    sp_err err = open_part(&early, cfg, now, 0, n_early, cfg->cap_search, d);
    if (err == SP_OK)
        err = search(out, &early, cfg, d);
    out->n_search = early.n;
    if (err == SP_OK && out->best < out->n_tried) {
        err = open_part(&held, cfg, now, n_early, n, cfg->cap_held, d);
        if (err == SP_OK)
            err = try_one(&out->held, &held, cfg, &out->tried[out->best].what.knobs, false, d);
        out->n_held = held.n;
    }
    fini(&early);
    fini(&held);
    return err;
}
