/* One text holds all sources and the answer behind them; a chain for each hash of WINDOW bytes
 * finds where a span may have stood before. Invariants:
 * 1. all[start[n_source] .. +sent) has left; the rest of the answer is held back.
 * 2. A place is in a chain if its WINDOW bytes lie within one source, or within what has left.
 * 3. A span lies within one source, or within what has left: whoever expands has all of it. */
#include "pipe/refer.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <string.h>

enum {
    WINDOW =
        12, /* bytes that must agree before a place is looked at: eight tokens are rarely fewer */
    TRIES = 64, /* places looked at for each span, the newest first */
    SOURCE_BYTES = 4 << 20,
    EXCERPT = 24 /* bytes of a span's beginning and end that readers see */
};

static const uint32_t NONE = UINT32_MAX;

typedef struct listed { /* readable: a span that has a number */
    sp_reference ref;
    size_t at; /* in all */
} listed;

struct sp_refer {
    sp_refer_cfg cfg;
    sp_buf all, how; /* how: a byte for each of the answer's, see sp_event.how */
    size_t *start;   /* [n_source + 1] where each source begins in all; the last: the answer */
    size_t sent;     /* bytes of the answer that have left, as text or as marks */
    size_t n_given;  /* bytes of text given out */
    bool is_open;    /* readable: the last of them is [, and came as it was */
    uint32_t *head;  /* [1 << bits] newest place of a hash, or NONE */
    uint32_t *next;  /* [cap_next] the place before it */
    size_t cap_next, n_chained; /* n_chained: places of the answer that are in chains */
    int bits;
    listed *list; /* [n_list] */
    size_t n_list, cap_list;
    sp_ids ids; /* scratch: a span's tokens */
    sp_refer_stat stat;
};

uint32_t sp_refer_crc32(const char *p, size_t n)
{
    static const uint32_t half[16] = {0x00000000, 0x1db71064, 0x3b6e20c8, 0x26d930ac,
                                      0x76dc4190, 0x6b6b51f4, 0x4db26158, 0x5005713c,
                                      0xedb88320, 0xf00f9344, 0xd6d6a3e8, 0xcb61b38c,
                                      0x9b64c2b0, 0x86d3d2d4, 0xa00ae278, 0xbdbdf21c};
    uint32_t c = UINT32_MAX;
    for (size_t i = 0; i < n; i++) {
        c ^= (unsigned char)p[i];
        c = c >> 4 ^ half[c & 15];
        c = c >> 4 ^ half[c & 15];
    }
    return ~c;
}

void sp_refer_write(sp_buf *out, const sp_reference *r, bool has_at)
{
    sp_buf_putc(out, '{');
    if (has_at)
        sp_buf_printf(out, "\"at\":%zu,", r->at);
    if (r->source == SP_REFER_ANSWER)
        sp_buf_puts(out, "\"source\":\"answer\"");
    else
        sp_buf_printf(out, "\"source\":%d", r->source);
    sp_buf_printf(out, ",\"offset\":%zu,\"length\":%zu,\"crc32\":%u}", r->offset, r->length,
                  r->crc32);
}

/* --- places ----------------------------------------------------------------------------------- */

static size_t hash_at(const sp_refer *r, size_t at)
{
    uint64_t a;
    uint32_t b;
    memcpy(&a, r->all.p + at, sizeof a);
    memcpy(&b, r->all.p + at + sizeof a, sizeof b);
    return (size_t)((a * 0x9e3779b97f4a7c15u ^ (uint64_t)b * 0xc2b2ae3d27d4eb4fu) *
                        0x9e3779b97f4a7c15u >>
                    (64 - r->bits));
}

static void chain(sp_refer *r, size_t at)
{
    uint32_t *head = &r->head[hash_at(r, at)];
    r->next[at] = *head;
    *head = (uint32_t)at;
}

static sp_err make_room(sp_refer *r, size_t n)
{
    while (r->cap_next < n)
        if (n >= NONE || !sp_mem_has_room(&r->next, &r->cap_next, r->cap_next, sizeof *r->next))
            return SP_NOMEM;
    return SP_OK;
}

static sp_err read_sources(sp_refer *r)
{
    size_t n = r->cfg.n_source;
    r->start = sp_mem_array(n + 1, sizeof *r->start);
    if (!r->start)
        return SP_NOMEM;
    for (size_t i = 0; i < n; i++) {
        const sp_str *s = &r->cfg.source[i];
        size_t room = SOURCE_BYTES - r->all.len;
        r->start[i] = r->all.len;
        sp_buf_put(&r->all, s->p, s->n < room ? s->n : room);
    }
    r->start[n] = r->all.len;
    for (r->bits = 12; r->bits < 22 && (size_t)1 << r->bits < r->all.len; r->bits++)
        ;
    r->head = sp_mem_array((size_t)1 << r->bits, sizeof *r->head);
    if (!r->head || r->all.failed)
        return SP_NOMEM;
    memset(r->head, 0xff, sizeof *r->head << r->bits);
    SP_TRY(make_room(r, r->all.len + 1));
    for (size_t i = n;
         i-- > 0;) /* of equal places the earliest source's is the newest in its chain */
        for (size_t at = r->start[i]; at + WINDOW <= r->start[i + 1]; at++)
            chain(r, at);
    return SP_OK;
}

static size_t source_of(const sp_refer *r, size_t at)
{
    size_t lo = 0, hi = r->cfg.n_source + 1; /* start[lo] <= at < start[hi] */
    while (hi - lo > 1) {
        size_t mid = lo + (hi - lo) / 2;
        if (r->start[mid] <= at)
            lo = mid;
        else
            hi = mid;
    }
    return lo;
}

static size_t answer_at(const sp_refer *r)
{
    return r->start[r->cfg.n_source];
}

/* Where the source that holds `at` ends: for the answer, what has left of it. */
static size_t end_of(const sp_refer *r, size_t at)
{
    size_t i = source_of(r, at);
    return i < r->cfg.n_source ? r->start[i + 1] : answer_at(r) + r->sent;
}

/* What has left can be named from now on; to readers only texts of the request are. */
static void chain_sent(sp_refer *r)
{
    for (; !r->cfg.readable && r->n_chained + WINDOW <= r->sent; r->n_chained++)
        chain(r, answer_at(r) + r->n_chained);
}

/* --- spans ------------------------------------------------------------------------------------ */

typedef struct match {
    size_t at, n; /* n bytes agree with those at `at` of all; 0: nothing does */
    bool open;    /* with more of the answer it may become longer */
} match;

static bool is_inside(char c)
{
    return ((unsigned char)c & 0xc0) == 0x80;
}

/* The longest match of the n bytes that are held back. */
static match find(const sp_refer *r, size_t n)
{
    const char *all = r->all.p, *held = all + answer_at(r) + r->sent;
    size_t most = r->cfg.most && r->cfg.most < n ? r->cfg.most : n, tries = TRIES;
    match best = {0};
    if (n < WINDOW)
        return best;
    for (uint32_t at = r->head[hash_at(r, answer_at(r) + r->sent)]; at != NONE && tries;
         at = r->next[at], tries--) {
        size_t room = end_of(r, at) - at, cap = room < most ? room : most, k = 0;
        while (k < cap && all[at + k] == held[k])
            k++;
        best.open = best.open || (k == n && room > n && (!r->cfg.most || n < r->cfg.most));
        if (k >= WINDOW && k > best.n)
            best = (match){at, k, best.open};
    }
    return best;
}

/* Is there a letter or digit, or a part of a longer character, on both sides of p[i]? */
static bool is_in_word(const char *p, size_t i, size_t n)
{
    const unsigned char a = i ? (unsigned char)p[i - 1] : ' ',
                        b = i < n ? (unsigned char)p[i] : ' ';
    bool before = a >= 0x80 || (a >= '0' && a <= '9') || ((a | 32) >= 'a' && (a | 32) <= 'z');
    return before && (b >= 0x80 || (b >= '0' && b <= '9') || ((b | 32) >= 'a' && (b | 32) <= 'z'));
}

/* Ends a match between characters, and for readers between words; whatever follows it. */
static void trim(const sp_refer *r, match *m)
{
    const char *p = r->all.p + answer_at(r), *held = p + r->sent;
    size_t left = r->all.len - answer_at(r) - r->sent;
    while (m->n && m->n < left && is_inside(held[m->n]))
        m->n--;
    m->n -= m->n == left ? sp_utf8_tail(held, m->n) : 0;
    if (!r->cfg.readable)
        return;
    if (is_in_word(p, r->sent, r->sent + left) || *held == ' ')
        m->n = 0;
    while (m->n && is_in_word(held, m->n, left))
        m->n--;
}

static size_t count_tokens(sp_refer *r, const char *p, size_t n)
{
    r->ids.n = 0;
    return sp_tok_encode(r->cfg.tok, &r->ids, p, n, SP_SPECIAL_NONE, NULL) == SP_OK ? r->ids.n : 0;
}

/* --- what leaves ------------------------------------------------------------------------------ */

static void give(sp_refer *r, const char *p, size_t n, const char *how)
{
    if (n)
        r->cfg.text(r->cfg.arg, (sp_str){p, n}, how);
    r->n_given += n;
}

static const char OPEN[] = "[\xc2\xa7"; /* [§ */
enum { N_OPEN = sizeof OPEN - 1 };

/* n bytes of what is held back leave as they are. */
static void give_text(sp_refer *r, size_t n)
{
    const char *p = r->all.p + answer_at(r) + r->sent, *hit, *how = r->how.p + r->sent;
    if (!n)
        return;
    r->sent += n;
    if (r->is_open && n >= N_OPEN - 1 && memcmp(p, OPEN + 1, N_OPEN - 1) == 0)
        give(r, OPEN + 1, N_OPEN - 1, NULL);
    r->is_open = r->cfg.readable && p[n - 1] == OPEN[0];
    while (r->cfg.readable && (hit = memmem(p, n, OPEN, N_OPEN))) {
        size_t k = (size_t)(hit - p) + N_OPEN;
        give(r, p, k, how);
        give(r, OPEN + 1, N_OPEN - 1, NULL);
        p += k;
        how += k;
        n -= k;
    }
    give(r, p, n, how);
}

/* The number of a span: that of an equal one, or a new one. 0: no memory. */
static size_t number_of(sp_refer *r, const sp_reference *ref, size_t at)
{
    for (size_t i = 0; i < r->n_list; i++)
        if (r->list[i].ref.length == ref->length &&
            memcmp(r->all.p + r->list[i].at, r->all.p + at, ref->length) == 0)
            return i + 1;
    if (!sp_mem_has_room(&r->list, &r->cap_list, r->n_list, sizeof *r->list))
        return 0;
    r->list[r->n_list] = (listed){*ref, at};
    return ++r->n_list;
}

static sp_err give_number(sp_refer *r, const sp_reference *ref, size_t at)
{
    sp_buf text = {0};
    size_t number = number_of(r, ref, at);
    sp_buf_printf(&text, "%s%zu]", OPEN, number);
    bool fine = number && !text.failed;
    if (fine)
        give(r, text.p, text.len, NULL);
    r->stat.n_mark_byte += text.len;
    sp_buf_fini(&text);
    return fine ? SP_OK : SP_NOMEM;
}

static sp_err give_mark(sp_refer *r, const match *m, size_t n_tok)
{
    size_t i = source_of(r, m->at), n_guessed = 0;
    const sp_reference ref = {.at = r->n_given,
                              .source = i < r->cfg.n_source ? (int)i : SP_REFER_ANSWER,
                              .offset = m->at - r->start[i],
                              .length = m->n,
                              .crc32 = sp_refer_crc32(r->all.p + m->at, m->n)};
    for (size_t k = 0; k < m->n; k++)
        n_guessed += r->how.p[r->sent + k] == SP_TOK_GUESSED;
    r->stat.n_mark++;
    r->stat.n_tok += n_tok;
    r->stat.n_byte += m->n;
    r->stat.n_guessed += n_guessed < n_tok ? n_guessed : n_tok;
    r->sent += m->n;
    r->is_open = false;
    if (r->cfg.readable)
        return give_number(r, &ref, m->at);
    sp_buf json = {0};
    sp_refer_write(&json, &ref, r->cfg.has_at);
    r->stat.n_mark_byte += json.len;
    sp_buf_fini(&json);
    r->cfg.mark(r->cfg.arg, &ref);
    return SP_OK;
}

/* Takes in what is held back as far as it is decided; at the end all of it is. */
static sp_err move(sp_refer *r, bool is_end)
{
    size_t n_plain = 0,
           n; /* n_plain: held back bytes before those looked at that leave as they are */
    while ((n = r->all.len - answer_at(r) - r->sent - n_plain)) {
        size_t sent = r->sent;
        r->sent += n_plain;
        match m = is_end || n >= WINDOW ? find(r, n) : (match){0};
        bool waits = !is_end && (n < WINDOW || m.open), is_mark = false;
        size_t n_tok = 0;
        if (!waits && m.n) {
            trim(r, &m);
            n_tok =
                m.n >= SP_REFER_TOK ? count_tokens(r, r->all.p + answer_at(r) + r->sent, m.n) : 0;
            is_mark = n_tok >= SP_REFER_TOK && m.n >= r->cfg.least;
        }
        r->sent = sent;
        if (waits)
            break;
        if (!is_mark) {
            for (n_plain++; n > 1 && is_inside(r->all.p[answer_at(r) + r->sent + n_plain]); n--)
                n_plain++;
            continue;
        }
        give_text(r, n_plain);
        n_plain = 0;
        SP_TRY(give_mark(r, &m, n_tok));
        chain_sent(r);
    }
    give_text(r, n_plain);
    chain_sent(r);
    return SP_OK;
}

/* --- the outside ------------------------------------------------------------------------------ */

sp_err sp_refer_new(sp_refer **out, const sp_refer_cfg *cfg)
{
    sp_refer *r = sp_mem_alloc(sizeof *r);
    if (!r)
        return SP_NOMEM;
    r->cfg = *cfg;
    sp_err err = read_sources(r);
    r->cfg.source = NULL;
    if (err == SP_OK)
        *out = r;
    else
        sp_refer_free(r);
    return err;
}

void sp_refer_free(sp_refer *r)
{
    if (!r)
        return;
    sp_buf_fini(&r->all);
    sp_buf_fini(&r->how);
    sp_ids_fini(&r->ids);
    sp_mem_free(r->start);
    sp_mem_free(r->head);
    sp_mem_free(r->next);
    sp_mem_free(r->list);
    sp_mem_free(r);
}

sp_err sp_refer_feed(sp_refer *r, sp_str text, const char *how)
{
    sp_buf_put(&r->all, text.p, text.n);
    if (how)
        sp_buf_put(&r->how, how, text.n);
    for (size_t i = 0; i < text.n && !how; i++)
        sp_buf_putc(&r->how, 0);
    if (r->all.failed || r->how.failed)
        return SP_NOMEM;
    SP_TRY(make_room(r, r->all.len + 1));
    return move(r, false);
}

/* The first and last words of a span, on one line. */
static void put_excerpt(sp_buf *out, const char *p, size_t n)
{
    size_t first = n <= 2 * EXCERPT ? n : EXCERPT, last = n <= 2 * EXCERPT ? n : n - EXCERPT;
    while (first < n && is_inside(p[first]))
        first++;
    while (last < n && is_inside(p[last]))
        last++;
    for (size_t i = 0; i < n; i++) {
        if (i == first && last < n) {
            sp_buf_puts(out, " … ");
            i = last;
        }
        sp_buf_putc(out, p[i] == '\n' || p[i] == '\r' ? ' ' : p[i]);
    }
}

/* Readable marks are listed at the end. */
static sp_err give_list(sp_refer *r)
{
    sp_buf text = {0};
    if (!r->n_list)
        return SP_OK;
    sp_buf_printf(&text, "\n\n%s] repeated:", OPEN);
    for (size_t i = 0; i < r->n_list; i++) {
        const sp_reference *ref = &r->list[i].ref;
        sp_buf_printf(&text, "\n- %s%zu] message %d, bytes %zu-%zu, crc32 %08x: ", OPEN, i + 1,
                      ref->source, ref->offset, ref->offset + ref->length, ref->crc32);
        put_excerpt(&text, r->all.p + r->list[i].at, ref->length);
    }
    bool fine = !text.failed;
    if (fine)
        give(r, text.p, text.len, NULL);
    r->stat.n_mark_byte += text.len;
    sp_buf_fini(&text);
    return fine ? SP_OK : SP_NOMEM;
}

sp_err sp_refer_flush(sp_refer *r)
{
    return move(r, true);
}

sp_err sp_refer_finish(sp_refer *r)
{
    SP_TRY(move(r, true));
    return r->cfg.readable ? give_list(r) : SP_OK;
}

sp_refer_stat sp_refer_stat_of(const sp_refer *r)
{
    return r->stat;
}
