"""Packed weights in files: a later start reads them, and answers with the same bits; what is wrong with a file costs time and nothing else."""
import json
import pathlib
import shutil

import pytest

from conftest import BIN, Server, quick_file, run, wait_until

IDS = list(range(300, 340))  # any tokens do
READ, KEPT = "are read from", "are kept in"


@pytest.fixture(scope="module")
def model(tmp_path_factory):
    """A copy of our own: the id of the model, which has to be known, is kept beside it."""
    return shutil.copy(quick_file(), tmp_path_factory.mktemp("model") / "m.gguf")


def start(model, folder, *opts, **kw):
    return Server("-m", model, "--weight-cache", str(folder), "--log-level", "debug", "--epsilon-default", "0", *opts, **kw)


def stopped(s):
    """What a server says to its end."""
    answer = s.exact(IDS)[0]
    assert s.stop() == 0
    return answer, "".join(s.log)


@pytest.fixture(scope="module")
def kept(model, tmp_path_factory):
    """A folder with the file of that model, and what the model answers."""
    folder = tmp_path_factory.mktemp("cache") / "not" / "there yet"
    s = start(model, folder)
    s.wait_log(KEPT)
    answer, log = stopped(s)
    assert READ not in log and [f.suffix for f in folder.iterdir()] == [".weights"]
    return folder, answer


@pytest.fixture
def own(kept, tmp_path):
    """A copy of the folder, its file, and what the model answers."""
    folder = pathlib.Path(shutil.copytree(kept[0], tmp_path / "cache"))
    return folder, next(folder.iterdir()), kept[1]


def test_a_later_start_reads_them(model, own):
    folder, file, answer = own
    before = file.read_bytes()
    again, log = stopped(start(model, folder))
    assert READ in log and KEPT not in log and again == answer and file.read_bytes() == before
    off, log = stopped(start(model, "none"))
    assert READ not in log and off == answer


def test_another_level_reads_the_same_file(model, own):
    """Bits of answers differ from level to level, and not by where the weights are from."""
    folder, _, _ = own
    with_file, log = stopped(start(model, folder, "--cpu-mask", "scalar"))
    assert READ in log and with_file == stopped(start(model, "none", "--cpu-mask", "scalar"))[0]


def change(file, at, byte=None):
    data = bytearray(file.read_bytes())
    data[at] = data[at] ^ 1 if byte is None else byte
    file.write_bytes(data)


@pytest.mark.parametrize("at, says", [(-1, "does not match its checksum"), (8, "is of version 0, this program reads 1"), (32, "is of another model")])
def test_a_damaged_or_old_file_is_said_ignored_and_written_again(model, own, at, says):
    folder, file, answer = own
    good = file.read_bytes()
    change(file, at)
    s = start(model, folder)
    s.wait_log(KEPT)
    again, log = stopped(s)
    assert says in log and READ not in log and again == answer and file.read_bytes() == good


def test_a_cut_file_is_ignored(model, own):
    folder, file, answer = own
    file.write_bytes(file.read_bytes()[:-1])
    again, log = stopped(start(model, folder))
    assert "ends too early" in log and again == answer


def test_a_full_disk_leaves_nothing(model, tmp_path):
    (tmp_path / "mode").write_text("enospc")
    folder = tmp_path / "cache"
    env = {"LD_PRELOAD": str(BIN.parent / "test/libbadio.so"), "BADIO": str(tmp_path / "mode"), "ASAN_OPTIONS": "verify_asan_link_order=0"}
    s = start(model, folder, env=env)
    s.wait_log("are not kept")
    _, log = stopped(s)
    assert "No space left on device" in log and list(folder.iterdir()) == []


def test_a_budget_that_is_too_small_is_said(model, tmp_path):
    s = start(model, tmp_path / "cache", "--weight-cache-bytes", "1M")
    s.wait_log("weight-cache-bytes: 1 MiB do not hold")
    assert s.stop() == 0 and list((tmp_path / "cache").iterdir()) == []


def test_the_command_lists_and_clears(own, tmp_path):
    folder, file, _ = own
    (folder / "notes.txt").write_text("somebody's own")
    (folder / "other.weights").write_text("nothing of ours")
    at = ("--weight-cache", folder)
    files = {f["file"]: f for f in json.loads(run("cache", "weights", *at, "--json").stdout)["files"]}
    assert files[file.name]["model"] == "m" and files[file.name]["bytes"] == file.stat().st_size and files["other.weights"]["model"] is None
    out = run("cache", "weights", *at).stdout
    assert file.name in out and "of 16384 MiB in" in out
    assert "2 files removed" in run("cache", "weights", "clear", *at).stdout
    assert [f.name for f in folder.iterdir()] == ["notes.txt"]
    assert json.loads(run("cache", "weights", "--json", "--weight-cache", tmp_path / "nowhere").stdout)["files"] == []
    assert "is not clear" in run("cache", "weights", "all", *at, check=False).stderr


def test_run_reads_and_writes_them(model, own, tmp_path):
    folder, file, _ = own
    ask = ("run", "-m", model, "-n", "8", "Say hello.")
    assert run(*ask, "--weight-cache", folder).stdout == run(*ask, "--weight-cache", "none").stdout
    fresh = tmp_path / "fresh"  # it is done or given up, and nothing is left in the middle
    run(*ask, "--weight-cache", fresh)
    wait_until(lambda: all(f.suffix == ".weights" for f in fresh.iterdir()) if fresh.exists() else True)
