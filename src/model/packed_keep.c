/* Writing packed weights: into a file of another name, which is renamed when it is whole. Its
 * writer holds a lock on it, so that one that nobody has locked was left by a crash.
 * Threads: one keeper a model; it gives way to all others. */
#include "model/packed_int.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "base/prio.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>
#include <sys/file.h>
#include <sys/stat.h>
#include <sys/statvfs.h>
#include <unistd.h>
#include <xxhash.h>

enum { FLUSH_BLK = 16 /* blocks that may wait for the disk: memory that nothing else can have */ };

struct sp_packed_keeper {
    pthread_t thread;
    _Atomic bool stop;
    const void *from;
    sp_packed_key key;
    sp_packed_cfg cfg;
};

/* --- room ------------------------------------------------------------------------------------- */

/* Files that a crash left in the middle of being written. */
static void sweep(const char *dir)
{
    DIR *list = opendir(dir);
    for (struct dirent *e; list && (e = readdir(list));) {
        size_t n = strlen(e->d_name), k = sizeof SP_PACKED_NEW - 1;
        if (n <= k || n >= SP_PACKED_NAME || strcmp(e->d_name + n - k, SP_PACKED_NEW) != 0)
            continue;
        int fd = openat(dirfd(list), e->d_name, O_RDWR | O_CLOEXEC | O_NONBLOCK);
        if (fd >= 0 && flock(fd, LOCK_EX | LOCK_NB) == 0)
            (void)unlinkat(dirfd(list), e->d_name, 0);
        if (fd >= 0)
            close(fd);
    }
    if (list)
        closedir(list);
}

/* Files go until `need` more bytes are within the budget. own: the file that will be replaced. */
static sp_err make_room(const sp_packed_cfg *cfg, uint64_t need, const char *own, sp_diag *d)
{
    sp_packed_file *all;
    size_t n;
    uint64_t used = 0;
    struct statvfs fs;
    if (need > cfg->cap_bytes)
        return SP_FAIL(d, SP_LIMIT, "weight-cache-bytes: %llu MiB do not hold the %llu MiB of it",
                       (unsigned long long)cfg->cap_bytes >> 20, (unsigned long long)need >> 20);
    sweep(cfg->dir);
    SP_TRY(sp_packed_list(&all, &n, cfg->dir, d));
    for (size_t i = 0; i < n; i++)
        used += strcmp(all[i].name, own) == 0 ? 0 : all[i].n_bytes;
    sp_err err = SP_OK;
    for (size_t i = 0; i < n && used + need > cfg->cap_bytes && err == SP_OK; i++) {
        if (strcmp(all[i].name, own) == 0)
            continue;
        err = sp_packed_remove(cfg->dir, all[i].name, d);
        err = err == SP_NOTFOUND ? SP_OK : err;
        used -= all[i].n_bytes;
    }
    sp_mem_free(all);
    if (err == SP_OK && statvfs(cfg->dir, &fs) == 0 && fs.f_bavail * fs.f_frsize / 2 < need)
        err = SP_FAIL(d, SP_LIMIT, "%.120s: of %llu MiB that are free, %llu would be taken",
                      cfg->dir, (unsigned long long)(fs.f_bavail * fs.f_frsize) >> 20,
                      (unsigned long long)need >> 20);
    return err;
}

/* --- a file ----------------------------------------------------------------------------------- */

static sp_err put(int fd, const void *p, size_t n, uint64_t at, const char *path, sp_diag *d)
{
    for (size_t done = 0; done < n;) {
        ssize_t k = sp_fault_hit(SP_FAULT_IO)
                        ? (errno = EIO, -1)
                        : pwrite(fd, (const char *)p + done, n - done, (off_t)(at + done));
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return SP_FAIL(d, SP_IO, "%.120s: %s", path, strerror(k < 0 ? errno : ENOSPC));
        done += (size_t)k;
    }
    return SP_OK;
}

/* The disk is waited for now and then: what is not on it yet takes memory from everything else. */
static sp_err put_data(int fd, uint64_t *sums, const void *from, const sp_packed_head *h,
                       const _Atomic bool *stop, const char *path, sp_diag *d)
{
    for (size_t i = 0; i < sp_packed_n_blk(h->n_bytes); i++) {
        uint64_t at = (uint64_t)i * SP_PACKED_BLK, left = h->n_bytes - at;
        size_t n = left < SP_PACKED_BLK ? (size_t)left : SP_PACKED_BLK;
        if (stop && atomic_load(stop))
            return SP_FAIL(d, SP_CANCEL, "%.120s: not written to its end", path);
        sums[i] = XXH3_64bits((const char *)from + at, n);
        SP_TRY(put(fd, (const char *)from + at, n, h->data_at + at, path, d));
        if (i % FLUSH_BLK == FLUSH_BLK - 1)
            (void)sync_file_range(fd, 0, 0,
                                  SYNC_FILE_RANGE_WAIT_BEFORE | SYNC_FILE_RANGE_WRITE |
                                      SYNC_FILE_RANGE_WAIT_AFTER);
    }
    return SP_OK;
}

/* The head is written last. */
static sp_err fill(int fd, const void *from, const sp_packed_key *key, const _Atomic bool *stop,
                   const char *path, sp_diag *d)
{
    sp_packed_head h = sp_packed_head_of(key);
    size_t n_blk = sp_packed_n_blk(key->n_bytes);
    uint64_t *sums = sp_mem_array(n_blk, sizeof *sums);
    if (!sums)
        return SP_FAIL(d, SP_NOMEM, "packed weights");
    sp_err err =
        ftruncate(fd, 0) == 0 ? SP_OK : SP_FAIL(d, SP_IO, "%.120s: %s", path, strerror(errno));
    if (err == SP_OK && fallocate(fd, 0, 0, (off_t)(h.data_at + h.n_bytes)) != 0 &&
        errno != EOPNOTSUPP && errno != ENOSYS)
        err = SP_FAIL(d, SP_IO, "%.120s: %s", path, strerror(errno));
    if (err == SP_OK)
        err = put_data(fd, sums, from, &h, stop, path, d);
    if (err == SP_OK)
        err = put(fd, sums, n_blk * sizeof *sums, SP_PACKED_PAGE, path, d);
    h.sum = sp_packed_sum(&h, sums, n_blk);
    if (err == SP_OK)
        err = put(fd, &h, sizeof h, 0, path, d);
    if (err == SP_OK && (sp_fault_hit(SP_FAULT_IO) ? (errno = EIO, -1) : fsync(fd)) != 0)
        err = SP_FAIL(d, SP_IO, "%.120s: %s", path, strerror(errno));
    sp_mem_free(sums);
    return err;
}

/* The file that is to be filled, locked. SP_AGAIN: somebody else fills it. */
static sp_err open_new(int *out, const char *path, sp_diag *d)
{
    struct stat ours, now;
    int fd = sp_fault_hit(SP_FAULT_IO) ? (errno = EIO, -1)
                                       : open(path, O_RDWR | O_CREAT | O_CLOEXEC, 0600);
    if (fd < 0)
        return SP_FAIL(d, SP_IO, "%.120s: %s", path, strerror(errno));
    /* What was opened may have been renamed or removed before it was locked. */
    if (flock(fd, LOCK_EX | LOCK_NB) == 0 && fstat(fd, &ours) == 0 && stat(path, &now) == 0 &&
        ours.st_ino == now.st_ino && ours.st_dev == now.st_dev) {
        *out = fd;
        return SP_OK;
    }
    close(fd);
    return SP_FAIL(d, SP_AGAIN, "%.120s: another process is writing it", path);
}

/* The folder and those above it. */
static sp_err make_folder(const char *dir, sp_diag *d)
{
    char path[SP_PACKED_DIR];
    snprintf(path, sizeof path, "%s", dir);
    for (char *p = path + 1;; p++) {
        char c = *p;
        if (c && c != '/')
            continue;
        *p = 0;
        if (mkdir(path, 0700) != 0 && errno != EEXIST)
            return SP_FAIL(d, SP_IO, "%.120s: %s", path, strerror(errno));
        if (!c)
            return SP_OK;
        *p = c;
    }
}

sp_err sp_packed_write(const void *from, const sp_packed_key *key, const sp_packed_cfg *cfg,
                       const _Atomic bool *stop, sp_diag *d)
{
    char path[SP_PACKED_DIR + SP_PACKED_NAME], fresh[SP_PACKED_DIR + SP_PACKED_NAME];
    int fd;
    const sp_packed_head h = sp_packed_head_of(key);
    sp_packed_path(path, sizeof path, cfg->dir, key, SP_PACKED_TAIL);
    sp_packed_path(fresh, sizeof fresh, cfg->dir, key, SP_PACKED_NEW);
    SP_TRY(make_folder(cfg->dir, d));
    SP_TRY(make_room(cfg, h.data_at + h.n_bytes, strrchr(path, '/') + 1, d));
    SP_TRY(open_new(&fd, fresh, d));
    sp_err err = fill(fd, from, key, stop, fresh, d);
    if (err == SP_OK && rename(fresh, path) != 0)
        err = SP_FAIL(d, SP_IO, "%.120s: %s", path, strerror(errno));
    if (err != SP_OK)
        (void)unlink(fresh);
    close(fd); /* and unlocked: after its name is gone */
    return err;
}

/* --- a thread --------------------------------------------------------------------------------- */

/* A file of this very model and version; whether its blocks are whole, its reader sees. */
static bool is_there(const sp_packed_keeper *k)
{
    char path[SP_PACKED_DIR + SP_PACKED_NAME];
    sp_packed_head h;
    sp_packed_path(path, sizeof path, k->cfg.dir, &k->key, SP_PACKED_TAIL);
    int fd = open(path, O_RDONLY | O_CLOEXEC);
    bool is = fd >= 0 && sp_packed_check(&h, fd, &k->key, path, NULL) == SP_OK;
    if (fd >= 0)
        close(fd);
    return is;
}

static void *keep(void *arg)
{
    sp_packed_keeper *k = arg;
    sp_diag d = {0};
    uint64_t t = sp_clock_ns();
    sp_prio_give_way();
    if (is_there(k))
        return NULL;
    sp_err err = sp_packed_write(k->from, &k->key, &k->cfg, &k->stop, &d);
    if (err == SP_OK)
        sp_log(SP_LOG_DEBUG, "%s: its packed weights are kept in %s: %llu MiB in %.0f ms",
               k->key.name, k->cfg.dir, (unsigned long long)k->key.n_bytes >> 20, sp_clock_ms(t));
    else if (err == SP_IO || err == SP_NOMEM || err == SP_LIMIT)
        sp_log(err == SP_LIMIT ? SP_LOG_INFO : SP_LOG_WARN,
               "%s: its packed weights are not kept: %s", k->key.name, d.msg);
    return NULL;
}

sp_err sp_packed_keep(sp_packed_keeper **out, const void *from, const sp_packed_key *key,
                      const sp_packed_cfg *cfg, sp_diag *d)
{
    sp_packed_keeper *k = sp_mem_alloc(sizeof *k);
    if (!k)
        return SP_FAIL(d, SP_NOMEM, "packed weights");
    k->from = from;
    k->key = *key;
    k->cfg = *cfg;
    if (pthread_create(&k->thread, NULL, keep, k) != 0) {
        sp_mem_free(k);
        return SP_FAIL(d, SP_NOMEM, "a thread for packed weights");
    }
    *out = k;
    return SP_OK;
}

void sp_packed_stop(sp_packed_keeper *k)
{
    if (!k)
        return;
    atomic_store(&k->stop, true);
    pthread_join(k->thread, NULL);
    sp_mem_free(k);
}
