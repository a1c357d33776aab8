"""The services when something breaks: a role that is killed, and a network between peers that is cut, slow or garbled. Whatever happens, an answer is the
right one or there is a clear error, and calls that have nothing to do with it go on."""
import concurrent.futures
import hashlib
import json
import socket
import subprocess
import sys
import threading
import time

import grpc
import pytest
from grpc_health.v1 import health_pb2, health_pb2_grpc

from conftest import BIN, PATIENCE, ROOT, Server, wait_until
from rpc import Client
from test_pages import GRPC, LONG, go_on, reasons_ticket, tickets

TEXT = (ROOT / "test/data/licences.txt").read_text()[:20_000]
GONE = {grpc.StatusCode.UNAVAILABLE, grpc.StatusCode.CANCELLED}


class Wire:
    """A TCP proxy. flow(sent, data): what becomes of bytes that the target sent, `sent` bytes after it began; None: the connection ends. up: the same for the other direction.
    tc's netem would damage packets, which TCP then sends again: this damages what TCP delivers. It also runs where the kernel has no netem."""

    def __init__(self, target, flow, up=lambda sent, data: data, size=65536):
        self.target, self.flow, self.up, self.size, self.open = target.rsplit(":", 1), flow, up, size, True
        self.socket = socket.create_server(("127.0.0.1", 0))
        self.name = f"127.0.0.1:{self.socket.getsockname()[1]}"
        threading.Thread(target=self.accept, daemon=True).start()

    def accept(self):
        while self.open:
            try:
                near = self.socket.accept()[0]
                far = socket.create_connection((self.target[0], int(self.target[1])))
            except OSError:
                return
            threading.Thread(target=self.pump, args=(near, far, self.up), daemon=True).start()
            threading.Thread(target=self.pump, args=(far, near, self.flow), daemon=True).start()

    def pump(self, source, to, flow):
        sent = 0
        try:
            while data := source.recv(self.size):
                out = flow(sent, data)
                if out is None:
                    break
                to.sendall(out)
                sent += len(data)
        except OSError:
            pass
        for s in (source, to):
            try:
                s.shutdown(socket.SHUT_RDWR)
            except OSError:
                pass

    def close(self):
        self.open = False
        self.socket.close()


def cut(at):
    return lambda sent, data: data if sent + len(data) < at else None


def flip(at):
    def flow(sent, data):
        if sent <= at < sent + len(data):
            data = bytearray(data)
            data[at - sent] ^= 0x20
        return bytes(data)

    return flow


def slow(sent, data):
    time.sleep(0.002)
    return data


def lost(at):
    return lambda sent, data: data if sent + len(data) < at else b""  # from there on nothing comes, and nothing ends


FAULTS = {"cut at once": cut(1), "cut in the head": cut(100), "cut in a record": cut(200_000), "a bit in the frames": flip(9), "a bit in the head": flip(80),
          "a bit in a record": flip(150_000), "another bit": flip(201_001), "slow": slow, "lost": lost(200_000)}


def reason(client, salt):
    return client.call("sparing.v1.Reasoning/Reason", {"prompt": {"text": LONG}, "cache_salt": salt})


@pytest.mark.parametrize("fault", FAULTS)
def test_a_bad_network_between_peers(make_server, fault):
    a = make_server(*GRPC)
    ca = Client(a)
    wire = Wire(ca.target, FAULTS[fault])
    b = make_server(*GRPC, "--peers", wire.name)
    cb = Client(b)
    r = reason(ca, "blue")
    t = reasons_ticket(cb, r)
    t.server = wire.name
    text, finish = go_on(cb, r, t, cache_salt="blue")
    assert text == a.http.post("/v1/completions", json={"prompt": list(r.token_ids), "max_tokens": 16, "temperature": 0}).json()["choices"][0]["text"]
    ended = tickets(b)
    n_slower = b.metric('sparing_tickets_total{result="slower"}')
    assert ended["refused"] == 0 and ended["whole"] + ended["broken"] + n_slower == 1 and (n_slower == 0 or fault == "lost")
    assert (finish.cached_tokens == r.ticket.n_tokens) == bool(ended["whole"])
    assert ended["whole"] == 1 or fault != "slow"
    assert fault in ("slow", "lost", "a bit in the frames") or ended["broken"] == 1
    wire.close()
    ca.close()
    cb.close()


def trickle(sent, data):
    """1 KB a second: above what a stalled connection gives, and far below what computing gives."""
    time.sleep(len(data) / 1024)
    return data


def test_a_transfer_that_is_slower_than_computing_is_given_up(make_server):
    """The prompt's pages have about 300 KB. What computing costs is measured by the server, so that a machine with much other work keeps the order of the two."""
    a = make_server(*GRPC)
    ca = Client(a)
    wire = Wire(ca.target, trickle, size=1024)
    b = make_server(*GRPC, "--peers", wire.name)
    cb = Client(b)
    r = reason(ca, "blue")
    t = reasons_ticket(cb, r)
    t.server = wire.name
    text, finish = go_on(cb, r, t, cache_salt="blue")
    assert text == a.http.post("/v1/completions", json={"prompt": list(r.token_ids), "max_tokens": 16, "temperature": 0}).json()["choices"][0]["text"]
    assert finish.cached_tokens < r.ticket.n_tokens and b.metric('sparing_tickets_total{result="slower"}') == 1 and set(tickets(b).values()) == {0}
    wire.close()
    ca.close()
    cb.close()


def test_a_deadline_ends_the_wait_for_a_peer(make_server):
    """Nothing comes of pages that are said to be computed: the caller is told in time, and the next one's pages are fetched."""
    a = make_server(*GRPC)
    ca = Client(a)
    wire = Wire(ca.target, lost(1))
    b = make_server(*GRPC, "--peers", f"{wire.name},{ca.target}")
    cb = Client(b)
    r = reason(ca, "blue")
    t = reasons_ticket(cb, r)
    t.server, t.ahead = wire.name, True
    with pytest.raises(grpc.RpcError) as e:
        list(cb.call("sparing.v1.Generation/Generate", {"prompt": {"token_ids": list(r.token_ids)}, "max_tokens": 4, "ticket": t, "cache_salt": "blue"}, timeout=1))
    assert e.value.code() == grpc.StatusCode.DEADLINE_EXCEEDED
    assert go_on(cb, r, cache_salt="blue")[1].cached_tokens == r.ticket.n_tokens
    wait_until(lambda: tickets(b) == {"whole": 1, "broken": 1, "refused": 0}, "both tickets")
    wire.close()
    ca.close()
    cb.close()


ROLES = ("retrieval", "reasoning", "generation")


class Trio:
    """Three servers with a role each, which come again at their addresses, and what is right: the passages, the prompt and the answer."""

    def __init__(self, folder):
        self.more = {"retrieval": ("--knowledge", str(folder / "k.db")), "reasoning": (), "generation": ("--max-queue", "1000")}
        self.servers, self.at, self.clients = {}, {k: "127.0.0.1:0" for k in ROLES}, {}
        for k in ROLES:
            self.start(k)
            self.at[k] = Client.target_of(self.servers[k])
            self.clients[k] = Client(self.servers[k])
            if k == "reasoning":
                self.more["generation"] += ("--peers", self.at[k])
        self.store = collection(self.servers["retrieval"])
        self.passages = self.retrieve()
        self.answer = self.generate(self.reason("first"), "first")
        self.short = self.clients["generation"].generate("One, two, three,", max_tokens=12)[0]

    def start(self, role):
        self.servers[role] = Server("--grpc", self.at[role], "--role", role, *self.more[role])

    def retrieve(self):
        found = self.clients["retrieval"].call("sparing.v1.Retrieval/Retrieve", {"query": "What is said about patents?", "collections": [self.store], "limit": 3})
        return [p.text for p in found.passages]

    def reason(self, salt):
        return reason(self.clients["reasoning"], salt)

    def generate(self, reasons, salt):
        return go_on(self.clients["generation"], reasons, reasons_ticket(self.clients["generation"], reasons), cache_salt=salt)[0]

    def alone(self, role, i):
        """Work that needs nobody else."""
        if role == "retrieval":
            assert self.retrieve() == self.passages
        elif role == "reasoning":
            assert len(self.clients[role].call("sparing.v1.Reasoning/Reason", {"prompt": {"token_ids": [5 + i % 1000] * 40}}).ticket.page) == 1
        else:
            assert self.clients[role].generate("One, two, three,", max_tokens=12)[0] == self.short

    def close(self):
        for c in self.clients.values():
            c.close()
        for s in self.servers.values():
            assert s.stop() == 0


def collection(server):
    store = server.http.post("/v1/vector_stores", json={"name": "licences"}).json()["id"]
    f = server.http.post("/v1/files", files={"file": ("licences.txt", TEXT)}, data={"purpose": "assistants"}).json()["id"]
    server.http.post(f"/v1/vector_stores/{store}/files", json={"file_id": f})
    wait_until(lambda: server.http.get(f"/v1/vector_stores/{store}/files/{f}").json()["status"] == "completed", "the text")
    return store


def kill_under_load(folder, victims, killed=lambda done, told_s: None):
    """Three roles, of which one after the other is killed while all have work: chains through all three, and calls that need one of them alone. killed: called after each kill with what was
    done since the last one, and the seconds until the last of the calls that were under way or began meanwhile was told."""
    trio, stop = Trio(folder), threading.Event()
    done, lock, told = {"chains": 0, **{f"{k} {what}": 0 for k in ROLES for what in ("own", "refused")}}, threading.Lock(), [0.0]
    dead_since = {}

    def count(what):
        with lock:
            done[what] += 1

    def step(role, fn):
        """None: this role is away, and that is said."""
        begin = time.monotonic()
        try:
            return fn()
        except grpc.RpcError as e:
            assert e.code() in GONE, e
            told[0] = max(told[0], time.monotonic() - max(begin, dead_since.get(role, begin)))
            count(f"{role} refused")
            time.sleep(0.05)
            return None

    def chain(k):
        for i in range(1_000_000):
            if stop.is_set():
                return
            salt = f"{k}-{i}"
            passages = step("retrieval", trio.retrieve)
            reasons = passages and step("reasoning", lambda: trio.reason(salt))
            answer = reasons and step("generation", lambda: trio.generate(reasons, salt))
            assert passages in (None, trio.passages) and answer in (None, trio.answer)  # from pages of the peer, or without them
            if answer:
                count("chains")

    def alone(role):
        for i in range(1_000_000):
            if stop.is_set():
                return
            if step(role, lambda: trio.alone(role, i) or True):
                count(f"{role} own")

    def wait_for(keys, was, n, what):
        wait_until(lambda: all(done[k] > was[k] + n for k in keys) or not all(f.running() for f in work), what)

    every = ["chains", *(f"{k} own" for k in ROLES)]
    with concurrent.futures.ThreadPoolExecutor(5) as pool:
        work = [pool.submit(chain, k) for k in range(2)] + [pool.submit(alone, k) for k in ROLES]
        try:
            for victim in victims:
                before = was = dict(done)
                wait_for(every, was, 0, "work with all")
                told[0], dead_since[victim] = 0.0, time.monotonic()
                trio.servers[victim].kill()
                was = dict(done)
                wait_for([f"{k} own" for k in ROLES if k != victim], was, 1, "work of the others")
                wait_for([f"{victim} refused"], was, 1, "calls that are refused")
                killed({k: n - before[k] for k, n in done.items()}, told[0])
                trio.start(victim)
            wait_for(every, dict(done), 0, "work with all again")
        finally:
            stop.set()
        for f in work:
            f.result(timeout=PATIENCE)
    assert trio.servers["generation"].metric("sparing_pages_fetched_total") > 0
    wait_until(lambda: all(s.metric("sparing_requests_running") == 0 for s in trio.servers.values()), "the end of all work")
    trio.close()


def test_a_role_is_killed_under_load(tmp_path):
    kill_under_load(tmp_path, ROLES)


@pytest.mark.long
def test_roles_are_killed_two_hundred_times(tmp_path):
    """Kills are counted in a file, so that a run which was broken off goes on where it was, as long as the program is the same."""
    file, program = ROOT / "build/role-kills.json", hashlib.sha256(BIN.read_bytes()).hexdigest()
    count = json.loads(file.read_text()) if file.exists() else {}
    if count.get("program") != program:
        count = {"program": program, "kills": 0, "told_s": []}

    def killed(done, told_s):
        count["kills"] += 1
        count["told_s"].append(round(told_s, 3))
        for k, n in done.items():
            count[k] = count.get(k, 0) + n
        file.with_suffix(".new").write_text(json.dumps(count))
        file.with_suffix(".new").rename(file)

    while count["kills"] < 200:
        folder = tmp_path / str(count["kills"])
        folder.mkdir()
        kill_under_load(folder, [ROLES[i % 3] for i in range(count["kills"], min(count["kills"] + 21, 200))], killed)
    told = sorted(count.pop("told_s"))
    print(count, "a kill's last call was told in s: median", told[len(told) // 2], "worst", told[-1])
    assert count["chains"] >= 200 and all(count[f"{k} own"] >= 200 for k in ROLES)
    file.unlink()


PROBE = """import sys, time, grpc
from grpc_health.v1 import health_pb2, health_pb2_grpc
health = health_pb2_grpc.HealthStub(grpc.insecure_channel(sys.argv[1]))
print("ready", flush=True)
for line in sys.stdin:
    begin = time.perf_counter()
    health.Check(health_pb2.HealthCheckRequest(), timeout=600)
    print(time.perf_counter() - begin, flush=True)
"""


def beside_idle_streams(make_server, n_idle, n_active, rounds):
    """Streams that watch health and say nothing, and beside them active ones. Memory after each round, and seconds of health checks meanwhile, which a process of its own makes: one with
    so many calls would measure itself."""
    s = make_server(*GRPC, "--max-queue", "1000")
    c = Client(s)

    def memory():
        with open(f"/proc/{s.proc.pid}/statm") as f:
            return int(f.read().split()[1]) * 4096

    channels = [grpc.insecure_channel(c.target, options=[("grpc.use_local_subchannel_pool", 1)]) for _ in range(20)]
    idle = [health_pb2_grpc.HealthStub(channels[i % 20]).Watch(health_pb2.HealthCheckRequest()) for i in range(n_idle)]
    for call in idle:
        assert next(call).status == health_pb2.HealthCheckResponse.SERVING
    sizes, health = [], []
    probe = subprocess.Popen([sys.executable, "-c", PROBE, c.target], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True)
    assert probe.stdout.readline() == "ready\n"
    with concurrent.futures.ThreadPoolExecutor(n_active) as pool:
        for _ in range(rounds):
            work = [pool.submit(c.generate, f"{i} ships", max_tokens=16) for i in range(n_active)]
            while not all(f.done() for f in work):
                print(file=probe.stdin, flush=True)
                health.append(float(probe.stdout.readline()))
                time.sleep(0.005)
            assert all(f.result()[1].completion_tokens for f in work)
            sizes.append(memory())
    probe.communicate()
    assert probe.returncode == 0
    for call in idle:
        call.cancel()
    for x in channels:
        x.close()
    c.close()
    return sizes, sorted(health)


def test_idle_streams(make_server):
    sizes, health = beside_idle_streams(make_server, 600, 20, 4)
    assert health and sizes[-1] < sizes[1] + (8 << 20)


@pytest.mark.long
def test_ten_thousand_idle_streams(make_server):
    """Half of the calls that a server takes may need no key. How long health takes is asked of a machine that does nothing else."""
    sizes, health = beside_idle_streams(make_server, 9990, 200, 6)
    print("MiB", [x >> 20 for x in sizes], "health ms: median", 1000 * health[len(health) // 2], "worst", 1000 * health[-1])
    assert sizes[-1] < sizes[1] + (32 << 20)
