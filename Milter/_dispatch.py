"""Events in, callbacks called, verdicts out: one connection from its first event to its last.

Knows the engine's events and the callbacks' signatures; knows nothing of threads or of the
`Milter` classes. What bytes become `str`, and what happens when a callback raises or returns
nonsense, is decided here and nowhere else.
Source: API spec 1.5 to 1.9, wire spec 4.1.
"""

from __future__ import annotations

import contextlib
import logging
import socket
import traceback
from typing import TYPE_CHECKING, Any, Callable

from Milter._constants import (
    ACCEPT,
    ALL_OPTS,
    CONTINUE,
    DISCARD,
    NOREPLY,
    P_SKIP,
    REJECT,
    SKIP,
    TEMPFAIL,
)
from Milter._context import Context, to_text
from Milter._engine import ffi, lib
from Milter._errors import error
from Milter._forks import end_copy
from Milter._reply import reply_text
from Milter._tables import rows

if TYPE_CHECKING:
    from Milter._server import Server

logger = logging.getLogger("Milter")

Callback = Callable[..., Any]

POLICIES = frozenset((CONTINUE, REJECT, ACCEPT, TEMPFAIL))
"""What may be answered in place of a callback that failed."""

_VERDICTS = frozenset((CONTINUE, REJECT, DISCARD, ACCEPT, TEMPFAIL, NOREPLY, SKIP))

NEGOTIATE = lib.MLT_STEP_NEGOTIATE
_CONNECT = lib.MLT_STEP_CONNECT
_HEADER = lib.MLT_STEP_HEADER
_BODY = lib.MLT_STEP_BODY
_ABORT = lib.MLT_STEP_ABORT
_CLOSE = lib.MLT_STEP_CLOSE


_STEPS = tuple(rows(lib.mlt_steps))

CALLBACKS: tuple[str, ...] = tuple(ffi.string(row.callback).decode() for row in _STEPS)
"""Names of the callbacks, by step."""

METHODS: tuple[str, ...] = tuple(ffi.string(row.method).decode() for row in _STEPS)
"""Names of the methods of Milter.Base, by step."""

NO_BITS: tuple[int, ...] = tuple(int(row.no_bit) for row in _STEPS)
"""Protocol bit that switches a step off, by step."""

NR_BITS: tuple[int, ...] = tuple(int(row.nr_bit) for row in _STEPS)
"""Protocol bit that switches the answer to a step off, by step."""

_ALL_NR_BITS = int(lib.mlt_protocol_nr_bits())

_STATES: tuple[int, ...] = tuple(int(row.state) for row in _STEPS)


# How each step's callback is called.

Invoke = Callable[[Callback, Context, bytes], Any]
"""Calls a callback with its connection's context and an event's text."""


def _call_plain(callback: Callback, context: Context, text: bytes) -> Any:
    return callback(context)


def _call_text(callback: Callback, context: Context, text: bytes) -> Any:
    return callback(context, text.decode("utf-8", "surrogateescape"))


def _call_words(callback: Callback, context: Context, text: bytes) -> Any:
    return callback(context, *text.split(b"\0"))


def _call_header(callback: Callback, context: Context, text: bytes) -> Any:
    name, _, value = text.partition(b"\0")
    return callback(context, name.decode("utf-8", "surrogateescape"), value)


def _call_chunk(callback: Callback, context: Context, text: bytes) -> Any:
    return callback(context, text)


def _call_client(callback: Callback, context: Context, text: bytes) -> Any:
    """Host name, family and address, the last two as the socket module has them (API spec 1.6)."""
    view = context._view
    host = to_text(text)
    family = chr(view.family)
    address = ffi.string(view.address)
    if family == "4":
        client = (address.decode("ascii"), view.port)
        return callback(context, host, int(socket.AF_INET), client)
    if family == "6":
        return callback(
            context, host, int(socket.AF_INET6), (address.decode("ascii"), view.port, 0, 0)
        )
    if family == "L":
        return callback(context, host, int(socket.AF_UNIX), to_text(address))
    return callback(context, host, 0, None)


def _call_negotiate(callback: Callback, context: Context, text: bytes) -> Any:
    """Takes over what the callback made of the offer."""
    view = context._view
    options = [view.offered_actions, view.offered_protocol, 0, 0]
    status = callback(context, options)
    if not isinstance(status, int):
        raise error("The negotiate callback must return int")
    verdict = int(status)
    if verdict == CONTINUE:
        if len(options) < 2:
            raise error("The negotiate callback must leave actions and protocol in the list")
        view.actions = options[0] & 0xFFFFFFFFFFFFFFFF
        view.protocol = options[1] & 0xFFFFFFFFFFFFFFFF
    # The engine refuses, and names, every other; REJECT stands for those beyond its int.
    return verdict if -(2**31) <= verdict < 2**31 else REJECT


_INVOKE_BY_STEP: dict[int, Invoke] = {
    lib.MLT_STEP_NEGOTIATE: _call_negotiate,
    lib.MLT_STEP_CONNECT: _call_client,
    lib.MLT_STEP_HELO: _call_text,
    lib.MLT_STEP_MAIL: _call_words,
    lib.MLT_STEP_RCPT: _call_words,
    lib.MLT_STEP_DATA: _call_plain,
    lib.MLT_STEP_HEADER: _call_header,
    lib.MLT_STEP_EOH: _call_plain,
    lib.MLT_STEP_BODY: _call_chunk,
    lib.MLT_STEP_EOM: _call_plain,
    lib.MLT_STEP_ABORT: _call_plain,
    lib.MLT_STEP_CLOSE: _call_plain,
    lib.MLT_STEP_UNKNOWN: _call_text,
}
INVOKERS: tuple[Invoke, ...] = tuple(_INVOKE_BY_STEP[step] for step in range(len(CALLBACKS)))
"""How a callback is called, by step."""

_short_cuts: dict[Callback, Invoke] = {}


def short_cut(callback: Callback) -> Callable[[Invoke], Invoke]:
    """Decorator: what does the same as that callback, with fewer calls in between."""

    def register(invoke: Invoke) -> Invoke:
        _short_cuts[callback] = invoke
        return invoke

    return register


TakesHeaders = Callable[[Context], Any]
"""Returns the object of a connection whose method `header` takes decoded text, None for none."""

_takes_headers: dict[Callback, TakesHeaders] = {}


def short_cut_headers(callback: Callback) -> Callable[[TakesHeaders], TakesHeaders]:
    """Decorator: tells for which objects that header callback does no more than call `header`."""

    def register(takes: TakesHeaders) -> TakesHeaders:
        _takes_headers[callback] = takes
        return takes

    return register


def _takes_none(context: Context) -> Any:
    return None


def header_taker(callback: Callback | None) -> TakesHeaders:
    """Returns what tells whether runs of headers may go round this callback."""
    found = None
    with contextlib.suppress(TypeError):
        found = _takes_headers.get(callback) if callback is not None else None
    return found or _takes_none


def invoker(step: int, callback: Callback | None) -> Invoke:
    """Returns how the callback of a step is to be called."""
    found = None
    with contextlib.suppress(TypeError):  # a callable need not be hashable
        found = _short_cuts.get(callback) if callback is not None else None
    return found or INVOKERS[step]


unpack = ffi.unpack
_TEXT = lib.MLT_TEXT


def log(level: int, text: str, *values: object, **options: Any) -> None:
    """Writes to the log. A log that is broken (a daemon's closed stderr) costs no connection."""
    with contextlib.suppress(Exception):
        logger.log(level, text, *values, **options)


Answer = tuple[int, int, Any, int, bytes, int]
"""What the engine's `next` functions take: events done, verdict, reply text, packets to send."""


class Dispatcher:
    """Runs callbacks in one thread: of one connection after the other, or of many in turn.

    Args:
        server: whose callbacks, policy and name these are.
        contexts: the contexts of open connections by their id. In the pool all threads share it:
            a connection's entry is only touched by the thread that works for it.
    """

    def __init__(self, server: Server, contexts: dict[int, Context]) -> None:
        self._server = server
        self._contexts = contexts
        self._connection: Any = None
        self._view: Any = None
        self._events: list[Any] = []
        self._text: Any = b""

    def run(self, connection: Any) -> None:
        """Serves the connection that the engine has accepted, to its end.

        Args:
            connection: the engine's connection object; it is used again and again.
        """
        view = lib.mlt_connection_view(connection)
        self._take(connection, view, view.events, view.text)
        proceed = lib.mlt_connection_proceed
        handle = self._handle
        number = view.id
        answer: Answer | None = None
        while True:
            if answer is None:
                count = proceed(connection)
            else:
                count = lib.mlt_connection_next(connection, *answer)
            view.entering = 0
            if count <= 0:
                break
            answer = handle(number, count)
        self._end(number)

    def run_pool(self, worker: Any, work: Any, start: Callable[[], None]) -> int:
        """Serves whichever connection has events, until there is something else to do.

        Args:
            worker: the engine's worker object.
            work: its face.
            start: called when one more thread is wanted.

        Returns:
            MLT_STOPPED, or MLT_NOTICE, after which it may be called again.
        """
        self._take(None, None, work.events, work.text)
        proceed = lib.mlt_worker_proceed
        handle = self._handle
        answer: Answer | None = None
        while True:
            if answer is None:
                count = proceed(worker)
            else:
                count = lib.mlt_worker_next(worker, *answer)
            number = work.id
            if count > 0:
                if work.start:
                    start()
                self._connection = work.connection
                self._view = work.view
                answer = handle(number, count)
                continue
            answer = None
            status = work.status
            if status != lib.MLT_END:
                return int(status)
            self._view = work.view
            self._end(number)

    def _take(self, connection: Any, view: Any, events: Any, text: Any) -> None:
        self._connection = connection
        self._view = view
        if not self._events:
            self._events = [events[i] for i in range(lib.MLT_EVENTS)]
            self._text = ffi.buffer(text, _TEXT)

    def _handle(self, number: int, count: int) -> Answer | None:
        """Calls the callbacks of a batch.

        Args:
            number: the connection's id.
            count: how many events the batch has.

        Returns:
            How the last of them, as far as they were handled, is answered. None where all are
            answered CONTINUE and there is nothing to send.
        """
        server = self._server
        callbacks = server.callbacks
        invokers = server.invokers
        events = self._events
        first_text = self._text
        context = self._contexts.get(number)
        done = 0
        while done < count:
            event = events[done]
            done += 1
            step = event.step
            callback = callbacks[step]
            if server.debug > 0:
                self._trace(step)
            elif step == _HEADER and done < count and context is not None:
                filter = server.takes_headers(context)
                if filter is not None and event.len < _TEXT:
                    done, answer = self._handle_headers(context, filter, done - 1)
                    if answer is not None:
                        return answer
                    continue
            if context is None and callback is not None and (step != _CLOSE or server.always_close):
                context = Context._create(self._connection, self._view)
                self._contexts[number] = context
            if context is None or callback is None:
                if step == NEGOTIATE:
                    return (done, ALL_OPTS, ffi.NULL, 0, b"", 0)
            else:
                size = event.len
                if done == 1 and size <= _TEXT:
                    text = first_text[:size]
                else:
                    text = unpack(event.data, size) if size else b""
                context._step = step
                try:
                    verdict = invokers[step](callback, context, text)
                    if server.copied:
                        end_copy(None)
                    if verdict is not CONTINUE and verdict is not NOREPLY:
                        verdict = self._check_status(verdict, step)
                except BaseException as problem:
                    # SystemExit and KeyboardInterrupt too: a callback does not end the process.
                    verdict = self._failed(problem, context, step)
                context._step = -1
                if context._guests:
                    context._wait_for_guests()
                if (
                    context._out
                    or step == NEGOTIATE
                    or (
                        (verdict is not CONTINUE or context._silent)
                        and not (verdict is NOREPLY and event.owed)
                    )
                ):
                    answer = self._answer(context, event, done, verdict)
                    if answer is not None:
                        return answer
            if step == _CLOSE:
                context = None
                self._close(number)
        return None

    def _handle_headers(
        self, context: Context, filter: Any, first: int
    ) -> tuple[int, Answer | None]:
        """Calls `header` for a run of headers, whose text is copied and decoded in one go.

        Args:
            context: the connection's.
            filter: the object whose method `header` takes them as `str`.
            first: the first of the events.

        Returns:
            How many events of the batch are done, and what _handle() returns.
        """
        size = lib.mlt_connection_headers(self._connection, first)
        words = iter(self._text[:size].decode("utf-8", "surrogateescape").split("\0"))
        done = first
        context._step = _HEADER
        answer = None
        for name, value in zip(words, words):
            done += 1
            try:
                verdict = filter.header(name, value)
                if self._server.copied:
                    end_copy(None)
                if verdict is NOREPLY:
                    continue
                verdict = self._check_status(verdict, _HEADER)
            except BaseException as problem:
                verdict = self._failed(problem, context, _HEADER)
            answer = self._answer(context, self._events[done - 1], done, verdict)
            if answer is not None:
                break
        context._step = -1
        if context._guests:
            context._wait_for_guests()
        return done, answer

    def _answer(self, context: Context, event: Any, done: int, verdict: int) -> Answer | None:
        """Returns how an event is answered; None where the engine needs not be told."""
        step = event.step
        if step == NEGOTIATE:
            context._silent = self._view.protocol & _ALL_NR_BITS != 0 and verdict == CONTINUE
            lists = context._macro_lists()
            return (done, verdict, ffi.NULL, 0, lists, len(lists))
        if event.owed:
            if verdict != NOREPLY:
                self._complain_of_answer(context, step, verdict)
        elif verdict in (NOREPLY, SKIP):
            self._complain_of_odd(context, step, verdict)
        out = context._take_out()
        if event.owed == lib.MLT_OWED_NOTHING and verdict in (CONTINUE, NOREPLY, SKIP) and not out:
            return None
        text = None
        if context._reply is not None:
            text = self._matching_reply(context, step, verdict)
        if text is None:
            return (done, verdict, ffi.NULL, 0, out, len(out))
        return (done, verdict, text, len(text), out, len(out))

    def _trace(self, step: int) -> None:
        log(
            logging.DEBUG,
            "%s: connection %d: %s",
            self._server.name,
            self._view.id,
            CALLBACKS[step],
        )

    def _close(self, number: int) -> None:
        """A session is over. One more over the same connection gets a context of its own.

        Before the engine gives the socket up, so that whoever waits for the end of all connections
        finds it told.
        """
        self.drop(number)
        self._report_end()

    def drop(self, number: int) -> None:
        """Forgets a connection's context, which is of no use to anybody from now on."""
        context = self._contexts.pop(number, None)
        if context is not None:
            context._detach()

    def _end(self, number: int) -> None:
        """The connection is over."""
        self._close(number)
        if self._server.worker is not None:
            self._server.worker.served(number)

    @staticmethod
    def _check_status(status: Any, step: int) -> int:
        """Returns a verdict for what is not plainly one; raises where it is none."""
        if not isinstance(status, int):
            raise error(f"The {CALLBACKS[step]} callback must return int")
        if step == NEGOTIATE:
            return int(status)
        verdict = int(status) & 0xFFFFFFFF
        if verdict in _VERDICTS:
            return verdict
        if step in (_ABORT, _CLOSE):
            return CONTINUE
        raise error(f"The {CALLBACKS[step]} callback returned {status!r}, which is no verdict")

    def _failed(self, problem: BaseException, context: Context, step: int) -> int:
        """Logs what a callback raised and returns what the exception policy says."""
        server = self._server
        if server.copied:
            end_copy(problem)
        # As pymilter does, on standard error; and in the log, for those who read that.
        if server.print_tracebacks:
            with contextlib.suppress(Exception):
                traceback.print_exception(type(problem), problem, problem.__traceback__)
        log(
            logging.ERROR,
            "%s: connection %d: the %s callback failed: %r",
            server.name,
            self._view.id,
            CALLBACKS[step],
            problem,
            exc_info=problem if logger.hasHandlers() else None,
        )
        if step == NEGOTIATE:
            # Any verdict that is not CONTINUE or ALL_OPTS refuses the connection.
            return REJECT
        policy = server.exception_policy
        if policy in (TEMPFAIL, REJECT) and step not in (_ABORT, _CLOSE):
            code, enhanced = (b"451", b"4.3.0") if policy == TEMPFAIL else (b"554", b"5.3.0")
            name = server.name[:40].encode("utf-8", "surrogateescape")
            line = b"pymilter: untrapped exception in " + name.translate(None, b"\r\n\0")
            context._reply = reply_text(code, enhanced, [line])
        return policy

    def _matching_reply(self, context: Context, step: int, verdict: int) -> bytes | None:
        """Takes the reply that setreply() left, if this verdict is sent with it."""
        text = context._reply
        if text is None or step in (_ABORT, _CLOSE, NEGOTIATE):
            return None
        if verdict == REJECT:
            wanted = b"5"
        elif verdict == TEMPFAIL:
            wanted = b"4"
        else:
            return None
        if text[:1] != wanted:
            log(
                logging.WARNING,
                "%s: connection %d: the %s callback set the reply %r, which does not fit its "
                "verdict; the MTA's own text is used",
                self._server.name,
                self._view.id,
                CALLBACKS[step],
                to_text(text[:3]),
            )
            return None
        context._reply = None
        return text

    def _complain_of_answer(self, context: Context, step: int, verdict: int) -> None:
        """Says, once for a step, that a verdict was given where none is sent."""
        if step in (_ABORT, _CLOSE) or context._has_complained(step):
            return
        log(
            logging.WARNING,
            "%s: connection %d: milter claimed not to reply in state %d but did anyway %d "
            "(%s callback)",
            self._server.name,
            self._view.id,
            _STATES[step],
            verdict,
            CALLBACKS[step],
        )

    def _complain_of_odd(self, context: Context, step: int, verdict: int) -> None:
        """Says, once for a step, that NOREPLY or SKIP came where the MTA does not expect it."""
        protocol = self._view.protocol
        if step in (_ABORT, _CLOSE):
            return
        if verdict == NOREPLY:
            # The data of an end of message comes as a body event, which is part of the other.
            if NR_BITS[step] & protocol:
                return
            what = "returned NOREPLY, which was not negotiated; CONTINUE is sent"
        elif step == _BODY and protocol & P_SKIP:
            return
        else:
            what = "returned SKIP, which the MTA does not expect there; CONTINUE is sent"
        if context._has_complained(step):
            return
        log(
            logging.WARNING,
            "%s: connection %d: the %s callback %s",
            self._server.name,
            self._view.id,
            CALLBACKS[step],
            what,
        )

    def _report_end(self) -> None:
        """Logs, in one line, why a connection has ended that did not end in order."""
        view = self._view
        status = view.status
        if status == lib.MLT_OK or view.reported:
            return
        view.reported = True
        level = logging.WARNING
        if status in (lib.MLT_END, lib.MLT_STOPPED):
            level = logging.INFO
        elif status == lib.MLT_ERR_CALLER:
            level = logging.ERROR
        address = to_text(ffi.string(view.address)) or "unknown client"
        log(
            level,
            "%s: connection %d (%s) ended: %s",
            self._server.name,
            view.id,
            address,
            to_text(ffi.string(view.error)),
        )
