/* What the tests of the CUDA device share: it beside the CPU device, arrays in device memory,
 * orders of threads. */
#ifndef TEST_CUDA_H
#define TEST_CUDA_H

#include "test.h"

#include "base/mem.h"
#include "kv/page.h"

#include <math.h>

typedef struct devices {
    sp_dev *cuda, *cpu;
} devices;

devices open_devices(void);
void close_devices(devices *d);
/* In which order threads and blocks take turns from here on; 0: as they are numbered. */
void set_order(unsigned seed);
enum { ORDERS = 4 };
static const unsigned orders[ORDERS] = {0, 1, 7, 23};

/* A copy in device memory, which lasts until done(). */
void *on(sp_dev *dev, const void *p, size_t n_bytes);
void done(void);
void get(sp_dev *dev, void *host, const void *p, size_t n_bytes);

/* |got - want| <= tol for all, and none is a NaN. */
void check_near(const char *what, const float *got, const double *want, size_t n, double tol);

/* cuda_experts.c */
void test_cuda_experts(void **state);

/* cuda_fp8.c */
void test_cuda_fp8(void **state);
void test_cuda_fp8_beside(void **state);

/* cuda_state.c */
void test_cuda_states(void **state);

/* cuda_attn.c */
void test_pages_are_those_of_the_cpu(void **state);
void test_cuda_attention(void **state);
void test_cuda_chunks_change_no_bit(void **state);
void test_cuda_attention_without_pages(void **state);
void test_cuda_moved(void **state);
void test_cuda_chosen_pages(void **state);

/* cuda_latent.c */
void test_cuda_latents(void **state);
void test_cuda_latent_chunks_change_no_bit(void **state);
void test_cuda_latent_pages_are_those_of_the_cpu(void **state);
void test_cuda_products_of_heads(void **state);

/* cuda_cert.c */
void test_cuda_certified_steps(void **state);
void test_cuda_certified_heads(void **state);
void test_cuda_dense_after_all(void **state);
void test_cuda_bound_is_met(void **state);

#endif
