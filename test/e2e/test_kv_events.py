"""KV events: what a server holds, as gateways hear it; and a picker that routes by nothing else over three servers."""
import random
import re

import pytest

from conftest import wait_until, write_keys
from kv_index import Index, chain

EVENTS = ("--kv-events", "tcp://127.0.0.1:*", "--kv-events-replay", "tcp://127.0.0.1:*")


def endpoints(server):
    line = next(x for x in server.log if "KV events of" in x)
    return re.search(r"on (tcp://\S+?), repeated on (tcp://\S+)", line).groups()


@pytest.fixture
def watched(make_server):
    """Makes servers with events, and an index of each."""
    made = []

    def make(*opts, **kw):
        s = make_server(*EVENTS, *opts, **kw)
        made.append(Index(*endpoints(s)))
        return s, made[-1]

    yield make
    for index in made:
        index.close()


def ids_of(rnd, n):
    return [rnd.randrange(1000, 4000) for _ in range(n)]


def hears(index, keys, n):
    """Waits until the index knows n blocks of a prompt."""
    wait_until(lambda: index.poll(10) or index.known(keys) >= n, f"{n} blocks")


def test_blocks_are_told_as_they_come(watched):
    s, index = watched()
    name = s.http.get("/v1/models").json()["data"][0]["id"]
    ids = ids_of(random.Random(1), 130)
    s.prefix(ids, 4)
    hears(index, chain(ids, 32), 4)
    assert index.topics == {f"kv@127.0.0.1:{s.port}@{name}"}
    assert index.events[0] == ["AllBlocksCleared"]
    stored = [e for e in index.events if e[0] == "BlockStored"]
    assert [e[3] for e in stored[:4]] == [ids[i : i + 32] for i in range(0, 128, 32)]
    assert stored[0][2] is None and [e[2] for e in stored[1:4]] == [e[1][0] for e in stored[:3]]
    before = len(index.events)
    s.prefix(ids, 1)  # known now: nothing new to tell
    index.poll(100)
    assert [e for e in index.events[before:] if e[0] == "BlockStored" and e[3] in [x[3] for x in stored[:4]]] == []


def test_salts_are_part_of_what_is_told(watched):
    s, index = watched()
    ids = ids_of(random.Random(2), 100)
    for salt in ("blue", None):
        s.prefix(ids, 1, **({"cache_salt": salt} if salt else {}))
        hears(index, chain(ids, 32, salt), 3)
        assert salt is None or index.known(chain(ids, 32)) == 0
    first = [e for e in index.events if e[0] == "BlockStored" and e[2] is None]
    assert [e[8] for e in first] == [[["blue"]], None]


def test_what_leaves_the_memory_is_told_and_late_ones_know_the_same(watched):
    s, index = watched("--kv-bytes", "2M")  # far fewer pages than the prompts have
    rnd = random.Random(3)
    for _ in range(30):
        s.prefix(ids_of(rnd, 200), 1)
    index.poll(50)
    s.http.post("/v1/completions", json={"prompt": "the end", "max_tokens": 1})
    wait_until(lambda: index.poll(20) or any(e[0] == "BlockRemoved" for e in index.events), "removals")
    late = Index(*endpoints(s))
    pages = s.metric('sparing_kv_pages{state="cached"}')
    wait_until(lambda: index.poll(10) or late.poll(10) or (late.of == index.of and len(index.of) == pages), "the same blocks")
    assert late.gaps == 0
    late.close()


def test_a_forgotten_tenant_is_told(watched, tmp_path):
    s, index = watched("--history", str(tmp_path / "h.db"), "--keys", write_keys(tmp_path / "keys.txt", {"k-ann": "ann"}))
    s.http.headers["Authorization"] = "Bearer k-ann"
    ids = ids_of(random.Random(4), 100)
    s.prefix(ids, 1)
    keys = chain(ids, 32)
    hears(index, keys, 3)
    assert s.http.delete("/v1/tenant").status_code == 200
    wait_until(lambda: index.poll(10) or index.known(keys) == 0, "forgetting")


def test_endpoints_are_checked(make_server):
    for opts, says in ((["--kv-events", "tcp://0.0.0.0:5557"], "without --keys only"), (["--kv-events-replay", "tcp://127.0.0.1:*"], "has no effect without --kv-events"),
                       (["--kv-events", "nonsense://x"], "without --keys only"), (["--kv-events", "tcp://127.0.0.1:notaport"], "cannot bind")):
        with pytest.raises(RuntimeError, match=says):
            make_server(*opts)


# --- a picker ----------------------------------------------------------------------------------------

def figures(server):
    """What a picker reads beside events: how loaded a server is."""
    text = server.http.get("/metrics").text
    of = lambda name: sum(float(x) for x in re.findall(rf"^vllm:{name}{{[^}}]*}} (\S+)$", text, re.M))
    return of("num_requests_waiting"), of("num_requests_running"), of("kv_cache_usage_perc")


def test_a_picker_by_events_hits_nearly_as_often_as_one_that_knows_all(watched):
    """Families of prompts with beginnings in common over three servers. Whoever knows all sends each request where most of it is known."""
    rnd = random.Random(5)
    servers = [watched("--kv-bytes", "64M") for _ in range(3)]
    size = {int(re.search(r'block_size="(\d+)"', s.http.get("/metrics").text)[1]) for s, _ in servers}
    assert size == {32}
    families = [ids_of(rnd, 64 + 32 * (i % 5)) for i in range(9)]
    given = [set(), set(), set()]  # what each server was ever asked: nothing is evicted here
    blind = [set(), set(), set()]
    hits = most = by_turns = 0
    for i in range(72):
        family = rnd.randrange(9)
        if i % 4 == 3:  # a conversation goes on: its turn becomes part of the beginning
            families[family] = families[family] + ids_of(rnd, 64)
        ids = families[family] + ids_of(rnd, 40)
        keys = chain(ids, 32)
        for _, index in servers:
            index.poll()
        score = [(index.known(keys), -sum(figures(s)), -len(given[k])) for k, (s, index) in enumerate(servers)]
        at = max(range(3), key=lambda k: score[k])
        _, usage = servers[at][0].prefix(ids, 1)
        hits += sum(usage["prompt_tokens"].get(k, 0) for k in ("ram", "ssd", "s3"))
        known = lambda held: next((n for n, key in enumerate(keys) if key not in held), len(keys))
        most += 32 * max(known(held) for held in given)
        by_turns += 32 * known(blind[i % 3])
        given[at] |= set(keys)
        blind[i % 3] |= set(keys)
        hears(servers[at][1], keys, len(keys))
    assert most > 0 and hits >= 0.9 * most, (hits, most, by_turns)
    assert by_turns < 0.8 * hits
    assert all(index.gaps == 0 for _, index in servers)
