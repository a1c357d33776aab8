/* What a device must do for a model. The CPU does everything. */
#include "model/arch.h"

sp_err sp_arch_fits_device(const sp_arch *a, const sp_dev *dev, sp_diag *d)
{
    const sp_dev_ops *ops = dev->ops;
    const char *lacks = a->route.n_expert && !ops->experts ? "experts"
                        : a->latent.n && !ops->each_head   ? "latent attention"
                        : a->n_side && !ops->embed_part    ? "rows of a token beside layers"
                        : a->state.n_bytes && (!ops->conv || !ops->delta || !ops->ssm)
                            ? "recurrent layers"
                            : NULL;
    if (lacks)
        return SP_FAIL(d, SP_UNSUP, "device %s does not do %s yet: use --device cpu", ops->name,
                       lacks);
    const size_t max_head = a->latent.n ? SP_MAX_KEY : ops->max_head;
    if (ops->max_head && !sp_arch_is_encoder(a) && (a->d_head > max_head || a->d_head % 16))
        return SP_FAIL(d, SP_UNSUP,
                       "device %s does heads of at most %zu elements, a multiple of 16, not %zu: "
                       "use --device cpu",
                       ops->name, max_head, a->d_head);
    return SP_OK;
}
