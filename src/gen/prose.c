#include "gen/prose.h"

#include <string.h>
#include <strings.h>

static const size_t FENCE = 3;

static void begin_line(sp_prose *p)
{
    p->n_line = p->n_mark = 0;
    p->at_mark = true;
    p->in_code = p->in_quote = p->is_row = p->is_info = false;
}

/* The line of a fence has ended: it opens code, or closes it. */
static void toggle(sp_prose *p)
{
    p->in_fence = !p->in_fence;
    p->has_lang = false;
    if (!p->in_fence)
        p->lang[0] = 0;
}

static void add_info(sp_prose *p, char c)
{
    size_t n = strlen(p->lang);
    bool fits = n + 1 < sizeof p->lang && c > ' ' && !p->in_fence && !p->has_lang;
    p->has_lang = p->has_lang || (n && c <= ' ');
    if (fits) {
        p->lang[n] = c >= 'A' && c <= 'Z' ? (char)(c + 32) : c;
        p->lang[n + 1] = 0;
    }
}

void sp_prose_step(sp_prose *p, char c)
{
    bool is_blank = sp_prose_blank(c);
    if (!p->has_begun) {
        begin_line(p);
        p->has_begun = !is_blank;
        p->is_json = c == '{' || c == '[';
    }
    if (c == '\n') {
        if (p->is_info)
            toggle(p);
        begin_line(p);
        return;
    }
    p->n_line++;
    if (p->is_info) {
        add_info(p, c);
        return;
    }
    if (p->at_mark && c == '`') {
        p->n_mark++;
        p->is_info = p->n_mark == FENCE;
        return;
    }
    bool was_first = p->at_mark && p->n_mark == 0 && !is_blank;
    p->in_code = p->at_mark && !is_blank && !p->in_fence ? p->n_mark % 2 == 1 : p->in_code;
    p->at_mark = p->at_mark && is_blank;
    if (p->in_fence)
        return;
    p->is_row = p->is_row || (was_first && (c == '|' || c == '>'));
    p->in_code = c == '`' ? !p->in_code : p->in_code;
    p->in_quote = c == '"' && !p->in_code ? !p->in_quote : p->in_quote;
}

bool sp_prose_is_protected(const sp_prose *p)
{
    return p->is_json || p->in_fence || p->in_code || p->in_quote || p->is_row || p->is_info ||
           p->n_mark;
}

bool sp_prose_may_end(const char *p, size_t begin, size_t i)
{
    size_t k = i;
    if (p[i] != '.')
        return p[i] == '!' || p[i] == '?';
    while (k > begin && (sp_prose_letter(p[k - 1]) || sp_prose_digit(p[k - 1]) || p[k - 1] == '.'))
        k--;
    size_t n = i - k;
    static const char *const shorts[] = {"e.g", "i.e", "etc", "vs", "cf", "approx", "prof"};
    for (size_t s = 0; s < sizeof shorts / sizeof shorts[0]; s++)
        if (n == strlen(shorts[s]) && strncasecmp(p + k, shorts[s], n) == 0)
            return false;
    bool is_name = n && n <= 3 && p[k] >= 'A' && p[k] <= 'Z' && (n == 1 || p[k + 1] >= 'a'),
         is_number = n > 0;
    for (size_t d = k; d < i; d++)
        is_number = is_number && sp_prose_digit(p[d]);
    while (k > begin && sp_prose_blank(p[k - 1]))
        k--;
    return !is_name && !(is_number && k == begin);
}
