"""Wire spec 8.4, rows 76 to 90: macros."""

from __future__ import annotations

from typing import Any, Callable

import pytest

from harness import F, macros, packet, running
from harness.packets import A, B, C, E, H, K, L, M, N, Q, R, T, U

#: One macro per stage, named after the stage; the value says so, too.
STAGES = ("C", "H", "M", "R", "T", "N", "E")
D = {stage: macros(stage, ("at" + stage, "of" + stage)) for stage in STAGES}


class Looker:
    """A verdict for callbacks that looks macros up, and keeps what it saw per callback."""

    def __init__(self, *names: str) -> None:
        self.names = names
        self.seen: list[tuple[str, ...]] = []

    def at(self, callback: str) -> Callable[..., None]:
        """The function for this callback: appends (callback, value, value, ...) to `seen`."""

        def look(ctx: Any, *args: object) -> None:
            self.seen.append((callback, *(ctx.getsymval(name) for name in self.names)))

        return look

    def at_all(self, *callbacks: str) -> dict[str, Callable[..., None]]:
        """Such a function for each of these callbacks."""
        return {callback: self.at(callback) for callback in callbacks}


def visible(callback: str, stages: str) -> tuple[object, ...]:
    """What a Looker for STAGES sees in that callback when just these stages have their macro."""
    return (callback, *("of" + stage if stage in stages else None for stage in STAGES))


@pytest.mark.row(76)
def test_lookup(feed: str) -> None:
    """One-character names match with and without braces, longer ones only as they were sent."""
    looker = Looker("j", "{j}", "_", "{_}", "{daemon_name}", "daemon_name", "", "{}", "J", "unset")
    with running(F(returns=looker.at_all("connect")), feed) as run:
        mta = run.mta()
        mta.send(macros("C", ("j", "host"), ("_", "me"), ("{daemon_name}", "dn")))
        mta.play(C)
        expected = ("host", "host", "me", "me", "dn", None, None, None, None, None)
        assert [("connect", *expected)] == looker.seen


@pytest.mark.row(77)
@pytest.mark.parametrize(
    ("pairs", "value"),
    [([("{j}", "A"), ("j", "B")], "A"), ([("j", "B"), ("{j}", "A")], "B"),
     ([("j", "1"), ("j", "2")], "1")],
)  # fmt: skip
def test_first_stored_wins(feed: str, pairs: list[tuple[str, str]], value: str) -> None:
    """Within a stage the first that matches wins, whichever spelling is asked for."""
    looker = Looker("j", "{j}")
    with running(F(returns=looker.at_all("connect")), feed) as run:
        mta = run.mta()
        mta.send(macros("C", *pairs))
        mta.play(C)
        assert [("connect", value, value)] == looker.seen


@pytest.mark.row(78)
def test_set_replaces_set(feed: str) -> None:
    """A second packet for a stage replaces all that the first gave."""
    looker = Looker("a", "b")
    with running(F(returns=looker.at_all("connect")), feed) as run:
        mta = run.mta()
        mta.send(macros("C", ("a", "1")), macros("C", ("b", "2")))
        mta.play(C)
        assert [("connect", None, "2")] == looker.seen


@pytest.mark.row(79)
def test_set_without_a_string(feed: str) -> None:
    """A packet with the stage only, or with no NUL, leaves the earlier set alone."""
    looker = Looker("a", "b")
    with running(F(returns=looker.at_all("connect", "helo")), feed) as run:
        mta = run.mta()
        mta.send(macros("C", ("a", "1")))
        mta.send(bytes.fromhex("00000002 44") + b"C")
        mta.play(C)
        mta.send(bytes.fromhex("00000003 44") + b"Cb")
        mta.play(H)
        assert [("connect", "1", None), ("helo", "1", None)] == looker.seen


@pytest.mark.row(80)
@pytest.mark.parametrize("stage", ["L", "B", "U", "X", "O", "A", "Q", "c", "\0", "\xff"])
def test_other_stages_are_ignored(feed: str, stage: str) -> None:
    """Macros for a letter that is no stage have no effect and no reply."""
    looker = Looker("a")
    with running(F(returns=looker.at_all("connect", "rcpt")), feed) as run:
        mta = run.mta()
        ignored = packet("D", stage.encode("latin-1") + b"a\0" + b"wrong\0")
        mta.send(ignored)
        mta.expect_nothing(0.05)
        mta.play(C, H, M)
        mta.send(macros("C", ("a", "1")), ignored)
        mta.play(R)
        assert [("connect", None), ("rcpt", "1")] == looker.seen
        assert [] == run.messages()


@pytest.mark.row(81)
def test_last_string_without_nul(feed: str) -> None:
    """A last string without NUL is dropped; the name before it then has no value."""
    looker = Looker("a", "b", "zz")
    with running(F(returns=looker.at_all("connect")), feed) as run:
        mta = run.mta()
        mta.send(packet("D", b"C" + b"a\0" + b"1\0" + b"b\0" + b"zz"))
        mta.play(C)
        assert [("connect", "1", None, None)] == looker.seen


@pytest.mark.row(82)
@pytest.mark.parametrize("odd", [b"a\0", b"x\0" + b"1\0" + b"a\0", b"\0"])
def test_odd_number_of_strings(feed: str, odd: bytes) -> None:
    """A last name without a value counts as unset, and nothing beyond it is looked at."""
    looker = Looker("a", "b", "")
    with running(F(returns=looker.at_all("connect")), feed) as run:
        mta = run.mta()
        mta.send(packet("D", b"C" + odd))
        mta.play(C)
        assert [("connect", None, None, None)] == looker.seen


@pytest.mark.row(76)
def test_empty_value(feed: str) -> None:
    """A macro with an empty value is set, and so told apart from one that is not."""
    looker = Looker("a", "b")
    with running(F(returns=looker.at_all("connect")), feed) as run:
        mta = run.mta()
        mta.send(macros("C", ("a", "")))
        mta.play(C)
        assert [("connect", "", None)] == looker.seen


@pytest.mark.row(83)
def test_latest_stage_wins(feed: str) -> None:
    """The same name in several stages: the value of the latest of them, whatever came last."""
    callbacks = ("connect", "helo", "mail", "rcpt", "data", "header", "eoh", "body", "eom")
    looker = Looker("{s}")
    with running(F(returns=looker.at_all(*callbacks)), feed) as run:
        mta = run.mta()
        steps = [("C", C), ("H", H), ("M", M), ("R", R), ("T", T), ("N", L), ("", N), ("", B)]
        for stage, command in steps:
            if stage:
                mta.send(macros(stage, ("{s}", stage)))
            mta.play(command)
        # An older stage set anew does not come before a later one.
        mta.send(macros("E", ("{s}", "E")), macros("H", ("{s}", "again")))
        mta.play(E)
        assert [
            ("connect", "C"), ("helo", "H"), ("mail", "M"), ("rcpt", "R"), ("data", "T"),
            ("header", "N"), ("eoh", "N"), ("body", "N"), ("eom", "E"),
        ] == looker.seen  # fmt: skip


@pytest.mark.row(83)
def test_visible_as_soon_as_sent(feed: str) -> None:
    """Macros of a stage to come are visible at once (wire spec 3.5)."""
    looker = Looker(*("at" + stage for stage in STAGES))
    with running(F(returns=looker.at_all("eoh")), feed) as run:
        mta = run.mta()
        mta.play(C, H, M, R)
        mta.send(D["E"])
        mta.play(N)
        assert [visible("eoh", "E")] == looker.seen


def whole_message(mta: Any) -> None:
    """C, H and a message, each command with the macro of its stage."""
    mta.send(D["C"])
    mta.play(C)
    mta.send(D["H"])
    mta.play(H)
    mta.send(D["M"])
    mta.play(M)
    mta.send(D["R"])
    mta.play(R)
    mta.send(D["T"])
    mta.play(T, L)
    mta.send(D["N"])
    mta.play(N, B)
    mta.send(D["E"])
    mta.play(E)


@pytest.mark.row(84)
def test_next_message_without_macros(feed: str) -> None:
    """MAIL drops the sets after it, and keeps an old set of its own if none is sent."""
    looker = Looker(*("at" + stage for stage in STAGES))
    with running(F(returns=looker.at_all("mail", "rcpt", "eom")), feed) as run:
        mta = run.mta()
        whole_message(mta)
        mta.play(M, R)
        assert [
            visible("mail", "CHM"),
            visible("rcpt", "CHMR"),
            visible("eom", "CHMRTNE"),
            visible("mail", "CHM"),
            visible("rcpt", "CHM"),
        ] == looker.seen


@pytest.mark.row(85)
def test_second_recipient_without_macros(feed: str) -> None:
    """A recipient without macros of its own still sees those of the one before."""
    looker = Looker(*("at" + stage for stage in STAGES))
    with running(F(returns=looker.at_all("rcpt")), feed) as run:
        mta = run.mta()
        mta.play(M)
        mta.send(D["R"])
        mta.play(R, R)
        assert [visible("rcpt", "R"), visible("rcpt", "R")] == looker.seen


@pytest.mark.row(86)
def test_helo_after_a_message(feed: str) -> None:
    """HELO drops the sets of all stages after it."""
    looker = Looker(*("at" + stage for stage in STAGES))
    with running(F(returns=looker.at_all("helo")), feed) as run:
        mta = run.mta()
        whole_message(mta)
        mta.play(H)
        assert [visible("helo", "CH"), visible("helo", "CH")] == looker.seen


@pytest.mark.row(86)
def test_connect_and_recipient_drop_later_sets(feed: str) -> None:
    """CONNECT drops all sets but its own, RCPT those of DATA and after (wire spec 3.5)."""
    looker = Looker(*("at" + stage for stage in STAGES))
    with running(F(returns=looker.at_all("connect", "rcpt", "data")), feed) as run:
        mta = run.mta()
        mta.send(*D.values())
        mta.play(C)
        mta.send(*D.values())
        mta.play(M)
        mta.send(*D.values())
        mta.play(R, T)
        assert [
            visible("connect", "C"),
            visible("rcpt", "CHMR"),
            visible("data", "CHMR"),
        ] == looker.seen


@pytest.mark.row(86)
def test_content_and_abort_drop_nothing(feed: str) -> None:
    """T, L, N, B, E, U and A leave all sets as they are (wire spec 3.5)."""
    callbacks = ("data", "header", "eoh", "body", "unknown", "abort", "eom")
    looker = Looker(*("at" + stage for stage in STAGES))
    with running(F(returns=looker.at_all(*callbacks)), feed) as run:
        mta = run.mta()
        mta.play(M, R)
        mta.send(*D.values())
        mta.play(U, T, L, N, B, E)
        mta.play(M, R)
        mta.send(*D.values(), A)
        mta.play(U)
        names = ["unknown", "data", "header", "eoh", "body", "eom", "abort", "unknown"]
        assert [visible(name, "CHMRTNE") for name in names] == looker.seen


@pytest.mark.row(87)
def test_abort_and_the_next_message(feed: str) -> None:
    """In abort all sets are still there; the next MAIL without a set sees C, H and the old M."""
    looker = Looker(*("at" + stage for stage in STAGES))
    with running(F(returns=looker.at_all("abort", "mail")), feed) as run:
        mta = run.mta()
        mta.send(D["C"])
        mta.play(C)
        mta.send(D["H"])
        mta.play(H)
        mta.send(D["M"])
        mta.play(M)
        mta.send(D["R"])
        mta.play(R)
        mta.send(D["T"], D["N"], D["E"], A)
        mta.play(M)
        assert [
            visible("mail", "CHM"),
            visible("abort", "CHMRTNE"),
            visible("mail", "CHM"),
        ] == looker.seen


@pytest.mark.row(88)
@pytest.mark.parametrize("end", ["quit", "eof"])
def test_close(feed: str, end: str) -> None:
    """In close all sets are still there."""
    looker = Looker(*("at" + stage for stage in STAGES))
    with running(F(returns=looker.at_all("close")), feed) as run:
        mta = run.mta()
        whole_message(mta)
        if end == "quit":
            mta.send(Q)
            mta.expect_close()
        run.finish()
        assert [visible("close", "CHMRTNE")] == looker.seen


@pytest.mark.row(89)
def test_connection_reused(feed: str) -> None:
    """K drops all sets, after the close callback has seen them."""
    looker = Looker(*("at" + stage for stage in STAGES))
    with running(F(returns=looker.at_all("connect", "close")), feed) as run:
        mta = run.mta()
        whole_message(mta)
        mta.send(K)
        mta.play(C)
        run.finish()
        assert [
            visible("connect", "C"),
            visible("close", "CHMRTNE"),
            visible("connect", ""),
            visible("close", ""),
        ] == looker.seen


@pytest.mark.row(90)
def test_clearing_needs_no_callback(feed: str) -> None:
    """A filter without envfrom callback: a second MAIL drops the R set nevertheless."""
    looker = Looker(*("at" + stage for stage in STAGES))
    with running(F(without=["mail"], returns=looker.at_all("rcpt")), feed) as run:
        mta = run.mta()
        mta.play(M)
        mta.send(D["R"])
        mta.play(R, M, R)
        assert [visible("rcpt", "R"), visible("rcpt", "")] == looker.seen


@pytest.mark.row(76)
def test_no_macros_before_any(feed: str) -> None:
    """In negotiate and without a packet every lookup is None; a set does not cross connections."""
    looker = Looker("j", "")

    def negotiate(ctx: Any, opts: list[int]) -> int:
        looker.at("negotiate")(ctx)
        return 10  # ALL_OPTS

    spec = F(negotiate=negotiate, returns=looker.at_all("connect"))
    with running(spec, feed) as run:
        mta = run.mta()
        mta.send(macros("C", ("j", "host")))
        other = run.mta()
        other.play(C)
        mta.play(C)
        assert [
            ("negotiate", None, None),
            ("negotiate", None, None),
            ("connect", None, None),
            ("connect", "host", None),
        ] == looker.seen
