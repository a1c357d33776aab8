#include "pipe/lint.h"

#include <string.h>
#include <strings.h>

enum { LONG_QUOTE = 40, MAX_CHOICE = 16, CHOICE_BYTES = 40 };

static const char *const courtesies[] = {
    "please ",           "could you please ",    "can you please ",
    "would you please ", "could you ",           "can you ",
    "would you ",        "i would like you to ", "i'd like you to ",
    "i want you to ",    "i need you to ",       "your task is to ",
    "kindly ",           "i am asking you to ",  NULL};
static const char *const chatter[] = {
    "thank",  "hello",        "hi ",         "hi,",          "hi!",    "hey", "good morning",
    "i hope", "i appreciate", "many thanks", "best regards", "cheers", NULL};
static const char *const requests[] = {
    "what",      "who",     "when",   "where",    "which",      "why",       "how",     "is ",
    "are ",      "does ",   "do ",    "did ",     "was ",       "classify",  "summari", "translate",
    "extract",   "write",   "find",   "list",     "explain",    "tell",      "give",    "decide",
    "determine", "name ",   "count",  "identify", "rewrite",    "describe",  "compare", "convert",
    "fix",       "correct", "label",  "sort",     "answer the", "read",      "look",    "say",
    "choose",    "pick",    "detect", "check",    "compute",    "calculate", NULL};
static const char *const orders[] = {"first",      "then",    "next",   "after that",
                                     "afterwards", "finally", "lastly", "second,",
                                     "third,",     "step ",   NULL};
static const char *const forms[] = {"answer with",
                                    "respond with",
                                    "reply with",
                                    "reply in",
                                    "respond in",
                                    "answer in",
                                    "in json",
                                    "as json",
                                    "json format",
                                    "one word",
                                    "single word",
                                    "nothing else",
                                    "no explanation",
                                    "do not explain",
                                    "don't explain",
                                    "only the",
                                    "only answer",
                                    "format",
                                    "one of the following",
                                    "one of:",
                                    "yes or no",
                                    NULL};

static bool begins(sp_str s, const char *word)
{
    size_t n = strlen(word);
    return s.n >= n && strncasecmp(s.p, word, n) == 0;
}

static bool begins_any(sp_str s, const char *const *list)
{
    for (; *list; list++)
        if (begins(s, *list))
            return true;
    return false;
}

/* Where the word stands, in any case; NULL: nowhere. */
static const char *find_word(sp_str s, const char *word)
{
    for (size_t i = 0; i < s.n; i++)
        if (begins((sp_str){s.p + i, s.n - i}, word))
            return s.p + i;
    return NULL;
}

static bool holds_any(sp_str s, const char *const *list)
{
    for (; *list; list++)
        if (find_word(s, *list))
            return true;
    return false;
}

static sp_str trim(sp_str s)
{
    while (s.n && strchr(" \t\r\n", s.p[0]))
        s.p++, s.n--;
    while (s.n && strchr(" \t\r\n", s.p[s.n - 1]))
        s.n--;
    return s;
}

static void add(sp_buf *part, sp_str s, const char *between)
{
    sp_buf_puts(part, part->len && s.n ? between : "");
    sp_buf_put(part, s.p, s.n);
}

/* --- what the answer may be ------------------------------------------------------------------- */

/* The items of "a, b or c" up to the end of the sentence. */
static size_t read_choices(sp_str out[MAX_CHOICE], sp_str s)
{
    size_t n = 0;
    while (s.n && n < MAX_CHOICE) {
        size_t k = 0, skip = 1;
        while (k < s.n && !strchr(",;.\n", s.p[k]) && !begins((sp_str){s.p + k, s.n - k}, " or ") &&
               !begins((sp_str){s.p + k, s.n - k}, " and "))
            k++;
        if (k < s.n && s.p[k] == ' ')
            skip = begins((sp_str){s.p + k, s.n - k}, " or ") ? 4 : 5;
        bool last = k == s.n || s.p[k] == '.' || s.p[k] == '\n';
        sp_str item = trim((sp_str){s.p, k});
        item = begins(item, "or ") ? trim((sp_str){item.p + 3, item.n - 3}) : item;
        while (item.n && strchr("\"'`", item.p[0]))
            item.p++, item.n--;
        while (item.n && strchr("\"'`", item.p[item.n - 1]))
            item.n--;
        if (item.n > CHOICE_BYTES)
            return 0; /* not a list */
        if (item.n)
            out[n++] = item;
        if (last)
            break;
        s.p += k + skip;
        s.n -= k + skip;
    }
    return n;
}

/* A sentence about the answer: as choices when it names them, else as it stands. */
static void add_output(sp_buf *part, sp_str s)
{
    static const char *const lead[] = {"one of the following labels:",
                                       "one of the following:",
                                       "one of these:",
                                       "one of:",
                                       "with either ",
                                       "either ",
                                       NULL};
    sp_str choice[MAX_CHOICE];
    size_t n = 0;
    for (const char *const *l = lead; *l && n == 0; l++) {
        const char *at = find_word(s, *l);
        if (at)
            n = read_choices(choice,
                             (sp_str){at + strlen(*l), (size_t)(s.p + s.n - at) - strlen(*l)});
    }
    if (n == 0 && find_word(s, "yes or no"))
        choice[n++] = (sp_str){"yes", 3}, choice[n++] = (sp_str){"no", 2};
    if (n < 2 || (part->len && part->p[0] == '{')) {
        if (!part->len || part->p[0] != '{') /* choices say it all */
            add(part, s, " ");
        return;
    }
    part->len = 0;
    sp_buf_puts(part, "{\"choices\": [");
    for (size_t i = 0; i < n; i++) {
        sp_buf_puts(part, i ? ", " : "");
        sp_buf_json_str(part, choice[i].p, choice[i].n);
    }
    sp_buf_puts(part, "]}");
}

/* --- sentences and blocks --------------------------------------------------------------------- */

static void add_sentence(sp_buf part[SP_PARTS], sp_str s)
{
    bool asked = s.n && s.p[s.n - 1] == '?';
    if (begins_any(s, chatter) && s.n < 80 && !asked)
        return;
    for (size_t i = 0; courtesies[i];) {
        size_t k = begins(s, courtesies[i]) ? strlen(courtesies[i]) : 0;
        s = trim((sp_str){s.p + k, s.n - k});
        i = k ? 0 : i + 1; /* another may follow */
    }
    if (s.n == 0)
        return;
    if (holds_any(s, forms))
        add_output(&part[SP_PART_OUTPUT], s);
    else if (begins_any(s, orders))
        add(&part[SP_PART_STEPS], s, "\n");
    else if (asked || begins_any(s, requests))
        add(&part[SP_PART_TASK], s, " ");
    else
        add(&part[SP_PART_CONTEXT], s, " ");
}

/* The end of the sentence that begins p: behind . ! ? before a space, or the end of the line; a
 * long quotation is not cut. */
static size_t sentence_end(const char *p, size_t n)
{
    for (size_t i = 0; i < n; i++) {
        if (p[i] == '"') {
            const char *close = memchr(p + i + 1, '"', n - i - 1);
            if (close && (size_t)(close - p) - i > LONG_QUOTE)
                return i ? i : (size_t)(close - p) + 1;
        }
        if (p[i] == '\n' || ((p[i] == '.' || p[i] == '!' || p[i] == '?') &&
                             (i + 1 == n || p[i + 1] == ' ' || p[i + 1] == '\n')))
            return i + 1;
    }
    return n;
}

/* "1. text", "- text": the text, or nothing. */
static sp_str list_item(sp_str line)
{
    size_t k = 0;
    while (k < line.n && line.p[k] >= '0' && line.p[k] <= '9')
        k++;
    bool mark = k && k + 1 < line.n
                    ? line.p[k] == '.' || line.p[k] == ')'
                    : line.n > 1 && (line.p[0] == '-' || line.p[0] == '*') && line.p[1] == ' ';
    k = mark && k ? k + 1 : 1;
    return mark ? trim((sp_str){line.p + k, line.n - k}) : (sp_str){0};
}

/* A block that is quoted as a whole: what lies between the marks, and the bytes it takes with
 * them. */
static size_t quoted(sp_str *out, const char *p, size_t n)
{
    static const char *const fence[] = {"```", "\"\"\"", "'''", "\""};
    for (size_t i = 0; i < 4; i++) {
        size_t k = strlen(fence[i]);
        const char *close =
            n > k && memcmp(p, fence[i], k) == 0 ? memmem(p + k, n - k, fence[i], k) : NULL;
        if (!close || (k == 1 && close - p < LONG_QUOTE))
            continue;
        *out = trim((sp_str){p + k, (size_t)(close - p) - k});
        return (size_t)(close - p) + k;
    }
    return 0;
}

/* "Text:" and the like: what follows, to the end, is context. */
static bool is_label(sp_str line)
{
    return line.n > 1 && line.n < 60 && line.p[line.n - 1] == ':' && !memchr(line.p, '?', line.n);
}

sp_err sp_lint(sp_buf part[SP_PARTS], const char *text, size_t n, sp_diag *d)
{
    for (size_t at = 0; at < n;) {
        sp_str s;
        if (strchr(" \t\r\n", text[at])) {
            at++;
            continue;
        }
        size_t k = quoted(&s, text + at, n - at);
        if (k) {
            add(&part[SP_PART_CONTEXT], s, "\n");
            at += k;
            continue;
        }
        const char *end = memchr(text + at, '\n', n - at);
        sp_str line = trim((sp_str){text + at, end ? (size_t)(end - text) - at : n - at});
        sp_str item = list_item(line);
        if (item.n) {
            add(&part[SP_PART_STEPS], item, "\n");
            at += (size_t)(line.p - (text + at)) + line.n;
            continue;
        }
        if (is_label(line) && end && part[SP_PART_TASK].len && !begins(line, "steps")) {
            s = trim((sp_str){end, n - (size_t)(end - text)});
            k = quoted(&s, s.p, s.n);
            if (!k && !list_item(s).n) { /* up to an empty line */
                const char *blank = memmem(s.p, s.n, "\n\n", 2);
                s.n = blank ? (size_t)(blank - s.p) : s.n;
                add(&part[SP_PART_CONTEXT], s, "\n");
                at = (size_t)(s.p - text) + s.n;
                continue;
            }
        }
        k = sentence_end(text + at, n - at);
        if (!is_label(line) || k < line.n)
            add_sentence(part, trim((sp_str){text + at, k}));
        at += k;
    }
    for (size_t i = 0; i < SP_PARTS; i++)
        if (part[i].failed)
            return SP_FAIL(d, SP_NOMEM, "prompt");
    return part[SP_PART_TASK].len ? SP_OK
                                  : SP_FAIL(d, SP_NOTFOUND,
                                            "nothing in the text asks for anything: no question, "
                                            "and no sentence that begins with what to do");
}

void sp_lint_write(sp_buf *out, const sp_buf part[SP_PARTS])
{
    for (size_t i = 0; i < SP_PARTS; i++)
        if (part[i].len) {
            sp_buf_printf(out, "<%s>", sp_part_name((sp_part_kind)i));
            sp_buf_put(out, part[i].p, part[i].len);
            sp_buf_printf(out, "</%s>\n", sp_part_name((sp_part_kind)i));
        }
}
