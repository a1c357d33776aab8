/* Answers of /v1/conversations. */
#include "api/conversation_int.h"
#include "api/response.h"

#include <jansson.h>
#include <stdlib.h>
#include <string.h>

void sp_conversation_put(sp_buf *out, const sp_hdb_conv *c)
{
    sp_buf_printf(out,
                  "{\"id\":\"%s\",\"object\":\"conversation\",\"created_at\":%lld,\"updated_at\":%"
                  "lld,\"item_count\":%lld,\"metadata\":%s,\"title\":",
                  c->id, (long long)c->created, (long long)c->updated, (long long)c->n_item,
                  c->metadata.p);
    sp_buf_json_str(out, c->title.p, c->title.n);
    sp_buf_printf(out,
                  c->leaf[0] ? ",\"pinned\":%s,\"leaf\":\"%s\"" : ",\"pinned\":%s,\"leaf\":null",
                  c->pinned ? "true" : "false", c->leaf);
    sp_buf_printf(out, ",\"settings\":%s,\"live\":%s", c->settings.p, c->live ? "true" : "false");
}

/* Where the words of a search are; positions are in characters. */
static void put_snippet(sp_buf *out, const sp_hdb_conv *c)
{
    sp_buf_printf(out, ",\"snippet\":{\"item\":\"%s\",\"text\":", c->found);
    sp_buf_json_str(out, c->snippet.p, c->snippet.n);
    sp_buf_puts(out, ",\"marks\":[");
    for (size_t i = 0; i < c->n_mark; i++)
        sp_buf_printf(out, "%s[%zu,%zu]", i ? "," : "",
                      sp_api_characters(c->snippet.p, c->mark[i][0]),
                      sp_api_characters(c->snippet.p, c->mark[i][1]));
    sp_buf_puts(out, "]}");
}

void sp_conversation_put_list(sp_buf *out, const sp_history_op *op, size_t limit)
{
    size_t n = op->n_convs < limit ? op->n_convs : limit;
    sp_buf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < n; i++) {
        sp_buf_puts(out, i ? "," : "");
        sp_conversation_put(out, &op->convs[i]);
        if (op->convs[i].found[0])
            put_snippet(out, &op->convs[i]);
        else
            sp_buf_puts(out, ",\"snippet\":null");
        sp_buf_putc(out, '}');
    }
    sp_buf_printf(out, "],\"first_id\":\"%s\",\"last_id\":\"%s\",\"has_more\":%s}",
                  n ? op->convs[0].id : "", n ? op->convs[n - 1].id : "",
                  op->n_convs > n ? "true" : "false");
}

/* Calls and their results are items as /v1/responses has them; what was found by its text is shown
 * as a message. */
void sp_conversation_put_item(sp_buf *out, sp_arena *a, const sp_hdb_item *it, bool found)
{
    sp_chat_msg m = {0};
    if (it->more.n && !found && sp_history_message(&m, a, it) != SP_OK)
        out->failed = true;
    if (m.n_call || m.call_id.n || m.reasoning.n || m.name.n) {
        sp_response_put_kept(out, it->id, &m);
        return;
    }
    bool answer = it->role.n && it->role.p[0] == 'a';
    sp_buf_printf(out,
                  "{\"id\":\"%s\",\"type\":\"message\",\"status\":\"completed\",\"created_at\":%"
                  "lld,\"role\":\"%.*s\",",
                  it->id, (long long)it->created, (int)it->role.n, it->role.p);
    if (found)
        sp_buf_printf(out, "\"position\":%lld,\"score\":%.6f,", (long long)it->pos, it->score);
    sp_buf_printf(out,
                  "\"content\":[{\"type\":\"%s\",\"text\":", answer ? "output_text" : "input_text");
    sp_buf_json_str(out, it->text.p, it->text.n);
    sp_buf_puts(out, "}]}");
}

/* --- messages of a tree ----------------------------------------------------------------------- */

static void put_text(sp_buf *out, const char *name, sp_str s)
{
    sp_buf_printf(out, ",\"%s\":", name);
    if (s.n)
        sp_buf_json_str(out, s.p, s.n);
    else
        sp_buf_puts(out, "null");
}

static void put_calls(sp_buf *out, const sp_chat_msg *m)
{
    sp_buf_puts(out, ",\"tool_calls\":[");
    for (size_t i = 0; i < m->n_call; i++) {
        const sp_chat_call *c = &m->call[i];
        sp_buf_puts(out, i ? ",{\"id\":" : "{\"id\":");
        sp_buf_json_str(out, c->id.p, c->id.n);
        sp_buf_puts(out, ",\"type\":\"function\",\"function\":{\"name\":");
        sp_buf_json_str(out, c->name.p, c->name.n);
        sp_buf_puts(out, ",\"arguments\":");
        sp_buf_json_str(out, c->arguments.p, c->arguments.n);
        sp_buf_puts(out, "}}");
    }
    sp_buf_putc(out, ']');
}

static sp_str str_of(const json_t *v)
{
    return (sp_str){json_string_value(v), json_string_length(v)};
}

void sp_conversation_put_message(sp_buf *out, sp_arena *a, const sp_hdb_item *it,
                                 const char *siblings)
{
    static const char *const status[] = {[SP_HDB_COMPLETE] = "completed",
                                         [SP_HDB_RUNNING] = "in_progress",
                                         [SP_HDB_CUT] = "incomplete",
                                         [SP_HDB_STOPPED] = "incomplete",
                                         [SP_HDB_FAILED] = "incomplete"};
    sp_chat_msg m = {0};
    json_t *more = it->more.n ? json_loadb(it->more.p, it->more.n, JSON_ALLOW_NUL, NULL) : NULL;
    if (sp_history_message(&m, a, it) != SP_OK)
        out->failed = true;
    bool answer = it->role.n && it->role.p[0] == 'a';
    sp_buf_printf(out,
                  "{\"id\":\"%s\",\"type\":\"message\",\"status\":\"%s\",\"state\":\"%s\","
                  "\"created_at\":%lld,\"role\":\"%.*s\",\"parent\":",
                  it->id, status[it->status], sp_hdb_status_name(it->status),
                  (long long)it->created, (int)it->role.n, it->role.p);
    sp_buf_printf(out, it->parent[0] ? "\"%s\"" : "null", it->parent);
    sp_buf_printf(out, siblings ? ",\"siblings\":[%s]" : ",\"siblings\":[\"%s\"]",
                  siblings ? siblings : it->id);
    sp_buf_printf(
        out, ",\"content\":[{\"type\":\"%s\",\"text\":", answer ? "output_text" : "input_text");
    sp_buf_json_str(out, it->text.p, it->text.n);
    sp_buf_puts(out, "}]");
    put_text(out, "reasoning", m.reasoning);
    put_calls(out, &m);
    put_text(out, "model", str_of(json_object_get(more, "model")));
    put_text(out, "error", str_of(json_object_get(more, "error")));
    sp_buf_printf(out, ",\"receipt\":%s,\"sources\":%s}", it->receipt.n ? it->receipt.p : "null",
                  it->sources.n ? it->sources.p : "null");
    json_decref(more);
}

void sp_conversation_put_path(sp_buf *out, sp_history_op *op)
{
    const char *siblings = sp_buf_str(&op->siblings);
    sp_buf_puts(out, "{\"object\":\"list\",\"data\":[");
    for (size_t i = 0; i < op->n_item; i++) {
        bool has = op->item[i].n_sibling > 1;
        sp_buf_puts(out, i ? "," : "");
        sp_conversation_put_message(out, &op->op.a, &op->item[i], has ? siblings : NULL);
        siblings += has ? strlen(siblings) + 1 : 0;
    }
    sp_buf_printf(out, "],\"first_id\":\"%s\",\"last_id\":\"%s\",\"has_more\":%s}",
                  op->n_item ? op->item[0].id : "", op->n_item ? op->item[op->n_item - 1].id : "",
                  op->more ? "true" : "false");
}
