/* The terminal: how wide it is, whether it takes colours, and lines that are written over.
 * Threads: one. */
#ifndef SP_CMD_TERM_H
#define SP_CMD_TERM_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>
#include <stdio.h>

enum { SP_TERM_COPY = 74994 /* 99,992 of base64: several terminals stop at 100,000 */ };

/* Is this stream a terminal that takes escapes? */
bool sp_term_is(FILE *to);
/* ... and may there be colours: NO_COLOR is not set; with CLICOLOR_FORCE in other streams, too. */
bool sp_term_has_color(FILE *to);
/* when: auto (as the two variables say), always or never, for this process and what it starts: the
 * choice is written into the two variables. Called before there are threads. Errors: SP_NOMEM. */
SP_MUST sp_err sp_term_choose_color(const char *when, sp_diag *d);
/* Asks a terminal to put n bytes of text into its clipboard (OSC 52). It does not answer, and some
 * do not obey. Errors: SP_UNSUP: it is no terminal; SP_LIMIT: more than SP_TERM_COPY; SP_IO,
 * SP_NOMEM. Source: XTerm Control Sequences, "Operating System Commands". */
SP_MUST sp_err sp_term_copy(FILE *to, const char *text, size_t n, sp_diag *d);
/* Columns: the terminal's, else $COLUMNS, else 80; at least 40 and at most 200. */
size_t sp_term_width(FILE *to);
/* Columns that n bytes of a text take: one each character. */
size_t sp_term_columns(const char *s, size_t n);
/* ", 12 s left" of work that began at since_ns and is done by `done` of `all`; nothing in its first
 * second, and when it is done. */
void sp_term_put_left(FILE *to, uint64_t since_ns, size_t done, size_t all);
/* Appends text, broken between words at width columns. The first line begins at column `at`, the
 * others after `indent` spaces. Ends without a newline. */
void sp_term_wrap(sp_buf *out, const char *text, size_t at, size_t indent, size_t width);

#endif
