/* May a setting that was tried take the place of the one in force? Both answered the same prompts.
 *
 * A try wins in one of two ways: its answers are better; or they are not worse by more than a
 * margin, and they cost less. Each is a wager of stat/evidence.h, so the answer may be looked at
 * after every prompt, and the chance that a try without any effect ever wins is at most alpha.
 * Guards stand above both: a try that loses one of them never wins, whatever else it gains.
 *
 *   better    a wager on the difference of quality
 *   cheaper   the smaller wealth of two wagers: the quality is not below the margin, and the share
 *             of the cost of a pair that the one in force has is above a half by the least gain.
 *             The smaller one is a fair wager wherever either of the two statements is false.
 *   both      four fifths of the first wealth lie on better, a fifth on cheaper
 *
 * Guards: more answers failed; the mean quality is below the floor; the time is above what is
 * allowed; the quality of one class of prompts is proven worse.
 *
 * Threads: no state. */
#ifndef SP_STAT_DECIDE_H
#define SP_STAT_DECIDE_H

#include "stat/evidence.h"

enum { SP_DECIDE_CLASSES = 16 };

/* One prompt: [0] is what is in force, [1] what is tried. */
typedef struct sp_pair {
    double quality[2]; /* [0, 1] */
    /* quality is a judge's verdict: 1 of the better answer and 0 of the other, or 0.5 of both. It
     * is evidence of their difference, and says nothing of how good either is */
    bool judged;
    double cost[2];    /* >= 0, in any unit */
    double ms[2];
    bool failed[2]; /* there was no answer; its quality is 0 */
    unsigned cls;   /* of the prompt, < SP_DECIDE_CLASSES */
} sp_pair;

typedef struct sp_decide_cfg {
    double alpha;
    double margin; /* of quality that a cheaper try may lose */
    double gain;   /* share of the cost that it must save at least */
    /* mean quality below which nothing wins; above 0: nothing wins without pairs that were not
     * judged */
    double floor;
    double slower; /* time of the try over that in force, at most */
} sp_decide_cfg;

typedef enum sp_guard {
    SP_GUARD_NONE,
    SP_GUARD_FAILED,
    SP_GUARD_FLOOR,
    SP_GUARD_SLOWER,
    SP_GUARD_CLASS,
    SP_GUARDS
} sp_guard;

typedef struct sp_decision {
    size_t n;
    bool wins;       /* proven, and no guard is lost */
    bool proven;     /* better, or cheaper and not worse */
    bool by_cost;    /* cheaper is the larger of the two */
    bool worse;      /* the quality is proven worse */
    sp_guard lost;   /* the first guard that is lost */
    double log_best; /* logarithm of the wealth at its highest; proven from -log(alpha) on */
    double log_now;  /* at the last pair */
    double quality[2];                 /* means of the pairs that were not judged */
    double cost[2], ms[2];             /* means */
    size_t n_failed[2], won, lost_n;   /* pairs whose quality differs */
    size_t n_judged, judged_won, judged_lost; /* of them, by a judge's verdict */
    double mean_difference;            /* of quality and of verdicts, over all pairs */
    sp_interval difference;            /* of it, at alpha */
    sp_interval share; /* of a pair's cost, the part that the one in force has; 0.5: both cost as
                          much */
} sp_decision;

/* p [n]. alpha in (0, 1). */
void sp_decide(sp_decision *out, const sp_decide_cfg *cfg, const sp_pair *p, size_t n);
/* none, failed, floor, slower, class; static */
const char *sp_guard_name(sp_guard g);

#endif
