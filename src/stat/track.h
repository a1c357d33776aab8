/* Track-and-stop: which share of the conversations each of several variants gets next, and when
 * one of them is proven to be the best.
 *
 * Time is cut into epochs. In one, shares stay as they are, and a part `even` of all is shared out
 * equally. The shares of the next epoch are those with which the best variant is proven soonest if
 * the estimated means are the true ones.
 *
 * The proof of "b is better than a" is the smaller one of two wagers (stat/evidence.h):
 *   arms     the least, over all m, of the wealth on "b is above m" times that on "a is below m".
 *            Where b is not better, one m refutes neither. It is fair while both means stay as
 *            they are, however often each variant is rated.
 *   weighed  on the difference of b and a, each sample over the share that its variant had, less
 *            the mean that was known when its epoch began. It is fair while both are rated equally
 *            often, whatever all means do together from one epoch to the next.
 * The smaller one is fair if either of these holds. With n variants, log(n / alpha) is the limit of
 * each of the n - 1 proofs, so a variant that is not the best is named with chance alpha at most,
 * however often one looks.
 *
 * Source:  Garivier & Kaufmann 2016 (Optimal best arm identification with fixed confidence), §2.2;
 *          Waudby-Smith et al. 2022 (Anytime-valid off-policy inference for contextual bandits).
 * Owner:   the caller's storage, some 17 KB a variant. Threads: no state of their own. */
#ifndef SP_STAT_TRACK_H
#define SP_STAT_TRACK_H

#include "stat/evidence.h"

enum { SP_TRACK_ARMS = 8, SP_TRACK_MEANS = 63 /* from 0 to 1, at which arms are compared */ };

/* What stays the same in an epoch. */
typedef struct sp_epoch {
    double share[SP_TRACK_ARMS]; /* > 0, sum 1 */
    double centre;               /* mean of all samples before it; 0.5 in the first one */
} sp_epoch;

typedef struct sp_track_arm {
    sp_wager above[SP_TRACK_MEANS], below[SP_TRACK_MEANS];
    size_t n;
    double sum;     /* of samples */
    double weighed; /* of (sample - centre) / share */
} sp_track_arm;

typedef struct sp_track {
    sp_track_arm arm[SP_TRACK_ARMS]; /* [n_arm] */
    sp_wager pair[SP_TRACK_ARMS][SP_TRACK_ARMS]; /* [b][a]: b is better than a */
    size_t n_arm, n;
    double centres; /* sum of the centres of all samples */
} sp_track;

/* n_arm: 2 to SP_TRACK_ARMS. */
void sp_track_init(sp_track *t, size_t n_arm);
/* x, which is cut to [0, 1], of a variant that got its conversation by the shares of e. */
void sp_track_add(sp_track *t, const sp_epoch *e, size_t arm, double x);
/* An estimate without bias of the mean of a variant over all epochs: each sample counts by the
 * inverse of its variant's share. NAN before the first sample. */
double sp_track_mean(const sp_track *t, size_t arm);
/* The variant with the highest estimate. */
size_t sp_track_best(const sp_track *t);
/* The logarithm of the least proof that `best` has against another variant; proven from log(n_arm /
 * alpha) on. */
double sp_track_log(const sp_track *t, size_t best);
/* The next epoch. even: (0, 1], the part of all conversations that is shared out equally. */
void sp_track_next(sp_epoch *out, const sp_track *t, double even);

#endif
