/* Evidence that may be looked at after every sample: what is known of a mean, at any time, with an
 * error of at most alpha over all looks together.
 *
 * A wager on "the mean is above m" multiplies its wealth by 1 + c (x - m) / m at each sample x of
 * [0, 1]. If the mean is m or less, wealth does not grow in expectation, and by Ville's inequality
 * the chance that it ever reaches 1 / alpha is at most alpha. Wealth is a mixture over fixed
 * c, so that it does not depend on the order of the samples. A wager on "below m" is the same wager
 * on 1 - x and 1 - m. It is exact at every count, for booleans as for any value of [0, 1].
 *
 * Source:  Waudby-Smith & Ramdas 2024 (Estimating means of bounded random variables by betting);
 *          Waudby-Smith et al. 2024 (Time-uniform central limit theory and asymptotic confidence
 *          sequences), theorem 2.2; Wang & Ramdas 2022 (False discovery rate control with
 *          e-values); Lindon & Malek 2022 (Anytime-valid inference for multinomial count data).
 * Threads: no state of their own. */
#ifndef SP_STAT_EVIDENCE_H
#define SP_STAT_EVIDENCE_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

enum {
    SP_EVIDENCE_BETS = 14,
    SP_EVIDENCE_ASYMPTOTIC = 100 /* samples that a bound by variance needs */
};

/* Bets against one mean in one direction. */
typedef struct sp_wager {
    double mean;                     /* (0, 1) */
    double wealth[SP_EVIDENCE_BETS]; /* of each bet; one that is ruined beyond 1e-308 has 0 */
    bool below;                      /* it bets on a mean below `mean`, not above */
    size_t n;
} sp_wager;

typedef struct sp_interval {
    double low, high;
} sp_interval;

/* Begins with wealth 1. mean is cut to [1e-9, 1 - 1e-9]. */
void sp_wager_init(sp_wager *w, double mean, bool below);
/* Bets on x, which is cut to [0, 1]. */
void sp_wager_add(sp_wager *w, double x);
/* The logarithm of its wealth: the null hypothesis is refused at alpha once it reaches
 * -log(alpha). */
double sp_wager_log(const sp_wager *w);

/* A confidence sequence for the mean of x [n], each in [0, 1], which holds at all n at once with
 * chance 1 - alpha. n 0: [0, 1]. Costs some fifty passes over x. */
sp_interval sp_interval_of(const double *x, size_t n, double alpha);

/* The same for values without bounds, from their count, mean and variance. It holds for large n
 * only: below SP_EVIDENCE_ASYMPTOTIC the interval is everything. The interval is narrowest near
 * n_best samples. */
sp_interval sp_interval_by_variance(size_t n, double mean, double variance, double alpha,
                                    size_t n_best);

/* The logarithm of an e-value against "x [n] and y [m] have the same mean", values in [0, 1] of two
 * independent streams: the two wealths of "x above and y below a common mean", at the mean where
 * their product is least, and of the other direction, half each. 0 where either is empty. Costs
 * some 140 passes over both. */
double sp_differ_log(const double *x, size_t n, const double *y, size_t m);
/* The same for values without bounds, by counts, means and variances: for large counts only, 0
 * below SP_EVIDENCE_ASYMPTOTIC of either. */
typedef struct sp_moments {
    size_t n;
    double mean, variance;
} sp_moments;
double sp_differ_by_variance_log(const sp_moments *x, const sp_moments *y, double alpha,
                                 size_t n_best);

/* Which of n hypotheses are refused with a false discovery rate of at most alpha, whatever their
 * dependence: e-BH over the logarithms of their e-values. SP_NOMEM. */
SP_MUST sp_err sp_refused(bool *out, const double *log_e, size_t n, double alpha);

/* The logarithm of an e-value against "arms are drawn with these shares": n counts, shares that sum
 * to 1. An experiment whose assignment is broken shows here (sample ratio mismatch). */
double sp_mismatch_log(const size_t *count, const double *share, size_t n);

/* Takes out of y [n] what a covariate x [n], known before, explains of it (CUPED): y - theta (x -
 * mean x). The mean of y stays. Nothing is changed where x does not vary. */
void sp_adjust(double *y, const double *x, size_t n);

#endif
