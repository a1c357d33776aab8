/* A sentence encoder's folder as Hugging Face has it (config.json, vocab.txt, model.safetensors;
 * sentence_bert_config.json where there is one), written as GGUF into memory, so that the one way
 * of reading models reads it too. Matrices become bf16: rounding to 8 bits of mantissa moves an
 * embedding by less than 1e-4 in cosine. BERT with GELU and mean pooling only (all-MiniLM-L6-v2).
 * Owner: the caller frees .p with sp_mem_free. Threads: any. */
#ifndef SP_MODEL_FOLDER_H
#define SP_MODEL_FOLDER_H

#include "base/err.h"

#include <stddef.h>

typedef struct sp_folder {
    void *p; /* 64-byte aligned */
    size_t n;
    size_t matrices_at; /* here the layers' matrices begin: of no use once they are packed */
} sp_folder;

/* Errors name the file and the key or tensor. SP_UNSUP: another kind of model. */
SP_MUST sp_err sp_folder_read(sp_folder *out, const char *folder, sp_diag *d);

#endif
