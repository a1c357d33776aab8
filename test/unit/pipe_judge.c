/* What a judge is told, what its verdicts mean, and what a round makes of them. */
#include "pipe/improve.h"
#include "pipe/judge.h"
#include "test.h"

#include <math.h>
#include <string.h>

static sp_str str(const char *s)
{
    return (sp_str){s, strlen(s)};
}

void test_judge_says(void **state)
{
    (void)state;
    static const struct {
        const char *said;
        sp_judged is;
    } of[] = {{"A", SP_JUDGED_A},         {" b.\n", SP_JUDGED_B}, {"Tie", SP_JUDGED_TIE},
              {"A is better", SP_JUDGED_NOTHING}, {"", SP_JUDGED_NOTHING}, {"AB", SP_JUDGED_NOTHING}};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        assert_int_equal(sp_judge_read(of[i].said), of[i].is);
    for (sp_judged a = SP_JUDGED_A; a <= SP_JUDGED_NOTHING; a++)
        for (sp_judged b = SP_JUDGED_A; b <= SP_JUDGED_NOTHING; b++)
            assert_int_equal(sp_judge_both(a, b), a == SP_JUDGED_A && b == SP_JUDGED_B   ? -1
                                                  : a == SP_JUDGED_B && b == SP_JUDGED_A ? 1
                                                                                         : 0);
}

/* Long texts of two-byte characters lose their middle, and no half of a character stays. */
void test_judge_is_told(void **state)
{
    (void)state;
    sp_buf long_one = {0}, out = {0};
    sp_buf_puts(&long_one, "begin ");
    for (size_t i = 0; i < 20000; i++)
        sp_buf_puts(&long_one, "\u00fc");
    sp_buf_puts(&long_one, " end");
    sp_judge_ask(&out, str("What?"), str(""), (sp_str){long_one.p, long_one.len}, str("no"));
    const char *text = sp_buf_str(&out);
    assert_true(out.len < SP_JUDGE_BYTES + 1000);
    assert_non_null(strstr(text, "begin \u00fc"));
    assert_non_null(strstr(text, "\u00fc end\n[end of answer A]"));
    assert_non_null(strstr(text, "[answer B]\nno\n"));
    assert_null(strstr(text, "known to be good"));
    for (const char *p = text; (p = strstr(p, "\xc3")); p++)
        assert_true(p[1] == '\xbc');
    sp_buf_clear(&out);
    sp_judge_ask(&out, str("What?"), str("That."), str("yes"), str("no"));
    assert_non_null(strstr(sp_buf_str(&out), "good]\nThat.\n"));
    sp_buf_fini(&long_one);
    sp_buf_fini(&out);
}

/* Answers that a judge compares by the number of drafts that made them. */
typedef struct desk {
    int likes; /* 1: the try; -1: what is in force; 0: neither */
    bool fails; /* the try's answers fail */
    size_t n_judged;
} desk;

static sp_err answer(void *arg, sp_outcome *out, size_t at, const sp_knobs *k, sp_diag *d)
{
    const desk *w = arg;
    (void)at;
    (void)d;
    *out = (sp_outcome){.cost = 1, .ms = 1, .judged = true};
    out->failed = w->fails && k->v[SP_KNOB_DRAFT] < 8;
    sp_buf_printf(&out->text, "%g", k->v[SP_KNOB_DRAFT]);
    return SP_OK;
}

static sp_err judge(void *arg, int *out, size_t at, const sp_outcome *now, const sp_outcome *try,
                    sp_diag *d)
{
    desk *w = arg;
    (void)at;
    (void)d;
    assert_string_equal(sp_buf_str(&now->text), "8");
    w->n_judged++;
    *out = strcmp(sp_buf_str(&try->text), "4") == 0 ? w->likes : 0;
    return SP_OK;
}

void test_judge_in_a_round(void **state)
{
    (void)state;
    sp_improve_cfg cfg = {.decide = {.alpha = 0.05, .margin = 0.02, .gain = 0.05, .slower = 2},
                          .tries = 12,
                          .cap_search = 40,
                          .cap_held = 40,
                          .answer = answer,
                          .judge = judge};
    const sp_failures none = {0};
    for (int likes = -1; likes <= 1; likes++) {
        desk w = {.likes = likes};
        sp_knobs k = {{0}, {0}};
        sp_round out;
        k.v[SP_KNOB_DRAFT] = 8;
        cfg.arg = &w;
        assert_int_equal(sp_improve(&out, &cfg, &k, &k, &none, 40, 80, NULL), SP_OK);
        assert_int_equal(out.held.wins, likes == 1);
        assert_true(w.n_judged > 0);
        if (likes != 1)
            continue;
        assert_true(out.tried[out.best].what.knob == SP_KNOB_DRAFT && out.tried[out.best].what.to == 4);
        assert_true(out.held.n_judged == 40 && out.held.judged_won == 40 && out.held.judged_lost == 0);
        assert_true(out.held.quality[0] == 0 && out.held.quality[1] == 0);
        assert_true(fabs(out.held.mean_difference - 1) < 1e-9);
        cfg.decide.floor = 0.5; /* no answer was checked, so nothing says that it is kept */
        w.n_judged = 0;
        assert_int_equal(sp_improve(&out, &cfg, &k, &k, &none, 40, 80, NULL), SP_OK);
        assert_false(out.held.wins);
        cfg.decide.floor = 0;
        w.fails = true;
        assert_int_equal(sp_improve(&out, &cfg, &k, &k, &none, 40, 80, NULL), SP_OK);
        assert_false(out.held.wins);
    }
}
