/* Conversations for the surfaces: one thread that owns the database, and operations handed to it.
 *
 * A turn is two operations: PREPARE gives the messages of the prompt (the conversation so far, as
 * much as fits, then the new messages), SAVE keeps the new messages and the answer. When the
 * conversation is longer than the context, old turns leave in large steps, so that the prompt's
 * front stays the same for many turns and its pages are found again; what of them bears on the
 * question is recalled by words and vectors and put before it, with role and date.
 *
 * Threads: everything here from any thread.
 * Errors:  in the operation's diag: SP_NOTFOUND, SP_INVAL, SP_IO; SP_AGAIN while PostgreSQL is
 *          away. */
#ifndef SP_PIPE_HISTORY_H
#define SP_PIPE_HISTORY_H

#include "pipe/desk.h"
#include "pipe/history_db.h"
#include "sched/engine.h"

typedef struct sp_history sp_history;
struct sp_models;
struct sp_served;
struct sp_feedback;
struct sp_turn_env;

typedef struct sp_history_cfg {
    const char *path;         /* of the SQLite file, or postgresql://… */
    int64_t lease_s;          /* in PostgreSQL: so long the others wait for this server's answers */
    sp_engine *engine;        /* for vectors; borrowed */
    struct sp_models *models; /* whose pages are forgotten; borrowed */
    const sp_tok *vocab;       /* NULL: no vectors, words only */
    bool is_default;          /* nobody chose the file: vectors of another encoder are left alone */
    /* models differ: each turn counts what is kept with its own vocabulary */
    bool recount;
    const sp_kv_cold *cold;   /* NULL: frozen text stays in the file */
    int64_t cold_after_s;     /* a conversation not touched for so long is frozen; 0: never */
    struct sp_feedback *feedback; /* what belongs to a conversation goes there, too; NULL: none is
                                     kept */
    sp_metrics *metrics;
} sp_history_cfg;

typedef enum sp_history_kind {
    SP_HISTORY_CREATE, /* msg: first items; metadata */
    SP_HISTORY_GET,
    SP_HISTORY_LIST,   /* query (NULL: all), after, cap: convs */
    SP_HISTORY_CHANGE, /* patch; lost: its leaf is not there */
    /* the conversation and its pages in every tier; with grace_s, after so many seconds; with
     * message, that alone, and the pages of the conversation */
    SP_HISTORY_DELETE,
    /* what was deleted with a grace that is not over: the conversation, or message */
    SP_HISTORY_RESTORE,
    SP_HISTORY_EXPORT, /* conv ("": all), markdown: file */
    SP_HISTORY_IMPORT, /* json: file says what came */
    SP_HISTORY_FORGET, /* everything of the tenant */
    SP_HISTORY_ITEMS,
    SP_HISTORY_PATH,    /* path: items, and more */
    SP_HISTORY_ADD,     /* msg */
    SP_HISTORY_SEARCH,  /* query, cap */
    /* conv, or previous, or neither (a new one); msg, budget. With message, as sp_ask has it (and
     * parent, if has_parent): the question and an answer in the making are in the file before
     * anything is told */
    SP_HISTORY_PREPARE,
    SP_HISTORY_SAVE,    /* conv, response, msg: new messages and the answer */
    SP_HISTORY_DRAFT,   /* of what begun began: text as far as it is */
    SP_HISTORY_FINISH,  /* likewise: msg[0] as far as it came, status, receipt, sources, reason */
    /* response: its conversation, and the items up to its end; the last one is the answer; object,
     * if it was kept */
    SP_HISTORY_RESPONSE,
    SP_HISTORY_OBJECT,   /* response, object: what the client was answered with is kept beside it */
    /* response: it is forgotten; with the last response of a conversation that one began, the
     * conversation too */
    SP_HISTORY_DROP
} sp_history_kind;

typedef struct sp_history_op {
    sp_op op;
    sp_history_kind kind;
    char tenant[64];
    char conv[SP_ID_BYTES]; /* in, or out for CREATE and PREPARE */
    char previous[SP_ID_BYTES], response[SP_ID_BYTES];
    char message[SP_ID_BYTES], after[SP_ID_BYTES]; /* "": none */
    int64_t grace_s;
    bool markdown;
    struct json_t *json;    /* IMPORT: owned */
    sp_buf file;
    char parent[SP_ID_BYTES], answer[SP_ID_BYTES]; /* of PREPARE; answer: out */
    bool has_parent;
    struct sp_history_op *begun; /* DRAFT, FINISH: the PREPARE, whose share they take */
    sp_str text;
    sp_hdb_status status;
    sp_str receipt, sources, reason; /* JSON objects and words, in op.a; n 0: none */
    const char *metadata, *query; /* these and below in op.a */
    sp_hdb_patch patch;
    sp_hdb_path_args path;
    sp_chat_msg *msg;       /* in: new messages; out of PREPARE: the prompt's */
    size_t n_msg;
    size_t n_front;         /* PREPARE: of msg, those that stand before the conversation */
    sp_str object;          /* in and out: JSON; out: empty where none was kept */
    size_t budget;          /* PREPARE: tokens the prompt may have */
    size_t cap;
    struct sp_models *models; /* with on */
    struct sp_served *on;   /* set by sp_history_count_with: in use until the operation is gone */
    const char *model;      /* likewise: its name, which is kept with an answer; NULL: none is */
    const sp_tok *tok;      /* likewise; NULL: tokens are guessed */
    /* out */
    bool repeated;          /* SP_INVAL of PREPARE: it was asked before; item[0] is the answer */
    bool is_begun;          /* PREPARE: the answer is in the file */
    bool go_on;             /* likewise: the prompt ends with what the answer goes on with: */
    sp_str said;            /* that */
    /* the last message of the user's, before what is recalled went into it */
    sp_str question;
    /* SP_NOTFOUND: the conversation is there, and not the message that is named in it */
    bool lost;
    const char *cursor;     /* PATH, with lost: the parameter that names it */
    bool more;
    /* PATH: for each item that has some, its parent's children as JSON strings, each list ended by
     * NUL */
    sp_buf siblings;
    sp_hdb_conv *convs;     /* [n_convs] */
    size_t n_convs;
    sp_hdb_conv info;
    /* ITEMS, PATH, SEARCH, CREATE, ADD, RESPONSE; PREPARE: what was recalled */
    sp_hdb_item *item;
    size_t n_item, n_page;  /* n_page, n_conv: removed */
    size_t n_conv;
    double ms_vector;       /* of op.ms, the question's vector */
} sp_history_op;

SP_MUST sp_err sp_history_open(sp_history **out, const sp_history_cfg *cfg, sp_diag *d);
/* Finishes what was submitted. */
void sp_history_close(sp_history *h);

/* An item as the message it was, in a. SP_NOMEM. */
SP_MUST sp_err sp_history_message(sp_chat_msg *out, sp_arena *a, const sp_hdb_item *item);

/* Name of the model that gave an answer, in a; NULL: it is not known, or is none. */
const char *sp_history_model(sp_arena *a, const sp_hdb_item *item);

/* An operation of the tenant, to be filled. NULL: no memory. */
sp_history_op *sp_history_op_new(sp_history *h, sp_history_kind kind, const char *tenant);
/* Before it is submitted: its tokens are those of this model. */
void sp_history_count_with(sp_history_op *op, const struct sp_turn_env *env);

#endif
