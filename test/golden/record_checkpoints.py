"""Records what `save_pretrained` writes for the checkpoints of record_families.py, without their numbers.

usage: record_families.py --keep DIR [NAME...], then record_checkpoints.py DIR

For each checkpoint in DIR this writes data/hf-NAME.json: the configuration, and the name and shape
of each tensor with the tensor of data/fam-NAME.gguf that its numbers are in; of experts also which of them, or how
gate and up lie in one tensor. test/e2e/checkpoints.py makes the folder again from both; this script proves that it comes
out with the same bytes (norms that GGUF stores plus 1: with numbers that give the same sum)."""
import json
import pathlib
import re
import sys
import tempfile

import numpy as np
from safetensors.numpy import load_file

import families
import families_encoders
import families_experts
import families_text

sys.path.insert(0, str(pathlib.Path(__file__).parents[1] / "e2e"))
import checkpoints

OUT = pathlib.Path(__file__).parent / "data"


def place(key, t, row):
    """[tensor of the GGUF, shape], of experts and joined matrices also how: the expert's number, or how two became one."""
    m = re.fullmatch(r"(.*experts)\.(\d+)\.(.*)", key)
    if m:
        return [families.gguf_name(f"{m[1]}.{m[3]}", row), list(t.shape), int(m[2])]
    parts = [families.gguf_name(k, row) for k, _ in row.get("split", lambda key, t: [(key, t)])(key, t)]
    how = "turns" if row["arch"] == "gpt-oss" else "halves"
    if len(parts) == 2:
        return [parts, list(t.shape), how + (" transposed" if how == "turns" and not key.endswith("bias") else "")]
    if ".experts.down_proj" in key and how == "turns" and not key.endswith("bias"):
        return [parts, list(t.shape), "transposed"]
    behind = row["name"] == "bert-rank" and "position_embeddings" in key  # XLM-R's first two are cut off
    return [parts[0], list(t.shape), *(["behind 2"] if behind else [])]


def record(row, folder):
    config = json.loads((folder / "config.json").read_text())
    saved = load_file(folder / "model.safetensors")
    saved = {k: t for k, t in saved.items() if not k.startswith(row.get("skip", ("\0",)))}
    heads = {"attn_q": config["num_attention_heads"], "attn_k": config["num_key_value_heads"]} if row.get("pairs") else {}
    pooling = folder / "1_Pooling/config.json"
    out = {"config": config, "pairs": heads, "plus_one": bool(row.get("plus_one")),
           **({"pooling": json.loads(pooling.read_text())} if pooling.exists() else {}),
           "tensors": {k: place(k, t, row) for k, t in sorted(saved.items())}}
    (OUT / f"hf-{row['name']}.json").write_text(json.dumps(out) + "\n")
    with tempfile.TemporaryDirectory() as tmp:
        again = load_file(checkpoints.make(pathlib.Path(tmp) / row["name"], row["name"]) / "model.safetensors")
    assert again.keys() == saved.keys()
    for k, t in saved.items():
        one = np.float32(1) if row.get("plus_one") and "norm" in k else np.float32(0)
        skip = 2 if row["name"] == "bert-rank" and "position_embeddings" in k else 0
        assert np.array_equal(again[k][skip:] + one, t[skip:] + one), (row["name"], k)
    print(row["name"])


for row in families_text.ROWS + families_experts.ROWS + families_encoders.ROWS:
    if (pathlib.Path(sys.argv[1]) / row["name"]).exists():
        record(row, pathlib.Path(sys.argv[1]) / row["name"])
