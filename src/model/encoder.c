#include "model/encoder.h"

#include "base/file.h"
#include "base/mem.h"
#include "model/folder.h"
#include "model/weights.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>

enum { LEAST_TOK = 512, MAX_CUTS = 24, MAX_TEMPLATE = 1 << 14 };

struct sp_encoder {
    char name[128];
    sp_dev *dev;
    sp_folder folder; /* .p NULL: a file */
    sp_gguf *gguf;
    sp_tok *tok;
    sp_model *model;
    sp_model_work *work;
    size_t bytes;         /* of its weights */
    size_t cap, cap_work; /* tokens of the longest text; that the work and states hold */
    float *states;        /* [cap_work, n_embd], host */
    const char *form;     /* of question and text, with {query} and {document}; or NULL */
    size_t n_form;
};

/* --- opening ---------------------------------------------------------------------------------- */

/* What a reranker that is a decoder was trained with, where its file does not say. */
static const char judge[] =
    "<|im_start|>system\nJudge whether the Document meets the requirements based on the Query and "
    "the Instruct provided. Note that the answer "
    "can only be \"yes\" or \"no\".<|im_end|>\n<|im_start|>user\n<Instruct>: Given a web search "
    "query, retrieve relevant passages that answer "
    "the query\n<Query>: {query}\n<Document>: "
    "{document}<|im_end|>\n<|im_start|>assistant\n<think>\n\n</think>\n\n";

static const char *find(const char *p, size_t n, const char *what)
{
    return memmem(p, n, what, strlen(what));
}

static sp_err read_form(sp_encoder *e, sp_diag *d)
{
    sp_str s = {judge, sizeof judge - 1};
    sp_err err = sp_gguf_str(&s, e->gguf, "tokenizer.chat_template.rerank", d);
    if (err != SP_OK && err != SP_NOTFOUND)
        return err;
    if (err == SP_NOTFOUND && e->model->arch.both_ways)
        return SP_OK;
    const char *q = find(s.p, s.n, "{query}"), *t = find(s.p, s.n, "{document}");
    if (!q || !t || q > t || s.n > MAX_TEMPLATE)
        return SP_FAIL(d, SP_UNSUP,
                       "gguf: key tokenizer.chat_template.rerank does not hold {query} and, behind "
                       "it, {document}");
    e->form = s.p;
    e->n_form = s.n;
    return SP_OK;
}

static sp_err open_file(sp_encoder *e, const char *path, sp_diag *d)
{
    struct stat st;
    if (stat(path, &st) == 0 && S_ISDIR(st.st_mode)) {
        SP_TRY(sp_folder_read(&e->folder, path, d));
        return sp_gguf_open_mem(&e->gguf, e->folder.p, e->folder.n, d);
    }
    return sp_gguf_open(&e->gguf, path, d);
}

/* Steps that a text without pages does not go through. */
static sp_err check_arch(const sp_arch *a, sp_diag *d)
{
    if (!sp_arch_is_encoder(a))
        return SP_FAIL(d, SP_UNSUP, "architecture %s without the key %s.pooling_type is no encoder",
                       a->name, a->name);
    if (a->attn_cap > 0 || a->sinks)
        return SP_FAIL(d, SP_UNSUP, "an encoder with soft caps or sinks is not supported");
    return SP_OK;
}

static sp_err open_all(sp_encoder *e, const char *path, size_t cap_tok, sp_diag *d)
{
    SP_TRY(open_file(e, path, d));
    SP_TRY(sp_model_load_texts(&e->model, e->gguf, e->dev, d));
    const sp_arch *a = &e->model->arch;
    SP_TRY(check_arch(a, d));
    SP_TRY(sp_tok_open(&e->tok, e->gguf, d));
    if (sp_tok_count(e->tok) > a->n_vocab)
        return SP_FAIL(d, SP_FORMAT, "the vocabulary has %zu tokens, the embedding %zu rows",
                       sp_tok_count(e->tok), a->n_vocab);
    /* The last state is that of the end mark, which files leave out that were made before the key
     * was known. */
    if (a->pooling == SP_POOL_LAST && !sp_gguf_has(e->gguf, "tokenizer.ggml.add_eos_token"))
        sp_tok_add_eos(e->tok);
    e->cap = a->n_ctx < cap_tok ? a->n_ctx : cap_tok;
    if (sp_encoder_is_ranker(e))
        SP_TRY(read_form(e, d));
    for (size_t i = 0; i < sp_gguf_tensor_count(e->gguf); i++)
        e->bytes += sp_gguf_tensor_at(e->gguf, i)->n_bytes;
    if (e->folder.p)
        sp_file_map_forget((const char *)e->folder.p + e->folder.matrices_at,
                           e->folder.n - e->folder.matrices_at);
    return sp_gguf_own(e->gguf, d);
}

static void name_it(sp_encoder *e, const char *path)
{
    size_t n = strlen(path);
    while (n > 1 && path[n - 1] == '/')
        n--;
    size_t at = n;
    while (at && path[at - 1] != '/')
        at--;
    if (n - at > 5 && memcmp(path + n - 5, ".gguf", 5) == 0)
        n -= 5;
    snprintf(e->name, sizeof e->name, "%.*s", (int)(n - at < 120 ? n - at : 120), path + at);
}

sp_err sp_encoder_open(sp_encoder **out, const char *path, sp_dev *dev, size_t cap_tok, sp_diag *d)
{
    sp_encoder *e = sp_mem_alloc(sizeof *e);
    sp_diag why = {0};
    if (!e)
        return SP_FAIL(d, SP_NOMEM, "encoder");
    e->dev = dev;
    name_it(e, path);
    sp_err err = open_all(e, path, cap_tok, &why);
    if (err == SP_OK) {
        *out = e;
        return SP_OK;
    }
    sp_encoder_close(e);
    return SP_FAIL(d, err, strncmp(why.msg, path, strlen(path)) == 0 ? "%.0s%s" : "%.60s: %s", path,
                   why.msg);
}

void sp_encoder_close(sp_encoder *e)
{
    if (!e)
        return;
    sp_model_work_free(e->work);
    sp_mem_free(e->states);
    sp_tok_close(e->tok);
    sp_model_free(e->model);
    sp_gguf_close(e->gguf);
    sp_mem_free(e->folder.p);
    sp_mem_free(e);
}

const char *sp_encoder_name(const sp_encoder *e)
{
    return e->name;
}

size_t sp_encoder_dim(const sp_encoder *e)
{
    return sp_encoder_is_ranker(e) ? 1 : sp_arch_dim(&e->model->arch);
}

/* What texts of up to cap tokens take beside the weights. */
static size_t bytes_of_texts(const sp_arch *a, size_t cap)
{
    return cap * a->n_embd * sizeof(float) +
           sp_model_work_bytes(a, cap > LEAST_TOK ? cap : LEAST_TOK, 1);
}

size_t sp_encoder_bytes(const sp_encoder *e)
{
    return e->bytes + bytes_of_texts(&e->model->arch, e->cap);
}

size_t sp_encoder_need(const sp_arch *a, const sp_gguf *g, size_t cap_tok)
{
    size_t sum = bytes_of_texts(a, a->n_ctx < cap_tok ? a->n_ctx : cap_tok);
    for (size_t i = 0; i < sp_gguf_tensor_count(g); i++)
        sum += sp_gguf_tensor_at(g, i)->n_bytes;
    return sum;
}

size_t sp_encoder_cap(const sp_encoder *e)
{
    return e->cap;
}

bool sp_encoder_is_ranker(const sp_encoder *e)
{
    return e->model->arch.pooling == SP_POOL_RANK;
}

bool sp_encoder_is_mean(const sp_encoder *e)
{
    return e->model->arch.pooling == SP_POOL_MEAN;
}

const sp_tok *sp_encoder_vocab(const sp_encoder *e)
{
    return e->tok;
}

/* --- running ---------------------------------------------------------------------------------- */

static sp_err fit_work(sp_encoder *e, size_t n, sp_diag *d)
{
    if (n <= e->cap_work)
        return SP_OK;
    size_t cap = n > LEAST_TOK ? n : LEAST_TOK;
    sp_model_work_free(e->work);
    sp_mem_free(e->states);
    e->work = NULL;
    e->cap_work = 0;
    e->states = sp_mem_array(cap * e->model->arch.n_embd, sizeof *e->states);
    if (!e->states)
        return SP_FAIL(d, SP_NOMEM, "activations of %zu tokens", cap);
    SP_TRY(sp_model_work_new(&e->work, e->model, cap, 0, d));
    e->cap_work = cap;
    return SP_OK;
}

static sp_err run_states(sp_encoder *e, const sp_model_text *text, size_t n_text, sp_diag *d)
{
    size_t n_tok = 0;
    for (size_t i = 0; i < n_text; n_tok += text[i++].n)
        if (text[i].n == 0 || text[i].n > e->cap)
            return SP_FAIL(d, SP_INVAL, "the text has %zu tokens, the encoder takes at most %zu",
                           text[i].n, e->cap);
    SP_TRY(fit_work(e, n_tok, d));
    return sp_model_encode(e->model, e->work, text, n_text, e->states, d);
}

/* out [n_row, w->n_row] = x [n_row, w->k] . w^T + bias, both on the host. */
static sp_err apply(sp_encoder *e, float *out, const sp_dev_weight *w, float *bias, const float *x,
                    size_t n_row)
{
    const sp_dev_ops *ops = e->dev->ops;
    void *in = NULL, *to = NULL;
    sp_err err = ops->mem_raw(e->dev, &in, n_row * w->k * sizeof *x);
    if (err == SP_OK)
        err = ops->mem_raw(e->dev, &to, n_row * w->n_row * sizeof *out);
    if (err == SP_OK)
        err = ops->mem_write(e->dev, in, x, n_row * w->k * sizeof *x);
    const sp_dev_matmul product = {.out = (float *const[]){to},
                                   .x = in,
                                   .w = w,
                                   .bias = (const float *const[]){bias},
                                   .n_w = 1,
                                   .n_row = n_row,
                                   .stage = SP_STAGE_REST};
    if (err == SP_OK)
        err = ops->matmul(e->dev, &product);
    if (err == SP_OK)
        err = ops->mem_read(e->dev, out, to, n_row * w->n_row * sizeof *out);
    ops->mem_free(e->dev, in);
    ops->mem_free(e->dev, to);
    return err;
}

/* Of states [first, end). */
static void pool(const sp_encoder *e, float *out, size_t first, size_t end, sp_pooling how)
{
    size_t c = e->model->arch.n_embd;
    size_t from = how == SP_POOL_LAST ? end - 1 : first, to = how == SP_POOL_CLS ? first + 1 : end;
    for (size_t i = 0; i < c; i++) {
        double sum = 0;
        for (size_t t = from; t < to; t++)
            sum += (double)e->states[t * c + i];
        out[i] = (float)(sum / (double)(to - from));
    }
}

static void to_unit(float *v, size_t n)
{
    double norm = 0;
    for (size_t i = 0; i < n; i++)
        norm += (double)v[i] * (double)v[i];
    for (size_t i = 0; i < n; i++)
        v[i] = (float)((double)v[i] / fmax(sqrt(norm), 1e-12));
}

/* Pooled states [n_row, n_embd] become vectors. */
static sp_err finish_vectors(sp_encoder *e, float *out, const float *pooled, size_t n_row)
{
    const sp_arch *a = &e->model->arch;
    size_t dim = sp_arch_dim(a);
    if (!a->n_dense) {
        memcpy(out, pooled, n_row * dim * sizeof *out);
    } else {
        float *mid = sp_mem_array(n_row * a->n_dense, sizeof *mid);
        sp_err err = mid ? apply(e, mid, &e->model->dense[0], NULL, pooled, n_row) : SP_NOMEM;
        if (err == SP_OK)
            err = apply(e, out, &e->model->dense[1], NULL, mid, n_row);
        sp_mem_free(mid);
        SP_TRY(err);
    }
    for (size_t i = 0; i < n_row; i++)
        to_unit(out + i * dim, dim);
    return SP_OK;
}

static float first_share(const float *x, size_t n)
{
    double sum = 0, most = (double)x[0];
    for (size_t i = 0; i < n; i++)
        most = fmax(most, (double)x[i]);
    for (size_t i = 0; i < n; i++)
        sum += exp((double)x[i] - most);
    return (float)(exp((double)x[0] - most) / sum);
}

/* ... or scores; the states are lost. */
static sp_err finish_scores(sp_encoder *e, float *out, float *pooled, size_t n_row)
{
    const sp_model *m = e->model;
    size_t n_label = m->arch.n_label;
    if (m->cls.data) {
        SP_TRY(apply(e, pooled, &m->cls, m->cls_bias, pooled, n_row));
        for (size_t i = 0; i < n_row * m->arch.n_embd; i++)
            pooled[i] = tanhf(pooled[i]);
    }
    float *label = sp_mem_array(n_row * n_label, sizeof *label);
    sp_err err = label ? apply(e, label, &m->cls_out, m->cls_out_bias, pooled, n_row) : SP_NOMEM;
    for (size_t i = 0; i < n_row && err == SP_OK; i++)
        out[i] = n_label == 1 ? label[i] : first_share(label + i * n_label, n_label);
    sp_mem_free(label);
    return err;
}

sp_err sp_encoder_run_texts(sp_encoder *e, float *out, const sp_model_text *text, size_t n_text,
                            sp_diag *d)
{
    const sp_arch *a = &e->model->arch;
    bool ranks = sp_encoder_is_ranker(e);
    /* A score is made of the first state, or, where tokens see earlier ones only, of the last. */
    sp_pooling how = !ranks ? a->pooling : a->both_ways ? SP_POOL_CLS : SP_POOL_LAST;
    SP_TRY(run_states(e, text, n_text, d));
    float *pooled = sp_mem_array(n_text * a->n_embd, sizeof *pooled);
    for (size_t i = 0, first = 0; i < n_text && pooled; first += text[i++].n)
        pool(e, pooled + i * a->n_embd, first, first + text[i].n, how);
    sp_err err = !pooled ? SP_NOMEM
                 : ranks ? finish_scores(e, out, pooled, n_text)
                         : finish_vectors(e, out, pooled, n_text);
    sp_mem_free(pooled);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "encoding %zu texts", n_text);
}

sp_err sp_encoder_run(sp_encoder *e, float *out, const uint32_t *id, size_t n,
                      const sp_enc_part *part, size_t n_part, sp_diag *d)
{
    const sp_arch *a = &e->model->arch;
    const sp_model_text text = {id, n, 0};
    if (sp_encoder_is_ranker(e))
        return SP_FAIL(d, SP_UNSUP, "%.100s is a reranker: it gives scores of pairs, no vectors",
                       e->name);
    SP_TRY(run_states(e, &text, 1, d));
    float *pooled = sp_mem_array((1 + n_part) * a->n_embd, sizeof *pooled);
    if (!pooled)
        return SP_FAIL(d, SP_NOMEM, "embedding");
    pool(e, pooled, 0, n, a->pooling);
    for (size_t i = 0; i < n_part; i++)
        pool(e, pooled + (i + 1) * a->n_embd, part[i].first, part[i].end,
             a->pooling == SP_POOL_CLS ? SP_POOL_MEAN : a->pooling);
    sp_err err = finish_vectors(e, out, pooled, 1 + n_part);
    sp_mem_free(pooled);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "encoding %zu tokens", n);
}

/* --- ranking ---------------------------------------------------------------------------------- */

float sp_encoder_relevance(const sp_encoder *e, float raw)
{
    return e->model->arch.n_label == 1 ? 1.0f / (1.0f + expf(-raw)) : raw;
}

/* The model's own text around question and document; in it alone control tokens count. */
static sp_err encode_form(const sp_encoder *e, sp_ids *out, sp_str question, sp_str text,
                          sp_diag *d)
{
    static const char query[] = "{query}", document[] = "{document}";
    const char *q = find(e->form, e->n_form, query), *t = find(e->form, e->n_form, document);
    sp_buf b = {0};
    sp_tok_range foreign[2];
    sp_buf_put(&b, e->form, (size_t)(q - e->form));
    foreign[0] = (sp_tok_range){b.len, b.len + question.n};
    sp_buf_put(&b, question.p, question.n);
    q += sizeof query - 1;
    sp_buf_put(&b, q, (size_t)(t - q));
    foreign[1] = (sp_tok_range){b.len, b.len + text.n};
    sp_buf_put(&b, text.p, text.n);
    t += sizeof document - 1;
    sp_buf_put(&b, t, e->n_form - (size_t)(t - e->form));
    sp_err err = b.failed ? SP_FAIL(d, SP_NOMEM, "reranking")
                          : sp_tok_encode_marked(e->tok, out, sp_buf_str(&b), b.len, foreign, 2, d);
    sp_buf_fini(&b);
    return err;
}

/* Of a text that stands by its beginning: fewer bytes, by the share of tokens that is too much, and
 * whole characters. */
static size_t shorten(sp_str text, size_t n_tok, size_t cap)
{
    size_t n = text.n * cap / n_tok;
    n = n > 8 ? n - 8 : 0;
    while (n && ((unsigned char)text.p[n] & 0xc0) == 0x80)
        n--;
    return n;
}

/* Begin mark, question, end mark, text, end mark. Where the end mark is the end of text, as in
 * RoBERTa's relatives, two of them stand between, and the second text is not of a type of its own.
 */
static sp_err encode_marks(const sp_encoder *e, sp_ids *out, size_t *second, bool *is_cut,
                           sp_str question, sp_str text, sp_diag *d)
{
    uint32_t end = sp_tok_closing(e->tok);
    if (sp_tok_adds_bos(e->tok))
        SP_TRY(sp_ids_push(out, sp_tok_bos(e->tok)));
    SP_TRY(sp_tok_encode(e->tok, out, question.p, question.n, SP_SPECIAL_NONE, d));
    bool is_twice = end == sp_tok_eos(e->tok);
    for (int i = 0; end != SP_TOK_NONE && i < 1 + is_twice; i++)
        SP_TRY(sp_ids_push(out, end));
    *second = is_twice ? 0 : out->n;
    if (out->n + 2 > e->cap)
        return SP_FAIL(d, SP_INVAL,
                       "the question has %zu tokens, question and text together may have %zu",
                       out->n, e->cap);
    SP_TRY(sp_tok_encode(e->tok, out, text.p, text.n, SP_SPECIAL_NONE, d));
    *is_cut = out->n + 1 > e->cap;
    out->n = *is_cut ? e->cap - 1 : out->n;
    return end != SP_TOK_NONE ? sp_ids_push(out, end) : SP_OK;
}

sp_err sp_encoder_pair(const sp_encoder *e, sp_ids *out, size_t *second, bool *is_cut,
                       sp_str question, sp_str text, sp_diag *d)
{
    if (!e->form)
        return encode_marks(e, out, second, is_cut, question, text, d);
    *second = 0;
    for (int i = 0; i < MAX_CUTS; i++) {
        out->n = 0;
        SP_TRY(encode_form(e, out, question, text, d));
        *is_cut = i > 0;
        if (out->n <= e->cap)
            return SP_OK;
        if (!text.n)
            break;
        text.n = shorten(text, out->n, e->cap);
    }
    return SP_FAIL(d, SP_INVAL,
                   "the question takes %zu tokens with what the model needs around it, question "
                   "and text together may have %zu",
                   out->n, e->cap);
}
