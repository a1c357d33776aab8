/* SHA-256 through OpenSSL, for identities. Pure. */
#ifndef SP_BASE_SHA256_H
#define SP_BASE_SHA256_H

#include "base/err.h"

#include <stddef.h>
#include <stdint.h>

typedef struct sp_sha256 {
    uint8_t b[32];
} sp_sha256;

typedef struct sp_sha256_part {
    const void *p;
    size_t n;
} sp_sha256_part;

/* Digest of the parts in order. The parts carry no lengths of their own: callers make them
 * self-delimiting. Errors: SP_NOMEM. */
SP_MUST sp_err sp_sha256_of(sp_sha256 *out, const sp_sha256_part *part, size_t n_part);
void sp_sha256_hex(char out[65], const sp_sha256 *h);

#endif
