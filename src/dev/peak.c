#include "dev/peak.h"

#include "base/clock.h"
#include "base/mem.h"

#include <sys/mman.h>

enum { READ_BYTES = 512 << 20, MAC_ROUNDS = 2000000, BEST_OF = 5 };

typedef struct read_job {
    const uint64_t *p;
    _Atomic uint64_t sink;
} read_job;

static void read_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    read_job *j = arg;
    uint64_t s[8] = {0};
    (void)i_thread;
    for (size_t i = begin; i + 64 <= end; i += 64) /* 8 lines at once, enough for one core */
        for (size_t k = 0; k < 8; k++)
            s[k] += j->p[i + 8 * k] ^ j->p[i + 8 * k + 7];
    j->sink += s[0] + s[1] + s[2] + s[3] + s[4] + s[5] + s[6] + s[7];
}

typedef struct mac_job {
    const sp_kern *kern;
    _Atomic uint64_t macs, sink;
} mac_job;

static void mac_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    mac_job *j = arg;
    (void)i_thread;
    for (size_t i = begin; i < end; i++) {
        uint32_t out;
        j->macs += j->kern->int_peak(MAC_ROUNDS, &out);
        j->sink += out;
    }
}

sp_err sp_dev_peak(sp_peak *out, sp_dev *dev, sp_diag *d)
{
    sp_pool *pool = sp_dev_cpu_pool(dev);
    if (!pool)
        return SP_FAIL(d, SP_UNSUP, "limits are measured on the CPU device only");
    read_job r = {.p = sp_mem_align(READ_BYTES)};
    if (!r.p)
        return SP_FAIL(d, SP_NOMEM, "512 MiB to measure the read bandwidth");
    (void)madvise((void *)(uintptr_t)r.p, READ_BYTES, MADV_HUGEPAGE);
    *out = (sp_peak){0};
    for (int i = 0; i < BEST_OF; i++) {
        uint64_t t = sp_clock_ns();
        sp_pool_run(pool, read_part, &r, READ_BYTES / 8, 1 << 16);
        double rate = READ_BYTES / (sp_clock_ms(t) * 1e-3);
        out->read_bytes_s = rate > out->read_bytes_s ? rate : out->read_bytes_s;
        mac_job m = {.kern = sp_dev_cpu_kern(dev)};
        t = sp_clock_ns();
        sp_pool_run(pool, mac_part, &m, sp_pool_size(pool), 1);
        rate = (double)m.macs / (sp_clock_ms(t) * 1e-3);
        out->mac_s = rate > out->mac_s ? rate : out->mac_s;
    }
    sp_mem_free((void *)(uintptr_t)r.p);
    return SP_OK;
}
