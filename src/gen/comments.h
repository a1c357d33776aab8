/* Comments in code that say nothing that their line does not say.
 *
 * A comment restates a line where three of four of its words, but for words such as `the`, are
 * among the words of the line: its identifiers taken apart (snake_case, camelCase), its keywords,
 * and what its operators are called (`+=` increments, `return` returns). Words agree up to their
 * endings. A comment that gives a reason, a unit, a warning or a task (why, because, TODO, note,
 * must …), a directive (type:, noqa, eslint-…) or a shebang is never taken for one.
 *
 * Threads: pure. */
#ifndef SP_GEN_COMMENTS_H
#define SP_GEN_COMMENTS_H

#include <stdbool.h>
#include <stddef.h>

/* Does comment [n_comment], without its mark, say only what code [n_code] says? */
bool sp_comment_restates(const char *comment, size_t n_comment, const char *code, size_t n_code);

enum { SP_COMMENT_LOST = 1 };

/* Finds a line comment of a language as fences name it. *at: its mark; *body: what follows the
 * mark. false: there is none outside of strings, or nobody can tell: the language is not known
 * here, or the line holds what might be read in two ways. in_string, 0 at first, goes from line to
 * line: the quote of a string of several lines, or SP_COMMENT_LOST: from here to the end of the
 * code nothing is found any more. */
bool sp_comment_find(const char *lang, const char *line, size_t n, char *in_string, size_t *at,
                     size_t *body);

#endif
