/* Tools of a request, from their values to what the template is told, and an answer's text taken
 * apart into text, thoughts and calls. */
#include "pipe/turn_int.h"

#include "base/rng.h"

#include <stdio.h>
#include <string.h>

/* --- before the answer ------------------------------------------------------------------------ */

static void put_tool(sp_buf *out, const sp_ask_tool *f)
{
    static const char any[] = "{\"type\":\"object\",\"properties\":{}}";
    sp_buf_puts(out, "{\"type\":\"function\",\"function\":{\"name\":");
    sp_buf_json_str(out, f->name.p, f->name.n);
    if (f->description.n) {
        sp_buf_puts(out, ",\"description\":");
        sp_buf_json_str(out, f->description.p, f->description.n);
    }
    sp_buf_puts(out, ",\"parameters\":");
    sp_buf_put(out, f->parameters.n ? f->parameters.p : any,
               f->parameters.n ? f->parameters.n : sizeof any - 1);
    sp_buf_puts(out, "}}");
}

bool sp_turn_has_tools(const sp_turn *t)
{
    return t->ask->n_tool && t->ask->calls != SP_CALLS_NONE;
}

/* Where a call must come, no other answer can. */
static void drop_form(sp_ask *q)
{
    sp_grammar_put(q->grammar);
    q->grammar = NULL;
    q->not_enforced = NULL;
}

sp_err sp_turn_read_tools(sp_turn *t, sp_diag *d)
{
    sp_buf all = {0};
    sp_turn_about(t, "tools");
    SP_TRY(sp_ask_check_tools(t->ask, d));
    if (!sp_turn_has_tools(t))
        return SP_OK;
    if (t->ask->calls >= SP_CALLS_REQUIRED)
        drop_form(t->ask);
    for (size_t i = 0; i < t->ask->n_tool; i++) {
        sp_buf_putc(&all, i ? ',' : '[');
        put_tool(&all, &t->ask->tool[i]);
    }
    sp_buf_putc(&all, ']');
    const char *text = all.failed ? NULL : sp_arena_strndup(&t->ask->a, all.p, all.len);
    t->tools = (sp_str){text, all.len};
    sp_buf_fini(&all);
    return text ? sp_turn_bind_calls(t, d) : SP_FAIL(d, SP_NOMEM, "tools");
}

/* A call that must come is begun by the prompt: what stands before the name, and the name if there
 * is no choice. Thoughts end there. */
sp_err sp_turn_begin_call(sp_turn *t, sp_context *ctx, sp_diag *d)
{
    const sp_ask *q = t->ask;
    sp_buf text = {0};
    sp_call_frame frame;
    if (!sp_turn_has_tools(t) || q->calls < SP_CALLS_REQUIRED || !t->reads.format)
        return SP_OK;
    t->reads.format = t->forced ? t->forced : t->reads.format;
    sp_call_frame_of(&frame, t->reads.format);
    t->n_before = ctx->prompt.n;
    if (t->reads.at == SP_ANSWER_THINK)
        sp_buf_printf(&text, "\n%s\n\n", t->reads.think.close);
    sp_buf_puts(&text, frame.before);
    if (q->calls == SP_CALLS_NAMED)
        sp_buf_printf(&text, "%.*s%s", (int)q->tool[q->named].name.n, q->tool[q->named].name.p,
                      frame.between);
    sp_err err = text.failed ? SP_FAIL(d, SP_NOMEM, "tools")
                             : sp_tok_encode(t->env->tok, &ctx->prompt, sp_buf_str(&text), text.len,
                                             SP_SPECIAL_ALL, d);
    sp_buf_fini(&text);
    if (err != SP_OK)
        return err;
    t->n_begun = ctx->prompt.n - t->n_before;
    t->begun = sp_arena_alloc(&t->ask->a, (t->n_begun + 1) * sizeof *t->begun);
    if (!t->begun)
        return SP_FAIL(d, SP_NOMEM, "tools");
    memcpy(t->begun, ctx->prompt.id + t->n_before, t->n_begun * sizeof *t->begun);
    return SP_OK;
}

static bool is_either(const sp_turn *t)
{
    return t->ask->grammar && sp_turn_has_tools(t) && t->ask->calls == SP_CALLS_AUTO;
}

sp_err sp_turn_begin_form(sp_turn *t, sp_context *ctx, sp_diag *d)
{
    const sp_turn_env *env = t->env;
    sp_buf text = {0};
    if (!t->ask->grammar || t->ask->calls >= SP_CALLS_REQUIRED)
        return SP_OK;
    if (t->reads.at == SP_ANSWER_HEAD)
        return sp_turn_head_form(t, d);
    if (t->reads.at != SP_ANSWER_THINK || env->think_open != env->think_close)
        return SP_OK;
    t->reads.at = SP_ANSWER_TEXT; /* nobody would see where these thoughts end */
    sp_buf_printf(&text, "\n%s\n\n", t->reads.think.close);
    sp_err err = text.failed ? SP_FAIL(d, SP_NOMEM, "request")
                             : sp_tok_encode(env->tok, &ctx->prompt, sp_buf_str(&text), text.len,
                                             SP_SPECIAL_ALL, d);
    sp_buf_fini(&text);
    return err;
}

/* --- the answer ------------------------------------------------------------------------------- */

/* The model writes no id, or clients need one that no other call of the conversation has. */
static void name_call(char out[32], sp_str given)
{
    if (given.n && given.n < 32)
        snprintf(out, 32, "%.*s", (int)given.n, given.p);
    else
        snprintf(out, 32, "call_%016llx", (unsigned long long)sp_rng_entropy());
}

static void on_part(void *arg, const sp_answer_event *e)
{
    sp_turn_choice *c = arg;
    sp_turn *t = c->turn;
    size_t i = (size_t)(c - t->choice);
    char id[32];
    switch (e->kind) {
    case SP_ANSWER_SAYS: sp_turn_say(t, i, e->text, SP_TURN_TEXT); break;
    case SP_ANSWER_THINKS: sp_turn_say(t, i, e->text, SP_TURN_REASONING); break;
    case SP_ANSWER_OPEN: break;
    case SP_ANSWER_CALL:
        name_call(id, e->id);
        sp_turn_open_call(t, i, (sp_str){id, strlen(id)}, e->text);
        break;
    case SP_ANSWER_ARGS: sp_turn_add_args(t, i, e->text); break;
    case SP_ANSWER_END: sp_turn_close_call(t, i); break;
    }
}

/* What the prompt has begun is read first. */
static sp_err make_reader(sp_turn *t, size_t i, sp_diag *d)
{
    sp_turn_choice *c = &t->choice[i];
    sp_answer_cfg cfg = t->reads;
    c->turn = t;
    cfg.is_either = t->ask->grammar != NULL;
    cfg.on = on_part;
    cfg.arg = c;
    SP_TRY(sp_answer_new(&c->reader, &cfg, d));
    for (size_t k = 0; k < t->n_begun; k++) {
        sp_str p = sp_tok_piece(t->env->tok, t->begun[k]);
        SP_TRY(sp_answer_feed(c->reader, p.p, p.n, sp_tok_is_control(t->env->tok, t->begun[k])));
    }
    return SP_OK;
}

bool sp_turn_is_read(const sp_turn *t)
{
    bool has_head = t->reads.at == SP_ANSWER_HEAD;
    bool is_form = t->ask->grammar && !is_either(t); /* only what comes before it is read */
    bool has_parts = is_form ? t->reads.at != SP_ANSWER_TEXT
                             : sp_turn_has_tools(t) || t->reads.think.open || has_head;
    return t->ask->chat && has_parts;
}

/* Text between control tokens, and those. */
static sp_err feed(sp_answer *a, const sp_event *ev)
{
    size_t at = 0;
    for (size_t k = 0; k < ev->n_mark; k++) {
        const sp_event_mark *m = &ev->mark[k];
        SP_TRY(sp_answer_feed(a, ev->text.p + at, m->at - at, false));
        SP_TRY(sp_answer_feed(a, ev->text.p + m->at, m->n, true));
        at = m->at + m->n;
    }
    return sp_answer_feed(a, sp_buf_str(&ev->text) + at, ev->text.len - at, false);
}

sp_err sp_turn_read_text(sp_turn *t, size_t i, const sp_event *ev, sp_diag *d)
{
    sp_turn_choice *c = &t->choice[i];
    if (!c->reader)
        SP_TRY(make_reader(t, i, d));
    sp_err err = feed(c->reader, ev);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "answer");
}

sp_err sp_turn_read_end(sp_turn *t, size_t i, sp_diag *d)
{
    sp_turn_choice *c = &t->choice[i];
    if (c->job && !c->reader && sp_turn_is_read(t))
        SP_TRY(make_reader(t, i, d));
    sp_err err = c->reader ? sp_answer_finish(c->reader) : SP_OK;
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "answer");
}
