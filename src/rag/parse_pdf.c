/* PDF through poppler's pdftotext, in a process with limits: a document can crash or hang that one, not this one. */
#include "rag/parse_int.h"

#include <errno.h>
#include <fcntl.h>
#include <poll.h>
#include <signal.h>
#include <spawn.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/wait.h>
#include <time.h>
#include <unistd.h>

enum { MAX_SECONDS = 60, MAX_TEXT = 64 << 20 };

/* 0, or an errno. prlimit is util-linux's; it becomes pdftotext. */
static int start_child(pid_t *child, int in, int out)
{
    static char *const argv[] = {"prlimit", "--cpu=60", "--as=2147483648", "--core=0", "--fsize=0", "pdftotext", "-q", "-enc", "UTF-8", "-", "-", NULL};
    static char *const env[] = {"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C.UTF-8", NULL};
    posix_spawn_file_actions_t act;
    int rc = posix_spawn_file_actions_init(&act);
    if (rc != 0)
        return rc;
    rc = posix_spawn_file_actions_adddup2(&act, in, 0);
    if (rc == 0)
        rc = posix_spawn_file_actions_adddup2(&act, out, 1);
    if (rc == 0)
        rc = posix_spawn_file_actions_addclosefrom_np(&act, 2);
    if (rc == 0)
        rc = posix_spawnp(child, argv[0], &act, NULL, argv, env);
    posix_spawn_file_actions_destroy(&act);
    return rc;
}

/* Reads until the end, at most MAX_TEXT bytes and MAX_SECONDS. */
static sp_err read_all(sp_buf *out, int fd, sp_diag *d)
{
    char block[65536];
    const time_t end = time(NULL) + MAX_SECONDS;
    for (;;) {
        struct pollfd p = {.fd = fd, .events = POLLIN};
        time_t left = end - time(NULL);
        int n = left > 0 ? poll(&p, 1, (int)left * 1000) : 0;
        if (n == 0)
            return SP_FAIL(d, SP_TIMEOUT, "PDF: pdftotext took more than %d s", MAX_SECONDS);
        ssize_t k = read(fd, block, sizeof block);
        if (k == 0)
            return out->failed ? SP_FAIL(d, SP_NOMEM, "PDF") : SP_OK;
        if (k < 0 && errno != EINTR)
            return SP_FAIL(d, SP_IO, "PDF: %s", strerror(errno));
        if (k > 0)
            sp_buf_put(out, block, (size_t)k);
        if (out->len > MAX_TEXT)
            return SP_FAIL(d, SP_LIMIT, "PDF: more than %d bytes of text", MAX_TEXT);
    }
}

static sp_err to_text(sp_buf *out, int in, sp_diag *d)
{
    int pipe_fd[2];
    if (pipe2(pipe_fd, O_CLOEXEC) != 0)
        return SP_FAIL(d, SP_IO, "PDF: %s", strerror(errno));
    pid_t child = -1;
    int rc = start_child(&child, in, pipe_fd[1]);
    close(pipe_fd[1]);
    sp_err err = rc ? SP_FAIL(d, SP_IO, "PDF: %s", strerror(rc)) : read_all(out, pipe_fd[0], d);
    close(pipe_fd[0]);
    int status = 0;
    if (rc == 0) {
        if (err != SP_OK)
            kill(child, SIGKILL);
        while (waitpid(child, &status, 0) < 0 && errno == EINTR)
            ;
    }
    if (err == SP_OK && WIFEXITED(status) && WEXITSTATUS(status) == 127)
        return SP_FAIL(d, SP_UNSUP, "PDF: pdftotext is not installed (Debian package poppler-utils)");
    if (err == SP_OK && !(WIFEXITED(status) && WEXITSTATUS(status) == 0))
        return SP_FAIL(d, SP_FORMAT, "PDF: pdftotext could not read it");
    return err;
}

sp_err sp_rag_parse_pdf(sp_rag_reading *r, const char *p, size_t n)
{
    sp_diag *d = r->d;
    sp_buf text = {0};
    int fd = memfd_create("pdf", MFD_CLOEXEC);
    size_t at = 0;
    while (fd >= 0 && at < n) {
        ssize_t k = write(fd, p + at, n - at);
        if (k <= 0)
            break;
        at += (size_t)k;
    }
    sp_err err = fd >= 0 && at == n && lseek(fd, 0, SEEK_SET) == 0 ? to_text(&text, fd, d) : SP_FAIL(d, SP_IO, "PDF: %s", strerror(errno));
    if (fd >= 0)
        close(fd);
    if (err == SP_OK)
        err = sp_rag_parse_text(r, sp_buf_str(&text), text.len);
    sp_buf_fini(&text);
    return err;
}
