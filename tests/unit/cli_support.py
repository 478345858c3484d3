"""What the tests of the command line share: it as a process, and a filter that it serves."""

from __future__ import annotations

import os
import socket
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest
from mta_support import ALL, PATIENCE, C

from Milter import _mailserver, _mtasession, mta

ROOT = Path(__file__).resolve().parents[2]
ENVIRONMENT = {**os.environ, "PYTHONPATH": str(ROOT)}
COMMAND = [sys.executable, "-m", "Milter"]


def process(*arguments: object, **kind: Any) -> subprocess.CompletedProcess[str]:
    """Runs it as a user does, to its end."""
    command = [*COMMAND, *(str(argument) for argument in arguments)]
    kind.setdefault("env", ENVIRONMENT)
    return subprocess.run(command, capture_output=True, text=True, timeout=120, check=False, **kind)


def await_socket(path: Path, child: subprocess.Popen[str]) -> None:
    """Waits until somebody listens there."""
    deadline = time.monotonic() + PATIENCE
    while True:
        with socket.socket(socket.AF_UNIX) as peer:
            try:
                peer.connect(str(path))
                return
            except OSError:
                pass
        assert child.poll() is None, child.communicate()
        assert time.monotonic() < deadline, "nobody listens"
        time.sleep(0.01)


def await_answer(path: Path, child: subprocess.Popen[str]) -> None:
    """Waits until a filter answers there: it has written its pidfile, and handles signals."""
    deadline = time.monotonic() + PATIENCE
    while True:
        try:
            with mta.connect(f"unix:{path}", timeouts=mta.Timeouts.all(PATIENCE)) as session:
                session.negotiate()
                return
        except mta.MilterError:
            assert child.poll() is None, child.communicate()
            assert time.monotonic() < deadline, "nobody answers"
        time.sleep(0.01)


@contextmanager
def serving(path: Path, *arguments: object, **kind: Any) -> Iterator[subprocess.Popen[str]]:
    """The command, in the background, while it answers at that path; afterwards it is stopped."""
    command = [*COMMAND, *(str(argument) for argument in arguments)]
    kind.setdefault("env", ENVIRONMENT)
    with subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, **kind
    ) as child:
        try:
            await_answer(path, child)
            yield child
        finally:
            child.terminate()
            try:
                child.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                child.kill()
                raise


class Prompt:
    """A socket to a filter that answers in this very thread, as mta_support.Simple does.

    What it answers is there before anybody waits for it: a short timeout is over only where it does
    not answer, however busy the machine is.
    """

    def __init__(self, replies: dict[str, bytes]) -> None:
        self._replies = {"O": ALL, "D": b"", "A": b"", **replies}
        self._ours, self._theirs = socket.socketpair()
        self._heard = b""

    def sendall(self, data: bytes) -> None:
        self._heard += data
        while len(self._heard) >= 4:
            end = 4 + int.from_bytes(self._heard[:4], "big")
            if len(self._heard) < end:
                break
            letter, self._heard = self._heard[4:5].decode(), self._heard[end:]
            if letter == "Q":
                self._theirs.shutdown(socket.SHUT_WR)
            else:
                self._theirs.sendall(self._replies.get(letter, C))

    def close(self) -> None:
        self._ours.close()
        self._theirs.close()

    def __getattr__(self, name: str) -> Any:
        return getattr(self._ours, name)


def answer_promptly(monkeypatch: pytest.MonkeyPatch, replies: dict[str, bytes]) -> None:
    """Has every session of a mail server in this process lead to a Prompt with these answers."""
    for module in (_mtasession, _mailserver):
        monkeypatch.setattr(module, "open_socket", lambda spec, timeout: Prompt(replies))
