"""``run``: serves a filter from its file, whether it has a main program of its own or not."""

from __future__ import annotations

import argparse
import functools
import importlib.machinery
import importlib.util
import inspect
import logging
import os
import runpy
import socket
import sys
import sysconfig
import traceback
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any, Callable, Final, NamedTuple, NoReturn, Optional

from Milter._cli.arguments import mode, within
from Milter._cli.command import Command
from Milter._cli.daemon import Identity, become, identity, log_to_stderr, pidfile
from Milter._cli.output import ACCEPTED, Failure
from Milter._server import _MOST_THREADS

logger = logging.getLogger("Milter")

LISTENING: Final = "listening at"
"""What the log says of a class once its socket is open."""

_LEVELS: Final = ("debug", "info", "warning", "error", "critical")

_EPILOG: Final = """\
With :CLASS, that class serves; the file is imported, and its main program not run. Without, the
file is a program that runs a filter itself, with Milter.runmilter() or milter.main(): it is run as
it is, only under the settings given here; those that are not given stay its own. Its own arguments
come last, after --.

examples:
  Serve the class Spam of spam.py, with a thread for each connection:
    milterctl run spam.py:Spam --socket unix:/run/spam.sock --socket-mode 660

  A class of an installed module, in four processes, with a log that machines read:
    milterctl run mail.filters:Spam --socket inet:8893@127.0.0.1 --workers 4 --log-format json

  An old filter with a main program, on another socket than its own, with its own arguments:
    milterctl run oldmilter.py --socket unix:/run/old.sock -- --config /etc/old.conf

  Started by root: it opens the socket, and serves as another user:
    milterctl run spam.py:Spam --socket unix:/run/spam.sock --user spam --pidfile /run/spam.pid

exit status:
  0  the filter was told to stop, with SIGTERM, SIGINT or SIGHUP
  2  an error: in the filter's code, its file and line; else what is wrong
A program's own sys.exit() counts as it always does.
"""


def _add(parser: argparse.ArgumentParser) -> None:
    parser.usage = "%(prog)s [options] FILE-OR-MODULE[:CLASS] [-- ARGUMENT ...]"
    parser.add_argument(
        "target",
        metavar="FILE-OR-MODULE[:CLASS]",
        help="a Python file, or the name of a module, and the filter's class in it",
    )
    parser.add_argument(
        "--socket",
        metavar="SPEC",
        help="where to listen: unix:PATH, inet:PORT@HOST or inet6:PORT@HOST (needed with CLASS; "
        "a program may have its own)",
    )
    parser.add_argument(
        "--threads",
        type=within(0, _MOST_THREADS),
        metavar="N",
        help="a pool of so many threads for all connections; 0: a thread for each (default: as "
        "MILTER_THREADS in the environment says, else 0)",
    )
    parser.add_argument(
        "--workers",
        type=within(0, _MOST_THREADS),
        metavar="N",
        help="so many processes; 0: this one serves (default: as MILTER_WORKERS says, else 0)",
    )
    parser.add_argument(
        "--timeout",
        type=within(1, 2**31 - 1),
        metavar="SECONDS",
        help="how long a connection may be silent (default: 7210)",
    )
    parser.add_argument(
        "--socket-mode",
        type=mode,
        metavar="MODE",
        help="permission bits of a unix socket, in octal (default: as the umask has it)",
    )
    parser.add_argument(
        "--user",
        metavar="USER",
        help="serve as this user, who gets a unix socket too. The code is loaded and the socket "
        "opened before",
    )
    parser.add_argument(
        "--group",
        metavar="GROUP",
        help="serve as this group, and give it a unix socket too (default: the user's)",
    )
    parser.add_argument(
        "--pidfile",
        metavar="FILE",
        help="write the process id there; refuse to start while another process that did so runs",
    )
    parser.add_argument(
        "--log-level",
        choices=_LEVELS,
        metavar="LEVEL",
        help="what goes to standard error: " + ", ".join(_LEVELS) + " (default with CLASS: info; a "
        "program sees to its log itself)",
    )
    parser.add_argument(
        "--log-format",
        choices=("text", "json"),
        help="a line of text or a JSON object for each (default: text)",
    )


# -- the filter's code ---------------------------------------------------------------------------


class _Target(NamedTuple):
    """Where the code is: a file or a module."""

    file: Optional[str]
    module: str
    name: Optional[str]
    """Of the class; None: the whole is a program."""

    def __str__(self) -> str:
        return self.file or self.module


def _target(text: str) -> _Target:
    if os.path.isfile(text):
        place, name = text, None
    else:
        place, colon, name = text.rpartition(":")
        if not colon:
            place, name = text, None
        elif not place or not name:
            raise Failure(f"{text!r} is not FILE:CLASS or MODULE:CLASS")
    if os.path.isfile(place):
        stem = os.path.splitext(os.path.basename(place))[0]
        return _Target(place, stem, name)
    if place.endswith(".py") or "/" in place:
        raise Failure(f"{place}: {'Is a directory' if os.path.isdir(place) else 'No such file'}")
    return _Target(None, place, name)


def names_class(text: str) -> bool:
    """Whether that is a class, of which LISTENING is logged; a program logs what it likes."""
    return _target(text).name is not None


def _distance(path: str) -> int:
    """How far code is from the user: 0 is his own, 1 an installed package, 2 Python's or ours."""
    paths = sysconfig.get_paths()
    ours = os.path.dirname(os.path.dirname(os.path.abspath(__file__)))
    if path.startswith("<"):
        return 2
    for distance, places in (
        (2, [ours]),
        (1, [paths["purelib"], paths["platlib"]]),
        (2, [paths["stdlib"], paths["platstdlib"]]),  # packages may lie below it
    ):
        if any(os.path.abspath(path).startswith(os.path.join(place, "")) for place in places):
            return distance
    return 0


def _blame(error: BaseException, target: _Target) -> NoReturn:
    """Says in one line what went wrong in the user's code, and where."""
    logger.debug("%s", "".join(traceback.format_exception(type(error), error, error.__traceback__)))
    if isinstance(error, SyntaxError) and error.filename:
        raise Failure(
            f"{error.filename}:{error.lineno or 1}: {type(error).__name__}: {error.msg}"
        ) from None
    text = "".join(traceback.format_exception_only(type(error), error)).strip()
    frames = traceback.extract_tb(error.__traceback__)
    for distance in (0, 1):
        for frame in reversed(frames):
            if _distance(frame.filename) == distance:
                raise Failure(f"{frame.filename}:{frame.lineno}: {text}") from None
    raise Failure(f"{target}: {text}") from None


def _check_module(name: str) -> None:
    """Finds out whether there is such a module, below the working directory or installed.

    Raises:
        Failure: there is none.
    """
    sys.path.insert(0, os.getcwd())
    try:
        found = None if name.startswith(".") else importlib.util.find_spec(name)
    except ModuleNotFoundError as error:
        if error.name is None or not name.startswith(f"{error.name}."):
            raise  # a package above it wants a module that is not there
        found = None
    except ValueError:  # no name, or one that is no module's
        found = None
    if found is None:
        raise Failure(f"no module named {name!r}")


def _load(target: _Target) -> ModuleType:
    """Imports the file or module."""
    if target.file is None:
        _check_module(target.module)
        return importlib.import_module(target.module)
    sys.path.insert(0, os.path.dirname(os.path.abspath(target.file)))
    loader = importlib.machinery.SourceFileLoader(target.module, target.file)
    spec = importlib.util.spec_from_loader(target.module, loader)
    assert spec is not None
    module = importlib.util.module_from_spec(spec)
    # As an import does it: pickle and dataclasses look a class's module up there. A module of that
    # name that is loaded already, such as our own `milter`, stays what it is.
    sys.modules.setdefault(target.module, module)
    loader.exec_module(module)
    return module


def _find(target: _Target) -> Callable[[], Any]:
    """The class that the target names."""
    import Milter

    assert target.name is not None
    try:
        module = _load(target)
        found: Any = functools.reduce(getattr, target.name.split("."), module)
    except AttributeError as error:
        if error.__traceback__ is not None and error.__traceback__.tb_next is not None:
            _blame(error, target)
        names = [
            name
            for name, value in vars(module).items()
            if isinstance(value, type)
            and issubclass(value, Milter.Base)
            and value.__module__ == module.__name__
        ]
        known = f"; there is {', '.join(names)}" if names else ""
        raise Failure(f"{target}: no class {target.name}{known}") from None
    except Failure:
        raise
    except (Exception, SystemExit) as error:
        _blame(error, target)
    if isinstance(found, type) and not issubclass(found, Milter.Base):
        raise Failure(f"{target}: class {target.name} is not derived from Milter.Base")
    if not callable(found):
        raise Failure(f"{target}: {target.name} is no class")
    try:
        inspect.signature(found).bind()
    except TypeError as error:
        raise Failure(f"{target}: {target.name} is called without arguments: {error}") from None
    except ValueError:
        pass  # it does not say what it takes
    factory: Callable[[], Any] = found
    return factory


# -- serving -------------------------------------------------------------------------------------


class _Settings:
    """The settings of the command line, in place of those of the program that is run.

    Args:
        arguments: the command line.
        whose: the user to serve as.
        write_pid: called when it is about to serve.
    """

    def __init__(
        self, arguments: argparse.Namespace, whose: Identity, write_pid: Callable[[], None]
    ) -> None:
        self.given = arguments
        self.whose = whose
        self.write_pid = write_pid
        self.served = False
        self.access: dict[str, Optional[int]] = {
            "mode": arguments.socket_mode,
            "owner": whose.uid,
            "group": whose.gid,
        }

    @contextmanager
    def applied(self) -> Iterator[None]:
        """While the block runs, what a program gives for these is replaced."""
        import Milter
        import milter
        from Milter._lowlevel import server

        ours: dict[str, Any] = {
            "setconn": self._setconn(milter.setconn),
            "settimeout": self._settimeout(milter.settimeout),
            "main": self._main(milter.main, milter.opensocket),
            "runmilter": self._runmilter(Milter.runmilter),
        }
        places: list[tuple[Any, str]] = [(Milter, name) for name in ours]
        # runmilter() takes the functions from this module, as programs of the old kind do.
        places += [(milter, name) for name in ours if name != "runmilter"]
        before = [(place, name, getattr(place, name)) for place, name in places]
        try:
            for place, name in places:
                setattr(place, name, ours[name])
            # For programs that call milter.main(), which has no arguments for these.
            server.set_socket_access(**self.access)
            server.threads = self.given.threads
            server.workers = self.given.workers
            if self.given.timeout:
                server.settimeout(self.given.timeout)
            yield
        finally:
            for place, name, value in before:
                setattr(place, name, value)

    def _setconn(self, setconn: Callable[[str], None]) -> Callable[[str], None]:
        @functools.wraps(setconn)
        def replaced(spec: str) -> None:
            setconn(spec if self.given.socket is None else self.given.socket)

        return replaced

    def _settimeout(self, settimeout: Callable[[int], None]) -> Callable[[int], None]:
        @functools.wraps(settimeout)
        def replaced(seconds: int) -> None:
            settimeout(self.given.timeout or seconds)

        return replaced

    def _runmilter(self, runmilter: Callable[..., None]) -> Callable[..., None]:
        wanted = {
            "threads": self.given.threads,
            "workers": self.given.workers,
            **{f"socket_{name}": value for name, value in self.access.items()},
        }
        wanted = {name: value for name, value in wanted.items() if value is not None}

        @functools.wraps(runmilter)
        def replaced(*positional: Any, **keywords: Any) -> None:
            runmilter(*positional, **{**keywords, **wanted})

        return replaced

    def _main(self, main: Callable[[], None], opensocket: Callable[[int], None]) -> Any:
        @functools.wraps(main)
        def replaced() -> None:
            from Milter._lowlevel import server

            self.served = True
            # Where it is open already this does nothing.
            opensocket(False)
            self.write_pid()
            become(self.whose)
            logger.info("%s: %s %s", server.name, LISTENING, _place(server.address))
            main()
            logger.info("%s: stopped", server.name)

        return replaced


def _place(address: Any) -> str:
    """Where a server is bound."""
    return address if isinstance(address, str) else f"{address[1]}@{address[0]}"


def _check_free(spec: str) -> None:
    """Finds out whether somebody listens on a unix socket, whose mail we would take away.

    Raises:
        Failure: yes. (For a TCP port the system sees to that itself.)
    """
    from Milter.mta import SocketSpecError, parse_spec

    try:
        family, path, _ = parse_spec(spec)
    except SocketSpecError:  # as the server will say, unless it is one that only servers have
        return
    if family != socket.AF_UNIX:
        return
    with socket.socket(family) as probe:
        probe.settimeout(1.0)
        try:
            probe.connect(path)
        except (BlockingIOError, socket.timeout):
            pass  # its queue is full
        except OSError:
            return
    raise Failure(f"{spec}: another process listens there")


def _serve(target: _Target, arguments: argparse.Namespace, settings: _Settings) -> None:
    """Serves a class."""
    import Milter

    factory = _find(target)
    _check_free(arguments.socket)
    Milter.factory = factory
    name = target.name if target.name is not None else target.module
    Milter.runmilter(name, arguments.socket)


def _run_program(target: _Target, arguments: argparse.Namespace, settings: _Settings) -> None:
    """Runs a program that serves a filter."""
    import Milter

    sys.argv = [str(target), *arguments.rest]
    try:
        if target.file is None:
            _check_module(target.module)
            names = runpy.run_module(target.module, run_name="__main__", alter_sys=True)
        else:
            sys.path.insert(0, os.path.dirname(os.path.abspath(target.file)))
            names = runpy.run_path(target.file, run_name="__main__")
    except (Failure, Milter.error):
        raise
    except Exception as error:
        _blame(error, target)
    if not settings.served:
        classes = [
            name
            for name, value in names.items()
            if isinstance(value, type)
            and issubclass(value, Milter.Base)
            and value.__module__ == "__main__"
        ]
        hint = f"; to serve its class: {target}:{classes[0]}" if classes else ""
        raise Failure(f"{target} ended and has run no filter{hint}")


def _run(arguments: argparse.Namespace) -> int:
    """Serves until it is told to stop."""
    from milter import error
    from Milter._lowlevel import server

    target = _target(arguments.target)
    if target.name is not None:
        if not arguments.socket:
            raise Failure("--socket is needed to serve a class")
        if arguments.rest:
            raise Failure(f"arguments are for a program; {arguments.target} is a class")
    if target.name is not None or arguments.log_level or arguments.log_format:
        log_to_stderr(arguments.log_level or "info", arguments.log_format or "text")
        # They are in the log.
        server.print_tracebacks = False
    whose = identity(arguments.user, arguments.group)
    with pidfile(arguments.pidfile) as write_pid:
        settings = _Settings(arguments, whose, write_pid)
        serve = _run_program if target.name is None else _serve
        try:
            with settings.applied():
                serve(target, arguments, settings)
        except error as problem:
            raise Failure(str(problem)) from None
    return ACCEPTED


COMMAND: Final = Command(
    "run",
    "serve a filter: a class, or a program that has one",
    _EPILOG,
    _add,
    _run,
    takes_rest=True,
)
