#!/usr/bin/env python3
"""A small hybrid with a block that guesses (MTP), trained from scratch on a CPU: what such a block is worth with real acceptance. It is a
`qwen35` of 0.56 M parameters: three layers with the delta rule, one that attends, and the block; width 96. Its texts are those of
train/thinking/make.py: sums, dates and logic with thoughts that ramble. A step of so small a model is mostly fixed cost, so that tokens a
step tell more of larger models than its time does.

  hybrid.py train MODEL.gguf [--minutes 12] [--seed 1]   needs torch and gguf; minutes of processor time, one thread
  hybrid.py measure MODEL.gguf [--questions 60]          acceptance and tokens a step by guesses a step, and times faster than plain decoding
  hybrid.py exact MODEL.gguf [--answers 10000] [--first 0]   answers with guesses of the block against those of plain decoding, greedy and
                                                             drawn; it can go on where it was stopped

Questions of `measure` and `exact` are never trained on."""
import argparse
import concurrent.futures
import math
import pathlib
import random
import statistics
import sys
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
sys.path[:0] = [str(ROOT / "test/e2e"), str(ROOT / "train/thinking")]
import make  # noqa: E402

HIDDEN, LAYERS, FFN, CTX, EPS, ROPE = 96, 4, 256, 1024, 1e-6, 1e4
HEADS, KV_HEADS, HEAD, TURNED = 2, 1, 32, 8
K_HEADS, V_HEADS, D_K, D_V, TAPS = 1, 2, 32, 32, 4
INNER = V_HEADS * D_V
CHANNELS = 2 * K_HEADS * D_K + INNER
MLP = {"ffn_gate": (FFN, HIDDEN), "ffn_up": (FFN, HIDDEN), "ffn_down": (HIDDEN, FFN), "attn_norm": HIDDEN, "post_attention_norm": HIDDEN}
FULL = {"attn_q": (2 * HEADS * HEAD, HIDDEN), "attn_k": (KV_HEADS * HEAD, HIDDEN), "attn_v": (KV_HEADS * HEAD, HIDDEN),
        "attn_output": (HIDDEN, HEADS * HEAD), "attn_q_norm": HEAD, "attn_k_norm": HEAD}
DELTA = {"attn_qkv": (CHANNELS, HIDDEN), "attn_gate": (INNER, HIDDEN), "ssm_beta": (V_HEADS, HIDDEN), "ssm_alpha": (V_HEADS, HIDDEN),
         "ssm_conv1d": (CHANNELS, TAPS), "ssm_out": (HIDDEN, INNER), "ssm_norm": D_V, "ssm_dt": V_HEADS, "ssm_a": V_HEADS}
NEXT = {"nextn.eh_proj": (HIDDEN, 2 * HIDDEN), "nextn.enorm": HIDDEN, "nextn.hnorm": HIDDEN, "nextn.shared_head_norm": HIDDEN}


def shapes(n_vocab):
    out = {"token_embd": (n_vocab, HIDDEN), "output_norm": HIDDEN}
    for i in range(LAYERS + 1):
        mix = FULL if i % 4 == 3 or i == LAYERS else DELTA
        out |= {f"blk.{i}.{k}": s for k, s in ({**mix, **MLP} | (NEXT if i == LAYERS else {})).items()}
    return out


# --- training ------------------------------------------------------------------------------------------


def train(tok, minutes, seed):
    import torch
    import torch.nn.functional as F
    torch.manual_seed(seed)
    torch.set_num_threads(1)

    def begin(name, shape):
        if name.endswith("ssm_dt"):
            return torch.full((shape,), -3.0)
        if name.endswith("ssm_a"):  # the logarithm of what the file has with a minus
            return torch.zeros(shape)
        if isinstance(shape, int):
            return torch.ones(shape)
        if name == "token_embd":
            return torch.randn(shape) * 0.05
        into = name.endswith(("attn_output", "ffn_down", "ssm_out"))  # they write to the residual stream
        return torch.randn(shape) * shape[1] ** -0.5 / (math.sqrt(2 * LAYERS) if into else 1)

    w = {k: torch.nn.Parameter(begin(k, s)) for k, s in shapes(len(tok.piece)).items()}
    angle = torch.outer(torch.arange(CTX).double(), ROPE ** (-torch.arange(0, TURNED, 2).double() / TURNED)).float()

    def norm(x, g):
        return F.rms_norm(x, (x.shape[-1],), g, EPS)

    def turned(x):
        a, b, t = x[..., :TURNED // 2], x[..., TURNED // 2:TURNED], x.shape[-2]
        cos, sin = angle[:t].cos(), angle[:t].sin()
        return torch.cat([a * cos - b * sin, b * cos + a * sin, x[..., TURNED:]], -1)

    def attend(h, g):
        n, t, _ = h.shape
        q, gate = F.linear(h, g("attn_q")).view(n, t, HEADS, 2, HEAD).unbind(3)
        k, v = (F.linear(h, g(f"attn_{c}")).view(n, t, KV_HEADS, HEAD) for c in "kv")
        q, k = turned(norm(q, g("attn_q_norm")).transpose(1, 2)), turned(norm(k, g("attn_k_norm")).transpose(1, 2))
        k, v = (z.repeat_interleave(HEADS // KV_HEADS, 1) for z in (k, v.transpose(1, 2)))
        o = F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2) * gate.sigmoid()
        return F.linear(o.reshape(n, t, HEADS * HEAD), g("attn_output"))

    def recur(h, g):
        """The gated delta rule over a whole context as one chunk: what each token writes solves a triangular system."""
        n, t, _ = h.shape
        x = F.linear(h, g("attn_qkv")).transpose(1, 2)
        x = F.silu(F.conv1d(F.pad(x, (TAPS - 1, 0)), g("ssm_conv1d")[:, None], groups=CHANNELS)).transpose(1, 2)
        q, k, v = x.split([K_HEADS * D_K, K_HEADS * D_K, INNER], -1)
        q, k = (z.view(n, t, K_HEADS, D_K) * torch.rsqrt(z.view(n, t, K_HEADS, D_K).square().sum(-1, keepdim=True) + 1e-6) for z in (q, k))
        q, k = (z.repeat(1, 1, V_HEADS // K_HEADS, 1).transpose(1, 2) for z in (q * D_K ** -0.5, k))  # heads of values take turns
        v, beta = v.view(n, t, V_HEADS, D_V).transpose(1, 2), F.linear(h, g("ssm_beta")).sigmoid().transpose(1, 2)[..., None]
        decay = (-g("ssm_a").exp() * F.softplus(F.linear(h, g("ssm_alpha")) + g("ssm_dt"))).cumsum(1).transpose(1, 2)
        keep = (decay[..., :, None] - decay[..., None, :]).masked_fill(torch.ones(t, t, dtype=torch.bool).triu(1), -math.inf).exp()
        writes = torch.linalg.solve_triangular(torch.eye(t) + (beta * keep * (k @ k.mT)).tril(-1), beta * v, upper=False)
        o = (keep * (q @ k.mT)) @ writes
        z = F.linear(h, g("attn_gate")).view(n, t, V_HEADS, D_V)
        return F.linear((norm(o.transpose(1, 2), g("ssm_norm")) * F.silu(z)).reshape(n, t, INNER), g("ssm_out"))

    def layer(i, x):
        g = lambda k: w[f"blk.{i}.{k}"]
        x = x + (attend if i % 4 == 3 or i == LAYERS else recur)(norm(x, g("attn_norm")), g)
        h = norm(x, g("post_attention_norm"))
        return x + F.linear(F.silu(F.linear(h, g("ffn_gate"))) * F.linear(h, g("ffn_up")), g("ffn_down"))

    def forward(ids, want):
        """Losses of the next token, and of the two behind it that the block guesses: the second from its own state."""
        x = F.embedding(ids, w["token_embd"])
        for i in range(LAYERS):
            x = layer(i, x)
        state, n = norm(x, w["output_norm"]), f"blk.{LAYERS}.nextn."
        loss = [F.cross_entropy(F.linear(state, w["token_embd"]).flatten(0, 1), want.flatten(), ignore_index=-100)]
        for k in (1, 2):
            e = norm(F.embedding(ids[:, k:], w["token_embd"]), w[n + "enorm"])
            x = F.linear(torch.cat([e, norm(state[:, :e.shape[1]], w[n + "hnorm"])], -1), w[n + "eh_proj"])
            state = norm(layer(LAYERS, x), w[n + "shared_head_norm"])
            loss.append(F.cross_entropy(F.linear(state, w["token_embd"]).flatten(0, 1), want[:, k:].flatten(), ignore_index=-100))
        return loss

    plain = [v for k, v in w.items() if v.dim() == 1]
    optim = torch.optim.AdamW([{"params": [v for v in w.values() if v.dim() > 1], "weight_decay": 0.01}, {"params": plain, "weight_decay": 0}],
                              lr=0, betas=(0.9, 0.98))
    r, kinds = random.Random(seed), list(make.FAMILIES)
    start, step, seen, bag = time.process_time(), 0, 0, []
    while (part := (time.process_time() - start) / (60 * minutes)) < 1:
        if not bag:  # examples of a step have about one length
            made = (tok.example(r, r.choice(kinds)) for _ in range(80))
            made = sorted(((a + b, len(a)) for a, b in made if len(a) + len(b) < 320), key=lambda x: len(x[0]))
            bag = r.sample([made[i:i + 8] for i in range(0, len(made), 8)], (len(made) + 7) // 8)
        rows = bag.pop()
        t = max(len(x) for x, _ in rows)
        ids, want = torch.zeros(len(rows), t, dtype=torch.long), torch.full((len(rows), t), -100)
        for i, (x, n) in enumerate(rows):
            ids[i, :len(x)] = torch.tensor(x)
            want[i, n - 1:len(x) - 1] = torch.tensor(x[n:])
        loss = forward(ids, want)
        for group in optim.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 100, (1 - part) / 0.6 + 0.02)
        (loss[0] + 0.3 * loss[1] + 0.15 * loss[2]).backward()
        torch.nn.utils.clip_grad_norm_(w.values(), 1.0)
        optim.step()
        optim.zero_grad()
        step, seen = step + 1, seen + int((want >= 0).sum())
        if step % 50 == 0:
            print(f"{time.process_time() - start:.0f} s, step {step}, {seen / 1e6:.2f} M tokens: loss " + ", ".join(f"{x.item():.4f}" for x in loss), flush=True)
    print(f"{step} steps, {seen / 1e6:.2f} M tokens, {sum(v.numel() for v in w.values()) / 1e6:.2f} M parameters")
    return {k: -v.detach().exp().numpy() if k.endswith("ssm_a") else v.detach().numpy() for k, v in w.items()}


def write(w, tok, out):
    import gguf
    import numpy as np
    g = gguf.GGUFWriter(out, "qwen35")
    g.add_block_count(LAYERS + 1), g.add_context_length(CTX), g.add_embedding_length(HIDDEN), g.add_feed_forward_length(FFN)
    g.add_head_count(HEADS), g.add_head_count_kv(KV_HEADS), g.add_key_length(HEAD), g.add_value_length(HEAD), g.add_layer_norm_rms_eps(EPS)
    g.add_rope_freq_base(ROPE), g.add_rope_dimension_count(TURNED), g.add_vocab_size(len(tok.piece))
    for k, v in {"ssm.conv_kernel": TAPS, "ssm.state_size": D_K, "ssm.group_count": K_HEADS, "ssm.time_step_rank": V_HEADS, "ssm.inner_size": INNER,
                 "full_attention_interval": 4, "nextn_predict_layers": 1}.items():
        g.add_uint32(f"qwen35.{k}", v)
    g.add_array("qwen35.rope.dimension_sections", [2, 1, 1, 0])
    make.add_tokens(g, tok)
    for k, v in w.items():
        g.add_tensor(k + (".bias" if k.endswith("ssm_dt") else "" if k.endswith("ssm_a") else ".weight"), v.astype(np.float32))
    g.write_header_to_file(), g.write_kv_data_to_file(), g.write_tensors_to_file()
    g.close()


# --- measuring -----------------------------------------------------------------------------------------


def prompts(n, seed):
    r = random.Random(seed)
    return [f"<|im_start|>user\n{make.question(r, kind, True)[0]}<|im_end|>\n<|im_start|>assistant\n<think>" for kind, _ in zip(list(make.FAMILIES) * n, range(n))]


def ask(s, prompt, seed, temperature, **own):
    j = s.http.post("/v1/completions", json={"prompt": prompt, "max_tokens": 300, "temperature": temperature, "seed": seed,
                                             "sparing": {"path": "full", **own}}).json()
    return j["choices"][0]["text"], j["usage"]["sparing"]


def measure(a):
    from conftest import Server
    s = Server("-m", a.model)
    variants = {"plain": {"draft": 0}} | {f"{k} guesses": {"draft": k, "draft_fixed": True, "drafters": ["mtp"]} for k in (1, 2, 3, 4)}
    variants |= {"learner": {"drafters": ["mtp"]}, "all drafters": {}}
    got = {v: [] for v in variants}
    for i, p in enumerate(prompts(a.questions, 9)):
        said = {}
        for v in random.Random(i).sample(list(variants), len(variants)):
            said[v], receipt = ask(s, p, i, 0, **variants[v])
            got[v].append((receipt["decode"], receipt["ms"]["decode"]))
        if len(set(said.values())) != 1:
            raise SystemExit(f"guesses changed the answer to {p!r}")
    n, plain = sum(d["tokens"] for d, _ in got["plain"]), statistics.median(ms for _, ms in got["plain"])
    print(f"{a.questions} answers, {n} tokens, greedy; median {plain:.1f} ms an answer, plain")
    for v, rows in got.items():
        steps, drafted, right = (sum(d[k] for d, _ in rows) for k in ("steps", "drafted", "accepted"))
        gain = statistics.median(p / ms for (_, p), (_, ms) in zip(got["plain"], rows))
        print(f"  {v:12} {n / steps:.2f} tokens a step, of {drafted} guesses {right / max(drafted, 1):.3f} right, {gain:.2f} x")
    s.stop()


def exact(a):
    """Each answer with its own number of guesses, seed and temperature; half of them beside others."""
    from conftest import Server
    s = Server("-m", a.model)
    asked = prompts(500, 11)
    count = {"drafted": 0, "accepted": 0}

    def one(i):
        r = random.Random(i)
        p, temperature, k = r.choice(asked), r.choice((0, 0.7, 1)), r.choice((1, 2, 3, 5, 8))
        want, _ = ask(s, p, i, temperature, draft=0)
        text, receipt = ask(s, p, i, temperature, draft=k, draft_fixed=r.random() < 0.7, drafters=["mtp"])
        if text != want:
            raise SystemExit(f"answer {i}: {text!r} instead of {want!r}")
        return receipt["decode"]

    start = time.monotonic()
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        for i, d in enumerate(pool.map(one, range(a.first, a.answers)), a.first + 1):
            count = {k: v + d[k] for k, v in count.items()}
            if i % 200 == 0 or i == a.answers:
                print(f"{a.first} to {i}: answers equal, {time.monotonic() - start:.0f} s, {count['accepted']} of {count['drafted']} guesses right", flush=True)
    s.stop()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    sub = p.add_subparsers(dest="do", required=True)
    s = sub.add_parser("train")
    s.add_argument("model"), s.add_argument("--minutes", type=float, default=12), s.add_argument("--seed", type=int, default=1)
    s = sub.add_parser("measure")
    s.add_argument("model"), s.add_argument("--questions", type=int, default=60)
    s = sub.add_parser("exact")
    s.add_argument("model"), s.add_argument("--answers", type=int, default=10000), s.add_argument("--first", type=int, default=0)
    a = p.parse_args()
    if a.do == "train":
        tok = make.Tokens()
        write(train(tok, a.minutes, a.seed), tok, a.model)
    else:
        (measure if a.do == "measure" else exact)(a)


if __name__ == "__main__":
    main()
