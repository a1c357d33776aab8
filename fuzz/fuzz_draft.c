/* Any bytes as the file of a draft head; what it lists is read to the last byte. */
#include "fuzz.h"

#include "gen/head.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    char *copy = sp_mem_align(n + 1);
    sp_head_file f;
    memcpy(copy, p, n);
    if (sp_head_open_mem(&f, copy, n, NULL) == SP_OK) {
        volatile uint8_t sink = 0;
        for (size_t i = 0; i < f.shape.n_tok; i++)
            sink ^= (uint8_t)sp_head_token(&f, i);
        for (sp_head_mat i = 0; i < SP_HEAD_MATS; i++)
            sink ^= ((const uint8_t *)f.mat[i]->data)[f.mat[i]->n_bytes - 1];
        for (size_t i = 0; i < f.shape.n_embd; i++)
            sink ^= (uint8_t)(f.norm[i] > 0);
        sp_head_close(&f);
    }
    sp_mem_free(copy);
    return 0;
}
