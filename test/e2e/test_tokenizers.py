"""Every kind of tokenizer against llama.cpp's own pairs of text and ids, and against forgery."""
import subprocess

import pytest

from conftest import MODEL, ROOT, tool

VOCAB = ROOT / "models/vocab"
PAIRS = {"bert-bge": 47, "command-r": 47, "deepseek-coder": 47, "deepseek-llm": 47, "falcon": 47, "gemma-4": 46, "gpt-2": 47,
         "llama-bpe": 47, "llama-spm": 47, "mpt": 47, "phi-3": 47, "qwen2": 47, "qwen35": 51, "refact": 47, "starcoder": 47}
KEEPS = {"gpt-2", "qwen2", "qwen35", "llama-bpe", "llama-spm", "gemma-4", "phi-3", "command-r"}  # a token for every byte


def vocab(name):
    return VOCAB / f"ggml-vocab-{name}.gguf"


def ids_of(path, texts, *mode):
    lines = "".join(t.hex() + "\n" for t in texts)
    out = subprocess.run([tool("tokens"), str(path), *mode], input=lines, capture_output=True, text=True, check=True).stdout
    return [[int(x) for x in line.split()] for line in out.splitlines()]


@pytest.mark.parametrize("name", PAIRS)
def test_pairs_of_llama_cpp(name):
    texts = vocab(name).with_suffix(".gguf.inp").read_bytes().split(b"\n__ggml_vocab_test__\n")
    want = [[int(x) for x in line.split()] for line in vocab(name).with_suffix(".gguf.out").read_text().split("\n")][:len(texts)]
    assert len(texts) == PAIRS[name]
    bad = [(t, g, w) for t, g, w in zip(texts, ids_of(vocab(name), texts), want, strict=True) if g != w]
    assert not bad, f"{len(bad)} of {len(texts)}: {bad[0]}"


def test_all_pairs_are_counted():
    assert sum(PAIRS.values()) == 708
    assert sorted(p.name for p in VOCAB.glob("*.inp")) == sorted(f"ggml-vocab-{n}.gguf.inp" for n in PAIRS)


@pytest.mark.parametrize("name", [*PAIRS, "nomic-bert-moe", "aquila", "baichuan", "gpt-neox", "smollm"])
def test_no_text_becomes_a_control_token(name):
    """Every code point alone and between letters, and the text of every token of the vocabulary."""
    path = MODEL if name == "smollm" else vocab(name)
    out = subprocess.run([tool("tokens"), str(path), "forge-keeps" if name in KEEPS else "forge"],
                         capture_output=True, text=True, check=True).stdout.split("\n")
    assert int(out[-2]) > 2 * 1_112_000
    # U+2581 stands for a space in these vocabularies: it alone does not come back.
    assert [line for line in out[:-2] if "\u2581" not in line] == []


def test_the_mark_of_first_pieces_begins_none_inside_a_word():
    """BERT's files spell first pieces with U+2581. PyPI `tokenizers` 0.23.3 gives [UNK] for all these words; z is known as a first piece and inside."""
    texts = ["l\u2581zp", "\u2581", "a\u2581", "\u2581z"]
    assert ids_of(vocab("bert-bge"), [t.encode() for t in texts]) == [[100]] * 4
