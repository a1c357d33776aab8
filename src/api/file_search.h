/* The tool file_search of a chat: reading it, and what an answer says about the passages that were
 * in its prompt.
 * Threads: pure. Errors: SP_INVAL and SP_UNSUP for what the tool asks. */
#ifndef SP_API_FILE_SEARCH_H
#define SP_API_FILE_SEARCH_H

#include "pipe/ask.h"
#include "pipe/passages.h"

/* The search that a tool of type file_search asks for, as ask->find: {"vector_store_ids": […],
 * "max_num_results": 6, "filters": …}. know NULL: SP_UNSUP. */
SP_MUST sp_err sp_api_file_search(sp_ask *ask, sp_know *know, const json_t *tool, sp_diag *d);
/* The members of one citation of an answer; positions are in characters. */
void sp_api_citation(sp_buf *out, const sp_buf *text, const sp_rag_hit *hit, const sp_citation *c);
/* Characters of n bytes of UTF-8. */
size_t sp_api_characters(const char *p, size_t n);
/* "annotations": […], n citations of an answer; positions are in characters. */
void sp_api_annotations(sp_buf *out, const sp_buf *text, const sp_rag_hit *hit,
                        const sp_citation *cite, size_t n);
/* ,"retrieved": […],"facts": […]: passages and facts in their order in the prompt. */
void sp_api_retrieved(sp_buf *out, const sp_rag_hit *hit, size_t n_hit, const sp_rag_fact *fact,
                      size_t n_fact);
/* ,"search": {…}: how many passages were found, which did not fit into the prompt, and in words
 * what the client should know: that nothing was found, or that something was left out.
 * op->hit[n_hit, n_hit + n_left) did not fit. */
void sp_api_search(sp_buf *out, const sp_know_op *op, size_t n_hit, size_t n_fact, size_t n_left);

#endif
