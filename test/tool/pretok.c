/* Cuts texts into words: the first line of the input names a pre-tokenizer, each other line is one
 * text in hexadecimal. Prints the words' lengths in bytes, one line a text. "names" as the first
 * line prints the names of all rows. */
#include "text/pretok.h"

#include <stdio.h>
#include <stdlib.h>
#include <string.h>

static size_t unhex(char *p)
{
    static const char DIGITS[] = "0123456789abcdef";
    size_t n = 0;
    for (const char *hi, *lo; p[2 * n] && (hi = strchr(DIGITS, p[2 * n])) && (lo = strchr(DIGITS, p[2 * n + 1])); n++)
        p[n] = (char)((hi - DIGITS) << 4 | (lo - DIGITS));
    return n;
}

int main(void)
{
    char *line = NULL;
    size_t cap = 0;
    ssize_t n = getline(&line, &cap, stdin);
    if (n < 1)
        return 2;
    line[--n] = 0;
    for (size_t i = 0; strcmp(line, "names") == 0 && sp_pretok_at(i); i++)
        puts(sp_pretok_at(i)->name);
    const sp_pretok *kind = sp_pretok_find(line, (size_t)n);
    while (kind && (n = getline(&line, &cap, stdin)) > 0) {
        sp_pretok_cut cut;
        size_t len;
        sp_pretok_start(&cut, kind, line, unhex(line));
        while ((len = sp_pretok_next(&cut)) != 0)
            printf("%zu ", len);
        putchar('\n');
    }
    free(line);
    return kind ? 0 : 1;
}
