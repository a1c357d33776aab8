/* base: buffers, maps, UTF-8, readers, f16, pool, options, faults. */
#include "test.h"

#include "base/buf.h"
#include "base/fault.h"
#include "base/host.h"
#include "base/map.h"
#include "base/mem.h"
#include "base/nearest.h"
#include "base/opt.h"
#include "base/pool.h"
#include "base/rd.h"
#include "base/sha256.h"
#include "base/utf8.h"

#include <pthread.h>
#include <sched.h>
#include <signal.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/stat.h>
#include <unistd.h>

static void test_buf_json(void **state)
{
    (void)state;
    sp_buf b = {0};
    const char in[] = "a\"\\\n\t\x01\x7f\xc3\xa9\xff\xe2\x82";
    sp_buf_json_str(&b, in, sizeof in - 1);
    assert_string_equal(b.p, "\"a\\\"\\\\\\n\\u0009\\u0001\\u007f\xc3\xa9\xef\xbf\xbd\xef\xbf\xbd\xef\xbf\xbd\"");
    sp_buf_clear(&b);
    sp_buf_json_num(&b, 0.0 / 0.0);
    assert_string_equal(b.p, "null");
    sp_buf_clear(&b);
    sp_buf_base64(&b, "\xff\xfe\x00", 3); /* RFC 4648: sections 4 and 10 */
    sp_buf_base64(&b, "foob", 4);
    sp_buf_base64(&b, "fooba", 5);
    sp_buf_base64(&b, "", 0);
    assert_string_equal(sp_buf_str(&b), "//4AZm9vYg==Zm9vYmE=");
    sp_buf_clear(&b);
    sp_buf_puts(&b, "abcdef");
    sp_buf_drop(&b, 4);
    assert_string_equal(b.p, "ef");
    sp_buf_fini(&b);
}

static void test_buf_out_of_memory(void **state)
{
    (void)state;
    sp_buf b = {0};
    sp_fault_arm(SP_FAULT_MEM, 1);
    sp_buf_puts(&b, "x");
    sp_fault_arm(SP_FAULT_MEM, 0);
    assert_true(b.failed);
    sp_buf_puts(&b, "y");
    assert_string_equal(sp_buf_str(&b), "");
    sp_buf_fini(&b);
}

static void test_mem_has_room(void **state)
{
    (void)state;
    size_t *list = NULL, cap = 0;
    for (size_t i = 0; i < 1000; i++) {
        assert_true(sp_mem_has_room(&list, &cap, i, sizeof *list));
        assert_true(i < cap);
        list[i] = i;
    }
    for (size_t i = 0; i < 1000; i++)
        assert_int_equal(list[i], i);
    size_t had = cap, *was = list;
    assert_false(sp_mem_has_room(&list, &cap, cap, SIZE_MAX / 8)); /* more than can be counted */
    sp_fault_arm(SP_FAULT_MEM, 1);
    assert_false(sp_mem_has_room(&list, &cap, cap, sizeof *list));
    assert_true(sp_mem_has_room(&list, &cap, cap - 1, sizeof *list));
    sp_fault_arm(SP_FAULT_MEM, 0);
    assert_ptr_equal(list, was);
    assert_int_equal(cap, had);
    sp_mem_free(list);
}

static void test_utf8(void **state)
{
    (void)state;
    static const char *const bad[] = {"\x80", "\xc0\x80", "\xc1\xbf", "\xe0\x80\x80", "\xed\xa0\x80", "\xf4\x90\x80\x80", "\xf5\x80\x80\x80", "\xe2\x82", "\xff"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++)
        assert_false(sp_utf8_is_valid(bad[i], strlen(bad[i])));
    for (uint32_t cp = 0; cp < 0x110000; cp += 13) {
        char out[4];
        uint32_t back;
        size_t n = sp_utf8_encode(out, cp);
        if (cp >= 0xd800 && cp < 0xe000)
            continue;
        assert_int_equal(sp_utf8_decode(&back, out, n), n);
        assert_int_equal(back, cp);
        for (size_t cut = 1; cut < n; cut++)
            assert_int_equal(sp_utf8_tail(out, cut), cut); /* may still be completed */
        assert_int_equal(sp_utf8_tail(out, n), 0);
    }
}

static void test_map_against_arrays(void **state)
{
    (void)state;
    static char keys[500][12];
    sp_map m, u;
    assert_int_equal(sp_map_init(&m, 4), SP_OK);
    assert_int_equal(sp_map_init(&u, 4), SP_OK);
    for (uint32_t i = 0; i < 500; i++) {
        snprintf(keys[i], sizeof keys[i], "key %u", i * 7919);
        assert_int_equal(sp_map_set(&m, keys[i], strlen(keys[i]), i), SP_OK);
        assert_int_equal(sp_map_set_u64(&u, (uint64_t)i << 32 | i, i), SP_OK);
    }
    for (uint32_t i = 0; i < 500; i++) {
        uint32_t v;
        assert_true(sp_map_find(&m, keys[i], strlen(keys[i]), &v) && v == i);
        assert_true(sp_map_find_u64(&u, (uint64_t)i << 32 | i, &v) && v == i);
        assert_false(sp_map_find(&m, keys[i], strlen(keys[i]) - 1, &v) && v == i);
        assert_false(sp_map_find_u64(&u, (uint64_t)i << 32 | (i + 1), &v));
    }
    sp_map_fini(&m);
    sp_map_fini(&u);
}

static void test_reader_never_passes_the_end(void **state)
{
    (void)state;
    const uint8_t bytes[] = {1, 2, 3, 4, 5};
    sp_rd r = sp_rd_make(bytes, sizeof bytes);
    assert_int_equal(sp_rd_u32(&r), 0x04030201);
    assert_int_equal(sp_rd_u64(&r), 0);
    assert_true(r.failed);
    assert_int_equal(sp_rd_u8(&r), 0);
    assert_null(sp_rd_bytes(&r, 1));
    r = sp_rd_make(bytes, sizeof bytes);
    assert_null(sp_rd_bytes(&r, UINT64_MAX));
}

static void mark(void *arg, size_t begin, size_t end, size_t i_thread)
{
    _Atomic int *seen = arg;
    (void)i_thread;
    for (size_t i = begin; i < end; i++)
        seen[i]++;
}

static void test_pool_does_each_item_once(void **state)
{
    (void)state;
    static _Atomic int seen[5000];
    for (size_t n_thread = 1; n_thread <= 4; n_thread++) {
        sp_pool *p;
        assert_int_equal(sp_pool_new(&p, n_thread, NULL), SP_OK);
        for (size_t n = 0; n < 5000; n = n * 2 + 1) {
            memset((void *)seen, 0, sizeof seen);
            sp_pool_run(p, mark, seen, n, 7);
            for (size_t i = 0; i < 5000; i++)
                assert_int_equal(seen[i], i < n);
        }
        sp_pool_free(p);
    }
}

/* A thread that ends its first piece when all other items are done, as a core that is much slower. */
typedef struct slow_job {
    size_t slow, n;
    _Atomic size_t done, by[2]; /* items; of each thread */
    _Atomic size_t piece;       /* largest of the slow thread's pieces */
} slow_job;

static void work_slowly(void *arg, size_t begin, size_t end, size_t i_thread)
{
    slow_job *j = arg;
    if (i_thread == j->slow) {
        j->piece = end - begin > j->piece ? end - begin : j->piece;
        while (j->done < j->n - (end - begin))
            sched_yield();
    }
    j->by[i_thread] += end - begin;
    j->done += end - begin;
}

/* Cores of two speeds: what the slow one has not begun, the other does. An even split would hang. */
static void test_pool_gives_a_slow_core_less(void **state)
{
    sp_pool *p;
    (void)state;
    assert_int_equal(sp_pool_new(&p, 2, NULL), SP_OK);
    for (size_t n = 64; n <= 1024; n *= 4)
        for (size_t slow = 0; slow < 2; slow++) {
            slow_job j = {.slow = slow, .n = n};
            sp_pool_run(p, work_slowly, &j, n, 1);
            assert_int_equal(j.done, n);
            assert_int_equal(j.by[slow], j.piece); /* one piece, or none */
            assert_true(j.piece <= n / 16);
        }
    sp_pool_free(p);
}

/* A worker that the system does not run: a signal's handler holds it, for ten seconds at most. */
static _Atomic int hold_worker; /* 1: it will be, 2: it is, 3: no longer */
static _Atomic bool knows_worker;
static pthread_t the_worker;

static void hold(int number)
{
    (void)number;
    atomic_store(&hold_worker, 2);
    for (int i = 0; i < 10000 && atomic_load(&hold_worker) == 2; i++)
        nanosleep(&(struct timespec){0, 1000000}, NULL);
    atomic_store(&hold_worker, 3);
}

static void meet_worker(void *arg, size_t begin, size_t end, size_t i_thread)
{
    mark(arg, begin, end, i_thread);
    if (i_thread == 1 && !atomic_load(&knows_worker)) {
        the_worker = pthread_self();
        atomic_store(&knows_worker, true);
    }
    while (i_thread == 0 && !atomic_load(&knows_worker)) /* leaves it a piece */
        sched_yield();
}

static void test_pool_does_not_wait_for_a_thread_without_a_piece(void **state)
{
    static _Atomic int seen[64];
    const struct sigaction held = {.sa_handler = hold};
    struct sigaction before;
    sp_pool *p;
    (void)state;
    assert_int_equal(sp_pool_new(&p, 2, NULL), SP_OK);
    assert_int_equal(sigaction(SIGUSR1, &held, &before), 0);
    sp_pool_run(p, meet_worker, seen, 64, 1);
    atomic_store(&hold_worker, 1);
    assert_int_equal(pthread_kill(the_worker, SIGUSR1), 0);
    while (atomic_load(&hold_worker) != 2)
        sched_yield();
    for (int i = 0; i < 100; i++)
        sp_pool_run(p, mark, seen, 64, 1);
    assert_int_equal(atomic_load(&hold_worker), 2);
    atomic_store(&hold_worker, 0);
    for (int i = 0; i < 100; i++) /* it comes back, into a run of which it has seen nothing */
        sp_pool_run(p, mark, seen, 64, 1);
    for (size_t i = 0; i < 64; i++)
        assert_int_equal(seen[i], 201);
    sp_pool_free(p);
    assert_int_equal(sigaction(SIGUSR1, &before, NULL), 0);
}

static void test_sha256(void **state)
{
    (void)state;
    sp_sha256 h;
    char hex[65];
    const sp_sha256_part parts[] = {{"a", 1}, {"bc", 2}};
    assert_int_equal(sp_sha256_of(&h, parts, 2), SP_OK);
    sp_sha256_hex(hex, &h);
    assert_string_equal(hex, "ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad");
}

static const sp_opt table[] = {
    {.name = "size", .kind = SP_OPT_BYTES, .fallback = "2K", .min = 1, .max = 1e9, .commands = 1},
    {.name = "kv-type", .letter = 'k', .commands = 1, .values = "file env q8 q4"},
    {.name = "count", .letter = 'n', .kind = SP_OPT_INT, .fallback = "3", .max = 9, .commands = 1,
     .profile = "small=1"},
    {.name = "fast", .kind = SP_OPT_FLAG, .commands = 1},
    {.name = "config", .commands = 1},
    {.name = "other", .commands = 2},
    {.name = "list", .kind = SP_OPT_LIST, .commands = 1, .values = "one two three"},
    {.name = "depends", .commands = 1, .needs = "list"},
    {.name = "profile", .commands = 1, .values = "small other"},
};

static sp_err parse(sp_opts **o, sp_diag *d, char *const *argv)
{
    int argc = 0;
    while (argv[argc])
        argc++;
    return sp_opts_parse(o, table, sizeof table / sizeof table[0], 1, argc, argv, 1, NULL, d);
}

static void test_options_precedence(void **state)
{
    (void)state;
    char path[] = "/tmp/sparing-test-XXXXXX";
    int fd = mkstemp(path);
    FILE *f = fdopen(fd, "w");
    fputs("count: 5\nkv_type: file\nsize: 1M\n", f);
    fclose(f);
    setenv("SPARING_KV_TYPE", "env", 1);
    sp_opts *o;
    sp_diag d = {0};
    assert_int_equal(parse(&o, &d, (char *[]){"x", "--config", path, "-n4", "--fast", "rest", NULL}), SP_OK);
    assert_int_equal(sp_opt_int(o, "count"), 4);
    assert_int_equal(sp_opt_origin_of(o, "count"), SP_ORIGIN_FLAG);
    assert_string_equal(sp_opt_str(o, "kv-type"), "env");
    assert_int_equal(sp_opt_bytes(o, "size"), 1 << 20);
    assert_int_equal(sp_opt_origin_of(o, "size"), SP_ORIGIN_FILE);
    assert_true(sp_opt_flag(o, "fast"));
    const char *const *rest;
    assert_int_equal(sp_opts_rest(o, &rest), 1);
    sp_opts_free(o);
    unsetenv("SPARING_KV_TYPE");
    f = fopen(path, "w");
    fputs("no_such_key: 5\n", f);
    fclose(f);
    assert_int_equal(parse(&o, &d, (char *[]){"x", "--config", path, NULL}), SP_FORMAT);
    remove(path);
}

static void test_options_of_a_profile(void **state)
{
    static const struct {
        char *arg[4];
        int count;
        sp_opt_origin origin;
    } t[] = {{{"x", NULL}, 3, SP_ORIGIN_DEFAULT},
             {{"x", "--profile=small", NULL}, 1, SP_ORIGIN_PROFILE},
             {{"x", "--profile=small", "-n4", NULL}, 4, SP_ORIGIN_FLAG},
             {{"x", "--profile=other", NULL}, 3, SP_ORIGIN_DEFAULT}};
    sp_opts *o;
    sp_diag d = {0};
    (void)state;
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        assert_int_equal(parse(&o, &d, t[i].arg), SP_OK);
        assert_int_equal(sp_opt_int(o, "count"), t[i].count);
        assert_int_equal(sp_opt_origin_of(o, "count"), t[i].origin);
        sp_opts_free(o);
    }
    setenv("SPARING_PROFILE", "small", 1); /* for commands that have profiles */
    assert_int_equal(parse(&o, &d, t[0].arg), SP_OK);
    assert_int_equal(sp_opt_int(o, "count"), 1);
    sp_opts_free(o);
    setenv("SPARING_COUNT", "2", 1);
    assert_int_equal(parse(&o, &d, t[0].arg), SP_OK);
    assert_int_equal(sp_opt_int(o, "count"), 2);
    sp_opts_free(o);
    unsetenv("SPARING_COUNT");
    assert_int_equal(sp_opts_parse(&o, table, sizeof table / sizeof table[0], 2, 1, t[0].arg, 0, NULL, &d), SP_OK);
    assert_int_equal(sp_opt_int(o, "count"), 3);
    sp_opts_free(o);
    unsetenv("SPARING_PROFILE");
}

static void test_options_refuse(void **state)
{
    (void)state;
    sp_opts *o;
    sp_diag d = {0};
    char *const bad[][4] = {{"x", "--count=10", NULL}, {"x", "--count", NULL},  {"x", "--nope", NULL}, {"x", "--size=1X", NULL},
                            {"x", "a", "b", NULL},     {"x", "--other=1", NULL}, {"x", "-z", NULL},     {"x", "--fast=maybe", NULL}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(parse(&o, &d, bad[i]), SP_INVAL);
        assert_true(strlen(d.msg) > 10);
    }
}

static void test_options_name_what_was_meant(void **state)
{
    (void)state;
    sp_opts *o;
    sp_diag d = {0};
    static const struct {
        const char *arg, *says;
    } bad[] = {{"--cuont=1", "x has no option --cuont. Did you mean --count?"},
               {"--zzzzzz=1", "x has no option --zzzzzz; see --help"},
               {"--kv-type=q88", "--kv-type q88: must be one of file, env, q8, q4. Did you mean q8?"},
               {"--list=one,tow", "--list one,tow: must be one of one, two, three. Did you mean two?"},
               {"--depends=x", "--depends has no effect without --list"},
               {"--other=x", "x has no option --other, other commands have it"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        assert_int_equal(parse(&o, &d, (char *[]){"x", (char *)bad[i].arg, NULL}), SP_INVAL);
        assert_string_equal(d.msg, bad[i].says);
    }
    assert_int_equal(parse(&o, &d, (char *[]){"x", "--depends=x", "--list=two,one", NULL}), SP_OK);
    sp_opts_free(o);
}

static void test_nearest(void **state)
{
    (void)state;
    const char *const names[] = {"serve", "search", "models", "a"};
    static const struct {
        const char *word, *is;
    } ask[] = {{"srve", "serve"}, {"sevre", "serve"},  {"serve", "serve"}, {"serch", "search"},
               {"mod", "models"}, {"se", NULL},        {"b", NULL},        {"", NULL},
               {"xyz", NULL},     {"modelsss", "models"}};
    for (size_t i = 0; i < sizeof ask / sizeof ask[0]; i++) {
        const char *got = sp_nearest(ask[i].word, names, 4);
        assert_true(got == ask[i].is || (got && ask[i].is && strcmp(got, ask[i].is) == 0));
    }
    char word[100];
    memset(word, 'a', sizeof word - 1);
    for (size_t n = 0; n < sizeof word; n++) { /* no length reads or writes past the rows */
        word[n] = 0;
        (void)sp_nearest(word, names, 4);
        word[n] = 'a';
    }
}

static void put_file(const char *root, const char *path, const char *text)
{
    char full[512];
    snprintf(full, sizeof full, "%s%s", root, path);
    for (char *p = full + strlen(root) + 1; (p = strchr(p, '/')); *p++ = '/') {
        *p = 0;
        mkdir(full, 0700);
    }
    FILE *f = fopen(full, "w");
    assert_non_null(f);
    fputs(text, f);
    fclose(f);
}

/* Limits of a machine that is not this one, in both versions of control groups. */
static void test_host_limits(void **state)
{
    (void)state;
    sp_host h, here;
    sp_host_read(&here, "");
    assert_true(here.n_cpu >= 1 && here.n_core >= 1 && here.n_core <= here.n_cpu && here.n_thread >= 1);
    assert_true(here.free_bytes > 1 << 20);

    char root[] = "/tmp/sparing-host-XXXXXX", cmd[64];
    assert_non_null(mkdtemp(root));
    sp_host_read(&h, root); /* nothing to read */
    assert_int_equal(h.n_thread, h.n_core);
    assert_true(h.free_bytes == SIZE_MAX && h.n_numa == 0 && h.l2_bytes == 0 && h.cpu[0] == 0);
    put_file(root, "/proc/cpuinfo", "processor\t: 0\nmodel name\t: Test CPU 3000\nflags\t: x\n");
    put_file(root, "/proc/meminfo", "MemTotal:  100 kB\nMemAvailable:    4096 kB\n");
    for (int i = 0; i < 64; i++) { /* two threads a core, all on one core */
        char path[128];
        snprintf(path, sizeof path, "/sys/devices/system/cpu/cpu%d/topology/core_id", i);
        put_file(root, path, "7\n");
    }
    put_file(root, "/sys/devices/system/cpu/cpu0/cache/index0/level", "2\n");
    put_file(root, "/sys/devices/system/cpu/cpu0/cache/index0/size", "512K\n");
    put_file(root, "/sys/devices/system/cpu/cpu0/cache/index1/level", "3\n");
    put_file(root, "/sys/devices/system/cpu/cpu0/cache/index1/size", "32M\n");
    put_file(root, "/sys/devices/system/node/node0/cpulist", "0-3\n");
    put_file(root, "/sys/devices/system/node/node1/cpulist", "4-7\n");
    sp_host_read(&h, root);
    assert_string_equal(h.cpu, "Test CPU 3000");
    assert_int_equal(h.free_bytes, 4096 * 1024);
    assert_true(h.n_core == 1 && h.n_thread == 1 && h.n_numa == 2);
    assert_true(h.l2_bytes == 512 << 10 && h.l3_bytes == 32 << 20);

    put_file(root, "/proc/self/cgroup", "0::/a/b\n"); /* the tighter limit is the parent's */
    put_file(root, "/sys/fs/cgroup/a/b/memory.max", "max\n");
    put_file(root, "/sys/fs/cgroup/a/memory.max", "3000000\n");
    put_file(root, "/sys/fs/cgroup/a/memory.current", "1000000\n");
    sp_host_read(&h, root);
    assert_int_equal(h.free_bytes, 2000000);
    snprintf(cmd, sizeof cmd, "rm -rf %s/sys/devices/system/cpu", root); /* cores are distinct again */
    assert_int_equal(system(cmd), 0);
    put_file(root, "/sys/fs/cgroup/a/b/cpu.max", "50000 100000\n");
    sp_host_read(&h, root);
    assert_int_equal(h.n_thread, 1);

    put_file(root, "/proc/self/cgroup", "4:memory:/c\n3:cpu,cpuacct:/c\n");
    put_file(root, "/sys/fs/cgroup/memory/c/memory.limit_in_bytes", "500000\n");
    put_file(root, "/sys/fs/cgroup/memory/c/memory.usage_in_bytes", "600000\n");
    put_file(root, "/sys/fs/cgroup/cpu/c/cpu.cfs_quota_us", "-1\n");
    put_file(root, "/sys/fs/cgroup/cpu/c/cpu.cfs_period_us", "100000\n");
    sp_host_read(&h, root);
    assert_true(h.free_bytes == 1 && h.n_thread == h.n_core); /* over the limit: nothing is free */
    snprintf(cmd, sizeof cmd, "rm -rf %s", root);
    assert_int_equal(system(cmd), 0);
}

int base_sandbox(void); /* base_sandbox.c */

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_host_limits), cmocka_unit_test(test_buf_json), cmocka_unit_test(test_buf_out_of_memory), cmocka_unit_test(test_mem_has_room), cmocka_unit_test(test_utf8),
        cmocka_unit_test(test_map_against_arrays), cmocka_unit_test(test_reader_never_passes_the_end),
        cmocka_unit_test(test_pool_does_each_item_once),
        cmocka_unit_test(test_pool_gives_a_slow_core_less),
        cmocka_unit_test(test_pool_does_not_wait_for_a_thread_without_a_piece), cmocka_unit_test(test_sha256),
        cmocka_unit_test(test_options_precedence), cmocka_unit_test(test_options_of_a_profile), cmocka_unit_test(test_options_refuse),
        cmocka_unit_test(test_options_name_what_was_meant),
        cmocka_unit_test(test_nearest)};
    return cmocka_run_group_tests_name("base", tests, NULL, NULL) + base_sandbox();
}
