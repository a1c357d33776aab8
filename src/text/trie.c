#include "text/trie.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* Keys [lo, hi) share the first `depth` bytes and belong to one node. */
typedef struct span {
    uint32_t lo, hi, depth;
} span;

static int by_text(const void *x, const void *y)
{
    const sp_trie_key *a = x, *b = y;
    size_t n = a->text.n < b->text.n ? a->text.n : b->text.n;
    int c = n ? memcmp(a->text.p, b->text.p, n) : 0;
    if (c)
        return c;
    if (a->text.n != b->text.n)
        return a->text.n < b->text.n ? -1 : 1;
    return (a->id > b->id) - (a->id < b->id);
}

/* Distinct prefixes of sorted keys, the empty one included. */
static size_t count_nodes(const sp_trie_key *key, size_t n)
{
    size_t total = 1;
    for (size_t i = 0; i < n; i++) {
        size_t same = 0;
        while (i && same < key[i].text.n && same < key[i - 1].text.n &&
               key[i].text.p[same] == key[i - 1].text.p[same])
            same++;
        total += key[i].text.n - same;
    }
    return total;
}

/* Appends the children of node `at`, breadth first. */
static void add_children(sp_trie *t, span *of, size_t at, const sp_trie_key *key)
{
    span s = of[at];
    sp_trie_node *node = &t->node[at];
    while (s.lo < s.hi && key[s.lo].text.n == s.depth)
        node->id = key[s.lo++].id;
    node->child = (uint32_t)t->n;
    while (s.lo < s.hi) {
        unsigned char c = (unsigned char)key[s.lo].text.p[s.depth];
        uint32_t end = s.lo + 1;
        while (end < s.hi && (unsigned char)key[end].text.p[s.depth] == c)
            end++;
        t->node[t->n] = (sp_trie_node){.id = SP_TRIE_NONE, .byte = c};
        of[t->n++] = (span){s.lo, end, s.depth + 1};
        node->n_child++;
        s.lo = end;
    }
}

sp_err sp_trie_init(sp_trie *t, sp_trie_key *key, size_t n)
{
    *t = (sp_trie){0};
    qsort(key, n, sizeof *key, by_text);
    for (int c = 0; c < 256; c++)
        t->first[c] = SP_TRIE_NONE;
    while (n && !key[0].text.n)
        key++, n--;
    if (!n)
        return SP_OK;
    size_t total = count_nodes(key, n);
    if (total >= SP_TRIE_NONE || n >= SP_TRIE_NONE)
        return SP_LIMIT;
    t->node = sp_mem_array(total, sizeof *t->node);
    span *of = sp_mem_array(total, sizeof *of);
    if (!t->node || !of) {
        sp_mem_free(of);
        sp_trie_fini(t);
        return SP_NOMEM;
    }
    t->n = 1;
    t->node[0].id = SP_TRIE_NONE;
    of[0] = (span){0, (uint32_t)n, 0};
    for (size_t at = 0; at < t->n; at++)
        add_children(t, of, at, key);
    sp_mem_free(of);
    for (uint32_t i = 0; i < t->node[0].n_child; i++)
        t->first[t->node[1 + i].byte] = 1 + i;
    return SP_OK;
}

void sp_trie_fini(sp_trie *t)
{
    sp_mem_free(t->node);
    t->node = NULL;
    t->n = 0;
}

uint32_t sp_trie_step(const sp_trie *t, uint32_t at, unsigned char byte)
{
    if (at == 0)
        return t->first[byte];
    uint32_t lo = t->node[at].child, hi = lo + t->node[at].n_child;
    while (lo < hi) {
        uint32_t mid = lo + (hi - lo) / 2;
        if (t->node[mid].byte < byte)
            lo = mid + 1;
        else
            hi = mid;
    }
    return lo < t->node[at].child + t->node[at].n_child && t->node[lo].byte == byte ? lo
                                                                                    : SP_TRIE_NONE;
}
