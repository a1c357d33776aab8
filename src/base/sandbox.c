#include "base/sandbox.h"

#include "base/clock.h"
#include "base/mem.h"
#include "base/prio.h"

#include <errno.h>
#include <fcntl.h>
#include <linux/audit.h>
#include <linux/filter.h>
#include <linux/landlock.h>
#include <linux/seccomp.h>
#include <poll.h>
#include <sched.h>
#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <sys/mman.h>
#include <sys/prctl.h>
#include <sys/resource.h>
#include <sys/syscall.h>
#include <sys/wait.h>
#include <unistd.h>

enum {
    NOBODY = 65534,
    STACK_BYTES = 64 * 1024,
    SAID_BYTES = 4096,
    SLICE_MS = 100,
    NOT_FOUND = 127,
    NOT_CONFINED = 126
};

/* --- the child -------------------------------------------------------------------------------- */
/* It shares this process's memory until it becomes the program (CLONE_VM), so it makes system calls
 * and writes nothing but its own stack. glibc's setuid and its kin would reach for the threads of
 * this process: the calls are made directly. */

typedef struct child {
    const sp_sandbox_cfg *cfg;
    int in, out, said;
    bool root;
} child;

#if defined(__x86_64__)
#define ARCH AUDIT_ARCH_X86_64
#else
#define ARCH AUDIT_ARCH_AARCH64
#endif

#define REFUSE(nr)                                                                                 \
    BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, (nr), 0, 1),                                               \
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM)

static bool refuse_calls(void)
{
    struct sock_filter code[] = {
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, arch)),
        BPF_JUMP(BPF_JMP | BPF_JEQ | BPF_K, ARCH, 1, 0),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS),
        BPF_STMT(BPF_LD | BPF_W | BPF_ABS, offsetof(struct seccomp_data, nr)),
        REFUSE(__NR_socket),
        REFUSE(__NR_socketpair),
        REFUSE(__NR_connect),
        REFUSE(__NR_ptrace),
        REFUSE(__NR_process_vm_readv),
        REFUSE(__NR_process_vm_writev),
        REFUSE(__NR_pidfd_open),
        REFUSE(__NR_kill),
        REFUSE(__NR_unshare),
        REFUSE(__NR_setns),
        REFUSE(__NR_mount),
        REFUSE(__NR_bpf),
        REFUSE(__NR_perf_event_open),
        REFUSE(__NR_userfaultfd),
        REFUSE(__NR_io_uring_setup),
        REFUSE(__NR_keyctl),
        REFUSE(__NR_add_key),
        REFUSE(__NR_open_by_handle_at),
        BPF_STMT(BPF_RET | BPF_K, SECCOMP_RET_ALLOW)};
    const struct sock_fprog prog = {sizeof code / sizeof code[0], code};
    return syscall(SYS_prctl, PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &prog, 0, 0) == 0;
}

/* Nothing of the file system but what a program of the distribution needs to run. */
static bool confine_files(void)
{
    static const char *const open_to_it[] = {
        "/usr",       "/lib",      "/lib64",      "/bin", "/etc/ld.so.cache",
        "/etc/fonts", "/dev/null", "/dev/urandom"};
    long abi = syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION);
    struct landlock_ruleset_attr all = {.handled_access_fs =
                                            (LANDLOCK_ACCESS_FS_MAKE_SYM << 1) - 1};
    if (abi < 1)
        return false;
    if (abi >= 2)
        all.handled_access_fs |= LANDLOCK_ACCESS_FS_REFER;
#ifdef LANDLOCK_ACCESS_FS_TRUNCATE
    if (abi >= 3)
        all.handled_access_fs |= LANDLOCK_ACCESS_FS_TRUNCATE;
#endif
    long rules = syscall(SYS_landlock_create_ruleset, &all, sizeof all, 0);
    for (size_t i = 0; rules >= 0 && i < sizeof open_to_it / sizeof open_to_it[0]; i++) {
        long fd = syscall(SYS_openat, AT_FDCWD, open_to_it[i], O_PATH | O_CLOEXEC, 0);
        struct landlock_path_beneath_attr beneath = {
            .allowed_access = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE |
                              LANDLOCK_ACCESS_FS_READ_DIR,
            .parent_fd = (int)fd};
        /* a file has no folder to read */
        if (fd >= 0 &&
            syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0) != 0) {
            beneath.allowed_access = LANDLOCK_ACCESS_FS_EXECUTE | LANDLOCK_ACCESS_FS_READ_FILE;
            (void)syscall(SYS_landlock_add_rule, rules, LANDLOCK_RULE_PATH_BENEATH, &beneath, 0);
        }
    }
    return rules >= 0 && syscall(SYS_landlock_restrict_self, rules, 0) == 0;
}

static bool become_nobody(void)
{
    return syscall(SYS_setgroups, 0, NULL) == 0 &&
           syscall(SYS_setresgid, NOBODY, NOBODY, NOBODY) == 0 &&
           syscall(SYS_setresuid, NOBODY, NOBODY, NOBODY) == 0;
}

static void set_limit(int what, size_t n)
{
    const struct rlimit limit = {n, n};
    (void)syscall(SYS_prlimit64, 0, what, &limit, NULL);
}

static int child_main(void *arg)
{
    static const char *const folders[] = {"/usr/local/bin/", "/usr/bin/", "/bin/"};
    static const char *const env[] = {"PATH=/usr/local/bin:/usr/bin:/bin", "LC_ALL=C.UTF-8",
                                      "HOME=/nonexistent", NULL};
    static const char refusal[] = "this kernel confines it neither by Landlock nor by another user";
    const child *c = arg;
    const sp_sandbox_cfg *cfg = c->cfg;
    char path[256];
    bool streams = syscall(SYS_dup3, c->in, 0, 0) == 0 && syscall(SYS_dup3, c->out, 1, 0) == 1 &&
                   syscall(SYS_dup3, c->said, 2, 0) == 2;
    if (!streams || syscall(SYS_close_range, 3, ~0u, 0) != 0 || syscall(SYS_chdir, "/") != 0)
        syscall(SYS_exit_group, NOT_CONFINED);
    (void)syscall(SYS_prctl, PR_SET_PDEATHSIG, SIGKILL, 0, 0, 0);
    (void)syscall(SYS_setsid);
    if (cfg->gives_way)
        sp_prio_session_gives_way();
    /* where it may; seccomp refuses sockets anyway */
    (void)syscall(SYS_unshare, (c->root ? 0 : CLONE_NEWUSER) | CLONE_NEWNET | CLONE_NEWIPC);
    set_limit(RLIMIT_CPU, cfg->seconds + 1);
    set_limit(RLIMIT_AS, cfg->memory_bytes);
    set_limit(RLIMIT_CORE, 0);
    set_limit(RLIMIT_FSIZE, 0);
    set_limit(RLIMIT_NOFILE, 32);
    bool other_user = c->root && become_nobody();
    bool private = syscall(SYS_prctl, PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) == 0;
    bool fenced = private && confine_files();
    if (!private || (!other_user && !fenced) || !refuse_calls()) {
        (void)!write(2, refusal, sizeof refusal - 1);
        syscall(SYS_exit_group, NOT_CONFINED);
    }
    for (size_t i = 0; i < 3; i++) {
        size_t n = strlen(folders[i]), k = strlen(cfg->argv[0]);
        if (n + k + 1 > sizeof path)
            break;
        memcpy(path, folders[i], n);
        memcpy(path + n, cfg->argv[0], k + 1);
        syscall(SYS_execve, path, cfg->argv, env);
    }
    syscall(SYS_exit_group, NOT_FOUND);
    return 0;
}

/* All signals wait while the child shares this memory: none of this process's handlers may run in
 * it. */
static pid_t start_child(child *c, sp_diag *d)
{
    sigset_t all, old;
    char *stack = sp_mem_align(STACK_BYTES);
    if (!stack) {
        (void)SP_FAIL(d, SP_NOMEM, "%s", c->cfg->argv[0]);
        return -1;
    }
    sigfillset(&all);
    pthread_sigmask(SIG_SETMASK, &all, &old);
    pid_t pid = clone(child_main, stack + STACK_BYTES, CLONE_VM | CLONE_VFORK | SIGCHLD, c);
    int why = errno;
    pthread_sigmask(SIG_SETMASK, &old, NULL);
    sp_mem_free(stack);
    if (pid < 0)
        (void)SP_FAIL(d, SP_IO, "%s: %s", c->cfg->argv[0], strerror(why));
    return pid;
}

/* --- this side -------------------------------------------------------------------------------- */

/* Reads one stream; false at its end. */
static bool take(sp_buf *to, size_t cap, int fd)
{
    char block[65536];
    ssize_t k = read(fd, block, sizeof block);
    if (k > 0 && to->len < cap + 1) /* one byte past the cap shows that there was more */
        sp_buf_put(to, block, (size_t)k < cap + 1 - to->len ? (size_t)k : cap + 1 - to->len);
    return k > 0 || (k < 0 && errno == EINTR);
}

static sp_err pump(sp_buf *out, sp_buf *said, const int fd[2], const sp_sandbox_cfg *cfg,
                   sp_diag *d)
{
    const uint32_t seconds = cfg->wait_seconds ? cfg->wait_seconds : cfg->seconds;
    const uint64_t end = sp_clock_ns() + seconds * UINT64_C(1000000000);
    struct pollfd p[2] = {{.fd = fd[0], .events = POLLIN}, {.fd = fd[1], .events = POLLIN}};
    while (p[0].fd >= 0 || p[1].fd >= 0) {
        if (sp_clock_ns() >= end)
            return SP_FAIL(d, SP_TIMEOUT, "%s took more than %u s", cfg->argv[0], seconds);
        if (cfg->stop && atomic_load(cfg->stop))
            return SP_FAIL(d, SP_CANCEL, "%s was stopped", cfg->argv[0]);
        if (poll(p, 2, SLICE_MS) < 0 && errno != EINTR)
            return SP_FAIL(d, SP_IO, "%s: %s", cfg->argv[0], strerror(errno));
        for (int i = 0; i < 2; i++)
            if (p[i].fd >= 0 && p[i].revents &&
                !take(i ? said : out, i ? SAID_BYTES : cfg->out_bytes, p[i].fd))
                p[i].fd = -1;
        if (out->failed || said->failed)
            return SP_FAIL(d, SP_NOMEM, "%s", cfg->argv[0]);
        if (out->len > cfg->out_bytes)
            return SP_FAIL(d, SP_LIMIT, "%s wrote more than %zu bytes", cfg->argv[0],
                           cfg->out_bytes);
    }
    return SP_OK;
}

/* A file in memory; it cannot be changed through the child's descriptor. */
static int input_file(const sp_sandbox_cfg *cfg)
{
    int fd = memfd_create("input", MFD_CLOEXEC | MFD_ALLOW_SEALING);
    size_t at = 0;
    while (fd >= 0 && at < cfg->n_in) {
        ssize_t k = write(fd, (const char *)cfg->in + at, cfg->n_in - at);
        if (k <= 0 && errno != EINTR)
            break;
        at += k > 0 ? (size_t)k : 0;
    }
    if (fd >= 0 && at == cfg->n_in && lseek(fd, 0, SEEK_SET) == 0 &&
        fcntl(fd, F_ADD_SEALS, F_SEAL_WRITE | F_SEAL_GROW | F_SEAL_SHRINK | F_SEAL_SEAL) == 0)
        return fd;
    if (fd >= 0)
        close(fd);
    return -1;
}

static void close_all(int *fd, size_t n)
{
    for (size_t i = 0; i < n; i++)
        if (fd[i] >= 0)
            close(fd[i]);
}

sp_err sp_sandbox_run(sp_buf *out, sp_buf *said, int *code, const sp_sandbox_cfg *cfg, sp_diag *d)
{
    /* input, output's two ends, error stream's two ends */
    int fd[5] = {-1, -1, -1, -1, -1}, status = 0;
    fd[0] = input_file(cfg);
    if (fd[0] < 0 || pipe2(fd + 1, O_CLOEXEC) != 0 || pipe2(fd + 3, O_CLOEXEC) != 0) {
        sp_err bad = SP_FAIL(d, SP_IO, "%s: %s", cfg->argv[0], strerror(errno));
        close_all(fd, 5);
        return bad;
    }
    child c = {cfg, fd[0], fd[2], fd[4], geteuid() == 0};
    pid_t pid = start_child(&c, d);
    close(fd[2]);
    close(fd[4]);
    fd[2] = fd[4] = -1;
    const int from[2] = {fd[1], fd[3]};
    sp_err err = pid < 0 ? SP_IO : pump(out, said, from, cfg, d);
    if (pid > 0) {
        if (err != SP_OK)
            kill(pid, SIGKILL);
        while (waitpid(pid, &status, 0) < 0 && errno == EINTR)
            ;
    }
    close_all(fd, 5);
    if (err != SP_OK)
        return err;
    *code = WIFEXITED(status) ? WEXITSTATUS(status) : 128 + WTERMSIG(status);
    if (*code == NOT_FOUND)
        return SP_FAIL(d, SP_NOTFOUND, "%s is not installed", cfg->argv[0]);
    if (*code == NOT_CONFINED)
        return SP_FAIL(d, SP_UNSUP, "%s is not run: %.120s", cfg->argv[0],
                       said->len ? sp_buf_str(said) : "it cannot be confined");
    return SP_OK;
}
