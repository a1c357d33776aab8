/* A checkpoint's folder: JSON as config.json, anything else as a file of safetensors. */
#include "fuzz.h"

#include "fmt/safetensors.h"
#include "model/convert_int.h"

static void try_config(const json_t *config)
{
    const sp_convert_family *f;
    sp_convert_factors factors[SP_CONVERT_FACTORS];
    sp_gguf_out *o;
    static const char *const names[] = {"model.layers.1.self_attn.k_proj.weight", "model.layers.0.mlp.experts.3.up_proj.weight",
                                        "model.layers.0.mlp.experts.gate_up_proj_blocks", "model.layers.2.shared_mlp.input_linear.weight"};
    sp_convert_slot to[2];
    size_t n;
    if (sp_convert_family_of(&f, config, NULL) != SP_OK || sp_gguf_out_new(&o, NULL) != SP_OK)
        return;
    (void)!sp_convert_arch(o, f, config, NULL);
    (void)!sp_convert_factors_of(factors, config, NULL);
    for (size_t i = 0; i < SP_CONVERT_FACTORS; i++)
        sp_mem_free(factors[i].v);
    for (size_t i = 0; i < sizeof names / sizeof names[0]; i++)
        (void)!sp_convert_name(to, &n, f, config, names[i], NULL);
    sp_gguf_out_free(o);
}

static void try_tensors(const uint8_t *p, size_t n)
{
    char *copy = sp_mem_align(n + 1);
    sp_safe *s;
    memcpy(copy, p, n);
    if (sp_safe_open_mem(&s, copy, n, NULL) == SP_OK) {
        volatile uint8_t sum = 0;
        for (const char *name = NULL; (name = sp_safe_next(s, name));) {
            sp_safe_tensor t;
            if (sp_safe_find(&t, s, name, NULL) == SP_OK) /* the last byte is inside of the file */
                sum = (uint8_t)(sum + ((const uint8_t *)t.data)[t.dim[0] * t.dim[1] * t.dim[2] * t.dim[3] * (t.is_bytes ? 1 : t.type == SP_F32 ? 4 : 2) - 1]);
        }
        sp_safe_close(s);
    }
    sp_mem_free(copy);
}

int LLVMFuzzerTestOneInput(const uint8_t *p, size_t n)
{
    json_t *config = json_loadb((const char *)p, n, 0, NULL);
    if (config)
        try_config(config);
    else
        try_tensors(p, n);
    json_decref(config);
    return 0;
}
