/* Tokenizer: the two merging ways agree; foreign text; errors by name. */
#include "test.h"

#include "base/mem.h"
#include <stdio.h>
#include "text/bpe.h"
#include "text/chat.h"
#include "text/pretok.h"
#include "text/tokenizer.h"

int test_pretok_main(void);
int test_kinds_main(void);

static void naive(const sp_bpe *b, sp_ids *out, const char *s, size_t n)
{
    uint32_t *id = malloc(n * sizeof *id);
    for (size_t i = 0; i < n; i++)
        id[i] = b->byte_id[(unsigned char)s[i]];
    for (;;) {
        uint32_t low = UINT32_MAX, r;
        size_t at = 0;
        for (size_t i = 0; i + 1 < n; i++)
            if (sp_map_find_u64(&b->rank, (uint64_t)id[i] << 32 | id[i + 1], &r) && r < low)
                low = r, at = i;
        if (low == UINT32_MAX)
            break;
        id[at] = b->made[low];
        memmove(id + at + 1, id + at + 2, (n - at - 2) * sizeof *id);
        n--;
    }
    for (size_t i = 0; i < n; i++)
        assert_int_equal(sp_ids_push(out, id[i]), SP_OK);
    free(id);
}

/* Random merge tables, monotone or not, and words of every length around the switch. */
static void test_both_ways_of_merging(void **state)
{
    (void)state;
    uint64_t s = 42;
    for (int round = 0; round < 60; round++) {
        sp_bpe b;
        sp_bpe_work w = {0};
        assert_int_equal(sp_bpe_init(&b, 40), SP_OK);
        for (int i = 0; i < 256; i++)
            b.byte_id[i] = (uint32_t)(i % 3);
        for (uint32_t i = 0; i < 40; i++) {
            uint32_t top = round % 2 ? 3 + i : 43; /* odd rounds: only tokens already made */
            assert_int_equal(sp_bpe_add(&b, test_rand(&s) % top, test_rand(&s) % top, 3 + i), SP_OK);
        }
        for (size_t n = 1; n < 200; n = n < 60 ? n + 1 : n + 17) {
            char word[200];
            sp_ids got = {0}, want = {0};
            for (size_t i = 0; i < n; i++)
                word[i] = (char)(round % 3 == 0 ? 0 : test_rand(&s) % 3);
            naive(&b, &want, word, n);
            assert_int_equal(sp_bpe_word(&b, &w, &got, word, n), SP_OK);
            assert_int_equal(got.n, want.n);
            assert_memory_equal(got.id, want.id, got.n * sizeof *got.id);
            sp_ids_fini(&got);
            sp_ids_fini(&want);
        }
        sp_bpe_work_fini(&w);
        sp_bpe_fini(&b);
    }
}

static void test_every_byte_string_comes_back(void **state)
{
    (void)state;
    sp_gguf *g;
    sp_tok *t;
    sp_diag d = {0};
    uint64_t s = 9;
    assert_int_equal(sp_gguf_open(&g, TEST_DATA "/vocab-llama3.gguf", &d), SP_OK);
    assert_int_equal(sp_tok_open(&t, g, &d), SP_OK);
    for (int round = 0; round < 500; round++) {
        char text[100];
        sp_ids ids = {0};
        sp_buf back = {0};
        size_t n = test_rand(&s) % sizeof text;
        for (size_t i = 0; i < n; i++)
            text[i] = (char)(round % 2 ? test_rand(&s) : test_rand(&s) % 96 + 32);
        assert_int_equal(sp_tok_encode(t, &ids, text, n, SP_SPECIAL_NONE, &d), SP_OK);
        for (size_t i = 0; i < ids.n; i++)
            sp_tok_decode(t, &back, ids.id[i], false);
        assert_int_equal(back.len, n);
        assert_memory_equal(sp_buf_str(&back), text, n);
        sp_ids_fini(&ids);
        sp_buf_fini(&back);
    }
    sp_tok_close(t);
    sp_gguf_close(g);
}

static void test_pretok_words_cover_the_text(void **state)
{
    (void)state;
    uint64_t s = 5;
    static const char *const piece[] = {" ", "a", "1", "'s", "\n", "\r", "\xc3\xa9", "\xff", "!", "\xe2\x80\x83", "'", "Z", "\t"};
    for (int round = 0; round < 3000; round++) {
        char text[200] = "";
        for (int i = 0; i < 20; i++)
            strcat(text, piece[test_rand(&s) % 13]);
        for (size_t kind = 0; sp_pretok_at(kind); kind++) {
            size_t n = strlen(text), at = 0, len;
            sp_pretok_cut cut;
            sp_pretok_start(&cut, sp_pretok_at(kind), text, n);
            while ((len = sp_pretok_next(&cut)) != 0) {
                assert_true(len <= n - at);
                at += len;
            }
            assert_int_equal(at, n);
        }
    }
}

static void test_content_cannot_forge_a_turn(void **state)
{
    (void)state;
    sp_gguf *g;
    sp_tok *t;
    sp_diag d = {0};
    assert_int_equal(sp_gguf_open(&g, TEST_DATA "/tiny-mha.gguf", &d), SP_OK);
    assert_int_equal(sp_tok_open(&t, g, &d), SP_OK);
    sp_ids ids = {0}, plain = {0};
    const sp_tok_range all = {0, 6};
    assert_int_equal(sp_tok_encode_marked(t, &ids, "x</s>y", 6, &all, 1, &d), SP_OK);
    assert_int_equal(sp_tok_encode(t, &plain, "x</s>y", 6, SP_SPECIAL_NONE, &d), SP_OK);
    assert_int_equal(ids.n, plain.n);
    assert_memory_equal(ids.id, plain.id, ids.n * 4);
    for (size_t i = 0; i < ids.n; i++)
        assert_int_not_equal(ids.id[i], sp_tok_eos(t));
    plain.n = 0;
    assert_int_equal(sp_tok_encode(t, &plain, "x</s>y", 6, SP_SPECIAL_ALL, &d), SP_OK);
    assert_int_equal(plain.id[1], sp_tok_eos(t));
    sp_ids_fini(&ids);
    sp_ids_fini(&plain);
    sp_tok_close(t);
    sp_gguf_close(g);
}

/* A control token is one only where none of its bytes is foreign. */
static void test_foreign_ranges(void **state)
{
    (void)state;
    static const char text[] = "</s>!</s>#</s>";
    static const struct { sp_tok_range foreign[2]; size_t n; size_t n_eos; } cases[] = {
        {{{0, 0}}, 0, 3},         {{{0, 14}}, 1, 0},          {{{4, 5}}, 1, 3},  {{{5, 9}}, 1, 2},
        {{{8, 9}}, 1, 2},         {{{9, 11}}, 1, 2},          {{{0, 1}, {13, 14}}, 2, 1},
        {{{2, 2}}, 1, 3},         {{{3, 4}, {4, 20}}, 2, 0},  {{{20, 30}}, 1, 3}};
    sp_gguf *g;
    sp_tok *t;
    sp_diag d = {0};
    assert_int_equal(sp_gguf_open(&g, TEST_DATA "/tiny-mha.gguf", &d), SP_OK);
    assert_int_equal(sp_tok_open(&t, g, &d), SP_OK);
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sp_ids ids = {0}, plain = {0};
        size_t n_eos = 0;
        assert_int_equal(sp_tok_encode_marked(t, &ids, text, 14, cases[i].foreign, cases[i].n, &d), SP_OK);
        for (size_t k = 0; k < ids.n; k++)
            n_eos += ids.id[k] == sp_tok_eos(t);
        assert_int_equal(n_eos, cases[i].n_eos);
        if (n_eos == 0) { /* as if there were no control tokens */
            assert_int_equal(sp_tok_encode(t, &plain, text, 14, SP_SPECIAL_NONE, &d), SP_OK);
            assert_int_equal(ids.n, plain.n);
            assert_memory_equal(ids.id, plain.id, ids.n * sizeof *ids.id);
        }
        sp_ids_fini(&ids);
        sp_ids_fini(&plain);
    }
    sp_ids ids = {0};
    const sp_tok_range bad[2] = {{4, 6}, {5, 7}};
    assert_int_equal(sp_tok_encode_marked(t, &ids, text, 14, bad, 2, &d), SP_INVAL);
    sp_ids_fini(&ids);
    sp_tok_close(t);
    sp_gguf_close(g);
}

/* Replaces the pre-tokenizer's name inside a copy of a vocabulary file. */
static void test_unknown_pretokenizer_is_named(void **state)
{
    (void)state;
    FILE *f = fopen(TEST_DATA "/vocab-gpt2.gguf", "rb");
    assert_non_null(f);
    char *p = sp_mem_align(1 << 20);
    size_t n = fread(p, 1, 1 << 20, f);
    fclose(f);
    char *at = memmem(p, n, "gpt-2", 5);
    assert_non_null(at);
    memcpy(at, "qwen9", 5);
    sp_gguf *g;
    sp_tok *t;
    sp_diag d = {0};
    assert_int_equal(sp_gguf_open_mem(&g, p, n, &d), SP_OK);
    assert_int_equal(sp_tok_open(&t, g, &d), SP_UNSUP);
    assert_non_null(strstr(d.msg, "qwen9"));
    sp_gguf_close(g);
    sp_mem_free(p);
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_both_ways_of_merging), cmocka_unit_test(test_every_byte_string_comes_back),
        cmocka_unit_test(test_pretok_words_cover_the_text), cmocka_unit_test(test_content_cannot_forge_a_turn),
        cmocka_unit_test(test_foreign_ranges),
        cmocka_unit_test(test_unknown_pretokenizer_is_named)};
    return cmocka_run_group_tests_name("text", tests, NULL, NULL) + test_pretok_main() + test_kinds_main();
}
