#include "base/rng.h"

#include "base/err.h"

#include <errno.h>
#include <sys/random.h>

static uint64_t rotl(uint64_t x, int k)
{
    return x << k | x >> (64 - k);
}

void sp_rng_init(sp_rng *r, uint64_t seed)
{
    for (int i = 0; i < 4; i++) { /* splitmix64 spreads small seeds */
        uint64_t z = seed += 0x9e3779b97f4a7c15u;
        z = (z ^ z >> 30) * 0xbf58476d1ce4e5b9u;
        z = (z ^ z >> 27) * 0x94d049bb133111ebu;
        r->s[i] = z ^ z >> 31;
    }
}

uint64_t sp_rng_next(sp_rng *r)
{
    uint64_t *s = r->s, out = rotl(s[1] * 5, 7) * 9, t = s[1] << 17;
    s[2] ^= s[0];
    s[3] ^= s[1];
    s[1] ^= s[2];
    s[0] ^= s[3];
    s[2] ^= t;
    s[3] = rotl(s[3], 45);
    return out;
}

double sp_rng_unit(sp_rng *r)
{
    return (double)(sp_rng_next(r) >> 11) * 0x1p-53;
}

void sp_rng_bytes(void *out, size_t n)
{
    for (size_t at = 0; at < n;) {
        ssize_t got = getrandom((char *)out + at, n - at, 0);
        SP_ASSERT(got > 0 || errno == EINTR); /* cannot fail on Linux >= 3.17 otherwise */
        at += got > 0 ? (size_t)got : 0;
    }
}

uint64_t sp_rng_entropy(void)
{
    uint64_t v;
    sp_rng_bytes(&v, sizeof v);
    return v;
}
