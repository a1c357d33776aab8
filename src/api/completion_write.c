/* Answers: whole, or as a stream of chunks; their usage with the receipt. */
#include "api/completion_int.h"

#include <string.h>

/* Entries as chat has them. */
static void put_logprobs(sp_buf *out, const request *r, const sp_event_tok *tok, size_t n)
{
    if (!r->logprobs) {
        sp_buf_puts(out, ",\"logprobs\":null");
        return;
    }
    sp_buf_puts(out, ",\"logprobs\":{\"content\":[");
    sp_api_put_logprobs(out, r->on->env.tok, tok, n, true);
    sp_buf_puts(out, "]}");
}

const char *sp_completion_finish(sp_finish f)
{
    return f == SP_FINISH_LENGTH    ? "length"
           : f == SP_FINISH_FILTER  ? "content_filter"
           : f == SP_FINISH_CALLS   ? "tool_calls"
           : f == SP_FINISH_UNKNOWN ? "cache_threshold"
                                    : "stop";
}

void sp_completion_usage(sp_buf *out, const sp_turn *t)
{
    sp_receipt sum;
    const sp_turn_usage u = sp_turn_used(t);
    const sp_parts *parts = sp_turn_ask(t)->parts;
    sp_turn_receipt(&sum, t);
    sp_buf_printf(out,
                  "{\"prompt_tokens\":%zu,\"completion_tokens\":%zu,\"total_tokens\":%zu,"
                  "\"prompt_tokens_details\":{\"cached_tokens\":%zu",
                  u.n_prompt, u.n_out, u.n_prompt + u.n_out, u.n_cached);
    for (size_t i = 0; i < SP_PARTS && parts; i++)
        if (parts->part[i].end)
            sp_buf_printf(out, ",\"%s_tokens\":%zu", sp_part_name((sp_part_kind)i),
                          parts->part[i].end - parts->part[i].first);
    const sp_receipt_draft *p = &sum.draft[SP_DRAFT_PREDICTION];
    sp_buf_printf(out,
                  "},\"completion_tokens_details\":{\"reasoning_tokens\":%zu,\"accepted_prediction_"
                  "tokens\":%zu,\"rejected_prediction_tokens\":%zu",
                  u.n_think, p->accepted, p->drafted - p->accepted);
    sp_buf_puts(out, "},\"sparing\":");
    sp_receipt_write(&sum, out);
    sp_buf_putc(out, '}');
}

static void put_head(sp_buf *out, const request *r, const sp_turn *t, bool chunk)
{
    const char *object = !r->chat ? "text_completion"
                         : chunk  ? "chat.completion.chunk"
                                  : "chat.completion",
               *name = r->on->env.name;
    sp_buf_printf(out, "{\"id\":\"%s\",\"object\":\"%s\",\"created\":%lld,\"model\":",
                  sp_turn_ask(t)->id, object, (long long)r->created);
    sp_buf_json_str(out, name, strlen(name));
    sp_buf_printf(out, ",\"system_fingerprint\":\"%s\"", r->on->fingerprint);
    if (sp_turn_conversation(t))
        sp_buf_printf(out, ",\"conversation\":{\"id\":\"%s\"}", sp_turn_conversation(t));
}

void sp_completion_head(sp_buf *out, const request *r, const sp_turn *t)
{
    put_head(out, r, t, false);
}

static void put_annotations(sp_buf *out, const sp_turn *t, const sp_turn_answer *a,
                            const char *before)
{
    const sp_turn_found f = sp_turn_searched(t);
    if (!f.op)
        return;
    sp_buf_puts(out, before);
    sp_api_annotations(out, &a->text, f.op->hit, a->cite, a->n_cite);
}

static void put_retrieved(sp_buf *out, const sp_turn *t)
{
    const sp_turn_found f = sp_turn_searched(t);
    if (f.looked && !f.op)
        sp_buf_puts(out, ",\"retrieved\":[]"); /* its plan needs none */
    if (!f.op)
        return;
    sp_api_retrieved(out, f.op->hit, f.n_passage, f.op->fact, f.n_fact);
    sp_api_search(out, f.op, f.n_passage, f.n_fact, f.n_left);
}

/* --- a stream --------------------------------------------------------------------------------- */

static void open_chunk(sp_buf *out, const request *r, const sp_turn *t, size_t choice)
{
    sp_buf_puts(out, "data: ");
    put_head(out, r, t, true);
    sp_buf_printf(out, ",\"choices\":[{\"index\":%zu,", choice);
}

/* finish NULL: the answer goes on. */
static void close_chunk(sp_buf *out, const request *r, const sp_turn *t, const char *finish)
{
    sp_buf_printf(out, finish ? ",\"finish_reason\":\"%s\"}]" : ",\"finish_reason\":null}]",
                  finish);
    if (finish)
        put_retrieved(out, t);
    sp_buf_puts(out, r->include_usage ? ",\"usage\":null}\n\n" : "}\n\n");
}

/* What each token of a text cost, as pairs of bytes and a word; text without a token's end is of
 * the next one. */
static void put_costs(sp_buf *out, const char *how, size_t n)
{
    static const char *const name[] =
        {[SP_TOK_CHOSEN] = "computed", [SP_TOK_GUESSED] = "guessed", [SP_TOK_FORCED] = "forced"};
    size_t from = 0;
    bool any = false;
    if (!how)
        return;
    sp_buf_puts(out, ",\"costs\":[");
    for (size_t i = 0; i < n; i++) {
        if (how[i] == SP_TOK_INSIDE)
            continue;
        sp_buf_printf(out, "%s[%zu,\"%s\"]", any ? "," : "", i + 1 - from,
                      name[(unsigned char)how[i]]);
        from = i + 1;
        any = true;
    }
    sp_buf_putc(out, ']');
}

static void put_references(sp_buf *out, const sp_reference *ref, size_t n, bool has_at)
{
    sp_buf_puts(out, ",\"references\":[");
    for (size_t i = 0; i < n; i++) {
        sp_buf_puts(out, i ? "," : "");
        sp_refer_write(out, &ref[i], has_at);
    }
    sp_buf_putc(out, ']');
}

/* A chunk of /v1/completions. */
static void put_plain(sp_buf *out, request *r, const sp_turn *t, const sp_turn_event *ev,
                      const char *finish)
{
    open_chunk(out, r, t, ev->choice);
    sp_buf_puts(out, "\"text\":");
    sp_buf_json_str(out, ev->text.p, ev->text.n);
    if (r->ask->costs)
        put_costs(out, ev->how, ev->text.n);
    sp_legacy_logprobs(out, r, t, ev->choice, NULL, 0, ev->tok, ev->n_tok);
    close_chunk(out, r, t, finish);
}

/* Before the first chunk of an answer: the prompt, if it is part of the text. */
static void put_echo(sp_buf *out, request *r, const sp_turn *t, size_t choice)
{
    sp_buf text = {0};
    size_t n;
    bool begun = r->begun >> choice & 1;
    sp_legacy_begin(r, t, choice);
    if (!r->echo || begun)
        return;
    const sp_event_tok *tok = sp_legacy_prompt_tok(t, choice, &n);
    open_chunk(out, r, t, choice);
    sp_legacy_echo(&text, r->on->env.tok, sp_legacy_prompt(t, choice));
    sp_buf_puts(out, "\"text\":");
    sp_buf_json_str(out, sp_buf_str(&text), text.len);
    sp_legacy_logprobs(out, r, t, choice, tok, n, NULL, 0);
    close_chunk(out, r, t, NULL);
    sp_buf_fini(&text);
}

/* A span that leaves as a mark: text without a letter, and the mark. */
static void put_reference(sp_buf *out, request *r, const sp_turn *t, const sp_turn_event *ev)
{
    open_chunk(out, r, t, ev->choice);
    sp_buf_puts(out, r->chat ? "\"delta\":{\"content\":\"\"" : "\"text\":\"\"");
    put_references(out, &ev->ref, 1, false);
    sp_buf_puts(out, r->chat ? "}" : "");
    sp_buf_puts(out, ",\"logprobs\":null");
    close_chunk(out, r, t, NULL);
}

static void put_text(sp_buf *out, request *r, const sp_turn *t, const sp_turn_event *ev)
{
    bool thinks = ev->kind == SP_TURN_REASONING; /* under both names that clients look for */
    if (!r->chat) {
        put_echo(out, r, t, ev->choice);
        put_plain(out, r, t, ev, NULL);
        return;
    }
    open_chunk(out, r, t, ev->choice);
    sp_buf_puts(out, thinks ? "\"delta\":{\"reasoning_content\":" : "\"delta\":{\"content\":");
    sp_buf_json_str(out, ev->text.p, ev->text.n);
    if (thinks) {
        sp_buf_puts(out, ",\"reasoning\":");
        sp_buf_json_str(out, ev->text.p, ev->text.n);
    }
    if (r->ask->costs)
        put_costs(out, ev->how, ev->text.n);
    sp_buf_puts(out, "}");
    put_logprobs(out, r, ev->tok, ev->n_tok);
    close_chunk(out, r, t, NULL);
}

/* A chunk of chat whose delta is written. */
static void put_delta(sp_buf *out, const request *r, const sp_turn *t, size_t choice,
                      const sp_buf *delta)
{
    open_chunk(out, r, t, choice);
    sp_buf_printf(out, "\"delta\":{%s}", sp_buf_str(delta));
    put_logprobs(out, r, NULL, 0);
    close_chunk(out, r, t, NULL);
}

static void put_begin(sp_buf *out, const request *r, const sp_turn *t, size_t choice)
{
    sp_buf delta = {0};
    sp_buf_puts(&delta, "\"role\":\"assistant\",\"content\":\"\"");
    if (r->chat)
        put_delta(out, r, t, choice, &delta);
    sp_buf_fini(&delta);
}

static void put_call(sp_buf *out, const request *r, const sp_turn *t, const sp_turn_event *ev)
{
    sp_buf delta = {0};
    sp_buf_printf(&delta, "\"tool_calls\":[{\"index\":%zu,", ev->call);
    if (ev->kind == SP_TURN_CALL) {
        sp_buf_puts(&delta, "\"id\":");
        sp_buf_json_str(&delta, ev->call_id.p, ev->call_id.n);
        sp_buf_puts(&delta, ",\"type\":\"function\",\"function\":{\"name\":");
        sp_buf_json_str(&delta, ev->name.p, ev->name.n);
        sp_buf_puts(&delta, ",\"arguments\":\"\"}}]");
    } else {
        sp_buf_puts(&delta, "\"function\":{\"arguments\":");
        sp_buf_json_str(&delta, ev->text.p, ev->text.n);
        sp_buf_puts(&delta, "}}]");
    }
    put_delta(out, r, t, ev->choice, &delta);
    sp_buf_fini(&delta);
}

static void put_finish(sp_buf *out, request *r, const sp_turn *t, const sp_turn_event *ev)
{
    if (!r->chat) {
        put_echo(out, r, t, ev->choice);
        put_plain(out, r, t, ev, sp_completion_finish(ev->finish));
        return;
    }
    open_chunk(out, r, t, ev->choice);
    sp_buf_puts(out, "\"delta\":{");
    put_annotations(out, t, sp_turn_answer_of(t, ev->choice), "");
    sp_buf_putc(out, '}');
    put_logprobs(out, r, NULL, 0);
    close_chunk(out, r, t, sp_completion_finish(ev->finish));
}

static void put_end(sp_buf *out, const request *r, const sp_turn *t)
{
    sp_buf_puts(out, r->include_usage ? "data: " : ": receipt ");
    if (r->include_usage) {
        put_head(out, r, t, true);
        sp_buf_puts(out, ",\"choices\":[],\"usage\":");
        sp_completion_usage(out, t);
        sp_buf_putc(out, '}');
    } else {
        sp_receipt sum;
        sp_turn_receipt(&sum, t);
        sp_receipt_write(&sum, out);
    }
    sp_buf_puts(out, "\n\ndata: [DONE]\n\n");
}

static void put_error(sp_buf *out, const sp_turn_error *e)
{
    sp_buf_puts(out, "data: ");
    sp_api_error(out, sp_api_error_status(e), e->diag.msg, NULL, sp_api_error_code(e));
    sp_buf_puts(out, "\n\n"); /* and no [DONE]: the answer is not whole */
}

void sp_completion_event(void *state, sp_buf *out, const sp_turn *t, const sp_turn_event *ev)
{
    request *r = state;
    switch (ev->kind) {
    case SP_TURN_BEGIN: put_begin(out, r, t, ev->choice); break;
    case SP_TURN_TEXT:
    case SP_TURN_REASONING: put_text(out, r, t, ev); break;
    case SP_TURN_REFERENCE: put_reference(out, r, t, ev); break;
    case SP_TURN_CALL:
    case SP_TURN_ARGS: put_call(out, r, t, ev); break;
    case SP_TURN_FINISH: put_finish(out, r, t, ev); break;
    case SP_TURN_AGAIN: sp_buf_printf(out, ": %.*s\n\n", (int)ev->text.n, ev->text.p); break;
    case SP_TURN_END: put_end(out, r, t); break;
    case SP_TURN_ERROR: put_error(out, ev->error); break;
    case SP_TURN_CALL_END:
    case SP_TURN_CITATIONS: break; /* citations go out with the finish */
    }
}

/* --- whole answers ---------------------------------------------------------------------------- */

static void put_calls(sp_buf *out, const sp_turn_answer *a)
{
    for (size_t i = 0; i < a->n_call; i++) {
        const sp_turn_call *c = &a->call[i];
        sp_buf_puts(out, i ? ",{\"id\":" : ",\"tool_calls\":[{\"id\":");
        sp_buf_json_str(out, sp_buf_str(&c->id), c->id.len);
        sp_buf_puts(out, ",\"type\":\"function\",\"function\":{\"name\":");
        sp_buf_json_str(out, sp_buf_str(&c->name), c->name.len);
        sp_buf_puts(out, ",\"arguments\":");
        sp_buf_json_str(out, sp_buf_str(&c->args), c->args.len);
        sp_buf_puts(out, "}}");
    }
    sp_buf_puts(out, a->n_call ? "]" : "");
}

static void put_reasoning(sp_buf *out, const sp_turn_answer *a)
{
    static const char *const names[] = {",\"reasoning_content\":", ",\"reasoning\":"};
    for (size_t i = 0; i < 2 && a->reasoning.len; i++) {
        sp_buf_puts(out, names[i]);
        sp_buf_json_str(out, sp_buf_str(&a->reasoning), a->reasoning.len);
    }
}

/* An answer's text, with its marks and costs behind it where they were asked for. */
static void put_said(sp_buf *out, const request *r, const sp_turn_answer *a)
{
    const sp_buf *text = r->ask->refer ? &a->sent : &a->text;
    sp_buf_json_str(out, sp_buf_str(text), text->len);
    if (r->ask->refer == SP_REFER_MARKS)
        put_references(out, a->ref, a->n_ref, true);
    if (r->ask->costs)
        put_costs(out, a->how.p, a->how.len);
}

static void put_chat_choice(sp_buf *out, const request *r, const sp_turn *t,
                            const sp_turn_answer *a)
{
    sp_buf_puts(out, "\"message\":{\"role\":\"assistant\",\"content\":");
    if (a->n_call && !a->text.len)
        sp_buf_puts(out, "null");
    else
        put_said(out, r, a);
    put_reasoning(out, a);
    put_calls(out, a);
    sp_buf_puts(out, ",\"refusal\":null");
    put_annotations(out, t, a, ",");
    sp_buf_putc(out, '}');
    put_logprobs(out, r, a->tok, a->n_tok);
}

static void put_plain_choice(sp_buf *out, request *r, const sp_turn *t, size_t i,
                             const sp_turn_answer *a)
{
    sp_buf text = {0};
    size_t n = 0;
    const sp_event_tok *tok = r->echo ? sp_legacy_prompt_tok(t, i, &n) : NULL;
    sp_legacy_begin(r, t, i);
    if (r->echo)
        sp_legacy_echo(&text, r->on->env.tok, sp_legacy_prompt(t, i));
    sp_buf_puts(out, "\"text\":");
    if (r->echo) {
        sp_buf_put(&text, a->text.p, a->text.len);
        sp_buf_json_str(out, sp_buf_str(&text), text.len);
    } else {
        put_said(out, r, a);
    }
    sp_legacy_logprobs(out, r, t, i, tok, n, a->tok, a->n_tok);
    sp_buf_fini(&text);
}

static void put_choice(sp_buf *out, request *r, const sp_turn *t, size_t i)
{
    const sp_turn_answer *a = sp_turn_answer_of(t, i);
    sp_buf_printf(out, "%s{\"index\":%zu,", i ? "," : "", i);
    if (r->chat)
        put_chat_choice(out, r, t, a);
    else
        put_plain_choice(out, r, t, i, a);
    sp_buf_printf(out, ",\"finish_reason\":\"%s\"}", sp_completion_finish(a->finish));
}

void sp_completion_whole(void *state, sp_buf *out, const sp_turn *t)
{
    request *r = state;
    put_head(out, r, t, false);
    sp_buf_puts(out, ",\"choices\":[");
    for (size_t i = 0; i < sp_turn_answers(t); i++)
        put_choice(out, r, t, i);
    sp_buf_putc(out, ']');
    put_retrieved(out, t);
    sp_buf_puts(out, ",\"usage\":");
    sp_completion_usage(out, t);
    sp_buf_putc(out, '}');
}
