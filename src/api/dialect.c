#include "api/dialect.h"

#include "api/anthropic.h"
#include "api/ollama.h"
#include "api/params.h"

#include <string.h>

void sp_api_error_at(const char *path, sp_buf *out, int status, const char *message,
                     const char *param, const char *code)
{
    static const struct {
        const char *prefix;
        void (*write)(sp_buf *out, int status, const char *message);
    } of[] = {{"/v1/messages", sp_anthropic_error}, {"/api/", sp_ollama_error}};
    for (size_t i = 0; i < sizeof of / sizeof of[0]; i++)
        if (strncmp(path, of[i].prefix, strlen(of[i].prefix)) == 0) {
            of[i].write(out, status, message);
            return;
        }
    sp_api_error(out, status, message, param, code);
}
