# needs: lm-eval[api]==0.4.13 transformers==5.24.0
"""A multiple-choice task over a file of our own: its log-likelihoods come from /v1/completions with echo. The client counts tokens by a
tokenizer of its own, which is made of the model file's. The same task is asked of llama.cpp's server with the same file, whose log-likelihoods come
token by token, for it has no echo."""
import contextlib
import json
import os
import pathlib
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import lm_eval
import tokenizers
from lm_eval.api.model import LM
from lm_eval.tasks import TaskManager
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from check import MODEL_URL, NAME, check, run

ROWS = [("The capital of France is", ["Paris", "a banana", "seven"], 0), ("Two and two are", ["a river", "four", "Monday"], 1),
        ("A cat is", ["a number", "a colour", "an animal"], 2), ("Water is", ["wet", "a verb", "nine"], 0),
        ("The sun rises in the", ["east", "spoon", "letter"], 0), ("Ice is frozen", ["bread", "water", "music"], 1),
        ("The opposite of hot is", ["green", "seven", "cold"], 2), ("Bees make", ["honey", "cars", "paper"], 0),
        ("A week has seven", ["houses", "days", "colours"], 1), ("Shakespeare wrote", ["bricks", "weather", "plays"], 2),
        ("Fish live in", ["water", "books", "clouds"], 0), ("The colour of grass is", ["loud", "green", "heavy"], 1),
        ("A triangle has three", ["sides", "mouths", "winters"], 0), ("You read a", ["river", "book", "stone"], 1),
        ("The first month of the year is", ["Tuesday", "winter", "January"], 2), ("Humans breathe", ["air", "sand", "glass"], 0),
        ("The Earth goes around the", ["spoon", "Sun", "word"], 1), ("Milk comes from", ["stars", "numbers", "cows"], 2),
        ("A dog says", ["woof", "seven", "table"], 0), ("The largest ocean is the", ["chair", "Pacific", "letter"], 1)]
TASK = """task: own
dataset_path: json
dataset_kwargs: {data_files: {test: FILE}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{question}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{metric: acc, aggregation: mean, higher_is_better: true}]
"""

PATIENCE = 600  # seconds; only a hang takes them
N_VOCAB = 49152  # of SmolLM2: the peer tells of so many likeliest tokens
ROOT = pathlib.Path(__file__).resolve().parents[3]
sys.path.insert(0, str(ROOT / "test/e2e"))


def write_tokenizer(folder):
    from ggufs import Gguf
    keys = Gguf(ROOT / f"models/{NAME}.gguf").keys
    vocab = {t: i for i, t in enumerate(keys["tokenizer.ggml.tokens"][1][1])}
    merges = [tuple(m.split(" ")) for m in keys["tokenizer.ggml.merges"][1][1]]
    t = tokenizers.Tokenizer(models.BPE(vocab=vocab, merges=merges))
    t.pre_tokenizer = pre_tokenizers.Sequence([pre_tokenizers.Digits(individual_digits=True), pre_tokenizers.ByteLevel(add_prefix_space=False)])
    t.decoder = decoders.ByteLevel()
    PreTrainedTokenizerFast(tokenizer_object=t, eos_token="<|endoftext|>", bos_token="<|endoftext|>").save_pretrained(folder)


def evaluate(d, model, **kw):
    rows = pathlib.Path(d) / "rows.jsonl"
    rows.write_text("".join(json.dumps({"question": q, "choices": c, "answer": a}) + "\n" for q, c, a in ROWS))
    (pathlib.Path(d) / "own.yaml").write_text(TASK.replace("FILE", str(rows)))
    return lm_eval.simple_evaluate(model=model, tasks=["own"], task_manager=TaskManager(include_path=d, include_defaults=False), log_samples=True, **kw)


def likelihoods(r):
    """[[log-likelihood of each choice] of each row]"""
    return [[float(c[0]) for c in row["filtered_resps"]] for row in sorted(r["samples"]["own"], key=lambda row: row["doc_id"])]


def ask_own(d):
    write_tokenizer(d + "/tokenizer")
    return evaluate(d, "local-completions", model_args={"model": NAME, "base_url": MODEL_URL + "/v1/completions", "tokenizer": d + "/tokenizer",
                                                        "tokenizer_backend": "huggingface", "num_concurrent": 1, "max_retries": 1})


@check
def multiple_choice():
    with tempfile.TemporaryDirectory() as d:
        assert ask_own(d)["results"]["own"]["acc,none"] >= 0.75


# --- llama.cpp's server ------------------------------------------------------------------------------

class Peer(LM):
    def __init__(self, url):
        super().__init__()
        self.url = url

    def post(self, path, **body):
        q = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return json.load(urllib.request.urlopen(q, timeout=PATIENCE))

    def tokens(self, text):
        return self.post("/tokenize", content=text)["tokens"]

    def logprob(self, prompt, token):
        """Of a token behind the prompt, and whether it is the likeliest."""
        r = self.post("/completion", prompt=prompt, n_predict=1, n_probs=N_VOCAB, temperature=0, cache_prompt=False)
        top = r["completion_probabilities"][0]["top_logprobs"]
        return next(t["logprob"] for t in top if t["id"] == token), top[0]["id"] == token

    def loglikelihood(self, requests, disable_tqdm=False):
        out = []
        for context, continuation in (r.args for r in requests):
            whole, n = self.tokens(context + continuation), len(self.tokens(context))
            each = [self.logprob(whole[:i], whole[i]) for i in range(n, len(whole))]
            out.append((sum(p for p, _ in each), all(first for _, first in each)))
        return out

    def loglikelihood_rolling(self, requests, disable_tqdm=False):
        raise NotImplementedError("a multiple-choice task does not ask for it")

    def generate_until(self, requests, disable_tqdm=False):
        raise NotImplementedError("a multiple-choice task does not ask for it")


@contextlib.contextmanager
def peer_server(binary):
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        port = s.getsockname()[1]
    p = subprocess.Popen([binary, "-m", str(ROOT / f"models/{NAME}.gguf"), "--host", "127.0.0.1", "--port", str(port), "-c", "2048", "-np", "1", "-t", "2", "--no-webui"],
                         stdout=subprocess.DEVNULL, stderr=sys.stderr)
    try:
        end = time.monotonic() + PATIENCE
        while True:
            try:
                urllib.request.urlopen(f"http://127.0.0.1:{port}/health", timeout=10).read()
                break
            except OSError:
                assert p.poll() is None and time.monotonic() < end, "llama.cpp's server does not answer"
                time.sleep(0.2)
        yield f"http://127.0.0.1:{port}"
    finally:
        p.kill()
        p.wait()


def as_llama_cpp():
    """Nearly every row has the same choice, those of both are right as often within two rows, and log-likelihoods differ as pages of 8 bits let them."""
    with tempfile.TemporaryDirectory() as d, peer_server(PEER) as url:
        own, peer = ask_own(d), evaluate(d, Peer(url))
        a, b = likelihoods(own), likelihoods(peer)
        rights = [r["results"]["own"]["acc,none"] for r in (own, peer)]
        gaps = sorted(abs(x - y) for p, q in zip(a, b) for x, y in zip(p, q))
        same = sum(p.index(max(p)) == q.index(max(q)) for p, q in zip(a, b))
        print(f"right: {rights}; same choice: {same} of {len(ROWS)}; gaps: median {gaps[len(gaps) // 2]:.4f}, largest {gaps[-1]:.4f}", file=sys.stderr)
        assert len(a) == len(b) == len(ROWS) and same >= len(ROWS) - 1 and abs(rights[0] - rights[1]) <= 2 / len(ROWS)
        assert gaps[len(gaps) // 2] < 0.1 and gaps[-1] < 0.8


PEER = os.environ.get("SPARING_PEER")  # empty only where scripts/clients was told --no-peer
if PEER:
    check(as_llama_cpp)

run()
