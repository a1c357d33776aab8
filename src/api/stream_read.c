/* Who reads a stream: the request that began it, or another one later; and the routes. */
#include "api/stream_int.h"

#include "api/params.h"
#include "base/clock.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { PART = 256 << 10 /* bytes that a reader is given at once */, PING_S = 5 };

/* --- readers ---------------------------------------------------------------------------------- */

static sp_err read_start(void *arg, sp_http_reply *reply)
{
    const sp_stream_reader *r = arg;
    reply->status = 200;
    reply->type = "text/event-stream; charset=utf-8";
    reply->stream = true;
    sp_http_reply_header(reply, "Cache-Control", "no-cache");
    sp_http_reply_header(reply, "X-Accel-Buffering", "no");
    if (r->name[0]) /* the request that began it has the name already */
        sp_http_reply_header(reply, "X-Sparing-Stream-Id", r->name);
    return SP_OK;
}

static void read_pull(void *arg, sp_buf *out, bool ping, bool *done)
{
    sp_stream_reader *r = arg;
    sp_stream *s = r->s;
    sp_lock_get(&s->all->lock);
    uint64_t end = s->base + s->ring.len;
    bool lost = r->at < s->base;
    size_t n = lost ? 0 : (size_t)(end - r->at);
    n = n < PART ? n : PART;
    if (n)
        sp_buf_put(out, s->ring.p + (r->at - s->base), n);
    r->at += n;
    if (!lost && r->at == end && r->progress != s->n_progress && s->progress[0])
        sp_buf_puts(out, s->progress);
    r->progress = s->n_progress;
    *done = lost || (s->over && r->at == end);
    sp_lock_put(&s->all->lock);
    r->silent = out->len ? 0 : r->silent + ping;
    if (r->silent < PING_S)
        return;
    sp_buf_puts(out, ": ping\n\n");
    r->silent = 0;
}

static void read_close(void *arg)
{
    sp_stream_reader *r = arg;
    sp_stream *s = r->s;
    sp_lock_get(&s->all->lock);
    while (s->waking)
        sp_lock_wait(&s->all->lock, &s->all->changed, 0);
    for (size_t i = 0; i < SP_STREAM_READERS; i++)
        s->reader[i] = s->reader[i] == r ? NULL : s->reader[i];
    sp_lock_put(&s->all->lock);
    sp_stream_put(s);
    sp_mem_free(r);
}

/* at: the byte to begin with. */
static sp_err attach(sp_http_task *task, sp_stream *s, uint64_t at, const char *name, sp_work *work,
                     sp_diag *d)
{
    sp_stream_reader *r = sp_mem_alloc(sizeof *r);
    if (!r)
        return SP_FAIL(d, SP_NOMEM, "request");
    *r = (sp_stream_reader){.s = s, .work = work, .at = at};
    snprintf(r->name, sizeof r->name, "%s", name ? name : "");
    size_t i = 0;
    sp_lock_get(&s->all->lock);
    while (i < SP_STREAM_READERS && s->reader[i])
        i++;
    if (i < SP_STREAM_READERS) {
        s->reader[i] = r;
        s->ref++;
    }
    sp_lock_put(&s->all->lock);
    if (i == SP_STREAM_READERS) {
        sp_mem_free(r);
        return SP_FAIL(d, SP_LIMIT, "%d requests read this stream already", SP_STREAM_READERS);
    }
    *task = (sp_http_task){r, read_start, read_pull, read_close};
    return SP_OK;
}

sp_err sp_stream_attach(sp_http_task *task, sp_stream *s, const char *name, sp_work *work,
                        sp_diag *d)
{
    return attach(task, s, 0, name, work, d);
}

/* --- routes ----------------------------------------------------------------------------------- */

static void refuse(sp_http_reply *reply, int status, const char *message, const char *code)
{
    reply->status = status;
    reply->type = "application/json";
    sp_api_error(&reply->body, status, message, NULL, code);
}

static void put_stream(sp_buf *out, const sp_stream *s)
{
    sp_buf_printf(out, "{\"id\":\"%s\",\"object\":\"stream\",\"created_at\":%lld,\"conversation\":",
                  s->id, (long long)s->created);
    sp_buf_json_str(out, s->conv, strlen(s->conv));
    sp_buf_puts(out, ",\"message\":");
    sp_buf_json_str(out, s->message, strlen(s->message));
    sp_buf_puts(out, ",\"answer\":");
    sp_buf_json_str(out, s->answer, strlen(s->answer));
    sp_buf_printf(out, ",\"live\":%s,\"last_event\":%llu}", s->over ? "false" : "true",
                  (unsigned long long)s->n_event);
}

static void list(sp_streams *all, const char *tenant, sp_http_reply *reply)
{
    bool first = true;
    reply->status = 200;
    reply->type = "application/json";
    sp_buf_puts(&reply->body, "{\"object\":\"list\",\"data\":[");
    sp_lock_get(&all->lock);
    for (const sp_stream *s = all->first; s; s = s->next) {
        if (strcmp(s->tenant, tenant) != 0 || !s->source.arg)
            continue;
        sp_buf_puts(&reply->body, first ? "" : ",");
        put_stream(&reply->body, s);
        first = false;
    }
    sp_lock_put(&all->lock);
    sp_buf_puts(&reply->body, "]}");
}

static sp_stream *hold(sp_streams *all, const char *tenant, const char *id)
{
    sp_lock_get(&all->lock);
    sp_stream *s = all->first;
    while (s && (strcmp(s->id, id) != 0 || strcmp(s->tenant, tenant) != 0))
        s = s->next;
    if (s)
        s->ref++;
    sp_lock_put(&all->lock);
    return s;
}

/* The byte behind event n; false: it, or the one behind it, is no longer kept. Under the lock. */
static bool find_event(const sp_stream *s, uint64_t n, uint64_t *at)
{
    const char *p = s->ring.p, *end = p + s->ring.len;
    *at = s->base;
    if (n == 0)
        return s->base == 0;
    while (p && p < end) {
        const char *next = memmem(p, (size_t)(end - p), "\n\n", 2);
        next = next ? next + 2 : end;
        uint64_t id = strncmp(p, "id: ", 4) == 0 ? strtoull(p + 4, NULL, 10) : 0;
        if (id > n)
            return false; /* the first that is left is behind it */
        if (id == n) {
            *at = s->base + (uint64_t)(next - s->ring.p);
            return true;
        }
        p = next;
    }
    *at = s->base + s->ring.len;
    return n == s->n_event; /* it went, and none came after it */
}

static void replay(sp_stream *s, const sp_api_req *req, sp_http_reply *reply, sp_http_task *task)
{
    const char *last = sp_http_header(req->http, "Last-Event-ID");
    char *end = NULL;
    unsigned long long n = last ? strtoull(last, &end, 10) : 0;
    uint64_t at;
    sp_diag d = {0};
    sp_lock_get(&s->all->lock);
    bool is_number = !last || (last[0] >= '0' && last[0] <= '9' && !*end), known = n <= s->n_event;
    bool kept = is_number && known && find_event(s, n, &at);
    sp_lock_put(&s->all->lock);
    if (!is_number || !known)
        refuse(reply, 400, "Last-Event-ID is not the number of an event of this stream", NULL);
    else if (!kept)
        refuse(reply, 410, "the events behind this one are no longer kept; read the message",
               "events_gone");
    else if (attach(task, s, at, s->id, req->work, &d) != SP_OK)
        (void)sp_api_reply(reply, &d);
}

static void stop(sp_stream *s, sp_http_reply *reply)
{
    sp_lock_get(&s->all->lock);
    s->stop = s->rung = true;
    pthread_cond_signal(&s->all->work);
    sp_lock_put(&s->all->lock);
    reply->status = 200;
    reply->type = "application/json";
    sp_buf_printf(&reply->body, "{\"id\":\"%s\",\"object\":\"stream.stopped\",\"stopped\":true}",
                  s->id);
}

void sp_api_streams(sp_app *app, const sp_api_req *req, const char *tenant, sp_http_reply *reply,
                    sp_http_task *task)
{
    static const char base[] = "/v1/streams";
    const char *id = req->path + sizeof base - 1;
    if (*id != '/') {
        list(app->streams, tenant, reply);
        return;
    }
    sp_stream *s = hold(app->streams, tenant, id + 1);
    if (!s)
        refuse(reply, 404,
               "there is no such stream; it ended more than ten minutes ago, or never was",
               "not_found");
    else if (strcmp(req->method, "DELETE") == 0)
        stop(s, reply);
    else
        replay(s, req, reply, task);
    sp_stream_put(s);
}
