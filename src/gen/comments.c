#include "gen/comments.h"

#include <stdio.h>
#include <string.h>

enum { WORDS = 96, WORD = 24, COMMENT_WORDS = 12 /* a longer comment says more than a line */ };
static const double SHARE = 0.75; /* of a comment's words that its line must have */

typedef struct words {
    char word[WORDS][WORD];
    size_t n;
} words;

static bool is_upper(char c)
{
    return c >= 'A' && c <= 'Z';
}

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || is_upper(c) || (c >= '0' && c <= '9') ||
           (unsigned char)c >= 0x80;
}

static bool is_listed(const char *const *list, const char *word)
{
    for (; *list; list++)
        if (strcmp(*list, word) == 0)
            return true;
    return false;
}

static void add(words *w, const char *word)
{
    if (w->n < WORDS)
        snprintf(w->word[w->n++], WORD, "%s", word);
}

/* Words in small letters; camelCase is two. */
static void read_words(words *w, const char *p, size_t n)
{
    char word[WORD];
    for (size_t i = 0; i < n;) {
        size_t k = 0;
        while (i < n && !is_word(p[i]))
            i++;
        for (size_t first = i;
             i < n && is_word(p[i]) && !(i > first && is_upper(p[i]) && !is_upper(p[i - 1])); i++)
            if (k + 1 < WORD)
                word[k++] = is_upper(p[i]) ? (char)(p[i] + 32) : p[i];
        word[k] = 0;
        if (k)
            add(w, word);
    }
}

/* What stands in a line, and what people call it. */
static void name_signs(words *w, const char *p, size_t n)
{
    static const struct {
        const char *sign, *names;
    } sign[] = {{"+=", "increment increase add"},
                {"++", "increment increase"},
                {"-=", "decrement decrease subtract"},
                {"--", "decrement decrease"},
                {"+", "add sum plus total"},
                {"*", "multiply product times"},
                {"/", "divide"},
                {"==", "equal equals same compare"},
                {"=", "set assign store initialize initialise define declare create"},
                {"(", "call invoke run"},
                {"[", "list array element index"},
                {"{", "dictionary object map"},
                {"return", "give back"},
                {"print", "output display show"},
                {"echo", "print output display show"},
                {"console.log", "print output display show"},
                {"printf", "print output display show"},
                {"for", "loop iterate over through each every all"},
                {"while", "loop repeat until"},
                {"if", "check test whether"},
                {"else", "otherwise"},
                {"def ", "define function method create"},
                {"function", "define create"},
                {"fn ", "define function create"},
                {"func ", "define function create"},
                {"class ", "define create"},
                {"import", "module library package load"},
                {"include", "import library header load"},
                {"require", "import module library load"},
                {"len", "length size"},
                {"append", "add list"},
                {"push", "add append list"},
                {"open", "file"},
                {"str", "string"},
                {"int", "integer"},
                {"sort", "sorted order"},
                {"max", "maximum largest"},
                {"min", "minimum smallest"}};
    for (size_t i = 0; i < sizeof sign / sizeof sign[0]; i++)
        if (memmem(p, n, sign[i].sign, strlen(sign[i].sign)))
            read_words(w, sign[i].names, strlen(sign[i].names));
}

/* The same but for their endings: print, prints, printing. */
static bool agree(const char *a, const char *b)
{
    size_t na = strlen(a), nb = strlen(b), k = 0, least = na < nb ? na : nb;
    while (k < least && a[k] == b[k])
        k++;
    return (k == na && k == nb) || (k >= 3 && na - k <= 3 && nb - k <= 3 && k + 1 >= least);
}

bool sp_comment_restates(const char *comment, size_t n_comment, const char *code, size_t n_code)
{
    static const char *const blank[] = {
        "the",  "a",    "an",    "of",       "to",   "in",    "for", "and", "is",  "this", "that",
        "with", "from", "by",    "as",       "on",   "it",    "its", "we",  "our", "new",  "into",
        "at",   "here", "value", "variable", "then", "using", "be",  "are", "let", NULL};
    static const char *const reason[] = {
        "because", "why",    "since",   "todo",  "fixme",     "xxx",     "hack",      "note",
        "warning", "must",   "should",  "never", "always",    "avoid",   "noqa",      "type",
        "eslint",  "nolint", "pragma",  "see",   "http",      "https",   "otherwise", "not",
        "only",    "unless", "so",      "bytes", "seconds",   "ms",      "unit",      "units",
        "example", "assume", "assumes", "safe",  "copyright", "license", NULL};
    words said = {0}, has = {0};
    size_t n = 0, n_known = 0;
    if (n_comment && *comment == '!')
        return false;
    read_words(&said, comment, n_comment);
    read_words(&has, code, n_code);
    name_signs(&has, code, n_code);
    for (size_t i = 0; i < said.n; i++) {
        bool known = false;
        if (is_listed(reason, said.word[i]))
            return false;
        if (is_listed(blank, said.word[i]))
            continue;
        for (size_t k = 0; k < has.n && !known; k++)
            known = agree(said.word[i], has.word[k]);
        n++;
        n_known += known;
    }
    return n && n <= COMMENT_WORDS && (double)n_known >= SHARE * (double)n;
}

/* --- where a comment begins ------------------------------------------------------------------- */

/* Languages whose strings can be told from one line, but for those of three quotes. Others are left
 * alone. */
typedef struct language {
    const char *names, *mark;
    bool has_three;      /* three quotes begin a string of several lines */
    const char *give_up; /* words, apart by a blank: where one stands, nobody knows any more what is
                            a string */
    const char *skip;    /* likewise, but only this line is left alone */
} language;

static const language *find_language(const char *lang)
{
    static const language all[] = {{" python py ", "#", true, "", ""},
                                   {" javascript js typescript ts ", "//", false, "`",
                                    "/* */ (/ =/ =\1/ ,\1/ :\1/ return\1/ [/ &&\1/ ||\1/"},
                                   {" c cpp c++ h hpp ", "//", false, "R\"", "/* */"},
                                   {" java ", "//", true, "", "/* */"},
                                   {" go golang ", "//", false, "`", "/* */"},
                                   {" sql ", "--", false, "", "/* */"}};
    char word[24] = " ";
    size_t n = strlen(lang);
    if (!n || n + 3 > sizeof word)
        return NULL;
    memcpy(word + 1, lang, n);
    word[n + 1] = ' ';
    for (size_t i = 0; i < sizeof all / sizeof all[0]; i++)
        if (strstr(all[i].names, word))
            return &all[i];
    return NULL;
}

/* Does the line hold one of these words? \1 in a word is a blank. */
static bool holds(const char *line, size_t n, const char *list)
{
    char word[16];
    while (*list) {
        size_t k = strcspn(list, " ");
        for (size_t i = 0; i < k && i < sizeof word; i++)
            word[i] = list[i] == '\1' ? ' ' : list[i];
        if (memmem(line, n, word, k))
            return true;
        list += k + (list[k] == ' ');
    }
    return false;
}

static bool is_three(const char *p, size_t n, char c)
{
    return n >= 3 && p[0] == c && p[1] == c && p[2] == c;
}

bool sp_comment_find(const char *lang, const char *line, size_t n, char *in_string, size_t *at,
                     size_t *body)
{
    const language *l = find_language(lang);
    char open = 0; /* what closes the string of this line */
    size_t n_mark = l ? strlen(l->mark) : 0;
    if (l && holds(line, n, l->give_up))
        *in_string = SP_COMMENT_LOST;
    if (!l || *in_string == SP_COMMENT_LOST || (!*in_string && holds(line, n, l->skip)))
        return false;
    for (size_t i = 0; i < n; i++) {
        char c = line[i];
        if (*in_string) {
            if (c == '\\') {
                i++;
            } else if (is_three(line + i, n - i, *in_string)) {
                *in_string = 0;
                i += 2;
            }
        } else if (open) {
            i += c == '\\';
            open = c == open ? 0 : open;
        } else if (l->has_three && (c == '"' || c == '\'') && is_three(line + i, n - i, c)) {
            *in_string = c;
            i += 2;
        } else if (c == '"' || c == '\'') {
            open = c;
        } else if (n - i >= n_mark && memcmp(line + i, l->mark, n_mark) == 0 &&
                   (i == 0 || line[i - 1] == ' ' || line[i - 1] == '\t')) {
            *at = i;
            for (*body = i + n_mark; *body < n && line[*body] == l->mark[0];)
                ++*body;
            return true;
        }
    }
    if (open)
        *in_string = SP_COMMENT_LOST; /* it goes on in the next line, or is none */
    return false;
}
