/* What a call of a tool may be, as a grammar: the name is one of the tools, the arguments are valid
 * under its schema. A call that must come is bound from its beginning; one that the model begins by
 * itself, from the mark on that begins it, or, where the answer has a form or calls, with it. */
#include "pipe/turn_int.h"

#include "gen/schema.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { MORE_CALLS = 31 /* behind the first one */ };
#define BLANKS "[ \\n]{0,2}" /* which models write before a call */

/* Any object where the schema says nothing of the arguments as a whole. */
static sp_err put_arguments(sp_buf *out, sp_buf *loose, const sp_ask_tool *f, bool any, sp_diag *d)
{
    json_t *schema = f->parameters.n && !any
                         ? json_loadb(f->parameters.p, f->parameters.n, JSON_ALLOW_NUL, NULL)
                         : NULL;
    sp_diag bad = {0};
    sp_err err = json_object_size(schema)
                     ? sp_grammar_schema(out, f->strict ? NULL : loose, schema, &bad)
                     : sp_grammar_object(out, &bad);
    json_decref(schema);
    return err == SP_OK ? SP_OK
                        : SP_FAIL(d, err, "tools: parameters of %.*s: %.100s",
                                  (int)(f->name.n < 60 ? f->name.n : 60), f->name.p, bad.msg);
}

/* Control tokens that a pattern may ask for; what ends an answer is none. */
static bool is_mark(const sp_tok *t, uint32_t id)
{
    return sp_tok_is_control(t, id) && !sp_tok_is_end(t, id) && sp_tok_piece(t, id).n;
}

static void add_mark(sp_turn *t, uint32_t id)
{
    for (size_t i = 0; i < t->n_mark; i++)
        if (t->mark[i] == id)
            return;
    if (t->n_mark < SP_MARK_MAX)
        t->mark[t->n_mark++] = id;
}

/* A text as a pattern, up to a token that ends the answer. *whole: there was none; NULL: nobody
 * asks. */
static sp_err put_text(sp_buf *out, sp_turn *t, const char *text, bool *whole, sp_diag *d)
{
    const sp_tok *tok = t->env->tok;
    sp_ids ids = {0};
    const char *end = text + strlen(text);
    bool ends = false;
    sp_err err = sp_tok_encode(tok, &ids, text, strlen(text), SP_SPECIAL_ALL, d);
    for (size_t i = 0; i < ids.n && err == SP_OK && !ends; i++) {
        sp_str p = sp_tok_piece(tok, ids.id[i]);
        const char *at = sp_tok_is_control(tok, ids.id[i]) && p.n
                             ? memmem(text, (size_t)(end - text), p.p, p.n)
                             : NULL;
        if (!at)
            continue;
        sp_grammar_quote(out, text, (size_t)(at - text));
        text = at + p.n;
        ends = !is_mark(tok, ids.id[i]);
        if (!ends) {
            sp_buf_puts(out, "(?mark)");
            sp_grammar_quote(out, p.p, p.n);
            add_mark(t, ids.id[i]);
        }
    }
    if (!ends)
        sp_grammar_quote(out, text, (size_t)(end - text));
    if (whole)
        *whole = !ends;
    sp_ids_fini(&ids);
    return err;
}

/* NAME between ARGUMENTS, of each tool, or ARGUMENTS of the one that is named. */
static sp_err put_call(sp_buf *out, sp_buf *loose, sp_turn *t, const sp_call_frame *f, bool any,
                       sp_diag *d)
{
    const sp_ask *q = t->ask;
    if (q->calls == SP_CALLS_NAMED)
        return put_arguments(out, loose, &q->tool[q->named], any, d);
    sp_buf_puts(out, "(?:");
    for (size_t i = 0; i < q->n_tool; i++) {
        sp_buf_puts(out, i ? "|" : "");
        sp_grammar_quote(out, q->tool[i].name.p, q->tool[i].name.n);
        SP_TRY(put_text(out, t, f->between, NULL, d));
        SP_TRY(put_arguments(out, loose, &q->tool[i], any, d));
    }
    sp_buf_putc(out, ')');
    return SP_OK;
}

/* How calls begin. One that must come is begun by the prompt; of one that the model begins by
 * itself the pattern has what follows the trigger, or, where the answer may have a form instead,
 * all of it. */
static sp_err put_begin(sp_buf *out, sp_turn *t, const sp_call_frame *f, sp_diag *d)
{
    bool either = t->ask->grammar != NULL;
    if (t->ask->calls >= SP_CALLS_REQUIRED)
        return SP_OK;
    if (either && *f->before)
        sp_buf_puts(out, BLANKS);
    return put_text(out, t, f->before + (either ? 0 : strlen(f->trigger)), NULL, d);
}

/* What calls of the model may be: their beginning, a call, further ones where there is a place for
 * them, and the end of the section. Without a form or a section, further calls of a free answer
 * have triggers of their own. */
static sp_err put_pattern(sp_buf *out, sp_buf *loose, sp_turn *t, const sp_call_frame *f, bool any,
                          sp_diag *d)
{
    const sp_ask *q = t->ask;
    bool whole, several = !q->one_call && q->calls != SP_CALLS_NAMED &&
                          (*f->close || q->grammar || q->calls == SP_CALLS_REQUIRED);
    sp_buf_puts(out, "(?(DEFINE)(?<call>");
    SP_TRY(put_call(out, loose, t, f, any, d));
    SP_TRY(put_text(out, t, f->after, &whole, d));
    sp_buf_puts(out, "))");
    SP_TRY(put_begin(out, t, f, d));
    sp_buf_puts(out, "(?&call)");
    if (several && whole) {
        sp_buf_puts(out, "(?:\\n?");
        SP_TRY(put_text(out, t, f->again, NULL, d));
        sp_buf_printf(out, "(?&call)){0,%d}", MORE_CALLS);
    }
    return put_text(out, t, f->close, NULL, d);
}

/* Arguments with marks of their own cannot be bound: where the answer may have a form instead, the
 * pattern is only how a call begins. */
static sp_err put_loose(sp_buf *out, sp_turn *t, const sp_call_frame *f, sp_diag *d)
{
    sp_buf_puts(out, BLANKS);
    return put_text(out, t, f->trigger, NULL, d);
}

static sp_err compile(sp_turn *t, const sp_call_frame *f, bool any, sp_buf *loose, sp_diag *d)
{
    sp_buf pattern = {0};
    sp_err err = f->is_json ? put_pattern(&pattern, loose, t, f, any, d)
                            : put_loose(&pattern, t, f, d);
    if (err == SP_OK && pattern.failed)
        err = SP_FAIL(d, SP_NOMEM, "tools");
    if (err == SP_OK)
        err = sp_grammar_get(&t->calls, t->env->grammars, sp_buf_str(&pattern), d);
    sp_buf_fini(&pattern);
    return err;
}

static bool any_strict(const sp_ask *q)
{
    for (size_t i = 0; i < q->n_tool; i++)
        if (q->tool[i].strict)
            return true;
    return false;
}

/* Behind what a form leaves out. */
static sp_err keep_loose(sp_ask *q, const sp_buf *loose, sp_diag *d)
{
    sp_buf all = {0};
    if (loose->len == 0)
        return SP_OK;
    sp_buf_printf(&all, "%s%s", q->not_enforced ? q->not_enforced : "", q->not_enforced ? "," : "");
    sp_buf_put(&all, loose->p, loose->len);
    q->not_enforced =
        loose->failed || all.failed ? NULL : sp_arena_strndup(&q->a, all.p, all.len);
    sp_buf_fini(&all);
    return q->not_enforced ? SP_OK : SP_FAIL(d, SP_NOMEM, "tools");
}

sp_err sp_turn_bind_calls(sp_turn *t, sp_diag *d)
{
    const sp_call_format *own = t->env->chat ? sp_chat_format(t->env->chat) : NULL;
    bool must = t->ask->calls >= SP_CALLS_REQUIRED;
    sp_call_frame f;
    sp_buf loose = {0};
    sp_diag bad = {0};
    if (!sp_turn_has_tools(t) || !own || !t->env->grammars)
        return SP_OK;
    sp_call_frame_of(&f, own);
    /* arguments with marks of their own cannot be bound: the call is written as JSON instead */
    if (!f.is_json && must) {
        t->forced = sp_call_format_find("hermes");
        sp_call_frame_of(&f, t->forced);
    }
    if (!f.is_json) {
        t->is_loose = true;
        sp_buf_puts(&loose, any_strict(t->ask) ? "\"strict\"" : "");
        if (t->ask->grammar)
            SP_TRY(compile(t, &f, false, &loose, d));
    } else if (compile(t, &f, false, &loose, &bad) != SP_OK) {
        if (must || any_strict(t->ask) || bad.code == SP_NOMEM) {
            sp_buf_fini(&loose);
            return SP_FAIL(d, bad.code, "%s", bad.msg);
        }
        sp_buf_clear(&loose); /* the model was not promised to be held to them */
        sp_buf_puts(&loose, "\"parameters\"");
        SP_TRY(compile(t, &f, true, &loose, d));
    }
    snprintf(t->trigger, sizeof t->trigger, "%s", f.trigger);
    sp_err err = keep_loose(t->ask, &loose, d);
    sp_buf_fini(&loose);
    return err;
}

/* A form behind the head of an answer, for models that begin each with one. */
static sp_err put_form(sp_buf *out, sp_turn *t, const char *head, sp_diag *d)
{
    const char *form = sp_grammar_pattern(t->ask->grammar);
    form += *form == '^'; /* these stand at a pattern's ends only, and say nothing there */
    size_t n = strlen(form);
    n -= n && form[n - 1] == '$' && (n < 2 || form[n - 2] != '\\');
    SP_TRY(put_text(out, t, head, NULL, d));
    sp_buf_puts(out, "(?:");
    sp_buf_put(out, form, n);
    sp_buf_putc(out, ')');
    return out->failed ? SP_FAIL(d, SP_NOMEM, "request") : SP_OK;
}

sp_err sp_turn_head_form(sp_turn *t, sp_diag *d)
{
    const char *head = t->reads.format ? t->reads.format->head_plain : NULL;
    sp_buf pattern = {0};
    if (t->form)
        return SP_OK;
    if (!head)
        return SP_FAIL(d, SP_UNSUP,
                       "this model's answers begin with heads, of which none is known for a form");
    sp_err err = put_form(&pattern, t, head, d);
    if (err == SP_OK)
        err = sp_grammar_get(&t->form, t->env->grammars, sp_buf_str(&pattern), d);
    sp_buf_fini(&pattern);
    return err;
}
