/* The small commands: tokenize, embed, config, version. */
#include "cmd/cmd.h"

#include "base/file.h"
#include "base/mem.h"

#include <stdio.h>
#include <string.h>

#ifdef __clang__
#define COMPILER __VERSION__ /* names itself */
#else
#define COMPILER "gcc " __VERSION__
#endif

enum { MAX_INPUT_BYTES = 256 << 20 };

int sp_cmd_tokenize(const sp_opts *o)
{
    char path[1024];
    sp_diag d = {0};
    sp_gguf *g = NULL;
    sp_tok *t = NULL;
    sp_buf in = {0}, out = {0};
    sp_ids ids = {0};
    int code = EXIT_DONE;
    if (sp_cmd_model_path(path, sizeof path, o, &d) != SP_OK ||
        sp_gguf_open(&g, path, &d) != SP_OK || sp_tok_open(&t, g, &d) != SP_OK)
        code = sp_cmd_fail(EXIT_MODEL, &d);
    else if (sp_file_read(&in, "-", MAX_INPUT_BYTES, &d) != SP_OK ||
             sp_tok_encode(t, &ids, sp_buf_str(&in), in.len,
                           sp_opt_flag(o, "special") ? SP_SPECIAL_ALL : SP_SPECIAL_NONE,
                           &d) != SP_OK)
        code = sp_cmd_fail(EXIT_RUN, &d);
    bool list = sp_opt_flag(o, "ids") || sp_opt_flag(o, "json");
    for (size_t i = 0; i < ids.n && code == EXIT_DONE; i++) {
        sp_str p = sp_tok_piece(t, ids.id[i]);
        if (list) {
            sp_buf_printf(&out, "%s%u", i ? ", " : "", ids.id[i]);
        } else {
            sp_buf_printf(&out, "%6u  ", ids.id[i]);
            sp_buf_json_str(&out, p.p, p.n);
            sp_buf_putc(&out, '\n');
        }
    }
    if (code == EXIT_DONE)
        printf(list ? "[%s]\n" : "%s", sp_buf_str(&out));
    sp_ids_fini(&ids);
    sp_buf_fini(&in);
    sp_buf_fini(&out);
    sp_tok_close(t);
    sp_gguf_close(g);
    return code;
}

int sp_cmd_embed(const sp_opts *o)
{
    sp_diag d = {0};
    sp_dev *dev = NULL;
    sp_encoder *e = NULL;
    sp_buf in = {0};
    sp_ids ids = {0};
    float *v = NULL;
    const char *const *rest;
    int code = EXIT_DONE;
    if (sp_cmd_device(&dev, o, &d) != SP_OK || sp_cmd_encoder(&e, dev, o, &d) != SP_OK)
        code = sp_cmd_fail(EXIT_MODEL, &d);
    sp_err err = SP_OK;
    if (code == EXIT_DONE) {
        if (sp_opts_rest(o, &rest))
            sp_buf_puts(&in, rest[0]);
        else
            err = sp_file_read(&in, "-", MAX_INPUT_BYTES, &d);
        if (err == SP_OK)
            err = sp_tok_encode_whole(sp_encoder_vocab(e), &ids, 0, sp_buf_str(&in), in.len, &d);
        v = sp_mem_array(sp_encoder_dim(e), sizeof *v);
        if (err == SP_OK)
            err = v ? sp_encoder_run(e, v, ids.id, ids.n, NULL, 0, &d)
                    : SP_FAIL(&d, SP_NOMEM, "embedding");
        if (err != SP_OK)
            code = sp_cmd_fail(EXIT_RUN, &d);
    }
    for (size_t i = 0; code == EXIT_DONE && i < sp_encoder_dim(e); i++)
        printf("%s%.9g", i ? ", " : "[", (double)v[i]);
    if (code == EXIT_DONE)
        puts("]");
    sp_mem_free(v);
    sp_ids_fini(&ids);
    sp_buf_fini(&in);
    sp_encoder_close(e);
    sp_dev_close(dev);
    return code;
}

int sp_cmd_config(const sp_opts *o)
{
    static const char *const origin[] = {"unset", "default",     "profile",
                                         "file",  "environment", "flag"};
    bool json = sp_opt_flag(o, "json"), show = sp_opt_flag(o, "origin");
    sp_buf out = {0};
    for (size_t i = 0; i < sp_cmd_option_count; i++) {
        const char *name = sp_cmd_options[i].name, *v = sp_opt_str(o, name),
                   *from = origin[sp_opt_origin_of(o, name)];
        if (json) {
            sp_buf_printf(&out, "%s\"%s\":{\"value\":", i ? "," : "", name);
            if (v)
                sp_buf_json_str(&out, v, strlen(v));
            else
                sp_buf_puts(&out, "null");
            sp_buf_printf(&out, ",\"origin\":\"%s\"}", from);
        } else {
            sp_buf_printf(&out, "%s: %s%s%s\n", name, v ? v : "", show ? "  # " : "",
                          show ? from : "");
        }
    }
    printf(json ? "{%s}\n" : "%s", sp_buf_str(&out));
    sp_buf_fini(&out);
    return EXIT_DONE;
}

int sp_cmd_version(const sp_opts *o)
{
    const char *cpu = sp_cpu_level_name(sp_cpu_detect());
#ifdef SP_STATIC
    const char *links = "static", *words = "; needs no library but glibc";
#else
    const char *links = "shared", *words = "";
#endif
    if (sp_opt_flag(o, "json"))
        printf("{\"version\":\"%s\",\"cpu\":\"%s\",\"compiler\":\"%s\",\"libraries\":\"%s\"}\n",
               SP_VERSION, cpu, __VERSION__, links);
    else
        printf("sparing %s (%s; built with " COMPILER "%s%s)\n", SP_VERSION, cpu, words,
               sp_cpu_is_whole() ? "" : " for the processor of this machine");
    return EXIT_DONE;
}
