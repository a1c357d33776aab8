/* What a chat template can take, and the variables made for it; used by chat*.c only. */
#ifndef SP_TEXT_CHAT_INT_H
#define SP_TEXT_CHAT_INT_H

#include "text/calls.h"
#include "text/jinja.h"
#include "text/message.h"

/* What rendering with probes has shown (chat_probe.c). All false: what most templates take. */
typedef struct sp_chat_caps {
    const sp_call_format
        *format;       /* in which calls are written; where a template has none: as it is told to */
    bool no_system;    /* a system message is refused or left out: it is put before the next user's
                          text */
    bool developer;    /* the role developer is one of its own; elsewhere it is called system */
    bool parts;        /* content must be a list of parts */
    bool no_none;      /* without tools the variable must be undefined, not none */
    bool tools;        /* definitions of tools are shown */
    bool calls;        /* calls and their results are shown */
    bool args_text;    /* arguments must be JSON as text, not an object */
    bool null_content; /* a call is shown only where content is null, not "" */
    bool short_ids;    /* ids of calls must have nine letters and digits */
    bool one_call;     /* a message may hold one call: several become messages, each with its result
                          behind it */
    bool split_text;   /* content beside a call is left out: it is given as a message before it */
    bool think_part;   /* reasoning is shown only as a part of content */
    /* reasoning and content beside a call are refused: both are given as reasoning */
    bool one_text;
} sp_chat_caps;

typedef struct sp_chat_words {
    sp_str bos, eos;
} sp_chat_words;

/* Ends a text that goes on (sp_chat_ask.go_on), so that its place in the output can be found. */
#define SP_CHAT_GO_ON "\x01the answer goes on here\x01"

/* The variables of a run, in the arena. Texts of the request are foreign. Errors: SP_INVAL names
 * what is not JSON; SP_NOMEM: the arena is full. */
SP_MUST sp_err sp_chat_vars(sp_jval *out, sp_arena *a, const sp_chat_ask *ask,
                            const sp_chat_caps *caps, const sp_chat_words *w, sp_diag *d);
/* Reads JSON of a kind; what names it in an error (SP_INVAL). steps: see sp_jinja_json. */
SP_MUST sp_err sp_chat_json(sp_jval *out, sp_arena *a, size_t *steps, sp_str json, sp_jkind kind,
                            const char *what, sp_diag *d);
/* The messages as the template takes them: roles that it knows, tools and calls as text where it
 * has none of its own. Errors: as sp_chat_vars. */
SP_MUST sp_err sp_chat_shape(sp_chat_ask *out, sp_arena *a, const sp_chat_ask *ask,
                             const sp_chat_caps *caps, sp_diag *d);
/* Finds out what a template can take, by rendering small conversations. source: its text. */
void sp_chat_probe(sp_chat_caps *out, const sp_jinja *program, sp_str source);

/* Renders one conversation with a template. out is cleared first. Errors: as sp_jinja_run. */
SP_MUST sp_err sp_chat_try(sp_buf *out, const sp_jinja *program, const sp_chat_caps *caps,
                           const sp_chat_ask *ask);
/* The format of calls, in caps, and the marks of thoughts (chat_format.c). Clears caps->calls where
 * calls must be text. */
void sp_chat_choose(sp_chat_caps *caps, sp_think_marks *think, const sp_jinja *program,
                    sp_str source);
/* Where an answer begins behind this end of a prompt. */
sp_answer_at sp_chat_answer_at(const sp_call_format *f, sp_think_marks think, const char *tail,
                               size_t n);

static inline bool sp_chat_is(sp_str s, const char *word)
{
    size_t n = 0;
    while (word[n] && n < s.n && s.p[n] == word[n])
        n++;
    return !word[n] && n == s.n;
}

#endif
