"""`sparing convert`: folders of tiny checkpoints (test/golden/record_checkpoints.py) into GGUF."""
import base64
import json

import numpy as np
import pytest

import checkpoints
from conftest import GOLDEN, run
from ggufs import Gguf
from test_families import golden, nmse
from test_model import logits
from test_tokenizers import ids_of

ENCODERS = ["bert", "bert-rank", "modern-bert", "nomic-bert", "qwen3-embedding"]
NAMES = sorted({p.stem[3:] for p in GOLDEN.glob("hf-*.json")} - {*ENCODERS})
TYPES = {"F32": 0, "F16": 1, "Q4_0": 2, "Q8_0": 8, "Q4_K": 12, "BF16": 30}
NOT_OURS = ("general.name", "general.quantization_version", "tokenizer.ggml.padding_token_id", "tokenizer.ggml.add_bos_token")


def convert(folder, out, *args, check=True):
    return run("convert", folder, "-o", out, *args, check=check)


def array(t):
    return np.frombuffer(t[2], np.uint8)


def test_every_family_is_there():
    archs = {golden(GOLDEN / f"fam-{n}.json")["arch"] for n in NAMES}
    assert archs == {"llama", "qwen2", "qwen3", "gemma2", "gemma3", "phi3", "mistral3", "granite", "smollm3", "olmo2", "exaone4", "ernie4_5", "hunyuan-dense",
                     "qwen3moe", "granitemoe", "ernie4_5-moe", "glm4moe", "gpt-oss"}
    assert "mixtral" in NAMES


@pytest.mark.parametrize("name", NAMES + ENCODERS)
def test_the_same_keys_and_bits_as_the_recorded_file(tmp_path, name):
    """The recorded file was compared with llama.cpp's converter and runs as PyTorch does; so every key and bit must be its own."""
    folder, out = checkpoints.make(tmp_path / name, name), tmp_path / "out.gguf"
    r = json.loads(convert(folder, out, "--type", "F32", "--json").stdout)
    ours, want = Gguf(out), Gguf(GOLDEN / f"fam-{name}.gguf")
    assert {k: v for k, v in ours.keys.items() if k not in NOT_OURS} == {k: v for k, v in want.keys.items() if k not in NOT_OURS}
    assert ours.tensors.keys() == want.tensors.keys() and r["tensors"] <= len(want.tensors) and r["bytes"] == out.stat().st_size
    for k, t in want.tensors.items():
        assert ours.tensors[k][:2] == t[:2] and np.array_equal(array(ours.tensors[k]), array(t)), k
    if name in ENCODERS:
        return
    g = golden(GOLDEN / f"fam-{name}.json")
    words = ["ctx=4096"] if name == "phi3-short" else []
    assert nmse(logits(out, g["ids"], "f32", "avx2", "0", *words), g) <= 1e-8


def rounded(t):
    d = np.abs(t).max(-1, keepdims=True) / np.float32(127)
    x = t * np.where(d == 0, np.float32(0), 1 / np.where(d == 0, 1, d))
    a = np.abs(x)
    return d, np.sign(x) * (np.floor(a) + np.floor(2 * (a - np.floor(a))))


def as_q8_0(t):
    """As gguf.quants has it."""
    d, q = rounded(t.reshape(-1, 32))
    return np.concatenate([d.astype("<f2").view(np.uint8), q.astype(np.int8).view(np.uint8)], 1).ravel()


def as_q4_0(t):
    t = t.reshape(-1, 32)
    most = np.take_along_axis(t, np.abs(t).argmax(-1, keepdims=True), -1)
    d = most / np.float32(-8)
    x = t * np.where(d == 0, np.float32(0), 1 / np.where(d == 0, 1, d))
    q = np.trunc(x + np.float32(8.5)).astype(np.uint8).clip(0, 15)
    return np.concatenate([d.astype("<f2").view(np.uint8), q[:, :16] | q[:, 16:] << 4], 1).ravel()


def as_bf16(t):
    n = t.ravel().view("<u4").astype(np.uint64)
    return ((n + 0x7fff + (n >> 16 & 1)) >> 16).astype("<u2").view(np.uint8)


EXPECT = {"F16": lambda t: t.astype("<f2").ravel().view(np.uint8), "BF16": as_bf16, "Q8_0": as_q8_0, "Q4_0": as_q4_0}


@pytest.mark.parametrize("kind", EXPECT)
@pytest.mark.parametrize("name", ["llama-bias", "gemma3"])
def test_types_are_those_of_the_reference(tmp_path, name, kind):
    """Bit for bit; vectors stay F32, of Q4_0 the embedding and the output get Q8_0, short rows F16 or Q8_0."""
    out = tmp_path / "out.gguf"
    convert(checkpoints.make(tmp_path / name, name), out, "--type", kind)
    ours, want, seen = Gguf(out), Gguf(GOLDEN / f"fam-{name}.gguf"), set()
    for k, (dims, _, raw) in want.tensors.items():
        t = np.frombuffer(raw, "<f4")[:int(np.prod(dims))]
        is_token = k in ("token_embd.weight", "output.weight")
        use = kind if len(dims) > 1 else "F32"
        use = "Q8_0" if use == "Q4_0" and is_token else use
        use = "F16" if use[0] == "Q" and dims[0] % 32 else use
        seen.add(use)
        assert ours.tensors[k][1] == TYPES[use], k
        expected = EXPECT[use](t) if use != "F32" else t.view(np.uint8)
        assert np.array_equal(array(ours.tensors[k])[:len(expected)], expected), k
    assert kind in seen


def q4_k(raw):
    """The values of Q4_K blocks, as the format says."""
    b = np.frombuffer(raw, np.uint8).reshape(-1, 144)
    d, dmin = (b[:, i:i + 2].copy().view("<f2").astype(np.float32) for i in (0, 2))
    s, q = b[:, 4:16].astype(int), b[:, 16:].reshape(-1, 4, 32)
    scale = np.concatenate([s[:, :4] & 63, (s[:, 8:] & 15) | (s[:, :4] >> 6) << 4], 1)
    low = np.concatenate([s[:, 4:8] & 63, s[:, 8:] >> 4 | (s[:, 4:8] >> 6) << 4], 1)
    q = np.stack([q & 15, q >> 4], 2).reshape(-1, 8, 32)
    f = np.float32
    return ((d * scale.astype(f))[..., None] * q.astype(f) - (dmin * low.astype(f))[..., None]).ravel()


def test_q4_k_is_nearer_than_q4_0(tmp_path):
    """256 numbers a row. Random normal weights lose 0.55 % of their squares; the plain 4-bit grid of Q4_0 loses 0.73 %."""
    rng = np.random.default_rng(3)

    def wide(tensors):
        for k, t in list(tensors.items()):
            tensors[k] = rng.standard_normal([256 if n == 64 else n * 4 if n == 32 else n for n in t.shape]).astype(np.float32)
        tensors["model.layers.0.mlp.up_proj.weight"][:8] = 0  # a group of one value, and one of zeros
        tensors["model.layers.0.mlp.up_proj.weight"][8:16] = 1

    config = {"hidden_size": 256, "intermediate_size": 256, "head_dim": 64}
    folder, out, kept = checkpoints.make(tmp_path / "m", "llama-bias", config=config, change=wide), tmp_path / "out.gguf", tmp_path / "f32.gguf"
    convert(folder, kept, "--type", "F32")
    convert(folder, out, "--type", "Q4_K")
    ours, plain, n = Gguf(out), Gguf(kept), 0
    for k, (dims, kind, raw) in list(plain.tensors.items()):
        t = np.frombuffer(raw, "<f4")[:int(np.prod(dims))]
        if len(dims) == 1 or k in ("token_embd.weight", "output.weight"):
            continue
        n += 1
        assert ours.tensors[k][1] == TYPES["Q4_K"]
        got = q4_k(ours.tensors[k][2])[:len(t)]
        assert ((got - t) ** 2).sum() <= 0.0065 * (t ** 2).sum(), (k, ((got - t) ** 2).sum() / (t ** 2).sum())
        if k == "blk.0.ffn_up.weight":
            assert not got[:8 * 256].any() and np.abs(got[8 * 256:16 * 256] - 1).max() < 1e-3
        plain.tensors[k] = (dims, kind, got.tobytes())
    assert n == 14
    for k in ("token_embd.weight", "output.weight"):
        plain.tensors[k] = ours.tensors[k]
    ids = list(range(3, 60))
    assert np.array_equal(logits(out, ids, "f32", "avx2", "0", "exact"), logits(plain.write(tmp_path / "plain.gguf"), ids, "f32", "avx2", "0", "exact"))


@pytest.mark.parametrize("dtype", ["BF16", "F16"])
def test_shards_and_types_of_the_source(tmp_path, dtype):
    """Three files and an index; two bytes a number in the source are the same in the file."""
    out, one = tmp_path / "out.gguf", tmp_path / "one.gguf"
    convert(checkpoints.make(tmp_path / "a", "qwen3", dtype=dtype, n_file=3), out, "--type", "F32")
    convert(checkpoints.make(tmp_path / "b" / "a", "qwen3", dtype=dtype), one, "--type", dtype)
    assert np.array_equal(logits(out, [5, 6, 7], "f32", "scalar"), logits(one, [5, 6, 7], "f32", "scalar", "0", "exact"))


def as_blocks(g, name):
    """MXFP4 of a GGUF as transformers stores it: neighbours share a byte, scales stand apart."""
    dims, kind, raw = g.tensors[name]
    assert kind == 39
    b = np.frombuffer(raw, np.uint8)[:int(np.prod(dims)) // 32 * 17].reshape(dims[2], dims[1], dims[0] // 32, 17)
    q = np.concatenate([b[..., 1:] & 15, b[..., 1:] >> 4], -1)
    return q[..., ::2] | q[..., 1::2] << 4, b[..., 0]


def test_experts_of_mxfp4_keep_their_bits(tmp_path):
    """gpt-oss as it is published, its experts in blocks and scales, which stay MXFP4 whatever type is asked for."""
    g, out = Gguf(GOLDEN / "fam-gpt-oss-mxfp4.gguf"), tmp_path / "out.gguf"

    def change(tensors):
        for i in range(3):
            at = f"model.layers.{i}.mlp.experts"
            gate, up, down = (as_blocks(g, f"blk.{i}.ffn_{n}_exps.weight") for n in ("gate", "up", "down"))
            for k, part in enumerate(("blocks", "scales")):
                both = np.stack([gate[k], up[k]], 2)
                tensors[f"{at}.gate_up_proj_{part}"] = both.reshape(both.shape[0], -1, *both.shape[3:])
                tensors[f"{at}.down_proj_{part}"] = down[k]
            for name in ("gate_up_proj", "down_proj"):
                tensors.pop(f"{at}.{name}")

    convert(checkpoints.make(tmp_path / "m", "gpt-oss", dtype="BF16", change=change), out, "--type", "Q8_0")
    ours = Gguf(out)
    exps = [k for k in g.tensors if k.endswith("_exps.weight")]
    assert len(exps) == 9 and all(ours.tensors[k] == g.tensors[k] for k in exps)
    assert ours.tensors["blk.0.attn_q.weight"][1] == TYPES["Q8_0"] and ours.tensors["blk.0.ffn_gate_inp.weight"][1] == TYPES["F32"]
    assert np.isfinite(logits(out, [5, 6, 7], "f32", "avx2")).all()


@pytest.mark.parametrize("kind", ["Q8_0", "Q4_0", "F16"])
def test_experts_in_other_types(tmp_path, kind):
    """Each expert's rows are those of its matrix alone; the router stays F32."""
    out = tmp_path / "out.gguf"
    convert(checkpoints.make(tmp_path / "m", "qwen3moe", n_file=3), out, "--type", kind)
    ours, want = Gguf(out), Gguf(GOLDEN / "fam-qwen3moe.gguf")
    for k in ("blk.0.ffn_gate_exps.weight", "blk.1.ffn_down_exps.weight"):
        dims, _, raw = want.tensors[k]
        expected = EXPECT[kind](np.frombuffer(raw, "<f4")[:int(np.prod(dims))])
        assert ours.tensors[k][:2] == (dims, TYPES[kind]) and np.array_equal(array(ours.tensors[k])[:len(expected)], expected)
    assert ours.tensors["blk.0.ffn_gate_inp.weight"] == want.tensors["blk.0.ffn_gate_inp.weight"]


def other_shape(t):
    t["model.layers.0.mlp.experts.2.up_proj.weight"] = np.zeros((16, 32), np.float32)


@pytest.mark.parametrize("name,config,change,says", [
    ("qwen3moe", {}, lambda t: t.pop("model.layers.1.mlp.experts.5.up_proj.weight"), "blk.1.ffn_up_exps.weight: expert 5 is missing"),
    ("qwen3moe", {"num_local_experts": 7}, None, "config.json says that there are 7 experts"),
    ("qwen3moe", {}, other_shape, "shape are not those of other experts"),
    ("qwen3moe", {"norm_topk_prob": False}, None, "norm_topk_prob that is not true"),
    ("qwen3moe", {"mlp_only_layers": [0]}, None, "mlp_only_layers are not supported"),
    ("qwen3moe", {"decoder_sparse_step": 2}, None, "decoder_sparse_step of 2 is not supported"),
    ("gpt-oss", {"swiglu_limit": 5.0}, None, "swiglu_limit of 5 is not supported"),
    ("granitemoe", {"num_local_experts": 4}, None, "config.json says that there are 4 experts"),
    ("gpt-oss", {"num_local_experts": ...}, None, "config.json says that there are 0 experts"),
    ("gpt-oss", {}, lambda t: t.update({"model.layers.0.mlp.experts.down_proj_blocks": np.zeros((6, 32, 1, 16), np.uint8)}), "a second tensor that is blk.0.ffn_down_exps"),
    ("gpt-oss", {}, lambda t: t.update({"model.layers.0.mlp.experts.down_proj_blocks": t.pop("model.layers.0.mlp.experts.down_proj").astype(np.uint8).reshape(6, 32, 2, 16)}),
     "no tensor model.layers.0.mlp.experts.down_proj_scales")])
def test_experts_that_do_not_fit_are_named(tmp_path, name, config, change, says):
    p = convert(checkpoints.make(tmp_path / "m", name, config=config, change=change), tmp_path / "out.gguf", check=False)
    assert p.returncode == 1 and says in p.stderr, p.stderr
    assert [x.name for x in tmp_path.iterdir()] == ["m"]


def test_llama3_factors(tmp_path):
    """Divisors of the frequencies as transformers computes them for Llama 3.1 (base 5e5, head of 128; _compute_llama3_parameters)."""
    rope = {"rope_type": "llama3", "rope_theta": 5e5, "factor": 8.0, "low_freq_factor": 1.0, "high_freq_factor": 4.0, "original_max_position_embeddings": 8192}
    old = {"rope_parameters": ..., "rope_theta": 5e5, "rope_scaling": {k: v for k, v in rope.items() if k != "rope_theta"}}
    n = np.arange(0, 16, 2) / 16
    freq = 1 / 5e5 ** n
    wave = 2 * np.pi / freq
    smooth = (8192 / wave - 1) / 3
    want = np.where(wave < 8192 / 4, freq, np.where(wave > 8192, freq / 8, (1 - smooth) * freq / 8 + smooth * freq))
    for i, config in enumerate(({"rope_parameters": rope}, old)):
        out = tmp_path / f"{i}.gguf"
        convert(checkpoints.make(tmp_path / f"m{i}", "llama-bias", config=config), out)
        g = Gguf(out)
        dims, kind, raw = g.tensors["rope_freqs.weight"]
        assert dims == [8] and kind == 0 and np.allclose(freq / np.frombuffer(raw, "<f4"), want, rtol=1e-6)
        assert g.keys["llama.rope.freq_base"][1] == 5e5


def hf_tokenizer(name):
    """A recorded vocabulary of the tokenizers package as the tokenizer.json it came from."""
    k = Gguf(GOLDEN / f"{name}.gguf").keys
    tokens, types = k["tokenizer.ggml.tokens"][1][1], k["tokenizer.ggml.token_type"][1][1]
    return k, {"model": {"type": "BPE", "vocab": {t: i for i, (t, y) in enumerate(zip(tokens, types)) if y == 1}, "merges": k["tokenizer.ggml.merges"][1][1]},
               "added_tokens": [{"id": i, "content": t, "special": y == 3} for i, (t, y) in enumerate(zip(tokens, types)) if y != 1]}


LLAMA3 = "(?i:'s|'t|'re|'ve|'m|'ll|'d)|[^\\r\\n\\p{L}\\p{N}]?\\p{L}+|\\p{N}{1,3}| ?[^\\s\\p{L}\\p{N}]+[\\r\\n]*|\\s*[\\r\\n]+|\\s+(?!\\S)|\\s+"
SPLIT = {"type": "Split", "pattern": {"Regex": LLAMA3}, "behavior": "Isolated", "invert": False}
BYTES = {"type": "ByteLevel", "add_prefix_space": False, "trim_offsets": True, "use_regex": False}
SEQUENCE = {"type": "Sequence", "pretokenizers": [SPLIT, BYTES]}


def widened(n):
    def change(tensors):
        for k in ("model.embed_tokens.weight", "lm_head.weight"):
            tensors[k] = np.resize(tensors[k], (n, tensors[k].shape[1]))
    return change


@pytest.mark.parametrize("name,pre,more", [
    ("vocab-gpt2", {**BYTES, "use_regex": True}, {}), ("vocab-llama3", SEQUENCE, {"ignore_merges": True})])
def test_a_byte_level_vocabulary(tmp_path, name, pre, more):
    want, tok = hf_tokenizer(name)
    tok["pre_tokenizer"] = pre
    tok["model"].update(more)
    n = len(want["tokenizer.ggml.tokens"][1][1])
    folder, out = checkpoints.make(tmp_path / "m", "llama-bias", config={"vocab_size": n + 3}, change=widened(n + 3), tok=tok), tmp_path / "out.gguf"
    (folder / "chat_template.jinja").write_text("{% for m in messages %}<{{ m.role }}>{{ m.content }}{% endfor %}")
    convert(folder, out)
    got = Gguf(out).keys
    for k in ("model", "pre", "merges"):
        assert got[f"tokenizer.ggml.{k}"] == want[f"tokenizer.ggml.{k}"], k
    assert got["tokenizer.ggml.tokens"][1][1] == want["tokenizer.ggml.tokens"][1][1] + [f"[PAD{n + i}]" for i in range(3)]
    assert got["tokenizer.ggml.token_type"][1][1] == want["tokenizer.ggml.token_type"][1][1] + [5] * 3
    assert "m.role" in got["tokenizer.chat_template"][1] and json.loads(run("models", "--json", out).stdout)[0]["chat"]
    for text in ("Hello, world! It's 12345 o'clock.\n\n  x", "größer, 日本語 \U0001F600"):
        ours, theirs = (json.loads(run("tokenize", "-m", m, "--json", stdin=text).stdout) for m in (out, GOLDEN / f"{name}.gguf"))
        strip = lambda t: [i for i in (t["tokens"] if isinstance(t, dict) else t) if i != got.get("tokenizer.ggml.bos_token_id", (0, -1))[1]]
        assert strip(ours) == strip(theirs)


def test_a_vocabulary_that_falls_back_to_bytes(tmp_path):
    """SentencePiece's as transformers saves it: the rank of a merge is the score of what it makes."""
    tokens = ["<unk>", "<s>", "</s>"] + [f"<0x{i:02X}>" for i in range(256)] + ["\u2581", "a", "b", "c", "ab", "\u2581ab", "bc", "abc"]
    merges = [["b", "c"], ["a", "b"], ["a", "bc"], ["ab", "c"], ["\u2581", "ab"]]
    tok = {"normalizer": {"type": "Sequence", "normalizers": [{"type": "Prepend", "prepend": "\u2581"}, {"type": "Replace", "pattern": {"String": " "}, "content": "\u2581"}]},
           "pre_tokenizer": None, "added_tokens": [{"id": i, "content": t, "special": True} for i, t in enumerate(tokens[:3])],
           "post_processor": {"type": "TemplateProcessing", "single": [{"SpecialToken": {"id": "<s>", "type_id": 0}}, {"Sequence": {"id": "A", "type_id": 0}}]},
           "model": {"type": "BPE", "byte_fallback": True, "unk_token": "<unk>", "vocab": {t: i for i, t in enumerate(tokens)}, "merges": merges}}
    folder, out = checkpoints.make(tmp_path / "m", "llama-bias", config={"vocab_size": len(tokens)}, change=widened(len(tokens)), tok=tok), tmp_path / "out.gguf"
    convert(folder, out)
    k = Gguf(out).keys
    assert k["tokenizer.ggml.model"][1] == "llama" and k["tokenizer.ggml.add_bos_token"][1] and k["tokenizer.ggml.add_space_prefix"][1]
    assert k["tokenizer.ggml.token_type"][1][1] == [2, 3, 3] + [6] * 256 + [1] * 8
    score = dict(zip(tokens, k["tokenizer.ggml.scores"][1][1]))
    assert [score[t] for t in ("bc", "ab", "abc", "\u2581ab", "a")] == [-1, -2, -3, -5, 0]
    got = json.loads(run("tokenize", "-m", out, "--json", stdin="abc \u00e9").stdout)
    ids = got["tokens"] if isinstance(got, dict) else got
    text = [tokens[i] for i in ids if i != 1]
    assert text == ["\u2581", "abc", "\u2581", "<0xC3>", "<0xA9>"]


HF = sorted(p.stem[6:] for p in GOLDEN.glob("hftok-*.json"))
KINDS = {"llama": "llama", "llama-metaspace": "llama", "gemma": "llama"}


@pytest.mark.parametrize("name", HF)
def test_a_converted_vocabulary_gives_the_ids_of_its_tokenizer(tmp_path, name):
    """Tokenizers as transformers builds them, and texts with their ids (test/golden/record_tokenizers.py)."""
    g = golden(GOLDEN / f"hftok-{name}.json")
    n = 1 + max([*g["file"]["model"]["vocab"].values(), *(t["id"] for t in g["file"]["added_tokens"])])
    folder, out = checkpoints.make(tmp_path / "m", "llama-bias", config={"vocab_size": n}, change=widened(n), tok=g["file"]), tmp_path / "out.gguf"
    convert(folder, out)
    k = Gguf(out).keys
    bos, adds = k["tokenizer.ggml.bos_token_id"][1], k["tokenizer.ggml.add_bos_token"][1]
    assert k["tokenizer.ggml.model"][1] == KINDS.get(name, "gpt2") and k["tokenizer.ggml.pre"][1] == ("default" if name in KINDS else name)
    assert adds == (g["pairs"][0][1] == [bos])
    # Metaspace puts no second space before one; SentencePiece and GGUF do.
    pairs = [(t, i[adds:]) for t, i in g["pairs"] if name != "llama-metaspace" or not t.startswith(" ")]
    assert len(pairs) > 20 and list(zip([t for t, _ in pairs], ids_of(out, [t.encode() for t, _ in pairs]))) == pairs


def test_merges_that_scores_cannot_say_are_refused(tmp_path):
    """BPE with byte fallback whose merges are only those of its training."""
    tok = golden(GOLDEN / "hftok-llama.json")["file"]
    merges = tok["model"]["merges"]
    first = {}
    for pair in merges:
        first.setdefault("".join(pair), pair)
    assert len(first) < 0.9 * len(merges)
    tok["model"]["merges"] = list(first.values())
    n = 1 + max(tok["model"]["vocab"].values())
    p = convert(checkpoints.make(tmp_path / "m", "llama-bias", config={"vocab_size": n}, change=widened(n), tok=tok), tmp_path / "out.gguf", check=False)
    assert p.returncode == 1 and f"and {len(first)} of them are merges: not SentencePiece's" in p.stderr, p.stderr


def test_pooling_of_sentence_transformers(tmp_path):
    """modules.json says how states are pooled; without it an encoder has the mean; what is not known is refused."""
    for mode, want in (("cls_token", 2), ("mean_tokens", 1), ("lasttoken", 3), (None, 1)):
        folder, out = checkpoints.make(tmp_path / f"{mode}", "bert"), tmp_path / f"{mode}.gguf"
        (folder / "1_Pooling/config.json").write_text(json.dumps({f"pooling_mode_{mode}": True, "word_embedding_dimension": 32}))
        if not mode:
            (folder / "modules.json").unlink()
        convert(folder, out)
        assert Gguf(out).keys["bert.pooling_type"][1] == want
    (folder / "modules.json").write_text('[{"path": "1_Pooling", "type": "x.Pooling"}]')
    for conf, says in (({"pooling_mode_max_tokens": True}, "is not of one of mean"), ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, "is not of one of mean")):
        (folder / "1_Pooling/config.json").write_text(json.dumps(conf))
        assert says in convert(folder, tmp_path / "x.gguf", check=False).stderr
    (folder / "modules.json").write_text('[{"path": "../1_Pooling", "type": "x.Pooling"}]')
    assert "is no folder in this one" in convert(folder, tmp_path / "x.gguf", check=False).stderr


def test_unigram_keeps_its_characters_map(tmp_path):
    """The map of precompiled characters, base64 in tokenizer.json, comes through byte for byte; broken ones are refused."""
    raw = (8).to_bytes(4, "little") + bytes(8) + b"A\0"
    tok = checkpoints.tokenizer_of("bert-rank")[0]
    for bad in (False, True):
        text = base64.b64encode(raw).decode() + "!" * bad
        tok["normalizer"] = {"type": "Sequence", "normalizers": [{"type": "Precompiled", "precompiled_charsmap": text}, {"type": "Replace", "pattern": {"Regex": " {2,}"}, "content": " "}]}
        out = tmp_path / f"{bad}.gguf"
        p = convert(checkpoints.make(tmp_path / f"m{bad}", "bert-rank", tok=tok), out, check=False)
        if bad:
            assert p.returncode == 1 and "precompiled_charsmap is no base64" in p.stderr
        else:
            k = Gguf(out).keys
            assert p.returncode == 0 and bytes(k["tokenizer.ggml.precompiled_charsmap"][1][1]) == raw and k["tokenizer.ggml.remove_extra_whitespaces"][1]


@pytest.mark.parametrize("name,config,tok,says", [
    ("bert", {"hidden_act": "relu"}, None, "hidden_act relu is not supported in bert"),
    ("bert", {"position_embedding_type": "relative_key"}, None, "position_embedding_type relative_key"),
    ("bert", {"num_attention_heads": 0}, None, "num_attention_heads is missing or no size"),
    ("modern-bert", {"layer_types": ["full_attention"] * 4}, None, "every third that see all"),
    ("bert", {}, {"normalizer": {"type": "BertNormalizer", "clean_text": False}}, "WordPiece with other rules than BERT's"),
    ("bert", {}, {"pre_tokenizer": {"type": "Whitespace"}}, "WordPiece with other rules than BERT's"),
    ("bert-rank", {}, {"normalizer": {"type": "NFKC"}}, "Unigram with a normalizer NFKC"),
    ("bert-rank", {"pad_token_id": 400}, None, "position_embeddings.weight has only 256 rows")])
def test_encoders_that_are_not_known_are_named(tmp_path, name, config, tok, says):
    folder = checkpoints.make(tmp_path / "m", name, config=config, tok={**checkpoints.tokenizer_of(name)[0], **(tok or {})})
    p = convert(folder, tmp_path / "out.gguf", check=False)
    assert p.returncode == 1 and says in p.stderr, p.stderr


def test_every_way_of_splitting_is_there():
    assert set(HF) == {"qwen2", "qwen35", "llama-bpe", "dbrx", "gpt-4o", "tekken", "gpt-2", "smollm", *KINDS}


def rename(old, new):
    def change(t):
        t[new] = t.pop(old)
    return change


BAD = [({"model_type": "rwkv9"}, None, None, "model_type rwkv9: not supported (llama, mistral, qwen2"), ({"model_type": ...}, None, None, "model_type is missing"),
       ({"hidden_act": "relu"}, None, None, "activation relu is not supported"), ({"rope_parameters": {"rope_type": "spiral"}}, None, None, "rope type spiral"),
       ({"model_type": "mistral", "sliding_window": 4096}, None, None, "sliding_window in mistral"),
       ({"num_hidden_layers": ...}, None, None, "num_hidden_layers is missing"), ({"hidden_size": -3}, None, None, "hidden_size is missing or no size"),
       ({"vocab_size": 1e30}, None, None, "what llama.vocab_size would be does not fit"), ({"rms_norm_eps": 1e300}, None, None, "layer_norm_rms_epsilon would be"),
       ({"rope_parameters": {"rope_type": "llama3", "low_freq_factor": 9.0}}, None, None, "rope type llama3 with base 10000, factor 8, low 9, high 4"),
       ({"model_type": "qwen3", "head_dim": ...}, None, None, "head_dim is missing"),
       ({"rope_parameters": {"rope_type": "longrope"}}, None, None, "factors of longrope are missing"),
       ({}, rename("model.norm.weight", "model.norms.weight"), None, "tensor model.norms.weight is none that a model of type llama"),
       ({}, lambda t: t.pop("model.embed_tokens.weight"), None, "model.embed_tokens.weight is missing"),
       ({}, lambda t: t.update({"model.layers.0.self_attn.q_proj.weight": np.zeros((30, 64), np.float32)}), None, "30 rows are no 4 heads"),
       ({}, lambda t: t.update({"model.norm.weight": np.zeros((2, 2, 2), np.float32)}), None, "3 dimensions"),
       ({}, None, {"model": {"type": "Unigram"}}, "Unigram with a pre-tokenizer (none) is not supported"), ({}, None, {"model": {}}, "a model of type (none)"),
       ({}, None, {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Split", "pattern": {"Regex": "x+"}, "behavior": "Isolated"}}, "the pre-tokenizer is none that is known:"),
       ({}, None, {"model": {"type": "BPE"}, "pre_tokenizer": {"type": "Whitespace"}}, "none that is known:Whitespace"),
       ({}, None, {"model": {"type": "BPE", "vocab": {"a": 96}}, "pre_tokenizer": {"type": "ByteLevel"}}, "token 96 (a), the embedding has 96 rows"),
       ({}, None, {"model": {"type": "BPE", "vocab": {"a": 1}, "merges": ["ab"]}, "pre_tokenizer": {"type": "ByteLevel"}}, "merge 0 is no pair"),
       ({}, None, {"model": {"type": "BPE", "byte_fallback": True, "vocab": {"a": 1}, "merges": ["a b"]}}, "merge 0 makes no token")]


@pytest.mark.parametrize("config,change,tok,says", BAD, ids=range(len(BAD)))
def test_what_is_not_known_is_named(tmp_path, config, change, tok, says):
    p = convert(checkpoints.make(tmp_path / "m", "llama-bias", config=config, change=change, tok=tok), tmp_path / "out.gguf", check=False)
    assert p.returncode == 1 and says in p.stderr, p.stderr
    assert [x.name for x in tmp_path.iterdir()] == ["m"]  # nothing is left that could be taken for a model


@pytest.mark.parametrize("spoil,says", [
    (lambda f: (f / "config.json").unlink(), "config.json: No such file"), (lambda f: (f / "tokenizer.json").unlink(), "tokenizer.json: No such file"),
    (lambda f: (f / "model.safetensors").unlink(), "model.safetensors: No such file"), (lambda f: (f / "config.json").write_text("[1]"), "not a JSON object"),
    (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes()[:-64]), "data_offsets do not fit"),
    (lambda f: (f / "model.safetensors.index.json").write_text('{"weight_map": {"a": "../x"}}'), "no name of a file in the folder"),
    (lambda f: (f / "model.safetensors").write_bytes((f / "model.safetensors").read_bytes().replace(b'"F32"', b'"F64"')), "dtype F64")], ids=range(7))
def test_bad_folders_are_named(tmp_path, spoil, says):
    folder = checkpoints.make(tmp_path / "m", "qwen2")
    spoil(folder)
    p = convert(folder, tmp_path / "out.gguf", check=False)
    assert p.returncode == 1 and says in p.stderr and [x.name for x in tmp_path.iterdir()] == ["m"], p.stderr


def test_usage(tmp_path):
    folder = checkpoints.make(tmp_path / "m", "qwen2")
    (tmp_path / "there.gguf").write_bytes(b"x")
    for args, says in (((folder,), "where to"), ((folder, "-o", tmp_path / "x.gguf", "--type", "Q9"), "--type Q9: must be one of F32, F16, BF16"), (("-o", "x"), "which folder"),
                       ((folder, "-o", tmp_path / "there.gguf"), "there already")):
        p = run("convert", *args, check=False)
        assert p.returncode == 2 and says in p.stderr, p.stderr
