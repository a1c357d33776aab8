#include "rag/sentence.h"

#include <string.h>

enum { MIN_BYTES = 40 };

size_t sp_rag_sentence(const char *p, size_t n, size_t i_sent)
{
    if (i_sent + 1 >= SP_RAG_SENTS)
        return n;
    for (size_t i = 0; i < n; i++) {
        bool stop = p[i] == '\n' ||
                    ((p[i] == '.' || p[i] == '!' || p[i] == '?') && i + 1 < n && p[i + 1] == ' ');
        if (stop && i + 1 >= MIN_BYTES)
            return i + 1;
    }
    return n;
}

static sp_err read_chunk(sp_rag_read *out, const sp_tok *vocab, size_t cap, const char *place,
                         const char *text, sp_diag *d)
{
    sp_ids *ids = &out->ids;
    size_t n = strlen(text);
    uint32_t end = sp_tok_closing(vocab);
    if (sp_tok_adds_bos(vocab))
        SP_TRY(sp_ids_push(ids, sp_tok_bos(vocab)));
    SP_TRY(sp_tok_encode(vocab, ids, place, strlen(place), SP_SPECIAL_NONE, d));
    cap -= end != SP_TOK_NONE;
    for (size_t at = 0; at < n;) {
        uint32_t first = (uint32_t)ids->n;
        size_t k = sp_rag_sentence(text + at, n - at, out->n_sent);
        SP_TRY(sp_tok_encode(vocab, ids, text + at, k, SP_SPECIAL_NONE, d));
        at += k;
        if (ids->n > cap)
            ids->n = cap;
        if (ids->n > first)
            out->sent[out->n_sent++] = (sp_enc_part){first, (uint32_t)ids->n};
    }
    if (ids->n > cap)
        ids->n = cap;
    return end != SP_TOK_NONE ? sp_ids_push(ids, end) : SP_OK;
}

sp_err sp_rag_read_chunk(sp_rag_read *out, const sp_tok *vocab, size_t cap, const char *place,
                         const char *text, sp_diag *d)
{
    *out = (sp_rag_read){0};
    sp_err err = read_chunk(out, vocab, cap, place, text, d);
    if (err != SP_OK)
        sp_ids_fini(&out->ids);
    return err;
}
