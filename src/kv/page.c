#include "kv/page.h"

#include <string.h>

static const sp_kv_format formats[] = {{"f16", SP_F16}, {"f32", SP_F32}};

const sp_kv_format *sp_kv_format_find(const char *name)
{
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (strcmp(formats[i].name, name) == 0)
            return &formats[i];
    return NULL;
}

static size_t head_bytes(const sp_kv_shape *s)
{
    return 2 * s->d * SP_PAGE_TOK * sp_type_get(s->format->type)->blk_bytes;
}

size_t sp_kv_page_bytes(const sp_kv_shape *s)
{
    return s->n_layer * s->n_head * head_bytes(s);
}

sp_dev_kv_view sp_kv_page_view(const sp_kv_shape *s, size_t layer)
{
    return (sp_dev_kv_view){.type = s->format->type,
                            .head_bytes = head_bytes(s),
                            .n_head = s->n_head,
                            .d = s->d,
                            .layer_at = layer * s->n_head * head_bytes(s)};
}
