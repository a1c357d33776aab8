#include "pipe/shadow.h"

#include "base/clock.h"
#include "base/rng.h"
#include "pipe/passages.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_WORDS = 4096, LOWEST = -3, WAIT_NS = 50000000, GIVE_UP_MS = 120000, PASSAGE_SHARE = 3, TOP = 6 };

struct sp_shadow {
    sp_shadow_cfg cfg;
    sp_desk *desk;
    sp_metric *samples, *agreement;
};

typedef struct sample {
    sp_op op; /* its arena holds the texts */
    char tenant[64];
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
            bool digit = c >= '0' && c <= '9', letter = (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || c >= 0x80;
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

static void add_passages(sp_shadow *s, sample *o)
{
    sp_chat_msg *last = &o->msg[o->n_msg - 1];
    sp_know_op *find = s->cfg.know && s->cfg.coll ? sp_know_op_new(s->cfg.know, SP_KNOW_SEARCH, o->tenant) : NULL;
    sp_buf text = {0};
    if (!find)
        return;
    find->by_name = s->cfg.coll;
    find->cap = TOP;
    find->query = sp_arena_strndup(&find->op.a, last->content.p, last->content.n);
    uint64_t t = sp_clock_ns();
    if (find->query && sp_op_submit(&find->op, NULL, NULL, NULL) == SP_OK) {
        const struct timespec tick = {.tv_nsec = 2000000};
        while (!sp_op_is_done(&find->op) && sp_clock_ms(t) < GIVE_UP_MS)
            nanosleep(&tick, NULL);
        if (sp_op_is_done(&find->op) && !find->op.diag.code && sp_passages_bear(find->hit, find->n)) {
            size_t n = sp_passages_pick(find->hit, find->n, SP_PASSAGES_NEAR, s->cfg.tok, sp_engine_config(s->cfg.engine)->n_ctx / PASSAGE_SHARE);
            sp_passages_put(&text, find->hit, n, SP_PASSAGES_NEAR, find->fact, find->n_fact, last->content.p, last->content.n);
            char *all = text.failed ? NULL : sp_arena_strndup(&o->op.a, text.p, text.len);
            if (all)
                last->content = (sp_str){all, text.len};
        }
    }
    sp_buf_fini(&text);
    sp_op_put(&find->op);
}

static sp_err run(void *self, sp_op *op)
{
    sp_shadow *s = self;
    sample *o = (sample *)op;
    sp_context ctx;
    sp_job *j = NULL;
    sp_buf text = {0};
    add_passages(s, o);
    SP_TRY(sp_prompt_chat(&ctx, s->cfg.tok, s->cfg.chat, o->msg, o->n_msg, 0, &op->diag));
    sp_job_cfg cfg = {.tok = ctx.prompt.id, .n_tok = ctx.prompt.n, .tenant = o->tenant, .priority = LOWEST, .plan = {.path = SP_PATH_FULL, .max_tok = o->max_tok}};
    sp_sample_cfg_init(&cfg.session.sample);
    cfg.session.max_tok = o->max_tok;
    cfg.session.n_logprobs = -1;
    sp_err err = sp_job_submit(&j, s->cfg.engine, &cfg, &op->diag);
    sp_context_fini(&ctx);
    bool ended = err != SP_OK;
    uint64_t t = sp_clock_ns();
    while (!ended && sp_clock_ms(t) < GIVE_UP_MS) {
        sp_event *e = sp_job_next(j);
        if (!e) {
            sp_job_wait(j, WAIT_NS);
            continue;
        }
        if (e->kind == SP_EVENT_TEXT)
            sp_buf_put(&text, e->text.p, e->text.len);
        ended = e->kind != SP_EVENT_TEXT;
        if (e->kind == SP_EVENT_FINISH && e->finish != SP_FINISH_CANCEL && !text.failed) {
            sp_metric_add(s->agreement, sp_shadow_agreement(o->answer, o->n_answer, sp_buf_str(&text), text.len));
            sp_metric_add(s->samples, 1);
        }
        sp_event_free(e);
    }
    sp_job_put(j);
    sp_buf_fini(&text);
    return err;
}

void sp_shadow_offer(sp_shadow *s, const char *tenant, const sp_chat_msg *msg, size_t n_msg, const char *answer, size_t n, size_t max_tok)
{
    sp_diag d = {0};
    if (!s || n_msg == 0 || (double)(sp_rng_entropy() >> 11) * 0x1p-53 >= s->cfg.share)
        return;
    sample *o = sp_op_new(s->desk, sizeof *o);
    if (!o)
        return;
    snprintf(o->tenant, sizeof o->tenant, "%s", tenant);
    o->msg = sp_arena_alloc(&o->op.a, n_msg * sizeof *o->msg);
    o->answer = sp_arena_strndup(&o->op.a, answer, n);
    bool ok = o->msg && o->answer;
    for (size_t i = 0; i < n_msg && ok; i++)
        ok = sp_chat_msg_copy(&o->msg[i], &o->op.a, &msg[i]) == SP_OK;
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
    s->samples = sp_metric_counter(cfg->metrics, "sparing_shadow_samples_total", "Light answers that were given on the full path too.", NULL);
    s->agreement = sp_metric_counter(cfg->metrics, "sparing_shadow_agreement_total", "Sum over them of how far the two agree, 0 to 1.", NULL);
    sp_err err = sp_desk_start(&s->desk, &(sp_desk_cfg){"shadow sample", run, NULL, s}, d);
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
