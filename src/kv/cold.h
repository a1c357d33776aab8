/* What the memory needs of an object store; net/s3.h gives one. Every call may block and may be
 * made from several threads. Keys are of [A-Za-z0-9/_.-].
 * Errors: SP_NOTFOUND; SP_NET and SP_TIMEOUT after the store's own retries; SP_CORRUPT when fewer
 * bytes come than were asked for. */
#ifndef SP_KV_COLD_H
#define SP_KV_COLD_H

#include "base/buf.h"
#include "base/err.h"

#include <stdbool.h>
#include <stdint.h>

/* get: bytes [at, at + n), or all of them when n is 0. */
/* Takes bytes as they come; false: stop, the call fails with SP_CANCEL. */
typedef bool sp_kv_sink(void *arg, const void *p, size_t n);
typedef bool sp_kv_each(void *arg, const char *key, uint64_t bytes);

typedef struct sp_kv_cold {
    void *arg;
    sp_err (*get)(void *arg, const char *key, uint64_t at, uint64_t n, sp_kv_sink *sink,
                  void *sink_arg, sp_diag *d);
    sp_err (*put)(void *arg, const char *key, const void *p, size_t n, sp_diag *d);
    sp_err (*del)(void *arg, const char *key, sp_diag *d); /* SP_OK when there was none */
    sp_err (*list)(void *arg, const char *prefix, sp_kv_each *each, void *each_arg, sp_diag *d);
} sp_kv_cold;

#endif
