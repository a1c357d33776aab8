/* The name that was probably meant, for errors. Threads: pure. */
#ifndef SP_BASE_NEAREST_H
#define SP_BASE_NEAREST_H

#include <stddef.h>

/* The nearest of the n names: at most two letters are wrong, missing, too many or swapped, and at
 * most a third of the word; else the only one that begins with the word. NULL: none. Words of more
 * than 40 bytes have none. */
const char *sp_nearest(const char *word, const char *const *names, size_t n);

#endif
