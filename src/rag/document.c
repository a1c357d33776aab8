#include "rag/document.h"

#include <string.h>

static const char *keep(sp_rag_document *x, const char *p, size_t n)
{
    return sp_arena_strndup(&x->a, p ? p : "", n);
}

static sp_err keep_chunk(void *arg, const sp_rag_chunk *c)
{
    sp_rag_document *x = arg;
    if (!sp_mem_has_room(&x->chunk, &x->cap, x->n_chunk, sizeof *x->chunk))
        return SP_NOMEM;
    sp_rag_chunk *to = &x->chunk[x->n_chunk];
    *to = (sp_rag_chunk){.place = keep(x, c->place, strlen(c->place)),
                         .text = keep(x, c->text, c->n),
                         .n = c->n,
                         .n_tok = c->n_tok,
                         .terms = keep(x, c->terms, c->n_terms),
                         .n_terms = c->n_terms};
    if (!to->place || !to->text || !to->terms)
        return SP_NOMEM;
    x->n_chunk++;
    return SP_OK;
}

sp_err sp_rag_document_read(sp_rag_document *out, const sp_rag_source *in, sp_diag *d)
{
    sp_rag_chunker *c;
    const char *base = strrchr(in->path, '/');
    *out = (sp_rag_document){.title = ""};
    sp_arena_init(&out->a, 0);
    SP_TRY(sp_rag_chunker_new(&c, in->vocab, in->max_tok, keep_chunk, out));
    sp_rag_sink sink = sp_rag_chunker_sink(c, base ? base + 1 : in->path);
    sp_err err = sp_rag_parse(&sink, &out->report, in->budget, in->path, in->bytes, in->n_bytes, d);
    if (err == SP_OK)
        err = sp_rag_chunker_end(c);
    if (err == SP_OK &&
        !(out->title = keep(out, sp_rag_chunker_title(c), strlen(sp_rag_chunker_title(c)))))
        err = SP_NOMEM;
    sp_rag_chunker_free(c);
    return err == SP_NOMEM ? SP_FAIL(d, err, "document") : err;
}

void sp_rag_document_fini(sp_rag_document *x)
{
    sp_arena_fini(&x->a);
    sp_mem_free(x->chunk);
    sp_rag_report_fini(&x->report);
    *x = (sp_rag_document){.title = ""};
}
