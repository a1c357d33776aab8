/* Structured prompts: a task, the steps to it, what the answer may be, and the context it is about,
 * each a segment of its own.
 *
 * As text:  <task>…</task> <steps>…</steps> <output budget=40>{"choices": ["yes", "no"]}</output>
 * <context life=none>…</context> in any order, each at most once, nothing but space between them; a
 * task there must be. What varies least comes first in the prompt, whatever the order it was
 * written in: task, steps, output, context. So requests that differ in their context share the
 * pages of the rest.
 *   budget   tokens it may have; of output: tokens of the answer
 *   life     keep (the default), or none: what is computed from this part on leaves memory with the
 *            request
 *   epsilon  share of the attention that may leave this part out, certified; 0: never left out Text
 *            that is not trusted belongs into a context that was not written as text: </context> in
 *            it ends the part.
 * Owner: strings live in the caller's arena or borrow. Threads: pure. Errors: SP_INVAL names the
 * part and the byte. */
#ifndef SP_PIPE_PARTS_H
#define SP_PIPE_PARTS_H

#include "pipe/prompt.h"

typedef enum sp_part_kind {
    SP_PART_TASK,
    SP_PART_STEPS,
    SP_PART_OUTPUT,
    SP_PART_CONTEXT,
    SP_PARTS
} sp_part_kind;

typedef struct sp_part {
    sp_str text;      /* n 0: there is none */
    size_t budget;    /* 0: none */
    double epsilon;   /* < 0: that of the request */
    bool is_private;  /* life none */
    size_t first, end; /* tokens of the prompt, after sp_parts_find */
} sp_part;

typedef struct sp_parts {
    sp_part part[SP_PARTS];
} sp_parts;

const char *sp_part_name(sp_part_kind kind);
/* text [n]: borrowed. */
SP_MUST sp_err sp_parts_read(sp_parts *out, const char *text, size_t n, sp_diag *d);
/* One attribute, as in text. */
SP_MUST sp_err sp_part_set(sp_part *p, const char *part, sp_str name, sp_str value, sp_diag *d);
/* The message of the prompt. output: how the output part reads to the model. */
void sp_parts_put(sp_buf *out, const sp_parts *p, sp_str output);
/* Where the parts stand in the prompt. SP_INVAL: one has more tokens than its budget. */
SP_MUST sp_err sp_parts_find(sp_parts *p, const sp_context *ctx, const sp_tok *t, sp_diag *d);

#endif
