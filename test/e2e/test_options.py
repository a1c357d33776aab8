"""The tables of commands and options, and all that is made from them."""
import json
import os
import platform
import pty
import re
import select
import shlex
import subprocess
import time

import pytest

from conftest import BIN, PATIENCE, ROOT, run

REFERENCE = run("--print", "reference").stdout
COMMANDS = re.findall(r"^\| `(\w+)` \|", REFERENCE, re.M)
EXAMPLES = REFERENCE.split("```sh\n")[1].split("```")[0].splitlines()


def refused(code, *args, **kw):
    p = run(*args, check=False, **kw)
    assert p.returncode == code and p.stdout == "", (args, p)
    assert p.stderr.startswith("error: ") and len(p.stderr.splitlines()) <= 4 and "usage" not in p.stderr
    return p.stderr


@pytest.mark.parametrize("args, says", [
    (["srve"], "no command 'srve'. Did you mean serve?"),
    (["colections"], "Did you mean collections?"),
    (["nonsense"], "no command 'nonsense'; see sparing --help"),
    (["serve", "--prot", "9000"], "serve has no option --prot. Did you mean --port?"),
    (["run", "--port", "1", "x"], "run has no option --port, other commands have it"),
    (["run", "-z", "x"], "run has no option -z"),
    (["serve", "--kv-type", "q88"], "--kv-type q88: must be one of q8, q4, fp8, f16, bf16, f32. Did you mean q8?"),
    (["serve", "--log-level", "WARNN"], "Did you mean warn?"),
    (["serve", "--schedule=lifo"], "--schedule lifo: must be one of work, fcfs"),
    (["serve", "--drafters", "lookup,haed"], "must be one of lookup, prediction, earlier, model, head, mtp. Did you mean head?"),
    (["serve", "--port", "99999"], "--port 99999: must be an integer from 0 to 65535"),
    (["serve", "--memory", "8Q"], "--memory 8Q: must be a size such as 512M"),
    (["run", "--temperature"], "option --temperature needs a value"),
    (["serve", "--reuse=maybe"], "--reuse maybe: must be true or false"),
    (["serve", "--cold-after", "5"], "--cold-after has no effect without --s3"),
    (["serve", "--history", "h" * 701], ": a path of 701 bytes; at most 700 are taken"),
    (["serve", "-m", "a.gguf," + "m" * 800], ": a path of 800 bytes; at most 700 are taken"),
    (["serve", "one", "two"], "unexpected argument 'one'"),
])
def test_what_is_wrong_in_a_call(args, says):
    assert says in refused(2, *args)


@pytest.mark.parametrize("text, says", [
    ("port: 1\nkv_type: q3\n", ":2: kv_type: q3: must be one of q8, q4, fp8, f16, bf16, f32"),
    ("# a\n\nprot: 1\n", ":3: there is no key prot. Did you mean port?"),
    ("port: 1\nport: 2\n", ":2: port stands in line 1 already"),
    ("port: many\n", ":1: port: many: must be an integer from 0 to 65535"),
    ("port:\n", ":1: port has no value"),
    ("port: [1, 2]\n", ":1: port: must be one text or number"),
    ("model: [a, [b]]\n", ":1: model: an entry of a list must be a text"),
    ("- port\n", ":1: must be lines of `key: value`"),
    ("host: a\nport: {x\n", ":"),
    ("cache_io: uring\n", ":1: cache_io has no effect without cache_dir"),
    (f"cache_dir: {'d' * 2000}\n", "a path of 2000 bytes"),
    ("port: 1\n---\nport: 2\n", ":2: a second document begins"),
    ("port: &a 1\nchunk: *a\n", ":2: chunk: must be one text or number"),
    ("#" * (1 << 20) + "\nport: 1\n", "longer than 1 MiB"),
])
def test_what_is_wrong_in_a_file(tmp_path, text, says):
    f = tmp_path / "s.yaml"
    f.write_text(text)
    said = refused(3, "--parse", "serve", "--config", f)
    assert "s.yaml" in said and says in said


def test_a_file_that_is_right(tmp_path):
    f = tmp_path / "sparing.yaml"
    for text in ("", "# nothing\n", "port: 1\nmodel: [a.gguf, b.gguf]\nsystem: \"\"\n"):
        f.write_text(text)
        run("--parse", "serve", cwd=tmp_path)
    assert "model: a.gguf,b.gguf\n" in run("config", cwd=tmp_path).stdout
    assert refused(3, "config", "--config", tmp_path / "none.yaml")


def test_the_file_of_the_user(tmp_path):
    home, work = tmp_path / "home", tmp_path / "work"
    (home / ".config/sparing").mkdir(parents=True)
    (home / "x/sparing").mkdir(parents=True)
    work.mkdir()
    (home / ".config/sparing/sparing.yaml").write_text("port: 1\n")
    env = {"HOME": str(home), "XDG_CONFIG_HOME": ""}
    port = lambda **more: json.loads(run("config", "--json", cwd=work, env={**env, **more}).stdout)["port"]  # noqa: E731
    assert port() == {"value": "1", "origin": "file"}
    assert port(XDG_CONFIG_HOME=str(home / "x"))["origin"] == "default"
    (home / "x/sparing/sparing.yaml").write_text("port: 2\n")
    assert port(XDG_CONFIG_HOME=str(home / "x"))["value"] == "2"
    (work / "sparing.yaml").write_text("port: 3\n")
    assert port(XDG_CONFIG_HOME=str(home / "x"))["value"] == "3"
    (work / "sparing.yaml").unlink()
    (home / ".config/sparing/sparing.yaml").write_text("prot: 1\n")
    assert "/.config/sparing/sparing.yaml:1: there is no key prot" in refused(3, "config", cwd=work, env=env)


def test_what_is_wrong_in_a_variable():
    said = refused(3, "--parse", "serve", env={"SPARING_KV_TYPE": "q33"})
    assert "SPARING_KV_TYPE=q33: must be one of q8, q4, fp8, f16, bf16, f32" in said


@pytest.mark.parametrize("line", EXAMPLES)
def test_documented_examples_parse(line, tmp_path):
    words = shlex.split(line, comments=True)
    if "|" in words:
        words = words[len(words) - words[::-1].index("|"):]
    assert words[0] == "sparing"
    (tmp_path / "sparing.yaml").touch()
    run("--parse", *words[1:], cwd=tmp_path)


def test_every_line_of_the_example_file_parses(tmp_path):
    text = run("--print", "yaml").stdout
    f = tmp_path / "s.yaml"
    f.write_text(text)
    run("--parse", "serve", "--config", f)
    f.write_text(on := re.sub(r"^#(\w)", r"\1", text, flags=re.M))
    run("--parse", "serve", "--config", f)
    keys = re.findall(r"^(\w+):", on, re.M)
    assert len(keys) == len(set(keys)) > 60


@pytest.mark.parametrize("width", [40, 80, 200])
def test_each_command_stands_once_under_a_heading(width):
    names = re.findall(r"^  (\S+)\s", run("--help", env={"COLUMNS": str(width)}).stdout, re.M)
    assert sorted(names) == sorted(re.findall(r"^\| `([a-z][\w-]*)` \|", REFERENCE, re.M)) and len(names) > 25


def test_reference_page_is_fresh():
    if platform.machine() != "x86_64":
        pytest.skip("the page names the levels of x86-64")
    assert (ROOT / "docs/OPTIONS.md").read_text() == REFERENCE, "build/release/sparing --print reference > docs/OPTIONS.md"


@pytest.mark.parametrize("width", [40, 80, 120])
@pytest.mark.parametrize("command", COMMANDS)
def test_help_in_groups(command, width):
    out = run(command, "--help", env={"COLUMNS": str(width)}).stdout
    assert out.startswith(f"usage: sparing {command}") and "\nExamples:\n  " in out and "\nConfiguration:\n" in out
    body = out[out.index("\n\n", out.index("Examples:")):]
    words = [l for l in body.splitlines() if len(l) > width and " " in l.strip() and not l.lstrip().startswith("-")]
    assert not words, words


@pytest.mark.parametrize("page", ["man", "man-sparing.yaml", *(f"man-{c}" for c in COMMANDS)])
def test_man_pages_are_clean(tmp_path, page):
    f = tmp_path / f"sparing.{5 if page.endswith('yaml') else 1}"
    f.write_text(run("--print", page).stdout)
    p = subprocess.run(["mandoc", "-T", "lint", str(f)], capture_output=True, text=True)
    faults = [l for l in p.stdout.splitlines() if "referenced manual not found" not in l]
    assert not faults and subprocess.run(["mandoc", str(f)], capture_output=True).stdout


@pytest.mark.parametrize("shell", ["bash", "zsh", "fish"])
def test_completions_parse(tmp_path, shell):
    f = tmp_path / "c"
    f.write_text(run("--print", f"completion-{shell}").stdout)
    p = subprocess.run([shell, "-n", str(f)], capture_output=True, text=True)
    assert p.returncode == 0 and p.stderr == ""


def bash_completes(words):
    ask = f"""source <({BIN} --print completion-bash); sparing() {{ {BIN} "$@"; }}
        COMP_WORDS=({words}); COMP_CWORD=$((${{#COMP_WORDS[@]}} - 1)); _sparing; printf '%s\\n' "${{COMPREPLY[@]}}" """
    return subprocess.run(["bash", "-c", ask], capture_output=True, text=True, cwd=ROOT).stdout.split()


def test_bash_completes():
    assert bash_completes("sparing se") == ["serve", "search"]
    assert bash_completes("sparing serve --kv-t") == ["--kv-type"]
    assert bash_completes("sparing serve --kv-type q") == ["q8", "q4"]
    assert bash_completes("sparing run -m Smol") == ["SmolLM2-135M-Instruct.Q4_1"]
    assert "--port" not in bash_completes("sparing run --")


def test_fish_completes(tmp_path):
    ask = f"{BIN} --print completion-fish | source; complete -C 'sparing serve --kv-type q'"
    out = subprocess.run(["fish", "-c", ask], capture_output=True, text=True, env={**os.environ, "HOME": str(tmp_path)}).stdout
    assert sorted(l.split("\t")[0] for l in out.splitlines()) == ["q4", "q8"], out


def test_alone_says_what_to_do_next(tmp_path):
    assert "sparing chat" in run().stdout
    p = run(cwd=tmp_path, env={"XDG_DATA_HOME": str(tmp_path / "d")})
    assert "No model yet" in p.stdout and "sparing pull" in p.stdout and "sparing doctor" in p.stdout and list(tmp_path.iterdir()) == []
    assert "--print takes" in refused(2, "--print", "nothing")


def test_colours_of_errors_are_for_terminals_only():
    def on_terminal(**env):
        master, slave = pty.openpty()
        p = subprocess.Popen([str(BIN), "srve"], stderr=slave, stdout=subprocess.DEVNULL, env={**os.environ, "TERM": "xterm", **env})
        os.close(slave)
        assert p.wait(timeout=PATIENCE) == 2
        out, end = b"", time.monotonic() + PATIENCE
        while b"\n" not in out and time.monotonic() < end:
            if select.select([master], [], [], 1)[0]:
                out += os.read(master, 4096)
        os.close(master)
        return out

    assert b"\x1b[1;31merror:\x1b[0m" in on_terminal()
    assert b"\x1b" not in on_terminal(NO_COLOR="1") and b"\x1b" not in on_terminal(TERM="dumb")


def test_a_profile_sets_what_nobody_else_does(tmp_path, monkeypatch):
    monkeypatch.delenv("SPARING_THREADS")
    said = run("config", "--profile", "edge", "--origin", env={"SPARING_MAX_RUN": "2"}).stdout
    for line in ("encoder: none  # profile", "threads: -1  # profile", "path: light  # profile", "draft: 15  # profile", "max-run: 2  # environment", "profile: edge  # flag"):
        assert f"{line}\n" in said
    assert "profile" not in run("config", "--origin").stdout.replace("profile:   # unset", "")
    f = tmp_path / "s.yaml"
    f.write_text("profile: edge\npath: full\n")
    of_file = json.loads(run("config", "--json", "--config", f).stdout)
    assert of_file["path"] == {"value": "full", "origin": "file"} and of_file["chunk"] == {"value": "128", "origin": "profile"}
    assert "Did you mean edge?" in refused(2, "--parse", "serve", "--profile", "egde")


def test_a_server_of_the_profile_edge(make_server):
    s = make_server("--profile", "edge")
    r = s.chat("Say hello.").json()
    assert r["usage"]["sparing"]["path"] == "light"
    assert [m["id"] for m in s.http.get("/v1/models").json()["data"]] == ["SmolLM2-135M-Instruct.Q4_1"]  # and no encoder
    assert s.http.post("/v1/embeddings", json={"model": "x", "input": "a"}).status_code >= 400
