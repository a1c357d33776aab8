/* The registry of models: threads that use models at random, with an opener that only counts and checks what must hold. */
#include "test.h"

#include "base/clock.h"
#include "pipe/models.h"
#include "pipe/turn_int.h"

#include <pthread.h>
#include <sched.h>
#include <stdatomic.h>
#include <stdio.h>
#include <string.h>

enum { N_MODEL = 6, N_THREAD = 4, N_OP = 150, CAP = 7 };

typedef struct rig {
    sp_models *m;
    sp_metrics *metrics;
    sp_served served[N_MODEL];
    _Atomic size_t open[N_MODEL], uses[N_MODEL], bytes; /* as the opener and the threads count */
    _Atomic size_t n_open;
    _Atomic bool fails;
} rig;

static size_t number(const char *name)
{
    return (size_t)(name[1] - '0');
}

static size_t bytes_of(size_t i)
{
    return 1 + i % 4;
}

static void look(void *arg, sp_model_facts *out, const char *path)
{
    (void)arg;
    out->file_bytes = bytes_of(number(path));
}

static sp_err measure(void *arg, size_t *need, size_t *kv_bytes, const char *path, const sp_model_facts *f, size_t cap, char why[SP_MODEL_WHY], sp_diag *d)
{
    rig *r = arg;
    *need = bytes_of(number(path));
    SP_ASSERT(f->file_bytes == *need);
    *kv_bytes = 0;
    if (atomic_load(&r->fails)) {
        snprintf(why, SP_MODEL_WHY, "%s: one; %s: two", path, path);
        return SP_FAIL(d, SP_FORMAT, "%s: one", path);
    }
    return *need <= cap ? SP_OK : SP_FAIL(d, SP_LIMIT, "%s: too large", path);
}

static sp_err open_model(void *arg, sp_served **out, const char *name, const char *path, const sp_model_facts *f, size_t kv_bytes, sp_diag *d)
{
    rig *r = arg;
    size_t i = number(name);
    (void)path;
    (void)f;
    (void)kv_bytes;
    (void)d;
    SP_ASSERT(atomic_fetch_add(&r->open[i], 1) == 0); /* not twice */
    SP_ASSERT(atomic_fetch_add(&r->bytes, bytes_of(i)) + bytes_of(i) <= CAP);
    atomic_fetch_add(&r->n_open, 1);
    *out = &r->served[i];
    return SP_OK;
}

static void close_model(void *arg, sp_served *s)
{
    rig *r = arg;
    size_t i = (size_t)(s - r->served);
    SP_ASSERT(atomic_load(&r->uses[i]) == 0); /* not while it is in use */
    SP_ASSERT(atomic_fetch_sub(&r->open[i], 1) == 1);
    atomic_fetch_sub(&r->bytes, bytes_of(i));
}

static sp_err forget(void *arg, const char *name, sp_kv_forget *f, sp_diag *d)
{
    rig *r = arg;
    (void)d;
    SP_ASSERT(atomic_load(&r->open[number(name)]) == 0); /* its folder is nobody else's meanwhile */
    f->n_page = 1;
    return SP_OK;
}

static void open_rig(rig *r, double keep_s)
{
    char name[3] = "m0";
    static const char *const aliases[] = {"gpt-4=m1", "m2=m3", NULL};
    *r = (rig){0};
    assert_int_equal(sp_metrics_new(&r->metrics), SP_OK);
    const sp_models_cfg cfg = {.opener = {.look = look, .measure = measure, .open = open_model, .close = close_model, .forget = forget, .arg = r}, .cap_bytes = CAP, .keep_s = keep_s, .wait_s = 60,
                               .is_list = true, .aliases = aliases, .metrics = r->metrics};
    assert_int_equal(sp_models_new(&r->m, &cfg, NULL), SP_OK);
    for (size_t i = 0; i < N_MODEL; i++) {
        name[1] = (char)('0' + i);
        assert_int_equal(sp_models_add(r->m, name, name, NULL), SP_OK);
    }
}

static void close_rig(rig *r)
{
    sp_models_free(r->m);
    assert_int_equal(atomic_load(&r->bytes), 0);
    sp_metrics_free(r->metrics);
}

/* The model in use, brought as often as it takes. */
static sp_served *use(rig *r, const char *name)
{
    char why[SP_MODEL_WHY];
    sp_served *on;
    while (sp_models_use(&on, r->m, name) != SP_OK)
        SP_ASSERT(sp_models_bring(r->m, name, why, NULL) == SP_OK);
    return on;
}

static void *user(void *arg)
{
    rig *r = arg;
    uint64_t seed = (uint64_t)(uintptr_t)&seed + sp_clock_ns();
    char name[3] = "m0";
    for (size_t k = 0; k < N_OP; k++) {
        size_t i = test_rand(&seed) % N_MODEL;
        name[1] = (char)('0' + i);
        sp_served *on = use(r, name);
        atomic_fetch_add(&r->uses[i], 1);
        SP_ASSERT(on == &r->served[i]);
        SP_ASSERT(atomic_load(&r->open[i]) == 1);
        if (test_rand(&seed) % 4 == 0)
            sched_yield();
        atomic_fetch_sub(&r->uses[i], 1);
        sp_models_done(r->m, on);
    }
    return NULL;
}

static void test_random_uses(void **state)
{
    (void)state;
    rig r;
    pthread_t t[N_THREAD];
    open_rig(&r, -1);
    for (size_t i = 0; i < N_THREAD; i++)
        assert_int_equal(pthread_create(&t[i], NULL, user, &r), 0);
    for (size_t i = 0; i < N_THREAD; i++)
        pthread_join(t[i], NULL);
    assert_true(atomic_load(&r.n_open) > N_MODEL); /* some came more than once */
    sp_model_row row;
    size_t sum = 0, n = 0;
    for (; sp_models_row(r.m, n, &row); n++) {
        assert_int_equal(row.n_use, 0);
        assert_int_equal(row.state == SP_MODEL_READY, row.bytes != 0);
        sum += row.bytes;
    }
    assert_int_equal(n, N_MODEL);
    assert_int_equal(sum, atomic_load(&r.bytes));
    close_rig(&r);
}

static void test_least_recent_leaves(void **state)
{
    (void)state;
    rig r;
    sp_served *on;
    open_rig(&r, -1);
    for (const char *const *p = (const char *const[]){"m0", "m1", "m2", "m0", NULL}; *p; p++)
        sp_models_done(r.m, use(&r, *p)); /* 1 + 2 + 3 of 7 */
    sp_models_done(r.m, use(&r, "m5")); /* 2: m1 goes, which was used least recently */
    assert_int_equal(sp_models_use(&on, r.m, "m1"), SP_AGAIN);
    for (const char *const *p = (const char *const[]){"m0", "m2", "m5", NULL}; *p; p++) {
        assert_int_equal(sp_models_use(&on, r.m, *p), SP_OK);
        sp_models_done(r.m, on);
    }
    close_rig(&r);
}

static void test_one_in_use_stays(void **state)
{
    (void)state;
    rig r;
    sp_served *on, *again;
    open_rig(&r, -1);
    on = use(&r, "m3"); /* 4 of 7 */
    sp_models_op *op = sp_models_op_new(r.m, "m2", false); /* 3: fits beside it */
    assert_int_equal(sp_op_submit(&op->op, NULL, NULL, NULL), SP_OK);
    while (!sp_op_is_done(&op->op))
        sched_yield();
    assert_int_equal(op->op.diag.code, SP_OK);
    sp_op_put(&op->op);
    sp_models_done(r.m, use(&r, "m2"));
    op = sp_models_op_new(r.m, "m3", true); /* it leaves when it is not in use any more */
    assert_int_equal(sp_op_submit(&op->op, NULL, NULL, NULL), SP_OK);
    sp_model_row row = {0};
    while (row.state != SP_MODEL_LEAVING)
        assert_true(sp_models_row(r.m, 3, &row));
    assert_int_equal(sp_models_use(&again, r.m, "m3"), SP_AGAIN); /* and takes nobody new */
    assert_int_equal(atomic_load(&r.open[3]), 1);
    sp_models_done(r.m, on);
    while (!sp_op_is_done(&op->op))
        sched_yield();
    assert_int_equal(op->op.diag.code, SP_OK);
    assert_int_equal(atomic_load(&r.open[3]), 0);
    sp_op_put(&op->op);
    close_rig(&r);
}

static void test_time_is_over(void **state)
{
    (void)state;
    rig r;
    open_rig(&r, 0);
    sp_served *on = use(&r, "m0");
    assert_int_equal(atomic_load(&r.open[0]), 1);
    sp_models_done(r.m, on);
    while (atomic_load(&r.open[0]))
        sched_yield();
    sp_models_keep(r.m, "m0", -1);
    sp_models_done(r.m, use(&r, "m0"));
    sp_models_done(r.m, use(&r, "m1"));
    while (atomic_load(&r.open[1]))
        sched_yield();
    assert_int_equal(atomic_load(&r.open[0]), 1); /* it was told to stay */
    close_rig(&r);
}

static void test_failures(void **state)
{
    (void)state;
    rig r;
    char why[SP_MODEL_WHY];
    sp_diag d = {0};
    sp_model_row row;
    open_rig(&r, -1);
    atomic_store(&r.fails, true);
    assert_int_equal(sp_models_bring(r.m, "m1", why, &d), SP_FORMAT);
    assert_string_equal(d.msg, "m1: one");
    assert_string_equal(why, "m1: one; m1: two");
    assert_true(sp_models_row(r.m, 1, &row));
    assert_int_equal(row.state, SP_MODEL_FAILED);
    assert_string_equal(row.why, why);
    atomic_store(&r.fails, false);
    assert_int_equal(sp_models_bring(r.m, "m1", why, &d), SP_OK); /* mended */
    assert_true(sp_models_row(r.m, 1, &row));
    assert_int_equal(row.state, SP_MODEL_READY);
    assert_int_equal(sp_models_bring(r.m, "none", why, &d), SP_NOTFOUND);
    sp_models_drain(r.m);
    assert_int_equal(sp_models_bring(r.m, "m2", why, &d), SP_CANCEL);
    close_rig(&r);
}

static void test_names(void **state)
{
    (void)state;
    rig r;
    char names[16];
    open_rig(&r, -1);
    static const char *const same[][2] = {{"m1", "m1"}, {"M1", "m1"}, {"m1.gguf", "m1"}, {"m1:latest", "m1"}, {"GPT-4", "m1"},
                                          {"m2", "m2"} /* an alias does not hide a model */};
    for (size_t i = 0; i < sizeof same / sizeof same[0]; i++)
        assert_string_equal(sp_models_find(r.m, same[i][0]), same[i][1]);
    for (const char *const *p = (const char *const[]){"", "m", "m10", "gpt", NULL}; *p; p++)
        assert_null(sp_models_find(r.m, *p));
    assert_null(sp_models_find(r.m, NULL));
    sp_models_set_default(r.m, "m4");
    assert_string_equal(sp_models_find(r.m, NULL), "m4");
    sp_diag d = {0};
    assert_int_equal(sp_models_add(r.m, "M3.gguf", "x0", &d), SP_INVAL); /* to clients it is m3 */
    assert_true(sp_models_has_path(r.m, "m3") && !sp_models_has_path(r.m, "x0"));
    sp_models_names(r.m, names, sizeof names);
    assert_string_equal(names, "m0, m1, …");
    close_rig(&r);
}

/* What is stored of models that are away is deleted too. */
static void test_forget(void **state)
{
    (void)state;
    rig r;
    size_t n_page;
    open_rig(&r, -1);
    assert_int_equal(sp_models_forget(r.m, "ann", NULL, &n_page, NULL), SP_OK);
    assert_int_equal(n_page, N_MODEL);
    close_rig(&r);
}

/* Votes: the commonest by its words; without one, the text most like the others. */
static void test_votes(void **state)
{
    (void)state;
    static const struct {
        const char *text[4];
        size_t best;
    } row[] = {{{"It is 5.", "It is 6.", "it is, 6"}, 1},
               {{"It is 5."}, 0},
               {{"", "", "It is 6."}, 0},
               {{"Paris is in France", "The town lies by a river", "Paris lies in France", "Paris is a town in France"}, 3},
               {{"Nobody knows", "It was built in 1741", "It was built by 1741", "it was built in 1900"}, 1},
               {{"five", "six", "seven"}, 0},
               {{"\xc3\xa4pfel", "\xc3\xb6l", "\xc3\xb6l."}, 1}};
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        sp_str text[4];
        size_t n = 0;
        for (; n < 4 && row[i].text[n]; n++)
            text[n] = (sp_str){row[i].text[n], strlen(row[i].text[n])};
        if (sp_votes_pick(text, n) != row[i].best)
            fail_msg("row %zu: %zu", i, sp_votes_pick(text, n));
    }
}

void test_refer_cases(void **state);
void test_refer_spans(void **state);
void test_refer_readable(void **state);
void test_placement_rules(void **state);
void test_placement_door(void **state);
void test_interleave_list(void **state);
void test_interleave_is_fair(void **state);
void test_interleave_finds(void **state);
void test_prices(void **state);
void test_prices_many(void **state);
void test_prices_wrong(void **state);
void test_power(void **state);
void test_budgets(void **state);
void test_budgets_of_many(void **state);

void test_improve_a_month(void **state);
void test_improve_without_effect(void **state);
void test_improve_proposals(void **state);
void test_improve_versions(void **state);
void test_improve_a_head(void **state);
void test_judge_says(void **state);
void test_judge_is_told(void **state);
void test_judge_in_a_round(void **state);
void test_settings_in_a_request(void **state);
void test_settings_that_are_wrong(void **state);

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_names), cmocka_unit_test(test_least_recent_leaves), cmocka_unit_test(test_one_in_use_stays),
        cmocka_unit_test(test_time_is_over), cmocka_unit_test(test_failures), cmocka_unit_test(test_forget), cmocka_unit_test(test_random_uses),
        cmocka_unit_test(test_votes), cmocka_unit_test(test_refer_cases), cmocka_unit_test(test_refer_spans), cmocka_unit_test(test_refer_readable),
        cmocka_unit_test(test_interleave_list), cmocka_unit_test(test_interleave_is_fair),
        cmocka_unit_test(test_interleave_finds),
        cmocka_unit_test(test_prices), cmocka_unit_test(test_prices_many), cmocka_unit_test(test_prices_wrong),
        cmocka_unit_test(test_power), cmocka_unit_test(test_budgets),
        cmocka_unit_test(test_budgets_of_many),
        cmocka_unit_test(test_placement_rules), cmocka_unit_test(test_placement_door),
        cmocka_unit_test(test_improve_a_month), cmocka_unit_test(test_improve_without_effect), cmocka_unit_test(test_improve_proposals),
        cmocka_unit_test(test_improve_versions), cmocka_unit_test(test_improve_a_head), cmocka_unit_test(test_judge_says),
        cmocka_unit_test(test_judge_is_told), cmocka_unit_test(test_judge_in_a_round),
        cmocka_unit_test(test_settings_in_a_request), cmocka_unit_test(test_settings_that_are_wrong)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
