"""The connection of an MTA to one filter, but for the waiting.

Owns what is written, what is waited for and how long, and what the answer to a step is made of, for
Milter._mtasession, which blocks, and Milter._mtaasync. The methods that would have to wait are
generators: they yield what is to be waited for, a :class:`Wait` each time, and are thrown the
MilterError in which that ends.
"""

from __future__ import annotations

import math
import socket
import time
from collections.abc import Generator, Sequence
from typing import Callable, Final, NamedTuple, NoReturn, Optional, TypeVar

from Milter._conversation import Event, Macros, Outgoing, Protocol
from Milter._dialogue import Answer, RejectedRecipient, Result, SmtpClient, Step
from Milter._message import Message, Modification
from Milter._mtacodec import (
    DEFAULT_ACTIONS,
    DEFAULT_PROTOCOL,
    NOT_SENT,
    ConnectionLost,
    FilterTimeout,
    Kind,
    MilterError,
    Options,
    Progress,
    Verdict,
    spoken,
)
from Milter._mtasocket import reason
from Milter._profiles import Timeouts
from Milter._smtpsession import Exchange
from Milter._wholemessage import message_to

T = TypeVar("T")

LOCALHOST: Final = SmtpClient()
"""A client on the MTA's own machine."""

RECEIVE: Final = 65536
"""Bytes asked of the operating system at once."""


class Wait(NamedTuple):
    """Until the filter has taken some data, or, without such, says something or closes.

    What it says is for the protocol to receive.
    """

    step: str
    timeout: float
    """Seconds that it may take, for the error to name."""
    deadline: float
    """Until when, by time.monotonic()."""
    data: Optional[bytes] = None


Course = Generator[Wait, None, T]
"""Yields what is to be waited for, returns a T."""


class SessionBase:
    """What Session and AsyncSession share.

    Args:
        sock: a connected stream socket; it is the session's from now on.
        timeouts: how long to wait for what.
        protocol: the rules; a strict :class:`Protocol` of its own by default.
        on_step: called after each step but the negotiation.
    """

    def __init__(
        self,
        sock: socket.socket,
        *,
        timeouts: Timeouts = Timeouts(),
        protocol: Optional[Protocol] = None,
        on_step: Optional[Callable[[Step], None]] = None,
    ) -> None:
        """Takes over a connected socket."""
        self.timeouts = timeouts
        self.protocol = Protocol() if protocol is None else protocol
        """The rules, and the state of the conversation."""
        sock.settimeout(0)  # whoever blocks sets a time for each wait
        self._socket = sock
        self._on_step = on_step
        self._messages = 0

    @property
    def options(self) -> Optional[Options]:
        """What was negotiated; None before."""
        return self.protocol.options

    def close(self) -> None:
        """Closes the connection, without a word to the filter; at any time, more than once."""
        self._socket.close()

    # -- what goes wrong -------------------------------------------------------------------------

    def _fail(self, error: MilterError, cause: Optional[OSError] = None) -> NoReturn:
        """The session is over, and this is why."""
        self.protocol.fail(error)
        self.close()
        raise error from cause

    def _lost(self, error: OSError, step: str) -> NoReturn:
        self._fail(
            ConnectionLost(f"the connection broke at {spoken(step)}: {reason(error)}"), error
        )

    def _late(self, wait: Wait) -> NoReturn:
        what = "no answer to" if wait.data is None else "the filter did not take"
        self._fail(FilterTimeout(f"{what} {spoken(wait.step)} within {wait.timeout:g} s"))

    # -- a step ----------------------------------------------------------------------------------

    def _look(self, step: str) -> None:
        """Takes what is there before we have said anything: it cannot be an answer."""
        try:
            self._socket.settimeout(0)
            data = self._socket.recv(RECEIVE)
        except (BlockingIOError, InterruptedError):
            return
        except OSError as error:
            self._lost(error, step)
        self.protocol.receive(data, early=True)

    def _write(self, step: str, data: bytes) -> Wait:
        timeout = self.timeouts.reply
        return Wait(step, timeout, time.monotonic() + timeout, data)

    def _awaiting_event(self, step: str, end: float = math.inf) -> Course[Event]:
        """Waits for what the filter says next, at the longest until *end*."""
        timeout = self.timeouts.of(step)
        deadline = time.monotonic() + timeout
        if end < deadline:
            timeout, deadline = self.timeouts.total_of(step), end
        while True:
            event = self.protocol.next_event()
            if event is not None:
                return event
            yield Wait(step, timeout, deadline)

    def _awaiting_answer(self, outgoing: Outgoing) -> Course[Answer]:
        """Waits for a step's answer, if one is due."""
        if outgoing.verdict is not None:
            return Answer(outgoing.verdict)
        changes: list[Modification] = []
        progress = 0
        total = self.timeouts.total_of(outgoing.step)
        end = time.monotonic() + total
        while True:
            event = yield from self._awaiting_event(outgoing.step, end)
            if isinstance(event, Verdict):
                return Answer(event, tuple(changes), progress)
            if isinstance(event, Options):
                return Answer(Verdict(Kind.CONTINUE))
            if isinstance(event, Progress):
                progress += 1
            else:
                changes.append(event)
            if time.monotonic() >= end:
                # Or one that goes on and on would never be waited for.
                self._late(Wait(outgoing.step, total, end))

    def _exchanging(self, writes: Sequence[bytes], outgoing: Outgoing) -> Course[Answer]:
        """See :meth:`Milter.mta.Session.exchange`."""
        if writes:
            self._look(outgoing.step)
        for data in writes:
            yield self._write(outgoing.step, data)
        offered = self.protocol.options is None
        answer = yield from self._awaiting_answer(outgoing)
        if self._on_step is not None and not offered:
            self._on_step(Step(outgoing.step, "", answer))
        return answer

    def _playing(self, outgoing: Outgoing) -> Course[Answer]:
        """Writes a step and waits for its answer, if one is due."""
        return self._exchanging((outgoing.data,) if outgoing.data else (), outgoing)

    # -- what takes more than a step -------------------------------------------------------------

    def _negotiating(
        self, version: int = 6, actions: int = DEFAULT_ACTIONS, protocol: int = DEFAULT_PROTOCOL
    ) -> Course[Options]:
        """See :meth:`Milter.mta.Session.negotiate`."""
        yield from self._playing(self.protocol.negotiate(version, actions, protocol))
        assert self.protocol.options is not None, "nothing else is an answer to an offer"
        return self.protocol.options

    def _sending_body(self, data: bytes, macros: Optional[Macros]) -> Course[Verdict]:
        """See :meth:`Milter.mta.Session.body`."""
        size = 65535 if self.options is None else self.options.max_data
        verdict = NOT_SENT
        for at in range(0, len(data), size):
            piece = self.protocol.body(data[at : at + size], macros)
            verdict = (yield from self._playing(piece)).verdict
            if verdict.final or verdict.kind in (Kind.SKIP, Kind.NOT_SENT):
                break
        return verdict

    def _sending(
        self,
        message: Message,
        client: SmtpClient,
        helo: Optional[str],
        macros: Optional[Macros],
        rejected: Sequence[RejectedRecipient],
        on_step: Optional[Callable[[Step], None]],
    ) -> Course[Result]:
        """See :meth:`Milter.mta.Session.send`."""
        if self.options is None:
            yield from self._negotiating()
        self._messages += 1
        script = message_to(
            self.protocol,
            message,
            client=client,
            helo=helo,
            macros=macros,
            rejected=rejected,
            number=self._messages,
            on_step=on_step,
        )
        answer: Optional[Answer] = None
        while True:
            try:
                operation = script.send(answer)
            except StopIteration as end:
                result: Result = end.value
                break
            assert isinstance(operation, Exchange), "the connection is ours"
            answer = yield from self._exchanging(operation.writes, operation.outgoing)
        if result.session_over:
            yield from self._ending()
        return result

    def _hanging_up(self, writes: Sequence[bytes], wait: bool = True) -> Course[None]:
        """Writes the last that is to be said; see :meth:`Milter.mta.Session.hang_up`."""
        timeout = self.timeouts.reply
        deadline = time.monotonic() + timeout
        try:
            for data in writes:
                yield self._write("quit", data)
            while wait and not self.protocol.closed:
                yield Wait("quit", timeout, deadline)
                self.protocol.next_event()
        except ConnectionLost:
            pass
        except FilterTimeout:
            raise FilterTimeout(f"the filter did not close within {timeout:g} s of QUIT") from None
        finally:
            self.close()

    def _ending(self) -> Course[None]:
        """See :meth:`Milter.mta.Session.quit`."""
        return self._hanging_up((self.protocol.quit().data,))

    def _may_quit(self) -> bool:
        """Whether QUIT can be said."""
        protocol = self.protocol
        return protocol.options is not None and protocol.waiting_for is None and not protocol.over
