#include "cmd/improve_report.h"

#include "cmd/improve_course.h"
#include "cmd/improve_train.h"

#include <math.h>
#include <stdio.h>
#include <string.h>
#include <time.h>

void sp_improve_report_name(const sp_proposal *p, char *out, size_t cap)
{
    if (p->knob == SP_KNOBS)
        snprintf(out, cap, "back to the options");
    else if (p->knob == SP_KNOB_CONTROL)
        snprintf(out, cap, "control %s to %s", p->from > 0 ? "safe" : "off",
                 p->to > 0 ? "safe" : "off");
    else
        snprintf(out, cap, "%s %.6g to %.6g", sp_knob_name(p->knob), p->from, p->to);
}

static double share_of_cost(const sp_decision *s)
{
    return s->cost[0] > 0 ? s->cost[1] / s->cost[0] : 1;
}

static const char *guard_words(sp_guard g)
{
    static const char *const words[SP_GUARDS] = {
        "none", "more answers failed", "the quality is below the floor",
        "answers took longer than is allowed", "the quality is proven worse, in all or in a class"};
    return words[g];
}

static void put_failures(sp_buf *out, const sp_failures *f)
{
    const struct {
        const char *what;
        size_t n;
    } row[] = {{"ended in an error", f->failed},
               {"were rated bad, or a better answer was given", f->bad},
               {"became unsure", f->unsure},
               {"were light and given up for a better path", f->escalated},
               {"looked for passages and found none", f->not_found},
               {"were ended by a limit of tokens", f->truncated}};
    sp_buf_printf(
        out, "## What failed\n\nOf %zu answers of this time\n\n| | answers |\n|---|---|\n", f->n);
    for (size_t i = 0; i < sizeof row / sizeof *row; i++)
        sp_buf_printf(out, "| %s | %zu |\n", row[i].what, row[i].n);
}

static void put_signals(sp_buf *out, const sp_signal *s)
{
    sp_buf_puts(out, "\nSignals that nobody gave as a rating, and that decide nothing: ");
    for (size_t i = 0; i < SP_SIGNALS; i++)
        sp_buf_printf(out, "%s%s %zu", i ? ", " : "", s[i].name, s[i].n);
    sp_buf_puts(out, ".\n");
}

static void put_trained(sp_buf *out, const sp_improve_report *r)
{
    if (r->retrained || r->policy || r->head)
        sp_buf_puts(out, "\n## What was trained\n");
    if (r->retrained)
        sp_buf_printf(out,
                      "\nModel of intent %u, from %zu labelled prompts and %zu of this site's "
                      "earlier days, of which %zu had a better answer on the full path.\n",
                      r->retrained->number, r->retrained->n_label, r->retrained->n_own,
                      r->retrained->n_full);
    if (r->policy)
        sp_buf_printf(out,
                      "\nPolicy %u of the rule `learned`, in %zu rounds over %zu prompts of the "
                      "earlier days.\n",
                      r->policy->number, r->policy->n_round, r->policy->n_prompt);
    if (r->head)
        sp_buf_printf(out,
                      "\nDraft head %u, in %llu steps over %llu tokens of answers to %zu prompts "
                      "of the earlier days; its first guess is right in %.3f of %llu tokens that "
                      "were held out of them.\n",
                      r->head->number, (unsigned long long)r->head->about.n_step,
                      (unsigned long long)r->head->about.n_train, r->head->n_prompt,
                      (double)r->head->about.right[0], (unsigned long long)r->head->about.n_held);
}

static void put_judge(sp_buf *out, const sp_improve_report *r)
{
    const sp_cmd_judge *j = r->judge;
    if (!j)
        return;
    sp_buf_printf(
        out,
        "\n## Who judged\n\n`%s` (%s) compared %zu pairs of answers to prompts without an exact "
        "check, each twice with the answers' places swapped. %zu pairs were equal, and nobody was "
        "asked; in %zu the two verdicts did not agree, and in %zu one was missing: these are ties. "
        "Its verdicts took %zu tokens.\n",
        j->who, j->place ? j->place->model : "this model", j->n, j->n_same, j->n_split,
        j->n_unclear, j->tok);
}

static void put_tried(sp_buf *out, const sp_improve_report *r)
{
    sp_buf_printf(
        out,
        "\n## What was tried\n\nEach on %zu prompts of the earlier days. Quality and cost "
        "are those of the try against those in force.\n\n"
        "| setting | why | prompts | quality | won, lost | cost | guard that it lost |\n"
        "|---|---|---|---|---|---|---|\n",
        r->out->n_search);
    for (size_t i = 0; i < r->out->n_tried; i++) {
        const sp_tried *t = &r->out->tried[i];
        const sp_decision *s = &t->search;
        char name[80];
        sp_improve_report_name(&t->what, name, sizeof name);
        sp_buf_printf(out, "| %s%s | %s | %zu | %+.3f | %zu, %zu | %.0f %% | %s |\n", name,
                      i == r->out->best ? " (the best)" : "", t->what.why, s->n,
                      s->mean_difference, s->won, s->lost_n, 100 * share_of_cost(s),
                      guard_words(s->lost));
    }
}

static void put_decision(sp_buf *out, const sp_improve_report *r)
{
    const sp_decision *s = &r->out->held;
    char name[80];
    sp_buf_puts(out, "\n## What was decided\n\n");
    if (r->out->best == r->out->n_tried) {
        sp_buf_puts(out, "No try was worth the days that were held out. Nothing changes.\n");
        return;
    }
    sp_improve_report_name(&r->out->tried[r->out->best].what, name, sizeof name);
    sp_buf_printf(out,
                  "`%s`, on %zu prompts of the days that were held out:\n\n"
                  "| | in force | tried | difference, with an interval of %.0f %% |\n"
                  "|---|---|---|---|\n"
                  "| quality | %.3f | %.3f | %+.3f (%+.3f to %+.3f) |\n",
                  name, s->n, 100 * (1 - r->cfg->decide.alpha), s->quality[0], s->quality[1],
                  s->mean_difference, s->difference.low, s->difference.high);
    if (s->n_judged)
        sp_buf_printf(out, "| judged, of %zu | %zu better | %zu better | |\n", s->n_judged,
                      s->judged_lost, s->judged_won);
    sp_buf_printf(out, "| %s | %.4g | %.4g | %.0f %% (a pair's share %.3f to %.3f; 0.5: alike) |\n",
                  r->objective, s->cost[0], s->cost[1], 100 * share_of_cost(s), s->share.low,
                  s->share.high);
    sp_buf_printf(out, "| milliseconds | %.1f | %.1f | |\n| failed | %zu | %zu | |\n\n", s->ms[0],
                  s->ms[1], s->n_failed[0], s->n_failed[1]);
    sp_buf_printf(out,
                  "Evidence: %.1f to 1, where %.0f to 1 is enough. Guard that it lost: %s.\n\n",
                  exp(fmin(s->log_best, 700)), 1 / r->cfg->decide.alpha, guard_words(s->lost));
    if (!s->wins)
        sp_buf_puts(out, s->proven ? "**Not promoted**: no gain makes up for a guard.\n"
                                   : "**Not promoted**: it is not proven.\n");
    else if (r->dry)
        sp_buf_puts(out, "**It would be promoted**; this was a dry run.\n");
    else
        sp_buf_printf(out, "**Promoted** as version %u, because %s.\n", r->after,
                      s->by_cost ? "it costs less and is not worse" : "its answers are better");
}

static void put_watch(sp_buf *out, const sp_improve_report *r)
{
    sp_buf_printf(
        out, "\n## What it cost\n\n%zu answers, %.0f s, %.4g GFLOP, %.4g by the price table.\n",
        r->n_answer, r->seconds, r->flops * 1e-9, r->cost);
    sp_buf_puts(out, "\n## What will be watched\n\nThe next round tries the options again, beside "
                     "all else. Until then compare, by `version` in the receipts: failed answers, "
                     "bad ratings, escalations, answers that were cut, time and cost. `sparing "
                     "improve back` puts the version before into force; SIGHUP makes the server "
                     "read it.\n");
}

void sp_improve_report_write(const sp_improve_report *r, sp_buf *out)
{
    char day[32] = "";
    time_t at = (time_t)r->now;
    struct tm tm;
    const sp_decide_cfg *c = &r->cfg->decide;
    if (gmtime_r(&at, &tm))
        strftime(day, sizeof day, "%Y-%m-%d", &tm);
    sp_buf_printf(out,
                  "# Round %zu of improvement, %s\n\nIn force before it: version %u (0: the "
                  "options). Objective: answers that are better; else as good, by less than "
                  "%.3g worse, and at least %.3g %% less of %s. Floor of the quality: %.3g. "
                  "Time at most %.3g times as long.\n\n",
                  r->round, day, r->before, c->margin, 100 * c->gain, r->objective, c->floor,
                  c->slower);
    put_failures(out, r->failures);
    if (r->signal)
        put_signals(out, r->signal);
    sp_buf_printf(out,
                  "\n## Prompts\n\n%zu of %zu days; the last %zu days were held out. %zu come "
                  "from the server's own records; %zu ratings could not be asked again, "
                  "because their conversation is not kept or is not text alone.\n",
                  r->prompts->n, r->prompts->n_day, r->prompts->n_day_held, r->prompts->n_record,
                  r->prompts->left_out);
    put_trained(out, r);
    put_judge(out, r);
    put_tried(out, r);
    put_decision(out, r);
    put_watch(out, r);
}

static void put_json_decision(sp_buf *out, const sp_decision *s)
{
    sp_buf_printf(
        out,
        "{\"prompts\":%zu,\"quality\":[%.6g,%.6g],\"cost\":[%.9g,%.9g],\"ms\":[%.3f,%.3f],"
        "\"failed\":[%zu,%zu],\"won\":%zu,\"lost\":%zu,\"judged\":[%zu,%zu,%zu],"
        "\"log_evidence\":%.4f,"
        "\"difference\":{\"low\":%.6g,\"high\":%.6g},\"proven\":%s,\"guard\":\"%s\","
        "\"wins\":%s}",
        s->n, s->quality[0], s->quality[1], s->cost[0], s->cost[1], s->ms[0], s->ms[1],
        s->n_failed[0], s->n_failed[1], s->won, s->lost_n, s->n_judged, s->judged_won,
        s->judged_lost, s->n ? s->log_best : 0,
        s->difference.low, s->difference.high, s->proven ? "true" : "false", sp_guard_name(s->lost),
        s->wins ? "true" : "false");
}

static void put_json_trained(sp_buf *out, const sp_improve_report *r)
{
    const char *gap = "";
    sp_buf_puts(out, "\"trained\":{");
    if (r->retrained) {
        sp_buf_printf(out, "\"intent\":{\"number\":%u,\"labelled\":%zu,\"own\":%zu,\"full\":%zu}",
                      r->retrained->number, r->retrained->n_label, r->retrained->n_own,
                      r->retrained->n_full);
        gap = ",";
    }
    if (r->policy) {
        sp_buf_printf(out, "%s\"policy\":{\"number\":%u,\"prompts\":%zu,\"rounds\":%zu}", gap,
                      r->policy->number, r->policy->n_prompt, r->policy->n_round);
        gap = ",";
    }
    if (r->head)
        sp_buf_printf(out,
                      "%s\"head\":{\"number\":%u,\"prompts\":%zu,\"steps\":%llu,\"right\":%.4f}",
                      gap, r->head->number, r->head->n_prompt,
                      (unsigned long long)r->head->about.n_step, (double)r->head->about.right[0]);
    sp_buf_puts(out, "},");
}

void sp_improve_report_json(const sp_improve_report *r, sp_buf *out)
{
    const sp_failures *f = r->failures;
    sp_buf_printf(out,
                  "{\"round\":%zu,\"before\":%u,\"after\":%u,\"dry_run\":%s,\"failures\":{"
                  "\"answers\":%zu,\"failed\":%zu,\"bad\":%zu,\"unsure\":%zu,\"escalated\":%zu,"
                  "\"not_found\":%zu,\"truncated\":%zu},",
                  r->round, r->before, r->after, r->dry ? "true" : "false", f->n, f->failed, f->bad,
                  f->unsure, f->escalated, f->not_found, f->truncated);
    sp_buf_printf(out,
                  "\"prompts\":{\"all\":%zu,\"days\":%zu,\"days_held\":%zu,\"records\":%zu,"
                  "\"left_out\":%zu},",
                  r->prompts->n, r->prompts->n_day, r->prompts->n_day_held, r->prompts->n_record,
                  r->prompts->left_out);
    put_json_trained(out, r);
    if (r->judge) {
        sp_buf_puts(out, "\"judge\":");
        sp_cmd_judge_json(r->judge, out);
        sp_buf_putc(out, ',');
    }
    sp_buf_puts(out, "\"tried\":[");
    for (size_t i = 0; i < r->out->n_tried; i++) {
        char name[80];
        sp_improve_report_name(&r->out->tried[i].what, name, sizeof name);
        sp_buf_printf(out, "%s{\"name\":\"%s\",\"best\":%s,\"search\":", i ? "," : "", name,
                      i == r->out->best ? "true" : "false");
        put_json_decision(out, &r->out->tried[i].search);
        sp_buf_putc(out, '}');
    }
    sp_buf_puts(out, "],\"held\":");
    if (r->out->best < r->out->n_tried)
        put_json_decision(out, &r->out->held);
    else
        sp_buf_puts(out, "null");
    sp_buf_printf(out, ",\"answers\":%zu,\"seconds\":%.3f,\"cost\":%.9g,\"flops\":%.6g}",
                  r->n_answer, r->seconds, r->cost, r->flops);
}
