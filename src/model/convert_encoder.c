/* Encoders: their hyper-parameters, and how their states are pooled. An encoder is one that sees
 * both ways; any family whose folder has sentence-transformers' modules.json gets its pooling.
 * Source: the configurations of transformers 5 and of nomic-bert's own code, and
 * sentence-transformers' files. */
#include "model/convert_int.h"

#include <stdio.h>
#include <string.h>

typedef struct writer {
    sp_gguf_out *o;
    const sp_convert_family *f;
    const json_t *config;
    char key[96];
} writer;

static const char *key_of(writer *w, const char *tail)
{
    snprintf(w->key, sizeof w->key, "%s.%s", w->f->arch, tail);
    return w->key;
}

/* The first of two names that the configuration has; 0: neither, or no number. */
static double any(const json_t *o, const char *name, const char *other)
{
    const json_t *v = json_object_get(o, name);
    return json_number_value(json_is_number(v) ? v : json_object_get(o, other));
}

static sp_err put_size(writer *w, const char *tail, const char *name, const char *other, sp_diag *d)
{
    double v = any(w->config, name, other);
    if (!(v >= 1 && v <= UINT32_MAX))
        return SP_FAIL(d, SP_FORMAT, "config.json: %s is missing or no size", name);
    sp_gguf_out_u32(w->o, key_of(w, tail), (uint32_t)v);
    return SP_OK;
}

static void put_number(writer *w, const char *tail, double v)
{
    if (v > 0)
        sp_gguf_out_f32(w->o, key_of(w, tail), v);
}

/* What modern-bert has beside the rest: windows in all layers but every third, and two bases of
 * RoPE. */
static sp_err put_modern(writer *w, sp_diag *d)
{
    const json_t *c = w->config, *rope = json_object_get(c, "rope_parameters"),
                 *types = json_object_get(c, "layer_types");
    const json_t *full = json_object_get(rope, "full_attention"),
                 *near = json_object_get(rope, "sliding_attention");
    const char *act = json_string_value(json_object_get(c, "hidden_activation"));
    const char *pooling = json_string_value(json_object_get(c, "classifier_pooling"));
    double every = any(c, "global_attn_every_n_layers", "");
    for (size_t i = 0; i < json_array_size(types); i++) {
        const char *is = json_string_value(json_array_get(types, i));
        if (!is || (strcmp(is, "full_attention") == 0) != (i % 3 == 0))
            return SP_FAIL(
                d, SP_UNSUP,
                "config.json: layers other than every third that see all are not supported");
    }
    put_number(w, "rope.freq_base",
               full ? any(full, "rope_theta", "") : any(c, "global_rope_theta", ""));
    put_number(w, "rope.freq_base_swa",
               near ? any(near, "rope_theta", "") : any(c, "local_rope_theta", ""));
    SP_TRY(put_size(w, "attention.sliding_window", "local_attention", "", d));
    SP_TRY(put_size(w, "vocab_size", "vocab_size", "", d));
    sp_gguf_out_u32(w->o, key_of(w, "attention.sliding_window_pattern"),
                    every > 0 ? (uint32_t)every : 3);
    sp_gguf_out_str(w->o, key_of(w, "rope.scaling.type"), "none", 4);
    if (act)
        sp_gguf_out_str(w->o, key_of(w, "hidden_activation"), act, strlen(act));
    sp_gguf_out_u32(w->o, key_of(w, "classifier.pooling_type"),
                    pooling && strcmp(pooling, "mean") == 0 ? 1 : 2);
    return SP_OK;
}

static sp_err check(const sp_convert_family *f, const json_t *c, sp_diag *d)
{
    const char *act = json_string_value(json_object_get(c, "hidden_act"));
    const char *pos = json_string_value(json_object_get(c, "position_embedding_type"));
    bool is_nomic = strcmp(f->arch, "nomic-bert") == 0;
    if (act && strcmp(act, is_nomic ? "silu" : "gelu") != 0)
        return SP_FAIL(d, SP_UNSUP, "config.json: hidden_act %.40s is not supported in %s", act,
                       f->from);
    if (pos && strcmp(pos, "absolute") != 0)
        return SP_FAIL(d, SP_UNSUP, "config.json: position_embedding_type %.40s is not supported",
                       pos);
    if (is_nomic && any(c, "num_experts", "") > 0)
        return SP_FAIL(d, SP_UNSUP, "config.json: experts in %s are not supported", f->from);
    return SP_OK;
}

sp_err sp_convert_encoder(sp_gguf_out *o, const sp_convert_family *f, const json_t *config,
                          sp_diag *d)
{
    static const char *const sizes[][3] = {
        {"block_count", "num_hidden_layers", "n_layer"},
        {"context_length", "max_position_embeddings", "n_positions"},
        {"embedding_length", "hidden_size", "n_embd"},
        {"feed_forward_length", "intermediate_size", "n_inner"},
        {"attention.head_count", "num_attention_heads", "n_head"}};
    writer w = {.o = o, .f = f, .config = config};
    const json_t *rope = json_object_get(config, "rope_parameters");
    SP_TRY(check(f, config, d));
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++)
        SP_TRY(put_size(&w, sizes[i][0], sizes[i][1], sizes[i][2], d));
    if (json_object_get(config, "num_key_value_heads"))
        SP_TRY(put_size(&w, "attention.head_count_kv", "num_key_value_heads", "", d));
    put_number(&w, "attention.layer_norm_rms_epsilon", any(config, "rms_norm_eps", ""));
    double eps = any(config, "layer_norm_eps", "norm_eps");
    put_number(&w, "attention.layer_norm_epsilon",
               eps > 0 ? eps : any(config, "layer_norm_epsilon", ""));
    sp_gguf_out_bool(o, key_of(&w, "attention.causal"), false);
    if (strcmp(f->arch, "modern-bert") == 0)
        return put_modern(&w, d);
    if (strcmp(f->arch, "nomic-bert") == 0)
        put_number(&w, "rope.freq_base",
                   rope ? any(rope, "rope_theta", "") : any(config, "rotary_emb_base", ""));
    return SP_OK;
}

bool sp_convert_is_ranker(const json_t *config)
{
    static const char END[] = "ForSequenceClassification";
    const char *arch =
        json_string_value(json_array_get(json_object_get(config, "architectures"), 0));
    size_t n = arch ? strlen(arch) : 0;
    return n >= sizeof END - 1 && strcmp(arch + n - (sizeof END - 1), END) == 0;
}

/* The file of the module that pools, in modules.json; NULL: none does. */
static const char *pooling_path(const json_t *modules)
{
    for (size_t i = 0; i < json_array_size(modules); i++) {
        const json_t *m = json_array_get(modules, i);
        const char *type = json_string_value(json_object_get(m, "type"));
        if (type && strlen(type) >= 8 && strcmp(type + strlen(type) - 8, ".Pooling") == 0)
            return json_string_value(json_object_get(m, "path"));
    }
    return NULL;
}

/* 0: none of the ways that are known. */
static uint32_t pooling_of(const json_t *conf)
{
    static const char *const modes[] = {"mean_tokens", "cls_token", "lasttoken"};
    uint32_t found = 0;
    char key[64];
    for (uint32_t i = 0; i < 3; i++) {
        snprintf(key, sizeof key, "pooling_mode_%s", modes[i]);
        if (json_is_true(json_object_get(conf, key)))
            found = found ? UINT32_MAX : i + 1;
    }
    return found == UINT32_MAX ? 0 : found;
}

sp_err sp_convert_pooling(sp_gguf_out *o, const sp_convert_family *f, const char *dir,
                          const json_t *config, sp_diag *d)
{
    writer w = {.o = o, .f = f, .config = config};
    json_t *modules = NULL, *conf = NULL;
    char name[128];
    uint32_t how = f->is & SP_CONVERT_ENCODER ? (sp_convert_is_ranker(config) ? 4 : 1) : 0;
    sp_err err = how == 4 ? SP_NOTFOUND : sp_convert_list(&modules, dir, "modules.json", d);
    const char *path = err == SP_OK ? pooling_path(modules) : NULL;
    if (path && (strchr(path, '/') ||
                 snprintf(name, sizeof name, "%s/config.json", path) >= (int)sizeof name))
        err = SP_FAIL(d, SP_FORMAT, "modules.json: %.80s is no folder in this one", path);
    if (path && err == SP_OK)
        err = sp_convert_json(&conf, dir, name, d);
    if (conf && !(how = pooling_of(conf)))
        err = SP_FAIL(
            d, SP_UNSUP,
            "%.80s: pooling that is not of one of mean, first and last token is not supported",
            name);
    json_decref(modules);
    json_decref(conf);
    if (err != SP_OK && err != SP_NOTFOUND)
        return err;
    if (how)
        sp_gguf_out_u32(o, key_of(&w, "pooling_type"), how);
    return SP_OK;
}
