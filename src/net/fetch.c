#include "net/fetch.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/sha256.h"
#include "net/silence.h"

#include <arpa/inet.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <netdb.h>
#include <netinet/in.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <time.h>
#include <unistd.h>

enum {
    MAX_REDIRECT = 5,
    MAX_IDLE_TRY = 5,
    MAX_TRY = 100,
    CONNECT_S = 15,
    BACKOFF_MS = 200,
    ERROR_BYTES = 1 << 16,
    ETAG_BYTES = 200,
    MAX_PROXY = 8,
    PATH_BYTES = 1200
};
#define KEEP_FREE ((uint64_t)64 << 20) /* of the disk, beside the file */

typedef struct transfer {
    const sp_fetch_cfg *cfg;
    CURL *curl;
    sp_buf *text; /* NULL: into fd */
    size_t cap_text;
    int fd;
    char part[PATH_BYTES], note[PATH_BYTES];
    uint64_t done, total;         /* bytes in the part; of the file, 0: not known */
    char etag[ETAG_BYTES];        /* of the part; "" where nothing can be gone on with */
    /* of the answer that is being read */
    long status;
    char its_etag[ETAG_BYTES];
    bool has_range, has_length, began;
    uint64_t range_at, range_total, length;
    size_t n_error;
    sp_silence silence;
    /* why it was stopped here */
    sp_err stop;
    bool refused_private;
    struct sockaddr_storage proxy[MAX_PROXY];
    size_t n_proxy;
    sp_diag *d;
} transfer;

/* --- addresses -------------------------------------------------------------------------------- */

static bool is_private4(uint32_t a)
{
    static const struct { uint32_t net; int bits; } nets[] = {
        {0x00000000, 8}, {0x0a000000, 8}, {0x64400000, 10}, {0x7f000000, 8}, {0xa9fe0000, 16},
        {0xac100000, 12}, {0xc0000000, 24},
        {0xc0000200, 24}, {0xc0a80000, 16}, {0xc6120000, 15}, {0xc6336400, 24}, {0xcb007100, 24},
        {0xe0000000, 3}};
    for (size_t i = 0; i < sizeof nets / sizeof nets[0]; i++)
        if ((a ^ nets[i].net) >> (32 - nets[i].bits) == 0)
            return true;
    return false;
}

static uint32_t be32(const uint8_t *p)
{
    return (uint32_t)p[0] << 24 | (uint32_t)p[1] << 16 | (uint32_t)p[2] << 8 | p[3];
}

/* Only 2000::/3 is given to hosts; forms that carry an IPv4 address are judged by it. */
static bool is_private6(const uint8_t b[16])
{
    static const uint8_t zero[12] = {0}, mapped[12] = {[10] = 0xff, [11] = 0xff},
                         nat64[12] = {0x00, 0x64, 0xff, 0x9b};
    if (memcmp(b, mapped, 12) == 0 || memcmp(b, nat64, 12) == 0)
        return is_private4(be32(b + 12));
    if (b[0] == 0x20 && b[1] == 0x02)
        return is_private4(be32(b + 2));
    return memcmp(b, zero, 12) == 0 || (b[0] & 0xe0) != 0x20 || (be32(b) == 0x20010db8) ||
           be32(b) == 0x20010000;
}

bool sp_fetch_is_private(const void *addr)
{
    const struct sockaddr *a = addr;
    if (a->sa_family == AF_INET) {
        struct sockaddr_in in;
        memcpy(&in, addr, sizeof in);
        return is_private4(ntohl(in.sin_addr.s_addr));
    }
    if (a->sa_family == AF_INET6) {
        struct sockaddr_in6 in;
        memcpy(&in, addr, sizeof in);
        return is_private6(in.sin6_addr.s6_addr);
    }
    return true;
}

static size_t addr_bytes(int family)
{
    return family == AF_INET ? sizeof(struct sockaddr_in) : sizeof(struct sockaddr_in6);
}

/* Where the proxies of the environment lie, so that sockets to them are told apart. */
static void find_proxies(transfer *t)
{
    static const char *const names[] = {"http_proxy", "https_proxy", "HTTPS_PROXY", "all_proxy",
                                        "ALL_PROXY"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++) {
        const char *v = getenv(names[i]);
        char url[512], *host = NULL, *port = NULL;
        CURLU *u = v && *v ? curl_url() : NULL;
        struct addrinfo *all = NULL, hints = {.ai_socktype = SOCK_STREAM};
        snprintf(url, sizeof url, "%s%s", v && strstr(v, "://") ? "" : "http://", v ? v : "");
        if (u && curl_url_set(u, CURLUPART_URL, url, CURLU_NON_SUPPORT_SCHEME) == CURLUE_OK &&
            curl_url_get(u, CURLUPART_HOST, &host, 0) == CURLUE_OK) {
            if (curl_url_get(u, CURLUPART_PORT, &port, 0) != CURLUE_OK)
                port = NULL;
            if (getaddrinfo(host, port ? port : "1080", &hints, &all) != 0)
                all = NULL;
        }
        for (struct addrinfo *a = all; a && t->n_proxy < MAX_PROXY; a = a->ai_next)
            if (a->ai_addrlen <= sizeof t->proxy[0])
                memcpy(&t->proxy[t->n_proxy++], a->ai_addr, a->ai_addrlen);
        if (all)
            freeaddrinfo(all);
        curl_free(host);
        curl_free(port);
        curl_url_cleanup(u);
    }
}

static curl_socket_t on_socket(void *arg, curlsocktype purpose, struct curl_sockaddr *a)
{
    transfer *t = arg;
    bool is_proxy = false;
    (void)purpose;
    for (size_t i = 0; i < t->n_proxy; i++)
        is_proxy = is_proxy || (t->proxy[i].ss_family == a->family &&
                                memcmp(&t->proxy[i], &a->addr, addr_bytes(a->family)) == 0);
    if (!t->cfg->allow_private && !is_proxy && sp_fetch_is_private(&a->addr)) {
        t->refused_private = true;
        return CURL_SOCKET_BAD;
    }
    return socket(a->family, a->socktype | SOCK_CLOEXEC, a->protocol);
}

/* --- an answer -------------------------------------------------------------------------------- */

static bool is_header(const char *line, size_t n, const char *name)
{
    size_t k = strlen(name);
    return n > k && strncasecmp(line, name, k) == 0;
}

static size_t on_header(char *p, size_t size, size_t n, void *arg)
{
    transfer *t = arg;
    char line[1024];
    n *= size;
    snprintf(line, sizeof line, "%.*s", n < 1000 ? (int)n : 1000, p);
    line[strcspn(line, "\r\n")] = 0;
    if (is_header(line, n, "HTTP/")) { /* each answer of a chain of redirects */
        t->has_range = t->has_length = false;
        t->its_etag[0] = 0;
        t->n_error = 0;
    } else if (is_header(line, n, "etag:")) {
        const char *v = line + 5 + strspn(line + 5, " \t");
        if (*v == '"' && strlen(v) < ETAG_BYTES) /* a weak one says nothing about bytes */
            snprintf(t->its_etag, sizeof t->its_etag, "%s", v);
    } else if (is_header(line, n, "content-length:")) {
        t->length = strtoull(line + 15, NULL, 10);
        t->has_length = true;
    } else if (is_header(line, n, "content-range:")) {
        unsigned long long from, to, all;
        if (sscanf(line + 14, " bytes %llu-%llu/%llu", &from, &to, &all) == 3 && from <= to &&
            to < all) {
            t->has_range = true;
            t->range_at = from;
            t->range_total = all;
        }
    }
    return n;
}

static sp_err has_space(const transfer *t)
{
    struct statvfs s;
    if (!t->total || fstatvfs(t->fd, &s) != 0)
        return SP_OK;
    uint64_t is_free = (uint64_t)s.f_bavail * s.f_frsize, need = t->total - t->done;
    if (need + KEEP_FREE <= is_free)
        return SP_OK;
    return SP_FAIL(
        t->d, SP_LIMIT, "%s: %llu MB more are needed, the disk has %llu MB free (64 MB stay free)",
        t->part, (unsigned long long)(need / 1000000), (unsigned long long)(is_free / 1000000));
}

/* What is noted beside the part, to go on with it later. */
static sp_err note_etag(transfer *t)
{
    snprintf(t->etag, sizeof t->etag, "%s", t->its_etag);
    if (t->etag[0])
        return sp_file_replace(t->note, t->etag, strlen(t->etag), t->d);
    (void)unlink(t->note);
    return SP_OK;
}

static sp_err start_over(transfer *t)
{
    t->done = t->total = 0;
    t->etag[0] = 0;
    (void)unlink(t->note);
    return ftruncate(t->fd, 0) == 0 ? SP_OK
                                    : SP_FAIL(t->d, SP_IO, "%s: %s", t->part, strerror(errno));
}

/* Before the first byte: do they go on where the part ends, or begin anew? */
static sp_err begin(transfer *t)
{
    t->began = true;
    if (t->text)
        return SP_OK;
    bool goes_on = t->status == 206 && t->has_range && t->range_at == t->done && t->done &&
                   strcmp(t->its_etag, t->etag) == 0 && (!t->total || t->total == t->range_total);
    /* of another file, or from another place: the next attempt asks for all of it */
    if (t->status == 206 && !goes_on) {
        SP_TRY(start_over(t));
        return SP_AGAIN;
    }
    if (!goes_on) {
        SP_TRY(start_over(t));
        SP_TRY(note_etag(t));
    }
    t->total = goes_on ? t->range_total : t->has_length ? t->length : 0;
    if (t->cfg->n_bytes && t->total && t->total != t->cfg->n_bytes)
        return SP_FAIL(t->d, SP_CORRUPT, "%.100s: the server has %llu bytes, %llu were promised",
                       t->cfg->url, (unsigned long long)t->total,
                       (unsigned long long)t->cfg->n_bytes);
    t->total = t->total ? t->total : t->cfg->n_bytes;
    return has_space(t);
}

static sp_err store(transfer *t, const char *p, size_t n)
{
    if (t->text) {
        if (n > t->cap_text - t->text->len)
            return SP_FAIL(t->d, SP_LIMIT, "%.120s: the answer is larger than %zu bytes",
                           t->cfg->url, t->cap_text);
        sp_buf_put(t->text, p, n);
        return t->text->failed ? SP_FAIL(t->d, SP_NOMEM, "fetch") : SP_OK;
    }
    if (t->total && n > t->total - t->done)
        return SP_FAIL(t->d, SP_CORRUPT, "%.100s: more than the %llu bytes that were promised",
                       t->cfg->url, (unsigned long long)t->total);
    while (n) {
        ssize_t k = pwrite(t->fd, p, n, (off_t)t->done);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return SP_FAIL(t->d, errno == ENOSPC ? SP_LIMIT : SP_IO, "%s: %s", t->part,
                           strerror(errno));
        p += k;
        n -= (size_t)k;
        t->done += (uint64_t)k;
    }
    return SP_OK;
}

static size_t on_body(char *p, size_t size, size_t n, void *arg)
{
    transfer *t = arg;
    n *= size;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &t->status);
    if (t->status != 200 && t->status != 206) {
        t->n_error += n;
        return t->n_error < ERROR_BYTES ? n : 0;
    }
    t->stop = t->began ? SP_OK : begin(t);
    if (t->stop == SP_OK)
        t->stop = store(t, p, n);
    return t->stop == SP_OK ? n : 0;
}

static int on_progress(void *arg, curl_off_t total, curl_off_t now, curl_off_t x, curl_off_t y)
{
    transfer *t = arg;
    (void)total, (void)x, (void)y;
    if (sp_silence_is_over(&t->silence, now, 0, (uint64_t)t->cfg->silence_s * 1000))
        return 1;
    if (t->text || !t->cfg->progress || t->cfg->progress(t->cfg->arg, t->done, t->total))
        return 0;
    t->stop =
        SP_FAIL(t->d, SP_CANCEL, "%.120s: stopped; the next pull goes on from here", t->cfg->url);
    return 1;
}

/* --- attempts --------------------------------------------------------------------------------- */

static void set_up(transfer *t, struct curl_slist *headers)
{
    CURL *c = t->curl;
    const sp_fetch_cfg *f = t->cfg;
    bool is_tls = strncasecmp(f->url, "https://", 8) == 0;
    curl_easy_setopt(c, CURLOPT_URL, f->url);
    curl_easy_setopt(c, CURLOPT_HTTPHEADER, headers);
    curl_easy_setopt(c, CURLOPT_PROTOCOLS_STR, "http,https");
    curl_easy_setopt(c, CURLOPT_REDIR_PROTOCOLS_STR, is_tls ? "https" : "http,https");
    curl_easy_setopt(c, CURLOPT_FOLLOWLOCATION, 1L);
    curl_easy_setopt(c, CURLOPT_MAXREDIRS, (long)MAX_REDIRECT);
    curl_easy_setopt(c, CURLOPT_NOSIGNAL, 1L);
    curl_easy_setopt(c, CURLOPT_USERAGENT, "sparing/" SP_VERSION);
    curl_easy_setopt(c, CURLOPT_CONNECTTIMEOUT, (long)CONNECT_S);
    curl_easy_setopt(c, CURLOPT_OPENSOCKETFUNCTION, on_socket);
    curl_easy_setopt(c, CURLOPT_OPENSOCKETDATA, t);
    curl_easy_setopt(c, CURLOPT_HEADERFUNCTION, on_header);
    curl_easy_setopt(c, CURLOPT_HEADERDATA, t);
    curl_easy_setopt(c, CURLOPT_WRITEFUNCTION, on_body);
    curl_easy_setopt(c, CURLOPT_WRITEDATA, t);
    curl_easy_setopt(c, CURLOPT_NOPROGRESS, 0L);
    curl_easy_setopt(c, CURLOPT_XFERINFOFUNCTION, on_progress);
    curl_easy_setopt(c, CURLOPT_XFERINFODATA, t);
    if (f->token) {
        curl_easy_setopt(c, CURLOPT_HTTPAUTH, CURLAUTH_BEARER);
        curl_easy_setopt(c, CURLOPT_XOAUTH2_BEARER, f->token);
    }
}

/* SP_AGAIN: it may go better next time; d says why it did not. */
static sp_err judge(transfer *t, CURLcode code)
{
    const char *url = t->cfg->url;
    curl_easy_getinfo(t->curl, CURLINFO_RESPONSE_CODE, &t->status);
    if (t->stop == SP_AGAIN)
        return SP_FAIL(t->d, SP_AGAIN, "%.120s: the server gave another part than was asked for",
                       url);
    if (t->stop != SP_OK)
        return t->stop;
    if (t->refused_private)
        return SP_FAIL(t->d, SP_NET,
                       "%.120s: leads to an address of this machine or a private network "
                       "(--allow-private lets it)",
                       url);
    if (code == CURLE_TOO_MANY_REDIRECTS)
        return SP_FAIL(t->d, SP_NET, "%.120s: more than %d redirects", url, MAX_REDIRECT);
    if (code == CURLE_UNSUPPORTED_PROTOCOL || code == CURLE_URL_MALFORMAT)
        return SP_FAIL(t->d, SP_INVAL, "%.120s: only http and https, and from https only to https",
                       url);
    if (code == CURLE_OPERATION_TIMEDOUT || t->silence.is_over)
        return SP_FAIL(t->d, SP_AGAIN, "%.120s: nothing came for %ld s", url, t->cfg->silence_s);
    if (t->status == 416) {
        SP_TRY(t->text ? SP_OK : start_over(t));
        return SP_FAIL(t->d, SP_AGAIN, "%.120s: the server has no such part", url);
    }
    if (t->status >= 400) {
        sp_err err = t->status == 404 || t->status == 410   ? SP_NOTFOUND
                     : t->status == 429 || t->status >= 500 ? SP_AGAIN
                                                            : SP_NET;
        bool is_shut = t->status == 401 || t->status == 403;
        return SP_FAIL(t->d, err, "%.120s: the server says %ld%s", url, t->status,
                       is_shut ? " (HF_TOKEN is a key for the hub)" : "");
    }
    if (code != CURLE_OK)
        return SP_FAIL(t->d, SP_AGAIN, "%.120s: %.60s", url, curl_easy_strerror(code));
    if (!t->text && (!t->began || (t->total && t->done != t->total)))
        return SP_FAIL(t->d, SP_AGAIN, "%.120s: %llu of %llu bytes came", url,
                       (unsigned long long)t->done, (unsigned long long)t->total);
    return SP_OK;
}

static sp_err attempt(transfer *t)
{
    char line[300], range[64];
    struct curl_slist *headers = NULL;
    t->curl = curl_easy_init();
    if (!t->curl)
        return SP_FAIL(t->d, SP_NOMEM, "fetch");
    t->stop = SP_OK;
    t->began = t->refused_private = false;
    sp_silence_begin(&t->silence);
    if (!t->text && t->done && t->etag[0]) {
        snprintf(line, sizeof line, "If-Range: %s", t->etag);
        headers = curl_slist_append(NULL, line);
        snprintf(range, sizeof range, "%llu-", (unsigned long long)t->done);
        curl_easy_setopt(t->curl, CURLOPT_RANGE, range);
    }
    if (t->text)
        sp_buf_clear(t->text);
    if (t->cfg->accept) {
        snprintf(line, sizeof line, "Accept: %s", t->cfg->accept);
        headers = curl_slist_append(headers, line);
    }
    set_up(t, headers);
    CURLcode code = curl_easy_perform(t->curl);
    sp_err err = judge(t, code);
    curl_slist_free_all(headers);
    curl_easy_cleanup(t->curl);
    t->curl = NULL;
    return err;
}

static sp_err try_until_done(transfer *t)
{
    sp_err err = SP_AGAIN;
    for (int i = 0, n_idle = 0; err == SP_AGAIN && i < MAX_TRY && n_idle < MAX_IDLE_TRY; i++) {
        uint64_t before = t->done;
        if (n_idle) {
            const struct timespec pause = {0, (long)(BACKOFF_MS * n_idle) * 1000000};
            nanosleep(&pause, NULL);
        }
        err = attempt(t);
        n_idle = t->done > before ? 0 : n_idle + 1;
    }
    if (err == SP_AGAIN && t->d)
        t->d->code = SP_NET;
    return err == SP_AGAIN ? SP_NET : err;
}

/* --- the part and what becomes of it ---------------------------------------------------------- */

static sp_err open_part(transfer *t, const char *path, sp_diag *d)
{
    struct stat st;
    sp_buf note = {0};
    int n = snprintf(t->part, sizeof t->part, "%s.part", path),
        m = snprintf(t->note, sizeof t->note, "%s.part.etag", path);
    if (n < 0 || m < 0 || (size_t)m >= sizeof t->note)
        return SP_FAIL(d, SP_INVAL, "%.120s: the path is too long", path);
    t->fd = open(t->part, O_RDWR | O_CREAT | O_CLOEXEC, 0644);
    if (t->fd < 0 || fstat(t->fd, &st) != 0)
        return SP_FAIL(d, SP_IO, "%s: %s", t->part, strerror(errno));
    if (flock(t->fd, LOCK_EX | LOCK_NB) != 0)
        return SP_FAIL(d, SP_LIMIT, "%s: another pull is fetching it", t->part);
    if (sp_file_read(&note, t->note, ETAG_BYTES - 1, NULL) == SP_OK &&
        sp_buf_str(&note)[0] == '"' && !strpbrk(sp_buf_str(&note), "\r\n")) {
        snprintf(t->etag, sizeof t->etag, "%s", sp_buf_str(&note));
        t->done = (uint64_t)st.st_size;
    }
    sp_buf_fini(&note);
    return SP_OK;
}

sp_err sp_fetch_digest(char *hex, const char *path, sp_diag *d)
{
    sp_file_map map;
    sp_sha256 h;
    SP_TRY(sp_file_map_open(&map, path, d));
    const sp_sha256_part all = {map.p, map.len};
    sp_err err = sp_sha256_of(&h, &all, 1);
    sp_file_map_close(&map);
    if (err == SP_OK)
        sp_sha256_hex(hex, &h);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "%s: sha256", path);
}

static sp_err finish(transfer *t, char hex[65], const char *path, sp_diag *d)
{
    const sp_fetch_cfg *f = t->cfg;
    if (f->n_bytes && t->done != f->n_bytes)
        return SP_FAIL(d, SP_CORRUPT, "%.100s: %llu bytes came, %llu were promised", f->url,
                       (unsigned long long)t->done, (unsigned long long)f->n_bytes);
    SP_TRY(sp_fetch_digest(hex, t->part, d));
    if (f->sha256 && strcasecmp(f->sha256, hex) != 0)
        return SP_FAIL(d, SP_CORRUPT, "%.100s: sha256 is %.16s…, %.16s… was promised", f->url, hex,
                       f->sha256);
    if (fsync(t->fd) != 0 || rename(t->part, path) != 0)
        return SP_FAIL(d, SP_IO, "%s: %s", path, strerror(errno));
    (void)unlink(t->note);
    if (f->progress)
        (void)f->progress(f->arg, t->done, t->done);
    return SP_OK;
}

sp_err sp_fetch_file(char *hex, const char *path, const sp_fetch_cfg *cfg, sp_diag *d)
{
    transfer t = {.cfg = cfg, .fd = -1, .d = d};
    find_proxies(&t);
    sp_err err = open_part(&t, path, d);
    bool is_ours = err == SP_OK;
    if (err == SP_OK)
        err = try_until_done(&t);
    if (err == SP_OK)
        err = finish(&t, hex, path, d);
    /* nothing that could be gone on with */
    if (is_ours && (err == SP_CORRUPT || (err != SP_OK && t.done == 0))) {
        (void)unlink(t.part);
        (void)unlink(t.note);
    }
    if (t.fd >= 0)
        close(t.fd);
    return err;
}

sp_err sp_fetch_text(sp_buf *out, size_t cap_bytes, const sp_fetch_cfg *cfg, sp_diag *d)
{
    transfer t = {.cfg = cfg, .fd = -1, .text = out, .cap_text = cap_bytes, .d = d};
    find_proxies(&t);
    return try_until_done(&t);
}
