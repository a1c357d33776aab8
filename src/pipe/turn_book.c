/* What comes back: events of jobs and of other servers' calls become the answers of the turn, and
 * its events. */
#include "pipe/turn_int.h"

#include "base/clock.h"

#include <jansson.h>
#include <string.h>

enum { MAX_CALLS = 128 /* of one answer */ };

/* --- events on their way out ------------------------------------------------------------------ */

void sp_turn_node_free(sp_turn_node *n)
{
    if (!n)
        return;
    sp_buf_fini(&n->text);
    sp_buf_fini(&n->id);
    sp_buf_fini(&n->name);
    sp_buf_fini(&n->how);
    sp_mem_free(n->tok);
    sp_mem_free(n);
}

static sp_str keep(sp_buf *b, sp_str s)
{
    sp_buf_put(b, s.p, s.n);
    return (sp_str){sp_buf_str(b), b->len};
}

void sp_turn_push(sp_turn *t, const sp_turn_event *ev)
{
    if (!t->ask->stream || (t->plan.votes > 1 && !t->voted && ev->kind != SP_TURN_AGAIN))
        return;
    sp_turn_node *n = sp_mem_alloc(sizeof *n);
    if (n) {
        n->ev = *ev;
        n->ev.text = keep(&n->text, ev->text);
        n->ev.call_id = keep(&n->id, ev->call_id);
        n->ev.name = keep(&n->name, ev->name);
        n->tok = ev->n_tok ? sp_mem_array(ev->n_tok, sizeof *n->tok) : NULL;
        if (n->tok)
            memcpy(n->tok, ev->tok, ev->n_tok * sizeof *n->tok);
        n->ev.tok = n->tok;
        if (ev->how)
            n->ev.how = keep(&n->how, (sp_str){ev->how, ev->text.n}).p;
    }
    if (!n || n->text.failed || n->id.failed || n->name.failed || n->how.failed ||
        (ev->n_tok && !n->tok)) {
        sp_turn_node_free(n);
        (void)SP_FAIL(&t->error.diag, SP_NOMEM, "answer");
        return;
    }
    *t->tail = n;
    t->tail = &n->next;
    if (ev->kind != SP_TURN_BEGIN && ev->kind != SP_TURN_AGAIN)
        t->choice[ev->choice].given = true;
}

/* --- answers ---------------------------------------------------------------------------------- */

void sp_turn_answer_fini(sp_turn_answer *a)
{
    for (size_t i = 0; i < a->n_call; i++) {
        sp_buf_fini(&a->call[i].id);
        sp_buf_fini(&a->call[i].name);
        sp_buf_fini(&a->call[i].args);
    }
    sp_buf_fini(&a->text);
    sp_buf_fini(&a->reasoning);
    sp_buf_fini(&a->how);
    sp_buf_fini(&a->sent);
    sp_mem_free(a->ref);
    sp_mem_free(a->call);
    sp_mem_free(a->tok);
    sp_mem_free(a->cite);
    sp_mem_free(a->prompt_tok);
    *a = (sp_turn_answer){0};
}

static void lack(sp_turn *t)
{
    (void)SP_FAIL(&t->error.diag, SP_NOMEM, "answer");
}

/* Makes room for more items in an array of n, whose memory is always the next power of two. */
static bool grow(void **p, size_t n, size_t more, size_t each)
{
    size_t had = n > 0, cap = 1, bytes;
    while (had < n)
        had *= 2;
    while (cap < n + more)
        cap *= 2;
    if (cap <= had)
        return true;
    void *to = sp_mul_ok(&bytes, cap, each) ? sp_mem_grow(*p, bytes) : NULL;
    *p = to ? to : *p;
    return to != NULL;
}

static void add_tokens(sp_turn *t, sp_turn_answer *a, const sp_event *ev)
{
    if (ev->n_tok == 0)
        return;
    void *p = a->tok;
    if (!grow(&p, a->n_tok, ev->n_tok, sizeof *a->tok)) {
        lack(t);
        return;
    }
    a->tok = p;
    memcpy(a->tok + a->n_tok, ev->tok, ev->n_tok * sizeof *a->tok);
    a->n_tok += ev->n_tok;
}

/* What the tokens of a piece of text cost stays beside the text. Text that was held back by whoever
 * took the answer apart has lost it. */
static bool keep_how(const sp_turn *t, sp_turn_answer *a, const sp_event *from, size_t n,
                     sp_turn_kind kind)
{
    if (kind != SP_TURN_TEXT || !(t->ask->costs || t->ask->refer))
        return true;
    if (from && from->how.len == n)
        sp_buf_put(&a->how, from->how.p, n);
    else
        for (size_t i = 0; i < n; i++)
            sp_buf_putc(&a->how, SP_TOK_INSIDE);
    return !a->how.failed;
}

void sp_turn_say(sp_turn *t, size_t i, sp_str text, sp_turn_kind kind)
{
    sp_turn_choice *c = &t->choice[i];
    sp_buf *to = kind == SP_TURN_REASONING ? &c->answer.reasoning : &c->answer.text;
    const sp_event *from = c->from;
    c->from = NULL;
    if (t->ms_first <= 0)
        t->ms_first = sp_clock_ms(t->ask->begin_ns);
    sp_buf_put(to, text.p, text.n);
    if (to->failed || !keep_how(t, &c->answer, from, text.n, kind))
        lack(t);
    const sp_turn_event ev = {.kind = kind,
                              .choice = i,
                              .text = text,
                              .tok = from ? from->tok : NULL,
                              .n_tok = from ? from->n_tok : 0,
                              .how =
                                  from && from->how.len == text.n ? sp_buf_str(&from->how) : NULL};
    if (kind == SP_TURN_TEXT) {
        sp_turn_give(t, i, &ev);
        return;
    }
    sp_turn_give_rest(t, i, false);
    sp_turn_push(t, &ev);
}

void sp_turn_take_text(sp_turn *t, size_t i, const sp_event *ev)
{
    sp_turn_choice *c = &t->choice[i];
    add_tokens(t, &c->answer, ev);
    c->from = ev;
    if (c->job && sp_turn_is_read(t)) {
        sp_err err = sp_turn_read_text(t, i, ev, &t->error.diag);
        t->error.diag.code = t->error.diag.code ? t->error.diag.code : err;
    } else {
        sp_turn_say(t, i, (sp_str){ev->text.p, ev->text.len}, SP_TURN_TEXT);
    }
    c->from = NULL;
}

void sp_turn_close_call(sp_turn *t, size_t i)
{
    sp_turn_choice *c = &t->choice[i];
    if (c->in_call)
        sp_turn_push(
            t,
            &(sp_turn_event){.kind = SP_TURN_CALL_END, .choice = i, .call = c->answer.n_call - 1});
    c->in_call = false;
}

void sp_turn_open_call(sp_turn *t, size_t i, sp_str id, sp_str name)
{
    sp_turn_choice *c = &t->choice[i];
    sp_turn_answer *a = &c->answer;
    void *p = a->call;
    sp_turn_close_call(t, i);
    sp_turn_give_rest(t, i, false);
    if (t->ms_first <= 0)
        t->ms_first = sp_clock_ms(t->ask->begin_ns);
    if (!grow(&p, a->n_call, 1, sizeof *a->call)) {
        lack(t);
        return;
    }
    a->call = p;
    a->call[a->n_call] = (sp_turn_call){0};
    sp_buf_put(&a->call[a->n_call].id, id.p, id.n);
    sp_buf_put(&a->call[a->n_call].name, name.p, name.n);
    c->in_call = true;
    sp_turn_push(t, &(sp_turn_event){.kind = SP_TURN_CALL,
                                     .choice = i,
                                     .call = a->n_call++,
                                     .call_id = id,
                                     .name = name});
}

void sp_turn_add_args(sp_turn *t, size_t i, sp_str text)
{
    sp_turn_choice *c = &t->choice[i];
    size_t last = c->answer.n_call - 1;
    if (text.n == 0 || !c->in_call)
        return;
    sp_buf_put(&c->answer.call[last].args, text.p, text.n);
    if (c->answer.call[last].args.failed)
        lack(t);
    sp_turn_push(t,
                 &(sp_turn_event){.kind = SP_TURN_ARGS, .choice = i, .call = last, .text = text});
}

static void take_prompt(sp_turn *t, size_t i, sp_event *ev)
{
    sp_turn_answer *a = &t->choice[i].answer;
    a->prompt_tok = ev->tok;
    a->n_prompt_tok = ev->n_tok;
    ev->tok = NULL;
}

static sp_str str_of(const json_t *v)
{
    return (sp_str){json_string_value(v), json_string_length(v)};
}

/* Pieces of tool calls from another server: each names its call by index; the first of a call has
 * its name. What is not one, or belongs to a call that has ended, is left out. */
static void take_calls(sp_turn *t, size_t i, const sp_event *ev)
{
    sp_turn_choice *c = &t->choice[i];
    json_t *pieces = json_loadb(sp_buf_str(&ev->text), ev->text.len, JSON_ALLOW_NUL, NULL), *piece;
    size_t k;
    json_array_foreach(pieces, k, piece)
    {
        const json_t *fn = json_object_get(piece, "function"),
                     *index = json_object_get(piece, "index");
        json_int_t at = json_is_integer(index) ? json_integer_value(index) : -1;
        sp_str name = str_of(json_object_get(fn, "name"));
        if (at == (json_int_t)c->answer.n_call && name.n && at < MAX_CALLS)
            sp_turn_open_call(t, i, str_of(json_object_get(piece, "id")), name);
        if (c->in_call && at == (json_int_t)c->answer.n_call - 1)
            sp_turn_add_args(t, i, str_of(json_object_get(fn, "arguments")));
    }
    json_decref(pieces);
}

static void cite(sp_turn *t, size_t i)
{
    sp_turn_answer *a = &t->choice[i].answer;
    if (!t->find)
        return;
    a->cite = sp_mem_array(SP_CITATIONS, sizeof *a->cite);
    if (a->cite)
        a->n_cite = sp_passages_cite(a->cite, sp_buf_str(&a->text), a->text.len, t->find->hit,
                                     t->n_passage);
    else
        lack(t);
    sp_turn_push(t, &(sp_turn_event){.kind = SP_TURN_CITATIONS,
                                     .choice = i,
                                     .cite = a->cite,
                                     .n_cite = a->n_cite});
}

static void finish(sp_turn *t, size_t i, sp_finish how, size_t stop_at)
{
    sp_turn_answer *a = &t->choice[i].answer;
    sp_err err = sp_turn_read_end(t, i, &t->error.diag);
    t->error.diag.code = t->error.diag.code ? t->error.diag.code : err;
    sp_turn_close_call(t, i);
    sp_turn_give_rest(t, i, true);
    cite(t, i);
    a->finish = how == SP_FINISH_STOP && a->n_call ? SP_FINISH_CALLS : how;
    a->stop = stop_at ? t->ask->session->stop[stop_at - 1] : NULL;
    sp_turn_push(t, &(sp_turn_event){.kind = SP_TURN_FINISH, .choice = i, .finish = a->finish});
}

static void refuse_unknown(sp_turn *t)
{
    t->error.why = SP_WHY_UNKNOWN;
    sp_turn_about(t, "prefer");
    (void)SP_FAIL(&t->error.diag, SP_NOTFOUND,
                  "the cache holds nothing of this prompt, and the request is to be answered only "
                  "if it does");
}

void sp_turn_end_choice(sp_turn *t, size_t i, sp_finish how, size_t stop_at)
{
    t->choice[i].ended = true;
    t->n_ended++;
    finish(t, i, how, stop_at);
}

static void take_end(sp_turn *t, size_t i, sp_event *ev)
{
    sp_turn_choice *c = &t->choice[i];
    sp_turn_count_job(t, ev, c->call != NULL);
    if (ev->kind == SP_EVENT_FINISH && ev->finish == SP_FINISH_UNSURE && ev->cut) {
        sp_turn_doubt(t, ev);
        return;
    }
    if ((ev->kind == SP_EVENT_FINISH && ev->finish == SP_FINISH_UNSURE) ||
        (ev->kind == SP_EVENT_ERROR && c->call && !c->given &&
         !t->ask->plan.forbid[SP_PATH_FULL])) {
        static const char failed[] = "the other server failed",
                          unsure[] = "escalated: the light answer was not sure";
        t->unsure = true;
        t->receipt.n_unsure += ev->kind == SP_EVENT_FINISH;
        t->receipt.tok_unsure += ev->kind == SP_EVENT_FINISH ? ev->receipt.tok_out : 0;
        sp_turn_push(t, &(sp_turn_event){.kind = SP_TURN_AGAIN,
                                         .text = c->call ? (sp_str){failed, sizeof failed - 1}
                                                         : (sp_str){unsure, sizeof unsure - 1}});
        return;
    }
    c->ended = true;
    t->n_ended++;
    if (c->call)
        t->n_prompt_tok = ev->n_prompt;
    if (ev->kind == SP_EVENT_ERROR)
        t->error.diag = ev->diag;
    else if (ev->finish == SP_FINISH_CANCEL && !t->stopped)
        (void)SP_FAIL(&t->error.diag, SP_CANCEL, "the server is shutting down");
    else if (ev->finish == SP_FINISH_UNKNOWN && t->ask->if_available)
        refuse_unknown(t);
    else
        finish(t, i, ev->finish, ev->stop_at);
}

static void take(sp_turn *t, size_t i, sp_event *ev)
{
    if (ev->kind == SP_EVENT_PROMPT)
        take_prompt(t, i, ev);
    else if (ev->kind == SP_EVENT_TEXT)
        sp_turn_take_text(t, i, ev);
    else if (ev->kind == SP_EVENT_CALLS)
        take_calls(t, i, ev);
    else
        take_end(t, i, ev);
}

void sp_turn_drain(sp_turn *t)
{
    for (size_t i = 0; i < t->n_choice; i++) {
        sp_turn_choice *c = &t->choice[i];
        if (!c->begun)
            sp_turn_push(t, &(sp_turn_event){.kind = SP_TURN_BEGIN, .choice = i});
        c->begun = true;
        for (sp_event *ev; !c->ended && !t->unsure && !t->deep.state &&
                           (ev = c->call ? sp_call_next(c->call) : sp_job_next(c->job));
             sp_event_free(ev))
            take(t, i, ev);
    }
}

static sp_str str_buf(const sp_buf *b)
{
    return (sp_str){sp_buf_str(b), b->len};
}

void sp_turn_push_answer(sp_turn *t, size_t i)
{
    const sp_turn_answer *a = &t->choice[i].answer;
    sp_turn_push(t, &(sp_turn_event){.kind = SP_TURN_BEGIN, .choice = i});
    if (a->reasoning.len)
        sp_turn_push(t, &(sp_turn_event){.kind = SP_TURN_REASONING,
                                         .choice = i,
                                         .text = str_buf(&a->reasoning)});
    if (a->text.len || !a->n_call)
        sp_turn_give(t, i,
                     &(sp_turn_event){.kind = SP_TURN_TEXT,
                                      .choice = i,
                                      .text = str_buf(&a->text),
                                      .tok = a->tok,
                                      .n_tok = a->n_tok,
                                      .how = a->how.len ? a->how.p : NULL});
    sp_turn_give_rest(t, i, true);
    for (size_t k = 0; k < a->n_call; k++) {
        const sp_turn_call *c = &a->call[k];
        sp_turn_push(t, &(sp_turn_event){.kind = SP_TURN_CALL,
                                         .choice = i,
                                         .call = k,
                                         .call_id = str_buf(&c->id),
                                         .name = str_buf(&c->name)});
        sp_turn_push(t, &(sp_turn_event){.kind = SP_TURN_ARGS,
                                         .choice = i,
                                         .call = k,
                                         .text = str_buf(&c->args)});
        sp_turn_push(t, &(sp_turn_event){.kind = SP_TURN_CALL_END, .choice = i, .call = k});
    }
    if (t->find)
        sp_turn_push(t, &(sp_turn_event){.kind = SP_TURN_CITATIONS,
                                         .choice = i,
                                         .cite = a->cite,
                                         .n_cite = a->n_cite});
    sp_turn_push(t, &(sp_turn_event){.kind = SP_TURN_FINISH, .choice = i, .finish = a->finish});
}
