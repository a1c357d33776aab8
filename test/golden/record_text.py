"""Records token ids and embeddings: llama.cpp, `tokenizers` and sentence-transformers as oracles."""
import json
import pathlib
import random
import sys

import gguf
import numpy as np
import sentence_transformers
import tokenizers
from llama_cpp import Llama
from tokenizers import Regex, decoders, models, pre_tokenizers, trainers

ROOT = pathlib.Path(__file__).resolve().parents[2]
OUT = ROOT / "test/golden/data"
MODEL = ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
MINILM = ROOT / "models/all-MiniLM-L6-v2"
LLAMA3 = (r"(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+"
          r"|\s+(?!\S)|\s+")


def texts():
    rng = random.Random(20261124)
    licence = (ROOT / "test/data/licences.txt").read_text()
    code = (ROOT / "src/kv/pool.c").read_text()
    out = ["", " ", "  ", "\n", "\n\n \n", "Hello world", " Hello  world ", "I'm you're he'LL we'Ve it's", "a\tb\r\nc\n\n\nd",
           "12345 6 78 9,000.5 \u00bd \u0663\u0664", "naïve café Ünïcödé", "中文字符 日本語 한국어", "🙂👩‍👩‍👧‍👦 👍🏽", "x=1;\n\ty+=2;\n    return;",
           "<|im_start|>user\nhi<|im_end|>", "\u00a0\u2003nbsp\u3000wide", "can't.stop'Sx'dy", "   leading", "trailing   ",
           "\u0301combining e\u0301", "A" * 300, "ab" * 200, "1" * 100, " " * 100 + "x", "\n" * 50, "!?" * 60,
           "Привет, мир! שלום عالم", "\U00010348\U0001d11e", "a\u200bb\u200dc", "'", "''s", "' s", "don\u2019t"]
    out += [licence[i:i + 400] for i in range(0, 8000, 800)] + [code[i:i + 300] for i in range(0, 3000, 600)]
    alphabet = "abcXYZ 019 \n\t.,'!-_éß中あ🙂\u0301\u00a0\u2028\u0660½ǅ"
    for _ in range(150):
        out.append("".join(rng.choice(alphabet) for _ in range(rng.randint(1, 60))))
    for _ in range(50):
        out.append("".join(chr(rng.choice([rng.randint(32, 0x2ff), rng.randint(0x370, 0xfff), rng.randint(0x1f300, 0x1f6ff)])) for _ in range(25)))
    return [t for t in out if not any(0xd800 <= ord(c) < 0xe000 for c in t)]


def save(name, **data):
    (OUT / name).write_text(json.dumps(data, ensure_ascii=True))
    print(name)


def record_smollm():
    m = Llama(str(MODEL), vocab_only=True, verbose=False)
    rows = [{"text": t, "ids": m.tokenize(t.encode(), add_bos=False, special=False),
             "special": m.tokenize(t.encode(), add_bos=False, special=True)} for t in texts() if t]
    save("tok-smollm.json", oracle="llama-cpp-python 0.3.36", rows=rows)


def record_trained(name, pre, split):
    """A byte-level BPE trained here, as GGUF for us and as `tokenizers` for the oracle."""
    t = tokenizers.Tokenizer(models.BPE(ignore_merges=(pre == "llama-bpe")))
    t.pre_tokenizer = pre_tokenizers.Sequence([
        pre_tokenizers.Split(Regex(split), "isolated"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=False)]) \
        if split else pre_tokenizers.ByteLevel(add_prefix_space=False)
    t.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(vocab_size=1500, initial_alphabet=pre_tokenizers.ByteLevel.alphabet(), show_progress=False)
    t.train_from_iterator([(ROOT / "test/data/licences.txt").read_text(), " ".join(texts())], trainer)
    model = json.loads(t.to_str())["model"]
    vocab = sorted(model["vocab"], key=model["vocab"].get)
    merges = [m if isinstance(m, str) else " ".join(m) for m in model["merges"]]
    w = gguf.GGUFWriter(str(OUT / f"vocab-{name}.gguf"), "llama")
    w.add_tokenizer_model("gpt2")
    w.add_tokenizer_pre(pre)
    w.add_token_list(vocab)
    w.add_token_types([1] * len(vocab))
    w.add_token_merges(merges)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.close()
    rows = [{"text": x, "ids": t.encode(x).ids} for x in texts() if x]
    save(f"tok-{name}.json", oracle=f"tokenizers {tokenizers.__version__}", rows=rows)


def record_encoder():
    t = tokenizers.Tokenizer.from_file(str(pathlib.Path(sys.argv[1]) / "tokenizer.json"))
    t.no_truncation()
    t.no_padding()
    m = sentence_transformers.SentenceTransformer(sys.argv[1], device="cpu")
    ids = [{"text": x, "ids": t.encode(x).ids} for x in texts() + ["İstanbul ﬁ ǅ", "a" * 101, "x\u0000y\ufffdz"]]
    sentences = ["The cat sits outside.", "A man is playing guitar.", "", "Quantum computing uses qubits.", "¿Dónde está?",
                 "中文", "def f(x): return x + 1"] + [(ROOT / "test/data/licences.txt").read_text()[i:i + 600] for i in range(0, 20000, 1000)]
    vec = m.encode(sentences, normalize_embeddings=True)
    save("encoder.json", oracle=f"tokenizers {tokenizers.__version__}, sentence-transformers {sentence_transformers.__version__}",
         rows=ids, sentences=[{"text": s, "vector": [round(float(x), 7) for x in v]} for s, v in zip(sentences, vec)])


record_smollm()
record_trained("gpt2", "gpt-2", None)
record_trained("llama3", "llama-bpe", LLAMA3)
record_encoder()
