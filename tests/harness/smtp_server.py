"""SMTP servers for tests: aiosmtpd, a real one, and one of our own that misbehaves on order."""

from __future__ import annotations

import contextlib
import socket
import ssl
import threading
from collections.abc import Iterator, Mapping
from typing import Any

import trustme
from aiosmtpd.controller import Controller
from aiosmtpd.smtp import SMTP

from harness.ports import reserved

PATIENCE = 60.0  # seconds until aiosmtpd must serve


class Inbox:
    """A handler for aiosmtpd: keeps what it is given, and answers by *replies* where it has one.

    *replies*: `mail` (to the empty sender), `every_mail`, `rcpt`, `data`. Attributes: `messages`,
    envelopes as aiosmtpd's; `encrypted`, for each whether it came under TLS; `asked`, the steps.
    """

    def __init__(self, **replies: str) -> None:
        self.replies = replies
        self.messages: list[Any] = []
        self.encrypted: list[bool] = []
        self.asked: list[str] = []

    async def handle_MAIL(
        self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        self.asked.append(f"MAIL {address}")
        if "mail" in self.replies and address in ("", "<>"):
            return self.replies["mail"]
        if "every_mail" in self.replies:
            return self.replies["every_mail"]
        envelope.mail_from = address
        envelope.mail_options.extend(options)
        return "250 OK"

    async def handle_RCPT(
        self, server: SMTP, session: Any, envelope: Any, address: str, options: list[str]
    ) -> str:
        self.asked.append(f"RCPT {address}")
        if "rcpt" in self.replies:
            return self.replies["rcpt"]
        envelope.rcpt_tos.append(address)
        return "250 OK"

    async def handle_DATA(self, server: SMTP, session: Any, envelope: Any) -> str:
        self.asked.append("DATA")
        if "data" in self.replies:
            return self.replies["data"]
        self.messages.append(envelope)
        self.encrypted.append(session.ssl is not None)
        return "250 OK"


@contextlib.contextmanager
def aiosmtpd(
    handler: object, context: ssl.SSLContext | None = None, **options: Any
) -> Iterator[int]:
    """Run aiosmtpd on 127.0.0.1; gives its port. With *context* it offers STARTTLS."""
    options.setdefault("server_hostname", "mx.example")
    # Chosen before it serves: the controller cannot tell which one 0 became.
    with reserved() as port:
        controller = Controller(
            handler, hostname="127.0.0.1", port=port, tls_context=context, ready_timeout=PATIENCE,
            **options,
        )  # fmt: skip
        controller.start()
        try:
            yield port
        finally:
            controller.stop()


def certificate(*names: str) -> tuple[ssl.SSLContext, ssl.SSLContext]:
    """Return contexts of a server with these names, and of a client that knows its authority."""
    authority = trustme.CA()
    server = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    authority.issue_cert(*names).configure_cert(server)
    client = ssl.create_default_context()
    authority.configure_trust(client)
    return server, client


class Scripted:
    """A server on 127.0.0.1 that says what it is told to.

    Args:
        replies: by verb, or "banner", or "." for the end of the message: what to say, without the
            final CRLF. A list is gone through, its last item is repeated. None: say nothing more,
            and keep the connection. b"" : hang up.
        dribble: send the greeting a byte at a time, this many seconds apart, and never end it.

    Attributes: `port`; `lines`, what clients sent, all connections together, with its line ends.
    """

    USUAL: Mapping[str, Any] = {
        "banner": b"220 mx.example ESMTP",
        "EHLO": b"500 what?",
        "HELO": b"250 mx.example",
        "DATA": b"354 go on",
        "QUIT": b"221 bye",
    }

    def __init__(self, replies: Mapping[str, Any] | None = None, dribble: float = 0) -> None:
        self._replies = {**self.USUAL, **(replies or {})}
        self._asked: dict[str, int] = {}
        self._dribble = dribble
        self._stopped = threading.Event()
        self.lines: list[bytes] = []
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self._connections: list[socket.socket] = []
        self._threads = [threading.Thread(target=self._accept)]
        self._threads[0].start()

    def __enter__(self) -> Scripted:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        # An accept that waits is not ended by closing its socket from another thread.
        with contextlib.suppress(OSError):
            self._listener.shutdown(socket.SHUT_RDWR)
        for conn in list(self._connections):
            with contextlib.suppress(OSError):
                conn.shutdown(socket.SHUT_RDWR)
        for thread in list(self._threads):
            thread.join(30)
        self._listener.close()

    @property
    def connections(self) -> int:
        """How often clients have connected."""
        return len(self._connections)

    @property
    def commands(self) -> list[bytes]:
        """What clients sent, without line ends."""
        return [line.rstrip(b"\r\n") for line in self.lines]

    def _accept(self) -> None:
        while not self._stopped.is_set():
            try:
                conn, _ = self._listener.accept()
            except OSError:
                return
            self._connections.append(conn)
            thread = threading.Thread(target=self._serve, args=(conn,))
            self._threads.append(thread)
            thread.start()

    def _serve(self, conn: socket.socket) -> None:
        with conn, contextlib.suppress(OSError), conn.makefile("rb") as lines:
            if self._dribble:
                while not self._stopped.wait(self._dribble):
                    conn.sendall(b"2")
                return
            if not self._say(conn, "banner"):
                return
            in_data = False
            for line in lines:
                self.lines.append(line)
                if in_data and line != b".\r\n":
                    continue
                verb = "." if in_data else line.split()[0].decode("latin-1").upper()
                in_data = verb == "DATA" and (self._reply(verb, peek=True) or b"")[:1] == b"3"
                if not self._say(conn, verb) or verb == "QUIT":
                    return

    def _reply(self, key: str, peek: bool = False) -> Any:
        reply = self._replies.get(key, b"250 ok")
        if isinstance(reply, list):
            index = self._asked.get(key, 0)
            if not peek:
                self._asked[key] = index + 1
            reply = reply[min(index, len(reply) - 1)]
        return reply

    def _say(self, conn: socket.socket, key: str) -> bool:
        reply = self._reply(key)
        if reply is None:
            self._stopped.wait()
            return False
        if not reply:
            return False
        conn.sendall(reply + b"\r\n")
        return True


class Reluctant:
    """A server for one client that takes a message slowly, and never says that it has it.

    Args:
        context: with which it offers STARTTLS; None: it does not.
        rate: bytes of the message that it takes in a second, at most.

    Attributes: `port`; `taken`, bytes of the message.
    """

    def __init__(self, context: ssl.SSLContext | None, rate: float) -> None:
        self._context = context
        self._rate = rate
        self._stopped = threading.Event()
        self._listener = socket.create_server(("127.0.0.1", 0))
        self.port: int = self._listener.getsockname()[1]
        self.taken = 0
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def __enter__(self) -> Reluctant:
        return self

    def __exit__(self, *exc_info: object) -> None:
        self._stopped.set()
        self._thread.join(30)
        self._listener.close()

    def _serve(self) -> None:
        conn, _ = self._listener.accept()
        with contextlib.suppress(OSError), contextlib.ExitStack() as stack:
            stack.callback(lambda: conn.close())
            conn.sendall(b"220 mx.example\r\n")
            while True:
                verb = conn.recv(1000)[:4].upper()
                if verb == b"EHLO" and self._context is not None:
                    conn.sendall(b"250-mx.example\r\n250 STARTTLS\r\n")
                elif verb == b"STAR" and self._context is not None:
                    conn.sendall(b"220 go\r\n")
                    conn = self._context.wrap_socket(conn, server_side=True)
                elif verb == b"DATA":
                    conn.sendall(b"354 go on\r\n")
                    break
                elif verb:
                    conn.sendall(b"250 mx.example\r\n")
                else:
                    return
            # Steadily: no single write waits for long.
            while not self._stopped.wait(0.005):
                piece = conn.recv(int(self._rate * 0.005))
                if not piece:
                    return
                self.taken += len(piece)
