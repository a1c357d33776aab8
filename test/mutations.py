"""Faults put into the code by scripts/mutate, one at a time: what is changed, and the test that must see it.

Each is (name, file, old text, new text, tests). The old text stands in the file exactly once. Tests are names of unit-test
programs ("unit gen") and arguments of pytest in test/e2e ("test_memory.py -k demoted"); the cheapest that sees the fault.
Where code moves, the text here moves with it: a mutation that does not apply is an error.
"""

MUTATIONS = [
    # --- pages: whose they are, and that they are what was written --------------------------------------------------
    ("tenant out of the page's identity", "src/kv/pool.c",
     "                                   {tenant, strlen(tenant)}};\n", "                                   {tenant, 0}};\n", ["unit kv"]),
    ("model out of the page's identity", "src/kv/pool.c",
     "{p->cfg.model_id.b, sizeof p->cfg.model_id.b},", "{p->cfg.model_id.b, 0},", ["test_identity.py -k another_model"]),
    ("ISA level out of the page's identity", "src/kv/pool.c",
     "{variant, strlen(variant) + 1},", "{variant, 0},", ["test_memory.py -k another_isa"]),
    ("page border + 1: the last token of a prompt may be attached", "src/kv/attach.c",
     "(n - 1) / SP_PAGE_TOK : 0;", "n / SP_PAGE_TOK : 0;", ["unit kv"]),
    ("the parent is left out of the chain", "src/kv/pool.c",
     "{{parent->b, sizeof parent->b}, {tok, SP_PAGE_TOK", "{{parent->b, 0}, {tok, SP_PAGE_TOK", ["unit kv"]),
    ("pages of private parts are shared", "src/kv/pool.c",
     "&& !(s->private_from && s->n_tok > s->private_from);", ";", ["test_structured.py -k private"]),
    ("what demoted pages gave is shared", "src/kv/pool.c",
     "p->cfg.reuse && !s->inexact &&", "p->cfg.reuse &&", ["test_memory.py -k attending_demoted"]),
    ("what epsilon gave is shared with exact requests", "src/kv/pool.c",
     "lossy.eps > 0 || lossy.keep > 0 ? 3 : 2", "2", ["test_attention.py -k bit_for_bit"]),
    ("a fork writes into the page it shares", "src/kv/pool.c",
     "if (p->pages[s->id[at]].ref == 1)\n        return SP_OK;\n    uint32_t i;", "if (p->pages[s->id[at]].ref)\n        return SP_OK;\n    uint32_t i;",
     ["unit kv"]),
    ("checksum of a page from disk skipped", "src/kv/load_warm.c",
     "if (!check_layer(p, r->layer)) {", "if (0 && !check_layer(p, r->layer)) {", ["unit kv"]),
    ("checksum of a record's head skipped", "src/kv/record.c",
     "if (sum != sp_kv_sum((const uint8_t *)p + 16, head_bytes - 16))", "if (0)", ["unit kv"]),
    ("checksum of a block skipped", "src/kv/record.c",
     "return ZSTD_isError(got) || got != want ? SP_CORRUPT : check_block(h, layer, out);",
     "return ZSTD_isError(got) || got != want ? SP_CORRUPT : SP_OK;", ["unit kv"]),
    ("forgetting one conversation forgets all", "src/kv/tier.c",
     " && (!f->conv || memcmp(f->conv, conv, SP_KV_TAG) == 0)", "", ["test_history.py -k gone_everywhere"]),
    ("the model's identity is that of its first block", "src/model/identity.c",
     "{i->blk, i->n_blk * sizeof *i->blk}", "{i->blk, sizeof *i->blk}", ["test_identity.py -k another_model"]),
    ("a kept digest counts whatever the file's times", "src/model/identity.c",
     "is_ours = strlen(line) == b.len && memcmp(line, b.p, b.len) == 0;", "is_ours = true;", ["test_identity.py -k kept_beside"]),

    # --- attention -----------------------------------------------------------------------------------------------------
    ("epsilon doubled", "src/dev/cpu_sparse.c",
     "if (it->loss <= it->t.span->eps) {", "if (it->loss <= 2 * it->t.span->eps) {", ["unit dev"]),

    # --- model files ---------------------------------------------------------------------------------------------------
    ("overlapping tensors accepted", "src/fmt/gguf.c", "else if (i > 0 && offset < end)", "else if (0 && offset < end)", ["unit fmt"]),
    ("tensors past the end accepted", "src/fmt/gguf.c",
     "else if (offset > room || t->n_bytes > room - offset)", "else if (offset > room)", ["unit fmt"]),
    ("arrays past the end accepted", "src/fmt/gguf.c",
     "if (e->n > sp_rd_left(r) / least)", "if (e->n > sp_rd_left(r))", ["unit fmt"]),
    ("a key twice accepted", "src/fmt/gguf.c", "if (sp_map_find(&g->keys, e->key.p, e->key.n, &twin))", "if (0 && sp_map_find(&g->keys, e->key.p, e->key.n, &twin))",
     ["unit fmt"]),

    # --- text ------------------------------------------------------------------------------------------------------------
    ("control tokens not guarded", "src/text/tokenizer.c",
     "if (special_at(t, text + i, n - i, true) == SP_TOK_NONE)", "if (i < n || special_at(t, text + i, n - i, true) == SP_TOK_NONE)", ["unit text"]),

    # --- answers ---------------------------------------------------------------------------------------------------------
    ("stop strings not held back", "src/gen/session.c",
     "    for (size_t i = 0; i < s->cfg.n_stop; i++) {\n        size_t n = strlen(s->cfg.stop[i]);", "    for (size_t i = 0; i < 0; i++) {\n        size_t n = strlen(s->cfg.stop[i]);",
     ["unit gen"]),
    ("open UTF-8 not held back", "src/gen/session.c",
     "size_t wait = sp_utf8_tail(sp_buf_str(&s->held), s->held.len);", "size_t wait = 0;", ["unit gen"]),
    ("a stop string in the answer", "src/gen/session.c", "return give(s, stop, out);", "return give(s, s->held.len, out);", ["unit gen"]),
    ("the last of equal stop strings counts", "src/gen/session.c",
     "if (hit && (size_t)(hit - s->held.p) < first)", "if (hit)", ["unit gen"]),
    ("an answer one token longer than allowed", "src/gen/session.c",
     "if (sp_session_out(s) >= s->cfg.max_tok) {", "if (sp_session_out(s) > s->cfg.max_tok) {", ["unit gen"]),
    ("a control token within a pattern", "src/gen/grammar.c",
     "if (p.n == 0 || sp_tok_is_control(g->tok, id))", "if (p.n == 0)", ["unit gen"]),
    ("an answer may end in mid-pattern", "src/gen/grammar.c",
     "mask[id] = g->state[at].may_end;", "mask[id] = true;", ["unit gen"]),
    ("top_p keeps one too few", "src/gen/sample.c", "                return i + 1;\n", "                return i ? i : 1;\n", ["unit gen"]),
    ("repetition penalty raises negative logits", "src/gen/sample.c",
     "*l = *l > 0 ? *l / c->repetition_penalty : *l * c->repetition_penalty;", "*l = *l / c->repetition_penalty;", ["unit gen"]),
    ("a wrong guess stays", "src/gen/draft.c", "    if (!right)\n        d->n = d->match = 0;\n", "    (void)right;\n", ["unit gen"]),

    # --- order -----------------------------------------------------------------------------------------------------------
    ("no ageing", "src/sched/step.c", "return work - AGE_SHARE * age;", "return work;", ["unit sched"]),
    ("priority turned round", "src/sched/step.c", "i < j->priority; i++)\n        work /= 4;", "i < j->priority; i++)\n        work *= 4;", ["unit sched"]),
    ("who comes back has saved up turns", "src/sched/fair.c",
     "a->served = a->served > floor ? a->served : floor;", "(void)floor;", ["unit sched"]),
    ("a too long prompt is cut", "src/sched/engine.c", "    if (cfg->n_tok >= cap)\n", "    if (0)\n", ["unit sched"]),

    # --- what leaves ---------------------------------------------------------------------------------------------------
    ("private requests go upstream", "src/pipe/plan.c",
     "return cfg->has_upstream && !ask->is_private && ask->plain", "return cfg->has_upstream && ask->plain", ["test_serving.py -k private_ones"]),
    ("passages go upstream", "src/api/completion.c",
     "    if (r->question.p)\n        r->msg[r->n_msg - 1].content = r->question;\n    sp_op_put", "    sp_op_put", ["test_serving.py -k never_leave"]),

    # --- who may ask ---------------------------------------------------------------------------------------------------
    ("/v1/embeddings without a key", "src/api/route.c",
     '{"/v1/embeddings", false, "POST", SP_TENANTS,', '{"/v1/embeddings", false, "POST", SP_PAGE,', ["test_gates.py -k its_key"]),
    ("/metrics without a key", "src/api/route.c",
     '{"/metrics", false, "GET", SP_TENANTS,', '{"/metrics", false, "GET", SP_PAGE,', ["test_gates.py -k its_key"]),
    ("a Host by its beginning", "src/api/gate.c",
     "if (strlen(*list) == n && strncasecmp(*list, p, n) == 0)", "if (strncasecmp(*list, p, strlen(*list)) == 0)", ["test_gates.py -k route_by_host"]),
    ("keys compared by one byte", "src/api/auth.c",
     "CRYPTO_memcmp(h.b, a->keys[i].hash.b, sizeof h.b)", "CRYPTO_memcmp(h.b, a->keys[i].hash.b, 1)", ["test_gates.py -k its_key"]),

    # --- conversations and documents -------------------------------------------------------------------------------------
    ("history without tenant", "src/pipe/history_db.c",
     '"SELECT created, updated, n_item, metadata FROM conversation WHERE id=? AND tenant=?", "ss", id, tenant);',
     '"SELECT created, updated, n_item, metadata FROM conversation WHERE id=? AND ?<>\'\'", "ss", id, tenant);', ["test_history.py -k tenants"]),
    ("deleting a conversation leaves its turns", "src/pipe/history_db.c",
     '"DELETE FROM item WHERE conv IN', '"DELETE FROM item WHERE 0 AND conv IN', ["test_history.py -k gone_everywhere"]),
    ("collections without tenant", "src/rag/store.c",
     '"SELECT seq FROM collection WHERE id=? AND tenant=?", "ss", id, tenant);', '"SELECT seq FROM collection WHERE id=? AND ?<>\'\'", "ss", id, tenant);',
     ["test_knowledge.py -k tenants_see"]),
    ("citations begin one character late", "src/api/file_search.c",
     "n_chars(text->p, c->first), n_chars(text->p, c->end)", "n_chars(text->p, c->first) + 1, n_chars(text->p, c->end)", ["test_knowledge.py -k with_citations"]),
    ("chunks one token too long", "src/rag/chunk.c",
     "if (c->text.len && c->n_tok + n_tok > room(c))", "if (c->text.len && c->n_tok + n_tok > room(c) + 1)", ["unit rag"]),
]
