# needs: lm-eval[api]==0.4.13 transformers==5.24.0
"""A multiple-choice task over a file of our own: its log-likelihoods come from /v1/completions with echo. The client counts tokens by a
tokenizer of its own, which is made of the model file's."""
import json
import pathlib
import sys
import tempfile

import lm_eval
import tokenizers
from lm_eval.tasks import TaskManager
from tokenizers import decoders, models, pre_tokenizers
from transformers import PreTrainedTokenizerFast

from check import MODEL_URL, NAME, check, run

ROWS = [("The capital of France is", ["Paris", "a banana", "seven"], 0), ("Two and two are", ["a river", "four", "Monday"], 1),
        ("A cat is", ["a number", "a colour", "an animal"], 2), ("Water is", ["wet", "a verb", "nine"], 0)]
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


@check
def multiple_choice():
    with tempfile.TemporaryDirectory() as d:
        write_tokenizer(d + "/tokenizer")
        rows = pathlib.Path(d) / "rows.jsonl"
        rows.write_text("".join(json.dumps({"question": q, "choices": c, "answer": a}) + "\n" for q, c, a in ROWS))
        (pathlib.Path(d) / "own.yaml").write_text(TASK.replace("FILE", str(rows)))
        r = lm_eval.simple_evaluate(model="local-completions", tasks=["own"], task_manager=TaskManager(include_path=d, include_defaults=False),
                                    model_args={"model": NAME, "base_url": MODEL_URL + "/v1/completions", "tokenizer": d + "/tokenizer", "tokenizer_backend": "huggingface", "num_concurrent": 1, "max_retries": 1})
        assert r["results"]["own"]["acc,none"] >= 0.75


run()
