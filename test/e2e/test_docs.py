"""What the docs cite is there, and the script that says so sees what is not."""
import re
import subprocess

import pytest

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


# --- what people expect ----------------------------------------------------------------------------

def rows(page):
    """Rows of the last table that is about what is expected: their cells."""
    text = (ROOT / "docs" / page).read_text()
    table = next(t for t in re.findall(r"(?:^\|.*\n)+", text, re.M) if "shown by" in t)
    return [[c.strip() for c in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()[2:]]


@pytest.mark.parametrize("page, column", [("CHAT.md", 1), ("EXPECTED.md", 2)])
def test_what_is_expected_is_there_and_shown(page, column):
    """25 rows, at most three of them partly; each has a test that is there, or a script."""
    defined = set(re.findall(r"^def (test_\w+)", "\n".join(f.read_text() for f in (ROOT / "test/e2e").glob("test_*.py")), re.M))
    table = rows(page)
    assert len(table) == 25
    said = [re.match(r"yes\b|partly: .{20}", r[column]) for r in table]
    assert all(said) and sum(m.group().startswith("partly") for m in said) <= 3, table
    for r in table:
        named = re.findall(r"`(test_\w+)`", r[-1])
        assert set(named) <= defined, (r[0], set(named) - defined)
        assert named or re.search(r"`((?:scripts|bench)/\w+)", r[-1]) and (ROOT / re.search(r"`((?:scripts|bench)/\w+)", r[-1]).group(1)).is_file(), r


def test_expectations_are_of_five_parts():
    parts = [r[0] for r in rows("EXPECTED.md")]
    assert parts == [p for p in ("install", "models", "page", "terminal", "docs") for _ in range(5)]
