"""The command line, as a user types it."""
import json
import re
import signal
import subprocess

import pytest

from conftest import BIN, GOLDEN, LEVELS, MODEL, PATIENCE, ROOT, quick_file, run

COMMANDS = ["serve", "run", "chat", "models", "tokenize", "perplexity", "embed", "bench", "config", "version"]


@pytest.mark.parametrize("command", COMMANDS)
def test_help(command):
    out = run(command, "--help").stdout
    assert f"usage: sparing {command}" in out and "--config" in out


def test_top_level():
    out = run("--help").stdout
    assert all(c in out for c in COMMANDS) and "exit codes" in out
    p = run("nonsense", check=False)
    assert p.returncode == 2 and "nonsense" in p.stderr


def test_run_from_argument_and_stdin():
    a = run("run", "What is water?", "-n", 20).stdout
    assert a.strip() and run("run", "-n", 20, stdin="What is water?").stdout == a
    j = json.loads(run("run", "--json", "What is water?", "-n", 20).stdout)
    assert j["text"] == a[:-1] and j["receipt"]["decode"]["tokens"] == 20
    assert run("run", check=False).returncode == 2


def test_every_isa_level_answers():
    for level in sorted({*LEVELS, "amx"}):  # one that the CPU may not have is none to refuse
        assert run("run", "Hi", "-n", 3, "--cpu-mask", level, "-m", quick_file()).stdout.strip()
    p = run("run", "Hi", "--cpu-mask", "sse9", check=False)
    assert p.returncode == 2 and "sse9" in p.stderr


def test_chat_over_pipes():
    out = run("chat", "-n", 8, stdin="Hello.\n\nAnd now?\n").stdout
    assert len([l for l in out.splitlines() if l]) >= 2


def test_models():
    assert "SmolLM2" in run("models").stdout
    listed = json.loads(run("models", "--json", "--models-dir", GOLDEN).stdout)
    tiny = next(m for m in listed if m["file"].endswith("tiny-mha.gguf"))
    assert tiny["layers"] == 2 and any("error" in m for m in listed)  # vocabulary-only files say why


def test_tokenize():
    assert json.loads(run("tokenize", "--ids", stdin="Hello world").stdout) == [19556, 905]
    assert "Hello" in run("tokenize", stdin="Hello world").stdout
    assert json.loads(run("tokenize", "--ids", "--special", stdin="<|im_end|>").stdout) == [2]


def test_config_origins(tmp_path):
    f = tmp_path / "c.yaml"
    f.write_text("port: 1234\nchunk: 64\n")
    c = json.loads(run("config", "--json", "--config", f, env={"SPARING_CHUNK": "128"}).stdout)
    assert c["port"] == {"value": "1234", "origin": "file"} and c["chunk"] == {"value": "128", "origin": "environment"}
    assert c["host"]["origin"] == "default"
    assert "# environment" in run("config", "--origin", env={"SPARING_PORT": "5"}).stdout
    f.write_text("prot: 1\n")
    p = run("config", "--config", f, check=False)
    assert p.returncode == 3 and "c.yaml" in p.stderr
    p = run("config", check=False, env={"SPARING_PORT": "x"})
    assert p.returncode == 3 and "SPARING_PORT=x" in p.stderr


def test_errors_and_exit_codes(tmp_path):
    p = run("run", "-m", tmp_path / "none.gguf", "Hi", check=False)
    assert p.returncode == 4 and "none.gguf" in p.stderr
    bad = tmp_path / "bad.gguf"
    bad.write_bytes(MODEL.read_bytes()[:5000])
    p = run("run", "-m", bad, "Hi", check=False)
    assert p.returncode == 4 and "gguf" in p.stderr
    assert run("run", "--temperature", "9", "Hi", check=False).returncode == 2
    assert run("perplexity", check=False).returncode == 2
    p = run("perplexity", "-f", ROOT / "LAYERS", check=False)
    assert p.returncode == 1 and "at least 1024" in p.stderr
    p = run("serve", "--host", "192.0.2.1", "--keys", tmp_path / "k", check=False)
    assert p.returncode == 3


def test_port_in_use(server):
    p = run("serve", "--port", server.port, check=False)
    assert p.returncode == 5 and str(server.port) in p.stderr


def test_bench():
    j = json.loads(run("bench", "-p", 32, "-n", 4, "-b", "1,2", "-r", 2, "--json").stdout)
    assert j["read_bytes_s"] > 1e9 and j["int_mac_s"] > 1e9
    assert [(r["test"], r["seqs"]) for r in j["results"]] == [("prompt", 0), ("gen", 1), ("gen", 2)]
    assert all(r["tok_s"] > 0 for r in j["results"])
    assert run("bench", "-p", "a", check=False).returncode == 2


def test_interrupt_ends_run_cleanly():
    p = subprocess.Popen([str(BIN), "run", "Write a long story.", "-n", "4000"], stdout=subprocess.PIPE, cwd=ROOT)
    assert p.stdout.read(5)
    p.send_signal(signal.SIGINT)
    p.stdout.read()
    assert p.wait(timeout=PATIENCE) == 130


def test_memory_that_is_not_there_is_an_error_with_both_numbers():
    p = run("run", "Hi", "-n", 1, "--kv-bytes", "9000G", check=False)
    assert p.returncode != 0 and re.search(r"kv-bytes: \d+ MiB for pages beside \d+ MiB for the model, \d+ MiB are available", p.stderr)
