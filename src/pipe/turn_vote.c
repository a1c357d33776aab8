/* Votes: of several answers the one that most of them agree with. */
#include "pipe/turn_int.h"

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

void sp_turn_vote(sp_turn *t)
{
    char key[SP_ASK_CHOICES][KEY];
    size_t best = 0, most = 0;
    if (t->voted || t->plan.votes <= 1)
        return;
    t->voted = true;
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
