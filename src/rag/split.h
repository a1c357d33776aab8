/* A text as words that an index can hold and a question can ask for, in any script. ICU says where
 * words of a script without spaces end.
 *
 * Words are NFKC, case-folded, without the marks of Latin, Greek and Cyrillic letters. A word with
 * inner borders has parts too: user_name and userName have user and name; a word of Han, kana,
 * Hangul, Thai, Lao, Khmer or Myanmar has its characters, so that it is found whatever stands
 * beside it.
 * Threads: pure. Errors: SP_NOMEM; whatever `put` says. Text that is not UTF-8 is read with U+FFFD
 * for what is wrong. */
#ifndef SP_RAG_SPLIT_H
#define SP_RAG_SPLIT_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct sp_rag_token {
    const char *whole; /* without inner borders */
    const char *parts; /* a space between two; NULL: it has no inner borders */
    bool as_parts;     /* it stands in the text as its parts: all but camelCase */
    bool is_hiragana, is_hangul; /* all of it */
    size_t n_char;     /* of whole */
} sp_rag_token;

SP_MUST sp_err sp_rag_split(const char *p, size_t n,
                            sp_err (*put)(void *arg, const sp_rag_token *t), void *arg);

/* What an index keeps. text: the words in their order, each between two spaces. parts: the other
 * form of each that has two. */
SP_MUST sp_err sp_rag_split_index(sp_buf *text, sp_buf *parts, const char *p, size_t n);

#endif
