"""Models whose layers carry a state: prompts are known again by pages and snapshots together, and what is taken from there changes no answer."""
import collections
import concurrent.futures

import pytest

from conftest import GOLDEN, write_keys
from ggufs import Gguf

MODELS = ["fam-lfm2", "fam-qwen35", "fam-nemotron_h", "fam-falcon-h1"]
CTX = 4096


def roomy(name, folder):
    """A family's tiny checkpoint, with room for a conversation."""
    g = Gguf(GOLDEN / f"{name}.gguf")
    key = g.keys["general.architecture"][1] + ".context_length"
    g.keys[key] = (g.keys[key][0], CTX)
    g.write(folder / f"{name}.gguf")
    return folder / f"{name}.gguf"


@pytest.fixture(scope="module", params=MODELS)
def model(request, tmp_path_factory):
    return roomy(request.param, tmp_path_factory.mktemp("states"))


def ids(n, seed):
    """Token ids of plain characters; nothing repeats for long."""
    out, x = [], seed
    for _ in range(n):
        x = (x * 1103515245 + 12345) % 2**31
        out.append(3 + (x >> 16) % 90)
    return out


def source(receipt, kind):
    return receipt["prompt_tokens"][kind]


def test_an_edited_conversation_is_computed_from_near_the_edit(make_server, model):
    known = make_server("-m", str(model), "--kv-type", "f16")
    plain = make_server("-m", str(model), "--kv-type", "f16", "--reuse=false")
    talk, edit = ids(3000, 1), 2000
    known.prefix(talk)
    edited = talk[:edit] + ids(40, 2) + talk[edit + 40:]
    text, receipt = known.prefix(edited)
    assert source(receipt, "computed") <= 512 + len(edited) - edit, receipt
    assert source(receipt, "ram") >= edit - 512, receipt
    assert text == plain.prefix(edited)[0]


def test_a_prompt_goes_on_from_its_last_page(make_server, model):
    server = make_server("-m", str(model), "--kv-type", "f16")
    prompt = ids(700, 3)
    text = server.prefix(prompt)[0]
    again, receipt = server.prefix(prompt)
    assert again == text and source(receipt, "ram") == 672, receipt  # 21 pages; the rest of 28 is computed
    assert source(server.prefix(prompt + ids(50, 4))[1], "ram") == 672


def test_an_answer_goes_on_from_its_last_page(make_server, model):
    server = make_server("-m", str(model), "--kv-type", "f16")
    prompt = ids(300, 7)
    body = {"token_ids": prompt, "sampling_params": {"max_tokens": 100, "temperature": 0, "ignore_eos": True}}
    answer = server.http.post("/inference/v1/generate", json=body).json()["choices"][0]["token_ids"]
    assert len(answer) == 100
    assert source(server.prefix(prompt + answer + ids(20, 8))[1], "ram") == 384  # 399 tokens are computed: 12 pages


def test_snapshots_keep_to_their_budget(make_server, model):
    budget = 1 << 12 if "lfm2" in model.name else 1 << 17  # a handful of states
    server = make_server("-m", str(model), "--kv-type", "f16", "--state-bytes", str(budget))
    none = make_server("-m", str(model), "--kv-type", "f16", "--state-bytes", "0")
    prompts = [ids(600, 10 + i) for i in range(12)]
    texts = [server.prefix(p)[0] for p in prompts]
    assert 0 < server.metric('sparing_state_bytes{kind="snapshots"}') <= budget
    assert server.metric("sparing_state_snapshots_evicted") > 0
    assert [server.prefix(p)[0] for p in prompts] == texts
    assert source([none.prefix(p) for p in prompts[:1] * 2][1][1], "ram") == 0
    assert none.metric('sparing_state_bytes{kind="snapshots"}') == 0


def test_tenants_share_no_snapshots(make_server, model, tmp_path):
    server = make_server("-m", str(model), "--kv-type", "f16", "--keys", write_keys(tmp_path / "keys", {"one": "a", "two": "b"}))
    prompt = ids(700, 5)
    for key, known in (("one", 0), ("two", 0), ("one", 672)):
        server.http.headers["Authorization"] = f"Bearer {key}"
        assert source(server.prefix(prompt)[1], "ram") == known


def test_a_deleted_tenant_leaves_no_snapshots(make_server, model, tmp_path):
    keys = write_keys(tmp_path / "keys", {"one": "a", "two": "b", "ops": "ops operator"})
    server = make_server("-m", str(model), "--kv-type", "f16", "--keys", keys, "--history", str(tmp_path / "h.db"))
    prompt = ids(700, 6)

    def use(key):
        server.http.headers["Authorization"] = f"Bearer {key}"
        return server

    def kept():
        assert use("ops").wait_metric('sparing_state_bytes{kind="sequences"}', 0)  # then the last snapshots are taken
        return use("ops").metric('sparing_state_bytes{kind="snapshots"}')

    one, two = [(use(key).prefix(prompt), kept())[1] for key in ("one", "two")]
    assert 0 < one < two
    assert use("two").http.delete("/v1/tenant").status_code == 200
    assert kept() == one
    assert source(use("two").prefix(prompt)[1], "ram") == 0 and source(use("one").prefix(prompt)[1], "ram") == 672


def test_guesses_are_taken_back(make_server, model):
    """Every drafter, greedy and sampled, with log-probabilities and several answers, alone and in a batch: what plain decoding gives."""
    server = make_server("-m", str(model), "--kv-type", "f16", "--draft-model", str(model))
    plain = make_server("-m", str(model), "--kv-type", "f16")
    asks = [{"prompt": ids(20 + 37 * i, 9 + i) * (1 + i % 2), "max_tokens": 60, "seed": i, "ignore_eos": True, **more}
            for i, more in enumerate([{"temperature": 0}, {"temperature": 0, "logprobs": 3}, {"temperature": 0.7}, {"temperature": 1, "n": 3}, {"temperature": 0}])]

    def ask(s, asked, **own):
        r = s.http.post("/v1/completions", json={**asked, "sparing": {"path": "full", **own}})
        assert r.status_code == 200, r.text
        return r.json()["choices"], r.json()["usage"]["sparing"]

    want = [ask(plain, a, draft=0)[0] for a in asks]
    count = collections.Counter()
    for name in ["lookup", "prediction", "earlier", "model"]:
        for a, w in zip(asks, want):
            said = {"prediction": {"type": "content", "content": w[0]["text"]}} if name == "prediction" else {}
            got, receipt = ask(server, {**a, **said}, draft=7, draft_fixed=True, drafters=[name])
            assert got == w, (name, a)
            for k, d in receipt["decode"]["drafters"].items():
                count[k] += d["accepted"]
                count["wrong"] += d["drafted"] - d["accepted"]
    assert count["model"] > 20 and count["wrong"] > 20, count
    with concurrent.futures.ThreadPoolExecutor(8) as pool:
        for own in ({"draft": 7, "draft_fixed": True}, {"draft": 15}):
            assert [r[0] for r in pool.map(lambda a: ask(server, a, **own), asks)] == want, own
    assert server.stop() == 0
