/* The machine's cores, shared by several engines. Each engine has threads of its own for all cores,
 * so only one of them computes at a time: it enters before a step, passes on before each further
 * one, and leaves when it has nothing to do.
 *
 * Of two engines with work of different tenants, the one with the tenant that was served least is
 * next (fair.h, which counts over all engines). Otherwise it is who has used the least time. An
 * engine without work takes nothing, and has saved nothing up when it comes back. So an engine that
 * is alone has all cores, two of one tenant have half of the time each, however long the steps of
 * either are, and a tenant gains nothing by asking several models.
 *
 * Owner:   the caller owns seats; a seat is in use by one thread at a time, and is not waiting when
 *          it ends.
 * Threads: any.      Cost: two locks a step. Errors: SP_NOMEM. */
#ifndef SP_SCHED_CORES_H
#define SP_SCHED_CORES_H

#include "sched/fair.h"

#include <stdint.h>

enum { SP_SEAT_TENANTS = 32 };

typedef struct sp_cores sp_cores;

/* An engine's place. All zero at first. guard: the lock of the cores */
typedef struct sp_seat {
    double used_s;        /* time inside, as the rule counts it */
    uint64_t since_ns;    /* when it came in, or passed */
    /* [n_tenant] of its jobs, when it last asked; of more, those that were served least */
    const sp_account *tenant[SP_SEAT_TENANTS];
    size_t n_tenant;
    struct sp_seat *next; /* among those that wait */
} sp_seat;

SP_MUST sp_err sp_cores_new(sp_cores **out);
/* One of the engine's tenants; while the seat does not wait. */
void sp_seat_add(sp_seat *s, sp_cores *c, const sp_account *a);
void sp_cores_free(sp_cores *c); /* NULL is fine */
sp_fair *sp_cores_fair(sp_cores *c); /* of the engines that share them */
/* Waits for its turn. NULL cores: there is nothing to share, as in the next two. */
void sp_cores_enter(sp_cores *c, sp_seat *s);
/* Between two steps: waits for its turn again if somebody waits who has used less. */
void sp_cores_pass(sp_cores *c, sp_seat *s);
void sp_cores_leave(sp_cores *c, sp_seat *s);

#endif
