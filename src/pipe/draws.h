/* Which conversation has which variant, where the shares of the variants follow the evidence
 * (stat/track.h): one that was drawn keeps its variant when the shares change.
 *
 * A conversation is known by the first eight bytes of its hash. A new one gets its variant by the
 * shares of the epoch that is now, which all servers of one database share; so two servers that see
 * it at once draw alike. Behind SP_DRAWS conversations nothing more is remembered, and the epoch
 * must not change any more.
 *
 * Owner:   sp_draws owns all. Threads: any. Errors: SP_NOMEM. */
#ifndef SP_PIPE_DRAWS_H
#define SP_PIPE_DRAWS_H

#include "stat/track.h"

#include <stdint.h>

enum { SP_DRAWS = 100000, SP_EPOCHS = 512 };

typedef struct sp_draws sp_draws;

typedef struct sp_draw {
    unsigned epoch, variant;
    double share; /* that the variant had in its epoch; 0: it is not known here */
} sp_draw;

/* Equal shares of n variants, epoch 0. n: 2 to SP_TRACK_ARMS. */
SP_MUST sp_err sp_draws_new(sp_draws **out, size_t n);
/* NULL is fine. */
void sp_draws_free(sp_draws *d);
/* The draw of a conversation; u is its own number of [0, 1), by which it is drawn if it is new. */
sp_draw sp_draws_take(sp_draws *d, uint64_t key, double u);
/* A conversation that was drawn before, by any server. */
void sp_draws_put(sp_draws *d, uint64_t key, unsigned epoch, unsigned variant);
/* Shares of an epoch. New conversations are drawn by those of the latest one. */
void sp_draws_set(sp_draws *d, unsigned epoch, const sp_epoch *e);
bool sp_draws_is_full(sp_draws *d);

#endif
