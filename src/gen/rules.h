/* Rules that prune an answer, each on request:
 *
 *   loop      ends an answer whose newest tokens are three or more times the same, 32 at least; in
 *             thoughts it ends these
 *   repeat    takes a sentence back that the answer has said before, and ends the answer at the
 *             third in a row
 *   sentence  ends an answer that comes near its max_tok where a sentence does, not within one
 *   thinking  ends thoughts that come to the same conclusion so often in a row (think_same of
 *             sp_session_cfg): the last number of a sentence that concludes something, or the words
 *             behind its `answer is`
 *   dry       makes a token less likely that would go on with a repetition
 *   learned   does what a policy says that was trained for it (policy.h): penalises repetition,
 *   takes a
 *             sentence back that was said before, ends the answer or its thoughts with a sentence
 *   comments  takes comments in fenced code back that restate their line (comments.h)
 *   trial     ends thoughts where two trial answers in a row come to the same, surely (trial.h)
 *
 * All but comments leave fenced and inline code, quotes, tables, JSON (prose.h) and answers that
 * are bound by a grammar alone; text is held until its sentence or line is whole. What is taken
 * back was computed, and the model goes on behind it.
 *
 * Source of dry: the sampler of that name (p-e-w, oobabooga/text-generation-webui pull request
 * 5677), with its defaults: multiplier 0.8, base 1.75, two tokens free. */
#ifndef SP_GEN_RULES_H
#define SP_GEN_RULES_H

#include "obs/receipt.h"

/* Times that thoughts come to the same conclusion before `thinking` ends them. */
enum { SP_THINK_SAME = 3, SP_THINK_SAME_LEAST = 2, SP_THINK_SAME_MOST = 16 };
/* Tokens of a trial, and of all trials of an answer, at most. */
enum { SP_TRIAL_TOK = 16, SP_TRIAL_ALL = 512, SP_TRIAL_ALL_MOST = 8192 };
/* How sure a trial must be: the geometric mean of its tokens' probabilities. */
#define SP_TRIAL_SURE 0.9
#define SP_TRIAL_SURE_LEAST 0.01

enum {
    SP_PRUNE_SAFE = 1 << SP_PRUNE_LOOP | 1 << SP_PRUNE_REPEAT | 1 << SP_PRUNE_SENTENCE |
    1 << SP_PRUNE_THINKING /* "control": true */
};

#endif
