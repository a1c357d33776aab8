/* A round of improvement: from what failed to what is tried, and from what was tried to what takes
 * the place of the settings in force.
 *
 * Each try changes one setting by one step. All tries answer prompts of the earlier days; the one
 * with the most evidence answers those of the days that were held out, and only that is decided
 * upon (stat/decide.h). So a round makes one decision, with an error of at most alpha.
 *
 * Owner:   borrows everything.
 * Threads: one. Cost: up to tries * cap_search + 2 * cap_held + cap_search answers. */
#ifndef SP_PIPE_IMPROVE_H
#define SP_PIPE_IMPROVE_H

#include "pipe/knob.h"
#include "stat/decide.h"

enum { SP_IMPROVE_TRIES = 24 };

/* What answers of a time failed in, of their own records. */
typedef struct sp_failures {
    size_t n;         /* answers */
    size_t failed;    /* that ended in an error */
    size_t bad;       /* that people did not like */
    size_t unsure;    /* that became unsure */
    size_t escalated; /* light ones that were given up */
    size_t not_found; /* that took the full path, looked for passages, and had none */
    size_t truncated; /* that a limit of tokens ended */
    size_t by_class[SP_CLASSES];
} sp_failures;

/* What a server has that settings are about. */
typedef struct sp_improve_has {
    bool judge; /* a model of intent */
    bool passages;
    bool escalates; /* there is a better path than the light one */
    /* numbers of what was trained for this round: a model of intent, a policy, a draft head; 0:
     * none was */
    unsigned intent, policy, head;
} sp_improve_has;

typedef struct sp_proposal {
    sp_knob knob; /* SP_KNOBS: back to the options that the server is started with */
    double from, to;
    const char *why; /* static */
    sp_knobs knobs;  /* those in force, and this one */
} sp_proposal;

typedef struct sp_outcome {
    double quality, cost, ms; /* of one answer, as in sp_pair */
    bool failed;
    unsigned cls;
    sp_buf text; /* of an answer that a judge compares, whose quality is 0; else empty. Owned */
    bool judged; /* it is compared by a judge */
} sp_outcome;

/* Answers prompt `at`. An answer that fails is an outcome; an error ends the round. */
typedef sp_err (*sp_improve_fn)(void *arg, sp_outcome *out, size_t at, const sp_knobs *k,
                                sp_diag *d);
/* Which of two answers to prompt `at` is better: 1: try; -1: now; 0: neither. Both are judged, and
 * neither failed. An error ends the round. */
typedef sp_err (*sp_improve_judge_fn)(void *arg, int *out, size_t at, const sp_outcome *now,
                                      const sp_outcome *try, sp_diag *d);

typedef struct sp_improve_cfg {
    sp_decide_cfg decide;
    size_t tries;                /* at most SP_IMPROVE_TRIES */
    size_t cap_search, cap_held; /* prompts of each part, at most */
    size_t round;                /* how many there were before: other things are tried each time */
    sp_improve_has has;
    sp_improve_fn answer;
    sp_improve_judge_fn judge; /* NULL: no outcome is judged */
    void *arg;
} sp_improve_cfg;

typedef struct sp_tried {
    sp_proposal what;
    sp_decision search;
} sp_tried;

typedef struct sp_round {
    sp_tried tried[SP_IMPROVE_TRIES]; /* [n_tried] */
    size_t n_tried, best; /* best: n_tried where none was worth the days that were held out */
    sp_decision held;     /* of the best; wins: it is promoted */
    size_t n_search, n_held;
} sp_round;

/* At most cap proposals: first the options, where what is in force differs from them; then what may
 * mend what failed most; then what may cost less, each time beginning with another. Returns how
 * many. */
size_t sp_propose(sp_proposal *out, size_t cap, const sp_knobs *now, const sp_knobs *options,
                  const sp_failures *f, const sp_improve_has *has, size_t round);

/* Prompts [n] in order of their days; those from n_early on were held out. SP_INVAL: one of both
 * parts is empty. Errors of the answers. */
SP_MUST sp_err sp_improve(sp_round *out, const sp_improve_cfg *cfg, const sp_knobs *now,
                          const sp_knobs *options, const sp_failures *f, size_t n_early, size_t n,
                          sp_diag *d);

#endif
