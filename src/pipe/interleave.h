/* Two ranks of passages as one list, so that what is used of it tells which rank is better: team
 * draft. In each round both ranks pick their best passage that is not yet in the list, and a coin
 * says who picks first. A passage that both would pick is the team's that did, so that ranks of the
 * same quality get the same credit in expectation, whatever they have in common.
 *
 * Source:  Radlinski, Kurup & Joachims 2008 (How does clickthrough data reflect retrieval
 *          quality?).
 * Threads: pure. */
#ifndef SP_PIPE_INTERLEAVE_H
#define SP_PIPE_INTERLEAVE_H

#include "rag/store.h"

/* a, b: best first, each without repeats. out [cap]: team 1 picked it from a, 2 from b. Returns how
 * many; all that there are, if they fit. */
size_t sp_interleave(sp_rag_hit *out, size_t cap, const sp_rag_hit *a, size_t n_a,
                     const sp_rag_hit *b, size_t n_b, uint64_t seed);

#endif
