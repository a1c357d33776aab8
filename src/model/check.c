#include "model/check.h"
#include "kern/fp8.h"

#include "base/mem.h"
#include "fmt/grid.h"
#include "model/model.h"
#include "model/weights.h"

#include <stdarg.h>
#include <stdio.h>
#include <string.h>

enum {
    REST_BYTES = 16 << 20, /* libraries, threads, what requests hold */
    ENTRY_BYTES = 160,     /* of the tokenizer for each entry of the vocabulary */
    /* a step of the server takes less with the default options */
    STEP_TOK = 1024,
    STEP_LOGITS = 96,
    /* of the longest text that an encoder takes with the default options */
    TEXT_TOK = 2048,
    PAGE_TOK = 32,
    SEQ_STATES =
        3 /* of a sequence with recurrent layers: before and behind a step, and at a page's end */
};
#define MIB ((size_t)1 << 20)

/* Types that files are commonly made in, with the bytes of 256 weights, the largest first. */
static const struct { const char *name; size_t blk_bytes; } smaller[] = {
    {"Q8_0", 272}, {"Q6_K", 210}, {"Q5_K", 176}, {"Q4_K", 144}, {"Q3_K", 110}, {"Q2_K", 84}};

static void SP_PRINTF(3, 4) add_why(sp_check *c, sp_err code, const char *fmt, ...)
{
    if (c->n_why == SP_CHECK_WHY)
        return;
    char *to = c->why[c->n_why];
    size_t n = (size_t)snprintf(to, sizeof c->why[0], "%.127s: ", c->name);
    va_list args;
    va_start(args, fmt);
    vsnprintf(to + n, sizeof c->why[0] - n, fmt, args);
    va_end(args);
    c->why_code[c->n_why++] = code;
}

/* The same for what a function said, where it failed. */
static bool is_fine(sp_check *c, sp_err err, const sp_diag *d)
{
    if (err != SP_OK)
        add_why(c, err, "%s", d->msg[0] ? d->msg : sp_err_name(err));
    return err == SP_OK;
}

static void open_file(sp_check *c, const char *path)
{
    sp_diag d = {0};
    const char *base = strrchr(path, '/');
    snprintf(c->name, sizeof c->name, "%.127s", base ? base + 1 : path);
    sp_err err = sp_gguf_open(&c->gguf, path, &d);
    if (is_fine(c, err, &d))
        return;
    /* A message about the file as a whole begins with its path; the name stands before it
     * already. */
    size_t n = strlen(path);
    if (strncmp(d.msg, path, n) == 0)
        snprintf(c->why[0], sizeof c->why[0], "%s", d.msg);
    else if (sp_gguf_open_keys(&c->gguf, path, NULL) != SP_OK)
        c->gguf = NULL;
}

static bool is_expert(const sp_tensor *t)
{
    static const char tail[] = "_exps.weight";
    return t->name.n >= sizeof tail - 1 &&
           memcmp(t->name.p + t->name.n - (sizeof tail - 1), tail, sizeof tail - 1) == 0;
}

/* Rows of tokens of which each layer reads a part. */
static bool stays_in_file(const sp_tensor *t)
{
    static const char name[] = "per_layer_token_embd.weight";
    return t->name.n == sizeof name - 1 && memcmp(t->name.p, name, sizeof name - 1) == 0;
}

bool sp_check_must_stay(const sp_tensor *t)
{
    return !is_expert(t) && !stays_in_file(t);
}

static void describe(sp_check *c)
{
    sp_str s;
    size_t bytes[SP_TYPE_COUNT] = {0}, most = 0;
    if (sp_gguf_str(&s, c->gguf, "general.license", NULL) == SP_OK)
        snprintf(c->license, sizeof c->license, "%.*s", s.n < 63 ? (int)s.n : 63, s.p);
    c->file_bytes = sp_gguf_file_bytes(c->gguf);
    for (size_t i = 0; i < sp_gguf_tensor_count(c->gguf); i++) {
        const sp_tensor *t = sp_gguf_tensor_at(c->gguf, i);
        bytes[t->type] += t->n_bytes;
        if (!stays_in_file(t))
            *(is_expert(t) ? &c->expert_bytes : &c->need_bytes) += t->n_bytes;
        c->n_weight += (size_t)(t->dim[0] * t->dim[1] * t->dim[2] * t->dim[3]);
        if (bytes[t->type] > most) {
            most = bytes[t->type];
            snprintf(c->type, sizeof c->type, "%s", sp_type_name((uint32_t)t->type));
        }
    }
}

static void check_arch(sp_check *c)
{
    sp_diag d = {0};
    c->has_arch = is_fine(c, sp_arch_read(&c->arch, c->gguf, &d), &d);
}

static void check_text(sp_check *c, const sp_check_cfg *cfg)
{
    sp_diag d = {0};
    is_fine(c, sp_tok_open(&c->tok, c->gguf, &d), &d);
    d = (sp_diag){0};
    sp_err err = cfg->chat.n ? sp_chat_open_text(&c->chat, cfg->chat.p, cfg->chat.n, &d)
                             : sp_chat_open(&c->chat, c->gguf, &d);
    if (err != SP_OK && err != SP_NOTFOUND)
        add_why(c, err, "chat template: %s", d.msg);
}

/* Every weight is looked for as loading does. */
static void check_weights(sp_check *c, const sp_check_cfg *cfg)
{
    sp_diag d = {0};
    sp_model *m = sp_mem_alloc(sizeof *m);
    if (!m) {
        add_why(c, SP_NOMEM, "weights");
        return;
    }
    m->dev = cfg->dev;
    m->arch = c->arch;
    if (is_fine(c, sp_weights_bind(m, c->gguf, &d), &d) && c->tok &&
        m->arch.n_vocab != sp_tok_count(c->tok))
        add_why(c, SP_FORMAT, "the vocabulary has %zu tokens, the embedding %zu rows",
                sp_tok_count(c->tok), m->arch.n_vocab);
    c->arch = m->arch;
    sp_model_free(m);
}

static void check_context(sp_check *c, const sp_check_cfg *cfg)
{
    const sp_arch *a = &c->arch;
    const sp_kv_shape shape = sp_arch_kv_shape(a, cfg->format);
    bool has_pages = !sp_arch_is_encoder(a);
    c->n_ctx = has_pages && cfg->n_ctx ? cfg->n_ctx : a->n_ctx;
    if (!has_pages)
        return;
    if (c->n_ctx > a->n_ctx)
        add_why(c, SP_INVAL, "ctx: %zu is more than the model's %zu", c->n_ctx, a->n_ctx);
    if (!sp_kv_shape_fits(&shape))
        add_why(
            c, SP_UNSUP,
            cfg->format->is_fp8 && a->latent.n
                ? "kv-type: %s holds no latents (of at most %d elements; heads have %zu): use q8"
                : "kv-type: %s holds heads of at most %d elements, the model has %zu: use f16",
            cfg->format->name, cfg->format->is_fp8 ? SP_FP8_HEAD : SP_MAX_HEAD, a->d_head);
    else
        c->page_bytes = sp_kv_page_bytes(&shape);
}

/* What the same model would have to be to fit, as the types of files are named. */
static const char *instead(const sp_check *c, size_t rest, size_t free_bytes)
{
    for (size_t i = 0; i < sizeof smaller / sizeof smaller[0]; i++)
        if (rest <= free_bytes && c->n_weight / 256 * smaller[i].blk_bytes <= free_bytes - rest)
            return smaller[i].name;
    return NULL;
}

/* 0: some layer sees all. */
static size_t widest_window(const sp_arch *a)
{
    size_t most = 0;
    for (size_t i = 0; i < a->n_layer; i++) {
        if (!a->layer[i].window)
            return 0;
        most = a->layer[i].window > most ? a->layer[i].window : most;
    }
    return most;
}

/* room: memory that the model leaves. Pages behind every window are given back: of a longer context
 * they hold the window. */
static void check_pages(sp_check *c, const sp_check_cfg *cfg, size_t room)
{
    if (c->arch.state.n_bytes) {
        c->snap_bytes = cfg->snap_bytes <= room / 4 ? cfg->snap_bytes : room / 4;
        room -= c->snap_bytes;
    }
    size_t window = widest_window(&c->arch),
           held = window && window + 2 * PAGE_TOK < c->n_ctx ? window + 2 * PAGE_TOK : c->n_ctx;
    c->kv_bytes = cfg->kv_bytes <= room ? cfg->kv_bytes : room / 2;
    if (cfg->kv_is_asked && cfg->kv_bytes > room)
        add_why(c, SP_LIMIT,
                "kv-bytes: %zu MiB for pages beside %zu MiB for the model, %zu MiB are available",
                cfg->kv_bytes / MIB, c->need_bytes / MIB, cfg->free_bytes / MIB);
    if (!c->page_bytes)
        return;
    size_t n_page = (held + PAGE_TOK - 1) / PAGE_TOK, has_page = c->kv_bytes / c->page_bytes;
    c->fit_tok = n_page <= has_page ? c->n_ctx : has_page * PAGE_TOK;
    if (cfg->n_ctx && n_page > room / c->page_bytes)
        add_why(c, SP_LIMIT,
                "ctx: pages of %zu tokens take %zu MiB, %zu MiB are available beside the model; a "
                "context of %zu would fit",
                held, n_page * c->page_bytes / MIB, room / MIB, room / c->page_bytes * PAGE_TOK);
}

/* Experts that do not fit stay in the file. need_bytes: what all else takes. */
static void fit_experts(sp_check *c, const sp_check_cfg *cfg)
{
    size_t all = c->expert_bytes, asked = cfg->expert_bytes;
    if (all && !(asked ? asked >= all : c->need_bytes + all <= cfg->free_bytes) &&
        c->need_bytes < cfg->free_bytes)
        c->expert_room =
            asked ? asked : (cfg->free_bytes - c->need_bytes) / 4 * 3; /* the rest is for pages */
}

/* Weights first, then pages. */
static void check_memory(sp_check *c, const sp_check_cfg *cfg)
{
    bool has_pages = !sp_arch_is_encoder(&c->arch);
    size_t n_text = c->arch.n_ctx < TEXT_TOK ? c->arch.n_ctx : TEXT_TOK;
    size_t n_tok = cfg->step_tok > STEP_TOK ? cfg->step_tok : STEP_TOK;
    size_t n_logits = cfg->step_logits > STEP_LOGITS ? cfg->step_logits : STEP_LOGITS;
    size_t rest = REST_BYTES + c->arch.n_vocab * ENTRY_BYTES + SEQ_STATES * c->arch.state.n_bytes +
                  sp_arch_kept_bytes(&c->arch) +
                  (has_pages ? sp_model_work_bytes(&c->arch, n_tok, n_logits)
                             : sp_model_work_bytes(&c->arch, n_text, 0));
    c->need_bytes += rest;
    fit_experts(c, cfg);
    c->need_bytes += c->expert_room ? c->expert_room : c->expert_bytes;
    if (c->need_bytes > cfg->free_bytes) {
        const char *type = instead(c, rest, cfg->free_bytes);
        add_why(c, SP_LIMIT, "the model needs %zu MiB of memory, %zu MiB are available; %s%s",
                c->need_bytes / MIB, cfg->free_bytes / MIB,
                type ? "a file of it would fit in " : "no file of this model would fit",
                type ? type : "");
        return;
    }
    if (has_pages)
        check_pages(c, cfg, cfg->free_bytes - c->need_bytes);
}

void sp_check_file(sp_check *out, const char *path, const sp_check_cfg *cfg)
{
    sp_check *c = out;
    memset(c, 0, sizeof *c);
    open_file(c, path);
    if (!c->gguf)
        return;
    bool has_tensors = c->n_why == 0;
    describe(c);
    check_arch(c);
    check_text(c, cfg);
    if (!c->has_arch)
        return;
    if (has_tensors)
        check_weights(c, cfg);
    check_context(c, cfg);
    if (has_tensors)
        check_memory(c, cfg);
}

void sp_check_fini(sp_check *c)
{
    sp_chat_close(c->chat);
    sp_tok_close(c->tok);
    sp_gguf_close(c->gguf);
    c->chat = NULL;
    c->tok = NULL;
    c->gguf = NULL;
}

size_t sp_check_kv_1000(const sp_check *c)
{
    return (c->page_bytes * 1000 + PAGE_TOK - 1) / PAGE_TOK;
}
