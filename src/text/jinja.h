/* A sandboxed interpreter for the part of Jinja that chat templates use.
 *
 * Values are none, booleans, integers, floats, strings, lists and maps; there are no objects, so
 * there is no attribute to walk to. Supported: output, comments, if/elif/else, for (one or two names,
 * `loop`, an `if` filter), set, namespace(); literals, arithmetic, comparison,
 * `and or not in is`, ternary, indexing, slices, and the methods, filters and tests in jinja_eval.c.
 * Anything else is an error at compile time that names it and its line.
 *
 * Limits:  source 256 KiB, nesting 64 (512 where chains of operators nest), SP_JINJA_STEPS steps a run, of which 64 bytes read or
 *          written are one, values compared or printed to a depth of 64, texts and output of 16 MiB.
 * Owner:   the program owns its nodes; values live in the arena given to run.
 * Threads: a program is immutable after compile; runs are independent.
 * Exact:   output equals jinja2 3.1 with trim_blocks and lstrip_blocks (test/e2e/test_jinja.py). */
#ifndef SP_TEXT_JINJA_H
#define SP_TEXT_JINJA_H

#include "base/buf.h"
#include "base/mem.h"

#include <stdint.h>

typedef struct sp_jinja sp_jinja;

typedef enum sp_jkind {
    SP_J_UNDEF, SP_J_NONE, SP_J_BOOL, SP_J_INT, SP_J_FLOAT, SP_J_STR, SP_J_LIST, SP_J_MAP
} sp_jkind;

typedef struct sp_jval sp_jval;
typedef struct sp_jlist {
    sp_jval *item; /* a map keeps key, value, key, value, … in insertion order */
    size_t n, cap;
    bool is_namespace;
} sp_jlist;

struct sp_jval {
    sp_jkind kind;
    union {
        bool b;
        int64_t i;
        double f;
        struct { const char *p; size_t n; } s;
        sp_jlist *list; /* lists and maps */
    } u;
};

enum { SP_JINJA_STEPS = 4000000 };

SP_MUST sp_err sp_jinja_compile(sp_jinja **out, const char *src, size_t n, sp_diag *d);
void sp_jinja_free(sp_jinja *j);
/* Appends the rendered text. vars is a map of the names the template sees. Errors: SP_INVAL with
 * the template's own message (raise_exception), SP_LIMIT, SP_UNSUP, SP_FORMAT (type error). */
SP_MUST sp_err sp_jinja_run(const sp_jinja *j, sp_buf *out, sp_arena *a, const sp_jval *vars, sp_diag *d);

/* Building values; they live in a. NULL / SP_NOMEM when it is full. */
sp_jval sp_jinja_str(const char *p, size_t n); /* borrows p */
sp_jval sp_jinja_bool(bool b);
SP_MUST sp_err sp_jinja_map_new(sp_jval *out, sp_arena *a);
SP_MUST sp_err sp_jinja_list_new(sp_jval *out, sp_arena *a);
SP_MUST sp_err sp_jinja_map_set(sp_jval *map, sp_arena *a, const char *key, sp_jval v);
SP_MUST sp_err sp_jinja_list_add(sp_jval *list, sp_arena *a, sp_jval v);

#endif
