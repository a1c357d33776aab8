"""Checkpoint folders as transformers writes them, made again from what test/golden/record_checkpoints.py recorded."""
import json
import pathlib

import numpy as np

from ggufs import Gguf

GOLDEN = pathlib.Path(__file__).parents[1] / "golden/data"


def halves(t, n_head):
    """Rows of a head from adjacent pairs (GGUF) to split halves (transformers)."""
    return t.reshape(n_head, t.shape[0] // n_head // 2, 2, *t.shape[1:]).swapaxes(1, 2).reshape(t.shape)


def joined(parts, how):
    """The tensor of a checkpoint whose parts are tensors of the GGUF: `halves` of the rows, or `turns` along the outputs."""
    t = parts[0]
    if how == "halves":
        t = np.concatenate(parts, -2)
    elif how == "turns":
        t = np.stack(parts, -1).reshape(*t.shape[:-1], -1)
    elif how == "turns transposed":
        t = np.stack(parts, -2).reshape(*t.shape[:-2], -1, t.shape[-1])
    return t.swapaxes(-1, -2) if "transposed" in how else t


def array(g, to):
    dims, _, raw = g.tensors[to]
    return np.frombuffer(raw, "<f4")[:int(np.prod(dims))].reshape(dims[::-1])


def tensors_of(name):
    """{name in the checkpoint: array}"""
    g, hf = Gguf(GOLDEN / f"fam-{name}.gguf"), json.loads((GOLDEN / f"hf-{name}.json").read_text())
    out = {}
    for key, (to, shape, *how) in hf["tensors"].items():
        if how and how[0] == "behind 2":
            t = array(g, to)
            out[key] = np.concatenate([np.full((2, t.shape[1]), 7, np.float32), t])
            continue
        if how and isinstance(how[0], str):
            out[key] = joined([array(g, n) for n in to], how[0]).reshape(shape)
            continue
        t = array(g, to)[how[0]] if how else array(g, to).reshape(shape)
        base = to.split(".")[-2]
        if base in hf["pairs"]:
            t = halves(t, hf["pairs"][base])
        out[key] = t - np.float32(1) if hf["plus_one"] and "norm" in base else t
    return out


def packed(t, dtype):
    if dtype == "BF16":
        return (t.astype("<f4").view("<u4") >> 16).astype("<u2").tobytes()
    return t.astype({"F32": "<f4", "F16": "<f2"}[dtype]).tobytes()


def write_safetensors(path, tensors, dtype="F32"):
    head, data = {"__metadata__": {"format": "pt"}}, b""
    for name, t in tensors.items():
        is_bytes = t.dtype == np.uint8
        raw = t.tobytes() if is_bytes else packed(t, dtype)
        head[name] = {"dtype": "U8" if is_bytes else dtype, "shape": list(t.shape), "data_offsets": [len(data), len(data) + len(raw)]}
        data += raw
    head = json.dumps(head).encode()
    head += b" " * (-len(head) % 8)
    path.write_bytes(len(head).to_bytes(8, "little") + head + data)


def tokenizer():
    """The vocabulary of the recorded families: single characters and one merge, byte-level."""
    tokens = ["<unk>", "<s>", "</s>"] + [chr(33 + i) for i in range(92)] + ['!"']
    return {"version": "1.0", "normalizer": None, "post_processor": None,
            "added_tokens": [{"id": i, "content": t, "special": True} for i, t in enumerate(tokens[:3])],
            "pre_tokenizer": {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": True},
            "model": {"type": "BPE", "byte_fallback": False, "vocab": {t: i for i, t in enumerate(tokens)}, "merges": [["!", '"']]}}


def wordpiece(keys):
    """BERT's tokenizer.json of a recorded vocabulary: pieces that go on have ## there, those that begin a word U+2581 in GGUF."""
    tokens, types = keys["tokenizer.ggml.tokens"][1][1], keys["tokenizer.ggml.token_type"][1][1]
    special = [t for t, y in zip(tokens, types) if y == 3]
    pieces = [t if y == 3 else t[1:] if t[0] == "\u2581" else "##" + t for t, y in zip(tokens, types)]
    return {"normalizer": {"type": "BertNormalizer", "clean_text": True, "handle_chinese_chars": True, "strip_accents": None, "lowercase": True},
            "pre_tokenizer": {"type": "BertPreTokenizer"}, "added_tokens": [{"id": i, "content": t, "special": True} for i, t in enumerate(special)],
            "model": {"type": "WordPiece", "unk_token": "[UNK]", "continuing_subword_prefix": "##", "max_input_chars_per_word": 100,
                      "vocab": {t: i for i, t in enumerate(pieces)}}}


def unigram(keys):
    """XLM-R's of a recorded vocabulary."""
    tokens, scores = keys["tokenizer.ggml.tokens"][1][1], keys["tokenizer.ggml.scores"][1][1]
    return {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]},
            "pre_tokenizer": {"type": "Metaspace", "replacement": "\u2581", "prepend_scheme": "always", "split": True},
            "added_tokens": [{"id": i, "content": t, "special": True} for i, t in enumerate(tokens[:4])],
            "model": {"type": "Unigram", "unk_id": 3, "vocab": [[t, s] for t, s in zip(tokens, scores)], "byte_fallback": False}}


def tokenizer_of(name):
    """tokenizer.json and tokenizer_config.json as the checkpoint's vocabulary has them."""
    keys = Gguf(GOLDEN / f"fam-{name}.gguf").keys
    if keys["tokenizer.ggml.model"][1] == "bert":
        return wordpiece(keys), {"cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]", "pad_token": "[PAD]"}
    if keys["tokenizer.ggml.model"][1] == "t5":
        return unigram(keys), {"bos_token": "<s>", "eos_token": "</s>", "sep_token": "</s>", "cls_token": "<s>", "unk_token": "<unk>", "pad_token": "<pad>"}
    return tokenizer(), {"bos_token": "<s>", "eos_token": {"content": "</s>"}, "unk_token": "<unk>"}


def make(folder, name, dtype="F32", n_file=1, config=None, change=None, tok=None):
    """The folder of a recorded checkpoint. config: other values of its configuration; change: of its tensors."""
    folder.mkdir(parents=True)
    tensors = tensors_of(name)
    if change:
        change(tensors)
    said = {**json.loads((GOLDEN / f"hf-{name}.json").read_text())["config"], **(config or {})}
    (folder / "config.json").write_text(json.dumps({k: v for k, v in said.items() if v is not ...}))
    usual, special = tokenizer_of(name)
    (folder / "tokenizer.json").write_text(json.dumps(tok or usual))
    (folder / "tokenizer_config.json").write_text(json.dumps(special))
    pooling = json.loads((GOLDEN / f"hf-{name}.json").read_text()).get("pooling")
    if pooling:
        (folder / "1_Pooling").mkdir()
        (folder / "1_Pooling/config.json").write_text(json.dumps(pooling))
        (folder / "modules.json").write_text(json.dumps([{"idx": 0, "path": "", "type": "x.Transformer"}, {"idx": 1, "path": "1_Pooling", "type": "x.Pooling"}]))
    if n_file == 1:
        write_safetensors(folder / "model.safetensors", tensors, dtype)
        return folder
    names = list(tensors)
    where = {}
    for i in range(n_file):
        mine = names[i * len(names) // n_file:(i + 1) * len(names) // n_file]
        file = f"model-{i + 1:05}-of-{n_file:05}.safetensors"
        write_safetensors(folder / file, {k: tensors[k] for k in mine}, dtype)
        where.update({k: file for k in mine})
    (folder / "model.safetensors.index.json").write_text(json.dumps({"metadata": {}, "weight_map": where}))
    return folder
