/* Votes: of several answers the one that most of them agree with. And the likeliest of several,
 * where a client asked for those. */
#include "pipe/turn_int.h"

#include <math.h>
#include <string.h>

enum { KEY = 64 };

/* What makes two answers the same: their last number, or without one their last line in small
 * letters. */
static void vote_key(char key[KEY], const sp_buf *text)
{
    const char *p = sp_buf_str(text), *end = p + text->len, *q = end;
    size_t n = 0;
    while (q > p && !(q[-1] >= '0' && q[-1] <= '9'))
        q--;
    if (q > p) {
        const char *from = q;
        while (from > p &&
               ((from[-1] >= '0' && from[-1] <= '9') ||
                (from[-1] == '.' && from - 1 > p && from[-2] >= '0' && from[-2] <= '9')))
            from--;
        for (; from < q && n + 1 < KEY; from++)
            key[n++] = *from;
    } else {
        while (end > p && (unsigned char)end[-1] <= ' ')
            end--;
        for (q = end; q > p && q[-1] != '\n';)
            q--;
        for (; q < end && n + 1 < KEY; q++)
            if ((unsigned char)*q > ' ' && *q != '.')
                key[n++] = *q >= 'A' && *q <= 'Z' ? (char)(*q + 32) : *q;
    }
    key[n] = 0;
}

/* Words of a text in small letters, one behind the other. */
static void spell(sp_buf *out, sp_str text)
{
    bool in_word = false;
    for (size_t i = 0; i < text.n; i++) {
        char c = text.p[i];
        bool is_word = (c >= '0' && c <= '9') || (c >= 'a' && c <= 'z') || (c >= 'A' && c <= 'Z') ||
                       (unsigned char)c >= 0x80;
        if (is_word && !in_word)
            sp_buf_putc(out, ' ');
        if (is_word)
            sp_buf_putc(out, c >= 'A' && c <= 'Z' ? (char)(c + 32) : c);
        in_word = is_word;
    }
    sp_buf_putc(out, ' ');
}

/* How many words of a stand in b. */
static size_t shared(const sp_buf *a, const sp_buf *b, size_t *n_word)
{
    size_t n = 0;
    *n_word = 0;
    for (size_t i = 0; i + 1 < a->len;) {
        size_t end = i + 1;
        while (a->p[end] != ' ')
            end++;
        n += memmem(b->p, b->len, a->p + i, end - i + 1) != NULL; /* blanks around it */
        ++*n_word;
        i = end;
    }
    return n;
}

/* 1: the same words, 0: none in common. */
static double alike(const sp_buf *a, const sp_buf *b)
{
    size_t n_a, n_b, both = shared(a, b, &n_a) + shared(b, a, &n_b);
    return n_a + n_b ? (double)both / (double)(n_a + n_b) : 1;
}

size_t sp_votes_pick(const sp_str *text, size_t n)
{
    sp_buf words[SP_ASK_CHOICES] = {0};
    size_t best = 0, most = 0;
    double nearest = -1;
    bool failed = false;
    for (size_t i = 0; i < n; i++) {
        spell(&words[i], text[i]);
        failed = failed || words[i].failed;
    }
    for (size_t i = 0; i < n && !failed; i++) {
        size_t same = 0;
        double near = 0;
        for (size_t k = 0; k < n; k++) {
            same +=
                words[i].len == words[k].len && memcmp(words[i].p, words[k].p, words[i].len) == 0;
            near += alike(&words[i], &words[k]);
        }
        if (same > most || (same == most && near > nearest)) {
            best = i;
            most = same;
            nearest = near;
        }
    }
    for (size_t i = 0; i < n; i++)
        sp_buf_fini(&words[i]);
    return best;
}

static void swap(sp_turn_choice *a, sp_turn_choice *b)
{
    sp_turn_choice c = *a;
    *a = *b;
    *b = c;
}

/* Mean log-probability of an answer's tokens; one without tokens ended at once, surely. */
static double likely(const sp_turn_answer *a)
{
    double sum = 0;
    for (size_t i = 0; i < a->n_tok; i++)
        sum += (double)a->tok[i].logprob;
    return a->n_tok ? sum / (double)a->n_tok : 0;
}

/* Puts the n likeliest of the answers to one prompt first; what is known of the prompt stays with
 * the first. */
static void rank(sp_turn_choice *c, size_t n_drawn, size_t n)
{
    sp_event_tok *prompt = c[0].answer.prompt_tok;
    size_t n_prompt = c[0].answer.n_prompt_tok;
    c[0].answer.prompt_tok = NULL;
    for (size_t k = 0; k < n; k++) {
        size_t best = k;
        for (size_t i = k + 1; i < n_drawn; i++)
            if (likely(&c[i].answer) > likely(&c[best].answer))
                best = i;
        swap(&c[k], &c[best]);
    }
    c[0].answer.prompt_tok = prompt;
    c[0].answer.n_prompt_tok = n_prompt;
}

static void keep_likeliest(sp_turn *t)
{
    size_t n = t->ask->n, n_drawn = t->ask->n_drawn, n_prompt = t->n_choice / n_drawn;
    for (size_t p = 0; p < n_prompt; p++) {
        rank(&t->choice[p * n_drawn], n_drawn, n);
        for (size_t k = 0; k < n; k++)
            swap(&t->choice[p * n + k], &t->choice[p * n_drawn + k]);
    }
    t->n_choice = t->n_ended = n_prompt * n; /* the others are let go with the turn */
}

static void vote(sp_turn *t)
{
    char key[SP_ASK_CHOICES][KEY];
    size_t best = 0, most = 0;
    for (size_t i = 0; i < t->n_choice; i++)
        vote_key(key[i], &t->choice[i].answer.text);
    for (size_t i = 0; i < t->n_choice; i++) {
        size_t n = 0;
        for (size_t k = 0; k < t->n_choice; k++)
            n += strcmp(key[i], key[k]) == 0;
        if (n > most) {
            most = n;
            best = i;
        }
    }
    sp_turn_choice won = t->choice[best];
    t->choice[best] = t->choice[0];
    t->choice[0] = won;
    t->n_choice = t->n_ended = 1; /* the others are let go with the turn */
    sp_turn_push_answer(t, 0);
}

void sp_turn_vote(sp_turn *t)
{
    bool likeliest = t->ask->n_drawn > t->ask->n;
    if (t->voted || (t->plan.votes <= 1 && !likeliest))
        return;
    t->voted = true;
    if (likeliest)
        keep_likeliest(t);
    else
        vote(t);
}
