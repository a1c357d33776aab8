#include "base/host.h"

#include <sched.h>
#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

enum { MAX_PATH = 512, MAX_TEXT = 4096, MAX_CPU = 1024, MAX_NODE = 64 };

/* First bytes of root + path as text; false if it cannot be read. */
static bool read_text(char out[MAX_TEXT], const char *root, const char *path)
{
    char full[MAX_PATH];
    if ((size_t)snprintf(full, sizeof full, "%s%s", root, path) >= sizeof full)
        return false;
    FILE *f = fopen(full, "r");
    if (!f)
        return false;
    size_t n = fread(out, 1, MAX_TEXT - 1, f);
    fclose(f);
    out[n] = 0;
    return true;
}

/* A number such as 1024, 512K, 32M; 0 for anything else ("max" is no limit). */
static size_t number(const char *text)
{
    char *end;
    unsigned long long v = strtoull(text, &end, 10);
    unsigned shift = *end == 'K' ? 10 : *end == 'M' ? 20 : *end == 'G' ? 30 : 0;
    return (size_t)(v << shift);
}

static size_t read_number(const char *root, const char *path)
{
    char text[MAX_TEXT];
    return read_text(text, root, path) ? number(text) : 0;
}

/* The value of "key   : value" or "key: value", trimmed; NULL if absent. Cuts text at its end. */
static const char *field(char *text, const char *key)
{
    char *p = strstr(text, key);
    if (!p || !(p = strchr(p, ':')))
        return NULL;
    p += 1 + strspn(p + 1, " \t");
    p[strcspn(p, "\n")] = 0;
    return p;
}

static void read_cores(sp_host *h, const char *root)
{
    cpu_set_t set;
    uint32_t seen[MAX_CPU];
    char path[MAX_PATH], text[MAX_TEXT];
    CPU_ZERO(&set);
    if (sched_getaffinity(0, sizeof set, &set) != 0)
        CPU_SET(0, &set);
    for (size_t i = 0; i < MAX_CPU && i < CPU_SETSIZE; i++) {
        if (!CPU_ISSET(i, &set))
            continue;
        h->n_cpu++;
        uint32_t core = (uint32_t)i, package = 0;
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%zu/topology/core_id", i);
        if (read_text(text, root, path))
            core = (uint32_t)number(text);
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%zu/topology/physical_package_id",
                 i);
        if (read_text(text, root, path))
            package = (uint32_t)number(text);
        uint32_t id = package << 16 | (core & 0xffff);
        size_t k = 0;
        while (k < h->n_core && seen[k] != id)
            k++;
        if (k == h->n_core)
            seen[h->n_core++] = id;
    }
}

static void read_caches(sp_host *h, const char *root)
{
    char path[MAX_PATH], text[MAX_TEXT];
    for (int i = 0; i < 8; i++) {
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/level", i);
        if (!read_text(text, root, path))
            break;
        size_t level = number(text);
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu0/cache/index%d/size", i);
        size_t bytes = read_number(root, path);
        if (level == 2)
            h->l2_bytes = bytes;
        if (level == 3)
            h->l3_bytes = bytes;
    }
    for (int i = 0; i < MAX_NODE; i++) {
        snprintf(path, sizeof path, "/sys/devices/system/node/node%d/cpulist", i);
        h->n_numa += read_text(text, root, path);
    }
}

/* The folder of this process's control group under root: version 2, or `controller` of version
 * 1. */
static bool group_folder(char out[MAX_PATH], const char *root, const char *controller)
{
    char text[MAX_TEXT];
    if (!read_text(text, root, "/proc/self/cgroup"))
        return false;
    for (char *line = text, *next; line && *line; line = next) {
        next = strchr(line, '\n');
        if (next)
            *next++ = 0;
        char *name = strchr(line, ':'), *path = name ? strchr(name + 1, ':') : NULL;
        if (!path)
            continue;
        *path++ = 0;
        if (!*controller && strcmp(name, ":") == 0)
            return snprintf(out, MAX_PATH, "/sys/fs/cgroup%.300s", strcmp(path, "/") ? path : "") <
                   MAX_PATH;
        if (*controller && strstr(name, controller))
            return snprintf(out, MAX_PATH, "/sys/fs/cgroup/%s%.300s", controller,
                            strcmp(path, "/") ? path : "") < MAX_PATH;
    }
    return false;
}

static size_t group_number(const char *root, const char *folder, const char *file)
{
    char path[MAX_PATH];
    return (size_t)snprintf(path, sizeof path, "%s/%s", folder, file) < sizeof path
               ? read_number(root, path)
               : 0;
}

static void limit(size_t *value, size_t most)
{
    *value = most && most < *value ? most : *value;
}

/* Limits hold on every level of the hierarchy: each parent is looked at too. */
static void read_group(sp_host *h, const char *root, const char *controller, bool is_v1)
{
    char folder[MAX_PATH], path[MAX_PATH], text[MAX_TEXT];
    if (!group_folder(folder, root, is_v1 ? controller : ""))
        return;
    for (size_t base = strlen(is_v1 ? "/sys/fs/cgroup/" : "/sys/fs/cgroup");
         strlen(folder) >= base;) {
        size_t quota = 0, period = 0, max = 0, used = 0;
        if (is_v1) {
            quota = group_number(root, folder, "cpu.cfs_quota_us");
            period = group_number(root, folder, "cpu.cfs_period_us");
            max = group_number(root, folder, "memory.limit_in_bytes");
            used = group_number(root, folder, "memory.usage_in_bytes");
            quota = quota > SIZE_MAX / 2 ? 0 : quota; /* -1: none */
        } else {
            snprintf(path, sizeof path, "%.400s/cpu.max", folder);
            if (read_text(text, root, path)) {
                const char *second = strchr(text, ' ');
                quota = number(text);
                period = second ? number(second + 1) : 0;
            }
            max = group_number(root, folder, "memory.max");
            used = group_number(root, folder, "memory.current");
        }
        if (quota && period)
            limit(&h->n_thread, (quota + period - 1) / period);
        if (max)
            limit(&h->free_bytes, max > used ? max - used : 1);
        char *slash = strrchr(folder, '/');
        if (!slash)
            break;
        *slash = 0;
    }
}

void sp_host_read(sp_host *out, const char *root)
{
    char text[MAX_TEXT];
    *out = (sp_host){0};
    const char *name = read_text(text, root, "/proc/cpuinfo") ? field(text, "model name") : NULL;
    snprintf(out->cpu, sizeof out->cpu, "%s", name ? name : "");
    read_cores(out, root);
    read_caches(out, root);
    const char *free_kib =
        read_text(text, root, "/proc/meminfo") ? field(text, "MemAvailable") : NULL;
    out->free_bytes = free_kib ? number(free_kib) * 1024 : 0;
    out->n_thread = out->n_core ? out->n_core : 1;
    if (!out->free_bytes)
        out->free_bytes = SIZE_MAX; /* unknown: nothing to hold a model against */
    read_group(out, root, "", false);
    read_group(out, root, "cpu", true);
    read_group(out, root, "memory", true);
}
