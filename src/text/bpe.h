/* Byte-pair merging of one word. Not for other folders.
 *
 * sp_bpe maps a pair of adjacent tokens to the rank of its merge and the token it makes; the lowest
 * rank present in the word is merged first, leftmost first.
 * Cost: linear in the word: pairs wait in one bucket for each rank, and a bitmap finds the
 * lowest. */
#ifndef SP_TEXT_BPE_H
#define SP_TEXT_BPE_H

#include "base/map.h"
#include "text/tokenizer.h"

typedef struct sp_bpe {
    sp_map rank;          /* (left << 32 | right) -> rank */
    uint32_t *made;       /* [n_rank] token each merge makes */
    size_t n_rank, cap_rank;
    uint32_t byte_id[256]; /* SP_TOK_NONE: this byte cannot be spelled */
} sp_bpe;

/* Scratch reused from word to word of one text. */
typedef struct sp_bpe_work {
    struct sp_bpe_sym *sym;
    size_t cap_sym;
    struct sp_bpe_item *item;
    size_t n_item, cap_item;
    uint32_t *head, *tail; /* [n_rank] buckets of items; tail valid where head is */
    uint64_t *bits, *sums; /* non-empty buckets, and non-zero words of bits */
} sp_bpe_work;

SP_MUST sp_err sp_bpe_init(sp_bpe *b, size_t n_merge);
void sp_bpe_fini(sp_bpe *b);
/* Merges arrive in rank order; a repeated pair keeps its first rank. */
SP_MUST sp_err sp_bpe_add(sp_bpe *b, uint32_t left, uint32_t right, uint32_t made);
/* Appends the tokens of a word; SP_TOK_NONE where a byte cannot be spelled. */
SP_MUST sp_err sp_bpe_word(const sp_bpe *b, sp_bpe_work *w, sp_ids *out, const char *s, size_t n);
void sp_bpe_work_fini(sp_bpe_work *w);

#endif
