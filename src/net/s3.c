#include "net/s3.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/lock.h"
#include "base/mem.h"
#include "base/rng.h"
#include "base/sha256.h"
#include "net/silence.h"

#include <curl/curl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum {
    ATTEMPTS = 4,
    BACKOFF_MS = 100,
    CONNECT_MS = 3000,
    SILENCE_S = 10,
    MAX_IDLE = 32,
    PART_BYTES = 8 << 20, /* S3 asks for at least 5 MiB */
    MAX_PART = 1000,
    ETAG_BYTES = 80,
    NOTE_BYTES = 4096,
    REPLY_BYTES = 16 << 20,
    TOKEN_BYTES = 1024, /* of a list's continuation */
    MAX_PAGES = 100000, /* of a list: a hundred million objects */
    URL_BYTES = 2048
};

struct sp_s3 {
    sp_kv_cold cold;
    char *base;   /* URL of the bucket, no slash at the end */
    char *prefix; /* "" or ends in a slash */
    char *user;   /* key:secret */
    char *token;  /* NULL: none */
    char *sigv4;
    _Atomic bool stop;
    sp_lock lock; /* rank NET; guards idle */
    CURL *idle[MAX_IDLE];
    size_t n_idle;
};

/* --- configuration ---------------------------------------------------------------------------- */

/* The value of key in section of an AWS ini file. */
static bool ini_get(char *out, size_t cap, const char *path, const char *section, const char *key)
{
    sp_buf b = {0};
    bool in = false, found = false;
    if (sp_file_read(&b, path, 1 << 20, NULL) == SP_OK) {
        char *save = NULL, want[128];
        snprintf(want, sizeof want, "[%s]", section);
        for (char *line = b.p ? strtok_r(b.p, "\r\n", &save) : NULL; line;
             line = strtok_r(NULL, "\r\n", &save)) {
            char name[64], value[512];
            line += strspn(line, " \t");
            if (*line == '[')
                in = strncmp(line, want, strlen(want)) == 0;
            else if (in && sscanf(line, "%63[^= \t] = %511[^ \t]", name, value) == 2 &&
                     strcmp(name, key) == 0)
                found = snprintf(out, cap, "%s", value) < (int)cap;
        }
    }
    sp_buf_fini(&b);
    return found;
}

static const char *env(const char *name)
{
    const char *v = getenv(name);
    return v && *v ? v : NULL;
}

static void aws_file(char *out, size_t cap, const char *variable, const char *name)
{
    const char *given = env(variable), *home = env("HOME");
    snprintf(out, cap, given ? "%s" : "%s/.aws/%s", given ? given : home ? home : "", name);
}

static sp_err find_credentials(sp_s3 *s, char region[128], sp_diag *d)
{
    char path[1024], id[256], secret[512], token[2048] = "", section[160];
    const char *profile = env("AWS_PROFILE") ? env("AWS_PROFILE") : "default";
    const char *e_id = env("AWS_ACCESS_KEY_ID"), *e_secret = env("AWS_SECRET_ACCESS_KEY"),
               *e_token = env("AWS_SESSION_TOKEN");
    if (e_id && e_secret) {
        snprintf(id, sizeof id, "%s", e_id);
        snprintf(secret, sizeof secret, "%s", e_secret);
        snprintf(token, sizeof token, "%s", e_token ? e_token : "");
    } else {
        aws_file(path, sizeof path, "AWS_SHARED_CREDENTIALS_FILE", "credentials");
        if (!ini_get(id, sizeof id, path, profile, "aws_access_key_id") ||
            !ini_get(secret, sizeof secret, path, profile, "aws_secret_access_key"))
            return SP_FAIL(d, SP_INVAL,
                           "s3: no credentials: set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY, "
                           "or a profile %.40s in %.80s",
                           profile, path);
        (void)ini_get(token, sizeof token, path, profile, "aws_session_token");
    }
    const char *e_region = env("AWS_REGION") ? env("AWS_REGION") : env("AWS_DEFAULT_REGION");
    snprintf(section, sizeof section, strcmp(profile, "default") == 0 ? "%s" : "profile %s",
             profile);
    aws_file(path, sizeof path, "AWS_CONFIG_FILE", "config");
    if (e_region)
        snprintf(region, 128, "%s", e_region);
    else if (!ini_get(region, 128, path, section, "region"))
        snprintf(region, 128, "us-east-1");
    char user[800], sigv4[200];
    snprintf(user, sizeof user, "%s:%s", id, secret);
    snprintf(sigv4, sizeof sigv4, "aws:amz:%s:s3", region);
    s->user = sp_mem_strdup(user);
    s->sigv4 = sp_mem_strdup(sigv4);
    s->token = *token ? sp_mem_strdup(token) : NULL;
    return s->user && s->sigv4 && (s->token || !*token) ? SP_OK : SP_FAIL(d, SP_NOMEM, "s3");
}

static bool is_plain(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (!strchr("ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789/_.-", p[i]) ||
            !p[i])
            return false;
    return true;
}

static sp_err find_place(sp_s3 *s, const char *url, const char *endpoint, const char *region,
                         sp_diag *d)
{
    char base[URL_BYTES], prefix[512];
    const char *bucket = url + 5,
               *slash = strncmp(url, "s3://", 5) == 0 ? strchr(bucket, '/') : NULL;
    size_t n = slash ? (size_t)(slash - bucket) : strlen(bucket);
    if (strncmp(url, "s3://", 5) != 0 || n < 3 || n > 63 || !is_plain(bucket, strlen(bucket)) ||
        (slash && strlen(slash) > 400))
        return SP_FAIL(d, SP_INVAL,
                       "s3: %.80s is not s3://BUCKET/PREFIX (letters, digits and / _ . - only)",
                       url);
    if (!endpoint)
        endpoint =
            env("AWS_ENDPOINT_URL_S3") ? env("AWS_ENDPOINT_URL_S3") : env("AWS_ENDPOINT_URL");
    if (endpoint && strncmp(endpoint, "http://", 7) != 0 && strncmp(endpoint, "https://", 8) != 0)
        return SP_FAIL(d, SP_INVAL, "s3-endpoint: %.80s does not begin with http:// or https://",
                       endpoint);
    size_t end = endpoint ? strlen(endpoint) : 0;
    while (end && endpoint[end - 1] == '/')
        end--;
    int k = endpoint ? snprintf(base, sizeof base, "%.*s/%.*s", (int)end, endpoint, (int)n, bucket)
                     : snprintf(base, sizeof base, "https://%.*s.s3.%s.amazonaws.com", (int)n,
                                bucket, region);
    if (k < 0 || (size_t)k >= sizeof base - 700)
        return SP_FAIL(d, SP_INVAL, "s3-endpoint: too long");
    snprintf(prefix, sizeof prefix, "%s%s", slash ? slash + 1 : "",
             slash && slash[1] && slash[strlen(slash) - 1] != '/' ? "/" : "");
    s->base = sp_mem_strdup(base);
    s->prefix = sp_mem_strdup(prefix);
    return s->base && s->prefix ? SP_OK : SP_FAIL(d, SP_NOMEM, "s3");
}

/* --- one request ------------------------------------------------------------------------------ */

typedef struct request {
    const char *method, *url; /* query sorted and encoded */
    const void *body;
    size_t n_body, sent;
    uint64_t at, n;   /* range; n 0: all */
    sp_kv_sink *sink; /* NULL: into reply */
    void *sink_arg;
    /* out */
    CURL *curl;
    sp_s3 *owner;
    sp_silence silence;
    uint64_t got; /* bytes the sink took */
    bool refused; /* the sink said stop */
    bool too_long; /* the answer was larger than REPLY_BYTES */
    sp_buf reply; /* without a sink, or an error's body; bounded */
    char etag[ETAG_BYTES];
} request;

static size_t on_read(char *to, size_t size, size_t n, void *arg)
{
    request *r = arg;
    size_t k = r->n_body - r->sent < size * n ? r->n_body - r->sent : size * n;
    memcpy(to, (const uint8_t *)r->body + r->sent, k);
    r->sent += k;
    return k;
}

static int on_seek(void *arg, curl_off_t at, int origin)
{
    request *r = arg;
    if (origin != SEEK_SET || at < 0 || (size_t)at > r->n_body)
        return CURL_SEEKFUNC_FAIL;
    r->sent = (size_t)at;
    return CURL_SEEKFUNC_OK;
}

static size_t on_write(char *p, size_t size, size_t n, void *arg)
{
    request *r = arg;
    long status = 0;
    curl_easy_getinfo(r->curl, CURLINFO_RESPONSE_CODE, &status);
    n *= size;
    if (r->sink && (status == 206 || (status == 200 && r->at + r->got == 0))) {
        /* a store without ranges sends more */
        size_t take = r->n && n > r->n - r->got ? (size_t)(r->n - r->got) : n;
        if (take && !r->sink(r->sink_arg, p, take)) {
            r->refused = true;
            return 0;
        }
        r->got += take;
        return take == n || r->got < r->n ? n : 0;
    }
    size_t cap = r->sink ? NOTE_BYTES : REPLY_BYTES;
    bool fits = r->reply.len + n <= cap;
    sp_buf_put(&r->reply, p, fits ? n : 0);
    /* of an error's text, the beginning is enough; half a list is none */
    r->too_long = r->too_long || (!fits && !r->sink);
    return r->too_long ? 0 : n;
}

static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
    request *r = arg;
    n *= size;
    if (n <= 6 || n >= ETAG_BYTES || strncasecmp(p, "etag:", 5) != 0)
        return n;
    size_t from = 5, k = 0; /* p is not NUL-terminated */
    while (from < n && p[from] == ' ')
        from++;
    for (; from < n && p[from] && p[from] != '\r' && p[from] != '\n'; from++)
        r->etag[k++] = p[from];
    r->etag[k] = 0;
    return n;
}

/* Called about once a second, also while nothing comes. */
static int on_progress(void *arg, curl_off_t a, curl_off_t b, curl_off_t x, curl_off_t y)
{
    request *r = arg;
    (void)a, (void)x;
    return atomic_load(&r->owner->stop) ||
           sp_silence_is_over(&r->silence, b, y, (uint64_t)SILENCE_S * 1000);
}

static CURL *take_handle(sp_s3 *s)
{
    sp_lock_get(&s->lock);
    CURL *c = s->n_idle ? s->idle[--s->n_idle] : NULL;
    sp_lock_put(&s->lock);
    return c ? c : curl_easy_init();
}

static void give_handle(sp_s3 *s, CURL *c)
{
    curl_easy_reset(c); /* keeps the connection */
    sp_lock_get(&s->lock);
    bool keep = s->n_idle < MAX_IDLE;
    if (keep)
        s->idle[s->n_idle++] = c;
    sp_lock_put(&s->lock);
    if (!keep)
        curl_easy_cleanup(c);
}

static struct curl_slist *make_headers(const sp_s3 *s, const request *r)
{
    char line[2200], hex[65];
    sp_sha256 h;
    const sp_sha256_part part = {r->body ? r->body : "", r->n_body};
    if (sp_sha256_of(&h, &part, 1) != SP_OK)
        return NULL;
    sp_sha256_hex(hex, &h);
    snprintf(line, sizeof line, "x-amz-content-sha256: %s", hex);
    struct curl_slist *list = curl_slist_append(NULL, line);
    if (s->token) {
        snprintf(line, sizeof line, "x-amz-security-token: %s", s->token);
        list = curl_slist_append(list, line);
    }
    /* "Expect:" would be signed and not sent; set_up shortens its wait instead. */
    return r->n_body ? curl_slist_append(list, "Content-Type: application/octet-stream") : list;
}

static void set_up(sp_s3 *s, request *r, struct curl_slist *headers)
{
    CURL *c = r->curl;
    char range[64];
    curl_easy_setopt(c, CURLOPT_URL, r->url);
    curl_easy_setopt(c, CURLOPT_USERPWD, s->user);
    curl_easy_setopt(c, CURLOPT_AWS_SIGV4, s->sigv4);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_EXPECT_100_TIMEOUT_MS, 1L);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT_MS, (long)CONNECT_MS);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(c, CURLOPT_XFERINFODATA, r);
    curl_easy_setopt(c, CURLOPT_BUFFERSIZE, 512L * 1024);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_write);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, r);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, r);
    if (r->n) {
        snprintf(range, sizeof range, "%llu-%llu", (unsigned long long)(r->at + r->got),
                 (unsigned long long)(r->at + r->n - 1));
        curl_easy_setopt(c, CURLOPT_RANGE, range);
    }
    if (strcmp(r->method, "PUT") == 0) {
        curl_easy_setopt(c, CURLOPT_UPLOAD, 1L);
        curl_easy_setopt(c, CURLOPT_READFUNCTION, on_read);
        curl_easy_setopt(c, CURLOPT_READDATA, r);
        curl_easy_setopt(c, CURLOPT_SEEKFUNCTION, on_seek);
        curl_easy_setopt(c, CURLOPT_SEEKDATA, r);
        curl_easy_setopt(c, CURLOPT_INFILESIZE_LARGE, (curl_off_t)r->n_body);
    } else if (strcmp(r->method, "POST") == 0) {
        curl_easy_setopt(c, CURLOPT_POST, 1L);
        curl_easy_setopt(c, CURLOPT_POSTFIELDS, r->body ? r->body : "");
        curl_easy_setopt(c, CURLOPT_POSTFIELDSIZE_LARGE, (curl_off_t)r->n_body);
    } else if (strcmp(r->method, "GET") != 0) {
        curl_easy_setopt(c, CURLOPT_CUSTOMREQUEST, r->method);
    }
}

/* The text between <tag> and </tag> from *at on; *at moves behind it. */
static bool xml_next(const char **at, const char *tag, char *out, size_t cap)
{
    char open[40];
    int n = snprintf(open, sizeof open, "<%s>", tag);
    const char *p = strstr(*at, open), *end = p ? strchr(p + n, '<') : NULL;
    if (!end || (size_t)(end - p - n) >= cap)
        return false;
    memcpy(out, p + n, (size_t)(end - p - n));
    out[end - p - n] = 0;
    *at = end;
    return true;
}

static sp_err judge(request *r, CURLcode code, bool *again, sp_diag *d)
{
    long status = 0;
    curl_easy_getinfo(r->curl, CURLINFO_RESPONSE_CODE, &status);
    *again = false;
    if (r->refused)
        return SP_FAIL(d, SP_CANCEL, "s3: stopped");
    if (r->too_long)
        return SP_FAIL(d, SP_CORRUPT, "s3: %s %.100s: an answer of more than %d bytes", r->method,
                       r->url, REPLY_BYTES);
    if (r->sink && r->n && r->got == r->n)
        return SP_OK;
    if (code != CURLE_OK && !(code == CURLE_WRITE_ERROR && status >= 400)) {
        *again = true;
        bool late = code == CURLE_OPERATION_TIMEDOUT || r->silence.is_over;
        return SP_FAIL(d, late ? SP_TIMEOUT : SP_NET, "s3: %s %.100s: %s", r->method, r->url,
                       r->silence.is_over ? "nothing came" : curl_easy_strerror(code));
    }
    if (status >= 200 && status < 300 && !(r->sink && r->n))
        return SP_OK;
    if (status >= 200 && status < 300) { /* fewer bytes than asked for, without an error */
        return SP_FAIL(d, SP_CORRUPT, "s3: %.100s ends early", r->url);
    }
    char why[64] = "";
    const char *at = sp_buf_str(&r->reply);
    (void)xml_next(&at, "Code", why, sizeof why);
    *again = status >= 500 || status == 429 || status == 408;
    return SP_FAIL(d,
                   status == 404   ? SP_NOTFOUND
                   : *again        ? SP_NET
                   : status == 416 ? SP_CORRUPT
                                   : SP_INVAL,
                   "s3: %s %.100s: HTTP %ld %s", r->method, r->url, status, why);
}

static void back_off(sp_s3 *s, int attempt)
{
    uint64_t ms = (uint64_t)BACKOFF_MS << attempt;
    ms = ms / 2 + sp_rng_entropy() % ms; /* so that many do not come back together */
    const struct timespec t = {.tv_nsec = 20000000};
    for (uint64_t i = 0; i < ms / 20 && !atomic_load(&s->stop); i++)
        nanosleep(&t, NULL);
}

static sp_err perform(sp_s3 *s, request *r, sp_diag *d)
{
    sp_err err = SP_NOMEM;
    bool again = true;
    for (int i = 0; i < ATTEMPTS && again; i++) {
        if (i)
            back_off(s, i - 1);
        if (atomic_load(&s->stop))
            return SP_FAIL(d, SP_CANCEL, "s3: stopped");
        struct curl_slist *headers = make_headers(s, r);
        r->curl = headers ? take_handle(s) : NULL;
        if (!r->curl) {
            curl_slist_free_all(headers);
            return SP_FAIL(d, SP_NOMEM, "s3");
        }
        sp_buf_clear(&r->reply);
        r->sent = 0;
        r->owner = s;
        sp_silence_begin(&r->silence);
        set_up(s, r, headers);
        err = judge(r, curl_easy_perform(r->curl), &again, d);
        give_handle(s, r->curl);
        curl_slist_free_all(headers);
    }
    return err != SP_OK && atomic_load(&s->stop) ? SP_FAIL(d, SP_CANCEL, "s3: stopped") : err;
}

/* --- operations ------------------------------------------------------------------------------- */

static sp_err url_of(char out[URL_BYTES], const sp_s3 *s, const char *key, const char *query,
                     sp_diag *d)
{
    if (!is_plain(key, strlen(key)))
        return SP_FAIL(d, SP_INVAL, "s3: the key %.80s has characters that are not allowed", key);
    int n = snprintf(out, URL_BYTES, "%s/%s%s%s", s->base, s->prefix, key, query);
    return n > 0 && n < URL_BYTES ? SP_OK
                                  : SP_FAIL(d, SP_INVAL, "s3: a key of %zu bytes", strlen(key));
}

static sp_err s3_get(void *arg, const char *key, uint64_t at, uint64_t n, sp_kv_sink *sink,
                     void *sink_arg, sp_diag *d)
{
    char url[URL_BYTES];
    SP_TRY(url_of(url, arg, key, "", d));
    request r = {.method = "GET", .url = url, .at = at, .n = n, .sink = sink, .sink_arg = sink_arg};
    sp_err err = perform(arg, &r, d);
    sp_buf_fini(&r.reply);
    return err;
}

static sp_err s3_del(void *arg, const char *key, sp_diag *d)
{
    char url[URL_BYTES];
    SP_TRY(url_of(url, arg, key, "", d));
    request r = {.method = "DELETE", .url = url};
    sp_err err = perform(arg, &r, d);
    sp_buf_fini(&r.reply);
    return err == SP_NOTFOUND ? SP_OK : err;
}

static sp_err put_part(sp_s3 *s, const char *key, const char *upload, int number, const void *p,
                       size_t n, char etag[ETAG_BYTES], sp_diag *d)
{
    char url[URL_BYTES], query[600];
    snprintf(query, sizeof query, "?partNumber=%d&uploadId=%s", number, upload);
    SP_TRY(url_of(url, s, key, query, d));
    request r = {.method = "PUT", .url = url, .body = p, .n_body = n};
    sp_err err = perform(s, &r, d);
    if (err == SP_OK && !r.etag[0])
        err = SP_FAIL(d, SP_NET, "s3: a part of %.80s came back without an ETag", key);
    memcpy(etag, r.etag, ETAG_BYTES);
    sp_buf_fini(&r.reply);
    return err;
}

static sp_err post(sp_s3 *s, const char *key, const char *query, const sp_buf *body, sp_buf *reply,
                   sp_diag *d)
{
    char url[URL_BYTES];
    SP_TRY(url_of(url, s, key, query, d));
    request r = {.method = "POST",
                 .url = url,
                 .body = body ? body->p : NULL,
                 .n_body = body ? body->len : 0};
    sp_err err = perform(s, &r, d);
    *reply = r.reply;
    return err;
}

static sp_err put_parts(sp_s3 *s, const char *key, const char *upload, const uint8_t *p, size_t n,
                        sp_diag *d)
{
    sp_buf done = {0}, reply = {0};
    char query[600], etag[ETAG_BYTES], code[64];
    sp_err err = SP_OK;
    sp_buf_puts(&done, "<CompleteMultipartUpload>");
    int number = 1;
    for (size_t at = 0; at < n && err == SP_OK; at += PART_BYTES, number++) {
        err = put_part(s, key, upload, number, p + at, n - at < PART_BYTES ? n - at : PART_BYTES,
                       etag, d);
        sp_buf_printf(&done, "<Part><PartNumber>%d</PartNumber><ETag>%s</ETag></Part>", number,
                      etag);
    }
    sp_buf_puts(&done, "</CompleteMultipartUpload>");
    snprintf(query, sizeof query, "?uploadId=%s", upload);
    if (err == SP_OK)
        err = done.failed ? SP_FAIL(d, SP_NOMEM, "s3") : post(s, key, query, &done, &reply, d);
    const char *at = sp_buf_str(&reply);
    if (err == SP_OK && strstr(at, "<Error>")) /* the store may say 200 and then fail */
        err = SP_FAIL(d, SP_NET, "s3: %.80s was not put together: %s", key,
                      xml_next(&at, "Code", code, sizeof code) ? code : "no reason given");
    if (err != SP_OK) {
        char url[URL_BYTES];
        if (url_of(url, s, key, query, NULL) == SP_OK) {
            request r = {.method = "DELETE", .url = url};
            (void)perform(s, &r, NULL);
            sp_buf_fini(&r.reply);
        }
    }
    sp_buf_fini(&done);
    sp_buf_fini(&reply);
    return err;
}

static sp_err s3_put(void *arg, const char *key, const void *p, size_t n, sp_diag *d)
{
    char url[URL_BYTES], upload[512];
    if (n > PART_BYTES) {
        sp_buf reply = {0};
        if (n > (size_t)MAX_PART * PART_BYTES)
            return SP_FAIL(d, SP_LIMIT, "s3: an object of %zu bytes", n);
        sp_err err = post(arg, key, "?uploads=", NULL, &reply, d);
        const char *at = sp_buf_str(&reply);
        bool ok = err == SP_OK && xml_next(&at, "UploadId", upload, sizeof upload) &&
                  strcspn(upload, "&?#% ") == strlen(upload);
        sp_buf_fini(&reply);
        if (err == SP_OK && !ok)
            err = SP_FAIL(d, SP_NET, "s3: no usable UploadId for %.80s", key);
        return err == SP_OK ? put_parts(arg, key, upload, p, n, d) : err;
    }
    SP_TRY(url_of(url, arg, key, "", d));
    request r = {.method = "PUT", .url = url, .body = p, .n_body = n};
    sp_err err = perform(arg, &r, d);
    sp_buf_fini(&r.reply);
    return err;
}

static void query_escape(sp_buf *out, const char *p)
{
    for (; *p; p++) {
        if (is_plain(p, 1) && *p != '/')
            sp_buf_putc(out, *p);
        else
            sp_buf_printf(out, "%%%02X", (unsigned char)*p);
    }
}

/* One page of a listing; more says where the next one begins. */
/* The keys of one answer, and where the next one begins (*more empty: there is none). */
static sp_err read_list(const sp_s3 *s, const char *xml, char more[TOKEN_BYTES], sp_kv_each *each,
                        void *each_arg, sp_diag *d)
{
    char key[1024], size[32];
    const char *at = xml;
    size_t skip = strlen(s->prefix);
    while (xml_next(&at, "Key", key, sizeof key) && xml_next(&at, "Size", size, sizeof size))
        if (is_plain(key, strlen(key)) && strncmp(key, s->prefix, skip) == 0 &&
            !each(each_arg, key + skip, strtoull(size, NULL, 10)))
            return SP_FAIL(d, SP_CANCEL, "s3: stopped");
    at = xml;
    if (!xml_next(&at, "NextContinuationToken", more, TOKEN_BYTES))
        *more = 0;
    return SP_OK;
}

static sp_err list_page(sp_s3 *s, const char *prefix, char more[TOKEN_BYTES], sp_kv_each *each,
                        void *each_arg, sp_diag *d)
{
    sp_buf url = {0};
    sp_buf_puts(&url, s->base);
    sp_buf_puts(&url, "?");
    if (*more) {
        sp_buf_puts(&url, "continuation-token=");
        query_escape(&url, more);
        sp_buf_puts(&url, "&");
    }
    sp_buf_puts(&url, "list-type=2&prefix=");
    query_escape(&url, s->prefix);
    query_escape(&url, prefix);
    request r = {.method = "GET", .url = sp_buf_str(&url)};
    sp_err err = url.failed ? SP_FAIL(d, SP_NOMEM, "s3") : perform(s, &r, d);
    if (err == SP_OK)
        err = read_list(s, sp_buf_str(&r.reply), more, each, each_arg, d);
    sp_buf_fini(&r.reply);
    sp_buf_fini(&url);
    return err;
}

static sp_err s3_list(void *arg, const char *prefix, sp_kv_each *each, void *each_arg, sp_diag *d)
{
    char more[TOKEN_BYTES] = "";
    for (int i = 0; i < MAX_PAGES; i++) {
        SP_TRY(list_page(arg, prefix, more, each, each_arg, d));
        if (!*more)
            return SP_OK;
    }
    return SP_FAIL(d, SP_CORRUPT, "s3: a list that does not end after %d answers", MAX_PAGES);
}

sp_err sp_s3_open(sp_s3 **out, const char *url, const char *endpoint, sp_diag *d)
{
    char region[128];
    sp_s3 *s = sp_mem_alloc(sizeof *s);
    if (!s || curl_global_init(CURL_GLOBAL_DEFAULT) != 0) {
        sp_mem_free(s);
        return SP_FAIL(d, SP_NOMEM, "s3");
    }
    sp_lock_init(&s->lock, SP_RANK_NET);
    s->cold = (sp_kv_cold){s, s3_get, s3_put, s3_del, s3_list};
    sp_err err = find_credentials(s, region, d);
    if (err == SP_OK)
        err = find_place(s, url, endpoint, region, d);
    if (err == SP_OK)
        *out = s;
    else
        sp_s3_close(s);
    return err;
}

void sp_s3_stop(sp_s3 *s)
{
    if (s)
        atomic_store(&s->stop, true);
}

void sp_s3_close(sp_s3 *s)
{
    if (!s)
        return;
    while (s->n_idle)
        curl_easy_cleanup(s->idle[--s->n_idle]);
    sp_lock_fini(&s->lock);
    sp_mem_free(s->base);
    sp_mem_free(s->prefix);
    sp_mem_free(s->user);
    sp_mem_free(s->token);
    sp_mem_free(s->sigv4);
    sp_mem_free(s);
    curl_global_cleanup();
}

const sp_kv_cold *sp_s3_cold(sp_s3 *s)
{
    return &s->cold;
}
