/* Rounds of improvement in a world that is made up: knobs and files of versions, what is proposed,
 * and a month of thirty days in which requests become harder and easier. */
#include "base/rng.h"
#include "pipe/improve.h"
#include "pipe/version.h"
#include "test.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

enum { DAYS = 30, A_DAY = 120, ROUNDS = 4, WEEK = 7 };

/* Requests have a difficulty, which intent knows. The light path is right up to `able`; the full
 * one always, and costs four times as much. Nine in ten answers are as good as they can be. */
typedef struct world {
    double difficulty[DAYS * A_DAY], luck[DAYS * A_DAY];
    double able[DAYS];
    size_t first; /* prompt 0 of the round */
    double noise; /* of quality, whichever the settings are */
    sp_rng r;
} world;

static sp_outcome answer_at(const world *w, size_t at, double full_from)
{
    bool full = w->difficulty[at] >= full_from;
    bool right = full || w->difficulty[at] < w->able[at / A_DAY];
    return (
        sp_outcome){.quality = right && w->luck[at] < 0.9 ? 1 : 0, .cost = full ? 4 : 1, .ms = 10};
}

static sp_err answer(void *arg, sp_outcome *out, size_t at, const sp_knobs *k, sp_diag *d)
{
    world *w = arg;
    (void)d;
    *out = answer_at(w, w->first + at, k->v[SP_KNOB_FULL_FROM]);
    if (w->noise > 0)
        out->quality = sp_rng_unit(&w->r) < w->noise;
    return SP_OK;
}

/* turns: in the middle of the month requests begin to be harder for the light path again. */
static void make(world *w, uint64_t seed, bool turns)
{
    *w = (world){0};
    sp_rng_init(&w->r, seed);
    for (size_t i = 0; i < DAYS * A_DAY; i++) {
        w->difficulty[i] = sp_rng_unit(&w->r);
        w->luck[i] = sp_rng_unit(&w->r);
    }
    for (size_t i = 0; i < DAYS; i++) {
        double at = (double)i / DAYS;
        w->able[i] = !turns || at < 0.5 ? 0.4 + 0.5 * at : 0.8 - 0.3 * at;
    }
}

/* Right answers for the cost of them, where quality counts ten times as much. */
static double objective(const world *w, size_t day, double full_from)
{
    double sum = 0;
    for (size_t i = day * A_DAY; i < (day + 1) * A_DAY; i++) {
        sp_outcome o = answer_at(w, i, full_from);
        sum += (10 * o.quality - o.cost) / A_DAY;
    }
    return sum;
}

static sp_knobs begin(void)
{
    sp_knobs k = {{0}, {0}};
    k.v[SP_KNOB_FULL_FROM] = 0.3;
    k.v[SP_KNOB_NEED_FROM] = 0.3;
    k.v[SP_KNOB_ESCALATE] = -0.8;
    k.v[SP_KNOB_PASSAGES] = 6;
    k.v[SP_KNOB_DRAFT] = 15;
    k.v[SP_KNOB_LIGHT_TOKENS] = 512;
    k.v[SP_KNOB_KEEP] = 1;
    return k;
}

static const sp_improve_cfg CFG = {
    .decide = {.alpha = 0.05, .margin = 0.05, .gain = 0.02, .floor = 0, .slower = 1.25},
    .tries = 14,
    .cap_search = 200,
    .cap_held = 300,
    .has = {.judge = true, .passages = true, .escalates = true},
    .answer = answer};

/* Answers of the week that were not right. */
static size_t count_bad(const world *w, double full_from)
{
    size_t n = 0;
    for (size_t i = 0; i < WEEK * A_DAY; i++)
        n += answer_at(w, w->first + i, full_from).quality < 1;
    return n;
}

/* Rounds that raised the objective. After a round it is never below what the first settings would
 * give; where the world does not turn, the day after neither. */
static size_t live_a_month(uint64_t seed, bool turns)
{
    world w;
    size_t raised = 0;
    make(&w, seed, turns);
    sp_knobs k = begin(), options = k;
    double start = k.v[SP_KNOB_FULL_FROM];
    for (size_t round = 0; round < ROUNDS; round++) {
        sp_improve_cfg cfg = CFG;
        sp_round out;
        w.first = round * WEEK * A_DAY;
        sp_failures f = {.n = WEEK * A_DAY, .bad = count_bad(&w, k.v[SP_KNOB_FULL_FROM])};
        cfg.arg = &w;
        cfg.round = round;
        assert_int_equal(sp_improve(&out, &cfg, &k, &options, &f, 4 * A_DAY, WEEK * A_DAY, NULL),
                         SP_OK);
        size_t today = (round + 1) * WEEK - 1;
        double before = objective(&w, today, k.v[SP_KNOB_FULL_FROM]);
        if (out.held.wins)
            k = out.tried[out.best].what.knobs;
        raised += objective(&w, today, k.v[SP_KNOB_FULL_FROM]) > before;
        for (size_t day = today; day < today + (turns ? 1 : 2); day++)
            assert_true(objective(&w, day, k.v[SP_KNOB_FULL_FROM]) >= objective(&w, day, start));
    }
    return raised;
}

void test_improve_a_month(void **state)
{
    (void)state;
    for (uint64_t seed = 1; seed <= 5; seed++)
        assert_true(live_a_month(seed, false) >= 3);
    for (uint64_t seed = 1; seed <= 5; seed++)
        assert_true(live_a_month(seed, true) >= 2); /* what is held out is a week old */
}

/* The settings change nothing but the cost of what they are not about: nothing is promoted. */
void test_improve_without_effect(void **state)
{
    (void)state;
    enum { N_ROUND = 300 };
    size_t promoted = 0;
    world w;
    make(&w, 99, false);
    w.noise = 0.6;
    for (size_t i = 0; i < N_ROUND; i++) {
        sp_improve_cfg cfg = CFG;
        sp_knobs k = begin();
        sp_failures f = {.n = 100, .bad = 50, .truncated = 50, .not_found = 50};
        sp_round out;
        k.v[SP_KNOB_FULL_FROM] = 0.05;
        const sp_knobs options = k;
        cfg.has.judge = false; /* full_from, the one that changes the cost, stays */
        cfg.arg = &w;
        cfg.round = i;
        assert_int_equal(sp_improve(&out, &cfg, &k, &options, &f, 4 * A_DAY, WEEK * A_DAY, NULL),
                         SP_OK);
        promoted += out.held.wins;
    }
    assert_true((double)promoted <= 0.05 * N_ROUND);
}

/* Answers of engines with a draft head: the price of an answer falls as the engine learns when its
 * guesses pay, by half after so many answers; a head whose guesses are wrong costs a little. */
typedef struct drafted {
    double pays; /* share of the price that good guesses save; below 0: they cost */
    size_t n_own, n_learn;
    sp_rng r;
} drafted;

static sp_err answer_drafted(void *arg, sp_outcome *out, size_t at, const sp_knobs *k, sp_diag *d)
{
    drafted *w = arg;
    (void)at;
    (void)d;
    double knows = 0, price = 0.5 + sp_rng_unit(&w->r);
    if (k->v[SP_KNOB_HEAD] > 0) {
        w->n_own++;
        knows = w->n_own < w->n_learn ? (double)w->n_own / (double)w->n_learn : 1;
    }
    double mine = price * (1 - knows * w->pays) * (0.95 + 0.1 * sp_rng_unit(&w->r));
    *out = (sp_outcome){.quality = at % 3 > 0, .cost = mine, .ms = mine};
    return SP_OK;
}

/* A head that pays is promoted by its cost, if its engine has learned on the earlier days; one that
 * does not is not. */
void test_improve_a_head(void **state)
{
    (void)state;
    static const struct {
        double pays;
        bool wins;
    } of[] = {{0.35, true}, {0, false}, {-0.2, false}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) {
        drafted w = {.pays = of[i].pays, .n_learn = 60};
        sp_improve_cfg cfg = CFG;
        sp_knobs k = begin();
        const sp_failures none = {0};
        sp_round out;
        sp_rng_init(&w.r, 5 + i);
        cfg.has = (sp_improve_has){.head = 1};
        cfg.tries = 1;
        cfg.answer = answer_drafted;
        cfg.arg = &w;
        assert_int_equal(sp_improve(&out, &cfg, &k, &k, &none, 200, 500, NULL), SP_OK);
        assert_true(out.n_tried == 1 && out.tried[0].what.knob == SP_KNOB_HEAD);
        assert_int_equal(out.held.wins, of[i].wins);
        if (of[i].wins)
            assert_true(out.held.by_cost && out.tried[0].what.knobs.v[SP_KNOB_HEAD] == 1);
    }
}

void test_improve_proposals(void **state)
{
    (void)state;
    sp_proposal p[SP_IMPROVE_TRIES];
    sp_knobs k = begin();
    sp_failures f = {.n = 1000, .truncated = 100, .by_class = {[SP_CLASS_EXTRACT] = 900}};
    const sp_improve_has all = {.judge = true, .passages = true, .escalates = true}, none = {0};
    size_t n = sp_propose(p, SP_IMPROVE_TRIES, &k, &k, &f, &all, 0);
    assert_true(n > 8 && p[0].knob == SP_KNOB_LIGHT_TOKENS && p[0].to == 1024);
    bool by_class = false;
    for (size_t i = 0; i < n; i++) {
        by_class = by_class || p[i].knob == SP_KNOB_EPSILON_OF + SP_CLASS_EXTRACT;
        for (size_t j = 0; j < SP_KNOBS; j++)
            assert_true((p[i].knobs.v[j] != k.v[j]) == (j == (size_t)p[i].knob));
    }
    assert_true(by_class);
    assert_int_equal(sp_propose(p, 3, &k, &k, &f, &all, 5), 3);
    n = sp_propose(p, SP_IMPROVE_TRIES, &k, &k, &f, &none, 0);
    for (size_t i = 0; i < n; i++)
        assert_true(p[i].knob != SP_KNOB_PASSAGES && p[i].knob != SP_KNOB_FULL_FROM &&
                    p[i].knob != SP_KNOB_ESCALATE && p[i].knob != SP_KNOB_NEED_FROM);
    sp_knobs other = k;
    other.v[SP_KNOB_DRAFT] = 7;
    assert_int_equal(sp_propose(p, 1, &other, &k, &f, &all, 0), 1);
    assert_true(p[0].knob == SP_KNOBS && memcmp(&p[0].knobs, &k, sizeof k) == 0);
    sp_round out;
    assert_int_equal(sp_improve(&out, &CFG, &k, &k, &f, 0, 10, NULL), SP_INVAL);
    assert_int_equal(sp_improve(&out, &CFG, &k, &k, &f, 10, 10, NULL), SP_INVAL);
}

void test_improve_versions(void **state)
{
    (void)state;
    char dir[] = "/tmp/sparing_versions_XXXXXX", path[64];
    sp_versions *v;
    sp_diag d = {0};
    assert_non_null(mkdtemp(dir));
    assert_int_equal(sp_versions_open(&v, dir, NULL), SP_OK);
    assert_null(sp_versions_now(v));
    assert_int_equal(sp_versions_back(v, NULL), SP_NOTFOUND);
    sp_knobs k = {{0}, {0}}, back = {{0}, {0}};
    for (size_t i = 0; i < SP_KNOBS; i++) {
        k.v[i] = sp_knob_near((sp_knob)i, i == SP_KNOB_ESCALATE ? -1.2 : 0.05 + 0.001 * (double)i);
        k.set[i] = true;
    }
    k.v[SP_KNOB_CONTROL] = 1;
    k.v[SP_KNOB_PASSAGES] = 9;
    assert_int_equal(sp_versions_add(v, &k, "all of them", &d), SP_OK);
    const sp_version *first = sp_versions_now(v);
    assert_true(first && first->number == 1 && first->from == 0);
    sp_knobs_take(&back, &first->set);
    for (size_t i = 0; i < SP_KNOBS; i++)
        assert_true(back.set[i] && fabs(back.v[i] - k.v[i]) < 1e-9);
    k.v[SP_KNOB_PASSAGES] = 11;
    assert_int_equal(sp_versions_add(v, &k, "one more", &d), SP_OK);
    assert_int_equal(sp_versions_now(v)->number, 2);
    assert_int_equal(*first->set.passages, 9); /* whoever has it keeps it */
    assert_int_equal(sp_versions_back(v, &d), SP_OK);
    assert_int_equal(sp_versions_now(v)->number, 1);
    assert_int_equal(sp_versions_add(v, &k, "another one", &d), SP_OK);
    assert_true(sp_versions_now(v)->number == 3 && sp_versions_now(v)->from == 1);
    static const char *const bad[] = {"7\n", "-1", "x", "3 4"};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        assert_int_equal(sp_versions_write(v, "current", bad[i], strlen(bad[i]), &d), SP_OK);
        assert_true(sp_versions_reload(v, &d) != SP_OK);
        assert_int_equal(sp_versions_now(v)->number, 3);
    }
    static const char wild[] = "version: 4\nfrom: 3\nmade: 1\nset: {epsilon: 0.9}\n";
    assert_int_equal(sp_versions_write(v, "v4.yaml", wild, sizeof wild - 1, &d), SP_OK);
    assert_int_equal(sp_versions_write(v, "current", "4", 1, &d), SP_OK);
    assert_int_equal(sp_versions_reload(v, &d), SP_FORMAT);
    sp_versions_close(v);
    for (int i = 1; i <= 4; i++) {
        snprintf(path, sizeof path, "%s/v%d.yaml", dir, i);
        unlink(path);
    }
    snprintf(path, sizeof path, "%s/current", dir);
    unlink(path);
    rmdir(dir);
}
