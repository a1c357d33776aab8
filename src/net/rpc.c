#include "net/rpc.h"

#include "base/buf.h"
#include "net/grpc.h"

#include <curl/curl.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { CONNECT_MS = 2000, SLOW_S = 10, SLOW_BYTES = 4096, HEAD = 5 /* of a message */ };

typedef struct state {
    const sp_rpc_cfg *cfg;
    sp_buf in;
    bool stopped, bad;
    int status;        /* grpc-status; -1: none came */
    char message[160];
} state;

/* The message at p [n], if it is whole: the bytes it took; else 0. */
static size_t take_message(state *s, const uint8_t *p, size_t n)
{
    const uint8_t *msg;
    size_t n_msg, used = 0;
    sp_err err = sp_grpc_frame(&msg, &n_msg, &used, p, n, s->cfg->cap);
    if (err == SP_AGAIN)
        return 0;
    s->bad = err != SP_OK;
    s->stopped = !s->bad && !s->cfg->on_message(s->cfg->arg, msg, n_msg);
    return s->bad ? 0 : used;
}

/* Bytes that a message lacks of which some have come: of its head or, behind that, of all. */
static size_t missing(const sp_buf *in)
{
    const uint8_t *p = (const uint8_t *)in->p;
    return in->len < HEAD ? HEAD - in->len
                          : HEAD - in->len + ((size_t)p[1] << 24 | (size_t)p[2] << 16 |
                                              (size_t)p[3] << 8 | p[4]);
}

/* Messages are read where they came; only one that came in parts is put together. */
static size_t on_data(char *p, size_t size, size_t n, void *arg)
{
    state *s = arg;
    size_t at = 0, all = size * n;
    while (at < all && !s->stopped && !s->bad && !s->in.failed) {
        size_t more = all - at, used;
        if (s->in.len == 0 && (used = take_message(s, (const uint8_t *)p + at, more)) > 0) {
            at += used;
            continue;
        }
        if (s->bad)
            break;
        if (s->in.len && missing(&s->in) < more)
            more = missing(&s->in);
        sp_buf_put(&s->in, p + at, more);
        at += more;
        if (take_message(s, (const uint8_t *)s->in.p, s->in.len))
            sp_buf_clear(&s->in);
    }
    return s->stopped || s->bad || s->in.failed ? 0 : all;
}

/* Fields of the head and, behind the body, of the trailer. */
static size_t on_field(char *p, size_t size, size_t n, void *arg)
{
    static const char status[] = "grpc-status:", message[] = "grpc-message:";
    state *s = arg;
    size_t len = size * n;
    char line[256];
    snprintf(line, sizeof line, "%.*s", (int)(len < sizeof line ? len : sizeof line - 1), p);
    line[strcspn(line, "\r\n")] = 0;
    if (strncasecmp(line, status, sizeof status - 1) == 0)
        s->status = atoi(line + sizeof status - 1);
    if (strncasecmp(line, message, sizeof message - 1) == 0)
        snprintf(s->message, sizeof s->message, "%.150s",
                 line + sizeof message - 1 + strspn(line + sizeof message - 1, " "));
    return len;
}

static int on_time(void *arg, curl_off_t n_down, curl_off_t down, curl_off_t n_up, curl_off_t up)
{
    state *s = arg;
    (void)n_down, (void)down, (void)n_up, (void)up;
    s->stopped = s->stopped || (s->cfg->is_wanted && !s->cfg->is_wanted(s->cfg->arg));
    return s->stopped;
}

static void set_tls(CURL *c, const sp_rpc_tls *t)
{
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "https");
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2TLS);
    curl_easy_setopt(c, CURLOPT_SSLVERSION, (long)CURL_SSLVERSION_TLSv1_2); /* and newer */
    if (t->ca) {
        curl_easy_setopt(c, CURLOPT_CAINFO, t->ca);
        curl_easy_setopt(c, CURLOPT_CAPATH, NULL); /* and nobody else */
    }
    if (t->cert) {
        curl_easy_setopt(c, CURLOPT_SSLCERT, t->cert);
        curl_easy_setopt(c, CURLOPT_SSLKEY, t->key);
    }
}

static sp_err judge(const state *s, CURLcode code, const char *why, sp_diag *d)
{
    const char *target = s->cfg->target;
    if (s->stopped)
        return SP_FAIL(d, SP_CANCEL, "%.80s: given up", target);
    if (s->bad || s->in.failed)
        return SP_FAIL(d, SP_LIMIT, "%.80s: a message is compressed, or longer than %zu bytes",
                       target, s->cfg->cap);
    if (code != CURLE_OK)
        return SP_FAIL(d, SP_NET, "%.80s: %.110s", target,
                       why[0] ? why : curl_easy_strerror(code));
    if (s->status < 0 || s->in.len)
        return SP_FAIL(d, SP_NET, "%.80s: the answer broke off", target);
    sp_err err = s->status == SP_GRPC_OK                   ? SP_OK
                 : s->status == SP_GRPC_NOT_FOUND          ? SP_NOTFOUND
                 : s->status == SP_GRPC_RESOURCE_EXHAUSTED ? SP_LIMIT
                 : s->status == SP_GRPC_UNIMPLEMENTED      ? SP_UNSUP
                                                           : SP_NET;
    return err == SP_OK
               ? SP_OK
               : SP_FAIL(d, err, "%.80s: %.100s (status %d)", target, s->message, s->status);
}

sp_err sp_rpc_call(const sp_rpc_cfg *cfg, sp_diag *d)
{
    state s = {.cfg = cfg, .status = -1};
    char url[400], auth[400], why[CURL_ERROR_SIZE] = "";
    sp_buf body = {0};
    struct curl_slist *fields = NULL;
    CURL *c = curl_easy_init();
    const uint8_t head[5] = {0, (uint8_t)(cfg->n_request >> 24), (uint8_t)(cfg->n_request >> 16),
                             (uint8_t)(cfg->n_request >> 8), (uint8_t)cfg->n_request};
    sp_buf_put(&body, head, 5);
    sp_buf_put(&body, cfg->request, cfg->n_request);
    snprintf(url, sizeof url, "%s://%.200s%.150s", cfg->tls ? "https" : "http", cfg->target,
             cfg->method);
    snprintf(auth, sizeof auth, "authorization: %.300s",
             cfg->authorization ? cfg->authorization : "");
    fields = curl_slist_append(fields, "content-type: application/grpc");
    fields = curl_slist_append(fields, "te: trailers");
    if (cfg->authorization)
        fields = curl_slist_append(fields, auth);
    if (!c || !fields || body.failed) {
        curl_easy_cleanup(c);
        curl_slist_free_all(fields);
        sp_buf_fini(&body);
        return SP_FAIL(d, SP_NOMEM, "a call to another server");
    }
    curl_easy_setopt(c, CURLOPT_URL, url);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http");
    curl_easy_setopt(c, CURLOPT_PROXY, "");
    curl_easy_setopt(c, CURLOPT_HTTP_VERSION, (long)CURL_HTTP_VERSION_2_PRIOR_KNOWLEDGE);
    curl_easy_setopt(c, CURLOPT_ERRORBUFFER, why);
    if (cfg->tls)
        set_tls(c, cfg->tls);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, fields);
    curl_easy_setopt(c, CURLOPT_POSTFIELDS, body.p);
    curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body.len);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_data);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, &s);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_field);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, &s);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_time);
    curl_easy_setopt(c, CURLOPT_XFERINFODATA, &s);
    curl_easy_setopt(c, CURLOPT_BUFFERSIZE, 512L * 1024);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_LIMIT, (long)SLOW_BYTES);
    curl_easy_setopt(c, CURLOPT_LOW_SPEED_TIME, (long)(cfg->slow_s ? cfg->slow_s : SLOW_S));
    sp_err err = judge(&s, curl_easy_perform(c), why, d);
    curl_easy_cleanup(c);
    curl_slist_free_all(fields);
    sp_buf_fini(&body);
    sp_buf_fini(&s.in);
    return err;
}
