"""``python -m Milter demo``: a filter, an SMTP server and a client, and what is shown of them."""

from __future__ import annotations

import mailbox
import re
import signal
import smtplib
import socket
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from cli_support import COMMAND, ENVIRONMENT, process

import Milter
from Milter import _cli

FILTER = """\
import Milter


class Picky(Milter.Base):
    def envrcpt(self, to, *params):
        return Milter.REJECT if to == "<bob@example.com>" else Milter.CONTINUE

    def eom(self):
        self.quarantine("strange")
        return Milter.CONTINUE
"""


def subjects(maildir: Path) -> list[str]:
    """Of the messages in a maildir."""
    return [message["Subject"] for message in mailbox.Maildir(str(maildir), create=False)]


def test_without_a_filter(tmp_path: Path) -> None:
    """One message is marked and lands in the maildir, the other is refused; both replies stand."""
    done = process("demo", "--maildir", tmp_path / "mail", cwd=tmp_path)
    assert (0, "") == (done.returncode, done.stderr)
    lines = done.stdout.splitlines()
    assert "> MAIL FROM:<alice@example.org>" in lines
    assert "-Subject: Lunch on Friday" in lines
    assert "+Subject: [checked] Lunch on Friday" in lines
    assert "< 550 5.7.1 Please do not shout" in lines
    assert 1 == lines.count("nothing landed in the maildir")
    assert 1 == sum(line.startswith(f"what landed in {tmp_path}/mail/new/") for line in lines)
    assert ["[checked] Lunch on Friday"] == subjects(tmp_path / "mail")


def test_mbox(tmp_path: Path) -> None:
    """Mail lands behind what a mailbox has already, and only what is new is shown."""
    (tmp_path / "box").write_text("From a@x.org Sat Nov 21 12:00:00 2026\nSubject: old\n\nold\n\n")
    (tmp_path / "one.eml").write_text("To: bob@example.com\nSubject: one\n\nb\n")
    (tmp_path / "two.eml").write_text("To: bob@example.com\nSubject: two\n\nb\n")
    done = process(
        *("demo", "--message", "one.eml", "--message", "two.eml", "--mbox", "box"), cwd=tmp_path
    )
    assert (0, "") == (done.returncode, done.stderr)
    assert 2 == done.stdout.count("\nwhat landed in box:\n  From ")
    landed = [part.partition("\n== ")[0] for part in done.stdout.split("what landed in box:")[1:]]
    assert [["[checked] one"], ["[checked] two"]] == [
        re.findall(r"^  Subject: (.*)$", part, re.MULTILINE) for part in landed
    ]
    box = mailbox.mbox(str(tmp_path / "box"), create=False)
    assert ["old", "[checked] one", "[checked] two"] == [each["Subject"] for each in box]
    box.close()
    done = process("demo", "--mbox", "new", cwd=tmp_path)
    assert (0, "") == (done.returncode, done.stderr)
    assert 1 == done.stdout.splitlines().count("nothing landed in the mbox")


def test_a_slow_beginning(tmp_path: Path) -> None:
    """What a filter's log says of its beginning is not shown, even where it says so late."""
    (tmp_path / "slow.py").write_text(
        "import logging, time\n"
        + FILTER
        + "\n\ndef late(record):\n"
        + "    time.sleep(1.0)\n"
        + "    return True\n\n\n"
        + "logging.getLogger('Milter').addFilter(late)\n"
    )
    done = process("demo", "slow.py:Picky", cwd=tmp_path)
    assert (0, "") == (done.returncode, done.stderr)
    assert "listening" not in done.stdout


def test_filter_and_message(tmp_path: Path) -> None:
    """The user's filter and message: a refused recipient, and a quarantined message."""
    (tmp_path / "picky.py").write_text(FILTER)
    (tmp_path / "one.eml").write_text("From: a@x.org\nTo: bob@example.com\nSubject: s\n\nb\n")
    (tmp_path / "two.eml").write_text(
        "From: a@x.org\nTo: bob@example.com, carol@example.com\nSubject: t\n\nb\n"
    )
    done = process(
        *("demo", "picky.py:Picky", "--message", "one.eml", "--message", "two.eml"),
        *("--maildir", "mail"),
        cwd=tmp_path,
    )
    assert (0, "") == (done.returncode, done.stderr)
    one, two = done.stdout.split("\n== two.eml\n")
    assert "> RCPT TO:<bob@example.com>\n< 550 5.7.1 " in one
    assert "> DATA" not in one
    assert "nothing landed" in one
    assert "> RCPT TO:<bob@example.com>\n< 550 5.7.1 " in two
    assert "> RCPT TO:<carol@example.com>\n< 250 " in two
    assert "and quarantined: strange" in two
    assert "what landed in mail/.quarantine/new/" in two
    assert ["t"] == subjects(tmp_path / "mail" / ".quarantine")


@pytest.mark.parametrize(
    ("code", "name", "expected"),
    [
        ("import nothing_like_it\n", "f.py:F", "f.py:1: ModuleNotFoundError"),
        ("import Milter\nclass F(\n", "f.py:F", "f.py:2: SyntaxError"),
        ("", "f.py:F", "f.py: no class F"),
        ("", "g.py:F", "g.py: No such file"),
    ],
)
def test_broken_filter(tmp_path: Path, code: str, name: str, expected: str) -> None:
    """What is wrong with the filter is said in one line, with its place."""
    (tmp_path / "f.py").write_text(code)
    done = process("demo", name, cwd=tmp_path)
    assert (2, "") == (done.returncode, done.stdout)
    assert 1 == done.stderr.count("\n")
    assert done.stderr.startswith("python -m Milter demo: ")
    assert expected in done.stderr


BROKEN = """\
import os
import time

import Milter


class Raises(Milter.Base):
    def eom(self):
        raise KeyError("oops")


class Ends(Milter.Base):
    def header(self, name, value):
        os._exit(3)


class EndsSlowly(Milter.Base):
    def header(self, name, value):
        os.closerange(3, 1000)
        time.sleep(1.0)
        os._exit(3)
"""


def test_a_filter_that_raises(tmp_path: Path) -> None:
    """The error and its line in the user's file are shown with the message that it befell."""
    (tmp_path / "f.py").write_text(BROKEN)
    done = process("demo", "f.py:Raises", cwd=tmp_path)
    assert (0, "") == (done.returncode, done.stderr)
    _, one, two = done.stdout.split("\n== message ")
    for part in (one, two):
        said = part.partition("what the filter printed:\n")[2]
        assert "KeyError('oops')" in said
        assert re.search(r'^ +File ".*f\.py", line 9, in eom$', said, re.MULTILINE)


@pytest.mark.parametrize("name", ["Ends", "EndsSlowly"])
def test_a_filter_that_ends(tmp_path: Path, name: str) -> None:
    """Each fault is complained of once, in one line, and the exit status tells.

    The system closes the connections of a process before it has ended, on a busy machine long
    before.
    """
    (tmp_path / "f.py").write_text(BROKEN)
    done = process("demo", f"f.py:{name}", cwd=tmp_path)
    assert 2 == done.returncode
    header, connect, ended = done.stderr.splitlines()
    for line in (header, connect, ended):
        assert line.startswith("python -m Milter demo: ")
    # How the operating system ends the connections of a process is not for us to say.
    assert "/filter.sock: " in header
    assert "/filter.sock: " in connect
    assert ended.endswith(": the filter has ended")


def test_port_and_profile(tmp_path: Path, keep_port: Callable[[str], int]) -> None:
    """It listens where it is told to, and speaks as the mail server it is told to be."""
    port = keep_port("127.0.0.1")
    with socket.create_server(("127.0.0.1", port)):
        done = process("demo", "--port", port, cwd=tmp_path)
    assert (2, "") == (done.returncode, done.stdout)
    assert 1 == done.stderr.count("\n")
    assert "address already in use" in done.stderr
    done = process("demo", "--port", port, "--profile", "sendmail", cwd=tmp_path)
    assert (0, "") == (done.returncode, done.stderr)
    assert done.stdout.startswith(f"An SMTP server on 127.0.0.1 port {port} asks ")
    assert re.search(
        r"^< 250 2\.0\.0 \S+ Message accepted for delivery$", done.stdout, re.MULTILINE
    )


@pytest.mark.parametrize(
    ("option", "value", "expected"),
    [
        ("--port", "65536", "'65536' is no port"),
        ("--port", "0", "'0' is no port"),
        ("--profile", "exim", "invalid choice: 'exim'"),
        ("--maildir", "a-file", "a-file/tmp: Not a directory"),
        ("--mbox", "no/where", "no/where: No such file or directory"),
        ("--mbox=box", "--maildir=dir", "--maildir: not allowed with argument --mbox"),
        ("--message", "nowhere.eml", "nowhere.eml: No such file or directory"),
    ],
)
def test_wrong_arguments(tmp_path: Path, option: str, value: str, expected: str) -> None:
    """One line says what is wrong; nothing is sent."""
    (tmp_path / "a-file").write_text("")
    done = process("demo", option, value, cwd=tmp_path)
    assert (2, "") == (done.returncode, done.stdout)
    assert expected in done.stderr.splitlines()[-1]
    assert "Traceback" not in done.stderr


def test_a_directory_that_is_no_maildir_yet(tmp_path: Path) -> None:
    """Mail lands in a directory that the user has made."""
    (tmp_path / "mail").mkdir()
    done = process("demo", "--maildir", "mail", cwd=tmp_path)
    assert (0, "") == (done.returncode, done.stderr)
    assert ["[checked] Lunch on Friday"] == subjects(tmp_path / "mail")


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_keep(tmp_path: Path, number: signal.Signals) -> None:
    """It goes on as it says until a signal comes, and leaves nothing behind but the mail."""
    scratch = tmp_path / "t"
    scratch.mkdir()
    with subprocess.Popen(
        [*COMMAND, "demo", "--keep", "--maildir", "mail"],
        cwd=tmp_path,
        env={**ENVIRONMENT, "TMPDIR": str(scratch)},
        stdout=subprocess.PIPE,
        text=True,
    ) as child:
        try:
            assert child.stdout is not None
            shown = ""
            while "Ctrl-C ends it." not in shown:
                line = child.stdout.readline()
                assert line, shown
                shown += line
            swaks = re.search(r"swaks --server 127\.0\.0\.1:(\d+) ", shown)
            assert swaks is not None
            assert any(scratch.iterdir())
            with smtplib.SMTP("127.0.0.1", int(swaks[1]), timeout=30) as client:
                client.sendmail("a@x.org", ["b@y.org"], b"Subject: later\r\n\r\nhi\r\n")
            child.send_signal(number)
            assert 0 == child.wait(60)
        finally:
            child.kill()
    assert ["[checked] Lunch on Friday", "[checked] later"] == sorted(subjects(tmp_path / "mail"))
    assert [] == list(scratch.iterdir())


def test_without_aiosmtpd(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """One line says what to install."""
    monkeypatch.delitem(sys.modules, "Milter._smtpserver", raising=False)
    monkeypatch.delattr(Milter, "_smtpserver", raising=False)
    for name in ("aiosmtpd", "aiosmtpd.controller", "aiosmtpd.smtp"):
        monkeypatch.setitem(sys.modules, name, None)
    assert 2 == _cli.main(["demo"])
    out, err = capsys.readouterr()
    assert ("", 1) == (out, err.count("\n"))
    assert 'pip install "pymilter-cffi[smtp]"' in err
