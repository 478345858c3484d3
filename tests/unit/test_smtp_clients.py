"""Milter.smtp with a real filter, sample.py, behind it and foreign SMTP clients before it.

The clients are Debian's swaks and Postfix's smtp-source; without them the tests are skipped.
"""

from __future__ import annotations

import mailbox
import shutil
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
from cli_support import ENVIRONMENT, ROOT, await_socket
from mta_support import PATIENCE, Simple, packet
from test_smtp import Keeper, eventually, serving

from Milter.smtp import Maildir, MilterHandler

LONG = 10 * PATIENCE
"""Seconds in which even a busy machine has served all messages."""


def program(name: str) -> str:
    """Where it is; skips the test if it is nowhere."""
    path = shutil.which(name) or shutil.which(name, path="/usr/sbin:/usr/bin")
    if path is None:
        pytest.skip(f"no {name}")
    return path


@pytest.fixture(name="sample")
def fixture_sample(tmp_path: Path) -> Iterator[str]:
    """The sample filter, as its users start it."""
    path = tmp_path / "sample"
    command = [sys.executable, str(ROOT / "sample.py"), "--socket", f"unix:{path}"]
    with subprocess.Popen(
        command,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        text=True,
        env={**ENVIRONMENT, "TMPDIR": str(tmp_path)},
    ) as child:
        try:
            await_socket(path, child)
            yield f"unix:{path}"
        finally:
            child.terminate()
            child.wait(PATIENCE)


def swaks(port: int, *arguments: str) -> subprocess.CompletedProcess[str]:
    """Sends a message with swaks."""
    return subprocess.run(
        [program("swaks"), "--server", "127.0.0.1", "--port", str(port), *arguments],
        capture_output=True,
        text=True,
        timeout=LONG,
        check=False,
    )


ENVELOPE = ("--from", "a@example.org", "--to", "b@example.com", "--helo", "client.example.org")


def test_swaks_sees_the_filter_refuse(sample: str) -> None:
    """The sample's own words come out at the client's end, and nothing is delivered."""
    app = Keeper()
    with serving(MilterHandler(sample, app=app)) as port:
        done = swaks(port, *ENVELOPE, "--header", "Subject: viagra")
    assert "<** 554 5.7.1 No pills here" in done.stdout
    assert 26 == done.returncode, "swaks: error after the data"
    assert [] == app.mails


def test_swaks_finds_a_changed_message_in_the_maildir(sample: str, tmp_path: Path) -> None:
    """A program attached is a warning in the maildir: the sample has replaced it."""
    program_ = tmp_path / "game.exe"
    program_.write_bytes(b"MZ\x90\0secret")
    with serving(MilterHandler(sample, app=Maildir(tmp_path / "mail"))) as port:
        done = swaks(
            port, *ENVELOPE, "--body", "hello", "--attach-type", "application/octet-stream",
            "--attach-name", "game.exe", "--attach", f"@{program_}",
        )  # fmt: skip
    assert 0 == done.returncode, done.stdout + done.stderr
    (mail,) = mailbox.Maildir(tmp_path / "mail", create=False)
    assert "<a@example.org>" == mail["Return-Path"]
    parts = [part for part in mail.walk() if not part.is_multipart()]
    assert not any(b"secret" in part.get_payload(decode=True) for part in parts)
    assert any(b"game.exe" in part.get_payload(decode=True) for part in parts)


@pytest.mark.parametrize("step", ["HELO", "MAIL", "RCPT", "DATA"])
def test_swaks_gives_up_in_the_middle(tmp_path: Path, step: str) -> None:
    """swaks that drops the connection after a step leaves no session with the filter open."""
    with Simple(tmp_path / "s") as simple, serving(MilterHandler(simple.spec)) as port:
        done = swaks(port, *ENVELOPE, "--drop-after", step)
        assert 0 == done.returncode, done.stdout + done.stderr
        # aiosmtpd has opened a connection of its own before.
        eventually(lambda: simple.letters.count("Q") == 2)


@pytest.mark.parametrize("profile", ["postfix", "sendmail"])
def test_smtp_source(tmp_path: Path, sample: str, profile: str) -> None:
    """Postfix's load generator: many sessions at the same time, every message seen and kept."""
    app = Keeper()
    seen: list[Any] = []
    handler = MilterHandler(sample, app=app, profile=profile, on_result=seen.append)
    with serving(handler) as port:
        done = subprocess.run(
            [program("smtp-source"), "-4", "-s", "5", "-m", "60", "-l", "5000", "-r", "2",
             "-f", "a@example.org", "-t", "b@example.com", f"inet:127.0.0.1:{port}"],
            capture_output=True, text=True, timeout=LONG, check=False,
        )  # fmt: skip
    assert 0 == done.returncode, done.stderr
    assert 60 == len(app.mails) == len(seen)
    assert {2} == {len(recipients) for _, recipients, _ in app.mails}
    assert not any(about.result.errors for about in seen)


def test_smtp_source_keeps_a_connection(tmp_path: Path) -> None:
    """Several messages on one SMTP connection are one session of the filter's."""
    app = Keeper()
    with Simple(tmp_path / "s", {"E": packet("h", b"X-Seen\0yes\0") + packet("a")}) as simple:
        with serving(MilterHandler(simple.spec, app=app)) as port:
            done = subprocess.run(
                [program("smtp-source"), "-4", "-d", "-s", "1", "-m", "7",
                 "-f", "a@example.org", "-t", "b@example.com", f"inet:127.0.0.1:{port}"],
                capture_output=True, text=True, timeout=LONG, check=False,
            )  # fmt: skip
            assert 0 == done.returncode, done.stderr
        assert 2 == simple.connections, "aiosmtpd's own one, and one"
    assert 7 == len(app.mails)
    assert all(b"\r\nX-Seen: yes\r\n" in content for _, _, content in app.mails)
