"""What an exception in a callback does (API spec 1.9)."""

from __future__ import annotations

import logging
import os
import sys
from typing import Any

import pytest
from compat_live import MESSAGE, POLICY_REJECT, POLICY_TEMPFAIL, REPLYING, Live

import milter
from harness import packet
from harness.packets import ACCEPT, CONTINUE, REJECT, A, B, C, E, H, M, N, R, T


def _raises(error: BaseException) -> Any:
    def callback(*args: Any) -> int:
        raise error

    return callback


@pytest.mark.parametrize("event", REPLYING)
def test_default(live: Live, event: str) -> None:
    """The default is TEMPFAIL with a text that names the filter, at every step."""
    live.on(**{event: _raises(KeyError("x"))})
    live.play(event).ask(REPLYING[event], POLICY_TEMPFAIL)


@pytest.mark.parametrize(
    ("policy", "reply"),
    [
        ("TEMPFAIL", POLICY_TEMPFAIL),
        ("REJECT", POLICY_REJECT),
        ("ACCEPT", ACCEPT),
        ("CONTINUE", CONTINUE),
    ],
)
@pytest.mark.parametrize("event", ["connect", "envrcpt", "eom", "unknown"])
def test_policies(live: Live, event: str, policy: str, reply: bytes) -> None:
    """TEMPFAIL and REJECT send their text, ACCEPT and CONTINUE the plain reply."""
    milter.set_exception_policy(getattr(milter, policy))
    live.on(**{event: _raises(KeyError("x"))})
    live.play(event).ask(REPLYING[event], reply)


class _Odd(Exception):
    def __str__(self) -> str:
        raise ValueError("no text")


@pytest.mark.parametrize(
    "error", [ValueError("x"), KeyboardInterrupt(), RecursionError(), GeneratorExit(), _Odd()]
)
def test_any_exception(live: Live, error: BaseException) -> None:
    """Every exception counts, those that are not `Exception` too."""
    live.on(eom=_raises(error))
    mta = live.play("eom")
    mta.ask(E, POLICY_TEMPFAIL)
    mta.ask(M)


@pytest.mark.ours
@pytest.mark.parametrize("error", [SystemExit(3), SystemExit()])
def test_system_exit(live: Live, error: SystemExit) -> None:
    """SystemExit is an exception like any other (pymilter ends the process)."""
    live.on(eom=_raises(error), helo=lambda *args: sys.exit("bye"))
    mta = live.mta()
    mta.ask(C)
    mta.ask(H, POLICY_TEMPFAIL)
    mta.play(M, R, T, N)
    mta.ask(E, POLICY_TEMPFAIL)
    mta.ask(M)


@pytest.mark.parametrize(
    ("name", "shown"),
    [
        ("pythonfilter", "pythonfilter"),
        ("", ""),
        ("x" * 40, "x" * 40),
        ("x" * 41, "x" * 40),
        ("with blanks % 50%", "with blanks % 50%"),
    ],
)
def test_name(live: Live, name: str, shown: str) -> None:
    """The name is that of the last `register`, cut to 40 characters."""
    live.on(helo=_raises(KeyError("x")))
    mta = live.mta()
    mta.ask(C)
    milter.register(name)
    text = f"451 4.3.0 pymilter: untrapped exception in {shown}\0"
    mta.ask(H, packet("y", text.encode()))


def test_traceback_is_printed(live: Live, capsys: pytest.CaptureFixture[str]) -> None:
    """The traceback goes to stderr in the interpreter's ordinary format."""
    live.on(helo=_raises(KeyError("a special key")))
    live.play("helo").ask(H, POLICY_TEMPFAIL)
    printed = capsys.readouterr().err
    assert printed.startswith("Traceback (most recent call last):\n")
    assert ", in callback\n    raise error\n" in printed
    assert printed.endswith("KeyError: 'a special key'\n")


@pytest.mark.parametrize("stderr", ["closed", "none"])
def test_without_stderr(live: Live, monkeypatch: pytest.MonkeyPatch, stderr: str) -> None:
    """A daemon that has closed its stderr, or has none, gets the policy's answer all the same."""
    closed = open(os.devnull, "w")  # noqa: SIM115 - closed next
    closed.close()
    live.on(helo=_raises(KeyError("x")))
    mta = live.play("helo")
    logger = logging.getLogger("Milter")
    monkeypatch.setattr(sys, "stderr", closed if stderr == "closed" else None)
    # Without handlers of its own a program's log goes to stderr, too.
    monkeypatch.setattr(logger, "propagate", False)
    mta.ask(H, POLICY_TEMPFAIL)
    monkeypatch.undo()


@pytest.mark.parametrize(
    ("policy", "reply"), [(milter.TEMPFAIL, POLICY_TEMPFAIL), (milter.REJECT, POLICY_REJECT)]
)
def test_replaces_the_text_of_the_callback(live: Live, policy: int, reply: bytes) -> None:
    """The policy's text replaces one that the callback had set."""

    def eom(ctx: Any) -> int:
        ctx.setreply("550", "5.7.1", "mine")
        ctx.setreply("450", "4.7.1", "mine")
        raise KeyError("x")

    milter.set_exception_policy(policy)
    live.on(eom=eom)
    live.play("eom").ask(E, reply)


@pytest.mark.parametrize("policy", [milter.TEMPFAIL, milter.REJECT, milter.ACCEPT])
def test_abort_and_close(live: Live, policy: int) -> None:
    """In abort and close nothing is sent, and the session goes on or ends as ever."""
    milter.set_exception_policy(policy)
    live.on(abort=_raises(KeyError("x")), close=_raises(KeyError("y")))
    mta = live.play("envrcpt")
    mta.send(A)
    mta.ask(H)
    mta.half_close()
    assert b"" == mta.read_all()
    assert ["abort", "close"] == live.names


def test_state_after_the_policy(live: Live) -> None:
    """The policy's answer counts as the callback's verdict: on MAIL it ends the message, on RCPT
    it concerns one recipient."""
    live.on(envrcpt=_raises(KeyError("x")), envfrom=None, eom=None, abort=None)
    mta = live.mta()
    mta.play(C, H, M)
    mta.ask(R, POLICY_TEMPFAIL)
    milter.set_envrcpt_callback(None)
    mta.play(R, T, N, E)
    live.on(envfrom=_raises(KeyError("x")))
    mta.ask(M, POLICY_TEMPFAIL)
    mta.send(R)
    mta.expect_nothing(0.1)
    mta.send(A)
    mta.ask(H)
    assert ["envfrom", "envrcpt", "eom", "envfrom"] == live.names


def test_other_connections_do_not_notice(live: Live) -> None:
    """An exception in one connection leaves the others alone, and the next one too."""
    live.on(helo=_raises(KeyError("x")))
    one, two = live.mta(), live.mta()
    two.ask(C)
    one.ask(C)
    one.ask(H, POLICY_TEMPFAIL)
    two.ask(M)
    live.mta().ask(C)


def _nr(bit: int) -> Any:
    def negotiate(ctx: Any, opts: list[int]) -> int:
        opts[1] = bit
        return milter.CONTINUE

    return negotiate


def test_nothing_is_sent_where_no_reply_was_agreed(live: Live) -> None:
    """With the NR bit really negotiated an exception sends nothing at that step."""
    live.on(header=_raises(KeyError("x")), negotiate=_nr(0x80))
    mta = live.play("header")
    mta.send(packet("L", b"A\0b\0"))
    mta.expect_nothing()


@pytest.mark.ours
@pytest.mark.parametrize(
    ("event", "bit", "before", "command", "then"),
    [
        ("envfrom", 0x4000, (C, H), M, R),
        ("data", 0x10000, (C, H, M, R), T, N),
        ("header", 0x80, (C, H, M, R, T), packet("L", b"A\0b\0"), N),
        ("eoh", 0x40000, (C, H, M, R, T), N, B),
        ("body", 0x80000, (C, H, M, R, T, N), B, E),
    ],
)
def test_it_is_remembered_there(
    live: Live, event: str, bit: int, before: Any, command: bytes, then: bytes
) -> None:
    """It is applied at the next step of the message that has a reply, whose callback is not called
    any more (under pymilter the mail passes)."""
    live.on_all(**{event: _raises(KeyError("x"))}, negotiate=_nr(bit))
    mta = live.mta()
    mta.play(*before)
    mta.send(command)
    mta.ask(then, POLICY_TEMPFAIL)
    called = list(live.names)
    assert event == called[-1]
    mta.ask(M) if event != "envfrom" else mta.send(A)
    mta.ask(H)


@pytest.mark.ours
def test_reject_where_no_reply_was_agreed(live: Live) -> None:
    """A REJECT with its text, too, is delivered at the next step that has a reply."""

    def header(ctx: Any, name: str, value: bytes) -> int:
        ctx.setreply("550", "5.7.1", "spam")
        return milter.REJECT

    live.on_all(header=header, negotiate=_nr(0x80))
    mta = live.mta()
    mta.play(C, H, M, R, T)
    mta.send(packet("L", b"A\0b\0"))
    mta.ask(N, packet("y", b"550 5.7.1 spam\0"))
    assert "eoh" not in live.names
    mta.play(M, R, T)


def test_steps(live: Live) -> None:
    """A raised exception in one message does not spoil the next on the same connection."""
    live.on(eom=_raises(KeyError("x")))
    mta = live.play("eom")
    mta.ask(E, POLICY_TEMPFAIL)
    live.on(eom=milter.REJECT)
    commands = list(MESSAGE.values())
    mta.play(*commands[2:-1])
    mta.ask(E, REJECT)
