"""mime: the tables of API spec section 4, and what its 4.4 says is broken in pymilter."""

from __future__ import annotations

import base64
import email
import io
import socket
import zipfile

import pytest

import Milter
import mime


def parse(data):
    """Parse bytes."""
    return mime.message_from_file(io.BytesIO(data))


def zipped(*members):
    """Make an archive of (name, content)."""
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in members:
            archive.writestr(name, content)
    return out.getvalue()


def attachment(data, name=b"x.zip"):
    """Make a message that is one attachment."""
    return (
        b'Content-Type: application/zip; name="%s"\nContent-Transfer-Encoding: base64\n\n' % name
    ) + base64.encodebytes(data)


def warning(name, saved=None):
    """Return the text that takes a bad attachment's place."""
    return mime.virus_msg % (name, socket.gethostname(), saved)


TWO_PARTS = b"""\
Subject: two
Content-Type: multipart/mixed; boundary="b"

preamble
--b
Content-Type: text/plain

hello
--b
Content-Type: application/octet-stream; name="run.exe"

MZ
--b--
epilogue
"""

RFC822 = b"""\
Content-Type: multipart/mixed; boundary=o

--o
Content-Type: message/rfc822

Subject: inner
Content-Type: multipart/mixed; boundary="""


def test_public_names():
    """Every name of API spec section 4 is there."""
    for name in mime.__all__:
        assert hasattr(mime, name)
    from Milter import sgmllib

    assert mime.HTMLParser is sgmllib.SGMLParser
    assert ["a", 'b="c;d"', "e"] == list(mime._parseparam('a;b="c;d";e'))
    assert 42 == len(mime.extlist.split(","))
    assert "." + mime.extlist.split(",")[0] == mime.bad_extensions[0]
    assert 3 == mime.virus_msg.count("%s")


def test_text_file_is_refused():
    """message_from_file wants bytes; an empty file is a message."""
    with pytest.raises(TypeError):
        mime.message_from_file(io.StringIO("A: b\n\nc"))
    assert "" == parse(b"").get_payload()


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ('"a"', "a"),
        ('"a" junk', "a"),
        (r'"a\"b"', 'a"b'),
        ("<a>", "a"),
        ('"a', '"a'),
        ("", ""),
        ('"', '"'),
        ("<", "<"),
        ("x", "x"),
    ],
)
def test_unquote(text, expected):
    """unquote takes off one level of quotes (API spec 4.2)."""
    assert expected == mime.unquote(text)


@pytest.mark.parametrize(
    ("name", "expected"),
    [
        (None, None),
        ("", ""),
        ("a.exe", "a.exe"),
        ("A.EXE", "A.EXE"),
        ("a.exe.txt", None),
        ("a.vbs ", None),
        ("a.txt", None),
        ("www.example.com", "www.example.com"),
    ],
)
def test_check_ext(name, expected):
    """check_ext answers as API spec 4.2 says: disguises are check_name's business."""
    assert expected == mime.check_ext(name)


class TestMessage:
    def test_parsing_is_no_change(self):
        """No part of a message just read counts as modified."""
        message = parse(TWO_PARTS)
        assert not message.ismodified()
        assert [False] * 3 == [part.modified for part in message.walk()]
        assert [mime.MimeMessage] * 3 == [type(part) for part in message.walk()]

    def test_a_message_made_elsewhere_is_modified(self):
        """One that the standard library's parser filled reports True (API spec 4.1)."""
        assert email.message_from_string("A: b\n\nc", mime.MimeMessage).ismodified()

    def test_header_changes_are_reported(self):
        """Setting reports the value, deleting reports None even for what is not there."""
        message = parse(b"A: b\n\nc")
        seen = []
        message.headerchange = lambda msg, name, value: seen.append((msg, name, value))
        message["X"] = "y"
        del message["Nope"]
        message.add_header("Foo", "bar", baz="q")
        message.replace_header("A", "z")
        message.set_param("charset", "utf-8", header="X")
        assert [
            (message, "X", "y"),
            (message, "Nope", None),
            (message, "Foo", 'bar; baz="q"'),
            (message, "X", None),
            (message, "X", 'y; charset="utf-8"'),
        ] == seen
        assert message.ismodified()

    def test_deletion_is_reported_before_it_happens(self):
        """headerchange still sees the field."""
        message = parse(b"A: b\nA: c\n\n")
        seen = []
        message.headerchange = lambda msg, name, value: seen.append(msg.get_all(name))
        del message["a"]
        assert [["b", "c"]] == seen
        assert message["a"] is None

    def test_setting_adds(self):
        """m[n] = v never replaces."""
        message = parse(b"A: b\n\n")
        message["A"] = "c"
        assert ["b", "c"] == message.getheaders("a")
        assert message.getheaders("z") is None
        assert 1 == message.getheaders("z", 1)

    def test_set_payload_from_a_file(self):
        """A file is rewound and read."""
        message = parse(b"A: b\n\nc")
        stream = io.BytesIO(b"new \xff")
        stream.read()
        message.set_payload(stream)
        assert message.modified
        assert b"A: b\n\nnew \xff" == message.as_bytes()

    def test_a_changed_part_marks_the_whole(self):
        """ismodified() of the whole sees a part's change."""
        message = parse(TWO_PARTS)
        message.get_payload(0).set_payload("bye")
        assert (True, False) == (message.ismodified(), message.modified)
        assert TWO_PARTS.replace(b"hello", b"bye") == message.as_bytes()

    def test_decoding(self):
        """decode, get_payload_decoded, getencoding and get_payload agree."""
        message = parse(b"Content-Transfer-Encoding: BASE64\n\naGk=\n")
        out = io.BytesIO()
        assert "BASE64" == message.decode(out) == message.getencoding()
        assert b"hi" == out.getvalue() == message.get_payload_decoded()
        assert b"hi" == message.get_payload(decode=True)
        assert "aGk=\n" == message.get_payload()

    def test_submessages(self):
        """get_submsg gives a container's parts, and None for others and for a flat multipart."""
        assert 2 == len(parse(TWO_PARTS).get_submsg())
        assert 1 == len(parse(b"Content-Type: message/rfc822\n\nA: b\n\nc").get_submsg())
        assert parse(b"A: b\n\nc").get_submsg() is None
        assert parse(b"Content-Type: multipart/mixed\n\nflat\n").get_submsg() is None
        report = parse(b"Content-Type: message/delivery-status\n\nA: b\n\nC: d\n")
        assert report.is_multipart()
        assert report.get_submsg() is None

    def test_submsg_attribute(self):
        """submsg is the list of parts of a message that was read, until its body is replaced."""
        message = parse(TWO_PARTS)
        assert message.submsg is message.get_payload()
        assert message.get_payload(0).submsg is None
        message.set_payload("x")
        assert message.submsg is None
        assert mime.MimeMessage().submsg is None

    def test_what_is_no_change(self):
        """replace_header and attach do not make a message modified; dump writes the result."""
        message = parse(TWO_PARTS)
        message.replace_header("Content-Type", message["Content-Type"] + "; a=b")
        message.attach(parse(b"A: b\n\nthird\n"))
        assert not message.ismodified()
        again = parse(message.as_bytes())
        assert "b" == again.get_param("a")
        assert "third\n" == again.get_payload(2).get_payload()

    def test_a_part_of_another_kind_is_a_change(self):
        """A part that is no MimeMessage was not read here. (API spec 4.1: by other means.)"""
        message = parse(TWO_PARTS)
        message.attach(email.message_from_string("A: b\n\nthird\n"))
        assert message.ismodified()

    @pytest.mark.parametrize("value", ['"""XX"""', '""XX""', '"XX"', "XX", r'"\"XX\""'])
    def test_boundary_quoting(self, value):
        """A boundary that is quoted once too often is found all the same."""
        message = parse(
            b"Content-Type: multipart/mixed; boundary=%s\n\n--XX\n\na\n--XX--\n" % value.encode()
        )
        assert "XX" == message.get_boundary()
        assert message.is_multipart()

    def test_aliases(self):
        """The names of old are there."""
        message = parse(b'Content-Type: TEXT/plain; name="n"; x=y\n\n')
        assert ("n", "text/plain", "y", False) == (
            message.getfilename(),
            message.gettype(),
            message.getparam("x"),
            message.ismultipart(),
        )
        assert "n" == message.getname()
        assert [("TEXT/plain", ""), ("name", "n"), ("x", "y")] == message.getparams()


NAMES = [
    (b"", [("filename", None)]),
    (b"Content-Type: text/plain", [("text/plain", ""), ("filename", None)]),
    (
        b'Content-Type: text/plain; name="foo.exe"',
        [("text/plain", ""), ("name", "foo.exe"), ("filename", "foo.exe")],
    ),
    (
        b"Content-Type: text/plain; name*0=a; name*1=.exe",
        [("text/plain", ""), ("name", "a.exe"), ("filename", "a.exe")],
    ),
    (
        b"Content-Type: text/plain; name*=utf-8''%e2%82%ac.exe",
        [("text/plain", ""), ("name", "\u20ac.exe"), ("filename", "\u20ac.exe")],
    ),
    (
        b"Content-Type: text/plain; name=a.txt\nContent-Disposition: x; filename=b.exe",
        [("text/plain", ""), ("name", "a.txt"), ("filename", "b.exe")],
    ),
    (
        b'Content-Type: text/plain; x="a &amp; b"',
        [("text/plain", ""), ("x", "a &amp; b"), ("filename", None)],
    ),
]


@pytest.mark.parametrize(("header", "expected"), NAMES)
def test_getnames(header, expected):
    """getnames lists type, parameters and file name; RFC 2231 charsets do not raise."""
    assert expected == parse(header + b"\n\nx\n").getnames()


def test_rfc2231_value_is_a_tuple():
    """getname gives an RFC 2231 value as (charset, language, text)."""
    message = parse(b"Content-Type: text/plain; name*=utf-8'en'a.exe\n\n")
    assert ("utf-8", "en", "a.exe") == message.getname()
    assert "a.exe" == message.get_filename()


def test_long_continuations():
    """A file name in 200 continuations is put together."""
    pieces = b"".join(b"; filename*%d=%03d" % (i, i) for i in range(200))
    message = parse(b"Content-Disposition: attachment" + pieces + b"; filename*200=.pif\n\n")
    assert "".join(f"{i:03}" for i in range(200)) + ".pif" == message.get_filename()


class TestZip:
    def test_names_in_place(self):
        """Members of an archive in the archive stand behind its name."""
        inner = zipped(("b.exe", "x"), ("C.ZIP", zipped(("d", "e"))))
        assert [("zipname", n) for n in ("a.zip", "b.exe", "C.ZIP", "d", "f")] == mime.zipnames(
            zipped(("a.zip", inner), ("f", "g"))
        )
        assert [] == mime.zipnames(zipped())

    @pytest.mark.parametrize("data", [b"", b"x", b"PK", zipped(("a.zip", "none"))])
    def test_no_zip(self, data):
        """What is no archive raises BadZipFile."""
        with pytest.raises(zipfile.BadZipFile):
            mime.zipnames(data)

    def test_getnames(self):
        """With scan_zip the members are named; blank content has none."""
        message = parse(attachment(zipped(("a", "b"))))
        assert ("zipname", "a") in message.getnames(True)
        assert ("zipname", "a") not in message.getnames()
        assert "zipname" not in dict(parse(attachment(b" \n")).getnames(True))
        with pytest.raises(zipfile.BadZipFile):
            parse(attachment(b"junk")).getnames(True)

    @pytest.mark.parametrize(
        ("data", "changed"),
        [
            (zipped(("a.exe", "b")), True),
            (zipped(("a.txt", "b")), False),
            (zipped(("z.zip", zipped(("a.exe", "b")))), True),
            (b"junk", True),
            (b"", False),
        ],
    )
    def test_defang(self, data, changed):
        """With scan_zip, a bad member or a corrupt archive is replaced; an empty one is not."""
        message = parse(attachment(data))
        assert not mime.defang(message)
        assert changed == mime.defang(message, scan_zip=True)
        if changed:
            assert warning("x.zip") == message.get_payload()


class TestDefang:
    def test_replaces_the_part(self):
        """The bad part becomes a warning, everything else stays byte for byte."""
        message = parse(TWO_PARTS)
        assert mime.defang(message, "saved")
        bad = message.get_payload(1)
        assert warning("run.exe", "saved") == bad.get_payload()
        assert ["Content-Type"] == bad.keys()
        assert "text/plain; name=WARNING.TXT" == bad["content-type"]
        before, _, rest = TWO_PARTS.partition(b"Content-Type: application")
        assert message.as_bytes().startswith(before)
        assert message.as_bytes().endswith(b"\n--b--\nepilogue\n")
        assert rest

    @pytest.mark.parametrize(
        "data",
        [
            TWO_PARTS.replace(b"--b--\nepilogue\n", b""),
            TWO_PARTS.replace(b'"b"', b'""b""'),
            TWO_PARTS[TWO_PARTS.index(b"Content-Type: application") :],
            TWO_PARTS.replace(b"text/plain", b'text/plain; name="a.scr"'),
        ],
        ids=["no end", "broken quoting", "single", "two"],
    )
    def test_variants(self, data):
        """Every part with a bad name is replaced in mail that is not well formed, too."""
        message = parse(data)
        assert mime.defang(message)
        texts = [part.get_payload() for part in message.walk() if not part.is_multipart()]
        assert warning("run.exe").strip() == texts[-1].strip()
        assert not mime.defang(parse(message.as_bytes()))

    def test_check_is_asked(self):
        """A filter's own check is called with every name, None too, and names what is shown."""
        seen = []
        message = parse(b"Content-Type: text/plain\n\nx\n")
        assert Milter.CONTINUE == mime.check_name(message, None, seen.append)
        assert ["", None] == seen
        assert mime.defang(message, None, lambda name: "FOO")
        assert warning("FOO") == message.get_payload()

    def test_fields_go_in_order(self):
        """The three fields are deleted by their lower-case names, and a new type is set."""
        message = parse(b"Content-Type: text/plain; name=a.exe\n\nx\n")
        seen = []
        message.headerchange = lambda msg, name, value: seen.append((name, value))
        mime.defang(message)
        assert [
            ("content-type", None),
            ("content-disposition", None),
            ("content-transfer-encoding", None),
            ("Content-Type", "text/plain; name=WARNING.TXT"),
        ] == seen

    def test_no_html(self):
        """_defang(scan_html=False) leaves scripts alone."""
        html = b"Content-Type: text/html\n\n<script>x</script>\n"
        assert not mime._defang(scan_html=False)(parse(html))
        assert mime.defang(parse(html))

    def test_missing_boundary_in_an_attached_message(self):
        """A multipart without a usable boundary in a message/rfc822 raises nothing."""
        flat = RFC822 + b"\n\nflat text\n--o--\n"
        message = parse(flat)
        assert not mime.defang(message)
        assert flat == message.as_bytes()

    def test_attached_message(self):
        """A bad part in an attached message is found, whatever scan_rfc822 says."""
        data = RFC822 + b"i\n\n--i\nContent-Type: a/b; name=x.pif\n\nx\n--i--\n--o--\n"
        for scan in (True, False):
            message = parse(data)
            assert mime.defang(message, scan_rfc822=scan)
            assert warning("x.pif").encode() in message.as_bytes()


def test_check_attachments(capsys):
    """Leaves are visited in order, up to the first result that is not CONTINUE; no prints."""
    message = parse(TWO_PARTS)
    seen = []
    assert Milter.CONTINUE == mime.check_attachments(
        message, lambda part: seen.append(part.get_content_type()) or Milter.CONTINUE
    )
    assert ["text/plain", "application/octet-stream"] == seen
    seen.clear()
    assert mime.check_attachments(message, seen.append) is None
    assert 1 == len(seen)
    assert Milter.REJECT == mime.check_attachments(message, lambda part: Milter.REJECT)
    assert ("", "") == capsys.readouterr()


@pytest.mark.parametrize(
    "data",
    [
        TWO_PARTS,
        b"Content-Type: message/rfc822\n\nSubject: x\n\nbody\n",
        b"Content-Type: message/delivery-status\n\nA: b\n\nC: d\n\n\nE: f\n",
        b"A: \xe9\n\n\xe9\xff",
        b"A: " + b"x" * 2000 + b"\nB:\tc\nC:\n d\n\nFrom here\n",
        b"junk\nA: b\n\nc",
        b"Content-Type: multipart/mixed; boundary=x\n\n--x\n\na\n--x  \n--x--  \n",
        b"Content-Type: multipart/mixed; boundary=x\n\n--x\n\na",
    ],
)
def test_unmodified_is_identical(data):
    """What nobody changed is dumped byte for byte, containers of every kind included."""
    out = io.BytesIO()
    parse(data).dump(out)
    assert data == out.getvalue()


def test_line_ends_become_lf():
    """CR LF, and CR, in the input are LF in the output."""
    assert b"A: b\n\nx\ny\n" == parse(b"A: b\r\n\r\nx\ry\r\n").as_bytes()


def test_mbox_line():
    """The separator line of an mbox is only written when it is asked for."""
    message = parse(b"From me\nA: b\n\nc")
    assert b"A: b\n\nc" == message.as_bytes()
    assert b"From me\nA: b\n\nc" == message.as_bytes(unixfrom=True)


def filtered(kind, text):
    """Filter a text."""
    out = io.StringIO()
    html = kind(out)
    html.write(text)
    html.close()
    return html, out.getvalue()


MSG = mime.HTMLScriptFilter(io.StringIO()).msg


@pytest.mark.parametrize(
    ("text", "expected", "modified"),
    [
        ("<p>a</p>", "<p>a</p>", False),
        ("<SCRIPT>x</SCRIPT>", MSG, True),
        ('a<script src="q">x<b>y</b></script>b', f"a<b></b>{MSG}b", True),
        ("<script><script>a</script>b</script>c", f"{MSG}c", True),
        ("<script>x", "", True),
        ("x</script>y", "xy", False),
        ("<!-- c --><script><!-- d --></script>", f"<!-- c -->{MSG}", True),
        ("<br/>x/y", "<br/>x</br>y", False),
        ("<img onerror=x>", "<img onerror=x>", False),
        (
            "<! Bad $><![if conditional]>a<![endif]><!-- c --><script>x</script>",
            f"<! Bad $><![if conditional]>a<![endif]><!-- c -->{MSG}",
            True,
        ),
    ],
)
def test_script_filter(text, expected, modified):
    """HTMLScriptFilter answers as API spec 4.3 says."""
    html, out = filtered(mime.HTMLScriptFilter, text)
    assert (expected, modified) == (out, html.modified)


@pytest.mark.parametrize(
    ("text", "expected"),
    [
        ("</P >", "</p>"),
        ("&foo bar", "&foo; bar"),
        ("a & b", "a & b"),
        ("<?pi?>x", "x"),
        ("<!DOCTYPE html><BR>&#300;", "<!DOCTYPE html><BR>&#300;"),
        ("<script>x</script>", "<script>x</script>"),
    ],
)
def test_sgml_filter(text, expected):
    """SGMLFilter copies, with the changes of API spec 4.3."""
    assert expected == filtered(mime.SGMLFilter, text)[1]


class TestCheckHtml:
    @pytest.mark.parametrize(
        "header",
        [
            b"text/html",
            b"TEXT/Html",
            b"application/octet-stream; name=a.htm",
            b"application/octet-stream; name=A.HTM",
        ],
    )
    def test_what_is_html(self, header):
        """HTML by type or by name loses its scripts and becomes quoted-printable."""
        message = parse(b"Content-Type: " + header + b"\n\n<script>x</script>y\n")
        assert Milter.CONTINUE == mime.check_html(message)
        assert "quoted-printable" == message["content-transfer-encoding"]
        assert f"{MSG}y\n".encode() == message.get_payload(decode=True)

    @pytest.mark.parametrize("header", [b"text/plain", b"application/octet-stream; name=a.html"])
    def test_what_is_not(self, header):
        """Other types, and ".html", are left alone (API spec 4.2)."""
        data = b"Content-Type: " + header + b"\n\n<script>x</script>y\n"
        message = parse(data)
        assert Milter.CONTINUE == mime.check_html(message)
        assert data == message.as_bytes()

    @pytest.mark.parametrize("charset", ["iso-8859-1", "utf-8", "koi8-r", "utf-16", "iso-2022-jp"])
    def test_charset_is_kept(self, charset):
        """Text is decoded and encoded by the declared charset."""
        text = {"koi8-r": "\u0434\u0430", "iso-2022-jp": "\u65e5"}.get(charset, "\xe9")
        html = f"<p>{text}</p><script>x</script>\n"
        message = parse(
            f"Content-Type: text/html; charset={charset}\n".encode()
            + b"Content-Transfer-Encoding: base64\n\n"
            + base64.encodebytes(html.encode(charset))
        )
        assert mime.defang(message)
        again = parse(message.as_bytes())
        assert charset == again.get_content_charset()
        assert f"<p>{text}</p>{MSG}\n" == again.get_payload(decode=True).decode(charset)

    @pytest.mark.parametrize("charset", ["", "; charset=nonsense", "; charset=us-ascii"])
    @pytest.mark.parametrize("byte", [b"\xe9", "\xe9".encode(), b"\x00", b"\x81"])
    def test_undeclared_bytes_survive(self, charset, byte):
        """Bytes that the declared charset does not know come out as they went in."""
        message = parse(
            b"Content-Type: text/html" + charset.encode() + b"\n\n" + byte + b"<script>x</script>\n"
        )
        assert mime.defang(message)
        assert byte + MSG.encode() + b"\n" == message.get_payload(decode=True)
