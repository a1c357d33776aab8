/* Documents as a stream of parts: titles, headings, paragraphs, and the terms marked in them. The
 * format goes by the name's ending; docs/FORMATS.md lists them. sp_rag_formats names them for
 * messages.
 *
 * Untrusted input: every part is valid UTF-8 of at most SP_RAG_PART_BYTES, without control
 * characters but newlines; nothing is fetched and no entity leaves the document. A reading has a
 * budget of time and of text, and pdftotext runs in a sandbox (base/sandbox.h). Parsing holds one
 * part at a time.
 *
 * One bad record (a line of JSONL, a row of CSV, a slide) does not cost the others: it is named in
 * the report. A document of which only bad records are found is an error, and one without any text
 * says why in report->why.
 * Errors:  SP_UNSUP for another ending or an encrypted file; SP_FORMAT with what and where;
 *          SP_LIMIT and SP_TIMEOUT name the budget; what the sink
 *          returned. Parts that were given before an error are to be thrown away.
 * Threads: pure, apart from the process for a PDF. */
#ifndef SP_RAG_PARSE_H
#define SP_RAG_PARSE_H

#include "base/buf.h"

#include <stdatomic.h>
#include <stdint.h>

enum { SP_RAG_PART_BYTES = 64 * 1024 };

typedef enum sp_rag_kind {
    SP_RAG_TITLE,   /* of the document; may come late or never */
    SP_RAG_HEADING, /* of level 1..6 */
    SP_RAG_TEXT,    /* a paragraph, list item, table row or block of code */
    /* a name marked in the next paragraph: code, a link's text; level 1: what the paragraph is
     * about */
    SP_RAG_TERM
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

enum { SP_RAG_NOTES = 20 }; /* bad records that are named; more are counted */

typedef struct sp_rag_report { /* zeroed before; sp_rag_report_fini after */
    size_t n_bad;  /* records that were left out */
    /* a line each of the first SP_RAG_NOTES bad records, and of remarks such as bytes that are
     * not text */
    sp_buf notes;
    sp_buf why;    /* not empty: no text was found, and this is the reason */
} sp_rag_report;

void sp_rag_report_fini(sp_rag_report *r);

typedef struct sp_rag_budget {
    uint32_t seconds;  /* of the thread's processor time for the whole reading, and as much for a
                          program that it runs */
    size_t text_bytes; /* of all parts together, and of what an archive holds unpacked */
    const atomic_bool *stop; /* NULL, or set by another thread: the reading ends with SP_CANCEL */
} sp_rag_budget;

/* What a reading may take unless said otherwise. */
/* Of wall time a reading may take SP_RAG_WAITS times its seconds: beside a busy engine it gets a
 * small share of the cores. */
enum { SP_RAG_SECONDS = 60, SP_RAG_WAITS = 20, SP_RAG_TEXT_BYTES = 64 << 20 };

bool sp_rag_can_parse(const char *name);
const char *sp_rag_formats(void); /* ".txt, .md, …" */
/* budget NULL: the constants above. */
SP_MUST sp_err sp_rag_parse(const sp_rag_sink *to, sp_rag_report *report,
                            const sp_rag_budget *budget, const char *name, const char *p, size_t n,
                            sp_diag *d);

/* One field of CSV; p moves past it and its separator. *more: another field follows on this row.
 * false: its quote is never closed. */
bool sp_rag_csv_field(sp_buf *out, const char **p, const char *end, char separator, bool *more);

#endif
