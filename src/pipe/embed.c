#include "pipe/embed.h"

enum { WAIT_MS = 100 };

sp_err sp_embed_wait(sp_job *j, size_t *n_prompt)
{
    sp_err err = SP_AGAIN;
    while (err == SP_AGAIN) {
        sp_event *ev = sp_job_next(j);
        if (!ev) {
            sp_job_wait(j, WAIT_MS * 1000000ull);
            continue;
        }
        err = ev->kind == SP_EVENT_FINISH && ev->finish == SP_FINISH_STOP ? SP_OK : SP_CANCEL;
        if (n_prompt)
            *n_prompt = ev->n_prompt;
        sp_event_free(ev);
    }
    return err;
}

sp_err sp_embed(sp_engine *e, const sp_tok *vocab, int8_t out[SP_VEC_DIM], const char *text,
                size_t n, sp_diag *d)
{
    sp_ids ids = {0};
    sp_job *j = NULL;
    const sp_encoder *enc = sp_engine_config(e)->encoder;
    if (!enc || !vocab || sp_encoder_dim(enc) != SP_VEC_DIM)
        return SP_FAIL(d, SP_UNSUP, "vectors need an embedding model of dimension %d", SP_VEC_DIM);
    sp_err err = sp_tok_encode_whole(vocab, &ids, sp_encoder_cap(enc), text, n, d);
    if (err == SP_OK)
        err = sp_job_embed(&j, e, ids.id, ids.n, NULL, 0, NULL, NULL, d);
    if (err == SP_OK)
        err = sp_embed_wait(j, NULL);
    if (err == SP_OK)
        sp_vec_quantise(out, sp_job_vector(j));
    sp_job_put(j);
    sp_ids_fini(&ids);
    return err;
}

sp_err sp_embed_chunk(sp_engine *e, const sp_tok *vocab, const sp_rag_bare *bare, sp_rag_vecs *out,
                      sp_diag *d)
{
    sp_rag_read r;
    sp_job *j = NULL;
    const sp_encoder *enc = sp_engine_config(e)->encoder;
    SP_TRY(sp_rag_read_chunk(&r, vocab, sp_encoder_cap(enc), bare->place, bare->text, d));
    sp_err err = sp_job_embed(&j, e, r.ids.id, r.ids.n, r.sent, r.n_sent, NULL, NULL, d);
    if (err == SP_OK)
        err = sp_embed_wait(j, NULL);
    if (err == SP_OK)
        sp_rag_vecs_set(out, sp_job_vector(j), r.n_sent);
    sp_job_put(j);
    sp_ids_fini(&r.ids);
    return err;
}
