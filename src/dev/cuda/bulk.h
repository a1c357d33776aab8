/* What Hopper has beside simt.h, for both of its readings: barriers in shared memory that count
 * arrivals and bytes, copies of whole runs into shared memory, and products of e4m3 tiles in shared
 * memory by a warpgroup (4 warps, the first one's number a multiple of 4). nvcc compiles them for
 * sm_90a; in code for other GPUs they are traps.
 *
 * A tile has rows of 128 bytes, eight of which are 1024 bytes that begin at a multiple of 1024. The
 * 16-byte unit u of row r lies at u ^ (r % 8) (PTX ISA, "128-byte swizzling"). The first operand
 * has 64 rows, the second N; a product takes 32 bytes of each row, from the address given.
 *
 * Sums: with g = lane / 4 and t = lane % 4, c[4 j + 0, 1] are row 16 w + g of warp w, columns
 * 8 j + 2 t and the next; c[4 j + 2, 3] the same of row 16 w + g + 8. Source: PTX ISA,
 * "wgmma.mma_async", D fragments of m64nNk32. */
#ifndef SP_DEV_CUDA_BULK_H
#define SP_DEV_CUDA_BULK_H

#include "dev/cuda/frag.h"

#if defined(__CUDA_ARCH_FEAT_SM90_ALL)
#define SP_HOPPER(...) asm volatile(__VA_ARGS__)
#elif defined(__CUDACC__)
#define SP_HOPPER(...) __trap()
#endif

#ifdef __CUDACC__

SP_DEV uint32_t shared_at(const void *p)
{
    return (uint32_t)__cvta_generic_to_shared(p);
}
SP_DEV void bar_init(uint64_t *bar, unsigned n) /* by one thread, then bars_made, block_sync */
{
    SP_HOPPER("mbarrier.init.shared::cta.b64 [%0], %1;" ::"r"(shared_at(bar)), "r"(n) : "memory");
}
SP_DEV void bars_made()
{
    SP_HOPPER("fence.mbarrier_init.release.cluster;" ::: "memory");
}
SP_DEV void bar_arrive(uint64_t *bar)
{
    SP_HOPPER("mbarrier.arrive.shared::cta.b64 _, [%0];" ::"r"(shared_at(bar)) : "memory");
}
/* ... and tells how many bytes its phase waits for. */
SP_DEV void bar_expect(uint64_t *bar, unsigned n_bytes)
{
    SP_HOPPER("mbarrier.arrive.expect_tx.shared::cta.b64 _, [%0], %1;" ::"r"(shared_at(bar)),
              "r"(n_bytes)
              : "memory");
}
/* Waits for the end of the phase that has this parity; the first is 0. */
SP_DEV void bar_wait(uint64_t *bar, unsigned phase)
{
    SP_HOPPER("{.reg .pred p;\n"
              "again: mbarrier.try_wait.parity.shared::cta.b64 p, [%0], %1;\n"
              "@!p bra again;}" ::"r"(shared_at(bar)),
              "r"(phase)
              : "memory");
}
/* Multiples of 16 bytes; the barrier hears of them. */
SP_DEV void bulk_copy(void *to, const void *from, unsigned n_bytes, uint64_t *bar)
{
    SP_HOPPER("cp.async.bulk.shared::cluster.global.mbarrier::complete_tx::bytes [%0], [%1], %2, "
              "[%3];" ::"r"(shared_at(to)),
              "l"(from), "r"(n_bytes), "r"(shared_at(bar))
              : "memory");
}

/* Before products whose sums other instructions have touched. */
SP_DEV void wg_begin()
{
    SP_HOPPER("wgmma.fence.sync.aligned;" ::: "memory");
}
/* Waits for all that were started; c [N / 2] may be read then. */
template <int N> SP_DEV_MEMBER void wg_wait(float *c)
{
    SP_HOPPER("wgmma.commit_group.sync.aligned;\nwgmma.wait_group.sync.aligned 0;" ::: "memory");
#pragma unroll
    for (int i = 0; i < N / 2; i++)
        asm volatile("" : "+f"(c[i])::"memory"); /* no reads before this */
}

/* Rows of 128 bytes, swizzled; groups of eight lie 1024 bytes apart. */
SP_DEV uint64_t tile_at(const void *p)
{
    return (uint64_t)(shared_at(p) >> 4 & 0x3fff) | 1ull << 16 | 64ull << 32 | 1ull << 62;
}

#define SP_C4(c, i) "+f"(c[i]), "+f"(c[(i) + 1]), "+f"(c[(i) + 2]), "+f"(c[(i) + 3])
#define SP_C16(c, i) SP_C4(c, i), SP_C4(c, (i) + 4), SP_C4(c, (i) + 8), SP_C4(c, (i) + 12)
#define SP_R32                                                                                   \
    "%0,%1,%2,%3,%4,%5,%6,%7,%8,%9,%10,%11,%12,%13,%14,%15,%16,%17,%18,%19,%20,%21,%22,%23,%24," \
    "%25,%26,%27,%28,%29,%30,%31"
#define SP_R64                                                                                 \
    SP_R32 ",%32,%33,%34,%35,%36,%37,%38,%39,%40,%41,%42,%43,%44,%45,%46,%47,%48,%49,%50,%51," \
           "%52,%53,%54,%55,%56,%57,%58,%59,%60,%61,%62,%63"
#define SP_WGMMA(n, sums, a, b, add)                                                \
    "{.reg .pred p; setp.ne.b32 p, " add ", 0; wgmma.mma_async.sync.aligned.m64n" n \
    "k32.f32.e4m3.e4m3 {" sums "}, " a ", " b ", p, 1, 1;}"

/* c = a . b^T + (add ? c : 0), started. */
template <int N> SP_DEV_MEMBER void wg_product(float *c, const void *a, const void *b, int add)
{
    static_assert(N == 8 || N == 64 || N == 128, "a shape that is written out here");
    if constexpr (N == 8)
        SP_HOPPER(SP_WGMMA("8", "%0,%1,%2,%3", "%4", "%5", "%6")
                  : SP_C4(c, 0)
                  : "l"(tile_at(a)), "l"(tile_at(b)), "r"(add));
    else if constexpr (N == 64)
        SP_HOPPER(SP_WGMMA("64", SP_R32, "%32", "%33", "%34")
                  : SP_C16(c, 0), SP_C16(c, 16)
                  : "l"(tile_at(a)), "l"(tile_at(b)), "r"(add));
    else
        SP_HOPPER(SP_WGMMA("128", SP_R64, "%64", "%65", "%66")
                  : SP_C16(c, 0), SP_C16(c, 16), SP_C16(c, 32), SP_C16(c, 48)
                  : "l"(tile_at(a)), "l"(tile_at(b)), "r"(add));
}

#else

SP_DEV void bar_init(uint64_t *bar, unsigned n)
{
    sp_simt_bar_init(bar, n);
}
SP_DEV void bars_made()
{
}
SP_DEV void bar_arrive(uint64_t *bar)
{
    sp_simt_bar_arrive(bar, 0);
}
SP_DEV void bar_expect(uint64_t *bar, unsigned n_bytes)
{
    sp_simt_bar_arrive(bar, n_bytes);
}
SP_DEV void bar_wait(uint64_t *bar, unsigned phase, int line = __builtin_LINE(),
                     const char *file = __builtin_FILE())
{
    sp_simt_bar_wait(bar, phase, line, file);
}
SP_DEV void bulk_copy(void *to, const void *from, unsigned n_bytes, uint64_t *bar)
{
    sp_simt_bulk(to, from, n_bytes, bar);
}
/* All lanes of a warp come here together. */
SP_DEV void wg_begin(int line = __builtin_LINE(), const char *file = __builtin_FILE())
{
    uint32_t none = 0;
    (void)sp_simt_exchange(&none, 1, line, file);
}
template <int N> SP_DEV_MEMBER void wg_wait(float *)
{
    sp_simt_product_wait();
}
template <int N> SP_DEV_MEMBER void wg_product(float *c, const void *a, const void *b, int add)
{
    sp_simt_product(c, a, b, N, add);
}

#endif

#endif
