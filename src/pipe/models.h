/* Which models this server has, under which names, and which of them are in memory.
 *
 * Every known model has one name. A model is brought into memory when somebody asks for it, and
 * leaves when its memory is needed and it was used least recently, when it was not used for as long
 * as it is kept, or when it is told to. While a model is in use it stays: what runs is finished
 * first. A model that is to leave takes no new request; those wait for it to come back.
 *
 *   sp_models_use      the model, in use until sp_models_done; SP_AGAIN: it is not in memory,
 *                      sp_models_bring brings it
 *   sp_models_bring    an operation; when it is done, sp_models_use again
 *
 * How a model is opened and closed is the opener's (cmd): this file knows no file formats.
 *
 * Owner:   the registry owns its slots and, through the opener, what is in memory.
 * Threads: everything here from any; the opener on the registry's one thread, but for look, forget
 * and pull.
 * Errors:  SP_NOTFOUND: no model of that name. Of loading: what the opener says, SP_NOMEM where it
 *          can never fit. */
#ifndef SP_PIPE_MODELS_H
#define SP_PIPE_MODELS_H

#include "fmt/gguf.h"
#include "kv/tier.h"
#include "model/encoder.h"
#include "pipe/desk.h"
#include "pipe/turn.h"

enum { SP_MODEL_NAME = 128, SP_MODELS = 256 /* known ones, at most */, SP_MODEL_WHY = 1024 };

typedef struct sp_models sp_models;

/* A model in memory: what answers, and what is said of it. Immutable while it is there. */
typedef struct sp_served {
    sp_turn_env env;          /* env.name: its own name */
    sp_encoder *encoder;      /* NULL: it writes answers; else of env only name, models and served
                                 are set */
    size_t bytes;             /* what it takes, where that is known better than before; 0: as it was
                                 measured */
    sp_str template;          /* its chat template; empty: it has none */
    char fingerprint[24];     /* of its file, as answers have it */
    sp_sha256 id;             /* of its weights and keys, see model/identity.c */
    const sp_gguf *file;
    sp_kv_tier *tier;         /* NULL: its pages are in RAM only */
    double load_ms;
    void *own;                /* the opener's */
} sp_served;

/* What is known of a model without loading it. */
typedef struct sp_model_facts {
    char arch[32], type[16];  /* type: of most of its weights */
    size_t file_bytes;
    size_t least_bytes;       /* of the weights, what must be in memory: without experts */
    size_t n_weight, n_ctx, n_embd, n_layer, n_head, n_head_kv;
    bool is_encoder, is_ranker, has_chat, has_thoughts;
    bool is_folder;           /* of safetensors: an encoder's */
    size_t n_dim, encoder_bytes; /* of an encoder: numbers of a vector; what it takes in memory */
    char why[SP_MODEL_WHY];   /* why the file cannot be read; "": it can */
} sp_model_facts;

/* How far a pull has come. false: stop. */
typedef bool sp_models_watch(void *arg, const char *file, uint64_t done, uint64_t total);

typedef struct sp_models_opener {
    /* Reads the file's head. Never fails: what is wrong is facts.why. */
    void (*look)(void *arg, sp_model_facts *out, const char *path);
    /* Memory that the model takes with its pages, and of that for pages, if it has all of
     * cap_bytes. On failure why holds all reasons. f: as look has filled it. */
    sp_err (*measure)(void *arg, size_t *need, size_t *kv_bytes, const char *path,
                      const sp_model_facts *f, size_t cap_bytes, char why[SP_MODEL_WHY],
                      sp_diag *d);
    sp_err (*open)(void *arg, sp_served **out, const char *name, const char *path,
                   const sp_model_facts *f, size_t kv_bytes, sp_diag *d);
    void (*close)(void *arg, sp_served *s);
    /* Deletes stored pages of a model that is not in memory. */
    sp_err (*forget)(void *arg, const char *name, sp_kv_forget *f, sp_diag *d);
    /* Fetches a model and makes it known (sp_models_add), on a thread of its own. NULL: models are
     * not fetched. */
    sp_err (*pull)(void *arg, const char *what, sp_models_watch *watch, void *watch_arg,
                   sp_diag *d);
    void *arg;
} sp_models_opener;

typedef struct sp_models_cfg {
    sp_models_opener opener;
    size_t cap_bytes;   /* for all models together, and what stands beside them */
    double keep_s;      /* a model that was not used for so long leaves; < 0: it stays */
    double wait_s;      /* how long a request waits for a model */
    bool is_list;       /* several are served: clients may choose, bring and send away */
    const char *const *aliases; /* "NAME=MODEL", NULL-terminated; borrowed */
    sp_metrics *metrics;
} sp_models_cfg;

SP_MUST sp_err sp_models_new(sp_models **out, const sp_models_cfg *cfg, sp_diag *d);
/* Every use must be done. Closes what is in memory. NULL is fine. */
void sp_models_free(sp_models *m);
const sp_models_cfg *sp_models_config(const sp_models *m);
/* What was brought stays for good, in use until sp_models_done: an encoder that searches need. The
 * others have the rest of cap_bytes. Before any of them is brought. SP_NOMEM: it leaves nothing. */
SP_MUST sp_err sp_models_hold(sp_served **out, sp_models *m, const char *name, sp_diag *d);
size_t sp_models_room(const sp_models *m); /* for those that come and go; SIZE_MAX: nobody counts */
/* Makes a model known. The first one is meant where a request names none, if sp_models_set_default
 * says nothing else.
 * Errors: SP_INVAL: another one has this name, or the same to clients. SP_LIMIT. */
SP_MUST sp_err sp_models_add(sp_models *m, const char *name, const char *path, sp_diag *d);
bool sp_models_has_path(sp_models *m, const char *path);
/* The model of requests that name none; NULL: they must name one. */
void sp_models_set_default(sp_models *m, const char *name);

/* --- names
 * -------------------------------------------------------------------------------------- */

/* Do the two name the same? Without regard to case, to .gguf at the end, and to the tag :latest. */
bool sp_model_same_name(const char *a, const char *b);
/* The name that an alias stands for, else the one asked for. */
const char *sp_models_real_name(const sp_models *m, const char *asked);
/* The model's own name; NULL: there is none. asked NULL: the default. */
const char *sp_models_find(sp_models *m, const char *asked);
/* Does the model of this own name make vectors or scores, as its file says? */
bool sp_models_is_encoder(sp_models *m, const char *name);
bool sp_models_stays(sp_models *m, const char *name); /* sp_models_hold holds it */

/* --- use
 * ---------------------------------------------------------------------------------------- */

/* name: its own name, as sp_models_find says. SP_AGAIN: it is not in memory. */
SP_MUST sp_err sp_models_use(sp_served **out, sp_models *m, const char *name);
/* One more use of a model in use. */
void sp_models_use_again(sp_models *m, sp_served *s);
void sp_models_done(sp_models *m, sp_served *s); /* NULL is fine */
/* How long this model stays behind its last use; < 0: until its memory is needed. Where clients may
 * choose. */
void sp_models_keep(sp_models *m, const char *name, double seconds);

typedef struct sp_models_op {
    sp_op op;             /* op.diag: why it failed */
    char name[SP_MODEL_NAME];
    char why[SP_MODEL_WHY]; /* out: all reasons, if there are more than op.diag holds; "" */
    bool leave;           /* send it away, when its uses are done */
    uint64_t end_ns;      /* given up then; set by the maker */
} sp_models_op;

/* An operation that brings a model, or sends it away; sp_op_submit begins it, sp_op_put lets go of
 * it. NULL: no memory. */
sp_models_op *sp_models_op_new(sp_models *m, const char *name, bool leave);
/* Brings a model and waits. */
SP_MUST sp_err sp_models_bring(sp_models *m, const char *name, char why[SP_MODEL_WHY], sp_diag *d);
/* Have the engines of what is in memory nothing to do? */
bool sp_models_are_idle(sp_models *m);
void sp_models_drain(sp_models *m); /* nothing is brought any more; engines take no more jobs */

/* A model that is fetched. One at a time; who lets go of the operation stops it, and what has come
 * stays for the next try. */
typedef struct sp_models_pull {
    sp_op op;
    sp_models *models;
    char what[512];
    /* guard: the registry's lock, read with sp_models_pull_at */
    char file[SP_MODEL_NAME];
    uint64_t done, total;
} sp_models_pull;

/* what: as the command `pull` takes it. NULL: no memory, or models are not fetched here. */
sp_models_pull *sp_models_pull_new(sp_models *m, const char *what);
/* How far it is: bytes of the file that comes just now; total 0: not known. */
void sp_models_pull_at(sp_models_pull *p, char file[SP_MODEL_NAME], uint64_t *done,
                       uint64_t *total);

/* --- what is there
 * ------------------------------------------------------------------------------ */

typedef enum sp_model_state {
    SP_MODEL_AWAY,
    SP_MODEL_LOADING,
    SP_MODEL_READY,
    SP_MODEL_LEAVING,
    SP_MODEL_FAILED
} sp_model_state;

typedef struct sp_model_row {
    const char *name, *path; /* live as long as the registry */
    sp_model_state state;
    sp_model_facts facts;
    char why[SP_MODEL_WHY];  /* of the last load that failed; "" */
    size_t bytes;            /* in memory, pages included; 0: none */
    size_t n_use;
    bool stays;              /* sp_models_hold */
    double expires_s;        /* seconds until it leaves if nobody asks; < 0: never by time */
    sp_sha256 id;            /* while READY or LEAVING */
} sp_model_row;

/* Row number i, in the order in which they were made known. false: there are not so many. */
bool sp_models_row(sp_models *m, size_t i, sp_model_row *out);
/* "unloaded", "loading", "loaded", "leaving", "failed" */
const char *sp_model_state_name(sp_model_state s);
/* The names of all, joined by commas, as far as they have room. */
void sp_models_names(sp_models *m, char *out, size_t cap);

/* Deletes a tenant's pages, or of them what a conversation computed (conv may be NULL), of all
 * models, in RAM and below. Waits.
 * Errors: SP_CANCEL: the server is shutting down; SP_IO, SP_NET. */
SP_MUST sp_err sp_models_forget(sp_models *m, const char *tenant, const char *conv, size_t *n_page,
                                sp_diag *d);

#endif
