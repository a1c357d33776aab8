/* sparing doctor: what this machine can run, what is slow and why, and what to do about it.
 * It looks only: no file is made, nothing is loaded, no request is sent. */
#include "cmd/cmd.h"

#include "base/host.h"
#include "cmd/term.h"
#include "kv/io.h"

#include <errno.h>
#include <netdb.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/resource.h>
#include <sys/socket.h>
#include <sys/statvfs.h>
#include <unistd.h>

#define GB 1e-9

typedef enum state { OK, WARN, FAIL } state;

typedef struct finding {
    state state;
    char check[16], detail[200], fix[200];
} finding;

enum { MAX_FINDINGS = 16, FILES_BESIDE = 64 /* open files beside connections */ };

typedef struct report {
    finding f[MAX_FINDINGS];
    size_t n;
    const sp_opts *o;
    sp_host host;
} report;

static finding *add(report *r, state s, const char *check)
{
    SP_ASSERT(r->n < MAX_FINDINGS);
    finding *f = &r->f[r->n++];
    *f = (finding){.state = s};
    snprintf(f->check, sizeof f->check, "%s", check);
    return f;
}

static void look_processor(report *r)
{
    sp_cpu_level level = sp_cpu_detect();
    bool is_slow = level == SP_CPU_SCALAR;
    finding *f = add(r, is_slow ? WARN : OK, "processor");
    snprintf(f->detail, sizeof f->detail, "%.90s, %s, %zu threads of %zu processors", r->host.cpu,
             sp_cpu_level_name(level), r->host.n_thread, r->host.n_cpu);
    if (is_slow)
        snprintf(f->fix, sizeof f->fix, "no vector instructions: everything is many times slower");
    else if (level != SP_CPU_LEVELS - 1)
        snprintf(f->fix, sizeof f->fix, "the next level, %s, would read prompts faster",
                 sp_cpu_level_name((sp_cpu_level)(level + 1)));
}

/* The model that would be loaded, and whether it fits. */
static void look_model(report *r)
{
    char path[1024];
    sp_diag d = {0};
    sp_check_cfg cfg;
    sp_check c;
    sp_dev *dev;
    const sp_dev_cfg one = {.name = "cpu", .n_thread = 1, .mask = SP_CPU_LEVELS - 1};
    finding *f;
    if (sp_cmd_model_path(path, sizeof path, r->o, &d) != SP_OK) {
        f = add(r, WARN, "model");
        snprintf(f->detail, sizeof f->detail, "%s", d.msg);
        snprintf(f->fix, sizeof f->fix, "sparing pull smollm2-135m");
        return;
    }
    if (sp_dev_open(&dev, &one, &d) != SP_OK) {
        snprintf(add(r, FAIL, "model")->detail, sizeof f->detail, "%s", d.msg);
        return;
    }
    if (sp_cmd_check_cfg(&cfg, dev, r->o, &d) == SP_OK) {
        sp_check_file(&c, path, &cfg);
        f = add(r, c.n_why ? FAIL : OK, "model");
        if (c.n_why)
            snprintf(f->detail, sizeof f->detail, "%.199s", c.why[0]);
        else
            snprintf(f->detail, sizeof f->detail, "%.100s, needs %.2f GB and %.2f GB for pages",
                     c.name, (double)c.need_bytes * GB, (double)c.kv_bytes * GB);
        if (c.n_why)
            snprintf(f->fix, sizeof f->fix, "sparing models %.100s says all reasons", c.name);
        sp_check_fini(&c);
    } else {
        snprintf(add(r, FAIL, "model")->detail, sizeof f->detail, "%s", d.msg);
    }
    sp_dev_close(dev);
}

static void look_memory(report *r)
{
    double free = (double)r->host.free_bytes * GB;
    finding *f = add(r, free < 0.5 ? WARN : OK, "memory");
    snprintf(f->detail, sizeof f->detail, "%.1f GB can be had", free);
    if (f->state == WARN)
        snprintf(f->fix, sizeof f->fix, "only the smallest models run; close other programs");
    if (r->host.n_numa > 1)
        snprintf(f->fix, sizeof f->fix, "%zu memory nodes: numactl may help", r->host.n_numa);
}

/* The nearest folder above a path that is there. */
static bool free_bytes(double *out, const char *path)
{
    char at[1024];
    struct statvfs fs;
    snprintf(at, sizeof at, "%s", path);
    while (statvfs(at, &fs) != 0) {
        char *slash = strrchr(at, '/');
        if (!slash)
            snprintf(at, sizeof at, ".");
        else
            *(slash == at ? slash + 1 : slash) = 0;
        if (errno != ENOENT && errno != ENOTDIR)
            return false;
    }
    *out = (double)fs.f_bavail * (double)fs.f_frsize;
    return true;
}

static void look_disk(report *r)
{
    double free;
    char dir[1024];
    const char *cache = sp_opt_str(r->o, "cache-dir");
    double want = (double)sp_opt_bytes(r->o, "cache-bytes");
    if (sp_cmd_models_dir(dir, sizeof dir, r->o, NULL) == SP_OK && free_bytes(&free, dir)) {
        finding *f = add(r, free < 1e9 ? WARN : OK, "disk");
        snprintf(f->detail, sizeof f->detail, "%.1f GB free for models in %.120s", free * GB, dir);
        if (f->state == WARN)
            snprintf(f->fix, sizeof f->fix, "another folder: --models-dir");
    }
    if (!cache)
        return;
    if (!free_bytes(&free, cache)) {
        finding *f = add(r, FAIL, "page cache");
        snprintf(f->detail, sizeof f->detail, "%.120s: %s", cache, strerror(errno));
        return;
    }
    finding *f = add(r, free < want ? WARN : OK, "page cache");
    snprintf(f->detail, sizeof f->detail, "%.1f GB free in %.100s, --cache-bytes is %.1f GB",
             free * GB, cache, want * GB);
    if (f->state == WARN)
        snprintf(f->fix, sizeof f->fix, "--cache-bytes %.0fM", free * 0.8 / (1 << 20));
}

static void look_uring(report *r)
{
    sp_kv_io *io;
    sp_diag d = {0};
    bool ok = sp_kv_io_new(&io, "uring", &d) == SP_OK;
    finding *f = add(r, ok ? OK : WARN, "io_uring");
    snprintf(f->detail, sizeof f->detail, "%s", ok ? "allowed" : d.msg);
    if (!ok)
        snprintf(f->fix, sizeof f->fix, "pages are read by threads instead, a little slower");
    if (ok)
        sp_kv_io_free(io);
}

static void look_port(report *r)
{
    const char *host = sp_opt_str(r->o, "host"), *port = sp_opt_str(r->o, "port");
    const struct addrinfo hint = {.ai_socktype = SOCK_STREAM, .ai_flags = AI_PASSIVE};
    struct addrinfo *at;
    int e = getaddrinfo(host, port, &hint, &at), fd = -1, on = 1;
    finding *f = add(r, OK, "port");
    if (e == 0) {
        fd = socket(at->ai_family, at->ai_socktype | SOCK_CLOEXEC, 0);
        if (fd >= 0)
            (void)setsockopt(fd, SOL_SOCKET, SO_REUSEADDR, &on, sizeof on);
        e = fd >= 0 && bind(fd, at->ai_addr, at->ai_addrlen) == 0 ? 0 : errno;
        snprintf(f->detail, sizeof f->detail, "%.80s:%s %s", host, port,
                 e ? strerror(e) : "is free");
        freeaddrinfo(at);
        if (fd >= 0)
            close(fd);
    } else {
        snprintf(f->detail, sizeof f->detail, "%.80s: %s", host, gai_strerror(e));
    }
    if (e) {
        f->state = FAIL;
        snprintf(f->fix, sizeof f->fix, "sparing serve --port %ld", strtol(port, NULL, 10) + 1);
    }
}

static void look_limits(report *r)
{
    struct rlimit files;
    rlim_t want = (rlim_t)sp_opt_int(r->o, "max-conn") + FILES_BESIDE;
    if (getrlimit(RLIMIT_NOFILE, &files) != 0)
        return;
    bool ok = files.rlim_max == RLIM_INFINITY || files.rlim_max >= want;
    finding *f = add(r, ok ? OK : WARN, "limits");
    snprintf(f->detail, sizeof f->detail, "%llu open files, %llu are wanted",
             (unsigned long long)files.rlim_max, (unsigned long long)want);
    if (!ok)
        snprintf(f->fix, sizeof f->fix, "ulimit -n %llu, or --max-conn", (unsigned long long)want);
}

static bool is_in_path(const char *name)
{
    char path[4096], file[4200];
    snprintf(path, sizeof path, "%s", getenv("PATH") ? getenv("PATH") : "/usr/bin:/bin");
    for (char *save = NULL, *p = strtok_r(path, ":", &save); p; p = strtok_r(NULL, ":", &save)) {
        snprintf(file, sizeof file, "%s/%s", p, name);
        if (access(file, X_OK) == 0)
            return true;
    }
    return false;
}

static void look_pdf(report *r)
{
    bool ok = is_in_path("pdftotext");
    finding *f = add(r, ok ? OK : WARN, "PDF");
    snprintf(f->detail, sizeof f->detail, ok ? "pdftotext is there" : "there is no pdftotext");
    if (!ok)
        snprintf(f->fix, sizeof f->fix, "PDF files are not read; Debian package poppler-utils");
}

static const char *const names[] = {[OK] = "ok", [WARN] = "warn", [FAIL] = "fail"};

static void put_json(const report *r)
{
    sp_buf out = {0};
    for (size_t i = 0; i < r->n; i++) {
        const finding *f = &r->f[i];
        sp_buf_printf(&out, "%s{\"check\":\"%s\",\"state\":\"%s\",\"detail\":", i ? "," : "",
                      f->check, names[f->state]);
        sp_buf_json_str(&out, f->detail, strlen(f->detail));
        sp_buf_puts(&out, ",\"fix\":");
        sp_buf_json_str(&out, f->fix, strlen(f->fix));
        sp_buf_putc(&out, '}');
    }
    printf("[%s]\n", sp_buf_str(&out));
    sp_buf_fini(&out);
}

static void put_text(const report *r, size_t n_good)
{
    static const char *const color[] = {"\33[32m", "\33[33m", "\33[31m"};
    bool colors = sp_term_has_color(stdout);
    for (size_t i = 0; i < r->n; i++) {
        const finding *f = &r->f[i];
        printf("%s%-4s%s  %-11s %s\n", colors ? color[f->state] : "", names[f->state],
               colors ? "\33[0m" : "", f->check, f->detail);
        if (*f->fix)
            printf("%18s%s\n", "", f->fix);
    }
    printf("%zu of %zu checks passed.\n", n_good, r->n);
}

int sp_cmd_doctor(const sp_opts *o)
{
    static void (*const all[])(report *r) = {look_processor, look_memory, look_model,  look_disk,
                                             look_uring,     look_port,   look_limits, look_pdf};
    report r = {.o = o};
    size_t n_good = 0, n_bad = 0;
    sp_host_read(&r.host, "");
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        all[i](&r);
    for (size_t i = 0; i < r.n; i++) {
        n_good += r.f[i].state == OK;
        n_bad += r.f[i].state == FAIL;
    }
    if (sp_opt_flag(o, "json"))
        put_json(&r);
    else
        put_text(&r, n_good);
    return n_bad ? EXIT_RUN : EXIT_DONE;
}
