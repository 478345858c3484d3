"""``python -m Milter check``: what a filter asks for, in words; and as a health probe."""

from __future__ import annotations

import os
import socket
import struct
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from cli_support import ROOT, await_socket, serving
from mta_support import PATIENCE, C, Simple, options, packet

from Milter import _cli


def check(
    capsys: pytest.CaptureFixture[str], *arguments: object, status: int = 0
) -> tuple[list[str], str]:
    """Runs the command; the lines of its output, and its errors."""
    result = _cli.main(["check", *(str(argument) for argument in arguments)])
    out, err = capsys.readouterr()
    assert status == result, out + err
    return out.splitlines(), err


def asked(path: Path, capsys: pytest.CaptureFixture[str], answer: bytes) -> list[str]:
    """What is said of a filter that answers the offer so, without the first line."""
    with Simple(path, {"O": answer}) as simple:
        lines, err = check(capsys, "--rounds", 0, "--socket", simple.spec)
        assert ["O", "Q"] == simple.letters
    assert ("", f"A filter answers at unix:{path}.") == (err, lines[0])
    return lines[1:]


def test_everything(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A filter that wants every step and every action, and nothing special."""
    assert [
        "It speaks version 6 of the protocol.",
        "It may add headers, change and delete headers, replace the body, change the sender, add "
        "recipients, add recipients with ESMTP parameters, delete recipients, quarantine messages "
        "and choose macros.",
        "It is told of the client, HELO, the sender, recipients, DATA, headers, the end of the "
        "headers, the body, unknown commands and the end of the message.",
        "It leaves it to the mail server which macros it gets.",
    ] == asked(tmp_path / "s", capsys, options())


def test_nothing(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A filter that wants nothing, in an old version of the protocol."""
    assert [
        "It speaks version 2 of the protocol.",
        "It may change nothing.",
        "It is told of DATA, unknown commands and the end of the message.",
        "It does not want to hear of the client, HELO, the sender, recipients, headers, the end of "
        "the headers and the body.",
        "It leaves it to the mail server which macros it gets.",
    ] == asked(tmp_path / "s", capsys, options(version=2, actions=0, protocol=0x7F))


# Each bit by itself (wire spec 2.2, 2.3).
BITS = [
    (1, 0, "It may add headers."),
    (2, 0, "It may replace the body."),
    (4, 0, "It may add recipients."),
    (8, 0, "It may delete recipients."),
    (0x10, 0, "It may change and delete headers."),
    (0x20, 0, "It may quarantine messages."),
    (0x40, 0, "It may change the sender."),
    (0x80, 0, "It may add recipients with ESMTP parameters."),
    (0x100, 0, "It may choose macros."),
    (0, 0x1, "It does not want to hear of the client."),
    (0, 0x2, "It does not want to hear of HELO."),
    (0, 0x4, "It does not want to hear of the sender."),
    (0, 0x8, "It does not want to hear of recipients."),
    (0, 0x10, "It does not want to hear of the body."),
    (0, 0x20, "It does not want to hear of headers."),
    (0, 0x40, "It does not want to hear of the end of the headers."),
    (0, 0x80, "It does not answer to headers."),
    (0, 0x100, "It does not want to hear of unknown commands."),
    (0, 0x200, "It does not want to hear of DATA."),
    (0, 0x400, "It may skip the rest of a body."),
    (0, 0x800, "It wants to hear of recipients that the mail server rejects."),
    (0, 0x1000, "It does not answer to the client."),
    (0, 0x2000, "It does not answer to HELO."),
    (0, 0x4000, "It does not answer to the sender."),
    (0, 0x8000, "It does not answer to recipients."),
    (0, 0x10000, "It does not answer to DATA."),
    (0, 0x20000, "It does not answer to unknown commands."),
    (0, 0x40000, "It does not answer to the end of the headers."),
    (0, 0x80000, "It does not answer to the body."),
    (0, 0x100000, "It sees and gives headers with the blank behind the colon."),
]


@pytest.mark.parametrize(("actions", "protocol", "sentence"), BITS)
def test_each_bit(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    actions: int,
    protocol: int,
    sentence: str,
) -> None:
    """Each bit has its words, and says nothing that another bit says."""
    lines = asked(tmp_path / "s", capsys, options(actions=actions, protocol=protocol))
    others = {text for a, p, text in BITS if (a, p) != (actions, protocol)}
    assert sentence in lines
    assert set() == others & set(lines)


def test_macros(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """The macros that it asks for, by where it asks for them; also none."""
    lists = b""
    for stage, names in enumerate([b"j", b"{x}, {y}", b"i", b"a b c", b"d", b"e\x1b", b""]):
        lists += struct.pack("!I", stage) + names + b"\0"
    lines = asked(tmp_path / "s", capsys, options(lists=lists))
    # Stages by number: connect, helo, mail, rcpt, data, end of message, end of headers (2.4).
    assert [
        "At the client's connection it asks for the macros j.",
        "At HELO it asks for the macros {x} and {y}.",
        "At the sender it asks for the macros i.",
        "At a recipient it asks for the macros a, b and c.",
        "At DATA it asks for the macros d.",
        "At the end of the headers it asks for no macros.",
        r"At the end of the message it asks for the macros e\x1b.",
        "It leaves it to the mail server which other macros it gets.",
    ] == lines[-8:]


def test_quiet(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A health probe: no output, status 0; nobody there, one line, status 2."""
    with Simple(tmp_path / "s") as simple:
        assert ([], "") == check(capsys, "--quiet", "--socket", simple.spec)
        assert ["O", "Q"] == simple.letters
    lines, err = check(capsys, "--quiet", "--socket", tmp_path / "none", status=2)
    assert [] == lines
    assert (
        f"python -m Milter check: cannot connect to {tmp_path}/none: No such file or directory\n"
        == err
    )


@pytest.mark.parametrize(
    ("replies", "timeout", "text"),
    [
        ({"O": packet("r")}, PATIENCE, "the filter sent REJECT in answer to the offer"),
        ({"O": options(version=7)}, PATIENCE, "version 7"),
        ({"O": options(version=1)}, PATIENCE, "version 1"),
        ({"O": options() + C}, PATIENCE, "although nothing was asked"),
        ({"O": b"HTTP/1.0 400 Bad"}, PATIENCE, "is this a filter at all?"),
        ({"O": None}, PATIENCE, "closed the connection"),
        ({"O": b""}, 0.3, " within 0.3 s"),
    ],
)
def test_broken_filter(
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    replies: dict[str, Any],
    timeout: float,
    text: str,
) -> None:
    """A filter that answers something else, or not at all: one line, status 2."""
    with Simple(tmp_path / "s", replies) as simple:
        lines, err = check(capsys, "--timeout", timeout, "--socket", simple.spec, status=2)
    assert [] == lines
    assert text in err
    assert 1 == err.count("\n")


def test_socket_that_nobody_serves(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A socket in whose backlog the connection waits: the timeout ends it."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(os.fspath(tmp_path / "s"))
        listener.listen(1)
        arguments = ["--quiet", "--timeout", "0.2", "--socket", tmp_path / "s"]
        _, err = check(capsys, *arguments, status=2)
    assert err.startswith("python -m Milter check: no answer to ")
    assert err.endswith(" within 0.2 s\n")


# -- odd conversations ---------------------------------------------------------------------------


def test_holds_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A filter on this library breaks no rule; as many conversations as asked for."""
    (tmp_path / "spam.py").write_text("import Milter\n\n\nclass Spam(Milter.Base):\n    pass\n")
    with serving(tmp_path / "s", "run", "spam:Spam", "--socket", "unix:s", cwd=tmp_path):
        arguments = ["--rounds", 5, "--seed", 3, "--socket", tmp_path / "s"]
        lines, err = check(capsys, *arguments)
    assert ("", "It held out 5 odd conversations (seed 3): no rule broken.") == (err, lines[-1])


@contextmanager
def faulty(path: Path, *fault: str) -> Iterator[str]:
    """A filter with a fault; where it listens."""
    command = [sys.executable, str(ROOT / "tests" / "unit" / "torture_filter.py"), str(path)]
    with subprocess.Popen([*command, *fault], text=True) as child:
        try:
            await_socket(path, child)
            yield f"unix:{path}"
        finally:
            child.kill()


def test_does_not_hold_out(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    """A filter that answers HELO twice: the rule, and a conversation that can be played again."""
    with faulty(tmp_path / "s", "answers twice") as spec:
        arguments = ["--rounds", 3, "--seconds", 300, "--socket"]
        lines, err = check(capsys, *arguments, spec, status=1)
        assert "" == err
        assert any(line.startswith("It broke ") for line in lines)
        replays = [line.partition(": ")[2] for line in lines if line.startswith("  replay: ")]
        again, _ = check(capsys, "--replay", replays[0], "--socket", spec, status=1)
        assert any("wire spec 1.1" in line for line in again)
    with faulty(tmp_path / "t") as spec:
        lines, _ = check(capsys, "--replay", replays[0], "--socket", spec)
        assert ["It held out: no rule broken."] == lines
        _, err = check(capsys, "--replay", "{}", "--socket", spec, status=2)
        assert "python -m Milter check: --replay: not what an earlier check has printed\n" == err
        nul = '{"seed": 0, "number": 0, "moves": [{"step": "mail", "texts": ["a\\u0000b"]}]}'
        _, err = check(capsys, "--replay", nul, "--socket", spec, status=2)
        assert err.startswith("python -m Milter check: --replay: a NUL cannot be sent")
        assert 1 == err.count("\n")
