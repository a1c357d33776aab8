#include "kv/io.h"

#include "base/fault.h"
#include "base/lock.h"
#include "base/mem.h"

#include <errno.h>
#include <liburing.h>
#include <stdbool.h>
#include <string.h>

enum { N_THREAD = 4 };

struct sp_kv_io {
    bool uring;
    size_t n_flight; /* owner: the submitter */
    size_t n_queued; /* uring: prepared, not told to the kernel yet */
    struct io_uring ring;
    /* threads; guard: lock (rank KV_IO) */
    sp_lock lock;
    pthread_cond_t work, ready;
    sp_kv_io_req *todo, **todo_tail, *done;
    bool stop;
    pthread_t thread[N_THREAD];
    size_t n_thread;
};

/* Reads what is left of r. Takes the first n bytes off its vector first. */
static int read_rest(sp_kv_io_req *r, size_t n)
{
    int at = 0;
    for (;;) {
        for (; n && n >= r->iov[at].iov_len; at++)
            n -= r->iov[at].iov_len;
        if (at < r->n_iov && n) {
            r->iov[at].iov_base = (uint8_t *)r->iov[at].iov_base + n;
            r->iov[at].iov_len -= n;
        }
        if (at == r->n_iov)
            return 0;
        ssize_t k = sp_fault_hit(SP_FAULT_IO)
                        ? (errno = EIO, -1)
                        : preadv(r->fd, r->iov + at, r->n_iov - at, (off_t)r->at);
        if (k < 0 && errno == EINTR)
            k = 0;
        else if (k <= 0)
            return k < 0 ? errno : EIO;
        n = (size_t)k;
        r->at += n;
    }
}

static void *io_main(void *arg)
{
    sp_kv_io *io = arg;
    sp_lock_get(&io->lock);
    for (;;) {
        while (!io->todo && !io->stop)
            sp_lock_wait(&io->lock, &io->work, 0);
        sp_kv_io_req *r = io->todo;
        if (!r)
            break;
        io->todo = r->next;
        if (!io->todo)
            io->todo_tail = &io->todo;
        sp_lock_put(&io->lock);
        r->result = read_rest(r, 0);
        sp_lock_get(&io->lock);
        r->next = io->done;
        io->done = r;
        pthread_cond_signal(&io->ready);
    }
    sp_lock_put(&io->lock);
    return NULL;
}

sp_err sp_kv_io_new(sp_kv_io **out, const char *kind, sp_diag *d)
{
    bool automatic = strcmp(kind, "auto") == 0, uring = automatic || strcmp(kind, "uring") == 0;
    if (!uring && strcmp(kind, "threads") != 0)
        return SP_FAIL(d, SP_INVAL, "cache-io: %.20s is none of auto, uring, threads", kind);
    sp_kv_io *io = sp_mem_alloc(sizeof *io);
    if (!io)
        return SP_FAIL(d, SP_NOMEM, "reads");
    sp_lock_init(&io->lock, SP_RANK_KV_IO);
    sp_lock_cond_init(&io->work);
    sp_lock_cond_init(&io->ready);
    io->todo_tail = &io->todo;
    int e = uring ? io_uring_queue_init(SP_KV_IO_DEPTH, &io->ring, 0) : -ENOSYS;
    io->uring = e == 0;
    sp_err err = SP_OK;
    if (!io->uring && uring && !automatic)
        err = SP_FAIL(d, SP_UNSUP, "cache-io: this kernel gives no io_uring: %s", strerror(-e));
    while (err == SP_OK && !io->uring && io->n_thread < N_THREAD) {
        if (pthread_create(&io->thread[io->n_thread], NULL, io_main, io) != 0)
            err = SP_FAIL(d, SP_NOMEM, "reads: cannot start a thread");
        else
            io->n_thread++;
    }
    if (err == SP_OK)
        *out = io;
    else
        sp_kv_io_free(io);
    return err;
}

void sp_kv_io_free(sp_kv_io *io)
{
    if (!io)
        return;
    sp_lock_get(&io->lock);
    io->stop = true;
    pthread_cond_broadcast(&io->work);
    sp_lock_put(&io->lock);
    for (size_t i = 0; i < io->n_thread; i++)
        pthread_join(io->thread[i], NULL);
    if (io->uring)
        io_uring_queue_exit(&io->ring);
    sp_lock_fini(&io->lock);
    pthread_cond_destroy(&io->work);
    pthread_cond_destroy(&io->ready);
    sp_mem_free(io);
}

const char *sp_kv_io_name(const sp_kv_io *io)
{
    return io->uring ? "uring" : "threads";
}

void sp_kv_io_submit(sp_kv_io *io, sp_kv_io_req *r)
{
    r->next = NULL;
    io->n_flight++;
    if (io->uring) {
        struct io_uring_sqe *e = io_uring_get_sqe(&io->ring);
        SP_ASSERT(e != NULL); /* never more than the depth in flight */
        io_uring_prep_readv(e, r->fd, r->iov, (unsigned)r->n_iov, r->at);
        io_uring_sqe_set_data(e, r);
        io->n_queued++;
        return;
    }
    sp_lock_get(&io->lock);
    *io->todo_tail = r;
    io->todo_tail = &r->next;
    pthread_cond_signal(&io->work);
    sp_lock_put(&io->lock);
}

static sp_kv_io_req *collect_uring(sp_kv_io *io)
{
    struct io_uring_cqe *c;
    while (io->n_queued) {
        int n = io_uring_submit(&io->ring);
        if (n > 0)
            io->n_queued -= (size_t)n;
        else if (n != -EINTR && n != -EAGAIN && n != -EBUSY)
            SP_ASSERT(n >= 0);
    }
    int e;
    do
        e = io_uring_wait_cqe(&io->ring, &c);
    while (e == -EINTR || e == -EAGAIN);
    SP_ASSERT(e == 0);
    sp_kv_io_req *r = io_uring_cqe_get_data(c);
    int got = c->res;
    io_uring_cqe_seen(&io->ring, c);
    if (got < 0 && got != -EINTR && got != -EAGAIN) {
        r->result = -got;
    } else {
        r->at += (uint64_t)(got > 0 ? got : 0);
        r->result = read_rest(r, (size_t)(got > 0 ? got : 0));
    }
    return r;
}

sp_kv_io_req *sp_kv_io_collect(sp_kv_io *io)
{
    if (io->n_flight == 0)
        return NULL;
    io->n_flight--;
    if (io->uring)
        return collect_uring(io);
    sp_lock_get(&io->lock);
    while (!io->done)
        sp_lock_wait(&io->lock, &io->ready, 0);
    sp_kv_io_req *r = io->done;
    io->done = r->next;
    sp_lock_put(&io->lock);
    return r;
}
