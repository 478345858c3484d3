"""``python -m Milter``: what it prints, and its exit status."""

from __future__ import annotations

import io
import os
import socket
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
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


def process(*arguments: object, **kind: Any) -> subprocess.CompletedProcess[str]:
    """Runs it as a user does."""
    command = [sys.executable, "-m", "Milter", *(str(argument) for argument in arguments)]
    return subprocess.run(command, capture_output=True, text=True, timeout=60, check=False, **kind)


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
        "MAIL FROM:<alice@example.org>",
        "RCPT TO:<bob@example.com>",
        "",
        "From: Alice <alice@example.org>",
        "To: Bob <bob@example.com>, carol@example.net",
        "Cc: undisclosed-recipients:;",
        "X-New: a",
        "\tb",
        "",
        "hello",
    ] == lines


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
        ({"B": packet("y", b"554 5.7.1 100%% no\0")}, "rejected: 554 5.7.1 100% no"),
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
        tmp_path, capsys, "--from", "a@b SIZE=9", "--to", "<c d@e> X=1 Y", "--to", "f@g", eml
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


def test_long_headers_are_cut(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """What a step was about takes 100 characters at most; the message is printed whole."""
    path = tmp_path / "m"
    path.write_bytes(b"To: x@y\nA: " + b"b" * 97 + b"\nA: " + b"b" * 98 + b"\n\n")
    _, lines = packets(tmp_path, capsys, path)
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
    """--one-connection plays them over one, until the filter decides about that."""
    arguments = ["send", "--one-connection", "--helo", "me", "--socket"]
    with Simple(tmp_path / "s") as simple:
        run(capsys, *arguments, simple.spec, eml, eml)
        assert (1, 1, 1, 2) == (
            simple.connections,
            *(simple.letters.count(letter) for letter in "CHM"),
        )
    with Simple(tmp_path / "t", {"H": [packet("r"), C]}) as simple:
        run(capsys, *arguments, simple.spec, eml, eml, status=1)
        assert (2, 2, 1) == (
            simple.connections,
            *(simple.letters.count(letter) for letter in "HM"),
        )


# -- errors --------------------------------------------------------------------------------------


def test_cannot_connect(tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """Nobody there: one line, status 2."""
    lines, err = run(capsys, "send", "--socket", tmp_path / "none", eml, status=2)
    assert [] == lines
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
        assert "X: y" in lines


def test_timeout(tmp_path: Path, eml: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """--timeout is for every answer."""
    with Simple(tmp_path / "s", {"M": b""}) as simple:
        _, err = run(capsys, "send", "--timeout", "0.2", "--socket", simple.spec, eml, status=2)
    assert "python -m Milter send: no answer to mail within 0.2 s\n" == err


def test_bad_files(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A file that cannot be read, has no recipients, or cannot be sent: named in one line."""
    nobody, nul = tmp_path / "nobody", tmp_path / "nul"
    nobody.write_bytes(b"Subject: x\n\n")
    nul.write_bytes(b"To: x@y\nSubject: \0\n\n")
    with Simple(tmp_path / "s") as simple:
        for path, text in (
            (tmp_path / "none", "No such file or directory"),
            (tmp_path, "Is a directory"),
            (nobody, "no recipients: give --to, the headers To and Cc name nobody"),
            (nul, r"a NUL cannot be sent to a filter: b' \x00'"),
        ):
            _, err = run(capsys, "send", "--socket", simple.spec, path, status=2)
            assert f"python -m Milter send: {path}: {text}\n" == err


@pytest.mark.parametrize(
    ("arguments", "text"),
    [
        ([], "required: COMMAND"),
        (["nonsense"], "invalid choice: 'nonsense'"),
        (["send"], "required: MESSAGE, --socket"),
        (["send", "--socket", "x"], "required: MESSAGE"),
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
            assert _cli._parser().parse_args(words[words.index("send") :]).messages


# -- as a process --------------------------------------------------------------------------------


def test_version() -> None:
    """--version names the distribution and its version."""
    done = process("--version")
    assert (0, f"pymilter-cffi {__version__}\n", "") == (done.returncode, done.stdout, done.stderr)


def test_no_traceback(tmp_path: Path, eml: Path) -> None:
    """As a process: one line and status 2 for an error, in a terminal that knows ASCII only."""
    environment = {**os.environ, "LC_ALL": "C", "PYTHONUTF8": "0", "PYTHONIOENCODING": "ascii"}
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
