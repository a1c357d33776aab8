/* Sentence encoder: BERT with mean pooling and L2 normalisation (all-MiniLM-L6-v2), read from a
 * folder with config.json, vocab.txt and model.safetensors.
 * Owner: sp_encoder owns its weights' map and tokenizer. Threads: one at a time (it uses the device).
 * Exact: cosine with sentence-transformers >= 0.9999 (test/e2e/test_encoder.py).
 * Source: Devlin et al. 2019; Reimers & Gurevych 2019. */
#ifndef SP_MODEL_ENCODER_H
#define SP_MODEL_ENCODER_H

#include "dev/dev.h"
#include "text/wordpiece.h"

typedef struct sp_encoder sp_encoder;

SP_MUST sp_err sp_encoder_open(sp_encoder **out, const char *folder, sp_dev *dev, sp_diag *d);
void sp_encoder_close(sp_encoder *e);
size_t sp_encoder_dim(const sp_encoder *e);
size_t sp_encoder_cap(const sp_encoder *e); /* tokens of the longest text, [CLS] and [SEP] included */
const sp_wp *sp_encoder_vocab(const sp_encoder *e);
typedef struct sp_enc_part { /* tokens [first, end) of a text */
    uint32_t first, end;
} sp_enc_part;

/* out [1 + n_part, dim], of unit length: of the whole text, then of each part, read in the context of the whole. SP_INVAL with both
 * numbers when n exceeds the cap. */
SP_MUST sp_err sp_encoder_run(sp_encoder *e, float *out, const uint32_t *id, size_t n, const sp_enc_part *part, size_t n_part, sp_diag *d);

#endif
