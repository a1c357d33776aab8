"""`sparing pull` against a server that breaks off, lies, redirects, changes its file, serves wrong bytes and hangs."""
import hashlib
import http.server
import json
import signal
import subprocess
import threading
import time

import pytest

from conftest import BIN, PATIENCE, ROOT, run

DATA = bytes(hashlib.sha256(i.to_bytes(4, "big")).digest()[0] for i in range(300_000)) * 3
OTHER = DATA[::-1]
SHA = hashlib.sha256(DATA).hexdigest()


class Handler(http.server.BaseHTTPRequestHandler):
    protocol_version = "HTTP/1.1"

    def log_message(self, *args):
        pass

    def answer(self, status, body=b"", declared=None, **headers):
        self.send_response(status)
        self.send_header("Content-Length", str(len(body) if declared is None else declared))
        for k, v in headers.items():
            self.send_header(k.replace("_", "-"), v)
        self.end_headers()
        self.wfile.write(body)
        self.close_connection = True

    def serve(self, data, etag='"one"', cut=None, honest=True):
        """cut: bytes after which the connection breaks off. honest: If-Range is obeyed."""
        at, end = 0, len(data)
        headers = {"ETag": etag} if etag else {}
        wants = self.headers.get("Range")
        if wants and (not honest or self.headers.get("If-Range") == etag):
            at = int(wants[6:].split("-")[0])
            if at >= end:
                return self.answer(416)
            headers["Content_Range"] = f"bytes {at}-{end - 1}/{end}"
        stop = end if cut is None else min(end, at + cut)
        self.answer(206 if at else 200, data[at:stop], end - at, **headers)

    def do_GET(self):
        s = self.server
        s.seen.append((self.path, self.headers.get("Range"), self.headers.get("If-Range"), self.headers.get("Authorization")))
        s.n[self.path] = s.n.get(self.path, 0) + 1
        name, n = self.path.split("?")[0].strip("/").split("/")[-1].removesuffix(".gguf"), s.n[self.path]
        getattr(self, "on_" + name.replace("-", "_"), self.on_missing)(n)

    def on_missing(self, n):
        self.answer(404)

    def on_whole(self, n):
        self.serve(DATA)

    def on_breaks(self, n):
        self.serve(DATA, cut=100_000)

    def on_plain(self, n):  # no ETag: a part cannot be gone on with
        self.serve(DATA, etag=None, cut=None if n > 2 else 100_000)

    def on_weak(self, n):
        self.serve(DATA, etag='W/"one"', cut=None if n > 2 else 100_000)

    def on_changes(self, n):
        self.serve(DATA if n > 1 else OTHER, etag=f'"{min(n, 2)}"', cut=None if n > 1 else 100_000)

    def on_careless(self, n):  # ignores If-Range: the rest of another file
        self.serve(DATA if n > 1 else OTHER, etag=f'"{min(n, 2)}"', cut=None if n > 1 else 100_000, honest=False)

    def on_misplaced(self, n):  # another part than was asked for
        if self.headers.get("Range"):
            return self.answer(206, DATA[7:], ETag='"one"', Content_Range=f"bytes 7-{len(DATA) - 1}/{len(DATA)}")
        self.serve(DATA, cut=None if n > 2 else 100_000)

    def on_short(self, n):
        self.answer(200, DATA[:1000], len(DATA))

    def on_wrong(self, n):
        self.serve(OTHER)

    def on_busy(self, n):
        self.answer(503) if n < 3 else self.serve(DATA)

    def on_shut(self, n):
        self.answer(401)

    def on_hop(self, n):
        self.answer(302, Location="/whole.gguf")

    def on_loop(self, n):
        self.answer(302, Location="/loop.gguf")

    def on_away(self, n):
        self.answer(302, Location="file:///etc/passwd")

    def on_elsewhere(self, n):
        self.answer(302, Location=f"http://localhost:{self.server.server_port}/whole.gguf")

    def on_hangs(self, n):
        self.send_response(200)
        self.send_header("Content-Length", str(len(DATA)))
        self.send_header("ETag", '"one"')
        self.end_headers()
        self.wfile.write(DATA[:50_000])
        self.wfile.flush()
        self.server.free.wait(PATIENCE)
        self.close_connection = True

    def on_huge(self, n):
        self.answer(200, b"x", 1 << 60)

    def on_endless(self, n):  # no length at all, and more than was promised
        self.send_response(200)
        self.end_headers()
        try:
            while not self.server.free.is_set():
                self.wfile.write(DATA)
        except OSError:
            pass
        self.close_connection = True

    def on_main(self, n):  # the hub's list of a repository
        files = [("README.md", b"x")] + [(f"m-{q}.gguf", DATA) for q in ("Q8_0", "Q4_K_M")]
        files += [(f"big-0000{i}-of-00002.gguf", DATA[:i * 1000]) for i in (1, 2)]
        if "bad" in self.path:
            return self.answer(200, b"<html>")
        self.answer(200, json.dumps([{"type": "file", "path": p, "size": len(b), "lfs": {"oid": hashlib.sha256(b).hexdigest()}} for p, b in files]).encode())

    def on_m_Q4_K_M(self, n):
        self.serve(DATA)

    def on_m_Q8_0(self, n):
        self.serve(DATA)

    def on_big_00001_of_00002(self, n):
        self.serve(DATA[:1000])

    def on_big_00002_of_00002(self, n):
        self.serve(DATA[:2000])


class Quiet(http.server.ThreadingHTTPServer):
    daemon_threads = True

    def handle_error(self, request, client_address):
        pass


@pytest.fixture
def net():
    s = Quiet(("127.0.0.1", 0), Handler)
    s.seen, s.n, s.free = [], {}, threading.Event()
    threading.Thread(target=s.serve_forever, daemon=True).start()
    s.url = f"http://127.0.0.1:{s.server_port}"
    yield s
    s.free.set()
    s.shutdown()
    s.server_close()


def pull(net, folder, what, *args, private=True, env=None):
    what = what if ":" in what else f"{net.url}/{what}.gguf"
    return run("pull", what, "--models-dir", folder, "--hub", net.url, *(["--allow-private"] if private else []), *args, check=False, env=env)


def names(folder):
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("name", ["whole", "breaks", "plain", "weak", "changes", "careless", "misplaced", "busy", "hop", "elsewhere"])
def test_whole_in_the_end(net, tmp_path, name):
    p = pull(net, tmp_path / "a/b", name, "--sha256", SHA)
    assert p.returncode == 0, p.stderr
    assert names(tmp_path / "a/b") == [f"{name}.gguf"] and (tmp_path / "a/b" / f"{name}.gguf").read_bytes() == DATA
    assert SHA in p.stdout and "as promised" in p.stdout


def test_goes_on_where_it_broke_off(net, tmp_path):
    assert pull(net, tmp_path, "breaks").returncode == 0
    asked = [(r, i) for path, r, i, _ in net.seen]
    assert asked == [(None, None)] + [(f"bytes={at}-", '"one"') for at in range(100_000, len(DATA), 100_000)]


def test_a_later_pull_goes_on(net, tmp_path):
    """Killed in the middle, as a crash would; the next pull asks for the rest only."""
    p = subprocess.Popen([str(BIN), "pull", f"{net.url}/hangs.gguf", "--models-dir", str(tmp_path), "--allow-private"], cwd=ROOT,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE)
    part = tmp_path / "hangs.gguf.part"
    end = time.monotonic() + PATIENCE
    while not (part.exists() and part.stat().st_size == 50_000):
        assert time.monotonic() < end
        time.sleep(0.02)
    busy = pull(net, tmp_path, "hangs")
    assert busy.returncode == 1 and "another pull is fetching it" in busy.stderr
    p.kill()
    p.communicate()
    assert names(tmp_path) == ["hangs.gguf.part", "hangs.gguf.part.etag"]
    Handler.on_hangs, hangs = Handler.on_whole, Handler.on_hangs
    try:
        p = pull(net, tmp_path, "hangs", "--sha256", SHA)
    finally:
        Handler.on_hangs = hangs
    assert p.returncode == 0 and net.seen[-1][1:3] == ("bytes=50000-", '"one"') and (tmp_path / "hangs.gguf").read_bytes() == DATA
    p = pull(net, tmp_path, "hangs")
    assert p.returncode == 2 and "there already" in p.stderr


@pytest.mark.parametrize("name,args,code,says", [
    ("missing", [], 1, "404"), ("shut", [], 1, "401"), ("short", [], 1, ""), ("loop", [], 1, "redirects"), ("away", [], 2, "only http and https"),
    ("wrong", ["--sha256", SHA], 1, "sha256 is"), ("whole", ["--size", "1000"], 1, "1000 were promised"), ("endless", ["--size", "100000"], 1, "promised"),
    ("huge", [], 1, "free"), ("hangs", ["--silence-s", "1"], 1, "nothing came for 1 s"), ("hf:nonsense", [], 2, "ORG/REPO"),
    ("hf:o/bad", [], 1, "no list of files"), ("hf:o/r:Q2_K", [], 1, "no GGUF file"), ("hf:o/r:m", [], 2, "2 files"), ("hf:../r", [], 2, "ORG/REPO"),
    ("ftp://127.0.0.1/x.gguf", [], 2, "neither")])
def test_what_is_not_whole_is_not_there(net, tmp_path, name, args, code, says):
    p = pull(net, tmp_path, name, *args)
    assert p.returncode == code and says in p.stderr, p.stderr
    assert not [n for n in names(tmp_path) if n.endswith(".gguf")]
    if name in ("wrong", "missing", "huge", "whole", "endless"):
        assert names(tmp_path) == []  # nothing is left that could be taken for a beginning
    assert len(net.seen) < 20


def test_private_addresses_are_refused(net, tmp_path):
    for url in (f"https://127.0.0.1:{net.server_port}/whole.gguf", f"https://localhost:{net.server_port}/whole.gguf", f"https://[::1]:{net.server_port}/whole.gguf",
                "https://169.254.169.254/whole.gguf", "https://[::ffff:10.0.0.1]/whole.gguf", "https://2130706433/whole.gguf"):
        p = pull(net, tmp_path, url, private=False)
        assert p.returncode == 1 and "private network" in p.stderr, (url, p.stderr)
    p = pull(net, tmp_path, "whole", private=False)
    assert p.returncode == 2 and "--allow-private" in p.stderr and net.seen == []


def test_the_hub(net, tmp_path):
    """The list's sizes and digests hold, the token goes to the hub only, all parts of a split file come."""
    env = {"HF_TOKEN": "secret-of-mine"}
    for what, want in (("hf:o/r", "m-Q4_K_M.gguf"), ("hf:o/r:q8_0", "m-Q8_0.gguf")):
        p = pull(net, tmp_path, what, env=env)
        assert p.returncode == 0 and "as promised" in p.stdout and (tmp_path / want).read_bytes() == DATA, p.stderr
        assert "secret" not in p.stdout + p.stderr
    assert {a for *_, a in net.seen} == {"Bearer secret-of-mine"} and net.seen[1][0] == "/o/r/resolve/main/m-Q4_K_M.gguf"
    p = pull(net, tmp_path, "hf:o/r:big", env=env)
    assert p.returncode == 0, p.stderr
    assert [(tmp_path / f"big-0000{i}-of-00002.gguf").stat().st_size for i in (1, 2)] == [1000, 2000]
    p = pull(net, tmp_path, "hf:o/r:big-00002-of-00002.gguf")
    assert p.returncode == 2 and "there already" in p.stderr
    net.seen.clear()
    assert pull(net, tmp_path, "whole", env=env).returncode == 0
    assert [a for *_, a in net.seen] == [None]


def test_parts_at_a_url(net, tmp_path):
    """A part stands for all; a later pull brings what is missing, and nothing twice."""
    p = pull(net, tmp_path, "big-00002-of-00002", "--sha256", SHA)
    assert p.returncode == 2 and "one of 2 parts" in p.stderr
    assert pull(net, tmp_path, f"{net.url}/x/big-00002-of-00002.gguf?download=true").returncode == 0
    assert [path for path, *_ in net.seen] == [f"/x/big-0000{i}-of-00002.gguf?download=true" for i in (1, 2)]
    (tmp_path / "big-00001-of-00002.gguf").unlink()
    net.seen.clear()
    assert pull(net, tmp_path, "big-00002-of-00002").returncode == 0 and [path for path, *_ in net.seen] == ["/big-00001-of-00002.gguf"]
    assert names(tmp_path) == [f"big-0000{i}-of-00002.gguf" for i in (1, 2)]
    p = pull(net, tmp_path, "big-00001-of-00002")
    assert p.returncode == 2 and "there already" in p.stderr


def test_progress_for_machines_and_people(net, tmp_path):
    lines = [json.loads(l) for l in pull(net, tmp_path, "whole", "--json").stdout.splitlines()]
    assert lines[-1] == {"file": "whole.gguf", "path": f"{tmp_path}/whole.gguf", "sha256": SHA, "checked": False}
    assert lines[-2]["bytes"] == lines[-2]["total"] == len(DATA)
    p = pull(net, tmp_path, "hop")
    assert f"{len(DATA) / 1e6:.1f} of {len(DATA) / 1e6:.1f} MB" in p.stderr and "\r" not in p.stderr
    assert 2 <= len([l for l in p.stderr.splitlines() if " of " in l]) <= 12  # a line at each tenth, at most
    p = pull(net, tmp_path, "whole", "--quiet", "--models-dir", tmp_path / "q")
    assert p.returncode == 0 and p.stderr == "" and "whole.gguf" in p.stdout


def test_interrupt_keeps_the_part(net, tmp_path):
    p = subprocess.Popen([str(BIN), "pull", f"{net.url}/hangs.gguf", "--models-dir", str(tmp_path), "--allow-private"], cwd=ROOT,
                         stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    part, end = tmp_path / "hangs.gguf.part", time.monotonic() + PATIENCE
    while not (part.exists() and part.stat().st_size == 50_000):
        assert time.monotonic() < end
        time.sleep(0.02)
    p.send_signal(signal.SIGINT)
    assert "goes on from here" in p.communicate()[1] and p.returncode == 130
    assert names(tmp_path) == ["hangs.gguf.part", "hangs.gguf.part.etag"]


def test_proxies_of_the_environment(net, tmp_path):
    """A proxy may lie anywhere; what it is asked for is its own to judge."""
    p = pull(net, tmp_path, "http://models.invalid/whole.gguf", env={"http_proxy": net.url})
    assert p.returncode == 0 and net.seen[0][0] == "http://models.invalid/whole.gguf", p.stderr
