/* Words of a text, as search, phrases and citations tell them. English, without a tagger.
 * Threads: pure. */
#ifndef SP_RAG_WORD_H
#define SP_RAG_WORD_H

#include <stdbool.h>
#include <stddef.h>

/* A byte of a word: letters, digits, _ and whatever is not ASCII. */
bool sp_rag_is_letter(char c);
/* Is p[n], in lower case, among the words of the list? Each of these stands between spaces. */
bool sp_rag_is_in(const char *list, const char *p, size_t n);
/* A word that says little: left out of a search as long as others remain. */
bool sp_rag_is_common(const char *p, size_t n);

#endif
