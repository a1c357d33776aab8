/* Where a listed thing stands, also after it was deleted: so a client that deletes as it reads a
 * list goes on where it was. A deleted thing's id and place are kept for a day, without a word of
 * its content. */
#include "rag/store_int.h"

#include "base/clock.h"

/* coll of table gone: else a collection's own number */
enum { KEPT_S = 24 * 3600, FILES = 0, COLLECTIONS = -1 };

#define KEEP " ON CONFLICT(coll, id) DO UPDATE SET place=excluded.place, at=excluded.at"
#define INTO "INSERT INTO gone(coll, id, tenant, place, at) "

static sp_err forget_old(sp_rag_store *s, int64_t now, sp_diag *d)
{
    return sp_db_run(s->db, d, "DELETE FROM gone WHERE at<?", "i", now - KEPT_S);
}

sp_err sp_rag_gone_docs(sp_rag_store *s, const char *tenant, int64_t coll, const char *id,
                        sp_diag *d)
{
    int64_t now = sp_clock_wall();
    SP_TRY(sp_db_run(s->db, d,
                     INTO "SELECT coll, id, CAST(?2 AS TEXT), seq, CAST(?4 AS BIGINT) FROM "
                          "document WHERE id=?1 AND coll IN (SELECT seq FROM collection"
                          " WHERE tenant=?2 AND (CAST(?3 AS BIGINT)=0 OR seq=?3))" KEEP,
                     "ssii", id, tenant, coll, now));
    return forget_old(s, now, d);
}

sp_err sp_rag_gone_file(sp_rag_store *s, const char *tenant, const char *id, sp_diag *d)
{
    int64_t now = sp_clock_wall();
    SP_TRY(sp_db_run(
        s->db, d,
        INTO
        "SELECT 0, id, tenant, rowid, CAST(?3 AS BIGINT) FROM file WHERE id=?1 AND tenant=?2" KEEP,
        "ssi", id, tenant, now));
    return forget_old(s, now, d);
}

sp_err sp_rag_gone_coll(sp_rag_store *s, const char *tenant, int64_t seq, sp_diag *d)
{
    int64_t now = sp_clock_wall();
    SP_TRY(sp_db_run(s->db, d, "DELETE FROM gone WHERE coll=?", "i", seq));
    SP_TRY(sp_db_run(s->db, d,
                     INTO "SELECT -1, id, tenant, seq, CAST(?3 AS BIGINT) FROM collection WHERE "
                          "seq=?1 AND tenant=?2" KEEP,
                     "isi", seq, tenant, now));
    return forget_old(s, now, d);
}

sp_err sp_rag_place(sp_rag_store *s, const char *tenant, sp_rag_list list, const char *coll,
                    const char *id, int64_t *out, sp_diag *d)
{
    int64_t seq = list == SP_RAG_FILES ? FILES : COLLECTIONS;
    const char *lives = list == SP_RAG_FILES ? "SELECT rowid FROM file WHERE id=? AND tenant=?"
                                             : "SELECT seq FROM collection WHERE id=? AND tenant=?";
    sp_err err;
    if (list == SP_RAG_DOCS) {
        SP_TRY(sp_rag_coll_seq(s, tenant, coll, &seq, d));
        err = sp_db_int(s->db, out, d,
                        "SELECT seq FROM document WHERE id=? AND coll=? ORDER BY seq LIMIT 1", "si",
                        id, seq);
    } else {
        err = sp_db_int(s->db, out, d, lives, "ss", id, tenant);
    }
    if (err == SP_NOTFOUND)
        err = sp_db_int(s->db, out, d, "SELECT place FROM gone WHERE coll=? AND id=? AND tenant=?",
                        "iss", seq, id, tenant);
    return err == SP_NOTFOUND
               ? SP_FAIL(d, SP_INVAL, "after: this list has no %.60s, and had none in the last day",
                         id)
               : err;
}
