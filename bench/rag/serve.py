"""A server of our own for a benchmark, on a free loopback port, ended by its id."""
import json
import pathlib
import re
import subprocess
import threading
import urllib.request

ROOT = pathlib.Path(__file__).parents[2]


class Server:
    def __init__(self, binary, *options):
        self.proc = subprocess.Popen([binary, "serve", "--port", "0", "--models-dir", str(ROOT / "models"), *options],
                                     stderr=subprocess.PIPE, text=True)
        for line in self.proc.stderr:
            ready = re.search(r"ready in \d+ ms on (http://[^ ]+:\d+)", line)
            if ready:
                self.url = ready.group(1)
                threading.Thread(target=self.proc.stderr.read, daemon=True).start()
                return
        raise RuntimeError(f"the server ended with {self.proc.wait()}")

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.proc.terminate()
        self.proc.wait(timeout=60)

    def get(self, path):
        with urllib.request.urlopen(self.url + path, timeout=60) as r:
            return json.load(r)

    def open(self, path, body):
        request = urllib.request.Request(self.url + path, json.dumps(body).encode(), {"Content-Type": "application/json"})
        return urllib.request.urlopen(request, timeout=300)

    def post(self, path, body):
        with self.open(path, body) as r:
            return json.load(r)

    def stream(self, path, body):
        with self.open(path, body) as r:
            for line in r:
                if line.startswith(b"data: {"):
                    yield json.loads(line[6:])
