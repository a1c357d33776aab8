/* Opening the CUDA device; for cpu.c, which knows the names of devices. */
#ifndef SP_DEV_DEV_CUDA_H
#define SP_DEV_DEV_CUDA_H

#include "dev/dev.h"

/* cfg->name: "cuda", or "cuda:FILE" with the library of kernels. Errors: SP_UNSUP says what is
 * missing: the library, a driver, a device. */
SP_MUST sp_err sp_dev_cuda_open(sp_dev **out, const sp_dev_cfg *cfg, sp_diag *d);

/* The host's threads and kernels of a CUDA device. */
sp_pool *sp_dev_cuda_pool(sp_dev *dev);
const sp_kern *sp_dev_cuda_kern(sp_dev *dev);

#endif
