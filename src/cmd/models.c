/* The commands `models` and `rm`. The first says which files of the models folder run here, or
 * tells of one file at length. */
#include "cmd/cmd.h"

#include "base/mem.h"
#include "fmt/split.h"

#include <dirent.h>
#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#define MB 1e-6

static int by_name(const void *a, const void *b)
{
    return strcmp(*(char *const *)a, *(char *const *)b);
}

void sp_cmd_free_paths(sp_paths *all)
{
    for (size_t i = 0; i < all->n; i++)
        sp_mem_free(all->p[i]);
    sp_mem_free(all->p);
}

static sp_err add_path(sp_paths *all, const char *dir, const char *name)
{
    char path[1024];
    int n = snprintf(path, sizeof path, "%s/%s", dir, name);
    char **more = sp_mem_grow(all->p, (all->n + 1) * sizeof *more);
    if (!more || n < 0 || (size_t)n >= sizeof path)
        return more ? SP_LIMIT : SP_NOMEM;
    all->p = more;
    all->p[all->n] = sp_mem_strdup(path);
    return all->p[all->n] ? (all->n++, SP_OK) : SP_NOMEM;
}

sp_err sp_cmd_list_models(sp_paths *all, const char *dir, sp_diag *d)
{
    DIR *list = opendir(dir);
    sp_err err = SP_OK;
    if (!list)
        return SP_FAIL(d, SP_NOTFOUND,
                       "%.120s: there is no such folder yet: `sparing pull` makes it", dir);
    for (struct dirent *e; err == SP_OK && (e = readdir(list));) {
        size_t n = strlen(e->d_name);
        if (n >= 6 && strcmp(e->d_name + n - 5, ".gguf") == 0 && sp_cmd_is_first(dir, e->d_name) &&
            add_path(all, dir, e->d_name) != SP_OK)
            err = SP_FAIL(d, SP_LIMIT, "%.120s: a path is too long", dir);
    }
    closedir(list);
    if (err == SP_OK && all->n)
        qsort(all->p, all->n, sizeof *all->p, by_name);
    return err;
}

static void put_field(sp_buf *out, const char *name, const char *text)
{
    sp_buf_printf(out, ",\"%s\":", name);
    sp_buf_json_str(out, text, strlen(text));
}

static void put_json(sp_buf *out, const char *path, const sp_check *c)
{
    sp_buf_puts(out, "{\"file\":");
    sp_buf_json_str(out, path, strlen(path));
    sp_buf_printf(out, ",\"runs\":%s,\"bytes\":%zu", c->n_why ? "false" : "true", c->file_bytes);
    put_field(out, "type", c->type);
    put_field(out, "license", c->license);
    if (c->has_arch)
        sp_buf_printf(out,
                      ",\"arch\":\"%s\",\"layers\":%zu,\"embedding\":%zu,\"context\":%zu,\"ram_"
                      "bytes\":%zu,\"kv_1000_bytes\":%zu,"
                      "\"fits_tokens\":%zu,\"chat\":%s",
                      c->arch.name, c->arch.n_layer, c->arch.n_embd, c->n_ctx, c->need_bytes,
                      sp_check_kv_1000(c), c->fit_tok,
                      c->chat && !sp_chat_why(c->chat) ? "true" : "false");
    if (c->has_arch && sp_arch_is_encoder(&c->arch))
        sp_buf_printf(out, ",\"encoder\":{\"kind\":\"%s\",\"pooling\":\"%s\",\"dimensions\":%zu}",
                      c->arch.pooling == SP_POOL_RANK ? "reranker" : "embedding",
                      sp_pooling_name(c->arch.pooling), sp_arch_dim(&c->arch));
    if (c->n_why)
        put_field(out, "error", c->why[0]);
    sp_buf_puts(out, ",\"why\":[");
    for (size_t i = 0; i < c->n_why; i++) {
        sp_buf_puts(out, i ? "," : "");
        sp_buf_json_str(out, c->why[i], strlen(c->why[i]));
    }
    sp_buf_puts(out, "]}");
}

static void put_line(sp_buf *out, const char *path, const sp_check *c)
{
    if (c->n_why) {
        sp_buf_printf(out, "%s: does not run\n", path);
        for (size_t i = 0; i < c->n_why; i++)
            sp_buf_printf(out, "    %s\n", c->why[i]);
        return;
    }
    sp_buf_printf(out, "%s: runs, %s %s, %.1f MB%s%s\n", path, c->arch.name, c->type,
                  (double)c->file_bytes * MB, *c->license ? ", " : "", c->license);
}

/* What a reader of one file wants to know beside whether it runs. */
static void put_needs(sp_buf *out, const sp_check *c)
{
    if (!c->has_arch)
        return;
    sp_buf_printf(out, "    %zu layers of %zu, context %zu\n", c->arch.n_layer, c->arch.n_embd,
                  c->n_ctx);
    if (sp_arch_is_encoder(&c->arch)) {
        if (c->arch.pooling == SP_POOL_RANK)
            sp_buf_puts(out, "    reranker: --reranker takes it\n");
        else
            sp_buf_printf(out, "    encoder: --encoder takes it; %s pooling, vectors of %zu\n",
                          sp_pooling_name(c->arch.pooling), sp_arch_dim(&c->arch));
        sp_buf_printf(out, "    RAM %.1f MB\n", (double)c->need_bytes * MB);
        return;
    }
    sp_buf_printf(out, "    RAM %.1f MB, and %.1f MB of pages for 1,000 tokens\n",
                  (double)c->need_bytes * MB, (double)sp_check_kv_1000(c) * MB);
    if (!c->n_why && c->fit_tok < c->n_ctx)
        sp_buf_printf(
            out,
            "    a context of %zu tokens fits in the memory for pages (--kv-bytes, now %zu MiB)\n",
            c->fit_tok, c->kv_bytes >> 20);
    if (c->tok && !c->chat && !c->n_why)
        sp_buf_puts(out, "    no chat template: it goes on with texts and knows no chat\n");
    if (c->chat && sp_chat_why(c->chat) && !c->n_why)
        sp_buf_printf(out,
                      "    its chat template cannot be used, so it only goes on with texts: %s\n",
                      sp_chat_why(c->chat));
}

/* NAME: a file, or one of the models folder with or without .gguf. */
static sp_err list_paths(sp_paths *all, const sp_opts *o, sp_diag *d)
{
    const char *const *rest;
    char path[1024];
    if (!sp_opts_rest(o, &rest)) {
        SP_TRY(sp_cmd_models_dir(path, sizeof path, o, d));
        return sp_cmd_list_models(all, path, d);
    }
    SP_TRY(sp_cmd_find_model(path, sizeof path, rest[0], o, d));
    char *copy = sp_mem_strdup(path);
    all->p = sp_mem_array(1, sizeof *all->p);
    if (!copy || !all->p) {
        sp_mem_free(copy);
        return SP_FAIL(d, SP_NOMEM, "models");
    }
    all->p[all->n++] = copy;
    return SP_OK;
}

static sp_err put_models(sp_buf *out, size_t *n_bad, const sp_paths *all, const sp_opts *o,
                         bool at_length, sp_diag *d)
{
    const sp_dev_cfg one = {.name = "cpu", .n_thread = 1, .mask = SP_CPU_LEVELS - 1};
    bool json = sp_opt_flag(o, "json");
    sp_check_cfg cfg;
    sp_dev *dev;
    SP_TRY(sp_dev_open(&dev, &one, d));
    sp_err err = sp_cmd_check_cfg(&cfg, dev, o, d);
    for (size_t i = 0; i < all->n && err == SP_OK; i++) {
        sp_check c;
        sp_check_file(&c, all->p[i], &cfg);
        *n_bad += c.n_why > 0;
        sp_buf_puts(out, json && i ? "," : "");
        (json ? put_json : put_line)(out, all->p[i], &c);
        if (at_length && !json)
            put_needs(out, &c);
        sp_check_fini(&c);
    }
    sp_dev_close(dev);
    return err;
}

int sp_cmd_models(const sp_opts *o)
{
    sp_paths all = {0};
    sp_buf out = {0};
    sp_diag d = {0};
    size_t n_bad = 0;
    const char *const *rest;
    bool one = sp_opts_rest(o, &rest) > 0;
    sp_err err = list_paths(&all, o, &d);
    if (err == SP_OK)
        err = put_models(&out, &n_bad, &all, o, one, &d);
    if (err == SP_OK && out.failed)
        err = SP_FAIL(&d, SP_NOMEM, "models");
    if (err == SP_OK)
        printf(sp_opt_flag(o, "json") ? "[%s]\n" : "%s", sp_buf_str(&out));
    sp_cmd_free_paths(&all);
    sp_buf_fini(&out);
    if (err != SP_OK)
        return sp_cmd_fail(err == SP_INVAL ? EXIT_USAGE : one ? EXIT_MODEL : EXIT_RUN, &d);
    return one && n_bad ? EXIT_MODEL : EXIT_DONE;
}

static sp_err remove_file(const char *path, sp_diag *d)
{
    char note[1420];
    if (unlink(path) != 0)
        return SP_FAIL(d, errno == ENOENT ? SP_NOTFOUND : SP_IO, "%.150s: %s", path,
                       strerror(errno));
    snprintf(note, sizeof note, "%s.id", path);
    (void)unlink(note);
    printf("%s: removed\n", path);
    return SP_OK;
}

/* A file of the models folder alone, or all its parts that are there, and what is kept beside
 * it. */
static sp_err remove_model(const char *name, const sp_opts *o, sp_diag *d)
{
    char dir[1024], path[1400], part[1420];
    sp_split s;
    SP_TRY(sp_cmd_models_dir(dir, sizeof dir, o, d));
    if (!*name || strlen(name) > 255 || strchr(name, '/'))
        return SP_FAIL(d, SP_INVAL, "%.100s: not a name in the models folder", name);
    size_t n = strlen(name), n_gone = 0;
    bool has_tail = n >= 5 && strcmp(name + n - 5, ".gguf") == 0;
    snprintf(path, sizeof path, "%s/%s%s", dir, name, has_tail ? "" : ".gguf");
    if (!has_tail && access(path, F_OK) != 0)
        SP_TRY(sp_cmd_find_parts(path, sizeof path, dir, name, d));
    if (!sp_split_parse(&s, path))
        return remove_file(path, d);
    for (unsigned no = 1; no <= s.count; no++) {
        SP_TRY(sp_split_path(part, sizeof part, path, &s, no, d));
        if (access(part, F_OK) != 0)
            continue;
        SP_TRY(remove_file(part, d));
        n_gone++;
    }
    return n_gone ? SP_OK : SP_FAIL(d, SP_NOTFOUND, "%.150s: no part of it is there", path);
}

int sp_cmd_rm(const sp_opts *o)
{
    const char *const *rest;
    sp_diag d = {0};
    sp_err err = sp_opts_rest(o, &rest) == 1 ? remove_model(rest[0], o, &d)
                                             : SP_FAIL(&d, SP_INVAL, "rm: which model?");
    return err == SP_OK ? EXIT_DONE : sp_cmd_fail(err == SP_INVAL ? EXIT_USAGE : EXIT_RUN, &d);
}
