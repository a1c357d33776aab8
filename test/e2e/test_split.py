"""Models in several files: opened as one whichever part is named, the same bits as in one file, and every fault named."""
import json

import numpy as np
import pytest

from conftest import GOLDEN, run
from ggufs import STR, Gguf
from test_model import logits

IDS = [3 + i * 7 % 80 for i in range(40)]
NAME = "fam-qwen3"
U16, U32 = 2, 4


@pytest.fixture(scope="module")
def parsed():
    return Gguf(GOLDEN / f"{NAME}.gguf")


def asked(path, *args):
    return json.loads(run("models", "--json", path, *args, check=False).stdout)[0]


@pytest.mark.parametrize("n", [2, 3, 9])
def test_parts_are_the_same_model_whichever_is_named(parsed, tmp_path, n):
    whole = parsed.write(tmp_path / "whole.gguf")
    parts = parsed.split(tmp_path, "m", n)
    want, said = logits(whole, IDS), asked(whole)
    for p in (parts[0], parts[1], parts[-1]):
        assert np.array_equal(logits(p, IDS), want)
        m = asked(p)
        assert m["bytes"] == sum(x.stat().st_size for x in parts)
        assert [m[k] for k in ("arch", "type", "layers", "ram_bytes", "chat")] == [said[k] for k in ("arch", "type", "layers", "ram_bytes", "chat")]
        assert m["why"] == said["why"]


def test_a_first_part_may_hold_keys_alone(parsed, tmp_path):
    """As llama-gguf-split --no-tensor-first-split makes it; later parts may repeat keys."""
    def change(no, part):
        part.tensors = [{}, parsed.tensors][no]
        part.keys.update({k: v for k, v in parsed.keys.items() if k == "general.architecture"})
    parts = parsed.split(tmp_path, "m", 2, change)
    assert np.array_equal(logits(parts[0], IDS), logits(GOLDEN / f"{NAME}.gguf", IDS))


def test_the_folder_of_models_has_it_once(parsed, tmp_path):
    parts = parsed.split(tmp_path, "big", 3)
    for name in ("big", "big-00001-of-00003", "big-00003-of-00003.gguf"):
        assert asked(name, "--models-dir", tmp_path)["bytes"] == sum(p.stat().st_size for p in parts)
    assert [m["file"] for m in json.loads(run("models", "--json", "--models-dir", tmp_path).stdout)] == [str(parts[0])]
    parts[0].unlink()  # what is left is one model with a part missing
    [m] = json.loads(run("models", "--json", "--models-dir", tmp_path).stdout)
    assert m["file"] == str(parts[1]) and "part 1 of 3: " in m["why"][0] and parts[0].name in m["why"][0]
    (tmp_path / "big-00001-of-00003.gguf.id").write_text("x")
    parsed.split(tmp_path, "big", 3)
    (tmp_path / "bigger.gguf").write_bytes(b"x")
    run("rm", "big", "--models-dir", tmp_path)
    assert [p.name for p in tmp_path.iterdir()] == ["bigger.gguf"]
    assert run("rm", "big", "--models-dir", tmp_path, check=False).returncode == 1


def key(no, **keys):
    def change(i, part):
        if i == no:
            for k, v in keys.items():
                k = k.replace("__", ".")
                part.keys.pop(k) if v is None else part.keys.update({k: v})
    return change


def twin(no, part):
    if no == 2:
        part.tensors["token_embd.weight"] = ([8], 0, b"\0" * 32)


def less(no, part):
    if no == 1:
        part.tensors.pop(next(iter(part.tensors)))


BAD = [(key(1, split__no=None), "m-00002-of-00003.gguf: key split.no is missing"),
       (key(0, split__no=None), "m-00001-of-00003.gguf: key split.no is missing"),
       (key(2, split__count=None), "m-00003-of-00003.gguf: key split.count is missing"),
       (key(1, split__tensors__count=None), "m-00002-of-00003.gguf: key split.tensors.count is missing"),
       (key(1, split__no=(STR, "1")), "m-00002-of-00003.gguf: key split.no is no number"),
       (key(1, split__no=(U16, 2)), "m-00002-of-00003.gguf: says that it is part 3 of 3"),
       (key(0, split__no=(U16, 1)), "m-00001-of-00003.gguf: says that it is part 2 of 3"),
       (key(2, split__count=(U16, 4)), "m-00003-of-00003.gguf: says that it is part 3 of 4"),
       (key(0, split__count=(U32, 1 << 31)), "says that it is part 1 of 2147483648"),
       (key(1, split__tensors__count=(U16, 7)), "m-00002-of-00003.gguf: a part of another model: it says 7 tensors in all"),
       (key(1, general__architecture=(STR, "llama")), "m-00002-of-00003.gguf: a part of another model: key general.architecture"),
       (key(2, llama__window=(U32, 3)), "m-00003-of-00003.gguf: a part of another model: key llama.window"),
       (twin, "m-00003-of-00003.gguf: tensor token_embd.weight is in a part before it, too"),
       (less, "m-00001-of-00003.gguf: its parts have")]


@pytest.mark.parametrize("change,says", BAD, ids=range(len(BAD)))
def test_bad_parts_are_named(parsed, tmp_path, change, says):
    for path in parsed.split(tmp_path, "m", 3, change)[::2]:
        assert says in asked(path)["why"][0]


@pytest.mark.parametrize("spoil,says", [
    (lambda p: p[1].unlink(), "part 2 of 3: "), (lambda p: p[2].write_bytes(b""), "m-00003-of-00003.gguf: empty file"),
    (lambda p: p[1].write_bytes(b"GGUF and no more"), "m-00002-of-00003.gguf: gguf: version"),
    (lambda p: p[1].write_bytes(p[1].read_bytes()[:-64]), "m-00002-of-00003.gguf: gguf: tensor"),
    (lambda p: p[1].write_bytes(p[0].read_bytes()), "m-00002-of-00003.gguf: says that it is part 1 of 3")], ids=range(5))
def test_bad_files_of_a_set_are_named(parsed, tmp_path, spoil, says):
    parts = parsed.split(tmp_path, "m", 3)
    spoil(parts)
    assert says in asked(parts[0])["why"][0]


def test_a_part_under_another_name_says_how_it_must_be_called(parsed, tmp_path):
    part = parsed.split(tmp_path, "m", 3)[0].rename(tmp_path / "renamed.gguf")
    assert "one of 3 parts of a model, whose name does not end in -00001-of-00003.gguf" in asked(part)["why"][0]
    many = tmp_path / "m-00001-of-99999.gguf"
    many.write_bytes(b"x")
    assert "99999 parts, limit 1000" in asked(many)["why"][0]
    plain = parsed.write(tmp_path / "x-00001-of-00001.gguf")  # one of one: an ordinary file
    assert np.array_equal(logits(plain, IDS), logits(GOLDEN / f"{NAME}.gguf", IDS))
