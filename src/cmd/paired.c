#include "cmd/paired.h"

#include "base/clock.h"
#include "base/file.h"
#include "base/mem.h"
#include "pipe/turn.h"
#include "stat/evidence.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_FILE = 64 << 20, WAIT_NS = 100000000, CHECK_BYTES = 4096 };

#define ALPHA 0.05

typedef struct result {
    bool right;
    double ms, flops, cost;
    size_t tok;
} result;

/* Sums of one variant. */
typedef struct tally {
    size_t n, n_right;
    double ms, flops, cost, tok;
    sp_wager better, worse; /* against the control */
    size_t won, lost;
} tally;

typedef struct bench {
    sp_loaded l;
    sp_metrics *metrics;
    sp_engine *engine;
    sp_turn_env env;
    const sp_opts *o;
} bench;

/* --- what is right
 * ------------------------------------------------------------------------------ */

static bool has(const char *text, const json_t *what)
{
    const char *s = json_string_value(what);
    return s && strcasestr(text, s);
}

static bool last_number(double *out, const char *text)
{
    bool found = false;
    for (const char *p = text; *p;) {
        char *end;
        bool starts = isdigit((unsigned char)*p) || (*p == '-' && isdigit((unsigned char)p[1]));
        double v = starts ? strtod(p, &end) : 0;
        found = found || starts;
        *out = starts ? v : *out;
        p = starts ? end : p + 1;
    }
    return found;
}

static bool equals(const char *text, const char *want)
{
    size_t n = strlen(text);
    while (n && isspace((unsigned char)text[n - 1]))
        n--;
    while (n && isspace((unsigned char)*text)) {
        text++;
        n--;
    }
    return strlen(want) == n && memcmp(text, want, n) == 0;
}

static bool is_right(const json_t *check, const char *text)
{
    const json_t *all = json_object_get(check, "contains"), *any = json_object_get(check, "any"),
                 *same = json_object_get(check, "equals");
    const json_t *number = json_object_get(check, "number");
    size_t i;
    json_t *one;
    bool right = true, some = false;
    double got = 0;
    json_array_foreach (all, i, one)
        right = right && has(text, one);
    json_array_foreach (any, i, one)
        some = some || has(text, one);
    right = right && (!any || some) && (!same || equals(text, json_string_value(same)));
    return right && (!number || (last_number(&got, text) && fabs(got - json_number_value(number)) <=
                                                                1e-9 * fmax(1, fabs(got))));
}

static bool is_texts(const json_t *v)
{
    size_t i;
    json_t *one;
    bool ok = !v || json_array_size(v) > 0;
    json_array_foreach (v, i, one)
        ok = ok && json_is_string(one);
    return ok;
}

/* Is the check one that can be made, and can it fail? */
static bool is_check(const json_t *c)
{
    const json_t *all = json_object_get(c, "contains"), *any = json_object_get(c, "any"),
                 *same = json_object_get(c, "equals"), *number = json_object_get(c, "number");
    size_t n = (all ? 1u : 0u) + (any ? 1u : 0u) + (same ? 1u : 0u) + (number ? 1u : 0u);
    return json_is_object(c) && n == json_object_size(c) && n > 0 && is_texts(all) &&
           is_texts(any) && (!same || json_is_string(same)) && (!number || json_is_number(number));
}

/* --- answers
 * ------------------------------------------------------------------------------------ */

static sp_err open_bench(bench *b, sp_diag *d)
{
    SP_TRY(sp_cmd_load(&b->l, b->o, NULL, d));
    if (sp_metrics_new(&b->metrics) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "metrics");
    const sp_engine_cfg cfg = {.model = b->l.model,
                               .tok = b->l.tok,
                               .pool = b->l.pool,
                               .metrics = b->metrics,
                               .n_ctx = b->l.n_ctx,
                               .max_run = 1,
                               .max_queue = 1,
                               .chunk_tok = 256};
    SP_TRY(sp_engine_new(&b->engine, &cfg, d));
    b->env =
        (sp_turn_env){.name = b->l.name, .engine = b->engine, .tok = b->l.tok, .chat = b->l.chat};
    return SP_OK;
}

static void close_bench(bench *b)
{
    sp_engine_free(b->engine);
    sp_metrics_free(b->metrics);
    sp_cmd_unload(&b->l);
}

/* A message of the file: {"role", "content"}, both texts. */
static sp_err add_message(sp_ask *q, const json_t *m)
{
    const char *role = json_string_value(json_object_get(m, "role")),
               *text = json_string_value(json_object_get(m, "content"));
    if (!role || !text)
        return SP_FORMAT;
    q->msg[q->n_msg++] = sp_chat_say(role, text, strlen(text));
    return SP_OK;
}

/* Borrows texts of line. */
static sp_err fill(sp_ask *q, const bench *b, const json_t *line)
{
    const json_t *list = json_object_get(line, "messages"),
                 *prompt = json_object_get(line, "prompt");
    size_t n = json_array_size(list), i;
    json_t *m;
    q->plan.max_tok = (size_t)sp_opt_int(b->o, "max-tokens");
    q->plan.drafters = 1u << SP_DRAFT_LOOKUP;
    q->seed = 1;
    q->chat = b->l.chat && !(prompt && !b->l.chat);
    q->msg = sp_arena_alloc(&q->a, (n + 2) * sizeof *q->msg);
    q->prompt = sp_arena_alloc(&q->a, sizeof *q->prompt);
    if (!q->msg || !q->prompt)
        return SP_NOMEM;
    json_array_foreach (list, i, m)
        SP_TRY(add_message(q, m));
    if (json_is_string(prompt)) {
        q->n_prompt = 1;
        q->prompt->text = (sp_str){json_string_value(prompt), json_string_length(prompt)};
        if (q->chat && !n)
            q->msg[q->n_msg++] = sp_chat_say("user", q->prompt->text.p, q->prompt->text.n);
    }
    return q->n_msg || q->n_prompt ? SP_OK : SP_FORMAT;
}

static sp_err answer(result *out, bench *b, const sp_variant *v, const json_t *line, sp_diag *d)
{
    sp_turn *t = NULL;
    sp_turn_error e = {0};
    sp_turn_event ev = {0};
    sp_receipt r;
    sp_ask *q = sp_ask_new("local");
    uint64_t since = sp_clock_ns();
    sp_err err = q ? fill(q, b, line) : SP_NOMEM;
    if (err == SP_OK)
        err = sp_experiments_set(q, v);
    if (err != SP_OK) {
        sp_ask_free(q);
        return SP_FAIL(d, err,
                       err == SP_NOMEM
                           ? "request"
                           : "it has neither messages of role and content nor a prompt");
    }
    err = sp_turn_open(&t, &b->env, q, &e);
    if (err == SP_OK)
        err = sp_turn_start(t, &(sp_turn_run){0}, &e);
    while (err == SP_OK && ev.kind != SP_TURN_END && ev.kind != SP_TURN_ERROR) {
        if (sp_turn_next(t, &ev) == SP_AGAIN) {
            sp_turn_wait(t, WAIT_NS);
            ev = (sp_turn_event){0};
        }
    }
    if (ev.kind == SP_TURN_ERROR)
        e = *ev.error;
    if (e.diag.code == SP_OK) {
        sp_turn_receipt(&r, t);
        *out = (result){
            is_right(json_object_get(line, "check"), sp_buf_str(&sp_turn_answer_of(t, 0)->text)),
            sp_clock_ms(since), r.flops_spent, r.cost, r.tok_out};
    }
    sp_turn_free(t);
    *d = e.diag;
    return d->code;
}

/* --- the comparison
 * ----------------------------------------------------------------------------- */

static void add(tally *t, const result *r, const result *control)
{
    double x = 0.5 * (1.0 + r->right - control->right);
    t->n++;
    t->n_right += r->right ? 1 : 0;
    t->ms += r->ms;
    t->flops += r->flops;
    t->cost += r->cost;
    t->tok += (double)r->tok;
    t->won += r->right && !control->right ? 1 : 0;
    t->lost += !r->right && control->right ? 1 : 0;
    sp_wager_add(&t->better, x);
    sp_wager_add(&t->worse, x);
}

/* One line of the file through all variants; which one is first changes with the line. */
static sp_err compare(tally *all, bench *b, const sp_experiment *e, const json_t *line, size_t at,
                      sp_diag *d)
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

static sp_err run_file(tally *all, bench *b, const sp_experiment *e, char *text, sp_diag *d)
{
    char *save = NULL;
    size_t at = 0, n = 0;
    for (char *p = strtok_r(text, "\n", &save); p; p = strtok_r(NULL, "\n", &save)) {
        json_error_t bad;
        json_t *line = json_loads(p, 0, &bad);
        at++;
        sp_diag why = {0};
        sp_err err =
            !line ? SP_FAIL(&why, SP_FORMAT, "%.80s", bad.text)
            : !is_check(json_object_get(line, "check"))
                ? SP_FAIL(&why, SP_FORMAT, "its check is none of contains, any, equals, number")
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
        printf("%-20s %zu of %zu right; %.1f ms, %.1f tokens, %.2f GFLOP each", e->variant[i].name,
               t->n_right, t->n, t->ms / n, t->tok / n, t->flops / n * 1e-9);
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
        printf("%s{\"name\":\"%s\",\"prompts\":%zu,\"right\":%zu,\"ms\":%.3f,\"tokens\":%.0f,"
               "\"flops\":%.6g,\"cost\":%.9g",
               i ? "," : "", e->variant[i].name, t->n, t->n_right, t->ms, t->tok, t->flops,
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
    else if (open_bench(&b, &d) != SP_OK)
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
    close_bench(&b);
    return code;
}
