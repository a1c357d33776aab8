/* Two ranks as one list: what it holds, and whom it prefers. */
#include "test.h"

#include "base/rng.h"
#include "pipe/interleave.h"
#include "stat/evidence.h"

#include <math.h>
#include <stdio.h>
#include <string.h>

void test_interleave_list(void **state);
void test_interleave_is_fair(void **state);
void test_interleave_finds(void **state);

enum { LONG = 12, CAP = 6, PASSAGES = 20 };

static void put(sp_rag_hit *h, int64_t seq)
{
    *h = (sp_rag_hit){.seq = seq};
    snprintf(h->chunk, sizeof h->chunk, "c%lld", (long long)seq);
}

/* n different passages of [0, PASSAGES) in random order. */
static void draw_rank(sp_rag_hit *out, size_t n, sp_rng *r)
{
    int64_t id[PASSAGES];
    for (int64_t i = 0; i < PASSAGES; i++)
        id[i] = i;
    for (size_t i = 0; i < n; i++) {
        size_t k = i + (size_t)(sp_rng_unit(r) * (double)(PASSAGES - i));
        int64_t swap = id[i];
        id[i] = id[k];
        id[k] = swap;
        put(&out[i], id[i]);
    }
}

static bool is_in(const sp_rag_hit *list, size_t n, int64_t seq)
{
    for (size_t i = 0; i < n; i++)
        if (list[i].seq == seq)
            return true;
    return false;
}

void test_interleave_list(void **state)
{
    sp_rag_hit a[LONG], b[LONG], out[2 * LONG];
    sp_rng r;
    (void)state;
    sp_rng_init(&r, 1);
    for (int round = 0; round < 2000; round++) {
        size_t n_a = (size_t)(sp_rng_unit(&r) * LONG), n_b = (size_t)(sp_rng_unit(&r) * LONG),
               cap = (size_t)(sp_rng_unit(&r) * 2 * LONG), n_union = n_a, by[3] = {0};
        draw_rank(a, n_a, &r);
        draw_rank(b, n_b, &r);
        for (size_t i = 0; i < n_b; i++)
            n_union += !is_in(a, n_a, b[i].seq);
        size_t n = sp_interleave(out, cap, a, n_a, b, n_b, sp_rng_next(&r));
        assert_int_equal(n, n_union < cap ? n_union : cap);
        for (size_t i = 0; i < n; i++) {
            const sp_rag_hit *from = out[i].team == 1 ? a : b;
            assert_true(out[i].team == 1 || out[i].team == 2);
            assert_true(is_in(from, out[i].team == 1 ? n_a : n_b, out[i].seq));
            assert_true(!is_in(out, i, out[i].seq));
            /* neither team is two passages ahead while both have some left */
            by[out[i].team]++;
            if (n_a == n_b && n_a >= cap)
                assert_true(by[1] <= by[2] + 1 && by[2] <= by[1] + 1);
        }
    }
}

/* One conversation: 1 where more of the second team's are used. relevance [PASSAGES]. */
static double prefer(const sp_rag_hit *a, const sp_rag_hit *b, const double *relevance, sp_rng *r)
{
    sp_rag_hit out[CAP];
    size_t n = sp_interleave(out, CAP, a, LONG, b, LONG, sp_rng_next(r)), used[3] = {0};
    for (size_t i = 0; i < n; i++)
        used[out[i].team] += sp_rng_unit(r) < relevance[out[i].seq];
    return used[2] > used[1] ? 1 : used[2] < used[1] ? 0 : 0.5;
}

/* Does a wager of either side ever refuse "neither is preferred" within n conversations? */
static bool decides(size_t n, bool second_is_better, sp_rng *r)
{
    sp_wager up, down;
    sp_rag_hit rank[2][LONG];
    double relevance[PASSAGES];
    sp_wager_init(&up, 0.5, false);
    sp_wager_init(&down, 0.5, true);
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < PASSAGES; k++)
            relevance[k] = sp_rng_unit(r) * 0.4;
        draw_rank(rank[0], LONG, r);
        draw_rank(rank[1], LONG, r);
        for (size_t k = 0; k < 3 && second_is_better; k++)
            relevance[rank[1][k].seq] = 0.7; /* it tends to be right at its top */
        double x = prefer(rank[0], rank[1], relevance, r);
        sp_wager_add(&up, x);
        sp_wager_add(&down, x);
        if (sp_wager_log(&up) >= log(40) || sp_wager_log(&down) >= log(40))
            return true;
    }
    return false;
}

/* Ranks of the same quality, looked at after each of 100 conversations. */
void test_interleave_is_fair(void **state)
{
    enum { RUNS = 2000 };
    sp_rng r;
    size_t n = 0;
    (void)state;
    sp_rng_init(&r, 5);
    for (int i = 0; i < RUNS; i++)
        n += decides(100, false, &r);
    assert_true(n <= RUNS / 20);
}

void test_interleave_finds(void **state)
{
    enum { RUNS = 200 };
    sp_rng r;
    size_t n = 0;
    (void)state;
    sp_rng_init(&r, 6);
    for (int i = 0; i < RUNS; i++)
        n += decides(100, true, &r);
    assert_true(n >= RUNS * 9 / 10);
}
