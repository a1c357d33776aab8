/* A program of another project, run over untrusted bytes with as little as possible: its input, its
 * output, its own libraries.
 *
 * The program gets no open file but its three streams, no network, limits on CPU time, memory and
 * output, no new privileges, and a wall-clock deadline. It reads only below /usr, /lib and the
 * loader's cache (Landlock), and runs as nobody (65534) where this process is root. At least one of
 * these two has to hold: else nothing is run. A short list of system calls that reach other
 * processes or the kernel's insides is refused (seccomp).
 *
 * Threads: any; no memory of this process is copied, whatever its size.
 * Errors:  SP_NOTFOUND: the program is not installed; SP_UNSUP: it cannot be confined here;
 *          SP_TIMEOUT, SP_LIMIT: a budget; SP_CANCEL: stopped;
 *          SP_NOMEM, SP_IO. */
#ifndef SP_BASE_SANDBOX_H
#define SP_BASE_SANDBOX_H

#include "base/buf.h"

#include <stdatomic.h>
#include <stdint.h>

typedef struct sp_sandbox_cfg {
    /* NULL at its end; argv[0] is looked for in /usr/local/bin, /usr/bin and /bin */
    const char *const *argv;
    const void *in;          /* [n_in], its standard input */
    size_t n_in;
    uint32_t seconds;        /* of CPU time */
    uint32_t wait_seconds;   /* of wall time; 0: as many as of CPU time */
    size_t memory_bytes, out_bytes;
    bool gives_way;          /* it takes what others leave of the cores, see base/prio.h */
    const atomic_bool *stop; /* NULL, or set by another thread: the program is ended */
} sp_sandbox_cfg;

/* out: what it wrote; said: the beginning of what it wrote to its error stream. *code: its exit
 * status, 128 and the signal's number when one ended it. */
SP_MUST sp_err sp_sandbox_run(sp_buf *out, sp_buf *said, int *code, const sp_sandbox_cfg *cfg,
                              sp_diag *d);

#endif
