/* Two ways to merge, same result: short words are scanned for their lowest pair again and again,
 * long ones use buckets.
 *
 * Buckets. Every adjacent pair that has a rank is an item in that rank's list, in text order for
 * one rank because items of one rank are one pair of tokens and new ones appear left to right
 * while a lower rank is drained; where that order is broken (ranks that are not monotone, several
 * sources of one pair) and it could matter (a pair of equal tokens overlaps itself), the list is
 * sorted before it is drained. An item whose symbols have changed since is skipped. */
#include "text/bpe.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

#define NONE UINT32_MAX

enum { SHORT_WORD = 48 }; /* up to here a scan in L1 beats the lists (bench: English text) */

typedef struct sp_bpe_sym {
    uint32_t id, prev, next; /* id NONE once merged into its left neighbour */
} sym;

typedef struct sp_bpe_item {
    uint32_t at, next; /* left symbol, next item of the bucket */
} item;

sp_err sp_bpe_init(sp_bpe *b, size_t n_merge)
{
    *b = (sp_bpe){0};
    b->cap_rank = n_merge;
    b->made = sp_mem_array(n_merge, sizeof *b->made);
    return b->made ? sp_map_init(&b->rank, n_merge) : SP_NOMEM;
}

void sp_bpe_fini(sp_bpe *b)
{
    sp_map_fini(&b->rank);
    sp_mem_free(b->made);
    *b = (sp_bpe){0};
}

static uint64_t pair_key(uint32_t l, uint32_t r)
{
    return (uint64_t)l << 32 | r;
}

sp_err sp_bpe_add(sp_bpe *b, uint32_t left, uint32_t right, uint32_t made)
{
    uint32_t have;
    SP_ASSERT(b->n_rank < b->cap_rank);
    b->made[b->n_rank] = made;
    uint32_t rank = (uint32_t)b->n_rank++;
    return sp_map_find_u64(&b->rank, pair_key(left, right), &have)
               ? SP_OK
               : sp_map_set_u64(&b->rank, pair_key(left, right), rank);
}

static uint32_t rank_of(const sp_bpe *b, uint32_t l, uint32_t r)
{
    uint32_t rank;
    return l != NONE && r != NONE && sp_map_find_u64(&b->rank, pair_key(l, r), &rank) ? rank : NONE;
}

static sp_err short_word(const sp_bpe *b, sp_ids *out, const char *s, size_t n)
{
    uint32_t id[SHORT_WORD], rank[SHORT_WORD];
    for (size_t i = 0; i < n; i++)
        id[i] = b->byte_id[(unsigned char)s[i]];
    for (size_t i = 0; i + 1 < n; i++)
        rank[i] = rank_of(b, id[i], id[i + 1]);
    for (;;) {
        size_t best = 0;
        uint32_t low = NONE;
        for (size_t i = 0; i + 1 < n; i++) {
            if (rank[i] < low) {
                low = rank[i];
                best = i;
            }
        }
        if (low == NONE)
            break;
        id[best] = b->made[low];
        n--;
        for (size_t i = best + 1; i < n; i++) {
            id[i] = id[i + 1];
            rank[i] = rank[i + 1];
        }
        if (best)
            rank[best - 1] = rank_of(b, id[best - 1], id[best]);
        if (best + 1 < n)
            rank[best] = rank_of(b, id[best], id[best + 1]);
    }
    for (size_t i = 0; i < n; i++)
        SP_TRY(sp_ids_push(out, id[i]));
    return SP_OK;
}

static sp_err work_reserve(const sp_bpe *b, sp_bpe_work *w, size_t n)
{
    if (!w->head) {
        size_t n_word = b->n_rank / 64 + 1;
        w->head = sp_mem_array(b->n_rank + 1, sizeof *w->head);
        w->tail = sp_mem_array(b->n_rank + 1, sizeof *w->tail);
        w->bits = sp_mem_array(n_word, sizeof *w->bits);
        w->sums = sp_mem_array(n_word / 64 + 1, sizeof *w->sums);
        if (!w->head || !w->tail || !w->bits || !w->sums)
            return SP_NOMEM;
    }
    if (n > w->cap_sym) {
        sym *p = sp_mem_grow(w->sym, n * sizeof *p);
        if (!p)
            return SP_NOMEM;
        w->sym = p;
        w->cap_sym = n;
    }
    return SP_OK;
}

void sp_bpe_work_fini(sp_bpe_work *w)
{
    sp_mem_free(w->sym);
    sp_mem_free(w->item);
    sp_mem_free(w->head);
    sp_mem_free(w->tail);
    sp_mem_free(w->bits);
    sp_mem_free(w->sums);
    *w = (sp_bpe_work){0};
}

static sp_err push(const sp_bpe *b, sp_bpe_work *w, uint32_t at)
{
    uint32_t right = w->sym[at].next;
    uint32_t rank = right == NONE ? NONE : rank_of(b, w->sym[at].id, w->sym[right].id);
    if (rank == NONE)
        return SP_OK;
    if (w->n_item == w->cap_item) {
        size_t cap = w->cap_item ? w->cap_item * 2 : 1024;
        item *p = sp_mem_grow(w->item, cap * sizeof *p);
        if (!p)
            return SP_NOMEM;
        w->item = p;
        w->cap_item = cap;
    }
    uint32_t i = (uint32_t)w->n_item++;
    w->item[i] = (item){at, NONE};
    uint64_t *bits = &w->bits[rank / 64];
    if (*bits >> (rank % 64) & 1)
        w->item[w->tail[rank]].next = i;
    else
        w->head[rank] = i;
    w->tail[rank] = i;
    *bits |= 1ull << (rank % 64);
    w->sums[rank / 64 / 64] |= 1ull << (rank / 64 % 64);
    return SP_OK;
}

/* Takes the list of the lowest non-empty rank; NONE when all are empty. */
static uint32_t pop(const sp_bpe *b, sp_bpe_work *w, uint32_t *rank)
{
    size_t n_sum = (b->n_rank / 64 + 1) / 64 + 1;
    for (size_t i = 0; i < n_sum; i++) {
        if (!w->sums[i])
            continue;
        size_t word = i * 64 + (size_t)__builtin_ctzll(w->sums[i]);
        size_t r = word * 64 + (size_t)__builtin_ctzll(w->bits[word]);
        w->bits[word] &= w->bits[word] - 1;
        if (!w->bits[word])
            w->sums[i] &= w->sums[i] - 1;
        *rank = (uint32_t)r;
        return w->head[r];
    }
    return NONE;
}

static int by_at(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* Puts a list into text order by rewriting its positions in place. */
static sp_err sort_list(sp_bpe_work *w, uint32_t head)
{
    size_t n = 0, i = 0;
    bool sorted = true;
    for (uint32_t k = head; k != NONE; k = w->item[k].next, n++)
        if (w->item[k].next != NONE && w->item[w->item[k].next].at < w->item[k].at)
            sorted = false;
    if (sorted)
        return SP_OK;
    uint32_t *at = sp_mem_array(n, sizeof *at);
    if (!at)
        return SP_NOMEM;
    for (uint32_t k = head; k != NONE; k = w->item[k].next)
        at[i++] = w->item[k].at;
    qsort(at, n, sizeof *at, by_at);
    i = 0;
    for (uint32_t k = head; k != NONE; k = w->item[k].next)
        w->item[k].at = at[i++];
    sp_mem_free(at);
    return SP_OK;
}

static sp_err long_word(const sp_bpe *b, sp_bpe_work *w, sp_ids *out, const char *s, size_t n)
{
    if (n >= NONE)
        return SP_LIMIT;
    SP_TRY(work_reserve(b, w, n));
    sym *y = w->sym;
    w->n_item = 0;
    for (uint32_t i = 0; i < n; i++)
        y[i] = (sym){b->byte_id[(unsigned char)s[i]], i ? i - 1 : NONE, i + 1 < n ? i + 1 : NONE};
    sp_err err = SP_OK;
    for (uint32_t i = 0; i < n && err == SP_OK; i++)
        err = push(b, w, i);
    uint32_t rank, head;
    while (err == SP_OK && (head = pop(b, w, &rank)) != NONE) {
        err = sort_list(w, head);
        for (uint32_t k = head; k != NONE && err == SP_OK; k = w->item[k].next) {
            uint32_t at = w->item[k].at, right = y[at].next;
            if (y[at].id == NONE || right == NONE || rank_of(b, y[at].id, y[right].id) != rank)
                continue;
            y[at].id = b->made[rank];
            y[at].next = y[right].next;
            if (y[right].next != NONE)
                y[y[right].next].prev = at;
            y[right].id = NONE;
            if (y[at].prev != NONE)
                err = push(b, w, y[at].prev);
            if (err == SP_OK)
                err = push(b, w, at);
        }
    }
    if (err != SP_OK) { /* leave no stale buckets behind */
        sp_bpe_work_fini(w);
        return err;
    }
    for (uint32_t i = 0; i != NONE; i = y[i].next)
        SP_TRY(sp_ids_push(out, y[i].id));
    return SP_OK;
}

sp_err sp_bpe_word(const sp_bpe *b, sp_bpe_work *w, sp_ids *out, const char *s, size_t n)
{
    return n <= SHORT_WORD ? short_word(b, out, s, n) : long_word(b, w, out, s, n);
}
