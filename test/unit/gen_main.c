/* Sampling and sessions: distributions, filters against a full sort, stop strings, split characters. */
#include "test.h"

#include "base/mem.h"
#include "gen/gbnf.h"
#include "gen/grammar.h"
#include "gen/schema.h"
#include "gen/session.h"

#include <math.h>

enum { N = 300 };

static void test_greedy_and_bias(void **state)
{
    (void)state;
    float logits[N] = {0};
    sp_sampler *s;
    sp_sample_cfg c;
    uint32_t id;
    sp_sample_cfg_init(&c);
    logits[7] = 2, logits[9] = 2;
    assert_int_equal(sp_sampler_new(&s, &c, N), SP_OK);
    assert_int_equal(sp_sampler_next(s, &id, logits, NULL), SP_OK);
    assert_int_equal(id, 7); /* the lower id wins a tie */
    logits[0] = NAN, logits[N - 1] = 3;
    assert_int_equal(sp_sampler_next(s, &id, logits, NULL), SP_OK);
    assert_int_equal(id, N - 1); /* what is no number is passed over */
    logits[0] = logits[N - 1] = 0;
    sp_sampler_free(s);
    c.bias[c.n_bias++] = (sp_bias){200, 5};
    assert_int_equal(sp_sampler_new(&s, &c, N), SP_OK);
    assert_int_equal(sp_sampler_next(s, &id, logits, NULL), SP_OK);
    assert_int_equal(id, 200);
    for (int i = 0; i < N; i++)
        logits[i] = NAN;
    assert_int_equal(sp_sampler_next(s, &id, logits, NULL), SP_FORMAT);
    sp_sampler_free(s);
}

static void test_penalties(void **state)
{
    (void)state;
    float logits[N] = {0};
    sp_sampler *s;
    sp_sample_cfg c;
    uint32_t id;
    sp_sample_cfg_init(&c);
    c.presence_penalty = 0.5f;
    c.frequency_penalty = 0.25f;
    logits[1] = 1.0f, logits[2] = 0.6f, logits[3] = 0.1f;
    assert_int_equal(sp_sampler_new(&s, &c, N), SP_OK);
    sp_sampler_see(s, 2); /* in the prompt: these two penalties do not count it */
    const uint32_t want[] = {1, 2, 1, 3};
    for (size_t i = 0; i < 4; i++) { /* 1.0 .6 .1 | .25 .6 .1 | .25 -.15 .1 | 0 -.15 .1 */
        assert_int_equal(sp_sampler_next(s, &id, logits, NULL), SP_OK);
        assert_int_equal(id, want[i]);
    }
    sp_sampler_free(s);
    sp_sample_cfg_init(&c);
    c.repetition_penalty = 2;
    logits[1] = 1.0f, logits[2] = 0.6f;
    assert_int_equal(sp_sampler_new(&s, &c, N), SP_OK);
    sp_sampler_see(s, 1);
    assert_int_equal(sp_sampler_next(s, &id, logits, NULL), SP_OK);
    assert_int_equal(id, 2);
    sp_sampler_free(s);
}

/* Which tokens can be drawn, found by a full sort. */
static void allowed(bool *ok, const float *logits, const sp_sample_cfg *c)
{
    int order[N];
    double p[N], total = 0, sum = 0;
    for (int i = 0; i < N; i++)
        order[i] = i;
    for (int i = 1; i < N; i++)
        for (int k = i; k > 0 && logits[order[k]] > logits[order[k - 1]]; k--) {
            int t = order[k];
            order[k] = order[k - 1], order[k - 1] = t;
        }
    int n = c->top_k && c->top_k < N ? (int)c->top_k : N;
    for (int i = 0; i < n; i++)
        total += p[i] = exp((double)(logits[order[i]] / c->temperature - logits[order[0]] / c->temperature));
    for (int i = 0; i < N; i++)
        ok[i] = false;
    for (int i = 0; i < n && sum < (double)c->top_p * total * (1 + 1e-12); i++) {
        if (c->top_p < 1 && sum >= (double)c->top_p * total)
            break;
        sum += p[i];
        if (p[i] >= (double)c->min_p * (1 - 1e-6))
            ok[order[i]] = true;
    }
}

static void test_filters_and_frequencies(void **state)
{
    (void)state;
    uint64_t rng = 3;
    float logits[N];
    for (int i = 0; i < N; i++)
        logits[i] = test_float(&rng) * 4;
    const struct { size_t k; float p, min, temp; } cases[] = {
        {0, 1, 0, 1}, {5, 1, 0, 1}, {1, 1, 0, 1}, {0, 0.5f, 0, 1}, {0, 0.9f, 0, 0.7f}, {0, 1, 0.2f, 1}, {40, 0.8f, 0.05f, 1.3f}, {299, 0.99f, 0, 2}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sp_sample_cfg c;
        sp_sampler *s;
        bool ok[N];
        double p[N], total = 0, chi = 0;
        int seen[N] = {0}, n = 40000, kinds = 0;
        sp_sample_cfg_init(&c);
        c.top_k = cases[i].k, c.top_p = cases[i].p, c.min_p = cases[i].min, c.temperature = cases[i].temp, c.seed = 11;
        allowed(ok, logits, &c);
        assert_int_equal(sp_sampler_new(&s, &c, N), SP_OK);
        for (int k = 0; k < n; k++) {
            uint32_t id;
            assert_int_equal(sp_sampler_next(s, &id, logits, NULL), SP_OK);
            seen[id]++;
        }
        sp_sampler_free(s);
        for (int k = 0; k < N; k++)
            total += p[k] = ok[k] ? exp((double)(logits[k] / c.temperature)) : 0;
        for (int k = 0; k < N; k++) {
            double want = p[k] / total * n;
            if (!ok[k])
                assert_int_equal(seen[k], 0);
            if (want > 5)
                chi += (seen[k] - want) * (seen[k] - want) / want, kinds++;
        }
        assert_true(chi < kinds + 6 * sqrt(2.0 * kinds) + 6); /* about six sigma */
    }
}

static void test_logprobs(void **state)
{
    (void)state;
    float logits[N], lp;
    uint64_t rng = 5;
    double sum = 0;
    sp_top top[SP_TOP_MAX];
    for (int i = 0; i < N; i++)
        logits[i] = test_float(&rng);
    for (uint32_t i = 0; i < N; i++) {
        sp_sample_logprobs(logits, N, i, &lp, top, SP_TOP_MAX);
        sum += exp((double)lp);
        for (int k = 1; k < SP_TOP_MAX; k++)
            assert_true(top[k - 1].logprob >= top[k].logprob);
    }
    assert_true(fabs(sum - 1) < 1e-5);
}

/* A session over the tiny vocabulary, fed logits that force a text. */
static sp_gguf *gguf;
static sp_tok *tok;
static sp_grammars *all;

static void speak_as(sp_session_cfg cfg, const char *text, const char *want, sp_finish why)
{
    static float logits[4096];
    sp_session *s;
    sp_buf got = {0};
    sp_ids ids = {0};
    const uint32_t prompt[] = {3};
    bool done = false;
    sp_finish finish = SP_FINISH_CANCEL;
    sp_sample_cfg_init(&cfg.sample);
    cfg.n_logprobs = -1;
    assert_int_equal(sp_tok_encode(tok, &ids, text, strlen(text), SP_SPECIAL_NONE, NULL), SP_OK);
    assert_int_equal(sp_session_new(&s, &cfg, tok, prompt, 1, NULL), SP_OK);
    for (size_t i = 0; i < ids.n && !done; i++) {
        sp_event *e = NULL;
        memset(logits, 0, sizeof logits);
        logits[ids.id[i]] = 5;
        for (size_t k = 0; k < cfg.n_stop_id; k++)
            logits[cfg.stop_id[k]] = 6; /* the model wants to end, all the time */
        assert_int_equal(sp_session_accept(s, logits, &e, &done, &finish, NULL), SP_OK);
        if (e) {
            assert_true(e->text.len > 0);
            sp_buf_put(&got, e->text.p, e->text.len);
            if (!done) { /* a stream never ends inside a character */
                unsigned char last = (unsigned char)e->text.p[e->text.len - 1];
                assert_true(last < 0xc0);
            }
        }
        sp_event_free(e);
    }
    assert_string_equal(sp_buf_str(&got), want);
    assert_true(done);
    assert_int_equal(finish, why);
    sp_session_free(s, NULL);
    sp_buf_fini(&got);
    sp_ids_fini(&ids);
}

static void speak(const char *text, const char *const *stop, size_t n_stop, size_t max_tok, const char *want, sp_finish why)
{
    sp_session_cfg cfg = {.max_tok = max_tok};
    for (size_t i = 0; i < n_stop; i++)
        strcpy(cfg.stop[cfg.n_stop++], stop[i]);
    speak_as(cfg, text, want, why);
}

static void test_stop_strings(void **state)
{
    (void)state;
    speak("one two STOP three", (const char *const[]){"STOP"}, 1, 100, "one two ", SP_FINISH_STOP);
    speak("a STOP", (const char *const[]){"nothing", " STOP", "OP"}, 3, 100, "a", SP_FINISH_STOP);
    speak("STOSTOSTOP", (const char *const[]){"STOSTOP"}, 1, 100, "STO", SP_FINISH_STOP);
    speak("xyxyxyxz....", (const char *const[]){"xyxz"}, 1, 100, "xyxy", SP_FINISH_STOP);
    speak("caf\xc3\xa9 \xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x99\x82!", (const char *const[]){"!"}, 1, 100,
          "caf\xc3\xa9 \xe4\xb8\xad\xe6\x96\x87 \xf0\x9f\x99\x82", SP_FINISH_STOP);
    speak("\xf0\x9f\x99\x82\xf0\x9f\x99\x82#", (const char *const[]){"\xf0\x9f\x99\x82#"}, 1, 100, "\xf0\x9f\x99\x82", SP_FINISH_STOP);
    speak("STO ends here", (const char *const[]){"STOP"}, 1, 2, "ST", SP_FINISH_LENGTH);
}

static uint32_t id_of(const char *text)
{
    sp_ids ids = {0};
    assert_int_equal(sp_tok_encode(tok, &ids, text, strlen(text), SP_SPECIAL_NONE, NULL), SP_OK);
    assert_int_equal(ids.n, 1);
    uint32_t id = ids.id[0];
    sp_ids_fini(&ids);
    return id;
}

static void test_stop_tokens_and_least(void **state)
{
    (void)state;
    sp_session_cfg stop = {.max_tok = 100, .stop = {"x"}, .n_stop = 1}, id = {.max_tok = 100, .n_stop_id = 1};
    id.stop_id[0] = id_of("z");
    speak_as(stop, "abx", "ab", SP_FINISH_STOP);
    speak_as(id, "qjw", "", SP_FINISH_STOP);
    stop.keep_stop = id.keep_stop = true;
    speak_as(stop, "abx", "abx", SP_FINISH_STOP);
    speak_as(id, "qjw", "z", SP_FINISH_STOP);
    stop.min_tok = 4;
    id.min_tok = 3;
    speak_as(stop, "xaxbxc", "xaxbx", SP_FINISH_STOP);
    speak_as(id, "qjwv", "qjwz", SP_FINISH_STOP);
    stop.keep_stop = id.keep_stop = false;
    speak_as(stop, "xaxbxc", "xaxb", SP_FINISH_STOP);
    speak_as(id, "qjwv", "qjw", SP_FINISH_STOP);
    id.max_tok = 3;
    speak_as(id, "qjwv", "qjw", SP_FINISH_LENGTH);
    id.no_answer = true;
    speak_as(id, "qjwv", "", SP_FINISH_LENGTH);
}

/* A model that wants to say the letters of `text`, whatever was put in between; '[' and ']' stand
 * around what it thinks. cfg: limits and rules. */
static sp_receipt_control think_as(sp_session_cfg cfg, const char *prompt, const char *text,
                                   const char *want, size_t thought)
{
    static float logits[4096];
    sp_session *s;
    sp_buf got = {0};
    const uint32_t p[] = {id_of(prompt)};
    cfg.n_logprobs = -1;
    cfg.think_open = id_of("[");
    cfg.think_close = id_of("]");
    sp_sample_cfg_init(&cfg.sample);
    assert_int_equal(sp_session_new(&s, &cfg, tok, p, 1, NULL), SP_OK);
    for (size_t i = 0; i < strlen(text); i++) {
        const char one[] = {text[i], 0};
        sp_event *e = NULL;
        bool done;
        sp_finish finish;
        memset(logits, 0, sizeof logits);
        logits[id_of(one)] = 5;
        assert_int_equal(sp_session_accept(s, logits, &e, &done, &finish, NULL), SP_OK);
        if (e)
            sp_buf_put(&got, e->text.p, e->text.len);
        sp_event_free(e);
    }
    assert_string_equal(sp_buf_str(&got), want);
    assert_int_equal(sp_session_thought(s), thought);
    sp_receipt_control did = sp_session_control(s);
    sp_session_free(s, NULL);
    sp_buf_fini(&got);
    return did;
}

static void think(const char *prompt, const char *text, size_t budget, const char *want,
                  size_t thought)
{
    const sp_session_cfg cfg = {.max_tok = 100, .think_tok = budget};
    (void)think_as(cfg, prompt, text, want, thought);
}

static void test_thinking_has_a_budget(void **state)
{
    (void)state;
    think("a", "x[yz]w", 100, "x[yz]w", 2);     /* enough */
    think("a", "[yzuvw", 2, "[yz]vw", 2);       /* the third thought becomes its end */
    think("a", "[yzw", 0, "[]zw", 0);           /* none at all */
    think("[", "yzuw", 1, "y]uw", 1);           /* the template opened it */
    think("]", "yzuw", 1, "yzuw", 0);           /* and here closed it */
}

/* Thoughts that end after `same` conclusions which are the same: how many sentences concluded
 * something, and behind which line they ended. */
static void test_thoughts_end_at_conclusions(void **state)
{
    static const struct {
        const char *text;
        size_t same, conclusions, line; /* line 0: they went on to their own end */
    } row[] = {{"[so 12.\nso 12.\nso 12.\nmore]", 0, 3, 3},
               {"[so 12.\nso 12.\nso 12.\nmore]", 2, 2, 2},
               {"[so 12.\nso 13.\nso 12.\nmore]", 2, 3, 0},
               {"[so 12.\nhm 13.\n1 + 11 = 12.\nmore]", 2, 2, 3},
               {"[so 1,200.\nso 1200.\nmore]", 2, 2, 2},
               {"[the answer is friday.\nthe answer is Friday, surely.\nmore]", 2, 2, 0},
               {"[the answer is friday.\nthe Answer is *Friday*\nmore]", 2, 2, 2},
               {"[the answer is friday.\nthe answer is monday.\nmore]", 2, 2, 0},
               {"[the answer is\nthe answer is\nmore]", 2, 0, 0},
               {"[friday it is.\nfriday it is.\nmore]", 2, 0, 0},
               {"[so 12.\nso 12.\nso 12.\nso 12.\nmore]", 4, 4, 4}};
    (void)state;
    for (size_t i = 0; i < sizeof row / sizeof row[0]; i++) {
        const char *end = row[i].text;
        size_t all = strlen(end) - 2, thought = all;
        char want[128];
        for (size_t k = 0; k < row[i].line; k++)
            end = strchr(end, '\n') + 1;
        thought = row[i].line ? (size_t)(end - row[i].text) - 1 : all;
        snprintf(want, sizeof want, "%.*s]%s", (int)thought + 1, row[i].text,
                 row[i].line ? end + 1 : "");
        const sp_session_cfg cfg = {.max_tok = 100,
                                    .think_tok = 90,
                                    .think_same = row[i].same,
                                    .rules = 1u << SP_PRUNE_THINKING};
        sp_receipt_control did = think_as(cfg, "a", row[i].text, want, thought);
        assert_int_equal(did.same, row[i].same ? row[i].same : SP_THINK_SAME);
        assert_int_equal(did.conclusions, row[i].conclusions);
        assert_int_equal(did.thought != NULL, row[i].line > 0);
        assert_int_equal(did.think_left, row[i].line ? 90 - thought : 0);
    }
}

/* The first tokens of an answer are watched: sure ones come out as if nobody had looked, unsure ones not at all. */
static void test_watch(void **state)
{
    (void)state;
    static float logits[4096];
    for (int sure = 0; sure < 2; sure++) {
        sp_session_cfg cfg = {.max_tok = 6, .n_logprobs = -1, .watch_tok = 3, .watch_least = -1};
        const uint32_t p[] = {3};
        sp_session *s;
        sp_buf got = {0};
        bool done = false;
        sp_finish finish = SP_FINISH_CANCEL;
        size_t n = 0;
        sp_sample_cfg_init(&cfg.sample);
        assert_int_equal(sp_session_new(&s, &cfg, tok, p, 1, NULL), SP_OK);
        for (; !done; n++) {
            sp_event *e = NULL;
            memset(logits, 0, sizeof logits);
            logits[id_of("k")] = sure ? 20 : 1;
            assert_int_equal(sp_session_accept(s, logits, &e, &done, &finish, NULL), SP_OK);
            assert_true(!e || n + 1 >= cfg.watch_tok); /* nothing before it is trusted */
            if (e)
                sp_buf_put(&got, e->text.p, e->text.len);
            sp_event_free(e);
        }
        assert_string_equal(sp_buf_str(&got), sure ? "kkkkkk" : "");
        assert_int_equal(finish, sure ? SP_FINISH_LENGTH : SP_FINISH_UNSURE);
        assert_int_equal(n, sure ? 6 : 3);
        sp_session_free(s, NULL);
        sp_buf_fini(&got);
    }
}

/* Says a text letter by letter; those that stand in capitals are unsure. What left of it, and where it was cut. */
static void say_doubtful(const char *text, const sp_session_cfg *cfg, const char *left, sp_finish how, const char *rest, size_t n_kept)
{
    static float logits[4096];
    const uint32_t p[] = {3};
    sp_session *s;
    sp_buf got = {0};
    bool done = false;
    sp_finish finish = SP_FINISH_CANCEL;
    assert_int_equal(sp_session_new(&s, cfg, tok, p, 1, NULL), SP_OK);
    for (const char *c = text; !done; c += *c != 0) {
        sp_event *e = NULL;
        bool unsure = *c >= 'A' && *c <= 'Z';
        char one[2] = {unsure ? (char)(*c + 32) : *c, 0};
        memset(logits, 0, sizeof logits);
        logits[id_of(*c ? one : "z")] = unsure ? 1 : 30; /* z ends it */
        assert_int_equal(sp_session_accept(s, logits, &e, &done, &finish, NULL), SP_OK);
        if (e)
            sp_buf_put(&got, e->text.p, e->text.len);
        sp_event_free(e);
    }
    const sp_session_end_at at = sp_session_cut(s);
    assert_string_equal(sp_buf_str(&got), left);
    assert_int_equal(finish, how);
    assert_int_equal(at.n_rest, strlen(rest));
    assert_memory_equal(at.rest, rest, at.n_rest);
    assert_int_equal(at.n_kept, n_kept);
    if (finish == SP_FINISH_UNSURE)
        assert_true((double)at.logprob < cfg->doubt.below && at.entropy > 0 && at.margin >= 0);
    sp_session_free(s, NULL);
    sp_buf_fini(&got);
}

/* The sentence in doubt is held, what came before it has left. */
static void test_doubts(void **state)
{
    (void)state;
    sp_session_cfg cfg = {.max_tok = 60, .n_logprobs = -1, .doubt = {.n_tok = 4, .below = -1}, .stop_id = {id_of("z")}, .n_stop_id = 1};
    sp_sample_cfg_init(&cfg.sample);
    say_doubtful("aaa bbb. ccc ddd.", &cfg, "aaa bbb. ccc ddd.", SP_FINISH_STOP, "", 17);
    say_doubtful("aaa bbb. ccDDD", &cfg, "aaa bbb.", SP_FINISH_UNSURE, " ccd", 8); /* one of four is enough */
    say_doubtful("abBBb", &cfg, "", SP_FINISH_UNSURE, "abbb", 0);
    say_doubtful("aaa bbb. `cDDDD` dddd", &cfg, "aaa bbb. `cdddd` dddd", SP_FINISH_STOP, "", 21);
    say_doubtful("a\nbbBB", &cfg, "a\n", SP_FINISH_UNSURE, "bbb", 2);
    say_doubtful("aaaa. bC", &cfg, "aaaa.", SP_FINISH_UNSURE, " bc", 5);
    say_doubtful("aa e.g. bbbb 3.5 cc", &cfg, "aa e.g. bbbb 3.5 cc", SP_FINISH_STOP, "", 19);
    cfg.doubt.entropy = 9; /* of 4,096 alike it is 8.3 */
    say_doubtful("aaa bbb. ccDDDD", &cfg, "aaa bbb. ccdddd", SP_FINISH_STOP, "", 15);
    cfg.doubt.entropy = 0;
    cfg.max_tok = 12; /* too near the end */
    say_doubtful("aaa bbb. cccDDDDDD", &cfg, "aaa bbb. ccc", SP_FINISH_LENGTH, "", 12);
    cfg = (sp_session_cfg){.max_tok = 60, .n_logprobs = -1, .one_sentence = true, .stop_id = {id_of("z")}, .n_stop_id = 1};
    sp_sample_cfg_init(&cfg.sample);
    say_doubtful("aaa BBB. ccc", &cfg, "aaa bbb.", SP_FINISH_LENGTH, " ", 8);
    say_doubtful("aaa bbb\nccc", &cfg, "aaa bbb\n", SP_FINISH_LENGTH, "", 8);
    say_doubtful("aaa", &cfg, "aaa", SP_FINISH_STOP, "", 3);
    strcpy(cfg.stop[0], "b. c");
    cfg.n_stop = 1;
    cfg.doubt = (sp_doubt_cfg){.n_tok = 2, .below = -1};
    cfg.one_sentence = false;
    say_doubtful("aa b. c", &cfg, "aa ", SP_FINISH_STOP, "b. c", 5);
}

/* 1: the whole text is in the language, 0: it is the beginning of one that is, -1: no way. */
static int member(sp_grammar *g, const char *text)
{
    sp_grammar_at at = sp_grammar_start(g);
    assert_int_equal(sp_grammar_step(g, &at, text, strlen(text)), SP_OK);
    return at.state == 0 ? -1 : sp_grammar_may_end(g, at);
}

static void test_patterns(void **state)
{
    (void)state;
    static const struct { const char *pattern, *text; int want; } t[] = {
        {"abc", "abc", 1}, {"abc", "ab", 0}, {"abc", "abd", -1}, {"a|bc", "bc", 1}, {"a|bc", "b", 0}, {"", "", 1}, {"", "x", -1},
        {"(ab)*c", "ababc", 1}, {"(ab)*c", "abab", 0}, {"(ab)+", "", 0}, {"(ab)+", "abab", 1}, {"a?b", "b", 1}, {"a{2,3}", "a", 0}, {"a{2,3}", "aaa", 1},
        {"a{2,3}", "aaaa", -1}, {"a{2,}", "aaaaaa", 1}, {"a{0}b", "b", 1}, {"(a*)*b", "aaab", 1}, {"(a|b){3}", "abb", 1}, {"[a-c\\d_]+", "b7_", 1}, {"[a-c]", "d", -1},
        {"[^\"]*", "h\xc3\xa9\xe2\x82\xac\xf0\x9f\x98\x80", 1}, {"[^\"]*", "h\xc3", 0}, {"[^\"]*", "\xff", -1}, {"[^\"]*", "\xe0\x80", -1}, {"[^\"]*", "\"", -1},
        {"(?(DEFINE)(?<x>a(?&x)?b))(?&x)", "aabb", 1}, {"(?(DEFINE)(?<x>a(?&x)?b))(?&x)", "aab", 0}, {"(?(DEFINE)(?<x>a(?&x)?b))(?&x)", "abb", -1}, {"(?&x)c(?(DEFINE)(?<x>(?&x)a|b))", "baac", 1},
        {"(?(DEFINE)(?<x>\\[((?&x)(,(?&x))*)?\\]))(?&x){2}", "[[],[[]]][]", 1}, {"^a|b$", "b", 1}, {"a*?b", "aab", 1}, {"\\u00e9+", "\xc3\xa9\xc3\xa9", 1}, {"\xc3\xa9{2}", "\xc3\xa9\xc3\xa9", 1},
        {"[\xc3\xa0-\xc3\xa9]", "\xc3\xa4", 1}, {"[\xc3\xa0-\xc3\xa9]", "\xc3\xaa", -1}, {"\\u{1f600}", "\xf0\x9f\x98\x80", 1}, {"\\ud83d\\ude00", "\xf0\x9f\x98\x80", 1}, {"[^\\u0000-\\uffff]", "\xf0\x9f\x98\x80", 1},
        {"[^\\u0000-\\uffff]", "\xc3", -1}, {"\\D\\W\\S", "a.b", 1}, {"(?j:^a\"b$)", "a\\\"b", 1}, {"(?j:b)", "ab\\nc", 1}, {"(?j:^\\u0001$)", "\\u0001", 1}, {"(?j:^[^a]$)", "\"", -1}, {"(?j:^a|b$)", "xb", 1}, {"(?j:^a|b$)", "xbx", 0},
        {"a(?mark)<x>|b", "a\xff<x>", 1}, {"a(?mark)<x>", "a<x>", -1}, {"[^a]*.*", "\xff", -1},
        {"(?&a)(?(DEFINE)(?<a>(?&a)(?&a)|b))", "bbb", 1}, {"(a|(?!))b", "ab", 1}, {"a{0,100000}", "aaa", 1}, {"(a{2}){3}", "aaaaaa", 1}, {"(a{2}){3}", "aaaaa", 0}, {"(a{2,3}){2}", "aaaaaaa", -1}, {"(a?){3}b", "b", 1}, {"(?<y>a)b", "ab", 1},
        {".", "\xc3\xa9", 1}, {".", "\n", -1}, {"[^\\x00-\\x7f]", "", 0}, {"[^\\x00-\\x7f]", "\xc3\xa9", 1}, {"a{0,3}b", "aab", 1}, {"(ab?){2,4}", "aabab", 1}, {"(ab?){2,4}", "aabaaa", -1}, {"\\x41\\.\\n", "A.\n", 1}, {"[]a]", "]", 1}, {"[a\\]]", "]", 1}, {"\\d{1,3}(\\.\\d)?", "12.5", 1}, {"h\xc3\xa9", "h\xc3\xa9", 1}};
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        sp_grammar *g = NULL;
        sp_diag d = {0};
        if (sp_grammar_get(&g, all, t[i].pattern, &d) != SP_OK)
            fail_msg("%s: %s", t[i].pattern, d.msg);
        if (member(g, t[i].text) != t[i].want)
            fail_msg("%s on %s gives %d", t[i].pattern, t[i].text, member(g, t[i].text));
        sp_grammar_put(g);
    }
    static const char *const bad[] = {"(", ")", "a)", "(a", "[a", "[", "*", "a{2", "a{3,2}", "a{1000001}", "\\", "\\q", "\\x4", "[z-a]", "[\xc3]", "\xc3", "a^b", "a$b", "(?=a)", "(?&x)", "(?(DEFINE)(?<x>a)(?<x>b))", "(?j:(?j:a))", "(?!)", "(?(DEFINE)(?<x>a(?&x)))(?&x)", "\\ud800", "a\\b", "a{18446744073709551615}", "a{-1}", "a{ 1}", "a{1, 2}", "a*****", "a{1}{1}{1}{1}{1}"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        sp_grammar *g = NULL;
        sp_diag d = {0};
        if (sp_grammar_get(&g, all, bad[i], &d) == SP_OK)
            fail_msg("%s", bad[i]);
        assert_true(d.msg[0] != 0);
    }
}

/* text, n times */
static char *repeated(const char *head, const char *text, size_t n, const char *tail)
{
    sp_buf b = {0};
    sp_buf_puts(&b, head);
    for (size_t i = 0; i < n; i++)
        sp_buf_puts(&b, text);
    sp_buf_puts(&b, tail);
    char *p = sp_mem_strdup(sp_buf_str(&b));
    sp_buf_fini(&b);
    return p;
}

/* Patterns that would take time, memory or stack beyond any use are refused, and the error names the budget. */
static void test_pattern_budgets(void **state)
{
    (void)state;
    static const struct { const char *head, *part; size_t n; const char *tail, *says; } t[] = {
        {"a", "?", 60000, "", "repeats of repeats"}, {"", "(", 60000, "", "nested too deep"}, {"", "a", 270000, "", "262144 bytes"}, {"", "a", 66000, "", "65536 nodes"},
        {"", "()", 30000, "(", "( without )"}, {"(?&a)(?(DEFINE)(?<a>(?&b)(?&b))(?<b>(?&a)(?&a)))", "", 0, "", "nothing can match"},
        {"((((((a?){512}){512}){512}){512}){512}){512}", "", 0, "", "steps"}};
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        sp_grammar *g = NULL;
        sp_diag d = {0};
        char *p = repeated(t[i].head, t[i].part, t[i].n, t[i].tail);
        if (sp_grammar_get(&g, all, p, &d) != SP_INVAL || !strstr(d.msg, t[i].says))
            fail_msg("%zu: %s", i, d.msg);
        sp_mem_free(p);
    }
    /* long lists cost neither stack nor time */
    static const struct { const char *part; size_t n; const char *text; int want; } fine[] = {
        {"()", 30000, "", 1}, {"|", 60000, "", 1}, {"a", 8000, "aaa", 0}, {"a?", 4000, "aaaa", 1}, {"(|)", 20000, "", 1}, {"x|", 8000, "x", 1}};
    for (size_t i = 0; i < sizeof fine / sizeof fine[0]; i++) {
        sp_grammar *g = NULL;
        sp_diag d = {0};
        char *p = repeated("", fine[i].part, fine[i].n, "");
        if (sp_grammar_get(&g, all, p, &d) == SP_OK) {
            assert_int_equal(member(g, fine[i].text), fine[i].want);
            sp_grammar_put(g);
        } else {
            assert_non_null(strstr(d.msg, "nodes"));
        }
        sp_mem_free(p);
    }
}

/* A token or a mask that needs too many visits ends with SP_LIMIT, and the grammar stays usable. */
static void test_step_budgets(void **state)
{
    (void)state;
    sp_grammar *g;
    sp_err err = SP_OK;
    uint64_t rng = 4;
    assert_int_equal(sp_grammar_get(&g, all, "(a|b)*a(a|b){400}c", NULL), SP_OK); /* 2^400 states */
    sp_grammar_at at = sp_grammar_start(g);
    for (int i = 0; i < 100000 && err == SP_OK; i++)
        err = sp_grammar_step(g, &at, test_rand(&rng) & 1 ? "a" : "b", 1);
    assert_int_equal(err, SP_LIMIT);
    at = sp_grammar_start(g);
    assert_int_equal(sp_grammar_step(g, &at, "a", 1), SP_OK);
    assert_true(at.state != 0);
    sp_grammar_put(g);
    /* copies that may be left out do not make a state of all of them */
    assert_int_equal(sp_grammar_get(&g, all, "([^\"]|\\\\\"){0,250}", NULL), SP_OK);
    const uint8_t *mask;
    assert_int_equal(sp_grammar_mask(g, sp_grammar_start(g), &mask), SP_OK);
    assert_int_equal(member(g, "abc"), 1);
    sp_grammar_put(g);
}

/* No value meets these: it is said when the pattern is compiled. Others are no schemas. */
static void test_impossible_schemas(void **state)
{
    (void)state;
    static const struct { const char *schema, *says; } t[] = {
        {"{\"type\":\"object\",\"properties\":{\"a\":{}},\"required\":[\"b\"],\"additionalProperties\":false}", "nothing can match"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"null\"}},\"required\":[1]}", "required[0]"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"null\"}},\"required\":\"a\"}", "required"},
        {"{\"type\":\"string\",\"enum\":[1,null]}", "nothing"}, {"{\"type\":\"integer\",\"const\":\"a\"}", "nothing"}, {"{\"enum\":[]}", "nothing"}, {"{\"enum\":1}", "enum"},
        {"{\"type\":\"array\",\"items\":{\"type\":\"null\"},\"minItems\":\"2\"}", "minItems"}, {"{\"type\":\"array\",\"maxItems\":1.5}", "maxItems"},
        {"{\"type\":\"array\",\"items\":{\"type\":\"null\"},\"minItems\":3,\"maxItems\":2}", "nothing"}, {"{\"type\":\"array\",\"items\":false,\"minItems\":1}", "nothing"},
        {"{\"type\":\"string\",\"maxLength\":\"2\"}", "maxLength"}, {"{\"type\":\"integer\",\"minimum\":3,\"maximum\":2}", "nothing"}, {"{\"type\":\"number\",\"minimum\":3,\"exclusiveMaximum\":3}", "nothing"},
        {"{\"allOf\":[{\"type\":\"string\"},{\"type\":\"null\"}]}", "nothing"}, {"{\"$ref\":\"#\"}", "nothing"}, {"{\"type\":\"array\",\"items\":{\"$ref\":\"#\"},\"minItems\":1}", "nothing"},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"$ref\":\"#\"}},\"required\":[\"a\"]}", "nothing"}, {"{\"type\":\"integer\",\"multipleOf\":0}", "multipleOf"}};
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        sp_grammar *g = NULL;
        sp_buf p = {0};
        sp_diag d = {0};
        json_t *j = json_loads(t[i].schema, 0, NULL);
        sp_err err = sp_grammar_schema(&p, NULL, j, &d);
        if (err == SP_OK)
            err = sp_grammar_get(&g, all, sp_buf_str(&p), &d);
        if (err == SP_OK || !strstr(d.msg, t[i].says))
            fail_msg("%s: %s", t[i].schema, d.msg);
        sp_buf_fini(&p);
        json_decref(j);
    }
}

/* What is not enforced is named, each once, or refused by name. */
static void test_loose_schemas(void **state)
{
    (void)state;
    json_t *j = json_loads("{\"type\":\"array\",\"items\":{\"not\":{},\"type\":\"string\",\"pattern\":\"(?=a)\",\"x-\\\"\":1},\"uniqueItems\":true,\"contains\":{\"not\":{}}}", 0, NULL);
    sp_buf p = {0}, loose = {0};
    sp_diag d = {0};
    assert_int_equal(sp_grammar_schema(&p, &loose, j, &d), SP_OK);
    assert_string_equal(sp_buf_str(&loose), "\"contains\",\"uniqueItems\",\"not\",\"x-\\\"\",\"pattern\"");
    assert_int_equal(sp_grammar_schema(&p, NULL, j, &d), SP_UNSUP);
    assert_non_null(strstr(d.msg, "contains"));
    sp_buf_fini(&p);
    sp_buf_fini(&loose);
    json_decref(j);
}

/* Depth: the stack is bounded, and near its end what would not fit is not begun. */
static void test_recursion(void **state)
{
    (void)state;
    sp_grammar *g = NULL;
    sp_buf p = {0};
    assert_int_equal(sp_grammar_object(&p, NULL), SP_OK);
    assert_int_equal(sp_grammar_get(&g, all, sp_buf_str(&p), NULL), SP_OK);
    sp_grammar_at at = sp_grammar_start(g);
    size_t depth = 0;
    assert_int_equal(sp_grammar_step(g, &at, "{\"a\": ", 6), SP_OK);
    for (; at.state && depth < 1000; depth++) {
        const uint8_t *mask;
        sp_grammar_at to = at;
        assert_int_equal(sp_grammar_mask(g, at, &mask), SP_OK);
        assert_true(mask[id_of("n")] || mask[id_of("]")]); /* a value or an end can always be given */
        assert_int_equal(sp_grammar_step(g, &to, "[", 1), SP_OK);
        assert_int_equal(mask[id_of("[")], to.state != 0);
        if (!to.state)
            break;
        at = to;
    }
    assert_true(depth > 60 && depth < 1000);
    for (size_t i = 0; i < depth; i++) {
        assert_false(sp_grammar_may_end(g, at));
        assert_int_equal(sp_grammar_step(g, &at, "]", 1), SP_OK);
        assert_true(at.state != 0);
    }
    assert_int_equal(sp_grammar_step(g, &at, "}", 1), SP_OK);
    assert_true(sp_grammar_must_end(g, at));
    sp_grammar_put(g);
    sp_buf_fini(&p);
}

/* Lists in lists are rules in rules: their pattern grows with the schema. */
static void test_nested_schemas(void **state)
{
    (void)state;
    char *head = repeated("", "{\"type\":\"array\",\"minItems\":1,\"items\":", 60, "{\"type\":\"integer\"}"), *whole = repeated(head, "}", 60, "");
    json_t *j = json_loads(whole, 0, NULL);
    sp_buf p = {0};
    assert_int_equal(sp_grammar_schema(&p, NULL, j, NULL), SP_OK);
    assert_true(p.len < 10000);
    sp_buf_fini(&p);
    json_decref(j);
    sp_mem_free(head);
    sp_mem_free(whole);
}

/* A temperature so small that a quotient overflows is greedy, with every other parameter too. */
static void test_tiny_temperatures(void **state)
{
    (void)state;
    static const float tiny[] = {1e-45f, 1e-42f, 1e-38f, 1e-30f, 1e-12f, 1e-6f, 1e-5f, 1e-4f};
    static const float logits[] = {-3, 80, 30, -1e30f, 79, 80.5f, 2};
    for (size_t i = 0; i < 4 * sizeof tiny / sizeof tiny[0]; i++) {
        sp_sample_cfg c;
        sp_sampler *s;
        uint32_t id;
        sp_sample_cfg_init(&c);
        c.temperature = tiny[i / 4];
        c.top_p = i % 4 == 1 ? 0.9f : 1;
        c.min_p = i % 4 == 2 ? 0.1f : 0;
        c.top_k = i % 4 == 3 ? 3 : 0;
        assert_int_equal(sp_sampler_new(&s, &c, 7), SP_OK);
        for (int k = 0; k < 20; k++) {
            assert_int_equal(sp_sampler_next(s, &id, logits, NULL), SP_OK);
            assert_int_equal(id, 5);
        }
        sp_sampler_free(s);
    }
}

static void test_schemas(void **state)
{
    (void)state;
    static const struct { const char *schema, *text; int want; } t[] = {
        {"{\"type\":\"integer\"}", "-12", 1}, {"{\"type\":\"integer\"}", "01", -1}, {"{\"type\":\"number\"}", "0.5e-3", 1}, {"{\"type\":\"boolean\"}", "tru", 0},
        {"{\"enum\":[\"a.b\",3,null]}", "\"a.b\"", 1}, {"{\"enum\":[\"a.b\",3,null]}", "\"axb\"", -1}, {"{\"enum\":[\"a.b\",3,null]}", "null", 1},
        {"{\"type\":\"string\"}", "\"a\\\"\xc3\xa9\"", 1}, {"{\"type\":\"string\"}", "\"a\n", -1}, {"{\"type\":\"string\",\"maxLength\":2}", "\"abc", -1},
        {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}", "[]", 1}, {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"}}", "[1, 2,3]", 1},
        {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":1,\"maxItems\":2}", "[1,2,3", -1},
        {"{\"type\":\"array\",\"items\":{\"type\":\"integer\"},\"minItems\":1}", "[]", -1},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"const\":\"x\"}}}", "{\"a\": 1, \"b\":\"x\"}", 1},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"const\":\"x\"}},\"required\":[\"a\"]}", "{\"b\"", -1},
        {"{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"integer\"},\"b\":{\"const\":\"x\"}}}", "{\"b\": \"x\"}", 1},
        {"{\"type\":\"string\",\"enum\":[\"a\",1]}", "\"a\"", 1}, {"{\"type\":\"string\",\"enum\":[\"a\",1]}", "1", -1},
        {"{\"type\":\"number\",\"enum\":[1,2.5,\"x\"]}", "2.5", 1}, {"{\"type\":\"array\",\"items\":{\"type\":\"null\"},\"maxItems\":0}", "[]", 1},
        {"{\"type\":\"object\",\"properties\":{\"a\\\"b\\\\.*\":{\"type\":\"null\"}}}", "{\"a\\\"b\\\\.*\": null}", 1},
        {"{\"type\":\"object\",\"properties\":{\"\\n\\u0001\":{\"type\":\"null\"}}}", "{\"\\n\\u0001\": null}", 1},
        {"{\"anyOf\":[{\"type\":\"null\"},{\"type\":\"object\",\"properties\":{\"a\":{\"type\":\"null\"}}}]}", "{\"a\":null}", 1}};
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        sp_grammar *g = NULL;
        sp_diag d = {0};
        sp_buf p = {0};
        json_t *j = json_loads(t[i].schema, 0, NULL);
        if (sp_grammar_schema(&p, NULL, j, &d) != SP_OK || sp_grammar_get(&g, all, sp_buf_str(&p), &d) != SP_OK)
            fail_msg("%s: %s", t[i].schema, d.msg);
        if (member(g, t[i].text) != t[i].want)
            fail_msg("%s on %s gives %d", t[i].schema, t[i].text, member(g, t[i].text));
        sp_grammar_put(g);
        sp_buf_fini(&p);
        json_decref(j);
    }
    static const char *const bad[] = {"[]", "{\"$ref\":\"x\"}", "{\"$ref\":\"#/a\"}", "{\"type\":\"string\",\"pattern\":\"a(?=b)\"}", "{\"type\":\"thing\"}", "{\"not\":{}}",
                                      "{\"allOf\":[{\"$ref\":\"#\"}]}", "{\"type\":\"object\",\"required\":[1]}", "{\"anyOf\":[]}", "{\"minimum\":\"1\"}"};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        sp_buf p = {0};
        json_t *j = json_loads(bad[i], JSON_DECODE_ANY, NULL);
        assert_int_not_equal(sp_grammar_schema(&p, NULL, j, NULL), SP_OK);
        sp_buf_fini(&p);
        json_decref(j);
    }
}

/* Every token the mask allows keeps the text in the language, every other one leaves it; whatever is drawn ends inside it. */
static void check_masks(const char *pattern, int n_round, bool ends)
{
    sp_grammar *g;
    uint64_t rng = 9;
    assert_int_equal(sp_grammar_get(&g, all, pattern, NULL), SP_OK);
    for (int round = 0; round < n_round; round++) {
        sp_grammar_at at = sp_grammar_start(g);
        const uint8_t *mask;
        for (int i = 0; i < 40 && !sp_grammar_must_end(g, at); i++) {
            uint32_t pick = SP_TOK_NONE, n = 0;
            assert_int_equal(sp_grammar_mask(g, at, &mask), SP_OK);
            for (uint32_t id = 0; id < sp_tok_count(tok); id++) {
                sp_grammar_at to = at;
                sp_str p = sp_tok_piece(tok, id);
                assert_int_equal(sp_grammar_step(g, &to, p.p, p.n), SP_OK);
                bool plain = p.n && !sp_tok_is_control(tok, id) && !sp_tok_is_end(tok, id);
                if (plain)
                    assert_int_equal(mask[id], to.state != 0);
                if (sp_tok_is_end(tok, id))
                    assert_int_equal(mask[id], sp_grammar_may_end(g, at));
                if (plain && mask[id] && test_rand(&rng) % ++n == 0)
                    pick = id;
            }
            assert_int_not_equal(pick, SP_TOK_NONE);
            sp_str p = sp_tok_piece(tok, pick);
            assert_int_equal(sp_grammar_step(g, &at, p.p, p.n), SP_OK);
        }
        assert_true(!ends || sp_grammar_may_end(g, at));
    }
    sp_grammar_put(g);
}

static void test_masks(void **state)
{
    (void)state;
    sp_buf p = {0};
    assert_int_equal(sp_grammar_object(&p, NULL), SP_OK);
    check_masks("(yes|no)( [a-z ]{1,9})?\\.", 50, true);
    check_masks("(?(DEFINE)(?<x>\\((?&x)?\\)|[a-z]{2,40}))((?&x),){3}", 10, false);
    check_masks("(?(DEFINE)(?<x>[a-z]|[0-9]{2,30}))((?&x)[a-z ]{1,3}){2,30}", 10, false); /* tokens that lead out of a rule */
    check_masks("([a-z]{2} [0-9]{1,3}: [a-z ]{4,90}\\.){40}", 10, false); /* rounds that share masks, for they are long */
    check_masks("([a-z]{3}|[0-9][a-z]{2,3}){2,40}", 20, false);
    check_masks(sp_buf_str(&p), 10, false);
    sp_buf_fini(&p);
}


/* An answer within a pattern by a model that likes what `seed` says, and how many of its tokens came without asking the model. */
static size_t within(const char *pattern, int n_logprobs, uint64_t seed, size_t max_tok, sp_buf *text)
{
    static float logits[4096];
    sp_session_cfg cfg = {.max_tok = max_tok, .n_logprobs = n_logprobs};
    const uint32_t prompt[] = {3};
    sp_session *s;
    bool done = false;
    sp_finish finish = SP_FINISH_CANCEL;
    size_t n_asked = 0;
    sp_sample_cfg_init(&cfg.sample);
    cfg.sample.temperature = 1;
    cfg.sample.seed = seed;
    assert_int_equal(sp_grammar_get(&cfg.grammar, all, pattern, NULL), SP_OK);
    assert_int_equal(sp_session_new(&s, &cfg, tok, prompt, 1, NULL), SP_OK);
    for (; !done; n_asked++) {
        sp_event *e = NULL;
        uint64_t rng = seed + sp_session_out(s); /* the same at the same token, however it came there */
        for (size_t i = 0; i < sp_tok_count(tok); i++)
            logits[i] = test_float(&rng) * 3;
        size_t before = sp_session_out(s);
        sp_diag d = {0};
        if (sp_session_accept(s, logits, &e, &done, &finish, &d) != SP_OK)
            fail_msg("%s after '%s': %s", pattern, sp_buf_str(text), d.msg);
        assert_int_equal(sp_session_out(s), before + 1 + sp_session_brought(s));
        if (e)
            sp_buf_put(text, e->text.p, e->text.len);
        sp_event_free(e);
    }
    assert_int_equal(sp_session_out(s), n_asked + sp_session_forced(s));
    size_t n = sp_session_forced(s);
    assert_true(finish != SP_FINISH_STOP || member(cfg.grammar, sp_buf_str(text)) == 1);
    sp_grammar_put(cfg.grammar);
    sp_session_free(s, NULL);
    return n;
}

/* What leaves no choice is put at once; the answer is the one that asking at each token gives. */
static void test_forced_tokens(void **state)
{
    (void)state;
    static const char *const pattern[] = {"\\{\"first name\": (true|false), \"the second one\": \\d+, \"x\": \"[a-z]{0,9}\"\\}", "nothing else", "(yes|no)( [a-z ]{1,9})?\\.", "a(bcdefghijk){3}"};
    size_t n_forced = 0;
    for (size_t i = 0; i < sizeof pattern / sizeof pattern[0]; i++)
        for (uint64_t seed = 0; seed < 20; seed++) {
            sp_buf fast = {0}, slow = {0};
            size_t most = seed % 5 == 4 ? 7 : 100; /* cut off in a run, too */
            n_forced += within(pattern[i], -1, seed, most, &fast);
            assert_int_equal(within(pattern[i], 0, seed, most, &slow), 0);
            assert_string_equal(sp_buf_str(&fast), sp_buf_str(&slow));
            sp_buf_fini(&fast);
            sp_buf_fini(&slow);
        }
    assert_true(n_forced > 400);
}

static void test_gbnf(void **state)
{
    (void)state;
    static const struct { const char *gbnf, *text; int want; } t[] = {
        {"root ::= \"a\"+ x\nx ::= [0-9] | \"(\" x \")\" # end", "aa((3))", 1}, {"root ::= \"a\"+ x\nx ::= [0-9] | \"(\" x \")\"", "a((3)", 0}, {"root ::= root \"b\" |\n \"a\"", "abb", 1},
        {"root ::= (\"a\"\n | \"b\"){2,3}", "aba", 1}, {"root ::= [^\\n\\x41]", "A", -1}, {"root ::= \"\\u00e9\\\"\"", "\xc3\xa9\"", 1}, {"root::=.", "\n", 1}};
    static const char *const bad[] = {"", "root", "root ::= \"a", "root ::= [a", "root ::= x", "x ::= \"a\"", "root ::= (", "root ::= )", "root ::= \"a\"{", "root ::= +", "root ::= \"a\"\nroot ::= \"b\"", "root ::= \"\\q\"", "root ::= []", "root ::= <a>", "root ::= \xff"};
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        sp_grammar *g = NULL;
        sp_diag d = {0};
        sp_buf p = {0};
        if (sp_grammar_gbnf(&p, t[i].gbnf, &d) != SP_OK || sp_grammar_get(&g, all, sp_buf_str(&p), &d) != SP_OK)
            fail_msg("%s: %s", t[i].gbnf, d.msg);
        if (member(g, t[i].text) != t[i].want)
            fail_msg("%s on %s gives %d", t[i].gbnf, t[i].text, member(g, t[i].text));
        sp_grammar_put(g);
        sp_buf_fini(&p);
    }
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        sp_diag d = {0};
        sp_buf p = {0};
        if (sp_grammar_gbnf(&p, bad[i], &d) == SP_OK || !d.msg[0])
            fail_msg("%s", bad[i]);
        sp_buf_fini(&p);
    }
}

/* gen_draft.c */
void test_lookup(void **state);
void test_predictions(void **state);
void test_earlier_answers(void **state);
void test_earlier_budget(void **state);
void test_window(void **state);
void test_worth(void **state);
void test_guesser(void **state);
void test_comments(void **state);
void test_comment_places(void **state);
void test_prose(void **state);
void test_policy(void **state);

static int open_vocabulary(void **state)
{
    (void)state;
    return sp_gguf_open(&gguf, TEST_DATA "/vocab-gpt2.gguf", NULL) != SP_OK || sp_tok_open(&tok, gguf, NULL) != SP_OK || sp_grammars_new(&all, tok, NULL) != SP_OK;
}

static int close_vocabulary(void **state)
{
    (void)state;
    sp_grammars_free(all);
    sp_tok_close(tok);
    sp_gguf_close(gguf);
    return 0;
}

/* The list that a device gives of logits [n], temperature as the sampler's. */
static void best_of(sp_dev_best *b, const float *x, size_t n, float temperature)
{
    double mass = 0;
    *b = (sp_dev_best){0};
    for (size_t i = 0; i < n; i++) {
        size_t at = b->n < SP_DEV_BEST ? b->n++ : SP_DEV_BEST - 1;
        if (at == SP_DEV_BEST - 1 && b->n_finite >= SP_DEV_BEST && !(x[i] > b->logit[at])) {
            b->n_finite++;
            continue;
        }
        for (; at > 0 && x[i] > b->logit[at - 1]; at--) {
            b->id[at] = b->id[at - 1];
            b->logit[at] = b->logit[at - 1];
        }
        b->id[at] = (uint32_t)i;
        b->logit[at] = x[i];
        b->n_finite++;
    }
    for (size_t i = 0; i < n; i++)
        mass += exp((double)(x[i] - b->logit[0]) / (double)temperature);
    b->mass = (float)(mass * 1.000005); /* as far off as a device may be */
}

/* From the best alone a sampler picks what another one picks from all logits, or says that it
 * cannot; both then go on alike. */
static void test_a_sampler_takes_the_best(void **state)
{
    (void)state;
    enum { VOCAB = 700, STEPS = 200, HOW = 10 };
    static const sp_sample_cfg how[HOW] = {
        {.temperature = 0, .top_p = 1},
        {.temperature = 1, .top_k = 20, .top_p = 1},
        {.temperature = 0.7f, .top_k = 40, .top_p = 0.9f, .min_p = 0.05f},
        {.temperature = 0.8f, .top_p = 0.9f},
        {.temperature = 0.8f, .top_p = 0.6f, .min_p = 0.1f},
        {.temperature = 0.6f, .top_p = 1, .min_p = 0.1f},
        {.temperature = 1, .top_p = 1}, /* of all tokens */
        {.temperature = 1, .top_k = 100, .top_p = 1},
        {.temperature = 1, .top_p = 1, .presence_penalty = 0.5f},
        {.temperature = 0.3f, .top_p = 0.95f}};
    static float logits[VOCAB];
    static uint8_t may[VOCAB];
    uint64_t seed = 61;
    for (size_t h = 0; h < HOW; h++) {
        sp_sampler *all, *few;
        sp_sample_cfg cfg = how[h];
        size_t n_few = 0;
        cfg.repetition_penalty = 1;
        cfg.seed = 5 + h;
        assert_int_equal(sp_sampler_new(&all, &cfg, VOCAB), SP_OK);
        assert_int_equal(sp_sampler_new(&few, &cfg, VOCAB), SP_OK);
        for (size_t i = 0; i < STEPS; i++) {
            size_t n = i % 5 == 4 ? 50 : VOCAB; /* all of them are listed */
            const uint8_t *mask = i % 3 == 2 && n == VOCAB ? may : NULL;
            for (size_t k = 0; k < VOCAB; k++) {
                logits[k] = k < n ? test_float(&seed) * 20 : -INFINITY;
                may[k] = test_rand(&seed) % 4 == 0;
            }
            logits[test_rand(&seed) % n] = 22; /* likely */
            uint32_t want, got;
            sp_dev_best b;
            best_of(&b, logits, n, cfg.temperature > 0 ? cfg.temperature : 1);
            assert_int_equal(sp_sampler_next(all, &want, logits, mask), SP_OK);
            bool does = sp_sampler_best(few, &got, &b, mask);
            n_few += does;
            if (!does)
                assert_int_equal(sp_sampler_next(few, &got, logits, mask), SP_OK);
            assert_int_equal(got, want);
        }
        if (h < 6 || h == 9)
            assert_true(n_few > STEPS / 2);
        else
            assert_true(n_few < STEPS / 2);
        sp_sampler_free(all);
        sp_sampler_free(few);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {cmocka_unit_test(test_a_sampler_takes_the_best),
        cmocka_unit_test(test_greedy_and_bias), cmocka_unit_test(test_penalties),
                                       cmocka_unit_test(test_filters_and_frequencies), cmocka_unit_test(test_logprobs),
                                       cmocka_unit_test(test_stop_strings), cmocka_unit_test(test_stop_tokens_and_least), cmocka_unit_test(test_thinking_has_a_budget), cmocka_unit_test(test_thoughts_end_at_conclusions), cmocka_unit_test(test_watch), cmocka_unit_test(test_doubts), cmocka_unit_test(test_lookup), cmocka_unit_test(test_predictions), cmocka_unit_test(test_earlier_answers), cmocka_unit_test(test_earlier_budget),
                                       cmocka_unit_test(test_window), cmocka_unit_test(test_worth), cmocka_unit_test(test_guesser), cmocka_unit_test(test_comments), cmocka_unit_test(test_comment_places), cmocka_unit_test(test_prose), cmocka_unit_test(test_policy), cmocka_unit_test(test_patterns), cmocka_unit_test(test_schemas), cmocka_unit_test(test_tiny_temperatures), cmocka_unit_test(test_pattern_budgets), cmocka_unit_test(test_step_budgets),
                                       cmocka_unit_test(test_impossible_schemas), cmocka_unit_test(test_loose_schemas), cmocka_unit_test(test_forced_tokens), cmocka_unit_test(test_gbnf), cmocka_unit_test(test_recursion), cmocka_unit_test(test_nested_schemas), cmocka_unit_test(test_masks)};
    return cmocka_run_group_tests_name("gen", tests, open_vocabulary, close_vocabulary);
}
