/* Random answers that repeat texts, for tests of reference marks: sources, an answer made of words,
 * of spans of the sources and of itself, and the pieces in which it comes. Words hold what marks
 * are made of, and characters of two to four bytes. */
#ifndef SP_TEST_REFER_CASE_H
#define SP_TEST_REFER_CASE_H

#include "base/buf.h"
#include "base/rng.h"
#include "pipe/refer.h"

#include <string.h>

enum { REFER_SOURCES = 4 };

typedef struct refer_case {
    sp_buf source[REFER_SOURCES], answer;
    sp_str list[REFER_SOURCES]; /* the sources */
    size_t n_source;
    sp_rng rng;
} refer_case;

static inline size_t refer_below(refer_case *c, size_t n)
{
    return (size_t)(sp_rng_unit(&c->rng) * (double)n);
}

static inline void refer_words(refer_case *c, sp_buf *out, size_t n)
{
    static const char *const word[] = {"the",
                                       "cat",
                                       "sat on",
                                       "a mat,",
                                       "größe",
                                       "[§",
                                       "[",
                                       "§",
                                       "[§1]",
                                       "[§§",
                                       "日本語",
                                       "\n\n",
                                       "\n- ",
                                       "😀",
                                       "x",
                                       "0123456789",
                                       "\n\n[§] repeated:",
                                       "message 0, bytes 1-2",
                                       "unless",
                                       "otherwise",
                                       "is",
                                       "not",
                                       "quoted.",
                                       "\"said\"",
                                       "  ",
                                       "\t"};
    for (size_t i = 0; i < n; i++) {
        sp_buf_puts(out, word[refer_below(c, sizeof word / sizeof word[0])]);
        sp_buf_puts(out, refer_below(c, 8) ? " " : "");
    }
}

/* The character that holds byte `at`, or the text's end. */
static inline size_t refer_border(const sp_buf *text, size_t at)
{
    while (at < text->len && ((unsigned char)text->p[at] & 0xc0) == 0x80)
        at++;
    return at;
}

static inline void refer_copy(refer_case *c, const sp_buf *from)
{
    sp_buf span = {0};
    size_t at = refer_border(from, refer_below(c, from->len + 1)),
           end = refer_border(from, at + refer_below(c, 300));
    end = end < from->len ? end : from->len;
    sp_buf_put(&span, from->p ? from->p + at : "", end - at);
    sp_buf_put(&c->answer, span.p, span.len);
    sp_buf_fini(&span);
}

static inline void refer_make(refer_case *c, uint64_t seed)
{
    *c = (refer_case){0};
    sp_rng_init(&c->rng, seed);
    c->n_source = refer_below(c, REFER_SOURCES + 1);
    for (size_t i = 0; i < c->n_source; i++) {
        if (i && refer_below(c, 4) == 0)
            sp_buf_put(&c->source[i], c->source[i - 1].p, c->source[i - 1].len);
        refer_words(c, &c->source[i], refer_below(c, 5) ? refer_below(c, 120) : 0);
        c->list[i] = (sp_str){sp_buf_str(&c->source[i]), c->source[i].len};
    }
    for (size_t i = refer_below(c, 12); i-- > 0;) {
        size_t what = refer_below(c, 4);
        if (what == 0)
            refer_words(c, &c->answer, refer_below(c, 12));
        else if (what == 1 || !c->n_source)
            refer_copy(c, &c->answer);
        else
            refer_copy(c, &c->source[refer_below(c, c->n_source)]);
    }
}

static inline void refer_fini(refer_case *c)
{
    for (size_t i = 0; i < REFER_SOURCES; i++)
        sp_buf_fini(&c->source[i]);
    sp_buf_fini(&c->answer);
}

/* Feeds the answer in pieces of up to `most` bytes, whole characters. */
static inline sp_err refer_feed(refer_case *c, sp_refer *r, size_t most)
{
    for (size_t at = 0, end; at < c->answer.len; at = end) {
        end = refer_border(&c->answer, at + 1 + refer_below(c, most));
        end = end < c->answer.len ? end : c->answer.len;
        SP_TRY(sp_refer_feed(r, (sp_str){c->answer.p + at, end - at}, NULL));
    }
    return sp_refer_finish(r);
}

#endif
