/* What several codecs do the same way. */
#include "api/codec.h"

/* --- reading ---------------------------------------------------------------------------------- */

float sp_api_top_p(double asked)
{
    static const double LEAST = 1e-6;
    return (float)(asked < LEAST ? LEAST : asked);
}

sp_err sp_api_keep(const char **out, sp_ask *q, const sp_buf *text, sp_diag *d)
{
    *out = text->len && !text->failed ? sp_arena_strndup(&q->a, text->p, text->len) : NULL;
    return (text->len && !*out) || text->failed ? SP_FAIL(d, SP_NOMEM, "request") : SP_OK;
}

/* --- writing ---------------------------------------------------------------------------------- */

void sp_api_put_args(sp_buf *out, const sp_buf *args)
{
    json_t *v = json_loadb(sp_buf_str(args), args->len, JSON_ALLOW_NUL, NULL);
    if (json_is_object(v)) {
        sp_buf_put(out, args->p, args->len);
    } else if (args->len) {
        sp_buf_puts(out, "{\"arguments\":");
        sp_buf_json_str(out, args->p, args->len);
        sp_buf_putc(out, '}');
    } else {
        sp_buf_puts(out, "{}");
    }
    json_decref(v);
}

/* An object that stays open. */
static void put_token(sp_buf *out, const sp_tok *vocab, uint32_t id, float logprob, bool bytes)
{
    sp_str p = sp_tok_piece(vocab, id);
    sp_buf_puts(out, "{\"token\":");
    sp_buf_json_str(out, p.p, p.n);
    sp_buf_puts(out, ",\"logprob\":");
    sp_buf_json_num(out, (double)logprob);
    if (!bytes)
        return;
    sp_buf_puts(out, ",\"bytes\":[");
    for (size_t i = 0; i < p.n; i++)
        sp_buf_printf(out, "%s%u", i ? "," : "", (unsigned char)p.p[i]);
    sp_buf_putc(out, ']');
}

void sp_api_put_logprobs(sp_buf *out, const sp_tok *vocab, const sp_event_tok *tok, size_t n,
                         bool bytes)
{
    for (size_t i = 0; i < n; i++) {
        sp_buf_puts(out, i ? "," : "");
        put_token(out, vocab, tok[i].id, tok[i].logprob, bytes);
        sp_buf_puts(out, ",\"top_logprobs\":[");
        for (size_t k = 0; k < tok[i].n_top; k++) {
            sp_buf_puts(out, k ? "," : "");
            put_token(out, vocab, tok[i].top[k].id, tok[i].top[k].logprob, bytes);
            sp_buf_putc(out, '}');
        }
        sp_buf_puts(out, "]}");
    }
}

void sp_api_ping(sp_buf *out)
{
    sp_buf_puts(out, ": ping\n\n");
}
