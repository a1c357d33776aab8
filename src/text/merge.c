#include "text/merge.h"

#include "base/mem.h"
#include "base/utf8.h"

enum { PAIR_BITS = 22 }; /* 512 KiB: gemma's 262,144 tokens set an eighth of them */

sp_err sp_pairs_init(sp_pairs *p)
{
    p->bit = sp_mem_alloc(((size_t)1 << PAIR_BITS) / 8);
    return p->bit ? SP_OK : SP_NOMEM;
}

void sp_pairs_fini(sp_pairs *p)
{
    sp_mem_free(p->bit);
    p->bit = NULL;
}

size_t sp_pairs_char(uint32_t *cp, const char *s, size_t n)
{
    size_t step = sp_utf8_decode(cp, s, n);
    if (step)
        return step;
    *cp = 0x110000u + (unsigned char)s[0];
    return 1;
}

static size_t pair_bit(uint32_t left, uint32_t right)
{
    uint64_t h = ((uint64_t)left << 32 | right) * 0x9e3779b97f4a7c15u;
    return (size_t)(h >> (64 - PAIR_BITS));
}

void sp_pairs_add(sp_pairs *p, sp_str token)
{
    uint32_t left = 0, right;
    for (size_t i = 0, step; i < token.n; i += step, left = right) {
        step = sp_pairs_char(&right, token.p + i, token.n - i);
        if (i) {
            size_t b = pair_bit(left, right);
            p->bit[b / 64] |= 1ull << (b % 64);
        }
    }
}

bool sp_pairs_may_join(const sp_pairs *p, uint32_t left, uint32_t right)
{
    size_t b = pair_bit(left, right);
    return p->bit[b / 64] >> (b % 64) & 1;
}

sp_err sp_merge_add(sp_merge_work *w, size_t at, uint32_t len, uint32_t id)
{
    if (w->n_sym == w->cap_sym) {
        size_t cap = w->cap_sym ? w->cap_sym * 2 : 256;
        sp_merge_sym *p = cap < SP_TOK_NONE ? sp_mem_grow(w->sym, cap * sizeof *p) : NULL;
        if (!p)
            return SP_NOMEM;
        w->sym = p;
        w->cap_sym = cap;
    }
    uint32_t i = (uint32_t)w->n_sym++;
    w->sym[i] = (sp_merge_sym){at, len, i ? i - 1 : SP_TOK_NONE, SP_TOK_NONE, id};
    if (i)
        w->sym[i - 1].next = i;
    return SP_OK;
}

static sp_err push(sp_merge_work *w, sp_merge_item x)
{
    if (w->n_heap == w->cap_heap) {
        size_t cap = w->cap_heap ? w->cap_heap * 2 : 256;
        sp_merge_item *p = sp_mem_grow(w->heap, cap * sizeof *p);
        if (!p)
            return SP_NOMEM;
        w->heap = p;
        w->cap_heap = cap;
    }
    size_t i = w->n_heap++;
    for (; i && w->heap[(i - 1) / 2].order > x.order; i = (i - 1) / 2, w->n_op++)
        w->heap[i] = w->heap[(i - 1) / 2];
    w->heap[i] = x;
    w->n_op++;
    return SP_OK;
}

static sp_merge_item pop(sp_merge_work *w)
{
    sp_merge_item top = w->heap[0], x = w->heap[--w->n_heap];
    size_t i = 0;
    for (;; w->n_op++) {
        size_t k = 2 * i + 1;
        if (k >= w->n_heap)
            break;
        if (k + 1 < w->n_heap && w->heap[k + 1].order < w->heap[k].order)
            k++;
        if (w->heap[k].order >= x.order)
            break;
        w->heap[i] = w->heap[k];
        i = k;
    }
    if (w->n_heap)
        w->heap[i] = x;
    w->n_op++;
    return top;
}

/* Puts the pair whose left side is `at` into the heap, if the two may merge. */
static sp_err offer(sp_merge_work *w, sp_merge_find *find, const sp_tok *t, const char *s,
                    uint32_t at)
{
    uint32_t rank, id;
    if (at == SP_TOK_NONE || w->sym[at].next == SP_TOK_NONE)
        return SP_OK;
    const sp_merge_sym *l = &w->sym[at], *r = &w->sym[l->next];
    if (!find(&rank, &id, t, s, l, r))
        return SP_OK;
    return push(w, (sp_merge_item){(uint64_t)rank << 32 | at, l->len + r->len, id});
}

sp_err sp_merge_run(sp_merge_work *w, sp_merge_find *find, const sp_tok *t, const char *s)
{
    for (uint32_t i = 0; i < w->n_sym; i++)
        SP_TRY(offer(w, find, t, s, i));
    while (w->n_heap) {
        sp_merge_item x = pop(w);
        uint32_t at = (uint32_t)x.order;
        sp_merge_sym *l = &w->sym[at];
        if (!l->len || l->next == SP_TOK_NONE || l->len + w->sym[l->next].len != x.len)
            continue;
        sp_merge_sym *r = &w->sym[l->next];
        l->len = x.len;
        l->id = x.id;
        r->len = 0;
        l->next = r->next;
        if (r->next != SP_TOK_NONE)
            w->sym[r->next].prev = at;
        SP_TRY(offer(w, find, t, s, l->prev));
        SP_TRY(offer(w, find, t, s, at));
    }
    return SP_OK;
}

void sp_merge_clear(sp_merge_work *w)
{
    w->n_sym = w->n_heap = 0;
}

void sp_merge_fini(sp_merge_work *w)
{
    sp_mem_free(w->sym);
    sp_mem_free(w->heap);
    *w = (sp_merge_work){0};
}
