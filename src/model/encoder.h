/* Encoders: models that make a vector of a text, or, as rerankers, a score of how well a text
 * answers a question. A GGUF file of any architecture that says how its states are pooled, or a
 * folder as model/folder.h reads it.
 *
 * Owner:   sp_encoder owns its file, its weights, its tokenizer and its activations.
 * Threads: one at a time runs it (it uses the device); the rest may be asked from any.
 * Exact:   cosine of all-MiniLM-L6-v2 with sentence-transformers >= 0.9999
 *          (test/e2e/test_encoder.py); states and pooled vectors of F32 checkpoints against
 *          PyTorch NMSE <= 1e-8 (test/e2e/test_encoders.py).
 * Source:  Devlin et al. 2019; Reimers & Gurevych 2019; Günther et al. 2024 (parts pooled in the
 *          context of the whole). */
#ifndef SP_MODEL_ENCODER_H
#define SP_MODEL_ENCODER_H

#include "model/model.h"
#include "text/tokenizer.h"

typedef struct sp_encoder sp_encoder;

/* cap_tok: the longest text, marks included, is of so many tokens, or of fewer where the model was
 * trained for fewer. Activations grow with the longest text seen. Errors: SP_UNSUP: no encoder, or
 * one with a step that is not known. */
SP_MUST sp_err sp_encoder_open(sp_encoder **out, const char *path, sp_dev *dev, size_t cap_tok,
                               sp_diag *d);
void sp_encoder_close(sp_encoder *e);
const char *sp_encoder_name(const sp_encoder *e); /* the file's or folder's, without .gguf */
/* Numbers that it gives for a text: of a vector; of a reranker 1, a score. */
size_t sp_encoder_dim(const sp_encoder *e);
/* Tokens of the longest text, begin and end marks included. */
size_t sp_encoder_cap(const sp_encoder *e);
size_t sp_encoder_bytes(const sp_encoder *e); /* its weights, and activations of the longest text */
/* The same of a file that is not loaded. cap_tok as in sp_encoder_open. */
size_t sp_encoder_need(const sp_arch *a, const sp_gguf *g, size_t cap_tok);
bool sp_encoder_is_ranker(const sp_encoder *e); /* it scores; else it makes vectors */
/* Its vectors are means of states: those of a long text's windows may be averaged. */
bool sp_encoder_is_mean(const sp_encoder *e);
const sp_tok *sp_encoder_vocab(const sp_encoder *e);

typedef struct sp_enc_part { /* tokens [first, end) of a text */
    uint32_t first, end;
} sp_enc_part;

/* out [1 + n_part, dim], of unit length: of the whole text, then of each part, read in the context
 * of the whole. A part's vector is the mean of its states where the whole's is that of its first
 * token. Errors: SP_INVAL with both numbers when n exceeds the cap; SP_UNSUP for a reranker. */
SP_MUST sp_err sp_encoder_run(sp_encoder *e, float *out, const uint32_t *id, size_t n,
                              const sp_enc_part *part, size_t n_part, sp_diag *d);

/* Question and text as the reranker reads them together; *second: where the text begins, 0 where
 * the model does not ask. A text that is too long stands by its beginning, and *is_cut is true.
 * Errors: SP_INVAL: the question alone is too long. */
SP_MUST sp_err sp_encoder_pair(const sp_encoder *e, sp_ids *out, size_t *second, bool *is_cut,
                               sp_str question, sp_str text, sp_diag *d);
/* out [n_text, dim]: vectors of unit length of texts, or scores of pairs, computed together: the
 * same bits as alone. A model with one score gives its raw value, of any size; one with more the
 * share of the first in their softmax. Errors: as sp_encoder_run. */
SP_MUST sp_err sp_encoder_run_texts(sp_encoder *e, float *out, const sp_model_text *text,
                                    size_t n_text, sp_diag *d);
/* A score as a number between 0 and 1, larger for better answers. */
float sp_encoder_relevance(const sp_encoder *e, float score);

#endif
