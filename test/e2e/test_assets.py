"""Pages and their parts: where they are, what a browser may keep, and a folder in the place of what is built in."""
import gzip
import re

import pytest

from conftest import ROOT, run

BUILD = re.compile(r'sp_asset_build\[\] = "([0-9a-f]{16})"')


def build():
    return BUILD.search((ROOT / "build/release/assets.c").read_text()).group(1)


def test_files_of_web_have_an_address(server):
    served = {"/" + f.name: f for f in (ROOT / "web").glob("*.js")}
    assert served
    for url, file in served.items():
        r = server.http.get(url)
        assert r.status_code == 200 and r.content == file.read_bytes(), url
        assert r.headers["content-type"] == "text/javascript; charset=utf-8"
    assert server.http.get("/app/no-such.js").status_code == 404
    assert server.http.get("/intent.model").status_code == 404


def test_a_copy_is_kept_until_it_changes(server):
    r = server.http.get("/openapi.json", headers={"Accept-Encoding": "identity"})
    tag = r.headers["etag"]
    assert r.headers["cache-control"] == "no-cache" and "content-encoding" not in r.headers
    for asked in (tag, f'"other", {tag}', "W/" + tag, "*"):
        again = server.http.get("/openapi.json", headers={"Accept-Encoding": "identity", "If-None-Match": asked})
        assert again.status_code == 304 and again.content == b"" and again.headers["etag"] == tag
    assert server.http.get("/openapi.json", headers={"Accept-Encoding": "identity", "If-None-Match": '"other"'}).status_code == 200


def test_packed_where_the_client_can_unpack(server):
    plain = (ROOT / "web/openapi.json").read_bytes()
    for said in ("gzip", "br, gzip;q=0.5", "GZIP"):
        r = server.http.get("/openapi.json", headers={"Accept-Encoding": said})
        assert r.headers["content-encoding"] == "gzip" and r.headers["vary"] == "Accept-Encoding"
        assert int(r.headers["content-length"]) < len(plain) / 5 and r.content == plain
    for said in ("br", "gzip;q=0", "gzip;q=0.000, br", "xgzip"):
        r = server.http.get("/openapi.json", headers={"Accept-Encoding": said})
        assert "content-encoding" not in r.headers and int(r.headers["content-length"]) == len(plain)
    assert len(gzip.compress(plain, 9)) > 0


def test_the_address_of_a_build_never_changes(server):
    r = server.http.get(f"/a/{build()}/app/main.js")
    assert r.status_code == 200 and r.headers["cache-control"] == "public, max-age=31536000, immutable"
    old = server.http.get("/a/0123456789abcdef/app/main.js")
    assert old.content == r.content and old.headers["cache-control"] == "no-cache"
    assert server.http.get(f"/a/{build()}/no-such.js").status_code == 404


def test_pages_are_closed_to_others(server):
    r = server.http.get("/")
    for part in ("default-src 'self'", "object-src 'none'", "connect-src 'self'", "frame-ancestors 'none'"):
        assert part in r.headers["content-security-policy"]
    assert r.headers["cross-origin-opener-policy"] == "same-origin" and r.headers["referrer-policy"] == "no-referrer"
    assert r.headers["x-content-type-options"] == "nosniff"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    tmp = tmp_path_factory.mktemp("web")
    (tmp / "app").mkdir()
    (tmp / "index.html").write_text('<script type="module" src="/a/@/app/main.js"></script>')
    (tmp / "dashboard.html").write_text("<p>old</p>")
    (tmp / "app/main.js").write_text("1;")
    (tmp / ".secret").write_text("no")
    (tmp.parent / "outside.js").write_text("no")
    return tmp


def test_a_folder_instead(folder, make_server):
    s = make_server("--web-dir", str(folder))
    r = s.http.get("/")
    assert r.headers["cache-control"] == "no-store" and "require-trusted-types-for 'script'" in r.headers["content-security-policy"]
    src = re.search(r'src="(.*?)"', r.text).group(1)
    assert s.http.get(src).text == "1;" and s.http.get("/app/main.js").headers["content-type"] == "text/javascript; charset=utf-8"
    (folder / "app/main.js").write_text("2;")
    assert s.http.get(src).text == "2;"
    old = s.http.get("/dashboard")
    assert old.text == "<p>old</p>" and "trusted-types" not in old.headers["content-security-policy"]
    for path in ("/.secret", "/a/0/.secret", "/app", "/a/0/%2e%2e/outside.js", "/a/%2e%2e/outside.js", "//etc/passwd"):
        assert s.http.get(path).status_code in (400, 404), path


def test_a_folder_that_is_none_is_said(tmp_path):
    r = run("serve", "--port", "0", "--web-dir", str(tmp_path / "none"), check=False)
    assert r.returncode != 0 and "web-dir" in r.stderr
