/* Fair shares among tenants, and how much waits, over all engines that share it: a virtual counter
 * of service for each tenant, and the one with the least comes first.
 *
 * Within a tenant the same holds for its flows: users, say, whom a gateway in front tells apart. A
 * tenant gains nothing by many flows.
 *
 * A tenant that was away is lifted to the least of those that are here, so nobody saves up. While
 * two tenants both have work waiting, what they were given differs by at most 2 max(weight of a
 * prompt, weight of one step's sequences).
 *
 * Owner:   accounts of tenants live as long as the sp_fair, one for each tenant ever seen; of
 * flows, as long as they have jobs, and
 *          some longer. Engines own
 *          their parts, and must quit before they end.
 * Threads: any.
 * Source:  Sheng et al. 2024 (Fairness in Serving Large Language Models), algorithm 2. */
#ifndef SP_SCHED_FAIR_H
#define SP_SCHED_FAIR_H

#include "base/err.h"
#include "base/lock.h"

#include <stdbool.h>
#include <stddef.h>

/* What service weighs: a token of a prompt; a token of an answer, which costs about as much as four
 * of a prompt where 4 to 16 sequences decode together (docs/BENCHMARKS.md). */
enum { SP_FAIR_PROMPT = 1, SP_FAIR_ANSWER = 4, SP_FAIR_FLOWS = 256 };

/* guard: the lock of the sp_fair, as the next */
typedef struct sp_accounts {
    struct sp_account *first;
    double last; /* counter of whoever left last */
    size_t n;
} sp_accounts;

typedef struct sp_account {
    struct sp_account *next;
    char *name;    /* of a tenant, or of a flow */
    double served; /* the virtual counter */
    size_t n_job;  /* waiting and running; 0: away */
    sp_accounts flows; /* of a tenant: who asks in its name; at most SP_FAIR_FLOWS that are away */
    struct sp_account *tenant; /* of a flow */
} sp_account;

/* What waits in one engine, guard: the lock of the sp_fair; or a sum, or a limit of such. */
typedef struct sp_fair_part {
    struct sp_fair_part *next;
    size_t n_waiting; /* jobs */
    double backlog;   /* seconds of work that waits and runs, as predicted */
} sp_fair_part;

typedef struct sp_fair {
    sp_lock lock; /* rank FAIR */
    sp_accounts tenants;
    sp_fair_part *parts;
} sp_fair;

/* Without tenants and engines. */
void sp_fair_init(sp_fair *f);
/* Frees the accounts; every engine has quit. */
void sp_fair_fini(sp_fair *f);
/* A job of this tenant's flow has come: *out is the flow's account, and ->tenant the tenant's.
 * SP_NOMEM. */
SP_MUST sp_err sp_fair_enter(sp_fair *f, sp_account **out, const char *tenant, const char *flow);
/* A job of this flow has ended. */
void sp_fair_leave(sp_fair *f, sp_account *flow);
/* A step gave tokens of this weight to the flow, and so to its tenant. */
void sp_fair_serve(sp_fair *f, sp_account *flow, double weight);

/* The engine that owns p counts from now on. */
void sp_fair_join(sp_fair *f, sp_fair_part *p);
/* It counts no more; p may be freed. */
void sp_fair_quit(sp_fair *f, sp_fair_part *p);
/* What waits in it now: jobs, and seconds of work. */
void sp_fair_tell(sp_fair *f, sp_fair_part *p, size_t n_waiting, double backlog);
/* More work comes into the engine that owns p, where `here` waits by now. false: over all engines
 * `most` waits already (backlog 0: no matter how much), and nothing changes. Of two engines that
 * ask at one instant, the later one sees what the earlier one took. all: what waits without it. */
bool sp_fair_claim(sp_fair *f, sp_fair_part *p, const sp_fair_part *here, const sp_fair_part *more,
                   const sp_fair_part *most, sp_fair_part *all);
/* Sums of all engines but this one. */
sp_fair_part sp_fair_others(sp_fair *f, const sp_fair_part *p);

#endif
