"""What the docs cite is there, and the script that says so sees what is not."""
import subprocess

from conftest import ROOT


def check(*files):
    return subprocess.run([str(ROOT / "scripts/check-cited"), *map(str, files)], capture_output=True, text=True, cwd=ROOT)


def test_what_the_docs_cite_is_there():
    p = check()
    assert p.returncode == 0, p.stdout


def test_what_is_not_there_is_seen(tmp_path):
    f = tmp_path / "a.md"
    f.write_text("`src/kv/pool.c` and `pool.c`\n`publish` in `src/kv/pool.c`, `sp_opts_parse`\n```\n`src/none.c`\n```\n")
    assert check(f).returncode == 0
    bad = {"`src/kv/none.c`": "no file src/kv/none.c", "`none_at_all.c`": "no file none_at_all.c", "`no_such_thing` in `src/kv/pool.c`": "src/kv/pool.c has no no_such_thing",
           "`sp_no_such_thing`": "no sp_no_such_thing", "[x](none.md)": "the link none.md leads nowhere", "`test/none/*.c`": "no file test/none/*.c"}
    f.write_text("\n".join(bad))
    p = check(f)
    assert p.returncode == 1 and len(p.stdout.splitlines()) == len(bad)
    assert all(f"{f}:{i}: " in p.stdout and says in p.stdout for i, says in enumerate(bad.values(), 1)), p.stdout
