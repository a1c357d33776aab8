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

/* Do the tokens from `first` on give these bytes back, as text? */
static bool is_spelled(const sp_ids *ids, size_t first, const sp_tok *t, const char *p, size_t n)
{
    size_t at = 0;
    for (size_t i = first; i < ids->n; i++) {
        sp_str piece = sp_tok_piece(t, ids->id[i]);
        if (sp_tok_is_control(t, ids->id[i]) || sp_tok_is_end(t, ids->id[i]) || piece.n > n - at ||
            memcmp(piece.p, p + at, piece.n) != 0)
            return false;
        at += piece.n;
    }
    return at == n;
}

/* The control token whose text begins these bytes, or SP_TOK_NONE. */
static uint32_t mark_at(const sp_force_ask *a, const char *p, size_t n)
{
    for (size_t i = 0; i < a->n_mark; i++) {
        sp_str piece = sp_tok_piece(a->tok, a->mark[i]);
        if (piece.n && piece.n <= n && memcmp(piece.p, p, piece.n) == 0)
            return a->mark[i];
    }
    return SP_TOK_NONE;
}

/* Tokens of a run of bytes, as far as it can be spelled. *is_firm: nothing that may follow joins
 * the last one. What cannot be spelled is left to the mask. SP_NOMEM. */
static sp_err spell(sp_ids *out, bool *is_firm, const sp_force_ask *a, const char *p, size_t n)
{
    for (size_t at = 0; at < n;) {
        const char *mark = memchr(p + at, (unsigned char)*SP_GRAMMAR_MARK, n - at);
        size_t end = mark ? (size_t)(mark - p) : n, first = out->n;
        sp_str text = {p + at, end - at};
        if (text.n && (sp_tok_encode(a->tok, out, text.p, text.n, SP_SPECIAL_NONE, NULL) != SP_OK ||
                       !is_spelled(out, first, a->tok, text.p, text.n))) {
            out->n = first;
            *is_firm = true; /* a control token stands before it, or nothing */
            return SP_OK;
        }
        *is_firm = mark != NULL;
        uint32_t id = mark ? mark_at(a, mark + 1, n - end - 1) : SP_TOK_NONE;
        if (id == SP_TOK_NONE)
            return SP_OK;
        SP_TRY(sp_ids_push(out, id));
        at = end + 1 + sp_tok_piece(a->tok, id).n;
    }
    return SP_OK;
}

sp_err sp_force_look(sp_force *f, uint32_t *id, const sp_force_ask *a)
{
    char run[MAX_RUN];
    size_t n;
    bool ends, is_firm = false;
    if (f->next >= f->ids.n) {
        f->ids.n = f->next = 0;
        SP_TRY(sp_grammar_run(a->grammar, a->at, run, MAX_RUN, &n, &ends));
        SP_TRY(spell(&f->ids, &is_firm, a, run, n));
        f->ids.n -= f->ids.n && !ends && !is_firm;
    }
    *id = f->next < f->ids.n ? f->ids.id[f->next] : SP_TOK_NONE;
    return SP_OK;
}
