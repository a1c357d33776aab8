/* Memory for KV pages: blocks of one size lie side by side in slabs of 2 MiB pages, because
 * attention jumps from block to block and a TLB miss for each costs more than the row it reads. A
 * freed block's memory goes back to the system at once; its place in the slab is used again.
 *
 * Owner:   the caller of sp_slab_new owns the block until sp_slab_free; slabs live until
 *          sp_slabs_fini.
 * Threads: owner: the thread that drives the device.
 * Errors:  NULL when the system has no memory. */
#ifndef SP_DEV_CPU_MEM_H
#define SP_DEV_CPU_MEM_H

#include <stdbool.h>
#include <stddef.h>

typedef struct sp_slab sp_slab;

typedef struct sp_slabs {
    sp_slab *first;
} sp_slabs;

/* Does a block of this size belong into a slab? */
bool sp_slab_fits(size_t n_bytes);
/* 64-byte aligned, contents undefined. */
void *sp_slab_new(sp_slabs *s, size_t n_bytes);
/* false: p is not from a slab. */
bool sp_slab_free(sp_slabs *s, void *p);
void sp_slabs_fini(sp_slabs *s);

#endif
