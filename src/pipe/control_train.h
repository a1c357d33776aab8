/* Trains a policy (gen/policy.h) on a model's own answers, and measures it on families of prompts
 * it has not seen.
 *
 * A file of prompts has lines of tab-separated columns: family, train or test, prompt, right
 * answer. The answer is right when its last line holds these words, whole and in any case. Where
 * the caller judges answers itself, they may also be right in part.
 *
 * Each round draws `group` answers to each of `batch` prompts, model and policy both by chance. An
 * answer's reward is
 *   how right it is, 0 to 1
 *   - price x tokens / max_tok - CUT if it was cut in a sentence - LOOPS if it ends in a loop
 * and its advantage the reward less its group's mean, by the group's deviation and 0.05; groups
 * without a right answer are left out. A step of Adam follows the advantage times the
 * gradient of each decision's log-probability, less `leash` times that of the divergence from the
 * policy of the start.
 *
 * Owner:   borrows everything.      Threads: one; answers are computed by the engine.
 * Errors:  SP_FORMAT names the line. What an answer fails with, training fails with.
 * Source:  Williams 1992 (REINFORCE); Shao et al. 2024 (advantages by group). */
#ifndef SP_PIPE_CONTROL_TRAIN_H
#define SP_PIPE_CONTROL_TRAIN_H

#include "gen/policy.h"
#include "pipe/turn.h"

/* A prompt to learn from, or to be tested on. */
typedef struct sp_control_prompt {
    const sp_chat_msg *msg; /* [n_msg] */
    size_t n_msg;
    sp_str right; /* words of a right answer's last line; unused where cfg->score judges */
    bool is_test;
} sp_control_prompt;

typedef struct sp_control_train_cfg {
    const sp_turn_env *env;
    size_t group, batch;
    size_t max_tok;       /* of an answer */
    size_t n_round;       /* at most; 0: as many as the time allows */
    double minutes;       /* for training; measuring comes on top */
    double price;         /* of max_tok tokens, as a share of a right answer */
    double leash, rate;
    float temperature;    /* of the model while it is trained */
    uint64_t seed;
    size_t n_test;        /* prompts that are measured, at most */
    /* after each round; NULL: nobody listens */
    void (*tell)(size_t round, double reward, double right, double tok);
    /* how right an answer is, 0 to 1; NULL: 1 where its last line holds the prompt's words */
    double (*score)(void *arg, const sp_control_prompt *p, const char *answer);
    void *arg;
} sp_control_train_cfg;

/* Ways to answer that are compared, all at temperature 0. */
typedef enum sp_control_way {
    SP_WAY_PLAIN,
    SP_WAY_CAP,      /* so many tokens as the learned policy takes in the mean */
    SP_WAY_DRY,
    SP_WAY_LOOP,
    SP_WAY_RULES,    /* loop, repeat, sentence, thinking */
    SP_WAY_LEARNED,
    SP_WAYS
} sp_control_way;

typedef struct sp_control_score {
    size_t n, n_tok, n_think; /* answers, tokens computed, of them thought */
    double right;             /* sum over the answers: how right they are */
    size_t n_gain, n_loss;    /* answers that became better, or worse, against plain */
} sp_control_score;

typedef struct sp_control_result {
    size_t n_train, n_test, n_round;
    sp_control_score way[SP_WAYS]; /* on the test families */
} sp_control_result;

enum { SP_CONTROL_CURVE = 64 };

void sp_control_train_init(sp_control_train_cfg *cfg, const sp_turn_env *env);
/* plain, cap, dry, loop, rules, learned; static */
const char *sp_control_way_name(sp_control_way way);
/* From prompts [n]. *out has its origin filled in. SP_INVAL: there is none to learn from. Where
 * none is to be tested on, nothing is measured. */
SP_MUST sp_err sp_control_learn(sp_policy *out, sp_control_result *r,
                                const sp_control_train_cfg *cfg, const sp_control_prompt *p,
                                size_t n, sp_diag *d);
/* From a file of prompts, text [n], which has prompts of both kinds. */
SP_MUST sp_err sp_control_train(sp_policy *out, sp_control_result *r,
                                const sp_control_train_cfg *cfg, const char *text, size_t n,
                                sp_diag *d);
/* Only measures. */
SP_MUST sp_err sp_control_test(sp_control_result *r, const sp_policy *p,
                               const sp_control_train_cfg *cfg, const char *text, size_t n,
                               sp_diag *d);

#endif
