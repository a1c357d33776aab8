/* What a call of a tool may be, as a grammar: the name is one of the tools, the arguments are valid under its schema. A call that must come is
 * bound from its beginning; one that the model begins by itself, from the mark on that begins it. */
#include "pipe/turn_int.h"

#include "gen/schema.h"

#include <jansson.h>
#include <stdio.h>
#include <string.h>

enum { MORE_CALLS = 31 /* behind the first one that must come */ };

/* Any object where the schema says nothing of the arguments as a whole. */
static sp_err put_arguments(sp_buf *out, sp_buf *loose, const sp_ask_tool *f, bool any, sp_diag *d)
{
    json_t *schema = f->parameters.n && !any ? json_loadb(f->parameters.p, f->parameters.n, JSON_ALLOW_NUL, NULL) : NULL;
    sp_diag bad = {0};
    sp_err err = json_object_size(schema) ? sp_grammar_schema(out, f->strict ? NULL : loose, schema, &bad) : sp_grammar_object(out, &bad);
    json_decref(schema);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "tools: parameters of %.*s: %.100s", (int)(f->name.n < 60 ? f->name.n : 60), f->name.p, bad.msg);
}

/* NAME between ARGUMENTS, of each tool, or ARGUMENTS of the one that is named. */
static sp_err put_call(sp_buf *out, sp_buf *loose, const sp_ask *q, const sp_call_frame *f, bool any, sp_diag *d)
{
    if (q->calls == SP_CALLS_NAMED)
        return put_arguments(out, loose, &q->tool[q->named], any, d);
    sp_buf_puts(out, "(?:");
    for (size_t i = 0; i < q->n_tool; i++) {
        sp_buf_puts(out, i ? "|" : "");
        sp_grammar_quote(out, q->tool[i].name.p, q->tool[i].name.n);
        sp_grammar_quote(out, f->between, strlen(f->between));
        SP_TRY(put_arguments(out, loose, &q->tool[i], any, d));
    }
    sp_buf_putc(out, ')');
    return SP_OK;
}

/* The bytes of a text before its first control token, which no grammar can ask for. */
static sp_err plain_bytes(size_t *out, const sp_tok *t, const char *text, sp_diag *d)
{
    sp_ids ids = {0};
    *out = 0;
    sp_err err = sp_tok_encode(t, &ids, text, strlen(text), SP_SPECIAL_ALL, d);
    for (size_t i = 0; i < ids.n && !sp_tok_is_control(t, ids.id[i]); i++)
        *out += sp_tok_piece(t, ids.id[i]).n;
    sp_ids_fini(&ids);
    *out = *out < strlen(text) ? *out : strlen(text);
    return err;
}

/* The pattern behind what begins a call: the rest of that, the call, what stands behind it; and where they must come and may be several, more. */
static sp_err put_pattern(sp_buf *out, sp_buf *loose, const sp_turn *t, const sp_call_frame *f, bool any, sp_diag *d)
{
    const sp_ask *q = t->ask;
    size_t n_before, n_after;
    bool must = q->calls >= SP_CALLS_REQUIRED;
    SP_TRY(plain_bytes(&n_before, t->env->tok, f->before, d));
    SP_TRY(plain_bytes(&n_after, t->env->tok, f->after, d));
    if (!must)
        sp_grammar_quote(out, f->before + strlen(f->trigger), strlen(f->before) - strlen(f->trigger));
    sp_buf_puts(out, "(?(DEFINE)(?<call>");
    SP_TRY(put_call(out, loose, q, f, any, d));
    sp_grammar_quote(out, f->after, n_after);
    sp_buf_puts(out, "))(?&call)");
    if (q->calls == SP_CALLS_REQUIRED && !q->one_call && n_before == strlen(f->before) && n_after == strlen(f->after)) {
        sp_buf_puts(out, "(?:\\n?");
        sp_grammar_quote(out, f->before, strlen(f->before));
        sp_buf_printf(out, "(?&call)){0,%d}", MORE_CALLS);
    }
    return SP_OK;
}

static sp_err compile(sp_turn *t, const sp_call_frame *f, bool any, sp_buf *loose, sp_diag *d)
{
    sp_buf pattern = {0};
    sp_err err = put_pattern(&pattern, loose, t, f, any, d);
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

static sp_err keep_loose(sp_ask *q, const sp_buf *loose, sp_diag *d)
{
    if (loose->len == 0)
        return SP_OK;
    q->not_enforced = loose->failed ? NULL : sp_arena_strndup(&q->a, loose->p, loose->len);
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
    if (!f.is_json && must) { /* arguments with marks of their own cannot be bound: the call is written as JSON instead */
        t->forced = sp_call_format_find("hermes");
        sp_call_frame_of(&f, t->forced);
    }
    if (!f.is_json) {
        sp_buf_puts(&loose, any_strict(t->ask) ? "\"strict\"" : "");
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
