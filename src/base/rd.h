/* Checked reader over borrowed bytes: the only way untrusted bytes are taken apart.
 * A short read sets .failed, returns zeros from then on, and never moves past the end, so a
 * parser may read a whole record and test .failed once.
 * Little-endian. Threads: one reader, one thread. */
#ifndef SP_BASE_RD_H
#define SP_BASE_RD_H

#include <stdbool.h>
#include <stddef.h>
#include <stdint.h>
#include <string.h>

typedef struct sp_rd {
    const uint8_t *p;
    size_t len, pos;
    bool failed;
} sp_rd;

static inline sp_rd sp_rd_make(const void *p, size_t len)
{
    return (sp_rd){.p = p, .len = len};
}
static inline size_t sp_rd_left(const sp_rd *r)
{
    return r->len - r->pos;
}
/* n bytes in place, or NULL. */
static inline const void *sp_rd_bytes(sp_rd *r, uint64_t n)
{
    if (r->failed || n > sp_rd_left(r)) {
        r->failed = true;
        return NULL;
    }
    const void *p = r->p + r->pos;
    r->pos += (size_t)n;
    return p;
}
#define SP_RD_NUM(name, type)                                                                      \
    static inline type sp_rd_##name(sp_rd *r)                                                      \
    {                                                                                              \
        type v = 0;                                                                                \
        const void *p = sp_rd_bytes(r, sizeof v);                                                  \
        if (p)                                                                                     \
            memcpy(&v, p, sizeof v);                                                               \
        return v;                                                                                  \
    }
SP_RD_NUM(u8, uint8_t)
SP_RD_NUM(u16, uint16_t)
SP_RD_NUM(u32, uint32_t)
SP_RD_NUM(u64, uint64_t)
SP_RD_NUM(f32, float)
SP_RD_NUM(f64, double)
#undef SP_RD_NUM

#endif
