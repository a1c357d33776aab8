/* GGUF: a table of hand-made bad files, each with its error; dequantisation against the recorded
 * reference; f16 over every value. */
#include "test.h"

#include "base/buf.h"
#include "base/fault.h"
#include "base/file.h"
#include "base/mem.h"
#include "fmt/gguf.h"
#include "fmt/safetensors.h"
#include "kern/kern.h"
#include "model/arch.h"
#include "text/tokenizer.h"

#include <jansson.h>
#include <math.h>
#include <stdio.h>

void test_keys_of_architectures(void **state); /* fmt_arch.c */
void test_layers_of_architectures(void **state);
void test_flops_of_windows(void **state);
void test_names_of_parts(void **state); /* fmt_split.c */
void test_parts_while_all_fails(void **state);

/* A file under construction. */
typedef struct file {
    sp_buf b;
} file;

static void u8(file *f, unsigned v) { sp_buf_putc(&f->b, (char)v); }
static void u32(file *f, uint32_t v) { sp_buf_put(&f->b, &v, 4); }
static void u64(file *f, uint64_t v) { sp_buf_put(&f->b, &v, 8); }
static void str(file *f, const char *s) { u64(f, strlen(s)); sp_buf_puts(&f->b, s); }
static void head(file *f, uint32_t version, uint64_t n_tensor, uint64_t n_kv)
{
    sp_buf_puts(&f->b, "GGUF");
    u32(f, version);
    u64(f, n_tensor);
    u64(f, n_kv);
}
static void key(file *f, const char *k, uint32_t type) { str(f, k); u32(f, type); }
static void kv_u32(file *f, const char *k, uint32_t v) { key(f, k, 4); u32(f, v); }
static void tensor(file *f, const char *name, uint32_t n_dim, uint64_t a, uint64_t b, uint32_t type, uint64_t offset)
{
    str(f, name);
    u32(f, n_dim);
    for (uint32_t i = 0; i < n_dim; i++)
        u64(f, i == 0 ? a : i == 1 ? b : 1);
    u32(f, type);
    u64(f, offset);
}
static void pad(file *f, size_t more)
{
    while (f->b.len % 32)
        u8(f, 0);
    for (size_t i = 0; i < more; i++)
        u8(f, 0);
}

#define BAD(name) static void name(file *f)
BAD(empty_magic) { sp_buf_puts(&f->b, "GG"); }
BAD(wrong_magic) { sp_buf_puts(&f->b, "GGML"); u32(f, 3); u64(f, 0); u64(f, 0); }
BAD(version_1) { head(f, 1, 0, 0); }
BAD(version_4) { head(f, 4, 0, 0); }
BAD(big_endian) { head(f, 0x03000000, 0, 0); }
BAD(short_head) { sp_buf_puts(&f->b, "GGUF"); u32(f, 3); u64(f, 0); }
BAD(many_kv) { head(f, 3, 0, UINT64_MAX); }
BAD(kv_past_end) { head(f, 3, 0, 5); kv_u32(f, "a", 1); }
BAD(many_tensors) { head(f, 3, 1ull << 40, 0); }
BAD(tensors_past_end) { head(f, 3, 3, 0); tensor(f, "a", 1, 32, 1, 0, 0); }
BAD(key_length_huge) { head(f, 3, 0, 1); u64(f, UINT64_MAX); u32(f, 0); u64(f, 0); }
BAD(key_length_wrap) { head(f, 3, 0, 1); u64(f, UINT64_MAX - 7); u32(f, 0); u64(f, 0); }
BAD(key_too_long) { head(f, 3, 0, 1); u64(f, 2000); for (int i = 0; i < 2100; i++) u8(f, 'k'); }
BAD(key_empty) { head(f, 3, 0, 1); kv_u32(f, "", 1); }
BAD(key_not_text) { head(f, 3, 0, 1); kv_u32(f, "\xff\xfe", 1); }
BAD(key_with_nul) { head(f, 3, 0, 1); u64(f, 3); sp_buf_put(&f->b, "a\0b", 3); u32(f, 4); u32(f, 1); }
BAD(key_twice) { head(f, 3, 0, 2); kv_u32(f, "a", 1); kv_u32(f, "a", 1); }
BAD(value_type_unknown) { head(f, 3, 0, 1); key(f, "a", 13); u64(f, 0); }
BAD(value_type_huge) { head(f, 3, 0, 1); key(f, "a", UINT32_MAX); u64(f, 0); }
BAD(value_short) { head(f, 3, 0, 1); key(f, "a", 10); u32(f, 0); }
BAD(bool_2) { head(f, 3, 0, 1); key(f, "a", 7); u8(f, 2); u32(f, 0); }
BAD(string_past_end) { head(f, 3, 0, 1); key(f, "a", 8); u64(f, 100); u32(f, 0); }
BAD(string_huge) { head(f, 3, 0, 1); key(f, "a", 8); u64(f, 1ull << 63); u32(f, 0); }
BAD(array_of_arrays) { head(f, 3, 0, 1); key(f, "a", 9); u32(f, 9); u64(f, 1); u64(f, 0); }
BAD(array_type_unknown) { head(f, 3, 0, 1); key(f, "a", 9); u32(f, 77); u64(f, 1); u64(f, 0); }
BAD(array_past_end) { head(f, 3, 0, 1); key(f, "a", 9); u32(f, 4); u64(f, 1000); u64(f, 0); }
BAD(array_count_wrap) { head(f, 3, 0, 1); key(f, "a", 9); u32(f, 10); u64(f, 1ull << 61); u64(f, 0); }
BAD(array_head_short) { head(f, 3, 0, 1); key(f, "a", 9); u32(f, 4); u8(f, 0); u8(f, 0); }
BAD(array_string_past_end) { head(f, 3, 0, 1); key(f, "a", 9); u32(f, 8); u64(f, 2); str(f, "x"); u64(f, 99); }
BAD(align_0) { head(f, 3, 0, 1); kv_u32(f, "general.alignment", 0); }
BAD(align_3) { head(f, 3, 0, 1); kv_u32(f, "general.alignment", 3); }
BAD(align_huge) { head(f, 3, 0, 1); kv_u32(f, "general.alignment", 1u << 31); }
BAD(align_string) { head(f, 3, 0, 1); key(f, "general.alignment", 8); str(f, "32"); }
BAD(name_empty) { head(f, 3, 1, 0); tensor(f, "", 1, 32, 1, 0, 0); pad(f, 128); }
BAD(name_long) { head(f, 3, 1, 0); tensor(f, "0123456789012345678901234567890123456789012345678901234567890123456789", 1, 32, 1, 0, 0); pad(f, 128); }
BAD(name_twice) { head(f, 3, 2, 0); tensor(f, "a", 1, 8, 1, 0, 0); tensor(f, "a", 1, 8, 1, 0, 32); pad(f, 128); }
BAD(dims_0) { head(f, 3, 1, 0); tensor(f, "a", 0, 0, 0, 0, 0); pad(f, 128); }
BAD(dims_5) { head(f, 3, 1, 0); tensor(f, "a", 5, 1, 1, 0, 0); pad(f, 128); }
BAD(dim_zero) { head(f, 3, 1, 0); tensor(f, "a", 2, 32, 0, 0, 0); pad(f, 128); }
BAD(dim_product_wraps) { head(f, 3, 1, 0); tensor(f, "a", 2, 1ull << 33, 1ull << 33, 0, 0); pad(f, 128); }
BAD(size_wraps) { head(f, 3, 1, 0); tensor(f, "a", 1, 1ull << 62, 1, 0, 0); pad(f, 128); }
BAD(type_unknown) { head(f, 3, 1, 0); tensor(f, "a", 1, 32, 1, 99, 0); pad(f, 128); }
BAD(type_unsupported) { head(f, 3, 1, 0); tensor(f, "a", 1, 256, 1, 41, 0); pad(f, 128); }
BAD(row_not_whole_blocks) { head(f, 3, 1, 0); tensor(f, "a", 1, 33, 1, 2, 0); pad(f, 128); }
BAD(offset_unaligned) { head(f, 3, 1, 0); tensor(f, "a", 1, 8, 1, 0, 4); pad(f, 128); }
BAD(offset_past_end) { head(f, 3, 1, 0); tensor(f, "a", 1, 8, 1, 0, 4096); pad(f, 128); }
BAD(offset_huge) { head(f, 3, 1, 0); tensor(f, "a", 1, 8, 1, 0, UINT64_MAX - 31); pad(f, 128); }
BAD(data_cut_short) { head(f, 3, 1, 0); tensor(f, "a", 1, 64, 1, 0, 0); pad(f, 64); }
BAD(no_data) { head(f, 3, 1, 0); tensor(f, "a", 1, 8, 1, 0, 0); }
BAD(overlap) { head(f, 3, 2, 0); tensor(f, "a", 1, 16, 1, 0, 0); tensor(f, "b", 1, 8, 1, 0, 32); pad(f, 128); }

static const struct { void (*make)(file *f); const char *says; } bad_files[] = {
    {empty_magic, "magic"}, {wrong_magic, "magic"}, {version_1, "version 1"}, {version_4, "version 4"},
    {big_endian, "big-endian"}, {short_head, "header"}, {many_kv, "keys"}, {kv_past_end, "keys cannot fit"},
    {many_tensors, "tensors"}, {tensors_past_end, "tensors cannot fit"}, {key_length_huge, "key at byte 24"},
    {key_length_wrap, "key at byte 24"}, {key_too_long, "2000 bytes"}, {key_empty, "empty"}, {key_not_text, "not text"},
    {key_with_nul, "not text"}, {key_twice, "a appears twice"}, {value_type_unknown, "type 13"},
    {value_type_huge, "unknown value type"}, {value_short, "cut short"}, {bool_2, "bool value 2"},
    {string_past_end, "past the end"}, {string_huge, "past the end"}, {array_of_arrays, "element type 9"},
    {array_type_unknown, "element type 77"}, {array_past_end, "1000 elements"}, {array_count_wrap, "elements"},
    {array_head_short, "cut short"}, {array_string_past_end, "past the end"}, {align_0, "general.alignment"},
    {align_3, "power of two"}, {align_huge, "general.alignment"}, {align_string, "expected an integer"},
    {name_empty, "name"}, {name_long, "tensor name"}, {name_twice, "a appears twice"}, {dims_0, "0 dimensions"},
    {dims_5, "5 dimensions"}, {dim_zero, "dimension 1"}, {dim_product_wraps, "dimension 1"}, {size_wraps, "overflows"},
    {type_unknown, "(99)"}, {type_unsupported, "tensor a has type Q1_0 (41)"}, {row_not_whole_blocks, "whole Q4_0 blocks"},
    {offset_unaligned, "not aligned"}, {offset_past_end, "past the end"}, {offset_huge, "overflows"},
    {data_cut_short, "past the end"}, {no_data, "ends before its tensor data"}, {overlap, "overlaps"}};

static sp_err open_file(sp_gguf **g, const file *f, sp_diag *d)
{
    char *p = sp_mem_align(f->b.len + 1);
    assert_non_null(p);
    memcpy(p, f->b.p, f->b.len);
    sp_err err = sp_gguf_open_mem(g, p, f->b.len, d);
    if (err != SP_OK)
        sp_mem_free(p);
    return err;
}

static void test_bad_files(void **state)
{
    (void)state;
    assert_true(sizeof bad_files / sizeof bad_files[0] >= 40);
    for (size_t i = 0; i < sizeof bad_files / sizeof bad_files[0]; i++) {
        file f = {0};
        sp_gguf *g = NULL;
        sp_diag d = {0};
        bad_files[i].make(&f);
        if (open_file(&g, &f, &d) == SP_OK || !strstr(d.msg, bad_files[i].says)) {
            print_error("bad file %zu (%s): got '%s'\n", i, bad_files[i].says, d.msg);
            fail();
        }
        assert_null(g);
        sp_buf_fini(&f.b);
    }
}

static void good_file(file *f)
{
    head(f, 3, 1, 4);
    kv_u32(f, "n", 7);
    key(f, "s", 8), str(f, "text");
    key(f, "neg", 5), u32(f, (uint32_t)-3);
    key(f, "list", 9), u32(f, 8), u64(f, 2), str(f, "x"), str(f, "yz");
    tensor(f, "w", 2, 32, 2, 0, 0);
    pad(f, 256);
}

/* Every prefix of a good file is refused, and every single changed byte is either refused or harmless. */
static void test_truncation_and_flips(void **state)
{
    (void)state;
    file f = {0};
    good_file(&f);
    char *p = sp_mem_align(f.b.len);
    for (size_t n = 0; n < f.b.len; n++) {
        sp_gguf *g;
        char *cut = sp_mem_align(n + 1); /* its own block, so that ASan sees a read past the end */
        memcpy(cut, f.b.p, n);
        assert_int_not_equal(sp_gguf_open_mem(&g, cut, n, NULL), SP_OK);
        sp_mem_free(cut);
    }
    for (size_t i = 0; i < f.b.len; i++) {
        for (int bit = 0; bit < 8; bit++) {
            sp_gguf *g;
            memcpy(p, f.b.p, f.b.len);
            p[i] = (char)(p[i] ^ 1 << bit);
            if (sp_gguf_open_mem(&g, p, f.b.len, NULL) == SP_OK)
                sp_gguf_close(g);
        }
    }
    sp_mem_free(p);
    sp_buf_fini(&f.b);
}

static void test_typed_reads(void **state)
{
    (void)state;
    file f = {0};
    sp_gguf *g;
    sp_diag d = {0};
    uint64_t v;
    sp_str s;
    float x;
    const sp_str *list;
    size_t n;
    good_file(&f);
    char *p = sp_mem_align(f.b.len);
    memcpy(p, f.b.p, f.b.len);
    assert_int_equal(sp_gguf_open_mem(&g, p, f.b.len, &d), SP_OK);
    assert_int_equal(sp_gguf_u64(&v, g, "n", 0, 10, &d), SP_OK);
    assert_int_equal(v, 7);
    assert_int_equal(sp_gguf_u64(&v, g, "n", 0, 6, &d), SP_FORMAT);
    assert_non_null(strstr(d.msg, "n is 7"));
    assert_int_equal(sp_gguf_u64(&v, g, "neg", 0, 6, &d), SP_FORMAT);
    assert_non_null(strstr(d.msg, "-3"));
    assert_int_equal(sp_gguf_f32(&x, g, "n", &d), SP_FORMAT);
    assert_int_equal(sp_gguf_str(&s, g, "absent", &d), SP_NOTFOUND);
    assert_int_equal(sp_gguf_strs(&list, &n, g, "list", &d), SP_OK);
    assert_true(n == 2 && list[1].n == 2);
    assert_int_equal(sp_gguf_strs(&list, &n, g, "s", &d), SP_FORMAT);
    assert_non_null(sp_gguf_tensor_find(g, "w"));
    sp_gguf_close(g);
    sp_mem_free(p);
    sp_buf_fini(&f.b);
}

static void test_vocabulary_only_file(void **state)
{
    (void)state;
    sp_gguf *g;
    sp_tok *t;
    sp_arch a;
    sp_diag d = {0};
    assert_int_equal(sp_gguf_open(&g, TEST_DATA "/vocab-gpt2.gguf", &d), SP_OK);
    assert_int_equal(sp_tok_open(&t, g, &d), SP_OK);
    assert_int_not_equal(sp_arch_read(&a, g, &d), SP_OK);
    assert_non_null(strstr(d.msg, "block_count"));
    sp_tok_close(t);
    sp_gguf_close(g);
}

typedef struct rope_case {
    const char *type; /* NULL: the key is absent */
    float factor, old; /* 0: absent; < 0: the value 0 */
    double want;       /* turn of the second pair a position, of what it is unscaled; 0: refused */
} rope_case;

static void kv_f32(file *f, const char *k, float v) { key(f, k, 6); sp_buf_put(&f->b, &v, 4); }

static sp_err read_arch(sp_arch *out, const rope_case *c, sp_diag *d)
{
    file f = {0};
    sp_gguf *g;
    head(&f, 3, 0, 6 + (c->type != NULL) + (c->factor != 0) + (c->old != 0));
    key(&f, "general.architecture", 8);
    str(&f, "llama");
    kv_u32(&f, "llama.block_count", 1);
    kv_u32(&f, "llama.context_length", 64);
    kv_u32(&f, "llama.embedding_length", 32);
    kv_u32(&f, "llama.feed_forward_length", 32);
    kv_u32(&f, "llama.attention.head_count", 2);
    if (c->type) {
        key(&f, "llama.rope.scaling.type", 8);
        str(&f, c->type);
    }
    if (c->factor != 0)
        kv_f32(&f, "llama.rope.scaling.factor", c->factor < 0 ? 0 : c->factor);
    if (c->old != 0)
        kv_f32(&f, "llama.rope.scale_linear", c->old);
    pad(&f, 0);
    char *p = sp_mem_align(f.b.len);
    memcpy(p, f.b.p, f.b.len);
    assert_int_equal(sp_gguf_open_mem(&g, p, f.b.len, d), SP_OK);
    sp_err err = sp_arch_read(out, g, d);
    sp_gguf_close(g);
    sp_mem_free(p);
    sp_buf_fini(&f.b);
    return err;
}

static void test_rope_scaling(void **state)
{
    (void)state;
    static const rope_case t[] = {
        {NULL, 0, 0, 1}, {NULL, 4, 0, 0.25}, {NULL, 0, 2, 0.5}, {NULL, 4, 2, 0.25}, {"linear", 4, 0, 0.25}, {"linear", 0, 2, 0.5},
        {"none", 4, 2, 1}, {NULL, -1, 0, 1}, {"linear", -1, 2, 1}, {"linear", -4, 0, 1}, {"other", 4, 0, 0}, {NULL, 0, -2, 0}};
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        sp_arch a;
        sp_diag d = {0};
        float freq[8], scale;
        sp_err err = read_arch(&a, &t[i], &d);
        if (t[i].want == 0) {
            assert_int_not_equal(err, SP_OK);
            continue;
        }
        assert_int_equal(err, SP_OK);
        sp_arch_rope_table(&a, SP_ROPE_FULL, NULL, freq, &scale);
        assert_true(fabs((double)freq[1] - t[i].want * pow(10000, -2.0 / 16)) < 1e-6);
        assert_true(scale == 1);
    }
}

static void test_every_allocation_may_fail(void **state)
{
    (void)state;
    for (long nth = 1;; nth++) {
        sp_gguf *g = NULL;
        sp_tok *t = NULL;
        sp_fault_arm(SP_FAULT_MEM, nth);
        sp_err err = sp_gguf_open(&g, TEST_DATA "/tiny-mha.gguf", NULL);
        if (err == SP_OK)
            err = sp_tok_open(&t, g, NULL);
        bool hit = sp_fault_was_hit(SP_FAULT_MEM);
        sp_fault_arm(SP_FAULT_MEM, 0);
        if (hit)
            assert_int_equal(err, SP_NOMEM);
        sp_tok_close(t);
        sp_gguf_close(g);
        if (!hit) {
            assert_int_equal(err, SP_OK);
            assert_true(nth > 8);
            return;
        }
    }
}

static void test_io_errors(void **state)
{
    (void)state;
    for (long nth = 1; nth <= 2; nth++) {
        sp_gguf *g;
        sp_diag d = {0};
        sp_fault_arm(SP_FAULT_IO, nth);
        assert_int_equal(sp_gguf_open(&g, TEST_DATA "/tiny-mha.gguf", &d), SP_IO);
        sp_fault_arm(SP_FAULT_IO, 0);
        assert_non_null(strstr(d.msg, "tiny-mha"));
    }
}

static void test_f16_all_values(void **state)
{
    (void)state;
    for (uint32_t h = 0; h < 0x10000; h++) {
        float f = sp_f16_to_f32((sp_f16)h);
        if ((h & 0x7fff) <= 0x7c00) {
            assert_int_equal(sp_f16_from_f32(f), h);
            int e = (int)(h >> 10 & 31);
            double want = e == 31 ? INFINITY : e ? ldexp(1024 + (h & 1023), e - 25) : ldexp(h & 1023, -24);
            assert_true((double)f == (h & 0x8000 ? -want : want));
        } else {
            assert_true(isnan(f) && (sp_f16_from_f32(f) & 0x7fff) > 0x7c00);
        }
    }
}

static void dequant_file(const char *path, size_t n_type)
{
    json_t *doc = json_load_file(path, 0, NULL), *one;
    const char *name;
    size_t n = 0;
    sp_kern k;
    sp_kern_init_ref(&k);
    json_object_foreach(json_object_get(doc, "types"), name, one)
    {
        static uint8_t raw[4096], scratch[4096], tile[65536];
        static float out[512];
        const char *hex = json_string_value(json_object_get(one, "bytes"));
        sp_type type = (sp_type)json_integer_value(json_object_get(one, "number"));
        if (!sp_type_get((uint32_t)type))
            continue; /* the count below knows how many are read */
        for (size_t i = 0; hex[2 * i]; i++) {
            unsigned v;
            assert_int_equal(sscanf(hex + 2 * i, "%2x", &v), 1);
            raw[i] = (uint8_t)v;
        }
        assert_int_equal(strlen(hex) / 2, sp_type_row_bytes(type, 512));
        assert_string_equal(sp_type_get(type)->name, name);
        if (sp_pack_is(type))
            sp_pack_tile(tile, type, raw, 1, 512, scratch);
        sp_kern_row_f32(&k, out, type, sp_pack_is(type) ? tile : raw, 0, 512);
        for (size_t i = 0; i < 512; i++) {
            double want = json_real_value(json_array_get(json_object_get(one, "values"), i));
            /* one rounding of ours against two of the reference, relative to the block's range */
            if (!(fabs((double)out[i] - want) <= 2e-6 * (fabs(want) + 1)))
                fail_msg("%s[%zu]: %g, reference %g", name, i, (double)out[i], want);
        }
        n++;
    }
    assert_int_equal(n, n_type);
    json_decref(doc);
}

static void test_dequant_against_reference(void **state)
{
    (void)state;
    dequant_file(TEST_DATA "/dequant.json", 14);
    dequant_file(TEST_DATA "/dequant-iq.json", 11);
}

/* Blocks that take every entry of a type's tables: all values, bit for bit, as their FNV-1a hash. */
static void test_dequant_tables(void **state)
{
    (void)state;
    json_t *doc = json_load_file(TEST_DATA "/dequant-iq.json", 0, NULL), *one;
    const char *name;
    size_t n_type = 0;
    sp_kern k;
    sp_kern_init_ref(&k);
    json_object_foreach(json_object_get(doc, "tables"), name, one)
    {
        sp_type type = (sp_type)json_integer_value(json_object_get(one, "number"));
        if (!sp_type_get((uint32_t)type))
            continue;
        size_t n = (size_t)json_integer_value(json_object_get(one, "n")), n_bytes = sp_type_row_bytes(type, n);
        const char *hex = json_string_value(json_object_get(one, "bytes"));
        uint8_t *raw = malloc(n_bytes), *scratch = malloc(sp_pack_scratch(n)), *tile = malloc(sp_pack_is(type) ? sp_pack_tile_bytes(type, n) : 1);
        float *out = malloc(n * sizeof *out);
        uint64_t hash = 0xcbf29ce484222325u;
        char got[17];
        assert_int_equal(strlen(hex) / 2, n_bytes);
        for (size_t i = 0; i < n_bytes; i++) {
            unsigned v;
            assert_int_equal(sscanf(hex + 2 * i, "%2x", &v), 1);
            raw[i] = (uint8_t)v;
        }
        if (sp_pack_is(type))
            sp_pack_tile(tile, type, raw, 1, n, scratch);
        sp_kern_row_f32(&k, out, type, sp_pack_is(type) ? tile : raw, 0, n);
        for (size_t i = 0; i < n; i++) {
            float f = out[i] + 0.0f;
            for (size_t b = 0; b < 4; b++)
                hash = (hash ^ ((const uint8_t *)&f)[b]) * 0x100000001b3u;
        }
        snprintf(got, sizeof got, "%016llx", (unsigned long long)hash);
        if (strcmp(got, json_string_value(json_object_get(one, "fnv1a"))) != 0)
            fail_msg("%s: other values than the reference's", name);
        free(raw), free(scratch), free(tile), free(out);
        n_type++;
    }
    assert_int_equal(n_type, 11);
    json_decref(doc);
}

static void test_safetensors(void **state)
{
    (void)state;
    static const struct { const char *header; uint64_t len; const char *says; } cases[] = {
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[0,8]}}    ", 0, NULL},
        {"{\"a\":{\"dtype\":\"F16\",\"shape\":[2],\"data_offsets\":[0,8]}}    ", 0, "F16"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[3],\"data_offsets\":[0,8]}}    ", 0, "shape"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[4,12]}}   ", 0, "data_offsets"},
        {"{\"a\":{\"dtype\":\"F32\",\"shape\":[2],\"data_offsets\":[8,0]}}    ", 0, "data_offsets"},
        {"{\"b\":{}}", 0, "no tensor a"}, {"[1]     ", 0, "object"}, {"{}      ", UINT64_MAX, "header"}};
    for (size_t i = 0; i < sizeof cases / sizeof cases[0]; i++) {
        sp_buf b = {0};
        sp_safe *s = NULL;
        const float *v;
        sp_diag d = {0};
        char header[128];
        snprintf(header, sizeof header, "%-64s", cases[i].header);
        uint64_t n = cases[i].len ? cases[i].len : strlen(header);
        sp_buf_put(&b, &n, 8);
        sp_buf_puts(&b, header);
        sp_buf_put(&b, "\0\0\0\0\0\0\0\0", 8);
        sp_err err = sp_safe_open_mem(&s, b.p, b.len, &d);
        if (err == SP_OK)
            err = sp_safe_f32(&v, s, "a", 2, 0, &d);
        if (cases[i].says ? err == SP_OK || !strstr(d.msg, cases[i].says) : err != SP_OK)
            fail_msg("case %zu: '%s'", i, d.msg);
        sp_safe_close(s);
        sp_buf_fini(&b);
    }
}

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_bad_files), cmocka_unit_test(test_truncation_and_flips), cmocka_unit_test(test_typed_reads),
        cmocka_unit_test(test_vocabulary_only_file), cmocka_unit_test(test_rope_scaling), cmocka_unit_test(test_keys_of_architectures),
        cmocka_unit_test(test_layers_of_architectures), cmocka_unit_test(test_flops_of_windows), cmocka_unit_test(test_every_allocation_may_fail),
        cmocka_unit_test(test_names_of_parts), cmocka_unit_test(test_parts_while_all_fails), cmocka_unit_test(test_io_errors), cmocka_unit_test(test_f16_all_values),
        cmocka_unit_test(test_dequant_against_reference), cmocka_unit_test(test_dequant_tables), cmocka_unit_test(test_safetensors)};
    return cmocka_run_group_tests_name("fmt", tests, NULL, NULL);
}
