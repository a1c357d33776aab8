#include "cmd/paired.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "cmd/check.h"
#include "cmd/judge.h"
#include "pipe/experiment.h"
#include "stat/evidence.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/resource.h>

enum { MAX_FILE = 64 << 20, LOWEST = 19 };

#define ALPHA 0.05

typedef struct result {
    double right; /* 0 to 1 */
    double ms, flops, cost;
    size_t tok;
    sp_buf text; /* owned */
} result;

/* Sums of one variant. */
typedef struct tally {
    size_t n;
    double right;
    double ms, flops, cost, tok;
    sp_wager better, worse; /* against the control */
    size_t won, lost;
    size_t judged, judged_won, judged_lost; /* of them, by the judge's verdicts */
} tally;

typedef struct bench {
    sp_trial trial;
    sp_cmd_judge judge;
    const sp_opts *o;
} bench;

/* --- answers ---------------------------------------------------------------------------------- */

static sp_err answer(result *out, const bench *b, const sp_variant *v, const json_t *line,
                     sp_diag *d)
{
    sp_turn *t = NULL;
    sp_receipt r;
    sp_ask *q;
    uint64_t since = sp_clock_ns();
    SP_TRY(sp_trial_ask(&q, &b->trial, line, (size_t)sp_opt_int(b->o, "max-tokens"), d));
    if (sp_experiments_set(q, v->set) != SP_OK) {
        sp_ask_free(q);
        return SP_FAIL(d, SP_NOMEM, "request");
    }
    SP_TRY(sp_trial_answer(&t, &b->trial, q, NULL, NULL, d));
    const json_t *check = json_object_get(line, "check");
    const sp_buf *text = &sp_turn_answer_of(t, 0)->text;
    sp_turn_receipt(&r, t);
    *out = (result){.right = check ? sp_check_score(check, sp_buf_str(text)) : 0,
                    .ms = sp_clock_ms(since),
                    .flops = r.flops_spent,
                    .cost = r.cost,
                    .tok = r.tok_out};
    sp_buf_put(&out->text, text->p, text->len);
    sp_turn_free(t);
    return out->text.failed ? SP_FAIL(d, SP_NOMEM, "answer") : SP_OK;
}

/* --- the comparison --------------------------------------------------------------------------- */

/* What the variant gained against the control, from -1 to 1. */
static void add(tally *t, const result *r, double gain, bool judged)
{
    double x = 0.5 * (1 + gain);
    t->n++;
    t->right += judged ? 0 : r->right;
    t->ms += r->ms;
    t->flops += r->flops;
    t->cost += r->cost;
    t->tok += (double)r->tok;
    t->won += gain > 0;
    t->lost += gain < 0;
    t->judged += judged;
    t->judged_won += judged && gain > 0;
    t->judged_lost += judged && gain < 0;
    sp_wager_add(&t->better, x);
    sp_wager_add(&t->worse, x);
}

static sp_err gain_of(double *out, bench *b, const json_t *line, const result *r,
                      const result *control, bool judged, sp_diag *d)
{
    int is = 0;
    *out = r->right - control->right;
    if (!judged)
        return SP_OK;
    const sp_str x = {sp_buf_str(&control->text), control->text.len},
                 y = {sp_buf_str(&r->text), r->text.len};
    if (r != control)
        SP_TRY(sp_cmd_judge_pair(&b->judge, &is, line, x, y, d));
    *out = is;
    return SP_OK;
}

/* One line of the file through all variants; which one is first changes with the line. */
static sp_err compare(tally *all, bench *b, const sp_experiment *e, const json_t *line, size_t at,
                      sp_diag *d)
{
    result r[16] = {{0}};
    sp_err err = SP_OK;
    bool judged = sp_cmd_judge_takes(&b->judge, line, false);
    if (judged)
        SP_TRY(sp_cmd_judge_may(&b->judge, line, d));
    for (size_t i = 0; i < e->n_variant && err == SP_OK; i++) {
        size_t k = (i + at) % e->n_variant;
        err = answer(&r[k], b, &e->variant[k], line, d);
    }
    for (size_t i = 0; i < e->n_variant && err == SP_OK; i++) {
        double gain;
        err = gain_of(&gain, b, line, &r[i], &r[0], judged, d);
        if (err == SP_OK)
            add(&all[i], &r[i], gain, judged);
    }
    for (size_t i = 0; i < e->n_variant; i++)
        sp_buf_fini(&r[i].text);
    return err;
}

static sp_err run_file(tally *all, bench *b, const sp_experiment *e, char *text, sp_diag *d)
{
    char *save = NULL;
    size_t at = 0, n = 0;
    for (char *p = strtok_r(text, "\n", &save); p; p = strtok_r(NULL, "\n", &save)) {
        json_error_t bad;
        json_t *line = json_loads(p, 0, &bad);
        at++;
        sp_diag why = {0};
        sp_err err = !line ? SP_FAIL(&why, SP_FORMAT, "%.80s", bad.text)
                     : !sp_check_is_there(line, b->judge.who != NULL)
                         ? SP_FAIL(&why, SP_FORMAT,
                                   "its check is none of contains, any, equals, number, like")
                         : compare(all, b, e, line, n++, &why);
        json_decref(line);
        if (err != SP_OK)
            return SP_FAIL(d, err, "line %zu: %.160s", at, why.msg);
    }
    return n ? SP_OK : SP_FAIL(d, SP_FORMAT, "there is no prompt in it");
}

static const char *verdict(const tally *t)
{
    double limit = log(2 / ALPHA);
    return sp_wager_log(&t->better) >= limit  ? "better"
           : sp_wager_log(&t->worse) >= limit ? "worse"
                                              : "not decided";
}

static void print(const sp_experiment *e, const tally *all, const sp_cmd_judge *j)
{
    if (j->who)
        printf("judged by %s (%s): %zu pairs, %zu equal, %zu with verdicts that do not agree, %zu "
               "without one; %zu tokens\n",
               j->who, j->place ? j->place->model : "this model", j->n, j->n_same, j->n_split,
               j->n_unclear, j->tok);
    for (size_t i = 0; i < e->n_variant; i++) {
        const tally *t = &all[i];
        double n = (double)t->n;
        printf("%-20s %g of %zu right; %.1f ms, %.1f tokens, %.2f GFLOP each", e->variant[i].name,
               t->right, t->n - t->judged, t->ms / n, t->tok / n, t->flops / n * 1e-9);
        if (i && t->judged)
            printf("; judged better in %zu of %zu, worse in %zu", t->judged_won, t->judged,
                   t->judged_lost);
        if (i)
            printf("; won %zu, lost %zu against the control: %s", t->won, t->lost, verdict(t));
        puts(i ? "" : " (control)");
    }
}

static void print_json(const sp_experiment *e, const tally *all, const sp_cmd_judge *j)
{
    sp_buf by = {0};
    if (j->who)
        sp_cmd_judge_json(j, &by);
    printf("{\"experiment\":\"%s\",\"alpha\":%g,%s%s%s\"variants\":[", e->name, ALPHA,
           j->who ? "\"judge\":" : "", sp_buf_str(&by), j->who ? "," : "");
    sp_buf_fini(&by);
    for (size_t i = 0; i < e->n_variant; i++) {
        const tally *t = &all[i];
        printf("%s{\"name\":\"%s\",\"prompts\":%zu,\"right\":%.10g,\"ms\":%.3f,\"tokens\":%.0f,"
               "\"flops\":%.6g,\"cost\":%.9g",
               i ? "," : "", e->variant[i].name, t->n, t->right, t->ms, t->tok, t->flops,
               t->cost);
        if (i)
            printf(",\"won\":%zu,\"lost\":%zu,\"judged\":[%zu,%zu,%zu],\"log_better\":%.4f,"
                   "\"log_worse\":%.4f,\"verdict\":\"%s\"",
                   t->won, t->lost, t->judged, t->judged_won, t->judged_lost,
                   sp_wager_log(&t->better), sp_wager_log(&t->worse), verdict(t));
        printf("}");
    }
    puts("]}");
}

/* This command has one model, and asks no other server. */
static sp_err check_model(const sp_experiment *e, sp_diag *d)
{
    for (size_t i = 0; i < e->n_variant; i++) {
        const sp_settings *set = e->variant[i].set;
        if (set && (set->model || set->place))
            return SP_FAIL(d, SP_INVAL,
                           "variant %s sets a model or a place, which a server alone can vary",
                           e->variant[i].name);
    }
    return SP_OK;
}

int sp_cmd_paired(const sp_opts *o, const sp_experiment *e, const char *path)
{
    sp_diag d = {0}, why = {0};
    bench b = {.o = o};
    tally all[16] = {{0}};
    sp_buf text = {0};
    int code = EXIT_DONE;
    setpriority(PRIO_PROCESS, 0, LOWEST); /* behind whoever serves on this machine */
    for (size_t i = 0; i < e->n_variant; i++) {
        sp_wager_init(&all[i].better, 0.5, false);
        sp_wager_init(&all[i].worse, 0.5, true);
    }
    if (check_model(e, &d) != SP_OK)
        code = sp_cmd_fail(EXIT_USAGE, &d);
    else if (sp_file_read(&text, path, MAX_FILE, &d) != SP_OK)
        code = sp_cmd_fail(EXIT_CONFIG, &d);
    else if (sp_cmd_judge_open(&b.judge, e->judge, o, &d) != SP_OK)
        code = sp_cmd_fail(EXIT_CONFIG, &d);
    else if (sp_trial_open(&b.trial, o, true, &d) != SP_OK ||
             sp_cmd_judge_start(&b.judge, &b.trial, &d) != SP_OK)
        code = sp_cmd_fail(EXIT_MODEL, &d);
    char *lines = code == EXIT_DONE ? sp_mem_strdup(sp_buf_str(&text)) : NULL;
    if (code == EXIT_DONE &&
        (lines ? run_file(all, &b, e, lines, &why) : SP_FAIL(&why, SP_NOMEM, "file")) != SP_OK) {
        (void)SP_FAIL(&d, why.code, "%.80s: %.170s", path, why.msg);
        code = sp_cmd_fail(why.code == SP_FORMAT ? EXIT_CONFIG : EXIT_RUN, &d);
    }
    if (code == EXIT_DONE)
        (sp_opt_flag(o, "json") ? print_json : print)(e, all, &b.judge);
    sp_mem_free(lines);
    sp_buf_fini(&text);
    sp_cmd_judge_close(&b.judge);
    sp_trial_close(&b.trial);
    return code;
}
