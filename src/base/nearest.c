/* Nearest names by edit distance, swapped neighbours counted once (Damerau 1964). */
#include "base/nearest.h"

#include <stdbool.h>
#include <string.h>

enum { MAX_WORD = 40, MAX_WRONG = 2, FAR = MAX_WRONG + 1 };

static size_t least(size_t a, size_t b)
{
    return a < b ? a : b;
}

static size_t distance(const char *a, size_t n, const char *b, size_t m)
{
    size_t row[3][MAX_WORD + 1] = {{0}}; /* the last but one, the last, and this one, in turns */
    if (m > MAX_WORD || m > n + MAX_WRONG || n > m + MAX_WRONG)
        return FAR;
    for (size_t j = 0; j <= m; j++)
        row[0][j] = j;
    for (size_t i = 1; i <= n; i++) {
        size_t *now = row[i % 3], *last = row[(i + 2) % 3], *before = row[(i + 1) % 3];
        now[0] = i;
        for (size_t j = 1; j <= m; j++) {
            now[j] = least(least(last[j], now[j - 1]) + 1, last[j - 1] + (a[i - 1] != b[j - 1]));
            if (i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1])
                now[j] = least(now[j], before[j - 2] + 1);
        }
    }
    return row[n % 3][m];
}

const char *sp_nearest(const char *word, const char *const *names, size_t n)
{
    size_t len = strlen(word), best = FAR, n_begin = 0;
    const char *found = NULL, *begins = NULL;
    if (len == 0 || len > MAX_WORD)
        return NULL;
    for (size_t i = 0; i < n; i++) {
        size_t d = distance(word, len, names[i], strlen(names[i]));
        if (d < best && d * 3 <= len) {
            best = d;
            found = names[i];
        }
        if (strncmp(names[i], word, len) == 0) {
            begins = names[i];
            n_begin++;
        }
    }
    return found ? found : n_begin == 1 ? begins : NULL;
}
