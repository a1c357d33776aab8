/* Tier: cost model, plan and the writer thread. Invariants:
 * 1. A load is in `warm` until its SSD pieces are read, its objects' pieces are in `fetch`; when
 *    n_busy reaches 0 it is in `done`, and leaves by release.
 * 2. Every item of a load holds one pin of its run until release.
 * 3. The writer works saves in order, and an op after the saves queued before it. */
#include "kv/tier_int.h"

#include <sys/resource.h>
#include <sys/syscall.h>
#include <unistd.h>

/* What is fetched must promise a quarter less time: estimates err, and a hit must not be slower. */
#define MARGIN 1.33

enum { WRITER_NICE = 19, PAUSE_MAX_S = 60, TICK_MS = 1000 };

/* SSD, objects: until measured */
static const sp_kv_rate first_guess[2] = {{1e-3, 5e8}, {60e-3, 5e7}};

void sp_kv_notify(sp_kv_tier *t)
{
    sp_lock_get(&t->lock);
    void (*changed)(void *) = t->changed;
    void *arg = t->changed_arg;
    sp_lock_put(&t->lock);
    if (changed)
        changed(arg);
}

/* --- cost ------------------------------------------------------------------------------------- */

static double compute_s(const sp_kv_tier *t, size_t first_page, size_t n_page)
{
    double n = (double)(n_page * SP_PAGE_TOK), at = (double)(first_page * SP_PAGE_TOK) + n / 2;
    return t->tok_s * n * (1 + at * t->cfg.depth_cost);
}

static double read_s(const sp_kv_tier *t, int tier, uint64_t bytes)
{
    return bytes ? t->rate[tier].lat_s + (double)(bytes + t->queued_bytes[tier]) / t->rate[tier].bps
                 : 0;
}

static uint64_t page_bytes(const sp_kv_hit *h)
{
    const sp_kv_rec *c = &h->run->rec;
    uint64_t warm =
        (uint64_t)c->n_layer * (c->hi_bytes + (c->lo_mask >> h->page & 1 ? c->lo_bytes : 0));
    return h->warm ? warm : h->cold_bytes / c->n_page;
}

/* Of keys found up to n, how many to fetch: the cheapest of nothing, the part on SSD, all. The rest
 * is computed, and pays for its depth. Under the lock. */
static size_t choose(sp_kv_tier *t, const sp_kv_hit *hit, size_t n, size_t first)
{
    size_t n_warm = 0;
    uint64_t bytes[2] = {0};
    while (n_warm < n && hit[n_warm].warm)
        bytes[0] += page_bytes(&hit[n_warm++]);
    double all = compute_s(t, first, n);
    double warm = read_s(t, 0, bytes[0]) + compute_s(t, first + n_warm, n - n_warm);
    for (size_t i = n_warm; i < n; i++)
        bytes[!hit[i].warm] += page_bytes(&hit[i]);
    double s0 = read_s(t, 0, bytes[0]), s1 = read_s(t, 1, bytes[1]), fetch = s0 > s1 ? s0 : s1;
    size_t best = fetch * MARGIN <= warm ? n : n_warm;
    if (t->cfg.fetch == SP_KV_FETCH_ALWAYS)
        best = n;
    else if (t->cfg.fetch == SP_KV_FETCH_NEVER || all < MARGIN * (best == n ? fetch : warm))
        best = 0;
    sp_metric_add(t->m.choice[best == 0 ? 0 : best < n ? 1 : 2], 1);
    return best;
}

size_t sp_kv_tier_plan(sp_kv_tier *t, const sp_kv_key *key, size_t n, size_t first, sp_kv_hit *out)
{
    sp_lock_get(&t->lock);
    bool cold = sp_kv_cold_usable(t);
    size_t found = sp_kv_store_find(t->store, key, n, cold, out),
           use = found ? choose(t, out, found, first) : 0;
    sp_lock_put(&t->lock);
    for (size_t i = use; i < found; i++)
        sp_kv_store_unpin(t->store, out[i].run);
    return use;
}

bool sp_kv_tier_find_state(sp_kv_tier *t, const sp_kv_key *key, sp_kv_hit *out)
{
    sp_lock_get(&t->lock);
    bool cold = sp_kv_cold_usable(t);
    sp_lock_put(&t->lock);
    return sp_kv_store_find(t->store, key, 1, cold, out) == 1;
}

bool sp_kv_tier_state_pays(sp_kv_tier *t, const sp_kv_hit *hit, size_t first, size_t n_page)
{
    sp_lock_get(&t->lock);
    double fetch = read_s(t, !hit->warm, page_bytes(hit));
    bool pays =
        t->cfg.fetch == SP_KV_FETCH_ALWAYS ||
        (t->cfg.fetch != SP_KV_FETCH_NEVER && fetch * MARGIN <= compute_s(t, first, n_page));
    sp_lock_put(&t->lock);
    return pays;
}

void sp_kv_tier_note_compute(sp_kv_tier *t, double tok, double seconds)
{
    if (tok < 1)
        return;
    sp_lock_get(&t->lock);
    t->tok_s += (seconds / tok - t->tok_s) * 0.1;
    sp_lock_put(&t->lock);
}

/* --- writing ---------------------------------------------------------------------------------- */

void sp_kv_tier_save(sp_kv_tier *t, sp_kv_save *s)
{
    s->next = NULL;
    sp_lock_get(&t->lock);
    *t->save_tail = s;
    t->save_tail = &s->next;
    t->n_saving++;
    pthread_cond_signal(&t->work_write);
    sp_lock_put(&t->lock);
}

sp_kv_save *sp_kv_tier_saved(sp_kv_tier *t)
{
    sp_lock_get(&t->lock);
    sp_kv_save *s = t->saved;
    if (s) {
        t->saved = s->next;
        t->n_saving--;
    }
    sp_lock_put(&t->lock);
    return s;
}

unsigned sp_kv_backoff_went(sp_kv_backoff *b, sp_err err)
{
    unsigned before = b->fails, s = 1u << (before < 6 ? before : 6);
    b->fails = err == SP_OK ? 0 : before + 1;
    b->until_ns =
        err == SP_OK ? 0 : sp_clock_ns() + (s < PAUSE_MAX_S ? s : PAUSE_MAX_S) * 1000000000ull;
    return before;
}

/* A full or broken disk: pages live in RAM only for a while. */
static void write_went(sp_kv_tier *t, sp_err err, const sp_diag *d)
{
    if (err == SP_AGAIN || err == SP_LIMIT)
        return; /* no room: not the disk's fault */
    sp_lock_get(&t->lock);
    unsigned before = sp_kv_backoff_went(&t->write, err);
    sp_lock_put(&t->lock);
    if (err != SP_OK && before == 0)
        sp_log(SP_LOG_ERROR, "the warm tier cannot be written, pages stay in RAM: %s", d->msg);
    else if (err == SP_OK && before)
        sp_log(SP_LOG_INFO, "the warm tier is written again");
}

/* How many pages from i on make the next run to write: unknown ones up to the next known, or a
 * whole run of which only the object is known. 0: page i is on the disk (*on_disk) or not to be
 * written. */
static uint32_t next_run(sp_kv_tier *t, const sp_kv_save *s, uint32_t i, bool *on_disk)
{
    uint32_t n = 0, page;
    *on_disk = false;
    for (; i + n < s->rec.n_page; n++) {
        sp_kv_run *r = sp_kv_store_get(t->store, &s->page[i + n].id, &page);
        if (!r)
            continue;
        uint32_t whole =
            page == 0 && i + r->rec.n_page <= s->rec.n_page &&
                    r->rec.lo_mask == (s->rec.lo_mask >> i & ((1u << r->rec.n_page) - 1))
                ? r->rec.n_page
                : 0;
        bool warm = sp_kv_store_has(t->store, &s->page[i + n].id);
        sp_kv_store_unpin(t->store, r);
        if (n)
            return n;
        *on_disk = warm;
        return warm ? 0 : whole;
    }
    return n;
}

/* Writes the pages of a save that are not on the disk yet, as runs without gaps. */
static void write_save(sp_kv_tier *t, sp_kv_save *s)
{
    sp_lock_get(&t->lock);
    bool go = sp_clock_ns() >= t->write.until_ns;
    sp_lock_put(&t->lock);
    if (s->form && (!go || !s->form(s)))
        return;
    for (uint32_t i = 0; i < s->rec.n_page && go;) {
        bool on_disk;
        uint32_t n = next_run(t, s, i, &on_disk);
        if (n == 0) {
            s->stored |= (uint32_t)on_disk << i;
            i++;
            continue;
        }
        uint32_t mask = (1u << n) - 1;
        sp_kv_rec rec = s->rec;
        sp_diag d = {0};
        rec.n_page = n;
        rec.first += i;
        rec.parent = i ? s->page[i - 1].id : s->rec.parent;
        rec.page = s->page + i;
        rec.lo_mask = s->rec.lo_mask >> i & mask;
        sp_err err = sp_kv_store_add(t->store, &rec, s->hi + i, s->lo + i, &d);
        write_went(t, err, &d);
        go = err == SP_OK;
        s->stored |= go ? mask << i : 0;
        sp_metric_add(t->m.bytes_written[0], go ? (double)sp_kv_rec_bytes(&rec) : 0);
        i += n;
    }
    if (!go)
        sp_metric_add(t->m.write_fail[0], 1);
}

static void publish(sp_kv_tier *t)
{
    sp_kv_store_stat st;
    sp_kv_store_stat_of(t->store, &st);
    sp_metric_set(t->m.held[0], (double)st.warm_bytes);
    sp_metric_set(t->m.held[1], (double)st.cold_bytes);
    sp_metric_set(t->m.held_tok[0], (double)st.warm_tok);
    sp_metric_set(t->m.held_tok[1], (double)st.cold_tok);
    sp_metric_set(t->m.snaps[0], (double)st.warm_snap);
    sp_metric_set(t->m.snaps[1], (double)st.cold_snap);
    sp_metric_set(t->m.evicted, (double)st.n_evicted);
    sp_metric_set(t->m.lost, (double)st.n_lost);
    sp_metric_set(t->m.mismatch, (double)st.n_corrupt);
}

bool sp_kv_forget_hits(const sp_kv_forget *f, const uint8_t *tag, const uint8_t *conv)
{
    return (!f->tag || memcmp(f->tag, tag, SP_KV_TAG) == 0) &&
           (!f->conv || memcmp(f->conv, conv, SP_KV_TAG) == 0);
}

static bool pick_forget(const sp_kv_run *r, void *arg)
{
    return sp_kv_forget_hits(arg, r->rec.tag, r->rec.conv);
}

/* Objects first: one whose entry is gone could never be found again. */
static sp_err forget(sp_kv_tier *t, sp_kv_forget *f, sp_diag *d)
{
    sp_kv_run **list;
    size_t n;
    if (sp_kv_store_select(t->store, pick_forget, f, &list, &n) != SP_OK)
        return SP_FAIL(d, SP_NOMEM, "deleting pages");
    sp_err err = SP_OK;
    /* what continues others first: an orphan costs a search for its kin */
    for (size_t i = n; i-- > 0;) {
        if (err == SP_OK)
            err = sp_kv_forget_object(t, list[i], d);
        if (err == SP_OK) {
            f->n_page += list[i]->rec.n_page;
            sp_kv_store_drop(t->store, list[i]);
        }
        sp_kv_store_unpin(t->store, list[i]);
    }
    sp_mem_free(list);
    sp_err flushed = sp_kv_store_flush(t->store, 10000, err == SP_OK ? d : NULL);
    return err == SP_OK ? flushed : err;
}

/* Says once that the folder is gone; the metric stays. */
static void check_folder(sp_kv_tier *t)
{
    sp_diag d = {0};
    bool gone = sp_kv_store_check(t->store, &d) != SP_OK;
    if (gone && !t->folder_gone)
        sp_log(SP_LOG_ERROR, "the warm tier is off until the next start: %s", d.msg);
    t->folder_gone = gone;
    sp_metric_set(t->m.folder_gone, gone);
}

static void *writer_main(void *arg)
{
    sp_kv_tier *t = arg;
    (void)setpriority(PRIO_PROCESS, (id_t)syscall(SYS_gettid), WRITER_NICE); /* tokens come first */
    sp_lock_get(&t->lock);
    for (;;) {
        if (!t->save && !t->op && !t->stop) {
            sp_lock_wait(&t->lock, &t->work_write, TICK_MS * 1000000ull);
            sp_lock_put(&t->lock);
            check_folder(t);
            sp_kv_store_tidy(t->store);
            publish(t);
            sp_lock_get(&t->lock);
        }
        sp_kv_save *s = t->save;
        sp_kv_op *op = s ? NULL : t->op;
        if (!s && !op && t->stop)
            break;
        if (!s && !op)
            continue; /* a tick: nothing to tell */
        if (s && !(t->save = s->next))
            t->save_tail = &t->save;
        if (op)
            t->op = op->next;
        sp_lock_put(&t->lock);
        if (s)
            write_save(t, s);
        if (op)
            op->err = forget(t, op->forget, op->d);
        sp_kv_store_tidy(t->store);
        sp_lock_get(&t->lock);
        if (s) {
            s->next = t->saved;
            t->saved = s;
        }
        if (op) {
            op->done = true;
            pthread_cond_broadcast(&t->changed_cond);
        }
        sp_lock_put(&t->lock);
        sp_kv_notify(t);
        sp_lock_get(&t->lock);
    }
    sp_lock_put(&t->lock);
    return NULL;
}

sp_err sp_kv_tier_forget(sp_kv_tier *t, sp_kv_forget *f, sp_diag *d)
{
    sp_kv_op op = {.forget = f, .d = d};
    sp_lock_get(&t->lock);
    sp_kv_op **at = &t->op;
    while (*at)
        at = &(*at)->next;
    *at = &op;
    pthread_cond_signal(&t->work_write);
    while (!op.done)
        sp_lock_wait(&t->lock, &t->changed_cond, 0);
    sp_lock_put(&t->lock);
    return op.err;
}

/* --- open and close --------------------------------------------------------------------------- */

static void add_metrics(sp_kv_tier *t)
{
    sp_metrics *m = t->cfg.metrics;
    static const char *const tier[] = {"tier=\"ssd\"", "tier=\"s3\""};
    /* the engine counts RAM */
    static const char *const source[] = {"source=\"ssd\"", "source=\"s3\""};
    static const char *const choice[] = {"choice=\"recompute\"", "choice=\"fetch_part\"",
                                         "choice=\"fetch\"", "choice=\"abandoned\""};
    if (!m)
        return;
    for (int i = 0; i < 4; i++)
        t->m.choice[i] =
            sp_metric_counter(m, "sparing_kv_choices_total",
                              "What was done about prefixes known beyond RAM.", choice[i]);
    t->m.abandoned = t->m.choice[3];
    for (int i = 0; i < 2; i++) {
        t->m.fetch[i] =
            sp_metric_counter(m, "sparing_kv_hits_total", "Loads of prefixes by tier.", source[i]);
        t->m.bytes_read[i] =
            sp_metric_counter(m, "sparing_kv_read_bytes_total", "Bytes loaded by tier.", tier[i]);
        t->m.bytes_written[i] = sp_metric_counter(m, "sparing_kv_written_bytes_total",
                                                  "Bytes written by tier.", tier[i]);
        t->m.load_s[i] = sp_metric_seconds(m, "sparing_kv_load_seconds",
                                           "From asking to the last layer.", tier[i]);
        t->m.first_s[i] = sp_metric_seconds(m, "sparing_kv_first_layer_seconds",
                                            "From asking to the first layer.", tier[i]);
        t->m.write_fail[i] = sp_metric_counter(m, "sparing_kv_write_failures_total",
                                               "Runs not written: disk or store refused.", tier[i]);
        t->m.held[i] = sp_metric_gauge(m, "sparing_kv_bytes", "Bytes of KV pages.", tier[i]);
        t->m.snaps[i] =
            sp_metric_gauge(m, "sparing_kv_snapshots",
                            "Snapshots of recurrent layers' states that a tier holds.", tier[i]);
        t->m.held_tok[i] =
            sp_metric_gauge(m, "sparing_kv_tokens", "Tokens whose pages a tier holds.", tier[i]);
    }
    t->m.evicted = sp_metric_gauge(m, "sparing_kv_evicted_runs",
                                   "Runs given up by the warm tier since start.", "kind=\"all\"");
    t->m.lost =
        sp_metric_gauge(m, "sparing_kv_evicted_runs", "Runs given up by the warm tier since start.",
                        "kind=\"nowhere_else\"");
    t->m.folder_gone = sp_metric_gauge(m, "sparing_kv_folder_gone",
                                       "1: the folder of pages was deleted while in use; the warm "
                                       "tier is off until the next start.",
                                       NULL);
    t->m.mismatch =
        sp_metric_gauge(m, "sparing_kv_mismatches",
                        "Stored bytes that were not what was written, since start.", NULL);
}

sp_err sp_kv_tier_open(sp_kv_tier **out, const sp_kv_tier_cfg *cfg, sp_diag *d)
{
    sp_kv_tier *t = sp_mem_alloc(sizeof *t);
    if (!t)
        return SP_FAIL(d, SP_NOMEM, "tiers");
    t->cfg = *cfg;
    t->tok_s = cfg->tok_s;
    memcpy(t->rate, first_guess, sizeof t->rate);
    sp_lock_init(&t->lock, SP_RANK_TIER);
    pthread_cond_t *const cond[] = {&t->work_warm, &t->work_fetch, &t->work_write, &t->work_cold,
                                    &t->changed_cond};
    for (size_t i = 0; i < 5; i++)
        sp_lock_cond_init(cond[i]);
    t->warm_tail = &t->warm;
    t->fetch_tail = &t->fetch;
    t->save_tail = &t->save;
    add_metrics(t);
    const sp_kv_store_cfg store = {cfg->dir, cfg->cap_bytes, cfg->depth_cost};
    sp_err err = sp_kv_store_open(&t->store, &store, d);
    if (err == SP_OK)
        err = sp_kv_io_new(&t->io, cfg->io, d);
    void *(*const mains[])(void *) = {writer_main, sp_kv_warm_main, sp_kv_cold_main,
                                      sp_kv_fetch_main};
    size_t n = cfg->cold ? 3 + SP_KV_FETCHERS : 2;
    while (err == SP_OK && t->n_thread < n) {
        if (pthread_create(&t->thread[t->n_thread], NULL, mains[t->n_thread < 3 ? t->n_thread : 3],
                           t) != 0)
            err = SP_FAIL(d, SP_NOMEM, "tiers: cannot start a thread");
        else
            t->n_thread++;
    }
    if (err == SP_OK) {
        publish(t);
        *out = t;
    } else {
        sp_kv_tier_close(t);
    }
    return err;
}

void sp_kv_tier_close(sp_kv_tier *t)
{
    if (!t)
        return;
    sp_lock_get(&t->lock);
    t->stop = true;
    t->changed = NULL;
    pthread_cond_broadcast(&t->work_warm);
    pthread_cond_broadcast(&t->work_fetch);
    pthread_cond_broadcast(&t->work_write);
    pthread_cond_broadcast(&t->work_cold);
    sp_lock_put(&t->lock);
    for (size_t i = 0; i < t->n_thread; i++)
        pthread_join(t->thread[i], NULL);
    sp_kv_save *s;
    while ((s = sp_kv_tier_saved(t)))
        sp_mem_free(s);
    sp_kv_io_free(t->io);
    sp_kv_store_close(t->store);
    sp_lock_fini(&t->lock);
    pthread_cond_t *const cond[] = {&t->work_warm, &t->work_fetch, &t->work_write, &t->work_cold,
                                    &t->changed_cond};
    for (size_t i = 0; i < 5; i++)
        pthread_cond_destroy(cond[i]);
    sp_mem_free(t);
}

void sp_kv_tier_on_change(sp_kv_tier *t, void (*changed)(void *arg), void *arg)
{
    sp_lock_get(&t->lock);
    t->changed = changed;
    t->changed_arg = arg;
    sp_lock_put(&t->lock);
}

sp_kv_store *sp_kv_tier_store(sp_kv_tier *t)
{
    return t->store;
}

const char *sp_kv_tier_io(const sp_kv_tier *t)
{
    return sp_kv_io_name(t->io);
}
