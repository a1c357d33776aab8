#include "kv/store_int.h"

#include <sys/file.h>

enum { SEG_MAX = 256 << 20, SEG_MIN = 8 << 20, FLUSH_S = 5 };

/* --- small I/O -------------------------------------------------------------------------------- */

sp_err sp_kvs_io_error(const sp_kv_store *s, const char *what, sp_diag *d)
{
    int e = errno;
    sp_err err = SP_FAIL(d, SP_IO, "%.100s: %s: %s", s->dir, what, strerror(e));
    if (d)
        d->os_errno = e;
    return err;
}

sp_err sp_kvs_write_all(const sp_kv_store *s, int fd, const void *p, size_t n, uint64_t at,
                        const char *what, sp_diag *d)
{
    for (size_t done = 0; done < n;) {
        ssize_t k = sp_fault_hit(SP_FAULT_IO)
                        ? (errno = EIO, -1)
                        : pwrite(fd, (const uint8_t *)p + done, n - done, (off_t)(at + done));
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return sp_kvs_io_error(s, what, d);
        done += (size_t)k;
    }
    return SP_OK;
}

sp_err sp_kvs_read_all(const sp_kv_store *s, int fd, void *p, size_t n, uint64_t at,
                       const char *what, sp_diag *d)
{
    for (size_t done = 0; done < n;) {
        ssize_t k = sp_fault_hit(SP_FAULT_IO)
                        ? (errno = EIO, -1)
                        : pread(fd, (uint8_t *)p + done, n - done, (off_t)(at + done));
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return sp_kvs_io_error(s, what, d);
        if (k == 0)
            return SP_FAIL(d, SP_CORRUPT, "%.100s: %s ends early", s->dir, what);
        done += (size_t)k;
    }
    return SP_OK;
}
/* --- open and close --------------------------------------------------------------------------- */

static sp_err lock_folder(sp_kv_store *s, sp_diag *d)
{
    char pid[32] = {0};
    if (mkdir(s->dir, 0700) != 0 && errno != EEXIST)
        return sp_kvs_io_error(s, "cannot be made", d);
    s->dir_fd = open(s->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC);
    if (s->dir_fd < 0)
        return sp_kvs_io_error(s, "folder", d);
    s->lock_fd = openat(s->dir_fd, "LOCK", O_RDWR | O_CREAT | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (s->lock_fd < 0)
        return sp_kvs_io_error(s, "LOCK", d);
    if (flock(s->lock_fd, LOCK_EX | LOCK_NB) != 0) {
        (void)!read(s->lock_fd, pid, sizeof pid - 1);
        return SP_FAIL(d, SP_LIMIT, "%.120s is in use by process %.*s: one server a folder", s->dir,
                       (int)strcspn(pid, "\n"), pid);
    }
    int n = snprintf(pid, sizeof pid, "%ld\n", (long)getpid());
    if (ftruncate(s->lock_fd, 0) != 0 || pwrite(s->lock_fd, pid, (size_t)n, 0) != n)
        return sp_kvs_io_error(s, "LOCK", d);
    return SP_OK;
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
    s->seg_cap = cfg->cap_bytes / 8 > SEG_MAX   ? SEG_MAX
                 : cfg->cap_bytes / 8 < SEG_MIN ? SEG_MIN
                                                : cfg->cap_bytes / 8;
    sp_lock_init(&s->lock, SP_RANK_KV);
    sp_lock_init(&s->log_lock, SP_RANK_KV_LOG);
    s->dir = sp_mem_strdup(cfg->dir);
    s->bucket = sp_mem_array(s->n_bucket, sizeof *s->bucket);
    sp_err err = s->dir && s->bucket ? lock_folder(s, d) : SP_FAIL(d, SP_NOMEM, "store");
    if (err == SP_OK)
        err = sp_kvs_open_log(s, d);
    if (err == SP_OK)
        err = sp_kvs_open_segments(s, d);
    if (err == SP_OK && sp_kvs_punch_gaps(s) != SP_OK)
        err = SP_FAIL(d, SP_NOMEM, "store");
    if (err == SP_OK) {
        sp_lock_get(&s->log_lock);
        err = sp_kvs_log_rewrite(s, d);
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

void sp_kv_store_close(sp_kv_store *s)
{
    if (!s)
        return;
    if (s->log_fd >= 0) {
        sp_diag d = {0};
        sp_kvs_sweep(s);
        sp_lock_get(&s->log_lock);
        if (sp_kvs_log_rewrite(s, &d) != SP_OK) /* keeps what was used last and how often */
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
        bool is_state = sp_kv_rec_is_state(&r->rec);
        uint64_t n_tok = is_state ? 0 : (uint64_t)r->rec.n_page * SP_PAGE_TOK;
        out->warm_snap += is_state && r->seg;
        out->cold_snap += is_state && r->cold_bytes;
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
    if (atomic_load(&s->gone))
        return 0;
    sp_lock_get(&s->lock);
    for (; i < n; i++) {
        struct sp_kv_slot *at = sp_kvs_find_slot(s, &key[i].id);
        if (!at || (!at->run->seg && !cold))
            break;
        const sp_kv_rec *c = &at->run->rec;
        const sp_sha256 *parent = at->page ? &c->page[at->page - 1].id : &c->parent;
        if (memcmp(parent->b, key[i].parent.b, 32) != 0 ||
            memcmp(c->page[at->page].tok, key[i].tok, sizeof c->page[0].tok) != 0)
            break;
        at->run->pins++;
        sp_kvs_set_key(s, at->run);
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
    sp_kvs_set_key(s, r);
    sp_lock_put(&s->lock);
}

void sp_kv_store_used(sp_kv_store *s, sp_kv_run *r)
{
    sp_lock_get(&s->lock);
    r->hits++;
    r->used_s = sp_clock_wall();
    if (!r->dead)
        sp_kvs_set_prio(s, r);
    sp_lock_put(&s->lock);
}

bool sp_kv_store_has(sp_kv_store *s, const sp_sha256 *id)
{
    sp_lock_get(&s->lock);
    struct sp_kv_slot *at = sp_kvs_find_slot(s, id);
    bool has = at && at->run->seg;
    sp_lock_put(&s->lock);
    return has;
}

sp_kv_run *sp_kv_store_get(sp_kv_store *s, const sp_sha256 *id, uint32_t *page)
{
    sp_lock_get(&s->lock);
    struct sp_kv_slot *at = sp_kvs_find_slot(s, id);
    sp_kv_run *r = at ? at->run : NULL;
    if (r) {
        *page = at->page;
        r->pins++;
        sp_kvs_set_key(s, r);
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
        sp_kvs_set_key(s, s->runs[i]);
        list[(*n)++] = s->runs[i];
    }
    sp_lock_put(&s->lock);
    *out = list;
    return list ? SP_OK : SP_NOMEM;
}

sp_err sp_kv_store_place(sp_kv_store *s, const sp_kv_run *r, int *fd, uint64_t *at)
{
    sp_lock_get(&s->lock);
    const sp_kvs_segment *g = r->seg ? sp_kvs_seg_of(s, r->seg) : NULL;
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
    sp_err err = p ? sp_kvs_read_all(s, fd, p, bytes, at, "segment", d)
                   : SP_FAIL(d, SP_NOMEM, "a record of %zu bytes", bytes);
    if (err == SP_OK)
        err = sp_kv_rec_verify(p, bytes, d);
    if (err == SP_OK) {
        sp_kv_head h;
        err = sp_kv_head_read(&h, p, bytes, d);
        if (err == SP_OK && memcmp(h.page[h.rec.n_page - 1].id.b, sp_kvs_name_of(r)->b, 32) != 0)
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
 * Under the lock. The bytes stay until swept: those of a run that lives on get a grave of their
 * own. */
static bool leave_disk(sp_kv_store *s, sp_kv_run *r)
{
    if (!r->cold_bytes) {
        sp_kvs_index_remove(s, r);
        return true;
    }
    if (!sp_kvs_bury_place(s, r))
        return false;
    sp_kvs_leave_warm(s, r);
    r->seg = 0;
    sp_kvs_set_key(s, r);
    return true;
}

void sp_kv_store_drop(sp_kv_store *s, sp_kv_run *r)
{
    sp_sha256 name = *sp_kvs_name_of(r);
    sp_lock_get(&s->lock);
    bool live = !r->dead;
    if (live)
        sp_kvs_index_remove(s, r);
    sp_lock_put(&s->lock);
    if (live)
        (void)sp_kvs_log_about(s, LOG_DROP, &name, 0, NULL);
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
    sp_sha256 name = *sp_kvs_name_of(r);
    sp_lock_get(&s->lock);
    bool live = !r->dead, gone = live && !r->seg && !bytes;
    if (live) {
        r->cold_bytes = bytes;
        sp_kvs_set_prio(s, r);
    }
    if (gone)
        sp_kvs_index_remove(s, r);
    sp_lock_put(&s->lock);
    return live ? sp_kvs_log_about(s, gone ? LOG_DROP : LOG_COLD, &name, bytes, d)
                : SP_FAIL(d, SP_NOTFOUND, "the run was given up");
}

/* Gives up runs until n more bytes fit. */
static sp_err make_room(sp_kv_store *s, uint64_t n, sp_diag *d)
{
    if (n > s->cfg.cap_bytes)
        return SP_FAIL(d, SP_LIMIT, "a record of %llu bytes, the warm tier holds %llu",
                       (unsigned long long)n, (unsigned long long)s->cfg.cap_bytes);
    for (;;) {
        sp_lock_get(&s->lock);
        size_t best = 0;
        bool full = s->warm_bytes + n > s->cfg.cap_bytes, lost = false, left = false;
        for (size_t i = 1; full && i < s->n_run; i++)
            best = s->key[i] < s->key[best] ? i : best;
        sp_sha256 name;
        if (full && s->n_run && s->key[best] < INFINITY) {
            sp_kv_run *r = s->runs[best];
            name = *sp_kvs_name_of(r);
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
        (void)sp_kvs_log_about(s, lost ? LOG_DROP : LOG_DROP_WARM, &name, 0, NULL);
    }
}
/* --- writing ---------------------------------------------------------------------------------- */

/* Enters a run into index and log, or gives its place up again. Takes r. */
static sp_err enter(sp_kv_store *s, sp_kv_run *r, sp_diag *d)
{
    sp_lock_get(&s->lock);
    r->pins = 1;
    sp_err err = sp_kvs_index_add(s, r);
    if (err == SP_OK && r->seg) {
        sp_kvs_seg_of(s, r->seg)->live += r->bytes;
        s->warm_bytes += r->bytes;
    }
    sp_lock_put(&s->lock);
    if (err != SP_OK) {
        sp_mem_free(r);
        return SP_FAIL(d, err, "index");
    }
    err = sp_kvs_log_run(s, r, d);
    if (err != SP_OK) { /* it would be lost at the next start, and its bytes with it */
        sp_lock_get(&s->lock);
        if (!r->dead)
            sp_kvs_index_remove(s, r);
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
    sp_kvs_seg_of(s, seg)->live += n;
    s->warm_bytes += n;
    sp_kvs_count_in(s, r);
    sp_kvs_set_prio(s, r);
    sp_lock_put(&s->lock);
    SP_TRY(sp_kvs_log_about(s, LOG_DROP, sp_kvs_name_of(r), 0, d));
    return sp_kvs_log_run(s, r, d);
}

/* Appends a record, given as bytes or to be built from pages (p NULL). */
static sp_err add(sp_kv_store *s, const sp_kv_rec *rec, const uint8_t *p, void *const *hi,
                  void *const *lo, sp_diag *d)
{
    size_t n = sp_kv_rec_bytes(rec);
    uint32_t last = 0, seg = 0;
    uint64_t at = 0;
    SP_TRY(sp_kv_store_check(s, d));
    sp_kv_run *old = sp_kv_store_get(s, &rec->page[rec->n_page - 1].id, &last);
    if (old && (old->rec.n_page != rec->n_page || sp_kv_store_has(s, sp_kvs_name_of(old)))) {
        sp_kv_store_unpin(s, old);
        return SP_OK; /* known */
    }
    sp_kv_run *r = NULL;
    uint8_t *built = NULL;
    sp_err err = make_room(s, n, d);
    if (err == SP_OK) {
        r = old ? NULL : sp_kvs_run_new(rec);
        built = p ? NULL : sp_mem_raw(n);
        err = (r || old) && (p || built) ? SP_OK : SP_FAIL(d, SP_NOMEM, "a record of %zu bytes", n);
    }
    if (err == SP_OK) {
        if (built)
            sp_kv_rec_build(built, rec, hi, lo);
        err = sp_kvs_append(s, p ? p : built, n, &seg, &at, d);
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

sp_err sp_kv_store_add(sp_kv_store *s, const sp_kv_rec *rec, void *const *hi, void *const *lo,
                       sp_diag *d)
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
    sp_kv_run *r = sp_kvs_run_new(rec);
    if (!r)
        return SP_FAIL(d, SP_NOMEM, "index");
    r->bytes = sp_kv_rec_bytes(rec);
    r->cold_bytes = cold_bytes;
    return enter(s, r, d);
}

/* Does the open file still have a name? */
static bool has_name(int fd)
{
    struct stat st;
    return fstat(fd, &st) != 0 || st.st_nlink > 0;
}

sp_err sp_kv_store_check(sp_kv_store *s, sp_diag *d)
{
    struct stat path, own;
    const char *lost = NULL;
    bool moved = stat(s->dir, &path) != 0 || fstat(s->dir_fd, &own) != 0 ||
                 path.st_ino != own.st_ino || path.st_dev != own.st_dev;
    sp_lock_get(&s->log_lock);
    lost = moved ? "the folder" : !has_name(s->log_fd) ? "its index" : NULL;
    sp_lock_put(&s->log_lock);
    sp_lock_get(&s->lock);
    for (size_t i = 0; i < s->n_seg && !lost; i++)
        lost = s->seg[i].fd >= 0 && !has_name(s->seg[i].fd) ? "a segment" : NULL;
    sp_lock_put(&s->lock);
    if (lost)
        atomic_store(&s->gone, true);
    return atomic_load(&s->gone)
               ? SP_FAIL(d, SP_IO, "%.120s: %s was deleted, moved or replaced while it was in use",
                         s->dir, lost ? lost : "it")
               : SP_OK;
}

void sp_kv_store_tidy(sp_kv_store *s)
{
    sp_kvs_sweep(s);
    sp_kvs_clean_segments(s);
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
        sp_kvs_sweep(s);
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
            return sp_kvs_io_error(s, "segment", d);
        s->seg[i].dirty = false;
    }
    sp_lock_get(&s->log_lock);
    /* also the names and tokens of what was deleted leave the log */
    sp_err err = sp_kvs_log_rewrite(s, d);
    sp_lock_put(&s->log_lock);
    return err;
}
