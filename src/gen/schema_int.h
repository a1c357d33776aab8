/* What the files of a schema's way into a pattern share: schema.c (the walk), schema_object.c
 * (objects), schema_merge.c (several schemas become one), schema_text.c (strings) and
 * schema_number.c (numbers in bounds). */
#ifndef SP_GEN_SCHEMA_INT_H
#define SP_GEN_SCHEMA_INT_H

#include "gen/schema.h"

enum { SC_TIMES = 1000000 }; /* a count from here on is no bound */

typedef struct sc_walk {
    sp_buf rules; /* (?<name>…) of all */
    sp_buf *loose;
    const json_t *root;
    json_t *own;   /* a list of schemas that were made on the way, so that they live as long */
    json_t *names; /* $ref -> number of its rule */
    json_t *todo;  /* a list of $ref whose rules are not written yet */
    size_t n_rule,
        id; /* id: sets the rules of one schema apart from those of another in the same pattern */
    size_t n_step; /* spent */
    unsigned lib;  /* rules of the library that are used */
    sp_diag *d;
} sc_walk;

typedef enum sc_lib {
    SC_CHAR,
    SC_NAME,
    SC_STRING,
    SC_INTEGER,
    SC_NUMBER,
    SC_VALUE,
    SC_OBJECT
} sc_lib;

/* Calls a rule of the library, or one of this schema. */
void sc_put_lib(sc_walk *w, sp_buf *out, sc_lib what);
void sc_put_rule(const sc_walk *w, sp_buf *out, size_t rule);
/* Defines a rule; body is emptied. */
SP_MUST sp_err sc_define(sc_walk *w, size_t rule, sp_buf *body);
/* A keyword that is not enforced: noted, or refused. */
SP_MUST sp_err sc_loose(sc_walk *w, const char *what);
SP_MUST sp_err sc_step(sc_walk *w);
/* A value as its JSON text. */
SP_MUST sp_err sc_put_value(sc_walk *w, sp_buf *out, const json_t *v);
/* A count: an integer of at least 0; absent: fallback. A number without a fraction is one. */
SP_MUST sp_err sc_count(sc_walk *w, json_int_t *out, const json_t *s, const char *key,
                        json_int_t fallback);

/* schema.c. Any schema; the values of a list that the rest of a schema allows. */
SP_MUST sp_err sc_put_schema(sc_walk *w, sp_buf *out, const json_t *s, int depth);
SP_MUST sp_err sc_put_values(sc_walk *w, sp_buf *out, const json_t *s, const json_t *list);
/* lo to hi calls of a rule, apart by commas; after: others came before them. hi SC_TIMES: no end.
 */
void sc_put_list(sc_walk *w, sp_buf *out, size_t rule, json_int_t lo, json_int_t hi, bool after);
/* Has a schema one of these words? Each stands between spaces. */
bool sc_speaks_of(const json_t *s, const char *words);
/* Notes or refuses keywords that nobody knows. */
SP_MUST sp_err sc_check_keys(sc_walk *w, const json_t *s);

/* schema_object.c */
SP_MUST sp_err sc_put_object(sc_walk *w, sp_buf *out, const json_t *s, int depth);

/* schema_merge.c. The same schema without $ref and allOf; borrowed from w. Objects only. */
SP_MUST sp_err sc_flatten(sc_walk *w, json_t **out, const json_t *s);
/* The place that a $ref names. */
SP_MUST sp_err sc_resolve(sc_walk *w, const json_t **out, const char *ref);
/* Both must hold; a is changed. */
SP_MUST sp_err sc_merge(sc_walk *w, json_t *a, const json_t *b);
/* No value meets both. false: not known. */
bool sc_is_apart(const json_t *a, const json_t *b);
/* Does a value meet the type and the bounds of a schema? Other keywords are not looked at. */
bool sc_fits(const json_t *s, const json_t *v);
/* Is a value in a list? */
bool sc_holds(const json_t *list, const json_t *v);

/* schema_text.c. A string with its quotes; characters between quotes that are none of `names` (an
 * object's keys, NULL: any), with the quotes. */
SP_MUST sp_err sc_put_string(sc_walk *w, sp_buf *out, const json_t *s);
SP_MUST sp_err sc_put_other_names(sc_walk *w, sp_buf *out, const json_t *names);
/* Does the pattern of a schema match a text? */
SP_MUST sp_err sc_matches(sc_walk *w, bool *out, const char *pattern, const char *text);
bool sc_is_pattern(const char *pattern);

/* schema_number.c */
SP_MUST sp_err sc_put_number(sc_walk *w, sp_buf *out, const json_t *s, bool whole);

#endif
