"""What inference gateways need of a server: figures under the names they read, headers they set, and prompts answered only if known."""
import concurrent.futures
import re

import pytest

from conftest import wait_until

LONG = "Twelve ships sailed from the harbour with grain, wine and cloth. " * 12


def known(r):
    return r.json()["usage"]["prompt_tokens_details"]["cached_tokens"]


def gateway_metrics(server):
    """As a picker reads them: {name: (labels, value)}."""
    out = {}
    for line in server.http.get("/metrics").text.splitlines():
        m = re.fullmatch(r"(vllm:\w+)\{(.*)\} (\S+)", line)
        if m:
            out[m[1]] = dict(re.findall(r'(\w+)="([^"]*)"', m[2])), float(m[3])
    return out


# --- figures ---------------------------------------------------------------------------------------

def test_figures_under_the_names_that_gateways_read(make_server):
    s = make_server("--kv-bytes", "8M", "--max-run", "1")
    m = gateway_metrics(s)
    assert set(m) == {"vllm:num_requests_waiting", "vllm:num_requests_running", "vllm:kv_cache_usage_perc", "vllm:lora_requests_info", "vllm:cache_config_info"}
    name = s.http.get("/v1/models").json()["data"][0]["id"]
    assert {labels["model_name"] for labels, _ in m.values()} == {name}
    labels, one = m["vllm:cache_config_info"]
    assert labels["block_size"] == "32" and int(labels["num_gpu_blocks"]) > 0 and one == 1
    labels, _ = m["vllm:lora_requests_info"]
    assert labels["running_lora_adapters"] == labels["waiting_lora_adapters"] == ""
    with concurrent.futures.ThreadPoolExecutor(3) as pool:
        body = {"prompt": LONG, "max_tokens": 400, "ignore_eos": True}
        work = [pool.submit(s.http.post, "/v1/completions", json=body) for _ in range(3)]
        seen = []
        wait_until(lambda: seen.append(gateway_metrics(s)) or all(w.done() for w in work), "answers", 0.001)
        assert all(w.result().status_code == 200 for w in work)
    assert any(x["vllm:num_requests_running"][1] == 1 and x["vllm:num_requests_waiting"][1] > 0 and 0 < x["vllm:kv_cache_usage_perc"][1] <= 1 for x in seen)
    wait_until(lambda: all(gateway_metrics(s)[n][1] == 0 for n in ("vllm:num_requests_running", "vllm:num_requests_waiting", "vllm:kv_cache_usage_perc")))
    assert s.http.get("/ping").status_code == 200


# --- the cache -------------------------------------------------------------------------------------

def test_salts_share_no_pages(make_server):
    s = make_server()
    ask = lambda **kw: s.http.post("/v1/completions", json={"prompt": LONG, "max_tokens": 4, "temperature": 0, **kw})
    first = ask(cache_salt="a")
    assert first.status_code == 200 and known(first) == 0
    assert known(ask(cache_salt="b")) == 0 and known(ask()) == 0
    again = ask(cache_salt="a")
    assert known(again) >= 32 and known(ask()) >= 32
    assert again.json()["choices"][0]["text"] == first.json()["choices"][0]["text"]
    for bad in ("", "x" * 200, 7, None):
        r = ask(cache_salt=bad)
        assert r.status_code == 400 and r.json()["error"]["param"] == "cache_salt"


def test_salts_hold_for_chat_and_token_ids(make_server):
    s = make_server()
    chat = lambda **kw: s.chat(LONG, max_tokens=2, **kw)
    assert known(chat(cache_salt="a")) == 0 and known(chat(cache_salt="b")) == 0 and known(chat(cache_salt="a")) >= 32
    ids = s.tokens(LONG)
    ask = lambda **kw: s.http.post("/inference/v1/generate", json={"token_ids": ids, "sampling_params": {"max_tokens": 2, "temperature": 0}, **kw})
    assert known(ask(cache_salt="a")) == 0 and known(ask(cache_salt="b")) == 0 and known(ask(cache_salt="a")) >= 32
    assert ask(cache_salt="").json()["error"]["param"] == "cache_salt"


@pytest.mark.parametrize("stream", [False, True])
def test_a_conditional_request_is_answered_only_if_its_prompt_is_known(make_server, stream):
    s = make_server()
    body = {"messages": [{"role": "user", "content": LONG}], "max_tokens": 4, "temperature": 0, "stream": stream}
    ask = lambda **kw: s.http.post("/v1/chat/completions", json=body, **kw)
    wish = {"headers": {"Prefer": "return=minimal, If-Available; wait=3"}}
    before = s.metric('sparing_computed_tokens_total')
    miss = ask(**wish)
    assert miss.status_code == 412 and miss.json()["error"]["code"] == "prefix_not_cached"
    assert s.metric('sparing_computed_tokens_total') == before  # nothing was computed
    assert ask().status_code == 200
    assert ask(**wish).status_code == 200
    assert ask(headers={"Prefer": "handling=strict"}).status_code == 200


def test_a_threshold_of_what_must_be_known(make_server):
    s = make_server()
    ask = lambda share: s.http.post("/v1/completions", json={"prompt": LONG, "max_tokens": 4, "temperature": 0, "cache_hit_threshold": share})
    r = ask(0.5)
    assert r.status_code == 200 and r.json()["choices"][0] == {**r.json()["choices"][0], "finish_reason": "cache_threshold", "text": ""}
    assert r.json()["usage"]["completion_tokens"] == 0 and known(r) == 0
    assert ask(0).json()["choices"][0]["finish_reason"] in ("length", "stop")
    assert ask(0.5).json()["choices"][0]["finish_reason"] in ("length", "stop")
    short = ask(1).json()
    assert short["choices"][0]["finish_reason"] == "cache_threshold"  # a prompt is never known whole: its end is computed
    assert 32 <= short["usage"]["prompt_tokens_details"]["cached_tokens"] < short["usage"]["prompt_tokens"]
    assert ask(2).status_code == 400


# --- headers ---------------------------------------------------------------------------------------

def test_goals_are_counted(make_server):
    s = make_server()
    goals = lambda of: {r: s.metrics().get(f'sparing_goals_total{{goal="{of}",result="{r}"}}', 0) for r in ("kept", "missed")}
    ask = lambda **h: s.http.post("/v1/completions", json={"prompt": "One, two,", "max_tokens": 4, "ignore_eos": True}, headers=h)
    assert ask(**{"x-llm-d-slo-ttft-ms": "900000", "x-llm-d-slo-tpot-ms": "900000"}).status_code == 200
    wait_until(lambda: goals("first") == {"kept": 1, "missed": 0} and goals("token") == {"kept": 1, "missed": 0})
    r = ask(**{"x-llm-d-slo-ttft-ms": "0.0001", "x-llm-d-slo-tpot-ms": "1e-9"})  # a goal is no deadline: the answer comes
    assert r.status_code == 200 and r.json()["usage"]["completion_tokens"] == 4
    wait_until(lambda: goals("first") == {"kept": 1, "missed": 1} and goals("token") == {"kept": 1, "missed": 1})
    for bad in ("soon", "-1", "0", "", "nan", "1e99"):
        r = ask(**{"x-llm-d-slo-ttft-ms": bad})
        assert r.status_code == 400 and "x-llm-d-slo-ttft-ms" in r.json()["error"]["message"]
    assert ask(**{"x-llm-d-inference-fairness-id": "u" * 200}).status_code == 400


def test_users_of_a_tenant_take_turns(make_server):
    """One of two users has asked for much when the other comes: of those that wait, the other's come first."""
    s = make_server("--max-run", "1", "--schedule", "work")
    ends = []

    def ask(user, i):
        s.http.post("/v1/completions", json={"prompt": f"{user} {i}: " + LONG, "max_tokens": 24, "ignore_eos": True}, headers={"x-llm-d-inference-fairness-id": user})
        ends.append(user)

    with concurrent.futures.ThreadPoolExecutor(14) as pool:
        work = [pool.submit(ask, "much", i) for i in range(10)]
        wait_until(lambda: gateway_metrics(s)["vllm:num_requests_waiting"][1] >= 8, "a queue", 0.005)
        work += [pool.submit(ask, "little", i) for i in range(3)]
        [w.result() for w in work]
    assert "much" in ends[-3:]  # whatever the order within a step: the little ones did not come last
    assert ends[-1] == "much" and ends.index("little") < 9
