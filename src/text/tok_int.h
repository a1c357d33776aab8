/* What tokenizer.c shares with the kinds of tokenizers. Not for other folders.
 *
 * A kind is a row of functions. tokenizer.c reads what every vocabulary has (texts, types, special
 * tokens), finds special tokens in a text, and hands the stretches between them to the kind.
 * Owner: sp_tok owns all its tables; `text` points into the GGUF. */
#ifndef SP_TEXT_TOK_INT_H
#define SP_TEXT_TOK_INT_H

#include "base/map.h"
#include "text/bpe.h"
#include "text/merge.h"
#include "text/tokenizer.h"
#include "text/trie.h"

enum { SP_TOK_MAX_BYTES = 1 << 16 }; /* of one token's text */

/* tokenizer.ggml.token_type, as llama.cpp numbers them. */
enum { SP_TOK_NORMAL = 1, SP_TOK_UNKNOWN, SP_TOK_CONTROL, SP_TOK_USER, SP_TOK_UNUSED, SP_TOK_BYTE };

/* Scratch of one encoding, reused from stretch to stretch. */
typedef struct sp_tok_work {
    sp_bpe_work bpe;
    sp_merge_work merge;
    sp_buf text;   /* the stretch as the kind reads it */
    void *best;    /* unigram's table of positions */
    size_t n_best;
} sp_tok_work;

typedef struct sp_tok_kind {
    const char *model; /* value of tokenizer.ggml.model */
    unsigned takes;    /* 1 << type of the tokens that text may become */
    bool by_text;      /* t->by_piece is keyed by the file's texts, else by raw bytes */
    /* Reads the keys that change how pieces are spelled, and sets the kind's defaults; runs before
     * the vocabulary is read. It may replace t->kind. */
    sp_err (*begin)(sp_tok *t, const sp_gguf *g, sp_diag *d);
    /* Bytes that a token stands for, written to out (capacity: the text's length).
     * Returns false when the text stands for itself. */
    bool (*spell)(const sp_tok *t, char *out, size_t *n_out, sp_str text, uint8_t type);
    /* Reads merges, scores and the like; t->by_piece and the special ids are known. */
    sp_err (*load)(sp_tok *t, const sp_gguf *g, sp_diag *d);
    /* Appends the ids of a stretch that holds no special token. first: the stretch begins the text
     * or follows a special token. */
    sp_err (*encode)(const sp_tok *t, sp_tok_work *w, sp_ids *out, const char *s, size_t n,
                     bool first, sp_diag *d);
    void (*fini)(sp_tok *t); /* frees t->own; t->own may be NULL */
} sp_tok_kind;

enum { SP_TOK_LSTRIP = 1, SP_TOK_RSTRIP = 2 }; /* white space beside a special token vanishes */

struct sp_tok {
    const sp_tok_kind *kind;
    void *own;           /* the kind's tables */
    size_t n_vocab;
    const sp_str *text;  /* [n_vocab] as the file spells them */
    sp_str *piece;       /* [n_vocab] raw bytes, into `bytes` or the GGUF */
    uint8_t *type;       /* [n_vocab] */
    uint8_t *strip;      /* [n_vocab] of SP_TOK_LSTRIP, SP_TOK_RSTRIP */
    bool *is_end;        /* [n_vocab] */
    char *bytes;
    sp_map by_piece;     /* tokens that text may become; never a control token */
    sp_trie special;     /* texts of control, unknown and user-defined tokens */
    uint32_t fim[3]; /* see sp_tok_fim; [2] is SP_TOK_NONE where there are none */
    uint32_t bos, eos, unk, sep;
    bool add_bos, add_eos, add_sep;
    bool force_bos;      /* whatever the file says (gemma4) */
    bool add_space;      /* encoding puts a space before a text */
};

extern const sp_tok_kind sp_tok_kind_bpe, sp_tok_kind_raw, sp_tok_kind_spm, sp_tok_kind_unigram,
    sp_tok_kind_wordpiece;

/* tok_roles.c: which tokens are control tokens and which end an answer. Runs between reading the
 * types and building by_piece. */
SP_MUST sp_err sp_tok_read_roles(sp_tok *t, const sp_gguf *g, sp_diag *d);
SP_MUST sp_err sp_tok_read_strips(sp_tok *t, const sp_gguf *g, sp_diag *d);
/* The special token at s[at], SP_TOK_NONE if there is none. User-defined tokens are always found;
 * control tokens only with `control`, and none that reaches past `limit`. */
uint32_t sp_tok_special_at(const sp_tok *t, const char *s, size_t at, size_t n, bool control,
                           size_t limit);

/* Pieces of the kinds that write spaces as U+2581 and bytes as <0xNN>. */
bool sp_tok_spell_spaced(const sp_tok *t, char *out, size_t *n_out, sp_str text, uint8_t type);
/* Appends s with U+2581 for spaces. */
void sp_tok_put_spaced(sp_buf *out, const char *s, size_t n);
/* Ids of the byte tokens <0x00> to <0xFF>; SP_TOK_NONE where there is none. */
void sp_tok_byte_ids(uint32_t id[256], const sp_tok *t);
/* tokenizer.ggml.scores as floats; zeros when absent. *out belongs to the caller. */
SP_MUST sp_err sp_tok_read_scores(float **out, const sp_tok *t, const sp_gguf *g, sp_diag *d);
/* A flag that may be absent. */
SP_MUST sp_err sp_tok_read_flag(bool *out, const sp_gguf *g, const char *key, sp_diag *d);

#define SP_TOK_SPACE "\xe2\x96\x81" /* U+2581 */

#endif
