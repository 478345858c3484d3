"""Wire spec 8.5, rows 91 to 123: what may follow what.

Dialogues are in the rows' notation. `play` sends each command when the one before is answered, and
expects `c` for each but A, K and Q; an answer to A or K would show at the next command, or at the
end, where nothing may be left to read.
"""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from harness import F, Peer, Run, macros, running
from harness.packets import ACCEPT, CONTINUE, OFFER, REJECT, A, C, E, H, K, M, Q, commands, replies

CONTENT = "T L N B E"
CONTENT_NAMES = "data header eoh body eom"


def play(mta: Peer, letters: str) -> None:
    """Play the dialogue, every callback saying CONTINUE."""
    for command, reply in zip(commands(letters), replies(letters)):
        mta.send(command)
        mta.expect(reply)


def check(spec: F, feed: str, letters: str, names: str) -> None:
    """The dialogue is answered as `play` says and then closed by Q or EOF with these callbacks."""
    with running(spec, feed) as run:
        mta = run.mta()
        play(mta, letters)
        if letters.endswith("Q"):
            mta.expect_close()
        assert names.split() == run.finish()
        assert [] == run.messages()


def check_refused(spec: F, feed: str, letters: str, last: str, names: str) -> None:
    """The dialogue is answered, but for its last command the connection is closed and logged."""
    with running(spec, feed) as run:
        mta = run.mta()
        play(mta, letters)
        mta.send(*commands(last))
        run.expect_broken(mta, names.split())


@pytest.mark.row(91)
def test_whole_message(feed: str) -> None:
    """Every command in its order has its callback and is answered `c`."""
    check(F(), feed, "C H M R T L N B E", f"connect helo mail rcpt {CONTENT_NAMES} close")


@pytest.mark.row(91)
def test_several_messages(feed: str) -> None:
    """One connection carries several messages, with several recipients, headers and chunks."""
    check(
        F(),
        feed,
        "C H M R R T L L N B B E M R T N E M R T L N B E Q",
        "connect helo mail rcpt rcpt data header header eoh body body eom "
        f"mail rcpt data eoh eom mail rcpt {CONTENT_NAMES} close",
    )


@pytest.mark.row(92, 93)
@pytest.mark.ours
@pytest.mark.parametrize("letter", list("CHMRTLNBEU"))
def test_command_before_the_handshake(feed: str, letter: str) -> None:
    """A command before `O` ends the connection (libmilter takes some and drops the others)."""
    with running(feed=feed) as run:
        mta = run.connect()
        mta.send(*commands(letter))
        run.expect_broken(mta, ["close"])


@pytest.mark.row(94)
@pytest.mark.ours
@pytest.mark.parametrize(
    ("letters", "names"),
    [
        ("C", "connect close"),
        ("H", "helo close"),
        ("C H M", "connect helo mail abort close"),
        ("C H M R E", "connect helo mail rcpt eom close"),
    ],
)
def test_connect_where_none_belongs(feed: str, letters: str, names: str) -> None:
    """A second C, or one after H or M, ends the connection (libmilter drops it)."""
    check_refused(F(), feed, letters, "C", names)


@pytest.mark.row(95, 96)
@pytest.mark.parametrize(
    ("letters", "names"),
    [
        ("C H M R H M", "connect helo mail rcpt abort helo mail abort close"),
        ("C H M R M R", "connect helo mail rcpt abort mail rcpt abort close"),
        ("C H M M", "connect helo mail abort mail abort close"),
        ("C H M R T L H", "connect helo mail rcpt data header abort helo close"),
        ("C H M R T L N B M", "connect helo mail rcpt data header eoh body abort mail abort close"),
        ("C H H H M", "connect helo helo helo mail abort close"),
    ],
)
def test_helo_or_mail_in_a_transaction(feed: str, letters: str, names: str) -> None:
    """H and M end an open transaction with abort, then have their own callback."""
    check(F(), feed, letters, names)


@pytest.mark.row(97, 98)
@pytest.mark.ours
@pytest.mark.parametrize(
    ("letters", "last", "names"),
    [
        ("C H", "R", "connect helo close"),
        ("C H", "T", "connect helo close"),
        ("C H", "L", "connect helo close"),
        ("C H", "N", "connect helo close"),
        ("C H", "B", "connect helo close"),
        ("C H", "E", "connect helo close"),
        ("C H M", "T", "connect helo mail abort close"),
        ("C H M", "L", "connect helo mail abort close"),
        ("C H M", "N", "connect helo mail abort close"),
        ("C H M", "B", "connect helo mail abort close"),
        ("C H M", "E", "connect helo mail abort close"),
    ],
)
def test_step_left_out(feed: str, letters: str, last: str, names: str) -> None:
    """R without M, or content without R, ends the connection (libmilter drops it)."""
    check_refused(F(), feed, letters, last, names)


@pytest.mark.row(99)
@pytest.mark.parametrize(
    ("letters", "names"),
    [
        ("C H M R E", "eom"),
        ("C H M R B B E", "body body eom"),
        ("C H M R N E", "eoh eom"),
        ("C H M R L L N B E", "header header eoh body eom"),
        ("C H M R T L L N E", "data header header eoh eom"),
    ],
)
def test_optional_steps(feed: str, letters: str, names: str) -> None:
    """After R, each content step may be left out."""
    check(F(), feed, letters, f"connect helo mail rcpt {names} close")


@pytest.mark.row(100)
@pytest.mark.ours
@pytest.mark.parametrize(
    ("letters", "last", "names"),
    [
        ("M R T", "R", "mail rcpt data"),
        ("M R T", "T", "mail rcpt data"),
        ("M R N", "N", "mail rcpt eoh"),
        ("M R N", "L", "mail rcpt eoh"),
        ("M R B", "L", "mail rcpt body"),
        ("M R T L", "R", "mail rcpt data header"),
        ("M R T L", "T", "mail rcpt data header"),
        ("M R T L N B", "N", "mail rcpt data header eoh body"),
    ],
)
def test_step_backwards(feed: str, letters: str, last: str, names: str) -> None:
    """A step that lies behind ends the connection, with abort (libmilter: abort, and drops it)."""
    check_refused(F(), feed, letters, last, names + " abort close")


@pytest.mark.row(101)
@pytest.mark.ours
@pytest.mark.parametrize("last", list("RTLNBE"))
def test_step_after_the_end(feed: str, last: str) -> None:
    """A second E, or any step of a message that is over, ends the connection without abort."""
    check_refused(F(), feed, "M R E", last, "mail rcpt eom close")


@pytest.mark.row(102)
@pytest.mark.parametrize(
    ("letters", "names"),
    [
        ("M", "mail"),
        ("M R", "mail rcpt"),
        ("M R T", "mail rcpt data"),
        ("M R T L", "mail rcpt data header"),
        ("M R T L N", "mail rcpt data header eoh"),
        ("M R T L N B", "mail rcpt data header eoh body"),
    ],
)
def test_abort_in_a_transaction(feed: str, letters: str, names: str) -> None:
    """A gives one abort callback and no reply; the next message is welcome."""
    with running(F(), feed) as run:
        mta = run.mta()
        play(mta, "C H " + letters)
        mta.send(A)
        mta.expect_nothing()
        play(mta, "M R E")
        expected = f"connect helo {names} abort mail rcpt eom close"
        assert expected.split() == run.finish()


@pytest.mark.row(103)
@pytest.mark.parametrize(
    ("letters", "names"),
    [
        ("A C", "connect close"),
        ("C A H", "connect helo close"),
        ("C H A M A", "connect helo mail abort close"),
        ("C H M R E A M", "connect helo mail rcpt eom mail abort close"),
        ("C H M R E A A Q", "connect helo mail rcpt eom close"),
    ],
)
def test_abort_outside_a_transaction(feed: str, letters: str, names: str) -> None:
    """A before M, after HELO or after the end of a message has no callback and no reply."""
    check(F(), feed, letters, names)


@pytest.mark.row(104)
@pytest.mark.parametrize("without", [(), ("unknown",)], ids=["F", "F-unknown"])
@pytest.mark.parametrize("letters", ["C H M A A Q", "C H M R A A A Q", "C H M A A H A Q"])
def test_abort_twice(feed: str, without: tuple[str, ...], letters: str) -> None:
    """However many A come, a transaction is aborted once (libmilter F-unknown: once per A)."""
    names = "connect helo mail"
    names += " rcpt" if " R " in letters else ""
    names += " abort"
    names += " helo" if "A H" in letters else ""
    check(F(without=without), feed, letters, names + " close")


@pytest.mark.row(105)
def test_eof_after_abort(feed: str) -> None:
    """An aborted transaction is not aborted once more at the end of the connection."""
    with running(F(), feed) as run:
        mta = run.mta()
        play(mta, "C H M A")
        mta.half_close()
        mta.expect_close()
        assert ["connect", "helo", "mail", "abort", "close"] == run.finish()


@pytest.mark.row(106, 107)
@pytest.mark.parametrize(
    ("letters", "names"),
    [
        ("Q", "close"),
        ("C Q", "connect close"),
        ("H Q", "helo close"),
        ("C H M R E Q", "connect helo mail rcpt eom close"),
        ("M Q", "mail abort close"),
        ("M R Q", "mail rcpt abort close"),
        ("M R B Q", "mail rcpt body abort close"),
        ("M R T L Q", "mail rcpt data header abort close"),
    ],
)
def test_quit(feed: str, letters: str, names: str) -> None:
    """Q closes the connection without a reply; abort first only if a transaction is open."""
    check(F(), feed, letters, names)


@pytest.mark.row(108)
def test_connection_used_again(feed: str) -> None:
    """After K the next session starts with C, on the same connection and without a new `O`."""
    check(
        F(),
        feed,
        "C H M R T L N B E K C H M",
        f"connect helo mail rcpt {CONTENT_NAMES} close connect helo mail abort close",
    )


@pytest.mark.row(109)
@pytest.mark.parametrize(
    ("letters", "names"),
    [
        ("K C", "close connect close"),
        ("C K C", "connect close connect close"),
        ("C H K C", "connect helo close connect close"),
        ("C H M K C", "connect helo mail abort close connect close"),
        ("C H M R T L K C", "connect helo mail rcpt data header abort close connect close"),
        ("C H M A K C", "connect helo mail abort close connect close"),
        ("C H M R E K C K C Q", "connect helo mail rcpt eom close connect close connect close"),
    ],
)
def test_reuse_in_any_state(feed: str, letters: str, names: str) -> None:
    """K ends the session whatever its state, and C is answered (libmilter: silence, no close)."""
    check(F(), feed, letters, names)


@pytest.mark.row(109)
@pytest.mark.parametrize(("verdict", "reply"), [(3, ACCEPT), (1, REJECT)])
def test_reuse_after_a_final_verdict(feed: str, verdict: int, reply: bytes) -> None:
    """K after a message that was accepted or rejected at its end."""
    with running(F(returns={"eom": verdict}), feed) as run:
        mta = run.mta()
        play(mta, "C H M R")
        mta.ask(E, reply)
        play(mta, "K C")
        assert [
            "connect",
            "helo",
            "mail",
            "rcpt",
            "eom",
            "close",
            "connect",
            "close",
        ] == run.finish()


@pytest.mark.row(109)
def test_reuse_before_the_offer(feed: str) -> None:
    """K before `O` ends a session too; the one that the `O` begins gets its own close."""
    with running(F(negotiate=10), feed) as run:
        mta = run.connect()
        mta.send(K, OFFER)
        assert "O" == mta.read_packet()[0]
        mta.half_close()
        mta.expect_close()
        assert ["negotiate", "close"] == run.finish()


@pytest.mark.row(110)
@pytest.mark.parametrize("end", ["EOF", "Q"])
@pytest.mark.parametrize(
    ("letters", "names"),
    [
        ("C H M R E K", "connect helo mail rcpt eom close"),
        ("C H M R E K C", "connect helo mail rcpt eom close connect close"),
        ("C H M R E K C H M", "connect helo mail rcpt eom close connect helo mail abort close"),
    ],
)
def test_end_after_reuse(feed: str, end: str, letters: str, names: str) -> None:
    """Close is called once per session: not again for a session that K ended and none followed."""
    with running(F(), feed) as run:
        mta = run.mta()
        play(mta, letters)
        if end == "Q":
            mta.send(Q)
        else:
            mta.half_close()
        mta.expect_close()
        assert names.split() == run.finish()


@pytest.mark.row(111)
def test_unknown_everywhere(feed: str) -> None:
    """U is answered `c` in every state, and changes none."""
    check(
        F(),
        feed,
        "C U H U M U R U T L N B E U M R T L N B E Q",
        "connect unknown helo unknown mail unknown rcpt unknown data header eoh body eom "
        "unknown mail rcpt data header eoh body eom close",
    )


@pytest.mark.row(112)
def test_unknown_before_content_without_data(feed: str) -> None:
    """A filter without `data`: a message goes on after U (libmilter drops the rest)."""
    check(
        F(without=["data"]),
        feed,
        "C H M R U L N B E",
        "connect helo mail rcpt unknown header eoh body eom close",
    )


@pytest.mark.row(113)
@pytest.mark.parametrize("end", ["", " Q"], ids=["EOF", "Q"])
def test_end_after_unknown(feed: str, end: str) -> None:
    """U leaves the transaction open, so its end is an abort (libmilter: none)."""
    check(F(), feed, "C H M R U" + end, "connect helo mail rcpt unknown abort close")


@pytest.mark.row(114)
@pytest.mark.parametrize("rest", ["", "L N B E"], ids=["EOF", "completed"])
def test_unknown_within_content(feed: str, rest: str) -> None:
    """U after T: `c`, and the transaction is still open (libmilter: abort)."""
    names = "header eoh body eom" if rest else "abort"
    check(F(), feed, "C H M R T U " + rest, f"connect helo mail rcpt data unknown {names} close")


@pytest.mark.row(115, 116, 117)
@pytest.mark.parametrize(
    ("without", "letters", "names"),
    [
        ("eoh", "M R T L B E", "data header body eom"),
        ("header eoh", "M R T B E", "data body eom"),
        ("header eoh body", "M R T E", "data eom"),
        ("eoh", "M R T B E", "data body eom"),
        ("eoh body", "M R T E", "data eom"),
        ("eoh", "M R T L E", "data header eom"),
    ],
)
def test_content_steps_absent(feed: str, without: str, letters: str, names: str) -> None:
    """Every forward move within the content is accepted (libmilter drops some without eoh)."""
    check(F(without=without.split()), feed, letters, f"mail rcpt {names} close")


@pytest.mark.row(118)
@pytest.mark.parametrize(
    ("without", "letters", "names"),
    [
        ("rcpt", "M T L N E", "mail data header eoh eom close"),
        ("mail", "H R T L N E", "helo rcpt data header eoh eom close"),
        ("mail rcpt", "H T L N E", "helo data header eoh eom close"),
        ("mail", "H R", "helo rcpt abort close"),
        ("mail rcpt", "H T L", "helo data header abort close"),
        ("mail", "H R T L N E R T L N E Q", "helo" + " rcpt data header eoh eom" * 2 + " close"),
    ],
)
def test_envelope_steps_absent(feed: str, without: str, letters: str, names: str) -> None:
    """Where the MTA was told not to send M or R, the next step opens the transaction."""
    check(F(without=without.split()), feed, letters, names)


@pytest.mark.row(118)
@pytest.mark.ours
@pytest.mark.parametrize(
    ("without", "letters", "last"),
    [("rcpt", "H", "T"), ("mail", "H", "T"), ("rcpt", "H", "R"), ("mail", "H", "E")],
)
def test_steps_absent_are_not_all_steps(feed: str, without: str, letters: str, last: str) -> None:
    """Only what was negotiated away may be left out: else the connection ends."""
    check_refused(F(without=without.split()), feed, letters, last, "helo close")


@pytest.mark.row(119, 120)
@pytest.mark.parametrize("without", [("mail",), ("mail", "unknown")], ids="-".join)
@pytest.mark.parametrize(
    ("letters", "names"),
    [
        ("H A H", "helo helo close"),
        ("H R T L N B E A", "helo rcpt data header eoh body eom close"),
        ("H R T L N B E A A Q", "helo rcpt data header eoh body eom close"),
    ],
)
def test_abort_without_mail_callback(
    feed: str, without: tuple[str, ...], letters: str, names: str
) -> None:
    """A filter without envfrom: no transaction, no abort (libmilter calls it for each A)."""
    check(F(without=without), feed, letters, names)


@pytest.mark.row(119)
def test_mail_macros_open_the_next_transaction(feed: str) -> None:
    """With NOMAIL, macros for M mean a new message: the open one is aborted (wire spec Q10)."""
    with running(F(without=["mail"]), feed) as run:
        mta = run.mta()
        mta.send(macros("M", ("i", "1")))
        play(mta, "R")
        mta.send(macros("M", ("i", "2")))
        play(mta, "R E")
        assert ["rcpt", "abort", "rcpt", "eom", "close"] == run.finish()


@pytest.mark.row(121)
@pytest.mark.parametrize(
    "without",
    [
        "connect helo", "connect", "helo", "mail", "rcpt", "data", "header", "eoh", "body",
        "unknown", "eom", "abort", "connect helo mail rcpt data header eoh body eom unknown",
    ],
)  # fmt: skip
def test_command_without_callback(feed: str, without: str) -> None:
    """A command that arrives though its callback is missing is answered `c` and counts."""
    names = "connect helo unknown mail rcpt data header eoh body eom mail rcpt abort close"
    left = [name for name in names.split() if name not in without.split()]
    check(F(without=without.split()), feed, "C H U M R T L N B E M R A Q", " ".join(left))


@pytest.mark.row(122)
def test_only_eom(feed: str) -> None:
    """A filter with nothing but eom may get E right after the handshake."""
    check(F(only=["eom", "close"]), feed, "E", "eom close")


CHILD = """
import sys
sys.path[:0] = sys.argv[1:3]
from Milter import _server
from harness.filter import F, Run, build
_server._CUT_GRACE += 30  # for the callbacks of what is cut off, on a busy machine
run = Run(F())
server = build(run, "unix:" + sys.argv[3])
server.opensocket(False)
print("listening", flush=True)
server.main(drain=float(sys.argv[4]))
print(" ".join(run.sessions()[0]), flush=True)
"""


def child(path: str, drain: float) -> subprocess.Popen[str]:
    """A process whose main thread runs F on a unix socket at this path; it listens already."""
    tests = Path(__file__).parent.parent
    process = subprocess.Popen(
        [sys.executable, "-c", CHILD, str(tests), str(tests.parent), path, str(drain)],
        stdout=subprocess.PIPE,
        text=True,
    )
    assert process.stdout is not None
    assert process.stdout.readline() == "listening\n"
    return process


def await_refusal(path: str) -> None:
    """Wait until nobody takes connections at this path any more: the signal has arrived."""
    deadline = time.monotonic() + 30
    while True:
        try:
            Peer(path).close()
        except (ConnectionRefusedError, FileNotFoundError):
            return
        assert time.monotonic() < deadline, "still accepting after the signal"
        time.sleep(0.01)


@pytest.mark.row(123)
@pytest.mark.ours
@pytest.mark.parametrize("name", ["SIGINT", "SIGTERM"])
def test_stop_lets_a_transaction_finish(tmp_path: Path, name: str) -> None:
    """SIGINT is SIGTERM: a session in M goes on to the end of its message, then main returns."""
    path = os.path.relpath(tmp_path / "s")
    process = child(path, 30)
    try:
        with Peer(path) as mta:
            mta.ask(OFFER, bytes.fromhex("0000000D 4F 00000006 000001FF 00000000"))
            mta.play(M)
            os.kill(process.pid, getattr(signal, name))
            await_refusal(path)
            play(mta, "R T L N B E")
            mta.expect_close()
        out, _ = process.communicate(timeout=30)
        assert f"mail rcpt {CONTENT_NAMES} close\n" == out
        assert 0 == process.returncode
    finally:
        process.kill()
        process.communicate()


@pytest.mark.row(123)
@pytest.mark.ours
def test_stop_waits_only_so_long(tmp_path: Path) -> None:
    """A transaction that is not finished when the drain ends is aborted, and main returns."""
    path = os.path.relpath(tmp_path / "s")
    process = child(path, 0.3)
    try:
        with Peer(path) as mta:
            mta.ask(OFFER, bytes.fromhex("0000000D 4F 00000006 000001FF 00000000"))
            mta.play(C, H, M)
            process.send_signal(signal.SIGINT)
            mta.expect_close()
        out, _ = process.communicate(timeout=30)
        assert "connect helo mail abort close\n" == out
        assert 0 == process.returncode
    finally:
        process.kill()
        process.communicate()


@pytest.mark.row(123)
@pytest.mark.ours
def test_stop_ends_idle_sessions_at_once() -> None:
    """On stop a session outside a transaction is closed without waiting for the drain's end."""
    with running(drain=60) as run:
        idle: Run = run
        mta = idle.mta()
        mta.play(C, H)
        idle.server.stop()
        mta.expect_close()
        assert ["connect", "helo", "close"] == idle.finish()


@pytest.mark.row(91)
def test_replies_are_not_ahead_of_their_commands(feed: str) -> None:
    """One command, one reply: nothing comes between, before or after."""
    with running(F(), feed) as run:
        mta = run.mta()
        mta.expect_nothing(0.1)
        for command in commands("C H M R T L N B E"):
            mta.ask(command, CONTINUE)
            mta.expect_nothing(0.02)
        mta.send(Q)
        mta.expect_close()
