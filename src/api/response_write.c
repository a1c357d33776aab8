/* The response object and the items of its output. */
#include "api/response_int.h"

#include "api/knowledge.h"

#include "base/clock.h"

#include <string.h>

const char *sp_response_status(sp_finish f)
{
    return f == SP_FINISH_LENGTH || f == SP_FINISH_FILTER ? "incomplete"
           : f == SP_FINISH_CANCEL                        ? "cancelled"
                                                          : "completed";
}

void sp_response_put_id(sp_buf *out, const char *prefix, const char *id, size_t index)
{
    const char *own = strpbrk(id, "-_");
    sp_buf_printf(out, "\"%s_%s_%zu\"", prefix, own ? own + 1 : id, index);
}

static void open_item(sp_buf *out, const char *prefix, const char *type, const char *id,
                      size_t index, const char *status)
{
    sp_buf_puts(out, "{\"id\":");
    sp_response_put_id(out, prefix, id, index);
    sp_buf_printf(out, ",\"type\":\"%s\",\"status\":\"%s\"", type, status);
}

/* --- items ------------------------------------------------------------------------------------ */

static void put_result(sp_buf *out, const sp_rag_hit *h)
{
    const char *name = sp_api_filename(h->path);
    sp_buf_printf(out, "{\"file_id\":\"%s\",\"score\":%.6f,\"attributes\":{},\"filename\":", h->doc,
                  h->score);
    sp_buf_json_str(out, name, strlen(name));
    sp_buf_puts(out, ",\"text\":");
    sp_buf_json_str(out, h->text, strlen(h->text));
    sp_buf_putc(out, '}');
}

void sp_response_put_search(sp_buf *out, const sp_response *r, const sp_turn *t, size_t index)
{
    const sp_turn_found f = sp_turn_searched(t);
    open_item(out, "fs", "file_search_call", sp_turn_ask(t)->id, index, "completed");
    sp_buf_puts(out, ",\"queries\":[");
    sp_buf_json_str(out, f.op->query, strlen(f.op->query));
    sp_buf_puts(out, r->results ? "],\"results\":[" : "],\"results\":null");
    for (size_t i = 0; r->results && i < f.n_passage; i++) {
        sp_buf_puts(out, i ? "," : "");
        put_result(out, &f.op->hit[i]);
    }
    sp_buf_puts(out, r->results ? "]}" : "}");
}

void sp_response_put_reasoning(sp_buf *out, const char *id, size_t index, sp_str text, bool done)
{
    open_item(out, "rs", "reasoning", id, index, done ? "completed" : "in_progress");
    sp_buf_puts(out, ",\"summary\":[],\"content\":[");
    if (done) {
        sp_buf_puts(out, "{\"type\":\"reasoning_text\",\"text\":");
        sp_buf_json_str(out, text.p, text.n);
        sp_buf_putc(out, '}');
    }
    sp_buf_puts(out, "]}");
}

void sp_response_put_annotation(sp_buf *out, const sp_turn *t, size_t i)
{
    const sp_turn_answer *a = sp_turn_answer_of(t, 0);
    const sp_citation *c = &a->cite[i];
    sp_buf_printf(out, "{\"type\":\"file_citation\",\"index\":%zu,",
                  sp_api_characters(a->text.p, c->end));
    sp_api_citation(out, &a->text, sp_turn_searched(t).op->hit, c);
    sp_buf_putc(out, '}');
}

void sp_response_put_part(sp_buf *out, const sp_turn *t, sp_str text, bool done)
{
    const sp_turn_answer *a = sp_turn_answer_of(t, 0);
    sp_buf_puts(out, "{\"type\":\"output_text\",\"annotations\":[");
    for (size_t i = 0; done && a && i < a->n_cite; i++) {
        sp_buf_puts(out, i ? "," : "");
        sp_response_put_annotation(out, t, i);
    }
    sp_buf_puts(out, "],\"logprobs\":[],\"text\":");
    sp_buf_json_str(out, text.p, text.n);
    sp_buf_putc(out, '}');
}

const char *sp_response_message_status(sp_finish finish)
{
    return strcmp(sp_response_status(finish), "completed") == 0 ? "completed" : "incomplete";
}

void sp_response_put_message(sp_buf *out, const char *id, size_t index, const char *status,
                             const char *role, const char *content)
{
    open_item(out, "msg", "message", id, index, status);
    sp_buf_printf(out, ",\"role\":\"%s\",\"content\":[%s]}", role, content);
}

sp_chat_call sp_response_call(const sp_turn_call *c)
{
    return (sp_chat_call){{sp_buf_str(&c->id), c->id.len},
                          {sp_buf_str(&c->name), c->name.len},
                          {sp_buf_str(&c->args), c->args.len}};
}

void sp_response_put_call(sp_buf *out, const char *id, size_t index, const sp_chat_call *call,
                          bool done)
{
    open_item(out, "fc", "function_call", id, index, done ? "completed" : "in_progress");
    sp_buf_puts(out, ",\"call_id\":");
    sp_buf_json_str(out, call->id.p, call->id.n);
    sp_buf_puts(out, ",\"name\":");
    sp_buf_json_str(out, call->name.p, call->name.n);
    sp_buf_puts(out, ",\"arguments\":");
    sp_buf_json_str(out, done ? call->arguments.p : "", done ? call->arguments.n : 0);
    sp_buf_putc(out, '}');
}

/* --- the object ------------------------------------------------------------------------------- */

static void put_error(sp_buf *out, const sp_turn_error *e)
{
    const char *code = sp_api_error_code(e);
    sp_buf_printf(out, ",\"error\":{\"code\":\"%s\",\"message\":",
                  code                       ? code
                  : e->diag.code == SP_LIMIT ? "rate_limit_exceeded"
                                             : "server_error");
    sp_buf_json_str(out, e->diag.msg, strlen(e->diag.msg));
    sp_buf_putc(out, '}');
}

static void put_usage(sp_buf *out, const sp_turn *t)
{
    sp_receipt sum;
    const sp_turn_usage u = sp_turn_used(t);
    sp_turn_receipt(&sum, t);
    sp_buf_printf(
        out,
        "{\"input_tokens\":%zu,\"input_tokens_details\":{\"cached_tokens\":%zu},\"output_tokens\":%"
        "zu,"
        "\"output_tokens_details\":{\"reasoning_tokens\":%zu},\"total_tokens\":%zu,\"sparing\":",
        u.n_prompt, u.n_cached, u.n_out, u.n_think, u.n_prompt + u.n_out);
    sp_receipt_write(&sum, out);
    sp_buf_putc(out, '}');
}

void sp_response_put(sp_buf *out, const sp_response *r, const sp_turn *t, const char *status,
                     const char *output, bool usage)
{
    const sp_turn_error *e = sp_turn_error_of(t);
    const char *name = r->on->env.name;
    const sp_turn_answer *a = sp_turn_answer_of(t, 0);
    size_t begin = out->len;
    sp_buf_printf(out,
                  "{\"id\":\"%s\",\"object\":\"response\",\"created_at\":%lld,\"status\":\"%s\","
                  "\"background\":false,\"model\":",
                  sp_turn_ask(t)->id, (long long)r->created, status);
    sp_buf_json_str(out, name, strlen(name));
    if (strcmp(status, "completed") == 0)
        sp_buf_printf(out, ",\"completed_at\":%lld", (long long)sp_clock_wall());
    if (e->diag.code)
        put_error(out, e);
    else
        sp_buf_puts(out, ",\"error\":null");
    if (strcmp(status, "incomplete") == 0)
        sp_buf_printf(out, ",\"incomplete_details\":{\"reason\":\"%s\"}",
                      a && a->finish == SP_FINISH_FILTER ? "content_filter" : "max_output_tokens");
    else
        sp_buf_puts(out, ",\"incomplete_details\":null");
    if (sp_turn_conversation(t))
        sp_buf_printf(out, ",\"conversation\":{\"id\":\"%s\"}", sp_turn_conversation(t));
    sp_buf_printf(out, ",%s,\"output\":[%s],\"usage\":", r->echo, output);
    if (usage)
        put_usage(out, t);
    else
        sp_buf_puts(out, "null");
    sp_buf_putc(out, '}');
    if (usage && !out->failed)
        sp_response_keep(r, t, out->p + begin, out->len - begin);
}

/* --- a whole answer --------------------------------------------------------------------------- */

static sp_str all_of(const sp_buf *b)
{
    return (sp_str){sp_buf_str(b), b->len};
}

static void next(sp_buf *out, size_t *n)
{
    sp_buf_puts(out, (*n)++ ? "," : "");
}

static void put_items(sp_buf *out, const sp_response *r, const sp_turn *t)
{
    const sp_turn_answer *a = sp_turn_answer_of(t, 0);
    const char *id = sp_turn_ask(t)->id;
    sp_buf part = {0};
    size_t n = 0;
    if (sp_turn_searched(t).op) {
        next(out, &n);
        sp_response_put_search(out, r, t, n - 1);
    }
    if (a->reasoning.len) {
        next(out, &n);
        sp_response_put_reasoning(out, id, n - 1, all_of(&a->reasoning), true);
    }
    if (a->text.len || !a->n_call) {
        next(out, &n);
        sp_response_put_part(&part, t, all_of(&a->text), true);
        sp_response_put_message(out, id, n - 1, sp_response_message_status(a->finish), "assistant",
                                sp_buf_str(&part));
    }
    for (size_t i = 0; i < a->n_call; i++) {
        const sp_chat_call call = sp_response_call(&a->call[i]);
        next(out, &n);
        sp_response_put_call(out, id, n - 1, &call, true);
    }
    out->failed = out->failed || part.failed;
    sp_buf_fini(&part);
}

void sp_response_whole(void *state, sp_buf *out, const sp_turn *t)
{
    sp_response *r = state;
    put_items(&r->output, r, t);
    if (r->output.failed)
        out->failed = true;
    else
        sp_response_put(out, r, t, sp_response_status(sp_turn_answer_of(t, 0)->finish),
                        sp_buf_str(&r->output), true);
}
