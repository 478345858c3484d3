"""A proxy between an MTA and a filter, which passes every byte on and tells what it has seen.

Owns the sockets: connections, backpressure, half-closes and resets. What passes is not looked at
before it was passed on; Milter._trace makes records of it.

One thread serves all connections and never waits for one of them. For each direction no more is
held than one read has brought: as long as the one side does not take that, nothing is read from the
other, as if there was no proxy.
"""

from __future__ import annotations

import contextlib
import errno
import os
import select
import socket
import struct
import time
from typing import Any, Callable, Final, Optional

from Milter._engine import ffi, lib
from Milter._mtacodec import ConnectError, SocketSpecError
from Milter._mtasocket import addresses_of, parse_spec, reason
from Milter._trace import FILTER, MTA, Record, Tap

_READ: Final = 65536  # bytes asked of the operating system at once
_RETRY: Final = 0.05  # seconds until it is tried again, where something was short
_REST: Final = 1.0  # seconds without accepting, when descriptors are short
_SHORT: Final = {errno.EMFILE, errno.ENFILE, errno.ENOBUFS, errno.ENOMEM}
_WRONG: Final = select.POLLERR | select.POLLHUP | select.POLLNVAL


class ListenError(ConnectError):
    """The proxy cannot listen where it is told to."""


class _Listener:
    """A listening socket, opened as a filter's is: the MTA is to find one in its place."""

    def __init__(self, spec: str, mode: Optional[int]) -> None:
        self._server = lib.mlt_server_new()
        if self._server == ffi.NULL:
            raise MemoryError
        options = ffi.new("mlt_socket_options *")
        options.backlog = options.owner = options.group = -1
        options.mode = -1 if mode is None else mode
        options.replace = _stale(spec)
        if lib.mlt_server_open(self._server, os.fsencode(spec), options) != lib.MLT_OK:
            text = os.fsdecode(ffi.string(lib.mlt_server_error(self._server)))
            self.close()
            raise ListenError(f"cannot listen at {spec}: {text}")
        self.socket = socket.socket(fileno=os.dup(lib.mlt_server_fd(self._server)))
        self.socket.setblocking(False)
        self.address = os.fsdecode(ffi.string(lib.mlt_server_address(self._server)))

    def is_at(self, where: tuple[int, Any]) -> bool:
        """Whether who connects to that address comes here."""
        family, address = where
        if family != self.socket.family:
            return False
        if family == socket.AF_UNIX:
            with contextlib.suppress(OSError, ValueError):  # there is none, or it is abstract
                return os.path.samefile(address, self.address)
            return False
        host, port = self.socket.getsockname()[:2]
        local = host == address[0] or (
            host in ("0.0.0.0", "::") and address[0].startswith(("127.", "0.", "::"))
        )
        return bool(local and port == address[1])

    def close(self) -> None:
        """Closes it and removes the socket's file."""
        server, self._server = self._server, ffi.NULL
        if server != ffi.NULL:
            lib.mlt_server_close(server)
            lib.mlt_server_free(server)
            with contextlib.suppress(AttributeError):
                self.socket.close()


def _stale(spec: str) -> bool:
    """Whether a unix socket is in the way on which nobody listens."""
    family, path, _ = parse_spec(spec)
    if family != socket.AF_UNIX:
        return False
    with socket.socket(socket.AF_UNIX) as probe:
        probe.setblocking(False)
        try:
            probe.connect(path)
        except ConnectionRefusedError:
            return True
        except (OSError, ValueError):
            pass
    return False


class _Flow:
    """One direction of a connection."""

    def __init__(self, sender: str, source: socket.socket, sink: socket.socket) -> None:
        self.sender = sender
        self.source = source
        self.sink = sink
        self.held = memoryview(b"")
        self.ended = False  # the source has said all
        self.done = False  # and the sink was told, or takes no more
        self.hung_up = False  # the source has closed both directions

    @property
    def reading(self) -> bool:
        """Whether there is room for more."""
        return not self.ended and not self.held and not self.done


class _Link:
    """A connection: the MTA's socket and the filter's."""

    def __init__(self, number: int, mta: socket.socket, tap: Tap) -> None:
        self.number = number
        self.mta = mta
        self.filter: Optional[socket.socket] = None
        self.tap = tap
        self.flows: dict[str, _Flow] = {}
        self.addresses: list[tuple[int, Any]] = []
        self.deadline = 0.0  # for the connection to the filter
        self.retry: Optional[float] = None
        self.reasons: list[str] = []
        self.broken = ""  # the side that broke it off
        self.closed = False


class Proxy:
    """Listens in a filter's place, and passes on to the filter what comes.

    Args:
        listen: where the MTA is to connect to.
        filter: where the filter listens.
        on_record: called with each record, after what it is about was passed on. While it runs
            nothing is passed on.
        on_trouble: called with what goes wrong that is about no connection.
        timeout: seconds for the connection to the filter.
        mode: permission bits of a unix socket to listen on.

    Attributes:
        address: where it listens: a path, or host and port.

    Raises:
        SocketSpecError, ConnectError: one of the specifications is none.
        ListenError: it cannot listen there.
    """

    def __init__(
        self,
        listen: str,
        filter: str,
        on_record: Callable[[Record], None],
        on_trouble: Callable[[str], None] = lambda text: None,
        *,
        timeout: float = 30.0,
        mode: Optional[int] = None,
    ) -> None:
        """Listens; nothing is served before :meth:`run`."""
        self._filter = filter
        self._addresses = addresses_of(filter)
        if not self._addresses:
            raise SocketSpecError(f"cannot connect to {filter}: it has no address")
        self._on_record = on_record
        self._on_trouble = on_trouble
        self._timeout = timeout
        self._listener = _Listener(listen, mode)
        self.address = self._listener.address
        if any(map(self._listener.is_at, self._addresses)):
            # It would be its own filter's filter, until no descriptor is left.
            self._listener.close()
            raise ListenError(
                f"cannot listen at {listen}: the filter's socket, {filter}, is this one"
            )
        self._bell, self._rope = socket.socketpair()
        self._bell.setblocking(False)
        self._rope.setblocking(False)
        self._poll = select.poll()
        self._asked: dict[int, int] = {}  # descriptor: events, as they are registered
        self._by_descriptor: dict[int, _Link] = {}
        self._fresh: set[int] = set()  # opened since the last poll, whose events are not theirs
        self._links: dict[int, _Link] = {}
        self._count = 0
        self._stopping = False
        self._rest_until: Optional[float] = None
        self._start = time.monotonic()

    # -- from outside ----------------------------------------------------------------------------

    def __enter__(self) -> Proxy:
        """Returns itself."""
        return self

    def __exit__(self, *_: object) -> None:
        """Closes everything."""
        self.close()

    def stop(self) -> None:
        """Has :meth:`run` return; from any thread, and from a signal handler."""
        self._stopping = True
        with contextlib.suppress(OSError):  # full: it has been rung
            self._rope.send(b"\0")

    def fileno(self) -> int:
        """Returns the descriptor that a byte may be written to, to have :meth:`run` look up."""
        return self._rope.fileno()

    def now(self) -> float:
        """Returns the seconds since the clock was started."""
        return time.monotonic() - self._start

    def run(self) -> None:
        """Serves until it is stopped; the connections that are open then are closed."""
        self._ask(self._bell, select.POLLIN)
        self._ask(self._listener.socket, select.POLLIN)
        try:
            while not self._stopping:
                self._turn()
        finally:
            for link in list(self._links.values()):
                self._tell(link.tap.cut(self.now(), "the trace has ended"))
                self._close(link)

    def close(self) -> None:
        """Closes everything; more than once."""
        for link in list(self._links.values()):
            self._close(link)
        self._listener.close()
        self._bell.close()
        self._rope.close()

    # -- waiting ---------------------------------------------------------------------------------

    def _ask(self, sock: socket.socket, events: Optional[int]) -> None:
        """Says what to wait for; None: nothing, not even the end."""
        descriptor = sock.fileno()
        if self._asked.get(descriptor) == events:
            return
        if events is None:
            if self._asked.pop(descriptor, None) is not None:
                self._poll.unregister(descriptor)
        else:
            self._asked[descriptor] = events
            self._poll.register(descriptor, events)

    def _wait(self) -> Optional[float]:
        """Milliseconds until something is to be done without an event."""
        times = [self._rest_until] if self._rest_until is not None else []
        for link in self._links.values():
            if not link.flows:
                times.append(link.deadline)
                if link.retry is not None:
                    times.append(link.retry)
        return None if not times else max(0.0, (min(times) - time.monotonic()) * 1000 + 1)

    def _turn(self) -> None:
        self._fresh.clear()
        somebody = False
        for descriptor, events in self._poll.poll(self._wait()):
            if descriptor == self._bell.fileno():
                with contextlib.suppress(BlockingIOError):
                    self._bell.recv(4096)
            elif descriptor == self._listener.socket.fileno():
                somebody = True
            elif descriptor in self._by_descriptor and descriptor not in self._fresh:
                self._serve(self._by_descriptor[descriptor], descriptor, events)
        if somebody:
            self._accept()
        now = time.monotonic()
        if self._rest_until is not None and now >= self._rest_until:
            self._rest_until = None
            self._ask(self._listener.socket, select.POLLIN)
        for link in list(self._links.values()):
            if link.flows:
                continue
            if now >= link.deadline:
                link.reasons.append(f"no connection within {self._timeout:g} s")
                self._give_up(link)
            elif link.retry is not None and now >= link.retry:
                link.retry = None
                self._connect(link)

    def _tell(self, records: list[Record]) -> None:
        for record in records:
            self._on_record(record)

    # -- connections -----------------------------------------------------------------------------

    def _accept(self) -> None:
        for _ in range(64):  # the connections that are open have their turn, too
            try:
                mta, peer = self._listener.socket.accept()
            except (BlockingIOError, InterruptedError, ConnectionAbortedError):
                return
            except OSError as error:
                # No descriptor is left. Who is waiting waits until another has gone.
                self._on_trouble(f"cannot accept a connection: {reason(error)}")
                self._ask(self._listener.socket, None)
                self._rest_until = time.monotonic() + _REST
                return
            self._count += 1
            self._open(mta, peer)

    def _open(self, mta: socket.socket, peer: Any) -> None:
        mta.setblocking(False)
        _no_delay(mta)
        link = _Link(self._count, mta, Tap(self._count))
        self._links[link.number] = link
        self._add(mta, link)
        self._ask(mta, 0)
        link.addresses = list(self._addresses)
        link.deadline = time.monotonic() + self._timeout
        self._tell(link.tap.open(self.now(), f"{_peer_name(peer)} to {self._filter}"))
        self._connect(link)

    def _connect(self, link: _Link) -> None:
        """Tries the filter's addresses, one after the other."""
        while link.addresses:
            family, address = link.addresses[0]
            try:
                sock = socket.socket(family, socket.SOCK_STREAM)
            except OSError as error:
                link.reasons.append(reason(error))
                if error.errno in _SHORT:
                    # As for who is not accepted yet: until another has gone.
                    link.retry = time.monotonic() + _RETRY
                    return
                del link.addresses[0]
                continue
            sock.setblocking(False)
            status = sock.connect_ex(address)
            if status == errno.EAGAIN and family == socket.AF_UNIX:
                # Its backlog is full: so would the MTA have to wait.
                sock.close()
                link.retry = time.monotonic() + _RETRY
                return
            if status in (0, errno.EINPROGRESS):
                link.filter = sock
                self._add(sock, link)
                if status == 0:
                    self._connected(link)
                else:
                    self._ask(sock, select.POLLOUT)
                return
            sock.close()
            link.reasons.append(os.strerror(status))
            del link.addresses[0]
        self._give_up(link)

    def _finish_connect(self, link: _Link) -> None:
        assert link.filter is not None
        status = link.filter.getsockopt(socket.SOL_SOCKET, socket.SO_ERROR)
        if status == 0:
            self._connected(link)
            return
        self._forget(link.filter)
        link.filter = None
        link.reasons.append(os.strerror(status))
        del link.addresses[0]
        self._connect(link)

    def _connected(self, link: _Link) -> None:
        assert link.filter is not None
        _no_delay(link.filter)
        link.flows = {
            MTA: _Flow(MTA, link.mta, link.filter),
            FILTER: _Flow(FILTER, link.filter, link.mta),
        }
        self._update(link)

    def _give_up(self, link: _Link) -> None:
        reasons = ", ".join(dict.fromkeys(link.reasons))
        text = f"cannot connect to {self._filter}: {reasons}"
        # First of all the MTA is to know.
        self._close(link)
        self._tell(link.tap.failed(self.now(), text))

    def _add(self, sock: socket.socket, link: _Link) -> None:
        self._by_descriptor[sock.fileno()] = link
        self._fresh.add(sock.fileno())

    def _forget(self, sock: socket.socket) -> None:
        self._ask(sock, None)
        self._by_descriptor.pop(sock.fileno(), None)
        sock.close()

    def _close(self, link: _Link) -> None:
        if link.closed:
            return
        link.closed = True
        del self._links[link.number]
        for sock in (link.mta, link.filter):
            if sock is not None:
                if link.broken:
                    _reset_on_close(sock)
                self._forget(sock)

    # -- passing on ------------------------------------------------------------------------------

    def _serve(self, link: _Link, descriptor: int, events: int) -> None:
        if not link.flows:
            if link.filter is not None and descriptor == link.filter.fileno():
                self._finish_connect(link)
            elif events & _WRONG:
                # The MTA has gone before the filter was reached.
                sender_kind = "reset" if events & select.POLLERR else "end"
                self._close(link)
                self._tell(link.tap.end(MTA, self.now(), sender_kind))
                self._tell(link.tap.failed(self.now(), "the mail server did not wait"))
            return
        here, there = (MTA, FILTER) if descriptor == link.mta.fileno() else (FILTER, MTA)
        incoming, outgoing = link.flows[here], link.flows[there]
        if outgoing.held and events & (select.POLLOUT | _WRONG):
            self._write(link, outgoing)
        if incoming.reading and events & (select.POLLIN | _WRONG):
            self._read(link, incoming)
        elif events & select.POLLERR and not incoming.held:
            self._broken(link, here)
        elif events & _WRONG:
            # It has gone altogether; what it has said before is still on its way.
            incoming.hung_up = True
        if not link.closed:
            self._update(link)

    def _read(self, link: _Link, flow: _Flow) -> None:
        try:
            data = flow.source.recv(_READ)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            self._broken(link, flow.sender)
            return
        when = self.now()
        _acknowledge(flow.source)
        if not data:
            flow.ended = True
            self._flush(flow)
            kind = "reset" if link.broken == flow.sender else "end"
            self._tell(link.tap.end(flow.sender, when, kind))
            return
        flow.held = memoryview(data)
        self._write(link, flow)
        self._tell(link.tap.feed(flow.sender, data, when))

    def _write(self, link: _Link, flow: _Flow) -> None:
        """Passes on as much of what is held as the sink takes."""
        try:
            sent = flow.sink.send(flow.held)
        except (BlockingIOError, InterruptedError):
            return
        except OSError:
            # The sink reads no more. What it has still said is passed on; only then the source,
            # from which nothing more is read, learns of it.
            flow.held = memoryview(b"")
            flow.done = True
            link.broken = FILTER if flow.sender == MTA else MTA
            return
        flow.held = flow.held[sent:]
        self._flush(flow)

    @staticmethod
    def _flush(flow: _Flow) -> None:
        """Tells the sink that this was all."""
        if flow.ended and not flow.held and not flow.done:
            flow.done = True
            with contextlib.suppress(OSError):  # it has gone itself
                flow.sink.shutdown(socket.SHUT_WR)

    def _broken(self, link: _Link, sender: str) -> None:
        """One side has broken the connection off: so it is broken off for the other."""
        link.broken = sender
        self._close(link)
        self._tell(link.tap.end(sender, self.now(), "reset"))
        self._tell(link.tap.cut(self.now(), "closed, as the other side was reset"))

    def _update(self, link: _Link) -> None:
        """Closes what is over, and says what to wait for."""
        one, other = link.flows[MTA], link.flows[FILTER]
        if one.done and other.done:
            self._close(link)
            self._tell(link.tap.cut(self.now(), "closed, as the other side has gone"))
            return
        for incoming, outgoing in ((one, other), (other, one)):
            events = select.POLLIN if incoming.reading else 0
            if outgoing.held:
                events |= select.POLLOUT
            # Where nothing is wanted of a socket only its end is waited for, and that but once.
            self._ask(incoming.source, None if not events and incoming.hung_up else events)


def _no_delay(sock: socket.socket) -> None:
    if sock.family != socket.AF_UNIX:
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)


def _acknowledge(sock: socket.socket) -> None:
    """Acknowledges what was read at once.

    Sendmail writes macros and command apart, and the second only goes when the first was
    acknowledged; so each would be 40 ms late (wire spec 9).
    """
    if sock.family != socket.AF_UNIX and hasattr(socket, "TCP_QUICKACK"):
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_QUICKACK, 1)


def _reset_on_close(sock: socket.socket) -> None:
    """Has whoever is at the other end get an error, as if it was the peer's own doing (TCP)."""
    if sock.family != socket.AF_UNIX:
        with contextlib.suppress(OSError):
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))


def _peer_name(peer: Any) -> str:
    if isinstance(peer, tuple):
        host = f"[{peer[0]}]" if ":" in peer[0] else peer[0]
        return f"{host}:{peer[1]}"
    return "a unix socket"
