/* What a variant sets in a request, and that what the request says itself stands above it. */
#include "pipe/experiment.h"
#include "test.h"

#include <stdio.h>
#include <string.h>
#include <unistd.h>

static sp_err load(sp_experiments **out, const char *text, sp_diag *d)
{
    char path[] = "/tmp/sparing_settings_XXXXXX";
    int fd = mkstemp(path);
    assert_true(fd >= 0 && write(fd, text, strlen(text)) == (ssize_t)strlen(text));
    close(fd);
    sp_err err = sp_experiments_load(out, path, d);
    unlink(path);
    return err;
}

static sp_ask *chat(const char *text)
{
    sp_ask *q = sp_ask_new("t");
    assert_non_null(q);
    q->chat = true;
    q->msg = sp_arena_alloc(&q->a, 3 * sizeof *q->msg);
    q->msg[0] = sp_chat_say("user", text, strlen(text));
    q->n_msg = 1;
    q->plan.think_tok = q->plan.draft = -1;
    return q;
}

static const char *const ALL =
    "experiments:\n  - name: e\n    variants:\n"
    "      - {name: a, weight: 1e-6}\n"
    "      - {name: b, weight: 1e6, set: {template: '{\"style\": 1}', drafters: 'lookup,head', "
    "think_tokens: 40, priority: -2, place: far, model: other, draft: 3}}\n";

void test_settings_in_a_request(void **state)
{
    (void)state;
    sp_experiments *x;
    sp_exposure out[SP_EXPERIMENTS];
    sp_diag d = {0};
    size_t n;
    assert_int_equal(load(&x, ALL, &d), SP_OK);
    for (int said = 0; said < 2; said++) {
        sp_ask *q = chat("What?");
        if (said) {
            q->kwargs = (sp_str){"{}", 2};
            q->plan.drafters = 1u << SP_DRAFT_MTP;
            q->plan.think_tok = 7;
            q->priority = 1;
            q->plan.draft = 0;
        }
        assert_string_equal(sp_experiments_model(x, "t", sp_experiments_unit(q)), "other");
        assert_int_equal(sp_experiments_apply(x, NULL, q, out, &n), SP_OK);
        assert_true(n == 1 && strcmp(sp_exposure_name(out), "b") == 0);
        assert_int_equal(q->kwargs.n, said ? 2 : 12);
        assert_int_equal(q->plan.drafters,
                         said ? 1u << SP_DRAFT_MTP : 1u << SP_DRAFT_LOOKUP | 1u << SP_DRAFT_HEAD);
        assert_int_equal(q->plan.think_tok, said ? 7 : 40);
        assert_int_equal(q->priority, said ? 1 : -2);
        assert_int_equal(q->plan.draft, said ? 0 : 3);
        assert_string_equal(q->set.place, "far");
        sp_ask_free(q);
    }
    assert_true(sp_experiments_has_models(x) && !sp_experiments_has_models(NULL));
    assert_null(sp_experiments_model(x, "t", (sp_str){0}));
    sp_experiments_free(x);
}

void test_settings_that_are_wrong(void **state)
{
    (void)state;
    static const char *const bad[][2] = {{"template: '[1]'", "template"}, {"template: '{'", "template"},
                                         {"drafters: 'lookup,luck'", "drafters"}, {"drafters: ','", "drafters"},
                                         {"think_tokens: 99999999", "think_tokens"}, {"priority: 4", "priority"},
                                         {"priority: -4", "priority"}};
    for (size_t i = 0; i < sizeof bad / sizeof *bad; i++) {
        char text[200];
        sp_experiments *x;
        sp_diag d = {0};
        snprintf(text, sizeof text, "experiments:\n  - {name: e, variants: [{name: a}, {name: b, set: {%s}}]}\n", bad[i][0]);
        assert_int_equal(load(&x, text, &d), SP_FORMAT);
        assert_non_null(strstr(d.msg, bad[i][1]));
    }
    static const char *const of[] = {"template: '{}'", "drafters: head", "think_tokens: 1", "priority: 1", "place: p", "model: m"};
    for (size_t i = 0; i < sizeof of / sizeof *of; i++) { /* two that may meet must not set the same */
        char text[300];
        sp_experiments *x;
        sp_diag d = {0};
        snprintf(text, sizeof text,
                 "experiments:\n  - {name: e, variants: [{name: a}, {name: b, set: {%s}}]}\n  - {name: f, variants: [{name: a}, {name: b, set: {%s}}]}\n",
                 of[i], of[i]);
        assert_int_equal(load(&x, text, &d), SP_FORMAT);
        assert_non_null(strstr(d.msg, "set the same"));
    }
}
