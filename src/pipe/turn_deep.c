/* Deep compute where an answer becomes unsure, while it is being written: passages are looked for
 * with the sentence as it stood, or several sentences are drawn and one is kept. What has left
 * stays as it is; the sentence that was held is dropped, and the answer goes on behind it.
 *
 * The way of one doubt: DOUBT, then SEARCH where documents may help, then VOTE, each only if it is
 * asked for and was not used up; where nothing helps, the answer goes on as if it had not been
 * looked at. What is rendered or submitted here runs where prompts are rendered. */
#include "pipe/turn_int.h"

#include "base/clock.h"
#include "base/utf8.h"

#include <stdio.h>
#include <string.h>

enum {
    SPANS = 4,         /* sentences of an answer that are voted on, at most */
    VOTE_TOK = 64,     /* tokens of a drawn sentence, at most */
    LEAST_VOTE = 8,    /* and what must be left of the budget for each */
    MAX_REST = 1024,   /* bytes of the sentence that are asked with */
    SEED_STEP = 1000   /* between an answer's own seed and those of what follows */
};
static const float VOTE_TEMPERATURE = 0.8f;

void sp_turn_deep_init(sp_turn *t)
{
    const sp_ask_deep *q = &t->ask->deep;
    bool is_question = t->n_msg && sp_turn_is_user(&t->msg[t->n_msg - 1]);
    t->deep.on = q->on && is_question && t->plan.path != SP_PATH_UPSTREAM;
}

void sp_turn_deep_fini(sp_turn *t)
{
    sp_turn_deep *p = &t->deep;
    for (size_t i = 0; i < SP_DEEP_VOTES; i++) {
        sp_job_put(p->vote[i].job);
        sp_event_cut_free(p->vote[i].cut);
        sp_buf_fini(&p->vote[i].text);
    }
    sp_event_cut_free(p->cut);
    sp_ids_fini(&p->ids);
    sp_op_put((sp_op *)p->find);
    sp_op_put((sp_op *)p->before);
    *p = (sp_turn_deep){0};
}

void sp_turn_deep_stop(sp_turn *t)
{
    for (size_t i = 0; i < t->deep.n_vote; i++)
        if (t->deep.vote[i].job)
            sp_job_cancel(t->deep.vote[i].job);
}

/* --- what may still be done ------------------------------------------------------------------- */

static bool can_search(const sp_turn *t)
{
    return t->ask->deep.retrieve && !t->deep.has_searched && t->env->know;
}

static size_t tok_left(const sp_turn *t)
{
    size_t most = t->ask->deep.budget_tok, spent = t->deep.n_spent;
    return most > spent ? most - spent : 0;
}

static bool can_vote(const sp_turn *t)
{
    size_t n = t->ask->deep.votes;
    return n && t->deep.n_span < SPANS && tok_left(t) >= n * LEAST_VOTE;
}

bool sp_turn_deep_asks(const sp_turn *t)
{
    return t->deep.on && (can_search(t) || can_vote(t));
}

/* --- going on --------------------------------------------------------------------------------- */

/* The doubt is over: what became of it. */
static void settle(sp_turn *t, sp_unsure_did did)
{
    sp_turn_deep *p = &t->deep;
    sp_receipt_unsure *r = &t->receipt.unsure;
    if (r->n && r->n <= SP_UNSURE_CAUSES)
        r->cause[r->n - 1].did = did;
    r->n_did[did]++;
    r->ms += sp_clock_ms(p->since_ns);
    sp_event_cut_free(p->cut);
    p->cut = NULL;
    p->state = SP_DEEP_NONE;
}

/* The answer goes on behind ids, of which the last n_said are its own. */
static sp_err go_on(sp_turn *t, sp_diag *d)
{
    sp_turn_deep *p = &t->deep;
    sp_turn_choice *c = &t->choice[0];
    sp_job_put(c->job);
    c->job = NULL;
    p->n_more++;
    const sp_turn_more more = {.n_said = p->n_said,
                               .seed = p->seed + SEED_STEP * p->n_more,
                               .doubts = sp_turn_deep_asks(t)};
    return sp_turn_submit_more(t, &c->job, p->ids.id, p->ids.n, &more, d);
}

/* Text of the answer that was held, or drawn. */
static void say(sp_turn *t, const sp_buf *text)
{
    const sp_event ev = {.kind = SP_EVENT_TEXT, .text = *text};
    if (text->len)
        sp_turn_take_text(t, 0, &ev);
}

static sp_err add_ids(sp_turn *t, const uint32_t *id, size_t n, sp_diag *d)
{
    t->deep.n_said += n;
    return sp_ids_add(&t->deep.ids, id, n) == SP_OK ? SP_OK : SP_FAIL(d, SP_NOMEM, "answer");
}

/* The sentence as it stood is dropped: its tokens were computed for nothing. */
static void drop(sp_turn *t)
{
    const sp_event_cut *x = t->deep.cut;
    t->deep.n_spent += x->id.n - x->n_kept;
    t->receipt.unsure.tok += x->id.n - x->n_kept;
}

/* Nothing helps: the sentence leaves as it was. */
static sp_err resume(sp_turn *t, sp_diag *d)
{
    const sp_event_cut *x = t->deep.cut;
    say(t, &x->rest);
    SP_TRY(add_ids(t, x->id.id + x->n_kept, x->id.n - x->n_kept, d));
    settle(t, SP_UNSURE_NOTHING);
    return go_on(t, d);
}

/* --- a search --------------------------------------------------------------------------------- */

/* Where to look: what the request names for this, or searched before, or the server's own. */
static void choose_place(sp_know_op *op, const sp_turn *t)
{
    const sp_ask_deep *q = &t->ask->deep;
    if (q->n_colls) {
        memcpy(op->colls, q->colls, sizeof op->colls);
        op->n_colls = q->n_colls;
    } else if (t->find && !t->find->by_name) {
        memcpy(op->colls, t->find->colls, sizeof op->colls);
        op->n_colls = t->find->n_colls;
        op->filter = t->find->filter;
    } else {
        op->by_name = t->env->retrieve;
    }
    op->cap = t->find ? t->find->cap : SP_ASK_FOUND;
}

static sp_str question_of(const sp_turn *t)
{
    return t->question.p ? t->question : t->msg[t->n_msg - 1].content;
}

/* The sentence so far is the query; beside it stands the question, so that its words are found,
 * too. */
static sp_err begin_search(sp_turn *t, sp_diag *d)
{
    sp_turn_deep *p = &t->deep;
    sp_know_op *op = p->find = sp_know_op_new(t->env->know, SP_KNOW_SEARCH, t->ask->tenant);
    sp_str q = question_of(t);
    sp_buf wide = {0};
    size_t n_rest = p->cut->rest.len < MAX_REST ? p->cut->rest.len : MAX_REST;
    size_t n_q = q.n < MAX_REST ? q.n : MAX_REST;
    p->has_searched = true;
    if (!op)
        return SP_FAIL(d, SP_NOMEM, "request");
    choose_place(op, t);
    n_rest -= sp_utf8_tail(sp_buf_str(&p->cut->rest), n_rest);
    n_q -= sp_utf8_tail(q.p, n_q);
    sp_buf_put(&wide, q.p, n_q);
    sp_buf_putc(&wide, '\n');
    sp_buf_put(&wide, p->cut->rest.p, n_rest);
    op->query = n_rest ? sp_arena_strndup(&op->op.a, p->cut->rest.p, n_rest)
                       : sp_arena_strndup(&op->op.a, q.p, n_q);
    op->wide = wide.failed ? NULL : sp_arena_strndup(&op->op.a, wide.p, wide.len);
    sp_buf_fini(&wide);
    if (!op->query || !op->wide)
        return SP_FAIL(d, SP_NOMEM, "request");
    p->state = SP_DEEP_SEARCH;
    return sp_op_submit(&op->op, sp_turn_ring, t, d);
}

static bool is_among(const sp_rag_hit *hit, size_t n, const sp_rag_hit *one)
{
    for (size_t i = 0; i < n; i++)
        if (hit[i].seq == one->seq && strcmp(hit[i].chunk, one->chunk) == 0)
            return true;
    return false;
}

/* Puts the passages that the prompt has behind those that were found now. *is_new: there is one it
 * has not. */
static sp_err join(sp_turn *t, sp_know_op *op, bool *is_new, sp_diag *d)
{
    size_t n = op->n, n_old = t->n_passage;
    const sp_rag_hit *old = t->find ? t->find->hit : NULL;
    sp_rag_hit *all = sp_arena_alloc(&op->op.a, (n + n_old + 1) * sizeof *all);
    *is_new = false;
    if (!all)
        return SP_FAIL(d, SP_NOMEM, "request");
    for (size_t i = 0; i < n; i++) {
        all[i] = op->hit[i];
        *is_new = *is_new || !is_among(old, n_old, &op->hit[i]);
    }
    for (size_t i = 0; i < n_old && n < SP_RAG_MAX_FOUND; i++)
        if (!is_among(op->hit, op->n, &old[i]))
            all[n++] = old[i];
    op->hit = all;
    op->n = n;
    return SP_OK;
}

/* The prompt with the passages, and the answer as far as it has left. SP_LIMIT: it does not fit. */
static sp_err put_passages(sp_turn *t, sp_know_op *op, sp_diag *d)
{
    sp_context ctx;
    size_t n_said = t->deep.n_said;
    if (t->question.p)
        t->msg[t->n_msg - 1].content = t->question;
    t->question = (sp_str){0};
    t->deep.before = t->find; /* passages of it may stand in the prompt again */
    t->deep.find = NULL;
    t->find = op;
    t->n_passage = t->n_fact = t->n_left = 0;
    SP_TRY(sp_turn_add_passages(t, d));
    t->receipt.chunks = (t->prepare ? t->prepare->n_item : 0) + t->n_passage;
    t->receipt.left_out = t->n_left;
    SP_TRY(sp_turn_render_on(&ctx, t, d));
    sp_ids_fini(&t->deep.ids);
    t->deep.ids = ctx.prompt;
    t->deep.n_said = n_said < ctx.prompt.n ? n_said : ctx.prompt.n;
    ctx.prompt = (sp_ids){0};
    sp_context_fini(&ctx);
    return SP_OK;
}

static sp_err next(sp_turn *t, sp_diag *d);

static sp_err take_found(sp_turn *t, sp_diag *d)
{
    sp_know_op *op = t->deep.find;
    bool is_new = false;
    if (op->op.diag.code) {
        *d = op->op.diag;
        return d->code;
    }
    t->receipt.ms_retrieval += op->op.ms;
    bool bears = op->n && (t->ask->insist || sp_passages_bear(op->hit, op->n));
    if (bears)
        SP_TRY(join(t, op, &is_new, d));
    if (!bears || !is_new)
        return next(t, d);
    SP_TRY(put_passages(t, op, d));
    drop(t);
    settle(t, SP_UNSURE_RETRIEVED);
    return go_on(t, d);
}

/* --- votes ------------------------------------------------------------------------------------ */

static sp_err begin_votes(sp_turn *t, sp_diag *d)
{
    sp_turn_deep *p = &t->deep;
    size_t n = t->ask->deep.votes, most = tok_left(t) / n;
    float own = t->ask->session->sample.temperature;
    most = most < VOTE_TOK ? most : VOTE_TOK;
    p->n_vote = n;
    p->n_span++;
    p->state = SP_DEEP_VOTE;
    float temperature[SP_DEEP_VOTES];
    sp_job *job[SP_DEEP_VOTES];
    for (size_t i = 0; i < n; i++)
        temperature[i] = i && own < VOTE_TEMPERATURE ? VOTE_TEMPERATURE : own;
    const sp_turn_more more = {.n_said = p->n_said,
                               .one_sentence = true,
                               .max_tok = most,
                               .n_answer = n,
                               .temperature = temperature,
                               .seed = p->seed + SEED_STEP * (p->n_more + 1) + 1};
    SP_TRY(sp_turn_submit_more(t, job, p->ids.id, p->ids.n, &more, d));
    for (size_t i = 0; i < n; i++)
        p->vote[i].job = job[i];
    p->n_more++;
    return SP_OK;
}

static void drain_vote(sp_turn *t, sp_turn_drawn *v)
{
    for (sp_event *ev; !v->ended && (ev = sp_job_next(v->job)); sp_event_free(ev)) {
        if (ev->kind == SP_EVENT_TEXT)
            sp_buf_put(&v->text, ev->text.p, ev->text.len);
        if (ev->kind != SP_EVENT_FINISH && ev->kind != SP_EVENT_ERROR)
            continue;
        v->ended = true;
        v->finish = ev->finish;
        v->stop_at = ev->stop_at;
        v->cut = ev->cut;
        ev->cut = NULL;
        sp_turn_count_job(t, ev, false);
        t->deep.n_spent += ev->receipt.tok_out;
        t->receipt.unsure.tok += ev->receipt.tok_out;
        if (ev->kind == SP_EVENT_ERROR)
            t->error.diag = ev->diag;
        else if (v->text.failed)
            (void)SP_FAIL(&t->error.diag, SP_NOMEM, "answer");
        else if (ev->finish == SP_FINISH_CANCEL && !t->stopped)
            (void)SP_FAIL(&t->error.diag, SP_CANCEL, "the server is shutting down");
    }
}

static sp_err take_votes(sp_turn *t, sp_diag *d)
{
    sp_turn_deep *p = &t->deep;
    sp_str text[SP_DEEP_VOTES];
    for (size_t i = 0; i < p->n_vote; i++)
        text[i] = (sp_str){sp_buf_str(&p->vote[i].text), p->vote[i].text.len};
    sp_turn_drawn *won = &p->vote[sp_votes_pick(text, p->n_vote)];
    bool ends = won->finish == SP_FINISH_STOP;
    SP_ASSERT(won->cut);
    size_t n = ends ? won->cut->id.n : won->cut->n_kept;
    say(t, &won->text);
    SP_TRY(add_ids(t, won->cut->id.id, n, d));
    t->receipt.unsure.tok -= n < t->receipt.unsure.tok ? n : 0;
    size_t stop_at = won->stop_at;
    drop(t);
    settle(t, SP_UNSURE_VOTED);
    for (size_t i = 0; i < p->n_vote; i++) {
        sp_job_put(p->vote[i].job);
        sp_event_cut_free(p->vote[i].cut);
        sp_buf_fini(&p->vote[i].text);
        p->vote[i] = (sp_turn_drawn){0};
    }
    p->n_vote = 0;
    if (!ends && p->n_said < t->plan.max_tok)
        return go_on(t, d);
    sp_turn_end_choice(t, 0, ends ? SP_FINISH_STOP : SP_FINISH_LENGTH, stop_at);
    return SP_OK;
}

/* --- the way ---------------------------------------------------------------------------------- */

void sp_turn_doubt(sp_turn *t, sp_event *ev)
{
    sp_turn_deep *p = &t->deep;
    sp_receipt_unsure *r = &t->receipt.unsure;
    p->cut = ev->cut;
    ev->cut = NULL;
    p->since_ns = sp_clock_ns();
    if (r->n < SP_UNSURE_CAUSES)
        r->cause[r->n] = (sp_unsure_cause){.at = p->n_said + p->cut->id.n,
                                           .logprob = p->cut->logprob,
                                           .entropy = p->cut->entropy,
                                           .margin = p->cut->margin};
    r->n++;
    p->state = SP_DEEP_DOUBT;
    (void)add_ids(t, p->cut->id.id, p->cut->n_kept, &t->error.diag);
}

static sp_err next(sp_turn *t, sp_diag *d)
{
    return can_search(t) ? begin_search(t, d) : can_vote(t) ? begin_votes(t, d) : resume(t, d);
}

bool sp_turn_deep_waits(sp_turn *t)
{
    sp_turn_deep *p = &t->deep;
    bool waits = false;
    for (size_t i = 0; i < p->n_vote; i++) {
        drain_vote(t, &p->vote[i]);
        waits = waits || !p->vote[i].ended;
    }
    if (p->state == SP_DEEP_SEARCH)
        waits = !sp_op_is_done(&p->find->op);
    return waits && t->error.diag.code == SP_OK && !t->stopped;
}

sp_err sp_turn_deepen(sp_turn *t, sp_diag *d)
{
    if (t->stopped) {
        say(t, &t->deep.cut->rest);
        settle(t, SP_UNSURE_NOTHING);
        sp_turn_end_choice(t, 0, SP_FINISH_CANCEL, 0);
        return SP_OK;
    }
    switch (t->deep.state) {
    case SP_DEEP_SEARCH: return take_found(t, d);
    case SP_DEEP_VOTE: return take_votes(t, d);
    default: return next(t, d);
    }
}
