#include "cmd/improve_prompts.h"

#include "base/file.h"
#include "base/mem.h"
#include "cmd/check.h"
#include "cmd/judge.h"

#include <jansson.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

enum { MAX_FILE = 64 << 20, DAY_S = 86400 };

static sp_err add(sp_prompts *p, int64_t at, json_t *line, bool is_record, sp_diag *d)
{
    if (!line || !sp_mem_has_room(&p->p, &p->cap, p->n, sizeof *p->p)) {
        json_decref(line);
        return SP_FAIL(d, SP_NOMEM, "prompts");
    }
    p->p[p->n] = (sp_prompt_line){at, p->n, line, is_record};
    p->n++;
    return SP_OK;
}

/* "YYYY-MM-DD", UTC. */
static bool read_day(int64_t *out, const char *text)
{
    struct tm tm = {0};
    const char *end = text ? strptime(text, "%Y-%m-%d", &tm) : NULL;
    if (!end || *end)
        return false;
    *out = (int64_t)timegm(&tm);
    return true;
}

static sp_err read_line(sp_prompts *p, const char *text, size_t at_line, const sp_cmd_judge *judge,
                        sp_diag *d)
{
    json_error_t bad;
    int64_t at = 0;
    json_t *line = json_loads(text, 0, &bad);
    sp_diag no = {0};
    const char *why = !line ? bad.text
                      : !sp_check_is_there(line, judge->who != NULL)
                          ? "its check is none of contains, any, equals, number, like"
                      : !read_day(&at, json_string_value(json_object_get(line, "at")))
                          ? "at is not its day as YYYY-MM-DD"
                      : !json_is_string(json_object_get(line, "prompt")) &&
                              !json_is_array(json_object_get(line, "messages"))
                          ? "it has neither messages of role and content nor a prompt"
                          : NULL;
    if (!why && sp_cmd_judge_takes(judge, line, false) &&
        sp_cmd_judge_may(judge, line, &no) != SP_OK)
        why = no.msg;
    if (!why)
        return add(p, at, line, false, d);
    sp_err err = SP_FAIL(d, SP_FORMAT, "line %zu: %.120s", at_line, why);
    json_decref(line);
    return err;
}

sp_err sp_prompts_read(sp_prompts *out, const char *path, const sp_cmd_judge *judge, sp_diag *d)
{
    sp_buf file = {0};
    sp_diag why = {0};
    size_t at = 0;
    char *save = NULL;
    SP_TRY(sp_file_read(&file, path, MAX_FILE, d));
    char *text = sp_mem_strdup(sp_buf_str(&file));
    sp_err err = text ? SP_OK : SP_FAIL(&why, SP_NOMEM, "file");
    for (char *p = text ? strtok_r(text, "\n", &save) : NULL; p && err == SP_OK;
         p = strtok_r(NULL, "\n", &save))
        err = read_line(out, p, ++at, judge, &why);
    sp_mem_free(text);
    sp_buf_fini(&file);
    return err == SP_OK ? SP_OK : SP_FAIL(d, err, "%.80s: %.110s", path, why.msg);
}

static sp_err take_record(void *arg, int64_t at, const sp_hdb_item *m, size_t n, const char *good,
                          sp_diag *d)
{
    sp_prompts *p = arg;
    json_t *list = json_array();
    for (size_t i = 0; i < n; i++)
        if (json_array_append_new(list, json_pack("{s:s%, s:s%}", "role", m[i].role.p, m[i].role.n,
                                                  "content", m[i].text.p, m[i].text.n)) != 0) {
            json_decref(list);
            return SP_FAIL(d, SP_NOMEM, "prompts");
        }
    p->n_record++;
    return add(p, at, json_pack("{s:o, s:{s:s}}", "messages", list, "check", "like", good), true,
               d);
}

sp_err sp_prompts_records(sp_prompts *out, sp_db *feedback, sp_hdb *history, int64_t since,
                          sp_diag *d)
{
    return sp_records_walk(feedback, history, since, take_record, out, &out->left_out, d);
}

static int by_time(const void *a, const void *b)
{
    const sp_prompt_line *x = a, *y = b;
    int day = (x->at / DAY_S > y->at / DAY_S) - (x->at / DAY_S < y->at / DAY_S);
    return day ? day : (x->order > y->order) - (x->order < y->order);
}

sp_err sp_prompts_split(sp_prompts *p, double share, sp_diag *d)
{
    if (p->n)
        qsort(p->p, p->n, sizeof *p->p, by_time);
    p->n_day = p->n ? 1 : 0;
    for (size_t i = 1; i < p->n; i++)
        p->n_day += p->p[i].at / DAY_S != p->p[i - 1].at / DAY_S;
    if (p->n_day < 2)
        return SP_FAIL(d, SP_INVAL,
                       "there are prompts of %zu days: some are tried on, and others are held out "
                       "for the decision, so two days are needed at least",
                       p->n_day);
    p->n_day_held = (size_t)(share * (double)p->n_day + 0.5);
    p->n_day_held = p->n_day_held < 1           ? 1
                    : p->n_day_held >= p->n_day ? p->n_day - 1
                                                : p->n_day_held;
    size_t day = 1;
    for (size_t i = 1; i < p->n && !p->n_early; i++) {
        day += p->p[i].at / DAY_S != p->p[i - 1].at / DAY_S;
        p->n_early = day > p->n_day - p->n_day_held ? i : 0;
    }
    return SP_OK;
}

void sp_prompts_fini(sp_prompts *p)
{
    for (size_t i = 0; i < p->n; i++)
        json_decref(p->p[i].line);
    sp_mem_free(p->p);
    *p = (sp_prompts){0};
}
