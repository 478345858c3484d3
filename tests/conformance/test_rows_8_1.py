"""Wire spec 8.1, rows 1 to 16: framing."""

from __future__ import annotations

import pytest

from harness import F, packet, running
from harness.packets import CONTINUE, MESSAGE, MESSAGE_NAMES, B, C, E, H, K, L, M, N, Q, R, T, U

#: A large packet is not cut at each byte, which would take seconds, but into many pieces.
LARGE = pytest.mark.parametrize("feed", ["whole", range(0, 1 << 21, 1021)], ids=["whole", "cut"])


@pytest.mark.row(1)
def test_packet_byte_by_byte() -> None:
    """A packet that arrives one byte at a time gives one callback and one reply."""
    with running() as run:
        mta = run.mta()
        mta.send_bytes(H)
        mta.expect(CONTINUE)
        assert [("helo", "h"), ("close",)] == run.finish_calls()


@pytest.mark.row(2)
def test_packets_in_one_write() -> None:
    """Packets that arrive together are answered one by one, in order."""
    with running() as run:
        mta = run.connect()
        mta.send_cut(bytes.fromhex("0000000D4F00000006000001FF001FFFFF") + H + M + R, [])
        mta.expect(
            bytes.fromhex("0000000D 4F 00000006 000001FF 00000000"), CONTINUE, CONTINUE, CONTINUE
        )
        mta.expect_nothing()
        assert ["helo", "mail", "rcpt", "abort", "close"] == run.finish()


@pytest.mark.row(3)
@LARGE
def test_body_of_65535_bytes(feed: object) -> None:
    """A body chunk as large as MTAs send them arrives in one callback, unchanged."""
    chunk = bytes(range(256)) * 255 + bytes(range(255))
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(M, R, N, bytes.fromhex("00010000 42") + chunk)
        run.finish()
        assert [(chunk,)] == run.args("body")


@pytest.mark.row(4)
@LARGE
@pytest.mark.parametrize("size", [65536, 1048575])
def test_body_up_to_the_receive_limit(feed: object, size: int) -> None:
    """Chunks beyond libmilter's 65535 bytes are taken, up to a `len` of 1 MiB."""
    chunk = b"\x00\xffb\n" * (size // 4) + b"z" * (size % 4)
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(M, R, N, packet("B", chunk))
        run.finish()
        assert [(chunk,)] == run.args("body")


@pytest.mark.row(4)
@pytest.mark.parametrize(
    ("limit", "head"),
    [
        (None, "00100001 42"),  # the default, 1 MiB, plus one
        (None, "7FFFFFFF 42"),
        (None, "41424344 42"),
        (100, "00000065 42"),
    ],
)
def test_beyond_the_receive_limit(feed: str, limit: object, head: str) -> None:
    """A `len` above the limit ends the connection at once: no data is waited for."""
    limits = {} if limit is None else {"receive_frame": limit}
    with running(F(limits=limits), feed) as run:
        mta = run.mta()
        mta.play(M, R, N)
        mta.send(bytes.fromhex(head))
        run.expect_broken(mta, ["mail", "rcpt", "eoh", "abort", "close"])


@pytest.mark.row(4)
def test_at_a_limit_of_ones_own(feed: str) -> None:
    """A `len` that equals a configured limit is still taken."""
    with running(F(limits={"receive_frame": 100}), feed) as run:
        mta = run.mta()
        mta.play(M, R, N, bytes.fromhex("00000064 42") + b"x" * 99)
        run.finish()
        assert [(b"x" * 99,)] == run.args("body")


@pytest.mark.row(5)
def test_length_zero(feed: str) -> None:
    """A frame of length 0 has no command: the connection ends."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.send(bytes.fromhex("00000000 48"))
        run.expect_broken(mta, ["close"])


@pytest.mark.row(6, 7)
@pytest.mark.parametrize("frame", ["FFFFFFFF 4E", "80000001 45", "80000000 45"])
def test_length_with_the_top_bit(feed: str, frame: str) -> None:
    """A length is unsigned: one of 2 GiB and more is too large and never wraps to "no data"."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(M, R)
        mta.send(bytes.fromhex(frame))
        run.expect_broken(mta, ["mail", "rcpt", "abort", "close"])


@pytest.mark.row(8)
@pytest.mark.ours
def test_empty_body_packet(feed: str) -> None:
    """An empty `B` ends the connection, as in libmilter; no MTA sends one."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(M, R, N)
        mta.send(bytes.fromhex("00000001 42"))
        run.expect_broken(mta, ["mail", "rcpt", "eoh", "abort", "close"])


@pytest.mark.row(9)
@pytest.mark.parametrize(
    ("before", "frame", "names"),
    [
        ((), "00000001 43", ["close"]),
        ((), "00000001 48", ["close"]),
        ((), "00000001 4D", ["close"]),
        ((), "00000001 55", ["close"]),
        ((), "00000001 44", ["close"]),
        ((M,), "00000001 52", ["mail", "abort", "close"]),
        ((M, R), "00000001 4C", ["mail", "rcpt", "abort", "close"]),
        ((M, R), "00000001 48", ["mail", "rcpt", "abort", "close"]),
        ((M, R), "00000001 4D", ["mail", "rcpt", "abort", "close"]),
        ((M, R), "00000001 55", ["mail", "rcpt", "abort", "close"]),
        ((M, R), "00000001 44", ["mail", "rcpt", "abort", "close"]),
    ],
)
def test_empty_where_data_must_be(
    feed: str, before: tuple[bytes, ...], frame: str, names: list[str]
) -> None:
    """A command without the data that it must have ends the connection."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(*before)
        mta.send(bytes.fromhex(frame))
        run.expect_broken(mta, names)


@pytest.mark.row(10)
@pytest.mark.parametrize("letter", ["58", "01", "80", "00", "63"])
@pytest.mark.parametrize("data", ["", "78797A00"])
def test_unknown_letter(feed: str, letter: str, data: str) -> None:
    """A letter that is no command ends the connection; so does one that is only a reply."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.send(packet("X", bytes.fromhex(data)).replace(b"X", bytes.fromhex(letter)))
        run.expect_broken(mta, ["close"])


@pytest.mark.row(11)
@pytest.mark.parametrize("letter", ["58", "01", "80"])
def test_unknown_letter_in_a_transaction(feed: str, letter: str) -> None:
    """A letter that is no command, after MAIL: abort, then close."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(M)
        mta.send(bytes.fromhex("00000001" + letter))
        run.expect_broken(mta, ["mail", "abort", "close"])


@pytest.mark.row(12)
def test_eof_before_anything() -> None:
    """A connection on which nothing was sent has its close callback, and nobody complains."""
    with running() as run:
        mta = run.connect()
        mta.half_close()
        mta.expect_close()
        assert ["close"] == run.finish()
        assert [] == run.messages()


@pytest.mark.row(13)
def test_eof_after_the_handshake(feed: str) -> None:
    """A connection that ends after the handshake has its close callback, and nobody complains."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.half_close()
        mta.expect_close()
        assert ["close"] == run.finish()
        assert [] == run.messages()


@pytest.mark.row(14)
@pytest.mark.parametrize("how", ["half_close", "close", "reset"])
@pytest.mark.parametrize("conn", [None, "inet:0@127.0.0.1"], ids=["unix", "inet"])
def test_eof_in_a_transaction(feed: str, how: str, conn: str | None) -> None:
    """A connection that ends in a transaction: abort, then close."""
    with running(feed=feed, conn=conn) as run:
        mta = run.mta()
        mta.play(M)
        getattr(mta, how)()
        if how == "half_close":
            mta.expect_close()
        run.wait(["mail", "abort", "close"])
        assert ["mail", "abort", "close"] == run.finish()


@pytest.mark.row(15)
def test_eof_after_a_message(feed: str) -> None:
    """A connection that ends after a complete message: close without abort."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(C, H, *MESSAGE)
        mta.half_close()
        mta.expect_close()
        assert ["connect", "helo", *MESSAGE_NAMES, "close"] == run.finish()


@pytest.mark.row(16)
def test_data_where_none_belongs(feed: str) -> None:
    """Data after T, N and Q is ignored."""
    with running(feed=feed) as run:
        mta = run.mta()
        mta.play(M, R)
        mta.ask(bytes.fromhex("00000004 54") + b"xyz")
        mta.ask(bytes.fromhex("00000003 4E") + b"zz")
        mta.send(bytes.fromhex("00000004 51") + b"xyz")
        mta.expect_close()
        expected = [
            ("mail", b"<a@b>"),
            ("rcpt", b"<c@d>"),
            ("data",),
            ("eoh",),
            ("abort",),
            ("close",),
        ]
        assert expected == run.finish_calls()


@pytest.mark.row(1)
@pytest.mark.parametrize("conn", [None, "inet:0@127.0.0.1"], ids=["unix", "inet"])
def test_whole_session(feed: str, conn: str | None) -> None:
    """A session with every command, whole and byte by byte, over both kinds of socket."""
    with running(feed=feed, conn=conn) as run:
        mta = run.mta()
        mta.play(C, H, U, M, R, T, L, N, B, E)
        mta.send(K)
        mta.play(C, H)
        mta.send(Q)
        mta.expect_close()
        expected = [
            ("connect", "h", 2, ("192.0.2.1", 1234)),
            ("helo", "h"),
            ("unknown", "FOO"),
            ("mail", b"<a@b>"),
            ("rcpt", b"<c@d>"),
            ("data",),
            ("header", "Subject", b"hi"),
            ("eoh",),
            ("body", b"xy\r\n"),
            ("eom",),
            ("close",),
            ("connect", "h", 2, ("192.0.2.1", 1234)),
            ("helo", "h"),
            ("close",),
        ]
        assert expected == run.finish_calls()
