/* sparing cache weights: files of packed weights; and where the other commands find them. */
#include "cmd/cmd.h"

#include "base/mem.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

sp_err sp_cmd_packed_cfg(sp_packed_cfg *out, const sp_opts *o, sp_diag *d)
{
    const char *given = sp_opt_str(o, "weight-cache"), *cache = getenv("XDG_CACHE_HOME");
    const char *home = getenv("HOME");
    int n = 0;
    *out = (sp_packed_cfg){.cap_bytes = sp_opt_bytes(o, "weight-cache-bytes")};
    if (strcmp(given, "none") == 0)
        return SP_OK;
    if (strcmp(given, "auto") != 0)
        n = snprintf(out->dir, sizeof out->dir, "%s", given);
    else if (cache && *cache == '/') /* a relative one is to be ignored, says its specification */
        n = snprintf(out->dir, sizeof out->dir, "%s/sparing/weights", cache);
    else if (home && *home == '/')
        n = snprintf(out->dir, sizeof out->dir, "%s/.cache/sparing/weights", home);
    if (n < 0 || (size_t)n >= sizeof out->dir)
        return SP_FAIL(d, SP_INVAL, "weight-cache: the path has more than %d bytes",
                       SP_PACKED_DIR - 1);
    return SP_OK;
}

sp_err sp_cmd_keep_weights(sp_model *m, const char *name, const sp_opts *o, sp_diag *d)
{
    sp_packed_cfg cfg;
    SP_TRY(sp_cmd_packed_cfg(&cfg, o, d));
    return sp_model_keep_packed(m, name, &cfg, d);
}

static void put_row(sp_buf *out, const sp_packed_file *f, bool json, bool is_first)
{
    char when[32];
    struct tm tm;
    time_t used = (time_t)f->used_s;
    strftime(when, sizeof when, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&used, &tm));
    if (!json) {
        sp_buf_printf(out, "%8llu MiB  %s  %s  %s\n", (unsigned long long)f->n_bytes >> 20, when,
                      f->name, f->is_known ? f->model : "(of another version, or damaged)");
        return;
    }
    sp_buf_puts(out, is_first ? "{\"file\":" : ",{\"file\":");
    sp_buf_json_str(out, f->name, strlen(f->name));
    sp_buf_printf(out, ",\"bytes\":%llu,\"used\":\"%s\",\"model\":", (unsigned long long)f->n_bytes,
                  when);
    if (f->is_known)
        sp_buf_json_str(out, f->model, strlen(f->model));
    else
        sp_buf_puts(out, "null");
    sp_buf_putc(out, '}');
}

static void put_list(sp_buf *out, const sp_packed_file *all, size_t n, const sp_packed_cfg *cfg,
                     bool json)
{
    uint64_t used = 0;
    sp_buf_puts(out, json ? "{\"files\":[" : "");
    for (size_t i = n; i-- > 0;) {
        put_row(out, &all[i], json, i == n - 1);
        used += all[i].n_bytes;
    }
    if (json)
        sp_buf_puts(out, "],\"folder\":");
    if (json)
        sp_buf_json_str(out, cfg->dir, strlen(cfg->dir));
    sp_buf_printf(out, json ? ",\"bytes\":%llu,\"cap_bytes\":%llu}\n" : "%8llu of %llu MiB in ",
                  (unsigned long long)(json ? used : used >> 20),
                  (unsigned long long)(json ? cfg->cap_bytes : cfg->cap_bytes >> 20));
    if (!json)
        sp_buf_printf(out, "%s\n", cfg->dir);
}

static sp_err clear(sp_buf *out, const sp_packed_file *all, size_t n, const char *dir, bool json,
                    sp_diag *d)
{
    for (size_t i = 0; i < n; i++) {
        sp_err err = sp_packed_remove(dir, all[i].name, d);
        if (err != SP_OK && err != SP_NOTFOUND)
            return err;
    }
    sp_buf_printf(out, json ? "{\"removed\":%zu}\n" : "%zu files removed\n", n);
    return SP_OK;
}

static sp_err run(sp_buf *out, const sp_opts *o, bool clears, sp_diag *d)
{
    sp_packed_cfg cfg;
    sp_packed_file *all = NULL;
    size_t n = 0;
    SP_TRY(sp_cmd_packed_cfg(&cfg, o, d));
    if (!cfg.dir[0])
        return SP_FAIL(d, SP_INVAL, "weight-cache: there is no folder");
    sp_err err = sp_packed_list(&all, &n, cfg.dir, d);
    if (err != SP_OK && err != SP_NOTFOUND)
        return err;
    bool json = sp_opt_flag(o, "json");
    err = SP_OK;
    if (clears)
        err = clear(out, all, n, cfg.dir, json, d);
    else
        put_list(out, all, n, &cfg, json);
    sp_mem_free(all);
    return err == SP_OK && out->failed ? SP_FAIL(d, SP_NOMEM, "cache") : err;
}

int sp_cmd_cache_weights(const sp_opts *o, const char *action)
{
    sp_buf out = {0};
    sp_diag d = {0};
    int code = EXIT_DONE;
    if (action && strcmp(action, "clear") != 0) {
        (void)SP_FAIL(&d, SP_INVAL, "cache weights: '%.40s' is not clear", action);
        return sp_cmd_fail(EXIT_USAGE, &d);
    }
    sp_err err = run(&out, o, action != NULL, &d);
    if (err == SP_OK)
        fputs(sp_buf_str(&out), stdout);
    else
        code = sp_cmd_fail(err == SP_INVAL ? EXIT_CONFIG : EXIT_STORE, &d);
    sp_buf_fini(&out);
    return code;
}
