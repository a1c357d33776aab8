/* Any bytes as the index of a folder of pages, with every entry's checksum mended. */
#include "fuzz.h"

#include "base/log.h"
#include "kv/store.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static char dir[64];
    char path[128];
    if (!dir[0]) {
        sp_log_set(SP_LOG_ERROR, false);
        snprintf(dir, sizeof dir, "/tmp/sparing-fuzz-XXXXXX");
        if (!mkdtemp(dir))
            abort();
    }
    uint8_t *copy = sp_mem_align(n + 64);
    memcpy(copy, p, n);
    if (n >= 8)
        memcpy(copy, "SPKVIDX1", 8);
    for (size_t at = 8; n - at >= 16 && n > at;) {
        uint32_t len;
        uint64_t sum = 0;
        memcpy(&len, copy + at + 4, 4);
        if (len > n - at - 16)
            break;
        memcpy(copy + at + 8, &sum, 8);
        sum = sp_kv_sum(copy + at, 16 + len);
        memcpy(copy + at + 8, &sum, 8);
        at += 16 + len;
    }
    snprintf(path, sizeof path, "%s/index", dir);
    FILE *f = fopen(path, "wb");
    if (f && fwrite(copy, 1, n, f) == n && fclose(f) == 0) {
        const sp_kv_store_cfg cfg = {dir, 1 << 24, 1e-4};
        sp_kv_store *s;
        if (sp_kv_store_open(&s, &cfg, NULL) == SP_OK)
            sp_kv_store_close(s);
    }
    sp_mem_free(copy);
    return 0;
}
