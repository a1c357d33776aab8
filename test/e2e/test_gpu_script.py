"""scripts/gpu without a GPU: what it would take, and that steps which fail leave their lines."""
import json
import os
import subprocess

from conftest import BIN, ROOT

SCRIPT = [str(ROOT / "scripts/gpu")]


def test_all_steps_fit_into_six_minutes():
    out = subprocess.run([*SCRIPT, "plan"], capture_output=True, text=True, check=True).stdout.splitlines()
    limits = [int(line.split()[1]) for line in out[:-1]]
    assert out[-1] == f"seconds at most: {sum(limits) + 3 * len(limits)}" and int(out[-1].split()[-1]) <= 360


def test_steps_that_fail_leave_a_line_each(tmp_path):
    (tmp_path / "no-library.so").write_text("nothing")
    env = os.environ | {"SPARING_BUILD": str(BIN.parent), "SPARING_CUDA_LIBRARY": str(tmp_path / "no-library.so"), "PYTHON": "false"}
    subprocess.run([*SCRIPT, "run", str(tmp_path / "out")], env=env, check=True, stdout=subprocess.DEVNULL, timeout=300)
    rows = [json.loads(line) for line in (tmp_path / "out/results.jsonl").read_text().splitlines()]
    steps = {r["step"]: r["status"] for r in rows if "step" in r}
    assert list(steps) == ["machine", "operators", "again", "peaks", "logits", "speed", "tokens"]
    assert all(steps[name] not in (0, 124, 137) for name in ("operators", "again", "logits", "speed", "tokens")), steps
    assert "no library" in (tmp_path / "out/tokens.err").read_text()


def test_no_library_is_no_run(tmp_path):
    env = os.environ | {"SPARING_CUDA_LIBRARY": str(tmp_path / "none.so")}
    p = subprocess.run([*SCRIPT, "run", str(tmp_path / "out")], env=env, capture_output=True, text=True)
    assert p.returncode == 1 and "no library" in p.stderr and not (tmp_path / "out").exists()
