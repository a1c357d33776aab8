#include "sched/fair.h"

#include "base/mem.h"

#include <string.h>

void sp_fair_init(sp_fair *f)
{
    *f = (sp_fair){0};
    sp_lock_init(&f->lock, SP_RANK_FAIR);
}

static void free_accounts(sp_accounts *of)
{
    while (of->first) {
        sp_account *a = of->first;
        of->first = a->next;
        sp_mem_free(a->name);
        sp_mem_free(a);
    }
}

void sp_fair_fini(sp_fair *f)
{
    sp_lock_fini(&f->lock);
    for (sp_account *a = f->tenants.first; a; a = a->next)
        free_accounts(&a->flows);
    free_accounts(&f->tenants);
}

static sp_err find(sp_accounts *of, sp_account **out, const char *name)
{
    for (sp_account *a = of->first; a; a = a->next) {
        if (strcmp(a->name, name) == 0) {
            *out = a;
            return SP_OK;
        }
    }
    sp_account *a = sp_mem_alloc(sizeof *a);
    if (!a)
        return SP_NOMEM;
    a->name = sp_mem_strdup(name);
    if (!a->name) {
        sp_mem_free(a);
        return SP_NOMEM;
    }
    a->next = of->first;
    of->first = a;
    of->n++;
    *out = a;
    return SP_OK;
}

/* Of flows that are away, who was served least goes: when it comes again it is lifted to the
 * others, which it lay below. */
static void drop_one(sp_accounts *of)
{
    sp_account **least = NULL;
    for (sp_account **at = &of->first; *at; at = &(*at)->next)
        if ((*at)->n_job == 0 && (!least || (*at)->served < (*least)->served))
            least = at;
    if (!least)
        return;
    sp_account *a = *least;
    *least = a->next;
    of->n--;
    sp_mem_free(a->name);
    sp_mem_free(a);
}

static void come(sp_accounts *of, sp_account *a)
{
    if (a->n_job == 0) {
        const sp_account *least = NULL;
        for (const sp_account *x = of->first; x; x = x->next)
            if (x->n_job && (!least || x->served < least->served))
                least = x;
        double floor = least ? least->served : of->last;
        a->served = a->served > floor ? a->served : floor;
    }
    a->n_job++;
}

static void go(sp_accounts *of, sp_account *a)
{
    if (--a->n_job == 0)
        of->last = a->served;
}

static sp_err enter(sp_fair *f, sp_account **out, const char *tenant, const char *flow)
{
    sp_account *a, *b;
    SP_TRY(find(&f->tenants, &a, tenant));
    if (a->flows.n >= SP_FAIR_FLOWS)
        drop_one(&a->flows);
    SP_TRY(find(&a->flows, &b, flow));
    if (!b->tenant) /* engines read it without the lock, once they have the flow */
        b->tenant = a;
    come(&f->tenants, a);
    come(&a->flows, b);
    *out = b;
    return SP_OK;
}

sp_err sp_fair_enter(sp_fair *f, sp_account **out, const char *tenant, const char *flow)
{
    sp_lock_get(&f->lock);
    sp_err err = enter(f, out, tenant, flow);
    sp_lock_put(&f->lock);
    return err;
}

void sp_fair_leave(sp_fair *f, sp_account *flow)
{
    sp_lock_get(&f->lock);
    sp_account *a = flow->tenant;
    go(&f->tenants, a);
    go(&a->flows, flow);
    sp_lock_put(&f->lock);
}

void sp_fair_serve(sp_fair *f, sp_account *flow, double weight)
{
    sp_lock_get(&f->lock);
    flow->served += weight;
    flow->tenant->served += weight;
    sp_lock_put(&f->lock);
}

/* --- how much waits --------------------------------------------------------------------------- */

void sp_fair_join(sp_fair *f, sp_fair_part *p)
{
    sp_lock_get(&f->lock);
    *p = (sp_fair_part){.next = f->parts};
    f->parts = p;
    sp_lock_put(&f->lock);
}

void sp_fair_quit(sp_fair *f, sp_fair_part *p)
{
    sp_lock_get(&f->lock);
    for (sp_fair_part **at = &f->parts; *at; at = &(*at)->next)
        if (*at == p) {
            *at = p->next;
            break;
        }
    sp_lock_put(&f->lock);
}

void sp_fair_tell(sp_fair *f, sp_fair_part *p, size_t n_waiting, double backlog)
{
    sp_lock_get(&f->lock);
    p->n_waiting = n_waiting;
    p->backlog = backlog;
    sp_lock_put(&f->lock);
}

/* The lock is held. */
static sp_fair_part sum_others(const sp_fair *f, const sp_fair_part *p)
{
    sp_fair_part sum = {0};
    for (const sp_fair_part *x = f->parts; x; x = x->next)
        if (x != p) {
            sum.n_waiting += x->n_waiting;
            sum.backlog += x->backlog;
        }
    return sum;
}

bool sp_fair_claim(sp_fair *f, sp_fair_part *p, const sp_fair_part *here, const sp_fair_part *more,
                   const sp_fair_part *most, sp_fair_part *all)
{
    sp_lock_get(&f->lock);
    *all = sum_others(f, p);
    all->n_waiting += here->n_waiting;
    all->backlog += here->backlog;
    bool free =
        all->n_waiting < most->n_waiting && (most->backlog <= 0 || all->backlog <= most->backlog);
    if (free) {
        p->n_waiting = here->n_waiting + more->n_waiting;
        p->backlog = here->backlog + more->backlog;
    }
    sp_lock_put(&f->lock);
    return free;
}

sp_fair_part sp_fair_others(sp_fair *f, const sp_fair_part *p)
{
    sp_lock_get(&f->lock);
    sp_fair_part sum = sum_others(f, p);
    sp_lock_put(&f->lock);
    return sum;
}
