/* Any bytes as a record of pages, packed or not: with the checksum of its head mended, so that what lies behind it
 * is reached. */
#include "fuzz.h"

#include "kv/record.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    uint8_t *copy = sp_mem_align(n + 64), *out;
    size_t n_out;
    if (!copy)
        return 0;
    memcpy(copy, p, n);
    size_t head = n >= SP_KV_HEAD_MIN ? sp_kv_head_bytes_of(copy) : 0;
    if (head > 16 && head <= n) {
        uint64_t sum = sp_kv_sum(copy + 16, head - 16);
        memcpy(copy + 8, &sum, 8);
    }
    (void)!sp_kv_rec_verify(copy, n, NULL);
    if (sp_kv_rec_unpack(&out, &n_out, copy, n, NULL) == SP_OK)
        sp_mem_free(out);
    if (sp_kv_rec_pack(&out, &n_out, copy, n, NULL) == SP_OK)
        sp_mem_free(out);
    sp_mem_free(copy);
    return 0;
}
