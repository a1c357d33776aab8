"""sparing doctor: what it says of this machine, and of machines that lack something."""
import json
import os
import pathlib
import re
import resource
import shutil
import socket

from conftest import MODEL, quick_file, run

CHECKS = ["processor", "memory", "model", "disk", "io_uring", "port", "limits", "PDF"]


def findings(*args, code=None, **kw):
    p = run("doctor", "-m", quick_file(), "--port", "0", "--json", *args, check=False, **kw)
    assert p.stderr == "" and (code is None or p.returncode == code), p
    found = {f["check"]: f for f in json.loads(p.stdout)}
    assert p.returncode == (1 if any(f["state"] == "fail" for f in found.values()) else 0)
    return found


def test_it_says_what_each_check_found():
    found = findings(code=0)
    assert list(found) == CHECKS and all(set(f) == {"check", "state", "detail", "fix"} and f["detail"] for f in found.values())
    assert MODEL.name in found["model"]["detail"] and found["PDF"]["state"] == "ok"
    level = json.loads(run("version", "--json").stdout)["cpu"]
    assert level in found["processor"]["detail"]
    out = run("doctor", "-m", quick_file(), "--port", "0").stdout
    assert re.search(r"^\d of 8 checks passed\.$", out, re.M) and "\x1b" not in out


def test_a_port_that_is_taken_fails():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        s.listen()
        port = s.getsockname()[1]
        p = run("doctor", "-m", quick_file(), "--port", port, check=False)
        assert p.returncode == 1 and re.search(rf"fail +port +127.0.0.1:{port} Address already in use\n +sparing serve --port {port + 1}\n", p.stdout), p
    assert "no.such.name.invalid" in findings("--host", "no.such.name.invalid", code=1)["port"]["detail"]


def test_models_that_do_not_run(tmp_path):
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(MODEL.read_bytes()[:5000])
    found = findings("-m", bad, code=1)
    assert found["model"]["state"] == "fail" and "bad.gguf" in found["model"]["detail"]
    (tmp_path / "none").mkdir()
    p = run("doctor", "--models-dir", tmp_path / "none", "--port", "0", "--json", check=False)
    model = next(f for f in json.loads(p.stdout) if f["check"] == "model")
    assert p.returncode == 0 and model["state"] == "warn" and "sparing pull" in model["fix"]
    found = findings("--kv-bytes", "9000G", code=1)
    assert found["model"]["state"] == "fail" and "kv-bytes" in found["model"]["detail"]


def test_the_page_cache(tmp_path):
    folder = tmp_path / "pages/below"
    assert findings("--cache-dir", folder, "--cache-bytes", "1M")["page cache"]["state"] == "ok" and not folder.parent.exists()
    found = findings("--cache-dir", folder, "--cache-bytes", "900T")["page cache"]
    assert found["state"] == "warn" and re.fullmatch(r"--cache-bytes \d+M", found["fix"])
    (tmp_path / "file").touch()
    free = shutil.disk_usage(tmp_path).free
    assert findings("--cache-dir", tmp_path / "file/x", "--cache-bytes", "1M")["page cache"]["state"] == "ok" and free > 0


def test_without_the_reader_of_pdf_files(tmp_path):
    found = findings(env={"PATH": str(tmp_path)})
    assert found["PDF"]["state"] == "warn" and "poppler-utils" in found["PDF"]["fix"]
    tool = tmp_path / "pdftotext"
    tool.touch(0o755)
    assert findings(env={"PATH": f"/nowhere:{tmp_path}"})["PDF"]["state"] == "ok"


def test_open_files():
    hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    want = 100000
    found = findings("--max-conn", want)["limits"]
    assert (found["state"] == "ok") == (hard == resource.RLIM_INFINITY or hard >= want + 64)
    assert str(want + 64) in found["detail"] and (found["state"] == "ok" or f"ulimit -n {want + 64}" in found["fix"])


def test_it_makes_nothing(tmp_path):
    p = run("doctor", "--port", "0", cwd=tmp_path, check=False, env={"XDG_DATA_HOME": str(tmp_path / "d"), "HOME": str(tmp_path)})
    assert "checks passed" in p.stdout and list(tmp_path.iterdir()) == [] and pathlib.Path(os.devnull).exists()
