/* The controller that prunes (rules.h). It reads the answer's text byte by byte: the bytes up to
 * `seen` of the held text have been looked at, and all places are counted from the beginning of
 * that text. */
#include "gen/control_int.h"

#include "base/mem.h"
#include "gen/comments.h"
#include "gen/prose.h"

#include <math.h>
#include <string.h>

enum {
    PERIODS = 128, /* tokens of what a loop repeats, at most */
    LOOP_TIMES = 3,
    LOOP_TOK = 32,
    AGAIN = 3, /* sentences in a row that were said before */
    WORDS = 4,
    LETTERS = 20, /* of a sentence that may be one said before, at least */
    SENTENCE = 600,
    LINE = 400,    /* bytes that are held, at most */
    THOUGHT = 400, /* bytes of a sentence of thoughts that are looked at */
    WORDS_SAID = 40, /* bytes of the words behind `answer is` that count */
    FREE_TOK = 2,
    LEARNED_TOK = 32, /* tokens for which the learned rule penalises */
    DRY_MATCH = 64,
    DRY_BACK = 4096,
    BENT = 64
};
static const float DRY_MULTIPLIER = 0.8f, DRY_BASE = 1.75f, DRY_MOST = 30;

typedef struct line {
    size_t at, end; /* end: behind its newline */
    size_t body;    /* what follows the mark */
} line;

struct sp_rules {
    unsigned which;
    sp_receipt_control did;
    sp_prose prose;
    size_t seen;
    size_t begin;     /* of the sentence */
    bool is_plain;    /* nothing protected in it so far */
    bool is_ending;   /* its last byte may end it: a blank follows or it does not */
    bool has_words;   /* of the sentence, which may have left already */
    sp_buf said, now; /* sentences as spell() puts them: all, each once, and a newline; the one that
                         is looked at */
    size_t n_again;
    size_t line_at; /* of the line of code */
    line comment;   /* a line that is a comment and waits for its code; end 0: none */
    char in_string;
    bool is_block, is_continued; /* the line before is a comment, or goes on in the next one */
    sp_ids ids;                  /* tokens of the answer */
    uint16_t run[PERIODS + 1];   /* tokens that each were the same as that so many before */
    sp_bias bend[BENT];
    size_t n_bend;
    sp_buf thought; /* a sentence of them */
    bool line_says, is_line_end; /* their line says something; the newest token ended one that
                                    does */
    uint64_t conclusion;
    size_t n_same, n_conclusion;
    size_t penalise_to; /* learned: up to so many tokens */
    bool prunes, stops, answers; /* and what it has said of this sentence */
    float overlap;
};

static bool has(const sp_rules *r, sp_prune rule)
{
    return r->which & 1u << rule;
}

static sp_err start(sp_control *c, const uint32_t *tok, size_t n)
{
    (void)tok;
    (void)n;
    if (!c->cfg->rules || c->cfg->grammar)
        return SP_OK;
    c->rules = sp_mem_alloc(sizeof *c->rules);
    if (!c->rules)
        return SP_NOMEM;
    c->rules->which = c->rules->did.rules = c->cfg->rules;
    c->rules->is_plain = true;
    if (c->only && has(c->rules, SP_PRUNE_THINKING))
        c->rules->did.same = c->cfg->think_same ? c->cfg->think_same : SP_THINK_SAME;
    return has(c->rules, SP_PRUNE_LEARNED) ? sp_learned_new(&c->learned, c->cfg) : SP_OK;
}

void sp_rules_free(sp_rules *r)
{
    if (!r)
        return;
    sp_buf_fini(&r->said);
    sp_buf_fini(&r->now);
    sp_ids_fini(&r->ids);
    sp_buf_fini(&r->thought);
    sp_mem_free(r);
}

/* FNV-1a */
static const uint64_t HASH = 0xcbf29ce484222325u;

uint64_t sp_rules_hash(uint64_t h, char c)
{
    return (h ^ (unsigned char)c) * 0x100000001b3u;
}

/* --- what is taken back ----------------------------------------------------------------------- */

static size_t moved(size_t at, size_t from, size_t n)
{
    return at >= from + n ? at - n : at > from ? from : at;
}

static void take_back(sp_rules *r, sp_held *h, sp_verdict *v, size_t at, size_t n)
{
    r->did.tok += sp_held_drop(h, at, n);
    r->did.bytes += n;
    r->seen = moved(r->seen, at, n);
    r->begin = moved(r->begin, at, n);
    r->line_at = moved(r->line_at, at, n);
    r->comment.at = moved(r->comment.at, at, n);
    r->comment.end = r->comment.end ? moved(r->comment.end, at, n) : 0;
    r->comment.body = moved(r->comment.body, at, n);
    v->n_give = moved(v->n_give, at, n);
}

/* --- sentences -------------------------------------------------------------------------------- */

/* A newline, then a sentence's words in small letters, without a list's mark before them, into
 * r->now. false: it is too short to be one said before. */
static bool spell(sp_rules *r, const char *p, size_t n)
{
    size_t i = 0, n_word = 0, n_letter = 0;
    sp_buf_clear(&r->now);
    sp_buf_putc(&r->now, '\n');
    while (i < n && !sp_prose_letter(p[i])) /* blanks, "- ", "12. " */
        i++;
    for (bool in_word = false; i < n; i++) {
        bool is_part = sp_prose_letter(p[i]) || sp_prose_digit(p[i]);
        if (is_part && !in_word && n_word)
            sp_buf_putc(&r->now, ' ');
        n_word += is_part && !in_word;
        n_letter += is_part;
        in_word = is_part;
        if (is_part)
            sp_buf_putc(&r->now, p[i] >= 'A' && p[i] <= 'Z' ? (char)(p[i] + 32) : p[i]);
    }
    return n_word >= WORDS && n_letter >= LETTERS;
}

/* Was the sentence in r->now said before? begun: or one that begins so. */
static bool was_said(sp_rules *r, bool begun)
{
    if (!begun)
        sp_buf_putc(&r->now, '\n');
    return r->said.len && !r->now.failed && memmem(r->said.p, r->said.len, r->now.p, r->now.len);
}

static void end_answer(sp_rules *r, sp_verdict *v, sp_prune rule, size_t n_give)
{
    v->ends = true;
    v->finish = rule == SP_PRUNE_SENTENCE ? SP_FINISH_LENGTH : SP_FINISH_STOP;
    v->n_give = n_give;
    r->did.ended = sp_prune_name(rule);
}

/* Share of the words in r->now that r->said has. */
static float overlap_of(const sp_rules *r)
{
    size_t n = 0, n_again = 0;
    const char *p = r->now.p;
    for (size_t i = 1; i < r->now.len; n++) {
        size_t end = i;
        while (end < r->now.len && p[end] != ' ' && p[end] != '\n')
            end++;
        n_again += r->said.len && memmem(r->said.p, r->said.len, p + i, end - i);
        i = end + 1;
    }
    return n ? (float)n_again / (float)n : 0;
}

static double loops_of(const sp_rules *r)
{
    double most = 0;
    for (size_t p = 1; p <= PERIODS; p++)
        if (r->run[p] >= p && (double)r->run[p] / (double)p > most && r->run[p] >= 8)
            most = (double)r->run[p] / (double)p;
    return most;
}

/* Asks the policy what is done now. */
static sp_err consult(sp_control *c, const sp_control_now *now, bool at_end)
{
    sp_rules *r = c->rules;
    sp_policy_act act;
    if (!has(r, SP_PRUNE_LEARNED))
        return SP_OK;
    const sp_rules_facts f = {.ids = &r->ids,
                              .n_same = r->n_same,
                              .n_conclusion = r->n_conclusion,
                              .loops = loops_of(r),
                              .overlap = r->overlap,
                              .n_again = r->n_again,
                              .is_plain = !sp_prose_is_protected(&r->prose)};
    SP_TRY(sp_learned_decide(c, &f, now->n_out, at_end, &act));
    r->penalise_to = act == SP_ACT_PENALISE ? r->ids.n + LEARNED_TOK : r->penalise_to;
    r->prunes = r->prunes || act == SP_ACT_PRUNE;
    r->stops = r->stops || act == SP_ACT_STOP;
    r->answers = r->answers || act == SP_ACT_ANSWER;
    return SP_OK;
}

/* The sentence ends before `end`. */
static sp_err end_sentence(sp_control *c, const sp_control_now *now, sp_verdict *v, size_t end)
{
    sp_rules *r = c->rules;
    const char *p = now->held->text.p;
    bool may = now->n_out >= c->cfg->min_tok, is_plain = r->is_plain && r->has_words;
    bool reads = has(r, SP_PRUNE_REPEAT) || has(r, SP_PRUNE_LEARNED);
    bool counts = reads && r->is_plain && spell(r, p + r->begin, end - r->begin);
    r->is_ending = r->has_words = false;
    r->overlap = counts && has(r, SP_PRUNE_LEARNED) ? overlap_of(r) : 0;
    bool again = counts && was_said(r, false), prunes = has(r, SP_PRUNE_REPEAT) || r->prunes;
    if (is_plain)
        SP_TRY(consult(c, now, true));
    if (again && !prunes) {
        r->n_again++;
    } else if (again) {
        r->prunes = false;
        r->did.sentences++;
        r->n_again++;
        take_back(r, now->held, v, r->begin, end - r->begin);
        end = r->begin;
        if (r->n_again >= AGAIN && may && has(r, SP_PRUNE_REPEAT))
            end_answer(r, v, SP_PRUNE_REPEAT, end);
    } else if (counts) {
        sp_buf_puts(&r->said, r->said.len
                                  ? sp_buf_str(&r->now) + 1
                                  : sp_buf_str(&r->now)); /* the newline before it is there */
        if (r->said.failed || r->now.failed)
            return SP_NOMEM;
        r->n_again = 0;
    }
    size_t most = c->cfg->max_tok, near = most / 8 < 8 ? 8 : most / 8 > 64 ? 64 : most / 8;
    if (!v->ends && has(r, SP_PRUNE_SENTENCE) && is_plain && may && now->n_out + near >= most)
        end_answer(r, v, SP_PRUNE_SENTENCE, end);
    if (!v->ends && r->stops && is_plain && may)
        end_answer(r, v, SP_PRUNE_LEARNED, end);
    r->begin = end;
    r->is_plain = true;
    return SP_OK;
}

/* --- lines of code ---------------------------------------------------------------------------- */

static bool is_only_blank(const char *p, size_t from, size_t to)
{
    while (from < to && sp_prose_blank(p[from]))
        from++;
    return from == to;
}

/* The waiting comment restates the line of code [from, to). */
static void judge_comment(sp_rules *r, const sp_control_now *now, sp_verdict *v, size_t from,
                          size_t to)
{
    const char *p = now->held->text.p;
    const line x = r->comment;
    r->comment = (line){0};
    if (!x.end || is_only_blank(p, from, to) ||
        !sp_comment_restates(p + x.body, x.end - 1 - x.body, p + from, to - from))
        return;
    r->did.comments++;
    take_back(r, now->held, v, x.at, x.end - x.at);
}

/* A line of fenced code ends at its newline, at `end`. */
static void end_line(sp_control *c, const sp_control_now *now, sp_verdict *v, size_t end)
{
    sp_rules *r = c->rules;
    const char *p = now->held->text.p;
    size_t from = r->line_at, at, body;
    bool was_string = r->in_string != 0, was_block = r->is_block, was_continued = r->is_continued;
    bool found = sp_comment_find(r->prose.lang, p + from, end - from, &r->in_string, &at, &body);
    bool goes_on = end > from && p[end - 1] == '\\';
    bool is_alone = found && is_only_blank(p, from, from + at);
    r->is_block = is_alone;
    r->is_continued = goes_on;
    if (was_string || was_continued || (found && goes_on)) {
        r->comment = (line){0};
    } else if (is_alone) {
        r->comment = was_block ? (line){0} : (line){from, end + 1, from + body};
    } else if (!found) {
        judge_comment(r, now, v, from, end);
    } else {
        size_t code = from + at;
        while (code > from && sp_prose_blank(p[code - 1]))
            code--;
        if (sp_comment_restates(p + from + body, end - from - body, p + from, code - from)) {
            r->did.comments++;
            take_back(r, now->held, v, code, end - code);
        }
        judge_comment(r, now, v, from, code);
    }
}

static void begin_code(sp_rules *r, size_t at)
{
    r->line_at = at;
    r->comment = (line){0};
    r->in_string = 0;
    r->is_block = r->is_continued = false;
}

/* --- the text --------------------------------------------------------------------------------- */

/* One byte of prose or code, at r->seen. */
static sp_err read_byte(sp_control *c, const sp_control_now *now, sp_verdict *v)
{
    sp_rules *r = c->rules;
    char b = now->held->text.p[r->seen];
    bool was_code = r->prose.in_fence && !r->prose.is_info;
    if (b == '\n' && was_code && has(r, SP_PRUNE_COMMENTS))
        end_line(c, now, v, r->seen);
    if (b == '\n' || (r->is_ending && sp_prose_blank(b)))
        SP_TRY(end_sentence(c, now, v, r->seen));
    sp_prose_step(&r->prose, b);
    r->is_plain = r->is_plain && !sp_prose_is_protected(&r->prose);
    r->has_words = r->has_words || sp_prose_letter(b);
    r->is_ending = r->is_plain && sp_prose_may_end(now->held->text.p, r->begin, r->seen);
    r->seen++;
    if (b == '\n' && r->prose.in_fence && was_code)
        r->line_at = r->seen;
    else if (b == '\n' && r->prose.in_fence)
        begin_code(r, r->seen);
    return SP_OK;
}

/* What is held of a sentence or of lines of code. */
static void hold(sp_rules *r, const sp_control_now *now, sp_verdict *v)
{
    size_t len = now->held->text.len, from = len;
    bool is_code = r->prose.in_fence && has(r, SP_PRUNE_COMMENTS);
    if (is_code &&
        len - r->line_at >=
            LINE) { /* a line that long is not looked at, and what it opens is not known */
        begin_code(r, len);
        r->in_string = SP_COMMENT_LOST;
    }
    if (is_code)
        from = r->comment.end ? r->comment.at : r->line_at;
    else if (r->is_plain && (has(r, SP_PRUNE_REPEAT) || has(r, SP_PRUNE_LEARNED)) &&
             len - r->begin < SENTENCE)
        from = r->begin;
    if (!is_code && len - r->begin >= SENTENCE)
        r->is_plain = false;
    v->n_give = v->n_give < from ? v->n_give : from;
}

/* --- thoughts --------------------------------------------------------------------------------- */

/* The last number of [p, end), commas left out; 0: it has none. */
static uint64_t number_of(const char *p, const char *end)
{
    uint64_t h = HASH;
    while (end > p && !sp_prose_digit(end[-1]))
        end--;
    const char *from = end;
    while (from > p && (sp_prose_digit(from[-1]) || ((from[-1] == '.' || from[-1] == ',') &&
                                               from - 1 > p && sp_prose_digit(from[-2]))))
        from--;
    for (const char *q = from; q < end; q++)
        h = *q == ',' ? h : sp_rules_hash(h, *q);
    return end > from ? h | 1 : 0;
}

/* The letters behind `answer is`, small; 0: there are none. */
static uint64_t words_of(const char *p)
{
    static const char says[] = "answer is";
    uint64_t h = HASH;
    size_t n = 0;
    for (const char *at; (at = strcasestr(p, says)); n = WORDS_SAID)
        p = at + sizeof says - 1;
    if (!n)
        return 0;
    for (; *p && n; p++)
        if (sp_prose_letter(*p)) {
            h = sp_rules_hash(h, *p >= 'A' && *p <= 'Z' ? (char)(*p + 32) : *p);
            n--;
        }
    return n < WORDS_SAID ? h | 1 : 0;
}

uint64_t sp_rules_conclusion(const sp_buf *s)
{
    static const char *const words[] = {"answer", "therefore", "thus", "hence",
                                        "result", "total",     "=",    "so "};
    const char *p = sp_buf_str(s);
    bool concludes = false;
    for (size_t i = 0; i < sizeof words / sizeof words[0] && !concludes; i++)
        concludes = strcasestr(p, words[i]) != NULL;
    uint64_t number = concludes ? number_of(p, p + s->len) : 0;
    return number ? number : words_of(p);
}

void sp_control_end_thoughts(sp_control *c, sp_prune rule)
{
    sp_receipt_control *did = &c->rules->did;
    size_t n = c->n_thought, out = c->rules->ids.n, most = c->cfg->max_tok;
    c->is_thought_out = true;
    if (did->thought)
        return;
    did->thought = sp_prune_name(rule);
    did->think_left = c->cfg->think_tok > n ? c->cfg->think_tok - n : 0;
    did->think_left = most - out < did->think_left ? most - out : did->think_left;
}

bool sp_control_ended_thought(const sp_control *c)
{
    const sp_rules *r = c->rules;
    return r && has(r, SP_PRUNE_TRIAL) && r->is_line_end && sp_control_is_thinking(c);
}

static sp_err read_thought(sp_control *c, const sp_control_now *now)
{
    sp_rules *r = c->rules;
    sp_str piece = sp_tok_piece(c->t, now->id);
    sp_buf text = {0};
    bool ended = false;
    sp_tok_decode(c->t, &text, now->id, false);
    for (size_t i = 0; i < text.len && piece.n; i++) {
        char b = text.p[i];
        r->is_line_end = r->is_line_end || (b == '\n' && r->line_says);
        r->line_says = b != '\n' && (r->line_says || sp_prose_letter(b) || sp_prose_digit(b));
        bool ends = b == '\n' || (sp_prose_blank(b) && r->thought.len &&
                                  strchr(".!?", r->thought.p[r->thought.len - 1]));
        if (!ends && r->thought.len < THOUGHT)
            sp_buf_putc(&r->thought, b);
        if (!ends)
            continue;
        uint64_t h = sp_rules_conclusion(&r->thought);
        sp_buf_clear(&r->thought);
        if (h) {
            r->n_same = h == r->conclusion ? r->n_same + 1 : 1;
            r->n_conclusion++;
            r->did.conclusions++;
            r->conclusion = h;
        }
        ended = true;
        if (h && r->n_same >= r->did.same && has(r, SP_PRUNE_THINKING))
            sp_control_end_thoughts(c, SP_PRUNE_THINKING);
    }
    sp_buf_fini(&text);
    SP_TRY(consult(c, now, ended));
    if (r->answers && ended)
        sp_control_end_thoughts(c, SP_PRUNE_LEARNED);
    return SP_OK;
}

/* --- tokens ----------------------------------------------------------------------------------- */

/* Takes a token in. true: the newest ones are a loop. */
static sp_err note_token(sp_rules *r, uint32_t id, bool *loops)
{
    size_t n = r->ids.n;
    *loops = false;
    for (size_t p = 1; p <= PERIODS && p <= n; p++) {
        r->run[p] = r->ids.id[n - p] == id ? (uint16_t)(r->run[p] + (r->run[p] < UINT16_MAX)) : 0;
        *loops = *loops || (r->run[p] >= (LOOP_TIMES - 1) * p && r->run[p] + p >= LOOP_TOK);
    }
    return sp_ids_push(&r->ids, id);
}

static void bend(sp_rules *r, uint32_t id, size_t n_match)
{
    float less = DRY_MULTIPLIER * powf(DRY_BASE, (float)(n_match - FREE_TOK));
    size_t i = 0;
    less = less < DRY_MOST ? less : DRY_MOST;
    while (i < r->n_bend && r->bend[i].id != id)
        i++;
    if (i == BENT)
        return;
    if (i == r->n_bend)
        r->bend[r->n_bend++] = (sp_bias){id, 0};
    r->bend[i].add = -less < r->bend[i].add ? -less : r->bend[i].add;
}

const sp_bias *sp_control_bend(sp_control *c, size_t *n)
{
    sp_rules *r = c->rules;
    *n = 0;
    if (!r || (!has(r, SP_PRUNE_DRY) && r->ids.n >= r->penalise_to) || c->thinking ||
        sp_control_is_bound(c) || sp_prose_is_protected(&r->prose))
        return NULL;
    size_t last = r->ids.n, first = last > DRY_BACK ? last - DRY_BACK : 1;
    const uint32_t *id = r->ids.id;
    r->n_bend = 0;
    for (size_t i = last; i-- > first;) { /* would id[i] go on with what stands at the end? */
        size_t k = 0;
        while (k < i && k < DRY_MATCH && id[i - 1 - k] == id[last - 1 - k])
            k++;
        if (k >= FREE_TOK)
            bend(r, id[i], k);
    }
    *n = r->n_bend;
    r->did.penalised += r->n_bend > 0;
    return r->bend;
}

/* --- the controller --------------------------------------------------------------------------- */

static sp_err took(sp_control *c, const sp_control_now *now, sp_verdict *v)
{
    sp_rules *r = c->rules;
    bool loops,
        is_mark = c->only && (now->id == c->cfg->think_open || now->id == c->cfg->think_close);
    if (!r)
        return SP_OK;
    SP_TRY(note_token(r, now->id, &loops));
    r->is_line_end = false;
    if (c->thinking || is_mark) {
        if (c->thinking && !is_mark)
            SP_TRY(read_thought(c, now));
        if (c->thinking && loops && has(r, SP_PRUNE_LOOP))
            sp_control_end_thoughts(c, SP_PRUNE_LOOP);
        r->seen = r->begin = r->line_at = now->held->text.len;
        r->is_plain = true;
        return SP_OK;
    }
    while (r->seen < now->held->text.len && !v->ends)
        SP_TRY(read_byte(c, now, v));
    if (v->ends)
        return SP_OK;
    if (r->is_plain)
        SP_TRY(consult(c, now, false));
    hold(r, now, v);
    if (loops && has(r, SP_PRUNE_LOOP) && !sp_prose_is_protected(&r->prose) &&
        now->n_out >= c->cfg->min_tok)
        end_answer(r, v, SP_PRUNE_LOOP, now->held->text.len);
    return SP_OK;
}

/* A sentence that is still held: it was said before, or an answer that loops is within one that
 * was. */
void sp_control_end(sp_control *c, sp_held *held, size_t *n)
{
    sp_rules *r = c->rules;
    size_t len = held->text.len;
    *n = *n < len ? *n : len;
    if (!r || c->thinking || r->begin >= *n || !r->is_plain || !has(r, SP_PRUNE_REPEAT))
        return;
    bool is_loop = r->did.ended && strcmp(r->did.ended, sp_prune_name(SP_PRUNE_LOOP)) == 0;
    bool counts = spell(r, held->text.p + r->begin, *n - r->begin);
    if (!(is_loop || counts) || !was_said(r, is_loop))
        return;
    sp_verdict v = {.n_give = *n};
    r->did.sentences++;
    take_back(r, held, &v, r->begin, *n - r->begin);
    *n = v.n_give;
}

void sp_control_gave(sp_control *c, size_t n)
{
    sp_rules *r = c->rules;
    sp_control_moved(c, n);
    if (!r)
        return;
    r->seen -= n < r->seen ? n : r->seen;
    r->begin -= n < r->begin ? n : r->begin;
    r->line_at -= n < r->line_at ? n : r->line_at;
    r->comment.at -= n < r->comment.at ? n : r->comment.at;
    r->comment.body -= n < r->comment.body ? n : r->comment.body;
    r->comment.end -= n < r->comment.end ? n : r->comment.end;
}

sp_receipt_control sp_control_did(const sp_control *c)
{
    return c->rules ? c->rules->did : (sp_receipt_control){0};
}

const sp_control_kind sp_control_rules = {.name = "rules", .start = start, .took = took};
