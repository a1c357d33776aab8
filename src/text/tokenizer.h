/* Byte-level BPE tokenizer read from GGUF.
 *
 * encode(decode(ids)) may differ from ids, but decode(encode(text)) == text for every byte string
 * the vocabulary can spell; bytes it cannot spell become the unknown token, or an error if there is
 * none. Time and memory are linear in the text.
 *
 * Owner:   sp_tok borrows the GGUF until close; ids belong to the caller.
 * Threads: immutable after open; encode and decode are pure.
 * Source:  Sennrich et al. 2016 (BPE); GPT-2's byte alphabet. */
#ifndef SP_TEXT_TOKENIZER_H
#define SP_TEXT_TOKENIZER_H

#include "base/buf.h"
#include "fmt/gguf.h"

typedef struct sp_tok sp_tok;

typedef struct sp_ids {
    uint32_t *id;
    size_t n, cap;
    size_t most; /* budget: one more is SP_LIMIT; 0: none */
} sp_ids;

#define SP_TOK_NONE UINT32_MAX

/* Errors: SP_UNSUP names the tokenizer model or pre-tokenizer; SP_FORMAT names the key. */
SP_MUST sp_err sp_tok_open(sp_tok **out, const sp_gguf *g, sp_diag *d);
void sp_tok_close(sp_tok *t);

typedef enum sp_special {
    SP_SPECIAL_NONE,   /* control tokens such as <|im_end|> in the text are spelled like any other */
    SP_SPECIAL_ALL,    /* they are recognised */
    SP_SPECIAL_GUARDED /* they are, except where sp_tok_guard put its mark */
} sp_special;

/* Appends the ids of text. Never adds begin-of-text: see sp_tok_bos. */
SP_MUST sp_err sp_tok_encode(const sp_tok *t, sp_ids *out, const char *text, size_t n, sp_special special,
                             sp_diag *d);
/* Appends UTF-8 text to out with a mark (byte 0xff, which UTF-8 never holds) inside every control
 * token that stands in it, so that text from outside cannot forge a turn of the conversation. */
void sp_tok_guard(const sp_tok *t, sp_buf *out, const char *text, size_t n);
/* Appends the bytes of one token; control tokens only when special. */
void sp_tok_decode(const sp_tok *t, sp_buf *out, uint32_t id, bool special);
/* The same without copying; control tokens give their text. */
sp_str sp_tok_piece(const sp_tok *t, uint32_t id);

size_t sp_tok_count(const sp_tok *t);
bool sp_tok_is_control(const sp_tok *t, uint32_t id);
bool sp_tok_is_end(const sp_tok *t, uint32_t id); /* ends an answer */
uint32_t sp_tok_bos(const sp_tok *t);      /* SP_TOK_NONE when there is none */
uint32_t sp_tok_eos(const sp_tok *t);
bool sp_tok_adds_bos(const sp_tok *t);     /* prompts start with it */

SP_MUST sp_err sp_ids_push(sp_ids *ids, uint32_t id);
SP_MUST sp_err sp_ids_add(sp_ids *ids, const uint32_t *id, size_t n);
void sp_ids_fini(sp_ids *ids);

#endif
