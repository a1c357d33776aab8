/* How hyper-parameters are read, and what follows from them. */
#include "model/arch_int.h"

#include "kv/pool.h"

#include <math.h>
#include <string.h>

/* Which layers see a window only. */
static sp_err read_windows(sp_arch *a, const sp_family *f, sp_arch_reader *r)
{
    size_t window, every = f->full_every, is_window;
    SP_TRY(sp_arch_u(&window, r, "attention.sliding_window", 0, UINT32_MAX, f->window));
    if (window == 0 || (window >= a->n_ctx && !f->full_every))
        return SP_OK;
    if (!f->full_every)
        return SP_FAIL(r->d, SP_UNSUP, "gguf: %s with a sliding window (%zu) is not supported",
                       a->name, window);
    static const char pattern[] = "attention.sliding_window_pattern";
    bool each = sp_gguf_is_array(r->g, sp_arch_key(r, pattern));
    if (!each)
        SP_TRY(sp_arch_u(&every, r, pattern, 1, UINT32_MAX, f->full_every));
    for (size_t i = 0; i < a->n_layer; i++) {
        is_window = i % every != (f->is & FULL_FIRST ? 0 : every - 1);
        if (each)
            SP_TRY(sp_arch_at(&is_window, r, pattern, i, 0, 1, SIZE_MAX));
        /* a window as long as the context is none, but its RoPE is that of windows */
        if (is_window) {
            a->layer[i].window = window < a->n_ctx ? window : 0;
            a->layer[i].rope = SP_ROPE_WINDOW;
        }
    }
    return SP_OK;
}

/* Heads of each layer: those with a window may have others. */
static sp_err read_own_heads(sp_arch *a, const sp_family *f, sp_arch_reader *r)
{
    size_t d_window = a->d_head, d_value = a->d_head, d_rot = a->d_rot, n_head_kv = 0, d_head = 0;
    if (f->is & OWN_HEADS) {
        SP_TRY(sp_arch_u(&d_window, r, "attention.key_length_swa", 1, 1 << 12, a->d_head));
        SP_TRY(sp_arch_u(&d_value, r, "attention.value_length_swa", 1, 1 << 12, d_window));
        SP_TRY(sp_arch_u(&d_rot, r, "rope.dimension_count_swa", 2, d_window, d_window));
    }
    for (size_t i = 0; i < a->n_layer; i++) {
        sp_arch_layer *l = &a->layer[i];
        l->d_head = l->rope == SP_ROPE_WINDOW ? d_window : a->d_head;
        l->n_head_kv = a->n_head_kv;
        if (f->is & OWN_HEADS)
            SP_TRY(
                sp_arch_at(&l->n_head_kv, r, "attention.head_count_kv", i, 1, MAX_HEAD, a->n_head));
        if (a->n_head % l->n_head_kv || l->d_head % 16 || d_rot % 2 || d_value != d_window)
            return SP_FAIL(r->d, SP_UNSUP,
                           "gguf: layer %zu: %zu heads, %zu KV heads, head of %zu (value %zu), "
                           "rope over %zu: not supported",
                           i, a->n_head, l->n_head_kv, l->d_head, d_value, d_rot);
        n_head_kv = l->n_head_kv > n_head_kv ? l->n_head_kv : n_head_kv;
        d_head = l->d_head > d_head ? l->d_head : d_head;
    }
    a->rope[SP_ROPE_WINDOW].d_rot = d_rot;
    a->n_head_kv = n_head_kv;
    a->d_head = d_head;
    a->d_rot = d_rot > a->d_rot ? d_rot : a->d_rot;
    return SP_OK;
}

sp_err sp_arch_lay_out_pages(sp_arch *a, size_t n_shared, sp_arch_reader *r)
{
    size_t first = a->n_layer - n_shared;
    a->n_page_layer = 0;
    for (size_t i = 0; i < a->n_layer; i++) {
        sp_arch_layer *l = &a->layer[i];
        size_t j = first;
        if (!sp_arch_attends(l))
            continue;
        if (i < first) {
            const sp_kv_heads h = {l->n_head_kv, l->d_head};
            a->has_own_heads |= a->n_page_layer &&
                                (h.n_head != a->page_heads[0].n_head || h.d != a->page_heads[0].d);
            l->i_page = a->n_page_layer;
            a->page_heads[a->n_page_layer++] = h;
            continue;
        }
        while (j > 0 &&
               (a->layer[j - 1].rope != l->rope || a->layer[j - 1].n_head_kv != l->n_head_kv))
            j--;
        if (j == 0)
            return SP_FAIL(r->d, SP_FORMAT,
                           "gguf: no layer before layer %zu has keys that it could share", i);
        l->is_shared = true;
        l->i_page = a->layer[j - 1].i_page;
        l->kept = a->layer[j - 1].kept = l->rope == SP_ROPE_WINDOW ? 2 : 1;
    }
    return SP_OK;
}

/* Sizes of the heads, checked against each other. */
static sp_err read_heads(sp_arch *a, const sp_family *f, sp_arch_reader *r)
{
    size_t d_value, d_window, d_value_window, d_rot_window;
    bool own = f->is & OWN_HEADS; /* then read_own_heads reads the rest */
    SP_TRY(sp_arch_same_attending(&a->n_head, r, "attention.head_count", a, MAX_HEAD, SIZE_MAX));
    if (own)
        a->n_head_kv = a->n_head;
    else
        SP_TRY(sp_arch_same_attending(&a->n_head_kv, r, "attention.head_count_kv", a, MAX_HEAD,
                                      a->n_head));
    SP_TRY(sp_arch_u(&a->d_head, r, "attention.key_length", 1, 1 << 12,
                     a->n_embd / a->n_head ? a->n_embd / a->n_head : 1));
    SP_TRY(sp_arch_u(&d_value, r, "attention.value_length", 1, 1 << 12, a->d_head));
    if (a->latent.n)
        d_value = d_value == a->latent.n ? a->d_head : d_value;
    SP_TRY(sp_arch_u(&a->d_rot, r, "rope.dimension_count", 2, a->d_head, a->d_head));
    SP_TRY(sp_arch_u(&d_window, r, "attention.key_length_swa", 1, 1 << 12, a->d_head));
    SP_TRY(sp_arch_u(&d_value_window, r, "attention.value_length_swa", 1, 1 << 12, a->d_head));
    SP_TRY(sp_arch_u(&d_rot_window, r, "rope.dimension_count_swa", 1, 1 << 12, a->d_rot));
    if (!own && (d_window != a->d_head || d_value_window != a->d_head || d_rot_window != a->d_rot))
        return SP_FAIL(r->d, SP_UNSUP,
                       "gguf: heads of %zu (value %zu, rope over %zu) in layers with a window and "
                       "of %zu (rope over %zu) in others: not supported",
                       d_window, d_value_window, d_rot_window, a->d_head, a->d_rot);
    if (a->n_head % a->n_head_kv || a->d_head % 16 || a->d_rot % 2 || d_value != a->d_head)
        return SP_FAIL(
            r->d, SP_UNSUP,
            "gguf: %zu heads, %zu KV heads, head of %zu (value %zu), rope over %zu: not supported",
            a->n_head, a->n_head_kv, a->d_head, d_value, a->d_rot);
    return sp_arch_factor(&a->attn_scale, r, "attention.scale", 1.0f / sqrtf((float)a->d_head));
}

/* Latents and what is made of them. attention.key_length is that of a page's key. */
static sp_err read_latent(sp_arch *a, sp_arch_reader *r)
{
    sp_arch_latent *t = &a->latent;
    if (!sp_gguf_has(r->g, sp_arch_key(r, "attention.key_length_mla")))
        return SP_FAIL(r->d, SP_UNSUP,
                       "gguf: key %s is missing: a file of before April 2025, in which the "
                       "matrices of keys and values are one "
                       "(attn_kv_b); convert the model again",
                       r->key);
    SP_TRY(sp_arch_u(&t->n, r, "attention.kv_lora_rank", 16, 1 << 12, SIZE_MAX));
    SP_TRY(sp_arch_u(&t->n_query, r, "attention.q_lora_rank", 0, MAX_EMBD, 0));
    SP_TRY(sp_arch_u(&t->d_query, r, "attention.key_length_mla", 1, 1 << 12, SIZE_MAX));
    SP_TRY(sp_arch_u(&t->d_value, r, "attention.value_length_mla", 1, 1 << 12, SIZE_MAX));
    return SP_OK;
}

/* How tokens come to experts. */
static sp_err read_route(sp_arch *a, const sp_family *f, sp_arch_reader *r)
{
    sp_dev_route *t = &a->route;
    size_t score;
    SP_TRY(sp_arch_u(&t->n_expert, r, "expert_count", 0, MAX_EXPERT, 0));
    if (!t->n_expert)
        return SP_OK;
    if (!(f->is & EXPERTS))
        return SP_FAIL(r->d, SP_UNSUP, "gguf: %s with a mixture of experts (%zu) is not supported",
                       a->name, t->n_expert);
    SP_TRY(sp_arch_u(&t->n_used, r, "expert_used_count", 1, t->n_expert, SIZE_MAX));
    SP_TRY(sp_arch_u(&score, r, "expert_gating_func", 1, SP_SCORES,
                     f->score + 1)); /* the file counts from 1 */
    t->score = (sp_score)(score - 1);
    SP_TRY(sp_arch_bool(&t->normed, r, "expert_weights_norm", !(f->is & AS_SCORED)));
    SP_TRY(sp_arch_factor(&t->scale, r, "expert_weights_scale", 1.0f));
    SP_TRY(sp_arch_u(&t->n_group, r, "expert_group_count", 0, t->n_expert, 1));
    t->n_group = t->n_group ? t->n_group : 1;
    SP_TRY(sp_arch_u(&t->n_group_used, r, "expert_group_used_count", 0, t->n_group, t->n_group));
    t->n_group_used = t->n_group_used ? t->n_group_used : t->n_group;
    if (t->n_expert % t->n_group || t->n_used > t->n_expert / t->n_group * t->n_group_used)
        return SP_FAIL(r->d, SP_FORMAT, "gguf: %zu of %zu experts in %zu of %zu groups: cannot be",
                       t->n_used, t->n_expert, t->n_group_used, t->n_group);
    return SP_OK;
}

/* Which layers have experts, and what they have beside them. */
static sp_err read_experts(sp_arch *a, sp_arch_reader *r)
{
    size_t lead, step, n_shared, n_ff, same = SIZE_MAX;
    if (!a->route.n_expert)
        return SP_OK;
    if (!sp_gguf_has(
            r->g, sp_arch_key(
                      r, "expert_feed_forward_length"))) /* some families have one width for both */
        SP_TRY(sp_arch_same(&same, r, "feed_forward_length", a, MAX_FF, SIZE_MAX));
    SP_TRY(sp_arch_same(&a->n_ff_expert, r, "expert_feed_forward_length", a, MAX_FF, same));
    SP_TRY(sp_arch_u(&lead, r, "leading_dense_block_count", 0, UINT32_MAX, 0));
    SP_TRY(sp_arch_u(&step, r, "interleave_moe_layer_step", 1, UINT32_MAX, 1));
    SP_TRY(sp_arch_u(&n_shared, r, "expert_shared_count", 0, MAX_EXPERT, 0));
    SP_TRY(sp_arch_u(&n_ff, r, "expert_shared_feed_forward_length", 0, MAX_FF,
                     n_shared * a->n_ff_expert));
    for (size_t i = 0; i < a->n_layer; i++) {
        if (i < lead || (i + 1) % step)
            continue;
        a->layer[i].ffn = SP_FFN_EXPERTS;
        a->layer[i].n_ff = n_ff;
    }
    return SP_OK;
}

static sp_err read_layers(sp_arch *a, const sp_family *f, sp_arch_reader *r)
{
    size_t n_guess;
    SP_TRY(sp_arch_u(&r->n_block, r, "block_count", 1, SP_MAX_LAYER, SIZE_MAX));
    SP_TRY(sp_arch_u(&n_guess, r, "nextn_predict_layers", 0, r->n_block - 1, 0));
    a->n_layer = r->n_block - n_guess;
    a->n_next = n_guess;
    a->known_next = f->is & NEXT;
    SP_TRY(sp_arch_u(&a->n_ctx, r, "context_length", 1, MAX_CTX, SIZE_MAX));
    SP_TRY(sp_arch_u(&a->n_embd, r, "embedding_length", 1, MAX_EMBD, SIZE_MAX));
    SP_TRY(read_experts(a, r));
    for (size_t i = 0; i < a->n_layer; i++) {
        if (f->is & NO_GATE && a->layer[i].ffn != SP_FFN_EXPERTS)
            a->layer[i].ffn = SP_FFN_PLAIN;
        if (f->is & NO_ROPE)
            a->layer[i].rope = SP_ROPE_OFF;
        a->layer[i].is_bare = f->is & BARE_FIRST && i == 0;
        size_t n_ff = 1;
        if (a->layer[i].ffn != SP_FFN_EXPERTS || f->is & ALONE)
            SP_TRY(sp_arch_at(&n_ff, r, "feed_forward_length", i, f->is & ALONE ? 0 : 1, MAX_FF,
                              SIZE_MAX));
        if (n_ff == 0)
            a->layer[i].ffn = SP_FFN_NONE;
        if (a->layer[i].ffn != SP_FFN_EXPERTS)
            a->layer[i].n_ff = n_ff;
        a->n_ff = a->layer[i].n_ff > a->n_ff ? a->layer[i].n_ff : a->n_ff;
    }
    return SP_OK;
}

/* Which layers attend, and which have a state instead: those without heads of keys; of some
 * families those that a list names, or all but every n-th, or all layers have both. */
static sp_err read_mix(sp_arch *a, const sp_family *f, sp_arch_reader *r)
{
    bool listed = sp_gguf_has(r->g, sp_arch_key(r, "attention.recurrent_layers")),
         each = f->mix != SP_MIX_DELTA;
    size_t n_head = 1, last = a->n_layer, every, has_state;
    if (!each)
        SP_TRY(sp_arch_u(&every, r, "full_attention_interval", 1, UINT32_MAX, 4));
    for (size_t i = 0; i < a->n_layer; i++) {
        if (!each) {
            has_state = (i + 1) % every != 0;
            if (listed)
                SP_TRY(sp_arch_at(&has_state, r, "attention.recurrent_layers", i, 0, 1, SIZE_MAX));
            n_head = !has_state;
        } else if (f->mix != SP_MIX_ATTN) {
            SP_TRY(sp_arch_at(&n_head, r, "attention.head_count_kv", i, 0, MAX_HEAD, 1));
        }
        a->layer[i].mix = n_head && f->mix != SP_MIX_BOTH ? SP_MIX_ATTN : f->mix;
        if (f->is & ALONE && a->layer[i].ffn != SP_FFN_NONE)
            a->layer[i].mix = SP_MIX_NONE;
        last = sp_arch_attends(&a->layer[i]) ? i : last;
    }
    return last < a->n_layer
               ? SP_OK
               : SP_FAIL(r->d, SP_UNSUP, "gguf: %s without a layer of attention is not supported",
                         a->name);
}

/* Where each layer's state lies in a sequence's. Reads what the family said of them. */
static sp_err lay_out_states(sp_arch *a, sp_arch_reader *r)
{
    sp_arch_state *s = &a->state;
    for (size_t i = 0; i < a->n_layer; i++) {
        if (!sp_arch_has_state(&a->layer[i]))
            continue;
        if (a->both_ways)
            return SP_FAIL(r->d, SP_UNSUP, "gguf: %s that reads texts both ways is not supported",
                           a->name);
        s->n_number = a->layer[i].mix == SP_MIX_DELTA ? 2 * s->n_head : s->n_head;
        a->layer[i].state_at = s->n_bytes;
        s->n_bytes += sp_arch_state_bytes(a);
    }
    return SP_OK;
}

sp_err sp_arch_next(sp_arch *out, const sp_arch *a, sp_diag *d)
{
    size_t last = a->n_layer;
    if (!a->n_next || !a->known_next)
        return SP_FAIL(d, SP_UNSUP, "gguf: %s without a block that guesses tokens", a->name);
    while (a->layer[last - 1].mix != SP_MIX_ATTN) /* there is one: read_mix */
        last--;
    *out = *a;
    out->first = a->n_layer;
    out->n_layer = out->n_page_layer = 1;
    out->layer[0] = a->layer[last - 1];
    out->page_heads[0] = a->page_heads[a->layer[last - 1].i_page];
    out->layer[0].i_page = 0;
    out->has_own_heads = false;
    out->state = (sp_arch_state){0};
    out->n_ff = a->layer[last - 1].n_ff;
    return SP_OK;
}

bool sp_arch_attends(const sp_arch_layer *l)
{
    return l->mix == SP_MIX_ATTN || l->mix == SP_MIX_BOTH;
}

bool sp_arch_has_state(const sp_arch_layer *l)
{
    return l->mix != SP_MIX_ATTN && l->mix != SP_MIX_NONE;
}

size_t sp_arch_state_conv(const sp_arch *a)
{
    return ((a->state.n_tap - 1) * a->state.n_chan * sizeof(float) + 63) / 64 * 64;
}

size_t sp_arch_state_bytes(const sp_arch *a)
{
    const sp_arch_state *s = &a->state;
    return sp_arch_state_conv(a) + s->n_head * s->d_k * s->d_v * sizeof(float);
}

/* Families whose layers are convolutions alone gate what is mixed by two parts of the same
 * matrix. */
size_t sp_arch_kept_mix(const sp_arch *a)
{
    return a->state.n_head ? a->state.n_chan : 3 * a->n_embd;
}

size_t sp_arch_kept_beside(const sp_arch *a)
{
    return a->state.n_number;
}

size_t sp_arch_kept_bytes(const sp_arch *a)
{
    size_t n = a->state.n_bytes ? a->state.n_bytes / sp_arch_state_bytes(a) : 0;
    return n * (SP_KV_GUESS_TOK - 1) * (sp_arch_kept_mix(a) + sp_arch_kept_beside(a)) *
           sizeof(float);
}

/* Which tokens see which, and what becomes of their states. */
static sp_err read_reading(sp_arch *a, const sp_family *f, sp_arch_reader *r)
{
    bool is_causal;
    size_t pooling;
    SP_TRY(sp_arch_bool(&is_causal, r, "attention.causal", !(f->is & BOTH_WAYS)));
    SP_TRY(sp_arch_u(&pooling, r, "pooling_type", 0, SP_POOLINGS - 1, SP_POOL_NONE));
    a->both_ways = !is_causal;
    a->pooling = a->both_ways && !pooling ? SP_POOL_MEAN : (sp_pooling)pooling;
    return SP_OK;
}

sp_err sp_arch_read(sp_arch *out, const sp_gguf *g, sp_diag *d)
{
    const sp_family *f;
    SP_TRY(sp_arch_find_family(&f, g, d));
    sp_arch_reader r = {.g = g, .arch = f->name, .d = d};
    sp_arch *a = out;
    memset(a, 0, sizeof *a);
    a->name = f->name;
    a->act = f->act;
    a->head_norm = f->head_norm;
    a->rope_halves = f->is & HALVES;
    a->pre_norm = !(f->is & (ONLY_POST | SUM_NORM));
    a->layer_norm = a->embd_norm = f->is & LAYER_NORM;
    a->sum_norm = f->is & SUM_NORM;
    a->final_norm = !a->sum_norm;
    a->learned_pos = f->is & NO_ROPE;
    a->post_norm = f->is & (ONLY_POST | POST_NORM);
    a->branch_scale = a->logit_scale = a->embd_scale = 1;
    a->late_name = f->is & LATE_NAME;
    a->embd_name = f->is & EMBD_NAME;
    a->shared_gate = f->is & SHARED_GATE;
    a->state.neighbours = a->state.joined = f->is & NEIGHBOURS;
    a->sinks = f->is & SINKS;
    SP_TRY(read_route(a, f, &r));
    SP_TRY(read_layers(a, f, &r));
    if (f->is & LATENT)
        SP_TRY(read_latent(a, &r));
    SP_TRY(read_mix(a, f, &r));
    SP_TRY(read_heads(a, f, &r));
    if (f->is & EMBD_SQRT)
        a->embd_scale = sqrtf((float)a->n_embd);
    SP_TRY(sp_arch_f(&a->norm_eps, &r,
                     a->layer_norm ? "attention.layer_norm_epsilon"
                                   : "attention.layer_norm_rms_epsilon",
                     1e-5f));
    if (!(a->norm_eps >= 0))
        return SP_FAIL(d, SP_FORMAT, "gguf: key %s is %g", r.key, (double)a->norm_eps);
    SP_TRY(read_reading(a, f, &r));
    SP_TRY(sp_arch_read_rope(a, f, &r));
    SP_TRY(read_windows(a, f, &r));
    SP_TRY(read_own_heads(a, f, &r));
    SP_TRY(sp_arch_lay_out_pages(a, 0, &r));
    if (f->read)
        SP_TRY(f->read(a, &r));
    SP_TRY(lay_out_states(a, &r));
    return sp_arch_check_keys(&r);
}

bool sp_arch_is_encoder(const sp_arch *a)
{
    return a->pooling != SP_POOL_NONE;
}

size_t sp_arch_dim(const sp_arch *a)
{
    return a->n_out ? a->n_out : a->n_embd;
}

const char *sp_pooling_name(sp_pooling p)
{
    static const char *const names[SP_POOLINGS] = {"none", "mean", "cls", "last", "rank"};
    return names[p];
}
