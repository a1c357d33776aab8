#include "sched/fair.h"

#include "base/mem.h"

#include <string.h>

void sp_fair_fini(sp_fair *f)
{
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

sp_err sp_fair_enter(sp_fair *f, sp_account **out, const char *tenant)
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

void sp_fair_leave(sp_fair *f, sp_account *a)
{
    if (--a->n_job == 0)
        f->last = a->served;
}
