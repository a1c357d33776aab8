"""Records a tiny random checkpoint of each model family as GGUF (F32), with PyTorch's answers.

usage: record_families.py [--against LLAMA_CPP] [--keep DIR] [NAME...]

The families stand in families_text.py, families_experts.py, families_hybrid.py and families_encoders.py, one row each. For every row this script makes the checkpoint with
`transformers`, saves it as a user would find it, converts the saved files to GGUF with the rules of
the row, and writes data/fam-NAME.gguf and data/fam-NAME.json. Each row names rules that are special
to the family; the script proves for each that a model without the rule answers differently.

--against LLAMA_CPP also converts each checkpoint with `convert_hf_to_gguf.py` of a llama.cpp source
tree and compares all tensors and all keys of the architecture. --keep DIR keeps the checkpoints."""
import argparse
import copy
import json
import pathlib
import re
import subprocess
import sys
import tempfile
import zlib

import gguf
import numpy as np
import torch
import transformers
from safetensors.numpy import load_file

import families
import families_encoders
import families_experts
import families_hybrid
import families_text

OUT = pathlib.Path(__file__).parent / "data"
SEED = 20261129
N_ID = 80
KEEP = [0, 1, 7, 8, 9, 15, 16, 17, 31, 32, 33, 47, 63, 64, 79]
ROWS = families_text.ROWS + families_experts.ROWS + families_hybrid.ROWS + families_encoders.ROWS
GAIN = {"q_proj": 1.7, "k_proj": 1.7, "qkv_proj": 1.7, "lm_head": 2.0, "gate": 1.5, "router": 1.5}
LEAST_EFFECT = 1e-6  # NMSE that leaving out a special rule must cause: 1e-3 relative


def make_config(row, **change):
    cls = getattr(transformers, row["config"][0])
    base = dict(families.BASE, attn_implementation="eager")
    fields = {**base, **row["config"][1], **change}
    if hasattr(cls(), "layer_norm_eps"):  # LayerNorm, not RMS
        fields.pop("rms_norm_eps")
    return cls(**copy.deepcopy(fields))


def randomise(model, row, rng):
    """Gives every weight a value that matters: norms away from 1, biases and sinks away from 0."""
    tied = getattr(model.config, "tie_word_embeddings", False)
    state = dict(model.named_parameters())
    state.update({k: v for k, v in model.named_buffers() if "correction_bias" in k or "expert_bias" in k or "layer_scalar" in k})
    for name, p in sorted(state.items()):
        last = name.split(".")[-2] if name.endswith((".weight", ".bias")) else name.split(".")[-1]
        r = torch.from_numpy(rng.standard_normal(tuple(p.shape)).astype(np.float32))
        if "correction_bias" in name or "expert_bias" in name:
            v = 0.2 * r
        elif "sinks" in name:
            v = 1.0 + r
        elif name.endswith("bias"):
            v = 0.3 * r
        elif p.dim() == 1:  # a norm: around 1, or around 0 where the model adds 1
            more = row.get("head_norm_gain", 0.6) if last in ("q_norm", "k_norm") else 0.0
            v = round(float(p.detach().mean())) + more + 0.2 * r
        elif "embed" in name:
            v = r * row.get("embed_std", 0.4 if tied else 1.0)
        else:
            fan_in = p.shape[-2] if row.get("transposed") and p.dim() == 3 else p.shape[-1]
            v = r * row.get("gain", {}).get(last, GAIN.get(last, 1.2)) / fan_in ** 0.5
        p.data.copy_(v)


def build(row, seed):
    torch.manual_seed(seed)
    model = getattr(transformers, row["model"])(make_config(row)).eval()
    randomise(model, row, np.random.default_rng(seed))
    row.get("prepare", lambda model: None)(model)
    return model


def answer(model, ids, row):
    with torch.no_grad():
        return row.get("answer", families.causal)(model, torch.tensor([ids])).double().numpy()


def nmse(a, b):
    return float(((a - b) ** 2).sum() / (b ** 2).sum())


def prove_rules(model, row, ids, want):
    """Answers of the same weights without one rule each: how far they are from the right ones."""
    out = {}
    for label, change in row.get("rules", {}).items():
        if callable(change):
            other = copy.deepcopy(model)
            change(other)
        else:
            other = with_config(model, row, change)
        out[label] = nmse(answer(other, ids, row), want)
        assert out[label] > row.get("least", LEAST_EFFECT), f"{row['name']}: without '{label}' the answer stays ({out[label]})"
    return out


def with_config(model, row, change):
    other = getattr(transformers, row["model"])(make_config(row, **change)).eval()
    other.load_state_dict(model.state_dict(), strict=False)
    return other


def read_checkpoint(path):
    t = {}
    for f in sorted(path.glob("*.safetensors")):
        t.update(load_file(f))
    return stack_experts(t)


def stack_experts(t):
    """One tensor [n_expert, ...] in place of one tensor an expert."""
    out, groups = {}, {}
    for key, v in t.items():
        m = re.fullmatch(r"(.*experts)\.(\d+)\.(.*)", key)
        if m:
            groups.setdefault(f"{m[1]}.{m[3]}", {})[int(m[2])] = v
        else:
            out[key] = v
    for key, g in groups.items():
        out[key] = np.stack([g[i] for i in range(len(g))])
    return out


def add_keys(w, arch, keys):
    for suffix, v in keys.items():
        key = suffix if suffix.startswith(("tokenizer.", "general.")) else f"{arch}.{suffix}"
        if isinstance(v, bool):
            w.add_bool(key, v)
        elif isinstance(v, int):
            w.add_uint32(key, v)
        elif isinstance(v, float):
            w.add_float32(key, v)
        elif isinstance(v, str):
            w.add_string(key, v)
        else:
            w.add_array(key, v)


def write_gguf(path, row, cfg, checkpoint):
    w = gguf.GGUFWriter(str(path), row["arch"])
    add_keys(w, row["arch"], families.keys_of(row, cfg))
    add_keys(w, row["arch"], row.get("tokenizer", families.tokenizer)(cfg))
    for name, t in families.tensors_of(row, cfg, checkpoint):
        t = np.ascontiguousarray(t, dtype=np.float32)
        kind = row.get("raw", lambda name, t: None)(name, t)
        w.add_tensor(name, gguf.quants.quantize(t, kind) if kind else t, raw_dtype=kind)
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


PEER_CONVERT = """
import sys
sys.path[:0] = [sys.argv[1] + "/gguf-py", sys.argv[1]]
import conversion.base as base, conversion
conversion.load_all_models()
for models in base.ModelBase._model_classes.values():
    for c in models.values():
        c.set_vocab = lambda self: None
sys.argv = ["convert", sys.argv[2], "--outtype", "f32", "--outfile", sys.argv[3]] + sys.argv[4:]
import convert_hf_to_gguf
convert_hf_to_gguf.main()
"""


def read_gguf(path, arch):
    r = gguf.GGUFReader(str(path))
    keys = {k: (f.types, f.contents()) for k, f in r.fields.items() if k.startswith(arch + ".")}
    return keys, {t.name: np.array(t.data) for t in r.tensors}


def compare_conversion(llama_cpp, checkpoint, ours, row):
    """Runs llama.cpp's converter (vocabulary left out) on the checkpoint; keys and tensors must agree."""
    theirs = checkpoint / "peer.gguf"
    names = [chr(33 + i) for i in range(families.BASE["vocab_size"])]
    (checkpoint / "tokenizer.json").write_text(json.dumps(
        {"model": {"vocab": {k: i for i, k in enumerate(names)}}, "added_tokens": []}))
    subprocess.run([sys.executable, "-c", PEER_CONVERT, llama_cpp, str(checkpoint), str(theirs),
                    *row.get("peer_flags", [])], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.PIPE, text=True)
    (k1, t1), (k2, t2) = read_gguf(ours, row["arch"]), read_gguf(theirs, row["arch"])
    differ = []
    for k in sorted(k1.keys() | k2.keys()):
        if k1.get(k) != k2.get(k) and k.split(".", 1)[1] not in row.get("peer_keys_differ", {}):
            differ.append(f"key {k}: ours {k1.get(k)}, llama.cpp {k2.get(k)}")
    for k in sorted(t1.keys() | t2.keys()):
        a, b = t1.get(k), t2.get(k)
        if a is None or b is None or a.shape != b.shape or not np.array_equal(a, b):
            differ.append(f"tensor {k}: {None if a is None else a.shape}, {None if b is None else b.shape}")
    if differ:
        sys.exit(f"{row['name']} against llama.cpp's converter:\n  " + "\n  ".join(differ))


def exact(x):
    """A float as the shortest decimal that reads back as the same 32-bit float."""
    return float(str(np.float32(x)))


def record(row, args):
    seed = SEED + zlib.crc32(row["name"].encode()) % 100000
    model = build(row, seed)
    cfg = model.config
    ids = np.random.default_rng(seed + 1).integers(3, cfg.vocab_size, N_ID).tolist()
    ids[0] = row.get("first_id", ids[0])
    want = answer(model, ids, row)
    noise = nmse(answer(copy.deepcopy(model).double(), ids, row), want)
    rules = prove_rules(model, row, ids, want)
    path = OUT / f"fam-{row['name']}.gguf"
    with tempfile.TemporaryDirectory() as tmp:
        checkpoint = (pathlib.Path(args.keep) if args.keep else pathlib.Path(tmp)) / row["name"]
        model.save_pretrained(checkpoint)
        row.get("save_more", lambda *_: None)(checkpoint, model)
        write_gguf(path, row, cfg, read_checkpoint(checkpoint))
        if args.against and row.get("peer", True):
            compare_conversion(args.against, checkpoint, path, row)
    out = {"torch": torch.__version__, "transformers": transformers.__version__, "seed": seed,
           "arch": row["arch"], "what": row["what"], "rules": {k: float(f"{v:.2g}") for k, v in rules.items()},
           "ids": ids, **families.saved(row, want, KEEP, exact)}
    if "also" in row:
        out["also"] = {k: families.saved(row, answer(with_config(model, row, v), ids, row), KEEP, exact)
                       for k, v in row["also"].items()}
    path.with_suffix(".json").write_text(json.dumps(out) + "\n")
    print(f"{row['name']:22} {path.stat().st_size:7} B  f32 noise {noise:.1e}  std {want.std():.2f}  "
          + ", ".join(f"{k} {v:.1e}" for k, v in rules.items()))


def main():
    p = argparse.ArgumentParser()
    p.add_argument("--against")
    p.add_argument("--keep")
    p.add_argument("names", nargs="*")
    args = p.parse_args()
    unknown = set(args.names) - {r["name"] for r in ROWS}
    if unknown:
        sys.exit(f"no such family: {', '.join(sorted(unknown))}")
    torch.set_num_threads(1)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    for row in ROWS:
        if not args.names or row["name"] in args.names:
            record(row, args)


main()
