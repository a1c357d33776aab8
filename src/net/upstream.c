/* Invariants:
 * 1. A call's events end with exactly one FINISH or ERROR, which its thread posts last.
 * 2. A call lives until its thread has ended and its owner has let go.
 * 3. `failed` counts failures in a row; at OPEN_AFTER the circuit is open until `until`, then
 * `trying` lets one call through. */
#include "net/upstream.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"
#include "net/silence.h"

#include <curl/curl.h>
#include <jansson.h>
#include <stdatomic.h>
#include <stdlib.h>
#include <string.h>

enum { OPEN_AFTER = 3, MOST_WAIT_MS = 60000, MAX_LINE = 4 << 20, ERROR_BYTES = 200 };
/* a token's chunk has some 300 bytes, some 3,000 with log-probabilities */
enum { BYTES_BASE = 1 << 20, BYTES_TOK = 8192, MAX_USAGE = 1 << 30 };

struct sp_upstream {
    sp_upstream_cfg cfg;
    char *url, *auth, *model;
    sp_lock lock; /* rank NET */
    pthread_cond_t changed;
    size_t n_call, failed; /* guard: lock, as the rest */
    uint64_t until;
    bool trying;
    sp_metric *ok, *bad, *refused, *open;
};

struct sp_call {
    sp_upstream *owner;
    int ref; /* guard: lock, as events and notify */
    bool notifying, probe;
    sp_event *events, **tail;
    _Atomic bool cancel;
    void (*notify)(void *arg);
    void *arg;
    /* owner: the call's thread */
    sp_buf body, line, error;
    char trace[96];
    sp_event *last;
    sp_diag diag;
    bool got_end, cut; /* cut: enough was read */
    sp_finish finish;
    size_t n_prompt, n_known, n_out, n_piece, max_tok;
    uint64_t n_byte;
    sp_silence silence;
};

static void call_unref(sp_call *c)
{
    sp_upstream *u = c->owner;
    sp_lock_get(&u->lock);
    bool last = --c->ref == 0;
    sp_lock_put(&u->lock);
    if (!last)
        return;
    while (c->events) {
        sp_event *e = c->events;
        c->events = e->next;
        sp_event_free(e);
    }
    sp_event_free(c->last);
    sp_buf_fini(&c->body);
    sp_buf_fini(&c->line);
    sp_buf_fini(&c->error);
    sp_mem_free(c);
}

static void post(sp_call *c, sp_event *e)
{
    sp_upstream *u = c->owner;
    sp_lock_get(&u->lock);
    *c->tail = e;
    c->tail = &e->next;
    void (*notify)(void *) = c->notify;
    void *arg = c->arg;
    c->notifying = notify != NULL;
    sp_lock_put(&u->lock);
    if (notify)
        notify(arg);
    sp_lock_get(&u->lock);
    c->notifying = false;
    pthread_cond_broadcast(&u->changed);
    sp_lock_put(&u->lock);
}

/* --- what comes back -------------------------------------------------------------------------- */

static sp_err take_text(sp_call *c, sp_event_kind kind, const char *text, size_t n)
{
    sp_event *e = n ? sp_mem_alloc(sizeof *e) : NULL;
    if (!n)
        return SP_OK;
    if (!e)
        return SP_FAIL(&c->diag, SP_NOMEM, "upstream");
    e->kind = kind;
    sp_buf_put(&e->text, text, n);
    if (e->text.failed) {
        sp_event_free(e);
        return SP_FAIL(&c->diag, SP_NOMEM, "upstream");
    }
    c->n_piece++;
    post(c, e);
    return SP_OK;
}

static sp_err take_calls(sp_call *c, const json_t *calls)
{
    char *text =
        json_is_array(calls) && json_array_size(calls) ? json_dumps(calls, JSON_COMPACT) : NULL;
    sp_err err = text ? take_text(c, SP_EVENT_CALLS, text, strlen(text)) : SP_OK;
    free(text);
    return err;
}

static sp_finish finish_of(const char *reason)
{
    static const struct { const char *name; sp_finish finish; } of[] = {
        {"length", SP_FINISH_LENGTH}, {"content_filter", SP_FINISH_FILTER},
        {"tool_calls", SP_FINISH_CALLS}, {"function_call", SP_FINISH_CALLS}};
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)
        if (strcmp(of[i].name, reason) == 0)
            return of[i].finish;
    return SP_FINISH_STOP;
}

/* A count that can be one; another one is as good as none. */
static void take_count(size_t *out, const json_t *usage, const char *key)
{
    json_int_t n = json_integer_value(json_object_get(usage, key));
    if (n > 0 && n <= MAX_USAGE)
        *out = (size_t)n;
}

/* An answer longer than asked for ends here: the other server did not keep to max_tokens. */
static sp_err check_length(sp_call *c)
{
    if (c->n_piece < c->max_tok || c->got_end)
        return SP_OK;
    c->got_end = c->cut = true;
    c->finish = SP_FINISH_LENGTH;
    return SP_CANCEL;
}

/* One `data:` line of the stream. */
static sp_err take_data(sp_call *c, const char *p, size_t n)
{
    if (n == 6 && memcmp(p, "[DONE]", 6) == 0)
        return SP_OK;
    json_t *j = json_loadb(p, n, JSON_ALLOW_NUL, NULL);
    const json_t *choice = json_array_get(json_object_get(j, "choices"), 0),
                 *usage = json_object_get(j, "usage"), *error = json_object_get(j, "error");
    const json_t *delta = json_object_get(choice, "delta"),
                 *text = json_object_get(delta, "content");
    const char *reason = json_string_value(json_object_get(choice, "finish_reason"));
    sp_err err =
        json_is_object(j) ? SP_OK : SP_FAIL(&c->diag, SP_NET, "upstream sent what is not JSON");
    if (err == SP_OK && error)
        err = SP_FAIL(&c->diag, SP_NET, "upstream: %.150s",
                      json_string_value(json_object_get(error, "message"))
                          ? json_string_value(json_object_get(error, "message"))
                          : "error");
    if (err == SP_OK && json_string_length(text) && !c->got_end && (err = check_length(c)) == SP_OK)
        err = take_text(c, SP_EVENT_TEXT, json_string_value(text), json_string_length(text));
    if (err == SP_OK && !c->got_end)
        err = take_calls(c, json_object_get(delta, "tool_calls"));
    if (err == SP_OK && reason) {
        c->got_end = true;
        c->finish = finish_of(reason);
    }
    take_count(&c->n_prompt, usage, "prompt_tokens");
    take_count(&c->n_known, json_object_get(usage, "prompt_tokens_details"), "cached_tokens");
    take_count(&c->n_out, usage, "completion_tokens");
    json_decref(j);
    return err;
}

static size_t on_write(char *p, size_t size, size_t n, void *arg)
{
    sp_call *c = arg;
    size_t got = size * n, from = c->line.len;
    c->n_byte += got;
    if (c->n_byte > BYTES_BASE + (uint64_t)c->max_tok * BYTES_TOK || c->line.len + got > MAX_LINE) {
        (void)SP_FAIL(&c->diag, SP_NET, "upstream sent more than %llu bytes",
                      (unsigned long long)c->n_byte - got);
        return 0;
    }
    sp_buf_put(&c->line, p, got);
    if (c->line.failed)
        return 0;
    if (c->error.len < ERROR_BYTES) /* if it turns out not to be a stream */
        sp_buf_put(&c->error, p,
                   got < ERROR_BYTES - c->error.len ? got : ERROR_BYTES - c->error.len);
    size_t begin = 0;
    for (size_t i = from; i < c->line.len; i++) {
        if (c->line.p[i] != '\n')
            continue;
        size_t end = i > begin && c->line.p[i - 1] == '\r' ? i - 1 : i;
        const char *line = c->line.p + begin;
        if (end - begin > 5 && memcmp(line, "data:", 5) == 0) {
            size_t skip = line[5] == ' ' ? 6 : 5;
            if (take_data(c, line + skip, end - begin - skip) != SP_OK)
                return 0;
        }
        begin = i + 1;
    }
    sp_buf_drop(&c->line, begin);
    return got;
}

static int on_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t x, curl_off_t y)
{
    sp_call *c = arg;
    (void)a, (void)x;
    return atomic_load(&c->cancel) ||
           sp_silence_is_over(&c->silence, b, y, c->owner->cfg.silence_ms);
}

/* What another server's status means for our client: its own fault, a busy server, or a server that
 * fails. A key that is refused is ours, not the client's. */
static sp_err code_of(long status)
{
    return status == 400 || status == 413 || status == 422 ? SP_INVAL
           : status == 429 || status == 503                ? SP_AGAIN
           : status == 408 || status == 504                ? SP_TIMEOUT
                                                           : SP_NET;
}

/* --- the call --------------------------------------------------------------------------------- */

static sp_err perform(sp_call *c)
{
    sp_upstream *u = c->owner;
    CURL *h = curl_easy_init();
    struct curl_slist *list = curl_slist_append(NULL, "Content-Type: application/json");
    list = u->auth ? curl_slist_append(list, u->auth) : list;
    list = c->trace[0] ? curl_slist_append(list, c->trace) : list;
    if (!h || !list) {
        curl_slist_free_all(list);
        curl_easy_cleanup(h);
        return SP_FAIL(&c->diag, SP_NOMEM, "upstream");
    }
    curl_easy_setopt(h, CURLOPT_URL, u->url);
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, list);
    curl_easy_setopt(h, CURLOPT_POSTFIELDS, sp_buf_str(&c->body));
    curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)c->body.len);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_write);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, c);
    curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, (long)u->cfg.connect_ms);
    /* one that sends a byte now and then is never silent */
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)u->cfg.total_ms);
    curl_easy_setopt(h, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(h, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(h, CURLOPT_XFERINFODATA, c);
    sp_silence_begin(&c->silence);
    CURLcode code = curl_easy_perform(h);
    long status = 0;
    curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &status);
    curl_slist_free_all(list);
    curl_easy_cleanup(h);
    if (atomic_load(&c->cancel))
        return SP_FAIL(&c->diag, SP_CANCEL, "cancelled");
    if (c->diag.code)
        return c->diag.code;
    if (c->cut)
        return SP_OK;
    if (code == CURLE_OPERATION_TIMEDOUT || c->silence.is_over)
        return SP_FAIL(&c->diag, SP_TIMEOUT, "upstream did not answer in time");
    if (code != CURLE_OK)
        return SP_FAIL(&c->diag, SP_NET, "upstream: %s", curl_easy_strerror(code));
    if (status != 200)
        return SP_FAIL(&c->diag, code_of(status), "upstream answered with %ld: %.120s", status,
                       sp_buf_str(&c->error));
    return c->got_end ? SP_OK : SP_FAIL(&c->diag, SP_NET, "upstream ended in mid-answer");
}

/* The circuit learns how a call went. One that was cancelled says nothing, nor does a request that
 * is refused: else one client's bad requests would close the way for all. */
static void learn(sp_call *c, sp_err err)
{
    sp_upstream *u = c->owner;
    sp_lock_get(&u->lock);
    u->trying = u->trying && !c->probe;
    if (err == SP_OK) {
        u->failed = 0;
        u->until = 0;
    } else if (err != SP_CANCEL && err != SP_INVAL) {
        u->failed++;
        uint64_t wait = u->cfg.retry_ms;
        for (size_t i = OPEN_AFTER; i < u->failed && wait < MOST_WAIT_MS; i++)
            wait *= 2;
        if (u->failed >= OPEN_AFTER)
            u->until = sp_clock_ns() + (wait < MOST_WAIT_MS ? wait : MOST_WAIT_MS) * 1000000u;
    }
    sp_metric_set(u->open, u->failed >= OPEN_AFTER);
    sp_metric_add(err == SP_OK ? u->ok : u->bad, err != SP_CANCEL);
    sp_lock_put(&u->lock);
}

static void *call_main(void *arg)
{
    sp_call *c = arg;
    sp_upstream *u = c->owner;
    sp_err err = perform(c);
    learn(c, err);
    sp_event *e = c->last;
    c->last = NULL;
    e->kind = err == SP_OK ? SP_EVENT_FINISH : SP_EVENT_ERROR;
    e->finish = c->finish;
    e->diag = c->diag;
    e->n_prompt = c->n_prompt;
    c->n_out = c->n_out ? c->n_out : c->n_piece; /* no usage came */
    e->receipt =
        (sp_receipt){.path = SP_PATH_UPSTREAM,
                     .tok_out = c->n_out,
                     .steps = c->n_out,
                     .tok_away = c->n_prompt,
                     .tok_away_known = c->n_known < c->n_prompt ? c->n_known : c->n_prompt};
    post(c, e);
    call_unref(c);
    sp_lock_get(&u->lock);
    u->n_call--;
    pthread_cond_broadcast(&u->changed);
    sp_lock_put(&u->lock);
    return NULL;
}

static void put_body(sp_buf *b, const sp_upstream *u, const sp_call_cfg *cfg)
{
    sp_buf_puts(b, "{\"model\":");
    sp_buf_json_str(b, u->model, strlen(u->model));
    sp_buf_printf(b,
                  ",\"messages\":%s,\"max_tokens\":%zu,\"temperature\":%.6g,\"top_p\":%.6g,"
                  "\"stream\":true,\"stream_options\":{\"include_usage\":true}",
                  cfg->messages, cfg->max_tok, cfg->temperature, cfg->top_p);
    if (cfg->presence != 0 || cfg->frequency != 0)
        sp_buf_printf(b, ",\"presence_penalty\":%.6g,\"frequency_penalty\":%.6g", cfg->presence,
                      cfg->frequency);
    if (cfg->seed >= 0)
        sp_buf_printf(b, ",\"seed\":%lld", (long long)cfg->seed);
    if (cfg->stop)
        sp_buf_printf(b, ",\"stop\":%s", cfg->stop);
    if (cfg->tools)
        sp_buf_printf(b, ",\"tools\":%s", cfg->tools);
    if (cfg->tools && cfg->tool_choice)
        sp_buf_printf(b, ",\"tool_choice\":%s", cfg->tool_choice);
    sp_buf_putc(b, '}');
}

/* Takes a place; SP_AGAIN: the circuit is open. */
static sp_err take_place(sp_upstream *u, sp_call *c, sp_diag *d)
{
    sp_err err = SP_OK;
    sp_lock_get(&u->lock);
    if (u->failed >= OPEN_AFTER && (u->trying || sp_clock_ns() < u->until))
        err =
            SP_FAIL(d, SP_AGAIN, "upstream failed %zu times in a row and is left alone for a while",
                    u->failed);
    else if (u->n_call >= u->cfg.cap_call)
        err = SP_FAIL(d, SP_LIMIT, "%zu requests are upstream already", u->n_call);
    if (err == SP_OK) {
        c->probe = u->trying = u->failed >= OPEN_AFTER;
        u->n_call++;
    }
    sp_metric_add(u->refused, err != SP_OK);
    sp_lock_put(&u->lock);
    return err;
}

sp_err sp_call_start(sp_call **out, sp_upstream *u, const sp_call_cfg *cfg, sp_diag *d)
{
    pthread_t thread;
    pthread_attr_t attr;
    if (u->cfg.guard)
        SP_TRY(u->cfg.guard(u->cfg.guard_arg, cfg->facts, d));
    sp_call *c = sp_mem_alloc(sizeof *c);
    if (!c)
        return SP_FAIL(d, SP_NOMEM, "upstream");
    c->owner = u;
    c->ref = 2;
    c->tail = &c->events;
    c->notify = cfg->notify;
    c->arg = cfg->arg;
    c->max_tok = cfg->max_tok;
    c->last = sp_mem_alloc(sizeof *c->last);
    put_body(&c->body, u, cfg);
    if (cfg->traceparent)
        snprintf(c->trace, sizeof c->trace, "traceparent: %s", cfg->traceparent);
    sp_err err =
        c->last && !c->body.failed ? take_place(u, c, d) : SP_FAIL(d, SP_NOMEM, "upstream");
    if (err != SP_OK) {
        c->ref = 1;
        call_unref(c);
        return err;
    }
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (pthread_create(&thread, &attr, call_main, c) != 0) {
        sp_lock_get(&u->lock);
        u->n_call--;
        u->trying = u->trying && !c->probe;
        c->ref = 1;
        sp_lock_put(&u->lock);
        call_unref(c);
        err = SP_FAIL(d, SP_NOMEM, "upstream: no thread");
    } else {
        *out = c;
    }
    pthread_attr_destroy(&attr);
    return err;
}

sp_event *sp_call_next(sp_call *c)
{
    sp_lock_get(&c->owner->lock);
    sp_event *e = c->events;
    if (e) {
        c->events = e->next;
        if (!c->events)
            c->tail = &c->events;
        e->next = NULL;
    }
    sp_lock_put(&c->owner->lock);
    return e;
}

void sp_call_put(sp_call *c)
{
    if (!c)
        return;
    sp_upstream *u = c->owner;
    atomic_store(&c->cancel, true);
    sp_lock_get(&u->lock);
    c->notify = NULL;
    while (c->notifying)
        sp_lock_wait(&u->lock, &u->changed, 0);
    sp_lock_put(&u->lock);
    call_unref(c);
}

/* --- the server ------------------------------------------------------------------------------- */

sp_err sp_upstream_new(sp_upstream **out, const sp_upstream_cfg *cfg, sp_diag *d)
{
    sp_buf url = {0}, auth = {0};
    if (strncmp(cfg->url, "http://", 7) != 0 && strncmp(cfg->url, "https://", 8) != 0)
        return SP_FAIL(d, SP_INVAL, "upstream: %.80s does not begin with http:// or https://",
                       cfg->url);
    sp_upstream *u = sp_mem_alloc(sizeof *u);
    if (!u || curl_global_init(CURL_GLOBAL_DEFAULT) != 0) { /* here, while there is one thread */
        sp_mem_free(u);
        return SP_FAIL(d, SP_NOMEM, "upstream");
    }
    u->cfg = *cfg;
    sp_lock_init(&u->lock, SP_RANK_NET);
    sp_lock_cond_init(&u->changed);
    size_t n = strlen(cfg->url);
    while (n && cfg->url[n - 1] == '/')
        n--;
    sp_buf_printf(&url, "%.*s/chat/completions", (int)n, cfg->url);
    sp_buf_printf(&auth, "Authorization: Bearer %s", cfg->key ? cfg->key : "");
    u->url = sp_mem_strdup(sp_buf_str(&url));
    u->auth = cfg->key ? sp_mem_strdup(sp_buf_str(&auth)) : NULL;
    u->model = sp_mem_strdup(cfg->model ? cfg->model : "default");
    u->ok = sp_metric_counter(cfg->metrics, "sparing_upstream_calls_total",
                              "Requests sent to the other server.", "result=\"ok\"");
    u->bad = sp_metric_counter(cfg->metrics, "sparing_upstream_calls_total",
                               "Requests sent to the other server.", "result=\"failed\"");
    u->refused = sp_metric_counter(cfg->metrics, "sparing_upstream_calls_total",
                                   "Requests sent to the other server.", "result=\"refused\"");
    u->open =
        sp_metric_gauge(cfg->metrics, "sparing_upstream_circuit_open",
                        "1: it failed three times in a row and is left alone for a while.", NULL);
    bool ok = u->url && u->model && (u->auth || !cfg->key) && !url.failed && !auth.failed;
    sp_buf_fini(&url);
    sp_buf_fini(&auth);
    if (ok)
        *out = u;
    else
        sp_upstream_free(u);
    return ok ? SP_OK : SP_FAIL(d, SP_NOMEM, "upstream");
}

void sp_upstream_free(sp_upstream *u)
{
    if (!u)
        return;
    sp_lock_get(&u->lock);
    while (u->n_call)
        sp_lock_wait(&u->lock, &u->changed, 0);
    sp_lock_put(&u->lock);
    sp_lock_fini(&u->lock);
    pthread_cond_destroy(&u->changed);
    sp_mem_free(u->url);
    sp_mem_free(u->auth);
    sp_mem_free(u->model);
    sp_mem_free(u);
    curl_global_cleanup();
}

bool sp_upstream_is_open(sp_upstream *u)
{
    sp_lock_get(&u->lock);
    bool open = u->failed >= OPEN_AFTER && (u->trying || sp_clock_ns() < u->until);
    sp_lock_put(&u->lock);
    return open;
}

uint64_t sp_upstream_wait_ms(sp_upstream *u)
{
    uint64_t now = sp_clock_ns();
    sp_lock_get(&u->lock);
    uint64_t ms = u->failed >= OPEN_AFTER && now < u->until ? (u->until - now) / 1000000 + 1 : 0;
    sp_lock_put(&u->lock);
    return ms;
}
