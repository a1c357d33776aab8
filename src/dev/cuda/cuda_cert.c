/* Certified attention on the CUDA device: which spans it serves, lists of their parts, and the
 * receipt's counters, which are read once a forward pass. The kernels are in cert.cu. */
#include "dev/cuda/cuda_attn.h"

#include "base/mem.h"
#include "dev/cert.h"

enum { HEADS_KEPT = 1 << 14 /* results that wait for cuda_settle at most */ };

typedef struct call { /* results of one span and layer */
    sp_dev_cert *to;
    size_t at, n_head, n_page, d;
} call;

struct cuda_cert {
    cuda_list item, part, dense; /* of this call */
    cuda_buf items, parts, denses, work, raw, head;
    cuda_list waiting; /* call */
    size_t n_result;   /* in head, that may be read yet */
};

void cuda_cert_free(cuda_dev *c)
{
    struct cuda_cert *s = c->cert;
    if (!s)
        return;
    const cuda_buf all[] = {s->items, s->parts, s->denses, s->work, s->raw, s->head};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        (void)c->lib->mem_free(all[i].p);
    cuda_list_fini(&s->item);
    cuda_list_fini(&s->part);
    cuda_list_fini(&s->dense);
    cuda_list_fini(&s->waiting);
    sp_mem_free(s);
}

/* First page that the query sees whole. */
static size_t first_whole(const attn_job *j, const sp_dev_span *s)
{
    return (first_seen(j, s->pos) + SP_PAGE_TOK - 1) / SP_PAGE_TOK;
}

bool cuda_is_certified(const attn_job *j, const sp_dev_span *s)
{
    size_t whole = first_whole(j, s);
    if (!(s->eps > 0) || s->n != 1 || !j->a->kv->is_planes || j->a->kv->n_latent ||
        j->group > SP_CUDA_FEW ||
        first_page(s) < whole + SP_CERT_MIN_PAGES)
        return false;
    for (size_t i = whole; i < first_page(s); i++)
        if (!s->lo[i]) /* a demoted page has nothing that could be read later */
            return false;
    return true;
}

sp_err cuda_cert_begin(attn_job *j)
{
    cuda_dev *c = j->c;
    if (!c->cert && !(c->cert = sp_mem_alloc(sizeof *c->cert)))
        return SP_NOMEM;
    c->cert->item.n = c->cert->part.n = c->cert->dense.n = 0;
    return SP_OK;
}

/* Pages [it->from, it->to): for certified attention, and for dense attention if need be. */
static sp_err list_part(attn_job *j, const sp_dev_span *s, const sp_cuda_attn_item *it)
{
    struct cuda_cert *c = j->c->cert;
    uint32_t first = it->from % SP_CUDA_PART, n = it->to - it->from,
             whole = (uint32_t)first_whole(j, s);
    uint32_t there = ((1u << n) - 1) << first;
    sp_cuda_cert_part part = {.item = it->cert,
                              .tab = it->tab,
                              .from = it->from,
                              .to = it->to,
                              .whole = whole,
                              .seen = (uint32_t)first_seen(j, s->pos),
                              .state = it->state,
                              .always = sp_cert_always(s, it->from, it->to) << first | ~there};
    if (it->from < whole)
        part.always |= 1u << first;
    SP_TRY(cuda_list_push(&c->part, &part, sizeof part));
    return cuda_list_push(&c->dense, it, sizeof *it);
}

sp_err cuda_cert_list(attn_job *j, const sp_dev_span *s, const char *own, size_t tab)
{
    struct cuda_cert *c = j->c->cert;
    uint32_t last = (uint32_t)first_page(s), first = (uint32_t)j->n_state;
    sp_cuda_cert_item item = {.row = (uint32_t)s->row,
                              .part = (uint32_t)c->part.n,
                              .n_page = last - (uint32_t)first_whole(j, s),
                              .eps = s->eps};
    sp_cuda_attn_item it = {.row = item.row,
                            .pos = (uint32_t)s->pos,
                            .n_q = (uint32_t)j->group,
                            .tab = (uint32_t)tab,
                            .to = (uint32_t)(first_seen(j, s->pos) / SP_PAGE_TOK),
                            .cert = (uint32_t)c->item.n};
    while (it.to < last) {
        uint32_t stop = (it.to / SP_CUDA_PART + 1) * SP_CUDA_PART;
        it.from = it.to;
        it.to = stop < last ? stop : last;
        it.state = (uint32_t)j->n_state++;
        SP_TRY(list_part(j, s, &it));
    }
    item.n_part = (uint32_t)c->part.n - item.part;
    it.from = it.to = last;
    it.own = own;
    it.state = item.own = (uint32_t)j->n_state++;
    const sp_cuda_attn_end end = {.row = item.row,
                                  .n_q = it.n_q,
                                  .state = first,
                                  .n_state = item.n_part + 1,
                                  .starts = 1};
    SP_TRY(cuda_list_push(&c->item, &item, sizeof item));
    SP_TRY(cuda_list_push(&j->l->item, &it, sizeof it));
    return cuda_list_push(&j->l->end, &end, sizeof end);
}

/* Results of this call go behind those that wait; makes room for them. */
static sp_err make_room(attn_job *j, size_t n_result)
{
    struct cuda_cert *c = j->c->cert;
    if (c->n_result + n_result > HEADS_KEPT)
        SP_TRY(cuda_settle(&j->c->dev));
    size_t n = n_result > HEADS_KEPT ? n_result : HEADS_KEPT;
    return cuda_grow(j->c, &c->head, n * sizeof(sp_cuda_cert_head));
}

static sp_err list_calls(attn_job *j)
{
    struct cuda_cert *c = j->c->cert;
    for (const sp_dev_span *s = j->a->span; s < j->a->span + j->a->n_span; s++) {
        if (!cuda_is_certified(j, s))
            continue;
        const call one = {s->cert, c->n_result, j->a->kv->n_head, first_page(s) - first_whole(j, s),
                          j->a->kv->d};
        c->n_result += one.n_head;
        if (s->cert)
            SP_TRY(cuda_list_push(&c->waiting, &one, sizeof one));
    }
    return SP_OK;
}

sp_err cuda_cert_run(attn_job *j, const sp_cuda_attn *a)
{
    struct cuda_cert *c = j->c->cert;
    const sp_cuda_lib *lib = j->c->lib;
    size_t n_work = c->part.n * a->n_head;
    if (!c->item.n)
        return SP_OK;
    SP_TRY(make_room(j, c->item.n * a->n_head));
    SP_TRY(cuda_list_send(j->c, &c->items, &c->item));
    SP_TRY(cuda_list_send(j->c, &c->parts, &c->part));
    SP_TRY(cuda_list_send(j->c, &c->denses, &c->dense));
    SP_TRY(cuda_grow(j->c, &c->work, n_work * sizeof(sp_cuda_cert_work)));
    SP_TRY(
        cuda_grow(j->c, &c->raw, n_work * a->group * SP_CUDA_PART * SP_PAGE_TOK * sizeof(float)));
    const sp_cuda_cert args = {.a = *a,
                               .item = c->items.p,
                               .part = c->parts.p,
                               .work = c->work.p,
                               .raw = c->raw.p,
                               .head = (sp_cuda_cert_head *)c->head.p + c->n_result,
                               .n_item = (uint32_t)c->item.n,
                               .n_part = (uint32_t)c->part.n};
    sp_cuda_attn dense = *a;
    dense.item = c->denses.p;
    dense.n_item = (uint32_t)c->dense.n;
    dense.only = args.head;
    SP_TRY(cuda_try(j->c, lib->cert(&args), "certified attention"));
    SP_TRY(cuda_try(j->c, lib->attn(&dense), "attention"));
    return list_calls(j);
}

static void add(const call *one, const sp_cuda_cert_head *head)
{
    for (size_t h = 0; h < one->n_head; h++)
        sp_cert_add(one->to, &(sp_cert_call){.n_page = one->n_page,
                                             .d = one->d,
                                             .n_kept = head[h].n_kept,
                                             .n_pair = head[h].n_pair,
                                             .is_dense = head[h].is_dense,
                                             .loss = head[h].loss});
}

sp_err cuda_settle(sp_dev *dev)
{
    cuda_dev *d = (cuda_dev *)dev;
    struct cuda_cert *c = d->cert;
    sp_err err = cuda_keep_settle(d);
    if (err == SP_OK && c && c->waiting.n) {
        void *head;
        const call *one = (const call *)(void *)c->waiting.at;
        err = cuda_get(d, &head, &c->head, c->n_result, sizeof(sp_cuda_cert_head));
        for (size_t i = 0; i < c->waiting.n && err == SP_OK; i++)
            add(&one[i], (const sp_cuda_cert_head *)head + one[i].at);
        sp_mem_free(head);
    }
    if (c)
        c->waiting.n = c->n_result = 0;
    return err;
}
