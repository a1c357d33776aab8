#include "base/sha256.h"

#include <openssl/evp.h>
#include <stdio.h>

sp_err sp_sha256_of(sp_sha256 *out, const sp_sha256_part *part, size_t n_part)
{
    EVP_MD_CTX *c = EVP_MD_CTX_new();
    int ok = c && EVP_DigestInit_ex(c, EVP_sha256(), NULL);
    for (size_t i = 0; ok && i < n_part; i++)
        ok = EVP_DigestUpdate(c, part[i].p, part[i].n);
    ok = ok && EVP_DigestFinal_ex(c, out->b, NULL);
    EVP_MD_CTX_free(c);
    return ok ? SP_OK : SP_NOMEM;
}

void sp_sha256_hex(char out[65], const sp_sha256 *h)
{
    for (int i = 0; i < 32; i++)
        snprintf(out + 2 * i, 3, "%02x", h->b[i]);
}
