/* The file of prices, the counters of electricity, and budgets against a naive account of them. */
#include "test.h"

#include "obs/power.h"
#include "pipe/budget.h"
#include "pipe/yaml.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <sys/stat.h>
#include <time.h>
#include <unistd.h>

void test_prices(void **state);
void test_prices_many(void **state);
void test_prices_wrong(void **state);
void test_power(void **state);
void test_budgets(void **state);

static void write_text(const char *path, const char *text)
{
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs(text, f);
    assert_int_equal(fclose(f), 0);
}

static bool is_near(double a, double b)
{
    return fabs(a - b) <= 1e-12 + 1e-9 * fabs(b);
}

void test_prices(void **state)
{
    char path[] = "/tmp/sparing-prices-XXXXXX";
    sp_prices *p = NULL;
    sp_diag d = {0};
    (void)state;
    close(mkstemp(path));
    write_text(path, "currency: EUR\nmodels:\n"
                     "  - {role: generation, model: big, in: 2, cached: 0.5, out: 10}\n"
                     "  - {role: generation, model: '*', in: 1}\n"
                     "  - {role: embedding, model: small, in: 0.02}\n"
                     "machine: {hour: 3.6, kwh: 0.36, watts: 100}\n"
                     "budgets:\n  - {tenant: a, day: 1}\n  - {tenant: '*', month: 5}\n");
    assert_int_equal(sp_prices_load(&p, path, &d), SP_OK);
    sp_price big = sp_prices_of(p, SP_PRICE_GENERATION, "big"),
             other = sp_prices_of(p, SP_PRICE_GENERATION, "other"),
             away = sp_prices_of(p, SP_PRICE_UPSTREAM, "big"),
             text = sp_prices_of(p, SP_PRICE_EMBEDDING, "small");
    assert_true(is_near(sp_price_tokens(&big, 1000, 400, 50), 600 * 2e-6 + 400 * .5e-6 + 50e-5));
    assert_true(other.in == 1 && other.cached == 1 && other.out == 0);
    assert_true(away.in == 0 && away.out == 0 && text.in == 0.02);
    /* a second of the machine, and a megajoule */
    assert_true(is_near(sp_prices_machine(p, 1000, 0), 0.001));
    assert_true(is_near(sp_prices_machine(p, 0, 1e6), 0.1));
    assert_true(*sp_prices_budget(p, "a")->day == 1 && !sp_prices_budget(p, "a")->month);
    assert_true(*sp_prices_budget(p, "b")->month == 5);
    assert_true(sp_prices_of(NULL, SP_PRICE_UPSTREAM, "x").in == 0 && !sp_prices_budget(NULL, "a"));
    sp_prices_free(p);
    unlink(path);
}

/* As many rows as a file may have: each tenant finds its own, and others the row of all. */
void test_prices_many(void **state)
{
    char path[] = "/tmp/sparing-prices-XXXXXX", name[16];
    sp_prices *p = NULL;
    sp_diag d = {0};
    (void)state;
    close(mkstemp(path));
    FILE *f = fopen(path, "w");
    assert_non_null(f);
    fputs("budgets:\n  - {tenant: '*', day: 9999}\n", f);
    for (unsigned i = 1; i < SP_BUDGETS; i++)
        fprintf(f, "  - {tenant: t%u, day: %u}\n", i, i);
    assert_int_equal(fclose(f), 0);
    assert_int_equal(sp_prices_load(&p, path, &d), SP_OK);
    for (unsigned i = 1; i < 2 * SP_BUDGETS; i++) {
        snprintf(name, sizeof name, "t%u", i);
        assert_true(*sp_prices_budget(p, name)->day == (i < SP_BUDGETS ? i : 9999));
    }
    sp_prices_free(p);
    unlink(path);
}

void test_prices_wrong(void **state)
{
    static const struct {
        const char *text, *said;
    } bad[] = {
        {"models:\n  - {role: generation, model: a, in: 1}\n  - role: generation\n    model: b\n"
         "    in: -1\n",
         ":5: models: in: "},
        {"models:\n  - {role: generation, model: a, out: .nan}\n", "line: 2"},
        {"models:\n  - {role: rerank, model: a, out: 1}\n", ":2: models: out: "},
        {"models:\n  - {role: upstream, model: a}\n  - {role: upstream, model: a}\n",
         ":3: models: model: "},
        {"machine:\n  hour: 1\n  kwh: -2\n", ":3: machine: kwh: "},
        {"machine: {kwh: 1, rapl: here}\n", ":1: machine: rapl: "},
        {"budgets:\n  - {tenant: a, day: 1}\n  - tenant: a\n    day: 2\n",
         ":3: budgets: tenant: this tenant"},
        {"budgets:\n  - tenant: b\n", ":2: budgets: tenant: its budget"},
        {"models:\n  - {role: cooking, model: a}\n", "role"},
        {"modells: []\n", "modells"}};
    char path[] = "/tmp/sparing-prices-XXXXXX";
    (void)state;
    close(mkstemp(path));
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        sp_prices *p = NULL;
        sp_diag d = {0};
        write_text(path, bad[i].text);
        assert_int_equal(sp_prices_load(&p, path, &d), SP_FORMAT);
        if (!strstr(d.msg, bad[i].said))
            fail_msg("%s: not %s", d.msg, bad[i].said);
    }
    unlink(path);
}

/* --- electricity ------------------------------------------------------------------------------ */

static void put_counter(const char *folder, const char *domain, const char *name, double joules)
{
    char path[300], text[40];
    snprintf(path, sizeof path, "%s/%s", folder, domain);
    mkdir(path, 0700);
    snprintf(path, sizeof path, "%s/%s/name", folder, domain);
    snprintf(text, sizeof text, "%s\n", name);
    write_text(path, text);
    snprintf(path, sizeof path, "%s/%s/max_energy_range_uj", folder, domain);
    write_text(path, "1000000000\n");
    snprintf(path, sizeof path, "%s/%s/energy_uj", folder, domain);
    snprintf(text, sizeof text, "%.0f\n", joules * 1e6);
    write_text(path, text);
}

static void remove_counter(const char *folder, const char *domain)
{
    static const char *const file[] = {"name", "max_energy_range_uj", "energy_uj"};
    char path[300];
    for (size_t i = 0; i < 3; i++) {
        snprintf(path, sizeof path, "%s/%s/%s", folder, domain, file[i]);
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/%s", folder, domain);
    rmdir(path);
}

void test_power(void **state)
{
    char dir[] = "/tmp/sparing-power-XXXXXX";
    sp_power *p = NULL;
    sp_diag d = {0};
    (void)state;
    assert_non_null(mkdtemp(dir));
    assert_int_equal(sp_power_open(&p, dir, -1, &d), SP_NOTFOUND);
    assert_int_equal(sp_power_open(&p, "/nowhere", 40, &d), SP_OK);
    sp_power_mark from = sp_power_now(p);
    assert_true(!sp_power_is_measured(p) && sp_power_since(p, &from) == 40);
    sp_power_free(p);
    /* a package with its memory beside it; the cores are within the package */
    put_counter(dir, "intel-rapl:0", "package-0", 990);
    put_counter(dir, "intel-rapl:0:0", "core", 5);
    put_counter(dir, "intel-rapl:0:1", "dram", 10);
    assert_int_equal(sp_power_open(&p, dir, -1, &d), SP_OK);
    assert_true(sp_power_is_measured(p));
    from = sp_power_now(p);
    put_counter(dir, "intel-rapl:0", "package-0", 15); /* it began again at 1000: 25 */
    put_counter(dir, "intel-rapl:0:0", "core", 500);
    put_counter(dir, "intel-rapl:0:1", "dram", 17);
    assert_true(is_near(sp_power_now(p).joules - from.joules, 32));
    usleep(20000);
    sp_power_mark to = sp_power_now(p);
    double most = 32 / ((double)(to.ns - from.ns) * 1e-9), watts = sp_power_since(p, &from);
    assert_true(watts > 0 && watts <= most);
    sp_power_free(p);
    remove_counter(dir, "intel-rapl:0:1");
    remove_counter(dir, "intel-rapl:0:0");
    remove_counter(dir, "intel-rapl:0");
    rmdir(dir);
}

/* --- budgets ---------------------------------------------------------------------------------- */

enum { START = 1797724800 /* 2026-12-20 00:00 UTC */, DAY = 86400, WHO = 3 };

static _Atomic int64_t clock_s;

static int64_t now(void)
{
    return clock_s;
}

static sp_budgets *reopen(sp_budgets *b, const sp_budgets_cfg *cfg)
{
    sp_diag d = {0};
    sp_budgets_close(b);
    b = NULL;
    assert_int_equal(sp_budgets_open(&b, cfg, &d), SP_OK);
    return b;
}

/* Every account is found among thousands, before and after a restart, and no other one for it. */
void test_budgets_of_many(void **state)
{
    enum { MANY = 5000 };
    static const char *const tail[] = {"", "-wal", "-shm"};
    double limit = 0.5;
    sp_budget each = {.tenant = (char *)"*", .day = &limit};
    sp_prices prices = {.budgets = &each, .n_budgets = 1};
    assert_int_equal(sp_prices_index(&prices), SP_OK);
    char path[] = "/tmp/sparing-budget-XXXXXX", beside[64], name[32], said[48];
    sp_metrics *m = NULL;
    (void)state;
    close(mkstemp(path));
    clock_s = START;
    assert_int_equal(sp_metrics_new(&m), SP_OK);
    const sp_budgets_cfg cfg = {.prices = &prices, .path = path, .metrics = m, .now = now};
    sp_budgets *b = reopen(NULL, &cfg);
    for (size_t i = 0; i < MANY; i++) {
        snprintf(name, sizeof name, "tenant-%zu", i);
        sp_budgets_spend(b, name, i % 3 == 0 ? 1 : 0.25);
    }
    for (size_t again = 0; again < 2; again++) {
        for (size_t i = 0; i <= MANY; i++) {
            int64_t wait = 0;
            snprintf(name, sizeof name, "tenant-%zu", i);
            assert_int_equal(sp_budgets_check(b, name, &wait, NULL),
                             i < MANY && i % 3 == 0 ? SP_LIMIT : SP_OK);
        }
        b = reopen(b, &cfg);
    }
    for (size_t i = MANY - 1; i <= MANY; i++) {
        sp_buf json = {0};
        snprintf(name, sizeof name, "tenant-%zu", i);
        snprintf(said, sizeof said, "{\"tenant\":\"%s\",", name);
        sp_budgets_write(b, name, &json);
        assert_true(i < MANY ? strncmp(sp_buf_str(&json), said, strlen(said)) == 0 : json.len == 0);
        sp_buf_fini(&json);
    }
    sp_budgets_close(b);
    sp_map_fini(&prices.budget_of);
    sp_metrics_free(m);
    for (size_t i = 0; i < 3; i++) {
        snprintf(beside, sizeof beside, "%s%s", path, tail[i]);
        unlink(beside);
    }
}

/* Random spending over some weeks and a turn of the year, with restarts: who is refused, why, and
 * for how long. */
void test_budgets(void **state)
{
    static const char *const who[WHO] = {"a", "b", "c"};
    double a_day = 1, a_month = 6, b_day = 2;
    sp_budget rows[] = {{.tenant = (char *)"a", .day = &a_day, .month = &a_month},
                        {.tenant = (char *)"b", .day = &b_day}};
    sp_prices prices = {.budgets = rows, .n_budgets = 2};
    assert_int_equal(sp_prices_index(&prices), SP_OK);
    char path[] = "/tmp/sparing-budget-XXXXXX", beside[64];
    sp_metrics *m = NULL;
    double day[WHO] = {0}, month[WHO] = {0};
    uint64_t s = 7;
    size_t n_refused = 0, n_month = 0;
    (void)state;
    close(mkstemp(path));
    assert_int_equal(sp_metrics_new(&m), SP_OK);
    const sp_budgets_cfg cfg = {.prices = &prices, .path = path, .metrics = m, .now = now};
    clock_s = START;
    sp_budgets *b = reopen(NULL, &cfg);
    for (size_t i = 0; i < 1500; i++) {
        int64_t wait = 0, before = clock_s;
        sp_diag d = {0};
        s = s * 6364136223846793005u + 1442695040888963407u;
        size_t k = (s >> 33) % WHO;
        double cost = (double)((s >> 40) % 1000) * 1e-4;
        clock_s += (int64_t)((s >> 50) % 2000);
        if (clock_s / DAY != before / DAY) {
            b = reopen(b, &cfg);
            memset(day, 0, sizeof day);
            if (before / DAY < START / DAY + 12 && clock_s / DAY >= START / DAY + 12)
                memset(month, 0, sizeof month); /* the year is over */
        }
        bool by_month = k == 0 && month[k] >= a_month - 1e-9,
             by_day = (k == 0 && day[k] >= a_day - 1e-9) || (k == 1 && day[k] >= b_day - 1e-9);
        sp_err err = sp_budgets_check(b, who[k], &wait, &d);
        assert_int_equal(err, by_month || by_day ? SP_LIMIT : SP_OK);
        int64_t turn = clock_s < START + 12 * DAY ? START + 12 * DAY : START + 43 * DAY;
        if (by_month)
            assert_true(clock_s + wait == turn && strstr(d.msg, "month"));
        else if (by_day)
            assert_true((clock_s + wait) % DAY == 0 && wait <= DAY && strstr(d.msg, "day"));
        n_refused += err == SP_LIMIT;
        n_month += by_month;
        if (err == SP_OK) {
            sp_budgets_spend(b, who[k], cost);
            day[k] += cost;
            month[k] += cost;
        }
        if (i % 97 == 0)
            b = reopen(b, &cfg);
    }
    assert_true(n_refused > 50 && n_month > 5);
    sp_buf json = {0};
    sp_budgets_write(b, "b", &json);
    assert_true(strstr(sp_buf_str(&json), "\"tenant\":\"b\"") &&
                !strstr(sp_buf_str(&json), "\"tenant\":\"a\""));
    sp_buf_fini(&json);
    sp_budgets_close(b);
    sp_map_fini(&prices.budget_of);
    sp_metrics_free(m);
    static const char *const tail[] = {"", "-wal", "-shm"};
    for (size_t i = 0; i < 3; i++) {
        snprintf(beside, sizeof beside, "%s%s", path, tail[i]);
        unlink(beside);
    }
}
