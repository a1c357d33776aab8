/* Memory, errors and the table of lib.h: through the CUDA runtime where nvcc reads this, else
 * through mmap with a guard page behind every allocation. */
#include "dev/cuda/simt.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#ifndef __CUDACC__
#include <sys/mman.h>
#endif

namespace
{

#ifdef __CUDACC__

bool has_wgmma;

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
    has_wgmma = major == 9 && minor == 0; /* 9.0 runs what is built for sm_90a */
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
int free_now(void *p)
{
    return (int)cudaFree(p);
}
int read_now(void *host, const void *p, size_t n_bytes)
{
    cudaError_t err =
        cudaMemcpyAsync(host, p, n_bytes, cudaMemcpyDeviceToHost, sp_cuda_stream);
    return err == cudaSuccess ? sp_cuda_wait() : (int)err;
}

dim3 grid_of(const sp_cuda_node *n)
{
    return dim3(n->n_x, n->n_y);
}
cudaMemcpyKind way_of(const sp_cuda_node *n)
{
    return n->kind == SP_CUDA_WRITE ? cudaMemcpyHostToDevice : cudaMemcpyDeviceToDevice;
}
cudaMemsetParams zeros_of(const sp_cuda_node *n)
{
    cudaMemsetParams p = {};
    p.dst = n->to;
    p.elementSize = 1;
    p.width = n->n_bytes;
    p.height = 1;
    return p;
}
cudaKernelNodeParams launch_of(const sp_cuda_node *n, void **args)
{
    cudaKernelNodeParams p = {};
    *args = const_cast<char *>(n->args);
    p.func = const_cast<void *>(n->kernel);
    p.gridDim = grid_of(n);
    p.blockDim = dim3(n->n_thread);
    p.sharedMemBytes = (unsigned)n->shared_bytes;
    p.kernelParams = args;
    return p;
}

cudaError_t add_node(cudaGraph_t graph, cudaGraphNode_t *out, const cudaGraphNode_t *before,
                     const sp_cuda_node *n)
{
    size_t n_before = before != NULL;
    if (n->kind == SP_CUDA_LAUNCH) {
        void *args;
        cudaKernelNodeParams p = launch_of(n, &args);
        return cudaGraphAddKernelNode(out, graph, before, n_before, &p);
    }
    if (n->kind == SP_CUDA_ZERO) {
        cudaMemsetParams p = zeros_of(n);
        return cudaGraphAddMemsetNode(out, graph, before, n_before, &p);
    }
    return cudaGraphAddMemcpyNode1D(out, graph, before, n_before, n->to, n->from, n->n_bytes,
                                    way_of(n));
}

#define LIB_NAME "cuda"

} // namespace

void *sp_cuda_staging(size_t n_bytes)
{
    void *p = NULL;
    return cudaMallocHost(&p, n_bytes) == cudaSuccess ? p : NULL;
}

void sp_cuda_staging_free(void *p)
{
    if (p)
        (void)cudaFreeHost(p);
}

int sp_cuda_wait(void)
{
    return (int)cudaStreamSynchronize(sp_cuda_stream);
}

int sp_cuda_node_run(const sp_cuda_node *n)
{
    cudaError_t err;
    if (n->kind == SP_CUDA_LAUNCH) {
        void *args = const_cast<char *>(n->args);
        err = cudaLaunchKernel(n->kernel, grid_of(n), dim3(n->n_thread), &args, n->shared_bytes,
                               sp_cuda_stream);
    } else if (n->kind == SP_CUDA_ZERO) {
        err = cudaMemsetAsync(n->to, 0, n->n_bytes, sp_cuda_stream);
    } else {
        err = cudaMemcpyAsync(n->to, n->from, n->n_bytes, way_of(n), sp_cuda_stream);
    }
    /* the caller's memory may change when this returns */
    return err == cudaSuccess && n->kind == SP_CUDA_WRITE ? sp_cuda_wait() : (int)err;
}

struct sp_cuda_graph {
    cudaGraph_t graph;
    cudaGraphExec_t exec;
    cudaGraphNode_t *node;
};

void sp_cuda_graph_free(sp_cuda_graph *g)
{
    if (g->exec)
        (void)cudaGraphExecDestroy(g->exec);
    if (g->graph)
        (void)cudaGraphDestroy(g->graph);
    free(g->node);
    free(g);
}

int sp_cuda_graph_new(sp_cuda_graph **out, const sp_cuda_node *node, size_t n)
{
    sp_cuda_graph *g = static_cast<sp_cuda_graph *>(calloc(1, sizeof *g));
    if (!g)
        return (int)cudaErrorMemoryAllocation;
    g->node = static_cast<cudaGraphNode_t *>(calloc(n, sizeof *g->node));
    cudaError_t err = g->node ? cudaGraphCreate(&g->graph, 0) : cudaErrorMemoryAllocation;
    for (size_t i = 0; i < n && err == cudaSuccess; i++)
        err = add_node(g->graph, &g->node[i], i ? &g->node[i - 1] : NULL, &node[i]);
    if (err == cudaSuccess)
        err = cudaGraphInstantiate(&g->exec, g->graph, 0);
    if (err == cudaSuccess)
        *out = g;
    else
        sp_cuda_graph_free(g);
    return (int)err;
}

int sp_cuda_graph_set(sp_cuda_graph *g, size_t i, const sp_cuda_node *n)
{
    if (n->kind == SP_CUDA_LAUNCH) {
        void *args;
        cudaKernelNodeParams p = launch_of(n, &args);
        return (int)cudaGraphExecKernelNodeSetParams(g->exec, g->node[i], &p);
    }
    if (n->kind == SP_CUDA_ZERO) {
        cudaMemsetParams p = zeros_of(n);
        return (int)cudaGraphExecMemsetNodeSetParams(g->exec, g->node[i], &p);
    }
    return (int)cudaGraphExecMemcpyNodeSetParams1D(g->exec, g->node[i], n->to, n->from, n->n_bytes,
                                                   way_of(n));
}

int sp_cuda_graph_start(sp_cuda_graph *g)
{
    return (int)cudaGraphLaunch(g->exec, sp_cuda_stream);
}

namespace
{

#else

enum { PAGE = 4096 };
bool has_wgmma;

int open_device(char *why, size_t n)
{
    (void)why;
    (void)n;
    has_wgmma = sp_simt_major() == 9;
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
int free_now(void *p)
{
    if (!p)
        return 0;
    char *page = reinterpret_cast<char *>((uintptr_t)p & ~(uintptr_t)(PAGE - 1));
    size_t all;
    memcpy(&all, page - PAGE, sizeof all);
    return munmap(page - PAGE, all + 2 * PAGE) != 0;
}
int read_now(void *host, const void *p, size_t n_bytes)
{
    memcpy(host, p, n_bytes);
    return sp_cuda_wait();
}

#define LIB_NAME "cuda_host"

} // namespace

void *sp_cuda_staging(size_t n_bytes)
{
    return malloc(n_bytes);
}

void sp_cuda_staging_free(void *p)
{
    free(p);
}

int sp_cuda_wait(void)
{
    return sp_simt_fault_now(SP_SIMT_LOST);
}

int sp_cuda_node_run(const sp_cuda_node *n)
{
    if (n->kind == SP_CUDA_LAUNCH) {
        alignas(16) char args[SP_CUDA_ARGS];
        memcpy(args, n->args, n->n_bytes);
        sp_simt_launch(reinterpret_cast<sp_simt_body *>(const_cast<void *>(n->kernel)), args,
                       n->n_thread, n->n_x, n->n_y, n->shared_bytes);
    } else if (n->kind == SP_CUDA_ZERO) {
        memset(n->to, 0, n->n_bytes);
    } else {
        memmove(n->to, n->from, n->n_bytes);
    }
    return sp_cuda_wait();
}

/* What was told is all it has, so that what was not told shows in results. */
struct sp_cuda_graph {
    sp_cuda_node *node;
    size_t n;
};

void sp_cuda_graph_free(sp_cuda_graph *g)
{
    free(g->node);
    free(g);
}

int sp_cuda_graph_new(sp_cuda_graph **out, const sp_cuda_node *node, size_t n)
{
    sp_cuda_graph *g = static_cast<sp_cuda_graph *>(calloc(1, sizeof *g));
    if (!g)
        return SP_SIMT_FULL;
    g->node = static_cast<sp_cuda_node *>(malloc(n * sizeof *g->node));
    if (!g->node) {
        sp_cuda_graph_free(g);
        return SP_SIMT_FULL;
    }
    memcpy(g->node, node, n * sizeof *g->node);
    g->n = n;
    *out = g;
    return 0;
}

int sp_cuda_graph_set(sp_cuda_graph *g, size_t i, const sp_cuda_node *node)
{
    g->node[i] = *node;
    return 0;
}

int sp_cuda_graph_start(sp_cuda_graph *g)
{
    int err = 0;
    for (size_t i = 0; i < g->n && !err; i++)
        err = sp_cuda_node_run(&g->node[i]);
    return err;
}

namespace
{

#endif

int mem_read(void *host, const void *p, size_t n_bytes)
{
    int err = sp_cuda_flush();
    return err ? err : read_now(host, p, n_bytes);
}
int do_move(sp_cuda_work kind, void *to, const void *from, size_t n_bytes)
{
    sp_cuda_node n = {};
    n.kind = kind;
    n.to = to;
    n.from = from;
    n.n_bytes = n_bytes;
    return sp_cuda_do(&n);
}
int mem_write(void *p, const void *host, size_t n_bytes)
{
    return do_move(SP_CUDA_WRITE, p, host, n_bytes);
}
int mem_copy(void *to, const void *from, size_t n_bytes)
{
    return do_move(SP_CUDA_COPY, to, from, n_bytes);
}
int mem_zero(void *p, size_t n_bytes)
{
    return do_move(SP_CUDA_ZERO, p, NULL, n_bytes);
}
/* What was put off may still use it. */
int mem_free(void *p)
{
    int err = p ? sp_cuda_flush() : 0, freed = free_now(p);
    return err ? err : freed;
}

const sp_cuda_lib library = {SP_CUDA_VERSION,
                             LIB_NAME,
                             open_device,
                             sp_cuda_record_close,
                             error_text,
                             mem_new,
                             mem_free,
                             mem_read,
                             mem_write,
                             mem_copy,
                             mem_zero,
                             sp_cuda_flush,
                             sp_cuda_begin_step,
                             sp_cuda_end_step,
                             sp_cuda_counts_get,
                             sp_cuda_embed_run,
                             sp_cuda_prep_run,
                             sp_cuda_product_run,
                             sp_cuda_fp8_run,
                             sp_cuda_choose_run,
                             sp_cuda_sort_run,
                             sp_cuda_gather_run,
                             sp_cuda_tail_run,
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
                             sp_cuda_move_run,
                             sp_cuda_query_run,
                             sp_cuda_keep_run,
                             sp_cuda_attn_run,
                             sp_cuda_latent_run,
                             sp_cuda_cert_run,
                             sp_cuda_attn_end_run,
                             sp_cuda_full_run,
                             sp_cuda_best_run};

} // namespace

extern "C" int sp_cuda_has_wgmma(void)
{
    return has_wgmma;
}

#ifdef __CUDACC__
extern "C" {
cudaStream_t sp_cuda_stream;
}
#endif

extern "C" __attribute__((visibility("default"))) const sp_cuda_lib *sp_cuda_library(void)
{
    return &library;
}
