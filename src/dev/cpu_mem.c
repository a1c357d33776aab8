#include "dev/cpu_mem.h"

#include "base/mem.h"

#include <stdint.h>
#include <sys/mman.h>

enum { SMALL = 64 << 10, LARGE = 4 << 20, SLAB_BYTES = 32 << 20, FEW = 8, PAGE = 4096 };

struct sp_slab {
    sp_slab *next;
    char *mem;
    /* n_used: blocks handed out so far, those freed since included */
    size_t block, n_block, n_used;
    uint32_t *spare;               /* [n_block]: freed blocks */
    size_t n_spare;
};

bool sp_slab_fits(size_t n_bytes)
{
    return n_bytes >= SMALL && n_bytes <= LARGE;
}

static sp_slab *slab_of_size(sp_slabs *s, size_t block)
{
    bool is_known = false;
    for (sp_slab *b = s->first; b; b = b->next) {
        if (b->block == block && (b->n_spare || b->n_used < b->n_block))
            return b;
        is_known = is_known || b->block == block;
    }
    /* The first of a size is small, and so not of large pages: a short answer needs one block. */
    size_t n_block = is_known ? SLAB_BYTES / block : FEW;
    sp_slab *b = sp_mem_alloc(sizeof *b);
    if (!b)
        return NULL;
    *b = (sp_slab){.next = s->first,
                   .mem = sp_mem_raw(n_block * block),
                   .block = block,
                   .n_block = n_block};
    b->spare = sp_mem_array(b->n_block, sizeof *b->spare);
    if (!b->mem || !b->spare) {
        sp_mem_free(b->mem);
        sp_mem_free(b->spare);
        sp_mem_free(b);
        return NULL;
    }
    s->first = b;
    return b;
}

void *sp_slab_new(sp_slabs *s, size_t n_bytes)
{
    sp_slab *b = slab_of_size(s, (n_bytes + 63) & ~(size_t)63);
    if (!b)
        return NULL;
    return b->mem + b->block * (b->n_spare ? b->spare[--b->n_spare] : b->n_used++);
}

bool sp_slab_free(sp_slabs *s, void *p)
{
    for (sp_slab *b = s->first; b; b = b->next) {
        size_t at = (size_t)((char *)p - b->mem);
        if ((char *)p < b->mem || at >= b->block * b->n_block)
            continue;
        uintptr_t from = ((uintptr_t)p + PAGE - 1) & ~(uintptr_t)(PAGE - 1),
                  to = ((uintptr_t)p + b->block) & ~(uintptr_t)(PAGE - 1);
        if (from < to)
            (void)madvise((void *)from, to - from, MADV_DONTNEED);
        b->spare[b->n_spare++] = (uint32_t)(at / b->block);
        return true;
    }
    return false;
}

void sp_slabs_fini(sp_slabs *s)
{
    while (s->first) {
        sp_slab *b = s->first;
        s->first = b->next;
        sp_mem_free(b->mem);
        sp_mem_free(b->spare);
        sp_mem_free(b);
    }
}
