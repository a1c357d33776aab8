/* The files a GGUF lies in: one, or the parts of a split one, which are mapped behind each other in
 * one range of addresses, so that all that goes by addresses (identity, forgetting, owning) sees
 * one file.
 * Invariants after open: the first part's keys are the model's, the others have none beside those
 * of splitting; each part says of itself which it is and of how many; all of them say
 * how many tensors there are, and so many there are, no two of one name. */
#include "fmt/gguf_int.h"
#include "fmt/split.h"

#include "base/mem.h"

#include <string.h>

/* A multiple of every machine's page size, so that a file's place is the same on all of them. */
enum { PART_ALIGN = 1 << 16 };

/* The file's name without its folder: what errors call a part. */
static const char *name_of(const sp_gguf_part *p)
{
    const char *slash = strrchr(p->path, '/');
    return slash ? slash + 1 : p->path;
}

static size_t placed(size_t n_bytes)
{
    return (n_bytes + PART_ALIGN - 1) / PART_ALIGN * PART_ALIGN;
}

/* --- one part and the others ------------------------------------------------------------------ */

static sp_err read_number(uint64_t *out, const sp_gguf *g, const sp_gguf_part *p, const char *key,
                          sp_diag *d)
{
    sp_err err = sp_gguf_u64(out, g, key, 0, UINT32_MAX, NULL);
    return err == SP_OK ? SP_OK
                        : SP_FAIL(d, SP_FORMAT, "%.100s: key %s is %s", name_of(p), key,
                                  err == SP_NOTFOUND ? "missing" : "no number of parts");
}

/* What part i says of itself. all: how many tensors the parts have together, as the first says. */
static sp_err check_numbers(uint64_t *all, const sp_gguf *g, const sp_gguf_part *p, size_t i,
                            size_t n_part, sp_diag *d)
{
    uint64_t no, count, n_tensor;
    SP_TRY(read_number(&no, g, p, "split.no", d));
    SP_TRY(read_number(&count, g, p, "split.count", d));
    SP_TRY(read_number(&n_tensor, g, p, "split.tensors.count", d));
    if (no != i || count != n_part)
        return SP_FAIL(d, SP_FORMAT, "%.100s: says that it is part %llu of %llu", name_of(p),
                       (unsigned long long)no + 1, (unsigned long long)count);
    if (i && n_tensor != *all)
        return SP_FAIL(
            d, SP_FORMAT,
            "%.80s: a part of another model: it says %llu tensors in all, the first part %llu",
            name_of(p), (unsigned long long)n_tensor, (unsigned long long)*all);
    *all = n_tensor;
    return SP_OK;
}

static bool str_eq(sp_str a, sp_str b)
{
    return a.n == b.n && memcmp(a.p, b.p, a.n) == 0;
}

static bool kv_eq(const sp_gguf_kv *a, const sp_gguf_kv *b)
{
    if (a->type != b->type || a->n != b->n)
        return false;
    if (a->type == KV_STR)
        return str_eq(a->str, b->str);
    if (a->type != KV_ARR)
        return memcmp(a->p, b->p, sp_gguf_kv_bytes[a->type]) == 0;
    if (a->elem != b->elem)
        return false;
    for (uint64_t i = 0; a->strs && i < a->n; i++)
        if (!str_eq(a->strs[i], b->strs[i]))
            return false;
    return a->strs || memcmp(a->p, b->p, (size_t)a->n * sp_gguf_kv_bytes[a->elem]) == 0;
}

/* A later part may repeat the model's keys; one with a key of its own is of another model. */
static sp_err check_keys(const sp_gguf *first, const sp_gguf *g, const sp_gguf_part *p, sp_diag *d)
{
    static const char own[] = "split.", align[] = "general.alignment";
    for (size_t i = 0; i < g->n_kv; i++) {
        const sp_gguf_kv *e = &g->kvs[i], *same = sp_gguf_kv_find(first, e->key.p, e->key.n);
        if ((e->key.n >= sizeof own - 1 && memcmp(e->key.p, own, sizeof own - 1) == 0) ||
            str_eq(e->key, (sp_str){align, sizeof align - 1}))
            continue;
        if (!same || !kv_eq(same, e))
            return SP_FAIL(d, SP_FORMAT,
                           "%.80s: a part of another model: key %.*s is not as in the first part",
                           name_of(p), e->key.n < 60 ? (int)e->key.n : 60, e->key.p);
    }
    return SP_OK;
}

/* The part's tensors become the whole's. */
static sp_err take_tensors(sp_gguf *g, const sp_gguf *piece, const sp_gguf_part *p, sp_diag *d)
{
    uint32_t twin;
    sp_tensor *more = sp_mem_grow(g->tensors, (g->n_tensor + piece->n_tensor + 1) * sizeof *more);
    if (!more)
        return SP_FAIL(d, SP_NOMEM, "gguf: tensor table");
    g->tensors = more;
    for (size_t i = 0; i < piece->n_tensor; i++) {
        const sp_tensor *t = &piece->tensors[i];
        if (sp_map_find(&g->names, t->name.p, t->name.n, &twin))
            return SP_FAIL(d, SP_FORMAT, "%.80s: tensor %.*s is in a part before it, too",
                           name_of(p), (int)t->name.n, t->name.p);
        if (sp_map_set(&g->names, t->name.p, t->name.n, (uint32_t)g->n_tensor) != SP_OK)
            return SP_FAIL(d, SP_NOMEM, "gguf: tensor table");
        g->tensors[g->n_tensor++] = *t;
    }
    return SP_OK;
}

/* --- opening ---------------------------------------------------------------------------------- */

static sp_err parse_part(sp_gguf **out, const sp_gguf_part *p, sp_diag *d)
{
    sp_diag why = {0};
    sp_err err = sp_gguf_parse(out, p->p, p->n_bytes, false, &why);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "%.60s: %s", name_of(p), why.msg);
}

/* *out is the first part's, and takes what the others have. */
static sp_err merge(sp_gguf **out, const sp_gguf_part *part, size_t n, sp_diag *d)
{
    uint64_t all = 0;
    SP_TRY(parse_part(out, &part[0], d));
    SP_TRY(check_numbers(&all, *out, &part[0], 0, n, d));
    for (size_t i = 1; i < n; i++) {
        sp_gguf *piece;
        SP_TRY(parse_part(&piece, &part[i], d));
        sp_err err = check_numbers(&all, piece, &part[i], i, n, d);
        if (err == SP_OK)
            err = check_keys(*out, piece, &part[i], d);
        if (err == SP_OK)
            err = take_tensors(*out, piece, &part[i], d);
        sp_gguf_close(piece);
        SP_TRY(err);
    }
    if ((*out)->n_tensor != all)
        return SP_FAIL(d, SP_FORMAT, "%.100s: its parts have %zu tensors together, and say %llu",
                       name_of(&part[0]), (*out)->n_tensor, (unsigned long long)all);
    return SP_OK;
}

/* Paths, sizes and stamps of all parts. */
static sp_err find_parts(sp_gguf_part *part, const sp_split *s, const char *path, sp_diag *d)
{
    for (size_t i = 0; i < s->count; i++) {
        char name[1024];
        sp_diag why = {0};
        SP_TRY(sp_split_path(name, sizeof name, path, s, (unsigned)i + 1, d));
        part[i].path = sp_mem_strdup(name);
        if (!part[i].path)
            return SP_FAIL(d, SP_NOMEM, "gguf");
        sp_err err = sp_file_stamp_of(&part[i].stamp, name, &why);
        if (err != SP_OK)
            return SP_FAIL(d, err, "part %zu of %u: %.150s", i + 1, s->count, why.msg);
        part[i].n_bytes = (size_t)part[i].stamp.n_bytes;
    }
    return SP_OK;
}

static sp_err map_parts(sp_file_map *out, sp_gguf_part *part, size_t n, sp_diag *d)
{
    size_t all = 0;
    for (size_t i = 0; i < n; i++) {
        if (part[i].n_bytes > SIZE_MAX / 4 || all > SIZE_MAX / 4)
            return SP_FAIL(d, SP_LIMIT, "%.100s: too large", name_of(&part[i]));
        all += placed(part[i].n_bytes);
    }
    SP_TRY(sp_file_range_open(out, all, d));
    for (size_t i = 0, at = 0; i < n; i++) {
        sp_file_stamp then = part[i].stamp;
        part[i].p = out->p + at;
        SP_TRY(sp_file_map_at(part[i].p, part[i].n_bytes, part[i].path, &part[i].stamp, d));
        if (!sp_file_stamp_eq(&then, &part[i].stamp))
            return SP_FAIL(d, SP_FORMAT, "%.100s: was changed while it was opened",
                           name_of(&part[i]));
        at += placed(part[i].n_bytes);
    }
    return SP_OK;
}

/* One file, as a part without others. */
static sp_err open_single(sp_gguf **out, sp_file_map *map, sp_gguf_part *part, const char *path,
                          bool only_keys, sp_diag *d)
{
    uint64_t count;
    SP_TRY(sp_file_map_open(map, path, d));
    part->path = sp_mem_strdup(path);
    part->stamp = map->stamp;
    part->p = map->p;
    part->n_bytes = map->len;
    if (!part->path)
        return SP_FAIL(d, SP_NOMEM, "gguf");
    SP_TRY(sp_gguf_parse(out, map->p, map->len, only_keys, d));
    if (!only_keys && sp_gguf_u64(&count, *out, "split.count", 2, UINT64_MAX, NULL) == SP_OK)
        return SP_FAIL(
            d, SP_FORMAT,
            "gguf: one of %llu parts of a model, whose name does not end in -00001-of-%05llu.gguf",
            (unsigned long long)count, (unsigned long long)count);
    return SP_OK;
}

static sp_err open_split(sp_gguf **out, sp_file_map *map, sp_gguf_part *part, const char *path,
                         const sp_split *s, sp_diag *d)
{
    SP_TRY(find_parts(part, s, path, d));
    SP_TRY(map_parts(map, part, s->count, d));
    return merge(out, part, s->count, d);
}

static sp_err open_file(sp_gguf **out, const char *path, bool only_keys, sp_diag *d)
{
    sp_split s;
    bool is_split = sp_split_parse(&s, path);
    char first[1024];
    if (is_split && s.count > SP_SPLIT_PARTS)
        return SP_FAIL(d, SP_LIMIT, "%.100s: %u parts, limit %d", path, s.count, SP_SPLIT_PARTS);
    SP_TRY(is_split ? sp_split_path(first, sizeof first, path, &s, 1, d) : SP_OK);
    size_t n = is_split && !only_keys ? s.count : 1;
    sp_file_map map = {0};
    sp_gguf *g = NULL;
    sp_gguf_part *part = sp_mem_array(n, sizeof *part);
    if (!part)
        return SP_FAIL(d, SP_NOMEM, "gguf");
    sp_err err = is_split && !only_keys
                     ? open_split(&g, &map, part, path, &s, d)
                     : open_single(&g, &map, part, is_split ? first : path, only_keys, d);
    size_t *forgotten = err == SP_OK ? sp_mem_array(g->n_tensor + 1, sizeof *forgotten) : NULL;
    if (err == SP_OK && !forgotten)
        err = SP_FAIL(d, SP_NOMEM, "gguf");
    if (err != SP_OK) {
        for (size_t i = 0; i < n; i++)
            sp_mem_free(part[i].path);
        sp_mem_free(part);
        sp_gguf_close(g);
        sp_file_map_close(&map);
        return err;
    }
    g->map = map;
    g->base = map.p;
    g->n_bytes = map.len;
    g->part = part;
    g->n_part = n;
    g->forgotten = forgotten;
    *out = g;
    return SP_OK;
}

sp_err sp_gguf_open(sp_gguf **out, const char *path, sp_diag *d)
{
    return open_file(out, path, false, d);
}

sp_err sp_gguf_open_keys(sp_gguf **out, const char *path, sp_diag *d)
{
    return open_file(out, path, true, d);
}

/* --- the map ---------------------------------------------------------------------------------- */

const uint8_t *sp_gguf_base(const sp_gguf *g)
{
    return g->base;
}

size_t sp_gguf_base_bytes(const sp_gguf *g)
{
    return g->n_bytes;
}

size_t sp_gguf_file_bytes(const sp_gguf *g)
{
    size_t all = 0;
    for (size_t i = 0; i < g->n_part; i++)
        all += g->part[i].n_bytes;
    return g->n_part ? all : g->n_bytes;
}

size_t sp_gguf_part_count(const sp_gguf *g)
{
    return g->n_part;
}

const char *sp_gguf_part_path(const sp_gguf *g, size_t i)
{
    return g->part[i].path;
}

const sp_file_stamp *sp_gguf_part_stamp(const sp_gguf *g, size_t i)
{
    return &g->part[i].stamp;
}

void sp_gguf_ahead(const sp_gguf *g, const void *p, size_t n_bytes)
{
    size_t at = (size_t)((const uint8_t *)p - sp_gguf_base(g)), all = sp_gguf_base_bytes(g);
    if (g->map.p && at < all)
        sp_file_map_ahead(p, all - at < n_bytes ? all - at : n_bytes);
}

void sp_gguf_forget(const sp_gguf *g, const void *p, size_t n_bytes)
{
    if (!g->map.p)
        return;
    for (size_t i = 0; i < g->n_tensor; i++) {
        const sp_tensor *t = &g->tensors[i];
        if ((const char *)p >= (const char *)t->data &&
            (const char *)p < (const char *)t->data + t->n_bytes)
            g->forgotten[i] += n_bytes;
    }
    sp_file_map_forget(p, n_bytes);
}

/* Keys and names of a part come before all its tensors. */
static sp_err own_head(const sp_gguf *g, const sp_gguf_part *p, sp_diag *d)
{
    const uint8_t *end = p->p + p->n_bytes;
    for (size_t i = 0; i < g->n_tensor; i++) {
        const uint8_t *data = g->tensors[i].data;
        end = data >= p->p && data < end ? data : end;
    }
    return sp_file_map_own(p->p, (size_t)(end - p->p), d);
}

sp_err sp_gguf_own(sp_gguf *g, sp_diag *d)
{
    for (size_t i = 0; g->map.p && i < g->n_tensor; i++)
        if (g->forgotten[i] < g->tensors[i].n_bytes)
            SP_TRY(sp_file_map_own(g->tensors[i].data, g->tensors[i].n_bytes, d));
    for (size_t i = 0; i < g->n_part; i++)
        SP_TRY(own_head(g, &g->part[i], d));
    return SP_OK;
}
