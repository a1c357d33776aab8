/* A model that judges which of two answers to a question is better, where no check can tell.
 *
 * It is asked twice, with the answers' places swapped. A model that likes whatever stands first, or
 * last, so contradicts itself, and that counts as a tie. Texts are cut, so that a question to the
 * judge has a bounded length.
 *
 * Source:  Zheng et al. 2023 (Judging LLM-as-a-judge), §3.4: position bias, swapped positions.
 * Threads: pure. */
#ifndef SP_PIPE_JUDGE_H
#define SP_PIPE_JUDGE_H

#include "base/buf.h"
#include "fmt/gguf.h"

enum { SP_JUDGE_BYTES = 6000 /* of the question, and of each answer, at most */ };

/* The pattern (gen/grammar.h) of what a judge says: which answer is better, or neither. */
#define SP_JUDGE_FORM "A|B|tie"

typedef enum sp_judged { SP_JUDGED_A, SP_JUDGED_B, SP_JUDGED_TIE, SP_JUDGED_NOTHING } sp_judged;

/* What the judge is told. good: an answer that is known to be good; empty: none is. A text that is
 * too long loses its middle. */
void sp_judge_ask(sp_buf *out, sp_str question, sp_str good, sp_str a, sp_str b);
/* What it said. NOTHING: something else than the form. */
sp_judged sp_judge_read(const char *said);
/* Both verdicts on answers x and y: `first` with x as A, `swapped` with y as A. 1: y is better; -1:
 * x is; 0: neither, or the two verdicts do not agree. */
int sp_judge_both(sp_judged first, sp_judged swapped);

#endif
