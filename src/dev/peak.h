/* What this machine can do at best, measured now: read bandwidth of all threads together, and 8-bit
 * multiply-adds. The limits that bench results are given in % of.
 * Cost: about half a second and 512 MiB. */
#ifndef SP_DEV_PEAK_H
#define SP_DEV_PEAK_H

#include "dev/dev.h"

typedef struct sp_peak {
    double read_bytes_s; /* streaming reads from memory, far beyond the caches */
    double mac_s;        /* u8 x s8 multiply-adds with operands in registers */
} sp_peak;

/* The arithmetic alone: a few ms. 0: not a CPU device. */
double sp_dev_peak_macs(sp_dev *dev);
SP_MUST sp_err sp_dev_peak(sp_peak *out, sp_dev *dev, sp_diag *d);

#endif
