#include "pipe/shadow.h"

#include "base/rng.h"
#include "pipe/models.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_WORDS = 4096, LOWEST = -3, GIVE_UP_MS = 120000 };

struct sp_shadow {
    sp_shadow_cfg cfg;
    sp_desk *desk;
    sp_metric *samples, *agreement;
};

typedef struct sample {
    sp_op op; /* its arena holds the texts */
    char tenant[64], model[SP_MODEL_NAME];
    sp_chat_msg *msg;
    size_t n_msg, max_tok;
    const char *answer;
    size_t n_answer;
} sample;

/* --- agreement -------------------------------------------------------------------------------- */

typedef struct word {
    char text[24];
} word;

static int by_text(const void *a, const void *b)
{
    return strcmp(((const word *)a)->text, ((const word *)b)->text);
}

/* Words in order of the alphabet; *last: the last number, or "". */
static size_t read_words(word *out, word *last, const char *p, size_t n)
{
    size_t n_word = 0;
    memset(last, 0, sizeof *last);
    for (size_t i = 0; i < n && n_word < MAX_WORDS;) {
        word w = {{0}};
        size_t len = 0;
        bool number = true;
        for (; i < n; i++) {
            unsigned char c = (unsigned char)p[i];
            bool digit = c >= '0' && c <= '9',
                 letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c >= 0x80;
            if (!digit && !letter)
                break;
            number = number && digit;
            if (len + 1 < sizeof w.text)
                w.text[len++] = (char)(c >= 'A' && c <= 'Z' ? c + 32 : c);
        }
        i += len == 0;
        if (len == 0)
            continue;
        if (number)
            *last = w;
        out[n_word++] = w;
    }
    qsort(out, n_word, sizeof *out, by_text);
    return n_word;
}

double sp_shadow_agreement(const char *a, size_t n_a, const char *b, size_t n_b)
{
    word *x = sp_mem_array(2 * MAX_WORDS, sizeof *x), *y = x + MAX_WORDS, last[2];
    if (!x)
        return 0;
    size_t n = read_words(x, &last[0], a, n_a), m = read_words(y, &last[1], b, n_b), same = 0;
    for (size_t i = 0, k = 0; i < n && k < m;) {
        int c = strcmp(x[i].text, y[k].text);
        same += c == 0;
        i += c <= 0;
        k += c >= 0;
    }
    double f1 = n + m ? 2 * (double)same / (double)(n + m) : 1;
    if (last[0].text[0] && last[1].text[0])
        f1 = strcmp(last[0].text, last[1].text) == 0;
    sp_mem_free(x);
    return f1;
}

/* --- the sample ------------------------------------------------------------------------------- */

/* As a request that wants the full path here, and may wait. */
static sp_ask *ask_for(const sp_turn_env *env, const sample *o)
{
    sp_ask *q = sp_ask_new(o->tenant);
    if (!q || sp_ask_copy(&q->msg, &q->a, o->msg, o->n_msg) != SP_OK) {
        sp_ask_free(q);
        return NULL;
    }
    q->n_msg = o->n_msg;
    q->look = env->retrieve != NULL && env->know != NULL;
    q->plan.want = SP_WANT_FULL;
    q->plan.is_private = true; /* it is checked here, not elsewhere */
    q->plan.max_tok = o->max_tok;
    q->priority = LOWEST;
    return q;
}

static sp_err answer_again(sp_shadow *s, sample *o, const sp_turn_env *env)
{
    sp_op *op = &o->op;
    sp_turn *t = NULL;
    sp_turn_error e = {0};
    sp_ask *q = ask_for(env, o);
    if (!q)
        return SP_FAIL(&op->diag, SP_NOMEM, "shadow sample");
    sp_err err = sp_turn_open(&t, env, q, &e);
    if (err == SP_OK)
        err = sp_turn_start(t, &(sp_turn_run){0}, &e);
    op->diag = e.diag;
    if (err == SP_OK)
        err = sp_turn_await(t, GIVE_UP_MS, &op->diag);
    const sp_turn_answer *a = err == SP_OK ? sp_turn_answer_of(t, 0) : NULL;
    if (a) {
        sp_metric_add(s->agreement, sp_shadow_agreement(o->answer, o->n_answer,
                                                        sp_buf_str(&a->text), a->text.len));
        sp_metric_add(s->samples, 1);
    }
    sp_turn_free(t);
    return err;
}

/* A model that has left since is not brought back for a sample. */
static sp_err run(void *self, sp_op *op)
{
    sp_shadow *s = self;
    sample *o = (sample *)op;
    sp_served *on;
    if (sp_models_use(&on, s->cfg.models, o->model) != SP_OK)
        return SP_FAIL(&op->diag, SP_CANCEL, "shadow sample: the model has left");
    sp_err err = answer_again(s, o, &on->env);
    sp_models_done(s->cfg.models, on);
    return err;
}

void sp_shadow_offer(sp_shadow *s, const char *model, const char *tenant, const sp_chat_msg *msg,
                     size_t n_msg, const char *answer, size_t n, size_t max_tok)
{
    sp_diag d = {0};
    if (!s || n_msg == 0 || (double)(sp_rng_entropy() >> 11) * 0x1p-53 >= s->cfg.share)
        return;
    sample *o = sp_op_new(s->desk, sizeof *o);
    if (!o)
        return;
    snprintf(o->tenant, sizeof o->tenant, "%s", tenant);
    snprintf(o->model, sizeof o->model, "%s", model);
    o->answer = sp_arena_strndup(&o->op.a, answer, n);
    bool ok = o->answer && sp_ask_copy(&o->msg, &o->op.a, msg, n_msg) == SP_OK;
    o->n_msg = n_msg;
    o->n_answer = n;
    o->max_tok = max_tok;
    if (ok && sp_op_submit(&o->op, NULL, NULL, &d) != SP_OK)
        ok = false; /* enough of them wait already */
    sp_op_put(&o->op);
}

sp_err sp_shadow_new(sp_shadow **out, const sp_shadow_cfg *cfg, sp_diag *d)
{
    sp_shadow *s = sp_mem_alloc(sizeof *s);
    if (!s)
        return SP_FAIL(d, SP_NOMEM, "shadow sample");
    s->cfg = *cfg;
    s->samples = sp_metric_counter(cfg->metrics, "sparing_shadow_samples_total",
                                   "Light answers that were given on the full path too.", NULL);
    s->agreement = sp_metric_counter(cfg->metrics, "sparing_shadow_agreement_total",
                                     "Sum over them of how far the two agree, 0 to 1.", NULL);
    sp_err err = sp_desk_start(&s->desk, &(sp_desk_cfg){"shadow sample", run, NULL, s, NULL}, d);
    if (err == SP_OK)
        *out = s;
    else
        sp_shadow_free(s);
    return err;
}

void sp_shadow_free(sp_shadow *s)
{
    if (!s)
        return;
    sp_desk_stop(s->desk);
    sp_mem_free(s);
}
