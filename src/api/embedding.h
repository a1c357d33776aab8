/* /v1/embeddings. */
#ifndef SP_API_EMBEDDING_H
#define SP_API_EMBEDDING_H

#include "api/codec.h"

#include <jansson.h>

/* Vectors of a request's texts. Borrowed during the call. */
typedef struct sp_embed_answer {
    const char *model;
    const float *vector; /* [n, dim] */
    size_t n, dim;
    size_t n_tok;        /* of all texts */
    uint64_t begin_ns;   /* when the request came */
} sp_embed_answer;
typedef void sp_embed_write(sp_buf *out, const sp_embed_answer *a);

/* at->on: the encoder, see api/seek.h. Fills task (arg != NULL), or returns an error with *bad
 * naming the parameter. */
SP_MUST sp_err sp_api_embedding(const sp_api_place *at, const sp_api_req *req, sp_http_task *task,
                                char bad[64], sp_diag *d);
/* The same for a body that was read; write words the answer, as another protocol does. */
SP_MUST sp_err sp_api_embed(const sp_api_place *at, const json_t *body, const sp_api_req *req,
                            sp_embed_write *write, sp_http_task *task, char bad[64], sp_diag *d);

/* For sp_texts.done: the encoder's sp_served is used once less. */
void sp_embed_let_go(void *served);

/* The tenant pays for texts that were read. */
void sp_embed_pay(sp_app *app, const char *tenant, sp_price_role role, const sp_encoder *e,
                  size_t n_tok);

/* The one event of a job of encoders: *error says what went wrong, if anything did. Errors:
 * SP_AGAIN, it is not there yet. */
SP_MUST sp_err sp_embed_done(sp_diag *error, sp_job *job);

#endif
