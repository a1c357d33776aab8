"""Records PyTorch's logits of the real Gemma 3 270M file (scripts/fetch-models test): its weights dequantised to F32.

Run from the root with torch, transformers and gguf of README.md's versions. The tokens are the beginning of test/data/licences.txt in the
vocabulary's longest pieces, more than the model's window of 512; each row keeps the 64 largest logits and 192 others."""
import json
import pathlib

import numpy as np
import torch
import transformers
from gguf import GGUFReader, dequantize
from transformers import Gemma3ForCausalLM, Gemma3TextConfig

ROOT = pathlib.Path(__file__).resolve().parents[2]
FILE = ROOT / "models/test/gemma-3-270m-q4_k_m.gguf"
N_TOK, ROWS = 640, [0, 1, 5, 100, 300, 500, 511, 512, 513, 600, 639]
NAMES = {"attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm", "ffn_norm": "pre_feedforward_layernorm",
         "post_ffw_norm": "post_feedforward_layernorm", "attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj",
         "attn_v": "self_attn.v_proj", "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm",
         "attn_k_norm": "self_attn.k_norm", "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj"}


def pieces(reader):
    at = {t: i for i, t in enumerate(reader.fields["tokenizer.ggml.tokens"].contents())}
    text, ids, i = (ROOT / "test/data/licences.txt").read_text().replace(" ", "\u2581"), [2], 0
    while len(ids) < N_TOK:
        n = next((n for n in range(24, 0, -1) if text[i:i + n] in at), 0)
        if n:
            ids.append(at[text[i:i + n]])
        i += n or 1
    return ids


def checkpoint(reader):
    """The converter added 1 to every norm's weights, which transformers adds when it runs."""
    out = {}
    for t in reader.tensors:
        w = torch.from_numpy(dequantize(t.data, t.tensor_type).astype(np.float32).copy())
        w = w - 1 if "norm" in t.name else w
        if t.name.startswith("blk."):
            _, i, name, _ = t.name.split(".")
            out[f"model.layers.{i}.{NAMES[name]}.weight"] = w
        else:
            out[{"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[t.name]] = w
    return out


def main():
    reader = GGUFReader(FILE)
    rope = {"full_attention": {"rope_type": "default", "rope_theta": 1e6}, "sliding_attention": {"rope_type": "default", "rope_theta": 1e4}}
    model = Gemma3ForCausalLM(Gemma3TextConfig(
        vocab_size=262144, hidden_size=640, intermediate_size=2048, num_hidden_layers=18, num_attention_heads=4, num_key_value_heads=1,
        head_dim=256, max_position_embeddings=32768, rms_norm_eps=1e-6, sliding_window=512, query_pre_attn_scalar=256,
        attn_implementation="eager", rope_parameters=rope)).eval().float()
    weights, ids, rng = checkpoint(reader), pieces(reader), np.random.default_rng(270)
    missing = model.load_state_dict(weights, strict=False)
    assert missing.missing_keys == ["lm_head.weight"] and not missing.unexpected_keys
    with torch.no_grad():
        logits = (model.model(torch.tensor([ids])).last_hidden_state[0][ROWS] @ weights["model.embed_tokens.weight"].T).numpy()
    rows = []
    for at, x in zip(ROWS, logits):
        keep = np.concatenate([np.argsort(-x)[:64], rng.choice(len(x), 192, replace=False)])
        rows.append({"row": at, "tok": keep.tolist(), "logit": [float(f"{v:.7g}") for v in x[keep]]})
    out = {"torch": torch.__version__, "transformers": transformers.__version__, "file": FILE.name, "ids": ids, "rows": rows}
    (ROOT / "test/golden/data/gemma3-270m.json").write_text(json.dumps(out) + "\n")


main()
