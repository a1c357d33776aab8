#include "net/events_int.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <zmq.h>

enum { SEND_MS = 200 /* a subscriber that takes nothing of what it asked for is given up */ };

/* --- what is held ----------------------------------------------------------------------------- */

static block *find(sp_events_source *s, uint64_t hash)
{
    size_t i = (size_t)hash & (s->n_slot - 1);
    while (s->table[i].used && s->table[i].hash != hash)
        i = (i + 1) & (s->n_slot - 1);
    return &s->table[i];
}

/* Takes an entry out and moves those behind it up, so that no search ends at the hole. */
static void take_out(sp_events_source *s, block *b)
{
    size_t mask = s->n_slot - 1, hole = (size_t)(b - s->table);
    sp_mem_free(b->salt);
    for (size_t i = (hole + 1) & mask; s->table[i].used; i = (i + 1) & mask) {
        size_t home = (size_t)s->table[i].hash & mask;
        if (((i - home) & mask) < ((i - hole) & mask))
            continue;
        s->table[hole] = s->table[i];
        hole = i;
    }
    s->table[hole] = (block){0};
    s->n_block--;
}

/* The lock is held. */
static void push(sp_events *e, const event *ev)
{
    if (e->lost)
        return;
    if (e->n == QUEUE) {
        for (size_t i = 0; i < e->n; i++)
            sp_mem_free(e->queue[(e->first + i) % QUEUE].b.salt);
        sp_metric_add(e->dropped, QUEUE);
        e->n = e->first = 0;
        e->lost = true;
        return;
    }
    event *to = &e->queue[(e->first + e->n++) % QUEUE];
    *to = *ev;
    to->b.salt = ev->b.salt ? sp_mem_strdup(ev->b.salt) : NULL;
}

void sp_events_stored(sp_events_source *s, const sp_events_block *b)
{
    sp_events *e = s->e;
    sp_lock_get(&e->lock);
    block *at = find(s, b->hash);
    if (!at->used && s->n_block < s->n_cap) {
        *at = (block){.hash = b->hash,
                      .parent = b->parent,
                      .used = true,
                      .first = b->first,
                      .salt = b->salt ? sp_mem_strdup(b->salt) : NULL};
        memcpy(at->tok, b->tok, sizeof at->tok);
        s->n_block++;
        push(e, &(event){s, STORED, *at});
    }
    sp_lock_put(&e->lock);
}

void sp_events_removed(sp_events_source *s, uint64_t hash)
{
    sp_events *e = s->e;
    sp_lock_get(&e->lock);
    block *at = find(s, hash);
    if (at->used) {
        take_out(s, at);
        push(e, &(event){s, REMOVED, {.hash = hash}});
    }
    sp_lock_put(&e->lock);
}

sp_err sp_events_add(sp_events_source **out, sp_events *e, const char *model, size_t n_cap,
                     size_t window)
{
    sp_events_source *s = sp_mem_alloc(sizeof *s);
    size_t n = 16;
    while (n < 2 * n_cap)
        n *= 2;
    if (s)
        s->table = sp_mem_array(n, sizeof *s->table);
    if (!s || !s->table) {
        sp_mem_free(s);
        return SP_NOMEM;
    }
    s->e = e;
    s->n_slot = n;
    s->n_cap = n_cap;
    s->window = window;
    snprintf(s->model, sizeof s->model, "%s", model);
    sp_lock_get(&e->lock);
    s->next = e->sources;
    e->sources = s;
    push(e, &(event){.source = s, .kind = CLEARED}); /* of a server that ran here before, nothing is
                                                        left */
    sp_lock_put(&e->lock);
    *out = s;
    return SP_OK;
}

void sp_events_source_free(sp_events_source *s)
{
    for (size_t i = 0; i < s->n_slot; i++)
        sp_mem_free(s->table[i].salt);
    sp_mem_free(s->table);
    sp_mem_free(s);
}

void sp_events_remove(sp_events_source *s)
{
    if (!s)
        return;
    sp_lock_get(&s->e->lock);
    for (size_t i = 0; i < s->n_slot; i++) {
        sp_mem_free(s->table[i].salt);
        s->table[i] = (block){0};
    }
    s->n_block = 0;
    s->gone = true; /* the thread tells it, and frees it */
    push(s->e, &(event){.source = s, .kind = CLEARED});
    sp_lock_put(&s->e->lock);
}

/* --- public ----------------------------------------------------------------------------------- */

static sp_err bind_socket(void **out, const sp_events *e, int type, const char *endpoint,
                          sp_diag *d)
{
    const int linger = 0, send_ms = SEND_MS, strict = 1;
    void *s = zmq_socket(e->zmq, type);
    *out = s;
    if (!s)
        return SP_FAIL(d, SP_NOMEM, "kv-events");
    zmq_setsockopt(s, ZMQ_LINGER, &linger, sizeof linger);
    zmq_setsockopt(s, ZMQ_SNDTIMEO, &send_ms, sizeof send_ms);
    if (type == ZMQ_ROUTER)
        zmq_setsockopt(s, ZMQ_ROUTER_MANDATORY, &strict, sizeof strict);
    if (zmq_bind(s, endpoint) != 0)
        return SP_FAIL(d, SP_NET, "kv-events: cannot bind %.100s: %s", endpoint,
                       zmq_strerror(zmq_errno()));
    return SP_OK;
}

sp_err sp_events_new(sp_events **out, const sp_events_cfg *cfg, sp_diag *d)
{
    sp_events *e = sp_mem_alloc(sizeof *e);
    if (!e)
        return SP_FAIL(d, SP_NOMEM, "kv-events");
    sp_lock_init(&e->lock, SP_RANK_NET);
    e->queue = sp_mem_array(QUEUE, sizeof *e->queue);
    e->kept = sp_mem_array(KEPT, sizeof *e->kept);
    e->batch = sp_mem_array(BATCH, sizeof *e->batch);
    e->zmq = zmq_ctx_new();
    if (cfg->metrics) {
        e->sent = sp_metric_counter(cfg->metrics, "sparing_kv_events_total",
                                    "Events about KV pages.", "result=\"sent\"");
        e->dropped = sp_metric_counter(cfg->metrics, "sparing_kv_events_total",
                                       "Events about KV pages.", "result=\"dropped\"");
    }
    sp_err err =
        e->queue && e->kept && e->batch && e->zmq ? SP_OK : SP_FAIL(d, SP_NOMEM, "kv-events");
    if (err == SP_OK)
        err = bind_socket(&e->pub, e, ZMQ_PUB, cfg->publish, d);
    if (err == SP_OK && cfg->replay)
        err = bind_socket(&e->router, e, ZMQ_ROUTER, cfg->replay, d);
    if (err == SP_OK)
        *out = e;
    else
        sp_events_free(e);
    return err;
}

static void endpoint_of(void *socket, char out[128])
{
    size_t n = 128;
    out[0] = 0;
    if (socket && zmq_getsockopt(socket, ZMQ_LAST_ENDPOINT, out, &n) != 0)
        out[0] = 0;
}

void sp_events_endpoints(const sp_events *e, char publish[128], char replay[128])
{
    endpoint_of(e->pub, publish);
    endpoint_of(e->router, replay);
}

sp_err sp_events_start(sp_events *e, const char *name, sp_diag *d)
{
    snprintf(e->name, sizeof e->name, "%s", name);
    if (pthread_create(&e->thread, NULL, sp_events_main, e) != 0)
        return SP_FAIL(d, SP_NOMEM, "kv-events: cannot start its thread");
    e->started = true;
    return SP_OK;
}

void sp_events_free(sp_events *e)
{
    if (!e)
        return;
    atomic_store(&e->stop, true);
    if (e->started)
        pthread_join(e->thread, NULL);
    if (e->pub)
        zmq_close(e->pub);
    if (e->router)
        zmq_close(e->router);
    if (e->zmq)
        zmq_ctx_term(e->zmq);
    for (size_t i = 0; i < e->n; i++)
        sp_mem_free(e->queue[(e->first + i) % QUEUE].b.salt);
    for (size_t i = 0; i < KEPT && e->kept; i++)
        sp_mem_free(e->kept[i].p);
    while (e->sources) {
        sp_events_source *s = e->sources;
        e->sources = s->next;
        sp_events_source_free(s);
    }
    sp_mem_free(e->queue);
    sp_mem_free(e->kept);
    sp_mem_free(e->batch);
    sp_lock_fini(&e->lock);
    sp_mem_free(e);
}
