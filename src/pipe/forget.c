#include "pipe/forget.h"

#include "pipe/embed.h"

sp_err sp_forget_pages(sp_engine *e, sp_kv_tier *tier, const char *tenant, const char *conv,
                       size_t *n_page, sp_diag *d)
{
    uint8_t tag[SP_KV_TAG], conv_tag[SP_KV_TAG];
    sp_job *j;
    if (sp_kv_tag(tag, tenant) != SP_OK || (conv && sp_kv_tag(conv_tag, conv) != SP_OK))
        return SP_FAIL(d, SP_NOMEM, "deleting pages");
    SP_TRY(sp_job_forget(&j, e, tag, conv ? conv_tag : NULL, d));
    sp_err err = sp_embed_wait(j, n_page);
    sp_job_put(j);
    if (err != SP_OK)
        return SP_FAIL(d, err, "the server is shutting down");
    sp_kv_forget f = {.tag = tag, .conv = conv ? conv_tag : NULL};
    if (tier)
        SP_TRY(sp_kv_tier_forget(tier, &f, d));
    *n_page = f.n_page > *n_page ? f.n_page : *n_page;
    return SP_OK;
}
