/* Opening models for the commands. */
#include "cmd/cmd.h"

#include "base/host.h"
#include "base/log.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum {
    REST_BYTES = 16 << 20,             /* libraries, threads, what requests hold */
    ENTRY_BYTES = 160,                 /* of the tokenizer for each entry of the vocabulary */
    STEP_TOK = 1024, STEP_LOGITS = 64  /* a step of the server takes less with the default options */
};

#define FAST_FLOPS 4e11 /* a core at its best: until measured, only what surely pays is fetched */

#define DEFAULT_MODEL "SmolLM2-135M-Instruct.Q4_1.gguf"
#define DEFAULT_EMBED "all-MiniLM-L6-v2"

sp_err sp_cmd_model_path(char *out, size_t cap, const sp_opts *o, sp_diag *d)
{
    const char *given = sp_opt_str(o, "model");
    int n = given ? snprintf(out, cap, "%s", given) : snprintf(out, cap, "%s/" DEFAULT_MODEL, sp_opt_str(o, "models-dir"));
    if (n < 0 || (size_t)n >= cap)
        return SP_FAIL(d, SP_INVAL, "the model's path is too long");
    if (!given && access(out, R_OK) != 0)
        return SP_FAIL(d, SP_NOTFOUND, "%.120s is not there: run `make run`, or name a model with -m", out);
    return SP_OK;
}

bool sp_cmd_embed_path(char *out, size_t cap, const sp_opts *o)
{
    const char *given = sp_opt_str(o, "embed-model");
    if (given) {
        snprintf(out, cap, "%s", given);
        return true;
    }
    snprintf(out, cap, "%s/" DEFAULT_EMBED, sp_opt_str(o, "models-dir"));
    return access(out, R_OK) == 0;
}

sp_err sp_cmd_device(sp_dev **out, const sp_opts *o, sp_diag *d)
{
    sp_dev_cfg cfg = {.name = sp_opt_str(o, "device"), .n_thread = (size_t)sp_opt_int(o, "threads"), .mask = SP_CPU_LEVELS - 1};
    const char *mask = sp_opt_str(o, "cpu-mask");
    if (mask && !sp_cpu_level_parse(&cfg.mask, mask))
        return SP_FAIL(d, SP_INVAL, "cpu-mask: %.20s is none of %s", mask, sp_cpu_level_names());
    return sp_dev_open(out, &cfg, d);
}

/* What the model takes beside its weights: activations, logits, and the tokenizer. */
static sp_err beside_weights(size_t *n_bytes, const sp_gguf *g, sp_diag *d)
{
    sp_arch a;
    const sp_tensor *emb = sp_gguf_tensor_find(g, "token_embd.weight");
    SP_TRY(sp_arch_read(&a, g, d));
    a.n_vocab = emb ? (size_t)emb->dim[1] : 0;
    *n_bytes = REST_BYTES + a.n_vocab * ENTRY_BYTES + sp_model_work_bytes(&a, STEP_TOK, STEP_LOGITS);
    return SP_OK;
}

static bool is_expert(const sp_tensor *t)
{
    static const char tail[] = "_exps.weight";
    return t->name.n >= sizeof tail - 1 && memcmp(t->name.p + t->name.n - (sizeof tail - 1), tail, sizeof tail - 1) == 0;
}

/* How much of the experts' `all` bytes is kept in memory, where not all: rest is what else is needed, of free. Says what that means. */
static sp_err fit_experts(size_t *room, size_t all, size_t rest, size_t free, const sp_opts *o, const sp_gguf *g, sp_diag *d)
{
    sp_arch a;
    size_t asked = sp_opt_bytes(o, "expert-bytes"), mib = 1 << 20;
    *room = 0;
    if (!all || (asked ? asked >= all : rest + all <= free) || rest >= free)
        return SP_OK;
    SP_TRY(sp_arch_read(&a, g, d));
    *room = asked ? asked : (free - rest) / 4 * 3; /* the rest is for pages */
    double away = *room < all ? 1 - (double)*room / (double)all : 0;
    double each = (double)all * (double)a.route.n_used / (double)a.route.n_expert * away;
    if (away > 0)
        sp_log(SP_LOG_WARN, "experts: %zu of %zu MiB are kept in memory; a token reads about %.0f MiB of the others from the file: %.2g tokens/s at "
               "1 GB/s", *room / mib, all / mib, each / (double)mib, 1e9 / each);
    return SP_OK;
}

/* Is there memory for the weights, and how much of the KV budget? Says both numbers if not. */
static sp_err fit_memory(size_t *kv_bytes, size_t *expert_bytes, const sp_gguf *g, const sp_opts *o, sp_diag *d)
{
    sp_host host;
    size_t need, experts = 0, mib = 1 << 20;
    SP_TRY(beside_weights(&need, g, d));
    sp_host_read(&host, "");
    for (size_t i = 0; i < sp_gguf_tensor_count(g); i++)
        *(is_expert(sp_gguf_tensor_at(g, i)) ? &experts : &need) += sp_gguf_tensor_at(g, i)->n_bytes;
    SP_TRY(fit_experts(expert_bytes, experts, need, host.free_bytes, o, g, d));
    need += *expert_bytes ? *expert_bytes : experts;
    *kv_bytes = sp_opt_bytes(o, "kv-bytes");
    if (need > host.free_bytes)
        return SP_FAIL(d, SP_LIMIT, "the model needs %zu MiB of memory, %zu MiB are available", need / mib, host.free_bytes / mib);
    if (*kv_bytes <= host.free_bytes - need)
        return SP_OK;
    if (sp_opt_origin_of(o, "kv-bytes") != SP_ORIGIN_DEFAULT)
        return SP_FAIL(d, SP_LIMIT, "kv-bytes: %zu MiB for pages beside %zu MiB for the model, %zu MiB are available",
                       *kv_bytes / mib, need / mib, host.free_bytes / mib);
    *kv_bytes = (host.free_bytes - need) / 2;
    sp_log(SP_LOG_INFO, "kv-bytes: %zu MiB, half of what the model leaves free", *kv_bytes / mib);
    return SP_OK;
}

/* The tiers below RAM, as far as the options ask for them. */
static sp_err open_tiers(sp_loaded *l, const sp_opts *o, sp_metrics *metrics, sp_diag *d)
{
    static const char *const fetch[] = {"auto", "always", "never"};
    const char *dir = sp_opt_str(o, "cache-dir"), *s3 = sp_opt_str(o, "s3"), *when = sp_opt_str(o, "cache-fetch");
    sp_model_flops flops = sp_model_flops_of(l->model);
    sp_kv_tier_cfg cfg = {.dir = dir, .cap_bytes = sp_opt_bytes(o, "cache-bytes"), .io = sp_opt_str(o, "cache-io"), .metrics = metrics,
                          .cold_after_s = sp_opt_int(o, "cold-after"), .cold_expire_s = sp_opt_int(o, "cold-expire"),
                          .depth_cost = flops.per_seen / flops.per_tok,
                          .tok_s = flops.per_tok / (FAST_FLOPS * (double)sp_pool_size(sp_dev_cpu_pool(l->dev)))};
    int k = 0;
    while (k < 3 && strcmp(fetch[k], when) != 0)
        k++;
    if (k == 3)
        return SP_FAIL(d, SP_INVAL, "cache-fetch: %.20s is none of auto, always, never", when);
    cfg.fetch = (sp_kv_fetch)k;
    if (s3 && !dir)
        return SP_FAIL(d, SP_INVAL, "s3: the cold tier needs --cache-dir for its index");
    if (!dir)
        return SP_OK;
    if (s3) {
        SP_TRY(sp_s3_open(&l->s3, s3, sp_opt_str(o, "s3-endpoint"), d));
        cfg.cold = sp_s3_cold(l->s3);
    }
    sp_err err = sp_kv_tier_open(&l->tier, &cfg, d);
    l->storage_failed = err != SP_OK;
    return err;
}

static sp_err load(sp_loaded *l, const sp_opts *o, sp_metrics *metrics, sp_diag *d)
{
    size_t kv_bytes, expert_bytes;
    char path[1024];
    SP_TRY(sp_cmd_model_path(path, sizeof path, o, d));
    const char *base = strrchr(path, '/');
    snprintf(l->name, sizeof l->name, "%.120s", base ? base + 1 : path);
    char *dot = strstr(l->name, ".gguf");
    if (dot)
        *dot = 0;
    SP_TRY(sp_gguf_open(&l->gguf, path, d));
    SP_TRY(fit_memory(&kv_bytes, &expert_bytes, l->gguf, o, d));
    SP_TRY(sp_tok_open(&l->tok, l->gguf, d));
    sp_err err = sp_chat_open(&l->chat, l->gguf, d);
    if (err != SP_OK && err != SP_NOTFOUND)
        return err;
    SP_TRY(sp_cmd_device(&l->dev, o, d));
    SP_TRY(sp_model_load(&l->model, l->gguf, l->dev, (size_t)sp_opt_int(o, "ctx"), expert_bytes, d));
    SP_TRY(sp_gguf_own(l->gguf, d));
    size_t n_vocab = sp_model_arch(l->model)->n_vocab;
    if (n_vocab != sp_tok_count(l->tok))
        return SP_FAIL(d, SP_FORMAT, "the vocabulary has %zu tokens, the embedding %zu rows", sp_tok_count(l->tok), n_vocab);
    size_t own = sp_model_arch(l->model)->n_ctx;
    l->n_ctx = sp_opt_int(o, "ctx") ? (size_t)sp_opt_int(o, "ctx") : own;
    if (l->n_ctx > own)
        return SP_FAIL(d, SP_INVAL, "ctx: %zu is more than the model's %zu", l->n_ctx, own);
    const sp_kv_format *format = sp_kv_format_find(sp_opt_str(o, "kv-type"));
    if (!format)
        return SP_FAIL(d, SP_INVAL, "kv-type: %.20s is none of q8, q4, f16, f32", sp_opt_str(o, "kv-type"));
    if (!sp_kv_format_fits(format, sp_model_arch(l->model)->d_head))
        return SP_FAIL(d, SP_UNSUP, "kv-type: %s holds heads of at most %d elements, the model has %zu: use f16", format->name,
                       SP_MAX_HEAD, sp_model_arch(l->model)->d_head);
    if (metrics)
        SP_TRY(open_tiers(l, o, metrics, d));
    const char *demoted = metrics ? sp_opt_str(o, "kv-demoted") : "promote";
    if (strcmp(demoted, "promote") != 0 && strcmp(demoted, "attend") != 0)
        return SP_FAIL(d, SP_INVAL, "kv-demoted: %.20s is neither promote nor attend", demoted);
    sp_kv_cfg kv = {.shape = sp_model_kv_shape(l->model, format), .cap_bytes = kv_bytes,
                    .window = sp_model_kv_window(l->model), .model_id = *sp_model_id(l->model), .reuse = sp_opt_flag(o, "reuse"),
                    .variant = sp_dev_cpu_kern(l->dev)->isa, .tier = l->tier, .attend_demoted = strcmp(demoted, "attend") == 0};
    return sp_kv_pool_new(&l->pool, l->dev, &kv, d);
}

sp_err sp_cmd_load(sp_loaded *out, const sp_opts *o, sp_metrics *metrics, sp_diag *d)
{
    *out = (sp_loaded){0};
    sp_err err = load(out, o, metrics, d);
    bool storage = out->storage_failed;
    if (err != SP_OK)
        sp_cmd_unload(out);
    out->storage_failed = storage;
    return err;
}

void sp_cmd_unload(sp_loaded *l)
{
    sp_kv_pool_free(l->pool);
    sp_kv_tier_close(l->tier);
    sp_s3_close(l->s3);
    sp_model_free(l->model);
    sp_dev_close(l->dev);
    sp_chat_close(l->chat);
    sp_tok_close(l->tok);
    sp_gguf_close(l->gguf);
    *l = (sp_loaded){0};
}

sp_err sp_cmd_epsilons(float *out, size_t cap, size_t *n, const sp_opts *o, sp_diag *d)
{
    const char *all = sp_opt_str(o, "epsilon"), *p = all;
    *n = 0;
    do {
        char *end;
        float v = strtof(p, &end);
        if (end == p || (*end && *end != ',') || !(v >= 0 && v <= 0.5f) || *n == cap)
            return SP_FAIL(d, SP_INVAL, "epsilon: '%.40s' is not a list of numbers from 0 to 0.5", all);
        out[(*n)++] = v;
        p = *end ? end + 1 : end;
    } while (*p);
    return SP_OK;
}
