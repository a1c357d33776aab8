/* Moving keys and values from one sequence to another on the CUDA device: layer by layer they are
 * read from where they are as f32 rows, keys turned, and stored as a prompt's are.
 * docs/RETRIEVAL.md says what for. */
#include "dev/cuda/cuda_attn.h"

#include "base/mem.h"

/* The pages that hold what is moved, each with the rows that it becomes. */
static sp_err put_items(cuda_dev *c, const sp_dev_span *from, size_t *n_item)
{
    size_t n = last_page(from) - first_page(from) + 1, row = 0;
    sp_cuda_move_item *item = sp_mem_array(n, sizeof *item);
    if (!item)
        return SP_NOMEM;
    for (size_t i = 0; i < n; i++) {
        size_t page = first_page(from) + i, slot = i ? 0 : from->pos % SP_PAGE_TOK,
               most = SP_PAGE_TOK - slot, here = from->n - row < most ? from->n - row : most;
        item[i] = (sp_cuda_move_item){.hi = from->page[page],
                                      .lo = from->lo ? from->lo[page] : NULL,
                                      .slot = (uint32_t)slot,
                                      .n = (uint32_t)here,
                                      .row = (uint32_t)row};
        row += here;
    }
    sp_err err = cuda_put(c, &c->moves, item, n * sizeof *item);
    sp_mem_free(item);
    *n_item = n;
    return err;
}

/* Rows are k [n, n_head, d] and, but for latents, v as many. */
static sp_err move_layer(cuda_dev *c, const sp_dev_kv_view *kv, const sp_dev_span *to,
                         const sp_dev_turn *turn, size_t n_item)
{
    size_t n = to->n * kv->n_head * kv->d;
    SP_TRY(cuda_grow(c, &c->moved, 2 * n * sizeof(float)));
    float *k = c->moved.p, *v = kv->n_latent ? NULL : k + n;
    const sp_cuda_move m = {.k = k,
                            .v = v,
                            .item = c->moves.p,
                            .cs = turn->cs,
                            .norm = turn->norm,
                            .n_item = (uint32_t)n_item,
                            .n_head = (uint32_t)kv->n_head,
                            .d = (uint32_t)kv->d,
                            .kind = cuda_kind_of(kv),
                            .hi_at = (uint32_t)kv->layer_at,
                            .lo_at = (uint32_t)kv->lo_at,
                            .hi_bytes = (uint32_t)kv->head_bytes,
                            .lo_bytes = (uint32_t)kv->lo_bytes,
                            .d_rot = (uint32_t)turn->d_rot,
                            .halves = turn->halves,
                            .first = (uint32_t)turn->first};
    const sp_dev_attn a = {.k = k, .v = v, .kv = kv, .span = to, .n_span = 1};
    SP_TRY(cuda_try(c, c->lib->move(&m), "keys and values that move"));
    return cuda_store(c, &a);
}

sp_err cuda_kv_move(sp_dev *dev, const sp_dev_kv_view *kv, size_t n_layer, const sp_dev_span *to,
                    const sp_dev_span *from, const sp_dev_turn *turn)
{
    cuda_dev *c = (cuda_dev *)dev;
    size_t n_item;
    uint64_t start = cuda_stat_begin(dev);
    SP_DASSERT(to->n == from->n && to->row == 0);
    SP_TRY(put_items(c, from, &n_item));
    for (size_t i = 0; i < n_layer; i++)
        SP_TRY(move_layer(c, &kv[i], to, &turn[i], n_item));
    SP_TRY(cuda_try(c, c->lib->sync(), "waiting")); /* the host may read the pages */
    cuda_stat_end(dev, SP_STAGE_REST, start, 0, 0);
    return SP_OK;
}
