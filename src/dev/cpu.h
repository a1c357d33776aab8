/* The CPU device's parts, shared by its files. Only dev/ includes this.
 * Guard: everything belongs to the thread that drives the device; scratch of a worker is indexed by
 * i_thread. */
#ifndef SP_DEV_CPU_H
#define SP_DEV_CPU_H

#include "base/clock.h"
#include "dev/cpu_mem.h"
#include "dev/dev.h"

#include <math.h>

enum { CPU_KEPT = 3 /* values of sp_dev_attn.kept */ };
enum {
    CPU_MIN_TILES = 4, /* tiles of weights below which a second thread costs more than it brings */
    /* inputs that one output of a convolution sees; model/arch.c reads no more */
    CPU_MAX_TAP = 64,
    CPU_STATE_TOK = 16 /* tokens that pass a head's state at a time */
};

typedef struct cpu_dev {
    sp_dev dev; /* first */
    sp_kern kern;
    sp_pool *pool;
    char **scratch; /* [n_thread] */
    size_t *scratch_bytes;
    sp_kern_acts acts; /* quantised input of a matmul */
    size_t acts_bytes;
    float *xin; /* its f32 input, where one is computed */
    size_t xin_bytes;
    uint16_t *narrow; /* its bf16 input */
    size_t narrow_bytes;
    sp_slabs slabs;
    char *part; /* states of attention over parts of the keys */
    size_t part_bytes;
    /* plain pages of one layer that fill up within a call; by sp_dev_attn.kept */
    char *own[CPU_KEPT];
    size_t own_bytes[CPU_KEPT];
    void *select; /* pages that long prompts attend */
    size_t select_bytes;
    void *sparse; /* scans of certified attention */
    size_t sparse_bytes;
    void *experts; /* choices of experts, and what these compute */
    size_t experts_bytes;
    void *heads; /* products of heads */
    size_t heads_bytes;
} cpu_dev;

/* Are pages in a format of their own, rotated, and the one that is being filled beside them? */
static inline bool cpu_has_open(const sp_dev_kv_view *kv)
{
    return kv->is_planes || kv->is_fp8;
}

/* Grows every thread's scratch before a parallel part, which then cannot fail. */
SP_MUST sp_err cpu_scratch_reserve(cpu_dev *c, size_t n_bytes);
/* Grows one 64-byte aligned buffer; contents are lost. */
SP_MUST sp_err cpu_grow(void **p, size_t *have, size_t need);

/* Rows that meet weights, in the forms which these want: 8 bits (acts), bf16 (narrow), f32. They
 * lie in the device's buffers, which the next input takes over; f32 rows that nothing is done to
 * are used where they are. */
typedef struct cpu_input {
    cpu_dev *c;
    size_t k;
    const float *x; /* f32 rows, ld_x apart */
    size_t ld_x;
    bool want_q, want_f, want_narrow;
} cpu_input;

/* Before reserve: w is one of those that the rows meet. */
void cpu_input_want(cpu_input *in, const sp_dev_weight *w);
/* Room for n_row rows. computed: f32 rows are made by cpu_input_row, too; else in->x and ld_x are
 * given. */
SP_MUST sp_err cpu_input_reserve(cpu_input *in, size_t n_row, bool computed);
/* Where row t of computed rows is to be made; it is then given to cpu_input_put by the same
 * thread. */
float *cpu_input_row(const cpu_input *in, size_t t, size_t i_thread);
void cpu_input_put(const cpu_input *in, size_t t, const float *x);
/* Row `to` becomes row `from`, which was computed and put. */
void cpu_input_copy(const cpu_input *in, size_t to, size_t from);
/* out[t * w->n_row + r] = (or, with add, +=) row r of w times row first + t of the input, for all t
 * < n_tok and rows r of the n_tile tiles of 16 from i_tile on. */
void cpu_product(const cpu_input *in, const sp_dev_weight *w, float *out, size_t i_tile,
                 size_t n_tile, size_t first, size_t n_tok, bool add);

/* Rows [first, first + n) of a matrix, without its scale; in packed types `first` is a multiple of
 * 16. */
static inline sp_dev_weight cpu_rows_of(const sp_dev_weight *w, size_t first, size_t n)
{
    size_t tile =
        sp_pack_is(w->type) ? first / SP_TILE_ROWS * sp_pack_tile_bytes(w->type, w->k) : 0;
    size_t bytes = sp_pack_is(w->type) ? tile : first * sp_type_row_bytes(w->type, w->k);
    return (sp_dev_weight){
        .data = (const char *)w->data + bytes, .type = w->type, .n_row = n, .k = w->k};
}

/* Turns one head of first + d_rot or more elements by one row of rope_table. */
static inline void cpu_turn(const sp_kern *kern, float *x, const sp_dev_turn *turn, const float *cs)
{
    size_t half = turn->d_rot / 2;
    x += turn->first;
    if (turn->halves) {
        kern->turn_halves(x, cs, half);
        return;
    }
    for (size_t i = 0; i < half; i++, x += 2) {
        float a = x[0], b = x[1];
        x[0] = a * cs[i] - b * cs[half + i];
        x[1] = a * cs[half + i] + b * cs[i];
    }
}

/* Books what a stage took since `from` (sp_clock_ns), when somebody asks. */
static inline uint64_t cpu_stat_begin(const sp_dev *dev)
{
    return dev->stat ? sp_clock_ns() : 0;
}
static inline void cpu_stat_end(sp_dev *dev, sp_dev_stage stage, uint64_t from, double bytes,
                                double macs)
{
    if (!dev->stat)
        return;
    dev->stat[stage].ns += sp_clock_ns() - from;
    dev->stat[stage].bytes += bytes;
    dev->stat[stage].macs += macs;
}

/* Operations of dev.h, as the others of this name here. */
size_t cpu_weight_bytes(sp_dev *dev, sp_type type, size_t n_row, size_t k);
sp_err cpu_weight_put(sp_dev *dev, sp_dev_weight *out, void *at, sp_type type, const void *rows,
                      size_t n_row, size_t k);
sp_err cpu_embed(sp_dev *dev, float *out, const sp_dev_weight *w, const uint32_t *id, size_t n,
                 float scale);
sp_err cpu_embed_part(sp_dev *dev, const sp_dev_embed_part *a);
sp_err cpu_matmul(sp_dev *dev, const sp_dev_matmul *a);
sp_err cpu_experts(sp_dev *dev, const sp_dev_experts *a);
sp_err cpu_each_head(sp_dev *dev, const sp_dev_each_head *a);

/* One expert of a layer that lies on a shelf. */
typedef struct cpu_slot {
    sp_dev_weight w[3]; /* as its matrices were given to cpu_shelf_bring */
    uint64_t used;      /* the last call that needed it; 0: empty */
    uint32_t id;
} cpu_slot;

sp_err cpu_shelf_new(sp_dev *dev, sp_dev_shelf **out, size_t n_expert, size_t n_room,
                     size_t each_bytes);
void cpu_shelf_free(sp_dev *dev, sp_dev_shelf *s);
/* Sees to it that experts first + busy[i] are there. w: tall matrices in the file, with each[i]
 * rows for an expert. SP_NOMEM: they are not; what is there is whole. */
SP_MUST sp_err cpu_shelf_bring(cpu_dev *c, sp_dev_shelf *s, size_t first, const uint32_t *busy,
                               size_t n_busy, const sp_dev_weight *const *w, const size_t *each,
                               size_t n_w);
/* which was brought by the last call */
const cpu_slot *cpu_shelf_at(const sp_dev_shelf *s, size_t id);

sp_err cpu_attn_paged(sp_dev *dev, const sp_dev_attn *a);
sp_err cpu_kv_move(sp_dev *dev, const sp_dev_kv_view *kv, size_t n_layer, const sp_dev_span *to,
                   const sp_dev_span *from, const sp_dev_turn *turn);
sp_err cpu_attn_full(sp_dev *dev, const sp_dev_attn_full *a);
/* Tokens [row, row + n) of the batch, n <= CPU_STATE_TOK, change one head's state. */
typedef void cpu_state_block(void *arg, float *state, size_t row, size_t n);
/* All tokens of a span pass the n_bytes of state that lie at byte `at` of a state; blocks end where
 * the span leaves a mark, which gets a copy. */
void cpu_state_walk(const sp_dev_span *s, size_t at, size_t n_bytes, cpu_state_block *block,
                    void *arg);
/* Operations of dev.h. */
sp_err cpu_conv(sp_dev *dev, const sp_dev_conv *a);
sp_err cpu_delta(sp_dev *dev, const sp_dev_delta *a);
sp_err cpu_ssm(sp_dev *dev, const sp_dev_ssm *a);
/* ln(1 + e^x) */
static inline float cpu_soft_plus(float x)
{
    return x > 20 ? x : log1pf(expf(x));
}
sp_err cpu_gate(sp_dev *dev, const sp_dev_gate *a);
sp_err cpu_halve(sp_dev *dev, float *first, float *second, const float *x, size_t n_row,
                 size_t n_head, size_t d);

#endif
