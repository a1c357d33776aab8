#include "rag/sentence.h"

#include <string.h>

enum { MIN_BYTES = 40 };

size_t sp_rag_sentence(const char *p, size_t n, size_t i_sent)
{
    if (i_sent + 1 >= SP_RAG_SENTS)
        return n;
    for (size_t i = 0; i < n; i++) {
        bool stop = p[i] == '\n' || ((p[i] == '.' || p[i] == '!' || p[i] == '?') && i + 1 < n && p[i + 1] == ' ');
        if (stop && i + 1 >= MIN_BYTES)
            return i + 1;
    }
    return n;
}

/* The tokens of a text, without the marks around them. */
static sp_err add(sp_ids *out, const sp_wp *vocab, const char *p, size_t n, sp_diag *d)
{
    size_t before = out->n;
    SP_TRY(sp_wp_encode(vocab, out, p, n, d));
    memmove(out->id + before, out->id + before + 1, (out->n - before - 1) * sizeof *out->id);
    out->n -= 2;
    return SP_OK;
}

static sp_err read_chunk(sp_rag_read *out, const sp_wp *vocab, size_t cap, const char *place, const char *text, sp_diag *d)
{
    sp_ids *ids = &out->ids;
    size_t n = strlen(text);
    SP_TRY(sp_wp_encode(vocab, ids, place, strlen(place), d));
    uint32_t end = ids->id[--ids->n];
    for (size_t at = 0; at < n;) {
        uint32_t first = (uint32_t)ids->n;
        size_t k = sp_rag_sentence(text + at, n - at, out->n_sent);
        SP_TRY(add(ids, vocab, text + at, k, d));
        at += k;
        if (ids->n > cap - 1)
            ids->n = cap - 1;
        if (ids->n > first)
            out->sent[out->n_sent++] = (sp_enc_part){first, (uint32_t)ids->n};
    }
    return sp_ids_push(ids, end);
}

sp_err sp_rag_read_chunk(sp_rag_read *out, const sp_wp *vocab, size_t cap, const char *place, const char *text, sp_diag *d)
{
    *out = (sp_rag_read){0};
    sp_err err = read_chunk(out, vocab, cap, place, text, d);
    if (err != SP_OK)
        sp_ids_fini(&out->ids);
    return err;
}
