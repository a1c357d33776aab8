/* Pages in RAM, the sequences made of them, and the prefix index that lets a new sequence start
 * from pages another one has already computed. With a tier, full pages are also written to disk and
 * prefixes that RAM has lost are loaded from there; a cached page gives up its lo parts before it
 * is evicted (demotion), and reads them back when it is used again (promotion).
 *
 * Owner:   the pool owns every page; a sequence pins the pages it uses.
 * Threads: owner: step thread. src/kv/README.md has the pin rules.
 * Errors:  SP_AGAIN when every page is pinned; SP_NOMEM when the system has no memory. */
#ifndef SP_KV_POOL_H
#define SP_KV_POOL_H

#include "base/sha256.h"
#include "kv/page.h"
#include "kv/state.h"
#include "kv/tier.h"

typedef struct sp_kv_pool sp_kv_pool;

typedef struct sp_kv_cfg {
    sp_kv_shape shape;
    size_t cap_bytes;     /* pages' budget; at least one page is always allowed */
    sp_sha256 model_id;   /* weights, page format, RoPE and tokenizer: whatever changes K or V */
    const char *variant;  /* what else changes the bytes of a page: the ISA level; NULL: nothing */
    bool reuse;           /* false: no prefix index */
    sp_kv_tier *tier;     /* NULL: RAM only; borrowed, outlives the pool */
    /* use demoted pages as they lie, not exactly; else they are promoted first */
    bool attend_demoted;
    /* > 0: every layer sees the last `window` positions at most, so that a sequence gives pages
     * before them back; 0: some layer sees all */
    size_t window;
    /* of a sequence's recurrent layers; 0: the model has none. Not with a window */
    size_t state_bytes;
    size_t kept_bytes;    /* of what such layers take of a step with guesses
                             (sp_model_kept_bytes) */
    /* budget of snapshots of such states in RAM; no prefix is known without */
    size_t snap_bytes;
    /* snapshots beyond RAM are rounded (squeeze.h): what goes on from one is not to the bit what
     * was left; else they are kept as they are. state_bytes is a multiple of 4 */
    bool squeeze;
} sp_kv_cfg;

typedef struct sp_kv_stat {
    size_t page_bytes, n_cap; /* bytes of a page without its lo parts where not all have them */
    size_t n_bytes;           /* of pinned and cached pages */
    size_t n_demoted;         /* cached pages without the lo parts they had */
    size_t n_pinned;          /* in use by sequences */
    size_t n_cached;          /* kept for reuse, free to evict */
    /* since start; hit + miss = tokens looked up in RAM */
    uint64_t n_hit_tok, n_miss_tok, n_evicted;
    uint64_t n_unsaved;       /* pages not written: too many were waiting already */
} sp_kv_stat;

/* Who hears which pages others can start from, as they come into the index of RAM and leave it. A
 * page that is still being loaded counts. On the step thread; it must not wait. */
typedef struct sp_kv_watch {
    /* at: its number in its sequence, from 0. salt: see sp_kv_seq_salt; NULL: none. tok
     * [SP_PAGE_TOK] */
    void (*stored)(void *arg, const sp_sha256 *id, const sp_sha256 *parent, const uint32_t *tok,
                   size_t at, const char *salt);
    void (*removed)(void *arg, const sp_sha256 *id);
    void *arg;
} sp_kv_watch;

/* The end of a prompt, where the question is, attends everything: without that needles are lost
 * (docs/ATTENTION.md). Where it begins, for sp_kv_seq.keep_to. */
static inline size_t sp_kv_keep_to(size_t n_prompt)
{
    enum { TAIL = 64 };
    return n_prompt > TAIL ? (n_prompt - TAIL) / SP_PAGE_TOK * SP_PAGE_TOK : 0;
}

/* Snapshots are taken each SP_KV_SNAP_TOK tokens, where messages begin and at the end of the
 * prompt, all rounded down to whole pages; of one step at most SP_KV_MARKS, the last ones. */
enum { SP_KV_SNAP_TOK = 512, SP_KV_MARKS = 8 };

/* Tokens of a step, at most, some of which may be taken back. */
enum { SP_KV_GUESS_TOK = 16 };

/* One sequence. Its first n_tok positions are computed; page[i] holds [32 i, 32 i + 32). */
typedef struct sp_kv_seq {
    uint32_t *id;     /* page numbers */
    void **page, **lo; /* their device addresses; lo NULL where a page has no lo parts */
    void *open;       /* device memory of the open page of quantised formats, else NULL */
    size_t n_page, cap_page;
    /* of them, leading pages that no layer sees any more and s does not hold: their addresses
     * are NULL */
    size_t n_gone;
    /* set before attaching: none may go, because they will be read by their numbers
     * (sp_model_splice) */
    bool holds_all;
    size_t n_tok;
    size_t n_saved;                  /* leading pages that were given to the tier or need not be */
    size_t n_tok_ram, n_tok_ssd, n_tok_s3; /* attached tokens by source */
    size_t n_tok_demoted;            /* of them, attended without lo parts */
    /* Set before attaching: attention from position eps_from on may leave out a share eps, and
     * prompts may attend only a share `keep` of their pages; 0, 0: exact. Pages computed so have
     * identities of their own. */
    float eps, keep;
    size_t eps_from;
    /* ... from this position on they attend all; see sp_kv_keep_to */
    size_t keep_to;
    bool eps_prompt;                 /* prompts may leave out eps too; else only decoding steps */
    const sp_dev_range *dense;       /* positions whose pages are never left out; borrowed */
    size_t n_dense;
    sp_dev_cert *cert;               /* counts what it left out; borrowed, NULL: nobody */
    /* > 0: what is computed from this position on is not for others, and leaves memory with s */
    size_t private_from;
    bool inexact;                    /* saw demoted pages: what it computes is not for others */
    sp_kv_load *load;                /* still filling its pages; see sp_kv_seq_wait */
    double ms_first_layer, ms_load;  /* of its load; see sp_kv_seq_times */
    bool load_failed;                /* it must start again (fini, attach) */
    uint8_t tag[SP_KV_TAG], conv[SP_KV_TAG];
    const char *salt;                /* borrowed; NULL: none */
    sp_sha256 chain;                 /* identity of all full pages so far */
    uint32_t tail[SP_PAGE_TOK];      /* tokens of the page being filled */
    /* Recurrent layers. Set before attaching: tokens of the prompt (0: all that comes is an
     * answer), and where its messages begin. */
    size_t n_prompt, n_border;
    const size_t *border;            /* [n_border] ascending; borrowed */
    sp_kv_load *snap_load;           /* still filling state; sp_kv_seq_begin waits */
    /* behind n_tok tokens, NULL: of none; where the next step puts it */
    sp_kv_state *state, *next;
    sp_dev_mark mark[SP_KV_MARKS];   /* what the next step leaves on its way */
    sp_kv_state *mark_state[SP_KV_MARKS];
    size_t mark_at[SP_KV_MARKS];     /* positions */
    size_t n_mark;
    sp_sha256 snap_id;               /* the newest snapshot on the way of s */
    size_t n_snap;                   /* ... its position; 0: none */
    /* Steps with guesses keep what recurrent layers take, so that they can begin again behind the
     * tokens that were right. */
    void *kept;                      /* device memory, NULL: none yet; what lies in it is the
                                        model's business */
    size_t n_step, n_kept;           /* tokens of the last step; leading ones of it that are in
                                        `kept` */
    size_t n_again;                  /* > 0: state is behind n_tok - n_again tokens, and the next
                                        step first passes as many of `kept` */
    sp_kv_state *settled;            /* ... where it then puts the state behind n_tok tokens: in the
                                        place of `state` if nobody shares it */
    bool is_lost;                    /* set where such a step fails: there is no state any more, and
                                        s must start again */
    sp_kv_state *sure;               /* the state at n_sure, for sp_kv_seq_hold; NULL: none is
                                        held */
    size_t n_sure;
    /* at the newest end of a page behind the prompt; becomes a snapshot when s ends */
    sp_kv_state *trail;
    sp_sha256 trail_id;
    size_t n_trail;
} sp_kv_seq;

SP_MUST sp_err sp_kv_pool_new(sp_kv_pool **out, sp_dev *dev, const sp_kv_cfg *cfg, sp_diag *d);
/* Before the first sequence. *w is copied. */
void sp_kv_pool_watch(sp_kv_pool *p, const sp_kv_watch *w);
void sp_kv_pool_free(sp_kv_pool *p); /* every sequence must be gone */
void sp_kv_pool_stat(const sp_kv_pool *p, sp_kv_stat *out);
size_t sp_kv_pool_cap(const sp_kv_pool *p); /* pages; immutable, so any thread may ask */
/* Positions that one sequence can have, of which it computes at most n_step at a time; SIZE_MAX:
 * any number, because it gives pages back behind its window. Immutable too. */
size_t sp_kv_pool_positions(const sp_kv_pool *p, size_t n_step);
const sp_kv_shape *sp_kv_pool_shape(const sp_kv_pool *p);

/* tenant names whose pages may be shared: it comes from authentication, never from a request. conv:
 * the conversation what is computed belongs to, for forgetting it; NULL: none. */
SP_MUST sp_err sp_kv_seq_init(sp_kv_seq *s, const sp_kv_pool *p, const char *tenant,
                              const char *conv);
/* Before attaching: pages of s are shared only with sequences of the same salt, a caller's text
 * that is not empty and lives as long as s. Those of a tenant are still forgotten together. */
SP_MUST sp_err sp_kv_seq_salt(sp_kv_seq *s, const char *salt);
void sp_kv_seq_fini(sp_kv_seq *s, sp_kv_pool *p);
/* Attaches the longest known prefix of tok [n], whole pages only and never all of it, so that at
 * least one token is left to compute. s must be empty and stay where it is while s->load is set.
 * fetch: beyond RAM too. *n_found: tokens attached. SP_AGAIN: another sequence is loading this
 * prefix. */
SP_MUST sp_err sp_kv_seq_attach(sp_kv_seq *s, sp_kv_pool *p, const uint32_t *tok, size_t n,
                                bool fetch, size_t *n_found);
/* Before a layer of block `layer` (sp_kv_page_block_of) of s is attended: waits until its pages are
 * there. SP_CORRUPT, SP_TIMEOUT: they will not be, and s must start again. */
SP_MUST sp_err sp_kv_seq_wait(sp_kv_seq *s, size_t layer);
/* Milliseconds its load took to the first layer and to the last; 0: there was none. */
void sp_kv_seq_times(const sp_kv_seq *s, double *first_ms, double *all_ms);
/* Gives full pages that are not written yet to the tier. */
void sp_kv_seq_save(sp_kv_seq *s, sp_kv_pool *p);
/* Makes room to write positions [n_tok, n_tok + n); a shared tail page is copied first. */
SP_MUST sp_err sp_kv_seq_reserve(sp_kv_seq *s, sp_kv_pool *p, size_t n);
/* The same for a step of which some tokens may be taken back, n <= SP_KV_GUESS_TOK. */
SP_MUST sp_err sp_kv_seq_reserve_guess(sp_kv_seq *s, sp_kv_pool *p, size_t n);
/* Before a step computes n tokens of s, for which room is reserved: where their states go. n_kept:
 * of these tokens, the leading ones that the step keeps in s->kept; 0: none can be taken back. Does
 * nothing where the model has no recurrent layers. SP_NOMEM: there is no memory for a state.
 * SP_CORRUPT, SP_TIMEOUT: a snapshot that was being loaded does not come, and s must start
 * again. */
SP_MUST sp_err sp_kv_seq_begin(sp_kv_seq *s, sp_kv_pool *p, size_t n, size_t n_kept);
/* Says that tok [n] were computed at the end of s. Pages that became full enter the index. */
SP_MUST sp_err sp_kv_seq_commit(sp_kv_seq *s, sp_kv_pool *p, const uint32_t *tok, size_t n);
/* Takes back what was computed behind the first n tokens. They end in the page that s is filling,
 * so nothing else has seen it. Returns how many tokens are left: n, but those of sp_kv_seq_hold
 * where recurrent layers go back to it. Without a hold they go back to tokens that the last step
 * kept. */
size_t sp_kv_seq_take_back(sp_kv_seq *s, sp_kv_pool *p, size_t n);
/* What comes from here on may be taken back once, in steps that keep nothing: recurrent layers then
 * go back to here. */
void sp_kv_seq_hold(sp_kv_seq *s, sp_kv_pool *p);
/* A second sequence over the same pages (n > 1 answers). */
SP_MUST sp_err sp_kv_seq_fork(sp_kv_seq *out, const sp_kv_seq *s, sp_kv_pool *p);
/* Takes in what the tier has finished. true: something happened. */
bool sp_kv_pool_poll(sp_kv_pool *p);
/* Loads or writes are under way: pages may come free. */
bool sp_kv_pool_is_busy(const sp_kv_pool *p);
/* Forgets in RAM what f says; pages in use live on until their sequences end, unknown to others. */
void sp_kv_pool_forget(sp_kv_pool *p, sp_kv_forget *f);
/* The states of recurrent layers; NULL: the model has none. */
sp_kv_states *sp_kv_pool_states(const sp_kv_pool *p);
/* Walks every page and list; false after printing to d what is inconsistent. For tests. */
SP_MUST sp_err sp_kv_pool_check(const sp_kv_pool *p, sp_diag *d);

#endif
