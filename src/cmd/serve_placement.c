#include "cmd/serve_placement.h"

#include "base/mem.h"

#include <stdlib.h>
#include <string.h>

/* A store that is a file of this machine is no outlet. */
static sp_err check_store(const sp_placement *p, const sp_opts *o, const char *name, sp_diag *d)
{
    const char *at = sp_opt_str(o, name);
    bool is_far =
        at && (strncmp(at, "postgresql://", 13) == 0 || strncmp(at, "postgres://", 11) == 0);
    return is_far ? sp_placement_check(p, name, at, SP_ROLE_AT_STORAGE, d) : SP_OK;
}

/* The object store is where its endpoint is; without one, the bucket stands for it. */
static sp_err check_objects(const sp_placement *p, const sp_opts *o, sp_diag *d)
{
    static const char *const from[] = {"AWS_ENDPOINT_URL_S3", "AWS_ENDPOINT_URL"};
    const char *at = sp_opt_str(o, "s3-endpoint"), *bucket = sp_opt_str(o, "s3");
    for (size_t i = 0; !at && i < sizeof from / sizeof *from; i++)
        at = getenv(from[i]);
    return bucket ? sp_placement_check(p, "s3", at && *at ? at : bucket, SP_ROLE_AT_STORAGE, d)
                  : SP_OK;
}

static sp_err check_peers(const sp_placement *p, const sp_opts *o, sp_diag *d)
{
    const char *list = sp_opt_str(o, "peers");
    char *text = list ? sp_mem_strdup(list) : NULL, *save = NULL;
    sp_err err = list && !text ? SP_FAIL(d, SP_NOMEM, "options") : SP_OK;
    for (char *at = text ? strtok_r(text, ",", &save) : NULL; at && err == SP_OK;
         at = strtok_r(NULL, ",", &save))
        err = sp_placement_check(p, "peers", at, SP_ROLE_AT_REASONING, d);
    sp_mem_free(text);
    return err;
}

static sp_err check(const sp_placement *p, const sp_opts *o, sp_diag *d)
{
    if (sp_opt_str(o, "upstream"))
        return SP_FAIL(d, SP_INVAL,
                       "upstream: with --placement other servers are places of that file");
    if (sp_opt_str(o, "shadow-of"))
        SP_TRY(sp_placement_check(p, "shadow-of", sp_opt_str(o, "shadow-of"), SP_ROLE_AT_FRONT, d));
    SP_TRY(check_store(p, o, "knowledge", d));
    SP_TRY(check_store(p, o, "feedback", d));
    SP_TRY(check_store(p, o, "history", d));
    SP_TRY(check_store(p, o, "state", d));
    SP_TRY(check_objects(p, o, d));
    SP_TRY(check_peers(p, o, d));
    return sp_opt_str(o, "otlp")
               ? sp_placement_check(p, "otlp", sp_opt_str(o, "otlp"), SP_ROLE_AT_TRACES, d)
               : SP_OK;
}

sp_err sp_serve_placement_open(sp_placement **out, const sp_opts *o, sp_diag *d)
{
    const char *path = sp_opt_str(o, "placement");
    sp_placement *p;
    if (!path)
        return SP_OK;
    SP_TRY(sp_placement_load(&p, path, d));
    sp_err err = check(p, o, d);
    if (err == SP_OK)
        *out = p;
    else
        sp_placement_free(p);
    return err;
}
