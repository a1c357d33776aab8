#include "sched/cores.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"

struct sp_cores {
    sp_lock lock; /* rank JOB */
    pthread_cond_t changed;
    sp_seat *inside;  /* guard: lock, as the rest; NULL: nobody */
    sp_seat *waiting; /* a list in no order */
    double least_s;   /* the most that anyone had used when it came in: who was away begins there */
};

sp_err sp_cores_new(sp_cores **out)
{
    sp_cores *c = sp_mem_alloc(sizeof *c);
    if (!c)
        return SP_NOMEM;
    sp_lock_init(&c->lock, SP_RANK_JOB);
    sp_lock_cond_init(&c->changed);
    *out = c;
    return SP_OK;
}

void sp_cores_free(sp_cores *c)
{
    if (!c)
        return;
    sp_lock_fini(&c->lock);
    pthread_cond_destroy(&c->changed);
    sp_mem_free(c);
}

/* The link to the one that has used least, or to NULL. */
static sp_seat **least_used(sp_cores *c)
{
    sp_seat **best = &c->waiting;
    for (sp_seat **at = &c->waiting; *at; at = &(*at)->next)
        best = (*at)->used_s < (*best)->used_s ? at : best;
    return best;
}

static void let_in(sp_cores *c)
{
    sp_seat **next = least_used(c);
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

void sp_cores_enter(sp_cores *c, sp_seat *s)
{
    if (!c)
        return;
    sp_lock_get(&c->lock);
    if (s->used_s < c->least_s)
        s->used_s = c->least_s;
    wait_inside(c, s);
    sp_lock_put(&c->lock);
}

void sp_cores_pass(sp_cores *c, sp_seat *s)
{
    if (!c)
        return;
    sp_lock_get(&c->lock);
    book_time(s);
    const sp_seat *next = *least_used(c);
    if (next && next->used_s < s->used_s) {
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
    let_in(c);
    sp_lock_put(&c->lock);
}
