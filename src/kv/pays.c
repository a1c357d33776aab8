#include "kv/pays.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/rng.h"

#include <math.h>
#include <string.h>

/* Lengths in pages. DISTINCT: pages with keys of their own; the others repeat them. */
enum { N_LENGTH = 3, DISTINCT = 32, ROUNDS = 5, MOST_BYTES = 64 << 20, BUSY = 32 };
enum { N_KV = (DISTINCT + 1) * SP_PAGE_TOK, N_Q = 64 }; /* rows */
static const size_t lengths[N_LENGTH] = {128, 192, 256};

/* nats: standard deviation of a score; chosen so that SmolLM2's heads come out as its own keys do
 * at 8,192 */
#define WIDTH 6.0
#define ALIKE 0.8  /* queries of a KV head are 0.8 of a common one and 0.6 of their own */
#define PAYS 0.95  /* of the dense time */

typedef struct trial {
    sp_dev *dev;
    sp_kv_shape shape;
    size_t n_page, n_q_head;
    char *hi, *lo, *open; /* device memory, as these: */
    float *kv, *q, *out;  /* [N_KV, n_head, d]; [N_Q, n_q_head, d]; [SP_PAGE_TOK, n_q_head, d] */
    void **page, **lo_page;
} trial;

/* BUSY dimensions of a head carry the energy: two such rows have products WIDTH * sqrt(d) wide. */
static float noise(sp_rng *rng, size_t d, size_t i)
{
    uint64_t r = sp_rng_next(rng);
    double sum = -2; /* of four times 16 bits: nearly normal, variance a third */
    for (unsigned k = 0; k < 64; k += 16)
        sum += (double)(r >> k & 0xffff) / 65536;
    return (float)(sum * sqrt(3) * sqrt(WIDTH * sqrt((double)d / (d < BUSY ? (double)d : BUSY))) *
                   (i < BUSY ? 1 : 0.125));
}

static sp_err make_rows(const trial *t)
{
    size_t d = t->shape.d, n_kv = N_KV * t->shape.n_head * d, n_q = N_Q * t->n_q_head * d,
           group = t->n_q_head / t->shape.n_head;
    float *kv = sp_mem_array(n_kv, sizeof *kv), *q = sp_mem_array(n_q, sizeof *q);
    sp_rng rng;
    sp_rng_init(&rng, 1);
    for (size_t i = 0; kv && i < n_kv; i++)
        kv[i] = noise(&rng, d, i % d);
    for (size_t i = 0; q && i < n_q / group; i++) {
        float common = noise(&rng, d, i % d);
        for (size_t g = 0; g < group; g++)
            q[(i / d * group + g) * d + i % d] =
                (float)ALIKE * common + sqrtf(1 - (float)(ALIKE * ALIKE)) * noise(&rng, d, i % d);
    }
    sp_err err = kv && q ? t->dev->ops->mem_write(t->dev, t->kv, kv, n_kv * sizeof *kv) : SP_NOMEM;
    if (err == SP_OK)
        err = t->dev->ops->mem_write(t->dev, t->q, q, n_q * sizeof *q);
    sp_mem_free(kv);
    sp_mem_free(q);
    return err;
}

/* n tokens after n_page full pages, the first of which is `first`, in one layer. */
static sp_err attend(const trial *t, size_t first, size_t n_page, size_t n, size_t layer, float eps)
{
    const sp_dev_kv_view view = sp_kv_page_view(&t->shape, layer);
    sp_dev_span span = {.n = n,
                        .pos = n_page * SP_PAGE_TOK,
                        .page = t->page + first,
                        .lo = t->lo_page + first,
                        .open = t->open,
                        .eps = eps};
    size_t n_kv = t->shape.n_head * t->shape.d, row = first * SP_PAGE_TOK + 7 * layer + n_page;
    const sp_dev_attn a = {.out = t->out,
                           .q = t->q + row % SP_PAGE_TOK * t->n_q_head * t->shape.d,
                           .k = t->kv + row % (N_KV - SP_PAGE_TOK) * n_kv,
                           .v = t->kv + (row + 1) % (N_KV - SP_PAGE_TOK) * n_kv,
                           .kv = &view,
                           .n_q_head = t->n_q_head,
                           .scale = 1.0f / sqrtf((float)t->shape.d),
                           .span = &span,
                           .n_span = 1};
    return t->dev->ops->attn_paged(t->dev, &a);
}

static sp_err fill(trial *t)
{
    size_t lo_bytes = sp_kv_lo_bytes(&t->shape), hi_bytes = sp_kv_page_bytes(&t->shape) - lo_bytes;
    for (size_t i = 0; i < t->n_page; i++) {
        t->page[i] = t->hi + i * hi_bytes;
        t->lo_page[i] = t->lo + i * lo_bytes;
    }
    for (size_t i = 0; i < t->n_page && i < DISTINCT; i++)
        for (size_t l = 0; l < t->shape.n_layer; l++)
            SP_TRY(attend(t, i, 0, SP_PAGE_TOK, l, 0));
    for (size_t i = DISTINCT; i < t->n_page; i++) {
        SP_TRY(t->dev->ops->copy(t->dev, t->page[i], t->page[i % DISTINCT], hi_bytes));
        SP_TRY(t->dev->ops->copy(t->dev, t->lo_page[i], t->lo_page[i % DISTINCT], lo_bytes));
    }
    return SP_OK;
}

static sp_err time_step(double *ms, const trial *t, size_t n_page, float eps)
{
    uint64_t start = sp_clock_ns();
    for (size_t l = 0; l < t->shape.n_layer; l++)
        SP_TRY(attend(t, 0, n_page, 1, l, eps));
    *ms = sp_clock_ms(start);
    return SP_OK;
}

static sp_err find(size_t *out, trial *t, float eps)
{
    SP_TRY(make_rows(t));
    SP_TRY(fill(t));
    *out = SIZE_MAX;
    for (size_t i = N_LENGTH; i-- > 0;) {
        size_t n_won = 0;
        if (lengths[i] > t->n_page)
            continue;
        /* until most are won or lost */
        for (size_t r = 0; r < ROUNDS && n_won <= ROUNDS / 2 && r - n_won <= ROUNDS / 2; r++) {
            double dense, certified;
            SP_TRY(time_step(&dense, t, lengths[i] - 1, 0));
            SP_TRY(time_step(&certified, t, lengths[i] - 1, eps));
            n_won += certified < PAYS * dense;
        }
        if (2 * n_won < ROUNDS)
            break;
        *out = lengths[i] * SP_PAGE_TOK;
    }
    return SP_OK;
}

sp_err sp_kv_pays_from(size_t *out, sp_dev *dev, const sp_kv_shape *s, size_t n_q_head, float eps,
                       size_t n_ctx)
{
    trial t = {.dev = dev, .shape = *s, .n_q_head = n_q_head};
    t.shape.of = NULL; /* the last layer's heads stand for all */
    const sp_dev_ops *ops = dev->ops;
    size_t most =
        n_ctx / SP_PAGE_TOK < lengths[N_LENGTH - 1] ? n_ctx / SP_PAGE_TOK : lengths[N_LENGTH - 1];
    for (size_t i = 0; i < N_LENGTH && lengths[i] <= most; i++)
        t.n_page = lengths[i];
    *out = SIZE_MAX;
    const sp_kern *kern = sp_dev_cpu_kern(dev);
    if (!t.n_page || !s->format->is_planes || s->n_latent || s->format->is_demoted || !kern ||
        !kern->attn_planes)
        return SP_OK;
    t.shape.n_layer = 1;
    size_t fit = MOST_BYTES / (t.n_page * sp_kv_page_bytes(&t.shape));
    t.shape.n_layer = fit < 1 ? 1 : fit < s->n_layer ? fit : s->n_layer;

    size_t lo_bytes = sp_kv_lo_bytes(&t.shape), hi_bytes = sp_kv_page_bytes(&t.shape) - lo_bytes;
    size_t q_bytes = n_q_head * s->d * sizeof(float);
    void *mem[] = {NULL, NULL, NULL, NULL, NULL, NULL};
    enum { N = sizeof mem / sizeof mem[0] };
    const size_t n_bytes[N] = {t.n_page * hi_bytes,
                               t.n_page * lo_bytes,
                               sp_kv_open_bytes(&t.shape),
                               N_KV * s->n_head * s->d * sizeof(float),
                               N_Q * q_bytes,
                               SP_PAGE_TOK * q_bytes};
    sp_err err = SP_OK;
    for (size_t i = 0; i < N && err == SP_OK; i++)
        err = ops->mem_raw(dev, &mem[i], n_bytes[i]);
    void **list = sp_mem_array(2 * t.n_page, sizeof *list);
    if (err == SP_OK && list) {
        t.hi = mem[0], t.lo = mem[1], t.open = mem[2], t.kv = mem[3], t.q = mem[4], t.out = mem[5];
        t.page = list;
        t.lo_page = list + t.n_page;
        err = find(out, &t, eps);
    } else {
        err = SP_NOMEM;
    }
    sp_mem_free(list);
    for (size_t i = 0; i < N; i++)
        if (mem[i])
            ops->mem_free(dev, mem[i]);
    return err;
}
