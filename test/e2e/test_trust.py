"""What was right when the server began need not stay so: files that are cut or overwritten while it serves, an object store that hangs."""
import os
import shutil
import signal
import socket
import threading

import pytest

from conftest import GOLDEN, MODEL, ROOT

IDS = [5, 9, 12, 7, 30, 22, 8, 3] * 6
MODELS = [MODEL, *sorted(GOLDEN.glob("tiny-*.gguf"))]


@pytest.mark.parametrize("model", MODELS, ids=lambda p: p.stem)
@pytest.mark.parametrize("how", ["cut", "overwritten"])
def test_a_model_file_may_change_while_serving(tmp_path, make_server, model, how):
    """Nothing that is needed lies in the file: answers, tokens and vectors stay what they were."""
    copy = shutil.copy(model, tmp_path / "m.gguf")
    encoder = shutil.copytree(ROOT / "models/all-MiniLM-L6-v2", tmp_path / "e")
    s = make_server("-m", str(copy), "--encoder", str(encoder), "--reuse=false")
    words = "some words, and a number: 1234; été 東京"
    look = lambda: (s.prefix(IDS, 6)[0], s.tokens(words), s.http.post("/detokenize", json={"tokens": IDS}).json(), s.http.post("/v1/embeddings", json={"input": words}).json()["data"])
    before = look()
    with s.http.stream("POST", "/v1/completions", json={"prompt": IDS, "max_tokens": 40, "temperature": 0, "stream": True, "ignore_eos": True}) as st:
        lines = st.iter_lines()
        next(lines)
        for path in (copy, encoder / "model.safetensors"):
            if how == "cut":
                os.truncate(path, 0)
            else:
                with open(path, "r+b") as f:
                    size = os.fstat(f.fileno()).st_size
                    for at in range(0, size, 1 << 20):
                        f.write(b"\xa5" * min(1 << 20, size - at))
        assert [x for x in lines if x][-1] == "data: [DONE]"
    assert look() == before
    assert s.stop() == 0


def test_a_fault_in_a_map_is_said(make_server):
    """Where a file is read through a map after all (while a model loads), a fault ends with a line and exit code 4."""
    s = make_server()
    s.proc.send_signal(signal.SIGBUS)
    assert s.stop() == 4
    assert "cut short" in "".join(s.log)


class Hole:
    """Takes connections and never answers. seen: one has sent something."""

    def __init__(self):
        self.listener, self.held, self.seen = socket.create_server(("127.0.0.1", 0)), [], threading.Event()
        self.url = f"http://127.0.0.1:{self.listener.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while True:
            try:
                self.held.append(self.listener.accept()[0])
            except OSError:
                return
            if self.held[-1].recv(1):
                self.seen.set()


@pytest.fixture
def hole():
    h = Hole()
    yield h
    h.listener.close()
    for c in h.held:
        c.close()


def test_a_hanging_object_store_does_not_hold_the_exit(tmp_path, make_server, hole):
    keys = {"AWS_ACCESS_KEY_ID": "k", "AWS_SECRET_ACCESS_KEY": "s", "AWS_REGION": "us-east-1"}
    s = make_server("--cache-dir", str(tmp_path / "c"), "--s3", "s3://pages", "--s3-endpoint", hole.url, "--cold-after", "1", "--drain-s", "5", env=keys)
    s.prefix(IDS * 4, 4)
    assert hole.seen.wait(60)
    assert s.stop() == 0  # within the time for draining and two seconds: else the exit code is 1
    assert "did not end in time" not in "".join(s.log)


def test_a_hanging_collector_does_not_hold_the_exit(make_server, hole):
    s = make_server("--otlp", hole.url, "--drain-s", "5")
    s.http.post("/v1/chat/completions", json={"messages": [{"role": "user", "content": "x"}], "max_tokens": 1}, headers={"traceparent": "00-" + "ab" * 16 + "-" + "cd" * 8 + "-01"})
    assert hole.seen.wait(60)
    assert s.stop() == 0
    assert "did not end in time" not in "".join(s.log)
