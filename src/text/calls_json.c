/* Calls whose arguments are JSON: objects that hold the name too, and names with a separator before
 * the object. */
#include "text/calls_int.h"

/* --- objects ---------------------------------------------------------------------------------- */

enum { J_TOP, J_KEY, J_KEYSTR, J_COLON, J_VALUE };
enum { R_SKIP, R_NAME, R_ARGS, R_ID, R_FUNCTION };

static bool is_key(const sp_buf *b, const char *word)
{
    return b->len == strlen(word) + 2 && memcmp(b->p + 1, word, b->len - 2) == 0;
}

static int role_of(const sp_answer *a)
{
    static const struct {
        const char *key;
        int role;
    } of[] = {{"name", R_NAME},       {"tool_name", R_NAME},  {"arguments", R_ARGS},
              {"parameters", R_ARGS}, {"args", R_ARGS},       {"id", R_ID},
              {"call_id", R_ID},      {"tool_call_id", R_ID}, {"function", R_FUNCTION}};
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)
        if (is_key(&a->key, of[i].key))
            return of[i].role;
    return R_SKIP;
}

/* The text of a JSON string's source. */
static bool decode(sp_buf *out, const sp_buf *source)
{
    sp_arena arena;
    sp_jval v;
    sp_arena_init(&arena, 8 * SP_CALL_VALUE);
    bool ok = sp_call_parse(&v, &arena, sp_buf_str(source), source->len) && v.kind == SP_J_STR;
    if (ok) {
        sp_buf_clear(out);
        sp_buf_put(out, v.u.s.p, v.u.s.n);
    }
    sp_arena_fini(&arena);
    return ok;
}

static void start_object(sp_answer *a)
{
    sp_buf_clear(&a->name);
    sp_buf_clear(&a->id);
    sp_buf_clear(&a->args);
    sp_buf_clear(&a->value);
    a->has_args = false;
    a->nest = 0;
    a->sub = J_KEY;
    if (a->n_arg++) { /* one more: only its own bytes can be given back */
        sp_buf_clear(&a->raw);
        sp_buf_putc(&a->raw, '{');
    }
}

/* The name is known: arguments that came before it follow. */
static bool report_name(sp_answer *a)
{
    if (!sp_call_named(a))
        return false;
    sp_call_args(a, a->value.p, a->value.len);
    sp_buf_clear(&a->value);
    return true;
}

static step end_object(sp_answer *a)
{
    if (a->nest) {
        a->nest = 0;
        return STEP_MORE;
    }
    if (!a->is_named)
        return STEP_BAD;
    sp_call_end(a);
    a->sub = J_TOP;
    return a->cfg.format->end || a->n_list ? STEP_MORE : STEP_DONE;
}

static step at_top(sp_answer *a, char c)
{
    const char *const end[] = {a->cfg.format->end};
    bool idle = !a->held.n;
    if (a->n_arg)
        sp_buf_clear(&a->raw);
    if (idle && (sp_call_blank(c) || c == ',' || c == ';'))
        return STEP_MORE;
    if (idle && c == '{') {
        start_object(a);
        return STEP_MORE;
    }
    if (idle && c == '[' && !a->n_list) {
        a->n_list = 1;
        return STEP_MORE;
    }
    if (idle && c == ']' && a->n_list) {
        a->n_list = 0;
        return end[0] ? STEP_MORE : STEP_DONE;
    }
    int hit = end[0] ? sp_mark_take(&a->held, c, end, 1, &a->loose) : SP_MARK_NONE;
    if (hit == 0)
        return a->n_arg ? STEP_DONE : STEP_BAD; /* marks around nothing are text */
    if (!end[0] || a->loose.len) {
        if (!end[0])
            sp_buf_putc(&a->loose, c);
        return a->n_arg ? STEP_LEAVE : STEP_BAD;
    }
    return STEP_MORE;
}

/* A value has ended; the byte that ended it has been taken. */
static step end_value(sp_answer *a)
{
    a->sub = J_KEY;
    if (a->role == R_NAME && !a->is_named)
        return decode(&a->name, &a->head) && report_name(a) ? STEP_MORE : STEP_BAD;
    if (a->role == R_ID)
        (void)decode(&a->id, &a->head); /* a number is no id */
    if (a->role != R_ARGS || a->head.len == 0 || a->head.p[0] != '"')
        return STEP_MORE;
    sp_buf *text = &a->key; /* arguments as a text of JSON */
    if (!decode(text, &a->head))
        return STEP_BAD;
    if (a->is_named)
        sp_call_args(a, text->p, text->len);
    else
        sp_buf_put(&a->value, sp_buf_str(text), text->len);
    return STEP_MORE;
}

static bool put_value(sp_answer *a, char c)
{
    if (!a->is_streamed)
        return sp_call_add(&a->head, c, SP_CALL_VALUE);
    if (a->is_named)
        sp_call_args(a, &c, 1);
    return a->is_named || sp_call_add(&a->value, c, SP_CALL_RAW);
}

static step in_key(sp_answer *a, char c)
{
    if (sp_call_blank(c) || c == ',')
        return STEP_MORE;
    if (c == '}')
        return end_object(a);
    if (c != '"')
        return STEP_BAD;
    sp_buf_clear(&a->key);
    a->scan = (sp_scan){0};
    a->sub = J_KEYSTR;
    sp_buf_putc(&a->key, c);
    (void)sp_scan_take(&a->scan, c);
    return STEP_MORE;
}

static step after_key(sp_answer *a, char c)
{
    if (sp_call_blank(c))
        return STEP_MORE;
    if (c != ':')
        return STEP_BAD;
    a->role = role_of(a);
    a->scan = (sp_scan){0};
    sp_buf_clear(&a->head);
    a->sub = J_VALUE;
    if (!a->cfg.format->is_keyed)
        return STEP_MORE;
    a->role = R_ARGS;
    return !a->is_named && decode(&a->name, &a->key) && report_name(a) ? STEP_MORE : STEP_BAD;
}

static step in_value(sp_answer *a, char c)
{
    if (!a->scan.has_begun && sp_call_blank(c))
        return STEP_MORE;
    if (!a->scan.has_begun && a->role == R_FUNCTION && c == '{' && !a->nest) {
        a->nest = 1;
        a->sub = J_KEY;
        return STEP_MORE;
    }
    if (!a->scan.has_begun)
        a->is_streamed = a->role == R_ARGS && c == '{';
    sp_scanned s = sp_scan_take(&a->scan, c);
    if (s == SCAN_BAD)
        return STEP_BAD;
    if (s == SCAN_BEFORE) {
        step done = end_value(a);
        return done == STEP_MORE ? in_key(a, c) : done;
    }
    if (!put_value(a, c))
        return STEP_BAD;
    return s == SCAN_END ? end_value(a) : STEP_MORE;
}

step sp_call_json(sp_answer *a, char c)
{
    switch (a->sub) {
    case J_TOP: return at_top(a, c);
    case J_KEY: return in_key(a, c);
    case J_KEYSTR:
        if (!sp_call_add(&a->key, c, SP_CALL_RAW))
            return STEP_BAD;
        if (sp_scan_take(&a->scan, c) == SCAN_END)
            a->sub = J_COLON;
        return STEP_MORE;
    case J_COLON: return after_key(a, c);
    default: return in_value(a, c);
    }
}

/* --- names before arguments ------------------------------------------------------------------- */

enum { N_ID, N_NAME, N_ID_BEHIND, N_ARGS, N_END };

void sp_call_at_args(sp_answer *a)
{
    a->sub = N_ARGS;
    a->scan = (sp_scan){0};
}

/* A text up to a mark, in name or id. */
static step take_name(sp_answer *a, char c)
{
    const sp_call_format *f = a->cfg.format;
    const char *const mark[] = {a->sub == N_ID ? f->id_end : f->sep,
                                a->sub == N_NAME ? f->id : NULL};
    sp_buf *to = a->sub == N_NAME ? &a->name : &a->id;
    int hit = sp_mark_take(&a->held, c, mark, 2, &a->loose);
    sp_buf_put(to, sp_buf_str(&a->loose), a->loose.len);
    sp_buf_clear(&a->loose);
    if (to->len > SP_CALL_NAME)
        return STEP_BAD;
    if (hit == 0 && a->sub == N_ID)
        a->sub = N_NAME;
    else if (hit == 0)
        sp_call_at_args(a);
    else if (hit == 1)
        a->sub = N_ID_BEHIND;
    return STEP_MORE;
}

static step take_args(sp_answer *a, char c)
{
    if (!a->scan.has_begun) {
        if (sp_call_blank(c))
            return STEP_MORE;
        if (c != '{' || !sp_call_named(a))
            return STEP_BAD;
    }
    sp_scanned s = sp_scan_take(&a->scan, c);
    if (s == SCAN_BAD)
        return STEP_BAD;
    sp_call_args(a, &c, 1);
    if (s != SCAN_END)
        return STEP_MORE;
    sp_call_end(a);
    a->sub = N_END;
    a->held.n = 0;
    return a->cfg.format->end ? STEP_MORE : STEP_DONE;
}

step sp_call_named_args(sp_answer *a, char c)
{
    const char *const end[] = {a->cfg.format->end};
    if (a->sub == N_ID && !a->cfg.format->id_end)
        a->sub = N_NAME;
    if (a->sub == N_END)
        sp_buf_clear(&a->raw);
    if (a->sub == N_ARGS)
        return take_args(a, c);
    if (a->sub != N_END)
        return take_name(a, c);
    if (!a->held.n && sp_call_blank(c))
        return STEP_MORE;
    int hit = sp_mark_take(&a->held, c, end, 1, &a->loose);
    return hit == 0 ? STEP_DONE : a->loose.len ? STEP_LEAVE : STEP_MORE;
}
