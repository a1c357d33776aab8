#include "pipe/models_int.h"

enum {
    GRACE_S = 3 /* who waited for a model finds it there */,
    SLICE_NS = 100000000 /* between two looks at who has given up */
};
#define NS 1000000000ull

static bool is_given_up(const sp_models *m, sp_models_op *op)
{
    return m->stop || (op && (sp_clock_ns() > op->end_ns || sp_op_is_left(&op->op)));
}

static void publish(sp_models *m)
{
    double sum = (double)m->beside_bytes;
    for (size_t i = 0; i < m->n_slot; i++)
        sum += m->slot[i]->served && !m->slot[i]->stays ? (double)m->slot[i]->bytes : 0;
    sp_metric_set(m->held, sum);
}

/* Closes what a slot has in memory. Nobody uses it, and nobody new comes in. The lock is held, and
 * let go of meanwhile. */
static void close_slot(sp_models *m, sp_model_slot *s)
{
    sp_served *served = s->served;
    s->served = NULL;
    s->busy = true;
    sp_lock_put(&m->lock);
    m->cfg.opener.close(m->cfg.opener.arg, served);
    sp_metric_add(m->unloads, 1);
    sp_log(SP_LOG_INFO, "%s left the memory", s->name);
    sp_lock_get(&m->lock);
    s->busy = false;
    publish(m);
    pthread_cond_broadcast(&m->changed);
}

/* Waits until nobody uses it, and closes it. The lock is held. SP_TIMEOUT: whoever asked has given
 * up. */
static sp_err send_away(sp_models *m, sp_model_slot *s, sp_models_op *op)
{
    s->leaving = true;
    while (s->n_use && !is_given_up(m, op))
        sp_lock_wait(&m->lock, &m->changed, SLICE_NS);
    bool idle = s->n_use == 0;
    if (idle)
        close_slot(m, s);
    s->leaving = false;
    return idle ? SP_OK : SP_TIMEOUT;
}

/* Who leaves next: of those that nobody uses the one that was used least recently; NULL: all are in
 * use. */
static sp_model_slot *least_recent(sp_models *m, bool in_use)
{
    sp_model_slot *best = NULL;
    for (size_t i = 0; i < m->n_slot; i++) {
        sp_model_slot *s = m->slot[i];
        if (s->served && !s->stays && (s->n_use > 0) == in_use &&
            (in_use || sp_clock_ns() >= s->grace_ns) && (!best || s->used_ns < best->used_ns))
            best = s;
    }
    return best;
}

static size_t sum_bytes(const sp_models *m)
{
    size_t sum = 0;
    for (size_t i = 0; i < m->n_slot; i++)
        sum += m->slot[i]->served && !m->slot[i]->stays ? m->slot[i]->bytes : 0;
    return sum;
}

/* Others leave until there is room. Idle ones first; else the least recent one takes no more
 * requests. The lock is held. */
static sp_err make_room(sp_models *m, const sp_model_slot *to, size_t need, sp_models_op *op,
                        sp_diag *d)
{
    while (sum_bytes(m) + need > sp_models_room(m)) {
        if (is_given_up(m, op))
            return m->stop ? SP_FAIL(d, SP_CANCEL, "the server is shutting down")
                           : SP_FAIL(d, SP_TIMEOUT,
                                     "%.100s: no memory for it in time, other models are in use",
                                     to->name);
        sp_model_slot *s = least_recent(m, false);
        s = s ? s : least_recent(m, true);
        if (s)
            (void)!send_away(m, s, op); /* given up: the loop sees it too */
        else
            sp_lock_wait(&m->lock, &m->changed, SLICE_NS); /* one that just came is waited for */
    }
    return SP_OK;
}

static sp_err open_slot(sp_models *m, sp_model_slot *s, sp_models_op *op, sp_diag *d)
{
    const sp_models_opener *o = &m->cfg.opener;
    size_t need, kv_bytes;
    sp_served *served;
    sp_lock_get(&m->lock);
    sp_model_facts facts = s->facts;
    sp_lock_put(&m->lock);
    if (!facts.is_folder || facts.why[0]) { /* the file may be another one by now */
        facts = (sp_model_facts){0};
        o->look(o->arg, &facts, s->path);
    }
    SP_TRY(o->measure(o->arg, &need, &kv_bytes, s->path, &facts, sp_models_room(m), op->why, d));
    sp_lock_get(&m->lock);
    sp_err err = make_room(m, s, need, op, d);
    while (err == SP_OK && s->busy)
        sp_lock_wait(&m->lock, &m->changed, 0);
    s->opening = err == SP_OK;
    sp_lock_put(&m->lock);
    if (err == SP_OK)
        err = o->open(o->arg, &served, s->name, s->path, &facts, kv_bytes, d);
    SP_TRY(err);
    sp_lock_get(&m->lock);
    s->facts = facts;
    s->served = served;
    s->bytes = served->bytes ? served->bytes : need;
    s->used_ns = sp_clock_ns();
    s->grace_ns = s->used_ns + GRACE_S * NS;
    publish(m);
    sp_lock_put(&m->lock);
    return SP_OK;
}

static sp_err bring(sp_models *m, sp_model_slot *s, sp_models_op *op, sp_diag *d)
{
    sp_lock_get(&m->lock);
    bool here = s->served != NULL, late = is_given_up(m, op);
    s->loading = !here && !late;
    sp_lock_put(&m->lock);
    if (here)
        return SP_OK;
    if (late)
        return m->stop ? SP_FAIL(d, SP_CANCEL, "the server is shutting down")
                       : SP_FAIL(d, SP_TIMEOUT, "%.100s: was not in memory in time", s->name);
    uint64_t t = sp_clock_ns();
    sp_err err = open_slot(m, s, op, d);
    sp_lock_get(&m->lock);
    s->loading = s->opening = false;
    s->why[0] = 0;
    if (err != SP_OK && err != SP_CANCEL && err != SP_TIMEOUT)
        snprintf(s->why, sizeof s->why, "%s", op->why[0] ? op->why : d->msg);
    pthread_cond_broadcast(&m->changed);
    sp_lock_put(&m->lock);
    sp_metric_add(err == SP_OK ? m->loads : m->failures, 1);
    if (err == SP_OK)
        sp_log(SP_LOG_INFO, "%s is in memory after %.0f ms", s->name, sp_clock_ms(t));
    else
        sp_log(SP_LOG_WARN, "%s could not be loaded: %s", s->name, op->why[0] ? op->why : d->msg);
    return err;
}

sp_err sp_models_run(void *self, sp_op *base)
{
    sp_models *m = self;
    sp_models_op *op = (sp_models_op *)base;
    sp_lock_get(&m->lock);
    sp_model_slot *s = sp_models_slot(m, op->name);
    sp_err err = s ? SP_OK : SP_FAIL(&base->diag, SP_NOTFOUND, "there is no model of this name");
    if (s && op->leave && s->served && send_away(m, s, op) != SP_OK)
        err = SP_FAIL(&base->diag, SP_TIMEOUT, "%.100s is still in use", s->name);
    sp_lock_put(&m->lock);
    return err == SP_OK && !op->leave ? bring(m, s, op, &base->diag) : err;
}

/* Models whose time is over leave, where nobody uses them. */
bool sp_models_idle(void *self)
{
    sp_models *m = self;
    sp_lock_get(&m->lock);
    for (size_t i = 0; i < m->n_slot; i++) {
        sp_model_slot *s = m->slot[i];
        double keep = sp_models_keep_of(m, s);
        uint64_t now = sp_clock_ns();
        if (s->served && !s->n_use && now >= s->grace_ns && keep >= 0 &&
            (double)(now - s->used_ns) * 1e-9 >= keep)
            close_slot(m, s);
    }
    sp_lock_put(&m->lock);
    return false;
}

