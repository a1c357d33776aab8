"""Records small tokenizers of PyPI `tokenizers` as a checkpoint's folder has them, with the ids they give.

usage: record_tokenizers.py

Each is trained on test/data, with the normaliser, pre-tokenizer and model of a family as `transformers` 5.24.0 builds them.
data/hftok-NAME.json holds tokenizer.json (file) and texts with their ids (pairs)."""
import json
import pathlib

import tokenizers
from tokenizers import AddedToken, Regex, Tokenizer, decoders, models, normalizers, pre_tokenizers, processors, trainers

HERE = pathlib.Path(__file__).parent
DATA = HERE.parent / "data"
SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n%s]*|\s*[\r\n]+|\s+(?!\S)|\s+"
UP, LOW = r"[\p{Lu}\p{Lt}\p{Lm}\p{Lo}\p{M}]", r"[\p{Ll}\p{Lm}\p{Lo}\p{M}]"
CASED = rf"[^\r\n\p{{L}}\p{{N}}]?{UP}*{LOW}+%s|[^\r\n\p{{L}}\p{{N}}]?{UP}+{LOW}*%s"
PATTERNS = {"qwen2": (SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST % "", False),
            "qwen35": (SHORT + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+", False),
            "llama-bpe": (SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST % "", True),
            "dbrx": (SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST % "", False),
            "gpt-4o": (CASED % (SHORT + "?", SHORT + "?") + r"|\p{N}{1,3}" + REST % "/", False),
            "tekken": (CASED % ("", "") + r"|\p{N}" + REST % "/", True)}
TEXTS = ["", " ", "Hello, world!", "  two  spaces   and\n\nlines\r\n\ttabs", "It's I'M you'LL we'd '", "1 12 123 1234 12345 3.14", "snake_case CamelCase HTTPServer x2y",
         "größer, naïve, Ünïcode, ﬁne", "日本語とEnglish混ざり", "Привет, мир", "مرحبا", "emoji 😀👍🏽 and ½ ² Ⅷ", "e\u0301 combining a\u0308", "a/b//c\n/d", "<think>marks</think> <|end|>",
         "\u00a0nbsp\u2003em\u3000", "the licence of the software and the conditions", "x" * 50, "\u0000\u0001", "ends with space ", "\n", "don't can't won't", "MiXeD cAsE WORDS"]


def split(pattern):
    return pre_tokenizers.Sequence([pre_tokenizers.Split(Regex(pattern), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)])


def corpus():
    return [(DATA / n).read_text() for n in ("licences.txt", "prompts.txt")] + TEXTS


def byte_level(pre, ignore_merges=False, bos=False):
    t = Tokenizer(models.BPE(ignore_merges=ignore_merges))
    t.pre_tokenizer, t.decoder = pre, decoders.ByteLevel()
    t.train_from_iterator(corpus(), trainers.BpeTrainer(vocab_size=600, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False,
                                                        special_tokens=["<s>", "</s>"]))
    t.add_tokens([AddedToken("<think>", special=False, normalized=False)])
    if bos:
        t.post_processor = processors.Sequence([processors.ByteLevel(trim_offsets=False), processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 0)])])
    return t


def all_merges(vocab):
    """As transformers makes them of SentencePiece's scores: every pair that makes a token, the tokens in their order."""
    return [(k[:i], k[i:]) for k in vocab for i in range(1, len(k)) if k[:i] in vocab and k[i:] in vocab]


def fallback(normalizer, pre):
    t = Tokenizer(models.BPE(unk_token="<unk>"))
    t.pre_tokenizer = pre_tokenizers.Metaspace(split=False)
    t.train_from_iterator(corpus()[:2], trainers.BpeTrainer(vocab_size=500, limit_alphabet=80, show_progress=False, special_tokens=["<unk>"]))
    trained = sorted(t.get_vocab(), key=t.get_vocab().get)[1:]
    head = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)]
    merged = [k for k in trained if len(k) > 1]  # in the order of their merges
    vocab = {k: i for i, k in enumerate(head + merged + [k for k in trained if len(k) == 1])}
    t = Tokenizer(models.BPE(vocab=vocab, merges=all_merges({k: None for k in merged} | {k: None for k in vocab}), unk_token="<unk>", fuse_unk=True,
                             byte_fallback=True))
    t.normalizer, t.pre_tokenizer = normalizer, pre
    t.add_special_tokens(["<unk>", "<s>", "</s>"])
    t.post_processor = processors.TemplateProcessing("<s> $A", special_tokens=[("<s>", 1)])
    return t


def record(name, t):
    pairs = [[text, t.encode(text).ids] for text in TEXTS]
    out = {"tokenizers": tokenizers.__version__, "file": json.loads(t.to_str()), "pairs": pairs}
    (HERE / "data" / f"hftok-{name}.json").write_text(json.dumps(out) + "\n")
    print(name, t.get_vocab_size(), sum(len(i) for _, i in pairs))


for name, (pattern, ignore) in PATTERNS.items():
    record(name, byte_level(split(pattern), ignore, bos=ignore))
record("gpt-2", byte_level(pre_tokenizers.ByteLevel(add_prefix_space=False)))
record("smollm", byte_level(pre_tokenizers.Sequence([pre_tokenizers.Digits(True), pre_tokenizers.ByteLevel(add_prefix_space=False)])))
record("llama", fallback(normalizers.Sequence([normalizers.Prepend("▁"), normalizers.Replace(" ", "▁")]), None))
record("llama-metaspace", fallback(None, pre_tokenizers.Metaspace(prepend_scheme="first", split=False)))
record("gemma", fallback(normalizers.Replace(" ", "▁"), pre_tokenizers.Split(" ", "merged_with_previous")))
