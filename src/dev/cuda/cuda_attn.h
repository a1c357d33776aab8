/* What dense (cuda_attn.c) and certified attention (cuda_cert.c) share. */
#ifndef SP_DEV_CUDA_ATTN_H
#define SP_DEV_CUDA_ATTN_H

#include "dev/cuda/cuda.h"

/* An array of the host that grows, and its copy on the device, which mostly serves all layers of a
 * step. */
typedef struct cuda_list {
    char *at, *sent; /* sent: what the device has */
    size_t n, n_sent, cap, size;
} cuda_list;

struct cuda_lists {
    cuda_list item, end, store, tab;
};

SP_MUST sp_err cuda_list_push(cuda_list *l, const void *x, size_t size);
/* Makes the device have the list. */
SP_MUST sp_err cuda_list_send(cuda_dev *c, cuda_buf *to, cuda_list *l);
void cuda_list_fini(cuda_list *l);

typedef struct attn_job {
    cuda_dev *c;
    struct cuda_lists *l;
    const sp_dev_attn *a;
    bool has_open; /* pages are not plain: the one being filled lies beside them */
    size_t group, n_state;
    bool is_split;
} attn_job;

static inline size_t first_page(const sp_dev_span *s)
{
    return s->pos / SP_PAGE_TOK;
}
static inline size_t last_page(const sp_dev_span *s)
{
    return (s->pos + s->n - 1) / SP_PAGE_TOK;
}
/* Position that a query at pos sees first. */
static inline size_t first_seen(const attn_job *j, size_t pos)
{
    return j->a->window && pos >= j->a->window ? pos + 1 - j->a->window : 0;
}

sp_cuda_kv cuda_kind_of(const sp_dev_kv_view *kv);
/* Stores k and v of a's spans. */
SP_MUST sp_err cuda_store(cuda_dev *c, const sp_dev_attn *a);

/* Is this span's attention certified rather than dense? */
bool cuda_is_certified(const attn_job *j, const sp_dev_span *s);
/* Lists are empty from here on. */
SP_MUST sp_err cuda_cert_begin(attn_job *j);
/* Lists such a span; of its own page `own`, an item and an end. tab: where its pages are listed. */
SP_MUST sp_err cuda_cert_list(attn_job *j, const sp_dev_span *s, const char *own, size_t tab);
/* Attends what was listed, between sp_cuda_lib's attn and attn_end of `a`. */
SP_MUST sp_err cuda_cert_run(attn_job *j, const sp_cuda_attn *a);

/* Are the pages before this span chosen? */
bool cuda_is_chosen(const attn_job *j, const sp_dev_span *s);
/* Where each KV head's pages are listed: n_chosen, then those of the span. */
typedef struct cuda_chosen {
    uint32_t list, n_list;
    size_t n_chosen;
} cuda_chosen;
/* Nothing is listed from here on; lists such a span; chooses, between sp_cuda_lib's query and attn
 * of `a`, which is told where the lists are. */
SP_MUST sp_err cuda_keep_begin(attn_job *j);
SP_MUST sp_err cuda_keep_list(attn_job *j, const sp_dev_span *s, size_t tab, cuda_chosen *out);
SP_MUST sp_err cuda_keep_run(attn_job *j, sp_cuda_attn *a);

#endif
