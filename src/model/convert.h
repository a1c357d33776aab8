/* A folder as `save_pretrained` of transformers writes it (config.json, *.safetensors,
 * tokenizer.json, chat template) into one GGUF.
 *
 * convert.c    which tensors, under which names and in which type, and the file
 * convert_arch.c  the table of families: config.json into hyper-parameters, beside arch_family.c,
 *                 which reads them convert_text.c  tokenizer.json, tokenizer_config.json and the
 *                 template into keys
 *
 * Vectors stay F32. Matrices get the type that was asked for; where their rows are no whole blocks
 * of it, Q8_0 or F16; of 4-bit types the embedding and the output get Q8_0. Whatever would change
 * the answers and is not known is refused by name: an architecture, a tensor, an activation, a
 * scaling of positions, a tokenizer.
 *
 * Budgets: bytes of each JSON file, tensors, shards. Memory: the tokenizer's JSON, and one row at a
 * time of the weights. */
#ifndef SP_MODEL_CONVERT_H
#define SP_MODEL_CONVERT_H

#include "base/err.h"
#include "fmt/quant.h"

#include <stdbool.h>

typedef struct sp_convert_report {
    const char *arch; /* static */
    size_t n_tensor, n_other; /* matrices that did not get the type that was asked for */
    size_t n_bytes;
    bool has_template;
} sp_convert_report;

/* path is written whole or not at all. Errors: SP_NOTFOUND, SP_UNSUP, SP_FORMAT, SP_LIMIT, SP_IO,
 * SP_NOMEM. */
SP_MUST sp_err sp_convert(sp_convert_report *out, const char *dir, const char *path, sp_type type,
                          sp_diag *d);

#endif
