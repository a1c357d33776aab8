/* Anthropic's messages: a message of several blocks becomes one or more messages of a prompt. */
#include "api/anthropic_int.h"

#include <stdio.h>
#include <string.h>

enum { MAX_MESSAGES = 100000, MAX_BLOCKS = 1 << 18 };

/* Reads the blocks of one message after the other. */
typedef struct reader {
    request *r;
    sp_chat_msg *msg; /* [n] that are whole; there is room for one a block and one a message */
    size_t n;
    char where[48];   /* the list whose blocks are read, for errors: messages.3.content */
    const char *role; /* its role */
    sp_buf text, thought; /* of the message that is not whole yet */
    sp_chat_call *call;   /* [n_call] of it; room for one a block */
    size_t n_call;
    bool any;             /* it has a block */
} reader;

#define NO_VISION "images cannot be read: this server has no vision encoder"
#define NO_FILES                                                                                   \
    "documents cannot be read here: put them into a vector store and search it with file_search"

/* Fields of blocks that change no prompt. */
static const sp_known known_block[] = {{"cache_control", NULL, NULL}, {"citations", NULL, NULL},
                                       {"caller", NULL, NULL},        {"signature", NULL, NULL},
                                       {NULL, NULL, NULL}};
static const sp_known known_message[] = {
    {"id", NULL, NULL},           {"type", NULL, NULL},      {"model", NULL, NULL},
    {"stop_reason", NULL, NULL},  {"usage", NULL, NULL},     {"stop_sequence", NULL, NULL},
    {"stop_details", NULL, NULL}, {"container", NULL, NULL}, {"context_management", NULL, NULL},
    {"cache_control", NULL, NULL}, {NULL, NULL, NULL}};

static sp_err no_memory(sp_diag *d)
{
    return SP_FAIL(d, SP_NOMEM, "messages");
}

/* --- messages that are whole ------------------------------------------------------------------ */

static sp_err keep(sp_str *out, request *r, sp_buf *b, sp_diag *d)
{
    char *p = b->failed ? NULL : sp_arena_strndup(&r->ask->a, sp_buf_str(b), b->len);
    *out = (sp_str){p, b->len};
    sp_buf_clear(b);
    return p ? SP_OK : no_memory(d);
}

static bool is_role(const sp_chat_msg *m, const char *role)
{
    return m->role.n == strlen(role) && memcmp(m->role.p, role, m->role.n) == 0;
}

/* Turns of one side that follow one another are one turn. */
static sp_err join(reader *in, sp_chat_msg *last, const sp_chat_msg *m, sp_diag *d)
{
    sp_buf all = {0};
    sp_buf_put(&all, last->content.p, last->content.n);
    sp_buf_puts(&all, last->content.n && m->content.n ? "\n\n" : "");
    sp_buf_put(&all, m->content.p, m->content.n);
    sp_err err = keep(&last->content, in->r, &all, d);
    sp_buf_fini(&all);
    return err;
}

/* The blocks so far become a message. */
static sp_err flush(reader *in, sp_diag *d)
{
    sp_chat_msg m = sp_chat_say(in->role, "", 0);
    sp_chat_msg *last = in->n ? &in->msg[in->n - 1] : NULL;
    if (!in->any)
        return SP_OK;
    SP_TRY(keep(&m.content, in->r, &in->text, d));
    SP_TRY(keep(&m.reasoning, in->r, &in->thought, d));
    m.call = in->call;
    m.n_call = in->n_call;
    in->call += in->n_call;
    in->n_call = 0;
    in->any = false;
    if (last && is_role(last, in->role) && is_role(&m, "user"))
        return join(in, last, &m, d);
    in->msg[in->n++] = m;
    return SP_OK;
}

/* --- blocks ----------------------------------------------------------------------------------- */

/* Reads the fields of a block; errors say where it stands. */
static sp_err read_fields(reader *in, const json_t *block, const sp_param *table, size_t n,
                          size_t i, sp_diag *d)
{
    const sp_lists lists = {.known = known_block,
                            .lenient = in->r->app->lenient,
                            .ignored = &in->r->ignored,
                            .where = "messages[].content[]."};
    const char *bad;
    sp_diag inner = {0};
    if (sp_known_read(block, table, n, &lists, &bad, &inner) == SP_OK)
        return SP_OK;
    return SP_FAIL(d, inner.code, "%s.%zu: %.140s", in->where, i, inner.msg);
}

static sp_err lacks(const reader *in, const char *name, size_t i, sp_diag *d)
{
    return SP_FAIL(d, SP_INVAL, "%s.%zu: %s is missing", in->where, i, name);
}

/* Blocks of an assistant are pieces of one text, those of others are paragraphs. */
static void add_text(sp_buf *b, const char *role, const json_t *text)
{
    if (b->len && json_string_length(text) && strcmp(role, "assistant") != 0)
        sp_buf_puts(b, "\n\n");
    sp_buf_put(b, json_string_value(text), json_string_length(text));
}

static sp_err read_text(reader *in, const json_t *block, size_t i, sp_diag *d)
{
    const json_t *text = NULL;
    const sp_param table[] = {{"type", SP_P_IGNORE, NULL, 0, 0}, {"text", SP_P_JSON, &text, 0, 0}};
    SP_TRY(read_fields(in, block, table, 2, i, d));
    if (!json_is_string(text))
        return lacks(in, "text, a string,", i, d);
    add_text(&in->text, in->role, text);
    return SP_OK;
}

static sp_err read_thinking(reader *in, const json_t *block, size_t i, sp_diag *d)
{
    const json_t *text = NULL;
    const sp_param table[] = {{"type", SP_P_IGNORE, NULL, 0, 0},
                              {"thinking", SP_P_JSON, &text, 0, 0}};
    SP_TRY(read_fields(in, block, table, 2, i, d));
    if (!json_is_string(text))
        return lacks(in, "thinking, a string,", i, d);
    sp_buf_put(&in->thought, json_string_value(text), json_string_length(text));
    return SP_OK;
}

/* Nobody but the server that wrote it can read it. */
static sp_err read_redacted(reader *in, const json_t *block, size_t i, sp_diag *d)
{
    const sp_lists lists = {.ignored = &in->r->ignored, .where = "messages[].content[]."};
    (void)block;
    (void)i;
    (void)d;
    sp_known_ignore(&lists, "redacted_thinking");
    return SP_OK;
}

static sp_err keep_str(sp_str *out, request *r, const char *s, sp_diag *d)
{
    *out = (sp_str){sp_arena_strndup(&r->ask->a, s, strlen(s)), strlen(s)};
    return out->p ? SP_OK : no_memory(d);
}

static sp_err read_use(reader *in, const json_t *block, size_t i, sp_diag *d)
{
    const char *id = NULL, *name = NULL, *args;
    const json_t *input = NULL;
    const sp_param table[] = {{"type", SP_P_IGNORE, NULL, 0, 0},
                              {"id", SP_P_STR, &id, 0, 0},
                              {"name", SP_P_STR, &name, 0, 0},
                              {"input", SP_P_JSON, &input, 0, 0}};
    sp_chat_call *c = &in->call[in->n_call];
    SP_TRY(read_fields(in, block, table, 4, i, d));
    if (!id || !name)
        return lacks(in, id ? "name" : "id", i, d);
    if (input && !json_is_object(input))
        return SP_FAIL(d, SP_INVAL, "%s.%zu.input is not an object", in->where, i);
    SP_TRY(keep_str(&c->id, in->r, id, d));
    SP_TRY(keep_str(&c->name, in->r, name, d));
    if (input) {
        SP_TRY(sp_params_keep(&args, &in->r->ask->a, input, d));
        c->arguments = (sp_str){args, strlen(args)};
    }
    in->n_call++;
    return SP_OK;
}

/* What a kind of block would need; NULL: it is not known at all. */
static const char *what_lacks(const char *type)
{
    static const struct {
        const char *type, *lacks;
    } of[] = {{"image", NO_VISION},
              {"document", NO_FILES},
              {"search_result", NO_FILES},
              {"container_upload", "files cannot be read: this server runs no code"}};
    for (size_t i = 0; type && i < sizeof of / sizeof of[0]; i++)
        if (strcmp(of[i].type, type) == 0)
            return of[i].lacks;
    return NULL;
}

static sp_err refuse(const reader *in, const char *type, size_t i, sp_diag *d)
{
    const char *why = what_lacks(type);
    if (why)
        return SP_FAIL(d, SP_UNSUP, "%s.%zu: %s", in->where, i, why);
    return SP_FAIL(d, SP_UNSUP, "%s.%zu.type: %.40s is not supported for %s",
                   in->where, i, type ? type : "none", in->role);
}

/* The text of a result: a string, or blocks of text. */
static sp_err read_result_text(reader *in, sp_buf *out, const json_t *v, size_t i, sp_diag *d)
{
    if (json_is_string(v))
        sp_buf_put(out, json_string_value(v), json_string_length(v));
    else if (v && !json_is_array(v))
        return SP_FAIL(d, SP_INVAL,
                       "%s.%zu.content must be a string or a list of blocks",
                       in->where, i);
    for (size_t k = 0; k < json_array_size(v); k++) {
        const json_t *b = json_array_get(v, k), *text = json_object_get(b, "text");
        const char *type = json_string_value(json_object_get(b, "type"));
        if (!type || strcmp(type, "text") != 0 || !json_is_string(text))
            return refuse(in, type, i, d);
        add_text(out, "tool", text);
    }
    return SP_OK;
}

/* A result is a message of its own; what stands before it in the user's message comes before it. */
static sp_err read_result(reader *in, const json_t *block, size_t i, sp_diag *d)
{
    const char *id = NULL;
    const json_t *content = NULL;
    bool failed = false;
    sp_buf text = {0};
    const sp_param table[] = {{"type", SP_P_IGNORE, NULL, 0, 0},
                              {"tool_use_id", SP_P_STR, &id, 0, 0},
                              {"content", SP_P_JSON, &content, 0, 0},
                              {"is_error", SP_P_BOOL, &failed, 0, 0}};
    SP_TRY(read_fields(in, block, table, 4, i, d));
    if (!id)
        return lacks(in, "tool_use_id", i, d);
    SP_TRY(flush(in, d));
    sp_chat_msg m = sp_chat_say("tool", "", 0);
    SP_TRY(keep_str(&m.call_id, in->r, id, d));
    sp_buf_puts(&text, failed ? "Error: " : ""); /* no template has a mark for it */
    sp_err err = read_result_text(in, &text, content, i, d);
    if (err == SP_OK)
        err = keep(&m.content, in->r, &text, d);
    sp_buf_fini(&text);
    if (err == SP_OK)
        in->msg[in->n++] = m;
    return err;
}

static sp_err read_block(reader *in, const json_t *block, size_t i, sp_diag *d)
{
    static const struct {
        const char *type, *role; /* role NULL: of any */
        sp_err (*read)(reader *in, const json_t *block, size_t i, sp_diag *d);
    } kinds[] = {{"text", NULL, read_text},
                 {"thinking", "assistant", read_thinking},
                 {"redacted_thinking", "assistant", read_redacted},
                 {"tool_use", "assistant", read_use},
                 {"tool_result", "user", read_result}};
    const char *type = json_string_value(json_object_get(block, "type"));
    for (size_t k = 0; type && k < sizeof kinds / sizeof kinds[0]; k++) {
        bool fits = !kinds[k].role || strcmp(kinds[k].role, in->role) == 0;
        if (strcmp(kinds[k].type, type) != 0 || !fits)
            continue;
        in->any = in->any || kinds[k].read != read_result;
        return kinds[k].read(in, block, i, d);
    }
    return refuse(in, type, i, d);
}

/* --- messages --------------------------------------------------------------------------------- */

/* Whose message it is; SP_INVAL: nobody's that is known. */
static sp_err read_role(reader *in, const char *role, size_t at, sp_diag *d)
{
    static const char *const roles[] = {"user", "assistant", "system"};
    for (size_t k = 0; role && k < sizeof roles / sizeof roles[0]; k++)
        if (strcmp(roles[k], role) == 0) {
            in->role = roles[k];
            return SP_OK;
        }
    return SP_FAIL(d, SP_INVAL, "messages.%zu.role must be user, assistant or system", at);
}

static sp_err read_message(reader *in, const json_t *m, size_t at, sp_diag *d)
{
    const char *role = NULL, *bad;
    const json_t *content = NULL;
    const sp_param table[] = {{"role", SP_P_STR, &role, 0, 0},
                              {"content", SP_P_JSON, &content, 0, 0}};
    const sp_lists lists = {.known = known_message,
                            .lenient = in->r->app->lenient,
                            .ignored = &in->r->ignored,
                            .where = "messages[]."};
    sp_diag inner = {0};
    if (!json_is_object(m))
        return SP_FAIL(d, SP_INVAL, "messages.%zu is not an object", at);
    if (sp_known_read(m, table, 2, &lists, &bad, &inner) != SP_OK)
        return SP_FAIL(d, inner.code, "messages.%zu: %.140s", at, inner.msg);
    SP_TRY(read_role(in, role, at, d));
    snprintf(in->where, sizeof in->where, "messages.%zu.content", at);
    if (json_is_string(content)) {
        in->any = true;
        sp_buf_put(&in->text, json_string_value(content), json_string_length(content));
        return flush(in, d);
    }
    if (!json_is_array(content))
        return SP_FAIL(d, SP_INVAL, "%s must be a string or a list of blocks",
                       in->where);
    for (size_t i = 0; i < json_array_size(content); i++)
        SP_TRY(read_block(in, json_array_get(content, i), i, d));
    return flush(in, d);
}

/* Claude Code's first block of system: it differs from request to request and says nothing to the
 * model, but everything behind it would be another prompt. */
static bool is_billing(const json_t *block)
{
    static const char head[] = "x-anthropic-billing-header:";
    const json_t *text = json_is_string(block) ? block : json_object_get(block, "text");
    return json_is_string(text) && strncmp(json_string_value(text), head, sizeof head - 1) == 0;
}

static sp_err read_system(reader *in, const json_t *v, sp_diag *d)
{
    in->role = "system";
    snprintf(in->where, sizeof in->where, "system");
    if (!v)
        return SP_OK;
    if (!json_is_string(v) && !json_is_array(v))
        return SP_FAIL(d, SP_INVAL, "system must be a string or a list of blocks of text");
    if (json_is_string(v)) {
        in->any = json_string_length(v) > 0;
        sp_buf_put(&in->text, json_string_value(v), json_string_length(v));
    }
    for (size_t i = 0; i < json_array_size(v); i++) {
        const json_t *block = json_array_get(v, i);
        const char *type = json_string_value(json_object_get(block, "type"));
        if (i == 0 && is_billing(block))
            continue;
        if (!type || strcmp(type, "text") != 0)
            return SP_FAIL(d, SP_UNSUP, "system.%zu: only blocks of type text are supported", i);
        SP_TRY(read_text(in, block, i, d));
        in->any = true;
    }
    return flush(in, d);
}

/* Blocks of all messages, one more for each message. */
static size_t count_blocks(const json_t *messages)
{
    size_t n = json_array_size(messages);
    for (size_t i = 0; i < json_array_size(messages); i++)
        n += json_array_size(json_object_get(json_array_get(messages, i), "content"));
    return n;
}

sp_err sp_anthropic_messages(request *r, const json_t *system, const json_t *messages,
                             const char **bad, sp_diag *d)
{
    reader in = {.r = r};
    sp_ask *q = r->ask;
    size_t n = json_array_size(messages), n_block = count_blocks(messages);
    *bad = "messages";
    if (!json_is_array(messages) || n == 0 || n > MAX_MESSAGES || n_block > MAX_BLOCKS)
        return SP_FAIL(d, SP_INVAL, "messages must be a list of 1 to %d messages with %d blocks",
                       MAX_MESSAGES, MAX_BLOCKS);
    in.msg = sp_arena_alloc(&q->a, (n + n_block + 2) * sizeof *in.msg); /* and one for an answer */
    in.call = sp_arena_alloc(&q->a, (n_block + 1) * sizeof *in.call);
    if (!in.msg || !in.call)
        return no_memory(d);
    *bad = "system";
    sp_err err = read_system(&in, system, d);
    *bad = err == SP_OK ? "messages" : *bad;
    for (size_t i = 0; err == SP_OK && i < n; i++)
        err = read_message(&in, json_array_get(messages, i), i, d);
    sp_buf_fini(&in.text);
    sp_buf_fini(&in.thought);
    q->msg = in.msg;
    q->n_msg = in.n;
    const sp_chat_msg *last = in.n ? &in.msg[in.n - 1] : NULL;
    q->go_on =
        err == SP_OK && last && is_role(last, "assistant") && last->content.n && !last->n_call;
    return err;
}
