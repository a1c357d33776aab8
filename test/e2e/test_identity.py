"""A model is known by all of its file: what another model computed is never taken for its own."""
import os
import pathlib
import shutil
import struct

import pytest

from conftest import GOLDEN, MODEL, run
from ggufs import Gguf
from test_memory import cache, saved, source

IDS = list(range(300, 500))  # any tokens do


def patch_key(path, key, value):
    """Sets a 32-bit number of the file's header."""
    head = path.read_bytes()[: 8 << 20]
    at = head.index(struct.pack("<Q", len(key)) + key.encode()) + 8 + len(key)
    assert struct.unpack_from("<I", head, at)[0] in (4, 6)  # u32, f32
    with path.open("r+b") as f:
        f.seek(at + 4)
        f.write(struct.pack("<f" if isinstance(value, float) else "<I", value))


def flip(path, at):
    with path.open("r+b") as f:
        f.seek(at)
        byte = f.read(1)[0]
        f.seek(at)
        f.write(bytes([byte ^ 1]))


def other_head_count(path):
    """As many and as large tensors, cut into heads of half the size."""
    patch_key(path, "llama.attention.head_count", 18)
    patch_key(path, "llama.attention.head_count_kv", 6)
    patch_key(path, "llama.rope.dimension_count", 32)


CHANGES = {
    "a byte in the middle": lambda p: flip(p, p.stat().st_size // 2 + 12345),
    "the last byte": lambda p: flip(p, p.stat().st_size - 1),
    "the heads": other_head_count,
    "the norm's epsilon": lambda p: patch_key(p, "llama.attention.layer_norm_rms_epsilon", 2e-5),
}


@pytest.fixture(scope="module")
def two(tmp_path_factory):
    folder = tmp_path_factory.mktemp("models")
    return pathlib.Path(shutil.copy(MODEL, folder / "one.gguf")), folder / "other.gguf"


def test_pages_of_another_model_are_not_used(tmp_path, make_server, two):
    one, other = two
    opts = [*cache(tmp_path), "--cache-fetch", "always", "--kv-type", "f16"]
    s = make_server("-m", str(one), *opts)
    s.prefix(IDS, 1)
    saved(s, 192)
    s.stop()
    for name, change in CHANGES.items():
        shutil.copy(MODEL, other)
        change(other)
        s = make_server("-m", str(other), *opts)
        assert source(s.prefix(IDS, 1)[1]) == {"computed": 200, "ram": 0, "ssd": 0, "s3": 0}, name
        s.stop()
    shutil.copy(MODEL, other)  # and the same bytes under another name are the same model
    s = make_server("-m", str(other), *opts)
    assert source(s.prefix(IDS, 1)[1])["ssd"] == 192
    s.stop()


def perplexity(model, tmp_path, env=None):
    text = tmp_path / "text.txt"
    text.write_text("The cat sat on the mat. " * 20)
    return run("perplexity", "-m", model, "-f", text, "-c", "64", env=env)


def test_a_digest_is_kept_beside_the_file(tmp_path, two):
    one, other = two
    shutil.copy(MODEL, other)
    kept = other.with_name("other.gguf.id")
    kept.unlink(missing_ok=True)
    perplexity(other, tmp_path)
    first = kept.read_text()
    assert first.startswith("sparing-model-id-1 ") and first.split()[1] == str(MODEL.stat().st_size)

    # While the file is the same, what was kept is believed (here: a digest that is nobody's), and not written again.
    made_up = first.split()[:-1] + ["5" * 64]
    kept.write_text(" ".join(made_up) + "\n")
    perplexity(other, tmp_path)
    assert kept.read_text().split()[-1] == "5" * 64

    # A damaged line, or a file written to since, are computed again; the times set back do not hide a write.
    kept.write_text(" ".join(made_up)[:-1] + "x\n")
    perplexity(other, tmp_path)
    assert kept.read_text() == first
    kept.write_text(" ".join(made_up) + "\n")
    before = other.stat()
    flip(other, before.st_size - 1)
    os.utime(other, ns=(before.st_atime_ns, before.st_mtime_ns))
    perplexity(other, tmp_path)
    changed = kept.read_text().split()[-1]
    assert changed not in ("5" * 64, first.split()[-1])


def test_a_digest_of_parts_is_kept_for_all_of_them(tmp_path):
    parts = Gguf(MODEL).split(tmp_path, "m", 3)
    kept = parts[0].with_name(parts[0].name + ".id")
    perplexity(parts[1], tmp_path)
    first = kept.read_text().split()
    assert first[0] == "sparing-model-id-1" and first[1::4][:3] == [str(p.stat().st_size) for p in parts] and len(first) == 1 + 3 * 4 + 1
    kept.write_text(" ".join(first[:-1] + ["5" * 64]) + "\n")
    perplexity(parts[0], tmp_path)
    assert kept.read_text().split()[-1] == "5" * 64
    for part in parts:  # a byte of any part
        flip(part, part.stat().st_size - 1)
        perplexity(parts[0], tmp_path)
        now = kept.read_text().split()
        assert now[-1] not in ("5" * 64, first[-1])
        first = now
    kept.unlink()
    shutil.copytree(tmp_path, tmp_path / "copy")
    perplexity(tmp_path / "copy" / parts[2].name, tmp_path)
    assert (tmp_path / "copy" / kept.name).read_text().split()[-1] == first[-1]


def test_a_digest_goes_to_the_cache_folder_where_the_models_is_read_only(tmp_path, two):
    one, _ = two
    kept = one.with_name("one.gguf.id")
    kept.unlink(missing_ok=True)
    kept.mkdir()  # a name that cannot be written, also for root
    try:
        perplexity(one, tmp_path, env={"XDG_CACHE_HOME": str(tmp_path)})
    finally:
        kept.rmdir()
    files = list((tmp_path / "sparing").iterdir())
    assert len(files) == 1 and files[0].read_text().startswith("sparing-model-id-1 ")


def test_a_context_that_turns_heads_otherwise_has_pages_of_its_own(tmp_path, make_server):
    """LongRoPE: the factors of the angles are chosen by the context that the model is opened with (4,096 and below: short)."""
    ids = [3 + i % 90 for i in range(80)]

    def sources(ctx):
        s = make_server("-m", str(GOLDEN / "fam-phi3-short.gguf"), "-c", ctx, *cache(tmp_path), "--cache-fetch", "always", "--kv-type", "f16")
        got = source(s.prefix(ids, 1)[1])
        saved(s, 64)
        s.stop()
        return got["computed"], got["ssd"]

    assert sources("4096") == (80, 0)
    assert sources("8192") == (80, 0)
    assert sources("2048") == (16, 64)
    assert sources("131072") == (16, 64)
