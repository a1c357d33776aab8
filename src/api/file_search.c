#include "api/file_search.h"

#include "api/knowledge.h"
#include "api/params.h"

#include <stdio.h>
#include <string.h>

sp_err sp_api_file_search(sp_ask *q, sp_know *know, const json_t *tool, sp_diag *d)
{
    sp_know_op *op;
    const char *bad;
    const json_t *ids = NULL, *filter = NULL, *ranking = NULL;
    int64_t n = SP_ASK_FOUND;
    const sp_param table[] = {{"type", SP_P_IGNORE, NULL, 0, 0},
                              {"vector_store_ids", SP_P_JSON, &ids, 0, 0},
                              {"max_num_results", SP_P_INT, &n, 1, SP_RAG_MAX_FOUND},
                              {"filters", SP_P_JSON, &filter, 0, 0},
                              {"ranking_options", SP_P_JSON, &ranking, 0, 0}};
    if (!know)
        return SP_FAIL(d, SP_UNSUP,
                       "tools: this server keeps no documents; it was started without --knowledge");
    op = q->find = sp_know_op_new(know, SP_KNOW_SEARCH, q->tenant);
    if (!op)
        return SP_FAIL(d, SP_NOMEM, "request");
    SP_TRY(sp_params_read(tool, table, 5, &bad, d));
    if (ranking)
        return SP_FAIL(d, SP_UNSUP,
                       "tools: ranking_options is not supported in a chat; passages go in when "
                       "they bear on the question");
    op->n_colls = json_array_size(ids);
    if (op->n_colls == 0 || op->n_colls > SP_KNOW_COLLS)
        return SP_FAIL(d, SP_INVAL, "tools: vector_store_ids must be a list of 1 to %d ids",
                       SP_KNOW_COLLS);
    for (size_t i = 0; i < op->n_colls; i++) {
        const char *id = json_string_value(json_array_get(ids, i));
        if (!id || strlen(id) >= SP_RAG_ID)
            return SP_FAIL(d, SP_INVAL,
                           "tools: vector_store_ids[%zu] is not the id of a vector store", i);
        snprintf(op->colls[i], sizeof op->colls[i], "%s", id);
    }
    op->cap = (size_t)n;
    return sp_api_filter(op, filter, d);
}

/* --- what the client should know
 * ---------------------------------------------------------------- */

void sp_api_search(sp_buf *out, const sp_know_op *op, size_t n_hit, size_t n_fact, size_t n_left)
{
    sp_buf_printf(out, ",\"search\":{\"found\":%zu,\"used\":%zu,\"left_out\":[", op->n, n_hit);
    for (size_t i = 0; i < n_left; i++) {
        const sp_rag_hit *h = &op->hit[n_hit + i];
        sp_buf_printf(out, "%s{\"file_id\":\"%s\",\"chunk_id\":\"%s\",\"tokens\":%lld}",
                      i ? "," : "", h->doc, h->chunk, (long long)h->n_tok);
    }
    sp_buf_puts(out, "],\"note\":");
    if (n_left)
        sp_buf_printf(out, "\"%zu of %zu passages did not fit into the prompt\"}", n_left,
                      n_left + n_hit);
    else if (n_hit + n_fact)
        sp_buf_puts(out, "null}");
    else
        sp_buf_puts(out, op->n
                             ? "\"nothing that was found in the documents bears on the question\"}"
                             : "\"nothing was found in the documents\"}");
}

/* --- answers ---------------------------------------------------------------------------------- */

size_t sp_api_characters(const char *p, size_t n)
{
    size_t k = 0;
    for (size_t i = 0; i < n; i++)
        k += ((unsigned char)p[i] & 0xc0) != 0x80;
    return k;
}

void sp_api_citation(sp_buf *out, const sp_buf *text, const sp_rag_hit *hit, const sp_citation *c)
{
    const sp_rag_hit *h = &hit[c->hit];
    sp_buf_printf(out,
                  "\"start_index\":%zu,\"end_index\":%zu,\"passage\":%zu,\"share\":%.2f,\"file_"
                  "id\":\"%s\",\"filename\":",
                  sp_api_characters(text->p, c->first), sp_api_characters(text->p, c->end),
                  c->hit + 1, c->share, h->doc);
    sp_buf_json_str(out, sp_api_filename(h->path), strlen(sp_api_filename(h->path)));
    sp_buf_puts(out, ",\"place\":");
    sp_buf_json_str(out, h->place, strlen(h->place));
    sp_buf_puts(out, ",\"quote\":");
    sp_buf_json_str(out, h->text + c->quote, c->n_quote);
}

void sp_api_annotations(sp_buf *out, const sp_buf *text, const sp_rag_hit *hit,
                        const sp_citation *cite, size_t n)
{
    sp_buf_puts(out, "\"annotations\":[");
    for (size_t k = 0; k < n; k++) {
        sp_buf_printf(out, "%s{\"type\":\"file_citation\",\"file_citation\":{", k ? "," : "");
        sp_api_citation(out, text, hit, &cite[k]);
        sp_buf_puts(out, "}}");
    }
    sp_buf_putc(out, ']');
}

void sp_api_retrieved(sp_buf *out, const sp_rag_hit *hit, size_t n_hit, const sp_rag_fact *fact,
                      size_t n_fact)
{
    sp_buf_puts(out, ",\"retrieved\":[");
    for (size_t i = 0; i < n_hit; i++) {
        const sp_rag_hit *h = &hit[i];
        sp_buf_printf(out,
                      "%s{\"file_id\":\"%s\",\"chunk_id\":\"%s\",\"score\":%.6f,\"cosine\":%.6f,"
                      "\"filename\":",
                      i ? "," : "", h->doc, h->chunk, h->score, h->cosine);
        sp_buf_json_str(out, sp_api_filename(h->path), strlen(sp_api_filename(h->path)));
        sp_buf_puts(out, ",\"place\":");
        sp_buf_json_str(out, h->place, strlen(h->place));
        sp_buf_puts(out, ",\"text\":");
        sp_buf_json_str(out, h->text, strlen(h->text));
        sp_buf_putc(out, '}');
    }
    sp_buf_puts(out, "],\"facts\":[");
    for (size_t i = 0; i < n_fact; i++) {
        static const char *const key[] = {"{\"subject\":", ",\"predicate\":", ",\"object\":"};
        sp_buf_puts(out, i ? "," : "");
        for (size_t k = 0; k < 3; k++) {
            sp_buf_puts(out, key[k]);
            sp_buf_json_str(out, fact[i].name[k], strlen(fact[i].name[k]));
        }
        sp_buf_puts(out, ",\"source\":");
        sp_buf_json_str(out, fact[i].shown, strlen(fact[i].shown));
        sp_buf_putc(out, '}');
    }
    sp_buf_putc(out, ']');
}
