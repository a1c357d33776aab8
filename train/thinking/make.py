#!/usr/bin/env python3
"""A small model that thinks, trained from scratch on a CPU: sums, dates and logic with thoughts that ramble. No reasoning weights
of a size that a test can run are at hand; what ends thoughts is measured on this one (bench/thinking.py).

  make.py MODEL.gguf [--minutes 25] [--seed 1] [--begun MODEL.gguf]     needs torch and gguf; --begun: go on with a model of an earlier run

A thought works a question out step by step, concludes, and then checks itself again and again, as reasoning models do: one
attempt in five has a slip, which the next one does not repeat. Two attempts that agree are right. The answer behind </think> is
that of most attempts. Words are tokens, digits are tokens. Questions of bench/thinking.py are never trained on: those whose
numbers have a digest that ends in 0."""
import argparse
import math
import random
import time
import zlib

HIDDEN, LAYERS, HEADS, FFN, CTX = 128, 3, 2, 320, 1024
HEAD = HIDDEN // HEADS
ROPE, EPS = 1e4, 1e-5
DAYS = ["Monday", "Tuesday", "Wednesday", "Thursday", "Friday", "Saturday", "Sunday"]
NAMES = ["Ann", "Bob", "Cem", "Dora", "Eve", "Finn", "Gus", "Hana"]
SPECIAL = ["<|im_start|>", "<|im_end|>", "<think>", "</think>"]
TEMPLATE = ("{% for m in messages %}{{ '<|im_start|>' + m.role + '\\n' + m.content + '<|im_end|>' + '\\n' }}{% endfor %}"
            "{% if add_generation_prompt %}{{ '<|im_start|>assistant\\n<think>' }}{% endif %}")


# --- questions: (text, right answer, steps of an attempt) --------------------------------------------


def add(r):
    n = [r.randint(1, 9) for _ in range(r.randint(3, 4))]
    return f" Add {' '.join(map(str, n))} .", n, "add"


def minus(r):
    n = [r.randint(20, 40)] + [r.randint(1, 6) for _ in range(r.randint(2, 3))]
    return f" Start with {n[0]} ." + "".join(f" Take {x} away ." for x in n[1:]), n, "minus"


def both(r):
    n = [r.randint(5, 20)] + [r.choice((-1, 1)) * r.randint(1, 5) for _ in range(r.randint(2, 4))]
    return f" Start with {n[0]} ." + "".join(f" Put {x} to it ." if x > 0 else f" Take {-x} away ." for x in n[1:]), n, "both"


def day(r):
    n = [r.randrange(7), r.randint(2, 6)]
    return f" Today is {DAYS[n[0]]} . Which day is it {n[1]} days later ?", n, "day"


def back(r):
    n = [r.randrange(7), r.randint(2, 6)]
    return f" Today is {DAYS[n[0]]} . Which day was it {n[1]} days before ?", n, "back"


def tall(r):
    who = r.sample(NAMES, 4)
    pairs = list(zip(who, who[1:]))
    r.shuffle(pairs)
    return "".join(f" {a} is taller than {b} ." for a, b in pairs) + " Who is tallest ?", [who, pairs], "tall"


FAMILIES = {"add": add, "minus": minus, "day": day, "both": both, "back": back, "tall": tall}


def answer(n, kind):
    if kind in ("add", "minus", "both"):
        return str(sum(n) if kind != "minus" else n[0] - sum(n[1:]))
    if kind in ("day", "back"):
        return DAYS[(n[0] + (n[1] if kind == "day" else -n[1])) % 7]
    return n[0][0]


def attempt(r, n, kind, slip):
    """Steps and what they come to; slip: one step goes wrong."""
    if kind in ("add", "minus", "both"):
        more = n[1:] if kind != "minus" else [-x for x in n[1:]]
        at, out, bad = n[0], "", r.randrange(len(more)) if slip else -1
        for i, x in enumerate(more):
            to = at + x + (r.choice((-1, 1)) if i == bad else 0)
            out += f" {at} {'plus' if x > 0 else 'minus'} {abs(x)} is {max(to, 0)} ."
            at = max(to, 0)
        return out, str(at)
    if kind in ("day", "back"):
        step, out, at = (1 if kind == "day" else -1), "", n[0]
        count = n[1] + (r.choice((-1, 1)) if slip else 0)
        for i in range(count):
            at = (at + step) % 7
            out += f" {i + 1} {DAYS[at]} ."
        return out, DAYS[at]
    who, pairs = n
    top = r.choice(who[1:3]) if slip else who[0]
    out = "".join(f" {b} is not ." for _, b in pairs if b != top)
    return out + f" {top} is left .", top


def thought(r, n, kind):
    """Attempts until two in a row agree, then some more for nothing."""
    results, out = [], ""
    least = r.randint(3, 5)
    while len(results) < least or results[-1] != results[-2] or results.count(results[-1]) * 2 <= len(results):
        steps, result = attempt(r, n, kind, r.random() < (0.2 if not results else 0.1 if len(results) < 3 else 0))
        start = "" if not results else r.choice((" Wait , let me check again .", " Hmm , is that right ?", " Let me do it once more ."))
        out += f"{start}{steps} So the answer is {result} .\n"
        results.append(result)
    return out, results[-1]


def held_out(text):
    return zlib.crc32(text.encode()) % 10 == 0


def question(r, kind, held):
    while True:
        text, n, _ = FAMILIES[kind](r)
        if held_out(text) == held:
            return text, n


# --- tokens: words with their blank, digits, line ends -----------------------------------------------


def words():
    r, seen = random.Random(0), set()
    for kind in FAMILIES:
        for _ in range(400):
            text, n = question(r, kind, False)
            t, a = thought(r, n, kind)
            seen.update(w for w in (text + t + a).replace("\n", " ").split(" ") if w and not w.isdigit())
    return sorted(seen | set(DAYS) | set(NAMES) | {"The", "answer", "is"})


def byte_chars():
    """GPT-2's letters for bytes."""
    keep = [*range(33, 127), *range(161, 173), *range(174, 256)]
    return {b: chr(b if b in keep else 256 + sum(x not in keep for x in range(b))) for b in range(256)}


class Tokens:
    """A BPE whose merges spell each word from its blank on, and nothing else."""

    def __init__(self):
        of = byte_chars()
        self.piece = SPECIAL + [of[b] for b in range(256)]
        self.merges, blank = [], of[32]
        for w in words():
            for i in range(len(w)):
                left, right = blank + w[:i], w[i]
                if left + right not in self.piece:
                    self.piece.append(left + right)
                    self.merges.append(f"{left} {right}")
        self.id = {p: i for i, p in enumerate(self.piece)}
        self.blank, self.line = blank, of[10]

    def encode(self, text):
        out = []
        for line in text.split("\n"):
            for w in line.split(" "):
                if not w:
                    continue
                if w in SPECIAL:
                    out.append(self.id[w])
                elif w.isdigit():
                    out += [self.id[self.blank], *(self.id[c] for c in w)]
                else:
                    out.append(self.id[self.blank + w])
            out.append(self.id[self.line])
        return out[:-1]

    def turn(self, role, ids):
        return [0, *(self.id[c] for c in role), self.id[self.line], *ids, 1, self.id[self.line]]

    def example(self, r, kind, held=False):
        text, n = question(r, kind, held)
        t, a = thought(r, n, kind)
        ask = self.turn("user", self.encode(text))
        said = [0, *(self.id[c] for c in "assistant"), self.id[self.line], 2]
        return ask + said, self.encode(t) + [3] + self.encode(f" The answer is {a} .") + [1]


# --- training ------------------------------------------------------------------------------------------


def train(tok, minutes, seed, begun):
    import torch
    import torch.nn.functional as F
    torch.manual_seed(seed)
    torch.set_num_threads(1)
    n_vocab = len(tok.piece)
    shapes = {"attn_q": (HIDDEN, HIDDEN), "attn_k": (HIDDEN, HIDDEN), "attn_v": (HIDDEN, HIDDEN), "attn_output": (HIDDEN, HIDDEN),
              "ffn_gate": (FFN, HIDDEN), "ffn_up": (FFN, HIDDEN), "ffn_down": (HIDDEN, FFN)}
    w = {"token_embd": torch.randn(n_vocab, HIDDEN) * 0.05, "output_norm": torch.ones(HIDDEN)}
    for i in range(LAYERS):
        for k, (rows, cols) in shapes.items():
            into = k in ("attn_output", "ffn_down")
            w[f"blk.{i}.{k}"] = torch.randn(rows, cols) * cols ** -0.5 / (math.sqrt(2 * LAYERS) if into else 1)
        w[f"blk.{i}.attn_norm"], w[f"blk.{i}.ffn_norm"] = torch.ones(HIDDEN), torch.ones(HIDDEN)
    if begun:
        import gguf
        w = {t.name.removesuffix(".weight"): torch.tensor(t.data.copy()) for t in gguf.GGUFReader(begun).tensors}
    w = {k: torch.nn.Parameter(v) for k, v in w.items()}
    angle = torch.outer(torch.arange(CTX).double(), ROPE ** (-torch.arange(0, HEAD, 2).double() / HEAD)).float()

    def turned(x, t):
        a, b = x[..., 0::2], x[..., 1::2]  # pairs (2i, 2i+1), as GGUF has them
        cos, sin = angle[:t].cos(), angle[:t].sin()
        return torch.stack((a * cos - b * sin, a * sin + b * cos), -1).flatten(-2)

    def forward(ids):
        n, t = ids.shape
        x = F.embedding(ids, w["token_embd"])
        for i in range(LAYERS):
            g = lambda k: w[f"blk.{i}.{k}"]
            h = F.rms_norm(x, (HIDDEN,), g("attn_norm"), EPS)
            q, k, v = (F.linear(h, g(f"attn_{c}")).view(n, t, HEADS, HEAD).transpose(1, 2) for c in "qkv")
            a = F.scaled_dot_product_attention(turned(q, t), turned(k, t), v, is_causal=True)
            x = x + F.linear(a.transpose(1, 2).reshape(n, t, HIDDEN), g("attn_output"))
            h = F.rms_norm(x, (HIDDEN,), g("ffn_norm"), EPS)
            x = x + F.linear(F.silu(F.linear(h, g("ffn_gate"))) * F.linear(h, g("ffn_up")), g("ffn_down"))
        return F.linear(F.rms_norm(x, (HIDDEN,), w["output_norm"], EPS), w["token_embd"])

    optim = torch.optim.AdamW(w.values(), lr=0, betas=(0.9, 0.98), weight_decay=0.01)
    r, kinds = random.Random(seed), list(FAMILIES)
    start, step, seen = time.monotonic(), 0, 0
    while (part := (time.monotonic() - start) / (60 * minutes)) < 1:
        rows = []
        while len(rows) < 8:
            a, b = tok.example(r, r.choice(kinds))
            if len(a) + len(b) < 400:
                rows.append((a + b, len(a)))
        t = max(len(x) for x, _ in rows)
        ids, want = torch.zeros(len(rows), t, dtype=torch.long), torch.full((len(rows), t), -100)
        for i, (x, n) in enumerate(rows):
            ids[i, :len(x)] = torch.tensor(x)
            want[i, n - 1:len(x) - 1] = torch.tensor(x[n:])
        loss = F.cross_entropy(forward(ids).flatten(0, 1), want.flatten(), ignore_index=-100)
        for group in optim.param_groups:
            group["lr"] = 3e-3 * min(1, (step + 1) / 100, (1 - part) / 0.6 + 0.02)
        loss.backward()
        torch.nn.utils.clip_grad_norm_(w.values(), 1.0)
        optim.step()
        optim.zero_grad()
        step, seen = step + 1, seen + int((want >= 0).sum())
        if step % 100 == 0:
            print(f"{time.monotonic() - start:.0f} s, step {step}, {seen / 1e6:.2f} M tokens: loss {loss.item():.4f}", flush=True)
    print(f"{step} steps, {seen / 1e6:.2f} M tokens")
    return {k: v.detach().numpy() for k, v in w.items()}


def add_tokens(g, tok):
    """The vocabulary and the chat template."""
    g.add_tokenizer_model("gpt2"), g.add_tokenizer_pre("smollm")
    g.add_token_list(tok.piece), g.add_token_merges(tok.merges)
    g.add_token_types([3] * len(SPECIAL) + [1] * (len(tok.piece) - len(SPECIAL)))
    g.add_eos_token_id(1), g.add_bos_token_id(1), g.add_add_bos_token(False)
    g.add_chat_template(TEMPLATE)


def write(w, tok, out):
    import gguf
    import numpy as np
    g = gguf.GGUFWriter(out, "llama")
    g.add_block_count(LAYERS), g.add_context_length(CTX), g.add_embedding_length(HIDDEN), g.add_feed_forward_length(FFN)
    g.add_head_count(HEADS), g.add_head_count_kv(HEADS), g.add_layer_norm_rms_eps(EPS), g.add_rope_freq_base(ROPE)
    g.add_rope_dimension_count(HEAD), g.add_vocab_size(len(tok.piece))
    add_tokens(g, tok)
    for k, v in w.items():
        g.add_tensor(f"{k}.weight", v.astype(np.float32))
    g.write_header_to_file(), g.write_kv_data_to_file(), g.write_tensors_to_file()
    g.close()


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("out"), p.add_argument("--minutes", type=float, default=25), p.add_argument("--seed", type=int, default=1), p.add_argument("--begun")
    a = p.parse_args()
    tok = Tokens()
    write(train(tok, a.minutes, a.seed, a.begun), tok, a.out)


if __name__ == "__main__":
    main()
