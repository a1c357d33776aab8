/* Lines that a person types: with editing, history and completion on a terminal (libedit), plain
 * from anywhere else. Threads: one. Owner: sp_line. */
#ifndef SP_CMD_LINE_H
#define SP_CMD_LINE_H

#include "base/buf.h"
#include "base/err.h"

typedef struct sp_line sp_line;

typedef struct sp_line_cfg {
    const char *history;      /* file of what was typed before, mode 0600; NULL: none is kept */
    const char *const *words; /* [n_word] that Tab completes at the beginning of a line */
    size_t n_word;
} sp_line_cfg;

typedef enum sp_line_got { SP_LINE_TEXT, SP_LINE_INTERRUPT, SP_LINE_END } sp_line_got;

SP_MUST sp_err sp_line_open(sp_line **out, const sp_line_cfg *cfg, sp_diag *d);
void sp_line_close(sp_line *l); /* NULL is fine; writes the history */
bool sp_line_is_terminal(const sp_line *l);
/* One line without its end into *out, which is cleared before; borrowed until the next call. */
sp_line_got sp_line_read(sp_line *l, const char *prompt, sp_buf *out);
/* What was typed comes back with arrow up. */
void sp_line_remember(sp_line *l, const char *text);

#endif
