"""Real clients, each pinned and in an environment of its own, against servers of our own.

    scripts/clients [--list] [--check NAME] [--peer LLAMA-SERVER | --no-peer] [--resume] [NAME…]

A client is a runner in py/ or js/, whose first line says which packages it needs. Its environment
(a venv or node_modules) is made under build/clients/NAME when the line is new. Two servers run
while the runners do: SmolLM2 with files and conversations (SPARING_MODEL_URL), and the scripted
model (SPARING_SCRIPT_URL; test/tool/script.c), which says what a runner wants to hear. A runner
prints a line for each check, "ok NAME" or "FAIL NAME: why", and what went wrong to stderr, which
is kept beside its environment. py-lm_eval compares with llama.cpp's server, unless it is told that there is none.

What came of each runner goes into build/clients/results.json as soon as it has ended, with the tree: the digest of
both servers' programs. --resume leaves out those that passed all checks with the same programs and the same
runner, so that a run which was interrupted goes on. The table at the end has all of them.
"""
import argparse
import concurrent.futures
import hashlib
import json
import os
import pathlib
import shutil
import subprocess
import sys
import tempfile
import time

HERE = pathlib.Path(__file__).resolve().parent
ROOT = HERE.parents[1]
sys.path.insert(0, str(ROOT / "test/e2e"))
from conftest import MODEL, Server, tool  # noqa: E402
from ggufs import one_layer  # noqa: E402

BUILD = ROOT / "build/clients"
LIMIT = 900  # seconds for all checks of a client; only a hang takes them
INSTALLS = 2  # environments that are made at a time
RESULTS = BUILD / "results.json"


class Client:
    def __init__(self, file):
        self.file, self.is_js = file, file.suffix == ".mjs"
        self.name = ("js-" if self.is_js else "py-") + file.stem.removeprefix("use_")
        line = file.read_text().splitlines()[0]
        assert " needs: " in line, f"{file}: the first line must say: needs: PACKAGE…"
        self.needs = line.split(" needs: ")[1].split()
        self.dir = BUILD / self.name

    def install(self):
        """Makes the environment, unless it is there for these packages."""
        stamp = self.dir / "needs.txt"
        if stamp.exists() and stamp.read_text().split() == self.needs:
            return
        shutil.rmtree(self.dir, ignore_errors=True)
        self.dir.mkdir(parents=True)
        if self.is_js:
            (self.dir / "package.json").write_text('{"private": true, "type": "module"}\n')
            steps = [["npm", "install", "--silent", "--no-audit", "--no-fund", *self.needs]]
        else:
            steps = [[sys.executable, "-m", "venv", "venv"], ["venv/bin/pip", "install", "-qq", "--no-compile", "--disable-pip-version-check", *self.needs]]
        for step in steps:
            subprocess.run(step, cwd=self.dir, check=True)
        stamp.write_text("\n".join(self.needs) + "\n")

    def command(self):
        """Modules of Node are looked for beside the file that asks, so that runners are copied there."""
        if not self.is_js:
            return [str(self.dir / "venv/bin/python"), str(self.file)]
        for f in (self.file, HERE / "js/check.mjs"):
            shutil.copy(f, self.dir)
        return ["node", str(self.dir / self.file.name)]

    def run(self, env, checks):
        """The lines of its checks."""
        with open(self.dir / "stderr.txt", "w") as err:
            try:
                p = subprocess.run([*self.command(), *checks], cwd=self.dir, env=env, stdout=subprocess.PIPE, stderr=err, text=True, timeout=LIMIT)
                out, code = p.stdout, p.returncode
            except subprocess.TimeoutExpired as e:
                out, code = (e.stdout or b"").decode(errors="replace"), f"after {LIMIT} s"
        lines = [line for line in out.splitlines() if line.startswith(("ok ", "FAIL "))]
        if not lines or (code and not any(line.startswith("FAIL") for line in lines)):
            lines.append(f"FAIL runner: it ended with {code}; see {self.dir / 'stderr.txt'}")
        return lines


def digest(*files):
    h = hashlib.sha256()
    for f in files:
        h.update(pathlib.Path(f).read_bytes())
    return h.hexdigest()[:16]


class Results:
    """What came of the runners, in a file that is whole at every moment."""

    def __init__(self):
        self.tree = digest(os.environ.get("SPARING_BIN", ROOT / "build/release/sparing"), tool("script"))
        self.commit = subprocess.run(["git", "rev-parse", "--short", "HEAD"], cwd=ROOT, capture_output=True, text=True).stdout.strip()
        old = json.loads(RESULTS.read_text()) if RESULTS.exists() else {}
        self.of = old["clients"] if old.get("tree") == self.tree else {}

    @staticmethod
    def runner(client):
        return digest(client.file, HERE / ("js/check.mjs" if client.is_js else "py/check.py"))

    def has_passed(self, client):
        one = self.of.get(client.name)
        return bool(one) and one["runner"] == self.runner(client) and one["whole"] and all(line.startswith("ok ") for line in one["lines"])

    def put(self, client, lines, seconds, whole):
        self.of[client.name] = {"runner": self.runner(client), "whole": whole, "seconds": round(seconds, 1), "lines": lines}
        fresh = RESULTS.with_suffix(".new")
        fresh.write_text(json.dumps({"tree": self.tree, "commit": self.commit, "clients": self.of}, indent=1) + "\n")
        fresh.replace(RESULTS)

    def table(self, clients, kept):
        print(f"\nclients at {self.commit or 'an unknown commit'} (programs {self.tree})")
        total = [0, 0]
        for c in clients:
            one = self.of[c.name]
            n = sum(line.startswith("ok ") for line in one["lines"])
            total = [total[0] + n, total[1] + len(one["lines"])]
            print(f"{c.name:20} {n:3} of {len(one['lines']):3} {one['seconds']:7.1f} s  {'passed' if n == len(one['lines']) else 'FAILED'}{' before' if c in kept else ''}")
        print(f"{'all':20} {total[0]:3} of {total[1]:3}")
        return total[0] == total[1]


def find(names):
    all_clients = [Client(f) for f in sorted([*HERE.glob("py/use_*.py"), *HERE.glob("js/*.mjs")]) if f.name != "check.mjs"]
    unknown = set(names) - {c.name for c in all_clients}
    if unknown:
        sys.exit(f"clients: there is no {', '.join(sorted(unknown))}; there are {' '.join(c.name for c in all_clients)}")
    return [c for c in all_clients if not names or c.name in names]


PEERED = "py-lm_eval"  # the client that needs a peer


def environment(model, script, peer):
    """What runners are told. No client phones home or finds keys of somebody's."""
    names = [m["id"] for m in model.http.get("/v1/models").json()["data"]]
    return {"PATH": os.environ["PATH"], "HOME": str(BUILD), "LANG": "C.UTF-8", "SPARING_MODEL": names[0], "SPARING_ENCODER": names[1],
            "SPARING_MODEL_URL": model.url, "SPARING_SCRIPT_URL": script.url, "OPENAI_API_KEY": "none", "ANTHROPIC_API_KEY": "none", "SPARING_PEER": peer or "",
            "DO_NOT_TRACK": "1", "PYTHONPATH": str(HERE / "py"), "PYTHONDONTWRITEBYTECODE": "1"}


def main():
    ap = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    ap.add_argument("names", nargs="*", metavar="NAME")
    ap.add_argument("--list", action="store_true", help="names and packages")
    ap.add_argument("--check", action="append", default=[], metavar="NAME", help="only this check of the clients")
    ap.add_argument("--peer", metavar="FILE", help=f"llama.cpp's server, for {PEERED}")
    ap.add_argument("--no-peer", action="store_true", help=f"{PEERED} does without")
    ap.add_argument("--resume", action="store_true", help="leave out what has passed with these programs")
    a = ap.parse_args()
    clients = find(a.names)
    if a.list:
        for c in clients:
            print(c.name, *c.needs)
        return 0
    if any(c.name == PEERED for c in clients) and bool(a.peer) == a.no_peer:
        sys.exit(f"clients: {PEERED} compares with llama.cpp's server: either --peer FILE or --no-peer")
    if a.peer and not os.access(a.peer, os.X_OK):
        sys.exit(f"clients: --peer {a.peer} is no program")
    BUILD.mkdir(parents=True, exist_ok=True)
    results = Results()
    kept = [c for c in clients if a.resume and results.has_passed(c)]
    todo = [c for c in clients if c not in kept]
    with concurrent.futures.ThreadPoolExecutor(INSTALLS) as pool:
        list(pool.map(Client.install, todo))
    stops = (0, 0)
    if todo:
        stops = run_all(todo, results, a)
    if any(stops):
        print(f"clients: the servers ended with {stops}")
    return 0 if results.table(clients, kept) and not any(stops) else 1


def run_all(clients, results, a):
    """How the two servers ended."""
    with tempfile.TemporaryDirectory() as d:
        keep = lambda name: ["--history", f"{d}/{name}-history", "--knowledge", f"{d}/{name}-knowledge"]  # noqa: E731
        small = one_layer(MODEL, pathlib.Path(d) / MODEL.name, 32768)  # what it says is scripted: a layer is enough
        model = Server("-m", str(MODEL), *keep("model"))
        script = Server("-m", str(small), "--path", "light", "--light-tokens", "200", *keep("script"), binary=tool("script"))
        try:
            env = environment(model, script, a.peer and os.path.abspath(a.peer))
            for c in clients:
                begin = time.monotonic()
                lines = c.run(env, a.check)
                results.put(c, lines, time.monotonic() - begin, not a.check)
                n = sum(line.startswith("ok ") for line in lines)
                print(f"{c.name}: {n} of {len(lines)} ({time.monotonic() - begin:.0f} s)", *[line for line in lines if not line.startswith("ok ")], sep="\n  ", flush=True)
        finally:
            stops = model.stop(), script.stop()
    return stops


if __name__ == "__main__":
    sys.exit(main())
