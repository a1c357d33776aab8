/* Pages chosen for long prompts on the CUDA device (prefill_keep): which spans want it, and what
 * their receipts say, which is read once a forward pass. The kernels are in keep.cu; how many pages
 * are attended is known here, which ones only on the device. */
#include "dev/cuda/cuda_attn.h"

#include "base/mem.h"
#include "dev/cert.h"

enum { NEAR = 2 /* pages before the span, always attended */, RESULTS = 1 << 14 };

typedef struct call { /* results of one span and layer */
    sp_dev_cert *to;
    size_t at, n_head, group, n_page, n_chosen, n_tok;
} call;

struct cuda_keep {
    cuda_list item, part, must, waiting; /* the last: call */
    cuda_buf items, parts, musts, sample, mass, rank, list, out;
    size_t n_page, n_list, n_result; /* of this call; in out, that may be read yet */
};

void cuda_keep_free(cuda_dev *c)
{
    struct cuda_keep *k = c->keep;
    if (!k)
        return;
    const cuda_buf all[] = {k->items, k->parts, k->musts, k->sample,
                            k->mass,  k->rank,  k->list,  k->out};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        (void)c->lib->mem_free(all[i].p);
    cuda_list_fini(&k->item);
    cuda_list_fini(&k->part);
    cuda_list_fini(&k->must);
    cuda_list_fini(&k->waiting);
    sp_mem_free(k);
}

bool cuda_is_chosen(const attn_job *j, const sp_dev_span *s)
{
    const sp_dev_kv_view *kv = j->a->kv;
    return !j->a->window && s->keep > 0 && s->keep < 1 && s->pos < s->keep_to &&
           s->n >= SP_PAGE_TOK && kv->is_planes && !kv->n_latent && j->group <= SP_CUDA_FEW &&
           first_page(s) > 2 * SP_CUDA_PART;
}

sp_err cuda_keep_begin(attn_job *j)
{
    cuda_dev *c = j->c;
    if (!c->keep && !(c->keep = sp_mem_alloc(sizeof *c->keep)))
        return SP_NOMEM;
    c->keep->item.n = c->keep->part.n = c->keep->must.n = 0;
    c->keep->n_page = c->keep->n_list = 0;
    return SP_OK;
}

/* Bits of pages that are attended whatever they weigh; *n counts them. */
static sp_err list_must(struct cuda_keep *k, const sp_dev_span *s, size_t *n)
{
    const size_t n_page = first_page(s);
    *n = 0;
    for (size_t i = 0; i < n_page; i += 32) {
        size_t stop = i + 32 < n_page ? i + 32 : n_page;
        uint32_t bits = sp_cert_always(s, i, stop);
        for (size_t p = i; p < stop; p++)
            bits |= (uint32_t)(p + NEAR >= n_page) << (p - i);
        *n += (size_t)__builtin_popcount(bits);
        SP_TRY(cuda_list_push(&k->must, &bits, sizeof bits));
    }
    return SP_OK;
}

sp_err cuda_keep_list(attn_job *j, const sp_dev_span *s, size_t tab, cuda_chosen *out)
{
    enum { LOOK = SP_CUDA_LOOK };
    struct cuda_keep *k = j->c->keep;
    const size_t n_page = first_page(s), step = (s->n + LOOK - 1) / LOOK;
    size_t n_must, n_keep = (size_t)ceilf(s->keep * (float)n_page);
    sp_cuda_keep_item it = {.row = (uint32_t)s->row,
                            .n_look = (uint32_t)(s->n / step),
                            .step = (uint32_t)step,
                            .n_page = (uint32_t)n_page,
                            .n_own = (uint32_t)(last_page(s) - n_page),
                            .tab = (uint32_t)tab,
                            .mass = (uint32_t)k->n_page,
                            .must = (uint32_t)k->must.n,
                            .list = (uint32_t)k->n_list,
                            .out = (uint32_t)k->item.n};
    SP_TRY(list_must(k, s, &n_must));
    *out = (cuda_chosen){.list = it.list, .n_chosen = n_keep < n_must ? n_must : n_keep};
    it.n_list = (uint32_t)out->n_chosen + it.n_own;
    out->n_list = it.n_list;
    for (size_t from = 0; from < n_page; from += SP_CUDA_PART) {
        size_t to = from + SP_CUDA_PART < n_page ? from + SP_CUDA_PART : n_page;
        const sp_cuda_keep_part part = {(uint32_t)k->item.n, (uint32_t)from, (uint32_t)to};
        SP_TRY(cuda_list_push(&k->part, &part, sizeof part));
    }
    k->n_page += n_page;
    k->n_list += it.n_list * j->a->kv->n_head;
    return cuda_list_push(&k->item, &it, sizeof it);
}

/* Notes what the receipts of these spans will be told, and makes room for it. */
static sp_err list_calls(attn_job *j)
{
    struct cuda_keep *k = j->c->keep;
    const size_t n_head = j->a->kv->n_head, n = k->item.n * n_head;
    const sp_cuda_keep_item *it = (const sp_cuda_keep_item *)(void *)k->item.at;
    if (k->n_result + n > RESULTS)
        SP_TRY(cuda_keep_settle(j->c));
    SP_TRY(cuda_grow(j->c, &k->out, (n > RESULTS ? n : RESULTS) * sizeof(sp_cuda_kept)));
    for (const sp_dev_span *s = j->a->span; s < j->a->span + j->a->n_span; s++) {
        if (!cuda_is_chosen(j, s))
            continue;
        const call one = {.to = s->cert,
                          .at = k->n_result,
                          .n_head = n_head,
                          .group = j->group,
                          .n_page = it->n_page,
                          .n_chosen = it->n_list - it->n_own,
                          .n_tok = s->pos + s->n < s->keep_to ? s->n : s->keep_to - s->pos};
        it++;
        k->n_result += n_head;
        if (s->cert)
            SP_TRY(cuda_list_push(&k->waiting, &one, sizeof one));
    }
    return SP_OK;
}

sp_err cuda_keep_run(attn_job *j, sp_cuda_attn *a)
{
    cuda_dev *c = j->c;
    struct cuda_keep *k = c->keep;
    const size_t n_head = a->n_head, n_q = SP_CUDA_SAMPLE * j->group, n_mass = k->n_page * n_head;
    if (!k->item.n)
        return SP_OK;
    SP_TRY(list_calls(j));
    SP_TRY(cuda_list_send(c, &k->items, &k->item));
    SP_TRY(cuda_list_send(c, &k->parts, &k->part));
    SP_TRY(cuda_list_send(c, &k->musts, &k->must));
    SP_TRY(cuda_grow(c, &k->sample, k->item.n * n_head * SP_CUDA_SAMPLE * sizeof(uint32_t)));
    SP_TRY(cuda_grow(c, &k->mass, n_mass * n_q * sizeof(float)));
    SP_TRY(cuda_grow(c, &k->rank, n_mass * sizeof(float)));
    SP_TRY(cuda_grow(c, &k->list, k->n_list * sizeof(uint32_t)));
    a->list = k->list.p;
    const sp_cuda_keep args = {
        .a = *a,
        .item = k->items.p,
        .part = k->parts.p,
        .sample = k->sample.p,
        .mass = k->mass.p,
        .rank = k->rank.p,
        .must = k->musts.p,
        .list = k->list.p,
        .out = (sp_cuda_kept *)k->out.p + (k->n_result - k->item.n * n_head),
        .n_item = (uint32_t)k->item.n,
        .n_part = (uint32_t)k->part.n};
    return cuda_try(c, c->lib->keep(&args), "a choice of pages");
}

static void add(const call *one, const sp_cuda_kept *kept)
{
    sp_dev_cert *to = one->to;
    const size_t n_sample = SP_CUDA_SAMPLE * one->group;
    for (size_t h = 0; h < one->n_head; h++) {
        to->n_sample += n_sample;
        to->sum_missed += (double)kept[h].sum_missed;
        to->max_missed = fmaxf(to->max_missed, kept[h].max_missed);
        to->n_page += one->n_page;
        to->n_chosen += one->n_chosen;
        to->n_skipped +=
            (int64_t)((one->n_page - one->n_chosen) * SP_PAGE_TOK * one->n_tok * one->group) -
            (int64_t)(one->n_page * SP_PAGE_TOK * n_sample);
    }
}

sp_err cuda_keep_settle(cuda_dev *c)
{
    struct cuda_keep *k = c->keep;
    sp_err err = SP_OK;
    if (k && k->waiting.n) {
        void *kept;
        const call *one = (const call *)(void *)k->waiting.at;
        err = cuda_get(c, &kept, &k->out, k->n_result, sizeof(sp_cuda_kept));
        for (size_t i = 0; i < k->waiting.n && err == SP_OK; i++)
            add(&one[i], (const sp_cuda_kept *)kept + one[i].at);
        sp_mem_free(kept);
    }
    if (k)
        k->waiting.n = k->n_result = 0;
    return err;
}
