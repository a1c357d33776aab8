"""What the compiler and the linker were asked to do against overflows and unwritten memory is in the binary."""
import os
import pathlib
import platform
import re
import shutil
import subprocess

import pytest

from conftest import BIN, ROOT, run

pytestmark = pytest.mark.skipif("release" not in str(BIN), reason="sanitizer builds have checks of their own")


def readelf(*flags):
    return subprocess.run(["readelf", "-W", *flags, str(BIN)], capture_output=True, text=True, check=True).stdout


def test_it_is_position_independent_and_read_only_after_start():
    assert re.search(r"Type:\s+DYN .*Position-Independent", readelf("-h"))
    segments = readelf("-l")
    assert "GNU_RELRO" in segments
    assert re.search(r"GNU_STACK.* RW ", segments) and not re.search(r"GNU_STACK.* RWE", segments)
    assert re.search(r"FLAGS\b.*BIND_NOW", readelf("-d")) and not re.search(r"^\s*LOAD.* RWE ", segments, re.M)


def test_overflows_are_caught():
    symbols = readelf("--dyn-syms")
    assert "__stack_chk_fail" in symbols
    checked = set(re.findall(r"__(\w+)_chk\b", symbols))
    assert {"memcpy", "snprintf"} <= checked, checked


def test_every_file_was_compiled_so():
    """By the compiler's own record of its flags. What is not ours (the C library's start-up code) has no record under src/."""
    units = re.findall(r"DW_AT_producer\s*:(.*?)\n\s*<\w+>\s*DW_AT_language.*?\n\s*<\w+>\s*DW_AT_name\s*:(.*?)\n", readelf("--debug-dump=info", "--dwarf-depth=1"), re.S)
    ours = [(flags, name.strip().split("src/")[-1]) for flags, name in units if "/src/" in name or name.strip().split(": ")[-1].startswith("src/")]
    assert len(ours) > 100
    want = ["-ftrivial-auto-var-init=zero", "-fstack-protector-strong", "-fstack-clash-protection"]
    if platform.machine() == "x86_64":
        want.append("-fcf-protection=full")
    missing = [(name, flag) for flags, name in ours for flag in want if flag not in flags and not re.match(r"kern/(x86|arm)/", name)]
    assert not missing, missing[:5]


@pytest.mark.skipif(platform.machine() != "x86_64", reason="levels of x86-64")
def test_a_build_for_this_machine_has_its_kernels_alone(tmp_path):
    """What `make run` builds: no kernels that this CPU cannot run, and all that it can. A program for others has all."""
    files = {"avx2": {"avx2", "attn_avx2"}, "avx_vnni": {"avxvnni", "attn_avxvnni"}, "avx512bw": {"avx512"}, "avx512_vnni": {"avx512vnni", "attn_vnni"}, "avx512_bf16": {"avx512bf16"}, "amx_int8": {"amx"}}
    here = set(re.search(r"^flags\s*:(.*)", pathlib.Path("/proc/cpuinfo").read_text(), re.M).group(1).split())
    for levels, flags in (("here", here), ("all", set(files))):
        p = subprocess.run(["cmake", "-S", str(ROOT), "-B", str(tmp_path / levels), "-G", "Ninja", "-DCMAKE_BUILD_TYPE=Release", "-DSP_TESTS=OFF", f"-DSP_LEVELS={levels}"], capture_output=True, text=True)
        assert p.returncode == 0, p.stdout + p.stderr
        made = subprocess.run(["ninja", "-C", str(tmp_path / levels), "-t", "commands", "sparing"], capture_output=True, text=True, check=True).stdout
        assert set(re.findall(r"-c \S*kern/x86/(\w+)\.c", made)) == set().union(*(f for flag, f in files.items() if flag in flags))
        assert len(re.findall(r"-DSP_KERN_BUILT=\d+u", made)) == (levels == "here")
    assert "for the processor" not in run("version").stdout


@pytest.mark.parametrize("was, asked, wanted", [(None, "here", ["here"]), (None, "all", ["all"]), ("here", "here", []), ("here", "all", ["all"]), ("all", "here", []), ("all", "all", [])])
def test_setup_configures_where_it_must(tmp_path, was, asked, wanted):
    """scripts/setup with a cmake that only writes down what it is asked: was: the levels of the build that is there."""
    (tmp_path / "scripts").mkdir()
    shutil.copy(ROOT / "scripts/setup", tmp_path / "scripts")
    for path, does in (("scripts/fetch-models", "true"), ("bin/dpkg-query", "printf installed"), ("bin/cmake", 'echo "$@" >>' + str(tmp_path / "asked"))):
        (tmp_path / path).parent.mkdir(exist_ok=True)
        (tmp_path / path).write_text(f"#!/bin/sh\n{does}\n")
        (tmp_path / path).chmod(0o755)
    if was:
        (tmp_path / "build/release").mkdir(parents=True)
        (tmp_path / "build/release/build.ninja").touch()
        (tmp_path / "build/release/CMakeCache.txt").write_text(f"SP_HARDEN:BOOL=ON\nSP_LEVELS:STRING={was}\n")
    p = subprocess.run([str(tmp_path / "scripts/setup")], capture_output=True, text=True, env={**os.environ, "PATH": f"{tmp_path}/bin:{os.environ['PATH']}", "SPARING_LEVELS": asked})
    assert p.returncode == 0, p
    lines = (tmp_path / "asked").read_text().splitlines()
    assert lines == [f"--preset release -DSP_LEVELS={w}" for w in wanted] + ["--build --preset release --target sparing"]
