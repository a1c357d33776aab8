/* The members of a zip archive that a reader of documents asks for, unpacked in memory through
 * libarchive. xml.c's walk reads most of them.
 *
 * Budget: ARCHIVE_FACTOR times the reading's text, over all members together, and ARCHIVE_MEMBERS
 * members, asked for or not; the reading's time. The bound is one of bytes, whatever the ratio, so
 * a table that packs well is read. An archive within an archive is not opened.
 * Owner: sp_rag_archive_fini. Threads: one. Errors: SP_FORMAT, SP_LIMIT, SP_UNSUP for an encrypted
 * archive, SP_TIMEOUT, SP_NOMEM. */
#ifndef SP_RAG_ARCHIVE_H
#define SP_RAG_ARCHIVE_H

#include "rag/parse_int.h"

enum { SP_RAG_ARCHIVE_FACTOR = 4, SP_RAG_ARCHIVE_MEMBERS = 20000 };

typedef struct sp_rag_member {
    char *name;
    sp_buf data;
} sp_rag_member;

typedef struct sp_rag_archive {
    /* [n], sorted by name; numbers within names by value: slide2 before slide10 */
    sp_rag_member *at;
    size_t n, cap;
} sp_rag_archive;

/* out: written in any case. */
SP_MUST sp_err sp_rag_archive_open(sp_rag_archive *out, sp_rag_reading *r,
                                   bool (*wanted)(const char *name), const char *p, size_t n);
void sp_rag_archive_fini(sp_rag_archive *a);
/* NULL: it has none of this name */
const sp_rag_member *sp_rag_archive_find(const sp_rag_archive *a, const char *name);

#endif
