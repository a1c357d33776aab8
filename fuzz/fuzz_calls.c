/* Any text as an answer in each format of calls: the first byte says which, the second where it
 * begins. Pieces of a byte must report what the whole does, and events come in order. */
#include "fuzz.h"

#include "text/calls.h"

typedef struct seen {
    sp_buf text;
    sp_answer_kind last;
    bool is_inside;
} seen;

static void on_event(void *arg, const sp_answer_event *e)
{
    seen *s = arg;
    bool joins = e->kind == s->last && (e->kind == SP_ANSWER_SAYS || e->kind == SP_ANSWER_THINKS ||
                                        e->kind == SP_ANSWER_ARGS);
    SP_ASSERT(s->is_inside == (e->kind == SP_ANSWER_ARGS || e->kind == SP_ANSWER_END));
    if (e->kind == SP_ANSWER_CALL || e->kind == SP_ANSWER_END)
        s->is_inside = e->kind == SP_ANSWER_CALL;
    if (!joins)
        sp_buf_printf(&s->text, "\n%d %d ", (int)e->kind, (int)e->ok);
    if (e->text.n)
        sp_buf_put(&s->text, e->text.p, e->text.n);
    s->last = e->kind;
}

static void parse(seen *s, const sp_answer_cfg *cfg, const char *p, size_t n, size_t piece)
{
    sp_answer_cfg c = *cfg;
    sp_answer *a;
    *s = (seen){.last = SP_ANSWER_END};
    c.on = on_event;
    c.arg = s;
    SP_ASSERT(sp_answer_new(&a, &c, NULL) == SP_OK);
    for (size_t at = 0; at < n; at += piece)
        SP_ASSERT(sp_answer_feed(a, p + at, n - at < piece ? n - at : piece, false) == SP_OK);
    SP_ASSERT(sp_answer_finish(a) == SP_OK && !s->is_inside);
    sp_answer_free(a);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static const char tools[] = "[{\"function\":{\"name\":\"f\",\"parameters\":{\"properties\":{"
                                "\"a\":{\"type\":\"string\"},\"b\":{\"type\":\"integer\"}}}}}]";
    seen whole, pieces;
    size_t n_format = 0;
    while (sp_call_format_at(n_format))
        n_format++;
    if (n < 2 || n > 65536)
        return 0;
    const sp_answer_cfg cfg = {.format = sp_call_format_at(p[0] % n_format),
                               .has_tools = true,
                               .think = {"<think>", "</think>"},
                               .at = (sp_answer_at)(p[1] % 3),
                               .tools = {tools, sizeof tools - 1}};
    parse(&whole, &cfg, (const char *)p + 2, n - 2, n);
    parse(&pieces, &cfg, (const char *)p + 2, n - 2, 1);
    SP_ASSERT(whole.text.len == pieces.text.len &&
              memcmp(sp_buf_str(&whole.text), sp_buf_str(&pieces.text), whole.text.len) == 0);
    sp_buf_fini(&whole.text);
    sp_buf_fini(&pieces.text);
    return 0;
}
