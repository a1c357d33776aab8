/* The words of BERT's WordPiece: text is cleaned, lower-cased, stripped of accents (NFD), split at
 * CJK characters and punctuation, then matched greedily; a word that does not match is [UNK]. The
 * kind of tokenizer over it is tok_wordpiece.c.
 * Threads: pure.
 * Source: Devlin et al. 2019; agrees with PyPI `tokenizers` (test/e2e/test_encoder.py). */
#ifndef SP_TEXT_WORDPIECE_H
#define SP_TEXT_WORDPIECE_H

#include "base/map.h"
#include "text/tokenizer.h"

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

#endif
