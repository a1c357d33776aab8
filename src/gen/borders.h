/* Where the messages of a prompt begin, as far as its tokens say: at the first of neighbouring
 * control tokens. Templates write such tokens around messages; texts of users do not contain
 * them. */
#ifndef SP_GEN_BORDERS_H
#define SP_GEN_BORDERS_H

#include "text/tokenizer.h"

/* *out: [*n_out] positions, ascending, the caller's to free with sp_mem_free; NULL where there are
 * none. */
SP_MUST sp_err sp_borders_find(size_t **out, size_t *n_out, const sp_tok *t, const uint32_t *tok,
                               size_t n);

#endif
