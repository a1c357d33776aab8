/* Chat templates by name, for files that bring none or a wrong one. */
#include "text/chat.h"

#include <string.h>

#define EACH "{% for m in messages %}"
#define END "{% endfor %}"
#define ANSWER(start) "{% if add_generation_prompt %}" start "{% endif %}"

static const struct {
    const char *name, *source;
} named[] = {
    {"chatml", EACH
     "<|im_start|>{{ m.role }}\n{{ m.content }}<|im_end|>\n" END ANSWER("<|im_start|>assistant\n")},
    {"llama3", "{{ bos_token }}" EACH
               "<|start_header_id|>{{ m.role }}<|end_header_id|>\n\n{{ m.content | trim }}"
               "<|eot_id|>" END ANSWER("<|start_header_id|>assistant<|end_header_id|>\n\n")},
    {"llama2",
     EACH "{% if m.role == 'user' %}{{ bos_token }}[INST] {{ m.content | trim }} [/INST]"
          "{% elif m.role == 'assistant' %} {{ m.content | trim }} {{ eos_token }}{% endif %}" END},
    {"mistral", "{{ bos_token }}" EACH "{% if m.role == 'user' %}[INST] {{ m.content }} [/INST]"
                "{% elif m.role == 'assistant' %} {{ m.content }}{{ eos_token }}{% endif %}" END},
    {"gemma",
     "{{ bos_token }}" EACH
     "{% if m.role == 'user' %}<start_of_turn>user\n{{ m.content | trim }}<end_of_turn>\n"
     "{% elif m.role == 'assistant' %}<start_of_turn>model\n{{ m.content | trim }}<end_of_turn>\n"
     "{% endif %}" END ANSWER("<start_of_turn>model\n")},
    {"phi3", EACH "<|{{ m.role }}|>\n{{ m.content }}<|end|>\n" END ANSWER("<|assistant|>\n")},
    {"zephyr",
     EACH "<|{{ m.role }}|>\n{{ m.content }}{{ eos_token }}\n" END ANSWER("<|assistant|>\n")},
    {"vicuna", EACH
     "{% if m.role == 'system' %}{{ m.content }}\n\n{% elif m.role == 'user' %}USER: {{ m.content "
     "}}\n"
     "{% else %}ASSISTANT: {{ m.content }}{{ eos_token }}\n{% endif %}" END ANSWER("ASSISTANT:")},
    {"alpaca",
     EACH "{% if m.role == 'system' %}{{ m.content }}\n\n"
          "{% elif m.role == 'user' %}### Instruction:\n{{ m.content }}\n\n"
          "{% else %}### Response:\n{{ m.content }}{{ eos_token }}\n\n{% endif %}" END ANSWER(
              "### Response:\n")},
};

const char *sp_chat_named(const char *name)
{
    for (size_t i = 0; i < sizeof named / sizeof named[0]; i++)
        if (strcmp(named[i].name, name) == 0)
            return named[i].source;
    return NULL;
}

void sp_chat_names(sp_buf *out)
{
    for (size_t i = 0; i < sizeof named / sizeof named[0]; i++)
        sp_buf_printf(out, "%s%s", i ? ", " : "", named[i].name);
}
