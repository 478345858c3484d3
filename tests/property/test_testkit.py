"""Whatever message is fed to a filter under test, the kit does not fail and loses nothing."""

from __future__ import annotations

import io
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

import Milter
from Milter.testctx import TestCtx

pytestmark = pytest.mark.one_mode("it serves nothing")

LINES = st.one_of(
    st.binary(max_size=20),
    st.sampled_from([b"A: 1", b" folded", b"From x", b"", b"Content-Transfer-Encoding: base64"]),
    st.sampled_from([b"Content-Type: multipart/mixed; boundary=b", b"--b", b"--b--", b"X: \xe9"]),
)

MESSAGES = st.one_of(
    st.binary(max_size=200),
    st.tuples(st.lists(LINES, max_size=12), st.sampled_from([b"\n", b"\r\n", b"\r"])).map(
        lambda drawn: drawn[1].join(drawn[0])
    ),
)


class Collects(Milter.Base):
    """Puts the message together again."""

    def __init__(self) -> None:
        self.whole = b""

    def header(self, field: str, value: Any) -> int:
        self.whole += f"{field}: {value}\n".encode("utf-8", "surrogateescape")
        return Milter.CONTINUE

    def eoh(self) -> int:
        self.whole += b"\n"
        return Milter.CONTINUE

    def body(self, blk: bytes) -> int:
        self.whole += blk
        return Milter.CONTINUE


def fed(data: bytes) -> TestCtx:
    """Feed a message to such a filter."""
    factory, Milter.factory = Milter.factory, Collects
    try:
        ctx = TestCtx()
        ctx._connect()
        assert Milter.CONTINUE == ctx._feedFile(io.BytesIO(data))
        return ctx
    finally:
        Milter.factory = factory


@given(MESSAGES)
def test_any_bytes(data: bytes) -> None:
    """The filter gets what `_body` has, and no byte of a body is lost but for line ends."""
    ctx = fed(data)
    assert ctx._body is not None
    assert ctx._body.getvalue() == ctx._priv.whole


@given(st.binary(max_size=300))
def test_any_body(body: bytes) -> None:
    """A body comes through as it was, with LF for every line end."""
    ctx = fed(b"A: 1\n\n" + body)
    wanted = body.replace(b"\r\n", b"\n").replace(b"\r", b"\n")
    assert b"A: 1\n\n" + wanted == ctx._priv.whole
