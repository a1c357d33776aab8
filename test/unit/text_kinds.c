/* SentencePiece and unigram against plain search over small random vocabularies; work is counted. */
#include "test.h"

#include "base/utf8.h"
#include "text/merge.h"
#include "text/tok_int.h"
#include "vocab.h"

#include <stdio.h>

enum { MAX_TOKENS = 60, MAX_TEXT = 120 };

typedef struct small {
    char text[MAX_TOKENS][12];
    sp_str token[MAX_TOKENS];
    int32_t type[MAX_TOKENS];
    float score[MAX_TOKENS];
    size_t n;
} small;

/* <unk>, <s>, </s>, then random words over a, b and the space; scores often equal. */
static void make_small(small *s, uint64_t *seed)
{
    static const char *const first[] = {"<unk>", "<s>", "</s>", "a", "b", SP_TOK_SPACE};
    s->n = 0;
    for (size_t i = 0; i < MAX_TOKENS; i++) {
        char *p = s->text[s->n];
        *p = 0;
        if (i < 6)
            strcpy(p, first[i]);
        for (uint32_t k = i < 6 ? 0 : 2 + test_rand(seed) % 2; k > 0; k--)
            strcat(p, first[3 + test_rand(seed) % 3]);
        bool again = false;
        for (size_t j = 0; j < s->n; j++)
            again |= strcmp(s->text[j], p) == 0;
        if (again)
            continue;
        s->token[s->n] = (sp_str){p, strlen(p)};
        s->type[s->n] = i == 0 ? SP_TOK_UNKNOWN : i < 3 ? SP_TOK_CONTROL : SP_TOK_NORMAL;
        s->score[s->n++] = -(float)(test_rand(seed) % 8);
    }
}

static uint32_t find(const small *s, const char *p, size_t n)
{
    for (uint32_t i = 3; i < s->n; i++)
        if (s->token[i].n == n && memcmp(s->token[i].p, p, n) == 0)
            return i;
    return SP_TOK_NONE;
}

/* Merges by looking at all pairs again and again. */
static void merge_plainly(const small *s, sp_ids *out, const char *p, size_t n)
{
    size_t at[MAX_TEXT * 3], len[MAX_TEXT * 3], k = 0;
    for (size_t i = 0; i < n; k++) {
        uint32_t cp;
        at[k] = i;
        i += len[k] = sp_utf8_decode(&cp, p + i, n - i);
    }
    for (;;) {
        size_t best = k;
        float high = -1e9f;
        for (size_t i = 0; i + 1 < k; i++) {
            uint32_t id = find(s, p + at[i], len[i] + len[i + 1]);
            if (id != SP_TOK_NONE && s->score[id] > high)
                high = s->score[id], best = i;
        }
        if (best == k)
            break;
        len[best] += len[best + 1];
        memmove(at + best + 1, at + best + 2, (k - best - 2) * sizeof *at);
        memmove(len + best + 1, len + best + 2, (k - best - 2) * sizeof *len);
        k--;
    }
    for (size_t i = 0; i < k; i++)
        assert_int_equal(sp_ids_push(out, find(s, p + at[i], len[i])), SP_OK);
}

static size_t make_text(char *p, uint64_t *seed)
{
    size_t n = 1 + test_rand(seed) % (MAX_TEXT - 1);
    for (size_t i = 0; i < n; i++)
        p[i] = "ab "[test_rand(seed) % 3];
    return n;
}

static void test_spm_equals_plain_merging(void **state)
{
    (void)state;
    uint64_t seed = 3;
    for (int round = 0; round < 200; round++) {
        small s;
        vocab v = {0};
        sp_diag d = {0};
        make_small(&s, &seed);
        vocab_begin(&v, "llama", s.token, s.type, s.score, s.n);
        assert_int_equal(vocab_open(&v, &d), SP_OK);
        for (int k = 0; k < 20; k++) {
            char p[MAX_TEXT];
            size_t n = make_text(p, &seed);
            sp_buf spaced = {0}, back = {0};
            sp_ids got = {0}, want = {0};
            sp_buf_puts(&spaced, SP_TOK_SPACE);
            sp_tok_put_spaced(&spaced, p, n);
            merge_plainly(&s, &want, spaced.p, spaced.len);
            assert_int_equal(sp_tok_encode(v.t, &got, p, n, SP_SPECIAL_NONE, &d), SP_OK);
            assert_int_equal(got.n, want.n);
            assert_memory_equal(got.id, want.id, got.n * sizeof *got.id);
            for (size_t i = 0; i < got.n; i++)
                sp_tok_decode_after(v.t, &back, i ? got.id[i - 1] : SP_TOK_NONE, got.id[i], false);
            assert_int_equal(back.len, n);
            assert_memory_equal(back.p, p, n);
            sp_ids_fini(&got);
            sp_ids_fini(&want);
            sp_buf_fini(&spaced);
            sp_buf_fini(&back);
        }
        vocab_fini(&v);
    }
}

/* The best sum of scores over all splits, by trying every token at every place. */
static double best_sum(const small *s, const char *p, size_t n, float unknown)
{
    double best[MAX_TEXT * 3 + 4];
    for (size_t i = 0; i <= n; i++)
        best[i] = i ? -1e300 : 0;
    for (size_t at = 0, step; at < n; at += step) {
        uint32_t cp;
        step = sp_utf8_decode(&cp, p + at, n - at);
        for (uint32_t id = 3; id < s->n; id++) {
            size_t k = s->token[id].n;
            if (at + k <= n && memcmp(p + at, s->token[id].p, k) == 0 && best[at] + (double)s->score[id] > best[at + k])
                best[at + k] = best[at] + (double)s->score[id];
        }
        if (find(s, p + at, step) == SP_TOK_NONE && best[at] + (double)unknown > best[at + step])
            best[at + step] = best[at] + (double)unknown;
    }
    return best[n];
}

static void test_unigram_finds_the_best_split(void **state)
{
    (void)state;
    uint64_t seed = 4;
    for (int round = 0; round < 200; round++) {
        small s;
        vocab v = {0};
        sp_diag d = {0};
        make_small(&s, &seed);
        vocab_begin(&v, "t5", s.token, s.type, s.score, s.n);
        vocab_key(&v, "tokenizer.ggml.unknown_token_id", 4);
        vocab_num(&v, 0, 4);
        assert_int_equal(vocab_open(&v, &d), SP_OK);
        for (int k = 0; k < 20; k++) {
            char p[MAX_TEXT];
            size_t n = make_text(p, &seed), at = 0;
            sp_buf spaced = {0};
            sp_ids got = {0};
            double sum = 0;
            sp_tok_put_spaced(&spaced, p, n);
            assert_int_equal(sp_tok_encode(v.t, &got, p, n, SP_SPECIAL_NONE, &d), SP_OK);
            for (size_t i = 0; i < got.n; i++) {
                assert_true(got.id[i] >= 3);
                assert_memory_equal(spaced.p + at, s.token[got.id[i]].p, s.token[got.id[i]].n);
                at += s.token[got.id[i]].n;
                sum += (double)s.score[got.id[i]];
            }
            assert_int_equal(at, spaced.len);
            assert_true(sum == best_sum(&s, spaced.p, spaced.len, -100));
            sp_ids_fini(&got);
            sp_buf_fini(&spaced);
        }
        vocab_fini(&v);
    }
}

static bool join_all(uint32_t *rank, uint32_t *id, const sp_tok *t, const char *s, const sp_merge_sym *l, const sp_merge_sym *r)
{
    (void)t;
    *rank = (uint32_t)(l->at * 2654435761u >> (s[0] - '0'));
    *id = 1;
    return l->len + r->len <= 64;
}

/* Heap moves of the worst orders grow as n log n, not as n squared. */
static void test_merging_does_bounded_work(void **state)
{
    (void)state;
    static const char *const shift[] = {"0", "16", "31"};
    for (int k = 0; k < 3; k++) {
        for (size_t n = 1000, log2 = 10; n <= 128000; n *= 2, log2++) {
            char s[2] = {(char)('0' + atoi(shift[k])), 0};
            sp_merge_work w = {0};
            for (size_t i = 0; i < n; i++)
                assert_int_equal(sp_merge_add(&w, i, 1, 0), SP_OK);
            assert_int_equal(sp_merge_run(&w, join_all, NULL, s), SP_OK);
            assert_true(w.n_op <= 6 * n * log2);
            sp_merge_fini(&w);
        }
    }
}

/* Bytes of a character come as tokens of their own: the decoder's bytes join up, and the beginning
 * of a character is told from a whole one. */
static void test_byte_tokens_are_held_back(void **state)
{
    (void)state;
    char text[260][8];
    sp_str token[260];
    int32_t type[260];
    float score[260] = {0};
    for (int i = 0; i < 260; i++) {
        static const char *const first[] = {"<unk>", "<s>", "</s>", SP_TOK_SPACE};
        if (i < 4)
            strcpy(text[i], first[i]);
        else
            snprintf(text[i], sizeof text[i], "<0x%02X>", (unsigned)(i - 4) & 0xffu);
        token[i] = (sp_str){text[i], strlen(text[i])};
        type[i] = i == 0 ? SP_TOK_UNKNOWN : i < 3 ? SP_TOK_CONTROL : i == 3 ? SP_TOK_NORMAL : SP_TOK_BYTE;
    }
    vocab v = {0};
    sp_diag d = {0};
    sp_ids ids = {0};
    sp_buf out = {0};
    static const size_t open_bytes[] = {0, 1, 2, 3, 0, 0};
    vocab_begin(&v, "llama", token, type, score, 260);
    assert_int_equal(vocab_open(&v, &d), SP_OK);
    assert_int_equal(sp_tok_encode(v.t, &ids, "\xf0\x9f\x99\x82!", 5, SP_SPECIAL_NONE, &d), SP_OK);
    assert_int_equal(ids.n, 6);
    for (size_t i = 0; i < ids.n; i++) {
        sp_tok_decode_after(v.t, &out, i ? ids.id[i - 1] : sp_tok_bos(v.t), ids.id[i], false);
        assert_int_equal(sp_utf8_tail(sp_buf_str(&out), out.len), open_bytes[i]);
    }
    assert_string_equal(sp_buf_str(&out), "\xf0\x9f\x99\x82!");
    sp_ids_fini(&ids);
    sp_buf_fini(&out);
    vocab_fini(&v);
}

int test_kinds_main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_spm_equals_plain_merging), cmocka_unit_test(test_unigram_finds_the_best_split),
        cmocka_unit_test(test_merging_does_bounded_work), cmocka_unit_test(test_byte_tokens_are_held_back)};
    return cmocka_run_group_tests_name("kinds", tests, NULL, NULL);
}
