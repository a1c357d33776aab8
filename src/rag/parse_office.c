/* Texts and slides: .docx and .pptx (ECMA-376), .odt and .odp (OpenDocument). All four are
 * paragraphs, some of them headings, and tables of rows. */
#include "base/mem.h"
#include "rag/archive.h"
#include "rag/xml.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

enum { MAX_STYLE = 512, MAX_NEST = 8 };

typedef struct styles { /* ids of .docx paragraph styles that are headings; level 0: the title */
    struct { char id[64]; int level; } at[MAX_STYLE];
    size_t n;
    char id[64]; /* of the style being read */
} styles;

typedef struct paragraph {
    sp_buf text;
    int level; /* -1 none, 0 the title, else a heading's */
} paragraph;

typedef struct flow {
    sp_rag_reading *r;
    const styles *styles;  /* NULL: none */
    bool odf;              /* text lies directly in paragraphs, else in elements named t */
    bool sheets;           /* tables are sheets and have names */
    paragraph para[MAX_NEST]; /* the open ones: a text box or a note stands within one */
    int open;              /* how many; those deeper than MAX_NEST go into the last */
    sp_buf row;
    int rows, t, skip;     /* open rows, open t elements, open elements that are left out */
    bool is_title;         /* of a slide's shape */
    bool said;             /* of this slide, something but its title was given */
    sp_buf title;          /* of this slide */
} flow;

/* --- paragraphs ------------------------------------------------------------------------------- */

/* NULL: none is open. */
static paragraph *current(flow *f)
{
    return f->open ? &f->para[f->open < MAX_NEST ? f->open - 1 : MAX_NEST - 1] : NULL;
}

static void begin_paragraph(flow *f)
{
    if (++f->open <= MAX_NEST) {
        paragraph *p = current(f);
        sp_buf_clear(&p->text);
        p->level = -1;
    }
}

static void put_char(flow *f, char c)
{
    if (f->open)
        sp_buf_putc(&current(f)->text, c);
}

/* What stands in the paragraph so far, as a part or as a piece of its row. */
static sp_err give_paragraph(flow *f)
{
    paragraph *p = current(f);
    if (p->text.failed || f->row.failed)
        return SP_FAIL(f->r->d, SP_NOMEM, "document");
    sp_err err = SP_OK;
    int level = f->is_title ? 1 : p->level;
    if (f->rows) {
        sp_buf_puts(&f->row,
                    f->row.len && p->text.len && f->row.p[f->row.len - 1] != ' ' ? " " : "");
        sp_buf_put(&f->row, p->text.p, p->text.len);
    } else if (p->text.len) {
        err = sp_rag_give(f->r,
                          level == 0  ? SP_RAG_TITLE
                          : level > 0 ? SP_RAG_HEADING
                                      : SP_RAG_TEXT,
                          level > 0 ? level : 0, p->text.p, p->text.len, level < 0);
        if (level < 0)
            f->said = true;
        else if (f->is_title)
            sp_buf_put(&f->title, p->text.p, p->text.len);
    }
    sp_buf_clear(&p->text);
    return err;
}

static sp_err end_paragraph(flow *f)
{
    if (!f->open)
        return SP_OK;
    sp_err err = SP_OK;
    if (f->open <= MAX_NEST)
        err = give_paragraph(f);
    else
        put_char(f, ' ');
    f->open--;
    return err;
}

static sp_err end_row(flow *f)
{
    sp_err err = SP_OK;
    if (f->row.len)
        err = sp_rag_give(f->r, SP_RAG_TEXT, 0, f->row.p, f->row.len, false);
    f->said = f->said || f->row.len;
    sp_buf_clear(&f->row);
    return err;
}

static void set_level(flow *f, const char *name, sp_xml *at)
{
    char v[64];
    paragraph *p = current(f);
    sp_xml_attr(v, sizeof v, at, f->odf ? "outline-level" : "val");
    if (!p)
        return;
    if (strcmp(name, "h") == 0) {
        long n = strtol(v, NULL, 10);
        p->level = n >= 1 && n <= 6 ? (int)n : n > 6 ? 6 : 1;
    } else if (strcmp(name, "outlineLvl") == 0) {
        long n = strtol(v, NULL, 10);
        p->level = n >= 0 && n < 6 && v[0] ? (int)n + 1 : p->level;
    } else {
        for (size_t i = 0; f->styles && i < f->styles->n; i++)
            if (strcmp(f->styles->at[i].id, v) == 0)
                p->level = f->styles->at[i].level;
    }
}

static bool is_left_out(const char *name)
{
    static const char *const names[] = {
        "Fallback",      "tracked-changes",  "annotation", "del",  "moveFrom",     "instrText",
        "master-styles", "automatic-styles", "fld",        "tabs", "note-citation"};
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        if (strcmp(names[i], name) == 0)
            return true;
    return false;
}

/* A slide's title, and a sheet's name. */
static sp_err on_odf_start(flow *f, const char *name, sp_xml *at)
{
    char v[256];
    if (strcmp(name, "spreadsheet") == 0) {
        f->sheets = true;
    } else if (strcmp(name, "frame") == 0) {
        sp_xml_attr(v, sizeof v, at, "class");
        f->is_title = strcmp(v, "title") == 0;
    } else if (strcmp(name, "table") == 0 && f->sheets) {
        sp_xml_attr(v, sizeof v, at, "name");
        return sp_rag_give(f->r, SP_RAG_HEADING, 1, v, strlen(v), false);
    }
    return SP_OK;
}

static sp_err on_start(void *arg, const char *name, sp_xml *at)
{
    flow *f = arg;
    char v[32];
    if (f->skip || is_left_out(name)) {
        f->skip++;
        return SP_OK;
    }
    if (strcmp(name, "p") == 0 || strcmp(name, "h") == 0)
        begin_paragraph(f);
    if (strcmp(name, "h") == 0 || strcmp(name, "pStyle") == 0 || strcmp(name, "outlineLvl") == 0)
        set_level(f, name, at);
    else if (strcmp(name, "tr") == 0 || strcmp(name, "table-row") == 0)
        f->rows++;
    else if (strcmp(name, "t") == 0)
        f->t++;
    else if (strcmp(name, "tab") == 0 || strcmp(name, "s") == 0)
        put_char(f, ' ');
    else if (strcmp(name, "br") == 0 || strcmp(name, "cr") == 0 || strcmp(name, "line-break") == 0)
        put_char(f, '\n');
    else if (strcmp(name, "ph") == 0) {
        sp_xml_attr(v, sizeof v, at, "type");
        f->is_title = strcmp(v, "title") == 0 || strcmp(v, "ctrTitle") == 0;
    } else if (f->odf) {
        return on_odf_start(f, name, at);
    }
    return SP_OK;
}

static sp_err on_end(void *arg, const char *name)
{
    flow *f = arg;
    if (f->skip) {
        f->skip--;
        return SP_OK;
    }
    if (strcmp(name, "p") == 0 || strcmp(name, "h") == 0)
        return end_paragraph(f);
    if (strcmp(name, "t") == 0)
        f->t -= f->t > 0;
    else if (strcmp(name, "sp") == 0 || strcmp(name, "frame") == 0)
        f->is_title = false;
    else if (strcmp(name, "tc") == 0 || strcmp(name, "table-cell") == 0)
        sp_buf_puts(&f->row, f->rows ? " | " : "");
    else if ((strcmp(name, "tr") == 0 || strcmp(name, "table-row") == 0) && f->rows &&
             --f->rows == 0) {
        /* behind the last cell */
        while (f->row.len && (f->row.p[f->row.len - 1] == ' ' || f->row.p[f->row.len - 1] == '|'))
            f->row.p[--f->row.len] = 0;
        return end_row(f);
    }
    return SP_OK;
}

static sp_err on_text(void *arg, const char *p, size_t n)
{
    flow *f = arg;
    paragraph *at = current(f);
    if (!at || f->skip || (!f->odf && !f->t))
        return SP_OK;
    sp_buf_put(&at->text, p, n);
    /* long without an end */
    return at->text.len > 4 * SP_RAG_PART_BYTES ? give_paragraph(f) : SP_OK;
}

static void end_flow(flow *f)
{
    for (size_t i = 0; i < MAX_NEST; i++)
        sp_buf_fini(&f->para[i].text);
    sp_buf_fini(&f->row);
    sp_buf_fini(&f->title);
}

/* One member as a flow; a slide that holds a title and nothing else gives it as text too. */
static sp_err read_flow(sp_rag_reading *r, const sp_rag_member *m, const styles *s, bool odf)
{
    flow f = {.r = r, .styles = s, .odf = odf};
    const sp_xml_walker w = {on_start, on_end, on_text, &f};
    sp_err err = sp_xml_walk(&w, r, m->name, sp_buf_str(&m->data), m->data.len);
    if (err == SP_OK && f.title.len && !f.said)
        err = sp_rag_give(r, SP_RAG_TEXT, 0, f.title.p, f.title.len, false);
    end_flow(&f);
    return err;
}

/* --- .docx ------------------------------------------------------------------------------------ */

static sp_err on_style(void *arg, const char *name, sp_xml *at)
{
    styles *s = arg;
    char v[64];
    if (strcmp(name, "style") == 0) {
        sp_xml_attr(s->id, sizeof s->id, at, "styleId");
    } else if (strcmp(name, "name") == 0 && s->id[0] && s->n < MAX_STYLE) {
        sp_xml_attr(v, sizeof v, at, "val");
        bool heading = strncasecmp(v, "heading ", 8) == 0 && v[8] >= '1' && v[8] <= '6' && !v[9];
        if (!heading && strcasecmp(v, "title") != 0)
            return SP_OK;
        memcpy(s->at[s->n].id, s->id, sizeof s->id);
        s->at[s->n++].level = heading ? v[8] - '0' : 0;
    }
    return SP_OK;
}

static bool docx_wanted(const char *name)
{
    return strcmp(name, "word/document.xml") == 0 || strcmp(name, "word/styles.xml") == 0 ||
           strcmp(name, "word/footnotes.xml") == 0 || strcmp(name, "word/endnotes.xml") == 0;
}

static sp_err read_docx(sp_rag_reading *r, const sp_rag_archive *a, styles *s)
{
    static const char *const parts[] = {"word/document.xml", "word/footnotes.xml",
                                        "word/endnotes.xml"};
    const sp_rag_member *m = sp_rag_archive_find(a, "word/styles.xml");
    const sp_xml_walker w = {.start = on_style, .arg = s};
    if (m)
        SP_TRY(sp_xml_walk(&w, r, m->name, sp_buf_str(&m->data), m->data.len));
    if (!sp_rag_archive_find(a, parts[0]))
        return SP_FAIL(r->d, SP_FORMAT, "its archive holds no %s", parts[0]);
    for (size_t i = 0; i < 3; i++) {
        m = sp_rag_archive_find(a, parts[i]);
        if (m)
            SP_TRY(read_flow(r, m, s, false));
    }
    return SP_OK;
}

sp_err sp_rag_parse_docx(sp_rag_reading *r, const char *p, size_t n)
{
    sp_rag_archive a;
    styles *s = sp_mem_alloc(sizeof *s);
    if (!s)
        return SP_FAIL(r->d, SP_NOMEM, "document");
    sp_err err = sp_rag_archive_open(&a, r, docx_wanted, p, n);
    if (err == SP_OK)
        err = read_docx(r, &a, s);
    sp_rag_archive_fini(&a);
    sp_mem_free(s);
    return err;
}

/* --- .pptx ------------------------------------------------------------------------------------ */

static bool is_slide(const char *name)
{
    size_t n = strlen(name);
    return strncmp(name, "ppt/slides/", 11) == 0 && strncmp(name, "ppt/slides/_rels", 16) != 0 &&
           n > 4 && strcmp(name + n - 4, ".xml") == 0;
}

static bool pptx_wanted(const char *name)
{
    return is_slide(name) || strncmp(name, "ppt/slides/_rels/", 17) == 0 ||
           strncmp(name, "ppt/notesSlides/notesSlide", 26) == 0 ||
           strcmp(name, "ppt/presentation.xml") == 0 ||
           strcmp(name, "ppt/_rels/presentation.xml.rels") == 0;
}

/* NULL: the slide has no notes. */
static sp_err find_notes(const sp_rag_member **out, sp_rag_reading *r, const sp_rag_archive *a,
                         const sp_rag_member *slide)
{
    char target[SP_XML_PATH], path[SP_XML_PATH + 32];
    snprintf(path, sizeof path, "ppt/slides/_rels/%.200s.rels",
             slide->name + strlen("ppt/slides/"));
    const sp_rag_member *rels = sp_rag_archive_find(a, path);
    *out = NULL;
    if (!rels)
        return SP_OK;
    SP_TRY(
        sp_xml_relation(target, sizeof target, r, rels->name, &rels->data, NULL, "notesSlides/"));
    snprintf(path, sizeof path, "ppt/%s", target);
    *out = sp_rag_archive_find(a, path);
    return SP_OK;
}

/* A slide that cannot be read does not cost the others. Its notes follow it. */
static sp_err read_slide(sp_rag_reading *r, const sp_rag_archive *a, const sp_rag_member *m)
{
    const sp_rag_member *notes = NULL;
    sp_err err = read_flow(r, m, NULL, false);
    if (err == SP_OK)
        err = find_notes(&notes, r, a, m);
    if (err == SP_OK && notes)
        err = read_flow(r, notes, NULL, false);
    if (err == SP_FORMAT) {
        sp_rag_bad(r, "%s", r->d->msg);
        err = SP_OK;
    }
    return err;
}

typedef struct show {
    sp_rag_reading *r;
    const sp_rag_archive *a;
    size_t n_listed;
} show;

/* A slide in the order of the presentation's list. */
static sp_err on_show(void *arg, const char *name, sp_xml *at)
{
    show *s = arg;
    char id[64], target[SP_XML_PATH] = "", path[SP_XML_PATH + 4];
    if (strcmp(name, "sldId") != 0)
        return SP_OK;
    const sp_rag_member *rels = sp_rag_archive_find(s->a, "ppt/_rels/presentation.xml.rels");
    sp_xml_attr(id, sizeof id, at, "r:id");
    if (rels)
        SP_TRY(sp_xml_relation(target, sizeof target, s->r, rels->name, &rels->data, id, NULL));
    snprintf(path, sizeof path, "%s%s", target[0] == '/' ? "" : "ppt/",
             target[0] == '/' ? target + 1 : target);
    const sp_rag_member *m = sp_rag_archive_find(s->a, path);
    s->n_listed++;
    if (!m) {
        sp_rag_bad(s->r, "slide %zu is not in the archive", s->n_listed);
        return SP_OK;
    }
    return read_slide(s->r, s->a, m);
}

static sp_err read_show(sp_rag_reading *r, const sp_rag_archive *a)
{
    show s = {r, a, 0};
    const sp_rag_member *list = sp_rag_archive_find(a, "ppt/presentation.xml");
    const sp_xml_walker w = {.start = on_show, .arg = &s};
    return list ? sp_xml_walk(&w, r, list->name, sp_buf_str(&list->data), list->data.len)
                : SP_FAIL(r->d, SP_FORMAT, "its archive holds no ppt/presentation.xml");
}

sp_err sp_rag_parse_pptx(sp_rag_reading *r, const char *p, size_t n)
{
    sp_rag_archive a;
    sp_err err = sp_rag_archive_open(&a, r, pptx_wanted, p, n);
    if (err == SP_OK)
        err = read_show(r, &a);
    sp_rag_archive_fini(&a);
    return err;
}

/* --- OpenDocument ----------------------------------------------------------------------------- */

static bool odf_wanted(const char *name)
{
    return strcmp(name, "content.xml") == 0 || strcmp(name, "meta.xml") == 0 ||
           strcmp(name, "META-INF/manifest.xml") == 0;
}

typedef struct meta {
    sp_rag_reading *r;
    bool in_title;
    sp_buf title;
} meta;

static sp_err on_meta(void *arg, const char *name, sp_xml *at)
{
    (void)at;
    ((meta *)arg)->in_title = strcmp(name, "title") == 0;
    return SP_OK;
}

static sp_err on_meta_end(void *arg, const char *name)
{
    (void)name;
    ((meta *)arg)->in_title = false;
    return SP_OK;
}

static sp_err on_meta_text(void *arg, const char *p, size_t n)
{
    meta *m = arg;
    if (m->in_title)
        sp_buf_put(&m->title, p, n);
    return SP_OK;
}

sp_err sp_rag_parse_odf(sp_rag_reading *r, const char *p, size_t n)
{
    sp_rag_archive a;
    meta t = {.r = r};
    const sp_xml_walker w = {on_meta, on_meta_end, on_meta_text, &t};
    sp_err err = sp_rag_archive_open(&a, r, odf_wanted, p, n);
    const sp_rag_member *content = sp_rag_archive_find(&a, "content.xml"),
                        *about = sp_rag_archive_find(&a, "meta.xml"),
                        *list = sp_rag_archive_find(&a, "META-INF/manifest.xml");
    if (err == SP_OK && list &&
        memmem(sp_buf_str(&list->data), list->data.len, "encryption-data", 15))
        err = SP_FAIL(r->d, SP_UNSUP, "it is encrypted and opens only with a password");
    if (err == SP_OK && !content)
        err = SP_FAIL(r->d, SP_FORMAT, "its archive holds no content.xml");
    if (err == SP_OK && about)
        err = sp_xml_walk(&w, r, about->name, sp_buf_str(&about->data), about->data.len);
    if (err == SP_OK && t.title.len)
        err = sp_rag_give(r, SP_RAG_TITLE, 0, t.title.p, t.title.len, false);
    if (err == SP_OK)
        err = read_flow(r, content, NULL, true);
    sp_buf_fini(&t.title);
    sp_rag_archive_fini(&a);
    return err;
}
