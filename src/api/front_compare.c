/* The comparison: the chat once more, here, and how far the two answers agree. */
#include "api/front_int.h"

#include "api/codec.h"
#include "api/params.h"
#include "base/clock.h"
#include "base/rng.h"
#include "pipe/shadow.h"

#include <stdio.h>
#include <string.h>

enum { LOWEST = -3, GIVE_UP_MS = 120000, MOST_TOK = 2048 };

static const double SAME = 0.99;

typedef struct chat {
    sp_op op; /* its arena holds the texts */
    char tenant[64];
    const char *request, *answer;
    size_t n_request, n_answer;
    bool stream;
    double ms;
} chat;

/* --- their answer ----------------------------------------------------------------------------- */

static void put_text(sp_buf *out, const json_t *j, const char *member)
{
    const json_t *choice = json_array_get(json_object_get(j, "choices"), 0);
    const json_t *text = json_object_get(json_object_get(choice, member), "content");
    sp_buf_put(out, json_string_value(text), json_string_length(text));
}

/* The text of the first answer; empty where it has none. */
static void read_theirs(sp_buf *out, const chat *c)
{
    const char *p = c->answer, *end = c->answer + c->n_answer;
    if (!c->stream) {
        json_t *j = json_loadb(p, c->n_answer, JSON_ALLOW_NUL, NULL);
        put_text(out, j, "message");
        json_decref(j);
        return;
    }
    while (p < end) {
        const char *stop = memchr(p, '\n', (size_t)(end - p));
        size_t n = (size_t)((stop ? stop : end) - p);
        if (n > 5 && memcmp(p, "data:", 5) == 0) {
            json_t *j = json_loadb(p + 5, n - 5, JSON_ALLOW_NUL, NULL);
            put_text(out, j, "delta");
            json_decref(j);
        }
        p += n + 1;
    }
}

/* --- ours ------------------------------------------------------------------------------------- */

/* As the client asked, but one whole answer that goes nowhere, is kept nowhere and may wait. */
static sp_err read_ask(sp_ask **out, void *state, const chat *c, const sp_app *app,
                       const sp_served *on, sp_turn_error *e)
{
    json_t *j = NULL;
    const char *bad = NULL;
    sp_ask *q = sp_ask_new(c->tenant);
    sp_err err = q ? sp_params_parse(&j, c->request, c->n_request, &e->diag)
                   : SP_FAIL(&e->diag, SP_NOMEM, "request");
    json_object_del(j, "model"); /* the other server's name */
    json_object_del(j, "store");
    if (err == SP_OK)
        err = sp_codec_chat.read(state, q, app, on, j, &bad, &e->diag);
    snprintf(e->param, sizeof e->param, "%s", bad ? bad : "");
    json_decref(j);
    if (err != SP_OK) {
        sp_ask_free(q);
        return err;
    }
    q->stream = false;
    q->priority = LOWEST;
    q->plan.is_private = true;
    q->plan.conversation = false;
    q->conversation = q->previous = NULL;
    q->deadline_ms = GIVE_UP_MS;
    if (!q->plan.max_tok || q->plan.max_tok > MOST_TOK)
        q->plan.max_tok = MOST_TOK;
    *out = q;
    return SP_OK;
}

static void note(sp_front *f, const sp_turn *t, double agreement, const chat *c, double ms_ours)
{
    const sp_plan *plan = sp_turn_plan(t);
    sp_metric_add(f->compared, 1);
    sp_metric_add(f->agreement, agreement);
    sp_lock_get(&f->lock);
    sp_front_sum *s = &f->sum[plan->judged ? (size_t)plan->cls : (size_t)SP_CLASSES];
    s->n++;
    s->same += agreement >= SAME;
    s->agreement += agreement;
    s->ms_theirs += c->ms;
    s->ms_ours += ms_ours;
    sp_lock_put(&f->lock);
}

static void note_refusal(sp_front *f, const sp_turn_error *e)
{
    sp_lock_get(&f->lock);
    size_t i = 0;
    f->n_refused++;
    while (i < f->n_refusal &&
           (strcmp(f->refusal[i].param, e->param) != 0 ||
            strncmp(f->refusal[i].message, e->diag.msg, sizeof f->refusal[i].message - 1) != 0))
        i++;
    if (i == f->n_refusal && i < SP_FRONT_REFUSED) {
        snprintf(f->refusal[i].param, sizeof f->refusal[i].param, "%s", e->param);
        snprintf(f->refusal[i].message, sizeof f->refusal[i].message, "%.*s",
                 (int)sizeof f->refusal[i].message - 1, e->diag.msg);
        f->n_refusal++;
    }
    if (i < SP_FRONT_REFUSED)
        f->refusal[i].n++;
    sp_lock_put(&f->lock);
}

static void count(sp_front *f, size_t *what)
{
    sp_lock_get(&f->lock);
    (*what)++;
    sp_lock_put(&f->lock);
}

static sp_err compare(sp_front *f, chat *c, const sp_served *on, const sp_buf *theirs, void *state)
{
    sp_turn_error e = {0};
    sp_turn *t = NULL;
    sp_ask *q = NULL;
    uint64_t since = sp_clock_ns();
    sp_err err = read_ask(&q, state, c, f->cfg.app, on, &e);
    if (err == SP_OK)
        err = sp_turn_open(&t, &on->env, q, &e);
    if (err == SP_OK)
        err = sp_turn_start(t, &(sp_turn_run){0}, &e);
    if (err == SP_OK)
        err = sp_turn_await(t, GIVE_UP_MS, &e.diag);
    if (err == SP_OK) {
        const sp_buf *ours = &sp_turn_answer_of(t, 0)->text;
        note(f, t, sp_shadow_agreement(theirs->p, theirs->len, sp_buf_str(ours), ours->len), c,
             sp_clock_ms(since));
    } else if (err == SP_INVAL || err == SP_UNSUP) {
        note_refusal(f, &e);
    } else {
        count(f, &f->n_failed);
    }
    sp_turn_free(t);
    c->op.diag = e.diag;
    return err;
}

/* A model that has left is not brought back for a comparison. */
static sp_err run(void *self, sp_op *op)
{
    sp_front *f = self;
    chat *c = (chat *)op;
    sp_models *models = f->cfg.app->models;
    sp_served *on = NULL;
    sp_buf theirs = {0};
    const char *name = sp_models_find(models, NULL);
    read_theirs(&theirs, c);
    void *state = sp_mem_alloc(sp_codec_chat.state_bytes + 1);
    sp_err err = SP_OK;
    if (!theirs.len || theirs.failed || !state || !name ||
        sp_models_use(&on, models, name) != SP_OK) {
        count(f, &f->n_skipped);
    } else {
        err = compare(f, c, on, &theirs, state);
        sp_codec_chat.close(state);
        sp_models_done(models, on);
    }
    sp_mem_free(state);
    sp_buf_fini(&theirs);
    return err;
}

sp_err sp_front_start_desk(sp_front *f, sp_diag *d)
{
    return sp_desk_start(&f->desk, &(sp_desk_cfg){"comparison", run, NULL, f, NULL}, d);
}

void sp_front_offer(sp_front *f, const sp_front_said *said)
{
    sp_diag d = {0};
    if ((double)(sp_rng_entropy() >> 11) * 0x1p-53 >= f->cfg.share)
        return;
    chat *c = sp_op_new(f->desk, sizeof *c);
    bool ok = c != NULL;
    if (c) {
        snprintf(c->tenant, sizeof c->tenant, "%s", said->tenant);
        c->request = sp_arena_strndup(&c->op.a, said->request, said->n_request);
        c->answer = sp_arena_strndup(&c->op.a, said->answer, said->n_answer);
        c->n_request = said->n_request;
        c->n_answer = said->n_answer;
        c->stream = said->stream;
        c->ms = said->ms;
        ok = c->request && c->answer && sp_op_submit(&c->op, NULL, NULL, &d) == SP_OK;
        sp_op_put(&c->op);
    }
    if (!ok)
        count(f, &f->n_skipped);
}

/* --- the report ------------------------------------------------------------------------------- */

static void put_sum(sp_buf *out, const sp_front_sum *s)
{
    double n = s->n ? (double)s->n : 1;
    sp_buf_printf(
        out,
        "{\"compared\":%zu,\"agreement\":%.4f,\"same\":%zu,\"ms\":{\"theirs\":%.1f,\"ours\":%.1f}}",
        s->n, s->agreement / n, s->same, s->ms_theirs / n, s->ms_ours / n);
}

void sp_front_report(sp_front *f, sp_buf *out)
{
    sp_front_sum all = {0};
    const char *between = "";
    sp_buf_puts(out, "{\"object\":\"shadow\",\"of\":");
    sp_buf_json_str(out, f->url, strlen(f->url));
    sp_lock_get(&f->lock);
    for (size_t i = 0; i <= SP_CLASSES; i++) {
        const sp_front_sum *s = &f->sum[i];
        all = (sp_front_sum){all.n + s->n, all.same + s->same, all.agreement + s->agreement,
                             all.ms_theirs + s->ms_theirs, all.ms_ours + s->ms_ours};
    }
    sp_buf_printf(
        out,
        ",\"passed\":%zu,\"broken\":%zu,\"skipped\":%zu,\"failed\":%zu,\"refused\":%zu,\"all\":",
        f->n_passed, f->n_broken, f->n_skipped, f->n_failed, f->n_refused);
    put_sum(out, &all);
    sp_buf_puts(out, ",\"classes\":{");
    for (size_t i = 0; i <= SP_CLASSES; i++) {
        if (!f->sum[i].n)
            continue;
        sp_buf_printf(out, "%s\"%s\":", between,
                      i == SP_CLASSES ? "not_judged" : sp_class_name((sp_class)i));
        put_sum(out, &f->sum[i]);
        between = ",";
    }
    sp_buf_puts(out, "},\"refusals\":[");
    for (size_t i = 0; i < f->n_refusal; i++) {
        const sp_front_refusal *r = &f->refusal[i];
        sp_buf_puts(out, i ? ",{\"param\":" : "{\"param\":");
        sp_buf_json_str(out, r->param, strlen(r->param));
        sp_buf_puts(out, ",\"message\":");
        sp_buf_json_str(out, r->message, strlen(r->message));
        sp_buf_printf(out, ",\"count\":%zu}", r->n);
    }
    sp_lock_put(&f->lock);
    sp_buf_puts(out, "]}");
}
