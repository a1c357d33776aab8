/* A disk that fails, for end-to-end tests: preloaded, it stands before pread, preadv and pwrite of one
 * process. The file BADIO names holds a mode and is read before each call:
 *   ok | enospc (writes) | eio (reads and writes) | short (writes and reads give half) | slow (50 ms a read) | stuck (2 s a read) */
#include <dlfcn.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <sys/uio.h>
#include <unistd.h>

static const char *mode(void)
{
    static _Thread_local char text[16];
    const char *path = getenv("BADIO");
    FILE *f = path ? fopen(path, "r") : NULL;
    text[0] = 0;
    if (f && !fgets(text, sizeof text, f))
        text[0] = 0;
    if (f)
        fclose(f);
    text[strcspn(text, "\n")] = 0;
    return text;
}

/* Regular files under the folder BADIO lies in only: models and libraries stay readable. */
static int is_ours(int fd)
{
    char link[64], path[512], dir[512];
    const char *bad = getenv("BADIO");
    snprintf(link, sizeof link, "/proc/self/fd/%d", fd);
    ssize_t n = readlink(link, path, sizeof path - 1);
    if (!bad || n <= 0)
        return 0;
    path[n] = 0;
    snprintf(dir, sizeof dir, "%s", bad);
    char *slash = strrchr(dir, '/');
    if (slash)
        slash[1] = 0;
    return strncmp(path, dir, strlen(dir)) == 0;
}

ssize_t pwrite(int fd, const void *p, size_t n, off_t at)
{
    ssize_t (*real)(int, const void *, size_t, off_t) = (ssize_t(*)(int, const void *, size_t, off_t))dlsym(RTLD_NEXT, "pwrite");
    const char *m = is_ours(fd) ? mode() : "";
    if (strcmp(m, "enospc") == 0 || strcmp(m, "eio") == 0) {
        errno = m[1] == 'n' ? ENOSPC : EIO;
        return -1;
    }
    return real(fd, p, strcmp(m, "short") == 0 && n > 1 ? n / 2 : n, at);
}

static int before_read(int fd, const char **m)
{
    *m = is_ours(fd) ? mode() : "";
    if (strcmp(*m, "slow") == 0)
        usleep(50000);
    if (strcmp(*m, "stuck") == 0)
        sleep(2);
    if (strcmp(*m, "eio") == 0)
        errno = EIO;
    return strcmp(*m, "eio") == 0;
}

ssize_t pread(int fd, void *p, size_t n, off_t at)
{
    ssize_t (*real)(int, void *, size_t, off_t) = (ssize_t(*)(int, void *, size_t, off_t))dlsym(RTLD_NEXT, "pread");
    const char *m;
    if (before_read(fd, &m))
        return -1;
    return real(fd, p, strcmp(m, "short") == 0 && n > 1 ? n / 2 : n, at);
}

ssize_t preadv(int fd, const struct iovec *v, int n, off_t at)
{
    ssize_t (*real)(int, const struct iovec *, int, off_t) = (ssize_t(*)(int, const struct iovec *, int, off_t))dlsym(RTLD_NEXT, "preadv");
    const char *m;
    if (before_read(fd, &m))
        return -1;
    return real(fd, v, strcmp(m, "short") == 0 && n > 1 ? n / 2 : n, at);
}
