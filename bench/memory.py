#!/usr/bin/env python3
"""The memory beyond RAM, measured: restart, S3, the tiers' latencies, many conversations, what demotion costs in
answers, recall of old turns, and whether a hit is ever slower than computing. Beside it llama.cpp's server with
its RAM cache and its slot files. Ratios come from one run each; state machine and versions in docs/BENCHMARKS.md.

usage: bench/memory.py [--peer DIR] [--only restart,tiers,many,retention,recall,slower,agent] [--rounds N] [--hybrid FILE]
  --peer DIR     llama.cpp build with bin/llama-server (see bench/run.py)
  --hybrid FILE  agent: a model with recurrent layers and 20,000 positions; else the tiny one of the tests, whose counts are the same
Needs root to drop the page cache; without it says so and measures with it warm."""
import argparse
import json
import math
import os
import pathlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT / "test/e2e"))
import httpx  # noqa: E402

from conftest import GOLDEN, MODEL, Server  # noqa: E402
from ggufs import Gguf  # noqa: E402
from stats import pct, spread  # noqa: E402
from objects import BUCKET, Store  # noqa: E402

TEXT = (ROOT / "test/data/licences.txt").read_text()
LATENCY = 0.05  # added to each request to the object store


def drop_caches():
    os.sync()
    try:
        pathlib.Path("/proc/sys/vm/drop_caches").write_text("3")
        return True
    except OSError:
        return False


def wilson(k, n, z=1.96):
    p = k / n
    return (p + z * z / (2 * n) - z * math.sqrt(p * (1 - p) / n + z * z / (4 * n * n))) / (1 + z * z / n)


def first_token(s, ids, n=1):
    """Seconds to the first token, and the receipt."""
    t = time.perf_counter()
    text, receipt = s.prefix(ids, n)
    return time.perf_counter() - t, receipt, text


def wait_saved(s, n_tok, tier="ssd", seconds=60):
    end = time.monotonic() + seconds
    while s.metric(f'sparing_kv_tokens{{tier="{tier}"}}') < n_tok and time.monotonic() < end:
        time.sleep(0.05)


class Peer:
    """llama.cpp's server, one slot."""

    def __init__(self, build, slots, cache_ram, model=MODEL, n_ctx=8192):
        with socket.socket() as s:
            s.bind(("127.0.0.1", 0))
            self.port = s.getsockname()[1]
        exe = pathlib.Path(build) / "bin/llama-server"
        self.proc = subprocess.Popen([str(exe), "-m", str(model), "-c", str(n_ctx), "-t", "2", "-np", "1", "--host", "127.0.0.1", "--port", str(self.port),
                                      "--slot-save-path", str(slots), "--cache-ram", str(cache_ram), "--no-webui"],
                                     stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL, env={**os.environ, "LD_LIBRARY_PATH": str(exe.parent)})
        self.http = httpx.Client(base_url=f"http://127.0.0.1:{self.port}", timeout=300)
        for _ in range(600):
            try:
                if self.http.get("/health").status_code == 200:
                    break
            except httpx.HTTPError:
                pass
            time.sleep(0.02)

    def first_token(self, ids):
        t = time.perf_counter()
        r = self.http.post("/completion", json={"prompt": ids, "n_predict": 1, "temperature": 0, "cache_prompt": True, "id_slot": 0}).json()
        return time.perf_counter() - t, r["timings"]["prompt_n"]

    def slot(self, action, name):
        r = self.http.post(f"/slots/0?action={action}", json={"filename": name})
        assert r.status_code == 200, r.text

    def stop(self):
        self.proc.terminate()
        self.proc.wait(timeout=30)
        self.http.close()


def words():
    s = Server()
    ids = s.tokens(TEXT)
    s.stop()
    return ids


def rotated(ids, start, n):
    """n tokens from a different start each time: no prompt is a prefix of another."""
    return [ids[(start + i) % len(ids)] for i in range(n)]


# --- restart ---------------------------------------------------------------------------------------


def restart(a, ids, out):
    dropped = drop_caches()
    ours = {"compute": [], "ssd": [], "s3": [], "ratio_ssd": [], "ratio_s3": [], "computed": []}
    peer = {"compute": [], "slot": [], "ram": []}
    store = Store()
    for k in range(a.rounds):
        prompt = rotated(ids, 977 * k, 7500)
        tmp = pathlib.Path(tempfile.mkdtemp(prefix="sparing-bench-"))
        opts = ["--cache-dir", str(tmp / "pages"), "--s3", f"s3://{BUCKET}/r{k}", "--cold-after", "0"]
        s = Server(*opts, env=store.env)
        cold, _, text = first_token(s, prompt)
        wait_saved(s, 7488, "s3")
        s.kill()
        drop_caches()
        s = Server(*opts, env=store.env)
        warm, receipt, again = first_token(s, prompt)
        assert again == text and receipt["prompt_tokens"]["ssd"] == 7488, receipt
        ours["computed"].append(receipt["prompt_tokens"]["computed"])
        s.kill()
        for f in (tmp / "pages").glob("seg-*"):
            f.unlink()
        s = Server(*opts, env=store.env)
        s3, receipt, again = first_token(s, prompt)
        assert again == text and receipt["prompt_tokens"]["s3"] == 7488, receipt
        s.stop()
        for key, v in (("compute", cold), ("ssd", warm), ("s3", s3), ("ratio_ssd", cold / warm), ("ratio_s3", cold / s3)):
            ours[key].append(v)
        shutil.rmtree(tmp)
        if a.peer:
            slots = pathlib.Path(tempfile.mkdtemp(prefix="slots-"))
            p = Peer(a.peer, slots, 4096)
            t, _ = p.first_token(prompt)
            peer["compute"].append(t)
            p.slot("save", "a.bin")
            p.first_token(rotated(ids, 977 * k + 400, 7500))  # another prompt takes the slot; the first goes to the RAM cache
            t, n = p.first_token(prompt)
            peer["ram"].append((t, n))
            p.stop()
            drop_caches()
            p = Peer(a.peer, slots, 0)
            t = time.perf_counter()
            p.slot("restore", "a.bin")
            dt, n = p.first_token(prompt)
            peer["slot"].append((time.perf_counter() - t, n))
            p.stop()
            shutil.rmtree(slots)
    store.stop()
    out(f"prompt of 7,500 tokens, kill -9, restart, page cache {'dropped' if dropped else 'NOT dropped (no root)'}; first token of", "")
    out("computing it", spread(ours["compute"], " s"))
    out("from SSD", f"{spread(ours['ssd'], ' s')}, {spread(ours['ratio_ssd'], ' x')} sooner; {max(ours['computed'])} tokens computed")
    out("from S3 on loopback", f"{spread(ours['s3'], ' s')}, {spread(ours['ratio_s3'], ' x')} sooner")
    if a.peer:
        out("llama.cpp computing it", spread(peer["compute"], " s"))
        out("llama.cpp, slot file restored after a restart", f"{spread([t for t, _ in peer['slot']], ' s')}, {peer['slot'][0][1]} tokens computed")
        out("llama.cpp, --cache-ram, same process", f"{spread([t for t, _ in peer['ram']], ' s')}, {peer['ram'][0][1]} tokens computed")


# --- latency of the tiers --------------------------------------------------------------------------


def tiers(a, ids, out):
    tmp = pathlib.Path(tempfile.mkdtemp(prefix="sparing-bench-"))
    store = Store(LATENCY)
    opts = ["--cache-dir", str(tmp), "--cache-fetch", "always", "--s3", f"s3://{BUCKET}/t", "--cold-after", "0"]
    prompts = [rotated(ids, 400 * i, n) for i, n in enumerate((1000, 2000, 4000, 7500))]
    s = Server(*opts, env=store.env)
    for p in prompts:
        s.prefix(p, 1)
    wait_saved(s, sum(len(p) // 32 * 32 for p in prompts) - 128, "s3")
    hot = [s.prefix(prompts[i % 4], 1)[1]["ms"]["attach"] for i in range(400)]
    s.kill()
    got = {"ssd": [], "s3": []}
    per = {"ssd": [], "s3": []}
    for tier, n in (("ssd", 50), ("s3", 25)):
        for k in range(n):
            drop_caches()
            if tier == "s3":
                for f in tmp.glob("seg-*"):
                    f.unlink()
            s = Server(*opts, env=store.env)
            for p in prompts:
                receipt = s.prefix(p, 1)[1]
                n_tok = receipt["prompt_tokens"][tier]
                if n_tok < len(p) - 64:
                    continue
                got[tier].append(receipt["ms"]["first_layer"])
                per[tier].append(receipt["ms"]["load"] / n_tok * 1000)
            s.kill()
    store.stop()
    shutil.rmtree(tmp)
    out("hot: attach p50 / p99", f"{pct(hot, 50):.3f} / {pct(hot, 99):.3f} ms (n {len(hot)}; 1,000 to 7,500 tokens)")
    for tier, name in (("ssd", "SSD, page cache dropped"), ("s3", f"S3 on loopback, {LATENCY * 1000:.0f} ms added to each request")):
        v = got[tier]
        out(f"{name}: first layer p50 / p99", f"{pct(v, 50):.1f} / {pct(v, 99):.1f} ms (n {len(v)}); all layers {spread(per[tier], ' ms', 3)} for each 1,000 tokens")


# --- many conversations ----------------------------------------------------------------------------


def many(a, ids, out):
    """64 conversations of 4,000 tokens in turn, a question of 64 tokens and an answer of 64 each time."""
    n_conv, length, rounds = 64, 4000, 2

    def drive(s, tag):
        chats = [rotated(ids, 331 * i, length) for i in range(n_conv)]
        for c in chats:
            s.prefix(c, 1)
        time.sleep(5)
        tok = 0
        t = time.perf_counter()
        resident = []
        for r in range(rounds):
            for i in range(n_conv):
                chats[i] = chats[i] + rotated(ids, 7 * i + r, 64)
                text, receipt = s.prefix(chats[i], 64, ignore_eos=True)
                tok += 64 + receipt["decode"]["tokens"]
                resident.append(s.metric('sparing_kv_bytes{tier="ram"}'))
        return tok / (time.perf_counter() - t), max(resident)

    s = Server("--kv-type", "f16", "--kv-bytes", "7G")
    hot, hot_bytes = drive(s, "f16")
    s.stop()
    s = Server("--kv-type", "q8", "--kv-bytes", "7G")
    hot8, hot8_bytes = drive(s, "q8")
    s.stop()
    tmp = pathlib.Path(tempfile.mkdtemp(prefix="sparing-bench-"))
    s = Server("--kv-bytes", str(int(hot_bytes * 0.24)), "--cache-dir", str(tmp))
    tiered, tiered_bytes = drive(s, "tiered")
    ssd = s.metric('sparing_prompt_tokens_total{source="ssd"}')
    s.stop()
    shutil.rmtree(tmp)
    out("64 conversations of 4,000 tokens in turn, all in RAM as f16", f"{hot:.0f} tokens/s, {hot_bytes / 1e9:.2f} GB of pages")
    out("the same as q8", f"{hot8:.0f} tokens/s, {hot8_bytes / 1e9:.2f} GB")
    out("RAM for a quarter, the rest on SSD (q8)", f"{tiered:.0f} tokens/s ({tiered / hot:.2f} of f16, {tiered / hot8:.2f} of q8), "
        f"{tiered_bytes / 1e9:.2f} GB ({(tiered_bytes / hot_bytes - 1) * 100:.0f} %); {ssd:.0f} tokens from SSD")


# --- what demotion costs in answers ----------------------------------------------------------------


NAMES = "Ada Boris Clara Dmitri Elena Farid Greta Hugo Ines Jonas Katya Liam Mona Nils Olga Pedro".split()


def make_item(rnd, kind, length, depth, sentences):
    """A haystack with the needle at a depth, the question, and the answer."""
    value = str(rnd.randrange(1000, 9999))
    name = rnd.choice(NAMES)
    if kind == "single":
        needles, ask, answer = [f"The secret number of {name} is {value}."], f"The secret number of {name} is", value
    elif kind == "multi":
        others = [f"The secret number of {n} is {rnd.randrange(1000, 9999)}." for n in rnd.sample([n for n in NAMES if n != name], 2)]
        needles, ask, answer = [f"The secret number of {name} is {value}."] + others, f"The secret number of {name} is", value
    else:
        needles, ask, answer = [f"VAR X1 = {value}.", "VAR X2 = X1."], f"VAR X1 = {value}. VAR X2 = X1. The value of X2 is", value
        ask = "VAR X1 ="
    hay, size = [], 0
    while size < length * 4:
        hay.append(rnd.choice(sentences))
        size += len(hay[-1]) + 1
    at = int(len(hay) * depth)
    for i, needle in enumerate(needles):
        hay.insert(at if i == 0 else rnd.randrange(len(hay) + 1), needle)
    return " ".join(hay) + " " + ask, answer


def retention(a, ids, out):
    sentences = [x.strip().replace("\n", " ") + "." for x in TEXT.split(". ") if 40 < len(x) < 220]
    rnd = random.Random(17)
    items = [make_item(rnd, kind, length, depth, sentences)
             for _ in range(a.items) for kind in ("single", "multi", "track")
             for length in (256, 512, 1024, 2048) for depth in (0.1, 0.35, 0.6, 0.85)]
    tmp = pathlib.Path(tempfile.mkdtemp(prefix="sparing-bench-"))
    store = Store()
    opts = ["--cache-dir", str(tmp), "--cache-fetch", "always", "--s3", f"s3://{BUCKET}/n", "--cold-after", "0"]
    full = Server("--kv-type", "f16", "--kv-bytes", "4G")
    prompts = [full.tokens(p) for p, _ in items]
    answers = [x for _, x in items]
    right = [answers[i] in full.prefix(p, 8)[0] for i, p in enumerate(prompts)]
    # Random eviction to the same bytes: as many pages as fit into the bytes that demoted pages take (0.54 of q8's), whole.
    kept = [i for i, r in enumerate(right) if r]
    control = 0
    for i in kept:
        p = prompts[i]
        pages = [p[k:k + 32] for k in range(0, len(p) - 40, 32)]
        tail = p[len(pages) * 32:]
        keep = sorted(rnd.sample(range(1, len(pages)), int(0.54 * (len(pages) - 1)))) if len(pages) > 2 else []
        control += answers[i] in full.prefix(pages[0] + [t for k in keep for t in pages[k]] + tail, 8)[0]
    full.stop()
    writer = Server(*opts, env=store.env)
    for i in kept:
        writer.prefix(prompts[i][:len(prompts[i]) - 1], 1)
    wait_saved(writer, sum((len(prompts[i]) - 1) // 32 * 32 for i in kept) * 0.9, "s3", 120)
    time.sleep(3)
    writer.kill()
    for f in tmp.glob("seg-*"):
        f.unlink()  # cold first
    results = {}
    for how in ("promote", "attend"):
        s = Server(*opts, "--kv-demoted", how, env=store.env)
        ok = beyond = 0
        for i in kept:
            text, receipt = s.prefix(prompts[i], 8)
            ok += answers[i] in text
            beyond += receipt["prompt_tokens"]["s3"] + receipt["prompt_tokens"]["ssd"] > 0
        results[how] = (ok, beyond)
        s.kill()
    store.stop()
    shutil.rmtree(tmp)
    n = len(kept)
    out(f"answers kept of the {n} (of {len(items)}) that full f16 pages get right: single and multi needle, variables, 4 depths x 4 lengths to 2,048", "")
    for how, (ok, beyond) in results.items():
        name = "from the cold tier, promoted (exact q8)" if how == "promote" else "from the cold tier, attended demoted (4-bit)"
        out(name, f"{ok}/{n} = {ok / n:.3f}, Wilson lower bound {wilson(ok, n):.3f}; {beyond} of them loaded")
    out("control: random pages evicted to the same bytes", f"{control}/{n} = {control / n:.3f}, Wilson lower bound {wilson(control, n):.3f}")


# --- recall ----------------------------------------------------------------------------------------


THINGS = [("the password of {n}'s laptop is {v}", "What is the password of {n}'s laptop?"),
          ("{n} was born in the city of {v}", "In which city was {n} born?"),
          ("{n}'s favourite dish is {v}", "What does {n} like to eat most?"),
          ("{n} parks the car on level {v}", "On which level did {n} leave the car?"),
          ("{n}'s flight to {v} leaves on Monday", "Where does {n} fly to?"),
          ("the dog of {n} is called {v}", "What is the name of {n}'s dog?")]
VALUES = "amber basil cobalt delta ember fjord grove hazel indigo jasper karst lotus maple nectar onyx pearl quartz raven slate topaz".split()


def recall(a, ids, out):
    tmp = pathlib.Path(tempfile.mkdtemp(prefix="sparing-bench-"))
    s = Server("--history", str(tmp / "h.db"))
    sentences = [x.strip().replace("\n", " ") for x in TEXT.split(". ") if 30 < len(x) < 200]
    rnd = random.Random(7)
    hits, asked, search, vector = 0, 0, [], []
    for _ in range(8):
        combos = [(n, t) for n in NAMES for t in range(len(THINGS))]
        rnd.shuffle(combos)
        where = set(rnd.sample(range(510), 50))
        items, facts = [], []
        for t in range(520):
            if t in where:
                n, th = combos[len(facts)]
                v = rnd.choice(VALUES)
                text = "By the way, " + THINGS[th][0].format(n=n, v=v) + "."
                facts.append((n, th, v))
            else:
                text = "Tell me about this: " + rnd.choice(sentences)
            items += [{"role": "user", "content": text}, {"role": "assistant", "content": rnd.choice(sentences)}]
        conv = s.http.post("/v1/conversations", json={}).json()["id"]
        for i in range(0, len(items), 500):
            s.http.post(f"/v1/conversations/{conv}/items", json={"items": items[i:i + 500]}).raise_for_status()
        time.sleep(12)  # vectors are made in the background
        for n, th, v in facts:
            r = s.http.post(f"/v1/conversations/{conv}/search", json={"query": THINGS[th][1].format(n=n), "limit": 8}).json()
            hits += any(v in x["content"][0]["text"] and n in x["content"][0]["text"] for x in r["data"])
            asked += 1
            search.append(r["ms"]["all"] - r["ms"]["vector"])
            vector.append(r["ms"]["all"])
    s.stop()
    shutil.rmtree(tmp)
    out("facts stated 10 to 510 turns earlier, among the 8 items recalled", f"{hits}/{asked} = {hits / asked:.3f}")
    out("searching words and vectors, p50 / p99", f"{pct(search, 50):.2f} / {pct(search, 99):.2f} ms; with the question's own vector {pct(vector, 50):.2f} / {pct(vector, 99):.2f} ms")


# --- never slower ----------------------------------------------------------------------------------


def slower(a, ids, out):
    tmp = pathlib.Path(tempfile.mkdtemp(prefix="sparing-bench-"))
    store = Store(LATENCY)
    opts = ["--cache-dir", str(tmp), "--s3", f"s3://{BUCKET}/s", "--cold-after", "0", "--kv-bytes", "150M", "--cache-bytes", "150M"]
    base = Server("--reuse=false")
    s = Server(*opts, env=store.env)
    rnd = random.Random(23)
    lengths = [int(math.exp(rnd.uniform(math.log(48), math.log(2500)))) for _ in range(60)]
    pool = [rotated(ids, 173 * i, n) for i, n in enumerate(lengths)]
    for p in pool:
        s.prefix(p, 1)
    before = -1
    while before != (before := s.metric('sparing_kv_written_bytes_total{tier="s3"}')):
        time.sleep(3)  # until nothing is being uploaded
    rows, same = [], []
    for k in range(a.prefixes):
        p = pool[rnd.randrange(len(pool))]
        p = p[:rnd.randrange(40, len(p) + 1)]
        pair = {}
        for who in rnd.sample(("hit", "compute"), 2):
            dt, receipt, text = first_token(s if who == "hit" else base, p)
            pair[who] = (dt, text)
            if who == "hit":
                src = receipt["prompt_tokens"]
        assert pair["hit"][1] == pair["compute"][1]
        rows.append((pair["hit"][0], pair["compute"][0], src, len(p)))
        if k % 4 == 0:  # what the comparison itself is worth: computing against computing
            same.append((pair["compute"][0], first_token(base, p)[0]))
    base.stop()
    s.stop()
    store.stop()
    shutil.rmtree(tmp)
    for tier in ("ram", "ssd", "s3"):
        v = [(h, c) for h, c, src, _ in rows if src[tier] and tier == max(("ram", "ssd", "s3"), key=lambda t: src[t])]
        if not v:
            continue
        ratio = [c / h for h, c in v]
        late = [h - c for h, c in v if h > c]
        out(f"hits mostly from {tier}: {len(v)}", f"{spread(ratio, ' x')} sooner than computing; slower {len(late)} times, by at most {max(late, default=0) * 1000:.1f} ms, p90 {pct(late, 90) * 1000 if late else 0:.1f} ms")
    late = [b - x for x, b in same if b > x]
    out(f"computing against computing: {len(same)}", f"{spread([x / b for x, b in same], ' x')}; slower {len(late)} times, by at most {max(late) * 1000:.1f} ms, p90 {pct(late, 90) * 1000:.1f} ms")
    none = [(h, c) for h, c, src, _ in rows if not (src["ram"] or src["ssd"] or src["s3"])]
    if none:
        late = [h - c for h, c in none if h > c]
        out(f"computed although known or too short: {len(none)}", f"{spread([c / h for h, c in none], ' x')}; slower {len(late)} times, by at most {max(late, default=0) * 1000:.1f} ms")
    sums = sum(h for h, *_ in rows), sum(c for _, c, *_ in rows)
    out("all together", f"{sums[1] / sums[0]:.2f} x sooner")


# --- an agent's conversation on a hybrid ------------------------------------------------------------

TURN, TALK, EDIT = 600, 16000, 12000


def hybrid(folder):
    """The tests' smallest model with the delta rule, with room for the conversation."""
    g = Gguf(GOLDEN / "fam-qwen35.gguf")
    g.keys["qwen35.context_length"] = (4, 32768)
    return g.write(folder / "hybrid.gguf")


def agent(a, ids, out):
    """A conversation that grows by 600 tokens a request to 16,000; then what stands at 12,000 is another text: tokens that are computed again, beyond
    those from there on. In the same process, after kill -9, and on a machine that has the object store alone."""
    folder, rng = pathlib.Path(tempfile.mkdtemp(prefix="sparing-bench-")), random.Random(3)
    model, store = a.hybrid or hybrid(folder), Store()
    talk, other = ([3 + rng.randrange(90) for _ in range(TALK)] for _ in range(2))
    edited = talk[:EDIT] + other[:40] + talk[EDIT + 40:]
    known, counts = TALK // 32 * 32 - 32, []

    def start(name):
        return Server("-m", str(model), "--kv-type", "f16", "--cache-fetch", "always", "--cache-dir", str(folder / name), "--s3", f"s3://{BUCKET}/{name}",
                      "--cold-after", "0", env=store.env)

    def grow(first):
        for end in range(TURN, TALK, TURN):
            first(talk[:end])
        return first(talk)

    def wait_all(s, tier):
        """Pages of the conversation, and snapshots until no more come."""
        end, n, since = time.monotonic() + 300, -1, time.monotonic()
        while time.monotonic() < end and (s.metric(f'sparing_kv_tokens{{tier="{tier}"}}') < known or n < TALK // 512 or time.monotonic() < since + 2):
            now = s.metric(f'sparing_kv_snapshots{{tier="{tier}"}}')
            n, since = (n, since) if now == n else (now, time.monotonic())
            time.sleep(0.1)

    s = start("one")
    t, r, _ = first_token(s, talk)
    out(f"conversation of {TALK} tokens, {pathlib.Path(model).name}: computed as one prompt", f"{r['prompt_tokens']['computed']} tokens, {t:.2f} s")
    s.stop()
    # each has a conversation of its own: what an edit leaves must not help the next
    for name, tier in (("same process", "ram"), ("after kill -9", "ssd"), ("from the object store", "s3")):
        s = start(tier)
        t, r, _ = grow(lambda p: first_token(s, p))
        if tier == "ram":
            out("the last of its 27 requests", f"{r['prompt_tokens']['computed']} tokens computed, {t:.2f} s")
        else:
            wait_all(s, tier)
            s.kill()
            if tier == "s3":
                shutil.rmtree(folder / tier)
            s = start(tier)
            wait_all(s, tier)
        t, r, _ = first_token(s, edited)
        n = r["prompt_tokens"]
        counts.append(n["computed"] if n[tier] else TALK)
        out(f"edited at {EDIT}, {name}: computed again", f"{n['computed'] - (TALK - EDIT)} tokens before the edit and {TALK - EDIT} from it on; {n[tier]} from {tier}; first token after {t:.2f} s")
        s.kill()
    out("asked", f"at most 512 before the edit: {'reached' if max(counts) <= 512 + TALK - EDIT else 'missed'}")
    if a.peer:
        for what, cache_ram in (("llama.cpp", 0), ("llama.cpp, --cache-ram 4096", 4096)):
            p = Peer(a.peer, folder, cache_ram, model, 20000)
            grow(p.first_token)
            t, n = p.first_token(edited)
            out(f"{what}, edited, same process: computed again", f"{n} tokens: {n - (TALK - EDIT)} before the edit; first token after {t:.2f} s")
            p.stop()
    store.stop()
    shutil.rmtree(folder)


def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument("--peer"), p.add_argument("--hybrid")
    p.add_argument("--only", default="restart,tiers,many,retention,recall,slower")
    p.add_argument("--rounds", type=int, default=5)
    p.add_argument("--items", type=int, default=14, help="retention: items of each kind, length and depth")
    p.add_argument("--prefixes", type=int, default=1000)
    a = p.parse_args()
    ids = words()
    lines = []

    def out(what, value):
        lines.append(f"| {what} | {value} |")
        print(lines[-1], flush=True)

    for name in a.only.split(","):
        {"restart": restart, "tiers": tiers, "many": many, "retention": retention, "recall": recall, "slower": slower, "agent": agent}[name](a, ids, out)


if __name__ == "__main__":
    main()
