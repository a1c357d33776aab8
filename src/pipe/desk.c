#include "pipe/desk.h"

#include "base/clock.h"
#include "base/lock.h"

enum { MAX_WAITING = 1024, TICK_MS = 1000 };

struct sp_desk {
    sp_desk_cfg cfg;
    pthread_t thread;
    sp_lock lock; /* rank API */
    pthread_cond_t work, changed;
    sp_op *first, **last; /* guard: lock */
    size_t n_waiting;     /* guard: lock */
    bool stop, awake;     /* guard: lock; awake: idle is called before the next wait */
};

/* --- operations as objects
 * --------------------------------------------------------------------- */

void *sp_op_new(sp_desk *k, size_t n_bytes)
{
    sp_op *op = sp_mem_alloc(n_bytes);
    if (!op)
        return NULL;
    op->owner = k;
    op->ref = 1;
    sp_arena_init(&op->a, 0);
    return op;
}

static void let_go(sp_op *op)
{
    sp_desk *k = op->owner;
    sp_lock_get(&k->lock);
    bool last = --op->ref == 0;
    sp_lock_put(&k->lock);
    if (!last)
        return;
    if (op->fini)
        op->fini(op);
    sp_arena_fini(&op->a);
    sp_mem_free(op);
}

void sp_op_share(sp_op *op)
{
    sp_lock_get(&op->owner->lock);
    op->ref++;
    sp_lock_put(&op->owner->lock);
}

void sp_op_quiet(sp_op *op)
{
    sp_lock_get(&op->owner->lock);
    op->notify = NULL;
    while (op->notifying)
        sp_lock_wait(&op->owner->lock, &op->owner->changed, 0);
    sp_lock_put(&op->owner->lock);
}

void sp_op_put(sp_op *op)
{
    if (!op)
        return;
    sp_op_quiet(op);
    let_go(op);
}

bool sp_op_is_done(sp_op *op)
{
    sp_lock_get(&op->owner->lock);
    bool done = op->done;
    sp_lock_put(&op->owner->lock);
    return done;
}

bool sp_op_is_left(sp_op *op)
{
    sp_lock_get(&op->owner->lock);
    bool left = op->ref == 1;
    sp_lock_put(&op->owner->lock);
    return left;
}

sp_err sp_op_submit(sp_op *op, void (*notify)(void *arg), void *arg, sp_diag *d)
{
    sp_desk *k = op->owner;
    sp_lock_get(&k->lock);
    bool full = k->n_waiting >= MAX_WAITING;
    if (!full) {
        op->done = false; /* an operation may be submitted again once it is done */
        op->notify = notify;
        op->arg = arg;
        op->ref++;
        op->next = NULL;
        *k->last = op;
        k->last = &op->next;
        k->n_waiting++;
        pthread_cond_signal(&k->work);
    }
    sp_lock_put(&k->lock);
    return full ? SP_FAIL(d, SP_LIMIT, "%d operations on %s are waiting already", MAX_WAITING,
                          k->cfg.name)
                : SP_OK;
}

/* --- thread ----------------------------------------------------------------------------------- */

static void finish(sp_desk *k, sp_op *op)
{
    sp_lock_get(&k->lock);
    op->done = true;
    void (*notify)(void *) = op->notify;
    op->notifying = notify != NULL;
    sp_lock_put(&k->lock);
    if (notify) {
        notify(op->arg);
        sp_lock_get(&k->lock);
        op->notifying = false;
        pthread_cond_broadcast(&k->changed);
        sp_lock_put(&k->lock);
    }
    let_go(op);
}

static void run(sp_desk *k, sp_op *op)
{
    uint64_t t = sp_clock_ns();
    sp_err err = k->cfg.run(k->cfg.self, op);
    if (err != SP_OK && op->diag.code == SP_OK)
        (void)SP_FAIL(&op->diag, err, "%s: %s", k->cfg.name, sp_err_name(err));
    op->ms = sp_clock_ms(t);
    finish(k, op);
}

static void *desk_main(void *arg)
{
    sp_desk *k = arg;
    for (;;) {
        sp_lock_get(&k->lock);
        sp_op *op = k->first;
        bool stop = k->stop && !op;
        if (op) {
            k->first = op->next;
            if (!k->first)
                k->last = &k->first;
            k->n_waiting--;
        }
        sp_lock_put(&k->lock);
        if (stop && k->cfg.end)
            k->cfg.end(k->cfg.self);
        if (stop)
            return NULL;
        if (op)
            run(k, op);
        if (op || (k->cfg.idle && k->cfg.idle(k->cfg.self)))
            continue;
        sp_lock_get(&k->lock);
        if (!k->first && !k->stop && !k->awake)
            sp_lock_wait(&k->lock, &k->work, TICK_MS * 1000000ull);
        k->awake = false;
        sp_lock_put(&k->lock);
    }
}

void sp_desk_wake(sp_desk *k)
{
    sp_lock_get(&k->lock);
    k->awake = true;
    pthread_cond_signal(&k->work);
    sp_lock_put(&k->lock);
}

sp_err sp_desk_start(sp_desk **out, const sp_desk_cfg *cfg, sp_diag *d)
{
    sp_desk *k = sp_mem_alloc(sizeof *k);
    if (!k)
        return SP_FAIL(d, SP_NOMEM, "%s", cfg->name);
    k->cfg = *cfg;
    k->last = &k->first;
    sp_lock_init(&k->lock, SP_RANK_API);
    sp_lock_cond_init(&k->work);
    sp_lock_cond_init(&k->changed);
    *out = k;
    if (pthread_create(&k->thread, NULL, desk_main, k) == 0)
        return SP_OK;
    *out = NULL;
    sp_lock_fini(&k->lock);
    pthread_cond_destroy(&k->work);
    pthread_cond_destroy(&k->changed);
    sp_mem_free(k);
    return SP_FAIL(d, SP_NOMEM, "%s: cannot start a thread", cfg->name);
}

void sp_desk_stop(sp_desk *k)
{
    if (!k)
        return;
    sp_lock_get(&k->lock);
    k->stop = true;
    pthread_cond_broadcast(&k->work);
    sp_lock_put(&k->lock);
    pthread_join(k->thread, NULL);
    sp_lock_fini(&k->lock);
    pthread_cond_destroy(&k->work);
    pthread_cond_destroy(&k->changed);
    sp_mem_free(k);
}
