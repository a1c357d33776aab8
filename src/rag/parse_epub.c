/* Books: .epub. The package file says the title, and in which order the pages are read. */
#include "rag/archive.h"
#include "rag/xml.h"

#include "base/mem.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>

enum { MAX_ITEMS = 4096 };

typedef struct item { /* of the manifest */
    char id[64], href[512];
} item;

typedef struct package {
    sp_rag_reading *r;
    const sp_rag_archive *a;
    char path[256];   /* of the package file */
    item item[MAX_ITEMS];
    size_t n;
    bool in_title, titled;
} package;

static bool ends_with(const char *name, const char *end)
{
    size_t n = strlen(name), k = strlen(end);
    return n >= k && strcasecmp(name + n - k, end) == 0;
}

static bool wanted(const char *name)
{
    return ends_with(name, ".xhtml") || ends_with(name, ".html") || ends_with(name, ".htm") ||
           ends_with(name, ".opf") || strcmp(name, "META-INF/container.xml") == 0 ||
           strcmp(name, "META-INF/encryption.xml") == 0;
}

static sp_err on_container(void *arg, const char *name, sp_xml *at)
{
    package *b = arg;
    if (strcmp(name, "rootfile") == 0 && !b->path[0])
        sp_xml_attr(b->path, sizeof b->path, at, "full-path");
    return SP_OK;
}

static int hex_of(char c)
{
    return c >= '0' && c <= '9'                 ? c - '0'
           : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10
                                                : -1;
}

/* The member that a page's address means: beside the package file, percent-decoded, without a
 * fragment. */
static const sp_rag_member *find_page(const package *b, const char *href)
{
    char path[600];
    const char *slash = strrchr(b->path, '/');
    size_t n = slash ? (size_t)(slash + 1 - b->path) : 0;
    memcpy(path, b->path, n);
    for (; *href && *href != '#' && n + 1 < sizeof path; href++) {
        int hi = *href == '%' ? hex_of(href[1]) : -1, lo = hi >= 0 ? hex_of(href[2]) : -1;
        path[n++] = lo >= 0 ? (char)(hi * 16 + lo) : *href;
        href += lo >= 0 ? 2 : 0;
    }
    path[n] = 0;
    return sp_rag_archive_find(b->a, path);
}

static sp_err read_page(package *b, const char *id)
{
    const sp_rag_member *m = NULL;
    sp_buf text = {0};
    for (size_t i = 0; i < b->n && !m; i++)
        if (strcmp(b->item[i].id, id) == 0)
            m = find_page(b, b->item[i].href);
    if (!m) {
        sp_rag_bad(b->r, "page %.60s is not in the book", id);
        return sp_rag_on_time(b->r);
    }
    sp_err err = sp_rag_decode(&text, b->r, true, NULL, sp_buf_str(&m->data), m->data.len);
    if (err == SP_OK)
        err = sp_rag_parse_html(b->r, sp_buf_str(&text), text.len);
    sp_buf_fini(&text);
    if (err == SP_FORMAT) {
        sp_rag_bad(b->r, "%.100s: %.100s", m->name, b->r->d->msg);
        err = SP_OK;
    }
    return err;
}

static sp_err on_package(void *arg, const char *name, sp_xml *at)
{
    package *b = arg;
    char id[64];
    b->in_title = strcmp(name, "title") == 0;
    if (strcmp(name, "item") == 0 && b->n < MAX_ITEMS) {
        sp_xml_attr(b->item[b->n].id, sizeof b->item[0].id, at, "id");
        sp_xml_attr(b->item[b->n].href, sizeof b->item[0].href, at, "href");
        b->n++;
    } else if (strcmp(name, "itemref") == 0) {
        sp_xml_attr(id, sizeof id, at, "idref");
        return read_page(b, id);
    }
    return SP_OK;
}

static sp_err on_package_end(void *arg, const char *name)
{
    (void)name;
    ((package *)arg)->in_title = false;
    return SP_OK;
}

/* The book's title; those of its pages are headings below it. */
static sp_err on_package_text(void *arg, const char *p, size_t n)
{
    package *b = arg;
    if (!b->in_title || b->titled)
        return SP_OK;
    sp_err err = sp_rag_give(b->r, SP_RAG_TITLE, 0, p, n, false);
    b->titled = b->r->titled = true;
    return err;
}

static sp_err read_book(package *b)
{
    const sp_rag_member *m = sp_rag_archive_find(b->a, "META-INF/container.xml"),
                        *locked = sp_rag_archive_find(b->a, "META-INF/encryption.xml");
    const sp_xml_walker container = {.start = on_container, .arg = b},
                        opf = {on_package, on_package_end, on_package_text, b};
    if (locked && memmem(sp_buf_str(&locked->data), locked->data.len, "xmlenc#aes", 10))
        return SP_FAIL(b->r->d, SP_UNSUP, "it is encrypted (DRM)");
    if (!m)
        return SP_FAIL(b->r->d, SP_FORMAT, "its archive holds no META-INF/container.xml");
    SP_TRY(sp_xml_walk(&container, b->r, m->name, sp_buf_str(&m->data), m->data.len));
    m = sp_rag_archive_find(b->a, b->path);
    if (!m)
        return SP_FAIL(b->r->d, SP_FORMAT, "its archive holds no package file %.80s", b->path);
    return sp_xml_walk(&opf, b->r, m->name, sp_buf_str(&m->data), m->data.len);
}

sp_err sp_rag_parse_epub(sp_rag_reading *r, const char *p, size_t n)
{
    sp_rag_archive a;
    package *b = sp_mem_alloc(sizeof *b);
    if (!b)
        return SP_FAIL(r->d, SP_NOMEM, "document");
    b->r = r;
    b->a = &a;
    sp_err err = sp_rag_archive_open(&a, r, wanted, p, n);
    if (err == SP_OK)
        err = read_book(b);
    sp_rag_archive_fini(&a);
    sp_mem_free(b);
    return err;
}
