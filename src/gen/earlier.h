/* A drafter that guesses from earlier answers of the same tenant: what followed the longest run of
 * tokens that agrees with the newest ones.
 *
 * The index keeps the newest answers of each tenant in a book of fixed size: a ring of tokens, and
 * chains of the places where three tokens in a row hash alike. A lookup compares the tokens
 * themselves, and only in the book of its own tenant. When the budget is used up, the book of the
 * tenant that has asked least lately goes. Nothing is kept of private answers, nor of answers that
 * ran while something was being forgotten.
 *
 * Owner:   the caller of sp_earlier_new, who frees it when no drafter lives any more.
 * Threads: owner: step thread.
 * Errors:  SP_NOMEM. What cannot be kept is not kept: an answer never fails for it.
 * Source:  Oliaro et al. 2024 (SuffixDecoding: earlier answers as a source of guesses); RFC 1951
 * section 4 (hash chains). */
#ifndef SP_GEN_EARLIER_H
#define SP_GEN_EARLIER_H

#include "gen/draft.h"

/* cap_bytes: of all books; at least one is always allowed. */
SP_MUST sp_err sp_earlier_new(sp_draft_source **out, size_t cap_bytes);
void sp_earlier_free(sp_draft_source *s);
/* Bytes that the books take now. */
size_t sp_earlier_bytes(const sp_draft_source *s);

#endif
