/* What a turn costs: tokens by the prices of who answered, the machine and its electricity. */
#include "pipe/turn_int.h"

/* Of one job or call, whole or as far as it has come. */
typedef struct use {
    double n_in, n_cached, n_out;
    double ms; /* of the machine */
    bool away;
} use;

static sp_price price_of(const sp_turn *t, bool away)
{
    const sp_place *to = away ? t->place.to : NULL;
    if (!to)
        return t->env->price[away];
    if (!to->price_in && !to->price_out)
        return sp_prices_of(t->env->prices, SP_PRICE_UPSTREAM, to->model);
    double in = to->price_in ? *to->price_in : 0;
    return (sp_price){in, in, to->price_out ? *to->price_out : 0};
}

/* Returns the cost. */
static double add(sp_receipt *r, const sp_turn *t, const use *u)
{
    const sp_price price = price_of(t, u->away);
    double joules = 0;
    if (t->env->power && u->ms > 0) {
        joules = u->ms * 1e-3 * sp_power_since(t->env->power, &t->power);
        r->is_measured = sp_power_is_measured(t->env->power);
    }
    double cost = sp_price_tokens(&price, u->n_in, u->n_cached, u->n_out) +
                  sp_prices_machine(t->env->prices, u->ms, joules);
    r->joules += joules;
    r->cost += cost;
    return cost;
}

void sp_turn_count_job(sp_turn *t, const sp_event *ev, bool away)
{
    const sp_receipt *r = &ev->receipt;
    size_t known = away                             ? r->tok_away_known
                   : ev->n_prompt > r->tok_computed ? ev->n_prompt - r->tok_computed
                                                    : 0;
    const use u = {.n_in = (double)ev->n_prompt,
                   .n_cached = (double)known,
                   .n_out = (double)r->tok_out,
                   .ms = r->ms_machine,
                   .away = away};
    sp_receipt_add(&t->receipt, r);
    double cost = add(&t->receipt, t, &u);
    if (t->deep.n_more) {
        t->receipt.unsure.cost += cost;
        t->receipt.unsure.tok_prompt += r->tok_computed;
    }
}

void sp_turn_count_running(sp_receipt *out, const sp_turn *t)
{
    if (sp_turn_is_over(t) || t->unsure || t->deep.state)
        return;
    for (size_t i = 0; i < t->n_choice; i++) {
        const sp_turn_choice *c = &t->choice[i];
        sp_job_use j;
        if (c->ended || !c->job)
            continue;
        sp_job_used(&j, c->job);
        const use u = {.n_in = (double)j.n_prompt,
                       .n_cached = (double)j.n_known,
                       .n_out = (double)j.n_out,
                       .ms = j.ms_machine};
        out->ms_machine += j.ms_machine;
        (void)add(out, t, &u);
    }
}
