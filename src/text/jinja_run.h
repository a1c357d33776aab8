/* What a run of a template shares: its state, texts that are built, budgets. Used by jinja_*.c
 * only.
 *
 * Budgets: every node, loop iteration and element is a step, and so are STEP_BYTES bytes that are
 * read, compared, copied or written; each is counted before it is spent. Texts and memory have
 * caps, evaluation and the printing or comparing of values a depth: a namespace can hold itself,
 * and a loop can nest or double a list without end. */
#ifndef SP_TEXT_JINJA_RUN_H
#define SP_TEXT_JINJA_RUN_H

#include "text/jinja_ast.h"

#include <string.h>

enum { SP_JINJA_TEXT = 16 << 20, SP_JINJA_DEPTH = 64, SP_JINJA_ARGS = 8 };

/* A text that is built. mark is used once both own and foreign bytes have come. */
typedef struct jtext {
    sp_buf b, mark;
    const char *from; /* of all bytes, while mark is empty */
    bool is_mixed;
} jtext;

typedef struct jvar {
    struct jvar *next;
    sp_str name;
    sp_jval v;
} jvar;

/* Scopes live in the arena: a macro may outlive the loop that it was defined in. */
typedef struct jscope {
    struct jscope *up;
    jvar *vars;
} jscope;

struct sp_jmacro {
    const jnode *node;
    jscope *scope; /* where it was defined */
};

typedef enum jflow { JF_ON, JF_BREAK, JF_CONTINUE } jflow;

typedef struct jrun {
    jtext *out;
    sp_arena *a;
    const sp_jval *globals;
    jscope *scope;
    jvar *spare; /* variables of scopes that have ended */
    size_t steps;
    size_t depth; /* of evaluation */
    jflow flow;
    sp_diag *d;
} jrun;

/* Arguments of a call. Whatever is not asked for by sp_jinja_arg is unknown to what is called. */
typedef struct jargs {
    sp_jval v[SP_JINJA_ARGS];
    sp_str key[SP_JINJA_ARGS]; /* empty: by position */
    size_t n;
    unsigned used;
} jargs;

#define SP_JINJA_TYPE(r, n, what)                                                                  \
    SP_FAIL((r)->d, SP_FORMAT, "chat template, line %u: %s", (n)->line, (what))

static inline const char *sp_jinja_mark_at(const char *mark, size_t at)
{
    return !mark || mark == sp_jinja_from ? mark : mark + at;
}

/* Errors of all of these: SP_LIMIT names a budget or a cap, SP_FORMAT a value of the wrong type
 * with its line, SP_UNSUP what the interpreter lacks. n is the node whose line an error names.
 * Texts are strings with marks; results live in the run's arena. */

/* --- budgets (jinja_value.c) ------------------------------------------------------------------ */

/* The error of a full arena. */
SP_MUST sp_err sp_jinja_full(jrun *r);
/* Counts n steps before they are taken. */
SP_MUST sp_err sp_jinja_spend(jrun *r, size_t n);
/* Counts the steps of n bytes. */
SP_MUST sp_err sp_jinja_spend_bytes(jrun *r, size_t n);
/* One level deeper; the caller takes it back from r->depth. */
SP_MUST sp_err sp_jinja_enter(jrun *r, const jnode *n);

/* --- values (jinja_value.c) ------------------------------------------------------------------- */

/* Python's truth of a value. */
bool sp_jinja_truthy(const sp_jval *v);
/* Whether a value is an integer, a float or a boolean. */
bool sp_jinja_is_number(const sp_jval *v);
/* The value of a number. */
double sp_jinja_float(const sp_jval *v);
/* The value of a boolean or an integer. */
int64_t sp_jinja_whole(const sp_jval *v);
/* a == b, in depth. */
SP_MUST sp_err sp_jinja_equal(jrun *r, bool *out, const sp_jval *a, const sp_jval *b);
/* Below 0, 0 or above 0 as a is before, equal to or behind b; SP_FORMAT: they have no order. */
SP_MUST sp_err sp_jinja_compare(jrun *r, const jnode *n, int *out, const sp_jval *a,
                                const sp_jval *b);
/* The value of a key; NULL: none. */
SP_MUST sp_err sp_jinja_find(jrun *r, const sp_jval **out, const sp_jval *map, const sp_jval *key);
/* Appends to a list, with its step. */
SP_MUST sp_err sp_jinja_push(jrun *r, sp_jval *list, sp_jval v);
/* An empty list or map. */
SP_MUST sp_err sp_jinja_make(jrun *r, sp_jval *out, sp_jkind kind);

/* --- texts (jinja_text.c) --------------------------------------------------------------------- */

/* Appends n bytes; mark as in sp_jval. */
SP_MUST sp_err sp_jinja_put(jrun *r, jtext *t, const char *p, size_t n, const char *mark);
/* Appends a string with its marks. */
SP_MUST sp_err sp_jinja_put_str(jrun *r, jtext *t, const sp_jval *s);
/* Appends Python's str() of any value. */
SP_MUST sp_err sp_jinja_put_value(jrun *r, jtext *t, const sp_jval *v);
/* The built text as a string in the arena, unless err is one; ends t either way. */
SP_MUST sp_err sp_jinja_keep(jrun *r, sp_jval *out, jtext *t, sp_err err);
/* Frees what a text holds. */
void sp_jinja_text_fini(jtext *t);
/* Bytes [at, end) of a string, borrowed. */
sp_jval sp_jinja_part(const sp_jval *s, size_t at, size_t end);
/* str() of a value as a string. */
SP_MUST sp_err sp_jinja_as_text(jrun *r, sp_jval *out, const sp_jval *v);
/* Characters of a string. */
size_t sp_jinja_chars(const sp_jval *s);
/* The byte offset of character i; the end where there is none. */
size_t sp_jinja_char_at(const sp_jval *s, size_t i);
/* Bytes of the character that begins at a byte. */
size_t sp_jinja_char_len(const sp_jval *s, size_t at);

/* --- repr, JSON (jinja_json.c) ---------------------------------------------------------------- */

typedef struct jjson {
    bool is_json; /* else Python's repr */
    bool is_ascii, is_sorted;
    const sp_jval *indent; /* NULL: one line */
    sp_jval item, colon;   /* separators */
} jjson;
/* Appends a value as JSON or repr; depth is that of the value in what is written. */
SP_MUST sp_err sp_jinja_put_repr(jrun *r, jtext *t, const sp_jval *v, const jjson *how,
                                 size_t depth);
/* The filter tojson. */
SP_MUST sp_err sp_jinja_to_json(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v, jargs *a);

/* --- JSON to values (jinja_read.c) ------------------------------------------------------------ */

/* The filter from_json. */
SP_MUST sp_err sp_jinja_from_json(jrun *r, sp_jval *out, const jnode *n, const sp_jval *s);

/* --- string methods (jinja_string.c); arguments are strings where they are pointers ------------
 */

/* strip, lstrip, rstrip; set NULL: blanks. */
SP_MUST sp_err sp_jinja_strip(jrun *r, sp_jval *out, const sp_jval *s, const sp_jval *set,
                              bool left, bool right);
/* how: u(pper), l(ower), c(apitalize), t(itle). */
SP_MUST sp_err sp_jinja_recase(jrun *r, sp_jval *out, const sp_jval *s, char how);
/* Up to `most` occurrences; negative: all. */
SP_MUST sp_err sp_jinja_replace(jrun *r, sp_jval *out, const sp_jval *s, const sp_jval *from,
                                const sp_jval *to, int64_t most);
/* A list of parts, of `most` cuts; sep NULL: at blanks; right: cuts are counted from the end. */
SP_MUST sp_err sp_jinja_split(jrun *r, sp_jval *out, const sp_jval *s, const sp_jval *sep,
                              int64_t most, bool right);
/* splitlines. */
SP_MUST sp_err sp_jinja_lines(jrun *r, sp_jval *out, const sp_jval *s);
/* & < > and quotes as HTML has them. */
SP_MUST sp_err sp_jinja_escape(jrun *r, sp_jval *out, const sp_jval *s);
/* The method format. */
SP_MUST sp_err sp_jinja_format(jrun *r, sp_jval *out, const jnode *n, const sp_jval *s, jargs *a);
/* v[start:stop:step] of a string or a list; a part may be none. */
SP_MUST sp_err sp_jinja_slice(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v,
                              const sp_jval part[3]);

/* --- calls (jinja_call.c, jinja_filter.c, jinja_test.c) ----------------------------------------
 */

/* The argument at a place or of a name, which counts as used; NULL: not given. */
const sp_jval *sp_jinja_arg(jargs *a, size_t i, const char *name);
/* Evaluates the arguments of a call. */
SP_MUST sp_err sp_jinja_args(jrun *r, jargs *out, const jnode *n);
/* SP_UNSUP names an argument that `what` has not asked for. */
SP_MUST sp_err sp_jinja_args_done(jrun *r, const jargs *a, const jnode *n, const char *what);
/* Calls a function or a macro. */
SP_MUST sp_err sp_jinja_call(jrun *r, sp_jval *out, const jnode *n);
/* Calls a method. */
SP_MUST sp_err sp_jinja_method(jrun *r, sp_jval *out, const jnode *n);
/* Applies the filter id to v. */
SP_MUST sp_err sp_jinja_filter(jrun *r, sp_jval *out, const jnode *n, int id, const sp_jval *v,
                               jargs *a);
/* Applies the test id to v. */
SP_MUST sp_err sp_jinja_test(jrun *r, bool *out, const jnode *n, int id, const sp_jval *v,
                             jargs *a);
/* A map's k(eys), v(alues) or i(tems) as a list. */
SP_MUST sp_err sp_jinja_view(jrun *r, sp_jval *out, const jnode *n, const sp_jval *m, char which);
/* What a loop over v walks over, as a list. */
SP_MUST sp_err sp_jinja_iter(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v);
/* Whether a value has a method of this name. */
bool sp_jinja_has_method(const sp_jval *v, sp_str name);
/* Names, in the order of their ids; NULL behind the last one. */
extern const char *const sp_jinja_functions[],
    *const sp_jinja_methods[], *const sp_jinja_filters[], *const sp_jinja_tests[];

/* --- evaluation (jinja_eval.c) ---------------------------------------------------------------- */

/* The value of an expression. */
SP_MUST sp_err sp_jinja_eval(jrun *r, sp_jval *out, const jnode *n);
/* a[key]; undefined where there is none. */
SP_MUST sp_err sp_jinja_item(jrun *r, sp_jval *out, const jnode *n, const sp_jval *a,
                             const sp_jval *key);
/* a.name: a method, or a[name]. */
SP_MUST sp_err sp_jinja_attr(jrun *r, sp_jval *out, const jnode *n, const sp_jval *a, sp_str name);
/* The value of a name, from the innermost scope out; undefined where there is none. */
SP_MUST sp_err sp_jinja_name(jrun *r, sp_jval *out, sp_str name);
/* Sets a name in the innermost scope. */
SP_MUST sp_err sp_jinja_bind(jrun *r, sp_str name, sp_jval v);
/* A new innermost scope, within `up`. */
SP_MUST sp_err sp_jinja_scope_in(jrun *r, jscope *up);
/* Takes the variables out of the innermost scope. */
void sp_jinja_scope_clear(jrun *r);
/* The text that the statements write. */
SP_MUST sp_err sp_jinja_capture(jrun *r, sp_jval *out, const jnode *body);

#endif
