/* Drafters that guess from texts, the window, and who is listened to. */
#include "test.h"

#include "gen/earlier.h"
#include "gen/guesser.h"
#include "kv/page.h"
#include "kv/record.h"

#include <math.h>

void test_lookup(void **state);
void test_predictions(void **state);
void test_earlier_answers(void **state);
void test_earlier_budget(void **state);
void test_window(void **state);
void test_worth(void **state);
void test_guesser(void **state);

static sp_draft_source lookup = {.kind = &sp_draft_lookup}, prediction = {.kind = &sp_draft_prediction};

static sp_drafter *start(sp_draft_source *s, const sp_draft_answer *a)
{
    sp_drafter *d = NULL;
    assert_int_equal(s->kind->start(s, &d, a), SP_OK);
    return d;
}

static sp_draft guess(sp_drafter *d, const uint32_t *tok, size_t n, size_t n_prompt)
{
    sp_draft out = {0};
    const sp_draft_text t = {tok, n, n_prompt};
    d->kind->propose(d, &out, &t);
    return out;
}

void test_lookup(void **state)
{
    (void)state;
    sp_drafter *d = start(&lookup, &(sp_draft_answer){.tenant = "t"});
    /* 1 2 3 comes twice, first before 9, then before 8: the longest agreement counts, and of equal
     * ones the newest */
    const uint32_t tok[] = {7, 1, 2, 3, 9, 5, 1, 2, 3, 8, 4, 1, 2, 3};
    sp_draft g = guess(d, tok, 14, 0);
    assert_int_equal(g.match, 3);
    assert_int_equal(g.n, SP_DRAFT_MAX);
    const uint32_t next[] = {8, 4, 1, 2, 3, 8, 4}; /* past the end it goes round */
    assert_memory_equal(g.tok, next, sizeof next);
    g = guess(d, (const uint32_t[]){7, 1, 2, 3, 9, 6, 1, 2, 3, 8, 7, 1, 2, 3}, 14, 0);
    assert_int_equal(g.match, 4);
    assert_int_equal(g.tok[0], 9);
    assert_int_equal(guess(d, tok, 5, 0).n, 0); /* 9 is new */
    assert_int_equal(guess(d, tok, 1, 0).n, 0);
    uint32_t same[40];
    for (size_t i = 0; i < 40; i++)
        same[i] = 6;
    g = guess(d, same, 40, 0);
    assert_int_equal(g.match, 32);
    assert_int_equal(g.tok[SP_DRAFT_MAX - 1], 6);
    d->kind->end(d, NULL);
}

void test_predictions(void **state)
{
    (void)state;
    const uint32_t text[] = {5, 6, 7, 5, 6, 8, 9}, said[] = {1, 5, 6, 8};
    sp_drafter *d =
        start(&prediction, &(sp_draft_answer){.tenant = "t", .predicted = text, .n_predicted = 7});
    sp_draft g = guess(d, said, 3, 1); /* the first place of two equal ones */
    assert_true(g.n == 5 && g.tok[0] == 7 && g.match == 2 + 8);
    const sp_draft_text now = {said, 4, 1};
    d->kind->took(d, &now, &g); /* 8 and not 7: the next place, and less trust */
    g = guess(d, said, 3, 1);
    assert_true(g.n == 2 && g.tok[0] == 8 && g.match == 2 + 4);
    assert_int_equal(guess(d, said, 1, 0).n, 0); /* 1 is nowhere */
    assert_int_equal(guess(d, said, 3, 3).n, 0); /* of the prompt nothing counts */
    d->kind->end(d, NULL);
    assert_null(start(&prediction, &(sp_draft_answer){.tenant = "t"}));
}

/* An answer of a tenant's that came to its end. */
static void say(sp_draft_source *s, const sp_draft_answer *a, const uint32_t *tok, size_t n)
{
    sp_drafter *d = start(s, a);
    const sp_draft_text t = {tok, n, 0};
    d->kind->end(d, &t);
}

static sp_draft ask(sp_draft_source *s, const char *tenant, const uint32_t *tok, size_t n)
{
    sp_drafter *d = start(s, &(sp_draft_answer){.tenant = tenant});
    sp_draft g = guess(d, tok, n, n);
    d->kind->end(d, NULL);
    return g;
}

static void forget(sp_draft_source *s, const char *tenant, const char *conv)
{
    uint8_t tag[SP_KV_TAG], conv_tag[SP_KV_TAG];
    assert_int_equal(sp_kv_tag(tag, tenant), SP_OK);
    assert_int_equal(conv ? sp_kv_tag(conv_tag, conv) : SP_OK, SP_OK);
    s->kind->forget(s, tag, conv ? conv_tag : NULL);
}

void test_earlier_answers(void **state)
{
    (void)state;
    const uint32_t said[] = {1, 2, 3, 4, 5, 6, 7}, newer[] = {9, 2, 3, 4, 8},
                   asked[] = {0, 2, 3, 4}, longer[] = {0, 1, 2, 3, 4};
    const sp_draft_answer ann = {.tenant = "ann", .conv = "c1"},
                          ann2 = {.tenant = "ann", .conv = "c2"};
    sp_draft_source *s;
    assert_int_equal(sp_earlier_new(&s, 1 << 20), SP_OK);
    say(s, &ann, said, 7);
    sp_draft g = ask(s, "ann", asked, 4);
    assert_true(g.n == 3 && g.match == 3 && g.tok[0] == 5 && g.tok[2] == 7);
    assert_int_equal(ask(s, "ann", asked + 1, 2).n, 0); /* two tokens are too few */
    assert_int_equal(ask(s, "bob", asked, 4).n, 0);     /* another tenant's */
    say(s, &ann2, newer, 5);
    assert_int_equal(ask(s, "ann", asked, 4).tok[0], 8);  /* of equal ones the newest */
    assert_int_equal(ask(s, "ann", longer, 5).tok[0], 5); /* the longest */
    forget(s, "ann", "c2");
    assert_int_equal(ask(s, "ann", asked, 4).tok[0], 5);
    forget(s, "ann", NULL);
    assert_int_equal(ask(s, "ann", asked, 4).n, 0);
    assert_int_equal(sp_earlier_bytes(s), 0);
    say(s, &(sp_draft_answer){.tenant = "ann", .is_private = true}, said, 7);
    assert_int_equal(ask(s, "ann", asked, 4).n, 0);
    /* What was being written when something was forgotten is not kept. */
    sp_drafter *d = start(s, &ann);
    forget(s, "ann", NULL);
    d->kind->end(d, &(const sp_draft_text){said, 7, 0});
    assert_int_equal(ask(s, "ann", asked, 4).n, 0);
    sp_earlier_free(s);
}

/* Many answers of random length, against the texts themselves: a guess always stands in an answer
 * of the tenant's that is still kept. */
void test_earlier_budget(void **state)
{
    (void)state;
    enum { KEPT = 40 };
    static uint32_t tok[KEPT][3000];
    size_t n_tok[KEPT] = {0}, n_hit = 0;
    uint64_t seed = 7;
    sp_draft_source *s;
    assert_int_equal(sp_earlier_new(&s, 1), SP_OK); /* a book is always allowed, one here */
    for (size_t i = 0; i < 2000; i++) {
        size_t k = i % KEPT;
        n_tok[k] = 4 + test_rand(&seed) % (i % 50 ? 300 : 2990);
        for (size_t j = 0; j < n_tok[k]; j++)
            tok[k][j] = test_rand(&seed) % 5 ? tok[(k + KEPT - 1) % KEPT][j] : test_rand(&seed) % 9;
        say(s, &(sp_draft_answer){.tenant = "t"}, tok[k], n_tok[k]);
        size_t at = test_rand(&seed) % (n_tok[k] - 3);
        sp_draft g = ask(s, "t", tok[k] + at, 3);
        n_hit += g.n > 0;
        bool found = g.n == 0;
        for (size_t a = 0; a < KEPT && !found; a++)
            for (size_t j = 0; j + 3 + g.n <= n_tok[a] && !found; j++)
                found = memcmp(tok[a] + j, tok[k] + at, 12) == 0 &&
                        memcmp(tok[a] + j + 3, g.tok, g.n * sizeof *g.tok) == 0;
        assert_true(found);
    }
    assert_true(n_hit > 1500);
    size_t one = sp_earlier_bytes(s);
    say(s, &(sp_draft_answer){.tenant = "other"}, tok[0], n_tok[0]);
    assert_int_equal(sp_earlier_bytes(s), one);
    assert_int_equal(ask(s, "t", tok[0], 3).n, 0); /* its book had to go */
    sp_earlier_free(s);
}

void test_window(void **state)
{
    (void)state;
    sp_window w = {0};
    float logits[100] = {0};
    sp_window_see(&w, logits, 100);
    assert_true(fabs(sp_window_entropy(&w) - log(100)) < 1e-4 && fabs(sp_window_margin(&w)) < 1e-9);
    logits[37] = 30;
    logits[99] = 20;
    for (size_t i = 0; i < SP_WINDOW; i++)
        sp_window_see(&w, logits, 100);
    assert_true(sp_window_entropy(&w) < 1e-3 && fabs(sp_window_margin(&w) - 10) < 1e-5);
    logits[3] = NAN;
    sp_window_see(&w, logits, 0);
    assert_true(isfinite(sp_window_entropy(&w)) && isfinite(sp_window_margin(&w)));
    /* More agreement and more right guesses make the next one surer; weights follow what happens,
     * and come back. */
    sp_accept a;
    sp_accept_init(&a);
    sp_window fresh = {0};
    sp_draft one = {.n = 1, .match = 1}, many = {.n = 1, .match = 20};
    sp_accept_at few = sp_window_at(&fresh, SP_DRAFT_LOOKUP, &one, 0),
                 more = sp_window_at(&fresh, SP_DRAFT_LOOKUP, &many, 0);
    double before = sp_accept_of(&a, SP_DRAFT_LOOKUP, &few);
    assert_true(before > 0 && before < sp_accept_of(&a, SP_DRAFT_LOOKUP, &more) &&
                sp_accept_of(&a, SP_DRAFT_LOOKUP, &more) < 1);
    sp_window_note(&fresh, SP_DRAFT_LOOKUP, true, true, 0.5, 0.1);
    sp_accept_at late = sp_window_at(&fresh, SP_DRAFT_LOOKUP, &one, 0);
    assert_true(sp_accept_of(&a, SP_DRAFT_LOOKUP, &late) > before);
    for (size_t i = 0; i < 300; i++)
        sp_accept_note(&a, SP_DRAFT_LOOKUP, &few, true);
    double taught = sp_accept_of(&a, SP_DRAFT_LOOKUP, &few);
    assert_true(taught > before + 0.2 && taught < 1);
    for (size_t i = 0; i < 600; i++)
        sp_accept_note(&a, SP_DRAFT_LOOKUP, &few, false);
    assert_true(sp_accept_of(&a, SP_DRAFT_LOOKUP, &few) < before);
}

void test_worth(void **state)
{
    (void)state;
    sp_window w = {0};
    for (size_t i = 0; i < 50; i++) {
        sp_window_note(&w, SP_DRAFT_LOOKUP, true, true, 0.9, 0.2);
        sp_window_note(&w, SP_DRAFT_EARLIER, true, false, 0.9, 0.2);
        sp_window_note(&w, SP_DRAFT_PREDICTION, true, false, 0.1,
                       0.2); /* it would not have been made */
    }
    assert_true(w.worth[SP_DRAFT_LOOKUP] > 1 && w.worth[SP_DRAFT_EARLIER] < -1 &&
                fabs(w.worth[SP_DRAFT_PREDICTION]) < 1e-12);
    assert_int_equal(w.right[SP_DRAFT_LOOKUP] & 0xfff, 0xfff);
    assert_int_equal(w.right[SP_DRAFT_EARLIER], 0);
    for (size_t i = 0; i < 400; i++)
        sp_window_note(&w, SP_DRAFT_EARLIER, false, false, 0, 0.2);
    assert_true(fabs(w.worth[SP_DRAFT_EARLIER]) < 0.01);
}

/* Two drafters, one of which the answer follows: the guesser comes to listen to it, guesses nothing
 * where it costs too much, and takes all there is where it is told to. */
void test_guesser(void **state)
{
    (void)state;
    enum { N = 120 };
    uint32_t tok[2 * N];
    for (size_t i = 0; i < N; i++)
        tok[i] = (uint32_t)(100 + i); /* nothing repeats */
    double cheap[SP_DRAFT_MAX], dear[SP_DRAFT_MAX], p[SP_DRAFT_MAX];
    for (size_t i = 0; i < SP_DRAFT_MAX; i++) {
        cheap[i] = 0.05 * (double)(i + 1);
        dear[i] = 2.0 * (double)(i + 1);
    }
    sp_drafts all = {.source = {&lookup, &prediction}, .n = 2};
    sp_accept_init(&all.accept);
    sp_guesser g = {0};
    sp_draft_answer a = {.tenant = "t", .predicted = tok, .n_predicted = N};
    assert_int_equal(sp_guesser_start(&g, &all, ~0u, &a), SP_OK);
    size_t n_right = 0;
    for (size_t i = 1; i < N; i++) { /* the answer is the prediction */
        const sp_draft_text before = {tok, i, 0}, after = {tok, i + 1, 0};
        const sp_guess_ask ask = {.cap = 8, .more = cheap, .n_seq = 1};
        assert_int_equal(sp_guesser_look(&g, &before, &ask), 0);
        size_t n = sp_guesser_choose(&g, &before, &ask, p);
        assert_true(n == 0 || (g.chosen == SP_DRAFT_PREDICTION && p[0] <= 1 && p[n - 1] <= p[0]));
        sp_guesser_note(&g, &after);
        n_right += n && g.was_right;
    }
    assert_true(n_right > N - 10);
    const sp_draft_text end = {tok, N - 5, 0};
    const sp_guess_ask costly = {.cap = 8, .more = dear, .n_seq = 1},
                       fixed = {.cap = 3, .more = dear, .n_seq = 1, .fixed = true},
                       none = {.cap = 0, .more = dear, .n_seq = 1};
    g.draft[SP_DRAFT_PREDICTION] = (sp_draft){0};
    assert_int_equal(sp_guesser_look(&g, &end, &costly), 0);
    assert_int_equal(sp_guesser_choose(&g, &end, &costly, p), 0);
    assert_int_equal(sp_guesser_choose(&g, &end, &fixed, p), 3);
    assert_int_equal(sp_guesser_choose(&g, &end, &none, p), 0);
    /* The same guess is made for one answer and not beside fifteen others, where it costs as much. */
    double some[SP_DRAFT_MAX];
    for (size_t i = 0; i < SP_DRAFT_MAX; i++)
        some[i] = 0.3 * (double)(i + 1);
    const sp_guess_ask alone = {.cap = 8, .more = some, .n_seq = 1},
                       crowd = {.cap = 8, .more = some, .n_seq = 16};
    assert_true(sp_guesser_choose(&g, &end, &alone, p) > 0);
    assert_int_equal(sp_guesser_choose(&g, &end, &crowd, p), 0);
    sp_guesser_end(&g, &end);
    assert_int_equal(sp_guesser_start(&g, &all, 1u << SP_DRAFT_LOOKUP, &a),
                     SP_OK); /* only who is named */
    assert_true(g.drafter[SP_DRAFT_LOOKUP] && !g.drafter[SP_DRAFT_PREDICTION]);
    sp_guesser_end(&g, NULL);
}
