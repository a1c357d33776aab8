/* Hyper-parameters: keys that are missing, out of range or not supported, each with its error; what layers get from patterns; what
 * attention costs where some layers have a window. */
#include "test.h"

#include "base/buf.h"
#include "base/mem.h"
#include "model/model.h"

#include <math.h>
#include <stdio.h>

enum { U32 = 4, F32 = 6, BOOL = 7, STR = 8, ARRAY = 9 };

typedef struct extra {
    const char *key;  /* behind the architecture's name */
    uint32_t type;
    double number;
    const char *text; /* of STR; of ARRAY: a digit for each element, a bool */
} extra;

typedef struct arch_case {
    const char *name;
    extra more[3];
    const char *says; /* part of the error's text; NULL: it can be read */
} arch_case;

static void put_u32(sp_buf *b, uint32_t v) { sp_buf_put(b, &v, 4); }
static void put_u64(sp_buf *b, uint64_t v) { sp_buf_put(b, &v, 8); }
static void put_str(sp_buf *b, const char *s) { put_u64(b, strlen(s)); sp_buf_puts(b, s); }

static void put_key(sp_buf *b, const char *arch, const extra *e)
{
    char key[128];
    float f = (float)e->number;
    snprintf(key, sizeof key, "%s.%s", arch, e->key);
    put_str(b, key);
    put_u32(b, e->type);
    if (e->type == U32)
        put_u32(b, (uint32_t)e->number);
    else if (e->type == F32)
        sp_buf_put(b, &f, 4);
    else if (e->type == BOOL)
        sp_buf_putc(b, e->number != 0);
    else if (e->type == STR)
        put_str(b, e->text);
    else {
        put_u32(b, BOOL);
        put_u64(b, strlen(e->text));
        for (const char *p = e->text; *p; p++)
            sp_buf_putc(b, *p != '0');
    }
}

/* A file of 4 layers with what every family needs, and then these; one of the same name takes the place of the usual. */
static sp_err read_with(sp_arch *out, const arch_case *c, sp_diag *d)
{
    static const extra usual[] = {{"block_count", U32, 4, NULL}, {"context_length", U32, 64, NULL}, {"embedding_length", U32, 64, NULL},
                                  {"feed_forward_length", U32, 96, NULL}, {"attention.head_count", U32, 4, NULL},
                                  {"attention.head_count_kv", U32, 2, NULL}, {"attention.key_length", U32, 16, NULL},
                                  {"attention.value_length", U32, 16, NULL}};
    sp_buf b = {0};
    sp_gguf *g;
    uint64_t n = 1;
    sp_buf body = {0};
    put_str(&body, "general.architecture");
    put_u32(&body, STR);
    put_str(&body, c->name);
    for (size_t i = 0; i < 8 + 3; i++) {
        const extra *e = i < 8 ? &usual[i] : &c->more[i - 8];
        bool replaced = !e->key;
        for (size_t k = 0; k < 3 && i < 8; k++)
            replaced = replaced || (c->more[k].key && strcmp(c->more[k].key, e->key) == 0);
        if (replaced || (e->type == U32 && e->number < 0)) /* < 0: absent */
            continue;
        put_key(&body, c->name, e);
        n++;
    }
    sp_buf_puts(&b, "GGUF");
    put_u32(&b, 3);
    put_u64(&b, 0);
    put_u64(&b, n);
    sp_buf_put(&b, body.p, body.len);
    char *p = sp_mem_align(b.len + 64);
    memcpy(p, b.p, b.len);
    assert_int_equal(sp_gguf_open_mem(&g, p, b.len, d), SP_OK);
    sp_err err = sp_arch_read(out, g, d);
    sp_gguf_close(g);
    sp_mem_free(p);
    sp_buf_fini(&b);
    sp_buf_fini(&body);
    return err;
}

void test_keys_of_architectures(void **state)
{
    (void)state;
    static const arch_case cases[] = {
        {"llama", {{0}}, NULL},
        {"gpt9", {{0}}, "architecture gpt9"},
        {"llama", {{"block_count", U32, -1, NULL}}, "llama.block_count is missing"},
        {"llama", {{"block_count", U32, 0, NULL}}, "llama.block_count is 0"},
        {"llama", {{"block_count", U32, 513, NULL}}, "llama.block_count is 513"},
        {"llama", {{"context_length", STR, 0, "64"}}, "llama.context_length is string"},
        {"llama", {{"attention.head_count", U32, 3, NULL}}, "3 heads, 2 KV heads"},
        {"llama", {{"attention.key_length", U32, 24, NULL}}, "head of 24"},
        {"llama", {{"attention.value_length", U32, 32, NULL}}, "value 32"},
        {"llama", {{"rope.dimension_count", U32, 17, NULL}}, "llama.rope.dimension_count is 17"},
        {"llama", {{"attention.causal", BOOL, 0, NULL}}, NULL},
        {"bert", {{"pooling_type", U32, 5, NULL}}, "bert.pooling_type is 5"},
        {"bert", {{"attention.layer_norm_epsilon", F32, -1, NULL}}, "epsilon is -1"},
        {"bert", {{"attention.sliding_window", U32, 8, NULL}}, "bert with a sliding window (8)"},
        {"modern-bert", {{"hidden_activation", STR, 0, "relu"}}, "hidden_activation: relu"},
        {"gemma-embedding", {{"dense_2_feat_out", U32, 8, NULL}}, "dense layers from"},
        {"llama", {{"attention.causal", BOOL, 1, NULL}}, NULL},
        {"llama", {{"attention.scale", F32, -1, NULL}}, "llama.attention.scale is -1"},
        {"llama", {{"attention.layer_norm_rms_epsilon", F32, -1, NULL}}, "epsilon is -1"},
        {"qwen3", {{"expert_count", U32, 8, NULL}}, "qwen3 with a mixture of experts (8)"},
        {"llama", {{"expert_count", U32, 8, NULL}}, "expert_used_count is missing"},
        {"llama", {{"expert_count", U32, 8, NULL}, {"expert_used_count", U32, 9, NULL}}, "expert_used_count is 9"},
        {"llama", {{"expert_count", U32, 2048, NULL}}, "expert_count is 2048"},
        {"llama", {{"expert_count", U32, 8, NULL}, {"expert_used_count", U32, 2, NULL}}, NULL},
        {"llama", {{"expert_count", U32, 8, NULL}, {"expert_used_count", U32, 2, NULL}, {"expert_gating_func", U32, 4, NULL}},
         "expert_gating_func is 4"},
        {"llama", {{"expert_count", U32, 8, NULL}, {"expert_used_count", U32, 2, NULL}, {"expert_weights_scale", F32, -1, NULL}},
         "expert_weights_scale is -1"},
        {"llama", {{"expert_count", U32, 8, NULL}, {"expert_used_count", U32, 2, NULL}, {"expert_group_count", U32, 3, NULL}},
         "2 of 8 experts in 3 of 3 groups"},
        {"llama", {{"expert_count", U32, 8, NULL}, {"expert_used_count", U32, 2, NULL}, {"interleave_moe_layer_step", U32, 0, NULL}},
         "interleave_moe_layer_step is 0"},
        {"glm4moe", {{"expert_count", U32, 8, NULL}, {"expert_used_count", U32, 2, NULL}, {"feed_forward_length", U32, -1, NULL}},
         "feed_forward_length is missing"},
        {"llama", {{"nextn_predict_layers", U32, 4, NULL}}, "llama.nextn_predict_layers is 4"},
        {"llama", {{"attention.sliding_window", U32, 8, NULL}}, "llama with a sliding window (8)"},
        {"llama", {{"attention.sliding_window", U32, 64, NULL}}, NULL}, /* as long as the context: none */
        {"llama", {{"attention.head_count_kv", ARRAY, 0, "111"}}, "head_count_kv is an array of 3, expected 4"},
        {"llama", {{"attention.head_count_kv", ARRAY, 0, "1111"}}, NULL},
        {"llama", {{"attention.head_count_kv", ARRAY, 0, "1101"}}, "head_count_kv is 0"},
        {"gemma3", {{"attention.sliding_window", U32, 8, NULL}, {"attention.sliding_window_pattern", ARRAY, 0, "10"}}, "array of 2, expected 4"},
        {"gemma3", {{"attention.sliding_window", U32, 8, NULL}, {"attention.sliding_window_pattern", U32, 0, NULL}}, "pattern is 0"},
        {"gemma3", {{"attention.sliding_window", U32, 8, NULL}, {"rope.freq_base_swa", F32, 0, NULL}}, "out of range"},
        {"gemma2", {{"attn_logit_softcapping", F32, -1, NULL}}, "soft caps"},
        {"gemma2", {{"final_logit_softcapping", F32, -1, NULL}}, "soft caps"},
        {"mistral3", {{"attention.temperature_scale", F32, -1, NULL}}, "temperature_scale is -1"},
        {"mistral3", {{"rope.scaling.type", STR, 0, "yarn"}, {"rope.scaling.yarn_beta_fast", F32, 0.5, NULL}}, "beta 0.5"},
        {"mistral3", {{"rope.scaling.type", STR, 0, "yarn"}, {"rope.scaling.yarn_ext_factor", F32, 0.5, NULL}}, "yarn_ext_factor"},
        {"llama", {{"logit_scale", F32, 2, NULL}}, "llama.logit_scale is not supported"},
        {"llama", {{"logit_scale", F32, 0, NULL}}, NULL},
        {"qwen2", {{"attn_logit_softcapping", F32, 50, NULL}}, "qwen2.attn_logit_softcapping is not supported"},
        {"gemma3", {{"embedding_length_per_layer_input", U32, 256, NULL}}, "per_layer_input is not supported"},
        {"gemma3", {{"attention.key_length_swa", U32, 32, NULL}}, "heads of 32"},
        {"granite", {{"residual_scale", F32, -1, NULL}}, "residual_scale is -1"},
        {"granite", {{"rope.scaling.finetuned", U32, 1, NULL}}, "finetuned is u32"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sp_arch a;
        sp_diag d = {0};
        sp_err err = read_with(&a, &cases[i], &d);
        if (!cases[i].says && err != SP_OK)
            fail_msg("case %zu: %s", i, d.msg);
        if (cases[i].says && (err == SP_OK || !strstr(d.msg, cases[i].says)))
            fail_msg("case %zu: '%s' does not say '%s'", i, d.msg, cases[i].says);
    }
}

/* What each of the first layers is: w a window, f all positions, and behind it p RoPE of all, o of windows, n none. */
static void check_layers(const arch_case *c, const char *want)
{
    sp_arch a;
    sp_diag d = {0};
    if (read_with(&a, c, &d) != SP_OK)
        fail_msg("%s: %s", c->name, d.msg);
    for (size_t i = 0; want[2 * i]; i++) {
        const sp_arch_layer *l = &a.layer[i];
        char now[] = {l->window ? 'w' : 'f', l->rope == SP_ROPE_OFF ? 'n' : l->rope == SP_ROPE_WINDOW ? 'o' : 'p', 0};
        if (now[0] != want[2 * i] || now[1] != want[2 * i + 1])
            fail_msg("%s: layer %zu is %s, not %.2s", c->name, i, now, want + 2 * i);
    }
}

void test_layers_of_architectures(void **state)
{
    (void)state;
    const extra window = {"attention.sliding_window", U32, 8, NULL}, eight = {"block_count", U32, 8, NULL};
    check_layers(&(arch_case){"llama", {{0}}, NULL}, "fpfpfpfp");
    check_layers(&(arch_case){"gemma2", {window}, NULL}, "wofpwofp");
    check_layers(&(arch_case){"gemma3", {window, eight}, NULL}, "wowowowowofpwowo");
    check_layers(&(arch_case){"gemma3", {eight}, NULL}, "fpfpfpfpfpfpfpfp");
    check_layers(&(arch_case){"gemma3", {window, {"attention.sliding_window_pattern", U32, 2, NULL}}, NULL}, "wofpwofp");
    check_layers(&(arch_case){"olmo2", {window, {"attention.sliding_window_pattern", ARRAY, 0, "0110"}}, NULL}, "fpwowofp");
    check_layers(&(arch_case){"olmo2", {window}, NULL}, "wowowofp");
    check_layers(&(arch_case){"phi3", {window}, NULL}, "wowowowo");
    check_layers(&(arch_case){"exaone4", {window}, NULL}, "wowowofn");
    check_layers(&(arch_case){"exaone4", {{0}}, NULL}, "fpfpfpfp");
    const extra wide = {"attention.sliding_window", U32, 64, NULL}; /* as long as the context */
    check_layers(&(arch_case){"exaone4", {wide}, NULL}, "fofofofn");
    check_layers(&(arch_case){"gemma2", {wide}, NULL}, "fofpfofp");
    check_layers(&(arch_case){"smollm3", {eight}, NULL}, "fpfpfpfnfpfpfpfn");
    check_layers(&(arch_case){"granite", {{"rope.scaling.finetuned", BOOL, 0, NULL}}, NULL}, "fnfnfnfn");
    check_layers(&(arch_case){"granite", {{0}}, NULL}, "fpfpfpfp");
}

void test_flops_of_windows(void **state)
{
    (void)state;
    for (size_t window = 0; window < 12; window += 4) {
        const sp_model_flops f = {.per_seen = 3, .per_near = window ? 5 : 0, .n_near = window};
        for (size_t i = 0; i < 400; i++) {
            size_t pos = i % 20, n = i / 20;
            double want = 0;
            for (size_t t = pos + 1; t <= pos + n; t++)
                want += 3 * (double)t + f.per_near * (double)(t < window ? t : window);
            assert_true(fabs(sp_model_flops_seen(&f, pos, n) - want) < 1e-6);
        }
    }
}
