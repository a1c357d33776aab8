/* Budgets, counted by work done and checked before it is spent: bytes of the pattern, groups in groups, repeats of repeats, calls
 * that build nodes, nodes, states, nodes in all states' sets, and nodes visited for one token or one mask. */
#include "gen/grammar.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_NODES = 8192, MAX_STATES = 4096, MAX_DEPTH = 96, MAX_REPEAT = 512, MAX_STACK = 4, MAX_PATTERN = SP_GRAMMAR_PATTERN, NONE = -1 };
enum { MAX_BUILD = 1 << 17, MAX_SETS = 1 << 21, MAX_VISIT = 1 << 21, INTERN_COST = 64, CAP_MASK = 64 };

typedef struct node { /* a byte class, or two ways on for free */
    uint64_t bytes[4]; /* all zero: free */
    int32_t next, other; /* NONE: accepts */
} node;

typedef struct state {
    int32_t *set; /* [n] byte nodes and the final one, sorted */
    size_t n;
    uint64_t hash; /* of the set */
    bool may_end, has_next;
    uint32_t *to;   /* [256], UINT32_MAX: not known yet; NULL: none is */
    uint8_t *mask;  /* [vocabulary], NULL: not known yet */
} state;

struct sp_grammar {
    const sp_tok *tok;
    node *node;
    size_t n_node;
    state *state;
    size_t n_state;
    int32_t *work; /* [n_node] */
    bool *in;      /* [n_node] */
    size_t n_build, n_set, n_visit; /* spent; n_visit: since the caller asked */
    uint32_t masked[CAP_MASK];      /* a ring of the states that have a mask */
    size_t n_masked;
};

/* --- from pattern to nodes -------------------------------------------------------------------- */

/* Built from the end: each part is compiled with the node that follows it. To know what follows before reading on, a part is read
 * into a tree first. Its height is bounded by MAX_DEPTH groups of MAX_STACK repeats each: sequences and alternatives are lists. */
typedef enum kind { CLASS, CAT, ALT, REPEAT, EMPTY } kind;

typedef struct tree {
    kind kind;
    uint64_t bytes[4];
    bool wide; /* a class that also holds every character beyond ASCII */
    int min, max; /* REPEAT; max NONE: no end */
    struct tree *last, *before; /* CAT, ALT: the last of the list; REPEAT: what is repeated. before: the sibling before this one */
} tree;

typedef struct reader {
    const char *start, *p;
    sp_arena a;
    sp_diag *d;
    sp_err err;
    int depth;
} reader;

static tree *fail(reader *r, const char *what)
{
    if (r->err == SP_OK)
        r->err = SP_FAIL(r->d, SP_INVAL, "pattern, byte %zu: %s", (size_t)(r->p - r->start), what);
    return NULL;
}

static tree *new_tree(reader *r, kind k, tree *last)
{
    tree *t = r->err == SP_OK ? sp_arena_alloc(&r->a, sizeof *t) : NULL;
    if (!t) {
        if (r->err == SP_OK)
            r->err = SP_FAIL(r->d, SP_NOMEM, "pattern");
        return NULL;
    }
    *t = (tree){.kind = k, .last = last};
    return t;
}

static void put_byte(uint64_t bytes[4], unsigned c)
{
    bytes[c >> 6 & 3] |= 1ull << (c & 63);
}

static void put_range(uint64_t bytes[4], unsigned from, unsigned to)
{
    for (unsigned c = from; c <= to; c++)
        put_byte(bytes, c);
}

static int hex(char c)
{
    return c >= '0' && c <= '9' ? c - '0' : (c | 32) >= 'a' && (c | 32) <= 'f' ? (c | 32) - 'a' + 10 : -1;
}

/* After a backslash. *one: the byte it stands for, or -1 for a class. */
static bool read_escape(reader *r, uint64_t bytes[4], int *one)
{
    char c = *r->p;
    *one = -1;
    if (!c)
        return fail(r, "a backslash at the end") != NULL;
    r->p++;
    if (c == 'd' || c == 'w')
        put_range(bytes, '0', '9');
    if (c == 'w') {
        put_range(bytes, 'a', 'z');
        put_range(bytes, 'A', 'Z');
        put_byte(bytes, '_');
    }
    if (c == 's')
        put_byte(bytes, ' '), put_byte(bytes, '\t'), put_byte(bytes, '\n'), put_byte(bytes, '\r');
    if (c == 'd' || c == 'w' || c == 's')
        return true;
    if (c == 'x') {
        int hi = hex(r->p[0]), lo = hi >= 0 ? hex(r->p[1]) : -1;
        if (lo < 0)
            return fail(r, "\\x needs two hexadecimal digits") != NULL;
        *one = hi * 16 + lo;
        r->p += 2;
    } else if ((c >= '0' && c <= '9') || ((c | 32) >= 'a' && (c | 32) <= 'z' && !strchr("ntrf", c))) {
        return fail(r, "an escape that is not known") != NULL;
    } else {
        *one = c == 'n' ? '\n' : c == 't' ? '\t' : c == 'r' ? '\r' : c == 'f' ? '\f' : (unsigned char)c;
    }
    put_byte(bytes, (unsigned)*one);
    return true;
}

static tree *read_class(reader *r)
{
    tree *t = new_tree(r, CLASS, NULL);
    bool no = *r->p == '^';
    r->p += no;
    for (bool first = true; t && (*r->p != ']' || first); first = false) {
        int from = (unsigned char)*r->p++;
        if (!from)
            return fail(r, "[ without ]");
        if (from >= 0x80)
            return fail(r, "a class may name ASCII only");
        if (from == '\\') {
            if (!read_escape(r, t->bytes, &from))
                return NULL;
        } else {
            put_byte(t->bytes, (unsigned)from);
        }
        if (from < 0 || r->p[0] != '-' || r->p[1] == ']' || !r->p[1])
            continue;
        r->p++;
        int to = (unsigned char)*r->p++;
        uint64_t skip[4] = {0};
        if (to == '\\' && !read_escape(r, skip, &to))
            return NULL;
        if (to < from || to >= 0x80)
            return fail(r, "a range in a class that goes backwards or beyond ASCII");
        put_range(t->bytes, (unsigned)from, (unsigned)to);
    }
    if (!t)
        return NULL;
    r->p++;
    if (no) {
        t->bytes[0] = ~t->bytes[0];
        t->bytes[1] = ~t->bytes[1];
        t->bytes[2] = t->bytes[3] = 0;
        t->wide = true;
    }
    return t;
}

static tree *read_alt(reader *r);

static tree *read_atom(reader *r)
{
    char c = *r->p++;
    int one;
    if (c == '(') {
        if (r->p[0] == '?' && r->p[1] == ':')
            r->p += 2;
        if (++r->depth > MAX_DEPTH)
            return fail(r, "groups are nested too deep");
        tree *t = read_alt(r);
        r->depth--;
        if (t && *r->p != ')')
            return fail(r, "( without )");
        r->p++;
        return t;
    }
    if (c == '[')
        return read_class(r);
    if (strchr("*+?{", c))
        return fail(r, "nothing to repeat");
    tree *t = new_tree(r, CLASS, NULL);
    if (!t)
        return NULL;
    if (c == '\\')
        return read_escape(r, t->bytes, &one) ? t : NULL;
    if (c == '.') {
        put_range(t->bytes, 0, 0x7f);
        t->bytes[0] &= ~(1ull << '\n');
        t->wide = true;
    } else {
        put_byte(t->bytes, (unsigned char)c);
    }
    return t;
}

/* Up to four digits; -1: there are none. */
static int read_count(reader *r)
{
    int n = -1;
    for (int i = 0; i < 4 && *r->p >= '0' && *r->p <= '9'; i++, r->p++)
        n = (n < 0 ? 0 : n * 10) + (*r->p - '0');
    return n;
}

static bool read_bounds(reader *r, int *min, int *max)
{
    *min = *max = read_count(r);
    if (*min >= 0 && *r->p == ',') {
        r->p++;
        *max = *r->p == '}' ? NONE : read_count(r);
        if (*max < 0 && *r->p != '}')
            return false;
    }
    bool ok = *min >= 0 && *r->p == '}' && *min <= MAX_REPEAT && *max <= MAX_REPEAT && (*max == NONE || *max >= *min);
    r->p += ok;
    return ok;
}

static tree *read_repeat(reader *r)
{
    tree *t = read_atom(r);
    for (int i = 0; t && *r->p && strchr("*+?{", *r->p); i++) {
        char c = *r->p++;
        int min = c == '+', max = c == '?' ? 1 : NONE;
        if (i == MAX_STACK)
            return fail(r, "more than 4 repeats of repeats");
        if (c == '{' && !read_bounds(r, &min, &max))
            return fail(r, "{m,n} needs numbers up to 512, in order");
        t = new_tree(r, REPEAT, t);
        if (t)
            t->min = min, t->max = max;
    }
    return t;
}

static tree *read_cat(reader *r)
{
    tree *list = NULL, *first = NULL;
    while (r->err == SP_OK && *r->p && *r->p != '|' && *r->p != ')') {
        tree *part = read_repeat(r);
        if (!part)
            return NULL;
        if (!first) {
            first = part;
            continue;
        }
        if (!list)
            list = new_tree(r, CAT, first);
        if (!list)
            return NULL;
        part->before = list->last;
        list->last = part;
    }
    return list ? list : first ? first : new_tree(r, EMPTY, NULL);
}

static tree *read_alt(reader *r)
{
    tree *first = read_cat(r), *list = NULL;
    while (first && *r->p == '|') {
        r->p++;
        tree *part = read_cat(r);
        if (part && !list)
            list = new_tree(r, ALT, first);
        if (!part || !list)
            return NULL;
        part->before = list->last;
        list->last = part;
    }
    return list ? list : first;
}

static int32_t new_node(sp_grammar *g, int32_t next, int32_t other)
{
    if (g->n_node == MAX_NODES)
        return NONE;
    g->node[g->n_node] = (node){.next = next, .other = other};
    return (int32_t)g->n_node++;
}

static int32_t byte_node(sp_grammar *g, unsigned from, unsigned to, int32_t next)
{
    int32_t i = new_node(g, next, NONE);
    if (i != NONE)
        put_range(g->node[i].bytes, from, to);
    return i;
}

/* Characters beyond ASCII, as UTF-8 spells them, then next. */
static int32_t wide(sp_grammar *g, int32_t next)
{
    static const struct { unsigned char lead[2], second[2], more; } form[] = {
        {{0xc2, 0xdf}, {0x80, 0xbf}, 0}, {{0xe0, 0xe0}, {0xa0, 0xbf}, 1}, {{0xe1, 0xec}, {0x80, 0xbf}, 1}, {{0xed, 0xed}, {0x80, 0x9f}, 1},
        {{0xee, 0xef}, {0x80, 0xbf}, 1}, {{0xf0, 0xf0}, {0x90, 0xbf}, 2}, {{0xf1, 0xf3}, {0x80, 0xbf}, 2}, {{0xf4, 0xf4}, {0x80, 0x8f}, 2}};
    int32_t all = NONE, tail[3];
    tail[0] = next;
    for (int i = 1; i < 3; i++)
        if ((tail[i] = byte_node(g, 0x80, 0xbf, tail[i - 1])) == NONE)
            return NONE;
    for (size_t i = 0; i < sizeof form / sizeof form[0]; i++) {
        int32_t second = byte_node(g, form[i].second[0], form[i].second[1], tail[form[i].more]);
        int32_t lead = second == NONE ? NONE : byte_node(g, form[i].lead[0], form[i].lead[1], second);
        if (lead == NONE)
            return NONE;
        all = all == NONE ? lead : new_node(g, lead, all);
    }
    return all;
}

static int32_t build(sp_grammar *g, const tree *t, int32_t next);

static int32_t build_class(sp_grammar *g, const tree *t, int32_t next)
{
    if (t->wide && !(t->bytes[0] | t->bytes[1] | t->bytes[2] | t->bytes[3]))
        return wide(g, next); /* a node without bytes would lead on for free */
    int32_t a = new_node(g, next, NONE);
    if (a == NONE)
        return NONE;
    memcpy(g->node[a].bytes, t->bytes, sizeof t->bytes);
    int32_t b = t->wide ? wide(g, next) : NONE;
    return !t->wide ? a : b == NONE ? NONE : new_node(g, a, b);
}

/* Copies that may be left out lead on to what follows all of them: from each place the automaton then stands in few nodes. */
static int32_t build_repeat(sp_grammar *g, const tree *t, int32_t next)
{
    int32_t end = next, a;
    if (t->max == NONE) { /* a node that leads in again or on; its way in is known once the part is built */
        end = new_node(g, next, NONE);
        a = end == NONE ? NONE : build(g, t->last, end);
        if (a == NONE)
            return NONE;
        g->node[end].other = a;
        next = end;
    }
    for (int i = t->max == NONE ? t->min : t->max; i > 0 && next != NONE; i--) {
        a = build(g, t->last, next);
        next = a == NONE ? NONE : i > t->min ? new_node(g, a, end) : a;
    }
    return next;
}

/* The first node of t followed by next; NONE: a budget is spent. */
static int32_t build(sp_grammar *g, const tree *t, int32_t next)
{
    int32_t all = NONE;
    if (++g->n_build > MAX_BUILD)
        return NONE;
    switch (t->kind) {
    case EMPTY: return next;
    case CLASS: return build_class(g, t, next);
    case REPEAT: return build_repeat(g, t, next);
    case CAT:
        for (const tree *part = t->last; part && next != NONE; part = part->before)
            next = build(g, part, next);
        return next;
    case ALT:
        for (const tree *part = t->last; part; part = part->before) {
            int32_t a = build(g, part, next);
            all = a == NONE ? NONE : all == NONE ? a : new_node(g, a, all);
            if (all == NONE)
                return NONE;
        }
        return all;
    }
    return NONE;
}

/* --- from nodes to states --------------------------------------------------------------------- */

enum { FINAL = 0 }; /* the node that accepts */

static bool is_free(const node *n)
{
    return !(n->bytes[0] | n->bytes[1] | n->bytes[2] | n->bytes[3]);
}

/* Adds i and what it reaches for free. */
static void close_over(sp_grammar *g, int32_t i, size_t *n)
{
    size_t top = 0;
    int32_t *stack = g->work + g->n_node; /* [2 * n_node] */
    stack[top++] = i;
    while (top) {
        g->n_visit++;
        i = stack[--top];
        if (i == NONE || g->in[i])
            continue;
        g->in[i] = true;
        g->work[(*n)++] = i;
        if (i != FINAL && is_free(&g->node[i])) {
            stack[top++] = g->node[i].next;
            stack[top++] = g->node[i].other;
        }
    }
}

static int by_value(const void *a, const void *b)
{
    return *(const int32_t *)a < *(const int32_t *)b ? -1 : *(const int32_t *)a > *(const int32_t *)b;
}

/* The state of the n nodes in work, made if it is new. */
static sp_err intern(sp_grammar *g, size_t n, uint32_t *out)
{
    size_t kept = 0;
    for (size_t i = 0; i < n; i++) {
        int32_t k = g->work[i];
        g->in[k] = false;
        if (k == FINAL || !is_free(&g->node[k]))
            g->work[kept++] = k;
    }
    if (kept == 0) {
        *out = 0;
        return SP_OK;
    }
    qsort(g->work, kept, sizeof *g->work, by_value);
    uint64_t hash = 14695981039346656037u; /* FNV-1a over whole nodes */
    for (size_t i = 0; i < kept; i++)
        hash = (hash ^ (uint64_t)g->work[i]) * 1099511628211u;
    g->n_visit += kept + INTERN_COST;
    for (uint32_t i = 1; i < g->n_state; i++)
        if (g->state[i].hash == hash && g->state[i].n == kept && memcmp(g->state[i].set, g->work, kept * sizeof *g->work) == 0) {
            *out = i;
            return SP_OK;
        }
    if (g->n_state == MAX_STATES || g->n_set + kept > MAX_SETS)
        return SP_LIMIT;
    state *s = &g->state[g->n_state];
    s->set = sp_mem_array(kept, sizeof *s->set);
    if (!s->set)
        return SP_NOMEM;
    memcpy(s->set, g->work, kept * sizeof *s->set);
    s->n = kept;
    s->hash = hash;
    g->n_set += kept;
    s->may_end = g->work[0] == FINAL;
    s->has_next = kept > s->may_end;
    *out = (uint32_t)g->n_state++;
    return SP_OK;
}

static sp_err step_byte(sp_grammar *g, uint32_t *at, unsigned char c)
{
    state *s = &g->state[*at];
    size_t n = 0;
    if (*at == 0)
        return SP_OK;
    if (!s->to) {
        s->to = sp_mem_array(256, sizeof *s->to);
        if (!s->to)
            return SP_NOMEM;
        memset(s->to, 0xff, 256 * sizeof *s->to);
    }
    if (s->to[c] == UINT32_MAX) {
        if (g->n_visit + s->n > MAX_VISIT)
            return SP_LIMIT;
        g->n_visit += s->n;
        for (size_t i = 0; i < s->n; i++) {
            const node *k = &g->node[s->set[i]];
            if (s->set[i] != FINAL && k->bytes[c >> 6] >> (c & 63) & 1)
                close_over(g, k->next, &n);
        }
        SP_TRY(intern(g, n, &s->to[c])); /* states do not move */
    }
    *at = s->to[c];
    return SP_OK;
}

static sp_err step(sp_grammar *g, uint32_t *at, const char *p, size_t n)
{
    for (size_t i = 0; i < n && *at; i++)
        SP_TRY(step_byte(g, at, (unsigned char)p[i]));
    return SP_OK;
}

sp_err sp_grammar_step(sp_grammar *g, uint32_t *at, const char *p, size_t n)
{
    g->n_visit = 0;
    return step(g, at, p, n);
}

bool sp_grammar_may_end(const sp_grammar *g, uint32_t at)
{
    return g->state[at].may_end;
}

bool sp_grammar_must_end(sp_grammar *g, uint32_t at)
{
    return !g->state[at].has_next;
}

static sp_err fill_mask(sp_grammar *g, uint32_t at, uint8_t *mask)
{
    size_t n = sp_tok_count(g->tok);
    for (uint32_t id = 0; id < n; id++) {
        sp_str p = sp_tok_piece(g->tok, id);
        uint32_t to = at;
        if (sp_tok_is_end(g->tok, id)) {
            mask[id] = g->state[at].may_end;
            continue;
        }
        if (p.n == 0 || sp_tok_is_control(g->tok, id))
            continue;
        SP_TRY(step(g, &to, p.p, p.n));
        mask[id] = to != 0;
    }
    return SP_OK;
}

/* The state keeps its mask; of CAP_MASK masks the oldest makes room. */
static void keep_mask(sp_grammar *g, uint32_t at, uint8_t *mask)
{
    uint32_t *place = &g->masked[g->n_masked++ % CAP_MASK];
    if (g->n_masked > CAP_MASK) {
        sp_mem_free(g->state[*place].mask);
        g->state[*place].mask = NULL;
    }
    *place = at;
    g->state[at].mask = mask;
}

sp_err sp_grammar_mask(sp_grammar *g, uint32_t at, const uint8_t **out)
{
    if (!g->state[at].mask) {
        uint8_t *mask = sp_mem_alloc(sp_tok_count(g->tok));
        g->n_visit = 0;
        sp_err err = mask ? fill_mask(g, at, mask) : SP_NOMEM;
        if (err != SP_OK) {
            sp_mem_free(mask);
            return err;
        }
        keep_mask(g, at, mask);
    }
    *out = g->state[at].mask;
    return SP_OK;
}

/* --- as an object ----------------------------------------------------------------------------- */

static sp_err compile(sp_grammar *g, const char *pattern, sp_diag *d)
{
    reader r = {.start = pattern, .p = pattern, .d = d};
    size_t n = 0;
    uint32_t start;
    sp_arena_init(&r.a, 0);
    tree *t = read_alt(&r);
    if (t && *r.p)
        t = fail(&r, ") without (");
    int32_t first = t ? build(g, t, new_node(g, NONE, NONE)) : NONE;
    sp_arena_fini(&r.a);
    if (!t)
        return r.err;
    if (first == NONE)
        return g->n_build > MAX_BUILD ? SP_FAIL(d, SP_INVAL, "the pattern needs more than %d steps to build", MAX_BUILD)
                                      : SP_FAIL(d, SP_INVAL, "the pattern needs more than %d nodes", MAX_NODES);
    g->work = sp_mem_array(3 * g->n_node + 2, sizeof *g->work);
    g->in = sp_mem_array(g->n_node, sizeof *g->in);
    if (!g->work || !g->in)
        return SP_FAIL(d, SP_NOMEM, "pattern");
    close_over(g, first, &n); /* at most as many visits as there are nodes */
    return intern(g, n, &start) == SP_OK ? SP_OK : SP_FAIL(d, SP_NOMEM, "pattern");
}

sp_err sp_grammar_regex(sp_grammar **out, const sp_tok *tok, const char *pattern, sp_diag *d)
{
    if (strlen(pattern) > MAX_PATTERN)
        return SP_FAIL(d, SP_INVAL, "the pattern has more than %d bytes", MAX_PATTERN);
    sp_grammar *g = sp_mem_alloc(sizeof *g);
    if (!g)
        return SP_FAIL(d, SP_NOMEM, "pattern");
    g->tok = tok;
    g->n_state = 1; /* 0 is the dead one */
    g->node = sp_mem_array(MAX_NODES, sizeof *g->node);
    g->state = sp_mem_array(MAX_STATES, sizeof *g->state);
    sp_err err = g->node && g->state ? compile(g, pattern, d) : SP_FAIL(d, SP_NOMEM, "pattern");
    if (err == SP_OK)
        *out = g;
    else
        sp_grammar_free(g);
    return err;
}

void sp_grammar_free(sp_grammar *g)
{
    if (!g)
        return;
    for (size_t i = 0; g->state && i < g->n_state; i++) {
        sp_mem_free(g->state[i].set);
        sp_mem_free(g->state[i].to);
        sp_mem_free(g->state[i].mask);
    }
    sp_mem_free(g->state);
    sp_mem_free(g->node);
    sp_mem_free(g->work);
    sp_mem_free(g->in);
    sp_mem_free(g);
}
