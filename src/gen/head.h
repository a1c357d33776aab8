/* A draft head: a small recurrent net that guesses an answer's next tokens from the hidden states
 * of the model that writes it, and the file that holds one.
 *
 *   s0   = tap . [rms(h of layer 0), rms(h of layer 1), ..]      h: states of the newest token that
 *                                                                the model has computed
 *   z    = state . rms(s) + token . rms(embedding of the newest token)
 *   s'   = z + down . (silu(gate . rms(z)) * (up . rms(z)))
 *   what comes next: softmax over the cut vocabulary of  output rows . (norm * rms(s'))
 * and so on with s' and the guessed token. rms has no weights and eps SP_HEAD_EPS. The output rows
 * are the model's own, of the tokens that the file lists.
 *
 * A file is GGUF (docs/FORMATS.md, "Draft heads"). It fits the one model whose digest it names.
 *
 * Owner:   sp_head_file owns its map; what it points to lives until close.
 * Threads: immutable after open. */
#ifndef SP_GEN_HEAD_H
#define SP_GEN_HEAD_H

#include "fmt/gguf.h"
#include "gen/draft.h"

#define SP_HEAD_EPS 1e-5f

enum {
    SP_HEAD_VERSION = 1,
    SP_HEAD_DEPTH = 3,          /* guesses in a row that are trained and measured */
    SP_HEAD_TOKENS = 1 << 17,   /* of a cut vocabulary, at most */
    SP_HEAD_WIDTH = 1 << 15,    /* n_embd and n_ff, at most */
    SP_HEAD_NAME = 128          /* bytes of a text about a head, its end included */
};

typedef enum sp_head_mat {
    SP_HEAD_TAP,   /* [n_embd, n_tap * n_embd] */
    SP_HEAD_STATE, /* [n_embd, n_embd] */
    SP_HEAD_TOKEN, /* [n_embd, n_embd] */
    SP_HEAD_GATE,  /* [n_ff, n_embd] */
    SP_HEAD_UP,    /* [n_ff, n_embd] */
    SP_HEAD_DOWN,  /* [n_embd, n_ff] */
    SP_HEAD_MATS
} sp_head_mat;

typedef struct sp_head_shape {
    size_t n_embd, n_ff;
    size_t n_tok;                  /* of the cut vocabulary */
    size_t layer[SP_DRAFT_LAYERS]; /* [n_tap] ascending: whose states it reads */
    size_t n_tap;
} sp_head_shape;

/* Where a head comes from. */
typedef struct sp_head_about {
    char model[65];             /* hex digest of the model's file */
    char name[SP_HEAD_NAME];    /* of the model */
    char data[SP_HEAD_NAME];    /* what it was trained on */
    char tenant[SP_HEAD_NAME];  /* "": for all; else it guesses for this tenant's answers alone */
    uint64_t seed, n_step, n_train, n_held; /* steps; tokens to learn from, and held out */
    float right[SP_HEAD_DEPTH]; /* share of held-out tokens whose first, first two, .. guesses are
                                   right */
} sp_head_about;

typedef struct sp_head_file {
    sp_gguf *g;
    sp_head_shape shape;
    sp_head_about about;
    const sp_tensor *mat[SP_HEAD_MATS];
    const float *norm;   /* [n_embd] */
    const uint8_t *tok;  /* [n_tok] i32, unaligned, ascending: see sp_head_token */
} sp_head_file;

size_t sp_head_rows(const sp_head_shape *s, sp_head_mat mat);
size_t sp_head_cols(const sp_head_shape *s, sp_head_mat mat);
const char *sp_head_mat_name(sp_head_mat mat); /* of its tensor */

/* Checks every shape, number and token. Errors: SP_FORMAT; SP_UNSUP (another version); those of
 * sp_gguf_open. */
SP_MUST sp_err sp_head_open(sp_head_file *out, const char *path, sp_diag *d);
/* The same over borrowed bytes, 64-byte aligned. */
SP_MUST sp_err sp_head_open_mem(sp_head_file *out, const void *p, size_t n, sp_diag *d);
void sp_head_close(sp_head_file *f); /* zeroed: allowed */
uint32_t sp_head_token(const sp_head_file *f, size_t i);

/* Writes a file. mat: f32 rows; norm [n_embd]; tok [n_tok] ascending. Matrices become Q8_0 where
 * their rows are whole blocks. Errors: those of gguf_write.h. */
SP_MUST sp_err sp_head_write(const char *path, const sp_head_shape *s, const sp_head_about *about,
                             const float *const mat[SP_HEAD_MATS], const float *norm,
                             const uint32_t *tok, sp_diag *d);

#endif
