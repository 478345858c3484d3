"""What the functions of module `milter` take, return and raise (API spec 1.3)."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

import pytest
from compat_support import CALLBACK_SETTERS, evaluate

import milter

INT_FUNCTIONS = ["set_flags", "set_exception_policy", "setdbg", "settimeout", "setbacklog"]
ALWAYS_FINE = ["set_flags", "setdbg", "settimeout"]


class _Indexable:
    def __init__(self, value: int) -> None:
        self.value = value

    def __index__(self) -> int:
        return self.value


@pytest.fixture(autouse=True)
def _restore() -> Iterator[None]:
    yield
    for name in CALLBACK_SETTERS:
        getattr(milter, name)(None)
    milter.set_exception_policy(milter.TEMPFAIL)
    milter.settimeout(7210)
    milter.setdbg(0)
    milter.setbacklog(128)


@pytest.mark.parametrize("name", INT_FUNCTIONS)
@pytest.mark.parametrize("value", [1.0, "1", None, b"1", [1]])
def test_int_argument_refused(name: str, value: Any) -> None:
    """Where an int is wanted, what has no `__index__` is a TypeError that names its type."""
    text = f"'{type(value).__name__}' object cannot be interpreted as an integer"
    with pytest.raises(TypeError) as caught:
        getattr(milter, name)(value)
    assert text == str(caught.value)


@pytest.mark.parametrize("name", INT_FUNCTIONS)
@pytest.mark.parametrize("value", [2**31, -(2**31) - 1, 2**63, 2**64, -(2**63) - 1])
def test_int_argument_out_of_range(name: str, value: int) -> None:
    """An int that does not fit a C int is an OverflowError."""
    with pytest.raises(OverflowError):
        getattr(milter, name)(value)


@pytest.mark.parametrize("name", ALWAYS_FINE)
@pytest.mark.parametrize("value", [0, 1, -1, 0x1FF, 2**31 - 1, -(2**31), True, _Indexable(3)])
def test_any_int_is_fine(name: str, value: Any) -> None:
    """`set_flags`, `setdbg` and `settimeout` check no value and return None."""
    assert getattr(milter, name)(value) is None


@pytest.mark.parametrize("value", [1, 5, 4096, True, _Indexable(5)])
def test_setbacklog(value: Any) -> None:
    """A backlog above 0 is taken; the function returns None."""
    assert milter.setbacklog(value) is None


@pytest.mark.parametrize("value", [0, -1, -(2**31), False])
def test_setbacklog_refused(value: int) -> None:
    """A backlog of 0 or less is `cannot set backlog`."""
    with pytest.raises(milter.error) as caught:
        milter.setbacklog(value)
    assert "cannot set backlog" == str(caught.value).split(":")[0]


@pytest.mark.parametrize("name", ["CONTINUE", "REJECT", "ACCEPT", "TEMPFAIL"])
def test_exception_policy(name: str) -> None:
    """The four statuses that can answer an exception are accepted; None is returned."""
    assert milter.set_exception_policy(getattr(milter, name)) is None
    assert milter.set_exception_policy(_Indexable(getattr(milter, name))) is None


@pytest.mark.parametrize("value", [2, 5, 7, 8, 10, -1, 99])
def test_exception_policy_refused(value: int) -> None:
    """Any other policy is `invalid exception policy`."""
    with pytest.raises(milter.error) as caught:
        milter.set_exception_policy(value)
    assert "invalid exception policy" == str(caught.value)


@pytest.mark.parametrize("name", CALLBACK_SETTERS)
def test_callback_setter_returns_the_previous(name: str) -> None:
    """A setter returns the callable that was installed before, or None; None uninstalls."""

    def first(*_: Any) -> int:
        return milter.CONTINUE

    def second(*_: Any) -> int:
        return milter.CONTINUE

    setter = getattr(milter, name)
    setter(None)
    assert setter(first) is None
    assert setter(second) is first
    assert setter(None) is second
    assert setter(None) is None
    assert setter(milter.getversion) is None
    assert setter(type) is milter.getversion


@pytest.mark.parametrize("name", CALLBACK_SETTERS)
@pytest.mark.parametrize("value", [1, "connect", b"", (), object()])
def test_callback_setter_refuses(name: str, value: Any) -> None:
    """What cannot be called is a TypeError, and the callback that was there stays."""
    setter = getattr(milter, name)
    setter(repr)
    with pytest.raises(TypeError) as caught:
        setter(value)
    assert "callback parameter must be callable" == str(caught.value)
    assert setter(None) is repr


@pytest.mark.parametrize("name", [*CALLBACK_SETTERS, *INT_FUNCTIONS, "setconn", "opensocket"])
def test_one_argument_exactly(name: str) -> None:
    """A function of one argument is a TypeError with none and with two."""
    function = getattr(milter, name)
    with pytest.raises(TypeError):
        function()
    with pytest.raises(TypeError):
        function(None, None)
    with pytest.raises(TypeError):
        function(1, 2)


@pytest.mark.parametrize("name", ["main", "stop", "getdiag", "getversion"])
def test_no_argument_at_all(name: str) -> None:
    """A function without arguments is a TypeError with one, before it does anything."""
    with pytest.raises(TypeError):
        getattr(milter, name)(1)


@pytest.mark.parametrize(
    ("name", "keyword"),
    [
        *((name, "callback") for name in CALLBACK_SETTERS),
        ("set_flags", "flags"),
        ("set_exception_policy", "policy"),
        ("setconn", "conn"),
        ("opensocket", "rmsock"),
        ("main", "x"),
        ("stop", "x"),
        ("setdbg", "level"),
        ("settimeout", "timeout"),
        ("setbacklog", "backlog"),
        ("getdiag", "x"),
        ("getversion", "x"),
    ],
)
def test_no_keyword_arguments(name: str, keyword: str) -> None:
    """Every function but `register` is positional only and says so."""
    with pytest.raises(TypeError) as caught:
        getattr(milter, name)(**{keyword: 1})
    assert str(caught.value).endswith(f"{name}() takes no keyword arguments")


def test_getversion() -> None:
    """The version is that of the libmilter whose behaviour is offered: 1.0.1."""
    assert (1, 0, 1) == milter.getversion()
    assert tuple is type(milter.getversion())


def test_getdiag_is_a_pair() -> None:
    """`getdiag` returns a tuple of two ints (API spec 1.15 says which)."""
    diag = milter.getdiag()
    assert tuple is type(diag)
    assert [int, int] == [type(n) for n in diag]


@pytest.mark.parametrize(
    "spec",
    ["unix:/nowhere/s", "local:s", "/p", "inet:0", "inet6:1@[::1]", "foo:bar", ":", "\u00e9"],
)
def test_setconn_does_not_parse(spec: str) -> None:
    """`setconn` takes any text but the empty one and returns None; parsing comes later."""
    assert [("returned", "None")] == evaluate("import milter", f"milter.setconn({spec!r})")


def test_setconn_empty() -> None:
    """The empty text is `cannot set connection`."""
    (outcome,) = evaluate("import milter", "milter.setconn('')")
    assert "milter.error" == outcome[0]
    assert "cannot set connection" == outcome[1].split(":")[0]


@pytest.mark.parametrize(("value", "kind"), [(b"/p", "bytes"), (None, "None"), (1, "int")])
def test_setconn_type(value: Any, kind: str) -> None:
    """`setconn` takes text only."""
    with pytest.raises(TypeError) as caught:
        milter.setconn(value)
    assert f"setconn() argument 1 must be str, not {kind}" == str(caught.value)


def test_setconn_embedded_nul() -> None:
    """A NUL in the text is a ValueError."""
    with pytest.raises(ValueError, match=r"^embedded null character$"):
        milter.setconn("unix:/a\0b")


@pytest.mark.ours
def test_setconn_surrogates() -> None:
    """A path that came from `os.fsdecode` (surrogateescape) names the file it came from."""
    setup = """
import milter, os, tempfile
os.chdir(tempfile.mkdtemp())
milter.register('x')
"""
    outcomes = evaluate(
        setup,
        "milter.setconn(os.fsdecode(b'unix:s\\xe9'))",
        "milter.opensocket(True)",
        "os.listdir(b'.')",
    )
    assert [("returned", "None"), ("returned", "None"), ("returned", repr([b"s\xe9"]))] == outcomes


@pytest.mark.parametrize("name", ["", "x", "x" * 5000, "with space", "\u00e9"])
def test_register_name(name: str) -> None:
    """Any text is a good name, by position and by keyword; None is returned."""
    assert [("returned", "None")] * 2 == evaluate(
        "import milter", f"milter.register({name!r})", f"milter.register(name={name!r})"
    )


@pytest.mark.parametrize(("value", "kind"), [(b"x", "bytes"), (None, "None"), (1, "int")])
def test_register_name_type(value: Any, kind: str) -> None:
    """The name is text."""
    with pytest.raises(TypeError) as caught:
        milter.register(value)
    assert f"register() argument 1 must be str, not {kind}" == str(caught.value)


def test_register_without_a_name() -> None:
    """The name is required."""
    with pytest.raises(TypeError) as caught:
        milter.register()
    assert "register() missing required argument 'name' (pos 1)" == str(caught.value)


def test_register_callbacks() -> None:
    """The callbacks go by position in the order unknown, data, negotiate, or by keyword."""
    assert [("returned", "None")] * 5 == evaluate(
        "import milter",
        "milter.register('x', repr, repr, repr)",
        "milter.register('x', unknown=repr, data=repr, negotiate=repr)",
        "milter.register('x', None, None, None)",
        "milter.register(negotiate=None, data=None, unknown=None, name='x')",
        "milter.register('x')",
    )


@pytest.mark.parametrize("arguments", ["'x', 1, 2, 3, 4", "'x', callback=repr", "'x', name='y'"])
def test_register_arity(arguments: str) -> None:
    """More than four arguments, a foreign keyword and a doubled one are TypeErrors."""
    assert "builtins.TypeError" == evaluate("import milter", f"milter.register({arguments})")[0][0]


@pytest.mark.parametrize("keyword", ["unknown", "data", "negotiate"])
@pytest.mark.parametrize("value", ["1", "'text'", "()"])
def test_register_refuses_what_cannot_be_called(keyword: str, value: str) -> None:
    """A callback that cannot be called is a TypeError."""
    (outcome,) = evaluate("import milter", f"milter.register('x', {keyword}={value})")
    assert "builtins.TypeError" == outcome[0]
    assert outcome[1].endswith("parameter must be callable")


@pytest.mark.ours
@pytest.mark.parametrize("keyword", ["unknown", "data", "negotiate"])
def test_register_names_the_right_keyword(keyword: str) -> None:
    """The TypeError names the argument that is wrong; pymilter names the one before it."""
    with pytest.raises(TypeError) as caught:
        milter.register("x", **{keyword: 1})
    assert f"{keyword} parameter must be callable" == str(caught.value)


@pytest.mark.parametrize(("value", "error"), [
    ("None", "builtins.TypeError"),
    ("1.0", "builtins.TypeError"),
    ("'x'", "builtins.TypeError"),
    ("256", "builtins.OverflowError"),
    ("-1", "builtins.OverflowError"),
])  # fmt: skip
def test_opensocket_argument(value: str, error: str) -> None:
    """`rmsock` is an int from 0 to 255 or a bool."""
    assert error == evaluate("import milter", f"milter.opensocket({value})")[0][0]


def test_stop_before_anything() -> None:
    """`stop` returns None even if nothing was configured."""
    assert [("returned", "None")] * 2 == evaluate("import milter", "milter.stop()", "milter.stop()")
