/* Streams, and the thread that runs them. */
#include "api/stream_int.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { RING = 1 << 20, MAX_ALL = 1024, MAX_TENANT = 64, ALL_BYTES = 128 << 20, TICK_MS = 250 };
static const uint64_t KEEP_NS = 600ull * 1000000000u, TICK_NS = TICK_MS * 1000000ull;

typedef struct deferred {
    sp_op op;
    void (*fn)(void *arg);
    void *arg;
} deferred;

/* --- streams as objects ----------------------------------------------------------------------- */

void sp_stream_name(char out[SP_STREAM_ID])
{
    snprintf(out, SP_STREAM_ID, "strm_%016llx%016llx", (unsigned long long)sp_rng_entropy(),
             (unsigned long long)sp_rng_entropy());
}

static void free_stream(sp_stream *s)
{
    sp_op_put(s->deferred);
    sp_buf_fini(&s->ring);
    sp_mem_free(s);
}

void sp_stream_put(sp_stream *s)
{
    if (!s)
        return;
    sp_streams *all = s->all;
    sp_lock_get(&all->lock);
    bool last = --s->ref == 0;
    sp_lock_put(&all->lock);
    if (last)
        free_stream(s);
}

const char *sp_stream_id(const sp_stream *s)
{
    return s->id;
}

static void ring(void *stream)
{
    sp_stream *s = stream;
    sp_lock_get(&s->all->lock);
    s->rung = true;
    pthread_cond_signal(&s->all->work);
    sp_lock_put(&s->all->lock);
}

/* --- what a turn defers ----------------------------------------------------------------------- */

static sp_err run_deferred(void *self, sp_op *op)
{
    deferred *w = (deferred *)op;
    (void)self;
    w->fn(w->arg);
    return SP_OK;
}

static void has_run(void *stream)
{
    sp_stream *s = stream;
    sp_lock_get(&s->all->lock);
    s->busy = false;
    s->rung = true;
    pthread_cond_signal(&s->all->work);
    sp_lock_put(&s->all->lock);
}

static sp_err defer(void *stream, void (*fn)(void *arg), void *arg, sp_diag *d)
{
    sp_stream *s = stream;
    deferred *w = sp_op_new(s->all->desk, sizeof *w);
    if (!w)
        return SP_FAIL(d, SP_NOMEM, "request");
    w->fn = fn;
    w->arg = arg;
    sp_lock_get(&s->all->lock);
    sp_op *old = s->deferred;
    s->deferred = &w->op;
    s->busy = true;
    sp_lock_put(&s->all->lock);
    sp_op_put(old);
    sp_err err = sp_op_submit(&w->op, has_run, s, d);
    if (err != SP_OK) {
        sp_lock_get(&s->all->lock);
        s->busy = false;
        sp_lock_put(&s->all->lock);
    }
    return err;
}

/* --- beginnings ------------------------------------------------------------------------------- */

static size_t live_of(const sp_streams *all, const char *tenant)
{
    size_t n = 0;
    for (const sp_stream *s = all->first; s; s = s->next)
        n += !s->over && strcmp(s->tenant, tenant) == 0;
    return n;
}

sp_err sp_stream_open(sp_stream **out, sp_streams *all, const char *id, const sp_ask *q,
                      sp_turn_run *run, sp_diag *d)
{
    sp_stream *s = sp_mem_alloc(sizeof *s);
    if (!s)
        return SP_FAIL(d, SP_NOMEM, "request");
    s->all = all;
    s->ref = 2; /* the list's and the caller's */
    s->busy = true;
    s->created = sp_clock_wall();
    snprintf(s->id, sizeof s->id, "%s", id);
    snprintf(s->tenant, sizeof s->tenant, "%s", q->tenant);
    snprintf(s->conv, sizeof s->conv, "%s", q->conversation ? q->conversation : "");
    snprintf(s->message, sizeof s->message, "%s", q->message ? q->message : "");
    snprintf(s->answer, sizeof s->answer, "%s", q->id);
    sp_lock_get(&all->lock);
    bool full = live_of(all, q->tenant) >= MAX_TENANT || all->n >= 2 * MAX_ALL;
    if (!full) {
        s->next = all->first;
        all->first = s;
        all->n++;
    }
    sp_lock_put(&all->lock);
    if (full) {
        free_stream(s);
        return SP_FAIL(d, SP_LIMIT,
                       "%d answers that go on without their client are being written already",
                       MAX_TENANT);
    }
    *run = (sp_turn_run){ring, defer, s};
    *out = s;
    return SP_OK;
}

void sp_stream_go(sp_stream *s, const sp_stream_source *source)
{
    s->source = *source;
    has_run(s);
}

void sp_stream_drop(sp_stream *s)
{
    sp_lock_get(&s->all->lock);
    s->over = true; /* without a source; the thread takes it out */
    s->busy = false;
    s->over_ns = 0;
    sp_lock_put(&s->all->lock);
    sp_stream_put(s);
}

sp_stream *sp_stream_find(sp_streams *all, const sp_ask *q)
{
    sp_stream *s = NULL;
    if (!all || !q->message || !q->conversation)
        return NULL;
    sp_lock_get(&all->lock);
    for (s = all->first; s; s = s->next)
        if (!s->over && strcmp(s->message, q->message) == 0 &&
            strcmp(s->conv, q->conversation) == 0 && strcmp(s->tenant, q->tenant) == 0)
            break;
    if (s)
        s->ref++;
    sp_lock_put(&all->lock);
    return s;
}

/* --- events ----------------------------------------------------------------------------------- */

/* Each event gets its number; comments get none. */
static void number_events(sp_stream *s, sp_buf *to, const sp_buf *from)
{
    for (size_t at = 0; at < from->len;) {
        const char *p = from->p + at, *end = memmem(p, from->len - at, "\n\n", 2);
        size_t n = end ? (size_t)(end + 2 - p) : from->len - at;
        if (*p != ':')
            sp_buf_printf(to, "id: %llu\n", (unsigned long long)++s->n_event);
        sp_buf_put(to, p, n);
        at += n;
    }
}

/* What does not fit any more goes, whole events at a time. Under the lock. */
static void drop_old(sp_stream *s)
{
    if (s->ring.len <= RING)
        return;
    size_t least = s->ring.len - RING / 4 * 3;
    const char *end = memmem(s->ring.p + least, s->ring.len - least, "\n\n", 2);
    size_t n = end ? (size_t)(end + 2 - s->ring.p) : s->ring.len;
    sp_buf_drop(&s->ring, n);
    s->base += n;
}

static const char *const stage_names[] = {[SP_STAGE_QUEUE] = "queue",
                                          [SP_STAGE_SEARCH] = "search",
                                          [SP_STAGE_READ] = "read",
                                          [SP_STAGE_WRITE] = "write"};

/* What is being done, where something of it has changed. Returns whether it is to be told. */
static bool put_progress(sp_stream *s, char out[160], uint64_t now)
{
    size_t done = 0, total = 0;
    sp_turn_stage at = sp_turn_stage_of(s->source.turn, &done, &total);
    bool entered = s->stage != stage_names[at];
    if (now - s->told_ns < TICK_NS || (!entered && done == s->stage_done))
        return false;
    if (entered) {
        s->stage = stage_names[at];
        s->stage_ns = now;
        s->stage_from = done;
    }
    s->told_ns = now;
    s->stage_done = done;
    int n = snprintf(
        out, 160,
        "event: sparing.progress\ndata: {\"stage\":\"%s\",\"done\":%zu,\"total\":%zu,\"eta_ms\":",
        s->stage, done, total);
    double each = done > s->stage_from
                      ? (double)(now - s->stage_ns) * 1e-6 / (double)(done - s->stage_from)
                      : 0;
    if (each > 0 && total >= done)
        snprintf(out + n, 160 - (size_t)n, "%.0f}\n\n", each * (double)(total - done));
    else
        snprintf(out + n, 160 - (size_t)n, "null}\n\n");
    return true;
}

static void wake_readers(sp_stream *s)
{
    sp_work *work[SP_STREAM_READERS];
    size_t n = 0;
    sp_lock_get(&s->all->lock);
    for (size_t i = 0; i < SP_STREAM_READERS; i++)
        if (s->reader[i])
            work[n++] = s->reader[i]->work;
    s->waking++;
    sp_lock_put(&s->all->lock);
    for (size_t i = 0; i < n; i++)
        sp_work_wake(work[i]);
    sp_lock_get(&s->all->lock);
    s->waking--;
    pthread_cond_broadcast(&s->all->changed);
    sp_lock_put(&s->all->lock);
}

static bool is_busy(sp_stream *s)
{
    sp_lock_get(&s->all->lock);
    bool busy = s->busy;
    sp_lock_put(&s->all->lock);
    return busy;
}

static void end_stream(sp_stream *s)
{
    s->source.close(s->source.arg);
    sp_lock_get(&s->all->lock);
    s->over = true;
    s->over_ns = sp_clock_ns();
    s->progress[0] = 0;
    sp_lock_put(&s->all->lock);
}

/* What a stream has to tell, as far as it has come. */
static void serve(sp_stream *s, bool stop)
{
    sp_buf out = {0}, numbered = {0};
    char progress[160] = "";
    bool done = false;
    if (stop && !s->stopped)
        sp_turn_stop(s->source.turn);
    s->stopped = s->stopped || stop;
    s->source.pull(s->source.arg, &out, false, &done);
    bool tells = !done && !is_busy(s) && put_progress(s, progress, sp_clock_ns());
    number_events(s, &numbered, &out);
    sp_lock_get(&s->all->lock);
    sp_buf_put(&s->ring, numbered.p, numbered.len);
    drop_old(s);
    if (tells) {
        memcpy(s->progress, progress, sizeof progress);
        s->n_progress++;
    }
    sp_lock_put(&s->all->lock);
    if (done || out.failed || numbered.failed)
        end_stream(s);
    if (out.len || tells || done)
        wake_readers(s);
    sp_buf_fini(&out);
    sp_buf_fini(&numbered);
}

/* --- the thread ------------------------------------------------------------------------------- */

/* The one that goes first: too old, or the oldest of too many. Under the lock. */
static sp_stream **find_old(sp_streams *all, uint64_t now)
{
    sp_stream **oldest = NULL;
    size_t bytes = 0;
    for (sp_stream **at = &all->first; *at; at = &(*at)->next) {
        bytes += (*at)->ring.len;
        if ((*at)->over && (!oldest || (*at)->over_ns < (*oldest)->over_ns))
            oldest = at;
    }
    bool goes =
        oldest && ((*oldest)->over_ns + KEEP_NS < now || all->n > MAX_ALL || bytes > ALL_BYTES);
    return goes ? oldest : NULL;
}

static void forget_old(sp_streams *all)
{
    for (;;) {
        sp_lock_get(&all->lock);
        sp_stream **at = find_old(all, sp_clock_ns()), *s = at ? *at : NULL;
        if (s) {
            *at = s->next;
            all->n--;
        }
        sp_lock_put(&all->lock);
        if (!s)
            return;
        sp_stream_put(s);
    }
}

/* One round over all streams. due: progress may be told. */
static void serve_all(sp_streams *all, bool due)
{
    sp_lock_get(&all->lock);
    sp_stream *s = all->first; /* new ones come before it, and only this thread takes any out */
    while (s) {
        bool ready = !s->over && !s->busy && (s->rung || s->stop || due), stop = s->stop;
        s->rung = s->rung && !ready;
        sp_lock_put(&all->lock);
        if (ready)
            serve(s, stop);
        sp_lock_get(&all->lock);
        s = s->next;
    }
    sp_lock_put(&all->lock);
}

static bool has_work(const sp_streams *all)
{
    for (const sp_stream *s = all->first; s; s = s->next)
        if (!s->over && !s->busy && s->rung)
            return true;
    return false;
}

static void *streams_main(void *arg)
{
    sp_streams *all = arg;
    uint64_t tick = 0;
    for (;;) {
        sp_lock_get(&all->lock);
        if (!has_work(all) && !all->stop)
            sp_lock_wait(&all->lock, &all->work, TICK_NS);
        bool stop = all->stop;
        sp_lock_put(&all->lock);
        if (stop)
            return NULL;
        bool due = sp_clock_ns() - tick >= TICK_NS;
        tick = due ? sp_clock_ns() : tick;
        serve_all(all, due);
        if (due)
            forget_old(all);
    }
}

sp_err sp_streams_start(sp_streams **out, sp_diag *d)
{
    sp_streams *all = sp_mem_alloc(sizeof *all);
    if (!all)
        return SP_FAIL(d, SP_NOMEM, "streams");
    sp_lock_init(&all->lock, SP_RANK_API);
    sp_lock_cond_init(&all->work);
    sp_lock_cond_init(&all->changed);
    sp_err err = sp_desk_start(
        &all->desk, &(sp_desk_cfg){"answers without a client", run_deferred, NULL, NULL, NULL}, d);
    if (err == SP_OK && pthread_create(&all->thread, NULL, streams_main, all) != 0) {
        sp_desk_stop(all->desk);
        err = SP_FAIL(d, SP_NOMEM, "streams: cannot start a thread");
    }
    if (err == SP_OK)
        *out = all;
    else
        sp_mem_free(all);
    return err;
}

void sp_streams_stop(sp_streams *all)
{
    if (!all)
        return;
    sp_lock_get(&all->lock);
    all->stop = true;
    pthread_cond_broadcast(&all->work);
    sp_lock_put(&all->lock);
    pthread_join(all->thread, NULL);
    for (sp_stream *s = all->first; s; s = s->next) {
        sp_op_put(s->deferred); /* it is done, and nobody hears of it */
        s->deferred = NULL;
    }
    sp_desk_stop(all->desk);
    for (sp_stream *s; (s = all->first);) {
        all->first = s->next;
        if (!s->over)
            s->source.close(s->source.arg);
        sp_stream_put(s);
    }
    sp_lock_fini(&all->lock);
    pthread_cond_destroy(&all->work);
    pthread_cond_destroy(&all->changed);
    sp_mem_free(all);
}

size_t sp_streams_live(sp_streams *all)
{
    size_t n = 0;
    if (!all)
        return 0;
    sp_lock_get(&all->lock);
    for (const sp_stream *s = all->first; s; s = s->next)
        n += !s->over;
    sp_lock_put(&all->lock);
    return n;
}
