#include "kv/page.h"

#include <string.h>

static const sp_kv_format formats[] = {
    {"q8", SP_F16, true, false}, {"q4", SP_F16, true, true}, {"f16", SP_F16, false, false}, {"f32", SP_F32, false, false}};

const sp_kv_format *sp_kv_format_find(const char *name)
{
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (strcmp(formats[i].name, name) == 0)
            return &formats[i];
    return NULL;
}

bool sp_kv_shape_fits(const sp_kv_shape *s)
{
    return !s->format->is_planes || (s->d % 16 == 0 && s->d <= (s->n_latent ? SP_MAX_KEY : SP_MAX_HEAD));
}

static size_t plain_bytes(const sp_kv_shape *s)
{
    return (s->n_latent ? 1 : 2) * s->d * SP_PAGE_TOK * sp_type_get(s->format->type)->blk_bytes;
}

static size_t head_bytes(const sp_kv_shape *s)
{
    if (!s->format->is_planes)
        return plain_bytes(s);
    return s->n_latent ? sp_planes_keys_hi_bytes(s->d) : sp_planes_hi_bytes(s->d);
}

static size_t lo_head_bytes(const sp_kv_shape *s)
{
    if (!s->format->is_planes)
        return 0;
    return s->n_latent ? sp_planes_keys_lo_bytes(s->d) : sp_planes_lo_bytes(s->d);
}

size_t sp_kv_page_bytes(const sp_kv_shape *s)
{
    return s->n_layer * s->n_head * (head_bytes(s) + lo_head_bytes(s));
}

size_t sp_kv_lo_bytes(const sp_kv_shape *s)
{
    return s->n_layer * s->n_head * lo_head_bytes(s);
}

size_t sp_kv_open_bytes(const sp_kv_shape *s)
{
    return s->format->is_planes ? s->n_layer * s->n_head * plain_bytes(s) : 0;
}

sp_dev_kv_view sp_kv_page_view(const sp_kv_shape *s, size_t layer)
{
    size_t before = layer * s->n_head;
    return (sp_dev_kv_view){.type = s->format->type,
                            .is_planes = s->format->is_planes,
                            .n_head = s->n_head,
                            .d = s->d,
                            .n_latent = s->n_latent,
                            .layer_at = before * head_bytes(s),
                            .head_bytes = head_bytes(s),
                            .lo_at = before * lo_head_bytes(s),
                            .lo_bytes = lo_head_bytes(s),
                            .open_at = before * plain_bytes(s),
                            .open_bytes = plain_bytes(s)};
}
