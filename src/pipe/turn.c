/* The way itself: which step comes next, and what of it the caller sees. */
#include "pipe/turn_int.h"

#include "base/clock.h"
#include "pipe/shadow.h"

#include <stdio.h>
#include <string.h>

void sp_turn_ring(void *turn)
{
    sp_turn *t = turn;
    sp_lock_get(&t->lock);
    t->rung = true;
    pthread_cond_broadcast(&t->changed);
    sp_lock_put(&t->lock);
    if (t->run.wake)
        t->run.wake(t->run.arg);
}

void sp_turn_wait(sp_turn *t, uint64_t timeout_ns)
{
    uint64_t from = sp_clock_ns(), gone;
    sp_lock_get(&t->lock);
    while (!t->rung && (gone = sp_clock_ns() - from) < timeout_ns)
        sp_lock_wait(&t->lock, &t->changed, timeout_ns - gone);
    t->rung = false;
    sp_lock_put(&t->lock);
}

sp_err sp_turn_await(sp_turn *t, uint64_t most_ms, sp_diag *d)
{
    enum { LOOK_NS = 50000000 };
    uint64_t since = sp_clock_ns();
    sp_turn_event ev;
    sp_err err;
    while ((err = sp_turn_next(t, &ev)) == SP_AGAIN && sp_clock_ms(since) < (double)most_ms)
        sp_turn_wait(t, LOOK_NS);
    if (err == SP_AGAIN)
        return SP_FAIL(d, SP_TIMEOUT, "no answer in %llu ms", (unsigned long long)most_ms);
    if (ev.kind != SP_TURN_ERROR)
        return SP_OK;
    *d = ev.error->diag;
    return d->code;
}

void sp_turn_about(sp_turn *t, const char *param)
{
    snprintf(t->error.param, sizeof t->error.param, "%s", param);
}

bool sp_turn_is_user(const sp_chat_msg *m)
{
    return m->role.n == 4 && memcmp(m->role.p, "user", 4) == 0;
}

/* --- the plan --------------------------------------------------------------------------------- */

/* Judged by the last message of the user's. */
static sp_err make_plan(sp_turn *t, sp_diag *d)
{
    uint64_t since = sp_clock_ns();
    const sp_plan_cfg cfg = sp_turn_plan_cfg(t);
    const sp_chat_msg *last = NULL;
    sp_intent in;
    for (size_t i = 0; i < t->n_msg; i++)
        last = sp_turn_is_user(&t->msg[i]) ? &t->msg[i] : last;
    bool judged = last && t->intent;
    if (judged)
        sp_intent_judge(t->intent, &in, last->content.p, last->content.n);
    const sp_class_numbers *by = t->ask->set.epsilon_of;
    if (judged && by && by->of[in.cls])
        t->ask->epsilon = *by->of[in.cls];
    SP_TRY(sp_plan_make(&t->plan, &cfg, &t->ask->plan, judged ? &in : NULL, d));
    t->plan.ms = sp_clock_ms(since);
    return SP_OK;
}

static void plan_texts(sp_turn *t)
{
    const sp_plan_ask *q = &t->ask->plan;
    t->plan = (sp_plan){.path = SP_PATH_FULL,
                        .max_tok = q->max_tok ? q->max_tok : q->cap_tok,
                        .votes = q->votes > 1 ? q->votes : 1,
                        .think_tok = q->think_tok >= 0 ? (size_t)q->think_tok : q->cap_tok,
                        .draft = q->draft >= 0 ? (size_t)q->draft : t->env->plan.draft,
                        .draft_fixed = q->draft_fixed,
                        .drafters = q->drafters ? q->drafters : t->env->plan.drafters,
                        .why = "a raw prompt"};
}

static sp_err open_chat(sp_turn *t, sp_diag *d)
{
    t->msg = t->ask->msg;
    t->n_msg = t->ask->n_msg;
    t->find = t->ask->find;
    t->ask->find = NULL;
    sp_turn_about(t, "messages");
    if (t->n_msg == 0 && !t->ask->message)
        return SP_FAIL(d, SP_INVAL, "messages is missing");
    SP_TRY(sp_turn_read_tools(t, d));
    if (t->ask->look && t->env->know && t->env->retrieve && !t->find)
        SP_TRY(sp_turn_look(t, d));
    sp_turn_about(t, "sparing");
    SP_TRY(make_plan(t, d));
    bool leaves = t->plan.path == SP_PATH_UPSTREAM && !sp_turn_may_take(t);
    if (t->looked && (!t->plan.retrieve || leaves)) {
        sp_op_put(&t->find->op);
        t->find = NULL;
    }
    t->plan.retrieve = t->find != NULL;
    return SP_OK;
}

static sp_err open_texts(sp_turn *t, sp_diag *d)
{
    const sp_ask *q = t->ask;
    size_t each = q->n_drawn > q->n ? q->n_drawn : q->n;
    sp_turn_about(t, "prompt");
    if (q->n_prompt == 0 || q->n_prompt * each > SP_ASK_CHOICES ||
        (q->n_prompt > 1 && q->plan.votes > 1))
        return SP_FAIL(d, SP_INVAL,
                       "%zu prompts with %zu answers each: 1 to %d answers a request are "
                       "supported, and votes only for one prompt",
                       q->n_prompt, each, SP_ASK_CHOICES);
    plan_texts(t);
    return SP_OK;
}

/* An error of open or start goes to the caller. */
static sp_err tell(sp_turn *t, sp_err err, sp_turn_error *e)
{
    if (err != SP_OK && e)
        *e = t->error;
    return err;
}

sp_err sp_turn_open(sp_turn **out, const sp_turn_env *env, sp_ask *ask, sp_turn_error *e)
{
    sp_turn *t = sp_mem_alloc(sizeof *t);
    if (!t) {
        sp_ask_free(ask);
        return SP_FAIL(e ? &e->diag : NULL, SP_NOMEM, "request");
    }
    sp_lock_init(&t->lock, SP_RANK_API);
    sp_lock_cond_init(&t->changed);
    t->env = env;
    t->ask = ask;
    t->tail = &t->head;
    if (env->power)
        t->power = sp_power_now(env->power);
    size_t n_ctx = sp_engine_config(env->engine)->n_ctx;
    if (!ask->plan.cap_tok || ask->plan.cap_tok > n_ctx)
        ask->plan.cap_tok = n_ctx;
    sp_err err = sp_turn_expose(t, &t->error.diag);
    if (err == SP_OK)
        err = ask->chat ? open_chat(t, &t->error.diag) : open_texts(t, &t->error.diag);
    err = tell(t, err, e);
    if (err == SP_OK)
        *out = t;
    else
        sp_turn_free(t);
    return err;
}

/* --- the steps -------------------------------------------------------------------------------- */

static sp_err start(sp_turn *t, sp_diag *d)
{
    bool asks = t->ask->plan.conversation || t->find;
    sp_turn_about(t, "sparing");
    if (asks && t->ask->parts)
        return SP_FAIL(
            d, SP_UNSUP,
            "a structured prompt cannot be part of a conversation or of a search in documents");
    if (!t->ask->chat)
        return sp_turn_submit_texts(t, d);
    if (t->ask->plan.conversation)
        return sp_turn_begin_history(t, d); /* the search waits for what was asked before */
    return sp_turn_submit_plan(t, d);
}

sp_err sp_turn_start(sp_turn *t, const sp_turn_run *run, sp_turn_error *e)
{
    t->run = *run;
    return tell(t, start(t, &t->error.diag), e);
}

/* What was asked first has answered: from messages to running jobs, or to the search. */
static sp_err go_on(sp_turn *t, sp_diag *d)
{
    sp_history_op *talk = t->prepare;
    const sp_diag *bad = talk && talk->op.diag.code ? &talk->op.diag
                         : t->find                  ? &t->find->op.diag
                                                    : &talk->op.diag;
    if (bad->code) {
        *d = *bad;
        t->error.why = !talk            ? SP_WHY_OTHER
                       : talk->repeated ? SP_WHY_REPEATED
                       : talk->lost     ? SP_WHY_NO_PARENT
                                        : SP_WHY_OTHER;
        return d->code;
    }
    if (talk) {
        t->ask->go_on = t->ask->go_on || talk->go_on;
        t->msg = talk->msg;
        t->n_msg = talk->n_msg;
    }
    return t->find && !t->find->query ? sp_turn_begin_search(t, d) : sp_turn_submit_rest(t, d);
}

static void go_on_elsewhere(void *turn)
{
    sp_turn *t = turn;
    t->error.diag.code = go_on(t, &t->error.diag);
}

static void replace_elsewhere(void *turn)
{
    sp_turn *t = turn;
    t->error.diag.code = sp_turn_replace(t, &t->error.diag);
}

static void deepen_elsewhere(void *turn)
{
    sp_turn *t = turn;
    t->error.diag.code = sp_turn_deepen(t, &t->error.diag);
}

/* Prompts are rendered and tokenised elsewhere, if there is an elsewhere. After SP_AGAIN the turn
 * is the other thread's. */
static sp_err hand_over(sp_turn *t, void (*fn)(void *turn))
{
    if (t->run.defer)
        return t->run.defer(t->run.arg, fn, t, &t->error.diag) == SP_OK ? SP_AGAIN : SP_OK;
    fn(t);
    return SP_OK;
}

/* What comes before the prompt, and a second answer if the first was given up. SP_AGAIN: wait.
 * Errors go to t->error. */
static sp_err advance(sp_turn *t)
{
    while (t->error.diag.code == SP_OK && (t->unsure || t->pending || t->deep.state)) {
        if (t->deep.state) {
            if (sp_turn_deep_waits(t))
                return SP_AGAIN;
            if (t->error.diag.code == SP_OK)
                SP_TRY(hand_over(t, deepen_elsewhere));
            continue;
        }
        bool searches = t->find && t->find->query;
        if (!t->unsure && ((t->prepare && !sp_op_is_done(&t->prepare->op)) ||
                           (searches && !sp_op_is_done(&t->find->op))))
            return SP_AGAIN;
        t->pending = t->pending && t->unsure;
        SP_TRY(hand_over(t, t->unsure ? replace_elsewhere : go_on_elsewhere));
    }
    return SP_OK;
}

/* Whole answers of a conversation are kept first. */
static bool is_saved(sp_turn *t)
{
    if (!t->prepare)
        return true;
    if (!t->save && sp_turn_begin_save(t, &t->error.diag) != SP_OK)
        return true;
    if (!sp_op_is_done(&t->save->op))
        return false;
    t->error.diag = t->save->op.diag;
    return true;
}

static bool has_failed(const sp_turn *t)
{
    return t->error.diag.code != SP_OK;
}

/* Nothing waits to be told any more. */
static sp_err give_end(sp_turn *t, sp_turn_event *ev)
{
    if (!has_failed(t) && t->n_ended < t->n_choice)
        return SP_AGAIN;
    if (!has_failed(t) && !is_saved(t))
        return SP_AGAIN;
    *ev = has_failed(t) ? (sp_turn_event){.kind = SP_TURN_ERROR, .error = &t->error}
                        : (sp_turn_event){.kind = SP_TURN_END};
    return SP_OK;
}

bool sp_turn_has_words(const sp_turn *t)
{
    return t->head && t->head->next;
}

sp_err sp_turn_ready(sp_turn *t)
{
    do {
        SP_TRY(advance(t));
        if (has_failed(t) || !t->n_choice || (!t->choice[0].call && !t->ask->if_available))
            return SP_OK;
        sp_turn_drain(t);
    } while (t->unsure);
    return has_failed(t) || sp_turn_has_words(t) || t->n_ended == t->n_choice ? SP_OK : SP_AGAIN;
}

void sp_turn_answer_now(sp_turn *t)
{
    atomic_store(&t->answer_now, true);
}

static void pass_on(sp_turn *t)
{
    for (size_t i = 0; i < t->n_choice && atomic_load(&t->answer_now); i++)
        if (t->choice[i].job)
            sp_job_answer_now(t->choice[i].job);
}

sp_err sp_turn_next(sp_turn *t, sp_turn_event *ev)
{
    sp_turn_node_free(t->held);
    t->held = NULL;
    pass_on(t);
    sp_turn_keep_draft(t);
    while (!t->head) {
        SP_TRY(advance(t));
        if (!has_failed(t))
            sp_turn_drain(t);
        if (!has_failed(t) && !t->unsure && t->n_ended == t->n_choice) {
            sp_turn_vote(t);
            sp_turn_refer(t);
        }
        if (!t->head && (has_failed(t) || (!t->unsure && !t->deep.state)))
            return give_end(t, ev);
    }
    t->held = t->head;
    t->head = t->head->next;
    t->tail = t->head ? t->tail : &t->head;
    *ev = t->held->ev;
    return SP_OK;
}

void sp_turn_stop(sp_turn *t)
{
    t->stopped = true;
    sp_turn_deep_stop(t);
    for (size_t i = 0; i < t->n_choice; i++)
        if (t->choice[i].job)
            sp_job_cancel(t->choice[i].job);
}

bool sp_turn_is_over(const sp_turn *t)
{
    return has_failed(t) || (t->n_ended == t->n_choice && !t->pending && !t->unsure);
}

/* A whole light answer may be checked against a full one. */
static void offer(const sp_turn *t)
{
    const sp_buf *text = &t->choice[0].answer.text;
    if (t->plan.path == SP_PATH_LIGHT && !has_failed(t) && t->n_choice && sp_turn_is_over(t) &&
        t->ask->plan.plain && !t->find && !t->deep.on && text->len)
        sp_shadow_offer(t->env->shadow, t->env->name, t->ask->tenant, t->msg, t->n_msg, text->p,
                        text->len, t->plan.max_tok);
}

void sp_turn_free(sp_turn *t)
{
    if (!t)
        return;
    offer(t);
    sp_turn_note(t);
    sp_turn_leave(t);
    for (size_t i = 0; i < SP_ASK_CHOICES; i++) {
        sp_job_put(t->choice[i].job);
        sp_call_put(t->choice[i].call);
        sp_turn_answer_fini(&t->choice[i].answer);
        sp_answer_free(t->choice[i].reader);
        sp_refer_free(t->choice[i].refer);
    }
    sp_op_put((sp_op *)t->prepare);
    sp_op_put((sp_op *)t->save);
    sp_op_put((sp_op *)t->find);
    sp_turn_deep_fini(t);
    sp_turn_node_free(t->held);
    for (sp_turn_node *n; (n = t->head);) {
        t->head = n->next;
        sp_turn_node_free(n);
    }
    sp_grammar_put(t->calls);
    sp_grammar_put(t->form);
    sp_ask_free(t->ask);
    sp_ids_fini(&t->predicted);
    pthread_cond_destroy(&t->changed);
    sp_lock_fini(&t->lock);
    sp_mem_free(t);
}

/* --- what can be read of it ------------------------------------------------------------------- */

const sp_ask *sp_turn_ask(const sp_turn *t)
{
    return t->ask;
}

const sp_turn_env *sp_turn_env_of(const sp_turn *t)
{
    return t->env;
}

const sp_plan *sp_turn_plan(const sp_turn *t)
{
    return &t->plan;
}

const sp_turn_answer *sp_turn_answer_of(const sp_turn *t, size_t choice)
{
    return choice < t->n_choice ? &t->choice[choice].answer : NULL;
}

size_t sp_turn_answers(const sp_turn *t)
{
    return t->n_choice;
}

sp_turn_found sp_turn_searched(const sp_turn *t)
{
    return (sp_turn_found){t->find, t->n_passage, t->n_fact, t->n_left, t->looked};
}

const sp_hdb_item *sp_turn_stored(const sp_turn *t)
{
    return t->error.why == SP_WHY_REPEATED ? t->prepare->item : NULL;
}

const char *sp_turn_conversation(const sp_turn *t)
{
    return t->prepare ? t->prepare->conv : NULL;
}

void sp_turn_receipt(sp_receipt *out, const sp_turn *t)
{
    *out = t->receipt;
    out->path = t->plan.path;
    out->why = t->plan.why;
    out->cls = t->plan.judged ? sp_class_name(t->plan.cls) : NULL;
    out->difficulty = t->plan.difficulty;
    out->need = t->plan.need;
    out->escalated = t->escalated;
    out->votes = t->plan.votes;
    out->ms_intent = t->plan.ms;
    out->ignored = t->ask->ignored;
    out->experiment = t->experiment;
    sp_turn_put_place(&out->place, t);
    out->version = t->version;
    out->truncated = false;
    for (size_t i = 0; i < t->n_choice; i++)
        out->truncated = out->truncated || t->choice[i].answer.finish == SP_FINISH_LENGTH;
    out->not_enforced = t->ask->not_enforced;
    sp_turn_count_running(out, t);
}

/* Was nothing computed, because too little was known? */
static bool is_unknown(const sp_turn *t)
{
    return t->n_choice && t->choice[0].answer.finish == SP_FINISH_UNKNOWN;
}

sp_turn_usage sp_turn_used(const sp_turn *t)
{
    const sp_receipt *r = &t->receipt;
    return (sp_turn_usage){.n_prompt = t->n_prompt_tok,
                           .n_cached = is_unknown(t) ? r->tok_ram + r->tok_ssd + r->tok_s3
                                       : t->n_prompt_tok > r->tok_computed
                                           ? t->n_prompt_tok - r->tok_computed
                                           : 0,
                           .n_out = r->tok_out,
                           .n_think = r->tok_think};
}

sp_turn_stage sp_turn_stage_of(const sp_turn *t, size_t *done, size_t *total)
{
    const sp_turn_choice *c = &t->choice[0];
    *done = *total = 0;
    if (!t->n_choice)
        return t->find && t->find->query && !sp_op_is_done(&t->find->op) ? SP_STAGE_SEARCH
                                                                         : SP_STAGE_QUEUE;
    if (c->call || c->answer.text.len || c->answer.reasoning.len || c->answer.n_call)
        return SP_STAGE_WRITE;
    if (!c->job)
        return SP_STAGE_QUEUE;
    sp_job_progress(c->job, done, total);
    return *done ? SP_STAGE_READ : SP_STAGE_QUEUE;
}

const sp_turn_error *sp_turn_error_of(const sp_turn *t)
{
    return &t->error;
}

double sp_turn_ms_first(const sp_turn *t)
{
    return t->ms_first;
}
