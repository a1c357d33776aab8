/* Test tool: certificates against f64, on a model's own queries and keys (T2).
 * usage: certify MODEL FIRST N EPS[,WINDOW,CAP[,SINK]]…, token ids on stdin. Computes FIRST tokens densely, then, for each of
 * the settings, decodes N tokens one by one with EPS, finds out which keys were read by listening to attn_rows, and compares
 * what the others truly weigh with what was reported. Every layer's attention is given that window, cap and sink (0, 0 and
 * none: the model's own). Prints for each "CALLS VIOLATIONS LARGEST_TRUE LARGEST_REPORTED MEAN_TRUE MEAN_REPORTED KEPT"; a
 * call is one query head of one layer. */
#include "opened.h"

#include <math.h>
#include <pthread.h>
#include <stdlib.h>
#include <string.h>

enum { MAX_D = 256, MAX_READ = 4096 };

typedef struct read_rows { /* one call of attn_rows */
    const uint8_t *first; /* k_hi of its first page */
    size_t n;
    uint16_t at[SP_PART_TOK];
} read_rows;

static read_rows heard[MAX_READ];
static size_t n_heard;
static sp_kern *kern;
static sp_kern orig_kern;
static const sp_dev_ops *orig_ops;
static size_t window;
static float cap, sink[1024];
static bool has_sinks;
static struct {
    size_t n, n_over;
    double most_true, most_told, sum_true, sum_told, seen, kept;
} tally;

static void hear(const sp_planes *page, const uint16_t *at, size_t n)
{
    static pthread_mutex_t lock = PTHREAD_MUTEX_INITIALIZER;
    pthread_mutex_lock(&lock);
    if (n_heard < MAX_READ) {
        read_rows *r = &heard[n_heard++];
        r->first = page[0].k_hi;
        r->n = n;
        memcpy(r->at, at, n * sizeof *at);
    }
    pthread_mutex_unlock(&lock);
}

static void listen_rows(float *acc, float *max, float *sum, const sp_scan *s, const float *q, const void *prep, const sp_planes *page,
                        const uint16_t *at, size_t n, size_t n_q, size_t d, void *scratch)
{
    hear(page, at, n);
    orig_kern.attn_rows(acc, max, sum, s, q, prep, page, at, n, n_q, d, scratch);
}

/* A part that is attended after all. */
static void listen_planes(float *acc, float *max, float *sum, const sp_attn_pages *a)
{
    uint16_t all[SP_PART_TOK];
    for (size_t i = 0; i < SP_PART_TOK; i++)
        all[i] = (uint16_t)i;
    hear(a->page, all, SP_PART_TOK);
    orig_kern.attn_planes(acc, max, sum, a);
}

static sp_planes planes_of(const sp_dev_kv_view *kv, const sp_dev_span *s, size_t page, size_t head)
{
    return sp_planes_at((char *)s->page[page] + kv->layer_at + head * kv->head_bytes,
                        (char *)s->lo[page] + kv->lo_at + head * kv->lo_bytes, kv->d);
}

/* Which keys of the part that begins at page g of a head were read; false: the head was attended densely. */
static bool kept_of(bool *kept, const sp_dev_kv_view *kv, const sp_dev_span *s, size_t head, size_t g)
{
    const uint8_t *first = planes_of(kv, s, g, head).k_hi;
    for (size_t i = n_heard; i-- > 0;) {
        if (heard[i].first != first)
            continue;
        memset(kept, 0, SP_PART_TOK);
        for (size_t k = 0; k < heard[i].n; k++)
            kept[heard[i].at[k]] = true;
        return true;
    }
    return false;
}

/* The query as its scores see it: rotated, in bits, rounded to 8 bits where attention is. */
static void load_query(double *plain, double *seen, const sp_dev_attn *a, size_t row, size_t head)
{
    float q[MAX_D], top = 0;
    size_t d = a->kv->d;
    kern->rotate(q, a->q + (row * a->n_q_head + head) * d, a->scale * 1.44269504f, d, false);
    for (size_t i = 0; i < d; i++)
        top = fmaxf(top, fabsf(q[i]));
    for (size_t i = 0; i < d; i++) {
        plain[i] = (double)q[i];
        seen[i] = kern->attn_prep && top > 0 ? (double)nearbyintf(q[i] * (127.0f / top)) * (double)(top / 127.0f) : (double)q[i];
    }
}

static double capped(double x, float cap_of)
{
    const double bits = (double)cap_of * 1.4426950408889634;
    return cap_of > 0 ? bits * tanh(x / bits) : x;
}

/* out[j] += the sum over i of q[i] * k[i][j]. */
static void add_scores(double out[SP_PAGE_TOK], const double *q, const float *k, size_t d)
{
    for (size_t i = 0; i < d; i++)
        for (size_t j = 0; j < SP_PAGE_TOK; j++)
            out[j] += q[i] * (double)k[i * SP_PAGE_TOK + j];
}

static double true_loss(const sp_dev_attn *a, const sp_dev_span *s, size_t head, size_t q_head)
{
    static double plain[MAX_D], seen[MAX_D], score[CAP_TOK + SP_PAGE_TOK];
    static bool is_kept[CAP_TOK + SP_PAGE_TOK];
    static float kt[MAX_D * SP_PAGE_TOK], v[MAX_D * SP_PAGE_TOK];
    const sp_dev_kv_view *kv = a->kv;
    size_t n_page = s->pos / SP_PAGE_TOK, d = kv->d, first = a->window && s->pos >= a->window ? s->pos + 1 - a->window : 0;
    size_t whole = (first + SP_PAGE_TOK - 1) / SP_PAGE_TOK; /* a page that the window begins in is always attended */
    double sink = a->sinks ? (double)a->sinks[q_head] * 1.4426950408889634 : -1e300, top = sink;
    bool kept[SP_PART_TOK];
    load_query(plain, seen, a, s->row, q_head);
    for (size_t g = first / SP_PAGE_TOK; g <= n_page; g++) {
        double *x = score + g * SP_PAGE_TOK, mean = 0;
        size_t at = whole > g / SP_PART_PAGES * SP_PART_PAGES ? g - whole : g % SP_PART_PAGES; /* in its part */
        if (g < n_page && g >= whole && (g == whole || g % SP_PART_PAGES == 0) && !kept_of(kept, kv, s, head, g))
            return 0;
        if (g < n_page) {
            const sp_planes page = planes_of(kv, s, g, head);
            kern->planes_get(kt, v, &page, d);
            for (size_t i = 0; i < d; i++)
                mean += (plain[i] - seen[i]) * (double)sp_f16_to_f32(page.k_mean[i]);
        } else { /* the open page */
            const sp_f16 *own = (const sp_f16 *)(const void *)((char *)s->open + kv->open_at + head * kv->open_bytes);
            for (size_t i = 0; i < d * SP_PAGE_TOK; i++)
                kt[i] = sp_f16_to_f32(own[i]);
        }
        for (size_t j = 0; j < SP_PAGE_TOK; j++) {
            x[j] = mean;
            is_kept[g * SP_PAGE_TOK + j] = g == n_page || g < whole || kept[j * SP_PART_PAGES + at];
        }
        add_scores(x, g < n_page ? seen : plain, kt, d);
    }
    for (size_t t = first; t <= s->pos; t++) {
        score[t] = capped(score[t], a->cap);
        top = fmax(top, score[t]);
    }
    double kept_mass = a->sinks ? exp2(sink - top) : 0, dropped = 0;
    for (size_t t = first; t <= s->pos; t++)
        *(is_kept[t] ? &kept_mass : &dropped) += exp2(score[t] - top);
    return dropped / (dropped + kept_mass);
}

static sp_err attn_paged(sp_dev *dev, const sp_dev_attn *a)
{
    sp_dev_cert cert = {0};
    sp_dev_span span = a->span[0];
    sp_dev_attn one = *a;
    double sum = 0, most = 0;
    one.window = window ? window : a->window;
    one.cap = cap > 0 ? cap : a->cap;
    one.sinks = has_sinks ? sink : a->sinks;
    n_heard = 0;
    span.cert = &cert;
    one.span = &span;
    SP_TRY(orig_ops->attn_paged(dev, &one));
    size_t group = a->n_q_head / a->kv->n_head;
    for (size_t h = 0; h < a->kv->n_head; h++) {
        double worst = 0;
        for (size_t t = 0; t < group; t++) {
            double loss = true_loss(&one, &span, h, h * group + t);
            worst = fmax(worst, loss);
            tally.sum_true += loss;
        }
        sum += worst;
        most = fmax(most, worst);
    }
    tally.n += a->n_q_head;
    tally.n_over += most > (double)cert.max_loss || sum > cert.sum_loss;
    tally.most_true = fmax(tally.most_true, most);
    tally.most_told = fmax(tally.most_told, (double)cert.max_loss);
    tally.sum_told += cert.sum_loss * (double)group;
    tally.seen += (double)cert.n_seen;
    tally.kept += (double)cert.n_kept;
    return SP_OK;
}

/* "EPS[,WINDOW,CAP[,SINK]]". */
static void set_rule(float *eps, const char *text)
{
    float given[4] = {0};
    int n = sscanf(text, "%f,%f,%f,%f", &given[0], &given[1], &given[2], &given[3]);
    *eps = given[0];
    window = (size_t)given[1];
    cap = given[2];
    has_sinks = n == 4;
    for (size_t i = 0; i < sizeof sink / sizeof sink[0]; i++)
        sink[i] = given[3] + (float)(i % 3);
}

int main(int argc, char **argv)
{
    static opened o;
    const float *logits;
    if (argc < 5 || !open_model(&o, argv[1], SP_CPU_LEVELS - 1, 0, 0))
        return 1;
    size_t at = (size_t)atoi(argv[2]), n_each = (size_t)atoi(argv[3]), n_over = 0;
    kern = (sp_kern *)(uintptr_t)sp_dev_cpu_kern(o.dev);
    orig_kern = *kern;
    orig_ops = o.dev->ops;
    sp_dev_ops ops = *orig_ops;
    ops.attn_paged = attn_paged;
    if (at + (size_t)(argc - 4) * n_each > o.n || sp_model_arch(o.model)->d_head > MAX_D || !open_seq(&o, sp_kv_format_find("q8"), 1))
        return 1;
    sp_model_span span = {.seq = &o.seq, .tok = o.tok, .n = at, .n_logits = 1};
    if (sp_model_forward(o.model, o.work, o.pool, &span, 1, &logits, &o.d) != SP_OK)
        return 1;
    o.dev->ops = &ops;
    kern->attn_rows = listen_rows;
    if (kern->attn_planes)
        kern->attn_planes = listen_planes;
    for (int k = 4; k < argc; k++) {
        set_rule(&o.seq.eps, argv[k]);
        memset(&tally, 0, sizeof tally);
        for (size_t end = at + n_each; at < end; at++) {
            span = (sp_model_span){.seq = &o.seq, .tok = o.tok + at, .n = 1, .n_logits = 1};
            if (sp_model_forward(o.model, o.work, o.pool, &span, 1, &logits, &o.d) != SP_OK)
                return 1;
        }
        double n = tally.n ? (double)tally.n : 1;
        printf("%zu %zu %.6f %.6f %.6f %.6f %.4f\n", tally.n, tally.n_over, tally.most_true, tally.most_told, tally.sum_true / n,
               tally.sum_told / n, tally.kept / fmax(tally.seen, 1));
        n_over += tally.n_over;
    }
    o.dev->ops = orig_ops;
    close_all(&o);
    return n_over != 0;
}
