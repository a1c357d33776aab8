#!/usr/bin/env python3
"""From nothing to the first word in a browser: a fresh Debian in a chroot, and the commands that a new user types.

  bench/fresh.py source         a clone of HEAD, then what README.md says
  bench/fresh.py package DEB    the package that `scripts/package build` makes, then what docs/INSTALL.md says

Wall time and processor time of each step, from the first command to the first word of an answer in Chromium. The chroot itself is
what a fresh Debian has already: it is not counted. Chromium runs outside of it, and is open already. Downloads are counted.
Needs root, mmdebstrap, a Debian mirror, Chromium and .venv. How pip and TLS reach the network here is taken along (/etc/pip.conf,
certificates); SPARING_ALLOW_PRIVATE=1 lets `sparing pull` ask an index with a private address. Nothing is left behind but build/fresh.json.
"""
import argparse
import json
import os
import pathlib
import resource
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time

ROOT = pathlib.Path(__file__).resolve().parents[1]
TAKEN_ALONG = ["/etc/resolv.conf", "/etc/pip.conf", "/etc/ssl/certs/ca-certificates.crt", *map(str, pathlib.Path("/usr/local/share/ca-certificates").glob("*.crt"))]
QUESTION = "Name three colours."


def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def used():
    """Processor time of children that have ended, with theirs."""
    u = resource.getrusage(resource.RUSAGE_CHILDREN)
    return u.ru_utime + u.ru_stime


class Fresh:
    def __init__(self, suite):
        self.root = pathlib.Path(tempfile.mkdtemp(prefix="fresh."))
        subprocess.run(["mmdebstrap", "--quiet", "--variant=important", "--mode=root", suite, str(self.root)], check=True)
        for f in filter(os.path.exists, TAKEN_ALONG):
            to = self.root / f.lstrip("/")
            to.parent.mkdir(parents=True, exist_ok=True)
            shutil.copy(f, to)
        self.steps, self.running = [], []

    def start(self, command, **env):
        """In the chroot, in a mount space of its own, so that /proc and /dev go with the command."""
        inside = f"mount -t proc proc {self.root}/proc; mount --rbind /dev {self.root}/dev; exec chroot {self.root} sh -c \"$1\""
        p = subprocess.Popen(["unshare", "--mount", "--propagation", "private", "sh", "-c", inside, "sh", command], stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True,
                             start_new_session=True, env={**os.environ, "HOME": "/root", "DEBIAN_FRONTEND": "noninteractive", **env})
        return p

    def step(self, name, wall, cpu):
        self.steps.append({"step": name, "wall_s": round(wall, 1), "cpu_s": round(cpu, 1)})
        print(f"{wall:7.1f} s wall {cpu:7.1f} s processor  {name}", flush=True)

    def run(self, command):
        began, cpu = time.monotonic(), used()
        p = self.start(command)
        text = p.communicate()[0]
        if p.returncode:
            sys.exit(f"fresh: {command}: {p.returncode}\n{text[-3000:]}")
        self.step(command, time.monotonic() - began, used() - cpu)

    def serve(self, command, until, first_word, **env):
        """A command that goes on: until a line says so, then to the first word; then Ctrl-C."""
        began, cpu = time.monotonic(), used()
        p = self.start(command, **env)
        seen = []
        for line in p.stdout:
            if line.startswith("setup: "):
                print(f"{time.monotonic() - began:21.1f} s after its begin: {line[7:80].strip()}")
            seen.append(line)
            if until in line:
                break
        else:
            sys.exit(f"fresh: {command} ended:\n{''.join(seen)[-3000:]}")
        told = time.monotonic()
        first_word()
        done = time.monotonic()
        os.killpg(p.pid, signal.SIGINT)
        p.communicate()
        self.step(command, told - began, used() - cpu)
        self.step("the page, a question, the first word (processor time: above)", done - told, 0)

    def end(self):
        shutil.rmtree(self.root)


def browser(playwright, base):
    """A page of Chromium that is open already, and what asks in it and waits for the first word."""
    page = playwright.chromium.launch(executable_path=shutil.which("chromium"), args=["--no-sandbox", "--disable-gpu"]).new_page()

    def first_word():
        page.goto(base)
        page.get_by_role("textbox", name="Your question").fill(QUESTION)
        page.get_by_role("button", name="Send", exact=True).click()
        page.wait_for_function("() => [...document.querySelectorAll('article .prose')].some((p) => p.textContent.trim())", timeout=120000)
    return first_word


def source(fresh, port, first_word):
    subprocess.run(["git", "clone", "-q", "--bare", "--no-hardlinks", str(ROOT), str(fresh.root / "srv/sparing.git")], check=True)
    fresh.run("apt-get update -q && apt-get install -y -q --no-install-recommends git make")
    fresh.run("git clone -q /srv/sparing.git sparing")
    fresh.serve("make -C sparing run", "Ctrl-C stops", first_word, SPARING_PORT=str(port))


def package(fresh, port, first_word, deb):
    shutil.copy(deb, fresh.root / "tmp/sparing.deb")
    fresh.run("apt-get update -q && apt-get install -y -q /tmp/sparing.deb")
    fresh.run("sparing pull smollm2-135m --models-dir /var/lib/sparing/models --quiet")
    fresh.serve(f"sparing serve --config /etc/sparing/sparing.yaml --models-dir /var/lib/sparing/models --port {port}", "ready in", first_word)


def main():
    a = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    a.add_argument("way", choices=["source", "package"])
    a.add_argument("deb", nargs="?", help="of the way `package`")
    a.add_argument("--suite", default="bookworm")
    o = a.parse_args()
    if (o.way == "package") != bool(o.deb):
        a.error("the way `package` takes a .deb, the other none")
    from playwright.sync_api import sync_playwright
    port = free_port()
    fresh = Fresh(o.suite)
    try:
        with sync_playwright() as playwright:
            first_word = browser(playwright, f"http://127.0.0.1:{port}/")
            if o.way == "source":
                source(fresh, port, first_word)
            else:
                package(fresh, port, first_word, o.deb)
    finally:
        fresh.end()
    wall, cpu = (sum(s[k] for s in fresh.steps) for k in ("wall_s", "cpu_s"))
    print(f"{wall:7.1f} s wall {cpu:7.1f} s processor  first line to first word, {o.way}; load {os.getloadavg()[0]:.1f}, {os.cpu_count()} processors")
    (ROOT / "build").mkdir(exist_ok=True)
    with open(ROOT / "build/fresh.json", "a") as f:
        f.write(json.dumps({"way": o.way, "wall_s": wall, "cpu_s": cpu, "load": os.getloadavg()[0], "steps": fresh.steps}) + "\n")


if __name__ == "__main__":
    main()
