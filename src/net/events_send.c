/* Messages about blocks, live and repeated. All of it runs on the thread. */
#include "net/events_int.h"

#include "base/clock.h"
#include "base/mem.h"

#include <msgpack.h>
#include <stdio.h>
#include <string.h>
#include <zmq.h>

enum { TICK_MS = 10 /* what is told in one message */ };

/* --- messages --------------------------------------------------------------------------------- */

static void pack_text(msgpack_packer *p, const char *s)
{
    msgpack_pack_str(p, strlen(s));
    msgpack_pack_str_body(p, s, strlen(s));
}

static void pack_stored(msgpack_packer *p, const event *ev)
{
    const block *b = &ev->b;
    size_t window = ev->source->window;
    msgpack_pack_array(p, 12);
    pack_text(p, "BlockStored");
    msgpack_pack_array(p, 1);
    msgpack_pack_uint64(p, b->hash);
    if (b->first)
        msgpack_pack_nil(p);
    else
        msgpack_pack_uint64(p, b->parent);
    msgpack_pack_array(p, SP_EVENTS_TOK);
    for (size_t i = 0; i < SP_EVENTS_TOK; i++)
        msgpack_pack_uint32(p, b->tok[i]);
    msgpack_pack_int(p, SP_EVENTS_TOK);
    for (int i = 0; i < 3; i++) /* adapter, medium, adapter's name */
        msgpack_pack_nil(p);
    if (b->salt) {
        msgpack_pack_array(p, 1);
        msgpack_pack_array(p, 1);
        pack_text(p, b->salt);
    } else {
        msgpack_pack_nil(p);
    }
    msgpack_pack_int(p, 0);
    pack_text(p, window ? "sliding_window" : "full_attention");
    if (window)
        msgpack_pack_uint64(p, window);
    else
        msgpack_pack_nil(p);
}

static void pack_event(msgpack_packer *p, const event *ev)
{
    if (ev->kind == STORED) {
        pack_stored(p, ev);
    } else if (ev->kind == REMOVED) {
        msgpack_pack_array(p, 4);
        pack_text(p, "BlockRemoved");
        msgpack_pack_array(p, 1);
        msgpack_pack_uint64(p, ev->b.hash);
        msgpack_pack_nil(p);
        msgpack_pack_int(p, 0);
    } else {
        msgpack_pack_array(p, 1);
        pack_text(p, "AllBlocksCleared");
    }
}

static void pack_batch(msgpack_sbuffer *out, const event *ev, size_t n)
{
    msgpack_packer p;
    msgpack_packer_init(&p, out, msgpack_sbuffer_write);
    msgpack_pack_array(&p, 3);
    msgpack_pack_double(&p, sp_clock_wall_ns() * 1e-9);
    msgpack_pack_array(&p, n);
    for (size_t i = 0; i < n; i++)
        pack_event(&p, &ev[i]);
    msgpack_pack_nil(&p);
}

static void put_seq(uint8_t out[8], uint64_t seq)
{
    for (int i = 0; i < 8; i++)
        out[i] = (uint8_t)(seq >> (56 - 8 * i));
}

static size_t put_topic(char *out, size_t cap, const sp_events *e, const sp_events_source *s)
{
    int n = snprintf(out, cap, "kv@%s@%s", e->name, s->model);
    return n < 0 ? 0 : (size_t)n < cap ? (size_t)n : cap - 1;
}

/* Keeps a message for repeating, in the place of the oldest. No memory: its place is empty, as if
 * it were older. */
static void keep(sp_events *e, const char *topic, size_t n_topic, const msgpack_sbuffer *body)
{
    message *m = &e->kept[e->seq % KEPT];
    sp_mem_free(m->p);
    *m = (message){.p = sp_mem_alloc(n_topic + body->size)};
    if (!m->p)
        return;
    memcpy(m->p, topic, n_topic);
    memcpy(m->p + n_topic, body->data, body->size);
    m->n_topic = n_topic;
    m->n_payload = body->size;
}

/* Events of one source, as one message. */
static void publish(sp_events *e, const event *ev, size_t n)
{
    char topic[300];
    uint8_t seq[8];
    size_t n_topic = put_topic(topic, sizeof topic, e, ev->source);
    msgpack_sbuffer body;
    msgpack_sbuffer_init(&body);
    pack_batch(&body, ev, n);
    put_seq(seq, e->seq);
    keep(e, topic, n_topic, &body);
    if (zmq_send(e->pub, topic, n_topic, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0 &&
        zmq_send(e->pub, seq, 8, ZMQ_SNDMORE | ZMQ_DONTWAIT) >= 0)
        /* PUB drops for those who are slow; they see the gap */
        (void)!zmq_send(e->pub, body.data, body.size, ZMQ_DONTWAIT);
    msgpack_sbuffer_destroy(&body);
    sp_metric_add(e->sent, (double)n);
    e->seq++;
}

/* Copies what waits, at most a batch, of one source. */
static size_t take_batch(sp_events *e)
{
    size_t n = 0;
    sp_lock_get(&e->lock);
    while (e->n && n < BATCH && (n == 0 || e->queue[e->first].source == e->batch[0].source)) {
        e->batch[n++] = e->queue[e->first];
        e->first = (e->first + 1) % QUEUE;
        e->n--;
    }
    sp_lock_put(&e->lock);
    return n;
}

static void free_batch(event *ev, size_t n)
{
    for (size_t i = 0; i < n; i++)
        sp_mem_free(ev[i].b.salt);
}

/* Everything a source holds, behind a CLEARED; the caller frees *out with free_batch. */
static size_t copy_all(event **out, sp_events *e, sp_events_source *s)
{
    size_t n = 1;
    sp_lock_get(&e->lock);
    event *all = sp_mem_array(s->n_block + 1, sizeof *all);
    if (all)
        all[0] = (event){.source = s, .kind = CLEARED};
    for (size_t i = 0; all && i < s->n_slot; i++)
        if (s->table[i].used) {
            all[n] = (event){s, STORED, s->table[i]};
            all[n].b.salt = s->table[i].salt ? sp_mem_strdup(s->table[i].salt) : NULL;
            n++;
        }
    sp_lock_put(&e->lock);
    *out = all;
    return all ? n : 0;
}

/* Sources that are gone and of which nothing waits. */
static void drop_gone(sp_events *e)
{
    sp_events_source *gone = NULL;
    sp_lock_get(&e->lock);
    for (sp_events_source **at = &e->sources; e->n == 0 && !e->lost && *at;) {
        sp_events_source *s = *at;
        if (!s->gone) {
            at = &s->next;
            continue;
        }
        *at = s->next;
        s->next = gone;
        gone = s;
    }
    sp_lock_put(&e->lock);
    while (gone) {
        sp_events_source *s = gone;
        gone = s->next;
        sp_events_source_free(s);
    }
}

/* The i-th source; NULL: there are not so many. Sources leave the list on this thread only. */
static sp_events_source *source_at(sp_events *e, size_t i)
{
    sp_lock_get(&e->lock);
    sp_events_source *s = e->sources;
    while (s && i--)
        s = s->next;
    sp_lock_put(&e->lock);
    return s;
}

/* Events were dropped: from here on subscribers know what is held, and what happens then. */
static void tell_anew(sp_events *e)
{
    sp_lock_get(&e->lock);
    bool lost = e->lost;
    e->lost = false; /* before copying: what happens meanwhile comes behind */
    sp_lock_put(&e->lock);
    event *all;
    sp_events_source *s;
    for (size_t i = 0; lost && (s = source_at(e, i)); i++) {
        size_t n = copy_all(&all, e, s);
        for (size_t at = 0; at < n; at += BATCH)
            publish(e, all + at, n - at < BATCH ? n - at : BATCH);
        free_batch(all, n);
        sp_mem_free(all);
    }
}

/* --- repeating -------------------------------------------------------------------------------- */

typedef struct asked {
    uint8_t who[256];
    size_t n_who;
    uint64_t from;
} asked;

/* One request: identity, an empty frame, 8 bytes. false: it is none. */
static bool read_request(sp_events *e, asked *out)
{
    uint8_t part[256];
    size_t n_part = 0, more_bytes;
    int more = 1;
    bool fine = true;
    *out = (asked){0};
    while (more) {
        int n = zmq_recv(e->router, part, sizeof part, ZMQ_DONTWAIT);
        if (n < 0)
            return false;
        fine = fine && n <= (int)sizeof part;
        if (n_part == 0 && fine) {
            memcpy(out->who, part, (size_t)n);
            out->n_who = (size_t)n;
        } else if (n_part == 2 && n == 8) {
            for (int i = 0; i < 8; i++)
                out->from = out->from << 8 | part[i];
        } else {
            fine = fine && n_part == 1 && n == 0;
        }
        n_part++;
        more_bytes = sizeof more;
        if (zmq_getsockopt(e->router, ZMQ_RCVMORE, &more, &more_bytes) != 0)
            return false;
    }
    return fine && n_part == 3;
}

/* One message of the answer. false: whoever asked takes no more. */
static bool answer(sp_events *e, const asked *q, const char *topic, size_t n_topic, uint64_t seq,
                   const char *body, size_t n_body)
{
    uint8_t number[8];
    put_seq(number, seq);
    return zmq_send(e->router, q->who, q->n_who, ZMQ_SNDMORE) >= 0 &&
           zmq_send(e->router, "", 0, ZMQ_SNDMORE) >= 0 &&
           zmq_send(e->router, topic, n_topic, ZMQ_SNDMORE) >= 0 &&
           zmq_send(e->router, number, 8, ZMQ_SNDMORE) >= 0 &&
           zmq_send(e->router, body, n_body, 0) >= 0;
}

/* In the place of messages [from, to) that are not kept any more: of each source what it holds, as
 * far as there are numbers, then nothing. */
static bool answer_instead(sp_events *e, const asked *q, uint64_t from, uint64_t to)
{
    char topic[300] = "kv@";
    size_t n_topic = 3;
    bool fine = true;
    sp_events_source *s;
    event *all;
    for (size_t i = 0; fine && (s = source_at(e, i)) && from < to; i++) {
        msgpack_sbuffer body;
        msgpack_sbuffer_init(&body);
        size_t n = copy_all(&all, e, s);
        n_topic = put_topic(topic, sizeof topic, e, s);
        pack_batch(&body, all, n);
        fine = answer(e, q, topic, n_topic, from++, body.data, body.size);
        msgpack_sbuffer_destroy(&body);
        free_batch(all, n);
        sp_mem_free(all);
    }
    msgpack_sbuffer none;
    msgpack_sbuffer_init(&none);
    pack_batch(&none, NULL, 0);
    for (; fine && from < to; from++)
        fine = answer(e, q, topic, n_topic, from, none.data, none.size);
    msgpack_sbuffer_destroy(&none);
    return fine;
}

static void repeat(sp_events *e, const asked *q)
{
    uint64_t oldest = e->seq > KEPT ? e->seq - KEPT : 0, from = q->from;
    bool fine = true;
    while (oldest < e->seq && !e->kept[oldest % KEPT].p)
        oldest++;
    if (from < oldest) {
        fine = answer_instead(e, q, from, oldest);
        from = oldest;
    }
    for (; fine && from < e->seq; from++) {
        const message *m = &e->kept[from % KEPT];
        fine = !m->p || answer(e, q, m->p, m->n_topic, from, m->p + m->n_topic, m->n_payload);
    }
    if (fine)
        (void)!answer(e, q, "kv@", 3, UINT64_MAX, "", 0);
}

void *sp_events_main(void *arg)
{
    sp_events *e = arg;
    while (!atomic_load(&e->stop)) {
        asked q;
        zmq_pollitem_t item = {.socket = e->router, .events = ZMQ_POLLIN};
        (void)!zmq_poll(&item, e->router ? 1 : 0, TICK_MS);
        tell_anew(e);
        for (size_t n; (n = take_batch(e));) {
            publish(e, e->batch, n);
            free_batch(e->batch, n);
        }
        drop_gone(e);
        if (e->router && (item.revents & ZMQ_POLLIN) && read_request(e, &q))
            repeat(e, &q);
    }
    return NULL;
}
