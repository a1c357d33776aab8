/* The index in memory: which run holds a page, and which run to give up next. */
#include "kv/store_int.h"

/* What losing a run costs when its object is left, of what computing it costs: 63 ms for each 1,000
 * tokens against 250 to 750 (docs/BENCHMARKS.md). */
#define OBJECT_SHARE 0.25

static struct sp_kv_slot **bucket_of(const sp_kv_store *s, const sp_sha256 *id)
{
    uint64_t h;
    memcpy(&h, id->b, sizeof h);
    return &s->bucket[h & (s->n_bucket - 1)];
}

struct sp_kv_slot *sp_kvs_find_slot(const sp_kv_store *s, const sp_sha256 *id)
{
    struct sp_kv_slot *at = *bucket_of(s, id);
    while (at && memcmp(at->run->rec.page[at->page].id.b, id->b, 32) != 0)
        at = at->next;
    return at;
}

const sp_sha256 *sp_kvs_name_of(const sp_kv_run *r)
{
    return &r->rec.page[r->rec.n_page - 1].id;
}

void sp_kvs_set_key(sp_kv_store *s, const sp_kv_run *r)
{
    if (!r->dead)
        s->key[r->slot] = r->seg && r->pins == 0 && r->n_child == 0 ? r->prio : INFINITY;
}

void sp_kvs_set_prio(sp_kv_store *s, sp_kv_run *r)
{
    bool is_state = sp_kv_rec_is_state(&r->rec);
    double n = is_state ? r->rec.lo_bytes : 32.0 * r->rec.n_page,
           at = 32.0 * r->rec.first + (is_state ? -n : n) / 2,
           bytes = (double)(r->bytes ? r->bytes : 1);
    double cost = n * (1 + at * s->cfg.depth_cost) * (r->cold_bytes ? OBJECT_SHARE : 1);
    r->prio = s->floor + (1.0 + r->hits) * cost / bytes;
    sp_kvs_set_key(s, r);
}

void sp_kvs_count_in(sp_kv_store *s, sp_kv_run *r)
{
    struct sp_kv_slot *up = sp_kvs_find_slot(s, &r->rec.parent);
    r->counted = up != NULL;
    if (!up)
        return;
    up->run->n_child++;
    sp_kvs_set_key(s, up->run);
}

void sp_kvs_count_out(sp_kv_store *s, sp_kv_run *r)
{
    struct sp_kv_slot *up = r->counted ? sp_kvs_find_slot(s, &r->rec.parent) : NULL;
    r->counted = false;
    if (!up)
        return;
    up->run->n_child--;
    sp_kvs_set_key(s, up->run);
}

static sp_err grow_index(sp_kv_store *s)
{
    if (s->n_run == s->cap_run) {
        size_t cap = s->cap_run * 2 + 64;
        sp_kv_run **runs = sp_mem_grow(s->runs, cap * sizeof *runs);
        if (runs)
            s->runs = runs;
        double *key = sp_mem_grow(s->key, cap * sizeof *key);
        if (key)
            s->key = key;
        if (!runs || !key)
            return SP_NOMEM;
        s->cap_run = cap;
    }
    if (s->n_slot + SP_KV_RUN > s->n_bucket) {
        size_t n = s->n_bucket * 2;
        struct sp_kv_slot **b = sp_mem_array(n, sizeof *b);
        if (!b)
            return SP_NOMEM;
        for (size_t i = 0; i < s->n_bucket; i++) {
            for (struct sp_kv_slot *at = s->bucket[i], *next; at; at = next) {
                uint64_t h;
                memcpy(&h, at->run->rec.page[at->page].id.b, sizeof h);
                next = at->next;
                at->next = b[h & (n - 1)];
                b[h & (n - 1)] = at;
            }
        }
        sp_mem_free(s->bucket);
        s->bucket = b;
        s->n_bucket = n;
    }
    return SP_OK;
}

sp_kv_run *sp_kvs_run_new(const sp_kv_rec *rec)
{
    size_t pages = rec->n_page * sizeof *rec->page;
    sp_kv_run *r = sp_mem_alloc(sizeof *r + pages + rec->n_page * sizeof *r->hash);
    if (!r)
        return NULL;
    r->rec = *rec;
    r->rec.packed = false;
    r->rec.page = (sp_kv_rec_page *)(void *)(r + 1);
    memcpy(r->rec.page, rec->page, pages);
    r->hash = (struct sp_kv_slot *)(void *)((uint8_t *)(r + 1) + pages);
    r->used_s = sp_clock_wall();
    return r;
}

sp_err sp_kvs_index_add(sp_kv_store *s, sp_kv_run *r)
{
    SP_TRY(grow_index(s));
    r->slot = s->n_run;
    s->runs[s->n_run++] = r;
    for (uint32_t i = 0; i < r->rec.n_page; i++) {
        struct sp_kv_slot **b = bucket_of(s, &r->rec.page[i].id);
        r->hash[i] = (struct sp_kv_slot){r, i, *b};
        *b = &r->hash[i];
    }
    s->n_slot += r->rec.n_page;
    if (r->seg)
        sp_kvs_count_in(s, r);
    sp_kvs_set_prio(s, r);
    return SP_OK;
}

sp_kvs_segment *sp_kvs_seg_of(const sp_kv_store *s, uint32_t serial)
{
    for (size_t i = 0; i < s->n_seg; i++)
        if (s->seg[i].serial == serial)
            return &s->seg[i];
    return NULL;
}

/* Off the disk's books. The bytes stay until the run is swept, or `seg` says where they were. */
void sp_kvs_leave_warm(sp_kv_store *s, sp_kv_run *r)
{
    if (!r->seg)
        return;
    sp_kvs_segment *g = sp_kvs_seg_of(s, r->seg);
    g->live -= r->bytes;
    s->warm_bytes -= r->bytes;
    sp_kvs_count_out(s, r);
}

void sp_kvs_index_remove(sp_kv_store *s, sp_kv_run *r)
{
    sp_kvs_leave_warm(s, r);
    /* a mismatch or a deletion: orphans count nowhere */
    for (size_t i = 0; r->n_child && i < s->n_run; i++) {
        struct sp_kv_slot *up =
            s->runs[i]->counted ? sp_kvs_find_slot(s, &s->runs[i]->rec.parent) : NULL;
        if (up && up->run == r)
            sp_kvs_count_out(s, s->runs[i]);
    }
    for (uint32_t i = 0; i < r->rec.n_page; i++) {
        struct sp_kv_slot **at = bucket_of(s, &r->rec.page[i].id);
        while (*at != &r->hash[i])
            at = &(*at)->next;
        *at = r->hash[i].next;
    }
    s->n_slot -= r->rec.n_page;
    s->n_run--;
    s->runs[r->slot] = s->runs[s->n_run];
    s->key[r->slot] = s->key[s->n_run];
    s->runs[r->slot]->slot = r->slot;
    r->dead = true;
    r->next_dead = s->dead;
    s->dead = r;
}

bool sp_kvs_bury_place(sp_kv_store *s, const sp_kv_run *r)
{
    sp_kv_run *hole = sp_kvs_run_new(&r->rec);
    if (!hole)
        return false;
    hole->seg = r->seg;
    hole->at = r->at;
    hole->bytes = r->bytes;
    hole->dead = true;
    hole->next_dead = s->dead;
    s->dead = hole;
    return true;
}
