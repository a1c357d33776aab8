/* Spans of an answer that leave as marks: of a stream while it comes, of a whole answer when it is
 * there. */
#include "pipe/turn_int.h"

/* A mark is some 70 bytes of a whole answer; of a stream it stands for chunks that are longer. A
 * line of the list that readers get is longer than either. */
enum { LEAST_WHOLE = 80, LEAST_READABLE = 120 };

static void lack(sp_turn *t)
{
    if (!t->error.diag.code)
        (void)SP_FAIL(&t->error.diag, SP_NOMEM, "answer");
}

static void note(sp_turn *t, const sp_refer *r)
{
    const sp_refer_stat s = sp_refer_stat_of(r);
    sp_receipt_refs *to = &t->receipt.refs;
    to->marks += s.n_mark;
    to->tok += s.n_tok;
    to->bytes += s.n_byte;
    to->mark_bytes += s.n_mark_byte;
    to->guessed += s.n_guessed;
}

static sp_refer_cfg cfg_of(const sp_turn *t)
{
    const sp_ask *q = t->ask;
    bool readable = q->refer == SP_REFER_READABLE;
    return (sp_refer_cfg){.source = q->source,
                          .n_source = q->n_source,
                          .tok = t->env->tok,
                          .readable = readable,
                          .least = readable    ? LEAST_READABLE
                                   : q->stream ? 0
                                               : LEAST_WHOLE,
                          .most = q->stream && !readable ? SP_REFER_SPAN : 0,
                          .has_at = !q->stream};
}

/* --- a stream --------------------------------------------------------------------------------- */

static void push_text(void *arg, sp_str text, const char *how)
{
    sp_turn_choice *c = arg;
    sp_turn_push(c->turn, &(sp_turn_event){.kind = SP_TURN_TEXT,
                                           .choice = (size_t)(c - c->turn->choice),
                                           .text = text,
                                           .how = how});
}

static void push_mark(void *arg, const sp_reference *ref)
{
    sp_turn_choice *c = arg;
    sp_turn_push(c->turn, &(sp_turn_event){.kind = SP_TURN_REFERENCE,
                                           .choice = (size_t)(c - c->turn->choice),
                                           .ref = *ref});
}

void sp_turn_give(sp_turn *t, size_t i, const sp_turn_event *ev)
{
    sp_turn_choice *c = &t->choice[i];
    bool leaves = t->ask->stream && (t->plan.votes <= 1 || t->voted);
    if (!t->ask->refer || !leaves) {
        sp_turn_push(t, ev);
        return;
    }
    sp_refer_cfg cfg = cfg_of(t);
    cfg.text = push_text;
    cfg.mark = push_mark;
    cfg.arg = c;
    c->turn = t;
    if ((!c->refer && sp_refer_new(&c->refer, &cfg) != SP_OK) ||
        sp_refer_feed(c->refer, ev->text, ev->how) != SP_OK)
        lack(t);
}

void sp_turn_give_rest(sp_turn *t, size_t i, bool ends)
{
    sp_turn_choice *c = &t->choice[i];
    if (!c->refer)
        return;
    if ((ends ? sp_refer_finish(c->refer) : sp_refer_flush(c->refer)) != SP_OK)
        lack(t);
    if (!ends)
        return;
    note(t, c->refer);
    sp_refer_free(c->refer);
    c->refer = NULL;
}

/* --- a whole answer --------------------------------------------------------------------------- */

typedef struct whole {
    sp_turn_answer *a;
    size_t cap;
    bool failed;
} whole;

static void add_text(void *arg, sp_str text, const char *how)
{
    (void)how;
    whole *w = arg;
    sp_buf_put(&w->a->sent, text.p, text.n);
}

static void add_mark(void *arg, const sp_reference *ref)
{
    whole *w = arg;
    w->failed = w->failed || !sp_mem_has_room(&w->a->ref, &w->cap, w->a->n_ref, sizeof *w->a->ref);
    if (!w->failed)
        w->a->ref[w->a->n_ref++] = *ref;
}

static sp_err refer_whole(sp_turn *t, sp_turn_answer *a)
{
    sp_refer *r;
    whole w = {.a = a};
    sp_refer_cfg cfg = cfg_of(t);
    cfg.text = add_text;
    cfg.mark = add_mark;
    cfg.arg = &w;
    SP_TRY(sp_refer_new(&r, &cfg));
    sp_err err =
        sp_refer_feed(r, (sp_str){sp_buf_str(&a->text), a->text.len}, a->how.len ? a->how.p : NULL);
    if (err == SP_OK)
        err = sp_refer_finish(r);
    note(t, r);
    sp_refer_free(r);
    return err == SP_OK && (w.failed || a->sent.failed) ? SP_NOMEM : err;
}

void sp_turn_refer(sp_turn *t)
{
    if (t->referred || t->ask->stream || !t->ask->refer)
        return;
    t->referred = true;
    for (size_t i = 0; i < t->n_choice; i++)
        if (refer_whole(t, &t->choice[i].answer) != SP_OK)
            lack(t);
}
