/* Events of a response, in OpenAI's order: its head, each item from added to done, its end. Only
 * one item is open at a time. */
#include "api/response_int.h"

#include <string.h>

static void begin(sp_buf *out, sp_response *r, const char *type)
{
    sp_buf_printf(out, "event: %s\ndata: {\"type\":\"%s\",\"sequence_number\":%zu", type, type,
                  r->sequence++);
}

static void end(sp_buf *out)
{
    sp_buf_puts(out, "}\n\n");
}

/* An event about the open item, and its only part where part is true. */
static void begin_of(sp_buf *out, sp_response *r, const sp_turn *t, const char *type, bool part)
{
    static const char *const prefix[] = {
        [SP_ITEM_REASONING] = "rs", [SP_ITEM_MESSAGE] = "msg", [SP_ITEM_CALL] = "fc"};
    begin(out, r, type);
    sp_buf_puts(out, ",\"item_id\":");
    sp_response_put_id(out, prefix[r->open], sp_turn_ask(t)->id, r->n_item);
    sp_buf_printf(out, part ? ",\"output_index\":%zu,\"content_index\":0" : ",\"output_index\":%zu",
                  r->n_item);
}

static void put_text(sp_buf *out, const char *name, sp_str text)
{
    sp_buf_printf(out, ",\"%s\":", name);
    sp_buf_json_str(out, text.p, text.n);
}

static void put_response(sp_buf *out, sp_response *r, const sp_turn *t, const char *type,
                         const char *status, bool last)
{
    begin(out, r, type);
    sp_buf_puts(out, ",\"response\":");
    sp_response_put(out, r, t, status, last ? sp_buf_str(&r->output) : "", last);
    end(out);
}

static void put_head(sp_buf *out, sp_response *r, const sp_turn *t)
{
    if (r->begun)
        return;
    r->begun = true;
    put_response(out, r, t, "response.created", "in_progress", false);
    put_response(out, r, t, "response.in_progress", "in_progress", false);
}

/* --- items ------------------------------------------------------------------------------------ */

/* What the open item holds. */
static sp_str held(const sp_response *r, const sp_turn *t)
{
    const sp_turn_answer *a = sp_turn_answer_of(t, 0);
    if (r->open == SP_ITEM_CALL)
        return (sp_str){sp_buf_str(&a->call[r->call].args), a->call[r->call].args.len};
    return r->open == SP_ITEM_MESSAGE
               ? (sp_str){sp_buf_str(&a->text) + r->from, r->n_text - r->from}
               : (sp_str){sp_buf_str(&a->reasoning) + r->from, r->n_reasoning - r->from};
}

static void put_message(sp_buf *out, const sp_response *r, const sp_turn *t, bool done)
{
    sp_buf part = {0};
    if (done)
        sp_response_put_part(&part, t, held(r, t), true);
    sp_response_put_message(out, sp_turn_ask(t)->id, r->n_item,
                            done ? sp_response_message_status(r->finish) : "in_progress",
                            "assistant", sp_buf_str(&part));
    out->failed = out->failed || part.failed;
    sp_buf_fini(&part);
}

static void put_call(sp_buf *out, const sp_response *r, const sp_turn *t, bool done)
{
    const sp_chat_call call = sp_response_call(&sp_turn_answer_of(t, 0)->call[r->call]);
    sp_response_put_call(out, sp_turn_ask(t)->id, r->n_item, &call, done);
}

static void put_item(sp_buf *out, const sp_response *r, const sp_turn *t, bool done)
{
    switch (r->open) {
    case SP_ITEM_REASONING:
        sp_response_put_reasoning(out, sp_turn_ask(t)->id, r->n_item, held(r, t), done);
        break;
    case SP_ITEM_MESSAGE: put_message(out, r, t, done); break;
    case SP_ITEM_CALL: put_call(out, r, t, done); break;
    case SP_ITEM_NONE: break;
    }
}

/* output_item.added or .done */
static void put_item_event(sp_buf *out, sp_response *r, const char *type, const sp_buf *item)
{
    begin(out, r, type);
    sp_buf_printf(out, ",\"output_index\":%zu,\"item\":%s", r->n_item, sp_buf_str(item));
    end(out);
}

static void put_part_event(sp_buf *out, sp_response *r, const sp_turn *t, const char *type,
                           bool done)
{
    begin_of(out, r, t, type, true);
    sp_buf_puts(out, ",\"part\":");
    if (r->open == SP_ITEM_MESSAGE) {
        sp_response_put_part(out, t, done ? held(r, t) : (sp_str){"", 0}, done);
    } else {
        sp_buf_puts(out, "{\"type\":\"reasoning_text\"");
        put_text(out, "text", done ? held(r, t) : (sp_str){"", 0});
        sp_buf_putc(out, '}');
    }
    end(out);
}

/* The item is whole: it is part of the output. */
static void finish_item(sp_buf *out, sp_response *r, const sp_buf *item)
{
    put_item_event(out, r, "response.output_item.done", item);
    sp_buf_puts(&r->output, r->n_item ? "," : "");
    sp_buf_put(&r->output, item->p, item->len);
    out->failed = out->failed || item->failed || r->output.failed;
    r->n_item++;
    r->open = SP_ITEM_NONE;
}

static void put_annotations(sp_buf *out, sp_response *r, const sp_turn *t)
{
    const sp_turn_answer *a = sp_turn_answer_of(t, 0);
    for (size_t i = 0; i < a->n_cite; i++) {
        begin_of(out, r, t, "response.output_text.annotation.added", true);
        sp_buf_printf(out, ",\"annotation_index\":%zu,\"annotation\":", i);
        sp_response_put_annotation(out, t, i);
        end(out);
    }
}

static void put_done(sp_buf *out, sp_response *r, const sp_turn *t)
{
    static const char *const type[] = {[SP_ITEM_REASONING] = "response.reasoning_text.done",
                                       [SP_ITEM_MESSAGE] = "response.output_text.done",
                                       [SP_ITEM_CALL] = "response.function_call_arguments.done"};
    bool call = r->open == SP_ITEM_CALL;
    const sp_buf *name = call ? &sp_turn_answer_of(t, 0)->call[r->call].name : NULL;
    begin_of(out, r, t, type[r->open], !call);
    put_text(out, call ? "arguments" : "text", held(r, t));
    if (call)
        put_text(out, "name", (sp_str){sp_buf_str(name), name->len});
    if (r->open == SP_ITEM_MESSAGE)
        sp_buf_puts(out, ",\"logprobs\":[]");
    end(out);
}

static void close_item(sp_buf *out, sp_response *r, const sp_turn *t)
{
    sp_buf item = {0};
    if (r->open == SP_ITEM_NONE)
        return;
    if (r->open == SP_ITEM_MESSAGE)
        put_annotations(out, r, t);
    put_done(out, r, t);
    if (r->open != SP_ITEM_CALL)
        put_part_event(out, r, t, "response.content_part.done", true);
    put_item(&item, r, t, true);
    finish_item(out, r, &item);
    sp_buf_fini(&item);
}

/* What was searched comes before all else. */
static void put_search(sp_buf *out, sp_response *r, const sp_turn *t)
{
    sp_buf item = {0};
    bool searched = !r->listed && sp_turn_searched(t).op;
    r->listed = true;
    if (!searched)
        return;
    sp_response_put_search(&item, r, t, r->n_item);
    put_item_event(out, r, "response.output_item.added", &item);
    finish_item(out, r, &item);
    sp_buf_fini(&item);
}

/* Opens an item, unless one of its kind is open. A call is always a new one. */
static void open_item(sp_buf *out, sp_response *r, const sp_turn *t, sp_response_item kind)
{
    sp_buf item = {0};
    if (r->open == kind && kind != SP_ITEM_CALL)
        return;
    close_item(out, r, t);
    put_search(out, r, t);
    r->open = kind;
    r->from = kind == SP_ITEM_MESSAGE ? r->n_text : r->n_reasoning;
    put_item(&item, r, t, false);
    put_item_event(out, r, "response.output_item.added", &item);
    out->failed = out->failed || item.failed;
    sp_buf_fini(&item);
    if (kind != SP_ITEM_CALL)
        put_part_event(out, r, t, "response.content_part.added", false);
}

/* --- events ----------------------------------------------------------------------------------- */

static void put_delta(sp_buf *out, sp_response *r, const sp_turn *t, const char *type, sp_str text)
{
    if (!text.n)
        return;
    begin_of(out, r, t, type, r->open != SP_ITEM_CALL);
    put_text(out, "delta", text);
    if (r->open == SP_ITEM_MESSAGE)
        sp_buf_puts(out, ",\"logprobs\":[]");
    end(out);
}

static void take_text(sp_buf *out, sp_response *r, const sp_turn *t, sp_str text, bool reasoning)
{
    if (!text.n)
        return;
    open_item(out, r, t, reasoning ? SP_ITEM_REASONING : SP_ITEM_MESSAGE);
    *(reasoning ? &r->n_reasoning : &r->n_text) += text.n;
    put_delta(out, r, t, reasoning ? "response.reasoning_text.delta" : "response.output_text.delta",
              text);
}

static void take_finish(sp_buf *out, sp_response *r, const sp_turn *t, sp_finish finish)
{
    const sp_turn_answer *a = sp_turn_answer_of(t, 0);
    r->finish = finish;
    if (a->text.len == 0 && a->n_call == 0)
        open_item(out, r, t, SP_ITEM_MESSAGE); /* an empty answer is one too */
    close_item(out, r, t);
}

static void put_end(sp_buf *out, sp_response *r, const sp_turn *t)
{
    const char *status = sp_response_status(r->finish);
    bool whole = strcmp(status, "incomplete") != 0;
    put_response(out, r, t, whole ? "response.completed" : "response.incomplete", status, true);
}

void sp_response_event(void *state, sp_buf *out, const sp_turn *t, const sp_turn_event *ev)
{
    sp_response *r = state;
    put_head(out, r, t);
    switch (ev->kind) {
    case SP_TURN_TEXT: take_text(out, r, t, ev->text, false); break;
    case SP_TURN_REASONING: take_text(out, r, t, ev->text, true); break;
    case SP_TURN_CALL:
        close_item(out, r, t);
        r->call = ev->call;
        open_item(out, r, t, SP_ITEM_CALL);
        break;
    case SP_TURN_ARGS:
        put_delta(out, r, t, "response.function_call_arguments.delta", ev->text);
        break;
    case SP_TURN_CALL_END: close_item(out, r, t); break;
    case SP_TURN_FINISH: take_finish(out, r, t, ev->finish); break;
    case SP_TURN_AGAIN: sp_buf_printf(out, ": %.*s\n\n", (int)ev->text.n, ev->text.p); break;
    case SP_TURN_END: put_end(out, r, t); break;
    case SP_TURN_ERROR: put_response(out, r, t, "response.failed", "failed", true); break;
    case SP_TURN_BEGIN:
    case SP_TURN_REFERENCE:
    case SP_TURN_CITATIONS: break; /* citations go out with the message; marks are not asked for */
    }
}
