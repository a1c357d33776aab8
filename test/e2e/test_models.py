"""`sparing models`: whether a file runs, all reasons if not, and what it needs."""
import copy
import json

import pytest

from conftest import GOLDEN, MODEL, run
from ggufs import ARRAY, STR, Gguf



def asked(path, *args):
    p = run("models", "--json", path, *args, check=False)
    [m] = json.loads(p.stdout)
    assert p.returncode == (0 if m["runs"] else 4)
    return m


@pytest.fixture(scope="module")
def parsed():
    return Gguf(MODEL)


def changed(parsed, path, keys=(), drop=(), type_of=None, name="changed.gguf"):
    """The default model's file with other keys, without some tensors, or with the type of the first tensor another."""
    g = copy.copy(parsed)
    g.keys, g.tensors = dict(parsed.keys), dict(parsed.tensors)
    g.keys.update(dict(keys))
    for d in drop:
        del g.tensors[d]
    if type_of is not None:
        first = next(iter(g.tensors))
        dims, _, raw = g.tensors[first]
        g.tensors[first] = (dims, type_of, raw)
    return g.write(path / name)


def test_a_file_that_runs_says_what_it_needs():
    m = asked(MODEL)
    size = MODEL.stat().st_size
    assert m["runs"] and m["why"] == [] and m["bytes"] == size and m["type"] == "Q4_1" and m["chat"]
    assert size < m["ram_bytes"] < size + (200 << 20)
    # Two planes of a byte in all for each of 2 x 30 layers x 3 KV heads x 64 elements, and their scales.
    assert 1000 * 2 * 30 * 3 * 64 < m["kv_1000_bytes"] < 1.25 * 1000 * 2 * 30 * 3 * 64
    assert asked(MODEL, "--kv-type", "f16")["kv_1000_bytes"] == 1000 * 2 * 30 * 3 * 64 * 2
    text = run("models", MODEL).stdout
    assert f"{MODEL}: runs, llama Q4_1, {size / 1e6:.1f} MB" in text and "pages for 1,000 tokens" in text


def test_names_and_folders(tmp_path):
    (tmp_path / "b.gguf").symlink_to(MODEL)
    (tmp_path / "a.gguf").write_bytes(b"GGUF nonsense")
    listed = json.loads(run("models", "--json", "--models-dir", tmp_path).stdout)
    assert [(m["file"].rsplit("/", 1)[1], m["runs"]) for m in listed] == [("a.gguf", False), ("b.gguf", True)]
    for name in ("b", "b.gguf"):
        assert f"{tmp_path}/b.gguf: runs" in run("models", name, "--models-dir", tmp_path).stdout
    assert run("run", "-m", "b", "--models-dir", tmp_path, "-n", "2", "Hi").stdout.strip()
    p = run("models", "c", "--models-dir", tmp_path, check=False)
    assert p.returncode == 4 and "c: No such file" in p.stdout


def test_all_reasons_at_once(parsed, tmp_path):
    """Architecture and tokenizer are wrong; run and models say the same. A template that cannot be used is no reason."""
    bad = changed(parsed, tmp_path, {"general.architecture": (STR, "rwkv9"), "tokenizer.ggml.model": (STR, "abacus"),
                             "tokenizer.chat_template": (STR, "{% for %}")})
    why = asked(bad)["why"]
    assert len(why) == 2 and all(w.startswith("changed.gguf: ") for w in why)
    for word, w in zip(("architecture rwkv9", "tokenizer model abacus"), why):
        assert word in w
    for command in ("run", "serve"):
        p = run(command, "-m", bad, *(["Hi"] if command == "run" else []), check=False)
        assert p.returncode == 4 and all(w in p.stderr for w in why) and "2 reasons" in p.stderr
    text = run("models", bad, check=False).stdout
    assert text.startswith(f"{bad}: does not run\n") and all(w in text for w in why)
    text = run("models", changed(parsed, tmp_path, {"tokenizer.chat_template": (STR, "{% for %}")})).stdout
    assert ": runs" in text and "its chat template cannot be used" in text


def test_a_type_of_weights_that_is_unknown_hides_no_other_reason(parsed, tmp_path):
    bad = changed(parsed, tmp_path, {"tokenizer.ggml.model": (STR, "abacus")}, type_of=77)
    why = asked(bad)["why"]
    assert len(why) == 2 and "(77), which is not supported" in why[0] and "abacus" in why[1]


@pytest.mark.parametrize("name,change,says", [
    ("tensor", {"drop": ["blk.3.ffn_up.weight"]}, "tensor blk.3.ffn_up.weight is missing"),
    ("tokens", {"keys": {"tokenizer.ggml.token_type": (ARRAY, (5, [1]))}}, "token_type has 1 entries")])
def test_one_reason(parsed, tmp_path, name, change, says):
    why = asked(changed(parsed, tmp_path, **change))["why"]
    assert len(why) == 1 and says in why[0] and why[0].startswith("changed.gguf: ")


def test_memory_and_context_are_reasons():
    m = asked(MODEL, "--ctx", 9000)
    assert not m["runs"] and "ctx: 9000 is more than the model's 8192" in m["why"][0]
    m = asked(MODEL, "--kv-bytes", "9000G")
    assert "MiB for pages beside" in m["why"][0] and MODEL.name in m["why"][0]
    few = asked(MODEL, "--kv-bytes", "4M")  # runs, and says how far a context reaches
    assert few["runs"] and few["fits_tokens"] == (4 << 20) // (few["kv_1000_bytes"] * 32 // 1000) * 32 < few["context"]
    assert f"context of {few['fits_tokens']} tokens fits" in run("models", MODEL, "--kv-bytes", "4M").stdout


def test_a_base_model_runs_without_a_template():
    base = GOLDEN.parents[2] / "models/test/gemma-3-270m-q4_k_m.gguf"
    m = asked(base)
    assert m["runs"] and not m["chat"] and "knows no chat" in run("models", base).stdout


def test_bad_files_are_named(tmp_path):
    for name, raw in (("empty.gguf", b""), ("text.gguf", b"hello there, I am no model"), ("cut.gguf", MODEL.read_bytes()[:5000])):
        (tmp_path / name).write_bytes(raw)
        why = asked(tmp_path / name)["why"]
        assert name in why[0] and len(why) == 1


def test_where_models_live(tmp_path):
    """Without a folder of models at hand they lie under XDG_DATA_HOME, and the only one is the default."""
    env, folder = {"XDG_DATA_HOME": str(tmp_path / "data")}, tmp_path / "data/sparing/models"
    work = tmp_path / "work"
    work.mkdir()
    p = run("run", "Hi", cwd=work, env=env, check=False)
    assert p.returncode == 4 and f"{folder}: there is no model" in p.stderr
    folder.mkdir(parents=True)
    (folder / "a.gguf").symlink_to(MODEL)
    assert run("run", "-n", "2", "Hi", cwd=work, env=env).stdout.strip()
    (folder / "b.gguf").symlink_to(MODEL)
    p = run("run", "Hi", cwd=work, env=env, check=False)
    assert p.returncode == 4 and "2 models: name one with -m" in p.stderr
    assert run("run", "-m", "b", "-n", "2", "Hi", cwd=work, env=env).stdout.strip()
    home = run("models", cwd=work, env={"XDG_DATA_HOME": "relative", "HOME": str(tmp_path)}, check=False)
    assert home.returncode == 1 and f"{tmp_path}/.local/share/sparing/models" in home.stderr


def test_rm(tmp_path):
    outside = tmp_path / "outside.gguf"
    folder = tmp_path / "models"
    folder.mkdir()
    for path in (outside, folder / "a.gguf", folder / "a.gguf.id", folder / "b.gguf"):
        path.write_bytes(b"x")
    assert "a.gguf: removed" in run("rm", "a", "--models-dir", folder).stdout
    assert [p.name for p in folder.iterdir()] == ["b.gguf"]
    for name, code in (("a", 1), ("../outside", 2), ("", 2), (str(outside), 2)):
        assert run("rm", name, "--models-dir", folder, check=False).returncode == code
    run("rm", "b.gguf", "--models-dir", folder)
    assert list(folder.iterdir()) == [] and outside.exists()
