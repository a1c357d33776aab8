/* A request's body: parameters read, checked and refused by name. */
#include "api/completion_int.h"

#include "api/known.h"
#include "api/tools.h"
#include "pipe/passages.h"

#include <stdio.h>
#include <string.h>

enum { PLAIN_ONLY = 3, CHAT_ONLY = 15 /* rows at the two ends of the table of parameters */ };

static sp_err read_stop(sp_session_cfg *out, const json_t *v, sp_diag *d)
{
    size_t n = json_is_array(v) ? json_array_size(v) : 1;
    if (!v)
        return SP_OK;
    if (n > SP_STOP_MAX)
        return SP_FAIL(d, SP_INVAL, "stop holds %zu strings, at most %d are supported", n,
                       SP_STOP_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *s = json_is_array(v) ? json_array_get(v, i) : v;
        size_t len = json_string_length(s);
        if (json_is_string(s) && len == 0)
            continue; /* ends nothing */
        if (!json_is_string(s) || len >= SP_STOP_BYTES || memchr(json_string_value(s), 0, len))
            return SP_FAIL(d, SP_INVAL,
                           "stop must be a string, or a list of strings, of 1 to %d bytes",
                           SP_STOP_BYTES - 1);
        memcpy(out->stop[out->n_stop++], json_string_value(s), len + 1);
    }
    return SP_OK;
}

static sp_err read_stop_ids(sp_session_cfg *out, const json_t *v, size_t n_vocab, sp_diag *d)
{
    size_t n = json_array_size(v);
    if (v && (!json_is_array(v) || n > SP_STOP_MAX))
        return SP_FAIL(d, SP_INVAL, "stop_token_ids must be a list of at most %d token ids",
                       SP_STOP_MAX);
    for (size_t i = 0; i < n; i++) {
        const json_t *id = json_array_get(v, i);
        if (!json_is_integer(id) || json_integer_value(id) < 0 ||
            (size_t)json_integer_value(id) >= n_vocab)
            return SP_FAIL(d, SP_INVAL, "stop_token_ids[%zu] is not a token id from 0 to %zu", i,
                           n_vocab - 1);
        out->stop_id[out->n_stop_id++] = (uint32_t)json_integer_value(id);
    }
    return SP_OK;
}

static sp_err read_bias(sp_sample_cfg *out, const json_t *v, size_t n_vocab, sp_diag *d)
{
    const char *key;
    json_t *val;
    if (!v)
        return SP_OK;
    if (!json_is_object(v) || json_object_size(v) > SP_BIAS_MAX)
        return SP_FAIL(d, SP_INVAL, "logit_bias must be an object of at most %d token ids",
                       SP_BIAS_MAX);
    json_object_foreach((json_t *)(uintptr_t)v, key, val)
    {
        char *end;
        unsigned long long id = strtoull(key, &end, 10);
        double x = json_number_value(val);
        if (key[0] < '0' || key[0] > '9' || *end || id >= n_vocab || !json_is_number(val) ||
            !(x >= -100 && x <= 100))
            return SP_FAIL(d, SP_INVAL,
                           "logit_bias[%.20s]: ids go from 0 to %zu, values from -100 to 100", key,
                           n_vocab - 1);
        out->bias[out->n_bias++] = (sp_bias){(uint32_t)id, (float)x};
    }
    return SP_OK;
}

static sp_err read_logprobs(sp_session_cfg *out, const body *b, bool chat, sp_diag *d)
{
    out->n_logprobs = -1;
    if (!chat) {
        json_int_t n = json_integer_value(b->logprobs);
        if (b->logprobs && (!json_is_integer(b->logprobs) || n < 0 || n > SP_TOP_MAX))
            return SP_FAIL(d, SP_INVAL, "logprobs must be an integer from 0 to %d", SP_TOP_MAX);
        if (b->logprobs)
            out->n_logprobs = (int)n;
        return SP_OK;
    }
    if (b->logprobs && !json_is_boolean(b->logprobs))
        return SP_FAIL(d, SP_INVAL, "logprobs must be true or false");
    if (b->top_logprobs >= 0 && !json_is_true(b->logprobs))
        return SP_FAIL(d, SP_INVAL, "top_logprobs needs logprobs to be true");
    if (json_is_true(b->logprobs))
        out->n_logprobs = b->top_logprobs > 0 ? (int)b->top_logprobs : 0;
    return SP_OK;
}

static sp_lists lists_of(request *r, const sp_known *known)
{
    return (sp_lists){.known = known,
                      .lenient = r->app->lenient,
                      .ignored = &r->ignored,
                      .where = known == sp_known_stream ? "stream_options." : ""};
}

static sp_err read_stream_options(request *r, const body *b, sp_diag *d)
{
    const char *bad;
    const sp_lists lists = lists_of(r, sp_known_stream);
    if (!b->stream_options)
        return SP_OK;
    const sp_param table[] = {{"include_usage", SP_P_BOOL, &r->include_usage, 0, 0}};
    if (!json_is_object(b->stream_options))
        return SP_FAIL(d, SP_INVAL, "stream_options must be an object");
    sp_diag inner = {0};
    sp_err err = sp_known_read(b->stream_options, table, 1, &lists, &bad, &inner);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "stream_options: %.140s", inner.msg);
}

/* What only this server knows: {"sparing": {"epsilon": 0.02, "prefill_keep": 0.15, "dense": ["the
 * task"]}}. */
static sp_err read_own(body *b, bool chat, const char **bad, sp_diag *d)
{
    enum { ANY = 21 }; /* those behind it are for chat only */
    const sp_param table[] = {{"epsilon", SP_P_NUM, &b->epsilon, 0, 0.5},
                              {"prefill_keep", SP_P_NUM, &b->keep, 0, 1},
                              {"dense", SP_P_JSON | SP_P_FIRM, &b->dense, 0, 0},
                              {"regex", SP_P_STR, &b->format.regex, 0, 0},
                              {"choices", SP_P_JSON, &b->format.choices, 0, 0},
                              {"grammar", SP_P_STR, &b->format.grammar, 0, 0},
                              {"priority", SP_P_INT, &b->priority, -3, 3},
                              {"deadline_ms", SP_P_NUM, &b->deadline_ms, 1, 1e9},
                              {"path", SP_P_STR | SP_P_FIRM, &b->path, 0, 0},
                              {"forbid", SP_P_JSON | SP_P_FIRM, &b->forbid, 0, 0},
                              {"private", SP_P_BOOL | SP_P_FIRM, &b->is_private, 0, 0},
                              {"data_class", SP_P_STR | SP_P_FIRM, &b->data_class, 0, 0},
                              {"votes", SP_P_INT, &b->votes, 1, SP_ASK_CHOICES},
                              {"think_tokens", SP_P_INT, &b->think_tok, 0, 1 << 30},
                              {"draft", SP_P_INT, &b->draft, 0, SP_DRAFT_MAX},
                              {"draft_fixed", SP_P_BOOL, &b->draft_fixed, 0, 0},
                              {"drafters", SP_P_JSON, &b->drafters, 0, 0},
                              {"references", SP_P_JSON, &b->references, 0, 0},
                              {"costs", SP_P_BOOL, &b->costs, 0, 0},
                              {"control", SP_P_JSON, &b->control, 0, 0},
                              {"uncertain", SP_P_JSON, &b->uncertain, 0, 0},
                              {"splice", SP_P_BOOL, &b->splice, 0, 0},
                              {"nearest", SP_P_INT, &b->nearest, 0, SP_RAG_NEAR},
                              {"structured", SP_P_BOOL, &b->structured, 0, 0},
                              {"task", SP_P_JSON, &b->part[SP_PART_TASK], 0, 0},
                              {"steps", SP_P_JSON, &b->part[SP_PART_STEPS], 0, 0},
                              {"context", SP_P_JSON, &b->part[SP_PART_CONTEXT], 0, 0},
                              {"output", SP_P_JSON, &b->part[SP_PART_OUTPUT], 0, 0}};
    if (!b->sparing)
        return SP_OK;
    *bad = "sparing";
    if (!json_is_object(b->sparing))
        return SP_FAIL(d, SP_INVAL, "sparing must be an object");
    return sp_params_read(b->sparing, table, chat ? sizeof table / sizeof table[0] : ANY, bad, d);
}

/* Spellings that ask for the same as another one, and values that ask for nothing. */
static sp_err settle(request *r, body *b, const char **bad, sp_diag *d)
{
    const sp_lists lists = lists_of(r, sp_known_completion);
    *bad = "max_tokens";
    b->no_answer = b->max_tok == 0;
    if (b->no_answer && r->chat)
        return SP_FAIL(d, SP_INVAL, "max_tokens is 0; it must be from 1 to %d, or -1 for no limit",
                       1 << 30);
    b->max_tok = b->max_tok < 0 ? 0 : b->max_tok;
    if (b->store && !r->on->env.history && !b->conversation && !b->previous) {
        sp_known_ignore(&lists, "store");
        b->store = false;
    }
    *bad = NULL;
    return SP_OK;
}

static sp_err read_body(request *r, body *b, const json_t *j, const char **bad, sp_diag *d)
{
    const bool chat = r->chat;
    bool parallel = true;
    const sp_lists lists = lists_of(r, sp_known_completion);
    *b = (body){.max_tok = -1,
                .temperature = 1,
                .top_p = 1,
                .repetition = 1,
                .n = 1,
                .seed = -1,
                .top_logprobs = -1,
                .epsilon = -1,
                .think_tok = -1,
                .draft = -1,
                .nearest = -1};
    const sp_param table[] = {
        /* of plain completions only */
        {"echo", SP_P_BOOL, &b->echo, 0, 0},
        {"suffix", SP_P_STR, &b->suffix, 0, 0},
        {"best_of", SP_P_INT, &b->best_of, 1, SP_ASK_CHOICES},
        /* of both */
        {"model", SP_P_STR, &b->model, 0, 0},
        {chat ? "messages" : "prompt", SP_P_JSON, chat ? &b->messages : &b->prompt, 0, 0},
        {"stream", SP_P_BOOL, &b->stream, 0, 0},
        {"stream_options", SP_P_JSON, &b->stream_options, 0, 0},
        {"temperature", SP_P_NUM, &b->temperature, 0, 2},
        {"top_p", SP_P_NUM, &b->top_p, 0, 1},
        {"min_p", SP_P_NUM, &b->min_p, 0, 1},
        {"top_k", SP_P_INT, &b->top_k, -1, 1 << 30},
        {"max_tokens", SP_P_INT, &b->max_tok, -2, 1 << 30}, /* below 0: no limit */
        {"n_predict", SP_P_INT, &b->max_tok, -2, 1 << 30},
        {chat ? "max_completion_tokens" : "max_tokens", SP_P_INT, &b->max_tok, -2, 1 << 30},
        {"n", SP_P_INT, &b->n, 1, SP_ASK_CHOICES},
        {"seed", SP_P_INT, &b->seed, -1, 9.2e18},
        {"stop", SP_P_JSON, &b->stop, 0, 0},
        {"presence_penalty", SP_P_NUM, &b->presence, -2, 2},
        {"frequency_penalty", SP_P_NUM, &b->frequency, -2, 2},
        {"repetition_penalty", SP_P_NUM, &b->repetition, 0.01, 10},
        {"repeat_penalty", SP_P_NUM, &b->repetition, 0.01, 10},
        {"logit_bias", SP_P_JSON, &b->logit_bias, 0, 0},
        {"logprobs", SP_P_JSON, &b->logprobs, 0, 0},
        {chat ? "top_logprobs" : "logprobs", chat ? SP_P_INT : SP_P_JSON,
         chat ? (void *)&b->top_logprobs : &b->logprobs, 0, SP_TOP_MAX},
        {"ignore_eos", SP_P_BOOL, &b->ignore_eos, 0, 0},
        {"min_tokens", SP_P_INT, &b->min_tok, 0, 1 << 30},
        {"stop_token_ids", SP_P_JSON, &b->stop_ids, 0, 0},
        {"include_stop_str_in_output", SP_P_BOOL, &b->keep_stop, 0, 0},
        {"truncate_prompt_tokens", SP_P_INT, &b->last_tok, -1, 1 << 30},
        {"prediction", SP_P_JSON, &b->prediction, 0, 0},
        {"priority", SP_P_INT, &b->urgency, -1e9, 1e9},
        {"cache_salt", SP_P_STR | SP_P_FIRM, &b->salt, 0, 0},
        {"cache_hit_threshold", SP_P_NUM, &b->least_known, 0, 1},
        {"sparing", SP_P_JSON, &b->sparing, 0, 0},
        {"structured_outputs", SP_P_JSON, &b->format.structured, 0, 0},
        {"guided_json", SP_P_JSON, &b->format.guided_json, 0, 0},
        {"guided_regex", SP_P_STR, &b->format.guided_regex, 0, 0},
        {"guided_choice", SP_P_JSON, &b->format.guided_choice, 0, 0},
        {"guided_grammar", SP_P_STR, &b->format.guided_grammar, 0, 0},
        {"json_schema", SP_P_JSON, &b->format.json_schema, 0, 0},
        {"grammar", SP_P_STR, &b->format.gbnf, 0, 0},
        /* of chat only */
        {"response_format", SP_P_JSON, &b->format.response, 0, 0},
        {"conversation", SP_P_STR, &b->conversation, 0, 0},
        {"message_id", SP_P_STR, &b->message, 0, 0},
        {"parent", SP_P_JSON, &b->parent, 0, 0},
        {"previous_response_id", SP_P_STR, &b->previous, 0, 0},
        {"store", SP_P_BOOL, &b->store, 0, 0},
        {"tools", SP_P_JSON, &b->tools, 0, 0},
        {"tool_choice", SP_P_JSON, &b->tool_choice, 0, 0},
        {"parallel_tool_calls", SP_P_BOOL, &parallel, 0, 0},
        {"add_generation_prompt", SP_P_JSON, &b->opens, 0, 0},
        {"continue_final_message", SP_P_BOOL, &b->go_on, 0, 0},
        {"chat_template_kwargs", SP_P_JSON, &b->kwargs, 0, 0},
        {"reasoning_effort", SP_P_STR, &b->effort, 0, 0},
        {"reasoning", SP_P_JSON, &b->reasoning, 0, 0},
        {"think", SP_P_JSON, &b->think, 0, 0}};
    const size_t n = sizeof table / sizeof table[0] - (chat ? PLAIN_ONLY : CHAT_ONLY);
    SP_TRY(sp_known_read(j, table + (chat ? PLAIN_ONLY : 0), n, &lists, bad, d));
    b->one_call = !parallel;
    b->at_root = json_is_null(json_object_get(j, "parent"));
    SP_TRY(settle(r, b, bad, d));
    return read_own(b, chat, bad, d);
}

bool sp_completion_has_parts(const body *b)
{
    return b->part[SP_PART_TASK] || b->part[SP_PART_STEPS] || b->part[SP_PART_OUTPUT] ||
           b->part[SP_PART_CONTEXT];
}

static sp_err read_dense(sp_ask *q, const json_t *v, sp_diag *d)
{
    size_t n = json_array_size(v);
    if (v && (!json_is_array(v) || n > SP_DENSE_MAX))
        return SP_FAIL(d, SP_INVAL, "sparing.dense must be a list of at most %d strings",
                       SP_DENSE_MAX);
    q->dense = sp_arena_alloc(&q->a, (n + 1) * sizeof *q->dense);
    for (size_t i = 0; i < n && q->dense; i++) {
        const json_t *s = json_array_get(v, i);
        if (!json_is_string(s) || json_string_length(s) == 0 ||
            strlen(json_string_value(s)) != json_string_length(s))
            return SP_FAIL(d, SP_INVAL, "sparing.dense[%zu] must be a string that is not empty", i);
        q->dense[i] = sp_arena_strndup(&q->a, json_string_value(s), json_string_length(s));
        if (!q->dense[i])
            return SP_FAIL(d, SP_NOMEM, "request");
    }
    q->n_dense = n;
    return q->dense ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
}

/* --- documents -------------------------------------------------------------------------------- */

/* Of a search: none: no search. auto: passages that bear on the question. required: passages. */
static sp_err read_search_choice(sp_ask *q, bool *want, const json_t *v, sp_diag *d)
{
    const char *s =
        json_is_object(v) ? json_string_value(json_object_get(v, "type")) : json_string_value(v);
    *want = !json_is_string(v) || strcmp(s, "none") != 0;
    if (!v || !*want || (json_is_string(v) && strcmp(s, "auto") == 0))
        return SP_OK;
    q->insist = s && strcmp(s, json_is_object(v) ? "file_search" : "required") == 0;
    return q->insist
               ? SP_OK
               : SP_FAIL(d, SP_INVAL,
                         "tool_choice must be none, auto, required or {\"type\": \"file_search\"}");
}

/* Does the request end with a plain question of the user's? */
static bool is_question(const body *b)
{
    const json_t *last = json_array_get(b->messages, json_array_size(b->messages) - 1);
    const char *role = json_string_value(json_object_get(last, "role"));
    return !sp_completion_has_parts(b) && !b->structured && role && strcmp(role, "user") == 0 &&
           json_string_length(json_object_get(last, "content"));
}

/* The tools: functions go into the ask; *search: the one that searches, or NULL. */
static sp_err read_tool_list(request *r, const json_t *list, const json_t **search, sp_diag *d)
{
    sp_ask *q = r->ask;
    const sp_lists lists = {.known = sp_known_tool,
                            .lenient = r->app->lenient,
                            .ignored = &r->ignored,
                            .where = "tools[]."};
    *search = NULL;
    SP_TRY(sp_api_tool_room(q, list, d));
    for (size_t i = 0; i < json_array_size(list); i++) {
        const json_t *v = json_array_get(list, i);
        const char *type = json_string_value(json_object_get(v, "type"));
        bool searches = type && strcmp(type, "file_search") == 0;
        if (searches && *search)
            return SP_FAIL(d, SP_UNSUP, "tools[%zu]: there is another file_search", i);
        if (!searches && (!type || strcmp(type, "function") != 0))
            return SP_FAIL(d, SP_UNSUP, "tools[%zu]: its type must be function or file_search", i);
        if (searches)
            *search = v;
        else
            SP_TRY(sp_api_tool(q, v, &lists, d));
    }
    return sp_ask_check_tools(q, d);
}

static sp_err read_tools(request *r, const body *b, const char **bad, sp_diag *d)
{
    sp_ask *q = r->ask;
    bool want = true;
    const json_t *search;
    *bad = "tools";
    SP_TRY(read_tool_list(r, b->tools, &search, d));
    *bad = "tool_choice";
    const char *type = json_string_value(json_object_get(b->tool_choice, "type"));
    bool of_search = q->n_tool == 0 || (type && strcmp(type, "file_search") == 0);
    SP_TRY(of_search ? read_search_choice(q, &want, b->tool_choice, d)
                     : sp_api_tool_choice(q, b->tool_choice, d));
    q->one_call = b->one_call;
    *bad = "sparing";
    q->splice = b->splice;
    q->n_near = b->nearest >= 0 ? (size_t)b->nearest : SP_PASSAGES_NEAR;
    if (!search && (b->splice || (b->nearest > 0 && !r->on->env.retrieve)))
        return SP_FAIL(d, SP_INVAL, "sparing.%s is for passages: it needs the file_search tool",
                       b->splice ? "splice" : "nearest");
    *bad = "tools";
    if (!search && q->insist)
        return SP_FAIL(d, SP_INVAL, "tool_choice asks for a tool and tools has none");
    q->look = !search && !q->n_tool && !b->tool_choice && r->on->env.retrieve &&
              (is_question(b) || (b->message && !json_array_size(b->messages)));
    return search && want && q->calls != SP_CALLS_NONE
               ? sp_api_file_search(q, r->on->env.know, search, d)
               : SP_OK;
}

/* --- the path --------------------------------------------------------------------------------- */

static sp_err keep_id(const char **out, sp_ask *q, const char *id, sp_diag *d)
{
    *out = id ? sp_arena_strndup(&q->a, id, strlen(id)) : NULL;
    return id && !*out ? SP_FAIL(d, SP_NOMEM, "request") : SP_OK;
}

static sp_err read_drafters(unsigned *out, const json_t *list, sp_diag *d)
{
    if (list && (!json_is_array(list) || json_array_size(list) == 0))
        return SP_FAIL(d, SP_INVAL, "sparing.drafters must be a list of one or more names");
    for (size_t i = 0; i < json_array_size(list); i++) {
        const char *name = json_string_value(json_array_get(list, i));
        sp_draft_id id;
        if (!name || !sp_draft_find(&id, name))
            return SP_FAIL(
                d, SP_INVAL,
                "sparing.drafters[%zu] is none of lookup, prediction, earlier, model, head, mtp",
                i);
        *out |= 1u << id;
    }
    return SP_OK;
}

/* A class of data is a name; which ones may leave is the placement file's to say. */
static sp_err read_data_class(sp_ask *q, const char *name, sp_diag *d)
{
    size_t n = name ? strlen(name) : 0;
    if (name && (n == 0 || n > SP_ASK_CLASS || strcmp(name, "unlabelled") == 0))
        return SP_FAIL(d, SP_INVAL,
                       "sparing.data_class must be a name of 1 to %d bytes, and not 'unlabelled'",
                       SP_ASK_CLASS);
    return keep_id(&q->data_class, q, name, d);
}

static sp_err read_path(request *r, const body *b, sp_diag *d)
{
    sp_plan_ask *ask = &r->ask->plan;
    if (b->path && sp_want_read(&ask->want, b->path) != SP_OK)
        return SP_FAIL(d, SP_INVAL, "sparing.path: '%.20s' is none of auto, light, full, upstream",
                       b->path);
    if (b->forbid && !json_is_array(b->forbid))
        return SP_FAIL(d, SP_INVAL, "sparing.forbid must be a list of paths");
    for (size_t i = 0; i < json_array_size(b->forbid); i++) {
        const char *name = json_string_value(json_array_get(b->forbid, i));
        sp_want w = SP_WANT_AUTO;
        if (!name || sp_want_read(&w, name) != SP_OK || w == SP_WANT_AUTO)
            return SP_FAIL(d, SP_INVAL, "sparing.forbid[%zu] is none of light, full, upstream", i);
        ask->forbid[w - SP_WANT_LIGHT] = true;
    }
    if (b->votes > 1 && b->n > 1)
        return SP_FAIL(d, SP_INVAL,
                       "sparing.votes draws several answers and gives one: n must be 1");
    if (b->votes > 1 && b->temperature <= 0)
        return SP_FAIL(d, SP_INVAL, "sparing.votes: at temperature 0 all answers are the same");
    SP_TRY(read_drafters(&ask->drafters, b->drafters, d));
    ask->is_private = b->is_private;
    ask->votes = (size_t)b->votes;
    ask->think_tok = b->think_tok;
    ask->draft = b->draft;
    ask->draft_fixed = b->draft_fixed;
    ask->max_tok = (size_t)b->max_tok;
    ask->conversation = b->conversation || b->previous || b->store || b->message;
    SP_TRY(keep_id(&r->ask->conversation, r->ask, b->conversation, d));
    SP_TRY(keep_id(&r->ask->previous, r->ask, b->previous, d));
    ask->bare = b->n == 1 && b->votes <= 1 &&
                json_is_false(b->logprobs ? b->logprobs : json_false()) && !b->logit_bias &&
                !b->ignore_eos && !b->min_tok && !b->stop_ids && !b->last_tok && !r->pattern.len &&
                !b->salt && b->least_known <= 0 && !r->ask->if_available && b->repetition == 1 &&
                b->min_p == 0 && b->top_k <= 0 && !sp_completion_has_parts(b) && !b->structured;
    ask->plain = ask->bare && !ask->conversation && !r->ask->find && !r->ask->n_tool;
    SP_TRY(read_data_class(r->ask, b->data_class, d));
    /* of vLLM's, the least comes first */
    r->ask->priority = (int)(b->priority       ? b->priority
                             : b->urgency < -3 ? 3
                             : b->urgency > 3  ? -3
                                               : -b->urgency);
    r->ask->deadline_ms = b->deadline_ms;
    r->ask->least_known = b->least_known;
    return SP_OK;
}

/* --- lengths, ends and draws ------------------------------------------------------------------ */

static sp_err read_salt(sp_session_cfg *out, const char *salt, sp_diag *d)
{
    if (salt && (!*salt || strlen(salt) >= sizeof out->salt))
        return SP_FAIL(d, SP_INVAL, "cache_salt must be a text of 1 to %zu bytes",
                       sizeof out->salt - 1);
    snprintf(out->salt, sizeof out->salt, "%s", salt ? salt : "");
    return SP_OK;
}

/* What is computed of a prompt, and what ends an answer. */
static sp_err read_ends(request *r, const body *b, const char **bad, sp_diag *d)
{
    sp_ask *q = r->ask;
    sp_session_cfg *session = q->session;
    size_t n_ctx = sp_engine_config(r->on->env.engine)->n_ctx,
           room = b->max_tok ? (size_t)b->max_tok : n_ctx / 2;
    *bad = "stop";
    SP_TRY(read_stop(session, b->stop, d));
    *bad = "stop_token_ids";
    SP_TRY(read_stop_ids(session, b->stop_ids, sp_tok_count(r->on->env.tok), d));
    *bad = "cache_salt";
    SP_TRY(read_salt(session, b->salt, d));
    *bad = "min_tokens";
    if (b->max_tok && b->min_tok > b->max_tok)
        return SP_FAIL(d, SP_INVAL, "min_tokens is %lld and max_tokens %lld", (long long)b->min_tok,
                       (long long)b->max_tok);
    if (b->min_tok && (r->pattern.len || sp_completion_has_parts(b)))
        return SP_FAIL(d, SP_UNSUP, "min_tokens cannot hold where the answer's form is fixed");
    session->min_tok = (size_t)b->min_tok;
    session->keep_stop = b->keep_stop;
    session->ignore_end = b->ignore_eos;
    session->no_answer = b->no_answer;
    /* -1: as many as fit */
    q->last_tok = b->last_tok >= 0 ? (size_t)b->last_tok : room < n_ctx ? n_ctx - room : 1;
    return SP_OK;
}

/* {"type": "content", "content": a text, or a list of text parts}. */
static sp_err read_prediction(sp_ask *q, const json_t *v, sp_diag *d)
{
    const char *type = json_string_value(json_object_get(v, "type"));
    const json_t *content = json_object_get(v, "content"), *part;
    sp_buf text = {0};
    bool fine =
        type && strcmp(type, "content") == 0 && (json_is_string(content) || json_is_array(content));
    size_t i;
    if (!v)
        return SP_OK;
    if (json_is_string(content))
        sp_buf_put(&text, json_string_value(content), json_string_length(content));
    json_array_foreach(content, i, part)
    {
        const json_t *s = json_object_get(part, "text");
        fine = fine && json_is_string(s);
        sp_buf_put(&text, json_string_value(s), json_string_length(s));
    }
    q->prediction = (sp_str){sp_arena_strndup(&q->a, sp_buf_str(&text), text.len), text.len};
    fine = fine && !text.failed;
    sp_buf_fini(&text);
    if (!fine)
        return SP_FAIL(d, SP_INVAL,
                       "prediction must be {\"type\": \"content\", \"content\": a text, or a list "
                       "of text parts}");
    return q->prediction.p ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
}

/* --- how the prompt ends, and how much is thought
 * ---------------------------------------------- */

/* Words for how much a model thinks, and how many tokens that may be; -1: as many as the server
 * lets it. */
static sp_err read_effort(request *r, const body *b, const char *word, sp_diag *d)
{
    static const struct {
        const char *word;
        int64_t tok;
    } of[] = {{"none", 0},  {"minimal", 128}, {"low", 512}, {"medium", 2048},
              {"high", -1}, {"xhigh", -1},    {"max", -1}};
    sp_ask *q = r->ask;
    size_t i = 0, n = sizeof of / sizeof of[0];
    while (i < n && strcmp(of[i].word, word) != 0)
        i++;
    if (i == n)
        return SP_FAIL(d, SP_INVAL,
                       "'%.20s' is no effort: none, minimal, low, medium, high, xhigh or max",
                       word);
    q->think = i == 0 ? SP_THINK_OFF : SP_THINK_ON;
    q->effort = i == 0 ? (sp_str){"", 0} : (sp_str){of[i].word, strlen(of[i].word)};
    q->plan.think_tok = b->think_tok >= 0 ? b->think_tok : of[i].tok;
    return SP_OK;
}

/* {"effort": …, "enabled": …, "max_tokens": …, "exclude": false, "summary": …}, as OpenAI's and
 * OpenRouter's clients send it. */
static sp_err read_reasoning(request *r, const body *b, sp_diag *d)
{
    const char *effort = NULL, *bad;
    bool enabled = true, exclude = false;
    int64_t most = -1;
    const json_t *summary = NULL;
    const sp_param table[] = {{"effort", SP_P_STR, &effort, 0, 0},
                              {"enabled", SP_P_BOOL, &enabled, 0, 0},
                              {"exclude", SP_P_BOOL, &exclude, 0, 0},
                              {"max_tokens", SP_P_INT, &most, 0, 1 << 30},
                              {"summary", SP_P_JSON, &summary, 0, 0}};
    sp_diag inner = {0};
    if (!b->reasoning)
        return SP_OK;
    if (!json_is_object(b->reasoning))
        return SP_FAIL(d, SP_INVAL, "reasoning must be an object");
    if (sp_params_read(b->reasoning, table, sizeof table / sizeof table[0], &bad, &inner) != SP_OK)
        return SP_FAIL(d, inner.code, "reasoning: %.140s", inner.msg);
    if (exclude)
        return SP_FAIL(d, SP_UNSUP,
                       "reasoning.exclude is not supported: what a model thinks is always told");
    if (effort || !enabled)
        SP_TRY(read_effort(r, b, enabled ? effort : "none", d));
    r->ask->plan.think_tok = most >= 0 ? most : r->ask->plan.think_tok;
    return SP_OK;
}

static sp_err read_thinking(request *r, const body *b, const char **bad, sp_diag *d)
{
    const sp_lists lists = lists_of(r, sp_known_completion);
    bool able = r->on->env.think_open != r->on->env.think_close ||
                (r->on->template.n &&
                 memmem(r->on->template.p, r->on->template.n, "reasoning_effort", 16) != NULL);
    *bad = "reasoning_effort";
    if (b->effort)
        SP_TRY(read_effort(r, b, b->effort, d));
    *bad = "reasoning";
    SP_TRY(read_reasoning(r, b, d));
    *bad = "think";
    if (json_is_string(b->think))
        SP_TRY(read_effort(r, b, json_string_value(b->think), d));
    else if (json_is_boolean(b->think))
        SP_TRY(read_effort(r, b, json_is_true(b->think) ? "high" : "none", d));
    else if (b->think)
        return SP_FAIL(d, SP_INVAL, "think must be true, false or an effort");
    if (!able && b->effort)
        sp_known_ignore(&lists, "reasoning_effort");
    if (!able && b->reasoning)
        sp_known_ignore(&lists, "reasoning");
    if (!able && b->think)
        sp_known_ignore(&lists, "think");
    return SP_OK;
}

/* What the chat template is told beside the messages. */
static sp_err read_template(request *r, const body *b, const char **bad, sp_diag *d)
{
    sp_ask *q = r->ask;
    const char *text;
    *bad = "add_generation_prompt";
    if (b->opens && !json_is_boolean(b->opens))
        return SP_FAIL(d, SP_INVAL, "add_generation_prompt must be true or false");
    if (json_is_true(b->opens) && b->go_on)
        return SP_FAIL(d, SP_INVAL,
                       "add_generation_prompt opens a turn and continue_final_message goes on with "
                       "one: not both");
    q->go_on = b->go_on;
    q->no_turn = json_is_false(b->opens) && !b->go_on;
    *bad = "continue_final_message";
    if (b->go_on &&
        (q->find || q->plan.conversation || sp_completion_has_parts(b) || b->structured))
        return SP_FAIL(d, SP_UNSUP,
                       "continue_final_message goes with the messages of the request alone");
    *bad = "chat_template_kwargs";
    if (b->kwargs && !json_is_object(b->kwargs))
        return SP_FAIL(d, SP_INVAL, "chat_template_kwargs must be an object");
    if (b->kwargs && json_object_size(b->kwargs)) {
        SP_TRY(sp_params_keep(&text, &q->a, b->kwargs, d));
        q->kwargs = (sp_str){text, strlen(text)};
    }
    return read_thinking(r, b, bad, d);
}

/* How many answers are drawn, and what stands before them. After the log-probabilities. */
static sp_err read_draws(request *r, const body *b, const char **bad, sp_diag *d)
{
    sp_ask *q = r->ask;
    q->n = (size_t)b->n;
    r->echo = b->echo;
    q->session->prompt_logprobs = b->echo && r->logprobs;
    *bad = "prediction";
    SP_TRY(read_prediction(q, b->prediction, d));
    *bad = "suffix";
    uint32_t mark[3];
    bool gap = b->suffix && *b->suffix;
    if (gap && !sp_tok_fim(r->on->env.tok, mark))
        return SP_FAIL(d, SP_UNSUP,
                       "suffix is not supported: this model has no marks for filling in");
    if (gap && b->echo)
        return SP_FAIL(
            d, SP_INVAL,
            "suffix and echo exclude each other: the prompt does not end where the answer begins");
    *bad = "best_of";
    if (b->best_of && b->best_of < b->n)
        return SP_FAIL(d, SP_INVAL, "best_of is %lld, less than n = %lld", (long long)b->best_of,
                       (long long)b->n);
    if (b->best_of > b->n && (b->stream || b->votes > 1))
        return SP_FAIL(d, SP_INVAL,
                       "best_of: which answers are the best is known when all are there; neither a "
                       "stream nor votes go with it");
    if (b->best_of > b->n) {
        q->n_drawn = (size_t)b->best_of;
        q->session->n_logprobs = r->logprobs ? q->session->n_logprobs : 0;
    }
    return SP_OK;
}

/* --- what leaves ------------------------------------------------------------------------------ */

/* A whole answer that becomes unsure is given up for a better one: true, or the log-probability
 * below which it is. */
static sp_err read_uncertain(request *r, const body *b, sp_diag *d)
{
    sp_plan_ask *ask = &r->ask->plan;
    const json_t *v = b->uncertain;
    const sp_lists lists = lists_of(r, sp_known_completion);
    double below = json_number_value(v);
    if (!v || json_is_false(v))
        return SP_OK;
    if (json_is_object(v))
        return sp_completion_deep(r, b, d);
    if (!json_is_true(v) && !(json_is_number(v) && below < 0 && below >= -100))
        return SP_FAIL(
            d, SP_INVAL,
            "sparing.uncertain must be true, false, a mean log-probability from -100 to below 0, "
            "or an object");
    if (b->stream || b->n > 1 || b->votes > 1)
        return SP_FAIL(d, SP_INVAL,
                       "sparing.uncertain gives an answer up of which nothing has left: neither a "
                       "stream nor several answers go with it");
    ask->uncertain = true;
    ask->unsure_below = json_is_true(v) ? 0 : below;
    if (!ask->plain || !r->chat)
        sp_known_ignore(&lists, "sparing.uncertain");
    return SP_OK;
}

/* After the log-probabilities and the draws. */
static sp_err read_leaving(request *r, const body *b, sp_diag *d)
{
    sp_ask *q = r->ask;
    const json_t *v = b->references;
    const char *word = json_string_value(v);
    q->costs = b->costs;
    SP_TRY(sp_completion_control(r, b, d));
    SP_TRY(read_uncertain(r, b, d));
    if (!v || json_is_false(v))
        return SP_OK;
    if (!json_is_true(v) && !(word && strcmp(word, "readable") == 0))
        return SP_FAIL(d, SP_INVAL, "sparing.references must be true, false or \"readable\"");
    if (r->logprobs || b->best_of > b->n || r->echo)
        return SP_FAIL(d, SP_INVAL, "sparing.references: %s",
                       r->echo ? "the answer repeats the prompt only once, without echo"
                               : "with log-probabilities or best_of every token is told");
    q->refer = word ? SP_REFER_READABLE : SP_REFER_MARKS;
    return SP_OK;
}

/* --- all of it -------------------------------------------------------------------------------- */

sp_err sp_completion_read(request *r, body *b, const json_t *j, const char **bad, sp_diag *d)
{
    sp_ask *q = r->ask;
    sp_session_cfg *session = q->session;
    sp_sample_cfg *s = &session->sample;
    SP_TRY(read_body(r, b, j, bad, d));
    s->temperature = (float)b->temperature;
    s->top_p = sp_api_top_p(b->top_p);
    s->min_p = (float)b->min_p;
    s->top_k = b->top_k > 0 ? (size_t)b->top_k : 0;
    s->presence_penalty = (float)b->presence;
    s->frequency_penalty = (float)b->frequency;
    s->repetition_penalty = (float)b->repetition;
    q->epsilon = b->epsilon;
    q->keep = b->keep;
    q->stream = b->stream;
    q->seed = b->seed;
    *bad = "sparing";
    SP_TRY(read_dense(q, b->dense, d));
    SP_TRY(sp_completion_format(r, b, bad, d));
    SP_TRY(read_tools(r, b, bad, d));
    *bad = "sparing";
    SP_TRY(read_path(r, b, d));
    SP_TRY(read_ends(r, b, bad, d));
    *bad = "logit_bias";
    SP_TRY(read_bias(s, b->logit_bias, sp_tok_count(r->on->env.tok), d));
    *bad = "logprobs";
    SP_TRY(read_logprobs(session, b, r->chat, d));
    r->logprobs = session->n_logprobs >= 0;
    SP_TRY(read_draws(r, b, bad, d));
    *bad = "sparing";
    SP_TRY(read_leaving(r, b, d));
    if (r->chat)
        SP_TRY(read_template(r, b, bad, d));
    *bad = "stream_options";
    return read_stream_options(r, b, d);
}
