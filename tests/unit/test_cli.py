"""``python -m Milter``: what it prints, and its exit status."""

from __future__ import annotations

import contextlib
import io
import json
import mailbox
import os
import pty
import re
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from cli_support import COMMAND, ENVIRONMENT, answer_promptly, process
from mta_support import ALL, C, Simple, options, packet

from Milter import __version__, _cli

EML = (
    b"From: Alice <alice@example.org>\n"
    b"To: Bob <bob@example.com>, carol@example.net\n"
    b"Cc: undisclosed-recipients:;\n"
    b"Subject: hi\n"
    b"\n"
    b"hello\n"
)


CRLF = EML.replace(b"\n", b"\r\n")


@pytest.fixture
def eml(tmp_path: Path) -> Path:
    """A message in a file."""
    path = tmp_path / "message.eml"
    path.write_bytes(EML)
    return path


def run(
    capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0
) -> tuple[list[str], str]:
    """Runs the command line; the lines of its output, and its errors."""
    try:
        result = _cli.main([str(argument) for argument in arguments])
    except SystemExit as end:
        result = end.code if isinstance(end.code, int) else -1
    out, err = capsys.readouterr()
    assert status == result, out + err
    return out.splitlines(), err


# -- accepted ------------------------------------------------------------------------------------


def test_accepted(tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Each step with its verdict, each change, the outcome, and the message afterwards."""
    with Simple(
        tmp_path / "s",
        {
            "O": options(actions=0x11, protocol=0x400),
            "R": [C, packet("y", b"550 5.1.1 Who is that?\0")],
            "E": packet("p")
            + packet("h", b"X-New\0a\n\tb\0")
            + packet("m", b"\0\0\0\1Subject\0\0")
            + C,
        },
    ) as simple:
        lines, err = run(capsys, "send", "--socket", simple.spec, eml)
    assert "" == err
    assert [
        "negotiated version 6, actions ADDHDRS|CHGHDRS, protocol SKIP",
        "connect  continue   localhost [127.0.0.1]",
        "helo     continue   localhost",
        "mail     continue   <alice@example.org>",
        "rcpt     continue   <bob@example.com>",
        "rcpt     reject     <carol@example.net>",
        "         550 5.1.1 Who is that?",
        "data     continue",
        "header   continue   From: Alice <alice@example.org>",
        "header   continue   To: Bob <bob@example.com>, carol@example.net",
        "header   continue   Cc: undisclosed-recipients:;",
        "header   continue   Subject: hi",
        "eoh      continue",
        "body     continue   7 bytes",
        "eom      continue",
        "         said 1 time that it is still at work",
        r"         add header X-New: a\n\tb",
        "         delete header 1 of Subject",
        "accepted, with 2 changes, but not for 1 recipient: 250 2.0.0 Ok: queued as 4A5B6C0001",
        "",
        "@@ envelope and headers",
        " MAIL FROM:<alice@example.org>",
        " RCPT TO:<bob@example.com>",
        "-RCPT TO:<carol@example.net>",
        " ",
        " From: Alice <alice@example.org>",
        " To: Bob <bob@example.com>, carol@example.net",
        " Cc: undisclosed-recipients:;",
        "-Subject: hi",
        "+X-New: a",
        "+\tb",
    ] == lines


def test_whole_message(tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--show message: envelope and message as they are afterwards."""
    reply = packet("h", b"X-New\0a\n\tb\0") + packet("m", b"\0\0\0\1Subject\0\0") + C
    with Simple(tmp_path / "s", {"E": reply}) as simple:
        lines, _ = run(capsys, "send", "--show", "message", "--socket", simple.spec, eml)
    assert [
        "",
        "MAIL FROM:<alice@example.org>",
        "RCPT TO:<bob@example.com>",
        "RCPT TO:<carol@example.net>",
        "",
        "From: Alice <alice@example.org>",
        "To: Bob <bob@example.com>, carol@example.net",
        "Cc: undisclosed-recipients:;",
        "X-New: a",
        "\tb",
        "",
        "hello",
    ] == lines[-12:]


def test_nothing_changed(tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a change there is no diff: the outcome is the last line."""
    with Simple(tmp_path / "s") as simple:
        lines, _ = run(capsys, "send", "--socket", simple.spec, eml)
    assert "accepted: 250 2.0.0 Ok: queued as 4A5B6C0001" == lines[-1]


@pytest.mark.parametrize(
    ("body", "expected"),
    [
        (b"hello\r\nthere\r\n", [" hello", "+there"]),
        (b"", ["-hello"]),
        (b"\x1b[1m\t\xff\r\n", ["-hello", "+\\x1b[1m\t\\udcff"]),
        (b"-hello\r\n@@ x\r\n", ["-hello", "+-hello", "+@@ x"]),
    ],
)
def test_diff_of_the_body(
    tmp_path: Path,
    eml: Path,
    capsys: pytest.CaptureFixture[str],
    body: bytes,
    expected: list[str],
) -> None:
    """The body's lines that changed; what a terminal could obey is written out."""
    with Simple(tmp_path / "s", {"E": packet("b", body) + C}) as simple:
        lines, _ = run(capsys, "send", "--socket", simple.spec, eml)
    assert ["", "@@ body", *expected] == lines[-2 - len(expected) :]


def test_new_body_without_its_last_line_end(
    tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Postfix stores a line end there, so that nothing has changed."""
    with Simple(tmp_path / "s", {"E": packet("b", b"hello") + C}) as simple:
        lines, _ = run(capsys, "send", "--socket", simple.spec, eml)
    assert "accepted, with 1 change: 250 2.0.0 Ok: queued as 4A5B6C0001" == lines[-1]


def test_diff_of_a_large_body(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Thousands of lines replaced by others are counted; equal ones around them do not matter."""
    path = tmp_path / "large"
    path.write_bytes(b"To: x@y\n\nfirst\n" + b"a\n" * 2000 + b"last\n")
    new = b"first\r\n" + b"b\r\n" * 1500 + b"last\r\n"
    with Simple(tmp_path / "s", {"E": packet("b", new) + C}) as simple:
        lines, _ = run(capsys, "send", "--socket", simple.spec, path)
    assert ["", "@@ body: 2000 lines replaced by 1500"] == lines[-2:]


def test_quarantined(tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A message that is put aside is accepted; --no-message leaves out what it looks like."""
    with Simple(tmp_path / "s", {"E": packet("q", b"odd\x07\0") + C}) as simple:
        lines, _ = run(capsys, "send", "--no-message", "--socket", simple.spec, eml)
    assert [
        r"         quarantine: odd\x07",
        r"accepted, with 1 change, and quarantined: odd\x07: 250 2.0.0 Ok: queued as 4A5B6C0001",
    ] == lines[-2:]


def test_nothing_negotiated(tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A filter that wants nothing but the end: the other steps are shown as not sent."""
    with Simple(tmp_path / "s", {"O": options(actions=0, protocol=0x37F)}) as simple:
        lines, _ = run(capsys, "send", "--socket", simple.spec, eml)
    assert lines[0].startswith("negotiated version 6, actions none, protocol NOCONNECT|NOHELO|")
    assert "mail     not sent   <alice@example.org>" in lines
    assert "accepted: 250 2.0.0 Ok: queued as 4A5B6C0001" in lines


# -- refused -------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("replies", "last"),
    [
        ({"C": packet("r")}, "rejected: 550 5.7.1 Command rejected"),
        ({"L": packet("t")}, "tempfailed: 451 4.7.1 Service unavailable - try again later"),
        ({"E": packet("d")}, "discarded: 250 2.0.0 Ok: queued as 4A5B6C0001"),
        ({"B": packet("y", b"554 5.7.1 not now\0")}, "rejected: 554 5.7.1 not now"),
        ({"R": packet("y", b"451 4.3.0 later\0")}, "tempfailed: 451 4.3.0 later"),
    ],
)
def test_refused(
    tmp_path: Path,
    eml: Path,
    capsys: pytest.CaptureFixture[str],
    replies: dict[str, bytes],
    last: str,
) -> None:
    """The last line says what became of the message and what the client is told; status 1."""
    with Simple(tmp_path / "s", replies) as simple:
        lines, err = run(capsys, "send", "--socket", simple.spec, eml, status=1)
    assert (last, "") == (lines[-1], err)


def test_reply_with_several_lines(
    tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each line of a reply is a line, whatever characters the filter puts in."""
    with Simple(tmp_path / "s", {"E": packet("y", b"550-a\x1b[1m\r\n550 b\xff\0")}) as simple:
        lines, _ = run(capsys, "send", "--socket", simple.spec, eml, status=1)
    assert [
        "eom      reject",
        r"         550-a\x1b[1m",
        r"         550 b\udcff",
        r"rejected: 550-a\x1b[1m",
        r"         550 b\udcff",
    ] == lines[-5:]


# -- arguments -----------------------------------------------------------------------------------


def packets(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], *arguments: object
) -> tuple[list[bytes], list[str]]:
    """The packets that the filter gets, and the output."""
    with Simple(tmp_path / "s") as simple:
        lines, _ = run(capsys, "send", "--socket", simple.spec, *arguments)
        return simple.packets, lines


def test_envelope(tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The envelope is the arguments', with parameters; brackets may be given or not."""
    got, lines = packets(
        tmp_path,
        capsys,
        *("--from", "a@b SIZE=9", "--to", "<c d@e> X=1 Y", "--to", "f@g", "--show", "message"),
        eml,
    )
    assert b"M<a@b>\0SIZE=9\0" in got
    assert b"R<c d@e>\0X=1\0Y\0" in got
    assert b"R<f@g>\0" in got
    assert ["MAIL FROM:<a@b> SIZE=9", "RCPT TO:<c d@e> X=1 Y", "RCPT TO:<f@g>"] == [
        line for line in lines if line.startswith(("MAIL FROM", "RCPT TO"))
    ]


@pytest.mark.parametrize("sender", ["", "<>"])
def test_null_sender(
    tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str], sender: str
) -> None:
    """An empty sender is the null sender."""
    assert b"M<>\0" in packets(tmp_path, capsys, "--from", sender, eml)[0]


def test_no_from_header(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Without a From header and --from the sender is the null sender."""
    path = tmp_path / "m"
    path.write_bytes(b"To: x@y\n\n")
    got, _ = packets(tmp_path, capsys, path)
    assert b"M<>\0" in got
    assert b"R<x@y>\0" in got


@pytest.mark.parametrize(
    ("client", "expected"),
    [
        ("mail.example.org", b"Cmail.example.org\x004\0\x00127.0.0.1\0"),
        ("192.0.2.1", b"C[192.0.2.1]\x004\0\x00192.0.2.1\0"),
        ("::1", b"C[::1]\x006\0\0::1\0"),
        ("h[192.0.2.1]", b"Ch\x004\0\x00192.0.2.1\0"),
        ("h[192.0.2.1]:25", b"Ch\x004\0\x19192.0.2.1\0"),
        ("[::1]:65535", b"C[::1]\x006\xff\xff::1\0"),
        ("h[/run/s]", b"Ch\0L\0\0/run/s\0"),
        ("h[unknown]", b"Ch\0U"),
    ],
)
def test_client(
    tmp_path: Path,
    eml: Path,
    capsys: pytest.CaptureFixture[str],
    client: str,
    expected: bytes,
) -> None:
    """The client is a name, an address, or both, as Postfix logs them."""
    got, _ = packets(tmp_path, capsys, "--client", client, eml)
    assert expected in got
    name = expected[1:].partition(b"\0")[0]
    assert b"H" + name + b"\0" in got


def test_helo_and_macros(tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """HELO and macros are the arguments'; the braces of long names may be left out."""
    got, _ = packets(
        tmp_path,
        capsys,
        *("--helo", "me", "--macro", "i=QQ", "--macro", "auth_authen=bob", "--macro", "{x}=y=z"),
        eml,
    )
    assert b"Hme\0" in got
    mail = next(packet for packet in got if packet.startswith(b"DM"))
    assert mail.startswith(b"DMi\0QQ\0{auth_authen}\0bob\0")
    assert mail.endswith(b"{x}\0y=z\0")


def test_no_helo(tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """An empty --helo: the client says none."""
    got, lines = packets(tmp_path, capsys, "--helo", "", eml)
    assert "OCMR" == "".join(packet[:1].decode() for packet in got if packet[:1] != b"D")[:4]
    assert not any(line.startswith("helo") for line in lines)


def test_long_headers_are_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a step was about takes 100 characters at most; the message is printed whole."""
    path = tmp_path / "m"
    path.write_bytes(b"To: x@y\nA: " + b"b" * 97 + b"\nA: " + b"b" * 98 + b"\n\n")
    _, lines = packets(tmp_path, capsys, "--show", "message", path)
    assert "header   continue   A: " + "b" * 97 in lines
    assert "header   continue   A: " + "b" * 94 + "..." in lines
    assert "A: " + "b" * 98 in lines


def test_standard_input(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """A dash is standard input."""
    monkeypatch.setattr(sys, "stdin", io.TextIOWrapper(io.BytesIO(EML)))
    assert b"M<alice@example.org>\0" in packets(tmp_path, capsys, "-")[0]


def test_several_messages(tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Several messages, each over a connection of its own; one refused is status 1."""
    with Simple(tmp_path / "s", {"E": [packet("r"), C]}) as simple:
        lines, _ = run(capsys, "send", "--socket", simple.spec, eml, eml, status=1)
        assert (2, 2) == (simple.connections, simple.letters.count("C"))
    titles = [number for number, line in enumerate(lines) if line == f"== {eml}"]
    assert 2 == len(titles)
    assert 0 == titles[0]
    assert "" == lines[titles[1] - 1]
    assert "rejected: 550 5.7.1 Command rejected" in lines
    assert any(line.startswith("accepted: ") for line in lines)


def test_one_connection(tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--one-connection plays them over one, until a filter has it closed."""
    arguments = ["send", "--one-connection", "--helo", "me", "--socket"]
    with Simple(tmp_path / "s") as simple:
        run(capsys, *arguments, simple.spec, eml, eml)
        assert (1, 1, 1, 2) == (
            simple.connections,
            *(simple.letters.count(letter) for letter in "CHM"),
        )
    with Simple(tmp_path / "t", {"H": [packet("y", b"421 4.3.0 Go\0"), C]}) as simple:
        run(capsys, *arguments, simple.spec, eml, eml, status=1)
        assert (2, 2, 1) == (
            simple.connections,
            *(simple.letters.count(letter) for letter in "HM"),
        )


# -- where messages come from --------------------------------------------------------------------


def titles(lines: list[str]) -> list[str]:
    """The messages that were played, as the output names them."""
    return [line[3:] for line in lines if line.startswith("== ")]


def test_directory(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """All files of a directory, by name, but hidden ones and directories."""
    place = tmp_path / "mail"
    (place / "sub").mkdir(parents=True)
    for name in ("b.eml", "a.eml", ".hidden", "sub/c.eml"):
        (place / name).write_bytes(EML)
    _, lines = packets(tmp_path, capsys, place)
    assert [f"{place}/a.eml", f"{place}/b.eml"] == titles(lines)


def test_maildir(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The messages of a maildir, not those that are still being delivered."""
    place = tmp_path / "Maildir"
    for part in ("new", "cur", "tmp"):
        (place / part).mkdir(parents=True)
        (place / part / "1.x").write_bytes(EML)
    _, lines = packets(tmp_path, capsys, place)
    assert [f"{place}/new/1.x", f"{place}/cur/1.x"] == titles(lines)


MBOX = (
    b"From alice@example.org Sat Nov 21 12:00:00 2026\n" + EML + b">From here\n>>From there\n"
    b"not From\n\nFrom bob Sat Nov 21 12:00:01 2026\nTo: x@y\nFrom: z@y\n\nFrom inside\n\n"
)


def test_mailbox(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The messages of a mailbox, without its own lines, as they were before they were stored."""
    path = tmp_path / "mbox"
    # The second message's body begins with a line as of a mailbox, which only its place belies;
    # whoever stores messages quotes it.
    path.write_bytes(MBOX.replace(b"\n\nFrom inside", b"\n\n>From inside"))
    got, lines = packets(tmp_path, capsys, path)
    assert [f"{path}:1", f"{path}:2"] == titles(lines)
    assert [
        b"Bhello\r\nFrom here\r\n>From there\r\nnot From\r\n",
        b"BFrom inside\r\n",
    ] == [packet for packet in got if packet.startswith(b"B")]


def test_mailbox_as_python_writes_it(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What Python's mailbox module stored comes out as it went in."""
    messages = [EML + b"From here\n", EML.replace(b"hello\n", b"a\n\nFrom me\n"), EML]
    box = mailbox.mbox(str(tmp_path / "mbox"))
    for message in messages:
        box.add(message)
    box.close()
    got, _ = packets(tmp_path, capsys, tmp_path / "mbox")
    assert [
        b"B" + message.partition(b"\n\n")[2].replace(b"\n", b"\r\n") for message in messages
    ] == [packet for packet in got if packet.startswith(b"B")]


def test_mailbox_of_one(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A mailbox with one message is a message, also on standard input, and with CR LF."""
    for data in (b"From x\n" + EML, b"From x\n" + EML + b"\n", b"From x\r\n" + CRLF + b"\r\n"):
        path = tmp_path / "one"
        path.write_bytes(data)
        got, lines = packets(tmp_path, capsys, path)
        assert [] == titles(lines)
        assert b"Bhello\r\n" in got
        (tmp_path / "s").unlink()


def test_one_bad_message_of_many(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A message that is none is named; the others are played all the same."""
    place = tmp_path / "mail"
    place.mkdir()
    (place / "1").write_bytes(b"hello\n")
    (place / "2").write_bytes(EML)
    with Simple(tmp_path / "s") as simple:
        lines, err = run(capsys, "send", "--socket", simple.spec, place, status=2)
        assert 1 == simple.letters.count("E")
    assert [f"{place}/1", f"{place}/2"] == titles(lines)
    assert f"python -m Milter send: {place}/1, line 1: no header: b'hello'\n" == err


# -- mail servers --------------------------------------------------------------------------------


def test_profile(tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Sendmail accepts in its own words, and takes a message where the filter fails."""
    arguments = ["send", "--profile", "sendmail", "--socket"]
    with Simple(tmp_path / "s") as simple:
        lines, _ = run(capsys, *arguments, simple.spec, eml)
    assert re.fullmatch("accepted: 250 2.0.0 [^ ]+ Message accepted for delivery", lines[-1])
    lines, err = run(capsys, *arguments, tmp_path / "none", eml, status=2)
    assert lines[-1].startswith("accepted: 250 2.0.0 ")
    assert 1 == err.count("\n")


@pytest.mark.parametrize(
    ("action", "start"),
    [
        ("accept", "accepted: 250 "),
        ("reject", "rejected: 5"),
        ("tempfail", "tempfailed: 451 "),
        ("quarantine", "accepted, and quarantined: "),
        ("shutdown", "tempfailed: 421 "),
    ],
)
def test_default_action(
    tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str], action: str, start: str
) -> None:
    """What the mail server does where a filter closes the connection; status 2 in any case."""
    with Simple(tmp_path / "s", {"L": None}) as simple:
        arguments = ["--default-action", action, "--socket", simple.spec]
        lines, err = run(capsys, "send", *arguments, eml, status=2)
    assert lines[-1].startswith(start), lines
    assert "closed the connection instead of answering header" in err


def test_several_filters(tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Filters are asked in a row, the second about what the first has made of the message."""
    with (
        Simple(tmp_path / "a", {"E": packet("h", b"X\0one\0") + C}) as one,
        Simple(tmp_path / "b", {"E": packet("h", b"X\0two\0") + C}) as two,
    ):
        lines, _ = run(capsys, "send", "--socket", one.spec, "--socket", two.spec, eml)
        assert b"LX\0one\0" in two.packets
        assert b"LX\0one\0" not in one.packets
    assert "1: connect  continue   localhost [127.0.0.1]" in lines
    assert "2: header   continue   X: one" in lines
    assert ["1: eom      continue", "            add header X: one"] == [
        line for line in lines if line.startswith(("1: eom", "            add header X: one"))
    ]
    assert ["+X: one", "+X: two"] == lines[-2:]
    assert 2 == sum("negotiated version 6" in line for line in lines)


def test_goes_on_after_a_broken_filter(
    tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """A message at which the filter fails does not keep the next ones from being played."""
    with Simple(tmp_path / "s", {"E": [packet("X"), C]}) as simple:
        lines, err = run(capsys, "send", "--socket", simple.spec, eml, eml, status=2)
    assert "tempfailed: 451 4.7.1 Service unavailable - try again later" in lines
    assert "accepted: 250 2.0.0 Ok: queued as 4A5B6C0001" == lines[-1]
    assert 1 == err.count("\n")


# -- JSON and colours ----------------------------------------------------------------------------


def test_json(tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """One object for each message, on a line of its own, with all that the text has."""
    replies = {
        "O": options(actions=0x11, protocol=0x400),
        "R": [C, packet("y", b"550 5.1.1 Who\xff\0"), packet("r")],
        "E": packet("p") + packet("h", b"X\0a\n\tb\0") + packet("q", b"odd\0") + C,
    }
    replies["O"] = options(actions=0x31, protocol=0x400)
    with Simple(tmp_path / "s", replies) as simple:
        lines, err = run(capsys, "send", "--json", "--socket", simple.spec, eml, eml, status=1)
    assert "" == err
    first, second = (json.loads(line) for line in lines)
    assert (str(eml), "postfix", "accepted", "odd", False) == tuple(
        first[key] for key in ("message", "profile", "outcome", "quarantine", "session_over")
    )
    assert [
        {
            "socket": f"unix:{tmp_path}/s",
            "version": 6,
            "actions": ["ADDHDRS", "CHGHDRS", "QUARANTINE"],
            "protocol": ["SKIP"],
        }
    ] == first["filters"]
    assert {
        "filter": 0,
        "step": "rcpt",
        "argument": "<carol@example.net>",
        "verdict": "reject",
        "reply": "550 5.1.1 Who\udcff",
    } == first["steps"][4]
    changes = [
        {"type": "add_header", "name": "X", "value": "a\n\tb"},
        {"type": "quarantine", "reason": "odd"},
    ]
    assert {
        "filter": 0,
        "step": "eom",
        "argument": "",
        "verdict": "continue",
        "progress": 1,
        "modifications": changes,
    } == first["steps"][-1]
    assert changes == first["modifications"]
    assert ["<carol@example.net>"] == first["refused"]
    assert {
        "from": "<alice@example.org>",
        "params": [],
        "to": [{"address": "<bob@example.com>", "params": []}],
    } == first["envelope"]
    assert ["X", " a\n\tb"] == first["headers"][-1]
    assert "hello\r\n" == first["body"]
    assert "+X: a" in first["diff"]
    assert [] == first["errors"]
    assert ("rejected", "550 5.7.1 Command rejected") == (second["outcome"], second["reply"])
    assert [] == second["modifications"]


def test_json_of_errors(tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What the filter did wrong: the rule that it broke, the packet's number, and its bytes."""
    with Simple(tmp_path / "s", {"M": packet("X", b"yz")}) as simple:
        lines, _ = run(capsys, "send", "--json", "--socket", simple.spec, eml, status=2)
    (error,) = json.loads(lines[0])["errors"]
    assert "ProtocolError" == error["type"]
    # Offer and answer; connect and helo, each after its macros, with its answer; mail likewise.
    assert 11 == error["packet"]
    assert "0000000358797a" == error["data"]
    assert error["rule"].startswith("wire spec")
    with Simple(tmp_path / "t", {"M": None}) as simple:
        lines, _ = run(capsys, "send", "--json", "--socket", simple.spec, eml, status=2)
    (error,) = json.loads(lines[0])["errors"]
    assert {"type", "text"} == set(error)
    assert "ConnectionLost" == error["type"]


RED, GREEN, CYAN, END = "\x1b[31m", "\x1b[32m", "\x1b[36m", "\x1b[0m"


def test_colours(tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The diff is red and green; what a filter sends cannot colour anything, nor be markup."""
    pytest.importorskip("rich")
    reply = packet("h", b"X\0[red]\x1b[1m\0") + packet("m", b"\0\0\0\1Subject\0\0") + C
    with Simple(tmp_path / "s", {"E": reply}) as simple:
        arguments = ["send", "--socket", simple.spec, eml, "--color"]
        lines, _ = run(capsys, *arguments, "always")
        plain, _ = run(capsys, *arguments, "never")
        auto, _ = run(capsys, *arguments, "auto")
    assert f"{CYAN}@@ envelope and headers{END}" in lines
    assert f"{RED}-Subject: hi{END}" in lines
    assert f"{GREEN}+X: [red]\\x1b[1m{END}" in lines
    assert "\x1b" not in "".join(plain)
    # Not a terminal.
    assert plain == auto
    assert plain == [re.sub("\x1b\\[[0-9;]*m", "", line) for line in lines]


def test_no_rich(
    tmp_path: Path,
    eml: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """Without the library the output is plain, on a terminal too; who insists is told the extra."""
    monkeypatch.setitem(sys.modules, "rich.console", None)
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True, raising=False)
    with Simple(tmp_path / "s") as simple:
        lines, _ = run(capsys, "send", "--socket", simple.spec, eml)
        assert "\x1b" not in "".join(lines)
        _, err = run(capsys, "send", "--color", "always", "--socket", simple.spec, eml, status=2)
    assert 'python -m Milter send: colours need rich: pip install "pymilter-cffi[cli]"\n' == err


def test_terminal(tmp_path: Path, eml: Path) -> None:
    """On a terminal there are colours, unless NO_COLOR is set."""
    pytest.importorskip("rich")
    for no_color, expected in ((None, True), ("1", False)):
        ours, theirs = pty.openpty()
        environment = {**ENVIRONMENT, "TERM": "xterm"}
        environment.pop("NO_COLOR", None)
        if no_color is not None:
            environment["NO_COLOR"] = no_color
        with Simple(tmp_path / f"s{no_color}", {"E": packet("h", b"X\0y\0") + C}) as simple:
            subprocess.run(
                [*COMMAND, "send", "--socket", simple.spec, str(eml)],
                stdout=theirs,
                timeout=60,
                check=True,
                env=environment,
            )
        os.close(theirs)
        output = b""
        with contextlib.suppress(OSError):  # Linux says EIO at the end
            while piece := os.read(ours, 4096):
                output += piece
        os.close(ours)
        assert expected is (GREEN.encode() + b"+X: y" in output)
        assert b"+X: y" in output


# -- errors --------------------------------------------------------------------------------------


def test_cannot_connect(tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody there: one line, status 2."""
    lines, err = run(capsys, "send", "--socket", tmp_path / "none", eml, eml, status=2)
    # What Postfix does then; the second message is not tried.
    assert [f"== {eml}", "tempfailed: 451 4.7.1 Service unavailable - try again later"] == lines
    assert (
        f"python -m Milter send: cannot connect to {tmp_path}/none: No such file or directory\n"
        == err
    )


def test_bad_socket(eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A bad specification is named with what was expected."""
    _, err = run(capsys, "send", "--socket", "tcp:25", eml, status=2)
    assert err.startswith(
        "python -m Milter send: bad socket 'tcp:25': unknown type 'tcp'; expected"
    )
    assert 1 == err.count("\n")


@pytest.mark.parametrize(
    ("replies", "text"),
    [
        ({"O": packet("r")}, "the filter sent REJECT in answer to the offer"),
        ({"M": packet("X")}, "the filter sent a packet of unknown type 'X'"),
        ({"M": b"HTTP/1.0 400 Bad"}, "is this a filter at all?"),
        ({"E": None}, "closed the connection instead of answering eom"),
        ({"E": packet("h", b"X\0y")}, r"a malformed ADDHEADER with 3 bytes of data: b'X\x00y'"),
    ],
)
def test_broken_filter(
    tmp_path: Path,
    eml: Path,
    capsys: pytest.CaptureFixture[str],
    replies: dict[str, Any],
    text: str,
) -> None:
    """A filter that breaks the protocol: one line that says how, status 2."""
    with Simple(tmp_path / "s", replies) as simple:
        _, err = run(capsys, "send", "--socket", simple.spec, eml, status=2)
    assert text in err
    assert err.startswith("python -m Milter send: the filter ")
    assert 1 == err.count("\n")


def test_strict_and_lenient(tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What real MTAs put up with is an error, unless asked for."""
    replies = {"O": options(actions=0), "E": packet("h", b"X\0y\0") + C}
    with Simple(tmp_path / "s", replies) as simple:
        _, err = run(capsys, "send", "--socket", simple.spec, eml, status=2)
        assert "ADDHEADER without ADDHDRS negotiated" in err
        lines, _ = run(capsys, "send", "--lenient", "--socket", simple.spec, eml)
        assert "+X: y" in lines


def test_timeout(
    eml: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """--timeout is for every answer."""
    answer_promptly(monkeypatch, {"M": b""})
    _, err = run(capsys, "send", "--timeout", "0.2", "--socket", "unix:s", eml, status=2)
    assert "python -m Milter send: no answer to mail within 0.2 s\n" == err


def test_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that cannot be read, has no recipients, or cannot be sent: named in one line."""
    nobody, nul, empty = tmp_path / "nobody", tmp_path / "nul", tmp_path / "directory"
    none, blank, broken = tmp_path / "empty", tmp_path / "blank", tmp_path / "broken"
    empty.mkdir()
    none.write_bytes(b"")
    blank.write_bytes(b"\r\n\n")
    broken.write_bytes(b"To: x@y\r\nSubject: a\r\n b\r\nno header\r\nX: y\r\n\r\n")
    nobody.write_bytes(b"Subject: x\n\n")
    nul.write_bytes(b"To: x@y\nSubject: \0\n\n")
    with Simple(tmp_path / "s") as simple:
        for path, text in (
            (tmp_path / "none", "No such file or directory"),
            (empty, "no messages in this directory"),
            (none, "empty"),
            (blank, "empty"),
            (nobody, "no recipients: give --to, the headers To and Cc name nobody"),
            (nul, r"a NUL cannot be sent to a filter: b' \x00'"),
        ):
            _, err = run(capsys, "send", "--socket", simple.spec, path, status=2)
            assert f"python -m Milter send: {path}: {text}\n" == err
        _, err = run(capsys, "send", "--socket", simple.spec, broken, status=2)
        assert f"python -m Milter send: {broken}, line 4: no header: b'no header'\n" == err
        # Mail servers take such a line for the first of the body.
        run(capsys, "send", "--lenient", "--socket", simple.spec, broken)
        assert b"Bno header\r\nX: y\r\n\r\n" in simple.packets


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "required: COMMAND"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["send"], "required: --socket"),
        (["send", "--socket", "x"], "required: MESSAGE, or --replay FILE"),
        (["send", "--socket", "x", "--replay", "f", "m"], "do not go together"),
        (["send", "--socket", "x", "--timeout", "0", "m"], "no number of seconds above 0"),
        (["send", "--socket", "x", "--timeout", "nan", "m"], "no number of seconds above 0"),
        (["send", "--socket", "x", "--timeout", "inf", "m"], "no number of seconds above 0"),
        (["send", "--socket", "x", "--timeout", "ten", "m"], "no number of seconds above 0"),
        (["send", "--socket", "x", "--client", "", "m"], "not NAME[ADDRESS]:PORT"),
        (["send", "--socket", "x", "--client", "h[1.2.3]", "m"], "no IPv4 address"),
        (["send", "--socket", "x", "--client", "h[::1]:65536", "m"], "not a port"),
        (["send", "--socket", "x", "--client", "h[::1", "m"], "not NAME[ADDRESS]:PORT"),
        (["send", "--socket", "x", "--macro", "x", "m"], "'x' is not NAME=VALUE"),
        (["send", "--socket", "x", "--macro", "=x", "m"], "'=x' is not NAME=VALUE"),
        (["send", "--socket", "x", "--profile", "exim", "m"], "invalid choice: 'exim'"),
        (["send", "--socket", "x", "--default-action", "x", "m"], "invalid choice: 'x'"),
        (["send", "--socket", "x", "--color", "x", "m"], "invalid choice: 'x'"),
    ],
)
def test_usage(arguments: list[str], text: str, capsys: pytest.CaptureFixture[str]) -> None:
    """Wrong arguments are explained, with status 2."""
    lines, err = run(capsys, *arguments, status=2)
    assert [] == lines
    assert text in err


def test_help(capsys: pytest.CaptureFixture[str]) -> None:
    """--help has examples, and explains each argument and the exit status."""
    lines, _ = run(capsys, "--help")
    assert "usage: python -m Milter [-h] [--version] COMMAND ..." == lines[0]
    assert any("python -m Milter send --socket unix:" in line for line in lines)
    lines, _ = run(capsys, "send", "--help")
    text = "\n".join(lines)
    for word in ("--socket", "--from", "--to", "--helo", "--client", "--timeout", "exit status"):
        assert word in text
    # Every example is one that the parser takes.
    for example in _cli._EXAMPLES.replace("\\\n", "").splitlines():
        if "send --socket" in example:
            words = example.replace("'", "").split()
            assert _cli.parser().parse_args(words[words.index("send") :]).messages


# -- as a process --------------------------------------------------------------------------------


def test_version() -> None:
    """--version names the distribution and its version."""
    done = process("--version")
    assert (0, f"pymilter-cffi {__version__}\n", "") == (done.returncode, done.stdout, done.stderr)


def test_nothing_is_imported_early(tmp_path: Path, eml: Path) -> None:
    """The extra's libraries are not imported where nobody has asked for what they do."""
    with Simple(tmp_path / "s") as simple:
        code = (
            "import sys; from Milter import _cli; "
            f"status = _cli.main(['send', '--socket', {simple.spec!r}, {str(eml)!r}]); "
            "sys.exit(status or bool({'rich', 'argcomplete'} & set(sys.modules)))"
        )
        done = subprocess.run(
            [sys.executable, "-c", code],
            env=ENVIRONMENT,
            stdout=subprocess.DEVNULL,
            timeout=60,
            check=False,
        )
    assert 0 == done.returncode


def test_no_traceback(tmp_path: Path, eml: Path) -> None:
    """As a process: one line and status 2 for an error, in a terminal that knows ASCII only."""
    environment = {**ENVIRONMENT, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
    done = process("send", "--socket", tmp_path / "néant", eml, env=environment)
    assert 2 == done.returncode
    assert done.stderr.startswith("python -m Milter send: cannot connect to ")
    assert 1 == done.stderr.count("\n")
    with Simple(tmp_path / "s", {"E": packet("q", "é\x85".encode() + b"\0") + C}) as simple:
        done = process("send", "--no-message", "--socket", simple.spec, eml, env=environment)
    assert (0, "") == (done.returncode, done.stderr)
    assert r"quarantine: \xe9\x85" in done.stdout


def test_reader_that_goes_away(tmp_path: Path, eml: Path) -> None:
    """Output that nobody reads any more ends it without a word."""
    with Simple(tmp_path / "s") as simple:
        ours, theirs = socket.socketpair()
        ours.close()
        with theirs:
            done = subprocess.run(
                [sys.executable, "-m", "Milter", "send", "--socket", simple.spec, str(eml)],
                stdout=theirs.fileno(),
                stderr=subprocess.PIPE,
                timeout=60,
                check=False,
            )
    assert (2, b"") == (done.returncode, done.stderr)


def test_offer_is_what_the_filter_gets(
    tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """The command makes the offer that Postfix and Sendmail make (2.7)."""
    got, _ = packets(tmp_path, capsys, eml)
    assert b"O\0\0\0\6\0\0\1\xff\0\x1f\xff\xff" == got[0]
    assert 17 == len(ALL)
