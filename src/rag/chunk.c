#include "rag/chunk.h"

#include "base/mem.h"
#include "base/utf8.h"
#include "rag/phrase.h"

#include <stdio.h>
#include <string.h>

enum { LEVELS = 7, MAX_PLACE = 240, MAX_NAME = 160, PLACE_TOK = 64, MAX_TERMS = 8192 };

struct sp_rag_chunker {
    const sp_tok *vocab;
    size_t max_tok;
    sp_err (*put)(void *arg, const sp_rag_chunk *c);
    void *arg;
    char head[LEVELS][MAX_NAME]; /* [0] is the title */
    char place[MAX_PLACE];
    sp_buf text, terms, waiting; /* waiting: terms of the paragraph to come */
    size_t n_tok, place_tok;
};

sp_err sp_rag_chunker_new(sp_rag_chunker **out, const sp_tok *vocab, size_t max_tok,
                          sp_err (*put)(void *arg, const sp_rag_chunk *c), void *arg)
{
    sp_rag_chunker *c = sp_mem_alloc(sizeof *c);
    if (!c)
        return SP_NOMEM;
    c->vocab = vocab;
    c->max_tok = max_tok;
    c->put = put;
    c->arg = arg;
    *out = c;
    return SP_OK;
}

void sp_rag_chunker_free(sp_rag_chunker *c)
{
    if (!c)
        return;
    sp_buf_fini(&c->text);
    sp_buf_fini(&c->terms);
    sp_buf_fini(&c->waiting);
    sp_mem_free(c);
}

/* What a text costs in any tokenizer, from below: a word up to LONG letters one token, a longer one
 * a token for two letters, a character of three bytes one, and BYTES bytes one. The encoder's
 * tokenizer alone takes a word that it does not know, be it a line of Base64 or a page of Thai, for
 * one token; a model's pays for its bytes. Of ordinary text this is less than what the encoder
 * counts. */
static size_t least(const char *p, size_t n)
{
    enum { LONG = 16 };
    size_t halves = 0, run = 0;
    for (size_t i = 0; i <= n; i++) {
        unsigned char b = i < n ? (unsigned char)p[i] : ' ';
        /* the last: letters of Latin */
        if ((b >= '0' && b <= '9') || ((b | 32) >= 'a' && (b | 32) <= 'z') ||
            (b >= 0xc3 && b <= 0xc9)) {
            run++;
        } else if (b < 0x80 || b >= 0xc0) {
            halves += run > LONG ? run : run ? 2 : 0;
            halves += b >= 0xe0 ? 2 : b >= 0xca;
            run = 0;
        }
    }
    size_t by_bytes = (n + SP_RAG_TOK_BYTES - 1) / SP_RAG_TOK_BYTES;
    return (halves + 1) / 2 > by_bytes ? (halves + 1) / 2 : by_bytes;
}

static size_t count(const sp_rag_chunker *c, const char *p, size_t n)
{
    sp_ids ids = {0};
    size_t k = n / 3 + 1, low = least(p, n);
    if (c->vocab && sp_tok_encode(c->vocab, &ids, p, n, SP_SPECIAL_NONE, NULL) == SP_OK)
        k = ids.n;
    sp_ids_fini(&ids);
    return k > low ? k : low;
}

/* Title > Heading > …; a heading that repeats the one above it is left out. */
static void make_place(sp_rag_chunker *c)
{
    size_t at = 0;
    const char *last = "";
    c->place[0] = 0;
    for (int i = 0; i < LEVELS; i++) {
        if (!c->head[i][0] || strcmp(c->head[i], last) == 0)
            continue;
        int k = snprintf(c->place + at, sizeof c->place - at, "%s%s", at ? " > " : "", c->head[i]);
        at = at + (size_t)k < sizeof c->place ? at + (size_t)k : sizeof c->place - 1;
        last = c->head[i];
    }
    c->place[at - sp_utf8_tail(c->place, at)] = 0; /* cut between characters */
    c->place_tok = count(c, c->place, strlen(c->place));
    if (c->place_tok > PLACE_TOK)
        c->place_tok = PLACE_TOK;
}

sp_err sp_rag_chunker_end(sp_rag_chunker *c)
{
    if (c->text.failed || c->waiting.failed)
        return SP_NOMEM;
    if (!c->text.len)
        return SP_OK;
    sp_rag_phrases(&c->terms, SP_RAG_PHRASE, c->text.p, c->text.len, MAX_TERMS);
    if (c->terms.failed)
        return SP_NOMEM;
    const sp_rag_chunk out = {
        c->place,    c->text.p, c->text.len, c->n_tok + c->place_tok, sp_buf_str(&c->terms),
        c->terms.len};
    sp_err err = c->put(c->arg, &out);
    sp_buf_clear(&c->text);
    sp_buf_clear(&c->terms);
    c->n_tok = 0;
    return err;
}

static size_t room(const sp_rag_chunker *c)
{
    return c->max_tok > c->place_tok ? c->max_tok - c->place_tok : 1;
}

static sp_err add(sp_rag_chunker *c, const char *p, size_t n, size_t n_tok, const char *between)
{
    if (c->text.len &&
        (c->n_tok + n_tok > room(c) || c->text.len + 1 + n > c->max_tok * SP_RAG_TOK_BYTES))
        SP_TRY(sp_rag_chunker_end(c));
    if (c->text.len)
        sp_buf_puts(&c->text, between);
    if (c->terms.len + c->waiting.len < MAX_TERMS)
        sp_buf_put(&c->terms, c->waiting.p, c->waiting.len);
    sp_buf_clear(&c->waiting);
    sp_buf_put(&c->text, p, n);
    c->n_tok += n_tok;
    return SP_OK;
}

/* A full stop, exclamation or question mark of East Asia. */
static bool is_wide_stop(const char p[3])
{
    return memcmp(p, "\xe3\x80\x82", 3) == 0 || memcmp(p, "\xef\xbc\x81", 3) == 0 ||
           memcmp(p, "\xef\xbc\x9f", 3) == 0;
}

/* Bytes of the next piece of a long paragraph: a sentence or line, or as many words, or bytes, as
 * surely fit. */
static size_t piece(const char *p, size_t n, size_t max_bytes)
{
    size_t cut = 0, space = 0;
    for (size_t i = 0; i < n && i < max_bytes; i++) {
        if (p[i] == '\n' || ((p[i] == '.' || p[i] == '?' || p[i] == '!') && i + 1 == n))
            return i + 1;
        if ((p[i] == '.' || p[i] == '?' || p[i] == '!') && p[i + 1] == ' ')
            return i + 2;
        if (i >= 2 && is_wide_stop(p + i - 2))
            return i + 1;
        if (p[i] == ' ')
            space = i + 1;
        cut = i + 1;
    }
    if (cut == n)
        return n;
    if (space)
        return space;
    cut -= sp_utf8_tail(p, cut);
    return cut ? cut : 1;
}

/* Between two pieces stands what stood there: nothing inside of a word. */
static sp_err add_long(sp_rag_chunker *c, const char *p, size_t n)
{
    const char *between = "\n";
    while (n) {
        size_t k = piece(p, n, 2 * room(c)), tok = count(c, p, k);
        while (tok > room(c) && k > 1) { /* denser than usual text */
            k = k / 2 - sp_utf8_tail(p, k / 2) ? k / 2 - sp_utf8_tail(p, k / 2) : 1;
            tok = count(c, p, k);
        }
        size_t shown = k;
        while (shown && (p[shown - 1] == ' ' || p[shown - 1] == '\n'))
            shown--;
        if (shown)
            SP_TRY(add(c, p, shown, tok, between));
        between = shown == k ? "" : p[k - 1] == '\n' ? "\n" : " ";
        p += k;
        n -= k;
    }
    return SP_OK;
}

static sp_err set_head(sp_rag_chunker *c, int level, const sp_rag_part *part)
{
    SP_TRY(sp_rag_chunker_end(c));
    size_t n = part->n < MAX_NAME - 1 ? part->n : MAX_NAME - 1;
    if (n < part->n)
        n -= sp_utf8_tail(part->p, n);
    memcpy(c->head[level], part->p, n);
    c->head[level][n] = 0;
    for (int i = level + 1; i < LEVELS; i++)
        c->head[i][0] = 0;
    if (c->terms.len + part->n < MAX_TERMS) { /* a heading names what is below it */
        sp_buf_putc(&c->waiting, SP_RAG_ABOUT);
        sp_buf_put(&c->waiting, c->head[level], n + 1);
    }
    make_place(c);
    return SP_OK;
}

static sp_err take(void *arg, const sp_rag_part *part)
{
    sp_rag_chunker *c = arg;
    if (part->kind == SP_RAG_TITLE)
        return set_head(c, 0, part);
    if (part->kind == SP_RAG_HEADING)
        return set_head(c, part->level, part);
    if (part->kind == SP_RAG_TERM) {
        if (c->waiting.len + part->n < MAX_TERMS) {
            if (part->level)
                sp_buf_putc(&c->waiting, SP_RAG_ABOUT);
            sp_buf_put(&c->waiting, part->p, part->n);
            sp_buf_putc(&c->waiting, 0);
        }
        return SP_OK;
    }
    size_t tok = count(c, part->p, part->n);
    return tok <= room(c) ? add(c, part->p, part->n, tok, "\n") : add_long(c, part->p, part->n);
}

sp_rag_sink sp_rag_chunker_sink(sp_rag_chunker *c, const char *fallback_title)
{
    snprintf(c->head[0], sizeof c->head[0], "%s", fallback_title);
    make_place(c);
    return (sp_rag_sink){take, c};
}

const char *sp_rag_chunker_title(const sp_rag_chunker *c)
{
    return c->head[0];
}
