/* What the parts of sp_convert share. */
#ifndef SP_MODEL_CONVERT_INT_H
#define SP_MODEL_CONVERT_INT_H

#include "fmt/gguf_write.h"

#include <jansson.h>

/* One family of checkpoints. */
typedef struct sp_convert_family {
    const char *from, *arch; /* config.json's model_type, general.architecture */
    unsigned is;             /* traits of convert_arch.c */
} sp_convert_family;

/* The family of a configuration, all of which is known. Errors: SP_FORMAT, SP_UNSUP. */
SP_MUST sp_err sp_convert_family_of(const sp_convert_family **out, const json_t *config, sp_diag *d);
/* The hyper-parameters, under "ARCH.". */
SP_MUST sp_err sp_convert_arch(sp_gguf_out *o, const sp_convert_family *f, const json_t *config, sp_diag *d);
/* GGUF's name of a checkpoint's tensor; *out "" where it is left out. n_pair: heads whose rows go from halves to pairs, 0: none;
 * plus_one: 1 is added to the values. Errors: SP_UNSUP. */
SP_MUST sp_err sp_convert_name(char out[64], size_t *n_pair, bool *plus_one, const sp_convert_family *f, const json_t *config, const char *name,
                               sp_diag *d);
/* Divisors of RoPE's frequencies, as tensors that the checkpoint does not have. Each is [n]; name NULL: there is none. */
typedef struct sp_convert_factors {
    const char *name;
    float *v; /* owned */
    size_t n;
} sp_convert_factors;
enum { SP_CONVERT_FACTORS = 2 };
SP_MUST sp_err sp_convert_factors_of(sp_convert_factors out[SP_CONVERT_FACTORS], const json_t *config, sp_diag *d);

/* The vocabulary, what is special in it, and the template. n_vocab: rows of the embedding. */
SP_MUST sp_err sp_convert_text(sp_gguf_out *o, bool *has_template, const char *dir, const json_t *config, size_t n_vocab, sp_diag *d);
/* A JSON file of the folder. Errors: SP_NOTFOUND, SP_LIMIT, SP_FORMAT. */
SP_MUST sp_err sp_convert_json(json_t **out, const char *dir, const char *name, sp_diag *d);

#endif
