/* Answers: whole, or as a stream of chunks; their usage with the receipt. */
#include "api/completion_int.h"

#include <string.h>

static void put_token(sp_buf *out, const request *r, uint32_t id, double logprob)
{
    sp_str p = sp_tok_piece(r->app->tok, id);
    sp_buf_puts(out, "{\"token\":");
    sp_buf_json_str(out, p.p, p.n);
    sp_buf_puts(out, ",\"logprob\":");
    sp_buf_json_num(out, logprob);
    sp_buf_puts(out, ",\"bytes\":[");
    for (size_t i = 0; i < p.n; i++)
        sp_buf_printf(out, "%s%u", i ? "," : "", (unsigned char)p.p[i]);
    sp_buf_putc(out, ']');
}

/* Entries in the chat format, on both endpoints: it keeps bytes and order, which the older parallel
 * lists of /v1/completions cannot. */
static void put_logprobs(sp_buf *out, const request *r, const sp_event *ev)
{
    for (size_t i = 0; i < ev->n_tok; i++) {
        const sp_event_tok *t = &ev->tok[i];
        if (out->len)
            sp_buf_putc(out, ',');
        put_token(out, r, t->id, (double)t->logprob);
        sp_buf_puts(out, ",\"top_logprobs\":[");
        for (size_t k = 0; k < t->n_top; k++) {
            if (k)
                sp_buf_putc(out, ',');
            put_token(out, r, t->top[k].id, (double)t->top[k].logprob);
            sp_buf_putc(out, '}');
        }
        sp_buf_puts(out, "]}");
    }
}

static const char *finish_name(sp_finish f)
{
    return f == SP_FINISH_LENGTH ? "length" : "stop";
}

static void put_usage(sp_buf *out, const request *r)
{
    const sp_receipt *c = &r->receipt;
    sp_buf_printf(out,
                  "{\"prompt_tokens\":%zu,\"completion_tokens\":%zu,\"total_tokens\":%zu,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":%zu",
                  r->n_prompt_tok, c->tok_out, r->n_prompt_tok + c->tok_out,
                  r->n_prompt_tok > c->tok_computed ? r->n_prompt_tok - c->tok_computed : 0);
    for (size_t i = 0; i < SP_PARTS && r->parts.message.len; i++)
        if (r->parts.parts.part[i].end)
            sp_buf_printf(out, ",\"%s_tokens\":%zu", sp_part_name((sp_part_kind)i), r->parts.parts.part[i].end - r->parts.parts.part[i].first);
    sp_buf_puts(out, "},\"sparing\":");
    sp_receipt_write(c, out);
    sp_buf_putc(out, '}');
}

static void put_head(sp_buf *out, const request *r, bool chunk)
{
    const char *object = !r->chat ? "text_completion" : chunk ? "chat.completion.chunk" : "chat.completion";
    sp_buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":", r->id, object, (long long)r->created);
    sp_buf_json_str(out, r->app->model_name, strlen(r->app->model_name));
    if (r->prepare)
        sp_buf_printf(out, ",\"conversation\":{\"id\":\"%s\"}", r->prepare->conv);
}

static void put_choice_logprobs(sp_buf *out, const request *r, const sp_buf *entries)
{
    if (!r->logprobs)
        sp_buf_puts(out, ",\"logprobs\":null");
    else
        sp_buf_printf(out, ",\"logprobs\":{\"content\":[%s]}", sp_buf_str(entries));
}

static void put_annotations(sp_buf *out, const request *r, size_t i, const char *before)
{
    if (!r->find)
        return;
    sp_buf_puts(out, before);
    sp_api_annotations(out, &r->choice[i].text, r->find->hit, r->n_passage);
}

static void put_retrieved(sp_buf *out, const request *r)
{
    if (r->find)
        sp_api_retrieved(out, r->find->hit, r->n_passage, r->find->fact, r->n_fact);
}

static void put_chunk(sp_buf *out, const request *r, size_t i, const char *text, size_t n, const sp_buf *entries,
                      const char *finish)
{
    sp_buf_puts(out, "data: ");
    put_head(out, r, true);
    sp_buf_printf(out, ",\"choices\":[{\"index\":%zu,", i);
    if (r->chat)
        sp_buf_puts(out, finish ? "\"delta\":{" : text ? "\"delta\":{\"content\":" : "\"delta\":{\"role\":\"assistant\",\"content\":\"\"}");
    else
        sp_buf_puts(out, "\"text\":");
    if (text && !(r->chat && finish))
        sp_buf_json_str(out, text, n);
    if (r->chat && finish)
        put_annotations(out, r, i, "");
    if (r->chat && text)
        sp_buf_putc(out, '}');
    put_choice_logprobs(out, r, entries);
    sp_buf_printf(out, finish ? ",\"finish_reason\":\"%s\"}]" : ",\"finish_reason\":null}]", finish);
    if (finish)
        put_retrieved(out, r);
    sp_buf_puts(out, r->include_usage ? ",\"usage\":null}\n\n" : "}\n\n");
}

/* Takes one event in; out is the stream, or NULL for a whole answer. */
static void take(request *r, size_t i, const sp_event *ev, sp_buf *out)
{
    choice *c = &r->choice[i];
    const sp_buf none = {0};
    if (ev->kind == SP_EVENT_TEXT) {
        sp_buf entries = {0};
        put_logprobs(out ? &entries : &c->logprobs, r, ev);
        if (out)
            put_chunk(out, r, i, ev->text.p, ev->text.len, &entries, NULL);
        if (!out || r->prepare || r->find)
            sp_buf_put(&c->text, ev->text.p, ev->text.len);
        sp_buf_fini(&entries);
        return;
    }
    c->ended = true;
    r->n_ended++;
    sp_receipt_add(&r->receipt, &ev->receipt);
    if (ev->kind == SP_EVENT_ERROR) {
        r->error = ev->diag;
    } else if (ev->finish == SP_FINISH_CANCEL) {
        (void)SP_FAIL(&r->error, SP_CANCEL, "the server is shutting down");
    } else {
        c->finish = ev->finish;
        if (out)
            put_chunk(out, r, i, "", 0, &none, finish_name(ev->finish));
    }
}

void sp_completion_drain(request *r, sp_buf *out)
{
    for (size_t i = 0; i < r->n_choice; i++) {
        choice *c = &r->choice[i];
        if (out && !c->opened && r->chat)
            put_chunk(out, r, i, NULL, 0, &(sp_buf){0}, NULL);
        c->opened = true;
        for (sp_event *ev; !c->ended && (ev = sp_job_next(c->job)); sp_event_free(ev))
            take(r, i, ev, out);
    }
}

void sp_completion_put(sp_buf *out, const request *r)
{
    put_head(out, r, false);
    sp_buf_puts(out, ",\"choices\":[");
    for (size_t i = 0; i < r->n_choice; i++) {
        const choice *c = &r->choice[i];
        sp_buf_printf(out, "%s{\"index\":%zu,%s", i ? "," : "", i,
                      r->chat ? "\"message\":{\"role\":\"assistant\",\"content\":" : "\"text\":");
        sp_buf_json_str(out, sp_buf_str(&c->text), c->text.len);
        if (r->chat) {
            sp_buf_puts(out, ",\"refusal\":null");
            put_annotations(out, r, i, ",");
            sp_buf_putc(out, '}');
        }
        put_choice_logprobs(out, r, &c->logprobs);
        sp_buf_printf(out, ",\"finish_reason\":\"%s\"}", finish_name(c->finish));
    }
    sp_buf_putc(out, ']');
    put_retrieved(out, r);
    sp_buf_puts(out, ",\"usage\":");
    put_usage(out, r);
    sp_buf_putc(out, '}');
}

void sp_completion_end(sp_buf *out, const request *r)
{
    sp_buf_puts(out, r->include_usage ? "data: " : ": receipt ");
    if (r->include_usage) {
        put_head(out, r, true);
        sp_buf_puts(out, ",\"choices\":[],\"usage\":");
        put_usage(out, r);
        sp_buf_putc(out, '}');
    } else {
        sp_receipt_write(&r->receipt, out);
    }
    sp_buf_puts(out, "\n\ndata: [DONE]\n\n");
}
