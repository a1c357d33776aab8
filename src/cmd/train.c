/* `sparing train intent`: labelled prompts to the intent model, and how good it is on families it
 * has not seen. */
#include "cmd/cmd.h"

#include "base/file.h"
#include "pipe/intent_train.h"

#include <stdio.h>
#include <string.h>

enum { MAX_INPUT_BYTES = 256 << 20 };

static void print_json(const sp_intent_result *r)
{
    printf("{\"train\":%zu,\"test\":%zu,\"families\":%zu,\"held\":%zu,\"accuracy\":{\"class\":%.4f,"
           "\"path\":%.4f,\"need\":%.4f},\"ece\":{\"path\":%.4f,\"need\":%.4f},",
           r->n_train, r->n_test, r->n_family, r->n_held, r->cls, r->full, r->need, r->ece_full,
           r->ece_need);
    printf("\"area\":{\"model\":%.4f,\"length\":%.4f,\"random\":%.4f},\"least_gain\":{\"random\":%."
           "4f,\"length\":%.4f}}\n",
           r->area, r->area_length, r->area_random, r->least_gain, r->least_gain_length);
}

static void print(const sp_intent_result *r)
{
    static const char *const name[] = {"model", "length alone", "random"};
    printf("%zu prompts to learn from, %zu of %zu held-out families to test on\n", r->n_train,
           r->n_test, r->n_held);
    printf("right: class %.3f, light or full %.3f, needs knowledge %.3f\n", r->cls, r->full,
           r->need);
    printf("expected calibration error: light or full %.3f, needs knowledge %.3f\n", r->ece_full,
           r->ece_need);
    printf("share of prompts whose path is enough, by the share that takes the full path\n%-13s",
           "");
    for (int i = 0; i <= 10; i++)
        printf("%6.1f", i / 10.0);
    for (int k = 0; k < 3; k++) {
        printf("\n%-13s", name[k]);
        for (int i = 0; i <= 10; i++)
            printf("%6.3f", r->curve[k][i]);
    }
    printf("\nleast distance above random %.3f, above length alone %.3f\n", r->least_gain,
           r->least_gain_length);
}

static sp_err write_file(const char *path, const sp_buf *b, sp_diag *d)
{
    FILE *f = fopen(path, "wb");
    bool ok = f && fwrite(b->p, 1, b->len, f) == b->len;
    ok = f && fclose(f) == 0 && ok;
    return ok ? SP_OK : SP_FAIL(d, SP_IO, "%.120s: cannot be written", path);
}

int sp_cmd_train(const sp_opts *o)
{
    const char *const *rest, *out_path = sp_opt_str(o, "output"),
                             *model_path = sp_opt_str(o, "intent-model");
    size_t n_rest = sp_opts_rest(o, &rest);
    sp_buf in = {0}, out = {0};
    sp_intent_result r;
    sp_intent_model m;
    sp_diag d = {0};
    if (n_rest == 2 && strcmp(rest[0], "draft") == 0)
        return sp_cmd_train_draft(o, rest[1]);
    if (n_rest == 2 && strcmp(rest[0], "control") == 0)
        return sp_cmd_train_control(o, rest[1]);
    if (n_rest != 2 || strcmp(rest[0], "intent") != 0) {
        (void)SP_FAIL(&d, SP_INVAL,
                      "train: what is trained is intent or control, from a FILE of prompts, or "
                      "draft, from a file or folder of texts");
        return sp_cmd_fail(EXIT_USAGE, &d);
    }
    sp_err err = sp_file_read(&in, rest[1], MAX_INPUT_BYTES, &d);
    if (err == SP_OK && model_path) {
        err = sp_file_read(&out, model_path, SP_INTENT_BYTES, &d);
        if (err == SP_OK)
            err = sp_intent_open(&m, sp_buf_str(&out), out.len, &d);
        if (err == SP_OK)
            err = sp_intent_test(&r, &m, sp_buf_str(&in), in.len, &d);
    } else if (err == SP_OK) {
        err = sp_intent_train(&out, &r, sp_buf_str(&in), in.len, &d);
        if (err == SP_OK && out_path)
            err = write_file(out_path, &out, &d);
    }
    if (err == SP_OK && sp_opt_flag(o, "json"))
        print_json(&r);
    else if (err == SP_OK)
        print(&r);
    sp_buf_fini(&in);
    sp_buf_fini(&out);
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(EXIT_RUN, &d);
}
