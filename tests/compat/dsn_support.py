"""SMTP servers for test_dsn.py: aiosmtpd's with replies on order, and one that plays a script."""

from __future__ import annotations

import socket
import ssl
import threading
from collections.abc import Callable
from typing import Any

from harness.dns_server import free_port


class Recorder:
    """A handler for aiosmtpd that notes what comes, and answers by *replies* where it has one.

    *replies*: `mail` (to the empty sender), `every_mail`, `rcpt`, `data`. Attributes: `sessions`, a
    list of (sender, recipients, content, whether under TLS); `asked`, the steps.
    """

    def __init__(self, **replies: str) -> None:
        self.replies = replies
        self.sessions: list[tuple[str, list[str], bytes, bool]] = []
        self.asked: list[str] = []

    async def handle_MAIL(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        self.asked.append(f"MAIL {address}")
        if "mail" in self.replies and address in ("", "<>"):
            return self.replies["mail"]
        if "every_mail" in self.replies:
            return self.replies["every_mail"]
        envelope.mail_from = address
        return "250 ok"

    async def handle_RCPT(
        self, server: Any, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        self.asked.append(f"RCPT {address}")
        if "rcpt" in self.replies:
            return self.replies["rcpt"]
        envelope.rcpt_tos.append(address)
        return "250 ok"

    async def handle_DATA(self, server: Any, session: Any, envelope: Any) -> str:
        self.asked.append("DATA")
        if "data" in self.replies:
            return self.replies["data"]
        self.sessions.append(
            (envelope.mail_from, envelope.rcpt_tos, envelope.content, session.ssl is not None)
        )
        return "250 taken"


def server(handler: Recorder, hostname: str, tls: ssl.SSLContext | None) -> Any:
    """Return a running aiosmtpd controller on 127.0.0.1; its `port` is where; `stop()` ends it."""
    from aiosmtpd.controller import Controller

    # It connects to itself to see whether it is there, so it has to know its port.
    controller = Controller(
        handler, hostname="127.0.0.1", port=free_port(), server_hostname=hostname, tls_context=tls
    )
    controller.start()
    return controller


def certificate() -> tuple[ssl.SSLContext, Any]:
    """Return a server's context for localhost and 127.0.0.1, and the authority (trustme.CA)."""
    import trustme

    authority = trustme.CA()
    context = ssl.create_default_context(ssl.Purpose.CLIENT_AUTH)
    authority.issue_cert("localhost", "127.0.0.1").configure_cert(context)
    return context, authority


class Evil:
    """Accepts connections on 127.0.0.1 and has *play* (connected socket) do what it likes."""

    def __init__(self, play: Callable[[socket.socket], None]) -> None:
        self._play = play
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.connections = 0
        self._ending = False
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        while True:
            peer, _ = self._listener.accept()
            with peer:
                if self._ending:
                    return
                self.connections += 1
                peer.settimeout(30)
                try:
                    self._play(peer)
                except OSError:
                    pass

    def close(self) -> None:
        """End it."""
        self._ending = True
        socket.create_connection(("127.0.0.1", self.port)).close()
        self._thread.join(30)
        self._listener.close()


def script(*replies: bytes) -> Callable[[socket.socket], None]:
    """Return a play: the first reply as greeting, then one for each line that comes."""

    def play(peer: socket.socket) -> None:
        with peer.makefile("rb") as lines:
            for reply in replies:
                peer.sendall(reply)
                if not lines.readline():
                    break

    return play
