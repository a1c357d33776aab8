/* Passages in a prompt, and citations of them in an answer.
 *
 * Passages come before the question, in the order of the collection whatever their rank: questions
 * that find the same ones share a prefix. They are quoted: none of their text is read as a token of
 * the chat template (see sp_prompt_chat), and a fence in a passage is defused.
 * Threads: pure. */
#ifndef SP_PIPE_PASSAGES_H
#define SP_PIPE_PASSAGES_H

#include "pipe/prompt.h"
#include "rag/store.h"

enum { SP_PASSAGES_NEAR = 1 }; /* n_near where nobody says otherwise */

/* Keeps the best hits (they come best first) that fit n_tok tokens together with the n_near <=
 * SP_RAG_NEAR nearest sentences, in the order of their rows. Returns how many; the others come
 * behind them, best first. */
size_t sp_passages_pick(sp_rag_hit *hit, size_t n, size_t n_near, const sp_tok *tok, size_t n_tok);
/* Does any hit bear on the question? Without vectors: was any found by words? */
bool sp_passages_bear(const sp_rag_hit *hit, size_t n);
/* The message of a question about them and about facts; the n_near sentences nearest to the
 * question stand before it once more. */
void sp_passages_put(sp_buf *out, const sp_rag_hit *hit, size_t n, size_t n_near,
                     const sp_rag_fact *fact, size_t n_fact, const char *question,
                     size_t n_question);

/* Says of the prompt which tokens are passages that can be computed by themselves, each behind the
 * same beginning, and put in place: then a passage read once costs no prefill again, but has not
 * seen those before it, but some that are made up. The first one has none before it. cap_tok:
 * tokens there is room for beside the prompt; a passage that needs more by itself is computed like
 * the rest.
 * Source: CacheBlend (Yao et al. 2024). What was measured, recomputing included:
 * docs/RETRIEVAL.md. */
SP_MUST sp_err sp_passages_splice(sp_context *ctx, const sp_rag_hit *hit, size_t n,
                                  const sp_tok *tok, const sp_chat *chat, size_t cap_tok,
                                  sp_diag *d);

typedef struct sp_citation {
    size_t first, end;  /* bytes of the answer: a sentence */
    size_t hit;         /* index */
    size_t quote, n_quote; /* bytes of the hit's text: the sentence, or line, that says the same */
    double share;       /* of the answer's words that the quote holds */
} sp_citation;

enum { SP_CITATIONS = 32 };

/* For each sentence of the answer the passage that supports it, if one holds most of its words and
 * all of its numbers. */
size_t sp_passages_cite(sp_citation out[SP_CITATIONS], const char *answer, size_t n_answer,
                        const sp_rag_hit *hit, size_t n);

#endif
