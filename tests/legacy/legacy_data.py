"""The messages that the tests of this directory feed, written below `test/` of any directory.

The names are those that pymilter's own suite uses for messages of the same kind. The contents are
made up here, and harmless: what has the name of a program holds text.
"""

from __future__ import annotations

import base64
import io
import zipfile
from pathlib import Path

#: Stands for a program.
PROGRAM = b"MZ this is not a program, but has the name of one\n"

HEADERS = b"""\
From: "Ann Example" <ann@example.com>
To: bob@example.org
Subject: %s
Message-ID: <%s@example.com>
MIME-Version: 1.0
"""


def zipped(**members: bytes) -> bytes:
    """Return a zip archive; an underscore in a member's name stands for the dot."""
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in members.items():
            archive.writestr(zipfile.ZipInfo(name.replace("_", ".")), data)
    return file.getvalue()


def headers(name: str) -> bytes:
    """Return the headers that every message has; the name is told in two of them."""
    return HEADERS % (name.encode(), name.encode())


def text(words: str = "Please see the attachment.\n") -> bytes:
    """Return a part of plain text."""
    return b"Content-Type: text/plain; charset=us-ascii\n\n" + words.encode()


def attachment(name: str, data: bytes = PROGRAM, type: str = "application/octet-stream") -> bytes:
    """Return a part with a file, in base64."""
    return (
        f'Content-Type: {type}; name="{name}"\n'
        "Content-Transfer-Encoding: base64\n"
        f'Content-Disposition: attachment; filename="{name}"\n\n'
    ).encode() + base64.encodebytes(data)


def multipart(name: str, *parts: bytes, boundary: bytes = b'"==xx"', end: bool = True) -> bytes:
    """Return a message of several parts.

    boundary: as it stands in the header; the delimiter is ==xx in any case.
    end: whether the last delimiter is there.
    """
    data = headers(name) + b"Content-Type: multipart/mixed; boundary=" + boundary + b"\n\n"
    data += b"".join(b"--==xx\n" + part + b"\n" for part in parts)
    return data + (b"--==xx--\n" if end else b"")


def enclosed(message: bytes) -> bytes:
    """Return a part that is a message."""
    return b"Content-Type: message/rfc822\n\n" + message


def long_name() -> bytes:
    """Return a part whose file name is so long that it is continued (RFC 2231), and harmless."""
    pieces = [f"part-{number:02}-of-a-name-that-does-not-fit-in-one-line-" for number in range(12)]
    pieces.append("end.pdf")
    lines = [f' filename*{number}="{piece}"' for number, piece in enumerate(pieces)]
    return (
        "Content-Type: application/pdf\n"
        "Content-Transfer-Encoding: base64\n"
        "Content-Disposition: attachment;\n" + ";\n".join(lines) + "\n\n"
    ).encode() + base64.encodebytes(b"%PDF-1.4 made up\n")


HTML = b"""\
<html><head><title>News</title></head>
<body><p>Nothing happened today.</p><a href="http://www.example.com/">More</a></body></html>
"""

MESSAGES: dict[str, bytes] = {
    # Two parts, harmless.
    "samp1": multipart("samp1", text("Dear Bob,\nas promised.\n"), attachment("list.bin")),
    # Programs in attachments.
    "virus1": multipart("virus1", text(), attachment("LETTER.TXT.pif")),
    "virus2": multipart("virus2", text(), attachment("invoice.exe")),
    # In the first part.
    "virus3": multipart("virus3", attachment("holiday.vbs"), text("Bye.\n")),
    # Without the last boundary.
    "virus4": multipart("virus4", text(), attachment("game.com"), end=False),
    # The boundary with quotes in the quotes.
    "virus5": multipart("virus5", text(), attachment("song.scr"), boundary=b'"""==xx"""'),
    # No parts: the message itself is the program.
    "virus6": headers("virus6") + attachment("story.exe").replace(b": attachment", b": inline"),
    # Two of them.
    "virus7": multipart("virus7", text(), attachment("a.asp"), attachment("b.scr")),
    # A message in a message, with a type of several parts and no boundary.
    "missingboundary": multipart(
        "missingboundary",
        text(),
        enclosed(headers("inner") + b"Content-Type: multipart/mixed\n\n--what\n\nflat\n"),
    ),
    # A name that looks like HTML.
    "honey": multipart(
        "honey",
        text(),
        attachment("this&amp;that.gif", b"GIF89a", "image/gif"),
    ),
    # Advertising, harmless.
    "spam7": headers("spam7") + b"Content-Type: text/plain\n\nBuy two, pay three.\n",
    # A harmless archive of which a test says that it is not, an empty one, a broken one, nested.
    "zip1": multipart("zip1", text(), attachment("set.zip", zipped(readme_txt=b"x", run_exe=b"x"))),
    "zip2": multipart("zip2", text(), attachment("empty.zip", b"")),
    "zip3": multipart("zip3", text(), attachment("torn.zip", zipped(a_txt=b"x" * 99)[:-30])),
    "ziploop": multipart(
        "ziploop",
        text(),
        attachment("outer.zip", zipped(inner_zip=zipped(deep_zip=zipped(run_exe=b"x")))),
    ),
    # A large document, the last one of several.
    "test1": multipart(
        "test1",
        text(),
        attachment("short.pdf", b"%PDF-1.4\n", "application/pdf"),
        attachment(
            "annual report.pdf", b"%PDF-1.4\n" + bytes(range(256)) * 2000, "application/pdf"
        ),
    ),
    # Very long names, and HTML.
    "test2": multipart(
        "test2", text(), b"Content-Type: text/html\n\n" + HTML, long_name(), long_name()
    ),
    # A program in a message in a message.
    "test8": multipart(
        "test8",
        text(),
        enclosed(multipart("inner", text(), attachment("application.pif"))).replace(
            b"==xx", b"==y"
        ),
    ),
    # Not ASCII, neither the headers nor the body.
    "utf8": headers("utf8")
    + "X-Greeting: gr\u00fc\u00dfe\nContent-Type: text/plain; charset=utf-8\n\n".encode()
    + "Sch\u00f6n!\n".encode(),
}


def write(directory: Path) -> None:
    """Write all of them below `test/` of a directory."""
    (directory / "test").mkdir()
    for name, data in MESSAGES.items():
        (directory / "test" / name).write_bytes(data)
