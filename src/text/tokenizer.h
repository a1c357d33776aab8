/* Tokenizers read from GGUF: byte-level BPE and BPE on UTF-8 (models gpt2, gemma4), SentencePiece
 * BPE (llama), unigram (t5) and WordPiece (bert).
 *
 * Guarantees, for every kind and every text:
 * 1. Text never becomes a control token, unless the caller asks for special tokens. A token counts
 *    as control by its type in the file or by its name (tok_roles.c); a vocabulary may also hold an
 *    unknown token, which stands for characters that it cannot spell.
 * 2. decode(encode(text)) == text where the kind keeps all bytes (gpt2, gemma4, llama with byte
 *    tokens and without remove_extra_whitespaces). t5 and bert normalise the text. A gpt2
 *    vocabulary without a token for some byte reads U+FFFD for the characters that need it.
 * 3. Time is linear in the text for gpt2 and bert, text x longest token for t5, and n log n in the
 *    longest stretch that tokens may span for llama and gemma4.
 *
 * Special tokens are found leftmost first, the longest at a place. User-defined tokens are text:
 * they are always found.
 *
 * Owner:   sp_tok borrows the GGUF until close; ids belong to the caller.
 * Threads: immutable after open; encode and decode are pure.
 * Source:  Sennrich et al. 2016 (BPE); Kudo & Richardson 2018 (SentencePiece); Kudo 2018 (unigram);
 *          Devlin et al. 2019 (WordPiece). Names, flags and defaults are llama.cpp's. */
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
/* Texts end with EOS, where there is one, though the file does not say so. Before the tokenizer is
 * shared. */
void sp_tok_add_eos(sp_tok *t);

typedef enum sp_special {
    SP_SPECIAL_NONE, /* control tokens such as <|im_end|> in the text are spelled like any other */
    SP_SPECIAL_ALL   /* they are recognised */
} sp_special;

/* Appends the ids of text. Never adds begin-of-text or a closing token: see sp_tok_bos,
 * sp_tok_closing.
 * Errors: SP_INVAL when the vocabulary can spell neither a character nor its substitute. */
SP_MUST sp_err sp_tok_encode(const sp_tok *t, sp_ids *out, const char *text, size_t n,
                             sp_special special, sp_diag *d);

/* Appends a whole text as an encoder reads it: begin mark, ids, closing mark, as far as the
 * vocabulary has them. cap > 0: out has at most cap ids then, the text's beginning stands for the
 * whole. Errors: as sp_tok_encode. */
SP_MUST sp_err sp_tok_encode_whole(const sp_tok *t, sp_ids *out, size_t cap, const char *text,
                                   size_t n, sp_diag *d);

typedef struct sp_tok_range {
    size_t at, end; /* bytes [at, end) of a text */
} sp_tok_range;

/* The same for a text that is partly foreign, such as a chat template's output with a user's words
 * in it. A control token is recognised only where none of its bytes is foreign; the foreign text is
 * encoded unaltered.
 *   foreign  sorted by place, not overlapping; may lie beyond the text
 * Errors: SP_INVAL also when foreign is out of order. */
SP_MUST sp_err sp_tok_encode_marked(const sp_tok *t, sp_ids *out, const char *text, size_t n,
                                    const sp_tok_range *foreign, size_t n_foreign, sp_diag *d);

/* Appends the bytes of one token; control tokens only when special. A token may hold a part of a
 * character: sp_utf8_tail says how many bytes at the end of out are to be held back. */
void sp_tok_decode(const sp_tok *t, sp_buf *out, uint32_t id, bool special);
/* The same for a token that follows `prev` (SP_TOK_NONE: it begins a text). Leaves out the space
 * that encoding puts before a text and behind a special token, if this kind does. */
void sp_tok_decode_after(const sp_tok *t, sp_buf *out, uint32_t prev, uint32_t id, bool special);
/* The marks of a model that fills in: before the text that comes first, before the text that comes
 * behind the gap, and behind both. false: the vocabulary has none. */
bool sp_tok_fim(const sp_tok *t, uint32_t mark[3]);
/* The bytes of a token without copying; control tokens give their text. */
sp_str sp_tok_piece(const sp_tok *t, uint32_t id);

size_t sp_tok_count(const sp_tok *t);
bool sp_tok_is_control(const sp_tok *t, uint32_t id); /* the unknown token too */
bool sp_tok_is_end(const sp_tok *t, uint32_t id); /* ends an answer */
uint32_t sp_tok_bos(const sp_tok *t);      /* SP_TOK_NONE when there is none */
uint32_t sp_tok_eos(const sp_tok *t);
uint32_t sp_tok_unknown(const sp_tok *t);  /* SP_TOK_NONE when there is none */
bool sp_tok_adds_bos(const sp_tok *t);     /* prompts start with it */
/* what ends a whole text (EOS or SEP); often SP_TOK_NONE */
uint32_t sp_tok_closing(const sp_tok *t);

SP_MUST sp_err sp_ids_push(sp_ids *ids, uint32_t id);
SP_MUST sp_err sp_ids_add(sp_ids *ids, const uint32_t *id, size_t n);
void sp_ids_fini(sp_ids *ids);

#endif
