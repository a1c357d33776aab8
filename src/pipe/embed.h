/* Vectors of texts through the engine, for threads that may wait.
 * Threads: any. Errors: SP_UNSUP without an encoder of SP_VEC_DIM; SP_CANCEL when the server shuts
 * down; SP_LIMIT when it is full. */
#ifndef SP_PIPE_EMBED_H
#define SP_PIPE_EMBED_H

#include "rag/store.h"
#include "sched/engine.h"
#include "text/tokenizer.h"

/* vocab NULL: SP_UNSUP. A text longer than the encoder reads stands by its beginning. */
SP_MUST sp_err sp_embed(sp_engine *e, const sp_tok *vocab, int8_t out[SP_VEC_DIM], const char *text,
                        size_t n, sp_diag *d);
/* The vectors of a chunk; the encoder must be of SP_VEC_DIM. */
SP_MUST sp_err sp_embed_chunk(sp_engine *e, const sp_tok *vocab, const sp_rag_bare *bare,
                              sp_rag_vecs *out, sp_diag *d);
/* Waits until the job has ended. n_prompt: of its last event, or NULL. */
SP_MUST sp_err sp_embed_wait(sp_job *j, size_t *n_prompt);

#endif
