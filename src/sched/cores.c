#include "sched/cores.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"

struct sp_cores {
    sp_lock lock; /* rank JOB */
    pthread_cond_t changed;
    sp_seat *inside;  /* guard: lock, as the rest; NULL: nobody */
    sp_seat *waiting; /* a list in no order */
    sp_fair fair;     /* has a lock of its own */
    double least_s;   /* the most that anyone had used when it came in or left */
};

sp_err sp_cores_new(sp_cores **out)
{
    sp_cores *c = sp_mem_alloc(sizeof *c);
    if (!c)
        return SP_NOMEM;
    sp_lock_init(&c->lock, SP_RANK_JOB);
    sp_lock_cond_init(&c->changed);
    sp_fair_init(&c->fair);
    *out = c;
    return SP_OK;
}

void sp_cores_free(sp_cores *c)
{
    if (!c)
        return;
    sp_lock_fini(&c->lock);
    pthread_cond_destroy(&c->changed);
    sp_fair_fini(&c->fair);
    sp_mem_free(c);
}

sp_fair *sp_cores_fair(sp_cores *c)
{
    return &c->fair;
}

void sp_seat_add(sp_seat *s, sp_cores *c, const sp_account *a)
{
    size_t most = 0, i = 0;
    while (i < s->n_tenant && s->tenant[i] != a)
        i++;
    if (i < s->n_tenant)
        return;
    if (i < SP_SEAT_TENANTS) {
        s->tenant[s->n_tenant++] = a;
        return;
    }
    sp_lock_get(&c->fair.lock);
    for (i = 1; i < s->n_tenant; i++)
        most = s->tenant[i]->served > s->tenant[most]->served ? i : most;
    if (a->served < s->tenant[most]->served)
        s->tenant[most] = a;
    sp_lock_put(&c->fair.lock);
}

/* The tenant that was served least; NULL: there is none. The lock of the accounts is held. */
static const sp_account *neediest(const sp_seat *s)
{
    const sp_account *least = NULL;
    for (size_t i = 0; i < s->n_tenant; i++)
        least = !least || s->tenant[i]->served < least->served ? s->tenant[i] : least;
    return least;
}

static bool is_before(sp_cores *c, const sp_seat *a, const sp_seat *b)
{
    sp_lock_get(&c->fair.lock);
    const sp_account *x = neediest(a), *y = neediest(b);
    bool apart = x && y && x != y, less = apart && x->served < y->served,
         more = apart && x->served > y->served;
    sp_lock_put(&c->fair.lock);
    return less || (!more && a->used_s < b->used_s);
}

/* The link to the one that comes next, or to NULL. */
static sp_seat **find_next(sp_cores *c)
{
    sp_seat **best = &c->waiting;
    for (sp_seat **at = &c->waiting; *at; at = &(*at)->next)
        best = is_before(c, *at, *best) ? at : best;
    return best;
}

static void let_in(sp_cores *c)
{
    sp_seat **next = find_next(c);
    c->inside = *next;
    if (!c->inside)
        return;
    *next = c->inside->next;
    c->inside->next = NULL;
    c->least_s = c->inside->used_s > c->least_s ? c->inside->used_s : c->least_s;
    pthread_cond_broadcast(&c->changed);
}

static void wait_inside(sp_cores *c, sp_seat *s)
{
    s->next = c->waiting;
    c->waiting = s;
    if (!c->inside)
        let_in(c);
    while (c->inside != s)
        sp_lock_wait(&c->lock, &c->changed, 0);
    s->since_ns = sp_clock_ns();
}

static void book_time(sp_seat *s)
{
    uint64_t now = sp_clock_ns();
    s->used_s += (double)(now - s->since_ns) * 1e-9;
    s->since_ns = now;
}

/* Where one who was away begins: at the least that those here have used, or where the last one
 * left. It would else have the cores alone for as long as it was away. */
static double begins_at(const sp_cores *c)
{
    double least = c->inside ? c->inside->used_s : c->least_s;
    for (const sp_seat *s = c->waiting; s; s = s->next)
        least = s->used_s < least ? s->used_s : least;
    return least;
}

void sp_cores_enter(sp_cores *c, sp_seat *s)
{
    if (!c)
        return;
    sp_lock_get(&c->lock);
    double least = begins_at(c);
    s->used_s = s->used_s < least ? least : s->used_s;
    wait_inside(c, s);
    sp_lock_put(&c->lock);
}

void sp_cores_pass(sp_cores *c, sp_seat *s)
{
    if (!c)
        return;
    sp_lock_get(&c->lock);
    book_time(s);
    const sp_seat *next = *find_next(c);
    if (next && is_before(c, next, s)) {
        c->inside = NULL;
        wait_inside(c, s);
    }
    sp_lock_put(&c->lock);
}

void sp_cores_leave(sp_cores *c, sp_seat *s)
{
    if (!c)
        return;
    sp_lock_get(&c->lock);
    book_time(s);
    c->least_s = s->used_s > c->least_s ? s->used_s : c->least_s;
    let_in(c);
    sp_lock_put(&c->lock);
}
