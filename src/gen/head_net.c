#include "gen/head_net.h"

#include "base/mem.h"
#include "base/rng.h"

#include <math.h>
#include <string.h>

/* Later guesses count less: they are reached only when the earlier ones are right. */
static const float WEIGHT[SP_HEAD_DEPTH] = {1, 0.7f, 0.5f};
/* Adam's usual constants; the largest norm of the gradient; how widely weights begin. */
static const float BETA1 = 0.9f, BETA2 = 0.99f, TINY = 1e-8f, CLIP = 1, SPREAD = 0.7f;
enum { GRAIN = 16 };

/* What the backward pass needs of one depth. */
typedef struct level {
    float *r, *e, *z, *n, *gate, *up, *a, *o, *d_o; /* [cap, n_embd or n_ff]; d_o: gradient at o */
    float *inv_s, *inv_z, *inv_o;                   /* [cap] 1 / rms */
} level;

struct sp_head_net {
    sp_dev *dev;
    const sp_model *model;
    sp_head_shape shape;
    size_t cap, n_param, at[SP_HEAD_MATS + 1]; /* where each matrix begins; behind them the norm */
    float *p, *grad, *m1, *m2;                 /* [n_param] */
    uint16_t *w[SP_HEAD_MATS], *wt[SP_HEAD_MATS]; /* bf16, as it is and turned round */
    uint16_t *out, *out_t;                     /* output rows [n_tok, n_embd], turned round */
    level level[SP_HEAD_DEPTH];
    float *s0, *logits, *ds, *dz, *dn, *da, *dg, *du, *tmp, *turned; /* [cap, ..] */
    uint16_t *narrow;                          /* [widest, cap] inputs turned round */
    float *loss;                               /* [cap] */
    uint64_t n_step;
};

/* --- work shared by threads ---------------------------------------------------------------------
 */

typedef struct rows_job {
    sp_head_net *net;
    float *out, *inv, *x;
    const float *y, *dy;
    void *turned;
    size_t rows, cols;
    bool to_bf16;
} rows_job;

static uint16_t to_bf16(float f)
{
    uint32_t u;
    memcpy(&u, &f, sizeof u);
    return (uint16_t)((u + 0x7fff + (u >> 16 & 1)) >> 16);
}

static void for_rows(sp_head_net *net, sp_pool_fn *fn, void *arg, size_t n)
{
    sp_pool_run(sp_dev_cpu_pool(net->dev), fn, arg, n, GRAIN);
}

static void rms_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const rows_job *j = arg;
    (void)i_thread;
    for (size_t r = begin; r < end; r++) {
        const float *x = j->y + r * j->cols;
        float sum = 0, *out = j->out + r * j->cols;
        for (size_t i = 0; i < j->cols; i++)
            sum += x[i] * x[i];
        float inv = 1 / sqrtf(sum / (float)j->cols + SP_HEAD_EPS);
        j->inv[r] = inv;
        for (size_t i = 0; i < j->cols; i++)
            out[i] = x[i] * inv;
    }
}

/* out = y / rms(y), row by row; inv keeps 1 / rms. */
static void rms(sp_head_net *net, float *out, float *inv, const float *y, size_t n)
{
    rows_job j = {.out = out, .inv = inv, .y = y, .cols = net->shape.n_embd};
    for_rows(net, rms_part, &j, n);
}

static void rms_back_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const rows_job *j = arg;
    (void)i_thread;
    for (size_t r = begin; r < end; r++) {
        const float *y = j->y + r * j->cols, *dy = j->dy + r * j->cols;
        float dot = 0, *out = j->out + r * j->cols;
        for (size_t i = 0; i < j->cols; i++)
            dot += y[i] * dy[i];
        dot /= (float)j->cols;
        for (size_t i = 0; i < j->cols; i++)
            out[i] += j->inv[r] * (dy[i] - y[i] * dot);
    }
}

/* out += what dy at y = x / rms(x) means at x. */
static void rms_back(sp_head_net *net, float *out, const float *dy, const float *y, float *inv,
                     size_t n)
{
    rows_job j = {.out = out, .inv = inv, .y = y, .dy = dy, .cols = net->shape.n_embd};
    for_rows(net, rms_back_part, &j, n);
}

static void turn_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    enum { TILE = 16 };
    const rows_job *j = arg;
    (void)i_thread;
    for (size_t c0 = begin * TILE; c0 < end * TILE && c0 < j->cols; c0 += TILE)
        for (size_t r = 0; r < j->rows; r++)
            for (size_t c = c0; c < c0 + TILE && c < j->cols; c++) {
                float v = j->y[r * j->cols + c];
                if (j->to_bf16)
                    ((uint16_t *)j->turned)[c * j->rows + r] = to_bf16(v);
                else
                    ((float *)j->turned)[c * j->rows + r] = v;
            }
}

/* x [rows, cols] turned round, as f32 or bf16. */
static void turn(sp_head_net *net, void *out, bool narrow, const float *x, size_t rows, size_t cols)
{
    rows_job j = {.y = x, .turned = out, .rows = rows, .cols = cols, .to_bf16 = narrow};
    sp_pool_run(sp_dev_cpu_pool(net->dev), turn_part, &j, (cols + 15) / 16, 1);
}

/* out [n, rows] (+)= x [n, cols] . w [rows, cols]^T, w in bf16. */
static sp_err product(sp_head_net *net, float *out, const float *x, const uint16_t *w, size_t rows,
                      size_t cols, size_t n, bool add)
{
    const sp_dev_weight weight = {.data = w, .type = SP_BF16, .n_row = rows, .k = cols};
    const sp_dev_matmul a = {.out = &out,
                             .x = x,
                             .w = &weight,
                             .n_w = 1,
                             .n_row = n,
                             .add = add,
                             .stage = SP_STAGE_REST};
    return net->dev->ops->matmul(net->dev, &a);
}

static sp_err forward_of(sp_head_net *net, float *out, const float *x, sp_head_mat i, size_t n,
                         bool add)
{
    return product(net, out, x, net->w[i], sp_head_rows(&net->shape, i),
                   sp_head_cols(&net->shape, i), n, add);
}

static sp_err back_of(sp_head_net *net, float *dx, const float *dy, sp_head_mat i, size_t n,
                      bool add)
{
    return product(net, dx, dy, net->wt[i], sp_head_cols(&net->shape, i),
                   sp_head_rows(&net->shape, i), n, add);
}

/* The gradient of matrix i: += dy^T . x. */
static sp_err learn_of(sp_head_net *net, sp_head_mat i, const float *dy, const float *x, size_t n)
{
    size_t rows = sp_head_rows(&net->shape, i), cols = sp_head_cols(&net->shape, i);
    turn(net, net->turned, false, dy, n, rows);
    turn(net, net->narrow, true, x, n, cols);
    return product(net, net->grad + net->at[i], net->turned, net->narrow, cols, n, rows, true);
}

/* --- forward ------------------------------------------------------------------------------------
 */

typedef struct glu_job {
    float *gate, *up, *a;      /* [n] */
    float *d_gate, *d_up, *d_a;
} glu_job;

static void glu_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const glu_job *j = arg;
    (void)i_thread;
    for (size_t i = begin; i < end; i++)
        j->a[i] = j->gate[i] / (1 + expf(-j->gate[i])) * j->up[i];
}

static void glu_back_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const glu_job *j = arg;
    (void)i_thread;
    for (size_t i = begin; i < end; i++) {
        float g = j->gate[i], sig = 1 / (1 + expf(-g));
        j->d_gate[i] = j->d_a[i] * j->up[i] * sig * (1 + g * (1 - sig));
        j->d_up[i] = j->d_a[i] * g * sig;
    }
}

/* Loss of a row, and its gradient at the logits in their place. */
typedef struct loss_job {
    sp_head_net *net;
    const int32_t *want;
    uint32_t *got;
    float weight;
} loss_job;

static void loss_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const loss_job *j = arg;
    size_t n_tok = j->net->shape.n_tok;
    (void)i_thread;
    for (size_t r = begin; r < end; r++) {
        float *x = j->net->logits + r * n_tok, top = x[0], sum = 0;
        size_t best = 0;
        int32_t want = j->want[r];
        for (size_t i = 1; i < n_tok; i++) {
            best = x[i] > top ? i : best;
            top = x[best];
        }
        if (j->got)
            j->got[r] = (uint32_t)best;
        float at_want = want >= 0 ? x[want] : 0, scale = want >= 0 ? j->weight : 0;
        for (size_t i = 0; i < n_tok; i++)
            sum += x[i] = expf(x[i] - top);
        for (size_t i = 0; i < n_tok; i++)
            x[i] *= scale / sum;
        if (want >= 0)
            x[want] -= scale;
        j->net->loss[r] = want >= 0 ? logf(sum) - (at_want - top) : 0;
    }
}

/* One depth: from s to level->z, which is the next s. Leaves the gradient at its output. */
static sp_err run_level(sp_head_net *net, size_t k, const float *s, const sp_head_batch *b,
                        bool learn, uint32_t *got, float *loss)
{
    level *l = &net->level[k];
    size_t n = b->n, n_embd = net->shape.n_embd, n_tok = net->shape.n_tok;
    const float *norm = net->p + net->at[SP_HEAD_MATS];
    SP_TRY(sp_model_embed(net->model, net->tmp, b->tok[k], n));
    rms(net, l->e, l->inv_o, net->tmp, n);
    rms(net, l->r, l->inv_s, s, n);
    SP_TRY(forward_of(net, l->z, l->r, SP_HEAD_STATE, n, false));
    SP_TRY(forward_of(net, l->z, l->e, SP_HEAD_TOKEN, n, true));
    rms(net, l->n, l->inv_z, l->z, n);
    SP_TRY(forward_of(net, l->gate, l->n, SP_HEAD_GATE, n, false));
    SP_TRY(forward_of(net, l->up, l->n, SP_HEAD_UP, n, false));
    glu_job glu = {.gate = l->gate, .up = l->up, .a = l->a};
    sp_pool_run(sp_dev_cpu_pool(net->dev), glu_part, &glu, n * net->shape.n_ff, 4096);
    SP_TRY(forward_of(net, l->z, l->a, SP_HEAD_DOWN, n, true));
    rms(net, l->o, l->inv_o, l->z, n);
    for (size_t i = 0; i < n * n_embd; i++)
        net->tmp[i] = l->o[i] * norm[i % n_embd];
    SP_TRY(product(net, net->logits, net->tmp, net->out, n_tok, n_embd, n, false));
    loss_job j = {net, b->want[k], got, WEIGHT[k] / (float)n};
    for_rows(net, loss_part, &j, n);
    for (size_t i = 0; i < n; i++)
        *loss += net->loss[i] / (float)(n * SP_HEAD_DEPTH);
    return learn ? product(net, l->d_o, net->logits, net->out_t, n_embd, n_tok, n, false) : SP_OK;
}

/* --- backward -----------------------------------------------------------------------------------
 */

/* One depth: net->ds comes as the gradient at its s', and leaves as that at its s. */
static sp_err back_level(sp_head_net *net, size_t k, size_t n)
{
    level *l = &net->level[k];
    size_t n_embd = net->shape.n_embd;
    const float *norm = net->p + net->at[SP_HEAD_MATS];
    float *d_norm = net->grad + net->at[SP_HEAD_MATS];
    for (size_t i = 0; i < n * n_embd; i++) {
        d_norm[i % n_embd] += l->d_o[i] * l->o[i];
        net->tmp[i] = l->d_o[i] * norm[i % n_embd];
    }
    rms_back(net, net->ds, net->tmp, l->o, l->inv_o, n);
    SP_TRY(learn_of(net, SP_HEAD_DOWN, net->ds, l->a, n));
    SP_TRY(back_of(net, net->da, net->ds, SP_HEAD_DOWN, n, false));
    glu_job glu = {.gate = l->gate,
                   .up = l->up,
                   .d_a = net->da,
                   .d_gate = net->dg,
                   .d_up = net->du};
    sp_pool_run(sp_dev_cpu_pool(net->dev), glu_back_part, &glu, n * net->shape.n_ff, 4096);
    SP_TRY(learn_of(net, SP_HEAD_GATE, net->dg, l->n, n));
    SP_TRY(learn_of(net, SP_HEAD_UP, net->du, l->n, n));
    SP_TRY(back_of(net, net->dn, net->dg, SP_HEAD_GATE, n, false));
    SP_TRY(back_of(net, net->dn, net->du, SP_HEAD_UP, n, true));
    rms_back(net, net->ds, net->dn, l->n, l->inv_z, n); /* z feeds s' too: ds is its gradient */
    SP_TRY(learn_of(net, SP_HEAD_STATE, net->ds, l->r, n));
    SP_TRY(learn_of(net, SP_HEAD_TOKEN, net->ds, l->e, n));
    SP_TRY(back_of(net, net->dz, net->ds, SP_HEAD_STATE, n, false));
    memset(net->ds, 0, n * n_embd * sizeof *net->ds);
    rms_back(net, net->ds, net->dz, l->r, l->inv_s, n);
    return SP_OK;
}

sp_err sp_head_net_run(sp_head_net *net, const sp_head_batch *b, bool learn, uint32_t *got,
                       float *loss)
{
    *loss = 0;
    SP_ASSERT(b->n > 0 && b->n <= net->cap);
    SP_TRY(forward_of(net, net->s0, b->x, SP_HEAD_TAP, b->n, false));
    const float *s = net->s0;
    for (size_t k = 0; k < SP_HEAD_DEPTH; k++) {
        SP_TRY(run_level(net, k, s, b, learn, got ? got + k * net->cap : NULL, loss));
        s = net->level[k].z;
    }
    if (!learn)
        return SP_OK;
    memset(net->ds, 0, b->n * net->shape.n_embd * sizeof *net->ds);
    for (size_t k = SP_HEAD_DEPTH; k-- > 0;)
        SP_TRY(back_level(net, k, b->n));
    return learn_of(net, SP_HEAD_TAP, net->ds, b->x, b->n);
}

/* --- steps --------------------------------------------------------------------------------------
 */

typedef struct adam_job {
    sp_head_net *net;
    float rate, scale, fix1, fix2;
} adam_job;

static void adam_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const adam_job *j = arg;
    sp_head_net *net = j->net;
    (void)i_thread;
    for (size_t i = begin; i < end; i++) {
        float g = net->grad[i] * j->scale;
        net->m1[i] = BETA1 * net->m1[i] + (1 - BETA1) * g;
        net->m2[i] = BETA2 * net->m2[i] + (1 - BETA2) * g * g;
        net->p[i] -= j->rate * (net->m1[i] * j->fix1) / (sqrtf(net->m2[i] * j->fix2) + TINY);
        net->grad[i] = 0;
    }
}

typedef struct narrow_job {
    uint16_t *out;
    const float *x;
} narrow_job;

static void narrow_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    const narrow_job *j = arg;
    (void)i_thread;
    for (size_t i = begin; i < end; i++)
        j->out[i] = to_bf16(j->x[i]);
}

/* Brings the copies of the weights up to date. */
static void copy_weights(sp_head_net *net)
{
    for (sp_head_mat i = 0; i < SP_HEAD_MATS; i++) {
        size_t rows = sp_head_rows(&net->shape, i), cols = sp_head_cols(&net->shape, i);
        narrow_job j = {net->w[i], net->p + net->at[i]};
        sp_pool_run(sp_dev_cpu_pool(net->dev), narrow_part, &j, rows * cols, 4096);
        turn(net, net->wt[i], true, net->p + net->at[i], rows, cols);
    }
}

sp_err sp_head_net_step(sp_head_net *net, float rate)
{
    double square = 0;
    for (size_t i = 0; i < net->n_param; i++)
        square += (double)net->grad[i] * (double)net->grad[i];
    if (!isfinite(square))
        return SP_FORMAT;
    float size = (float)sqrt(square), t = (float)++net->n_step;
    adam_job j = {.net = net,
                  .rate = rate,
                  .scale = size > CLIP ? CLIP / size : 1,
                  .fix1 = 1 / (1 - powf(BETA1, t)),
                  .fix2 = 1 / (1 - powf(BETA2, t))};
    sp_pool_run(sp_dev_cpu_pool(net->dev), adam_part, &j, net->n_param, 4096);
    copy_weights(net);
    return SP_OK;
}

void sp_head_net_weights(const sp_head_net *net, const float *mat[SP_HEAD_MATS], const float **norm)
{
    for (sp_head_mat i = 0; i < SP_HEAD_MATS; i++)
        mat[i] = net->p + net->at[i];
    *norm = net->p + net->at[SP_HEAD_MATS];
}

/* --- building -----------------------------------------------------------------------------------
 */

static bool has(void *out, size_t n, size_t each)
{
    void *p = sp_mem_array(n, each);
    memcpy(out, &p, sizeof p);
    return p;
}

static bool has_level(level *l, size_t cap, size_t n_embd, size_t n_ff)
{
    float **const narrow[] = {&l->r, &l->e, &l->z, &l->n, &l->o, &l->d_o};
    float **const wide[] = {&l->gate, &l->up, &l->a};
    float **const one[] = {&l->inv_s, &l->inv_z, &l->inv_o};
    bool ok = true;
    for (size_t i = 0; i < 6; i++)
        ok = has(narrow[i], cap * n_embd, sizeof(float)) && ok;
    for (size_t i = 0; i < 3; i++)
        ok = has(wide[i], cap * n_ff, sizeof(float)) && has(one[i], cap, sizeof(float)) && ok;
    return ok;
}

static bool has_all(sp_head_net *net)
{
    const sp_head_shape *s = &net->shape;
    size_t cap = net->cap, wide = s->n_ff > s->n_embd ? s->n_ff : s->n_embd;
    size_t widest = wide > s->n_tap * s->n_embd ? wide : s->n_tap * s->n_embd;
    float **const list[] = {&net->p, &net->grad, &net->m1, &net->m2};
    float **const rows[] = {&net->s0, &net->ds, &net->dz, &net->dn, &net->tmp};
    float **const ff[] = {&net->da, &net->dg, &net->du};
    bool ok = has(&net->logits, cap * s->n_tok, sizeof(float)) &&
              has(&net->turned, cap * wide, sizeof(float)) && has(&net->loss, cap, sizeof(float)) &&
              has(&net->narrow, cap * widest, sizeof(uint16_t)) &&
              has(&net->out, s->n_tok * s->n_embd, sizeof(uint16_t)) &&
              has(&net->out_t, s->n_tok * s->n_embd, sizeof(uint16_t));
    for (size_t i = 0; i < 4; i++)
        ok = has(list[i], net->n_param, sizeof(float)) && ok;
    for (size_t i = 0; i < 5; i++)
        ok = has(rows[i], cap * s->n_embd, sizeof(float)) && ok;
    for (size_t i = 0; i < 3; i++)
        ok = has(ff[i], cap * s->n_ff, sizeof(float)) && ok;
    for (sp_head_mat i = 0; i < SP_HEAD_MATS; i++) {
        size_t n = sp_head_rows(s, i) * sp_head_cols(s, i);
        ok = has(&net->w[i], n, sizeof(uint16_t)) && has(&net->wt[i], n, sizeof(uint16_t)) && ok;
    }
    for (size_t k = 0; k < SP_HEAD_DEPTH; k++)
        ok = has_level(&net->level[k], cap, s->n_embd, s->n_ff) && ok;
    return ok;
}

/* A normal number. */
static float draw(sp_rng *r)
{
    double u = sp_rng_unit(r), v = sp_rng_unit(r);
    return (float)(sqrt(-2 * log(u + 1e-300)) * cos(6.283185307179586 * v));
}

/* Weights begin at random; the last layer's state is passed on as it is, and what comes next is
 * read with the model's own norm. */
static void begin_weights(sp_head_net *net, uint64_t seed)
{
    sp_rng r;
    const sp_head_shape *s = &net->shape;
    sp_rng_init(&r, seed);
    for (sp_head_mat i = 0; i < SP_HEAD_MATS; i++) {
        size_t rows = sp_head_rows(s, i), cols = sp_head_cols(s, i);
        float spread = SPREAD / sqrtf((float)cols) * (i == SP_HEAD_TAP ? 0.1f : 1);
        for (size_t e = 0; e < rows * cols; e++)
            net->p[net->at[i] + e] = spread * draw(&r);
    }
    for (size_t e = 0; e < s->n_embd; e++)
        net->p[net->at[SP_HEAD_TAP] + e * s->n_tap * s->n_embd + (s->n_tap - 1) * s->n_embd + e] +=
            1;
    const float *norm = sp_model_output_norm(net->model);
    for (size_t e = 0; e < s->n_embd; e++)
        net->p[net->at[SP_HEAD_MATS] + e] = norm ? norm[e] : 1;
    copy_weights(net);
}

static sp_err read_output(sp_head_net *net, const uint32_t *tok)
{
    size_t n_embd = net->shape.n_embd, n_tok = net->shape.n_tok;
    float *rows = sp_mem_raw(n_tok * n_embd * sizeof *rows);
    sp_err err = rows ? sp_model_output_rows(net->model, rows, tok, n_tok) : SP_NOMEM;
    if (err == SP_OK) {
        narrow_job j = {net->out, rows};
        sp_pool_run(sp_dev_cpu_pool(net->dev), narrow_part, &j, n_tok * n_embd, 4096);
        turn(net, net->out_t, true, rows, n_tok, n_embd);
    }
    sp_mem_free(rows);
    return err;
}

sp_err sp_head_net_new(sp_head_net **out, const sp_model *m, sp_dev *dev,
                       const sp_head_shape *shape, const uint32_t *tok, size_t cap, uint64_t seed,
                       sp_diag *d)
{
    if (!sp_dev_cpu_pool(dev))
        return SP_FAIL(d, SP_UNSUP, "draft heads are trained on the CPU");
    sp_head_net *net = sp_mem_alloc(sizeof *net);
    if (!net)
        return SP_FAIL(d, SP_NOMEM, "draft head");
    *net = (sp_head_net){.dev = dev, .model = m, .shape = *shape, .cap = cap};
    for (sp_head_mat i = 0; i < SP_HEAD_MATS; i++)
        net->at[i + 1] = net->at[i] + sp_head_rows(shape, i) * sp_head_cols(shape, i);
    net->n_param = net->at[SP_HEAD_MATS] + shape->n_embd;
    if (!has_all(net) || read_output(net, tok) != SP_OK) {
        sp_head_net_free(net);
        return SP_FAIL(d, SP_NOMEM, "training a draft head");
    }
    begin_weights(net, seed);
    *out = net;
    return SP_OK;
}

static void free_level(const level *l)
{
    void *const all[] = {l->r, l->e, l->z, l->n, l->gate, l->up, l->a, l->o, l->d_o,
                         l->inv_s, l->inv_z, l->inv_o};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        sp_mem_free(all[i]);
}

void sp_head_net_free(sp_head_net *net)
{
    if (!net)
        return;
    void *const all[] = {net->p,  net->grad, net->m1, net->m2, net->out,    net->out_t,  net->s0,
                         net->logits, net->ds, net->dz, net->dn, net->da, net->dg,
                         net->du, net->tmp,  net->turned, net->narrow, net->loss};
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        sp_mem_free(all[i]);
    for (size_t i = 0; i < SP_HEAD_MATS; i++) {
        sp_mem_free(net->w[i]);
        sp_mem_free(net->wt[i]);
    }
    for (size_t k = 0; k < SP_HEAD_DEPTH; k++)
        free_level(&net->level[k]);
    sp_mem_free(net);
}
