#include "pipe/version.h"

#include "base/clock.h"
#include "base/file.h"
#include "gen/head.h"
#include "pipe/settings.h"

#include <errno.h>
#include <fcntl.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <sys/stat.h>
#include <unistd.h>

enum { PATH = 1024, MAX_VERSION = 1000000, WHY = 400, CURRENT_BYTES = 32 };

/* One that was in force. */
typedef struct kept {
    struct kept *next;
    sp_version *version;
} kept;

struct sp_versions {
    char dir[PATH];
    kept *all;
    const sp_version *_Atomic now;
};

static const cyaml_schema_field_t fields[] = {
    CYAML_FIELD_UINT("version", CYAML_FLAG_DEFAULT, sp_version, number),
    CYAML_FIELD_UINT("from", CYAML_FLAG_DEFAULT, sp_version, from),
    CYAML_FIELD_INT("made", CYAML_FLAG_DEFAULT, sp_version, made),
    CYAML_FIELD_STRING_PTR("why", SP_YAML_MAYBE, sp_version, why, 0, WHY),
    CYAML_FIELD_MAPPING("set", CYAML_FLAG_DEFAULT, sp_version, set, sp_settings_fields),
    CYAML_FIELD_END};
static const cyaml_schema_value_t schema = {
    CYAML_VALUE_MAPPING(CYAML_FLAG_POINTER, sp_version, fields)};

static sp_err load_intent(sp_version *v, const char *dir, sp_diag *d)
{
    char path[PATH + 32];
    snprintf(path, sizeof path, "%s/intent-%u.model", dir, *v->set.intent);
    SP_TRY(sp_file_read(&v->intent_file, path, SP_INTENT_BYTES, d));
    return sp_intent_open(&v->intent, v->intent_file.p, v->intent_file.len, d);
}

static sp_err load_policy(sp_version *v, const char *dir, sp_diag *d)
{
    char path[PATH + 32];
    sp_buf file = {0};
    sp_diag why = {0};
    snprintf(path, sizeof path, "%s/policy-%u.model", dir, *v->set.policy);
    sp_err err = sp_file_read(&file, path, SP_POLICY_BYTES, &why);
    if (err == SP_OK)
        err = sp_policy_open(&v->policy, sp_buf_str(&file), file.len, &why);
    sp_buf_fini(&file);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "%.120s: %.70s", path, why.msg);
}

/* Whoever loads a model opens the head for it; here it is only seen whether there is one. */
static sp_err check_head(const sp_version *v, const char *dir, sp_diag *d)
{
    char path[PATH + 32];
    sp_head_file f = {0};
    snprintf(path, sizeof path, "%s/head-%u.gguf", dir, *v->set.head);
    SP_TRY(sp_head_open(&f, path, d));
    sp_head_close(&f);
    return SP_OK;
}

static bool has(const unsigned *number)
{
    return number && *number;
}

static sp_err load_trained(sp_version *v, const char *dir, sp_diag *d)
{
    if (has(v->set.intent))
        SP_TRY(load_intent(v, dir, d));
    if (has(v->set.policy))
        SP_TRY(load_policy(v, dir, d));
    return has(v->set.head) ? check_head(v, dir, d) : SP_OK;
}

const sp_intent_model *sp_version_intent(const sp_version *v)
{
    return v && has(v->set.intent) ? &v->intent : NULL;
}

const sp_policy *sp_version_policy(const sp_version *v)
{
    return v && has(v->set.policy) ? &v->policy : NULL;
}

bool sp_versions_head(const sp_versions *v, char *out, size_t cap)
{
    const sp_version *now = sp_versions_now(v);
    if (!now || !has(now->set.head))
        return false;
    int n = snprintf(out, cap, "%s/head-%u.gguf", v->dir, *now->set.head);
    return n > 0 && (size_t)n < cap;
}

/* Has it settings that rounds of improvement do not know? */
static bool is_foreign(const sp_settings *s)
{
    return s->path || s->system || s->template || s->drafters || s->think_tokens || s->priority ||
           s->place || s->model;
}

sp_err sp_version_load(sp_version **out, const char *dir, unsigned number, sp_diag *d)
{
    char path[PATH + 32];
    void *p = NULL;
    snprintf(path, sizeof path, "%s/v%u.yaml", dir, number);
    SP_TRY(sp_yaml_load(&p, path, &schema, d));
    sp_version *v = p;
    const char *bad = is_foreign(&v->set)
                          ? "a version sets no path, system, template, drafters, think_tokens, "
                            "priority, place or model"
                          : sp_settings_wrong(&v->set);
    if (bad || v->number != number || v->from >= number) {
        sp_err err = SP_FAIL(d, SP_FORMAT, "%.120s: %s", path,
                             bad                   ? bad
                             : v->number != number ? "its version is not that of its name"
                                                   : "it comes from a later version");
        sp_version_free(v);
        return err;
    }
    sp_err err = load_trained(v, dir, d);
    if (err == SP_OK)
        *out = v;
    else
        sp_version_free(v);
    return err;
}

void sp_version_free(sp_version *v)
{
    if (v)
        sp_buf_fini(&v->intent_file);
    sp_yaml_free(&schema, v);
}

/* 0: none is in force. */
static sp_err read_current(unsigned *out, const char *dir, sp_diag *d)
{
    char path[PATH + 32], *end;
    sp_buf text = {0};
    snprintf(path, sizeof path, "%s/current", dir);
    *out = 0;
    if (access(path, F_OK) != 0 && errno == ENOENT)
        return SP_OK;
    sp_err err = sp_file_read(&text, path, CURRENT_BYTES, d);
    if (err == SP_OK) {
        const char *s = sp_buf_str(&text);
        unsigned long n = strtoul(s, &end, 10);
        if (end == s || (*end && *end != '\n') || *s == '-' || n > MAX_VERSION)
            err = SP_FAIL(d, SP_FORMAT, "%.120s: it is not the number of a version", path);
        else
            *out = (unsigned)n;
    }
    sp_buf_fini(&text);
    return err;
}

sp_err sp_versions_reload(sp_versions *v, sp_diag *d)
{
    unsigned number;
    sp_version *version = NULL;
    SP_TRY(read_current(&number, v->dir, d));
    if (number)
        SP_TRY(sp_version_load(&version, v->dir, number, d));
    if (version) {
        kept *k = sp_mem_alloc(sizeof *k);
        if (!k) {
            sp_version_free(version);
            return SP_FAIL(d, SP_NOMEM, "versions");
        }
        *k = (kept){v->all, version};
        v->all = k;
    }
    atomic_store(&v->now, version);
    return SP_OK;
}

sp_err sp_versions_open(sp_versions **out, const char *dir, sp_diag *d)
{
    if (strlen(dir) >= PATH)
        return SP_FAIL(d, SP_INVAL, "versions: the folder's name is too long");
    if (mkdir(dir, 0755) != 0 && errno != EEXIST)
        return SP_FAIL(d, SP_IO, "%.120s: it cannot be made: %s", dir, strerror(errno));
    sp_versions *v = sp_mem_alloc(sizeof *v);
    if (!v)
        return SP_FAIL(d, SP_NOMEM, "versions");
    snprintf(v->dir, sizeof v->dir, "%s", dir);
    sp_err err = sp_versions_reload(v, d);
    if (err == SP_OK)
        *out = v;
    else
        sp_versions_close(v);
    return err;
}

void sp_versions_close(sp_versions *v)
{
    if (!v)
        return;
    for (kept *k; (k = v->all);) {
        v->all = k->next;
        sp_version_free(k->version);
        sp_mem_free(k);
    }
    sp_mem_free(v);
}

const sp_version *sp_versions_now(const sp_versions *v)
{
    return v ? atomic_load(&v->now) : NULL;
}

const char *sp_versions_dir(const sp_versions *v)
{
    return v->dir;
}

unsigned sp_versions_count(const sp_versions *v, const char *before, const char *behind)
{
    char path[PATH + 64];
    unsigned n = 0;
    do
        snprintf(path, sizeof path, "%s/%.20s%u%.20s", v->dir, before, n + 1, behind);
    while (n < MAX_VERSION && access(path, F_OK) == 0 && ++n);
    return n;
}

unsigned sp_versions_last(const sp_versions *v)
{
    return sp_versions_count(v, "v", ".yaml");
}

static bool write_all(int fd, const char *p, size_t n)
{
    while (n) {
        ssize_t k = write(fd, p, n);
        if (k < 0 && errno == EINTR)
            continue;
        if (k <= 0)
            return false;
        p += k;
        n -= (size_t)k;
    }
    return true;
}

sp_err sp_versions_write(const sp_versions *v, const char *name, const char *text, size_t n,
                         sp_diag *d)
{
    char path[PATH + 128], fresh[PATH + 140];
    snprintf(path, sizeof path, "%s/%.100s", v->dir, name);
    snprintf(fresh, sizeof fresh, "%s.new", path);
    int fd = open(fresh, O_WRONLY | O_CREAT | O_TRUNC | O_CLOEXEC, 0644);
    bool ok = fd >= 0 && write_all(fd, text, n) && fsync(fd) == 0;
    ok = fd >= 0 && close(fd) == 0 && ok;
    ok = ok && rename(fresh, path) == 0;
    int at = ok ? open(v->dir, O_RDONLY | O_DIRECTORY | O_CLOEXEC) : -1;
    ok = at >= 0 && fsync(at) == 0;
    if (at >= 0)
        close(at);
    return ok ? SP_OK
              : SP_FAIL(d, SP_IO, "%.120s: it cannot be written: %s", path, strerror(errno));
}

static sp_err put_in_force(sp_versions *v, unsigned number, sp_diag *d)
{
    char text[16];
    int n = snprintf(text, sizeof text, "%u\n", number);
    SP_TRY(sp_versions_write(v, "current", text, (size_t)n, d));
    return sp_versions_reload(v, d);
}

sp_err sp_versions_keep(const sp_versions *v, const sp_trained *t, sp_diag *d)
{
    char name[32];
    sp_buf text = {0};
    snprintf(name, sizeof name, "%.10s-%u.model", t->what, t->number);
    if (t->model)
        SP_TRY(sp_versions_write(v, name, t->model, t->n_model, d));
    sp_buf_printf(&text, "round: %zu\nmade: %lld\n%s", t->round, (long long)sp_clock_wall(),
                  t->origin);
    snprintf(name, sizeof name, "%.10s-%u.yaml", t->what, t->number);
    sp_err err = text.failed ? SP_FAIL(d, SP_NOMEM, "%s", name)
                             : sp_versions_write(v, name, text.p, text.len, d);
    sp_buf_fini(&text);
    return err;
}

sp_err sp_versions_add(sp_versions *v, const sp_knobs *k, const char *why, sp_diag *d)
{
    const sp_version *now = sp_versions_now(v);
    unsigned number = sp_versions_last(v) + 1;
    char name[32];
    sp_buf text = {0};
    snprintf(name, sizeof name, "v%u.yaml", number);
    sp_buf_printf(&text, "version: %u\nfrom: %u\nmade: %lld\nwhy: \"%.300s\"\nset: ", number,
                  now ? now->number : 0, (long long)sp_clock_wall(), why);
    sp_knobs_write(k, &text);
    sp_buf_putc(&text, '\n');
    sp_err err = text.failed ? SP_FAIL(d, SP_NOMEM, "version")
                             : sp_versions_write(v, name, text.p, text.len, d);
    sp_buf_fini(&text);
    return err == SP_OK ? put_in_force(v, number, d) : err;
}

sp_err sp_versions_back(sp_versions *v, sp_diag *d)
{
    const sp_version *now = sp_versions_now(v);
    if (!now)
        return SP_FAIL(d, SP_NOTFOUND, "%.120s: no version is in force", v->dir);
    return put_in_force(v, now->from, d);
}
