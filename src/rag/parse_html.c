/* HTML through libxml2's SAX interface: no tree, so neither depth nor size costs memory. Scripts,
 * styles and navigation are left out; links, code and defined terms are named. A page that holds
 * nothing but navigation is read again with it. */
#include "rag/parse_int.h"

#include <libxml/HTMLparser.h>
#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { CHUNK = 64 * 1024, MAX_MARK = 32 };

typedef struct state {
    sp_rag_reading *r;
    sp_err err;
    sp_buf text;
    size_t depth, skip_at; /* open elements; the depth at which leaving out began, 0: not */
    bool whole, skips_nav; /* navigation is read too; what is left out is navigation */
    size_t mark[MAX_MARK], n_mark; /* where open terms begin */
    bool in_title, pre, defining; /* defining: inside <dt> or <dfn> */
    int level; /* of the heading being read, 0: none */
} state;

static bool in(const char *name, const char *const *list)
{
    for (; *list; list++)
        if (strcasecmp(name, *list) == 0)
            return true;
    return false;
}

static const char *const left_out[] = {"script", "style",    "template", "button",
                                       "select", "datalist", "textarea", "svg",
                                       "iframe", "object",   NULL};
static const char *const aside[] = {"nav", "noscript", NULL}; /* read when nothing else is there */
/* never navigation, whatever their class */
static const char *const content[] = {"html", "body", "main", "article", "form", NULL};
static const char *const empty[] = {"br",     "hr",    "img",   "input", "meta",
                                    "link",   "area",  "base",  "col",   "wbr",
                                    "source", "track", "embed", "param", NULL};
static const char *const blocks[] = {
    "p",      "div",        "li",      "tr",      "dt",      "dd",         "table",  "ul",
    "ol",     "dl",         "pre",     "section", "article", "blockquote", "body",   "h1",
    "h2",     "h3",         "h4",      "h5",      "h6",      "header",     "footer", "main",
    "figure", "figcaption", "caption", "hr",      "title",   NULL};
static const char *const terms[] = {"a", "code", "dfn", "dt", "kbd", "abbr", NULL};

static void flush(state *s)
{
    if (s->err == SP_OK && s->text.len) {
        sp_rag_kind kind = s->in_title ? SP_RAG_TITLE : s->level ? SP_RAG_HEADING : SP_RAG_TEXT;
        s->err = s->text.failed ? SP_FAIL(s->r->d, SP_NOMEM, "document")
                                : sp_rag_give(s->r, kind, s->level, s->text.p, s->text.len, s->pre);
    }
    sp_buf_clear(&s->text);
    s->n_mark = 0;
}

/* A word of a class or an id that says navigation: "nav", "navbar-fixed", "toc", … but not
 * "navy". */
static bool is_navigation_word(const char *p, size_t n)
{
    static const char *const words[] = {"nav",        "navbar",      "navigation", "navheader",
                                        "navfooter",  "toc",         "footer",     "sidebar",
                                        "breadcrumb", "breadcrumbs", NULL};
    for (const char *const *w = words; *w; w++)
        if (strlen(*w) == n && strncasecmp(*w, p, n) == 0)
            return true;
    return (n > 4 && strncasecmp(p, "nav-", 4) == 0) ||
           (n > 7 && strncasecmp(p, "navbar-", 7) == 0);
}

/* class="navheader", id="toc", role="navigation", …: what leads elsewhere. */
static bool is_navigation(const char *tag, const xmlChar **atts)
{
    if (in(tag, content))
        return false;
    for (; atts && atts[0]; atts += 2) {
        const char *name = (const char *)atts[0], *v = (const char *)atts[1];
        if (!v ||
            (strcmp(name, "class") != 0 && strcmp(name, "id") != 0 && strcmp(name, "role") != 0))
            continue;
        for (size_t n; *v; v += n + (v[n] != 0)) {
            n = strcspn(v, " \t\n");
            if (is_navigation_word(v, n))
                return true;
        }
    }
    return false;
}

/* The heading of a page or its main part does not stand in its navigation: an end tag is
 * missing. */
static bool ends_navigation(const state *s, const char *tag)
{
    return s->skips_nav && (strcasecmp(tag, "h1") == 0 || strcasecmp(tag, "main") == 0 ||
                            strcasecmp(tag, "article") == 0);
}

static void on_start(void *arg, const xmlChar *tag, const xmlChar **atts)
{
    state *s = arg;
    const char *name = (const char *)tag;
    if (in(name, empty)) {
        sp_buf_putc(&s->text, strcasecmp(name, "br") == 0 && s->pre ? '\n' : ' ');
        return;
    }
    s->depth++;
    if (s->skip_at && !ends_navigation(s, name))
        return;
    s->skip_at = 0;
    bool leads_elsewhere = !s->whole && (in(name, aside) || is_navigation(name, atts));
    if (leads_elsewhere || in(name, left_out)) {
        flush(s);
        s->skip_at = s->depth;
        s->skips_nav = leads_elsewhere;
        return;
    }
    if (in(name, blocks))
        flush(s);
    if ((strcasecmp(name, "td") == 0 || strcasecmp(name, "th") == 0) && s->text.len)
        sp_buf_puts(&s->text, " | ");
    if (name[0] == 'h' && name[1] >= '1' && name[1] <= '6' && !name[2])
        s->level = name[1] - '0';
    s->in_title = s->in_title || strcasecmp(name, "title") == 0;
    s->pre = s->pre || strcasecmp(name, "pre") == 0;
    s->defining = s->defining || strcasecmp(name, "dt") == 0 || strcasecmp(name, "dfn") == 0;
    if (in(name, terms) && s->n_mark < MAX_MARK)
        s->mark[s->n_mark++] = s->text.len;
}

static void on_end(void *arg, const xmlChar *tag)
{
    state *s = arg;
    const char *name = (const char *)tag;
    if (in(name, empty))
        return;
    size_t depth = s->depth;
    s->depth -= s->depth > 0;
    if (s->skip_at) {
        if (depth <= s->skip_at)
            s->skip_at = 0;
        return;
    }
    if (in(name, terms) && s->n_mark) {
        size_t from = s->mark[--s->n_mark];
        if (s->err == SP_OK && from < s->text.len)
            s->err = sp_rag_give(s->r, SP_RAG_TERM, s->defining, s->text.p + from,
                                 s->text.len - from, false);
    }
    if (in(name, blocks))
        flush(s);
    if (name[0] == 'h' && name[1] >= '1' && name[1] <= '6' && !name[2])
        s->level = 0;
    if (strcasecmp(name, "title") == 0)
        s->in_title = false;
    if (strcasecmp(name, "pre") == 0)
        s->pre = false;
    if (strcasecmp(name, "dt") == 0 || strcasecmp(name, "dfn") == 0)
        s->defining = false;
}

static void on_text(void *arg, const xmlChar *p, int n)
{
    state *s = arg;
    if (s->skip_at || s->err != SP_OK)
        return;
    if (s->text.len > SP_RAG_PART_BYTES)
        flush(s);
    sp_buf_put(&s->text, p, (size_t)n);
}

static sp_err walk(sp_rag_reading *r, bool whole, const char *p, size_t n)
{
    state s = {.r = r, .whole = whole};
    htmlSAXHandler sax = {.startElement = on_start,
                          .endElement = on_end,
                          .characters = on_text,
                          .ignorableWhitespace = on_text,
                          .cdataBlock = NULL};
    htmlParserCtxtPtr c = htmlCreatePushParserCtxt(&sax, &s, NULL, 0, NULL, XML_CHAR_ENCODING_UTF8);
    if (!c)
        return SP_FAIL(r->d, SP_NOMEM, "HTML");
    htmlCtxtUseOptions(c, HTML_PARSE_RECOVER | HTML_PARSE_NOERROR | HTML_PARSE_NOWARNING |
                              HTML_PARSE_NONET | HTML_PARSE_IGNORE_ENC);
    for (size_t at = 0; at < n && s.err == SP_OK; at += CHUNK) {
        htmlParseChunk(c, p + at, (int)(n - at < CHUNK ? n - at : CHUNK), 0);
        if (s.err == SP_OK)
            s.err = sp_rag_on_time(r);
    }
    if (s.err == SP_OK)
        htmlParseChunk(c, NULL, 0, 1);
    flush(&s);
    htmlFreeParserCtxt(c);
    sp_buf_fini(&s.text);
    return s.err;
}

sp_err sp_rag_parse_html(sp_rag_reading *r, const char *p, size_t n)
{
    bool before = r->any;
    r->any = false;
    sp_err err = walk(r, false, p, n);
    if (err == SP_OK && !r->any)
        err = walk(r, true, p, n);
    if (err == SP_OK && !r->any && memmem(p, n, "<script", 7))
        sp_rag_because(r, "a page without text: its scripts would fill it");
    r->any = r->any || before;
    return err;
}
