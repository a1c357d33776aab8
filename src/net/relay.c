/* Invariants:
 * 1. A call lives until its thread has ended and its owner has let go.
 * 2. The head is complete (`has_head`) before a byte of the body is given, and changes no more.
 * 3. `held` is the sum of the calls' bodies. */
#include "net/relay.h"

#include "base/lock.h"
#include "base/mem.h"
#include "net/silence.h"

#include <curl/curl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { FIELD_BYTES = 512, HEAD_BYTES = 16384 };

struct sp_relay {
    sp_relay_cfg cfg;
    char *url, *key;
    sp_lock lock; /* rank NET */
    pthread_cond_t changed;
    size_t n_call, held; /* guard: lock */
};

struct sp_relay_call {
    sp_relay *owner;
    int ref; /* guard: lock, as all up to ended */
    bool notifying, has_head, ended;
    sp_buf waits;
    sp_diag diag;
    void (*notify)(void *arg);
    void *arg;
    _Atomic bool cancel;
    /* owner: the call's thread until has_head */
    sp_relay_head head;
    sp_arena a;
    /* owner: the call's thread */
    CURL *curl;
    sp_silence silence;
    struct curl_slist *fields;
    sp_buf url, body;
    size_t n_head;
};

static void call_unref(sp_relay_call *c)
{
    sp_relay *r = c->owner;
    sp_lock_get(&r->lock);
    bool last = --c->ref == 0;
    if (last)
        r->held -= c->body.len;
    sp_lock_put(&r->lock);
    if (!last)
        return;
    sp_buf_fini(&c->waits);
    sp_buf_fini(&c->url);
    sp_buf_fini(&c->body);
    sp_arena_fini(&c->a);
    curl_slist_free_all(c->fields);
    sp_mem_free(c);
}

/* Tells the owner, who may have let go. */
static void ring(sp_relay_call *c)
{
    sp_relay *r = c->owner;
    sp_lock_get(&r->lock);
    void (*notify)(void *) = c->notify;
    void *arg = c->arg;
    c->notifying = notify != NULL;
    sp_lock_put(&r->lock);
    if (notify)
        notify(arg);
    sp_lock_get(&r->lock);
    c->notifying = false;
    pthread_cond_broadcast(&r->changed);
    sp_lock_put(&r->lock);
}

/* --- what comes back -------------------------------------------------------------------------- */

static bool is_of_connection(const char *name)
{
    static const char *const list[] = {"connection",     "keep-alive",        "transfer-encoding",
                                       "upgrade",        "content-length",    "trailer",
                                       "content-type",   "proxy-authenticate", "te",
                                       "date",           "server",            "set-cookie"};
    for (size_t i = 0; i < sizeof list / sizeof *list; i++)
        if (strcasecmp(name, list[i]) == 0)
            return true;
    return false;
}

static void take_field(sp_relay_call *c, char *line)
{
    char *colon = strchr(line, ':'), *value = colon ? colon + 1 : NULL;
    if (!colon || colon == line)
        return;
    *colon = 0;
    value += strspn(value, " \t");
    size_t n = strlen(value);
    while (n && strchr(" \t\r\n", value[n - 1]))
        value[--n] = 0;
    char *copy = sp_arena_strndup(&c->a, value, n);
    if (strcasecmp(line, "content-type") == 0)
        c->head.type = copy ? copy : "";
    if (is_of_connection(line) || n >= FIELD_BYTES || !copy || c->head.n_field == SP_RELAY_FIELDS)
        return;
    char *name = sp_arena_strndup(&c->a, line, strlen(line));
    if (name)
        c->head.field[c->head.n_field++] = (sp_relay_field){name, copy};
}

/* One line of a head. A status line begins it anew: 100 comes before the answer's own. */
static size_t on_head(char *p, size_t size, size_t n, void *arg)
{
    sp_relay_call *c = arg;
    char line[4096];
    size_t got = size * n;
    if (c->has_head)
        return got; /* what comes behind a body in chunks */
    c->n_head += got;
    if (c->n_head > HEAD_BYTES)
        return 0;
    if (got >= sizeof line)
        return got;
    memcpy(line, p, got);
    line[got] = 0;
    if (strncmp(line, "HTTP/", 5) == 0)
        c->head = (sp_relay_head){.type = ""};
    else
        take_field(c, line);
    return got;
}

/* The head is whole as soon as there is body, or the end. */
static void settle_head(sp_relay_call *c)
{
    long status = 0;
    if (c->has_head)
        return;
    curl_easy_getinfo(c->curl, CURLINFO_RESPONSE_CODE, &status);
    c->head.status = (int)status;
    sp_lock_get(&c->owner->lock);
    c->has_head = status >= 200 && status < 600;
    sp_lock_put(&c->owner->lock);
}

static size_t on_write(char *p, size_t size, size_t n, void *arg)
{
    sp_relay_call *c = arg;
    sp_relay *r = c->owner;
    settle_head(c);
    sp_lock_get(&r->lock);
    while (c->waits.len >= SP_RELAY_WAIT && !atomic_load(&c->cancel))
        sp_lock_wait(&r->lock, &r->changed, 0);
    sp_buf_put(&c->waits, p, size * n);
    bool ok = !c->waits.failed && !atomic_load(&c->cancel);
    sp_lock_put(&r->lock);
    ring(c);
    return ok ? size * n : 0;
}

static int on_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t x, curl_off_t y)
{
    sp_relay_call *c = arg;
    (void)a, (void)x;
    return atomic_load(&c->cancel) ||
           sp_silence_is_over(&c->silence, b, y, c->owner->cfg.silence_ms);
}

/* --- the call --------------------------------------------------------------------------------- */

static void set_options(sp_relay_call *c)
{
    const sp_relay_cfg *cfg = &c->owner->cfg;
    CURL *h = c->curl;
    curl_easy_setopt(h, CURLOPT_URL, sp_buf_str(&c->url));
    curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(h, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_1_1);
    curl_easy_setopt(h, CURLOPT_HTTPHEADER, c->fields);
    if (c->body.len) {
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, c->body.p);
        curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)c->body.len);
    }
    curl_easy_setopt(h, CURLOPT_HEADERFUNCTION, on_head);
    curl_easy_setopt(h, CURLOPT_HEADERDATA, c);
    curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, on_write);
    curl_easy_setopt(h, CURLOPT_WRITEDATA, c);
    curl_easy_setopt(h, CURLOPT_CONNECTTIMEOUT_MS, (long)cfg->connect_ms);
    curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)cfg->total_ms);
    curl_easy_setopt(h, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(h, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(h, CURLOPT_XFERINFODATA, c);
}

static void *call_main(void *arg)
{
    sp_relay_call *c = arg;
    sp_relay *r = c->owner;
    sp_diag d = {0};
    c->curl = curl_easy_init();
    CURLcode code = CURLE_OUT_OF_MEMORY;
    if (c->curl) {
        set_options(c);
        sp_silence_begin(&c->silence);
        code = curl_easy_perform(c->curl);
        if (code == CURLE_OK)
            settle_head(c);
        curl_easy_cleanup(c->curl);
    }
    if (code == CURLE_OPERATION_TIMEDOUT || c->silence.is_over)
        (void)SP_FAIL(&d, SP_TIMEOUT, "the server behind did not answer in time");
    else if (code != CURLE_OK)
        (void)SP_FAIL(&d, SP_NET, "the server behind: %s", curl_easy_strerror(code));
    sp_lock_get(&r->lock);
    c->diag = d;
    c->ended = true;
    sp_lock_put(&r->lock);
    ring(c);
    call_unref(c);
    sp_lock_get(&r->lock);
    r->n_call--;
    pthread_cond_broadcast(&r->changed);
    sp_lock_put(&r->lock);
    return NULL;
}

static bool put_field(sp_relay_call *c, const char *name, const char *value)
{
    sp_buf line = {0};
    sp_buf_printf(&line, "%s: %s", name, value);
    struct curl_slist *more = line.failed ? NULL : curl_slist_append(c->fields, sp_buf_str(&line));
    sp_buf_fini(&line);
    c->fields = more ? more : c->fields;
    return more != NULL;
}

static sp_err fill(sp_relay_call *c, const sp_relay_ask *ask, sp_diag *d)
{
    bool ok = put_field(c, "Expect", "") && put_field(c, "Accept-Encoding", "identity");
    for (size_t i = 0; i < ask->n_field && ok; i++)
        if (!(c->owner->key && strcasecmp(ask->field[i].name, "authorization") == 0))
            ok = put_field(c, ask->field[i].name, ask->field[i].value);
    if (ok && c->owner->key)
        ok = put_field(c, "Authorization", c->owner->key);
    sp_buf_printf(&c->url, "%s%s", c->owner->url, ask->path);
    sp_buf_put(&c->body, ask->body, ask->n_body);
    ok = ok && !c->url.failed && !c->body.failed;
    return ok ? SP_OK : SP_FAIL(d, SP_NOMEM, "relay");
}

static sp_err take_place(sp_relay *r, const sp_relay_call *c, sp_diag *d)
{
    sp_err err = SP_OK;
    sp_lock_get(&r->lock);
    if (r->n_call >= r->cfg.cap_call || r->held + c->body.len > r->cfg.cap_bytes)
        err = SP_FAIL(d, SP_LIMIT, "%zu requests are passed through already", r->n_call);
    else
        r->n_call++;
    r->held += c->body.len; /* call_unref takes it back in any case */
    sp_lock_put(&r->lock);
    return err;
}

sp_err sp_relay_start(sp_relay_call **out, sp_relay *r, const sp_relay_ask *ask, sp_diag *d)
{
    pthread_t thread;
    pthread_attr_t attr;
    sp_relay_call *c = sp_mem_alloc(sizeof *c);
    if (!c)
        return SP_FAIL(d, SP_NOMEM, "relay");
    c->owner = r;
    c->ref = 2;
    c->notify = ask->notify;
    c->arg = ask->arg;
    c->head.type = "";
    sp_arena_init(&c->a, 2 * HEAD_BYTES);
    sp_err err = fill(c, ask, d), place = take_place(r, c, err == SP_OK ? d : NULL);
    err = err == SP_OK ? place : err;
    pthread_attr_init(&attr);
    pthread_attr_setdetachstate(&attr, PTHREAD_CREATE_DETACHED);
    if (err == SP_OK && pthread_create(&thread, &attr, call_main, c) != 0)
        err = SP_FAIL(d, SP_NOMEM, "relay: no thread");
    pthread_attr_destroy(&attr);
    if (err == SP_OK) {
        *out = c;
        return SP_OK;
    }
    sp_lock_get(&r->lock);
    r->n_call -= place == SP_OK;
    c->ref = 1;
    sp_lock_put(&r->lock);
    call_unref(c);
    return err;
}

sp_err sp_relay_head_of(const sp_relay_head **out, sp_relay_call *c, sp_diag *d)
{
    sp_lock_get(&c->owner->lock);
    sp_err err = c->has_head ? SP_OK : c->ended ? (c->diag.code ? c->diag.code : SP_NET) : SP_AGAIN;
    if (err == SP_OK)
        *out = &c->head;
    else if (err != SP_AGAIN && c->diag.code)
        *d = c->diag;
    else if (err != SP_AGAIN)
        (void)SP_FAIL(d, SP_NET, "the server behind answered with %d", c->head.status);
    sp_lock_put(&c->owner->lock);
    return err;
}

void sp_relay_take(sp_relay_call *c, sp_buf *out, bool *done, bool *whole)
{
    sp_lock_get(&c->owner->lock);
    sp_buf_put(out, c->waits.p, c->waits.len);
    sp_buf_drop(&c->waits, c->waits.len);
    *done = c->ended;
    *whole = c->ended && c->diag.code == SP_OK;
    pthread_cond_broadcast(&c->owner->changed);
    sp_lock_put(&c->owner->lock);
}

void sp_relay_put(sp_relay_call *c)
{
    if (!c)
        return;
    sp_relay *r = c->owner;
    atomic_store(&c->cancel, true);
    sp_lock_get(&r->lock);
    c->notify = NULL;
    pthread_cond_broadcast(&r->changed);
    while (c->notifying)
        sp_lock_wait(&r->lock, &r->changed, 0);
    sp_lock_put(&r->lock);
    call_unref(c);
}

/* --- the server behind ------------------------------------------------------------------------ */

sp_err sp_relay_new(sp_relay **out, const sp_relay_cfg *cfg, sp_diag *d)
{
    sp_buf key = {0};
    size_t n = strlen(cfg->url);
    if (strncmp(cfg->url, "http://", 7) != 0 && strncmp(cfg->url, "https://", 8) != 0)
        return SP_FAIL(d, SP_INVAL, "'%.100s' is not an http or https URL", cfg->url);
    sp_relay *r = sp_mem_alloc(sizeof *r);
    if (!r)
        return SP_FAIL(d, SP_NOMEM, "relay");
    r->cfg = *cfg;
    sp_lock_init(&r->lock, SP_RANK_NET);
    sp_lock_cond_init(&r->changed);
    while (n && cfg->url[n - 1] == '/')
        n--;
    r->url = sp_mem_strdup(cfg->url);
    if (r->url)
        r->url[n] = 0;
    if (cfg->key) {
        sp_buf_printf(&key, "Bearer %s", cfg->key);
        r->key = key.failed ? NULL : sp_mem_strdup(sp_buf_str(&key));
    }
    sp_buf_fini(&key);
    if (!r->url || (cfg->key && !r->key)) {
        sp_relay_free(r);
        return SP_FAIL(d, SP_NOMEM, "relay");
    }
    *out = r;
    return SP_OK;
}

void sp_relay_free(sp_relay *r)
{
    if (!r)
        return;
    sp_lock_get(&r->lock);
    while (r->n_call)
        sp_lock_wait(&r->lock, &r->changed, 0);
    sp_lock_put(&r->lock);
    pthread_cond_destroy(&r->changed);
    sp_lock_fini(&r->lock);
    sp_mem_free(r->url);
    sp_mem_free(r->key);
    sp_mem_free(r);
}
