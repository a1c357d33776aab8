#include "base/file.h"

#include "base/fault.h"

#include <errno.h>
#include <fcntl.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/stat.h>
#include <unistd.h>

static sp_err open_error(const char *path, sp_diag *d)
{
    return SP_FAIL(d, errno == ENOENT ? SP_NOTFOUND : SP_IO, "%s: %s", path, strerror(errno));
}

static sp_file_stamp stamp_from(const struct stat *st)
{
    return (sp_file_stamp){
        .ino = st->st_ino,
        .n_bytes = (uint64_t)st->st_size,
        .mtime_ns = (int64_t)st->st_mtim.tv_sec * 1000000000 + st->st_mtim.tv_nsec,
        .ctime_ns = (int64_t)st->st_ctim.tv_sec * 1000000000 + st->st_ctim.tv_nsec};
}

sp_err sp_file_stamp_of(sp_file_stamp *out, const char *path, sp_diag *d)
{
    struct stat st;
    if (stat(path, &st) != 0)
        return open_error(path, d);
    *out = stamp_from(&st);
    return SP_OK;
}

bool sp_file_stamp_eq(const sp_file_stamp *a, const sp_file_stamp *b)
{
    return a->ino == b->ino && a->n_bytes == b->n_bytes && a->mtime_ns == b->mtime_ns &&
           a->ctime_ns == b->ctime_ns;
}

/* at NULL: anywhere, the whole file; else the n_bytes that it must have. */
static sp_err map_file(sp_file_map *out, const uint8_t *at, size_t n_bytes, const char *path,
                       sp_diag *d)
{
    int fd = sp_fault_hit(SP_FAULT_IO) ? (errno = EIO, -1) : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return open_error(path, d);
    struct stat st;
    sp_err err = SP_OK;
    if (fstat(fd, &st) != 0) {
        err = SP_FAIL(d, SP_IO, "%s: %s", path, strerror(errno));
    } else if (!S_ISREG(st.st_mode)) {
        err = SP_FAIL(d, SP_INVAL, "%s: not a regular file", path);
    } else if (st.st_size == 0) {
        err = SP_FAIL(d, SP_FORMAT, "%s: empty file", path);
    } else if (at && (size_t)st.st_size != n_bytes) {
        err = SP_FAIL(d, SP_FORMAT, "%s: was changed while it was opened", path);
    } else {
        void *p = sp_fault_hit(SP_FAULT_IO)
                      ? (errno = EIO, MAP_FAILED)
                      : mmap((void *)(uintptr_t)at, (size_t)st.st_size, PROT_READ,
                             MAP_SHARED | (at ? MAP_FIXED : 0), fd, 0);
        if (p == MAP_FAILED)
            err = SP_FAIL(d, SP_IO, "%s: mmap: %s", path, strerror(errno));
        else
            *out = (sp_file_map){p, (size_t)st.st_size, stamp_from(&st)};
    }
    close(fd);
    return err;
}

sp_err sp_file_map_open(sp_file_map *out, const char *path, sp_diag *d)
{
    return map_file(out, NULL, 0, path, d);
}

sp_err sp_file_range_open(sp_file_map *out, size_t n_bytes, sp_diag *d)
{
    void *p = mmap(NULL, n_bytes, PROT_READ, MAP_PRIVATE | MAP_ANONYMOUS | MAP_NORESERVE, -1, 0);
    if (p == MAP_FAILED)
        return SP_FAIL(d, SP_NOMEM, "%zu bytes of addresses for files: %s", n_bytes,
                       strerror(errno));
    *out = (sp_file_map){.p = p, .len = n_bytes};
    return SP_OK;
}

sp_err sp_file_map_at(const uint8_t *at, size_t n_bytes, const char *path, sp_file_stamp *stamp,
                      sp_diag *d)
{
    sp_file_map map;
    SP_TRY(map_file(&map, at, n_bytes, path, d));
    *stamp = map.stamp;
    return SP_OK;
}

void sp_file_map_close(sp_file_map *m)
{
    if (m->p)
        munmap((void *)(uintptr_t)m->p, m->len);
    *m = (sp_file_map){0};
}

sp_err sp_file_read(sp_buf *out, const char *path, size_t cap_bytes, sp_diag *d)
{
    bool is_stdin = strcmp(path, "-") == 0;
    int fd = is_stdin ? STDIN_FILENO : open(path, O_RDONLY | O_CLOEXEC);
    if (fd < 0)
        return open_error(path, d);
    char chunk[65536];
    sp_err err = SP_OK;
    for (;;) {
        ssize_t n = sp_fault_hit(SP_FAULT_IO) ? (errno = EIO, -1) : read(fd, chunk, sizeof chunk);
        if (n < 0 && errno == EINTR)
            continue;
        if (n < 0)
            err = SP_FAIL(d, SP_IO, "%s: %s", path, strerror(errno));
        else if ((size_t)n > cap_bytes - (out->len < cap_bytes ? out->len : cap_bytes))
            err = SP_FAIL(d, SP_LIMIT, "%s: larger than %zu bytes", path, cap_bytes);
        if (err || n == 0)
            break;
        sp_buf_put(out, chunk, (size_t)n);
    }
    if (!is_stdin)
        close(fd);
    return err == SP_OK && out->failed ? SP_FAIL(d, SP_NOMEM, "%s", path) : err;
}

void sp_file_map_ahead(const void *p, size_t n_bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)p & ~(page - 1);
    (void)madvise((void *)from, (uintptr_t)p + n_bytes - from, MADV_WILLNEED);
}

void sp_file_map_forget(const void *p, size_t n_bytes)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE),
              from = ((uintptr_t)p + page - 1) & ~(page - 1);
    uintptr_t to = ((uintptr_t)p + n_bytes) & ~(page - 1);
    if (to > from)
        (void)madvise((void *)from, to - from, MADV_DONTNEED);
}

enum { OWN_BYTES = 16 << 20 }; /* copied at once: what is resident twice for a moment */

sp_err sp_file_map_own(const void *p, size_t n_bytes, sp_diag *d)
{
    uintptr_t page = (uintptr_t)sysconf(_SC_PAGESIZE), from = (uintptr_t)p & ~(page - 1),
              end = ((uintptr_t)p + n_bytes + page - 1) & ~(page - 1);
    for (; from < end; from += OWN_BYTES) {
        size_t n = end - from < OWN_BYTES ? end - from : OWN_BYTES;
        void *copy = mmap(NULL, n, PROT_READ | PROT_WRITE, MAP_PRIVATE | MAP_ANONYMOUS, -1, 0);
        if (copy == MAP_FAILED)
            return SP_FAIL(d, SP_NOMEM, "%zu bytes to keep apart from their file", n_bytes);
        memcpy(copy, (const void *)from, n);
        if (mprotect(copy, n, PROT_READ) != 0 ||
            mremap(copy, n, n, MREMAP_MAYMOVE | MREMAP_FIXED, (void *)from) == MAP_FAILED) {
            munmap(copy, n);
            return SP_FAIL(d, SP_NOMEM, "%zu bytes to keep apart from their file: %s", n_bytes,
                           strerror(errno));
        }
    }
    return SP_OK;
}

sp_err sp_file_replace(const char *path, const void *p, size_t n, sp_diag *d)
{
    char temp[1024];
    int len = snprintf(temp, sizeof temp, "%s.%ld", path, (long)getpid());
    if (len < 0 || (size_t)len >= sizeof temp)
        return SP_FAIL(d, SP_IO, "%.120s: the path is too long", path);
    int fd = sp_fault_hit(SP_FAULT_IO) ? (errno = EIO, -1)
                                       : open(temp, O_WRONLY | O_CREAT | O_EXCL | O_CLOEXEC, 0644);
    if (fd < 0)
        return SP_FAIL(d, SP_IO, "%s: %s", temp, strerror(errno));
    ssize_t done = write(fd, p, n);
    if (close(fd) == 0 && done == (ssize_t)n && rename(temp, path) == 0)
        return SP_OK;
    sp_err err = SP_FAIL(d, SP_IO, "%s: %s", path, strerror(errno));
    (void)unlink(temp);
    return err;
}
