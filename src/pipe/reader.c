#include "pipe/reader.h"

#include "base/lock.h"
#include "base/prio.h"

struct sp_reader {
    sp_reader_cfg cfg;
    pthread_t thread;
    sp_lock lock; /* rank JOB */
    pthread_cond_t work;
    sp_read_job *next, *done; /* guard: lock */
    bool busy, quit;          /* guard: lock; busy: a job is being read or waits to be */
    atomic_bool stop;         /* what is being read ends */
};

sp_read_job *sp_read_job_new(void)
{
    sp_read_job *j = sp_mem_alloc(sizeof *j);
    if (j)
        sp_arena_init(&j->a, 0);
    return j;
}

void sp_read_job_free(sp_read_job *j)
{
    if (!j)
        return;
    sp_rag_document_fini(&j->doc);
    sp_arena_fini(&j->a);
    sp_mem_free(j);
}

static void read_job(sp_reader *r, sp_read_job *j)
{
    const sp_rag_budget budget = {r->cfg.seconds, r->cfg.text_bytes, &r->stop};
    const sp_rag_source in = {j->from.path, j->from.bytes,  j->from.n_bytes,
                              r->cfg.vocab, r->cfg.max_tok, &budget};
    j->err = sp_rag_document_read(&j->doc, &in, &j->why);
}

static void *reader_main(void *arg)
{
    sp_reader *r = arg;
    sp_prio_give_way();
    for (;;) {
        sp_lock_get(&r->lock);
        while (!r->next && !r->quit)
            sp_lock_wait(&r->lock, &r->work, 0);
        sp_read_job *j = r->next;
        bool quit = r->quit;
        r->next = quit ? r->next : NULL;
        sp_lock_put(&r->lock);
        if (quit)
            return NULL;
        read_job(r, j);
        sp_lock_get(&r->lock);
        r->done = j;
        sp_lock_put(&r->lock);
        r->cfg.notify(r->cfg.arg);
    }
}

sp_err sp_reader_start(sp_reader **out, const sp_reader_cfg *cfg, sp_diag *d)
{
    sp_reader *r = sp_mem_alloc(sizeof *r);
    if (!r)
        return SP_FAIL(d, SP_NOMEM, "documents");
    r->cfg = *cfg;
    sp_lock_init(&r->lock, SP_RANK_JOB);
    sp_lock_cond_init(&r->work);
    if (pthread_create(&r->thread, NULL, reader_main, r) == 0) {
        *out = r;
        return SP_OK;
    }
    sp_lock_fini(&r->lock);
    pthread_cond_destroy(&r->work);
    sp_mem_free(r);
    return SP_FAIL(d, SP_NOMEM, "documents: cannot start a thread");
}

void sp_reader_stop(sp_reader *r)
{
    if (!r)
        return;
    atomic_store(&r->stop, true);
    sp_lock_get(&r->lock);
    r->quit = true;
    pthread_cond_broadcast(&r->work);
    sp_lock_put(&r->lock);
    pthread_join(r->thread, NULL);
}

void sp_reader_free(sp_reader *r)
{
    if (!r)
        return;
    sp_read_job_free(r->next);
    sp_read_job_free(r->done);
    sp_lock_fini(&r->lock);
    pthread_cond_destroy(&r->work);
    sp_mem_free(r);
}

bool sp_reader_is_free(sp_reader *r)
{
    sp_lock_get(&r->lock);
    bool busy = r->busy;
    sp_lock_put(&r->lock);
    return !busy;
}

void sp_reader_give(sp_reader *r, sp_read_job *job)
{
    sp_lock_get(&r->lock);
    SP_ASSERT(!r->busy);
    r->next = job;
    r->busy = true;
    pthread_cond_broadcast(&r->work);
    sp_lock_put(&r->lock);
}

sp_read_job *sp_reader_take(sp_reader *r)
{
    sp_lock_get(&r->lock);
    sp_read_job *j = r->done;
    r->done = NULL;
    r->busy = r->busy && !j;
    sp_lock_put(&r->lock);
    return j;
}
