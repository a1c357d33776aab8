/* Answers: whole, or as a stream of chunks; their usage with the receipt. */
#include "api/completion_int.h"

#include "base/clock.h"

#include <stdlib.h>
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
    return f == SP_FINISH_LENGTH ? "length" : f == SP_FINISH_FILTER ? "content_filter" : f == SP_FINISH_CALLS ? "tool_calls" : "stop";
}

void sp_completion_receipt(sp_receipt *out, const request *r)
{
    *out = r->receipt;
    out->path = r->plan.path;
    out->why = r->plan.why;
    out->cls = r->plan.judged ? sp_class_name(r->plan.cls) : NULL;
    out->difficulty = r->plan.difficulty;
    out->need = r->plan.need;
    out->escalated = r->escalated;
    out->votes = r->plan.votes;
    out->ms_intent = r->plan.ms;
    out->ignored = r->ignored.len ? sp_buf_str(&r->ignored) : NULL;
}

void sp_completion_put_plan(sp_buf *out, const request *r)
{
    const sp_plan *p = &r->plan;
    sp_buf_printf(out, "{\"object\":\"plan\",\"path\":\"%s\",\"why\":\"%s\",", sp_path_name(p->path), p->why);
    if (p->judged)
        sp_buf_printf(out, "\"class\":\"%s\",\"sure\":%.4f,\"difficulty\":%.4f,\"need\":%.4f,", sp_class_name(p->cls), p->sure, p->difficulty, p->need);
    sp_buf_printf(out, "\"retrieve\":%s,\"max_tokens\":%zu,\"votes\":%zu,\"draft\":%zu,", p->retrieve ? "true" : "false", p->max_tok, p->votes, p->draft);
    if (r->app->think_open != r->app->think_close)
        sp_buf_printf(out, "\"think_tokens\":%zu,", p->think_tok);
    if (p->watch_tok)
        sp_buf_printf(out, "\"escalates\":{\"after_tokens\":%zu,\"below_logprob\":%.3f},", p->watch_tok, p->watch_least);
    sp_buf_printf(out, "\"private\":%s,\"backlog_s\":%.3f,\"ms\":%.4f,\"intent_model\":", r->ask.is_private ? "true" : "false",
                  sp_engine_backlog(r->app->engine), p->ms);
    sp_buf_json_str(out, r->app->intent->origin, r->app->intent->n_origin);
    sp_buf_putc(out, '}');
}

static void put_usage(sp_buf *out, const request *r)
{
    sp_receipt sum, *c = &sum;
    sp_completion_receipt(&sum, r);
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
    if (r->find_auto && !r->find)
        sp_buf_puts(out, ",\"retrieved\":[]"); /* its plan needs none */
    if (!r->find)
        return;
    sp_api_retrieved(out, r->find->hit, r->n_passage, r->find->fact, r->n_fact);
    sp_api_search(out, r->find, r->n_passage, r->n_fact, r->n_left);
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

/* Pieces of tool calls: each names its call by index; texts of one call follow each other. */
static void add_calls(choice *c, const json_t *pieces)
{
    for (size_t i = 0; i < json_array_size(pieces); i++) {
        json_t *piece = json_array_get(pieces, i);
        size_t at = (size_t)json_integer_value(json_object_get(piece, "index"));
        json_t *call = json_array_get(c->calls, at);
        json_t *fn = json_object_get(call, "function"), *arguments = json_object_get(fn, "arguments"), *more = json_object_get(json_object_get(piece, "function"), "arguments");
        if (!call && at == json_array_size(c->calls)) {
            call = json_deep_copy(piece);
            json_object_del(call, "index");
            json_array_append_new(c->calls, call);
        } else if (json_is_string(arguments) && json_is_string(more)) {
            json_object_set_new(fn, "arguments", json_sprintf("%s%s", json_string_value(arguments), json_string_value(more)));
        }
    }
}

/* Tool calls of another server are passed on as they come. */
static void take_calls(request *r, size_t i, const sp_event *ev, sp_buf *out)
{
    choice *c = &r->choice[i];
    json_t *pieces = out ? NULL : json_loadb(sp_buf_str(&ev->text), ev->text.len, JSON_ALLOW_NUL, NULL);
    c->given = c->given || out;
    if (out) {
        sp_buf_puts(out, "data: ");
        put_head(out, r, true);
        sp_buf_printf(out, ",\"choices\":[{\"index\":%zu,\"delta\":{\"tool_calls\":%s},\"logprobs\":null,\"finish_reason\":null}]%s}\n\n", i,
                      sp_buf_str(&ev->text), r->include_usage ? ",\"usage\":null" : "");
        return;
    }
    c->calls = c->calls ? c->calls : json_array();
    add_calls(c, pieces);
    json_decref(pieces);
}

/* Takes one event in; out is the stream, or NULL for a whole answer. */
static void take(request *r, size_t i, const sp_event *ev, sp_buf *out)
{
    choice *c = &r->choice[i];
    const sp_buf none = {0};
    if (ev->kind == SP_EVENT_TEXT) {
        sp_buf entries = {0};
        put_logprobs(out ? &entries : &c->logprobs, r, ev);
        if (r->ms_first <= 0)
            r->ms_first = ((double)sp_clock_ns() - r->t_begin) * 1e-6;
        c->given = c->given || out;
        if (out)
            put_chunk(out, r, i, ev->text.p, ev->text.len, &entries, NULL);
        if (!out || r->prepare || r->find || r->plan.votes > 1 || r->app->shadow)
            sp_buf_put(&c->text, ev->text.p, ev->text.len);
        sp_buf_fini(&entries);
        return;
    }
    if (ev->kind == SP_EVENT_CALLS) {
        take_calls(r, i, ev, out);
        return;
    }
    const double *price = r->app->price[c->call != NULL];
    sp_receipt_add(&r->receipt, &ev->receipt);
    r->receipt.cost += ((double)ev->n_prompt * price[0] + (double)ev->receipt.tok_out * price[1]) * 1e-6;
    if ((ev->kind == SP_EVENT_FINISH && ev->finish == SP_FINISH_UNSURE) ||
        (ev->kind == SP_EVENT_ERROR && c->call && !c->given && !r->ask.forbid[SP_PATH_FULL])) {
        r->unsure = true;
        if (out)
            sp_buf_printf(out, ": %s\n\n", c->call ? "the other server failed" : "escalated: the light answer was not sure");
        return;
    }
    c->ended = true;
    r->n_ended++;
    if (c->call)
        r->n_prompt_tok = ev->n_prompt;
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
    out = r->plan.votes > 1 ? NULL : out;
    for (size_t i = 0; i < r->n_choice; i++) {
        choice *c = &r->choice[i];
        if (out && !c->opened && r->chat)
            put_chunk(out, r, i, NULL, 0, &(sp_buf){0}, NULL);
        c->opened = true;
        for (sp_event *ev; !c->ended && !r->unsure && (ev = c->call ? sp_call_next(c->call) : sp_job_next(c->job)); sp_event_free(ev))
            take(r, i, ev, out);
    }
}

/* --- votes ------------------------------------------------------------------------------------ */

enum { KEY = 64 };

/* What makes two answers the same: their last number, or without one their last line in small letters. */
static void vote_key(char key[KEY], const sp_buf *text)
{
    const char *p = sp_buf_str(text), *end = p + text->len, *q = end;
    size_t n = 0;
    while (q > p && !(q[-1] >= '0' && q[-1] <= '9'))
        q--;
    if (q > p) {
        const char *from = q;
        while (from > p && ((from[-1] >= '0' && from[-1] <= '9') || (from[-1] == '.' && from - 1 > p && from[-2] >= '0' && from[-2] <= '9')))
            from--;
        for (; from < q && n + 1 < KEY; from++)
            key[n++] = *from;
    } else {
        while (end > p && (unsigned char)end[-1] <= ' ')
            end--;
        for (q = end; q > p && q[-1] != '\n';)
            q--;
        for (; q < end && n + 1 < KEY; q++)
            if ((unsigned char)*q > ' ' && *q != '.')
                key[n++] = *q >= 'A' && *q <= 'Z' ? (char)(*q + 32) : *q;
    }
    key[n] = 0;
}

void sp_completion_vote(request *r, sp_buf *out)
{
    char key[MAX_CHOICE][KEY];
    size_t best = 0, most = 0;
    if (r->plan.votes <= 1 || r->n_choice <= 1)
        return;
    for (size_t i = 0; i < r->n_choice; i++)
        vote_key(key[i], &r->choice[i].text);
    for (size_t i = 0; i < r->n_choice; i++) {
        size_t n = 0;
        for (size_t k = 0; k < r->n_choice; k++)
            n += strcmp(key[i], key[k]) == 0;
        if (n > most) {
            most = n;
            best = i;
        }
    }
    choice won = r->choice[best];
    r->choice[best] = r->choice[0];
    r->choice[0] = won;
    r->n_choice = r->n_ended = 1; /* the others are let go when the request is */
    if (!out)
        return;
    if (r->chat)
        put_chunk(out, r, 0, NULL, 0, &(sp_buf){0}, NULL);
    put_chunk(out, r, 0, won.text.p, won.text.len, &won.logprobs, NULL);
    put_chunk(out, r, 0, "", 0, &(sp_buf){0}, finish_name(won.finish));
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
        char *calls = json_array_size(c->calls) ? json_dumps(c->calls, JSON_COMPACT) : NULL;
        if (calls)
            sp_buf_printf(out, ",\"tool_calls\":%s", calls);
        free(calls);
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
        sp_receipt sum;
        sp_completion_receipt(&sum, r);
        sp_receipt_write(&sum, out);
    }
    sp_buf_puts(out, "\n\ndata: [DONE]\n\n");
}
