/* A conversation with a model in this process: `run` and `chat` stand on it.
 * Threads: one. Owner: sp_talk owns its messages until sp_talk_close. */
#ifndef SP_CMD_TALK_H
#define SP_CMD_TALK_H

#include "cmd/trial.h"

enum { SP_TALK_TURNS = 1024, SP_TALK_INPUT = 16 << 20 /* bytes of a question with its files */ };

typedef struct sp_talk {
    const sp_opts *o;
    sp_loaded l;
    sp_metrics *metrics;
    sp_cmd_drafter drafters;
    sp_engine *engine;
    sp_turn_env env;
    sp_chat_msg msg[SP_TALK_TURNS];
    char *owned[SP_TALK_TURNS];
    size_t n_msg;
    bool quiet;
    /* docs.know NULL: no documents are asked. They outlive the model, so device and metrics are
     * their own. */
    sp_dev *text_dev;
    sp_metrics *text_metrics;
    sp_documents docs;
    char retrieve[128];
} sp_talk;

/* What an answer came to. The texts are the caller's to free with sp_talk_done. */
typedef struct sp_talk_answer {
    sp_buf text;
    sp_buf sources; /* JSON objects by commas: file, place, quote */
    sp_buf places;  /* the same for readers, a line each */
    sp_receipt receipt;
    sp_turn_usage usage;
    sp_finish finish;
    bool looked; /* documents were asked */
    double ms;
} sp_talk_answer;

/* Loads a model (NULL: that of the options) and begins; out is zeroed. Errors: what loading
 * says. */
SP_MUST sp_err sp_talk_open(sp_talk *t, const sp_opts *o, const char *model, sp_diag *d);
void sp_talk_close(sp_talk *t);
/* Another model; the conversation stays. On an error the old one goes on. */
SP_MUST sp_err sp_talk_change(sp_talk *t, const char *model, sp_diag *d);
/* Answers look into this collection of --knowledge; NULL: no more.
 * Errors: SP_NOTFOUND: there is no such file or collection. */
SP_MUST sp_err sp_talk_look(sp_talk *t, const char *collection, sp_diag *d);
SP_MUST sp_err sp_talk_say(sp_talk *t, const char *role, const char *text, size_t n, sp_diag *d);
/* The system message, which is the first one; "": none. */
SP_MUST sp_err sp_talk_set_system(sp_talk *t, const char *text, sp_diag *d);
const char *sp_talk_system(const sp_talk *t); /* "": none */
/* Only the first n messages stay. */
void sp_talk_keep(sp_talk *t, size_t n);
/* Answers the last message, to stdout where `shown`; Ctrl-C ends it. *a is zeroed before. */
SP_MUST sp_err sp_talk_answer_last(sp_talk *t, sp_talk_answer *a, bool shown, sp_diag *d);
void sp_talk_done(sp_talk_answer *a);
/* Where the answer comes from, to stderr; nothing where no documents were asked. */
void sp_talk_put_places(const sp_talk_answer *a);
/* Appends a file to a question, after its name. Errors: SP_FORMAT: it is no text. */
SP_MUST sp_err sp_talk_add_file(sp_buf *question, const char *path, sp_diag *d);

const char *sp_talk_finish_name(sp_finish f); /* as the API says it */
/* From now on Ctrl-C sets a mark instead of ending the program. */
void sp_talk_catch_interrupt(void);
bool sp_talk_was_interrupted(void);
void sp_talk_forget_interrupt(void);

#endif
