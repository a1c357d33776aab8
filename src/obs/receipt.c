#include "obs/receipt.h"

static void longest(double *a, double b)
{
    if (b > *a)
        *a = b;
}

void sp_receipt_add(sp_receipt *sum, const sp_receipt *r)
{
    sum->path = r->path;
    sum->tok_computed += r->tok_computed;
    sum->tok_ram += r->tok_ram;
    sum->tok_ssd += r->tok_ssd;
    sum->tok_s3 += r->tok_s3;
    sum->tok_demoted += r->tok_demoted;
    sum->chunks += r->chunks;
    sum->flops_spent += r->flops_spent;
    sum->flops_dense += r->flops_dense;
    sum->attn_kept = r->attn_kept; /* one plan, one epsilon */
    sum->attn_epsilon = r->attn_epsilon;
    longest(&sum->attn_bound, r->attn_bound);
    sum->steps += r->steps;
    sum->tok_out += r->tok_out;
    longest(&sum->ms_attach, r->ms_attach);
    longest(&sum->ms_first_layer, r->ms_first_layer);
    longest(&sum->ms_load, r->ms_load);
    longest(&sum->ms_queue, r->ms_queue);
    longest(&sum->ms_intent, r->ms_intent);
    longest(&sum->ms_retrieval, r->ms_retrieval);
    longest(&sum->ms_prefill, r->ms_prefill);
    longest(&sum->ms_decode, r->ms_decode);
    sum->cost += r->cost;
}

void sp_receipt_write(const sp_receipt *r, sp_buf *out)
{
    static const char *const path[] = {"light", "full", "upstream"};
    sp_buf_printf(out, "{\"path\":\"%s\",\"prompt_tokens\":{\"computed\":%zu,\"ram\":%zu,\"ssd\":%zu,\"s3\":%zu},", path[r->path],
                  r->tok_computed, r->tok_ram, r->tok_ssd, r->tok_s3);
    sp_buf_printf(out, "\"retrieved\":{\"chunks\":%zu,\"ms\":%.3f},", r->chunks, r->ms_retrieval);
    sp_buf_printf(out, "\"flops\":{\"spent\":%.6g,\"dense\":%.6g},", r->flops_spent, r->flops_dense);
    sp_buf_printf(out, "\"attention\":{\"kept\":%.6g,\"epsilon\":%.6g,\"max_bound\":%.6g,\"demoted_tokens\":%zu},", r->attn_kept,
                  r->attn_epsilon, r->attn_bound, r->tok_demoted);
    sp_buf_printf(out, "\"decode\":{\"steps\":%zu,\"tokens\":%zu},", r->steps, r->tok_out);
    sp_buf_printf(out,
                  "\"ms\":{\"attach\":%.3f,\"first_layer\":%.3f,\"load\":%.3f,\"queue\":%.3f,\"intent\":%.3f,\"retrieval\":%.3f,\"prefill\":%.3f,\"decode\":%.3f},"
                  "\"cost\":%.6g}",
                  r->ms_attach, r->ms_first_layer, r->ms_load, r->ms_queue, r->ms_intent, r->ms_retrieval, r->ms_prefill, r->ms_decode, r->cost);
}
