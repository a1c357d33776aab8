/* Attention on the CUDA device: divides a call into blocks' work. What a query sees is as on the
 * CPU (cpu_attn.c): its own page in plain elements, every earlier page in the format of the pool.
 */
#include "dev/cuda/cuda_attn.h"

#include "base/mem.h"

#include <string.h>

enum {
    FILL_BLOCKS = 1024 /* blocks that keep a device busy: fewer are split over parts of the pages */
};

void cuda_list_fini(cuda_list *l)
{
    sp_mem_free(l->at);
    sp_mem_free(l->sent);
}

void cuda_lists_free(struct cuda_lists *l)
{
    if (!l)
        return;
    cuda_list_fini(&l->item);
    cuda_list_fini(&l->end);
    cuda_list_fini(&l->store);
    cuda_list_fini(&l->tab);
    sp_mem_free(l);
}

sp_err cuda_list_push(cuda_list *l, const void *x, size_t size)
{
    if (l->n == l->cap) {
        size_t cap = l->cap ? 2 * l->cap : 64;
        char *at = sp_mem_array(cap, size), *sent = sp_mem_array(cap, size);
        if (!at || !sent) {
            sp_mem_free(at);
            sp_mem_free(sent);
            return SP_NOMEM;
        }
        if (l->n)
            memcpy(at, l->at, l->n * size);
        sp_mem_free(l->at);
        sp_mem_free(l->sent);
        l->at = at;
        l->sent = sent;
        l->n_sent = 0;
        l->cap = cap;
    }
    l->size = size;
    memcpy(l->at + l->n++ * size, x, size);
    return SP_OK;
}

sp_err cuda_list_send(cuda_dev *c, cuda_buf *to, cuda_list *l)
{
    size_t n_bytes = l->n * l->size;
    if (l->n == 0 || (l->n == l->n_sent && memcmp(l->at, l->sent, n_bytes) == 0))
        return SP_OK;
    l->n_sent = 0;
    SP_TRY(cuda_put(c, to, l->at, n_bytes));
    memcpy(l->sent, l->at, n_bytes);
    l->n_sent = l->n;
    return SP_OK;
}

static size_t layer_bytes(const attn_job *j)
{
    return j->a->kv->n_head * j->a->kv->open_bytes;
}

/* Where the layer lies behind the address of a plain page. */
static size_t own_at(const attn_job *j)
{
    return j->has_open ? j->a->kv->open_at : j->a->kv->layer_at;
}

/* The layer of a plain page that fills up in this call; the first of span s is number own. */
static char *scratch_page(const attn_job *j, const sp_dev_span *s, size_t own, size_t i)
{
    return (char *)j->c->own[j->a->kept].p + (own + i - first_page(s)) * layer_bytes(j);
}

/* A page in plain elements: the layer lies own_at behind it. */
static char *plain_page(const attn_job *j, const sp_dev_span *s, size_t own, size_t i)
{
    if (!j->has_open)
        return s->page[i];
    if (i == last_page(s))
        return s->open;
    return (char *)((uintptr_t)scratch_page(j, s, own, i) - own_at(j));
}

/* Pages of this call that are not the open one begin with what that holds. */
static sp_err open_pages(const attn_job *j)
{
    size_t n = 0;
    for (const sp_dev_span *s = j->a->span; s < j->a->span + j->a->n_span; s++)
        n += last_page(s) - first_page(s);
    SP_TRY(cuda_grow(j->c, &j->c->own[j->a->kept], n * layer_bytes(j)));
    n = 0;
    for (const sp_dev_span *s = j->a->span; s < j->a->span + j->a->n_span; s++) {
        const char *open = (const char *)s->open + j->a->kv->open_at;
        char *to = scratch_page(j, s, n, first_page(s));
        if (s->pos % SP_PAGE_TOK && last_page(s) > first_page(s))
            SP_TRY(cuda_try(j->c, j->c->lib->copy(to, open, layer_bytes(j)), "a page"));
        n += last_page(s) - first_page(s);
    }
    return SP_OK;
}

sp_cuda_kv cuda_kind_of(const sp_dev_kv_view *kv)
{
    if (kv->is_planes || kv->is_fp8)
        return kv->is_fp8 ? SP_CUDA_KV_FP8 : SP_CUDA_KV_Q8;
    return kv->type == SP_F32    ? SP_CUDA_KV_F32
           : kv->type == SP_BF16 ? SP_CUDA_KV_BF16
                                 : SP_CUDA_KV_F16;
}

static sp_err list_stores(const attn_job *j)
{
    size_t own = 0;
    for (const sp_dev_span *s = j->a->span; s < j->a->span + j->a->n_span; s++) {
        for (size_t i = first_page(s); i <= last_page(s); i++) {
            size_t from = i == first_page(s) ? s->pos : i * SP_PAGE_TOK,
                   stop = (i + 1) * SP_PAGE_TOK;
            size_t to = stop < s->pos + s->n ? stop : s->pos + s->n;
            bool fills = j->has_open && to == stop;
            const sp_cuda_store_item it = {
                .own = plain_page(j, s, own, i),
                .hi = fills ? s->page[i] : NULL,
                .lo = fills && s->lo ? s->lo[i] : NULL,
                .row = (uint32_t)(s->row + from - s->pos),
                .slot = (uint32_t)(from % SP_PAGE_TOK),
                .n = (uint32_t)(to - from)};
            SP_TRY(cuda_list_push(&j->l->store, &it, sizeof it));
        }
        own += last_page(s) - first_page(s);
    }
    return SP_OK;
}

static sp_err store(const attn_job *j)
{
    const sp_dev_kv_view *kv = j->a->kv;
    cuda_dev *c = j->c;
    if (j->has_open)
        SP_TRY(open_pages(j));
    SP_TRY(list_stores(j));
    SP_TRY(cuda_list_send(c, &c->stores, &j->l->store));
    const sp_cuda_store a = {.k = j->a->k,
                             .v = kv->n_latent ? NULL : j->a->v,
                             .item = c->stores.p,
                             .n_item = (uint32_t)j->l->store.n,
                             .n_head = (uint32_t)kv->n_head,
                             .d = (uint32_t)kv->d,
                             .kind = cuda_kind_of(kv),
                             .own_at = (uint32_t)own_at(j),
                             .hi_at = (uint32_t)kv->layer_at,
                             .lo_at = (uint32_t)kv->lo_at,
                             .plain_bytes =
                                 (uint32_t)(j->has_open ? kv->open_bytes : kv->head_bytes),
                             .hi_bytes = (uint32_t)kv->head_bytes,
                             .lo_bytes = (uint32_t)kv->lo_bytes};
    return cuda_try(c, c->lib->store(&a), "keys and values");
}

/* Queries [it->q0, + n_q): pages [it->from, it->to) and their own, in one block or one a part. */
static sp_err list_parts(attn_job *j, sp_cuda_attn_item it)
{
    sp_cuda_attn_end end = {it.row, it.q0, it.n_q, (uint32_t)j->n_state, 1, j->is_split};
    const char *own = it.own;
    uint32_t last = it.to;
    it.starts = !j->is_split;
    it.state = (uint32_t)j->n_state++;
    if (!j->is_split) {
        SP_TRY(cuda_list_push(&j->l->item, &it, sizeof it));
        return cuda_list_push(&j->l->end, &end, sizeof end);
    }
    it.own = NULL;
    for (uint32_t from = it.from; from < last; from = it.to, end.n_state++) {
        uint32_t stop = (from / SP_CUDA_PART + 1) * SP_CUDA_PART;
        it.from = from;
        it.to = stop < last ? stop : last;
        SP_TRY(cuda_list_push(&j->l->item, &it, sizeof it));
        it.state = (uint32_t)j->n_state++;
    }
    it.from = it.to = last;
    it.own = own;
    SP_TRY(cuda_list_push(&j->l->item, &it, sizeof it));
    return cuda_list_push(&j->l->end, &end, sizeof end);
}

/* Queries that a block attends with. */
static size_t n_rows(const attn_job *j)
{
    return j->a->kv->n_latent ? SP_CUDA_LATENT_ROWS : SP_CUDA_ROWS;
}

/* chosen NULL: all pages before it are attended. */
static sp_err list_page(attn_job *j, const sp_dev_span *s, size_t own, size_t i, size_t tab,
                        const cuda_chosen *chosen)
{
    size_t from = i == first_page(s) ? s->pos : i * SP_PAGE_TOK, stop = (i + 1) * SP_PAGE_TOK;
    size_t to = stop < s->pos + s->n ? stop : s->pos + s->n, n_q = (to - from) * j->group;
    for (size_t q = 0; q < n_q; q += n_rows(j)) {
        size_t seen = first_seen(j, from + q / j->group) / SP_PAGE_TOK;
        const sp_cuda_attn_item it = {
            .own = plain_page(j, s, own, i),
            .row = (uint32_t)(s->row + from - s->pos),
            .pos = (uint32_t)from,
            .q0 = (uint32_t)q,
            .n_q = (uint32_t)(n_q - q < n_rows(j) ? n_q - q : n_rows(j)),
            .tab = (uint32_t)tab,
            .from = (uint32_t)seen,
            .to = (uint32_t)(chosen ? chosen->n_chosen + i - first_page(s) : i),
            .list = chosen ? chosen->list : 0,
            .n_list = chosen ? chosen->n_list : 0};
        SP_TRY(list_parts(j, it));
    }
    return SP_OK;
}

static sp_err list_items(attn_job *j)
{
    size_t own = 0;
    for (const sp_dev_span *s = j->a->span; s < j->a->span + j->a->n_span; s++) {
        size_t tab = j->l->tab.n;
        for (size_t i = 0; i < last_page(s); i++) {
            const sp_cuda_page page = {s->page[i], s->lo ? s->lo[i] : NULL};
            SP_TRY(cuda_list_push(&j->l->tab, &page, sizeof page));
        }
        cuda_chosen chosen;
        const bool is_chosen = cuda_is_chosen(j, s);
        if (is_chosen)
            SP_TRY(cuda_keep_list(j, s, tab, &chosen));
        if (cuda_is_certified(j, s))
            SP_TRY(cuda_cert_list(j, s, plain_page(j, s, own, last_page(s)), tab));
        for (size_t i = first_page(s); i <= last_page(s) && !cuda_is_certified(j, s); i++)
            SP_TRY(list_page(j, s, own, i, tab,
                             is_chosen && (i == first_page(s) || i * SP_PAGE_TOK < s->keep_to)
                                 ? &chosen
                                 : NULL));
        own += last_page(s) - first_page(s);
    }
    return SP_OK;
}

static size_t block_count(const attn_job *j)
{
    size_t n = 0;
    for (const sp_dev_span *s = j->a->span; s < j->a->span + j->a->n_span; s++)
        n += (s->n * j->group + n_rows(j) - 1) / n_rows(j) * j->a->kv->n_head;
    return n;
}

static sp_err attend(attn_job *j, size_t n_row)
{
    const sp_dev_attn *a = j->a;
    const sp_dev_kv_view *kv = a->kv;
    cuda_dev *c = j->c;
    j->is_split = block_count(j) < FILL_BLOCKS;
    SP_TRY(cuda_cert_begin(j));
    SP_TRY(cuda_keep_begin(j));
    SP_TRY(list_items(j));
    SP_TRY(cuda_list_send(c, &c->tab, &j->l->tab));
    SP_TRY(cuda_list_send(c, &c->items, &j->l->item));
    SP_TRY(cuda_list_send(c, &c->ends, &j->l->end));
    SP_TRY(cuda_grow(c, &c->qh, n_row * a->n_q_head * kv->d * sizeof(uint16_t)));
    SP_TRY(cuda_grow(c, &c->state,
                     j->n_state * kv->n_head * n_rows(j) * (kv->d + 2) * sizeof(float)));
    sp_cuda_attn args = {.out = a->out,
                               .q = a->q,
                               .qh = c->qh.p,
                               .state = c->state.p,
                               .tab = c->tab.p,
                               .item = c->items.p,
                               .end = c->ends.p,
                               .sinks = a->sinks,
                               .n_row = (uint32_t)n_row,
                               .n_item = (uint32_t)j->l->item.n,
                               .n_end = (uint32_t)j->l->end.n,
                               .n_head = (uint32_t)kv->n_head,
                               .group = (uint32_t)j->group,
                               .d = (uint32_t)kv->d,
                               .kind = cuda_kind_of(kv),
                               .own_at = (uint32_t)own_at(j),
                               .hi_at = (uint32_t)kv->layer_at,
                               .lo_at = (uint32_t)kv->lo_at,
                               .hi_bytes = (uint32_t)kv->head_bytes,
                               .lo_bytes = (uint32_t)kv->lo_bytes,
                               .plain_bytes =
                                   (uint32_t)(j->has_open ? kv->open_bytes : kv->head_bytes),
                               .window = (uint32_t)a->window,
                               .n_rows = (uint32_t)n_rows(j),
                               .n_out = (uint32_t)(kv->n_latent ? kv->n_latent : kv->d),
                               .scale = a->scale,
                               .cap = a->cap > 0 ? a->cap * 1.44269504f : 0};
    SP_TRY(cuda_try(c, c->lib->query(&args), "queries"));
    SP_TRY(cuda_keep_run(j, &args));
    SP_TRY(cuda_try(c, kv->n_latent ? c->lib->latent(&args) : c->lib->attn(&args), "attention"));
    SP_TRY(cuda_cert_run(j, &args));
    return cuda_try(c, c->lib->attn_end(&args), "attention");
}

/* Starts a job over the spans of a call. */
static sp_err begin_job(attn_job *j, cuda_dev *c, const sp_dev_attn *a)
{
    if (!c->lists && !(c->lists = sp_mem_alloc(sizeof *c->lists)))
        return SP_NOMEM;
    *j = (attn_job){.c = c, .l = c->lists, .a = a, .has_open = a->kv->is_planes || a->kv->is_fp8};
    j->l->item.n = j->l->end.n = j->l->store.n = j->l->tab.n = 0;
    return SP_OK;
}

sp_err cuda_store(cuda_dev *c, const sp_dev_attn *a)
{
    attn_job j;
    SP_TRY(begin_job(&j, c, a));
    return store(&j);
}

sp_err cuda_attn_paged(sp_dev *dev, const sp_dev_attn *a)
{
    cuda_dev *c = (cuda_dev *)dev;
    const sp_dev_kv_view *kv = a->kv;
    uint64_t start = cuda_stat_begin(dev);
    size_t n_row = 0, n_seen = 0, n_pair = 0;
    attn_job j;
    SP_TRY(begin_job(&j, c, a));
    j.group = a->n_q_head / kv->n_head;
    SP_DASSERT(a->n_q_head % kv->n_head == 0 && kv->d % 16 == 0 &&
               kv->d <= (kv->n_latent ? SP_MAX_KEY : 256));
    for (const sp_dev_span *s = a->span; s < a->span + a->n_span; s++) {
        n_row = s->row + s->n > n_row ? s->row + s->n : n_row;
        n_seen += s->pos + s->n - first_seen(&j, s->pos);
        for (size_t i = s->pos; i < s->pos + s->n; i++)
            n_pair += i + 1 - first_seen(&j, i);
    }
    if (a->k)
        SP_TRY(store(&j));
    SP_TRY(attend(&j, n_row));
    cuda_stat_end(dev, SP_STAGE_ATTN, start,
                  (double)(n_seen * kv->n_head) * (double)(kv->head_bytes + kv->lo_bytes) /
                      SP_PAGE_TOK,
                  2.0 * (double)(n_pair * a->n_q_head) * (double)kv->d);
    return SP_OK;
}
