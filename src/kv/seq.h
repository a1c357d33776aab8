/* What a prefix is called, and pages as bytes that go to another server.
 *
 * A page's name is a chain of SHA-256 over the tenant, the salt, the model, the page format and all
 * tokens up to its end (pool.h). Two servers with the same model, format and ISA level give the
 * same names, so that pages can be handed over under them.
 *
 * Handed over are records (record.h), each with checksums over every part of every page, and behind
 * the pages of a model with recurrent layers one with their states. Whoever takes them checks
 * these, that every name follows from the one before and the page's own tokens, and that they are
 * of the tenant; a page under a name that no prompt leads to is never used.
 *
 * Threads: names and read are pure; export and import are the step thread's, a few milliseconds
 * each. */
#ifndef SP_KV_SEQ_H
#define SP_KV_SEQ_H

#include "kv/pool.h"

enum { SP_KV_HAND = 8 /* pages of a record that is handed over: some megabytes, so that a step is
                         not held up */ };

/* Names of the whole pages of tok [n] as exact attention computes them: out [n / SP_PAGE_TOK]. salt
 * NULL: none. */
SP_MUST sp_err sp_kv_seq_names(sp_sha256 *out, const sp_kv_pool *p, const char *tenant,
                               const char *salt, const uint32_t *tok, size_t n);

/* How many of the first pages of id [n] RAM has, for this tenant. */
SP_MUST sp_err sp_kv_pool_count(size_t *out, const sp_kv_pool *p, const char *tenant,
                                const sp_sha256 *id, size_t n);

/* Memory for one record behind another: it stays and is written over, for records of some
 * megabytes in fresh memory cost as much for its pages as for the bytes. {0}: none yet. */
typedef struct sp_kv_bytes {
    uint8_t *p; /* [n] of cap; sp_mem_free */
    size_t n, cap;
} sp_kv_bytes;

/* Room for a record of n bytes, whose contents are then undefined. */
SP_MUST sp_err sp_kv_bytes_fit(sp_kv_bytes *b, size_t n);

/* The first pages of id [n], which follow one another and the first of which is number `first` of
 * its prompt, as one record of at most SP_KV_HAND: as far as RAM has them. SP_NOTFOUND: not even
 * the first. */
SP_MUST sp_err sp_kv_pool_export(sp_kv_bytes *out, size_t *n_page, sp_kv_pool *p,
                                 const char *tenant, const sp_sha256 *id, size_t n, size_t first);

/* The states of recurrent layers at the end of the longest prefix of these pages that has a
 * snapshot in RAM, as a record, to the bit. SP_NOTFOUND: there is none, or the model has none. */
SP_MUST sp_err sp_kv_pool_export_state(sp_kv_bytes *out, sp_kv_pool *p, const char *tenant,
                                       const sp_sha256 *id, size_t n);

/* A record that was checked, of pages or of a state (sp_kv_rec_is_state); borrows the bytes. */
typedef struct sp_kv_hand {
    sp_kv_head head;
    const uint8_t *bytes;
} sp_kv_hand;

/* Checks a record against the pool's shape, the tenant and itself. Any thread: it reads only what
 * is immutable of the pool. Errors: SP_CORRUPT, SP_FORMAT. */
SP_MUST sp_err sp_kv_hand_read(sp_kv_hand *out, const sp_kv_pool *p, const char *tenant,
                               const uint8_t *bytes, size_t n, sp_diag *d);
/* Takes the pages that are not known yet into the index. salt: as the prompt has it; NULL: none.
 * SP_AGAIN: there is no room for all of them. */
SP_MUST sp_err sp_kv_pool_import(size_t *n_new, sp_kv_pool *p, const sp_kv_hand *h,
                                 const char *salt);
/* Makes a state a snapshot, unless there is one. *n_new: 1 if it was none. */
SP_MUST sp_err sp_kv_pool_import_state(size_t *n_new, sp_kv_pool *p, const sp_kv_hand *h);

#endif
