#include "cmd/check.h"

#include "pipe/shadow.h"

#include <ctype.h>
#include <jansson.h>
#include <math.h>
#include <stdlib.h>
#include <string.h>
#include <strings.h>

static bool has(const char *text, const json_t *what)
{
    const char *s = json_string_value(what);
    return s && strcasestr(text, s);
}

static bool last_number(double *out, const char *text)
{
    bool found = false;
    for (const char *p = text; *p;) {
        char *end;
        bool starts = isdigit((unsigned char)*p) || (*p == '-' && isdigit((unsigned char)p[1]));
        double v = starts ? strtod(p, &end) : 0;
        found = found || starts;
        *out = starts ? v : *out;
        p = starts ? end : p + 1;
    }
    return found;
}

static bool equals(const char *text, const char *want)
{
    size_t n = strlen(text);
    while (n && isspace((unsigned char)text[n - 1]))
        n--;
    while (n && isspace((unsigned char)*text)) {
        text++;
        n--;
    }
    return strlen(want) == n && memcmp(text, want, n) == 0;
}

static bool is_right(const json_t *check, const char *text)
{
    const json_t *all = json_object_get(check, "contains"), *any = json_object_get(check, "any"),
                 *same = json_object_get(check, "equals");
    const json_t *number = json_object_get(check, "number");
    size_t i;
    json_t *one;
    bool right = true, some = false;
    double got = 0;
    json_array_foreach(all, i, one) right = right && has(text, one);
    json_array_foreach(any, i, one) some = some || has(text, one);
    right = right && (!any || some) && (!same || equals(text, json_string_value(same)));
    return right && (!number || (last_number(&got, text) && fabs(got - json_number_value(number)) <=
                                                                1e-9 * fmax(1, fabs(got))));
}

static bool is_texts(const json_t *v)
{
    size_t i;
    json_t *one;
    bool ok = !v || json_array_size(v) > 0;
    json_array_foreach(v, i, one) ok = ok && json_is_string(one);
    return ok;
}

bool sp_check_is_valid(const struct json_t *c)
{
    const json_t *all = json_object_get(c, "contains"), *any = json_object_get(c, "any"),
                 *same = json_object_get(c, "equals"), *number = json_object_get(c, "number"),
                 *like = json_object_get(c, "like");
    const json_t *const of[] = {all, any, same, number, like};
    size_t n = 0;
    for (size_t i = 0; i < sizeof of / sizeof *of; i++)
        n += of[i] != NULL;
    return json_is_object(c) && n == json_object_size(c) && n > 0 && is_texts(all) &&
           is_texts(any) && (!same || json_is_string(same)) &&
           (!number || json_is_number(number)) && (!like || json_string_length(like) > 0);
}

bool sp_check_is_there(const struct json_t *line, bool judged)
{
    const json_t *check = json_object_get(line, "check");
    return check ? sp_check_is_valid(check) : judged;
}

double sp_check_score(const struct json_t *c, const char *text)
{
    const json_t *like = json_object_get(c, "like");
    double alike = !like ? 1
                         : sp_shadow_agreement(text, strlen(text), json_string_value(like),
                                               json_string_length(like));
    return is_right(c, text) ? alike : 0;
}
