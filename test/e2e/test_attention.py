"""Certified attention: what it may leave out, what it says it left out, and who gets to see what was computed so."""
import json
import math
import random
import subprocess

import pytest

from conftest import MODEL, ROOT, quick_file, run, tool

LICENCES = ROOT / "test/data/licences.txt"


@pytest.fixture(scope="module")
def ids():
    return json.loads(run("tokenize", "--ids", stdin=LICENCES.read_text()[:40000]).stdout)


def sparing(**kw):
    return {"sparing": kw}


def certify(model, ids, first, n, *rules):
    """What was left out, in f64 from the model's own queries and keys, against what was reported: a row for each EPS[,WINDOW,CAP[,SINK]]."""
    out = subprocess.run([tool("certify"), str(model), str(first), str(n), *rules], input=" ".join(map(str, ids[:first + n * len(rules)])),
                         capture_output=True, text=True, check=True).stdout
    rows = [list(map(float, line.split())) for line in out.splitlines()]
    assert len(rows) == len(rules)
    for rule, (_, over, true, told, mean_true, mean_told, kept) in zip(rules, rows):
        assert over == 0 and 0 < true <= told <= float(rule.split(",")[0]) + 1e-6 and mean_true < mean_told, rule
    return [(calls, kept) for calls, *_, kept in rows]


def test_certificates_hold_on_recorded_keys(ids):
    """T2, at two epsilons, and on the same keys attended as layers of other families do: under caps, windows and sinks."""
    got = certify(MODEL, ids, 1100, 20, "0.02", "0.1", "0.05,0,8", "0.05,1009,0", "0.05,700,20,2")
    assert all(calls == 20 * 270 for calls, _ in got)
    assert all(0.1 < kept < 0.8 for _, kept in got[:2]) and all(0 < kept < 0.9 for _, kept in got[2:])
    assert got[1][1] < got[0][1]


def test_certificates_hold_in_a_model_with_windows():
    """T2 in Gemma 3 270M, 15 of whose 18 layers see 512 positions. Arbitrary tokens do: its tokenizer is not what is tested."""
    rng = random.Random(3)
    words = [rng.randrange(200, 30000) for _ in range(300)]
    ids = [2] + [words[min(int(rng.expovariate(0.02)), 299)] for _ in range(1079)]
    [(calls, kept)] = certify(ROOT / "models/test/gemma-3-270m-q4_k_m.gguf", ids, 1064, 16, "0.05")
    assert calls == 16 * 72 and kept < 1


def test_epsilon_is_checked(server):
    for bad in (-0.01, 0.51, "0.1", True, [0.1]):
        r = server.chat(**sparing(epsilon=bad))
        assert r.status_code == 400 and "epsilon" in r.json()["error"]["message"], bad
    nan = server.http.post("/v1/chat/completions", content='{"messages":[{"role":"user","content":"x"}],"sparing":{"epsilon":NaN}}')
    assert nan.status_code == 400
    assert server.chat(sparing=3).status_code == 400
    r = server.chat(**sparing(epsilon=0.1, epsilom=0.1))
    assert r.status_code == 400 and "epsilom" in r.json()["error"]["message"]
    for bad in ("-1", "0.6", "nan", "0.1,x", ""):
        assert run("bench", "--epsilon", bad, check=False).returncode == 2, bad
    assert run("serve", "--port", "0", "--epsilon-default", "2", check=False).returncode == 2


EIGHT_BIT = ("avx2", "avxvnni", "avx512", "avx512vnni", "avx512bf16", "amx")


def test_the_receipt_says_what_was_left_out(make_server, ids):
    s = make_server("--epsilon-default", "0", "--draft", "0")  # a guess that is not taken is work beyond dense
    _, dense = s.prefix(ids[:3000], 40)
    assert dense["attention"]["kept"] == 1 and dense["attention"]["epsilon"] == 0 and dense["attention"]["max_bound"] == 0
    assert dense["attention"]["kv_bytes"] == {"read": 0, "dense": 0}
    seen = {}
    for eps in (0.02, 0.1):
        _, r = s.prefix(ids[:3000], 40, **sparing(epsilon=eps))
        a = seen[eps] = r["attention"]
        assert a["epsilon"] == eps and 0 < a["kept"] < 1
        assert 0 < a["mean_bound"] <= a["max_bound"] <= eps * (1 + 1e-6)
        assert 0 < a["kv_bytes"]["read"] < a["kv_bytes"]["dense"] * 1.4
        # Prompts leave out values where the CPU attends in 8 bits, and attend everything elsewhere.
        assert a["prefill"]["values_read"] < 1 if s.level in EIGHT_BIT else a["prefill"]["values_read"] == 1
        assert r["flops"]["spent"] < r["flops"]["dense"]
    assert seen[0.1]["kept"] < seen[0.02]["kept"]
    if s.level in EIGHT_BIT:
        assert seen[0.1]["prefill"]["values_read"] < seen[0.02]["prefill"]["values_read"]
    assert s.metric('sparing_attention_keys_total{kind="kept"}') < s.metric('sparing_attention_keys_total{kind="seen"}')
    page = s.metric('sparing_attention_bytes_total{kind="read"}')
    assert page == pytest.approx(sum(a["kv_bytes"]["read"] for a in seen.values()))


def test_epsilon_0_is_dense_bit_for_bit(make_server, ids):
    """Also when requests with another epsilon went before: pages computed with it are for such requests alone."""
    fresh = make_server("--epsilon-default", "0")
    want = fresh.prefix(ids[:2000], 24, logprobs=3)[0]
    s = make_server("--epsilon-default", "0")
    s.prefix(ids[:2000], 24, **sparing(epsilon=0.3))
    s.prefix(ids[:2000], 24, **sparing(prefill_keep=0.1))
    text, r = s.prefix(ids[:2000], 24, logprobs=3, **sparing(epsilon=0))
    assert text == want and r["prompt_tokens"]["computed"] == 2000 and r["attention"]["kept"] == 1
    # Each finds its own again.
    for own in ({"epsilon": 0.3}, {"prefill_keep": 0.1}, {"epsilon": 0}):
        assert s.prefix(ids[:2000], 4, **sparing(**own))[1]["prompt_tokens"]["ram"] == 1984


def test_the_default_is_dense_below_the_length_where_it_pays(make_server, ids):
    s = make_server("--epsilon-default", "auto")
    _, r = s.prefix(ids[:2000], 8)
    assert r["attention"]["kept"] == 1
    exact = r["prompt_tokens"]
    assert exact["computed"] == 2000
    assert s.prefix(ids[:2000], 8, **sparing(epsilon=0))[1]["prompt_tokens"]["ram"] == 1984  # so it is shared with exact ones
    _, r = s.prefix(ids[:4200], 8)
    assert r["attention"]["epsilon"] in (0, pytest.approx(0.02))  # 0 on CPUs where it never pays


def test_pages_by_a_sample(make_server, ids):
    s = make_server("-m", str(MODEL), "--epsilon-default", "0", "--draft", "0")  # the first two layers attend everything
    _, r = s.prefix(ids[:4000], 8, **sparing(prefill_keep=0.2))
    p = r["attention"]["prefill"]
    if s.level not in EIGHT_BIT:  # everything is attended, and the receipt says so
        assert p["pages_kept"] == 1
        assert r["flops"]["spent"] == pytest.approx(r["flops"]["dense"], rel=1e-6)
        return
    assert p["keep"] == 0.2 and 0.19 < p["pages_kept"] < 0.25
    assert 0 < p["sampled_miss_mean"] < p["sampled_miss_max"] <= 1
    assert r["attention"]["max_bound"] == 0 and r["attention"]["kept"] == 1  # decoding was dense
    assert r["flops"]["spent"] < 0.9 * r["flops"]["dense"]


def test_parts_of_a_prompt_can_be_dense(make_server):
    """The background may lose epsilon, the task nothing."""
    s = make_server("--epsilon-default", "0")
    background = LICENCES.read_text()[20000:29000]
    task = "Remember this well: " + " ".join(f"item {i} costs {7 * i} coins;" for i in range(40))
    messages = [{"role": "user", "content": background + task + background[:2000]}]
    body = {"messages": messages, "max_tokens": 24, "temperature": 0}

    def kept(**own):
        r = s.http.post("/v1/chat/completions", json={**body, "sparing": {"epsilon": 0.3, **own}})
        assert r.status_code == 200, r.text
        return r.json()["usage"]["sparing"]["attention"]["kept"]

    plain, with_task, all_of_it = kept(), kept(dense=[task]), kept(dense=[task, background])
    assert plain < with_task < all_of_it and all_of_it > 0.6
    for bad, why in ((["not there"], "not there"), ([""], "dense[0]"), ("x", "list"), ([3], "dense[0]"), (["x"] * 17, "16")):
        r = s.http.post("/v1/chat/completions", json={**body, "sparing": {"epsilon": 0.3, "dense": bad}})
        assert r.status_code == 400 and why in r.json()["error"]["message"], bad


def test_comparing_with_dense(tmp_path):
    text = tmp_path / "t.txt"
    text.write_text(LICENCES.read_text()[:3000])
    rows = json.loads(run("perplexity", "-m", quick_file(), "-f", text, "-c", "420", "--epsilon", "0.02,0.3", "--json").stdout)
    assert [r["epsilon"] for r in rows] == [0, 0.02, 0.3] and all(r["positions"] == 419 for r in rows)
    assert rows[0]["kl"] == 0 and rows[0]["top1"] == 1
    assert 0 < rows[1]["kl"] < rows[2]["kl"] < 0.2 and rows[1]["top1"] > 0.9
    assert rows[2]["kept"] < rows[1]["kept"] and rows[1]["max_loss"] <= 0.02 * (1 + 1e-6)


def test_bench_prints_the_certificate():
    out = json.loads(run("bench", "--prompt", "0", "--gen", "8", "--depth", "1500", "--repeat", "1", "--epsilon", "0,0.1", "--json", "--text", LICENCES).stdout)
    dense, sparse = out["results"]
    assert dense["epsilon"] == 0 and dense["kept"] == 1 and sparse["epsilon"] == 0.1
    assert 0 < sparse["kept"] < 1 and 0 < sparse["max_loss"] <= 0.1 * (1 + 1e-6) and math.isfinite(sparse["speedup"][1])


@pytest.mark.parametrize("level,n", [("scalar", "40"), ("avx2", "420"), ("avx512", "420")])  # scalar is dense at any length
def test_every_level_keeps_its_promise(level, n):
    p = run("perplexity", "-m", quick_file(), "-f", LICENCES, "-c", n, "--epsilon", "0.1", "--json", "--cpu-mask", level, check=False)
    if p.returncode and "cpu" in p.stderr:
        return  # this CPU does not have it
    rows = json.loads(p.stdout)
    assert rows[1]["kl"] < 0.1 and rows[1]["max_loss"] <= 0.1 * (1 + 1e-6)
    assert (rows[1]["kept"] < 1) == (level != "scalar")  # the reference is always dense
