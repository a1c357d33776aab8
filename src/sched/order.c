/* Lists of jobs, and in which order they are served. */
#include "sched/engine_int.h"

/* A job waits at most twenty times its work behind a stream of shorter ones. With a quarter
 * instead, whatever waited in a burst was old and short ones fell back to the order of arrival
 * (docs/SERVING.md). */
static const double AGE_SHARE = 0.05;
enum { BATCH = 8 }; /* sequences that decode together, when nobody knows how many there will be */

void sp_engine_drop(sp_engine *e, sp_job *j)
{
    e->n_heavy -= j->is_heavy;
    j->is_heavy = false;
    size_t i = 0;
    while (i < e->n_run && e->run[i] != j)
        i++;
    SP_ASSERT(i < e->n_run);
    memmove(&e->run[i], &e->run[i + 1], (e->n_run - i - 1) * sizeof *e->run);
    e->n_run--;
}

void sp_engine_wait_first(sp_engine *e, sp_job *j)
{
    sp_lock_get(&e->lock);
    j->state = WAITING;
    j->next = e->waiting;
    if (!e->waiting)
        e->waiting_tail = &j->next;
    e->waiting = j;
    e->n_waiting++;
    sp_lock_put(&e->lock);
}

void sp_engine_wait_last(sp_engine *e, sp_job *j)
{
    sp_lock_get(&e->lock);
    *e->waiting_tail = j;
    e->waiting_tail = &j->next;
    e->n_waiting++;
    sp_lock_put(&e->lock);
}

/* Of the least served tenant that waits, the least served flow; NULL: nobody waits. */
static const sp_account *least_served(sp_engine *e)
{
    const sp_account *least = NULL;
    sp_lock_get(&e->fair->lock);
    for (const sp_job *j = e->waiting; j; j = j->next) {
        const sp_account *a = j->account;
        if (!a || a == least)
            continue;
        bool same = least && a->tenant == least->tenant;
        if (!least ||
            (same ? a->served < least->served : a->tenant->served < least->tenant->served))
            least = a;
    }
    sp_lock_put(&e->fair->lock);
    return least;
}

void sp_engine_tell_tenants(sp_engine *e)
{
    e->seat.n_tenant = 0;
    if (e->cfg.fcfs)
        return;
    sp_lock_get(&e->lock);
    for (const sp_job *j = e->waiting; j; j = j->next)
        if (j->account)
            sp_seat_add(&e->seat, e->cfg.cores, j->account->tenant);
    sp_lock_put(&e->lock);
    for (size_t i = 0; i < e->n_run; i++)
        if (e->run[i]->account)
            sp_seat_add(&e->seat, e->cfg.cores, e->run[i]->account->tenant);
}

/* The link to the job that comes next, or to NULL. */
static sp_job **choose(sp_engine *e, bool completion)
{
    uint64_t now = sp_clock_ns();
    const sp_account *flow = completion && !e->cfg.fcfs ? least_served(e) : NULL;
    sp_job **best = NULL;
    double least = 0;
    for (sp_job **at = &e->waiting; *at; at = &(*at)->next) {
        if (((*at)->session != NULL) != completion || (flow && (*at)->account != flow))
            continue;
        double rank = completion && !e->cfg.fcfs ? sp_job_rank(e, *at, now) : 0;
        if (!best || rank < least) {
            best = at;
            least = rank;
        }
    }
    return best;
}

sp_job *sp_engine_take(sp_engine *e, sp_job **at)
{
    sp_job *j = at ? *at : NULL;
    if (!j)
        return NULL;
    *at = j->next;
    if (!j->next)
        e->waiting_tail = at;
    j->next = NULL;
    e->n_waiting--;
    return j;
}

sp_job *sp_engine_pop(sp_engine *e, bool completion)
{
    sp_lock_get(&e->lock);
    sp_job *j = sp_engine_take(e, choose(e, completion));
    sp_lock_put(&e->lock);
    return j;
}

/* Seconds until its first token, if it had the machine for itself. */
static double prompt_work(const sp_engine *e, const sp_job *j)
{
    size_t n = j->state == WAITING ? sp_session_tokens(j->session) : sp_session_todo(j->session),
           depth = sp_session_tokens(j->session);
    return sp_cost_prompt(&e->cost, e->cfg.chunk_tok, depth - n, depth);
}

double sp_job_work(const sp_engine *e, const sp_job *j)
{
    if (!j->session)
        return 0;
    size_t n_out = sp_session_out(j->session), n_prompt = 0;
    if (j->state == WAITING)
        n_prompt = sp_session_tokens(j->session);
    else if (!sp_session_is_decoding(j->session))
        n_prompt = sp_session_todo(j->session);
    double expect = e->out_mean[j->plan.cls], most = (double)j->max_out;
    double left = (expect < most ? expect : most) - (double)n_out;
    left = left > 1 ? left : 1;
    double depth = (double)sp_session_tokens(j->session),
           seen = sp_cost_seen((size_t)depth, n_prompt) / 2 + left * (depth + left / 2);
    return (double)n_prompt * sp_cost_of(&e->cost, e->cfg.chunk_tok) / (double)e->cfg.chunk_tok +
           left * sp_cost_of(&e->cost, BATCH) / BATCH + e->cost.per_seen * seen;
}

double sp_job_rank(const sp_engine *e, const sp_job *j, uint64_t now)
{
    double work = sp_job_work(e, j), age = (double)(now - j->t_submit) * 1e-9;
    if (j->deadline && now + (uint64_t)(2e9 * work) > j->deadline)
        return -1e9 + (double)j->deadline * 1e-9 - age; /* now or never */
    if (j->goal_first && !j->t_first && now < j->goal_first &&
        now + (uint64_t)(2e9 * prompt_work(e, j)) > j->goal_first)
        /* it can still be kept, and hardly later */
        return -1e6 + (double)(j->goal_first - now) * 1e-9;
    for (int i = 0; i < j->priority; i++)
        work /= 4;
    for (int i = 0; i > j->priority; i--)
        work *= 4;
    return work - AGE_SHARE * age;
}

void sp_engine_order(sp_engine *e)
{
    uint64_t now = sp_clock_ns();
    for (size_t i = 0; i < e->n_run; i++) {
        sp_job *j = e->run[i];
        size_t at = i;
        j->rank = e->cfg.fcfs ? (double)i : sp_job_rank(e, j, now);
        for (; at > 0 && e->order[at - 1]->rank > j->rank; at--)
            e->order[at] = e->order[at - 1];
        e->order[at] = j;
    }
}
