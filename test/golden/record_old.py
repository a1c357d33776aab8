"""Records files as an early build of 0.1.0 wrote them, for test/e2e/test_upgrade.py: `record_old.py SPARING`, a program built from 941aa42
(25 November 2026): git archive 941aa42 | tar -x -C DIR, cmake --preset release, cmake --build --preset release --target sparing; its
libmicrohttpd-dev is no longer among scripts/setup's packages.

The model is the first two layers of SmolLM2 135M, made by that tree's successor test/e2e/ggufs.py; the old program wrote all else."""
import pathlib
import re
import shutil
import sqlite3
import subprocess
import sys
import tempfile

import httpx

ROOT = pathlib.Path(__file__).resolve().parents[2]
sys.path.insert(0, str(ROOT / "test/e2e"))
from ggufs import first_layers  # noqa: E402

OUT = ROOT / "test/golden/data/old"
MODEL = ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
LONG = (ROOT / "test/data/licences.txt").read_text()[:500]


def main(program):
    shutil.rmtree(OUT, ignore_errors=True)
    OUT.mkdir(parents=True)
    tmp = pathlib.Path(tempfile.mkdtemp())
    model = first_layers(MODEL, tmp / MODEL.name, 2)
    run = lambda *args: subprocess.run([program, *map(str, args)], cwd=ROOT, check=True)  # noqa: E731
    (tmp / "papers").mkdir()
    (tmp / "papers/river.md").write_text("# The river\n\nThe river is high in April, when the snow melts.\n")
    (tmp / "papers/bread.txt").write_text("Bread needs flour, water, salt and time.\n")
    run("ingest", tmp / "papers", "--knowledge", OUT / "knowledge.db", "--collection", "papers")
    run("graph", "add", "river", "flows into", "sea", "--knowledge", OUT / "knowledge.db", "--collection", "papers")
    s = subprocess.Popen([program, "serve", "-m", str(model), "--port", "0", "--history", str(OUT / "history.db"), "--cache-dir", str(tmp / "pages")],
                         cwd=ROOT, stderr=subprocess.PIPE, text=True)
    port = next(m.group(1) for line in s.stderr if (m := re.search(r"on http://[^:]+:(\d+)", line)))
    http = httpx.Client(base_url=f"http://127.0.0.1:{port}", timeout=600)
    conv = http.post("/v1/conversations", json={"metadata": {"topic": "rivers"}}).raise_for_status().json()["id"]
    for text in (LONG, "And the rain?"):
        http.post("/v1/chat/completions", json={"conversation": conv, "messages": [{"role": "user", "content": text}], "max_tokens": 8,
                                                "temperature": 0}).raise_for_status()
    s.terminate()
    s.communicate()
    run("cache", "export", OUT / "pages.export", "--cache-dir", tmp / "pages")
    for f in sorted(OUT.glob("*.db")):  # one file each, nothing left in a log
        db = sqlite3.connect(f)
        db.execute("PRAGMA journal_mode=DELETE")
        db.execute("VACUUM")
        db.close()
    shutil.copytree(tmp / "pages", OUT / "pages")
    shutil.rmtree(tmp)
    print(conv, *sorted(f"{f.relative_to(OUT)} {f.stat().st_size}" for f in OUT.rglob("*") if f.is_file()), sep="\n")


main(sys.argv[1])
