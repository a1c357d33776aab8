"""docs/MODELS.md and the table of docs/FEATURES.md say what the tests prove, and every family that is read has a proof."""
import importlib.machinery
import importlib.util
import json
import subprocess
import sys

from conftest import ROOT, run

SCRIPT = ROOT / "scripts/models-table"


def module():
    loader = importlib.machinery.SourceFileLoader("models_table", str(SCRIPT))
    m = importlib.util.module_from_spec(importlib.util.spec_from_loader("models_table", loader))
    loader.exec_module(m)
    return m


def test_the_tables_are_current():
    p = subprocess.run([sys.executable, str(SCRIPT), "--check"], capture_output=True, text=True, cwd=ROOT)
    assert p.returncode == 0, p.stderr


def test_a_table_that_is_not_current_is_seen():
    m = module()
    text = (ROOT / "docs/FEATURES.md").read_text()
    assert m.features(text) == text
    assert m.features(text.replace("| `qwen3` |", "| `qwen9` |")) == text


def test_every_family_that_is_read_has_a_proof(tmp_path):
    m = module()
    found = m.proofs()
    assert [a for a in m.architectures() if not found[a]["checkpoints"]] == []
    assert set(found) == set(m.architectures())
    said = json.loads(run("models", "--json", ROOT / "test/golden/data/fam-qwen2.gguf").stdout)[0]
    assert said["arch"] in m.architectures()
