/* Request bodies: JSON with a depth cap, and one table of parameters that reads, checks and
 * refuses. A name that is not in the table is an error that names it: nothing is ignored silently.
 * known.h has lists of names that are accepted. */
#ifndef SP_API_PARAMS_H
#define SP_API_PARAMS_H

#include "base/buf.h"
#include "base/mem.h"
#include "gen/session.h"
#include "net/http.h"

#include <jansson.h>

typedef enum sp_param_kind {
    SP_P_NUM, /* double in [min, max] */
    SP_P_INT, /* int64_t in [min, max]; 2.0 is one */
    SP_P_BOOL,
    SP_P_STR,    /* const char *, borrowed from the JSON */
    SP_P_JSON,   /* const json_t *, borrowed, any type */
    SP_P_IGNORE, /* accepted: it changes no answer */
    SP_P_REFUSE, /* known to OpenAI's API, not supported here */
    /* added to another: null is refused, so that it is not taken for a restriction that is not
     * there */
    SP_P_FIRM = 64
} sp_param_kind;

typedef struct sp_param {
    const char *name;
    sp_param_kind kind;
    void *out;       /* left alone when absent or null */
    double min, max;
} sp_param;

enum { SP_JSON_DEPTH = 64 };

/* *out: an object, which the caller decrefs. SP_INVAL says where the text is wrong. */
SP_MUST sp_err sp_params_parse(json_t **out, const char *body, size_t n, sp_diag *d);
/* *bad: the offending name, in the JSON or the table (may be NULL). */
SP_MUST sp_err sp_params_read(const json_t *obj, const sp_param *table, size_t n, const char **bad,
                              sp_diag *d);

/* The row of a name, or NULL. */
const sp_param *sp_params_find(const sp_param *table, size_t n, const char *name);
/* Reads a value as its row says; null only where the row is not firm, and then nothing is read. */
SP_MUST sp_err sp_params_read_one(const sp_param *p, const json_t *v, sp_diag *d);

/* Refuses a query parameter whose name is not in names, where each stands between spaces. req NULL,
 * on a worker: it was looked at before. */
SP_MUST sp_err sp_params_query(const sp_http_req *req, const char *names, const char **bad,
                               sp_diag *d);
/* A query parameter that is a number from min to max; *out stays when it is absent. */
SP_MUST sp_err sp_params_query_int(const sp_http_req *req, const char *name, int64_t *out,
                                   int64_t min, int64_t max, sp_diag *d);

/* JSON as the arena's text. */
SP_MUST sp_err sp_params_keep(const char **out, sp_arena *a, const json_t *v, sp_diag *d);
/* OpenAI's metadata: at most 16 entries, names of at most 64 bytes, strings of at most 512;
 * strings: no numbers and booleans. Kept as text; *out is left alone when v is NULL. */
SP_MUST sp_err sp_params_metadata(const char **out, sp_arena *a, const json_t *v, const char *name,
                                  bool strings, sp_diag *d);

/* OpenAI's error object. param may be NULL. */
void sp_api_error(sp_buf *out, int status, const char *message, const char *param,
                  const char *code);
/* HTTP status of an error code. */
int sp_api_status(sp_err err);

#endif
