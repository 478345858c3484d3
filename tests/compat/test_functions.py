"""The functions of package `Milter` (API spec 2.8)."""

from __future__ import annotations

import functools
import threading
from collections.abc import Iterator
from typing import Any

import pytest
from compat_support import evaluate

import Milter


class _Ctx:
    """Private data, and nothing else."""

    def __init__(self, priv: Any = None) -> None:
        self.priv = priv

    def getpriv(self) -> Any:
        return self.priv

    def setpriv(self, value: Any) -> Any:
        old, self.priv = self.priv, value
        return old


@pytest.fixture(autouse=True)
def _factory() -> Iterator[None]:
    before = Milter.factory
    yield
    Milter.factory = before


ITEMS = ["SIZE=10", "body=8BitMime", "RET", "=x", "A=", "B=c=d"]


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (ITEMS, {"SIZE": "10", "BODY": "8BitMime", "A": "", "B": "c=d"}),
        ([], {}),
        ([""], {}),
        (["a=1", "A=2"], {"A": "2"}),
        (("SIZE=10",), {"SIZE": "10"}),
    ],
)
def test_dictfromlist(items: Any, expected: dict[str, str]) -> None:
    """Only items with a name before the `=` count; names are upper-cased, the last wins."""
    assert expected == Milter.dictfromlist(items)


@pytest.mark.parametrize(
    ("items", "expected"),
    [
        (ITEMS, {"SIZE": "10", "BODY": "8BitMime", "RET": None, "": "x", "A": "", "B": "c=d"}),
        ([], {}),
        ([""], {"": None}),
        (["a=1", "A=2"], {"A": "2"}),
    ],
)
def test_param2dict(items: list[str], expected: dict[str, Any]) -> None:
    """Every item counts; without a `=` the value is None."""
    assert expected == Milter.param2dict(items)


@pytest.mark.parametrize("function", ["dictfromlist", "param2dict"])
def test_parameters_are_text(function: str) -> None:
    """Bytes are a TypeError."""
    with pytest.raises(TypeError):
        getattr(Milter, function)([b"SIZE=1"])


def test_envcallback() -> None:
    """The first argument and those without a name go by position, the rest by keyword."""
    seen: list[Any] = []

    def f(*args: str, **keywords: str) -> str:
        seen.append((args, keywords))
        return "result"

    args = ("<a@b>", "SIZE=10", "ret=full", "SMTPUTF8", "=x")
    assert "result" == Milter.envcallback(f, args)
    assert [(("<a@b>", "SMTPUTF8", "=x"), {"SIZE": "10", "RET": "full"})] == seen


def test_envcallback_address_with_equals() -> None:
    """The first argument is the address, even with a `=` in it."""
    assert ("<a=b@c>",) == Milter.envcallback(lambda *a: a, ["<a=b@c>"])


def test_envcallback_empty() -> None:
    """Without an address it is an IndexError."""
    with pytest.raises(IndexError):
        Milter.envcallback(print, [])


@pytest.mark.parametrize(
    ("bits", "names", "expected"),
    [
        (0, ["ADDHDRS"], []),
        (0x3, ["ADDHDRS", "CHGBODY"], ["ADDHDRS", "CHGBODY"]),
        (0x2, ["ADDHDRS", "CHGBODY"], ["CHGBODY"]),
        (0x1, ["ADDHDRS"], ["ADDHDRS"]),
        (0, [], []),
    ],
)
def test_decode_mask(bits: int, names: list[str], expected: list[str]) -> None:
    """The names of the bits that are set, in the order asked for."""
    assert expected == Milter.decode_mask(bits, names)


@pytest.mark.ours
@pytest.mark.parametrize(
    ("bits", "names", "expected"),
    [
        (0x13, ["ADDHDRS"], ["ADDHDRS", "0x12"]),
        (0x100, [], ["0x100"]),
        (0x12, ["ADDHDRS"], ["0x12"]),
    ],
)
def test_decode_mask_rest(bits: int, names: list[str], expected: list[str]) -> None:
    """Bits that were not asked for come last as one hexadecimal number, not as characters."""
    assert expected == Milter.decode_mask(bits, names)


def test_decode_mask_unknown_name() -> None:
    """A name that module milter does not have is an AttributeError."""
    with pytest.raises(AttributeError):
        Milter.decode_mask(1, ["NONSENSE"])


def test_unique_id() -> None:
    """The first number of a process is 1; `_seq` is the last one given out."""
    assert [("returned", str(n)) for n in (0, 1, 1, 2, 3, 3)] == evaluate(
        "import Milter",
        "Milter._seq",
        "Milter.uniqueID()",
        "Milter._seq",
        "Milter.uniqueID()",
        "Milter.uniqueID()",
        "Milter._seq",
    )


def test_unique_id_in_threads() -> None:
    """No number is given out twice, by however many threads it is asked for."""
    taken: list[int] = []

    def take() -> None:
        for _ in range(500):
            taken.append(Milter.uniqueID())

    threads = [threading.Thread(target=take) for _ in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert 4000 == len(set(taken))


# -- the callbacks that runmilter installs -----------------------------------------------------


class _Filter(Milter.Base):
    """Notes what it is called with."""

    truth = True

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __bool__(self) -> bool:
        return self.truth

    def negotiate(self, opts: Any) -> int:
        self.seen.append(("negotiate", opts, self._ctx))
        return 10

    def connect(self, *args: Any) -> int:
        self.seen.append(("connect", *args, self._ctx))
        return 4

    def close(self) -> int:
        self.seen.append(("close", self._ctx))
        return 3


def test_negotiate_callback() -> None:
    """A new object of the factory is attached, and its `negotiate` gives the result."""
    Milter.factory = _Filter
    ctx, opts = _Ctx(), [1, 2, 3, 4]
    assert 10 == Milter.negotiate_callback(ctx, opts)
    assert isinstance(ctx.priv, _Filter)
    assert [("negotiate", opts, ctx)] == ctx.priv.seen
    assert ctx.priv.seen[0][1] is opts


def test_negotiate_callback_makes_a_new_object_each_time() -> None:
    """Even when there is one already."""
    Milter.factory = _Filter
    ctx = _Ctx()
    Milter.negotiate_callback(ctx, [])
    first = ctx.priv
    Milter.negotiate_callback(ctx, [])
    assert first is not ctx.priv


def test_connect_callback_uses_what_is_attached() -> None:
    """With an object attached, `connect` is called on it, `nr_mask` or not."""
    Milter.factory = None
    mine, ctx = _Filter(), _Ctx()
    mine._setctx(ctx)
    address = ("192.0.2.1", 25)
    assert 4 == Milter.connect_callback(ctx, "h", 2, address)
    assert 4 == Milter.connect_callback(ctx, "h", 2, address, 0)
    assert 4 == Milter.connect_callback(ctx, "h", 2, address, nr_mask=0)
    assert [("connect", "h", 2, address, ctx)] * 3 == mine.seen


def test_connect_callback_creates() -> None:
    """Without one it is made by the factory."""
    Milter.factory = _Filter
    ctx = _Ctx()
    assert 4 == Milter.connect_callback(ctx, "h", 0, None)
    assert [("connect", "h", 0, None, ctx)] == ctx.priv.seen


def test_connect_callback_replaces_a_false_object() -> None:
    """An object whose truth value is False counts as none."""
    Milter.factory = _Filter
    false = _Filter()
    false.truth = False
    ctx = _Ctx(false)
    Milter.connect_callback(ctx, "h", 0, None)
    assert ctx.priv is not false
    assert [] == false.seen


def test_close_callback() -> None:
    """`close` runs with the context attached; afterwards it is detached, the private data stays."""
    mine, ctx = _Filter(), _Ctx()
    mine._setctx(ctx)
    assert 3 == Milter.close_callback(ctx)
    assert [("close", ctx)] == mine.seen
    assert mine._ctx is None
    assert ctx.priv is mine


def test_close_callback_without_an_object() -> None:
    """Without private data it is CONTINUE."""
    assert Milter.CONTINUE == Milter.close_callback(_Ctx())


def test_close_callback_detaches_after_an_exception() -> None:
    """Also when `close` raises."""

    class Raises(_Filter):
        def close(self) -> int:
            raise KeyError("x")

    mine, ctx = Raises(), _Ctx()
    mine._setctx(ctx)
    with pytest.raises(KeyError):
        Milter.close_callback(ctx)
    assert mine._ctx is None


class _Configured(_Filter):
    def __init__(self, config: Any = None, other: Any = None) -> None:
        super().__init__()
        self.config = config

    def make(self) -> _Configured:
        return _Configured("method")

    def __call__(self) -> _Configured:
        return _Configured("call")


@pytest.mark.parametrize(
    ("factory", "config"),
    [
        (_Configured, None),
        (lambda: _Configured("lambda"), "lambda"),
        (functools.partial(_Configured, "partial", other=1), "partial"),
        (_Configured().make, "method"),
        (_Configured(), "call"),
    ],
    ids=["class", "lambda", "partial", "bound method", "object"],
)
def test_factory_kinds(factory: Any, config: Any) -> None:
    """A factory is anything that can be called without arguments; it is read at each connection."""
    Milter.factory = factory
    one, two = _Ctx(), _Ctx()
    Milter.negotiate_callback(one, [])
    Milter.connect_callback(two, "h", 0, None)
    assert [config, config] == [one.priv.config, two.priv.config]
    assert one.priv is not two.priv


def test_factory_that_raises() -> None:
    """What the factory raises comes out of the callback."""

    def broken() -> Any:
        raise KeyError("x")

    Milter.factory = broken
    with pytest.raises(KeyError):
        Milter.negotiate_callback(_Ctx(), [])
    with pytest.raises(KeyError):
        Milter.connect_callback(_Ctx(), "h", 0, None)


def test_signature_of_runmilter() -> None:
    """The four parameters of pymilter stand in its order with its defaults."""
    import inspect

    parameters = list(inspect.signature(Milter.runmilter).parameters.values())
    kept = [p for p in parameters if p.kind is not inspect.Parameter.KEYWORD_ONLY]
    assert [
        ("name", inspect.Parameter.empty),
        ("socketname", inspect.Parameter.empty),
        ("timeout", 0),
        ("rmsock", True),
    ] == [(p.name, p.default) for p in kept]
