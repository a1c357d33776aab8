/* Chooses kernels: C first, then rising ISA levels override what they have. */
#include "kern/kern.h"

#include <math.h>
#include <string.h>

#if defined(__aarch64__)
static const char *const level_name[SP_CPU_LEVELS] = {"scalar", "neon", "dotprod", "i8mm"};
static const char level_names[] = "scalar, neon, dotprod, i8mm";
#else
static const char *const level_name[SP_CPU_LEVELS] = {"scalar", "avx2",       "avxvnni",
                                                      "avx512", "avx512vnni", "avx512bf16",
                                                      "amx"};
static const char level_names[] = "scalar, avx2, avxvnni, avx512, avx512vnni, avx512bf16, amx";
#endif

#ifndef SP_KERN_BUILT /* a bit for each level that is built (SP_LEVELS in CMakeLists.txt) */
#define SP_KERN_BUILT UINT32_MAX
#endif
#define IF_BUILT(level, init) [level] = SP_KERN_BUILT >> (level) & 1 ? (init) : NULL

static void (*const level_init[SP_CPU_LEVELS])(sp_kern *k) = {
    [SP_CPU_SCALAR] = sp_kern_init_ref,
#if defined(__x86_64__)
    IF_BUILT(SP_CPU_AVX2, sp_kern_init_avx2),
    IF_BUILT(SP_CPU_AVXVNNI, sp_kern_init_avxvnni),
    IF_BUILT(SP_CPU_AVX512, sp_kern_init_avx512),
    IF_BUILT(SP_CPU_AVX512VNNI, sp_kern_init_avx512vnni),
    IF_BUILT(SP_CPU_AVX512BF16, sp_kern_init_avx512bf16),
    IF_BUILT(SP_CPU_AMX, sp_kern_init_amx),
#elif defined(__aarch64__)
    [SP_CPU_NEON] = sp_kern_init_neon,
    [SP_CPU_DOTPROD] = sp_kern_init_dotprod,
    [SP_CPU_I8MM] = sp_kern_init_i8mm,
#endif
};

#if defined(__x86_64__)
#include <cpuid.h>
#include <sys/syscall.h>
#include <unistd.h>

static bool has_all(uint32_t reg, uint32_t bits)
{
    return (reg & bits) == bits;
}

/* AMX-TILE and AMX-INT8, and a system that saves their registers. */
static bool has_tiles(const sp_cpuid *r)
{
    return has_all(r->leaf7_d, 1u << 24 | 1u << 25) && (r->xcr0 >> 17 & 3) == 3;
}

uint32_t sp_cpu_levels_of(const sp_cpuid *r)
{
    const uint32_t base = 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29; /* FMA OSXSAVE AVX F16C */
    const uint32_t f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31;
    uint32_t has = 1u << SP_CPU_SCALAR;
    if (!has_all(r->leaf1_c, base) || (r->xcr0 & 6) != 6 || !(r->leaf7_b & 1u << 5))
        return has;
    has |= 1u << SP_CPU_AVX2;
    if (r->leaf7_1_a & 1u << 4)
        has |= 1u << SP_CPU_AVXVNNI;
    if ((r->xcr0 & 0xe6) != 0xe6 || !has_all(r->leaf7_b, f_dq_bw_vl))
        return has;
    has |= 1u << SP_CPU_AVX512;
    if (!(r->leaf7_c & 1u << 11))
        return has;
    has |= 1u << SP_CPU_AVX512VNNI;
    if (!(r->leaf7_1_a & 1u << 5))
        return has;
    has |= 1u << SP_CPU_AVX512BF16;
    return has_tiles(r) && r->may_tile ? has | 1u << SP_CPU_AMX : has;
}

static uint64_t read_xcr0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

static uint32_t levels_here(void)
{
    sp_cpuid r = {0};
    uint32_t a, b, c, d;
    if (__get_cpuid(1, &a, &b, &c, &d))
        r.leaf1_c = c;
    if (r.leaf1_c & 1u << 27) /* OSXSAVE: xgetbv is there */
        r.xcr0 = read_xcr0();
    if (__get_cpuid_count(7, 0, &a, &b, &c, &d)) {
        r.leaf7_b = b;
        r.leaf7_c = c;
        r.leaf7_d = d;
        if (a >= 1 && __get_cpuid_count(7, 1, &a, &b, &c, &d))
            r.leaf7_1_a = a;
    }
    enum { REQ_XCOMP_PERM = 0x1023, XTILEDATA = 18 }; /* Linux 5.16, asm/prctl.h */
    r.may_tile = has_tiles(&r) && syscall(SYS_arch_prctl, REQ_XCOMP_PERM, XTILEDATA) == 0;
    return sp_cpu_levels_of(&r);
}
#elif defined(__aarch64__)
#include <sys/auxv.h>

static uint32_t levels_here(void)
{ /* NEON is part of AArch64; HWCAP_ASIMDDP is bit 20, HWCAP2_I8MM bit 13 */
    uint32_t has = 1u << SP_CPU_SCALAR | 1u << SP_CPU_NEON;
    if (!(getauxval(AT_HWCAP) & 1ul << 20))
        return has;
    has |= 1u << SP_CPU_DOTPROD;
    return getauxval(AT_HWCAP2) & 1ul << 13 ? has | 1u << SP_CPU_I8MM : has;
}
#else
static uint32_t levels_here(void)
{
    return 1u << SP_CPU_SCALAR;
}
#endif

sp_cpu_level sp_cpu_detect(void)
{
    return (sp_cpu_level)(31 - __builtin_clz(levels_here() & SP_KERN_BUILT));
}

bool sp_cpu_is_whole(void)
{
    return SP_KERN_BUILT == UINT32_MAX;
}

const char *sp_cpu_level_names(void)
{
    return level_names;
}

const char *sp_cpu_level_name(sp_cpu_level level)
{
    return level_name[level];
}

bool sp_cpu_level_parse(sp_cpu_level *out, const char *name)
{
    for (int i = 0; i < SP_CPU_LEVELS; i++) {
        if (strcmp(name, level_name[i]) == 0) {
            *out = (sp_cpu_level)i;
            return true;
        }
    }
    return false;
}

void sp_kern_init(sp_kern *k, sp_cpu_level mask)
{
    uint32_t here = levels_here() & SP_KERN_BUILT;
    for (int level = SP_CPU_SCALAR; level <= (int)mask; level++) {
        if (here >> level & 1)
            level_init[level](k);
    }
}

void sp_kern_row_f32(const sp_kern *kern, float *out, sp_type type, const void *w, size_t r,
                     size_t k)
{
    if (!sp_pack_is(type)) {
        kern->widen[type](out, (const char *)w + r * sp_type_row_bytes(type, k), k);
        return;
    }
    const char *tile = (const char *)w + r / SP_TILE_ROWS * sp_pack_tile_bytes(type, k);
    for (size_t from = 0; from < k; from += SP_PACK_UNIT) {
        uint8_t q[SP_PACK_UNIT];
        float d[SP_PACK_UNIT / 16], m[SP_PACK_UNIT / 16];
        size_t n = sp_pack_get(q, d, m, tile, type, k, r % SP_TILE_ROWS, from / SP_PACK_UNIT);
        for (size_t i = 0; i < n; i++)
            out[from + i] =
                fmaf(d[i / 16], (float)q[i], m[i / 16]); /* one rounding: equals d * (q - zero) */
    }
}
