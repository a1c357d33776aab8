/* The rolling window over an answer's newest tokens, and what it says of guesses: how likely a
 * guess is right, and which drafter's guesses have been worth their time.
 *
 * p(accept) is a logistic function of what is known before the step: how many tokens agree before
 * the guess, how often the drafter was right of late, how uncertain the model was of late, and the
 * drafter's own probability. Its weights were fitted offline and follow each guess (one step of
 * gradient descent, held near the offline weights), for all answers of an engine together.
 *
 * Worth is Hedge with full information: at each token, each drafter that would have guessed gains
 * what a right guess saves, or loses what a wrong one costs, whether it was chosen or not. Not
 * guessing gains nothing. A share of each weight returns to the start at each token, so that a
 * drafter comes back that was bad before.
 *
 * Threads: owner: step thread. Pure.
 * Source:  Freund & Schapire 1997 (Hedge); Herbster & Warmuth 1998 (tracking the best expert). */
#ifndef SP_GEN_WINDOW_H
#define SP_GEN_WINDOW_H

#include "gen/draft.h"

enum { SP_WINDOW = 12 /* tokens */, SP_ACCEPT_WEIGHTS = 6 };

/* The model's distribution over one token. */
typedef struct sp_window_look {
    float logprob; /* of the likeliest token */
    float entropy; /* nats */
    float margin;  /* between the likeliest two logits */
} sp_window_look;

typedef struct sp_window {
    uint32_t right[SP_DRAFTERS]; /* a bit for each token so far, the newest first: this drafter had
                                    guessed it */
    size_t n_had[SP_DRAFTERS]; /* tokens it had a guess for */
    float entropy[SP_WINDOW];  /* nats, of the model's distribution at the latest looks, a ring */
    float margin[SP_WINDOW];   /* between the likeliest two logits */
    size_t n_seen;             /* looks so far */
    double worth[SP_DRAFTERS]; /* logarithms of Hedge's weights; not guessing has 0 */
} sp_window;

/* Weights of p(accept), of all answers of an engine. */
typedef struct sp_accept {
    double w[SP_DRAFTERS][SP_ACCEPT_WEIGHTS];
} sp_accept;

/* What p(accept) is computed from. */
typedef struct sp_accept_at {
    double x[SP_ACCEPT_WEIGHTS];
} sp_accept_at;

/* The offline weights. */
void sp_accept_init(sp_accept *a);
/* What is known of guess i of drafter id's draft d. */
sp_accept_at sp_window_at(const sp_window *w, sp_draft_id id, const sp_draft *d, size_t i);
/* Probability that it is right if those before it are; in (0, 1). */
double sp_accept_of(const sp_accept *a, sp_draft_id id, const sp_accept_at *at);
/* It was right, or not. */
void sp_accept_note(sp_accept *a, sp_draft_id id, const sp_accept_at *at, bool right);

/* One look at logits [n], which are read twice; zeros where none is finite. */
void sp_window_measure(sp_window_look *out, const float *logits, size_t n);
/* The model's distribution at the newest token. Reads logits [n] twice. */
void sp_window_see(sp_window *w, const float *logits, size_t n);
/* A token more. had: drafter id had a guess for it; p: how likely it was held; more: what a guess
 * costs, in tokens that could be had in its time. */
void sp_window_note(sp_window *w, sp_draft_id id, bool had, bool right, double p, double more);
/* Mean entropy and margin over the window; 0 where nothing was measured. */
double sp_window_entropy(const sp_window *w);
double sp_window_margin(const sp_window *w);

#endif
