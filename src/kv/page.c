#include "kv/page.h"

#include "kern/fp8.h"

#include <string.h>

static const sp_kv_format formats[] = {
    {.name = "q8", .type = SP_F16, .is_planes = true},
    {.name = "q4", .type = SP_F16, .is_planes = true, .is_demoted = true},
    {.name = "fp8", .type = SP_F16, .is_fp8 = true},
    {.name = "f16", .type = SP_F16},
    {.name = "bf16", .type = SP_BF16},
    {.name = "f32", .type = SP_F32}};

const sp_kv_format *sp_kv_format_find(const char *name)
{
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (strcmp(formats[i].name, name) == 0)
            return &formats[i];
    return NULL;
}

static sp_kv_heads heads_of(const sp_kv_shape *s, size_t layer)
{
    return s->of ? s->of[layer] : (sp_kv_heads){s->n_head, s->d};
}

static bool head_fits(const sp_kv_shape *s, size_t d)
{
    if (s->format->is_fp8)
        return d % 16 == 0 && d <= SP_FP8_HEAD && !s->n_latent;
    return !s->format->is_planes || (d % 16 == 0 && d <= (s->n_latent ? SP_MAX_KEY : SP_MAX_HEAD));
}

bool sp_kv_shape_fits(const sp_kv_shape *s)
{
    for (size_t i = 0; i < s->n_layer; i++)
        if (!head_fits(s, heads_of(s, i).d))
            return false;
    return true;
}

static size_t plain_bytes(const sp_kv_shape *s, size_t d)
{
    return (s->n_latent ? 1 : 2) * d * SP_PAGE_TOK * sp_type_get(s->format->type)->blk_bytes;
}

static size_t hi_bytes(const sp_kv_shape *s, size_t d)
{
    if (s->format->is_fp8)
        return sp_fp8_bytes(d);
    if (!s->format->is_planes)
        return plain_bytes(s, d);
    return s->n_latent ? sp_planes_keys_hi_bytes(d) : sp_planes_hi_bytes(d);
}

static size_t lo_bytes(const sp_kv_shape *s, size_t d)
{
    if (!s->format->is_planes)
        return 0;
    return s->n_latent ? sp_planes_keys_lo_bytes(d) : sp_planes_lo_bytes(d);
}

/* Of the layers before `layer`. */
static size_t sum_of(const sp_kv_shape *s, size_t layer,
                     size_t (*bytes)(const sp_kv_shape *s, size_t d))
{
    size_t sum = 0;
    if (!s->of)
        return layer * s->n_head * bytes(s, s->d);
    for (size_t i = 0; i < layer; i++)
        sum += s->of[i].n_head * bytes(s, s->of[i].d);
    return sum;
}

size_t sp_kv_page_bytes(const sp_kv_shape *s)
{
    return sum_of(s, s->n_layer, hi_bytes) + sum_of(s, s->n_layer, lo_bytes);
}

size_t sp_kv_lo_bytes(const sp_kv_shape *s)
{
    return sum_of(s, s->n_layer, lo_bytes);
}

size_t sp_kv_open_bytes(const sp_kv_shape *s)
{
    bool has_open = s->format->is_planes || s->format->is_fp8;
    return has_open ? sum_of(s, s->n_layer, plain_bytes) : 0;
}

sp_dev_kv_view sp_kv_page_view(const sp_kv_shape *s, size_t layer)
{
    const sp_kv_heads h = heads_of(s, layer);
    return (sp_dev_kv_view){.type = s->format->type,
                            .is_planes = s->format->is_planes,
                            .is_fp8 = s->format->is_fp8,
                            .n_head = h.n_head,
                            .d = h.d,
                            .n_latent = s->n_latent,
                            .layer_at = sum_of(s, layer, hi_bytes),
                            .head_bytes = hi_bytes(s, h.d),
                            .lo_at = sum_of(s, layer, lo_bytes),
                            .lo_bytes = lo_bytes(s, h.d),
                            .open_at = sum_of(s, layer, plain_bytes),
                            .open_bytes = plain_bytes(s, h.d)};
}

/* Layers of a block: after so many the heads of all layers come again. */
static size_t block_layers(const sp_kv_shape *s)
{
    for (size_t n = 1; s->of && n < s->n_layer; n++) {
        bool repeats = s->n_layer % n == 0;
        for (size_t i = n; i < s->n_layer && repeats; i++)
            repeats = s->of[i].n_head == s->of[i - n].n_head && s->of[i].d == s->of[i - n].d;
        if (repeats)
            return n;
    }
    return s->of ? s->n_layer : 1;
}

size_t sp_kv_page_blocks(const sp_kv_shape *s)
{
    return s->n_layer / block_layers(s);
}

size_t sp_kv_page_block_of(const sp_kv_shape *s, size_t layer)
{
    return layer / block_layers(s);
}
