/* A thread that reads documents, one at a time, so that a document that takes long holds up no
 * search: it takes bytes and gives chunks, and knows no database. It gives way to the threads that
 * compute (base/prio.h).
 *
 * A job passes from its maker to the reader with sp_reader_give and back with sp_reader_take;
 * whoever holds it frees it.
 * Threads: give, take and is_free from one thread, the maker's; notify runs on the reader's thread,
 * without locks.
 * Errors:  a job's own in job->err and job->why. */
#ifndef SP_PIPE_READER_H
#define SP_PIPE_READER_H

#include "rag/store.h"

typedef struct sp_reader sp_reader;

typedef struct sp_read_job {
    sp_arena a;         /* of what is read */
    sp_rag_waiting from;
    sp_rag_document doc; /* out */
    sp_err err;          /* out */
    sp_diag why;         /* out */
    size_t n_stored;     /* the maker's: chunks it has taken */
} sp_read_job;

/* NULL: no memory. */
sp_read_job *sp_read_job_new(void);
void sp_read_job_free(sp_read_job *j);

typedef struct sp_reader_cfg {
    const sp_tok *vocab;
    size_t max_tok;
    uint32_t seconds;  /* of one document, see sp_rag_budget */
    size_t text_bytes;
    void (*notify)(void *arg); /* a job is done */
    void *arg;
} sp_reader_cfg;

SP_MUST sp_err sp_reader_start(sp_reader **out, const sp_reader_cfg *cfg, sp_diag *d);
/* Ends what is being read and the thread: notify is not called after this returns. Jobs stay until
 * sp_reader_free. NULL is fine for both. */
void sp_reader_stop(sp_reader *r);
void sp_reader_free(sp_reader *r);

bool sp_reader_is_free(sp_reader *r);
void sp_reader_give(sp_reader *r, sp_read_job *job); /* needs: is_free */
sp_read_job *sp_reader_take(sp_reader *r);           /* NULL: none is done */

#endif
