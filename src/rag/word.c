#include "rag/word.h"

#include <string.h>

bool sp_rag_is_letter(char c)
{
    return (unsigned char)c >= 0x80 || (c >= '0' && c <= '9') || (c >= 'A' && c <= 'Z') ||
           (c >= 'a' && c <= 'z') || c == '_';
}

bool sp_rag_is_in(const char *list, const char *p, size_t n)
{
    char word[16];
    if (n + 3 > sizeof word)
        return false;
    word[0] = ' ';
    for (size_t i = 0; i < n; i++)
        word[i + 1] = p[i] >= 'A' && p[i] <= 'Z' ? (char)(p[i] + 32) : p[i];
    word[n + 1] = ' ';
    word[n + 2] = 0;
    return strstr(list, word) != NULL;
}

bool sp_rag_is_common(const char *p, size_t n)
{
    static const char list[] = " a an and are as at be been but by can could did do does each for "
                               "from had has have how i if in into is it its may me my of on "
                               "one or our should so such than that the their them then there "
                               "these they this to use used using was we were what when where "
                               "which who why will with would you your ";
    return sp_rag_is_in(list, p, n);
}
