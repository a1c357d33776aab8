/* Guesses at the tokens that come next, from what was said before: behind the longest earlier occurrence of the newest tokens, in
 * the prompt or in the answer (prompt lookup). A step computes the guessed tokens beside the newest one and keeps those that
 * the model, asked at each, chooses as well: the answer is the same, and takes fewer steps where it repeats something.
 *
 * How likely a guess is right is judged from how many tokens agree before it, and from how often guesses were right of late.
 * Threads: owner. Pure. */
#ifndef SP_GEN_DRAFT_H
#define SP_GEN_DRAFT_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>

enum { SP_DRAFT_MAX = 15 };

typedef struct sp_draft {
    uint32_t tok[SP_DRAFT_MAX]; /* [n] what may follow */
    size_t n, match;            /* match: tokens that agree before it */
    bool predicted;             /* the guess is from a text that was said to be likely */
    size_t place;               /* where in that text the last such guess began */
    uint32_t window;            /* a bit for each token so far, the newest first: it was guessed */
} sp_draft;

/* Guesses what follows tok [n]. */
void sp_draft_guess(sp_draft *d, const uint32_t *tok, size_t n);
/* Guesses what follows tok [n], the answer so far, in text [n_text], which the answer is said to be like; only if they agree before it in more
 * tokens than the guess that is there, where trust counts as so many. Of equal places the one behind the last guess counts. */
void sp_draft_predict(sp_draft *d, const uint32_t *tok, size_t n, const uint32_t *text, size_t n_text, size_t trust);
/* Probability that guess i is right if those before it are. */
double sp_draft_sure(const sp_draft *d, size_t i);
/* The next token is known: takes it off the guess, which ends where it was wrong. */
void sp_draft_note(sp_draft *d, uint32_t tok);

#endif
