/* The drafters of one answer, and which of them a step listens to.
 *
 * Each drafter keeps a guess from the newest token on as long as it is right. A step takes the
 * guess of one drafter: that whose guesses promise most tokens for the step's time, where p(accept)
 * says how many will be right, c(M) what they cost, and the drafter's worth in the window tips the
 * scale (window.h). A drafter that has to compute first is run only where nothing else promises
 * more.
 *
 * What such a drafter would have guessed is known only where it was run, so that its window stands
 * still while it is not. It is therefore asked for one guess now and then, whatever it
 * promises: runs for that take a hundredth of all steps' time, as far as it is known.
 *
 * Owner:   sp_guesser owns its drafters; zeroed it has none. Sources are borrowed.
 * Threads: owner: step thread. */
#ifndef SP_GEN_GUESSER_H
#define SP_GEN_GUESSER_H

#include "gen/window.h"

/* What an engine has to guess with. */
typedef struct sp_drafts {
    sp_draft_source *source[SP_DRAFTERS]; /* [n] */
    size_t n;
    sp_accept accept;
    double spare[SP_DRAFTERS]; /* steps' time that a drafter which computes may take to be known */
} sp_drafts;

typedef struct sp_guesser {
    sp_drafts *all;
    sp_draft_source
        *source[SP_DRAFTERS]; /* by kind, as the next two; NULL: this answer has no such drafter */
    sp_drafter *drafter[SP_DRAFTERS];
    sp_draft draft[SP_DRAFTERS]; /* what follows the newest token; n 0: no guess is known */
    sp_window window;
    sp_draft_id chosen; /* whose guess the step takes */
    sp_draft_id runner; /* which drafter that computes is to be run; SP_DRAFTERS: none */
    bool was_right;     /* it had guessed the newest token */
    bool is_started;
    double more; /* what a guess cost of late, in tokens of this answer */
} sp_guesser;

/* What a step offers. */
typedef struct sp_guess_ask {
    size_t cap;         /* guesses that fit, at most SP_DRAFT_MAX */
    const double *more; /* [cap] what 1, 2, .. guesses cost, as a share of the step without them */
    const double *run;  /* [SP_DRAFTERS] what each drafter that computes costs for each guess, as
                           such a share */
    size_t n_seq;       /* answers in the step: one alone gains more by a guess */
    bool fixed;         /* take as many as there are, of whoever promises most, at any cost */
} sp_guess_ask;

/* Starts those of all's drafters whose bit (1 << sp_draft_id) is in which. SP_NOMEM: m has those
 * that could be started. */
SP_MUST sp_err sp_guesser_start(sp_guesser *m, sp_drafts *all, unsigned which,
                                const sp_draft_answer *a);
/* Ends them; whole: the answer, if it came to its own end, or NULL. */
void sp_guesser_end(sp_guesser *m, const sp_draft_text *whole);

/* Asks the drafters that compute nothing. Returns how many tokens `runner`, the one of those that
 * compute which promises most, should guess now; 0: none is worth its time. */
size_t sp_guesser_look(sp_guesser *m, const sp_draft_text *t, const sp_guess_ask *a);
/* Its place in a batch of such drafters; only where sp_guesser_look said so. */
sp_draft_run sp_guesser_run(sp_guesser *m, const sp_draft_text *t, size_t n);
/* Chooses. Returns how many guesses there are, at most cap, and their probabilities: p [cap]: that
 * the first, the first two, .. are right. The guesses are in draft[chosen]. */
size_t sp_guesser_choose(sp_guesser *m, const sp_draft_text *t, const sp_guess_ask *a, double *p);
/* The last token of t is new. */
void sp_guesser_note(sp_guesser *m, const sp_draft_text *t);

#endif
