/* WordPiece from GGUF, where a word's first piece begins with U+2581 and the others stand bare. */
#include "base/mem.h"
#include "text/tok_int.h"
#include "text/wordpiece.h"

static sp_err begin(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    sp_wp_rules *r = t->own = sp_mem_alloc(sizeof *r);
    if (!r)
        return SP_FAIL(d, SP_NOMEM, "tokenizer");
    t->bos = 101; /* [CLS], [UNK] and [SEP] of BERT's own vocabulary */
    t->unk = 100;
    t->sep = 102;
    t->add_bos = t->add_sep = t->add_space = true;
    r->begins = SP_TOK_SPACE;
    r->goes_on = "";
    r->lower = true;
    SP_TRY(sp_tok_read_flag(&r->lower, g, "tokenizer.ggml.normalizer.lowercase", d));
    r->strip = r->lower;
    return sp_tok_read_flag(&r->strip, g, "tokenizer.ggml.normalizer.strip_accents", d);
}

static sp_err load(sp_tok *t, const sp_gguf *g, sp_diag *d)
{
    sp_wp_rules *r = t->own;
    uint64_t cls;
    sp_err err = sp_gguf_u64(&cls, g, "tokenizer.ggml.cls_token_id", 0, t->n_vocab - 1, d);
    if (err == SP_OK)
        t->bos = (uint32_t)cls;
    else if (err != SP_NOTFOUND)
        return err;
    if (t->unk == SP_TOK_NONE)
        return SP_FAIL(d, SP_FORMAT,
                       "gguf: the vocabulary has no unknown token, which WordPiece needs");
    r->by_piece = &t->by_piece;
    r->unk = t->unk;
    return SP_OK;
}

static sp_err encode(const sp_tok *t, sp_tok_work *w, sp_ids *out, const char *s, size_t n,
                     bool first, sp_diag *d)
{
    (void)w;
    (void)first;
    sp_err err = sp_wp_words(t->own, out, s, n);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "tokenizing %zu bytes", n);
}

static void fini(sp_tok *t)
{
    sp_mem_free(t->own);
}

const sp_tok_kind sp_tok_kind_wordpiece = {.model = "bert",
                                           .takes = 1u << SP_TOK_NORMAL | 1u << SP_TOK_UNUSED |
                                                    1u << SP_TOK_USER,
                                           .by_text = true,
                                           .begin = begin,
                                           .spell = sp_tok_spell_spaced,
                                           .load = load,
                                           .encode = encode,
                                           .fini = fini};
