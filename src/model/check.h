/* Whether a file runs here: the one answer for `models`, `run` and `serve`.
 *
 * A check looks at everything that loading looks at, and goes on behind the first fault, so that a
 * reader learns all reasons at once: the file's structure, architecture, tokenizer, chat template,
 * weights, context, page format and memory. A template that is absent or cannot be used is no
 * reason: the model then goes on with texts and knows no chat.
 *
 * Owner:   sp_check owns the file, the tokenizer and the template that it opened, until
 *          sp_check_fini. A caller that takes one sets
 *          its pointer to NULL.
 * Threads: one. */
#ifndef SP_MODEL_CHECK_H
#define SP_MODEL_CHECK_H

#include "kv/page.h"
#include "model/arch.h"
#include "text/chat.h"

enum { SP_CHECK_WHY = 10 };

typedef struct sp_check_cfg {
    sp_dev *dev;                /* the one the model would run on */
    const sp_kv_format *format; /* of pages */
    size_t n_ctx;               /* tokens of a context; 0: the model's own */
    size_t free_bytes;          /* memory that can be had */
    size_t kv_bytes;            /* memory for pages */
    /* memory for snapshots of recurrent layers' states, where there are any */
    size_t snap_bytes;
    size_t expert_bytes;        /* memory for experts; 0: all that fit */
    sp_str chat;                /* a chat template in the place of the file's own; empty: none */
    size_t step_tok, step_logits; /* of the largest step; fewer than the default options': those */
    bool kv_is_asked;           /* kv_bytes was asked for: less will not do */
} sp_check_cfg;

typedef struct sp_check {
    sp_err why_code[SP_CHECK_WHY];
    char why[SP_CHECK_WHY][512]; /* each begins with the file's name */
    size_t n_why;                /* 0: it runs */
    char name[128];              /* the file's, without its folder */
    char type[16];               /* of most bytes of weights; "" where that is not known */
    char license[64];            /* as the file says; "" */
    bool has_arch;               /* what follows is known */
    sp_arch arch;
    size_t file_bytes;
    size_t n_weight;             /* numbers in all tensors */
    size_t need_bytes;           /* RAM without pages: weights, activations, tokenizer */
    size_t expert_bytes;         /* of the experts' weights, all of them */
    /* of them, so many are kept in memory, the others are read from the file; 0: all are kept */
    size_t expert_room;
    size_t page_bytes;           /* of 32 tokens; 0: an encoder, which has none */
    /* memory for pages: as much as may be, or half of what the model leaves */
    size_t kv_bytes;
    /* memory for snapshots of states: as much as may be, or a quarter of what the model leaves;
     * 0: it has none */
    size_t snap_bytes;
    size_t n_ctx;                /* tokens of a context, as asked */
    size_t fit_tok;              /* of them, so many have room: all, or fewer */
    sp_gguf *gguf;
    sp_tok *tok;
    /* NULL: none in the file; sp_chat_why says whether it can be used */
    sp_chat *chat;
} sp_check;

/* Never fails: what goes wrong is a reason. *out is written whole. */
void sp_check_file(sp_check *out, const char *path, const sp_check_cfg *cfg);
void sp_check_fini(sp_check *c);
/* Must this tensor be in memory, however little there is? Experts and rows that few tokens read may
 * stay in the file. */
bool sp_check_must_stay(const sp_tensor *t);
/* Bytes of pages that 1,000 tokens take; 0 where the architecture is not known. */
size_t sp_check_kv_1000(const sp_check *c);

#endif
