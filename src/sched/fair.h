/* Fair shares among tenants: a virtual counter of service for each, and the one with the least comes first.
 *
 * A tenant that was away is lifted to the least of those that are here, so nobody saves up. While two tenants both have work
 * waiting, what they were given differs by at most 2 max(weight of a prompt, weight of one step's sequences).
 *
 * Owner:   accounts live as long as the sp_fair; there is one for each tenant ever seen.
 * Threads: none of its own: the caller's lock guards it.
 * Source:  Sheng et al. 2024 (Fairness in Serving Large Language Models), algorithm 2. */
#ifndef SP_SCHED_FAIR_H
#define SP_SCHED_FAIR_H

#include "base/err.h"

#include <stddef.h>

/* What service weighs: a token of a prompt; a token of an answer, which costs about as much as four of a prompt where 4 to 16
 * sequences decode together (docs/BENCHMARKS.md). */
enum { SP_FAIR_PROMPT = 1, SP_FAIR_ANSWER = 4 };

typedef struct sp_account {
    struct sp_account *next;
    char *tenant;
    double served; /* the virtual counter */
    size_t n_job;  /* waiting and running; 0: away */
} sp_account;

typedef struct sp_fair {
    sp_account *first;
    double last; /* counter of whoever left last */
} sp_fair;

void sp_fair_fini(sp_fair *f);
/* A job of this tenant has come. SP_NOMEM. */
SP_MUST sp_err sp_fair_enter(sp_fair *f, sp_account **out, const char *tenant);
void sp_fair_leave(sp_fair *f, sp_account *a);

#endif
