"""`Milter.Base`: the callbacks' defaults and the context's place in it (API spec 2.2)."""

from __future__ import annotations

from typing import Any

import pytest

import Milter

#: Method -> (arguments as the dispatch gives them, the NO* bit that its default carries).
OPTIONAL = {
    "connect": (("host", 2, ("192.0.2.1", 25)), 0x1),
    "hello": (("name",), 0x2),
    "envfrom": (("<a@b>", "SIZE=1"), 0x4),
    "envrcpt": (("<c@d>", "NOTIFY=NEVER"), 0x8),
    "data": ((), 0x200),
    "header": (("Subject", "hi"), 0x20),
    "eoh": ((), 0x40),
    "body": ((b"x",), 0x10),
    "unknown": (("FOO",), 0x100),
}
FIXED = ["eom", "abort", "close"]


class _Ctx:
    """Records what is set on it."""

    def __init__(self) -> None:
        self.privs: list[Any] = []

    def setpriv(self, value: Any) -> None:
        self.privs.append(value)


class _FalseCtx(_Ctx):
    def __bool__(self) -> bool:
        return False


@pytest.mark.parametrize("name", OPTIONAL)
def test_optional_default(name: str) -> None:
    """The default of an optional callback answers CONTINUE and says "do not send"."""
    args, bit = OPTIONAL[name]
    assert Milter.CONTINUE == getattr(Milter.Base(), name)(*args)
    assert bit == getattr(Milter.Base, name).milter_protocol
    assert name == getattr(Milter.Base, name).__name__


@pytest.mark.parametrize("name", FIXED)
def test_fixed_default(name: str) -> None:
    """eom, abort and close answer CONTINUE and cannot be switched off."""
    assert Milter.CONTINUE == getattr(Milter.Base(), name)()
    assert not hasattr(getattr(Milter.Base, name), "milter_protocol")


@pytest.mark.parametrize(
    ("name", "keywords"),
    [
        ("connect", {"hostname": "h", "family": 2, "hostaddr": ("192.0.2.1", 25)}),
        ("hello", {"hostname": "h"}),
        ("header", {"field": "a", "value": "b"}),
        ("body", {"blk": b""}),
        ("unknown", {"cmd": ""}),
    ],
)
def test_optional_defaults_take_positions_only(name: str, keywords: dict[str, Any]) -> None:
    """The nine optional defaults refuse keyword arguments."""
    with pytest.raises(TypeError):
        getattr(Milter.Base(), name)(**keywords)


def test_log_does_nothing(capfd: pytest.CaptureFixture[str]) -> None:
    """`log` takes anything, prints nothing and returns None."""
    assert Milter.Base().log() is None
    assert Milter.Base().log("a", 1, None) is None
    assert ("", "") == tuple(capfd.readouterr())


def test_no_init() -> None:
    """Base has no `__init__`: subclasses do not call super().__init__()."""
    assert "__init__" not in vars(Milter.Base)
    assert {} == vars(Milter.Base())


@pytest.mark.parametrize("name", ["_ctx", "_actions", "_protocol"])
def test_no_attributes_before_a_connection(name: str) -> None:
    """Before `_setctx` the instance has none of the three attributes."""
    with pytest.raises(AttributeError):
        getattr(Milter.Base(), name)


def test_setctx() -> None:
    """`_setctx` sets the three attributes and makes the instance the context's private data."""
    base, ctx = Milter.Base(), _Ctx()
    base._setctx(ctx)
    assert {"_ctx": ctx, "_actions": 0x1FF, "_protocol": 0} == vars(base)
    assert [base] == ctx.privs


def test_setctx_none_detaches() -> None:
    """`_setctx(None)` resets the attributes and leaves the old context's private data."""
    base, ctx = Milter.Base(), _Ctx()
    base._setctx(ctx)
    base._actions, base._protocol = 1, 2
    base._setctx(None)
    assert {"_ctx": None, "_actions": 0x1FF, "_protocol": 0} == vars(base)
    assert [base] == ctx.privs


def test_setctx_with_a_false_context() -> None:
    """A context whose truth value is False is stored but not told."""
    base, ctx = Milter.Base(), _FalseCtx()
    base._setctx(ctx)
    assert base._ctx is ctx
    assert [] == ctx.privs


def test_subclass_without_super_init() -> None:
    """A subclass with an `__init__` of its own need not call Base's."""

    class Mine(Milter.Base):
        def __init__(self) -> None:
            self.id = 7

    mine = Mine()
    mine._setctx(_Ctx())
    assert 7 == mine.id
    assert Milter.CONTINUE == mine.eom()


def test_members() -> None:
    """Base has the members of API spec 2.2 and 2.7."""
    members = [
        *OPTIONAL,
        *FIXED,
        *["log", "envfrom_bytes", "envrcpt_bytes", "header_bytes", "negotiate", "protocol_mask"],
        *["_setctx", "addheader", "chgheader", "addrcpt", "delrcpt", "replacebody", "chgfrom"],
        *["quarantine", "setsymlist", "progress", "getsymval", "setreply"],
    ]
    assert [] == [name for name in members if not callable(getattr(Milter.Base, name, None))]
