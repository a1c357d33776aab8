/* Reference marks: whoever puts the named bytes in a mark's place gets the answer back. */
#include "test.h"

#include "../tool/refer_case.h"

#include "base/mem.h"
#include "base/utf8.h"

void test_refer_cases(void **state);
void test_refer_spans(void **state);
void test_refer_readable(void **state);

typedef struct told {
    const refer_case *c;
    sp_buf text;                   /* expanded */
    size_t n_text, n_mark, n_span; /* bytes as they came; marks; bytes that they stand for */
    size_t least, most;
} told;

static void on_text(void *arg, sp_str text, const char *how)
{
    told *t = arg;
    (void)how;
    assert_true(sp_utf8_is_valid(text.p, text.n));
    sp_buf_put(&t->text, text.p, text.n);
    t->n_text += text.n;
}

static void on_mark(void *arg, const sp_reference *ref)
{
    told *t = arg;
    const sp_buf *from = ref->source == SP_REFER_ANSWER ? &t->text : &t->c->source[ref->source];
    sp_buf span = {0};
    assert_int_equal(ref->at, t->n_text);
    assert_true(ref->source >= SP_REFER_ANSWER && ref->source < (int)t->c->n_source);
    assert_true(ref->length >= t->least && ref->offset + ref->length <= from->len);
    assert_true(!t->most || ref->length <= t->most);
    sp_buf_put(&span, from->p + ref->offset, ref->length);
    assert_true(sp_utf8_is_valid(span.p, span.len));
    assert_int_equal(sp_refer_crc32(span.p, span.len), ref->crc32);
    sp_buf_put(&t->text, span.p, span.len);
    t->n_span += span.len;
    t->n_mark++;
    sp_buf_fini(&span);
}

static sp_refer *begin(told *t, const refer_case *c, const sp_tok *tok, size_t least, size_t most)
{
    sp_refer *r;
    *t = (told){.c = c, .least = least, .most = most};
    const sp_refer_cfg cfg = {.source = c->list,
                              .n_source = c->n_source,
                              .tok = tok,
                              .least = least,
                              .most = most,
                              .text = on_text,
                              .mark = on_mark,
                              .arg = t};
    assert_int_equal(sp_refer_new(&r, &cfg), SP_OK);
    return r;
}

static void open_tok(sp_gguf **g, sp_tok **tok)
{
    assert_int_equal(sp_gguf_open(g, TEST_DATA "/vocab-gpt2.gguf", NULL), SP_OK);
    assert_int_equal(sp_tok_open(tok, *g, NULL), SP_OK);
}

void test_refer_cases(void **state)
{
    enum { CASES = 10000 };
    sp_gguf *g;
    sp_tok *tok;
    size_t n_mark = 0, n_span = 0, n_answer = 0;
    (void)state;
    open_tok(&g, &tok);
    assert_int_equal(sp_refer_crc32("123456789", 9), 0xcbf43926);
    for (uint64_t seed = 0; seed < CASES; seed++) {
        refer_case c;
        told t;
        refer_make(&c, seed);
        sp_refer *r = begin(&t, &c, tok, seed % 3 ? 0 : 40, seed % 2 ? SP_REFER_SPAN : 0);
        assert_int_equal(refer_feed(&c, r, 1 + seed % 20), SP_OK);
        assert_int_equal(t.text.len, c.answer.len);
        assert_true(!c.answer.len || memcmp(t.text.p, c.answer.p, c.answer.len) == 0);
        const sp_refer_stat s = sp_refer_stat_of(r);
        assert_true(s.n_mark == t.n_mark && s.n_byte == t.n_span &&
                    s.n_tok >= SP_REFER_TOK * s.n_mark && t.n_text + t.n_span == c.answer.len);
        n_mark += t.n_mark;
        n_span += t.n_span;
        n_answer += c.answer.len;
        sp_refer_free(r);
        sp_buf_fini(&t.text);
        refer_fini(&c);
    }
    assert_true(n_mark > CASES &&
                n_span > n_answer / 2); /* the cases are of the kind that they should be */
    sp_tok_close(tok);
    sp_gguf_close(g);
}

static void feed(sp_refer *r, const char *text, char how)
{
    sp_buf each = {0};
    for (size_t i = 0; i < strlen(text); i++)
        sp_buf_putc(&each, text[i] == ' ' ? how : SP_TOK_INSIDE);
    assert_int_equal(sp_refer_feed(r, (sp_str){text, strlen(text)}, each.p), SP_OK);
    sp_buf_fini(&each);
}

/* What is held back, what a span is, and how much of it was guessed. */
void test_refer_spans(void **state)
{
    static const char text[] =
        "You may copy this text under the conditions that it names, and under no others at all.";
    sp_gguf *g;
    sp_tok *tok;
    told t;
    refer_case c = {.n_source = 2};
    (void)state;
    open_tok(&g, &tok);
    sp_buf_puts(&c.source[0], "nothing of the kind");
    sp_buf_puts(&c.source[1], text);
    for (size_t i = 0; i < 2; i++)
        c.list[i] = (sp_str){c.source[i].p, c.source[i].len};
    sp_refer *r = begin(&t, &c, tok, 0, SP_REFER_SPAN);
    feed(r, "It says: ", SP_TOK_CHOSEN);
    assert_int_equal(t.n_text, 0); /* it may be the beginning of a span */
    feed(r, "\"", SP_TOK_CHOSEN);
    feed(r, text, SP_TOK_GUESSED);
    assert_int_equal(t.n_mark, 1); /* its source ends here */
    assert_int_equal(t.n_text, 10);
    feed(r, "\", under no others", SP_TOK_CHOSEN); /* four tokens are no span */
    feed(r, ", which is all there is to say.", SP_TOK_CHOSEN);
    assert_int_equal(sp_refer_finish(r), SP_OK);
    const sp_refer_stat s = sp_refer_stat_of(r);
    assert_int_equal(s.n_mark, 1);
    assert_int_equal(s.n_byte, sizeof text - 1);
    assert_int_equal(s.n_guessed, 16);
    assert_int_equal(s.n_tok, 22);
    assert_int_equal(s.n_mark_byte, 54);
    sp_refer_free(r);
    sp_buf_fini(&t.text);
    refer_fini(&c);
    sp_tok_close(tok);
    sp_gguf_close(g);
}

/* Character by character, so that each leaves by itself. */
static void feed_each(sp_refer *r, const char *text)
{
    for (size_t n; *text; text += n) {
        char piece[8] = "";
        n = (unsigned char)*text < 0x80 ? 1 : 2;
        memcpy(piece, text, n);
        feed(r, piece, 0);
    }
}

static void add(void *arg, sp_str text, const char *how)
{
    (void)how;
    sp_buf_put(arg, text.p, text.n);
}

void test_refer_readable(void **state)
{
    static const char span[] = "under the conditions that it names, and under no others at all";
    sp_gguf *g;
    sp_tok *tok;
    sp_buf out = {0}, want = {0};
    sp_refer *r;
    const sp_str source = {
        "May be copied under the conditions that it names, and under no others at all.", 77};
    (void)state;
    open_tok(&g, &tok);
    assert_int_equal(sp_refer_new(&r, &(sp_refer_cfg){.source = &source,
                                                      .n_source = 1,
                                                      .tok = tok,
                                                      .readable = true,
                                                      .text = add,
                                                      .arg = &out}),
                     SP_OK);
    feed_each(r, "Copy [§5 [§ ");
    feed_each(r, span);
    feed(r, "! Again ", 0);
    feed(r, span, 0);
    assert_int_equal(sp_refer_finish(r), SP_OK);
    sp_buf_printf(&want,
                  "Copy [§§5 [§§ [§1]! Again [§1]\n\n[§] repeated:\n- [§1] message 0, bytes 14-76, "
                  "crc32 %08x: under the conditions tha … d under no others at all",
                  sp_refer_crc32(span, sizeof span - 1));
    assert_string_equal(sp_buf_str(&out), sp_buf_str(&want));
    sp_refer_free(r);
    sp_buf_fini(&out);
    sp_buf_fini(&want);
    sp_tok_close(tok);
    sp_gguf_close(g);
}
