"""mime against hostile mail: disguised names, bombs, depth, malformed MIME, scripts, threads."""

from __future__ import annotations

import base64
import io
import os
import socket
import struct
import threading
import zipfile
import zlib

import pytest

import mime
from Milter import _mimezip


def parse(data):
    """Parse bytes."""
    return mime.message_from_file(io.BytesIO(data))


def defanged(data, **options):
    """Tell whether defang changes a message, and check that it then leaves the result alone."""
    message = parse(data)
    changed = mime.defang(message, **options)
    again = parse(message.as_bytes())
    assert not mime.defang(again, **options)
    return changed


def zipped(*members):
    """Make an archive of (name, content)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def attachment(data):
    """Make a message that is an archive."""
    return (
        b"Content-Type: application/zip; name=x.zip\nContent-Transfer-Encoding: base64\n\n"
    ) + base64.encodebytes(data)


DISGUISES = [
    '"a.exe"',
    '"a.exe."',
    '"a.exe. . ."',
    '"a.exe \t"',
    '"a.exe\\"',
    "\"'a.exe'\"",
    '"<a.exe>"',
    '""a.exe""',
    "a.exe (comment)",
    '"a.exe\0.txt"',
    '"a.exe\0"',
    '"a.exe\x07"',
    '"a.exe:x.txt"',
    '"a.exe::$DATA"',
    '"a\u2024exe"',
    '"a\uff0eexe"',
    '"a\u3002exe"',
    '"a\ufe52exe"',
    '"a\uff61exe"',
    '"a.\uff45\uff58\uff45"',
    '"a.ex\u200be"',
    '"a.exe\u202e"',
    '"gpj.\u202eexe"',
    '"a.exe\u00a0"',
    '"a%2Eexe"',
    '"a.%65xe"',
    '"a.\n exe"',
    '"=?utf-8?q?a=2Eexe?="',
    '"=?utf-8?B?YS5leGU=?="',
    '"=?utf-8?B?YS5leGU?="',
    '"=?utf-8*en?q?a.e?= =?iso-8859-1?q?xe?="',
    "=?us-ascii?q?a.exe?=",
    '"=?utf-16?B?//5hAC4AZQB4AGUA?="',
    '"=?utf-8?q?a.exe_?="',
    '"a.exe; size=3',
]


@pytest.mark.parametrize("value", DISGUISES)
@pytest.mark.parametrize("field", ["Content-Type: a/b; name=", "Content-Disposition: a; filename="])
def test_disguised_name(field, value):
    """A name that a client or a system takes for a.exe is found in either field."""
    assert defanged((field + value).encode() + b"\n\nMZ\n")


@pytest.mark.parametrize(
    "header",
    [
        "Content-Type: a/b; name*=utf-8''a%2Eexe",
        "Content-Type: a/b; name*=utf-8'a.exe",
        "Content-Type: a/b; name*=nonsense''a.exe",
        "Content-Type: a/b; name*=idna''a.exe",
        "Content-Type: a/b; name*0*=utf-8''a.; name*1=ex; name*2*=%65",
        "Content-Type: a/b; name*1=.exe; name*0=a",
        "Content-Type: a/b; name*0=a; name*7=.exe",
        "Content-Type: a/b; name*99999999999999999999=a.exe",
        "Content-Disposition: x; filename*0=a.exe; filename*2=.txt",
        "Content-Disposition: x; filename*0=a.ex; filename*1=e; filename*1=.txt",
        "Content-Disposition: x; filename*0=a; filename*1=.txt; filename*1=.exe",
        "Content-Disposition: x; filename*0=a; filename*0=b; filename*1=.txt; filename*1=.exe",
        "Content-Disposition: x; filename*=utf-8''a.exe; filename*1=.txt",
        "Content-Disposition: x; filename*=''a.exe; filename*=''a.txt",
        "Content-Type: a/b; NAME = a.exe",
        "Content-Type: a/b; name=a.txt; name=a.exe",
        "Content-Type: a/b; name=a.exe; name=a.txt",
        "Content-Type: a/b; name=a.exe\nContent-Disposition: x; filename=a.txt",
        "Content-Type: a/b; name=a.txt\nContent-Disposition: x; filename=a.exe",
        "Content-Disposition: x; filename=a.txt; filename*=utf-8''a.exe",
        "Content-Disposition: x; filename=a.txt\nContent-Disposition: x; filename=a.exe",
        "Content-Type: a/b; name=a.txt\nContent-Type: a/b; name=a.exe",
        "Content-Disposition: x; name=a.exe",
        "Content-Disposition : x; filename=a.exe",
        "Content-Disposition: x;\n\tfilename=\n a.exe",
    ],
)
def test_name_in_odd_places(header):
    """Continuations, broken charsets, repeated parameters and fields hide nothing."""
    assert defanged(header.encode() + b"\n\nMZ\n")


@pytest.mark.parametrize(
    "name",
    ["a.txt", "exe", "a.exe.txt", "my a.exe list.txt", "a.executive", "\u202e.txt", "100%.txt"],
)
def test_harmless_name(name):
    """What only looks similar is left alone."""
    assert not defanged(f'Content-Type: a/b; name="{name}"\n\nx\n'.encode())


class TestZip:
    def test_bomb(self):
        """An archive in an archive that unpacks to a multiple beyond the limit is refused."""
        with pytest.raises(zipfile.BadZipFile, match="Too many bytes"):
            mime.zipnames(zipped(("a.zip", bytes(10_000_000))))
        assert defanged(attachment(zipped(("a.zip", bytes(10_000_000)))), scan_zip=True)

    def test_size(self, monkeypatch):
        """max_zip_size bounds the unpacked bytes; the limit itself is allowed."""
        inner = zipped(("a", "b"))
        outer = zipped(("i.zip", inner))
        monkeypatch.setattr(mime, "max_zip_size", len(inner))
        assert [("zipname", "i.zip"), ("zipname", "a")] == mime.zipnames(outer)
        monkeypatch.setattr(mime, "max_zip_size", len(inner) - 1)
        with pytest.raises(zipfile.BadZipFile):
            mime.zipnames(outer)

    @pytest.mark.parametrize("name", ["i.zip.", "i.zip ", "i.zip\u200b", "i\uff0ezip"])
    def test_inner_archive_with_a_disguised_name(self, name):
        """An archive inside another is opened by whatever name unpackers take for a zip's."""
        data = zipped((name, zipped(("x.exe", b"MZ"))))
        assert ("zipname", "x.exe") in mime.zipnames(data)
        assert defanged(attachment(data), scan_zip=True)

    def test_unicode_path(self):
        """The name in an Info-ZIP Unicode Path field (APPNOTE 4.6.9) is a name, too."""
        entry = zipfile.ZipInfo("x.txt")
        name = b"x.exe"
        entry.extra = struct.pack("<HHBL", 0x7075, 5 + len(name), 1, zlib.crc32(b"x.txt")) + name
        file = io.BytesIO()
        with zipfile.ZipFile(file, "w") as archive:
            archive.writestr(entry, b"MZ")
        assert ("zipname", "x.exe") in mime.zipnames(file.getvalue())
        assert defanged(attachment(file.getvalue()), scan_zip=True)

    def test_members_that_share_a_long_name(self):
        """Names count against a limit, so that many entries cannot point to one long name."""
        size = 65535
        local = struct.pack("<4s5H3L2H", b"PK\3\4", 20, 0, 0, 0, 0, 0, 0, 0, size, 0) + b"a" * size
        entry = struct.pack("<4s6H3L5H2L", b"PK\1\2", 20, 20, *[0] * 14)
        end = struct.pack("<4s4H2LH", b"PK\5\6", 0, 0, 9999, 9999, len(entry) * 9999, len(local), 0)
        with pytest.raises(zipfile.BadZipFile, match="in the names"):
            mime.zipnames(local + entry * 9999 + end)

    def test_depth(self, monkeypatch):
        """max_zip_depth archives within the outermost are looked into, and no more."""
        data = zipped(("a", "b"))
        for level in range(3):
            data = zipped((f"{level}.zip", data))
        monkeypatch.setattr(mime, "max_zip_depth", 3)
        assert 4 == len(mime.zipnames(data))
        monkeypatch.setattr(mime, "max_zip_depth", 2)
        with pytest.raises(zipfile.BadZipFile, match="within each other"):
            mime.zipnames(data)

    def test_members(self, monkeypatch):
        """max_zip_members names in all are read, and no more."""
        data = zipped(*((f"n{i}", "") for i in range(5)))
        monkeypatch.setattr(mime, "max_zip_members", 5)
        assert 5 == len(mime.zipnames(data))
        monkeypatch.setattr(mime, "max_zip_members", 4)
        with pytest.raises(zipfile.BadZipFile, match="members"):
            mime.zipnames(data)
        assert defanged(attachment(data), scan_zip=True)

    def encrypted(self, name):
        """Make an archive whose only member says that it is encrypted."""
        data = bytearray(zipped((name, "x" * 30)))
        data[6] |= 1
        data[data.index(b"PK\1\2") + 8] |= 1
        return bytes(data)

    def test_encrypted_members_are_judged_by_name(self):
        """Names are not encrypted."""
        assert defanged(attachment(self.encrypted("a.exe")), scan_zip=True)
        assert not defanged(attachment(self.encrypted("a.txt")), scan_zip=True)

    def test_encrypted_archive_in_an_archive(self):
        """What cannot be looked into is answered like a corrupt archive."""
        with pytest.raises(zipfile.BadZipFile, match="Encrypted"):
            mime.zipnames(self.encrypted("a.zip"))
        assert defanged(attachment(self.encrypted("a.zip")), scan_zip=True)

    def test_local_name_that_differs(self):
        """Programs that go by the name before the member are not fooled by the directory's."""
        data = zipped(("a.txt", "x")).replace(b"a.txt", b"a.exe", 1)
        assert [("zipname", "a.txt"), ("zipname", "a.exe")] == mime.zipnames(data)

    def test_disguised_member(self):
        """Members' names are looked at like others."""
        assert defanged(attachment(zipped(("a.exe. ", "x"))), scan_zip=True)
        assert defanged(attachment(zipped(("a\u2024exe", "x"))), scan_zip=True)

    def test_prefix_and_comment(self):
        """A program before the archive, and a comment behind it, do not hide it."""
        out = io.BytesIO()
        with zipfile.ZipFile(out, "w") as archive:
            archive.writestr("a", "b")
            archive.comment = b"c" * 1000
        assert [("zipname", "a")] == mime.zipnames(b"MZ" * 50 + out.getvalue())

    def test_zip64(self):
        """A directory that is located by the zip64 records is read."""
        data = zipped(("a", "b"))
        end = len(data) - 22
        size, start = struct.unpack("<LL", data[end + 12 : end + 20])
        record = struct.pack("<4sQHHLLQQQQ", b"PK\6\6", 44, 45, 45, 0, 0, 1, 1, size, start)
        locator = struct.pack("<4sLQL", b"PK\6\7", 0, end, 1)
        tail = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 2**32 - 1, 2**32 - 1, 0)
        wide = data[:end] + record + locator + tail
        assert ["a"] == zipfile.ZipFile(io.BytesIO(wide)).namelist()
        assert [("zipname", "a")] == mime.zipnames(wide)

    def test_stored_overlapping_members(self):
        """Members that share their bytes are each counted."""
        inner = zipped(("a", "b"))
        raw = zlib.compressobj(9, zlib.DEFLATED, -15)
        packed = raw.compress(inner) + raw.flush()
        local = struct.pack("<4sHHHHHLLLHH", b"PK\3\4", 20, 0, 8, 0, 0, 0, len(packed), 0, 5, 0)
        row = struct.pack(
            "<4sHHHHHHLLLHHHHHLL",
            *(b"PK\1\2", 20, 20, 0, 8, 0, 0, 0, len(packed), 0, 5, 0, 0, 0, 0, 0, 0),
        )
        rows = (row + b"i.zip") * 3
        start = len(local) + 5 + len(packed)
        end = struct.pack("<4sHHHHLLH", b"PK\5\6", 0, 0, 3, 3, len(rows), start, 0)
        data = local + b"i.zip" + packed + rows + end
        assert ["i.zip", "a"] * 3 == [name for _, name in mime.zipnames(data)]
        limits = _mimezip.ZipLimits(100, 10, len(inner) * 3 - 1, 100)
        with pytest.raises(zipfile.BadZipFile, match="bytes"):
            _mimezip.zip_names(data, limits)

    def test_every_truncation_and_flip(self):
        """A damaged archive gives names or BadZipFile, never anything else."""
        data = zipped(("a.zip", zipped(("b", "c"))), ("d", "e"))
        damaged = [data[:size] for size in range(len(data))]
        damaged += [
            data[:i] + bytes([data[i] ^ bit]) + data[i + 1 :]
            for i in range(len(data))
            for bit in (1, 0x80, 0xFF)
        ]
        answers = set()
        for case in damaged:
            try:
                answers.add(type(mime.zipnames(case)))
            except zipfile.BadZipFile:
                answers.add(zipfile.BadZipFile)
        assert {list, zipfile.BadZipFile} == answers


EXE = b"Content-Type: a/b; name=a.exe\n\nMZ\n"
INSIDE = b"--x\n" + EXE + b"--x--\n"


@pytest.mark.parametrize(
    "data",
    [
        b"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n"
        + base64.encodebytes(EXE),
        b'Content-Type: message/rfc822\nContent-Transfer-Encoding: "Base64" ; x=y (z)\n\n'
        + base64.encodebytes(EXE),
        b"Content-Type: multipart/mixed; boundary=x\nContent-Transfer-Encoding: base64\n\n"
        + base64.encodebytes(INSIDE),
        b"Content-Type: multipart/mixed\n\n" + INSIDE,
        b"Content-Type: multipart/mixed; boundary=y\n\n" + INSIDE,
        b"Content-Type: text/plain\nContent-Type: multipart/mixed; boundary=x\n\n" + INSIDE,
        b"Subject: s\njunk\nContent-Type: multipart/mixed; boundary=x\n\n" + INSIDE,
        b"Content-Type : multipart/mixed; boundary=x\n\n" + INSIDE,
        b"Content-Type: multipart/mixed; boundary=x\n\n" + INSIDE[:-6],
        b"Content-Type: multipart/mixed; boundary=x\n\n--x--\n",
    ],
    ids=["base64", "base64 decorated", "base64 multipart", "no boundary", "wrong boundary", "types",
         "junk", "blank", "no end", "control"],
)  # fmt: skip
def test_other_readings(data):
    """A bad attachment that only lenient clients see is found; without one nothing is changed."""
    assert (b"MZ" in data or b"base64" in data.lower()) == defanged(data)


@pytest.mark.parametrize(
    "head",
    [
        "Content-Disposition: attachment; filename=a.exe",  # a message, by the digest's default
        "Content-Type: message/delivery-status; name=a.exe",
        "Content-Type: message/partial; name=a.exe",
        "Content-Type: multipart/mixed; boundary=y; name=a.exe",
        "Content-Type: multipart/mixed; boundary=y\nContent-Disposition: x; filename=a.exe",
        "Content-Type: message/rfc822; name=a.exe\nContent-Transfer-Encoding: base64",
    ],
)
def test_container_with_a_bad_name(head):
    """A part with parts, which some clients offer as a file, is replaced for its name."""
    data = f"Content-Type: multipart/digest; boundary=x\n\n--x\n{head}\n\n--y\n\nTVo=\n--x--\n"
    message = parse(data.encode())
    assert message.get_payload(0).is_multipart()
    assert mime.defang(message)
    assert b"TVo" not in message.as_bytes()


@pytest.mark.parametrize(
    "head",
    [
        'Content-Type: message/rfc822; name="Come to www.example.com"',
        "Content-Type: multipart/mixed; boundary=y.com",
    ],
)
def test_container_with_a_harmless_name(head):
    """An attached message may be called as its subject, and a boundary may be anything."""
    data = f"Content-Type: multipart/mixed; boundary=x\n\n--x\n{head}\n\n--y.com\n\nhi\n--x--\n"
    message = parse(data.encode())
    assert message.get_payload(0).is_multipart()
    assert not mime.defang(message)


def test_harmless_malformed_mail_is_left_alone():
    """Malformed MIME without anything bad comes out as it went in."""
    harmless = INSIDE.replace(b".exe", b".txt")
    for data in (
        b"Content-Type: multipart/mixed\n\n" + harmless,
        b"Subject: s\njunk\nContent-Type: multipart/mixed; boundary=x\n\n" + harmless,
    ):
        message = parse(data)
        assert not mime.defang(message)
        assert data == message.as_bytes()


def test_wrapped_again_and_again():
    """What is wrapped in malformed parts more often than is looked into counts as bad."""
    data = b"Subject: harmless\n\nx\n"
    for _ in range(8):
        data = (
            b"Content-Type: message/rfc822\nContent-Transfer-Encoding: base64\n\n"
            + base64.encodebytes(data)
        )
    assert defanged(data)


def test_readings_are_bounded():
    """Encoded containers within each other, and many types, have too many readings: bad."""
    encoding = b"Content-Transfer-Encoding: quoted-printable\n"
    head = encoding + b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n"
    nested = b"".join(head % (i, i) for i in range(99))
    assert mime.defang(parse(nested + b"\n" + b"=3D\n" * 200_000))
    types = b"".join(b"Content-Type: multipart/mixed; boundary=b%d\n" % i for i in range(2000))
    assert mime.defang(parse(types + b"\n" + b"x\n" * 200_000))


def test_a_changed_header_hides_nothing():
    """Other readings are looked at even when a filter has added a field before."""
    message = parse(b"Content-Type: multipart/mixed\n\n" + INSIDE)
    message["X-Seen"] = "yes"
    mime.defang(message)
    assert b"a.exe" in message.as_bytes()
    assert b"MZ" not in message.as_bytes()


@pytest.mark.parametrize(
    "html",
    [
        "<br/><script>x</script>",
        "<![endif]--><script>x</script>",
        "<!--><script>x</script>-->",
        "<!---><script>x</script>-->",
        "<!-- a --!><script>x</script>-->",
        '<!a "><script>x</script>">',
        "<script/src='x'></script>",
        "<script\fsrc=x></script>",
        "<SCRIPT\n>x</SCRIPT\n>",
        "<![CDATA[><script>x</script>]]>",
        "<scr</script>ipt>x</scr</script>ipt><script></script>",
        "<scr<?x>ipt>x</script><script></script>",
        # Where browsers see a tag, or text, and SGML a comment or an instruction.
        "<p<!--><script>x</script><!-- -->",
        "</p <!--><script>x</script><!-- -->",
        "</<!--><script>x</script><!-- -->",
        '<img alt="<!--" src=x><script>x</script>-->',
        "<img alt = 'a>b<!--'><script>x</script>-->",
        '<img alt="<?"<script>x</script>?>',
        '<p =" c=" > <!-- "><script>x</script>-->',
        '<p title="<b>"<!--"><script>x</script>-->',
        "<style><!--</style><script>x</script>-->",
        "<TITLE><!--</Title ><script>x</script>-->",
        "<style></\u017ftyle><!--</style><script>x</script>-->",
        '<textarea><a title="</textarea><!-- ok --><script>x</script>">',
        "<svg><![CDATA[><!--]]><script>x</script>-->",
    ],
)
def test_hidden_script(html):
    """A script that browsers see and SGML does not is found; none is made by removing another."""
    message = parse(b"Content-Type: text/html\n\n" + html.encode() + b"\n")
    assert mime.defang(message)
    left = message.get_payload(decode=True).decode()
    assert "<script" not in left.lower()
    assert not mime.defang(parse(message.as_bytes()))


@pytest.mark.parametrize("codec", ["utf-8-sig", "utf-16-le", "utf-16-be"])
@pytest.mark.parametrize("charset", ["", "; charset=utf-8", "; charset=iso-8859-1"])
def test_byte_order_mark(codec, charset):
    """A byte order mark counts for more than the declared charset, as in browsers."""
    mark = "" if codec == "utf-8-sig" else "\ufeff"
    html = (mark + "\u00e9<script>x</script>").encode(codec)
    message = parse(
        f"Content-Type: text/html{charset}\nContent-Transfer-Encoding: base64\n\n".encode()
        + base64.encodebytes(html)
    )
    assert mime.defang(message)
    left = parse(message.as_bytes()).get_payload(decode=True).decode(codec)
    assert left.startswith(mark + "\u00e9<!--")
    assert "script>" not in left


@pytest.mark.parametrize(
    "html",
    [
        "<style><!-- p > a {x: y} --></style>",
        "<!-- <script>x</script> -->",
        '<p title="a>b"><!-- <script>x</script> -->',
        "<title>x</title><!-- <script>x</script> -->",
        "<p =><!-- <script>x</script> -->",
        "<p a=b'><!-- <script>x</script> -->",
        "<![CDATA[x]]><!-- <script>x</script> -->",
        "<p title='<b>'><!-- <script>x</script> -->",
    ],
)
def test_script_in_a_comment(html):
    """A script in what is a comment to browsers, too, is no script, and comments are copied."""
    assert not mime.defang(parse(b"Content-Type: text/html\n\n" + html.encode() + b"\n"))
    message = parse(b"Content-Type: text/html\n\n" + html.encode() + b"<script>y</script>\n")
    assert mime.defang(message)
    assert message.get_payload(decode=True).startswith(html.encode() + b"<!--")


@pytest.mark.parametrize(
    ("encoding", "body", "expected"),
    [
        ("base64", b"PGI+eA", b"<b>x"),
        ("BASE64 ", b"PG I+\n*eA==", b"<b>x"),
        ("base64; x=y", b"PGI+eA==", b"<b>x"),
        ("(c) base64", b"PGI+eA=", b"<b>x"),
        ("base64", b"PGI+eA==A", b"<b>x"),
        ("base64", b"A", b""),
        ("quoted-printable", b"=3Cb=\n>=zz=", b"<b>=zz"),
        ("x-uuencode", b"begin 644 a\n$/&(^>\n`\nend\n", b"<b>x"),
        ("uue", b"no begin", b"no begin"),
        ("x-unknown", b"a", b"a"),
    ],
)
def test_broken_encodings(encoding, body, expected):
    """Of a broken or oddly named encoding, what can be decoded is."""
    message = parse(b"Content-Transfer-Encoding: " + encoding.encode() + b"\n\n" + body)
    assert expected == message.get_payload(decode=True)


class TestLimits:
    def nested(self, levels):
        """Make multiparts within each other, with a bad attachment in the innermost."""
        heads = [
            b"Content-Type: multipart/mixed; boundary=b%d\n\n--b%d\n" % (i, i)
            for i in range(levels)
        ]
        tails = [b"--b%d--\n" % i for i in reversed(range(levels))]
        return b"".join(heads) + EXE + b"".join(tails)

    @pytest.mark.parametrize("levels", [99, 100, 101, 20_000])
    def test_depth(self, levels):
        """At any depth there is no RecursionError, no change to what is dumped, and no way past."""
        data = self.nested(levels)
        message = parse(data)
        assert data == message.as_bytes()
        assert mime.defang(message)
        assert b"name=a.exe" not in message.as_bytes()
        assert message.ismodified()

    def test_harmless_up_to_the_limit(self):
        """100 containers within each other are looked into; 101 are not, so they count as bad."""
        assert not mime.defang(parse(self.nested(100).replace(b".exe", b".txt")))
        assert mime.defang(parse(self.nested(101).replace(b".exe", b".txt")))

    def test_attached_messages(self):
        """message/rfc822 within each other count as well."""
        data = b"Content-Type: message/rfc822\n\n" * 30_000
        message = parse(data)
        assert data == message.as_bytes()
        assert mime.defang(message)

    @pytest.mark.parametrize(("parts", "bad"), [(4, False), (5, False), (6, True), (7, True)])
    def test_parts(self, monkeypatch, parts, bad):
        """max_parts parts are looked into; the rest is kept together, and counts as bad."""
        monkeypatch.setattr(mime, "max_parts", 5)
        data = b"Content-Type: multipart/mixed; boundary=x\n\n" + b"--x\n\na\n" * parts + b"--x--\n"
        message = parse(data)
        assert data == message.as_bytes()
        assert bad == mime.defang(message)

    def test_fields(self, monkeypatch):
        """max_fields header fields are read; a message with more counts as bad."""
        monkeypatch.setattr(mime, "max_fields", 3)
        assert not mime.defang(parse(b"a: b\n" * 3 + b"\nx"))
        data = b"a: b\n" * 4 + b"\nx"
        message = parse(data)
        assert data == message.as_bytes()
        assert mime.defang(message)


@pytest.mark.parametrize(
    "head",
    [
        b"Content-Type: text/plain" + b";" * 300_000,
        b"Content-Type: text/plain" + b";a=b" * 80_000,
        b'Content-Type: text/plain; name="' + b";" * 300_000,
        b"Content-Type: text/plain; name=" + b'"' * 300_000,
        b'Content-Type: text/plain; name="' + b"=?a?q?" * 50_000,
        b'Content-Type: text/plain; name="' + b"(" * 300_000,
        b'Content-Type: text/plain; name="a' + "\u0301\u0323".encode() * 150_000 + b'"',
        b"Content-Type: text/plain" + b"; name*0=a; name*2=b" * 20_000,
        b"Content-Type: text/html" + b"(" * 300_000,
        b"Content-Type: text/html; charset=punycode\n\n" + b"a-" * 300_000,
    ],
)
def test_hostile_fields(head):
    """Fields of hundreds of kilobytes are parsed; quadratic time would not come back."""
    data = head + b"\n\n<p>x\n"
    message = parse(data)
    assert not mime.defang(message)
    assert data == message.as_bytes()


@pytest.mark.parametrize(
    "unit",
    [b"<", b"<!--", b"<!-- --", b"<?", b"<a ", b"<a b='", b"&a", b"</", b"<b/", b"<script></q>",
     b"<scr</script>ipt>", b"<scr<script>ipt>", b"<a b='<style>", b"<style>", b"<a b=''",
     b"<![CDATA["],
)  # fmt: skip
def test_hostile_html(unit):
    """A megabyte of HTML that never ends is filtered; quadratic time would not come back."""
    message = parse(b"Content-Type: text/html\n\n" + unit * (1_000_000 // len(unit)))
    mime.defang(message)
    assert not mime.defang(parse(message.as_bytes()))


def test_large_body():
    """20 MB are parsed, looked at and dumped unchanged."""
    data = (
        b"Content-Type: multipart/mixed; boundary=x\n\n--x\n\n"
        + (b"--" + b"a" * 70 + b"\n") * 280_000
        + b"--x--\n"
    )
    message = parse(data)
    assert not mime.defang(message)
    assert data == message.as_bytes()


def test_defang_from_several_threads():
    """Each call sees its own arguments, whatever other threads do at the same time."""
    wrong = []
    start = threading.Barrier(8)

    def work(number):
        start.wait(timeout=30)
        for _ in range(100):
            message = parse(b"Content-Type: a/b; name=t%d\n\nx\n" % number)
            check = lambda name: name if name == f"t{number}" else None  # noqa: E731
            mime.defang(message, f"saved{number}", check)
            text = message.get_payload()
            if text != mime.virus_msg % (f"t{number}", socket.gethostname(), f"saved{number}"):
                wrong.append(text)

    threads = [threading.Thread(target=work, args=(i,)) for i in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join(timeout=60)
    assert [] == wrong
    assert {"scan_html": True} == vars(mime.defang)


def test_no_output(capfd):
    """Nothing is printed by anything."""
    mime.defang(parse(b"Content-Type: text/html\n\n<script>" + os.urandom(10).hex().encode()))
    mime.check_attachments(parse(EXE), mime.check_name)
    assert ("", "") == capfd.readouterr()
