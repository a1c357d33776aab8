#include "gen/borders.h"

#include "base/mem.h"

static bool begins(const sp_tok *t, const uint32_t *tok, size_t i)
{
    return i > 0 && sp_tok_is_control(t, tok[i]) && !sp_tok_is_control(t, tok[i - 1]);
}

sp_err sp_borders_find(size_t **out, size_t *n_out, const sp_tok *t, const uint32_t *tok, size_t n)
{
    size_t n_found = 0;
    *out = NULL;
    *n_out = 0;
    for (size_t i = 0; i < n; i++)
        n_found += begins(t, tok, i);
    if (!n_found)
        return SP_OK;
    *out = sp_mem_array(n_found, sizeof **out);
    if (!*out)
        return SP_NOMEM;
    for (size_t i = 0; i < n; i++)
        if (begins(t, tok, i))
            (*out)[(*n_out)++] = i;
    return SP_OK;
}
