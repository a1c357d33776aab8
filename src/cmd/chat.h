/* What the parts of `sparing chat` share. Threads: one. */
#ifndef SP_CMD_CHAT_H
#define SP_CMD_CHAT_H

#include "cmd/line.h"
#include "cmd/talk.h"

typedef struct sp_repl {
    sp_talk *t;
    sp_line *line;
    sp_buf files;        /* texts of /files, for the next question */
    sp_buf receipt;      /* of the last answer, JSON; empty: there is none */
    char history[1024];  /* file of what was typed */
    int code;            /* exit code of the last question */
    bool is_over, again; /* /quit; /again: the last question is to be answered once more */
} sp_repl;

/* Names of the commands, each with its slash. */
size_t sp_repl_words(const char *const **out);
/* Does what a line that begins with a slash says. Errors: what was wrong; the talk goes on. */
SP_MUST sp_err sp_repl_command(sp_repl *r, const char *line, sp_diag *d);

/* A file of $XDG_STATE_HOME/sparing (~/.local/state without it), whose folder is made, 0700. */
SP_MUST sp_err sp_repl_state_path(char *out, size_t cap, const char *name, sp_diag *d);
/* A conversation as JSON, mode 0600, and back. name: letters, digits, `-`, `_` and `.`. */
SP_MUST sp_err sp_repl_save(const sp_talk *t, const char *name, sp_diag *d);
SP_MUST sp_err sp_repl_load(sp_talk *t, const char *name, sp_diag *d);

#endif
