/* Chooses kernels: C first, then rising ISA levels override what they have. */
#include "kern/kern.h"

#include <math.h>
#include <string.h>

#if defined(__aarch64__)
static const char *const level_name[SP_CPU_LEVELS] = {"scalar", "neon", "dotprod", "i8mm"};
static const char level_names[] = "scalar, neon, dotprod, i8mm";
#else
static const char *const level_name[SP_CPU_LEVELS] = {"scalar", "avx2", "avx512", "avx512vnni", "avx512bf16"};
static const char level_names[] = "scalar, avx2, avx512, avx512vnni, avx512bf16";
#endif

#if defined(__x86_64__)
#include <cpuid.h>

static uint64_t read_xcr0(void)
{
    uint32_t lo, hi;
    __asm__ volatile("xgetbv" : "=a"(lo), "=d"(hi) : "c"(0));
    return (uint64_t)hi << 32 | lo;
}

sp_cpu_level sp_cpu_detect(void)
{
    uint32_t a, b, c, d;
    const uint32_t need1 = 1u << 12 | 1u << 27 | 1u << 28 | 1u << 29; /* FMA OSXSAVE AVX F16C */
    if (!__get_cpuid(1, &a, &b, &c, &d) || (c & need1) != need1)
        return SP_CPU_SCALAR;
    uint64_t xcr0 = read_xcr0();
    if ((xcr0 & 6) != 6 || !__get_cpuid_count(7, 0, &a, &b, &c, &d) || !(b & 1u << 5))
        return SP_CPU_SCALAR;
    const uint32_t f_dq_bw_vl = 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31, vnni = 1u << 11;
    if ((xcr0 & 0xe6) != 0xe6 || (b & f_dq_bw_vl) != f_dq_bw_vl)
        return SP_CPU_AVX2;
    if (!(c & vnni))
        return SP_CPU_AVX512;
    return __get_cpuid_count(7, 1, &a, &b, &c, &d) && a & 1u << 5 ? SP_CPU_AVX512BF16 : SP_CPU_AVX512VNNI;
}
#elif defined(__aarch64__)
#include <sys/auxv.h>

sp_cpu_level sp_cpu_detect(void)
{ /* NEON is part of AArch64; HWCAP_ASIMDDP is bit 20, HWCAP2_I8MM bit 13 */
    if (!(getauxval(AT_HWCAP) & 1ul << 20))
        return SP_CPU_NEON;
    return getauxval(AT_HWCAP2) & 1ul << 13 ? SP_CPU_I8MM : SP_CPU_DOTPROD;
}
#else
sp_cpu_level sp_cpu_detect(void)
{
    return SP_CPU_SCALAR;
}
#endif

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
    sp_cpu_level have = sp_cpu_detect(), use = have < mask ? have : mask;
    sp_kern_init_ref(k);
#if defined(__x86_64__)
    if (use >= SP_CPU_AVX2)
        sp_kern_init_avx2(k);
    if (use >= SP_CPU_AVX512)
        sp_kern_init_avx512(k);
    if (use >= SP_CPU_AVX512VNNI)
        sp_kern_init_avx512vnni(k);
    if (use >= SP_CPU_AVX512BF16)
        sp_kern_init_avx512bf16(k);
#elif defined(__aarch64__)
    if (use >= SP_CPU_NEON)
        sp_kern_init_neon(k);
    if (use >= SP_CPU_DOTPROD)
        sp_kern_init_dotprod(k);
    if (use >= SP_CPU_I8MM)
        sp_kern_init_i8mm(k);
#else
    (void)use;
#endif
}

void sp_kern_row_f32(const sp_kern *kern, float *out, sp_type type, const void *w, size_t r, size_t k)
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
            out[from + i] = fmaf(d[i / 16], (float)q[i], m[i / 16]); /* one rounding: equals d * (q - zero) */
    }
}
