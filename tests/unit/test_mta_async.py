"""The asyncio client: the blocking one's dialogues, and what is its own.

Bytes by hand from the wire spec; the mail server is compared with the blocking one, which is judged
by real Postfix and Sendmail.
"""

from __future__ import annotations

import asyncio
import itertools
import select
import socket
from collections.abc import Coroutine
from pathlib import Path
from typing import Any, Optional, TypeVar

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
from test_mta_session import DIALOGUE

from Milter import mta
from Milter._mailserverasync import AsyncMailServer
from Milter._mtaasync import AsyncSession, connect_async

T = TypeVar("T")

CONTINUE = mta.Verdict(mta.Kind.CONTINUE)
MESSAGE = mta.Message.from_bytes(
    b"From: a\nSubject: hi\n\nhello\n", "a@example.org", ["b@example.com", "c@example.com"]
)


def run(work: Coroutine[Any, Any, T]) -> T:
    """Runs a coroutine, in debug mode: what is never awaited or blocks is told."""
    return asyncio.run(asyncio.wait_for(work, 2 * PATIENCE), debug=True)


def session_of(script: Script, drip: bool = False, **kind: Any) -> AsyncSession:
    """The MTA's side of a scripted filter."""
    kind.setdefault("timeouts", mta.Timeouts.all(PATIENCE))
    sock: Any = Pieces(script.ours, itertools.repeat(1)) if drip else script.ours
    return AsyncSession(sock, **kind)


# -- one filter ----------------------------------------------------------------------------------


@pytest.mark.parametrize("drip", [False, True], ids=["whole", "byte by byte"])
def test_dialogue(drip: bool) -> None:
    """Every step in one session, its bytes, its verdict, its modifications."""
    script = Script(*DIALOGUE)

    async def play() -> None:
        async with session_of(script, drip) as session:
            assert mta.Options(6, 0x1FF, 0, {}, 6, 0x1FF, 0x1FFFFF) == await session.negotiate()
            assert CONTINUE == await session.connect("h.ex", "192.0.2.1", 1234, {"j": "mx"})
            assert CONTINUE == await session.helo("c.ex")
            assert CONTINUE == await session.mail("<a@b>", "SIZE=9")
            assert CONTINUE == await session.rcpt("<c@d>")
            refused = mta.Verdict(mta.Kind.REJECT, 550, "5.1.1", ("no",), b"550 5.1.1 no")
            assert refused == await session.rcpt("<x@y>")
            assert CONTINUE == await session.unknown("FOO")
            assert CONTINUE == await session.data()
            assert CONTINUE == await session.header("Subject", " hi")
            assert CONTINUE == await session.eoh()
            assert CONTINUE == await session.body(b"x" * 65535 + b"y")
            answer = mta.Answer(
                mta.Verdict(mta.Kind.ACCEPT),
                (mta.AddHeader("X", "v"), mta.Quarantine("why"), mta.ReplaceBody(b"new\r\n")),
                progress=1,
            )
            assert answer == await session.eom()
            await session.abort()
            await session.quit_nc()
            assert mta.Kind.TEMPFAIL is (await session.connect("h", None)).kind

    run(play())
    script.done()


@pytest.mark.parametrize(
    ("reply", "error", "text"),
    [
        (b"", mta.ConnectionLost, "closed the connection"),
        (b"\0\0\0\x09y550", mta.ConnectionLost, "a whole packet"),
        (packet("h", b"X\0y\0"), mta.ProtocolError, "ADDHEADER"),
        (b"\0\0\0\0", mta.ProtocolError, "length 0"),
    ],
    ids=["nothing", "half", "early change", "no packet"],
)
def test_what_a_filter_does_wrong(reply: bytes, error: type[Exception], text: str) -> None:
    """A broken answer raises what it is, and the session is over."""
    script = Script((OFFER, ALL), (packet("H", b"h\0"), reply))

    async def play() -> None:
        async with session_of(script) as session:
            await session.negotiate()
            with pytest.raises(error, match=text):
                await session.helo("h")
            with pytest.raises(mta.StateError):
                await session.helo("h")

    run(play())
    script.done()


def test_a_word_too_early_is_no_answer() -> None:
    """What the filter wrote before a step was sent is found, and is not taken for its answer."""
    script = Script((OFFER, ALL + C), hold=True)

    async def play() -> None:
        async with session_of(script) as session:
            await session.negotiate()
            with pytest.raises(mta.ProtocolError, match="nothing was asked"):
                await session.helo("h")

    run(play())
    script.done()


def test_a_word_too_early_that_was_not_read_yet() -> None:
    """Nor is what still lies in the socket when the step is sent."""
    script = Script((OFFER, ALL), (b"", C), hold=True)
    sock: Any = Pieces(script.ours, [len(ALL)])

    async def play() -> None:
        async with AsyncSession(sock, timeouts=mta.Timeouts.all(PATIENCE)) as session:
            await session.negotiate()
            assert select.select([script.ours], [], [], PATIENCE)[0], "it has come"
            with pytest.raises(mta.ProtocolError, match="nothing was asked"):
                await session.helo("h")

    run(play())


def test_the_end_of_a_message_has_a_time_that_nothing_prolongs() -> None:
    """A filter that says at the end of a message that it still works may do so for eom_total."""
    busy = packet("p")
    script = Script((OFFER, options(protocol=0x27F)), (packet("E"), busy), hold=True)

    async def play() -> None:
        timeouts = FromAnswer(script.ours, reply=PATIENCE, eom=3600, eom_total=0.05)
        async with session_of(script, timeouts=timeouts) as session:
            await session.negotiate()
            for step in (session.mail("<a@b>"), session.rcpt("<c@d>"), session.data()):
                await step
            with pytest.raises(mta.FilterTimeout, match="eom"):
                await session.eom()

    run(play())
    script.done()


def test_a_silent_filter_times_out() -> None:
    """No answer in time is a FilterTimeout that names the step and the time."""
    script = Script((OFFER, ALL), (packet("H", b"h\0"), b""), hold=True)

    async def play() -> None:
        timeouts = mta.Timeouts(PATIENCE, PATIENCE)
        async with session_of(script, timeouts=timeouts) as session:
            await session.negotiate()
            session.timeouts = mta.Timeouts(reply=0.05)
            with pytest.raises(mta.FilterTimeout, match=r"no answer to helo within 0\.05 s"):
                await session.helo("h")

    run(play())
    script.done()


def test_a_filter_that_takes_nothing_times_out() -> None:
    """A filter that does not read is no reason to wait for ever."""
    ours, theirs = socket.socketpair()
    ours.setsockopt(socket.SOL_SOCKET, socket.SO_SNDBUF, 4096)
    agreed = mta.Protocol()
    agreed.negotiate()
    agreed.receive(ALL)
    agreed.next_event()

    async def play() -> None:
        session = AsyncSession(ours, timeouts=mta.Timeouts(reply=0.05), protocol=agreed)
        with pytest.raises(mta.FilterTimeout, match=r"did not take mail within 0\.05 s"):
            await session.mail("<a@b>", "X=" + "x" * 4_000_000)

    with theirs:
        run(play())


def test_cancelling_closes_the_connection() -> None:
    """After a cancelled wait the filter finds its connection closed, and no step may come."""
    script = Script((OFFER, ALL), (packet("H", b"h\0"), b""), hold=True)

    async def play() -> None:
        session = session_of(script)
        await session.negotiate()
        waiting = asyncio.ensure_future(session.helo("h"))
        while session.protocol.waiting_for is None:
            await asyncio.sleep(0)
        waiting.cancel()
        with pytest.raises(asyncio.CancelledError):
            await waiting
        with pytest.raises(mta.StateError, match="given up while waiting at helo"):
            await session.helo("h")

    run(play())
    script.done()


@pytest.mark.parametrize(
    ("spec", "error", "text"),
    [
        ("nothing:1", mta.SocketSpecError, "unknown type"),
        ("unix:/nonexistent/socket", mta.ConnectError, "No such file"),
        ("inet:1@127.0.0.1", mta.ConnectError, "refused"),
    ],
)
def test_nobody_there(spec: str, error: type[Exception], text: str) -> None:
    """That nobody can be reached is a ConnectError with the reason."""
    with pytest.raises(error, match=text):
        run(connect_async(spec))


def test_a_full_queue_times_out(tmp_path: Path) -> None:
    """A unix socket on which nobody takes clients from the queue is given up in time."""
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind(str(tmp_path / "s"))
        listener.listen(0)
        waiting = []
        try:
            while True:
                sock = socket.socket(socket.AF_UNIX)
                waiting.append(sock)
                sock.setblocking(False)
                sock.connect(str(tmp_path / "s"))
        except BlockingIOError:
            pass
        try:
            with pytest.raises(mta.ConnectError, match=r"no connection within 0\.05 s"):
                run(connect_async(tmp_path / "s", timeouts=mta.Timeouts(connect=0.05)))
        finally:
            for sock in waiting:
                sock.close()


async def send(spec: str) -> mta.Result:
    """One message over a connection of its own."""
    async with await connect_async(spec) as session:
        return await session.send(MESSAGE)


CHANGES = packet("h", b"X-Seen\0yes\0") + packet("-", b"<b@example.com>\0") + packet("a")


def test_a_whole_message(tmp_path: Path) -> None:
    """send() over a real connection: the steps, the changes, the outcome."""
    with Simple(tmp_path / "s", {"E": CHANGES}) as simple:
        result = run(send(simple.spec))
    assert "".join(simple.letters).replace("D", "") == "OCHMRRTLLNBEQ"
    assert mta.Outcome.ACCEPTED is result.outcome
    assert (
        mta.AddHeader("X-Seen", "yes"),
        mta.DeleteRecipient("<b@example.com>"),
    ) == result.modifications
    assert [mta.Recipient("c@example.com")] == result.message.recipients


def test_a_verdict_on_the_session_ends_it(tmp_path: Path) -> None:
    """After a refused client the session is over, and the filter was told to quit."""
    with Simple(tmp_path / "s", {"C": packet("r")}) as simple:
        result = run(send(simple.spec))
    assert result.session_over
    assert "".join(simple.letters).replace("D", "") == "OCQ"


async def serve(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """A filter that can serve many at the same time: it accepts every message."""
    try:
        while True:
            size = int.from_bytes(await reader.readexactly(4), "big")
            letter = (await reader.readexactly(size))[:1]
            if letter == b"Q":
                break
            if letter not in b"DA":
                writer.write(ALL if letter == b"O" else C)
                await writer.drain()
    finally:
        writer.close()
        await writer.wait_closed()


def test_many_sessions_in_one_loop() -> None:
    """Sessions side by side over TCP, each with its own answers."""

    async def play() -> list[mta.Result]:
        filter_ = await asyncio.start_server(serve, "127.0.0.1", 0)
        async with filter_:
            port = filter_.sockets[0].getsockname()[1]
            return await asyncio.gather(*(send(f"inet:{port}@127.0.0.1") for _ in range(20)))

    results = run(play())
    assert [mta.Outcome.ACCEPTED] * 20 == [result.outcome for result in results]


# -- several filters -----------------------------------------------------------------------------

FILTERS: dict[str, tuple[Optional[dict[str, Any]], Optional[dict[str, Any]]]] = {
    "both go on": ({}, {}),
    "changes": ({"E": CHANGES}, {"E": packet("h", b"X-Two\0x\0") + C}),
    "second refuses a recipient": ({}, {"R": [packet("y", b"550 5.1.1 no\0"), C]}),
    "first refuses the sender": ({"M": packet("r")}, {}),
    "first accepts": ({"M": packet("a")}, {"E": packet("t")}),
    "discards": ({"L": packet("d")}, {}),
    "refuses the client": ({}, {"C": packet("r")}),
    "closes at HELO": ({}, {"H": packet("y", b"421 4.7.0 go\0")}),
    "first fails": ({"M": packet("h", b"X\0y\0")}, {}),
    "second closes": ({}, {"B": None}),
    "first is not there": (None, {"E": CHANGES}),
    "wants few steps": ({"O": options(protocol=0x7F)}, {}),
}


@pytest.mark.parametrize("case", FILTERS)
@pytest.mark.parametrize("profile", ["postfix", "sendmail"])
@pytest.mark.parametrize("action", ["accept", "tempfail"])
def test_as_the_blocking_server(tmp_path: Path, case: str, profile: str, action: str) -> None:
    """Two filters in a row get the same bytes, and the message the same outcome, as there."""
    told: list[list[bytes]] = []
    results: list[mta.Result] = []
    for way in ("blocking", "asyncio"):
        simples = [
            None if replies is None else Simple(tmp_path / f"{way}{number}", _fresh(replies))
            for number, replies in enumerate(FILTERS[case])
        ]
        specs = ["unix:/nonexistent/s" if simple is None else simple.spec for simple in simples]
        try:
            if way == "blocking":
                with mta.MailServer(*specs, profile=profile, default_action=action) as server:
                    results.append(server.send(MESSAGE))
            else:
                asynchronous = AsyncMailServer(*specs, profile=profile, default_action=action)
                results.append(run(asynchronous.send(MESSAGE)))
        finally:
            for simple in simples:
                if simple is not None:
                    simple.__exit__()
        told.append([each for simple in simples if simple is not None for each in simple.packets])
    assert told[0] == told[1]
    # The first filter's failing ends it before the second one is asked.
    alone = case == "first is not there" and action == "tempfail"
    assert alone == (told[0] == [])
    blocking, asynchron = results
    assert [str(error) for error in blocking.errors] == [str(each) for each in asynchron.errors]
    for name in ("outcome", "reply", "message", "modifications", "refused", "steps"):
        assert getattr(blocking, name) == getattr(asynchron, name), name


def _fresh(replies: dict[str, Any]) -> dict[str, Any]:
    return {
        letter: list(reply) if isinstance(reply, list) else reply
        for letter, reply in replies.items()
    }


def test_step_by_step(tmp_path: Path) -> None:
    """An SMTP session with each command by itself, two messages, RSET and an unknown command."""
    replies = {"R": [packet("y", b"550 5.1.1 no\0"), C], "U": packet("y", b"500 5.5.1 what\0")}
    with Simple(tmp_path / "s", replies) as simple:

        async def play() -> mta.Result:
            async with AsyncMailServer(simple.spec).session(helo="") as smtp:
                assert smtp.greeting is None
                assert await smtp.helo("c.example.org") is None
                assert await smtp.mail("<a@example.org>") is None
                assert mta.SmtpReply(550, "5.1.1", ("no",)) == await smtp.rcpt("<x@example.com>")
                assert await smtp.rcpt("<b@example.com>") is None
                await smtp.reset()
                assert mta.SmtpReply(500, "5.5.1", ("what",)) == await smtp.unknown("FOO")
                assert await smtp.mail("<a@example.org>") is None
                assert await smtp.rcpt("<b@example.com>") is None
                assert await smtp.data() is None
                result = await smtp.content(MESSAGE)
                assert not smtp.over
            assert smtp.over
            assert {} == smtp.sessions
            return result

        assert mta.Outcome.ACCEPTED is run(play()).outcome
    assert "".join(simple.letters).replace("D", "") == "OCHMRRAUMRTLLNBEAAQ"


@pytest.mark.parametrize("profile", ["postfix", "sendmail"])
def test_leaving_without_waiting(tmp_path: Path, profile: str) -> None:
    """leave() tells a filter in the middle of a message what quit() would tell it."""
    with (
        Simple(tmp_path / "quit") as simple,
        mta.MailServer(simple.spec, profile=profile).session() as blocking,
    ):
        blocking.mail("<a@example.org>")
        blocking.rcpt("<b@example.com>")
    with Simple(tmp_path / "leave") as left:

        async def play() -> None:
            smtp = AsyncMailServer(left.spec, profile=profile).session()
            await smtp.begin()
            await smtp.mail("<a@example.org>")
            await smtp.rcpt("<b@example.com>")
            smtp.leave()
            smtp.leave()
            assert smtp.over
            assert {} == smtp.sessions

        run(play())
    assert simple.packets == left.packets
    assert packet("Q")[4:] == left.packets[-1]


def test_an_exception_closes_without_a_word(tmp_path: Path) -> None:
    """After an exception in the block the filter is not told to quit."""
    with Simple(tmp_path / "s") as simple:

        async def play() -> None:
            async with AsyncMailServer(simple.spec).session():
                raise KeyError("ours")

        with pytest.raises(KeyError):
            run(play())
    assert "".join(simple.letters).replace("D", "") == "OCH"
