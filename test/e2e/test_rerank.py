"""/v1/rerank with rerankers and with an encoder alone, and several encoders by name."""
import concurrent.futures
import subprocess

import numpy as np
import pytest

from conftest import GOLDEN, ROOT, run, tool
from ggufs import STR, Gguf

BERT = GOLDEN / "fam-bert-rank.gguf"
MINI = ROOT / "models/all-MiniLM-L6-v2"
EOS = 2  # of BERT: XLM-R's mark behind a text


def ids_of(model, text, *args):
    out = subprocess.run([str(run.__globals__["BIN"]), "tokenize", "-m", str(model), "--ids", *args], input=text, capture_output=True, text=True, check=True)
    return [int(x) for x in out.stdout.strip("[]\n ").split(",") if x.strip()]


def score(model, ids):
    """What the reranker itself gives these ids; test_encoders.py compares it with PyTorch."""
    out = subprocess.run([tool("states"), str(model)], input=" ".join(map(str, ids)).encode(), stdout=subprocess.PIPE, check=True).stdout
    return float(np.frombuffer(out, np.float32)[-1])


def sigmoid(x):
    return 1 / (1 + np.exp(-x))


def ask(server, path="/v1/rerank", **body):
    r = server.http.post(path, json=body)
    return r.status_code, r.json()


@pytest.fixture(scope="module")
def ranking(tmp_path_factory):
    from conftest import Server
    s = Server("--kv-bytes", "64M", "--reranker", str(BERT), "--encoder", f"{MINI},{GOLDEN / 'fam-bert.gguf'}")
    yield s
    assert s.stop() == 0


def test_scores_are_the_rerankers(ranking):
    docs = ["ab cd", "zz", "the cat sat", "ab ab ab ab"]
    status, j = ask(ranking, query="ab", documents=docs)
    assert status == 200 and j["method"] == "reranker" and j["model"] == "fam-bert-rank"
    pairs = [ids_of(BERT, "ab") + [EOS, EOS] + ids_of(BERT, d) + [EOS] for d in docs]
    want = [sigmoid(score(BERT, p)) for p in pairs]
    got = {r["index"]: r["relevance_score"] for r in j["results"]}
    assert all(abs(got[i] - want[i]) < 1e-6 for i in range(4))
    assert [r["index"] for r in j["results"]] == sorted(range(4), key=lambda i: -want[i])
    assert j["usage"]["prompt_tokens"] == sum(map(len, pairs)) == j["usage"]["total_tokens"]


def test_bodies_of_jina_and_cohere(ranking):
    docs = [{"text": "ab"}, "cd", {"text": "ef", "title": "t"}]
    status, whole = ask(ranking, query="q", documents=docs)
    assert status == 200 and "document" not in whole["results"][0]
    for path in ("/v1/rerank", "/v2/rerank", "/rerank"):
        status, j = ask(ranking, path, model="fam-bert-rank", query="q", documents=docs, top_n=2, return_documents=True, max_tokens_per_doc=100)
        assert status == 200 and [r["index"] for r in j["results"]] == [r["index"] for r in whole["results"]][:2]
        assert [r["document"]["text"] for r in j["results"]] == [["ab", "cd", "ef"][r["index"]] for r in j["results"]]
        assert j["usage"]["sparing"]["ignored"] == ["max_tokens_per_doc"]
    assert len(ask(ranking, query="q", documents=docs, top_n=9)[1]["results"]) == 3


def test_a_long_document_stands_by_its_beginning(ranking):
    long = "ab " * 5000
    status, j = ask(ranking, query="ab", documents=["x", long])
    assert status == 200 and j["usage"]["sparing"]["truncated"] == [1]
    ids = (ids_of(BERT, "ab") + [EOS, EOS] + ids_of(BERT, long))[:253] + [EOS]  # the file has 254 positions
    assert abs({r["index"]: r["relevance_score"] for r in j["results"]}[1] - sigmoid(score(BERT, ids))) < 1e-6
    status, j = ask(ranking, query=long, documents=["x"])
    assert status == 400 and "254" in j["error"]["message"] and j["error"]["param"] == "documents"


def test_an_encoder_ranks_by_cosine_and_says_so(server, ranking):
    docs = ["A man eats a piece of bread.", "The stock market fell on Tuesday.", "Someone is eating food."]
    query = "A man is eating food."
    v = np.array([d["embedding"] for d in server.http.post("/v1/embeddings", json={"input": [query, *docs]}).json()["data"]])
    for s, more in ((server, {}), (ranking, {"model": "all-minilm-l6-v2"})):
        status, j = ask(s, query=query, documents=docs, **more)
        assert status == 200 and j["method"] == "embedding cosine" and j["model"] == "all-MiniLM-L6-v2"
        assert all(abs(r["relevance_score"] - v[0] @ v[1 + r["index"]]) < 1e-5 for r in j["results"])
        assert [r["index"] for r in j["results"]] == list(np.argsort(-(v[1:] @ v[0])))


@pytest.mark.parametrize("change,param", [
    ({"query": ""}, "query"), ({"query": 3}, "query"), ({"query": "q" * 70000}, "query"), ({"documents": []}, "documents"),
    ({"documents": "x"}, "documents"), ({"documents": [3]}, "documents"), ({"documents": [{"body": "x"}]}, "documents"),
    ({"documents": ["x"] * 1001}, "documents"), ({"documents": ["x", "y" * 270000]}, "documents"), ({"top_n": 0}, "top_n"),
    ({"rank_fields": ["title"]}, "rank_fields"), ({"no_such": 1}, "no_such")])
def test_refusals(ranking, change, param):
    status, j = ask(ranking, **{"query": "q", "documents": ["x"], **change})
    assert status == 400 and j["error"]["param"] == param, j


def test_a_model_that_is_not_there(ranking):
    status, j = ask(ranking, model="none", query="q", documents=["x"])
    assert status == 404 and j["error"]["param"] == "model" and "fam-bert-rank" in j["error"]["message"]


def test_many_documents_are_one_job_beside_chats(ranking):
    docs = [f"item {i % 50}" for i in range(1000)]
    with concurrent.futures.ThreadPoolExecutor(2) as pool:
        many = pool.submit(ask, ranking, query="item 7", documents=docs, top_n=1000)
        assert pool.submit(ranking.chat, max_tokens=3).result().status_code == 200
        status, j = many.result()
    by_index = {r["index"]: r["relevance_score"] for r in j["results"]}
    assert status == 200 and len(by_index) == 1000
    assert all(by_index[i] == by_index[i % 50] for i in range(1000))  # whatever shares a pass with it


def test_a_decoder_that_ranks(make_server, tmp_path):
    """The file says what stands around query and document; in them no control token counts."""
    g = Gguf(GOLDEN / "fam-qwen3-rank.gguf")
    g.keys["tokenizer.chat_template.rerank"] = (STR, "<s>Q:{query}D:{document}A:</s>")
    path = g.write(tmp_path / "ranker.gguf")
    s = make_server("--kv-bytes", "64M", "--reranker", str(path))
    docs = ["abc", "x</s>y", "Query{document}"]
    status, j = ask(s, query="what?", documents=docs)
    assert status == 200 and j["model"] == "ranker"
    for r in j["results"]:
        ids = ids_of(path, "<s>Q:", "--special") + ids_of(path, f"what?D:{docs[r['index']]}A:") + ids_of(path, "</s>", "--special")
        assert abs(r["relevance_score"] - score(path, ids)) < 1e-6
    status, j = ask(s, query="a", documents=["abc" * 400])
    assert status == 200 and j["usage"]["sparing"]["truncated"] == [0] and j["usage"]["prompt_tokens"] <= 256


F32 = 0


def floats(g, name):
    return np.frombuffer(g.tensors[name][2], np.float32)[:int(np.prod(g.tensors[name][0]))].reshape(g.tensors[name][0][::-1])


def put(g, name, x):
    g.tensors[name] = (list(x.shape[::-1]), F32, np.ascontiguousarray(x, np.float32).tobytes())


def test_the_second_text_of_a_pair_is_of_a_type_of_its_own(make_server, tmp_path):
    """BERT's way: [CLS] query [SEP] document [SEP]. The same score comes of a file whose positions hold the difference of the types."""
    rng = np.random.default_rng(1)
    g = Gguf(GOLDEN / "fam-bert.gguf")
    g.keys["bert.pooling_type"] = (4, 4)
    put(g, "cls.output.weight", rng.standard_normal((1, 32)))
    path = g.write(tmp_path / "pairs.gguf")
    status, j = ask(make_server("--kv-bytes", "64M", "--reranker", str(path)), query="ab", documents=["ba"])
    assert status == 200
    ids = [2, *ids_of(path, "ab"), 3, *ids_of(path, "ba"), 3]
    second = ids.index(3) + 1
    types, positions = floats(g, "token_types.weight"), floats(g, "position_embd.weight").copy()
    positions[second:] += types[1] - types[0]
    put(g, "position_embd.weight", positions)
    want, plain = sigmoid(score(g.write(tmp_path / "moved.gguf"), ids)), sigmoid(score(path, ids))
    assert abs(j["results"][0]["relevance_score"] - want) < 1e-5 and abs(plain - want) > 1e-4


# --- several encoders ----------------------------------------------------------------------------

def test_encoders_by_name(ranking):
    models = {m["id"]: m for m in ranking.http.get("/v1/models").json()["data"]}
    assert models["all-MiniLM-L6-v2"]["dimensions"] == 384 and models["all-MiniLM-L6-v2"]["context_length"] == 256
    assert models["fam-bert"]["capabilities"] == ["embedding"] and models["fam-bert-rank"]["capabilities"] == ["rerank"]
    for name, dim in ((None, 384), ("all-MiniLM-L6-v2", 384), ("FAM-BERT.gguf", 32)):
        j = ranking.http.post("/v1/embeddings", json={"input": ["Hi"], **({"model": name} if name else {})}).json()
        assert len(j["data"][0]["embedding"]) == dim
    for name, status, word in (("none", 404, "all-MiniLM-L6-v2"), ("fam-bert-rank", 400, "is a reranker")):
        r = ranking.http.post("/v1/embeddings", json={"input": "Hi", "model": name})
        assert r.status_code == status and word in r.json()["error"]["message"]


def test_what_is_no_encoder_is_refused_at_start():
    for args, word in ((["--encoder", str(BERT)], "--reranker takes it"), (["--reranker", str(MINI)], "--encoder takes it"),
                       (["--encoder", f"{MINI},{MINI}"], "two of them are called all-MiniLM-L6-v2"), (["--encoder", "nowhere"], "nowhere")):
        r = run("serve", "--port", "0", "--kv-bytes", "64M", *args, check=False)
        assert r.returncode == 4 and word in r.stderr, r.stderr


def test_vectors_of_two_encoders_are_never_mixed(make_server, tmp_path):
    """What was made by one encoder is refused to another of the same width, by both names."""
    (tmp_path / "other").symlink_to(MINI)
    (tmp_path / "a.txt").write_text("The cat sat on the mat.")
    db, past = tmp_path / "k.db", tmp_path / "h.db"
    assert run("ingest", tmp_path / "a.txt", "--knowledge", db).returncode == 0
    make_server("--kv-bytes", "64M", "--knowledge", str(db), "--history", str(past)).stop()
    r = run("search", "cat", "--knowledge", db, "--encoder", tmp_path / "other", check=False)
    assert r.returncode != 0 and "all-MiniLM-L6-v2" in r.stderr and "--encoder is other" in r.stderr
    for args in (["--knowledge", str(db)], ["--history", str(past)]):
        r = run("serve", "--port", "0", "--kv-bytes", "64M", "--encoder", tmp_path / "other", *args, check=False)
        assert r.returncode == 6 and "all-MiniLM-L6-v2" in r.stderr and "--encoder is other" in r.stderr, r.stderr
    assert "cat" in run("search", "cat", "--knowledge", db).stdout
