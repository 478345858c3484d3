"""`Base.negotiate`, step by step, with a context of our own (API spec 2.4)."""

from __future__ import annotations

from typing import Any

import pytest

import Milter


class _Ctx:
    """Records macro lists; may refuse them."""

    def __init__(self, error: Exception | None = None) -> None:
        self.symlists: list[tuple[Any, ...]] = []
        self.error = error

    def setpriv(self, value: Any) -> None:
        pass

    def setsymlist(self, *args: Any) -> None:
        self.symlists.append(args)
        if self.error:
            raise self.error


class Envfrom(Milter.Base):
    """The class of the examples. Its mask is given, since pymilter would inherit a cached one."""

    _protocol_mask = 0x1FF884

    def envfrom(self, f: str, *params: str) -> int:
        return Milter.CONTINUE


def _attached(cls: type = Envfrom, ctx: Any = None) -> Any:
    base = cls()
    base._setctx(ctx or _Ctx())
    return base


def test_example() -> None:
    """Base with envfrom: the offer without its mask is taken, the last two words are zeroed."""
    base = _attached()
    opts = [0x1FF, 0x1FFFFF, 5, 6]
    assert Milter.CONTINUE == base.negotiate(opts)
    assert [0x1FF, 0x77B, 0, 0] == opts
    assert (0x1FF, 0x77B) == (base._actions, base._protocol)


@pytest.mark.parametrize(
    ("actions", "offered", "taken"),
    [(0x3F, 0x7F, 0x7B), (0, 0, 0), (0x1FF, 0x84, 0), (0xF, 0xFF0BF, 0x3B)],
)
def test_only_what_was_offered(actions: int, offered: int, taken: int) -> None:
    """No bit is taken that the MTA did not offer; the actions are the MTA's own."""
    base = _attached()
    opts = [actions, offered, 0, 0]
    assert Milter.CONTINUE == base.negotiate(opts)
    assert [actions, taken, 0, 0] == opts
    assert (actions, taken) == (base._actions, base._protocol)


@pytest.mark.parametrize("opts", [[1, 2, 3], [], [1, 2, 3, 4, 5]])
def test_wrong_length(opts: list[int]) -> None:
    """Options that are not four are left as they are; the answer is ALL_OPTS."""
    base, before = _attached(), list(opts)
    assert Milter.ALL_OPTS == base.negotiate(opts)
    assert before == opts
    assert (0x1FF, 0) == (base._actions, base._protocol)


def test_tuple() -> None:
    """Options that cannot be changed in place: ALL_OPTS, and the actions are the offered ones."""
    base = _attached()
    assert Milter.ALL_OPTS == base.negotiate((0x3F, 0x7F, 0, 0))
    assert 0x3F == base._actions


def test_garbage() -> None:
    """Any exception on the way is swallowed: ALL_OPTS, and `_protocol` stays 0."""
    base = _attached()
    assert Milter.ALL_OPTS == base.negotiate([0x1FF, "x", 0, 0])
    assert 0 == base._protocol
    assert Milter.ALL_OPTS == base.negotiate(None)


def test_protocol_mask_that_raises() -> None:
    """An exception in `protocol_mask` counts too, and the options are left."""

    class Mine(Envfrom):
        @classmethod
        def protocol_mask(cls) -> int:
            raise ValueError("no")

    base = _attached(Mine)
    opts = [0x3F, 0x7F, 1, 2]
    assert Milter.ALL_OPTS == base.negotiate(opts)
    assert [0x3F, 0x7F, 1, 2] == opts
    assert (0x3F, 0) == (base._actions, base._protocol)


def test_symlists_go_through_setsymlist_in_order() -> None:
    """Each list declared with @symlist is handed to `self.setsymlist`, stages in the order of
    MACRO_CALLBACKS, names as separate arguments."""
    calls: list[tuple[Any, ...]] = []

    class Mine(Envfrom):
        def setsymlist(self, stage: int, *macros: str) -> None:
            calls.append((stage, *macros))

        @Milter.symlist("i")
        def eoh(self) -> int:
            return Milter.CONTINUE

        @Milter.symlist("{msg_id}")
        def eom(self) -> int:
            return Milter.CONTINUE

        @Milter.symlist("j", "_")
        def connect(self, hostname: str, family: int, hostaddr: Any) -> int:
            return Milter.CONTINUE

        @Milter.symlist("{auth_authen}")
        @Milter.noreply
        def envfrom(self, f: str, *params: str) -> int:
            return Milter.CONTINUE

    opts = [0x1FF, 0x1FFFFF, 0, 0]
    assert Milter.CONTINUE == _attached(Mine).negotiate(opts)
    assert [(0, "j", "_"), (2, "{auth_authen}"), (5, "{msg_id}"), (6, "i")] == calls


@pytest.mark.ours
def test_symlists_work() -> None:
    """The lists reach the context, the names joined by blanks, and the negotiation goes on."""

    class Mine(Milter.Base):
        @Milter.symlist("j", "{daemon_name}")
        def connect(self, hostname: str, family: int, hostaddr: Any) -> int:
            return Milter.CONTINUE

    ctx = _Ctx()
    opts = [0x1FF, 0x1FFFFF, 0, 0]
    assert Milter.CONTINUE == _attached(Mine, ctx).negotiate(opts)
    assert [(0, b"j {daemon_name}")] == ctx.symlists
    assert [0x1FF, 0x77E, 0, 0] == opts


def test_symlist_that_fails() -> None:
    """If the context refuses a list, the answer is ALL_OPTS, with nothing taken."""

    class Mine(Envfrom):
        @Milter.symlist("j")
        def connect(self, hostname: str, family: int, hostaddr: Any) -> int:
            return Milter.CONTINUE

    base = _attached(Mine, _Ctx(Milter.error("cannot set macro list")))
    opts = [0x3F, 0x7F, 0, 0]
    assert Milter.ALL_OPTS == base.negotiate(opts)
    assert (0x3F, 0) == (base._actions, base._protocol)


def test_symlist_without_the_action() -> None:
    """Lists are an action that the MTA must offer; without SETSYMLIST the answer is ALL_OPTS."""

    class Mine(Envfrom):
        @Milter.symlist("j")
        def connect(self, hostname: str, family: int, hostaddr: Any) -> int:
            return Milter.CONTINUE

    ctx = _Ctx()
    assert Milter.ALL_OPTS == _attached(Mine, ctx).negotiate([0x3F, 0x7F, 0, 0])
    assert [] == ctx.symlists


def test_override_that_calls_super() -> None:
    """A filter may call super() and change the options afterwards."""

    class Mine(Envfrom):
        def negotiate(self, opts: list[int]) -> int:
            result = super().negotiate(opts)
            opts[1] &= ~getattr(Milter, "P_NOHELO", 0)
            return result

    opts = [0x1FF, 0x1FFFFF, 0, 0]
    assert Milter.CONTINUE == _attached(Mine).negotiate(opts)
    assert [0x1FF, 0x779, 0, 0] == opts
