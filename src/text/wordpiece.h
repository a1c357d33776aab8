/* WordPiece tokenizer of BERT: from vocab.txt here, from GGUF in tok_wordpiece.c.
 * Result: [CLS] … [SEP]. Text is cleaned, lower-cased, stripped of accents (NFD), split at CJK
 * characters and punctuation, then matched greedily; a word that does not match is [UNK].
 * Owner: sp_wp owns its copy of the vocabulary. Threads: immutable after open; encode is pure.
 * Source: Devlin et al. 2019; agrees with PyPI `tokenizers` (test/e2e/test_encoder.py). */
#ifndef SP_TEXT_WORDPIECE_H
#define SP_TEXT_WORDPIECE_H

#include "base/map.h"
#include "text/tokenizer.h"

typedef struct sp_wp sp_wp;

/* What differs between vocabularies. by_piece is borrowed. */
typedef struct sp_wp_rules {
    const sp_map *by_piece;
    const char *begins;  /* stands before a word's first piece in the vocabulary; at most 4 bytes */
    const char *goes_on; /* stands before the others; at most 4 bytes */
    uint32_t unk;        /* of a word that does not match */
    bool lower, strip;   /* capitals fold; accents vanish */
} sp_wp_rules;

/* Appends the pieces of all words, without [CLS] and [SEP]. Errors: SP_NOMEM. */
SP_MUST sp_err sp_wp_words(const sp_wp_rules *r, sp_ids *out, const char *text, size_t n);

SP_MUST sp_err sp_wp_open(sp_wp **out, const char *vocab_path, sp_diag *d);
SP_MUST sp_err sp_wp_open_mem(sp_wp **out, const char *p, size_t n, sp_diag *d);
void sp_wp_close(sp_wp *w);
size_t sp_wp_count(const sp_wp *w);
SP_MUST sp_err sp_wp_encode(const sp_wp *w, sp_ids *out, const char *text, size_t n, sp_diag *d);
/* At most cap ids: the beginning stands for the whole, the end mark stays. */
SP_MUST sp_err sp_wp_encode_begin(const sp_wp *w, sp_ids *out, size_t cap, const char *text, size_t n, sp_diag *d);

#endif
