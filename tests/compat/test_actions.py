"""The action methods of `Milter.Base`: the check, the delegation, the texts (API spec 2.7)."""

from __future__ import annotations

from typing import Any

import pytest

import Milter


class _Ctx:
    """Records every method call, positional and keyword, and gives a result of its own."""

    def __init__(self) -> None:
        self.calls: list[tuple[Any, ...]] = []

    def setpriv(self, value: Any) -> None:
        pass

    def __getattr__(self, name: str) -> Any:
        def method(*args: Any, **keywords: Any) -> str:
            self.calls.append((name, *args, *([keywords] if keywords else [])))
            return "result of " + name

        return method


@pytest.fixture
def base() -> Any:
    """An instance with a recording context in `_ctx` and all actions."""
    instance = Milter.Base()
    instance._setctx(_Ctx())
    return instance


#: Call -> (the bit's name in the exception, the bit, what the context gets).
ACTIONS = [
    ("addheader", ("A", "b"), "ADDHDRS", 0x1, ("addheader", "A", "b", -1)),
    ("addheader", ("A", "b", 0), "ADDHDRS", 0x1, ("addheader", "A", "b", 0)),
    ("chgheader", ("A", 1, "b"), "CHGHDRS", 0x10, ("chgheader", "A", 1, "b")),
    ("chgheader", ("A", 0, None), "CHGHDRS", 0x10, ("chgheader", "A", 0, None)),
    ("addrcpt", ("<r>",), "ADDRCPT", 0x4, ("addrcpt", "<r>", None)),
    ("addrcpt", ("<r>", ""), "ADDRCPT", 0x4, ("addrcpt", "<r>", "")),
    ("addrcpt", ("<r>", "A=1"), "ADDRCPT", 0x4, ("addrcpt", "<r>", "A=1")),
    ("delrcpt", ("<r>",), "DELRCPT", 0x8, ("delrcpt", "<r>")),
    ("replacebody", (b"x",), "MODBODY", 0x2, ("replacebody", b"x")),
    ("chgfrom", ("<s>",), "CHGFROM", 0x40, ("chgfrom", "<s>", None)),
    ("chgfrom", ("<s>", "A=1"), "CHGFROM", 0x40, ("chgfrom", "<s>", "A=1")),
    ("quarantine", ("why",), "QUARANTINE", 0x20, ("quarantine", "why")),
    ("setsymlist", (0, "j", "_"), "SETSYMLIST", 0x100, ("setsymlist", 0, b"j _")),
]


@pytest.mark.parametrize(("method", "args", "name", "bit", "call"), ACTIONS)
def test_action(base: Any, method: str, args: Any, name: str, bit: int, call: Any) -> None:
    """With all bits the action is handed on to the context, positionally."""
    getattr(base, method)(*args)
    assert [call] == base._ctx.calls


@pytest.mark.parametrize(("method", "args", "name", "bit", "call"), ACTIONS)
def test_action_not_negotiated(
    base: Any, method: str, args: Any, name: str, bit: int, call: Any
) -> None:
    """Without its bit it is a DisabledAction that names the bit, and the context hears nothing."""
    base._actions = 0x1FF & ~bit
    with pytest.raises(Milter.DisabledAction) as caught:
        getattr(base, method)(*args)
    assert name == str(caught.value)
    assert [] == base._ctx.calls


@pytest.mark.parametrize(("method", "args", "name", "bit", "call"), ACTIONS)
def test_action_with_its_bit_alone(
    base: Any, method: str, args: Any, name: str, bit: int, call: Any
) -> None:
    """No other bit is needed, but for recipient parameters."""
    base._actions = bit
    if args == ("<r>", "A=1"):
        base._actions |= 0x80
    getattr(base, method)(*args)
    assert [call] == base._ctx.calls


def test_results_come_back(base: Any) -> None:
    """Every delegating method returns what the context returned."""
    assert "result of addheader" == base.addheader("A", "b")
    assert "result of chgheader" == base.chgheader("A", 1, "b")
    assert "result of addrcpt" == base.addrcpt("<r>")
    assert "result of delrcpt" == base.delrcpt("<r>")
    assert "result of replacebody" == base.replacebody("x")
    assert "result of chgfrom" == base.chgfrom("<s>")
    assert "result of quarantine" == base.quarantine("why")
    assert "result of progress" == base.progress()
    assert "result of getsymval" == base.getsymval("j")
    assert "result of setreply" == base.setreply("550", "5.7.1", "no")


def test_recipient_parameters_need_their_bit(base: Any) -> None:
    """Parameters that are not empty need ADDRCPT_PAR; empty ones and None do not."""
    base._actions = 0x1FF & ~0x80
    base.addrcpt("<r>")
    base.addrcpt("<r>", None)
    base.addrcpt("<r>", "")
    with pytest.raises(Milter.DisabledAction) as caught:
        base.addrcpt("<r>", "A=1")
    assert "ADDRCPT_PAR" == str(caught.value)
    assert 3 == len(base._ctx.calls)


def test_actions_without_a_bit(base: Any) -> None:
    """progress, getsymval and setreply ask for no bit."""
    base._actions = 0
    base.progress()
    base.getsymval("{x}")
    base.setreply("450", "4.7.1", "later", "more")
    assert [
        ("progress",),
        ("getsymval", "{x}"),
        ("setreply", "450", "4.7.1", "later", "more"),
    ] == base._ctx.calls


def test_keywords_of_the_methods(base: Any) -> None:
    """The parameter names are pymilter's."""
    base.addheader(field="A", value="b", idx=2)
    base.chgheader(field="A", idx=1, value="b")
    base.addrcpt(rcpt="<r>", params="A=1")
    base.delrcpt(rcpt="<r>")
    base.replacebody(body=b"x")
    base.chgfrom(sender="<s>", params=None)
    base.quarantine(reason="why")
    base.getsymval(sym="j")
    base.setreply(rcode="550", xcode="5.7.1", msg="no")
    assert [
        ("addheader", "A", "b", 2),
        ("chgheader", "A", 1, "b"),
        ("addrcpt", "<r>", "A=1"),
        ("delrcpt", "<r>"),
        ("replacebody", b"x"),
        ("chgfrom", "<s>", None),
        ("quarantine", "why"),
        ("getsymval", "j"),
        ("setreply", "550", "5.7.1", "no"),
    ] == base._ctx.calls


@pytest.mark.parametrize(
    "lines", [("50%",), ("50%%%",), ("ok", "a%b"), ("%",), ("ok", "fine", "%%% x")]
)
def test_setreply_lone_percent(base: Any, lines: tuple[str, ...]) -> None:
    """A run of an odd number of percent signs in any line is a ValueError that shows the line."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        base.setreply("550", "5.7.1", *lines)
    (line,) = [line for line in lines if "%" in line]
    assert f"'%' must be doubled: {line}" == str(caught.value)
    assert [] == base._ctx.calls


@pytest.mark.parametrize("line", ["50%%", "%%%%", "a%%b%%c", "", "no percent"])
def test_setreply_doubled_percent(base: Any, line: str) -> None:
    """Doubled percent signs are handed on as they are, still doubled."""
    base.setreply("550", "5.7.1", line, line)
    assert [("setreply", "550", "5.7.1", line, line)] == base._ctx.calls


@pytest.mark.ours
@pytest.mark.parametrize("args", [("550",), ("550", "5.7.1"), ("550", "5.7.1", None)])
def test_setreply_without_text(base: Any, args: tuple[Any, ...]) -> None:
    """No message means no text: the context gets the two codes alone (pymilter: a TypeError)."""
    base.setreply(*args)
    code, xcode = (*args, None)[:2]
    assert [("setreply", code, xcode)] == base._ctx.calls


@pytest.mark.parametrize("count", [6, 7])
def test_setsymlist_limit(base: Any, count: int) -> None:
    """More than five names are a ValueError."""
    with pytest.raises(ValueError) as caught:  # noqa: PT011 - the text is compared below
        base.setsymlist(0, *["j"] * count)
    assert "setsymlist limited to 5 macros by MTA" == str(caught.value)
    assert [] == base._ctx.calls


@pytest.mark.parametrize(
    ("macros", "passed"),
    [
        (("j", "_"), b"j _"),
        (("j",), b"j"),
        ((), b""),
        (("a b c d e f",), b"a b c d e f"),
        ((b"j i", "k"), b"j i k"),
        ((b"j",), b"j"),
        ((["j"],), b""),
        ((["j"], "i", 5, None), b"i"),
        (("{auth_authen}", "i"), b"{auth_authen} i"),
        (("é",), b"\xc3\xa9"),
    ],
)
def test_setsymlist_joins(base: Any, macros: tuple[Any, ...], passed: bytes) -> None:
    """Text is encoded, bytes are split at single blanks, anything else is dropped; all pieces are
    joined by blanks and handed over as bytes."""
    base.setsymlist(3, *macros)
    assert [("setsymlist", 3, passed)] == base._ctx.calls


def test_without_setctx() -> None:
    """Before a connection there is nothing to act on: AttributeError."""
    for call in (
        lambda b: b.addheader("A", "b"),
        lambda b: b.progress(),
        lambda b: b.getsymval("j"),
        lambda b: b.setreply("550", "5.7.1", "no"),
    ):
        with pytest.raises(AttributeError):
            call(Milter.Base())


def test_fake_context_and_masks_set_by_hand() -> None:
    """Unit tests of filters put a fake into `_ctx` and set the masks themselves."""
    mine = Milter.Base()
    mine._ctx = _Ctx()
    mine._actions = Milter.ADDHDRS
    mine._protocol = 0
    mine.addheader("A", "b")
    with pytest.raises(Milter.DisabledAction):
        mine.quarantine("x")
    assert [("addheader", "A", "b", -1)] == mine._ctx.calls
