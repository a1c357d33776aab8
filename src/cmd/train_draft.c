/* `sparing train draft`: a draft head for the model at hand, from texts that it reads or from its
 * own answers to prompts, on this machine's cores. */
#include "cmd/train_head.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"

#include <fts.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    MAX_TEXT = 64 << 20,    /* bytes of all texts */
    MAX_LINE = 4096,        /* bytes of a prompt; longer lines are left out */
    PIECE = 256             /* tokens of a text */
};

typedef struct texts {
    sp_sha256_part *part; /* [n_file] */
    sp_buf *file;
    size_t n_file, cap_file, n_bytes;
} texts;

typedef struct work {
    sp_loaded l;
    texts t;
    sp_head_course course;
} work;

/* --- texts --------------------------------------------------------------------------------------
 */

static sp_err add_file(texts *t, const char *path, sp_diag *d)
{
    if (!sp_mem_has_room(&t->file, &t->cap_file, t->n_file, sizeof *t->file))
        return SP_FAIL(d, SP_NOMEM, "texts");
    sp_buf *b = &t->file[t->n_file++];
    *b = (sp_buf){0};
    SP_TRY(sp_file_read(b, path, MAX_TEXT - t->n_bytes, d));
    t->n_bytes += b->len;
    return SP_OK;
}

static int by_name(const FTSENT **a, const FTSENT **b)
{
    return strcmp((*a)->fts_name, (*b)->fts_name);
}

/* Regular files of a folder, in the order of their names; links are not followed. */
static sp_err read_files(texts *t, const char *path, sp_diag *d)
{
    char *const list[] = {(char *)(uintptr_t)path, NULL};
    FTS *walk = fts_open(list, FTS_PHYSICAL | FTS_NOCHDIR, by_name);
    sp_err err = walk ? SP_OK : SP_FAIL(d, SP_IO, "%.150s: cannot be read", path);
    for (FTSENT *e; err == SP_OK && (e = fts_read(walk));) {
        if (e->fts_info == FTS_DNR || e->fts_info == FTS_ERR || e->fts_info == FTS_NS)
            err = SP_FAIL(d, SP_IO, "%.100s: %s", e->fts_path, strerror(e->fts_errno));
        else if (e->fts_info == FTS_F)
            err = add_file(t, e->fts_path, d);
    }
    if (walk)
        (void)fts_close(walk);
    return err == SP_OK && !t->n_file ? SP_FAIL(d, SP_NOTFOUND, "%.150s: no file is there", path)
                                      : err;
}

/* Each line as a user's message. */
static sp_err add_prompts(work *w, const sp_buf *b, sp_diag *d)
{
    const char *p = b->p, *end = b->p + b->len;
    while (p < end) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((stop ? stop : end) - p);
        if (n && n <= MAX_LINE) {
            const sp_chat_msg msg = sp_chat_say("user", p, n);
            SP_TRY(sp_head_course_ask(&w->course, &msg, 1, d));
        }
        p += n + 1;
    }
    return SP_OK;
}

/* A file in pieces of PIECE tokens. */
static sp_err add_pieces(work *w, const sp_buf *b, sp_diag *d)
{
    sp_head_course *c = &w->course;
    sp_ids ids = {0};
    sp_err err = sp_tok_encode(w->l.tok, &ids, b->p, b->len, SP_SPECIAL_NONE, d);
    for (size_t at = 0; at < ids.n && err == SP_OK; at += PIECE) {
        size_t n = ids.n - at < PIECE ? ids.n - at : PIECE;
        err = sp_head_course_text(c, d);
        if (err == SP_OK && sp_tok_adds_bos(w->l.tok))
            err = sp_ids_push(&c->ids, sp_tok_bos(w->l.tok));
        if (err == SP_OK)
            err = sp_ids_add(&c->ids, ids.id + at, n);
    }
    sp_ids_fini(&ids);
    return err == SP_OK || (d && d->code) ? err : SP_FAIL(d, err, "texts");
}

static void free_texts(texts *t)
{
    for (size_t i = 0; i < t->n_file; i++)
        sp_buf_fini(&t->file[i]);
    sp_mem_free(t->file);
    sp_mem_free(t->part);
}

/* Digest of all texts, into the note of what the head was trained on. */
static sp_err note_data(work *w, char out[SP_HEAD_NAME], bool own)
{
    sp_sha256 sum;
    char hex[65];
    texts *t = &w->t;
    t->part = sp_mem_array(t->n_file, sizeof *t->part);
    if (!t->part)
        return SP_NOMEM;
    for (size_t i = 0; i < t->n_file; i++)
        t->part[i] = (sp_sha256_part){t->file[i].p, t->file[i].len};
    SP_TRY(sp_sha256_of(&sum, t->part, t->n_file));
    sp_sha256_hex(hex, &sum);
    snprintf(out, SP_HEAD_NAME, "%s of %zu texts in %zu files, sha256 %.16s",
             own ? "own answers" : "readings", w->course.n, t->n_file, hex);
    return SP_OK;
}

static void print(const work *w, const sp_head_about *a, bool json)
{
    double after[SP_HEAD_DEPTH], sum = 1;
    for (size_t k = 0; k < SP_HEAD_DEPTH; k++) {
        double before = k ? (double)a->right[k - 1] : 1;
        after[k] = before > 0 ? (double)a->right[k] / before : 0;
        sum += (double)a->right[k];
    }
    if (json) {
        printf("{\"train\":%llu,\"held\":%llu,\"steps\":%llu,\"tokens\":%zu,\"right\":[%.4f,%.4f,%."
               "4f],"
               "\"tokens_a_step\":%.3f,\"seconds\":%.1f}\n",
               (unsigned long long)a->n_train, (unsigned long long)a->n_held,
               (unsigned long long)a->n_step, w->course.head.shape.n_tok, (double)a->right[0],
               (double)a->right[1], (double)a->right[2], sum,
               (double)(sp_clock_ns() - w->course.begin) * 1e-9);
        return;
    }
    printf("%llu tokens to learn from, %llu steps; %llu tokens held out\n",
           (unsigned long long)a->n_train, (unsigned long long)a->n_step,
           (unsigned long long)a->n_held);
    printf("right with the first guess %.3f, with the second after it %.3f, with the third %.3f; "
           "%.2f tokens a step\n", after[0], after[1], after[2], sum);
}

static sp_err run(work *w, const sp_opts *o, const char *path, sp_head_about *about, sp_diag *d)
{
    const char *tenant = sp_opt_str(o, "tenant"), *out = sp_opt_str(o, "output");
    sp_head_course *c = &w->course;
    SP_TRY(sp_cmd_load(&w->l, o, NULL, d));
    *c = (sp_head_course){.l = &w->l,
                          .own = sp_opt_flag(o, "own"),
                          .n_step = (size_t)sp_opt_int(o, "steps"),
                          .n_tok = (size_t)sp_opt_int(o, "draft-tokens"),
                          .minutes = sp_opt_num(o, "minutes"),
                          .tells = isatty(STDERR_FILENO)};
    SP_TRY(read_files(&w->t, path, d));
    for (size_t i = 0; i < w->t.n_file; i++)
        SP_TRY(c->own ? add_prompts(w, &w->t.file[i], d) : add_pieces(w, &w->t.file[i], d));
    snprintf(about->tenant, sizeof about->tenant, "%.120s", tenant ? tenant : "");
    if (note_data(w, about->data, c->own) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "texts");
    SP_TRY(sp_head_course_run(c, about, d));
    return out ? sp_head_course_write(c, out, about, d) : SP_OK;
}

int sp_cmd_train_draft(const sp_opts *o, const char *path)
{
    work w = {.t = {0}};
    sp_head_about about = {.seed = (uint64_t)sp_opt_int(o, "seed") & UINT32_MAX};
    sp_diag d = {0};
    sp_err err = run(&w, o, path, &about, &d);
    if (w.course.tells)
        fputs("\r\033[K", stderr);
    if (err == SP_OK)
        print(&w, &about, sp_opt_flag(o, "json"));
    sp_head_course_fini(&w.course);
    free_texts(&w.t);
    bool is_loaded = w.l.model;
    sp_cmd_unload(&w.l);
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(is_loaded ? EXIT_RUN : EXIT_MODEL, &d);
}
