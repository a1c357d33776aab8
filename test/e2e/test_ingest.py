"""What becomes of each file that `sparing ingest` is given: read, read in part, empty, failed, unchanged, removed; and facts by file."""
import json
import os
import pty
import shutil
import sqlite3
import subprocess
import time

import jsonschema
import pytest

import pdfs
from conftest import BIN, ROOT, run
from office import MAIL, archive, docx, epub, mail_around, odf, para, pptx, row, slide, xlsx


@pytest.fixture
def shelf(tmp_path):
    """A folder of documents and its collection."""

    class Shelf:
        docs = tmp_path / "docs"
        db = tmp_path / "k.db"

        def put(self, **files):
            for name, text in files.items():
                path = self.docs / name.replace("__", ".")
                path.parent.mkdir(exist_ok=True)
                path.write_bytes(text.encode() if isinstance(text, str) else text)

        def ingest(self, *options, path=None):
            p = run("ingest", str(path or self.docs), "--knowledge", str(self.db), "--json", *options, check=False)
            self.code, self.err = p.returncode, p.stderr
            j = json.loads(p.stdout)
            self.sum = {k: v for k, v in j.items() if k != "files"}
            return {os.path.basename(f["path"]): (f["outcome"], f.get("why", "")) for f in j["files"]}

        def text(self, name):
            with sqlite3.connect(f"file:{self.db}?mode=ro", uri=True) as c:
                return [row[0] for row in c.execute("SELECT text FROM chunk JOIN document ON doc=document.seq WHERE path LIKE ? ORDER BY chunk.seq", ("%/" + name,))]

    s = Shelf()
    s.docs.mkdir()
    return s


# --- encodings -----------------------------------------------------------------------------------

@pytest.mark.parametrize("encoding,text", [
    ("cp1252", "Die Größe der Tür ist für die Bürger während der Öffnung wichtig."), ("latin-1", "L'été à la façade, c'est élégant"),
    ("shift_jis", "データベースを再起動します。"), ("euc-jp", "データベースを再起動します。"), ("gb18030", "数据库需要重新启动,请更换电池。"), ("euc-kr", "데이터베이스를 다시 시작합니다"),
    ("koi8-r", "Привет, мир! База данных перезапущена."), ("cp1251", "Привет, мир! База данных перезапущена."),
    ("cp1250", "Čeština: příliš žluťoučký kůň úpěl ďábelské ódy"), ("utf-16", "Große Tür 电池"), ("utf-16-le", "A plain sentence."), ("utf-8-sig", "Große Tür 电池")])
def test_encodings_are_found(shelf, encoding, text):
    shelf.put(a__txt=text.encode(encoding))
    assert shelf.ingest() == {"a.txt": ("added", "")}
    assert shelf.text("a.txt") == [text]


# --- outcomes ------------------------------------------------------------------------------------

def test_every_file_is_named_with_what_became_of_it(shelf):
    shelf.put(good__txt="heron", blank__txt=" \n \n", zero__txt="", bad__jsonl="not json\n", half__jsonl='{"text":"osprey"}\n{"text":"mer', odd__exe=b"MZ", rows__csv="a,b\n1,2\n3,4,5\n",
              heads__md="# Only\n\n## Headings\n")
    os.symlink("/etc/hostname", shelf.docs / "link.txt")
    got = shelf.ingest()
    assert shelf.code == 1
    assert {k: v[0] for k, v in got.items()} == {"good.txt": "added", "blank.txt": "empty", "zero.txt": "empty", "bad.jsonl": "failed", "half.jsonl": "partial", "odd.exe": "skipped",
                                                 "rows.csv": "partial", "heads.md": "empty", "link.txt": "skipped"}
    assert "no bytes" in got["zero.txt"][1] and "headings" in got["heads.md"][1] and "line 2" in got["half.jsonl"][1] and "row 3" in got["rows.csv"][1]
    for name in ("blank.txt", "bad.jsonl", "half.jsonl", "rows.csv"):
        assert name in shelf.err
    assert shelf.text("half.jsonl") == ["osprey"] and shelf.text("rows.csv") == ["a: 1\nb: 2"]
    again = shelf.ingest()
    assert again["good.txt"] == ("unchanged", "") and again["half.jsonl"][0] == "partial" and shelf.code == 1, "what is not read is said each time"
    for name in ("bad.jsonl", "half.jsonl", "rows.csv", "blank.txt", "heads.md"):
        (shelf.docs / name).unlink()
    got = shelf.ingest("--remove-gone")
    assert shelf.code == 0 and got["bad.jsonl"] == ("removed", "") and got["zero.txt"][0] == "empty", "a file of no bytes is no failure"
    assert shelf.ingest(path=shelf.docs / "odd.exe") == {"odd.exe": ("failed", "not a format that is read")} and shelf.code == 1, "asked for by name"


def test_a_found_passage_is_cut_between_characters(shelf):
    """Its beginning, indented line by line."""
    shelf.put(a__txt="heron\n\n" + "x" + "你" * 100)
    shelf.ingest()
    lines = run("search", "heron", "--knowledge", str(shelf.db)).stdout.splitlines()
    assert lines[2:] == ["   heron", "   x" + "你" * 77 + "…"] and lines[1] == f"   {shelf.docs / 'a.txt'}"


def test_on_a_terminal_a_file_has_a_line_of_its_own(shelf):
    """The line of the progress goes before one says how a file ended."""
    for i in range(3):
        (shelf.docs / f"d{i}.txt").write_text(f"document number {i}")
    main, side = pty.openpty()
    p = subprocess.Popen([str(BIN), "ingest", str(shelf.docs), "--knowledge", str(shelf.db)], cwd=ROOT, stdin=subprocess.DEVNULL, stdout=side, stderr=side, env={**os.environ, "TERM": "xterm"})
    os.close(side)
    shown = b""
    try:
        while part := os.read(main, 65536):
            shown += part
    except OSError:  # the terminal has ended
        pass
    assert p.wait() == 0 and shown.count(b"\x1b[Kadded") == 3 and b"] 1/3" in shown, shown
    os.close(main)


def test_a_failed_read_keeps_what_was_read(shelf):
    shelf.put(a__jsonl='{"text":"alpha falcon"}\n')
    shelf.ingest()
    shelf.put(a__jsonl="\0\0\0\0")
    assert shelf.ingest()["a.jsonl"][0] == "failed"
    assert shelf.text("a.jsonl") == ["alpha falcon"]
    assert "alpha falcon" in run("search", "falcon", "--knowledge", str(shelf.db)).stdout
    shelf.put(a__jsonl='{"text":"beta"}\n')
    assert shelf.ingest()["a.jsonl"][0] == "changed" and shelf.text("a.jsonl") == ["beta"]


# --- removal -------------------------------------------------------------------------------------

def fill(shelf, n):
    shelf.put(**{f"d{i}__txt": f"document number {i}" for i in range(n)})
    shelf.ingest()


def test_a_fifth_may_go_without_asking(shelf):
    fill(shelf, 10)
    (shelf.docs / "d0.txt").unlink()
    (shelf.docs / "d1.txt").unlink()
    shelf.ingest()
    assert shelf.code == 0 and shelf.sum["removed"] == 2


def test_more_than_a_fifth_stays(shelf):
    fill(shelf, 9)
    for i in range(2):
        (shelf.docs / f"d{i}.txt").unlink()
    shelf.ingest()
    assert shelf.code == 1 and shelf.sum["removed"] == 0 and "2 of 9" in shelf.err and "--remove-gone" in shelf.err
    assert shelf.text("d0.txt")
    shelf.ingest("--remove-gone")
    assert shelf.code == 0 and shelf.sum["removed"] == 2 and not shelf.text("d0.txt")


def test_an_unmounted_folder_is_not_a_deletion(shelf):
    fill(shelf, 3)
    shutil.rmtree(shelf.docs)
    shelf.docs.mkdir()  # what is left of a folder that is not mounted
    shelf.ingest()
    assert shelf.code == 1 and shelf.sum["removed"] == 0 and shelf.text("d2.txt")
    shelf.docs.rmdir()
    p = run("ingest", str(shelf.docs), "--knowledge", str(shelf.db), check=False)
    assert p.returncode == 1 and shelf.text("d2.txt")


def test_a_file_that_became_something_else_keeps_its_document(shelf):
    fill(shelf, 3)
    (shelf.docs / "d0.txt").unlink()
    (shelf.docs / "d0.txt").symlink_to("d1.txt")
    shelf.ingest()
    assert shelf.code == 1 and shelf.sum["removed"] == 0 and shelf.text("d0.txt") and "d0.txt" in shelf.err


@pytest.mark.parametrize("answer,removed", [("y\n", True), ("n\n", False), ("\n", False)])
def test_a_terminal_is_asked(shelf, answer, removed):
    fill(shelf, 3)
    (shelf.docs / "d0.txt").unlink()
    main, side = pty.openpty()
    p = subprocess.Popen([str(BIN), "ingest", str(shelf.docs), "--knowledge", str(shelf.db)], cwd=ROOT, stdin=side, stdout=subprocess.DEVNULL, stderr=side)
    os.close(side)
    os.write(main, answer.encode())
    said = b""
    try:
        while chunk := os.read(main, 4096):
            said += chunk
    except OSError:  # the terminal's other side is closed
        pass
    os.close(main)
    assert p.wait(timeout=60) == (0 if removed else 1)
    assert b"[y/N]" in said and bool(shelf.text("d0.txt")) != removed


# --- facts ---------------------------------------------------------------------------------------

def graph(db, *args):
    return json.loads(run("graph", *map(str, args), "--knowledge", str(db), "--json").stdout)


def test_files_of_one_name_keep_their_facts(tmp_path):
    db = tmp_path / "k.db"
    for folder, bird in (("x", "heron"), ("y", "osprey")):
        (tmp_path / folder).mkdir()
        (tmp_path / folder / "data.nt").write_text(f'<http://e/{bird}> <http://e/is> "a bird" .\n')
    assert [graph(db, "import", tmp_path / f / "data.nt")["facts"] for f in "xy"] == [1, 2]
    assert [f["source"] for f in graph(db)["facts"]] == ["data.nt", "data.nt"], "folders are nobody's business"
    os.chdir(tmp_path)
    (tmp_path / "x/data.nt").write_text("")
    assert graph(db, "import", tmp_path / "y" / ".." / "x" / "data.nt")["facts"] == 1, "the same file by another way"
    assert [f["subject"] for f in graph(db)["facts"]] == ["osprey"]


def test_facts_of_an_earlier_version_are_taken_over(tmp_path):
    """It knew a file by its base name: importing the file again leaves one of each fact."""
    db, nt = tmp_path / "k.db", tmp_path / "a.nt"
    nt.write_text('<http://e/heron> <http://e/is> "a bird" .\n')
    csv = tmp_path / "old.csv"
    csv.write_text('<http://e/heron>,<http://e/is>,"""a bird""",a.nt\n')  # a source that is a base name
    assert graph(db, "import", csv)["facts"] == 1
    assert graph(db, "import", nt)["facts"] == 1


@pytest.mark.parametrize("ending,text", [("ttl", '@prefix e: <http://e/> .\ne:{0} e:owner [ e:name "{1}" ] .\n'), ("nt", '<http://e/{0}> <http://e/owner> _:b1 .\n_:b1 <http://e/name> "{1}" .\n'),
                                         ("csv", "{0},owner,_:b1\n_:b1,name,{1}\n")])
def test_blank_nodes_of_two_files_stay_apart(tmp_path, ending, text):
    db = tmp_path / "k.db"
    for number, (bird, name) in enumerate((("Petrel", "Ilse"), ("Heron", "Olga"))):
        (tmp_path / f"{number}.{ending}").write_text(text.format(bird, name))
        graph(db, "import", tmp_path / f"{number}.{ending}")
    facts = graph(db)["facts"]
    owner = {f["subject"]: f["object"] for f in facts if f["predicate"] == "owner"}
    names = {f["subject"]: f["object"] for f in facts if f["predicate"] == "name"}
    assert (names[owner["Petrel"]], names[owner["Heron"]]) == ("Ilse", "Olga")
    before = sorted(map(str, facts))
    graph(db, "import", tmp_path / f"0.{ending}")  # again: the same nodes
    assert sorted(map(str, graph(db)["facts"])) == before


# --- PDF -----------------------------------------------------------------------------------------

def test_what_pdfs_hold(shelf):
    shelf.put(text__pdf=pdfs.text("Heron code nine"), form__pdf=pdfs.form("Ilse Heron"), cjk__pdf=pdfs.japanese("データベースを再起動"), scan__pdf=pdfs.scan(), locked__pdf=pdfs.encrypted(),
              torn__pdf=pdfs.text("x")[:200])
    got = shelf.ingest()
    assert {k: v[0] for k, v in got.items()} == {"text.pdf": "added", "form.pdf": "added", "cjk.pdf": "added", "scan.pdf": "empty", "locked.pdf": "failed", "torn.pdf": "failed"}
    assert shelf.code == 1 and "OCR" in got["scan.pdf"][1] and "password" in got["locked.pdf"][1] and "pdftotext" in got["torn.pdf"][1]
    assert "Ilse Heron" in shelf.text("form.pdf")[0] and shelf.text("cjk.pdf") == ["データベースを再起動"]


# --- the server ----------------------------------------------------------------------------------

def attach(http, vs, name, data):
    f = http.post("/v1/files", files={"file": (name, data)}, data={"purpose": "assistants"}).json()["id"]
    r = http.post(f"/v1/vector_stores/{vs}/files", json={"file_id": f})
    assert r.status_code == 200 and r.json()["status"] == "in_progress" and r.json()["outcome"] == "waiting", r.text
    return f


def status(http, vs, f):
    return http.get(f"/v1/vector_stores/{vs}/files/{f}").json()


def wait(http, vs, f):
    for _ in range(1200):
        j = status(http, vs, f)
        if j["status"] != "in_progress":
            return j
        time.sleep(0.05)
    raise AssertionError(j)


def test_outcomes_over_the_api(make_server, tmp_path):
    http = make_server("--knowledge", str(tmp_path / "k.db")).http
    vs = http.post("/v1/vector_stores", json={"name": "o"}).json()["id"]
    sent = {name: attach(http, vs, name, data) for name, data in (
        ("good.txt", b"heron"), ("half.csv", b"a,b\n1,2\n3,4,5\n"), ("bad.jsonl", b"no"), ("scan.pdf", pdfs.scan()), ("prog.exe", b"MZ"))}
    got = {name: wait(http, vs, f) for name, f in sent.items()}
    assert {n: (j["status"], j["outcome"]) for n, j in got.items()} == {
        "good.txt": ("completed", "read"), "half.csv": ("completed", "partial"), "bad.jsonl": ("failed", "failed"), "scan.pdf": ("failed", "empty"), "prog.exe": ("failed", "failed")}
    assert got["half.csv"]["bad_records"] == 1 and "row 3" in got["half.csv"]["notes"] and got["half.csv"]["chunk_count"] == 1
    assert "OCR" in got["scan.pdf"]["last_error"]["message"] and ".ipynb" in got["prog.exe"]["last_error"]["message"]
    counts = http.get(f"/v1/vector_stores/{vs}").json()["file_counts"]
    assert (counts["completed"], counts["failed"], counts["in_progress"], counts["total"]) == (2, 3, 0, 5)
    described = http.get("/openapi.json").json()["components"]["schemas"]["VectorStoreFile"]
    for j in got.values():
        jsonschema.validate(j, {**described, "additionalProperties": False})


def test_a_document_that_takes_long_holds_up_nothing(make_server, tmp_path):
    """While a bomb is read, documents are searched, listed, deleted; the server stops at once; after a crash it is read again."""
    options = ("--knowledge", str(tmp_path / "k.db"))
    server = make_server(*options)
    http = server.http
    vs = http.post("/v1/vector_stores", json={"name": "b"}).json()["id"]
    wait(http, vs, attach(http, vs, "good.txt", b"The heron waits."))
    slow = attach(http, vs, "bomb.pdf", pdfs.bomb(512))
    time.sleep(0.5)
    hits = http.post(f"/v1/vector_stores/{vs}/search", json={"query": "heron"}).json()["data"]
    assert hits[0]["content"][0]["text"] == "The heron waits."
    assert status(http, vs, slow)["outcome"] == "waiting", "the search did not wait for it"
    server.kill()
    server = make_server(*options)
    http = server.http
    assert status(http, vs, slow)["outcome"] == "waiting"
    later = attach(http, vs, "later.txt", b"The osprey dives.")
    assert http.delete(f"/v1/vector_stores/{vs}/files/{slow}").json()["deleted"]
    server.stop()  # in the middle of it
    http = make_server(*options).http
    assert wait(http, vs, later)["status"] == "completed"
    assert [x["id"] for x in http.get(f"/v1/vector_stores/{vs}/files").json()["data"]][0] == later


def test_attributes_change_without_a_reading(make_server, tmp_path):
    http = make_server("--knowledge", str(tmp_path / "k.db")).http
    vs = http.post("/v1/vector_stores", json={"name": "a"}).json()["id"]
    f = attach(http, vs, "a.txt", b"heron")
    wait(http, vs, f)
    r = http.post(f"/v1/vector_stores/{vs}/files/{f}", json={"attributes": {"year": 1883}}).json()
    assert (r["status"], r["attributes"], r["chunk_count"]) == ("completed", {"year": 1883}, 1)


# --- office ------------------------------------------------------------------------------------------

def places(shelf, name):
    with sqlite3.connect(f"file:{shelf.db}?mode=ro", uri=True) as c:
        return [tuple(row) for row in c.execute("SELECT place, text FROM chunk JOIN document ON doc=document.seq WHERE path LIKE ? ORDER BY chunk.seq", ("%/" + name,))]


def test_texts_and_slides(shelf):
    stops = '<w:p><w:pPr><w:tabs><w:tab w:val="left"/></w:tabs></w:pPr><w:r><w:t>One</w:t><w:tab/><w:t>line.</w:t></w:r></w:p>'
    box = "<w:p><w:r><w:t>Around </w:t></w:r><w:r><w:txbxContent>" + para("In the box.") + "</w:txbxContent></w:r><w:del><w:r><w:t>gone</w:t></w:r></w:del><w:r><w:t>it.</w:t></w:r></w:p>"
    shelf.put(a__docx=docx(para("Manual", "T") + para("Boats", "berschrift1") + para("The heron waits.") + "<w:tbl>" + row("name", "units") + row("bolt", "7") + "</w:tbl>", notes="See the dock plan."),
              b__docx=docx(stops + box),
              c__pptx=pptx(slide("First", "alpha"), *(slide(f"Number {i}", f"text {i}") for i in range(2, 11)), slide("Only a title"), notes={2: "spoken words", 0: "welcome"}),
              d__odt=odf('<text:h text:outline-level="2">Herons</text:h><text:p>They<text:s/>wait<text:note><text:note-citation>1</text:note-citation><text:note-body><text:p>Or so.</text:p></text:note-body>'
                         '</text:note> here.</text:p><text:tracked-changes><text:p>gone</text:p></text:tracked-changes>'
                         "<table:table><table:table-row><table:table-cell><text:p>a</text:p></table:table-cell><table:table-cell><text:p>b</text:p></table:table-cell></table:table-row></table:table>", "Guide"),
              e__odp=odf('<draw:page><draw:frame presentation:class="title"><draw:text-box><text:p>Herons</text:p></draw:text-box></draw:frame><draw:frame><draw:text-box><text:p>They wait.</text:p></draw:text-box>'
                         "</draw:frame></draw:page>"),
              f__ods=odf('<office:spreadsheet><table:table table:name="Stock"><table:table-row><table:table-cell><text:p>bolt</text:p></table:table-cell><table:table-cell><text:p>7</text:p></table:table-cell>'
                         "</table:table-row></table:table></office:spreadsheet>"))
    got = shelf.ingest()
    assert {k: v[0] for k, v in got.items()} == dict.fromkeys(("a.docx", "b.docx", "c.pptx", "d.odt", "e.odp", "f.ods"), "added")
    assert places(shelf, "a.docx") == [("Manual > Boats", "The heron waits.\nname | units\nbolt | 7\nSee the dock plan.")]
    assert [t for _, t in places(shelf, "b.docx")] == ["One line.\nIn the box.\nAround it."]
    slides = places(shelf, "c.pptx")
    assert [p for p, _ in slides] == ["c.pptx > First", *(f"c.pptx > Number {i}" for i in range(2, 11)), "c.pptx > Only a title"], "in the presentation's order"
    assert (slides[0][1], slides[1][1], slides[2][1], slides[10][1]) == ("alpha\nwelcome", "text 2", "text 3\nspoken words", "Only a title")
    assert places(shelf, "d.odt") == [("Guide > Herons", "Or so.\nThey wait here.\na | b")]
    assert places(shelf, "e.odp") == [("e.odp > Herons", "They wait.")]
    assert places(shelf, "f.ods") == [("f.ods > Stock", "bolt | 7")]


def test_archives_that_are_none_or_locked(shelf):
    lol = '<!DOCTYPE x [<!ENTITY a "ha"><!ENTITY b "&a;&a;">]>'
    shelf.put(locked__odt=odf("<text:p>x</text:p>", locked=True), old__docx=b"\xd0\xcf\x11\xe0" + b"\0" * 600, torn__docx=docx(para("x"))[:150], other__docx=archive(x="y"),
              bad__docx=archive(**{"word/document.xml": "<a>\n<b></a>"}), entities__docx=archive(**{"word/document.xml": lol + "<w><p><t>&b;</t></p></w>"}), zip__odt=b"plain",
              slide__pptx=pptx(slide("One", "alpha"), "<p:sld", slide("Three", "gamma")), many__docx=archive(**{f"m{i}": "" for i in range(20_001)}))
    got = shelf.ingest()
    assert {k: v[0] for k, v in got.items()} == {**dict.fromkeys(("locked.odt", "old.docx", "torn.docx", "other.docx", "bad.docx", "entities.docx", "zip.odt", "many.docx"), "failed"), "slide.pptx": "partial"}
    for name, why in (("locked.odt", "password"), ("old.docx", "password"), ("other.docx", "holds no word/document.xml"), ("bad.docx", "word/document.xml: line 2"), ("entities.docx", "declares entities"),
                      ("slide.pptx", "slides/slide2.xml: line 1"), ("many.docx", "more than 20000 members")):
        assert why in got[name][1], (name, got[name])
    assert [p for p, _ in places(shelf, "slide.pptx")] == ["slide.pptx > One", "slide.pptx > Three"]


def test_a_zip_bomb_is_refused(shelf):
    shelf.put(bomb__docx=docx(para("x" * 4096) * (80 << 10)), good__txt="heron")  # 320 MiB in a third of one
    got = shelf.ingest()
    assert got["bomb.docx"][0] == "failed" and "unpacks to more than" in got["bomb.docx"][1] and got["good.txt"][0] == "added"


def test_workbooks(shelf):
    rows = ('<row r="1"><c r="A1" t="s"><v>0</v></c><c r="C1" t="s"><v>1</v></c></row><row r="2"><c r="A2" t="s"><v>2</v></c><c r="C2" s="1"><v>45658</v></c><c r="D2"><v>3.3000000000000003</v></c></row>'
            '<row r="3"><c r="A3" t="inlineStr"><is><t>nut</t></is></c><c r="C3" s="2"><v>45658.75</v></c></row><row r="4"><c r="A4" t="b"><v>1</v></c><c r="C4" s="1"><v>1</v></c></row>')
    wide = '<row r="1"><c r="A1"><v>1</v></c></row><row r="2"><c r="A2"><v>2</v></c><c r="AMK2"><v>3</v></c></row>'
    shelf.put(a__xlsx=xlsx(rows, ("name", "due", "bolt &amp; co")), b__xlsx=xlsx(wide), c__xlsx=xlsx(rows, ("name", "due", "x"), more='<sheet name="Lost" sheetId="9" r:id="rId9"/>'), not__xlsx=b"plain")
    got = shelf.ingest()
    assert {k: v[0] for k, v in got.items()} == {"a.xlsx": "added", "b.xlsx": "partial", "c.xlsx": "partial", "not.xlsx": "failed"}
    assert places(shelf, "a.xlsx") == [("a.xlsx > Stock", "name: bolt & co\ndue: 2025-01-01\n3.3\nname: nut\ndue: 2025-01-01 18:00:00\nname: true\ndue: 1900-01-01")]
    assert "row 2 has more than 1024 columns" in got["b.xlsx"][1] and "sheet Lost" in got["c.xlsx"][1]


# --- books and mail ----------------------------------------------------------------------------------

def test_books(shelf):
    pages = ("<html><head><title>Last</title></head><body><p>It flies.</p></body></html>", "<html><body><h2>One</h2><p>It waits.</p></body></html>")
    shelf.put(b__epub=epub("The Heron Book", *pages), locked__epub=epub("x", *pages, locked=True))
    got = shelf.ingest()
    assert (got["b.epub"][0], got["locked.epub"][0]) == ("added", "failed") and "DRM" in got["locked.epub"][1]
    assert places(shelf, "b.epub") == [("The Heron Book > One", "It waits."), ("The Heron Book > Last", "It flies.")], "in the order of the spine"


def test_mail(shelf):
    shelf.put(m__eml=MAIL, outer__eml=mail_around(MAIL), no__eml=b"just some words\n")
    got = shelf.ingest()
    assert got["no.eml"][0] == "failed" and "headers" in got["no.eml"][1]
    mail = places(shelf, "m.eml")
    assert mail[0][0] == "Tür code" and "From: Ilse Grün" in mail[0][1] and "Date: 2026-11-02" in mail[0][1]
    text = "\n".join(t for _, t in mail)
    assert "The Tür code is nine." in text and "HTML" not in text
    assert ("Tür code > stock.csv", "name: osprey\nunits: 12") in mail
    assert got["m.eml"][0] == "added" and "photo.png" in got["m.eml"][1]
    outer = places(shelf, "outer.eml")
    assert outer[0][0] == "Fwd: code" and any(p.startswith("Fwd: code > Tür code") and "nine" in t for p, t in outer)


# --- source code -------------------------------------------------------------------------------------

def test_source_code_by_functions(shelf):
    shelf.put(a__py='"""Birds."""\nimport os\n\n\n@cache\ndef heron(n):\n    """Waits."""\n    return n\n\n\nclass Osprey:\n    size = 3\n\n    def dive(self):\n        return heron(2)\n',
              b__c="#include <x.h>\n\nstatic int table[] = {1};\n\n/* Waits. */\nint heron(int n)\n{\n    if (n)\n        return other(n);\n    return 0;\n}\n\nvoid osprey(void)\n{\n}\n",
              c__sh='echo "a (b)"\nfly() {\n    echo up\n}\n', d__yaml="bird: heron (grey)\n  food: fish\n\nother: x\n")
    shelf.ingest()
    assert places(shelf, "a.py") == [("a.py", '"""Birds."""\nimport os'), ("a.py > def heron(n)", '@cache\ndef heron(n):\n    """Waits."""\n    return n'),
                                     ("a.py > class Osprey", "class Osprey:\n    size = 3"), ("a.py > class Osprey > def dive(self)", "    def dive(self):\n        return heron(2)")]
    assert [p for p, _ in places(shelf, "b.c")] == ["b.c", "b.c > int heron(int n)", "b.c > void osprey(void)"]
    assert places(shelf, "b.c")[1][1].startswith("/* Waits. */\nint heron")
    assert places(shelf, "c.sh") == [("c.sh", 'echo "a (b)"'), ("c.sh > fly()", "fly() {\n    echo up\n}")]
    assert places(shelf, "d.yaml") == [("d.yaml", "bird: heron (grey)\n  food: fish\nother: x")]
