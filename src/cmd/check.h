/* What makes an answer to a prompt of a file right: {"contains": [texts]} all of them, {"any":
 * [texts]} one of them, {"equals": text}, {"number": n} the answer's last number, {"like": text}
 * words in common with a good answer. Threads: pure. */
#ifndef SP_CMD_CHECK_H
#define SP_CMD_CHECK_H

#include <stdbool.h>

struct json_t;

/* Is the check one that can be made, and can it fail? */
bool sp_check_is_valid(const struct json_t *check);
/* Does the line have such a check, or none where it need not? */
bool sp_check_is_there(const struct json_t *line, bool judged);
/* 0 or 1; of like, anything from 0 to 1. */
double sp_check_score(const struct json_t *check, const char *text);

#endif
