"""Small office files, books and mails for the tests, written by hand."""
import io
import zipfile


def archive(**members):
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as z:
        for name, text in members.items():
            z.writestr(name, text)
    return out.getvalue()


W = 'xmlns:w="http://schemas.openxmlformats.org/wordprocessingml/2006/main"'


def docx(body, notes=""):
    styles = f'<w:styles {W}><w:style w:styleId="T"><w:name w:val="Title"/></w:style><w:style w:styleId="berschrift1"><w:name w:val="heading 1"/></w:style></w:styles>'
    more = {"word/footnotes.xml": f"<w:footnotes {W}><w:footnote><w:p><w:r><w:t>{notes}</w:t></w:r></w:p></w:footnote></w:footnotes>"} if notes else {}
    return archive(**{"word/document.xml": f"<w:document {W}><w:body>{body}</w:body></w:document>", "word/styles.xml": styles, **more})


def para(text, style=""):
    look = f'<w:pPr><w:pStyle w:val="{style}"/></w:pPr>' if style else ""
    return f"<w:p>{look}<w:r><w:t>{text}</w:t></w:r></w:p>"


def row(*cells):
    return "<w:tr>" + "".join(f"<w:tc>{para(c)}</w:tc>" for c in cells) + "</w:tr>"


def slide(title, *lines):
    shape = lambda kind, body: f'<p:sp><p:nvSpPr><p:nvPr>{kind}</p:nvPr></p:nvSpPr><p:txBody>{body}</p:txBody></p:sp>'
    texts = "".join(f"<a:p><a:r><a:t>{x}</a:t></a:r></a:p>" for x in lines)
    return f'<p:sld xmlns:p="p" xmlns:a="a">{shape("<p:ph type=" + chr(34) + "title" + chr(34) + "/>", f"<a:p><a:r><a:t>{title}</a:t></a:r></a:p>")}{shape("", texts) if lines else ""}</p:sld>'


def relations(targets):
    return '<Relationships xmlns="r">' + "".join(f'<Relationship Id="{k}" Target="{v}"/>' for k, v in targets.items()) + "</Relationships>"


def pptx(*slides, notes=None):
    """Slides in this order, in files numbered the other way round; notes by slide, in files numbered from 1."""
    number = {i: len(slides) - i for i in range(len(slides))}
    members = {f"ppt/slides/slide{number[i]}.xml": s for i, s in enumerate(slides)}
    for k, (i, text) in enumerate((notes or {}).items(), 1):
        members[f"ppt/notesSlides/notesSlide{k}.xml"] = slide("", text)
        members[f"ppt/slides/_rels/slide{number[i]}.xml.rels"] = relations({"rId1": "../slideLayouts/slideLayout1.xml", "rId2": f"../notesSlides/notesSlide{k}.xml"})
    ids = "".join(f'<p:sldId id="{256 + i}" r:id="rId{i}"/>' for i in number)
    return archive(**{"ppt/presentation.xml": f'<p:presentation xmlns:p="p" xmlns:r="r"><p:sldIdLst>{ids}</p:sldIdLst></p:presentation>',
                      "ppt/_rels/presentation.xml.rels": relations({f"rId{i}": f"slides/slide{n}.xml" for i, n in number.items()})}, **members)


def xlsx(rows, strings=(), sheet="Stock", more=""):
    shared = "<sst>" + "".join(f"<si><t>{s}</t></si>" for s in strings) + "</sst>"
    return archive(**{"xl/workbook.xml": f'<workbook xmlns:r="r"><workbookPr/><sheets><sheet name="{sheet}" sheetId="7" r:id="rId1"/>{more}</sheets></workbook>',
                      "xl/_rels/workbook.xml.rels": '<Relationships><Relationship Id="rId1" Target="worksheets/sheet1.xml"/></Relationships>',
                      "xl/styles.xml": '<styleSheet><numFmts><numFmt numFmtId="164" formatCode="dd/mm/yyyy"/></numFmts><cellXfs><xf numFmtId="0"/><xf numFmtId="14"/><xf numFmtId="164"/></cellXfs></styleSheet>',
                      "xl/sharedStrings.xml": shared, "xl/worksheets/sheet1.xml": f"<worksheet><sheetData>{rows}</sheetData></worksheet>"})


def odf(body, title="", locked=False):
    ns = 'xmlns:text="t" xmlns:table="b" xmlns:office="o" xmlns:dc="d" xmlns:draw="w" xmlns:presentation="p"'
    manifest = "<manifest><encryption-data/></manifest>" if locked else "<manifest/>"
    return archive(**{"content.xml": f"<office:document {ns}><office:body>{body}</office:body></office:document>", "meta.xml": f"<office:meta {ns}><dc:title>{title}</dc:title></office:meta>",
                      "META-INF/manifest.xml": manifest})


def epub(title, *pages, locked=False):
    items = "".join(f'<item id="p{i}" href="text/pagé%20{i}.xhtml"/>' for i in range(len(pages)))
    spine = "".join(f'<itemref idref="p{i}"/>' for i in reversed(range(len(pages))))
    lock = {"META-INF/encryption.xml": '<e Algorithm="http://www.w3.org/2001/04/xmlenc#aes128-cbc"/>'} if locked else {}
    return archive(**lock, **{"META-INF/container.xml": '<container><rootfiles><rootfile full-path="OEBPS/book.opf"/></rootfiles></container>',
                      "OEBPS/book.opf": f'<package xmlns:dc="d"><metadata><dc:title>{title}</dc:title></metadata><manifest>{items}</manifest><spine>{spine}</spine></package>'},
                   **{f"OEBPS/text/pagé {i}.xhtml": p for i, p in enumerate(pages)})


MAIL = b"""From: =?utf-8?q?Ilse_Gr=C3=BCn?= <ilse@example.org>
To: olga@example.org
Subject: =?iso-8859-1?q?T=FCr?= code
Date: Mon, 02 Nov 2026 10:00:00 +0100
MIME-Version: 1.0
Content-Type: multipart/mixed; boundary=out

--out
Content-Type: multipart/alternative; boundary=in

--in
Content-Type: text/plain; charset=iso-8859-1
Content-Transfer-Encoding: quoted-printable

The T=FCr code is nine.
--in
Content-Type: text/html

<p>The HTML says the same.</p>
--in--
--out
Content-Type: text/csv; name=stock.csv
Content-Disposition: attachment; filename=stock.csv
Content-Transfer-Encoding: base64

bmFtZSx1bml0cwpvc3ByZXksMTIK
--out
Content-Type: image/png
Content-Disposition: attachment; filename=photo.png
Content-Transfer-Encoding: base64

AAAA
--out--
"""


def mail_around(inner):
    return b"From: olga@example.org\nSubject: Fwd: code\nMIME-Version: 1.0\nContent-Type: multipart/mixed; boundary=w\n\n--w\nContent-Type: message/rfc822\n\n" + inner + b"\n--w--\n"
