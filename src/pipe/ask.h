/* A request as every protocol asks it: what a codec reads a body into, and what sp_turn_open takes.
 *
 * A codec fills an ask in this order: sp_ask_new, the fields, sp_turn_open. It knows no other
 * codec, and nothing behind the turn. Fields that a protocol does not have stay as sp_ask_new
 * leaves them. All texts lie in the ask's arena, are static, or live as long as the server: the
 * body that was read may be freed.
 *
 * Owner:   the caller, until sp_turn_open takes it; then the turn. Before that sp_ask_free. NULL is
 *          fine.
 * Threads: one at a time. */
#ifndef SP_PIPE_ASK_H
#define SP_PIPE_ASK_H

#include "base/mem.h"
#include "pipe/history.h"
#include "pipe/knowledge.h"
#include "pipe/parts.h"
#include "pipe/plan.h"
#include "pipe/refer.h"

enum {
    SP_ASK_CHOICES = 16, /* answers of one request, at most */
    SP_ASK_ID = 40,      /* bytes of an id, NUL included */
    SP_ASK_FOUND = 6,    /* passages of a search that does not say how many */
    SP_ASK_CLASS = 63,   /* bytes of the name of a class of data */
    SP_ASK_TOOLS = 256,  /* of one request */
    SP_ASK_TOOL_NAME = 128,
    SP_ASK_FLOW = 129    /* bytes of a flow's name, NUL included */
};

/* A prompt without messages: text, or the ids of tokens. */
typedef struct sp_ask_prompt {
    /* not empty: what comes behind the gap that is filled, between it and text; the vocabulary
     * has marks for it */
    sp_str suffix;
    sp_str text;        /* where id is NULL */
    const uint32_t *id; /* [n_id] */
    size_t n_id;
} sp_ask_prompt;

/* A function that the model may call. */
typedef struct sp_ask_tool {
    sp_str name;         /* 1 to SP_ASK_TOOL_NAME of A-Z a-z 0-9 _ . - */
    sp_str description;  /* empty: none */
    sp_str parameters;   /* JSON schema of its arguments, an object; empty: any arguments */
    bool strict;         /* refused where the schema cannot be enforced whole */
} sp_ask_tool;

typedef enum sp_ask_calls {
    SP_CALLS_AUTO,     /* the model calls what it likes, or answers */
    SP_CALLS_NONE,     /* it is told of no tool */
    SP_CALLS_REQUIRED, /* it calls at least one */
    SP_CALLS_NAMED     /* it calls the one that is named, once */
} sp_ask_calls;

enum { SP_DEEP_VOTES = 8 };

/* What is done in the middle of an answer that becomes unsure. */
typedef struct sp_ask_deep {
    bool on;
    bool retrieve;       /* look for passages with the sentence as it stands, once an answer */
    char colls[SP_KNOW_COLLS][SP_RAG_ID]; /* [n_colls] where; n_colls 0: where find or the server
                                             looks */
    size_t n_colls;
    size_t votes;        /* sentences drawn in the place of the unsure one; 0: none */
    size_t budget_tok;   /* tokens computed that the answer does not have, at most */
    sp_doubt_cfg when;
} sp_ask_deep;

typedef struct sp_class_numbers {
    double *of[SP_CLASSES]; /* NULL: nothing is set for the class */
} sp_class_numbers;

/* What a variant of an experiment, or the version in force, sets where a request says nothing.
 * NULL: nothing is set. */
typedef struct sp_settings {
    char *path;                /* auto, light, full or upstream */
    double *epsilon, *keep;    /* as in sp_ask */
    double *full_from, *need_from, *escalate_below; /* as in sp_plan_cfg */
    unsigned *passages;        /* of a search by the server itself */
    unsigned *draft;           /* tokens guessed ahead in a step, at most */
    unsigned *light_tokens;    /* of a light answer whose request sets no limit */
    char *control;             /* off, or safe: the rules of "control": true */
    sp_class_numbers *epsilon_of; /* instead of epsilon, by what intent takes the request for */
    /* numbers of what `sparing improve` trained: a model of intent, a policy, a draft head; 0: that
     * of the options. Versions set them, and nothing else does */
    unsigned *intent, *policy, *head;
    char *search;              /* what searches in documents ask: see sp_search_read */
    char *system;              /* a system message of chats that have none */
    char *template;            /* variables of the chat template, a JSON object */
    char *drafters;            /* who may guess: names by commas */
    unsigned *think_tokens;    /* that a model which thinks may think */
    int *priority;             /* as in sp_ask */
    char *place;               /* of the placement file, before the others that are allowed */
    char *model;               /* that answers where the request names the default one, or none */
} sp_settings;
/* Reads names of drafters, by commas, as bits of sp_plan.drafters. false: one is no drafter. */
bool sp_settings_drafters(unsigned *out, const char *names);

struct sp_turn;

typedef struct sp_ask {
    sp_arena a;
    char id[SP_ASK_ID];   /* of the answer, as the client sees it; see sp_ask_name */
    char tenant[64];      /* from authentication, never from the body */
    const char *data_class; /* of the request, for the placement rules; NULL: it names none */
    char traceparent[56]; /* what goes on to other servers; "": nothing */
    uint64_t begin_ns;    /* when the request came; set by sp_ask_new */
    /* events leave as they come. Else only the end does, and what was begun may be replaced
     * until then. */
    bool stream;

    /* What is asked. Messages (chat), or prompts, each of which gets n answers. */
    bool chat;
    sp_chat_msg *msg;     /* [n_msg]; the turn may put passages before the text of the last one */
    size_t n_msg;
    /* of them, the first ones that stand before a kept conversation, and are not kept in it */
    size_t n_front;
    sp_ask_prompt *prompt; /* [n_prompt] */
    size_t n_prompt;
    size_t n;             /* answers to each, from 1; n * n_prompt <= SP_ASK_CHOICES */
    /* answers that are drawn to each, of which the n likeliest by mean log-probability are kept;
     * 0: n. Not in a stream. */
    size_t n_drawn;
    /* so many tokens at a prompt's end are computed, and those before them are not; 0: all */
    size_t last_tok;

    /* What the prompt holds beside messages */
    sp_ask_tool *tool;    /* [n_tool] names that differ */
    size_t n_tool;
    sp_ask_calls calls;
    size_t named;         /* CALLS_NAMED: index of the tool */
    bool one_call;        /* the model calls one tool at a time */
    bool go_on;           /* the answer goes on with the last message, the assistant's */
    /* the prompt ends with the messages; no turn of the assistant's is opened */
    bool no_turn;
    sp_str kwargs;        /* more variables of the chat template, a JSON object; empty: none */
    sp_str effort;        /* of reasoning, a word of the template's; empty: unset */
    sp_chat_think think;

    /* A conversation that this server keeps: its messages come before those of the request. At most
     * one of the two ids; store without an id begins one. plan.conversation says that any of the
     * three is asked for. */
    const char *conversation, *previous;
    /* The conversation is a tree, and its parts are told apart by ids. message: of the new message,
     * or of the answer where the request has no message (another answer, or the rest of one); NULL:
     * the conversation is a list, and kept when the answer is whole. parent: of the new message, or
     * what is answered, or gone on with where it is an answer; NULL: the leaf; "": there is
     * none. */
    const char *message, *parent;
    /* Writes what an answer rests on, as a JSON object that is kept beside it; NULL: nothing is. */
    void (*sources)(sp_buf *out, const struct sp_turn *t);

    /* Documents. find: a search the request asks for, made with sp_know_op_new, its collections,
     * cap and filter set; the turn writes the query, and owns it from sp_turn_open on. look: no
     * search is asked for, and the server may look by itself. */
    sp_know_op *find;
    bool look;
    bool insist;          /* passages go into the prompt even if they do not bear on the question */
    bool splice;          /* they are computed by themselves and put in place */
    size_t n_near;        /* sentences nearest to the question that stand before it once more */

    sp_ask_deep deep;     /* of chats with one answer; neither forms, calls, rules nor
                             log-probabilities go with it */

    /* The prompt's parts; NULL: it has none. The last message holds their text already
     * (sp_parts_put). */
    sp_parts *parts;
    const char **dense;   /* [n_dense <= SP_DENSE_MAX] texts that attention never leaves out */
    size_t n_dense;

    /* How it is answered */
    sp_plan_ask plan;     /* path, budgets, votes; cap_tok is the turn's */
    /* sampling, stops, log-probabilities; what the plan and this ask decide elsewhere is
     * overwritten */
    sp_session_cfg *session;
    /* share of the attention that may be left out, certified; < 0: the server's */
    double epsilon;
    double keep;          /* share of its pages that a long prompt attends; 0 and 1: all */
    /* what the answer may be, see gen/grammar.h; NULL: anything. Beside tools the answer is calls
     * or this; where a call must come, it is dropped. The ask's own share of it */
    sp_grammar *grammar;
    /* JSON strings, joined by commas: keywords of a schema that the grammar leaves out; NULL:
     * none. For the receipt */
    const char *not_enforced;
    /* what the answer is likely to say, as a source of guesses; empty: nothing is known */
    sp_str prediction;
    /* JSON strings, joined by commas: parameters that were accepted and had no effect; NULL:
     * none. For the receipt */
    const char *ignored;
    /* spans that repeat a source leave as marks (refer.h); not with log-probabilities */
    sp_refer_form refer;
    /* [n_source] texts that the client has; empty: one that cannot be named */
    sp_str *source;
    size_t n_source;
    bool costs;           /* events say what each token cost */
    int64_t seed;         /* < 0: drawn */
    sp_settings set;      /* by experiments and the version in force; borrowed */
    unsigned search[2];   /* as sp_know_op.how, by experiments and the version in force */
    bool ruled;           /* the request says itself what rules prune */
    int priority;         /* -3..3 */
    double deadline_ms;   /* 0: none */
    char flow[SP_ASK_FLOW]; /* who of the tenant asks: requests of a tenant take turns by it; "":
                               one of its own */
    double goal_first_ms, goal_tok_ms; /* the first text, and each token behind it, should come
                                          within so long; 0: nothing is said */
    double least_known;   /* share of the prompt that the cache must hold, else nothing is computed
                             and the answer ends with
                           * SP_FINISH_UNKNOWN; 0: whatever it holds */
    bool if_available;    /* the same if it holds nothing of the prompt, as an error:
                             SP_WHY_UNKNOWN */
} sp_ask;

/* An ask of the tenant with all defaults: one answer, no search, no conversation, greedy sampling,
 * no log-probabilities. NULL: no memory. */
sp_ask *sp_ask_new(const char *tenant);
void sp_ask_free(sp_ask *q);
/* Makes its id: the prefix, "-" unless it ends with "_", and 20 random hexadecimal digits. */
void sp_ask_name(sp_ask *q, const char *prefix);

/* Are these tools what the fields above say? Errors: SP_INVAL names the tool. */
SP_MUST sp_err sp_ask_check_tools(const sp_ask *q, sp_diag *d);

/* Messages with all their texts, in a. There is room for one more behind them. SP_NOMEM. */
SP_MUST sp_err sp_ask_copy(sp_chat_msg **out, sp_arena *a, const sp_chat_msg *msg, size_t n);

#endif
