/* The terminal: how wide it is, whether it takes colours, and lines that are written over.
 * Threads: one. */
#ifndef SP_CMD_TERM_H
#define SP_CMD_TERM_H

#include "base/buf.h"

#include <stdbool.h>
#include <stdio.h>

/* Is this stream a terminal that takes escapes? */
bool sp_term_is(FILE *to);
/* ... and may there be colours: NO_COLOR is not set. */
bool sp_term_has_color(FILE *to);
/* Columns: the terminal's, else $COLUMNS, else 80; at least 40 and at most 200. */
size_t sp_term_width(FILE *to);
/* Columns that n bytes of a text take: one each character. */
size_t sp_term_columns(const char *s, size_t n);
/* Appends text, broken between words at width columns. The first line begins at column `at`, the
 * others after `indent` spaces. Ends without a newline. */
void sp_term_wrap(sp_buf *out, const char *text, size_t at, size_t indent, size_t width);

#endif
