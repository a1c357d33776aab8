/* Scattered reads in flight together: io_uring where the kernel has it, else a few threads. One
 * thread submits and collects.
 * Errors: a request's result is 0, or an errno; a file that ends early is EIO. */
#ifndef SP_KV_IO_H
#define SP_KV_IO_H

#include "base/err.h"
#include "kv/record.h"

#include <sys/uio.h>

enum { SP_KV_IO_DEPTH = 64, SP_KV_IO_IOV = 2 * SP_KV_RUN };

typedef struct sp_kv_io sp_kv_io;

typedef struct sp_kv_io_req {
    int fd;
    uint64_t at;
    struct iovec iov[SP_KV_IO_IOV]; /* changed by the read */
    int n_iov;
    uint32_t piece, layer;          /* the submitter's */
    int result;
    struct sp_kv_io_req *next;
} sp_kv_io_req;

/* kind: auto, uring or threads. Errors: SP_UNSUP for uring where there is none. */
SP_MUST sp_err sp_kv_io_new(sp_kv_io **out, const char *kind, sp_diag *d);
void sp_kv_io_free(sp_kv_io *io); /* nothing in flight */
const char *sp_kv_io_name(const sp_kv_io *io);
/* r stays put until collected; at most SP_KV_IO_DEPTH are in flight. */
void sp_kv_io_submit(sp_kv_io *io, sp_kv_io_req *r);
/* The next finished one; waits. NULL when none is in flight. */
sp_kv_io_req *sp_kv_io_collect(sp_kv_io *io);

#endif
