/* The machine as this process may use it: CPU, caches, NUMA nodes, memory, and the limits of its
 * affinity and control group. Linux only; what cannot be read is 0 or empty. Pure. */
#ifndef SP_BASE_HOST_H
#define SP_BASE_HOST_H

#include <stddef.h>

typedef struct sp_host {
    char cpu[96];
    size_t n_cpu;    /* logical CPUs in the affinity mask */
    size_t n_core;   /* distinct cores among them */
    size_t n_thread; /* cores, cut down to the control group's CPU quota (rounded up); at least 1 */
    size_t l2_bytes, l3_bytes; /* of one core, of one cluster */
    size_t n_numa;
    /* memory that can be had: MemAvailable, cut down to the control group's limit */
    size_t free_bytes;
} sp_host;

/* root: "" for this machine; a folder with the same files for tests. */
void sp_host_read(sp_host *out, const char *root);

#endif
