/* What only /v1/completions has: the prompt before the answer (echo), and log-probabilities as four
 * lists beside each other. */
#include "api/completion_int.h"

#include "base/utf8.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

/* Tokens of a prompt, then of an answer, as one list. */
typedef struct list {
    const sp_event_tok *tok[2];
    size_t n[2];
} list;

static const sp_event_tok *at(const list *r, size_t i)
{
    return i < r->n[0] ? &r->tok[0][i] : &r->tok[1][i - r->n[0]];
}

/* --- texts ------------------------------------------------------------------------------------ */

const sp_ask_prompt *sp_legacy_prompt(const sp_turn *t, size_t choice)
{
    const sp_ask *q = sp_turn_ask(t);
    return &q->prompt[choice / q->n];
}

/* The prompt as text: as it came, or what its ids spell. */
void sp_legacy_echo(sp_buf *out, const sp_tok *tok, const sp_ask_prompt *p)
{
    uint32_t prev = SP_TOK_NONE;
    sp_buf_put(out, p->text.p, p->id ? 0 : p->text.n);
    for (size_t i = 0; p->id && i < p->n_id; prev = p->id[i++])
        sp_tok_decode_after(tok, out, prev, p->id[i], true);
}

/* A token's name in a list; bytes that are no text by themselves in OpenAI's spelling. */
static void put_name(sp_buf *out, const sp_tok *tok, uint32_t id)
{
    sp_str p = sp_tok_piece(tok, id);
    sp_buf hex = {0};
    if (sp_utf8_is_valid(p.p, p.n)) {
        sp_buf_json_str(out, p.p, p.n);
        return;
    }
    sp_buf_puts(&hex, "bytes:");
    for (size_t i = 0; i < p.n; i++)
        sp_buf_printf(&hex, "\\x%02x", (unsigned char)p.p[i]);
    sp_buf_json_str(out, sp_buf_str(&hex), hex.len);
    sp_buf_fini(&hex);
}

/* --- lists ------------------------------------------------------------------------------------ */

static bool has_name(const sp_tok *tok, const sp_event_tok *e, size_t n, uint32_t id)
{
    sp_str p = sp_tok_piece(tok, id);
    for (size_t k = 0; k < n; k++) {
        sp_str q = sp_tok_piece(tok, e->top[k].id);
        if (q.n == p.n && memcmp(q.p, p.p, p.n) == 0)
            return true;
    }
    return false;
}

/* The likeliest tokens, and the one that stands there; each name once. */
static void put_top(sp_buf *out, const sp_tok *tok, const sp_event_tok *e)
{
    const char *comma = "{";
    if (isnan(e->logprob)) {
        sp_buf_puts(out, "null");
        return;
    }
    for (size_t k = 0; k < e->n_top; k++) {
        if (has_name(tok, e, k, e->top[k].id))
            continue;
        sp_buf_puts(out, comma);
        put_name(out, tok, e->top[k].id);
        sp_buf_putc(out, ':');
        sp_buf_json_num(out, (double)e->top[k].logprob);
        comma = ",";
    }
    if (!has_name(tok, e, e->n_top, e->id)) {
        sp_buf_puts(out, comma);
        put_name(out, tok, e->id);
        sp_buf_putc(out, ':');
        sp_buf_json_num(out, (double)e->logprob);
    }
    sp_buf_putc(out, '}');
}

/* Where each token begins in the text, in characters. */
static void put_offsets(sp_buf *out, request *r, const list *row, size_t choice, bool as_ids)
{
    size_t n = row->n[0] + row->n[1];
    uint32_t prev = SP_TOK_NONE;
    sp_buf text = {0};
    for (size_t i = 0; i < n; i++) {
        const sp_event_tok *e = at(row, i);
        sp_buf_printf(out, "%s%zu", i ? "," : "", r->n_char[choice]);
        sp_tok_decode_after(r->on->env.tok, &text, prev, e->id, as_ids);
        r->n_char[choice] += sp_api_characters(sp_buf_str(&text), text.len);
        sp_buf_drop(&text, text.len);
        prev = e->id;
    }
    sp_buf_fini(&text);
}

void sp_legacy_logprobs(sp_buf *out, request *r, const sp_turn *t, size_t choice,
                        const sp_event_tok *prompt, size_t n_prompt, const sp_event_tok *tok,
                        size_t n_tok)
{
    const list row = {{prompt, tok}, {n_prompt, n_tok}};
    size_t n = n_prompt + n_tok;
    const sp_tok *vocab = r->on->env.tok;
    if (!r->logprobs) {
        sp_buf_puts(out, ",\"logprobs\":null");
        return;
    }
    sp_buf_puts(out, ",\"logprobs\":{\"tokens\":[");
    for (size_t i = 0; i < n; i++) {
        sp_buf_puts(out, i ? "," : "");
        put_name(out, vocab, at(&row, i)->id);
    }
    sp_buf_puts(out, "],\"token_logprobs\":[");
    for (size_t i = 0; i < n; i++) {
        sp_buf_puts(out, i ? "," : "");
        if (isnan(at(&row, i)->logprob))
            sp_buf_puts(out, "null");
        else
            sp_buf_json_num(out, (double)at(&row, i)->logprob);
    }
    sp_buf_puts(out, "],\"top_logprobs\":[");
    for (size_t i = 0; i < n; i++) {
        sp_buf_puts(out, i ? "," : "");
        put_top(out, vocab, at(&row, i));
    }
    sp_buf_puts(out, "],\"text_offset\":[");
    put_offsets(out, r, &row, choice, sp_legacy_prompt(t, choice)->id != NULL);
    sp_buf_puts(out, "]}");
}

/* --- the prompt before the answer ------------------------------------------------------------- */

/* Where the answer begins, in characters, if the prompt is not part of the text. */
void sp_legacy_begin(request *r, const sp_turn *t, size_t choice)
{
    sp_buf text = {0};
    if (r->begun >> choice & 1)
        return;
    r->begun |= 1u << choice;
    if (r->logprobs && !r->echo) {
        sp_legacy_echo(&text, r->on->env.tok, sp_legacy_prompt(t, choice));
        r->n_char[choice] = sp_api_characters(sp_buf_str(&text), text.len);
    }
    sp_buf_fini(&text);
}

const sp_event_tok *sp_legacy_prompt_tok(const sp_turn *t, size_t choice, size_t *n)
{
    size_t each = sp_turn_ask(t)->n;
    /* the answers to one prompt share it */
    const sp_turn_answer *a = sp_turn_answer_of(t, choice / each * each);
    *n = a ? a->n_prompt_tok : 0;
    return a ? a->prompt_tok : NULL;
}
