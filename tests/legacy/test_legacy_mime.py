"""What pymilter's suite checks of `mime` (API spec 7, testmime)."""

from __future__ import annotations

import io
import socket
from collections.abc import Callable
from typing import Any

import pytest
from legacy_data import HTML, MESSAGES

import Milter
import mime

HOST = socket.gethostname()


def read(name: str) -> Any:
    """Parse the message of that name."""
    with open("test/" + name, "rb") as fp:
        return mime.message_from_file(fp)


def defanged(name: str, **options: Any) -> Any:
    """Defang the message of that name, write it, and read what was written."""
    msg = read(name)
    mime.defang(msg, **options)
    with open(f"test/{name}.out", "wb") as out:
        msg.dump(out)
    return read(name + ".out")


def warning(name: str, saved: str | None = None) -> str:
    """Return the text that stands in the place of what had that name."""
    return mime.virus_msg % (name, HOST, saved)


def parts(msg: Any) -> list[Any]:
    """Return the parts of a message."""
    return list(msg.get_payload())


# Parameters and parsing.


@pytest.mark.parametrize(
    "text", [';name="a;b"', ';boundary="=_x;y=z"', ';a="b\\"c;d"', ';charset="us-ascii"']
)
def test_param(text: str) -> None:
    """A parameter with a quoted value is one, whatever is in it."""
    found = [each for each in mime._parseparam(text) if each]
    assert [text[1:]] == found


def test_parse() -> None:
    """A message of two parts, and its first text."""
    msg = read("samp1")
    assert msg.ismultipart()
    assert 2 == len(parts(msg))
    assert not parts(msg)[0].ismultipart()
    assert "Dear Bob,\nas promised.\n" == parts(msg)[0].get_payload()
    assert not msg.ismodified()


@pytest.mark.ours
def test_unmodified_is_identical() -> None:
    """What is not modified is written as it was read."""
    for name, data in MESSAGES.items():
        out = io.BytesIO()
        read(name).dump(out)
        assert data == out.getvalue(), name


# Programs.


@pytest.mark.parametrize(
    ("name", "part", "file"),
    [
        ("virus1", 1, "LETTER.TXT.pif"),
        ("virus2", 1, "invoice.exe"),
        ("virus3", 0, "holiday.vbs"),
        ("virus4", 1, "game.com"),
        ("virus5", 1, "song.scr"),
    ],
)
def test_defang(name: str, part: int, file: str) -> None:
    """The program is replaced by the warning, the other part stays; a normal message, the first
    part, no end boundary, and a boundary with broken quoting."""
    msg = defanged(name)
    assert 2 == len(parts(msg))
    # Where the end boundary is missing, the last line end may belong to the part.
    assert warning(file) in (parts(msg)[part].get_payload(), parts(msg)[part].get_payload()[:-1])
    assert parts(read(name))[1 - part].get_payload() == parts(msg)[1 - part].get_payload()
    assert "text/plain" == parts(msg)[part].get_content_type()
    assert "WARNING.TXT" == parts(msg)[part].getname()


def test_defang_result() -> None:
    """defang tells whether it has changed something."""
    assert mime.defang(read("virus1"))
    assert not mime.defang(read("samp1"))


def test_defang_saved_name() -> None:
    """The name under which the original was saved stands in the warning."""
    msg = defanged("virus1", savname="/var/spool/x.defang")
    assert warning("LETTER.TXT.pif", "/var/spool/x.defang") == parts(msg)[1].get_payload()


def test_defang_inline_single_part() -> None:
    """A message that is itself the program becomes the warning, and its headers say so."""
    msg = defanged("virus6")
    assert not msg.ismultipart()
    assert warning("story.exe") == msg.get_payload()
    assert "text/plain" == msg.get_content_type()
    assert msg["content-transfer-encoding"] is None
    assert "virus6" == msg["subject"]


def test_defang_pair() -> None:
    """Both programs of a pair are replaced."""
    msg = defanged("virus7")
    assert [warning("a.asp"), warning("b.scr")] == [part.get_payload() for part in parts(msg)[1:]]


@pytest.mark.ours
def test_missing_boundary() -> None:
    """A message in the message that has a type of several parts and no boundary is no error."""
    defanged("missingboundary")


@pytest.mark.ours
def test_enclosed_message() -> None:
    """A program in a message in the message is found."""
    (inner,) = parts(parts(defanged("test8"))[1])
    assert ["Please see the attachment.\n", warning("application.pif")] == [
        part.get_payload() for part in parts(inner)
    ]


def test_other_check() -> None:
    """What is dangerous can be decided by the caller."""

    def check(name: Any) -> Any:
        return name if name == "list.bin" else None

    assert warning("list.bin") == parts(defanged("samp1", check=check))[1].get_payload()


def test_check_attachments() -> None:
    """Every part that is not a container is shown to the caller, until one is not CONTINUE."""
    seen = []

    def check(part: Any) -> int:
        seen.append(part.get_content_type())
        return Milter.CONTINUE if len(seen) < 2 else Milter.REJECT

    assert Milter.REJECT == mime.check_attachments(read("virus7"), check)
    assert ["text/plain", "application/octet-stream"] == seen


# Names.


def test_entity_in_a_name() -> None:
    """`&amp;` in a parameter is part of its value."""
    part = parts(read("honey"))[1]
    assert "this&amp;that.gif" == part.getparam("name") == part.getfilename()
    assert "this&amp;that.gif" == parts(defanged("honey"))[1].getfilename()


def test_getnames() -> None:
    """All the names that a part goes by."""

    def names(msg: Any) -> list[Any]:
        if not msg.ismultipart() and msg.get_content_maintype() != "message":
            return list(msg.getnames())
        return [name for part in parts(msg) for name in names(part)]

    found = names(read("test8"))
    assert ("filename", "application.pif") in found
    assert ("name", "application.pif") in found
    assert [("text/plain", ""), ("charset", "us-ascii"), ("filename", None)] == found[:3]


def test_last_name_in_a_large_document() -> None:
    """The last name of a message with a large PDF file."""
    names = [name for part in parts(read("test1")) for _, name in part.getnames()]
    assert "annual report.pdf" == names[-1]
    assert not mime.defang(read("test1"))


def test_long_names() -> None:
    """Names of many continuations (RFC 2231) are read whole; they and HTML are left alone."""
    msg = read("test2")
    file = parts(msg)[2].getfilename()
    assert file.startswith("part-00-of-a-name")
    assert file.endswith("-part-11-of-a-name-that-does-not-fit-in-one-line-end.pdf")
    assert not mime.defang(msg)
    out = io.BytesIO()
    msg.dump(out)
    assert MESSAGES["test2"] == out.getvalue()
    assert HTML in out.getvalue()


# Archives.


def bad_member(member: str) -> Callable[[Any], Any]:
    """Return a check to which that name is dangerous."""

    def check(name: Any) -> Any:
        return name if name and name.lower() == member else None

    return check


def test_zip() -> None:
    """An archive with a dangerous member is replaced where archives are looked into."""
    msg = defanged("zip1", scan_zip=True)
    assert warning("set.zip") == parts(msg)[1].get_payload()
    msg = defanged("zip1", check=bad_member("readme.txt"), scan_zip=True)
    assert warning("set.zip") == parts(msg)[1].get_payload()


def test_zip_not_scanned() -> None:
    """The same archive is untouched where they are not, or where its members are harmless."""
    out = io.BytesIO()
    defanged("zip1").dump(out)
    assert MESSAGES["zip1"] == out.getvalue()
    assert not mime.defang(read("zip1"), check=bad_member("other.exe"), scan_zip=True)


def test_zip_empty() -> None:
    """A file of no bytes with the name of an archive is left alone."""
    assert not mime.defang(read("zip2"), scan_zip=True)


def test_zip_corrupt() -> None:
    """What has the name of an archive and is none is replaced."""
    msg = defanged("zip3", scan_zip=True)
    assert warning("torn.zip") == parts(msg)[1].get_payload()
    assert not mime.defang(read("zip3"))


def test_zip_nested() -> None:
    """A dangerous member of an archive in an archive is found."""
    msg = defanged("ziploop", scan_zip=True)
    assert warning("outer.zip") == parts(msg)[1].get_payload()
    assert ("zipname", "run.exe") in parts(read("ziploop"))[1].getnames(scan_zip=True)


# HTML.


@pytest.mark.parametrize(
    "kept",
    [
        "<p>plain</p>",
        # A declaration that no standard has, which one program writes all the same.
        '<!DOCTYPE HTML PUBLIC "-//W3C//DTD HTML 4.0 Transitional//EN" $junk>',
        "<![if conditional]>only there<![endif]>",
        "<!-- a comment -->",
        "<!-- a comment --><p>a</p><![if !x]>b<![endif]><!-- another -->",
    ],
)
def test_html(kept: str) -> None:
    """A script is replaced by the note, what stands before it is written as it was."""
    out = io.StringIO()
    filter = mime.HTMLScriptFilter(out)
    filter.write(kept + "<script><!-- alert(1) --></script>")
    filter.close()
    assert kept + filter.msg == out.getvalue()
    assert filter.modified


def test_html_without_script() -> None:
    """HTML without a script is not modified."""
    out = io.StringIO()
    filter = mime.HTMLScriptFilter(out)
    filter.write(HTML.decode())
    filter.close()
    assert HTML.decode() == out.getvalue()
    assert not filter.modified
