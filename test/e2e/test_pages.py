"""Reasoning here, generation there: a ticket to a prompt's pages, and the pages handed over. What cannot be had is computed, and the answer is the same."""
import concurrent.futures
import json

import grpc
import pytest
from google.protobuf.json_format import MessageToDict

from conftest import PATIENCE, wait_until, write_keys
from rpc import Client
from test_states import ids, roomy

LONG = "Twelve ships sailed from the harbour of Arvik with grain, wine and cloth; the captain counted them twice. " * 14
GRPC = ("--grpc", "127.0.0.1:0")
COUNT_ON = {"prompt": "Count on:", "max_tokens": 8000, "temperature": 0, "ignore_eos": True, "stream": True}  # for as long as a test wants


@pytest.fixture
def pair(make_server):
    """A server that reasons, and one that generates and takes its pages. In one process each could be the other."""
    made = []

    def make(*opts, peers=True, first=()):
        a = make_server(*GRPC, "--role", "reasoning", *opts, *first)
        made.append(Client(a))
        more = ["--peers", made[-1].target] if peers is True else ["--peers", peers] if peers else []
        b = make_server(*GRPC, "--role", "generation", *opts, *more)
        made.append(Client(b))
        return a, made[-2], b, made[-1]

    yield make
    for c in made:
        c.close()


def reason(client, **kw):
    return client.call("sparing.v1.Reasoning/Reason", {"prompt": {"text": LONG}, **kw})


def ticket_of(reasons):
    return MessageToDict(reasons.ticket, preserving_proto_field_name=True)


def go_on(client, reasons, ticket=None, n=16, **kw):
    return client.generate(prompt={"token_ids": list(reasons.token_ids)}, max_tokens=n, ticket=ticket or reasons_ticket(client, reasons), **kw)


def reasons_ticket(client, reasons):
    """The ticket as a message of this client's own classes."""
    return client.type("sparing.v1.Ticket").FromString(reasons.ticket.SerializeToString())


def tickets(server):
    return {r: server.metric(f'sparing_tickets_total{{result="{r}"}}') for r in ("whole", "broken", "refused")}


def test_pages_are_handed_over(pair):
    a, ca, b, cb = pair()
    r = reason(ca)
    n_page = len(r.ticket.page)
    assert len(r.token_ids) > 200 and n_page == (len(r.token_ids) - 1) // 32 and r.ticket.n_tokens == 32 * n_page
    assert r.ticket.server == ca.target and r.path == "full" and r.why
    text, finish = go_on(cb, r)
    assert finish.cached_tokens == r.ticket.n_tokens and tickets(b) == {"whole": 1, "broken": 0, "refused": 0}
    assert b.metric("sparing_pages_fetched_total") == n_page
    assert text == a.http.post("/v1/completions", json={"prompt": list(r.token_ids), "max_tokens": 16, "temperature": 0}).json()["choices"][0]["text"]
    exact = [s.http.post("/v1/completions", json={"prompt": list(r.token_ids), "max_tokens": 8, "temperature": 0, "logprobs": 3}).json()["choices"][0] for s in (a, b)]
    assert exact[0] == exact[1]  # bit for bit, from pages that were computed there and here
    again = go_on(cb, r)
    assert again[0] == text and b.metric("sparing_pages_fetched_total") == n_page  # nothing new to take


def prompt_tokens(receipt):
    return json.loads(receipt)["prompt_tokens"]


def test_no_token_is_computed_twice(pair):
    """Who reasons computes the pages of its ticket, and who generates the rest."""
    a, ca, b, cb = pair()
    r = reason(ca)
    n, n_page_tok = len(r.token_ids), r.ticket.n_tokens
    assert 0 < n - n_page_tok <= 32 and n % 32
    first, again = prompt_tokens(r.receipt), prompt_tokens(reason(ca).receipt)
    assert (first["computed"], first["ram"]) == (n_page_tok, 0) and (again["computed"], again["ram"]) == (0, n_page_tok)
    there = prompt_tokens(go_on(cb, r)[1].receipt)
    assert (there["computed"], there["ram"]) == (n - n_page_tok, n_page_tok)
    ids = list(r.token_ids)
    for k in (1, 31, 32, 33, 64, 65):  # of a prompt that fills no page, all is computed
        x = ca.call("sparing.v1.Reasoning/Reason", {"prompt": {"token_ids": ids[:k]}, "cache_salt": f"{k}"})
        assert x.ticket.n_tokens == (k - 1) // 32 * 32 and prompt_tokens(x.receipt)["computed"] == (x.ticket.n_tokens or k)


def test_what_is_here_is_not_asked_for(pair):
    """Of the next turn of a conversation the pages behind those of the last one travel, and of a prompt whose pages are all here none: its peer may be gone."""
    a, ca, b, cb = pair()
    short, long = (reason(ca, prompt={"text": LONG[:n]}) for n in (len(LONG) // 2, len(LONG)))
    n_short = len(short.ticket.page)
    assert 1 < n_short < len(long.ticket.page) - 1 and list(long.ticket.page[:n_short]) == list(short.ticket.page)
    go_on(cb, short)
    given_before = sum(given(a).values())
    assert given_before == n_short
    text, finish = go_on(cb, long)
    assert finish.cached_tokens == long.ticket.n_tokens and sum(given(a).values()) - given_before == len(long.ticket.page) - n_short
    assert json.loads(finish.receipt)["handed"]["pages"] == len(long.ticket.page) - n_short
    a.kill()
    again, finish = go_on(cb, long)
    assert again == text and finish.cached_tokens == long.ticket.n_tokens and "handed" not in json.loads(finish.receipt)
    assert tickets(b) == {"whole": 3, "broken": 0, "refused": 0}


@pytest.mark.parametrize("kind", ["q8", "q4", "f16"])
def test_page_formats(pair, kind):
    a, ca, b, cb = pair("--kv-type", kind)
    r = reason(ca)
    text, finish = go_on(cb, r)
    assert finish.cached_tokens == r.ticket.n_tokens and b.metric("sparing_pages_fetched_total") == len(r.ticket.page)
    assert text == a.http.post("/v1/completions", json={"prompt": list(r.token_ids), "max_tokens": 16, "temperature": 0}).json()["choices"][0]["text"]


@pytest.mark.parametrize("name", ["fam-qwen35", "fam-falcon-h1", "fam-nemotron_h", "fam-lfm2"])
def test_states_of_recurrent_layers(make_server, tmp_path, name):
    """Of models whose layers carry a state, the state behind the last page goes with the pages."""
    opts = (*GRPC, "-m", str(roomy(name, tmp_path)), "--kv-type", "f16")
    a = make_server(*opts)
    ca = Client(a)
    b = make_server(*opts, "--peers", ca.target)
    cb = Client(b)
    prompt = ids(1500, 1)
    r = ca.call("sparing.v1.Reasoning/Reason", {"prompt": {"token_ids": prompt}})
    text, finish = go_on(cb, r)
    assert finish.cached_tokens == r.ticket.n_tokens == 1472 and tickets(b) == {"whole": 1, "broken": 0, "refused": 0}
    assert b.metric("sparing_states_fetched_total") == 1 and b.metric("sparing_pages_fetched_total") == 46
    exact = [s.exact(prompt, 16) for s in (a, b, make_server("-m", opts[3], "--kv-type", "f16", "--reuse=false"))]
    assert exact[0][0] == exact[1][0] == exact[2][0] and exact[0][0][0] == text  # bit for bit
    again = prompt_tokens(ca.call("sparing.v1.Reasoning/Reason", {"prompt": {"token_ids": prompt}}).receipt)
    assert (again["computed"], again["ram"]) == (0, 1472)
    ca.close()
    cb.close()


def test_a_state_that_is_behind_another_prompt(make_server, tmp_path):
    """A peer that gives the state of another prompt, under its own name."""
    opts = (*GRPC, "-m", str(roomy("fam-qwen35", tmp_path)), "--kv-type", "f16")
    a = make_server(*opts)
    ca = Client(a)
    r, other = (ca.call("sparing.v1.Reasoning/Reason", {"prompt": {"token_ids": ids(500, seed)}}) for seed in (1, 2))
    own, wrong = (list(ca.call("sparing.v1.Pages/Fetch", {"ticket": x.ticket})) for x in (r, other))
    last = max(c.record for c in own)
    mixed = [c for c in own if c.record < last] + [c for c in wrong if c.record == last]

    class Mixer(grpc.GenericRpcHandler):
        def service(self, details):
            return grpc.unary_stream_rpc_method_handler(lambda request, context: iter([c.SerializeToString() for c in mixed]))

    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Mixer(),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    b = make_server(*opts, "--peers", f"127.0.0.1:{port}")
    cb = Client(b)
    t = reasons_ticket(cb, r)
    t.server = f"127.0.0.1:{port}"
    text, finish = go_on(cb, r, t)
    assert text == a.prefix(ids(500, 1), 16)[0] and finish.cached_tokens == 0
    assert tickets(b)["broken"] == 1 and b.metric("sparing_states_fetched_total") == 0
    server.stop(None)
    ca.close()
    cb.close()


def given(server):
    return {w: server.metric(f'sparing_pages_given_total{{when="{w}"}}') for w in ("ahead", "after")}


def test_pages_are_taken_while_their_prompt_is_computed(pair):
    """A ticket that comes ahead: what is there of its pages is taken at once, and the rest when it is computed, which it cannot be while another answer has the only place."""
    a, ca, b, cb = pair(first=("--max-run", "1"))
    known = ca.call("sparing.v1.Reasoning/Reason", {"prompt": {"text": LONG[:len(LONG) // 2]}})
    with a.http.stream("POST", "/v1/completions", json=COUNT_ON) as other:
        lines = other.iter_lines()  # dropping it would close the connection
        next(lines)
        stream = ca.call("sparing.v1.Reasoning/ReasonAhead", {"prompt": {"text": LONG}})
        r = next(stream)
        n_page = len(r.ticket.page)
        assert r.ticket.ahead and n_page == (len(r.token_ids) - 1) // 32 and not r.receipt and r.path == "full"
        n_known = sum(x == y for x, y in zip(r.ticket.page, known.ticket.page))
        assert 0 < n_known < n_page - 1
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(go_on, cb, r)
            wait_until(lambda: given(a)["ahead"] >= n_known, "the pages that are there")
            assert not answer.done()
            other.close()
            text, finish = answer.result(timeout=PATIENCE)
    last = list(stream)
    assert len(last) == 1 and last[0].receipt and not last[0].ticket.ahead and last[0].ticket.page == r.ticket.page
    assert finish.cached_tokens == r.ticket.n_tokens and tickets(b) == {"whole": 1, "broken": 0, "refused": 0}
    assert b.metric("sparing_pages_fetched_total") == n_page == sum(given(a).values())
    assert text == a.http.post("/v1/completions", json={"prompt": list(r.token_ids), "max_tokens": 16, "temperature": 0}).json()["choices"][0]["text"]
    handed = json.loads(finish.receipt)["handed"]
    assert handed["pages"] == n_page and n_known <= handed["early"]["pages"] <= n_page and 0 < handed["late_ms"] < handed["ms"]
    assert handed["bytes"] >= handed["early"]["bytes"] > handed["bytes"] * handed["early"]["pages"] // n_page // 2
    late = ca.call("sparing.v1.Reasoning/Reason", {"prompt": {"text": "Late. " + LONG}})  # a ticket that is late
    handed = json.loads(go_on(cb, late)[1].receipt)["handed"]
    assert tickets(b)["whole"] == 2 and given(a)["after"] >= len(late.ticket.page)
    assert handed["pages"] == len(late.ticket.page) and handed["early"] == {"pages": 0, "bytes": 0} and handed["late_ms"] == handed["ms"]
    assert "handed" not in json.loads(cb.generate(prompt={"text": "Hello"}, max_tokens=1)[1].receipt)


def test_a_prompt_is_given_up_whose_pages_are_waited_for(pair):
    """Who reasons leaves: the work ends, and who waits for the pages computes what did not come."""
    a, ca, b, cb = pair(first=("--max-run", "1"))
    known = ca.call("sparing.v1.Reasoning/Reason", {"prompt": {"text": LONG[:len(LONG) // 2]}})
    with a.http.stream("POST", "/v1/completions", json=COUNT_ON) as other:
        lines = other.iter_lines()  # dropping it would close the connection
        next(lines)
        stream = ca.call("sparing.v1.Reasoning/ReasonAhead", {"prompt": {"text": LONG}})
        r = next(stream)
        n_known = sum(x == y for x, y in zip(r.ticket.page, known.ticket.page))
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(go_on, cb, r)
            wait_until(lambda: given(a)["ahead"] >= n_known, "the pages that are there")
            stream.cancel()
            text, finish = answer.result(timeout=PATIENCE)
        assert finish.cached_tokens == 32 * given(a)["ahead"] < r.ticket.n_tokens and given(a)["after"] == 0
    assert text == a.http.post("/v1/completions", json={"prompt": list(r.token_ids), "max_tokens": 16, "temperature": 0}).json()["choices"][0]["text"]


def test_a_state_is_taken_when_its_prompt_is_computed(make_server, tmp_path):
    """The state of recurrent layers comes behind the last page, when all is computed."""
    opts = (*GRPC, "-m", str(roomy("fam-lfm2", tmp_path)), "--kv-type", "f16")
    a = make_server(*opts, "--max-run", "1")
    ca = Client(a)
    b = make_server(*opts, "--peers", ca.target)
    cb = Client(b)
    with a.http.stream("POST", "/v1/completions", json=COUNT_ON | {"prompt": ids(40, 2), "max_tokens": 1000}) as other:
        lines = other.iter_lines()  # dropping it would close the connection
        next(lines)
        stream = ca.call("sparing.v1.Reasoning/ReasonAhead", {"prompt": {"token_ids": ids(1500, 1)}})
        r = next(stream)
        with concurrent.futures.ThreadPoolExecutor(1) as pool:
            answer = pool.submit(go_on, cb, r)
            other.close()
            text, finish = answer.result(timeout=PATIENCE)
    list(stream)
    assert finish.cached_tokens == r.ticket.n_tokens == 1472 and tickets(b) == {"whole": 1, "broken": 0, "refused": 0}
    assert b.metric("sparing_states_fetched_total") == 1 and text == a.prefix(ids(1500, 1), 16)[0]
    ca.close()
    cb.close()


def test_messages_and_salts(pair):
    a, ca, b, cb = pair()
    messages = [{"role": "user", "content": LONG}]
    r = ca.call("sparing.v1.Reasoning/Reason", {"prompt": {"messages": messages}, "cache_salt": "blue"})
    assert r.max_tokens and 0 <= r.difficulty <= 1
    _, finish = go_on(cb, r, cache_salt="blue")
    assert finish.cached_tokens == r.ticket.n_tokens
    assert go_on(cb, r)[1].cached_tokens == 0  # without the salt they are not this prompt's
    _, finish = cb.generate(prompt={"messages": messages}, max_tokens=4, ticket=reasons_ticket(cb, r), cache_salt="blue")
    assert finish.cached_tokens == r.ticket.n_tokens


def test_tenants_are_kept_apart(pair, tmp_path):
    keys = write_keys(tmp_path / "keys", {"k-ann": "ann", "k-bob": "bob"})
    a, ca, b, cb = pair("--keys", keys)
    ca.key = cb.key = "k-ann"
    r = reason(ca)
    cb.key = "k-bob"
    with pytest.raises(grpc.RpcError) as e:  # another's ticket opens nothing
        ca.key = "k-bob"
        list(ca.call("sparing.v1.Pages/Fetch", {"ticket": r.ticket}))
    assert e.value.code() == grpc.StatusCode.NOT_FOUND
    assert go_on(cb, r)[1].cached_tokens == 0
    cb.key = "k-ann"
    assert go_on(cb, r)[1].cached_tokens == r.ticket.n_tokens


def test_what_cannot_be_had_is_computed(pair):
    a, ca, b, cb = pair()
    r = reason(ca)
    want = b.http.post("/v1/completions", json={"prompt": list(r.token_ids), "max_tokens": 16, "temperature": 0, "cache_salt": "other"}).json()["choices"][0]["text"]
    t = reasons_ticket(cb, r)
    for change in (lambda x: setattr(x, "server", "127.0.0.1:1"), lambda x: setattr(x, "model_id", b"0" * 32), lambda x: x.page.__setitem__(0, b"1" * 32)):
        bad = type(t).FromString(t.SerializeToString())
        change(bad)
        assert go_on(cb, r, bad)[0] == want
    assert tickets(b)["refused"] == 3 and b.metric("sparing_pages_fetched_total") == 0
    text = "A text that nobody knows. " * 20
    unknown = reasons_ticket(cb, reason(ca, prompt={"text": text}))
    a.kill()
    finish = cb.generate(text, max_tokens=4, ticket=unknown)[1]
    assert finish.cached_tokens == 0 and tickets(b)["broken"] == 1


class Liar(grpc.GenericRpcHandler):
    """A peer that gives records which are not what they should be."""

    def __init__(self, client, ticket, spoil):
        self.real, self.ticket, self.spoil = client, ticket, spoil

    def service(self, details):
        def fetch(request, context):
            for i, chunk in enumerate(self.real.call("sparing.v1.Pages/Fetch", {"ticket": self.ticket})):
                for out in self.spoil(i, chunk):
                    yield out.SerializeToString()

        return grpc.unary_stream_rpc_method_handler(fetch)


def spoilers():
    def flip(at):
        def spoil(i, c):
            data = bytearray(c.data)
            data[at % len(data)] ^= 1
            c.data = bytes(data)
            yield c

        return spoil

    def change(name, value):
        def spoil(i, c):
            setattr(c, name, value)
            yield c

        return spoil

    def stop(i, c):
        if i == 0:
            yield c

    def twice(i, c):
        yield c
        yield c

    return {"a flipped bit": flip(70_000), "another offset": change("offset", 5), "a huge record": change("record_bytes", 1 << 50), "an empty chunk": change("data", b""),
            "it stops": stop, "chunks twice": twice}


@pytest.mark.parametrize("lie", spoilers())
def test_lies_of_a_peer_change_nothing(make_server, lie):
    a = make_server(*GRPC)
    ca = Client(a)
    r = reason(ca)
    server = grpc.server(concurrent.futures.ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((Liar(ca, r.ticket, spoilers()[lie]),))
    port = server.add_insecure_port("127.0.0.1:0")
    server.start()
    b = make_server(*GRPC, "--peers", f"127.0.0.1:{port}")
    cb = Client(b)
    t = reasons_ticket(cb, r)
    t.server = f"127.0.0.1:{port}"
    text, finish = go_on(cb, r, t)
    assert text == a.http.post("/v1/completions", json={"prompt": list(r.token_ids), "max_tokens": 16, "temperature": 0}).json()["choices"][0]["text"]
    assert finish.cached_tokens < r.ticket.n_tokens or lie in ("it stops", "chunks twice")  # a record that comes again is the same record
    server.stop(None)
    ca.close()
    cb.close()


def test_bad_fetches(pair):
    _, ca, _, _ = pair()
    r = reason(ca)
    t = ticket_of(r)

    def code(first=0, **kw):
        with pytest.raises(grpc.RpcError) as e:
            list(ca.call("sparing.v1.Pages/Fetch", {"ticket": {**{k: v for k, v in t.items() if k not in ("page", "model_id")}, "page": list(r.ticket.page), "model_id": r.ticket.model_id, **kw}, "first": first}))
        return e.value.code()

    missing, bad = grpc.StatusCode.NOT_FOUND, grpc.StatusCode.INVALID_ARGUMENT
    assert code(first=len(r.ticket.page)) == bad and code(page=[]) == bad and code(page=[b"short"]) == bad
    assert code(page=[b"0" * 32]) == missing and code(model_id=b"1") == missing and code(model="nobody") == missing
    chunks = list(ca.call("sparing.v1.Pages/Fetch", {"ticket": r.ticket, "first": 2}))
    assert chunks and sum(len(c.data) for c in chunks) == sum({c.record: c.record_bytes for c in chunks}.values())
    with pytest.raises(grpc.RpcError):
        list(ca.call("sparing.v1.Reasoning/Reason", {"prompt": {"text": "word " * 100_000}}) for _ in range(1))
