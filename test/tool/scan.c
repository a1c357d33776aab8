/* Bench tool: exact search over arbitrary vectors in memory, against reading them.
 * usage: scan ROWS QUERIES. Prints "MEDIAN_MS P99_MS READ_MS": searches for the best 100, and one pass over the rows by the reading
 * kernel of `sparing bench`. */
#include "base/clock.h"
#include "rag/scan.h"

#include <stdio.h>
#include <stdlib.h>

enum { BEST = 100 };

static int by_size(const void *a, const void *b)
{
    double x = *(const double *)a, y = *(const double *)b;
    return (x > y) - (x < y);
}

int main(int argc, char **argv)
{
    size_t n = argc > 1 ? strtoul(argv[1], NULL, 10) : 0, n_q = argc > 2 ? strtoul(argv[2], NULL, 10) : 0;
    sp_vecs v = {0};
    sp_kern kern;
    sp_vec_hit hit[BEST];
    double *ms = calloc(n_q + 1, sizeof *ms);
    uint64_t s = 7, sum = 0;
    if (!n || !n_q || !ms || sp_vecs_reserve(&v, n) != SP_OK)
        return fprintf(stderr, "usage: scan ROWS QUERIES\n"), 2;
    sp_kern_init(&kern, SP_CPU_LEVELS - 1);
    int8_t row[SP_VEC_DIM];
    for (size_t i = 0; i < n + n_q; i++) { /* bell-shaped, as real vectors are */
        for (size_t e = 0; e < SP_VEC_DIM; e++) {
            s = s * 6364136223846793005u + 1442695040888963407u;
            row[e] = (int8_t)((int)(s >> 58) + (int)(s >> 52 & 63) - 63);
        }
        if (i < n) {
            if (sp_vecs_add(&v, (int64_t)i, 0, row) != SP_OK)
                return 1;
            continue;
        }
        size_t found;
        uint64_t t = sp_clock_ns();
        sp_vecs_search(&v, &kern, row, NULL, BEST, hit, &found);
        ms[i - n] = sp_clock_ms(t);
        sum += (uint64_t)hit[0].key;
    }
    double read = 1e9;
    for (int i = 0; i < 5; i++) {
        uint64_t t = sp_clock_ns();
        sum += (uint64_t)kern.read_all(v.at, n * SP_VEC_DIM);
        read = sp_clock_ms(t) < read ? sp_clock_ms(t) : read;
    }
    qsort(ms, n_q, sizeof *ms, by_size);
    printf("%.2f %.2f %.2f\n", ms[n_q / 2], ms[(n_q * 99 + 99) / 100 - 1], read);
    sp_vecs_fini(&v);
    free(ms);
    return sum == 42;
}
