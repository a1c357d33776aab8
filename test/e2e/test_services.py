"""The gRPC services, with grpcio as the client: generation, retrieval, health, reflection; who may call what, and what ends a call."""
import concurrent.futures
import json
import signal
import socket

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc
from grpc_reflection.v1alpha import reflection_pb2, reflection_pb2_grpc

from conftest import wait_until, write_keys
from rpc import Client

GRPC = ("--grpc", "127.0.0.1:0")


@pytest.fixture
def services(make_server):
    made = []

    def make(*opts, key=None, **kw):
        s = make_server(*GRPC, *opts, **kw)
        made.append(Client(s, key))
        return s, made[-1]

    yield make
    for client in made:
        client.close()


def code_of(call):
    """call: a stream, or a function that makes a call of one answer."""
    with pytest.raises(grpc.RpcError) as e:
        call() if callable(call) else list(call)
    return e.value.code(), e.value.details(), dict(e.value.trailing_metadata() or ())


# --- generation ------------------------------------------------------------------------------------

def test_an_answer_is_the_same_over_both_surfaces(services):
    s, c = services()
    for text in ("One, two, three,", "The capital of France is"):
        ours, finish = c.generate(text, max_tokens=24)
        r = s.http.post("/v1/completions", json={"prompt": text, "max_tokens": 24, "temperature": 0}).json()
        assert ours == r["choices"][0]["text"]
        assert (finish.reason, finish.prompt_tokens, finish.completion_tokens) == (r["choices"][0]["finish_reason"], r["usage"]["prompt_tokens"], r["usage"]["completion_tokens"])
        assert json.loads(finish.receipt)["path"] == "full"
    ids = s.tokens("One, two, three,")
    assert c.generate(prompt={"token_ids": ids}, max_tokens=24)[0] == c.generate("One, two, three,", max_tokens=24)[0]
    chat = s.chat("Say hello.", max_tokens=12).json()["choices"][0]["message"]["content"]
    assert c.generate(prompt={"messages": [{"role": "user", "content": "Say hello."}]}, max_tokens=12)[0] == chat
    drawn = dict(max_tokens=16, temperature=1.0, seed=7)
    assert c.generate("Once", **drawn)[0] == c.generate("Once", **drawn)[0]
    body = {"prompt": "Once", "max_tokens": 16, "temperature": 1, "seed": 7}
    assert c.generate("Once", **drawn)[0] == s.http.post("/v1/completions", json=body).json()["choices"][0]["text"]


def test_what_an_answer_reuses_and_whose_it_is(services):
    _, c = services()
    long = "Twelve ships sailed from the harbour with grain. " * 12
    assert c.generate(long, max_tokens=1)[1].cached_tokens == 0
    assert c.generate(long, max_tokens=1)[1].cached_tokens >= 32
    assert c.generate(long, max_tokens=1, cache_salt="x")[1].cached_tokens == 0


def test_bad_requests_are_told(services):
    _, c = services()
    ask = lambda **kw: code_of(c.call("sparing.v1.Generation/Generate", kw))
    bad = grpc.StatusCode.INVALID_ARGUMENT
    assert ask()[0] == bad
    assert ask(prompt={"text": "a", "token_ids": [1]})[:2] == (bad, "prompt must have messages, or text, or token_ids, and one of them only")
    assert ask(prompt={"token_ids": [10**6]})[0] == bad
    assert ask(prompt={"messages": [{"role": "boss", "content": "a"}]})[0] == bad
    assert ask(prompt={"text": "a"}, temperature=3)[0] == bad
    assert ask(prompt={"text": "a"}, priority=9)[0] == bad
    assert ask(prompt={"text": "a"}, stop=[""])[0] == bad
    assert ask(prompt={"text": "a"}, stop=["x"] * 99)[0] == bad
    assert ask(prompt={"text": "a"}, model="nobody")[0] == grpc.StatusCode.NOT_FOUND
    assert ask(prompt={"text": "word " * 100_000})[0] == bad  # the context holds less
    assert code_of(c.call("sparing.v1.Generation/Generate", raw=b"\xff\xff\xff"))[0] == bad
    assert code_of(c.call("sparing.v1.Generation/Generate", raw=b"\x12" + b"\xff" * 9))[0] == bad
    assert code_of(c.call("sparing.v1.Generation/Generate", {"prompt": {"text": "a" * (5 << 20)}}))[0] == grpc.StatusCode.RESOURCE_EXHAUSTED
    assert code_of(lambda: c.channel.unary_unary("/sparing.v1.Generation/Nothing")(b"", timeout=600))[0] == grpc.StatusCode.UNIMPLEMENTED
    assert c.generate("still here", max_tokens=1)[1].completion_tokens == 1


def test_a_client_that_leaves_ends_the_work(services):
    s, c = services()
    call = c.call("sparing.v1.Generation/Generate", {"prompt": {"text": "Count on:"}, "max_tokens": 4000, "ignore_end": True})
    assert next(call).text
    call.cancel()
    wait_until(lambda: s.metric("sparing_requests_running") == 0, "the end of the work")
    assert s.metric('sparing_requests_total{result="cancelled"}') >= 1


def test_deadlines(services):
    s, c = services()
    call = c.call("sparing.v1.Generation/Generate", {"prompt": {"text": "Count on:"}, "max_tokens": 100_000, "ignore_end": True}, timeout=0.3)
    assert code_of(call)[0] == grpc.StatusCode.DEADLINE_EXCEEDED
    wait_until(lambda: s.metric("sparing_requests_running") == 0, "the end of the work")


def test_overload_says_when_to_come_again(services):
    _, c = services("--max-run", "1", "--max-queue", "1")
    calls = [c.call("sparing.v1.Generation/Generate", {"prompt": {"text": f"{i} count on:"}, "max_tokens": 300, "ignore_end": True}) for i in range(12)]
    ends = []
    for call in calls:
        try:
            list(call)
            ends.append((grpc.StatusCode.OK, {}))
        except grpc.RpcError as e:
            ends.append((e.code(), dict(e.trailing_metadata())))
    refused = [meta for code, meta in ends if code == grpc.StatusCode.RESOURCE_EXHAUSTED]
    assert refused and len(refused) + sum(code == grpc.StatusCode.OK for code, _ in ends) == 12
    assert all(1000 <= int(meta["grpc-retry-pushback-ms"]) <= 3_600_000 for meta in refused)


def test_many_streams_at_once(services):
    _, c = services("--max-queue", "1000")
    want = c.generate("A, B, C,", max_tokens=8)[0]
    with concurrent.futures.ThreadPoolExecutor(40) as pool:
        assert list(pool.map(lambda _: c.generate("A, B, C,", max_tokens=8)[0], range(80))) == [want] * 80


# --- who may call ----------------------------------------------------------------------------------

def test_keys(services, tmp_path):
    s, c = services("--keys", write_keys(tmp_path / "keys", {"k-ann": "ann", "k-bob": "bob"}))
    refused = s.http.get("/metrics", headers={"Authorization": "Bearer k-ann"})
    assert refused.status_code == 200
    for key in (None, "wrong"):
        c.key = key
        assert code_of(c.call("sparing.v1.Generation/Generate", {"prompt": {"text": "a"}}))[0] == grpc.StatusCode.UNAUTHENTICATED
    long = "Twelve ships sailed from the harbour with grain. " * 12
    known = {}
    for key in ("k-ann", "k-bob", "k-ann"):
        c.key = key
        known.setdefault(key, []).append(c.generate(long, max_tokens=1)[1].cached_tokens)
    assert known["k-bob"] == [0] and known["k-ann"][0] == 0 and known["k-ann"][1] >= 32
    c.key = None
    assert c.generate("a", max_tokens=1, metadata=[("x-api-key", "k-bob")])[1].completion_tokens == 1
    entries = s.http.get("/v1/requests", headers={"Authorization": "Bearer k-bob"})
    assert entries.status_code in (200, 404)


def test_roles_offer_their_services(make_server):
    for role, offered in (("generation", {"Generation", "Pages"}), ("retrieval", {"Retrieval"}), ("reasoning", {"Reasoning", "Pages"}),
                          ("retrieval,generation", {"Generation", "Retrieval", "Pages"})):
        s = make_server(*GRPC, "--role", role)
        c = Client(s)
        names = {n for n in c.base.get_services() if n.startswith("sparing.")}
        assert names == {f"sparing.v1.{x}" for x in offered}
        health = health_pb2_grpc.HealthStub(c.channel)
        for name in ("Generation", "Retrieval", "Reasoning", "Pages"):
            ask = health_pb2.HealthCheckRequest(service=f"sparing.v1.{name}")
            if name in offered:
                assert health.Check(ask, timeout=600).status == health_pb2.HealthCheckResponse.SERVING
            else:
                with pytest.raises(grpc.RpcError) as e:
                    health.Check(ask, timeout=600)
                assert e.value.code() == grpc.StatusCode.NOT_FOUND
        c.close()
    for bad in ("cook", "all,cook", ","):
        with pytest.raises(RuntimeError, match="role"):
            make_server(*GRPC, "--role", bad)
    for bad in ("127.0.0.1", ":5000", "127.0.0.1:x", "127.0.0.1:70000", "0.0.0.0:0"):
        with pytest.raises(RuntimeError, match="grpc"):
            make_server("--grpc", bad)


# --- health and reflection -------------------------------------------------------------------------

def test_health_and_draining(services):
    s, c = services()
    health = health_pb2_grpc.HealthStub(c.channel)
    serving, states = health_pb2.HealthCheckResponse.SERVING, health_pb2.HealthCheckResponse
    assert health.Check(health_pb2.HealthCheckRequest(), timeout=600).status == serving
    unknown = health.Watch(health_pb2.HealthCheckRequest(service="nobody"), timeout=600)
    assert next(unknown).status == states.SERVICE_UNKNOWN
    unknown.cancel()
    watch = health.Watch(health_pb2.HealthCheckRequest(service="sparing.v1.Generation"), timeout=600)
    assert next(watch).status == serving
    call = c.call("sparing.v1.Generation/Generate", {"prompt": {"text": "Count on:"}, "max_tokens": 200, "ignore_end": True})
    assert next(call).text
    s.proc.send_signal(signal.SIGTERM)
    assert next(watch).status == states.NOT_SERVING
    assert list(call)[-1].finish.completion_tokens == 200  # what runs is finished
    assert s.proc.wait(timeout=600) == 0


@pytest.mark.parametrize("version", ["v1", "v1alpha"])
def test_reflection(services, version):
    _, c = services()
    call = c.channel.stream_stream(f"/grpc.reflection.{version}.ServerReflection/ServerReflectionInfo",
                                   request_serializer=reflection_pb2.ServerReflectionRequest.SerializeToString,
                                   response_deserializer=reflection_pb2.ServerReflectionResponse.FromString)
    ask = [reflection_pb2.ServerReflectionRequest(**kw) for kw in (
        {"list_services": ""}, {"file_containing_symbol": "sparing.v1.Generation"}, {"file_containing_symbol": "sparing.v1.Generation.Generate"},
        {"file_by_filename": "sparing/v1/sparing.proto"}, {"file_containing_symbol": "sparing.v1.Nothing"}, {"file_by_filename": ""},
        {"all_extension_numbers_of_type": "x"}, {})]
    got = list(call(iter(ask), timeout=600))
    services_of = {x.name for x in got[0].list_services_response.service}
    assert {"sparing.v1.Generation", "sparing.v1.Retrieval", "grpc.health.v1.Health", "grpc.reflection.v1.ServerReflection"} <= services_of
    files = [list(g.file_descriptor_response.file_descriptor_proto) for g in got[1:4]]
    assert files[0] == files[1] == files[2] and len(files[0]) == 1
    assert [g.error_response.error_code for g in got[4:]] == [5, 5, 5, 3]
    assert [g.original_request for g in got] == ask


# --- retrieval -------------------------------------------------------------------------------------

def test_retrieval(services, tmp_path):
    s, c = services("--knowledge", str(tmp_path / "k.db"))
    store = s.http.post("/v1/vector_stores", json={"name": "ships"}).json()["id"]
    text = "The lighthouse of Arvik was built in 1874. It has a red roof."
    f = s.http.post("/v1/files", files={"file": ("arvik.txt", text)}, data={"purpose": "assistants"}).json()["id"]
    s.http.post(f"/v1/vector_stores/{store}/files", json={"file_id": f})
    wait_until(lambda: s.http.get(f"/v1/vector_stores/{store}/files/{f}").json()["status"] == "completed", "reading")
    for where in ({"collections": [store]}, {"collection_name": "ships"}):
        r = c.call("sparing.v1.Retrieval/Retrieve", {"query": "When was the lighthouse of Arvik built?", **where})
        assert "1874" in r.passages[0].text and r.passages[0].filename == "arvik.txt" and r.passages[0].score > 0
    bad = grpc.StatusCode.INVALID_ARGUMENT
    future = lambda **kw: code_of(lambda: c.call("sparing.v1.Retrieval/Retrieve", kw))[0]
    assert future(query="x") == bad and future(collection_name="ships") == bad and future(query="x", collections=["a"] * 20) == bad
    assert future(query="x", collections=["vs_nothing"]) == grpc.StatusCode.NOT_FOUND
    assert future(query="x" * 5000, collection_name="ships") == bad


# --- wire ------------------------------------------------------------------------------------------

def test_garbage_on_the_wire_ends_only_its_connection(services):
    _, c = services()
    host, port = c.target.rsplit(":", 1)
    preface = b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n"
    for junk in (b"GET / HTTP/1.1\r\n\r\n", b"\x00" * 100, preface + b"\xff" * 200, preface + b"\x00\x00\x00\x04\x00\x00\x00\x00\x00" + b"\x00\x00\x05\x00\x00\x00\x00\x00\x01hello"):
        with socket.create_connection((host, int(port))) as sock:
            sock.sendall(junk)
            sock.settimeout(600)
            while sock.recv(4096):
                pass
    assert c.generate("still here", max_tokens=1)[1].completion_tokens == 1
