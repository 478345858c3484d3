"""Milter.smtp's Controller and SMTP: connections that begin and end in unusual ways."""

from __future__ import annotations

import contextlib
import gc
import smtplib
import socket
import threading
from pathlib import Path
from typing import Any

import pytest
from aiosmtpd.controller import UnixSocketController
from mta_support import ALL, PATIENCE, C, Simple
from test_smtp import MAIL, Keeper, client, eventually, serving

from Milter import mta
from Milter.smtp import SMTP, Controller, MilterHandler


def test_port_0(tmp_path: Path) -> None:
    """The Controller says which port it got; another one serves beside it."""
    first, second = (
        Controller(MilterHandler(), hostname="127.0.0.1", port=0, ready_timeout=PATIENCE)
        for _ in range(2)
    )
    first.start()
    try:
        second.start()
        try:
            assert len({0, first.port, second.port}) == 3
            for controller in (first, second):
                with client(controller.port) as smtp:
                    assert 250 == smtp.ehlo()[0]
        finally:
            second.stop()
    finally:
        first.stop()


def test_port_in_use() -> None:
    """Where another server listens start() says so, and stop() leaves neither thread nor loop."""
    threads = threading.enumerate()
    with socket.create_server(("127.0.0.1", 0)) as other:
        port = other.getsockname()[1]
        controller = Controller(
            MilterHandler(), hostname="127.0.0.1", port=port, ready_timeout=PATIENCE
        )
        with pytest.raises(OSError, match="address already in use"):
            controller.start()
        controller.stop()
    assert controller.loop.is_closed()
    assert set() == set(threading.enumerate()) - set(threads)


def test_many_clients_at_once() -> None:
    """More clients than asyncio's queue has room for by default (100) are all greeted."""
    controller = Controller(MilterHandler(), hostname="127.0.0.1", port=0, ready_timeout=PATIENCE)
    controller.start()
    busy = threading.Event()
    try:
        controller.loop.call_soon_threadsafe(busy.wait, PATIENCE)
        with contextlib.ExitStack() as stack:
            address = ("127.0.0.1", controller.port)
            socks = [
                stack.enter_context(socket.create_connection(address, PATIENCE)) for _ in range(300)
            ]
            busy.set()
            for sock in socks:
                assert sock.recv(3) == b"220"
    finally:
        busy.set()
        controller.stop()


@pytest.mark.parametrize("make", [Controller, SMTP])
def test_another_handler_is_refused(make: Any) -> None:
    """A handler that knows no filters is an error at once, not a client that waits for ever."""
    with pytest.raises(TypeError, match="has to be a MilterHandler, not Keeper"):
        make(Keeper(), hostname="127.0.0.1")


class Watched(Simple):
    """A scripted filter that knows whether all its connections have ended."""

    ended = 0
    stays = False
    """After QUIT it waits for the other side to close, too."""

    def _serve(self, file: Any) -> None:
        try:
            super()._serve(file)
            while self.stays and file.read(1):
                pass
        finally:
            self.ended += 1

    def all_ended(self) -> bool:
        return self.connections == self.ended


def test_a_filter_that_does_not_go(tmp_path: Path) -> None:
    """The client's QUIT is answered though the filter does not close its connection."""
    with Watched(tmp_path / "s") as simple:
        with serving(MilterHandler(simple.spec)) as port, client(port) as smtp:
            smtp.ehlo()
            simple.stays = True
            assert 221 == smtp.quit()[0]
            eventually(simple.all_ended)
        assert "Q" == simple.letters[-1]


COMMANDS = {
    "H": b"EHLO client.example.org\r\n",
    "M": b"MAIL FROM:<a@example.org>\r\n",
    "R": b"RCPT TO:<b@example.com>\r\n",
    "T": b"DATA\r\n",
    "LNBE": MAIL + b".\r\n",
}


@pytest.mark.parametrize("letter", list("OCHMRTLNBE"))
@pytest.mark.parametrize("way", ["the client goes", "the server stops"])
def test_while_a_filter_thinks(tmp_path: Path, letter: str, way: str) -> None:
    """The end of either side is the end of the other connections, the client's and the filter's.

    A warning of a socket or task that is left over fails the test.
    """
    # aiosmtpd's own connection is served as usual.
    served = {"O": [ALL, b""], "C": [C, b""]}
    with Watched(tmp_path / "s", {letter: served.get(letter, b"")}) as simple:
        with contextlib.ExitStack() as stack:
            port = stack.enter_context(serving(MilterHandler(simple.spec)))
            eventually(lambda: "Q" in simple.letters)
            begun = len(simple.letters)
            sock = socket.create_connection(("127.0.0.1", port), PATIENCE)
            with sock.makefile("rb") as file:
                for steps, command in COMMANDS.items():
                    if letter in "OC":
                        break
                    while file.readline()[3:4] == b"-":
                        pass
                    sock.sendall(command)
                    if letter in steps:
                        break
                eventually(lambda: letter in simple.letters[begun:])
            if way == "the client goes":
                sock.close()
                eventually(simple.all_ended)
        with contextlib.suppress(ConnectionResetError):
            assert way == "the client goes" or sock.recv(1) == b""
        sock.close()
        eventually(simple.all_ended)
    gc.collect()


def test_a_client_that_cannot_be_told_of(caplog: pytest.LogCaptureFixture) -> None:
    """An error of the application's as the client connects is logged, and the client is told."""

    def who(session: Any) -> mta.SmtpClient:
        raise KeyError("ours")

    with serving(MilterHandler(client=who)) as port, client(port) as smtp:
        greeting = smtp.greeting  # type: ignore[attr-defined]
        assert (421, b"4.3.0 Closing connection") == greeting
        assert smtp.sock is not None
        assert b"" == smtp.sock.recv(1)
    assert any(record.exc_info and record.exc_info[0] is KeyError for record in caplog.records)


def test_an_error_handler_that_raises() -> None:
    """A client that cannot be greeted at all is let go."""

    class App:
        async def handle_exception(self, error: Exception) -> str:
            raise error

    def who(session: Any) -> mta.SmtpClient:
        raise KeyError("ours")

    handler = MilterHandler(app=App(), client=who)
    with serving(handler) as port, socket.create_connection(("127.0.0.1", port), PATIENCE) as sock:
        assert b"" == sock.recv(1)


@pytest.mark.parametrize("kind", ["aiosmtpd's own", "ours"])
def test_a_unix_socket(tmp_path: Path, kind: str) -> None:
    """aiosmtpd's controller for unix sockets works, with its own protocol and with ours."""

    class Ours(UnixSocketController):
        def factory(self) -> SMTP:
            return SMTP(self.handler, **self.SMTP_kwargs)

    make = Ours if kind == "ours" else UnixSocketController
    app = Keeper()
    path = str(tmp_path / "smtp")
    with Simple(tmp_path / "s") as simple:
        handler = MilterHandler(simple.spec, app=app)
        controller = make(handler, unix_socket=path, ready_timeout=PATIENCE)
        controller.start()
        try:
            with socket.socket(socket.AF_UNIX) as sock:
                sock.settimeout(PATIENCE)
                sock.connect(path)
                smtp = smtplib.SMTP(local_hostname="client.example.org")
                smtp.sock = sock
                assert 220 == smtp.getreply()[0]
                smtp.sendmail("a@example.org", ["b@example.com"], MAIL)
                smtp.quit()
        finally:
            controller.stop()
        # Wire spec 1.3: family unknown, no port, no address.
        assert b"Clocalhost\0U" in simple.packets
    assert [("a@example.org", ["b@example.com"], MAIL)] == app.mails
