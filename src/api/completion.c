/* Completions. A request is up to MAX_CHOICE jobs (prompts x n); their events become either one
 * JSON body at the end or a stream of chunks. Owner of a request's state: its HTTP task. */
#include "api/completion_int.h"

#include "api/conversation.h"
#include "base/clock.h"
#include "base/rng.h"
#include "base/utf8.h"
#include "pipe/passages.h"

#include <stdio.h>
#include <string.h>

enum { FRAME_TOK = 16, PASSAGE_SHARE = 3, MAX_QUERY = 4096, EARLIER = 3 /* questions */, MAX_EARLIER = 400 /* bytes of one */, COUNT_UP_TO = 2 /* contexts */ };

static bool is_user(const sp_chat_msg *m)
{
    return m->role.n == 4 && memcmp(m->role.p, "user", 4) == 0;
}

/* Parts of the prompt take the place of the last message, or come after the others. */
static sp_err read_parts(request *r, const body *b, sp_chat_msg *msg, size_t *n, sp_diag *d)
{
    bool as_json = sp_completion_has_parts(b);
    if (as_json && b->structured)
        return SP_FAIL(d, SP_INVAL, "sparing.structured is for parts written as tags; task, steps, context and output are there too");
    if (as_json) {
        SP_TRY(sp_structured_json(&r->parts, &r->arena, b->part, d));
        *n += 1;
    } else if (b->structured) {
        if (*n == 0 || !is_user(&msg[*n - 1]))
            return SP_FAIL(d, SP_INVAL, "sparing.structured: the last message must be the user's");
        SP_TRY(sp_structured_text(&r->parts, msg[*n - 1].content.p, msg[*n - 1].content.n, d));
    } else {
        return SP_OK;
    }
    msg[*n - 1] = sp_chat_say("user", r->parts.message.p, r->parts.message.len);
    if (r->parts.parts.part[SP_PART_OUTPUT].budget && !r->max_tok)
        r->max_tok = (int64_t)r->parts.parts.part[SP_PART_OUTPUT].budget;
    if (r->parts.pattern.len && r->pattern.len)
        return SP_FAIL(d, SP_INVAL, "output says what the answer may be, and so does another parameter");
    if (r->parts.pattern.len)
        sp_buf_put(&r->pattern, r->parts.pattern.p, r->parts.pattern.len);
    return sp_completion_check_pattern(r, d);
}

/* Tokens of a prompt after which tokenising stops: it does not fit, and up to here the error can say by how much. */
static size_t cap_tok(const sp_app *app)
{
    return COUNT_UP_TO * sp_engine_config(app->engine)->n_ctx;
}

/* One prompt of /v1/completions: a string or a list of token ids. */
static sp_err build_text(sp_context *out, const sp_app *app, const json_t *v, sp_diag *d)
{
    if (json_is_string(v))
        return sp_prompt_text(out, app->tok, json_string_value(v), json_string_length(v), cap_tok(app), d);
    size_t n = json_array_size(v);
    uint32_t *id = sp_mem_array(n ? n : 1, sizeof *id);
    sp_err err = id ? SP_OK : SP_FAIL(d, SP_NOMEM, "prompt");
    for (size_t i = 0; i < n && err == SP_OK; i++) {
        json_int_t x = json_integer_value(json_array_get(v, i));
        if (!json_is_integer(json_array_get(v, i)) || x < 0 || x > UINT32_MAX)
            err = SP_FAIL(d, SP_INVAL, "prompt must be a string, a list of strings, or lists of token ids");
        else
            id[i] = (uint32_t)x;
    }
    if (err == SP_OK)
        err = sp_prompt_ids(out, app->tok, id, n, d);
    sp_mem_free(id);
    return err;
}

/* --- submitting ------------------------------------------------------------------------------- */

static void make_id(request *r)
{
    uint64_t v[2] = {sp_rng_entropy(), sp_rng_entropy()};
    snprintf(r->id, sizeof r->id, "%s-%016llx%04x", r->chat ? "chatcmpl" : "cmpl", (unsigned long long)v[0], (unsigned)(v[1] & 0xffff));
}

/* Parts of the prompt that attention never leaves out, by their text. */
static sp_err find_dense(sp_session_cfg *out, const request *r, const sp_context *ctx, sp_diag *d)
{
    for (size_t i = 0; i < r->n_dense; i++) {
        size_t first, end;
        sp_err err = sp_prompt_find(&first, &end, ctx, r->app->tok, 0, r->dense[i], strlen(r->dense[i]));
        if (err != SP_OK)
            return SP_FAIL(d, err == SP_NOTFOUND ? SP_INVAL : err, "sparing.dense[%zu]: the prompt does not hold '%.40s'", i, r->dense[i]);
        out->dense[out->n_dense++] = (sp_dev_range){(uint32_t)first, (uint32_t)end};
    }
    return SP_OK;
}

/* What parts ask for beside their text: parts that are never left out, the strictest epsilon of the others, and from where pages are
 * not for others. */
static sp_err apply_parts(sp_session_cfg *out, request *r, const sp_context *ctx, sp_diag *d)
{
    double least = 1;
    if (!r->parts.message.len)
        return SP_OK;
    SP_TRY(sp_parts_find(&r->parts.parts, ctx, r->app->tok, d));
    for (size_t i = 0; i < SP_PARTS; i++) {
        const sp_part *p = &r->parts.parts.part[i];
        if (p->is_private && p->end && (!out->private_from || p->first < out->private_from))
            out->private_from = p->first ? p->first : 1;
        if (p->epsilon > 0 && p->epsilon < least)
            least = p->epsilon;
        if (p->epsilon == 0 && p->end) {
            if (out->n_dense == SP_DENSE_MAX)
                return SP_FAIL(d, SP_INVAL, "more than %d parts of the prompt are never to be left out", SP_DENSE_MAX);
            out->dense[out->n_dense++] = (sp_dev_range){(uint32_t)p->first, (uint32_t)p->end};
        }
    }
    if (least < 1) {
        out->eps = (float)least;
        out->eps_prompt = true;
        out->eps_from = 0;
    }
    return SP_OK;
}

/* The answers to one prompt. The later ones fork from the first. */
static sp_err submit(request *r, const sp_context *ctx, const sp_session_cfg *session, int64_t n, sp_diag *d)
{
    sp_job_cfg cfg = {.session = *session, .plan = r->plan, .tok = ctx->prompt.id, .n_tok = ctx->prompt.n, .tenant = r->tenant, .priority = r->priority,
                      .deadline_ms = r->deadline_ms, .ms_retrieval = ctx->ms, .ms_intent = r->plan.ms, .notify = sp_work_wake, .arg = r->work};
    SP_TRY(find_dense(&cfg.session, r, ctx, d));
    SP_TRY(apply_parts(&cfg.session, r, ctx, d));
    cfg.plan.epsilon = (double)cfg.session.eps;
    cfg.plan.prefill_keep = (double)session->keep;
    cfg.session.max_tok = cfg.plan.max_tok;
    cfg.session.watch_tok = cfg.plan.watch_tok;
    cfg.session.watch_least = cfg.plan.watch_least;
    cfg.session.think_open = r->app->think_open;
    cfg.session.think_close = r->app->think_close;
    cfg.session.think_tok = cfg.plan.think_tok;
    cfg.session.pattern = r->pattern.len ? sp_buf_str(&r->pattern) : NULL;
    cfg.session.splice = ctx->splice;
    cfg.session.n_splice = ctx->n_splice;
    r->n_prompt_tok += ctx->prompt.n;
    uint64_t seed = r->seed >= 0 ? (uint64_t)r->seed : sp_rng_entropy();
    n = r->plan.votes > 1 ? (int64_t)r->plan.votes : n;
    for (int64_t i = 0; i < n; i++) {
        cfg.session.sample.seed = seed + (uint64_t)i;
        SP_TRY(sp_job_submit(&r->choice[r->n_choice].job, r->app->engine, &cfg, d));
        if (i == 0)
            cfg.fork_of = r->choice[r->n_choice].job;
        r->n_choice++;
    }
    return SP_OK;
}

static sp_err submit_chat(request *r, sp_diag *d)
{
    sp_context ctx;
    SP_TRY(sp_prompt_chat(&ctx, r->app->tok, r->app->chat, r->msg, r->n_msg, cap_tok(r->app), d));
    sp_err err = submit(r, &ctx, r->session, r->n, d);
    sp_context_fini(&ctx);
    return err;
}

static sp_err submit_texts(request *r, const body *b, const sp_session_cfg *session, sp_diag *d)
{
    const json_t *v = b->prompt;
    bool many = json_is_array(v) && !json_is_integer(json_array_get(v, 0));
    size_t n = many ? json_array_size(v) : 1;
    if (!v)
        return SP_FAIL(d, SP_INVAL, "prompt is missing");
    if (n == 0 || n * (size_t)b->n > MAX_CHOICE || (n > 1 && b->votes > 1))
        return SP_FAIL(d, SP_INVAL, "%zu prompts with n = %lld: 1 to %d answers a request are supported, and votes only for one prompt", n, (long long)b->n, MAX_CHOICE);
    for (size_t i = 0; i < n; i++) {
        sp_context ctx;
        const json_t *one = many ? json_array_get(v, i) : v;
        if (!json_is_string(one) && !json_is_array(one))
            return SP_FAIL(d, SP_INVAL, "prompt must be a string, a list of strings, or lists of token ids");
        SP_TRY(build_text(&ctx, r->app, one, d));
        sp_err err = submit(r, &ctx, session, b->n, d);
        sp_context_fini(&ctx);
        SP_TRY(err);
    }
    return SP_OK;
}

/* --- the path --------------------------------------------------------------------------------- */

static sp_plan_cfg plan_cfg(const request *r)
{
    sp_plan_cfg cfg = r->app->plan;
    cfg.upstream_rests = r->app->upstream && sp_upstream_is_open(r->app->upstream);
    cfg.has_upstream = r->app->upstream && !cfg.upstream_rests;
    cfg.has_passages = r->find != NULL || (r->find_auto && r->app->retrieve);
    return cfg;
}

/* Judged by the last message of the user's. */
static sp_err make_plan(request *r, sp_diag *d)
{
    uint64_t t = sp_clock_ns();
    const sp_plan_cfg cfg = plan_cfg(r);
    const sp_chat_msg *last = NULL;
    sp_intent in;
    for (size_t i = 0; i < r->n_msg; i++)
        last = is_user(&r->msg[i]) ? &r->msg[i] : last;
    r->ask.max_tok = (size_t)r->max_tok;
    if (last)
        sp_intent_judge(r->app->intent, &in, last->content.p, last->content.n);
    SP_TRY(sp_plan_make(&r->plan, &cfg, &r->ask, last ? &in : NULL, d));
    r->plan.ms = sp_clock_ms(t);
    return SP_OK;
}

/* The request's own messages go to the other server; what this server keeps, passages and old turns, does not. */
static sp_err start_away(request *r, sp_diag *d)
{
    sp_buf m = {0};
    char trace[56];
    for (size_t i = 0; i < r->n_msg; i++) {
        sp_buf_printf(&m, "%s{\"role\":\"%.*s\",\"content\":", i ? "," : "[", (int)r->msg[i].role.n, r->msg[i].role.p);
        sp_buf_json_str(&m, r->msg[i].content.p, r->msg[i].content.n);
        sp_buf_putc(&m, '}');
    }
    sp_buf_putc(&m, ']');
    r->away.messages = sp_buf_str(&m);
    r->away.max_tok = r->plan.max_tok;
    sp_trace_header(trace, &r->trace);
    r->away.traceparent = trace;
    r->away.notify = sp_work_wake;
    r->away.arg = r->work;
    sp_err err = m.failed ? SP_FAIL(d, SP_NOMEM, "request") : sp_call_start(&r->choice[0].call, r->app->upstream, &r->away, d);
    r->n_choice = err == SP_OK ? 1 : 0;
    sp_buf_fini(&m);
    return err;
}

static sp_err start_search(request *r, sp_diag *d);

/* Goes on with the plan as it is now. */
static sp_err start_plan(request *r, sp_diag *d)
{
    if (r->plan.path == SP_PATH_UPSTREAM) {
        sp_diag away = {0};
        sp_err err = start_away(r, &away);
        if (err == SP_OK || r->ask.forbid[SP_PATH_FULL]) {
            if (err != SP_OK)
                *d = away;
            return err;
        }
        r->plan.path = SP_PATH_FULL;
        r->plan.why = "the other server takes no request just now";
        r->plan.retrieve = r->find_auto;
    }
    if (r->plan.retrieve && !r->find)
        SP_TRY(sp_completion_look(r, d));
    if (r->find) {
        r->pending = true;
        return start_search(r, d);
    }
    return submit_chat(r, d);
}

/* Back to what was asked: passages that were put before the question go out again, so that they neither leave nor stand there twice. */
static void forget_search(request *r)
{
    if (!r->find)
        return;
    if (r->question.p)
        r->msg[r->n_msg - 1].content = r->question;
    sp_op_put(&r->find->op);
    r->find = NULL;
    r->question = (sp_str){0};
    r->n_passage = r->n_fact = r->n_left = r->receipt.chunks = r->receipt.left_out = 0;
}

/* The light answer was not sure, or the other server failed before it said anything: once more, on another path. */
static sp_err replace_answer(request *r, sp_diag *d)
{
    choice *c = &r->choice[0];
    sp_plan next = r->plan;
    const sp_plan_cfg cfg = plan_cfg(r);
    r->unsure = false;
    sp_job_put(c->job);
    sp_call_put(c->call);
    c->job = NULL;
    c->call = NULL;
    sp_buf_drop(&c->text, c->text.len);
    json_decref(c->calls);
    c->calls = NULL;
    r->n_choice = r->n_ended = 0;
    r->n_prompt_tok = 0;
    forget_search(r);
    if (r->plan.path == SP_PATH_UPSTREAM) {
        next.path = SP_PATH_FULL;
        next.why = "the other server failed";
        next.retrieve = r->find_auto;
    } else if (sp_plan_escalate(&next, &cfg, &r->ask, &r->plan)) {
        r->escalated = true;
    } else {
        next.why = "not sure, and there is nothing better just now";
    }
    next.watch_tok = 0;
    r->plan = next;
    return start_plan(r, d);
}

static size_t room_for_answer(const request *r, const body *b)
{
    size_t n_ctx = sp_engine_config(r->app->engine)->n_ctx;
    return b->max_tok && (size_t)b->max_tok < n_ctx / 2 ? (size_t)b->max_tok : n_ctx / 4;
}

/* Tokens that passages may take. */
static size_t room_for_passages(const request *r)
{
    return sp_engine_config(r->app->engine)->n_ctx / PASSAGE_SHARE;
}

/* --- documents -------------------------------------------------------------------------------- */

static size_t cut(const sp_str *s, size_t most)
{
    return s->n <= most ? s->n : most - sp_utf8_tail(s->p, most);
}

/* The last questions before the last message, then it: what "and how often?" is about stands there. NULL: there are none. */
static sp_err widen(const char **out, sp_arena *a, const sp_chat_msg *msg, size_t n_msg, const char *query)
{
    sp_buf text = {0};
    size_t from = n_msg - 1, n = 0;
    for (size_t i = n_msg - 1; i-- > 0 && n < EARLIER;)
        if (is_user(&msg[i]) && msg[i].content.n) {
            from = i;
            n++;
        }
    for (size_t i = from; i + 1 < n_msg; i++)
        if (is_user(&msg[i]) && msg[i].content.n) {
            sp_buf_put(&text, msg[i].content.p, cut(&msg[i].content, MAX_EARLIER));
            sp_buf_putc(&text, '\n');
        }
    sp_buf_puts(&text, query);
    *out = n && !text.failed ? sp_arena_strndup(a, text.p, text.len) : NULL;
    sp_buf_fini(&text);
    return n && !*out ? SP_NOMEM : SP_OK;
}

/* The last message of the request is the question; the conversation is what was asked before. */
static sp_err start_search(request *r, sp_diag *d)
{
    sp_know_op *op = r->find;
    const sp_chat_msg *last = r->prepare ? &r->new_msg[r->n_new - 1] : &r->msg[r->n_msg - 1]; /* as it came: recall adds to the prompt's copy */
    if (!is_user(last) || last->content.n == 0)
        return SP_FAIL(d, SP_INVAL, "messages: with file_search the last one must be the user's question");
    op->query = sp_arena_strndup(&op->op.a, last->content.p, cut(&last->content, MAX_QUERY));
    if (!op->query || widen(&op->wide, &op->op.a, r->msg, r->n_msg, op->query) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "request");
    return sp_op_submit(&op->op, sp_work_wake, r->work, d);
}

/* What was found goes before the question. */
static sp_err add_passages(request *r, sp_chat_msg *msg, size_t n_msg, sp_diag *d)
{
    sp_know_op *op = r->find;
    sp_chat_msg *last = &msg[n_msg - 1];
    sp_buf text = {0};
    bool bear = r->insist || sp_passages_bear(op->hit, op->n);
    if (!bear && op->n_fact == 0)
        return SP_OK;
    if (bear) {
        r->n_passage = sp_passages_pick(op->hit, op->n, r->n_near, r->app->tok, room_for_passages(r));
        r->n_left = op->n - r->n_passage;
    }
    r->n_fact = op->n_fact;
    if (r->n_passage + r->n_fact == 0)
        return SP_OK;
    sp_passages_put(&text, op->hit, r->n_passage, r->n_near, op->fact, r->n_fact, last->content.p, last->content.n);
    char *all = text.failed ? NULL : sp_arena_strndup(&op->op.a, text.p, text.len);
    r->question = last->content;
    last->content = (sp_str){all, text.len};
    sp_buf_fini(&text);
    return all ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
}

/* --- what comes before the prompt ------------------------------------------------------------- */

/* Asks for the conversation; its messages come before those of the request. */
static sp_err start_turn(request *r, const body *b, const char **bad, sp_diag *d)
{
    size_t n_ctx = sp_engine_config(r->app->engine)->n_ctx;
    size_t taken = room_for_answer(r, b) + FRAME_TOK + (r->find ? room_for_passages(r) : 0);
    *bad = b->conversation ? "conversation" : b->previous ? "previous_response_id" : "store";
    if (!r->app->history)
        return SP_FAIL(d, SP_UNSUP, "this server keeps no conversations; it was started without --history");
    if (b->conversation && b->previous)
        return SP_FAIL(d, SP_INVAL, "conversation and previous_response_id exclude each other");
    if (strlen(b->conversation ? b->conversation : b->previous ? b->previous : "") >= SP_ID_BYTES)
        return SP_FAIL(d, SP_INVAL, "%s is too long for an id", *bad);
    if (b->n != 1)
        return SP_FAIL(d, SP_INVAL, "n must be 1 in a conversation");
    r->prepare = sp_history_op_new(r->app->history, SP_HISTORY_PREPARE, r->tenant);
    if (!r->prepare)
        return SP_FAIL(d, SP_NOMEM, "request");
    sp_history_op *op = r->prepare;
    snprintf(op->conv, sizeof op->conv, "%s", b->conversation ? b->conversation : "");
    snprintf(op->previous, sizeof op->previous, "%s", b->previous ? b->previous : "");
    op->budget = n_ctx > taken ? n_ctx - taken : 1;
    *bad = "messages";
    SP_TRY(sp_api_messages(&op->msg, &op->n_msg, &op->op.a, b->messages, r->app, &r->ignored, "messages", d));
    r->n_new = op->n_msg;
    r->new_msg = sp_arena_alloc(&op->op.a, (op->n_msg + 1) * sizeof *op->msg);
    if (!r->new_msg)
        return SP_FAIL(d, SP_NOMEM, "request");
    memcpy(r->new_msg, op->msg, op->n_msg * sizeof *op->msg); /* as they came: recall adds to the prompt's copy */
    return sp_op_submit(&op->op, sp_work_wake, r->work, d);
}

/* A conversation, documents, or both must be asked first. */
static sp_err start_later(request *r, const body *b, const char **bad, sp_diag *d)
{
    *bad = "sparing";
    if (b->structured || sp_completion_has_parts(b))
        return SP_FAIL(d, SP_UNSUP, "a structured prompt cannot be part of a conversation or of a search in documents");
    r->pending = true;
    if (r->ask.conversation)
        return start_turn(r, b, bad, d); /* the search waits for what was asked before */
    *bad = "messages";
    return start_search(r, d);
}

/* They have answered: from messages to running jobs. */
static sp_err continue_request(request *r, sp_diag *d)
{
    sp_context ctx;
    sp_history_op *talk = r->prepare;
    sp_know_op *find = r->find;
    bool searched = find && find->query;
    const sp_diag *bad = talk && talk->op.diag.code ? &talk->op.diag : find ? &find->op.diag : &talk->op.diag;
    if (bad->code) {
        *d = *bad;
        return d->code;
    }
    if (talk) {
        r->msg = talk->msg;
        r->n_msg = talk->n_msg;
        snprintf(r->session->conv, sizeof r->session->conv, "%s", talk->conv);
    }
    if (find && !searched) {
        r->pending = true;
        return start_search(r, d);
    }
    if (find)
        SP_TRY(add_passages(r, r->msg, r->n_msg, d));
    SP_TRY(sp_prompt_chat(&ctx, r->app->tok, r->app->chat, r->msg, r->n_msg, cap_tok(r->app), d));
    size_t room = sp_engine_room(r->app->engine, ctx.prompt.n);
    sp_err err = r->splice && r->n_passage ? sp_passages_splice(&ctx, find->hit, r->n_passage, r->app->tok, r->app->chat, room, d) : SP_OK;
    ctx.ms += talk ? talk->op.ms : 0;
    ctx.ms += find ? find->op.ms : 0;
    if (err == SP_OK)
        err = submit(r, &ctx, r->session, r->n, d);
    sp_context_fini(&ctx);
    r->receipt.chunks = (talk ? talk->n_item : 0) + r->n_passage;
    r->receipt.left_out = r->n_left;
    return err;
}

/* The answer is whole: it and the new messages are kept before the client hears of the end. */
static sp_err save_turn(request *r, sp_diag *d)
{
    choice *c = &r->choice[0];
    r->save = sp_history_op_new(r->app->history, SP_HISTORY_SAVE, r->tenant);
    if (!r->save)
        return SP_FAIL(d, SP_NOMEM, "request");
    sp_history_op *op = r->save;
    snprintf(op->conv, sizeof op->conv, "%s", r->prepare->conv);
    snprintf(op->response, sizeof op->response, "%s", r->id);
    op->n_msg = r->n_new + 1;
    op->msg = sp_arena_alloc(&op->op.a, op->n_msg * sizeof *op->msg);
    if (!op->msg)
        return SP_FAIL(d, SP_NOMEM, "request");
    memcpy(op->msg, r->new_msg, r->n_new * sizeof *op->msg); /* prepare lives as long as the request */
    op->msg[r->n_new] = sp_chat_say("assistant", sp_buf_str(&c->text), c->text.len);
    for (size_t i = 0; i < op->n_msg; i++) { /* but not as long as this operation, if the client leaves */
        char *copy = sp_arena_strndup(&op->op.a, op->msg[i].content.p, op->msg[i].content.n);
        if (!copy)
            return SP_FAIL(d, SP_NOMEM, "request");
        op->msg[i].content.p = copy;
    }
    return sp_op_submit(&op->op, sp_work_wake, r->work, d);
}

static void replace_on_worker(void *arg)
{
    request *r = arg;
    (void)replace_answer(r, &r->error);
}

static void continue_on_worker(void *arg)
{
    request *r = arg;
    (void)continue_request(r, &r->error);
}

/* Prompts are rendered and tokenised on a worker. After SP_AGAIN the request is the worker's. */
static sp_err hand_over(request *r, void (*fn)(void *arg))
{
    return sp_work_again(r->work, fn, r, &r->error) == SP_OK ? SP_AGAIN : SP_OK;
}

/* What comes before the prompt, and a second answer if the first was given up. SP_AGAIN: wait for a wake, and leave the request alone.
 * Errors go to r->error. */
static sp_err advance(request *r)
{
    if (r->unsure && r->error.code == SP_OK)
        return hand_over(r, replace_on_worker);
    if (!r->pending || r->error.code)
        return SP_OK;
    bool searches = r->find && r->find->query;
    if ((r->prepare && !sp_op_is_done(&r->prepare->op)) || (searches && !sp_op_is_done(&r->find->op)))
        return SP_AGAIN;
    r->pending = false;
    return hand_over(r, continue_on_worker);
}

static bool is_saved(request *r)
{
    if (!r->prepare || r->error.code)
        return true;
    if (!r->save && save_turn(r, &r->error) != SP_OK)
        return true;
    if (!sp_op_is_done(&r->save->op))
        return false;
    r->error = r->save->op.diag;
    return true;
}

/* From a body to a plan. */
static sp_err read_chat(request *r, const body *b, const char **bad, sp_diag *d)
{
    *bad = "messages";
    if (b->messages)
        SP_TRY(sp_api_messages(&r->msg, &r->n_msg, &r->arena, b->messages, r->app, &r->ignored, "messages", d));
    else
        r->msg = sp_arena_alloc(&r->arena, sizeof *r->msg);
    if (!r->msg)
        return SP_FAIL(d, SP_NOMEM, "request");
    if (!r->find && !r->ask.conversation)
        SP_TRY(read_parts(r, b, r->msg, &r->n_msg, d));
    if (r->n_msg == 0)
        return SP_FAIL(d, SP_INVAL, "messages is missing");
    *bad = "sparing";
    SP_TRY(make_plan(r, d));
    *bad = "messages";
    if (r->find_auto && (!r->plan.retrieve || r->plan.path == SP_PATH_UPSTREAM)) {
        sp_op_put(&r->find->op);
        r->find = NULL;
    }
    r->plan.retrieve = r->find != NULL;
    return SP_OK;
}

static sp_err start_request(request *r, const json_t *j, bool dry, const char **bad, sp_diag *d)
{
    body b;
    sp_session_cfg *session = r->session = sp_mem_alloc(sizeof *session);
    if (!session)
        return SP_FAIL(d, SP_NOMEM, "request");
    SP_TRY(sp_completion_read(r, &b, session, j, bad, d));
    r->n = b.n;
    if (!r->chat) {
        *bad = "prompt";
        size_t cap = sp_engine_config(r->app->engine)->n_ctx;
        r->plan = (sp_plan){.path = SP_PATH_FULL, .max_tok = r->max_tok ? (size_t)r->max_tok : cap, .votes = b.votes > 1 ? (size_t)b.votes : 1,
                            .think_tok = b.think_tok >= 0 ? (size_t)b.think_tok : cap,
                            .draft = b.draft >= 0 ? (size_t)b.draft : r->app->plan.draft, .why = "a raw prompt"};
        return submit_texts(r, &b, session, d);
    }
    SP_TRY(read_chat(r, &b, bad, d));
    if (dry)
        return SP_OK;
    return r->ask.conversation || r->find ? start_later(r, &b, bad, d) : start_plan(r, d);
}

static sp_err task_start(void *arg, sp_http_reply *reply)
{
    request *r = arg;
    if (advance(r) == SP_AGAIN)
        return SP_AGAIN;
    if (r->stream && r->error.code && (r->prepare || r->find)) { /* nothing was sent yet: an ordinary error */
        (void)sp_api_reply_retry(reply, r->app, &r->error);
        return SP_OK;
    }
    if (r->stream) {
        reply->status = 200;
        reply->type = "text/event-stream; charset=utf-8";
        reply->stream = true;
        sp_http_reply_header(reply, "Cache-Control", "no-cache");
        sp_http_reply_header(reply, "X-Accel-Buffering", "no");
        return SP_OK;
    }
    do {
        sp_completion_drain(r, NULL);
        if (advance(r) == SP_AGAIN)
            return SP_AGAIN;
    } while (r->unsure);
    if (r->error.code == SP_OK && r->n_ended < r->n_choice)
        return SP_AGAIN;
    sp_completion_vote(r, NULL);
    if (!is_saved(r))
        return SP_AGAIN;
    if (sp_api_reply_retry(reply, r->app, &r->error))
        sp_completion_put(&reply->body, r);
    return SP_OK;
}

static void task_pull(void *arg, sp_buf *out, bool ping, bool *done)
{
    request *r = arg;
    sp_completion_drain(r, out);
    if (advance(r) == SP_AGAIN) {
        if (ping && !out->len)
            sp_buf_puts(out, ": ping\n\n");
        return;
    }
    bool waits = r->n_ended < r->n_choice || r->unsure;
    if (!waits && r->error.code == SP_OK)
        sp_completion_vote(r, out);
    bool ended = r->error.code == SP_OK && !waits && is_saved(r);
    if (r->error.code) {
        sp_buf_puts(out, "data: ");
        sp_api_error(out, sp_api_status(r->error.code), r->error.msg, NULL, NULL);
        sp_buf_puts(out, "\n\n"); /* and no [DONE]: the answer is not whole */
        *done = true;
    } else if (ended) {
        sp_completion_end(out, r);
        *done = true;
    } else if (ping && !out->len) {
        sp_buf_puts(out, ": ping\n\n");
    }
}

/* What the list of requests and the metrics over receipts need. */
static void note(request *r)
{
    sp_entry e = {.created = r->created, .ms = ((double)sp_clock_ns() - r->t_begin) * 1e-6, .ms_first = r->ms_first, .n_prompt = r->n_prompt_tok, .receipt = r->receipt};
    bool left = r->error.code == SP_OK && (r->n_ended < r->n_choice || r->pending);
    snprintf(e.id, sizeof e.id, "%s", r->id);
    snprintf(e.tenant, sizeof e.tenant, "%s", r->tenant);
    e.status = left ? 499 : r->error.code ? sp_api_status(r->error.code) : 200;
    snprintf(e.error, sizeof e.error, "%.119s", left ? "the client left" : r->error.code ? r->error.msg : "");
    sp_completion_receipt(&e.receipt, r);
    sp_ledger_add(r->app->ledger, &e);
    if (r->plan.path == SP_PATH_LIGHT && !e.error[0] && r->ask.plain && !r->find && r->choice[0].text.len)
        sp_shadow_offer(r->app->shadow, r->tenant, r->msg, r->n_msg, r->choice[0].text.p, r->choice[0].text.len, r->plan.max_tok);
    if (!r->app->otlp || !r->trace.sampled)
        return;
    const sp_trace_end end = {.name = r->chat ? "chat" : "text_completion", .model = r->app->model_name, .error = e.error[0] ? e.error : NULL,
                              .begin_ns = r->wall_ns, .ms = e.ms, .status = e.status, .n_prompt = e.n_prompt};
    sp_buf spans = {0};
    sp_trace_write(&spans, &r->trace, &end, &e.receipt);
    if (!spans.failed)
        sp_otlp_add(r->app->otlp, spans.p, spans.len, 1);
    sp_buf_fini(&spans);
}

static void task_close(void *arg)
{
    request *r = arg;
    if (r->t_begin > 0)
        note(r);
    for (size_t i = 0; i < MAX_CHOICE; i++) {
        sp_job_put(r->choice[i].job);
        sp_call_put(r->choice[i].call);
        sp_buf_fini(&r->choice[i].text);
        sp_buf_fini(&r->choice[i].logprobs);
        json_decref(r->choice[i].calls);
    }
    sp_op_put((sp_op *)r->prepare);
    sp_op_put((sp_op *)r->save);
    sp_op_put((sp_op *)r->find);
    for (size_t i = 0; i < r->n_dense; i++)
        sp_mem_free(r->dense[i]);
    sp_buf_fini(&r->pattern);
    sp_buf_fini(&r->ignored);
    sp_structured_fini(&r->parts);
    sp_arena_fini(&r->arena);
    sp_mem_free(r->session);
    sp_mem_free(r);
}

static sp_err open_request(request **out, sp_app *app, bool chat, bool dry, const sp_api_req *req, const char *tenant, char bad[64], sp_diag *d)
{
    json_t *j = NULL;
    const char *name = NULL;
    uint64_t t = sp_clock_ns();
    bad[0] = 0;
    SP_TRY(sp_params_parse(&j, req->body, req->n_body, d));
    request *r = sp_mem_alloc(sizeof *r);
    sp_err err = r ? SP_OK : SP_FAIL(d, SP_NOMEM, "request");
    if (err == SP_OK) {
        r->app = app;
        r->chat = chat;
        r->created = sp_clock_wall();
        make_id(r);
        sp_trace_start(&r->trace, req->traceparent);
        r->wall_ns = sp_clock_wall_ns();
        r->work = req->work;
        sp_arena_init(&r->arena, 0);
        snprintf(r->tenant, sizeof r->tenant, "%s", tenant);
        err = start_request(r, j, dry, &name, d);
    }
    if (err == SP_OK) {
        r->t_begin = dry ? 0 : (double)t;
        *out = r;
    } else if (r) {
        task_close(r);
    }
    snprintf(bad, 64, "%.60s", name ? name : "");
    json_decref(j);
    return err;
}

sp_err sp_api_completion(sp_app *app, bool chat, const sp_api_req *req, const char *tenant, sp_http_task *task, char bad[64], sp_diag *d)
{
    request *r;
    SP_TRY(open_request(&r, app, chat, false, req, tenant, bad, d));
    *task = (sp_http_task){r, task_start, task_pull, task_close};
    return SP_OK;
}

sp_err sp_api_plan(sp_app *app, const sp_api_req *req, const char *tenant, sp_buf *out, char bad[64], sp_diag *d)
{
    request *r;
    SP_TRY(open_request(&r, app, true, true, req, tenant, bad, d));
    sp_completion_put_plan(out, r);
    task_close(r);
    return SP_OK;
}
