/* xoshiro256** (Blackman & Vigna 2018) for sampling, and system entropy for seeds.
 * Threads: one generator, one thread. The stream depends on the seed alone. */
#ifndef SP_BASE_RNG_H
#define SP_BASE_RNG_H

#include <stddef.h>
#include <stdint.h>

typedef struct sp_rng {
    uint64_t s[4];
} sp_rng;

void sp_rng_init(sp_rng *r, uint64_t seed);
uint64_t sp_rng_next(sp_rng *r);
double sp_rng_unit(sp_rng *r); /* [0, 1), 53 bits */
uint64_t sp_rng_entropy(void); /* from the system */
void sp_rng_bytes(void *out, size_t n); /* from the system */

#endif
