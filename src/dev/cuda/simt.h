/* What kernels are written in: blocks of whole warps, barriers, shuffles, shared memory, a launch.
 * nvcc reads the upper half; any other compiler reads simt_host.h, where a block's threads are
 * fibers of one thread.
 *
 * A kernel is a struct K with K::THREADS, K::args (plain, by value) and a static K::run(args).
 * Rules that both readings rely on: one dimension of threads; shuffles are of whole warps; all
 * shared memory is what launch asks for; all threads live until the last barrier. */
#ifndef SP_DEV_CUDA_SIMT_H
#define SP_DEV_CUDA_SIMT_H

#include "dev/cuda/record.h"

#ifdef __CUDACC__

#include <cuda_runtime.h>
#include <math.h>
#include <string.h>

#define SP_DEV static __device__ __forceinline__
#define SP_DEV_MEMBER __device__ __forceinline__

SP_DEV unsigned thread_id()
{
    return threadIdx.x;
}
SP_DEV unsigned lane_id()
{
    return threadIdx.x & 31;
}
SP_DEV unsigned warp_id()
{
    return threadIdx.x >> 5;
}
SP_DEV unsigned block_x()
{
    return blockIdx.x;
}
SP_DEV unsigned block_y()
{
    return blockIdx.y;
}
SP_DEV void block_sync()
{
    __syncthreads();
}
SP_DEV void warp_sync()
{
    __syncwarp();
}
SP_DEV float warp_xor(float v, int mask)
{
    return __shfl_xor_sync(0xffffffffu, v, mask);
}
SP_DEV unsigned bit_count(uint32_t x)
{
    return __popc(x);
}
SP_DEV uint32_t warp_vote(bool is) /* bit i: of lane i */
{
    return __ballot_sync(0xffffffffu, is);
}
SP_DEV char *block_mem()
{
    extern __shared__ __align__(16) char mem[];
    return mem;
}

template <class K>
__global__ void __launch_bounds__(K::THREADS) entry(const __grid_constant__ typename K::args a)
{
    K::run(a);
}

extern "C" cudaStream_t sp_cuda_stream;

template <class K> const void *kernel_of()
{
    return reinterpret_cast<const void *>(entry<K>);
}
template <class K> int allow_shared(size_t shared_bytes)
{
    if (shared_bytes > 48 * 1024) {
        cudaError_t err = cudaFuncSetAttribute(
            entry<K>, cudaFuncAttributeMaxDynamicSharedMemorySize, (int)shared_bytes);
        if (err != cudaSuccess)
            return (int)err;
    }
    return 0;
}

#else
#include "dev/cuda/simt_host.h"
#endif

/* Starts n_x times n_y blocks, or puts it off to the end of a step. */
template <class K>
int launch(size_t n_x, size_t n_y, size_t shared_bytes, const typename K::args &a)
{
    static_assert(K::THREADS % 32 == 0, "whole warps");
    static_assert(sizeof a <= SP_CUDA_ARGS, "room for its arguments");
    sp_cuda_node n = {};
    int err = allow_shared<K>(shared_bytes);
    if (err || !n_x || !n_y)
        return err;
    n.kind = SP_CUDA_LAUNCH;
    n.kernel = kernel_of<K>();
    n.n_thread = K::THREADS;
    n.n_x = (uint32_t)n_x;
    n.n_y = (uint32_t)n_y;
    n.shared_bytes = shared_bytes;
    n.n_bytes = sizeof a;
    memcpy(n.args, &a, sizeof a);
    return sp_cuda_do(&n);
}

/* The same order of additions in both readings. */
SP_DEV float warp_sum(float v)
{
    for (int m = 16; m; m /= 2)
        v += warp_xor(v, m);
    return v;
}
SP_DEV float warp_max(float v)
{
    for (int m = 16; m; m /= 2)
        v = fmaxf(v, warp_xor(v, m));
    return v;
}

/* Over all of a block's n_warp warps; part: n_warp floats of shared memory, which may be written
 * again only behind a barrier. */
SP_DEV float block_sum(float v, float *part, unsigned n_warp)
{
    v = warp_sum(v);
    if (lane_id() == 0)
        part[warp_id()] = v;
    block_sync();
    float all = 0;
    for (unsigned i = 0; i < n_warp; i++)
        all += part[i];
    return all;
}
SP_DEV float block_max(float v, float *part, unsigned n_warp)
{
    v = warp_max(v);
    if (lane_id() == 0)
        part[warp_id()] = v;
    block_sync();
    float all = part[0];
    for (unsigned i = 1; i < n_warp; i++)
        all = fmaxf(all, part[i]);
    return all;
}

#endif
