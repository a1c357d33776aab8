/* Allocation wrappers and the arena. */
#include "base/mem.h"

#include "base/fault.h"

#include <stdint.h>
#include <stdlib.h>
#include <string.h>
#include <sys/mman.h>

enum { HUGE_BYTES = 2 << 20, HUGE_FROM_BYTES = 8 << 20 };
enum { ARENA_BLK_BYTES = 16 * 1024 }; /* a chat request with its prompt fits a handful */

struct sp_arena_blk {
    sp_arena_blk *next;
    size_t cap, used;
    max_align_t data[];
};

void *sp_mem_alloc(size_t n_bytes)
{
    return sp_fault_hit(SP_FAULT_MEM) ? NULL : calloc(1, n_bytes ? n_bytes : 1);
}

void *sp_mem_array(size_t n, size_t each_bytes)
{
    size_t total;
    return sp_mul_ok(&total, n, each_bytes) ? sp_mem_alloc(total) : NULL;
}

void *sp_mem_grow(void *p, size_t n_bytes)
{
    return sp_fault_hit(SP_FAULT_MEM) ? NULL : realloc(p, n_bytes ? n_bytes : 1);
}

bool sp_mem_has_room(void *list, size_t *cap, size_t n, size_t each_bytes)
{
    size_t more = *cap * 2 + 4, total;
    void *p;
    if (n < *cap)
        return true;
    memcpy(&p, list, sizeof p); /* a pointer of another type cannot be read through a void ** */
    p = sp_mul_ok(&total, more, each_bytes) ? sp_mem_grow(p, total) : NULL;
    if (!p)
        return false;
    memcpy(list, &p, sizeof p);
    *cap = more;
    return true;
}

void *sp_mem_raw(size_t n_bytes)
{
    size_t align = n_bytes < HUGE_FROM_BYTES ? 64 : HUGE_BYTES, total;
    if (sp_fault_hit(SP_FAULT_MEM) || !sp_add_ok(&total, n_bytes ? n_bytes : 1, align - 1))
        return NULL;
    total &= ~(align - 1);
    void *p = aligned_alloc(align, total);
    /* Weights and pages are read front to back: 2 MiB pages spare most of the TLB misses. */
    if (p && align == HUGE_BYTES)
        (void)madvise(p, total, MADV_HUGEPAGE);
    return p;
}

void *sp_mem_align(size_t n_bytes)
{
    void *p = sp_mem_raw(n_bytes);
    if (p)
        memset(p, 0, n_bytes);
    return p;
}

char *sp_mem_strdup(const char *s)
{
    size_t n = strlen(s) + 1;
    char *p = sp_mem_alloc(n);
    if (p)
        memcpy(p, s, n);
    return p;
}

void sp_mem_free(void *p)
{
    free(p);
}

void sp_arena_init(sp_arena *a, size_t cap_bytes)
{
    *a = (sp_arena){.cap_bytes = cap_bytes};
}

void sp_arena_fini(sp_arena *a)
{
    for (sp_arena_blk *b = a->head; b;) {
        sp_arena_blk *next = b->next;
        sp_mem_free(b);
        b = next;
    }
    a->head = NULL;
    a->used_bytes = 0;
}

void sp_arena_reset(sp_arena *a)
{
    sp_arena_fini(a);
}

void *sp_arena_alloc(sp_arena *a, size_t n_bytes)
{
    size_t need;
    if (!sp_add_ok(&need, n_bytes, 15))
        return NULL;
    need &= ~(size_t)15;
    if (a->cap_bytes && (need > a->cap_bytes || a->used_bytes > a->cap_bytes - need))
        return NULL;
    if (!a->head || a->head->cap - a->head->used < need) {
        size_t cap = need > ARENA_BLK_BYTES ? need : ARENA_BLK_BYTES, total;
        if (!sp_add_ok(&total, cap, sizeof(sp_arena_blk)))
            return NULL;
        sp_arena_blk *b = sp_mem_alloc(total);
        if (!b)
            return NULL;
        b->next = a->head;
        b->cap = cap;
        a->head = b;
    }
    void *p = (char *)a->head->data + a->head->used;
    a->head->used += need;
    a->used_bytes += need;
    return p;
}

char *sp_arena_strndup(sp_arena *a, const char *s, size_t n)
{
    char *p = sp_arena_alloc(a, n + 1);
    if (p)
        memcpy(p, s, n);
    return p;
}
