/* A sandboxed interpreter for the part of Jinja that chat templates use.
 *
 * Values are none, booleans, integers, floats, strings, lists and maps; there are no objects, so
 * there is no attribute to walk to. Statements: output, comments, raw, if, for (one or two names,
 * `loop`, an `if` filter, else), break, continue, set (also of a block), filter, macro, generation.
 * Expressions: literals, arithmetic, chained comparison, `and or not in is`, ternary, indexing,
 * slices, calls. Functions stand in jinja_call.c, methods and filters in jinja_filter.c, tests in
 * jinja_test.c. An unknown statement, filter or test is an error at compile time that names it and
 * its line; an unknown function or method is one where it is called, as in jinja2.
 *
 * Every byte of a text knows whether it is the template's own or foreign, that is from a request.
 * Concatenation, slices, split, replace, join, tojson and all else keep this: what a template's
 * literals hold is its own, and so is what it writes around a foreign value; a foreign value's
 * text, and the punctuation of a foreign list or map, are foreign.
 *
 * Limits:  source 256 KiB, nesting 64 (512 where chains of operators nest), SP_JINJA_STEPS steps a
 *          run, of which 64 bytes read or
 *          written are one, values compared or printed to a depth of 64, texts and output of 16
 * MiB.
 * Owner:   the program owns its nodes; values live in the arena given to run.
 * Threads: a program is immutable after compile; runs are independent.
 * Exact:   output equals jinja2 3.1 with trim_blocks, lstrip_blocks, loop controls and the
 *          functions and filters that
 *          `transformers` adds (test/e2e/test_templates.py). Lists can be appended to and popped,
 * as without its sandbox. */
#ifndef SP_TEXT_JINJA_H
#define SP_TEXT_JINJA_H

#include "base/buf.h"
#include "base/mem.h"

#include <stdint.h>

typedef struct sp_jinja sp_jinja;

typedef enum sp_jkind {
    SP_J_UNDEF, SP_J_NONE, SP_J_BOOL, SP_J_INT, SP_J_FLOAT, SP_J_STR, SP_J_LIST, SP_J_MAP,
    SP_J_FUNC /* a macro, or a function or method that is named and not called */
} sp_jkind;

typedef struct sp_jval sp_jval;
typedef enum sp_jform { SP_J_PLAIN, SP_J_TUPLE, SP_J_NAMESPACE, SP_J_LOOP } sp_jform;
typedef struct sp_jlist {
    sp_jval *item; /* a map keeps key, value, key, value, … in insertion order */
    size_t n, cap;
    sp_jform form;
} sp_jlist;

struct sp_jval {
    sp_jkind kind;
    bool is_safe; /* of a string: the filter `safe` was applied, so `+` escapes what is added */
    union {
        bool b;
        int64_t i;
        double f;
        struct { const char *p; size_t n; } s;
        sp_jlist *list; /* lists and maps */
        const struct sp_jmacro *macro; /* NULL: of the interpreter */
    } u;
    /* NULL: the template's own; sp_jinja_from: foreign; else, of a string, a byte for each of its:
     * 0 own, 1 foreign */
    const char *mark;
};
extern const char *const sp_jinja_from;

typedef struct sp_jrange {
    size_t at, end; /* bytes [at, end) of the output */
} sp_jrange;

typedef struct sp_jranges {
    sp_jrange *r; /* in order; they neither overlap nor touch; in the arena */
    size_t n;
} sp_jranges;

enum { SP_JINJA_STEPS = 4000000 };

/* The program of a template of n bytes; src is not needed afterwards. Errors: SP_FORMAT (syntax),
 * SP_UNSUP (an unknown statement, filter or test), both with the line; SP_LIMIT, SP_NOMEM. */
SP_MUST sp_err sp_jinja_compile(sp_jinja **out, const char *src, size_t n, sp_diag *d);
void sp_jinja_free(sp_jinja *j); /* NULL allowed */
/* Appends the rendered text; foreign, unless NULL, gets the foreign ranges of what was appended,
 * counted from its own beginning. vars is a map of the names the template sees. Errors: SP_INVAL
 * with the template's own message (raise_exception), SP_LIMIT, SP_UNSUP, SP_FORMAT (type error). */
SP_MUST sp_err sp_jinja_run(const sp_jinja *j, sp_buf *out, sp_jranges *foreign, sp_arena *a,
                            const sp_jval *vars, sp_diag *d);

/* The value of a JSON text, which is foreign as a whole. steps is what has been spent, of
 * SP_JINJA_STEPS; it grows. Errors: SP_FORMAT names the byte that is no JSON, SP_LIMIT. */
SP_MUST sp_err sp_jinja_json(sp_jval *out, sp_arena *a, size_t *steps, const char *p, size_t n,
                             sp_diag *d);

/* Building values; they live in a. NULL / SP_NOMEM when it is full. A string that is not foreign is
 * the template's own. */
sp_jval sp_jinja_str(const char *p, size_t n);     /* borrows p */
sp_jval sp_jinja_foreign(const char *p, size_t n); /* borrows p */
sp_jval sp_jinja_bool(bool b);
sp_jval sp_jinja_int(int64_t i);
/* An empty map or list. */
SP_MUST sp_err sp_jinja_map_new(sp_jval *out, sp_arena *a);
SP_MUST sp_err sp_jinja_list_new(sp_jval *out, sp_arena *a);
/* Adds a pair, in place of the one of an equal key; map_set borrows key, which is the template's
 * own. */
SP_MUST sp_err sp_jinja_map_set(sp_jval *map, sp_arena *a, const char *key, sp_jval v);
SP_MUST sp_err sp_jinja_map_put(sp_jval *map, sp_arena *a, sp_jval key, sp_jval v);
/* Adds at the end. */
SP_MUST sp_err sp_jinja_list_add(sp_jval *list, sp_arena *a, sp_jval v);
/* NULL: not there, or no map */
const sp_jval *sp_jinja_map_get(const sp_jval *map, const char *key);

#endif
