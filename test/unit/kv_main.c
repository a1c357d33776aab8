/* KV pool: random operations against a naive model, invariants after each; faults; identity. */
#include "test.h"

#include "base/fault.h"
#include "base/mem.h"
#include "kv/seq.h"
#include "kv/pays.h"
#include "kv/pool.h"
#include "kv/squeeze.h"

#include <math.h>
#include <stdio.h>
#include <unistd.h>

int run_store_tests(void);

enum { N_SEQ = 8, N_PAGE = 12, MAX_TOK = 200, N_OLD = 40 };

typedef struct world {
    sp_dev *dev;
    sp_kv_pool *pool;
    sp_kv_tier *tier; /* NULL: RAM only */
    sp_kv_seq seq[N_SEQ];
    bool open[N_SEQ];
    bool plain; /* pages are f32 and carry their tokens */
    size_t window;
    bool has_states; /* a state is a sum of all tokens before it */
    uint32_t tok[N_SEQ][MAX_TOK]; /* what each sequence holds */
    uint32_t old[N_OLD][MAX_TOK]; /* what sequences held when they ended */
    size_t old_n[N_OLD], old_tenant[N_OLD], n_old, next_old;
} world;

static bool squeezes; /* the worlds that are opened next */

static void open_world_of(world *w, const char *format, const char *dir, const char *io, size_t window, bool has_states)
{
    sp_dev_cfg cfg = {.name = "cpu", .n_thread = 1, .mask = SP_CPU_SCALAR};
    memset(w, 0, sizeof *w);
    w->plain = strcmp(format, "f32") == 0;
    w->window = window;
    w->has_states = has_states;
    assert_int_equal(sp_dev_open(&w->dev, &cfg, NULL), SP_OK);
    sp_kv_cfg kv = {.shape = {sp_kv_format_find(format), 1, 1, 16}, .reuse = true, .window = window,
                    .state_bytes = has_states ? 64 : 0, .kept_bytes = SP_KV_GUESS_TOK * sizeof(uint32_t), .snap_bytes = 7 * 64 + 1, .squeeze = squeezes};
    kv.cap_bytes = N_PAGE * sp_kv_page_bytes(&kv.shape);
    if (dir) {
        const sp_kv_tier_cfg t = {.dir = dir, .cap_bytes = 1 << 20, .io = io, .fetch = SP_KV_FETCH_ALWAYS, .depth_cost = 1e-4, .tok_s = 1e-3};
        assert_int_equal(sp_kv_tier_open(&w->tier, &t, NULL), SP_OK);
        kv.tier = w->tier;
    }
    assert_int_equal(sp_kv_pool_new(&w->pool, w->dev, &kv, NULL), SP_OK);
}

static void open_world(world *w)
{
    open_world_of(w, "f32", NULL, NULL, 0, false);
}

static void close_world(world *w)
{
    while (sp_kv_pool_poll(w->pool) || sp_kv_pool_is_busy(w->pool))
        usleep(100);
    assert_int_equal(sp_kv_pool_check(w->pool, NULL), SP_OK);
    sp_kv_pool_free(w->pool);
    sp_kv_tier_close(w->tier);
    sp_dev_close(w->dev);
}

/* Each page carries its tokens in its first value column, so that content can be checked. */
static float *slot_at(const sp_kv_seq *s, size_t pos)
{
    return (float *)s->page[pos / SP_PAGE_TOK] + pos % SP_PAGE_TOK;
}

/* The state of s behind its tokens: its own, or the one before those that come again, and these. */
static uint64_t sum_of(const sp_kv_seq *s)
{
    uint64_t sum = 0;
    if (s->state)
        memcpy(&sum, s->state->mem, sizeof sum);
    for (size_t k = 0; k < s->n_again; k++)
        sum = sum * 31 + ((const uint32_t *)s->kept)[k] + 1;
    return sum;
}

/* What layers with a state would do with the next n tokens, some of which may be taken back. */
static void move_state(world *w, sp_kv_seq *s, const uint32_t *tok, size_t n, bool may_go_back)
{
    uint64_t sum;
    size_t m = 0, n_kept = may_go_back ? n - 1 : 0;
    assert_int_equal(sp_kv_seq_begin(s, w->pool, n, n_kept), SP_OK);
    sum = sum_of(s);
    if (s->n_again)
        memcpy(s->settled->mem, &sum, sizeof sum);
    if (n_kept)
        memcpy(s->kept, tok, n_kept * sizeof *tok);
    for (size_t k = 0; k < n; k++) {
        sum = sum * 31 + tok[k] + 1;
        for (; m < s->n_mark && s->mark[m].n == k + 1; m++)
            memcpy(s->mark[m].state, &sum, sizeof sum);
    }
    assert_int_equal(m, s->n_mark);
    memcpy(s->next->mem, &sum, sizeof sum);
}

static void check_state(const sp_kv_seq *s, const uint32_t *tok)
{
    uint64_t sum = 0;
    for (size_t k = 0; k < s->n_tok; k++)
        sum = sum * 31 + tok[k] + 1;
    assert_true(s->n_tok == 0 || s->state || s->n_again);
    assert_true(sum == sum_of(s));
}

/* A step that guesses: some of its tokens come true, the others are taken back. */
static void guess(world *w, size_t i, uint64_t *rng, uint32_t alphabet)
{
    sp_kv_seq *s = &w->seq[i];
    size_t at = s->n_tok, slot = (at + 1) % SP_PAGE_TOK, room = SP_PAGE_TOK - slot; /* the page behind the sure token stays open */
    size_t n_guess = test_rand(rng) % (room < SP_KV_GUESS_TOK ? room : SP_KV_GUESS_TOK), n_right = test_rand(rng) % (n_guess + 1);
    uint32_t tok[SP_KV_GUESS_TOK];
    if (at + 1 + n_guess > MAX_TOK || sp_kv_seq_reserve_guess(s, w->pool, 1 + n_guess) != SP_OK)
        return;
    for (size_t k = 0; k < 1 + n_guess; k++) {
        tok[k] = test_rand(rng) % alphabet;
        if (k <= n_right)
            w->tok[i][at + k] = tok[k];
        if (w->plain)
            *slot_at(s, at + k) = (float)(at + k) * 100 + (float)tok[k];
    }
    if (w->has_states)
        move_state(w, s, tok, 1 + n_guess, true);
    assert_int_equal(sp_kv_seq_commit(s, w->pool, tok, 1 + n_guess), SP_OK);
    assert_int_equal(sp_kv_seq_take_back(s, w->pool, at + 1 + n_right), at + 1 + n_right);
}

/* Steps that guess one token each, as a draft model does, all of them taken back. */
static void guess_held(world *w, size_t i, uint64_t *rng)
{
    sp_kv_seq *s = &w->seq[i];
    size_t at = s->n_tok, n = test_rand(rng) % (SP_PAGE_TOK - at % SP_PAGE_TOK);
    if (!n || !s->state || s->n_again || at + n > MAX_TOK || sp_kv_seq_reserve(s, w->pool, n) != SP_OK)
        return;
    sp_kv_seq_hold(s, w->pool);
    for (size_t k = 0; k < n; k++) {
        assert_int_equal(sp_kv_seq_reserve(s, w->pool, 1), SP_OK);
        const uint32_t tok = 1000;
        move_state(w, s, &tok, 1, false);
        assert_int_equal(sp_kv_seq_commit(s, w->pool, &tok, 1), SP_OK);
    }
    assert_int_equal(sp_kv_seq_take_back(s, w->pool, at), at);
}

static void extend(world *w, size_t i, uint64_t *rng, uint32_t alphabet)
{
    size_t n = test_rand(rng) % 40 + 1, at = w->seq[i].n_tok;
    size_t n_guess = w->has_states ? 0 : test_rand(rng) % (SP_PAGE_TOK - at % SP_PAGE_TOK); /* leaves the page open */
    uint32_t tok[40];
    if (at + n > MAX_TOK || sp_kv_seq_reserve(&w->seq[i], w->pool, n > n_guess ? n : n_guess) != SP_OK)
        return;
    for (size_t k = 0; k < n_guess; k++) {
        tok[k] = alphabet;
        if (w->plain)
            *slot_at(&w->seq[i], at + k) = -1;
    }
    if (n_guess) {
        assert_int_equal(sp_kv_seq_commit(&w->seq[i], w->pool, tok, n_guess), SP_OK);
        assert_int_equal(sp_kv_seq_take_back(&w->seq[i], w->pool, at), at);
    }
    for (size_t k = 0; k < n; k++) {
        tok[k] = w->tok[i][at + k] = test_rand(rng) % alphabet;
        if (w->plain)
            *slot_at(&w->seq[i], at + k) = (float)(at + k) * 100 + (float)tok[k];
    }
    if (w->has_states)
        move_state(w, &w->seq[i], tok, n, false);
    assert_int_equal(sp_kv_seq_commit(&w->seq[i], w->pool, tok, n), SP_OK);
}

static void check_world(const world *w)
{
    sp_diag d = {0};
    if (sp_kv_pool_check(w->pool, &d) != SP_OK)
        fail_msg("%s", d.msg);
    for (size_t i = 0; i < N_SEQ; i++) {
        const sp_kv_seq *s = &w->seq[i];
        size_t first = w->window && s->n_tok + 1 > w->window ? s->n_tok + 1 - w->window : 0; /* what the next query sees */
        for (size_t k = first; w->plain && w->open[i] && k < s->n_tok; k++)
            assert_true(*slot_at(s, k) == (float)k * 100 + (float)w->tok[i][k]);
        if (!w->open[i])
            continue;
        if (w->has_states)
            check_state(s, w->tok[i]);
        for (size_t k = 0; k < s->n_page; k++)
            assert_true((s->page[k] == NULL) == (k < s->n_gone));
        assert_true(s->n_gone <= first / SP_PAGE_TOK && (w->tier || s->n_gone + 1 >= first / SP_PAGE_TOK));
    }
}

static void remember(world *w, size_t i)
{
    size_t k = w->next_old++ % N_OLD;
    w->n_old = w->n_old < N_OLD ? w->n_old + 1 : N_OLD;
    memcpy(w->old[k], w->tok[i], sizeof w->old[k]);
    w->old_n[k] = w->seq[i].n_tok;
    w->old_tenant[k] = i % 2;
}

static void reopen(world *w, size_t i, size_t k, uint64_t *n_ssd)
{
    size_t found;
    if (sp_kv_seq_attach(&w->seq[i], w->pool, w->old[k], w->old_n[k], true, &found) != SP_OK)
        return;
    memcpy(w->tok[i], w->old[k], sizeof w->tok[i]);
    if (w->seq[i].load)
        assert_int_equal(sp_kv_seq_wait(&w->seq[i], 0), SP_OK);
    assert_int_equal(sp_kv_seq_begin(&w->seq[i], w->pool, 0, 0), SP_OK); /* its state is there */
    *n_ssd += w->seq[i].n_tok_ssd;
}

/* With a tier, what RAM gave up comes back from the disk, in a pool far too small for all. */
static void random_operations(const char *format, const char *dir, const char *io, size_t window, bool has_states)
{
    static world w;
    uint64_t rng = 77;
    uint64_t n_ssd = 0;
    static const size_t border[] = {40, 95};
    open_world_of(&w, format, dir, io, window, has_states);
    for (int step = 0; step < 20000; step++) {
        while (sp_kv_pool_poll(w.pool) || (step % 8 == 0 && sp_kv_pool_is_busy(w.pool)))
            usleep(20); /* now and then all is written, so that there is something to read */
        size_t i = test_rand(&rng) % N_SEQ, j = test_rand(&rng) % N_SEQ;
        uint32_t what = test_rand(&rng) % 8;
        if (!w.open[i]) {
            assert_int_equal(sp_kv_seq_init(&w.seq[i], w.pool, i % 2 ? "a" : "b", NULL), SP_OK);
            w.open[i] = true;
            w.seq[i].n_prompt = test_rand(&rng) % MAX_TOK;
            w.seq[i].border = border;
            w.seq[i].n_border = 2;
            if (dir && what < 4 && w.n_old) { /* a prompt of the past: RAM has likely lost it */
                size_t k = test_rand(&rng) % w.n_old;
                if (w.old_tenant[k] == i % 2)
                    reopen(&w, i, k, &n_ssd);
            } else if (w.open[j] && j != i && i % 2 == j % 2) { /* the same prompt again */
                size_t n = w.seq[j].n_tok, found;
                memcpy(w.tok[i], w.tok[j], sizeof w.tok[i]);
                sp_err err = sp_kv_seq_attach(&w.seq[i], w.pool, w.tok[j], n, true, &found);
                assert_true(err == SP_OK || (err == SP_AGAIN && dir));
                if (err == SP_AGAIN)
                    found = 0;
                n_ssd += w.seq[i].n_tok_ssd;
                for (size_t l = 0; w.seq[i].load && l < 1; l++)
                    assert_int_equal(sp_kv_seq_wait(&w.seq[i], l), SP_OK);
                assert_int_equal(sp_kv_seq_begin(&w.seq[i], w.pool, 0, 0), SP_OK);
                assert_true(found % SP_PAGE_TOK == 0 && (n == 0 || found < n));
            }
        } else if (what == 0) {
            remember(&w, i);
            sp_kv_seq_fini(&w.seq[i], w.pool);
            w.open[i] = false;
        } else if (what == 1 && !w.open[j] && !w.seq[i].n_again) {
            if (sp_kv_seq_fork(&w.seq[j], &w.seq[i], w.pool) == SP_OK) {
                memcpy(w.tok[j], w.tok[i], sizeof w.tok[j]);
                w.open[j] = true;
            }
        } else if (what == 2) {
            guess(&w, i, &rng, 2);
        } else if (what == 3 && has_states) {
            guess_held(&w, i, &rng);
        } else {
            extend(&w, i, &rng, 2);
        }
        check_world(&w);
    }
    sp_kv_stat st;
    sp_kv_pool_stat(w.pool, &st);
    assert_true(st.n_hit_tok > 0 && st.n_evicted > 0);
    if (has_states) {
        sp_kv_state_stat snaps;
        sp_kv_states_stat(sp_kv_pool_states(w.pool), &snaps);
        assert_true(snaps.n_taken > 100 && snaps.n_evicted > 100 && snaps.n_snap <= 7);
    }
    for (size_t i = 0; i < N_SEQ; i++)
        if (w.open[i])
            sp_kv_seq_fini(&w.seq[i], w.pool);
    while (sp_kv_pool_poll(w.pool) || sp_kv_pool_is_busy(w.pool))
        usleep(100);
    sp_kv_pool_stat(w.pool, &st);
    assert_int_equal(st.n_pinned, 0);
    if (dir && n_ssd < 1000)
        fail_msg("only %llu tokens came from the disk", (unsigned long long)n_ssd);
    close_world(&w);
}

static void test_random_operations(void **state)
{
    (void)state;
    static const char *const format[] = {"f32", "q8", "q4"}; /* q4: only first pages have lo parts */
    for (int k = 0; k < 3; k++) {
        random_operations(format[k], NULL, NULL, 0, false);
        random_operations(format[k], NULL, NULL, 0, true);
        random_operations(format[k], NULL, NULL, 33 + 20 * (size_t)k, false);
        for (int io = 0; io < 3; io++) {
            char dir[] = "/tmp/sparing-kv-XXXXXX", cmd[64];
            assert_non_null(mkdtemp(dir));
            random_operations(format[k], dir, io ? "threads" : "auto", io == 2 ? 40 : 0, io == 1);
            snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
            assert_int_equal(system(cmd), 0);
        }
    }
}

enum { N_PROMPT = 96, N_KNOWN = 64 /* the last page that ends before the prompt does */ };

static float number_at(size_t pos, size_t i)
{
    return (float)((pos * 7 + i * 13) % 29) - 14;
}

static void put_numbers(void *state, size_t pos)
{
    for (size_t i = 0; i < 16; i++)
        ((float *)state)[i] = number_at(pos, i);
}

/* How much of a prompt a new sequence knows. */
static size_t know(world *w, const char *tenant, const uint32_t *tok)
{
    size_t found;
    while (sp_kv_pool_poll(w->pool) || sp_kv_pool_is_busy(w->pool))
        usleep(100);
    assert_int_equal(sp_kv_seq_init(&w->seq[0], w->pool, tenant, NULL), SP_OK);
    w->seq[0].n_prompt = N_PROMPT;
    assert_int_equal(sp_kv_seq_attach(&w->seq[0], w->pool, tok, N_PROMPT, true, &found), SP_OK);
    return found;
}

/* Computes the prompt as far as it is not known. */
static void compute(world *w, const char *tenant, const uint32_t *tok)
{
    sp_kv_seq *s = &w->seq[0];
    size_t n = N_PROMPT - know(w, tenant, tok), at = s->n_tok;
    assert_int_equal(sp_kv_seq_reserve(s, w->pool, n), SP_OK);
    assert_int_equal(sp_kv_seq_begin(s, w->pool, n, 0), SP_OK);
    for (size_t m = 0; m < s->n_mark; m++)
        put_numbers(s->mark[m].state, at + s->mark[m].n);
    put_numbers(s->next->mem, N_PROMPT);
    assert_int_equal(sp_kv_seq_commit(s, w->pool, tok + at, n), SP_OK);
    sp_kv_seq_fini(s, w->pool);
    while (sp_kv_pool_poll(w->pool) || sp_kv_pool_is_busy(w->pool))
        usleep(100);
}

/* Turns a bit in the body of each snapshot in the folder; how many there are. */
static size_t spoil(const char *dir, bool turn)
{
    enum { MOST = 1 << 20 };
    static uint8_t p[MOST];
    size_t n_snap = 0;
    char path[64];
    snprintf(path, sizeof path, "%s/seg-00000001", dir);
    FILE *f = fopen(path, "r+b");
    assert_non_null(f);
    size_t n = fread(p, 1, MOST, f);
    for (size_t at = 0; at + 4096 <= n; at += 4096) {
        uint32_t head, n_page, first;
        memcpy(&head, p + at + 16, 4), memcpy(&n_page, p + at + 20, 4), memcpy(&first, p + at + 40, 4);
        if (memcmp(p + at, "SPKVREC1", 8) != 0 || n_page != 1 || first != N_KNOWN / SP_PAGE_TOK)
            continue;
        n_snap++;
        p[at + head + 5] ^= turn;
        assert_int_equal(fseek(f, (long)(at + head), SEEK_SET), 0);
        assert_int_equal(fwrite(p + at + head, 1, 16, f), 16);
    }
    assert_int_equal(fclose(f), 0);
    return n_snap;
}

/* Snapshots come back from the disk, of their tenant alone, as they were or rounded; what is not what was written is computed again;
 * what is deleted is off the disk. */
static void test_states_beyond_ram(void **state)
{
    (void)state;
    for (int squeeze = 0; squeeze < 2; squeeze++) {
        char dir[] = "/tmp/sparing-kv-XXXXXX", cmd[64];
        static world w;
        uint32_t tok[N_PROMPT];
        uint8_t tag[SP_KV_TAG];
        squeezes = squeeze;
        assert_non_null(mkdtemp(dir));
        for (size_t i = 0; i < N_PROMPT; i++)
            tok[i] = (uint32_t)(i * i % 31);
        open_world_of(&w, "f32", dir, "auto", 0, true);
        compute(&w, "a", tok);
        close_world(&w);
        open_world_of(&w, "f32", dir, "auto", 0, true);
        assert_int_equal(know(&w, "b", tok), 0);
        sp_kv_seq_fini(&w.seq[0], w.pool);
        assert_int_equal(know(&w, "a", tok), N_KNOWN);
        assert_non_null(w.seq[0].snap_load);
        assert_int_equal(sp_kv_seq_begin(&w.seq[0], w.pool, 0, 0), SP_OK);
        for (size_t i = 0; i < 16; i++)
            assert_float_equal(((float *)w.seq[0].state->mem)[i], number_at(N_KNOWN, i), squeeze ? 2e-2f : 0);
        sp_kv_seq_fini(&w.seq[0], w.pool);
        assert_int_equal(know(&w, "a", tok), N_KNOWN); /* now RAM has it, too */
        assert_null(w.seq[0].snap_load);
        sp_kv_seq_fini(&w.seq[0], w.pool);
        close_world(&w);
        assert_int_equal(spoil(dir, true), 1);
        open_world_of(&w, "f32", dir, "auto", 0, true);
        assert_int_equal(know(&w, "a", tok), N_KNOWN);
        assert_int_equal(sp_kv_seq_begin(&w.seq[0], w.pool, 0, 0), SP_CORRUPT);
        assert_true(w.seq[0].load_failed);
        sp_kv_seq_fini(&w.seq[0], w.pool);
        while (sp_kv_pool_poll(w.pool) || sp_kv_pool_is_busy(w.pool))
            usleep(100);
        assert_int_equal(know(&w, "a", tok), 0);
        sp_kv_seq_fini(&w.seq[0], w.pool);
        compute(&w, "a", tok);
        assert_int_equal(sp_kv_tag(tag, "a"), SP_OK);
        sp_kv_forget all = {.tag = tag};
        sp_kv_pool_forget(w.pool, &all);
        assert_int_equal(sp_kv_tier_forget(w.tier, &all, NULL), SP_OK);
        assert_int_equal(know(&w, "a", tok), 0);
        sp_kv_seq_fini(&w.seq[0], w.pool);
        close_world(&w);
        assert_int_equal(spoil(dir, false), 0);
        snprintf(cmd, sizeof cmd, "rm -rf %s", dir);
        assert_int_equal(system(cmd), 0);
    }
    squeezes = false;
}

/* Rounded states: small errors whatever the numbers are, and no number that is none. */
static void test_squeezed_states(void **state)
{
    (void)state;
    enum { N = 1000 };
    static float x[N], back[N];
    static uint8_t form[2000];
    uint64_t rng = 5;
    assert_true(sp_kv_squeeze_bytes(1 << 20) * 10 <= (4 << 20) * 4);
    assert_int_equal(sp_kv_squeeze_bytes(N), 1600);
    for (int round = 0; round < 4; round++) {
        double err = 0, all = 0, scale = round == 1 ? 1e-30 : round == 2 ? 1e30 : 1;
        for (size_t i = 0; i < N; i++) {
            x[i] = (float)(((double)(test_rand(&rng) % 2001) - 1000) * 1e-3 * scale * (round == 3 && i % 64 == 9 ? 50 : 1));
            all += (double)x[i] * (double)x[i] / scale / scale;
        }
        assert_true(sp_kv_squeeze(form, x, N));
        sp_kv_unsqueeze(back, form, N);
        for (size_t i = 0; i < N; i++)
            err += pow((double)(back[i] - x[i]) / scale, 2);
        assert_true(err <= all * 6e-4 * 6e-4);
    }
    memset(x, 0, sizeof x);
    x[70] = 1e-44f; /* nothing of it can be divided by */
    assert_true(sp_kv_squeeze(form, x, N));
    sp_kv_unsqueeze(back, form, N);
    for (size_t i = 0; i < N; i++)
        assert_true(back[i] == 0);
    x[999] = INFINITY;
    assert_false(sp_kv_squeeze(form, x, N));
}

static void fill(world *w, size_t i, const char *tenant, size_t n)
{
    uint32_t tok[MAX_TOK];
    assert_int_equal(sp_kv_seq_init(&w->seq[i], w->pool, tenant, NULL), SP_OK);
    assert_int_equal(sp_kv_seq_reserve(&w->seq[i], w->pool, n), SP_OK);
    for (size_t k = 0; k < n; k++)
        tok[k] = (uint32_t)k;
    assert_int_equal(sp_kv_seq_commit(&w->seq[i], w->pool, tok, n), SP_OK);
}

static void test_tenants_share_nothing(void **state)
{
    (void)state;
    static world w;
    uint32_t tok[100];
    size_t found;
    open_world(&w);
    for (uint32_t k = 0; k < 100; k++)
        tok[k] = k;
    fill(&w, 0, "alice", 100);
    assert_int_equal(sp_kv_seq_init(&w.seq[1], w.pool, "bob", NULL), SP_OK);
    assert_int_equal(sp_kv_seq_attach(&w.seq[1], w.pool, tok, 100, true, &found), SP_OK);
    assert_int_equal(found, 0);
    assert_int_equal(sp_kv_seq_init(&w.seq[2], w.pool, "alice", NULL), SP_OK);
    assert_int_equal(sp_kv_seq_attach(&w.seq[2], w.pool, tok, 100, true, &found), SP_OK);
    assert_int_equal(found, 96);
    sp_kv_seq_fini(&w.seq[2], w.pool);
    assert_int_equal(sp_kv_seq_init(&w.seq[2], w.pool, "alice", NULL), SP_OK);
    tok[40] = 7; /* the second page differs: only the first is shared */
    assert_int_equal(sp_kv_seq_attach(&w.seq[2], w.pool, tok, 100, true, &found), SP_OK);
    assert_int_equal(found, 32);
    sp_kv_seq_fini(&w.seq[2], w.pool);
    assert_int_equal(sp_kv_seq_init(&w.seq[2], w.pool, "alice", NULL), SP_OK);
    tok[40] = 40;
    assert_int_equal(sp_kv_seq_attach(&w.seq[2], w.pool, tok, 64, true, &found), SP_OK);
    assert_int_equal(found, 32); /* never all of it */
    for (size_t i = 0; i < 3; i++)
        sp_kv_seq_fini(&w.seq[i], w.pool);
    close_world(&w);
}

static void test_salts_share_nothing(void **state)
{
    (void)state;
    static world w;
    uint32_t tok[100];
    size_t found;
    static const char *const salt[] = {"x", NULL, "y", "x"};
    static const size_t known[] = {0, 0, 0, 96};
    open_world(&w);
    for (uint32_t k = 0; k < 100; k++)
        tok[k] = k;
    for (size_t i = 0; i < 4; i++) {
        assert_int_equal(sp_kv_seq_init(&w.seq[0], w.pool, "alice", NULL), SP_OK);
        if (salt[i])
            assert_int_equal(sp_kv_seq_salt(&w.seq[0], salt[i]), SP_OK);
        assert_int_equal(sp_kv_seq_attach(&w.seq[0], w.pool, tok, 100, true, &found), SP_OK);
        assert_int_equal(found, known[i]);
        assert_int_equal(sp_kv_seq_reserve(&w.seq[0], w.pool, 100 - found), SP_OK);
        assert_int_equal(sp_kv_seq_commit(&w.seq[0], w.pool, tok + found, 100 - found), SP_OK);
        sp_kv_seq_fini(&w.seq[0], w.pool);
    }
    uint8_t tag[SP_KV_TAG];
    assert_int_equal(sp_kv_tag(tag, "alice"), SP_OK);
    sp_kv_forget f = {.tag = tag};
    sp_kv_pool_forget(w.pool, &f);
    assert_int_equal(f.n_page, 3 * 3); /* of the tenant, whatever the salt */
    close_world(&w);
}

/* Pages go from one pool to another as bytes; any byte that is not what it was is noticed, and another tenant's are neither given nor taken. */
static void test_pages_are_handed_over(void **state)
{
    (void)state;
    static world from, to;
    uint32_t tok[100];
    sp_sha256 name[3];
    sp_kv_hand h;
    sp_diag d = {0};
    sp_kv_bytes bytes = {0};
    size_t n_page, n_new, found;
    open_world(&from);
    open_world(&to);
    for (uint32_t k = 0; k < 100; k++)
        tok[k] = k;
    fill(&from, 0, "alice", 100);
    assert_int_equal(sp_kv_seq_names(name, from.pool, "alice", NULL, tok, 100), SP_OK);
    assert_int_equal(sp_kv_pool_export(&bytes, &n_page, from.pool, "bob", name, 3, 0), SP_NOTFOUND);
    assert_int_equal(sp_kv_pool_export(&bytes, &n_page, from.pool, "alice", name, 3, 0), SP_OK);
    assert_int_equal(n_page, 3);
    assert_int_equal(sp_kv_hand_read(&h, to.pool, "bob", bytes.p, bytes.n, &d), SP_FORMAT);
    assert_int_equal(sp_kv_hand_read(&h, to.pool, "alice", bytes.p, bytes.n - 1, &d) == SP_OK, 0);
    size_t n_bad = 0;
    for (size_t at = 0; at < bytes.n; at += 97) {
        bytes.p[at] ^= 4;
        n_bad += sp_kv_hand_read(&h, to.pool, "alice", bytes.p, bytes.n, NULL) == SP_OK;
        bytes.p[at] ^= 4;
    }
    assert_true(n_bad * 97 < bytes.n / 2); /* only what lies between the parts is of no matter */
    assert_int_equal(sp_kv_hand_read(&h, to.pool, "alice", bytes.p, bytes.n, &d), SP_OK);
    assert_int_equal(sp_kv_pool_count(&n_page, to.pool, "alice", name, 3), SP_OK);
    assert_int_equal(n_page, 0);
    assert_int_equal(sp_kv_pool_import(&n_new, to.pool, &h, NULL), SP_OK);
    assert_int_equal(n_new, 3);
    assert_int_equal(sp_kv_pool_count(&n_page, to.pool, "alice", name, 3), SP_OK);
    assert_int_equal(n_page, 3);
    assert_int_equal(sp_kv_pool_count(&n_page, to.pool, "bob", name, 3), SP_OK);
    assert_int_equal(n_page, 0);
    assert_int_equal(sp_kv_pool_import(&n_new, to.pool, &h, NULL), SP_OK);
    assert_int_equal(n_new, 0);
    assert_int_equal(sp_kv_pool_check(to.pool, NULL), SP_OK);
    assert_int_equal(sp_kv_seq_init(&to.seq[0], to.pool, "alice", NULL), SP_OK);
    assert_int_equal(sp_kv_seq_attach(&to.seq[0], to.pool, tok, 100, true, &found), SP_OK);
    assert_int_equal(found, 96);
    for (size_t i = 0; i < 3; i++)
        assert_memory_equal(to.seq[0].page[i], from.seq[0].page[i], sp_kv_page_bytes(sp_kv_pool_shape(from.pool)) - sp_kv_lo_bytes(sp_kv_pool_shape(from.pool)));
    sp_kv_seq_fini(&to.seq[0], to.pool);
    sp_kv_seq_fini(&from.seq[0], from.pool);
    sp_mem_free(bytes.p);
    close_world(&from);
    close_world(&to);
}

/* Pages and the state behind them go from one pool to another, to the bit. */
static void test_states_are_handed_over(void **state)
{
    (void)state;
    static world from, to, bare;
    uint32_t tok[N_PROMPT];
    sp_sha256 name[N_PROMPT / SP_PAGE_TOK];
    sp_kv_hand h;
    sp_diag d = {0};
    sp_kv_bytes bytes = {0};
    size_t n_page, n_new, n_names = N_KNOWN / SP_PAGE_TOK;
    squeezes = false;
    for (size_t i = 0; i < N_PROMPT; i++)
        tok[i] = (uint32_t)(i * i % 31);
    open_world_of(&from, "f32", NULL, NULL, 0, true);
    open_world_of(&to, "f32", NULL, NULL, 0, true);
    open_world(&bare);
    compute(&from, "a", tok);
    assert_int_equal(sp_kv_seq_names(name, from.pool, "a", NULL, tok, N_KNOWN), SP_OK);
    for (size_t at = 0; at < n_names; at += n_page) {
        assert_int_equal(sp_kv_pool_export(&bytes, &n_page, from.pool, "a", name + at,
                                           n_names - at, at),
                         SP_OK);
        assert_int_equal(sp_kv_hand_read(&h, to.pool, "a", bytes.p, bytes.n, &d), SP_OK);
        assert_false(sp_kv_rec_is_state(&h.head.rec));
        assert_int_equal(sp_kv_pool_import(&n_new, to.pool, &h, NULL), SP_OK);
        assert_int_equal(n_new, n_page);
    }
    assert_int_equal(know(&to, "a", tok), 0); /* pages alone are of no use */
    sp_kv_seq_fini(&to.seq[0], to.pool);
    assert_int_equal(sp_kv_pool_export_state(&bytes, from.pool, "b", name, n_names),
                     SP_NOTFOUND);
    assert_int_equal(sp_kv_pool_export_state(&bytes, bare.pool, "a", name, n_names),
                     SP_NOTFOUND);
    assert_int_equal(sp_kv_pool_export_state(&bytes, from.pool, "a", name, n_names), SP_OK);
    assert_int_equal(sp_kv_hand_read(&h, to.pool, "b", bytes.p, bytes.n, &d), SP_FORMAT);
    assert_int_equal(sp_kv_hand_read(&h, bare.pool, "a", bytes.p, bytes.n, &d), SP_FORMAT);
    size_t n_bad = 0;
    /* only what fills up the head's and the body's last block is of no matter */
    for (size_t at = 0; at < bytes.n; at += 13) {
        bytes.p[at] ^= 4;
        n_bad += sp_kv_hand_read(&h, to.pool, "a", bytes.p, bytes.n, NULL) == SP_OK;
        bytes.p[at] ^= 4;
    }
    assert_true(n_bad * 13 < SP_KV_ALIGN);
    assert_int_equal(sp_kv_hand_read(&h, to.pool, "a", bytes.p, bytes.n, &d), SP_OK);
    assert_true(sp_kv_rec_is_state(&h.head.rec) && h.head.rec.first == n_names);
    for (size_t i = 2; i-- > 0;) {
        assert_int_equal(sp_kv_pool_import_state(&n_new, to.pool, &h), SP_OK);
        assert_int_equal(n_new, i);
    }
    assert_int_equal(sp_kv_pool_check(to.pool, NULL), SP_OK);
    assert_int_equal(know(&to, "a", tok), N_KNOWN);
    for (size_t i = 0; i < 16; i++)
        assert_float_equal(((float *)to.seq[0].state->mem)[i], number_at(N_KNOWN, i), 0);
    sp_kv_seq_fini(&to.seq[0], to.pool);
    sp_mem_free(bytes.p);
    close_world(&from);
    close_world(&to);
    close_world(&bare);
}

static void test_full_pool_says_again(void **state)
{
    (void)state;
    static world w;
    open_world(&w);
    fill(&w, 0, "a", N_PAGE * SP_PAGE_TOK / 3);
    assert_int_equal(sp_kv_seq_init(&w.seq[1], w.pool, "a", NULL), SP_OK);
    assert_int_equal(sp_kv_seq_reserve(&w.seq[1], w.pool, N_PAGE * SP_PAGE_TOK), SP_AGAIN);
    sp_kv_seq_fini(&w.seq[1], w.pool);
    assert_int_equal(sp_kv_pool_check(w.pool, NULL), SP_OK);
    sp_kv_seq_fini(&w.seq[0], w.pool);
    close_world(&w);
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    for (long nth = 1, hits = 0;; nth++) {
        static world w;
        open_world(&w);
        sp_fault_arm(SP_FAULT_MEM, nth);
        sp_kv_seq s;
        sp_err err = sp_kv_seq_init(&s, w.pool, "a", NULL);
        if (err == SP_OK)
            err = sp_kv_seq_reserve(&s, w.pool, 100);
        bool hit = sp_fault_was_hit(SP_FAULT_MEM);
        sp_fault_arm(SP_FAULT_MEM, 0);
        assert_true(hit ? err == SP_NOMEM : err == SP_OK);
        assert_int_equal(sp_kv_pool_check(w.pool, NULL), SP_OK);
        sp_kv_seq_fini(&s, w.pool);
        close_world(&w);
        hits += hit;
        if (!hit) {
            assert_true(hits >= 5);
            return;
        }
    }
}

/* What it finds is this machine's; that it is one of its lengths, and when it does not look, is not. */
/* Layers lie behind each other, whatever their heads are, and blocks of as few of them as can be have the same bytes. */
static void test_layers_of_other_sizes(void **state)
{
    (void)state;
    enum { MOST = 6 };
    static const struct { sp_kv_heads of[MOST]; size_t n_layer, n_block; } row[] = {
        {{{2, 64}, {2, 64}, {2, 64}}, 3, 3},
        {{{2, 64}, {1, 128}, {2, 64}, {1, 128}}, 4, 2},
        {{{2, 64}, {2, 64}, {1, 128}, {2, 64}, {2, 64}, {1, 128}}, 6, 2},
        {{{2, 64}, {2, 64}, {1, 128}, {2, 64}, {2, 64}}, 5, 1},
        {{{1, 64}, {2, 64}}, 2, 1}};
    static const char *const formats[] = {"q8", "q4", "f16", "f32"};
    for (size_t i = 0; i < 4 * sizeof row / sizeof row[0]; i++) {
        const sp_kv_shape s = {.format = sp_kv_format_find(formats[i % 4]), .n_layer = row[i / 4].n_layer, .of = row[i / 4].of};
        size_t hi = 0, lo = 0, open = 0, n_block = sp_kv_page_blocks(&s);
        assert_int_equal(n_block, row[i / 4].n_block);
        assert_true(sp_kv_shape_fits(&s));
        for (size_t l = 0; l < s.n_layer; l++) {
            const sp_dev_kv_view v = sp_kv_page_view(&s, l);
            assert_true(v.n_head == s.of[l].n_head && v.d == s.of[l].d && v.layer_at == hi && v.lo_at == lo && v.open_at == open);
            assert_int_equal(sp_kv_page_block_of(&s, l), l * n_block / s.n_layer);
            hi += v.n_head * v.head_bytes;
            lo += v.n_head * v.lo_bytes;
            open += v.n_head * v.open_bytes;
        }
        assert_true(sp_kv_page_bytes(&s) == hi + lo && sp_kv_lo_bytes(&s) == lo && sp_kv_open_bytes(&s) == (s.format->is_planes ? open : 0));
        for (size_t l = 0; l < s.n_layer; l += s.n_layer / n_block)
            assert_int_equal(sp_kv_page_view(&s, l).layer_at, hi / n_block * sp_kv_page_block_of(&s, l));
    }
    const sp_kv_heads wide[] = {{1, 64}, {1, 528}};
    const sp_kv_shape one = {.format = sp_kv_format_find("q8"), .n_layer = 2, .of = wide};
    assert_false(sp_kv_shape_fits(&one));
}

static void test_pays_from(void **state)
{
    (void)state;
    static const struct { const char *format; size_t n_ctx; bool looks; } row[] = {
        {"q8", 8192, true}, {"q8", 6000, true}, {"q8", 4095, false}, {"q4", 8192, false}, {"f16", 8192, false}};
    sp_dev_cfg cfg = {.name = "cpu", .n_thread = 2, .mask = SP_CPU_LEVELS - 1};
    sp_dev *dev;
    assert_int_equal(sp_dev_open(&dev, &cfg, NULL), SP_OK);
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        const sp_kv_shape shape = {.format = sp_kv_format_find(row[i].format), .n_layer = 2, .n_head = 1, .d = 64};
        size_t from = 0;
        assert_int_equal(sp_kv_pays_from(&from, dev, &shape, 2, 0.02f, row[i].n_ctx), SP_OK);
        assert_true(from == SIZE_MAX || (row[i].looks && (from == 4096 || from == 6144 || from == 8192) && from <= row[i].n_ctx));
    }
    for (long n = 1;; n++) { /* each allocation fails once */
        const sp_kv_shape shape = {.format = sp_kv_format_find("q8"), .n_layer = 1, .n_head = 1, .d = 64};
        size_t from;
        sp_fault_arm(SP_FAULT_MEM, n);
        sp_err err = sp_kv_pays_from(&from, dev, &shape, 2, 0.02f, 4096);
        bool failed = sp_fault_was_hit(SP_FAULT_MEM);
        sp_fault_arm(SP_FAULT_MEM, 0);
        assert_int_equal(err, failed ? SP_NOMEM : SP_OK);
        if (!failed)
            break;
    }
    sp_dev_close(dev);
}

/* A sequence far longer than the pool: it holds its window alone, and the end of it is found again though the beginning is lost. */
static void test_window(void **state)
{
    (void)state;
    enum { N = 2000, W = 40 };
    static uint32_t tok[N + 1];
    world w;
    sp_kv_stat st;
    size_t found;
    open_world_of(&w, "f32", NULL, NULL, W, false);
    assert_true(sp_kv_pool_positions(w.pool, 25) == SIZE_MAX && sp_kv_pool_positions(w.pool, N_PAGE * 32) == N_PAGE * 32);
    sp_kv_seq *s = &w.seq[0];
    assert_int_equal(sp_kv_seq_init(s, w.pool, "a", NULL), SP_OK);
    for (size_t at = 0; at < N; at += 25) {
        for (size_t k = at; k < at + 25; k++)
            tok[k] = (uint32_t)(k * k % 97);
        assert_int_equal(sp_kv_seq_reserve(s, w.pool, 25), SP_OK);
        assert_int_equal(sp_kv_seq_commit(s, w.pool, tok + at, 25), SP_OK);
        sp_kv_pool_stat(w.pool, &st);
        assert_true(st.n_pinned <= 3);
    }
    sp_kv_seq_fini(s, w.pool);
    assert_int_equal(sp_kv_seq_init(s, w.pool, "a", NULL), SP_OK);
    assert_int_equal(sp_kv_seq_attach(s, w.pool, tok, N, false, &found), SP_OK);
    assert_int_equal(found, (N - 1) / 32 * 32);
    assert_true(s->n_gone == (found + 1 - W) / 32 && s->page[s->n_gone] && !s->page[s->n_gone - 1]);
    sp_kv_seq_fini(s, w.pool);
    assert_int_equal(sp_kv_seq_init(s, w.pool, "a", NULL), SP_OK);
    assert_int_equal(sp_kv_seq_attach(s, w.pool, tok, 1000, false, &found), SP_OK); /* what these would see is lost */
    assert_int_equal(found, 0);
    sp_kv_seq_fini(s, w.pool);
    assert_int_equal(sp_kv_seq_init(s, w.pool, "a", NULL), SP_OK);
    s->holds_all = true; /* read by its numbers later: the whole prefix or nothing */
    assert_int_equal(sp_kv_seq_attach(s, w.pool, tok, N, false, &found), SP_OK);
    assert_int_equal(found, 0);
    assert_int_equal(sp_kv_seq_reserve(s, w.pool, 100), SP_OK);
    assert_int_equal(sp_kv_seq_commit(s, w.pool, tok, 100), SP_OK);
    assert_true(s->n_gone == 0 && s->page[0]);
    sp_kv_seq_fini(s, w.pool);
    close_world(&w);
    open_world(&w);
    assert_int_equal(sp_kv_pool_positions(w.pool, 25), N_PAGE * 32);
    close_world(&w);
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_window), cmocka_unit_test(test_random_operations), cmocka_unit_test(test_tenants_share_nothing), cmocka_unit_test(test_salts_share_nothing), cmocka_unit_test(test_pages_are_handed_over), cmocka_unit_test(test_states_are_handed_over),
                                       cmocka_unit_test(test_full_pool_says_again), cmocka_unit_test(test_every_allocation_may_fail),
                                       cmocka_unit_test(test_layers_of_other_sizes), cmocka_unit_test(test_pays_from),
                                       cmocka_unit_test(test_states_beyond_ram), cmocka_unit_test(test_squeezed_states)};
    return cmocka_run_group_tests_name("kv", tests, NULL, NULL) + run_store_tests();
}
