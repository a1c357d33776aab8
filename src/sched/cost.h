/* c(M, depth): what a step over M tokens takes on this machine. Measured at start, and kept true by
 * every step since.
 *
 * c(M, depth) = c(M) + a * seen. c(M) is kept at powers of two; between them it is linear, beyond
 * the last in proportion to it. `seen` is what attention reads: see sp_cost_seen. a is the slope of
 * late steps' times over what they saw, the newest weighing most. Threads: owner: step thread;
 * others may read a copy under the engine's lock. */
#ifndef SP_SCHED_COST_H
#define SP_SCHED_COST_H

#include <stdbool.h>
#include <stddef.h>

enum { SP_COST_POINTS = 13 }; /* 1 .. 4096 tokens */

typedef struct sp_cost {
    double sec[SP_COST_POINTS]; /* of 2^i tokens that see nothing; 0: not known yet */
    double per_seen;            /* seconds; 0 until steps of several depths were noted */
    double mean_seen, mean_sec, both, square; /* moving means of late steps: seen; seconds beyond
                                                 c(M); how they vary together; how seen varies */
} sp_cost;

/* What attention reads for n tokens whose last stands at position pos: positions, read once for
 * each half page of tokens. */
double sp_cost_seen(size_t pos, size_t n);
/* A step of n tokens that saw so much took so long. */
void sp_cost_note(sp_cost *c, size_t n_tok, double seen, double seconds);
/* c(M); 0 while nothing is known. */
double sp_cost_of(const sp_cost *c, size_t n_tok);
/* Tokens [from, to) of a prompt alone, in steps of n_chunk; 0 while c(M) is not known. */
double sp_cost_prompt(const sp_cost *c, size_t n_chunk, size_t from, size_t to);
/* c(M, depth); 0 while c(M) is not known. */
double sp_cost_at(const sp_cost *c, size_t n_tok, double seen);
/* A drafter's run took so many seconds for each guess. *cost: what is held of it, 0: not known. One
 * that was faster than that is believed sooner: what made a run slow was something else. */
void sp_cost_note_run(double *cost, double seconds);
/* The most tokens, 0..cap, that fit into a step of so many seconds beside n_before others; cap
 * while nothing is known. */
size_t sp_cost_fit(const sp_cost *c, size_t n_before, double seconds, size_t cap);

#endif
