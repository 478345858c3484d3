"""mime: any bytes in, no exception out, and what is not modified comes back identical."""

from __future__ import annotations

import io
import zipfile

import pytest
from hypothesis import given
from hypothesis import strategies as st

import mime
from Milter import sgmllib


@pytest.fixture(scope="module", autouse=True)
def _both_modes():
    """No server runs here, so there is one way of waiting only."""


LINES = st.sampled_from(
    [
        b"",
        b"text",
        b"--x",
        b"--x--",
        b"--y ",
        b"--y--",
        b"Content-Type: multipart/mixed; boundary=x",
        b'Content-Type: multipart/digest; boundary="y"',
        b"Content-Type: multipart/mixed",
        b"Content-Type: message/rfc822",
        b"Content-Type: message/delivery-status",
        b"Content-Type: text/html; charset=utf-8",
        b"Content-Type: text/html; charset*0*=x''%",
        b"Content-Type: a/b; name=a.exe",
        b"Content-Disposition: x; filename*=utf-8''a.zip",
        b"Content-Transfer-Encoding: base64",
        b"Content-Transfer-Encoding: x-uuencode",
        b"Content-Transfer-Encoding: quoted-printable",
        b" folded",
        b"From me",
        b": nameless",
        b"<script>x</script>",
        b"begin 644 x",
        b"PHNjcmlwdD4=",
        b"=3Cscript>",
    ]
)
MAIL = st.one_of(
    st.binary(max_size=300),
    st.lists(st.one_of(LINES, st.binary(max_size=20)), max_size=20).map(b"\n".join),
    st.lists(LINES, max_size=20).map(lambda lines: b"\r\n".join(lines)),
)


def lf(data):
    """Return what docs/mime.md says is kept: all but the kind of line ends, and an mbox line."""
    data = data.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    return data.partition(b"\n")[2] if data.startswith(b"From ") else data


def dumped(message):
    """Dump a message."""
    out = io.BytesIO()
    message.dump(out)
    return out.getvalue()


@given(MAIL)
def test_what_is_not_modified_is_identical(data):
    """Reading and looking at a message changes nothing in it."""
    message = mime.message_from_file(io.BytesIO(data))
    assert not message.ismodified()
    for part in message.walk():
        part.get_payload()
        part.get_payload(decode=True)
        part.getnames()
        part.getparams()
        part.getheaders("content-type")
        part.get_content_charset()
        part.get_submsg()
        part.decode(io.BytesIO())
        assert isinstance(part.get_filename(), (str, type(None)))
    assert lf(data) == dumped(message)


@given(MAIL, st.booleans(), st.booleans())
def test_defang(data, scan_zip, scan_rfc822):
    """defang raises nothing, and tells whether it changed something."""
    message = mime.message_from_file(io.BytesIO(data))
    changed = mime.defang(message, "saved", scan_zip=scan_zip, scan_rfc822=scan_rfc822)
    assert changed == message.ismodified()
    if not changed:
        assert lf(data) == dumped(message)


@given(MAIL)
def test_parts_that_are_not_modified_are_identical(data):
    """When every text part gets a new field, all bytes that were read are still there, in order."""
    message = mime.message_from_file(io.BytesIO(data))
    message["X-New"] = "value"
    out = dumped(message)
    assert b"X-New: value\n" in out
    body = message._source.body()
    assert out.endswith(body)


@given(MAIL)
def test_single_checks(data):
    """check_name, check_html and check_attachments raise nothing."""
    for check in (mime.check_name, mime.check_html):
        message = mime.message_from_file(io.BytesIO(data))
        assert mime.check_attachments(message, check) == 0
        dumped(message)


@given(st.text(max_size=60))
def test_names(name):
    """Any text as a name raises nothing, also where the message is made by hand."""
    message = mime.MimeMessage()
    message["Content-Type"] = "a/b"
    message.set_param("name", name)
    message.set_payload("x")
    mime.check_name(message)
    mime.unquote(name)
    mime.check_ext(name)
    dumped(message)


@given(st.text(alphabet="<>!-/?&;#[] \n='\"abscriptSCRIPT0\0\u00e9", max_size=80))
def test_script_filter(text):
    """The filter takes any text; text without a less-than sign or ampersand is copied."""
    out = io.StringIO()
    scripts = mime.HTMLScriptFilter(out)
    scripts.write(text)
    scripts.close()
    if not set("<&") & set(text):
        assert (text, False) == (out.getvalue(), scripts.modified)


@given(st.text(alphabet="<>!-/?&;#[] \n='\"ab0\u00e9", max_size=60))
def test_parser(text):
    """The parser raises nothing but SGMLParseError."""
    parser = sgmllib.SGMLParser()
    try:
        parser.feed(text)
        parser.close()
    except sgmllib.SGMLParseError:
        return
    assert parser.rawdata == ""


@given(st.binary(max_size=200))
def test_zip_names(data):
    """Any bytes give names or BadZipFile; so do bytes with an end record behind them."""
    for case in (data, data + b"PK\5\6" + bytes(18), b"PK\5\6" + data):
        try:
            assert isinstance(mime.zipnames(case), list)
        except zipfile.BadZipFile:
            pass
