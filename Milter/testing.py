"""A test kit for filters: give them mail, and assert what becomes of it.

    from Milter import testing

    def test_bad_sender():
        with testing.direct(MyFilter) as client:
            client.send(sender="bad@example.net").assert_rejected(550)

A :class:`Client` is a mail server in front of a filter, as Milter.mta plays it. The filter may be

- a class in this process: :func:`direct`, without a socket, or :func:`thread`, with one;
- a program, in whatever language: :func:`command` starts and stops it;
- running already: :func:`at` says where.

Messages come from :func:`mail`. What became of one is a :class:`Report`, whose assertions, when
they fail, show the dialogue and a diff of what the filter changed. A callback that raises fails the
test with its own traceback; a filter that breaks the protocol, with the rule that it broke.

With pytest the fixtures ``milter`` and ``mail`` do all this (Milter.pytest_plugin, which pytest
finds by itself). Nothing here needs pytest. Hypothesis strategies are in Milter.strategies.

docs/testing.md is the tutorial.
"""

from __future__ import annotations

import contextlib
import dataclasses
import os
import shutil
import socket
import tempfile
from collections.abc import Iterable, Mapping, Sequence
from types import TracebackType
from typing import Any, Callable, Final, Optional, TypeVar, Union

from Milter import mta
from Milter._conversation import Macros
from Milter._direct import Factory, MemoryFilter, ThreadFilter, socket_path
from Milter._inwords import step_lines
from Milter._programs import PATIENCE, ProcessFilter, RemoteFilter, StartError
from Milter._smtpsession import Script
from Milter._testmail import Source, mail
from Milter._testreport import Failure, Report, changes_of, diff, end_lines

__all__ = [
    "Client",
    "Failure",
    "Kit",
    "Report",
    "Session",
    "StartError",
    "at",
    "chain",
    "command",
    "diff",
    "direct",
    "mail",
    "thread",
]

T = TypeVar("T")

TIMEOUTS: Final = mta.Timeouts.all(10.0)
"""How long a client waits for a filter unless told otherwise; mail servers wait for minutes."""

AnyFilter = Union[MemoryFilter, ThreadFilter, RemoteFilter]


# -- the mail server -----------------------------------------------------------------------------


class Client:
    """A mail server in front of a filter, or of several, for a test.

    A context manager: at the end of the block the filter is stopped.

    Args:
        filters: MemoryFilter, ThreadFilter, ProcessFilter or RemoteFilter objects; the functions of
            this module make them.
        profile: which mail server: ``postfix`` or ``sendmail``, or a Profile.
        timeouts: how long to wait for the filter.
        default_action: what the mail server does where the filter fails it; see
            :class:`Milter.mta.Filter`.
        strict: see :class:`Milter.mta.Protocol`.
        failures: ``raise``: what a callback raises, or what the filter does to break the protocol,
            is raised in the test; ``answer``: the mail server goes on, as in production, and the
            report has it (`errors`, and `crashes` of this).
        directory: where files with messages are looked for first.

    Attributes:
        trail: all that happened: each Step, and after those of a message its Report.
        crashes: what callbacks raised, with ``failures="answer"``.
    """

    def __init__(
        self,
        *filters: Any,
        profile: Union[str, mta.Profile] = "postfix",
        timeouts: mta.Timeouts = TIMEOUTS,
        default_action: Optional[str] = None,
        strict: bool = True,
        failures: str = "raise",
        directory: Union[str, os.PathLike[str]] = "",
    ) -> None:
        """Connects to nothing yet."""
        if failures not in ("raise", "answer"):
            raise ValueError(f"failures={failures!r}: it is 'raise' or 'answer'")
        self.filters: tuple[Any, ...] = filters
        self.timeouts = timeouts
        self.failures = failures
        self.directory = directory
        self.trail: list[Union[mta.Step, Report]] = []
        self.crashes: list[BaseException] = []
        self._strict = strict
        self._stack = contextlib.ExitStack()
        self._server = _Server(
            filters,
            *[mta.Filter(each.spec, default_action, timeouts) for each in filters],
            profile=profile,
            strict=strict,
        )

    def __enter__(self) -> Client:
        """Returns the client."""
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """Stops the filter, and raises what its last callbacks raised."""
        self.stop()
        if kind is None:
            self._check()

    def stop(self) -> None:
        """Stops the filter, if this client, or what made it, started it; more than once."""
        with self._stack:
            for each in reversed(self.filters):
                self._stack.callback(each.stop)

    @property
    def spec(self) -> str:
        """Where the filter listens, for programs that connect themselves."""
        spec: str = self.filters[0].spec
        return spec

    @property
    def objects(self) -> list[Any]:
        """The filter's own objects, one for each connection; none where it is another process."""
        return [one for each in self.filters for one in getattr(each, "objects", ())]

    @property
    def output(self) -> str:
        """What a filter that is a program has printed so far."""
        return "".join(getattr(each, "output", "") for each in self.filters)

    # -- mail ------------------------------------------------------------------------------------

    def send(
        self,
        source: Source = None,
        *,
        client: mta.SmtpClient = mta.LOCALHOST,
        helo: Optional[str] = None,
        macros: Optional[Macros] = None,
        rejected: Sequence[mta.RejectedRecipient] = (),
        **parts: Any,
    ) -> Report:
        """Sends a message, in an SMTP session of its own.

        Args:
            source: the message, or what :func:`mail` makes one of.
            client: the SMTP client that brings it.
            helo: how that introduces itself; by default as what it is called.
            macros: further ones, or other values, by names as they go on the wire (``j``,
                ``{auth_authen}``).
            rejected: recipients that the mail server rejects itself.
            parts: as for :func:`mail`: ``sender``, ``to``, ``subject``, ``headers``, ``body``...

        Returns:
            What became of it.

        Raises:
            MilterError: the filter broke the protocol, did not answer or closed; unless
                ``failures="answer"``.
            Exception: whatever a callback in this process raised; likewise.
        """
        message = self.mail(source, **parts)
        with self.session(client, helo, macros) as session:
            result = session.send(message, rejected=rejected)
        # Those of the end of the connection, too.
        self._check(session)
        return result

    def mail(self, source: Source = None, **parts: Any) -> mta.Message:
        """Makes a message; see :func:`mail`. Files are looked for in this client's directory."""
        parts.setdefault("directory", self.directory)
        return mail(source, **parts)

    def session(
        self,
        client: mta.SmtpClient = mta.LOCALHOST,
        helo: Optional[str] = None,
        macros: Optional[Macros] = None,
    ) -> Session:
        """Returns an SMTP session, for several messages, or step by step.

        A context manager; see :class:`Milter.mta.SmtpSession`.

        Args:
            client: see :meth:`send`.
            helo: see there; "" for no HELO.
            macros: see there.
        """
        return Session(self, client, helo, macros)

    def connect(self, number: int = 0) -> mta.Session:
        """Returns a new connection to the filter on which nothing has been said.

        For dialogues that no mail server has; see :class:`Milter.mta.Session`. Its steps are in the
        trail, too.

        Args:
            number: of the filter, where there are several.
        """

        def note(step: mta.Step) -> None:
            self.trail.append(dataclasses.replace(step, filter=number))
            self._check()

        return mta.Session(
            self._server.open(number, self.timeouts.connect),
            timeouts=self.timeouts,
            protocol=mta.Protocol(strict=self._strict),
            on_step=note,
        )

    # -- what went wrong -------------------------------------------------------------------------

    def _check(self, session: Optional[Session] = None) -> None:
        """Raises what has gone wrong since the last time."""
        crashes: list[BaseException] = []
        for each in self.filters:
            noted = getattr(each, "crashes", [])
            crashes += noted
            noted.clear()
        if self.failures == "answer":
            self.crashes += crashes
            return
        errors = [] if session is None else session._take_errors()
        for problem in (*crashes, *errors):
            raise problem

    @property
    def story(self) -> str:
        """All that happened, in words: the dialogues, outcomes, and what was changed."""
        lines: list[str] = []
        for each in self.trail:
            if isinstance(each, mta.Step):
                lines += step_lines(each)
            else:
                lines += [*end_lines(each), *changes_of(each), ""]
        return "\n".join(lines).rstrip()


class _Server(mta.MailServer):
    """A mail server whose filters know themselves how they are reached."""

    def __init__(self, reached: Sequence[Any], *filters: mta.Filter, **options: Any) -> None:
        super().__init__(*filters, **options)
        self._reached = reached

    def open(self, number: int, timeout: float) -> socket.socket:
        """Returns a new connection to a filter."""
        try:
            sock: socket.socket = self._reached[number].open(timeout)
        except ConnectionRefusedError as error:
            raise mta.ConnectError(f"cannot connect: {error}") from error
        return sock


class Session(mta.SmtpSession):
    """An SMTP session in a test: a :class:`Milter.mta.SmtpSession` whose results are reports."""

    def __init__(
        self,
        client: Client,
        smtp_client: mta.SmtpClient,
        helo: Optional[str],
        macros: Optional[Macros],
    ) -> None:
        """Connects, and says HELO."""
        self._owner = client
        self._raised = 0
        super().__init__(client._server, smtp_client, helo, macros, client.trail.append)

    def _take_errors(self) -> list[mta.MilterError]:
        """What the filters did wrong since the last time."""
        errors = list(self.errors)[self._raised :]
        self._raised += len(errors)
        return errors

    def play(self, script: Script[T]) -> T:
        """Plays a command, and raises what has gone wrong meanwhile."""
        result = super().play(script)
        if not isinstance(result, mta.Result):
            self._owner._check(self)
        return result

    def send(
        self,
        message: mta.Message,
        *,
        macros: Optional[Macros] = None,
        rejected: Sequence[mta.RejectedRecipient] = (),
    ) -> Report:
        """Plays a message; see :meth:`Milter.mta.SmtpSession.send`."""
        return self._reported(message, super().send(message, macros=macros, rejected=rejected))

    def content(self, message: mta.Message, macros: Optional[Macros] = None) -> Report:
        """The content; see :meth:`Milter.mta.SmtpSession.content`."""
        return self._reported(message, super().content(message, macros))

    def _reported(self, message: mta.Message, result: mta.Result) -> Report:
        report = Report.of(result, message, self._owner.directory)
        self._owner.trail.append(report)
        self._owner._check(self)
        return report


# -- starting ------------------------------------------------------------------------------------


def direct(factory: Optional[Factory] = None, *, name: str = "test", **options: Any) -> Client:
    """Runs a filter in this process, without a socket that has an address or a file.

    It is the library itself that serves it, in a thread for each connection, as in production:
    what the class negotiates, which callbacks are called and what an exception leads to is what a
    mail server would see.

    Args:
        factory: the filter's class, or what makes its objects; None: `Milter.factory`.
        name: of the filter, in logs and replies.
        options: see :class:`Client`.
    """
    return _started(MemoryFilter(factory, name), options)


def thread(
    factory: Optional[Factory] = None,
    spec: Optional[str] = None,
    *,
    name: str = "test",
    threads: Optional[int] = None,
    scratch: Union[str, os.PathLike[str], None] = None,
    **options: Any,
) -> Client:
    """Runs a filter in this process, listening on a socket.

    Args:
        factory: see :func:`direct`.
        spec: where it listens, as for `Milter.runmilter`; None: a unix socket.
        name: see :func:`direct`.
        threads: a pool of so many, as for `Milter.runmilter`.
        scratch: a directory for that socket; None: a temporary one.
        options: see :class:`Client`.
    """
    with contextlib.ExitStack() as stack:
        if spec is None:
            spec = f"unix:{socket_path(_directory(scratch, stack), 'filter.sock')}"
        return _started(ThreadFilter(factory, name, spec, threads), options, stack)


def command(
    args: Sequence[Union[str, os.PathLike[str]]],
    spec: Optional[str] = None,
    *,
    cwd: Union[str, os.PathLike[str], None] = None,
    env: Optional[Mapping[str, str]] = None,
    patience: float = PATIENCE,
    scratch: Union[str, os.PathLike[str], None] = None,
    **options: Any,
) -> Client:
    """Starts a program that is a filter, in whatever language, and waits until it listens.

    At the end it gets SIGTERM, and five seconds later SIGKILL.

    Args:
        args: program and arguments. In each of them, in ``spec`` and in the environment,
            ``{socket}`` stands for a socket that it may listen on, as ``unix:PATH``; ``{path}`` for
            the path alone; ``{port}`` for a TCP port that is free.
        spec: where it listens; None: on the socket, or where no argument names that, on the port of
            127.0.0.1.
        cwd: the directory that it runs in.
        env: environment variables besides those of this process.
        patience: seconds until it must listen.
        scratch: a directory for that socket, and for what it prints; None: a temporary one.
        options: see :class:`Client`.

    Raises:
        StartError: it cannot be started, has ended, or does not listen; the text has what it said.
    """
    with contextlib.ExitStack() as stack:
        directory = _directory(scratch, stack)
        return _started(ProcessFilter(args, directory, spec, cwd, env, patience), options, stack)


def at(spec: str, **options: Any) -> Client:
    """Returns a client for a filter that runs already; stop() leaves it alone.

    Args:
        spec: where it listens; see :func:`Milter.mta.connect`.
        options: see :class:`Client`.

    Raises:
        SocketSpecError: ``spec`` is no socket specification.
    """
    return _started(RemoteFilter(spec), options)


def chain(*clients: Client, **options: Any) -> Client:
    """Returns a client for several filters in a row, as a mail server asks them.

    Args:
        clients: in order; each goes on to own its filter, and to stop it.
        options: see :class:`Client`.
    """
    return Client(*[_Lent(one) for each in clients for one in each.filters], **options)


class _Lent:
    """A filter that somebody else stops."""

    def __init__(self, owner: Any) -> None:
        self._owner = owner

    def stop(self) -> None:
        """Leaves it as it is."""

    def __getattr__(self, name: str) -> Any:
        return getattr(self._owner, name)


def _started(
    filter: AnyFilter, options: Mapping[str, Any], stack: Optional[contextlib.ExitStack] = None
) -> Client:
    """A client; *stack*: what is to be undone after its filter was stopped."""
    try:
        client = Client(filter, **options)
    except BaseException:
        filter.stop()
        raise
    if stack is not None:
        client._stack = stack.pop_all()
    return client


def _directory(scratch: Union[str, os.PathLike[str], None], stack: contextlib.ExitStack) -> str:
    """The directory that was given, or a temporary one if its path is too long for a socket."""
    if scratch is not None:
        with contextlib.suppress(ValueError):
            return os.path.dirname(socket_path(os.fspath(scratch), "filter.sock"))
    directory = tempfile.mkdtemp(prefix="milter-")
    stack.callback(shutil.rmtree, directory, ignore_errors=True)
    return directory


class Kit:
    """Starts filters and stops them all at the end: what the pytest fixture ``milter`` is.

    A context manager. Called, it is :func:`direct`; its methods are the functions of this module.

    Args:
        directory: where files with messages are looked for first.
        scratch: a directory for sockets and logs; where its path is too long for a socket, or None,
            a temporary one.
        options: of all clients; see :class:`Client`.
    """

    def __init__(
        self,
        directory: Union[str, os.PathLike[str]] = "",
        scratch: Union[str, os.PathLike[str], None] = None,
        **options: Any,
    ) -> None:
        """Starts nothing yet."""
        self.clients: list[Client] = []
        self._scratch = None if scratch is None else os.fspath(scratch)
        self._options = {"directory": directory, **options}
        self._count = 0

    def __enter__(self) -> Kit:
        """Returns the kit."""
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """Stops all filters."""
        with contextlib.ExitStack() as stack:
            for client in self.clients:
                stack.push(client.__exit__)

    def _keep(self, make: Callable[..., Client], *args: Any, **options: Any) -> Client:
        client = make(*args, **{**self._options, **options})
        self.clients.append(client)
        return client

    def __call__(self, factory: Optional[Factory] = None, **options: Any) -> Client:
        """Runs a filter without a socket; see :func:`direct`."""
        return self._keep(direct, factory, **options)

    def thread(
        self, factory: Optional[Factory] = None, spec: Optional[str] = None, **options: Any
    ) -> Client:
        """Runs a filter in a thread, on a socket; see :func:`thread`."""
        return self._keep(thread, factory, spec, scratch=self._place(), **options)

    def command(
        self,
        args: Sequence[Union[str, os.PathLike[str]]],
        spec: Optional[str] = None,
        **options: Any,
    ) -> Client:
        """Starts a program that is a filter; see :func:`command`."""
        return self._keep(command, args, spec, scratch=self._place(), **options)

    def at(self, spec: str, **options: Any) -> Client:
        """Returns a client for a filter that runs already; see :func:`at`."""
        return self._keep(at, spec, **options)

    def chain(self, *clients: Client, **options: Any) -> Client:
        """Returns a client for several filters in a row; see :func:`chain`."""
        return self._keep(chain, *clients, **options)

    def _place(self) -> Optional[str]:
        """A directory of its own for one filter."""
        if self._scratch is None:
            return None
        self._count += 1
        place = os.path.join(self._scratch, f"milter{self._count}")
        os.mkdir(place)
        return place

    @property
    def story(self) -> str:
        """All that happened, of all clients that did something; see :attr:`Client.story`."""
        stories: Iterable[str] = (client.story for client in self.clients)
        return "\n\n".join(story for story in stories if story)

    @property
    def output(self) -> str:
        """What programs have printed."""
        return "".join(client.output for client in self.clients)
