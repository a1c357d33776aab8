/* The CUDA device's parts, shared by its files. Only dev/cuda/ includes this.
 * Owner: everything belongs to the thread that drives the device. */
#ifndef SP_DEV_CUDA_CUDA_H
#define SP_DEV_CUDA_CUDA_H

#include "dev/cuda/lib.h"
#include "dev/dev.h"

/* Memory that grows to the largest call seen. */
typedef struct cuda_buf {
    void *p;
    size_t n_bytes;
} cuda_buf;

enum { CUDA_KEPT = 3 /* values of sp_dev_attn.kept */ };

typedef struct cuda_dev {
    sp_dev dev;   /* first */
    void *handle; /* of the library */
    const sp_cuda_lib *lib;
    sp_kern kern; /* the host's; isa is the library's name */
    sp_pool *pool;
    cuda_buf ids, pos, freq;     /* copies of host arrays */
    cuda_buf codes, code_unit;   /* rows that go into products of e4m3 */
    cuda_buf hi, lo, half, unit; /* rows that go into products: two bf16 terms, f16 and its units */
    cuda_buf passes; /* sequences that pass states, and where copies go */
    cuda_buf routes, slots, scales; /* of experts: choices; rows of slots; factors */
    cuda_buf qh, state, items, ends, stores, tab;
    cuda_buf best, temperatures; /* of rows of logits */
    cuda_buf moves, moved; /* pages whose keys and values move; their rows */
    cuda_buf own[CUDA_KEPT];  /* plain pages that fill up within a call; by sp_dev_attn.kept */
    struct cuda_lists *lists; /* what items, ends, stores and tab hold, in host memory */
    struct cuda_cert *cert;   /* of cuda_cert.c */
    struct cuda_keep *keep;   /* of cuda_keep.c */
} cuda_dev;

/* SP_DEV for an error number of the library, which is logged with what was tried. */
SP_MUST sp_err cuda_try(const cuda_dev *c, int err, const char *what);
/* Grows a buffer; contents are lost. */
SP_MUST sp_err cuda_grow(cuda_dev *c, cuda_buf *b, size_t n_bytes);
/* Makes a buffer hold n_bytes of the host's. */
SP_MUST sp_err cuda_put(cuda_dev *c, cuda_buf *b, const void *host, size_t n_bytes);
/* *out: n elements of `each` bytes of a buffer, in memory that the caller frees; NULL after an
 * error. */
SP_MUST sp_err cuda_get(cuda_dev *c, void **out, const cuda_buf *b, size_t n, size_t each);

/* Books what a stage took when somebody asks, which waits for the device. */
uint64_t cuda_stat_begin(const sp_dev *dev);
void cuda_stat_end(sp_dev *dev, sp_dev_stage stage, uint64_t from, double bytes, double macs);

/* A weight as kernels see it, and whether its products take rows of two bf16 terms. */
sp_cuda_rows cuda_rows(const sp_dev_weight *w);
bool cuda_takes_two(const sp_dev_weight *w);
/* A row of the file as f32 [k]; out has cuda_wide_bytes. */
void cuda_widen(const cuda_dev *c, float *out, sp_type type, const char *row, size_t k);
size_t cuda_wide_bytes(sp_type type, size_t k);
/* The product of a->w[i], which is held as e4m3, and rows that cuda_fp8_prepare has made ready. */
SP_MUST sp_err cuda_fp8_prepare(cuda_dev *c, sp_cuda_prep p);
SP_MUST sp_err cuda_fp8_product(cuda_dev *c, const sp_dev_matmul *a, size_t i);
/* Makes rows ready for products, in c->hi and c->lo, or, not two, in c->half and c->unit. Of p are
 * given x, row, norm, eps, up, act, n_row, k and, where rows do not lie side by side, ld. */
SP_MUST sp_err cuda_prepare(cuda_dev *c, sp_cuda_prep p, bool two);

/* Operations of dev.h. */
size_t cuda_weight_bytes(sp_dev *dev, sp_type type, size_t n_row, size_t k);
sp_err cuda_weight_put(sp_dev *dev, sp_dev_weight *out, void *at, sp_type type, const void *rows,
                       size_t n_row, size_t k);
size_t cuda_fp8_bytes(sp_dev *dev, size_t n_row, size_t k);
sp_err cuda_fp8_put(sp_dev *dev, sp_dev_weight *out, void *at, sp_type type, const void *rows,
                    size_t n_row, size_t k);
sp_err cuda_embed(sp_dev *dev, float *out, const sp_dev_weight *w, const uint32_t *id, size_t n,
                  float scale);
sp_err cuda_embed_part(sp_dev *dev, const sp_dev_embed_part *a);
sp_err cuda_matmul(sp_dev *dev, const sp_dev_matmul *a);
sp_err cuda_each_head(sp_dev *dev, const sp_dev_each_head *a);
sp_err cuda_conv(sp_dev *dev, const sp_dev_conv *a);
sp_err cuda_delta(sp_dev *dev, const sp_dev_delta *a);
sp_err cuda_ssm(sp_dev *dev, const sp_dev_ssm *a);
sp_err cuda_experts(sp_dev *dev, const sp_dev_experts *a);
sp_err cuda_attn_paged(sp_dev *dev, const sp_dev_attn *a);
sp_err cuda_kv_move(sp_dev *dev, const sp_dev_kv_view *kv, size_t n_layer, const sp_dev_span *to,
                    const sp_dev_span *from, const sp_dev_turn *turn);
/* Adds up what calls before left on the device: of certified steps and, by cuda_keep_settle, of
 * pages that were chosen. */
sp_err cuda_settle(sp_dev *dev);
SP_MUST sp_err cuda_keep_settle(cuda_dev *c);

/* When the device is closed; NULL, or nothing made, is fine. */
void cuda_lists_free(struct cuda_lists *l);
void cuda_cert_free(cuda_dev *c);
void cuda_keep_free(cuda_dev *c);

#endif
