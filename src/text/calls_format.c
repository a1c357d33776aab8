/* The formats that models write calls in, a row each. Which one a model writes is found by trying
 * them on what its own template makes of a call (chat_format.c): the first row that reads it back
 * is the model's. Rows that ask for more stand first. */
#include "text/calls.h"

#include <stdio.h>
#include <string.h>

#define BAR "\xef\xbd\x9c" /* ｜ */
#define LOW "\xe2\x96\x81" /* ▁ */
#define DSML BAR "DSML" BAR
/* DeepSeek 3.2 and 4 differ in the name of the section. */
#define DSML_FORMAT(called, list)                                                                  \
    {.name = called,                                                                               \
     .kind = SP_CALL_TAGGED,                                                                       \
     .section = "<" DSML list ">",                                                                 \
     .section_end = "</" DSML list ">",                                                            \
     .section_lead = "\n",                                                                         \
     .begin = "<" DSML "invoke name=\"",                                                           \
     .sep = "\">",                                                                                 \
     .key = "<" DSML "parameter name=\"",                                                          \
     .key_end = "\" string=\"",                                                                    \
     .attr_end = "\">",                                                                            \
     .attr_text = "true",                                                                          \
     .value_end = "</" DSML "parameter>",                                                          \
     .end = "</" DSML "invoke>"}
#define M3 "]<]minimax[>["
#define HY(s) "<" s ":opensource>"

static const sp_call_format formats[] = {
    /* Qwen 2.5, Qwen 3, Granite 4, SmolLM3, Hermes; and models without a format of their own are
       told this one */
    {.name = "hermes",
     .kind = SP_CALL_JSON,
     .begin = "<tool_call>",
     .lead = "\n{\"name\": \"",
     .sep = "\", \"arguments\": ",
     .after = "}\n</tool_call>",
     .end = "</tool_call>"},
    /* Qwen3-Coder, Qwen 3.5, Nemotron 3, Step 3.5 */
    {.name = "qwen-xml",
     .kind = SP_CALL_TAGGED,
     .section = "<tool_call>",
     .section_end = "</tool_call>",
     .section_lead = "\n",
     .begin = "<function=",
     .sep = ">",
     .key = "<parameter=",
     .key_end = ">",
     .value_end = "</parameter>",
     .end = "</function>",
     .is_trimmed = true},
    {.name = "seed-xml",
     .kind = SP_CALL_TAGGED,
     .section = "<seed:tool_call>",
     .section_end = "</seed:tool_call>",
     .section_lead = "\n",
     .begin = "<function=",
     .sep = ">",
     .key = "<parameter=",
     .key_end = ">",
     .value_end = "</parameter>",
     .end = "</function>"},
    /* GLM 4.5 to 4.7, Ling, Laguna, Spark */
    {.name = "glm",
     .kind = SP_CALL_TAGGED,
     .begin = "<tool_call>",
     .key = "<arg_key>",
     .key_end = "</arg_key>",
     .value = "<arg_value>",
     .value_end = "</arg_value>",
     .end = "</tool_call>"},
    {.name = "hunyuan",
     .kind = SP_CALL_TAGGED,
     .section = HY("tool_calls"),
     .section_end = HY("/tool_calls"),
     .section_lead = "\n",
     .begin = HY("tool_call"),
     .sep = HY("tool_sep"),
     .key = HY("arg_key"),
     .key_end = HY("/arg_key"),
     .value = HY("arg_value"),
     .value_end = HY("/arg_value"),
     .end = HY("/tool_call")},
    /* gpt-oss */
    {.name = "harmony",
     .kind = SP_CALL_NAMED,
     .head_end = "<|message|>",
     .head_call = "to=functions.",
     .head_plain = "<|channel|>final<|message|>",
     .body_end = {"<|end|>", "<|call|>", "<|return|>"},
     .begin = "<|channel|>commentary to=functions.",
     .sep = " <|constrain|>json<|message|>",
     .after = "<|call|>"},
    {.name = "gemma",
     .kind = SP_CALL_GEMMA,
     .begin = "<|tool_call>call:",
     .sep = "{",
     .after = "}<tool_call|>",
     .end = "<tool_call|>"},
    /* Mistral: Small 3.2, Devstral and Ministral, Nemo */
    {.name = "mistral-id",
     .kind = SP_CALL_NAMED,
     .begin = "[TOOL_CALLS]",
     .id = "[CALL_ID]",
     .sep = "[ARGS]"},
    {.name = "mistral-list",
     .kind = SP_CALL_JSON,
     .begin = "[TOOL_CALLS]",
     .lead = "[{\"name\": \"",
     .sep = "\", \"arguments\": ",
     .after = "}]"},
    {.name = "deepseek",
     .kind = SP_CALL_NAMED,
     .section = "<" BAR "tool" LOW "calls" LOW "begin" BAR ">",
     .section_end = "<" BAR "tool" LOW "calls" LOW "end" BAR ">",
     .begin = "<" BAR "tool" LOW "call" LOW "begin" BAR ">",
     .sep = "<" BAR "tool" LOW "sep" BAR ">",
     .after = "<" BAR "tool" LOW "call" LOW "end" BAR ">",
     .end = "<" BAR "tool" LOW "call" LOW "end" BAR ">"},
    {.name = "deepseek-r1",
     .kind = SP_CALL_NAMED,
     .section = "<" BAR "tool" LOW "calls" LOW "begin" BAR ">",
     .section_end = "<" BAR "tool" LOW "calls" LOW "end" BAR ">",
     .begin = "<" BAR "tool" LOW "call" LOW "begin" BAR ">function<" BAR "tool" LOW "sep" BAR ">",
     .sep = "\n```json\n",
     .after = "\n```<" BAR "tool" LOW "call" LOW "end" BAR ">",
     .end = "```<" BAR "tool" LOW "call" LOW "end" BAR ">"},
    DSML_FORMAT("dsml", "function_calls"),
    DSML_FORMAT("dsml-v4", "tool_calls"),
    {.name = "minimax",
     .kind = SP_CALL_TAGGED,
     .section = "<minimax:tool_call>",
     .section_end = "</minimax:tool_call>",
     .section_lead = "\n",
     .begin = "<invoke name=\"",
     .sep = "\">",
     .key = "<parameter name=\"",
     .key_end = "\">",
     .value_end = "</parameter>",
     .end = "</invoke>"},
    {.name = "minimax-m3",
     .kind = SP_CALL_TAGGED,
     .section = M3 "<tool_call>",
     .section_end = M3 "</tool_call>",
     .section_lead = "\n",
     .begin = M3 "<invoke name=\"",
     .sep = "\">",
     .key = M3 "<",
     .key_end = ">",
     .value_end = M3 "</",
     .value_tail = ">",
     .close_key = "/invoke",
     .is_nested = true},
    {.name = "minimax-m1",
     .kind = SP_CALL_JSON,
     .begin = "<tool_calls>",
     .lead = "\n{\"name\": \"",
     .sep = "\", \"arguments\": ",
     .after = "}\n</tool_calls>",
     .end = "</tool_calls>"},
    {.name = "muse",
     .kind = SP_CALL_TAGGED,
     .section = "<atem:function_calls>",
     .section_end = "</atem:function_calls>",
     .section_lead = "\n",
     .begin = "<atem:invoke name=\"",
     .sep = "\">",
     .key = "<atem:parameter name=\"",
     .key_end = "\">",
     .value_end = "</atem:parameter>",
     .end = "</atem:invoke>",
     .head_end = "<|message|>",
     .head_plain = " to=user<|message|>",
     .body_end = {"<|eom|>", "<|eot|>"}},
    {.name = "minicpm",
     .kind = SP_CALL_TAGGED,
     .begin = "<function name=\"",
     .sep = "\">",
     .key = "<param name=\"",
     .key_end = "\">",
     .value_end = "</param>",
     .end = "</function>"},
    {.name = "kimi",
     .kind = SP_CALL_NAMED,
     .section = "<|tool_calls_section_begin|>",
     .section_end = "<|tool_calls_section_end|>",
     .between = ":0<|tool_call_argument_begin|>",
     .begin = "<|tool_call_begin|>",
     .lead = "functions.",
     .sep = "<|tool_call_argument_begin|>",
     .after = "<|tool_call_end|>",
     .end = "<|tool_call_end|>"},
    {.name = "kimi-k3",
     .kind = SP_CALL_TAGGED,
     .section = "<|open|>tools<|sep|>",
     .section_end = "<|close|>tools<|sep|>",
     .begin = "<|open|>call tool=\"",
     .sep = "\" index=\"",
     .name_tail = "<|sep|>",
     .key = "<|open|>argument key=\"",
     .key_end = "\" type=\"",
     .attr_end = "\"<|sep|>",
     .attr_text = "string",
     .value_end = "<|close|>argument<|sep|>",
     .end = "<|close|>call<|sep|>",
     .drop = {"<|open|>response<|sep|>", "<|close|>response<|sep|>", "<|close|>message<|sep|>",
              "<|end_of_msg|>"}},
    {.name = "solar",
     .kind = SP_CALL_NAMED,
     .lead = "call_0<|tool_call:name|>",
     .begin = "<|tool_call:begin|>",
     .id_end = "<|tool_call:name|>",
     .sep = "<|tool_call:args|>",
     .after = "<|tool_call:end|>",
     .end = "<|tool_call:end|>",
     .drop = {"<|begin|>assistant", "<|content|>", "<|tool_calls|>", "<|calls|>", "<|end|>"}},
    {.name = "python",
     .kind = SP_CALL_PYTHON,
     .begin = "<|tool_call_start|>[",
     .sep = "(",
     .after = ")]<|tool_call_end|>",
     .end = "<|tool_call_end|>"},
    {.name = "cohere",
     .kind = SP_CALL_JSON,
     .begin = "<|START_ACTION|>",
     .lead = "[\n    {\"tool_call_id\": \"0\", \"tool_name\": \"",
     .sep = "\", \"parameters\": ",
     .after = "}\n]<|END_ACTION|>",
     .end = "<|END_ACTION|>",
     .drop = {"<|START_TEXT|>", "<|END_TEXT|>", "<|START_RESPONSE|>", "<|END_RESPONSE|>"}},
    {.name = "command-r",
     .kind = SP_CALL_JSON,
     .begin = "Action:\n```json",
     .lead = "\n[\n    {\n        \"tool_name\": \"",
     .sep = "\",\n        \"parameters\": ",
     .after = "\n    }\n]```",
     .end = "```"},
    {.name = "apertus",
     .kind = SP_CALL_JSON,
     .begin = "<|tools_prefix|>",
     .lead = "[{\"",
     .sep = "\": ",
     .after = "}]<|tools_suffix|>",
     .end = "<|tools_suffix|>",
     .is_keyed = true},
    {.name = "nemotron",
     .kind = SP_CALL_JSON,
     .begin = "<TOOLCALL>",
     .lead = "[{\"name\": \"",
     .sep = "\", \"arguments\": ",
     .after = "}]</TOOLCALL>",
     .end = "</TOOLCALL>"},
    {.name = "firefunction",
     .kind = SP_CALL_JSON,
     .begin = "functools",
     .lead = "[{\"name\": \"",
     .sep = "\", \"arguments\": ",
     .after = "}]"},
    {.name = "functionary",
     .kind = SP_CALL_NAMED,
     .begin = "<function=",
     .sep = ">",
     .after = "</function>",
     .end = "</function>"},
    {.name = "functionary-v3.2",
     .kind = SP_CALL_NAMED,
     .turn = ">>>",
     .head_end = "\n",
     .head_plain = "all\n",
     .is_named_by_head = true,
     .begin = ">>>",
     .sep = "\n",
     .after = ""},
    {.name = "gigachat",
     .kind = SP_CALL_JSON,
     .begin = "<|function_call|>",
     .lead = "{\"name\": \"",
     .sep = "\", \"arguments\": ",
     .after = "}"},
    {.name = "gigachat-role",
     .kind = SP_CALL_JSON,
     .begin = "function call<|role_sep|>",
     .lead = "\n{\"name\": \"",
     .sep = "\", \"arguments\": ",
     .after = "}"},
    /* Llama 3: the whole answer, or behind a mark */
    {.name = "llama",
     .kind = SP_CALL_JSON,
     .begin = "<|python_tag|>",
     .lead = "{\"name\": \"",
     .sep = "\", \"parameters\": ",
     .after = "}",
     .is_bare = true},
};

static const sp_think_marks thinks[] = {
    {"<think>", "</think>"},
    {"[THINK]", "[/THINK]"},
    {"<|channel>thought", "<channel|>"},
    {"<seed:think>", "</seed:think>"},
    {"<mm:think>", "</mm:think>"},
    {"<|START_THINKING|>", "<|END_THINKING|>"},
    {HY("think"), HY("/think")},
    {"<|open|>think<|sep|>", "<|close|>think<|sep|>"},
    {"Here are my reasoning steps:", "[BEGIN FINAL RESPONSE]"},
    {"<|think|>", "<|end|>"},
};

const sp_call_format *sp_call_format_at(size_t i)
{
    return i < sizeof formats / sizeof formats[0] ? &formats[i] : NULL;
}

const sp_call_format *sp_call_format_find(const char *name)
{
    for (size_t i = 0; i < sizeof formats / sizeof formats[0]; i++)
        if (strcmp(formats[i].name, name) == 0)
            return &formats[i];
    return NULL;
}

sp_think_marks sp_think_marks_at(size_t i)
{
    return i < sizeof thinks / sizeof thinks[0] ? thinks[i] : (sp_think_marks){NULL, NULL};
}

static const char *or_empty(const char *s)
{
    return s ? s : "";
}

void sp_call_frame_of(sp_call_frame *out, const sp_call_format *f)
{
    *out = (sp_call_frame){.is_json = f->kind == SP_CALL_JSON || f->kind == SP_CALL_NAMED};
    const char *begin = f->is_bare ? "" : f->begin;
    snprintf(out->trigger, sizeof out->trigger, "%s", f->section ? f->section : begin);
    if (!f->is_named_by_head) /* there the prompt ends with the mark */
        snprintf(out->before, sizeof out->before, "%s%s%s%s", or_empty(f->section),
                 or_empty(f->section_lead), begin, or_empty(f->lead));
    snprintf(out->again, sizeof out->again, "%s%s", begin, or_empty(f->lead));
    snprintf(out->between, sizeof out->between, "%s", f->between ? f->between : or_empty(f->sep));
    snprintf(out->after, sizeof out->after, "%s", or_empty(f->after));
    snprintf(out->close, sizeof out->close, "%s", f->after ? or_empty(f->section_end) : "");
}
