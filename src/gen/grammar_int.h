/* What the files of a grammar share: pattern.c (a pattern becomes nodes), grammar.c (nodes become
 * states), mask.c (states become masks) and grammars.c (the vocabulary, and grammars by their
 * pattern).
 *
 * Nodes are a nondeterministic automaton over bytes. A call goes to a rule's first node and leaves
 * a frame on the stack that says where to go on; a counted repeat does so with the number of
 * rounds. An item is a node with the stack that it has: the stack is a frame, and frames point to
 * those below them. A state is a set of items. What all stacks of a set have in common at their
 * bottom is not part of the state: it is `below` of the place (sp_grammar_at), and so equal sets in
 * different depths are one state. */
#ifndef SP_GEN_GRAMMAR_INT_H
#define SP_GEN_GRAMMAR_INT_H

#include "gen/grammar.h"

#include <stdatomic.h>

#define GR_CALLED UINT32_MAX       /* the count of a frame that a call left */
enum { GR_END = 0, GR_NONE = -1 }; /* the node where a rule is over; no node: a budget is spent */
enum { GR_DEPTH = 200, GR_INF = 255 }; /* frames on a stack at most; a need that no stack meets */
enum {
    GR_NODES = 65536,
    GR_STATES = 32768,
    GR_FRAMES = 1 << 20,
    GR_VISIT = 1 << 21,
    GR_BYTES = 32 << 20
};

typedef struct gr_index { /* numbers by a hash */
    uint32_t *slot;       /* [cap] number + 1; 0: free */
    size_t cap, n;
} gr_index;

typedef enum gr_kind { GR_RULE_END, GR_BYTE, GR_FREE, GR_CALL, GR_REPEAT, GR_NEVER } gr_kind;

typedef struct gr_node {
    uint8_t kind;
    uint8_t need; /* frames that the rest of the rule needs on the stack at least; GR_INF: it cannot
                     be finished */
    bool is_nullable; /* the rest of the rule may be empty */
    uint8_t least;    /* bytes of the rest of the rule at least; 255: so many, or more */
    uint32_t set;     /* GR_BYTE: of sets */
    int32_t next;
    int32_t other; /* GR_FREE: the other way on; GR_CALL: a rule; GR_REPEAT: what is repeated, up to
                      GR_END */
    uint32_t min, max; /* GR_REPEAT; max UINT32_MAX: no end */
} gr_node;

typedef struct gr_set { /* of bytes */
    uint64_t bits[4];
} gr_set;

typedef struct gr_rule {
    sp_str name;   /* in the pattern */
    int32_t start; /* GR_NONE: called, and not defined yet */
} gr_rule;

typedef struct gr_program {
    gr_node *node;
    gr_set *set;
    gr_rule *rule;
    size_t n_node, n_set, n_rule, cap_node, cap_set, cap_rule;
    gr_index by_set, by_name;
    int32_t start;
    uint8_t class_of[256]; /* bytes that no set tells apart are one class */
    uint8_t byte_of[256];  /* one of each class */
    size_t n_class;
} gr_program;

/* Nodes of a pattern. p: zeroed; on error too it must be freed. Errors: SP_INVAL, SP_NOMEM. */
SP_MUST sp_err gr_program_read(gr_program *p, const char *pattern, sp_diag *d);
void gr_program_fini(gr_program *p); /* frees what it owns, not p */

typedef struct gr_frame {
    int32_t node; /* where to go on, or the repeat that is in its round `count` */
    uint32_t count, below;
    uint32_t depth; /* 0: the bottom */
} gr_frame;

typedef struct gr_item {
    int32_t node;
    uint32_t frame;
} gr_item;

typedef struct gr_edge {
    uint32_t state; /* UINT32_MAX: not known yet */
    uint32_t push;  /* frames to put on what is below */
} gr_edge;

typedef struct gr_state {
    gr_item *item;    /* [n] bytes can follow here; sorted */
    uint32_t n, most; /* most: depth and need of the deepest item */
    uint64_t hash;
    int16_t only; /* the byte that must come; -1: there is more than one, or none, or the rule may
                     be over */
    bool is_over; /* the rule whose caller is on top of `below` may be over here */
    gr_edge *to;  /* [n_class], NULL: none is known */
    struct gr_mask *mask; /* NULL: not known */
    uint32_t like;        /* a state with the same mask; 0: not known */
} gr_state;

typedef struct gr_mask {
    uint8_t *bits;       /* [vocabulary / 8] allowed whatever is below */
    uint32_t *ask;       /* [n_ask] of the tree: whether it is allowed depends on what is below */
    size_t n_ask, count; /* count: allowed */
    uint32_t most;       /* depth and need of the deepest place on the way */
    uint32_t state;
} gr_mask;

typedef struct gr_return { /* what a state that is over becomes above a frame */
    uint32_t state, count;
    int32_t node;
    gr_edge edge;
} gr_return;

/* The slot of what has this hash and is the same, or the free slot where it belongs. There is room:
 * see gr_index_room. */
typedef bool gr_same(const void *all, uint32_t i, const void *one);
static inline uint32_t *gr_index_find(const gr_index *x, uint64_t hash, gr_same *same,
                                      const void *all, const void *one)
{
    size_t i = hash & (x->cap - 1);
    while (x->slot[i] && !same(all, x->slot[i] - 1, one))
        i = (i + 1) & (x->cap - 1);
    return &x->slot[i];
}
/* Room for one more; hash_of gives the hash of what is in it. false: no memory. */
typedef uint64_t gr_hash_of(const void *all, uint32_t i);
bool gr_index_room(gr_index *x, gr_hash_of *hash_of, const void *all);

static inline uint64_t gr_mix(uint64_t h, uint64_t v)
{
    h = (h ^ v) * 0x9e3779b97f4a7c15u;
    return h ^ h >> 29;
}

/* The vocabulary as a tree, in the order in which it is walked. */
typedef struct gr_vocab {
    const sp_tok *tok;
    uint8_t *byte, *level; /* [n_node] level 1: the first byte */
    uint32_t *end;         /* [n_node] the node behind those that begin with it */
    uint32_t *first;       /* [n_node + 1] of id: the tokens that end here */
    uint32_t *id;          /* [n_id] */
    uint32_t *stop;        /* [n_stop] tokens that end an answer */
    size_t n_node, n_id, n_stop, longest;
} gr_vocab;

enum { GR_MASKS = 256, GR_PLACES = 64, GR_CLOSE = 16384, GR_LEVELS = 256 };

/* The mask of a place that took a walk. */
typedef struct gr_filled {
    sp_grammar_at at; /* state 0: none */
    uint8_t *bits;    /* [vocabulary / 8] */
    size_t n;         /* tokens that it allows */
} gr_filled;

struct sp_grammar {
    atomic_uint n_share;
    atomic_bool is_worn; /* too many states for another answer */
    const gr_vocab *vocab;
    char *pattern;
    uint64_t hash; /* of it */
    gr_program p;
    gr_state *state; /* [n_state]; 0: no way on */
    gr_frame *frame; /* [n_frame]; 0: the bottom */
    gr_return *ret;
    size_t n_state, n_frame, n_ret, cap_state, cap_frame, cap_ret;
    gr_index by_set, by_frame, by_ret;
    size_t n_visit, n_bytes; /* spent: since the caller asked; at all */
    uint32_t deepest; /* depth and need of the deepest place that a step met; whoever asks sets it
                         to 0 */
    gr_item *work;    /* [GR_CLOSE] the set in the making */
    size_t n_work, n_seen; /* its items; nodes looked at */
    bool work_over;
    uint64_t *seen;           /* [2 * GR_CLOSE] */
    uint32_t *seen_when, now; /* [2 * GR_CLOSE] */
    gr_item *todo;            /* [2 * GR_CLOSE] */
    sp_grammar_at start;
    gr_mask *mask[GR_MASKS]; /* a ring of those that are kept */
    size_t n_mask;
    gr_filled filled[GR_PLACES]; /* a ring of those that are kept */
    size_t n_filled;
    sp_grammar_at level[GR_LEVELS + 1];  /* of a walk: the place behind each byte; not on the stack,
                                            which releases set to zero */
    gr_frame path[2 * GR_DEPTH + 2];     /* of a move, likewise */
    uint8_t *out; /* [vocabulary] the mask of the place `of`, and of those like it */
    sp_grammar_at of;
    size_t n_out; /* tokens that it allows */
};

/* grammars.c: a grammar without a vocabulary, to ask what it matches; sp_grammar_put frees it.
 * Errors as gr_program_read. */
SP_MUST sp_err gr_plain(sp_grammar **out, const char *pattern, sp_diag *d);
/* grammar.c: makes the start; a byte's step (a place is always settled: it has returned from every
 * rule that is over); the place whose mask serves `at` too, as far as tokens of `reach` bytes go.
 * A byte that cannot follow leads to state 0. Errors: SP_LIMIT (a budget is spent), SP_NOMEM. */
SP_MUST sp_err gr_open(sp_grammar *g);
SP_MUST sp_err gr_step_byte(sp_grammar *g, sp_grammar_at *at, unsigned char c);
SP_MUST sp_err gr_like(sp_grammar *g, sp_grammar_at at, size_t reach, sp_grammar_at *out);
/* Frees states, frames and returns; a mask and what it owns, NULL allowed. */
void gr_close(sp_grammar *g);
void gr_mask_free(gr_mask *m);

#endif
