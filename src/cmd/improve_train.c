#include "cmd/improve_train.h"

#include "base/file.h"
#include "pipe/intent_train.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { MAX_LABELLED = 256 << 20, PART = 4 /* own prompts are one of so many parts */ };

/* What the user asked last; "": nothing. */
static sp_str question_of(const json_t *line)
{
    const json_t *m, *prompt = json_object_get(line, "prompt"), *last = prompt;
    size_t i;
    json_array_foreach (json_object_get(line, "messages"), i, m) {
        const char *role = json_string_value(json_object_get(m, "role"));
        last = role && strcmp(role, "user") == 0 ? json_object_get(m, "content") : last;
    }
    return json_is_string(last) ? (sp_str){json_string_value(last), json_string_length(last)}
                                : (sp_str){"", 0};
}

/* A line of labelled prompts, whose columns end at tabs and whose rows at line feeds. */
static void put_line(sp_buf *out, size_t family, sp_str text, const sp_intent *in, bool full)
{
    sp_buf_printf(out, "own-%zu\ttrain\t%s\t%s\t%s\t", family, sp_class_name(in->cls),
                  full ? "full" : "light", in->need >= 0.5 ? "yes" : "no");
    for (size_t i = 0; i < text.n; i++)
        sp_buf_putc(out, text.p[i] == '\t' || text.p[i] == '\n' ? ' ' : text.p[i]);
    sp_buf_putc(out, '\n');
}

static sp_err label_all(sp_buf *out, sp_retrained *r, const sp_retrain_cfg *c, sp_diag *d)
{
    size_t all = c->prompts->n_early, n = all < c->most ? all : c->most;
    for (size_t i = 0; i < n; i++) {
        size_t at = i * all / n;
        sp_str text = question_of(c->prompts->p[at].line);
        sp_outcome light, full;
        sp_intent in;
        if (!text.n)
            continue;
        SP_TRY(c->answer(c->arg, &light, at, "light", d));
        sp_buf_fini(&light.text);
        if (light.judged) /* nothing says whether one answer is right */
            continue;
        SP_TRY(c->answer(c->arg, &full, at, "full", d));
        sp_intent_judge(c->judge, &in, text.p, text.n);
        bool needs = !full.failed && (light.failed || full.quality > light.quality);
        put_line(out, i, text, &in, needs);
        r->n_own++;
        r->n_full += needs;
    }
    return out->failed ? SP_FAIL(d, SP_NOMEM, "improve") : SP_OK;
}

static size_t count_lines(const sp_buf *b)
{
    size_t n = 0;
    for (size_t i = 0; i < b->len; i++)
        n += b->p[i] == '\n';
    return n;
}

sp_err sp_retrain_intent(sp_retrained *out, const sp_retrain_cfg *c, sp_diag *d)
{
    sp_buf own = {0}, all = {0};
    sp_intent_result result;
    sp_err err = sp_file_read(&all, c->labelled, MAX_LABELLED, d);
    if (err == SP_OK)
        err = label_all(&own, out, c, d);
    if (err == SP_OK && out->n_own) {
        out->n_label = count_lines(&all);
        size_t times = out->n_label / (PART - 1) / out->n_own;
        for (size_t i = 0; i < (times ? times : 1); i++)
            sp_buf_put(&all, own.p, own.len);
        err = all.failed ? SP_FAIL(d, SP_NOMEM, "improve")
                         : sp_intent_train(&out->file, &result, all.p, all.len, d);
    }
    if (err == SP_OK && out->n_own)
        err = sp_intent_open(&out->model, out->file.p, out->file.len, d);
    if (err == SP_OK && out->n_own)
        out->number = c->number;
    sp_buf_fini(&own);
    sp_buf_fini(&all);
    return err;
}

sp_err sp_retrained_keep(const sp_retrained *r, const sp_versions *v, size_t round, sp_diag *d)
{
    char origin[400];
    snprintf(origin, sizeof origin, "labelled: %zu\nown: %zu\nown_full: %zu\norigin: \"%.*s\"\n",
             r->n_label, r->n_own, r->n_full,
             r->model.n_origin < 200 ? (int)r->model.n_origin : 200, r->model.origin);
    const sp_trained t = {.what = "intent",
                          .number = r->number,
                          .round = round,
                          .model = r->file.p,
                          .n_model = r->file.len,
                          .origin = origin};
    return sp_versions_keep(v, &t, d);
}

void sp_retrained_fini(sp_retrained *r)
{
    sp_buf_fini(&r->file);
    *r = (sp_retrained){0};
}
