"""The decorators of package `Milter` (API spec 2.5)."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import pytest

import Milter

NO = {name: bits[1] for name, bits in {
    "connect": (0x1000, 0x1),
    "hello": (0x2000, 0x2),
    "envfrom": (0x4000, 0x4),
    "envrcpt": (0x8000, 0x8),
    "data": (0x10000, 0x200),
    "unknown": (0x20000, 0x100),
    "eoh": (0x40000, 0x40),
    "body": (0x80000, 0x10),
    "header": (0x80, 0x20),
}.items()}  # fmt: skip
NR = {
    "connect": 0x1000,
    "hello": 0x2000,
    "envfrom": 0x4000,
    "envrcpt": 0x8000,
    "data": 0x10000,
    "unknown": 0x20000,
    "eoh": 0x40000,
    "body": 0x80000,
    "header": 0x80,
}
NOT_OPTIONAL = ["eom", "abort", "close", "negotiate", "log", "helo", "foo"]


class _Self:
    """Stands in for a Base instance: the wrappers need only `_protocol`."""

    def __init__(self, protocol: int = 0) -> None:
        self._protocol = protocol


def _named(name: str, result: Any = 0) -> Callable[..., Any]:
    """A function of that name that notes its arguments and gives the result."""

    def function(self: Any, *args: Any) -> Any:
        function.seen = args  # type: ignore[attr-defined]
        if isinstance(result, BaseException):
            raise result
        return result

    function.__name__ = name
    function.__doc__ = "documented"
    return function


# -- nocallback --------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NO)
def test_nocallback(name: str) -> None:
    """@nocallback marks function and wrapper with the NO bit and passes the arguments on."""
    function = _named(name)
    wrapper: Any = Milter.nocallback(function)
    assert NO[name] == wrapper.milter_protocol
    assert NO[name] == function.milter_protocol  # type: ignore[attr-defined]
    assert wrapper.__wrapped__ is function
    assert (name, "documented") == (wrapper.__name__, wrapper.__doc__)
    assert Milter.CONTINUE == wrapper(_Self(), 1, 2)
    assert (1, 2) == function.seen  # type: ignore[attr-defined]
    with pytest.raises(TypeError):
        wrapper(_Self(), a=1)


@pytest.mark.parametrize("result", [1, 3, 4, 7, None, "x"])
def test_nocallback_result(result: Any) -> None:
    """Any result but CONTINUE is a RuntimeError that names the method."""
    with pytest.raises(RuntimeError) as caught:
        Milter.nocallback(_named("header", result))(_Self(), "a", "b")
    assert "header return code must be CONTINUE with @nocallback" == str(caught.value)
    assert RuntimeError is caught.type


@pytest.mark.parametrize("name", NOT_OPTIONAL)
def test_nocallback_elsewhere(name: str) -> None:
    """On a method that is not optional it is a ValueError."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        Milter.nocallback(_named(name))
    assert f"@nocallback applied to non-optional method: {name}" == str(caught.value)


# -- noreply -----------------------------------------------------------------------------------


@pytest.mark.parametrize("name", NR)
def test_noreply(name: str) -> None:
    """@noreply marks the wrapper alone with the NR bit, and answers NOREPLY if that bit was
    negotiated."""
    function = _named(name)
    wrapper: Any = Milter.noreply(function)
    assert NR[name] == wrapper.milter_protocol
    assert not hasattr(function, "milter_protocol")
    assert wrapper.__wrapped__ is function
    assert (name, "documented") == (wrapper.__name__, wrapper.__doc__)
    assert Milter.NOREPLY == wrapper(_Self(NR[name]), 1, 2)
    assert (1, 2) == function.seen  # type: ignore[attr-defined]
    assert Milter.NOREPLY == wrapper(_Self(0x1FFFFF))


@pytest.mark.parametrize("result", [1, 2, 3, 4, 7, 8, None, "x"])
def test_noreply_result_with_the_bit(result: Any) -> None:
    """With the bit negotiated any result but CONTINUE is a RuntimeError that names the method."""
    with pytest.raises(RuntimeError) as caught:
        Milter.noreply(_named("envrcpt", result))(_Self(0x8000), "a")
    assert "envrcpt return code must be CONTINUE with @noreply" == str(caught.value)


@pytest.mark.parametrize("result", [0, 1, 2, 3, 4, 7, 8, None, "x"])
def test_noreply_result_without_the_bit(result: Any) -> None:
    """Without it the result passes unchanged."""
    assert result is Milter.noreply(_named("envrcpt", result))(_Self(0x1FFFFF & ~0x8000), "a")


def test_noreply_reads_the_constant_at_each_call(monkeypatch: pytest.MonkeyPatch) -> None:
    """What is answered is `Milter.NOREPLY` as it is at the call: test helpers change it."""
    wrapper = Milter.noreply(_named("eoh"))
    assert 7 == wrapper(_Self(0x40000))
    monkeypatch.setattr(Milter, "NOREPLY", Milter.CONTINUE)
    assert 0 == wrapper(_Self(0x40000))


@pytest.mark.parametrize("name", NOT_OPTIONAL)
def test_noreply_elsewhere(name: str) -> None:
    """On a method that is not optional it is a ValueError."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        Milter.noreply(_named(name))
    assert f"@noreply applied to non-optional method: {name}" == str(caught.value)


def test_exceptions_pass() -> None:
    """An exception of the method comes out of either wrapper as it is."""
    error = KeyError("x")
    for decorator in (Milter.noreply, Milter.nocallback):
        with pytest.raises(KeyError) as caught:
            decorator(_named("body", error))(_Self(0x80000), b"")
        assert caught.value is error


# -- decode, symlist ---------------------------------------------------------------------------


@pytest.mark.parametrize("strategy", ["bytes", "strict", "replace", "nonsense", None, 5])
def test_decode(strategy: Any) -> None:
    """@decode notes the strategy on the function itself, whatever it is and whatever the name."""
    function = _named("foo")
    decorated: Any = Milter.decode(strategy)(function)
    assert decorated is function
    assert strategy == decorated.error_strategy


@pytest.mark.parametrize("name", ["connect", "hello", "envfrom", "envrcpt", "data", "eom", "eoh"])
def test_symlist(name: str) -> None:
    """@symlist notes up to five names on the function itself."""
    for names in [(), ("j",), ("i", "j", "_", "{a}", "{b}")]:
        function = _named(name)
        decorated: Any = Milter.symlist(*names)(function)
        assert decorated is function
        assert names == decorated._symlist


def test_symlist_too_long() -> None:
    """A sixth name is a ValueError that names the method."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        Milter.symlist(*"abcdef")(_named("envfrom"))
    assert "@symlist limited to 5 macros by MTA: envfrom" == str(caught.value)


@pytest.mark.parametrize("name", ["header", "body", "unknown", "abort", "close", "helo", "foo"])
def test_symlist_elsewhere(name: str) -> None:
    """On a method without a macro stage it is a ValueError."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        Milter.symlist("j")(_named(name))
    assert f"@symlist applied to non-symlist method: {name}" == str(caught.value)


# -- stacking ----------------------------------------------------------------------------------


def test_stacking_keeps_attributes() -> None:
    """decode, symlist and noreply can be stacked in any order; no attribute is lost."""
    decorators = [Milter.noreply, Milter.decode("bytes"), Milter.symlist("i", "{x}")]
    for order in [(0, 1, 2), (0, 2, 1), (1, 0, 2), (1, 2, 0), (2, 0, 1), (2, 1, 0)]:
        function: Any = _named("envfrom")
        for index in order:
            function = decorators[index](function)
        assert ("bytes", ("i", "{x}"), 0x4000) == (
            function.error_strategy,
            function._symlist,
            function.milter_protocol,
        )


def test_the_outer_of_noreply_and_nocallback_counts() -> None:
    """Of noreply and nocallback on one method the outer one decides what is negotiated."""
    outer_noreply: Any = Milter.noreply(Milter.nocallback(_named("hello")))
    outer_nocallback: Any = Milter.nocallback(Milter.noreply(_named("hello")))
    assert (0x2000, 0x2) == (outer_noreply.milter_protocol, outer_nocallback.milter_protocol)


# -- class decorators --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("decorator", "bit"),
    [(Milter.rejected_recipients, 0x800), (Milter.header_leading_space, 0x100000)],
)
def test_class_decorators(decorator: Any, bit: int) -> None:
    """They take their bit out of the class's mask and return the class."""

    class Mine(Milter.Base):
        _protocol_mask = 0x1FF884

    assert decorator(Mine) is Mine
    assert 0x1FF884 & ~bit == Mine.protocol_mask()
    assert 0x1FF884 & ~bit == Mine._protocol_mask


def test_enable_protocols() -> None:
    """`enable_protocols` takes any bits out of the mask, adds none, and returns the class."""

    class Mine(Milter.Base):
        _protocol_mask = 0x1FF884

    assert Milter.enable_protocols(Mine, 0x800 | 0x4 | 0x1) is Mine
    assert 0x1FF080 == Mine.protocol_mask()
    assert Milter.enable_protocols(Mine, 0x100000) is Mine
    assert 0x0FF080 == Mine._protocol_mask
