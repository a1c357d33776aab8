/* What reading a pattern (pattern.c) leaves to building nodes (nodes.c): a tree. */
#ifndef SP_GEN_PATTERN_INT_H
#define SP_GEN_PATTERN_INT_H

#include "gen/grammar_int.h"

enum { MAX_CP = 0x10ffff };

typedef enum kind { CLASS, CAT, ALT, REPEAT, CALL, MARK, EMPTY, NEVER } kind;

typedef struct range {
    uint32_t lo, hi; /* code points */
} range;

typedef struct tree {
    kind kind;
    bool json;                  /* CLASS: as JSON strings spell them */
    const range *r;             /* CLASS: [n] sorted, apart */
    size_t n;                   /* CALL: the rule */
    uint32_t min, max;          /* REPEAT; max UINT32_MAX: no end */
    struct tree *last, *before; /* CAT, ALT: the last of the list; REPEAT: what is repeated. before:
                                   the sibling before this one */
} tree;

/* Builds the nodes of t and of the rules, whose trees are body [n_rule], NULL where one is not
 * defined. */
SP_MUST sp_err gr_program_build(gr_program *p, const tree *t, tree *const *body, sp_diag *d);

#endif
