/* What tokenizer.c shares with the kinds of tokenizers. Not for other folders.
 *
 * A kind is a row of functions. tokenizer.c reads what every vocabulary has (texts, types, special
 * tokens), finds special tokens in a text, and hands the stretches between them to the kind.
 * Owner: sp_tok owns all its tables; `text` points into the GGUF. */
#ifndef SP_TEXT_TOK_INT_H
#define SP_TEXT_TOK_INT_H

#include "base/map.h"
#include "text/bpe.h"
#include "text/pretok.h"
#include "text/tokenizer.h"

enum { SP_TOK_MAX_BYTES = 1 << 16 }; /* of one token's text */

/* tokenizer.ggml.token_type, as llama.cpp numbers them. */
enum { SP_TOK_NORMAL = 1, SP_TOK_UNKNOWN, SP_TOK_CONTROL, SP_TOK_USER, SP_TOK_UNUSED, SP_TOK_BYTE };

/* Scratch of one encoding, reused from stretch to stretch. */
typedef struct sp_tok_work {
    sp_bpe_work bpe;
} sp_tok_work;

typedef struct sp_tok_kind {
    const char *model; /* value of tokenizer.ggml.model */
    /* Reads the keys that change how pieces are spelled; runs before the vocabulary is read. */
    sp_err (*begin)(sp_tok *t, const sp_gguf *g, sp_diag *d);
    /* Bytes that a token stands for, written to out (capacity: the text's length).
     * Returns false when the text stands for itself. */
    bool (*spell)(const sp_tok *t, char *out, size_t *n_out, sp_str text, uint8_t type);
    /* Reads merges, scores and the like; t->by_piece and the special ids are known. */
    sp_err (*load)(sp_tok *t, const sp_gguf *g, sp_diag *d);
    /* Appends the ids of a stretch that holds no special token. */
    sp_err (*encode)(const sp_tok *t, sp_tok_work *w, sp_ids *out, const char *s, size_t n, sp_diag *d);
    void (*fini)(sp_tok *t); /* frees t->own; t->own may be NULL */
} sp_tok_kind;

struct sp_tok {
    const sp_tok_kind *kind;
    void *own;           /* the kind's tables */
    size_t n_vocab;
    const sp_str *text;  /* [n_vocab] as the file spells them */
    sp_str *piece;       /* [n_vocab] raw bytes, into `bytes` or the GGUF */
    uint8_t *type;       /* [n_vocab] */
    char *bytes;
    sp_map by_piece;     /* tokens that text may become */
    uint32_t *special;   /* control and user-defined ids, longest text first */
    size_t n_special;
    bool starts_special[256];
    uint32_t bos, eos, unk;
    bool add_bos;
    bool *is_end;        /* [n_vocab] */
};

extern const sp_tok_kind sp_tok_kind_bpe;

#endif
