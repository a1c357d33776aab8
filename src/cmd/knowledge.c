/* Documents from the command line: ingest, search, collections. */
#include "cmd/shelf.h"

#include "base/clock.h"
#include "base/mem.h"

#include <errno.h>
#include <fcntl.h>
#include <fts.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { BATCH = 32, MAX_FOUND = 20 };

static sp_err embed(sp_encoder *e, int8_t out[SP_VEC_DIM], const char *text, size_t n, sp_diag *d)
{
    sp_ids ids = {0};
    float v[SP_VEC_DIM];
    sp_err err = sp_wp_encode_begin(sp_encoder_vocab(e), &ids, sp_encoder_cap(e), text, n, d);
    if (err == SP_OK)
        err = sp_encoder_run(e, v, ids.id, ids.n, NULL, 0, d);
    if (err == SP_OK)
        sp_vec_quantise(out, v);
    sp_ids_fini(&ids);
    return err;
}

/* --- ingest ----------------------------------------------------------------------------------- */

typedef struct tally {
    size_t added, changed, same, failed, skipped, removed, chunks;
} tally;

static void progress(const char *what, size_t done, size_t all)
{
    enum { WIDTH = 30 };
    if (!isatty(2))
        return;
    size_t k = all ? done * WIDTH / all : WIDTH;
    fprintf(stderr, "\r%-10s [%.*s%*s] %zu/%zu ", what, (int)k, "##############################", (int)(WIDTH - k), "", done, all);
    if (done == all)
        fputc('\n', stderr);
}

/* A regular file, not through a link, of at most cap bytes. */
static sp_err read_file(sp_buf *out, const char *path, size_t cap, sp_diag *d)
{
    struct stat st;
    int fd = open(path, O_RDONLY | O_NOFOLLOW | O_NONBLOCK | O_CLOEXEC);
    if (fd < 0)
        return SP_FAIL(d, SP_IO, "%s", strerror(errno));
    sp_err err = SP_OK;
    if (fstat(fd, &st) != 0 || !S_ISREG(st.st_mode))
        err = SP_FAIL(d, SP_UNSUP, "not a regular file");
    else if ((size_t)st.st_size > cap)
        err = SP_FAIL(d, SP_LIMIT, "%lld bytes; at most %zu are read, see --max-file", (long long)st.st_size, cap);
    char block[65536];
    for (ssize_t k; err == SP_OK && (k = read(fd, block, sizeof block)) != 0;) {
        if (k < 0)
            err = SP_FAIL(d, SP_IO, "%s", strerror(errno));
        else
            sp_buf_put(out, block, (size_t)k);
        if (out->len > cap)
            err = SP_FAIL(d, SP_LIMIT, "grew past %zu bytes while it was read", cap);
    }
    if (out->failed)
        err = SP_FAIL(d, SP_NOMEM, "%lld bytes", (long long)st.st_size);
    close(fd);
    return err;
}

static sp_err ingest_file(sp_shelf *s, const sp_opts *o, const char *coll, const char *path, tally *t, sp_diag *d)
{
    sp_buf bytes = {0};
    sp_diag why = {0};
    char id[SP_RAG_ID];
    sp_rag_done done;
    sp_rag_put p = {.tenant = TENANT(o), .coll = coll, .path = path, .vocab = sp_encoder_vocab(s->encoder), .max_tok = (size_t)sp_opt_int(o, "chunk-tokens")};
    sp_err err = read_file(&bytes, path, sp_opt_bytes(o, "max-file"), &why);
    p.bytes = sp_buf_str(&bytes);
    p.n_bytes = bytes.len;
    bool is_read = err == SP_OK;
    if (is_read)
        err = sp_rag_doc_put(s->store, &p, &done, id, &why);
    if (err == SP_OK) {
        *(done == SP_RAG_ADDED ? &t->added : done == SP_RAG_CHANGED ? &t->changed : &t->same) += 1;
    } else if (err == SP_NOMEM || (is_read && (err == SP_IO || err == SP_NOTFOUND))) { /* the store itself, or this process */
        *d = why;
    } else { /* the file is bad: said, kept on record, and left behind */
        fprintf(stderr, "%ssparing: %s: %s\n", isatty(2) ? "\r" : "", path, why.msg);
        t->failed++;
        err = sp_rag_doc_fail(s->store, &p, why.msg, d);
    }
    sp_buf_fini(&bytes);
    return err;
}

typedef struct paths {
    char **at;
    size_t n, cap;
} paths;

static sp_err add_path(paths *p, const char *path, sp_diag *d)
{
    if (p->n == p->cap) {
        char **more = sp_mem_grow(p->at, (p->cap * 2 + 64) * sizeof *more);
        if (!more)
            return SP_FAIL(d, SP_NOMEM, "list of files");
        p->at = more;
        p->cap = p->cap * 2 + 64;
    }
    p->at[p->n] = sp_mem_strdup(path);
    if (!p->at[p->n])
        return SP_FAIL(d, SP_NOMEM, "list of files");
    p->n++;
    return SP_OK;
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

/* Files below root that can be read, in order of their names. Links are not followed. */
static sp_err walk(paths *out, const char *root, tally *t, sp_diag *d)
{
    char *const roots[] = {(char *)(uintptr_t)root, NULL};
    FTS *f = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, by_name);
    sp_err err = f ? SP_OK : SP_FAIL(d, SP_IO, "%.150s: %s", root, strerror(errno));
    for (FTSENT *e; err == SP_OK && (e = fts_read(f));) {
        if (e->fts_info == FTS_F && sp_rag_can_parse(e->fts_name))
            err = add_path(out, e->fts_path, d);
        else if (e->fts_info == FTS_DNR || e->fts_info == FTS_ERR || e->fts_info == FTS_NS)
            fprintf(stderr, "sparing: %s: %s\n", e->fts_path, strerror(e->fts_errno)), t->failed++;
        else if (e->fts_info == FTS_F || e->fts_info == FTS_SL || e->fts_info == FTS_SLNONE || e->fts_info == FTS_DEFAULT)
            t->skipped++;
    }
    if (f)
        fts_close(f);
    return err;
}

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

/* Documents of the collection below root whose files are gone. */
static sp_err remove_gone(sp_shelf *s, const sp_opts *o, const char *coll, const char *root, const paths *have, tally *t, sp_diag *d)
{
    sp_arena a;
    sp_rag_doc *doc;
    size_t n, len = strlen(root);
    sp_arena_init(&a, 0);
    sp_err err = sp_rag_doc_list(s->store, &a, TENANT(o), coll, &doc, &n, d);
    for (size_t i = 0; i < n && err == SP_OK; i++) {
        const char *p = doc[i].path;
        if (strncmp(p, root, len) != 0 || (p[len] && p[len] != '/' && strcmp(root, "/") != 0) || bsearch(&p, have->at, have->n, sizeof *have->at, by_text))
            continue;
        err = sp_rag_doc_delete(s->store, TENANT(o), coll, doc[i].id, d);
        t->removed++;
    }
    sp_arena_fini(&a);
    return err;
}

/* Vectors for every chunk that has none, those of an interrupted run first. */
static sp_err embed_all(sp_shelf *s, size_t n_all, tally *t, sp_diag *d)
{
    static sp_rag_vecs vecs[BATCH];
    static float unit[(1 + SP_RAG_SENTS) * SP_VEC_DIM];
    sp_arena a;
    sp_rag_bare *bare;
    size_t n;
    sp_arena_init(&a, 0);
    sp_err err = SP_OK;
    while (err == SP_OK && (err = sp_rag_bare_next(s->store, &a, BATCH, &bare, &n, d)) == SP_OK) {
        for (size_t i = 0; i < n && err == SP_OK; i++) {
            sp_rag_read r = {0};
            err = sp_rag_read_chunk(&r, sp_encoder_vocab(s->encoder), sp_encoder_cap(s->encoder), bare[i].place, bare[i].text, d);
            if (err == SP_OK)
                err = sp_encoder_run(s->encoder, unit, r.ids.id, r.ids.n, r.sent, r.n_sent, d);
            sp_rag_vecs_set(&vecs[i], unit, r.n_sent);
            sp_ids_fini(&r.ids);
        }
        if (err == SP_OK)
            err = sp_rag_bare_set(s->store, bare, vecs, n, d);
        t->chunks += n;
        progress("vectors", t->chunks, n_all);
        sp_arena_reset(&a);
    }
    sp_arena_fini(&a);
    return err == SP_NOTFOUND ? SP_OK : err;
}

static sp_err count_bare(sp_shelf *s, const sp_opts *o, const char *coll, size_t *out, sp_diag *d)
{
    sp_arena a;
    sp_rag_doc *doc;
    size_t n;
    sp_arena_init(&a, 0);
    sp_err err = sp_rag_doc_list(s->store, &a, TENANT(o), coll, &doc, &n, d);
    *out = 0;
    for (size_t i = 0; err == SP_OK && i < n; i++)
        *out += (size_t)doc[i].n_bare;
    sp_arena_fini(&a);
    return err;
}

static sp_err ingest(sp_shelf *s, const sp_opts *o, const char *const *root, size_t n_root, tally *t, sp_diag *d)
{
    char coll[SP_RAG_ID];
    size_t n_bare;
    SP_TRY(sp_shelf_coll(coll, s, o, true, d));
    for (size_t i = 0; i < n_root; i++) {
        paths p = {0};
        char *real = realpath(root[i], NULL);
        sp_err err = real ? walk(&p, real, t, d) : SP_FAIL(d, SP_NOTFOUND, "%.150s: %s", root[i], strerror(errno));
        for (size_t k = 0; k < p.n && err == SP_OK; k++) {
            err = ingest_file(s, o, coll, p.at[k], t, d);
            progress("documents", k + 1, p.n);
        }
        if (p.n)
            qsort(p.at, p.n, sizeof *p.at, by_text);
        if (err == SP_OK)
            err = remove_gone(s, o, coll, real, &p, t, d);
        for (size_t k = 0; k < p.n; k++)
            sp_mem_free(p.at[k]);
        sp_mem_free(p.at);
        free(real);
        SP_TRY(err);
    }
    SP_TRY(count_bare(s, o, coll, &n_bare, d));
    return embed_all(s, n_bare, t, d);
}

int sp_cmd_ingest(const sp_opts *o)
{
    sp_shelf s = {0};
    tally t = {0};
    sp_diag d = {0};
    const char *const *root;
    uint64_t since = sp_clock_ns();
    size_t n = sp_opts_rest(o, &root);
    if (n == 0) {
        (void)SP_FAIL(&d, SP_INVAL, "ingest: name files or folders");
        return sp_cmd_fail(EXIT_USAGE, &d);
    }
    sp_err err = sp_shelf_open(&s, o, true, &d);
    if (err == SP_OK)
        err = ingest(&s, o, root, n, &t, &d);
    sp_shelf_close(&s);
    if (err != SP_OK)
        return sp_cmd_fail(sp_shelf_exit(err), &d);
    printf(sp_opt_flag(o, "json") ? "{\"added\":%zu,\"changed\":%zu,\"same\":%zu,\"failed\":%zu,\"skipped\":%zu,\"removed\":%zu,\"chunks\":%zu,\"seconds\":%.1f}\n"
                                  : "%zu added, %zu changed, %zu unchanged, %zu failed, %zu skipped (not a format that is read), %zu removed; %zu chunks in %.1f s\n",
           t.added, t.changed, t.same, t.failed, t.skipped, t.removed, t.chunks, sp_clock_ms(since) / 1e3);
    return EXIT_DONE;
}

/* --- search ----------------------------------------------------------------------------------- */

static sp_err read_how(unsigned *out, const char *v, sp_diag *d)
{
    static const struct { const char *name; unsigned how; } of[] = {
        {"all", SP_RAG_ALL}, {"words", SP_RAG_WORDS}, {"vectors", SP_RAG_VECTORS}, {"graph", SP_RAG_GRAPH}, {"plain", SP_RAG_PLAIN}};
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)
        if (strcmp(of[i].name, v) == 0) {
            *out = of[i].how;
            return SP_OK;
        }
    return SP_FAIL(d, SP_INVAL, "ranks: %.20s is none of all, plain, words, vectors, graph", v);
}

static void print_hits(const sp_rag_hit *h, size_t n, double ms, bool json)
{
    sp_buf out = {0};
    for (size_t i = 0; i < n; i++) {
        if (json) {
            sp_buf_printf(&out, "%s{\"score\":%.4f,\"cosine\":%.4f,\"chunk\":\"%s\",\"file\":\"%s\",\"ranks\":[%d,%d,%d,%d],\"path\":", i ? "," : "", h[i].score, h[i].cosine, h[i].chunk, h[i].doc,
                          h[i].rank_word, h[i].rank_vec, h[i].rank_sent, h[i].rank_graph);
            sp_buf_json_str(&out, h[i].path, strlen(h[i].path));
            sp_buf_puts(&out, ",\"place\":");
            sp_buf_json_str(&out, h[i].place, strlen(h[i].place));
            sp_buf_puts(&out, ",\"text\":");
            sp_buf_json_str(&out, h[i].text, strlen(h[i].text));
            sp_buf_putc(&out, '}');
        } else {
            sp_buf_printf(&out, "%zu. %s  (%.3f)\n   %s\n   %.240s%s\n", i + 1, h[i].place, h[i].score, h[i].path, h[i].text, strlen(h[i].text) > 240 ? "…" : "");
        }
    }
    if (json)
        printf("{\"ms\":%.3f,\"hits\":[%s]}\n", ms, sp_buf_str(&out));
    else
        printf("%s", n ? sp_buf_str(&out) : "nothing found\n");
    fflush(stdout);
    sp_buf_fini(&out);
}

static sp_err search(sp_shelf *s, const sp_opts *o, const char *coll, unsigned how, const char *text, sp_diag *d)
{
    sp_arena a;
    sp_rag_hit *hit;
    size_t n;
    int8_t vec[SP_VEC_DIM];
    uint64_t since = sp_clock_ns();
    SP_TRY(embed(s->encoder, vec, text, strlen(text), d));
    const sp_rag_query q = {.tenant = TENANT(o), .coll = coll, .text = text, .vec = vec, .how = how, .cap = (size_t)sp_opt_int(o, "limit")};
    sp_arena_init(&a, 0);
    sp_err err = sp_rag_search(s->store, &a, &q, &hit, &n, d);
    if (err == SP_OK)
        print_hits(hit, n, sp_clock_ms(since), sp_opt_flag(o, "json"));
    sp_arena_fini(&a);
    return err;
}

int sp_cmd_search(const sp_opts *o)
{
    sp_shelf s = {0};
    sp_diag d = {0};
    const char *const *rest;
    char coll[SP_RAG_ID], *line = NULL;
    unsigned how = 0;
    size_t n = sp_opts_rest(o, &rest), cap = 0;
    sp_err err = read_how(&how, sp_opt_str(o, "ranks"), &d);
    if (err != SP_OK)
        return sp_cmd_fail(EXIT_USAGE, &d);
    err = sp_shelf_open(&s, o, true, &d);
    if (err == SP_OK)
        err = sp_shelf_coll(coll, &s, o, false, &d);
    if (err == SP_OK && n)
        err = search(&s, o, coll, how, rest[0], &d);
    for (ssize_t k; err == SP_OK && !n && (k = getline(&line, &cap, stdin)) > 0;) { /* a question a line */
        line[strcspn(line, "\n")] = 0;
        err = search(&s, o, coll, how, line, &d);
    }
    free(line);
    sp_shelf_close(&s);
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(sp_shelf_exit(err), &d);
}

/* --- collections ---------------------------------------------------------------- */

static sp_err list_collections(sp_shelf *s, const sp_opts *o, sp_diag *d)
{
    sp_arena a;
    sp_rag_coll *c;
    size_t n;
    bool json = sp_opt_flag(o, "json");
    sp_buf out = {0};
    sp_arena_init(&a, 0);
    sp_err err = sp_rag_coll_list(s->store, &a, TENANT(o), &c, &n, d);
    for (size_t i = 0; i < n && err == SP_OK; i++) {
        if (json) {
            sp_buf_printf(&out, "%s{\"id\":\"%s\",\"name\":", i ? "," : "", c[i].id);
            sp_buf_json_str(&out, c[i].name, strlen(c[i].name));
            sp_buf_printf(&out, ",\"documents\":%lld,\"failed\":%lld,\"chunks\":%lld,\"bytes\":%lld}", (long long)c[i].n_doc, (long long)c[i].n_failed,
                          (long long)c[i].n_chunk, (long long)c[i].n_bytes);
        } else {
            sp_buf_printf(&out, "%s  %s: %lld documents (%lld failed), %lld chunks, %.1f MB\n", c[i].id, c[i].name, (long long)c[i].n_doc, (long long)c[i].n_failed,
                          (long long)c[i].n_chunk, (double)c[i].n_bytes * 1e-6);
        }
    }
    if (err == SP_OK)
        printf(json ? "[%s]\n" : "%s", sp_buf_str(&out));
    sp_buf_fini(&out);
    sp_arena_fini(&a);
    return err;
}

int sp_cmd_collections(const sp_opts *o)
{
    sp_shelf s = {0};
    sp_diag d = {0};
    const char *const *rest;
    size_t n = sp_opts_rest(o, &rest);
    char coll[SP_RAG_ID];
    bool remove = n == 2 && strcmp(rest[0], "delete") == 0;
    if (n && !remove) {
        (void)SP_FAIL(&d, SP_INVAL, "collections: nothing, or `delete NAME`");
        return sp_cmd_fail(EXIT_USAGE, &d);
    }
    sp_err err = sp_shelf_open(&s, o, false, &d);
    if (err == SP_OK && remove)
        err = sp_rag_coll_named(s.store, TENANT(o), rest[1], false, coll, &d);
    if (err == SP_OK)
        err = remove ? sp_rag_coll_delete(s.store, TENANT(o), coll, &d) : list_collections(&s, o, &d);
    sp_shelf_close(&s);
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(sp_shelf_exit(err), &d);
}
