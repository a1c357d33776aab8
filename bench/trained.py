#!/usr/bin/env python3
"""A small model with heads of 128, trained from scratch: what attention may leave out is up to trained keys, and no model with
such heads is at hand. Half of Qwen3-0.6B's width: hidden 512, 10 layers, 8 heads, 4 KV heads of 128, FFN 1408, 62 M parameters.

  trained.py tokens OUT.xz                   licences, documentation and code of this Debian machine in the default model's tokens
  trained.py train TOKENS.xz OUT [--minutes] on a GPU with PyTorch >= 2.9; OUT.*: matrices in 8 bits, norms
  trained.py gguf OUT MODEL.gguf             needs the package gguf

The texts of test/data, this project's documentation and its code are not among the tokens. Contexts grow from 2,048 to 16,384
while it is trained; how many steps that makes depends on the GPU, and the closing line says it."""
import argparse
import concurrent.futures
import gzip
import html
import json
import lzma
import math
import pathlib
import random
import re
import subprocess
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
VOCAB, HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD, FFN, CTX = 49152, 512, 10, 8, 4, 128, 1408, 16384
ROPE, EPS = 5e5, 1e-5
END = "<|endoftext|>"  # between files
PART = 15 << 20
SHAPES = {"attn_q": (HEADS * HEAD, HIDDEN), "attn_k": (KV_HEADS * HEAD, HIDDEN), "attn_v": (KV_HEADS * HEAD, HIDDEN),
          "attn_output": (HIDDEN, HEADS * HEAD), "ffn_gate": (FFN, HIDDEN), "ffn_up": (FFN, HIDDEN), "ffn_down": (HIDDEN, FFN)}
MATRICES = {"token_embd": (VOCAB, HIDDEN)} | {f"blk.{i}.{k}": s for i in range(LAYERS) for k, s in SHAPES.items()}
NORMS = [f"blk.{i}.{k}" for i in range(LAYERS) for k in ("attn_norm", "ffn_norm")] + ["output_norm"]


# --- tokens ----------------------------------------------------------------------------------------

# folder, what to take, most bytes
SOURCES = [("/usr/share/doc", "*/copyright", 16 << 20), ("/usr/share/doc/postgresql-doc-15", "**/*.html", 16 << 20),
           ("/usr/share/doc", "**/*.gz", 20 << 20), ("/usr/share/man", "man*/*.gz", 14 << 20),
           ("/usr/lib", "python3*/**/*.py", 36 << 20), ("/usr/include", "**/*.h", 40 << 20)]


def text_of(path):
    raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
    text = raw.decode("utf-8", "replace")
    if path.suffix == ".html":
        text = html.unescape(re.sub(r"<[^>]+>", "", re.sub(r"(?s)<(head|script|style).*?</\1>", "", text)))
    return re.sub(r"\n\s*\n+", "\n\n", text).replace("\x00", "")


def tokens_of(texts):
    text = "".join(t.replace(END, "") + END for t in texts)
    p = subprocess.run([ROOT / "build/release/sparing", "tokenize", "--ids", "--special"], input=text, text=True, capture_output=True, check=True)
    return json.loads(p.stdout)


def write_tokens(out):
    import numpy as np
    rnd = random.Random(1)
    texts, seen = [], set()
    for folder, pattern, most in SOURCES:
        files = sorted(p for p in pathlib.Path(folder).glob(pattern) if p.is_file() and not p.is_symlink())
        rnd.shuffle(files)
        size = 0
        for path in files:
            try:
                text = text_of(path)
            except OSError:
                continue
            # copies of a file, binary ones, and the long licence texts that models are measured on
            if hash(text) in seen or "\ufffd" in text or "END OF TERMS AND CONDITIONS" in text or not 500 < len(text) < 400000:
                continue
            seen.add(hash(text))
            texts.append(text)
            size += len(text)
            if size > most:
                break
        print(f"{folder}/{pattern}: {size} characters", flush=True)
    rnd.shuffle(texts)
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        flat = np.concatenate([np.array(t, np.uint16) for t in pool.map(tokens_of, (texts[i:i + 100] for i in range(0, len(texts), 100)))])
    pathlib.Path(out).write_bytes(lzma.compress(flat.tobytes(), preset=2))
    print(f"{len(flat)} tokens of {len(texts)} files")


# --- training --------------------------------------------------------------------------------------


def train(tokens, out, minutes):
    import numpy as np
    import torch
    import torch.nn.functional as F

    gpu = torch.cuda.is_available()
    dev = torch.device("cuda" if gpu else "cpu")
    torch.manual_seed(1)
    torch.set_float32_matmul_precision("high")
    flat = np.frombuffer(lzma.decompress(pathlib.Path(tokens).read_bytes()), np.uint16).astype(np.int32)
    held = torch.from_numpy(flat[-16 * CTX:]).to(dev)  # never trained on
    data = torch.from_numpy(flat[:-16 * CTX]).to(dev)

    def tensor(name):
        if name in NORMS:
            return torch.ones(HIDDEN, device=dev)
        rows, cols = MATRICES[name]
        into = name.endswith("attn_output") or name.endswith("ffn_down")  # they write to the residual stream
        return torch.randn(rows, cols, device=dev) * (0.02 if name == "token_embd" else cols ** -0.5 / (math.sqrt(2 * LAYERS) if into else 1))

    w = {name: torch.nn.Parameter(tensor(name)) for name in [*MATRICES, *NORMS]}

    def norm(x, g):
        return F.rms_norm(x, (HIDDEN,), g, EPS)

    def turn(x, cos, sin):  # pairs (2i, 2i+1), as GGUF has them
        a, b = x[..., 0::2].float(), x[..., 1::2].float()
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2).to(x.dtype)

    def block(x, g1, q, k, v, o, g2, gate, up, down, cos, sin):
        h = norm(x, g1)
        n, t, _ = x.shape
        def heads(m, count):
            return F.linear(h, m).view(n, t, count, HEAD).transpose(1, 2)
        shared = HEADS // KV_HEADS
        a = F.scaled_dot_product_attention(turn(heads(q, HEADS), cos, sin), turn(heads(k, KV_HEADS), cos, sin).repeat_interleave(shared, 1),
                                           heads(v, KV_HEADS).repeat_interleave(shared, 1), is_causal=True)
        x = x + F.linear(a.transpose(1, 2).reshape(n, t, HEADS * HEAD), o)
        h = norm(x, g2)
        return x + F.linear(F.silu(F.linear(h, gate)) * F.linear(h, up), down)

    def loss_of(x, g, e, want):
        return F.cross_entropy(F.linear(norm(x, g), e).float().flatten(0, 1), want.flatten())

    if gpu:
        block, loss_of = torch.compile(block, dynamic=False), torch.compile(loss_of, dynamic=False)
    angle = torch.outer(torch.arange(CTX, device=dev).double(), ROPE ** (-torch.arange(0, HEAD, 2, device=dev).double() / HEAD)).float()
    keys = ("attn_norm", "attn_q", "attn_k", "attn_v", "attn_output", "ffn_norm", "ffn_gate", "ffn_up", "ffn_down")

    def forward(ids):
        with torch.autocast(dev.type, torch.bfloat16):
            t = ids.shape[1] - 1
            x = F.embedding(ids[:, :-1], w["token_embd"]).to(torch.bfloat16)
            cos, sin = angle[:t].cos(), angle[:t].sin()
            for i in range(LAYERS):
                x = block(x, *(w[f"blk.{i}.{k}"] for k in keys), cos, sin)
            return loss_of(x, w["output_norm"], w["token_embd"], ids[:, 1:].long())

    inner = [w[k] for k in MATRICES if k != "token_embd"]
    optims = [torch.optim.Muon(inner, lr=0, weight_decay=0.05, momentum=0.95, adjust_lr_fn="match_rms_adamw"),
              torch.optim.AdamW([w["token_embd"], *(w[k] for k in NORMS)], lr=0, betas=(0.9, 0.95), weight_decay=0, fused=gpu)]
    # until this share of the time, contexts of this length, as many at once
    phases = [(0.55, 2048, 16), (0.8, 8192, 4), (1.0, CTX, 2)] if gpu else [(0.5, 64, 2), (1.0, 128, 1)]
    start, step, seen = time.monotonic(), 0, 0
    while (part := (time.monotonic() - start) / (60 * minutes)) < 1:
        t, n = next((t, n) for until, t, n in phases if part < until)
        lr = 2e-3 * min(1, (step + 1) / 100, (1 - part) / 0.5)
        for o in optims:
            for g in o.param_groups:
                g["lr"] = lr
        at = torch.randint(len(data) - t - 1, (n, 1), device=dev)
        loss = forward(data[at + torch.arange(t + 1, device=dev)])
        loss.backward()
        torch.nn.utils.clip_grad_norm_(w.values(), 1.0)
        for o in optims:
            o.step()
            o.zero_grad()
        step, seen = step + 1, seen + n * t
        if step % 100 == 0 or not gpu:
            print(f"{time.monotonic() - start:.0f} s, step {step}, {seen / 1e6:.1f} M tokens, context {t}: loss {loss.item():.3f}", flush=True)
    with torch.no_grad():
        t = CTX if gpu else 128
        rows = held.unfold(0, t + 1, t)[:16]
        end = sum(forward(r[None]).item() for r in rows) / len(rows)
    print(f"{step} steps, {seen / 1e6:.0f} M tokens of {len(data) / 1e6:.0f} M; held out, context {t}: loss {end:.3f}")

    with open(f"{out}.tmp", "wb") as f:  # Q8_0's blocks: f16 scale, 32 bytes
        for name in MATRICES:
            m = w[name].detach().float().cpu().numpy().reshape(-1, 32)
            d = (np.abs(m).max(1) / 127).astype(np.float16)
            q = np.round(m / np.maximum(d.astype(np.float32), 1e-12)[:, None]).clip(-127, 127).astype(np.int8)
            f.write(np.concatenate([d.view(np.uint8).reshape(-1, 2), q.view(np.uint8)], 1).tobytes())
        for name in NORMS:
            f.write(w[name].detach().float().cpu().numpy().tobytes())
    whole = pathlib.Path(f"{out}.tmp")
    raw = whole.read_bytes()
    whole.unlink()
    for i in range(0, len(raw), PART):  # some ways of carrying it home have a limit
        pathlib.Path(f"{out}.{i // PART}").write_bytes(raw[i:i + PART])


def write_gguf(parts, out):
    import gguf
    import make_checkpoint
    import numpy as np
    raw = b"".join(p.read_bytes() for p in sorted(pathlib.Path(parts).parent.glob(pathlib.Path(parts).name + ".?")))
    w = make_checkpoint.llama_writer(out, (HIDDEN, LAYERS, HEADS, KV_HEADS, HEAD, FFN), CTX, ROPE, ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf")
    at = 0
    for name, (rows, cols) in MATRICES.items():
        size = rows * cols // 32 * 34
        w.add_tensor(f"{name}.weight", np.frombuffer(raw, np.uint8, size, at).reshape(rows, -1), raw_dtype=gguf.GGMLQuantizationType.Q8_0)
        at += size
    for name in NORMS:
        w.add_tensor(f"{name}.weight", np.frombuffer(raw, np.float32, HIDDEN, at))
        at += 4 * HIDDEN
    if at != len(raw):
        raise SystemExit(f"{parts}.*: {len(raw)} bytes, expected {at}")
    make_checkpoint.write_all(w)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="do", required=True)
    s = sub.add_parser("tokens")
    s.add_argument("out")
    s = sub.add_parser("train")
    s.add_argument("tokens"), s.add_argument("out"), s.add_argument("--minutes", type=float, default=7)
    s = sub.add_parser("gguf")
    s.add_argument("parts"), s.add_argument("out")
    a = p.parse_args()
    if a.do == "tokens":
        write_tokens(a.out)
    elif a.do == "train":
        train(a.tokens, a.out, a.minutes)
    else:
        write_gguf(a.parts, a.out)


main()
