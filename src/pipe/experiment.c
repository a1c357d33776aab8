#include "pipe/experiment.h"

#include "base/sha256.h"
#include "gen/rules.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

/* The tenant and what stays the same in its conversation, as a hash. */
static sp_err hash_of(sp_sha256 *out, const char *tenant, sp_str unit)
{
    const sp_sha256_part part[] = {{tenant, strlen(tenant) + 1}, {unit.p, unit.n}};
    return sp_sha256_of(out, part, 2);
}

void sp_experiments_hash(char out[65], const char *tenant, sp_str unit)
{
    sp_sha256 h;
    out[0] = 0;
    if (hash_of(&h, tenant, unit) == SP_OK)
        sp_sha256_hex(out, &h);
}

uint64_t sp_experiments_key(const char *hash)
{
    char first[17] = "";
    memcpy(first, hash, strnlen(hash, 16));
    return strtoull(first, NULL, 16);
}

/* A number of [0, 1) from a hash of texts: two of the same texts with another `what` are
 * independent. */
static bool draw(double *out, const char *what, const char *salt, const char *tenant, sp_str unit)
{
    sp_sha256 h;
    const sp_sha256_part part[] = {{what, strlen(what) + 1},
                                   {salt, strlen(salt) + 1},
                                   {tenant, strlen(tenant) + 1},
                                   {unit.p, unit.n}};
    uint64_t top = 0;
    if (sp_sha256_of(&h, part, 4) != SP_OK)
        return false;
    for (size_t i = 0; i < 7; i++)
        top = top << 8 | h.b[i];
    *out = (double)(top >> 3) * 0x1p-53;
    return true;
}

static double share_of(const sp_experiment *e)
{
    return e->share ? *e->share : 1;
}

static const char *salt_of(const sp_experiment *e)
{
    return e->salt ? e->salt : e->name;
}

/* Where the experiment's share of its group begins. */
static double begins_at(const sp_experiments *x, size_t i)
{
    double at = 0;
    for (size_t k = 0; k < i && x->experiment[i].group; k++)
        if (x->experiment[k].group && strcmp(x->experiment[k].group, x->experiment[i].group) == 0)
            at += share_of(&x->experiment[k]);
    return at;
}

static const sp_variant *pick(const sp_experiment *e, double u)
{
    double sum = 0, at = 0;
    size_t i = 0;
    for (size_t k = 0; k < e->n_variant; k++)
        sum += e->variant[k].weight ? *e->variant[k].weight : 1;
    for (; i + 1 < e->n_variant; i++) {
        at += e->variant[i].weight ? *e->variant[i].weight : 1;
        if (u * sum < at)
            break;
    }
    return &e->variant[i];
}

void sp_experiments_stop(sp_experiments *x, const char *const *name, size_t n)
{
    unsigned bits = 0;
    for (unsigned i = 0; i < x->n; i++)
        for (size_t k = 0; k < n; k++)
            bits |= strcmp(x->experiment[i].name, name[k]) == 0 ? 1u << i : 0;
    atomic_store(&x->stopped, bits);
}

bool sp_experiments_is_stopped(const sp_experiments *x, const sp_experiment *e)
{
    return atomic_load(&x->stopped) >> (e - x->experiment) & 1;
}

static sp_exposure expose(const sp_experiments *x, size_t i, const char *tenant, sp_str unit,
                          double u)
{
    const sp_experiment *e = &x->experiment[i];
    char hash[65];
    if (!x->draws[i])
        return (sp_exposure){.experiment = e, .variant = e->interleave ? NULL : pick(e, u)};
    sp_experiments_hash(hash, tenant, unit);
    sp_draw d = sp_draws_take(x->draws[i], sp_experiments_key(hash), u);
    return (sp_exposure){e, &e->variant[d.variant], d};
}

size_t sp_experiments_assign(const sp_experiments *x, const char *tenant, sp_str unit,
                             sp_exposure *out)
{
    size_t n = 0;
    for (size_t i = 0; i < x->n; i++) {
        const sp_experiment *e = &x->experiment[i];
        if (sp_experiments_is_stopped(x, e))
            continue;
        double at, u, from = begins_at(x, i);
        if (!draw(&at, "share", e->group ? e->group : salt_of(e), tenant, unit) ||
            !draw(&u, "variant", salt_of(e), tenant, unit))
            return 0;
        if (at >= from && at < from + share_of(e))
            out[n++] = expose(x, i, tenant, unit, u);
    }
    return n;
}

bool sp_experiments_has_models(const sp_experiments *x)
{
    bool has = false;
    for (size_t i = 0; x && i < x->n; i++)
        for (size_t k = 0; k < x->experiment[i].n_variant; k++) {
            const sp_settings *set = x->experiment[i].variant[k].set;
            has = has || (set && set->model);
        }
    return has;
}

const char *sp_experiments_model(const sp_experiments *x, const char *tenant, sp_str unit)
{
    sp_exposure got[SP_EXPERIMENTS];
    const char *name = NULL;
    size_t n = x && unit.n ? sp_experiments_assign(x, tenant, unit, got) : 0;
    for (size_t i = 0; i < n && !name; i++)
        name = got[i].variant && got[i].variant->set ? got[i].variant->set->model : NULL;
    return name;
}

const char *sp_exposure_name(const sp_exposure *e)
{
    return e->variant ? e->variant->name : "interleaved";
}

bool sp_search_read(unsigned *out, const char *name)
{
    static const struct {
        const char *name;
        unsigned how;
    } of[] = {{"plain", SP_RAG_PLAIN},
              {"words", SP_RAG_WORDS},
              {"vectors", SP_RAG_VECTORS},
              {"sentences", SP_RAG_SENTENCES},
              {"graph", SP_RAG_ALL}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        if (strcmp(of[i].name, name) == 0)
            return *out = of[i].how, true;
    return false;
}

bool sp_settings_drafters(unsigned *out, const char *names)
{
    unsigned bits = 0;
    for (const char *p = names; *p;) {
        char name[32];
        sp_draft_id id;
        size_t n = strcspn(p, ",");
        snprintf(name, sizeof name, "%.*s", (int)(n < sizeof name ? n : 0), p);
        if (!sp_draft_find(&id, name))
            return false;
        bits |= 1u << id;
        p += n + (p[n] == ',');
    }
    *out = bits;
    return bits != 0;
}

/* Searches of the conversation have both ranks. */
static void set_ranks(sp_ask *q, const sp_experiment *e)
{
    for (size_t i = 0; i < 2; i++) {
        const sp_settings *set = e->variant[i].set;
        q->search[i] = SP_RAG_PLAIN;
        if (set && set->search)
            (void)sp_search_read(&q->search[i], set->search);
    }
}

/* What a variant sets goes where nothing is set yet. */
static void take(sp_settings *to, const sp_settings *from)
{
    if (!to->control && !to->policy)
        to->policy = from->policy;
    const char **text[][2] = {{(const char **)&to->path, (const char **)&from->path},
                              {(const char **)&to->search, (const char **)&from->search},
                              {(const char **)&to->system, (const char **)&from->system},
                              {(const char **)&to->control, (const char **)&from->control},
                              {(const char **)&to->template, (const char **)&from->template},
                              {(const char **)&to->drafters, (const char **)&from->drafters},
                              {(const char **)&to->place, (const char **)&from->place}};
    for (size_t i = 0; i < sizeof text / sizeof *text; i++)
        *text[i][0] = *text[i][0] ? *text[i][0] : *text[i][1];
    if (!to->epsilon && !to->epsilon_of)
        to->epsilon_of = from->epsilon_of;
    to->epsilon = to->epsilon ? to->epsilon : from->epsilon;
    to->keep = to->keep ? to->keep : from->keep;
    to->full_from = to->full_from ? to->full_from : from->full_from;
    to->need_from = to->need_from ? to->need_from : from->need_from;
    to->escalate_below = to->escalate_below ? to->escalate_below : from->escalate_below;
    to->passages = to->passages ? to->passages : from->passages;
    to->draft = to->draft ? to->draft : from->draft;
    to->light_tokens = to->light_tokens ? to->light_tokens : from->light_tokens;
    to->think_tokens = to->think_tokens ? to->think_tokens : from->think_tokens;
    to->priority = to->priority ? to->priority : from->priority;
}

/* Puts the variant's text before the messages, unless they begin with a system message of their
 * own. */
static sp_err put_system(sp_ask *q, const char *text)
{
    if (!q->chat || !q->n_msg ||
        (q->msg[0].role.n == 6 && memcmp(q->msg[0].role.p, "system", 6) == 0))
        return SP_OK;
    /* and one more, as sp_ask_copy leaves */
    sp_chat_msg *all = sp_arena_alloc(&q->a, (q->n_msg + 2) * sizeof *all);
    if (!all)
        return SP_NOMEM;
    all[0] = sp_chat_say("system", text, strlen(text));
    memcpy(all + 1, q->msg, q->n_msg * sizeof *all);
    q->msg = all;
    q->n_msg++;
    q->n_front++;
    return SP_OK;
}

/* May rules take text of the answer back? */
static bool may_be_ruled(const sp_ask *q)
{
    return q->chat && !q->ruled && !q->deep.on && !q->grammar && !q->n_tool && !q->parts &&
           q->n == 1 && q->n_drawn <= 1 && q->session->n_logprobs < 0;
}

static sp_err set_ask(sp_ask *q)
{
    sp_settings *s = &q->set;
    sp_plan_ask *p = &q->plan;
    if (q->epsilon >= 0)
        s->epsilon_of = NULL; /* the request says its own */
    bool learned = s->policy && *s->policy,
         safe = !learned && s->control && strcmp(s->control, "safe") == 0;
    if ((learned || safe) && may_be_ruled(q)) {
        q->session->rules = learned ? 1u << SP_PRUNE_LEARNED : SP_PRUNE_SAFE;
        p->plain = false;
    }
    if (s->path && p->want == SP_WANT_AUTO)
        SP_TRY(sp_want_read(&p->want, s->path));
    if (s->search && !q->search[0])
        (void)sp_search_read(&q->search[0], s->search); /* it was checked */
    q->epsilon = s->epsilon && q->epsilon < 0 ? *s->epsilon : q->epsilon;
    q->keep = s->keep && q->keep == 0 ? *s->keep : q->keep; /* 0: it says nothing */
    p->draft = s->draft && p->draft < 0 ? (int64_t)*s->draft : p->draft;
    p->think_tok = s->think_tokens && p->think_tok < 0 ? (int64_t)*s->think_tokens : p->think_tok;
    q->priority = s->priority && q->priority == 0 ? *s->priority : q->priority;
    if (s->drafters && !p->drafters)
        (void)sp_settings_drafters(&p->drafters, s->drafters); /* it was checked */
    if (s->template && q->chat && !q->kwargs.n)
        q->kwargs = (sp_str){s->template, strlen(s->template)};
    return s->system ? put_system(q, s->system) : SP_OK;
}

sp_str sp_experiments_unit(const sp_ask *q)
{
    if (q->conversation)
        return (sp_str){q->conversation, strlen(q->conversation)};
    for (size_t i = 0; i < q->n_msg && q->chat && !q->plan.conversation; i++)
        if (q->msg[i].role.n == 4 && memcmp(q->msg[i].role.p, "user", 4) == 0)
            return q->msg[i].content;
    return !q->chat && q->n_prompt ? q->prompt[0].text : (sp_str){0};
}

sp_err sp_experiments_set(sp_ask *q, const sp_settings *set)
{
    if (set)
        take(&q->set, set);
    return set_ask(q);
}

sp_err sp_experiments_apply(const sp_experiments *x, const sp_settings *below, sp_ask *q,
                            sp_exposure *out, size_t *n)
{
    sp_str unit = sp_experiments_unit(q);
    *n = x && unit.n ? sp_experiments_assign(x, q->tenant, unit, out) : 0;
    for (size_t i = 0; i < *n; i++) {
        if (!out[i].variant)
            set_ranks(q, out[i].experiment);
        else if (out[i].variant->set)
            take(&q->set, out[i].variant->set);
    }
    return sp_experiments_set(q, below);
}
