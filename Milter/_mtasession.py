"""The connection of an MTA to one filter, with a blocking socket.

Owns the waiting; what is waited for is Milter._mtasessionbase's affair. The public names are in
Milter.mta.
"""

from __future__ import annotations

import os
import socket
import time
from collections.abc import Generator, Sequence
from types import TracebackType
from typing import Callable, Optional, TypeVar, Union

from Milter._conversation import Macros, Outgoing, Protocol
from Milter._dialogue import Answer, RejectedRecipient, Result, SmtpClient, Step
from Milter._message import Message, Text
from Milter._mtacodec import DEFAULT_ACTIONS, DEFAULT_PROTOCOL, MilterError, Options, Verdict
from Milter._mtasessionbase import LOCALHOST, RECEIVE, SessionBase, Wait
from Milter._mtasocket import open_socket
from Milter._profiles import Timeouts

A = TypeVar("A")
T = TypeVar("T")
Q = TypeVar("Q", bound="Quitting")
W = TypeVar("W")


def drive(script: Generator[W, Optional[A], T], do: Callable[[W], Optional[A]]) -> T:
    """Does what a script yields, one thing after the other, and returns its result.

    Args:
        script: is sent what *do* returns, and thrown the MilterErrors that it raises.
        do: one of the things.
    """
    answer: Optional[A] = None
    error: Optional[MilterError] = None
    try:
        while True:
            try:
                wanted = script.send(answer) if error is None else script.throw(error)
            except StopIteration as end:
                result: T = end.value
                return result
            answer = error = None
            try:
                answer = do(wanted)
            except MilterError as failure:
                error = failure
    finally:
        script.close()


class Quitting:
    """A context manager that says QUIT at the end of its block, and after an exception closes."""

    def __enter__(self: Q) -> Q:
        """Returns this."""
        return self

    def __exit__(
        self,
        kind: Optional[type[BaseException]],
        error: Optional[BaseException],
        traceback: Optional[TracebackType],
    ) -> None:
        """Says QUIT if that can be, unless an exception is on its way; and closes."""
        try:
            if kind is None and self._may_quit():
                self.quit()
        finally:
            self.close()

    def _may_quit(self) -> bool:
        """Whether QUIT can be said."""
        return True

    def quit(self) -> None:
        """Ends it."""
        raise NotImplementedError

    def close(self) -> None:
        """Closes it without a word; more than once."""
        raise NotImplementedError


def connect(
    spec: Union[str, os.PathLike[str]],
    *,
    timeouts: Timeouts = Timeouts(),
    strict: bool = True,
    progress_anywhere: bool = True,
    receive_limit: int = 64 * 1024 * 1024,
) -> Session:
    """Connects to a filter.

    Args:
        spec: where it listens: ``unix:PATH``, ``local:PATH``, ``PATH``, ``inet:PORT@HOST``,
            ``inet6:PORT@HOST``, without ``@HOST`` for this machine, or as Postfix's configuration
            has it, ``inet:HOST:PORT``. An IPv6 address before ``:PORT`` stands in brackets.
        timeouts: how long to wait for what.
        strict: also what an MTA may put up with is an error; see :class:`Protocol`.
        progress_anywhere: see :class:`Protocol`.
        receive_limit: bytes of one packet from the filter.

    Returns:
        A session in which nothing has been said yet.

    Raises:
        SocketSpecError: ``spec`` is none of these.
        ConnectError: nobody answers there; the reason is in the text.
    """
    sock = open_socket(os.fspath(spec), timeouts.connect)
    return Session(
        sock,
        timeouts=timeouts,
        protocol=Protocol(
            strict=strict, progress_anywhere=progress_anywhere, receive_limit=receive_limit
        ),
    )


# -- talking to it -------------------------------------------------------------------------------


class Session(SessionBase, Quitting):
    """A connection to a filter, as an MTA has one.

    A context manager: at the end of the block the filter is told to QUIT, and the connection is
    closed; after an exception it is only closed.

    Each step waits for the filter's answer, unless the negotiation says that none comes, and
    returns it. All steps raise:

    - StateError: the step may not come now; nothing was sent.
    - ValueError: an argument that cannot be sent; nothing was sent.
    - ProtocolError: the filter broke the protocol.
    - FilterTimeout: it did not answer in time.
    - ConnectionLost: it closed the connection, or that broke.

    After one of the last three the session is over, and only :meth:`close` is left.

    ``macros=`` of a step are sent before it; where the filter has asked for macros of its own
    choice, only those of them that it asked for.

    Args:
        sock: a connected stream socket; it is the session's from now on.
        timeouts: how long to wait for what.
        protocol: the rules; a strict :class:`Protocol` of its own by default.
        on_step: called after each step but the negotiation.
    """

    # -- I/O -------------------------------------------------------------------------------------

    def _do(self, wait: Wait) -> None:
        """Waits."""
        try:
            # Zero would mean not to block at all.
            self._socket.settimeout(max(wait.deadline - time.monotonic(), 0.001))
            if wait.data is not None:
                self._socket.sendall(wait.data)
                return
            data = self._socket.recv(RECEIVE)
        except socket.timeout:
            self._late(wait)
        except OSError as error:
            self._lost(error, wait.step)
        self.protocol.receive(data)

    def exchange(self, writes: Sequence[bytes], outgoing: Outgoing) -> Answer:
        """Writes what a step of :attr:`protocol` puts on the wire, and waits for its answer.

        For those who play the steps themselves. Raises what all steps do.

        Args:
            writes: the step's data and whatever was held back before it, each with a write of its
                own.
            outgoing: the step.

        Returns:
            The answer; to the offer one that says CONTINUE.
        """
        return drive(self._exchanging(writes, outgoing), self._do)

    def _step(self, outgoing: Outgoing) -> Answer:
        """Writes a step and waits for its answer, if one is due."""
        return drive(self._playing(outgoing), self._do)

    # -- steps -----------------------------------------------------------------------------------

    def negotiate(
        self, version: int = 6, actions: int = DEFAULT_ACTIONS, protocol: int = DEFAULT_PROTOCOL
    ) -> Options:
        """Offers what the MTA can do and returns what the filter chose; first, and once.

        Args:
            version: protocol version, 2 to 6.
            actions: SMFIF_ bits: what the filter may do to messages.
            protocol: SMFIP_ bits: what it may leave out or have done differently.
        """
        return drive(self._negotiating(version, actions, protocol), self._do)

    def connect(
        self,
        hostname: Text = "localhost",
        address: Optional[str] = "127.0.0.1",
        port: int = 0,
        macros: Optional[Macros] = None,
    ) -> Verdict:
        """A client has connected; once, after the negotiation or :meth:`quit_nc`.

        Args:
            hostname: the client's name; an MTA writes ``[192.0.2.1]`` where it found none.
            address: an IPv4 or IPv6 address, a path (with a slash) for a unix socket, None if it is
                unknown.
            port: the client's port, 0 if it is unknown.
            macros: see :class:`Session`.
        """
        return self._step(self.protocol.connect(hostname, address, port, macros)).verdict

    def helo(self, name: Text = "localhost", macros: Optional[Macros] = None) -> Verdict:
        """The client said HELO or EHLO; at any time. Inside a message the filter aborts that."""
        return self._step(self.protocol.helo(name, macros)).verdict

    def mail(self, sender: Text, *params: Text, macros: Optional[Macros] = None) -> Verdict:
        """A message begins; at any time. Inside another message the filter aborts that.

        Args:
            sender: as it goes on the wire: an MTA gives it with angle brackets.
            params: ESMTP parameters, such as ``SIZE=1000``.
            macros: see :class:`Session`.
        """
        return self._step(self.protocol.mail(sender, *params, macros=macros)).verdict

    def rcpt(
        self,
        recipient: Text,
        *params: Text,
        macros: Optional[Macros] = None,
        rejected: bool = False,
    ) -> Verdict:
        """A recipient; after :meth:`mail`.

        Args:
            recipient: as it goes on the wire: an MTA gives it with angle brackets.
            params: ESMTP parameters.
            macros: see :class:`Session`.
            rejected: the MTA has rejected it itself: told only to a filter that negotiated to hear
                of these (RCPT_REJ), whose verdict means nothing then.
        """
        return self._step(
            self.protocol.rcpt(recipient, *params, macros=macros, rejected=rejected)
        ).verdict

    def data(self, macros: Optional[Macros] = None) -> Verdict:
        """The client said DATA; after :meth:`rcpt`."""
        return self._step(self.protocol.data(macros)).verdict

    def header(self, name: Text, value: Text, macros: Optional[Macros] = None) -> Verdict:
        """A header of the message; after :meth:`data` or :meth:`rcpt`.

        Args:
            name: without the colon.
            value: all that stands behind the colon. The blank that it begins with is taken off,
                unless the filter negotiated to see it (HDR_LEADSPC). Folded by LF and a blank.
            macros: see :class:`Session`.
        """
        return self._step(self.protocol.header(name, value, macros)).verdict

    def eoh(self, macros: Optional[Macros] = None) -> Verdict:
        """End of the headers."""
        return self._step(self.protocol.eoh(macros)).verdict

    def body(self, data: bytes, macros: Optional[Macros] = None) -> Verdict:
        """The body, or a part of it, in as many pieces as it takes (65535 bytes, as MTAs do).

        Stops after a final verdict or SKIP.

        Args:
            data: lines ended by CR LF. Nothing is sent for an empty one.
            macros: see :class:`Session`.

        Returns:
            The last verdict.
        """
        return drive(self._sending_body(data, macros), self._do)

    def eom(self, macros: Optional[Macros] = None, data: bytes = b"") -> Answer:
        """End of the message.

        Args:
            macros: see :class:`Session`.
            data: a last piece of body, which the protocol allows and no MTA makes use of.

        Returns:
            The verdict and the modifications.
        """
        return self._step(self.protocol.eom(macros, data))

    def unknown(self, command: Text, macros: Optional[Macros] = None) -> Verdict:
        """The client said something that is no SMTP command; at any time, and changes nothing."""
        return self._step(self.protocol.unknown(command, macros)).verdict

    def abort(self) -> None:
        """The message in hand is given up; outside a message it means nothing."""
        self._step(self.protocol.abort())

    def quit_nc(self) -> None:
        """The SMTP session is over, and the next one uses the same connection (version 6)."""
        self._step(self.protocol.quit_nc())

    def quit(self) -> None:
        """Ends the conversation, waits for the filter to close the connection, and closes it.

        That a filter is gone already is no error.

        Raises:
            FilterTimeout: it does not close; ours is closed nevertheless.
        """
        drive(self._ending(), self._do)

    def hang_up(self, writes: Sequence[bytes], wait: bool = True) -> None:
        """Writes the last that is to be said, and closes; for those who play the steps themselves.

        That a filter is gone already is no error.

        Args:
            writes: each with a write of its own.
            wait: QUIT is the last of them, so that the filter closes.

        Raises:
            FilterTimeout: it does not close.
        """
        drive(self._hanging_up(writes, wait), self._do)

    # -- a whole message -------------------------------------------------------------------------

    def send(
        self,
        message: Message,
        *,
        client: SmtpClient = LOCALHOST,
        helo: Optional[str] = None,
        macros: Optional[Macros] = None,
        rejected: Sequence[RejectedRecipient] = (),
        on_step: Optional[Callable[[Step], None]] = None,
    ) -> Result:
        """Plays one message as Postfix would, from where the session is to a final verdict.

        Negotiates if that was not done, and tells of the client unless this session has heard of
        one. Macros are those that Postfix sends, or those that the filter asked for. Addresses get
        the angle brackets that MTAs put around them. A session takes any number of messages, until
        the filter decides about all of it (:attr:`Result.session_over`); then it is closed.

        Unlike Postfix it holds back nothing that is to be written, gives a message up only if the
        filter has it in hand, and says QUIT also after a verdict about the session.

        Args:
            message: with its envelope; it is not changed.
            client: who brings the message, for the first one of a session.
            helo: how the client introduces itself, by default as what it is called, "" for not at
                all. For a later message it says HELO again only if this is given.
            macros: further ones, or other values, by names as they go on the wire (``j``,
                ``{auth_authen}``). One that Postfix has no place for goes with CONNECT and MAIL.
            rejected: recipients that the MTA rejects itself, for filters that want to hear of them.
            on_step: called after each step.

        Returns:
            What became of the message.

        Raises:
            ValueError: a message without recipients, a header without a name, or a NUL where none
                can be sent; nothing was sent.
        """
        return drive(self._sending(message, client, helo, macros, rejected, on_step), self._do)
