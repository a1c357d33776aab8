"""Records llama.cpp's greedy answers and distributions on SmolLM2, and its perplexity.

usage: record_peer.py PATH_OF_LLAMA_PERPLEXITY

Two files are run: the model as it is (Q4_1: llama.cpp and we both round activations to 8 bits, which is noise),
and the same weights dequantised to F32 (no such noise: any difference there is a difference of the programs).
Also recorded: how far llama.cpp is from itself when the same tokens come in one batch instead of one by one."""
import json
import pathlib
import re
import subprocess
import sys
import tempfile

import gguf
import numpy as np
from llama_cpp import Llama

ROOT = pathlib.Path(__file__).resolve().parents[2]
MODEL = ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
TOP, N_GEN = 64, 24
PROMPTS = [p for p in (ROOT / "test/data/prompts.txt").read_text().splitlines() if p]


def log_softmax(x):
    x = x.astype(np.float64)
    x = x - x.max(-1, keepdims=True)
    return x - np.log(np.exp(x).sum(-1, keepdims=True))


def write_f32(path):
    r = gguf.GGUFReader(str(MODEL))
    w = gguf.GGUFWriter(str(path), "llama")
    for key, f in r.fields.items():
        if not key.startswith("GGUF.") and key != "general.architecture":
            array = f.types[0] == gguf.GGUFValueType.ARRAY
            w.add_key_value(key, f.contents(), f.types[0], sub_type=f.types[-1] if array else None)
    for t in r.tensors:
        f32 = t.tensor_type == gguf.GGMLQuantizationType.F32
        w.add_tensor(t.name, np.array(t.data) if f32 else gguf.quants.dequantize(t.data, t.tensor_type).astype(np.float32))
    w.write_header_to_file()
    w.write_kv_data_to_file()
    w.write_tensors_to_file()
    w.close()


def open_model(path):
    return Llama(str(path), n_ctx=512, n_threads=2, n_batch=512, logits_all=True, verbose=False)


def top_of(lp):
    top = np.argsort(-lp, axis=1)[:, :TOP]
    return {"top": top.tolist(), "logprob": np.round(np.take_along_axis(lp, top, 1), 4).tolist()}


def main():
    m = open_model(MODEL)
    rows, kls, agree = [], [], []
    for prompt in PROMPTS:
        text = ("<|im_start|>system\nYou are a helpful AI assistant named SmolLM, trained by Hugging Face<|im_end|>\n"
                f"<|im_start|>user\n{prompt}<|im_end|>\n<|im_start|>assistant\n")
        ids = m.tokenize(text.encode(), add_bos=False, special=True)
        m.reset()
        m.eval(ids)
        first = len(ids) - 1
        for _ in range(N_GEN):
            nxt = int(np.argmax(m.scores[m.n_tokens - 1]))
            ids.append(nxt)
            m.eval([nxt])
        lp = log_softmax(m.scores[first:first + N_GEN])
        ids = ids[:first + N_GEN]
        rows.append({"ids": ids, "first": first, "q4_1": top_of(lp)})
        m.reset()
        m.eval(ids)
        again = log_softmax(m.scores[first:first + N_GEN])
        kls += (np.exp(lp) * (lp - again)).sum(1).tolist()
        agree += (again.argmax(1) == lp.argmax(1)).tolist()
    del m
    with tempfile.TemporaryDirectory() as tmp:
        write_f32(pathlib.Path(tmp) / "f32.gguf")
        m = open_model(pathlib.Path(tmp) / "f32.gguf")
        for r in rows:
            m.reset()
            m.eval(r["ids"])
            r["f32"] = top_of(log_softmax(m.scores[r["first"]:r["first"] + N_GEN]))
    run = subprocess.run([sys.argv[1], "-m", str(MODEL), "-f", str(ROOT / "test/data/licences.txt"), "-c", "512", "-t", "2"],
                         capture_output=True, text=True, check=True)
    ppl = float(re.search(r"PPL = ([0-9.]+)", run.stdout + run.stderr).group(1))
    self = {"kl": float(np.mean(kls)), "top1": float(np.mean(agree))}
    (ROOT / "test/golden/data/peer.json").write_text(json.dumps({
        "oracle": "llama.cpp in llama-cpp-python 0.3.36, f16 KV, 2 threads", "rows": rows, "perplexity_512": ppl,
        "peer_against_itself": self}))
    print(f"perplexity {ppl}; against itself {self}")


main()
