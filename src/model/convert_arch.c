/* The table of checkpoints that can be converted: which architecture they are, and config.json as
 * the keys that arch.c reads.
 * Source: the configurations of transformers 5, and of files of earlier ones (rope_theta and
 * rope_scaling beside each other). */
#include "model/convert_int.h"

#include "base/mem.h"

#include <float.h>
#include <math.h>
#include <stdio.h>
#include <string.h>

typedef enum trait {
    PAIRS = SP_CONVERT_PAIRS,
    PLUS_ONE = SP_CONVERT_PLUS_ONE,
    POST = SP_CONVERT_POST,
    ROT_KEYS = 8,    /* vocab_size and rope.dimension_count are written */
    VOCAB_KEY = 16,  /* vocab_size alone */
    NEEDS_HEAD = 32, /* head_dim must be given: the default is none that can be computed */
    TANH = 64,       /* the activation is GELU's tanh form, else SiLU */
    PATTERN = 128,   /* which layers have a window is written layer by layer */
    EVERY_2 = 256, EVERY_6 = 512, /* ... or they are all but every nth, as arch.c knows */
    PHI = 1024, GRANITE = 2048, CAPS = 4096, HUNYUAN = 8192, NO_ROPE_4 = 16384, MINISTRAL = 32768,
    EXPERTS = 1 << 16, ERNIE = 1 << 17, GLM = 1 << 18, HARMONY = 1 << 19,
    ENCODER = SP_CONVERT_ENCODER,
    CUT = SP_CONVERT_CUT,
} trait;

static const sp_convert_family families[] = {
    {"llama", "llama", PAIRS | ROT_KEYS},
    {"mistral", "llama", PAIRS | ROT_KEYS},
    {"qwen2", "qwen2", 0},
    {"qwen3", "qwen3", NEEDS_HEAD},
    {"gemma2", "gemma2", PLUS_ONE | POST | NEEDS_HEAD | TANH | EVERY_2 | CAPS},
    {"gemma3_text", "gemma3", PLUS_ONE | POST | NEEDS_HEAD | TANH | EVERY_6 | CAPS},
    {"phi3", "phi3", PHI},
    {"ministral3", "mistral3", PAIRS | ROT_KEYS | NEEDS_HEAD | MINISTRAL},
    {"granite", "granite", PAIRS | ROT_KEYS | GRANITE},
    {"smollm3", "smollm3", PAIRS | ROT_KEYS | NO_ROPE_4},
    {"olmo2", "olmo2", POST},
    {"olmo3", "olmo2", POST | PATTERN},
    {"exaone4", "exaone4", POST | PATTERN | VOCAB_KEY},
    {"ernie4_5", "ernie4_5", 0},
    {"hunyuan_v1_dense", "hunyuan-dense", HUNYUAN},
    {"mixtral", "llama", PAIRS | ROT_KEYS | EXPERTS},
    {"qwen3_moe", "qwen3moe", NEEDS_HEAD | EXPERTS},
    {"granitemoe", "granitemoe", PAIRS | ROT_KEYS | GRANITE | EXPERTS},
    {"granitemoeshared", "granitemoe", PAIRS | ROT_KEYS | GRANITE | EXPERTS},
    {"ernie4_5_moe", "ernie4_5-moe", ERNIE},
    {"glm4_moe", "glm4moe", POST | NEEDS_HEAD | GLM},
    {"bert", "bert", ENCODER},
    {"xlm-roberta", "bert", ENCODER | CUT},
    {"nomic_bert", "nomic-bert", ENCODER},
    {"modernbert", "modern-bert", ENCODER},
    {"gpt_oss", "gpt-oss", POST | NEEDS_HEAD | EVERY_2 | EXPERTS | HARMONY},
};

/* --- config.json ------------------------------------------------------------------------------ */

static const json_t *get(const json_t *o, const char *key)
{
    const json_t *v = json_object_get(o, key);
    return json_is_null(v) ? NULL : v;
}

static double num(const json_t *o, const char *key, double fallback)
{
    const json_t *v = get(o, key);
    return json_is_number(v) ? json_number_value(v) : fallback;
}

static bool is_set(const json_t *o, const char *key)
{
    return json_is_true(get(o, key));
}

static sp_err size(size_t *out, const json_t *config, const char *key, sp_diag *d)
{
    json_int_t v = json_integer_value(get(config, key));
    if (v < 1 || v > UINT32_MAX)
        return SP_FAIL(d, SP_FORMAT, "config.json: %s is missing or no size", key);
    *out = (size_t)v;
    return SP_OK;
}

/* What says how positions turn heads: of layers that see all, or *window: of those with a window,
 * NULL where it is the same. */
static const json_t *rope_of(const json_t *config, const json_t **window)
{
    const json_t *now = get(config, "rope_parameters"), *full = get(now, "full_attention");
    *window = get(now, "sliding_attention");
    return full ? full : now ? now : get(config, "rope_scaling");
}

static const char *rope_type(const json_t *rope)
{
    const char *type = json_string_value(get(rope, "rope_type")),
               *old = json_string_value(get(rope, "type"));
    return type ? type : old ? old : "default";
}

static double original_context(const json_t *config, const json_t *rope)
{
    return num(
        rope, "original_max_position_embeddings",
        num(config, "original_max_position_embeddings", num(config, "max_position_embeddings", 0)));
}

static const char *name_at(const json_t *config, size_t i)
{
    const char *s = json_string_value(json_array_get(get(config, "layer_types"), i));
    return s ? s : "";
}

/* --- what is not known ------------------------------------------------------------------------ */

static sp_err check_act(const sp_convert_family *f, const json_t *config, sp_diag *d)
{
    const char *act = json_string_value(get(config, "hidden_activation")),
               *old = json_string_value(get(config, "hidden_act"));
    const char *is = act ? act : old, *want = f->is & TANH ? "gelu_pytorch_tanh" : "silu";
    /* Gemma's early files say gelu, and mean this. */
    if (!is || strcmp(is, want) == 0 || (f->is & TANH && !act))
        return SP_OK;
    return SP_FAIL(d, SP_UNSUP, "config.json: activation %.40s is not supported in %s (%s is)", is,
                   f->from, want);
}

static sp_err check_rope(const sp_convert_family *f, const json_t *config, sp_diag *d)
{
    static const char *const known[] = {"default", "linear", "yarn", "longrope", "llama3"};
    const json_t *window;
    const char *type = rope_type(rope_of(config, &window));
    if (f->is & HUNYUAN && strcmp(type, "dynamic") == 0)
        return SP_OK;
    if (window && strcmp(rope_type(window), "default") != 0)
        return SP_FAIL(d, SP_UNSUP,
                       "config.json: rope type %.40s in layers with a window is not supported",
                       rope_type(window));
    for (size_t i = 0; i < sizeof known / sizeof known[0]; i++)
        if (strcmp(type, known[i]) == 0)
            return SP_OK;
    return SP_FAIL(d, SP_UNSUP, "config.json: rope type %.40s is not supported", type);
}

/* Windows where the architecture has none, and layers without positions other than it knows them.
 */
static sp_err check_layers(const sp_convert_family *f, const json_t *config, sp_diag *d)
{
    const json_t *each = get(config, "no_rope_layers");
    bool has_windows = f->is & (PATTERN | EVERY_2 | EVERY_6 | PHI);
    bool may_window = strcmp(f->from, "mistral") == 0 || strcmp(f->from, "ministral3") == 0 ||
                      is_set(config, "use_sliding_window");
    if (!has_windows && may_window && get(config, "sliding_window"))
        return SP_FAIL(d, SP_UNSUP, "config.json: sliding_window in %s is not supported", f->from);
    for (size_t i = 0; f->is & NO_ROPE_4 && i < json_array_size(each); i++)
        if ((json_integer_value(json_array_get(each, i)) != 0) != (i % 4 != 3))
            return SP_FAIL(d, SP_UNSUP,
                           "config.json: no_rope_layers other than every fourth are not supported");
    if (get(config, "clip_qkv"))
        return SP_FAIL(d, SP_UNSUP, "config.json: clip_qkv is not supported");
    return SP_OK;
}

/* Choices of experts that the architectures make in one way only. */
static sp_err check_experts(const sp_convert_family *f, const json_t *config, sp_diag *d)
{
    static const struct { unsigned is; const char *key; double want;
    } fixed[] = {{EXPERTS, "decoder_sparse_step", 1},
                 {HARMONY, "swiglu_limit", 7},
                 {HARMONY, "swiglu_alpha", 1.702},
                 {ERNIE, "use_bias", 0}};
    bool is_qwen = strcmp(f->from, "qwen3_moe") == 0;
    for (size_t i = 0; i < sizeof fixed / sizeof fixed[0]; i++) {
        const json_t *v = get(config, fixed[i].key);
        double is =
            json_is_boolean(v) ? (double)json_is_true(v) : num(config, fixed[i].key, fixed[i].want);
        if (f->is & fixed[i].is && fabs(is - fixed[i].want) > 1e-9)
            return SP_FAIL(d, SP_UNSUP, "config.json: %s of %g is not supported (%g is)",
                           fixed[i].key, is, fixed[i].want);
    }
    if (is_qwen && !is_set(config, "norm_topk_prob"))
        return SP_FAIL(d, SP_UNSUP,
                       "config.json: norm_topk_prob that is not true is not supported in %s",
                       f->from);
    if (json_array_size(get(config, "mlp_only_layers")))
        return SP_FAIL(d, SP_UNSUP, "config.json: mlp_only_layers are not supported");
    if (f->is & ERNIE && num(config, "moe_layer_end_index", -1) >= 0 &&
        num(config, "moe_layer_end_index", 0) < num(config, "num_hidden_layers", 0) - 1)
        return SP_FAIL(
            d, SP_UNSUP,
            "config.json: layers without experts behind moe_layer_end_index are not supported");
    return SP_OK;
}

sp_err sp_convert_experts(size_t *out, const json_t *config, sp_diag *d)
{
    static const char *const keys[] = {"num_local_experts", "num_experts", "moe_num_experts",
                                       "n_routed_experts"};
    *out = 0;
    for (size_t i = 0; i < sizeof keys / sizeof keys[0]; i++)
        if (get(config, keys[i]))
            return size(out, config, keys[i], d);
    return SP_OK;
}

sp_err sp_convert_family_of(const sp_convert_family **out, const json_t *config, sp_diag *d)
{
    const char *type = json_string_value(get(config, "model_type"));
    char names[400] = "";
    if (!type)
        return SP_FAIL(d, SP_FORMAT, "config.json: model_type is missing");
    for (size_t i = 0; i < sizeof families / sizeof families[0]; i++) {
        const sp_convert_family *f = &families[i];
        size_t n = strlen(names);
        snprintf(names + n, sizeof names - n, i ? ", %s" : "%s", f->from);
        if (strcmp(f->from, type) != 0)
            continue;
        *out = f;
        if (f->is & ENCODER) /* checked where their keys are made */
            return SP_OK;
        SP_TRY(check_act(f, config, d));
        SP_TRY(check_rope(f, config, d));
        SP_TRY(check_layers(f, config, d));
        SP_TRY(check_experts(f, config, d));
        return SP_OK;
    }
    return SP_FAIL(d, SP_UNSUP, "model_type %.30s: not supported (%s)", type, names);
}

/* --- keys ------------------------------------------------------------------------------------- */

typedef struct writer {
    sp_gguf_out *o;
    const sp_convert_family *f;
    const json_t *config;
    char key[96];
    char bad[96]; /* a key whose value does not fit; "" */
} writer;

static const char *key_of(writer *w, const char *tail)
{
    snprintf(w->key, sizeof w->key, "%s.%s", w->f->arch, tail);
    return w->key;
}

/* A value that does not fit is remembered and 0. */
static double fitting(writer *w, double v, double least, double most)
{
    if (v >= least && v <= most)
        return v;
    memcpy(w->bad, w->key, sizeof w->bad);
    return 0;
}

static void put_u(writer *w, const char *tail, double v)
{
    const char *key = key_of(w, tail);
    sp_gguf_out_u32(w->o, key, (uint32_t)fitting(w, v, 0, UINT32_MAX));
}

static void put_f(writer *w, const char *tail, double v)
{
    const char *key = key_of(w, tail);
    sp_gguf_out_f32(w->o, key, fitting(w, v, -FLT_MAX, FLT_MAX));
}

static void put_s(writer *w, const char *tail, const char *v)
{
    sp_gguf_out_str(w->o, key_of(w, tail), v, strlen(v));
}

/* A number that the configuration may have under `from`. */
static void copy_f(writer *w, const char *tail, const json_t *o, const char *from)
{
    if (json_is_number(get(o, from)))
        put_f(w, tail, num(o, from, 0));
}

static sp_err put_sizes(writer *w, size_t *head, sp_diag *d)
{
    static const struct { const char *from, *key;
    } sizes[] = {{"num_hidden_layers", "block_count"},
                 {"max_position_embeddings", "context_length"},
                 {"hidden_size", "embedding_length"},
                 {"intermediate_size", "feed_forward_length"},
                 {"num_attention_heads", "attention.head_count"}};
    size_t v, width = 0, heads = 1;
    for (size_t i = 0; i < sizeof sizes / sizeof sizes[0]; i++) {
        SP_TRY(size(&v, w->config, sizes[i].from, d));
        width = i == 2 ? v : width;
        heads = i == 4 ? v : heads;
        put_u(w, sizes[i].key,
              w->f->is & HUNYUAN && i == 1
                  ? 262144
                  : (double)v); /* alpha is for this context, says its converter */
    }
    if (get(w->config, "num_key_value_heads")) {
        SP_TRY(size(&v, w->config, "num_key_value_heads", d));
        put_u(w, "attention.head_count_kv", (double)v);
    }
    *head = width / heads;
    if (get(w->config, "head_dim")) {
        SP_TRY(size(head, w->config, "head_dim", d));
        put_u(w, "attention.key_length", (double)*head);
        put_u(w, "attention.value_length", (double)*head);
    } else if (w->f->is & NEEDS_HEAD) {
        return SP_FAIL(d, SP_FORMAT, "config.json: head_dim is missing");
    }
    put_f(w, "attention.layer_norm_rms_epsilon", num(w->config, "rms_norm_eps", 1e-6));
    if (w->f->is & (ROT_KEYS | VOCAB_KEY))
        put_u(w, "vocab_size", num(w->config, "vocab_size", 0));
    if (w->f->is & ROT_KEYS)
        put_u(w, "rope.dimension_count", (double)*head);
    return SP_OK;
}

/* What cos and sin are multiplied by under longrope. */
static double long_factor(const json_t *config, const json_t *rope)
{
    double original = original_context(config, rope),
           scale = num(config, "max_position_embeddings", original) / original;
    return num(rope, "attention_factor", scale > 1 ? sqrt(1 + log(scale) / log(original)) : 1);
}

static void put_rope(writer *w, size_t head)
{
    const json_t *window, *rope = rope_of(w->config, &window);
    const char *type = rope_type(rope);
    double theta = num(rope, "rope_theta", num(w->config, "rope_theta", 10000));
    bool is_yarn = strcmp(type, "yarn") == 0;
    if (w->f->is & HUNYUAN) {
        theta *= pow(num(rope, "alpha", 1), (double)head / (double)(head - 2));
        put_s(w, "rope.scaling.type", "none");
        put_f(w, "rope.scaling.factor", 1);
        put_u(w, "rope.scaling.original_context_length", 262144);
    }
    if (!(w->f->is & CAPS && w->f->is & EVERY_2))
        put_f(w, "rope.freq_base", theta);
    if (strcmp(type, "linear") == 0 || is_yarn) {
        put_s(w, "rope.scaling.type", type);
        put_f(w, "rope.scaling.factor", num(rope, "factor", 1));
    }
    if (is_yarn) {
        put_u(w, "rope.scaling.original_context_length", original_context(w->config, rope));
        copy_f(w, "rope.scaling.yarn_beta_fast", rope, "beta_fast");
        copy_f(w, "rope.scaling.yarn_beta_slow", rope, "beta_slow");
        copy_f(w, "rope.scaling.yarn_attn_factor", rope, "attention_factor");
    }
    if (strcmp(type, "longrope") == 0 && !(w->f->is & PHI)) {
        put_s(w, "rope.scaling.type", type);
        put_f(w, "rope.scaling.attn_factor", long_factor(w->config, rope));
        put_u(w, "rope.scaling.original_context_length", original_context(w->config, rope));
    }
    double near = num(window, "rope_theta", num(w->config, "rope_local_base_freq", 0));
    if (near > 0)
        put_f(w, "rope.freq_base_swa", near);
}

static void put_windows(writer *w)
{
    bool is_near[512], is_usual = true;
    size_t n = json_array_size(get(w->config, "layer_types")), every = w->f->is & EVERY_2 ? 2 : 6;
    if (!get(w->config, "sliding_window"))
        return;
    n = n < 512 ? n : 512;
    for (size_t i = 0; i < n; i++) {
        is_near[i] = strcmp(name_at(w->config, i), "sliding_attention") == 0;
        is_usual = is_usual && is_near[i] == (i % every != every - 1);
    }
    put_u(w, "attention.sliding_window", num(w->config, "sliding_window", 0));
    if (n && (w->f->is & PATTERN || !is_usual))
        sp_gguf_out_bools(w->o, key_of(w, "attention.sliding_window_pattern"), is_near, n);
}

/* Queries are scaled by this number's root; the usual one is the head's width. */
static void put_query_scale(writer *w, size_t head)
{
    double scalar = num(w->config, "query_pre_attn_scalar", (double)head),
           layers = num(w->config, "num_hidden_layers", 0);
    bool is_wide = layers == 46 || layers == 62; /* arch.c knows these sizes */
    if (scalar > 0 && scalar != (double)head && !is_wide)
        put_f(w, "attention.scale", 1 / sqrt(scalar));
}

static void put_phi(writer *w)
{
    const json_t *window, *rope = rope_of(w->config, &window);
    double part = num(rope, "partial_rotary_factor", num(w->config, "partial_rotary_factor", 1));
    put_u(w, "rope.dimension_count",
          floor(floor(part * num(w->config, "hidden_size", 0)) /
                num(w->config, "num_attention_heads", 1)));
    put_u(w, "attention.sliding_window", num(w->config, "sliding_window", 0));
    put_u(w, "rope.scaling.original_context_length", original_context(w->config, rope));
    if (strcmp(rope_type(rope), "longrope") == 0)
        put_f(w, "rope.scaling.attn_factor", long_factor(w->config, rope));
}

static void put_b(writer *w, const char *tail, bool v)
{
    sp_gguf_out_bool(w->o, key_of(w, tail), v);
}

static sp_err put_experts(writer *w, sp_diag *d)
{
    const json_t *c = w->config;
    double width = num(c, "moe_intermediate_size", 0);
    size_t n;
    SP_TRY(sp_convert_experts(&n, c, d));
    if (!n)
        return SP_FAIL(d, SP_FORMAT, "config.json: the number of experts is missing");
    put_u(w, "expert_count", (double)n);
    put_u(w, "expert_used_count", num(c, w->f->is & ERNIE ? "moe_k" : "num_experts_per_tok", 0));
    if (w->f->is & HARMONY)
        width = num(c, "intermediate_size", 0);
    if (width > 0)
        put_u(w, "expert_feed_forward_length", width);
    if (w->f->is & GRANITE && num(c, "shared_intermediate_size", 0) > 0)
        put_u(w, "expert_shared_feed_forward_length", num(c, "shared_intermediate_size", 0));
    if (w->f->is & ERNIE) {
        put_u(w, "interleave_moe_layer_step", num(c, "moe_layer_interval", 1));
        put_u(w, "leading_dense_block_count", num(c, "moe_layer_start_index", 0));
        put_u(w, "expert_shared_count", num(c, "moe_num_shared_experts", 0));
        /* That is what llama.cpp's converter writes. */
        put_u(w, "expert_shared_feed_forward_length",
              floor(num(c, "intermediate_size", 0) / num(c, "num_key_value_heads", 1)));
    }
    return SP_OK;
}

static void put_glm(writer *w, size_t head)
{
    const json_t *c = w->config, *window, *rope = rope_of(c, &window);
    double part = num(rope, "partial_rotary_factor", num(c, "partial_rotary_factor", 0.5));
    put_u(w, "rope.dimension_count", floor((double)head * part));
    put_u(w, "expert_shared_count", num(c, "n_shared_experts", 0));
    put_u(w, "leading_dense_block_count", num(c, "first_k_dense_replace", 0));
    put_u(w, "expert_gating_func", 2);
    put_f(w, "expert_weights_scale", num(c, "routed_scaling_factor", 1));
    put_b(w, "expert_weights_norm", is_set(c, "norm_topk_prob"));
    put_u(w, "expert_group_count", num(c, "n_group", 1));
    put_u(w, "expert_group_used_count", num(c, "topk_group", 1));
    put_u(w, "nextn_predict_layers", 0); /* those layers are left out */
}

sp_err sp_convert_arch(sp_gguf_out *o, const sp_convert_family *f, const json_t *config, sp_diag *d)
{
    const json_t *window, *rope = rope_of(config, &window);
    writer w = {.o = o, .f = f, .config = config};
    size_t head;
    if (f->is & ENCODER)
        return sp_convert_encoder(o, f, config, d);
    SP_TRY(put_sizes(&w, &head, d));
    put_rope(&w, head);
    if (f->is & (PATTERN | EVERY_2 | EVERY_6))
        put_windows(&w);
    if (f->is & CAPS) {
        put_query_scale(&w, head);
        copy_f(&w, "attn_logit_softcapping", config, "attn_logit_softcapping");
        copy_f(&w, "final_logit_softcapping", config, "final_logit_softcapping");
    }
    if (f->is & PHI)
        put_phi(&w);
    if (f->is & (EXPERTS | ERNIE | GLM))
        SP_TRY(put_experts(&w, d));
    if (f->is & GLM)
        put_glm(&w, head);
    if (f->is & GRANITE) {
        put_f(&w, "attention.scale", num(config, "attention_multiplier", 1));
        put_f(&w, "embedding_scale", num(config, "embedding_multiplier", 1));
        put_f(&w, "residual_scale", num(config, "residual_multiplier", 1));
        put_f(&w, "logit_scale", num(config, "logits_scaling", 1));
    }
    if (f->is & MINISTRAL) {
        copy_f(&w, "rope.scaling.yarn_log_multiplier", rope, "mscale_all_dim");
        copy_f(&w, "attention.temperature_scale", rope, "llama_4_scaling_beta");
    }
    return w.bad[0] ? SP_FAIL(d, SP_FORMAT, "config.json: what %s would be does not fit", w.bad)
                    : SP_OK;
}

/* --- divisors of RoPE ------------------------------------------------------------------------- */

static sp_err read_factors(sp_convert_factors *out, const char *name, const json_t *list,
                           sp_diag *d)
{
    size_t n = json_array_size(list);
    *out = (sp_convert_factors){name, sp_mem_array(n + 1, sizeof *out->v), n};
    if (!out->v)
        return SP_FAIL(d, SP_NOMEM, "factors");
    for (size_t i = 0; i < n; i++)
        out->v[i] = (float)fmin(fmax(json_number_value(json_array_get(list, i)), -1e30), 1e30);
    return n ? SP_OK : SP_FAIL(d, SP_FORMAT, "config.json: factors of longrope are missing");
}

/* Llama 3: short waves stay, long ones are stretched by the factor, between them it grows evenly in
 * the wave's count. */
static sp_err make_llama3(sp_convert_factors *out, const json_t *config, const json_t *rope,
                          sp_diag *d)
{
    const double pi = 3.14159265358979323846;
    size_t width, heads, head;
    SP_TRY(size(&width, config, "hidden_size", d));
    SP_TRY(size(&heads, config, "num_attention_heads", d));
    head = width / heads;
    if (get(config, "head_dim"))
        SP_TRY(size(&head, config, "head_dim", d));
    double base = num(rope, "rope_theta", num(config, "rope_theta", 10000)),
           factor = num(rope, "factor", 8), context = original_context(config, rope);
    double low = num(rope, "low_freq_factor", 1), high = num(rope, "high_freq_factor", 4);
    if (head < 2 || head > 1 << 16 || !(base > 1) || !(factor > 0) || !(high > low))
        return SP_FAIL(d, SP_FORMAT,
                       "config.json: rope type llama3 with base %g, factor %g, low %g, high %g",
                       base, factor, low, high);
    *out =
        (sp_convert_factors){"rope_freqs.weight", sp_mem_array(head / 2, sizeof *out->v), head / 2};
    if (!out->v)
        return SP_FAIL(d, SP_NOMEM, "factors");
    for (size_t i = 0; i < head / 2; i++) {
        double turns = context * pow(base, -2.0 * (double)i / (double)head) / (2 * pi),
               keep = (turns - low) / (high - low);
        out->v[i] = (float)(turns > high  ? 1
                            : turns < low ? factor
                                          : 1 / ((1 - keep) / factor + keep));
    }
    return SP_OK;
}

sp_err sp_convert_factors_of(sp_convert_factors out[SP_CONVERT_FACTORS], const json_t *config,
                             sp_diag *d)
{
    const json_t *window, *rope = rope_of(config, &window);
    memset(out, 0, SP_CONVERT_FACTORS * sizeof *out);
    if (strcmp(rope_type(rope), "llama3") == 0)
        return make_llama3(&out[0], config, rope, d);
    if (strcmp(rope_type(rope), "longrope") != 0)
        return SP_OK;
    SP_TRY(read_factors(&out[0], "rope_factors_long.weight", get(rope, "long_factor"), d));
    return read_factors(&out[1], "rope_factors_short.weight", get(rope, "short_factor"), d);
}
