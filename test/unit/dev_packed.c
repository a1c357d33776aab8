/* Files of packed weights: what was written is read; all else is refused and says why; a disk that
 * fails leaves nothing behind; the budget; two writers. And the layout that their number stands
 * for. */
#include "test.h"

#include "base/fault.h"
#include "base/file.h"
#include "base/mem.h"
#include "dev/dev.h"
#include "fmt/quant.h"
#include "model/packed_int.h"

#include <errno.h>
#include <fcntl.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <sys/file.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <unistd.h>
#include <xxhash.h>

void test_packed_round(void **state);
void test_packed_refused(void **state);
void test_packed_failing_disk(void **state);
void test_packed_full_disk(void **state);
void test_packed_budget(void **state);
void test_packed_writers(void **state);
void test_packed_layout(void **state);

enum { N_BYTES = 2 * SP_PACKED_BLK + 12345 };

typedef struct rig {
    sp_pool *pool;
    uint8_t *from, *to; /* [N_BYTES] */
    char root[64], path[SP_PACKED_DIR + SP_PACKED_NAME], fresh[SP_PACKED_DIR + SP_PACKED_NAME];
    sp_packed_cfg cfg;
    sp_packed_key key;
} rig;

static sp_packed_key key_of(uint8_t model)
{
    sp_packed_key k = {.layout = "a layout, 1", .name = "a model", .n_bytes = N_BYTES};
    memset(&k.model, model, sizeof k.model);
    memset(&k.table, 7, sizeof k.table);
    return k;
}

static void start(rig *r)
{
    uint64_t seed = 1;
    *r = (rig){.root = "/tmp/sparing-packed-XXXXXX", .key = key_of(1)};
    assert_non_null(mkdtemp(r->root));
    snprintf(r->cfg.dir, sizeof r->cfg.dir, "%s/a/b", r->root);
    r->cfg.cap_bytes = UINT64_MAX;
    assert_int_equal(sp_pool_new(&r->pool, 2, NULL), SP_OK);
    r->from = malloc(N_BYTES);
    r->to = malloc(N_BYTES);
    for (size_t i = 0; i < N_BYTES; i++)
        r->from[i] = (uint8_t)test_rand(&seed);
    sp_packed_path(r->path, sizeof r->path, r->cfg.dir, &r->key, SP_PACKED_TAIL);
    sp_packed_path(r->fresh, sizeof r->fresh, r->cfg.dir, &r->key, SP_PACKED_NEW);
}

static void end(rig *r)
{
    char up[80];
    sp_packed_file *all;
    size_t n;
    if (sp_packed_list(&all, &n, r->cfg.dir, NULL) == SP_OK) {
        for (size_t i = 0; i < n; i++)
            assert_int_equal(sp_packed_remove(r->cfg.dir, all[i].name, NULL), SP_OK);
        sp_mem_free(all);
        assert_int_equal(rmdir(r->cfg.dir), 0); /* nothing else was left in it */
    }
    snprintf(up, sizeof up, "%s/a", r->root);
    (void)rmdir(up);
    assert_int_equal(rmdir(r->root), 0);
    sp_pool_free(r->pool);
    free(r->from);
    free(r->to);
}

static sp_err put(rig *r)
{
    return sp_packed_write(r->from, &r->key, &r->cfg, NULL, NULL);
}

static sp_err get(rig *r, sp_diag *d)
{
    memset(r->to, 0, N_BYTES);
    return sp_packed_read(r->to, &r->key, r->cfg.dir, r->pool, d);
}

void test_packed_round(void **state)
{
    rig r;
    sp_packed_file *all;
    size_t n;
    (void)state;
    start(&r);
    assert_int_equal(get(&r, NULL), SP_NOTFOUND);
    assert_int_equal(sp_packed_list(&all, &n, r.cfg.dir, NULL), SP_NOTFOUND);
    assert_int_equal(put(&r), SP_OK);
    assert_int_equal(get(&r, NULL), SP_OK);
    assert_memory_equal(r.to, r.from, N_BYTES);
    r.from[N_BYTES - 1] ^= 1; /* and a later one takes its place */
    assert_int_equal(put(&r), SP_OK);
    assert_int_equal(get(&r, NULL), SP_OK);
    assert_memory_equal(r.to, r.from, N_BYTES);
    assert_int_equal(sp_packed_list(&all, &n, r.cfg.dir, NULL), SP_OK);
    assert_int_equal(n, 1);
    assert_true(all[0].is_known);
    assert_string_equal(all[0].model, "a model");
    assert_string_equal(all[0].layout, "a layout, 1");
    sp_mem_free(all);
    r.key.is_part = true; /* of the same model, without its experts: another file */
    assert_int_equal(get(&r, NULL), SP_NOTFOUND);
    end(&r);
}

/* Flips a bit, or cuts the file there, and puts it back. */
static sp_err get_changed(rig *r, off_t at, bool cut, sp_diag *d)
{
    struct stat st;
    uint8_t byte, other;
    int fd = open(r->path, O_RDWR);
    assert_true(fd >= 0 && fstat(fd, &st) == 0 && pread(fd, &byte, 1, at) == 1);
    other = byte ^ 1;
    assert_true(pwrite(fd, &other, 1, at) == 1 && (!cut || ftruncate(fd, at) == 0));
    sp_err err = get(r, d);
    if (cut)
        assert_int_equal(put(r), SP_OK);
    else
        assert_int_equal(pwrite(fd, &byte, 1, at), 1);
    close(fd);
    return err;
}

void test_packed_refused(void **state)
{
    static const struct {
        off_t at;
        bool cut;
        sp_err err;
        const char *says;
    } t[] = {
        {0, false, SP_FORMAT, "holds no packed weights"},
        {8, false, SP_FORMAT, "is of version 0, this program reads 1"},
        {offsetof(sp_packed_head, layout), false, SP_FORMAT, "this device reads a layout, 1"},
        {offsetof(sp_packed_head, model) + 31, false, SP_FORMAT, "is of another model"},
        {offsetof(sp_packed_head, table), false, SP_FORMAT, "is of another model"},
        {offsetof(sp_packed_head, name), false, SP_CORRUPT, "its head does not match"},
        {SP_PACKED_PAGE, false, SP_CORRUPT, "its head does not match"},
        {2 * SP_PACKED_PAGE, false, SP_CORRUPT, "MiB 0 does not match"},
        {2 * SP_PACKED_PAGE + N_BYTES - 1, false, SP_CORRUPT, "MiB 2 does not match"},
        {2 * SP_PACKED_PAGE + N_BYTES - 1, true, SP_CORRUPT, "ends too early"},
        {SP_PACKED_PAGE, true, SP_CORRUPT, "ends too early"},
        {100, true, SP_CORRUPT, "ends too early"},
    };
    rig r;
    (void)state;
    start(&r);
    assert_int_equal(put(&r), SP_OK);
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        sp_diag d = {0};
        assert_int_equal(get_changed(&r, t[i].at, t[i].cut, &d), t[i].err);
        assert_non_null(strstr(d.msg, t[i].says));
    }
    assert_int_equal(get(&r, NULL), SP_OK);
    end(&r);
}

/* Each call fails once. What was there before stays, and nothing is left beside it. */
void test_packed_failing_disk(void **state)
{
    rig r;
    (void)state;
    for (int kind = SP_FAULT_MEM; kind < SP_FAULT_KINDS; kind++) {
        start(&r);
        assert_int_equal(put(&r), SP_OK);
        for (long nth = 1;; nth++) {
            assert_true(nth < 100);
            sp_fault_arm(kind, nth);
            sp_err err = put(&r);
            bool was_hit = sp_fault_was_hit(kind);
            sp_fault_arm(kind, 0);
            assert_int_equal(access(r.fresh, F_OK), -1);
            assert_int_equal(get(&r, NULL), SP_OK);
            if (!was_hit) {
                assert_int_equal(err, SP_OK);
                break;
            }
        }
        for (long nth = 1;; nth++) {
            assert_true(nth < 100);
            sp_fault_arm(kind, nth);
            sp_err err = get(&r, NULL);
            bool was_hit = sp_fault_was_hit(kind);
            sp_fault_arm(kind, 0);
            assert_true((err == SP_OK) == !was_hit);
            if (!was_hit)
                break;
        }
        end(&r);
    }
}

/* The system refuses to let a file grow, as a full disk does. */
void test_packed_full_disk(void **state)
{
    struct rlimit was, low;
    rig r;
    (void)state;
    start(&r);
    assert_int_equal(getrlimit(RLIMIT_FSIZE, &was), 0);
    low = was;
    low.rlim_cur = SP_PACKED_BLK;
    void (*handler)(int) = signal(SIGXFSZ, SIG_IGN);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &low), 0);
    sp_err err = put(&r);
    assert_int_equal(setrlimit(RLIMIT_FSIZE, &was), 0);
    signal(SIGXFSZ, handler);
    assert_int_equal(err, SP_IO);
    assert_int_equal(access(r.fresh, F_OK), -1);
    assert_int_equal(get(&r, NULL), SP_NOTFOUND);
    assert_int_equal(put(&r), SP_OK);
    end(&r);
}

void test_packed_budget(void **state)
{
    rig r;
    sp_packed_file *all;
    size_t n;
    (void)state;
    start(&r);
    r.cfg.cap_bytes = N_BYTES; /* not its head */
    assert_int_equal(put(&r), SP_LIMIT);
    r.cfg.cap_bytes = 3 * (uint64_t)N_BYTES; /* two of them, not three */
    for (uint8_t model = 1; model <= 2; model++) {
        r.key = key_of(model);
        assert_int_equal(put(&r), SP_OK);
        sp_packed_path(r.path, sizeof r.path, r.cfg.dir, &r.key, SP_PACKED_TAIL);
        const struct timespec when[2] = {{100 + model, 0}, {100 + model, 0}};
        assert_int_equal(utimensat(AT_FDCWD, r.path, when, 0), 0);
    }
    r.key = key_of(1);
    assert_int_equal(get(&r, NULL), SP_OK); /* the first is used: the second goes */
    r.key = key_of(3);
    assert_int_equal(put(&r), SP_OK);
    assert_int_equal(put(&r), SP_OK); /* again: none has to go for it */
    r.key = key_of(2);
    assert_int_equal(get(&r, NULL), SP_NOTFOUND);
    assert_int_equal(sp_packed_list(&all, &n, r.cfg.dir, NULL), SP_OK);
    assert_int_equal(n, 2);
    sp_mem_free(all);
    end(&r);
}

void test_packed_writers(void **state)
{
    const _Atomic bool stop = true;
    rig r;
    (void)state;
    start(&r);
    assert_int_equal(put(&r), SP_OK);
    int fd = open(r.fresh, O_RDWR | O_CREAT, 0600);
    assert_int_equal(flock(fd, LOCK_EX | LOCK_NB), 0); /* another process is at it */
    assert_int_equal(put(&r), SP_AGAIN);
    assert_int_equal(access(r.fresh, F_OK), 0);
    close(fd); /* ... and died: what it left is no hindrance, nor stays where others are written */
    sp_packed_key own = r.key;
    r.key = key_of(9);
    assert_int_equal(put(&r), SP_OK);
    assert_int_equal(access(r.fresh, F_OK), -1);
    r.key = own;
    assert_int_equal(sp_packed_write(r.from, &r.key, &r.cfg, &stop, NULL), SP_CANCEL);
    assert_int_equal(access(r.fresh, F_OK), -1);
    assert_int_equal(get(&r, NULL), SP_OK);
    end(&r);
}

/* Where this fails the layout has changed: files of packed weights would be read wrongly. Raise the
 * number in `layout` of cpu.c, and put the new digest here. */
void test_packed_layout(void **state)
{
    enum { ROWS = 40, K = 768 };
    uint64_t all = 0;
    sp_dev *dev;
    (void)state;
    assert_int_equal(
        sp_dev_open(&dev, &(sp_dev_cfg){.name = "cpu", .n_thread = 1, .mask = SP_CPU_LEVELS - 1},
                    NULL),
        SP_OK);
    for (int type = 0; type < SP_TYPE_COUNT; type++) {
        uint64_t seed = (uint64_t)type;
        sp_dev_weight w;
        if (!sp_type_get(type))
            continue;
        size_t n = ROWS * sp_type_row_bytes(type, K),
               n_packed = dev->ops->weight_bytes(dev, type, ROWS, K);
        uint8_t *rows = malloc(n);
        char *packed = sp_mem_raw(n_packed ? n_packed : 1);
        for (size_t i = 0; i < n; i++)
            rows[i] = (uint8_t)test_rand(&seed);
        assert_int_equal(dev->ops->weight_put(dev, &w, packed, type, rows, ROWS, K), SP_OK);
        all = XXH3_64bits_withSeed(packed, n_packed, all);
        free(rows);
        sp_mem_free(packed);
    }
    assert_string_equal(dev->ops->layout, "tiles of 16 rows, 1");
    assert_int_equal(all, 0x1267e59a9fc0e4b1);
    dev->ops->close(dev);
}
