/* Reading packed weights, and the files of their folder. Nothing of a file is believed: the head
 * must be the one that would be written now, and each block is what its checksum says. */
#include "model/packed_int.h"

#include "base/fault.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

enum { AHEAD = 8 /* blocks that are asked of the disk before they are read */ };

void sp_packed_path(char *out, size_t cap, const char *dir, const sp_packed_key *key,
                    const char *tail)
{
    char hex[65];
    sp_sha256_hex(hex, &key->model);
    snprintf(out, cap, "%s/%.16s%s%s", dir, hex, key->is_part ? "-part" : "", tail);
}

sp_packed_head sp_packed_head_of(const sp_packed_key *key)
{
    size_t sums = sp_packed_n_blk(key->n_bytes) * sizeof(uint64_t);
    sp_packed_head h = {.magic = SP_PACKED_MAGIC,
                        .version = SP_PACKED_VERSION,
                        .blk_bytes = SP_PACKED_BLK,
                        .n_bytes = key->n_bytes,
                        .data_at = SP_PACKED_PAGE +
                                   (sums + SP_PACKED_PAGE - 1) / SP_PACKED_PAGE * SP_PACKED_PAGE,
                        .model = key->model,
                        .table = key->table};
    memcpy(h.layout, key->layout, sizeof h.layout);
    memcpy(h.name, key->name, sizeof h.name);
    return h;
}

uint64_t sp_packed_sum(const sp_packed_head *h, const uint64_t *sums, size_t n_blk)
{
    XXH64_hash_t first = XXH3_64bits(h, offsetof(sp_packed_head, sum));
    return XXH3_64bits_withSeed(sums, n_blk * sizeof *sums, first);
}

sp_err sp_packed_pread(int fd, void *to, size_t n, uint64_t at, const char *path, sp_diag *d)
{
    for (size_t done = 0; done < n;) {
        ssize_t k = sp_fault_hit(SP_FAULT_IO)
                        ? (errno = EIO, -1)
                        : pread(fd, (char *)to + done, n - done, (off_t)(at + done));
        if (k < 0 && errno == EINTR)
            continue;
        if (k < 0)
            return SP_FAIL(d, SP_IO, "%.120s: %s", path, strerror(errno));
        if (k == 0)
            return SP_FAIL(d, SP_CORRUPT, "%.120s: ends too early", path);
        done += (size_t)k;
    }
    return SP_OK;
}

sp_err sp_packed_check(sp_packed_head *out, int fd, const sp_packed_key *key, const char *path,
                       sp_diag *d)
{
    sp_packed_head h;
    const sp_packed_head want = sp_packed_head_of(key);
    SP_TRY(sp_packed_pread(fd, &h, sizeof h, 0, path, d));
    if (memcmp(h.magic, want.magic, sizeof h.magic) != 0)
        return SP_FAIL(d, SP_FORMAT, "%.120s: holds no packed weights", path);
    if (h.version != want.version || h.blk_bytes != want.blk_bytes)
        return SP_FAIL(d, SP_FORMAT, "%.120s: is of version %u, this program reads %u", path,
                       h.version, want.version);
    if (memcmp(h.layout, want.layout, sizeof h.layout) != 0)
        return SP_FAIL(d, SP_FORMAT, "%.120s: has the layout %.31s, this device reads %s", path,
                       h.layout, want.layout);
    if (memcmp(&h.model, &want.model, sizeof h.model) != 0 ||
        memcmp(&h.table, &want.table, sizeof h.table) != 0 || h.n_bytes != want.n_bytes ||
        h.data_at != want.data_at)
        return SP_FAIL(d, SP_FORMAT, "%.120s: is of another model", path);
    *out = h;
    return SP_OK;
}

/* --- reading ---------------------------------------------------------------------------------- */

typedef struct read_job {
    int fd;
    char *to;
    const uint64_t *sums;
    const sp_packed_head *h;
    const char *path;
    pthread_mutex_t lock;
    sp_diag d; /* guard: lock; the first error */
    _Atomic bool failed;
} read_job;

static size_t blk_bytes(uint64_t n_bytes, size_t i)
{
    uint64_t left = n_bytes - (uint64_t)i * SP_PACKED_BLK;
    return left < SP_PACKED_BLK ? (size_t)left : SP_PACKED_BLK;
}

static sp_err read_block(const read_job *j, size_t i, sp_diag *d)
{
    size_t n = blk_bytes(j->h->n_bytes, i);
    char *to = j->to + i * SP_PACKED_BLK;
    SP_TRY(sp_packed_pread(j->fd, to, n, j->h->data_at + (uint64_t)i * SP_PACKED_BLK, j->path, d));
    if (XXH3_64bits(to, n) != j->sums[i])
        return SP_FAIL(d, SP_CORRUPT, "%.120s: MiB %zu does not match its checksum", j->path, i);
    return SP_OK;
}

static void read_part(void *arg, size_t begin, size_t end, size_t i_thread)
{
    read_job *j = arg;
    (void)i_thread;
    for (size_t i = begin; i < end && !atomic_load(&j->failed); i++) {
        sp_diag d = {0};
        if ((i - begin) % AHEAD == 0)
            (void)posix_fadvise(j->fd, (off_t)(j->h->data_at + (uint64_t)i * SP_PACKED_BLK),
                                2 * AHEAD * SP_PACKED_BLK, POSIX_FADV_WILLNEED);
        if (read_block(j, i, &d) == SP_OK)
            continue;
        pthread_mutex_lock(&j->lock);
        if (!atomic_exchange(&j->failed, true))
            j->d = d;
        pthread_mutex_unlock(&j->lock);
    }
}

static sp_err read_data(void *to, int fd, const sp_packed_head *h, const uint64_t *sums,
                        const char *path, sp_pool *pool, sp_diag *d)
{
    read_job j = {.fd = fd, .to = to, .sums = sums, .h = h, .path = path};
    pthread_mutex_init(&j.lock, NULL);
    sp_pool_run(pool, read_part, &j, sp_packed_n_blk(h->n_bytes), 1);
    pthread_mutex_destroy(&j.lock);
    if (j.failed && d)
        *d = j.d;
    return j.failed ? j.d.code : SP_OK;
}

static sp_err read_open(void *to, int fd, const sp_packed_key *key, const char *path, sp_pool *pool,
                        sp_diag *d)
{
    sp_packed_head h;
    size_t n_blk = sp_packed_n_blk(key->n_bytes);
    SP_TRY(sp_packed_check(&h, fd, key, path, d));
    uint64_t *sums = sp_mem_array(n_blk, sizeof *sums);
    if (!sums)
        return SP_FAIL(d, SP_NOMEM, "packed weights");
    sp_err err = sp_packed_pread(fd, sums, n_blk * sizeof *sums, SP_PACKED_PAGE, path, d);
    if (err == SP_OK && sp_packed_sum(&h, sums, n_blk) != h.sum)
        err = SP_FAIL(d, SP_CORRUPT, "%.120s: its head does not match its checksum", path);
    if (err == SP_OK)
        err = read_data(to, fd, &h, sums, path, pool, d);
    sp_mem_free(sums);
    return err;
}

sp_err sp_packed_read(void *to, const sp_packed_key *key, const char *dir, sp_pool *pool,
                      sp_diag *d)
{
    char path[SP_PACKED_DIR + SP_PACKED_NAME];
    sp_packed_path(path, sizeof path, dir, key, SP_PACKED_TAIL);
    int fd = sp_fault_hit(SP_FAULT_IO) ? (errno = EIO, -1) : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return SP_FAIL(d, errno == ENOENT ? SP_NOTFOUND : SP_IO, "%.120s: %s", path,
                       strerror(errno));
    sp_err err = read_open(to, fd, key, path, pool, d);
    if (err == SP_OK)
        (void)futimens(fd, NULL); /* when it was used; a folder of others may refuse it */
    close(fd);
    return err;
}

void sp_packed_drop(const char *dir, const sp_packed_key *key)
{
    char path[SP_PACKED_DIR + SP_PACKED_NAME];
    sp_packed_path(path, sizeof path, dir, key, SP_PACKED_TAIL);
    (void)unlink(path);
}

/* --- the folder ------------------------------------------------------------------------------- */

static bool has_tail(const char *name, const char *tail)
{
    size_t n = strlen(name), k = strlen(tail);
    return n > k && strcmp(name + n - k, tail) == 0;
}

/* false: it is gone, or no file of ours. */
static bool look_at(sp_packed_file *out, const char *dir, const char *name)
{
    char path[SP_PACKED_DIR + SP_PACKED_NAME];
    struct stat st;
    sp_packed_head h;
    if (strlen(name) >= SP_PACKED_NAME || !has_tail(name, SP_PACKED_TAIL))
        return false;
    snprintf(path, sizeof path, "%s/%s", dir, name);
    int fd = open(path, O_RDONLY | O_CLOEXEC | O_NONBLOCK);
    bool is_file = fd >= 0 && fstat(fd, &st) == 0 && S_ISREG(st.st_mode);
    if (is_file) {
        *out = (sp_packed_file){.n_bytes = (uint64_t)st.st_size, .used_s = st.st_mtim.tv_sec};
        snprintf(out->name, sizeof out->name, "%s", name);
        out->is_known = sp_packed_pread(fd, &h, sizeof h, 0, path, NULL) == SP_OK &&
                        memcmp(h.magic, SP_PACKED_MAGIC, sizeof h.magic) == 0 &&
                        h.version == SP_PACKED_VERSION;
        if (out->is_known) {
            snprintf(out->model, sizeof out->model, "%.*s", SP_PACKED_MODEL - 1, h.name);
            snprintf(out->layout, sizeof out->layout, "%.*s", SP_PACKED_LAYOUT - 1, h.layout);
        }
    }
    if (fd >= 0)
        close(fd);
    return is_file;
}

static int by_use(const void *a, const void *b)
{
    const sp_packed_file *x = a, *y = b;
    return x->used_s != y->used_s ? (x->used_s > y->used_s) - (x->used_s < y->used_s)
                                  : strcmp(x->name, y->name);
}

sp_err sp_packed_list(sp_packed_file **out, size_t *n, const char *dir, sp_diag *d)
{
    DIR *list = opendir(dir);
    sp_packed_file *all = NULL;
    size_t cap = 0, k = 0;
    sp_err err = SP_OK;
    if (!list)
        return SP_FAIL(d, errno == ENOENT ? SP_NOTFOUND : SP_IO, "%.120s: %s", dir,
                       strerror(errno));
    for (struct dirent *e; err == SP_OK && (e = readdir(list));) {
        if (!sp_mem_has_room(&all, &cap, k, sizeof *all))
            err = SP_FAIL(d, SP_NOMEM, "packed weights");
        else
            k += look_at(&all[k], dir, e->d_name);
    }
    closedir(list);
    if (err != SP_OK) {
        sp_mem_free(all);
        return err;
    }
    if (k)
        qsort(all, k, sizeof *all, by_use);
    *out = all;
    *n = k;
    return SP_OK;
}

sp_err sp_packed_remove(const char *dir, const char *name, sp_diag *d)
{
    char path[SP_PACKED_DIR + SP_PACKED_NAME];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    if (unlink(path) != 0)
        return SP_FAIL(d, errno == ENOENT ? SP_NOTFOUND : SP_IO, "%.120s: %s", path,
                       strerror(errno));
    return SP_OK;
}
