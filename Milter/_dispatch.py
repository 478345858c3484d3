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


# What a callback gets besides the context, by step. The bytes are copied here, once.


def _nothing(event: Any, view: Any) -> tuple[Any, ...]:
    return ()


def _text(event: Any, view: Any) -> tuple[Any, ...]:
    return (to_text(ffi.unpack(event.data, event.len)),)


def _words(event: Any, view: Any) -> list[bytes]:
    words: list[bytes] = ffi.unpack(event.data, event.len).split(b"\0")
    return words


def _header(event: Any, view: Any) -> tuple[Any, ...]:
    name, _, value = ffi.unpack(event.data, event.len).partition(b"\0")
    return (to_text(name), value)


def _chunk(event: Any, view: Any) -> tuple[Any, ...]:
    return (ffi.unpack(event.data, event.len),)


def _client(event: Any, view: Any) -> tuple[Any, ...]:
    """Host name, family and address, the last two as the socket module has them (API spec 1.6)."""
    host = to_text(ffi.unpack(event.data, event.len))
    family = chr(view.family)
    address = ffi.string(view.address)
    if family == "4":
        return (host, int(socket.AF_INET), (address.decode("ascii"), view.port))
    if family == "6":
        return (host, int(socket.AF_INET6), (address.decode("ascii"), view.port, 0, 0))
    if family == "L":
        return (host, int(socket.AF_UNIX), to_text(address))
    return (host, 0, None)


def _options(event: Any, view: Any) -> tuple[Any, ...]:
    return ([view.offered_actions, view.offered_protocol, 0, 0],)


_ARGUMENTS: dict[int, Callable[[Any, Any], Any]] = {
    lib.MLT_STEP_NEGOTIATE: _options,
    lib.MLT_STEP_CONNECT: _client,
    lib.MLT_STEP_HELO: _text,
    lib.MLT_STEP_MAIL: _words,
    lib.MLT_STEP_RCPT: _words,
    lib.MLT_STEP_DATA: _nothing,
    lib.MLT_STEP_HEADER: _header,
    lib.MLT_STEP_EOH: _nothing,
    lib.MLT_STEP_BODY: _chunk,
    lib.MLT_STEP_EOM: _nothing,
    lib.MLT_STEP_ABORT: _nothing,
    lib.MLT_STEP_CLOSE: _nothing,
    lib.MLT_STEP_UNKNOWN: _text,
}
_DECODERS = tuple(_ARGUMENTS[step] for step in range(len(CALLBACKS)))


def log(level: int, text: str, *values: object, **options: Any) -> None:
    """Writes to the log. A log that is broken (a daemon's closed stderr) costs no connection."""
    with contextlib.suppress(Exception):
        logger.log(level, text, *values, **options)


class Dispatcher:
    """Runs the callbacks of one connection after the other, in one thread.

    Args:
        server: whose callbacks, policy and name these are.
        connection: the engine's connection object; it is used again and again.
    """

    def __init__(self, server: Server, connection: Any) -> None:
        self._server = server
        self._connection = connection
        self._view = lib.mlt_connection_view(connection)
        self._events = [self._view.events[i] for i in range(lib.MLT_EVENTS)]
        self._context: Context | None = None
        self._complained: set[int] = set()
        self._reported = False

    def run(self) -> None:
        """Serves the connection that the engine has accepted, to its end."""
        server = self._server
        connection = self._connection
        view = self._view
        events = self._events
        callbacks = server.callbacks
        next_batch = lib.mlt_connection_next
        self._context = None
        self._complained.clear()
        self._reported = False
        unanswered = 0  # NR bits in force, whether or not the MTA knows of them
        negotiating = True
        done = 0
        verdict = CONTINUE
        reply: Any = ffi.NULL
        reply_len = 0
        out = b""
        while True:
            count = next_batch(connection, done, verdict, reply, reply_len, out, len(out))
            if count <= 0:
                break
            if negotiating:
                negotiating = False
                unanswered = view.protocol & _ALL_NR_BITS
            done = 0
            reply = ffi.NULL
            reply_len = 0
            out = b""
            while True:
                event = events[done]
                step = event.step
                done += 1
                callback = callbacks[step]
                if server.debug > 0:
                    log(
                        logging.DEBUG,
                        "%s: connection %d: %s",
                        server.name,
                        view.id,
                        CALLBACKS[step],
                    )
                if callback is None or (
                    step == _CLOSE and self._context is None and not server.always_close
                ):
                    verdict = ALL_OPTS if step == NEGOTIATE else CONTINUE
                else:
                    context = self._context
                    if context is None:
                        context = self._context = Context._create(connection, view)
                    verdict = self._call(callback, context, event, step)
                    if context._out or step == NEGOTIATE:
                        out = context._macro_lists() if step == NEGOTIATE else context._take_out()
                    if context._reply is not None:
                        text = self._matching_reply(context, step, verdict)
                        if text is not None:
                            reply = text
                            reply_len = len(text)
                if NR_BITS[step] & unanswered:
                    if verdict != NOREPLY:
                        self._complain_of_answer(step, verdict)
                    if done < count and verdict in (CONTINUE, NOREPLY, SKIP):
                        continue
                elif verdict in (NOREPLY, SKIP):
                    self._complain_of_odd(step, verdict)
                break
            if step == NEGOTIATE:
                negotiating = True
            elif step == _CLOSE:
                # Before the engine gives the socket up, so that whoever waits for the end of all
                # connections finds it told.
                self._close_context()
                self._report_end()
        self._close_context()
        self._report_end()

    def _close_context(self) -> None:
        """The session is over; one more over the same connection gets a context of its own."""
        if self._context is not None:
            self._context._detach()
            self._context = None

    def _call(self, callback: Callback, context: Context, event: Any, step: int) -> int:
        """Calls one callback and returns a verdict that the engine knows."""
        context._step = step
        try:
            if step == NEGOTIATE:
                return self._negotiate(callback, context, event)
            status = callback(context, *_DECODERS[step](event, self._view))
            if type(status) is int and status in _VERDICTS:
                return status
            return self._check_status(status, step)
        except BaseException as problem:
            # SystemExit and KeyboardInterrupt too: a callback does not end the process.
            return self._failed(problem, context, step)
        finally:
            with context._lock:
                context._step = -1

    def _negotiate(self, callback: Callback, context: Context, event: Any) -> int:
        """Calls the negotiate callback and takes over what it made of the offer."""
        view = self._view
        options = _options(event, view)[0]
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

    @staticmethod
    def _check_status(status: Any, step: int) -> int:
        """Returns a verdict for what is not plainly one; raises where it is none."""
        if not isinstance(status, int):
            raise error(f"The {CALLBACKS[step]} callback must return int")
        verdict = int(status) & 0xFFFFFFFF
        if verdict in _VERDICTS:
            return verdict
        if step in (_ABORT, _CLOSE):
            return CONTINUE
        raise error(f"The {CALLBACKS[step]} callback returned {status!r}, which is no verdict")

    def _failed(self, problem: BaseException, context: Context, step: int) -> int:
        """Logs what a callback raised and returns what the exception policy says."""
        server = self._server
        # As pymilter does, on standard error; and in the log, for those who read that.
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

    def _complain_of_answer(self, step: int, verdict: int) -> None:
        """Says, once for a step, that a verdict was given where none is sent."""
        if step in self._complained:
            return
        self._complained.add(step)
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

    def _complain_of_odd(self, step: int, verdict: int) -> None:
        """Says, once for a step, that NOREPLY or SKIP came where the MTA does not expect it."""
        if step in self._complained or step in (NEGOTIATE, _ABORT, _CLOSE):
            return
        if verdict == NOREPLY:
            what = "returned NOREPLY, which was not negotiated; CONTINUE is sent"
        elif step == _BODY and self._view.protocol & P_SKIP:
            return
        else:
            what = "returned SKIP, which the MTA does not expect there; CONTINUE is sent"
        self._complained.add(step)
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
        if status == lib.MLT_OK or self._reported:
            return
        self._reported = True
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
