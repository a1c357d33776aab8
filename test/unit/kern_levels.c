/* Which levels a CPU has, by what cpuid and xgetbv say of CPUs of several kinds. */
#include "test.h"

#include "kern/kern.h"

void check_levels(void **state);

#if defined(__x86_64__)
enum {
    BASE = 1 << 12 | 1 << 27 | 1 << 28 | 1 << 29, /* FMA OSXSAVE AVX F16C */
    NO_OSXSAVE = BASE & ~(1 << 27),
    AVX2 = 1 << 5,
    VNNI = 1 << 11,   /* of leaf 7, ECX: that of AVX-512 */
    AVXVNNI = 1 << 4, /* of leaf 7.1, EAX */
    BF16 = 1 << 5,
    XMM_YMM = 6,
    ZMM = 0xe6,
    ZMM_TILES = 0x600e6,
    TILES = 1 << 24 | 1 << 25 /* of leaf 7, EDX */
};
#define AVX512 (AVX2 | 1u << 16 | 1u << 17 | 1u << 30 | 1u << 31)
#define HAS(level) (1u << SP_CPU_##level)
#define UP_TO_BF16 ((1u << SP_CPU_AMX) - 1)

void check_levels(void **state)
{
    static const struct {
        const char *name;
        sp_cpuid cpu;
        uint32_t has;
    } cpus[] = {
        {"without AVX", {0}, HAS(SCALAR)},
        {"Zen 3", {BASE, AVX2, 0, 0, 0, XMM_YMM, false}, HAS(SCALAR) | HAS(AVX2)},
        {"Alder Lake", {BASE, AVX2, 0, 0, AVXVNNI, XMM_YMM, false}, HAS(SCALAR) | HAS(AVX2) | HAS(AVXVNNI)},
        {"Skylake-X", {BASE, AVX512, 0, 0, 0, ZMM, false}, HAS(SCALAR) | HAS(AVX2) | HAS(AVX512)},
        {"Ice Lake", {BASE, AVX512, VNNI, 0, 0, ZMM, false},
         HAS(SCALAR) | HAS(AVX2) | HAS(AVX512) | HAS(AVX512VNNI)},
        {"Zen 4", {BASE, AVX512, VNNI, 0, BF16, ZMM, false},
         HAS(SCALAR) | HAS(AVX2) | HAS(AVX512) | HAS(AVX512VNNI) | HAS(AVX512BF16)},
        {"Zen 5", {BASE, AVX512, VNNI, 0, AVXVNNI | BF16, ZMM, false}, UP_TO_BF16},
        {"Sapphire Rapids", {BASE, AVX512, VNNI, TILES, AVXVNNI | BF16, ZMM_TILES, true}, UP_TO_BF16 | HAS(AMX)},
        {"Sapphire Rapids, refused by its system", {BASE, AVX512, VNNI, TILES, AVXVNNI | BF16, ZMM_TILES, false}, UP_TO_BF16},
        {"Sapphire Rapids, its system saves no tiles", {BASE, AVX512, VNNI, TILES, AVXVNNI | BF16, ZMM, true}, UP_TO_BF16},
        {"Zen 5, its system saves no zmm", {BASE, AVX512, VNNI, 0, AVXVNNI | BF16, XMM_YMM, false},
         HAS(SCALAR) | HAS(AVX2) | HAS(AVXVNNI)},
        {"Alder Lake, its system saves no ymm", {BASE, AVX2, 0, 0, AVXVNNI, 2, false}, HAS(SCALAR)},
        {"Alder Lake, its system saves by no xsave", {NO_OSXSAVE, AVX2, 0, 0, AVXVNNI, XMM_YMM, false},
         HAS(SCALAR)},
    };
    (void)state;
    for (size_t i = 0; i < sizeof cpus / sizeof *cpus; i++) {
        uint32_t has = sp_cpu_levels_of(&cpus[i].cpu);
        if (has != cpus[i].has)
            fail_msg("%s: levels %#x, not %#x", cpus[i].name, has, cpus[i].has);
    }
}
#else
void check_levels(void **state)
{
    (void)state;
    assert_true(sp_cpu_detect() >= SP_CPU_NEON);
}
#endif
