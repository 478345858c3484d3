"""Wire spec 8.6, rows 124 to 155: verdicts, replies and reply texts.

The rows' `smfi_setreply` and `smfi_setmlreply` are both `ctx.setreply` here, with at most one line
of text or with several (API spec 1.11). -1 is `milter.error`.
"""

from __future__ import annotations

from typing import Any

import pytest

import milter
from harness import F, Peer, packet, running
from harness.packets import (
    ACCEPT,
    BY_LETTER,
    CONTINUE,
    DISCARD,
    REJECT,
    SKIP,
    TEMPFAIL,
    A,
    B,
    C,
    E,
    H,
    L,
    M,
    N,
    Q,
    R,
    T,
    commands,
)

VERDICTS = {1: REJECT, 2: DISCARD, 3: ACCEPT, 4: TEMPFAIL}
#: Letter -> (row name of its callback, what is played before it, its NR bit or 0).
STEPS = {
    "C": ("connect", "", 0x1000),
    "H": ("helo", "C", 0x2000),
    "M": ("mail", "C H", 0x4000),
    "R": ("rcpt", "C H M", 0x8000),
    "T": ("data", "C H M R", 0x10000),
    "L": ("header", "C H M R T", 0x80),
    "N": ("eoh", "C H M R T L", 0x40000),
    "B": ("body", "C H M R T L N", 0x80000),
    "E": ("eom", "C H M R T L N B", 0),
    "U": ("unknown", "C H", 0x20000),
}
NAMES = {letter: name for letter, (name, _, _) in STEPS.items()}
#: Those that may go without a reply.
NO_REPLY = [letter for letter, (_, _, bit) in STEPS.items() if bit]
#: The exception policy's answer for a filter registered as "F".
POLICY = packet("y", b"451 4.3.0 pymilter: untrapped exception in F\0")


def reply(text: bytes) -> bytes:
    """A `y` packet with this text."""
    return packet("y", text + b"\0")


def names(letters: str) -> list[str]:
    """The callbacks for a row's notation."""
    return [NAMES[letter] for letter in letters.split()]


def taking(protocol: int) -> Any:
    """A negotiate callback that takes all actions and these protocol bits."""

    def negotiate(ctx: Any, opts: list[int]) -> int:
        opts[1] = protocol
        return milter.CONTINUE

    return negotiate


def silent_until(mta: Peer, command: bytes, *expected: bytes) -> None:
    """Nothing has been sent so far: the command's reply is the first thing to come."""
    mta.ask(command, *expected)


def ends_silently(mta: Peer) -> None:
    """Nothing more was sent: Q closes the connection, and no byte is left to read."""
    mta.send(Q)
    mta.expect_close()


# -- verdicts ------------------------------------------------------------------------------------


@pytest.mark.row(124)
@pytest.mark.parametrize("letter", STEPS)
@pytest.mark.parametrize("verdict", VERDICTS)
def test_verdicts_at_every_step(feed: str, letter: str, verdict: int) -> None:
    """REJECT, DISCARD, ACCEPT and TEMPFAIL are sent as `r`, `d`, `a` and `t` at every step."""
    name, before, _ = STEPS[letter]
    with running(F(returns={name: verdict}), feed) as run:
        mta = run.mta()
        mta.play(*commands(before))
        mta.ask(BY_LETTER[letter], VERDICTS[verdict])
        ends_silently(mta)


@pytest.mark.row(124)
def test_skip_from_body(feed: str) -> None:
    """SKIP from body is sent as `s`, if it was agreed on."""
    with running(F(returns={"body": 8}, negotiate=10), feed) as run:
        mta = run.mta()
        mta.play(*commands("C H M R T L N"))
        mta.ask(B, SKIP)
        mta.ask(E)
        ends_silently(mta)
        assert [] == run.messages()


@pytest.mark.row(124)
@pytest.mark.ours
@pytest.mark.parametrize("letter", [letter for letter in STEPS if letter != "B"])
def test_skip_elsewhere(feed: str, letter: str) -> None:
    """SKIP at another step than body is sent as `c`, with a log line (libmilter sends `s`)."""
    name, before, _ = STEPS[letter]
    with running(F(returns={name: 8}, negotiate=10), feed) as run:
        mta = run.mta()
        mta.play(*commands(before))
        mta.ask(BY_LETTER[letter], CONTINUE)
        ends_silently(mta)
        assert 1 == len(run.messages())


@pytest.mark.row(124)
@pytest.mark.ours
def test_skip_not_agreed_on(feed: str) -> None:
    """SKIP from body without the SKIP bit is sent as `c`, with a log line (libmilter sends `s`)."""
    with running(F(returns={"body": 8}), feed) as run:
        mta = run.mta()
        mta.play(*commands("C H M R T L N"))
        mta.ask(B, CONTINUE)
        mta.ask(E)
        assert 1 == len(run.messages())


@pytest.mark.row(125)
@pytest.mark.parametrize("verdict", VERDICTS)
def test_after_a_verdict_on_mail(feed: str, verdict: int) -> None:
    """After a verdict on MAIL a recipient is dropped; the connection stays; there is no abort."""
    with running(F(returns={"mail": [verdict]}), feed) as run:
        mta = run.mta()
        mta.play(C, H)
        mta.ask(M, VERDICTS[verdict])
        mta.send(R, A)
        silent_until(mta, H, CONTINUE)
        ends_silently(mta)
        assert ["connect", "helo", "mail", "helo", "close"] == run.finish()


@pytest.mark.row(126)
@pytest.mark.parametrize("verdict", [1, 2, 4])
def test_after_a_verdict_on_rcpt(feed: str, verdict: int) -> None:
    """After REJECT, DISCARD or TEMPFAIL on RCPT the message is open: RCPT, DATA, abort follow."""
    with running(F(returns={"rcpt": [verdict]}), feed) as run:
        mta = run.mta()
        mta.play(C, H, M)
        mta.ask(R, VERDICTS[verdict])
        mta.play(R, T)
        mta.send(A)
        ends_silently(mta)
        assert [
            *["connect", "helo", "mail", "rcpt", "rcpt", "data", "abort", "close"]
        ] == run.finish()


@pytest.mark.row(127)
def test_accept_on_rcpt(feed: str) -> None:
    """ACCEPT on RCPT ends the message: the next RCPT is dropped, the next MAIL served."""
    with running(F(returns={"rcpt": [3]}), feed) as run:
        mta = run.mta()
        mta.play(C, H, M)
        mta.ask(R, ACCEPT)
        mta.send(R)
        silent_until(mta, M, CONTINUE)
        ends_silently(mta)
        assert ["connect", "helo", "mail", "rcpt", "mail", "abort", "close"] == run.finish()


@pytest.mark.row(128)
@pytest.mark.parametrize("verdict", VERDICTS)
@pytest.mark.parametrize(
    ("letter", "after"),
    [("T", "L N B E"), ("T", "B"), ("L", "L N B E"), ("N", "B E"), ("B", "B E"), ("B", "E")],
)
def test_after_a_verdict_on_content(feed: str, letter: str, after: str, verdict: int) -> None:
    """After a verdict on DATA, header, EOH or chunk the rest is dropped, the next MAIL served."""
    name, before, _ = STEPS[letter]
    with running(F(returns={name: [verdict]}), feed) as run:
        mta = run.mta()
        mta.play(*commands(before))
        mta.ask(BY_LETTER[letter], VERDICTS[verdict])
        mta.send(*commands(after))
        silent_until(mta, M, CONTINUE)
        ends_silently(mta)
        assert [*names(before), name, "mail", "abort", "close"] == run.finish()


@pytest.mark.row(129)
@pytest.mark.parametrize("verdict", VERDICTS)
def test_after_a_verdict_on_helo(feed: str, verdict: int) -> None:
    """After a verdict on HELO everything is served as before: the MTA decides."""
    with running(F(returns={"helo": [verdict]}), feed) as run:
        mta = run.mta()
        mta.ask(C)
        mta.ask(H, VERDICTS[verdict])
        mta.play(H, M, R)
        assert ["connect", "helo", "helo", "mail", "rcpt", "abort", "close"] == run.finish()


@pytest.mark.row(130)
@pytest.mark.ours
@pytest.mark.parametrize("letter", STEPS)
@pytest.mark.parametrize("result", [5, 6, 9, 10, 99, -1, 20, 21, 22])
def test_unknown_result(letter: str, result: int) -> None:
    """A result that is no verdict is answered once, by the exception policy, with a log line."""
    name, before, _ = STEPS[letter]
    with running(F(returns={name: [result]})) as run:
        mta = run.mta()
        mta.play(*commands(before))
        mta.ask(BY_LETTER[letter], POLICY)
        mta.ask(H)
        ends_silently(mta)
        (line,) = run.messages()
        assert str(result) in line or str(result & 0xFFFFFFFF) in line


@pytest.mark.row(130)
@pytest.mark.parametrize("policy", [(milter.REJECT, "r"), (milter.ACCEPT, "a"), (0, "c")])
def test_unknown_result_under_other_policies(policy: tuple[int, str]) -> None:
    """The policy that was set decides about a result that is no verdict."""
    number, letter = policy
    with running(F(returns={"mail": 99}, policy=number)) as run:
        mta = run.mta()
        expected = packet(letter)
        if letter == "r":
            expected = reply(b"554 5.3.0 pymilter: untrapped exception in F")
        mta.ask(M, expected)


# -- no reply ------------------------------------------------------------------------------------


@pytest.mark.row(131)
@pytest.mark.parametrize("letter", STEPS)
def test_noreply_without_the_bit(feed: str, letter: str) -> None:
    """NOREPLY where its bit was not agreed on is sent as `c`, with a log line."""
    name, before, _ = STEPS[letter]
    with running(F(returns={name: 7}), feed) as run:
        mta = run.mta()
        mta.play(*commands(before))
        mta.ask(BY_LETTER[letter], CONTINUE)
        ends_silently(mta)
        assert 1 == len(run.messages())


@pytest.mark.row(132)
@pytest.mark.parametrize("letter", NO_REPLY)
def test_noreply(feed: str, letter: str) -> None:
    """NOREPLY with its bit agreed on sends nothing, and the next command works."""
    name, before, bit = STEPS[letter]
    with running(F(returns={name: 7}, negotiate=taking(bit)), feed) as run:
        mta = run.mta()
        mta.play(*commands(before))
        mta.send(BY_LETTER[letter])
        silent_until(mta, M if letter == "H" else H, CONTINUE)
        ends_silently(mta)
        then = {"H": ["mail", "abort"], "C": ["helo"], "U": ["helo"]}
        after = then.get(letter, ["abort", "helo"])
        assert ["negotiate", *names(before), name, *after, "close"] == run.finish()
        assert [] == run.messages()


@pytest.mark.row(133)
@pytest.mark.parametrize("letter", NO_REPLY)
def test_noreply_with_a_bit_that_was_not_offered(feed: str, letter: str) -> None:
    """NOREPLY with its bit taken but not offered is sent as `c`."""
    name, before, bit = STEPS[letter]
    with running(F(returns={name: 7}, negotiate=taking(bit)), feed) as run:
        mta = run.connect()
        mta.send(packet("O", bytes.fromhex("00000006 000001FF 0000077F")))
        mta.expect(packet("O", bytes.fromhex("00000006 000001FF 00000000")))
        mta.play(*commands(before))
        mta.ask(BY_LETTER[letter], CONTINUE)
        ends_silently(mta)
        assert [] == run.messages()


@pytest.mark.row(134)
@pytest.mark.parametrize("letter", NO_REPLY)
@pytest.mark.parametrize("result", [0, 1, 3, 8])
def test_a_verdict_where_none_was_agreed(letter: str, result: int) -> None:
    """A verdict at a step that was to have no reply is not sent there; one log line says so."""
    name, before, bit = STEPS[letter]
    with running(F(returns={name: [result]}, negotiate=taking(bit | 0x400))) as run:
        mta = run.mta()
        mta.play(*commands(before))
        mta.send(BY_LETTER[letter])
        ends_silently(mta)
        run.finish()
        assert 1 == len(run.messages())


@pytest.mark.row(134)
@pytest.mark.parametrize("letter", NO_REPLY)
@pytest.mark.parametrize("result", [0, 1, 3])
def test_a_verdict_where_none_was_agreed_nor_offered(letter: str, result: int) -> None:
    """The same with `c`, where the bit was not offered and the MTA waits."""
    name, before, bit = STEPS[letter]
    with running(F(returns={name: [result]}, negotiate=taking(bit))) as run:
        mta = run.connect()
        mta.send(packet("O", bytes.fromhex("00000006 000001FF 0000077F")))
        mta.expect(packet("O", bytes.fromhex("00000006 000001FF 00000000")))
        mta.play(*commands(before))
        mta.ask(BY_LETTER[letter], CONTINUE)
        ends_silently(mta)
        run.finish()
        assert 1 == len(run.messages())


#: What follows a step in its message and has a reply.
NEXT = {"M": "R", "R": "T", "T": "L", "L": "N", "N": "B", "B": "E"}


@pytest.mark.row(135)
@pytest.mark.parametrize("letter", NEXT)
@pytest.mark.parametrize("verdict", [1, 2, 4])
def test_the_verdict_comes_with_the_next_reply(feed: str, letter: str, verdict: int) -> None:
    """A REJECT, TEMPFAIL or DISCARD that could not be sent goes out as the next command's reply,
    whose callback is not called; the message is over. A filter that meant one recipient is told
    by abort that this ends its message."""
    name, before, bit = STEPS[letter]
    with running(F(returns={name: [verdict]}, negotiate=taking(bit)), feed) as run:
        mta = run.mta()
        mta.play(*commands(before))
        mta.send(BY_LETTER[letter])
        silent_until(mta, BY_LETTER[NEXT[letter]], VERDICTS[verdict])
        called = ["negotiate", *names(before), name, *(["abort"] if letter == "R" else [])]
        run.wait(called)
        mta.send(A)
        mta.ask(H)
        mta.send(*commands("M" if letter == "M" else ""))
        mta.play(*commands("" if letter == "M" else "M"))
        ends_silently(mta)
        assert [*called, "helo", "mail", "abort", "close"] == run.finish()


@pytest.mark.row(135)
@pytest.mark.parametrize("letter", ["T", "L", "N", "B"])
def test_its_text_comes_too(feed: str, letter: str) -> None:
    """The text set with such a REJECT goes out with it."""
    name, before, bit = STEPS[letter]

    def rejects(ctx: Any, *args: Any) -> int:
        ctx.setreply("550", "5.7.1", "late")
        return milter.REJECT

    with running(F(returns={name: rejects}, negotiate=taking(bit)), feed) as run:
        mta = run.mta()
        mta.play(*commands(before))
        mta.send(BY_LETTER[letter])
        silent_until(mta, BY_LETTER[NEXT[letter]], reply(b"550 5.7.1 late"))


@pytest.mark.row(135)
def test_several_steps_without_a_reply(feed: str) -> None:
    """It waits until a step has a reply, through any number that have none; the first counts."""
    spec = F(
        returns={"mail": 0, "rcpt": 0, "data": [1], "header": [4, 4], "eoh": 0, "body": 0},
        negotiate=taking(0xFF080),
    )
    with running(spec, feed) as run:
        mta = run.mta()
        mta.send(M, R, T, L, L, N, B)
        silent_until(mta, E, REJECT)
        assert "eom" not in run.names()
        ends_silently(mta)
        assert "abort" not in run.finish()


@pytest.mark.row(135)
@pytest.mark.parametrize("letter", NEXT)
def test_accept_where_none_was_agreed(feed: str, letter: str) -> None:
    """ACCEPT there ends the filter's interest: the message's later commands are answered `c` or `a`
    without a callback, and the next message is served."""
    name, before, bit = STEPS[letter]
    with running(F(returns={name: [3]}, negotiate=taking(bit)), feed) as run:
        mta = run.mta()
        mta.play(*commands(before))
        mta.send(BY_LETTER[letter])
        called = ["negotiate", *names(before), name]
        mta.send(BY_LETTER[NEXT[letter]])
        assert mta.read(5) in (CONTINUE, ACCEPT)
        assert called == run.names()
        mta.send(A)
        mta.ask(H)
        ends_silently(mta)
        assert [*called, "helo", "close"] == run.finish()


# -- end of message with data --------------------------------------------------------------------

E_DATA = packet("E", b"tail")
CONTENT = commands("C H M R T L N")


@pytest.mark.row(136)
def test_end_with_data(feed: str) -> None:
    """Data in the end-of-message packet is a last chunk, then comes eom, then one reply."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(*CONTENT)
        mta.ask(E_DATA)
        ends_silently(mta)
        run.finish()
        assert [("body", b"tail"), ("eom",), ("close",)] == run.calls[-3:]


@pytest.mark.row(137)
@pytest.mark.parametrize("verdict", VERDICTS)
def test_end_with_data_and_a_verdict_of_body(feed: str, verdict: int) -> None:
    """A verdict on that chunk is sent once, and eom is not called."""
    with running(F(returns={"body": [verdict]}), feed) as run:
        mta = run.mta()
        mta.play(*CONTENT)
        mta.ask(E_DATA, VERDICTS[verdict])
        silent_until(mta, M, CONTINUE)
        ends_silently(mta)
        assert ["eoh", "body", "mail", "abort", "close"] == run.finish()[-5:]


@pytest.mark.row(137)
def test_end_with_data_and_a_text_of_body(feed: str) -> None:
    """The same with a reply text."""

    def rejects(ctx: Any, chunk: bytes) -> int:
        ctx.setreply("550", "5.7.1", "no")
        return milter.REJECT

    with running(F(returns={"body": rejects}), feed) as run:
        mta = run.mta()
        mta.play(*CONTENT)
        mta.ask(E_DATA, reply(b"550 5.7.1 no"))
        ends_silently(mta)
        assert "eom" not in run.finish()


@pytest.mark.row(138)
@pytest.mark.parametrize(("body", "protocol"), [(8, 0x400), (7, 0x80000)])
@pytest.mark.parametrize("verdict", [0, 1, 3])
def test_end_with_data_and_skip_or_noreply(
    feed: str, body: int, protocol: int, verdict: int
) -> None:
    """After SKIP or NOREPLY on that chunk eom is called, and its verdict is the one reply."""
    spec = F(returns={"body": body, "eom": verdict}, negotiate=taking(protocol))
    with running(spec, feed) as run:
        mta = run.mta()
        mta.play(*CONTENT)
        mta.ask(E_DATA, {0: CONTINUE, **VERDICTS}[verdict])
        ends_silently(mta)
        assert ["body", "eom", "close"] == run.finish()[-3:]


@pytest.mark.row(139)
def test_end_with_data_without_body(feed: str) -> None:
    """Without a body callback the data is ignored and eom is called."""
    with running(F(without=["body"]), feed) as run:
        mta = run.mta()
        mta.play(*CONTENT)
        mta.ask(E_DATA)
        ends_silently(mta)
        assert ["eoh", "eom", "close"] == run.finish()[-3:]


@pytest.mark.row(140)
def test_end_without_eom(feed: str) -> None:
    """Without an eom callback the end of message is answered `c`."""
    with running(F(without=["eom"]), feed) as run:
        mta = run.mta()
        mta.play(*CONTENT, B, E)
        ends_silently(mta)
        assert ["body", "close"] == run.finish()[-2:]


# -- reply texts ---------------------------------------------------------------------------------


def failure(ctx: Any, *args: Any) -> Any:
    """Call setreply: None if it succeeds, "-1" for milter.error, otherwise the exception's name."""
    try:
        return ctx.setreply(*args)
    except milter.error as error:
        text = str(error)
        return "-1" if text.split(":", maxsplit=1)[0] == "cannot set reply" else text
    except (TypeError, ValueError) as error:
        return type(error).__name__


def asked(
    feed: str, *calls: tuple[Any, ...], verdict: int = 1, result: Any = None, sent: bytes
) -> None:
    """In a recipient's callback the calls of setreply give these results, and this is sent.

    result: of the last call; all before it succeed.
    """
    results: list[Any] = []

    def rcpt(ctx: Any, *args: Any) -> int:
        results.extend(failure(ctx, *call) for call in calls)
        return verdict

    with running(F(returns={"rcpt": rcpt}), feed) as run:
        mta = run.mta()
        mta.play(C, H, M)
        mta.ask(R, sent)
        ends_silently(mta)
    assert [None] * (len(calls) - 1) + [result] == results


@pytest.mark.row(141)
def test_text(feed: str) -> None:
    """A 5xx text is sent with REJECT, ended by NUL."""
    asked(feed, ("550", "5.7.1", "no way"), sent=packet("y", b"550 5.7.1 no way\0"))


@pytest.mark.row(142)
@pytest.mark.parametrize(
    ("args", "text"),
    [
        (("550", "5.7.1", "hi"), b"550 5.7.1 hi"),
        (("550", None, "hi"), b"550 hi"),
        (("550", "5.7.1"), b"550 5.7.1"),
        (("550", None), b"550 "),
        (("550", "5.7.1", ""), b"550 5.7.1 "),
    ],
)
def test_forms(feed: str, args: tuple[Any, ...], text: bytes) -> None:
    """Code, extended code and message are joined by blanks, each form to the byte."""
    asked(feed, args, sent=reply(text))


@pytest.mark.row(143)
@pytest.mark.parametrize("code", ["250", "354", "55", "5500", "5a0", "", "05", "5 0", "-50", "5.0"])
def test_bad_code(feed: str, code: str) -> None:
    """A code that is not 4xx or 5xx fails, and the plain verdict is sent."""
    asked(feed, (code, "5.7.1", "x"), result="-1", sent=REJECT)


@pytest.mark.row(143)
def test_no_code(feed: str) -> None:
    """Without a code (None for C's NULL) it is a TypeError, as in pymilter."""
    asked(feed, (None, "5.7.1", "x"), result="TypeError", sent=REJECT)


@pytest.mark.row(144)
@pytest.mark.parametrize(
    "xcode",
    ["", "3.7.1", "5.7", "5.7.1.1", "5.1234.1", "5.7.1 ", "5..1", "5.7.", "05.7.1", "5.7.1234"],
)
def test_bad_extended_code(feed: str, xcode: str) -> None:
    """An extended code that is not d.n.n with d 2, 4 or 5 fails."""
    asked(feed, ("550", xcode, "x"), result="-1", sent=REJECT)


@pytest.mark.row(145)
@pytest.mark.parametrize("xcode", ["2.7.1", "4.7.1", "5.123.123", "5.0.0", "5.999.999"])
def test_extended_code_is_sent_as_given(feed: str, xcode: str) -> None:
    """The classes of the two codes need not agree."""
    asked(feed, ("550", xcode, "x"), sent=reply(b"550 " + xcode.encode() + b" x"))


@pytest.mark.row(146)
@pytest.mark.parametrize("message", ["a\rb", "a\nb", "a\r\nb", "\r", "x\n", "x" * 981])
def test_bad_message(feed: str, message: str) -> None:
    """A message with CR or LF, or of 981 bytes, fails."""
    asked(feed, ("550", "5.7.1", message), result="-1", sent=REJECT)


@pytest.mark.row(146)
def test_longest_message(feed: str) -> None:
    """980 bytes are a message; what counts is bytes, not characters."""
    asked(feed, ("550", "5.7.1", "x" * 980), sent=reply(b"550 5.7.1 " + b"x" * 980))
    asked(feed, ("550", "5.7.1", "é" * 490), sent=reply(b"550 5.7.1 " + b"\xc3\xa9" * 490))
    asked(feed, ("550", "5.7.1", "é" * 490 + "x"), result="-1", sent=REJECT)


@pytest.mark.row(147)
@pytest.mark.parametrize("message", [b"100%", b"100%%", b"\x01\xff\x09", b"%s%n", b"\x7f\x80"])
def test_message_is_not_changed(feed: str, message: bytes) -> None:
    """Percent signs, control and 8-bit bytes are sent as they are."""
    text = message.decode("utf-8", "surrogateescape")
    asked(feed, ("550", "5.7.1", text), sent=reply(b"550 5.7.1 " + message))


@pytest.mark.row(148)
@pytest.mark.parametrize(
    ("code", "verdict", "plain", "fitting", "text"),
    [
        ("450", 1, REJECT, 4, b"450 4.7.1 kept"),
        ("421", 1, REJECT, 4, b"421 4.7.1 kept"),
        ("550", 4, TEMPFAIL, 1, b"550 4.7.1 kept"),
    ],
)
def test_text_of_the_other_class(
    feed: str, code: str, verdict: int, plain: bytes, fitting: int, text: bytes
) -> None:
    """A text whose class does not fit the verdict is not sent but kept for one that fits."""

    def connect(ctx: Any, *args: Any) -> None:
        ctx.setreply(code, "4.7.1", "kept")

    spec = F(returns={"connect": connect, "rcpt": [verdict, fitting, fitting]})
    with running(spec, feed) as run:
        mta = run.mta()
        mta.play(C, H, M)
        mta.ask(R, plain)
        mta.ask(R, reply(text))
        mta.ask(R, VERDICTS[fitting])


@pytest.mark.row(149)
def test_421(feed: str) -> None:
    """421 with TEMPFAIL is sent; the MTA will end the SMTP session."""
    asked(feed, ("421", "4.7.0", "bye"), verdict=4, sent=reply(b"421 4.7.0 bye"))


@pytest.mark.row(150)
@pytest.mark.parametrize(("verdict", "sent"), [(0, CONTINUE), (3, ACCEPT), (2, DISCARD)])
def test_text_with_another_verdict(feed: str, verdict: int, sent: bytes) -> None:
    """CONTINUE, ACCEPT and DISCARD are sent plain, and the text is kept."""

    def mail(ctx: Any, *args: Any) -> int:
        ctx.setreply("550", "5.7.1", "kept")
        return verdict

    with running(F(returns={"mail": mail, "helo": [0, 1]}), feed) as run:
        mta = run.mta()
        mta.play(C, H)
        mta.ask(M, sent)
        mta.ask(H, reply(b"550 5.7.1 kept"))


@pytest.mark.row(151)
def test_text_is_used_once(feed: str) -> None:
    """A text set in connect goes with the first REJECT; the second is plain."""

    def connect(ctx: Any, *args: Any) -> None:
        ctx.setreply("550", "5.7.1", "early")

    with running(F(returns={"connect": connect, "rcpt": 1}), feed) as run:
        mta = run.mta()
        mta.play(C, H, M)
        mta.ask(R, reply(b"550 5.7.1 early"))
        mta.ask(R, REJECT)


@pytest.mark.row(152)
@pytest.mark.parametrize(
    "bad", [("250", "5.7.1", "x"), ("550", "", "x"), ("550", "5.7.1", "a\nb"), ("5", None)]
)
def test_failed_call_keeps_the_old_text(feed: str, bad: tuple[Any, ...]) -> None:
    """A call that fails leaves the text that was set before."""
    asked(feed, ("550", "5.7.1", "old"), bad, result="-1", sent=reply(b"550 5.7.1 old"))


@pytest.mark.row(153)
@pytest.mark.parametrize(
    ("args", "verdict", "text"),
    [
        (("550", "5.7.1", "a"), 1, b"550 5.7.1 a"),
        (("550", "5.7.1", "a", "b"), 1, b"550-5.7.1 a\r\n550 5.7.1 b"),
        (("550", "5.7.1", "a", "", "c"), 1, b"550-5.7.1 a\r\n550-5.7.1 \r\n550 5.7.1 c"),
        (("550", None, "a", "b"), 1, b"550-5.0.0 a\r\n550 5.0.0 b"),
        (("450", None, "a", "b"), 4, b"450-4.0.0 a\r\n450 4.0.0 b"),
        (("450", "4.1.1", "a", "b", "c"), 4, b"450-4.1.1 a\r\n450-4.1.1 b\r\n450 4.1.1 c"),
    ],
)
def test_several_lines(feed: str, args: tuple[Any, ...], verdict: int, text: bytes) -> None:
    """Each line has the codes in front, all but the last a hyphen; a missing extended code is 5.0.0
    or 4.0.0. One line is the same as in row 142: Python has one function for both."""
    asked(feed, args, verdict=verdict, sent=reply(text))


@pytest.mark.row(154)
def test_many_lines(feed: str) -> None:
    """32 lines of 980 bytes are taken: 31743 bytes of text."""
    line = b"550-5.7.1 " + b"x" * 980 + b"\r\n"
    text = line * 31 + b"550 5.7.1 " + b"x" * 980
    assert len(text) == 31742  # and the NUL
    asked(feed, ("550", "5.7.1", *["x" * 980] * 32), sent=reply(text))


@pytest.mark.row(154)
def test_too_many_lines(feed: str) -> None:
    """33 lines fail, as a TypeError, as in pymilter."""
    asked(feed, ("550", "5.7.1", *["x"] * 33), result="TypeError", sent=REJECT)


@pytest.mark.row(154)
@pytest.mark.parametrize(
    "lines", [("ok", "x" * 981), ("x" * 981, "ok"), ("ok", "a\rb"), ("a", "\n")]
)
def test_bad_line(feed: str, lines: tuple[str, ...]) -> None:
    """A line of 981 bytes, or with CR or LF, fails the whole call; the old text stays."""
    asked(
        feed,
        ("550", "5.7.1", "old"),
        ("550", "5.7.1", *lines),
        result="-1",
        sent=reply(b"550 5.7.1 old"),
    )


@pytest.mark.row(155)
def test_no_line(feed: str) -> None:
    """Without a line there is no unfinished multi-line reply: in Python it is the form of row 142
    without a message, whose code is not followed by a hyphen."""
    asked(feed, ("550", "5.7.1"), sent=reply(b"550 5.7.1"))
    asked(feed, ("450", "4.7.1", *[]), verdict=4, sent=reply(b"450 4.7.1"))
