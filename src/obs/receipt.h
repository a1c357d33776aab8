/* The receipt: what one answer cost, and what a plain decoder would have spent on the same text.
 * Plain data; written as JSON under usage.sparing. Fields follow DESIGN section 5. */
#ifndef SP_OBS_RECEIPT_H
#define SP_OBS_RECEIPT_H

#include "base/buf.h"

#include <stdbool.h>
#include <stddef.h>

typedef enum sp_path { SP_PATH_LIGHT, SP_PATH_FULL, SP_PATH_UPSTREAM } sp_path;

/* Kinds of drafters (gen/draft.h). Those from SP_DRAFT_MODEL on compute. */
typedef enum sp_draft_id {
    SP_DRAFT_LOOKUP,
    SP_DRAFT_PREDICTION,
    SP_DRAFT_EARLIER,
    SP_DRAFT_MODEL,
    SP_DRAFT_HEAD,
    SP_DRAFT_MTP,
    SP_DRAFTERS
} sp_draft_id;

typedef struct sp_receipt_draft {
    /* tokens computed ahead as guesses of a drafter; of them, those the model chose too */
    size_t drafted, accepted;
} sp_receipt_draft;

/* Spans of answers that left as marks of what they repeat. */
typedef struct sp_receipt_refs {
    size_t marks, tok, bytes;  /* tokens and bytes of the spans */
    size_t mark_bytes;         /* of the marks as they are written */
    size_t guessed;            /* of tok, guessed ahead: computing them was cheaper too */
} sp_receipt_refs;

/* What rules did to an answer (gen/rules.h). */
typedef struct sp_receipt_control {
    unsigned rules;         /* bits 1 << sp_prune; 0: there were none */
    size_t sentences, comments; /* taken back before they left */
    size_t tok, bytes;      /* of them; they were computed */
    size_t penalised;       /* tokens chosen while another one was penalised */
    const char *ended;      /* the rule that ended the answer; NULL: none did; static */
    const char *thought;    /* the rule that ended its thoughts; likewise */
    size_t same;            /* conclusions in a row that would end them; 0: they are not counted */
    size_t conclusions;     /* sentences of thoughts that came to one */
    size_t think_left;      /* with thought: tokens of the budget that were not thought */
    size_t trials, trials_same; /* trial answers that were made; as the one before */
    size_t trials_left_out; /* no place was free for them */
    size_t trial_tok;       /* computed for trials; they are not of the answer */
} sp_receipt_control;

/* What was done where an answer became unsure (pipe/turn_deep.c). */
typedef enum sp_unsure_did {
    SP_UNSURE_NOTHING,
    SP_UNSURE_RETRIEVED,
    SP_UNSURE_VOTED,
    SP_UNSURE_DIDS
} sp_unsure_did;
const char *sp_unsure_name(sp_unsure_did did); /* nothing, retrieved, voted; static */

typedef struct sp_unsure_cause {
    size_t at;       /* tokens of the answer when it became so */
    float logprob, entropy, margin; /* means over the tokens that were judged */
    sp_unsure_did did;
} sp_unsure_cause;

enum { SP_UNSURE_CAUSES = 8 };

typedef struct sp_receipt_unsure {
    sp_unsure_cause cause[SP_UNSURE_CAUSES]; /* the first of n */
    size_t n, n_did[SP_UNSURE_DIDS];
    size_t tok;        /* tokens computed that the answer does not have */
    size_t tok_prompt; /* prompt tokens computed anew for the rest of the answer */
    double ms, cost;   /* of searches and votes; of all jobs behind the first */
} sp_receipt_unsure;

/* What of the prompt another server handed over, by a ticket (docs/SERVICES.md). */
typedef struct sp_receipt_handed {
    size_t pages, bytes;             /* pages that were new here; bytes of all chunks */
    size_t early_pages, early_bytes; /* of them, sent while the other server still computed the
                                        prompt */
    double ms, late_ms; /* from the call to the last page; of that, behind the last early chunk */
} sp_receipt_handed;

/* Where an answer was computed, by the placement file (pipe/placement.h). All borrowed. */
typedef struct sp_receipt_place {
    const char *where, *name; /* name NULL: there is no such file */
    const char *rule;         /* that let the request go there; NULL: none did */
    const char *why;
} sp_receipt_place;

typedef struct sp_receipt {
    sp_path path;
    /* what intent took it for, and why the path was taken; static text, NULL: nobody judged */
    const char *cls, *why;
    /* JSON strings, joined by commas: keywords of the answer's schema; NULL: none; borrowed */
    const char *not_enforced;
    const char *experiment; /* JSON objects, joined by commas: experiments and the variants that
                               answered; NULL: none; borrowed */
    unsigned version;       /* of the settings in force; 0: those that the server was started
                               with */
    bool truncated;         /* an answer was ended by a limit of tokens */
    /* JSON strings, joined by commas: parameters that were accepted and had no effect; NULL:
     * none; borrowed */
    const char *ignored;
    sp_receipt_place place;
    double difficulty, need; /* with cls: probabilities */
    size_t n_unsure,
        tok_unsure; /* answers that were given up because they were unsure, and their tokens */
    sp_receipt_unsure unsure; /* the turn's own; never summed */
    bool escalated;         /* a light answer was begun and given up */
    size_t votes;           /* answers drawn, of which the most common one counts; 0, 1: just one */
    size_t tok_away;        /* prompt tokens of another server */
    size_t tok_away_known;  /* of them, known to it before */
    size_t tok_computed, tok_ram, tok_ssd, tok_s3; /* prompt tokens by source */
    sp_receipt_handed handed; /* bytes 0: nothing was */
    size_t tok_spliced;  /* of passages computed by themselves, known before */
    /* tokens put in place so, known or not: what they hold has not seen the passages before it */
    size_t placed;
    size_t tok_demoted;  /* of them, attended without their lo parts, as the server was told to */
    size_t chunks;       /* old turns and passages put into the prompt */
    size_t left_out;     /* passages that were found and did not fit */
    double flops_spent, flops_dense;
    double attn_epsilon; /* share of the attention a step may leave out */
    /* keys that certified steps saw; of them, attended. 0, 0: all was dense */
    double attn_seen, attn_kept;
    /* the largest certified loss of any call (a KV head of a layer in a step) */
    double attn_bound;
    /* sum of certified losses over calls; calls; of them, read whole */
    double attn_loss, attn_calls, attn_dense_calls;
    /* prompt: groups of 4 values by 16 queries; those that were read */
    double values_seen, values_read;
    /* prompt with keep: pages before chunks, and those attended */
    double prefill_keep, pages_seen, pages_kept;
    /* sampled queries; what the other pages weighed to them: sum, most */
    double samples, missed, missed_most;
    /* of keys and values that certified steps read; and what dense ones read */
    double kv_bytes, kv_dense;
    size_t steps, tok_out; /* decode steps, tokens of the answer */
    sp_receipt_draft draft[SP_DRAFTERS]; /* by drafter; their sums are the next two */
    /* guesses computed ahead; of them, those the model chose too */
    size_t tok_drafted, tok_accepted;
    /* of the answer, put without a forward pass of their own: its grammar left no choice */
    size_t tok_forced;
    sp_receipt_refs refs;
    sp_receipt_control control;
    size_t tok_think; /* of them, what a reasoning model thought */
    /* finding and pinning what is known; loading it, 0: nothing to load */
    double ms_attach, ms_first_layer, ms_load;
    double ms_queue, ms_intent, ms_retrieval, ms_prefill, ms_decode;
    double ms_machine; /* of steps, the share that was for this answer */
    double joules;     /* of that time */
    bool is_measured;  /* joules are, and do not go by a set figure */
    double cost; /* in the currency of the prices; 0 without prices */
} sp_receipt;

/* Rules that prune an answer (gen/rules.h): loop, repeat, sentence, thinking, dry, comments,
 * learned, trial. */
typedef enum sp_prune {
    SP_PRUNE_LOOP,
    SP_PRUNE_REPEAT,
    SP_PRUNE_SENTENCE,
    SP_PRUNE_THINKING,
    SP_PRUNE_DRY,
    SP_PRUNE_COMMENTS,
    SP_PRUNE_LEARNED,
    SP_PRUNE_TRIAL,
    SP_PRUNES
} sp_prune;
const char *sp_prune_name(sp_prune r);

const char *sp_path_name(sp_path p);
/* lookup, prediction, earlier, model, head, mtp */
const char *sp_draft_name(sp_draft_id id);
/* The kind of this name. false: there is none. */
bool sp_draft_find(sp_draft_id *out, const char *name);
bool sp_prune_find(sp_prune *out, const char *name);
/* Adds r to sum: several answers of one request. Times overlap, so the longest counts. */
void sp_receipt_add(sp_receipt *sum, const sp_receipt *r);
void sp_receipt_write(const sp_receipt *r, sp_buf *out);
/* The member "placement" and a comma; nothing where there is no placement file. */
void sp_receipt_write_place(const sp_receipt_place *p, sp_buf *out);

#endif
