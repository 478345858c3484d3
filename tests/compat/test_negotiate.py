"""The negotiate callback, over the wire (API spec 1.8)."""

from __future__ import annotations

from typing import Any

import pytest
from compat_live import Live

import milter
from harness import Peer, offer, packet
from harness.packets import CONTINUE, A, B, C, E, H, L, M, N, Q, R, T, U

ALL_NR = 0xFF080
#: Event -> (its NR bit, packets before it, its packet).
NO_REPLY = {
    "connect": (0x1000, (), C),
    "helo": (0x2000, (C,), H),
    "envfrom": (0x4000, (C, H), M),
    "envrcpt": (0x8000, (C, H, M), R),
    "data": (0x10000, (C, H, M, R), T),
    "unknown": (0x20000, (C, H), U),
    "header": (0x80, (C, H, M, R, T), L),
    "eoh": (0x40000, (C, H, M, R, T), N),
    "body": (0x80000, (C, H, M, R, T, N), B),
}


def _taking(protocol: int) -> Any:
    """A negotiate callback that takes these protocol bits and all actions."""

    def negotiate(ctx: Any, opts: list[int]) -> int:
        opts[1] = protocol
        return milter.CONTINUE

    return negotiate


def _refused(live: Live, *words: int) -> Peer:
    """The offer is answered by the end of the connection, without a byte."""
    mta = live.connect()
    mta.send(offer(*words))
    mta.expect_close()
    return mta


# -- what the callback sees ----------------------------------------------------------------------


@pytest.mark.parametrize(
    ("actions", "protocol", "seen"),
    [
        (0x1FF, 0x1FFFFF, (0x1FF, 0x1FFFFF, 0, 0)),
        (0x3F, 0x7F, (0x3F, 0xFF0FF, 0, 0)),
        (0, 0, (0x0F, 0xFF0BF, 0, 0)),
        (0, 0x7F, (0x0F, 0xFF0FF, 0, 0)),
        (0x1FF, 0, (0x1FF, 1044671, 0, 0)),
        (0x1FF, 0x301FFFFF, (0x1FF, 0x1FFFFF, 0, 0)),
        (0x3FF, 0x3FFFFF, (0x3FF, 0x3FFFFF, 0, 0)),
    ],
)
def test_offer(live: Live, actions: int, protocol: int, seen: tuple[int, ...]) -> None:
    """Actions and protocol bits offered, all NR bits added, nothing offered read as version 1,
    the large-body bits hidden."""
    live.on(negotiate=milter.ALL_OPTS)
    live.mta(actions, protocol)
    assert [("negotiate", seen)] == live.calls


def test_offer_is_a_mutable_list_of_ints(live: Live) -> None:
    """The options are a list of four ints."""
    seen: list[Any] = []

    def negotiate(ctx: Any, opts: Any) -> int:
        seen.extend([type(opts), *map(type, opts)])
        return milter.ALL_OPTS

    live.on(negotiate=negotiate)
    live.mta()
    assert [list, int, int, int, int] == seen


@pytest.mark.ours
def test_offer_with_the_highest_bit(live: Live) -> None:
    """A word with bit 31 set is not sign-extended."""
    live.on(negotiate=milter.ALL_OPTS)
    live.mta(0xFFFFFFFF, 0x801FFFFF)
    assert [("negotiate", (0xFFFFFFFF, 0x801FFFFF, 0, 0))] == live.calls


# -- what its result does ------------------------------------------------------------------------


def test_no_callback(live: Live) -> None:
    """Without one, all actions, and SKIP if it was offered."""
    assert (6, 0x1FF, 0x400) == live.mta().options
    assert (6, 0x7F, 0) == live.mta(0x7F, 0x3FF).options


def test_all_opts(live: Live) -> None:
    """ALL_OPTS is the same; edits of the list are ignored."""

    def negotiate(ctx: Any, opts: list[int]) -> int:
        opts[:] = [1, 0x20, 3, 4]
        return milter.ALL_OPTS

    live.on(negotiate=negotiate)
    assert (6, 0x1FF, 0x400) == live.mta().options
    assert (6, 0x7F, 0) == live.mta(0x7F, 0x3FF).options


@pytest.mark.parametrize(
    ("edit", "reply"),
    [
        ([1, 0, 0, 0], (6, 1, 0)),
        ([0, 0, 0, 0], (6, 0, 0)),
        ([0x1FF, 0x1FFFFF, 0, 0], (6, 0x1FF, 0x1FFFFF)),
        ([0x13, 0xFF080, 7, 8], (6, 0x13, 0xFF080)),
        ([0x13, 0x100000, 7, 8, 9], (6, 0x13, 0x100000)),
        ([0x13, 0x800, 0], (6, 0x13, 0x800)),
        ([0x13, 1 << 70, 0, 0], (6, 0x13, 0)),
        ([True, False, 0, 0], (6, 1, 0)),
    ],
)
def test_continue(live: Live, edit: list[Any], reply: tuple[int, ...]) -> None:
    """CONTINUE takes the first two elements as they are left in the list; the rest is ignored, a
    fourth element need not be there."""

    def negotiate(ctx: Any, opts: list[int]) -> int:
        opts[:] = edit
        return milter.CONTINUE

    live.on(negotiate=negotiate)
    assert reply == live.mta().options


def test_continue_untouched(live: Live) -> None:
    """A list left as it is takes everything, the "do not send" bits too."""
    live.on(negotiate=milter.CONTINUE)
    assert (6, 0x1FF, 0x1FFFFF) == live.mta().options


@pytest.mark.parametrize(
    "edit",
    [
        [0x1FF, 1 << 27, 0, 0],
        [0x1FF, -1, 0, 0],
        [0x3FF, 0, 0, 0],
        [-1, 0, 0, 0],
        ["x", 0, 0, 0],
        [0x1FF, None, 0, 0],
        [0x1FF, 1.0, 0, 0],
        [0x1FF, 0x200000, 0, 0],
    ],
)
def test_continue_with_what_was_not_offered(live: Live, edit: list[Any]) -> None:
    """A bit that the MTA did not offer, or what is no int, and the connection is refused."""

    def negotiate(ctx: Any, opts: list[Any]) -> int:
        opts[:] = edit
        return milter.CONTINUE

    live.on(negotiate=negotiate, close=None)
    _refused(live)
    assert ["negotiate", "close"] == live.finish()


def test_skip_not_offered(live: Live) -> None:
    """SKIP that is not offered cannot be taken."""
    live.on(negotiate=_taking(0x400))
    _refused(live, 6, 0x1FF, 0x1FFBFF)


@pytest.mark.ours
@pytest.mark.parametrize("edit", [[], [0x1FF]])
def test_continue_with_a_short_list(live: Live, edit: list[int]) -> None:
    """A list without the two words is a failure (pymilter crashes)."""

    def negotiate(ctx: Any, opts: list[int]) -> int:
        opts[:] = edit
        return milter.CONTINUE

    live.on(negotiate=negotiate, close=None)
    _refused(live)
    assert ["negotiate", "close"] == live.finish()
    live.on(negotiate=milter.ALL_OPTS)
    assert (6, 0x1FF, 0x400) == live.mta().options


@pytest.mark.parametrize("result", [1, 2, 3, 4, 7, 8, 9, 99, -1, Live.NONE, "x"])
def test_other_results(live: Live, result: Any) -> None:
    """Any other result closes the connection without a reply; `close` still runs."""
    live.on(negotiate=lambda ctx, opts: result, close=None)
    _refused(live)
    assert ["negotiate", "close"] == live.finish()


@pytest.mark.parametrize("policy", [pytest.param(0, marks=pytest.mark.ours), 1, 3, 4])
def test_exception(live: Live, policy: int) -> None:
    """So does an exception, whatever the policy: there is no one to answer. (With the policy
    CONTINUE pymilter takes all that was offered, so that no event is ever sent.)"""

    def negotiate(ctx: Any, opts: list[int]) -> int:
        raise KeyError("x")

    milter.set_exception_policy(policy)
    live.on(negotiate=negotiate, close=None)
    _refused(live)
    assert ["negotiate", "close"] == live.finish()


@pytest.mark.parametrize("version", [0, 1, 0x80000000, 0xFFFFFFFF])
def test_old_versions(live: Live, version: int) -> None:
    """Versions below 2 are refused, as signed numbers."""
    live.on(negotiate=milter.ALL_OPTS)
    _refused(live, version)
    assert [] == live.finish()


@pytest.mark.parametrize(
    ("version", "answered"), [(2, 2), (3, 3), (4, 4), (5, 5), (6, 6), (7, 6), (0x01000001, 6)]
)
def test_version(live: Live, version: int, answered: int) -> None:
    """The version is the lower of the offered one and 6."""
    mta = live.connect()
    mta.send(offer(version, 0x1FF, 0x1FFFFF))
    letter, data = mta.read_packet()
    assert ("O", answered) == (letter, int.from_bytes(data[:4], "big"))


# -- no reply --------------------------------------------------------------------------------------


@pytest.mark.parametrize("event", NO_REPLY)
def test_no_reply(live: Live, event: str) -> None:
    """With its NR bit offered and taken, nothing is sent for NOREPLY, and the session goes on."""
    bit, before, command = NO_REPLY[event]
    live.on(**{event: milter.NOREPLY}, negotiate=_taking(bit), eom=None)
    mta = live.mta()
    assert (6, 0x1FF, bit) == mta.options
    mta.play(*before)
    mta.send(command)
    mta.expect_nothing(0.05)
    rest = (C, H, M, R, T, L, N, B, E)
    at = rest.index(command) + 1 if command in rest else 2
    mta.play(*rest[at:])
    assert 1 == live.names.count(event)
    assert 1 == live.names.count("eom")


@pytest.mark.parametrize("event", NO_REPLY)
def test_emulation(live: Live, event: str) -> None:
    """With its NR bit taken but not offered the bit is not sent, and NOREPLY is answered by
    CONTINUE, since the MTA waits for a reply."""
    bit, before, command = NO_REPLY[event]
    live.on(**{event: milter.NOREPLY}, negotiate=_taking(bit | 0x10))
    mta = live.mta(0x1FF, 0x7F)
    assert (6, 0x1FF, 0x10) == mta.options
    mta.play(*before)
    mta.ask(command, CONTINUE)
    assert 1 == live.names.count(event)


@pytest.mark.parametrize("event", NO_REPLY)
def test_emulation_of_an_exception(live: Live, event: str) -> None:
    """Even an exception is answered by CONTINUE there."""
    bit, before, command = NO_REPLY[event]

    def raises(*args: Any) -> int:
        raise KeyError("x")

    live.on(**{event: raises}, negotiate=_taking(bit))
    mta = live.mta(0x1FF, 0x7F)
    mta.play(*before)
    mta.ask(command, CONTINUE)


@pytest.mark.parametrize("protocol", [0x7F, 0x17F, 0x3FF])
def test_emulated_bits_are_not_sent(live: Live, protocol: int) -> None:
    """All NR bits may be taken whatever was offered; only offered ones are in the reply."""
    live.on(negotiate=_taking(ALL_NR))
    assert (6, 0x1FF, protocol & ALL_NR) == live.mta(0x1FF, protocol).options


@pytest.mark.parametrize("event", ["abort", "close"])
def test_steps_without_a_reply_are_left_alone(live: Live, event: str) -> None:
    """A and Q have no reply, with or without NR bits."""
    live.on(**{event: None}, negotiate=_taking(ALL_NR))
    mta = live.mta()
    mta.send(C, H, M, A, Q)
    mta.expect_close()
    assert [("negotiate", (0x1FF, 0x1FFFFF, 0, 0)), (event,)] == live.calls


def test_events_that_were_switched_off(live: Live) -> None:
    """An event that the MTA sends although it was asked not to is called back all the same, and
    answered."""
    live.on(negotiate=_taking(0x2), helo=milter.REJECT)
    mta = live.mta()
    mta.play(C)
    mta.ask(H, packet("r"))
