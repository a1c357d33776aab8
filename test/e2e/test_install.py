"""make install, into a folder: every file is there and says where it is."""
import json
import os
import platform
import re
import shutil
import subprocess
import sys
import venv

import pytest

from conftest import BIN, ROOT, quick_file, run

COMMANDS = re.findall(r"^\| `(\w+)` \|", run("--print", "reference").stdout, re.M)


@pytest.fixture(scope="module")
def stage(tmp_path_factory):
    folder, build = tmp_path_factory.mktemp("stage"), BIN.parent
    for args in (["--build", build, "--target", "manual"], ["--install", build, "--prefix", "/opt/x", "--strip"]):
        p = subprocess.run(["cmake", *map(str, args)], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "DESTDIR": str(folder)})
        assert p.returncode == 0, p.stdout + p.stderr
    assert [f.name for f in folder.iterdir()] == ["opt"] and [f.name for f in (folder / "opt").iterdir()] == ["x"]
    return folder / "opt/x"


def test_the_program_runs_where_it_is(stage):
    p = subprocess.run([str(stage / "bin/sparing"), "version"], capture_output=True, text=True)
    assert p.returncode == 0 and p.stdout == run("version").stdout


def test_each_command_has_its_page(stage):
    assert sorted(f.name for f in (stage / "share/man/man1").iterdir()) == sorted(["sparing.1", *(f"sparing-{c}.1" for c in COMMANDS)])
    for c in COMMANDS:
        assert (stage / f"share/man/man1/sparing-{c}.1").read_text() == run("--print", f"man-{c}").stdout
    assert (stage / "share/man/man5/sparing.yaml.5").stat().st_size > 1000


def test_completions_example_and_licences(stage):
    for path, what in (("bash-completion/completions/sparing", "completion-bash"), ("zsh/site-functions/_sparing", "completion-zsh"),
                       ("fish/vendor_completions.d/sparing.fish", "completion-fish"), ("doc/sparing/examples/sparing.yaml", "yaml")):
        assert (stage / "share" / path).read_text() == run("--print", what).stdout
    assert all((stage / "share/doc/sparing" / f).read_bytes() == (ROOT / f).read_bytes() for f in ("LICENSE", "NOTICE"))


def test_the_unit_starts_the_program_that_was_installed(stage):
    unit = (stage / "lib/systemd/system/sparing.service").read_text()
    assert "ExecStart=/opt/x/bin/sparing serve" in unit and "/usr/bin/sparing" not in unit
    assert (stage / "lib/sysusers.d/sparing.conf").read_text() == (ROOT / "deploy/systemd/sparing.sysusers").read_text()


# --- the archive and its installer -----------------------------------------------------------------

@pytest.fixture(scope="module")
def dist(tmp_path_factory):
    out = tmp_path_factory.mktemp("dist")
    p = subprocess.run([str(ROOT / "scripts/dist"), str(BIN.parent), str(out)], cwd=ROOT, capture_output=True, text=True)
    assert p.returncode == 0, p.stderr
    return out


def install(*args, **env):
    return subprocess.run(["sh", str(ROOT / "scripts/install.sh"), *map(str, args)], capture_output=True, text=True, env={**os.environ, **env})


def files_of(folder):
    return sorted(str(f.relative_to(folder)) for f in folder.rglob("*") if f.is_file())


def test_install_again_and_uninstall(dist, tmp_path, stage):
    prefix = tmp_path / "p"
    for _ in range(2):
        p = install("--from", dist, "--prefix", prefix)
        assert p.returncode == 0 and f"{prefix}/bin/sparing chat" in p.stdout and len(p.stdout.splitlines()) == 3, p
    assert files_of(prefix) == sorted([*files_of(stage), "share/sparing/installed"])
    assert subprocess.run([str(prefix / "bin/sparing"), "version"], capture_output=True, text=True).stdout == run("version").stdout
    assert f"ExecStart={prefix}/bin/sparing serve" in (prefix / "lib/systemd/system/sparing.service").read_text()
    (prefix / "mine").touch()
    assert install("--uninstall", "--prefix", prefix).returncode == 0 and files_of(prefix) == ["mine"]
    p = install("--uninstall", "--prefix", prefix)
    assert p.returncode == 1 and "nothing was installed" in p.stderr


def test_install_from_a_server(dist, tmp_path):
    server = subprocess.Popen([sys.executable, "-u", "-m", "http.server", "--bind", "127.0.0.1", "--directory", str(dist), "0"], stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)
    port = re.search(r"port (\d+)", server.stdout.readline()).group(1)
    try:
        p = install("--from", f"http://127.0.0.1:{port}", "--prefix", tmp_path / "p")
        assert p.returncode == 0 and (tmp_path / "p/bin/sparing").exists(), p
        p = install("--from", f"http://127.0.0.1:{port}/none", "--prefix", tmp_path / "q")
        assert p.returncode == 1 and "/none/SHA256SUMS cannot be fetched" in p.stderr and not (tmp_path / "q").exists()
    finally:
        server.kill()
        server.wait()
        server.stdout.close()


def test_an_archive_that_is_another_one_is_not_installed(dist, tmp_path):
    bad, prefix = tmp_path / "bad", tmp_path / "p"
    shutil.copytree(dist, bad)
    archive = next(bad.glob("*.tar.gz"))
    archive.write_bytes(archive.read_bytes()[:-1] + b"x")
    p = install("--from", bad, "--prefix", prefix)
    assert p.returncode == 1 and "is not what SHA256SUMS says" in p.stderr and not prefix.exists()
    (bad / "SHA256SUMS").write_text("0" * 64 + "  other.tar.gz\n")
    assert "names no archive" in install("--from", bad, "--prefix", prefix).stderr
    archive.unlink()
    (bad / "SHA256SUMS").unlink()
    assert "SHA256SUMS is not there" in install("--from", bad, "--prefix", prefix).stderr and not prefix.exists()
    assert "from where?" in install("--prefix", prefix).stderr and "there is no option --form" in install("--form", bad).stderr


def test_the_formula_is_of_this_archive(dist):
    formula, (line,) = (dist / "sparing.rb").read_text(), (dist / "SHA256SUMS").read_text().splitlines()
    sha, name = line.split()
    assert f'sha256 "{sha}"' in formula and f'url "https://example.org/sparing/{name}"' in formula and "@" not in re.sub(r"#.*", "", formula)
    files = {str(f) for f in subprocess.run(["tar", "-tzf", str(dist / name)], capture_output=True, text=True, check=True).stdout.splitlines()}
    for path in re.findall(r'install "([^"]+)"', formula):
        assert any(f.endswith("/" + path) for f in files), path


def test_two_archives_of_one_build_are_the_same(dist, tmp_path):
    p = subprocess.run([str(ROOT / "scripts/dist"), str(BIN.parent), str(tmp_path)], cwd=ROOT, capture_output=True, text=True)
    assert p.returncode == 0 and (tmp_path / "SHA256SUMS").read_text() == (dist / "SHA256SUMS").read_text()


# --- the wheel -------------------------------------------------------------------------------------

def test_a_wheel_in_a_new_environment(tmp_path):
    """Its platform is no more than what holds: manylinux only where the program needs nothing but glibc."""
    p = subprocess.run([str(ROOT / "scripts/wheel"), str(BIN.parent), str(tmp_path)], cwd=ROOT, capture_output=True, text=True, env={**os.environ, "PYTHON": sys.executable})
    assert p.returncode == 0, p.stdout + p.stderr
    (wheel,) = tmp_path.glob("*.whl")
    about = json.loads(run("version", "--json").stdout)
    linked = set(re.findall(r"^\s*(\S+?)\.so", subprocess.run(["ldd", str(BIN)], capture_output=True, text=True, check=True).stdout, re.M))
    is_static = about["libraries"] == "static"
    assert is_static == (linked <= {"linux-vdso", "libm", "libc"} | {x for x in linked if "/ld-linux" in x})
    tag = rf"manylinux_2_\d+_{platform.machine()}" if is_static else f"linux_{platform.machine()}"
    assert re.fullmatch(rf"sparing_server-{about['version']}-py3-none-{tag}\.whl", wheel.name)
    venv.create(tmp_path / "v", with_pip=True)
    pip = [str(tmp_path / "v/bin/pip"), "--disable-pip-version-check"]
    assert subprocess.run([*pip, "install", "-q", "--no-index", str(wheel)]).returncode == 0
    program = str(tmp_path / "v/bin/sparing")
    assert subprocess.run([program, "version"], capture_output=True, text=True).stdout == run("version").stdout
    p = subprocess.run([program, "run", "-m", quick_file(), "-n", "3", "Hello"], capture_output=True, text=True, stdin=subprocess.DEVNULL)
    assert p.returncode == 0 and p.stdout.strip(), p
    assert subprocess.run([*pip, "check"], capture_output=True).returncode == 0
    assert subprocess.run([*pip, "uninstall", "-q", "-y", "sparing-server"]).returncode == 0 and not os.path.exists(program)
