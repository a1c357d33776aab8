/* What stream.c (streams and their thread) and stream_read.c (readers and routes) share.
 * Invariants: 1. Only the thread of streams calls a source, and only while `busy` is false; it
 * alone takes streams out of the list. 2. A stream is freed when it is out of the list and nobody
 * holds it. 3. ring[0] is byte `base` of all that was ever told; a reader that is behind base has
 * lost events, and ends. 4. Readers are woken without the lock; `waking` keeps them from going
 * meanwhile. */
#ifndef SP_API_STREAM_INT_H
#define SP_API_STREAM_INT_H

#include "api/stream.h"
#include "base/lock.h"

enum { SP_STREAM_READERS = 8 };

typedef struct sp_stream_reader {
    sp_stream *s;
    sp_work *work;
    uint64_t at;       /* byte that comes next */
    unsigned progress; /* of the stream, as of the last one told */
    unsigned silent;   /* seconds */
    char name[SP_STREAM_ID];
} sp_stream_reader;

struct sp_stream {
    sp_streams *all;
    sp_stream *next; /* guard: all.lock, as all that follows but the source */
    int ref;
    char id[SP_STREAM_ID], tenant[64], conv[SP_ID_BYTES], message[SP_ID_BYTES], answer[SP_ASK_ID];
    int64_t created;
    bool busy, rung, stop, over;
    unsigned waking;
    sp_stream_reader *reader[SP_STREAM_READERS];
    sp_buf ring;
    uint64_t base, n_event, over_ns;
    char progress[160];
    unsigned n_progress;
    sp_op *deferred;
    /* owner: the thread */
    sp_stream_source source;
    bool stopped;
    const char *stage;
    uint64_t stage_ns, told_ns;
    size_t stage_from, stage_done;
};

struct sp_streams {
    sp_lock lock; /* rank API */
    pthread_cond_t work, changed;
    pthread_t thread;
    sp_desk *desk;
    sp_stream *first;
    size_t n;
    bool stop;
};

#endif
