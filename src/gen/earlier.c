#include "gen/earlier.h"

#include "base/mem.h"
#include "kv/page.h"
#include "kv/record.h"
#include "text/tokenizer.h"

#include <string.h>

enum {
    RING = 1 << 15, /* tokens of a book: about 150 answers of 200 tokens */
    BUCKETS = 1 << 14,
    ANSWERS = 512, /* of a book; the tokens of an older one are erased */
    LEAST = 3,     /* tokens that must agree */
    CHAIN = 64     /* places that are compared */
};

typedef struct answer {
    uint32_t first, n; /* tokens of the ring, by their running number */
    uint8_t conv[SP_KV_TAG];
} answer;

typedef struct book {
    struct book *next;
    uint8_t tag[SP_KV_TAG]; /* of the tenant */
    uint64_t used;          /* when it was asked last, by the index's count */
    uint32_t tok[RING];     /* place i has the token of running number i modulo RING; SP_TOK_NONE
                               between answers */
    uint32_t before[RING];  /* the running number of the last place with the same hash, or 0 */
    uint32_t head[BUCKETS]; /* the newest place of a hash; 0: none */
    uint32_t n; /* the next running number, from 1 on; the book is emptied before it overflows */
    answer answer[ANSWERS];
    size_t n_answer; /* so far; answer i is at i modulo ANSWERS */
} book;

typedef struct earlier {
    sp_draft_source base;
    book *first;
    size_t n_book, cap_book;
    uint64_t now, n_forget;
} earlier;

typedef struct drafter {
    sp_drafter base;
    earlier *index;
    uint8_t tag[SP_KV_TAG], conv[SP_KV_TAG];
    bool keeps, takes; /* the answer may be kept; others' may be taken: neither with a salt, for
                          books are not kept apart by it */
    uint64_t n_forget; /* of the index, when the answer began */
} drafter;

static book *find_book(earlier *e, const uint8_t *tag)
{
    book *b = e->first;
    while (b && memcmp(b->tag, tag, SP_KV_TAG) != 0)
        b = b->next;
    if (b)
        b->used = ++e->now;
    return b;
}

static void drop_book(earlier *e, book *b)
{
    book **at = &e->first;
    while (*at != b)
        at = &(*at)->next;
    *at = b->next;
    e->n_book--;
    sp_mem_free(b);
}

static book *new_book(earlier *e, const uint8_t *tag)
{
    book *b = sp_mem_alloc(sizeof *b), *least = e->first;
    if (!b)
        return NULL;
    for (book *x = e->first; x; x = x->next)
        least = x->used < least->used ? x : least;
    if (e->n_book >= e->cap_book)
        drop_book(e, least);
    memcpy(b->tag, tag, SP_KV_TAG);
    b->n = 1;
    b->used = ++e->now;
    b->next = e->first;
    e->first = b;
    e->n_book++;
    return b;
}

/* Of the three tokens that end at tok. */
static uint32_t hash(const uint32_t *tok)
{
    uint64_t h = tok[0] * 0x9e3779b97f4a7c15u ^ tok[-1] * 0xc2b2ae3d27d4eb4fu ^
                 tok[-2] * 0x165667b19e3779f9u;
    return (uint32_t)(h >> 40) % BUCKETS;
}

static void put(book *b, uint32_t tok)
{
    b->tok[b->n % RING] = tok;
    b->before[b->n % RING] = 0;
    b->n++;
}

static void erase(book *b, const answer *a)
{
    for (uint32_t i = a->first; i != a->first + a->n; i++)
        if (b->n - i <= RING) /* the others are another answer's by now */
            b->tok[i % RING] = SP_TOK_NONE;
}

static void add(book *b, const uint8_t *conv, const uint32_t *tok, size_t n)
{
    size_t most = RING / 4; /* of a longer answer the end: no answer drives out all others */
    tok += n > most ? n - most : 0;
    n = n > most ? most : n;
    if (b->n > UINT32_MAX - 2 * RING) {
        memset(b->head, 0, sizeof b->head);
        b->n = 1;
        b->n_answer = 0;
    }
    answer *a = &b->answer[b->n_answer % ANSWERS];
    if (b->n_answer >= ANSWERS)
        erase(b, a);
    put(b, SP_TOK_NONE);
    *a = (answer){.first = b->n, .n = (uint32_t)n};
    memcpy(a->conv, conv, SP_KV_TAG);
    b->n_answer++;
    for (size_t i = 0; i < n; i++) {
        put(b, tok[i]);
        if (i + 1 < LEAST)
            continue;
        uint32_t h = hash(tok + i), at = b->n - 1;
        b->before[at % RING] = b->head[h];
        b->head[h] = at;
    }
    put(b, SP_TOK_NONE);
}

/* Tokens that agree before place `at` (with it) and before the end of tok [n]. */
static size_t agree(const book *b, uint32_t at, const uint32_t *tok, size_t n)
{
    size_t m = 0;
    while (m < SP_DRAFT_MATCH && m < n && m < at && b->tok[(at - m) % RING] == tok[n - 1 - m])
        m++;
    return m;
}

static void propose(sp_drafter *d, sp_draft *out, const sp_draft_text *t)
{
    drafter *p = (drafter *)d;
    book *b = p->takes && t->n >= LEAST ? find_book(p->index, p->tag) : NULL;
    uint32_t best = 0, at = b ? b->head[hash(t->tok + t->n - 1)] : 0;
    for (size_t i = 0; i < CHAIN && at && b->n - at < RING - SP_DRAFT_MATCH; i++) {
        size_t m = agree(b, at, t->tok, t->n);
        if (m >= LEAST && m > out->match) {
            out->match = m;
            best = at;
        }
        uint32_t older = b->before[at % RING];
        at = older < at ? older : 0; /* a place that was written again points forward */
    }
    for (; best && out->n < SP_DRAFT_MAX && b->tok[(best + 1 + out->n) % RING] != SP_TOK_NONE;
         out->n++)
        out->tok[out->n] = b->tok[(best + 1 + out->n) % RING];
}

static sp_err start(sp_draft_source *s, sp_drafter **out, const sp_draft_answer *a)
{
    earlier *e = (earlier *)s;
    drafter *p = sp_mem_alloc(sizeof *p);
    if (!p)
        return SP_NOMEM;
    *p = (drafter){.base.kind = s->kind,
                   .index = e,
                   .keeps = !a->is_private && !a->salt,
                   .takes = !a->salt,
                   .n_forget = e->n_forget};
    sp_err err = sp_kv_tag(p->tag, a->tenant);
    if (err == SP_OK && a->conv)
        err = sp_kv_tag(p->conv, a->conv);
    if (err != SP_OK) {
        sp_mem_free(p);
        return err;
    }
    *out = &p->base;
    return SP_OK;
}

static void end(sp_drafter *d, const sp_draft_text *t)
{
    drafter *p = (drafter *)d;
    earlier *e = p->index;
    size_t n = t ? t->n - t->n_prompt : 0;
    if (n > LEAST && p->keeps && p->n_forget == e->n_forget) {
        book *b = find_book(e, p->tag);
        b = b ? b : new_book(e, p->tag);
        if (b)
            add(b, p->conv, t->tok + t->n_prompt, n);
    }
    sp_mem_free(p);
}

static void forget(sp_draft_source *s, const uint8_t *tag, const uint8_t *conv)
{
    earlier *e = (earlier *)s;
    book *b = find_book(e, tag);
    e->n_forget++;
    if (b && !conv)
        drop_book(e, b);
    for (size_t i = 0; b && conv && i < ANSWERS && i < b->n_answer; i++)
        if (memcmp(b->answer[i].conv, conv, SP_KV_TAG) == 0)
            erase(b, &b->answer[i]);
}

static const sp_draft_kind kind = {
    .id = SP_DRAFT_EARLIER, .start = start, .propose = propose, .end = end, .forget = forget};

sp_err sp_earlier_new(sp_draft_source **out, size_t cap_bytes)
{
    earlier *e = sp_mem_alloc(sizeof *e);
    if (!e)
        return SP_NOMEM;
    e->base.kind = &kind;
    e->cap_book = cap_bytes / sizeof(book) ? cap_bytes / sizeof(book) : 1;
    *out = &e->base;
    return SP_OK;
}

void sp_earlier_free(sp_draft_source *s)
{
    earlier *e = (earlier *)s;
    while (e && e->first)
        drop_book(e, e->first);
    sp_mem_free(e);
}

size_t sp_earlier_bytes(const sp_draft_source *s)
{
    return ((const earlier *)s)->n_book * sizeof(book);
}
