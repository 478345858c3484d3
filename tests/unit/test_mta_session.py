"""The blocking client against a scripted filter: real sockets, every cut, every way to fail.

Bytes by hand from the wire spec.
"""

from __future__ import annotations

import contextlib
import dataclasses
import itertools
import math
import socket
import subprocess
import sys
import threading
from pathlib import Path
from typing import Any, Optional

import pytest
from mta_support import (
    ALL,
    OFFER,
    PATIENCE,
    C,
    FromAnswer,
    Pieces,
    Script,
    Simple,
    options,
    packet,
)

from Milter import _mtasession, _mtasessionbase, mta

Q = packet("Q")


def hand(letter: str, data: bytes = b"") -> bytes:
    """A packet; shorter to read in a dialogue."""
    return packet(letter, data)


# -- a dialogue ----------------------------------------------------------------------------------

DIALOGUE = (
    (OFFER, ALL),
    (hand("D", b"Cj\0mx\0") + hand("C", b"h.ex\x004\x04\xd2192.0.2.1\0"), C),
    (hand("H", b"c.ex\0"), C),
    (hand("M", b"<a@b>\0SIZE=9\0"), C),
    (hand("R", b"<c@d>\0"), C),
    (hand("R", b"<x@y>\0"), hand("y", b"550 5.1.1 no\0")),
    (hand("U", b"FOO\0"), C),
    (hand("T"), hand("p") + C),
    (hand("L", b"Subject\0hi\0"), C),
    (hand("N"), C),
    (hand("B", b"x" * 65535), C),
    (hand("B", b"y"), C),
    (
        hand("E"),
        hand("h", b"X\0v\0") + hand("p") + hand("q", b"why\0") + hand("b", b"new\r\n") + hand("a"),
    ),
    (hand("A") + hand("K"), b""),
    (hand("C", b"h\0U"), hand("t")),
    (Q, b""),
)


@pytest.mark.parametrize("drip", [False, True], ids=["whole", "byte by byte"])
@pytest.mark.row(194, 195, 196)
def test_dialogue(drip: bool) -> None:
    """Every step in one session, its bytes, its verdict, its modifications."""
    script = Script(*DIALOGUE)
    going_on = mta.Verdict(mta.Kind.CONTINUE)
    with script.session(itertools.repeat(1) if drip else None) as session:
        assert mta.Options(6, 0x1FF, 0, {}, 6, 0x1FF, 0x1FFFFF) == session.negotiate()
        assert going_on == session.connect("h.ex", "192.0.2.1", 1234, {"j": "mx"})
        assert going_on == session.helo("c.ex")
        assert going_on == session.mail("<a@b>", "SIZE=9")
        assert going_on == session.rcpt("<c@d>")
        refused = mta.Verdict(mta.Kind.REJECT, 550, "5.1.1", ("no",), b"550 5.1.1 no")
        assert refused == session.rcpt("<x@y>")
        assert going_on == session.unknown("FOO")
        assert going_on == session.data()
        assert going_on == session.header("Subject", " hi")
        assert going_on == session.eoh()
        assert going_on == session.body(b"x" * 65535 + b"y")
        assert (
            mta.Answer(
                mta.Verdict(mta.Kind.ACCEPT),
                (mta.AddHeader("X", "v"), mta.Quarantine("why"), mta.ReplaceBody(b"new\r\n")),
                progress=1,
            )
            == session.eom()
        )
        session.abort()
        session.quit_nc()
        assert mta.Verdict(mta.Kind.TEMPFAIL) == session.connect("h", None)
    script.done()


def test_answer_at_every_cut() -> None:
    """An answer cut in two at every byte."""
    reply = hand("h", b"X\0v\0") + hand("y", b"451 4.3.0 later\0")
    for cut in range(1, len(reply)):
        script = Script(
            (OFFER, ALL),
            (hand("M", b"<>\0"), C),
            (hand("R", b"<>\0"), C),
            (hand("E"), reply),
            (Q, b""),
        )
        with script.session([len(ALL), len(C), len(C), cut]) as session:
            session.negotiate()
            session.mail("<>")
            session.rcpt("<>")
            answer = session.eom()
        assert (mta.AddHeader("X", "v"),) == answer.modifications
        assert (451, "4.3.0", ("later",)) == (
            answer.verdict.code,
            answer.verdict.enhanced,
            answer.verdict.lines,
        )
        script.done()


def test_no_waiting_where_nothing_comes() -> None:
    """With every NR bit a whole message is written without a single answer but the last."""
    everything = (
        hand("C", b"h\0U")
        + hand("H", b"h\0")
        + hand("M", b"<>\0")
        + hand("R", b"<c@d>\0")
        + hand("U", b"x\0")
        + hand("T")
        + hand("L", b"X\0y\0")
        + hand("N")
        + hand("B", b"z")
        + hand("E")
    )
    script = Script((OFFER, options(protocol=0xFF080)), (everything, C), (Q, b""))
    with script.session() as session:
        session.negotiate()
        verdicts = [
            session.connect("h", None),
            session.helo("h"),
            session.mail("<>"),
            session.rcpt("<c@d>"),
            session.unknown("x"),
            session.data(),
            session.header("X", "y"),
            session.eoh(),
            session.body(b"z"),
        ]
        assert [mta.Kind.NO_REPLY] * 9 == [verdict.kind for verdict in verdicts]
        assert mta.Kind.CONTINUE is session.eom().verdict.kind
    script.done()


def test_body_stops_at_skip_and_at_verdicts() -> None:
    """Of a body in several pieces nothing is sent after SKIP or a final verdict."""
    chunk = hand("B", bytes(65535))
    begin = ((OFFER, options(protocol=0x400)), (hand("M", b"<>\0"), C), (hand("R", b"<>\0"), C))
    for reply, kind in ((hand("s"), mta.Kind.SKIP), (hand("r"), mta.Kind.REJECT)):
        script = Script(*begin, (chunk, C), (chunk, reply), (Q, b""))
        with script.session() as session:
            session.negotiate()
            session.mail("<>")
            session.rcpt("<>")
            assert kind is session.body(bytes(65535 * 4)).kind
        script.done()


def test_defaults() -> None:
    """Without arguments the client is localhost, without a port; nothing goes before the offer."""
    script = Script(
        (OFFER, ALL),
        (hand("C", b"localhost\x004\0\x00127.0.0.1\0"), C),
        (hand("H", b"localhost\0"), C),
        (Q, b""),
    )
    with script.session() as session:
        with pytest.raises(mta.StateError, match="BODY before the negotiation"):
            session.body(b"x")
        session.negotiate()
        session.connect()
        session.helo()
    script.done()


def test_rules_of_a_connection(tmp_path: Path) -> None:
    """It is strict, takes progress anywhere and packets up to 64 MiB, or as it is told."""
    replies = {
        "O": options(actions=0),
        "H": packet("p") + C,
        "E": packet("h", b"X\0v\0") + C,
    }

    def play(limit: Optional[int] = None, **kind: Any) -> mta.Answer:
        if limit is not None:
            kind["receive_limit"] = limit
        with mta.connect(simple.spec, **kind) as session:
            session.negotiate()
            session.helo()
            session.mail("<>")
            session.rcpt("<>")
            return session.eom()

    with Simple(tmp_path / "s", replies) as simple:
        with pytest.raises(mta.ProtocolError, match="without ADDHDRS negotiated"):
            play()
        assert (mta.AddHeader("X", "v"),) == play(strict=False).modifications
        with pytest.raises(mta.ProtocolError, match="PROGRESS in answer to helo"):
            play(strict=False, progress_anywhere=False)
        assert play(13, strict=False)
        with pytest.raises(mta.ProtocolError, match="length 13"):
            play(12, strict=False)
        for length, seconds, text in (
            (0x04000000, 0.2, "no answer to negotiate"),
            (0x04000001, PATIENCE, "length 67108865"),
        ):
            simple.replies["O"] = [length.to_bytes(4, "big")]
            session = mta.connect(simple.spec, timeouts=mta.Timeouts(reply=seconds))
            with pytest.raises(mta.MilterError, match=text):
                session.negotiate()
            session.close()


def test_empty_body() -> None:
    """For an empty body nothing is sent (1.3)."""
    script = Script((OFFER, ALL), (hand("M", b"<>\0"), C), (hand("R", b"<>\0"), C), (Q, b""))
    with script.session() as session:
        session.negotiate()
        session.mail("<>")
        session.rcpt("<>")
        assert mta.Kind.NOT_SENT is session.body(b"").kind
    script.done()


# -- how it ends ---------------------------------------------------------------------------------


def test_block_without_negotiation() -> None:
    """A session in which nothing was said is closed without a word."""
    script = Script(hold=True)
    with script.session():
        pass
    script.done()


def test_exception_in_the_block() -> None:
    """After an exception the connection is closed without QUIT, and the exception goes on."""
    script = Script((OFFER, ALL), hold=True)

    def block() -> None:
        with script.session() as session:
            session.negotiate()
            raise KeyError("ours")

    with pytest.raises(KeyError):
        block()
    script.done()


def test_quit_waits_for_the_filter() -> None:
    """QUIT returns when the filter has closed; a second one is refused, closing is not."""
    script = Script((OFFER, ALL), (Q, b""))
    session = script.session()
    session.negotiate()
    session.quit()
    script.done()
    session.close()
    with pytest.raises(mta.StateError):
        session.quit()


def test_filter_that_does_not_close() -> None:
    """A filter that does not close after QUIT is named."""
    script = Script((OFFER, ALL), (Q, b""), hold=True)
    session = script.session(timeouts=FromAnswer(script.ours, reply=0.2))
    session.negotiate()
    with pytest.raises(mta.FilterTimeout, match=r"did not close within 0\.2 s of QUIT"):
        session.quit()
    script.done()


def test_filter_that_talks_after_quit() -> None:
    """Whatever comes after QUIT is an error."""
    script = Script((OFFER, ALL), (Q, C))
    session = script.session()
    session.negotiate()
    with pytest.raises(mta.ProtocolError, match="CONTINUE although nothing was asked"):
        session.quit()
    script.done()


def test_filter_that_is_gone_before_quit() -> None:
    """That a filter has gone already is no error at QUIT."""
    script = Script((OFFER, ALL))
    with script.session() as session:
        session.negotiate()
        script.done()


@pytest.mark.parametrize("reply", [b"", C[:3]])
def test_filter_that_goes_away(reply: bytes) -> None:
    """An end instead of an answer, or inside one; then nothing more goes."""
    script = Script((OFFER, ALL), (hand("H", b"h\0"), reply))
    session = script.session()
    session.negotiate()
    with pytest.raises(mta.ConnectionLost, match="instead of answering helo"):
        session.helo("h")
    with pytest.raises(mta.StateError, match="is over: the filter closed"):
        session.mail("<>")
    session.close()
    script.done()


def test_filter_that_went_away_meanwhile() -> None:
    """An end between two steps is told at the next one."""
    script = Script((OFFER, ALL), (hand("H", b"h\0"), C))
    session = script.session()
    session.negotiate()
    session.helo("h")
    script.done()
    with pytest.raises(mta.ConnectionLost, match="the filter closed the connection"):
        session.mail("<>")
    session.close()


def test_filter_that_resets_the_connection() -> None:
    """A connection that breaks is a ConnectionLost with the operating system's reason."""
    listener = socket.create_server(("127.0.0.1", 0))
    with listener:
        session = mta.connect(f"inet:{listener.getsockname()[1]}@127.0.0.1")
        peer, _ = listener.accept()
        # No linger: closing resets the connection, as a filter that dies does with data unread.
        peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\1\0\0\0\0\0\0\0")
        peer.close()
        with pytest.raises(mta.ConnectionLost, match="broke at negotiate: Connection reset"):
            session.negotiate()
        session.close()


def test_early_answer() -> None:
    """What a filter writes unasked is not taken for the answer to the next step."""
    script = Script((OFFER, ALL), (hand("A"), C))
    session = script.session()
    session.negotiate()
    session.abort()
    script.done()
    with pytest.raises(mta.ProtocolError, match="CONTINUE although nothing was asked"):
        session.helo("h")
    session.close()


def test_bad_answer_ends_the_session() -> None:
    """After a broken rule the block ends without QUIT."""
    script = Script((OFFER, ALL), (hand("H", b"h\0"), hand("X")), hold=True)

    def block() -> None:
        with script.session() as session:
            session.negotiate()
            session.helo("h")

    with pytest.raises(mta.ProtocolError, match="unknown type 'X'"):
        block()
    script.done()


@pytest.mark.parametrize("reply", [b"", C[:3], packet("p")[:4]])
def test_filter_that_does_not_answer(reply: bytes) -> None:
    """Silence, also in the middle of a packet, ends at the timeout, which the error names."""
    script = Script((OFFER, ALL), (hand("H", b"h\0"), reply), hold=True)
    silent = () if reply else ("helo",)
    session = script.session(timeouts=FromAnswer(script.ours, *silent, reply=0.2))
    session.negotiate()
    with pytest.raises(mta.FilterTimeout, match=r"no answer to helo within 0\.2 s") as caught:
        session.helo("h")
    assert bool(reply) == str(caught.value).endswith(
        "; of its packet came " + reply.hex(" ").upper()
    )
    with pytest.raises(mta.StateError, match="is over: no answer"):
        session.helo("h")
    script.done()


def test_filter_that_drips() -> None:
    """The time of an answer is not made longer by a packet that never gets whole."""
    ours, theirs = socket.socketpair()
    stop = threading.Event()

    def drip() -> None:
        theirs.settimeout(PATIENCE)
        theirs.recv(len(OFFER))
        try:
            for byte in packet("O", bytes(1000)):
                theirs.sendall(bytes([byte]))
                if stop.wait(0.05):
                    return
        except OSError:
            pass  # it hung up, as it should

    thread = threading.Thread(target=drip, daemon=True)
    thread.start()
    session = mta.Session(ours, timeouts=mta.Timeouts(reply=0.3))
    with pytest.raises(mta.FilterTimeout):
        session.negotiate()
    stop.set()
    thread.join(PATIENCE)
    assert not thread.is_alive()
    theirs.close()


def test_filter_that_does_not_read() -> None:
    """A filter that takes nothing more is a timeout as well."""
    ours, theirs = socket.socketpair()
    with theirs:
        ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 1)
        protocol = mta.Protocol()
        protocol.negotiate()
        protocol.receive(options(protocol=0xFF080))
        protocol.next_event()
        session = mta.Session(ours, timeouts=mta.Timeouts(reply=0.2), protocol=protocol)
        session.mail("<>")
        session.rcpt("<>")
        with pytest.raises(mta.FilterTimeout, match="did not take body"):
            session.body(bytes(10_000_000))


def test_progress_starts_the_time_again(monkeypatch: pytest.MonkeyPatch) -> None:
    """A filter that says that it is at work gets its time anew, as at Postfix."""
    now = 0.0
    waits: list[float] = []

    class Works(Pieces):
        """A filter each of whose packets takes a second, by a clock that the test sets."""

        def settimeout(self, seconds: float) -> None:
            if seconds:
                waits.append(seconds)
            self.sock.settimeout(seconds and PATIENCE)

        def recv(self, size: int) -> bytes:
            nonlocal now
            data = super().recv(size)
            now += 1.0
            return data

    class Clock:
        @staticmethod
        def monotonic() -> float:
            return now

    for module in (_mtasession, _mtasessionbase):
        monkeypatch.setattr(module, "time", Clock)
    script = Script(
        (OFFER, ALL),
        (hand("M", b"<>\0"), C),
        (hand("R", b"<>\0"), C),
        (hand("E"), hand("p") * 4 + C),
        (Q, b""),
    )
    sock: Any = Works(script.ours, [len(ALL), *[len(C)] * 7])
    with mta.Session(sock, timeouts=mta.Timeouts(eom=1.2)) as session:
        session.negotiate()
        session.mail("<>")
        session.rcpt("<>")
        del waits[:]
        assert 4 == session.eom().progress
        # The first to write; five seconds go by, of which none was waited for too long.
        assert pytest.approx([30.0, *[1.2] * 5]) == waits
    script.done()


@pytest.mark.parametrize("said", [packet("p"), packet("q", b"why\0")])
def test_filter_that_does_not_come_to_an_end(said: bytes) -> None:
    """A filter whose next packet is always there already is not listened to for ever."""
    ours, theirs = socket.socketpair()

    def talk() -> None:
        with theirs, contextlib.suppress(OSError):
            theirs.recv(100)
            theirs.sendall(ALL)
            while b"E" not in theirs.recv(1000):
                theirs.sendall(C)
            while True:
                theirs.sendall(said * 100)

    thread = threading.Thread(target=talk)
    thread.start()
    timeouts = mta.Timeouts.all(PATIENCE)
    limitless = mta.Protocol(receive_limit=2**31 - 1)
    with mta.Session(ours, timeouts=timeouts, protocol=limitless) as session:
        session.negotiate()
        session.mail("<a@b>")
        session.rcpt("<c@d>")
        session.timeouts = dataclasses.replace(timeouts, total=0.05)
        with pytest.raises(mta.FilterTimeout, match=r"no answer to eom within 0\.05 s"):
            session.eom()
    thread.join(PATIENCE)
    assert not thread.is_alive()


def test_timeouts() -> None:
    """The defaults are Postfix's; content and the end of a message have times of their own."""
    timeouts = mta.Timeouts()
    assert (30.0, 30.0, 300.0, 300.0) == (
        timeouts.connect,
        timeouts.reply,
        timeouts.content,
        timeouts.eom,
    )
    times = mta.Timeouts(1, 2, 3, 4)
    assert [2, 2, 2, 2, 2, 2, 2] == [
        times.of(step) for step in ("optneg", "connect", "helo", "mail", "rcpt", "data", "unknown")
    ]
    assert [3, 3, 3, 4] == [times.of(step) for step in ("header", "eoh", "body", "eom")]
    assert mta.Timeouts(5, 5, 5, 5, None, 60) == mta.Timeouts.all(5)
    # What nothing prolongs.
    assert [3600, 3600] == [timeouts.total_of(step) for step in ("mail", "eom")]
    times = mta.Timeouts(eom_total=7, total=9)
    assert [9, 7] == [times.total_of(step) for step in ("mail", "eom")]
    assert math.inf == mta.Timeouts(total=None).total_of("eom")


# -- where filters are ---------------------------------------------------------------------------

UNIX, IPV4, IPV6, EITHER = (socket.AF_UNIX, socket.AF_INET, socket.AF_INET6, socket.AF_UNSPEC)


@pytest.mark.parametrize(
    ("spec", "expected"),
    [
        ("unix:/run/x", (UNIX, "/run/x", "")),
        ("UNIX:/run/x:y", (UNIX, "/run/x:y", "")),
        ("local:x", (UNIX, "x", "")),
        ("Local:x", (UNIX, "x", "")),
        ("/run/x", (UNIX, "/run/x", "")),
        ("x", (UNIX, "x", "")),
        (":/run/x", (UNIX, "/run/x", "")),
        ("inet:8893@localhost", (IPV4, "localhost", "8893")),
        ("INET:8893@192.0.2.1", (IPV4, "192.0.2.1", "8893")),
        ("inet:8893@[192.0.2.1]", (IPV4, "192.0.2.1", "8893")),
        ("inet:smtp@localhost", (IPV4, "localhost", "smtp")),
        ("inet:8893", (IPV4, "127.0.0.1", "8893")),
        ("inet6:8893@localhost", (IPV6, "localhost", "8893")),
        ("inet6:8893@::1", (IPV6, "::1", "8893")),
        ("inet6:8893@[::1]", (IPV6, "::1", "8893")),
        ("inet6:8893@[IPv6:::1]", (IPV6, "::1", "8893")),
        ("inet6:8893", (IPV6, "::1", "8893")),
        ("inet:localhost:8893", (EITHER, "localhost", "8893")),
        ("inet:127.0.0.1:8893", (EITHER, "127.0.0.1", "8893")),
        ("inet:[::1]:8893", (EITHER, "::1", "8893")),
        ("inet6:[::1]:8893", (IPV6, "::1", "8893")),
        ("inet6:localhost:8893", (IPV6, "localhost", "8893")),
        ("inet:localhost:smtp", (EITHER, "localhost", "smtp")),
        ("inet:0@localhost", (IPV4, "localhost", "0")),
        ("inet:65535@localhost", (IPV4, "localhost", "65535")),
    ],
)
def test_socket_specs(spec: str, expected: tuple[int, str, str]) -> None:
    """Every row of wire spec 6.1 that names something to connect to, and Postfix's spelling."""
    assert expected == mta.parse_spec(spec)


@pytest.mark.parametrize(
    "spec",
    [
        "",
        ":",
        "unix:",
        "local:",
        "tcp:25@localhost",
        "inet :25@localhost",
        " inet:25@localhost",
        "localhost:8893",
        "fd:3",
        "inet:",
        "inet:@localhost",
        "inet:25@",
        "inet:25@[",
        "inet:25@[]",
        "inet:25@[localhost",
        "inet:25@localhost]",
        "inet:localhost:",
        "inet::25",
        "inet:::1:25",
        "inet:25x@localhost",
        "inet:65536@localhost",
        "inet:localhost:99999",
        "unix:/run/\0x",
    ],
)
def test_bad_socket_specs(spec: str) -> None:
    """Anything else is named, with what was expected."""
    with pytest.raises(mta.SocketSpecError, match=r"bad socket .*; expected unix:PATH") as caught:
        mta.connect(spec)
    assert repr(spec) in str(caught.value)
    assert isinstance(caught.value, ValueError)


def greet(listener: socket.socket) -> threading.Thread:
    """A filter that takes one connection and answers the offer."""

    def run() -> None:
        with listener:
            listener.settimeout(PATIENCE)
            peer, _ = listener.accept()
            with peer:
                peer.settimeout(PATIENCE)
                peer.recv(4096)
                peer.sendall(ALL)
                peer.recv(4096)

    thread = threading.Thread(target=run, daemon=True)
    thread.start()
    return thread


def test_connect_to_a_path(tmp_path: Path) -> None:
    """A unix socket is reached by each spelling of its path."""
    path = tmp_path / "s"
    for spec in (f"unix:{path}", f"local:{path}", str(path), f":{path}", path):
        listener = socket.socket(socket.AF_UNIX)
        listener.bind(str(path))
        listener.listen(1)
        thread = greet(listener)
        with mta.connect(spec) as session:
            assert 6 == session.negotiate().version
        thread.join(PATIENCE)
        path.unlink()


def test_connect_to_a_port() -> None:
    """A port of this machine is reached by each spelling, without Nagle's delay."""
    for spec in ("inet:{}@127.0.0.1", "inet:{}@localhost", "inet:{}", "inet:127.0.0.1:{}"):
        listener = socket.create_server(("127.0.0.1", 0))
        port = listener.getsockname()[1]
        thread = greet(listener)
        with mta.connect(spec.format(port)) as session:
            assert session._socket.getsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY)
            assert 6 == session.negotiate().version
        thread.join(PATIENCE)


def test_connect_to_ipv6() -> None:
    """IPv6 is reached by each spelling."""
    try:
        socket.create_server(("::1", 0), family=socket.AF_INET6).close()
    except OSError:
        pytest.skip("not here: no IPv6 on the loopback interface")
    for spec in ("inet6:{}@::1", "inet6:{}@[::1]", "inet6:{}", "inet:[::1]:{}", "inet6:[::1]:{}"):
        listener = socket.create_server(("::1", 0), family=socket.AF_INET6)
        thread = greet(listener)
        with mta.connect(spec.format(listener.getsockname()[1])) as session:
            assert 6 == session.negotiate().version
        thread.join(PATIENCE)


def test_nobody_there(tmp_path: Path) -> None:
    """Where nobody listens the error names the place and the reason."""
    with socket.create_server(("127.0.0.1", 0)) as listener:
        port = listener.getsockname()[1]
    (tmp_path / "file").touch()
    for spec, reason in (
        (f"inet:{port}@127.0.0.1", "Connection refused"),
        (f"unix:{tmp_path}/none", "No such file or directory"),
        (f"unix:{tmp_path}/file", "Connection refused"),
        (f"unix:/{'x' * 200}", "too long"),
        ("inet:no-such-service@127.0.0.1", "."),
        ("inet:25@no-such-host.invalid", "."),
        (f"inet:25@{'x' * 70}.invalid", "."),
    ):
        with pytest.raises(mta.ConnectError, match=rf"cannot connect to .*: .*{reason}") as caught:
            mta.connect(spec)
        assert str(caught.value).startswith(f"cannot connect to {spec}: ")
        assert "\n" not in str(caught.value)
        assert not isinstance(caught.value, mta.SocketSpecError)


def test_backlog_that_is_full(tmp_path: Path) -> None:
    """A filter that accepts nobody is a ConnectError within the time for it."""
    listener = socket.socket(socket.AF_UNIX)
    waiting = []
    with listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)

        def knock() -> None:
            for _ in range(100):
                session = mta.connect(tmp_path / "s", timeouts=mta.Timeouts(connect=0.2))
                waiting.append(session)

        with pytest.raises(mta.ConnectError, match=r"within 0\.2 s|temporarily unavailable"):
            knock()
        for session in waiting:
            session.close()


def test_importing_opens_nothing() -> None:
    """Importing Milter.mta starts no thread, opens no file, and needs no mail or web library."""
    code = (
        "import os, sys, threading\n"
        "import Milter\n"
        "before, files = set(sys.modules), os.listdir('/proc/self/fd')\n"
        "import Milter.mta\n"
        "new = set(sys.modules) - before\n"
        "print(sorted(m.split('.')[0] for m in new if m.split('.')[0] in "
        "{'asyncio', 'email', 'argparse', 'ssl', 'http', 'logging', 'subprocess', 'typing_ext'}))\n"
        "print(threading.active_count(), len(files) == len(os.listdir('/proc/self/fd')))\n"
    )
    done = subprocess.run(
        [sys.executable, "-c", code], check=True, capture_output=True, text=True, timeout=60
    )
    assert "[]\n1 True\n" == done.stdout


@pytest.mark.parametrize("profile", ["postfix", "sendmail"])
@pytest.mark.parametrize("more", [C, packet("h", b"X\0y\0")])
def test_answer_behind_the_end(profile: str, more: bytes, tmp_path: Path) -> None:
    """What a filter says when the message is over is found when the session is, and by then does
    not let the next message pass."""
    message = mta.Message.from_bytes(b"Subject: hi\n\nhello\n", "<a@b>", ["<c@d>"])
    with Simple(tmp_path / "s", {"E": C + more}) as simple:
        server = mta.MailServer(simple.spec, profile=profile, default_action="tempfail")
        (error,) = server.send(message).errors
        assert isinstance(error, mta.ProtocolError)
        assert "although nothing was asked" in str(error)
        with server.session() as smtp:
            assert mta.Outcome.ACCEPTED is smtp.send(message).outcome
            assert mta.Outcome.TEMPFAILED is smtp.send(message).outcome
            (error,) = smtp.errors
            assert isinstance(error, mta.ProtocolError)


@pytest.mark.parametrize("profile", ["postfix", "sendmail"])
def test_data_refused_stays_refused(profile: str, tmp_path: Path) -> None:
    """A second DATA, or a content all the same, does not slip past a filter that refused it."""
    with Simple(tmp_path / "s", {"T": packet("r")}) as simple:
        server = mta.MailServer(simple.spec, profile=profile)
        message = mta.Message.from_bytes(b"Subject: hi\n\nhello\n", "<a@b>", ["<c@d>"])
        with server.session() as smtp:
            assert smtp.mail("<a@b>") is None
            assert smtp.rcpt("<c@d>") is None
            assert [550, 550] == [reply.code for reply in (smtp.data(), smtp.data()) if reply]
            assert mta.Outcome.REJECTED is smtp.content(message).outcome
            smtp.reset()
            assert smtp.mail("<a@b>") is None
    assert "L" not in simple.letters
