#include "net/otlp.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/mem.h"

#include <curl/curl.h>
#include <stdatomic.h>
#include <string.h>

enum { MAX_QUEUED = 4 << 20, WAIT_MS = 1000, TIMEOUT_MS = 2000, LAST_MS = 500 };
static const char HEAD[] =
    "{\"resourceSpans\":[{\"resource\":{\"attributes\":[{\"key\":\"service.name\",\"value\":{"
    "\"stringValue\":\"sparing\"}},{\"key\":\"service.version\","
    "\"value\":{\"stringValue\":\"" SP_VERSION
    "\"}}]},\"scopeSpans\":[{\"scope\":{\"name\":\"sparing\"},\"spans\":[";

struct sp_otlp {
    char *url;
    CURL *curl;                /* owner: the thread */
    struct curl_slist *header;
    pthread_t thread;
    bool started, stop, warned;
    sp_lock lock;              /* rank NET */
    pthread_cond_t wake;
    _Atomic uint64_t end_ns;   /* of what runs; 0: not yet */
    sp_buf queued;             /* guard: lock */
    size_t n_queued;
    sp_metric *sent, *dropped;
};

static size_t swallow(char *p, size_t size, size_t n, void *arg)
{
    (void)p, (void)arg;
    return size * n;
}

/* A call that runs when the server stops is given up within a second or so; the last batch has
 * LAST_MS. */
static int on_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t x, curl_off_t y)
{
    (void)a, (void)b, (void)x, (void)y;
    uint64_t end = atomic_load(&((sp_otlp *)arg)->end_ns);
    return end && sp_clock_ns() > end;
}

static void send_batch(sp_otlp *o, const sp_buf *spans, size_t n)
{
    sp_buf body = {0};
    long status = 0;
    sp_buf_printf(&body, "%s%s]}]}]}", HEAD, sp_buf_str(spans));
    CURLcode code = CURLE_OUT_OF_MEMORY;
    if (!body.failed) {
        curl_easy_setopt(o->curl, CURLOPT_POSTFIELDS, sp_buf_str(&body));
        curl_easy_setopt(o->curl, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body.len);
        code = curl_easy_perform(o->curl);
        curl_easy_getinfo(o->curl, CURLINFO_RESPONSE_CODE, &status);
    }
    bool ok = code == CURLE_OK && status / 100 == 2;
    sp_metric_add(ok ? o->sent : o->dropped, (double)n);
    if (!ok && !o->warned)
        sp_log(SP_LOG_WARN, "traces are dropped: %s, status %ld", curl_easy_strerror(code), status);
    o->warned = !ok;
    sp_buf_fini(&body);
}

static void *otlp_main(void *arg)
{
    sp_otlp *o = arg;
    for (bool stop = false; !stop;) {
        sp_lock_get(&o->lock);
        if (!o->stop)
            sp_lock_wait(&o->lock, &o->wake, WAIT_MS * 1000000ull); /* a batch a second */
        stop = o->stop;
        sp_buf spans = o->queued;
        size_t n = o->n_queued;
        o->queued = (sp_buf){0};
        o->n_queued = 0;
        sp_lock_put(&o->lock);
        if (stop)
            curl_easy_setopt(o->curl, CURLOPT_TIMEOUT_MS, (long)LAST_MS);
        if (n)
            send_batch(o, &spans, n);
        sp_buf_fini(&spans);
    }
    return NULL;
}

sp_err sp_otlp_new(sp_otlp **out, const char *url, sp_metrics *m, sp_diag *d)
{
    if (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0)
        return SP_FAIL(d, SP_INVAL, "otlp: %.80s does not begin with http:// or https://", url);
    sp_otlp *o = sp_mem_alloc(sizeof *o);
    sp_buf full = {0};
    if (!o || curl_global_init(CURL_GLOBAL_DEFAULT) != 0) { /* here, while there is one thread */
        sp_mem_free(o);
        return SP_FAIL(d, SP_NOMEM, "otlp");
    }
    size_t n = strlen(url);
    while (n && url[n - 1] == '/')
        n--;
    sp_buf_printf(&full, "%.*s/v1/traces", (int)n, url);
    sp_lock_init(&o->lock, SP_RANK_NET);
    sp_lock_cond_init(&o->wake);
    o->url = sp_mem_strdup(sp_buf_str(&full));
    sp_buf_fini(&full);
    o->curl = curl_easy_init();
    o->header = curl_slist_append(NULL, "Content-Type: application/json");
    o->sent = sp_metric_counter(m, "sparing_spans_total", "Spans given to the trace collector.",
                                "result=\"sent\"");
    o->dropped = sp_metric_counter(m, "sparing_spans_total", "Spans given to the trace collector.",
                                   "result=\"dropped\"");
    if (o->url && o->curl && o->header) {
        curl_easy_setopt(o->curl, CURLOPT_URL, o->url);
        curl_easy_setopt(o->curl, CURLOPT_PROTOCOLS_STR, "http,https");
        curl_easy_setopt(o->curl, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(o->curl, CURLOPT_TIMEOUT_MS, (long)TIMEOUT_MS);
        curl_easy_setopt(o->curl, CURLOPT_HTTPHEADER, o->header);
        curl_easy_setopt(o->curl, CURLOPT_WRITEFUNCTION, swallow);
        curl_easy_setopt(o->curl, CURLOPT_NOPROGRESS, 0L);
        curl_easy_setopt(o->curl, CURLOPT_XFERINFOFUNCTION, on_progress);
        curl_easy_setopt(o->curl, CURLOPT_XFERINFODATA, o);
        o->started = pthread_create(&o->thread, NULL, otlp_main, o) == 0;
    }
    if (!o->started) {
        sp_otlp_free(o);
        return SP_FAIL(d, SP_NOMEM, "otlp");
    }
    *out = o;
    return SP_OK;
}

void sp_otlp_free(sp_otlp *o)
{
    if (!o)
        return;
    if (o->started) {
        sp_lock_get(&o->lock);
        o->stop = true;
        atomic_store(&o->end_ns, sp_clock_ns() + LAST_MS * 1000000ull);
        pthread_cond_broadcast(&o->wake);
        sp_lock_put(&o->lock);
        pthread_join(o->thread, NULL);
    }
    curl_slist_free_all(o->header);
    curl_easy_cleanup(o->curl);
    sp_buf_fini(&o->queued);
    sp_mem_free(o->url);
    sp_lock_fini(&o->lock);
    pthread_cond_destroy(&o->wake);
    sp_mem_free(o);
    curl_global_cleanup();
}

void sp_otlp_add(sp_otlp *o, const char *spans, size_t n, size_t n_span)
{
    sp_lock_get(&o->lock);
    bool fits = o->queued.len + n < MAX_QUEUED;
    if (fits) {
        if (o->queued.len)
            sp_buf_putc(&o->queued, ',');
        sp_buf_put(&o->queued, spans, n);
        o->n_queued += n_span;
    }
    sp_lock_put(&o->lock);
    if (!fits)
        sp_metric_add(o->dropped, (double)n_span);
}
