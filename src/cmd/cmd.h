/* The command line: one function a subcommand, and what they share. Only this folder may exit. */
#ifndef SP_CMD_CMD_H
#define SP_CMD_CMD_H

#include "base/opt.h"
#include "gen/draft.h"
#include "model/check.h"
#include "model/encoder.h"
#include "model/model.h"
#include "obs/metric.h"
#include "kv/tier.h"
#include "text/chat.h"

#include <stdio.h>

/* Exit codes; docs in README and `sparing --help`. */
enum {
    EXIT_DONE = 0,
    EXIT_RUN = 1,
    EXIT_USAGE = 2,
    EXIT_CONFIG = 3,
    EXIT_MODEL = 4,
    EXIT_BIND = 5,
    EXIT_STORE = 6,
    EXIT_PART = 7 /* part of the work failed */,
    EXIT_INTERRUPT = 130 /* Ctrl-C */
};

enum {
    C_SERVE = 1,
    C_RUN = 2,
    C_CHAT = 4,
    C_MODELS = 8,
    C_TOKENIZE = 16,
    C_PERPLEXITY = 32,
    C_EMBED = 64,
    C_BENCH = 128,
    C_CONFIG = 256,
    C_VERSION = 512,
    C_CACHE = 1024,
    C_INGEST = 2048,
    C_SEARCH = 4096,
    C_COLLECTIONS = 8192,
    C_GRAPH = 16384,
    C_PROMPT = 32768,
    C_TRAIN = 65536,
    C_KEY = 131072,
    C_PULL = 262144,
    C_RM = 524288,
    C_CONVERT = 1048576,
    C_EXPERIMENT = 2097152,
    C_POLICY = 4194304,
    C_HEALTH = 8388608,
    C_DOCTOR = 16777216,
    C_EXPLAIN = 33554432,
    C_IMPROVE = 67108864,
    C_CERTIFY = 134217728,
    C_FEEDBACK = 268435456
};

extern const sp_opt sp_cmd_options[];
extern const size_t sp_cmd_option_count;

typedef struct sp_command {
    const char *name, *rest, *help;
    uint32_t bit;
    size_t max_rest;
    int (*run)(const sp_opts *o);
    const char *example[3]; /* lines for a shell, with what they are for after two spaces and # */
    const char *group;      /* heading of the list of commands, under which it stands */
} sp_command;

extern const sp_command sp_cmd_commands[];
extern const size_t sp_cmd_command_count;

/* A model opened for the commands that run one. */
typedef struct sp_loaded {
    sp_gguf *gguf;
    sp_tok *tok;
    sp_chat *chat;  /* NULL: no template */
    sp_dev *dev;
    sp_model *model;
    sp_model *block;  /* of its file, that guesses tokens further on; NULL: there is none, or it is
                         not asked for */
    sp_kv_tier *tier; /* NULL: pages in RAM only */
    sp_kv_pool *pool;
    bool storage_failed; /* out, on error: it was the tiers */
    size_t n_ctx;
    char name[128]; /* as sp_cmd_model_name */
} sp_loaded;

/* How a server loads one of its models. */
typedef struct sp_load_how {
    /* NULL: what --model names, or the default model in the models folder, or the only one there */
    const char *path;
    const char *cache_dir;  /* folder of its pages; NULL: RAM only */
    const sp_kv_cold *cold; /* NULL: no objects; borrowed */
    size_t kv_bytes;        /* for pages; 0: as the options say */
    size_t cap_bytes;       /* memory that the model may have with its pages; 0: what is free */
    sp_metrics *metrics;    /* of its tiers */
} sp_load_how;

/* how NULL: what --model means, pages in RAM. */
SP_MUST sp_err sp_cmd_load(sp_loaded *out, const sp_opts *o, const sp_load_how *how, sp_diag *d);
/* Closes what was opened; a zeroed struct is allowed. */
void sp_cmd_unload(sp_loaded *l);
/* A format of pages against f16 on a text; NULL: the kept one. Or, plain given, a model whose
 * weights were rounded against the same one with the file's, both over f16 pages. */
typedef struct sp_certify {
    const sp_model *model, *plain;
    sp_dev *dev;
    const sp_tok *tok;
    size_t n_ctx;
    const sp_kv_format *format;
    const char *text;
    size_t n_text;
} sp_certify;
typedef struct sp_certified {
    const char *name, *what; /* "pages" or "weights" */
    size_t n;         /* positions */
    double kl, top1;  /* means over them */
    double noise_kl, noise_top1; /* the same of f32 pages: what rounding alone moves */
    bool holds;
} sp_certified;
SP_MUST sp_err sp_cmd_certify(sp_certified *out, const sp_certify *a, sp_diag *d);
/* The same before a model is used; gate: what --kv-gate says. Errors: SP_UNSUP with the figures, if
 * it does not hold and gate is not "warn". */
SP_MUST sp_err sp_cmd_gate(const sp_certify *a, const char *gate, const char *model, sp_diag *d);
/* Does --device-weights ask for fp8? */
bool sp_cmd_wants_fp8(const sp_opts *o);
/* The model of l with the file's weights, beside it. */
SP_MUST sp_err sp_cmd_load_plain(sp_model **out, const sp_loaded *l, sp_diag *d);
/* sp_cmd_gate of a model that was loaded, where its weights or the format are of a kind that is not
 * used untried. A server's are checked when they are loaded. */
SP_MUST sp_err sp_cmd_check_format(const sp_loaded *l, const sp_opts *o,
                                   const sp_kv_format *format, sp_diag *d);
/* The name of a model file: without its folder, without .gguf and without what numbers its
 * parts. */
void sp_cmd_model_name(char out[128], const char *path);
/* Path of the model file or of the embedding folder; the default ones come from the models
 * folder. */
SP_MUST sp_err sp_cmd_model_path(char *out, size_t cap, const sp_opts *o, sp_diag *d);
/* --models-dir; else models in the folder of work, if there; else $XDG_DATA_HOME/sparing/models,
 * ~/.local/share without it. */
SP_MUST sp_err sp_cmd_models_dir(char *out, size_t cap, const sp_opts *o, sp_diag *d);
/* Path of the model that name means: a file, or one of the models folder with or without .gguf, or
 * without what numbers its parts. */
SP_MUST sp_err sp_cmd_find_model(char *out, size_t cap, const char *name, const sp_opts *o,
                                 sp_diag *d);
/* Path of the first part that is there of a split model of the folder. Errors: SP_NOTFOUND. */
SP_MUST sp_err sp_cmd_find_parts(char *out, size_t cap, const char *dir, const char *stem,
                                 sp_diag *d);
/* Paths of all models of a folder, by name; sp_cmd_free_paths. Errors: SP_NOTFOUND: there is no
 * such folder. */
typedef struct sp_paths {
    char **p;
    size_t n;
} sp_paths;
SP_MUST sp_err sp_cmd_list_models(sp_paths *out, const char *dir, sp_diag *d);
void sp_cmd_free_paths(sp_paths *all);
/* Does this file stand for a model in a list of the folder? Of the parts of a split one, the first
 * that is there does. */
bool sp_cmd_is_first(const char *dir, const char *name);
/* Path of the embedding folder. false: there is none. */
bool sp_cmd_embed_path(char *out, size_t cap, const sp_opts *o);
/* Opens the encoder that is at that path. SP_NOTFOUND: there is none. */
SP_MUST sp_err sp_cmd_encoder(sp_encoder **out, sp_dev *dev, const sp_opts *o, sp_diag *d);
/* The device of --device, with --threads and --cpu-mask. The caller closes it. Errors: SP_INVAL,
 * SP_UNSUP. */
SP_MUST sp_err sp_cmd_device(sp_dev **out, const sp_opts *o, sp_diag *d);
/* What a file is checked against: the options and this machine's memory. */
SP_MUST sp_err sp_cmd_check_cfg(sp_check_cfg *out, sp_dev *dev, const sp_opts *o, sp_diag *d);
/* What a server guesses tokens ahead with, beside lookup and prediction. */
typedef struct sp_cmd_drafter {
    unsigned which;             /* --drafters: bits 1 << sp_draft_id */
    sp_draft_source *earlier;   /* NULL: earlier answers are not kept */
    sp_draft_source *head;      /* NULL: no draft head */
    sp_draft_source *mtp;       /* NULL: the file has no block that guesses, or it may not; what it
                                   runs on: */
    sp_kv_pool *block_pool;
    sp_draft_source *model;     /* NULL: no --draft-model; what it runs on is the rest */
    sp_draft_source *text;      /* NULL; or model speaks another vocabulary, and this one is
                                   asked */
    sp_tok *tok;                /* ... its own */
    sp_gguf *gguf;
    sp_model *draft;
    sp_kv_pool *pool;
} sp_cmd_drafter;

/* Is it among --drafters? */
bool sp_cmd_has_drafter(const sp_opts *o, sp_draft_id id);
/* Opens what the options ask for, on the device of l. */
SP_MUST sp_err sp_cmd_open_drafters(sp_cmd_drafter *out, const sp_loaded *l, const sp_opts *o,
                                    sp_diag *d);
/* Opens the draft head of that path; NULL: there is none. SP_UNSUP where it is another model's. Its
 * answers run cap_seq together. */
SP_MUST sp_err sp_cmd_open_head(sp_cmd_drafter *out, const sp_loaded *l, size_t cap_seq,
                                const char *path, sp_diag *d);
void sp_cmd_close_drafters(sp_cmd_drafter *c);
/* Lists the sources in out [SP_DRAFTERS]; returns how many. */
size_t sp_cmd_drafters(sp_draft_source **out, const sp_cmd_drafter *c);
/* --epsilon: a list of numbers from 0 to 0.5. */
SP_MUST sp_err sp_cmd_epsilons(float *out, size_t cap, size_t *n, const sp_opts *o, sp_diag *d);
/* Where packed weights are kept, as --weight-cache says; out->dir "": nowhere. SP_INVAL: the path
 * is too long. */
SP_MUST sp_err sp_cmd_packed_cfg(sp_packed_cfg *out, const sp_opts *o, sp_diag *d);
/* Of a program that stays: keeps the packed weights of a loaded model, in the background. */
SP_MUST sp_err sp_cmd_keep_weights(sp_model *m, const char *name, const sp_opts *o, sp_diag *d);
/* Prints `error: message` and returns code. */
int sp_cmd_fail(int code, const sp_diag *d);

/* The subcommands, by name; each returns an exit code and has said on stderr why it is not
 * EXIT_DONE. */
int sp_cmd_serve(const sp_opts *o);
int sp_cmd_run(const sp_opts *o);
int sp_cmd_chat(const sp_opts *o);
int sp_cmd_models(const sp_opts *o);
int sp_cmd_pull(const sp_opts *o);
int sp_cmd_rm(const sp_opts *o);
int sp_cmd_convert(const sp_opts *o);
int sp_cmd_tokenize(const sp_opts *o);
int sp_cmd_prompt(const sp_opts *o);
int sp_cmd_train(const sp_opts *o);
int sp_cmd_train_draft(const sp_opts *o, const char *path); /* a part of it */
int sp_cmd_train_control(const sp_opts *o, const char *path); /* a part of it */
int sp_cmd_perplexity(const sp_opts *o);
int sp_cmd_certify_format(const sp_opts *o);
int sp_cmd_embed(const sp_opts *o);
int sp_cmd_bench(const sp_opts *o);
int sp_cmd_config(const sp_opts *o);
int sp_cmd_version(const sp_opts *o);
int sp_cmd_cache(const sp_opts *o);
int sp_cmd_cache_weights(const sp_opts *o, const char *action); /* a part of it; NULL: list */
int sp_cmd_ingest(const sp_opts *o);
int sp_cmd_search(const sp_opts *o);
int sp_cmd_collections(const sp_opts *o);
int sp_cmd_graph(const sp_opts *o);
int sp_cmd_key(const sp_opts *o);
int sp_cmd_experiment(const sp_opts *o);
int sp_cmd_feedback(const sp_opts *o);
int sp_cmd_doctor(const sp_opts *o);
int sp_cmd_explain(const sp_opts *o);
/* The receipt in p[n], JSON, or the answer that holds it, in words on out. name: of the text, for
 * errors. Errors: SP_FORMAT; nothing was written then. */
SP_MUST sp_err sp_cmd_explain_receipt(FILE *out, const char *name, const char *p, size_t n,
                                      sp_diag *d);
int sp_cmd_policy(const sp_opts *o);
int sp_cmd_health(const sp_opts *o);
int sp_cmd_improve(const sp_opts *o);

#endif
