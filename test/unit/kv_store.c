/* The warm store against a naive model: what is found is what was written, whatever happened between. */
#include "test.h"

#include "base/clock.h"
#include "base/fault.h"
#include "base/log.h"
#include "base/mem.h"
#include "kv/store.h"
#include "kv/tier.h"

#include <dirent.h>
#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdio.h>
#include <sys/stat.h>
#include <sys/wait.h>
#include <unistd.h>

int run_store_tests(void);

enum { LAYERS = 3, HI = 320, LO = 192 };

static char dir[64];

static void wipe(void)
{
    char cmd[128];
    snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
    assert_int_equal(system(cmd), 0);
}

static void new_dir(void)
{
    snprintf(dir, sizeof dir, "/tmp/sparing-store-XXXXXX");
    assert_non_null(mkdtemp(dir));
}

static sp_err open_store(sp_kv_store **s, uint64_t cap)
{
    const sp_kv_store_cfg cfg = {dir, cap, 1e-4};
    return sp_kv_store_open(s, &cfg, NULL);
}

/* Everything about run number k of chain c follows from the two numbers. */
typedef struct sample {
    sp_kv_rec rec;
    sp_kv_rec_page page[SP_KV_RUN];
    uint8_t mem[SP_KV_RUN][LAYERS * (HI + LO)];
    void *hi[SP_KV_RUN], *lo[SP_KV_RUN];
} sample;

static void make_id(sp_sha256 *id, uint32_t c, uint32_t number)
{
    const uint32_t key[2] = {c, number};
    const sp_sha256_part part = {key, sizeof key};
    assert_int_equal(sp_sha256_of(id, &part, 1), SP_OK);
}

static void make_sample(sample *s, uint32_t c, uint32_t first, uint32_t n)
{
    s->rec = (sp_kv_rec){.n_page = n, .n_layer = LAYERS, .hi_bytes = HI, .lo_bytes = LO, .first = first, .page = s->page};
    make_id(&s->rec.parent, c, first - 1);
    memset(s->rec.tag, (int)(c % 3), SP_KV_TAG);
    for (uint32_t i = 0; i < n; i++) {
        uint64_t rng = (uint64_t)c << 32 | (first + i);
        make_id(&s->page[i].id, c, first + i);
        for (size_t k = 0; k < SP_PAGE_TOK; k++)
            s->page[i].tok[k] = test_rand(&rng);
        for (size_t k = 0; k < sizeof s->mem[i]; k++)
            s->mem[i][k] = (uint8_t)test_rand(&rng);
        s->hi[i] = s->mem[i];
        s->lo[i] = s->mem[i] + LAYERS * HI;
        s->rec.lo_mask |= (uint32_t)((first + i) % 5 != 1) << i; /* some are demoted */
    }
}

static sp_err add(sp_kv_store *s, uint32_t c, uint32_t first, uint32_t n)
{
    static sample m;
    make_sample(&m, c, first, n);
    return sp_kv_store_add(s, &m.rec, m.hi, m.lo, NULL);
}

/* Is page number `number` of chain c found, and right? Wrong is a failure; damaged is dropped. */
static bool look(sp_kv_store *s, uint32_t c, uint32_t number, size_t *n_damaged)
{
    static sample m;
    sp_kv_hit hit;
    make_sample(&m, c, number, 1);
    sp_kv_key key = {.id = m.page[0].id, .parent = m.rec.parent, .tok = m.page[0].tok};
    if (sp_kv_store_find(s, &key, 1, false, &hit) == 0)
        return false;
    uint8_t *p;
    size_t n;
    sp_err err = sp_kv_store_read(s, hit.run, &p, &n, NULL);
    if (err == SP_OK) {
        sp_kv_head h;
        assert_int_equal(sp_kv_head_read(&h, p, n, NULL), SP_OK);
        assert_memory_equal(h.page[hit.page].tok, m.page[0].tok, sizeof m.page[0].tok);
        for (uint32_t l = 0; l < LAYERS; l++) {
            const uint8_t *block = p + sp_kv_head_block_at(&h, l);
            assert_memory_equal(block + sp_kv_rec_hi_at(&h.rec, hit.page), m.mem[0] + l * HI, HI);
            if (m.rec.lo_mask)
                assert_memory_equal(block + sp_kv_rec_lo_at(&h.rec, hit.page), m.mem[0] + LAYERS * HI + l * LO, LO);
        }
        sp_mem_free(p);
    } else {
        assert_true(err == SP_CORRUPT || err == SP_IO || err == SP_NOMEM);
        if (n_damaged)
            ++*n_damaged;
        if (err == SP_CORRUPT)
            sp_kv_store_corrupt(s, hit.run);
    }
    sp_kv_store_unpin(s, hit.run);
    return err == SP_OK;
}

static uint64_t disk_bytes(void)
{
    uint64_t n = 0;
    DIR *d = opendir(dir);
    for (struct dirent *e; d && (e = readdir(d));) {
        char path[400];
        struct stat st;
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        if (stat(path, &st) == 0 && S_ISREG(st.st_mode))
            n += (uint64_t)st.st_blocks * 512;
    }
    closedir(d);
    return n;
}

static void test_written_is_found_after_reopening(void **state)
{
    (void)state;
    sp_kv_store *s;
    new_dir();
    assert_int_equal(open_store(&s, 64 << 20), SP_OK);
    for (uint32_t c = 0; c < 20; c++)
        for (uint32_t first = 0; first < 40; first += 1 + c % 16)
            assert_int_equal(add(s, c, first, 1 + c % 16), SP_OK);
    for (int round = 0; round < 2; round++) {
        for (uint32_t c = 0; c < 20; c++)
            for (uint32_t i = 0; i < 40; i++)
                assert_true(look(s, c, i, NULL));
        assert_false(look(s, 21, 0, NULL));
        sp_kv_store_close(s);
        assert_int_equal(open_store(&s, 64 << 20), SP_OK);
    }
    sp_kv_store *second;
    assert_int_equal(open_store(&second, 64 << 20), SP_LIMIT); /* one process a folder */
    sp_kv_store_close(s);
    wipe();
}

/* The key is compared in full: same identity, other tokens or parent, is no hit. */
static void test_a_planted_collision_is_no_hit(void **state)
{
    (void)state;
    static sample m;
    sp_kv_store *s;
    sp_kv_hit hit;
    new_dir();
    assert_int_equal(open_store(&s, 64 << 20), SP_OK);
    assert_int_equal(add(s, 1, 0, 1), SP_OK);
    make_sample(&m, 1, 0, 1);
    sp_kv_key key = {.id = m.page[0].id, .parent = m.rec.parent, .tok = m.page[0].tok};
    m.page[0].tok[31] ^= 1;
    assert_int_equal(sp_kv_store_find(s, &key, 1, true, &hit), 0);
    m.page[0].tok[31] ^= 1;
    key.parent.b[31] ^= 1;
    assert_int_equal(sp_kv_store_find(s, &key, 1, true, &hit), 0);
    key.parent.b[31] ^= 1;
    assert_int_equal(sp_kv_store_find(s, &key, 1, true, &hit), 1);
    sp_kv_store_unpin(s, hit.run);
    sp_kv_store_close(s);
    wipe();
}

static void test_100000_evictions_leave_no_holes(void **state)
{
    (void)state;
    enum { N = 101000 };
    sp_kv_store *s;
    uint64_t cap = 8 << 20, rng = 5;
    sp_kv_store_stat st;
    new_dir();
    assert_int_equal(open_store(&s, cap), SP_OK);
    for (uint32_t c = 0; c < N; c++) {
        assert_int_equal(add(s, c, 0, 1), SP_OK);
        if (c >= 16)
            (void)look(s, c - test_rand(&rng) % 16, 0, NULL);
        if (c % 16 == 0)
            sp_kv_store_tidy(s);
    }
    sp_kv_store_tidy(s);
    sp_kv_store_stat_of(s, &st);
    assert_true(st.n_evicted >= 99000 && st.warm_bytes <= cap && st.warm_bytes > cap * 9 / 10);
    assert_true(disk_bytes() < cap + cap / 4);
    assert_true(st.n_seg <= 40 && st.n_corrupt == 0);
    sp_kv_store_close(s);
    assert_int_equal(open_store(&s, cap), SP_OK);
    sp_kv_store_stat after;
    sp_kv_store_stat_of(s, &after);
    assert_int_equal(after.n_run, st.n_run);
    for (uint32_t c = N - 100; c < N; c++)
        assert_true(look(s, c, 0, NULL));
    sp_kv_store_close(s);
    wipe();
}

/* A reused run outlives unused ones; what others continue outlives its tail. */
static void test_what_is_given_up_first(void **state)
{
    (void)state;
    static sample m;
    sp_kv_store *s;
    sp_kv_hit hit;
    new_dir();
    make_sample(&m, 0, 0, 1);
    uint64_t each = sp_kv_rec_bytes(&m.rec);
    assert_int_equal(open_store(&s, 10 * each), SP_OK);
    for (uint32_t c = 0; c < 8; c++)
        assert_int_equal(add(s, c, 0, 1), SP_OK);
    assert_int_equal(add(s, 0, 1, 1), SP_OK); /* continues chain 0 */
    make_sample(&m, 1, 0, 1);
    sp_kv_key key = {.id = m.page[0].id, .parent = m.rec.parent, .tok = m.page[0].tok};
    assert_int_equal(sp_kv_store_find(s, &key, 1, false, &hit), 1);
    sp_kv_store_used(s, hit.run);
    sp_kv_store_unpin(s, hit.run);
    for (uint32_t c = 10; c < 16; c++)
        assert_int_equal(add(s, c, 0, 1), SP_OK);
    assert_true(look(s, 1, 0, NULL));  /* used once more than others */
    assert_true(look(s, 0, 0, NULL) || !look(s, 0, 1, NULL)); /* never a tail without its front */
    assert_false(look(s, 2, 0, NULL));
    sp_kv_store_close(s);
    wipe();
}

static bool is_tag(const sp_kv_run *r, void *arg)
{
    return r->rec.tag[0] == *(int *)arg;
}

static void test_deleted_is_off_the_disk(void **state)
{
    (void)state;
    sp_kv_store *s;
    new_dir();
    assert_int_equal(open_store(&s, 64 << 20), SP_OK);
    for (uint32_t c = 0; c < 12; c++)
        assert_int_equal(add(s, c, 0, 4), SP_OK);
    int tag = 1;
    sp_kv_run **list;
    size_t n;
    assert_int_equal(sp_kv_store_select(s, is_tag, &tag, &list, &n), SP_OK);
    assert_int_equal(n, 4);
    for (size_t i = 0; i < n; i++) {
        sp_kv_store_drop(s, list[i]);
        sp_kv_store_unpin(s, list[i]);
    }
    sp_mem_free(list);
    assert_int_equal(sp_kv_store_flush(s, 1000, NULL), SP_OK);
    /* Nothing of chain 1 is in any file: neither page bytes nor identities. */
    static sample m;
    make_sample(&m, 1, 2, 1);
    DIR *d = opendir(dir);
    for (struct dirent *e; (e = readdir(d));) {
        char path[400];
        snprintf(path, sizeof path, "%s/%s", dir, e->d_name);
        FILE *f = fopen(path, "rb");
        static char all[4 << 20];
        size_t len = f ? fread(all, 1, sizeof all, f) : 0;
        if (f)
            fclose(f);
        assert_null(memmem(all, len, m.mem[0], 32));
        assert_null(memmem(all, len, m.page[0].id.b, 32));
    }
    closedir(d);
    for (int round = 0; round < 2; round++) {
        for (uint32_t c = 0; c < 12; c++)
            assert_int_equal(look(s, c, 2, NULL), c % 3 != 1);
        sp_kv_store_close(s);
        assert_int_equal(open_store(&s, 64 << 20), SP_OK);
    }
    sp_kv_store_close(s);
    wipe();
}

/* Each I/O call, then each allocation, fails once. Whatever is found afterwards is right. */
static void sweep_faults(sp_fault_kind kind)
{
    long hits = 0;
    for (long nth = 1;; nth++) {
        sp_kv_store *s = NULL;
        new_dir();
        sp_fault_arm(kind, nth);
        if (open_store(&s, 64 << 20) == SP_OK) {
            for (uint32_t c = 0; c < 3; c++) {
                (void)add(s, c, 0, 2);
                (void)look(s, c, 1, NULL);
            }
            sp_kv_store_tidy(s);
            sp_kv_store_close(s);
        }
        bool hit = sp_fault_was_hit(kind);
        sp_fault_arm(kind, 0);
        size_t found = 0, damaged = 0;
        assert_int_equal(open_store(&s, 64 << 20), SP_OK);
        for (uint32_t c = 0; c < 3; c++)
            found += look(s, c, 0, &damaged);
        assert_int_equal(damaged, 0);
        assert_int_equal(add(s, 9, 0, 2), SP_OK); /* the folder still works */
        assert_true(look(s, 9, 1, NULL));
        sp_kv_store_close(s);
        wipe();
        hits += hit;
        if (!hit) {
            assert_int_equal(found, 3);
            break;
        }
    }
    assert_true(hits >= 10);
}

static void test_every_io_may_fail(void **state)
{
    (void)state;
    sweep_faults(SP_FAULT_IO);
    sweep_faults(SP_FAULT_MEM);
}

static size_t read_file(const char *name, uint8_t *out, size_t cap)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "rb");
    assert_non_null(f);
    size_t n = fread(out, 1, cap, f);
    fclose(f);
    return n;
}

static void write_file(const char *name, const uint8_t *p, size_t n)
{
    char path[200];
    snprintf(path, sizeof path, "%s/%s", dir, name);
    FILE *f = fopen(path, "wb");
    assert_non_null(f);
    assert_int_equal(fwrite(p, 1, n, f), n);
    fclose(f);
}

/* 2,000 single flipped bits in a segment and the index. A page is either right or not there; one
 * whose own bytes were hit is never there. */
static void test_flipped_bits_are_seen(void **state)
{
    (void)state;
    enum { CHAINS = 4, PAGES = 3 };
    static uint8_t file[2][1 << 20];
    size_t len[2];
    static const char *const name[2] = {"seg-00000001", "index"};
    sp_kv_store *s;
    new_dir();
    assert_int_equal(open_store(&s, 64 << 20), SP_OK);
    for (uint32_t c = 0; c < CHAINS; c++)
        assert_int_equal(add(s, c, 0, PAGES), SP_OK);
    sp_kv_store_close(s);
    for (int f = 0; f < 2; f++)
        len[f] = read_file(name[f], file[f], sizeof file[f]);
    uint64_t rng = 99;
    size_t missed = 0;
    for (int k = 0; k < 2000; k++) {
        int f = k % 2;
        size_t at = test_rand(&rng) % len[f];
        uint8_t bit = (uint8_t)(1u << test_rand(&rng) % 8);
        if (f == 0 && at < SP_KV_ALIGN)
            at += SP_KV_ALIGN; /* the segment's own head carries nothing */
        for (int i = 0; i < 2; i++)
            write_file(name[i], file[i], len[i]);
        file[f][at] ^= bit;
        write_file(name[f], file[f], len[f]);
        file[f][at] ^= bit;
        size_t good = 0, damaged = 0;
        assert_int_equal(open_store(&s, 64 << 20), SP_OK);
        for (uint32_t c = 0; c < CHAINS; c++)
            for (uint32_t i = 0; i < PAGES; i++)
                good += look(s, c, i, &damaged);
        sp_kv_store_close(s);
        missed += good == CHAINS * PAGES && damaged == 0;
    }
    /* Only bits nobody reads may go unseen: the zeros that fill a record's head and end. */
    static sample m;
    make_sample(&m, 0, 0, PAGES);
    size_t used = sp_kv_rec_head_bytes(&m.rec) + LAYERS * sp_kv_rec_layer_bytes(&m.rec);
    double idle = 1 - (double)used / (double)sp_kv_rec_bytes(&m.rec);
    assert_true((double)missed <= 1000 * idle * 1.25 + 5);
    wipe();
}

/* kill -9 at a random moment of writing and giving up, 200 times over one folder. The child says when it
 * has added something, so that each round has something to lose, however slow the machine is. */
static void test_killed_writers_leave_nothing_wrong(void **state)
{
    (void)state;
    uint64_t rng = 11, cap = 2 << 20;
    new_dir();
    size_t found = 0;
    for (uint32_t round = 0; round < 200; round++) {
        int said[2];
        assert_int_equal(pipe(said), 0);
        pid_t pid = fork();
        assert_true(pid >= 0);
        if (pid == 0) {
            sp_kv_store *s;
            if (open_store(&s, cap) != SP_OK)
                _exit(1);
            for (uint32_t c = round * 1000;; c++) {
                if (add(s, c, 0, 1 + c % 5) != SP_OK)
                    _exit(2);
                sp_kv_store_tidy(s);
                if (write(said[1], "", 1) != 1)
                    _exit(3);
            }
        }
        close(said[1]);
        char one;
        for (size_t n = 1 + test_rand(&rng) % 20; n; n--)
            assert_int_equal(read(said[0], &one, 1), 1);
        usleep(test_rand(&rng) % 2000);
        int status;
        assert_int_equal(kill(pid, SIGKILL), 0);
        assert_int_equal(waitpid(pid, &status, 0), pid);
        assert_true(WIFSIGNALED(status)); /* it had not failed by itself */
        close(said[0]);
        sp_kv_store *s;
        size_t damaged = 0;
        assert_int_equal(open_store(&s, cap), SP_OK);
        for (uint32_t c = round * 1000; c < round * 1000 + 200; c++)
            for (uint32_t i = 0; i < 1 + c % 5; i++)
                found += look(s, c, i, &damaged);
        sp_kv_store_close(s);
        assert_true(disk_bytes() < cap * 2);
    }
    assert_true(found > 1000);
    wipe();
}

static void test_packed_records_are_what_was_packed(void **state)
{
    (void)state;
    static sample m;
    uint64_t rng = 3;
    for (uint32_t n = 1; n <= SP_KV_RUN; n += 5) {
        uint8_t *packed;
        size_t n_packed;
        make_sample(&m, n, 7, n);
        size_t bytes = sp_kv_rec_bytes(&m.rec);
        uint8_t *p = sp_mem_raw(bytes);
        sp_kv_rec_build(p, &m.rec, m.hi, m.lo);
        assert_int_equal(sp_kv_rec_verify(p, bytes, NULL), SP_OK);
        assert_int_equal(sp_kv_rec_pack(&packed, &n_packed, p, bytes, NULL), SP_OK);
        assert_int_equal(sp_kv_rec_verify(packed, n_packed, NULL), SP_OK);
        sp_kv_head h;
        assert_int_equal(sp_kv_head_read(&h, packed, n_packed, NULL), SP_OK);
        assert_true(h.rec.packed && h.rec.n_page == n && h.rec.first == 7);
        for (int k = 0; k < 300; k++) { /* a flipped bit is seen by a checksum or by zstd, wherever it counts */
            size_t at = test_rand(&rng) % n_packed;
            if (at >= SP_KV_HEAD_MIN + n * 160 + LAYERS * (n * 16 + 8) && at < h.head_bytes)
                continue; /* filling */
            packed[at] ^= 4;
            assert_int_not_equal(sp_kv_rec_verify(packed, n_packed, NULL), SP_OK);
            packed[at] ^= 4;
        }
        for (size_t cut = 0; cut < n_packed; cut += 97)
            assert_int_not_equal(sp_kv_rec_verify(packed, cut, NULL), SP_OK);
        sp_mem_free(p);
        sp_mem_free(packed);
    }
}

/* The choice follows the rates: a slow computer fetches, a fast one computes. */
static void test_both_choices_are_made(void **state)
{
    (void)state;
    static const struct { double tok_s; sp_kv_fetch fetch; size_t want; } cases[] = {
        {1, SP_KV_FETCH_AUTO, 4}, {1e-9, SP_KV_FETCH_AUTO, 0}, {1e-9, SP_KV_FETCH_ALWAYS, 4}, {1, SP_KV_FETCH_NEVER, 0}};
    static sample m;
    for (size_t k = 0; k < sizeof cases / sizeof cases[0]; k++) {
        sp_kv_tier *t;
        sp_kv_key key[4];
        sp_kv_hit hit[4];
        new_dir();
        const sp_kv_tier_cfg cfg = {.dir = dir, .cap_bytes = 64 << 20, .io = "auto", .fetch = cases[k].fetch, .depth_cost = 1e-4, .tok_s = cases[k].tok_s};
        assert_int_equal(sp_kv_tier_open(&t, &cfg, NULL), SP_OK);
        make_sample(&m, 0, 0, 4);
        assert_int_equal(sp_kv_store_add(sp_kv_tier_store(t), &m.rec, m.hi, m.lo, NULL), SP_OK);
        for (size_t i = 0; i < 4; i++)
            key[i] = (sp_kv_key){m.page[i].id, i ? m.page[i - 1].id : m.rec.parent, m.page[i].tok};
        size_t n = sp_kv_tier_plan(t, key, 4, 0, hit);
        assert_int_equal(n, cases[k].want);
        for (size_t i = 0; i < n; i++)
            sp_kv_store_unpin(sp_kv_tier_store(t), hit[i].run);
        if (cases[k].fetch == SP_KV_FETCH_AUTO && n == 4) { /* it learns that computing is fast */
            for (int i = 0; i < 300; i++)
                sp_kv_tier_note_compute(t, 1000, 1e-6);
            assert_int_equal(sp_kv_tier_plan(t, key, 4, 0, hit), 0);
        }
        sp_kv_tier_close(t);
        wipe();
    }
}

int run_store_tests(void)
{
    sp_log_set(SP_LOG_ERROR, false); /* damaged files are warned about by the thousand */
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_written_is_found_after_reopening), cmocka_unit_test(test_a_planted_collision_is_no_hit),
        cmocka_unit_test(test_100000_evictions_leave_no_holes), cmocka_unit_test(test_what_is_given_up_first),
        cmocka_unit_test(test_deleted_is_off_the_disk), cmocka_unit_test(test_every_io_may_fail),
        cmocka_unit_test(test_flipped_bits_are_seen), cmocka_unit_test(test_killed_writers_leave_nothing_wrong),
        cmocka_unit_test(test_packed_records_are_what_was_packed), cmocka_unit_test(test_both_choices_are_made)};
    return cmocka_run_group_tests_name("store", tests, NULL, NULL);
}
