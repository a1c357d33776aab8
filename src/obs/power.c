#include "obs/power.h"

#include "base/clock.h"
#include "base/lock.h"
#include "base/mem.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <string.h>

enum { DOMAINS = 16, PATH = 600, SHORTEST_NS = 10000000 /* counters move each millisecond */ };

typedef struct domain {
    char path[PATH]; /* of energy_uj */
    double range;    /* joules at which it begins again */
    double last;
} domain;

struct sp_power {
    sp_lock lock; /* rank API */
    domain domain[DOMAINS];
    size_t n;      /* 0: nothing is measured */
    double joules; /* of all, since it was opened; guard: lock */
    double watts;  /* the figure, or measured last; < 0: neither; guard: lock */
    bool is_set;   /* the figure holds */
};

/* The first line of a file below a folder of counters. */
static sp_err read_line(char *out, size_t cap, const char *path)
{
    FILE *f = fopen(path, "re");
    if (!f)
        return SP_IO;
    bool fine = fgets(out, (int)cap, f) != NULL;
    fclose(f);
    if (!fine)
        return SP_IO;
    out[strcspn(out, "\n")] = 0;
    return SP_OK;
}

static sp_err read_joules(double *out, const char *path)
{
    char text[40], more;
    unsigned long long uj;
    SP_TRY(read_line(text, sizeof text, path));
    if (sscanf(text, "%llu%c", &uj, &more) != 1)
        return SP_FORMAT;
    *out = (double)uj * 1e-6;
    return SP_OK;
}

/* Packages and their memory; what lies within a package is counted with it. */
static bool is_counted(const char *folder, const char *name)
{
    char path[PATH], what[40];
    if (strncmp(name, "intel-rapl:", 11) != 0)
        return false;
    snprintf(path, sizeof path, "%.400s/%.60s/name", folder, name);
    return read_line(what, sizeof what, path) == SP_OK &&
           (strncmp(what, "package", 7) == 0 || strcmp(what, "dram") == 0);
}

/* errno of the first counter that is there and cannot be read; 0: there was none. */
static int add(sp_power *p, const char *folder, const char *name)
{
    char range[PATH];
    domain *to = &p->domain[p->n];
    snprintf(to->path, sizeof to->path, "%.400s/%.60s/energy_uj", folder, name);
    snprintf(range, sizeof range, "%.400s/%.60s/max_energy_range_uj", folder, name);
    errno = 0;
    if (read_joules(&to->last, to->path) != SP_OK || read_joules(&to->range, range) != SP_OK)
        return errno ? errno : EIO;
    p->n++;
    return 0;
}

static sp_err find(sp_power *p, const char *folder, sp_diag *d)
{
    int why = 0;
    DIR *dir = opendir(folder);
    if (!dir)
        return SP_FAIL(d, SP_NOTFOUND, "%.120s: %s", folder, strerror(errno));
    for (const struct dirent *e; p->n < DOMAINS && (e = readdir(dir));) {
        int failed = is_counted(folder, e->d_name) ? add(p, folder, e->d_name) : 0;
        why = why ? why : failed;
    }
    closedir(dir);
    if (why) {
        p->n = 0; /* a part of them would say too little */
        return SP_FAIL(d, SP_NOTFOUND, "%.120s: energy_uj: %s", folder, strerror(why));
    }
    return p->n ? SP_OK : SP_FAIL(d, SP_NOTFOUND, "%.120s has no counter of a package", folder);
}

sp_err sp_power_open(sp_power **out, const char *folder, double watts, sp_diag *d)
{
    sp_power *p = sp_mem_alloc(sizeof *p);
    if (!p)
        return SP_FAIL(d, SP_NOMEM, "power");
    sp_lock_init(&p->lock, SP_RANK_API);
    p->watts = watts;
    p->is_set = watts >= 0;
    sp_err err = folder ? find(p, folder, d) : SP_FAIL(d, SP_NOTFOUND, "nothing is measured");
    if (err != SP_OK && !p->is_set) {
        sp_power_free(p);
        return err;
    }
    *out = p;
    return SP_OK;
}

void sp_power_free(sp_power *p)
{
    if (!p)
        return;
    sp_lock_fini(&p->lock);
    sp_mem_free(p);
}

bool sp_power_is_measured(const sp_power *p)
{
    return p->n > 0;
}

/* The caller holds the lock. */
static void count(sp_power *p)
{
    for (size_t i = 0; i < p->n; i++) {
        double now;
        domain *c = &p->domain[i];
        if (read_joules(&now, c->path) != SP_OK)
            continue; /* it is counted with the next reading */
        p->joules += now >= c->last ? now - c->last : now + c->range - c->last;
        c->last = now;
    }
}

sp_power_mark sp_power_now(sp_power *p)
{
    sp_lock_get(&p->lock);
    count(p);
    const sp_power_mark m = {sp_clock_ns(), p->joules};
    sp_lock_put(&p->lock);
    return m;
}

double sp_power_since(sp_power *p, const sp_power_mark *from)
{
    const sp_power_mark now = sp_power_now(p);
    uint64_t ns = now.ns - from->ns;
    sp_lock_get(&p->lock);
    double watts = p->watts;
    if (p->n && ns >= SHORTEST_NS) {
        watts = (now.joules - from->joules) / ((double)ns * 1e-9);
        p->watts = p->is_set ? p->watts : watts;
    }
    sp_lock_put(&p->lock);
    return watts > 0 ? watts : 0;
}
