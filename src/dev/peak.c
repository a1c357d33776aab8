#include "dev/peak.h"

#include "base/clock.h"
#include "base/mem.h"

enum { READ_BYTES = 512 << 20, MAC_ROUNDS = 2000000, BEST_OF = 5 };

typedef struct read_job {
    const sp_kern *kern;
    const char *p;
    _Atomic uint64_t sink;
} read_job;

/* Items are blocks of 512 bytes. */
static void read_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    read_job *j = arg;
    (void)i_thread;
    j->sink += j->kern->read_all(j->p + begin * 512, (end - begin) * 512);
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

double sp_dev_peak_macs(sp_dev *dev)
{
    sp_pool *pool = sp_dev_cpu_pool(dev);
    if (!pool)
        return 0;
    mac_job m = {.kern = sp_dev_cpu_kern(dev)};
    uint64_t t = sp_clock_ns();
    sp_pool_run(pool, mac_part, &m, sp_pool_size(pool), 1);
    return (double)m.macs / (sp_clock_ms(t) * 1e-3);
}

sp_err sp_dev_peak(sp_peak *out, sp_dev *dev, sp_diag *d)
{
    sp_pool *pool = sp_dev_cpu_pool(dev);
    if (!pool)
        return SP_FAIL(d, SP_UNSUP, "limits are measured on the CPU device only");
    read_job r = {.kern = sp_dev_cpu_kern(dev), .p = sp_mem_align(READ_BYTES)};
    if (!r.p)
        return SP_FAIL(d, SP_NOMEM, "512 MiB to measure the read bandwidth");
    *out = (sp_peak){0};
    for (int i = 0; i < BEST_OF; i++) {
        uint64_t t = sp_clock_ns();
        sp_pool_run(pool, read_part, &r, READ_BYTES / 512, 1 << 12);
        double rate = READ_BYTES / (sp_clock_ms(t) * 1e-3);
        out->read_bytes_s = rate > out->read_bytes_s ? rate : out->read_bytes_s;
        rate = sp_dev_peak_macs(dev);
        out->mac_s = rate > out->mac_s ? rate : out->mac_s;
    }
    sp_mem_free((void *)(uintptr_t)r.p);
    return SP_OK;
}
