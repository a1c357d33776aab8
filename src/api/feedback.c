#include "api/feedback.h"

#include "api/known.h"
#include "base/clock.h"
#include "pipe/feedback.h"
#include "pipe/version.h"

#include <ctype.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

enum { MAX_TEXT = 65536, MAX_NAME = 64, MAX_LIST = 1000 };

#define ALPHA 0.05

typedef enum form { TENSORZERO, LANGFUSE, LANGSMITH } form;

/* What a body of any form says. */
typedef struct said {
    const char *metric, *answer, *conv, *comment, *type;
    const json_t *value, *tags;
    bool dry;
} said;

typedef struct call {
    const sp_app *app;
    sp_feedback_op *op;
    form form;
} call;

/* --- bodies ----------------------------------------------------------------------------------- */

static sp_err read_tensorzero(said *s, const json_t *j, const char **bad, sp_diag *d)
{
    const sp_param table[] = {
        {"metric_name", SP_P_STR, &s->metric, 0, 0},  {"value", SP_P_JSON, &s->value, 0, 0},
        {"inference_id", SP_P_STR, &s->answer, 0, 0}, {"episode_id", SP_P_STR, &s->conv, 0, 0},
        {"tags", SP_P_JSON, &s->tags, 0, 0},          {"dryrun", SP_P_BOOL, &s->dry, 0, 0}};
    return sp_params_read(j, table, sizeof table / sizeof *table, bad, d);
}

static sp_err read_langfuse(said *s, const json_t *j, const char **bad, sp_diag *d)
{
    const char *observation = NULL;
    const sp_param table[] = {
        {"name", SP_P_STR, &s->metric, 0, 0},    {"value", SP_P_JSON, &s->value, 0, 0},
        {"traceId", SP_P_STR, &s->answer, 0, 0}, {"observationId", SP_P_STR, &observation, 0, 0},
        {"sessionId", SP_P_STR, &s->conv, 0, 0}, {"comment", SP_P_STR, &s->comment, 0, 0},
        {"dataType", SP_P_STR, &s->type, 0, 0},  {"metadata", SP_P_JSON, &s->tags, 0, 0},
        {"id", SP_P_IGNORE, NULL, 0, 0},         {"environment", SP_P_IGNORE, NULL, 0, 0},
        {"configId", SP_P_IGNORE, NULL, 0, 0}};
    SP_TRY(sp_params_read(j, table, sizeof table / sizeof *table, bad, d));
    s->answer = observation ? observation : s->answer;
    s->conv = s->answer ? NULL : s->conv;
    *bad = "dataType";
    if (s->type && strcmp(s->type, "NUMERIC") != 0 && strcmp(s->type, "BOOLEAN") != 0)
        return SP_FAIL(d, SP_UNSUP,
                       "dataType: NUMERIC and BOOLEAN scores are kept; say the rest as a comment");
    return SP_OK;
}

/* A better answer: a text, or an object with one text. LangSmith gives it beside a key and a score;
 * here it is a demonstration of its own. */
static sp_err take_correction(said *s, const json_t *correction, const char **bad, sp_diag *d)
{
    const json_t *first =
        json_is_object(correction) && json_object_size(correction) == 1
            ? json_object_iter_value(json_object_iter((json_t *)(uintptr_t)correction))
            : correction;
    *bad = "correction";
    if (!json_is_string(first))
        return SP_FAIL(d, SP_INVAL, "correction must be a text, or an object with one text");
    if (s->value && !json_is_null(s->value))
        return SP_FAIL(d, SP_UNSUP, "a correction beside a score: give each by itself");
    s->metric = "demonstration";
    s->value = first;
    return SP_OK;
}

static sp_err read_langsmith(said *s, const json_t *j, const char **bad, sp_diag *d)
{
    const json_t *score = NULL, *correction = NULL;
    const char *trace = NULL;
    const sp_param table[] = {
        {"run_id", SP_P_STR, &s->answer, 0, 0},       {"trace_id", SP_P_STR, &trace, 0, 0},
        {"session_id", SP_P_STR, &s->conv, 0, 0},     {"key", SP_P_STR, &s->metric, 0, 0},
        {"score", SP_P_JSON, &score, 0, 0},           {"value", SP_P_JSON, &s->value, 0, 0},
        {"comment", SP_P_STR, &s->comment, 0, 0},     {"id", SP_P_IGNORE, NULL, 0, 0},
        {"feedback_source", SP_P_IGNORE, NULL, 0, 0}, {"created_at", SP_P_IGNORE, NULL, 0, 0},
        {"modified_at", SP_P_IGNORE, NULL, 0, 0},     {"correction", SP_P_JSON, &correction, 0, 0}};
    SP_TRY(sp_params_read(j, table, sizeof table / sizeof *table, bad, d));
    s->value = score && !json_is_null(score) ? score : s->value;
    s->answer = s->answer ? s->answer : trace;
    s->conv = s->answer ? NULL : s->conv;
    return correction && !json_is_null(correction) ? take_correction(s, correction, bad, d)
                                                   : SP_OK;
}

/* --- what they must say ----------------------------------------------------------------------- */

static bool is_name(const char *s)
{
    size_t n = strlen(s);
    for (size_t i = 0; i < n; i++)
        if (!isalnum((unsigned char)s[i]) && !strchr("-_.:", s[i]))
            return false;
    return n > 0 && n <= MAX_NAME;
}

/* Metrics that the server measures itself. */
static bool is_own(const char *name)
{
    static const char *const own[] = {"failed", "ms", "ms_first", "cost", "tokens"};
    for (size_t i = 0; i < sizeof own / sizeof *own; i++)
        if (strcmp(name, own[i]) == 0)
            return true;
    return false;
}

static sp_err keep(const char **out, sp_arena *a, const char *text, sp_diag *d)
{
    *out = sp_arena_strndup(a, text, strlen(text));
    return *out ? SP_OK : SP_FAIL(d, SP_NOMEM, "feedback");
}

static sp_err read_text(sp_fdb_given *g, sp_arena *a, const said *s, sp_diag *d)
{
    const char *text = json_string_value(s->value);
    if (!text || !*text || json_string_length(s->value) > MAX_TEXT)
        return SP_FAIL(d, SP_INVAL, "value of a %s must be a text of at most %d bytes", s->metric,
                       MAX_TEXT);
    if (strcmp(s->metric, "demonstration") == 0 && !s->answer)
        return SP_FAIL(d, SP_INVAL, "a demonstration is of an answer: inference_id is missing");
    return keep(&g->text, a, text, d);
}

static sp_err read_number(sp_fdb_given *g, const said *s, sp_diag *d)
{
    bool of_type = s->type && strcmp(s->type, "BOOLEAN") == 0;
    if (!json_is_number(s->value) && !json_is_boolean(s->value))
        return SP_FAIL(
            d, SP_INVAL,
            "value must be true, false or a number; texts are given as comment or demonstration");
    g->value = json_is_boolean(s->value) ? json_is_true(s->value) : json_number_value(s->value);
    g->is_boolean = json_is_boolean(s->value) || of_type;
    if (!isfinite(g->value) || fabs(g->value) > 1e15 || (of_type && g->value != 0 && g->value != 1))
        return SP_FAIL(d, SP_INVAL,
                       of_type ? "value of a BOOLEAN must be 0 or 1" : "value is too large");
    return SP_OK;
}

/* Tags are an object of strings; a comment beside a score stands among them. */
static sp_err read_tags(sp_fdb_given *g, sp_arena *a, const said *s, sp_diag *d)
{
    g->tags = "{}";
    json_t *all = s->tags && json_is_object(s->tags) ? json_deep_copy(s->tags) : json_object();
    if (s->tags && !json_is_object(s->tags)) {
        json_decref(all);
        return SP_FAIL(d, SP_INVAL, "tags must be an object of strings");
    }
    if (!all || (s->comment && json_object_set_new(all, "comment", json_string(s->comment)) != 0)) {
        json_decref(all);
        return SP_FAIL(d, SP_NOMEM, "feedback");
    }
    sp_err err = sp_params_metadata(&g->tags, a, all, "tags", false, d);
    json_decref(all);
    return err;
}

static sp_err read_given(sp_feedback_op *op, const said *s, const char **bad, sp_diag *d)
{
    sp_fdb_given *g = &op->given;
    *bad = "metric_name";
    if (!s->metric || !is_name(s->metric) || is_own(s->metric))
        return SP_FAIL(d, SP_INVAL,
                       "the metric's name must be 1 to %d of letters, digits, - _ . : and none "
                       "that the server measures itself",
                       MAX_NAME);
    SP_TRY(keep(&g->metric, &op->op.a, s->metric, d));
    *bad = "inference_id";
    if (!s->answer == !s->conv)
        return SP_FAIL(
            d, SP_INVAL,
            "feedback is about an answer or a conversation: the id of one of them is needed");
    SP_TRY(keep(s->answer ? &g->answer : &g->conv, &op->op.a, s->answer ? s->answer : s->conv, d));
    *bad = "value";
    bool text = strcmp(s->metric, "comment") == 0 || strcmp(s->metric, "demonstration") == 0;
    SP_TRY(text ? read_text(g, &op->op.a, s, d) : read_number(g, s, d));
    *bad = "tags";
    SP_TRY(read_tags(g, &op->op.a, s, d));
    op->dry = s->dry;
    *bad = NULL;
    return SP_OK;
}

static sp_err read_body(call *c, const sp_api_req *req, char bad_name[64], sp_diag *d)
{
    said s = {0};
    json_t *j = NULL;
    json_t *comment = NULL;
    const char *bad = NULL;
    sp_err err = sp_params_parse(&j, req->body, req->n_body, d);
    if (err == SP_OK)
        err = c->form == LANGFUSE    ? read_langfuse(&s, j, &bad, d)
              : c->form == LANGSMITH ? read_langsmith(&s, j, &bad, d)
                                     : read_tensorzero(&s, j, &bad, d);
    if (err == SP_OK && c->form == LANGSMITH && s.comment && (!s.value || json_is_null(s.value))) {
        s.value = comment = json_string(s.comment);
        s.metric = "comment";
        s.comment = NULL;
    }
    if (err == SP_OK)
        err = read_given(c->op, &s, &bad, d);
    snprintf(bad_name, 64, "%.60s", err != SP_OK && bad ? bad : "");
    json_decref(comment);
    json_decref(j);
    return err;
}

static sp_err read_query(call *c, const sp_api_req *req, char bad_name[64], sp_diag *d)
{
    int64_t limit = 100, after = 0;
    const char *bad = NULL;
    sp_err err = sp_params_query(req->http, c->op->kind == SP_FEEDBACK_LIST ? " limit after " : " ",
                                 &bad, d);
    if (err == SP_OK &&
        (err = sp_params_query_int(req->http, "limit", &limit, 1, MAX_LIST, d)) != SP_OK)
        bad = "limit";
    if (err == SP_OK &&
        (err = sp_params_query_int(req->http, "after", &after, 0, INT64_MAX / 2, d)) != SP_OK)
        bad = "after";
    snprintf(bad_name, 64, "%.60s", err != SP_OK && bad ? bad : "");
    c->op->cap = (size_t)limit;
    c->op->after = after;
    c->op->alpha = ALPHA;
    return err;
}

/* --- costs ------------------------------------------------------------------------------------ */

/* When the month of a time began (UTC). */
static int64_t month_of(int64_t s)
{
    time_t t = (time_t)s;
    struct tm tm;
    gmtime_r(&t, &tm);
    return s - s % 86400 - (int64_t)(tm.tm_mday - 1) * 86400;
}

static sp_err read_since(call *c, const sp_api_req *req, char bad_name[64], sp_diag *d)
{
    int64_t since = month_of(sp_clock_wall());
    const char *bad = NULL;
    sp_err err = sp_params_query(req->http, " since ", &bad, d);
    if (err == SP_OK &&
        (err = sp_params_query_int(req->http, "since", &since, 0, INT64_MAX / 2, d)) != SP_OK)
        bad = "since";
    snprintf(bad_name, 64, "%.60s", err != SP_OK && bad ? bad : "");
    c->op->after = since;
    return err;
}

static void put_costs(sp_buf *out, const call *c)
{
    const sp_prices *prices = c->app->shared->prices;
    const sp_feedback_op *op = c->op;
    const char *currency = prices ? prices->currency : NULL;
    sp_buf_puts(out, "{\"object\":\"costs\",\"currency\":");
    if (currency)
        sp_buf_json_str(out, currency, strlen(currency));
    else
        sp_buf_puts(out, "null");
    sp_buf_printf(out, ",\"since\":%lld,\"budgets\":[", (long long)op->after);
    if (c->app->budgets)
        sp_budgets_write(c->app->budgets, op->tenant[0] ? op->tenant : NULL, out);
    sp_buf_puts(out, "],\"data\":[");
    sp_buf_put(out, sp_buf_str(&op->json), op->json.len);
    sp_buf_puts(out, "]}");
}

/* The report, with the version of the settings that is in force. */
static void put_report(sp_buf *out, const call *c)
{
    const sp_version *now = sp_versions_now(c->app->shared->versions);
    const char *why = now && now->why ? now->why : "";
    sp_buf_puts(out, "{\"version\":");
    if (now) {
        sp_buf_printf(out, "{\"number\":%u,\"from\":%u,\"made\":%lld,\"why\":", now->number,
                      now->from, (long long)now->made);
        sp_buf_json_str(out, why, strlen(why));
        sp_buf_putc(out, '}');
    } else {
        sp_buf_puts(out, "null");
    }
    sp_buf_putc(out, ',');
    sp_buf_put(out, sp_buf_str(&c->op->json) + 1, c->op->json.len - 1); /* without its brace */
}

/* --- the task --------------------------------------------------------------------------------- */

static sp_err task_start(void *arg, sp_http_reply *reply)
{
    call *c = arg;
    sp_feedback_op *op = c->op;
    if (!sp_op_is_done(&op->op))
        return SP_AGAIN;
    if (!sp_api_reply(reply, &op->op.diag))
        return SP_OK;
    if (op->kind == SP_FEEDBACK_COSTS)
        put_costs(&reply->body, c);
    else if (op->kind == SP_FEEDBACK_REPORT)
        put_report(&reply->body, c);
    else if (op->kind != SP_FEEDBACK_GIVE)
        sp_buf_put(&reply->body, sp_buf_str(&op->json), op->json.len);
    else
        sp_buf_printf(&reply->body,
                      c->form == TENSORZERO ? "{\"feedback_id\":\"%s\"}" : "{\"id\":\"%s\"}",
                      op->id);
    return SP_OK;
}

static void task_close(void *arg)
{
    call *c = arg;
    sp_op_put((sp_op *)c->op);
    sp_mem_free(c);
}

sp_err sp_api_feedback(sp_app *app, const sp_api_req *req, const char *tenant, sp_http_task *task,
                       char bad[64], sp_diag *d)
{
    bool gives = strcmp(req->method, "POST") == 0;
    bool report = strcmp(req->path, "/v1/experiments") == 0;
    bool costs = strcmp(req->path, "/v1/costs") == 0;
    bad[0] = 0;
    if (!app->shared->feedback)
        return SP_FAIL(d, SP_UNSUP,
                       "this server keeps no feedback; it was started without --feedback");
    call *c = sp_mem_alloc(sizeof *c);
    if (c)
        c->op = sp_feedback_op_new(app->shared->feedback,
                                   gives    ? SP_FEEDBACK_GIVE
                                   : report ? SP_FEEDBACK_REPORT
                                   : costs  ? SP_FEEDBACK_COSTS
                                            : SP_FEEDBACK_LIST,
                                   tenant);
    if (!c || !c->op) {
        sp_mem_free(c);
        return SP_FAIL(d, SP_NOMEM, "request");
    }
    c->app = app;
    c->form = strcmp(req->path, "/api/public/scores") == 0 ? LANGFUSE
              : strcmp(req->path, "/api/v1/feedback") == 0 ? LANGSMITH
                                                           : TENSORZERO;
    sp_err err = gives   ? read_body(c, req, bad, d)
                 : costs ? read_since(c, req, bad, d)
                         : read_query(c, req, bad, d);
    return sp_work_operate(task, err, &c->op->op, req->work,
                           &(sp_http_task){c, task_start, NULL, task_close}, d);
}
