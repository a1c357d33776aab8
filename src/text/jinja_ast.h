/* Syntax tree of a template; shared by jinja_*.c only. */
#ifndef SP_TEXT_JINJA_AST_H
#define SP_TEXT_JINJA_AST_H

#include "fmt/gguf.h"
#include "text/jinja.h"

typedef enum jnode_kind {
    /* statements, chained by next */
    J_TEXT,  /* lit */
    J_PRINT, /* a */
    J_IF,    /* a ? body : other */
    J_FOR,   /* name[, name2] in a, if b: body; other when there was nothing */
    J_SET,   /* name[.name2] = a */
    J_MACRO, /* name(args: J_NAME, its default in a): body */
    J_SCOPE, /* body, whose assignments end with it */
    J_BREAK, J_CONTINUE,
    /* expressions */
    J_LIT,   /* lit */
    J_NAME,  /* name */
    J_LIST,  /* args; op JO_TUPLE: a tuple */
    J_MAP,   /* args: key, value, … */
    J_INDEX, /* a[b] */
    J_ATTR,  /* a.name */
    J_SLICE, /* a[b : c : d], parts may be NULL */
    J_CALL,  /* name(args) */
    J_METHOD, /* a.name(args) */
    J_FILTER, /* a | name(args) */
    J_TEST,  /* a is [not: op] name(args) */
    J_NOT, J_NEG, J_AND, J_OR,
    J_COND,  /* b ? a : c */
    J_BIN,   /* a op b */
    J_CAPTURE /* the text that body writes */
} jnode_kind;

typedef enum jop {
    JO_ADD,
    JO_SUB,
    JO_MUL,
    JO_DIV,
    JO_IDIV,
    JO_MOD,
    JO_CAT,
    JO_EQ,
    JO_NE,
    JO_LT,
    JO_LE,
    JO_GT,
    JO_GE,
    JO_IN,
    JO_NOT_IN,
    JO_TUPLE
} jop;

typedef struct jnode jnode;
struct jnode {
    jnode_kind kind;
    jop op;
    uint32_t line;
    int id; /* index into a table of functions, methods, filters or tests; -1: none of them */
    sp_str name, name2; /* name2 of a keyword argument: its name */
    sp_jval lit;
    jnode *a, *b, *c, *d, *body, *other, *args, *next;
};

struct sp_jinja {
    sp_arena arena;
    jnode *root;
    char *src;
};

typedef enum jtable { JT_FUNCTION, JT_METHOD, JT_FILTER, JT_TEST } jtable;
/* Index of a supported name, or -1. */
int sp_jinja_lookup(jtable table, sp_str name);

#endif
