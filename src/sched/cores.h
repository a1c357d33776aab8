/* The machine's cores, shared by several engines. Each engine has threads of its own for all cores, so only one of them computes at a
 * time: it enters before a step, passes on before each further one, and leaves when it has nothing to do.
 *
 * Who has used the least time is next. An engine without work takes nothing, and has saved nothing up when it comes back. So an engine
 * that is alone has all cores, and two that both have work have half of the time each, however long the steps of either are.
 *
 * Owner:   the caller owns seats; a seat is in use by one thread at a time, and is not waiting when it ends.
 * Threads: any.      Cost: two locks a step. Errors: SP_NOMEM. */
#ifndef SP_SCHED_CORES_H
#define SP_SCHED_CORES_H

#include "base/err.h"

#include <stdint.h>

typedef struct sp_cores sp_cores;

/* An engine's place. All zero at first. guard: the lock of the cores */
typedef struct sp_seat {
    double used_s;        /* time inside, as the rule counts it */
    uint64_t since_ns;    /* when it came in, or passed */
    struct sp_seat *next; /* among those that wait */
} sp_seat;

SP_MUST sp_err sp_cores_new(sp_cores **out);
void sp_cores_free(sp_cores *c); /* NULL is fine */
/* Waits for its turn. NULL cores: there is nothing to share, as in the next two. */
void sp_cores_enter(sp_cores *c, sp_seat *s);
/* Between two steps: waits for its turn again if somebody waits who has used less. */
void sp_cores_pass(sp_cores *c, sp_seat *s);
void sp_cores_leave(sp_cores *c, sp_seat *s);

#endif
