"""Blocks of a file that guess tokens further on (MTP): what they give, and that no answer depends on it."""
import collections
import concurrent.futures
import subprocess

import numpy as np
import pytest

from conftest import GOLDEN, LEVELS, tool
from ggufs import ARRAY, Gguf

MODELS = ["fam-qwen35", "fam-qwen35moe", "fam-qwen3next", "fam-glm4moe"]
F32, U32 = 0, 4
CTX = 2048


def key(g, name, default=None):
    return g.keys.get(f"{g.keys['general.architecture'][1]}.{name}", (None, default))[1]


def add_block(name, path, leave_out=()):
    """A family's tiny checkpoint with a block behind it: the shapes of its last layer that attends, random values. The GGUF file in parts."""
    g, rng = Gguf(GOLDEN / f"{name}.gguf"), np.random.default_rng(7)
    arch, n, embd = g.keys["general.architecture"][1], key(g, "block_count"), key(g, "embedding_length")
    like = max(i for i in range(n) if f"blk.{i}.attn_q.weight" in g.tensors)

    def put(at, dims, spread, mean=0.0):
        values = (mean + spread * rng.standard_normal(int(np.prod(dims)))).astype(np.float32)
        g.tensors[f"blk.{n}.{at}"] = (dims, F32, values.tobytes())

    for tensor, (dims, kind, raw) in list(g.tensors.items()):
        if tensor.startswith(f"blk.{like}."):
            assert kind == F32, tensor
            values = np.frombuffer(raw[:4 * int(np.prod(dims))], np.float32)
            put(tensor.split(".", 2)[2], dims, max(values.std(), 0.05), values.mean())
    put("nextn.eh_proj.weight", [2 * embd, embd], 0.3)
    for norm in ("enorm", "hnorm", "shared_head_norm"):
        put(f"nextn.{norm}.weight", [embd], 0.2, 1)
    for t in leave_out:
        del g.tensors[f"blk.{n}.{t}"]
    g.keys[f"{arch}.block_count"] = (U32, n + 1)
    g.keys[f"{arch}.nextn_predict_layers"] = (U32, 1)
    g.keys[f"{arch}.context_length"] = (U32, CTX)
    for k, (kind, v) in g.keys.items():
        if k.startswith(arch) and kind == ARRAY and len(v[1]) == n:
            g.keys[k] = (kind, (v[0], v[1] + [0]))
    g.write(path)
    return g


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    path = tmp_path_factory.mktemp("mtp") / f"{request.param}.gguf"
    add_block(request.param, path)
    return path


def rms(x, w, eps):
    return x / np.sqrt((x ** 2).mean(-1, keepdims=True) + eps) * w


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def turn(x, d_rot, base):
    """RoPE over halves of the first d_rot elements; x [n, heads, d]."""
    angle = np.arange(len(x))[:, None] * base ** (-np.arange(0, d_rot, 2) / d_rot)[None]
    cos, sin = np.cos(angle)[:, None], np.sin(angle)[:, None]
    a, b = x[..., :d_rot // 2], x[..., d_rot // 2:d_rot]
    return np.concatenate([a * cos - b * sin, b * cos + a * sin, x[..., d_rot:]], -1)


def reference(g, states, tok):
    """The block of qwen35 in float64: its logits for each of the states and the token behind it."""
    def t(name):
        dims, _, raw = g.tensors[name]
        return np.frombuffer(raw[:4 * int(np.prod(dims))], np.float32).astype(np.float64).reshape(dims[::-1])

    n, eps = key(g, "block_count") - 1, key(g, "attention.layer_norm_rms_epsilon")
    w = {k.split(".", 2)[2].removesuffix(".weight"): t(k) for k in g.tensors if k.startswith(f"blk.{n}.")}
    n_q, d, rows = key(g, "attention.head_count"), key(g, "attention.key_length"), len(tok)
    n_kv = w["attn_k"].shape[0] // d
    x = np.concatenate([rms(t("token_embd.weight")[tok], w["nextn.enorm"], eps), rms(states, w["nextn.hnorm"], eps)], -1) @ w["nextn.eh_proj"].T
    y = rms(x, w["attn_norm"], eps)
    q = (y @ w["attn_q"].T).reshape(rows, n_q, 2, d)
    q, gate = q[:, :, 0], q[:, :, 1]
    k, v = (y @ w["attn_k"].T).reshape(rows, n_kv, d), (y @ w["attn_v"].T).reshape(rows, n_kv, d)
    d_rot, base = key(g, "rope.dimension_count"), key(g, "rope.freq_base")
    q, k = turn(rms(q, w["attn_q_norm"], eps), d_rot, base), turn(rms(k, w["attn_k_norm"], eps), d_rot, base)
    k, v = (np.repeat(z, n_q // n_kv, 1) for z in (k, v))
    score = np.einsum("ihd,jhd->hij", q, k) / np.sqrt(d)
    score = np.where(np.tril(np.ones((rows, rows), bool)), score, -np.inf)
    p = np.exp(score - score.max(-1, keepdims=True))
    o = np.einsum("hij,jhd->ihd", p / p.sum(-1, keepdims=True), v) * sigmoid(gate)
    x = x + o.reshape(rows, -1) @ w["attn_output"].T
    y = rms(x, w["post_attention_norm"], eps)
    up = y @ w["ffn_gate"].T
    x = x + (up * sigmoid(up) * (y @ w["ffn_up"].T)) @ w["ffn_down"].T
    head = "output.weight" if "output.weight" in g.tensors else "token_embd.weight"
    return rms(x, w["nextn.shared_head_norm"], eps) @ t(head).T


@pytest.mark.parametrize("level", LEVELS)
def test_the_block_gives_what_its_mathematics_say(tmp_path, level):
    path = tmp_path / "m.gguf"
    g = add_block("fam-qwen35", path)
    ids = [3 + 7 * i * i % 90 for i in range(60)]
    n, embd = len(ids), key(g, "embedding_length")

    def run(chunk, n_head=0):
        flat = np.frombuffer(subprocess.run([tool("logits"), str(path), "f32", level, chunk, f"next={n_head}"], input=" ".join(map(str, ids)).encode(),
                                            stdout=subprocess.PIPE, check=True).stdout, np.float32)
        return flat[:n * embd].reshape(n, embd), flat[n * embd:].reshape(n - 1, -1)

    states, got = run("0")
    want = reference(g, states[:-1].astype(np.float64), np.array(ids[1:]))
    assert ((got - want) ** 2).sum() / (want ** 2).sum() <= 1e-8
    assert np.array_equal(got[:, :64], run("0", 64)[1]), "its output is cut"
    assert np.array_equal(got, run("7")[1]) and np.array_equal(got, run("1")[1])


def ask(s, asked, **own):
    r = s.http.post("/v1/completions", json={**asked, "sparing": {"path": "full", **own}})
    assert r.status_code == 200, r.text
    return r.json()["choices"], r.json()["usage"]["sparing"]


def prompt(n, seed):
    return [3 + (seed * 7919 + i * i * 31 + i * seed) % 90 for i in range(n)]


def test_guesses_of_the_block_change_no_answer(make_server, model):
    """Greedy and sampled, with several answers and log-probabilities, behind long prompts and cached ones, alone and together."""
    server = make_server("-m", str(model), "--kv-type", "f16")
    plain = make_server("-m", str(model), "--kv-type", "f16", "--drafters", "lookup")
    more = [{"temperature": 0}, {"temperature": 0, "logprobs": 2}, {"temperature": 0.7}, {"temperature": 1, "n": 3}, {"temperature": 0}]
    asks = [{"prompt": prompt(20 + 130 * i, i + 1), "max_tokens": 50, "seed": i, "ignore_eos": True, **m} for i, m in enumerate(more)]
    want = [ask(plain, a, draft=0)[0] for a in asks]
    count = collections.Counter()
    for again in range(2):  # the second time behind a cached prefix
        for a, w in zip(asks, want):
            got, receipt = ask(server, a, draft=5, draft_fixed=True, drafters=["mtp"])
            assert got == w, a
            by = receipt["decode"]["drafters"]
            assert by.keys() <= {"mtp"}
            count[again] += by.get("mtp", {"drafted": 0})["drafted"]
    assert count[0] > 0 and count[1] > 0, count
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for own in ({"draft": 5, "draft_fixed": True}, {"draft": 15}):
            assert [r[0] for r in pool.map(lambda a: ask(server, a, **own), asks)] == want, own
    assert server.stop() == 0


def test_a_block_that_knows_the_next_token_is_always_right(make_server, tmp_path):
    """Nothing is added to the stream, so that a token alone says which one follows it, to the model and to its block."""
    path = tmp_path / "m.gguf"
    g = add_block("fam-qwen35", path)
    n, embd = key(g, "block_count") - 1, key(g, "embedding_length")

    def put(name, values):
        g.tensors[name] = (g.tensors[name][0], F32, np.asarray(values, np.float32).tobytes())

    for name, (dims, _, _) in list(g.tensors.items()):
        if name.endswith(("attn_output.weight", "ssm_out.weight", "ffn_down.weight")):
            put(name, np.zeros(dims))
        elif name in ("output_norm.weight", f"blk.{n}.nextn.enorm.weight", f"blk.{n}.nextn.shared_head_norm.weight"):
            put(name, np.full(dims, 1 if "enorm" in name else 8))
    put(f"blk.{n}.nextn.eh_proj.weight", np.concatenate([np.eye(embd), np.zeros((embd, embd))], 1))
    g.write(path)
    server = make_server("-m", str(path), "--kv-type", "f16")
    for i in range(6):
        asked = {"prompt": prompt(20 + 60 * i, i), "max_tokens": 60, "temperature": 0, "ignore_eos": True}
        want, _ = ask(server, asked, draft=0)
        got, receipt = ask(server, asked, draft=5, draft_fixed=True, drafters=["mtp"])
        decode = receipt["decode"]
        assert got == want and decode["steps"] + decode["accepted"] == 60
        assert decode["drafted"] == decode["accepted"] > 30, decode


def test_a_file_with_half_a_block_goes_without(make_server, tmp_path):
    path = tmp_path / "m.gguf"
    add_block("fam-qwen35", path, ["nextn.eh_proj.weight"])
    server = make_server("-m", str(path), "--kv-type", "f16")
    got, receipt = ask(server, {"prompt": prompt(40, 1), "max_tokens": 20, "temperature": 0, "ignore_eos": True}, draft=5, draft_fixed=True, drafters=["mtp"])
    assert receipt["decode"]["drafted"] == 0
    server.wait_log("eh_proj.weight is missing")


def test_an_oracle_in_the_place_of_the_block(model):
    """bench/oracle.py's tool: guesses that are always right end each step with all of them, wrong ones with none, and the answer is the plain one."""
    def run(*cases):
        return subprocess.run([tool("oracle"), str(model), "f16", "62", "1", *cases], input=" ".join(map(str, prompt(33, 1))), text=True, capture_output=True)

    p = run("1:3", "0:3", "0.5:2")
    assert p.returncode == 0, p.stderr
    per_step = [float(line.split(", ")[2].split()[0]) for line in p.stdout.splitlines()]
    # four tokens a step, but for those at the ends of pages
    assert per_step[0] > 3.5 and per_step[1] == 1 and 1 < per_step[2] < 3, p.stdout
    for case in ("1", "2:1", "0.5:0", "0.5:9", "x:1"):
        p = run(case)
        assert p.returncode == 2 and "P:K" in p.stderr, (case, p.stderr)
