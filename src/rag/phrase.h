/* Noun phrases of English text, found without a tagger. Two kinds: names, that is words with a
 * capital where no sentence begins, or with a capital or digit inside ("Debian", "write-ahead log
 * of PostgreSQL 15": "PostgreSQL 15"); and the two or three words between an article and the next
 * function word or mark ("the query planner, ..."). Where another article follows directly, the
 * last word was a verb.
 * Threads: pure.
 * Source: candidates between function words are those of RAKE (Rose et al. 2010); the articles
 * around them are ours. */
#ifndef SP_RAG_PHRASE_H
#define SP_RAG_PHRASE_H

#include "base/buf.h"

/* Appends the phrases of p[n], each behind the byte `mark` and NUL-terminated, as long as they end
 * within max_bytes of out. */
void sp_rag_phrases(sp_buf *out, char mark, const char *p, size_t n, size_t max_bytes);

#endif
