"""Small PDF files for the tests, written by hand."""
import zlib


def pdf(*objects, trailer=b""):
    """Objects from number 1 on; the first is the catalogue."""
    out, at = b"%PDF-1.5\n", []
    for i, body in enumerate(objects, 1):
        at.append(len(out))
        out += b"%d 0 obj\n" % i + body + b"\nendobj\n"
    table = b"".join(b"%010d 00000 n \n" % x for x in at)
    return (out + b"xref\n0 %d\n0000000000 65535 f \n" % (len(objects) + 1) + table + b"trailer<</Size %d/Root 1 0 R%s>>\nstartxref\n%d\n%%%%EOF\n" %
            (len(objects) + 1, trailer, len(out)))


def stream(data, packed=False):
    data = zlib.compress(data, 9) if packed else data
    return b"<</Length %d%s>>stream\n" % (len(data), b"/Filter/FlateDecode" if packed else b"") + data + b"\nendstream"


def page(content, font=b"<</Type/Font/Subtype/Type1/BaseFont/Helvetica>>", more=(), packed=False, catalog=b"", annots=b"", trailer=b""):
    return pdf(b"<</Type/Catalog/Pages 2 0 R%s>>" % catalog, b"<</Type/Pages/Kids[3 0 R]/Count 1>>",
               b"<</Type/Page/Parent 2 0 R/MediaBox[0 0 500 700]/Contents 4 0 R/Resources<</Font<</F1 5 0 R>>>>%s>>" % annots, stream(content, packed), font, *more, trailer=trailer)


def text(s):
    return page(b"BT /F1 12 Tf 20 600 Td (" + s.encode() + b") Tj ET")


def scan():
    return page(b"50 50 400 600 re f")


def encrypted():
    """Standard security with a user password that nobody knows."""
    return page(b"BT /F1 12 Tf 20 600 Td (secret) Tj ET", trailer=b"/Encrypt<</Filter/Standard/V 1/R 2/O<%s>/U<%s>/P -4>>/ID[<00><00>]" % (b"11" * 32, b"22" * 32))


def japanese(s):
    """A font that is named and not embedded: its encoding lies in poppler-data."""
    return page(b"BT /F1 12 Tf 20 600 Td <" + s.encode("shift_jis").hex().encode() + b"> Tj ET",
                font=b"<</Type/Font/Subtype/Type0/BaseFont/Ryumin-Light/Encoding/90ms-RKSJ-H/DescendantFonts[6 0 R]>>",
                more=(b"<</Type/Font/Subtype/CIDFontType0/BaseFont/Ryumin-Light/CIDSystemInfo<</Registry(Adobe)/Ordering(Japan1)/Supplement 2>>/FontDescriptor 7 0 R>>",
                      b"<</Type/FontDescriptor/FontName/Ryumin-Light/Flags 4/FontBBox[0 -200 1000 900]/ItalicAngle 0/Ascent 800/Descent -200/CapHeight 700/StemV 80>>"))


def form(value):
    return page(b"BT /F1 12 Tf 20 600 Td (Name:) Tj ET", catalog=b"/AcroForm<</Fields[6 0 R]/DR<</Font<</F1 5 0 R>>>>/DA(/F1 12 Tf)>>", annots=b"/Annots[6 0 R]",
                more=(b"<</Type/Annot/Subtype/Widget/FT/Tx/T(n)/V(" + value.encode() + b")/DA(/F1 12 Tf)/Rect[100 590 300 620]/P 3 0 R/F 4>>",))


def bomb(mebibytes):
    """A page of so many bytes of text operators in a file a thousand times smaller."""
    return page(b"BT /F1 12 Tf 20 600 Td " + b"(xyz) Tj 1 1 Td " * (mebibytes * 65536) + b"ET", packed=True)
