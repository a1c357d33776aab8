/* Electricity: what the kernel's counters of the processor's packages and of its memory say (RAPL),
 * or a set figure where they cannot be read.
 *
 * Someone who worked from one moment to another used the mean power of that time. A time too short
 * for the counters has the set figure, or what was measured last.
 *
 * Threads: any.
 * Source:  Linux, Documentation/power/powercap/powercap.rst. */
#ifndef SP_OBS_POWER_H
#define SP_OBS_POWER_H

#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

typedef struct sp_power sp_power;

/* A moment. */
typedef struct sp_power_mark {
    uint64_t ns;
    double joules; /* since some time before */
} sp_power_mark;

/* folder: of the counters; NULL: nothing is measured. watts: the figure; < 0: there is none.
 * SP_NOTFOUND: neither a figure nor a counter that can be read; the message says why. */
SP_MUST sp_err sp_power_open(sp_power **out, const char *folder, double watts, sp_diag *d);
/* NULL is fine. */
void sp_power_free(sp_power *p);
bool sp_power_is_measured(const sp_power *p);

sp_power_mark sp_power_now(sp_power *p);
/* Mean watts since then. */
double sp_power_since(sp_power *p, const sp_power_mark *from);

#endif
