/* rag: what each text format gives, in which encoding, and what is named when something of it cannot be read. */
#include "test.h"

#include "base/buf.h"
#include "rag/parse.h"

#include <stdio.h>

static const char kinds[] = "THPt"; /* title, heading, paragraph, term */

static sp_err collect(void *arg, const sp_rag_part *p)
{
    sp_buf *out = arg;
    assert_true(p->n > 0 && p->n <= SP_RAG_PART_BYTES);
    if (p->kind != SP_RAG_TERM)
        sp_buf_printf(out, "%c%d:%.*s|", kinds[p->kind], p->level, (int)p->n, p->p);
    return SP_OK;
}

typedef struct reading {
    sp_buf out;
    sp_rag_report report;
    sp_diag d;
    sp_err err;
} reading;

static reading read_bytes(const char *name, const char *p, size_t n, const sp_rag_budget *budget)
{
    reading r = {0};
    const sp_rag_sink sink = {collect, &r.out};
    r.err = sp_rag_parse(&sink, &r.report, budget, name, p, n, &r.d);
    return r;
}

static void end(reading *r)
{
    sp_buf_fini(&r->out);
    sp_rag_report_fini(&r->report);
}

/* want: the parts. bad: what the report names, "" for nothing. */
static void gives(const char *name, const char *in, size_t n, const char *want, const char *bad)
{
    reading r = read_bytes(name, in, n, NULL);
    if (r.err != SP_OK || strcmp(sp_buf_str(&r.out), want) != 0 || (bad[0] ? !strstr(sp_buf_str(&r.report.notes), bad) : r.report.notes.len != 0))
        fail_msg("%s of %.40s: %s %s, [%s], notes [%s]; not [%s], [%s]", name, in, sp_err_name(r.err), r.d.msg, sp_buf_str(&r.out),
                 sp_buf_str(&r.report.notes), want, bad);
    end(&r);
}

#define GIVES(name, in, want) gives(name, in, sizeof(in) - 1, want, "")
#define GIVES_BUT(name, in, want, bad) gives(name, in, sizeof(in) - 1, want, bad)

/* --- encodings -------------------------------------------------------------------------------- */

void test_encodings(void **state)
{
    (void)state;
    GIVES("a.txt", "\xef\xbb\xbfGr\xc3\xb6\xc3\x9f" "e", "P0:Gr\xc3\xb6\xc3\x9f" "e|");
    GIVES("a.txt", "\xff\xfe" "T\0\xfc\0r\0", "P0:T\xc3\xbcr|");          /* UTF-16LE with a mark */
    GIVES("a.txt", "\xfe\xff" "\0T\0\xfc\0r", "P0:T\xc3\xbcr|");          /* UTF-16BE with a mark */
    GIVES("a.txt", "D\0o\0o\0r\0 \0n\0i\0n\0e\0", "P0:Door nine|");     /* without */
    GIVES("a.txt", "\xff\xfe\0\0T\0\0\0", "P0:T|");                     /* UTF-32LE */
    GIVES("a.csv", "\xff\xfe" "a\0;\0b\0\n\0" "1\0;\0" "2\0\n\0", "P0:a: 1\nb: 2|");
    GIVES_BUT("a.txt", "one \xff and \xc3\xa9", "P0:one \xef\xbf\xbd and \xc3\xa9|", "not valid as UTF-8");
    /* by guess: Windows-1252, Shift-JIS */
    GIVES("a.txt", "Die Gr\xf6\xdf" "e der T\xfcr ist f\xfcr die B\xfcrger w\xe4hrend der \xd6" "ffnung wichtig.",
          "P0:Die Gr\xc3\xb6\xc3\x9f" "e der T\xc3\xbcr ist f\xc3\xbcr die B\xc3\xbcrger w\xc3\xa4hrend der \xc3\x96" "ffnung wichtig.|");
    GIVES("a.txt", "\x83" "f\x81[\x83^\x83x\x81[\x83X\x82\xf0\x8d\xc4\x8bN\x93\xae\x82\xb5\x82\xdc\x82\xb7\x81" "B",
          "P0:\xe3\x83\x87\xe3\x83\xbc\xe3\x82\xbf\xe3\x83\x99\xe3\x83\xbc\xe3\x82\xb9\xe3\x82\x92\xe5\x86\x8d\xe8\xb5\xb7\xe5\x8b\x95\xe3\x81\x97\xe3\x81\xbe\xe3\x81\x99\xe3\x80\x82|");
    /* a declaration counts where it is one, and not where a script, a style, a link or the text says the word */
    GIVES("a.html", "<meta charset=\"iso-8859-1\"><p>T\xfcr", "P0:T\xc3\xbcr|");
    GIVES("a.html", "<meta http-equiv=Content-Type content='text/html; charset=windows-1251'><p>\xc4\xe0", "P0:\xd0\x94\xd0\xb0|");
    GIVES("a.html", "<?xml version='1.0' encoding='iso-8859-15'?><p>\xa4", "P0:\xe2\x82\xac|");
    GIVES("a.html", "<script src=a.js charset=latin1></script><p>T\xc3\xbcr", "P0:T\xc3\xbcr|");
    GIVES("a.html", "<!-- <meta charset=latin1> --><p>T\xc3\xbcr", "P0:T\xc3\xbcr|");
    GIVES("a.html", "<p>the word charset=latin1 T\xc3\xbcr", "P0:the word charset=latin1 T\xc3\xbcr|");
    GIVES("a.html", "<meta charset=utf-16><p>T\xc3\xbcr", "P0:T\xc3\xbcr|"); /* it could be read, so it is not */
    GIVES_BUT("a.html", "<meta charset=nonsense><p>T\xc3\xbcr", "P0:T\xc3\xbcr|", "nonsense");
    reading r = read_bytes("a.txt", "MZ\0\x01\x02", 5, NULL);
    assert_int_equal(r.err, SP_FORMAT);
    assert_non_null(strstr(r.d.msg, "zero bytes"));
    end(&r);
}

/* --- CSV -------------------------------------------------------------------------------------- */

void test_csv(void **state)
{
    (void)state;
    GIVES("a.csv", "name;region\nwidget;EU\n", "P0:name: widget\nregion: EU|");
    GIVES("a.csv", "name;price;note\nbolt;1,50;ok\nnut;2,5;no\n", "P0:name: bolt\nprice: 1,50\nnote: ok|P0:name: nut\nprice: 2,5\nnote: no|");
    GIVES("a.csv", "name, first;age\nA, b;3\nC, d;4\n", "P0:name, first: A, b\nage: 3|P0:name, first: C, d\nage: 4|");
    GIVES("a.tsv", "name\tunits\nwidget\t12\n", "P0:name: widget\nunits: 12|");
    GIVES("a.csv", "a|b\n1|2\n", "P0:a: 1\nb: 2|");
    GIVES("a.csv", "sep=;\nname;units\nw,x;12\n", "P0:name: w,x\nunits: 12|");
    GIVES("a.csv", "name,units\rwidget,12\rgadget,7\r", "P0:name: widget\nunits: 12|P0:name: gadget\nunits: 7|");
    GIVES("a.csv", "a,b\r\n1,\"x\r\ny\"\r\n", "P0:a: 1\nb: x\ny|");
    GIVES("a.csv", "a,b\n1,2,\n3,4,,\n", "P0:a: 1\nb: 2|P0:a: 3\nb: 4|");
    GIVES("a.csv", "name\nheron\nosprey\n", "P0:name: heron|P0:name: osprey|");
    GIVES("a.csv", "a,,c\n1,2,3\n", "P0:a: 1\ncolumn 2: 2\nc: 3|");
    GIVES_BUT("a.csv", "a,b\n1,2\n3,4,5\n6,7\n", "P0:a: 1\nb: 2|P0:a: 6\nb: 7|", "row 3 has 3 fields, the first row 2");
    GIVES_BUT("a.csv", "a,b\n1,2\n\"3,4\n5,6\n", "P0:a: 1\nb: 2|P0:a: 5\nb: 6|", "row 3: a quote is never closed");
    GIVES("a.csv", "a,b\n1,2\n3", "P0:a: 1\nb: 2|P0:a: 3|"); /* a row that is being written */
    reading r = read_bytes("a.csv", "a,b\n", 4, NULL);
    assert_int_equal(r.err, SP_OK);
    assert_non_null(strstr(sp_buf_str(&r.report.why), "row of names"));
    end(&r);
}

/* --- JSON ------------------------------------------------------------------------------------- */

void test_json(void **state)
{
    (void)state;
    GIVES_BUT("a.jsonl", "{\"text\":\"alpha\"}\n{\"text\":\"be", "P0:alpha|", "line 2 is not JSON: premature end");
    GIVES_BUT("a.jsonl", "{\"text\":\"a\"}\n{\"n\":NaN}\n[1]\n{\"text\":\"b\"}\n", "P0:a|P0:b|", "line 2 is not JSON: invalid token near 'NaN'");
    GIVES_BUT("a.jsonl", "{\"text\":\"a\"}\n[1]\n", "P0:a|", "line 2 is JSON but not an object");
    GIVES("a.jsonl", "{\"text\":\"big\",\"id\":123456789012345678901234567890}\n", "P0:big\nid: 123456789012345678901234567890|");
    GIVES("a.jsonl", "{\"a\":\"1e999 \\\" 12345678901234567890\",\"b\":1e999}\n", "P0:a: 1e999 \" 12345678901234567890\nb: 1e999|");
    GIVES("a.jsonl", "{\"text\":\"nul \\u0000 x\"}\n", "P0:nul  x|");
    GIVES("a.json", "[{\"title\":\"T\",\"text\":\"x\"},{\"k\":[1,2]}, \"s\"]", "H1:T|P0:x|P0:k: [1,2]|P0:s|");
    GIVES("a.json", "{\"k\":\"v\"}", "P0:k: v|");
    GIVES("a.ipynb", "{\"cells\":[{\"cell_type\":\"markdown\",\"source\":[\"# Herons\\n\",\"They wait.\"]},"
                     "{\"cell_type\":\"code\",\"source\":\"x = 1\\nprint(x)\",\"outputs\":[{\"output_type\":\"stream\",\"text\":[\"1\\n\"]},"
                     "{\"data\":{\"text/plain\":\"two\",\"image/png\":\"AAAA\"}}]}],\"nbformat\":4}",
          "T1:Herons|P0:They wait.|P0:x = 1\nprint(x)|P0:1|P0:two|");
    static const char *const bad[][3] = {{"a.json", "{\"a\":", "line 1"}, {"a.ipynb", "{}", "cells"}, {"a.jsonl", "not json\n", "line 1"}};
    for (size_t i = 0; i < 3; i++) {
        reading r = read_bytes(bad[i][0], bad[i][1], strlen(bad[i][1]), NULL);
        assert_int_equal(r.err, SP_FORMAT);
        assert_non_null(strstr(r.d.msg, bad[i][2]));
        end(&r);
    }
    char deep[2000];
    memset(deep, '[', sizeof deep);
    reading r = read_bytes("a.json", deep, sizeof deep, NULL);
    assert_int_equal(r.err, SP_FORMAT);
    assert_non_null(strstr(r.d.msg, "brackets"));
    end(&r);
}

/* --- Markdown --------------------------------------------------------------------------------- */

void test_markdown(void **state)
{
    (void)state;
    GIVES("a.md", "# Doc\n\n````markdown\n```text\n# Not a heading\n```\nstill code\n````\n\nAfter.\n", "T1:Doc|P0:```text\n# Not a heading\n```\nstill code|P0:After.|");
    GIVES("a.md", "# Doc\n\n```text\n~~~\n# No\n~~~\n```\n", "T1:Doc|P0:~~~\n# No\n~~~|");
    GIVES("a.md", "```one line``` is inline.\n\n# Real\n\nUnder.\n", "P0:one line is inline.|T1:Real|P0:Under.|");
    GIVES("a.md", "1. Step\n\n   ```sh\n   make all\n   make test\n   ```\n2. Next\n   - inner\n", "P0:Step|P0:make all\nmake test|P0:Next|P0:inner|");
    GIVES("a.md", "## C#\n\nSharp.\n\n## Closed ##\n", "H2:C#|P0:Sharp.|H2:Closed|");
    GIVES("a.md", "---\ntitle: \"Guide: one\"\ntags: [a, title]\n---\n\n# Herons\n\nText.\n", "T0:Guide: one|P0:title: \"Guide: one\"\ntags: [a, title]|H1:Herons|P0:Text.|");
    GIVES("a.md", "---\nNo mapping here.\n---\n\nText.\n", "H2:No mapping here.|P0:Text.|");
    GIVES("a.md", "+++\ntitle = \"x\"\n+++\nText.\n", "P0:title = \"x\"|P0:Text.|");
    GIVES("a.md", "| a | b |\n|---|---|\n| 1 | `2` |\n", "P0:a | b|P0:1 | 2|");
    GIVES("a.md", "x &amp; y &#233; &eacute; <b>bold</b> &nosuch;\n", "P0:x & y \xc3\xa9 \xc3\xa9 bold &nosuch;|");
    GIVES("a.md", "<div><h2>In</h2><p>html</p></div>\n\nAfter\n", "H2:In|P0:html|P0:After|");
    GIVES("a.md", "Setext\n======\n\nbody\\\nline\n", "T1:Setext|P0:body line|");
}

/* --- HTML ------------------------------------------------------------------------------------- */

void test_html(void **state)
{
    (void)state;
    GIVES("a.html", "<body><form><h1>All</h1><p>in a form <select><option>no</select></form>", "H1:All|P0:in a form|");
    GIVES("a.html", "<body class='navbar-fixed'><p>The text.", "P0:The text.|");
    GIVES("a.html", "<p>x<div class=navy>blue</div><div class='main nav'>menu</div>y", "P0:x|P0:blue|P0:y|");
    GIVES("a.html", "<nav><ul><li>menu</ul><h1>Main</h1><p>text", "H1:Main|P0:text|"); /* </nav> is missing */
    GIVES("a.html", "<nav><ul><li>one<li>two</ul></nav>", "P0:one|P0:two|");           /* nothing else is there */
    GIVES("a.html", "<nav>menu</nav><noscript>Turn it on</noscript><p>text", "P0:text|");
    reading r = read_bytes("a.html", "<script>x()</script>", 20, NULL);
    assert_int_equal(r.err, SP_OK);
    assert_non_null(strstr(sp_buf_str(&r.report.why), "scripts"));
    end(&r);
}

/* --- budget ----------------------------------------------------------------------------------- */

void test_budget(void **state)
{
    (void)state;
    const sp_rag_budget small = {60, 1000, NULL}, none = {0, 1000, NULL};
    char text[4000];
    memset(text, 'x', sizeof text);
    static const char *const names[] = {"a.txt", "a.md", "a.html", "a.csv"};
    for (size_t i = 0; i < 4; i++) {
        memcpy(text, "a\n", 2);
        reading r = read_bytes(names[i], text, sizeof text, &small);
        assert_int_equal(r.err, SP_LIMIT);
        assert_non_null(strstr(r.d.msg, "1000 bytes"));
        end(&r);
        r = read_bytes(names[i], text, sizeof text, &none);
        assert_int_equal(r.err, SP_TIMEOUT);
        end(&r);
    }
    reading r = read_bytes("a.txt", "", 0, NULL);
    assert_int_equal(r.err, SP_OK);
    assert_non_null(strstr(sp_buf_str(&r.report.why), "no bytes"));
    end(&r);
    r = read_bytes("a.exe", "MZ", 2, NULL);
    assert_int_equal(r.err, SP_UNSUP);
    assert_non_null(strstr(r.d.msg, ".eml, source code, .yaml and .toml"));
    end(&r);
    r = read_bytes("a.RTF", "{", 1, NULL);
    assert_int_equal(r.err, SP_UNSUP);
    assert_string_equal(r.d.msg, ".rtf is not read: save it as .docx");
    end(&r);
}
