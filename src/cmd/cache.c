/* sparing cache: the folder of pages while no server uses it, and the objects behind it.
 * An export is the 8 bytes SPKVEXP1, then for each run its length (u64) and a packed record. */
#include "cmd/cmd.h"

#include "net/s3.h"

#include "base/clock.h"
#include "base/mem.h"
#include "kv/tier.h"

#include <errno.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#define EXPORT_MAGIC "SPKVEXP1"

enum { MAX_RECORD = 1 << 30 };

typedef struct cache {
    sp_kv_store *store;
    sp_s3 *s3; /* NULL: no cold tier */
    bool json;
    bool by_tenant;
    uint8_t tag[SP_KV_TAG];
    int64_t unused_before; /* wall clock; INT64_MAX: any */
} cache;

static bool is_meant(const sp_kv_run *r, void *arg)
{
    const cache *c = arg;
    return (!c->by_tenant || memcmp(r->rec.tag, c->tag, SP_KV_TAG) == 0) &&
           r->used_s < c->unused_before;
}

static bool take(void *arg, const void *p, size_t n)
{
    sp_buf_put(arg, p, n);
    return !((sp_buf *)arg)->failed;
}

static sp_err get_object(const cache *c, const sp_kv_run *r, sp_buf *out, sp_diag *d)
{
    char key[128];
    if (!c->s3)
        return SP_FAIL(d, SP_UNSUP, "an object can be read with --s3 only");
    sp_kv_object_key(key, r);
    const sp_kv_cold *cold = sp_s3_cold(c->s3);
    return cold->get(cold->arg, key, 0, r->cold_bytes, take, out, d);
}

/* --- actions ---------------------------------------------------------------------------------- */

static sp_err status(cache *c, const char *file, sp_diag *d)
{
    sp_kv_store_stat st;
    (void)file;
    (void)d;
    sp_kv_store_stat_of(c->store, &st);
    if (c->json)
        printf("{\"runs\":%zu,\"segments\":%zu,\"ssd\":{\"bytes\":%llu,\"cap_bytes\":%llu,"
               "\"tokens\":%llu},\"s3\":{\"objects\":%"
               "zu,\"bytes\":%llu,\"tokens\":%llu},"
               "\"index_bytes\":%llu,\"damaged\":%llu,\"open_ms\":%.3f}\n",
               st.n_run, st.n_seg, (unsigned long long)st.warm_bytes,
               (unsigned long long)sp_kv_store_cap(c->store), (unsigned long long)st.warm_tok,
               st.n_cold, (unsigned long long)st.cold_bytes, (unsigned long long)st.cold_tok,
               (unsigned long long)st.index_bytes, (unsigned long long)st.n_corrupt, st.open_ms);
    else
        printf("ssd  %llu of %llu MiB, %llu tokens, %zu runs in %zu segments\ns3   %llu MiB, %llu "
               "tokens, %zu objects\nindex "
               "%llu KiB, read in %.1f ms%s\n",
               (unsigned long long)(st.warm_bytes >> 20),
               (unsigned long long)(sp_kv_store_cap(c->store) >> 20),
               (unsigned long long)st.warm_tok, st.n_run, st.n_seg,
               (unsigned long long)(st.cold_bytes >> 20), (unsigned long long)st.cold_tok,
               st.n_cold, (unsigned long long)(st.index_bytes >> 10), st.open_ms,
               st.n_corrupt ? ", not all of it readable" : "");
    return SP_OK;
}

/* Reads everything. What is not what was written is dropped: it will be computed again. */
static sp_err verify(cache *c, const char *file, sp_diag *d)
{
    sp_kv_run **list;
    size_t n, bad = 0, unread = 0;
    (void)file;
    SP_TRY(sp_kv_store_select(c->store, is_meant, c, &list, &n));
    sp_err err = SP_OK;
    for (size_t i = 0; i < n; i++) {
        sp_kv_run *r = list[i];
        sp_buf object = {0};
        uint8_t *p = NULL;
        size_t len;
        sp_err one = SP_OK;
        if (r->seg)
            one = sp_kv_store_read(c->store, r, &p, &len, d);
        if (one == SP_OK && r->cold_bytes && c->s3)
            one = get_object(c, r, &object, d);
        if (one == SP_OK && object.len)
            one = sp_kv_rec_verify(object.p, object.len, d);
        unread += r->cold_bytes && !c->s3;
        if (one == SP_CORRUPT || one == SP_NOTFOUND) {
            bad++;
            sp_kv_store_corrupt(c->store, r);
        } else if (one != SP_OK && err == SP_OK) {
            err = one;
        }
        sp_mem_free(p);
        sp_buf_fini(&object);
        sp_kv_store_unpin(c->store, r);
    }
    sp_mem_free(list);
    printf(c->json ? "{\"runs\":%zu,\"damaged\":%zu,\"unread\":%zu}\n"
                   : "%zu runs read, %zu damaged and dropped, %zu objects not read (no --s3)\n",
           n, bad, unread);
    if (err == SP_OK && bad)
        err = SP_FAIL(d, SP_CORRUPT, "%zu of %zu runs were damaged", bad, n);
    return err;
}

static sp_err prune(cache *c, const char *file, sp_diag *d)
{
    sp_kv_run **list;
    size_t n, gone = 0;
    (void)file;
    if (!c->by_tenant && c->unused_before == INT64_MAX)
        return SP_FAIL(d, SP_INVAL,
                       "prune: name what should go: --tenant NAME, --unused SECONDS (0: all)");
    SP_TRY(sp_kv_store_select(c->store, is_meant, c, &list, &n));
    sp_err err = SP_OK;
    for (size_t i = n; i-- > 0;) { /* as in sp_kv_tier_forget */
        char key[128];
        sp_kv_object_key(key, list[i]);
        if (err == SP_OK && list[i]->cold_bytes)
            err = c->s3 ? sp_s3_cold(c->s3)->del(sp_s3_cold(c->s3)->arg, key, d)
                        : SP_FAIL(d, SP_UNSUP,
                                  "prune: some of it is in the object store: --s3 is needed");
        if (err == SP_OK) {
            gone++;
            sp_kv_store_drop(c->store, list[i]);
        }
        sp_kv_store_unpin(c->store, list[i]);
    }
    sp_mem_free(list);
    if (err == SP_OK)
        err = sp_kv_store_flush(c->store, 1000, d);
    printf(c->json ? "{\"removed\":%zu}\n" : "%zu runs removed\n", gone);
    return err;
}

static sp_err write_run(const cache *c, FILE *f, const sp_kv_run *r, sp_diag *d)
{
    sp_buf object = {0};
    uint8_t *p = NULL, *packed = NULL;
    size_t n = 0, n_packed = 0;
    sp_err err = r->seg ? sp_kv_store_read(c->store, r, &p, &n, d) : get_object(c, r, &object, d);
    if (err == SP_OK && p)
        err = sp_kv_rec_pack(&packed, &n_packed, p, n, d);
    const void *out = packed ? (const void *)packed : object.p;
    uint64_t len = packed ? n_packed : object.len;
    if (err == SP_OK && (fwrite(&len, sizeof len, 1, f) != 1 || fwrite(out, 1, len, f) != len))
        err = SP_FAIL(d, SP_IO, "export: %s", strerror(errno));
    sp_mem_free(p);
    sp_mem_free(packed);
    sp_buf_fini(&object);
    return err;
}

static sp_err export_to(cache *c, const char *file, sp_diag *d)
{
    sp_kv_run **list;
    size_t n, done = 0;
    FILE *f = fopen(file, "wbx");
    if (!f)
        return SP_FAIL(d, SP_IO, "%.120s: %s", file, strerror(errno));
    sp_err err = sp_kv_store_select(c->store, is_meant, c, &list, &n);
    if (err != SP_OK)
        list = NULL, n = 0;
    if (err == SP_OK && fwrite(EXPORT_MAGIC, 8, 1, f) != 1)
        err = SP_FAIL(d, SP_IO, "%.120s: %s", file, strerror(errno));
    for (size_t i = 0; i < n; i++) {
        if (err == SP_OK)
            err = write_run(c, f, list[i], d);
        done += err == SP_OK;
        sp_kv_store_unpin(c->store, list[i]);
    }
    sp_mem_free(list);
    if (fclose(f) != 0 && err == SP_OK)
        err = SP_FAIL(d, SP_IO, "%.120s: %s", file, strerror(errno));
    if (err != SP_OK)
        (void)remove(file);
    else
        printf(c->json ? "{\"exported\":%zu}\n" : "%zu runs exported\n", done);
    return err;
}

static sp_err import_from(cache *c, const char *file, sp_diag *d)
{
    char magic[8];
    uint64_t len;
    size_t n = 0;
    FILE *f = fopen(file, "rb");
    if (!f)
        return SP_FAIL(d, SP_NOTFOUND, "%.120s: %s", file, strerror(errno));
    sp_err err = fread(magic, 8, 1, f) == 1 && memcmp(magic, EXPORT_MAGIC, 8) == 0
                     ? SP_OK
                     : SP_FAIL(d, SP_FORMAT, "%.120s is not an export of pages", file);
    while (err == SP_OK && fread(&len, 1, sizeof len, f) == sizeof len) {
        uint8_t *packed = len <= MAX_RECORD ? sp_mem_raw(len ? (size_t)len : 1) : NULL, *p = NULL;
        size_t bytes;
        if (!packed || fread(packed, 1, (size_t)len, f) != len)
            err = SP_FAIL(d, packed ? SP_FORMAT : SP_NOMEM, "%.120s ends in record %zu", file, n);
        if (err == SP_OK)
            err = sp_kv_rec_unpack(&p, &bytes, packed, (size_t)len, d);
        if (err == SP_OK)
            err = sp_kv_store_add_record(c->store, p, bytes, d);
        if (err == SP_OK)
            sp_kv_store_tidy(c->store);
        n += err == SP_OK;
        sp_mem_free(packed);
        sp_mem_free(p);
    }
    if (err == SP_OK && !feof(f))
        err = SP_FAIL(d, SP_IO, "%.120s: %s", file, strerror(errno));
    fclose(f);
    printf(c->json ? "{\"imported\":%zu}\n" : "%zu runs imported\n", n);
    return err;
}

/* --- command ---------------------------------------------------------------------------------- */

static const struct action {
    const char *name;
    bool file;
    sp_err (*run)(cache *c, const char *file, sp_diag *d);
} actions[] = {{"status", false, status},
               {"verify", false, verify},
               {"prune", false, prune},
               {"export", true, export_to},
               {"import", true, import_from}};

static sp_err open_cache(cache *c, const sp_opts *o, sp_diag *d)
{
    const char *dir = sp_opt_str(o, "cache-dir"), *s3 = sp_opt_str(o, "s3"),
               *tenant = sp_opt_str(o, "tenant");
    if (!dir)
        return SP_FAIL(d, SP_INVAL, "cache: --cache-dir names the folder");
    c->json = sp_opt_flag(o, "json");
    c->by_tenant = tenant != NULL;
    if (tenant)
        SP_TRY(sp_kv_tag(c->tag, tenant));
    c->unused_before = sp_opt_origin_of(o, "unused") == SP_ORIGIN_UNSET
                           ? INT64_MAX
                           : sp_clock_wall() - sp_opt_int(o, "unused") + 1;
    if (s3)
        SP_TRY(sp_s3_open(&c->s3, s3, sp_opt_str(o, "s3-endpoint"), d));
    const sp_kv_store_cfg cfg = {dir, sp_opt_bytes(o, "cache-bytes"), 0};
    return sp_kv_store_open(&c->store, &cfg, d);
}

int sp_cmd_cache(const sp_opts *o)
{
    const char *const *rest;
    size_t n = sp_opts_rest(o, &rest);
    const struct action *a = NULL;
    sp_diag d = {0};
    cache c = {0};
    for (size_t i = 0; i < sizeof actions / sizeof actions[0] && n; i++)
        a = strcmp(actions[i].name, rest[0]) == 0 ? &actions[i] : a;
    if (n && strcmp(rest[0], "weights") == 0)
        return sp_cmd_cache_weights(o, n > 1 ? rest[1] : NULL);
    if (!a || n != (a->file ? 2u : 1u)) {
        (void)SP_FAIL(&d, SP_INVAL,
                      "cache: one of status, verify, prune, export FILE, import FILE, weights, "
                      "weights clear is asked for");
        return sp_cmd_fail(EXIT_USAGE, &d);
    }
    sp_err err = open_cache(&c, o, &d);
    int code = err == SP_OK ? EXIT_DONE : err == SP_INVAL ? EXIT_CONFIG : EXIT_STORE;
    if (err == SP_OK && (err = a->run(&c, n > 1 ? rest[1] : NULL, &d)) != SP_OK)
        code = err == SP_INVAL || err == SP_UNSUP ? EXIT_USAGE : EXIT_STORE;
    if (err != SP_OK)
        (void)sp_cmd_fail(code, &d);
    sp_kv_store_close(c.store);
    sp_s3_close(c.s3);
    return code;
}
