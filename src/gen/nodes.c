/* Trees become nodes; see grammar_int.h for these. Budgets: calls that build nodes, nodes. */
#include "gen/pattern_int.h"

#include "base/mem.h"
#include "base/utf8.h"

#include <stdlib.h>
#include <string.h>

enum { MAX_BUILD = 1 << 18, MOST_LEAST = 255 };

typedef struct builder {
    gr_program *out;
    size_t n_build;
} builder;

static int32_t new_node(builder *r, gr_node n)
{
    gr_program *p = r->out;
    if (p->n_node == GR_NODES ||
        !sp_mem_has_room(&p->node, &p->cap_node, p->n_node, sizeof *p->node))
        return GR_NONE;
    p->node[p->n_node] = n;
    return (int32_t)p->n_node++;
}

static int32_t either(builder *r, int32_t a, int32_t b)
{
    if (a == GR_NONE || b == GR_NONE || a == b)
        return a == b ? a : GR_NONE;
    return new_node(r, (gr_node){.kind = GR_FREE, .next = a, .other = b});
}

static uint64_t hash_bits(const gr_set *s)
{
    return gr_mix(gr_mix(gr_mix(gr_mix(1, s->bits[0]), s->bits[1]), s->bits[2]), s->bits[3]);
}

static uint64_t hash_set(const void *all, uint32_t i)
{
    return hash_bits(&((const gr_program *)all)->set[i]);
}

static bool same_set(const void *all, uint32_t i, const void *one)
{
    return memcmp(&((const gr_program *)all)->set[i], one, sizeof(gr_set)) == 0;
}

static int32_t set_node(builder *r, const gr_set *s, int32_t next)
{
    gr_program *p = r->out;
    if (next == GR_NONE || !gr_index_room(&p->by_set, hash_set, p) ||
        !sp_mem_has_room(&p->set, &p->cap_set, p->n_set, sizeof *p->set))
        return GR_NONE;
    uint32_t *slot = gr_index_find(&p->by_set, hash_bits(s), same_set, p, s);
    if (!*slot) {
        p->set[p->n_set] = *s;
        p->by_set.n++;
        *slot = (uint32_t)++p->n_set;
    }
    return new_node(r, (gr_node){.kind = GR_BYTE, .set = *slot - 1, .next = next});
}

static void put_bytes(gr_set *s, unsigned from, unsigned to)
{
    for (unsigned c = from; c <= to; c++)
        s->bits[c >> 6 & 3] |= 1ull << (c & 63);
}

static int32_t byte_node(builder *r, unsigned from, unsigned to, int32_t next)
{
    gr_set s = {{0}};
    put_bytes(&s, from, to);
    return set_node(r, &s, next);
}

/* Code points lo..hi beyond ASCII whose encodings have equally many bytes, and differ in the last
 * of them as far as they can: cut until that holds, then one node a byte. */
static int32_t utf8_nodes(builder *r, uint32_t lo, uint32_t hi, int32_t next, int32_t all)
{
    range todo[16] = {{lo, hi}};
    for (size_t n = 1; n;) {
        range x = todo[--n];
        char a[4], b[4];
        size_t len = sp_utf8_encode(a, x.lo), cut = 0;
        for (size_t i = 1; i < len && !cut; i++) {
            uint32_t m = (1u << 6 * i) - 1;
            if ((x.lo & ~m) == (x.hi & ~m))
                break;
            cut = x.lo & m ? (x.lo | m) + 1 : (x.hi & m) != m ? x.hi & ~m : 0;
        }
        if (cut) { /* each cut leaves a side that needs none at this byte */
            todo[n++] = (range){x.lo, (uint32_t)cut - 1};
            todo[n++] = (range){(uint32_t)cut, x.hi};
            continue;
        }
        sp_utf8_encode(b, x.hi);
        int32_t at = next;
        for (size_t i = len; i-- > 0;)
            at = byte_node(r, (unsigned char)a[i], (unsigned char)b[i], at);
        all = all == GR_NONE ? at : at == GR_NONE ? GR_NONE : either(r, at, all);
        if (all == GR_NONE)
            return GR_NONE;
    }
    return all;
}

/* Those of a class beyond ASCII, and `all`. */
static int32_t wide(builder *r, const tree *t, int32_t next, int32_t all)
{
    static const range block[] = {
        {0x80, 0x7ff}, {0x800, 0xd7ff}, {0xe000, 0xffff}, {0x10000, MAX_CP}};
    for (size_t i = 0; i < t->n; i++)
        for (size_t k = 0; k < sizeof block / sizeof block[0]; k++) {
            uint32_t lo = t->r[i].lo > block[k].lo ? t->r[i].lo : block[k].lo,
                     hi = t->r[i].hi < block[k].hi ? t->r[i].hi : block[k].hi;
            if (lo <= hi && (all = utf8_nodes(r, lo, hi, next, all)) == GR_NONE)
                return GR_NONE;
        }
    return all;
}

static bool is_in(const tree *t, uint32_t c)
{
    for (size_t i = 0; i < t->n; i++)
        if (c >= t->r[i].lo && c <= t->r[i].hi)
            return true;
    return false;
}

/* The characters of a class that JSON strings escape, and `all`. */
static int32_t escapes(builder *r, const tree *t, int32_t next, int32_t all)
{
    static const char is[] = "\"\\\b\f\n\r\t", name[] = "\"\\bfnrt";
    gr_set letters = {{0}};
    int32_t after = GR_NONE;
    bool any = false;
    for (size_t i = 0; name[i]; i++)
        if (is_in(t, (unsigned char)is[i])) {
            put_bytes(&letters, (unsigned char)name[i], (unsigned char)name[i]);
            any = true;
        }
    if (any && (after = set_node(r, &letters, next)) == GR_NONE)
        return GR_NONE;
    for (unsigned high = 0; high < 2; high++) { /* \u00HH */
        gr_set low = {{0}};
        bool has = false;
        for (unsigned c = high * 16; c < high * 16 + 16; c++)
            if (is_in(t, c) && !memchr(is, (int)c, 7)) {
                put_bytes(&low, (unsigned char)"0123456789abcdef"[c & 15],
                          (unsigned char)"0123456789abcdef"[c & 15]);
                has = true;
            }
        if (!has)
            continue;
        int32_t at = byte_node(r, '0' + high, '0' + high, set_node(r, &low, next));
        at = byte_node(r, 'u', 'u', byte_node(r, '0', '0', byte_node(r, '0', '0', at)));
        after = at == GR_NONE ? GR_NONE : after == GR_NONE ? at : either(r, at, after);
        any = true;
        if (after == GR_NONE)
            return GR_NONE;
    }
    if (!any)
        return all;
    int32_t back = byte_node(r, '\\', '\\', after);
    return back == GR_NONE || all == GR_NONE ? back : either(r, back, all);
}

static int32_t build_class(builder *r, const tree *t, int32_t next)
{
    gr_set plain = {{0}};
    int32_t all = GR_NONE;
    bool any = false;
    for (unsigned c = 0; c < 0x80; c++)
        if (is_in(t, c) && !(t->json && (c < 0x20 || c == '"' || c == '\\'))) {
            put_bytes(&plain, c, c);
            any = true;
        }
    if (any && (all = set_node(r, &plain, next)) == GR_NONE)
        return GR_NONE;
    if (t->r[t->n - 1].hi >= 0x80 && (all = wide(r, t, next, all)) == GR_NONE)
        return GR_NONE;
    if (t->json)
        all = escapes(r, t, next, all);
    return all;
}

static int32_t build(builder *r, const tree *t, int32_t next);

/* One that may be left out, or come any number of times, is a node with two ways; others count on
 * the stack. */
static int32_t build_repeat(builder *r, const tree *t, int32_t next)
{
    if (t->min == 0 && t->max == 1) {
        int32_t a = build(r, t->last, next);
        return a == GR_NONE ? GR_NONE : either(r, a, next);
    }
    if (t->min == 1 && t->max == 1)
        return build(r, t->last, next);
    if (t->min <= 1 && t->max == UINT32_MAX) {
        int32_t loop = new_node(r, (gr_node){.kind = GR_FREE, .next = next, .other = next});
        int32_t a = loop == GR_NONE
                        ? GR_NONE
                        : build(r, t->last, loop); /* its way in is known once the part is built */
        if (a == GR_NONE)
            return GR_NONE;
        r->out->node[loop].other = a;
        return t->min ? a : loop;
    }
    int32_t body = build(r, t->last, GR_END);
    if (body == GR_NONE)
        return GR_NONE;
    return new_node(
        r, (gr_node){.kind = GR_REPEAT, .next = next, .other = body, .min = t->min, .max = t->max});
}

/* The first node of t followed by next; GR_NONE: a budget is spent. */
static int32_t build(builder *r, const tree *t, int32_t next)
{
    int32_t all = GR_NONE;
    if (++r->n_build > MAX_BUILD)
        return GR_NONE;
    switch (t->kind) {
    case EMPTY: return next;
    case NEVER: return new_node(r, (gr_node){.kind = GR_NEVER});
    case CLASS: return build_class(r, t, next);
    case REPEAT: return build_repeat(r, t, next);
    case CALL: return new_node(r, (gr_node){.kind = GR_CALL, .next = next, .other = (int32_t)t->n});
    case MARK: return byte_node(r, 0xff, 0xff, next); /* SP_GRAMMAR_MARK */
    case CAT:
        for (const tree *part = t->last; part && next != GR_NONE; part = part->before)
            next = build(r, part, next);
        return next;
    case ALT:
        for (const tree *part = t->last; part; part = part->before) {
            int32_t a = build(r, part, next);
            all = a == GR_NONE ? GR_NONE : all == GR_NONE ? a : either(r, a, all);
            if (all == GR_NONE)
                return GR_NONE;
        }
        return all;
    }
    return GR_NONE;
}

/* --- what is known of nodes ------------------------------------------------------------------- */

static bool may_be_empty(const gr_program *p, const gr_node *n)
{
    switch ((gr_kind)n->kind) {
    case GR_RULE_END: return true;
    case GR_FREE: return p->node[n->next].is_nullable || p->node[n->other].is_nullable;
    case GR_CALL:
        return p->node[p->rule[n->other].start].is_nullable && p->node[n->next].is_nullable;
    case GR_REPEAT:
        return (n->min == 0 || p->node[n->other].is_nullable) && p->node[n->next].is_nullable;
    default: return false;
    }
}

static unsigned larger(unsigned a, unsigned b)
{
    return a > b ? a : b;
}

static unsigned need_of(const gr_program *p, const gr_node *n)
{
    unsigned next = n->kind == GR_NEVER || n->kind == GR_RULE_END ? 0 : p->node[n->next].need,
             inner;
    switch ((gr_kind)n->kind) {
    case GR_RULE_END: return 0;
    case GR_NEVER: return GR_INF;
    case GR_BYTE: return next;
    case GR_FREE: return next < p->node[n->other].need ? next : p->node[n->other].need;
    case GR_CALL:
        inner = p->node[p->rule[n->other].start].need;
        return n->next == GR_END ? inner : larger(next, inner + 1);
    case GR_REPEAT: return n->min == 0 ? next : larger(next, p->node[n->other].need + 1u);
    }
    return GR_INF;
}

/* Calls look(p, node) for all nodes until it changes none, there and back: rules may call those
 * that are built before them, and those behind. */
static void settle(gr_program *p, bool (*look)(gr_program *p, gr_node *n))
{
    for (bool changed = true; changed;) {
        changed = false;
        for (size_t i = 0; i < p->n_node; i++)
            changed = look(p, &p->node[i]) || changed;
        for (size_t i = p->n_node; changed && i-- > 0;)
            (void)look(p, &p->node[i]);
    }
}

static bool look_whether_empty(gr_program *p, gr_node *n)
{
    bool is = !n->is_nullable && may_be_empty(p, n);
    n->is_nullable = n->is_nullable || is;
    return is;
}

static bool look_what_is_needed(gr_program *p, gr_node *n)
{
    unsigned need = need_of(p, n);
    need = need > GR_DEPTH ? GR_INF : need;
    if (need >= n->need)
        return false;
    n->need = (uint8_t)need;
    return true;
}

static unsigned least_of(const gr_program *p, const gr_node *n)
{
    unsigned next = n->kind == GR_NEVER || n->kind == GR_RULE_END ? 0 : p->node[n->next].least;
    switch ((gr_kind)n->kind) {
    case GR_RULE_END: return 0;
    case GR_NEVER: return MOST_LEAST;
    case GR_BYTE: return next + 1;
    case GR_FREE: return next < p->node[n->other].least ? next : p->node[n->other].least;
    case GR_CALL: return next + p->node[p->rule[n->other].start].least;
    case GR_REPEAT:
        return next + (n->min < MOST_LEAST ? n->min : MOST_LEAST) * p->node[n->other].least;
    }
    return 0;
}

static bool look_how_long(gr_program *p, gr_node *n)
{
    unsigned least = least_of(p, n);
    if (least >= n->least)
        return false;
    n->least = (uint8_t)least;
    return true;
}

/* All grow towards what they are: until nothing changes. */
static void find_needs(gr_program *p)
{
    settle(p, look_whether_empty);
    for (size_t i = 0; i < p->n_node; i++) {
        gr_node *n = &p->node[i];
        n->need = GR_INF;
        n->least = MOST_LEAST;
        if (n->kind == GR_REPEAT && p->node[n->other].is_nullable)
            n->min = 0; /* rounds may be empty */
    }
    settle(p, look_what_is_needed);
    settle(p, look_how_long);
}

/* Bytes that every set holds or leaves out together. */
static void find_classes(gr_program *p)
{
    p->n_class = 1;
    for (size_t i = 0; i < p->n_set && p->n_class < 256; i++) {
        int16_t other[256];
        bool out_of[256] = {false};
        memset(other, 0xff, sizeof other);
        for (unsigned c = 0; c < 256; c++)
            if (!(p->set[i].bits[c >> 6] >> (c & 63) & 1))
                out_of[p->class_of[c]] = true;
        for (unsigned c = 0; c < 256; c++) {
            uint8_t old = p->class_of[c];
            if (!(p->set[i].bits[c >> 6] >> (c & 63) & 1) || !out_of[old])
                continue;
            if (other[old] < 0)
                other[old] = (int16_t)p->n_class++;
            p->class_of[c] = (uint8_t)other[old];
        }
    }
    for (unsigned c = 256; c-- > 0;)
        p->byte_of[p->class_of[c]] = (uint8_t)c;
}

sp_err gr_program_build(gr_program *p, const tree *t, tree *const *body, sp_diag *d)
{
    builder b = {.out = p}, *r = &b;
    if (new_node(r, (gr_node){.kind = GR_RULE_END, .is_nullable = true}) == GR_NONE)
        return SP_FAIL(d, SP_NOMEM, "pattern");
    p->start = build(r, t, GR_END);
    for (size_t i = 0; i < p->n_rule && p->start != GR_NONE; i++) {
        if (!body[i])
            return SP_FAIL(d, SP_INVAL, "pattern: the rule %.*s is not defined",
                           (int)(p->rule[i].name.n < 80 ? p->rule[i].name.n : 80),
                           p->rule[i].name.p);
        p->rule[i].start = build(r, body[i], GR_END);
        if (p->rule[i].start == GR_NONE)
            p->start = GR_NONE;
    }
    if (p->start == GR_NONE)
        return r->n_build > MAX_BUILD
                   ? SP_FAIL(d, SP_INVAL, "the pattern needs more than %d steps to build",
                             MAX_BUILD)
                   : SP_FAIL(d, SP_INVAL, "the pattern needs more than %d nodes", GR_NODES);
    find_needs(p);
    find_classes(p);
    return p->node[p->start].need == GR_INF
               ? SP_FAIL(d, SP_INVAL,
                         "nothing can match: what is asked for contradicts itself, or never ends")
               : SP_OK;
}

void gr_program_fini(gr_program *p)
{
    sp_mem_free(p->node);
    sp_mem_free(p->set);
    sp_mem_free(p->rule);
    sp_mem_free(p->by_set.slot);
    sp_mem_free(p->by_name.slot);
}

bool gr_index_room(gr_index *x, gr_hash_of *hash_of, const void *all)
{
    if (x->n * 2 < x->cap)
        return true;
    size_t cap = x->cap ? x->cap * 2 : 64;
    uint32_t *slot = sp_mem_array(cap, sizeof *slot);
    if (!slot)
        return false;
    for (size_t i = 0; i < x->cap; i++) {
        if (!x->slot[i])
            continue;
        size_t at = hash_of(all, x->slot[i] - 1) & (cap - 1);
        while (slot[at])
            at = (at + 1) & (cap - 1);
        slot[at] = x->slot[i];
    }
    sp_mem_free(x->slot);
    x->slot = slot;
    x->cap = cap;
    return true;
}
