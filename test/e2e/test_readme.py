"""Every command of the README, run as it stands there; what goes over a network comes from a second network namespace where root can make one."""
import json
import os
import pathlib
import re
import shutil
import signal
import socket
import subprocess
import time

import pytest

from conftest import MODEL, ROOT, Server, run

README = (ROOT / "README.md").read_text()


def commands():
    """Lines of the README's code blocks without comments; lines that end in a backslash go on."""
    for block in re.findall(r"^```(?:sh|bash)?\n(.*?)^```", README, re.M | re.S):
        for line in block.replace("\\\n", " ").splitlines():
            if line := re.sub(r"\s+#\s.*", "", line).strip():
                yield line


# What each kind of command is run by; a command that nothing here runs fails the first test.
KINDS = {r"make run$": "make_run", r"make test$": "make_test", r"build/release/sparing run ": "ask", r"build/release/sparing key add ": "served", r"build/release/sparing serve ": "served", r"curl ": "served"}


def of_kind(kind):
    return [c for c in commands() if any(re.match(p, c) and k == kind for p, k in KINDS.items())]


def test_it_is_one_page():
    assert len(README.splitlines()) <= 60


def test_no_command_that_nobody_runs():
    assert len(list(commands())) >= 6
    assert [c for c in commands() if not any(re.match(p, c) for p in KINDS)] == []
    assert all(of_kind(k) for k in KINDS.values())


def test_make_test_is_what_runs_this():
    p = subprocess.run(["make", "-n", *of_kind("make_test")[0].split()[1:]], cwd=ROOT, capture_output=True, text=True)
    assert p.returncode == 0 and "scripts/test" in p.stdout and os.access(ROOT / "scripts/test", os.X_OK)


@pytest.mark.parametrize("command", of_kind("ask"))
def test_a_question_on_the_command_line(command):
    p = subprocess.run(command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=300)
    assert p.returncode == 0 and p.stdout.strip(), p.stderr


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def test_make_run(tmp_path):
    """Serves, asks its question, and ends by Ctrl-C."""
    port = free_port()
    p = subprocess.Popen(of_kind("make_run")[0].split(), cwd=ROOT, env={**os.environ, "SPARING_PORT": str(port)}, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True, start_new_session=True)
    seen = []
    for line in p.stdout:
        seen.append(line)
        if "Ctrl-C stops" in line:
            break
    os.killpg(p.pid, signal.SIGINT)
    p.wait(timeout=60)
    text = "".join(seen)
    assert "A: " in text and '"path"' in text and f"http://127.0.0.1:{port}/" in text, text


class Elsewhere:
    """A second network namespace, joined to this one by a cable; without root, this machine's own address."""

    def __init__(self):
        n = os.getpid() % 200 + 20
        self.space, self.here, self.there = f"sparing{os.getpid()}", f"10.203.{n}.1", f"10.203.{n}.2"
        cable = [f"sp{os.getpid() % 100000}a", f"sp{os.getpid() % 100000}b"]
        steps = [f"netns add {self.space}", f"link add {cable[0]} type veth peer name {cable[1]} netns {self.space}", f"addr add {self.here}/30 dev {cable[0]}", f"link set {cable[0]} up",
                 f"-n {self.space} addr add {self.there}/30 dev {cable[1]}", f"-n {self.space} link set {cable[1]} up"]
        ip = shutil.which("ip", path="/usr/sbin:/sbin:" + os.environ["PATH"])
        self.real = os.geteuid() == 0 and ip is not None and all(subprocess.run([ip, *s.split()], stderr=subprocess.DEVNULL).returncode == 0 for s in steps)
        self.ip = ip
        if not self.real:
            self.end()
            self.here = "127.0.0.1"

    def run(self, command):
        inside = f"{self.ip} netns exec {self.space} " if self.real else ""
        return subprocess.run(inside + command, shell=True, cwd=ROOT, capture_output=True, text=True, timeout=300)

    def end(self):
        if self.ip:
            subprocess.run([self.ip, "netns", "del", self.space], stderr=subprocess.DEVNULL)


@pytest.fixture(scope="module")
def elsewhere():
    e = Elsewhere()
    yield e
    e.end()


@pytest.fixture(scope="module")
def served(tmp_path_factory):
    """The README's `key add` and `serve`, on a free port, with a key file and a model of the test's."""
    tmp = tmp_path_factory.mktemp("readme")
    keys = tmp / "keys.txt"
    put = lambda c: c.replace("keys.txt", str(keys)).replace("model.gguf", str(MODEL)).split()[1:]  # noqa: E731
    add, serve = (next(c for c in of_kind("served") if f" {w} " in c) for w in ("key add", "serve"))
    add = run(*put(add), *([] if "--keys" in add else ["--keys", keys]))
    assert re.fullmatch(r"sk-[\w-]{43}\n", add.stdout) and keys.stat().st_mode & 0o777 == 0o600 and add.stdout.strip() not in keys.read_text()
    s = Server(*put(serve)[1:])
    s.key = add.stdout.strip()
    s.told = add.stderr
    yield s
    assert s.stop() == 0


@pytest.mark.parametrize("command", [c for c in of_kind("served") if c.startswith("curl ")])
def test_curl_from_elsewhere(served, elsewhere, command):
    at = command.replace("localhost:8420", f"{elsewhere.here}:{served.port}").replace("$KEY", served.key)
    assert at != command
    p = elsewhere.run(at + " -sS")
    assert p.returncode == 0 and (j := json.loads(p.stdout))["object"] == "chat.completion" and j["choices"][0]["message"]["content"], p.stdout + p.stderr
    assert json.loads(elsewhere.run(at.replace(served.key, served.key[:-1]) + " -sS").stdout)["error"]["code"] == "invalid_api_key"


def test_who_is_answered_elsewhere(served, elsewhere):
    def ask(path, *more, host=None):
        name = f"--resolve {host}:{served.port}:{elsewhere.here} http://{host}" if host else f"http://{elsewhere.here}"
        return elsewhere.run(f"curl -s -o /dev/null -w '%{{http_code}}' {' '.join(more)} {name}:{served.port}{path}").stdout

    key = f"-H 'Authorization: Bearer {served.key}'"
    name = socket.gethostname()
    assert ask("/v1/models", key) == "200" and ask("/v1/models") == "401"
    assert ask("/v1/models", key, host=name) == "200" and ask("/v1/models", key, host=name + ".local") == "200"
    assert ask("/v1/models", key, host="evil.example") == "403" and ask("/", host=name + ".evil.example") == "403"
    for probe in ("/health", "/livez", "/readyz", "/ping"):
        assert ask(probe) == "200" and ask(probe, host="anything.example") == "200" and ask(probe, "--http1.0", "-H Host:") == "200"
    assert ask("/") == "200" and ask("/metrics", key) == "200" and ask("/v1/metrics/history", key) == "403"


def test_key_add(tmp_path):
    keys = tmp_path / "k"
    made = [json.loads(run("key", "add", "alice", "--keys", keys, "--role", r, "--host", "192.0.2.7", "--port", "99", "--json").stdout) for r in ("user", "operator")]
    assert made[0]["key"] != made[1]["key"] and made[0]["url"] == "http://192.0.2.7:99/v1"
    assert [l.split()[1:] for l in keys.read_text().splitlines()] == [["alice"], ["alice", "operator"]] and keys.stat().st_mode & 0o777 == 0o600
    told = run("key", "add", "bob", "--keys", keys)
    assert told.stdout.strip() in told.stderr and "OPENAI_BASE_URL=http://" in told.stderr and "127.0.0.1" not in told.stderr.split("OPENAI_API_KEY")[0]
    assert len(keys.read_text().splitlines()) == 3 and list(tmp_path.iterdir()) == [keys]
    for args in (["add"], ["add", ""], ["add", "a/b"], ["add", "a b"], ["add", "x" * 64], ["remove", "alice"], [], ["add", "x", "--role", "root"]):
        p = run("key", *args, "--keys", keys, check=False)
        assert p.returncode == 2 and p.stderr.startswith("error: ") and p.stdout == "", (args, p)
    before = keys.read_text()
    keys.chmod(0o644)
    assert run("key", "add", "eve", "--keys", keys, check=False).returncode == 2 and keys.read_text() == before
    assert run("key", "add", "eve", "--keys", tmp_path / "none" / "k", check=False).returncode == 1
