/* The plan: from what intent judged, what the caller wants and what the server has, to a path and
 * its budgets.
 *
 *   light     no passages unless they are needed, a short budget, one answer
 *   full      passages, the whole budget, several answers of which the most common counts, if asked
 *             for
 *   upstream  the full path on another server, which must be configured and allowed for this
 *             request
 *
 * What the caller says stands above what intent judged; what the caller forbids never happens.
 * Threads: pure.
 * Errors:  SP_INVAL: what is asked for is forbidden, private, or not there. */
#ifndef SP_PIPE_PLAN_H
#define SP_PIPE_PLAN_H

#include "pipe/intent.h"

typedef enum sp_want { SP_WANT_AUTO, SP_WANT_LIGHT, SP_WANT_FULL, SP_WANT_UPSTREAM } sp_want;

typedef struct sp_plan_cfg { /* the server's */
    sp_want want;          /* of requests that say nothing */
    double full_from;      /* difficulty from which on the full path is taken */
    double need_from;      /* need from which on the light path looks for passages */
    /* mean log-probability of a light answer's first tokens below which it is given up. -0.8:
     * half of the default model's wrong short answers lie below it, and a fifth of the right
     * ones (train/intent/check.py; docs/SERVING.md) */
    double watch_least;
    size_t draft;          /* tokens guessed ahead in a step, at most */
    unsigned drafters;     /* who may guess, as in sp_plan */
    size_t light_tok;      /* budget of a light answer whose request sets none */
    bool has_upstream, has_passages;
    /* why the placement rules keep this request here, static; NULL: they do not, or there are
     * none */
    const char *stays;
    /* they let out its conversation, search and tools too, as far as it has them */
    bool placed;
    bool upstream_rests;   /* there is one that takes no request just now; has_upstream is false */
    bool thinks;           /* the model marks what it thinks */
    size_t think_tok;      /* the most it may think */
} sp_plan_cfg;

typedef struct sp_plan_ask { /* the request's */
    sp_want want;
    bool forbid[3];        /* by sp_path */
    bool is_private;       /* never leaves this server */
    /* nothing that needs the answer's tokens one by one: log-probabilities, patterns, several
     * answers */
    bool plain;
    bool bare;             /* as plain, but for a conversation, a search or tools */
    /* an answer of which any tokens in a row are unsure is given up once for a better one; only
     * where plain */
    bool uncertain;
    bool deep;             /* answers are looked at while they are written: light ones are not given
                              up */
    double unsure_below;   /* their mean log-probability; 0: the server's watch_least */
    bool conversation;     /* its messages are kept here */
    size_t max_tok, votes; /* 0: not said */
    int64_t think_tok, draft; /* < 0: not said */
    bool draft_fixed;      /* as in sp_plan */
    /* of the server's, those that may guess: bits as in sp_plan; 0: all of them */
    unsigned drafters;
    size_t cap_tok;        /* most tokens of an answer, whatever the path allows; 0: what the
                              context leaves */
} sp_plan_ask;

/* SP_FORMAT: no path has this name. */
SP_MUST sp_err sp_want_read(sp_want *out, const char *name);
/* intent NULL: nobody judged it. SP_AGAIN: only the other server may answer, and it rests. */
SP_MUST sp_err sp_plan_make(sp_plan *out, const sp_plan_cfg *cfg, const sp_plan_ask *ask,
                            const sp_intent *intent, sp_diag *d);
/* The plan of an answer that was not sure enough: upstream if it may, else the full path here.
 * false: there is nothing better. */
bool sp_plan_escalate(sp_plan *out, const sp_plan_cfg *cfg, const sp_plan_ask *ask,
                      const sp_plan *light);

#endif
