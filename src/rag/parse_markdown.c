/* Markdown through md4c (CommonMark with GitHub's tables), front matter through libyaml. Raw HTML
 * in it goes to the reader of HTML. */
#include "rag/parse_int.h"

#include "base/utf8.h"

#include <libxml/HTMLparser.h>
#include <md4c.h>
#include <stdlib.h>
#include <string.h>
#include <yaml.h>

enum { MAX_MARK = 32 };

typedef struct state {
    sp_rag_reading *r;
    sp_err err;
    sp_buf text;               /* of the block being read */
    size_t mark[MAX_MARK], n_mark; /* where open links and code spans begin in text */
    int level;                 /* of the heading being read, 0: none */
    bool code, html, titled;   /* inside a block of code or HTML; the document has its title */
    int cell;                  /* cells of the table row so far */
} state;

/* --- blocks ----------------------------------------------------------------------------------- */

static void flush(state *s, sp_rag_kind kind, int level)
{
    if (s->text.failed)
        s->err = SP_FAIL(s->r->d, SP_NOMEM, "document");
    if (s->err == SP_OK && s->text.len)
        s->err = sp_rag_give(s->r, kind, level, s->text.p, s->text.len, s->code);
    sp_buf_clear(&s->text);
    s->n_mark = 0;
}

static int on_block(MD_BLOCKTYPE type, void *detail, void *arg)
{
    state *s = arg;
    if (type == MD_BLOCK_TD || type == MD_BLOCK_TH) {
        sp_buf_puts(&s->text, s->cell++ ? " | " : "");
        return s->err != SP_OK;
    }
    flush(s, SP_RAG_TEXT, 0); /* an item's text before the list within it */
    s->level = type == MD_BLOCK_H ? (int)((MD_BLOCK_H_DETAIL *)detail)->level : 0;
    s->code = type == MD_BLOCK_CODE;
    s->html = type == MD_BLOCK_HTML;
    s->cell = 0;
    return s->err != SP_OK;
}

static int on_block_end(MD_BLOCKTYPE type, void *detail, void *arg)
{
    state *s = arg;
    (void)detail;
    if (type == MD_BLOCK_TD || type == MD_BLOCK_TH)
        return 0;
    if (type == MD_BLOCK_HTML) {
        if (s->err == SP_OK && s->text.len && !s->text.failed)
            s->err = sp_rag_parse_html(s->r, s->text.p, s->text.len);
        sp_buf_clear(&s->text);
    } else if (type == MD_BLOCK_H) {
        bool title = s->level == 1 && !s->titled;
        flush(s, title ? SP_RAG_TITLE : SP_RAG_HEADING, s->level);
        s->titled = s->titled || title;
    } else {
        flush(s, SP_RAG_TEXT, 0);
    }
    s->level = 0;
    s->code = s->html = false;
    return s->err != SP_OK;
}

/* --- spans and text --------------------------------------------------------------------------- */

static int on_span(MD_SPANTYPE type, void *detail, void *arg)
{
    state *s = arg;
    (void)detail;
    if ((type == MD_SPAN_A || type == MD_SPAN_CODE) && s->n_mark < MAX_MARK)
        s->mark[s->n_mark++] = s->text.len;
    return 0;
}

static int on_span_end(MD_SPANTYPE type, void *detail, void *arg)
{
    state *s = arg;
    (void)detail;
    if ((type == MD_SPAN_A || type == MD_SPAN_CODE) && s->n_mark) {
        size_t from = s->mark[--s->n_mark];
        if (s->err == SP_OK && from < s->text.len)
            s->err = sp_rag_give(s->r, SP_RAG_TERM, 0, s->text.p + from, s->text.len - from, false);
    }
    return s->err != SP_OK;
}

/* "&eacute;" or "&#233;" as its character; others as they stand. */
static void put_entity(sp_buf *out, const char *p, size_t n)
{
    char name[32], utf8[4];
    unsigned long cp = 0;
    if (n > 3 && p[1] == '#')
        cp = p[2] == 'x' || p[2] == 'X' ? strtoul(p + 3, NULL, 16) : strtoul(p + 2, NULL, 10);
    else if (n > 2 && n - 2 < sizeof name) {
        memcpy(name, p + 1, n - 2);
        name[n - 2] = 0;
        const htmlEntityDesc *e = htmlEntityLookup((const xmlChar *)name);
        cp = e ? e->value : 0;
    }
    if (cp && cp <= 0x10ffff && !(cp >= 0xd800 && cp < 0xe000))
        sp_buf_put(out, utf8, sp_utf8_encode(utf8, (uint32_t)cp));
    else
        sp_buf_put(out, p, n);
}

static int on_text(MD_TEXTTYPE type, const MD_CHAR *p, MD_SIZE n, void *arg)
{
    state *s = arg;
    if (type == MD_TEXT_BR || type == MD_TEXT_SOFTBR)
        sp_buf_putc(&s->text, '\n');
    else if (type == MD_TEXT_ENTITY)
        put_entity(&s->text, p, n);
    else if (type != MD_TEXT_HTML || s->html) /* a tag within a paragraph is no text */
        sp_buf_put(&s->text, p, n);
    if (s->code && s->text.len > SP_RAG_PART_BYTES)
        flush(s, SP_RAG_TEXT, 0);
    return s->err != SP_OK;
}

/* --- front matter ----------------------------------------------------------------------------- */

/* Bytes of a block that begins on the first line with `fence` and ends at a line of it; 0: there is
 * none. */
static size_t front_matter(const char *p, size_t n, const char *fence)
{
    const char *end = p + n, *at = p, *line;
    size_t len, lines = 0;
    while (sp_rag_line(&line, &len, &at, end) && lines < 1000) {
        while (len && (line[len - 1] == ' ' || line[len - 1] == '\t'))
            len--;
        bool is_fence = (len == 3 && memcmp(line, fence, 3) == 0) ||
                        (lines && *fence == '-' && len == 3 && memcmp(line, "...", 3) == 0);
        if (!lines && !is_fence)
            return 0;
        if (lines++ && is_fence)
            return (size_t)(at - p);
    }
    return 0;
}

/* The scalar at the top level's key "title". false: there is none, or it is not YAML of key and
 * value. */
static bool yaml_title(sp_buf *out, bool *is_map, const char *p, size_t n)
{
    yaml_parser_t y;
    yaml_event_t e;
    int depth = 0;
    bool key = true, is_title = false, found = false, done = false;
    *is_map = false;
    if (!yaml_parser_initialize(&y))
        return false;
    yaml_parser_set_input_string(&y, (const unsigned char *)p, n);
    while (!done && yaml_parser_parse(&y, &e)) {
        bool scalar = e.type == YAML_SCALAR_EVENT,
             opens = e.type == YAML_MAPPING_START_EVENT || e.type == YAML_SEQUENCE_START_EVENT;
        bool closes = e.type == YAML_MAPPING_END_EVENT || e.type == YAML_SEQUENCE_END_EVENT;
        *is_map = *is_map || (depth == 0 && e.type == YAML_MAPPING_START_EVENT);
        if (scalar && depth == 1 && key)
            is_title = strcmp((const char *)e.data.scalar.value, "title") == 0;
        else if (scalar && depth == 1 && is_title && !found) {
            sp_buf_put(out, e.data.scalar.value, e.data.scalar.length);
            found = true;
        }
        depth += opens - closes;
        if (depth == 1 && (scalar || closes || e.type == YAML_ALIAS_EVENT))
            key = !key;
        done = e.type == YAML_STREAM_END_EVENT || e.type == YAML_NO_EVENT;
        yaml_event_delete(&e);
    }
    yaml_parser_delete(&y);
    return found;
}

/* Its title becomes the document's; its lines are a part of their own. *n_front: 0 when the
 * document has none. */
static sp_err give_front_matter(state *s, size_t *n_front, const char *p, size_t n)
{
    bool yaml = n > 3 && p[0] == '-', is_map = false;
    sp_buf title = {0};
    size_t k = front_matter(p, n, yaml ? "---" : "+++");
    const char *nl = memchr(p, '\n', k);
    *n_front = 0;
    if (!k || !nl)
        return SP_OK;
    const char *body = nl + 1, *stop = p + k - 1;
    while (stop > body && stop[-1] != '\n') /* without the closing line */
        stop--;
    size_t n_body = (size_t)(stop - body);
    bool found = yaml && yaml_title(&title, &is_map, body, n_body);
    sp_err err = SP_OK;
    if (!yaml || is_map) { /* else two rules and a text between them */
        *n_front = k;
        if (found)
            err = sp_rag_give(s->r, SP_RAG_TITLE, 0, sp_buf_str(&title), title.len, false);
        s->titled = found;
        if (err == SP_OK)
            err = sp_rag_give(s->r, SP_RAG_TEXT, 0, body, n_body, true);
    }
    sp_buf_fini(&title);
    return err;
}

sp_err sp_rag_parse_markdown(sp_rag_reading *r, const char *p, size_t n)
{
    state s = {.r = r};
    size_t n_front;
    const MD_PARSER parser = {.flags = MD_FLAG_TABLES | MD_FLAG_STRIKETHROUGH | MD_FLAG_TASKLISTS |
                                       MD_FLAG_PERMISSIVEAUTOLINKS,
                              .enter_block = on_block,
                              .leave_block = on_block_end,
                              .enter_span = on_span,
                              .leave_span = on_span_end,
                              .text = on_text};
    if (n > UINT32_MAX / 2)
        return SP_FAIL(r->d, SP_LIMIT, "Markdown of more than 2 GiB");
    sp_err err = give_front_matter(&s, &n_front, p, n);
    if (err == SP_OK && md_parse(p + n_front, (MD_SIZE)(n - n_front), &parser, &s) != 0 &&
        s.err == SP_OK)
        s.err = SP_FAIL(r->d, SP_NOMEM, "Markdown: md4c gave up");
    sp_buf_fini(&s.text);
    return err == SP_OK ? s.err : err;
}
