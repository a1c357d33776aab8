/* cmocka with what it needs. */
#ifndef SP_TEST_H
#define SP_TEST_H

#include <setjmp.h>
#include <stdarg.h>
#include <stddef.h>
#include <stdint.h>

#include <cmocka.h>

#include <stdlib.h>
#include <string.h>

/* Small deterministic generator for test data. */
static inline uint32_t test_rand(uint64_t *s)
{
    *s = *s * 6364136223846793005u + 1442695040888963407u;
    return (uint32_t)(*s >> 33);
}
static inline float test_float(uint64_t *s)
{
    return (float)test_rand(s) / 1073741824.0f - 1.0f; /* [-1, 1) */
}

#endif
