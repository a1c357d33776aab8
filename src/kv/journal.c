/* The index on disk: a log of additions and losses, replayed at the start, written afresh now and
 * then. */
#include "kv/store_int.h"

#include "base/rd.h"

#define LOG_MAGIC "SPKVIDX1"

enum {
    LOG_ENTRY = 16, /* bytes before an entry's payload */
    LOG_MAX_PAYLOAD = 1 << 14
};

static void put_entry(sp_buf *out, sp_kvs_log_kind kind, const void *payload, size_t n)
{
    uint32_t head[2] = {(uint32_t)kind, (uint32_t)n};
    size_t at = out->len;
    uint64_t sum = 0;
    sp_buf_put(out, head, sizeof head);
    sp_buf_put(out, &sum, sizeof sum);
    sp_buf_put(out, payload, n);
    if (out->failed)
        return;
    sum = sp_kv_sum(out->p + at, LOG_ENTRY + n); /* over kind, length, zero and payload */
    memcpy(out->p + at + 8, &sum, sizeof sum);
}

static void put_add(sp_buf *out, const sp_kv_run *r)
{
    sp_buf b = {0};
    const sp_kv_rec *c = &r->rec;
    const uint32_t num[] = {r->seg,      c->n_page,  c->n_layer, c->hi_bytes,
                            c->lo_bytes, c->lo_mask, c->first,   r->hits};
    const uint64_t place[] = {r->at, r->bytes, r->cold_bytes, (uint64_t)r->used_s};
    sp_buf_put(&b, num, sizeof num);
    sp_buf_put(&b, place, sizeof place);
    sp_buf_put(&b, c->tag, SP_KV_TAG);
    sp_buf_put(&b, c->conv, SP_KV_TAG);
    sp_buf_put(&b, c->parent.b, 32);
    for (uint32_t i = 0; i < c->n_page; i++) {
        sp_buf_put(&b, c->page[i].id.b, 32);
        sp_buf_put(&b, c->page[i].tok, sizeof c->page[i].tok);
    }
    put_entry(out, LOG_ADD, b.p, b.len);
    out->failed = out->failed || b.failed;
    sp_buf_fini(&b);
}

/* The whole index as a fresh log: index.new, fsync, rename, fsync of the folder. */
sp_err sp_kvs_log_rewrite(sp_kv_store *s, sp_diag *d)
{
    sp_buf b = {0};
    sp_buf_put(&b, LOG_MAGIC, 8);
    sp_lock_get(&s->lock);
    for (size_t i = 0; i < s->n_run; i++)
        put_add(&b, s->runs[i]);
    sp_lock_put(&s->lock);
    int fd = b.failed
                 ? -1
                 : openat(s->dir_fd, "index.new", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    sp_err err = b.failed ? SP_FAIL(d, SP_NOMEM, "index")
                 : fd < 0 ? sp_kvs_io_error(s, "index.new", d)
                          : SP_OK;
    if (err == SP_OK)
        err = sp_kvs_write_all(s, fd, b.p, b.len, 0, "index.new", d);
    if (err == SP_OK && fsync(fd) != 0)
        err = sp_kvs_io_error(s, "index.new", d);
    if (err == SP_OK && renameat(s->dir_fd, "index.new", s->dir_fd, "index") != 0)
        err = sp_kvs_io_error(s, "index", d);
    if (err == SP_OK) {
        (void)fsync(s->dir_fd);
        if (s->log_fd >= 0)
            close(s->log_fd);
        s->log_fd = fd;
        s->log_len = b.len;
        s->log_broken = false;
    } else if (fd >= 0) {
        close(fd);
    }
    sp_buf_fini(&b);
    return err;
}

static sp_err log_append(sp_kv_store *s, const sp_buf *entry, sp_diag *d)
{
    sp_lock_get(&s->log_lock);
    sp_lock_get(&s->lock);
    uint64_t live = s->n_run * 160 + s->n_slot * 160; /* about what a fresh log would take */
    sp_lock_put(&s->lock);
    sp_err err = SP_OK;
    if (entry->failed)
        err = SP_FAIL(d, SP_NOMEM, "index");
    else if (s->log_broken || s->log_len > 2 * live + (1 << 20))
        err = sp_kvs_log_rewrite(s, d); /* what the entry says is in the index already */
    if (err == SP_OK && !entry->failed) {
        err = sp_kvs_write_all(s, s->log_fd, entry->p, entry->len, s->log_len, "index", d);
        if (err == SP_OK)
            s->log_len += entry->len;
        else
            s->log_broken = ftruncate(s->log_fd, (off_t)s->log_len) != 0;
    }
    sp_lock_put(&s->log_lock);
    return err;
}

/* An entry that names a run by its last page. A drop that cannot be logged is made up for by the
 * hole: what the log still promises then fails its checksum. */
sp_err sp_kvs_log_about(sp_kv_store *s, sp_kvs_log_kind kind, const sp_sha256 *name, uint64_t bytes,
                        sp_diag *d)
{
    uint8_t payload[40];
    sp_buf b = {0};
    memcpy(payload, name->b, 32);
    memcpy(payload + 32, &bytes, 8);
    put_entry(&b, kind, payload, sizeof payload);
    sp_err err = log_append(s, &b, d);
    sp_buf_fini(&b);
    return err;
}
sp_err sp_kvs_log_run(sp_kv_store *s, const sp_kv_run *r, sp_diag *d)
{
    sp_buf b = {0};
    put_add(&b, r);
    sp_err err = log_append(s, &b, d);
    sp_buf_fini(&b);
    return err;
}

/* --- replay ----------------------------------------------------------------------------------- */

static sp_err replay_add(sp_kv_store *s, sp_rd *rd)
{
    sp_kv_rec_page page[SP_KV_RUN];
    sp_kv_rec c = {.page = page};
    uint32_t seg = sp_rd_u32(rd);
    c.n_page = sp_rd_u32(rd);
    c.n_layer = sp_rd_u32(rd);
    c.hi_bytes = sp_rd_u32(rd);
    c.lo_bytes = sp_rd_u32(rd);
    c.lo_mask = sp_rd_u32(rd);
    c.first = sp_rd_u32(rd);
    uint32_t hits = sp_rd_u32(rd);
    uint64_t at = sp_rd_u64(rd), bytes = sp_rd_u64(rd), cold = sp_rd_u64(rd), used = sp_rd_u64(rd);
    const void *tag = sp_rd_bytes(rd, SP_KV_TAG), *conv = sp_rd_bytes(rd, SP_KV_TAG),
               *parent = sp_rd_bytes(rd, 32);
    if (rd->failed || c.n_page < 1 || c.n_page > SP_KV_RUN || c.n_layer < 1 || c.n_layer > 4096 ||
        c.lo_mask >> c.n_page || sp_rd_left(rd) != c.n_page * 160 ||
        (seg && bytes != sp_kv_rec_bytes(&c)) || at % SP_KV_ALIGN || (!seg && !cold))
        return SP_CORRUPT;
    memcpy(c.tag, tag, SP_KV_TAG);
    memcpy(c.conv, conv, SP_KV_TAG);
    memcpy(c.parent.b, parent, 32);
    for (uint32_t i = 0; i < c.n_page; i++) {
        memcpy(page[i].id.b, sp_rd_bytes(rd, 32), 32);
        memcpy(page[i].tok, sp_rd_bytes(rd, sizeof page[i].tok), sizeof page[i].tok);
        if (sp_kvs_find_slot(s, &page[i].id))
            return SP_OK; /* known: the first entry stands */
    }
    sp_kv_run *r = sp_kvs_run_new(&c);
    if (!r)
        return SP_NOMEM;
    r->seg = seg;
    r->at = at;
    r->bytes = seg ? bytes : sp_kv_rec_bytes(&c);
    r->cold_bytes = cold;
    r->used_s = (int64_t)used;
    r->hits = hits;
    sp_err err = sp_kvs_index_add(s, r);
    if (err != SP_OK)
        sp_mem_free(r);
    return err;
}

/* Segments are not open yet, so the books of bytes are made afterwards. */
static void replay_about(sp_kv_store *s, sp_kvs_log_kind kind, sp_rd *rd)
{
    const void *p = sp_rd_bytes(rd, 32);
    uint64_t bytes = sp_rd_u64(rd);
    if (rd->failed)
        return;
    sp_sha256 id;
    memcpy(id.b, p, 32);
    struct sp_kv_slot *at = sp_kvs_find_slot(s, &id);
    if (!at)
        return;
    sp_kv_run *r = at->run;
    if (kind == LOG_COLD)
        r->cold_bytes = bytes;
    if (kind == LOG_DROP_WARM)
        r->seg = 0;
    if (kind == LOG_DROP || (!r->seg && !r->cold_bytes)) {
        sp_kvs_count_out(s, r);
        r->seg = 0; /* no books yet */
        sp_kvs_index_remove(s, r);
        s->dead = r->next_dead;
        sp_mem_free(r);
    }
}

static sp_err replay(sp_kv_store *s, const uint8_t *p, size_t n, size_t *n_good, size_t *n_skip)
{
    size_t at = 8;
    *n_skip = 0;
    while (n - at >= LOG_ENTRY) {
        uint32_t kind, len;
        uint64_t sum, zero = 0;
        uint8_t copy[LOG_ENTRY + LOG_MAX_PAYLOAD];
        memcpy(&kind, p + at, 4);
        memcpy(&len, p + at + 4, 4);
        memcpy(&sum, p + at + 8, 8);
        if (len > LOG_MAX_PAYLOAD || len > n - at - LOG_ENTRY)
            break;
        memcpy(copy, p + at, LOG_ENTRY + len);
        memcpy(copy + 8, &zero, 8);
        if (sum != sp_kv_sum(copy, LOG_ENTRY + len))
            break;
        sp_rd rd = sp_rd_make(p + at + LOG_ENTRY, len);
        if (kind == LOG_ADD) {
            sp_err err = replay_add(s, &rd);
            if (err == SP_NOMEM)
                return err;
            *n_skip += err != SP_OK;
        } else {
            replay_about(s, (sp_kvs_log_kind)kind, &rd);
        }
        at += LOG_ENTRY + len;
    }
    *n_good = at;
    return SP_OK;
}
sp_err sp_kvs_open_log(sp_kv_store *s, sp_diag *d)
{
    s->log_fd = openat(s->dir_fd, "index", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (s->log_fd < 0)
        return errno == ENOENT ? SP_OK : sp_kvs_io_error(s, "index", d);
    struct stat st;
    if (fstat(s->log_fd, &st) != 0)
        return sp_kvs_io_error(s, "index", d);
    size_t n = (size_t)st.st_size, good = 0, skip = 0;
    uint8_t *p = sp_mem_raw(n ? n : 1);
    sp_err err = p ? sp_kvs_read_all(s, s->log_fd, p, n, 0, "index", d)
                   : SP_FAIL(d, SP_NOMEM, "index of %zu bytes", n);
    if (err == SP_OK && (n < 8 || memcmp(p, LOG_MAGIC, 8) != 0)) {
        sp_log(SP_LOG_WARN, "%s/index is not an index: starting empty", s->dir);
        s->stat.n_corrupt++;
    } else if (err == SP_OK) {
        err = replay(s, p, n, &good, &skip);
        if (good < n || skip) {
            sp_log(SP_LOG_WARN,
                   "%s/index: %zu of %zu bytes read, %zu entries left out; what is missing is "
                   "computed again",
                   s->dir, good, n, skip);
            s->stat.n_corrupt += skip + (good < n);
        }
    }
    sp_mem_free(p);
    return err;
}
