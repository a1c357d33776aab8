/* libxml2 bounds depth (256), the size of a text (10 MB) and what entities grow to; a part that
 * declares entities is refused all the same. */
#include "rag/xml.h"

#include <libxml/xmlreader.h>
#include <stdio.h>
#include <string.h>

enum { CHECK_EVERY = 1024 };

void sp_xml_attr(char *out, size_t cap, sp_xml *at, const char *name)
{
    xmlTextReaderPtr x = (xmlTextReaderPtr)at;
    bool whole = strchr(name, ':');
    out[0] = 0;
    for (int rc = xmlTextReaderMoveToFirstAttribute(x); rc == 1;
         rc = xmlTextReaderMoveToNextAttribute(x))
        if (xmlTextReaderIsNamespaceDecl(x) != 1 &&
            strcmp(
                (const char *)(whole ? xmlTextReaderConstName(x) : xmlTextReaderConstLocalName(x)),
                name) == 0) {
            const xmlChar *v = xmlTextReaderConstValue(x);
            snprintf(out, cap, "%s", v ? (const char *)v : "");
            break;
        }
    xmlTextReaderMoveToElement(x);
}

static sp_err visit(const sp_xml_walker *w, xmlTextReaderPtr x)
{
    int type = xmlTextReaderNodeType(x);
    const char *name = (const char *)xmlTextReaderConstLocalName(x);
    if (type == XML_READER_TYPE_ELEMENT) {
        bool empty = xmlTextReaderIsEmptyElement(x) == 1;
        if (w->start)
            SP_TRY(w->start(w->arg, name, (sp_xml *)x));
        return empty && w->end ? w->end(w->arg, name) : SP_OK;
    }
    if (type == XML_READER_TYPE_END_ELEMENT)
        return w->end ? w->end(w->arg, name) : SP_OK;
    if (w->text && (type == XML_READER_TYPE_TEXT || type == XML_READER_TYPE_CDATA ||
                    type == XML_READER_TYPE_SIGNIFICANT_WHITESPACE)) {
        const char *v = (const char *)xmlTextReaderConstValue(x);
        return v ? w->text(w->arg, v, strlen(v)) : SP_OK;
    }
    return SP_OK;
}

static bool declares_entities(xmlTextReaderPtr x)
{
    if (xmlTextReaderNodeType(x) != XML_READER_TYPE_DOCUMENT_TYPE)
        return false;
    /* xmlTextReaderCurrentDoc would hand the document over to us */
    const xmlNode *at = xmlTextReaderCurrentNode(x);
    const xmlDoc *doc = at ? at->doc : NULL;
    return doc && doc->intSubset && (doc->intSubset->entities || doc->intSubset->pentities);
}

/* Errors are told by line; nothing is printed. */
static void be_quiet(void *arg, const char *msg, xmlParserSeverities severity,
                     xmlTextReaderLocatorPtr at)
{
    int *line = arg;
    (void)msg;
    if (!*line && severity == XML_PARSER_SEVERITY_ERROR)
        *line = xmlTextReaderLocatorLineNumber(at);
}

sp_err sp_xml_walk(const sp_xml_walker *w, sp_rag_reading *r, const char *part, const char *p,
                   size_t n)
{
    if (n > INT32_MAX)
        return SP_FAIL(r->d, SP_LIMIT, "%.60s has more than 2 GiB", part);
    int line = 0, rc = 1;
    xmlTextReaderPtr x = xmlReaderForMemory(
        p, (int)n, NULL, NULL, XML_PARSE_NONET | XML_PARSE_NOCDATA | XML_PARSE_COMPACT);
    if (!x)
        return SP_FAIL(r->d, SP_NOMEM, "document");
    xmlTextReaderSetErrorHandler(x, be_quiet, &line);
    sp_err err = SP_OK;
    for (size_t i = 0; err == SP_OK && (rc = xmlTextReaderRead(x)) == 1; i++) {
        err = i % CHECK_EVERY == 0 ? sp_rag_on_time(r) : SP_OK;
        if (err == SP_OK)
            err = declares_entities(x) ? SP_FAIL(r->d, SP_FORMAT, "%.60s declares entities", part)
                                       : visit(w, x);
    }
    if (err == SP_OK && rc != 0)
        err = SP_FAIL(r->d, SP_FORMAT, "%.60s: line %d is not well-formed XML", part, line);
    xmlFreeTextReader(x);
    return err;
}

/* --- relations -------------------------------------------------------------------------------- */

typedef struct search {
    const char *id, *folder;
    char *target;
    size_t cap;
} search;

static sp_err on_relation(void *arg, const char *name, sp_xml *at)
{
    search *s = arg;
    char id[64], target[SP_XML_PATH];
    if (s->target[0] || strcmp(name, "Relationship") != 0)
        return SP_OK;
    sp_xml_attr(id, sizeof id, at, "Id");
    sp_xml_attr(target, sizeof target, at, "Target");
    const char *rest = target;
    while (strncmp(rest, "../", 3) == 0)
        rest += 3;
    if (s->id ? strcmp(id, s->id) == 0 : strncmp(rest, s->folder, strlen(s->folder)) == 0)
        snprintf(s->target, s->cap, "%s", rest);
    return SP_OK;
}

sp_err sp_xml_relation(char *out, size_t cap, sp_rag_reading *r, const char *part,
                       const sp_buf *data, const char *id, const char *folder)
{
    search s = {id, folder, out, cap};
    const sp_xml_walker w = {.start = on_relation, .arg = &s};
    out[0] = 0;
    return sp_xml_walk(&w, r, part, sp_buf_str(data), data->len);
}
