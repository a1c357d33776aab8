#!/usr/bin/env python3
"""Tokenizers beside PyPI `tokenizers`, and for speed also beside llama.cpp.

usage: tokens.py [--texts N] [--names REGEX] [--peer DIR] [--rounds N]
  --texts N   compares the ids of N random texts of all classes of Unicode for each vocabulary; without it speed is measured
  --peer DIR  has bin/libllama.so, and the sources that it was built from are found through DIR's CMakeCache.txt

The vocabularies are those of models/vocab (and Gemma 3's). Each is rebuilt for `tokenizers` with the pre-tokenizer that its family publishes;
the NFC of Qwen's and MPT's files is left out: neither llama.cpp nor this project applies it. Texts hold only what Unicode 14 has assigned,
for the programs know different versions, and only bytes that the vocabulary has (Falcon's lacks some). Exit status: 1 when ids differ."""
import argparse
import pathlib
import random
import re
import statistics
import subprocess
import sys
import tempfile
import time
import unicodedata

import gguf
from tokenizers import AddedToken, Regex, Tokenizer, models, normalizers, pre_tokenizers

ROOT = pathlib.Path(__file__).resolve().parent.parent
TOKENS = ROOT / "build/release/test/tokens"
SHORT = "(?i:'s|'t|'re|'ve|'m|'ll|'d)"
REST = r"| ?[^\s\p{L}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
LLAMA3 = SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}{1,3}" + REST
QWEN2 = SHORT + r"|[^\r\n\p{L}\p{N}]?\p{L}+|\p{N}" + REST
QWEN35 = SHORT + r"|[^\r\n\p{L}\p{N}]?[\p{L}\p{M}]+|\p{N}| ?[^\s\p{L}\p{M}\p{N}]+[\r\n]*|\s*[\r\n]+|\s+(?!\S)|\s+"
CODER = [r"[\r\n]", r"\s?\p{L}+", r"\s?\p{P}+", "[一-龥ࠀ-一가-퟿]+"]


def byte_level(*before, use_regex):
    return pre_tokenizers.Sequence([*before, pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=use_regex)])


def isolated(*patterns):
    return [pre_tokenizers.Split(Regex(p), "isolated") for p in patterns]


GPT2 = byte_level(use_regex=True)
DIGIT_GPT2 = byte_level(pre_tokenizers.Digits(True), use_regex=True)
FALCON = pre_tokenizers.Sequence([pre_tokenizers.Punctuation("contiguous"), pre_tokenizers.ByteLevel(add_prefix_space=False, use_regex=True),
                                  pre_tokenizers.Digits(False), *isolated("[0-9][0-9][0-9]")])
BYTES = {"gpt-2": GPT2, "mpt": GPT2, "starcoder": DIGIT_GPT2, "refact": DIGIT_GPT2, "command-r": DIGIT_GPT2, "falcon": FALCON,
         "llama-bpe": byte_level(*isolated(LLAMA3), use_regex=False), "qwen2": byte_level(*isolated(QWEN2), use_regex=False),
         "qwen35": byte_level(*isolated(QWEN35), use_regex=False),
         "deepseek-coder": byte_level(*isolated(*CODER), pre_tokenizers.Digits(True), use_regex=False)}
SPM = {"llama-spm": True, "phi-3": True, "gemma-3": False}  # whether a space goes before a text
PLAIN = [*range(33, 127), *range(161, 173), *range(174, 256)]
BYTE_CHARS = {b: chr(b) for b in PLAIN} | {b: chr(256 + i) for i, b in enumerate(b for b in range(256) if b not in PLAIN)}
NAMES = [*BYTES, *SPM, "gemma-4", "bert-bge"]


def file_of(name):
    return ROOT / "models/test/gemma-3-270m-q4_k_m.gguf" if name == "gemma-3" else ROOT / f"models/vocab/ggml-vocab-{name}.gguf"


def field(reader, key):
    found = reader.fields.get("tokenizer.ggml." + key)
    return found.contents() if found else None


def by_scores(vocab, scores):
    """As transformers makes merges of SentencePiece's scores: every pair that makes a token, the best score first."""
    pairs = [(token[:i], token[i:]) for token in vocab for i in range(1, len(token)) if token[:i] in vocab and token[i:] in vocab]
    return sorted(pairs, key=lambda p: (-scores[vocab[p[0] + p[1]]], vocab[p[0]], vocab[p[1]]))


def rebuild(name):
    r = gguf.GGUFReader(file_of(name))
    tokens, kinds = field(r, "tokens"), field(r, "token_type")
    normal = {token: i for i, token in enumerate(tokens) if kinds is None or kinds[i] in (1, 6)}  # 6: bytes
    if name in BYTES:
        t = Tokenizer(models.BPE(vocab={k: i for i, k in enumerate(tokens)}, merges=[tuple(m.split(" ")) for m in field(r, "merges")],
                                 ignore_merges=name == "llama-bpe"))
        t.pre_tokenizer = BYTES[name]
    elif name in SPM:
        plain = {token: i for token, i in normal.items() if kinds[i] == 1}
        t = Tokenizer(models.BPE(vocab={k: i for i, k in enumerate(tokens)}, merges=by_scores(plain, field(r, "scores")), unk_token="<unk>",
                                 fuse_unk=True, byte_fallback=True))
        t.normalizer = normalizers.Sequence([normalizers.Prepend("▁")] * SPM[name] + [normalizers.Replace(" ", "▁")])
    elif name == "gemma-4":
        t = Tokenizer(models.BPE(vocab={k: i for i, k in enumerate(tokens)}, merges=[tuple(m.split(" ", 1)) for m in field(r, "merges")],
                                 unk_token="<unk>", fuse_unk=True, byte_fallback=True))
        t.normalizer = normalizers.Replace(" ", "▁")
        t.pre_tokenizer = pre_tokenizers.Split(Regex(r"[^\n]+|[\n]+"), "isolated")
    else:
        words = {(k[1:] if k.startswith("▁") else k if kinds[i] == 3 or k.startswith("[") and k.endswith("]") else "##" + k): i
                 for i, k in enumerate(tokens)}
        t = Tokenizer(models.WordPiece(vocab=words, unk_token="[UNK]", max_input_chars_per_word=100))
        t.normalizer, t.pre_tokenizer = normalizers.BertNormalizer(lowercase=True, strip_accents=True), pre_tokenizers.BertPreTokenizer()
    t.add_tokens([AddedToken(token, normalized=False) for i, token in enumerate(tokens) if kinds and kinds[i] == 4])  # 4: defined by users
    return t


def classes(old):
    """old: what Unicode 3.2 had assigned already; the categories of punctuation and of control characters there are older than others."""
    by = {}
    for cp in range(0x20000 + 0x1000):
        kind = unicodedata.category(chr(cp))
        if old and unicodedata.ucd_3_2_0.category(chr(cp)) != kind:
            continue
        if kind not in ("Cn", "Cs", "Co") and cp:
            by.setdefault(kind, []).append(chr(cp))
    plain = [chr(c) for c in range(32, 127)]
    return [*by.values(), plain, plain, list("aeiounrst' "), list(" \t\r\n"), list("0123456789"), list("'sS'tTrReEvVmMlLdD ")]


def texts(n, seed, old):
    rng, all_of = random.Random(seed), classes(old)
    for _ in range(n):
        few = [rng.choice(all_of) for _ in range(rng.randint(1, 4))]
        yield "".join(rng.choice(rng.choice(few)) for _ in range(rng.randint(1, 40)))


def compare(name, n):
    """Texts whose ids differ, in batches so that memory stays small."""
    t, wrong = rebuild(name), []
    missing = {i for i, c in BYTE_CHARS.items() if t.token_to_id(c) is None} if name in BYTES else set()
    for start in range(0, n, 50000):
        batch = [s for s in texts(min(50000, n - start), start + 1, name in ("bert-bge", "falcon")) if missing.isdisjoint(s.encode())]
        ours = subprocess.run([TOKENS, file_of(name)], input="".join(s.encode().hex() + "\n" for s in batch), capture_output=True, text=True,
                              check=True).stdout.split("\n")
        for text, line, theirs in zip(batch, ours, t.encode_batch(batch, add_special_tokens=False)):
            if line.split() != [str(i) for i in theirs.ids]:
                wrong.append((text, line, theirs.ids))
    return wrong


PEER = r"""
#include "llama.h"
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>
static void quiet(enum ggml_log_level level, const char *text, void *data) { (void)level, (void)text, (void)data; }
int main(int argc, char **argv)
{
    static char text[1 << 24];
    size_t n = fread(text, 1, sizeof text, stdin);
    (void)argc;
    llama_log_set(quiet, NULL);
    struct llama_model_params how = llama_model_default_params();
    how.vocab_only = true;
    struct llama_model *m = llama_model_load_from_file(argv[1], how);
    int32_t *ids = malloc((n + 16) * sizeof *ids);
    double best = 1e9;
    for (int i = 0; i < 3; i++) {
        struct timespec a, b;
        clock_gettime(CLOCK_MONOTONIC, &a);
        if (llama_tokenize(llama_model_get_vocab(m), text, (int32_t)n, ids, (int32_t)n + 16, false, false) < 0)
            return 1;
        clock_gettime(CLOCK_MONOTONIC, &b);
        double s = (double)(b.tv_sec - a.tv_sec) + (double)(b.tv_nsec - a.tv_nsec) / 1e9;
        best = s < best ? s : best;
    }
    printf("%g\n", (double)n / best / 1e6);
}
"""


def peer_program(peer, folder):
    source = re.search(r"CMAKE_HOME_DIRECTORY:INTERNAL=(.*)", (peer / "CMakeCache.txt").read_text())[1]
    (folder / "peer.c").write_text(PEER)
    subprocess.run(["cc", "-O2", "-I", f"{source}/include", "-I", f"{source}/ggml/include", folder / "peer.c", "-o", folder / "peer", f"-L{peer}/bin", "-lllama",
                    "-lggml", "-lggml-base", f"-Wl,-rpath,{peer}/bin"], check=True)
    return folder / "peer"


def speed(name, text, peer, rounds):
    """MB/s of the three, the ratio to each peer inside a round."""
    t, out = rebuild(name), []
    for _ in range(rounds):
        ours = float(subprocess.run([TOKENS, file_of(name), "time"], input=text, capture_output=True, text=True, check=True).stdout)
        best = 1e9
        for _ in range(3):
            start = time.perf_counter()
            t.encode(text, add_special_tokens=False)
            best = min(best, time.perf_counter() - start)
        theirs = float(subprocess.run([peer, file_of(name)], input=text, capture_output=True, text=True, check=True).stdout) if peer else 0
        out.append((ours, len(text.encode()) / best / 1e6, theirs))
    return out


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--texts", type=int), p.add_argument("--names", default=""), p.add_argument("--peer"), p.add_argument("--rounds", type=int, default=5)
    a = p.parse_args()
    names, failed = [n for n in NAMES if re.search(a.names, n)], False
    if a.texts:
        for name in names:
            wrong = compare(name, a.texts)
            failed = failed or bool(wrong)
            print(f"{name}: {a.texts} texts, {len(wrong)} differ", flush=True)
            for text, ours, theirs in wrong[:3]:
                print(f"   {text!r}\n   ours   {ours}\n   theirs {' '.join(map(str, theirs))}")
        sys.exit(failed)
    text = ((ROOT / "test/data/licences.txt").read_text() + (ROOT / "test/data/prompts.txt").read_text()) * 4
    print("| vocabulary | sparing MB/s | tokenizers MB/s | ratio | llama.cpp MB/s | ratio |\n|---|---|---|---|---|---|")
    with tempfile.TemporaryDirectory() as folder:
        peer = peer_program(pathlib.Path(a.peer), pathlib.Path(folder)) if a.peer else None
        for name in names:
            rows = speed(name, text, peer, a.rounds)
            ours, hf, cpp = (statistics.median(r[i] for r in rows) for i in range(3))
            ratio = [sorted(r[0] / r[i] for r in rows if r[i]) for i in (1, 2)]
            shown = [f"{statistics.median(x):.1f} ({x[0]:.1f}-{x[-1]:.1f})" if x else "-" for x in ratio]
            print(f"| {name} | {ours:.1f} | {hf:.1f} | {shown[0]} | {cpp:.1f} | {shown[1]} |", flush=True)


if __name__ == "__main__":
    main()
