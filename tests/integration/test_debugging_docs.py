"""docs/debugging.md: what Postfix logs of a filter that breaks a rule, by a real Postfix."""

from __future__ import annotations

import os
import re
import socket
import struct
import threading
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Optional

import pytest

from .conftest import Place
from .mta import DEADLINE, ROOT, wait_until
from .mta_postfix import Postfix

PAGE = (ROOT / "docs" / "debugging.md").read_text("utf-8")


def packet(letter: str, data: bytes = b"") -> bytes:
    """One packet (wire spec 1.1)."""
    return struct.pack("!I", 1 + len(data)) + letter.encode() + data


def options(version: int = 6, actions: int = 0, protocol: int = 0) -> bytes:
    """An answer to the offer."""
    return packet("O", struct.pack("!III", version, actions, protocol))


# Each line of the page's table, and what a filter does that leads to it: what it answers to the
# offer and to MAIL. None: it closes the connection; b"": it says nothing.
DOES: dict[str, Optional[tuple[Optional[bytes], Optional[bytes]]]] = {
    "connect to Milter service unix:...: No such file or directory": None,
    "connect to Milter service unix:...: Permission denied": (options(), packet("c")),
    "can't read SMFIC_MAIL reply packet header: Application error": (options(), None),
    "can't read SMFIC_MAIL reply packet header: Connection timed out": (options(), b""),
    "unexpected filter response SMFIR_ADDHEADER after event SMFIC_MAIL": (
        options(),
        packet("h", b"X\0y\0"),
    ),
    "unexpected filter response (unknown filter reply) after event SMFIC_MAIL": (
        options(),
        packet("Z"),
    ),
    "reply SMFIR_CONTINUE was followed by 24 data bytes": (options(), packet("c", b"x")),
    "malformed reply: 250 ok": (options(), packet("y", b"250 ok\0")),
    "request mask 0x1000 conflict with MTA request mask 0x1ff": (options(actions=0x1000), b""),
    "protocol version 7 conflict with MTA protocol version 6": (options(version=7), b""),
    'unexpected reply "c" in initial handshake': (packet("c"), b""),
    "unreasonable packet length: 1213486160": (b"HTTP/1.0 400 Bad Request\r\n\r\n", b""),
}

pytestmark = [
    pytest.mark.integration,
    pytest.mark.postfix,
    pytest.mark.one_mode("no filter of the package runs"),
]


def endpoint(line: str) -> str:
    """The endpoint at which a line is tried: where Postfix has little patience, only if need be."""
    return "impatient" if "timed out" in line else "solo-unix"


LINES = [
    pytest.param(("postfix", endpoint(line)), line, id=f"{line}-postfix") for line in DOES
]  # fmt: skip


@contextmanager
def filter(path: str, offer: Optional[bytes], mail: Optional[bytes]) -> Iterator[None]:
    """A filter that answers so, and CONTINUE to all else."""
    answers = {b"O": offer, b"M": mail, b"D": b"", b"A": b""}
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(path)
    listener.listen()

    def serve() -> None:
        while True:
            try:
                peer, _ = listener.accept()
            except OSError:
                return
            # Postfix may be gone before it is answered.
            with peer, peer.makefile("rb") as file, suppress(ConnectionError):
                while True:
                    size = int.from_bytes(file.read(4), "big")
                    letter = (file.read(size) or b"Q")[:1] if size else b"Q"
                    answer = answers.get(letter, packet("c"))
                    if letter == b"Q" or answer is None:
                        break
                    peer.sendall(answer)

    thread = threading.Thread(target=serve, daemon=True)
    thread.start()
    try:
        yield
    finally:
        listener.shutdown(socket.SHUT_RDWR)
        listener.close()
        thread.join(DEADLINE)
        os.unlink(path)


@pytest.mark.parametrize(("solo", "line"), LINES, indirect=["solo"])
def test_what_postfix_logs(solo: Place, line: str) -> None:
    """Each line of the table, word by word, when a filter does that."""
    assert isinstance(solo.mta, Postfix)
    log = solo.mta.maillog
    before = len(log.read_text("utf-8"))
    path = solo.filter.spec.partition(":")[2]
    Path(path).unlink(missing_ok=True)
    does = DOES[line]
    if does is None:
        solo.play()
    else:
        with filter(path, *does):
            os.chmod(path, 0 if "Permission" in line else 0o777)
            solo.play()
    pattern = re.escape(line).replace(re.escape("unix:..."), r"unix:\S+")
    wait_until(
        lambda: re.search(f"warning: .*{pattern}", log.read_text("utf-8")[before:]) is not None,
        f"Postfix logs {line!r}: {log.read_text('utf-8')[before:]}",
    )


def test_the_table() -> None:
    """Each line of the page's table is one that is tried here."""
    assert list(DOES) == re.findall(r"^\| `([^`]+)` \|", PAGE, re.MULTILINE)
