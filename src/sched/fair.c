#include "sched/fair.h"

#include "base/mem.h"

#include <string.h>

void sp_fair_init(sp_fair *f)
{
    *f = (sp_fair){0};
    sp_lock_init(&f->lock, SP_RANK_FAIR);
}

void sp_fair_fini(sp_fair *f)
{
    sp_lock_fini(&f->lock);
    while (f->first) {
        sp_account *a = f->first;
        f->first = a->next;
        sp_mem_free(a->tenant);
        sp_mem_free(a);
    }
}

static sp_err find(sp_fair *f, sp_account **out, const char *tenant)
{
    for (sp_account *a = f->first; a; a = a->next) {
        if (strcmp(a->tenant, tenant) == 0) {
            *out = a;
            return SP_OK;
        }
    }
    sp_account *a = sp_mem_alloc(sizeof *a);
    if (!a)
        return SP_NOMEM;
    a->tenant = sp_mem_strdup(tenant);
    if (!a->tenant) {
        sp_mem_free(a);
        return SP_NOMEM;
    }
    a->next = f->first;
    f->first = a;
    *out = a;
    return SP_OK;
}

static sp_err enter(sp_fair *f, sp_account **out, const char *tenant)
{
    sp_account *a;
    SP_TRY(find(f, &a, tenant));
    if (a->n_job == 0) {
        const sp_account *least = NULL;
        for (const sp_account *x = f->first; x; x = x->next)
            if (x->n_job && (!least || x->served < least->served))
                least = x;
        double floor = least ? least->served : f->last;
        a->served = a->served > floor ? a->served : floor;
    }
    a->n_job++;
    *out = a;
    return SP_OK;
}

sp_err sp_fair_enter(sp_fair *f, sp_account **out, const char *tenant)
{
    sp_lock_get(&f->lock);
    sp_err err = enter(f, out, tenant);
    sp_lock_put(&f->lock);
    return err;
}

void sp_fair_leave(sp_fair *f, sp_account *a)
{
    sp_lock_get(&f->lock);
    if (--a->n_job == 0)
        f->last = a->served;
    sp_lock_put(&f->lock);
}

void sp_fair_serve(sp_fair *f, sp_account *a, double weight)
{
    sp_lock_get(&f->lock);
    a->served += weight;
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

sp_fair_part sp_fair_others(sp_fair *f, const sp_fair_part *p)
{
    sp_fair_part sum = {0};
    sp_lock_get(&f->lock);
    for (const sp_fair_part *x = f->parts; x; x = x->next)
        if (x != p) {
            sum.n_waiting += x->n_waiting;
            sum.backlog += x->backlog;
        }
    sp_lock_put(&f->lock);
    return sum;
}
