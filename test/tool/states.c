/* Test tool: what an encoder makes of a text. usage: states MODEL [CPU_LEVEL [COPIES]], token ids on stdin. On stdout, f32: the last
 * states [n, n_embd], then the vector of unit length, or a reranker's score. COPIES: the text is computed beside so many others, shorter
 * ones before it and after it, and the states are those of the text. */
#include "opened.h"

#include "model/encoder.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_COPIES = 8 };

static int fail(const sp_diag *d)
{
    fprintf(stderr, "states: %s\n", d->msg);
    return 1;
}

/* The states of o->tok, beside `copies` turned and shortened texts of the same tokens. */
static sp_err run_states(opened *o, float *states, size_t copies)
{
    static uint32_t turned[MAX_COPIES][CAP_TOK];
    sp_model_text text[MAX_COPIES + 1];
    size_t n = 0, n_tok = 0, before = 0, c = sp_model_arch(o->model)->n_embd;
    for (size_t i = 0; i <= copies; i++) {
        if (i == copies / 2) {
            before = n_tok;
            text[n++] = (sp_model_text){o->tok, o->n, 0};
            n_tok += o->n;
            continue;
        }
        size_t few = (o->n + i) / (i + 1);
        for (size_t j = 0; j < few; j++)
            turned[i][j] = o->tok[o->n - 1 - (i + j) % o->n];
        text[n++] = (sp_model_text){turned[i], few, 0};
        n_tok += few;
    }
    float *all = malloc(n_tok * c * sizeof *all);
    sp_err err = all ? sp_model_work_new(&o->work, o->model, n_tok, 0, &o->d) : SP_NOMEM;
    if (err == SP_OK)
        err = sp_model_encode(o->model, o->work, text, n, all, &o->d);
    if (err == SP_OK)
        memcpy(states, all + before * c, o->n * c * sizeof *all);
    free(all);
    return err;
}

/* The vector or score, alone and second of three: the same bits. A vector also by the way that knows parts. */
static bool run_whole(sp_encoder *e, float *out, size_t n_out, opened *o)
{
    const sp_model_text text = {o->tok, o->n, 0}, few = {o->tok + o->n / 2, o->n - o->n / 2, 0}, three[] = {few, text, few};
    float *all = calloc(3 * n_out, sizeof *all);
    bool same = all && sp_encoder_run_texts(e, out, &text, 1, &o->d) == SP_OK && sp_encoder_run_texts(e, all, three, 3, &o->d) == SP_OK &&
                memcmp(out, all + n_out, n_out * sizeof *out) == 0;
    if (same && !sp_encoder_is_ranker(e))
        same = sp_encoder_run(e, all, o->tok, o->n, NULL, 0, &o->d) == SP_OK && memcmp(out, all, n_out * sizeof *out) == 0;
    free(all);
    return same;
}

int main(int argc, char **argv)
{
    static opened o;
    sp_cpu_level mask = SP_CPU_LEVELS - 1;
    sp_encoder *e = NULL;
    size_t copies = argc > 3 ? strtoul(argv[3], NULL, 10) : 0;
    if (argc < 2 || copies > MAX_COPIES || (argc > 2 && !sp_cpu_level_parse(&mask, argv[2])))
        return 2;
    if (!open_model(&o, argv[1], mask, 0, 0) || sp_encoder_open(&e, argv[1], o.dev, CAP_TOK, &o.d) != SP_OK)
        return fail(&o.d);
    size_t n_state = o.n * sp_model_arch(o.model)->n_embd, n_out = sp_encoder_dim(e);
    float *out = calloc(n_state + n_out, sizeof *out);
    if (!out || run_states(&o, out, copies) != SP_OK)
        return fail(&o.d);
    if (!run_whole(e, out + n_state, n_out, &o))
        return fail(&o.d);
    fwrite(out, sizeof *out, n_state + n_out, stdout);
    free(out);
    sp_encoder_close(e);
    sp_model_work_free(o.work);
    sp_model_free(o.model);
    sp_dev_close(o.dev);
    sp_gguf_close(o.gguf);
    return 0;
}
