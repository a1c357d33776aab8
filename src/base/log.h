/* Log lines to stderr: text on a terminal, JSON lines otherwise or on request. Prompts and answers
 * are never logged at info. Threads: any. */
#ifndef SP_BASE_LOG_H
#define SP_BASE_LOG_H

#include "base/err.h"

#include <stdbool.h>

typedef enum sp_log_level { SP_LOG_ERROR, SP_LOG_WARN, SP_LOG_INFO, SP_LOG_DEBUG } sp_log_level;

void sp_log_set(sp_log_level level, bool json);
void sp_log(sp_log_level level, const char *fmt, ...) SP_PRINTF(2, 3);

#endif
