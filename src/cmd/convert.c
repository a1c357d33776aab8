/* The command `convert`: a folder of safetensors into one GGUF. */
#include "cmd/cmd.h"

#include "model/convert.h"

#include <stdio.h>
#include <string.h>
#include <strings.h>
#include <unistd.h>

static bool find_type(sp_type *out, const char *name)
{
    static const sp_type types[] = {SP_F32, SP_F16, SP_BF16, SP_Q8_0, SP_Q4_0, SP_Q4_K};
    for (size_t i = 0; i < sizeof types / sizeof types[0]; i++) {
        if (strcasecmp(sp_type_name((uint32_t)types[i]), name) == 0) {
            *out = types[i];
            return true;
        }
    }
    return false;
}

static sp_err convert(const sp_opts *o, const char *dir, sp_diag *d)
{
    const char *path = sp_opt_str(o, "output"), *name = sp_opt_str(o, "type");
    sp_convert_report r;
    sp_type type;
    if (!path)
        return SP_FAIL(d, SP_INVAL, "convert: where to? -o FILE.gguf");
    if (!find_type(&type, name))
        return SP_FAIL(d, SP_INVAL, "type: %.20s is none of F32, F16, BF16, Q8_0, Q4_0, Q4_K",
                       name);
    if (access(path, F_OK) == 0)
        return SP_FAIL(d, SP_INVAL, "%.150s is there already", path);
    SP_TRY(sp_convert(&r, dir, path, type, d));
    if (sp_opt_flag(o, "json"))
        printf("{\"file\":\"%s\",\"arch\":\"%s\",\"tensors\":%zu,\"of_another_type\":%zu,\"bytes\":"
               "%zu,\"template\":%s}\n",
               path, r.arch, r.n_tensor, r.n_other, r.n_bytes, r.has_template ? "true" : "false");
    else
        printf("%s: %s, %zu tensors, %.1f MB%s\n", path, r.arch, r.n_tensor,
               (double)r.n_bytes * 1e-6, r.has_template ? "" : "; no chat template");
    if (r.n_other)
        fprintf(stderr,
                "sparing: %zu matrices are not %s but Q8_0 or F16: the embedding and the output, "
                "or rows that are no whole blocks\n",
                r.n_other, sp_type_name((uint32_t)type));
    return SP_OK;
}

int sp_cmd_convert(const sp_opts *o)
{
    const char *const *rest;
    sp_diag d = {0};
    sp_err err = sp_opts_rest(o, &rest) == 1 ? convert(o, rest[0], &d)
                                             : SP_FAIL(&d, SP_INVAL, "convert: which folder?");
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(err == SP_INVAL ? EXIT_USAGE : EXIT_RUN, &d);
}
