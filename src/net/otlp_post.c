#include "net/otlp_post.h"

#include <curl/curl.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { TRIES = 6, FIRST_MS = 250, MOST_MS = 60000, TIMEOUT_MS = 10000, REPLY_BYTES = 65536 };

typedef struct reply {
    sp_buf text;
    long status;
    curl_off_t after_s; /* Retry-After; 0: it says nothing */
    CURLcode code;
} reply;

static size_t take(char *p, size_t size, size_t n, void *arg)
{
    sp_buf *text = arg;
    if (text->len + size * n <= REPLY_BYTES)
        sp_buf_put(text, p, size * n);
    return size * n;
}

static void post(reply *out, CURL *h)
{
    out->text.len = 0;
    out->status = 0;
    out->after_s = 0;
    out->code = curl_easy_perform(h);
    curl_easy_getinfo(h, CURLINFO_RESPONSE_CODE, &out->status);
    curl_easy_getinfo(h, CURLINFO_RETRY_AFTER, &out->after_s);
}

static bool may_come_again(const reply *r)
{
    long s = r->status;
    return r->code != CURLE_OK || s == 429 || s == 502 || s == 503 || s == 504;
}

static void wait_for(const reply *r, long ms)
{
    ms = r->after_s > 0 ? (r->after_s < MOST_MS / 1000 ? (long)r->after_s * 1000 : MOST_MS) : ms;
    const struct timespec t = {ms / 1000, ms % 1000 * 1000000};
    nanosleep(&t, NULL);
}

/* A number as JSON's, or as a text of digits, as OTLP writes 64 bits. */
static int64_t refused_of(const sp_buf *text)
{
    json_t *j = json_loadb(sp_buf_str(text), text->len, 0, NULL);
    const json_t *n = json_object_get(json_object_get(j, "partialSuccess"), "rejectedLogRecords");
    int64_t out = json_is_string(n) ? strtoll(json_string_value(n), NULL, 10)
                                    : (int64_t)json_integer_value(n);
    json_decref(j);
    return out;
}

static sp_err send_all(CURL *h, const char *url, int64_t *refused, sp_diag *d)
{
    reply r = {0};
    curl_easy_setopt(h, CURLOPT_WRITEDATA, &r.text);
    for (int i = 0; i < TRIES; i++) {
        if (i)
            wait_for(&r, FIRST_MS << (i - 1));
        post(&r, h);
        if (!may_come_again(&r))
            break;
    }
    bool ok = r.code == CURLE_OK && r.status / 100 == 2;
    *refused = ok ? refused_of(&r.text) : 0;
    sp_err err = ok ? SP_OK
                 : r.code != CURLE_OK
                     ? SP_FAIL(d, SP_NET, "%.100s: %.80s", url, curl_easy_strerror(r.code))
                     : SP_FAIL(d, SP_NET, "%.100s: it says %ld", url, r.status);
    sp_buf_fini(&r.text);
    return err;
}

sp_err sp_otlp_post(const char *url, const sp_buf *body, int64_t *refused, sp_diag *d)
{
    if (strncmp(url, "http://", 7) != 0 && strncmp(url, "https://", 8) != 0)
        return SP_FAIL(d, SP_INVAL, "otlp: %.80s does not begin with http:// or https://", url);
    CURL *h = curl_easy_init();
    struct curl_slist *header = curl_slist_append(NULL, "Content-Type: application/json");
    sp_err err = SP_NOMEM;
    if (h && header) {
        curl_easy_setopt(h, CURLOPT_URL, url);
        curl_easy_setopt(h, CURLOPT_PROTOCOLS_STR, "http,https");
        curl_easy_setopt(h, CURLOPT_NOSIGNAL, 1L);
        curl_easy_setopt(h, CURLOPT_TIMEOUT_MS, (long)TIMEOUT_MS);
        curl_easy_setopt(h, CURLOPT_HTTPHEADER, header);
        curl_easy_setopt(h, CURLOPT_WRITEFUNCTION, take);
        curl_easy_setopt(h, CURLOPT_POSTFIELDS, sp_buf_str(body));
        curl_easy_setopt(h, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)body->len);
        err = send_all(h, url, refused, d);
    }
    curl_slist_free_all(header);
    curl_easy_cleanup(h);
    return err == SP_NOMEM ? SP_FAIL(d, SP_NOMEM, "otlp") : err;
}
