/* Source code by its functions: a definition is a heading, and its lines with the comment above it
 * are a part. Configuration by its blocks.
 *
 * No grammar of any language: a definition begins at a line that is not indented, or at a method's
 * within a class, and goes on to the next one. What this rule does not see stays in the part before
 * it, so nothing is lost. */
#include "rag/parse_int.h"

#include "base/utf8.h"

#include <string.h>

enum { MAX_NAME = 120 };

typedef struct code {
    sp_rag_reading *r;
    const char *from;  /* where the part being read begins */
    /* where comments and attributes directly above the next line begin; NULL: there are none */
    const char *above;
} code;

static bool is_word(char c)
{
    return (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') || (c >= '0' && c <= '9') || c == '_' ||
           (unsigned char)c >= 128;
}

static bool starts(const char *p, size_t n, const char *word)
{
    size_t k = strlen(word);
    return n > k && memcmp(p, word, k) == 0 && !is_word(p[k]);
}

/* A comment or an attribute, which belongs to what comes below it. */
static bool is_remark(const char *p, size_t n)
{
    static const char *const marks[] = {"//", "/*",     " *",  "*/", "#[",      "@",
                                        "--", "\"\"\"", "///", ";;", "template"};
    if (n && p[0] == '#' && (n == 1 || p[1] == ' ' || p[1] == '!'))
        return true;
    for (size_t i = 0; i < sizeof marks / sizeof marks[0]; i++)
        if (n >= strlen(marks[i]) && memcmp(p, marks[i], strlen(marks[i])) == 0)
            return true;
    return false;
}

/* "static int table[] = {1}": an access word, and '=' before any bracket. */
static bool is_variable(const char *p, size_t n)
{
    const char *equals = memchr(p, '=', n), *open = memchr(p, '(', n);
    bool may_be = starts(p, n, "static") || starts(p, n, "public") || starts(p, n, "private") ||
                  starts(p, n, "protected");
    return may_be && equals && (!open || equals < open);
}

static bool is_keyword_line(const char *p, size_t n)
{
    static const char *const words[] = {"def",    "class",     "async",     "function", "func",
                                        "fn",     "pub",       "impl",      "struct",   "enum",
                                        "trait",  "interface", "type",      "module",   "export",
                                        "public", "private",   "protected", "static",   "abstract",
                                        "object", "fun",       "sub",       "CREATE",   "create"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (starts(p, n, words[i]))
            return p[n - 1] != ';' && !is_variable(p, n);
    return false;
}

/* A line of a control structure, or one that only closes or calls, opens no definition. */
static bool is_statement(const char *p, size_t n)
{
    static const char *const words[] = {
        "if",      "else",   "for",      "while",   "switch", "case", "return",  "do",   "try",
        "catch",   "import", "include",  "use",     "using",  "from", "package", "end",  "goto",
        "default", "break",  "continue", "typedef", "extern", "let",  "var",     "const"};
    for (size_t i = 0; i < sizeof words / sizeof words[0]; i++)
        if (starts(p, n, words[i]))
            return true;
    return n == 0 || !is_word(p[0]) || p[n - 1] == ';' || p[n - 1] == ',';
}

/* "int f(void)", "foo() {": types and a name before the bracket, or one name and a brace at the
 * end. A call such as print("x") has one name and no brace. */
static bool has_head(const char *p, size_t n)
{
    size_t n_word = 0, i = 0;
    for (; i < n && p[i] != '('; i++) {
        if (!is_word(p[i]) && !strchr(" \t*&:<>~,[]", p[i]))
            return false;
        n_word += is_word(p[i]) && (i == 0 || !is_word(p[i - 1]));
    }
    return i < n && (n_word > 1 || p[n - 1] == '{');
}

/* Does a definition begin in this line? 2: of its own; 3: within a class; 0: no. */
static int definition_level(const char *p, size_t n)
{
    size_t in = 0;
    while (in < n && (p[in] == ' ' || p[in] == '\t'))
        in++;
    const char *q = p + in;
    size_t k = n - in;
    if (in > 0)
        return in <= 4 && (starts(q, k, "def") || starts(q, k, "async def") ||
                           starts(q, k, "function") || starts(q, k, "fn") ||
                           starts(q, k, "pub fn") || starts(q, k, "fun") ||
                           ((starts(q, k, "public") || starts(q, k, "private") ||
                             starts(q, k, "protected")) &&
                            memchr(q, '(', k) && q[k - 1] != ';'))
                   ? 3
                   : 0;
    if (is_keyword_line(q, k))
        return 2;
    return !is_statement(q, k) && has_head(q, k) ? 2 : 0;
}

static sp_err give(code *c, const char *to)
{
    return to > c->from ? sp_rag_give(c->r, SP_RAG_TEXT, 0, c->from, (size_t)(to - c->from), true)
                        : SP_OK;
}

/* The line up to its brace or colon. */
static sp_err give_name(code *c, int level, const char *p, size_t n)
{
    while (n && (*p == ' ' || *p == '\t'))
        p++, n--;
    while (n && (p[n - 1] == '{' || p[n - 1] == ':' || p[n - 1] == ' '))
        n--;
    size_t word = 0, k = 0; /* the name: the word before the first bracket, else the last one */
    for (size_t i = 0; i < n && p[i] != '('; i++)
        if (is_word(p[i]) && (i == 0 || !is_word(p[i - 1])))
            word = i;
    while (word + k < n && is_word(p[word + k]))
        k++;
    sp_err err = sp_rag_give(c->r, SP_RAG_HEADING, level, p,
                             n < MAX_NAME ? n : MAX_NAME - sp_utf8_tail(p, MAX_NAME), false);
    return err == SP_OK && k ? sp_rag_give(c->r, SP_RAG_TERM, 1, p + word, k, false) : err;
}

sp_err sp_rag_parse_code(sp_rag_reading *r, const char *p, size_t n)
{
    const char *end = p + n, *line;
    code c = {.r = r, .from = p};
    size_t len;
    sp_err err = SP_OK;
    for (const char *at = p; err == SP_OK && sp_rag_line(&line, &len, &at, end);) {
        int level = definition_level(line, len);
        if (level) {
            const char *start = c.above ? c.above : line;
            err = give(&c, start);
            if (err == SP_OK)
                err = give_name(&c, level, line, len);
            c.from = start;
        }
        bool remark = is_remark(line, len);
        c.above = remark ? (c.above ? c.above : line) : NULL;
    }
    return err == SP_OK ? give(&c, end) : err;
}

/* A block of lines up to an empty one is a part. */
sp_err sp_rag_parse_config(sp_rag_reading *r, const char *p, size_t n)
{
    const char *end = p + n, *from = p, *line;
    size_t len;
    sp_err err = SP_OK;
    for (const char *at = p; err == SP_OK && sp_rag_line(&line, &len, &at, end);)
        if (sp_rag_is_blank(line, len)) {
            err = line > from ? sp_rag_give(r, SP_RAG_TEXT, 0, from, (size_t)(line - from), true)
                              : SP_OK;
            from = at;
        }
    return err == SP_OK && from < end
               ? sp_rag_give(r, SP_RAG_TEXT, 0, from, (size_t)(end - from), true)
               : err;
}
