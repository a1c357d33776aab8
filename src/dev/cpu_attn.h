/* What dense and certified attention share. Only cpu_attn.c, cpu_sparse.c and cpu_select.c include
 * this. */
#ifndef SP_DEV_CPU_ATTN_H
#define SP_DEV_CPU_ATTN_H

#include "dev/cert.h"
#include "dev/cpu.h"
#include "kern/fp8.h"

typedef struct attn_job {
    cpu_dev *c;
    const sp_dev_attn *a;
    size_t cap_q;  /* queries of the largest tile */
    bool is_split; /* items are parts; c->part holds their results, then the tiles' queries */
    size_t n_row;  /* queries of all parts */
    struct chosen *chosen; /* [n_span][KV heads], where a span selects */
    bool is_plain;         /* no window, cap or sinks */
    float cap;             /* of scores in bits; 0: none */
} attn_job;

/* What one thread works with. */
typedef struct tile_mem {
    float *q, *acc, *max, *sum, *p_acc, *p_max, *p_sum, *page, *least, *drop, *lost;
    void *prep, *scratch;
    uint16_t *from, *to; /* what its queries see; sp_attn_see */
} tile_mem;

/* A tile: the tokens [tok, tok + n_tok) of a span, which lie in page i_page, for one KV head. */
typedef struct tile {
    const sp_dev_span *span;
    size_t own; /* index of the span's first scratch page */
    size_t i_page, tok, n_tok, head;
    size_t first; /* page that its first query sees first: i_page, or one before it */
    /* of a split call: queries of all parts of the tiles before it; of the tiles alone, each
     * rounded up to 16 */
    size_t row, query;
} tile;

/* Does the ISA attend these pages in 8 bits? Otherwise they are read back as f32 first. */
static inline bool cpu_is_fused(const attn_job *j)
{
    return j->a->kv->is_planes && !j->a->kv->n_latent && j->c->kern.attn_planes;
}

/* Pages a span writes to, first to last. */
static inline size_t first_page(const sp_dev_span *s)
{
    return s->pos / SP_PAGE_TOK;
}
static inline size_t last_page(const sp_dev_span *s)
{
    return (s->pos + s->n - 1) / SP_PAGE_TOK;
}

/* Position that a query at pos sees first. */
static inline size_t first_seen(const sp_dev_attn *a, size_t pos)
{
    return a->window && pos >= a->window ? pos + 1 - a->window : 0;
}

/* A tile's parts: those of the sequence that hold pages it sees before its own, then its own page.
 * A part of the sequence begins at a multiple of SP_PART_PAGES, whatever the window, so that tiles
 * with other firsts see the same parts. */
static inline size_t part_count(const tile *t)
{
    return t->first < t->i_page ? (t->i_page - 1) / SP_PART_PAGES - t->first / SP_PART_PAGES + 2
                                : 1;
}
/* Pages [*from, *to) of a part that is not the last. */
static inline void part_range(const tile *t, size_t part, size_t *from, size_t *to)
{
    size_t begin = (t->first / SP_PART_PAGES + part) * SP_PART_PAGES, end = begin + SP_PART_PAGES;
    *from = begin < t->first ? t->first : begin;
    *to = end < t->i_page ? end : t->i_page;
}

/* The score of a query head's sink in bits; -INFINITY: there is none. */
static inline float sink_bits(const attn_job *j, size_t q_head)
{
    return j->a->sinks ? j->a->sinks[q_head] * 1.44269504f : -__builtin_inff();
}

/* Lays the parts of a tile_mem out in p; with p NULL, says how many bytes that takes. */
size_t cpu_tile_mem_at(tile_mem *m, char *p, size_t n_q, size_t d);
sp_planes cpu_planes_head(const sp_dev_kv_view *kv, const sp_dev_span *s, size_t i_page,
                          size_t head);
/* One token's K and V of one head, rotated where pages are, into slot of its plain page: K
 * column-wise, V as a row. v NULL: latent. */
void cpu_store_token(const cpu_dev *c, const sp_dev_kv_view *kv, char *head, size_t slot,
                     const float *k, const float *v);
/* A head of a full page in the pool's format, from its plain elements. */
void cpu_fill_page(const cpu_dev *c, const sp_dev_kv_view *kv, const sp_dev_span *s, size_t i_page,
                   size_t head, const char *plain);
/* The tile's queries, scaled to bits, rotated where pages are. */
void cpu_load_queries(const attn_job *j, const tile *t, tile_mem *m);
/* Pages [from, to) before a tile's own, at most a part, from an empty state into (acc, max, sum);
 * cut as in sp_kern.attn_planes. */
void cpu_attend_range(const attn_job *j, const tile *t, tile_mem *m, float *acc, float *max,
                      float *sum, size_t from, size_t to, sp_cut *cut);
/* The same of one part. */
void cpu_attend_part(const attn_job *j, const tile *t, tile_mem *m, float *acc, float *max,
                     float *sum, size_t part, sp_cut *cut);
/* The state before any part: of the sinks, if there are any. */
void cpu_start_state(const attn_job *j, const tile *t, float *acc, float *max, float *sum);
void cpu_store_answers(const attn_job *j, const tile *t, const float *acc, const float *sum);

/* Pages before a span that its tiles attend, for each KV head. NULL list: all of them. */
typedef struct chosen {
    uint32_t *page; /* ascending */
    size_t n;
    size_t n_sample;
    double sum_missed;
    float max_missed;
} chosen;
/* Chooses for all spans that want it; NULL where a span and head attend everything. */
sp_err cpu_select(attn_job *j);
static inline bool cpu_is_selected(const attn_job *j, const sp_dev_span *s)
{
    return !j->a->window && s->keep > 0 && s->keep < 1 && s->pos < s->keep_to &&
           s->n >= SP_PAGE_TOK && cpu_is_fused(j) && first_page(s) > 2 * SP_PART_PAGES;
}

/* Is this span's attention certified rather than dense? */
bool cpu_is_sparse(const attn_job *j, const sp_dev_span *s);
/* Attends all such spans. */
sp_err cpu_attn_sparse(const attn_job *j);

#endif
