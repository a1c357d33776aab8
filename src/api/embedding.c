/* /v1/embeddings: all texts of a request as one job. A text that is too long is read in windows,
 * whose vectors are averaged, where the encoder makes means; it stands by its beginning where the
 * request says so; else it is refused. */
#include "api/embedding.h"

#include "api/known.h"
#include "base/clock.h"
#include "base/mem.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

enum {
    MAX_INPUT = 2048 /* as OpenAI's limit */,
    MAX_WINDOW = 64 /* of one text */,
    MAX_TEXT = 4096 /* windows of all texts */
};

typedef struct request {
    sp_app *app;
    char tenant[SP_TENANT_BYTES];
    sp_served *on;  /* in use as long as the job; NULL: the job has it, or has had it */
    sp_encoder *encoder;
    sp_job *job;
    sp_ids ids;     /* of all windows, one behind the other; most texts are one */
    size_t *end;    /* [n_window] where each ends */
    size_t *last;   /* [n] window behind the last one of each text */
    size_t n_window, n;
    size_t cap;     /* longer texts stand by so many tokens of their beginning; 0: they do not */
    bool is_strict; /* longer texts are refused */
    bool base64;
    size_t dim;     /* numbers of a vector that are told: the first ones of the model's */
    sp_buf ignored; /* parameters that were accepted and had no effect */
    sp_buf cut;     /* indices of texts that stand by their beginning, joined by commas */
    sp_buf split;   /* texts that were read in windows, as JSON objects, joined by commas */
    sp_embed_write *write; /* NULL: OpenAI's words */
    uint64_t begin_ns;
    sp_trace trace;
    double wall_ns; /* when it came, since 1970 */
    sp_diag error;
} request;

/* --- texts ------------------------------------------------------------------------------------ */

/* Do the ids look like a text of this model's vocabulary? Its marks stand around them. */
static sp_err check_marks(const sp_tok *vocab, const sp_ids *ids, size_t i, sp_diag *d)
{
    sp_ids mark = {0};
    sp_err err = sp_tok_encode_whole(vocab, &mark, 0, "", 0, d);
    bool own = err == SP_OK && ids->n >= mark.n;
    for (size_t k = 0; k < mark.n && own; k++)
        own = ids->id[k ? ids->n - 1 : 0] == mark.id[k];
    sp_ids_fini(&mark);
    if (err != SP_OK || own)
        return err;
    return SP_FAIL(d, SP_INVAL,
                   "input[%zu] holds token ids that are not of this model's vocabulary (its marks "
                   "do not stand around them). Send text: LangChain does with "
                   "check_embedding_ctx_length=False",
                   i);
}

static sp_err read_ids(request *r, sp_ids *out, const json_t *list, size_t i, sp_diag *d)
{
    for (size_t k = 0; k < json_array_size(list); k++) {
        const json_t *v = json_array_get(list, k);
        if (!json_is_integer(v) || json_integer_value(v) < 0 ||
            (size_t)json_integer_value(v) >= sp_tok_count(sp_encoder_vocab(r->encoder)))
            return SP_FAIL(d, SP_INVAL, "input[%zu][%zu] is not a token id from 0 to %zu", i, k,
                           sp_tok_count(sp_encoder_vocab(r->encoder)) - 1);
        SP_TRY(sp_ids_push(out, (uint32_t)json_integer_value(v)) == SP_OK
                   ? SP_OK
                   : SP_FAIL(d, SP_NOMEM, "request"));
    }
    return check_marks(sp_encoder_vocab(r->encoder), out, i, d);
}

/* A text that is too long: refused, or its beginning with the mark at its end. */
static sp_err shorten(request *r, sp_ids *ids, size_t i, sp_diag *d)
{
    size_t most = sp_encoder_cap(r->encoder), cap = r->cap && r->cap < most ? r->cap : most;
    if (ids->n <= cap || (!r->cap && !r->is_strict && sp_encoder_is_mean(r->encoder)))
        return SP_OK;
    if (!r->cap)
        return SP_FAIL(d, SP_INVAL,
                       "input[%zu] has %zu tokens, the embedding model takes at most %zu; with "
                       "\"truncate\": true its beginning stands for it",
                       i, ids->n, most);
    ids->id[cap - 1] = ids->id[ids->n - 1];
    ids->n = cap;
    sp_buf_printf(&r->cut, "%s%zu", r->cut.len ? "," : "", i);
    return r->cut.failed ? SP_FAIL(d, SP_NOMEM, "request") : SP_OK;
}

static sp_err add_window(request *r, const uint32_t *id, size_t n, uint32_t begin, uint32_t end,
                         sp_diag *d)
{
    sp_err err = begin != SP_TOK_NONE ? sp_ids_push(&r->ids, begin) : SP_OK;
    if (err == SP_OK)
        err = sp_ids_add(&r->ids, id, n);
    if (err == SP_OK && end != SP_TOK_NONE)
        err = sp_ids_push(&r->ids, end);
    if (err != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "request");
    r->end[r->n_window++] = r->ids.n;
    return SP_OK;
}

/* A text's tokens with the marks around them: as they are, or as windows of about the same length,
 * each with marks of its own. */
static sp_err add_windows(request *r, const sp_ids *ids, size_t i, sp_diag *d)
{
    const sp_tok *vocab = sp_encoder_vocab(r->encoder);
    uint32_t end = sp_tok_closing(vocab),
             begin = sp_tok_adds_bos(vocab) ? sp_tok_bos(vocab) : SP_TOK_NONE;
    size_t has_begin = begin != SP_TOK_NONE, n_mark = has_begin + (end != SP_TOK_NONE),
           cap = sp_encoder_cap(r->encoder);
    size_t n = ids->n - n_mark, most = cap - n_mark,
           n_window = ids->n <= cap ? 1 : (n + most - 1) / most;
    if (n_window > MAX_WINDOW || r->n_window + n_window > MAX_TEXT)
        return SP_FAIL(d, SP_INVAL,
                       "input[%zu] has %zu tokens: %zu windows of %zu; a text may have at most %d "
                       "and all texts together %d",
                       i, ids->n, n_window, cap, MAX_WINDOW, MAX_TEXT);
    for (size_t k = 0; k < n_window; k++) {
        size_t from = n * k / n_window, to = n * (k + 1) / n_window;
        SP_TRY(add_window(r, ids->id + has_begin + from, to - from, begin, end, d));
    }
    if (n_window > 1)
        sp_buf_printf(&r->split, "%s{\"index\":%zu,\"windows\":%zu}", r->split.len ? "," : "", i,
                      n_window);
    return r->split.failed ? SP_FAIL(d, SP_NOMEM, "request") : SP_OK;
}

static sp_err add_text(request *r, const json_t *v, size_t i, sp_diag *d)
{
    sp_ids ids = {0};
    if (!json_is_array(v) && (!json_is_string(v) || json_string_length(v) == 0))
        return SP_FAIL(d, SP_INVAL, "input[%zu] is not a string with text in it", i);
    sp_err err = json_is_array(v)
                     ? read_ids(r, &ids, v, i, d)
                     : sp_tok_encode_whole(sp_encoder_vocab(r->encoder), &ids, 0,
                                           json_string_value(v), json_string_length(v), d);
    if (err == SP_OK)
        err = shorten(r, &ids, i, d);
    if (err == SP_OK)
        err = add_windows(r, &ids, i, d);
    if (err == SP_OK)
        r->last[r->n++] = r->n_window;
    sp_ids_fini(&ids);
    return err;
}

static sp_err add_texts(request *r, const json_t *input, sp_diag *d)
{
    bool many = json_is_array(input) && !json_is_integer(json_array_get(input, 0));
    size_t n = many ? json_array_size(input) : 1;
    if (!input || n == 0 || n > MAX_INPUT ||
        (!many && json_is_array(input) && json_array_size(input) == 0))
        return SP_FAIL(d, SP_INVAL,
                       "input must be a string, a list of token ids, or a list of 1 to %d of these",
                       MAX_INPUT);
    r->end = sp_mem_array(MAX_TEXT, sizeof *r->end);
    r->last = sp_mem_array(n, sizeof *r->last);
    if (!r->end || !r->last)
        return SP_FAIL(d, SP_NOMEM, "request");
    for (size_t i = 0; i < n; i++)
        SP_TRY(add_text(r, many ? json_array_get(input, i) : input, i, d));
    return SP_OK;
}

/* --- the rest --------------------------------------------------------------------------------- */

static sp_err start_request(request *r, const json_t *j, sp_work *work, const char **bad,
                            sp_diag *d)
{
    const char *model = NULL, *format = "float";
    const json_t *input = NULL;
    int64_t dims = 0, cap = 0;
    bool cut = false;
    const sp_param table[] = {{"model", SP_P_STR, &model, 0, 0},
                              {"input", SP_P_JSON, &input, 0, 0},
                              {"encoding_format", SP_P_STR, &format, 0, 0},
                              {"dimensions", SP_P_INT, &dims, 1, 1 << 20},
                              {"truncate", SP_P_BOOL, &cut, 0, 0},
                              {"truncate_prompt_tokens", SP_P_INT, &cap, -1, 1 << 20}};
    const sp_lists lists = {.known = sp_known_embedding,
                            .lenient = r->app->lenient,
                            .ignored = &r->ignored,
                            .where = ""};
    SP_TRY(sp_known_read(j, table, sizeof table / sizeof table[0], &lists, bad, d));
    *bad = "encoding_format";
    r->base64 = strcmp(format, "base64") == 0;
    if (!r->base64 && strcmp(format, "float") != 0)
        return SP_FAIL(d, SP_INVAL, "encoding_format must be float or base64");
    *bad = "dimensions";
    r->dim = dims ? (size_t)dims : sp_encoder_dim(r->encoder);
    if (r->dim > sp_encoder_dim(r->encoder))
        return SP_FAIL(d, SP_INVAL, "dimensions is %zu, and vectors of this model have %zu", r->dim,
                       sp_encoder_dim(r->encoder));
    *bad = "truncate_prompt_tokens";
    if (cap == 1 || cap == 2)
        return SP_FAIL(d, SP_INVAL,
                       "truncate_prompt_tokens is %lld; a text with its marks has at least 3",
                       (long long)cap);
    r->is_strict = json_is_false(json_object_get(j, "truncate"));
    r->cap = cap > 0 ? (size_t)cap : cut || cap < 0 ? SIZE_MAX : 0;
    *bad = "input";
    SP_TRY(add_texts(r, input, d));
    const sp_texts texts = {.encoder = r->encoder,
                            .done = sp_embed_let_go,
                            .arg = r->on,
                            .id = r->ids.id,
                            .end = r->end,
                            .n = r->n_window};
    SP_TRY(sp_job_texts(&r->job, r->app->texts, &texts, sp_work_wake, work, d));
    r->on = NULL;
    return SP_OK;
}

/* The vector of text i: of its window, or of all of them, each counted by its tokens. */
static void join_windows(float *out, const request *r, size_t i)
{
    size_t dim = sp_encoder_dim(r->encoder), first = i ? r->last[i - 1] : 0;
    const float *v = sp_job_vector(r->job);
    double norm = 0;
    for (size_t k = 0; k < dim; k++) {
        double sum = 0;
        for (size_t w = first; w < r->last[i]; w++)
            sum += (double)v[w * dim + k] * (double)(r->end[w] - (w ? r->end[w - 1] : 0));
        out[k] = (float)sum;
        norm += sum * sum;
    }
    for (size_t k = 0; k < dim; k++)
        out[k] = r->last[i] - first == 1 ? v[first * dim + k]
                                         : (float)((double)out[k] / fmax(sqrt(norm), 1e-12));
}

/* Its first dim numbers, made as long as a whole vector. A model that was not trained for it loses
 * by this what the others say, so that the answer names it. */
static void cut_vector(float *v, size_t dim, size_t whole)
{
    double norm = 0;
    for (size_t k = 0; k < dim; k++)
        norm += (double)v[k] * (double)v[k];
    for (size_t k = 0; k < dim && dim < whole; k++)
        v[k] = (float)((double)v[k] / fmax(sqrt(norm), 1e-12));
}

static void put_answer(sp_buf *out, const request *r)
{
    size_t dim = sp_encoder_dim(r->encoder);
    float *v = sp_mem_array(dim, sizeof *v);
    out->failed = out->failed || !v;
    sp_buf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < r->n && v; i++) {
        join_windows(v, r, i);
        cut_vector(v, r->dim, dim);
        sp_buf_printf(out, "%s{\"object\":\"embedding\",\"index\":%zu,\"embedding\":", i ? "," : "",
                      i);
        if (r->base64) {
            sp_buf_putc(out, '"');
            sp_buf_base64(out, v, r->dim * sizeof *v);
            sp_buf_putc(out, '"');
        }
        for (size_t k = 0; !r->base64 && k < r->dim; k++)
            sp_buf_printf(out, "%c%.9g", k ? ',' : '[', (double)v[k]);
        sp_buf_puts(out, r->base64 ? "}" : "]}");
    }
    sp_mem_free(v);
    sp_buf_puts(out, "],\"model\":");
    sp_buf_json_str(out, sp_encoder_name(r->encoder), strlen(sp_encoder_name(r->encoder)));
    sp_buf_printf(out, ",\"usage\":{\"prompt_tokens\":%zu,\"total_tokens\":%zu", r->ids.n,
                  r->ids.n);
    if (r->ignored.len || r->cut.len || r->split.len || r->dim < dim)
        sp_buf_printf(out,
                      ",\"sparing\":{\"ignored\":[%s],\"truncated\":[%s],\"windows\":[%s],"
                      "\"dimensions\":{\"told\":%zu,\"whole\":%zu}}",
                      sp_buf_str(&r->ignored), sp_buf_str(&r->cut), sp_buf_str(&r->split), r->dim,
                      dim);
    sp_buf_puts(out, "}}");
}

static void send_span(const request *r, int status, const sp_diag *bad)
{
    char type[16];
    snprintf(type, sizeof type, "%d", status);
    sp_trace_end end = {.operation = "embeddings",
                        .model = r->encoder ? sp_encoder_name(r->encoder) : "",
                        .error = bad->code ? bad->msg : NULL,
                        .error_type = type,
                        .begin_ns = r->wall_ns,
                        .ms = (sp_clock_wall_ns() - r->wall_ns) * 1e-6,
                        .status = status,
                        .n_prompt = r->ids.n,
                        .temperature = -1,
                        .top_p = -1};
    sp_api_trace(r->app, &r->trace, &end, NULL);
}

static void put_other(sp_buf *out, const request *r)
{
    size_t whole = sp_encoder_dim(r->encoder), dim = r->dim;
    /* each is written whole, over nothing yet */
    float *v = sp_mem_array(r->n * dim + whole, sizeof *v);
    for (size_t i = 0; i < r->n && v; i++) {
        join_windows(v + i * dim, r, i);
        cut_vector(v + i * dim, dim, whole);
    }
    if (v)
        r->write(out, &(sp_embed_answer){.model = sp_encoder_name(r->encoder),
                                         .vector = v,
                                         .n = r->n,
                                         .dim = dim,
                                         .n_tok = r->ids.n,
                                         .begin_ns = r->begin_ns});
    out->failed = out->failed || !v;
    sp_mem_free(v);
}

void sp_embed_let_go(void *served)
{
    sp_served *on = served;
    sp_models_done(on->env.models, on);
}

sp_err sp_embed_done(sp_diag *error, sp_job *job)
{
    sp_event *ev = sp_job_next(job);
    if (!ev)
        return SP_AGAIN;
    if (ev->kind == SP_EVENT_ERROR)
        *error = ev->diag;
    else if (ev->finish == SP_FINISH_CANCEL)
        (void)SP_FAIL(error, SP_CANCEL, "the server is shutting down");
    sp_event_free(ev);
    return SP_OK;
}

void sp_embed_pay(sp_app *app, const char *tenant, sp_price_role role, const sp_encoder *e,
                  size_t n_tok)
{
    const sp_price price = sp_prices_of(app->shared->prices, role, sp_encoder_name(e));
    sp_ledger_add_texts(app->ledger, tenant, sp_price_tokens(&price, (double)n_tok, 0, 0));
}

static sp_err task_start(void *arg, sp_http_reply *reply)
{
    request *r = arg;
    SP_TRY(sp_embed_done(&r->error, r->job));
    if (r->error.code == SP_OK)
        sp_embed_pay(r->app, r->tenant, SP_PRICE_EMBEDDING, r->encoder, r->ids.n);
    if (sp_api_reply_retry(reply, r->app, &r->error))
        (r->write ? put_other : put_answer)(&reply->body, r);
    send_span(r, reply->status, &r->error);
    return SP_OK;
}

static void task_close(void *arg)
{
    request *r = arg;
    sp_job_put(r->job);
    sp_models_done(r->app->models, r->on);
    sp_ids_fini(&r->ids);
    sp_buf_fini(&r->ignored);
    sp_buf_fini(&r->cut);
    sp_buf_fini(&r->split);
    sp_mem_free(r->last);
    sp_mem_free(r->end);
    sp_mem_free(r);
}

sp_err sp_api_embed(const sp_api_place *at, const json_t *body, const sp_api_req *req,
                    sp_embed_write *write, sp_http_task *task, char bad[64], sp_diag *d)
{
    const char *name = NULL;
    request *r = sp_mem_alloc(sizeof *r);
    sp_err err = r ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
    if (err == SP_OK) {
        r->app = at->app;
        r->on = at->on;
        snprintf(r->tenant, sizeof r->tenant, "%s", at->tenant);
        r->encoder = at->on->encoder;
        sp_models_use_again(at->app->models, at->on);
        r->write = write;
        r->begin_ns = sp_clock_ns();
        r->wall_ns = sp_clock_wall_ns();
        sp_trace_start(&r->trace, req->traceparent);
        err = start_request(r, body, req->work, &name, d);
    }
    if (err == SP_OK)
        *task = (sp_http_task){r, task_start, NULL, task_close};
    else if (r) {
        send_span(r, sp_api_status(err), d);
        task_close(r);
    }
    snprintf(bad, 64, "%.60s", name ? name : "");
    return err;
}

sp_err sp_api_embedding(const sp_api_place *at, const sp_api_req *req, sp_http_task *task,
                        char bad[64], sp_diag *d)
{
    return sp_api_embed(at, req->json, req, NULL, task, bad, d);
}
