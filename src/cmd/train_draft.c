/* `sparing train draft`: a draft head for the model at hand, from texts that it reads or from its
 * own answers to prompts, on this machine's cores. */
#include "cmd/cmd.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "gen/head_train.h"
#include "text/chat.h"

#include <fts.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

enum {
    MAX_TEXT = 64 << 20,    /* bytes of all texts */
    MAX_LINE = 4096,        /* bytes of a prompt; longer lines are left out */
    HELD = 10,              /* every so many texts are held out */
    PIECE = 256, BEGIN = 96, /* tokens of a text; of one that is held out, those that are given */
    ANSWER = 192,           /* tokens of an answer */
    ROW_BYTES = 1 << 30     /* of all rows */
};
static const double GATHER = 0.4; /* share of the time until training begins */

typedef struct texts {
    sp_ids ids;
    size_t *at, n, cap; /* [n] where each begins in ids */
    sp_sha256_part *part; /* [n_file] */
    sp_buf *file;
    size_t n_file, cap_file, n_bytes;
} texts;

typedef struct work {
    sp_loaded l;
    texts t;
    sp_head_data train, held;
    sp_head_trained head;
    uint64_t begin, end; /* ns */
    bool is_tty;
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

static sp_err begin_text(texts *t, sp_diag *d)
{
    if (!sp_mem_has_room(&t->at, &t->cap, t->n, sizeof *t->at))
        return SP_FAIL(d, SP_NOMEM, "texts");
    t->at[t->n++] = t->ids.n;
    return SP_OK;
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
            const sp_chat_ask ask = {.msg = &msg, .n_msg = 1, .add_answer = true};
            SP_TRY(begin_text(&w->t, d));
            SP_TRY(sp_chat_render(w->l.chat, w->l.tok, &w->t.ids, NULL, &ask, d));
        }
        p += n + 1;
    }
    return SP_OK;
}

/* A file in pieces of PIECE tokens. */
static sp_err add_pieces(work *w, const sp_buf *b, sp_diag *d)
{
    sp_ids ids = {0};
    sp_err err = sp_tok_encode(w->l.tok, &ids, b->p, b->len, SP_SPECIAL_NONE, d);
    for (size_t at = 0; at < ids.n && err == SP_OK; at += PIECE) {
        size_t n = ids.n - at < PIECE ? ids.n - at : PIECE;
        err = begin_text(&w->t, d);
        if (err == SP_OK && sp_tok_adds_bos(w->l.tok))
            err = sp_ids_push(&w->t.ids, sp_tok_bos(w->l.tok));
        if (err == SP_OK)
            err = sp_ids_add(&w->t.ids, ids.id + at, n);
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
    sp_mem_free(t->at);
    sp_ids_fini(&t->ids);
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
             own ? "own answers" : "readings", t->n, t->n_file, hex);
    return SP_OK;
}

/* --- gathering ----------------------------------------------------------------------------------
 */

static void tell_rows(void *arg, size_t n_row)
{
    const work *w = arg;
    if (w->is_tty)
        fprintf(stderr, "\r\033[K%zu tokens gathered, %.0f s", n_row,
                (double)(sp_clock_ns() - w->begin) * 1e-9);
}

static sp_err gather(work *w, sp_head_gather *g, bool own, sp_diag *d)
{
    const texts *t = &w->t;
    sp_head_text *text = sp_mem_array(t->n + 1, sizeof *text),
                 *held = sp_mem_array(t->n + 1, sizeof *held);
    bool *is_held = sp_mem_array(t->n + 1, sizeof *is_held),
         *all = sp_mem_array(t->n + 1, sizeof *all);
    size_t n = 0, n_held = 0;
    sp_err err = text && held && is_held && all ? SP_OK : SP_FAIL(d, SP_NOMEM, "texts");
    for (size_t i = 0; i < t->n && err == SP_OK; i++) {
        size_t end = i + 1 < t->n ? t->at[i + 1] : t->ids.n;
        sp_head_text x = {t->ids.id + t->at[i], end - t->at[i]};
        bool out = i % HELD == HELD - 1;
        if (own || !out) {
            is_held[n] = out;
            text[n++] = x;
        } else if (x.n > BEGIN) { /* what it would say behind the beginning of the text */
            all[n_held] = true;
            held[n_held++] = (sp_head_text){x.tok, BEGIN};
        }
    }
    if (err == SP_OK && own)
        err = sp_head_gather_answers(&w->train, &w->held, g, text, is_held, n, d);
    if (err == SP_OK && !own)
        err = sp_head_gather_texts(&w->train, g, text, n, d);
    if (err == SP_OK && !own) {
        g->until_ns = 0;
        err = sp_head_gather_answers(&w->train, &w->held, g, held, all,
                                     n_held < 100 ? n_held : 100, d);
    }
    sp_mem_free(text);
    sp_mem_free(held);
    sp_mem_free(is_held);
    sp_mem_free(all);
    return err;
}

/* --- training -----------------------------------------------------------------------------------
 */

static void tell_step(void *arg, size_t i_step, double done, float loss)
{
    const work *w = arg;
    if (w->is_tty)
        fprintf(stderr, "\r\033[Kstep %zu, %.0f %%, loss %.3f", i_step, 100 * done, (double)loss);
}

/* A third, two thirds and all of the layers. */
static void choose_layers(sp_head_shape *s, size_t n_layer)
{
    const size_t at[] = {n_layer / 3, 2 * n_layer / 3, n_layer};
    for (size_t i = 0; i < 3; i++)
        if (at[i] && (!s->n_tap || at[i] - 1 > s->layer[s->n_tap - 1]))
            s->layer[s->n_tap++] = at[i] - 1;
}

static sp_err train(work *w, const sp_opts *o, sp_head_about *about, sp_diag *d)
{
    const sp_arch *a = sp_model_arch(w->l.model);
    sp_head_train_cfg cfg = {.model = w->l.model,
                             .dev = w->l.dev,
                             .seed = about->seed,
                             .n_step = (size_t)sp_opt_int(o, "steps"),
                             .until_ns = w->end,
                             .tell = tell_step,
                             .arg = w};
    cfg.shape = (sp_head_shape){.n_embd = a->n_embd,
                                .n_ff = (a->n_embd * 4 / 3 + 31) / 32 * 32,
                                .n_tok = (size_t)sp_opt_int(o, "draft-tokens")};
    choose_layers(&cfg.shape, a->n_layer);
    sp_head_gather g = {.model = w->l.model,
                        .dev = w->l.dev,
                        .pool = w->l.pool,
                        .tok = w->l.tok,
                        .n_tap = cfg.shape.n_tap,
                        .n_out = ANSWER,
                        .tell = tell_rows,
                        .arg = w};
    memcpy(g.layer, cfg.shape.layer, sizeof g.layer);
    g.most = ROW_BYTES / (g.n_tap * a->n_embd * sizeof(uint16_t));
    g.until_ns = cfg.n_step ? 0 : w->begin + (uint64_t)(GATHER * (double)(w->end - w->begin));
    SP_TRY(gather(w, &g, sp_opt_flag(o, "own"), d));
    SP_TRY(sp_head_train(&w->head, &cfg, &w->train, &w->held, d));
    about->n_step = w->head.n_step;
    about->n_train = w->train.n;
    about->n_held = w->head.n_held;
    memcpy(about->right, w->head.right, sizeof about->right);
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
               (unsigned long long)a->n_step, w->head.shape.n_tok, (double)a->right[0],
               (double)a->right[1], (double)a->right[2], sum,
               (double)(sp_clock_ns() - w->begin) * 1e-9);
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
    bool own = sp_opt_flag(o, "own");
    const char *tenant = sp_opt_str(o, "tenant"), *out = sp_opt_str(o, "output");
    SP_TRY(sp_cmd_load(&w->l, o, NULL, d));
    if (own && (!w->l.chat || sp_chat_why(w->l.chat)))
        return SP_FAIL(d, SP_UNSUP, "own: the model has no chat template that can be used");
    SP_TRY(read_files(&w->t, path, d));
    for (size_t i = 0; i < w->t.n_file; i++)
        SP_TRY(own ? add_prompts(w, &w->t.file[i], d) : add_pieces(w, &w->t.file[i], d));
    sp_sha256_hex(about->model, sp_model_id(w->l.model));
    snprintf(about->name, sizeof about->name, "%s", w->l.name);
    snprintf(about->tenant, sizeof about->tenant, "%.120s", tenant ? tenant : "");
    if (note_data(w, about->data, own) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "texts");
    SP_TRY(train(w, o, about, d));
    const sp_head_trained *h = &w->head;
    return out ? sp_head_write(out, &h->shape, about, (const float *const *)h->mat, h->norm, h->tok,
                               d)
               : SP_OK;
}

int sp_cmd_train_draft(const sp_opts *o, const char *path)
{
    work w = {.begin = sp_clock_ns(), .is_tty = isatty(STDERR_FILENO)};
    sp_head_about about = {.seed = (uint64_t)sp_opt_int(o, "seed") & UINT32_MAX};
    sp_diag d = {0};
    w.end = w.begin + (uint64_t)(sp_opt_num(o, "minutes") * 60e9);
    sp_err err = run(&w, o, path, &about, &d);
    if (w.is_tty)
        fputs("\r\033[K", stderr);
    if (err == SP_OK)
        print(&w, &about, sp_opt_flag(o, "json"));
    sp_head_trained_fini(&w.head);
    sp_head_data_fini(&w.train);
    sp_head_data_fini(&w.held);
    free_texts(&w.t);
    bool is_loaded = w.l.model;
    sp_cmd_unload(&w.l);
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(is_loaded ? EXIT_RUN : EXIT_MODEL, &d);
}
