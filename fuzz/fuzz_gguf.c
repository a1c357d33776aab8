/* Any bytes as a GGUF file: opening, hyper-parameters, vocabulary, and a model's shape checks. */
#include "fuzz.h"

#include "model/model.h"
#include "text/tokenizer.h"

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    static sp_dev *dev;
    sp_dev_cfg cfg = {.name = "cpu", .n_thread = 1, .mask = SP_CPU_SCALAR};
    if (!dev && sp_dev_open(&dev, &cfg, NULL) != SP_OK)
        return 0;
    char *copy = sp_mem_align(n + 1);
    sp_gguf *g;
    memcpy(copy, p, n);
    if (sp_gguf_open_mem(&g, copy, n, NULL) == SP_OK) {
        sp_tok *t = NULL;
        sp_model *m = NULL;
        if (sp_tok_open(&t, g, NULL) == SP_OK)
            sp_tok_close(t);
        if (sp_model_load(&m, g, dev, NULL, NULL) == SP_OK)
            sp_model_free(m);
        sp_gguf_close(g);
    }
    sp_mem_free(copy);
    return 0;
}
