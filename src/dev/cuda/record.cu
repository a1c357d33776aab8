/* The list of record.h, and which graphs are kept. The third time that a list of kernels comes its
 * graph is only told what changed: the first time it runs as it is, because most lists of prompts
 * come once, and the second time the graph is made. */
#include "dev/cuda/record.h"

#include <stdlib.h>
#include <string.h>

namespace
{

enum {
    FEW = 8 /* nodes that a graph is not worth */,
    MOST = 16384 /* nodes of a list */,
    GRAPHS = 16,
    SEEN = 64 /* lists that came once */,
    STAGING = 8 << 20
};

struct kept {
    sp_cuda_graph *graph; /* NULL: free */
    sp_cuda_node *node;   /* as the graph has them */
    size_t n;
    uint64_t kind, used;  /* hash of what does not change; when it was used last */
};

struct recorder {
    sp_cuda_node *node;
    size_t n, cap, n_staged;
    char *staging;
    bool is_open;
    kept graph[GRAPHS];
    uint64_t seen[SEEN], n_flush;
    size_t n_seen;
    sp_cuda_counts count;
};

recorder rec;

/* FNV-1a over what a graph cannot be told afterwards. */
uint64_t kind_of(const sp_cuda_node *node, size_t n)
{
    uint64_t h = 14695981039346656037u;
    for (size_t i = 0; i < n; i++) {
        const uint64_t part[] = {(uint64_t)node[i].kind, (uint64_t)(uintptr_t)node[i].kernel};
        for (uint64_t p : part)
            h = (h ^ p) * 1099511628211u;
    }
    return h;
}

bool is_same_kind(const kept *k, const sp_cuda_node *node, size_t n)
{
    if (!k->graph || k->n != n)
        return false;
    for (size_t i = 0; i < n; i++)
        if (k->node[i].kind != node[i].kind || k->node[i].kernel != node[i].kernel)
            return false;
    return true;
}

void drop(kept *k)
{
    if (k->graph)
        sp_cuda_graph_free(k->graph);
    free(k->node);
    *k = kept{};
}

int run_all(const sp_cuda_node *node, size_t n)
{
    int err = 0;
    for (size_t i = 0; i < n && !err; i++)
        err = sp_cuda_node_run(&node[i]);
    return err;
}

bool came_before(uint64_t kind)
{
    for (size_t i = 0; i < SEEN && i < rec.n_seen; i++)
        if (rec.seen[i] == kind)
            return true;
    rec.seen[rec.n_seen++ % SEEN] = kind;
    return false;
}

/* The place of the graph that was not used for the longest time. */
kept *make(uint64_t kind)
{
    kept *k = &rec.graph[0];
    for (kept &g : rec.graph)
        k = g.used < k->used ? &g : k;
    drop(k);
    k->node = static_cast<sp_cuda_node *>(malloc(rec.n * sizeof *k->node));
    if (!k->node || sp_cuda_graph_new(&k->graph, rec.node, rec.n)) {
        k->graph = NULL;
        drop(k);
        return NULL;
    }
    memcpy(k->node, rec.node, rec.n * sizeof *k->node);
    k->n = rec.n;
    k->kind = kind;
    rec.count.n_made++;
    return k;
}

/* false: the graph does not take it. */
bool tell(kept *k)
{
    for (size_t i = 0; i < rec.n; i++) {
        if (memcmp(&k->node[i], &rec.node[i], sizeof *k->node) == 0)
            continue;
        if (sp_cuda_graph_set(k->graph, i, &rec.node[i]))
            return false;
        k->node[i] = rec.node[i];
        rec.count.n_told++;
    }
    return true;
}

int run_list(void)
{
    uint64_t kind = kind_of(rec.node, rec.n);
    kept *k = NULL;
    if (rec.n < FEW)
        return run_all(rec.node, rec.n);
    for (kept &g : rec.graph)
        if (g.kind == kind && is_same_kind(&g, rec.node, rec.n))
            k = &g;
    if (k && !tell(k)) {
        drop(k);
        return run_all(rec.node, rec.n);
    }
    if (!k && came_before(kind))
        k = make(kind);
    if (!k)
        return run_all(rec.node, rec.n);
    k->used = ++rec.n_flush;
    rec.count.n_started++;
    return sp_cuda_graph_start(k->graph);
}

/* Room for one more. */
bool grow(void)
{
    if (rec.n < rec.cap)
        return true;
    size_t cap = rec.cap ? 2 * rec.cap : 1024;
    void *p = cap <= MOST ? realloc(rec.node, cap * sizeof *rec.node) : NULL;
    if (!p)
        return false;
    rec.node = static_cast<sp_cuda_node *>(p);
    rec.cap = cap;
    return true;
}

/* Where what a write reads from lies until it is carried out; NULL: there is no room. */
char *stage(const sp_cuda_node *n)
{
    size_t at = (rec.n_staged + 15) & ~(size_t)15;
    if (!rec.staging)
        rec.staging = static_cast<char *>(sp_cuda_staging(STAGING));
    if (!rec.staging || n->n_bytes > STAGING || at > STAGING - n->n_bytes)
        return NULL;
    memcpy(rec.staging + at, n->from, n->n_bytes);
    rec.n_staged = at + n->n_bytes;
    return rec.staging + at;
}

} // namespace

int sp_cuda_do(const sp_cuda_node *n)
{
    const char *from = NULL;
    if (!rec.is_open)
        return sp_cuda_node_run(n);
    bool fits = grow() && (n->kind != SP_CUDA_WRITE || (from = stage(n)));
    if (!fits) { /* what came before it first */
        int err = sp_cuda_flush();
        return err ? err : sp_cuda_node_run(n);
    }
    rec.node[rec.n] = *n;
    if (from)
        rec.node[rec.n].from = from;
    rec.n++;
    return 0;
}

int sp_cuda_flush(void)
{
    int err = rec.n ? run_list() : 0, waited = sp_cuda_wait();
    rec.n = rec.n_staged = 0;
    return err ? err : waited;
}

int sp_cuda_begin_step(void)
{
    rec.is_open = true;
    return 0;
}

int sp_cuda_end_step(void)
{
    int err = sp_cuda_flush();
    rec.is_open = false;
    return err;
}

void sp_cuda_counts_get(sp_cuda_counts *out)
{
    *out = rec.count;
}

void sp_cuda_record_close(void)
{
    for (kept &g : rec.graph)
        drop(&g);
    sp_cuda_staging_free(rec.staging);
    free(rec.node);
    rec = recorder{};
}
