#include "api/asset.h"

#include "base/file.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

enum { MAX_PATH = 512, MAX_FILE = 16 << 20 };

#define CSP                                                                                      \
    "default-src 'self'; img-src 'self' data:; font-src 'self'; connect-src 'self'; object-src " \
    "'none'; base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
#define TRUSTED "; require-trusted-types-for 'script'; trusted-types shell"
#define FOREVER "public, max-age=31536000, immutable"

const sp_asset *sp_asset_named(const char *name)
{
    for (const sp_asset *a = sp_assets; a->name; a++)
        if (strcmp(a->name, name) == 0)
            return a;
    return NULL;
}

/* The address without /a/BUILD. fixed: it names the files of this binary. */
static const char *without_build(const char *path, bool *fixed)
{
    *fixed = false;
    if (strncmp(path, "/a/", 3) != 0)
        return path;
    size_t n = strcspn(path + 3, "/");
    *fixed = n == strlen(sp_asset_build) && strncmp(path + 3, sp_asset_build, n) == 0;
    return path + 3 + n;
}

static const sp_asset *find(const char *url)
{
    for (const sp_asset *a = sp_assets; a->name; a++)
        if (a->url && strcmp(a->url, url) == 0)
            return a;
    return NULL;
}

/* --- a folder --------------------------------------------------------------------------------- */

/* Letters, digits, - _ . and / only, and no name begins with a dot: nothing leads out of the
 * folder. */
static bool is_inside(const char *url)
{
    static const char ok[] = "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789-_./";
    bool starts = false;
    for (const char *p = url; *p; p++) {
        if (!strchr(ok, *p) || (starts && *p == '.'))
            return false;
        starts = *p == '/';
    }
    return url[0] == '/';
}

static const char *type_of(const char *path)
{
    static const char *const types[][2] = {{".html", "text/html; charset=utf-8"},
                                           {".css", "text/css; charset=utf-8"},
                                           {".js", "text/javascript; charset=utf-8"},
                                           {".json", "application/json"},
                                           {".webmanifest", "application/manifest+json"},
                                           {".svg", "image/svg+xml"},
                                           {".png", "image/png"},
                                           {".woff2", "font/woff2"}};
    const char *dot = strrchr(path, '.');
    for (size_t i = 0; dot && i < sizeof types / sizeof types[0]; i++)
        if (strcmp(dot, types[i][0]) == 0)
            return types[i][1];
    return "text/plain";
}

/* The file of an address, as embed.cmake finds it: a name without an end is a page. */
static bool in_folder(char out[MAX_PATH], const char *dir, const char *url)
{
    const char *name = strcmp(url, "/") == 0 ? "/index.html" : url, *slash = strrchr(name, '/');
    if (!is_inside(url))
        return false;
    int n = snprintf(out, MAX_PATH, "%s%s%s", dir, name, strchr(slash, '.') ? "" : ".html");
    if (n > 0 && n < MAX_PATH && access(out, R_OK) == 0)
        return true;
    n = strcmp(url, "/") == 0 ? snprintf(out, MAX_PATH, "%s/chat.html", dir) : -1;
    return n > 0 && n < MAX_PATH && access(out, R_OK) == 0;
}

bool sp_asset_has(const sp_app *app, const char *path)
{
    char file[MAX_PATH];
    bool fixed;
    const char *url = without_build(path, &fixed);
    return app->web_dir ? in_folder(file, app->web_dir, url) : find(url) != NULL;
}

/* --- answers ---------------------------------------------------------------------------------- */

/* Is one of a list joined by commas this word, whatever parameters it has? q=0 takes it out. */
static bool takes(const char *list, const char *word)
{
    size_t n = strlen(word);
    while (list && *list) {
        list += strspn(list, ", \t");
        size_t k = strcspn(list, ",; \t"), all = strcspn(list, ",");
        const char *q = memchr(list, '=', all);
        if (k == n && strncasecmp(list, word, n) == 0)
            return !q || strspn(q + 1, "0.") < strcspn(q + 1, ",; \t");
        list += all;
    }
    return false;
}

static bool has_tag(const char *list, const char *tag)
{
    size_t n = strlen(tag);
    while (list && *list) {
        list += strspn(list, ", \t");
        list += strncmp(list, "W/", 2) == 0 ? 2 : 0;
        size_t k = strcspn(list, ", \t");
        if ((k == n && strncmp(list, tag, n) == 0) || (k == 1 && *list == '*'))
            return true;
        list += k;
    }
    return false;
}

static void put_safety(sp_http_reply *reply, bool is_app)
{
    sp_http_reply_header(reply, "Content-Security-Policy", is_app ? CSP TRUSTED : CSP);
    sp_http_reply_header(reply, "X-Content-Type-Options", "nosniff");
    sp_http_reply_header(reply, "Cross-Origin-Opener-Policy", "same-origin");
    sp_http_reply_header(reply, "Referrer-Policy", "no-referrer");
}

static void reply_from_folder(const sp_app *app, const char *url, sp_http_reply *reply)
{
    static const char mark[] = "/a/@/", here[] = "/a/0/";
    char file[MAX_PATH];
    sp_diag d = {0};
    bool is_app = false;
    sp_err err = in_folder(file, app->web_dir, url) ? sp_file_read(&reply->body, file, MAX_FILE, &d)
                                                    : SP_FAIL(&d, SP_NOTFOUND, "the file has gone");
    if (err != SP_OK) {
        sp_buf_fini(&reply->body);
        (void)sp_api_reply(reply, &d);
        return;
    }
    reply->status = 200;
    reply->type = type_of(file);
    for (char *p = reply->body.p;
         strncmp(reply->type, "text/html", 9) == 0 && reply->body.len && p;) {
        p = memmem(p, reply->body.len - (size_t)(p - (char *)reply->body.p), mark, sizeof mark - 1);
        if (p)
            memcpy(p, here, sizeof here - 1);
        is_app = is_app || p;
    }
    put_safety(reply, is_app);
    sp_http_reply_header(reply, "Cache-Control", "no-store");
}

void sp_asset_reply(const sp_app *app, const sp_api_req *req, sp_http_reply *reply)
{
    char tag[72];
    bool fixed;
    const char *url = without_build(req->path, &fixed);
    if (app->web_dir) {
        reply_from_folder(app, url, reply);
        return;
    }
    const sp_asset *a = find(url);
    bool packed = a->gz && takes(sp_http_header(req->http, "Accept-Encoding"), "gzip");
    snprintf(tag, sizeof tag, "\"%.40s%s\"", a->sum, packed ? "-gz" : "");
    put_safety(reply, a->is_app);
    sp_http_reply_header(reply, "ETag", tag);
    sp_http_reply_header(reply, "Cache-Control", fixed ? FOREVER : "no-cache");
    if (a->gz)
        sp_http_reply_header(reply, "Vary", "Accept-Encoding");
    reply->status = has_tag(sp_http_header(req->http, "If-None-Match"), tag) ? 304 : 200;
    if (reply->status == 304)
        return;
    reply->type = a->type;
    if (packed)
        sp_http_reply_header(reply, "Content-Encoding", "gzip");
    sp_buf_put(&reply->body, packed ? a->gz : a->p, packed ? a->n_gz : a->n);
}
