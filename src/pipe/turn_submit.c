/* From messages or prompts to running jobs, here or on another server; and once more, where an
 * answer was given up. */
#include "pipe/turn_int.h"

#include "base/rng.h"

#include <stdio.h>
#include <string.h>

static const double LEAST_KNOWN = 1e-9; /* share of a prompt: any token of it */
enum { COUNT_UP_TO = 2 /* contexts */ };

/* Tokens of a prompt after which tokenising stops: it does not fit, and up to here the error can
 * say by how much. */
static size_t cap_tok(const sp_turn *t)
{
    return COUNT_UP_TO * sp_engine_config(t->env->engine)->n_ctx;
}

/* A prompt that is too long is the request's fault: SP_LIMIT becomes SP_INVAL with its reason. */
static sp_err check_length(sp_turn *t, sp_err err, sp_diag *d)
{
    if (err != SP_LIMIT)
        return err;
    t->error.why = SP_WHY_TOO_LONG;
    if (d)
        d->code = SP_INVAL;
    return SP_INVAL;
}

/* --- jobs ------------------------------------------------------------------------------------- */

/* Parts of the prompt that attention never leaves out, by their text. */
static sp_err find_dense(sp_session_cfg *out, const sp_turn *t, const sp_context *ctx, sp_diag *d)
{
    for (size_t i = 0; i < t->ask->n_dense; i++) {
        size_t first, end;
        const char *text = t->ask->dense[i];
        sp_err err = sp_prompt_find(&first, &end, ctx, t->env->tok, 0, text, strlen(text));
        if (err != SP_OK)
            return SP_FAIL(d, err == SP_NOTFOUND ? SP_INVAL : err,
                           "sparing.dense[%zu]: the prompt does not hold '%.40s'", i, text);
        out->dense[out->n_dense++] = (sp_dev_range){(uint32_t)first, (uint32_t)end};
    }
    return SP_OK;
}

/* What parts ask for beside their text: parts that are never left out, the strictest epsilon of the
 * others, and from where pages are not for others. */
static sp_err apply_parts(sp_session_cfg *out, sp_turn *t, const sp_context *ctx, sp_diag *d)
{
    double least = 1;
    sp_parts *parts = t->ask->parts;
    if (!parts)
        return SP_OK;
    SP_TRY(sp_parts_find(parts, ctx, t->env->tok, d));
    for (size_t i = 0; i < SP_PARTS; i++) {
        const sp_part *p = &parts->part[i];
        if (p->is_private && p->end && (!out->private_from || p->first < out->private_from))
            out->private_from = p->first ? p->first : 1;
        if (p->epsilon > 0 && p->epsilon < least)
            least = p->epsilon;
        if (p->epsilon == 0 && p->end) {
            if (out->n_dense == SP_DENSE_MAX)
                return SP_FAIL(d, SP_INVAL,
                               "more than %d parts of the prompt are never to be left out",
                               SP_DENSE_MAX);
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

/* What the answer is likely to say, as tokens: no more than a context holds. */
static sp_err read_prediction(sp_session_cfg *out, sp_turn *t, sp_diag *d)
{
    const sp_str *text = &t->ask->prediction;
    if (text->n && !t->predicted.n) {
        t->predicted.most = sp_engine_config(t->env->engine)->n_ctx;
        sp_err err =
            sp_tok_encode(t->env->tok, &t->predicted, text->p, text->n, SP_SPECIAL_NONE, NULL);
        if (err != SP_OK && err != SP_LIMIT)
            return SP_FAIL(d, err, "prediction");
    }
    out->predicted = t->predicted.id;
    out->n_predicted = t->predicted.n;
    return SP_OK;
}

/* --thinking-same, where the request says nothing of rules and rules may be. */
static void think_as_served(sp_session_cfg *out, const sp_turn *t)
{
    size_t same = t->env->think_same;
    bool may = !t->ask->ruled && !t->ask->deep.on && !out->grammar && out->n_logprobs < 0;
    if (may && same)
        out->rules |= 1u << SP_PRUNE_THINKING;
    out->think_same = out->think_same ? out->think_same : same;
}

/* The ask's session with what the plan, the server and the prompt add to it. */
static sp_err fill_session(sp_session_cfg *out, sp_turn *t, const sp_context *ctx, sp_diag *d)
{
    const sp_ask *q = t->ask;
    out->eps = q->epsilon >= 0 ? (float)q->epsilon : t->env->eps;
    out->eps_prompt = q->epsilon > 0; /* by default not: it saves work, but no time yet */
    out->keep = q->keep < 1 ? (float)q->keep : 0;
    out->eps_from = q->epsilon >= 0 || q->keep > 0 ? 0 : t->env->eps_from;
    SP_TRY(read_prediction(out, t, d));
    SP_TRY(find_dense(out, t, ctx, d));
    SP_TRY(apply_parts(out, t, ctx, d));
    out->max_tok = t->plan.max_tok;
    out->watch_tok = t->plan.watch_tok;
    out->watch_least = t->plan.watch_least;
    out->watch_all = t->plan.watch_all;
    out->policy = t->policy;
    out->judged = t->plan.judged;
    out->cls = t->plan.cls;
    out->think_open = t->env->think_open;
    out->think_close = t->env->think_close;
    out->think_tok = t->plan.think_tok;
    out->grammar = q->calls >= SP_CALLS_REQUIRED && t->calls ? t->calls
                   : t->form                                ? t->form
                                                            : q->grammar;
    out->calls = q->calls == SP_CALLS_AUTO ? t->calls : NULL;
    memcpy(out->trigger, t->trigger, sizeof out->trigger);
    out->one_call = q->one_call;
    out->is_loose = t->is_loose;
    memcpy(out->mark, t->mark, sizeof out->mark);
    out->n_mark = t->n_mark;
    out->marks = sp_turn_is_read(t);
    think_as_served(out, t);
    out->how = q->costs || q->refer || out->rules;
    out->splice = ctx->splice;
    out->n_splice = ctx->n_splice;
    return SP_OK;
}

_Static_assert((int)SP_ASK_CHOICES <= (int)SP_JOB_ANSWERS, "answers of a request");

/* The answers to one prompt. The later ones fork from the first. */
static sp_err submit(sp_turn *t, const sp_context *ctx, sp_diag *d)
{
    const sp_ask *q = t->ask;
    sp_job_cfg cfg = {.session = *q->session,
                      .plan = t->plan,
                      .tok = ctx->prompt.id,
                      .n_tok = ctx->prompt.n,
                      .tenant = q->tenant,
                      .priority = q->priority,
                      .deadline_ms = q->deadline_ms,
                      .ms_retrieval = ctx->ms,
                      .ms_intent = t->plan.ms,
                      .notify = sp_turn_ring,
                      .arg = t,
                      .flow = q->flow,
                      .goal_first_ms = q->goal_first_ms,
                      .goal_tok_ms = q->goal_tok_ms,
                      .least_known =
                          q->least_known > 0 || !q->if_available ? q->least_known : LEAST_KNOWN};
    SP_TRY(check_length(t, sp_engine_fits(t->env->engine, ctx->prompt.n, d), d));
    SP_TRY(fill_session(&cfg.session, t, ctx, d));
    if (t->prepare)
        snprintf(cfg.session.conv, sizeof cfg.session.conv, "%s", t->prepare->conv);
    cfg.session.is_private = q->plan.is_private || cfg.session.private_from;
    cfg.plan.epsilon = (double)cfg.session.eps;
    cfg.plan.prefill_keep = (double)cfg.session.keep;
    t->n_prompt_tok += ctx->prompt.n;
    sp_turn_deep_init(t);
    t->deep.seed = q->seed >= 0 ? (uint64_t)q->seed : sp_rng_entropy();
    if (sp_turn_deep_asks(t)) {
        cfg.session.doubt = q->deep.when;
        t->deep.ids.n = t->deep.n_said = 0;
        if (sp_ids_add(&t->deep.ids, ctx->prompt.id, ctx->prompt.n) != SP_OK)
            return SP_FAIL(d, SP_NOMEM, "request");
    }
    size_t n = t->plan.votes > 1 ? t->plan.votes : q->n_drawn > q->n ? q->n_drawn : q->n;
    sp_job *job[SP_JOB_ANSWERS];
    cfg.session.sample.seed = t->deep.seed;
    cfg.n_answer = n;
    SP_TRY(sp_job_submit(job, t->env->engine, &cfg, d));
    for (size_t i = 0; i < n; i++)
        t->choice[t->n_choice++].job = job[i];
    return SP_OK;
}

sp_err sp_turn_submit_more(sp_turn *t, sp_job **out, const uint32_t *id, size_t n,
                           const sp_turn_more *more, sp_diag *d)
{
    const sp_ask *q = t->ask;
    const sp_context ctx = {.prompt = {.id = (uint32_t *)(uintptr_t)id, .n = n}};
    size_t left = t->plan.max_tok > more->n_said ? t->plan.max_tok - more->n_said : 1;
    sp_job_cfg cfg = {.session = *q->session,
                      .plan = t->plan,
                      .tok = id,
                      .n_tok = n,
                      .tenant = q->tenant,
                      .priority = q->priority,
                      .deadline_ms = q->deadline_ms,
                      .n_answer = more->n_answer,
                      .temperature = more->temperature,
                      .notify = sp_turn_ring,
                      .arg = t};
    SP_TRY(check_length(t, sp_engine_fits(t->env->engine, n, d), d));
    SP_TRY(fill_session(&cfg.session, t, &ctx, d));
    sp_session_cfg *s = &cfg.session;
    if (t->prepare)
        snprintf(s->conv, sizeof s->conv, "%s", t->prepare->conv);
    s->is_private = q->plan.is_private;
    s->max_tok = more->max_tok && more->max_tok < left ? more->max_tok : left;
    s->min_tok = s->min_tok > more->n_said ? s->min_tok - more->n_said : 0;
    s->watch_tok = 0;
    s->watch_all = false;
    s->n_said = more->n_said;
    s->one_sentence = more->one_sentence;
    s->doubt = more->doubts ? q->deep.when : (sp_doubt_cfg){0};
    s->sample.seed = more->seed;
    cfg.plan.epsilon = (double)s->eps;
    cfg.plan.prefill_keep = (double)s->keep;
    return sp_job_submit(out, t->env->engine, &cfg, d);
}

sp_err sp_turn_render_on(sp_context *out, sp_turn *t, sp_diag *d)
{
    const sp_ask *q = t->ask;
    const sp_turn_answer *a = &t->choice[0].answer;
    bool has_begun = a->text.len > 0;
    sp_chat_msg *msg = sp_arena_alloc(&t->ask->a, (t->n_msg + 1) * sizeof *msg);
    if (!msg)
        return SP_FAIL(d, SP_NOMEM, "request");
    memcpy(msg, t->msg, t->n_msg * sizeof *msg);
    msg[t->n_msg] = sp_chat_say("assistant", sp_buf_str(&a->text), a->text.len);
    msg[t->n_msg].reasoning = (sp_str){sp_buf_str(&a->reasoning), a->reasoning.len};
    const sp_chat_ask ask = {.msg = msg,
                             .n_msg = t->n_msg + has_begun,
                             .kwargs = q->kwargs,
                             .think = q->think,
                             .effort = q->effort,
                             .add_answer = !has_begun,
                             .go_on = has_begun};
    sp_turn_about(t, "messages");
    return check_length(t, sp_prompt_ask(out, NULL, t->env->tok, t->env->chat, &ask, cap_tok(t), d),
                        d);
}

/* Leaves the end of a prompt, where the request asks for no more of it. */
static void cut_prompt(sp_context *ctx, const sp_turn *t)
{
    size_t most = t->ask->last_tok, n = ctx->prompt.n;
    if (!most || n <= most)
        return;
    memmove(ctx->prompt.id, ctx->prompt.id + n - most, most * sizeof *ctx->prompt.id);
    ctx->prompt.n = most;
}

static sp_err render(sp_context *out, sp_turn *t, sp_diag *d)
{
    const sp_ask *q = t->ask;
    const sp_chat_ask ask = {.msg = t->msg,
                             .n_msg = t->n_msg,
                             .tools = t->tools,
                             .kwargs = q->kwargs,
                             .think = q->think,
                             .effort = q->effort,
                             .add_answer = !q->go_on && !q->no_turn,
                             .go_on = q->go_on};
    sp_turn_about(t, "messages");
    t->reads = (sp_answer_cfg){0};
    SP_TRY(check_length(
        t, sp_prompt_ask(out, &t->reads, t->env->tok, t->env->chat, &ask, cap_tok(t), d), d));
    cut_prompt(out, t);
    sp_err err = sp_turn_begin_call(t, out, d);
    if (err == SP_OK)
        err = sp_turn_begin_form(t, out, d);
    if (err != SP_OK)
        sp_context_fini(out);
    return err;
}

sp_err sp_turn_count(size_t *out, sp_turn *t, sp_turn_error *e)
{
    sp_context ctx = {0};
    sp_err err = render(&ctx, t, &t->error.diag);
    *e = t->error;
    if (err == SP_OK)
        *out = ctx.prompt.n;
    sp_context_fini(&ctx);
    return err;
}

static sp_err submit_chat(sp_turn *t, sp_diag *d)
{
    sp_context ctx;
    SP_TRY(render(&ctx, t, d));
    sp_err err = submit(t, &ctx, d);
    sp_context_fini(&ctx);
    return err;
}

static sp_err build_text(sp_context *out, sp_turn *t, size_t i, sp_diag *d)
{
    const sp_ask_prompt *p = &t->ask->prompt[i];
    sp_turn_about(t, "prompt");
    sp_err err = p->suffix.n ? sp_prompt_gap(out, t->env->tok, p->text, p->suffix, cap_tok(t), d)
                 : p->id     ? sp_prompt_ids(out, t->env->tok, p->id, p->n_id, d)
                         : sp_prompt_text(out, t->env->tok, p->text.p, p->text.n, cap_tok(t), d);
    SP_TRY(check_length(t, err, d));
    cut_prompt(out, t);
    return SP_OK;
}

sp_err sp_turn_prompt(sp_turn *t, sp_ids *out, size_t i, sp_turn_error *e)
{
    sp_context ctx;
    sp_diag *d = &t->error.diag;
    bool more = t->ask->plan.conversation || (t->find && !t->looked);
    sp_turn_about(t, "messages");
    sp_err err =
        more ? SP_FAIL(d, SP_UNSUP,
                       "a prompt with a conversation or passages is made when it is answered")
             : SP_OK;
    if (err == SP_OK)
        err = t->ask->chat ? render(&ctx, t, d) : build_text(&ctx, t, i, d);
    if (err != SP_OK) {
        *e = t->error;
        return err;
    }
    *out = ctx.prompt;
    ctx.prompt = (sp_ids){0};
    sp_context_fini(&ctx);
    return SP_OK;
}

sp_err sp_turn_submit_texts(sp_turn *t, sp_diag *d)
{
    for (size_t i = 0; i < t->ask->n_prompt; i++) {
        sp_context ctx;
        SP_TRY(build_text(&ctx, t, i, d));
        sp_err err = submit(t, &ctx, d);
        sp_context_fini(&ctx);
        SP_TRY(err);
    }
    return SP_OK;
}

static sp_err try_away(sp_turn *t, bool *done, sp_diag *d);

sp_err sp_turn_submit_rest(sp_turn *t, sp_diag *d)
{
    sp_context ctx;
    bool done = false;
    if (t->find)
        SP_TRY(sp_turn_add_passages(t, d));
    t->receipt.chunks = (t->prepare ? t->prepare->n_item : 0) + t->n_passage;
    t->receipt.left_out = t->n_left;
    if (t->plan.path == SP_PATH_UPSTREAM)
        SP_TRY(try_away(t, &done, d));
    if (done)
        return SP_OK;
    SP_TRY(render(&ctx, t, d));
    size_t room = sp_engine_room(t->env->engine, ctx.prompt.n);
    sp_err err = t->ask->splice && t->n_passage
                     ? sp_passages_splice(&ctx, t->find->hit, t->n_passage, t->env->tok,
                                          t->env->chat, room, d)
                     : SP_OK;
    ctx.ms += t->prepare ? t->prepare->op.ms : 0;
    ctx.ms += t->find ? t->find->op.ms : 0;
    if (err == SP_OK)
        err = submit(t, &ctx, d);
    sp_context_fini(&ctx);
    return err;
}

/* --- another server --------------------------------------------------------------------------- */

/* Stops as the JSON list that another server reads. */
static void put_stops(sp_buf *out, const sp_session_cfg *s)
{
    for (size_t i = 0; i < s->n_stop; i++) {
        sp_buf_puts(out, i ? "," : "[");
        sp_buf_json_str(out, s->stop[i], strlen(s->stop[i]));
    }
    sp_buf_puts(out, s->n_stop ? "]" : "");
}

static void put_messages(sp_buf *out, const sp_turn *t)
{
    for (size_t i = 0; i < t->n_msg; i++) {
        sp_buf_printf(out, "%s{\"role\":\"%.*s\",\"content\":", i ? "," : "[",
                      (int)t->msg[i].role.n, t->msg[i].role.p);
        sp_buf_json_str(out, t->msg[i].content.p, t->msg[i].content.n);
        sp_buf_putc(out, '}');
    }
    sp_buf_putc(out, ']');
}

/* Messages of which only a part can be said again are not sent. */
static sp_err check_messages(const sp_turn *t, sp_diag *d)
{
    for (size_t i = 0; i < t->n_msg; i++)
        if (t->msg[i].n_call || t->msg[i].call_id.n)
            return SP_FAIL(d, SP_UNSUP, "messages[%zu]: calls of tools are not passed on", i);
    return SP_OK;
}

static void put_tool_choice(sp_buf *out, const sp_ask *q)
{
    static const char *const word[] = {"\"auto\"", "\"none\"", "\"required\""};
    if (q->calls != SP_CALLS_NAMED) {
        sp_buf_puts(out, word[q->calls]);
        return;
    }
    const sp_str *name = &q->tool[q->named].name;
    sp_buf_puts(out, "{\"type\":\"function\",\"function\":{\"name\":");
    sp_buf_json_str(out, name->p, name->n);
    sp_buf_puts(out, "}}");
}

/* The messages as they are now go to the other server. Without a placement file they are the
 * request's own; with one, what this server has put into them too, as far as a rule says so. */
static sp_err submit_away(sp_turn *t, sp_diag *d)
{
    sp_buf messages = {0}, stop = {0}, choice = {0};
    const sp_ask *q = t->ask;
    sp_upstream *up = sp_turn_upstream(t);
    sp_place_facts facts;
    if (!up)
        return SP_FAIL(d, SP_INVAL, "there is no other server that this request may go to");
    SP_TRY(check_messages(t, d));
    sp_turn_facts(&facts, t);
    put_tool_choice(&choice, q);
    const sp_sample_cfg *s = &q->session->sample;
    put_messages(&messages, t);
    put_stops(&stop, q->session);
    const sp_call_cfg cfg = {.messages = sp_buf_str(&messages),
                             .stop = stop.len ? sp_buf_str(&stop) : NULL,
                             .max_tok = t->plan.max_tok,
                             .temperature = (double)s->temperature,
                             .top_p = (double)s->top_p,
                             .presence = (double)s->presence_penalty,
                             .frequency = (double)s->frequency_penalty,
                             .seed = q->seed,
                             .traceparent = q->traceparent[0] ? q->traceparent : NULL,
                             .tools = q->n_tool && t->tools.n ? t->tools.p : NULL,
                             .tool_choice = sp_buf_str(&choice),
                             .facts = &facts,
                             .notify = sp_turn_ring,
                             .arg = t};
    sp_err err = messages.failed || stop.failed || choice.failed
                     ? SP_FAIL(d, SP_NOMEM, "request")
                     : sp_call_start(&t->choice[0].call, up, &cfg, d);
    t->n_choice = err == SP_OK ? 1 : 0;
    sp_buf_fini(&choice);
    sp_buf_fini(&messages);
    sp_buf_fini(&stop);
    return err;
}

/* --- the plan --------------------------------------------------------------------------------- */

sp_plan_cfg sp_turn_plan_cfg(sp_turn *t)
{
    sp_plan_cfg cfg = t->env->plan;
    cfg.upstream_rests = t->env->upstream && sp_upstream_is_open(t->env->upstream);
    cfg.has_upstream = t->env->upstream && !cfg.upstream_rests;
    if (t->env->placement) {
        sp_turn_place(t);
        cfg.upstream_rests = t->place.rests;
        cfg.placed = cfg.has_upstream = t->place.to != NULL;
        cfg.stays = t->place.to || t->place.rests ? NULL : t->place.why;
    }
    cfg.has_passages = t->find != NULL || (t->looked && t->env->retrieve);
    const sp_settings *set = &t->ask->set;
    cfg.full_from = set->full_from ? *set->full_from : cfg.full_from;
    cfg.need_from = set->need_from ? *set->need_from : cfg.need_from;
    cfg.light_tok = set->light_tokens ? *set->light_tokens : cfg.light_tok;
    cfg.watch_least = set->escalate_below ? *set->escalate_below : cfg.watch_least;
    return cfg;
}

/* To the other server, or, where it takes nothing, on with the path here. */
static sp_err try_away(sp_turn *t, bool *done, sp_diag *d)
{
    sp_diag away = {0};
    sp_err err = submit_away(t, &away);
    *done = err == SP_OK;
    if (err != SP_OK && t->ask->plan.forbid[SP_PATH_FULL]) {
        *d = away;
        return err;
    }
    if (err != SP_OK) {
        t->plan.path = SP_PATH_FULL;
        t->plan.why = "the other server takes no request just now";
    }
    return SP_OK;
}

sp_err sp_turn_submit_plan(sp_turn *t, sp_diag *d)
{
    if (t->plan.path == SP_PATH_UPSTREAM && !t->find) {
        bool done;
        SP_TRY(try_away(t, &done, d));
        if (done)
            return SP_OK;
        t->plan.retrieve = t->looked;
    }
    if (t->plan.retrieve && !t->find)
        SP_TRY(sp_turn_look(t, d));
    return t->find ? sp_turn_begin_search(t, d) : submit_chat(t, d);
}

/* Nothing of the answer has left: it is as if it had not begun. */
static void drop_answer(sp_turn *t)
{
    sp_turn_choice *c = &t->choice[0];
    sp_job_put(c->job);
    sp_call_put(c->call);
    sp_turn_answer_fini(&c->answer);
    sp_answer_free(c->reader);
    sp_refer_free(c->refer);
    c->reader = NULL;
    c->refer = NULL;
    c->job = NULL;
    c->call = NULL;
    c->in_call = false;
    t->n_choice = t->n_ended = 0;
    t->n_prompt_tok = 0;
}

/* The light answer was not sure, or the other server failed before it said anything. */
sp_err sp_turn_replace(sp_turn *t, sp_diag *d)
{
    sp_plan next = t->plan;
    const sp_plan_cfg cfg = sp_turn_plan_cfg(t);
    t->unsure = false;
    drop_answer(t);
    /* what the request has searched stays in its prompt */
    if (t->plan.path == SP_PATH_UPSTREAM && t->find && !t->looked) {
        t->plan.path = SP_PATH_FULL;
        t->plan.why = "the other server failed";
        return submit_chat(t, d);
    }
    sp_turn_forget_search(t);
    if (t->plan.path == SP_PATH_UPSTREAM) {
        next.path = SP_PATH_FULL;
        next.why = "the other server failed";
        next.retrieve = t->looked;
    } else if (sp_plan_escalate(&next, &cfg, &t->ask->plan, &t->plan)) {
        t->escalated = true;
    } else {
        next.why = "not sure, and there is nothing better just now";
    }
    next.watch_tok = 0;
    next.watch_all = false;
    t->plan = next;
    return sp_turn_submit_plan(t, d);
}
