/* simt.h for a CPU: the threads of a block are fibers of the calling thread, which run in an order
 * that can be turned about (sp_simt_order); blocks run one after the other. Found so: missing
 * barriers and races in shared memory (results differ with the order, and ThreadSanitizer names the
 * line), reads of shared memory that nobody wrote (it is filled with NaNs), reads and writes past
 * the end (guard pages), barriers that only some threads reach (it stops and says where).
 *
 * Shuffles order nothing for ThreadSanitizer, as on a GPU; barriers do. Blocks of a launch are
 * ordered for it, so two blocks that write one address are found by turned orders only. */
#ifndef SP_DEV_CUDA_SIMT_HOST_H
#define SP_DEV_CUDA_SIMT_HOST_H

#include <math.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

#define SP_DEV static inline __attribute__((unused))
#define SP_DEV_MEMBER inline

extern "C" {
/* How the threads and blocks of a launch take turns: 0 in order, 1 backwards, else as shuffled by
 * this number. */
void sp_simt_order(unsigned seed);

/* 0, or, while the file is there that a variable of the environment names, what a test wants the
 * device to do: SPARING_SIMT_FULL, SPARING_SIMT_LOST. */
enum sp_simt_fault { SP_SIMT_FULL = 1 /* has no memory left */, SP_SIMT_LOST /* refuses all */ };
int sp_simt_fault_now(enum sp_simt_fault which);

typedef void sp_simt_body(const void *args);
void sp_simt_launch(sp_simt_body *body, const void *args, unsigned n_thread, unsigned n_x,
                    unsigned n_y, size_t shared_bytes);

typedef struct sp_simt_at { /* of the thread that runs */
    unsigned thread, x, y;
    char *mem;
} sp_simt_at;
extern thread_local sp_simt_at sp_simt_now;

void sp_simt_block_wait(int line, const char *file);
void sp_simt_warp_wait(int line, const char *file);
/* Gives n words to the warp and returns all lanes' [32][n]; they hold until the next but one. */
const uint32_t *sp_simt_exchange(const uint32_t *word, unsigned n, int line, const char *file);

/* The compute capability's first number that is imitated: 9, or what SPARING_SIMT_MAJOR says. */
int sp_simt_major(void);

/* bulk.h: barriers of 8 bytes in shared memory. What a copy brings is NaNs until its barrier is
 * waited for, and a product's sums are until products are. A wait that never ends stops, and says
 * where. */
void sp_simt_bar_init(void *bar, unsigned n);
void sp_simt_bar_arrive(void *bar, unsigned n_bytes);
void sp_simt_bar_wait(void *bar, unsigned phase, int line, const char *file);
void sp_simt_bulk(void *to, const void *from, size_t n_bytes, void *bar);
void sp_simt_product(float *acc, const void *a, const void *b, unsigned n, bool add);
void sp_simt_product_wait(void);
}

SP_DEV unsigned thread_id()
{
    return sp_simt_now.thread;
}
SP_DEV unsigned lane_id()
{
    return sp_simt_now.thread & 31;
}
SP_DEV unsigned warp_id()
{
    return sp_simt_now.thread >> 5;
}
SP_DEV unsigned block_x()
{
    return sp_simt_now.x;
}
SP_DEV unsigned block_y()
{
    return sp_simt_now.y;
}
SP_DEV char *block_mem()
{
    return sp_simt_now.mem;
}
SP_DEV void block_sync(int line = __builtin_LINE(), const char *file = __builtin_FILE())
{
    sp_simt_block_wait(line, file);
}
SP_DEV void warp_sync(int line = __builtin_LINE(), const char *file = __builtin_FILE())
{
    sp_simt_warp_wait(line, file);
}
SP_DEV __attribute__((no_sanitize("thread"))) float warp_xor(float v, int mask,
                                                             int line = __builtin_LINE(),
                                                             const char *file = __builtin_FILE())
{
    uint32_t w;
    float out;
    __builtin_memcpy(&w, &v, sizeof w);
    const uint32_t volatile *all = sp_simt_exchange(&w, 1, line, file);
    w = all[lane_id() ^ (unsigned)mask];
    __builtin_memcpy(&out, &w, sizeof out);
    return out;
}

SP_DEV unsigned bit_count(uint32_t x)
{
    return (unsigned)__builtin_popcount(x);
}
SP_DEV __attribute__((no_sanitize("thread"))) uint32_t warp_vote(
    bool is, int line = __builtin_LINE(), const char *file = __builtin_FILE())
{
    uint32_t w = is, out = 0;
    const uint32_t volatile *all = sp_simt_exchange(&w, 1, line, file);
    for (unsigned i = 0; i < 32; i++)
        out |= all[i] << i;
    return out;
}

template <class K> void simt_body(const void *args)
{
    K::run(*static_cast<const typename K::args *>(args));
}

template <class K> const void *kernel_of()
{
    return reinterpret_cast<const void *>(simt_body<K>);
}
template <class K> int allow_shared(size_t)
{
    return sp_simt_fault_now(SP_SIMT_LOST);
}

#endif
