/* Warm store. Invariants:
 * 1. A page identity is in the hash at most once; every slot of a live run is in it, of a dead run none.
 * 2. key[i] is runs[i]'s priority, or infinity while it must not be given up: not on disk, pinned, or
 *    continued by another run on disk.
 * 3. A segment's live bytes are the sum of its live runs' bytes. A dead run keeps its bytes until swept.
 * 4. The log holds, in order, what was added and given up; replaying it gives the index. */
#include "kv/store.h"

#include "base/buf.h"
#include "base/clock.h"
#include "base/fault.h"
#include "base/lock.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/rd.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <math.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <unistd.h>

#define LOG_MAGIC "SPKVIDX1"
#define SEG_MAGIC "SPKVSEG1"

enum {
    SEG_MAX = 256 << 20,
    SEG_MIN = 8 << 20,
    LOG_ENTRY = 16, /* bytes before an entry's payload */
    LOG_MAX_PAYLOAD = 1 << 14,
    LIVE_SHARE = 4, /* a segment less than 1/4 alive is copied together */
    FLUSH_S = 5
};

typedef enum log_kind { LOG_ADD = 1, LOG_COLD, LOG_DROP_WARM, LOG_DROP } log_kind;

typedef struct segment {
    uint32_t serial;
    int fd;
    uint64_t len, live;
    bool dirty;
} segment;

struct sp_kv_store {
    sp_kv_store_cfg cfg;
    char *dir;
    int dir_fd, lock_fd;
    uint64_t seg_cap;
    /* guard: lock (rank KV) */
    sp_lock lock;
    sp_kv_run **runs;
    double *key; /* beside runs, for eviction */
    size_t n_run, cap_run;
    struct sp_kv_slot **bucket;
    size_t n_bucket, n_slot;
    sp_kv_run *dead;
    double floor;
    uint64_t warm_bytes;
    sp_kv_store_stat stat;
    segment *seg; /* writers are on the writer thread and hold the lock */
    size_t n_seg, cap_seg;
    /* guard: log_lock (rank KV_LOG) */
    sp_lock log_lock;
    int log_fd;
    uint64_t log_len;
    bool log_broken;  /* an entry is half written: the log must be rewritten */
    uint64_t t_flush; /* owner: writer thread */
    bool can_punch;
};

/* --- small I/O -------------------------------------------------------------------------------- */

static sp_err io_error(const sp_kv_store *s, const char *what, sp_diag *d)
{
    int e = errno;
    sp_err err = SP_FAIL(d, SP_IO, "%.100s: %s: %s", s->dir, what, strerror(e));
    if (d)
        d->os_errno = e;
    return err;
}

static sp_err write_all(const sp_kv_store *s, int fd, const void *p, size_t n, uint64_t at, const char *what, sp_diag *d)
{
    for (size_t done = 0; done < n;) {
        ssize_t k =
            sp_fault_hit(SP_FAULT_IO) ? (errno = EIO, -1) : pwrite(fd, (const uint8_t *)p + done, n - done, (off_t)(at + done));
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return io_error(s, what, d);
        done += (size_t)k;
    }
    return SP_OK;
}

static sp_err read_all(const sp_kv_store *s, int fd, void *p, size_t n, uint64_t at, const char *what, sp_diag *d)
{
    for (size_t done = 0; done < n;) {
        ssize_t k = sp_fault_hit(SP_FAULT_IO) ? (errno = EIO, -1) : pread(fd, (uint8_t *)p + done, n - done, (off_t)(at + done));
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return io_error(s, what, d);
        if (k == 0)
            return SP_FAIL(d, SP_CORRUPT, "%.100s: %s ends early", s->dir, what);
        done += (size_t)k;
    }
    return SP_OK;
}

/* --- index in memory -------------------------------------------------------------------------- */

static struct sp_kv_slot **bucket_of(const sp_kv_store *s, const sp_sha256 *id)
{
    uint64_t h;
    memcpy(&h, id->b, sizeof h);
    return &s->bucket[h & (s->n_bucket - 1)];
}

static struct sp_kv_slot *find_slot(const sp_kv_store *s, const sp_sha256 *id)
{
    struct sp_kv_slot *at = *bucket_of(s, id);
    while (at && memcmp(at->run->rec.page[at->page].id.b, id->b, 32) != 0)
        at = at->next;
    return at;
}

static const sp_sha256 *name_of(const sp_kv_run *r)
{
    return &r->rec.page[r->rec.n_page - 1].id;
}

static void set_key(sp_kv_store *s, const sp_kv_run *r)
{
    if (!r->dead)
        s->key[r->slot] = r->seg && r->pins == 0 && r->n_child == 0 ? r->prio : INFINITY;
}

static void set_prio(sp_kv_store *s, sp_kv_run *r)
{
    double n = 32.0 * r->rec.n_page, at = 32.0 * r->rec.first + n / 2, bytes = (double)(r->bytes ? r->bytes : 1);
    r->prio = s->floor + (1.0 + r->hits) * n * (1 + at * s->cfg.depth_cost) / bytes;
    set_key(s, r);
}

static void count_in(sp_kv_store *s, sp_kv_run *r)
{
    struct sp_kv_slot *up = find_slot(s, &r->rec.parent);
    r->counted = up != NULL;
    if (!up)
        return;
    up->run->n_child++;
    set_key(s, up->run);
}

static void count_out(sp_kv_store *s, sp_kv_run *r)
{
    struct sp_kv_slot *up = r->counted ? find_slot(s, &r->rec.parent) : NULL;
    r->counted = false;
    if (!up)
        return;
    up->run->n_child--;
    set_key(s, up->run);
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

static sp_kv_run *run_new(const sp_kv_rec *rec)
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

static sp_err index_add(sp_kv_store *s, sp_kv_run *r)
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
        count_in(s, r);
    set_prio(s, r);
    return SP_OK;
}

static segment *seg_of(const sp_kv_store *s, uint32_t serial)
{
    for (size_t i = 0; i < s->n_seg; i++)
        if (s->seg[i].serial == serial)
            return &s->seg[i];
    return NULL;
}

/* Off the disk's books. The bytes stay until the run is swept, or `seg` says where they were. */
static void leave_warm(sp_kv_store *s, sp_kv_run *r)
{
    if (!r->seg)
        return;
    segment *g = seg_of(s, r->seg);
    g->live -= r->bytes;
    s->warm_bytes -= r->bytes;
    count_out(s, r);
}

static void index_remove(sp_kv_store *s, sp_kv_run *r)
{
    leave_warm(s, r);
    for (size_t i = 0; r->n_child && i < s->n_run; i++) { /* a mismatch or a deletion: orphans count nowhere */
        struct sp_kv_slot *up = s->runs[i]->counted ? find_slot(s, &s->runs[i]->rec.parent) : NULL;
        if (up && up->run == r)
            count_out(s, s->runs[i]);
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

/* --- log -------------------------------------------------------------------------------------- */

static void put_entry(sp_buf *out, log_kind kind, const void *payload, size_t n)
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
    const uint32_t num[] = {r->seg, c->n_page, c->n_layer, c->hi_bytes, c->lo_bytes, c->lo_mask, c->first, r->hits};
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
static sp_err log_rewrite(sp_kv_store *s, sp_diag *d)
{
    sp_buf b = {0};
    sp_buf_put(&b, LOG_MAGIC, 8);
    sp_lock_get(&s->lock);
    for (size_t i = 0; i < s->n_run; i++)
        put_add(&b, s->runs[i]);
    sp_lock_put(&s->lock);
    int fd = b.failed ? -1 : openat(s->dir_fd, "index.new", O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC, 0600);
    sp_err err = b.failed ? SP_FAIL(d, SP_NOMEM, "index") : fd < 0 ? io_error(s, "index.new", d) : SP_OK;
    if (err == SP_OK)
        err = write_all(s, fd, b.p, b.len, 0, "index.new", d);
    if (err == SP_OK && fsync(fd) != 0)
        err = io_error(s, "index.new", d);
    if (err == SP_OK && renameat(s->dir_fd, "index.new", s->dir_fd, "index") != 0)
        err = io_error(s, "index", d);
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
        err = log_rewrite(s, d); /* what the entry says is in the index already */
    if (err == SP_OK && !entry->failed) {
        err = write_all(s, s->log_fd, entry->p, entry->len, s->log_len, "index", d);
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
static sp_err log_about(sp_kv_store *s, log_kind kind, const sp_sha256 *name, uint64_t bytes, sp_diag *d)
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
    const void *tag = sp_rd_bytes(rd, SP_KV_TAG), *conv = sp_rd_bytes(rd, SP_KV_TAG), *parent = sp_rd_bytes(rd, 32);
    if (rd->failed || c.n_page < 1 || c.n_page > SP_KV_RUN || c.n_layer < 1 || c.n_layer > 4096 || c.lo_mask >> c.n_page ||
        sp_rd_left(rd) != c.n_page * 160 || (seg && bytes != sp_kv_rec_bytes(&c)) || at % SP_KV_ALIGN || (!seg && !cold))
        return SP_CORRUPT;
    memcpy(c.tag, tag, SP_KV_TAG);
    memcpy(c.conv, conv, SP_KV_TAG);
    memcpy(c.parent.b, parent, 32);
    for (uint32_t i = 0; i < c.n_page; i++) {
        memcpy(page[i].id.b, sp_rd_bytes(rd, 32), 32);
        memcpy(page[i].tok, sp_rd_bytes(rd, sizeof page[i].tok), sizeof page[i].tok);
        if (find_slot(s, &page[i].id))
            return SP_OK; /* known: the first entry stands */
    }
    sp_kv_run *r = run_new(&c);
    if (!r)
        return SP_NOMEM;
    r->seg = seg;
    r->at = at;
    r->bytes = seg ? bytes : sp_kv_rec_bytes(&c);
    r->cold_bytes = cold;
    r->used_s = (int64_t)used;
    r->hits = hits;
    sp_err err = index_add(s, r);
    if (err != SP_OK)
        sp_mem_free(r);
    return err;
}

/* Segments are not open yet, so the books of bytes are made afterwards. */
static void replay_about(sp_kv_store *s, log_kind kind, sp_rd *rd)
{
    const void *p = sp_rd_bytes(rd, 32);
    uint64_t bytes = sp_rd_u64(rd);
    if (rd->failed)
        return;
    sp_sha256 id;
    memcpy(id.b, p, 32);
    struct sp_kv_slot *at = find_slot(s, &id);
    if (!at)
        return;
    sp_kv_run *r = at->run;
    if (kind == LOG_COLD)
        r->cold_bytes = bytes;
    if (kind == LOG_DROP_WARM)
        r->seg = 0;
    if (kind == LOG_DROP || (!r->seg && !r->cold_bytes)) {
        count_out(s, r);
        r->seg = 0; /* no books yet */
        index_remove(s, r);
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
            replay_about(s, (log_kind)kind, &rd);
        }
        at += LOG_ENTRY + len;
    }
    *n_good = at;
    return SP_OK;
}

/* --- segments --------------------------------------------------------------------------------- */

static void seg_name(char out[32], uint32_t serial)
{
    snprintf(out, 32, "seg-%08x", serial);
}

static sp_err seg_attach(sp_kv_store *s, uint32_t serial, int fd, uint64_t len)
{
    if (s->n_seg == s->cap_seg) {
        size_t cap = s->cap_seg * 2 + 16;
        segment *p = sp_mem_grow(s->seg, cap * sizeof *p);
        if (!p)
            return SP_NOMEM;
        s->seg = p;
        s->cap_seg = cap;
    }
    s->seg[s->n_seg++] = (segment){.serial = serial, .fd = fd, .len = len};
    return SP_OK;
}

static sp_err seg_create(sp_kv_store *s, sp_diag *d)
{
    char name[32];
    uint32_t serial = 1;
    for (size_t i = 0; i < s->n_seg; i++)
        serial = s->seg[i].serial >= serial ? s->seg[i].serial + 1 : serial;
    seg_name(name, serial);
    int fd = sp_fault_hit(SP_FAULT_IO) ? (errno = EIO, -1)
                                       : openat(s->dir_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return io_error(s, name, d);
    uint8_t head[SP_KV_ALIGN] = SEG_MAGIC;
    memcpy(head + 8, &serial, 4);
    sp_err err = write_all(s, fd, head, sizeof head, 0, name, d);
    if (err == SP_OK) {
        sp_lock_get(&s->lock);
        err = seg_attach(s, serial, fd, SP_KV_ALIGN);
        sp_lock_put(&s->lock);
        if (err != SP_OK)
            (void)SP_FAIL(d, err, "segment");
    }
    if (err != SP_OK) {
        (void)unlinkat(s->dir_fd, name, 0);
        close(fd);
    }
    return err;
}

/* Opens what the log refers to and removes other segments; runs outside their file are dropped. */
static sp_err open_segments(sp_kv_store *s, sp_diag *d)
{
    DIR *dir = opendir(s->dir);
    if (!dir)
        return io_error(s, "folder", d);
    sp_err err = SP_OK;
    for (struct dirent *e; err == SP_OK && (e = readdir(dir));) {
        unsigned serial;
        char tail;
        if (sscanf(e->d_name, "seg-%8x%c", &serial, &tail) != 1 || strlen(e->d_name) != 12)
            continue;
        bool used = false;
        for (size_t i = 0; i < s->n_run && !used; i++)
            used = s->runs[i]->seg == serial;
        struct stat st;
        int fd = used ? openat(s->dir_fd, e->d_name, O_RDWR | O_CLOEXEC | O_NOFOLLOW) : -1;
        if (fd < 0 || fstat(fd, &st) != 0 || !S_ISREG(st.st_mode)) {
            if (fd >= 0)
                close(fd);
            else if (!used)
                (void)unlinkat(s->dir_fd, e->d_name, 0);
            continue;
        }
        uint64_t len = ((uint64_t)st.st_size + SP_KV_ALIGN - 1) / SP_KV_ALIGN * SP_KV_ALIGN;
        err = seg_attach(s, serial, fd, len);
        if (err != SP_OK)
            close(fd);
    }
    closedir(dir);
    for (size_t i = s->n_run; i-- > 0;) {
        sp_kv_run *r = s->runs[i];
        segment *g = r->seg ? seg_of(s, r->seg) : NULL;
        if (r->seg && (!g || r->at + r->bytes > g->len)) {
            count_out(s, r);
            r->seg = 0;
            if (!r->cold_bytes) {
                index_remove(s, r);
                s->dead = r->next_dead;
                sp_mem_free(r);
            }
        } else if (g) {
            g->live += r->bytes;
            s->warm_bytes += r->bytes;
        }
    }
    for (size_t i = 0; i < s->n_run; i++)
        s->runs[i]->n_child = 0;
    for (size_t i = 0; i < s->n_run; i++)
        if (s->runs[i]->seg)
            count_in(s, s->runs[i]);
    for (size_t i = 0; i < s->n_run; i++)
        set_prio(s, s->runs[i]);
    return err;
}

/* Frees the disk space of a range. Where the file system has no holes, zeros at least hide it. */
static sp_err punch(sp_kv_store *s, int fd, uint64_t at, uint64_t n)
{
    if (s->can_punch && fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)n) == 0)
        return SP_OK;
    if (s->can_punch && errno == EOPNOTSUPP)
        s->can_punch = false;
    static const uint8_t zero[65536];
    for (uint64_t i = 0; i < n; i += sizeof zero)
        SP_TRY(write_all(s, fd, zero, n - i < sizeof zero ? (size_t)(n - i) : sizeof zero, at + i, "segment", NULL));
    return SP_OK;
}

static int by_place(const void *a, const void *b)
{
    const sp_kv_run *x = *(sp_kv_run *const *)a, *y = *(sp_kv_run *const *)b;
    if (x->seg != y->seg)
        return x->seg < y->seg ? -1 : 1;
    return x->at < y->at ? -1 : x->at > y->at;
}

/* After a crash a segment may hold bytes nobody knows: between live runs, or a torn tail. */
static sp_err punch_gaps(sp_kv_store *s)
{
    sp_kv_run **by = sp_mem_array(s->n_run + 1, sizeof *by);
    if (!by)
        return SP_NOMEM;
    for (size_t k = 0; k < s->n_run; k++)
        by[k] = s->runs[k];
    qsort(by, s->n_run, sizeof *by, by_place);
    size_t i = 0;
    while (i < s->n_run && by[i]->seg == 0)
        i++;
    while (i < s->n_run) {
        segment *g = seg_of(s, by[i]->seg);
        uint64_t end = SP_KV_ALIGN;
        bool tight = g->live + SP_KV_ALIGN == g->len;
        for (; i < s->n_run && by[i]->seg == g->serial; i++) {
            if (!tight && by[i]->at > end)
                (void)punch(s, g->fd, end, by[i]->at - end);
            end = by[i]->at + by[i]->bytes;
        }
        if (g->len > end) {
            (void)ftruncate(g->fd, (off_t)end);
            g->len = end;
        }
    }
    sp_mem_free(by);
    return SP_OK;
}

/* --- open and close --------------------------------------------------------------------------- */

static sp_err lock_folder(sp_kv_store *s, sp_diag *d)
{
    char pid[32] = {0};
    if (mkdir(s->dir, 0700) != 0 && errno != EEXIST)
        return io_error(s, "cannot be made", d);
    s->dir_fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->dir_fd < 0)
        return io_error(s, "folder", d);
    s->lock_fd = openat(s->dir_fd, "LOCK", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->lock_fd < 0)
        return io_error(s, "LOCK", d);
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        (void)!read(s->lock_fd, pid, sizeof pid - 1);
        return SP_FAIL(d, SP_LIMIT, "%.120s is in use by process %.*s: one server a folder", s->dir, (int)strcspn(pid, "\n"),
                       pid);
    }
    int n = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
    if (ftruncate(s->lock_fd, 0) != 0 || pwrite(s->lock_fd, pid, (size_t)n, 0) != n)
        return io_error(s, "LOCK", d);
    return SP_OK;
}

static sp_err open_log(sp_kv_store *s, sp_diag *d)
{
    s->log_fd = openat(s->dir_fd, "index", O_RDWR | O_CLOEXEC | O_NOFOLLOW);
    if (s->log_fd < 0)
        return errno == ENOENT ? SP_OK : io_error(s, "index", d);
    struct stat st;
    if (fstat(s->log_fd, &st) != 0)
        return io_error(s, "index", d);
    size_t n = (size_t)st.st_size, good = 0, skip = 0;
    uint8_t *p = sp_mem_raw(n ? n : 1);
    sp_err err = p ? read_all(s, s->log_fd, p, n, 0, "index", d) : SP_FAIL(d, SP_NOMEM, "index of %zu bytes", n);
    if (err == SP_OK && (n < 8 || memcmp(p, LOG_MAGIC, 8) != 0)) {
        sp_log(SP_LOG_WARN, "%s/index is not an index: starting empty", s->dir);
        s->stat.n_corrupt++;
    } else if (err == SP_OK) {
        err = replay(s, p, n, &good, &skip);
        if (good < n || skip) {
            sp_log(SP_LOG_WARN, "%s/index: %zu of %zu bytes read, %zu entries left out; what is missing is computed again",
                   s->dir, good, n, skip);
            s->stat.n_corrupt += skip + (good < n);
        }
    }
    sp_mem_free(p);
    return err;
}

sp_err sp_kv_store_open(sp_kv_store **out, const sp_kv_store_cfg *cfg, sp_diag *d)
{
    uint64_t t = sp_clock_ns();
    sp_kv_store *s = sp_mem_alloc(sizeof *s);
    if (!s)
        return SP_FAIL(d, SP_NOMEM, "store");
    s->cfg = *cfg;
    s->dir_fd = s->lock_fd = s->log_fd = -1;
    s->can_punch = true;
    s->n_bucket = 1024;
    s->seg_cap = cfg->cap_bytes / 8 > SEG_MAX ? SEG_MAX : cfg->cap_bytes / 8 < SEG_MIN ? SEG_MIN : cfg->cap_bytes / 8;
    sp_lock_init(&s->lock, SP_RANK_KV);
    sp_lock_init(&s->log_lock, SP_RANK_KV_LOG);
    s->dir = sp_mem_strdup(cfg->dir);
    s->bucket = sp_mem_array(s->n_bucket, sizeof *s->bucket);
    sp_err err = s->dir && s->bucket ? lock_folder(s, d) : SP_FAIL(d, SP_NOMEM, "store");
    if (err == SP_OK)
        err = open_log(s, d);
    if (err == SP_OK)
        err = open_segments(s, d);
    if (err == SP_OK && punch_gaps(s) != SP_OK)
        err = SP_FAIL(d, SP_NOMEM, "store");
    if (err == SP_OK) {
        sp_lock_get(&s->log_lock);
        err = log_rewrite(s, d);
        sp_lock_put(&s->log_lock);
    }
    s->t_flush = sp_clock_ns();
    s->stat.open_ms = sp_clock_ms(t);
    if (err == SP_OK) {
        *out = s;
    } else {
        if (s->log_fd >= 0)
            close(s->log_fd);
        s->log_fd = -1; /* nothing is written back */
        sp_kv_store_close(s);
    }
    return err;
}

static void sweep(sp_kv_store *s);

void sp_kv_store_close(sp_kv_store *s)
{
    if (!s)
        return;
    if (s->log_fd >= 0) {
        sp_diag d = {0};
        sweep(s);
        sp_lock_get(&s->log_lock);
        if (log_rewrite(s, &d) != SP_OK) /* keeps what was used last and how often */
            sp_log(SP_LOG_WARN, "%s", d.msg);
        sp_lock_put(&s->log_lock);
        close(s->log_fd);
    }
    while (s->dead) {
        sp_kv_run *r = s->dead;
        s->dead = r->next_dead;
        sp_mem_free(r);
    }
    for (size_t i = 0; i < s->n_run; i++)
        sp_mem_free(s->runs[i]);
    for (size_t i = 0; i < s->n_seg; i++)
        close(s->seg[i].fd);
    if (s->lock_fd >= 0)
        close(s->lock_fd);
    if (s->dir_fd >= 0)
        close(s->dir_fd);
    sp_lock_fini(&s->lock);
    sp_lock_fini(&s->log_lock);
    sp_mem_free(s->seg);
    sp_mem_free(s->runs);
    sp_mem_free(s->key);
    sp_mem_free(s->bucket);
    sp_mem_free(s->dir);
    sp_mem_free(s);
}

void sp_kv_store_stat_of(sp_kv_store *s, sp_kv_store_stat *out)
{
    sp_lock_get(&s->lock);
    *out = s->stat;
    out->n_run = s->n_run;
    out->n_seg = s->n_seg;
    out->warm_bytes = s->warm_bytes;
    for (size_t i = 0; i < s->n_run; i++) {
        const sp_kv_run *r = s->runs[i];
        uint64_t n_tok = (uint64_t)r->rec.n_page * SP_PAGE_TOK;
        out->warm_tok += r->seg ? n_tok : 0;
        out->cold_tok += r->cold_bytes ? n_tok : 0;
        out->cold_bytes += r->cold_bytes;
        out->n_cold += r->cold_bytes != 0;
    }
    sp_lock_put(&s->lock);
    sp_lock_get(&s->log_lock);
    out->index_bytes = s->log_len;
    sp_lock_put(&s->log_lock);
}

uint64_t sp_kv_store_cap(const sp_kv_store *s)
{
    return s->cfg.cap_bytes;
}

/* --- looking up ------------------------------------------------------------------------------- */

size_t sp_kv_store_find(sp_kv_store *s, const sp_kv_key *key, size_t n, bool cold, sp_kv_hit *out)
{
    size_t i = 0;
    sp_lock_get(&s->lock);
    for (; i < n; i++) {
        struct sp_kv_slot *at = find_slot(s, &key[i].id);
        if (!at || (!at->run->seg && !cold))
            break;
        const sp_kv_rec *c = &at->run->rec;
        const sp_sha256 *parent = at->page ? &c->page[at->page - 1].id : &c->parent;
        if (memcmp(parent->b, key[i].parent.b, 32) != 0 || memcmp(c->page[at->page].tok, key[i].tok, sizeof c->page[0].tok) != 0)
            break;
        at->run->pins++;
        set_key(s, at->run);
        out[i] = (sp_kv_hit){at->run, at->page, at->run->seg != 0, at->run->cold_bytes};
    }
    sp_lock_put(&s->lock);
    return i;
}

void sp_kv_store_unpin(sp_kv_store *s, sp_kv_run *r)
{
    sp_lock_get(&s->lock);
    SP_ASSERT(r->pins > 0);
    r->pins--;
    set_key(s, r);
    sp_lock_put(&s->lock);
}

void sp_kv_store_used(sp_kv_store *s, sp_kv_run *r)
{
    sp_lock_get(&s->lock);
    r->hits++;
    r->used_s = sp_clock_wall();
    if (!r->dead)
        set_prio(s, r);
    sp_lock_put(&s->lock);
}

bool sp_kv_store_has(sp_kv_store *s, const sp_sha256 *id)
{
    sp_lock_get(&s->lock);
    struct sp_kv_slot *at = find_slot(s, id);
    bool has = at && at->run->seg;
    sp_lock_put(&s->lock);
    return has;
}

sp_kv_run *sp_kv_store_get(sp_kv_store *s, const sp_sha256 *id, uint32_t *page)
{
    sp_lock_get(&s->lock);
    struct sp_kv_slot *at = find_slot(s, id);
    sp_kv_run *r = at ? at->run : NULL;
    if (r) {
        *page = at->page;
        r->pins++;
        set_key(s, r);
    }
    sp_lock_put(&s->lock);
    return r;
}

sp_err sp_kv_store_select(sp_kv_store *s, sp_kv_pick *pick, void *arg, sp_kv_run ***out, size_t *n)
{
    sp_lock_get(&s->lock);
    sp_kv_run **list = sp_mem_array(s->n_run + 1, sizeof *list);
    *n = 0;
    for (size_t i = 0; list && i < s->n_run; i++) {
        if (!pick(s->runs[i], arg))
            continue;
        s->runs[i]->pins++;
        set_key(s, s->runs[i]);
        list[(*n)++] = s->runs[i];
    }
    sp_lock_put(&s->lock);
    *out = list;
    return list ? SP_OK : SP_NOMEM;
}

sp_err sp_kv_store_place(sp_kv_store *s, const sp_kv_run *r, int *fd, uint64_t *at)
{
    sp_lock_get(&s->lock);
    const segment *g = r->seg ? seg_of(s, r->seg) : NULL;
    if (g) {
        *fd = g->fd;
        *at = r->at;
    }
    sp_lock_put(&s->lock);
    return g ? SP_OK : SP_NOTFOUND;
}

sp_err sp_kv_store_read(sp_kv_store *s, const sp_kv_run *r, uint8_t **out, size_t *n, sp_diag *d)
{
    int fd;
    uint64_t at;
    if (sp_kv_store_place(s, r, &fd, &at) != SP_OK)
        return SP_FAIL(d, SP_NOTFOUND, "the run is not on disk");
    size_t bytes = sp_kv_rec_bytes(&r->rec);
    uint8_t *p = sp_mem_raw(bytes);
    sp_err err = p ? read_all(s, fd, p, bytes, at, "segment", d) : SP_FAIL(d, SP_NOMEM, "a record of %zu bytes", bytes);
    if (err == SP_OK)
        err = sp_kv_rec_verify(p, bytes, d);
    if (err == SP_OK) {
        sp_kv_head h;
        err = sp_kv_head_read(&h, p, bytes, d);
        if (err == SP_OK && memcmp(h.page[h.rec.n_page - 1].id.b, name_of(r)->b, 32) != 0)
            err = SP_FAIL(d, SP_CORRUPT, "a record has another run's key");
    }
    if (err == SP_OK) {
        *out = p;
        *n = bytes;
    } else {
        sp_mem_free(p);
    }
    return err;
}

/* --- giving up -------------------------------------------------------------------------------- */

/* Gives up the place on disk of a run nobody reads, and the run with it unless it is in the cold.
 * Under the lock. The bytes stay until swept: those of a run that lives on get a grave of their own. */
static bool leave_disk(sp_kv_store *s, sp_kv_run *r)
{
    if (!r->cold_bytes) {
        index_remove(s, r);
        return true;
    }
    sp_kv_run *hole = run_new(&r->rec);
    if (!hole)
        return false;
    hole->seg = r->seg;
    hole->at = r->at;
    hole->bytes = r->bytes;
    hole->dead = true;
    hole->next_dead = s->dead;
    s->dead = hole;
    leave_warm(s, r);
    r->seg = 0;
    set_key(s, r);
    return true;
}

void sp_kv_store_drop(sp_kv_store *s, sp_kv_run *r)
{
    sp_sha256 name = *name_of(r);
    sp_lock_get(&s->lock);
    bool live = !r->dead;
    if (live)
        index_remove(s, r);
    sp_lock_put(&s->lock);
    if (live)
        (void)log_about(s, LOG_DROP, &name, 0, NULL);
}

void sp_kv_store_corrupt(sp_kv_store *s, sp_kv_run *r)
{
    sp_lock_get(&s->lock);
    s->stat.n_corrupt += !r->dead;
    sp_lock_put(&s->lock);
    sp_kv_store_drop(s, r);
}

sp_err sp_kv_store_set_cold(sp_kv_store *s, sp_kv_run *r, uint64_t bytes, sp_diag *d)
{
    sp_sha256 name = *name_of(r);
    sp_lock_get(&s->lock);
    bool live = !r->dead, gone = live && !r->seg && !bytes;
    if (live)
        r->cold_bytes = bytes;
    if (gone)
        index_remove(s, r);
    sp_lock_put(&s->lock);
    return live ? log_about(s, gone ? LOG_DROP : LOG_COLD, &name, bytes, d) : SP_FAIL(d, SP_NOTFOUND, "the run was given up");
}

/* Makes holes of dead runs nobody reads. The grave of a place that is still read waits. */
static void sweep(sp_kv_store *s)
{
    for (;;) {
        int fd = -1;
        sp_lock_get(&s->lock);
        sp_kv_run **at = &s->dead, *r;
        while (*at && (*at)->pins)
            at = &(*at)->next_dead;
        r = *at;
        if (r) {
            *at = r->next_dead;
            segment *g = r->seg ? seg_of(s, r->seg) : NULL;
            fd = g ? g->fd : -1;
            if (g)
                g->dirty = true;
        }
        sp_lock_put(&s->lock);
        if (!r)
            return;
        if (fd >= 0 && punch(s, fd, r->at, r->bytes) != SP_OK)
            sp_log(SP_LOG_WARN, "%s: a record that was given up could not be wiped: %s", s->dir, strerror(errno));
        sp_mem_free(r);
    }
}

/* Gives up runs until n more bytes fit. */
static sp_err make_room(sp_kv_store *s, uint64_t n, sp_diag *d)
{
    if (n > s->cfg.cap_bytes)
        return SP_FAIL(d, SP_LIMIT, "a record of %llu bytes, the warm tier holds %llu", (unsigned long long)n,
                       (unsigned long long)s->cfg.cap_bytes);
    for (;;) {
        sp_lock_get(&s->lock);
        size_t best = 0;
        bool full = s->warm_bytes + n > s->cfg.cap_bytes, lost = false, left = false;
        for (size_t i = 1; full && i < s->n_run; i++)
            best = s->key[i] < s->key[best] ? i : best;
        sp_sha256 name;
        if (full && s->n_run && s->key[best] < INFINITY) {
            sp_kv_run *r = s->runs[best];
            name = *name_of(r);
            lost = r->cold_bytes == 0;
            s->floor = r->prio;
            left = leave_disk(s, r);
            s->stat.n_evicted += left;
            s->stat.n_lost += left && lost;
        }
        sp_lock_put(&s->lock);
        if (!full)
            return SP_OK;
        if (!left)
            return SP_FAIL(d, SP_AGAIN, "every run on disk is in use");
        (void)log_about(s, lost ? LOG_DROP : LOG_DROP_WARM, &name, 0, NULL);
    }
}

/* --- writing ---------------------------------------------------------------------------------- */

/* Appends bytes to the last segment; *seg and *at say where. */
static sp_err append(sp_kv_store *s, const uint8_t *p, size_t n, uint32_t *seg, uint64_t *at, sp_diag *d)
{
    if (s->n_seg == 0 || s->seg[s->n_seg - 1].len >= s->seg_cap)
        SP_TRY(seg_create(s, d));
    segment *g = &s->seg[s->n_seg - 1];
    sp_err err = write_all(s, g->fd, p, n, g->len, "segment", d);
    if (err != SP_OK) {
        int e = errno;
        (void)!ftruncate(g->fd, (off_t)g->len); /* nothing half written stays */
        errno = e;
        return err;
    }
    sp_lock_get(&s->lock);
    *seg = g->serial;
    *at = g->len;
    g->len += n;
    g->dirty = true;
    sp_lock_put(&s->lock);
    return SP_OK;
}

static sp_err log_run(sp_kv_store *s, const sp_kv_run *r, sp_diag *d)
{
    sp_buf b = {0};
    put_add(&b, r);
    sp_err err = log_append(s, &b, d);
    sp_buf_fini(&b);
    return err;
}

/* Enters a run into index and log, or gives its place up again. Takes r. */
static sp_err enter(sp_kv_store *s, sp_kv_run *r, sp_diag *d)
{
    sp_lock_get(&s->lock);
    r->pins = 1;
    sp_err err = index_add(s, r);
    if (err == SP_OK && r->seg) {
        seg_of(s, r->seg)->live += r->bytes;
        s->warm_bytes += r->bytes;
    }
    sp_lock_put(&s->lock);
    if (err != SP_OK) {
        sp_mem_free(r);
        return SP_FAIL(d, err, "index");
    }
    err = log_run(s, r, d);
    if (err != SP_OK) { /* it would be lost at the next start, and its bytes with it */
        sp_lock_get(&s->lock);
        if (!r->dead)
            index_remove(s, r);
        sp_lock_put(&s->lock);
    }
    sp_kv_store_unpin(s, r);
    return err;
}

/* A run that had only its object left lies on the disk again. */
static sp_err rewarm(sp_kv_store *s, sp_kv_run *r, uint32_t seg, uint64_t at, size_t n, sp_diag *d)
{
    sp_lock_get(&s->lock);
    r->seg = seg;
    r->at = at;
    r->bytes = n;
    seg_of(s, seg)->live += n;
    s->warm_bytes += n;
    count_in(s, r);
    set_prio(s, r);
    sp_lock_put(&s->lock);
    SP_TRY(log_about(s, LOG_DROP, name_of(r), 0, d));
    return log_run(s, r, d);
}

/* Appends a record, given as bytes or to be built from pages (p NULL). */
static sp_err add(sp_kv_store *s, const sp_kv_rec *rec, const uint8_t *p, void *const *hi, void *const *lo, sp_diag *d)
{
    size_t n = sp_kv_rec_bytes(rec);
    uint32_t last = 0, seg = 0;
    uint64_t at = 0;
    sp_kv_run *old = sp_kv_store_get(s, &rec->page[rec->n_page - 1].id, &last);
    if (old && (old->rec.n_page != rec->n_page || sp_kv_store_has(s, name_of(old)))) {
        sp_kv_store_unpin(s, old);
        return SP_OK; /* known */
    }
    sp_kv_run *r = NULL;
    uint8_t *built = NULL;
    sp_err err = make_room(s, n, d);
    if (err == SP_OK) {
        r = old ? NULL : run_new(rec);
        built = p ? NULL : sp_mem_raw(n);
        err = (r || old) && (p || built) ? SP_OK : SP_FAIL(d, SP_NOMEM, "a record of %zu bytes", n);
    }
    if (err == SP_OK) {
        if (built)
            sp_kv_rec_build(built, rec, hi, lo);
        err = append(s, p ? p : built, n, &seg, &at, d);
    }
    sp_mem_free(built);
    if (old) {
        if (err == SP_OK)
            err = rewarm(s, old, seg, at, n, d);
        sp_kv_store_unpin(s, old);
    } else if (err == SP_OK) {
        r->seg = seg;
        r->at = at;
        r->bytes = n;
        err = enter(s, r, d);
    } else {
        sp_mem_free(r);
    }
    return err;
}

sp_err sp_kv_store_add(sp_kv_store *s, const sp_kv_rec *rec, void *const *hi, void *const *lo, sp_diag *d)
{
    return add(s, rec, NULL, hi, lo, d);
}

sp_err sp_kv_store_add_record(sp_kv_store *s, const uint8_t *p, size_t n, sp_diag *d)
{
    sp_kv_head h;
    SP_TRY(sp_kv_rec_verify(p, n, d));
    SP_TRY(sp_kv_head_read(&h, p, n, d));
    if (h.rec.packed || n != sp_kv_rec_bytes(&h.rec))
        return SP_FAIL(d, SP_INVAL, "not a whole unpacked record");
    for (uint32_t i = 0, page; i + 1 < h.rec.n_page; i++) { /* a page must not be known twice */
        sp_kv_run *r = sp_kv_store_get(s, &h.page[i].id, &page);
        bool other = r && (r->rec.n_page != h.rec.n_page || page != i);
        if (r)
            sp_kv_store_unpin(s, r);
        if (other)
            return SP_OK;
    }
    return add(s, &h.rec, p, NULL, NULL, d);
}

sp_err sp_kv_store_add_cold(sp_kv_store *s, const sp_kv_rec *rec, uint64_t cold_bytes, sp_diag *d)
{
    sp_kv_run *r = run_new(rec);
    if (!r)
        return SP_FAIL(d, SP_NOMEM, "index");
    r->bytes = sp_kv_rec_bytes(rec);
    r->cold_bytes = cold_bytes;
    return enter(s, r, d);
}

static bool is_in_seg(const sp_kv_run *r, void *arg)
{
    return r->seg == *(const uint32_t *)arg;
}

/* Copies a run to the end of the last segment; its old place becomes a hole. */
static sp_err move(sp_kv_store *s, sp_kv_run *r)
{
    uint8_t *p;
    size_t n;
    uint32_t seg;
    uint64_t at;
    sp_diag d = {0};
    sp_err err = sp_kv_store_read(s, r, &p, &n, &d);
    if (err == SP_CORRUPT) {
        sp_kv_store_corrupt(s, r);
        return SP_OK;
    }
    SP_TRY(err);
    err = append(s, p, n, &seg, &at, &d);
    sp_mem_free(p);
    SP_TRY(err);
    sp_kv_run *hole = run_new(&r->rec);
    if (!hole)
        return SP_NOMEM;
    sp_lock_get(&s->lock);
    if (r->dead || r->pins > 1) { /* read meanwhile: the new copy is a leak until the next start */
        sp_lock_put(&s->lock);
        sp_mem_free(hole);
        return SP_AGAIN;
    }
    hole->seg = r->seg;
    hole->at = r->at;
    hole->bytes = r->bytes;
    hole->dead = true;
    hole->next_dead = s->dead;
    s->dead = hole;
    seg_of(s, r->seg)->live -= r->bytes;
    r->seg = seg;
    r->at = at;
    seg_of(s, seg)->live += r->bytes;
    sp_lock_put(&s->lock);
    SP_TRY(log_about(s, LOG_DROP, name_of(r), 0, &d)); /* the first entry of a name stands, so: drop, add */
    return log_run(s, r, &d);
}

static void unlink_seg(sp_kv_store *s, size_t i)
{
    char name[32];
    sp_lock_get(&s->lock);
    seg_name(name, s->seg[i].serial);
    int fd = s->seg[i].fd;
    memmove(&s->seg[i], &s->seg[i + 1], (s->n_seg - i - 1) * sizeof *s->seg);
    s->n_seg--;
    sp_lock_put(&s->lock);
    close(fd);
    (void)unlinkat(s->dir_fd, name, 0);
}

/* A segment may go when nothing in it is alive, being read, or waiting for its hole. */
static bool is_empty(sp_kv_store *s, const segment *g)
{
    sp_lock_get(&s->lock);
    bool empty = g->live == 0;
    for (const sp_kv_run *r = s->dead; r && empty; r = r->next_dead)
        empty = r->seg != g->serial;
    sp_lock_put(&s->lock);
    return empty;
}

static void clean_segments(sp_kv_store *s)
{
    for (size_t i = 0; i + 1 < s->n_seg; i++) { /* the last one is being filled */
        if (is_empty(s, &s->seg[i])) {
            unlink_seg(s, i--);
            continue;
        }
        sp_lock_get(&s->lock);
        bool sparse = s->seg[i].live * LIVE_SHARE < s->seg[i].len - SP_KV_ALIGN;
        uint32_t serial = s->seg[i].serial;
        sp_lock_put(&s->lock);
        if (!sparse)
            continue;
        sp_kv_run **list;
        size_t n;
        if (sp_kv_store_select(s, is_in_seg, &serial, &list, &n) != SP_OK)
            return;
        sp_err err = SP_OK;
        for (size_t k = 0; k < n; k++) {
            if (err == SP_OK)
                err = move(s, list[k]);
            sp_kv_store_unpin(s, list[k]);
        }
        sp_mem_free(list);
        sweep(s);
        return; /* one at a time: this runs between writes */
    }
}

void sp_kv_store_tidy(sp_kv_store *s)
{
    sweep(s);
    clean_segments(s);
    if (sp_clock_ns() - s->t_flush < FLUSH_S * 1000000000ull)
        return;
    s->t_flush = sp_clock_ns();
    for (size_t i = 0; i < s->n_seg; i++) {
        sp_lock_get(&s->lock);
        bool dirty = s->seg[i].dirty;
        s->seg[i].dirty = false;
        sp_lock_put(&s->lock);
        if (dirty)
            (void)fdatasync(s->seg[i].fd);
    }
}

sp_err sp_kv_store_flush(sp_kv_store *s, int timeout_ms, sp_diag *d)
{
    for (;; timeout_ms -= 5) {
        sweep(s);
        sp_lock_get(&s->lock);
        bool done = !s->dead;
        sp_lock_put(&s->lock);
        if (done)
            break;
        if (timeout_ms <= 0)
            return SP_FAIL(d, SP_TIMEOUT, "a page to delete is still being read");
        const struct timespec t = {.tv_nsec = 5000000};
        nanosleep(&t, NULL);
    }
    for (size_t i = 0; i < s->n_seg; i++) {
        if (s->seg[i].dirty && fdatasync(s->seg[i].fd) != 0)
            return io_error(s, "segment", d);
        s->seg[i].dirty = false;
    }
    sp_lock_get(&s->log_lock);
    sp_err err = log_rewrite(s, d); /* also the names and tokens of what was deleted leave the log */
    sp_lock_put(&s->log_lock);
    return err;
}
