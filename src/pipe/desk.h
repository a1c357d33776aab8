/* A desk: one thread that owns something which is not shared (a database), and operations handed to
 * it from any thread.
 *
 * An operation is a struct of the caller's whose first member is sp_op. It is shared by the desk
 * and its caller; both let go. Between operations the desk does its own work (idle), a little at a
 * time.
 *
 * Threads: everything here from any thread; run and idle on the desk's. notify runs there too,
 * without locks.
 * Errors:  SP_LIMIT when too many operations wait; an operation's own in op->diag. */
#ifndef SP_PIPE_DESK_H
#define SP_PIPE_DESK_H

#include "base/err.h"
#include "base/mem.h"

typedef struct sp_desk sp_desk;

typedef struct sp_op {
    sp_arena a;   /* for what goes in and out; the caller's until submitted and after done */
    sp_diag diag; /* out */
    double ms;    /* out: in the thread */
    /* the desk's */
    struct sp_op *next;
    sp_desk *owner;
    int ref;
    bool done, notifying;
    void (*notify)(void *arg);
    void *arg;
    /* set by its maker: gives back what the operation holds, when both have let go; NULL:
     * nothing */
    void (*fini)(struct sp_op *op);
} sp_op;

typedef struct sp_desk_cfg {
    const char *name;                      /* for messages: "conversations" */
    sp_err (*run)(void *self, sp_op *op);  /* fills op->diag on failure */
    /* true: there may be more to do at once; NULL: nothing to do */
    bool (*idle)(void *self);
    void *self;
    void (*end)(void *self); /* the thread's last act, after all operations; NULL: none */
} sp_desk_cfg;

SP_MUST sp_err sp_desk_start(sp_desk **out, const sp_desk_cfg *cfg, sp_diag *d);
/* Finishes what was submitted. NULL is fine. */
void sp_desk_stop(sp_desk *k);

/* There is something for idle to do. */
void sp_desk_wake(sp_desk *k);

/* n_bytes of a struct that begins with sp_op, all zero beyond it. NULL: no memory. */
void *sp_op_new(sp_desk *k, size_t n_bytes);
SP_MUST sp_err sp_op_submit(sp_op *op, void (*notify)(void *arg), void *arg, sp_diag *d);
bool sp_op_is_done(sp_op *op);
/* For run: has whoever submitted it let go, so that nobody waits for what it does? */
bool sp_op_is_left(sp_op *op);
/* One more holds it, who calls sp_op_put too. */
void sp_op_share(sp_op *op);
/* notify is not called after this returns. */
void sp_op_quiet(sp_op *op);
/* Lets go; notify is not called after this returns. NULL is fine. */
void sp_op_put(sp_op *op);

#endif
