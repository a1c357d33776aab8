/* base: what a confined program can and cannot do. */
#include "test.h"

#include "base/sandbox.h"

#include <linux/landlock.h>
#include <stdio.h>
#include <stdlib.h>
#include <sys/resource.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

typedef struct ran {
    sp_buf out, said;
    int code;
    sp_err err;
    sp_diag d;
} ran;

static ran run_shell(const char *script, const char *in, uint32_t seconds, size_t out_bytes)
{
    const char *const argv[] = {"sh", "-c", script, NULL};
    const sp_sandbox_cfg cfg = {.argv = argv, .in = in, .n_in = strlen(in), .seconds = seconds, .memory_bytes = 1 << 28, .out_bytes = out_bytes};
    ran r = {.code = -1};
    r.err = sp_sandbox_run(&r.out, &r.said, &r.code, &cfg, &r.d);
    return r;
}

static void end(ran *r)
{
    sp_buf_fini(&r->out);
    sp_buf_fini(&r->said);
}

static void says(const char *script, const char *in, const char *want)
{
    ran r = run_shell(script, in, 20, 1 << 20);
    if (r.err != SP_OK || strcmp(sp_buf_str(&r.out), want) != 0)
        fail_msg("%s: %s %s, [%s] [%s], not [%s]", script, sp_err_name(r.err), r.d.msg, sp_buf_str(&r.out), sp_buf_str(&r.said), want);
    end(&r);
}

/* Nothing of this process: no file of its user, no descriptor, no network, no place to write. */
static void test_confined(void **state)
{
    (void)state;
    char path[] = "/tmp/sp_secretXXXXXX", script[300];
    int fd = mkstemp(path);
    assert_int_equal(write(fd, "secret", 6), 6);
    assert_int_equal(fchmod(fd, 0600), 0);
    says("cat", "what it is given", "what it is given");
    snprintf(script, sizeof script, "cat %s 2>/dev/null || echo no", path);
    says(script, "", "no\n");
    if (syscall(SYS_landlock_create_ruleset, NULL, 0, LANDLOCK_CREATE_RULESET_VERSION) >= 1) { /* readable by all, and still not by it */
        assert_int_equal(fchmod(fd, 0644), 0);
        says(script, "", "no\n");
    }
    setenv("SPARING_SECRET", "x", 1);
    says("env | grep -c SECRET; true", "", "0\n");
    snprintf(script, sizeof script, "test -e /proc/self/fd/%d && echo open || echo shut", fd);
    says(script, "", "shut\n");
    snprintf(script, sizeof script, "(echo x > %s.new) 2>/dev/null || echo no", path);
    says(script, "", "no\n");
    says("(echo x > /dev/shm/sp_new) 2>/dev/null || echo no", "", "no\n");
    says("kill -0 1 2>/dev/null || echo no", "", "no\n");
    says("ulimit -c; ulimit -f; ulimit -n", "", "0\n0\n32\n");
    close(fd);
    unlink(path);
}

static void test_confined_user(void **state)
{
    (void)state;
    says("test $(id -u) = 0 && echo root || echo other", "", "other\n"); /* nobody, or unmapped in a namespace of its own */
}

static void test_confined_budget(void **state)
{
    (void)state;
    ran r = run_shell("sleep 30", "", 1, 100);
    assert_int_equal(r.err, SP_TIMEOUT);
    end(&r);
    r = run_shell("while :; do echo 0123456789; done", "", 20, 1000);
    assert_int_equal(r.err, SP_LIMIT);
    assert_non_null(strstr(r.d.msg, "1000 bytes"));
    end(&r);
    r = run_shell("exit 7", "", 20, 100);
    assert_true(r.err == SP_OK && r.code == 7);
    end(&r);
    r = run_shell("echo said >&2; kill -9 $$", "", 20, 100); /* refused: it may signal nobody, itself included */
    assert_true(r.err == SP_OK && strncmp(sp_buf_str(&r.said), "said", 4) == 0);
    end(&r);
    const char *const nothing[] = {"sp-no-such-program", NULL};
    const sp_sandbox_cfg cfg = {.argv = nothing, .in = "", .seconds = 5, .memory_bytes = 1 << 28, .out_bytes = 10};
    sp_diag d = {0};
    int code;
    sp_buf out = {0}, said = {0};
    assert_int_equal(sp_sandbox_run(&out, &said, &code, &cfg, &d), SP_NOTFOUND);
    atomic_bool stop = true;
    const char *const slow[] = {"sleep", "30", NULL};
    const sp_sandbox_cfg stopped = {.argv = slow, .in = "", .seconds = 30, .memory_bytes = 1 << 28, .out_bytes = 10, .stop = &stop};
    assert_int_equal(sp_sandbox_run(&out, &said, &code, &stopped, &d), SP_CANCEL);
    sp_buf_fini(&out);
    sp_buf_fini(&said);
}

/* coreutils' nice says how urgent it is. */
static void test_confined_gives_way(void **state)
{
    (void)state;
    const char *const argv[] = {"nice", NULL};
    char usual[16];
    snprintf(usual, sizeof usual, "%d\n", getpriority(PRIO_PROCESS, 0));
    for (int i = 0; i < 2; i++) {
        const sp_sandbox_cfg cfg = {.argv = argv, .in = "", .seconds = 20, .wait_seconds = 120, .memory_bytes = 1 << 28, .out_bytes = 100, .gives_way = i};
        sp_buf out = {0}, said = {0};
        sp_diag d = {0};
        int code;
        assert_int_equal(sp_sandbox_run(&out, &said, &code, &cfg, &d), SP_OK);
        assert_string_equal(sp_buf_str(&out), i ? "19\n" : usual);
        sp_buf_fini(&out);
        sp_buf_fini(&said);
    }
}

int base_sandbox(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_confined), cmocka_unit_test(test_confined_user), cmocka_unit_test(test_confined_budget),
                                       cmocka_unit_test(test_confined_gives_way)};
    return cmocka_run_group_tests_name("sandbox", tests, NULL, NULL);
}
