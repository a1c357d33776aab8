/* Objects in the background: runs that were not used for long, or that a full SSD is about to lose,
 * become objects; old objects go; deletions reach the store. */
#include "kv/tier_int.h"

#include <stdio.h>

enum { TICK_MS = 500, FULL_PERCENT = 80, BATCH = 64 };

void sp_kv_object_key(char out[128], const sp_kv_run *r)
{
    char tag[SP_KV_TAG_HEX], hex[65];
    sp_kv_tag_hex(tag, r->rec.tag);
    sp_sha256_hex(hex, &r->rec.page[r->rec.n_page - 1].id);
    snprintf(out, 128, "%s/%s", tag, hex);
}

bool sp_kv_cold_usable(const sp_kv_tier *t)
{
    return t->cfg.cold && sp_clock_ns() >= t->cold.until_ns;
}

/* A store that fails: its prefixes are computed meanwhile. */
void sp_kv_cold_went(sp_kv_tier *t, sp_err err, const sp_diag *d)
{
    if (err == SP_CANCEL || err == SP_NOMEM)
        return;
    sp_lock_get(&t->lock);
    unsigned before = sp_kv_backoff_went(&t->cold, err);
    sp_lock_put(&t->lock);
    if (err != SP_OK && before == 0)
        sp_log(SP_LOG_ERROR, "the cold tier does not answer, it is left alone for a while: %s",
               d->msg);
    else if (err == SP_OK && before)
        sp_log(SP_LOG_INFO, "the cold tier answers again");
}

typedef struct wish {
    int64_t now_s, after_s, expire_s;
    bool full;
    size_t n;
} wish;

static bool pick_upload(const sp_kv_run *r, void *arg)
{
    wish *w = arg;
    bool yes =
        r->seg && !r->cold_bytes && w->n < BATCH && (w->full || w->now_s - r->used_s >= w->after_s);
    w->n += yes;
    return yes;
}

static bool pick_expired(const sp_kv_run *r, void *arg)
{
    wish *w = arg;
    return r->cold_bytes && w->expire_s && w->now_s - r->used_s >= w->expire_s;
}

static sp_err upload(sp_kv_tier *t, sp_kv_run *r)
{
    uint8_t *record = NULL, *packed = NULL;
    size_t n, n_packed = 0;
    char key[128];
    sp_diag d = {0};
    sp_err err = sp_kv_store_read(t->store, r, &record, &n, &d);
    if (err == SP_CORRUPT) {
        sp_kv_store_corrupt(t->store, r);
        return SP_OK;
    }
    if (err != SP_OK)
        return err == SP_NOTFOUND ? SP_OK : err;
    err = sp_kv_rec_pack(&packed, &n_packed, record, n, &d);
    sp_mem_free(record);
    if (err == SP_OK) {
        sp_kv_object_key(key, r);
        err = t->cfg.cold->put(t->cfg.cold->arg, key, packed, n_packed, &d);
        sp_kv_cold_went(t, err, &d);
    }
    sp_mem_free(packed);
    if (err != SP_OK) {
        sp_metric_add(t->m.write_fail[1], 1);
        return err;
    }
    sp_metric_add(t->m.bytes_written[1], (double)n_packed);
    err = sp_kv_store_set_cold(t->store, r, n_packed, &d);
    if (err == SP_NOTFOUND) /* deleted meanwhile: the object must not stay */
        err = t->cfg.cold->del(t->cfg.cold->arg, key, &d);
    return err;
}

static void each(sp_kv_tier *t, sp_kv_pick *pick, wish *w,
                 sp_err (*act)(sp_kv_tier *t, sp_kv_run *r))
{
    sp_kv_run **list;
    size_t n;
    sp_err err = SP_OK;
    if (sp_kv_store_select(t->store, pick, w, &list, &n) != SP_OK)
        return;
    for (size_t i = 0; i < n; i++) {
        sp_lock_get(&t->lock);
        bool go = !t->stop && sp_kv_cold_usable(t);
        sp_lock_put(&t->lock);
        if (go && err == SP_OK)
            err = act(t, list[i]);
        sp_kv_store_unpin(t->store, list[i]);
    }
    sp_mem_free(list);
}

static sp_err expire(sp_kv_tier *t, sp_kv_run *r)
{
    char key[128];
    sp_diag d = {0};
    sp_kv_object_key(key, r);
    sp_err err = t->cfg.cold->del(t->cfg.cold->arg, key, &d);
    sp_kv_cold_went(t, err, &d);
    return err == SP_OK ? sp_kv_store_set_cold(t->store, r, 0, &d) : err;
}

sp_err sp_kv_forget_object(sp_kv_tier *t, const sp_kv_run *r, sp_diag *d)
{
    char key[128];
    if (!r->cold_bytes)
        return SP_OK;
    if (!t->cfg.cold)
        return SP_FAIL(
            d, SP_UNSUP,
            "pages to delete are in the object store, and this server was started without --s3");
    sp_kv_object_key(key, r);
    return t->cfg.cold->del(t->cfg.cold->arg, key, d);
}

/* What is on S3 and not in the index: a new machine, or an index that was lost. Heads only are
 * read. */
typedef struct adopt {
    sp_kv_tier *t;
    sp_buf keys; /* NUL-terminated keys, each before its 8 bytes of size */
} adopt;

static bool note_key(void *arg, const char *key, uint64_t bytes)
{
    adopt *a = arg;
    sp_buf_put(&a->keys, &bytes, sizeof bytes);
    sp_buf_put(&a->keys, key, strlen(key) + 1);
    return !a->keys.failed;
}

static bool take_head(void *arg, const void *p, size_t n)
{
    sp_buf_put(arg, p, n);
    return true;
}

static bool knows(sp_kv_tier *t, const sp_sha256 *id)
{
    uint32_t page;
    sp_kv_run *r = sp_kv_store_get(t->store, id, &page);
    if (r)
        sp_kv_store_unpin(t->store, r);
    return r != NULL;
}

static bool is_known(sp_kv_tier *t, const char *key)
{
    sp_sha256 id;
    const char *hex = strrchr(key, '/');
    if (!hex || strlen(hex + 1) != 64)
        return true; /* not ours */
    for (size_t i = 0; i < 32; i++) {
        unsigned v;
        if (sscanf(hex + 1 + 2 * i, "%2x", &v) != 1)
            return true;
        id.b[i] = (uint8_t)v;
    }
    return knows(t, &id);
}

static sp_err adopt_one(sp_kv_tier *t, const char *key, uint64_t bytes)
{
    sp_buf b = {0};
    sp_diag d = {0};
    sp_kv_head *h = sp_mem_alloc(sizeof *h);
    sp_err err = h ? SP_OK : SP_NOMEM;
    uint64_t want = 4 * SP_KV_ALIGN < bytes ? 4 * SP_KV_ALIGN : bytes;
    if (err == SP_OK)
        err = t->cfg.cold->get(t->cfg.cold->arg, key, 0, want, take_head, &b, &d);
    size_t head = err == SP_OK && b.len >= SP_KV_HEAD_MIN ? sp_kv_head_bytes_of(b.p) : 0;
    if (err == SP_OK && head > b.len && head <= bytes)
        err = t->cfg.cold->get(t->cfg.cold->arg, key, b.len, head - b.len, take_head, &b, &d);
    if (err == SP_OK)
        err = sp_kv_head_read(h, b.p, b.len, &d);
    if (err == SP_OK && (!h->rec.packed || h->head_bytes + h->body_bytes != bytes))
        err = SP_CORRUPT;
    bool known = false;
    for (uint32_t i = 0; err == SP_OK && i < h->rec.n_page; i++)
        known = known || knows(t, &h->page[i].id);
    if (err == SP_OK && !known)
        err = sp_kv_store_add_cold(t->store, &h->rec, bytes, &d);
    sp_buf_fini(&b);
    sp_mem_free(h);
    return err == SP_CORRUPT ? SP_OK : err; /* a damaged object is no reason to stop */
}

static bool adopt_all(sp_kv_tier *t)
{
    adopt a = {.t = t};
    sp_diag d = {0};
    size_t n = 0;
    sp_err err = t->cfg.cold->list(t->cfg.cold->arg, "", note_key, &a, &d);
    for (size_t at = 0; err == SP_OK && at < a.keys.len;) {
        uint64_t bytes;
        memcpy(&bytes, a.keys.p + at, sizeof bytes);
        const char *key = a.keys.p + at + sizeof bytes;
        at += sizeof bytes + strlen(key) + 1;
        sp_lock_get(&t->lock);
        bool stop = t->stop;
        sp_lock_put(&t->lock);
        if (stop)
            break;
        if (is_known(t, key))
            continue;
        err = adopt_one(t, key, bytes);
        n += err == SP_OK;
    }
    sp_buf_fini(&a.keys);
    if (err == SP_INVAL) { /* credentials that may read and write but not list */
        sp_log(SP_LOG_WARN, "objects this folder does not know are left alone: %s", d.msg);
        return true;
    }
    sp_kv_cold_went(t, err, &d);
    if (n)
        sp_log(SP_LOG_INFO, "%zu objects of the cold tier were new to this folder", n);
    return err == SP_OK;
}

void *sp_kv_cold_main(void *arg)
{
    sp_kv_tier *t = arg;
    bool adopted = false;
    sp_lock_get(&t->lock);
    while (!t->stop) {
        bool go = sp_kv_cold_usable(t);
        sp_lock_put(&t->lock);
        if (go && !adopted)
            adopted = adopt_all(t);
        if (go && adopted) {
            sp_kv_store_stat st;
            sp_kv_store_stat_of(t->store, &st);
            wish w = {.now_s = sp_clock_wall(),
                      .after_s = t->cfg.cold_after_s,
                      .expire_s = t->cfg.cold_expire_s,
                      .full = st.warm_bytes > sp_kv_store_cap(t->store) / 100 * FULL_PERCENT};
            each(t, pick_upload, &w, upload);
            each(t, pick_expired, &w, expire);
        }
        sp_lock_get(&t->lock);
        if (!t->stop)
            sp_lock_wait(&t->lock, &t->work_cold, TICK_MS * 1000000ull);
    }
    sp_lock_put(&t->lock);
    return NULL;
}
