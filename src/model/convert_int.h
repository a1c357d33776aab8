/* What the parts of sp_convert share. */
#ifndef SP_MODEL_CONVERT_INT_H
#define SP_MODEL_CONVERT_INT_H

#include "fmt/gguf_write.h"

#include <jansson.h>

/* Traits of a family that change tensors; those of convert_arch.c change keys. */
enum {
    SP_CONVERT_PAIRS = 1,    /* rows of queries and keys go from halves to pairs */
    SP_CONVERT_PLUS_ONE = 2, /* norms are stored less 1 */
    SP_CONVERT_POST = 4,     /* post_attention_layernorm is called post_attention_norm */
    SP_CONVERT_ENCODER = 1 << 20,
    SP_CONVERT_CUT = 1 << 21, /* positions begin behind the padding token's number */
};

/* One family of checkpoints. */
typedef struct sp_convert_family {
    const char *from, *arch; /* config.json's model_type, general.architecture */
    unsigned is;             /* traits */
} sp_convert_family;

/* The family of a configuration, all of which is known. Errors: SP_FORMAT, SP_UNSUP. */
SP_MUST sp_err sp_convert_family_of(const sp_convert_family **out, const json_t *config,
                                    sp_diag *d);
/* The hyper-parameters, under "ARCH.". */
SP_MUST sp_err sp_convert_arch(sp_gguf_out *o, const sp_convert_family *f, const json_t *config,
                               sp_diag *d);
/* Experts of a layer; 0: the model has none. Errors: SP_FORMAT. */
SP_MUST sp_err sp_convert_experts(size_t *out, const json_t *config, sp_diag *d);

/* Which rows of a matrix, or numbers of a vector, become a tensor. */
typedef enum sp_convert_part {
    SP_CONVERT_WHOLE,
    SP_CONVERT_FIRST, /* the first half of the rows */
    SP_CONVERT_SECOND,
    SP_CONVERT_EVEN, /* every second one, from 0 on */
    SP_CONVERT_ODD,
} sp_convert_part;

/* What a checkpoint's tensor becomes. */
typedef struct sp_convert_slot {
    char name[64]; /* in GGUF */
    size_t n_pair; /* heads whose rows go from halves to pairs; 0: none */
    size_t skip;   /* rows in front that the file does not have */
    bool plus_one; /* 1 is added to the values */
    sp_convert_part part;
    bool is_all;         /* has a matrix, or a vector, of each expert */
    bool is_each;        /* is that of expert `expert` alone */
    bool is_turned;      /* its matrices are stored transposed */
    bool is_blocks;      /* U8: nibbles of MXFP4, whose scales are a tensor of their own */
    size_t expert;
} sp_convert_slot;

/* The slots of a checkpoint's tensor, at most 2; *n 0: it is left out. Errors: SP_UNSUP (an unknown
 * name), SP_FORMAT. */
SP_MUST sp_err sp_convert_name(sp_convert_slot out[2], size_t *n, const sp_convert_family *f,
                               const json_t *config, const char *name, sp_diag *d);
/* Divisors of RoPE's frequencies, as tensors that the checkpoint does not have. Each is [n]; name
 * NULL: there is none. */
typedef struct sp_convert_factors {
    const char *name;
    float *v; /* owned */
    size_t n;
} sp_convert_factors;
enum { SP_CONVERT_FACTORS = 2 };
/* Those of a configuration; the caller frees each v, on errors too. Errors: SP_FORMAT, SP_NOMEM. */
SP_MUST sp_err sp_convert_factors_of(sp_convert_factors out[SP_CONVERT_FACTORS],
                                     const json_t *config, sp_diag *d);

/* convert_encoder.c: the hyper-parameters of an encoder; whether it gives scores; and how states
 * are pooled, of whichever family, as modules.json of the folder says. Encoders without it have the
 * mean. Errors: SP_FORMAT, SP_UNSUP. */
SP_MUST sp_err sp_convert_encoder(sp_gguf_out *o, const sp_convert_family *f, const json_t *config,
                                  sp_diag *d);
bool sp_convert_is_ranker(const json_t *config);
SP_MUST sp_err sp_convert_pooling(sp_gguf_out *o, const sp_convert_family *f, const char *dir,
                                  const json_t *config, sp_diag *d);

/* The vocabulary, what is special in it, and the template. n_vocab: rows of the embedding. */
SP_MUST sp_err sp_convert_text(sp_gguf_out *o, bool *has_template, const char *dir,
                               const json_t *config, size_t n_vocab, sp_diag *d);
/* A JSON file of the folder. Errors: SP_NOTFOUND, SP_LIMIT, SP_FORMAT. */
SP_MUST sp_err sp_convert_json(json_t **out, const char *dir, const char *name, sp_diag *d);
/* The same for one that is a list. */
SP_MUST sp_err sp_convert_list(json_t **out, const char *dir, const char *name, sp_diag *d);

#endif
