/* Long prompts, opt-in: the pages before a chunk are ranked by a sample of its queries, and only
 * the best are attended. What the others weigh to the sampled queries is measured and reported; it
 * certifies nothing about the rest. Which queries: those least like the mean, which see what the
 * others do not (QuoKA, arXiv 2602.08722). docs/ATTENTION.md. */
#include "dev/cpu_attn.h"

#include <math.h>
#include <stdlib.h>
#include <string.h>

enum {
    SAMPLE = 4 /* tokens */,
    LOOK = 64 /* tokens they are taken from */,
    NEAR = 2 /* pages before the span, always attended */
};

typedef struct score {
    float s;
    uint32_t i;
} score;

static int by_score(const void *a, const void *b)
{
    const score *x = a, *y = b;
    return x->s != y->s ? (x->s < y->s) - (x->s > y->s) : (x->i > y->i) - (x->i < y->i);
}
static int by_number(const void *a, const void *b)
{
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    return (x > y) - (x < y);
}

/* The tokens of a span whose queries are least like their mean, over the heads of a group; first in
 * all. */
static void sample_tokens(const attn_job *j, const sp_dev_span *s, size_t head, size_t group,
                          score *all)
{
    size_t d = j->a->kv->d, step = (s->n + LOOK - 1) / LOOK, n = s->n / step,
           row = j->a->n_q_head * d * step;
    for (size_t i = 0; i < n; i++)
        all[i] = (score){0, (uint32_t)(i * step)};
    for (size_t g = 0; g < group; g++) {
        const float *q = j->a->q + (s->row * j->a->n_q_head + head * group + g) * d;
        float mean[SP_MAX_HEAD] = {0};
        for (size_t i = 0; i < n; i++)
            for (size_t e = 0; e < d; e++)
                mean[e] += q[i * row + e];
        for (size_t i = 0; i < n; i++) {
            float dot = 0, norm = 1e-30f;
            for (size_t e = 0; e < d; e++) {
                dot += q[i * row + e] * mean[e];
                norm += q[i * row + e] * q[i * row + e];
            }
            all[i].s -= dot / sqrtf(norm);
        }
    }
    qsort(all, n, sizeof *all, by_score);
}

/* Ranks and chooses for one KV head of a span. mem: scores of tokens and pages, masses. */
static void choose_pages(const attn_job *j, const sp_dev_span *s, size_t head, chosen *out,
                         tile_mem *m, score *rank, float *mass)
{
    const sp_kern *kern = &j->c->kern;
    size_t d = j->a->kv->d, group = j->a->n_q_head / j->a->kv->n_head, n_page = first_page(s),
           n_q = SAMPLE * group;
    float scale = j->a->scale * 1.44269504f, top[SAMPLE * SP_FEW], sum[SAMPLE * SP_FEW];
    sample_tokens(j, s, head, group, rank);
    for (size_t i = 0; i < n_q; i++) {
        const float *src =
            j->a->q +
            ((s->row + rank[i % SAMPLE].i) * j->a->n_q_head + head * group + i / SAMPLE) * d;
        kern->rotate(m->q + i * d, src, scale, d, false);
        top[i] = sink_bits(j, head * group + i / SAMPLE);
    }
    kern->attn_prep(m->prep, m->q, n_q, d);
    for (size_t g = 0; g < n_page; g++) { /* mass of each page to each query: log2, then a share */
        sp_planes page = cpu_planes_head(j->a->kv, s, g, head);
        const sp_attn_pages a = {m->prep, &page, 1, n_q, d, {.cap = j->cap}, NULL, m->scratch};
        kern->attn_planes(m->acc, m->max, m->sum, &a);
        for (size_t i = 0; i < n_q; i++) {
            mass[g * n_q + i] = m->max[i] + log2f(m->sum[i]);
            top[i] = fmaxf(top[i], mass[g * n_q + i]);
        }
    }
    for (size_t i = 0; i < n_q; i++)
        sum[i] = exp2f(sink_bits(j, head * group + i / SAMPLE) - top[i]);
    for (size_t g = 0; g < n_page; g++)
        for (size_t i = 0; i < n_q; i++)
            sum[i] += mass[g * n_q + i] = exp2f(mass[g * n_q + i] - top[i]);
    size_t n_keep = (size_t)ceilf(s->keep * (float)n_page), n_must = 0;
    for (size_t g = 0; g < n_page; g++) {
        rank[g] = (score){0, (uint32_t)g};
        for (size_t i = 0; i < n_q; i++)
            rank[g].s = fmaxf(rank[g].s, mass[g * n_q + i] / sum[i]);
        if (sp_cert_is_always(s, g) || g + NEAR >= n_page)
            rank[g].s = INFINITY;
        n_must += rank[g].s == INFINITY;
    }
    qsort(rank, n_page, sizeof *rank, by_score);
    out->n = n_keep < n_must ? n_must : n_keep;
    for (size_t k = 0; k < out->n; k++)
        out->page[k] = rank[k].i;
    qsort(out->page, out->n, sizeof *out->page, by_number);
    out->n_sample = n_q;
    /* of the pages before the span; with those of the span it is less */
    for (size_t i = 0; i < n_q; i++) {
        double missed = 0;
        for (size_t k = out->n; k < n_page; k++)
            missed += (double)(mass[rank[k].i * n_q + i] / sum[i]);
        out->sum_missed += missed;
        out->max_missed = fmaxf(out->max_missed, (float)missed);
    }
}

typedef struct select_job {
    const attn_job *j;
    char *mem; /* per thread */
    size_t mem_bytes, cap;
} select_job;

static void select_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const select_job *s = arg;
    const attn_job *j = s->j;
    size_t n_head = j->a->kv->n_head;
    tile_mem m;
    score *rank = (score *)(void *)(s->mem + i_thread * s->mem_bytes);
    cpu_tile_mem_at(&m, j->c->scratch[i_thread], j->cap_q, j->a->kv->d);
    for (size_t i = begin; i < end; i++)
        if (j->chosen[i].page)
            choose_pages(j, &j->a->span[i / n_head], i % n_head, &j->chosen[i], &m, rank,
                         (float *)(rank + s->cap));
}

sp_err cpu_select(attn_job *j)
{
    const sp_dev_attn *a = j->a;
    size_t n_head = a->kv->n_head, group = a->n_q_head / n_head, n_item = a->n_span * n_head,
           n_pages = 0, cap = 0, n_wants = 0;
    for (const sp_dev_span *s = a->span; s < a->span + a->n_span; s++) {
        if (!cpu_is_selected(j, s) || group > SP_FEW)
            continue;
        n_wants++;
        n_pages += first_page(s) * n_head;
        cap = LOOK > cap ? LOOK : cap;
        cap = first_page(s) > cap ? first_page(s) : cap;
    }
    if (!n_wants)
        return SP_OK;
    select_job s = {.j = j, .cap = cap};
    s.mem_bytes = (cap * (sizeof(score) + SAMPLE * group * sizeof(float)) + 63) & ~(size_t)63;
    size_t n_chosen = (n_item * sizeof(chosen) + 63) & ~(size_t)63,
           n_list = (n_pages * sizeof(uint32_t) + 63) & ~(size_t)63;
    SP_TRY(cpu_grow(&j->c->select, &j->c->select_bytes,
                    n_chosen + n_list + s.mem_bytes * sp_pool_size(j->c->pool)));
    j->chosen = j->c->select;
    uint32_t *list = (uint32_t *)(void *)((char *)j->c->select + n_chosen);
    s.mem = (char *)list + n_list;
    for (size_t i = 0; i < n_item; i++) {
        const sp_dev_span *of = &a->span[i / n_head];
        j->chosen[i] = (chosen){.page = cpu_is_selected(j, of) ? list : NULL};
        list += j->chosen[i].page ? first_page(of) : 0;
    }
    sp_pool_run(j->c->pool, select_part, &s, n_item, 1);
    for (size_t i = 0; i < n_item; i++) {
        const chosen *c = &j->chosen[i];
        sp_dev_cert *to = a->span[i / n_head].cert;
        const sp_dev_span *of = &a->span[i / n_head];
        if (!c->page || !to)
            continue;
        size_t n_page = first_page(of),
               n_tok = of->pos + of->n < of->keep_to ? of->n : of->keep_to - of->pos;
        to->n_sample += c->n_sample;
        to->sum_missed += c->sum_missed;
        to->max_missed = fmaxf(to->max_missed, c->max_missed);
        to->n_page += n_page;
        to->n_chosen += c->n;
        to->n_skipped += (int64_t)((n_page - c->n) * SP_PAGE_TOK * n_tok * group) -
                         (int64_t)(n_page * SP_PAGE_TOK * c->n_sample);
    }
    return SP_OK;
}
