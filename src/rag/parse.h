/* Documents as a stream of parts: titles, headings, paragraphs, and the terms marked in them. Formats go by the name's
 * ending: .txt, .md, .html, .htm, .jsonl, .csv, .pdf.
 *
 * Untrusted input: every part is valid UTF-8 of at most SP_RAG_PART_BYTES, without control characters but newlines; nothing
 * is fetched, no entity leaves the document, and a PDF is read by pdftotext in a process of its own with limits on time and
 * memory. Parsing holds one part at a time.
 * Errors:  SP_UNSUP for another ending; SP_FORMAT with what and where; SP_LIMIT; what the sink returned.
 * Threads: pure, apart from the process for a PDF. */
#ifndef SP_RAG_PARSE_H
#define SP_RAG_PARSE_H

#include "base/buf.h"

enum { SP_RAG_PART_BYTES = 64 * 1024 };

typedef enum sp_rag_kind {
    SP_RAG_TITLE,   /* of the document; may come late or never */
    SP_RAG_HEADING, /* of level 1..6 */
    SP_RAG_TEXT,    /* a paragraph, list item, table row or block of code */
    SP_RAG_TERM     /* a name marked in the next paragraph: code, a link's text; level 1: what the paragraph is about */
} sp_rag_kind;

typedef struct sp_rag_part {
    sp_rag_kind kind;
    int level;
    const char *p; /* [n], not NUL-terminated */
    size_t n;
} sp_rag_part;

typedef struct sp_rag_sink {
    sp_err (*put)(void *arg, const sp_rag_part *part);
    void *arg;
} sp_rag_sink;

bool sp_rag_can_parse(const char *name);
SP_MUST sp_err sp_rag_parse(const sp_rag_sink *to, const char *name, const char *p, size_t n, sp_diag *d);

/* The formats; `name` is for messages. */
SP_MUST sp_err sp_rag_parse_html(const sp_rag_sink *to, const char *p, size_t n, sp_diag *d);
SP_MUST sp_err sp_rag_parse_text(const sp_rag_sink *to, const char *p, size_t n);
SP_MUST sp_err sp_rag_parse_markdown(const sp_rag_sink *to, const char *p, size_t n);
SP_MUST sp_err sp_rag_parse_jsonl(const sp_rag_sink *to, const char *p, size_t n, sp_diag *d);
SP_MUST sp_err sp_rag_parse_csv(const sp_rag_sink *to, const char *p, size_t n, sp_diag *d);
/* One field; p moves past it and its separator. *more: another field follows on this row. false: its quote is never closed. */
bool sp_rag_csv_field(sp_buf *out, const char **p, const char *end, bool *more);
SP_MUST sp_err sp_rag_parse_pdf(const sp_rag_sink *to, const char *p, size_t n, sp_diag *d);

/* Gives text as a part, cleaned (see above), unless nothing is left of it. keep_lines: newlines and indentation mean
 * something (code); else runs of space become one. */
SP_MUST sp_err sp_rag_give(const sp_rag_sink *to, sp_rag_kind kind, int level, const char *p, size_t n, bool keep_lines);

#endif
