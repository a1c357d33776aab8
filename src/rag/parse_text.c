/* Plain text: paragraphs. */
#include "rag/parse_int.h"

#include "base/utf8.h"

/* Paragraphs end at blank lines and the part limit, so a file of one line stays within it too. */
sp_err sp_rag_parse_text(sp_rag_reading *r, const char *p, size_t n)
{
    const char *end = p + n, *line, *start = p;
    size_t len;
    sp_err err = SP_OK;
    while (err == SP_OK && sp_rag_line(&line, &len, &p, end)) {
        if (!sp_rag_is_blank(line, len) && p < end && (size_t)(p - start) < SP_RAG_PART_BYTES)
            continue;
        while (err == SP_OK && start < p) {
            size_t k = (size_t)(p - start);
            if (k > SP_RAG_PART_BYTES)
                k = SP_RAG_PART_BYTES - sp_utf8_tail(start, SP_RAG_PART_BYTES);
            err = sp_rag_give(r, SP_RAG_TEXT, 0, start, k, false);
            start += k;
        }
    }
    return err;
}
