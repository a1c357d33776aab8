/* c(M): what a step over M tokens takes on this machine. Measured at start, and kept true by every step since.
 *
 * Kept at powers of two; between them it is linear, beyond the last in proportion to it.
 * Threads: owner: step thread; others may read a copy under the engine's lock. */
#ifndef SP_SCHED_COST_H
#define SP_SCHED_COST_H

#include <stdbool.h>
#include <stddef.h>

enum { SP_COST_POINTS = 13 }; /* 1 .. 4096 tokens */

typedef struct sp_cost {
    double sec[SP_COST_POINTS]; /* of 2^i tokens; 0: not known yet */
} sp_cost;

/* A step of n tokens took so long. */
void sp_cost_note(sp_cost *c, size_t n_tok, double seconds);
/* 0 while nothing is known. */
double sp_cost_of(const sp_cost *c, size_t n_tok);
/* The most tokens, 0..cap, that fit into a step of so many seconds beside n_before others; cap while nothing is known. */
size_t sp_cost_fit(const sp_cost *c, size_t n_before, double seconds, size_t cap);

#endif
