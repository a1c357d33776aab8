#include "obs/receipt.h"

#include <string.h>

const char *sp_path_name(sp_path p)
{
    static const char *const name[] = {"light", "full", "upstream"};
    return name[p];
}

static void longest(double *a, double b)
{
    if (b > *a)
        *a = b;
}

void sp_receipt_add(sp_receipt *sum, const sp_receipt *r)
{
    sum->path = r->path;
    sum->n_unsure += r->n_unsure;
    sum->tok_unsure += r->tok_unsure;
    sum->tok_away += r->tok_away;
    sum->tok_away_known += r->tok_away_known;
    sum->tok_computed += r->tok_computed;
    sum->tok_ram += r->tok_ram;
    sum->tok_ssd += r->tok_ssd;
    sum->tok_s3 += r->tok_s3;
    sum->tok_spliced += r->tok_spliced;
    sum->placed += r->placed;
    sum->tok_demoted += r->tok_demoted;
    sum->chunks += r->chunks;
    sum->left_out += r->left_out;
    sum->flops_spent += r->flops_spent;
    sum->flops_dense += r->flops_dense;
    sum->attn_epsilon = r->attn_epsilon; /* one plan */
    sum->attn_seen += r->attn_seen;
    sum->attn_kept += r->attn_kept;
    sum->attn_loss += r->attn_loss;
    sum->attn_calls += r->attn_calls;
    sum->attn_dense_calls += r->attn_dense_calls;
    sum->values_seen += r->values_seen;
    sum->values_read += r->values_read;
    sum->prefill_keep = r->prefill_keep;
    sum->pages_seen += r->pages_seen;
    sum->pages_kept += r->pages_kept;
    sum->samples += r->samples;
    sum->missed += r->missed;
    longest(&sum->missed_most, r->missed_most);
    sum->kv_bytes += r->kv_bytes;
    sum->kv_dense += r->kv_dense;
    longest(&sum->attn_bound, r->attn_bound);
    sum->steps += r->steps;
    sum->tok_out += r->tok_out;
    sum->tok_drafted += r->tok_drafted;
    for (size_t i = 0; i < SP_DRAFTERS; i++) {
        sum->draft[i].drafted += r->draft[i].drafted;
        sum->draft[i].accepted += r->draft[i].accepted;
    }
    sum->tok_accepted += r->tok_accepted;
    sum->refs.marks += r->refs.marks;
    sum->refs.tok += r->refs.tok;
    sum->refs.bytes += r->refs.bytes;
    sum->refs.mark_bytes += r->refs.mark_bytes;
    sum->refs.guessed += r->refs.guessed;
    sum->control.rules |= r->control.rules;
    sum->control.sentences += r->control.sentences;
    sum->control.comments += r->control.comments;
    sum->control.tok += r->control.tok;
    sum->control.bytes += r->control.bytes;
    sum->control.penalised += r->control.penalised;
    sum->control.ended = r->control.ended ? r->control.ended : sum->control.ended;
    sum->control.thought = r->control.thought ? r->control.thought : sum->control.thought;
    sum->control.same = r->control.same ? r->control.same : sum->control.same;
    sum->control.conclusions += r->control.conclusions;
    sum->control.think_left += r->control.think_left;
    sum->control.trials += r->control.trials;
    sum->control.trials_same += r->control.trials_same;
    sum->control.trials_left_out += r->control.trials_left_out;
    sum->control.trial_tok += r->control.trial_tok;
    sum->tok_think += r->tok_think;
    sum->tok_forced += r->tok_forced;
    longest(&sum->ms_attach, r->ms_attach);
    longest(&sum->ms_first_layer, r->ms_first_layer);
    longest(&sum->ms_load, r->ms_load);
    longest(&sum->ms_queue, r->ms_queue);
    longest(&sum->ms_intent, r->ms_intent);
    longest(&sum->ms_retrieval, r->ms_retrieval);
    longest(&sum->ms_prefill, r->ms_prefill);
    longest(&sum->ms_decode, r->ms_decode);
    sum->ms_machine += r->ms_machine;
    sum->joules += r->joules;
    sum->is_measured = sum->is_measured || r->is_measured;
    sum->cost += r->cost;
}

const char *sp_draft_name(sp_draft_id id)
{
    static const char *const name[SP_DRAFTERS] = {"lookup", "prediction", "earlier",
                                                  "model",  "head",       "mtp"};
    return name[id];
}

bool sp_draft_find(sp_draft_id *out, const char *name)
{
    for (size_t i = 0; i < SP_DRAFTERS; i++) {
        if (strcmp(name, sp_draft_name((sp_draft_id)i)) != 0)
            continue;
        *out = (sp_draft_id)i;
        return true;
    }
    return false;
}

const char *sp_unsure_name(sp_unsure_did did)
{
    static const char *const name[SP_UNSURE_DIDS] = {"nothing", "retrieved", "voted"};
    return name[did];
}

static void put_unsure(sp_buf *out, const sp_receipt *r)
{
    const sp_receipt_unsure *u = &r->unsure;
    size_t n = u->n < SP_UNSURE_CAUSES ? u->n : SP_UNSURE_CAUSES;
    if (r->n_unsure && !u->n)
        sp_buf_printf(out, ",\"uncertain\":{\"given_up\":%zu,\"tokens\":%zu}", r->n_unsure,
                      r->tok_unsure);
    if (!u->n)
        return;
    sp_buf_printf(out, ",\"uncertain\":{\"given_up\":%zu,\"tokens\":%zu,\"prompt_tokens\":%zu",
                  r->n_unsure, r->tok_unsure + u->tok, u->tok_prompt);
    for (size_t i = 0; i < SP_UNSURE_DIDS; i++)
        sp_buf_printf(out, ",\"%s\":%zu", sp_unsure_name((sp_unsure_did)i), u->n_did[i]);
    sp_buf_printf(out, ",\"ms\":%.3f,\"cost\":%.6g,\"causes\":[", u->ms, u->cost);
    for (size_t i = 0; i < n; i++)
        sp_buf_printf(
            out, "%s{\"at\":%zu,\"logprob\":%.4f,\"entropy\":%.4f,\"margin\":%.4f,\"did\":\"%s\"}",
            i ? "," : "", u->cause[i].at, (double)u->cause[i].logprob, (double)u->cause[i].entropy,
            (double)u->cause[i].margin, sp_unsure_name(u->cause[i].did));
    sp_buf_puts(out, "]}");
}

const char *sp_prune_name(sp_prune r)
{
    static const char *const name[SP_PRUNES] = {"loop", "repeat",   "sentence", "thinking",
                                                "dry",  "comments", "learned",  "trial"};
    return name[r];
}

bool sp_prune_find(sp_prune *out, const char *name)
{
    for (size_t i = 0; i < SP_PRUNES; i++) {
        if (strcmp(name, sp_prune_name((sp_prune)i)) != 0)
            continue;
        *out = (sp_prune)i;
        return true;
    }
    return false;
}

static void put_control(sp_buf *out, const sp_receipt_control *c)
{
    bool any = false;
    if (!c->rules)
        return;
    sp_buf_puts(out, "\"control\":{\"rules\":[");
    for (size_t i = 0; i < SP_PRUNES; i++) {
        if (!(c->rules & 1u << i))
            continue;
        sp_buf_printf(out, "%s\"%s\"", any ? "," : "", sp_prune_name((sp_prune)i));
        any = true;
    }
    sp_buf_printf(out,
                  "],\"pruned\":{\"sentences\":%zu,\"comments\":%zu,\"tokens\":%zu,\"bytes\":%zu},"
                  "\"penalised\":%zu",
                  c->sentences, c->comments, c->tok, c->bytes, c->penalised);
    if (c->ended)
        sp_buf_printf(out, ",\"ended\":\"%s\"", c->ended);
    if (c->same)
        sp_buf_printf(out, ",\"thinking\":{\"same\":%zu,\"conclusions\":%zu}", c->same,
                      c->conclusions);
    if (c->rules & 1u << SP_PRUNE_TRIAL)
        sp_buf_printf(out, ",\"trial\":{\"made\":%zu,\"same\":%zu,\"left_out\":%zu,\"tokens\":%zu}",
                      c->trials, c->trials_same, c->trials_left_out, c->trial_tok);
    if (c->thought)
        sp_buf_printf(out, ",\"thinking_ended\":\"%s\",\"thinking_left\":%zu", c->thought,
                      c->think_left);
    sp_buf_puts(out, "},");
}

void sp_receipt_write_place(const sp_receipt_place *p, sp_buf *out)
{
    if (!p->name)
        return;
    sp_buf_printf(out, "\"placement\":{\"where\":\"%s\",\"place\":", p->where);
    sp_buf_json_str(out, p->name, strlen(p->name));
    sp_buf_puts(out, ",\"rule\":");
    if (p->rule)
        sp_buf_json_str(out, p->rule, strlen(p->rule));
    else
        sp_buf_puts(out, "null");
    sp_buf_printf(out, ",\"why\":\"%s\"},", p->why);
}

void sp_receipt_write(const sp_receipt *r, sp_buf *out)
{
    sp_buf_printf(out, "{\"path\":\"%s\",", sp_path_name(r->path));
    if (r->why)
        sp_buf_printf(out, "\"why\":\"%s\",", r->why);
    if (r->cls)
        sp_buf_printf(out, "\"class\":\"%s\",\"difficulty\":%.4f,\"need\":%.4f,", r->cls,
                      r->difficulty, r->need);
    sp_receipt_write_place(&r->place, out);
    if (r->not_enforced)
        sp_buf_printf(out, "\"not_enforced\":[%s],", r->not_enforced);
    if (r->experiment)
        sp_buf_printf(out, "\"experiment\":[%s],", r->experiment);
    if (r->version)
        sp_buf_printf(out, "\"version\":%u,", r->version);
    if (r->truncated)
        sp_buf_puts(out, "\"truncated\":true,");
    if (r->ignored)
        sp_buf_printf(out, "\"ignored\":[%s],", r->ignored);
    if (r->escalated)
        sp_buf_puts(out, "\"escalated\":true,");
    if (r->votes > 1)
        sp_buf_printf(out, "\"votes\":%zu,", r->votes);
    sp_buf_printf(out,
                  "\"prompt_tokens\":{\"computed\":%zu,\"ram\":%zu,\"ssd\":%zu,\"s3\":%zu,"
                  "\"spliced\":%zu,\"upstream\":%zu},\"placed_tokens\":%zu,",
                  r->tok_computed, r->tok_ram, r->tok_ssd, r->tok_s3, r->tok_spliced, r->tok_away,
                  r->placed);
    sp_buf_printf(out, "\"retrieved\":{\"chunks\":%zu,\"left_out\":%zu,\"ms\":%.3f},", r->chunks,
                  r->left_out, r->ms_retrieval);
    if (r->handed.bytes)
        sp_buf_printf(out,
                      "\"handed\":{\"pages\":%zu,\"bytes\":%zu,\"early\":{\"pages\":%zu,\"bytes\":"
                      "%zu},\"ms\":%.3f,\"late_ms\":%.3f},",
                      r->handed.pages, r->handed.bytes, r->handed.early_pages,
                      r->handed.early_bytes, r->handed.ms, r->handed.late_ms);
    sp_buf_printf(out, "\"flops\":{\"spent\":%.6g,\"dense\":%.6g},", r->flops_spent,
                  r->flops_dense);
    sp_buf_printf(out,
                  "\"attention\":{\"kept\":%.6g,\"epsilon\":%.6g,\"max_bound\":%.6g,\"mean_bound\":"
                  "%.6g,\"dense_calls\":%.6g,"
                  "\"kv_bytes\":{\"read\":%.12g,\"dense\":%.12g},\"demoted_tokens\":%zu,"
                  "\"prefill\":{\"values_read\":%.6g,\"keep\":%.6g,\"pages_kept\":%.6g,\"sampled_"
                  "miss_mean\":%.6g,\"sampled_miss_max\":%.6g}},",
                  r->attn_seen > 0 ? r->attn_kept / r->attn_seen : 1, r->attn_epsilon,
                  r->attn_bound, r->attn_calls > 0 ? r->attn_loss / r->attn_calls : 0,
                  r->attn_calls > 0 ? r->attn_dense_calls / r->attn_calls : 1, r->kv_bytes,
                  r->kv_dense, r->tok_demoted,
                  r->values_seen > 0 ? r->values_read / r->values_seen : 1, r->prefill_keep,
                  r->pages_seen > 0 ? r->pages_kept / r->pages_seen : 1,
                  r->samples > 0 ? r->missed / r->samples : 0, r->missed_most);
    sp_buf_printf(out,
                  "\"decode\":{\"steps\":%zu,\"tokens\":%zu,\"thinking\":%zu,\"drafted\":%zu,"
                  "\"accepted\":%zu,\"forced\":%zu,\"drafters\":{",
                  r->steps, r->tok_out, r->tok_think, r->tok_drafted, r->tok_accepted,
                  r->tok_forced);
    bool any = false;
    for (size_t i = 0; i < SP_DRAFTERS; i++) {
        if (!r->draft[i].drafted)
            continue;
        sp_buf_printf(out, "%s\"%s\":{\"drafted\":%zu,\"accepted\":%zu}", any ? "," : "",
                      sp_draft_name((sp_draft_id)i), r->draft[i].drafted, r->draft[i].accepted);
        any = true;
    }
    sp_buf_putc(out, '}');
    put_unsure(out, r);
    sp_buf_puts(out, "},");
    put_control(out, &r->control);
    if (r->refs.marks)
        sp_buf_printf(out,
                      "\"references\":{\"marks\":%zu,\"tokens\":%zu,\"bytes\":%zu,\"mark_bytes\":%"
                      "zu,\"guessed\":%zu},",
                      r->refs.marks, r->refs.tok, r->refs.bytes, r->refs.mark_bytes,
                      r->refs.guessed);
    sp_buf_printf(out,
                  "\"ms\":{\"attach\":%.3f,\"first_layer\":%.3f,\"load\":%.3f,\"queue\":%.3f,"
                  "\"intent\":%.3f,\"retrieval\":%.3f,\"prefill\":%.3f,\"decode\":%.3f,"
                  "\"machine\":%.3f},",
                  r->ms_attach, r->ms_first_layer, r->ms_load, r->ms_queue, r->ms_intent,
                  r->ms_retrieval, r->ms_prefill, r->ms_decode, r->ms_machine);
    if (r->joules > 0)
        sp_buf_printf(out, "\"electricity\":{\"joules\":%.6g,\"measured\":%s},", r->joules,
                      r->is_measured ? "true" : "false");
    sp_buf_printf(out, "\"cost\":%.6g}", r->cost);
}
