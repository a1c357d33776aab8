/* XML as a stream of elements and text, through libxml2's reader: no tree, no network, no entities
 * but XML's five. Names come without their prefix.
 * Errors: SP_FORMAT with the part and the line; what a callback returned. Threads: pure. */
#ifndef SP_RAG_XML_H
#define SP_RAG_XML_H

#include "rag/parse_int.h"

enum { SP_XML_PATH = 256 };

typedef struct sp_xml sp_xml; /* the element at hand */

typedef struct sp_xml_walker { /* each may be NULL */
    sp_err (*start)(void *arg, const char *name, sp_xml *at);
    sp_err (*end)(void *arg, const char *name); /* of an empty element too */
    sp_err (*text)(void *arg, const char *p, size_t n);
    void *arg;
} sp_xml_walker;

SP_MUST sp_err sp_xml_walk(const sp_xml_walker *w, sp_rag_reading *r, const char *part,
                           const char *p, size_t n);
/* The value of an attribute, cut to cap - 1 bytes; "" without it. A name with a prefix ("r:id") is
 * compared whole, one without by its local part. */
void sp_xml_attr(char *out, size_t cap, sp_xml *at, const char *name);

/* The target of a relation of an Office part (ECMA-376-2, 9.3): the one of this id, or, id NULL,
 * the first below this folder. "../" before it is cut off; out[cap] is "" without it. data: the
 * file of relations. */
SP_MUST sp_err sp_xml_relation(char *out, size_t cap, sp_rag_reading *r, const char *part,
                               const sp_buf *data, const char *id, const char *folder);

#endif
