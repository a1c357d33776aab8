#include "cmd/paired.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "cmd/check.h"
#include "cmd/trial.h"
#include "pipe/experiment.h"
#include "stat/evidence.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_FILE = 64 << 20 };

#define ALPHA 0.05

typedef struct result {
    double right; /* 0 to 1 */
    double ms, flops, cost;
    size_t tok;
} result;

/* Sums of one variant. */
typedef struct tally {
    size_t n;
    double right;
    double ms, flops, cost, tok;
    sp_wager better, worse; /* against the control */
    size_t won, lost;
} tally;

typedef struct bench {
    sp_trial trial;
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
    sp_turn_receipt(&r, t);
    *out = (result){sp_check_score(check, sp_buf_str(&sp_turn_answer_of(t, 0)->text)),
                    sp_clock_ms(since), r.flops_spent, r.cost, r.tok_out};
    sp_turn_free(t);
    return SP_OK;
}

/* --- the comparison --------------------------------------------------------------------------- */

static void add(tally *t, const result *r, const result *control)
{
    double x = 0.5 * (1 + r->right - control->right);
    t->n++;
    t->right += r->right;
    t->ms += r->ms;
    t->flops += r->flops;
    t->cost += r->cost;
    t->tok += (double)r->tok;
    t->won += r->right > control->right;
    t->lost += r->right < control->right;
    sp_wager_add(&t->better, x);
    sp_wager_add(&t->worse, x);
}

/* One line of the file through all variants; which one is first changes with the line. */
static sp_err compare(tally *all, const bench *b, const sp_experiment *e, const json_t *line,
                      size_t at, sp_diag *d)
{
    result r[16];
    for (size_t i = 0; i < e->n_variant; i++) {
        size_t k = (i + at) % e->n_variant;
        SP_TRY(answer(&r[k], b, &e->variant[k], line, d));
    }
    for (size_t i = 0; i < e->n_variant; i++)
        add(&all[i], &r[i], &r[0]);
    return SP_OK;
}

static sp_err run_file(tally *all, const bench *b, const sp_experiment *e, char *text, sp_diag *d)
{
    char *save = NULL;
    size_t at = 0, n = 0;
    for (char *p = strtok_r(text, "\n", &save); p; p = strtok_r(NULL, "\n", &save)) {
        json_error_t bad;
        json_t *line = json_loads(p, 0, &bad);
        at++;
        sp_diag why = {0};
        sp_err err = !line ? SP_FAIL(&why, SP_FORMAT, "%.80s", bad.text)
                     : !sp_check_is_valid(json_object_get(line, "check"))
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

static void print(const sp_experiment *e, const tally *all)
{
    for (size_t i = 0; i < e->n_variant; i++) {
        const tally *t = &all[i];
        double n = (double)t->n;
        printf("%-20s %g of %zu right; %.1f ms, %.1f tokens, %.2f GFLOP each", e->variant[i].name,
               t->right, t->n, t->ms / n, t->tok / n, t->flops / n * 1e-9);
        if (i)
            printf("; won %zu, lost %zu against the control: %s", t->won, t->lost, verdict(t));
        puts(i ? "" : " (control)");
    }
}

static void print_json(const sp_experiment *e, const tally *all)
{
    printf("{\"experiment\":\"%s\",\"alpha\":%g,\"variants\":[", e->name, ALPHA);
    for (size_t i = 0; i < e->n_variant; i++) {
        const tally *t = &all[i];
        printf("%s{\"name\":\"%s\",\"prompts\":%zu,\"right\":%.10g,\"ms\":%.3f,\"tokens\":%.0f,"
               "\"flops\":%.6g,\"cost\":%.9g",
               i ? "," : "", e->variant[i].name, t->n, t->right, t->ms, t->tok, t->flops,
               t->cost);
        if (i)
            printf(",\"won\":%zu,\"lost\":%zu,\"log_better\":%.4f,\"log_worse\":%.4f,\"verdict\":"
                   "\"%s\"",
                   t->won, t->lost, sp_wager_log(&t->better), sp_wager_log(&t->worse), verdict(t));
        printf("}");
    }
    puts("]}");
}

int sp_cmd_paired(const sp_opts *o, const sp_experiment *e, const char *path)
{
    sp_diag d = {0}, why = {0};
    bench b = {.o = o};
    tally all[16] = {{0}};
    sp_buf text = {0};
    int code = EXIT_DONE;
    for (size_t i = 0; i < e->n_variant; i++) {
        sp_wager_init(&all[i].better, 0.5, false);
        sp_wager_init(&all[i].worse, 0.5, true);
    }
    if (sp_file_read(&text, path, MAX_FILE, &d) != SP_OK)
        code = sp_cmd_fail(EXIT_CONFIG, &d);
    else if (sp_trial_open(&b.trial, o, true, &d) != SP_OK)
        code = sp_cmd_fail(EXIT_MODEL, &d);
    char *lines = code == EXIT_DONE ? sp_mem_strdup(sp_buf_str(&text)) : NULL;
    if (code == EXIT_DONE &&
        (lines ? run_file(all, &b, e, lines, &why) : SP_FAIL(&why, SP_NOMEM, "file")) != SP_OK) {
        (void)SP_FAIL(&d, why.code, "%.80s: %.170s", path, why.msg);
        code = sp_cmd_fail(why.code == SP_FORMAT ? EXIT_CONFIG : EXIT_RUN, &d);
    }
    if (code == EXIT_DONE)
        (sp_opt_flag(o, "json") ? print_json : print)(e, all);
    sp_mem_free(lines);
    sp_buf_fini(&text);
    sp_trial_close(&b.trial);
    return code;
}
