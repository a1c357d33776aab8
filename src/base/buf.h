/* Growable byte buffer, always NUL-terminated for printing. A failed allocation sets .failed and
 * drops later writes, so that a long build needs one check at its end.
 * Owner: the buffer owns .p until sp_buf_fini or sp_buf_take. Threads: one. */
#ifndef SP_BASE_BUF_H
#define SP_BASE_BUF_H

#include "base/err.h"

#include <stdbool.h>
#include <stddef.h>

typedef struct sp_buf {
    char *p; /* NULL while empty; p[len] == 0 otherwise */
    size_t len, cap;
    bool failed;
} sp_buf;

void sp_buf_fini(sp_buf *b);
void sp_buf_clear(sp_buf *b); /* keeps the memory */
void sp_buf_reserve(sp_buf *b, size_t more); /* room for so many more bytes */
void sp_buf_put(sp_buf *b, const void *p, size_t n);
void sp_buf_puts(sp_buf *b, const char *s);
void sp_buf_putc(sp_buf *b, char c);
void sp_buf_printf(sp_buf *b, const char *fmt, ...) SP_PRINTF(2, 3);
void sp_buf_drop(sp_buf *b, size_t n); /* removes the first n bytes */
/* s as a JSON string with quotes; bytes that are not UTF-8 become U+FFFD. */
void sp_buf_json_str(sp_buf *b, const char *s, size_t n);
/* A finite number with 9 significant digits; NaN and infinities become null. */
void sp_buf_json_num(sp_buf *b, double v);
/* n bytes in base64 with its = at the end, no line breaks. */
void sp_buf_base64(sp_buf *b, const void *p, size_t n);
const char *sp_buf_str(const sp_buf *b); /* never NULL */

#endif
