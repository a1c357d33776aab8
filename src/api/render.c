/* Prompts without answers: what a body becomes before anything is computed.
 *   /v1/chat/completions/render, /v1/completions/render   token ids, in the form that
 *   /inference/v1/generate takes
 *   /apply-template                                       the same as text
 * What only the server adds when it answers (passages, a kept conversation) is no part of it. */
#include "api/codec.h"

#include "api/params.h"
#include "pipe/prompt.h"

#include <stdio.h>
#include <string.h>

static void put_ids(sp_buf *out, const sp_turn *t, size_t i, const sp_ids *ids)
{
    const sp_ask *q = sp_turn_ask(t);
    const sp_sample_cfg *s = &q->session->sample;
    const char *name = sp_turn_env_of(t)->name;
    sp_buf_printf(out, "{\"request_id\":\"%s-%zu\",\"model\":", q->id, i);
    sp_buf_json_str(out, name, strlen(name));
    sp_buf_puts(out, ",\"token_ids\":[");
    for (size_t k = 0; k < ids->n; k++)
        sp_buf_printf(out, "%s%u", k ? "," : "", ids->id[k]);
    sp_buf_printf(out, "],\"sampling_params\":{\"n\":%zu,\"temperature\":%.9g,\"top_p\":%.9g", q->n,
                  (double)s->temperature, (double)s->top_p);
    if (q->plan.max_tok)
        sp_buf_printf(out, ",\"max_tokens\":%zu", q->plan.max_tok);
    if (q->seed >= 0)
        sp_buf_printf(out, ",\"seed\":%lld", (long long)q->seed);
    sp_buf_printf(out, "},\"stream\":%s}", q->stream ? "true" : "false");
}

/* The prompt as the model reads it, control tokens spelled out. */
static void put_text(sp_buf *out, const sp_turn *t, const sp_ids *ids)
{
    uint32_t prev = SP_TOK_NONE;
    sp_buf text = {0};
    for (size_t i = 0; i < ids->n; prev = ids->id[i++])
        sp_tok_decode_after(sp_turn_env_of(t)->tok, &text, prev, ids->id[i], true);
    sp_buf_puts(out, "{\"prompt\":");
    sp_buf_json_str(out, sp_buf_str(&text), text.len);
    sp_buf_putc(out, '}');
    sp_buf_fini(&text);
}

sp_err sp_api_render(sp_buf *out, sp_turn *t, sp_api_render_kind kind, sp_turn_error *e)
{
    bool many = !sp_turn_ask(t)->chat;
    size_t n = many ? sp_turn_ask(t)->n_prompt : 1;
    sp_buf_puts(out, many ? "[" : "");
    for (size_t i = 0; i < n; i++) {
        sp_ids ids = {0};
        SP_TRY(sp_turn_prompt(t, &ids, i, e));
        sp_buf_puts(out, i ? "," : "");
        if (kind == SP_RENDER_TEXT)
            put_text(out, t, &ids);
        else
            put_ids(out, t, i, &ids);
        sp_ids_fini(&ids);
    }
    sp_buf_puts(out, many ? "]" : "");
    return out->failed ? SP_FAIL(&e->diag, SP_NOMEM, "answer") : SP_OK;
}
