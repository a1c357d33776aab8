/* Votes: of several answers the one that most of them agree with. And the likeliest of several, where a client asked for those. */
#include "pipe/turn_int.h"

#include <math.h>
#include <string.h>

enum { KEY = 64 };

/* What makes two answers the same: their last number, or without one their last line in small letters. */
static void vote_key(char key[KEY], const sp_buf *text)
{
    const char *p = sp_buf_str(text), *end = p + text->len, *q = end;
    size_t n = 0;
    while (q > p && !(q[-1] >= '0' && q[-1] <= '9'))
        q--;
    if (q > p) {
        const char *from = q;
        while (from > p && ((from[-1] >= '0' && from[-1] <= '9') || (from[-1] == '.' && from - 1 > p && from[-2] >= '0' && from[-2] <= '9')))
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

/* Puts the n likeliest of the answers to one prompt first; what is known of the prompt stays with the first. */
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
