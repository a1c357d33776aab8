/* Memory, errors and the table of lib.h: through the CUDA runtime where nvcc reads this, else
 * through mmap with a guard page behind every allocation. */
#include "dev/cuda/simt.h"

#include <stdio.h>
#include <string.h>
#ifndef __CUDACC__
#include <sys/mman.h>
#endif

namespace
{

#ifdef __CUDACC__

int open_device(char *why, size_t n)
{
    int count = 0, major = 0, minor = 0;
    cudaError_t err = cudaGetDeviceCount(&count);
    if (err == cudaErrorInsufficientDriver)
        snprintf(why, n, "no driver, or one that is older than this library needs");
    else if (err == cudaErrorNoDevice || (err == cudaSuccess && count == 0))
        snprintf(why, n, "no device");
    else if (err != cudaSuccess)
        snprintf(why, n, "%s", cudaGetErrorString(err));
    if (err != cudaSuccess || count == 0)
        return 1;
    if ((err = cudaSetDevice(0)) == cudaSuccess)
        err = cudaDeviceGetAttribute(&major, cudaDevAttrComputeCapabilityMajor, 0);
    if (err == cudaSuccess)
        err = cudaDeviceGetAttribute(&minor, cudaDevAttrComputeCapabilityMinor, 0);
    if (err == cudaSuccess && major < 8) {
        snprintf(why, n, "the device has compute capability %d.%d; 8.0 is needed", major, minor);
        return 1;
    }
    if (err == cudaSuccess && !sp_cuda_stream)
        err = cudaStreamCreateWithFlags(&sp_cuda_stream, cudaStreamNonBlocking);
    if (err != cudaSuccess)
        snprintf(why, n, "%s", cudaGetErrorString(err));
    return err != cudaSuccess;
}

const char *error_text(int err)
{
    return cudaGetErrorString((cudaError_t)err);
}

int mem_new(void **out, size_t n_bytes, sp_cuda_mem kind)
{
    size_t n = n_bytes ? n_bytes : 1;
    return (int)(kind == SP_CUDA_PAGED ? cudaMallocManaged(out, n, cudaMemAttachGlobal)
                                       : cudaMalloc(out, n));
}
int mem_free(void *p)
{
    return (int)cudaFree(p);
}
int wait_all(void)
{
    return (int)cudaStreamSynchronize(sp_cuda_stream);
}
int move(void *to, const void *from, size_t n, cudaMemcpyKind kind)
{
    cudaError_t err = cudaMemcpyAsync(to, from, n, kind, sp_cuda_stream);
    return err == cudaSuccess && kind != cudaMemcpyDeviceToDevice ? wait_all() : (int)err;
}
int mem_read(void *host, const void *p, size_t n_bytes)
{
    return move(host, p, n_bytes, cudaMemcpyDeviceToHost);
}
int mem_write(void *p, const void *host, size_t n_bytes)
{
    return move(p, host, n_bytes, cudaMemcpyHostToDevice);
}
int mem_copy(void *to, const void *from, size_t n_bytes)
{
    return move(to, from, n_bytes, cudaMemcpyDeviceToDevice);
}
int mem_zero(void *p, size_t n_bytes)
{
    return (int)cudaMemsetAsync(p, 0, n_bytes, sp_cuda_stream);
}

#define LIB_NAME "cuda"

#else

enum { PAGE = 4096 };

int open_device(char *why, size_t n)
{
    (void)why;
    (void)n;
    return 0;
}
const char *error_text(int err)
{
    return err == SP_SIMT_FULL   ? "out of memory"
           : err == SP_SIMT_LOST ? "the device is lost"
                                 : "no error";
}

/* The end of the memory lies before a page that cannot be touched, up to 63 bytes. What is not
 * zeroed holds NaNs. */
int mem_new(void **out, size_t n_bytes, sp_cuda_mem)
{
    if (int full = sp_simt_fault_now(SP_SIMT_FULL))
        return full;
    size_t n = (n_bytes + 63) & ~(size_t)63, all = (n + PAGE - 1) / PAGE * PAGE;
    char *p = static_cast<char *>(
        mmap(NULL, all + 2 * PAGE, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0));
    if (p == MAP_FAILED)
        return SP_SIMT_FULL;
    memcpy(p, &all, sizeof all);
    if (mprotect(p, PAGE, PROT_READ) != 0 || mprotect(p + PAGE + all, PAGE, PROT_NONE) != 0) {
        munmap(p, all + 2 * PAGE);
        return SP_SIMT_FULL;
    }
    *out = p + PAGE + all - n;
    memset(*out, 0xff, n);
    return 0;
}
int mem_free(void *p)
{
    if (!p)
        return 0;
    char *page = reinterpret_cast<char *>((uintptr_t)p & ~(uintptr_t)(PAGE - 1));
    size_t all;
    memcpy(&all, page - PAGE, sizeof all);
    return munmap(page - PAGE, all + 2 * PAGE) != 0;
}
int wait_all(void)
{
    return sp_simt_fault_now(SP_SIMT_LOST);
}
int mem_read(void *host, const void *p, size_t n_bytes)
{
    memcpy(host, p, n_bytes);
    return wait_all();
}
int mem_write(void *p, const void *host, size_t n_bytes)
{
    memcpy(p, host, n_bytes);
    return wait_all();
}
int mem_copy(void *to, const void *from, size_t n_bytes)
{
    memmove(to, from, n_bytes);
    return wait_all();
}
int mem_zero(void *p, size_t n_bytes)
{
    memset(p, 0, n_bytes);
    return wait_all();
}

#define LIB_NAME "cuda_host"

#endif

const sp_cuda_lib library = {SP_CUDA_VERSION,
                             LIB_NAME,
                             open_device,
                             error_text,
                             mem_new,
                             mem_free,
                             mem_read,
                             mem_write,
                             mem_copy,
                             mem_zero,
                             wait_all,
                             sp_cuda_embed_run,
                             sp_cuda_prep_run,
                             sp_cuda_product_run,
                             sp_cuda_choose_run,
                             sp_cuda_sort_run,
                             sp_cuda_gather_run,
                             sp_cuda_conv_run,
                             sp_cuda_delta_run,
                             sp_cuda_ssm_run,
                             sp_cuda_norm_run,
                             sp_cuda_table_run,
                             sp_cuda_heads_run,
                             sp_cuda_join_run,
                             sp_cuda_gate_run,
                             sp_cuda_soft_cap_run,
                             sp_cuda_add_run,
                             sp_cuda_halve_run,
                             sp_cuda_store_run,
                             sp_cuda_query_run,
                             sp_cuda_attn_run,
                             sp_cuda_cert_run,
                             sp_cuda_attn_end_run,
                             sp_cuda_full_run};

} // namespace

#ifdef __CUDACC__
extern "C" {
cudaStream_t sp_cuda_stream;
}
#endif

extern "C" __attribute__((visibility("default"))) const sp_cuda_lib *sp_cuda_library(void)
{
    return &library;
}
