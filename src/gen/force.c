#include "gen/force.h"

#include <string.h>

enum { MAX_RUN = 512 /* bytes that are looked at ahead */ };

void sp_force_fini(sp_force *f)
{
    sp_ids_fini(&f->ids);
}

void sp_force_take(sp_force *f)
{
    f->next++;
}

/* Do the tokens give these bytes back? */
static bool is_spelled(const sp_ids *ids, const sp_tok *t, const char *p, size_t n)
{
    size_t at = 0;
    for (size_t i = 0; i < ids->n; i++) {
        sp_str piece = sp_tok_piece(t, ids->id[i]);
        if (sp_tok_is_control(t, ids->id[i]) || sp_tok_is_end(t, ids->id[i]) || piece.n > n - at ||
            memcmp(piece.p, p + at, piece.n) != 0)
            return false;
        at += piece.n;
    }
    return at == n;
}

sp_err sp_force_look(sp_force *f, uint32_t *id, sp_grammar *g, sp_grammar_at at, const sp_tok *t)
{
    char run[MAX_RUN];
    size_t n;
    bool ends;
    if (f->next >= f->ids.n) {
        f->ids.n = f->next = 0;
        SP_TRY(sp_grammar_run(g, at, run, MAX_RUN, &n, &ends));
        if (n && sp_tok_encode(t, &f->ids, run, n, SP_SPECIAL_NONE, NULL) != SP_OK)
            f->ids.n = 0; /* it cannot be spelled: the mask decides */
        if (f->ids.n && !is_spelled(&f->ids, t, run, n))
            f->ids.n = 0;
        f->ids.n -= f->ids.n && !ends;
    }
    *id = f->next < f->ids.n ? f->ids.id[f->next] : SP_TOK_NONE;
    return SP_OK;
}
