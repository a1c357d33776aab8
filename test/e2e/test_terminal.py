"""`run` and `chat` as a person and a script use them."""
import base64
import fcntl
import json
import os
import pty
import re
import signal
import stat
import subprocess
import termios
import threading

import pytest

from conftest import BIN, PATIENCE, ROOT, quick_file, run


def model():
    return ["-m", quick_file()]


def prompt_of(*args, **kw):
    """Tokens of the prompt and the answer's text, as --json says them."""
    j = json.loads(run("run", *model(), "--json", "-n", 4, *args, **kw).stdout)
    return j["usage"]["prompt_tokens"], j


# --- run ---------------------------------------------------------------------------------------

def test_question_and_stdin_are_joined(tmp_path):
    joined = run("run", *model(), "-n", 8, "Say this:\n\nsome words\n").stdout
    assert run("run", *model(), "-n", 8, "Say this:", stdin="some words\n").stdout == joined
    assert run("run", *model(), "-n", 8, stdin="Say this:\n\nsome words\n").stdout == joined
    short, long = prompt_of("Say this:")[0], prompt_of("Say this:", stdin="many words " * 50)[0]
    assert long > short + 90


def test_files_come_with_their_names(tmp_path):
    a, b = tmp_path / "a.txt", tmp_path / "b.txt"
    a.write_text("alpha")
    b.write_text("beta")
    want = run("run", *model(), "-n", 8, "Say:\n\na.txt:\nalpha\n\nb.txt:\nbeta").stdout
    assert run("run", *model(), "-n", 8, "Say:", "-f", a, "-f", b).stdout == want
    assert run("run", *model(), "-n", 8, "Say:", "-f", f"{a},{b}").stdout == want
    p = run("run", *model(), "Say:", "-f", tmp_path / "none.txt", check=False)
    assert p.returncode == 1 and "none.txt" in p.stderr
    a.write_bytes(b"PK\0\1")
    p = run("run", *model(), "Say:", "-f", a, check=False)
    assert p.returncode == 1 and "a.txt: is no text; `sparing ingest` reads documents" in p.stderr


def test_json_is_one_object_and_errors_too():
    n, j = prompt_of("Hi")
    assert j["finish_reason"] == "length" and j["usage"] == {"prompt_tokens": n, "completion_tokens": 4}
    assert "sources" not in j and j["receipt"]["decode"]["tokens"] == 4
    p = run("run", "--json", check=False)
    assert p.returncode == 2 and json.loads(p.stderr)["error"]["code"] == "invalid" and p.stdout == ""
    p = run("run", "--json", "-m", "none.gguf", "Hi", check=False)
    assert p.returncode == 4 and "none.gguf" in json.loads(p.stderr)["error"]["message"]


def test_nothing_but_the_answer_without_a_terminal():
    p = run("run", *model(), "Hi", "-n", 4)
    assert p.stderr == "" and "\x1b" not in p.stdout


@pytest.fixture(scope="module")
def documents(tmp_path_factory):
    folder = tmp_path_factory.mktemp("documents")
    (folder / "in").mkdir()
    (folder / "in/warranty.md").write_text("# Warranty\n\nThe warranty of the toaster lasts seven years and covers the heating wires.\n")
    run("ingest", folder / "in", "--collection", "handbook", "--knowledge", folder / "k.db")
    return folder / "k.db"


def test_retrieve_names_its_sources(documents):
    look = ["--knowledge", documents, "--retrieve", "handbook"]
    plain, _ = prompt_of("How long is the warranty of the toaster?")
    n, j = prompt_of("How long is the warranty of the toaster?", *look)
    assert n > plain and j["sources"][0]["file"].endswith("warranty.md") and "Warranty" in j["sources"][0]["place"]
    p = run("run", *model(), "-n", 4, "How long is the warranty of the toaster?", *look)
    assert "Sources:" in p.stderr and p.stderr.count("warranty.md") == 1
    p = run("run", *model(), "-n", 4, "-q", "How long is the warranty of the toaster?", *look)
    assert p.stderr == ""
    n, j = prompt_of("zzqx", *look)
    assert j["sources"] == []
    assert "Nothing was found" in run("run", *model(), "-n", 4, "zzqx", *look).stderr


def test_a_place_is_named_once(tmp_path):
    """Several passages of one document may stand at one place."""
    (tmp_path / "rivers.md").write_text("# Rivers\n\n" + "\n\n".join(f"In year {i} the river was high in April. " + "It rose when the snow melted in the hills. " * 12 for i in range(12)))
    run("ingest", tmp_path / "rivers.md", "--collection", "water", "--knowledge", tmp_path / "k.db")
    look = [*model(), "-n", 4, "When is the river high?", "--knowledge", tmp_path / "k.db", "--retrieve", "water"]
    assert len(json.loads(run("run", *look, "--json").stdout)["sources"]) > 1
    assert run("run", *look).stderr.count("rivers.md") == 1


def test_retrieve_without_documents(documents, tmp_path):
    p = run("run", *model(), "Hi", "--retrieve", "x", "--knowledge", tmp_path / "none.db", check=False)
    assert p.returncode == 1 and "none.db: there is no such file; `sparing ingest` makes one" in p.stderr
    assert list(tmp_path.iterdir()) == []
    p = run("run", *model(), "Hi", "--retrieve", "nowhere", "--knowledge", documents, check=False)
    assert p.returncode == 1 and "nowhere" in p.stderr


def test_reading_commands_make_nothing(tmp_path):
    for args in (["search", "x"], ["collections"], ["graph", "x"], ["graph", "export", "f.nt"]):
        p = run(*args, cwd=tmp_path, check=False)
        assert p.returncode == 1 and "knowledge.db: there is no such file" in p.stderr, (args, p)
    for args in ([], ["models"], ["config"], ["version"], ["--help"]):
        run(*args, cwd=tmp_path, check=False, env={"XDG_DATA_HOME": str(tmp_path / "x"), "XDG_STATE_HOME": str(tmp_path / "y")})
    assert list(tmp_path.iterdir()) == []


# --- terminals ---------------------------------------------------------------------------------

class Terminal:
    """A program on a pseudo terminal; what it writes is read as it comes."""

    def __init__(self, *args, env=None, term="xterm"):
        self.master, slave = pty.openpty()
        fcntl.ioctl(self.master, termios.TIOCSWINSZ, b"\x18\0\x64\0\0\0\0\0")
        self.proc = subprocess.Popen([str(BIN), *map(str, args)], stdin=slave, stdout=slave, stderr=slave, cwd=ROOT, start_new_session=True,
                                     env={**os.environ, "TERM": term, **(env or {})}, preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0))
        os.close(slave)
        self.seen = b""
        self.alarm = threading.Timer(PATIENCE, self.proc.kill)
        self.alarm.start()

    def wait_for(self, text):
        text = text.encode()
        while text not in self.seen:
            try:
                self.seen += os.read(self.master, 4096)
            except OSError:
                raise AssertionError(f"ended without {text}: {self.seen}") from None
        at = self.seen.index(text) + len(text)
        before, self.seen = self.seen[:at], self.seen[at:]
        return before.decode(errors="replace")

    def wait_for_words(self):
        """Something that is no space, which stays to be seen."""
        while not self.seen.strip():
            try:
                self.seen += os.read(self.master, 4096)
            except OSError:
                raise AssertionError("ended without a word") from None

    def type(self, text):
        os.write(self.master, text.encode())

    def end(self):
        """What it writes up to its end, and the exit code."""
        out = self.seen
        while True:
            try:
                got = os.read(self.master, 4096)
            except OSError:
                break
            if not got:
                break
            out += got
        code = self.proc.wait(timeout=PATIENCE)
        self.alarm.cancel()
        os.close(self.master)
        return out.decode(errors="replace"), code


@pytest.fixture
def chat(tmp_path):
    made = []

    def make(*args, n=6, **kw):
        made.append(Terminal("chat", *model(), "-n", n, *args, env={"XDG_STATE_HOME": str(tmp_path / "state")}, **kw))
        made[-1].wait_for("/help for commands")
        made[-1].wait_for("> ")
        return made[-1]

    yield make
    for t in made:
        if t.proc.poll() is None:
            t.proc.kill()
            t.end()


def test_run_on_a_terminal_shows_figures_and_no_colours_where_none_are_wanted():
    out, code = Terminal("run", *model(), "Hi", "-n", 4).end()
    assert code == 0 and "tokens/s" in out and "\x1b[2m" in out
    out, code = Terminal("run", *model(), "Hi", "-n", 4, env={"NO_COLOR": "1"}).end()
    assert code == 0 and "tokens/s" in out and "\x1b[2m" not in out
    out, code = Terminal("run", *model(), "Hi", "-n", 4, "-q").end()
    assert code == 0 and "tokens/s" not in out and "\x1b" not in out
    out, code = Terminal("run", *model(), "Hi", "-n", 4, term="dumb").end()
    assert code == 0 and "\x1b" not in out


def test_color_says_when():
    """For errors here: auto follows the terminal and NO_COLOR, the option goes before both."""
    ask = lambda *args, **kw: Terminal("run", "-q", "-m", "none.gguf", "Hi", *args, **kw).end()[0]  # noqa: E731
    assert "\x1b[1;31merror:" in ask() and "\x1b" not in ask("--color", "never") and "\x1b" not in ask(term="dumb")
    assert "\x1b[1;31merror:" in ask("--color", "always", env={"NO_COLOR": "1"})
    piped = lambda *args, **env: run("run", "-m", "none.gguf", "Hi", *args, check=False, env=env).stderr  # noqa: E731
    assert piped().startswith("error:") and piped("--color=always").startswith("\x1b[1;31merror:")
    assert piped(CLICOLOR_FORCE="1").startswith("\x1b[1;31merror:") and piped(CLICOLOR_FORCE="1", NO_COLOR="1").startswith("error:")
    assert piped("--color=never", CLICOLOR_FORCE="1").startswith("error:")
    assert "must be one of auto, always, never" in piped("--color=alway")


def test_ingest_shows_progress_unless_it_is_quiet(tmp_path):
    (tmp_path / "a.md").write_text("A heron.\n")
    out, code = Terminal("ingest", tmp_path / "a.md", "--knowledge", tmp_path / "k.db").end()
    assert code == 0 and "documents  [#" in out and "1 added" in out
    out, code = Terminal("ingest", tmp_path / "a.md", "--knowledge", tmp_path / "k.db", "--quiet").end()
    assert code == 0 and "[#" not in out and "1 unchanged" in out


def test_loading_says_how_far_it_is():
    """At least once, and the line is wiped behind the last matrix; a pipe gets none of it."""
    out, code = Terminal("run", *model(), "Hi", "-n", 2).end()
    told = [int(x) for x in re.findall(r"Loading \S+, (\d+) %", out)]
    assert code == 0 and told and told == sorted(told) and max(told) <= 100, out
    assert "\r\x1b[K" in out[out.rindex(" %"):]
    out, code = Terminal("run", *model(), "Hi", "-n", 2, "-q").end()
    assert code == 0 and "Loading" not in out
    assert "Loading" not in run("run", *model(), "Hi", "-n", 2).stderr


def test_ctrl_c_ends_run_with_130():
    p = subprocess.Popen([str(BIN), "run", *model(), "Write a long story.", "-n", "4000", "-c", "8192"], stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, cwd=ROOT)
    assert p.stdout.read(5)
    p.send_signal(signal.SIGINT)
    assert p.stdout.read().endswith(b"\n")
    assert p.wait(timeout=PATIENCE) == 130


def test_history_is_private_and_comes_back(chat, tmp_path):
    t = chat()
    t.type("First question\r")
    t.wait_for("tokens/s")
    t.wait_for("> ")
    t.type("\x1b[A")
    t.wait_for("First question")
    t.type("\x15/quit\r")
    assert t.end()[1] == 0
    kept = tmp_path / "state/sparing/history"
    assert stat.S_IMODE(kept.stat().st_mode) == 0o600 and stat.S_IMODE(kept.parent.stat().st_mode) == 0o700
    t = chat()
    t.type("\x1b[A\x1b[A")
    t.wait_for("First question")
    t.type("\x15\x04")
    assert t.end()[1] == 0


def test_no_history(chat, tmp_path):
    t = chat("--no-history")
    t.type("/quit\r")
    assert t.end()[1] == 0 and not (tmp_path / "state").exists()


def test_ctrl_c_gives_the_line_up_and_stops_an_answer(chat):
    t = chat(n=4000)
    t.type("half a line\x03")
    t.type("/system\r")
    t.wait_for("There is no system message.")
    t.wait_for("> ")
    t.type("A long story, please.\r")
    t.wait_for("please.")
    t.wait_for("\n")
    t.wait_for_words()
    t.type("\x03")  # should the answer be over already, it finds the prompt
    t.wait_for("tokens/s")
    t.wait_for("> ")
    t.type("\x04")
    assert t.end()[1] == 0


def test_tab_completes_commands(chat):
    t = chat()
    t.type("/rec\t")
    t.wait_for("eipt")
    t.type("\r")
    t.wait_for("there is no answer yet")
    t.type("/quit\r")
    assert t.end()[1] == 0


def test_copy_gives_the_answer_to_the_terminal(chat, tmp_path):
    """Its bytes, in the sequence of OSC 52; where there is no terminal it is said, and nothing is written."""
    t = chat()
    t.type("/copy\r")
    t.wait_for("there is no answer yet")
    t.wait_for("> ")
    t.type("Hi\r")
    t.wait_for("tokens/s")
    t.wait_for("> ")
    t.type("/copy\r")
    t.wait_for("\x1b]52;c;")
    copied = base64.b64decode(t.wait_for("\x07")[:-1], validate=True).decode()
    answered = talk(tmp_path, "Hi")[0]
    assert copied == "\n".join(answered) and copied
    t.wait_for(f"{len(copied.encode())} bytes went to the terminal")
    t.type("/quit\r")
    assert t.end()[1] == 0
    out, err = talk(tmp_path, "Hi", "/copy")
    assert out == answered and "this is no terminal that has a clipboard" in err and "\x1b" not in err


def test_unknown_commands_never_reach_the_model(chat):
    t = chat()
    t.type("/sytem Be brief\r")
    t.wait_for("there is no command /sytem. Did you mean /system?")
    t.type("/nothing\r")
    t.wait_for("see /help")
    t.type("/undo\r")
    t.wait_for("there is no answer yet")
    t.type("/help\r")
    said = t.wait_for("/quit")
    assert all(c in said for c in ("/new", "/system", "/save", "/load", "/model", "/files", "/retrieve", "/undo", "/again", "/copy", "/receipt"))
    t.type("/quit\r")
    assert t.end()[1] == 0


# --- commands over a pipe, where every answer is the greedy one ---------------------------------

def talk(tmp_path, *lines, n=6, code=0):
    p = run("chat", *model(), "-n", n, stdin="\n".join(lines) + "\n", check=False, env={"XDG_STATE_HOME": str(tmp_path)})
    assert p.returncode == code, p
    return p.stdout.splitlines(), p.stderr


def test_new_and_undo_take_the_talk_back(tmp_path):
    hi, _ = talk(tmp_path, "Hi")
    assert talk(tmp_path, "Hello there", "/new", "Hi")[0][-len(hi):] == hi
    assert talk(tmp_path, "Hello there", "/undo", "Hi")[0][-len(hi):] == hi
    assert talk(tmp_path, "Hi", "/again")[0] == hi + hi


def test_system(tmp_path):
    asked = run("run", *model(), "-n", 6, "-s", "You are a cat.", "Hi").stdout.splitlines()
    out, err = talk(tmp_path, "/system You are a cat.", "Hi", "/system", "/system -", "/system", "/new", "Hi")
    assert out[:len(asked)] == asked and "You are a cat." in err and "There is no system message." in err
    assert out[len(asked):] == talk(tmp_path, "Hi")[0]


def test_several_lines(tmp_path):
    asked = run("run", *model(), "-n", 6, "one\ntwo").stdout.splitlines()
    assert talk(tmp_path, '"""one', 'two"""')[0] == asked
    assert talk(tmp_path, "one\\", "two")[0] == asked


def test_save_and_load(tmp_path):
    talk(tmp_path, "/system You are a cat.", "Hi", "/save first")
    f = tmp_path / "sparing/chats/first.json"
    saved = json.loads(f.read_text())
    assert [m["role"] for m in saved["messages"]] == ["system", "user", "assistant"] and stat.S_IMODE(f.stat().st_mode) == 0o600
    whole, _ = talk(tmp_path, "/system You are a cat.", "Hi", "And you?")
    loaded, err = talk(tmp_path, "Something else", "/load first", "And you?")
    assert "3 messages" in err and loaded[-1] == whole[-1]
    for name in ("../x", "", ".x", "a/b"):
        assert "a name has 1 to 100" in talk(tmp_path, f"/save {name}")[1]
    f.write_text('{"sparing_chat": 2, "messages": []}')
    assert "no conversation of this version" in talk(tmp_path, "/load first")[1]
    for text, says in (("{", "first.json:1:"), ('{"sparing_chat": 1, "messages": [{"role": "tool", "content": "x"}]}', "message 1 is none"),
                       ('{"sparing_chat": 1}', "no list of at most")):
        f.write_text(text)
        out, err = talk(tmp_path, "Hi", "/load first", "/again")
        assert says in err and len(out) == 2 * len(talk(tmp_path, "Hi")[0])  # the talk goes on as it was


def test_files_model_and_receipt(tmp_path, quick_model):
    f = tmp_path / "a.txt"
    f.write_text("alpha")
    asked = run("run", *model(), "-n", 6, "Say:", "-f", f).stdout.splitlines()
    out, err = talk(tmp_path, f"/files {f}", "Say:", "/receipt json", "/receipt", "/receipt x", "/model")
    assert out == asked and json.loads(err.splitlines()[1])["decode"]["tokens"] == 6
    assert err.splitlines()[2:8] == run("explain", stdin=err.splitlines()[1]).stdout.splitlines() and "say json" in err.splitlines()[8]
    assert err.splitlines()[-1] == "SmolLM2-135M-Instruct.Q4_1"
    out, err = talk(tmp_path, "/model none.gguf", "Hi", f"/model {quick_model}", "/model")
    assert "none.gguf" in err and err.splitlines()[-1] == "quick" and out


def test_retrieve_in_a_chat(tmp_path, documents):
    p = run("chat", *model(), "-n", 6, "--knowledge", documents, stdin="/retrieve handbook\nHow long is the warranty of the toaster?\n/receipt\n/retrieve\n/retrieve nowhere\n")
    assert "Answers look into handbook." in p.stderr and "look into no documents" in p.stderr and "nowhere" in p.stderr


def test_a_question_that_fails_ends_a_pipe(tmp_path):
    out, err = talk(tmp_path, "word " * 20000, "Hi", code=1)
    assert err.startswith("error: ")
