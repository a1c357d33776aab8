#include "stat/decide.h"

#include "base/mem.h"

#include <math.h>

#define BETTER 0.8 /* of the first wealth; the rest lies on cheaper, whose evidence comes faster */

static double difference_of(const sp_pair *p)
{
    return 0.5 * (1 + p->quality[1] - p->quality[0]);
}

static double share_of(const sp_pair *p)
{
    double sum = p->cost[0] + p->cost[1];
    return sum > 0 ? p->cost[0] / sum : 0.5;
}

/* The share of a pair's cost that the one in force has where the try saves `gain` of it. */
static double share_at(double gain)
{
    return 1 / (2 - gain);
}

static double smaller(double a, double b)
{
    return a < b ? a : b;
}

/* The first bets only, and most on what a difference of ten points wins by: those behind them are
 * for more samples than a round has. */
static void open_wager(sp_wager *w, double mean, bool below)
{
    static const double part[SP_EVIDENCE_BETS] = {0.15, 0.35, 0.25, 0.15, 0.1};
    sp_wager_init(w, mean, below);
    for (size_t i = 0; i < SP_EVIDENCE_BETS; i++)
        w->wealth[i] = part[i];
}

static void bet(sp_decision *out, const sp_decide_cfg *cfg, const sp_pair *p, size_t n)
{
    sp_wager better, worse, kept, cheaper;
    double limit = -log(cfg->alpha), highest = 0;
    open_wager(&better, 0.5, false);
    open_wager(&worse, 0.5, true);
    open_wager(&kept, 0.5 * (1 - cfg->margin), false);
    open_wager(&cheaper, share_at(cfg->gain), false);
    for (size_t i = 0; i < n; i++) {
        sp_wager_add(&better, difference_of(&p[i]));
        sp_wager_add(&worse, difference_of(&p[i]));
        sp_wager_add(&kept, difference_of(&p[i]));
        sp_wager_add(&cheaper, share_of(&p[i]));
        double a = exp(sp_wager_log(&better)),
               b = exp(smaller(sp_wager_log(&kept), sp_wager_log(&cheaper)));
        out->log_now = log(BETTER * a + (1 - BETTER) * b);
        if (i == 0 || out->log_now > highest) {
            highest = out->log_now;
            out->by_cost = (1 - BETTER) * b > BETTER * a;
        }
        out->worse = out->worse || sp_wager_log(&worse) >= limit;
    }
    out->log_best = highest;
    out->proven = n > 0 && highest >= limit;
}

static void add_up(sp_decision *out, const sp_pair *p, size_t n)
{
    for (size_t i = 0; i < n; i++)
        out->n_judged += p[i].judged;
    for (size_t i = 0; i < n; i++) {
        for (size_t k = 0; k < 2; k++) {
            out->quality[k] += p[i].judged ? 0 : p[i].quality[k] / (double)(n - out->n_judged);
            out->cost[k] += p[i].cost[k] / (double)n;
            out->ms[k] += p[i].ms[k] / (double)n;
            out->n_failed[k] += p[i].failed[k];
        }
        bool won = p[i].quality[1] > p[i].quality[0], lost = p[i].quality[1] < p[i].quality[0];
        out->mean_difference += (p[i].quality[1] - p[i].quality[0]) / (double)n;
        out->won += won;
        out->lost_n += lost;
        out->judged_won += won && p[i].judged;
        out->judged_lost += lost && p[i].judged;
    }
}

/* Is the quality of one class proven worse? Each class has its share of alpha. */
static bool loses_class(const sp_decide_cfg *cfg, const sp_pair *p, size_t n)
{
    sp_wager worse[SP_DECIDE_CLASSES];
    bool lost = false;
    for (size_t c = 0; c < SP_DECIDE_CLASSES; c++)
        sp_wager_init(&worse[c], 0.5, true);
    for (size_t i = 0; i < n; i++) {
        sp_wager *w = &worse[p[i].cls];
        sp_wager_add(w, difference_of(&p[i]));
        lost = lost || sp_wager_log(w) >= -log(cfg->alpha / SP_DECIDE_CLASSES);
    }
    return lost;
}

static sp_guard lost_guard(const sp_decision *s, const sp_decide_cfg *cfg, const sp_pair *p)
{
    return s->n_failed[1] > s->n_failed[0]         ? SP_GUARD_FAILED
           : s->quality[1] < cfg->floor            ? SP_GUARD_FLOOR
           : s->ms[1] > cfg->slower * s->ms[0]     ? SP_GUARD_SLOWER
           : s->worse || loses_class(cfg, p, s->n) ? SP_GUARD_CLASS
                                                   : SP_GUARD_NONE;
}

/* Intervals need a list of samples; without memory they say nothing. */
static void bound(sp_decision *out, const sp_pair *p, double alpha)
{
    double *x = sp_mem_array(out->n ? out->n : 1, sizeof *x);
    out->difference = (sp_interval){-1, 1};
    out->share = (sp_interval){0, 1};
    for (size_t i = 0; i < out->n && x; i++)
        x[i] = difference_of(&p[i]);
    if (x && out->n) {
        sp_interval is = sp_interval_of(x, out->n, alpha);
        out->difference = (sp_interval){2 * is.low - 1, 2 * is.high - 1};
    }
    for (size_t i = 0; i < out->n && x; i++)
        x[i] = share_of(&p[i]);
    if (x && out->n)
        out->share = sp_interval_of(x, out->n, alpha);
    sp_mem_free(x);
}

void sp_decide(sp_decision *out, const sp_decide_cfg *cfg, const sp_pair *p, size_t n)
{
    *out = (sp_decision){.n = n};
    add_up(out, p, n);
    bet(out, cfg, p, n);
    bound(out, p, cfg->alpha);
    out->lost = n ? lost_guard(out, cfg, p) : SP_GUARD_NONE;
    out->wins = out->proven && out->lost == SP_GUARD_NONE;
}

const char *sp_guard_name(sp_guard g)
{
    static const char *const name[] = {"none", "failed", "floor", "slower", "class"};
    return name[g];
}
