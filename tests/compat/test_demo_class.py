"""`Milter.Milter`, the demonstration class and default factory (API spec 2.10)."""

from __future__ import annotations

import pytest

import Milter

#: Method, arguments, text of the line after "Milter:".
LINES = [
    ("connect", ("h", 2, ("192.0.2.7", 25)), "connect from h at ('192.0.2.7', 25)"),
    ("hello", ("x.y",), "hello from x.y"),
    ("envfrom", ("<a@b>", "SIZE=1", "X"), "mail from <a@b> ('SIZE=1', 'X')"),
    ("envrcpt", ("<c@d>",), "rcpt to <c@d> ()"),
    ("header", ("Subject", "hi there"), "Subject: hi there"),
    ("eoh", (), "eoh"),
    ("eom", (), "eom"),
    ("abort", (), "abort"),
    ("close", (), "close"),
]


@pytest.fixture
def demo() -> Milter.Milter:
    """An instance for which no "no reply" bit was negotiated."""
    instance = Milter.Milter()
    instance._setctx(None)
    return instance


@pytest.mark.parametrize(("method", "args", "line"), LINES)
def test_words(
    demo: Milter.Milter, capsys: pytest.CaptureFixture[str], method: str, args: tuple, line: str
) -> None:
    """Each of these methods logs its step and answers CONTINUE."""
    assert Milter.CONTINUE == getattr(demo, method)(*args)
    assert ["Milter:", *line.split()] == capsys.readouterr().out.split()


@pytest.mark.ours
@pytest.mark.parametrize(("method", "args", "line"), LINES)
def test_one_line_each(
    demo: Milter.Milter, capsys: pytest.CaptureFixture[str], method: str, args: tuple, line: str
) -> None:
    """One log call is one line (pymilter: one line for each item, and an empty one)."""
    getattr(demo, method)(*args)
    assert f"Milter: {line}\n" == capsys.readouterr().out


@pytest.mark.ours
def test_log(demo: Milter.Milter, capsys: pytest.CaptureFixture[str]) -> None:
    """`log` prints all its arguments on one line and returns None."""
    assert demo.log("a", 1, None) is None
    assert "Milter: a 1 None\n" == capsys.readouterr().out


@pytest.mark.parametrize(
    ("method", "args"), [("body", (b"x",)), ("data", ()), ("unknown", ("FOO",))]
)
def test_silent(
    demo: Milter.Milter, capsys: pytest.CaptureFixture[str], method: str, args: tuple
) -> None:
    """body, data and unknown stay switched off."""
    assert Milter.CONTINUE == getattr(demo, method)(*args)
    assert "" == capsys.readouterr().out
    assert getattr(Milter.Milter, method) is getattr(Milter.Base, method)


@pytest.mark.parametrize(
    ("method", "args", "bit"),
    [
        ("connect", ("h", 0, None), 0x1000),
        ("hello", ("x",), 0x2000),
        ("envfrom", ("<a>",), 0x4000),
        ("envrcpt", ("<a>",), 0x8000),
        ("header", ("a", "b"), 0x80),
        ("eoh", (), 0x40000),
    ],
)
def test_no_reply(demo: Milter.Milter, method: str, args: tuple, bit: int) -> None:
    """The other six steps are @noreply."""
    demo._protocol = bit
    assert Milter.NOREPLY == getattr(demo, method)(*args)
    assert bit == getattr(Milter.Milter, method).milter_protocol


def test_is_the_default_factory() -> None:
    """It is what `Milter.factory` makes, without arguments."""
    assert Milter.factory is Milter.Milter
    assert isinstance(Milter.factory(), Milter.Base)
