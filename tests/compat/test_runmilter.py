"""`runmilter`: which functions it calls, in which order, with what (API spec 2.9).

A fake stands in for the module that is bound as `Milter.milter`.
"""

from __future__ import annotations

import grp
import os
import stat
from pathlib import Path
from typing import Any, Callable

import pytest
from compat_support import run_python

import Milter


class _Error(Exception):
    """The fake module's own `error`."""


class _Fake:
    """Records the calls made on it as (name, positional arguments, keyword arguments)."""

    error = _Error
    NOREPLY = 7

    def __init__(self, **behaviour: Any) -> None:
        self.calls: list[tuple[str, tuple[Any, ...], dict[str, Any]]] = []
        self.behaviour = behaviour

    def __getattr__(self, name: str) -> Callable[..., Any]:
        def function(*args: Any, **keywords: Any) -> Any:
            self.calls.append((name, args, keywords))
            result = self.behaviour.get(name, (1, 0, 1) if name == "getversion" else None)
            if isinstance(result, BaseException):
                raise result
            return result() if callable(result) else result

        return function

    @property
    def names(self) -> list[str]:
        return [name for name, _, _ in self.calls]

    def args(self, name: str) -> tuple[Any, ...]:
        """The positional arguments of the only call of that name."""
        (args,) = [args for n, args, _ in self.calls if n == name]
        return args


@pytest.fixture
def fake(monkeypatch: pytest.MonkeyPatch) -> Callable[..., _Fake]:
    """Make a fake with the given results and bind it as `Milter.milter`."""

    def make(**behaviour: Any) -> _Fake:
        module = _Fake(**behaviour)
        monkeypatch.setattr(Milter, "milter", module)
        return module

    return make


SETTERS = [
    "set_connect_callback",
    "set_helo_callback",
    "set_envfrom_callback",
    "set_envrcpt_callback",
    "set_header_callback",
    "set_eoh_callback",
    "set_body_callback",
    "set_eom_callback",
    "set_abort_callback",
    "set_close_callback",
]
REST = ["setconn", "getversion", "register", "opensocket", "main"]


def test_order(fake: Callable[..., _Fake]) -> None:
    """The ten callbacks, setconn, getversion, register, opensocket, main; None is returned."""
    module = fake()
    assert Milter.runmilter("name", "unix:/s") is None
    assert [*SETTERS, *REST] == module.names
    assert ("unix:/s",) == module.args("setconn")
    assert () == module.args("getversion")
    assert () == module.args("main")


def test_order_with_a_timeout(fake: Callable[..., _Fake]) -> None:
    """A timeout above 0 is set after setconn."""
    module = fake()
    Milter.runmilter("name", "unix:/s", 240)
    assert [*SETTERS, "setconn", "settimeout", *REST[1:]] == module.names
    assert (240,) == module.args("settimeout")


@pytest.mark.parametrize("timeout", [0, -1])
def test_no_timeout(fake: Callable[..., _Fake], timeout: int) -> None:
    """0 and less leave the timeout as it is."""
    module = fake()
    Milter.runmilter("name", "unix:/s", timeout)
    assert "settimeout" not in module.names


def test_timeout_none(fake: Callable[..., _Fake]) -> None:
    """None is not a timeout: TypeError."""
    fake()
    with pytest.raises(TypeError):
        Milter.runmilter("name", "unix:/s", None)


def test_keywords(fake: Callable[..., _Fake]) -> None:
    """The parameters can be given by name."""
    module = fake()
    Milter.runmilter(name="n", socketname="s", timeout=1, rmsock=False)
    assert ("s",) == module.args("setconn")
    assert (1,) == module.args("settimeout")
    assert (False,) == module.args("opensocket")


@pytest.mark.parametrize(("args", "rmsock"), [((), True), ((0, False), False), ((0, 0), 0)])
def test_rmsock(fake: Callable[..., _Fake], args: tuple[Any, ...], rmsock: Any) -> None:
    """An existing socket file is removed unless the caller says otherwise."""
    module = fake()
    Milter.runmilter("name", "unix:/s", *args)
    assert (rmsock,) == module.args("opensocket")


def _registered(module: _Fake) -> dict[str, Any]:
    """The arguments of register by name."""
    ((args, keywords),) = [(a, k) for n, a, k in module.calls if n == "register"]
    return {**dict(zip(("name", "unknown", "data", "negotiate"), args)), **keywords}


@pytest.mark.parametrize(
    ("version", "negotiates"),
    [((1, 0, 1), True), ((1, 0, 2), True), ((2, 0, 0), True), ((1, 0, 0), False), ((0, 9), False)],
)
def test_register(fake: Callable[..., _Fake], version: tuple[int, ...], negotiates: bool) -> None:
    """The name and the three other callbacks; negotiate only from version 1.0.1 on."""
    module = fake(getversion=lambda: version)
    Milter.runmilter("name", "unix:/s")
    registered = _registered(module)
    assert {"name", "unknown", "data", "negotiate"} == set(registered)
    assert "name" == registered["name"]
    assert (Milter.negotiate_callback if negotiates else None) is registered["negotiate"]
    assert callable(registered["data"])
    assert callable(registered["unknown"])


class _Priv:
    """Notes every method called on it."""

    def __init__(self) -> None:
        self.seen: list[Any] = []

    def __getattr__(self, name: str) -> Any:
        return lambda *args: self.seen.append((name, *args)) or "result of " + name


class _Ctx:
    def __init__(self, priv: Any) -> None:
        self.priv = priv

    def getpriv(self) -> Any:
        return self.priv


DISPATCH = [
    ("set_helo_callback", ("host",), "hello"),
    ("set_envfrom_callback", (b"<a>", b"SIZE=1"), "envfrom_bytes"),
    ("set_envrcpt_callback", (b"<a>",), "envrcpt_bytes"),
    ("set_header_callback", ("Subject", b"hi"), "header_bytes"),
    ("set_eoh_callback", (), "eoh"),
    ("set_body_callback", (b"x",), "body"),
    ("set_eom_callback", (), "eom"),
    ("set_abort_callback", (), "abort"),
    ("data", (), "data"),
    ("unknown", ("FOO",), "unknown"),
]


def _installed(module: _Fake, where: str) -> Any:
    return module.args(where)[0] if where.startswith("set_") else _registered(module)[where]


@pytest.mark.parametrize(("where", "args", "method"), DISPATCH)
def test_dispatch(
    fake: Callable[..., _Fake], where: str, args: tuple[Any, ...], method: str
) -> None:
    """What is installed calls the private data's method, looked up at each event, and returns its
    result."""
    module = fake()
    Milter.runmilter("name", "unix:/s")
    callback = _installed(module, where)
    priv = _Priv()
    assert "result of " + method == callback(_Ctx(priv), *args)
    assert [(method, *args)] == priv.seen
    other = _Priv()
    vars(other)[method] = lambda *a: ("own", *a)
    assert ("own", *args) == callback(_Ctx(other), *args)


@pytest.mark.parametrize(("where", "args", "method"), DISPATCH)
def test_dispatch_without_private_data(
    fake: Callable[..., _Fake], where: str, args: tuple[Any, ...], method: str
) -> None:
    """Without an object attached it is an AttributeError, for the exception policy to answer."""
    module = fake()
    Milter.runmilter("name", "unix:/s")
    with pytest.raises(AttributeError):
        _installed(module, where)(_Ctx(None), *args)


def test_connect_and_close(fake: Callable[..., _Fake]) -> None:
    """For connect and close the package's own two functions are installed."""
    module = fake()
    Milter.runmilter("name", "unix:/s")
    assert module.args("set_connect_callback")[0] is Milter.connect_callback
    assert module.args("set_close_callback")[0] is Milter.close_callback


@pytest.mark.parametrize("step", ["setconn", "settimeout", "register", "opensocket"])
def test_errors_before_main(fake: Callable[..., _Fake], step: str) -> None:
    """A milter.error before main comes out as it is, and nothing after it is called."""
    error = _Error("cannot " + step)
    module = fake(**{step: error})
    with pytest.raises(_Error) as caught:
        Milter.runmilter("name", "unix:/s", 1)
    assert caught.value is error
    assert step == module.names[-1]


def test_error_of_main(fake: Callable[..., _Fake]) -> None:
    """An error of main comes out as it is when no connection took a number meanwhile."""
    error = _Error("cannot run main")
    fake(main=error)
    with pytest.raises(_Error) as caught:
        Milter.runmilter("name", "unix:/s")
    assert caught.value is error


def test_out_of_thread_resources(fake: Callable[..., _Fake]) -> None:
    """If `uniqueID` was called while main ran, the error says that threads ran out."""

    def main() -> None:
        Milter.uniqueID()
        raise _Error("cannot run main")

    fake(main=main)
    with pytest.raises(_Error) as caught:
        Milter.runmilter("name", "unix:/s")
    assert "out of thread resources" == str(caught.value)


def test_unique_ids_before_do_not_matter(fake: Callable[..., _Fake]) -> None:
    """Numbers taken before main do not change its error."""
    error = _Error("cannot run main")
    fake(main=error, opensocket=lambda: Milter.uniqueID() and None)
    with pytest.raises(_Error) as caught:
        Milter.runmilter("name", "unix:/s")
    assert caught.value is error


@pytest.mark.parametrize("error", [KeyboardInterrupt(), SystemExit(3), ValueError("x")])
def test_other_exceptions_of_main(fake: Callable[..., _Fake], error: BaseException) -> None:
    """Any other exception comes out as it is, also when numbers were taken."""

    def main() -> None:
        Milter.uniqueID()
        raise error

    fake(main=main)
    with pytest.raises(type(error)) as caught:
        Milter.runmilter("name", "unix:/s")
    assert caught.value is error


@pytest.mark.parametrize("function", ["set_flags", "set_exception_policy", "setbacklog", "setdbg"])
def test_what_it_leaves_alone(fake: Callable[..., _Fake], function: str) -> None:
    """It never calls these: what the filter has set stays."""
    module = fake()
    Milter.runmilter("name", "unix:/s", 5)
    assert function not in module.names


@pytest.mark.parametrize("args", [(), ("name",), ("a", "b", 0, True, 0.5)])
def test_arity(fake: Callable[..., _Fake], args: tuple[Any, ...]) -> None:
    """Name and socket are required; there are four parameters by position."""
    fake()
    with pytest.raises(TypeError):
        Milter.runmilter(*args)


# -- the keyword-only extras -------------------------------------------------------------------

LISTEN = """
import os, sys, threading, time
import Milter
path = sys.argv[1]
options = eval(sys.argv[2])
os.umask(0o077)
failure = []
def run():
    try:
        Milter.runmilter("name", "unix:" + path, **options)
    except Exception as error:
        failure.append(error)
thread = threading.Thread(target=run, daemon=True)
thread.start()
import socket
end = time.monotonic() + 20
while not failure:
    try:
        with socket.socket(socket.AF_UNIX) as s:
            s.connect(path)
        break
    except OSError:
        assert time.monotonic() < end
        time.sleep(0.01)
if failure:
    print(type(failure[0]).__name__, failure[0])
else:
    st = os.stat(path)
    print(oct(st.st_mode & 0o7777), st.st_uid, st.st_gid)
    Milter.stop()
    thread.join(20)
    print("stopped" if not thread.is_alive() else "runs on")
sys.stdout.flush()
os._exit(0)
"""


def _listen(path: Path, options: str) -> list[str]:
    done = run_python(LISTEN, str(path), options)
    assert "Traceback" not in done.stderr  # a line of the log may be there
    assert 0 == done.returncode
    return done.stdout.splitlines()


@pytest.mark.ours
@pytest.mark.parametrize("options", ["{}", "dict(drain=0)", "dict(drain=0.5)", "dict(drain=5)"])
def test_extras_left_out(tmp_path: Path, options: str) -> None:
    """Without the extras the socket's mode is what the umask leaves, its owner the process."""
    assert [f"0o700 {os.geteuid()} {os.getegid()}", "stopped"] == _listen(tmp_path / "s", options)


@pytest.mark.ours
@pytest.mark.parametrize("mode", [0o660, 0o666, 0o600, 0o777])
def test_socket_mode(tmp_path: Path, mode: int) -> None:
    """`socket_mode=` gives the socket exactly that mode, whatever the umask."""
    lines = _listen(tmp_path / "s", f"dict(socket_mode={mode})")
    assert [oct(mode), "stopped"] == [lines[0].split()[0], lines[1]]


@pytest.mark.ours
@pytest.mark.skipif(os.geteuid() != 0, reason="not here: needs root to give a file away")
@pytest.mark.parametrize(
    ("options", "owner", "group"),
    [
        ("dict(socket_owner=65534)", 65534, 0),
        ("dict(socket_owner='nobody')", 65534, 0),
        ("dict(socket_group=65534)", 0, 65534),
        ("dict(socket_owner='nobody', socket_group=65534, socket_mode=0o660)", 65534, 65534),
    ],
)
def test_socket_owner(tmp_path: Path, options: str, owner: int, group: int) -> None:
    """`socket_owner=` and `socket_group=` take a number or a name."""
    lines = _listen(tmp_path / "s", options)
    assert [str(owner), str(group)] == lines[0].split()[1:]


@pytest.mark.ours
def test_socket_group_by_name(tmp_path: Path) -> None:
    """A group of our own can be given by name."""
    name = grp.getgrgid(os.getegid()).gr_name
    lines = _listen(tmp_path / "s", f"dict(socket_group={name!r})")
    assert str(os.getegid()) == lines[0].split()[2]


@pytest.mark.ours
@pytest.mark.parametrize(
    "options", ["dict(socket_owner='no-such-user-x')", "dict(socket_group='no-such-group-x')"]
)
def test_socket_owner_unknown(tmp_path: Path, options: str) -> None:
    """A name that nobody has is one clear milter.error, and no socket is left behind."""
    path = tmp_path / "s"
    (line,) = _listen(path, options)
    assert line.startswith("error ")
    assert "no-such-" in line
    assert not path.exists() or not stat.S_ISSOCK(path.stat().st_mode)


@pytest.mark.ours
def test_extras_are_keyword_only(tmp_path: Path) -> None:
    """The names of the extras, and that none can be given by position."""
    import inspect

    kinds = {p.name: p.kind for p in inspect.signature(Milter.runmilter).parameters.values()}
    for name in ("socket_mode", "socket_owner", "socket_group", "drain"):
        assert inspect.Parameter.KEYWORD_ONLY is kinds[name]
