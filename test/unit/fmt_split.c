/* Split GGUF: names of parts, and opening while memory and files fail. */
#include "test.h"

#include "base/fault.h"
#include "base/file.h"
#include "fmt/gguf.h"
#include "fmt/split.h"

#include <stdio.h>
#include <stdlib.h>
#include <unistd.h>

void test_names_of_parts(void **state);
void test_parts_while_all_fails(void **state);

void test_names_of_parts(void **state)
{
    static const struct { const char *path; size_t stem; unsigned no, count; } t[] = {
        {"m-00002-of-00005.gguf", 1, 2, 5}, {"a/b-c-00001-of-00002.gguf", 5, 1, 2}, {"m-99999-of-99999.gguf", 1, 99999, 99999}};
    static const char *const none[] = {
        "", "m.gguf", "-00001-of-00002.gguf", "a/-00001-of-00002.gguf", "m-00000-of-00002.gguf", "m-00003-of-00002.gguf", "m-00001-of-00001.gguf",
        "m-0001-of-0002.gguf", "m-00001-of-00002.GGUF", "m-00001-of-00002.gguf.part", "m-+0001-of-00002.gguf", "m-00001of-000002.gguf"};
    (void)state;
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        sp_split s;
        char again[64];
        assert_true(sp_split_parse(&s, t[i].path));
        assert_true(s.stem == t[i].stem && s.no == t[i].no && s.count == t[i].count);
        assert_int_equal(sp_split_path(again, sizeof again, t[i].path, &s, s.no, NULL), SP_OK);
        assert_string_equal(again, t[i].path);
        assert_int_equal(sp_split_path(again, strlen(t[i].path), t[i].path, &s, s.no, NULL), SP_INVAL);
    }
    for (size_t i = 0; i < sizeof none / sizeof none[0]; i++) {
        sp_split s;
        assert_false(sp_split_parse(&s, none[i]));
    }
}

static void put_key(sp_buf *b, const char *key, uint32_t value)
{
    const uint64_t n = strlen(key);
    const uint32_t type = 4;
    sp_buf_put(b, &n, 8);
    sp_buf_puts(b, key);
    sp_buf_put(b, &type, 4);
    sp_buf_put(b, &value, 4);
}

/* A part with one tensor of 8 numbers, all `no`. */
static void write_part(const char *path, uint32_t no, uint32_t n_part)
{
    sp_buf b = {0};
    const uint64_t counts[2] = {1, 3}, name_bytes = 2, dim = 8, zero = 0;
    const uint32_t version = 3, n_dim = 1, type = 0;
    const char name[2] = {'t', (char)('0' + no)};
    sp_buf_puts(&b, "GGUF");
    sp_buf_put(&b, &version, 4);
    sp_buf_put(&b, counts, 16);
    put_key(&b, "split.no", no);
    put_key(&b, "split.count", n_part);
    put_key(&b, "split.tensors.count", n_part);
    sp_buf_put(&b, &name_bytes, 8);
    sp_buf_put(&b, name, 2);
    sp_buf_put(&b, &n_dim, 4);
    sp_buf_put(&b, &dim, 8);
    sp_buf_put(&b, &type, 4);
    sp_buf_put(&b, &zero, 8);
    while (b.len % 32)
        sp_buf_putc(&b, 0);
    for (int i = 0; i < 8; i++) {
        const float f = (float)no;
        sp_buf_put(&b, &f, 4);
    }
    assert_int_equal(sp_file_replace(path, b.p, b.len, NULL), SP_OK);
    sp_buf_fini(&b);
}

/* What is in the parts, and zeros between them; after sp_gguf_own also when the files are cut. */
static void check_whole(sp_gguf *g, char path[3][64])
{
    assert_true(sp_gguf_tensor_count(g) == 3 && sp_gguf_part_count(g) == 3);
    assert_int_equal(sp_gguf_own(g, NULL), SP_OK);
    for (int i = 0; i < 3; i++)
        assert_int_equal(truncate(path[i], 0), 0);
    for (uint32_t i = 0; i < 3; i++) {
        const char name[3] = {'t', (char)('0' + i), 0};
        const sp_tensor *t = sp_gguf_tensor_find(g, name);
        assert_non_null(t);
        for (int k = 0; k < 8; k++)
            assert_true(((const float *)t->data)[k] == (float)i);
        assert_true(*((const uint8_t *)t->data + t->n_bytes) == 0);
    }
}

void test_parts_while_all_fails(void **state)
{
    char dir[] = "/tmp/sparing-parts-XXXXXX", path[3][64];
    (void)state;
    assert_non_null(mkdtemp(dir));
    for (uint32_t i = 0; i < 3; i++) {
        snprintf(path[i], sizeof path[i], "%s/m-%05u-of-00003.gguf", dir, i + 1);
        write_part(path[i], i, 3);
    }
    for (sp_fault_kind kind = SP_FAULT_MEM; kind < SP_FAULT_KINDS; kind++) {
        for (long nth = 1;; nth++) {
            sp_gguf *g = NULL;
            sp_fault_arm(kind, nth);
            sp_err err = sp_gguf_open(&g, path[1], NULL);
            bool hit = sp_fault_was_hit(kind);
            sp_fault_arm(kind, 0);
            if (hit) {
                assert_int_equal(err, kind == SP_FAULT_MEM ? SP_NOMEM : SP_IO);
                assert_null(g);
                continue;
            }
            assert_int_equal(err, SP_OK);
            assert_true(nth > 6);
            sp_gguf_close(g);
            break;
        }
    }
    sp_gguf *g;
    assert_int_equal(sp_gguf_open(&g, path[0], NULL), SP_OK);
    check_whole(g, path);
    sp_gguf_close(g);
    for (int i = 0; i < 3; i++)
        assert_int_equal(unlink(path[i]), 0);
    assert_int_equal(rmdir(dir), 0);
}
