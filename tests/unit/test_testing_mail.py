"""Milter.testing.mail: messages from files, text, the email package, and from parts."""

from __future__ import annotations

import email
from email.message import EmailMessage
from email.policy import default
from pathlib import Path
from typing import Any

import pytest

from Milter import mta
from Milter.testing import mail

HI = b"From: Carol <carol@example.net>\nTo: dave@example.com\nCc: eve@example.com\n\nhi\n"


def names(message: mta.Message) -> list[bytes]:
    """The names of its headers."""
    return [header.name for header in message.headers]


def test_nothing_said() -> None:
    """Without arguments it is a small message with all that one needs, the same each time."""
    message = mail()
    assert mail() == message
    assert [b"From", b"To", b"Subject", b"Date", b"Message-ID"] == names(message)
    assert ("alice@example.org", ["bob@example.com"]) == (
        message.sender,
        [each.address for each in message.recipients],
    )
    assert [b"alice@example.org"] == message.get_all("From")
    assert b"hello\r\n" == message.body
    parsed = email.message_from_bytes(message.as_bytes(), policy=default)
    assert [] == [*parsed.defects, *(d for value in parsed.values() for d in value.defects)]


def test_envelope_goes_into_headers() -> None:
    """Of a message that is made here, sender and recipients stand in the headers, too."""
    message = mail(sender="<a@x.example>", to=["b@y.example", mta.Recipient("<c@z.example>")])
    assert [b"a@x.example"] == message.get_all("From")
    assert [b"b@y.example, c@z.example"] == message.get_all("To")
    assert "<>" == mail(sender="").sender
    assert [b"alice@example.org"] == mail(sender="<>").get_all("From")
    assert [mta.Recipient("x@example.com", ("NOTIFY=NEVER",))] == mail(
        to=mta.Recipient("x@example.com", ("NOTIFY=NEVER",))
    ).recipients
    assert ["SIZE=10"] == mail(sender_params=["SIZE=10"]).sender_params


@pytest.mark.parametrize(
    "source",
    [HI, HI.decode(), HI.replace(b"\n", b"\r\n"), email.message_from_bytes(HI), "file", Path("f")],
    ids=["bytes", "str", "crlf", "email", "name", "path"],
)
def test_sources(source: Any, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Wherever a message comes from, its envelope is what From, To and Cc say."""
    (tmp_path / "file").write_bytes(HI)
    (tmp_path / "f").write_bytes(HI)
    message = mail(source, directory=tmp_path)
    assert ("carol@example.net", ["dave@example.com", "eve@example.com"]) == (
        message.sender,
        [each.address for each in message.recipients],
    )
    assert [b"From", b"To", b"Cc"] == names(message)
    assert b"hi\r\n" == message.body
    monkeypatch.chdir(tmp_path)
    assert message == mail(source)
    assert message == mail(source, directory="/nonexistent")


def test_without_addresses() -> None:
    """A message whose headers name nobody comes from alice to bob, and is left as it is."""
    message = mail(b"Subject: x\n\n")
    assert ("alice@example.org", "bob@example.com") == (
        message.sender,
        message.recipients[0].address,
    )
    assert [b"Subject"] == names(message)


def test_message_is_copied() -> None:
    """Of a mta.Message the envelope counts, and the original stays as it was."""
    original = mta.Message.from_bytes(HI, "<>", ["<x@example.com>"])
    message = mail(original, subject="new", sender_params=["SIZE=1"])
    assert ("<>", [mta.Recipient("<x@example.com>")]) == (message.sender, message.recipients)
    message.recipients.clear()
    assert mta.Message.from_bytes(HI, "<>", ["<x@example.com>"]) == original


def test_file_is_missing(tmp_path: Path) -> None:
    """A file that is not there is named."""
    with pytest.raises(FileNotFoundError, match=r"none\.eml"):
        mail("none.eml", directory=tmp_path)


def test_headers() -> None:
    """Headers take the place of those of the same names, go to the end, or away; byte by byte."""
    message = mail(
        "A: 1\nB: 2\na: 3\nC: 4\n\n",
        headers=[("A", "5"), ("D", b"\xff"), ("A", "6\n\tfolded"), ("c", None)],
    )
    assert [(b"A", b" 5"), (b"A", b" 6\n\tfolded"), (b"B", b" 2"), (b"D", b" \xff")] == [
        tuple(header) for header in message.headers
    ]
    assert ["Subject", "X-A"] == [
        header.name.decode()
        for header in mail(
            "Subject: x\n\n", subject="y", headers={"X-A": "b", "Date": None}
        ).headers
    ]
    assert [b"y"] == mail("Subject: x\n\n", subject="y").get_all("subject")


@pytest.mark.parametrize(
    ("name", "value"),
    [("", "x"), ("A B", "x"), ("A:", "x"), ("A\n", "x"), ("A", "x\ny"), ("A", "x\r"), ("A", "\0")],
)
def test_bad_headers(name: str, value: str) -> None:
    """What would be no header, or two, is refused."""
    with pytest.raises(ValueError, match=r"."):
        mail(headers=[(name, value)])


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        ("a\nb", b"a\r\nb"),
        ("a\r\nb\r\n", b"a\r\nb\r\n"),
        (b"\xff\0\n", b"\xff\0\r\n"),
        ("", b""),
    ],
)
def test_bodies(body: Any, expected: bytes) -> None:
    """Bodies get the line ends of SMTP, and else stay as they are."""
    assert expected == mail(body=body).body
    assert expected == mail(HI, body=body).body


def test_body_beyond_ascii() -> None:
    """Text beyond ASCII is UTF-8, and a MIME header says so; another parser reads it."""
    message = mail(body="Grüße\n")
    parsed = email.message_from_bytes(message.as_bytes(), policy=default)
    assert isinstance(parsed, EmailMessage)
    assert "Grüße\n" == parsed.get_content().replace("\r\n", "\n")


def test_parts() -> None:
    """With HTML and attachments it is a MIME message that another parser reads; reproducible."""
    attachments = {"run.exe": b"MZ\0\xff", "b.bin": b""}
    message = mail(body="text\n", html="<p>text</p>", attachments=attachments)
    assert message == mail(body="text\n", html="<p>text</p>", attachments=attachments)
    parsed = email.message_from_bytes(message.as_bytes(), policy=default)
    assert isinstance(parsed, EmailMessage)
    assert [] == [defect for part in parsed.walk() for defect in part.defects]
    plain, html = parsed.get_body(("plain",)), parsed.get_body(("html",))
    assert plain is not None
    assert html is not None
    assert ("text\r\n", "<p>text</p>\r\n") == (
        plain.get_content().replace("\r\n", "\n").replace("\n", "\r\n"),
        html.get_content().replace("\r\n", "\n").replace("\n", "\r\n"),
    )
    assert attachments == {
        str(part.get_filename()): part.get_payload(decode=True)
        for part in parsed.iter_attachments()
    }
    assert "test" == parsed["Subject"]


def test_attached_text() -> None:
    """An attachment that is given as text is that text in UTF-8."""
    parsed = email.message_from_bytes(mail(attachments={"a.txt": "ä"}).as_bytes(), policy=default)
    assert isinstance(parsed, EmailMessage)
    assert [b"\xc3\xa4"] == [part.get_payload(decode=True) for part in parsed.iter_attachments()]


@pytest.mark.parametrize(
    ("parts", "error", "text"),
    [
        ({"body": 3}, TypeError, "body=3: it is text or bytes"),
        ({"headers": "X-A: b"}, TypeError, "headers='X-A: b': they are a mapping, or pairs"),
        ({"to": "a@b.example, c@d.example"}, ValueError, "several recipients are a list"),
    ],
)
def test_mistaken(parts: Any, error: type[Exception], text: str) -> None:
    """What is plainly meant otherwise is refused at once, with what it is to be."""
    with pytest.raises(error, match=text):
        mail(**parts)


def test_no_file(tmp_path: Path) -> None:
    """A file that is nowhere: the error says where it was looked for."""
    with pytest.raises(FileNotFoundError) as caught:
        mail("nothere.eml", directory=tmp_path)
    assert f"neither in {tmp_path} nor in the current directory" == caught.value.strerror
    assert "nothere.eml" == caught.value.filename
    with pytest.raises(FileNotFoundError, match=r"No such file: 'nothere\.eml'"):
        mail("nothere.eml")


def test_parts_of_another() -> None:
    """HTML and attachments are not put into a message that comes from somewhere."""
    with pytest.raises(ValueError, match="made here"):
        mail(HI, html="x")
