/* The vocabulary as a tree, and grammars by their pattern. */
#include "gen/grammar_int.h"

#include "base/lock.h"
#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { KEPT = 8 /* grammars */, MAX_LEVEL = 255 };

struct sp_grammars {
    gr_vocab vocab;
    sp_lock lock; /* rank LOG: nothing is taken under it; guards the next two */
    sp_grammar *kept[KEPT];
    size_t n_kept; /* a ring */
};

/* --- the vocabulary --------------------------------------------------------------------------- */

static int by_bytes(const void *a, const void *b, void *arg)
{
    const sp_tok *tok = arg;
    uint32_t x = *(const uint32_t *)a, y = *(const uint32_t *)b;
    sp_str p = sp_tok_piece(tok, x), q = sp_tok_piece(tok, y);
    int order = memcmp(p.p, q.p, p.n < q.n ? p.n : q.n);
    return order ? order : p.n != q.n ? (p.n < q.n ? -1 : 1) : (x > y) - (x < y);
}

static size_t shared(sp_str a, sp_str b)
{
    size_t n = 0;
    while (n < a.n && n < b.n && a.p[n] == b.p[n])
        n++;
    return n;
}

/* Tokens that are text, sorted, and those that end an answer. */
static sp_err sort_tokens(gr_vocab *v)
{
    size_t n = sp_tok_count(v->tok);
    v->id = sp_mem_array(n + 1, sizeof *v->id);
    v->stop = sp_mem_array(n + 1, sizeof *v->stop);
    if (!v->id || !v->stop)
        return SP_NOMEM;
    for (uint32_t i = 0; i < n; i++) {
        sp_str p = sp_tok_piece(v->tok, i);
        if (sp_tok_is_end(v->tok, i))
            v->stop[v->n_stop++] = i;
        else if (p.n && p.n <= MAX_LEVEL && !sp_tok_is_control(v->tok, i) &&
                 !memchr(p.p, (unsigned char)*SP_GRAMMAR_MARK, p.n))
            v->id[v->n_id++] = i;
    }
    qsort_r(v->id, v->n_id, sizeof *v->id, by_bytes, (void *)(uintptr_t)v->tok);
    return SP_OK;
}

/* Nodes in the order of the sorted tokens. */
static sp_err grow_tree(gr_vocab *v)
{
    size_t open[MAX_LEVEL + 1], depth = 0, n_node = 0, n = 0;
    sp_str last = {0};
    for (size_t i = 0; i < v->n_id; i++) {
        sp_str p = sp_tok_piece(v->tok, v->id[i]);
        n_node += p.n - shared(last, p);
        v->longest = p.n > v->longest ? p.n : v->longest;
        last = p;
    }
    v->byte = sp_mem_array(n_node + 1, 1);
    v->level = sp_mem_array(n_node + 1, 1);
    v->end = sp_mem_array(n_node + 1, sizeof *v->end);
    v->first = sp_mem_array(n_node + 1, sizeof *v->first);
    if (!v->byte || !v->level || !v->end || !v->first)
        return SP_NOMEM;
    last = (sp_str){0};
    for (size_t i = 0; i < v->n_id; i++) {
        sp_str p = sp_tok_piece(v->tok, v->id[i]);
        size_t same = shared(last, p);
        while (depth > same)
            v->end[open[--depth]] = (uint32_t)n;
        for (; depth < p.n; n++) {
            v->byte[n] = (uint8_t)p.p[depth];
            v->first[n] = (uint32_t)i;
            open[depth++] = n;
            v->level[n] = (uint8_t)depth;
        }
        last = p;
    }
    while (depth)
        v->end[open[--depth]] = (uint32_t)n;
    v->first[n] = (uint32_t)v->n_id;
    v->n_node = n;
    return SP_OK;
}

sp_err sp_grammars_new(sp_grammars **out, const sp_tok *tok, sp_diag *d)
{
    sp_grammars *all = sp_mem_alloc(sizeof *all);
    if (!all)
        return SP_FAIL(d, SP_NOMEM, "vocabulary");
    sp_lock_init(&all->lock, SP_RANK_LOG);
    all->vocab.tok = tok;
    sp_err err = sort_tokens(&all->vocab);
    if (err == SP_OK)
        err = grow_tree(&all->vocab);
    if (err != SP_OK) {
        sp_grammars_free(all);
        return SP_FAIL(d, err, "vocabulary");
    }
    *out = all;
    return SP_OK;
}

void sp_grammars_free(sp_grammars *all)
{
    if (!all)
        return;
    for (size_t i = 0; i < KEPT; i++)
        sp_grammar_put(all->kept[i]);
    sp_mem_free(all->vocab.byte);
    sp_mem_free(all->vocab.level);
    sp_mem_free(all->vocab.end);
    sp_mem_free(all->vocab.first);
    sp_mem_free(all->vocab.id);
    sp_mem_free(all->vocab.stop);
    sp_lock_fini(&all->lock);
    sp_mem_free(all);
}

/* --- grammars --------------------------------------------------------------------------------- */

static uint64_t hash_text(const char *s)
{
    uint64_t h = 6;
    for (; *s; s++)
        h = gr_mix(h, (unsigned char)*s);
    return h;
}

/* One that is known, and not worn out by long answers. */
static sp_grammar *find(sp_grammars *all, uint64_t hash, const char *pattern)
{
    sp_grammar *found = NULL;
    sp_lock_get(&all->lock);
    for (size_t i = 0; i < KEPT && !found; i++) {
        sp_grammar *g = all->kept[i];
        if (g && g->hash == hash && !atomic_load(&g->is_worn) && strcmp(g->pattern, pattern) == 0)
            found = sp_grammar_share(g);
    }
    sp_lock_put(&all->lock);
    return found;
}

static void keep(sp_grammars *all, sp_grammar *g)
{
    sp_lock_get(&all->lock);
    sp_grammar **place = &all->kept[all->n_kept++ % KEPT], *old = *place;
    *place = sp_grammar_share(g);
    sp_lock_put(&all->lock);
    sp_grammar_put(old);
}

static sp_err compile(sp_grammar *g, const char *pattern, sp_diag *d)
{
    g->pattern = sp_mem_strdup(pattern);
    if (!g->pattern)
        return SP_FAIL(d, SP_NOMEM, "pattern");
    SP_TRY(gr_program_read(&g->p, g->pattern, d)); /* names of rules point into it */
    sp_err err = gr_open(g);
    if (err == SP_LIMIT)
        return SP_FAIL(d, SP_INVAL, SP_GRAMMAR_LIMIT);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "pattern");
}

static sp_err make(sp_grammar **out, const gr_vocab *vocab, const char *pattern, sp_diag *d)
{
    const uint8_t *first;
    sp_grammar *g = sp_mem_alloc(sizeof *g);
    if (!g)
        return SP_FAIL(d, SP_NOMEM, "pattern");
    atomic_init(&g->n_share, 1);
    g->vocab = vocab;
    g->hash = hash_text(pattern);
    sp_err err = compile(g, pattern, d);
    if (err == SP_OK && vocab) { /* what cannot even begin is refused here */
        err = sp_grammar_mask(g, g->start, &first);
        if (err != SP_OK)
            err = err == SP_LIMIT ? SP_FAIL(d, SP_INVAL, SP_GRAMMAR_LIMIT)
                                  : SP_FAIL(d, err, "pattern");
    }
    if (err == SP_OK)
        *out = g;
    else
        sp_grammar_put(g);
    return err;
}

sp_err gr_plain(sp_grammar **out, const char *pattern, sp_diag *d)
{
    return make(out, NULL, pattern, d);
}

sp_err sp_grammar_get(sp_grammar **out, sp_grammars *all, const char *pattern, sp_diag *d)
{
    sp_grammar *g = find(all, hash_text(pattern), pattern);
    if (!g) {
        SP_TRY(make(&g, &all->vocab, pattern, d));
        keep(all, g);
    }
    *out = g;
    return SP_OK;
}

sp_grammar *sp_grammar_share(sp_grammar *g)
{
    if (g)
        atomic_fetch_add(&g->n_share, 1);
    return g;
}

void sp_grammar_put(sp_grammar *g)
{
    if (g && atomic_fetch_sub(&g->n_share, 1) == 1)
        gr_close(g);
}

const char *sp_grammar_pattern(const sp_grammar *g)
{
    return g->pattern;
}

void sp_grammar_quote(sp_buf *out, const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if ((unsigned char)p[i] < 0x20)
            sp_buf_printf(out, "\\x%02x", (unsigned char)p[i]);
        else {
            if (strchr("\\.[](){}|*+?^$", p[i]))
                sp_buf_putc(out, '\\');
            sp_buf_putc(out, p[i]);
        }
    }
}
