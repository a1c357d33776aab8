/* What a run of a template shares: its state, texts that are built, budgets. Used by jinja_*.c only.
 *
 * Budgets: every node, loop iteration and element is a step, and so are STEP_BYTES bytes that are read, compared, copied or
 * written; each is counted before it is spent. Texts and memory have caps, evaluation and the printing or comparing of values a
 * depth: a namespace can hold itself, and a loop can nest or double a list without end. */
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

#define SP_JINJA_TYPE(r, n, what) SP_FAIL((r)->d, SP_FORMAT, "chat template, line %u: %s", (n)->line, (what))

static inline const char *sp_jinja_mark_at(const char *mark, size_t at)
{
    return !mark || mark == sp_jinja_from ? mark : mark + at;
}

/* budgets (jinja_value.c) */
SP_MUST sp_err sp_jinja_full(jrun *r);
SP_MUST sp_err sp_jinja_spend(jrun *r, size_t n);       /* n steps */
SP_MUST sp_err sp_jinja_spend_bytes(jrun *r, size_t n);
SP_MUST sp_err sp_jinja_enter(jrun *r, const jnode *n); /* one deeper; the caller takes it back from r->depth */

/* values (jinja_value.c) */
bool sp_jinja_truthy(const sp_jval *v);
bool sp_jinja_is_number(const sp_jval *v);
double sp_jinja_float(const sp_jval *v);
int64_t sp_jinja_whole(const sp_jval *v); /* of a boolean or an integer */
SP_MUST sp_err sp_jinja_equal(jrun *r, bool *out, const sp_jval *a, const sp_jval *b);
SP_MUST sp_err sp_jinja_compare(jrun *r, const jnode *n, int *out, const sp_jval *a, const sp_jval *b);
SP_MUST sp_err sp_jinja_find(jrun *r, const sp_jval **out, const sp_jval *map, const sp_jval *key); /* NULL: none */
SP_MUST sp_err sp_jinja_push(jrun *r, sp_jval *list, sp_jval v); /* with its step */
SP_MUST sp_err sp_jinja_make(jrun *r, sp_jval *out, sp_jkind kind);

/* texts (jinja_text.c) */
SP_MUST sp_err sp_jinja_put(jrun *r, jtext *t, const char *p, size_t n, const char *mark);
SP_MUST sp_err sp_jinja_put_str(jrun *r, jtext *t, const sp_jval *s);
SP_MUST sp_err sp_jinja_put_value(jrun *r, jtext *t, const sp_jval *v); /* str() */
SP_MUST sp_err sp_jinja_keep(jrun *r, sp_jval *out, jtext *t, sp_err err); /* into the arena, unless err; ends t */
void sp_jinja_text_fini(jtext *t);
sp_jval sp_jinja_part(const sp_jval *s, size_t at, size_t end);
SP_MUST sp_err sp_jinja_as_text(jrun *r, sp_jval *out, const sp_jval *v);
size_t sp_jinja_chars(const sp_jval *s);
size_t sp_jinja_char_at(const sp_jval *s, size_t i); /* byte offset */
size_t sp_jinja_char_len(const sp_jval *s, size_t at);

/* repr, JSON (jinja_json.c) */
typedef struct jjson {
    bool is_json; /* else Python's repr */
    bool is_ascii, is_sorted;
    const sp_jval *indent; /* NULL: one line */
    sp_jval item, colon;   /* separators */
} jjson;
SP_MUST sp_err sp_jinja_put_repr(jrun *r, jtext *t, const sp_jval *v, const jjson *how, size_t depth);
SP_MUST sp_err sp_jinja_to_json(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v, jargs *a);

/* JSON to values (jinja_read.c) */
SP_MUST sp_err sp_jinja_from_json(jrun *r, sp_jval *out, const jnode *n, const sp_jval *s);

/* string methods (jinja_string.c); arguments are strings where they are pointers */
SP_MUST sp_err sp_jinja_strip(jrun *r, sp_jval *out, const sp_jval *s, const sp_jval *set, bool left, bool right);
SP_MUST sp_err sp_jinja_recase(jrun *r, sp_jval *out, const sp_jval *s, char how); /* u, l, c(apitalize), t(itle) */
SP_MUST sp_err sp_jinja_replace(jrun *r, sp_jval *out, const sp_jval *s, const sp_jval *from, const sp_jval *to, int64_t most);
SP_MUST sp_err sp_jinja_split(jrun *r, sp_jval *out, const sp_jval *s, const sp_jval *sep, int64_t most, bool right);
SP_MUST sp_err sp_jinja_lines(jrun *r, sp_jval *out, const sp_jval *s);
SP_MUST sp_err sp_jinja_escape(jrun *r, sp_jval *out, const sp_jval *s); /* of HTML */
SP_MUST sp_err sp_jinja_format(jrun *r, sp_jval *out, const jnode *n, const sp_jval *s, jargs *a);
SP_MUST sp_err sp_jinja_slice(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v, const sp_jval part[3]);

/* calls (jinja_call.c, jinja_filter.c, jinja_test.c) */
const sp_jval *sp_jinja_arg(jargs *a, size_t i, const char *name); /* NULL: not given */
SP_MUST sp_err sp_jinja_args(jrun *r, jargs *out, const jnode *n);
SP_MUST sp_err sp_jinja_args_done(jrun *r, const jargs *a, const jnode *n, const char *what);
SP_MUST sp_err sp_jinja_call(jrun *r, sp_jval *out, const jnode *n);
SP_MUST sp_err sp_jinja_method(jrun *r, sp_jval *out, const jnode *n);
SP_MUST sp_err sp_jinja_filter(jrun *r, sp_jval *out, const jnode *n, int id, const sp_jval *v, jargs *a);
SP_MUST sp_err sp_jinja_test(jrun *r, bool *out, const jnode *n, int id, const sp_jval *v, jargs *a);
SP_MUST sp_err sp_jinja_view(jrun *r, sp_jval *out, const jnode *n, const sp_jval *m, char which); /* k, v, i(tems) */
SP_MUST sp_err sp_jinja_iter(jrun *r, sp_jval *out, const jnode *n, const sp_jval *v); /* as a list */
bool sp_jinja_has_method(const sp_jval *v, sp_str name);
extern const char *const sp_jinja_functions[], *const sp_jinja_methods[], *const sp_jinja_filters[], *const sp_jinja_tests[];

/* evaluation (jinja_eval.c) */
SP_MUST sp_err sp_jinja_eval(jrun *r, sp_jval *out, const jnode *n);
SP_MUST sp_err sp_jinja_item(jrun *r, sp_jval *out, const jnode *n, const sp_jval *a, const sp_jval *key);
SP_MUST sp_err sp_jinja_attr(jrun *r, sp_jval *out, const jnode *n, const sp_jval *a, sp_str name);
SP_MUST sp_err sp_jinja_name(jrun *r, sp_jval *out, sp_str name);
SP_MUST sp_err sp_jinja_bind(jrun *r, sp_str name, sp_jval v);
SP_MUST sp_err sp_jinja_scope_in(jrun *r, jscope *up);
void sp_jinja_scope_clear(jrun *r);
/* The text that the statements write. */
SP_MUST sp_err sp_jinja_capture(jrun *r, sp_jval *out, const jnode *body);

#endif
