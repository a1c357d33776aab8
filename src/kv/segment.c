/* Segments: files to which records are appended, with holes where records were given up. */
#include "kv/store_int.h"

#include <dirent.h>

#define SEG_MAGIC "SPKVSEG1"

enum { LIVE_SHARE = 4 }; /* a segment less than 1/4 alive is copied together */

static void seg_name(char out[32], uint32_t serial)
{
    snprintf(out, 32, "seg-%08x", serial);
}

static sp_err seg_attach(sp_kv_store *s, uint32_t serial, int fd, uint64_t len)
{
    if (!sp_mem_has_room(&s->seg, &s->cap_seg, s->n_seg, sizeof *s->seg))
        return SP_NOMEM;
    /* by serial, whatever order the folder lists: the newest is the one being filled */
    size_t i = s->n_seg++;
    for (; i && s->seg[i - 1].serial > serial; i--)
        s->seg[i] = s->seg[i - 1];
    s->seg[i] = (sp_kvs_segment){.serial = serial, .fd = fd, .len = len};
    return SP_OK;
}

static sp_err seg_create(sp_kv_store *s, sp_diag *d)
{
    char name[32];
    uint32_t serial = 1;
    for (size_t i = 0; i < s->n_seg; i++)
        serial = s->seg[i].serial >= serial ? s->seg[i].serial + 1 : serial;
    seg_name(name, serial);
    int fd =
        sp_fault_hit(SP_FAULT_IO)
            ? (errno = EIO, -1)
            : openat(s->dir_fd, name, O_RDWR | O_CREAT | O_TRUNC | O_CLOEXEC | O_NOFOLLOW, 0600);
    if (fd < 0)
        return sp_kvs_io_error(s, name, d);
    uint8_t head[SP_KV_ALIGN] = SEG_MAGIC;
    memcpy(head + 8, &serial, 4);
    sp_err err = sp_kvs_write_all(s, fd, head, sizeof head, 0, name, d);
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
sp_err sp_kvs_open_segments(sp_kv_store *s, sp_diag *d)
{
    DIR *dir = opendir(s->dir);
    if (!dir)
        return sp_kvs_io_error(s, "folder", d);
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
        sp_kvs_segment *g = r->seg ? sp_kvs_seg_of(s, r->seg) : NULL;
        if (r->seg && (!g || r->at + r->bytes > g->len)) {
            sp_kvs_count_out(s, r);
            r->seg = 0;
            if (!r->cold_bytes) {
                sp_kvs_index_remove(s, r);
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
            sp_kvs_count_in(s, s->runs[i]);
    for (size_t i = 0; i < s->n_run; i++)
        sp_kvs_set_prio(s, s->runs[i]);
    return err;
}

/* Frees the disk space of a range. Where the file system has no holes, zeros at least hide it. */
static sp_err punch(sp_kv_store *s, int fd, uint64_t at, uint64_t n)
{
    if (s->can_punch &&
        fallocate(fd, FALLOC_FL_PUNCH_HOLE | FALLOC_FL_KEEP_SIZE, (off_t)at, (off_t)n) == 0)
        return SP_OK;
    if (s->can_punch && errno == EOPNOTSUPP)
        s->can_punch = false;
    static const uint8_t zero[65536];
    for (uint64_t i = 0; i < n; i += sizeof zero)
        SP_TRY(sp_kvs_write_all(s, fd, zero, n - i < sizeof zero ? (size_t)(n - i) : sizeof zero,
                                at + i, "segment", NULL));
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
sp_err sp_kvs_punch_gaps(sp_kv_store *s)
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
        sp_kvs_segment *g = sp_kvs_seg_of(s, by[i]->seg);
        uint64_t end = SP_KV_ALIGN;
        bool tight = g->live + SP_KV_ALIGN == g->len;
        for (; i < s->n_run && by[i]->seg == g->serial; i++) {
            if (!tight && by[i]->at > end)
                (void)punch(s, g->fd, end, by[i]->at - end);
            end = by[i]->at + by[i]->bytes;
        }
        if (g->len > end && ftruncate(g->fd, (off_t)end) == 0)
            g->len = end;
    }
    sp_mem_free(by);
    return SP_OK;
}
/* Appends bytes to the last segment; *seg and *at say where. */
sp_err sp_kvs_append(sp_kv_store *s, const uint8_t *p, size_t n, uint32_t *seg, uint64_t *at,
                     sp_diag *d)
{
    if (s->n_seg == 0 || s->seg[s->n_seg - 1].len >= s->seg_cap)
        SP_TRY(seg_create(s, d));
    sp_kvs_segment *g = &s->seg[s->n_seg - 1];
    sp_err err = sp_kvs_write_all(s, g->fd, p, n, g->len, "segment", d);
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

/* Makes holes of dead runs nobody reads. The grave of a place that is still read waits. */
void sp_kvs_sweep(sp_kv_store *s)
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
            sp_kvs_segment *g = r->seg ? sp_kvs_seg_of(s, r->seg) : NULL;
            fd = g ? g->fd : -1;
            if (g)
                g->dirty = true;
        }
        sp_lock_put(&s->lock);
        if (!r)
            return;
        if (fd >= 0 && punch(s, fd, r->at, r->bytes) != SP_OK)
            sp_log(SP_LOG_WARN, "%s: a record that was given up could not be wiped: %s", s->dir,
                   strerror(errno));
        sp_mem_free(r);
    }
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
    err = sp_kvs_append(s, p, n, &seg, &at, &d);
    sp_mem_free(p);
    SP_TRY(err);
    sp_lock_get(&s->lock);
    /* read meanwhile: the new copy is a leak until the next start */
    if (r->dead || r->pins > 1 || !sp_kvs_bury_place(s, r)) {
        sp_lock_put(&s->lock);
        return SP_AGAIN;
    }
    sp_kvs_seg_of(s, r->seg)->live -= r->bytes;
    r->seg = seg;
    r->at = at;
    sp_kvs_seg_of(s, seg)->live += r->bytes;
    sp_lock_put(&s->lock);
    /* the first entry of a name stands, so: drop, add */
    SP_TRY(sp_kvs_log_about(s, LOG_DROP, sp_kvs_name_of(r), 0, &d));
    return sp_kvs_log_run(s, r, &d);
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
static bool is_empty(sp_kv_store *s, const sp_kvs_segment *g)
{
    sp_lock_get(&s->lock);
    bool empty = g->live == 0;
    for (const sp_kv_run *r = s->dead; r && empty; r = r->next_dead)
        empty = r->seg != g->serial;
    sp_lock_put(&s->lock);
    return empty;
}

void sp_kvs_clean_segments(sp_kv_store *s)
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
        sp_kvs_sweep(s);
        return; /* one at a time: this runs between writes */
    }
}
