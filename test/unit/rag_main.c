/* rag: formats, chunks, scan, filters, the store, deletion, faults. */
#include "test.h"
#include "vocab.h"

#include "base/fault.h"
#include "base/file.h"
#include "rag/phrase.h"
#include "rag/split.h"
#include "rag/store.h"

#include <stdio.h>
#include <unistd.h>

/* --- formats ---------------------------------------------------------------------------------- */

static const char kinds[] = "THPt"; /* title, heading, paragraph, term */

static sp_err collect(void *arg, const sp_rag_part *p)
{
    sp_buf *out = arg;
    assert_true(p->n > 0 && p->n <= SP_RAG_PART_BYTES);
    sp_buf_printf(out, "%c%d:", kinds[p->kind], p->level);
    sp_buf_put(out, p->p, p->n);
    sp_buf_putc(out, '|');
    return SP_OK;
}

static void parses(const char *name, const char *in, const char *want)
{
    sp_buf out = {0};
    sp_diag d = {0};
    sp_rag_report report = {0};
    const sp_rag_sink sink = {collect, &out};
    assert_int_equal(sp_rag_parse(&sink, &report, NULL, name, in, strlen(in), &d), SP_OK);
    assert_string_equal(sp_buf_str(&out), want);
    sp_buf_fini(&out);
    sp_rag_report_fini(&report);
}

static void test_formats(void **state)
{
    (void)state;
    parses("a.txt", "one\nline\r\n\n\x01two \xff\xc3\xa9", "P0:one line|P0:two \xef\xbf\xbd\xc3\xa9|");
    parses("a.md", "# A\nsee `f()` and [b](c.html)\n\n## B\ntext", "T1:A|t0:f()|t0:b|P0:see f() and b|H2:B|P0:text|");
    parses("a.html", "<title>T</title><script>bad()</script><style>x{}</style><h2>H</h2><p>a <code>c</code> &lt;b&gt;<p>d",
           "T0:T|H2:H|t0:c|P0:a c <b>|P0:d|");
    parses("a.jsonl", "{\"title\":\"T\",\"text\":\"x\"}\n\n{\"text\":\"y\"}\n", "H1:T|P0:x|P0:y|");
    parses("a.csv", "name,note\na,\"x, \"\"y\"\"\"\n", "P0:name: a\nnote: x, \"y\"|");
}

static void test_formats_bad(void **state)
{
    (void)state;
    static const struct { const char *name, *in; } bad[] = {{"a.jsonl", "{\"text\":"}, {"a.jsonl", "[1]"}, {"a.exe", "MZ"}, {"a.csv", "a,b\n\"x"}, {"a.pdf", "no pdf"}};
    for (size_t i = 0; i < sizeof bad / sizeof bad[0]; i++) {
        sp_buf out = {0};
        sp_diag d = {0};
        sp_rag_report report = {0};
        const sp_rag_sink sink = {collect, &out};
        assert_int_not_equal(sp_rag_parse(&sink, &report, NULL, bad[i].name, bad[i].in, strlen(bad[i].in), &d), SP_OK);
        assert_true(d.msg[0] != 0);
        sp_buf_fini(&out);
        sp_rag_report_fini(&report);
    }
}

/* One line of 4 MiB, and tags 100,000 deep: parts stay within their limit. */
static void test_formats_large(void **state)
{
    (void)state;
    enum { N = 4 << 20 };
    static const char *const names[] = {"a.txt", "a.md", "a.html"};
    char *p = malloc(N);
    for (size_t i = 0; i < 3; i++)
        for (int deep = 0; deep < 2; deep++) {
            sp_buf out = {0};
            sp_diag d = {0};
            sp_rag_report report = {0};
            const sp_rag_sink sink = {collect, &out};
            size_t n = deep ? 500000 : N;
            memset(p, 'x', N);
            for (size_t k = 0; deep && k + 5 <= n; k += 5)
                memcpy(p + k, "<div>", 5);
            sp_err err = sp_rag_parse(&sink, &report, NULL, names[i], p, n, &d); /* collect asserts */
            assert_true(err == SP_OK || err == SP_LIMIT || err == SP_FORMAT);
            sp_buf_fini(&out);
            sp_rag_report_fini(&report);
        }
    free(p);
}

/* --- chunks ----------------------------------------------------------------------------------- */

/* WordPiece over four words; the marks are numbers 0 to 3. */
static sp_tok *open_vocab(vocab *v)
{
    static const sp_str token[] = {{"[PAD]", 5}, {"[UNK]", 5}, {"[CLS]", 5}, {"[SEP]", 5}, {"\u2581a", 4}, {"\u2581b", 4}, {"\u2581x", 4}, {"\u2581.", 4}};
    static const int32_t type[] = {3, 2, 3, 3, 1, 1, 1, 1};
    static const struct { const char *key; uint32_t id; } marks[] = {{"tokenizer.ggml.unknown_token_id", 1}, {"tokenizer.ggml.cls_token_id", 2},
                                                                     {"tokenizer.ggml.seperator_token_id", 3}};
    const float score[8] = {0};
    vocab_begin(v, "bert", token, type, score, 8);
    for (size_t i = 0; i < 3; i++) {
        vocab_key(v, marks[i].key, 4);
        vocab_num(v, marks[i].id, 4);
    }
    assert_int_equal(vocab_open(v, NULL), SP_OK);
    return v->t;
}

static sp_err join(void *arg, const sp_rag_chunk *c)
{
    sp_buf *out = arg;
    assert_true(c->n_tok <= 20);
    sp_buf_printf(out, "(%s)[%zu] %.*s\n", c->place, c->n_tok, (int)c->n, c->text);
    return SP_OK;
}

static void test_chunks(void **state)
{
    (void)state;
    static const char in[] = "# a\na b a b a b a b a.\n\nb b b b b b b b b b.\n\n## b\nx. x x x x x x x x x. x x x x x x x x x x x x x x.\n";
    vocab v = {0};
    const sp_tok *words = open_vocab(&v);
    sp_buf first = {0};
    for (int round = 0; round < 2; round++) {
        sp_buf out = {0};
        sp_rag_chunker *c;
        assert_int_equal(sp_rag_chunker_new(&c, words, 20, join, &out), SP_OK);
        sp_rag_sink sink = sp_rag_chunker_sink(c, "x");
        sp_rag_report report = {0};
        assert_int_equal(sp_rag_parse(&sink, &report, NULL, "x.md", in, sizeof in - 1, NULL), SP_OK);
        sp_rag_report_fini(&report);
        assert_int_equal(sp_rag_chunker_end(c), SP_OK);
        sp_rag_chunker_free(c);
        if (round)
            assert_string_equal(out.p, first.p);
        sp_buf_fini(round ? &out : &(sp_buf){0});
        if (!round)
            first = out;
    }
    assert_string_equal(first.p, "(a)[11] a b a b a b a b a.\n"
                                 "(a)[12] b b b b b b b b b b.\n"
                                 "(a > b)[15] x. x x x x x x x x x.\n"
                                 "(a > b)[18] x x x x x x x x x x x x x x.\n");
    sp_buf_fini(&first);
    vocab_fini(&v);
}

static sp_err join_text(void *arg, const sp_rag_chunk *c)
{
    assert_true(c->n <= 20 * SP_RAG_TOK_BYTES && c->n_tok <= 20);
    sp_buf_put(arg, c->text, c->n);
    return SP_OK;
}

/* Words that the encoder takes for one token each, however long: chunks stay small, and nothing is put into them or lost. */
static void test_chunks_of_long_words(void **state)
{
    (void)state;
    static const char *const unit[] = {"QUJDREVG", "\xe0\xb9\x80\xe0\xb8\xa3\xe0\xb8\xb7\xe0\xb8\xad", "\xe9\x9b\xbb\xe6\xb1\xa0\xe3\x80\x82", "\xd0\xb6", "0", "a_"};
    vocab v = {0};
    const sp_tok *words = open_vocab(&v);
    for (size_t i = 0; i < sizeof unit / sizeof *unit; i++) {
        sp_buf in = {0}, out = {0};
        sp_rag_chunker *c;
        for (int k = 0; k < 1000; k++)
            sp_buf_puts(&in, unit[i]);
        assert_int_equal(sp_rag_chunker_new(&c, words, 20, join_text, &out), SP_OK);
        sp_rag_sink sink = sp_rag_chunker_sink(c, "x");
        const sp_rag_part part = {.kind = SP_RAG_TEXT, .p = in.p, .n = in.len};
        assert_int_equal(sink.put(sink.arg, &part), SP_OK);
        assert_int_equal(sp_rag_chunker_end(c), SP_OK);
        assert_int_equal(out.len, in.len);
        assert_memory_equal(out.p, in.p, in.len);
        sp_rag_chunker_free(c);
        sp_buf_fini(&in);
        sp_buf_fini(&out);
    }
    vocab_fini(&v);
}

static void test_phrases(void **state)
{
    (void)state;
    static const struct {
        const char *text, *want;
    } t[] = {
        {"The query planner reads the statistics of each large table, often.", "+query planner +large table "}, /* an article follows: "reads" is a verb */
        {"Mira Tolvanen repairs clocks in Turku. Old clocks stop.", "+Mira Tolvanen +Turku "}, /* a capital that only begins a sentence says nothing */
        {"We use PostgreSQL 15 and a write-ahead log.", "+PostgreSQL 15 +write-ahead log "},
        {"the log. file", ""},         /* a sentence ends between them */
        {"a very long single row of words", ""}, /* more than three */
        {"", ""},
        {"the", ""},
        {"the \xc3\xa4lteste Uhr", "+Uhr +\xc3\xa4lteste Uhr "},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        sp_buf out = {0};
        sp_rag_phrases(&out, '+', t[i].text, strlen(t[i].text), 200);
        for (size_t k = 0; k < out.len; k++)
            out.p[k] = out.p[k] ? out.p[k] : ' ';
        if (strcmp(sp_buf_str(&out), t[i].want) != 0)
            fail_msg("%s: %s, not %s", t[i].text, sp_buf_str(&out), t[i].want);
        sp_buf_fini(&out);
    }
    sp_buf out = {0};
    sp_rag_phrases(&out, '+', "See Turku, see Finland.", 23, 9); /* room for one */
    assert_int_equal(out.len, 7);
    sp_buf_fini(&out);
}

static void test_split(void **state)
{
    (void)state;
    static const struct {
        const char *in, *text, *parts;
    } t[] = {
        {"", "", ""}, {" .,; ", "", ""}, {"One two", " one two ", ""}, {"don't 3.14", " don t 3 14 ", ""},
        {"userName user_name HTTPServer2x", " username user name httpserver2x ", " user name username http server2x "},
        {"__init__ _", " init ", ""},
        {"Cr\xc3\xa8me bru\xcc\x88le", " creme brule ", ""},               /* composed and not */
        {"stra\xc3\x9f""e", " strasse ", ""},
        {"\xef\xbe\x83\xef\xbe\x9e", " \xe3\x83\x87 ", ""},                /* half-width kana with its mark is one letter */
        {"\xec\x97\xb0\xea\xb2\xb0", " \xec\x97\xb0 \xea\xb2\xb0 ", " \xec\x97\xb0\xea\xb2\xb0 "},
        {"\xff" "a", " a ", ""},
    };
    for (size_t i = 0; i < sizeof t / sizeof *t; i++) {
        sp_buf text = {0}, parts = {0};
        assert_int_equal(sp_rag_split_index(&text, &parts, t[i].in, strlen(t[i].in)), SP_OK);
        assert_string_equal(sp_buf_str(&text), t[i].text);
        assert_string_equal(sp_buf_str(&parts), t[i].parts);
        sp_buf_fini(&text);
        sp_buf_fini(&parts);
    }
}

/* Whatever the bytes are, words are short, and nothing is lost of a text of letters. */
static void test_split_any(void **state)
{
    (void)state;
    uint64_t r = 11;
    char p[3000];
    for (int round = 0; round < 300; round++) {
        sp_buf text = {0}, parts = {0};
        size_t n = test_rand(&r) % sizeof p;
        for (size_t i = 0; i < n; i++)
            p[i] = (char)(round % 3 == 0 ? test_rand(&r) : round % 3 == 1 ? (uint32_t)(unsigned char)"\xe3\x81\x82"[i % 3] : 97 + test_rand(&r) % 26);
        assert_int_equal(sp_rag_split_index(&text, &parts, p, n), SP_OK);
        size_t longest = 0, letters = 0;
        for (size_t i = 0, k = 0; i < text.len; i++) {
            k = text.p[i] == ' ' ? 0 : k + 1;
            letters += text.p[i] != ' ';
            longest = k > longest ? k : longest;
        }
        assert_true(longest <= 1024);
        if (round % 3 == 2)
            assert_int_equal(letters, n);
        sp_buf_fini(&text);
        sp_buf_fini(&parts);
    }
}

/* --- vectors ---------------------------------------------------------------------------------- */

static void random_vec(int8_t *v, uint64_t *s, int range)
{
    for (size_t i = 0; i < SP_VEC_DIM; i++)
        v[i] = (int8_t)((int)(test_rand(s) % (unsigned)(2 * range + 1)) - range);
}

static int by_dot(const void *a, const void *b)
{
    const sp_vec_hit *x = a, *y = b;
    return x->dot != y->dot ? (x->dot < y->dot ? 1 : -1) : x->key < y->key ? -1 : x->key > y->key;
}

/* Equal to sorting all rows, with many ties (range 1), with documents left out, for every k. */
static void test_scan(void **state)
{
    (void)state;
    enum { N = 700, DOCS = 7 };
    uint64_t s = 3;
    sp_kern kern;
    sp_kern_init(&kern, sp_cpu_detect());
    for (int range = 1; range < 128; range += 126) {
        sp_vecs v = {0};
        int8_t row[SP_VEC_DIM], q[SP_VEC_DIM];
        sp_vec_hit want[N], got[SP_VEC_K];
        for (int64_t i = 0; i < N; i++) {
            random_vec(row, &s, range);
            assert_int_equal(sp_vecs_add(&v, 5000 - i, (uint32_t)(i % DOCS), row), SP_OK);
        }
        random_vec(q, &s, 2);
        for (int some = 0; some < 2; some++) {
            const uint8_t ok[DOCS] = {1, 0, 0, 1, 1, 0, 0};
            size_t n_want = 0, n_got;
            for (size_t i = 0; i < N; i++) {
                int32_t dot = 0;
                for (size_t e = 0; e < SP_VEC_DIM; e++)
                    dot += q[e] * v.at[i * SP_VEC_DIM + e];
                if (!some || ok[v.doc[i]])
                    want[n_want++] = (sp_vec_hit){v.key[i], dot};
            }
            qsort(want, n_want, sizeof *want, by_dot);
            for (size_t k = 1; k <= SP_VEC_K; k = k * 3) {
                sp_vecs_search(&v, &kern, q, some ? ok : NULL, k, got, &n_got);
                assert_int_equal(n_got, k < n_want ? k : n_want);
                for (size_t i = 0; i < n_got; i++) {
                    assert_int_equal(got[i].key, want[i].key);
                    assert_int_equal(got[i].dot, want[i].dot);
                }
            }
        }
        sp_vecs_fini(&v);
    }
}

/* --- filters ---------------------------------------------------------------------------------- */

static void test_filters(void **state)
{
    (void)state;
    static const struct { const char *filter; int want; } t[] = {
        {"{\"type\":\"eq\",\"key\":\"year\",\"value\":2024}", 1},
        {"{\"type\":\"eq\",\"key\":\"year\",\"value\":\"2024\"}", 0},
        {"{\"type\":\"ne\",\"key\":\"year\",\"value\":2024}", 0},
        {"{\"type\":\"ne\",\"key\":\"none\",\"value\":1}", 1},
        {"{\"type\":\"gt\",\"key\":\"year\",\"value\":2023.5}", 1},
        {"{\"type\":\"lte\",\"key\":\"none\",\"value\":1}", 0},
        {"{\"type\":\"lt\",\"key\":\"lang\",\"value\":\"en\"}", 1},
        {"{\"type\":\"in\",\"key\":\"lang\",\"value\":[\"fr\",\"de\"]}", 1},
        {"{\"type\":\"nin\",\"key\":\"lang\",\"value\":[\"fr\",\"de\"]}", 0},
        {"{\"type\":\"nin\",\"key\":\"none\",\"value\":[1]}", 1},
        {"{\"type\":\"and\",\"filters\":[{\"type\":\"eq\",\"key\":\"ok\",\"value\":true},{\"type\":\"gte\",\"key\":\"year\",\"value\":2025}]}", 0},
        {"{\"type\":\"or\",\"filters\":[{\"type\":\"eq\",\"key\":\"ok\",\"value\":true},{\"type\":\"gte\",\"key\":\"year\",\"value\":2025}]}", 1},
        {"{\"type\":\"like\",\"key\":\"a\",\"value\":1}", -1}, {"{\"type\":\"eq\",\"value\":1}", -1}, {"{\"type\":\"in\",\"key\":\"a\",\"value\":1}", -1},
        {"{\"type\":\"and\",\"filters\":[]}", -1}, {"[]", -1}, {"{\"type\":\"eq\",\"key\":\"a\",\"value\":{}}", -1}};
    json_t *doc = json_loads("{\"year\":2024,\"lang\":\"de\",\"ok\":true}", 0, NULL);
    for (size_t i = 0; i < sizeof t / sizeof t[0]; i++) {
        sp_diag d = {0};
        json_t *f = json_loads(t[i].filter, 0, NULL);
        assert_int_equal(sp_rag_filter_check(f, &d), t[i].want < 0 ? SP_INVAL : SP_OK);
        if (t[i].want >= 0 && sp_rag_filter_holds(f, doc) != t[i].want)
            fail_msg("%s", t[i].filter);
        json_decref(f);
    }
    json_t *deep = json_loads("{\"type\":\"eq\",\"key\":\"a\",\"value\":1}", 0, NULL);
    for (int i = 0; i < 20; i++)
        deep = json_pack("{s:s, s:[o]}", "type", "and", "filters", deep);
    assert_int_equal(sp_rag_filter_check(deep, NULL), SP_INVAL);
    json_decref(deep);
    json_decref(doc);
}

/* --- store ------------------------------------------------------------------------------------ */

typedef struct world {
    char dir[32], path[64];
    sp_kern kern;
    sp_rag_store *s;
    char coll[SP_RAG_ID];
} world;

static void open_world(world *w)
{
    snprintf(w->dir, sizeof w->dir, "/tmp/sp_ragXXXXXX");
    assert_non_null(mkdtemp(w->dir));
    snprintf(w->path, sizeof w->path, "%s/k.db", w->dir);
    sp_kern_init(&w->kern, sp_cpu_detect());
    assert_int_equal(sp_rag_open(&w->s, w->path, &w->kern, NULL), SP_OK);
    assert_int_equal(sp_rag_coll_create(w->s, "t", "c", NULL, w->coll, NULL), SP_OK);
}

static void close_world(world *w)
{
    static const char *const tails[] = {"", "-wal", "-shm"};
    char name[80];
    sp_rag_close(w->s);
    for (size_t i = 0; i < 3; i++) {
        snprintf(name, sizeof name, "%s%s", w->path, tails[i]);
        unlink(name);
    }
    assert_int_equal(rmdir(w->dir), 0);
}

static sp_err put(world *w, const char *path, const char *text, sp_rag_done *done, char id[SP_RAG_ID])
{
    sp_diag d = {0};
    sp_rag_outcome out = {0};
    const sp_rag_put p = {.tenant = "t", .coll = w->coll, .path = path, .bytes = text, .n_bytes = strlen(text), .max_tok = 100};
    sp_err err = sp_rag_doc_put(w->s, &p, &out, &d);
    *done = out.done;
    snprintf(id, SP_RAG_ID, "%s", out.id);
    return err;
}

static size_t search(world *w, const char *tenant, const char *text, const int8_t *vec, char first[SP_RAG_ID])
{
    sp_arena a;
    sp_rag_hit *hit;
    size_t n = 0;
    sp_diag d = {0};
    sp_arena_init(&a, 0);
    const sp_rag_query q = {.tenant = tenant, .coll = w->coll, .text = text, .vec = vec, .how = SP_RAG_ALL, .cap = 10};
    sp_err err = sp_rag_search(w->s, &a, &q, &hit, &n, &d);
    if (err == SP_OK && n && first)
        snprintf(first, SP_RAG_ID, "%s", hit[0].doc);
    sp_arena_fini(&a);
    return err == SP_OK ? n : 1000 + (size_t)err;
}

static bool file_holds(const char *path, const char *word)
{
    FILE *f = fopen(path, "rb");
    size_t len = strlen(word), n = 0;
    char *p = malloc(8 << 20);
    if (f)
        n = fread(p, 1, 8 << 20, f), fclose(f);
    bool found = n >= len && memmem(p, n, word, len);
    free(p);
    return found;
}

static void test_store(void **state)
{
    (void)state;
    world w;
    sp_rag_done done;
    char a[SP_RAG_ID], b[SP_RAG_ID], got[SP_RAG_ID], wal[80];
    open_world(&w);
    assert_int_equal(put(&w, "a.md", "# Sorting\nwork_mem zebraquartz limits `work_mem`", &done, a), SP_OK);
    assert_int_equal(done, SP_RAG_ADDED);
    assert_int_equal(put(&w, "b.md", "# Joins\nhash joins obey [hash_mem](x)", &done, b), SP_OK);
    assert_int_equal(put(&w, "a.md", "# Sorting\nwork_mem zebraquartz limits `work_mem`", &done, got), SP_OK);
    assert_int_equal(done, SP_RAG_SAME);
    assert_string_equal(a, got);
    assert_int_equal(search(&w, "t", "zebraquartz?", NULL, got), 1);
    assert_string_equal(a, got);
    assert_int_equal(search(&w, "t", "\" OR * NEAR( NOT ^col:", NULL, NULL), 0); /* syntax of FTS is text */
    assert_int_equal(search(&w, "other", "zebraquartz", NULL, NULL), 1000 + SP_NOTFOUND);

    static sp_rag_vecs vecs[2] = {{.whole = {[0] = 100}}, {.whole = {[1] = 100}, .sent = {{[1] = 100}, {[2] = 50}}, .n_sent = 2}};
    sp_arena arena;
    sp_rag_bare *bare;
    size_t n;
    sp_arena_init(&arena, 0);
    assert_int_equal(sp_rag_bare_next(w.s, &arena, 9, &bare, &n, NULL), SP_OK);
    assert_int_equal(n, 2);
    assert_int_equal(sp_rag_bare_set(w.s, bare, vecs, 2, NULL), SP_OK);
    assert_int_equal(sp_rag_bare_next(w.s, &arena, 9, &bare, &n, NULL), SP_NOTFOUND);
    assert_int_equal(search(&w, "t", "nothing said", vecs[1].whole, got), 2);
    assert_string_equal(b, got);

    assert_int_equal(put(&w, "a.md", "# Sorting\nchanged", &done, got), SP_OK);
    assert_int_equal(done, SP_RAG_CHANGED);
    assert_int_equal(search(&w, "t", "zebraquartz", NULL, NULL), 0);
    assert_int_equal(put(&w, "c.jsonl", "{\"text\":", &done, got), SP_FORMAT); /* and nothing of it stays */
    sp_rag_doc *doc;
    assert_int_equal(sp_rag_doc_list(w.s, &arena, "t", w.coll, &doc, &n, NULL), SP_OK);
    assert_int_equal(n, 2);
    assert_int_equal(sp_rag_doc_delete(w.s, "other", w.coll, a, NULL), SP_NOTFOUND);
    assert_int_equal(sp_rag_doc_delete(w.s, "t", w.coll, a, NULL), SP_OK);
    assert_int_equal(sp_rag_doc_delete(w.s, "t", w.coll, a, NULL), SP_NOTFOUND);
    sp_rag_term *term;
    assert_int_equal(sp_rag_graph(w.s, &arena, "t", w.coll, NULL, 10, &term, &n, NULL), SP_OK);
    for (size_t i = 0; i < n; i++)
        assert_string_not_equal(term[i].name, "Sorting");
    sp_arena_fini(&arena);
    snprintf(wal, sizeof wal, "%s-wal", w.path);
    assert_false(file_holds(w.path, "zebraquartz") || file_holds(wal, "zebraquartz")); /* overwritten, words too */
    assert_false(file_holds(w.path, "changed") || file_holds(wal, "changed"));
    close_world(&w);
}

static void test_uploads(void **state)
{
    (void)state;
    world w;
    char id[SP_RAG_ID];
    sp_rag_outcome done;
    sp_arena a;
    sp_rag_file f;
    sp_rag_coll c;
    const char *content;
    open_world(&w);
    sp_arena_init(&a, 0);
    assert_int_equal(sp_rag_file_put(w.s, "t", "n.txt", "assistants", "quagga text", 11, id, NULL), SP_OK);
    assert_int_equal(sp_rag_file_get(w.s, &a, "other", id, &f, &content, NULL), SP_NOTFOUND);
    assert_int_equal(sp_rag_file_get(w.s, &a, "t", id, &f, &content, NULL), SP_OK);
    assert_int_equal(f.n_bytes, 11);
    assert_memory_equal(content, "quagga text", 11);
    const sp_rag_put p = {.tenant = "t", .coll = w.coll, .id = id, .path = "n.txt", .bytes = content, .n_bytes = 11, .max_tok = 100};
    assert_int_equal(sp_rag_doc_put(w.s, &p, &done, NULL), SP_OK);
    assert_string_equal(id, done.id);
    assert_int_equal(search(&w, "t", "quagga", NULL, NULL), 1);
    assert_int_equal(sp_rag_file_delete(w.s, "t", id, NULL), SP_OK); /* and the document made of it */
    assert_int_equal(search(&w, "t", "quagga", NULL, NULL), 0);
    assert_int_equal(sp_rag_coll_get(w.s, &a, "t", w.coll, &c, NULL), SP_OK);
    assert_int_equal(c.n_doc + c.n_chunk, 0);
    assert_false(file_holds(w.path, "quagga"));
    assert_int_equal(sp_rag_coll_delete(w.s, "t", w.coll, NULL), SP_OK);
    assert_int_equal(sp_rag_coll_get(w.s, &a, "t", w.coll, &c, NULL), SP_NOTFOUND);
    sp_arena_fini(&a);
    close_world(&w);
}

/* Memory fails at every place in turn: an error, and the document as it was. */
static void test_faults(void **state)
{
    (void)state;
    world w;
    sp_rag_done done;
    char id[SP_RAG_ID];
    bool failed = true;
    open_world(&w);
    assert_int_equal(put(&w, "a.md", "# One\noldword", &done, id), SP_OK);
    for (long i = 1; failed; i++) {
        assert_true(i < 10000);
        sp_fault_arm(SP_FAULT_MEM, i);
        sp_err err = put(&w, "a.md", "# Two\nnewword `term` [x](y)", &done, id);
        sp_fault_arm(SP_FAULT_MEM, 0);
        failed = err != SP_OK;
        assert_true(!failed || err == SP_NOMEM);
        assert_int_equal(search(&w, "t", "oldword", NULL, NULL), failed);
        assert_int_equal(search(&w, "t", "newword", NULL, NULL), !failed);
    }
    for (long i = 1, ok = 0; !ok; i++) {
        sp_fault_arm(SP_FAULT_MEM, i);
        ok = search(&w, "t", "newword", NULL, NULL) == 1;
        sp_fault_arm(SP_FAULT_MEM, 0);
    }
    close_world(&w);
}

/* rag_formats.c */
void test_encodings(void **state);
void test_csv(void **state);
void test_json(void **state);
void test_markdown(void **state);
void test_html(void **state);
void test_budget(void **state);

int main(void)
{
    const struct CMUnitTest tests[] = {
        cmocka_unit_test(test_encodings), cmocka_unit_test(test_csv), cmocka_unit_test(test_json), cmocka_unit_test(test_markdown),
        cmocka_unit_test(test_html), cmocka_unit_test(test_budget),
        cmocka_unit_test(test_formats), cmocka_unit_test(test_formats_bad), cmocka_unit_test(test_formats_large), cmocka_unit_test(test_chunks),
        cmocka_unit_test(test_phrases), cmocka_unit_test(test_chunks_of_long_words), cmocka_unit_test(test_split), cmocka_unit_test(test_split_any),
        cmocka_unit_test(test_scan),    cmocka_unit_test(test_filters),     cmocka_unit_test(test_store),         cmocka_unit_test(test_uploads),
        cmocka_unit_test(test_faults)};
    return cmocka_run_group_tests(tests, NULL, NULL);
}
