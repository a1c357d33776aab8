/* The outer part of an answer: text, thoughts, heads, and where calls begin. */
#include "text/calls_int.h"

enum { IN_TEXT, IN_THOUGHT, IN_HEAD, IN_SECTION, IN_CALL };
enum { HEAD_BYTES = 1024, BLANK_BYTES = 256, ARENA_BYTES = 64 << 20 };

/* --- reporting -------------------------------------------------------------------------------- */

static void report(sp_answer *a, const sp_answer_event *e)
{
    if (a->cfg.on)
        a->cfg.on(a->cfg.arg, e);
}

static void flush(sp_answer *a)
{
    if (!a->out.len)
        return;
    const sp_answer_event e = {.kind = a->out_kind, .text = {a->out.p, a->out.len}};
    report(a, &e);
    sp_buf_clear(&a->out);
}

static void say(sp_answer *a, sp_answer_kind kind, const char *p, size_t n)
{
    if (a->out_kind != kind)
        flush(a);
    a->out_kind = kind;
    if (n)
        sp_buf_put(&a->out, p, n);
}

static bool is_name(const sp_buf *b)
{
    for (size_t i = 0; i < b->len; i++)
        if ((unsigned char)b->p[i] <= ' ' || strchr("<>{}[]()\"'", b->p[i]))
            return false;
    return b->len && b->len <= SP_CALL_NAME;
}

static void trim(sp_buf *b)
{
    size_t at = 0;
    while (b->len && sp_call_blank(b->p[b->len - 1]))
        b->len--;
    while (at < b->len && sp_call_blank(b->p[at]))
        at++;
    sp_buf_drop(b, at);
}

/* functions.NAME:0 is an id that holds a name. */
static void unwrap_name(sp_answer *a)
{
    static const char before[] = "functions.";
    size_t n = sizeof before - 1, end = a->name.len;
    if (a->name.len <= n || memcmp(a->name.p, before, n) != 0)
        return;
    while (end && a->name.p[end - 1] >= '0' && a->name.p[end - 1] <= '9')
        end--;
    if (end < a->name.len && end > n + 1 && a->name.p[end - 1] == ':') {
        sp_buf_clear(&a->id);
        sp_buf_put(&a->id, a->name.p, a->name.len);
        a->name.len = end - 1;
    }
    sp_buf_drop(&a->name, n);
}

bool sp_call_named(sp_answer *a)
{
    trim(&a->name);
    trim(&a->id);
    unwrap_name(a);
    if (!is_name(&a->name) || a->n_call >= SP_CALL_MOST)
        return false;
    flush(a);
    const sp_answer_event e = {.kind = SP_ANSWER_CALL,
                               .text = {a->name.p, a->name.len},
                               .id = {sp_buf_str(&a->id), a->id.len}};
    report(a, &e);
    a->is_named = true;
    a->n_call++;
    sp_buf_clear(&a->raw);
    sp_buf_clear(&a->blank);
    return true;
}

void sp_call_args(sp_answer *a, const char *p, size_t n)
{
    if (!n)
        return;
    a->has_args = true;
    say(a, SP_ANSWER_ARGS, p, n);
    if (a->args.len <= SP_CALL_VALUE)
        sp_buf_put(&a->args, p, n);
}

bool sp_call_parse(sp_jval *v, sp_arena *a, const char *p, size_t n)
{
    size_t steps = 0;
    sp_diag d = {0};
    return sp_jinja_json(v, a, &steps, p, n, &d) == SP_OK;
}

static void end_call(sp_answer *a, bool ok)
{
    sp_arena arena;
    sp_jval v;
    sp_arena_init(&arena, ARENA_BYTES);
    if (ok)
        ok = sp_call_parse(&v, &arena, sp_buf_str(&a->args), a->args.len) && v.kind == SP_J_MAP;
    sp_arena_fini(&arena);
    flush(a);
    const sp_answer_event e = {.kind = SP_ANSWER_END, .ok = ok};
    report(a, &e);
    a->is_named = false;
}

void sp_call_end(sp_answer *a)
{
    if (!a->has_args)
        sp_call_args(a, "{}", 2);
    end_call(a, true);
}

/* --- text ------------------------------------------------------------------------------------- */

/* Blanks wait: they are dropped before calls, behind them, and around thoughts. */
static void put_text(sp_answer *a, char c)
{
    sp_answer_kind kind = a->state == IN_THOUGHT ? SP_ANSWER_THINKS : SP_ANSWER_SAYS;
    if (a->skip_blank && ((unsigned char)c & 0xc0) == 0x80)
        return; /* the rest of a character that broke a call off */
    if (sp_call_blank(c) && (a->skip_blank || sp_call_add(&a->blank, c, BLANK_BYTES)))
        return;
    if (a->blank.len)
        say(a, kind, a->blank.p, a->blank.len);
    if (!sp_call_blank(c))
        say(a, kind, &c, 1);
    sp_buf_clear(&a->blank);
    a->skip_blank = a->at_start = false;
}

static void put_loose(sp_answer *a)
{
    for (size_t i = 0; i < a->loose.len; i++)
        put_text(a, a->loose.p[i]);
    sp_buf_clear(&a->loose);
}

static void to_text(sp_answer *a)
{
    a->state = IN_TEXT;
    a->skip_blank = true;
    a->held.n = 0;
}

static void to_head(sp_answer *a)
{
    a->state = IN_HEAD;
    sp_buf_clear(&a->blank);
    sp_buf_clear(&a->head);
}

/* What looked like a call is text. */
static void give_back(sp_answer *a)
{
    if (a->is_named) {
        end_call(a, false);
        to_text(a);
        return;
    }
    a->state = IN_TEXT;
    a->held.n = 0;
    say(a, SP_ANSWER_SAYS, a->blank.p, a->blank.len);
    say(a, SP_ANSWER_SAYS, a->raw.p, a->raw.len);
    sp_buf_clear(&a->blank);
    sp_buf_clear(&a->raw);
    a->skip_blank = a->at_start = a->in_section = false;
}

/* --- calls ------------------------------------------------------------------------------------ */

void sp_call_begin(sp_answer *a)
{
    a->sub = 0;
    a->n_list = a->n_arg = 0;
    a->nest = 0;
    a->held.n = 0;
    a->is_named = a->has_args = false;
    a->scan = (sp_scan){0};
    sp_buf_clear(&a->name);
    sp_buf_clear(&a->id);
    sp_buf_clear(&a->key);
    sp_buf_clear(&a->value);
    sp_buf_clear(&a->args);
}

static void open_call(sp_answer *a, const char *mark, int state)
{
    const sp_answer_event e = {.kind = SP_ANSWER_OPEN};
    flush(a);
    report(a, &e);
    sp_buf_clear(&a->raw);
    sp_buf_puts(&a->raw, mark);
    sp_call_begin(a);
    a->state = state;
}

/* Behind the mark of a section only a call may follow. */
static void take_section(sp_answer *a, char c)
{
    const char *const begin[] = {a->cfg.format->begin};
    sp_buf_putc(&a->raw, c);
    if (!a->held.n && sp_call_blank(c) && a->raw.len < SP_CALL_RAW)
        return;
    int hit = sp_mark_take(&a->held, c, begin, 1, &a->loose);
    bool bad = a->loose.len != 0;
    sp_buf_clear(&a->loose);
    if (bad) {
        give_back(a);
    } else if (hit == 0) {
        sp_call_begin(a);
        a->state = IN_CALL;
        a->in_section = true;
    }
}

static void take_call(sp_answer *a, char c)
{
    static step (*const of[])(sp_answer *, char) = {[SP_CALL_JSON] = sp_call_json,
                                                    [SP_CALL_NAMED] = sp_call_named_args,
                                                    [SP_CALL_TAGGED] = sp_call_tagged,
                                                    [SP_CALL_PYTHON] = sp_call_literal,
                                                    [SP_CALL_GEMMA] = sp_call_literal};
    if (!a->is_named)
        sp_buf_putc(&a->raw, c);
    step s = a->raw.len > SP_CALL_RAW ? STEP_BAD : of[a->cfg.format->kind](a, c);
    if (s == STEP_BAD) {
        bool known = a->is_named;
        give_back(a);
        if (known) /* the call has ended; what broke it off is text */
            put_text(a, c);
    } else if (s != STEP_MORE) {
        to_text(a);
        a->at_start = a->cfg.format->is_bare;
        if (s == STEP_LEAVE)
            put_loose(a);
    }
    sp_buf_clear(&a->loose);
}

/* --- heads ------------------------------------------------------------------------------------ */

static bool says(const sp_buf *head, const char *word)
{
    return head->len && memmem(head->p, head->len, word, strlen(word)) != NULL;
}

/* The function that a head calls, into a->name; false: none. */
static bool head_name(sp_answer *a)
{
    const sp_call_format *f = a->cfg.format;
    const char *p = a->head.p, *end = p + a->head.len;
    sp_buf_clear(&a->name);
    if (f->is_named_by_head) {
        trim(&a->head);
        sp_buf_put(&a->name, sp_buf_str(&a->head), a->head.len);
        return !(a->head.len == 3 && memcmp(a->head.p, "all", 3) == 0);
    }
    const char *at = f->head_call && a->head.len
                         ? memmem(p, a->head.len, f->head_call, strlen(f->head_call))
                         : NULL;
    for (at = at ? at + strlen(f->head_call) : end; at < end && !sp_call_blank(*at) && *at != '<';
         at++)
        sp_buf_putc(&a->name, *at);
    return a->name.len != 0;
}

static void end_head(sp_answer *a)
{
    to_text(a);
    if (says(&a->head, "analysis") || says(&a->head, "to=self")) {
        a->state = IN_THOUGHT;
    } else if (a->cfg.has_tools && a->n_call < SP_CALL_MOST && head_name(a)) {
        sp_buf name = a->name;
        a->name = (sp_buf){0};
        open_call(a, "", IN_CALL);
        sp_buf_fini(&a->name);
        a->name = name;
        sp_call_at_args(a);
    }
}

static void take_head(sp_answer *a, char c)
{
    const char *const end[] = {a->cfg.format->head_end};
    int hit = sp_mark_take(&a->held, c, end, 1, &a->loose);
    sp_buf_put(&a->head, sp_buf_str(&a->loose), a->loose.len);
    sp_buf_clear(&a->loose);
    if (hit == 0) {
        end_head(a);
    } else if (a->head.len > HEAD_BYTES) { /* not what this model writes: a text without heads */
        a->state = IN_TEXT;
        say(a, SP_ANSWER_SAYS, a->head.p, a->head.len);
    }
}

/* --- the outer states ------------------------------------------------------------------------- */

enum { M_THINK, M_END, M_BODY, M_TURN = M_BODY + 3, M_BEGIN, M_SECTION, M_DROP, M_N = M_DROP + 5 };

/* The marks that count in a text; others are NULL. */
static void text_marks(const sp_answer *a, const char *mark[M_N])
{
    const sp_call_format *f = a->cfg.format;
    bool calls = f && a->cfg.has_tools && a->n_call < SP_CALL_MOST;
    memset(mark, 0, M_N * sizeof *mark);
    if (a->cfg.is_either && !a->at_start && !a->n_call)
        return;
    if (a->at_start) /* later it is a word of the text */
        mark[M_THINK] = a->cfg.think.open;
    for (int i = 0; i < 3 && f; i++)
        mark[M_BODY + i] = f->body_end[i];
    for (int i = 0; i < 5 && f; i++)
        mark[M_DROP + i] = f->drop[i];
    if (f)
        mark[M_TURN] = f->turn;
    if (f && a->in_section)
        mark[M_END] = f->section_end;
    if (calls) {
        mark[M_BEGIN] = f->begin;
        mark[M_SECTION] = f->section;
    }
}

static void take_text(sp_answer *a, char c)
{
    const sp_call_format *f = a->cfg.format;
    const char *mark[M_N];
    bool bare = f && f->is_bare && a->cfg.has_tools && a->at_start && !a->held.n;
    if (bare && c == '{') {
        open_call(a, "", IN_CALL);
        take_call(a, c);
        return;
    }
    if (bare && c == ';' && a->n_call)
        return;
    text_marks(a, mark);
    int hit = sp_mark_take(&a->held, c, mark, M_N, &a->loose);
    put_loose(a);
    if (hit == M_THINK) {
        sp_buf_clear(&a->blank);
        a->state = IN_THOUGHT;
        a->skip_blank = true;
    } else if (hit == M_BEGIN) {
        open_call(a, f->begin, IN_CALL);
    } else if (hit == M_SECTION) {
        open_call(a, f->section, IN_SECTION);
    } else if (hit == M_END) {
        a->in_section = false;
        a->skip_blank = true;
    } else if (hit >= M_BODY && hit <= M_TURN) {
        to_head(a);
    } else if (hit >= M_DROP) {
        a->skip_blank = true;
    }
}

static void take_thought(sp_answer *a, char c)
{
    const sp_call_format *f = a->cfg.format;
    const char *mark[] = {a->cfg.think.close, f ? f->body_end[0] : NULL, f ? f->body_end[1] : NULL,
                          f ? f->body_end[2] : NULL};
    int hit = sp_mark_take(&a->held, c, mark, 4, &a->loose);
    put_loose(a);
    if (hit == SP_MARK_NONE)
        return;
    sp_buf_clear(&a->blank);
    to_text(a);
    a->at_start = true;
    if (hit > 0)
        to_head(a);
}

static void take(sp_answer *a, char c)
{
    switch (a->state) {
    case IN_TEXT: take_text(a, c); break;
    case IN_THOUGHT: take_thought(a, c); break;
    case IN_HEAD: take_head(a, c); break;
    case IN_SECTION: take_section(a, c); break;
    default: take_call(a, c);
    }
}

/* Whether a control token is a part of a mark, or a mark of it. */
static bool is_known(const sp_answer *a, const char *p, size_t n)
{
    const sp_call_format *f = a->cfg.format;
    const char *const think[] = {a->cfg.think.open, a->cfg.think.close};
    if (!f || a->state == IN_HEAD) {
        for (int i = 0; i < 2; i++)
            if (think[i] && memmem(think[i], strlen(think[i]), p, n))
                return true;
        return f != NULL;
    }
    const char *const all[] = {f->section,
                               f->section_end,
                               f->begin,
                               f->end,
                               f->lead,
                               f->sep,
                               f->id,
                               f->id_end,
                               f->key,
                               f->key_end,
                               f->value,
                               f->value_end,
                               f->value_tail,
                               f->turn,
                               f->head_end,
                               f->after,
                               f->name_tail,
                               f->attr_end,
                               f->body_end[0],
                               f->body_end[1],
                               f->body_end[2],
                               f->drop[0],
                               f->drop[1],
                               f->drop[2],
                               f->drop[3],
                               f->drop[4],
                               think[0],
                               think[1],
                               f->kind == SP_CALL_GEMMA ? "<|\"|>" : NULL};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i] && (memmem(all[i], strlen(all[i]), p, n) ||
                       (*all[i] && memmem(p, n, all[i], strlen(all[i])))))
            return true;
    return false;
}

static bool has_failed(const sp_answer *a)
{
    const sp_buf *const all[] = {&a->out,  &a->loose, &a->blank, &a->raw,   &a->head,
                                 &a->name, &a->id,    &a->key,   &a->value, &a->args};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (all[i]->failed)
            return true;
    return false;
}

sp_err sp_answer_feed(sp_answer *a, const char *p, size_t n, bool is_control)
{
    if (is_control && !is_known(a, p, n))
        return SP_OK;
    for (size_t i = 0; i < n; i++) {
        take(a, p[i]);
        if (has_failed(a))
            return SP_NOMEM;
    }
    flush(a);
    return SP_OK;
}

sp_err sp_answer_finish(sp_answer *a)
{
    if (a->state == IN_TEXT || a->state == IN_THOUGHT) {
        sp_buf_put(&a->loose, a->held.p, a->held.n);
        put_loose(a);
        say(a, a->state == IN_THOUGHT ? SP_ANSWER_THINKS : SP_ANSWER_SAYS, a->blank.p,
            a->blank.len);
    } else if (a->state == IN_SECTION || (a->state == IN_CALL && (a->is_named || a->raw.len))) {
        give_back(a);
    }
    flush(a);
    return has_failed(a) ? SP_NOMEM : SP_OK;
}

sp_str sp_answer_raw(const sp_answer *a)
{
    return (sp_str){sp_buf_str(&a->raw), a->raw.len};
}

sp_err sp_answer_new(sp_answer **out, const sp_answer_cfg *cfg, sp_diag *d)
{
    sp_answer *a = sp_mem_alloc(sizeof *a);
    if (!a)
        return SP_FAIL(d, SP_NOMEM, "answer");
    a->cfg = *cfg;
    sp_arena_init(&a->arena, ARENA_BYTES);
    bool has = cfg->has_tools && cfg->tools.n &&
               sp_call_parse(&a->tools, &a->arena, cfg->tools.p, cfg->tools.n);
    if (!has || a->tools.kind != SP_J_LIST)
        a->tools = (sp_jval){.kind = SP_J_NONE};
    a->at_start = true;
    a->state = cfg->at == SP_ANSWER_THINK ? IN_THOUGHT : IN_TEXT;
    a->skip_blank = cfg->at == SP_ANSWER_THINK;
    if (cfg->at == SP_ANSWER_HEAD && cfg->format && cfg->format->head_end)
        a->state = IN_HEAD;
    *out = a;
    return SP_OK;
}

void sp_answer_free(sp_answer *a)
{
    if (!a)
        return;
    sp_buf *const all[] = {&a->out,  &a->loose, &a->blank, &a->raw,   &a->head,
                           &a->name, &a->id,    &a->key,   &a->value, &a->args};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        sp_buf_fini(all[i]);
    sp_arena_fini(&a->arena);
    sp_mem_free(a);
}
