/* Names of a checkpoint's tensors, and what of each becomes which tensor of the file.
 * Source: the modules of transformers 5, and the checkpoints of earlier ones (an expert's matrices
 * one by one). */
#include "model/convert_int.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef enum kind {
    PLAIN,
    EACH = 1,   /* one expert's: the name has its number */
    ALL = 2,    /* those of all experts, one behind the other */
    TURNED = 4, /* stored transposed */
    BARE = 8,   /* no .weight or .bias stands behind it */
} kind;

static const struct {
    const char *from, *to;
    sp_convert_part part;
    unsigned is;
    const char *only; /* model_type, where others mean something else by the name; NULL: any */
} stems[] = {
    {"input_layernorm", "attn_norm", 0, PLAIN, NULL},
    {"pre_feedforward_layernorm", "ffn_norm", 0, PLAIN, NULL},
    {"post_feedforward_layernorm", "post_ffw_norm", 0, PLAIN, NULL},
    {"self_attn.q_proj", "attn_q", 0, PLAIN, NULL},
    {"self_attn.k_proj", "attn_k", 0, PLAIN, NULL},
    {"self_attn.v_proj", "attn_v", 0, PLAIN, NULL},
    {"self_attn.o_proj", "attn_output", 0, PLAIN, NULL},
    {"self_attn.qkv_proj", "attn_qkv", 0, PLAIN, NULL},
    {"self_attn.q_norm", "attn_q_norm", 0, PLAIN, NULL},
    {"self_attn.k_norm", "attn_k_norm", 0, PLAIN, NULL},
    {"self_attn.query_layernorm", "attn_q_norm", 0, PLAIN, NULL},
    {"self_attn.key_layernorm", "attn_k_norm", 0, PLAIN, NULL},
    {"self_attn.sinks", "attn_sinks", 0, BARE, NULL},
    {"mlp.gate_proj", "ffn_gate", 0, PLAIN, NULL},
    {"mlp.up_proj", "ffn_up", 0, PLAIN, NULL},
    {"mlp.gate_up_proj", "ffn_up", 0, PLAIN, NULL},
    {"mlp.down_proj", "ffn_down", 0, PLAIN, NULL},
    {"mlp.gate", "ffn_gate_inp", 0, PLAIN, NULL},
    {"mlp.router", "ffn_gate_inp", 0, PLAIN, NULL},
    {"mlp.gate.e_score_correction", "exp_probs_b", 0, BARE, NULL},
    {"mlp.moe_statics.e_score_correction", "exp_probs_b", 0, BARE, NULL},
    {"mlp.experts.gate_proj", "ffn_gate_exps", 0, EACH, NULL},
    {"mlp.experts.up_proj", "ffn_up_exps", 0, EACH, NULL},
    {"mlp.experts.down_proj", "ffn_down_exps", 0, EACH, NULL},
    {"mlp.shared_experts.gate_proj", "ffn_gate_shexp", 0, PLAIN, NULL},
    {"mlp.shared_experts.up_proj", "ffn_up_shexp", 0, PLAIN, NULL},
    {"mlp.shared_experts.down_proj", "ffn_down_shexp", 0, PLAIN, NULL},
    {"mlp.experts.gate_up_proj", "ffn_gate_exps", SP_CONVERT_EVEN, ALL | TURNED | BARE, "gpt_oss"},
    {"mlp.experts.gate_up_proj", "ffn_up_exps", SP_CONVERT_ODD, ALL | TURNED | BARE, "gpt_oss"},
    {"mlp.experts.down_proj", "ffn_down_exps", 0, ALL | TURNED | BARE, "gpt_oss"},
    {"block_sparse_moe.gate", "ffn_gate_inp", 0, PLAIN, NULL},
    {"block_sparse_moe.experts.w1", "ffn_gate_exps", 0, EACH, NULL},
    {"block_sparse_moe.experts.w3", "ffn_up_exps", 0, EACH, NULL},
    {"block_sparse_moe.experts.w2", "ffn_down_exps", 0, EACH, NULL},
    {"block_sparse_moe.router.layer", "ffn_gate_inp", 0, PLAIN, NULL},
    {"block_sparse_moe.input_linear", "ffn_gate_exps", SP_CONVERT_FIRST, ALL, NULL},
    {"block_sparse_moe.input_linear", "ffn_up_exps", SP_CONVERT_SECOND, ALL, NULL},
    {"block_sparse_moe.output_linear", "ffn_down_exps", 0, ALL, NULL},
    {"shared_mlp.input_linear", "ffn_gate_shexp", SP_CONVERT_FIRST, PLAIN, NULL},
    {"shared_mlp.input_linear", "ffn_up_shexp", SP_CONVERT_SECOND, PLAIN, NULL},
    {"shared_mlp.output_linear", "ffn_down_shexp", 0, PLAIN, NULL},
    {"attention.self.query", "attn_q", 0, PLAIN, NULL},
    {"attention.self.key", "attn_k", 0, PLAIN, NULL},
    {"attention.self.value", "attn_v", 0, PLAIN, NULL},
    {"attention.output.dense", "attn_output", 0, PLAIN, NULL},
    {"attention.output.LayerNorm", "attn_output_norm", 0, PLAIN, NULL},
    {"intermediate.dense", "ffn_up", 0, PLAIN, NULL},
    {"output.dense", "ffn_down", 0, PLAIN, NULL},
    {"output.LayerNorm", "layer_output_norm", 0, PLAIN, NULL},
    {"attn.Wqkv", "attn_qkv", 0, PLAIN, NULL},
    {"attn.out_proj", "attn_output", 0, PLAIN, NULL},
    {"norm1", "attn_output_norm", 0, PLAIN, NULL},
    {"norm2", "layer_output_norm", 0, PLAIN, NULL},
    {"mlp.fc11", "ffn_up", 0, PLAIN, NULL},
    {"mlp.fc12", "ffn_gate", 0, PLAIN, NULL},
    {"mlp.fc2", "ffn_down", 0, PLAIN, NULL},
    {"attn_norm", "attn_norm", 0, PLAIN, NULL},
    {"mlp_norm", "ffn_norm", 0, PLAIN, NULL},
    {"attn.Wo", "attn_output", 0, PLAIN, NULL},
    {"mlp.Wi", "ffn_up", 0, PLAIN, NULL},
    {"mlp.Wo", "ffn_down", 0, PLAIN, NULL},
};

/* A name taken apart: layers.LAYER.STEM.PART, and an expert's number cut out of the stem. */
typedef struct parts {
    char stem[96];
    const char *part;
    bool is_layer, is_bare, has_expert, is_blocks, is_scales;
    size_t layer, expert;
} parts;

/* Cuts `end` off the stem. */
static bool cut(char *stem, const char *end)
{
    size_t n = strlen(stem), m = strlen(end);
    if (n <= m || strcmp(stem + n - m, end) != 0)
        return false;
    stem[n - m] = 0;
    return true;
}

/* A number of at most 5 digits before a dot; NULL: there is none. */
static char *number(size_t *out, char *p)
{
    size_t n = strspn(p, "0123456789");
    if (n < 1 || n > 5 || p[n] != '.')
        return NULL;
    *out = strtoul(p, NULL, 10);
    return p + n + 1;
}

/* Behind the name of the module that holds all of it, if there is one. */
static const char *behind_module(const char *name)
{
    static const char *const modules[] = {"model.", "bert.", "roberta."};
    for (size_t i = 0; i < sizeof modules / sizeof modules[0]; i++)
        if (strncmp(name, modules[i], strlen(modules[i])) == 0)
            return name + strlen(modules[i]);
    return name;
}

/* Where a layer's number begins; NULL: it is of no layer. */
static char *behind_layers(char *stem)
{
    static const char *const lists[] = {"layers.", "encoder.layer.", "encoder.layers."};
    for (size_t i = 0; i < sizeof lists / sizeof lists[0]; i++)
        if (strncmp(stem, lists[i], strlen(lists[i])) == 0)
            return stem + strlen(lists[i]);
    return NULL;
}

static bool take_apart(parts *p, const char *name)
{
    char *rest, *experts;
    *p = (parts){.part = "weight"};
    name = behind_module(name);
    if ((size_t)snprintf(p->stem, sizeof p->stem, "%s", name) >= sizeof p->stem)
        return false;
    if (cut(p->stem, ".bias") || cut(p->stem, ".beta")) {
        p->part = "bias";
    } else if (!cut(p->stem, ".weight") && !cut(p->stem, ".gamma")) {
        p->is_bare = true;
        p->part = cut(p->stem, "_bias") ? "bias" : "weight";
        p->is_blocks = cut(p->stem, "_blocks");
        p->is_scales = cut(p->stem, "_scales");
    }
    if (!(rest = behind_layers(p->stem)))
        return true;
    if (!(rest = number(&p->layer, rest)))
        return false;
    p->is_layer = true;
    memmove(p->stem, rest, strlen(rest) + 1);
    experts = strstr(p->stem, ".experts.");
    if (experts && (rest = number(&p->expert, experts + 9))) {
        p->has_expert = true;
        memmove(experts + 9, rest, strlen(rest) + 1);
    }
    return true;
}

/* What is of no layer; of a pooler and a classifier the parts of a score. */
static const char *top_of(const char *stem, bool is_ranker)
{
    static const struct { const char *from, *to; bool of_score; } tops[] = {
        {"embed_tokens", "token_embd", false},
        {"norm", "output_norm", false},
        {"lm_head", "output", false},
        {"embeddings.word_embeddings", "token_embd", false},
        {"embeddings.tok_embeddings", "token_embd", false},
        {"embeddings.position_embeddings", "position_embd", false},
        {"embeddings.token_type_embeddings", "token_types", false},
        {"embeddings.LayerNorm", "token_embd_norm", false},
        {"embeddings.norm", "token_embd_norm", false},
        {"emb_ln", "token_embd_norm", false},
        {"final_norm", "output_norm", false},
        {"pooler.dense", "cls", true},
        {"classifier.dense", "cls", true},
        {"classifier", "cls.output", true},
        {"classifier.out_proj", "cls.output", true}};
    for (size_t i = 0; i < sizeof tops / sizeof tops[0]; i++)
        if (strcmp(tops[i].from, stem) == 0 && (is_ranker || !tops[i].of_score))
            return tops[i].to;
    return NULL;
}

/* Computed, the embedding once more, or a pooler that nothing asks. */
static bool is_left_out(const sp_convert_family *f, const json_t *config, const char *name)
{
    const char *in = behind_module(name);
    if (strcmp(name, "lm_head.weight") == 0)
        return json_is_true(json_object_get(config, "tie_word_embeddings"));
    if (!(f->is & SP_CONVERT_ENCODER))
        return strstr(name, "rotary_emb.inv_freq") != NULL;
    return strcmp(in, "embeddings.position_ids") == 0 || strstr(name, "inv_freq") ||
           (strncmp(in, "pooler.", 7) == 0 && !sp_convert_is_ranker(config));
}

/* How many heads' rows change their order in this tensor. */
static sp_err pairs_of(size_t *n, const sp_convert_family *f, const json_t *config, const char *to,
                       sp_diag *d)
{
    bool is_q = strcmp(to, "attn_q") == 0, is_k = strcmp(to, "attn_k") == 0;
    const json_t *keys = json_object_get(config, "num_key_value_heads");
    const char *key = is_k && json_is_integer(keys) ? "num_key_value_heads" : "num_attention_heads";
    json_int_t v = json_integer_value(json_object_get(config, key));
    *n = 0;
    if (!(f->is & SP_CONVERT_PAIRS) || (!is_q && !is_k))
        return SP_OK;
    if (v < 1 || v > UINT32_MAX)
        return SP_FAIL(d, SP_FORMAT, "config.json: %s is missing or no size", key);
    *n = (size_t)v;
    return SP_OK;
}

static sp_err put_slots(sp_convert_slot out[2], size_t *n, const parts *p,
                        const sp_convert_family *f, const json_t *config, sp_diag *d)
{
    const bool is_post = strcmp(p->stem, "post_attention_layernorm") == 0;
    *n = 0;
    if (is_post && !p->is_bare) {
        out[(*n)++] = (sp_convert_slot){.is_blocks = p->is_blocks};
        snprintf(out[0].name, sizeof out[0].name, "blk.%zu.%s.%s", p->layer,
                 f->is & SP_CONVERT_POST ? "post_attention_norm" : "ffn_norm", p->part);
    }
    for (size_t i = 0; i < sizeof stems / sizeof stems[0] && *n < 2; i++) {
        if (strcmp(stems[i].from, p->stem) != 0 || p->has_expert != (stems[i].is == EACH) ||
            p->is_bare != !!(stems[i].is & BARE) ||
            (stems[i].only && strcmp(stems[i].only, f->from) != 0))
            continue;
        sp_convert_slot *s = &out[(*n)++];
        *s = (sp_convert_slot){.part = stems[i].part,
                               .is_each = p->has_expert,
                               .expert = p->expert,
                               .is_blocks = p->is_blocks};
        s->is_all = stems[i].is & ALL;
        s->is_turned = stems[i].is & TURNED && strcmp(p->part, "weight") == 0 && !p->is_blocks;
        SP_TRY(pairs_of(&s->n_pair, f, config, stems[i].to, d));
        snprintf(s->name, sizeof s->name, "blk.%zu.%s.%s", p->layer, stems[i].to, p->part);
    }
    for (size_t i = 0; i < *n; i++)
        out[i].plus_one = f->is & SP_CONVERT_PLUS_ONE && strstr(out[i].name, "norm");
    return SP_OK;
}

static void put_top(sp_convert_slot *out, const parts *p, const char *top,
                    const sp_convert_family *f, const json_t *config)
{
    json_int_t pad = json_integer_value(json_object_get(config, "pad_token_id"));
    *out = (sp_convert_slot){.plus_one = f->is & SP_CONVERT_PLUS_ONE && strstr(top, "norm")};
    if (f->is & SP_CONVERT_CUT && strcmp(top, "position_embd") == 0)
        out->skip = pad >= 0 && pad < 1000 ? (size_t)pad + 1 : 0;
    snprintf(out->name, sizeof out->name, "%s.%s", top, p->part);
}

sp_err sp_convert_name(sp_convert_slot out[2], size_t *n, const sp_convert_family *f,
                       const json_t *config, const char *name, sp_diag *d)
{
    parts p;
    size_t n_layer = (size_t)json_integer_value(json_object_get(config, "num_hidden_layers"));
    *n = 0;
    if (is_left_out(f, config, name))
        return SP_OK;
    if (take_apart(&p, name)) {
        bool is_ranker = f->is & SP_CONVERT_ENCODER && sp_convert_is_ranker(config);
        const char *top = p.is_layer || p.is_bare ? NULL : top_of(p.stem, is_ranker);
        if (p.is_layer && p.layer >= n_layer && json_object_get(config, "num_nextn_predict_layers"))
            return SP_OK; /* layers that guess tokens */
        if (top)
            put_top(&out[(*n)++], &p, top, f, config);
        else if (p.is_layer)
            SP_TRY(put_slots(out, n, &p, f, config, d));
        if (*n && p.is_scales)
            *n = 0; /* taken with their blocks */
        else if (!*n || (p.is_blocks && !out[0].is_all))
            return SP_FAIL(d, SP_UNSUP,
                           "tensor %.100s is none that a model of type %s is known to have", name,
                           f->from);
        return SP_OK;
    }
    return SP_FAIL(d, SP_UNSUP, "tensor %.100s is none that a model of type %s is known to have",
                   name, f->from);
}
