r"""From the low level's bytes to what `envfrom`, `envrcpt` and `header` get (API spec 2.6)."""

from __future__ import annotations

from typing import Any

import pytest

import Milter

BAD = (b"<\xe9@b>", b"SIZE=1")
#: Strategy -> (envfrom's arguments for BAD, header value for b"h\xe9").
TABLE: dict[Any, tuple[tuple[Any, ...], Any]] = {
    None: (("<\udce9@b>", "SIZE=1"), "h\udce9"),
    "surrogateescape": (("<\udce9@b>", "SIZE=1"), "h\udce9"),
    "bytes": ((b"<\xe9@b>", b"SIZE=1"), b"h\xe9"),
    "strict": ((b"<\xe9@b>", b"SIZE=1"), b"h\xe9"),
    "ignore": (("<@b>", "SIZE=1"), "h"),
    "replace": (("<\ufffd@b>", "SIZE=1"), "h\ufffd"),
    "backslashreplace": (("<\\xe9@b>", "SIZE=1"), "h\\xe9"),
}
STRATEGIES = list(TABLE)


def _filter(strategy: Any, result: Any = 3) -> Any:
    """An instance whose three methods are decorated with the strategy and note what they get."""

    def note(name: str) -> Any:
        def method(self: Any, *args: Any) -> Any:
            self.seen.append((name, *args))
            if isinstance(result, Exception):
                raise result
            return result

        method.__name__ = name
        return method if strategy is None else Milter.decode(strategy)(method)

    methods = {name: note(name) for name in ("envfrom", "envrcpt", "header")}
    instance = type("Mine", (Milter.Base,), methods)()
    instance.seen = []
    return instance


@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("name", ["envfrom", "envrcpt"])
def test_envelope(name: str, strategy: Any) -> None:
    """Sender, recipient and parameters are decoded as the method's strategy says; one that cannot
    be decoded makes all of them bytes. The method's result is returned."""
    mine = _filter(strategy)
    assert 3 == getattr(mine, name + "_bytes")(*BAD)
    assert [(name, *TABLE[strategy][0])] == mine.seen


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_header(strategy: Any) -> None:
    """A header's value is decoded the same way; its name is text already."""
    mine = _filter(strategy)
    assert 3 == mine.header_bytes("Subject", b"h\xe9")
    assert [("header", "Subject", TABLE[strategy][1])] == mine.seen


@pytest.mark.parametrize("strategy", [s for s in STRATEGIES if s != "bytes"])
def test_good_utf8(strategy: Any) -> None:
    """Valid UTF-8 becomes text under every strategy but `bytes`."""
    mine = _filter(strategy)
    mine.envfrom_bytes("<é@b>".encode(), b"SMTPUTF8")
    mine.header_bytes("Subject", "h€".encode())
    assert [("envfrom", "<é@b>", "SMTPUTF8"), ("header", "Subject", "h€")] == mine.seen


@pytest.mark.parametrize("position", [0, 1, 2])
def test_one_bad_item_makes_all_bytes(position: int) -> None:
    """With `strict`, one parameter that is not UTF-8 turns every item into bytes."""
    items = [b"<a@b>", b"A=1", b"B=2"]
    items[position] += b"\xff"
    mine = _filter("strict")
    mine.envrcpt_bytes(*items)
    assert [("envrcpt", *items)] == mine.seen


@pytest.mark.parametrize("strategy", [None, "strict"])
@pytest.mark.parametrize("name", ["envfrom_bytes", "envrcpt_bytes"])
def test_nothing_at_all(name: str, strategy: Any) -> None:
    """Called without an argument, the envelope methods raise an IndexError."""
    with pytest.raises(IndexError):
        getattr(_filter(strategy), name)()


def test_unknown_strategy() -> None:
    """A strategy that Python does not know is a LookupError, and only when bad bytes occur."""
    mine = _filter("nonsense")
    mine.envfrom_bytes(b"<a@b>")
    assert [("envfrom", "<a@b>")] == mine.seen
    with pytest.raises(LookupError):
        mine.envfrom_bytes(*BAD)
    with pytest.raises(LookupError):
        mine.header_bytes("Subject", b"\xe9")


def test_bytes_header_takes_a_short_cut() -> None:
    """The first header under `bytes` makes the method itself the instance's `header_bytes`."""
    mine = _filter("bytes")
    assert "header_bytes" not in vars(mine)
    mine.header_bytes("A", b"1")
    assert mine.header == vars(mine)["header_bytes"]
    mine.header_bytes("B", b"2")
    assert [("header", "A", b"1"), ("header", "B", b"2")] == mine.seen


@pytest.mark.parametrize("strategy", ["strict", None, "replace"])
def test_other_strategies_take_none(strategy: Any) -> None:
    """Under the others nothing is stored on the instance."""
    mine = _filter(strategy)
    mine.header_bytes("A", b"\xe9")
    assert ["seen"] == list(vars(mine))


@pytest.mark.parametrize("strategy", STRATEGIES)
def test_other_exceptions_pass(strategy: Any) -> None:
    """What the method raises comes out, after one call."""
    for call in ("envfrom_bytes", "header_bytes"):
        mine = _filter(strategy, KeyError("x"))
        with pytest.raises(KeyError):
            getattr(mine, call)(*(("A", b"1") if call == "header_bytes" else (b"<a@b>",)))
        assert 1 == len(mine.seen)


@pytest.mark.ours
@pytest.mark.parametrize("strategy", STRATEGIES)
@pytest.mark.parametrize("value", [b"ok", b"\xe9"])
def test_a_decode_error_of_the_method_is_its_own(strategy: Any, value: bytes) -> None:
    """A UnicodeDecodeError that the method itself raises is not mistaken for one of the arguments:
    the method is called once, and the error comes out."""
    error = UnicodeDecodeError("ascii", b"\xff", 0, 1, "mine")
    for call, args in (
        ("envfrom_bytes", (value,)),
        ("envrcpt_bytes", (value,)),
        ("header_bytes", ("A", value)),
    ):
        mine = _filter(strategy, error)
        with pytest.raises(UnicodeDecodeError) as caught:
            getattr(mine, call)(*args)
        assert caught.value is error
        assert 1 == len(mine.seen)


def test_strategy_is_looked_up_on_the_method_of_the_instance() -> None:
    """A subclass that overrides without the decorator is back at surrogateescape."""

    class Parent(Milter.Base):
        @Milter.decode("bytes")
        def envfrom(self, f: Any, *params: Any) -> int:
            return Milter.CONTINUE

    class Child(Parent):
        def envfrom(self, f: Any, *params: Any) -> int:
            self.got = f
            return Milter.CONTINUE

    child = Child()
    child.envfrom_bytes(b"<\xe9>")
    assert "<\udce9>" == child.got


def test_surrogates_give_the_bytes_back() -> None:
    """What surrogateescape made can be encoded to what was on the wire."""
    mine = _filter(None)
    every = bytes(range(1, 256))
    mine.header_bytes("A", every)
    assert every == mine.seen[0][2].encode("utf-8", "surrogateescape")


def test_undecorated_default_methods() -> None:
    """The three go through Base's own methods, too."""
    base = Milter.Base()
    assert Milter.CONTINUE == base.envfrom_bytes(b"<a>")
    assert Milter.CONTINUE == base.envrcpt_bytes(b"<a>")
    assert Milter.CONTINUE == base.header_bytes("A", b"b")
