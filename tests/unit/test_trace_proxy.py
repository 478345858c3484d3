"""The proxy of ``milterctl trace``: it passes everything on, and holds nobody up."""

from __future__ import annotations

import contextlib
import errno
import os
import socket
import struct
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any, Callable

import pytest
from mta_support import OFFER, PATIENCE, C, packet

from Milter import _tracewire, mta
from Milter._trace import FILTER, MTA, Record
from Milter._tracewire import ListenError, Proxy


class Running:
    """A proxy in a thread, and a listening socket in the filter's place."""

    def __init__(
        self, listen: str, filter: str, listener: socket.socket, timeout: float = PATIENCE
    ) -> None:
        self.records: list[Record] = []
        self.news = threading.Condition()
        self.listener = listener
        self.trouble: list[str] = []
        self.proxy = Proxy(listen, filter, self._take, self.trouble.append, timeout=timeout)
        self.turns = 0
        turn = self.proxy._turn

        def counted() -> None:
            self.turns += 1
            turn()

        self.proxy._turn = counted  # type: ignore[method-assign]
        self.thread = threading.Thread(target=self.proxy.run, daemon=True)
        self.thread.start()

    def _take(self, record: Record) -> None:
        with self.news:
            self.records.append(record)
            self.news.notify_all()

    def await_record(self, wanted: Callable[[Record], bool]) -> Record:
        """Waits until such a record was told."""
        with self.news:
            assert self.news.wait_for(lambda: any(map(wanted, self.records)), PATIENCE), (
                self.records
            )
            return next(filter(wanted, self.records))

    def said(self, number: int = 1) -> list[tuple[str, str]]:
        """Kind and sender of what was told of a connection."""
        return [(each.kind, each.sender) for each in self.records if each.connection == number]

    def passed(self, sender: str) -> bytes:
        """All bytes that were told of the first connection."""
        return b"".join(
            (struct.pack("!I", len(each.data)) if each.kind == "packet" else b"") + each.data
            for each in self.records
            if each.sender == sender and each.connection == 1
        )

    def dial(self) -> socket.socket:
        """The MTA's end of a new connection."""
        address = self.proxy.address
        if "/" in address:
            sock = socket.socket(socket.AF_UNIX)
            sock.settimeout(PATIENCE)
            sock.connect(address)
            return sock
        host, port = address.split()
        return socket.create_connection((host, int(port)), PATIENCE)

    def answer(self) -> socket.socket:
        """The filter's end of it."""
        sock, _ = self.listener.accept()
        sock.settimeout(PATIENCE)
        return sock

    def pair(self) -> tuple[socket.socket, socket.socket]:
        """Both ends of a new connection."""
        return self.dial(), self.answer()

    def stop(self) -> None:
        self.proxy.stop()
        self.thread.join(PATIENCE)
        assert not self.thread.is_alive()
        self.proxy.close()


@contextlib.contextmanager
def running(kind: str, place: Path) -> Iterator[Running]:
    """A proxy over unix sockets, or over TCP."""
    if kind == "unix":
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(place / "filter"))
        specs = f"unix:{place / 'trace'}", f"unix:{place / 'filter'}"
    else:
        listener = socket.create_server(("127.0.0.1", 0))
        specs = "inet:0@127.0.0.1", f"inet:{listener.getsockname()[1]}@127.0.0.1"
    listener.settimeout(PATIENCE)
    listener.listen(50)
    with listener:
        run = Running(*specs, listener)
        try:
            yield run
        finally:
            run.stop()


@pytest.fixture(params=["unix", "inet"])
def run(request: Any, tmp_path: Path) -> Iterator[Running]:
    """See running()."""
    with running(request.param, tmp_path) as proxy:
        yield proxy


def receive(sock: socket.socket, size: int) -> bytes:
    """Reads so many bytes, or to the end."""
    data = b""
    while len(data) < size:
        piece = sock.recv(size - len(data))
        if not piece:
            break
        data += piece
    return data


# -- what passes ---------------------------------------------------------------------------------


@pytest.mark.parametrize(
    "data",
    [
        OFFER,
        b"\0",  # not even a whole length
        b"\0\0\0\0",
        b"GET / HTTP/1.0\r\n\r\n",
        bytes(range(256)) * 4000,
    ],
)
def test_everything_passes(run: Running, data: bytes) -> None:
    """Bytes arrive as they were and at once, both ways, whether they are packets or not."""
    ours, theirs = run.pair()
    with ours, theirs:
        for source, sink in ((ours, theirs), (theirs, ours)):
            thread = threading.Thread(target=source.sendall, args=(data,))
            thread.start()
            assert data == receive(sink, len(data))
            thread.join()
    run.await_record(lambda record: record[2:4] in {("end", MTA), ("reset", MTA), ("cut", "")})
    assert data == run.passed(MTA)


def test_packets_are_told(run: Running) -> None:
    """Cut anywhere, a packet is told when it is whole, and its beginning passes before."""
    ours, theirs = run.pair()
    with ours, theirs:
        for byte in OFFER:
            ours.sendall(bytes([byte]))
            assert bytes([byte]) == theirs.recv(100)
        theirs.sendall(C + C)
        assert C + C == receive(ours, 10)
    run.await_record(lambda record: record.kind == "end")
    packets = [(each.sender, each.data) for each in run.records if each.kind == "packet"]
    assert [(MTA, OFFER[4:]), (FILTER, b"c"), (FILTER, b"c")] == packets
    times = [each.time for each in run.records]
    assert sorted(times) == times


def test_half_closes(run: Running) -> None:
    """One side has said all, and still hears the other; in both directions."""
    for first in (MTA, FILTER):
        ours, theirs = run.pair()
        one, other = (ours, theirs) if first == MTA else (theirs, ours)
        with ours, theirs:
            one.sendall(b"\0\0\0\1Q")
            one.shutdown(socket.SHUT_WR)
            assert b"\0\0\0\1Q" == receive(other, 100)
            other.sendall(C)
            assert C == receive(one, 5)
            other.close()
            assert b"" == one.recv(100)
    run.await_record(lambda record: (2, "end", MTA) == (record.connection, *record[2:4]))
    assert ["open", "packet", "end", "packet", "end"] == [kind for kind, _ in run.said()]
    assert [MTA, MTA, FILTER, FILTER] == [sender for _, sender in run.said()[1:]]
    assert [FILTER, FILTER, MTA, MTA] == [sender for _, sender in run.said(2)[1:]]


def reset(sock: socket.socket) -> None:
    """Breaks a connection off."""
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    sock.close()


@pytest.mark.parametrize("who", [MTA, FILTER])
def test_resets(who: str, tmp_path: Path) -> None:
    """A reset arrives as one (TCP), and is told."""
    with running("inet", tmp_path) as run:
        ours, theirs = run.pair()
        with ours, theirs:
            ours.sendall(OFFER)
            assert OFFER == receive(theirs, len(OFFER))
            reset(ours if who == MTA else theirs)
            with pytest.raises(ConnectionResetError):
                (theirs if who == MTA else ours).recv(100)
        run.await_record(lambda record: record.kind == "cut")
        assert [("packet", MTA), ("reset", who), ("cut", "")] == run.said()[1:]


def test_last_words(run: Running) -> None:
    """What a filter has said before it ends is passed on, though the MTA still writes."""
    ours, theirs = run.pair()
    with ours:
        theirs.sendall(packet("t"))
        theirs.close()
        assert packet("t") == receive(ours, 5)
        deadline = time.monotonic() + PATIENCE
        with contextlib.suppress(OSError):
            while time.monotonic() < deadline:
                ours.sendall(C)  # until it is told that nobody listens
        assert time.monotonic() < deadline
    run.await_record(lambda record: record.kind == "cut" or record[2:4] == ("end", MTA))
    assert ("packet", FILTER) in run.said()


# -- slow and stuck ------------------------------------------------------------------------------


def fill(sock: socket.socket) -> int:
    """Writes until nothing more is taken; returns how much was."""
    sock.setblocking(False)
    size, idle = 0, 0
    while idle < 20:
        try:
            size += sock.send(b"\0\1\0\0B" + b"x" * 65535)
            idle = 0
        except BlockingIOError:
            idle += 1
            time.sleep(0.01)
        assert size < 64 * 1024 * 1024, "it takes anything"
    return size


def test_backpressure(run: Running) -> None:
    """From an MTA whose filter reads nothing no more is taken; other connections do not notice."""
    ours, theirs = run.pair()
    with ours, theirs:
        size = fill(ours)
        other, answering = run.pair()
        with other, answering:
            other.sendall(OFFER)
            assert OFFER == receive(answering, len(OFFER))
            answering.sendall(C)
            assert C == receive(other, 5)
        # And then it goes on, and nothing was lost.
        ours.setblocking(True)
        threading.Thread(target=ours.shutdown, args=(socket.SHUT_WR,)).start()
        assert size == len(receive(theirs, 1 << 30))


def test_stuck_mail_server(run: Running) -> None:
    """The same the other way, and when the one that is stuck goes the other is told."""
    ours, theirs = run.pair()
    with theirs:
        fill(theirs)
        ours.close()
        theirs.settimeout(PATIENCE)
        with pytest.raises((ConnectionResetError, BrokenPipeError)):
            theirs.sendall(bytes(64 * 1024 * 1024))


def test_who_has_gone_costs_nothing(run: Running) -> None:
    """An MTA that has closed altogether is waited for once, however long its filter lives."""
    ours, theirs = run.pair()
    with theirs:
        ours.sendall(OFFER)
        assert OFFER == receive(theirs, len(OFFER))
        ours.close()
        assert b"" == theirs.recv(100)
        run.await_record(lambda record: record.kind == "end")
        for number in range(2, 7):
            for sock in run.pair():
                sock.close()
            run.await_record(lambda record, n=number: record[2] == "end" and record[0] == n)
        assert run.turns < 200
    run.await_record(lambda record: (1, "end", FILTER) == (record.connection, *record[2:4]))


def test_many(run: Running) -> None:
    """Any number of connections at once, each with what was said on it."""
    pairs = [run.pair() for _ in range(40)]
    for number, (ours, _) in enumerate(pairs):
        ours.sendall(packet("H", b"%d\0" % number))
    for number, (ours, theirs) in enumerate(pairs):
        expected = packet("H", b"%d\0" % number)
        assert expected == receive(theirs, len(expected))
        ours.close()
        theirs.close()
    for number in range(1, 41):
        run.await_record(lambda record, n=number: (n, "end") == (record.connection, record.kind))
    said = {each.connection: each.data for each in run.records if each.kind == "packet"}
    assert {number + 1: b"H%d\0" % number for number in range(40)} == said


# -- the filter's socket, and ours -----------------------------------------------------------------


def test_unreachable(tmp_path: Path) -> None:
    """No filter: the MTA's connection is closed, a record says why, and the next is served."""
    (tmp_path / "filter").unlink(missing_ok=True)
    listener = socket.socket(socket.AF_UNIX)
    run = Running(f"unix:{tmp_path / 'trace'}", f"unix:{tmp_path / 'filter'}", listener)
    with listener:
        try:
            with run.dial() as ours:
                assert b"" == ours.recv(100)
            failed = run.await_record(lambda record: record.kind == "failed")
            assert f"cannot connect to unix:{tmp_path / 'filter'}: No such file" in failed.text
            listener.bind(str(tmp_path / "filter"))
            listener.listen()
            listener.settimeout(PATIENCE)
            ours, theirs = run.pair()
            with ours, theirs:
                ours.sendall(OFFER)
                assert OFFER == receive(theirs, len(OFFER))
        finally:
            run.stop()
    assert [("open", ""), ("failed", "")] == run.said(1)


def test_unreachable_over_tcp(keep_port: Callable[[str], int]) -> None:
    """The same where the port is closed."""
    with socket.socket() as listener:
        run = Running("inet:0@127.0.0.1", f"inet:{keep_port('127.0.0.1')}@127.0.0.1", listener)
        try:
            with run.dial() as ours, contextlib.suppress(ConnectionResetError):
                assert b"" == ours.recv(100)
            assert "refused" in run.await_record(lambda record: record.kind == "failed").text
        finally:
            run.stop()


def test_full_backlog(tmp_path: Path) -> None:
    """A filter that accepts late is waited for, as an MTA waits."""
    with running("unix", tmp_path) as run:
        run.listener.listen(0)
        ends = [run.dial() for _ in range(5)]
        for ours in ends:
            ours.sendall(OFFER)
        for _ in ends:
            with run.answer() as theirs:
                assert OFFER == receive(theirs, len(OFFER))
        for ours in ends:
            ours.close()


def test_no_descriptor_for_the_filter(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Where the last descriptor was the mail server's, the filter's is waited for."""
    tries: list[int] = []

    class Short:
        """The module, with no descriptor to be had three times."""

        def __getattr__(self, name: str) -> Any:
            return getattr(socket, name)

        def socket(self, *arguments: Any) -> socket.socket:
            tries.append(1)
            if len(tries) <= 3:
                raise OSError(errno.EMFILE, os.strerror(errno.EMFILE))
            return socket.socket(*arguments)

    with running("unix", tmp_path) as run:
        monkeypatch.setattr(_tracewire, "socket", Short())
        with run.dial() as ours, run.answer() as theirs:
            ours.sendall(OFFER)
            assert OFFER == receive(theirs, len(OFFER))
    assert 4 == len(tries)


def test_never_accepted(tmp_path: Path) -> None:
    """One that never accepts is given up, and the MTA sees it."""
    listener = socket.socket(socket.AF_UNIX)
    listener.bind(str(tmp_path / "filter"))
    listener.listen(0)
    specs = f"unix:{tmp_path / 'trace'}", f"unix:{tmp_path / 'filter'}"
    with listener, socket.socket(socket.AF_UNIX) as first:
        first.connect(str(tmp_path / "filter"))  # its backlog is full
        run = Running(*specs, listener, timeout=0.2)
        try:
            with run.dial() as ours:
                assert b"" == ours.recv(100)
            failed = run.await_record(lambda record: record.kind == "failed")
            assert failed.text.endswith("no connection within 0.2 s")
        finally:
            run.stop()


def test_where_it_listens(tmp_path: Path) -> None:
    """It replaces a socket on which nobody listens, no other, and removes its own at the end."""
    path = tmp_path / "trace"
    stale = socket.socket(socket.AF_UNIX)
    stale.bind(str(path))
    stale.close()
    filter = f"unix:{tmp_path / 'filter'}"
    proxy = Proxy(f"unix:{path}", filter, lambda record: None, mode=0o600)
    assert 0o600 == os.stat(path).st_mode & 0o777
    with pytest.raises(ListenError, match="cannot listen at unix:"):
        Proxy(f"unix:{path}", filter, lambda record: None)
    with socket.socket(socket.AF_UNIX) as probe:
        probe.connect(str(path))
    proxy.close()
    proxy.close()
    assert not path.exists()
    path.write_text("a file")
    with pytest.raises(ListenError):
        Proxy(f"unix:{path}", filter, lambda record: None)
    assert "a file" == path.read_text()
    for wrong in ("tcp:1", "inet:99999@localhost"):
        with pytest.raises(mta.SocketSpecError):
            Proxy(wrong, filter, lambda record: None)
        with pytest.raises(mta.SocketSpecError):
            Proxy(f"unix:{tmp_path / 'other'}", wrong, lambda record: None)


def test_its_own_filter(tmp_path: Path, keep_port: Callable[[str], int]) -> None:
    """It does not connect to itself, whatever the filter's socket is called."""
    (tmp_path / "link").symlink_to(tmp_path)
    place = f"unix:{tmp_path / 'trace'}"
    with pytest.raises(ListenError, match="is this one"):
        Proxy(place, f"unix:{tmp_path / 'link' / 'trace'}", lambda record: None)
    assert not (tmp_path / "trace").exists()
    for host in ("127.0.0.1", "0.0.0.0"):
        port = keep_port("127.0.0.1")
        with pytest.raises(ListenError, match="is this one"):
            Proxy(f"inet:{port}@{host}", f"inet:{port}@localhost", lambda record: None)


def test_stop(run: Running) -> None:
    """Connections that are open when it is stopped are closed, and told to be cut."""
    ours, theirs = run.pair()
    with ours, theirs:
        ours.sendall(OFFER[:7])
        assert OFFER[:7] == receive(theirs, 7)
        run.stop()
        assert b"" == ours.recv(100)
        assert b"" == theirs.recv(100)
    assert [("open", ""), ("broken", MTA), ("cut", "")] == run.said()
