/* What the readers of formats share: one reading of a document, with its budget and its report.
 *
 * A reader takes UTF-8 with '\n' as the only line end (text formats) or the file's bytes (archives,
 * PDF), and gives parts through sp_rag_give.
 * Threads: one. Errors: as parse.h says; a reader returns at once what sp_rag_give or
 * sp_rag_on_time return. */
#ifndef SP_RAG_PARSE_INT_H
#define SP_RAG_PARSE_INT_H

#include "rag/parse.h"

typedef struct sp_rag_reading {
    const sp_rag_sink *to;
    sp_rag_report *report;
    uint64_t cpu_end_ns, end_ns; /* SP_TIMEOUT after one of them: of the thread's processor time,
                                    and of the clock */
    uint32_t seconds;
    const atomic_bool *stop; /* or NULL */
    size_t text_left, text_bytes; /* the budget's rest and whole */
    bool any, headed;   /* some text was given; a title or heading was */
    bool titled;        /* the whole has its title: those of documents within it are headings */
    int depth;          /* documents around this one: a mail around its attachment */
    sp_diag *d;
} sp_rag_reading;

/* Gives text as a part, cleaned (see parse.h), unless nothing is left of it. keep_lines: newlines
 * and indentation mean something (code); else runs of space become one. Errors: SP_LIMIT,
 * SP_TIMEOUT: the budget; SP_NOMEM. */
SP_MUST sp_err sp_rag_give(sp_rag_reading *r, sp_rag_kind kind, int level, const char *p, size_t n,
                           bool keep_lines);
/* Takes so many bytes of unpacked text from the budget. */
SP_MUST sp_err sp_rag_spend(sp_rag_reading *r, size_t n_bytes);
/* Is there time left? SP_TIMEOUT, SP_CANCEL. */
SP_MUST sp_err sp_rag_on_time(sp_rag_reading *r);
/* Names a record that is left out. */
void sp_rag_bad(sp_rag_reading *r, const char *fmt, ...) SP_PRINTF(2, 3);
/* Says something of the document without counting it as bad. */
void sp_rag_remark(sp_rag_reading *r, const char *fmt, ...) SP_PRINTF(2, 3);
/* Why no text was found, if none is in the end; the first reason stays. */
void sp_rag_because(sp_rag_reading *r, const char *fmt, ...) SP_PRINTF(2, 3);

/* The next line of [*p, end), without its '\n'; false at the end. */
bool sp_rag_line(const char **line, size_t *len, const char **p, const char *end);
bool sp_rag_is_blank(const char *p, size_t n);

/* --- encodings (encoding.c) --- */
/* Bytes of a text file as UTF-8 with '\n' as line end. Evidence in this order: a byte-order mark;
 * what the file declares (markup: HTML's meta and XML's declaration); zero bytes at every second
 * place (UTF-16 without a mark); well-formed UTF-8; uchardet's guess. charset: a declaration from
 * outside (a mail's header), or NULL. Errors: SP_FORMAT for bytes that are no text; SP_NOMEM. */
SP_MUST sp_err sp_rag_decode(sp_buf *out, sp_rag_reading *r, bool markup, const char *charset,
                             const char *p, size_t n);

/* A document within this one, by its name. Errors: as sp_rag_parse; SP_FORMAT and SP_UNSUP may be
 * named and passed over. */
SP_MUST sp_err sp_rag_parse_within(sp_rag_reading *r, const char *name, const char *p, size_t n);

/* --- formats, a file each --- */
SP_MUST sp_err sp_rag_parse_text(sp_rag_reading *r, const char *p, size_t n);
SP_MUST sp_err sp_rag_parse_markdown(sp_rag_reading *r, const char *p, size_t n);
SP_MUST sp_err sp_rag_parse_html(sp_rag_reading *r, const char *p, size_t n);
SP_MUST sp_err sp_rag_parse_jsonl(sp_rag_reading *r, const char *p, size_t n);
SP_MUST sp_err sp_rag_parse_json(sp_rag_reading *r, const char *p, size_t n);
SP_MUST sp_err sp_rag_parse_notebook(sp_rag_reading *r, const char *p, size_t n);
SP_MUST sp_err sp_rag_parse_csv(sp_rag_reading *r, const char *p, size_t n);
SP_MUST sp_err sp_rag_parse_pdf(sp_rag_reading *r, const char *p, size_t n);
SP_MUST sp_err sp_rag_parse_docx(sp_rag_reading *r, const char *p, size_t n);
SP_MUST sp_err sp_rag_parse_pptx(sp_rag_reading *r, const char *p, size_t n);
SP_MUST sp_err sp_rag_parse_xlsx(sp_rag_reading *r, const char *p, size_t n);
SP_MUST sp_err sp_rag_parse_odf(sp_rag_reading *r, const char *p, size_t n);
SP_MUST sp_err sp_rag_parse_epub(sp_rag_reading *r, const char *p, size_t n);
SP_MUST sp_err sp_rag_parse_mail(sp_rag_reading *r, const char *p, size_t n);
SP_MUST sp_err sp_rag_parse_code(sp_rag_reading *r, const char *p, size_t n);
SP_MUST sp_err sp_rag_parse_config(sp_rag_reading *r, const char *p, size_t n);

#endif
