/* Allocation that can be made to fail (base/fault.h), checked size arithmetic, and the arena.
 *
 * Errors:  NULL / SP_NOMEM; the process never dies for want of memory.
 * Owner:   sp_mem_alloc results belong to the caller (sp_mem_free); arena results live until
 *          sp_arena_reset or sp_arena_fini.
 * Threads: sp_mem_* any; an arena belongs to one thread at a time. */
#ifndef SP_BASE_MEM_H
#define SP_BASE_MEM_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

static inline bool sp_mul_ok(size_t *out, size_t a, size_t b)
{
    return !__builtin_mul_overflow(a, b, out);
}
static inline bool sp_add_ok(size_t *out, size_t a, size_t b)
{
    return !__builtin_add_overflow(a, b, out);
}

void *sp_mem_alloc(size_t n_bytes);               /* zeroed */
void *sp_mem_array(size_t n, size_t each_bytes);  /* zeroed; NULL on overflow too */
void *sp_mem_grow(void *p, size_t n_bytes);       /* realloc; p stays valid on NULL */
/* 64-byte aligned, contents undefined and untouched */
void *sp_mem_raw(size_t n_bytes);
void *sp_mem_align(size_t n_bytes);               /* zeroed, 64-byte aligned, for kernels */
/* Room for item n of an array that grows by doubling: *list points to its *cap items (list: the
 * pointer's address, whatever it points to; NULL where *cap is 0). false: there is no memory, and
 * the array stays as it was. */
bool sp_mem_has_room(void *list, size_t *cap, size_t n, size_t each_bytes);
char *sp_mem_strdup(const char *s);
void sp_mem_free(void *p);

typedef struct sp_arena_blk sp_arena_blk;
typedef struct sp_arena {
    sp_arena_blk *head;
    size_t used_bytes; /* handed out since the last reset */
    size_t cap_bytes;  /* upper bound on used_bytes; 0 = none */
} sp_arena;

void sp_arena_init(sp_arena *a, size_t cap_bytes);
void sp_arena_fini(sp_arena *a);
void sp_arena_reset(sp_arena *a);
/* Zeroed, 16-byte aligned; NULL when the cap or the system's memory is reached. */
void *sp_arena_alloc(sp_arena *a, size_t n_bytes);
char *sp_arena_strndup(sp_arena *a, const char *s, size_t n);

#endif
