#include "cmd/shelf.h"

#include <string.h>
#include <unistd.h>

#define DEFAULT_DB "knowledge.db"

const char *sp_shelf_path(const sp_opts *o)
{
    const char *db = sp_opt_str(o, "knowledge");
    return db ? db : DEFAULT_DB;
}

sp_err sp_shelf_is_there(const sp_opts *o, sp_diag *d)
{
    const char *path = sp_shelf_path(o);
    if (strncmp(path, "postgresql:", 11) == 0 || strncmp(path, "postgres:", 9) == 0 ||
        access(path, F_OK) == 0)
        return SP_OK;
    return SP_FAIL(d, SP_NOTFOUND, "%.100s: there is no such file; `sparing ingest` makes one",
                   path);
}

sp_err sp_shelf_open(sp_shelf *s, const sp_opts *o, bool with_encoder, sp_diag *d)
{
    SP_TRY(sp_cmd_device(&s->dev, o, d));
    if (with_encoder) {
        SP_TRY(sp_cmd_encoder(&s->encoder, s->dev, o, d));
        if (sp_encoder_dim(s->encoder) != SP_VEC_DIM)
            return SP_FAIL(d, SP_UNSUP, "the encoder gives vectors of %zu, collections hold %d",
                           sp_encoder_dim(s->encoder), SP_VEC_DIM);
    }
    SP_TRY(sp_rag_open(&s->store, sp_shelf_path(o), sp_dev_host_kern(s->dev), d));
    sp_rag_hnsw_from(s->store, (size_t)sp_opt_int(o, "hnsw-from"));
    return s->encoder ? sp_rag_made_by(s->store, sp_encoder_name(s->encoder), d) : SP_OK;
}

void sp_shelf_close(sp_shelf *s)
{
    sp_rag_close(s->store);
    sp_encoder_close(s->encoder);
    sp_dev_close(s->dev);
}

sp_err sp_shelf_coll(char id[SP_RAG_ID], sp_shelf *s, const sp_opts *o, bool create, sp_diag *d)
{
    return sp_rag_coll_named(s->store, TENANT(o), sp_opt_str(o, "collection"), create, id, d);
}

int sp_shelf_exit(sp_err err)
{
    return err == SP_NOTFOUND || err == SP_INVAL || err == SP_FORMAT || err == SP_UNSUP ? EXIT_RUN
           : err == SP_IO || err == SP_AGAIN                                            ? EXIT_STORE
                                             : EXIT_MODEL;
}
