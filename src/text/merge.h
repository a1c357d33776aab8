/* Merging neighbours of a row of symbols, the best pair first and of equal ones the leftmost: what
 * SentencePiece BPE and BPE on UTF-8 share. Not for other folders.
 *
 * Cost: n symbols take at most 3n heap operations, so n log n. The callers cut a text where no
 * token of the vocabulary reaches across (sp_pairs), so that n is small for ordinary text. */
#ifndef SP_TEXT_MERGE_H
#define SP_TEXT_MERGE_H

#include "text/tokenizer.h"

typedef struct sp_merge_sym {
    size_t at;           /* first byte */
    uint32_t len;        /* bytes; 0 once merged into its left neighbour */
    uint32_t prev, next; /* SP_TOK_NONE: no neighbour */
    uint32_t id;         /* token; SP_TOK_NONE: none is spelled so */
} sp_merge_sym;

typedef struct sp_merge_item {
    uint64_t order; /* rank << 32 | left symbol: the least is merged first */
    uint32_t len;   /* of the merged text; another length means that a side has changed since */
    uint32_t id;
} sp_merge_item;

typedef struct sp_merge_work {
    sp_merge_sym *sym;
    size_t n_sym, cap_sym;
    sp_merge_item *heap;
    size_t n_heap, cap_heap;
    size_t n_op; /* heap moves so far; tests read it */
} sp_merge_work;

/* Whether two neighbours may merge, with which rank, and into which token. */
typedef bool sp_merge_find(uint32_t *rank, uint32_t *id, const sp_tok *t, const char *s,
                           const sp_merge_sym *left, const sp_merge_sym *right);

/* Symbols are added in order, then merged; afterwards sym[0] and its `next` chain are the
 * result. */
SP_MUST sp_err sp_merge_add(sp_merge_work *w, size_t at, uint32_t len, uint32_t id);
SP_MUST sp_err sp_merge_run(sp_merge_work *w, sp_merge_find *find, const sp_tok *t, const char *s);
void sp_merge_clear(sp_merge_work *w);
void sp_merge_fini(sp_merge_work *w);

/* Pairs of characters that stand beside each other inside some token: a Bloom filter with one hash.
 * Where a text has a pair that no token has, no merge reaches across. */
typedef struct sp_pairs {
    uint64_t *bit;
} sp_pairs;

SP_MUST sp_err sp_pairs_init(sp_pairs *p);
void sp_pairs_fini(sp_pairs *p);
void sp_pairs_add(sp_pairs *p, sp_str token);
bool sp_pairs_may_join(const sp_pairs *p, uint32_t left, uint32_t right);
/* A character of s for these: its code point, or 0x110000 + byte where it is not UTF-8. */
size_t sp_pairs_char(uint32_t *cp, const char *s, size_t n);

#endif
