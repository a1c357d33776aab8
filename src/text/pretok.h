/* Pre-tokenizers: text is split into words that BPE never merges across.
 *
 * A pre-tokenizer is a row: a name (tokenizer.ggml.pre), flags, and one to six passes. Each pass
 * splits the pieces of the pass before it. A pass is a hand-written scanner of one published
 * pattern; parts of a piece that its pattern does not match stay pieces of their own. The patterns
 * stand in pretok_scan.c. Bytes that are not UTF-8 count as symbols.
 *
 * Where llama.cpp simplifies a pattern (gpt-4o, tekken, kimi-k2 and youtu tell capitals from small
 * letters by ASCII or not at all), the model's own pattern is followed.
 * Cost:    linear in the text: no scanner backtracks over more than it then consumes.
 * Threads: pure; a cut belongs to one thread. */
#ifndef SP_TEXT_PRETOK_H
#define SP_TEXT_PRETOK_H

#include <stdbool.h>
#include <stddef.h>

enum { SP_PRETOK_PASSES = 6 };

typedef enum sp_pretok_flag {
    SP_PRETOK_WHOLE = 1,    /* a word that is a token is taken without merging (ignore_merges) */
    SP_PRETOK_ADDS_BOS = 2, /* prompts begin with the begin-of-text token unless the file says no */
    SP_PRETOK_NO_BOS = 4,   /* the file's begin-of-text token is not one */
    SP_PRETOK_ADDS_SEP = 8, /* encoders end a text with the separator */
    SP_PRETOK_RAW = 16,     /* pieces are UTF-8 with U+2581 for spaces, not GPT-2's byte alphabet */
    SP_PRETOK_LINES = 32    /* a run of newlines that is a token is taken without merging */
} sp_pretok_flag;

/* One scanner: the end of the match that begins at `at`, or `at` when there is none.
 *   s, end  the piece ends at s[end]
 *   opt     the scanner's options
 *   memo    an offset that the scanner keeps from call to call within one pass; 0 at first */
typedef size_t sp_pretok_match(const char *s, size_t at, size_t end, const void *opt, size_t *memo);

typedef struct sp_pretok_pass {
    sp_pretok_match *match; /* NULL after the last pass */
    const void *opt;
} sp_pretok_pass;

typedef struct sp_pretok {
    const char *name;
    unsigned flags; /* of sp_pretok_flag */
    const sp_pretok_pass *pass; /* up to SP_PRETOK_PASSES, then one with match NULL */
} sp_pretok;

/* A text being cut. */
typedef struct sp_pretok_cut {
    const sp_pretok *kind;
    const char *s;
    size_t at, end[SP_PRETOK_PASSES + 1], memo[SP_PRETOK_PASSES];
    struct { size_t at, end; } found[SP_PRETOK_PASSES]; /* a match behind the last unmatched part */
} sp_pretok_cut;

/* The row of a tokenizer.ggml.pre value; NULL when it is unknown. */
const sp_pretok *sp_pretok_find(const char *name, size_t n);
const sp_pretok *sp_pretok_at(size_t i); /* NULL past the last row */

void sp_pretok_start(sp_pretok_cut *c, const sp_pretok *kind, const char *s, size_t n);
/* Bytes of the next word, which begins at s + at as `at` was before the call; 0 at the end. */
size_t sp_pretok_next(sp_pretok_cut *c);

#endif
