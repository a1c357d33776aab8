"""What the end-to-end tests share: the binary, the tools, and a server on a free loopback port."""
import atexit
import concurrent.futures
import functools
import hashlib
import os
import pathlib
import random
import re
import resource
import shutil
import signal
import ssl
import subprocess
import tempfile
import threading
import time

import httpx
import numpy as np
import pytest

from databases import new_db, postgres  # noqa: F401, fixtures of all files
from ggufs import Gguf, first_layers, one_layer

ROOT = pathlib.Path(__file__).resolve().parents[2]
BIN = pathlib.Path(os.environ.get("SPARING_BIN", ROOT / "build/release/sparing"))
GOLDEN = ROOT / "test/golden/data"
MODEL = ROOT / "models/SmolLM2-135M-Instruct.Q4_1.gguf"
OWN_LEVEL = re.search(r"\((\w+);", subprocess.run([BIN, "--version"], capture_output=True, text=True, check=True).stdout).group(1)
LEVELS = ["scalar", "avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16", "amx"]
LEVELS = LEVELS[:LEVELS.index(OWN_LEVEL) + 1]  # --cpu-mask with one above the CPU's own changes nothing

os.environ["XDG_STATE_HOME"] = tempfile.mkdtemp(prefix="sparing-state-")  # of servers that are told of no --history
atexit.register(shutil.rmtree, os.environ["XDG_STATE_HOME"], ignore_errors=True)
os.environ["SPARING_WEIGHT_CACHE"] = "none"  # test_weight_cache.py is about it
os.environ["SPARING_THREADS"] = "1"  # tests run beside each other: two threads of one would wait for each other with spinning

NO_TLS = ssl.SSLContext(ssl.PROTOCOL_TLS_CLIENT)  # of http:// alone: a client without it reads all authorities for 65 ms

PATIENCE = 600  # seconds that a test waits for what must come: only a hang takes them, a busy machine never does


def wait_until(is_so, what="it", pause=0.05):
    end = time.monotonic() + PATIENCE
    while not is_so():
        assert time.monotonic() < end, f"{what}: not after {PATIENCE} s"
        time.sleep(pause)


def answers_before_kills(opts, kills, seed, prompts, ask):
    """Each round starts a server, asks six of the prompts at once, and kills it in the middle, at some answer and not at some time. Yields
    what ask(server, prompt) gave where an answer came."""
    rnd = random.Random(seed)
    with concurrent.futures.ThreadPoolExecutor(4) as pool:
        for _ in range(kills):
            s = Server(*opts)
            work = [pool.submit(ask, s, p) for p in (prompts[rnd.randrange(len(prompts))] for _ in range(6))]
            for w in work[: rnd.randrange(7)]:
                w.exception()  # waits for it
            time.sleep(rnd.random() * 0.05)
            s.proc.kill()
            s.proc.wait()
            s.proc.stderr.close()
            for w in work:
                if not w.exception():  # else it died while answering
                    yield w.result()
            s.http.close()


def tool(name):
    return str(BIN.parent / "test" / name)


def write_keys(path, keys):
    """A key file as a server takes it: {key: "tenant"} or {key: "tenant operator"}. Its path."""
    path.write_text("".join(f"{hashlib.sha256(k.encode()).hexdigest()} {who}\n" for k, who in keys.items()))
    path.chmod(0o600)
    return str(path)


def read_metrics(text, model=None):
    """{name{labels}: value} without the label `model`: the sum over all models, or what one of them has."""
    out = {}
    for line in text.splitlines():
        if line.startswith("#"):
            continue
        key, value = line.rsplit(" ", 1)
        whose = re.search(r'[{,]model="([^"]*)"', key)
        key = re.sub(r'([{,])model="[^"]*",?', r"\1", key).replace(",}", "}").replace("{}", "")
        if model is None or (whose and whose.group(1) == model):
            out[key] = out.get(key, 0.0) + float(value)
    return out


@functools.cache
def quick_file():
    """A file of the default model's name, tokenizer and template with its first two layers, made once a process."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="sparing-quick-"))
    atexit.register(shutil.rmtree, folder, ignore_errors=True)
    return str(first_layers(MODEL, folder / MODEL.name, 2))


class Server:
    """A server process of our own, ended by its id. Without -m it has quick_file(), which computes a tenth of the default model.
    It has one thread (SPARING_THREADS): who wants more says so.
    It is dense unless a request or a test says otherwise: from which length on auto leaves out is measured, and another one each time."""

    def __init__(self, *args, env=None, limits=None, binary=BIN, keeps=False):
        """keeps: the server decides where conversations are kept. limits: of open files, soft and hard. Any predicted work may wait unless a test says how much: a busy machine predicts much."""
        if not {"-m", "--model", "--models-dir"} & set(args):
            args = ["-m", quick_file(), *args]
        if "--epsilon-default" not in args:
            args = ["--epsilon-default", "0", *args]
        if "--history" not in args and not keeps:
            args = ["--history", "none", *args]
        self.proc = subprocess.Popen([str(binary), "serve", "--port", "0", "--max-wait", "0", *args], stderr=subprocess.PIPE, text=True, cwd=ROOT, env={**os.environ, **(env or {})},
                                     preexec_fn=(lambda: resource.setrlimit(resource.RLIMIT_NOFILE, limits)) if limits else None)
        self.log = []
        give_up = threading.Timer(PATIENCE, self.proc.kill)  # a server that never gets ready
        give_up.start()
        while True:
            line = self.proc.stderr.readline()
            if not line:
                give_up.cancel()
                raise RuntimeError(f"server ended with {self.proc.wait()}: {''.join(self.log)}")
            self.log.append(line)
            m = re.search(r"ready in \d+ ms on http://[^:]+:(\d+) \((\w+),", line)
            if m:
                self.port, self.level = int(m.group(1)), m.group(2)
                give_up.cancel()
                break
        self.url = f"http://127.0.0.1:{self.port}"
        self.http = httpx.Client(base_url=self.url, timeout=PATIENCE, verify=NO_TLS)

    def chat(self, text="Say hello.", **kw):
        body = {"messages": [{"role": "user", "content": text}], "max_tokens": 16, "temperature": 0, **kw}
        return self.http.post("/v1/chat/completions", json=body)

    def prefix(self, ids, n=8, **kw):
        """Text and receipt of a completion of token ids, greedy."""
        r = self.http.post("/v1/completions", json={"prompt": ids, "max_tokens": n, "temperature": 0, **kw})
        assert r.status_code == 200, r.text
        j = r.json()
        return j["choices"][0]["text"], j["usage"]["sparing"]

    def exact(self, ids, n=8):
        """As prefix; the text together with the log-probability of each of its tokens, to compare bit for bit."""
        r = self.http.post("/v1/completions", json={"prompt": ids, "max_tokens": n, "temperature": 0, "logprobs": 0})
        assert r.status_code == 200, r.text
        j = r.json()
        return (j["choices"][0]["text"], j["choices"][0]["logprobs"]["token_logprobs"]), j["usage"]["sparing"]

    def tokens(self, text):
        return self.http.post("/tokenize", json={"content": text}).json()["tokens"]

    def kill(self):
        """As a crash would: no handler runs."""
        self.proc.kill()
        self.proc.wait(timeout=PATIENCE)
        self.http.close()
        self.proc.stderr.close()

    def metrics(self, model=None, **kw):
        return read_metrics(self.http.get("/metrics", **kw).text, model)

    def metric(self, name, model=None):
        return self.metrics(model)[name]

    def wait_metric(self, name, value, seconds=PATIENCE):
        end = time.monotonic() + seconds
        while time.monotonic() < end:
            if self.metric(name) == value:
                return True
            time.sleep(0.02)
        return False

    def wait_log(self, text):
        """Reads what the server logs up to a line with text."""
        give_up = threading.Timer(PATIENCE, self.proc.kill)
        give_up.start()
        while not any(text in line for line in self.log):
            line = self.proc.stderr.readline()
            assert line, f"the server ended without saying {text}: {''.join(self.log)}"
            self.log.append(line)
        give_up.cancel()

    def stop(self, sig=signal.SIGTERM):
        if self.proc.poll() is None:
            self.proc.send_signal(sig)
        code = self.proc.wait(timeout=PATIENCE)
        self.http.close()
        if not self.proc.stderr.closed:
            self.log += self.proc.stderr.readlines()
            self.proc.stderr.close()
        return code


@pytest.fixture(scope="session")
def server():
    s = Server("--threads", "2")
    yield s
    assert s.stop() == 0


# What takes long: files of whole models, of all tiers, of kills, networks and imitated devices, and single tests of ten seconds or more.
# make test leaves them out (marker slow); .ci/run has them behind it, and so has scripts/check.
SLOW_FILES = ("attention", "certify", "cuda", "deploy", "drafters", "families", "front_long", "gemma", "identity", "improve", "install", "judge", "memory", "model",
              "policy", "services_faults", "services_network", "state", "states_kept", "trials", "weight_cache")
SLOW_TESTS = ("test_claude_codes_loop", "test_a_client_may_leave_while_a_worker_is_busy", "test_shares_follow_the_evidence_until_one_is_proven",
              "test_an_encoder_is_a_folder", "test_names_of_the_list", "test_facts_are_recalled_long_after", "test_a_document_that_takes_long_holds_up_nothing",
              "test_killed_and_resumed_without_a_difference", "test_metrics_say_of_which_model", "test_thinking_is_ended_from_outside",
              "test_thoughts_are_ended_in_every_protocol_and_by_their_tenant_alone", "test_what_is_drawn_is_valid", "test_long_runs_take_linear_time",
              "test_the_mark_of_first_pieces_begins_none_inside_a_word", "test_a_hanging_collector_does_not_hold_the_exit", "test_every_state_is_clean")

BEGIN_WITH = ("improve", "cuda", "judge", "memory", "state", "families", "attention", "model", "front", "knowledge", "gates", "tokenizers", "history", "dashboard")  # they take longest


def pytest_collection_modifyitems(items):
    """Files that take long come first: the last one of a run is waited for. Workers must find the same names: a function's address
    in one differs in each."""
    first = {f"test_{name}": i for i, name in enumerate(BEGIN_WITH)}
    items.sort(key=lambda item: first.get(item.path.stem, len(first)))
    for item in items:
        if item.path.stem.removeprefix("test_") in SLOW_FILES or item.name.split("[")[0] in SLOW_TESTS:
            item.add_marker("slow")
    odd = [i.nodeid for i in items if " at 0x" in i.nodeid]
    if odd:
        raise pytest.UsageError(f"names of tests have addresses in them: {odd}")


@pytest.fixture(scope="session")
def quick_model(tmp_path_factory):
    """The default model's tokenizer and template over one layer of random weights: it is never sure of what it says."""
    g, rng, wide = Gguf(one_layer(MODEL, tmp_path_factory.mktemp("quick") / "quick.gguf")), np.random.default_rng(1), 64
    sizes = {"embedding_length": wide, "feed_forward_length": wide, "attention.head_count": 1, "attention.head_count_kv": 1}
    g.keys.update({f"llama.{name}": (4, n) for name, n in sizes.items()})
    for name, (dims, _, _) in g.tensors.items():
        if len(dims) == 1:
            g.tensors[name] = ([wide], 0, np.ones(wide, "<f4").tobytes())
        else:
            dims = [wide, dims[1] if name.startswith("token") else wide]
            g.tensors[name] = (dims, 1, (rng.standard_normal(dims) / 8).astype("<f2").tobytes())
    return str(g.write(tmp_path_factory.mktemp("quick") / "quick.gguf"))


@pytest.fixture
def make_server():
    made = []

    def make(*args, **kw):
        made.append(Server(*args, **kw))
        return made[-1]

    yield make
    for s in made:
        s.stop()


def run(*args, stdin="", check=True, cwd=ROOT, env=None):
    p = subprocess.run([str(BIN), *map(str, args)], input=stdin, capture_output=True, text=True, cwd=cwd, timeout=PATIENCE,
                       env={**os.environ, **(env or {})})
    if check:
        assert p.returncode == 0, p.stderr
    return p
