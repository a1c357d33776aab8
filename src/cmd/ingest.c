/* `sparing ingest`: files and folders into a collection. Every file ends as added, changed,
 * unchanged, removed, partial, empty, failed or skipped, and is named with it. What cannot be read
 * keeps what an earlier run found in it; what is removed was proved to be gone. */
#include "cmd/shelf.h"
#include "cmd/term.h"

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

/* asked before more than one in ASK_FROM documents of a folder is removed */
enum { BATCH = 32, ASK_FROM = 5 };

typedef enum ending {
    ADDED,
    CHANGED,
    UNCHANGED,
    REMOVED,
    PARTIAL,
    EMPTY,
    FAILED,
    SKIPPED,
    N_ENDING
} ending;

static const char *const ending_names[N_ENDING] = {"added",   "changed", "unchanged", "removed",
                                                   "partial", "empty",   "failed",    "skipped"};

typedef struct run {
    sp_shelf *s;
    const sp_opts *o;
    char coll[SP_RAG_ID];
    size_t n[N_ENDING], chunks;
    bool bad; /* something named was not done: exit code 1 */
    bool json;
    sp_buf files; /* JSON of what was named so far */
    uint64_t since_ns, told_ns; /* begin of what goes on; when its progress was told last */
} run;

/* A line that is written over; without a terminal a line each half minute. */
static void progress(run *t, const char *what, size_t done, size_t all)
{
    enum { WIDTH = 30 };
    static const uint64_t pause_ns = 30000000000;
    if (sp_opt_flag(t->o, "quiet"))
        return;
    if (isatty(2)) {
        size_t k = all ? done * WIDTH / all : WIDTH;
        fprintf(stderr, "\r%-10s [%.*s%*s] %zu/%zu", what, (int)k,
                "##############################", (int)(WIDTH - k), "", done, all);
        sp_term_put_left(stderr, t->since_ns, done, all);
        fputs(done == all ? sp_term_is(stderr) ? "\033[K\n" : "\n" : "   ", stderr);
    } else if (sp_clock_ns() - t->told_ns >= pause_ns) {
        fprintf(stderr, "%s: %zu of %zu", what, done, all);
        sp_term_put_left(stderr, t->since_ns, done, all);
        fputc('\n', stderr);
        t->told_ns = sp_clock_ns();
    }
}

/* How a file ended, by name. Failures go to the error output too, where scripts look for them. */
static void say(run *t, ending how, const char *path, size_t n_chunk, const char *why)
{
    bool wrong = how == FAILED || how == PARTIAL || how == EMPTY;
    t->n[how]++;
    if (sp_term_is(stderr)) /* the line of the progress, if there is one, goes */
        fputs("\r\033[K", stderr);
    if (wrong)
        fprintf(stderr, "sparing: %s: %s%s%s\n", path,
                how == FAILED ? "" : ending_names[how], how == FAILED ? "" : ": ", why);
    if (t->json) {
        sp_buf_printf(&t->files, "%s{\"path\":", t->files.len ? "," : "");
        sp_buf_json_str(&t->files, path, strlen(path));
        sp_buf_printf(&t->files, ",\"outcome\":\"%s\",\"chunks\":%zu", ending_names[how], n_chunk);
        if (why[0]) {
            sp_buf_puts(&t->files, ",\"why\":");
            sp_buf_json_str(&t->files, why, strlen(why));
        }
        sp_buf_putc(&t->files, '}');
    } else if (!wrong) {
        printf("%-9s  %s%s%s\n", ending_names[how], path, why[0] ? ": " : "", why);
    }
}

/* --- one file --------------------------------------------------------------------------------- */

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
        err = SP_FAIL(d, SP_LIMIT, "%lld bytes; at most %zu are read, see --max-file",
                      (long long)st.st_size, cap);
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

static void say_put(run *t, const sp_rag_put *p, const sp_rag_outcome *out)
{
    static const ending of[] = {[SP_RAG_ADDED] = ADDED,
                                [SP_RAG_CHANGED] = CHANGED,
                                [SP_RAG_SAME] = UNCHANGED,
                                [SP_RAG_NOTHING] = EMPTY};
    ending how = out->n_bad ? PARTIAL : of[out->done];
    sp_buf why = {0};
    if (out->n_bad)
        sp_buf_printf(&why, "%zu %s not read: ", out->n_bad,
                      out->n_bad == 1 ? "record is" : "records are");
    for (const char *c = out->why; *c; c++)
        if (*c == '\n')
            sp_buf_puts(&why, "; ");
        else
            sp_buf_putc(&why, *c);
    t->bad = t->bad || how == PARTIAL || (how == EMPTY && p->n_bytes);
    say(t, how, p->path, out->n_chunk, sp_buf_str(&why));
    sp_buf_fini(&why);
}

static sp_err ingest_file(run *t, const char *path, sp_diag *d)
{
    sp_buf bytes = {0};
    sp_diag why = {0};
    sp_rag_outcome out;
    sp_rag_put p = {.tenant = TENANT(t->o),
                    .coll = t->coll,
                    .path = path,
                    .vocab = sp_encoder_vocab(t->s->encoder),
                    .max_tok = (size_t)sp_opt_int(t->o, "chunk-tokens")};
    sp_err err = read_file(&bytes, path, sp_opt_bytes(t->o, "max-file"), &why);
    p.bytes = sp_buf_str(&bytes);
    p.n_bytes = bytes.len;
    bool is_read = err == SP_OK;
    if (is_read)
        err = sp_rag_doc_put(t->s->store, &p, &out, &why);
    if (err == SP_OK) {
        say_put(t, &p, &out);
    /* the store itself, or this process */
    } else if (err == SP_NOMEM || (is_read && (err == SP_IO || err == SP_NOTFOUND))) {
        *d = why;
    } else { /* the file is bad: said, kept on record, and left behind */
        t->bad = true;
        say(t, FAILED, path, 0, why.msg);
        err = sp_rag_doc_fail(t->s->store, &p, why.msg, d);
    }
    sp_buf_fini(&bytes);
    return err;
}

/* --- folders ---------------------------------------------------------------------------------- */

typedef struct paths {
    char **at;
    size_t n, cap;
} paths;

static sp_err add_path(paths *p, const char *path, sp_diag *d)
{
    if (!sp_mem_has_room(&p->at, &p->cap, p->n, sizeof *p->at))
        return SP_FAIL(d, SP_NOMEM, "list of files");
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

static int by_text(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

static sp_err take_entry(run *t, paths *out, const FTSENT *e, sp_diag *d)
{
    bool named = e->fts_level == FTS_ROOTLEVEL; /* on the command line */
    if (e->fts_info == FTS_F && sp_rag_can_parse(e->fts_name))
        return add_path(out, e->fts_path, d);
    if (e->fts_info == FTS_DNR || e->fts_info == FTS_ERR || e->fts_info == FTS_NS) {
        t->bad = true;
        say(t, FAILED, e->fts_path, 0, strerror(e->fts_errno));
    } else if (e->fts_info == FTS_F || e->fts_info == FTS_SL || e->fts_info == FTS_SLNONE ||
               e->fts_info == FTS_DEFAULT) {
        const char *why = e->fts_info == FTS_F         ? "not a format that is read"
                          : e->fts_info == FTS_DEFAULT ? "not a regular file"
                                                       : "a link; links are not followed";
        t->bad = t->bad || named;
        say(t, named ? FAILED : SKIPPED, e->fts_path, 0, why);
    }
    return SP_OK;
}

/* Files below root that can be read, in order of their names. Links are not followed. */
static sp_err walk(run *t, paths *out, const char *root, sp_diag *d)
{
    char *const roots[] = {(char *)(uintptr_t)root, NULL};
    FTS *f = fts_open(roots, FTS_PHYSICAL | FTS_NOCHDIR, by_name);
    sp_err err = f ? SP_OK : SP_FAIL(d, SP_IO, "%.150s: %s", root, strerror(errno));
    for (FTSENT *e; err == SP_OK && (e = fts_read(f));)
        err = take_entry(t, out, e, d);
    if (f)
        fts_close(f);
    if (out->n)
        qsort(out->at, out->n, sizeof *out->at, by_text);
    return err;
}

/* --- removal ---------------------------------------------------------------------------------- */

static bool is_below(const char *path, const char *root)
{
    size_t n = strlen(root);
    return strncmp(path, root, n) == 0 && (!path[n] || path[n] == '/' || strcmp(root, "/") == 0);
}

/* Proof that a file is gone is the system's word that nothing has its name. Any other answer keeps
 * the document, and is said. */
static bool is_gone(run *t, const char *path)
{
    struct stat st;
    bool there = lstat(path, &st) == 0;
    if (!there && (errno == ENOENT || errno == ENOTDIR))
        return true;
    t->bad = true;
    say(t, FAILED, path, 0,
        !there                ? strerror(errno)
        : S_ISREG(st.st_mode) ? "not a format that is read any more; its document stays"
                              : "not a regular file any more; its document stays");
    return false;
}

/* May so many be removed? Asked at a terminal when it is more than a fifth: a folder that is not
 * mounted looks like one whose files are gone. */
static bool may_remove(run *t, const char *root, size_t n_gone, size_t n_below)
{
    char answer[8] = "";
    if (n_gone * ASK_FROM <= n_below || sp_opt_flag(t->o, "remove-gone"))
        return true;
    bool can_ask = isatty(0) && isatty(2);
    fprintf(stderr, "%ssparing: %s: the files of %zu of %zu documents are gone%s",
            isatty(2) ? "\r" : "", root, n_gone, n_below,
            can_ask ? "; remove these documents? [y/N] "
                    : "; they stay, because that is more than a fifth. Is the folder mounted? "
                      "--remove-gone removes them\n");
    bool yes =
        can_ask && fgets(answer, sizeof answer, stdin) && (answer[0] == 'y' || answer[0] == 'Y');
    t->bad = t->bad || !yes;
    return yes;
}

/* Documents of the collection below root whose files are gone. */
static sp_err remove_gone(run *t, const char *root, const paths *have, sp_diag *d)
{
    sp_arena a;
    sp_rag_doc *doc;
    size_t n, n_gone = 0, n_below = 0;
    sp_arena_init(&a, 0);
    sp_err err = sp_rag_doc_list(t->s->store, &a, TENANT(t->o), t->coll, &doc, &n, d);
    for (size_t i = 0; i < n && err == SP_OK; i++) {
        const char *p = doc[i].path;
        if (!is_below(p, root))
            continue;
        n_below++;
        /* at may be NULL without any */
        bool is_there = have->n && bsearch(&p, have->at, have->n, sizeof *have->at, by_text);
        if (!is_there && is_gone(t, p))
            doc[n_gone++] = doc[i];
    }
    bool may = err == SP_OK && n_gone && may_remove(t, root, n_gone, n_below);
    for (size_t i = 0; i < n_gone && err == SP_OK && may; i++) {
        err = sp_rag_doc_delete(t->s->store, TENANT(t->o), t->coll, doc[i].id, d);
        if (err == SP_OK)
            say(t, REMOVED, doc[i].path, 0, "");
    }
    sp_arena_fini(&a);
    return err;
}

/* --- vectors ---------------------------------------------------------------------------------- */

/* Vectors for every chunk that has none, those of an interrupted run first. */
static sp_err embed_all(run *t, size_t n_all, sp_diag *d)
{
    static sp_rag_vecs vecs[BATCH];
    static float unit[(1 + SP_RAG_SENTS) * SP_VEC_DIM];
    sp_shelf *s = t->s;
    sp_arena a;
    sp_rag_bare *bare;
    size_t n;
    sp_arena_init(&a, 0);
    sp_err err = SP_OK;
    t->since_ns = t->told_ns = sp_clock_ns();
    while (err == SP_OK && (err = sp_rag_bare_next(s->store, &a, BATCH, &bare, &n, d)) == SP_OK) {
        for (size_t i = 0; i < n && err == SP_OK; i++) {
            sp_rag_read r = {0};
            err = sp_rag_read_chunk(&r, sp_encoder_vocab(s->encoder), sp_encoder_cap(s->encoder),
                                    bare[i].place, bare[i].text, d);
            if (err == SP_OK)
                err = sp_encoder_run(s->encoder, unit, r.ids.id, r.ids.n, r.sent, r.n_sent, d);
            sp_rag_vecs_set(&vecs[i], unit, r.n_sent);
            sp_ids_fini(&r.ids);
        }
        if (err == SP_OK)
            err = sp_rag_bare_set(s->store, bare, vecs, n, d);
        t->chunks += n;
        progress(t, "vectors", t->chunks, n_all);
        sp_arena_reset(&a);
    }
    sp_arena_fini(&a);
    return err == SP_NOTFOUND ? SP_OK : err;
}

static sp_err count_bare(run *t, size_t *out, sp_diag *d)
{
    sp_arena a;
    sp_rag_doc *doc;
    size_t n;
    sp_arena_init(&a, 0);
    sp_err err = sp_rag_doc_list(t->s->store, &a, TENANT(t->o), t->coll, &doc, &n, d);
    *out = 0;
    for (size_t i = 0; err == SP_OK && i < n; i++)
        *out += (size_t)doc[i].n_bare;
    sp_arena_fini(&a);
    return err;
}

/* --- command ---------------------------------------------------------------------------------- */

static sp_err ingest_root(run *t, const char *root, sp_diag *d)
{
    paths p = {0};
    char *real = realpath(root, NULL);
    sp_err err =
        real ? walk(t, &p, real, d) : SP_FAIL(d, SP_NOTFOUND, "%.150s: %s", root, strerror(errno));
    t->since_ns = t->told_ns = sp_clock_ns();
    for (size_t k = 0; k < p.n && err == SP_OK; k++) {
        err = ingest_file(t, p.at[k], d);
        progress(t, "documents", k + 1, p.n);
    }
    if (err == SP_OK)
        err = remove_gone(t, real, &p, d);
    for (size_t k = 0; k < p.n; k++)
        sp_mem_free(p.at[k]);
    sp_mem_free(p.at);
    free(real);
    return err;
}

static void print_sum(const run *t, double seconds)
{
    const size_t *n = t->n;
    if (t->json)
        printf("{\"added\":%zu,\"changed\":%zu,\"same\":%zu,\"partial\":%zu,\"empty\":%zu,"
               "\"failed\":%zu,\"skipped\":%zu,\"removed\":%zu,\"chunks\":%zu,"
               "\"seconds\":%.1f,\"files\":[%s]}\n",
               n[ADDED], n[CHANGED], n[UNCHANGED], n[PARTIAL], n[EMPTY], n[FAILED], n[SKIPPED],
               n[REMOVED], t->chunks, seconds, sp_buf_str(&t->files));
    else
        printf("%zu added, %zu changed, %zu unchanged, %zu read in part, %zu empty, %zu failed, "
               "%zu skipped, %zu removed; %zu chunks in %.1f s\n",
               n[ADDED], n[CHANGED], n[UNCHANGED], n[PARTIAL], n[EMPTY], n[FAILED], n[SKIPPED],
               n[REMOVED], t->chunks, seconds);
}

int sp_cmd_ingest(const sp_opts *o)
{
    sp_shelf s = {0};
    sp_diag d = {0};
    run t = {.s = &s, .o = o, .json = sp_opt_flag(o, "json")};
    const char *const *root;
    uint64_t since = sp_clock_ns();
    size_t n = sp_opts_rest(o, &root), n_bare = 0;
    if (n == 0) {
        (void)SP_FAIL(&d, SP_INVAL, "ingest: name files or folders");
        return sp_cmd_fail(EXIT_USAGE, &d);
    }
    sp_err err = sp_shelf_open(&s, o, true, &d);
    if (err == SP_OK)
        err = sp_shelf_coll(t.coll, &s, o, true, &d);
    for (size_t i = 0; i < n && err == SP_OK; i++)
        err = ingest_root(&t, root[i], &d);
    if (err == SP_OK)
        err = count_bare(&t, &n_bare, &d);
    if (err == SP_OK)
        err = embed_all(&t, n_bare, &d);
    sp_shelf_close(&s);
    if (err == SP_OK && t.files.failed)
        err = SP_FAIL(&d, SP_NOMEM, "list of files");
    if (err == SP_OK)
        print_sum(&t, sp_clock_ms(since) / 1e3);
    sp_buf_fini(&t.files);
    return err != SP_OK ? sp_cmd_fail(sp_shelf_exit(err), &d) : t.bad ? EXIT_RUN : EXIT_DONE;
}
