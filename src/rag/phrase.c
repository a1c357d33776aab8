#include "rag/phrase.h"

#include "rag/word.h"

enum { MAX_RUN = 3, MAX_NAMES = 4 };

typedef struct word {
    size_t at, n;
    bool joined;  /* one space is all that stands before it, and no sentence begins */
    bool capital; /* begins with one */
    bool named;   /* has a digit or a capital inside */
} word;

typedef struct reader {
    const char *p;
    size_t n, at;
    sp_buf *out;
    size_t max_bytes;
    char mark;
} reader;

static bool is_article(const char *p, size_t n)
{
    return sp_rag_is_in(" a an the this that these those each every any some no its their your our "
                        "his her another ",
                        p, n);
}

static bool is_function(const char *p, size_t n)
{
    static const char more[] = " about after again all also although always and any because before "
                               "being below between both during either else even ever every few "
                               "first get gets given he her here his however just last like made "
                               "make makes many more most must need needs never new no nor not "
                               "now off often only other out over own per same see she since some "
                               "still through thus too under until up via well were whether "
                               "while whose within without yet ";
    return is_article(p, n) || sp_rag_is_in(more, p, n) || sp_rag_is_common(p, n);
}

/* A hyphen or full stop inside joins. */
static bool next_word(word *w, reader *r)
{
    size_t from = r->at;
    while (r->at < r->n && !sp_rag_is_letter(r->p[r->at]))
        r->at++;
    if (r->at == r->n)
        return false;
    *w = (word){.at = r->at,
                .joined = r->at == from + 1 && r->p[from] == ' ',
                .capital = r->p[r->at] >= 'A' && r->p[r->at] <= 'Z'};
    for (; r->at < r->n; r->at++, w->n++) {
        char c = r->p[r->at];
        if (!sp_rag_is_letter(c) &&
            !((c == '-' || c == '.') && r->at + 1 < r->n && sp_rag_is_letter(r->p[r->at + 1])))
            break;
        w->named = w->named || (c >= '0' && c <= '9') || (w->n && c >= 'A' && c <= 'Z');
    }
    return true;
}

static void put(const reader *r, const word *first, const word *last)
{
    size_t n = last->at + last->n - first->at;
    if (r->out->len + n + 2 > r->max_bytes)
        return;
    sp_buf_putc(r->out, r->mark);
    sp_buf_put(r->out, r->p + first->at, n);
    sp_buf_putc(r->out, 0);
}

static bool is_name(const word *w)
{
    return w->named || (w->capital && w->joined);
}

/* The names of a run of words: a first word that only begins a sentence counts when the next is a
 * name. */
static void put_names(const reader *r, const word *run, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        size_t k = i;
        while (k < n && k < i + MAX_NAMES &&
               (is_name(&run[k]) || (k == 0 && run[0].capital && n > 1 && is_name(&run[1]))))
            k++;
        if (k > i) {
            put(r, &run[i], &run[k - 1]);
            i = k;
        }
    }
}

void sp_rag_phrases(sp_buf *out, char mark, const char *p, size_t n, size_t max_bytes)
{
    reader r = {p, n, 0, out, max_bytes, mark};
    word run[MAX_NAMES + MAX_RUN], w;
    size_t k = 0;
    bool after_article = false; /* the run */
    for (bool more = true; more;) {
        more = next_word(&w, &r);
        bool function = more && is_function(p + w.at, w.n);
        if (more && !function && (k == 0 || w.joined) && k < sizeof run / sizeof *run) {
            after_article = after_article && (k || w.joined);
            run[k++] = w;
            continue;
        }
        put_names(&r, run, k);
        bool article = function && is_article(p + w.at, w.n);
        k -= k && article && w.joined;
        if (after_article && k >= 2 && k <= MAX_RUN)
            put(&r, &run[0], &run[k - 1]);
        after_article = article;
        k = 0;
        if (more && !function)
            run[k++] = w;
    }
}
