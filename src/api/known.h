/* Parameters of other servers' and of OpenAI's API that this server knows and does not honour. Each
 * request has three lists of names:
 *   honoured   rows of the endpoint's own table (params.h);
 *   known      sp_known_*: a value that can change no answer is accepted and named in the receipt
 *              (`ignored`); a parameter that could
 *              change the answer is accepted only with a value that asks for what this server does
 *              anyway, and refused by name otherwise;
 *   unknown    refused by name; with --lenient accepted and named in the receipt.
 * Null means absent, whatever the name.
 * Threads: pure; lists are immutable. */
#ifndef SP_API_KNOWN_H
#define SP_API_KNOWN_H

#include "api/params.h"

typedef struct sp_known {
    const char *name;
    /* JSON list of the values that ask for what happens anyway; NULL: any value, for none can
     * change an answer */
    const char *neutral;
    const char *why;     /* why another value is refused; NULL: "is not supported" */
} sp_known;

/* How names that are no row of a table are judged. */
typedef struct sp_lists {
    const sp_known *known; /* ends with a row without a name */
    bool lenient;
    /* JSON strings, joined by commas: names that were accepted and had no effect, each once;
     * bounded; NULL: not noted */
    sp_buf *ignored;
    const char *where;     /* goes before each of these names: "", "messages[]." */
} sp_lists;

/* Of a body of /v1/responses, its text, reasoning, and items of its input. */
extern const sp_known sp_known_response[], sp_known_response_text[], sp_known_response_reasoning[],
    sp_known_response_item[];
/* Of a body of /v1/chat/completions and /v1/completions; of their stream_options, messages and
 * tools, and of /v1/embeddings. */
extern const sp_known sp_known_completion[], sp_known_stream[], sp_known_message[],
    sp_known_embedding[], sp_known_tool[];

/* sp_params_read with lists for the names that are not in the table. */
SP_MUST sp_err sp_known_read(const json_t *obj, const sp_param *table, size_t n,
                             const sp_lists *lists, const char **bad, sp_diag *d);
/* Notes a name as one that had no effect. */
void sp_known_ignore(const sp_lists *lists, const char *name);

#endif
