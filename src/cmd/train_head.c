#include "cmd/train_head.h"

#include "base/clock.h"
#include "base/mem.h"
#include "text/chat.h"

#include <stdio.h>
#include <string.h>

enum {
    HELD = 10,       /* every so many texts are held out */
    BEGIN = 96,      /* tokens of a text that is held out, those that are given */
    ANSWER = 192,    /* tokens of an answer */
    ROW_BYTES = 1 << 30 /* of all rows */
};
static const double GATHER = 0.4; /* share of the time until training begins */

sp_err sp_head_course_text(sp_head_course *c, sp_diag *d)
{
    if (!sp_mem_has_room(&c->at, &c->cap, c->n, sizeof *c->at))
        return SP_FAIL(d, SP_NOMEM, "texts");
    c->at[c->n++] = c->ids.n;
    return SP_OK;
}

sp_err sp_head_course_ask(sp_head_course *c, const sp_chat_msg *msg, size_t n, sp_diag *d)
{
    const sp_chat_ask ask = {.msg = msg, .n_msg = n, .add_answer = true};
    if (!c->l->chat || sp_chat_why(c->l->chat))
        return SP_FAIL(d, SP_UNSUP, "the model has no chat template that can be used");
    SP_TRY(sp_head_course_text(c, d));
    return sp_chat_render(c->l->chat, c->l->tok, &c->ids, NULL, &ask, d);
}

static void tell_rows(void *arg, size_t n_row)
{
    const sp_head_course *c = arg;
    if (c->tells)
        fprintf(stderr, "\r\033[K%zu tokens gathered, %.0f s", n_row,
                (double)(sp_clock_ns() - c->begin) * 1e-9);
}

static sp_err gather(sp_head_course *c, sp_head_gather *g, sp_diag *d)
{
    sp_head_text *text = sp_mem_array(c->n + 1, sizeof *text),
                 *held = sp_mem_array(c->n + 1, sizeof *held);
    bool *is_held = sp_mem_array(c->n + 1, sizeof *is_held),
         *all = sp_mem_array(c->n + 1, sizeof *all);
    size_t n = 0, n_held = 0;
    sp_err err = text && held && is_held && all ? SP_OK : SP_FAIL(d, SP_NOMEM, "texts");
    for (size_t i = 0; i < c->n && err == SP_OK; i++) {
        size_t end = i + 1 < c->n ? c->at[i + 1] : c->ids.n;
        sp_head_text x = {c->ids.id + c->at[i], end - c->at[i]};
        bool out = i % HELD == HELD - 1;
        if (c->own || !out) {
            is_held[n] = out;
            text[n++] = x;
        } else if (x.n > BEGIN) { /* what it would say behind the beginning of the text */
            all[n_held] = true;
            held[n_held++] = (sp_head_text){x.tok, BEGIN};
        }
    }
    if (err == SP_OK && c->own)
        err = sp_head_gather_answers(&c->train, &c->held, g, text, is_held, n, d);
    if (err == SP_OK && !c->own)
        err = sp_head_gather_texts(&c->train, g, text, n, d);
    if (err == SP_OK && !c->own) {
        g->until_ns = 0;
        err = sp_head_gather_answers(&c->train, &c->held, g, held, all,
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
    const sp_head_course *c = arg;
    if (c->tells)
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

sp_err sp_head_course_run(sp_head_course *c, sp_head_about *about, sp_diag *d)
{
    const sp_loaded *l = c->l;
    const sp_arch *a = sp_model_arch(l->model);
    c->begin = sp_clock_ns();
    c->end = c->begin + (uint64_t)(c->minutes * 60e9);
    sp_sha256_hex(about->model, sp_model_id(l->model));
    snprintf(about->name, sizeof about->name, "%s", l->name);
    sp_head_train_cfg cfg = {.model = l->model,
                             .dev = l->dev,
                             .seed = about->seed,
                             .n_step = c->n_step,
                             .until_ns = c->end,
                             .tell = tell_step,
                             .arg = c};
    cfg.shape = (sp_head_shape){.n_embd = a->n_embd,
                                .n_ff = (a->n_embd * 4 / 3 + 31) / 32 * 32,
                                .n_tok = c->n_tok};
    choose_layers(&cfg.shape, a->n_layer);
    sp_head_gather g = {.model = l->model,
                        .dev = l->dev,
                        .pool = l->pool,
                        .tok = l->tok,
                        .n_tap = cfg.shape.n_tap,
                        .n_out = ANSWER,
                        .tell = tell_rows,
                        .arg = c};
    memcpy(g.layer, cfg.shape.layer, sizeof g.layer);
    g.most = ROW_BYTES / (g.n_tap * a->n_embd * sizeof(uint16_t));
    g.until_ns = cfg.n_step ? 0 : c->begin + (uint64_t)(GATHER * (double)(c->end - c->begin));
    SP_TRY(gather(c, &g, d));
    SP_TRY(sp_head_train(&c->head, &cfg, &c->train, &c->held, d));
    about->n_step = c->head.n_step;
    about->n_train = c->train.n;
    about->n_held = c->head.n_held;
    memcpy(about->right, c->head.right, sizeof about->right);
    return SP_OK;
}

sp_err sp_head_course_write(const sp_head_course *c, const char *path, const sp_head_about *about,
                            sp_diag *d)
{
    const sp_head_trained *h = &c->head;
    return sp_head_write(path, &h->shape, about, (const float *const *)h->mat, h->norm, h->tok, d);
}

void sp_head_course_fini(sp_head_course *c)
{
    sp_head_trained_fini(&c->head);
    sp_head_data_fini(&c->train);
    sp_head_data_fini(&c->held);
    sp_mem_free(c->at);
    sp_ids_fini(&c->ids);
}
